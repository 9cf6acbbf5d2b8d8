"""Smooth all labels of a mask together, so that no gap opens between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of
from maskloop.core.mask import present_ids
from maskloop.ops import regions

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_CHUNK = 1 << 24  # voxels smoothed at a time
_CUT = 4.0  # standard deviations at which SciPy cuts a Gaussian


def joint(
    ids: npt.NDArray[Any], spacing: Sequence[float], radius: float, *, locked: Collection[int] = ()
) -> None:
    """Smooth all labels in place.

    What belongs to any label is smoothed as one region, blurred at 0.5: so no gap opens where
    labels meet. In it, each voxel gets the label that is strongest when blurred alone. Locked
    labels stay, and count on both counts: background on their side is not given to others.

    Parameters
    ----------
    ids : array of unsigned int
        ``(z, y, x)`` or ``(y, x)``; changed.
    spacing : sequence of float
        Step along each axis.
    radius : float
        Standard deviation of the Gaussian, in the unit of `spacing`.
    locked : collection of int
        Ids whose voxels neither go nor come.
    """
    sigma = [radius / step for step in spacing]
    width = regions.voxels_of(_CUT * radius, spacing)
    anything = box_of(ids > 0, 1, margin=width)
    if anything is None:
        return
    old = ids[anything].copy()
    new = ids[anything]
    thick = max(1, _CHUNK * len(old) // old.size)
    for start in range(0, len(old), thick):
        stop = min(len(old), start + thick)
        low = max(0, start - width[0])
        found = _smoothed(old[low : stop + width[0]], sigma, width, frozenset(locked))
        new[start:stop] = found[start - low : stop - low]


def _smoothed(
    ids: npt.NDArray[Any], sigma: Sequence[float], width: Sequence[int], locked: frozenset[int]
) -> npt.NDArray[Any]:
    is_inside = _blurred(ids > 0, sigma) > 0.5
    strength = np.zeros(ids.shape, dtype=np.float32)
    first = np.zeros_like(ids)  # the strongest of all labels, locked ones included
    free_strength = np.zeros(ids.shape, dtype=np.float32)
    free = np.zeros_like(ids)
    for label in present_ids(ids):
        box = box_of(ids, label, margin=width)
        blurred = _blurred(ids[box] == label, sigma)
        _raise_to(strength, first, box, blurred, label)
        if label not in locked:
            _raise_to(free_strength, free, box, blurred, label)
    is_locked = np.isin(ids, list(locked))
    is_taken = np.isin(first, list(locked)) & ~is_locked & is_inside
    found = np.where(is_inside, first, 0).astype(ids.dtype)
    # Next to a locked label, background stays background and an unlocked label keeps to itself.
    found[is_taken] = np.where(ids == 0, 0, free)[is_taken]
    found[is_locked] = ids[is_locked]
    return found


def _raise_to(
    strength: npt.NDArray[np.float32],
    ids: npt.NDArray[Any],
    box: tuple[slice, ...] | None,
    blurred: npt.NDArray[np.float32],
    label: int,
) -> None:
    if box is not None:
        is_stronger = blurred > strength[box]
        strength[box][is_stronger] = blurred[is_stronger]
        ids[box][is_stronger] = label


def _blurred(region: npt.NDArray[np.bool_], sigma: Sequence[float]) -> npt.NDArray[np.float32]:
    from scipy import ndimage

    return np.asarray(
        ndimage.gaussian_filter(region.astype(np.float32), sigma, mode="nearest", truncate=_CUT)
    )

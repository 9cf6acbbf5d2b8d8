"""Where a label lies, and how far everything else is from it; always on its box."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.core.geometry import Box

Region = npt.NDArray[np.bool_]

_CHUNK = 1 << 22


def box_of(ids: npt.NDArray[Any], label: int, *, margin: Sequence[int] | int = 0) -> Box | None:
    """Return the tight box of a label, widened by `margin` voxels and cut at the array's ends.

    Parameters
    ----------
    ids : array of int
        Label ids of any shape.
    label : int
        The id to look for.
    margin : int or sequence of int
        Voxels to add at both ends of each axis.

    Returns
    -------
    tuple of slice, or None
        None where the label does not occur.
    """
    hits = [np.zeros(n, dtype=bool) for n in ids.shape]
    step = max(1, _CHUNK * ids.shape[0] // max(ids.size, 1))
    for start in range(0, ids.shape[0], step):
        part = slice(start, start + step)
        region = ids[part] == label
        # One pass over the chunk gives a plane; the other axes are read from that plane.
        plane = region.any(axis=0)
        if not plane.any():
            continue
        hits[0][part] = region.reshape(len(region), -1).any(axis=1)
        for axis in range(1, ids.ndim):
            others = tuple(a for a in range(ids.ndim - 1) if a != axis - 1)
            hits[axis] |= plane.any(axis=others)
    if not hits[0].any():
        return None
    widths = [margin] * ids.ndim if isinstance(margin, int) else list(margin)
    box = []
    for hit, width in zip(hits, widths, strict=True):
        first, last = np.flatnonzero(hit)[[0, -1]]
        box.append(slice(max(0, int(first) - width), min(len(hit), int(last) + 1 + width)))
    return tuple(box)


def voxels_of(distance: float, spacing: Sequence[float]) -> tuple[int, ...]:
    """Return how many voxels along each axis hold a distance, rounded up, plus one."""
    return tuple(math.ceil(distance / step) + 1 for step in spacing)


def depth(region: Region, spacing: Sequence[float]) -> npt.NDArray[np.float32]:
    """Return each voxel's distance to the nearest voxel outside `region`, 0 outside it.

    Between voxel centres, in the unit of `spacing`; beyond the array's ends counts as inside, so a
    region that the field of view cuts is not eaten there. Infinite where nothing is outside.
    """
    import edt

    return np.asarray(
        edt.edt(np.ascontiguousarray(region), anisotropy=tuple(spacing), black_border=False),
        dtype=np.float32,
    )


def distance(region: Region, spacing: Sequence[float]) -> npt.NDArray[np.float32]:
    """Return each voxel's distance to the nearest voxel of `region`, 0 in it; infinite if empty."""
    return depth(~region, spacing)

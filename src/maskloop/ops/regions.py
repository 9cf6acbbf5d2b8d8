"""Where a label lies, and how far everything else is from it; always on its box."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from maskloop.core.geometry import Box

Region = npt.NDArray[np.bool_]

_CHUNK = 1 << 22
_FAR = 1 << 40  # voxels: beyond the end of any array
_THREADED = 1 << 18  # voxels from which the threads of a distance pay for their start


def box_of(ids: npt.NDArray[Any], label: int, *, margin: Sequence[int] | int = 0) -> Box | None:
    """Return the tight box of a label, widened by `margin` voxels and cut at the array's ends.

    Parameters
    ----------
    ids : array of int or bool
        Label ids of any shape; a region is the label 1.
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
    is_region = ids.dtype == np.bool_ and label == 1
    step = max(1, _CHUNK * ids.shape[0] // max(ids.size, 1))
    for start in range(0, ids.shape[0], step):
        part = slice(start, start + step)
        region: Region = ids[part] if is_region else ids[part] == label
        # One pass over the chunk gives a plane; the other axes are read from that plane.
        plane: Region = np.asarray(region.any(axis=0))
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


def hull(boxes: Iterable[Box]) -> Box:
    """Return the smallest box that holds all the given ones, at least one."""
    return tuple(
        slice(min(part.start for part in parts), max(part.stop for part in parts))
        for parts in zip(*boxes, strict=True)
    )


def widened(box: Box, shape: Sequence[int], by: int = 1) -> Box:
    """Return a box with `by` voxels more at both ends of each axis, cut at the array's ends."""
    return tuple(
        slice(max(0, part.start - by), min(n, part.stop + by))
        for part, n in zip(box, shape, strict=True)
    )


def voxels_of(distance: float, spacing: Sequence[float]) -> tuple[int, ...]:
    """Return how many voxels along each axis hold a distance, rounded up, plus one."""
    if math.isinf(distance):
        return (_FAR,) * len(spacing)
    return tuple(math.ceil(distance / step) + 1 for step in spacing)


def depth(region: Region, spacing: Sequence[float]) -> npt.NDArray[np.float32]:
    """Return each voxel's distance to the nearest voxel outside `region`, 0 outside it.

    Between voxel centres, in the unit of `spacing`; beyond the array's ends counts as inside, so a
    region that the field of view cuts is not eaten there. Infinite where nothing is outside.
    Costs what the region's box costs, not the array.
    """
    box = box_of(region, 1, margin=1)
    if box is None:
        return np.zeros(region.shape, dtype=np.float32)
    part = _distances(region[box], spacing)
    if part.shape == region.shape:
        return part
    found = np.zeros(region.shape, dtype=np.float32)
    found[box] = part
    return found


def distance(region: Region, spacing: Sequence[float]) -> npt.NDArray[np.float32]:
    """Return each voxel's distance to the nearest voxel of `region`, 0 in it; infinite if empty."""
    return _distances(~region, spacing)


def signed(region: Region, spacing: Sequence[float]) -> npt.NDArray[np.float32]:
    """Return the distance to the other side of the surface, above 0 inside, below 0 outside.

    Between voxel centres, as `depth` and `distance`, in one pass for both. Infinite where there is
    no other side.
    """
    # Of several ids, edt gives the distance to the nearest voxel of another one.
    found = _distances(region.view(np.uint8) + np.uint8(1), spacing)
    return np.negative(found, out=found, where=~region)


def _distances(ids: npt.NDArray[Any], spacing: Sequence[float]) -> npt.NDArray[np.float32]:
    import edt

    return np.asarray(
        edt.edt(
            np.ascontiguousarray(ids),
            anisotropy=tuple(spacing),
            black_border=False,
            parallel=min(4, os.cpu_count() or 1) if ids.size >= _THREADED else 1,
        ),
        dtype=np.float32,
    )

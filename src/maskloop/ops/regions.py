"""How far voxels are from a region or its surface, in the grid's unit."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of

if TYPE_CHECKING:
    from collections.abc import Sequence

Region = npt.NDArray[np.bool_]

_FAR = 1 << 40  # voxels: beyond the end of any array
_THREADED = 1 << 18  # voxels from which the threads of a distance pay for their start


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

"""Coarse grids of blocks of voxels, and the narrow band that is left to decide finely."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

Field = npt.NDArray[np.float32]
Region = npt.NDArray[np.bool_]
Ids = npt.NDArray[Any]  # Any: whichever unsigned type is narrow enough
Blocks = tuple[int, ...]

_EXACT = 64**3  # cells of the grid on which distances are measured


def blocks_for(shape: Sequence[int], spacing: Sequence[float], most: int) -> Blocks:
    """Return voxels a block along each axis: near cubes in millimetres, about `most` in all."""
    sizes = [n * step for n, step in zip(shape, spacing, strict=True)]
    side = (math.prod(sizes) / most) ** (1 / len(sizes))
    return tuple(max(1, min(n, round(side / step))) for n, step in zip(shape, spacing, strict=True))


def means(part: npt.NDArray[Any], blocks: Blocks) -> Field:
    """Return the mean of each block; what is missing of the last ones repeats the edge."""
    found = _whole(part, blocks).astype(np.float32, copy=False)
    for axis, size in enumerate(blocks):
        if size > 1:
            sides = [*found.shape[:axis], -1, size, *found.shape[axis + 1 :]]
            found = found.reshape(sides).mean(axis=axis + 1, dtype=np.float32)
    return found


def agreed(ids: Ids, blocks: Blocks) -> Ids:
    """Return the one id above 0 that a block holds; 0 where it holds none, or several.

    Parameters
    ----------
    ids : array of unsigned int
    blocks : tuple of int
        Voxels along each axis.
    """
    high = _whole(ids, blocks)
    low = high - high.dtype.type(1)  # wraps: 0 becomes the highest of all
    for axis, size in enumerate(blocks):
        if size > 1:
            sides = [*high.shape[:axis], -1, size, *high.shape[axis + 1 :]]
            high = high.reshape(sides).max(axis=axis + 1)
            low = low.reshape(sides).min(axis=axis + 1)
    return np.where(high == low + high.dtype.type(1), high, high.dtype.type(0))


def spread(values: npt.NDArray[Any], blocks: Blocks, shape: Sequence[int]) -> npt.NDArray[Any]:
    """Return the value of each voxel's block."""
    for axis, size in enumerate(blocks):
        if size > 1:
            values = np.repeat(values, size, axis=axis)
    return values[tuple(slice(0, n) for n in shape)]


def linear(values: Field, blocks: Sequence[int], shape: Sequence[int] | None = None) -> Field:
    """Return values of blocks at every voxel, linear between the blocks' centres."""
    for axis, size in enumerate(blocks):
        count = values.shape[axis]
        length = count * size if shape is None else shape[axis]
        if size == 1:
            continue
        at = np.clip((np.arange(length) + 0.5) / size - 0.5, 0, count - 1)
        below = np.minimum(at.astype(np.intp), max(count - 2, 0))
        above = np.minimum(below + 1, count - 1)
        sides = [-1 if a == axis else 1 for a in range(values.ndim)]
        weight = (at - below).astype(np.float32).reshape(sides)
        low = values.take(below, axis)
        values = low + (values.take(above, axis) - low) * weight
    return values


def undecided(values: npt.NDArray[Any]) -> Region:
    """Return the blocks beside which, corners included, another value lies."""
    from scipy import ndimage

    high = ndimage.maximum_filter(values, size=3)
    return np.asarray(high != ndimage.minimum_filter(values, size=3))


def further(region: Region, spacing: Sequence[float], distance: float) -> Region:
    """Return the voxels further than a distance from a region; where it is empty, all.

    Up to 64 voxels a side exactly; larger boxes by blocks, to within a block.
    """
    from maskloop.ops import regions

    blocks = blocks_for(region.shape, spacing, _EXACT)
    steps = [b * s for b, s in zip(blocks, spacing, strict=True)]
    held = means(region, blocks) > 0
    return spread(regions.distance(held, steps) > distance, blocks, region.shape)


def _whole(part: npt.NDArray[Any], blocks: Blocks) -> npt.NDArray[Any]:
    missing = [-n % size for n, size in zip(part.shape, blocks, strict=True)]
    return np.pad(part, [(0, m) for m in missing], mode="edge") if any(missing) else part

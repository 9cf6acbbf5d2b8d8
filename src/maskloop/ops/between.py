"""Shapes between drawn slices, by signed distance; always on the drawn shapes' boxes."""

from __future__ import annotations

import itertools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from maskloop.core.boxes import box_of, hull
from maskloop.ops import regions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from maskloop.core.geometry import Box
    from maskloop.ops.regions import Region

_THREADED = 1 << 17  # pixels from which threads pay for their start


def between(
    region: Region, given: Sequence[int], spacing: Sequence[float]
) -> Iterator[tuple[int, Box, Region]]:
    """Yield the shape of every slice that lies between two given ones.

    A voxel belongs to it if the mean of its signed distances to the outlines of the two given
    slices, weighted by nearness, is above 0. Distances are Euclidean in the slice's plane. The cost
    is that of the shapes' boxes, however large the slices.

    Parameters
    ----------
    region : array of bool
        ``(slices, y, x)``; read at the given slices only.
    given : sequence of int
        Indices of slices that hold something, ascending.
    spacing : sequence of float
        Step along the last two axes.

    Yields
    ------
    index : int
        Of the slice.
    box : tuple of slice
        Where the shape lies in the slice, two axes.
    shape : array of bool
        Of the box's shape.

    References
    ----------
    .. [1] S. Raya, J. Udupa, "Shape-Based Interpolation of Multidimensional Objects", IEEE TMI
       1990, with Euclidean distances.
    """
    boxes = {at: _box(region[at]) for at in given}
    pairs = [(a, b) for a, b in itertools.pairwise(given) if b - a > 1]
    reached: dict[int, list[Box]] = {}
    for a, b in pairs:
        for at, other in ((a, b), (b, a)):
            reached.setdefault(at, [boxes[at]]).append(boxes[other])
    done = _distances(region, {at: hull(parts) for at, parts in reached.items()}, spacing)
    for a, b in pairs:
        box = hull([boxes[a], boxes[b]])
        first, last = (found[_within(box, wide)] for wide, found in (done[a], done[b]))
        # Weights are whole numbers, so that equal distances of both sides cancel exactly.
        for at in range(a + 1, b):
            yield at, box, (b - at) * first + (at - a) * last > 0


def _box(shape: Region) -> Box:
    box = box_of(shape, 1)
    if box is None:
        raise ValueError("a given slice is empty")
    return box


def _within(box: Box, wide: Box) -> Box:
    return tuple(slice(p.start - w.start, p.stop - w.start) for p, w in zip(box, wide, strict=True))


def _distances(
    region: Region, boxes: Mapping[int, Box], spacing: Sequence[float]
) -> dict[int, tuple[Box, npt.NDArray[np.float32]]]:
    def one(at: int) -> tuple[Box, npt.NDArray[np.float32]]:
        return _signed(region[at], boxes[at], spacing)

    pixels = sum(math.prod(part.stop - part.start for part in box) for box in boxes.values())
    if pixels < _THREADED:
        return {at: one(at) for at in boxes}
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # edt lets go of the interpreter
        return dict(zip(boxes, pool.map(one, boxes), strict=True))


def _signed(
    shape: Region, box: Box, spacing: Sequence[float]
) -> tuple[Box, npt.NDArray[np.float32]]:
    """Return the box with one voxel of background around, if there is room, and distances in it."""
    wide = tuple(
        slice(max(0, p.start - 1), min(n, p.stop + 1))
        for p, n in zip(box, shape.shape, strict=True)
    )
    found = regions.signed(shape[wide], spacing)
    if np.isinf(found.flat[0]):  # fills the slice: deeper than anything in it
        found[:] = math.hypot(*(n * step for n, step in zip(found.shape, spacing, strict=True)))
    return wide, found

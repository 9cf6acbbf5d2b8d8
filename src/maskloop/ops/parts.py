"""Parts of a region that hang together by necks, from the distance to its surface."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError
from maskloop.ops import components, regions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from maskloop.ops.components import Ids
    from maskloop.ops.regions import Region

Depth = npt.NDArray[np.float32]
Edges = list[tuple[float, int, int]]  # the widest way between two basins, and their numbers


def parts_of(
    region: Region,
    spacing: Sequence[float],
    *,
    distance: float = 0.0,
    neck: float = 0.85,
    wanted: int = 0,
    marks: Iterable[Sequence[float]] | None = None,
) -> Ids:
    """Return the parts of a region as ids 1 to n.

    Parameters
    ----------
    region : array of bool
        ``(z, y, x)`` or ``(y, x)``, with room around it: what touches the array's ends goes on
        there.
    spacing : sequence of float
        Step along each axis.
    distance : float
        Parts whose deepest points are nearer to each other than this are one.
    neck : float
        Parts are one unless the way between them is shallower than this share of the depth of the
        shallower one.
    wanted : int
        If above 0, cut at the necks with the greatest loss of depth until there are so many parts.
    marks : sequence of positions, optional
        If given, one part each, grown to where they meet; pieces without a mark are parts, too.

    Raises
    ------
    InputError
        If a mark lies beside the region.
    """
    depth = regions.depth(region, spacing)
    if np.isinf(depth.flat[0]) or not region.any():
        return region.astype(np.uint8)
    if marks is not None:
        found = _basins(depth, _marked(region, marks))
        rest, _ = components.label(region & (found == 0))
        found[rest > 0] = rest[rest > 0] + found.max()
        return found
    tops, peaks, places = _tops(depth)
    basins = _basins(depth, tops)
    edges = _edges(basins, depth)
    steps = np.asarray(spacing)
    if wanted:
        joins = _joins_for(wanted, peaks, edges)
    else:
        joins = _joins(peaks, places * steps, edges, distance, neck)
    return np.asarray(joins[basins])


def _basins(depth: Depth, marks: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    from skimage.segmentation import watershed

    flood: Any = watershed  # Any: the function is untyped
    whole = np.ones((3,) * depth.ndim, dtype=bool)
    return np.asarray(flood(-depth, marks, connectivity=whole, mask=depth > 0), dtype=np.int32)


def _marked(region: Region, marks: Iterable[Sequence[float]]) -> npt.NDArray[np.int32]:
    found = np.zeros(region.shape, dtype=np.int32)
    for number, mark in enumerate(marks, start=1):
        index = tuple(round(v) for v in mark)
        is_within = all(0 <= i < n for i, n in zip(index, region.shape, strict=True))
        if not is_within or not region[index]:
            msg = (
                "expected each point of split on the label, got one beside it; point at the "
                "objects to tell apart"
            )
            raise InputError(msg)
        found[index] = number
    return found


def _tops(depth: Depth) -> tuple[Ids, Depth, npt.NDArray[np.float64]]:
    """Return the plateaus nowhere surpassed by a neighbour, their depths from 1, and middles."""
    from scipy import ndimage

    is_top = (ndimage.maximum_filter(depth, size=3) == depth) & (depth > 0)
    tops, count = components.label(is_top)
    at = np.nonzero(tops)
    number = tops[at]
    peaks = np.zeros(count + 1, dtype=np.float32)
    peaks[number] = depth[at]
    total = np.maximum(np.bincount(number, minlength=count + 1), 1)
    places = np.stack([np.bincount(number, axis, minlength=count + 1) / total for axis in at], 1)
    return tops.astype(np.int32), peaks, places


def _edges(basins: npt.NDArray[np.int32], depth: Depth) -> Edges:
    """Return every pair of basins that meet, corners included, widest way first."""
    widest: dict[tuple[int, int], float] = {}
    steps = itertools.product((-1, 0, 1), repeat=basins.ndim)
    for step in itertools.islice(steps, 3**basins.ndim // 2):  # the others are their opposites
        ends = list(zip(step, basins.shape, strict=True))
        here = tuple(slice(max(0, -by), n - max(0, by)) for by, n in ends)
        there = tuple(slice(max(0, by), n - max(0, -by)) for by, n in ends)
        a, b = basins[here], basins[there]
        meet = (a != b) & (a > 0) & (b > 0)
        way = np.minimum(depth[here][meet], depth[there][meet])
        low, high = np.minimum(a[meet], b[meet]), np.maximum(a[meet], b[meet])
        order = np.argsort(way)  # the widest comes last, and stays
        pairs = zip(low[order].tolist(), high[order].tolist(), strict=True)
        for pair, found in dict(zip(pairs, way[order].tolist(), strict=True)).items():
            widest[pair] = max(found, widest.get(pair, 0.0))
    return sorted(((way, a, b) for (a, b), way in widest.items()), key=lambda edge: -edge[0])


class _Groups:
    """Basins that are one, each group under its deepest basin."""

    def __init__(self, peaks: Depth) -> None:
        self.peaks = peaks
        self.parents = list(range(len(peaks)))

    def top(self, basin: int) -> int:
        while self.parents[basin] != basin:
            self.parents[basin] = self.parents[self.parents[basin]]
            basin = self.parents[basin]
        return basin

    def tops(self, a: int, b: int) -> tuple[int, int]:
        """Return the deeper and the shallower top of two basins' groups."""
        one, two = self.top(a), self.top(b)
        return (one, two) if (self.peaks[one], -one) >= (self.peaks[two], -two) else (two, one)

    def join(self, deep: int, shallow: int) -> None:
        self.parents[shallow] = deep

    def numbers(self) -> npt.NDArray[np.int32]:
        """Return the number of each basin's group, counted from 1; 0 for basin 0."""
        tops = np.array([self.top(basin) for basin in range(len(self.parents))])
        found = np.unique(tops, return_inverse=True)[1]
        return found.astype(np.int32)


def _joins(
    peaks: Depth, places: npt.NDArray[np.float64], edges: Edges, distance: float, neck: float
) -> npt.NDArray[np.int32]:
    groups = _Groups(peaks)
    for way, a, b in edges:
        deep, shallow = groups.tops(a, b)
        is_wide = way >= neck * peaks[shallow]
        if deep != shallow and (
            is_wide or np.linalg.norm(places[deep] - places[shallow]) < distance
        ):
            groups.join(deep, shallow)
    return groups.numbers()


def _joins_for(wanted: int, peaks: Depth, edges: Edges) -> npt.NDArray[np.int32]:
    groups = _Groups(peaks)
    joined: list[tuple[float, int, int]] = []  # the depth that each join loses
    for way, a, b in edges:
        deep, shallow = groups.tops(a, b)
        if deep != shallow:
            joined.append((float(peaks[shallow]) - way, a, b))
            groups.join(deep, shallow)
    pieces = len(peaks) - 1 - len(joined)
    joined.sort(key=lambda join: join[0])
    groups = _Groups(peaks)
    for _, a, b in joined[: max(0, len(joined) - max(0, wanted - pieces))]:
        groups.join(*groups.tops(a, b))
    return groups.numbers()

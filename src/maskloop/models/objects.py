"""Body of instance networks: overlaps settled by score, tiles joined by overlap, sizes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core.boxes import hull, shifted
from maskloop.core.image import smallest_unsigned
from maskloop.core.labels import Label, LabelTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from maskloop.core.geometry import Box


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """One object as a network sees it, before overlaps are settled.

    Parameters
    ----------
    box : tuple of slice
        Where `region` lies in the image.
    region : bool array
        The object inside its box.
    score : float
        Confidence, 0 to 1.
    category : str
        Name of its class.
    """

    box: Box
    region: npt.NDArray[np.bool_]
    score: float
    category: str


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """Objects that no longer overlap.

    Parameters
    ----------
    ids : array of unsigned int
        1 is the object of the best score, and so on; 0 is background.
    labels : LabelTable
        A row an object, with category and score.
    boxes : dict of int to box
        Smallest box of each id.
    lost : int
        Voxels claimed by an object and given to one of a better score.
    covered : int
        Objects of which nothing, or not enough, was left.
    """

    ids: npt.NDArray[Any]  # Any: the narrowest unsigned type that fits
    labels: LabelTable
    boxes: dict[int, Box]
    lost: int
    covered: int


def settle(
    found: Iterable[Found], shape: Sequence[int], *, author: str = "", keep: float = 0.0
) -> Settled:
    """Give each voxel to the object of the best score that claims it.

    Parameters
    ----------
    found : iterable of Found
    shape : sequence of int
        Of the image.
    author : str
        Model name, for the rows.
    keep : float
        Objects of which less than this fraction is left are dropped, and their voxels freed for
        the next; 0 drops only those of which nothing is left.
    """
    ordered = sorted(found, key=lambda one: -one.score)
    ids = np.zeros(tuple(shape), dtype=smallest_unsigned(len(ordered)))
    rows: list[Label] = []
    boxes: dict[int, Box] = {}
    lost = covered = 0
    for one in ordered:
        view = ids[one.box]
        free = one.region & (view == 0)
        claimed, left = int(np.count_nonzero(one.region)), int(np.count_nonzero(free))
        if not claimed:
            continue
        lost += claimed - left
        if not left or left < keep * claimed:
            lost += left
            covered += 1
            continue
        number = len(rows) + 1
        view[free] = number
        boxes[number] = _tight(free, one.box)
        rows.append(
            Label(
                number,
                f"{one.category} {number}",
                category=one.category,
                is_thing=True,
                score=round(float(one.score), 4),
                author=author,
            )
        )
    return Settled(ids.astype(smallest_unsigned(len(rows))), LabelTable(rows), boxes, lost, covered)


def found_in(ids: npt.NDArray[Any], labels: LabelTable) -> list[Found]:
    """Return the objects of an id map as what was found; rows without a category are left out."""
    from scipy.ndimage import find_objects

    boxes = find_objects(ids.astype(np.int32, copy=False))
    return [
        Found(boxes[i - 1], ids[boxes[i - 1]] == i, 1.0 if row.score is None else row.score, name)
        for i, row in labels.items()
        if (name := row.category) is not None and i <= len(boxes) and boxes[i - 1] is not None
    ]


def _tight(region: npt.NDArray[np.bool_], box: Box) -> Box:
    parts = []
    for axis, part in enumerate(box):
        others = tuple(a for a in range(region.ndim) if a != axis)
        hit = np.flatnonzero(region.any(axis=others))
        parts.append(slice(part.start + int(hit[0]), part.start + int(hit[-1]) + 1))
    return tuple(parts)


def table(
    ids: Iterable[int],
    categories: dict[int, str],
    scores: dict[int, float] | None = None,
    *,
    author: str = "",
) -> LabelTable:
    """Return one row an object.

    Parameters
    ----------
    ids : iterable of int
    categories : dict of int to str
        Class name of each id.
    scores : dict of int to float, optional
        Confidence of each id, 0 to 1.
    author : str
        Model name.
    """
    return LabelTable(
        Label(
            i,
            f"{categories[i]} {i}",
            category=categories[i],
            is_thing=True,
            score=None if scores is None else round(float(scores[i]), 4),
            author=author,
        )
        for i in ids
    )


def joined(tiles: Sequence[tuple[Box, Sequence[Found]]], *, least_iou: float = 0.5) -> list[Found]:
    """Return the objects of the whole from those that each of overlapping tiles saw.

    Two objects of one category, seen by different tiles, are one if their intersection over union
    inside the overlap of the tiles is at least `least_iou`; chains are followed, and the best score
    stands for all. An object that its tile's edge cuts off is left to a neighbour that sees the
    place whole.

    Parameters
    ----------
    tiles : sequence of (box, objects)
        Where a tile lies in the whole; objects lie in the tile.
    least_iou : float
        From 0 to 1.
    """
    boxes = [box for box, _ in tiles]
    whole = hull(boxes) if boxes else ()
    listed = [
        [_moved(one, box) for one in found if not _is_better_seen(one, box, boxes, whole)]
        for box, found in tiles
    ]
    nodes = [(t, i) for t, mine in enumerate(listed) for i in range(len(mine))]
    parent = {node: node for node in nodes}

    def root(node: tuple[int, int]) -> tuple[int, int]:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for a, b in itertools.combinations(range(len(tiles)), 2):
        shared = _shared(boxes[a], boxes[b])
        if shared is None:
            continue
        for i, j in _same(listed[a], listed[b], shared, least_iou):
            first, second = sorted((root((a, i)), root((b, j))))
            parent[second] = first
    groups: dict[tuple[int, int], list[Found]] = {}
    for node in nodes:
        groups.setdefault(root(node), []).append(listed[node[0]][node[1]])
    return [_merged(group) for group in groups.values()]


def _moved(one: Found, box: Box) -> Found:
    return replace(one, box=shifted(one.box, (part.start for part in box)))


def _is_better_seen(one: Found, tile: Box, tiles: Sequence[Box], whole: Box) -> bool:
    """Whether an edge of its tile cuts an object that another tile sees whole."""
    box = shifted(one.box, (part.start for part in tile))

    def is_cut(by: Box) -> bool:
        return any(
            (part.start <= edge.start > end.start) or (part.stop >= edge.stop < end.stop)
            for part, edge, end in zip(box, by, whole, strict=True)
        )

    return is_cut(tile) and not all(is_cut(other) for other in tiles)


def _shared(first: Box, second: Box) -> Box | None:
    parts = [
        slice(max(p.start, q.start), min(p.stop, q.stop))
        for p, q in zip(first, second, strict=True)
    ]
    return None if any(part.stop <= part.start for part in parts) else tuple(parts)


def _same(
    first: Sequence[Found], second: Sequence[Found], shared: Box, least_iou: float
) -> list[tuple[int, int]]:
    """Return the pairs of objects of two tiles that are one, judged inside their overlap."""
    one = [(i, part) for i, found in enumerate(first) if (part := _shared(found.box, shared))]
    other = [(j, part) for j, found in enumerate(second) if (part := _shared(found.box, shared))]
    if not one or not other:
        return []
    low, high = (
        np.array([[(p.start, p.stop)[end] for p in part] for _, part in one]) for end in (0, 1)
    )
    same = []
    for j, part in other:
        starts = np.maximum(low, [p.start for p in part])
        stops = np.minimum(high, [p.stop for p in part])
        for k in np.flatnonzero((starts < stops).all(axis=1)):
            i = one[int(k)][0]
            if first[i].category == second[j].category and (
                _iou(first[i], second[j], shared) >= least_iou
            ):
                same.append((i, j))
    return same


def _iou(first: Found, second: Found, shared: Box) -> float:
    """Return the intersection over union of two objects inside a box."""
    both, sizes = _shared(first.box, second.box), 0
    both = both and _shared(both, shared)
    for one in (first, second):
        part = _shared(one.box, shared)
        sizes += int(np.count_nonzero(_cut(one, part))) if part else 0
    common = int(np.count_nonzero(_cut(first, both) & _cut(second, both))) if both else 0
    return common / max(sizes - common, 1)


def _cut(one: Found, box: Box) -> npt.NDArray[np.bool_]:
    """Return the part of an object that lies in a box inside its own."""
    return one.region[shifted(box, (-part.start for part in one.box))]


def _merged(group: Sequence[Found]) -> Found:
    best = max(group, key=lambda one: one.score)
    if len(group) == 1:
        return best
    box = hull(one.box for one in group)
    region = np.zeros([part.stop - part.start for part in box], dtype=bool)
    for one in group:
        region[shifted(one.box, (-part.start for part in box))] |= one.region
    return Found(box, region, best.score, best.category)


def scale_to(shape: Sequence[int], shortest: int, longest: int) -> float:
    """Return the factor that makes the short side `shortest`, but no side above `longest`.

    Examples
    --------
    >>> scale_to((400, 1000), 800, 1333)
    1.333
    """
    return min(shortest / min(shape), longest / max(shape))

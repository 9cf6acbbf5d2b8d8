"""Body of instance networks: overlaps settled by score, tiles joined by overlap, sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

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


def join(
    tiles: Sequence[tuple[Box, npt.NDArray[Any]]], shape: Sequence[int], *, least_iou: float = 0.5
) -> tuple[npt.NDArray[Any], list[list[tuple[int, int]]]]:
    """Return one id map from the id maps of overlapping tiles.

    Two objects of different tiles are one if their intersection over union, inside the overlap of
    the two tiles, is at least `least_iou`. Chains are followed. Where tiles disagree on a voxel,
    the earlier tile has it.

    Parameters
    ----------
    tiles : sequence of (box, ids)
        Where a tile lies, and its own ids (0 background).
    shape : sequence of int
        Of the whole.
    least_iou : float
        From 0 to 1.

    Returns
    -------
    ids : array of unsigned int
        Numbered from 1, in order of tile and id.
    members : list
        For each id, from 1: the ``(tile number, tile's own id)`` it is made of.
    """
    found = [[int(i) for i in np.unique(ids) if i] for _, ids in tiles]
    parent = {(t, i): (t, i) for t, mine in enumerate(found) for i in mine}

    def root(node: tuple[int, int]) -> tuple[int, int]:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for a in range(len(tiles)):
        for b in range(a + 1, len(tiles)):
            for one, other in _same(tiles[a], tiles[b], least_iou):
                first, second = sorted((root((a, one)), root((b, other))))
                parent[second] = first
    number: dict[tuple[int, int], int] = {}
    members: list[list[tuple[int, int]]] = []
    for node in sorted(parent):
        top = root(node)
        if top not in number:
            number[top] = len(members) + 1
            members.append([])
        members[number[top] - 1].append(node)
    whole = np.zeros(tuple(shape), dtype=smallest_unsigned(len(members)))
    for t, (box, ids) in enumerate(tiles):
        lookup = np.zeros(max(found[t], default=0) + 1, dtype=whole.dtype)
        for i in found[t]:
            lookup[i] = number[root((t, i))]
        view = whole[box]
        np.copyto(view, lookup[ids], where=view == 0)
    return whole, members


def _same(
    first: tuple[Box, npt.NDArray[Any]], second: tuple[Box, npt.NDArray[Any]], least_iou: float
) -> list[tuple[int, int]]:
    """Return the pairs of ids of two tiles that are one object, judged inside their overlap."""
    shared = [
        (max(p.start, q.start), min(p.stop, q.stop))
        for p, q in zip(first[0], second[0], strict=True)
    ]
    if any(stop <= start for start, stop in shared):
        return []
    a, b = (
        ids[
            tuple(
                slice(lo - p.start, hi - p.start) for (lo, hi), p in zip(shared, box, strict=True)
            )
        ]
        for box, ids in (first, second)
    )
    wide = int(b.max(initial=0)) + 1
    joint = np.bincount((a.astype(np.int64) * wide + b).ravel(), minlength=wide)
    pairs = np.flatnonzero(joint)
    sizes_a, sizes_b = np.bincount(a.ravel()), np.bincount(b.ravel())
    same = []
    for pair in pairs:
        one, other = divmod(int(pair), wide)
        if one and other:
            union = sizes_a[one] + sizes_b[other] - joint[pair]
            if joint[pair] >= least_iou * union:
                same.append((one, other))
    return same


def scale_to(shape: Sequence[int], shortest: int, longest: int) -> float:
    """Return the factor that makes the short side `shortest`, but no side above `longest`.

    Examples
    --------
    >>> scale_to((400, 1000), 800, 1333)
    1.333
    """
    return min(shortest / min(shape), longest / max(shape))

"""Rings along the edges between pixels: a region as polygons with holes, exactly, and back.

Corners are whole numbers: pixel (y, x) is the square from (x, y) to (x + 1, y + 1). No ring touches
itself: pixels that meet at a corner only belong to different rings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterable

Points = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Ring:
    """One closed line of corners; the last is not the first again.

    Parameters
    ----------
    points : array of int64, shape (n, 2)
        ``(x, y)`` of each corner, even n of at least 4. The region lies to the right of the way:
        outer rings run clockwise as seen on a screen, holes the other way.
    is_hole : bool
        Whether the ring bounds a hole.
    part : int
        Number, from 1, of the piece that it bounds; pixels of a piece share edges.
    """

    points: Points
    is_hole: bool
    part: int


def rings(region: npt.NDArray[np.bool_]) -> list[Ring]:
    """Return the rings round a region, piece by piece: the outer one, then those of its holes.

    Parameters
    ----------
    region : bool array, shape (y, x)

    Returns
    -------
    list of Ring
        Empty where the region is; `filled` of all rings gives the region back.
    """
    from scipy import ndimage

    left, right, y, sign = _level_edges(region)
    if not left.size:
        return []
    parts, _ = ndimage.label(region)
    starts, ends = np.where(sign > 0, left, right), np.where(sign > 0, right, left)
    following = _following(starts, ends, y, sign)
    keys = np.stack([starts, ends], axis=1) + y[:, None] * (region.shape[1] + 1)
    part_of = parts[np.where(sign > 0, y, y - 1), left].tolist()
    is_seen = [False] * len(part_of)
    found = []
    for first, links in enumerate(following):
        if is_seen[first]:
            continue
        cycle, now = [first], links
        is_seen[first] = True
        while now != first:
            is_seen[now] = True
            cycle.append(now)
            now = following[now]
        for corners in _simple(keys[cycle].reshape(-1)):
            points = np.stack(np.divmod(corners, region.shape[1] + 1)[::-1], axis=1)
            found.append(Ring(points, _twice_area(points) < 0, part_of[first]))
    return sorted(found, key=lambda ring: (ring.part, ring.is_hole))


def filled(
    lines: Iterable[npt.NDArray[np.int64] | npt.NDArray[np.float64]], shape: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Return the pixels whose centres lie inside closed lines, by the even-odd rule.

    Parameters
    ----------
    lines : iterable of arrays, shape (n, 2)
        ``(x, y)`` of corners, finite; a line within another makes a hole.
    shape : tuple of int
        ``(height, width)``; what lies outside is cut off.
    """
    height, width = shape
    switches = np.zeros((height, width + 1), dtype=bool)
    for line in lines:
        start = np.asarray(line, dtype=np.float64).reshape(-1, 2)
        end = np.roll(start, -1, axis=0)
        is_turned = (start[:, 1] > end[:, 1])[:, None]
        low, high = np.where(is_turned, end, start), np.where(is_turned, start, end)
        # An edge switches the rows whose centres it spans, from the column it crosses there on.
        top = np.ceil(np.clip(low[:, 1], 0, height) - 0.5).astype(np.int64)
        bottom = np.ceil(np.clip(high[:, 1], 0, height) - 0.5).astype(np.int64)
        counts = bottom - top
        edge = np.repeat(np.arange(len(start)), counts)
        rows = np.arange(edge.size) - np.repeat(np.cumsum(counts) - counts - top, counts)
        slope = (high[edge, 0] - low[edge, 0]) / (high[edge, 1] - low[edge, 1])
        crossing = low[edge, 0] + slope * (rows + 0.5 - low[edge, 1])
        columns = np.ceil(np.clip(crossing, 0, width) - 0.5).astype(np.int64)
        np.logical_xor.at(switches, (rows, columns), True)
    return np.logical_xor.accumulate(switches, axis=1)[:, :width]


def _level_edges(region: npt.NDArray[np.bool_]) -> tuple[Points, Points, Points, Points]:
    """Return left, right, row and sign of every longest level edge; +1 where the region is below.

    Ordered by row, then column.
    """
    height, width = region.shape
    padded = np.zeros((height + 2, width), dtype=np.int8)
    padded[1:-1] = region
    change = np.zeros((height + 1, width + 2), dtype=np.int8)
    change[:, 1:-1] = np.diff(padded, axis=0)
    rows, columns = np.nonzero(change[:, 1:] != change[:, :-1])
    # Between two borders of a row lies one value; it is an edge where that is not 0.
    values = change[rows, columns + 1]
    from_here = np.flatnonzero(values)
    sign = values[from_here].astype(np.int64)
    return columns[from_here], columns[from_here + 1], rows[from_here], sign


def _following(starts: Points, ends: Points, y: Points, sign: Points) -> list[int]:
    """Return for each level edge the one that follows it on its ring.

    The corners on a line from top to bottom are joined two by two, first with second, and so on.
    Where two squares meet at a corner, it comes twice: the level edge of the square above (-1) is
    joined upwards, that of the one below downwards.
    """
    count = starts.size
    order = np.lexsort(
        (np.concatenate([sign, sign]), np.concatenate([y, y]), np.concatenate([starts, ends]))
    )
    pairs = order.reshape(-1, 2)
    # One of a pair is the end of an edge, the other the start of the next.
    is_turned = pairs[:, 0] < count
    before = np.where(is_turned, pairs[:, 1], pairs[:, 0]) - count
    after = np.where(is_turned, pairs[:, 0], pairs[:, 1])
    following = np.empty(count, dtype=np.int64)
    following[before] = after
    found: list[int] = following.tolist()
    return found


def _simple(corners: Points) -> list[Points]:
    """Return a ring cut at the corners that it comes through twice."""
    if np.unique(corners).size == corners.size:
        return [corners]
    found: list[Points] = []
    way: list[int] = []
    place: dict[int, int] = {}
    for corner in corners.tolist():
        at = place.get(corner)
        if at is not None:
            found.append(np.array(way[at:], dtype=np.int64))
            for passed in way[at:]:
                del place[passed]
            del way[at:]
        place[corner] = len(way)
        way.append(corner)
    return [np.array(way, dtype=np.int64), *found]


def _twice_area(points: Points) -> int:
    """Return twice the area inside a line; negative where it runs anticlockwise on a screen."""
    x, y = points.T
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())

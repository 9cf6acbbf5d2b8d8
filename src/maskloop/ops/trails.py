"""One closed line through pixel centres that OpenCV's ``fillPoly`` fills to a region.

Formats that hold one line an object and are drawn by OpenCV lose nothing where the line runs
through the region's own border pixels, into each hole and out again along the same pixels: what
is passed twice is inside neither more nor less often, and all that a line touches is drawn. Only
parts that do not touch need a bridge over the background. Every step goes along one of the eight
directions, which all rasterisers draw alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from maskloop.ops.rings import rings

if TYPE_CHECKING:
    from collections.abc import Iterator

Points = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class _Bridge:
    """The way from a point of the first loop to one of the second, both included."""

    loops: tuple[int, int]
    ends: tuple[int, int]
    way: Points


def trail(region: npt.NDArray[np.bool_]) -> Points:
    """Return the line round a region, its parts and its holes.

    Parameters
    ----------
    region : bool array, shape (y, x)
        Not empty.

    Returns
    -------
    array of int, shape (n, 2)
        Points (x, y), pixel centres at whole numbers, n of at least 3; points repeat where the
        line turns back, and where a region has fewer than three corners.
    """
    found = rings(region)
    edges = [_edges(ring.points) for ring in found]
    loops = [_loop(pixels) for pixels, _ in edges]
    if len(loops) == 1:
        line = loops[0]
    else:
        places = [_places(loop) for loop in loops]
        lefts = {
            (x, y): number
            for number, (pixels, is_left) in enumerate(edges)
            for x, y in pixels[is_left].tolist()
        }
        holes = [number for number, ring in enumerate(found) if ring.is_hole]
        bridges = [_through(region, loops[hole], hole, lefts, places) for hole in holes]
        parts = [ring.part for ring in found]
        if max(parts) > 1:
            bridges += _over(region, parts, places)
        line = _walked(loops, bridges)
    line = _simple(line)
    return line if len(line) > 2 else np.concatenate([line, line[-1:], line[-1:]])[:3]


def _edges(corners: Points) -> tuple[Points, npt.NDArray[np.bool_]]:
    """Return the pixel inside each edge of a ring, and whether the edge is its left one."""
    way = np.roll(corners, -1, axis=0) - corners
    lengths = np.abs(way).sum(axis=1)
    edge = np.repeat(np.arange(len(corners)), lengths)
    place = np.arange(edge.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    step = np.sign(way)[edge]
    dx, dy = step.T
    # The region is on the right: below a way that runs right, to the left of one that runs down.
    aside = np.stack([(dx < 0) | (dy > 0), (dx < 0) | (dy < 0)], axis=1)
    return corners[edge] + step * place[:, None] - aside, dy < 0


def _loop(pixels: Points) -> Points:
    """Return the border pixels of a ring, each once in a row."""
    is_new = (pixels != np.roll(pixels, 1, axis=0)).any(axis=1)
    return pixels[is_new] if is_new.any() else pixels[:1]


def _places(loop: Points) -> dict[tuple[int, int], int]:
    """Return where on a loop each of its pixels is."""
    return {(x, y): at for at, (x, y) in enumerate(loop.tolist())}


def _through(
    region: npt.NDArray[np.bool_],
    loop: Points,
    hole: int,
    lefts: dict[tuple[int, int], int],
    places: list[dict[tuple[int, int], int]],
) -> _Bridge:
    """Return the way from a hole leftwards through the region, to where that ends.

    The loop there reaches further left, so these ways never run in a circle.
    """
    start = int(loop[:, 0].argmin())
    x, y = loop[start].tolist()
    before = np.flatnonzero(~region[y, :x])
    end = (int(before[-1]) + 1 if before.size else 0, y)
    other = lefts[end]
    way = np.array([(x, y), end], dtype=np.int64)
    return _Bridge((hole, other), (start, places[other][end]), way)


def _over(
    region: npt.NDArray[np.bool_], parts: list[int], places: list[dict[tuple[int, int], int]]
) -> list[_Bridge]:
    """Return short ways over the background that join all parts, one less than there are parts."""
    from scipy import ndimage, sparse

    labels, count = ndimage.label(region)
    _, (rows, columns) = ndimage.distance_transform_edt(~region, return_indices=True)
    nearest = labels[rows, columns]
    point = columns + rows * region.shape[1]
    ends = np.concatenate(
        [
            np.stack([point[:, 1:], point[:, :-1]], axis=-1)[nearest[:, 1:] != nearest[:, :-1]],
            np.stack([point[1:], point[:-1]], axis=-1)[nearest[1:] != nearest[:-1]],
        ]
    )
    y, x = np.divmod(ends, region.shape[1])
    lengths = np.maximum(np.abs(x[:, 0] - x[:, 1]), np.abs(y[:, 0] - y[:, 1]))
    pairs = np.sort(labels.reshape(-1)[ends], axis=1) - 1
    order = np.lexsort((ends[:, 1], ends[:, 0], lengths, pairs[:, 1], pairs[:, 0]))
    firsts = order[np.flatnonzero(np.diff(pairs[order], axis=0, prepend=-1).any(axis=1))]
    table = {tuple(pairs[n].tolist()): n for n in firsts}
    graph = sparse.coo_array((lengths[firsts], tuple(pairs[firsts].T)), shape=(count, count))
    tree = sparse.csgraph.minimum_spanning_tree(graph.tocsr()).tocoo()
    loops_of: dict[int, list[int]] = {}
    for number, part in enumerate(parts):
        loops_of.setdefault(part, []).append(number)
    bridges = []
    for one, other in zip(tree.row.tolist(), tree.col.tolist(), strict=True):
        n = table[min(one, other), max(one, other)]
        at = [(int(x[n, side]), int(y[n, side])) for side in (0, 1)]
        on = [next(k for k in loops_of[int(labels[b, a])] if (a, b) in places[k]) for a, b in at]
        held = (places[on[0]][at[0]], places[on[1]][at[1]])
        bridges.append(_Bridge((on[0], on[1]), held, _way(*at)))
    return bridges


def _way(start: tuple[int, int], end: tuple[int, int]) -> Points:
    """Return start, a turn, and end: diagonally as far as that helps, then straight."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    run = min(abs(dx), abs(dy))
    turn = (start[0] + run * int(np.sign(dx)), start[1] + run * int(np.sign(dy)))
    return np.array([start, turn, end], dtype=np.int64)


def _walked(loops: list[Points], bridges: list[_Bridge]) -> Points:
    """Return one closed line through all loops; each bridge is passed out and back."""
    met: dict[int, list[tuple[int, int, int, int]]] = {}
    for number, bridge in enumerate(bridges):
        (one, other), (here, there) = bridge.loops, bridge.ends
        met.setdefault(one, []).append((here, number, other, there))
        met.setdefault(other, []).append((there, number, one, here))

    def visit(loop: int, start: int, came: int) -> Iterator[Points | tuple[int, int, int]]:
        points = np.roll(loops[loop], -start, axis=0)
        leaving = sorted(
            ((at - start) % len(points), number, other, there)
            for at, number, other, there in met.get(loop, ())
            if number != came
        )
        last = 0
        for at, number, other, there in leaving:
            yield points[last : at + 1]
            yield number, other, there
            last = at
        yield points[last:]
        yield points[:1]

    line: list[Points] = []
    visits = [visit(0, 0, -1)]
    ways_back: list[Points] = []
    while visits:
        step = next(visits[-1], None)
        if step is None:
            visits.pop()
            line += [ways_back.pop()] if ways_back else []
        elif isinstance(step, tuple):
            number, other, there = step
            way = bridges[number].way
            way = way if bridges[number].loops[1] == other else way[::-1]
            line.append(way)
            ways_back.append(way[::-1])
            visits.append(visit(other, there, number))
        else:
            line.append(step)
    return np.concatenate(line)


def _simple(line: Points) -> Points:
    """Return a closed line without points that repeat or lie between their neighbours."""
    line = line[(line != np.roll(line, 1, axis=0)).any(axis=1)] if len(line) > 1 else line
    if len(line) < 2:
        return line
    after = np.sign(np.roll(line, -1, axis=0) - line)
    is_turn = (after != np.roll(after, 1, axis=0)).any(axis=1)
    turns: Points = line[is_turn]
    return turns

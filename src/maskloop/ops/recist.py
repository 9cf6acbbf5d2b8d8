"""Long and short axis of regions, slice by slice, from the runs of their rows.

Points lie on voxel edges: half-way between a voxel's centre inside and the neighbour's outside,
along an array axis. Such a point is never further than half a step from a centre inside, so a long
axis is never more than one in-plane step longer than that of the shape that was drawn; and a line
one voxel long has the length of a voxel, not none.

References
----------
.. [1] E. A. Eisenhauer et al., "New response evaluation criteria in solid tumours: revised RECIST
   guideline (version 1.1)", European Journal of Cancer 45, 2009: longest diameter in the plane of
   measurement. The short axis is the longest chord at right angles to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from maskloop.core.geometry import Geometry

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_PASSES = 64  # of taking away points that are no corner; more than enough, and fewer do no harm
_PAIRS = 1 << 20  # compared at once
# The outline through a cell of four voxel centres, by which of them are inside (1: first row, first
# column; 2: first row, second column; 4, 8: second row): between the middles of which of its sides.
_SIDES = np.array([[0.0, 0.5], [0.5, 0.0], [0.5, 1.0], [1.0, 0.5]])  # top, left, right, bottom
_TOP, _LEFT, _RIGHT, _BOTTOM = range(4)
_LINES = {
    1: (_TOP, _LEFT), 2: (_TOP, _RIGHT), 3: (_LEFT, _RIGHT), 4: (_LEFT, _BOTTOM),
    5: (_TOP, _BOTTOM), 6: (_TOP, _LEFT), 7: (_RIGHT, _BOTTOM), 8: (_RIGHT, _BOTTOM),
    9: (_TOP, _RIGHT), 10: (_TOP, _BOTTOM), 11: (_LEFT, _BOTTOM), 12: (_LEFT, _RIGHT),
    13: (_TOP, _RIGHT), 14: (_TOP, _LEFT),
}  # fmt: skip
_SECOND_LINES = {6: (_RIGHT, _BOTTOM), 9: (_LEFT, _BOTTOM)}  # voxels that touch at a corner only
_LINE, _SECOND = np.zeros((16, 2, 2)), np.zeros((16, 2, 2))
for _ends, _table in ((_LINES, _LINE), (_SECOND_LINES, _SECOND)):
    for _code, _pair in _ends.items():
        _table[_code] = _SIDES[list(_pair)]


@dataclass(frozen=True, slots=True)
class Axis:
    """A straight line on one slice.

    Parameters
    ----------
    length : float
        In mm, or in pixels where the grid is in pixels.
    start, stop : tuple of float
        Index coordinates of both ends in array order; whole numbers are voxel centres.
    """

    length: float
    start: tuple[float, ...]
    stop: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """The planes of a grid in which axes are measured.

    Parameters
    ----------
    shape : tuple of int
        ``(slices, rows, columns)``; one slice for a 2D grid.
    across : int or None
        Array axis that steps from slice to slice; None for a 2D grid.
    gram : array of shape (2, 2)
        Scalar products of the steps along rows' and columns' axes; holds for sheared grids too.
    """

    shape: tuple[int, int, int]
    across: int | None
    gram: Floats

    @classmethod
    def of(cls, geometry: Geometry) -> Planes:
        """Return the planes nearest axial: whose normal is nearest the world's z axis."""
        steps = geometry.affine[:-1, :-1]
        if geometry.ndim == 2:
            height, width = geometry.shape
            return cls((1, height, width), None, steps.T @ steps)
        across = _axial(geometry)
        inside = [a for a in range(3) if a != across]
        columns = steps[:, inside]
        length, height, width = (geometry.shape[a] for a in (across, *inside))
        return cls((length, height, width), across, columns.T @ columns)

    def stack(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view ``(slice, row, column)`` of an array on the grid."""
        return array[None] if self.across is None else np.moveaxis(array, self.across, 0)

    def index(self, place: tuple[float, float, float]) -> tuple[float, ...]:
        """Return the array index of a place given as slice, row and column."""
        if self.across is None:
            return place[1:]
        rest = list(place[1:])
        rest.insert(self.across, place[0])
        return tuple(rest)

    def place(self, index: tuple[int, ...]) -> tuple[int, int, int]:
        """Return slice, row and column of an array index."""
        if self.across is None:
            return (0, index[0], index[1])
        row, column = (n for a, n in enumerate(index) if a != self.across)
        return (index[self.across], row, column)


def _axial(geometry: Geometry) -> int:
    """Return the array axis across the planes nearest axial; the best matching axis on a tie."""
    steps = geometry.affine[:-1, :-1]
    normals = np.linalg.inv(steps)  # row a is normal to the plane of the other two axes
    cosines = np.abs(normals[:, 2]) / np.linalg.norm(normals, axis=1)
    usual = geometry.axis_order.index(2)
    best = int(cosines.argmax())
    return usual if cosines[usual] > cosines[best] - 1e-9 else best


def longest(
    groups: Ints, rows: Ints, lefts: Ints, rights: Ints, gram: Floats
) -> tuple[Floats, Floats]:
    """Return the longest distance in each group of rows, and its ends.

    Parameters
    ----------
    groups : array of int, shape (n,)
        Which slice (of which object) a row belongs to; ascending. Groups do not mix.
    rows : array of int, shape (n,)
        Row numbers, ascending within a group, each once.
    lefts, rights : array of int, shape (n,)
        First and last column inside the region.
    gram : array of shape (2, 2)
        As in `Planes`.

    Returns
    -------
    lengths : array of shape (g,)
        One entry a group, in their order.
    ends : array of shape (g, 4)
        Row and column of both ends.
    """
    left = _corners(groups, rows, lefts)
    right = _corners(groups, rows, -rights)
    group = np.concatenate((groups[left], groups[right]))
    y = np.concatenate((rows[left], rows[right]))
    x = np.concatenate((lefts[left], rights[right]))
    order = np.argsort(group, kind="stable")
    group, y, x = group[order], y[order], x[order]
    firsts = np.flatnonzero(np.diff(group, prepend=group[:1] - 1))
    sizes = np.diff(firsts, append=group.size)
    lengths, ends = np.empty(firsts.size), np.empty((firsts.size, 4))
    worked = np.cumsum(sizes**2)
    begin = 0
    while begin < firsts.size:
        base = worked[begin - 1] if begin else 0
        stop = max(begin + 1, int(np.searchsorted(worked, base + _PAIRS, side="right")))
        part = slice(begin, stop)
        lengths[part], ends[part] = _furthest(y, x, firsts[part], sizes[part], gram)
        begin = stop
    return lengths, ends


def _corners(groups: Ints, rows: Ints, columns: Ints) -> Ints:
    """Return which points may be corners of each group's hull on the side of small columns.

    A point on or behind the line between two others of its group is no corner; taking many such
    away at once never takes a corner.
    """
    kept = np.arange(groups.size)
    for _ in range(_PASSES):
        g, y, x = groups[kept], rows[kept], columns[kept]
        is_inner = np.zeros(kept.size, dtype=bool)
        is_inner[1:-1] = (g[:-2] == g[1:-1]) & (g[2:] == g[1:-1])
        behind = (x[1:-1] - x[:-2]) * (y[2:] - y[:-2]) >= (x[2:] - x[:-2]) * (y[1:-1] - y[:-2])
        is_inner[1:-1] &= behind
        if not is_inner.any():
            break
        kept = kept[~is_inner]
    return kept


def _furthest(y: Ints, x: Ints, firsts: Ints, sizes: Ints, gram: Floats) -> tuple[Floats, Floats]:
    """Return the longest distance and its ends among the points of each group."""
    counts = sizes**2
    begins = np.cumsum(counts) - counts
    group = np.repeat(np.arange(sizes.size), counts)
    within = np.arange(counts.sum()) - begins[group]
    i = firsts[group] + within // sizes[group]
    j = firsts[group] + within % sizes[group]
    dy, dx = y[i] - y[j], x[i] - x[j]
    # Both ends move half a step apart along one array axis: out to the voxels' edges.
    along_y, along_x = _squared(dy + 1, dx, gram), _squared(dy, dx + 1, gram)
    squared = np.maximum(along_y, along_x)
    best = np.maximum.reduceat(squared, begins)
    hits = np.flatnonzero(squared == best[group])
    at = hits[np.flatnonzero(np.diff(group[hits], prepend=-1))]
    half_y = np.where(along_y[at] >= along_x[at], 0.5, 0.0)
    half_x = 0.5 - half_y
    i, j = i[at], j[at]
    ends = np.stack((y[i] + half_y, x[i] + half_x, y[j] - half_y, x[j] - half_x), axis=1)
    return np.sqrt(best), ends


def _squared(dy: Ints, dx: Ints, gram: Floats) -> Floats:
    found: Floats = gram[0, 0] * dy**2 + 2 * gram[0, 1] * dy * dx + gram[1, 1] * dx**2
    return found


def shortest_across(
    region: npt.NDArray[np.bool_], ends: Floats, gram: Floats
) -> tuple[float, Floats]:
    """Return the longest chord at right angles to a line, and its ends.

    A chord reaches from the first to the last point of the region's outline on its line; where the
    region is bent or has holes, it may cross what lies between.

    Parameters
    ----------
    region : array of bool, shape (y, x)
        One slice.
    ends : array of shape (4,)
        Row and column of both ends of the line, in the region's own indices.
    gram : array of shape (2, 2)
        As in `Planes`.
    """
    root = np.linalg.cholesky(gram).T  # index steps to an upright frame in mm
    outline = _outline(region) @ root.T
    along = root @ (ends[2:] - ends[:2])
    along /= math.hypot(*along)
    across = np.array([-along[1], along[0]])
    u, v = outline @ along, outline @ across
    is_turned = u[:, 0] > u[:, 1]
    u[is_turned], v[is_turned] = u[is_turned, ::-1], v[is_turned, ::-1]
    # Between two corners of the outline a chord's length is at most that at one of them.
    where = np.unique(u)
    low, high = np.searchsorted(where, u[:, 0]), np.searchsorted(where, u[:, 1])
    counts = high - low + 1
    line = np.repeat(np.arange(len(u)), counts)
    at = np.repeat(low - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    width = u[line, 1] - u[line, 0]
    share = np.divide(where[at] - u[line, 0], width, out=np.zeros(at.size), where=width > 0)
    height = v[line, 0] + share * (v[line, 1] - v[line, 0])
    # A line that itself runs across has both its ends at one place.
    at, height = np.concatenate((at, high)), np.concatenate((height, v[:, 1]))
    top, bottom = np.full(where.size, -np.inf), np.full(where.size, np.inf)
    np.maximum.at(top, at, height)
    np.minimum.at(bottom, at, height)
    best = int((top - bottom).argmax())
    points = where[best] * along + np.stack((bottom[best] * across, top[best] * across))
    found: Floats = np.linalg.solve(root, points.T).T.reshape(-1)
    return float(top[best] - bottom[best]), found


def _outline(region: npt.NDArray[np.bool_]) -> Floats:
    """Return the pieces ``(n, 2 ends, row and column)`` of the line round a region.

    Through the middles between neighbours of which one is inside (marching squares [1]_); voxels
    that touch at a corner are joined.

    References
    ----------
    .. [1] W. E. Lorensen and H. E. Cline, "Marching cubes", SIGGRAPH 1987, in two dimensions.
    """
    height, width = region.shape
    inside = np.zeros((height + 2, width + 2), dtype=np.uint8)
    inside[1:-1, 1:-1] = region
    codes = inside[:-1, :-1] + 2 * inside[:-1, 1:] + 4 * inside[1:, :-1] + 8 * inside[1:, 1:]
    at = np.flatnonzero((codes != 0) & (codes != 15))
    code = codes.reshape(-1)[at]
    cells = np.stack(np.divmod(at, width + 1), axis=1)[:, None] - 1.0  # first row: outside
    is_double = (code == 6) | (code == 9)
    second = cells[is_double] + _SECOND[code[is_double]]
    found: Floats = np.concatenate((cells + _LINE[code], second))
    return found


def axes_of(region: npt.NDArray[np.bool_], geometry: Geometry) -> tuple[Axis, Axis] | None:
    """Return the long and the short axis of a region; None where it is empty.

    The long axis is the largest distance between two points of the region on one axial slice, over
    all slices; the short axis lies on the same slice at right angles to it.

    Parameters
    ----------
    region : array of bool
        On the grid, ``(z, y, x)`` or ``(y, x)``.
    geometry : Geometry
        The grid.

    Examples
    --------
    >>> from maskloop.core.geometry import Geometry
    >>> region = np.zeros((8, 9), bool)
    >>> region[2:4, 1:7] = True
    >>> long, short = axes_of(region, Geometry.pixels(region.shape))
    >>> round(long.length, 3), round(short.length, 3)
    (6.083, 2.028)
    """
    planes = Planes.of(geometry)
    stack = planes.stack(region)
    groups, rows = np.nonzero(stack.any(axis=2))
    if not groups.size:
        return None
    lines = stack[groups, rows]
    lefts = lines.argmax(axis=1)
    rights = lines.shape[1] - 1 - lines[:, ::-1].argmax(axis=1)
    lengths, ends = longest(groups, rows, lefts, rights, planes.gram)
    best = int(lengths.argmax())
    number = int(groups[np.flatnonzero(np.diff(groups, prepend=-1))[best]])
    short, chord = shortest_across(stack[number], ends[best], planes.gram)
    return (
        axis(float(lengths[best]), number, ends[best], planes),
        axis(short, number, chord, planes),
    )


def axis(length: float, number: int, ends: Floats, planes: Planes) -> Axis:
    """Return a line on slice `number` as an `Axis` in array indices."""
    first, last = (planes.index((float(number), float(y), float(x))) for y, x in ends.reshape(2, 2))
    return Axis(length, first, last)

"""Regions inside closed rings, in the two worlds in which tools count: pixel corners and centres.

Where corners are whole numbers, pixel (y, x) covers ``x..x+1`` by ``y..y+1`` and belongs to a
region if its centre lies inside; rings along pixel edges are exact. Where centres are whole
numbers, as in OpenCV, a ring runs through pixels and all it touches belongs to the region.

References
----------
.. [1] J. E. Bresenham, "Algorithm for computer control of a digital plotter", IBM Systems
   Journal 4(1), 1965.
.. [2] J. Foley et al., "Computer Graphics: Principles and Practice", 2nd ed., section 3.6:
   filling by scan lines, odd and even crossings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError
from maskloop.ops.rings import filled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.core.geometry import Box

Ring = npt.NDArray[Any]  # Any: whole or fractional
Found = tuple["Box", npt.NDArray[np.bool_]]
_FRACTION = 16  # bits behind the point in OpenCV's edges
_FAR = 1e9  # pixels
_MOST = 100_000_000  # crossings of scan lines: more is no drawing


def fill_corners(lines: Sequence[Ring], shape: tuple[int, int]) -> Found | None:
    """Return the pixels whose centres lie inside an odd number of closed lines.

    Parameters
    ----------
    lines : sequence of array, shape (n, 2)
        Points (x, y) in pixels; pixel corners at whole numbers.
    shape : tuple of int
        ``(height, width)`` of the picture; what lies outside is cut off.

    Returns
    -------
    tuple of (box, bool array), or None where no pixel is inside.

    Raises
    ------
    FormatError
        If a coordinate is no number.
    """
    if not lines:
        return None
    points = [np.asarray(ring, dtype=np.float64).reshape(-1, 2) for ring in lines]
    together = np.concatenate(points)
    if not (np.abs(together) < _FAR).all():
        raise _no_number()
    most = np.array(shape[::-1])
    low = np.clip(np.floor(together.min(axis=0)), 0, most).astype(np.int64)
    high = np.clip(np.ceil(together.max(axis=0)), 0, most).astype(np.int64)
    (left, top), (width, height) = low.tolist(), (high - low).tolist()
    inside = filled([ring - low for ring in points], (height, width))
    return cropped(inside, top, left)


def fill_centres(ring: npt.NDArray[np.int64], shape: tuple[int, int]) -> Found | None:
    """Return what OpenCV's ``fillPoly`` draws for one ring: its inside and its line.

    Parameters
    ----------
    ring : array of int, shape (n, 2)
        Points (x, y); pixel centres at whole numbers; cut off at the border of the picture.
    shape : tuple of int
        ``(height, width)`` of the picture.
    """
    start = np.clip(ring, 0, np.array(shape[::-1]) - 1).astype(np.int64)
    end = np.roll(start, -1, axis=0)
    down = (start[:, 1] <= end[:, 1])[:, None]
    low, high = np.where(down, start, end), np.where(down, end, start)
    edge, rows = _rows(low[:, 1], high[:, 1])
    run, rise = (high - low).T
    rise = np.maximum(rise, 1)
    slope = np.sign(run) * ((np.abs(run) << _FRACTION) // rise)
    x = (low[edge, 0] << _FRACTION) + (rows - low[edge, 1]) * slope[edge]
    order = np.lexsort((x, rows))
    rows, x = rows[order][::2], x[order]
    left, right = -((-x[::2]) >> _FRACTION), x[1::2] >> _FRACTION
    drawn = line(start, end)
    return _region(
        np.concatenate([rows, drawn[:, 1]]),
        np.concatenate([left, drawn[:, 0]]),
        np.concatenate([right, drawn[:, 0]]) + 1,
    )


def line(start: npt.NDArray[np.int64], end: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the pixels (x, y) of lines between pixels, drawn from left to right as OpenCV does.

    Parameters
    ----------
    start, end : array of int, shape (n, 2)
        Both ends of each line, which belong to it.
    """
    is_turned = (end[:, 0] < start[:, 0])[:, None]
    start, end = np.where(is_turned, end, start), np.where(is_turned, start, end)
    run, fall = (end - start).T
    step, fall = np.where(fall < 0, -1, 1), np.abs(fall)
    is_flat = run >= fall
    longer, shorter = np.maximum(run, fall), np.minimum(run, fall)
    edge, place = _rows(np.zeros_like(longer), longer + 1)
    twice = np.maximum(2 * longer, 1)[edge]
    aside = -((longer[edge] - 2 * shorter[edge] * place) // twice)
    flat = is_flat[edge]
    x = start[edge, 0] + np.where(flat, place, aside)
    y = start[edge, 1] + step[edge] * np.where(flat, aside, place)
    return np.stack([x, y], axis=1)


def ellipse(
    centre: tuple[float, float],
    radii: tuple[float, float],
    shape: tuple[int, int],
    *,
    degrees: float = 0.0,
) -> Found | None:
    """Return the pixels whose centres lie in an ellipse; pixel corners are whole numbers.

    Parameters
    ----------
    centre, radii : tuple of float
        (x, y), in pixels.
    shape : tuple of int
        ``(height, width)`` of the picture.
    degrees : float
        Turn from the x axis to the y axis.
    """
    reach = max(radii)
    if not (np.abs([*centre, *radii, degrees]) < _FAR).all():
        raise _no_number()
    (left, top), (right, bottom) = (
        [
            int(np.clip(c + side * (reach + 1), 0, most))
            for c, most in zip(centre, shape[::-1], strict=True)
        ]
        for side in (-1, 1)
    )
    y, x = np.mgrid[top:bottom, left:right] + 0.5
    turn = np.deg2rad(degrees)
    along = (x - centre[0]) * np.cos(turn) + (y - centre[1]) * np.sin(turn)
    across = (y - centre[1]) * np.cos(turn) - (x - centre[0]) * np.sin(turn)
    inside = (along * radii[1]) ** 2 + (across * radii[0]) ** 2 <= (radii[0] * radii[1]) ** 2
    return cropped(inside, top, left) if min(radii) > 0 else None


def cropped(region: npt.NDArray[np.bool_], top: int = 0, left: int = 0) -> Found | None:
    """Return the box of what is true, moved by (top, left), and the region inside it."""
    rows = np.flatnonzero(region.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(region.any(axis=0))
    y, x = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    box = (
        slice(top + int(y.start), top + int(y.stop)),
        slice(left + int(x.start), left + int(x.stop)),
    )
    return box, np.ascontiguousarray(region[y, x])


def _rows(
    first: npt.NDArray[np.int64], past: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return for each edge the numbers from first to past, and whose they are."""
    counts = np.maximum(past - first, 0)
    if int(counts.sum()) > _MOST:
        msg = f"expected a ring of at most {_MOST:,} crossings, got {int(counts.sum()):,}"
        raise FormatError(f"{msg}; the file is damaged")
    edge = np.repeat(np.arange(counts.size), counts)
    place = np.arange(edge.size) - np.repeat(np.cumsum(counts) - counts, counts)
    return edge, first[edge] + place


def _region(
    rows: npt.NDArray[np.int64], left: npt.NDArray[np.int64], past: npt.NDArray[np.int64]
) -> Found | None:
    """Return the union of spans ``left..past`` of rows."""
    kept = past > left
    rows, left, past = rows[kept], left[kept], past[kept]
    if not rows.size:
        return None
    top, bottom = int(rows.min()), int(rows.max()) + 1
    start, end = int(left.min()), int(past.max())
    change = np.zeros((bottom - top, end - start + 1), np.int32)
    np.add.at(change, (rows - top, left - start), 1)
    np.add.at(change, (rows - top, past - start), -1)
    return cropped(np.cumsum(change[:, :-1], axis=1) > 0, top, start)


def _no_number() -> FormatError:
    return FormatError(
        "expected coordinates near the picture, got one far off or no number; repair or remove "
        "the shape"
    )

"""Strokes and polygons as regions: what a hand draws, in millimetres, on its own box."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError
from maskloop.core.image import smallest_unsigned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.core.geometry import Box
    from maskloop.core.mask import Mask

Region = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.float64]


def along(
    shape: Sequence[int],
    spacing: Sequence[float],
    path: Sequence[Sequence[float]],
    radius: float,
    *,
    across: int | None = None,
) -> tuple[Box, Region]:
    """Return the voxels within a distance of a path, in the box that holds them.

    Parameters
    ----------
    shape : sequence of int
        Of the array.
    spacing : sequence of float
        Step along each axis.
    path : sequence of positions
        Corners in array index order, joined by straight lines; one is a single dab.
    radius : float
        Distance of voxel centres, in the unit of `spacing`; the nearest voxels of the corners
        belong in any case.
    across : int, optional
        An axis: only the slices of the path across it get voxels, discs instead of balls.

    Returns
    -------
    box : tuple of slice
        Empty slices where the path misses the array.
    region : array of bool
        Of the box's shape.
    """
    steps = np.asarray(spacing, dtype=np.float64)
    corners = np.asarray(path, dtype=np.float64).reshape(-1, len(steps))
    if across is not None:
        corners = corners.copy()
        corners[:, across] = np.floor(corners[:, across] + 0.5)
    reach = np.array([radius / step if axis != across else 0 for axis, step in enumerate(steps)])
    box = _box(corners, reach, shape)
    region = np.zeros([part.stop - part.start for part in box], dtype=bool)
    start = np.array([part.start for part in box])
    ends = np.concatenate((corners[1:], corners[-1:]))
    for one, other in zip(corners, ends, strict=True):
        part = _box(np.stack([one, other]), reach, shape)
        inner = tuple(slice(p.start - s, p.stop - s) for p, s in zip(part, start, strict=True))
        region[inner] |= _near(part, steps, one, other) <= radius**2 * (1 + 1e-9)
        nearest = np.floor(one + 0.5).astype(int)
        if all(0 <= i < n for i, n in zip(nearest, shape, strict=True)):
            region[tuple(nearest - start)] = True
    return box, region


def _box(corners: Positions, reach: Positions, shape: Sequence[int]) -> Box:
    low = np.minimum(np.ceil(corners - reach - 1e-9), np.floor(corners + 0.5)).min(axis=0)
    high = np.maximum(np.floor(corners + reach + 1e-9), np.floor(corners + 0.5)).max(axis=0)
    starts = [min(max(0, int(a)), n) for a, n in zip(low, shape, strict=True)]
    return tuple(
        slice(a, max(a, min(n, int(b) + 1))) for a, b, n in zip(starts, high, shape, strict=True)
    )


def _near(box: Box, steps: Positions, one: Positions, other: Positions) -> npt.NDArray[np.float64]:
    """Return the squared distances of the voxels of a box to a straight line between two ends."""
    rays = np.ix_(
        *[
            (np.arange(part.start, part.stop) - a) * step
            for part, a, step in zip(box, one, steps, strict=True)
        ]
    )
    way = (other - one) * steps
    length = float(way @ way)
    whole = np.asarray(sum(np.square(ray) for ray in rays), dtype=np.float64)
    if length == 0:
        return whole
    inner = np.asarray(sum(ray * w for ray, w in zip(rays, way, strict=True)), dtype=np.float64)
    share = np.clip(inner / length, 0, 1)
    return whole - 2 * share * inner + np.square(share) * length


def moved(found: tuple[Box, Region], box: Box) -> Region:
    """Return a region, told in a box of its own, in another box, as far as both meet."""
    inner, outer = [], []
    for own, other in zip(found[0], box, strict=True):
        start = max(own.start, other.start)
        stop = max(start, min(own.stop, other.stop))
        inner.append(slice(start - own.start, stop - own.start))
        outer.append(slice(start - other.start, stop - other.start))
    region = np.zeros([part.stop - part.start for part in box], dtype=bool)
    region[tuple(outer)] = found[1][tuple(inner)]
    return region


def slice_of(
    points: Sequence[Sequence[float]], shape: Sequence[int], axis: str, *, of: str
) -> tuple[int | None, int]:
    """Return the axis across the slice that positions lie on, and its number; None in a picture.

    Parameters
    ----------
    points : sequence of positions
        In array index order.
    shape : sequence of int
        Of the array.
    axis : {"auto", "z", "y", "x"}
        The array axis across the slice, which is then that of the first position; ``"auto"`` finds
        the first axis along which all positions agree.
    of : str
        Name of the tool, for the message.

    Raises
    ------
    InputError
        If positions lie on several slices and no axis is given, or the slice lies outside.
    """
    if len(shape) == 2:
        return None, 0
    numbers = np.floor(np.asarray(points, dtype=np.float64) + 0.5).astype(int)
    agree = [k for k in range(3) if (numbers[:, k] == numbers[0, k]).all()]
    found = (agree[0] if agree else None) if axis == "auto" else "zyx".index(axis)
    if found is None:
        msg = (
            f"expected positions on one slice for {of}, got some on several; draw on one slice, "
            "along the axes of the array"
        )
        raise InputError(msg)
    number = int(numbers[0, found])
    if not 0 <= number < shape[found]:
        msg = f"expected a slice from 0 to {shape[found] - 1} for {of}, got {number}; draw on one"
        raise InputError(msg)
    return found, number


def polygon(corners: Sequence[Sequence[float]], shape: Sequence[int]) -> Region:
    """Return the pixels of a plane whose centres lie inside a closed polygon, by even and odd.

    Parameters
    ----------
    corners : sequence of (row, column)
        At least three; the last is joined to the first, and lines may cross.
    shape : (int, int)
        Of the plane; what lies outside is cut off.

    References
    ----------
    .. [1] J. Foley et al., "Computer Graphics: Principles and Practice", 1990, section 3.6:
       scan lines between the crossings of each row.
    """
    rows, columns = shape
    flips = np.zeros((rows, columns + 1), dtype=np.uint8)
    ends = np.asarray(corners, dtype=np.float64)
    for (top, left), (low, right) in zip(ends, np.roll(ends, -1, axis=0), strict=True):
        if top > low:
            top, left, low, right = low, right, top, left
        lines = np.arange(max(0, math.ceil(top)), min(rows, math.ceil(low)))
        if lines.size:
            at = left + (lines - top) * (right - left) / (low - top)
            flips[lines, np.clip(np.ceil(at), 0, columns).astype(int)] ^= 1
    inside: Region = np.logical_xor.accumulate(flips[:, :-1].astype(bool), axis=1)
    return inside


def room_for(mask: Mask, label: int) -> npt.NDArray[Any]:
    """Return a copy of the ids, in a type that holds `label` too."""
    return mask.data.astype(np.promote_types(mask.data.dtype, smallest_unsigned(label)))


def taken(mask: Mask, label: int, box: tuple[slice | int, ...], *, over: str) -> Region:
    """Return which voxels of a box a drawing may change: background and the label, or all.

    Voxels of locked labels are never among them.
    """
    part = mask.data[box]
    if over == "all":
        locked = [i for i, row in mask.labels.items() if row.locked]
        return np.isin(part, locked, invert=True) if locked else np.ones(part.shape, dtype=bool)
    return np.asarray((part == 0) | (part == label))


def hosts(mask: Mask, label: int, points: Sequence[Sequence[float]]) -> list[int]:
    """Return the unlocked labels at positions, background and `label` left out."""
    found = set()
    for point in points:
        index = tuple(math.floor(v + 0.5) for v in point)
        if all(0 <= i < n for i, n in zip(index, mask.data.shape, strict=True)):
            found.add(int(mask.data[index]))
    return sorted(i for i in found - {0, label} if not is_locked(mask, i))


def is_locked(mask: Mask, label: int) -> bool:
    """Whether a label's row is locked; an id without a row is not."""
    row = mask.labels.get(label)
    return row is not None and row.locked


def grown_over(mask: Mask, label: int, box: Box, points: Sequence[Sequence[float]]) -> Region:
    """Return which voxels of a box an image-guided growth may take from its starting points.

    Background, the label itself, and the labels in which the points lie: a tumour begun inside the
    liver takes liver, but no vessel beside it and no second tumour.
    """
    part: npt.NDArray[Any] = mask.data[box]
    free: Region = (part == 0) | (part == label)
    for host in hosts(mask, label, points):
        free |= part == host
    return free

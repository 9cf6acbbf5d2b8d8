"""Move pixels, labels and scores from one grid to another; voxel edges stay where they are.

Everything works on the product of three coordinate lists (one an axis), so that interpolation
goes axis by axis. Labels are decided without ever making one volume a class: where the corners of
a cell agree, every point inside it has their label, and only the other cells are computed.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import GeometryError, InputError
from maskloop.core.image import Image, smallest_unsigned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from maskloop.core.geometry import Geometry

Array = npt.NDArray[Any]  # Any: the dtype goes through
Coordinates = tuple[npt.NDArray[np.float64], ...]
Weights = npt.NDArray[np.float32]

_CHUNK = 1 << 16  # values worked on at a time, so that they stay in the processor's cache
_SLACK = 1e-3  # of a voxel, by which two grids may differ and count as aligned


def image(image: Image, spacing: Sequence[float], *, order: int = 1) -> Image:
    """Return the image on a grid of the given spacing that covers the same box.

    Parameters
    ----------
    image : Image
        Any dtype; time and channel axes are carried along.
    spacing : sequence of float
        Wanted step along each array axis, > 0. The extent is kept exactly, so that the step got
        may differ by a fraction of a voxel over the whole axis.
    order : int
        0 nearest, 1 linear, 2 or 3 spline. Nothing is smoothed before shrinking.

    Returns
    -------
    Image
        Same dtype (whole numbers are rounded); outermost voxel *edges* coincide with the source's.

    Raises
    ------
    GeometryError
        If a spacing is not positive.
    InputError
        If the order is not 0 to 3.
    """
    grid = image.geometry.resampled(spacing)
    before = int(image.has_time)
    old, new = image.geometry.shape, grid.shape
    lead = tuple(np.arange(n, dtype=np.float64) for n in image.data.shape[:before])
    tail = tuple(np.arange(n, dtype=np.float64) for n in image.data.shape[before + len(old) :])
    data = _interpolate(image.data, (*lead, *_edge_aligned(old, new), *tail), order)
    return replace(image, data=data, geometry=grid)


def nearest(ids: Array, shape: Sequence[int]) -> Array:
    """Return an array on a grid of `shape` over the same box, each voxel from the nearest one.

    Parameters
    ----------
    ids : array
        ``(z, y, x)`` or ``(y, x)``, any dtype.
    shape : sequence of int
        Wanted shape; outermost voxel edges coincide.
    """
    return _take(ids, _edge_aligned(ids.shape, shape))


def labels(ids: Array, shape: Sequence[int], *, n: int | None = None) -> Array:
    """Return label ids on a grid of `shape` over the same box, by a vote of the nearest voxels.

    Each new voxel takes the label whose one-hot map, interpolated linearly, is highest there, and
    the lowest such id where several are. Edges come out smooth, not stepped.

    Parameters
    ----------
    ids : array of unsigned int
        ``(z, y, x)`` or ``(y, x)``.
    shape : sequence of int
        Wanted shape; outermost voxel edges coincide.
    n : int, optional
        Number of labels that can occur, background included; with 2 a check is saved.

    Returns
    -------
    array
        Same dtype, of `shape`.
    """
    return _vote(ids, _edge_aligned(ids.shape, shape), n)


def linear(values: Array, shape: Sequence[int]) -> Array:
    """Return numbers on a grid of `shape` over the same box, interpolated linearly.

    Some planes at a time: beside the result, no volume of floats is made.

    Parameters
    ----------
    values : array
        ``(z, y, x)`` or ``(y, x)``, any dtype; whole numbers are rounded.
    shape : sequence of int
        Wanted shape; outermost voxel edges coincide.
    """
    out = np.empty(tuple(shape), dtype=values.dtype)
    for part, found in linear_parts(values, shape):
        out[part] = _as_dtype(found, values.dtype)
    return out


def linear_parts(values: Array, shape: Sequence[int]) -> Iterator[tuple[slice, Array]]:
    """Yield a few planes at a time of `values` on a grid of `shape`, as floats.

    Parameters
    ----------
    values : array
        ``(*spatial)`` or ``(class, *spatial)``; the grid is that of the last axes.
    shape : sequence of int
        Wanted spatial shape; outermost voxel edges coincide.

    Yields
    ------
    slice
        Planes along the first spatial axis.
    array of float
        Their values, the class axis first where there was one.
    """
    spatial = values.shape[values.ndim - len(shape) :]
    at = _edge_aligned(spatial, shape)
    volumes = values.reshape(-1, *spatial)
    plane = len(volumes) * int(np.prod(shape[1:]))
    step = max(1, 16 * _CHUNK // max(1, plane))
    for first in range(0, shape[0], step):
        here = at[0][first : first + step]
        low, high = max(0, int(np.floor(here[0]))), int(np.floor(here[-1])) + 2
        found = [_linear(volume[low:high], (here - low, *at[1:])) for volume in volumes]
        whole = found[0] if values.ndim == len(shape) else np.stack(found)
        yield slice(first, first + len(here)), whole


def scores(scores: Array, shape: Sequence[int]) -> Array:
    """Return the winning class on a finer (or coarser) grid, without scores on that grid.

    Equal to interpolating every class linearly and taking the highest, the lowest class where
    several are.

    Parameters
    ----------
    scores : array of float
        ``(class, z, y, x)`` or ``(class, y, x)``.
    shape : sequence of int
        Wanted spatial shape; outermost voxel edges coincide.

    Returns
    -------
    array of uint8 or uint16
    """
    return _contest(scores, _edge_aligned(scores.shape[1:], shape))


def to_grid(
    data: Array, source: Geometry, target: Geometry, *, order: int = 1, fill: float = 0.0
) -> Array:
    """Return data of one grid on another grid of the same world.

    Parameters
    ----------
    data : array
        Of the source's shape.
    source, target : Geometry
        Any two grids in the same unit: turned, mirrored, cropped, padded or oblique to each other.
    order : int
        0 nearest, 1 linear, 2 or 3 spline.
    fill : float
        Value beyond the source's outermost voxel edges. Within them, but past the outermost voxel
        centres, the outermost value holds.

    Returns
    -------
    array
        Same dtype, of the target's shape.

    Raises
    ------
    GeometryError
        If the grids have other numbers of axes or units, or the data is not on the source.
    """
    pose = _Pose.between(data.shape, source, target)
    if pose is None:
        return _oblique(data, source, target, order, fill)
    return pose.put(data, lambda part, at: _interpolate(part, at, order), fill)


def labels_to_grid(ids: Array, source: Geometry, target: Geometry) -> Array:
    """Return label ids of one grid on another, 0 beyond its edges.

    Decided as in `labels` where the grids' axes are parallel, by the nearest voxel where not.
    """
    pose = _Pose.between(ids.shape, source, target)
    if pose is None:
        return _oblique(ids, source, target, 0, 0)
    return pose.put(ids, lambda part, at: _vote(part, at, None), 0)


def scores_to_grid(scores: Array, source: Geometry, target: Geometry) -> Array:
    """Return the winning class of scores ``(class, *spatial)`` on another grid, 0 beyond edges."""
    pose = _Pose.between(scores.shape[1:], source, target)
    if pose is not None:
        return pose.put(scores, _contest, 0, dtype=smallest_unsigned(len(scores) - 1))
    best = np.full(target.shape, -np.inf, dtype=np.float32)
    ids = np.zeros(target.shape, dtype=smallest_unsigned(len(scores) - 1))
    for number, plane in enumerate(scores):
        found = _oblique(plane.astype(np.float32, copy=False), source, target, 1, -np.inf)
        is_higher = found > best
        ids[is_higher] = number
        np.maximum(best, found, out=best)
    return ids


def _edge_aligned(old: Sequence[int], new: Sequence[int]) -> Coordinates:
    """Return, for each axis, the source index of each new voxel's centre."""
    if len(old) != len(new) or any(m < 1 for m in new):
        msg = (
            f"expected a shape of {len(old)} axes of at least 1 voxel, got {tuple(new)!r}; "
            f"give one length an axis"
        )
        raise InputError(msg)
    return tuple(
        np.asarray((np.arange(m) + 0.5) * (n / m) - 0.5, dtype=np.float64)
        for n, m in zip(old, new, strict=True)
    )


def _interpolate(data: Array, at: Coordinates, order: int) -> Array:
    if order not in (0, 1, 2, 3):
        msg = f"expected an order from 0 (nearest) to 3 (cubic), got {order!r}; choose one"
        raise InputError(msg)
    if data.dtype == np.bool_:
        return _interpolate(data.view(np.uint8), at, order) > 0
    if order == 0:
        return _take(data, at)
    if order == 1:
        return _as_dtype(_linear(data, at), data.dtype)
    real = _real_for(data.dtype)
    found = data
    for axis in _cheapest_first(data.shape, at):
        found = _spline_along(found, axis, at[axis], order, real)
    return _as_dtype(found.astype(real, copy=found is data), data.dtype)


def _real_for(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the float type that keeps the digits of `dtype`."""
    is_wide = (dtype.kind in "iu" and dtype.itemsize > 2) or dtype == np.float64
    return np.dtype(np.float64 if is_wide else np.float32)


def _spline_along(
    data: Array, axis: int, at: npt.NDArray[np.float64], order: int, real: np.dtype[Any]
) -> Array:
    """Interpolate along one axis with a B-spline; the outermost values go on beyond the ends."""
    from scipy import ndimage

    # The filter's response to the ends has died away to 1e-7 after this many voxels.
    pad = 12
    widths = [(pad, pad) if a == axis else (0, 0) for a in range(data.ndim)]
    padded = np.pad(data, widths, mode="edge")
    smooth = ndimage.spline_filter1d(padded, order, axis=axis, output=real, mode="nearest")
    shape = (*data.shape[:axis], len(at), *data.shape[axis + 1 :])
    out = np.zeros(shape, dtype=real)
    for index, weight in _spline_taps(at + pad, order):
        part = smooth.take(index, axis=axis, mode="clip")
        part *= weight.astype(real).reshape(-1, *[1] * (data.ndim - axis - 1))
        out += part
    return out


def _spline_taps(
    at: npt.NDArray[np.float64], order: int
) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]]:
    """Return (index, weight) of the B-spline coefficients that make the value at each place."""
    if order == 2:
        middle = np.floor(at + 0.5).astype(np.intp)
        t = at - middle
        weights = [(0.5 - t) ** 2 / 2, 0.75 - t**2, (0.5 + t) ** 2 / 2]
    else:
        middle = np.floor(at).astype(np.intp)
        t = at - middle
        u = 1 - t
        weights = [u**3 / 6, 2 / 3 - t**2 * (2 - t) / 2, 2 / 3 - u**2 * (2 - u) / 2, t**3 / 6]
    return [(middle + offset, weight) for offset, weight in enumerate(weights, start=-1)]


def _as_dtype(found: Array, dtype: np.dtype[Any]) -> Array:  # Any: the caller's
    if dtype.kind not in "iu":
        return found.astype(dtype, copy=False)
    np.rint(found, out=found)
    limits = np.iinfo(dtype)
    if found.size and (found.min() < limits.min or found.max() > limits.max):
        np.clip(found, limits.min, limits.max, out=found)  # splines overshoot
    return found.astype(dtype)


def _take(data: Array, at: Coordinates) -> Array:
    found = data
    for axis in _cheapest_first(data.shape, at):
        # Halfway goes down, so that a voxel in the middle of two takes the first.
        index = np.ceil(at[axis] - 0.5).astype(np.intp).clip(0, data.shape[axis] - 1)
        found = found.take(index, axis=axis, mode="clip")
    return np.array(found, order="C", copy=True if found is data else None)


def _cheapest_first(shape: Sequence[int], at: Coordinates) -> list[int]:
    """Return the axes that change, those that shrink most first, rows before planes."""
    changed = [
        axis
        for axis, (n, c) in enumerate(zip(shape, at, strict=True))
        if len(c) != n or (c != np.arange(n)).any()
    ]
    return sorted(changed, key=lambda axis: (len(at[axis]) / shape[axis], -axis))


def _linear(data: Array, at: Coordinates) -> Array:
    """Return `data` at the product of `at`: float32, or float64 where that would lose digits."""
    real = _real_for(data.dtype)
    order = _cheapest_first(data.shape, at)
    within = [axis for axis in order if axis > 0]
    found = data
    if 0 in order and order[0] == 0:
        found = _along_planes(found, at[0], real)
    if within:
        found = _within_planes(found, within, at, real)
    if 0 in order and order[0] != 0:
        found = _along_planes(found, at[0], real)
    return found.astype(real, copy=found is data)


def _within_planes(data: Array, axes: list[int], at: Coordinates, real: np.dtype[Any]) -> Array:
    """Interpolate along all axes but the first, a few planes at a time."""
    shape = [len(c) if axis in axes else data.shape[axis] for axis, c in enumerate(at)]
    out = np.empty((len(data), *shape[1:]), dtype=real)
    plans = []
    for axis in axes:
        low, share = _cells(at[axis], data.shape[axis])
        high = np.minimum(low + 1, data.shape[axis] - 1)
        weight = share.astype(real).reshape(-1, *[1] * (data.ndim - axis - 1))
        plans.append((axis, low, high, weight))
    step = max(1, _CHUNK // max(1, data[0].size))
    for first in range(0, len(data), step):
        part = data[first : first + step]
        for axis, low, high, weight in plans:
            below = part.take(low, axis=axis, mode="clip")
            above = part.take(high, axis=axis, mode="clip")
            is_last = axis == axes[-1]
            target = out[first : first + step] if is_last else np.empty(below.shape, dtype=real)
            part = _lerp(below, above, weight, target)
    return out


def _along_planes(data: Array, at: npt.NDArray[np.float64], real: np.dtype[Any]) -> Array:
    low, share = _cells(at, len(data))
    out = np.empty((len(at), *data.shape[1:]), dtype=real)
    for number, (plane, weight) in enumerate(zip(low, share.astype(real), strict=True)):
        above = data[min(int(plane) + 1, len(data) - 1)]
        _lerp(data[plane], above, weight, out[number])
    return out


def _lerp(below: Array, above: Array, weight: Any, out: Array) -> Array:
    # Any: a number or an array. As a + (b - a) w: exact on ramps and on constants.
    np.subtract(above, below, out=out, dtype=out.dtype)
    out *= weight
    out += below
    return out


def _cells(
    at: npt.NDArray[np.float64], length: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Return the lower corner of each coordinate's cell, and the share of the upper one."""
    low: npt.NDArray[np.intp] = np.floor(at).astype(np.intp).clip(0, max(length - 2, 0))
    return low, np.clip(at - low, 0, 1)


@dataclass(frozen=True, slots=True)
class _Axis:
    """The cells of one axis of a coarse grid, and which new voxels lie in each."""

    length: int
    first: npt.NDArray[np.intp]
    count: npt.NDArray[np.intp]
    share: Weights

    @classmethod
    def of(cls, at: npt.NDArray[np.float64], length: int) -> _Axis:
        low, share = _cells(at, length)
        count = np.bincount(low, minlength=max(length - 1, 1))
        return cls(length, np.cumsum(count) - count, count, share.astype(np.float32))


@dataclass(frozen=True, slots=True)
class _Block:
    """Some cells that hold equally many new voxels along each axis.

    Arrays have the cells as their last axis: loops over cells are long, those over the few voxels
    of a cell are short.
    """

    axes: tuple[_Axis, ...]
    cells: npt.NDArray[np.intp]  # (axis, cell)
    counts: tuple[int, ...]

    def corners(self) -> npt.NDArray[np.intp]:
        """Flat coarse index of the corners, ``(2, ..., 2, cell)``."""
        shape = tuple(a.length for a in self.axes)
        base = np.ravel_multi_index(tuple(self.cells), shape)
        strides = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
        # An axis of one voxel has no upper corner: its lower one stands twice.
        steps = [s if n > 1 else 0 for s, n in zip(strides, shape, strict=True)]
        offsets = [
            sum(bit * step for bit, step in zip(bits, steps, strict=True))
            for bits in itertools.product((0, 1), repeat=len(shape))
        ]
        found: npt.NDArray[np.intp] = np.add.outer(np.array(offsets), base)
        return found.reshape(*[2] * len(shape), -1)

    def weights(self) -> list[Weights]:
        """Return the share of the upper corners along each axis, shaped for `spread`."""
        ndim = len(self.axes)
        return [
            axis.share[self._voxels(i)].reshape(self.counts[i], *[1] * (ndim - 1 - i), -1)
            for i, axis in enumerate(self.axes)
        ]

    def spread(self, values: Array, weights: list[Weights]) -> Array:
        """Interpolate corner values ``(2, ..., 2, cell)`` to ``(*counts, cell)``."""
        for axis in reversed(range(len(weights))):
            lead = (slice(None),) * axis
            below, above = values[(*lead, slice(0, 1))], values[(*lead, slice(1, 2))]
            values = (above - below) * weights[axis]
            values += below
        return values

    def targets(self, shape: Sequence[int]) -> npt.NDArray[np.intp]:
        """Flat index on the new grid of the voxels, ``(*counts, cell)``."""
        ndim, found = len(self.axes), np.zeros((1,) * (len(self.axes) + 1), dtype=np.intp)
        for axis in range(ndim):
            stride = int(np.prod(shape[axis + 1 :]))
            index = self._voxels(axis) * stride
            found = found + index.reshape(
                *[1] * axis, self.counts[axis], *[1] * (ndim - 1 - axis), -1
            )
        return found

    def _voxels(self, axis: int) -> npt.NDArray[np.intp]:
        ahead = np.arange(self.counts[axis])[:, None]
        found: npt.NDArray[np.intp] = ahead + self.axes[axis].first[self.cells[axis]]
        return found


def _mixed(ids: Array) -> npt.NDArray[np.bool_]:
    """Return, for each cell between neighbouring voxels, whether its corners differ."""
    lowest = highest = ids
    for axis in range(ids.ndim):
        if ids.shape[axis] == 1:
            continue
        ahead = (slice(None),) * axis + (slice(1, None),)
        behind = (slice(None),) * axis + (slice(None, -1),)
        lowest = np.minimum(lowest[behind], lowest[ahead])
        highest = np.maximum(highest[behind], highest[ahead])
    return np.asarray(lowest != highest)


def _blocks(ids: Array, at: Coordinates) -> Iterator[_Block]:
    """Yield the cells of `ids` whose corners differ, by how many new voxels they hold."""
    axes = tuple(_Axis.of(c, n) for c, n in zip(at, ids.shape, strict=True))
    mixed = _mixed(ids)
    cells = np.stack(np.unravel_index(np.flatnonzero(mixed), mixed.shape))
    counts = np.stack([a.count[c] for a, c in zip(axes, cells, strict=True)])
    is_used = counts.min(axis=0) > 0
    if not is_used.all():
        cells, counts = cells[:, is_used], counts[:, is_used]
    bases = tuple(int(a.count.max()) + 1 for a in axes)
    codes = np.ravel_multi_index(tuple(counts), bases)
    for code in np.unique(codes):
        chosen = cells[:, codes == code]
        found = tuple(int(n) for n in np.unravel_index(code, bases))
        step = max(1, _CHUNK // int(np.prod(found)))
        for start in range(0, chosen.shape[1], step):
            yield _Block(axes, chosen[:, start : start + step], found)


def _vote(ids: Array, at: Coordinates, n: int | None) -> Array:
    out = _take(ids, at)
    flat, ids_flat = out.reshape(-1), np.ascontiguousarray(ids).reshape(-1)
    for block in _blocks(ids, at):
        corners = ids_flat[block.corners()]
        every = corners.reshape(-1, corners.shape[-1])
        low, high = every.min(axis=0), every.max(axis=0)
        is_high = corners == high
        votes = block.spread(is_high.astype(np.float32), block.weights())
        winners = np.where(votes > 0.5, high, low)
        if n is None or n > 2:
            odd = np.flatnonzero(~(is_high | (corners == low)).reshape(every.shape).all(axis=0))
            if odd.size:
                part = replace(block, cells=block.cells[:, odd])
                winners[..., odd] = _vote_of_many(part, corners[..., odd])
        flat[block.targets(out.shape)] = winners
    return out


def _vote_of_many(block: _Block, corners: Array) -> Array:
    """Return the winners in cells whose corners carry three labels or more."""
    candidates = np.sort(corners.reshape(-1, corners.shape[-1]), axis=0)
    weights = block.weights()
    best = block.spread((corners == candidates[0]).astype(np.float32), weights)
    winners = np.broadcast_to(candidates[0], best.shape)
    for candidate in candidates[1:]:  # ascending, so that the lowest id keeps a tie
        votes = block.spread((corners == candidate).astype(np.float32), weights)
        winners = np.where(votes > best, candidate, winners)
        best = np.maximum(votes, best)
    return winners


def _contest(scores: Array, at: Coordinates) -> Array:
    scores = np.ascontiguousarray(scores)
    ids = _highest(scores)
    out = _take(ids, at)
    flat, values = out.reshape(-1), scores.reshape(len(scores), -1)
    for block in _blocks(ids, at):
        corners, weights = block.corners(), block.weights()
        best = block.spread(values[0].take(corners), weights)
        winners = np.zeros(best.shape, dtype=out.dtype)
        for number in range(1, len(values)):
            found = block.spread(values[number].take(corners), weights)
            np.copyto(winners, number, where=found > best, casting="unsafe")
            np.maximum(best, found, out=best)
        flat[block.targets(out.shape)] = winners
    return out


def _highest(scores: Array) -> Array:
    """Return the winning class of each voxel as narrow ids (np.argmax makes an int64 of each)."""
    ids = np.zeros(scores.shape[1:], dtype=smallest_unsigned(len(scores) - 1))
    step = max(1, _CHUNK // max(1, ids[0].size))
    for first in range(0, len(ids), step):
        part = slice(first, first + step)
        best, target = scores[0, part].copy(), ids[part]
        for number in range(1, len(scores)):
            found = scores[number, part]
            np.copyto(target, number, where=found > best, casting="unsafe")
            np.maximum(best, found, out=best)
    return ids


@dataclass(frozen=True, slots=True)
class _Pose:
    """How to read a source grid along a target grid whose axes are parallel to it."""

    axes: tuple[int, ...]  # source axis of each target axis
    flips: tuple[bool, ...]
    at: Coordinates  # source index, after turning, of the target voxels that lie inside
    inside: tuple[slice, ...]
    shape: tuple[int, ...]

    @classmethod
    def between(cls, shape: Sequence[int], source: Geometry, target: Geometry) -> _Pose | None:
        """Return the pose, or None where the axes are not parallel."""
        if tuple(shape) != source.shape or source.ndim != target.ndim or source.unit != target.unit:
            msg = (
                f"expected data on its source grid {source.shape} ({source.unit}) and a target of "
                f"as many axes in the same unit, got data {tuple(shape)} and target {target.shape} "
                f"({target.unit}); check which grid belongs to which"
            )
            raise GeometryError(msg)
        matrix, offset = _index_map(source, target)
        axes = tuple(int(i) for i in np.abs(matrix).argmax(axis=0))
        rest = matrix.copy()
        rest[list(axes), range(len(axes))] = 0
        drift = np.abs(rest) @ (np.array(target.shape) - 1)
        if len(set(axes)) < len(axes) or drift.max() > _SLACK:
            return None
        ats, inside, flips = [], [], []
        for axis, (s, m) in enumerate(zip(axes, target.shape, strict=True)):
            n = source.shape[s]
            where = matrix[s, axis] * np.arange(m) + offset[s]
            flips.append(bool(matrix[s, axis] < 0))
            if flips[-1]:
                where = n - 1 - where
            held = np.flatnonzero((where >= -0.5 - _SLACK) & (where <= n - 0.5 + _SLACK))
            start, stop = (int(held[0]), int(held[-1]) + 1) if held.size else (0, 0)
            inside.append(slice(start, stop))
            near = np.rint(where[start:stop])
            where = np.where(np.abs(where[start:stop] - near) < 1e-6, near, where[start:stop])
            ats.append(where)
        return cls(axes, tuple(flips), tuple(ats), tuple(inside), target.shape)

    def put(
        self,
        data: Array,
        read: Callable[[Array, Coordinates], Array],
        fill: float,
        *,
        dtype: np.dtype[Any] | None = None,
    ) -> Array:
        """Return `read` of the turned data, on the target's shape, `fill` outside."""
        lead = data.ndim - len(self.axes)
        turned = data.transpose(*range(lead), *(a + lead for a in self.axes))
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        turned = turned[(slice(None),) * lead + steps]
        out = np.full(self.shape, fill, dtype=dtype or data.dtype)
        if all(len(c) for c in self.at):
            out[self.inside] = read(turned, self.at)
        return out


def _index_map(
    source: Geometry, target: Geometry
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return (matrix, offset) from target index to source index."""
    whole = np.linalg.inv(source.affine) @ target.affine
    return whole[:-1, :-1], whole[:-1, -1]


def _oblique(data: Array, source: Geometry, target: Geometry, order: int, fill: float) -> Array:
    """Interpolate at the exact world position of each target voxel, plane by plane."""
    from scipy import ndimage

    if data.dtype == np.bool_:
        return _oblique(data.view(np.uint8), source, target, order, fill) > 0
    matrix, offset = _index_map(source, target)
    is_whole = data.dtype.kind in "iu"
    values = data
    if order > 1:
        values = ndimage.spline_filter(data, order, output=np.float32, mode="nearest")
    elif data.dtype == np.float16:
        values = data.astype(np.float32)
    out = np.full(target.shape, fill, dtype=data.dtype)
    rest = np.indices(target.shape[1:]).reshape(len(matrix) - 1, -1)
    flat = matrix[:, 1:] @ rest + offset[:, None]
    ends = np.array(source.shape)[:, None] - 0.5 + _SLACK
    for plane in range(target.shape[0]):
        where = flat + matrix[:, :1] * plane
        held = ((where >= -0.5 - _SLACK) & (where <= ends)).all(axis=0)
        if not held.any():
            continue
        found = ndimage.map_coordinates(
            values,
            where[:, held],
            output=data.dtype if order == 0 or not is_whole else np.float32,
            order=order,
            mode="nearest",
            prefilter=False,
        )
        out[plane].reshape(-1)[held] = _as_dtype(found, data.dtype) if order else found
    return out

"""Voxels, volumes, axes and pixel statistics of labels and of their pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of
from maskloop.core.errors import InputError
from maskloop.ops import components
from maskloop.ops.bodies import Pixels, bodies
from maskloop.ops.recist import Axis, Planes, axis, shortest_across
from maskloop.ops.rejoin import connected, connected_runs
from maskloop.ops.runs import Runs, sparse

if TYPE_CHECKING:
    from maskloop.core.geometry import Box, Geometry
    from maskloop.core.image import Image
    from maskloop.core.mask import Mask
    from maskloop.ops.bodies import Body

By = Literal["pieces", "labels"]

_MOST_RUNS = 1 << 21  # from which on joining them costs more than looking at all voxels


@dataclass(frozen=True, slots=True)
class Piece:
    """One connected piece of a label: its size, where it lies, and its centre in the world."""

    voxels: int
    volume_ml: float | None
    box: Box
    centre: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """The numbers of one object; each is defined in ``docs/reference/measures.md``.

    Parameters
    ----------
    id : int
        Number of the object, from 1.
    label : int
        Its id in the mask.
    voxels : int
        How many voxels it has.
    size : float
        Their volume in mm3 or area in mm2; in pixels where the grid is in pixels.
    box : tuple of slice
        Tight box in the array.
    slices : int
        How many slices of the plane nearest axial hold voxels of it; 1 in 2D.
    slice : int
        The slice of the axes, counted along the array axis across the planes; 0 in 2D.
    place : tuple of int
        Index of one of its voxels, in the middle of that slice's middle row.
    long_axis, short_axis : Axis
        Longest line in one slice, and the longest chord across it.
    mean, sd, low, high : float or None
        Of the image's finite values inside; the standard deviation is that of the population.
    """

    id: int
    label: int
    voxels: int
    size: float
    box: Box
    slices: int
    slice: int
    place: tuple[int, ...]
    long_axis: Axis
    short_axis: Axis
    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None


def measure(mask: Mask, image: Image | None = None, *, by: By = "pieces") -> list[Measured]:
    """Return the measures of every object, by label and then in order of first voxels.

    Parameters
    ----------
    mask : Mask
        Without a time axis.
    image : Image, optional
        On the mask's grid; one channel, no time axis. Without it there are no pixel statistics.
    by : {"pieces", "labels"}
        Whether each connected piece (26-neighbourhood; 8 in 2D) of a label is an object, or the
        label as a whole.

    Raises
    ------
    InputError
        If mask or image has a time axis, or the image has several channels.
    GeometryError
        If the mask does not lie on the image's grid.
    """
    planes = Planes.of(mask.geometry)
    pixels = pixels_of(mask, image, planes)
    runs, labels = objects_of(planes.stack(mask.data), by=by)
    found = bodies(runs, planes, pixels)
    return [
        measured(number, labels[number], body, planes, mask.geometry)
        for number, body in found.items()
    ]


def pixels_of(mask: Mask, image: Image | None, planes: Planes) -> Pixels | None:
    """Return the image's values for measuring a mask; None without an image.

    Raises
    ------
    InputError, GeometryError
        As for `measure`.
    """
    if mask.data.ndim != mask.geometry.ndim:
        msg = (
            f"expected a mask without a time axis, got shape {mask.data.shape}; measure one frame "
            "at a time"
        )
        raise InputError(msg)
    if image is None:
        return None
    if image.has_time or image.has_channels:
        msg = (
            f"expected an image with one value a voxel, got shape {image.data.shape}; choose a "
            "frame or channel"
        )
        raise InputError(msg)
    mask.require_on(image)
    return Pixels.of(image, planes)


def objects_of(stack: npt.NDArray[Any], *, by: By) -> tuple[Runs, dict[int, int]]:
    """Return the runs of all objects, numbered from 1 by label and first voxel, and their labels.

    Parameters
    ----------
    stack : array of int
        Ids, as `Planes.stack` shows them.
    by : {"pieces", "labels"}
        As for `measure`.
    """
    runs = sparse(stack)
    if runs is None:
        box = _held(stack)
        runs = Runs.none() if box is None else Runs.of(stack[box], stack.shape, box)
    if not len(runs):
        return runs, {}
    if by == "pieces" and len(runs) < _MOST_RUNS:
        runs = connected_runs(runs, stack.shape)
    elif by == "pieces":
        runs = Runs.of(connected(stack), stack.shape)
    owners, first, at = np.unique(runs.owners, return_index=True, return_inverse=True)
    z, rest = np.divmod(runs.starts[first], stack.shape[1] * stack.shape[2])
    y, x = np.divmod(rest, stack.shape[2])
    labels = stack[z, y, x].astype(np.int64)
    order = np.lexsort((runs.starts[first], labels))
    rank = np.empty(owners.size, dtype=np.int64)
    rank[order] = np.arange(1, owners.size + 1)
    numbered = Runs(runs.starts, runs.stops, rank[at.reshape(-1)])
    return numbered, dict(enumerate(labels[order].tolist(), start=1))


def _held(stack: npt.NDArray[Any]) -> tuple[slice, slice, slice] | None:
    """Return the box of what is not background."""
    plane = np.zeros(stack.shape[1:], dtype=bool)
    is_held = np.zeros(len(stack), dtype=bool)
    for number, part in enumerate(stack):
        inside = part != 0
        is_held[number] = inside.any()
        if is_held[number]:
            plane |= inside
    if not is_held.any():
        return None
    ends = [np.flatnonzero(hit)[[0, -1]] for hit in (is_held, plane.any(axis=1), plane.any(axis=0))]
    z, y, x = (slice(int(first), int(last) + 1) for first, last in ends)
    return z, y, x


def measured(number: int, label: int, body: Body, planes: Planes, geometry: Geometry) -> Measured:
    """Return the measures that follow from an object's body."""
    height, width = planes.shape[1:]
    window = body.window(height)
    best = body.slices[int(body.slices["length"].argmax())]
    here = slice(int(best["number"]), int(best["number"]) + 1)
    region = body.runs.drawn(planes.shape, (here, window[1], window[2]))[0] != 0
    corner = np.array([window[1].start, window[2].start] * 2, dtype=np.float64)
    short, chord = shortest_across(region, best["ends"] - corner, planes.gram)
    runs = body.runs.inside(planes.shape, (here, window[1], window[2]))
    middle = int(runs.starts[len(runs) // 2] + runs.stops[len(runs) // 2] - 1) // 2
    row, x = divmod(middle, width)
    numbers = body.statistics()
    mean, sd, low, high = numbers if numbers is not None else (None, None, None, None)
    first = planes.index(tuple(part.start for part in window))
    last = planes.index(tuple(part.stop for part in window))
    voxels = body.voxels
    return Measured(
        id=number,
        label=label,
        voxels=voxels,
        size=voxels * geometry.voxel_size,
        box=tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True)),
        slices=len(body.slices),
        slice=here.start,
        place=tuple(int(n) for n in planes.index((here.start, row % height, x))),
        long_axis=axis(float(best["length"]), here.start, best["ends"], planes),
        short_axis=axis(short, here.start, chord + corner, planes),
        mean=mean,
        sd=sd,
        low=low,
        high=high,
    )


def counts(ids: npt.NDArray[Any]) -> dict[int, int]:
    """Return the voxels of every id that occurs, background left out, ascending.

    Parameters
    ----------
    ids : array of unsigned int
        Any shape.
    """
    total: dict[int, int] = {}
    for slab in ids if ids.ndim > 2 else (ids,):
        # Most voxels are background: only the others are counted one by one.
        held = slab[slab != 0]
        if held.size == 0:
            continue
        if ids.dtype.itemsize <= 2:
            found = np.bincount(held)
            numbers = np.flatnonzero(found)
            found = found[numbers]
        else:
            numbers, found = np.unique(held, return_counts=True)
        for number, count in zip(numbers.tolist(), found.tolist(), strict=True):
            total[number] = total.get(number, 0) + count
    return dict(sorted(total.items()))


def volume_ml(mask: Mask) -> dict[int, float]:
    """Return the volume of every id that occurs, in ml; empty where the grid is in pixels."""
    if mask.geometry.unit != "mm" or mask.geometry.ndim != 3:
        return {}
    size = mask.geometry.voxel_size / 1000
    return {number: count * size for number, count in counts(mask.data).items()}


def pieces(mask: Mask, label: int, *, connectivity: int | None = None) -> list[Piece]:
    """Return the connected pieces of a label, the largest first.

    Parameters
    ----------
    mask : Mask
        Without a time axis.
    label : int
        The id.
    connectivity : int, optional
        As for `components.label`.
    """
    box = box_of(mask.data, label)
    if box is None:
        return []
    ids, count = components.label(mask.data[box] == label, connectivity=connectivity)
    sizes = components.sizes(ids, count)
    in_ml = mask.geometry.unit == "mm" and mask.geometry.ndim == 3
    found = []
    for number, part in components.boxes(ids).items():
        whole = tuple(
            slice(s.start + b.start, s.stop + b.start) for s, b in zip(part, box, strict=True)
        )
        index = np.argwhere(ids[part] == number).mean(axis=0) + [s.start for s in whole]
        voxels = int(sizes[number])
        found.append(
            Piece(
                voxels,
                voxels * mask.geometry.voxel_size / 1000 if in_ml else None,
                whole,
                tuple(float(v) for v in mask.geometry.to_world(index)),
            )
        )
    return sorted(found, key=lambda piece: -piece.voxels)

"""Where two label maps of one grid differ: a map of the kinds of difference, and its regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import GeometryError, InputError
from maskloop.core.image import smallest_unsigned
from maskloop.ops.measure import objects_of
from maskloop.ops.recist import Planes
from maskloop.ops.scores import joint_counts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from maskloop.core.geometry import Box
    from maskloop.core.mask import Mask
    from maskloop.ops.runs import Runs

AGREE, ONLY_A, ONLY_B, OTHER = 1, 2, 3, 4
"""Ids of an agreement map: one class in both, drawn by one alone, by both as other classes."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One connected region that two masks see differently.

    Parameters
    ----------
    number : int
        From 1, the largest first.
    a, b : int
        Class id in either mask, 0 for background; they differ.
    voxels : int
    size : float
        Their volume in mm3 or area in mm2; in pixels where the grid is in pixels.
    box : tuple of slice
        Tight box in the array.
    place : tuple of int
        Index of one of its voxels, in the middle of its fullest slice.
    slice : int
        That slice, along the array axis across the planes nearest axial; 0 in 2D.
    """

    number: int
    a: int
    b: int
    voxels: int
    size: float
    box: Box
    place: tuple[int, ...]
    slice: int


@dataclass(frozen=True, slots=True)
class Found:
    """The regions listed, and what was left out of the list.

    Parameters
    ----------
    regions : tuple of Difference
        The largest first.
    total : int
        Regions there are in all.
    left_out_voxels : int
        Voxels of those not listed.
    """

    regions: tuple[Difference, ...]
    total: int
    left_out_voxels: int


def agreement(a: Mask, b: Mask) -> npt.NDArray[np.uint8]:
    """Return, voxel by voxel, 0 where both are background, else how two masks of classes compare.

    Parameters
    ----------
    a, b : Mask
        On one grid, without a time axis, equal ids meaning the same class.

    Returns
    -------
    array of uint8
        `AGREE`, `ONLY_A`, `ONLY_B` or `OTHER`.

    Raises
    ------
    GeometryError
        If the grids differ.
    InputError
        If a mask has a time axis.
    """
    require_comparable(a, b)
    found = np.zeros(a.data.shape, dtype=np.uint8)
    for x, y, out in zip(a.data, b.data, found, strict=True):
        in_a, in_b = x != 0, y != 0
        out[in_a & ~in_b] = ONLY_A
        out[in_b & ~in_a] = ONLY_B
        out[in_a & in_b] = OTHER
        out[in_a & (x == y)] = AGREE
    return found


def differences(a: Mask, b: Mask, *, smallest: int = 1, most: int = 500) -> Found:
    """Return the connected regions (corners touch) in which two masks of classes differ.

    A region has one class in `a` and one, another, in `b`.

    Parameters
    ----------
    a, b : Mask
        As for `agreement`.
    smallest : int
        Regions of fewer voxels are counted, not listed.
    most : int
        How many regions are listed at most.

    Raises
    ------
    GeometryError, InputError
        As for `agreement`.
    """
    require_comparable(a, b)
    pairs = [pair for pair in sorted(joint_counts(a.data, b.data)) if pair[0] != pair[1]]
    planes = Planes.of(a.geometry)
    runs, numbers = objects_of(planes.stack(_coded(a.data, b.data, pairs)), by="pieces")
    sizes = np.bincount(runs.owners, (runs.stops - runs.starts).astype(np.float64))
    sizes = sizes.astype(np.int64)
    # Equal sizes in order of place, so that one pair of masks always gives one list.
    order = [int(n) for n in np.lexsort((np.arange(len(sizes)), -sizes)) if sizes[n] >= smallest]
    kept = {number: rank for rank, number in enumerate([n for n in order if n][:most], start=1)}
    parts = runs.chosen(np.isin(runs.owners, list(kept)))
    made = []
    for number, part in parts.by_owner() if len(parts) else ():
        box, place, at = _where(part, planes)
        pair, voxels = pairs[numbers[number] - 1], int(sizes[number])
        size = voxels * a.geometry.voxel_size
        made.append(Difference(kept[number], *pair, voxels, size, box, place, at))
    listed = tuple(sorted(made, key=lambda one: one.number))
    return Found(listed, len(numbers), int(sizes.sum()) - sum(one.voxels for one in listed))


def require_comparable(a: Mask, b: Mask) -> None:
    """Raise `GeometryError`, in mm and by corner, or `InputError` unless two masks can be."""
    words = a.geometry.difference(b.geometry)
    if words:
        msg = (
            f"expected {b.name!r} on the grid of {a.name!r} {a.geometry.shape}, but {words}; "
            f"resample one of them first"
        )
        raise GeometryError(msg)
    for mask in (a, b):
        if mask.data.ndim != mask.geometry.ndim:
            msg = (
                f"expected masks without a time axis, got shape {mask.data.shape}; "
                f"compare one frame at a time"
            )
            raise InputError(msg)


def _coded(
    a: npt.NDArray[Any], b: npt.NDArray[Any], pairs: list[tuple[int, int]]
) -> npt.NDArray[Any]:
    """Return the number, from 1, of each voxel's pair; 0 where both masks say the same."""
    codes = np.zeros(a.shape, dtype=smallest_unsigned(len(pairs)))
    number: Mapping[tuple[int, int], int] = {pair: n for n, pair in enumerate(pairs, start=1)}
    for x, y, out in zip(a, b, codes, strict=True):
        at = np.nonzero(x != y)
        if not at[0].size:
            continue
        told = np.stack([x[at], y[at]], axis=1).astype(np.int64)
        top = int(told[:, 1].max()) + 1
        found, where = np.unique(told[:, 0] * top + told[:, 1], return_inverse=True)
        known = np.array([number[divmod(int(n), top)] for n in found], dtype=codes.dtype)
        out[at] = known[where.reshape(-1)]
    return codes


def _where(part: Runs, planes: Planes) -> tuple[Box, tuple[int, ...], int]:
    """Return the box of one region, a voxel of it, and the slice that has most of it."""
    height, width = planes.shape[1:]
    row, x = np.divmod(part.starts, width)
    z, y = np.divmod(row, height)
    lengths = part.stops - part.starts
    first = planes.index((int(z.min()), int(y.min()), int(x.min())))
    last = planes.index((int(z.max()) + 1, int(y.max()) + 1, int((x + lengths).max())))
    box = tuple(slice(int(p), int(q)) for p, q in zip(first, last, strict=True))
    at = int(z.min()) + int(np.bincount(z - z.min(), lengths).argmax())
    inside = np.flatnonzero(z == at)
    middle = inside[len(inside) // 2]
    spot = (at, int(y[middle]), int(x[middle] + lengths[middle] // 2))
    return box, tuple(int(n) for n in planes.index(spot)), at

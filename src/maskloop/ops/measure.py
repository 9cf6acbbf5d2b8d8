"""Voxels, volumes and areas of labels and of their pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.ops import components
from maskloop.ops.regions import box_of

if TYPE_CHECKING:
    from maskloop.core.geometry import Box
    from maskloop.core.mask import Mask


@dataclass(frozen=True, slots=True)
class Piece:
    """One connected piece of a label: its size, where it lies, and its centre in the world."""

    voxels: int
    volume_ml: float | None
    box: Box
    centre: tuple[float, ...]


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

"""How a layer lies on the true grid.

A volume is shown along its nearest anatomical axes, rows towards posterior and columns towards the
patient's left, with nothing but a positive scale: napari's brush knows only the scale, and its 2D
view drops rotations. The true grid travels in ``layer.metadata["maskloop"]`` as a `Placement`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maskloop.core.geometry import Box, Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask

KEY = "maskloop"
GHOST = "maskloop ghost"  # marks layers of ours that are only looked at
# Superior, posterior, left: right-handed, so that napari's 3D view is no mirror image.
SHOWN = "SPL"
_Pixels = npt.NDArray[Any]  # Any: pixel types are chosen at run time


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """How a layer's array lies on the true grid, and what came with it.

    Parameters
    ----------
    geometry : Geometry
        The true grid of the last axes; what gets exported.
    axes, flips : tuple
        As for `Geometry.transposed`: the layer's axes, told in the true grid's.
    lead : int
        Axes of the layer that stand before the spatial ones (time, channels of other plugins).
    source, header
        As for `Image`.
    labels : LabelTable
        Meaning of the ids, for a Labels layer.
    is_guessed : bool
        Whether the grid was taken from the layer's scale, for want of better.
    title : str
        As for `Image`.
    """

    geometry: Geometry
    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    lead: int = 0
    source: Path | None = None
    header: Any = field(default=None, repr=False)  # Any: opaque to all but its own format
    labels: LabelTable = field(default_factory=LabelTable)
    is_guessed: bool = False
    title: str = ""

    @classmethod
    def of(cls, item: Image | Mask) -> Placement:
        """Return the placement for showing an image or mask."""
        geometry = item.geometry
        axes, flips = tuple(range(geometry.ndim)), (False,) * geometry.ndim
        if geometry.ndim == 3 and geometry.unit == "mm":
            axes, flips = geometry.towards(SHOWN)
        if isinstance(item, Image):
            lead, table = int(item.has_time), LabelTable()
        else:
            lead, table = item.data.ndim - geometry.ndim, item.labels
        return cls(geometry, axes, flips, lead, item.source, item.header, table, title=item.title)

    def shown(self, array: _Pixels, *, lead: int | None = None) -> _Pixels:
        """Return a view of an array on the true grid, turned as the layer shows it."""
        first = self.lead if lead is None else lead
        order = [first + axis for axis in self.axes]
        rest = range(first + len(order), array.ndim)
        return self._flipped(array.transpose(*range(first), *order, *rest), first)

    def restored(self, array: _Pixels, *, lead: int | None = None) -> _Pixels:
        """Return a view of a layer's array, turned back onto the true grid."""
        first = self.lead if lead is None else lead
        order = [first + int(axis) for axis in np.argsort(self.axes)]
        rest = range(first + len(order), array.ndim)
        return self._flipped(array, first).transpose(*range(first), *order, *rest)

    def _flipped(self, array: _Pixels, lead: int) -> _Pixels:
        turns = [slice(None, None, -1 if flip else None) for flip in self.flips]
        return array[(*[slice(None)] * lead, *turns)]

    def true_box(self, box: Box) -> Box:
        """Return, on the true grid, a box of the layer's array (leading axes come first)."""
        true = list(box[: self.lead]) + [slice(0, 0)] * len(self.axes)
        parts = box[self.lead :]
        for part, axis, flip in zip(parts, self.axes, self.flips, strict=True):
            true[self.lead + axis] = _turned(part, self.geometry.shape[axis], flip)
        return tuple(true)

    def shown_box(self, box: Box) -> Box:
        """Return, in the layer's array, a box on the true grid (leading axes come first)."""
        parts = box[self.lead :]
        shown = [
            _turned(parts[axis], self.geometry.shape[axis], flip)
            for axis, flip in zip(self.axes, self.flips, strict=True)
        ]
        return (*box[: self.lead], *shown)

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape as the layer shows it."""
        return tuple(self.geometry.shape[axis] for axis in self.axes)

    def layout(self) -> dict[str, Any]:  # Any: keyword arguments of napari layers
        """Return ``scale``, ``translate``, ``units`` and ``axis_labels`` of the layer."""
        grid = self.geometry.transposed(self.axes, self.flips)
        lead = ["t", "c"][: self.lead]
        if grid.unit == "px":
            labels = ("z", "y", "x")[-grid.ndim :]
            return {"scale": (1.0,) * (self.lead + grid.ndim), "axis_labels": (*lead, *labels)}
        steps = grid.spacing
        translate: Sequence[float] = (0.0,) * grid.ndim
        labels = ("z", "y", "x")[-grid.ndim :]
        if grid.ndim == 3:
            # Volumes of one patient overlie each other: their centres stand where they are.
            middle = grid.to_world([(n - 1) / 2 for n in grid.shape])
            wanted = np.array([middle[2], -middle[1], -middle[0]])
            translate = wanted - np.array(steps) * (np.array(grid.shape) - 1) / 2
            labels = tuple(SHOWN)
        return {
            "scale": (*(1.0,) * self.lead, *steps),
            "translate": (*(0.0,) * self.lead, *(float(t) for t in translate)),
            "units": (*("pixel",) * self.lead, *("mm",) * grid.ndim),
            "axis_labels": (*lead, *labels),
        }


def _turned(part: slice, length: int, flip: bool) -> slice:
    return slice(length - part.stop, length - part.start) if flip else part

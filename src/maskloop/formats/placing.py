"""Grids that files state, leave out or cannot mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import GeometryError
from maskloop.core.geometry import Geometry

if TYPE_CHECKING:
    from collections.abc import Sequence

FAR = 1e12  # mm: beyond it lies nothing, and products overflow


def unplaced(shape: tuple[int, ...]) -> Geometry:
    """Return the grid of a picture ``(y, x)`` or stack ``(z, y, x)`` that states no lengths."""
    if len(shape) == 2:
        return Geometry.pixels(shape)
    return Geometry(shape, np.eye(4)[[2, 1, 0, 3]], "px")


def by_spacing(shape: tuple[int, ...], spacing: Sequence[float] = (1, 1, 1)) -> Geometry:
    """Return the grid of slices ``(z, y, x)`` that know their steps alone, in mm.

    As ITK takes it: x runs to the patient's left, y to the back, z up.
    """
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = np.array(spacing) * (1, -1, -1)
    affine[3, 3] = 1
    return Geometry(shape, affine, "mm")


def in_mm(geometry: Geometry) -> Geometry:
    """Return a grid of pixels as slices of 1 mm a pixel, as ITK takes it."""
    return by_spacing((1, *geometry.shape)[-3:])


def stated(geometry: Geometry) -> Geometry | None:
    """Return the grid that a file must state; a grid of pixels is stated by saying nothing."""
    return geometry if geometry.unit == "mm" and geometry.ndim == 3 else None


def require_near(steps: npt.NDArray[np.float64], origin: npt.NDArray[np.float64]) -> None:
    """Raise `GeometryError` where a header's numbers are too large, or none, to place a voxel."""
    if not (np.abs(steps).max() < FAR and np.abs(origin).max() < FAR):
        msg = (
            f"expected steps and an origin below {FAR:.0e} mm, got {steps.tolist()!r} at "
            f"{origin.tolist()!r}; repair the file's header"
        )
        raise GeometryError(msg)

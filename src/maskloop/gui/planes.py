"""One slice of the viewer's layers as a picture, in world millimetres; no Qt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskloop.gui import layers

Box = tuple[float, float, float, float]
_SHADES = np.linspace(0, 1, 256)
_MOST_LOOKED_UP = 4096


@dataclass(frozen=True, slots=True)
class Plane:
    """Which axes of the viewer a picture shows.

    Parameters
    ----------
    name : str
        For people, such as ``"coronal"``.
    hidden, rows, columns : int
        Axes of the viewer.
    """

    name: str
    hidden: int
    rows: int
    columns: int

    def order(self, ndim: int) -> tuple[int, ...]:
        """Return the viewer's ``dims.order`` that shows this plane."""
        own = (self.hidden, self.rows, self.columns)
        return (*(axis for axis in range(ndim) if axis not in own), *own)


def planes_of(ndim: int, *, has_patient: bool) -> tuple[Plane, Plane, Plane]:
    """Return the three planes through the last three axes of a viewer."""
    z, y, x = ndim - 3, ndim - 2, ndim - 1
    names = ("axial", "coronal", "sagittal") if has_patient else ("z", "y", "x")
    return Plane(names[0], z, y, x), Plane(names[1], y, z, x), Plane(names[2], x, z, y)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A slice as colours.

    Parameters
    ----------
    colours : array of uint8
        ``(rows, columns, 4)``, red green blue alpha.
    box : tuple of float
        Left, top, width and height in the world, voxel edges included.
    opacity : float
    is_smooth : bool
        Whether neighbours may be blended when it is enlarged.
    is_added : bool
        Whether its light is added to what lies below.
    """

    colours: npt.NDArray[np.uint8]
    box: Box
    opacity: float
    is_smooth: bool
    is_added: bool


def picture_of(layer: layers.Layer, plane: Plane, point: npt.ArrayLike) -> Picture | None:
    """Return what a layer shows in a plane through a point of the viewer's world.

    None where the layer is hidden, is neither Image nor Labels, has not the plane's axes, is
    turned, or does not reach that slice.
    """
    kind = type(layer).__name__
    where = np.asarray(point, dtype=np.float64)
    first = len(where) - layer.ndim
    rows, columns = plane.rows - first, plane.columns - first
    if not layer.visible or kind not in ("Image", "Labels") or min(first, rows, columns) < 0:
        return None
    shape = layers.shape_of(layer)
    at = np.floor(np.asarray(layer.world_to_data(where[first:])) + 0.5).astype(int)
    if any(not 0 <= at[a] < n for a, n in enumerate(shape) if a not in (rows, columns)):
        return None
    start = np.array(layer.data_to_world((0.0,) * layer.ndim))
    steps = np.array([layer.data_to_world(one) for one in np.eye(layer.ndim)]) - start
    along = np.diag(steps)
    if not np.allclose(steps, np.diag(along), atol=1e-6 * float(np.abs(steps).max())):
        return None
    down, right = float(along[rows]), float(along[columns])
    key = tuple(slice(None) if a in (rows, columns) else int(at[a]) for a in range(layer.ndim))
    data = layer.data[0] if layer.multiscale else layer.data
    found = np.asarray(data[key])
    if rows > columns:
        found = found.swapaxes(0, 1)
    if down < 0:
        found, start[rows] = found[::-1], start[rows] + down * (shape[rows] - 1)
    if right < 0:
        found, start[columns] = found[:, ::-1], start[columns] + right * (shape[columns] - 1)
    down, right = abs(down), abs(right)
    return Picture(
        colours_of(layer, found),
        (
            float(start[columns]) - right / 2,
            float(start[rows]) - down / 2,
            right * shape[columns],
            down * shape[rows],
        ),
        float(layer.opacity),
        kind == "Image",
        kind == "Image" and str(layer.blending) == "additive",
    )


def colours_of(layer: layers.Layer, values: layers.Pixels) -> npt.NDArray[np.uint8]:
    """Return a slice of a layer in the colours in which napari shows it."""
    if type(layer).__name__ == "Labels":
        return _label_colours(layer, values)
    if layer.rgb:
        factor = 1 if values.dtype == np.uint8 else 255
        colours = np.clip(values * factor, 0, 255).astype(np.uint8)
        alpha = np.full((*colours.shape[:2], 1), 255, np.uint8)
        return np.ascontiguousarray(np.concatenate([colours[..., :3], alpha], axis=2))
    low, high = (float(v) for v in layer.contrast_limits)
    scaled = values.astype(np.float32, order="C")
    scaled -= low
    scaled *= 255 / (high - low)
    np.clip(scaled, 0, 255, out=scaled)
    if values.dtype.kind == "f":
        np.nan_to_num(scaled, copy=False)
    return _looked_up(layer.colormap.map(_SHADES ** float(layer.gamma)), scaled.astype(np.uint8))


def _label_colours(layer: layers.Layer, values: layers.Pixels) -> npt.NDArray[np.uint8]:
    values = np.ascontiguousarray(values)
    if values.dtype.kind != "u" or values.max(initial=0) > _MOST_LOOKED_UP:
        shown = np.asarray(layer.colormap.map(values))
        return np.ascontiguousarray(np.rint(shown * 255).astype(np.uint8))
    every = np.arange(int(values.max(initial=0)) + 1).astype(values.dtype)
    return _looked_up(layer.colormap.map(every), values)


def _looked_up(table: Any, values: layers.Pixels) -> npt.NDArray[np.uint8]:  # Any: untyped napari
    """Return the rows of a table of colours at `values`: four bytes are moved as one number."""
    packed = np.ascontiguousarray(np.rint(np.asarray(table) * 255).astype(np.uint8)).view(np.uint32)
    found = packed.ravel()[values]
    return found.view(np.uint8).reshape(*values.shape, 4)

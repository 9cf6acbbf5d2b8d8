"""Go to a place in the picture, and mark it there; never in what is exported."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from maskloop.gui import layers
from maskloop.gui.pickers import DRAWING, shown_points

Spot = Sequence[float]
_RING = {
    "symbol": "disc",
    "face_color": "transparent",
    "border_color": "#ffe14d",
    "border_width": 0.06,
}
_LINE = {"edge_color": "#ffe14d", "edge_width": 0.5}


def jump(viewer: Any, layer: Any, index: Spot) -> None:  # Any: napari is untyped
    """Show the slice of an index of the true array and bring it to the middle of the picture.

    Parameters
    ----------
    viewer : napari.Viewer
    layer : napari layer
        Whose grid is meant; its leading axes (time) stay where they are.
    index : sequence of float
        In the true array's order.
    """
    dims = viewer.dims
    place = layers.placement_of(layer)
    first = dims.ndim - layer.ndim
    now = layer.world_to_data(list(dims.point)[first:])
    at = shown_points(place, [index], frame=[float(v) for v in now[: place.lead]])[0]
    world = np.asarray(layer.data_to_world(at))
    axes = [first + own for own in range(place.lead, layer.ndim)]
    dims.set_point(axes, [float(world[axis - first]) for axis in axes])
    seen = [axis for axis in dims.displayed if axis >= first]
    viewer.scene.camera.center = tuple(float(world[axis - first]) for axis in seen)


class Mark:
    """One layer of ours that shows where something is: rings, or lines.

    Parameters
    ----------
    viewer : napari.Viewer
    name : str
        Of the layer.
    kind : {"ring", "line"}
    """

    def __init__(self, viewer: Any, name: str, kind: Literal["ring", "line"]) -> None:
        self._viewer = viewer  # Any: napari is untyped
        self._name = name
        self._kind = kind
        self._layer: weakref.ref[Any] | None = None  # Any: napari layers are untyped

    @property
    def layer(self) -> Any:  # Any: napari layers are untyped
        """The layer, or None where there is none (any more)."""
        layer = self._layer() if self._layer is not None else None
        known = any(layers.bare(x) is layer for x in self._viewer.layers)
        return layer if known else None

    def show(self, behind: Any, parts: Sequence[Sequence[Spot]], *, size: float = 10) -> None:
        """Show these and nothing else.

        Parameters
        ----------
        behind : napari layer
            Whose grid is meant; the mark lies over it.
        parts : sequence of positions
            Each a row of positions in the true array: one position a ring, two a line.
        size : float
            Of a ring, in voxels.
        """
        place = layers.placement_of(behind)
        rows = [shown_points(place, part, frame=self._frame(behind, place.lead)) for part in parts]
        if not rows:
            self.remove()
            return
        if self._moved(behind, rows, size):
            return
        self.remove()
        from napari.layers import Layer

        options: dict[str, Any] = {  # Any: keyword arguments of napari layers
            "name": self._name,
            "metadata": {DRAWING: True},
            **layers.layout_of(behind),
        }
        if self._kind == "ring":
            data: Any = np.vstack(rows)
            made = Layer.create(data, {**options, **_RING, "size": size}, "points")
        else:
            options |= {**_LINE, "shape_type": "line", "ndim": behind.ndim}
            made = Layer.create(rows, options, "shapes")
        active = self._viewer.layers.selection.active
        self._layer = weakref.ref(layers.bare(self._viewer.add_layer(made)))
        # Adding a layer makes it the active one: keys and brush would go to the mark.
        self._viewer.layers.selection.active = active

    def _moved(self, behind: Any, rows: list[Any], size: float) -> bool:  # Any: untyped in napari
        """Move the marks of the layer there is, if it lies on this grid; a new one costs 0.3 s."""
        layer = self.layer
        if layer is None or not _on_one_grid(layer, behind):
            return False
        if self._kind == "ring":
            layer.data = np.vstack(rows)
            layer.size = size
        else:
            layer.data = []
            layer.add(rows, shape_type="line", **_LINE)
        return True

    def remove(self) -> None:
        """Take the mark out of the viewer."""
        layer, self._layer = self.layer, None
        if layer is not None:
            active = self._viewer.layers.selection.active
            self._viewer.layers.remove(layer)
            if active is not None and layers.bare(active) is not layer:
                self._viewer.layers.selection.active = active

    def _frame(self, behind: Any, lead: int) -> list[float]:  # Any: napari layers are untyped
        point = list(self._viewer.dims.point)[-behind.ndim :]
        return [float(v) for v in behind.world_to_data(point)[:lead]]


def _on_one_grid(layer: Any, other: Any) -> bool:  # Any: napari layers are untyped
    own, wanted = layers.layout_of(layer), layers.layout_of(other)
    return layer.ndim == other.ndim and all(
        np.array_equal(np.asarray(own[name]), np.asarray(wanted[name])) for name in own
    )

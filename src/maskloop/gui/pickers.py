"""Positions, lines, paths and polygons, drawn in the canvas and read back on the true grid."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QWidget

from maskloop.core.parameters import Parameter, Points
from maskloop.gui import layers
from maskloop.gui.choices import is_alive
from maskloop.gui.placement import Placement
from maskloop.gui.section import tipped
from maskloop.gui.tips import TIPS

DRAWING = "maskloop drawing"  # key in a layer's metadata: this layer is ours to clear and remove
COLOUR = "#ffe14d"
_MODES = {
    "points": "add",
    "line": "add_line",
    "path": "add_path",
    "polygon": "add_polygon_lasso",
    "rectangle": "add_rectangle",
}
HOW = {
    "points": "Click each point in the picture.",
    "line": "Drag from one end to the other in the picture.",
    "path": "Drag along the path in the picture.",
    "polygon": "Drag around the region in the picture.",
    "rectangle": "Drag a rectangle in the picture.",
}


def true_points(place: Placement, shown: npt.ArrayLike) -> Points:
    """Return positions in a layer's array as positions in the true array.

    Parameters
    ----------
    place : Placement
        Of the layer.
    shown : array of float
        One row a position, leading axes (time) first; these are left out.

    Examples
    --------
    >>> from maskloop.core.geometry import Geometry
    >>> place = Placement(Geometry.regular((4, 10, 20), (1, 1, 1)), (2, 0, 1), (True, False, False))
    >>> true_points(place, [[0, 1, 2]])
    ((1.0, 2.0, 19.0),)
    """
    rows = np.atleast_2d(np.asarray(shown, dtype=np.float64))
    rows = rows[:, rows.shape[1] - len(place.axes) :]
    found = np.empty_like(rows)
    for own, (axis, is_flipped) in enumerate(zip(place.axes, place.flips, strict=True)):
        last = place.geometry.shape[axis] - 1
        found[:, axis] = last - rows[:, own] if is_flipped else rows[:, own]
    return Points.of(found.tolist())


def shown_points(
    place: Placement, true: Sequence[Sequence[float]], frame: Sequence[float] = ()
) -> npt.NDArray[np.float64]:
    """Return positions in the true array as positions in a layer's array; undoes `true_points`.

    Parameters
    ----------
    place : Placement
        Of the layer.
    true : sequence of positions
    frame : sequence of float
        Index along the layer's leading axes.
    """
    rows = np.atleast_2d(np.asarray(true, dtype=np.float64))
    found = np.empty((len(rows), place.lead + len(place.axes)))
    found[:, : place.lead] = list(frame)[: place.lead] or 0.0
    for own, (axis, is_flipped) in enumerate(zip(place.axes, place.flips, strict=True)):
        last = place.geometry.shape[axis] - 1
        found[:, place.lead + own] = last - rows[:, axis] if is_flipped else rows[:, axis]
    return found


def on_slice(rows: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return drawn positions with the axis they share (the slice drawn on) at a whole number."""
    found = np.array(rows, dtype=np.float64, ndmin=2)
    flat = np.ptp(found, axis=0) < 1e-3
    found[:, flat] = np.round(found[:, flat])
    return found


class Picker(QWidget):
    """Draw, and what is drawn, for one option of a tool.

    Parameters
    ----------
    viewer : napari.Viewer
    parameter : Parameter
        Of the type `Points`.
    behind : callable
        Returns the layer that the drawing is for, or None; it gives place and grid.

    Signals
    -------
    changed(), drawn()
        Something was drawn or cleared; a line, path or polygon was finished.
    """

    changed = Signal()
    drawn = Signal()

    def __init__(
        self,
        viewer: Any,  # Any: napari is untyped
        parameter: Parameter,
        behind: Callable[[], Any],
    ) -> None:
        super().__init__()
        self._viewer = viewer
        self._behind = behind
        self._name = parameter.label or parameter.name
        self.shape = parameter.shape or "points"
        self._layer: weakref.ref[Any] | None = None
        self._is_waiting = False
        self.draw_button = tipped(QPushButton("Draw"), TIPS["draw"])
        self.clear_button = tipped(QPushButton("Clear"), TIPS["clear_drawing"])
        self.count = QLabel("nothing yet")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(6)
        row.addWidget(self.draw_button)
        row.addWidget(self.clear_button)
        row.addWidget(self.count, 1)
        self.draw_button.clicked.connect(self.draw)
        self.clear_button.clicked.connect(self.clear)
        self._tell()

    @property
    def layer(self) -> Any:  # Any: napari layers are untyped
        """The layer drawn in, or None where there is none (any more)."""
        layer = self._layer() if self._layer is not None else None
        known = any(layers.bare(x) is layer for x in self._viewer.layers)
        return layer if known else None

    @property
    def problem(self) -> str:
        """Why nothing can be drawn now, or ""."""
        behind = self._behind()
        if behind is None:
            return "There is nothing to draw on yet."
        if self._viewer.dims.ndisplay != 2:
            return "Show the picture in 2D to draw."
        return ""

    def draw(self) -> None:
        """Make the layer to draw in active, clearing what it held."""
        behind = self._behind()
        if self.problem or behind is None:
            self.count.setText(self.problem)
            return
        self.remove()
        layer = self._made(behind)
        self._layer = weakref.ref(layer)
        layer.mode = _MODES[self.shape]
        layer.events.data.connect(self._touched)
        self._viewer.layers.selection.active = layer
        self._tell()
        self.count.setText(HOW[self.shape])

    def clear(self) -> None:
        """Forget what was drawn."""
        self.remove()
        self._tell()
        self.changed.emit()

    def remove(self) -> None:
        """Take our layer out of the viewer."""
        layer = self.layer
        if layer is None:
            return
        layer.events.data.disconnect(self._touched)
        was_active = layers.bare(self._viewer.layers.selection.active) is layer
        self._layer = None
        self._viewer.layers.remove(layer)
        if was_active:
            self._back()

    def value(self) -> Points | None:
        """Return the positions drawn, in the true array's order; None where nothing is drawn."""
        rows, behind = self._rows(), self._behind()
        if rows is None or behind is None:
            return None
        return true_points(layers.placement_of(behind), rows)

    def _rows(self) -> npt.NDArray[np.float64] | None:
        """Return what is drawn, in the layer's array; of several shapes, the last."""
        layer = self.layer
        if layer is None or not len(layer.data):
            return None
        rows = np.asarray(layer.data if self.shape == "points" else layer.data[-1])
        found = np.round(rows) if self.shape == "points" else on_slice(rows)
        return None if self.shape != "points" and not np.ptp(found, axis=0).any() else found

    def _made(self, behind: Any) -> Any:  # Any: napari layers are untyped
        from napari.layers import Layer

        kind = "points" if self.shape == "points" else "shapes"
        look: dict[str, Any] = {"face_color": COLOUR, "size": 5, "border_color": "black"}
        if kind == "shapes":
            look = {"edge_color": COLOUR, "face_color": "transparent", "edge_width": 1}
        options = {
            "name": f"{self._name} (drawing)",
            "ndim": behind.ndim,
            "metadata": {DRAWING: True},
            **layers.layout_of(behind),
            **look,
        }
        data = np.empty((0, behind.ndim)) if kind == "points" else None
        return layers.bare(self._viewer.add_layer(Layer.create(data, options, kind)))

    def _touched(self, event: Any = None) -> None:  # Any: napari events are untyped
        # napari tells of a shape while its own mouse callback still runs: look when that is over.
        if str(getattr(event, "action", "")).rpartition(".")[2].lower() in ("adding", "removing"):
            return
        if not self._is_waiting:
            self._is_waiting = True
            QTimer.singleShot(0, self._look)

    def _look(self) -> None:
        self._is_waiting = False
        if not is_alive(self):
            return
        self._tell()
        self.changed.emit()
        if self.shape != "points" and self._rows() is not None:
            self._back()
            self.drawn.emit()

    def _back(self) -> None:
        """Make the layer that is corrected the active one again."""
        behind = self._behind()
        if behind is not None:
            self._viewer.layers.selection.active = behind

    def _tell(self) -> None:
        rows, behind = self._rows(), self._behind()
        self.clear_button.setEnabled(rows is not None)
        self.draw_button.setToolTip(f"{TIPS['draw']} {HOW[self.shape]}")
        if rows is None or behind is None:
            self.count.setText("nothing yet")
            return
        place = layers.placement_of(behind)
        if self.shape == "points":
            self.count.setText(f"{len(rows)} point{'s' * (len(rows) != 1)}")
        elif self.shape == "line":
            ends = place.geometry.to_world(np.array(true_points(place, rows)))
            length = float(np.linalg.norm(np.diff(ends, axis=0)))
            self.count.setText(f"{length:.1f} {place.geometry.unit}")
        else:
            self.count.setText(f"drawn, {len(rows)} corners")

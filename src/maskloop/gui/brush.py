"""napari's brush in millimetres, as a sphere, and kept to a range of the image's values."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QHBoxLayout, QVBoxLayout, QWidget

from maskloop.gui import layers, parents
from maskloop.gui.host import Host
from maskloop.gui.section import tipped
from maskloop.gui.tips import TIPS

_WIDEST = 500.0
_FAR = 1e6


class BrushBar(QWidget):
    """Size, shape and limits of the brush of the chosen labels layer.

    Parameters
    ----------
    host : Host
    """

    def __init__(self, host: Host) -> None:
        super().__init__()
        self._host = host
        self._layer: Any = None  # Any: a napari layer
        self._image: Any = None  # Any: a napari layer
        self.diameter = tipped(QDoubleSpinBox(), TIPS["brush_size"])
        self.diameter.setDecimals(1)
        self.diameter.setRange(0.1, _WIDEST)
        self.diameter.setKeyboardTracking(False)
        self.sphere = tipped(QCheckBox("Sphere"), TIPS["brush_sphere"])
        self.within = tipped(QCheckBox("Only from"), TIPS["brush_within"])
        self.low = tipped(_value_field(), TIPS["brush_low"])
        self.high = tipped(_value_field(), TIPS["brush_high"])
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setSpacing(4)
        rows.addWidget(_row((self.diameter, 1), (self.sphere, 0)))
        self._values = _row((self.within, 0), (self.low, 1), (self.high, 1))
        rows.addWidget(self._values)
        self.diameter.valueChanged.connect(self._resize)
        self.sphere.toggled.connect(self._round)
        self.within.toggled.connect(lambda _: self._limit())
        self.low.valueChanged.connect(lambda _: self._limit())
        self.high.valueChanged.connect(lambda _: self._limit())
        host.labels.changed.connect(self._layer_changed)
        host.image.changed.connect(self._layer_changed)
        host.viewer.dims.events.order.connect(self._follow)
        self._layer_changed()

    @property
    def step(self) -> float:
        """Size of the smallest voxel edge that the brush paints along, in mm (pixels: 1)."""
        layer = self._layer
        if layer is None or layers.placement_of(layer).geometry.unit == "px":
            return 1.0
        steps = layers.spacing_of(layer)
        order = [axis - (self._host.viewer.dims.ndim - layer.ndim) for axis in self._order()]
        painted = [axis for axis in order if axis >= 0][-int(layer.n_edit_dimensions) :]
        return float(min(steps[axis] for axis in painted))

    def widen(self, by_mm: float) -> None:
        """Make the brush wider or narrower, by a voxel at least."""
        step = 2 * self.step
        change = max(abs(by_mm), step)
        self.diameter.setValue(self.diameter.value() + (change if by_mm > 0 else -change))

    def release(self) -> None:
        """Stop listening to the layer and the viewer."""
        self._listen(None)
        self._host.viewer.dims.events.order.disconnect(self._follow)

    def _order(self) -> list[int]:
        return [int(axis) for axis in self._host.viewer.dims.order]

    def _layer_changed(self) -> None:
        layer = self._host.labels.layer
        if layer is not self._layer:
            self._listen(layer)
        others = [layers.bare(x) for x in self._host.viewer.layers]
        image = parents.image_behind(layer, others) if layer is not None else None
        if image is not None and (image.rgb or image.multiscale):
            image = None
        if image is not self._image:
            self._image = image
            self._propose()
        self._values.setVisible(image is not None)
        self.setEnabled(layer is not None)
        self._follow()
        self._limit()

    def _listen(self, layer: Any) -> None:  # Any: a napari layer
        old, self._layer = self._layer, layer
        for known, connect in ((old, False), (layer, True)):
            if known is None:
                continue
            for event in (known.events.brush_size, known.events.n_edit_dimensions):
                (event.connect if connect else event.disconnect)(self._follow)

    def _follow(self, event: Any = None) -> None:  # Any: napari events are untyped
        layer = self._layer
        if layer is None:
            return
        is_flat = layers.placement_of(layer).geometry.ndim == 2
        unit = layers.placement_of(layer).geometry.unit
        self.diameter.blockSignals(True)
        self.diameter.setSuffix(f" {unit}")
        self.diameter.setSingleStep(max(2 * self.step, 0.1))
        self.diameter.setValue(_diameter(layer) * self.step)
        self.diameter.blockSignals(False)
        self.sphere.blockSignals(True)
        self.sphere.setChecked(int(layer.n_edit_dimensions) >= 3)
        self.sphere.blockSignals(False)
        self.sphere.setVisible(not is_flat)

    def _resize(self, wanted: float) -> None:
        layer = self._layer
        if layer is not None:
            layer.brush_size = 2 * max(0, round(wanted / (2 * self.step) - 0.5)) + 1
            self._follow()

    def _round(self, is_sphere: bool) -> None:
        layer = self._layer
        if layer is not None:
            wanted = self.diameter.value()
            layer.n_edit_dimensions = 3 if is_sphere else 2
            self._resize(wanted)

    def _propose(self) -> None:
        image = self._image
        if image is None:
            return
        is_ct = layers.is_ct(image)
        low, high = image.contrast_limits
        for field, value in ((self.low, low), (self.high, high)):
            field.blockSignals(True)
            field.setDecimals(0 if image.dtype.kind in "iu" else 3)
            field.setSuffix(" HU" if is_ct else "")
            field.setValue(float(value))
            field.blockSignals(False)

    def _limit(self) -> None:
        is_on = self.within.isChecked() and self._image is not None
        self.low.setEnabled(is_on)
        self.high.setEnabled(is_on)
        ends = sorted((self.low.value(), self.high.value()))
        self._host.editors.limits = (ends[0], ends[1]) if is_on else None


def _diameter(layer: Any) -> int:  # Any: a napari layer
    # napari paints a disc of radius floor(size / 2) + 0.5.
    return 2 * (int(layer.brush_size) // 2) + 1


def _value_field() -> QDoubleSpinBox:
    field = QDoubleSpinBox()
    field.setRange(-_FAR, _FAR)
    field.setDecimals(0)
    field.setKeyboardTracking(False)
    field.setAlignment(Qt.AlignmentFlag.AlignRight)
    return field


def _row(*parts: tuple[QWidget, int]) -> QWidget:
    row = QWidget()
    line = QHBoxLayout(row)
    line.setContentsMargins(0, 0, 0, 0)
    line.setSpacing(6)
    for widget, stretch in parts:
        line.addWidget(widget, stretch)
    return row

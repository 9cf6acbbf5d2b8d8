"""The click tool: a click draws the object under it, a click with Shift takes away."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QPushButton, QVBoxLayout, QWidget

from maskloop.core.errors import MaskloopError
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.gui import layers, parents
from maskloop.gui.choices import is_alive, slim
from maskloop.gui.coverage import look_of
from maskloop.gui.host import Host
from maskloop.gui.pickers import true_points
from maskloop.gui.section import beside, tipped, words
from maskloop.gui.tips import TIPS

_Key = tuple[str, weakref.ref[Any]]  # a model's name and the image layer; Any: napari is untyped
EACH, SELECTED = "an object each", "the selected label"
_STILL = 3.0  # pixels of the screen: a mouse that moves less has clicked and not dragged


class ClickBar(QWidget):
    """A model to click with, and whether clicks are its now.

    While it is on, the labels layer is moved and zoomed as ever: a drag drags, a click draws.

    Parameters
    ----------
    host : Host

    Signals
    -------
    clicked(object)
        The `Change` that came of a click.
    """

    clicked = Signal(object)

    def __init__(self, host: Host) -> None:
        super().__init__()
        self._host = host
        self._clicker: Any = None  # Any: a Clicker; its type would import the desk
        self._key: _Key | None = None  # which model is ready for which image
        self._asked: _Key | None = None  # which model was last asked to be
        self._layer: Any = None  # Any: the Labels layer whose mode is listened to
        self._is_taking = False
        self.model = tipped(slim(QComboBox()), TIPS["click_model"])
        self.on = tipped(QPushButton("Click"), TIPS["click_on"])
        self.on.setCheckable(True)
        self.on.setObjectName("maskloop_tool")
        self.into = tipped(slim(QComboBox()), TIPS["click_into"])
        self.into.addItems([EACH, SELECTED])
        self.over = tipped(QCheckBox("over painted"), TIPS["click_over"])
        self.about = words()
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setSpacing(4)
        rows.addWidget(beside(self.model, self.on))
        rows.addWidget(beside(self.into, self.over))
        rows.addWidget(self.about)
        self.on.toggled.connect(self._toggled)
        self.model.currentIndexChanged.connect(lambda _: self._model_changed())
        host.labels.changed.connect(self._layers_changed)
        host.image.changed.connect(self._layers_changed)
        host.busy.connect(lambda _: self._check())
        host.models_changed.connect(self.refill)
        host.viewer.mouse_drag_callbacks.append(self._pressed)
        self.refill()

    @property
    def is_ready(self) -> bool:
        """Whether a click would be answered: switched on, and the model has seen the image."""
        return self.on.isChecked() and self._key is not None and self._key == self._wanted_key()

    def refill(self) -> None:
        """Read which models draw at a click."""
        from maskloop.desk.clicking import list_clickers

        kept = self.model.currentText()
        before = self.model.blockSignals(True)
        self.model.clear()
        self.model.addItems(list_clickers())
        self.model.setCurrentIndex(max(self.model.findText(kept), 0 if self.model.count() else -1))
        self.model.blockSignals(before)
        self._check()

    def problem(self) -> str:
        """Return why there can be no clicks, or ""."""
        if not self.model.count():
            return "No model that draws at a click is ready; train one of family adaptis."
        layer = self._host.labels.layer
        image = self._image()
        if image is None:
            return "There is no image behind these labels to click in."
        if layers.placement_of(image).lead:
            return "Clicks know no time axis; show and save one time point first."
        if layer is not None and (self._host.editors.of(layer) is None or not layer.editable):
            return f"{layer.name} cannot be corrected here; see the words above."
        return ""

    def click_at(self, position: Any, *, remove: bool = False) -> None:  # Any: world coordinates
        """Answer a click at a position of the viewer's world."""
        layer = self._host.labels.layer
        if not self.on.isChecked() or layer is None:
            return
        point, axis, problem = self._placed(layer, position)
        if problem:
            self._host.say(problem, "warning")
        elif not self.is_ready:
            self._make_ready()
        elif self._clicker.has_seen(point, axis=axis):
            self._answer(layer, point, axis, remove)
        else:
            # A slice not seen yet: looked at beside the window, answered when that is done.
            self._host.start(
                lambda job: self._clicker.look(point, axis=axis, job=job),
                f"{self._clicker.card.name} looks at this slice",
                lambda _: self._answer(layer, point, axis, remove),
            )

    def release(self) -> None:
        """Stop listening to the viewer and the layer."""
        if self._pressed in self._host.viewer.mouse_drag_callbacks:
            self._host.viewer.mouse_drag_callbacks.remove(self._pressed)
        self._listen(None)
        self._clicker = None

    # On and off

    def _toggled(self, is_on: bool) -> None:
        if is_on and self.problem():
            self.on.setChecked(False)
            return
        if is_on:
            self._is_taking = True
            self._take_layer()
            self._is_taking = False
            self._make_ready()
        else:
            self._listen(None)
        self._check()

    def _take_layer(self) -> None:
        """Have a labels layer to draw into, active and not painted on by the mouse."""
        host = self._host
        if host.labels.layer is None:
            from napari.layers import Layer

            image = host.image.layer
            data = layers.blank_like(image, LabelTable(), f"{image.name}_clicks")
            host.labels.choose(host.viewer.add_layer(Layer.create(*data)))
        layer = host.labels.layer
        host.viewer.layers.selection.active = layer
        layer.mode = "pan_zoom"
        self._listen(layer)

    def _listen(self, layer: Any) -> None:  # Any: a napari layer or None
        if self._layer is not None:
            self._layer.events.mode.disconnect(self._mode_changed)
        self._layer = layer
        if layer is not None:
            layer.events.mode.connect(self._mode_changed)

    def _mode_changed(self, event: Any = None) -> None:  # Any: napari events are untyped
        if self._layer is not None and str(self._layer.mode) != "pan_zoom":
            self.on.setChecked(False)  # the brush, or another tool, has the mouse now

    def _layers_changed(self) -> None:
        is_on = self.on.isChecked() and not self._is_taking
        if is_on and (
            self._host.labels.layer is not self._layer or self._wanted_key() != self._asked
        ):
            self.on.setChecked(False)
        self._check()

    def _model_changed(self) -> None:
        if self.on.isChecked():
            self._make_ready()
        self._check()

    # Getting ready

    def _image(self) -> Any:  # Any: a napari layer or None
        layer = self._host.labels.layer
        if layer is None:
            return self._host.image.layer
        others = [layers.bare(x) for x in self._host.viewer.layers]
        return parents.image_behind(layer, others)

    def _wanted_key(self) -> _Key | None:
        image = self._image()
        return None if image is None else (self.model.currentText(), weakref.ref(image))

    def _make_ready(self) -> None:
        """Load the model and let it see what is shown, beside the window."""
        key, image, name = self._wanted_key(), self._image(), self.model.currentText()
        self._asked = key
        if key is None or key == self._key or self._host.is_busy:
            return
        seen = layers.capture(image)
        old = self._clicker
        middle, axis = self._middle(image)

        def work(job: Job) -> Any:  # Any: a Clicker
            from maskloop.desk.clicking import Clicker
            from maskloop.ops.device import spare_a_core

            spare_a_core()
            is_same = old is not None and old.card.name == name
            clicker = old if is_same else Clicker(name, job=job)
            picture: Image = seen.image()
            clicker.show(picture)
            clicker.look(middle, axis=axis, job=job)
            return clicker

        def done(clicker: Any) -> None:  # Any: a Clicker
            self._clicker, self._key = clicker, key
            self._host.say("Click an object to draw it; Shift-click what is not of it.", "good")
            self._check()

        if self._host.start(work, f"Getting {name} ready", done) is None:
            self.on.setChecked(False)

    def _middle(self, image: Any) -> tuple[list[int], int | None]:  # Any: a napari layer
        """Return the middle of the slice shown, and the axis across it."""
        shape = layers.placement_of(image).geometry.shape
        middle = [n // 2 for n in shape]
        look = look_of(self._host.viewer, image, is_ct=False)
        if look is None:
            return middle, None
        middle[look.axis] = look.index
        return middle, look.axis

    # Clicks

    def _pressed(self, viewer: Any, event: Any) -> Iterator[None]:  # Any: napari is untyped
        if not is_alive(self) or not self.on.isChecked() or event.button not in (1, None):
            return
        start, position = tuple(event.pos), tuple(event.position)
        remove = "Shift" in event.modifiers
        yield
        while event.type == "mouse_move":
            yield
        moved = max(abs(a - b) for a, b in zip(start, event.pos, strict=True))
        if moved <= _STILL:
            self.click_at(position, remove=remove)

    def _placed(
        self, layer: Any, position: Any
    ) -> tuple[tuple[float, ...], int | None, str]:  # Any: a napari layer, world coordinates
        """Return the point on the true grid, the axis across the slice, and why not."""
        if self._host.viewer.dims.ndisplay != 2:
            return (), None, "Show the picture in 2D to click in it."
        place = layers.placement_of(layer)
        shown = layer.world_to_data(list(position)[-layer.ndim :])
        (point,) = true_points(place, [[round(float(v)) for v in shown]])
        shape = place.geometry.shape
        if any(not 0 <= v < n for v, n in zip(point, shape, strict=True)):
            return (), None, "That lies outside the image."
        if len(shape) == 2:
            return point, None, ""
        look = look_of(self._host.viewer, layer, is_ct=False)
        if look is None:
            return (), None, "Show the picture along an axis of the volume to click in it."
        return point, look.axis, ""

    def _answer(
        self, layer: Any, point: tuple[float, ...], axis: int | None, remove: bool
    ) -> None:  # Any: a napari layer
        from maskloop.desk.clicking import options_of

        editor = self._host.editors.of(layer)
        if editor is None or self._host.labels.layer is not layer:
            return
        editor.flush()  # a click sees what was painted before it
        is_chosen = self.into.currentText() == SELECTED
        started = time.perf_counter()
        try:
            mask = editor.case.masks[editor.mask_name]
            one = self._clicker.click(
                mask,
                point,
                axis=axis,
                remove=remove,
                label=int(layer.selected_label) or None if is_chosen and not remove else None,
                over=self.over.isChecked(),
            )
            change = None
            if not one.is_empty:
                options = options_of(one, self._clicker)
                change = editor.change(one.ids, one.box, over_hand=self.over.isChecked(), **options)
        except MaskloopError as error:
            self._host.say(str(error), "error")
            return
        took = 1000 * (time.perf_counter() - started)
        if change is None or change.edit.is_empty:
            self._host.say(_sentence(one.note or "nothing changed"), "warning")
            return
        if not remove:
            layer.selected_label = one.label
        verb = "taken from" if remove else "drawn as"
        name = one.labels[one.label].name
        text = f"{change.edit.voxels:,} pixels {verb} {name} in {took:.0f} ms"
        note = f"; {one.note}" if one.note else ""
        self._host.say(_sentence(text + note), "good")
        self.clicked.emit(change)

    def _check(self) -> None:
        if not is_alive(self):
            return
        problem = self.problem()
        self.on.setEnabled(not problem and not self._host.is_busy)
        self.on.setToolTip(problem or TIPS["click_on"])
        for widget in (self.model, self.into, self.over):
            widget.setEnabled(not problem)
        if self.on.isChecked():
            text = "click: the object; Shift-click: not of it" if self.is_ready else "getting ready"
        else:
            text = problem if not self.model.count() else ""
        self.about.setText(text)
        self.about.setVisible(bool(text))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."

"""Predict: choose an image and a model, run, get an undoable labels layer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QCheckBox, QComboBox, QFileDialog, QLabel, QPushButton, QSpinBox

from maskloop import __version__
from maskloop.core.case import Change
from maskloop.core.job import Job
from maskloop.gui import layers, model_step
from maskloop.gui.choices import slim
from maskloop.gui.host import Host, setting
from maskloop.gui.legend import Legend
from maskloop.gui.menus import ModelMenu, Row, about, short
from maskloop.gui.results import Wanted, add_chances, counted, result_layer
from maskloop.gui.runner import Run
from maskloop.gui.section import Section, beside, tipped, words
from maskloop.gui.tips import TIPS

DEVICES = ("auto", "cpu", "cuda", "mps")
CHANNELS = ("all colours", "red", "green", "blue", "alpha")
# Chosen first where nobody has chosen, the first one that is there.
FIRST = {2: ("nuclei",), 3: ("liver-tumour", "phantom-liver")}


class PredictSection(Section):
    """The model menu and its Run."""

    def __init__(self, host: Host) -> None:
        super().__init__("Predict", is_open=True)
        self._host = host
        self._was_chosen = False
        self.model = tipped(ModelMenu(), TIPS["model"])
        self.refresh = tipped(QPushButton("\N{CLOCKWISE OPEN CIRCLE ARROW}"), TIPS["refresh"])
        self.refresh.setMaximumWidth(32)
        self.device = tipped(slim(QComboBox()), TIPS["device"])
        self.device.addItems(DEVICES)
        self.device.setCurrentText(str(setting("device", "auto")))
        self.channel = tipped(slim(QComboBox()), TIPS["channel"])
        self.channel.addItems(CHANNELS)
        self.extent = tipped(slim(QComboBox()), TIPS["extent"])
        self.extent.addItems(["whole volume", "this slice"])
        self.extent.currentIndexChanged.connect(lambda _: self._check())
        self.frames = [tipped(QSpinBox(), TIPS["frame"]) for _ in range(3)]
        self.rows_of_form = self.form()
        self.rows_of_form.addRow("Image", host.image)
        self.rows_of_form.addRow("Model", beside(self.model, self.refresh))
        self.rows_of_form.addRow("Extent", self.extent)
        for spin in self.frames:
            self.rows_of_form.addRow("Frame", spin)
        self.rows_of_form.addRow("Colours", self.channel)
        self.rows_of_form.addRow("Device", self.device)
        self.candidates = tipped(QCheckBox("List what it nearly drew"), TIPS["list_candidates"])
        self.candidates.setChecked(True)
        self.refine = tipped(QCheckBox("Follow the edges of the picture"), TIPS["refine"])
        self.chances = tipped(QCheckBox("Keep probabilities as layers"), TIPS["chances"])
        self.legend = Legend(host.viewer)
        self.show_legend = tipped(QCheckBox("Legend in the picture"), TIPS["legend"])
        self.show_legend.setChecked(True)
        self.show_legend.toggled.connect(self._show_or_hide_legend)
        self.about = words()
        self.reason = words()
        self.reason.setStyleSheet("color: #ffcf66; background: transparent;")
        self.run = tipped(QPushButton("Run"), TIPS["run"])
        self.run.setObjectName("maskloop_main")
        self.gpu = words()
        self.gpu.setStyleSheet("color: #ffcf66; background: transparent;")
        self.gpu.hide()
        boxes = (self.candidates, self.refine, self.chances, self.show_legend)
        for widget in (*boxes, self.about, self.gpu, self.reason, self.run):
            self.rows.addWidget(widget)
        self.run.clicked.connect(self.start)
        self.refresh.clicked.connect(self.refill)
        self.model.activated.connect(self._take_choice)
        self.model.currentIndexChanged.connect(lambda _: self._check())
        host.image.changed.connect(self._image_changed)
        host.busy.connect(lambda _: self._check())
        host.models_changed.connect(self.refill)
        host.viewer.dims.events.current_step.connect(self._follow_slider)
        self.refill()
        self._gpu_run: Run | None = None
        if shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists():
            self.look_at_gpu()

    def look_at_gpu(self) -> None:
        """Say so if there is a graphics card that torch cannot use; asks it beside the window."""

        def work(job: Job) -> dict[str, Any]:  # Any: plain JSON values
            from maskloop.desk.doctor import doctor

            found: dict[str, Any] = doctor()["device"]
            return found

        self._gpu_run = Run(work, "Looking at the graphics card", self)
        self._gpu_run.done.connect(self._show_gpu)
        self._gpu_run.start()

    def _show_gpu(self, device: dict[str, Any]) -> None:  # Any: plain JSON values
        if device["problem"]:
            fix = f"\nRun: {device['fix']}" if device["fix"] else ""
            self.gpu.setText(f"{device['problem']}{fix}")
            self.gpu.show()

    @property
    def chosen(self) -> dict[str, Any] | None:  # Any: plain JSON values
        """The chosen model's row of `list_models`, or None."""
        return self.model.chosen

    def refill(self) -> None:
        """Read the models again, keeping the choice."""
        from maskloop.desk.catalogue import list_models

        self.model.show_models(list_models())
        self._image_changed()

    def choose(self, name: str) -> None:
        """Choose a model by name, as a person does."""
        self._was_chosen = True
        self.model.choose(name)

    def start(self) -> None:
        """Run the chosen model on the chosen image."""
        layer, model = self._host.image.layer, self.chosen
        if layer is None or model is None or self._problem():
            return
        if model["folder"] and model["state"] == "to be fetched":
            self._point_to(model)
            return
        name, device = model["name"], self.device.currentText()
        wanted = Wanted(layer, name, self._frame(), f"{layer.name}_{name}")
        seen = layers.capture(layer, frame=wanted.frame, channel=self._channel(layer))

        is_whole = not wanted.frame
        has_candidates = self.candidates.isChecked() and is_whole
        has_chances = self.chances.isEnabled() and self.chances.isChecked() and is_whole
        is_refined = self.refine.isEnabled() and self.refine.isChecked()

        def work(job: Job) -> Any:  # Any: a Prediction and facts; its type would import the loop
            from maskloop.desk.draft import facts
            from maskloop.loop.predict import Predictor
            from maskloop.ops.device import spare_a_core

            spare_a_core()
            predictor = Predictor(name, device, job=job)
            found = predictor.predict(
                seen.image(),
                job,
                candidates=has_candidates,
                refine=True if is_refined else None,  # None: as its card says
                probabilities=has_chances,
            )
            return found, {**facts(found, predictor.card), "version": __version__}

        self._host.start(work, name, lambda found: self._show(wanted, *found))

    def _point_to(self, model: dict[str, Any]) -> None:  # Any: plain JSON values
        """Ask for the folder that holds a model's weights; the next Run has them."""
        name = model["name"]
        title = f"Choose the folder {model['folder']} for {name}"
        found = QFileDialog.getExistingDirectory(self, title)
        if not found:
            return

        def work(job: Job) -> None:
            from maskloop.desk.catalogue import weights_fetch

            weights_fetch(name, source=found, job=job)

        def done(_: object) -> None:
            self._host.models_changed.emit()
            self.choose(name)
            self._host.say(f"{name} is ready; press Run.", "good")

        self._host.start(work, name, done)

    def _show_or_hide_legend(self, is_wanted: bool) -> None:
        self.legend.is_wanted = is_wanted

    def release(self) -> None:
        """Stop listening to the viewer."""
        self.legend.release()
        if self._gpu_run is not None:
            self._gpu_run.stop()
        self._host.viewer.dims.events.current_step.disconnect(self._follow_slider)

    def _show(self, wanted: Wanted, found: Any, about: dict[str, Any]) -> None:  # Any: Prediction
        mask = found.mask.checked()
        target = result_layer(self._host.viewer, wanted, mask)
        self._host.labels.choose(target)
        if found.probabilities is not None:
            add_chances(self._host.viewer, wanted, found)
        editor = self._host.editors.of(target)
        if editor is None:
            layers.set_table(target, mask.labels)
            layers.apply_ids(target, mask.data, frame=wanted.frame)
            self._say(target, found, "")
            return

        def done(change: Change) -> None:
            if found.candidates is not None:
                editor.case.review.propose(found.candidates)
                self._host.reviewed.emit()
            self._say(target, found, change.refused.words if change.refused else "")

        model_step.draw(
            editor,
            mask,
            wanted.frame,
            done,
            tool=found.model,
            words=f"{found.model}: {counted(mask.labels)}",
            author=found.model,
            about=about,
        )

    def _say(self, target: Any, found: Any, refused: str) -> None:  # Any: a layer, a Prediction
        table = found.mask.labels
        notes = " ".join((*found.notes, f"{refused}." if refused else ""))
        text = (
            f"{target.name}: {counted(table)} in {found.seconds:.1f} s on {found.device}. {notes}"
        )
        self._host.say(text.strip(), "good" if table else "warning")

    def _take_choice(self) -> None:
        self._was_chosen = True

    def _image_changed(self) -> None:
        layer, model = self._host.image.layer, self.chosen
        fits = layer is not None and model is not None and _fixed_axes(layer, model, False) >= 0
        if layer is not None and not (self._was_chosen and fits):
            self._propose(layer)
        self._follow_slider()
        self._check()

    def _propose(self, layer: Any) -> None:  # Any: a napari layer
        ndim = layers.placement_of(layer).geometry.ndim
        fitting = [m for m in self.model.models if ndim in m["ndim"] and m["state"] != "broken"]
        ready = [m["name"] for m in fitting if m["state"] == "present"]
        first = [n for n in FIRST[ndim] if n in ready]
        for name in (*first, *ready, *(m["name"] for m in fitting)):
            self.model.choose(name)
            return

    def _problem(self) -> str:
        """Return why Run cannot work, or ""."""
        layer, model = self._host.image.layer, self.chosen
        if self._host.is_busy:
            return "Something is running; stop it or wait."
        if layer is None:
            return "Open an image first."
        if model is None:
            return "There is no model; press Refresh."
        if model["state"] == "broken":
            return f"{model['name']} cannot run: {model['reason']}"
        if _fixed_axes(layer, model, False) < 0:
            return f"{model['name']} needs a volume; {layer.name} is a picture."
        if _fixed_axes(layer, model, False) > len(self.frames):
            return f"{layer.name} has {layer.ndim} axes; split it first."
        return ""

    def _check(self) -> None:
        problem = self._problem()
        layer, model = self._host.image.layer, self.chosen
        hint = "" if problem or layer is None or model is None else _hint(layer, model)
        self.reason.setText(problem or hint)
        self.reason.setVisible(bool(problem or hint))
        self.run.setEnabled(not problem)
        self.run.setToolTip(problem or TIPS["run"])
        self.about.setText("" if model is None else short(model))
        if model is not None:
            self.model.setToolTip(about(model))
        self._offer_classes_only(model)
        has_both = layer is not None and model is not None and _is_sliced(layer, model)
        self.rows_of_form.setRowVisible(self.extent, has_both)
        self._show_frames(layer, 0 if problem and not self._host.is_busy else self._extra())
        is_colour = layer is not None and bool(layer.rgb)
        self.rows_of_form.setRowVisible(self.channel, is_colour)
        if (
            is_colour
            and model is not None
            and model["ndim"] == [3]
            and not self.channel.currentIndex()
        ):
            self.channel.setCurrentIndex(1)

    def _offer_classes_only(self, model: Row | None) -> None:
        """Offer what only models of classes can do where such a one is chosen."""
        is_offered = model is None or model["task"] == "semantic"
        for box, tip in ((self.refine, "refine"), (self.chances, "chances")):
            box.setEnabled(is_offered)
            why = "" if is_offered else " Not for models that find objects one by one."
            box.setToolTip(f"{TIPS[tip]}{why}")

    def _show_frames(self, layer: Any, extra: int) -> None:  # Any: a napari layer
        for number, spin in enumerate(self.frames):
            self.rows_of_form.setRowVisible(spin, number < extra)
            label = self.rows_of_form.labelForField(spin)
            if number < extra and isinstance(label, QLabel):
                spin.setMaximum(layers.shape_of(layer)[number] - 1)
                label.setText(_axis_words(layer, number))

    def _extra(self) -> int:
        """Return how many of the layer's first axes are fixed by a choice."""
        layer, model = self._host.image.layer, self.chosen
        if layer is None or model is None:
            return 0
        return max(0, _fixed_axes(layer, model, self.extent.currentIndex() == 1))

    def _follow_slider(self, event: Any = None) -> None:  # Any: napari events are untyped
        layer = self._host.image.layer
        if layer is None:
            return
        point = list(self._host.viewer.dims.point)[-layer.ndim :]
        if len(point) < layer.ndim:
            return
        index = layer.world_to_data(point)
        for spin, at, size in zip(self.frames, index, layers.shape_of(layer), strict=False):
            spin.setMaximum(size - 1)
            spin.setValue(min(max(round(float(at)), 0), size - 1))

    def _frame(self) -> layers.Frame:
        return tuple(spin.value() for spin in self.frames[: self._extra()])

    def _channel(self, layer: Any) -> int | None:  # Any: a napari layer
        chosen = self.channel.currentIndex()
        return chosen - 1 if layer.rgb and chosen > 0 else None


def _fixed_axes(layer: Any, model: dict[str, Any], one_slice: bool) -> int:  # Any: layer, JSON
    """Return how many first axes of a layer a model cannot see; -1 where it wants more axes."""
    place = layers.placement_of(layer)
    if _is_sliced(layer, model):
        return place.lead + int(one_slice)
    if place.geometry.ndim in model["ndim"]:
        return place.lead
    return place.lead + 1 if place.geometry.ndim == 3 else -1


def _is_sliced(layer: Any, model: dict[str, Any]) -> bool:  # Any: napari layer, JSON
    return layers.placement_of(layer).geometry.ndim == 3 and {2, 3} <= set(model["ndim"])


def _hint(layer: Any, model: dict[str, Any]) -> str:  # Any: napari layer, JSON
    if "CT" in str(model.get("modality", "")) and not layers.is_ct(layer):
        return (
            f"{model['name']} expects CT in Hounsfield units; {layer.name} does not look like it."
        )
    return ""


def _axis_words(layer: Any, axis: int) -> str:  # Any: a napari layer
    name = str(layer.axis_labels[axis])
    known = {"t": "Time", "c": "Channel", "z": "Slice", "S": "Slice", "time": "Time"}
    return known.get(name, f"Axis {name}" if name.lstrip("-").isdigit() else name)

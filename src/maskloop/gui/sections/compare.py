"""Compare: two models, or two labels layers, on one image; where they differ, to click through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtWidgets import QFileDialog, QPushButton

from maskloop.core.errors import MaskloopError
from maskloop.core.job import Job
from maskloop.core.mask import Mask
from maskloop.gui import layers
from maskloop.gui.difference_view import DifferenceView
from maskloop.gui.host import Host
from maskloop.gui.marks import Mark, jump
from maskloop.gui.menus import Group, ModelMenu
from maskloop.gui.placement import GHOST
from maskloop.gui.section import Section, tipped, words
from maskloop.gui.tips import TIPS

LAYER = "layer: "  # before the name of a labels layer, which may be that of a model
_OPACITY = 0.6
_WIDEST = 30  # voxels of a ring: a wider one hides what it is round


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One of the two that are compared: how it is called, and how its mask is had in a worker."""

    name: str
    mask: Callable[[Any, Job], Mask]  # Any: an Image


class CompareSection(Section):
    """Two menus, the agreement map, and the list of differences."""

    def __init__(self, host: Host) -> None:
        super().__init__("Compare")
        self._host = host
        self._found: Any = None  # Any: a Comparison
        self._frame: layers.Frame = ()
        self._map: Any = None  # Any: a napari layer
        self._mark = Mark(host.viewer, "difference", "ring")
        self.image = words()
        self.a = tipped(ModelMenu(), TIPS["compare_a"])
        self.b = tipped(ModelMenu(), TIPS["compare_b"])
        self.reason = words()
        self.reason.setStyleSheet("color: #ffcf66; background: transparent;")
        self.run = tipped(QPushButton("Compare"), TIPS["compare"])
        self.run.setObjectName("maskloop_main")
        self.about = words()
        self.list = tipped(DifferenceView(), TIPS["differences"])
        self.previous = tipped(QPushButton("Back (P)"), TIPS["difference_previous"])
        self.next = tipped(QPushButton("Next (N)"), TIPS["difference_next"])
        self.csv = tipped(QPushButton("CSV ..."), TIPS["differences_csv"])
        form = self.form()
        form.addRow("Image", self.image)
        form.addRow("A", self.a)
        form.addRow("B", self.b)
        for widget in (self.reason, self.run, self.about, self.list):
            self.rows.addWidget(widget)
        self.add(self.previous, self.next, self.csv)
        self._connect()
        self.refill()
        self._show(None)

    def _connect(self) -> None:
        host = self._host
        self.run.clicked.connect(self.start)
        self.list.chosen.connect(self.go_to)
        self.previous.clicked.connect(lambda: self.list.step(-1))
        self.next.clicked.connect(lambda: self.list.step(1))
        self.csv.clicked.connect(self._ask_where)
        for menu in (self.a, self.b):
            menu.currentIndexChanged.connect(lambda _: self._check())
        host.image.changed.connect(self._propose)
        host.labels.changed.connect(self.refill)
        host.busy.connect(lambda _: self._check())
        host.models_changed.connect(self.refill)
        self.header.toggled.connect(lambda _: self.refill())

    def refill(self) -> None:
        """Read models and layers again, keeping the choices."""
        if not self.header.isChecked():
            return
        from maskloop.desk.catalogue import list_models

        rows = list_models()
        layer_group = self._layer_group()
        for menu in (self.a, self.b):
            menu.show_models(rows, others=layer_group)
        self._propose()
        self._check()

    def _propose(self) -> None:
        """Choose what fits the image, another as B than as A, where what is chosen does not."""
        layer = self._host.image.layer
        for menu, other in ((self.a, self.b), (self.b, self.a)):
            is_twin = menu is self.b and menu.currentText() == other.currentText()
            if layer is None or not (is_twin or self._why_not(menu, layer)):
                continue
            names = [text for text in menu.entries if text != other.currentText()]
            before = menu.currentText()
            fits = (menu.choose(name) and not self._why_not(menu, layer) for name in names)
            if not any(fits):
                menu.choose(before)
        self._check()

    def start(self) -> None:
        """Compare on the chosen image."""
        layer = self._host.image.layer
        if layer is None or self._problem():
            return
        frame = self._frame_of(layer)
        seen = layers.capture(layer, frame=frame)
        try:
            sides = [self._side(menu, layer, frame) for menu in (self.a, self.b)]
        except MaskloopError as error:
            self._host.say(str(error), "error")
            return

        def work(job: Job) -> Any:  # Any: a Comparison; its type would import the desk
            from maskloop.desk.compare import compare_masks
            from maskloop.ops.device import spare_a_core

            spare_a_core()
            image = seen.image()
            a, b = (replace(side.mask(image, job), title=side.name) for side in sides)
            return compare_masks(a, b, names=(sides[0].name, sides[1].name), job=job)

        def done(found: Any) -> None:  # Any: a Comparison
            self._frame = frame
            self._add_map(layer, found)
            self._show(found)

        self._host.start(work, f"{sides[0].name} and {sides[1].name}", done)

    # The list

    def step(self, by: int) -> None:
        """Go to the next difference, or the one before."""
        self.list.step(by)

    def accept_current(self) -> None:
        """Say that there is nothing to accept here."""
        self._host.say("Differences are looked at; correct the labels under Correct.")

    def drop_current(self) -> None:
        """Say that there is nothing to reject here."""
        self.accept_current()

    def go_to(self, number: int) -> None:
        """Show a difference with a ring round it."""
        shown = self._map_layer
        if self._found is None or shown is None or not 0 <= number < self.list.rowCount():
            return
        self._host.walk.take(self)
        one = self._found.differences[number]
        place = layers.placement_of(shown)
        index = one.place
        if len(index) < place.geometry.ndim:  # one slice of a volume: told in the layer's axes
            box = (*self._frame, *index)
            index = tuple(
                part.start for part in place.true_box(tuple(slice(i, i + 1) for i in box))
            )[place.lead :]
        self._show_frame(shown, place.lead)
        jump(self._host.viewer, shown, index)
        size = max(part.stop - part.start for part in one.box[-2:])
        self._mark.show(shown, [[index]], size=min(size + 8, _WIDEST))
        a, b = self._found.class_name(one.a), self._found.class_name(one.b)
        names = self._found.names
        self._host.say(f"Difference {one.number}: {names[0]} says {a}, {names[1]} says {b}.")

    def write(self, path: Path) -> None:
        """Write the list as CSV."""
        from maskloop.desk.compare import write_differences

        try:
            write_differences(self._found, path)
        except (MaskloopError, OSError) as error:
            self._host.say(str(error), "error")
            return
        self._host.say(f"{path.name}: {len(self._found.differences)} differences.", "good")

    def release(self) -> None:
        """Let go of what was found."""
        self._found, self._map = None, None

    # What is shown

    @property
    def _map_layer(self) -> Any:  # Any: a napari layer, or None once a person removed it
        is_there = any(layers.bare(x) is self._map for x in self._host.viewer.layers)
        return self._map if is_there else None

    def _add_map(self, image: Any, found: Any) -> None:  # Any: a napari layer, a Comparison
        from napari.layers import Layer

        viewer = self._host.viewer
        self._mark.remove()
        old = self._map_layer
        if old is not None:
            viewer.layers.remove(old)
        for other in viewer.layers:
            if type(layers.bare(other)).__name__ == "Labels":
                other.visible = False  # two colours over each other are a third
        mask = found.agreement
        data, options, kind = layers.blank_like(image, mask.labels, mask.title)
        place = layers.placement_of(image)
        lead = place.lead - len(self._frame)
        data[self._frame] = mask.data if lead < 0 else place.shown(mask.data, lead=lead)
        options["metadata"] = {**options["metadata"], GHOST: True}
        made = Layer.create(data, {**options, "opacity": _OPACITY}, kind)
        made.editable = False
        active = viewer.layers.selection.active
        self._map = layers.bare(viewer.add_layer(made))
        # Adding a layer makes it the active one: a brush would go to the map.
        viewer.layers.selection.active = active

    def _show_frame(self, layer: Any, lead: int) -> None:  # Any: a napari layer
        dims = self._host.viewer.dims
        first = dims.ndim - layer.ndim
        world = layer.data_to_world((*self._frame[:lead], *[0] * (layer.ndim - lead)))
        for axis in range(lead):
            dims.set_point(first + axis, float(world[axis]))

    def _show(self, found: Any) -> None:  # Any: a Comparison, or None
        self._found = found
        self.list.fill(found)
        has_rows = found is not None and bool(found.differences)
        for widget in (self.list, self.previous, self.next, self.csv):
            widget.setVisible(has_rows)
        self.about.setText("" if found is None else _summary(found))
        self.about.setVisible(found is not None)
        if found is not None:
            notes = " ".join(f"{note}." for note in found.notes)
            text = f"{found.names[0]} and {found.names[1]}: {found.total} differences. {notes}"
            self._host.say(text.strip(), "good")

    # What is asked

    def _layer_group(self) -> list[Group]:
        named = [
            layers.bare(layer).name
            for layer in reversed(list(self._host.viewer.layers))
            if type(layers.bare(layer)).__name__ == "Labels" and GHOST not in layer.metadata
        ]
        tip = "The labels of this layer as they are now."
        return [("Labels in the window", [(f"{LAYER}{n}", tip) for n in named])] if named else []

    def _labels_of(self, menu: ModelMenu) -> Any:  # Any: a napari layer, or None
        text = menu.currentText()
        if not text.startswith(LAYER):
            return None
        known = {layers.bare(x).name: layers.bare(x) for x in self._host.viewer.layers}
        return known.get(text[len(LAYER) :])

    def _side(self, menu: ModelMenu, image: Any, frame: layers.Frame) -> Side:  # Any: a layer
        labels = self._labels_of(menu)
        if labels is not None:
            taken = layers.capture_labels(labels, image, frame=frame)
            return Side(labels.name, lambda pixels, job: taken.mask().checked())
        row = menu.chosen or {}
        name = str(row.get("name", ""))

        def mask(pixels: Any, job: Job) -> Mask:  # Any: an Image
            from maskloop.loop.predict import predict

            return predict(pixels, name, job=job).mask.checked()

        return Side(name, mask)

    def _frame_of(self, layer: Any) -> layers.Frame:  # Any: a napari layer
        """Return the position along the first axes that are not looked at as a whole."""
        count = max(self._fixed(menu, layer) for menu in (self.a, self.b))
        point = list(self._host.viewer.dims.point)[-layer.ndim :]
        index = layer.world_to_data(point)
        sizes = layers.shape_of(layer)
        return tuple(
            min(max(round(float(index[axis])), 0), sizes[axis] - 1) for axis in range(count)
        )

    def _fixed(self, menu: ModelMenu, layer: Any) -> int:  # Any: a napari layer
        """Return how many first axes a side cannot see; -1 where it wants more than there are."""
        place = layers.placement_of(layer)
        row = menu.chosen
        if row is None or place.geometry.ndim in row["ndim"]:
            return place.lead
        return place.lead + 1 if place.geometry.ndim == 3 else -1

    def _problem(self) -> str:
        layer = self._host.image.layer
        if self._host.is_busy:
            return "Something is running; stop it or wait."
        if layer is None:
            return "Open an image first."
        for menu in (self.a, self.b):
            if why := self._why_not(menu, layer):
                return why
        if self.a.currentText() == self.b.currentText():
            return "Choose two different ones."
        return ""

    def _why_not(self, menu: ModelMenu, layer: Any) -> str:  # Any: a napari layer
        """Return why what a menu holds cannot be had for an image, or ""."""
        labels, row = self._labels_of(menu), menu.chosen
        if labels is not None:
            is_alike = layers.shape_of(labels) == layers.shape_of(layer)
            return "" if is_alike else f"{labels.name} is not of the size of {layer.name}."
        if row is None:
            return "Choose a model or a labels layer as A and as B."
        if row["state"] == "broken":
            return f"{row['name']} cannot run: {row['reason']}"
        if self._fixed(menu, layer) < 0:
            return f"{row['name']} needs a volume; {layer.name} is a picture."
        return ""

    def _check(self) -> None:
        layer = self._host.image.layer
        self.image.setText("none" if layer is None else layer.name)
        problem = self._problem()
        self.reason.setText(problem)
        self.reason.setVisible(bool(problem))
        self.run.setEnabled(not problem)
        self.run.setToolTip(problem or TIPS["compare"])

    def _ask_where(self) -> None:
        start = str(Path.home() / "differences.csv")
        name, _ = QFileDialog.getSaveFileName(self, "Write the list", start, "CSV (*.csv)")
        if name:
            self.write(Path(name))


def _summary(found: Any) -> str:  # Any: a Comparison
    share = found.share
    lines = ["Neither drew anything." if share is None else f"{share:.1%} of what either drew."]
    if share is not None:
        lines = [f"Alike: {lines[0]}"]
    for row in found.labels:
        told = "-" if row.dice is None or np.isnan(row.dice) else f"{row.dice:.3f}"
        lines.append(f"    {row.name}: Dice {told}")
    return "\n".join(lines)

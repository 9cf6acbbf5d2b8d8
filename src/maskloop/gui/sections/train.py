"""Train: learn from corrected pairs, watch, get a verdict and a new model in the menu."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QFileDialog,
    QLineEdit,
    QListWidget,
    QPushButton,
    QSpinBox,
)

from maskloop.core.errors import MaskloopError
from maskloop.core.image import Image
from maskloop.core.job import Job, Progress
from maskloop.core.mask import Mask
from maskloop.gui import layers, parents
from maskloop.gui.choices import slim
from maskloop.gui.curve import Curve
from maskloop.gui.host import Host
from maskloop.gui.menus import Group, GroupedMenu, Row, about, by_what_they_find
from maskloop.gui.section import Section, tipped, words
from maskloop.gui.tips import TIPS

OURS = "ours"  # the recipe that a card itself holds
_NOTES = 6  # told after a training; one case may have told each of them
_HEADS = {
    "semantic": "From scratch",
    "instance": "Objects from scratch",
    "panoptic": "Objects and classes from scratch",
}
_LEARNS = {
    "semantic": "its classes are those of the masks",
    "instance": "each id of the masks is an object; of a mask of classes, each connected piece",
    "panoptic": "masks hold objects and classes in one table",
}


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """An image and its labels as they were when they were added, or a folder of pairs."""

    name: str
    image: layers.Capture | None = None
    labels: layers.LabelsCapture | None = None
    folder: Path | None = None

    def case(self) -> tuple[Image, Mask] | Path:
        """Return what `maskloop.train` takes."""
        if self.image is not None and self.labels is not None:
            return self.image.image(), self.labels.mask().checked()
        return self.folder or Path()


@dataclass(frozen=True, slots=True)
class Start:
    """What a training can begin with: a model's name, or ``FAMILY:VARIANT`` from random weights.

    Parameters
    ----------
    name : str
    recipes : tuple of str
        Its recipes besides ours.
    reason : str
        Why it cannot be used; empty where it can.
    limits : tuple of str
        What no training can mend.
    """

    name: str
    recipes: tuple[str, ...] = ()
    reason: str = ""
    limits: tuple[str, ...] = ()


def starts_of(models: Sequence[Row], families: Sequence[Row]) -> tuple[list[Start], list[Group]]:
    """Return what a training can begin with, and the menu of it.

    Models by what they find, then every variant of every family from scratch, under its title:
    first those that draw classes, then those that find objects, then those that do both.
    """
    fixed = {family["name"] for family in families if not family["trainable"]}
    usable = [m for m in models if m["state"] != "broken" and m["family"] not in fixed]
    starts = [Start(m["name"], tuple(m["recipes"])) for m in usable]
    groups: list[Group] = [
        (f"Go on from: {title}", [(m["name"], about(m)) for m in found])
        for title, found in by_what_they_find(usable)
    ]
    trainable = [family for family in families if family["trainable"]]
    for family in sorted(trainable, key=lambda row: [*_HEADS].index(_task(row))):
        entries = []
        limits = tuple(family.get("limits", ()))
        for variant in family["variants"] or [""]:
            name = f"{family['name']}:{variant}" if variant else family["name"]
            recipes = tuple(family["recipes"].get(variant, ()))
            starts.append(Start(name, recipes, family["reason"], limits))
            tip = f"{family['title']}, from random weights; {_LEARNS[_task(family)]}."
            entries.append((name, "\n".join(x for x in (tip, *limits, family["reason"]) if x)))
        groups.append((f"{_HEADS[_task(family)]}: {family['title']}", entries))
    return starts, groups


def _task(family: Row) -> str:
    """Return what a family finds; one of another package is known by name only."""
    tasks = family.get("tasks") or ["semantic"]
    return str(tasks[0])


class TrainSection(Section):
    """Cases, base, recipe, name, steps; curve and verdict."""

    def __init__(self, host: Host) -> None:
        super().__init__("Train")
        self._host = host
        self._pairs: list[Pair] = []
        self._proposed = ""
        self.cases = tipped(QListWidget(), TIPS["cases"])
        self.cases.setMinimumHeight(60)
        self.cases.setMaximumHeight(90)
        self.cases.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.add_case = tipped(QPushButton("Add current"), TIPS["add_case"])
        self.add_folder = tipped(QPushButton("Add folder"), TIPS["add_folder"])
        self.remove = tipped(QPushButton("Remove"), TIPS["remove_case"])
        self.base = tipped(GroupedMenu(), TIPS["base"])
        self._starts: dict[str, Start] = {}
        self.recipe = tipped(slim(QComboBox()), TIPS["recipe"])
        self.name = tipped(QLineEdit(), TIPS["name"])
        self.steps = tipped(QSpinBox(), TIPS["steps"])
        self.steps.setRange(0, 100_000)
        self.steps.setSingleStep(50)
        self.steps.setSpecialValueText("automatic")
        self.reason = words()
        self.reason.setStyleSheet("color: #ffcf66; background: transparent;")
        self.limits = words()
        self.limits.setStyleSheet("color: #ffcf66; background: transparent;")
        self.run = tipped(QPushButton("Train"), TIPS["train"])
        self.run.setObjectName("maskloop_main")
        self.curve = tipped(Curve(), TIPS["curve"])
        self.curve.hide()
        self.verdict = tipped(words(), TIPS["verdict"])
        self.verdict.hide()
        self.rows.addWidget(self.cases)
        self.add(self.add_case, self.add_folder, self.remove)
        form = self.rows_of_form = self.form()
        form.addRow("Base", self.base)
        form.addRow("Recipe", self.recipe)
        form.addRow("Name", self.name)
        form.addRow("Steps", self.steps)
        for widget in (self.limits, self.reason, self.run, self.curve, self.verdict):
            self.rows.addWidget(widget)
        self._connect()
        self.refill()

    def add_current(self) -> None:
        """Add the chosen image and labels as they are now."""
        image, labels = self._host.image.layer, self._host.labels.layer
        if image is None or labels is None:
            return
        try:
            behind = parents.image_behind(labels, [image])
            seen = layers.capture_labels(labels, image if behind is None else behind)
        except MaskloopError as error:
            self._host.say(str(error), "error")
            return
        name = f"{image.name} + {labels.name}"
        self._put(Pair(name, layers.capture(image), seen))

    def add_pairs(self, folder: Path) -> None:
        """Add every pair of a folder."""
        self._put(Pair(f"folder {folder.name}", folder=folder))

    def start(self) -> None:
        """Train on the listed cases."""
        if self._problem():
            return
        pairs = list(self._pairs)
        base, name = self.base.currentText(), self.name.text().strip()
        steps = self.steps.value() or None
        recipe = self.recipe.currentText() if self.recipe.currentIndex() > 0 else ""
        self.curve.clear()
        self.curve.show()
        self.verdict.hide()

        def work(job: Job) -> Any:  # Any: a TrainingReport and notes; its type imports the loop
            from maskloop.loop.train import train
            from maskloop.ops.device import load_dynamo, spare_a_core

            load_dynamo()
            spare_a_core()
            cases = [pair.case() for pair in pairs]
            report = train(cases, base, name, steps=steps, recipe=recipe, job=job)
            return report, tuple(dict.fromkeys(job.notes))

        self._host.start(work, f"Training {name}", lambda found: self._show(*found), self._move)

    def refill(self) -> None:
        """Read the models to start from again, keeping the choice."""
        from maskloop.desk.catalogue import list_families, list_models

        starts, groups = starts_of(list_models(), list_families())
        self._starts = {start.name: start for start in starts}
        self.base.fill(groups)
        self._propose()

    def _show(self, report: Any, notes: Sequence[str]) -> None:  # Any: a TrainingReport
        more = [f"and {len(notes) - _NOTES} notes more"] if len(notes) > _NOTES else []
        self.verdict.setText("\n".join([verdict_text(report), *notes[:_NOTES], *more]))
        self.verdict.show()
        for point in report.curve[-1:]:
            scores = " ".join(
                f"held_out:{name.replace(' ', '_')}={value}"
                for name, value in point.held_out.items()
            )
            self.curve.add(point.step, report.steps, scores)
        self._host.models_changed.emit()
        self._host.say(
            f"{report.card.name}: {report.verdict}; it is in the model menu.",
            "good" if report.is_promoted else "warning",
        )

    def _move(self, progress: Progress) -> None:
        if progress.note and progress.stage == "train":
            self.curve.add(progress.done, progress.total, progress.note)

    def _put(self, pair: Pair) -> None:
        self._pairs.append(pair)
        self.cases.addItem(pair.name)
        self._check()

    def _remove(self) -> None:
        for index in sorted((i.row() for i in self.cases.selectedIndexes()), reverse=True):
            self.cases.takeItem(index)
            del self._pairs[index]
        self._check()

    def _ask_folder(self) -> None:
        found = QFileDialog.getExistingDirectory(self, "Add a folder of images and masks")
        if found:
            self.add_pairs(Path(found))

    def _connect(self) -> None:
        self.add_case.clicked.connect(self.add_current)
        self.add_folder.clicked.connect(self._ask_folder)
        self.remove.clicked.connect(self._remove)
        self.run.clicked.connect(self.start)
        self.base.currentIndexChanged.connect(lambda _: self._propose())
        self.name.textChanged.connect(lambda _: self._check())
        self.cases.itemSelectionChanged.connect(self._check)
        self._host.image.changed.connect(self._check)
        self._host.labels.changed.connect(self._check)
        self._host.busy.connect(lambda _: self._check())
        self._host.models_changed.connect(self.refill)

    def _propose(self) -> None:
        known = self._starts.get(self.base.currentText())
        kept = self.recipe.currentText()
        self.recipe.clear()
        self.recipe.addItems([OURS, *(known.recipes if known is not None else ())])
        self.recipe.setCurrentText(kept)
        self.rows_of_form.setRowVisible(self.recipe, self.recipe.count() > 1)
        if self.name.text() in ("", self._proposed):
            taken = set(self.base.entries)
            start = f"{self.base.currentText().replace(':', '-')}-mine"
            numbered = (f"{start}-{n}" for n in range(2, len(taken) + 3))
            self._proposed = next(n for n in (start, *numbered) if n not in taken)
            self.name.setText(self._proposed)
        limits = known.limits if known is not None else ()
        self.limits.setText("\n".join(limits))
        self.limits.setVisible(bool(limits))
        self._check()

    def _problem(self) -> str:
        if self._host.is_busy:
            return "Something is running; stop it or wait."
        if not self._pairs:
            return "Add corrected pairs first: from the window, or a folder."
        if not self.base.currentText():
            return "There is no model to start from."
        if (known := self._starts.get(self.base.currentText())) is not None and known.reason:
            return known.reason
        if not self.name.text().strip():
            return "Give the new model a name."
        return ""

    def _check(self) -> None:
        problem = self._problem()
        self.reason.setText(problem)
        self.reason.setVisible(bool(problem))
        self.run.setEnabled(not problem)
        self.run.setToolTip(problem or TIPS["train"])
        both = self._host.image.layer is not None and self._host.labels.layer is not None
        self.add_case.setEnabled(both)
        self.add_case.setToolTip(
            TIPS["add_case"] if both else f"{TIPS['add_case']} There is no such pair yet."
        )
        self.remove.setEnabled(bool(self.cases.selectedIndexes()))


def verdict_text(report: Any) -> str:  # Any: a TrainingReport
    """Return both scores a label, the verdict and its reasons, as lines."""
    lines = [f"{report.card.name}: {report.verdict}"]
    lines.append(f"{report.measure} on held-out ({report.split}):")
    for name, new in report.new.items():
        old = float("nan") if report.old is None else report.old.get(name, float("nan"))
        before = "-" if math.isnan(old) else f"{old:.3f}"
        after = "-" if math.isnan(new) else f"{new:.3f}"
        lines.append(f"    {name}: {before} \N{RIGHTWARDS ARROW} {after}")
    told = tuple(f"{name}: " for name in report.new)
    return "\n".join([*lines, *(r for r in report.reasons if not r.startswith(told))])

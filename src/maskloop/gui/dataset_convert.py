"""The dataset of the list in another format: losses first, then Write or Cancel, then a receipt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from maskloop.core.job import Job
from maskloop.gui.choices import slim
from maskloop.gui.dataset_session import Session
from maskloop.gui.host import Host, setting
from maskloop.gui.runner import Run
from maskloop.gui.section import beside, tipped, words
from maskloop.gui.tips import TIPS

WHICH = ("all images", "the images listed", "those that are done")
# What a person may decide, by the name of the option: its title, and words for each value.
_CHOICES: dict[str, tuple[str, dict[str, Any]]] = {  # Any: values of Options
    "images": (
        "Pictures",
        {"copied": "copy", "as hard links": "link", "left where they are": "none"},
    ),
    "outline": ("Outlines", {"run lengths (exact)": "rle", "polygons along pixels": "polygon"}),
    "axis": ("Slices along", {"axis 0": 0, "axis 1": 1, "axis 2": 2}),
    "bits": ("Slices of", {"8 bits": 8, "16 bits": 16}),
    "empty": (
        "Empty slices",
        {"between labelled ones": "between", "all": "all", "none": "none"},
    ),
    "maps": ("Maps", {"masks only": False, "drafts, reviewed voxels, authors too": True}),
}


class ConvertBox(QWidget):
    """Writes the dataset of the list, as corrected.

    Parameters
    ----------
    host : Host
    session : Session
    """

    def __init__(self, host: Host, session: Session) -> None:
        super().__init__()
        self._host, self._session = host, session
        self._planned: Any = None  # Any: a Conversion
        self._rows: list[dict[str, Any]] = []  # Any: plain JSON values
        self.title = words()
        self.format = tipped(slim(QComboBox()), TIPS["convert_format"])
        self.which = tipped(slim(QComboBox()), TIPS["convert_which"])
        self.which.addItems(WHICH)
        self.choices = {
            name: tipped(slim(QComboBox()), TIPS[f"convert_{name}"]) for name in _CHOICES
        }
        self.lossless = tipped(QCheckBox("Only without any loss"), TIPS["convert_lossless"])
        self.folder = tipped(QLineEdit(), TIPS["convert_folder"])
        self.folder.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.browse = tipped(QPushButton("..."), TIPS["convert_browse"])
        self.browse.setMaximumWidth(32)
        self.look = tipped(QPushButton("Look what is lost"), TIPS["convert_look"])
        self.losses = words()
        self.write = tipped(QPushButton("Write"), TIPS["convert_write"])
        self.write.setObjectName("maskloop_main")
        self.cancel = tipped(QPushButton("Cancel"), TIPS["convert_cancel"])
        self.answer = beside(self.write, self.cancel)
        self.receipt = tipped(QPlainTextEdit(), TIPS["receipt"])
        self.receipt.setReadOnly(True)
        self.receipt.setMinimumHeight(90)
        self.receipt.hide()
        self._place()
        self.format.currentIndexChanged.connect(lambda _: self._format_changed())
        self.which.currentIndexChanged.connect(lambda _: self._forget())
        for menu in self.choices.values():
            menu.currentIndexChanged.connect(lambda _: self._forget())
        self.lossless.toggled.connect(lambda _: self._show_losses())
        self.folder.textChanged.connect(lambda _: self._check())
        self.browse.clicked.connect(self._ask)
        self.look.clicked.connect(self.plan)
        self.write.clicked.connect(self.start)
        self.cancel.clicked.connect(self.give_up)
        session.moved.connect(self._dataset_changed)
        session.listed.connect(self._forget)
        host.editors.stepped.connect(lambda *_: self._forget())
        host.busy.connect(lambda _: self._check())
        self._dataset_changed()

    def _place(self) -> None:
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 6, 0, 0)
        rows.addWidget(self.title)
        self.form = QFormLayout()
        self.form.setContentsMargins(0, 0, 0, 0)
        self.form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        self.form.addRow("Format", self.format)
        self.form.addRow("Which", self.which)
        for name, (title, values) in _CHOICES.items():
            self.choices[name].addItems(list(values))
            self.form.addRow(title, self.choices[name])
        self.form.addRow("Folder", beside(self.folder, self.browse))
        rows.addLayout(self.form)
        for widget in (self.look, self.losses, self.lossless, self.answer, self.receipt):
            rows.addWidget(widget)

    @property
    def chosen(self) -> dict[str, Any] | None:  # Any: plain JSON values
        """The chosen format's row of `list_datasets`, or None."""
        at = self.format.currentIndex()
        return self._rows[at] if 0 <= at < len(self._rows) else None

    def choose(self, name: str) -> None:
        """Choose a format by name."""
        for at, row in enumerate(self._rows):
            if row["name"] == name:
                self.format.setCurrentIndex(at)

    def plan(self) -> None:
        """Save the image shown, read every mask, and say what the format cannot hold."""
        dataset, row, session = self._session.dataset, self.chosen, self._session
        if dataset is None or row is None or self._host.is_busy:
            return
        self._forget()
        self.receipt.hide()  # of the set written before
        workspace = str(setting("workspace", "")) or None
        which, made, kept = self.which.currentIndex(), self._made(row), session.worklist
        listed = {session.items[place].name for place in session.order}

        def work(job: Job) -> Any:  # Any: a Conversion
            from maskloop.desk.datasets import Options, plan
            from maskloop.desk.items import corrected, nameless

            names = None if which == 0 else listed
            if which == 2:
                done = (item for item in dataset.items if kept.of(item).status == "done")
                names = {item.name for item in done}
            whole = corrected(dataset, workspace=workspace, only=names, worklist=kept)
            options = Options(**made)
            return plan(nameless(whole), row["name"], options=options, skip_refused=True, job=job)

        def begin() -> None:
            title = f"Looking what {row['title']} can hold"
            self._come_back_after(self._host.start(work, title, self._planned_is))

        session.set_aside(begin)

    def start(self) -> None:
        """Write what was planned, read it back, compare, and show the receipt."""
        planned = self._planned
        if planned is None or self._problem():
            return
        out = Path(self.folder.text()).expanduser()

        def work(job: Job) -> Any:  # Any: a DatasetReceipt
            return planned.write(out, job=job)

        def begin() -> None:
            run = self._host.start(work, f"Writing {out.name}", self._written)
            self._come_back_after(run)

        self._session.set_aside(begin)

    def give_up(self) -> None:
        """Write nothing."""
        self._forget()
        self._host.say("Nothing was written.")

    def _come_back_after(self, run: Run | None) -> None:
        """Show the image again when a task has ended, however it did."""
        if run is not None:
            run.ended.connect(lambda: QTimer.singleShot(0, self._session.bring_back))

    def _planned_is(self, planned: Any) -> None:  # Any: a Conversion
        self._planned = planned
        self.receipt.hide()
        self._show_losses()
        count = len(planned.dataset.items)
        told = "with losses, listed here" if planned.losses else "without loss"
        kind = "warning" if planned.losses else "good"
        self._host.say(f"{count:,} images can be written {told}. Write, or cancel.", kind)

    def _show_losses(self) -> None:
        planned = self._planned
        self.answer.setVisible(planned is not None)
        self.losses.setVisible(planned is not None)
        self.lossless.setVisible(planned is not None and bool(planned.losses))
        if planned is not None:
            lines = [f"\N{BULLET} {loss}" for loss in planned.losses]
            refused = list(planned.refused.values())[:1]
            lines = [*lines, *refused] or ["Nothing is lost."]
            lines += [f"\N{BULLET} {note}" for note in planned.notes]
            self.losses.setText("\n".join(lines))
            is_lossy = bool(planned.losses or planned.refused)
            colour = "#ffcf66" if is_lossy else "#7ee2a8"
            self.losses.setStyleSheet(f"color: {colour}; background: transparent;")
        self._check()

    def _written(self, receipt: Any) -> None:  # Any: a DatasetReceipt
        self.receipt.setPlainText(receipt.to_text())
        self._forget()
        self.receipt.show()
        where = f"{receipt.path}: {receipt.verdict}"
        self._host.say(f"{where}, every mask read back and compared.", "good")

    def _forget(self) -> None:
        """Forget what was planned: something else is wanted, or drawn, by now."""
        self._planned = None
        self._show_losses()

    def _made(self, row: dict[str, Any]) -> dict[str, Any]:  # Any: values of Options
        return {
            name: _CHOICES[name][1][menu.currentText()]
            for name, menu in self.choices.items()
            if name in row["options"]
        }

    def _dataset_changed(self) -> None:
        dataset = self._session.dataset
        self.setVisible(dataset is not None)
        if dataset is None:
            return
        self.title.setText(f"The dataset {dataset.name}, with what was corrected:")
        if not self._rows:
            self._fill()
        self._check()

    def _fill(self) -> None:
        from maskloop.desk.catalogue import list_datasets

        self._rows = [row for row in list_datasets() if row["writes"]]
        before = self.format.blockSignals(True)
        self.format.addItems([f"{row['name']}  {row['title']}" for row in self._rows])
        self.format.blockSignals(before)
        self._format_changed()

    def _format_changed(self) -> None:
        row = self.chosen
        for name, menu in self.choices.items():
            self.form.setRowVisible(menu, row is not None and name in row["options"])
        if row is not None:
            self.format.setToolTip(f"{TIPS['convert_format']}\n{row['layout']}")
        self._forget()

    def _ask(self) -> None:
        name = QFileDialog.getExistingDirectory(self, "Choose where the new folder goes")
        if name:
            row = self.chosen
            self.folder.setText(str(Path(name) / (row["name"] if row else "dataset")))

    def _problem(self) -> str:
        if self._host.is_busy:
            return "Something is running; stop it or wait."
        if not self.folder.text().strip():
            return "Choose a folder that does not exist yet."
        return ""

    def _check(self) -> None:
        problem = self._problem()
        planned = self._planned
        is_lossy = planned is not None and bool(planned.losses) and self.lossless.isChecked()
        self.look.setEnabled(not self._host.is_busy)
        self.write.setEnabled(not problem and planned is not None and not is_lossy)
        self.cancel.setEnabled(not self._host.is_busy)
        self.write.setToolTip(problem or TIPS["convert_write"])

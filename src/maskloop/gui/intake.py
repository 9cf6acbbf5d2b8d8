"""Ask which DICOM series to open, and what to do about what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QDialog,
    QDialogButtonBox,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from maskloop.gui.section import tipped, words
from maskloop.gui.tips import TIPS

Row = Mapping[str, Any]  # Any: plain JSON values of the intake report
_COLUMNS = ("Series", "Kind", "What", "Slices", "Spacing (mm)", "Problems")
# What the command line calls by a flag is a box to tick here.
_BOXES = {
    "--resample": "Resample onto a regular grid",
    "--fill-gap": "Fill gaps with interpolated slices",
}
_STRETCHED = 2
_SIZE = (760, 420)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person chose: a row of the report, and how to load it."""

    series: str
    resample: bool = False
    fill_gap: bool = False


def ways_of(problem: Row) -> set[str]:
    """Return the choices that settle a problem, as names: ``resample``, ``fill_gap``."""
    named = (str(name).lstrip("-").split("=")[0].split(" ")[0] for name in problem["choices"])
    return {name.replace("-", "_") for name in named}


class Intake(QDialog):
    """A table of the series in a folder, and a check box for each choice that the chosen one needs.

    Parameters
    ----------
    report : mapping
        As from `maskloop.desk.check.info` of a folder of DICOM.
    parent : QWidget

    Signals
    -------
    decided(Decision)
    """

    decided = Signal(object)

    def __init__(
        self,
        report: Mapping[str, Any],  # Any: plain JSON values
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle("Which series to open")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.resize(*_SIZE)
        self._rows: list[Row] = list(report.get("series") or ())
        self.table = tipped(QTableWidget(len(self._rows), len(_COLUMNS)), TIPS["series"])
        self.words = words()
        self.resample = tipped(QCheckBox(_BOXES["--resample"]), TIPS["resample"])
        self.fill_gap = tipped(QCheckBox(_BOXES["--fill-gap"]), TIPS["fill_gap"])
        kinds = QDialogButtonBox.StandardButton
        self.buttons = QDialogButtonBox(kinds.Open | kinds.Cancel)
        self.open_button = self.buttons.button(kinds.Open)
        self.buttons.button(kinds.Cancel).setToolTip(TIPS["no_series"])
        self._fill()
        column = QVBoxLayout(self)
        for widget in (self.table, self.words, self.resample, self.fill_gap, self.buttons):
            column.addWidget(widget)
        self.table.itemSelectionChanged.connect(self._row_changed)
        self.table.cellDoubleClicked.connect(lambda *_: self.accept())
        self.resample.toggled.connect(lambda _: self._check())
        self.fill_gap.toggled.connect(lambda _: self._check())
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        self.choose(self._likeliest())

    def choose(self, number: int) -> None:
        """Select a series by its place in the table."""
        self.table.selectRow(number)

    def accept(self) -> None:
        """Give the decision away, unless something is still open."""
        row = self._row()
        if row is None or self._problem():
            return
        self.decided.emit(
            Decision(
                str(row["row"]),
                self.resample.isChecked() and self.resample.isEnabled(),
                self.fill_gap.isChecked() and self.fill_gap.isEnabled(),
            )
        )
        super().accept()

    def _likeliest(self) -> int:
        """Return the longest series that loads as it is, else the longest that can be made to."""
        ranks = [
            (
                bool(row.get("loads")),
                all(ways_of(p) for p in row["problems"]),
                row.get("slices") or 0,
            )
            for row in self._rows
        ]
        return max(range(len(ranks)), key=ranks.__getitem__, default=0)

    def _fill(self) -> None:
        self.table.setHorizontalHeaderLabels(list(_COLUMNS))
        self.table.verticalHeader().hide()
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setShowGrid(False)
        head = self.table.horizontalHeader()
        head.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        head.setSectionResizeMode(_STRETCHED, QHeaderView.ResizeMode.Stretch)
        for number, row in enumerate(self._rows):
            for column, text in enumerate(_texts(row)):
                item = QTableWidgetItem(text)
                item.setToolTip(_in_words(row) or text)
                self.table.setItem(number, column, item)

    def _row(self) -> Row | None:
        chosen = self.table.selectionModel().selectedRows()
        return self._rows[chosen[0].row()] if chosen else None

    def _row_changed(self) -> None:
        row = self._row()
        problems = row["problems"] if row is not None else ()
        offered = set().union(*(ways_of(problem) for problem in problems))
        if row is not None and row.get("tilt_degrees"):
            offered.add("resample")
        for box, name in ((self.resample, "resample"), (self.fill_gap, "fill_gap")):
            box.setChecked(False)
            box.setEnabled(name in offered)
            box.setVisible(name in offered)
        self._check()

    def _problem(self) -> str:
        row = self._row()
        if row is None:
            return "Choose a series."
        ticked = {"series"}
        ticked |= {"resample"} if self.resample.isChecked() else set()
        ticked |= {"fill_gap"} if self.fill_gap.isChecked() else set()
        if row.get("loads"):
            return ""
        if not row.get("slices"):
            return "This is no image; open its file with Open mask."
        unsettled = [problem for problem in row["problems"] if not ways_of(problem) & ticked]
        if any(not ways_of(problem) for problem in unsettled):
            return "This series cannot be opened as a volume."
        return "Choose what to do about it." if unsettled else ""

    def _check(self) -> None:
        row, problem = self._row(), self._problem()
        self.words.setText("\n".join(filter(None, (_in_words(row) if row else "", problem))))
        self.open_button.setEnabled(not problem)
        self.open_button.setToolTip(problem or TIPS["open_series"])


def _texts(row: Row) -> tuple[str, ...]:
    spacing = row.get("spacing_mm") or ()
    number = row.get("number")
    names = [str(problem["name"]) for problem in row["problems"]]
    if row.get("tilt_degrees"):
        names.append(f"tilt {float(row['tilt_degrees']):.3g}°")
    return (
        str(row["row"] if number in (None, "") else number),
        str(row.get("modality") or ""),
        ", ".join(map(str, (row.get("what") or "", *(row.get("told_apart_by") or ())))),
        str(row.get("slices") or ""),
        " x ".join(f"{float(step):.3g}" for step in spacing),
        ", ".join(names) or "none",
    )


def _in_words(row: Row) -> str:
    lines = [*(problem["words"] for problem in row["problems"]), *(row.get("notes") or ())]
    text = "\n".join(map(str, lines))
    for flag, box in _BOXES.items():
        text = text.replace(
            flag, f"\N{LEFT DOUBLE QUOTATION MARK}{box}\N{RIGHT DOUBLE QUOTATION MARK}"
        )
    return text

"""The worklist of candidates: pieces that the model held likely, but not likely enough to draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt, Signal
from qtpy.QtGui import QColor, QKeyEvent
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from maskloop.core.review import Candidate

Index = QModelIndex | QPersistentModelIndex
HEADERS = ("No.", "Class", "Likely", "Size", "Slice", "")
NUMBER, CLASS, PEAK, SIZE, SLICE, STATUS = range(6)
_SIGNS = {"open": "", "accepted": "\N{CHECK MARK}", "dismissed": "\N{MULTIPLICATION X}"}
_TIPS = {
    "open": "open: accept it as an object, or dismiss it",
    "accepted": "accepted: drawn as an object",
    "dismissed": "dismissed: looked at and not wanted",
}


class CandidateModel(QAbstractTableModel):
    """Open candidates first, the likeliest first; decided ones below, greyed.

    Parameters
    ----------
    axis : int
        The axis of the true grid along which slices are counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[Candidate] = []
        self.axis = 0

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """In the order shown."""
        return tuple(self._rows)

    def fill(self, candidates: Sequence[Candidate], *, axis: int = 0) -> None:
        """Show these."""
        self.beginResetModel()
        self.axis = axis
        self._rows = sorted(candidates, key=lambda c: (c.status != "open", -c.peak, -c.mean))
        self.endResetModel()

    def row_of(self, number: int) -> int:
        """Return the row of a candidate, or -1."""
        return next((i for i, c in enumerate(self._rows) if c.number == number), -1)

    def rowCount(self, parent: Index | None = None) -> int:
        """Return how many candidates there are."""
        return 0 if parent is not None and parent.isValid() else len(self._rows)

    def columnCount(self, parent: Index | None = None) -> int:
        """Return the number of columns."""
        return len(HEADERS)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:  # Any: as Qt has it
        """Return a column's title."""
        is_title = role == Qt.ItemDataRole.DisplayRole
        return HEADERS[section] if is_title and orientation == Qt.Orientation.Horizontal else None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return what a cell shows."""  # Any: as Qt has it
        one = self._rows[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(one, index.column())
        if role == Qt.ItemDataRole.ForegroundRole and one.status != "open":
            return QColor("#8b929c")
        if role == Qt.ItemDataRole.ToolTipRole:
            return f"{one.name}: {one.peak:.0%} at its likeliest voxel; {_TIPS[one.status]}"
        if role == Qt.ItemDataRole.TextAlignmentRole and index.column() in (PEAK, SIZE, SLICE):
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        return None

    def _text(self, one: Candidate, column: int) -> str:
        if column == SIZE:
            return size_words(one)
        return {
            NUMBER: str(one.number),
            CLASS: one.name,
            PEAK: f"{one.peak:.0%}",
            SLICE: str(one.centre[self.axis]),
            STATUS: _SIGNS[one.status],
        }[column]


def size_words(one: Candidate) -> str:
    """Return a candidate's size: millilitres, cubic millimetres where small, or pixels."""
    if one.volume_mm3 is None:
        return f"{one.voxels} px"
    if one.volume_mm3 < 100:
        return f"{one.volume_mm3:.0f} mm\N{SUPERSCRIPT THREE}"
    return f"{one.volume_mm3 / 1000:.2g} mL"


class CandidateView(QTableView):
    """The worklist, with one key each to accept, dismiss and go on.

    Signals
    -------
    chosen(int), accepted(int), dismissed(int)
        The candidate's number.
    """

    chosen = Signal(int)
    accepted = Signal(int)
    dismissed = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.rows = CandidateModel()
        self.setModel(self.rows)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(20)
        self.setShowGrid(False)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        head = self.horizontalHeader()
        head.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        head.setSectionResizeMode(CLASS, QHeaderView.ResizeMode.Stretch)
        head.setMinimumSectionSize(24)
        self.selectionModel().currentRowChanged.connect(self._moved)

    @property
    def current(self) -> Candidate | None:
        """The candidate of the selected row, or None."""
        row = self.currentIndex().row()
        return self.rows.candidates[row] if 0 <= row < self.rows.rowCount() else None

    def fill(self, candidates: Sequence[Candidate], *, axis: int = 0) -> None:
        """Show these, keeping the candidate selected; tells nobody."""
        kept = self.current
        model = self.selectionModel()
        before = model.blockSignals(True)
        self.rows.fill(candidates, axis=axis)
        row = self.rows.row_of(kept.number) if kept is not None else -1
        if row >= 0:
            self.selectRow(row)
        model.blockSignals(before)
        self.setFixedHeight(min(max(4 + 22 * (1 + len(candidates)), 70), 190))
        self.viewport().update()

    def step(self, by: int) -> None:
        """Select the next or previous candidate that is still open."""
        rows, row = self.rows.candidates, self.currentIndex().row()
        waiting = [i for i, one in enumerate(rows) if one.status == "open"]
        if not waiting:
            return
        if by > 0:
            target = next((i for i in waiting if i > row), waiting[0])
        else:
            target = next((i for i in reversed(waiting) if i < row), waiting[-1])
        if target == row:
            self._moved(self.currentIndex())
        self.selectRow(target)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Accept at A, dismiss at D, go on at N and back at P."""
        one = self.current
        if event.key() == Qt.Key.Key_N:
            self.step(1)
        elif event.key() == Qt.Key.Key_P:
            self.step(-1)
        elif one is not None and event.key() == Qt.Key.Key_A:
            self.accepted.emit(one.number)
        elif one is not None and event.key() == Qt.Key.Key_D:
            self.dismissed.emit(one.number)
        else:
            super().keyPressEvent(event)

    def _moved(self, index: QModelIndex, before: QModelIndex | None = None) -> None:
        if 0 <= index.row() < self.rows.rowCount():
            self.chosen.emit(self.rows.candidates[index.row()].number)

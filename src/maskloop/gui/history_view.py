"""The steps of a case as a list: what, how much, who; a click goes there."""

from __future__ import annotations

import datetime
from typing import Any

from qtpy.QtCore import (
    QAbstractTableModel,
    QModelIndex,
    QPersistentModelIndex,
    Qt,
    QTimer,
    Signal,
)
from qtpy.QtGui import QColor, QFont
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from maskloop.core.edits import Edit, History

WORDS, VOXELS, WHO = range(3)
HEADERS = ("Step", "Voxels", "Who")
_GREY = QColor("#8a8f99")
_ROW = 22
Index = QModelIndex | QPersistentModelIndex


class HistoryModel(QAbstractTableModel):
    """Row 0 is the start, row n the n-th step; a row is read when it is drawn, not before."""

    def __init__(self) -> None:
        super().__init__()
        self._edits: list[Edit] = []
        self._history: History | None = None
        self.position = 0

    def show(self, history: History | None) -> None:
        """Show a history as it is now."""
        edits = [] if history is None else list(history)
        self.position = 0 if history is None else history.position
        count, wanted = len(self._edits), len(edits)
        if history is not self._history or not count:
            self.beginResetModel()
            self._edits, self._history = edits, history
            self.endResetModel()
            return
        if wanted > count:
            self.beginInsertRows(QModelIndex(), count + 1, wanted)
            self._edits = edits
            self.endInsertRows()
        elif wanted < count:
            self.beginRemoveRows(QModelIndex(), wanted + 1, count)
            self._edits = edits
            self.endRemoveRows()
        self._edits = edits
        self.dataChanged.emit(self.index(0, 0), self.index(wanted, WHO))

    def rowCount(self, parent: Index | None = None) -> int:
        """Return the number of steps and one for the start; 0 without a case."""
        if self._history is None or (parent is not None and parent.isValid()):
            return 0
        return len(self._edits) + 1

    def columnCount(self, parent: Index | None = None) -> int:
        """Return the number of columns."""
        return len(HEADERS)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:  # Any: as Qt wants it
        """Return a column's title."""
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return HEADERS[section]
        return None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:  # Any: Qt's
        """Return what one cell shows."""
        row, column = index.row(), index.column()
        edit = self._edits[row - 1] if row else None
        if role == Qt.ItemDataRole.DisplayRole:
            return _text(edit, column, is_now=row == self.position)
        if role == Qt.ItemDataRole.ToolTipRole:
            return "Before the first step." if edit is None else tip(edit)
        if role == Qt.ItemDataRole.ForegroundRole and row > self.position:
            return _GREY
        if role == Qt.ItemDataRole.FontRole and row == self.position:
            font = QFont()
            font.setBold(True)
            return font
        if role == Qt.ItemDataRole.TextAlignmentRole and column == VOXELS:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None


class HistoryView(QTableView):
    """The list itself.

    Signals
    -------
    chosen(int)
        How many steps the person wants applied.
    """

    chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.steps = HistoryModel()
        self.setModel(self.steps)
        self.verticalHeader().hide()
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self.verticalHeader().setDefaultSectionSize(_ROW)
        head = self.horizontalHeader()
        head.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        head.setSectionResizeMode(WORDS, QHeaderView.ResizeMode.Stretch)
        self.setColumnWidth(VOXELS, 76)
        self.setColumnWidth(WHO, 78)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.clicked.connect(lambda index: self.chosen.emit(index.row()))

    def show_history(self, history: History | None) -> None:
        """Show a history as it is now, its last applied step in view."""
        self.steps.show(history)
        QTimer.singleShot(0, self, self._to_now)  # once the new rows have their places

    def _to_now(self) -> None:
        if self.isVisible():
            self.executeDelayedItemsLayout()
            self.updateGeometries()
            self.scrollTo(self.steps.index(self.steps.position, 0))


def _text(edit: Edit | None, column: int, *, is_now: bool) -> str:
    if column == WORDS:
        mark = "\N{BLACK RIGHT-POINTING SMALL TRIANGLE} " if is_now else "   "
        return f"{mark}{'start' if edit is None else edit.words or edit.tool}"
    if edit is None:
        return ""
    if column == VOXELS:
        return f"{edit.voxels:,}" if edit.voxels else ""
    return edit.author or {"model": "model", "tool": "tool", "person": "you"}.get(edit.kind, "")


def tip(edit: Edit) -> str:
    """Return all that is known of a step, in a few lines."""
    lines = [f"{edit.words}: {edit.voxels:,} voxels"]
    if edit.time:
        when = datetime.datetime.fromtimestamp(edit.time, datetime.UTC).astimezone()
        lines.append(f"{when:%Y-%m-%d %H:%M:%S}")
    who = {"person": "by hand", "tool": "computed by a tool", "model": "found by a model"}
    lines.append(", ".join(part for part in (edit.author, who.get(edit.kind, "")) if part))
    options = edit.about.get("parameters")
    if options:
        lines.append(", ".join(f"{name} {value}" for name, value in options.items()))
    return "\n".join(line for line in lines if line)

"""The list of regions that two masks see differently; a click goes there."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from maskloop.gui.objects_view import size_words, unit_of

NUMBER, A, B, SIZE, SLICE = range(5)
_NOTHING = "\N{EN DASH}"  # the background, in a narrow column


class DifferenceView(QTableWidget):
    """One row a region, the largest first.

    Signals
    -------
    chosen(int)
        Place of the region in the list, from 0.
    """

    chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__(0, 5)
        self.setHorizontalHeaderLabels(["No.", "A", "B", "Size", "Slice"])
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(20)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        head = self.horizontalHeader()
        head.setMinimumSectionSize(24)
        head.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        for column, width in ((NUMBER, 34), (SIZE, 66), (SLICE, 42)):
            head.setSectionResizeMode(column, QHeaderView.ResizeMode.Fixed)
            head.resizeSection(column, width)
        self.itemSelectionChanged.connect(self._moved)
        self.itemClicked.connect(lambda _: self._moved())

    def fill(self, comparison: Any) -> None:  # Any: a Comparison, or None for nothing
        """Show the differences of a comparison."""
        before = self.blockSignals(True)
        found = () if comparison is None else comparison.differences
        self.setRowCount(len(found))
        for number, one in enumerate(found):
            grid = comparison.agreement.geometry
            unit = unit_of(grid.unit, grid.ndim)
            classes = comparison.class_name(one.a), comparison.class_name(one.b)
            size = size_words(one.size, grid.unit, grid.ndim)
            tip = (
                f"{comparison.names[0]}: {classes[0]}; {comparison.names[1]}: {classes[1]}; "
                f"{one.size:,.0f} {unit}, {one.voxels:,} voxels"
            )
            drawn = (classes[0] if one.a else _NOTHING, classes[1] if one.b else _NOTHING)
            for column, text in enumerate((str(one.number), *drawn, size, str(one.slice))):
                item = QTableWidgetItem(text)
                item.setToolTip(tip)
                if column in (NUMBER, SIZE, SLICE):
                    item.setTextAlignment(
                        Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
                    )
                self.setItem(number, column, item)
        self.clearSelection()
        self.setCurrentCell(-1, -1)
        is_flat = comparison is not None and comparison.agreement.geometry.ndim == 2
        self.setColumnHidden(SLICE, is_flat)
        self.setFixedHeight(min(max(4 + 22 * (1 + len(found)), 70), 220))
        self.blockSignals(before)

    @property
    def current(self) -> int:
        """Place of the chosen region, or -1."""
        rows = self.selectionModel().selectedRows()
        return rows[0].row() if rows else -1

    def step(self, by: int) -> None:
        """Choose the next region, or the one before; round at the ends."""
        if self.rowCount():
            start = self.current if self.current >= 0 or by < 0 else -1
            self.selectRow((start + by) % self.rowCount())

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Go on at N and back at P."""
        if event.key() in (Qt.Key.Key_N, Qt.Key.Key_P):
            self.step(1 if event.key() == Qt.Key.Key_N else -1)
        else:
            super().keyPressEvent(event)

    def _moved(self) -> None:
        if self.current >= 0:
            self.chosen.emit(self.current)

"""The class table: names, colours, visibility, locks; a click chooses what to paint with."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor, QIcon, QKeyEvent, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QColorDialog,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
)

from maskloop.core.labels import Label, LabelTable
from maskloop.gui import layers

COLOUR, ID, NAME, SHOWN, LOCK = range(5)
MOST_ROWS = 300


class LabelTableView(QTableWidget):
    """One row a label of one Labels layer.

    Signals
    -------
    followed()
        The layer's selected label is another one.
    edited(object, str)
        The table that the person wants, and what that step is called.
    """

    followed = Signal()
    edited = Signal(object, str)

    def __init__(self) -> None:
        super().__init__(0, 5)
        self.setHorizontalHeaderLabels(["", "Id", "Name", "Shown", "Lock"])
        self.verticalHeader().hide()
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setShowGrid(False)
        head = self.horizontalHeader()
        head.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        head.setSectionResizeMode(NAME, QHeaderView.ResizeMode.Stretch)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._layer: weakref.ref[Any] | None = None
        self.itemSelectionChanged.connect(self._choose)
        self.itemChanged.connect(self._edit)
        self.cellDoubleClicked.connect(self._recolour)

    @property
    def layer(self) -> Any:  # Any: napari layers are untyped
        """The layer shown, or None."""
        return self._layer() if self._layer is not None else None

    def show_layer(self, layer: Any) -> None:  # Any: napari layers are untyped
        """Show the labels of a layer (or of none)."""
        self.release()
        self._layer = None if layer is None else weakref.ref(layer)
        if layer is not None:
            layer.events.selected_label.connect(self._follow)
        self.refill()

    def release(self) -> None:
        """Stop listening to the layer."""
        if (old := self.layer) is not None:
            old.events.selected_label.disconnect(self._follow)

    def refill(self) -> None:
        """Read the table of the layer again."""
        layer = self.layer
        table = LabelTable() if layer is None else layers.table_of(layer)
        self.setColumnHidden(SHOWN, table.kind == "objects" and not table.is_mixed)
        self.blockSignals(True)
        rows = list(table.values())[:MOST_ROWS]
        self.setRowCount(len(rows))
        for number, row in enumerate(rows):
            self._fill(number, row, layer)
        self.blockSignals(False)
        self._follow()

    def _fill(self, number: int, row: Label, layer: Any) -> None:  # Any: napari is untyped
        fixed = Qt.ItemFlag.ItemIsSelectable | Qt.ItemFlag.ItemIsEnabled
        colour = QTableWidgetItem()
        seen = layer.get_color(row.id)
        shade = QColor(row.colour) if seen is None or seen[3] == 0 else QColor.fromRgbF(*seen[:3])
        swatch = QPixmap(16, 16)
        swatch.fill(shade)
        colour.setIcon(QIcon(swatch))
        colour.setToolTip("Double-click to choose another colour.")
        colour.setFlags(fixed)
        number_item = QTableWidgetItem(str(row.id))
        number_item.setFlags(fixed)
        name = QTableWidgetItem(row.name)
        name.setFlags(fixed | Qt.ItemFlag.ItemIsEditable)
        score = f", score {row.score:.2f}" if row.score is not None else ""
        name.setToolTip(f"{row.category or 'class'}{score}; double-click to rename.")
        shown = _tick(row.visible, "Whether the picture shows this label.")
        lock = _tick(row.locked, "Locked: no stroke, tool or model changes its voxels.")
        for column, item in enumerate((colour, number_item, name, shown, lock)):
            self.setItem(number, column, item)

    def choose_row(self, number: int) -> bool:
        """Choose the label of a row, counted from 0, to paint with; return whether there is one."""
        if self.layer is None or not 0 <= number < self.rowCount():
            return False
        self.layer.selected_label = self._id(number)
        return True

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Let digits choose rows."""
        digit = event.text()
        if digit in "123456789" and digit and self.choose_row(int(digit) - 1):
            event.accept()
            return
        super().keyPressEvent(event)

    def _id(self, row: int) -> int:
        item = self.item(row, ID)
        return int(item.text()) if item is not None else 0

    def _choose(self) -> None:
        rows = self.selectionModel().selectedRows()
        if self.layer is not None and rows:
            self.layer.selected_label = self._id(rows[0].row())

    def _follow(self, event: Any = None) -> None:  # Any: napari events are untyped
        layer = self.layer
        if layer is None:
            return
        self.blockSignals(True)
        self.clearSelection()
        for row in range(self.rowCount()):
            if self._id(row) == layer.selected_label:
                self.selectRow(row)
        self.blockSignals(False)
        self.followed.emit()

    def _edit(self, item: QTableWidgetItem) -> None:
        layer = self.layer
        if layer is None or item.column() not in (NAME, SHOWN, LOCK):
            return
        row = layers.table_of(layer)[self._id(item.row())]
        is_on = item.checkState() == Qt.CheckState.Checked
        if item.column() == NAME:
            name = item.text().strip() or row.name
            self._put(replace(row, name=name), f"rename {row.name} to {name}")
        elif item.column() == SHOWN:
            self._put(replace(row, visible=is_on), f"{'show' if is_on else 'hide'} {row.name}")
        else:
            self._put(replace(row, locked=is_on), f"{'lock' if is_on else 'unlock'} {row.name}")

    def _recolour(self, row: int, column: int) -> None:
        layer = self.layer
        if layer is None or column != COLOUR:
            return
        label = layers.table_of(layer)[self._id(row)]
        colour = QColorDialog.getColor(QColor(label.colour), self, f"Colour of {label.name}")
        if colour.isValid():
            self._put(replace(label, colour=colour.name()), f"recolour {label.name}")

    def _put(self, label: Label, words: str) -> None:
        table = layers.table_of(self.layer)
        if table[label.id] != label:
            self.edited.emit(table.with_rows([label]), words)
        self.refill()


def _tick(is_on: bool, tip: str) -> QTableWidgetItem:
    item = QTableWidgetItem()
    item.setFlags(
        Qt.ItemFlag.ItemIsSelectable | Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsUserCheckable
    )
    item.setCheckState(Qt.CheckState.Checked if is_on else Qt.CheckState.Unchecked)
    item.setToolTip(tip)
    return item

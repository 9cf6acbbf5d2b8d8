"""The class table: names, colours, visibility; a click chooses the label to paint with."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QColorDialog,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
)

from maskloop.core.labels import Label, LabelTable
from maskloop.gui import layers

COLOUR, ID, NAME, SHOWN = range(4)
MOST_ROWS = 300


class LabelTableView(QTableWidget):
    """One row a label of one Labels layer.

    Signals
    -------
    followed()
        The layer's selected label is another one.
    """

    followed = Signal()

    def __init__(self) -> None:
        super().__init__(0, 4)
        self.setHorizontalHeaderLabels(["", "Id", "Name", "Shown"])
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
        self.setColumnHidden(SHOWN, table.kind == "objects")
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
        shown = QTableWidgetItem()
        shown.setFlags(fixed | Qt.ItemFlag.ItemIsUserCheckable)
        shown.setCheckState(Qt.CheckState.Checked if row.visible else Qt.CheckState.Unchecked)
        for column, item in enumerate((colour, number_item, name, shown)):
            self.setItem(number, column, item)

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
        if layer is None or item.column() not in (NAME, SHOWN):
            return
        row = layers.table_of(layer)[self._id(item.row())]
        if item.column() == NAME:
            changed = replace(row, name=item.text().strip() or row.name)
        else:
            changed = replace(row, visible=item.checkState() == Qt.CheckState.Checked)
        self._put(changed)

    def _recolour(self, row: int, column: int) -> None:
        layer = self.layer
        if layer is None or column != COLOUR:
            return
        label = layers.table_of(layer)[self._id(row)]
        colour = QColorDialog.getColor(QColor(label.colour), self, f"Colour of {label.name}")
        if colour.isValid():
            self._put(replace(label, colour=colour.name()))

    def _put(self, label: Label) -> None:
        layers.set_table(self.layer, layers.table_of(self.layer).with_rows([label]))
        self.refill()

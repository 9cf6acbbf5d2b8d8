"""The class table with what changes it: add, remove, list, open and save a scheme."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QMenu, QPushButton, QVBoxLayout, QWidget

from maskloop.core.errors import MaskloopError
from maskloop.core.labels import Label, LabelTable
from maskloop.gui import layers
from maskloop.gui.host import Host
from maskloop.gui.label_table import MOST_ROWS, LabelTableView
from maskloop.gui.schemes import SUFFIX, read_scheme, write_scheme
from maskloop.gui.section import beside, tipped, words
from maskloop.gui.tips import TIPS

_FILTER = f"Class schemes (*{SUFFIX} *.json);;All files (*)"


class Classes(QWidget):
    """Names, colours, visibility and locks of the chosen labels layer; each change is one step.

    Parameters
    ----------
    host : Host

    Signals
    -------
    changed()
        Another label is chosen, or the table is another.
    """

    changed = Signal()

    def __init__(self, host: Host) -> None:
        super().__init__()
        self._host = host
        self.table = tipped(LabelTableView(), TIPS["table"])
        self.table.setMinimumHeight(110)
        self.table.setMaximumHeight(170)
        self.more = words()
        self.more.hide()
        self.add_label = tipped(QPushButton("Add"), TIPS["add_label"])
        self.remove_label = tipped(QPushButton("Remove"), TIPS["remove_label"])
        self.scan = tipped(QPushButton("List ids"), TIPS["scan_labels"])
        self.scheme = tipped(QPushButton("Scheme"), TIPS["scheme"])
        menu = QMenu(self.scheme)
        menu.addAction("Open scheme...", self._ask_open)
        menu.addAction("Save scheme...", self._ask_save)
        self.scheme.setMenu(menu)
        rows = QVBoxLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setSpacing(4)
        for widget in (
            self.table,
            self.more,
            beside(self.add_label, self.remove_label, self.scan, self.scheme),
        ):
            rows.addWidget(widget)
        self.add_label.clicked.connect(self.add_class)
        self.remove_label.clicked.connect(self.remove_class)
        self.scan.clicked.connect(self.list_ids)
        self.table.itemSelectionChanged.connect(self.changed)
        self.table.followed.connect(self.changed)
        self.table.edited.connect(self.put)

    @property
    def layer(self) -> Any:  # Any: a napari layer
        """The layer whose labels are shown, or None."""
        return self.table.layer

    def show_layer(self, layer: Any) -> None:  # Any: a napari layer
        """Show the labels of a layer, or of none."""
        self.table.show_layer(layer)
        self.refresh()

    def refresh(self) -> None:
        """Read the table of the layer again."""
        layer = self.layer
        self.table.refill()
        table = LabelTable() if layer is None else layers.table_of(layer)
        is_free = layer is not None and bool(layer.editable)
        for button in (self.add_label, self.scan, self.scheme):
            button.setEnabled(is_free)
        self.remove_label.setEnabled(is_free and int(layer.selected_label) in table)
        hidden = len(table) - MOST_ROWS
        self.more.setText(f"{hidden} more rows are not listed." if hidden > 0 else "")
        self.more.setVisible(hidden > 0)

    def put(self, table: LabelTable, step: str) -> None:
        """Give the layer another table, as one step where it has a history."""
        layer = self.layer
        if layer is None:
            return
        editor = self._host.editors.of(layer)
        try:
            if editor is None:
                layers.set_table(layer, table)
            else:
                editor.set_labels(table, step)
        except MaskloopError as error:
            self._host.say(str(error), "error")
        self.refresh()
        self.changed.emit()

    def add_class(self) -> None:
        """Add a class with the next free id and choose it for painting."""
        layer = self.layer
        if layer is None:
            return
        table = layers.table_of(layer)
        number = max(table, default=0) + 1
        if number > layers.highest_id(layer):
            self._host.say(f"{layer.name} ({layer.data.dtype}) has no room for more ids.", "error")
            return
        like = next(iter(table.values()), None)
        category = like.category if like is not None else None
        row = Label(number, f"{category or 'label'} {number}", category=category)
        self.put(table.with_rows([row]), f"add {row.name}")
        layer.selected_label = number

    def remove_class(self) -> None:
        """Take the chosen class out of the table, and its voxels away, as one step."""
        layer = self.layer
        table = LabelTable() if layer is None else layers.table_of(layer)
        number = 0 if layer is None else int(layer.selected_label)
        if number not in table:
            return
        row, rest = table[number], table.without([number])
        editor = self._host.editors.of(layer)
        if row.locked:
            self._host.say(f"{row.name} is locked; unlock it first.", "warning")
            return
        if editor is None:
            self.put(rest, f"remove {row.name}")
            return
        try:
            editor.flush()
            case = editor.case
            box = case.extent(number, mask=editor.mask_name)
            if box is None:
                self.put(rest, f"remove {row.name}")
                return
            ids = case.masks[editor.mask_name].data[box]
            change = editor.change(
                np.where(ids == number, 0, ids).astype(ids.dtype),
                box,
                labels=rest,
                tool="remove",
                words=f"remove {row.name}",
                kind="person",
            )
        except MaskloopError as error:
            self._host.say(str(error), "error")
            return
        self._host.say(f"{row.name} removed, {change.edit.voxels:,} voxels with it.", "good")
        self.refresh()

    def list_ids(self) -> None:
        """Give every id that occurs a row."""
        layer = self.layer
        if layer is None:
            return
        try:
            self.put(layers.table_with_present(layer), "list ids")
        except MaskloopError as error:
            self._host.say(str(error), "error")

    def open_scheme(self, path: Path) -> None:
        """Take the classes of a scheme; rows of other ids that are drawn or locked stay."""
        layer = self.layer
        if layer is None:
            return
        try:
            scheme = read_scheme(path)
            if max(scheme, default=0) > layers.highest_id(layer):
                self._host.say(f"{layer.name} ({layer.data.dtype}) has no room for ids.", "error")
                return
            editor = self._host.editors.of(layer)
            old = layers.table_of(layer) if editor is None else editor.labels
            kept = []
            for number, row in old.items():
                is_drawn = (
                    editor is None or editor.case.extent(number, mask=editor.mask_name) is not None
                )
                if number not in scheme and (row.locked or is_drawn):
                    kept.append(row)
        except MaskloopError as error:
            self._host.say(str(error), "error")
            return
        self.put(scheme.with_rows(kept), f"scheme {path.name.removesuffix(SUFFIX)}")
        more = f"; {len(kept)} drawn or locked labels of before stay" if kept else ""
        self._host.say(f"{len(scheme)} classes of {path.name}{more}.", "good")

    def save_scheme(self, path: Path) -> None:
        """Write the classes to a file."""
        if self.layer is None:
            return
        if not path.name.endswith(".json"):
            path = path.with_name(f"{path.name}{SUFFIX}")
        try:
            write_scheme(path, layers.table_of(self.layer))
        except MaskloopError as error:
            self._host.say(str(error), "error")
            return
        self._host.say(f"Saved the classes to {path.name}.", "good")

    def release(self) -> None:
        """Stop listening to the layer."""
        self.table.release()

    def _ask_open(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Open class scheme", "", _FILTER)
        if name:
            self.open_scheme(Path(name))

    def _ask_save(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Save class scheme", "", _FILTER)
        if name:
            self.save_scheme(Path(name))

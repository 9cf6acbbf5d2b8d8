"""The tools: six at hand, the others by a search; a form each; one undoable step."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QObject, Qt, QTimer, Signal
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QComboBox,
    QFormLayout,
    QGridLayout,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from maskloop.core.geometry import Box
from maskloop.core.labels import LabelTable
from maskloop.core.parameters import Parameter, Points
from maskloop.gui import layers, parents, tool_run
from maskloop.gui.choices import is_alive, slim
from maskloop.gui.coverage import look_of
from maskloop.gui.forms import Form
from maskloop.gui.host import Host
from maskloop.gui.pickers import Picker, true_points
from maskloop.gui.section import beside, tipped, words
from maskloop.gui.tips import TIPS

# What a button says, and the tools it stands for: the first one that there is.
FIRST = (
    ("Brush", ("brush",)),
    ("Grow", ("region", "seeds")),
    ("Fill between slices", ("interpolate",)),
    ("Islands", ("islands",)),
    ("Margin", ("margin", "grow")),
    ("Split", ("split",)),
)
EVERYWHERE, SLICE, VISIBLE, RECTANGLE = "everywhere", "this slice", "what is in view", "a rectangle"
_MOST_FOUND = 8
_ROW = 24
# Run as soon as they are drawn, unless the person unticks it.
_AT_ONCE = ("lesion", "brush", "paint_range")
_PAINT = "paint in the picture with the brush above, or draw one path, in exact millimetres, here."


class ToolBox(QWidget):
    """Choose a tool, fill in its form, apply it to the selected label.

    Parameters
    ----------
    host : Host

    Signals
    -------
    applied(object)
        The `Change` that came of it.
    """

    applied = Signal(object)

    def __init__(self, host: Host) -> None:
        super().__init__()
        self._host = host
        self._tools = {row["name"]: row for row in _present()}
        self._chosen = ""
        self._last: tool_run.Wanted | None = None
        self._layer: weakref.ref[Any] | None = None  # Any: napari layers are untyped
        self.buttons: dict[str, QPushButton] = {}
        self._build()
        self._connect()
        self.choose(next(iter(self.buttons), ""))

    @property
    def chosen(self) -> str:
        """Name of the chosen tool; empty where there is none."""
        return self._chosen

    @property
    def found(self) -> list[str]:
        """Names of the tools that the search lists."""
        items = (self.results.item(i) for i in range(self.results.count()))
        return [str(item.data(Qt.ItemDataRole.UserRole)) for item in items if item is not None]

    def choose(self, name: str) -> None:
        """Show a tool's form."""
        if name not in self._tools:
            return
        self._chosen = name
        row = self._tools[name]
        if name in self.buttons:
            self.buttons[name].setChecked(True)
        else:
            self._group.setExclusive(False)
            for button in self.buttons.values():
                button.setChecked(False)
            self._group.setExclusive(True)
        about = _PAINT if name == "brush" else _sentence(row["summary"])
        self.title.setText(f"<b>{_title(name)}</b>: {about}")
        self._put_form(name)
        self.refresh()

    def search(self, text: str) -> list[str]:
        """Return the tools whose name or summary has every word of a text, best first."""
        wanted = text.lower().split()
        ranked = []
        for name, row in self._tools.items():
            told = f"{_title(name)} {name} {row['summary']}".lower()
            if wanted and all(word in told for word in wanted) and not self._lacks(row):
                starts = any(part.startswith(wanted[0]) for part in _title(name).lower().split())
                ranked.append((not starts, wanted[0] not in told[: len(name) * 2], name))
        return [name for _, _, name in sorted(ranked)]

    def start(self) -> None:
        """Run the chosen tool on the selected label, beside the window."""
        if self.problem():
            return
        self._run(self._wanted(self._chosen, self.form.values()))

    def repeat(self) -> None:
        """Run the last tool again with its options, on the label selected now."""
        if self._last is not None and not self.problem(is_repeat=True):
            self._run(self._wanted(self._last.tool, dict(self._last.values)))

    def problem(self, *, is_repeat: bool = False) -> str:
        """Return why the tool cannot be applied, or ""."""
        layer, editor = self._host.labels.layer, self._editor()
        if self._host.is_busy:
            return "Something is running; stop it or wait."
        if layer is None:
            return "Predict, open a mask, or press New."
        if editor is None:
            return f"{layer.name} cannot be corrected here; see the words above."
        if editor.is_open and editor.case.is_read_only and editor.case.folder is not None:
            return "The case is open for reading only."
        if layer.selected_label == 0:
            return "Select a label in the table; background cannot be corrected."
        row = self._table().get(int(layer.selected_label))
        if row is not None and row.locked:
            return f"{row.name} is locked; unlock it in the table first."
        tool = self._last.tool if is_repeat and self._last is not None else self._chosen
        if lack := self._lacks(self._tools.get(tool, {})):
            return lack
        if is_repeat:
            return ""
        if self.limit.currentText() == RECTANGLE and self.rectangle.value() is None:
            return "Draw the rectangle first."
        if "points" in self._tools.get(tool, {}).get("needs", ()) and not self._is_drawn():
            return f"Draw first: {self._undrawn()}."
        return self.form.problem

    # Building

    def _build(self) -> None:
        self.title = words()
        self.query = tipped(QLineEdit(), TIPS["tool_search"])
        self.query.setPlaceholderText(f"Search all {len(self._tools)} tools ...")
        self.query.setClearButtonEnabled(True)
        self.results = tipped(QListWidget(), TIPS["tool_found"])
        self.results.hide()
        self.form = Form(())
        self.limit = tipped(slim(QComboBox()), TIPS["limit"])
        self.limit.addItems([EVERYWHERE, SLICE, VISIBLE, RECTANGLE])
        self.rectangle = Picker(
            self._host.viewer,
            Parameter("rectangle", Points, label="limit", shape="rectangle"),
            lambda: self._host.labels.layer,
        )
        self.over_hand = tipped(
            QCheckBox("also change what was painted by hand"), TIPS["over_hand"]
        )
        self.at_once = tipped(QCheckBox("run when drawn"), TIPS["run_when_drawn"])
        self.reason = words()
        self.reason.setStyleSheet("color: #ffcf66; background: transparent;")
        self.apply = tipped(QPushButton("Apply"), TIPS["apply"])
        self.apply.setObjectName("maskloop_main")
        self.again = tipped(QPushButton("Repeat last"), TIPS["repeat"])
        self.outcome = words()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addWidget(self._first_tools())
        for widget in (self.query, self.results, self.title, self.form):
            column.addWidget(widget)
        self._limit_rows = QFormLayout()
        self._limit_rows.setContentsMargins(0, 0, 0, 0)
        self._limit_rows.addRow("Limit to", self.limit)
        self._limit_rows.addRow(self.rectangle)
        column.addLayout(self._limit_rows)
        column.addWidget(self.over_hand)
        column.addWidget(self.at_once)
        column.addWidget(self.reason)
        column.addWidget(beside(self.apply, self.again))
        column.addWidget(self.outcome)
        self._column = column

    def _first_tools(self) -> QWidget:
        box = QWidget()
        grid = QGridLayout(box)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        self._group = QButtonGroup(self)
        for text, names in FIRST:
            name = next((n for n in names if n in self._tools), None)
            if name is None:
                continue
            button = QPushButton(text)
            button.setObjectName("maskloop_tool")
            button.setCheckable(True)
            button.setSizePolicy(_wide())
            button.setToolTip(_sentence(self._tools[name]["summary"]))
            button.clicked.connect(lambda _=False, n=name: self._press(n))
            self._group.addButton(button)
            grid.addWidget(button, len(self.buttons) // 3, len(self.buttons) % 3)
            self.buttons[name] = button
        return box

    def _put_form(self, name: str) -> None:
        from maskloop.desk.catalogue import tool_parameters

        old = self.form
        for picker in old.pickers:
            picker.remove()
        parameters = tool_parameters(name)
        self.form = Form(parameters, labels=self._table(), picker=self._picker, unit=self._unit())
        self._column.replaceWidget(old, self.form)
        old.hide()
        old.deleteLater()
        self.form.changed.connect(self._check)
        is_drawn = any(p.type is Points and p.shape != "points" for p in parameters)
        self.at_once.setVisible(is_drawn)
        self.at_once.setChecked(is_drawn and name in _AT_ONCE)

    def _picker(self, parameter: Parameter) -> Picker:
        picker = Picker(self._host.viewer, parameter, lambda: self._host.labels.layer)
        picker.drawn.connect(self._drawn)
        return picker

    def _is_drawn(self) -> bool:
        return any(picker.value() is not None for picker in self.form.pickers)

    def _undrawn(self) -> str:
        """Return what is to be drawn, as the form calls it."""
        drawn = [p for p in self.form.parameters if p.type is Points]
        return " or ".join(p.label or p.name for p in drawn)

    def _press(self, name: str) -> None:
        """Take a tool by its button; the brush is at once in the person's hand."""
        self.choose(name)
        layer = self._host.labels.layer
        if name == "brush" and layer is not None:
            self._host.viewer.layers.selection.active = layer
            layer.mode = "paint"

    def _connect(self) -> None:
        self.query.textChanged.connect(self._list)
        self.query.returnPressed.connect(self._take_first)
        self.query.installEventFilter(self)
        self.results.itemActivated.connect(self._take)
        self.results.itemClicked.connect(self._take)
        self.limit.currentIndexChanged.connect(lambda _: self._check())
        self.rectangle.changed.connect(self._check)
        self.apply.clicked.connect(self.start)
        self.again.clicked.connect(self.repeat)
        self._host.labels.changed.connect(self._labels_changed)
        self._host.image.changed.connect(self.refresh)
        self._host.busy.connect(lambda _: self._check())
        self._host.editors.stepped.connect(self._stepped)
        self._labels_changed()

    # Searching

    def _list(self, text: str) -> None:
        self.results.clear()
        for name in self.search(text)[:_MOST_FOUND]:
            item = QListWidgetItem(_title(name))
            item.setData(Qt.ItemDataRole.UserRole, name)
            item.setToolTip(_sentence(self._tools[name]["summary"]))
            self.results.addItem(item)
        count = self.results.count()
        if not count and text.strip():
            self.results.addItem(QListWidgetItem("no tool has these words"))
            self.results.item(0).setFlags(Qt.ItemFlag.NoItemFlags)
            count = 1
        self.results.setFixedHeight(count * _ROW + 6)
        self.results.setVisible(count > 0)

    def _take_first(self) -> None:
        names = self.search(self.query.text())
        if names:
            self._take_name(names[0])

    def _take(self, item: QListWidgetItem) -> None:
        name = item.data(Qt.ItemDataRole.UserRole)
        if name:
            self._take_name(str(name))

    def _take_name(self, name: str) -> None:
        self.query.clear()
        self.choose(name)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Go from the search to its list with the down arrow, and out of it with Escape."""
        if watched is self.query and isinstance(event, QKeyEvent):
            if event.type() == QEvent.Type.KeyPress and event.key() == Qt.Key.Key_Down:
                self.results.setFocus()
                self.results.setCurrentRow(0)
                return True
            if event.type() == QEvent.Type.KeyPress and event.key() == Qt.Key.Key_Escape:
                self.query.clear()
                return True
        return False

    # Running

    def _drawn(self) -> None:
        if self.at_once.isChecked() and self.form.pickers:
            self.start()

    def _wanted(self, tool: str, values: dict[str, object]) -> tool_run.Wanted:
        editor = self._editor()
        layer = self._host.labels.layer
        return tool_run.Wanted(
            editor=editor,
            tool=tool,
            label=int(layer.selected_label),
            values=values,
            image=self._image(),
            limit=self._box(),
            frame=self._frame(),
            over_hand=self.over_hand.isChecked(),
        )

    def _run(self, wanted: tool_run.Wanted) -> None:
        self._last = wanted
        tool_run.start(self._host, wanted, self._show)

    def _show(self, change: Any, text: str) -> None:  # Any: a Change
        self.outcome.setText(text)
        is_good = change is not None and not change.edit.is_empty
        self._host.say(text, "good" if is_good else "warning")
        if change is not None:
            self.applied.emit(change)
        # Taking a layer out of the window costs a quarter of a second: the result is seen first.
        QTimer.singleShot(0, self._clear_drawings)
        self._check()

    def _clear_drawings(self) -> None:
        if is_alive(self):
            for picker in self.form.pickers:
                picker.clear()

    # What there is

    def _labels_changed(self) -> None:
        """Follow the label that is selected in the chosen layer."""
        layer = self._host.labels.layer
        if layer is not self._followed():
            self._unfollow()
            if layer is not None:
                layer.events.selected_label.connect(self._selected)
                self._layer = weakref.ref(layer)
        self.refresh()

    def _followed(self) -> Any:  # Any: a napari layer or None
        return self._layer() if self._layer is not None else None

    def _unfollow(self) -> None:
        if (old := self._followed()) is not None:
            old.events.selected_label.disconnect(self._selected)
        self._layer = None

    def _selected(self, event: Any = None) -> None:  # Any: napari events are untyped
        self.refresh()

    def _stepped(self, keeper: Any, step: Any) -> None:  # Any: a Keeper, a Step
        if step.edit.rows_before or step.edit.rows_after:
            self.refresh()

    def refresh(self) -> None:
        """Read layer, labels and image again."""
        layer = self._host.labels.layer
        number = 0 if layer is None else int(layer.selected_label)
        self.form.set_labels(self._table(), but=number)
        for name, button in self.buttons.items():
            lack = self._lacks(self._tools[name])
            button.setEnabled(not lack)
            button.setToolTip(lack or _sentence(self._tools[name]["summary"]))
        flat = layer is None or layers.placement_of(layer).geometry.ndim == 2
        model: Any = self.limit.model()  # Any: Qt's own item model
        model.item(1).setEnabled(not flat)
        if flat and self.limit.currentText() == SLICE:
            self.limit.setCurrentIndex(0)
        self._check()

    def release(self) -> None:
        """Take our drawings out of the viewer and stop listening."""
        self._unfollow()
        for picker in (*self.form.pickers, self.rectangle):
            picker.remove()

    def _check(self) -> None:
        problem = self.problem()
        self.reason.setText(problem)
        self.reason.setVisible(bool(problem))
        self.apply.setEnabled(not problem)
        self.apply.setToolTip(problem or TIPS["apply"])
        last = (
            self.problem(is_repeat=True) if self._last is not None else "Nothing was applied yet."
        )
        self.again.setEnabled(not last)
        name = _title(self._last.tool) if self._last is not None else "last"
        self.again.setText(f"Repeat {name[:1].lower()}{name[1:]}")
        self.again.setToolTip(last or TIPS["repeat"])
        self._limit_rows.setRowVisible(self.rectangle, self.limit.currentText() == RECTANGLE)

    def _editor(self) -> Any:  # Any: a LayerEditor or None
        layer = self._host.labels.layer
        return None if layer is None else self._host.editors.of(layer)

    def _image(self) -> Any:  # Any: a napari layer or None
        layer = self._host.labels.layer
        if layer is None:
            return None
        others = [layers.bare(x) for x in self._host.viewer.layers]
        behind = parents.image_behind(layer, others)
        return behind if behind is not None and not behind.rgb else None

    def _table(self) -> LabelTable:
        layer = self._host.labels.layer
        return LabelTable() if layer is None else layers.table_of(layer)

    def _unit(self) -> str:
        layer = self._host.labels.layer
        return "mm" if layer is None else layers.placement_of(layer).geometry.unit

    def _lacks(self, row: dict[str, Any]) -> str:  # Any: plain JSON values
        """Return what a tool needs and this layer has not, or ""."""
        needs = row.get("needs", ())
        if self._host.labels.layer is None:
            return ""
        image = self._image()
        if "image" in needs and image is None:
            return f"{_title(row['name'])} looks at the image; there is none behind these labels."
        if "hu" in needs and (image is None or not layers.is_ct(image)):
            return f"{_title(row['name'])} needs a CT in Hounsfield units."
        return ""

    def _frame(self) -> int | None:
        """Return the time point shown, for what is drawn or limited to what one sees."""
        layer, viewer = self._host.labels.layer, self._host.viewer
        is_seen = bool(self.form.pickers) or self.limit.currentText() != EVERYWHERE
        if layer is None or layers.placement_of(layer).lead != 1 or not is_seen:
            return None
        at = layer.world_to_data(list(viewer.dims.point)[-layer.ndim :])[0]
        return min(max(round(float(at)), 0), layers.shape_of(layer)[0] - 1)

    def _box(self) -> Box | None:
        """Return the box of the true grid that may change, or None for all of it."""
        layer, choice = self._host.labels.layer, self.limit.currentText()
        if layer is None or choice == EVERYWHERE:
            return None
        place = layers.placement_of(layer)
        whole = [slice(0, n) for n in place.geometry.shape]
        if choice == SLICE:
            look = look_of(self._host.viewer, layer, is_ct=False)
            if look is not None:
                whole[look.axis] = slice(look.index, look.index + 1)
            return tuple(whole)
        if choice == RECTANGLE:
            drawn = self.rectangle.value()
            corners = np.array(drawn if drawn is not None else [[0.0] * len(whole)])
        else:
            corners = np.array(true_points(place, np.array(layer.corner_pixels, dtype=float)))
        first = self._host.viewer.dims.ndim - len(whole)
        hidden = {place.axes[a - first] for a in self._host.viewer.dims.not_displayed if a >= first}
        for axis, part in enumerate(whole):
            # The slice shown, or drawn on, stands for all.
            if axis not in hidden and (choice == VISIBLE or np.ptp(corners[:, axis]) > 0):
                low, high = np.floor(corners[:, axis] + 0.5).min(), corners[:, axis].max()
                stop = int(np.floor(high + 0.5)) + 1
                whole[axis] = slice(max(int(low), 0), min(max(stop, 0), part.stop))
        return tuple(whole)


def _present() -> list[dict[str, Any]]:  # Any: plain JSON values
    from maskloop.desk.catalogue import list_tools

    return [row for row in list_tools() if row["state"] == "present"]


def _title(name: str) -> str:
    text = name.replace("_", " ").replace("-", " ")
    return text[:1].upper() + text[1:]


def _sentence(summary: str) -> str:
    return summary.replace("`", "")


def _wide() -> Any:  # Any: a QSizePolicy
    from qtpy.QtWidgets import QSizePolicy

    return QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

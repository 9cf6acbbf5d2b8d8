"""The table of objects: one row each, sorted as wanted, quick with thousands of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt, Signal
from qtpy.QtGui import QColor, QKeyEvent
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from maskloop.ops.objects import Row

Index = QModelIndex | QPersistentModelIndex
_SIGNS = {
    "new": "",
    "accepted": "\N{CHECK MARK}",
    "edited": "\N{LOWER RIGHT PENCIL}",
    "rejected": "\N{MULTIPLICATION X}",
}
_RANK = {"new": 0, "edited": 1, "accepted": 2, "rejected": 3}
SHORT, SCORE = 4, 6  # which columns these are
_GREY = "#8b929c"
_GREEN = "#7ee2a8"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its title, what a row shows in it, and what it is sorted by."""

    title: str
    text: Callable[[Row], str]
    key: Callable[[Row], Any]  # Any: whatever sorts
    tip: str
    is_number: bool = True


def columns_for(unit: str, ndim: int) -> tuple[Column, ...]:
    """Return the columns for a grid in millimetres or pixels."""
    size = unit_of(unit, ndim)
    what = "volume" if ndim == 3 else "area"
    return (
        Column("No.", _number_words, number_of, "number of the object"),
        Column("Label", lambda r: r.name, lambda r: r.name.lower(), "its label", False),
        Column(
            "Size",
            lambda r: size_words(r.measured.size, unit, ndim),
            lambda r: r.measured.size,
            f"{what} in {size}{', mL where large' if ndim == 3 else ''}",
        ),
        Column(
            "Long",
            lambda r: _length_words(r.measured.long_axis.length),
            lambda r: r.measured.long_axis.length,
            f"longest line in one slice, in {unit}",
        ),
        Column(
            "Short",
            lambda r: _length_words(r.measured.short_axis.length),
            lambda r: r.measured.short_axis.length,
            f"longest line across it, in {unit}",
        ),
        Column(
            "Mean",
            lambda r: "" if r.measured.mean is None else f"{r.measured.mean:.0f}",
            lambda r: -1e30 if r.measured.mean is None else r.measured.mean,
            "mean of the image inside",
        ),
        Column(
            "Score",
            lambda r: "" if r.score is None else f"{r.score:.2f}",
            lambda r: -1.0 if r.score is None else r.score,
            "how sure the model was, 0 to 1",
        ),
        Column("", lambda r: _SIGNS[r.status], lambda r: _RANK[r.status], "status", False),
    )


def number_of(row: Row) -> int:
    """Return an object's number; below zero for one that was rejected."""
    return row.measured.id


def _number_words(row: Row) -> str:
    return str(number_of(row)) if number_of(row) > 0 else "\N{EN DASH}"


def _length_words(length: float) -> str:
    return f"{length:.1f}" if length < 100 else f"{length:.0f}"


def unit_of(unit: str, ndim: int) -> str:
    """Return the unit of a volume or an area."""
    power = {3: "\N{SUPERSCRIPT THREE}", 2: "\N{SUPERSCRIPT TWO}"}
    return f"{unit}{power[ndim]}" if unit == "mm" else unit


def size_words(size: float, unit: str, ndim: int) -> str:
    """Return a volume or area for a narrow column."""
    if unit != "mm":
        return f"{size:.0f}"
    if ndim == 3 and size >= 1000:
        millilitres = size / 1000
        return f"{millilitres / 1000:.3g} L" if millilitres >= 1000 else f"{millilitres:.3g} mL"
    return f"{size:.3g}" if size < 100 else f"{size:.0f}"


def details(row: Row, unit: str, ndim: int) -> str:
    """Return everything that is known of an object, in two lines."""
    m = row.measured
    cubic = unit_of(unit, ndim)
    number = _number_words(row)
    name = row.name if row.name.endswith(f" {number}") else f"{row.name} {number}"
    lines = [
        f"{name}, {row.status}: {m.size:,.0f} {cubic} in {m.slices} "
        f"slice{'s' * (m.slices != 1)}, {m.long_axis.length:.1f} x {m.short_axis.length:.1f} {unit}"
    ]
    if row.score is not None:
        lines[0] += f", score {row.score:.2f}"
    if m.mean is not None and m.sd is not None:
        lines.append(f"image {m.mean:.1f} \N{PLUS-MINUS SIGN} {m.sd:.1f}, {m.low:g} to {m.high:g}")
    if row.added or row.removed:
        lines.append(
            f"against the draft: {row.added:,.0f} {cubic} added, {row.removed:,.0f} removed"
        )
    return "\n".join(lines)


class ObjectModel(QAbstractTableModel):
    """Rows by number, in the order of one column."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[int, Row] = {}
        self._order: list[int] = []
        self._sorting = (0, Qt.SortOrder.AscendingOrder)
        self.columns = columns_for("mm", 3)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the objects in the order shown."""
        return tuple(self._order)

    @property
    def has_scores(self) -> bool:
        """Whether any object has a score."""
        return any(row.score is not None for row in self._rows.values())

    def row(self, number: int) -> Row | None:
        """Return the row of an object."""
        return self._rows.get(number)

    def place_of(self, number: int) -> int:
        """Return at which place an object is shown, or -1."""
        return self._order.index(number) if number in self._rows else -1

    def fill(self, rows: Iterable[Row], *, unit: str, ndim: int) -> None:
        """Show these and nothing else."""
        self.beginResetModel()
        self.columns = columns_for(unit, ndim)
        self._rows = {number_of(row): row for row in rows}
        self._order = self._sorted()
        self.endResetModel()

    def change(self, changed: Iterable[Row], gone: Iterable[int] = ()) -> None:
        """Take new values of some rows, new rows, and rows away."""
        changed = list(changed)
        for number in gone:
            self._rows.pop(number, None)
        for row in changed:
            self._rows[number_of(row)] = row
        order = self._sorted()
        if order == self._order:
            for row in changed:
                at = self._order.index(number_of(row))
                self.dataChanged.emit(self.index(at, 0), self.index(at, len(self.columns) - 1))
            return
        self.beginResetModel()
        self._order = order
        self.endResetModel()

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Order the rows by a column; equal ones by number."""
        self.beginResetModel()
        self._sorting = (column, order)
        self._order = self._sorted()
        self.endResetModel()

    def _sorted(self) -> list[int]:
        column, order = self._sorting
        key = self.columns[column].key
        rows = sorted(self._rows.values(), key=number_of)
        rows.sort(key=key, reverse=order == Qt.SortOrder.DescendingOrder)
        return [number_of(row) for row in rows]

    def rowCount(self, parent: Index | None = None) -> int:
        """Return how many objects there are."""
        return 0 if parent is not None and parent.isValid() else len(self._order)

    def columnCount(self, parent: Index | None = None) -> int:
        """Return the number of columns."""
        return len(self.columns)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:  # Any: as Qt has it
        """Return a column's title, and what it means."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.ToolTipRole:
            return f"{self.columns[section].tip}; click to sort by it"
        return self.columns[section].title if role == Qt.ItemDataRole.DisplayRole else None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return what a cell shows."""  # Any: as Qt has it
        row, column = self._rows[self._order[index.row()]], self.columns[index.column()]
        if role == Qt.ItemDataRole.DisplayRole:
            return column.text(row)
        if role == Qt.ItemDataRole.TextAlignmentRole and column.is_number:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role == Qt.ItemDataRole.ForegroundRole and row.status in ("accepted", "rejected"):
            return QColor(_GREEN if row.status == "accepted" else _GREY)
        if role == Qt.ItemDataRole.ToolTipRole:
            return f"{row.name} {_number_words(row)}: {row.status}"
        return None


class ObjectView(QTableView):
    """The table, with one key each to accept, reject, edit and go on.

    Signals
    -------
    chosen(int)
        Number of the object that was clicked or gone to.
    wanted(str)
        ``accept``, ``reject`` or ``edit`` for the object chosen.
    """

    chosen = Signal(int)
    wanted = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.rows = ObjectModel()
        self.setModel(self.rows)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(20)
        self.setShowGrid(False)
        self.setSortingEnabled(True)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWordWrap(False)
        head = self.horizontalHeader()
        head.setMinimumSectionSize(20)
        head.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        head.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        for column, width in enumerate((30, 0, 52, 40, 40, 40, 40, 18)):
            if column != 1:
                head.resizeSection(column, width)
        self.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        self._chosen = 0
        self.selectionModel().currentRowChanged.connect(self._moved)
        self.clicked.connect(lambda index: self._moved(index))
        self.rows.modelReset.connect(self._restore)

    @property
    def current(self) -> Row | None:
        """The object chosen, or None."""
        return self.rows.row(self._chosen)

    def choose(self, number: int) -> None:
        """Choose an object by its number."""
        at = self.rows.place_of(number)
        if at >= 0:
            self.selectRow(at)

    def step(self, by: int) -> None:
        """Choose the next or previous object in the order shown; round at the ends."""
        numbers = self.rows.numbers
        if not numbers:
            return
        at = self.rows.place_of(self._chosen)
        start = -1 if at < 0 and by > 0 else at
        self.choose(numbers[(start + by) % len(numbers)])

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Accept at A, reject at D, edit at E, go on at N and back at P."""
        acts = {Qt.Key.Key_A: "accept", Qt.Key.Key_D: "reject", Qt.Key.Key_E: "edit"}
        if event.key() in (Qt.Key.Key_N, Qt.Key.Key_P):
            self.step(1 if event.key() == Qt.Key.Key_N else -1)
        elif event.key() in acts and self.current is not None:
            self.wanted.emit(acts[Qt.Key(event.key())])
        else:
            super().keyPressEvent(event)

    def _moved(self, index: QModelIndex, before: QModelIndex | None = None) -> None:
        if 0 <= index.row() < self.rows.rowCount():
            self._chosen = self.rows.numbers[index.row()]
            self.chosen.emit(self._chosen)

    def _restore(self) -> None:
        """Select the same object after the rows were ordered anew; tells nobody."""
        has_scores = self.rows.has_scores
        self.setColumnHidden(SCORE, not has_scores)
        self.setColumnHidden(SHORT, has_scores)  # the label's name needs the room
        at = self.rows.place_of(self._chosen)
        model = self.selectionModel()
        before = model.blockSignals(True)
        if at >= 0:
            self.selectRow(at)
        else:
            self.clearSelection()
        model.blockSignals(before)
        self.viewport().update()

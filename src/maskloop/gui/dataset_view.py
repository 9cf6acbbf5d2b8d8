"""The table of a dataset's images: as quick with ten thousand as with ten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from maskloop.core.standing import Progress

if TYPE_CHECKING:
    from maskloop.core.dataset import Item
    from maskloop.core.standing import Standing
    from maskloop.gui.dataset_session import Session

Index = QModelIndex | QPersistentModelIndex
STATUS, NAME, COUNT, WHO = range(4)
_TITLES = ("", "Image", "Count", "Who")
_TIPS = (
    "empty: nobody has seen it; dot: in work; tick: done; flag: flagged",
    "name in the dataset",
    "objects, or classes where ids are classes; empty where nobody has counted yet",
    "who works on it, and who reviewed it",
)
_SIGNS: dict[Progress, str] = {
    "unseen": "",
    "in work": "\N{BULLET}",
    "done": "\N{CHECK MARK}",
    "flagged": "\N{BLACK FLAG}",
}
_COLOURS: dict[Progress, str] = {"done": "#7ee2a8", "flagged": "#ffcf66"}
_WIDTHS = {STATUS: 22, COUNT: 48, WHO: 76}


class ListModel(QAbstractTableModel):
    """The rows of a session that pass its filter; a cell is made when it is looked at."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.order: list[int] = []

    def fill(self, order: Sequence[int]) -> None:
        """Show these places of the dataset, in this order."""
        self.beginResetModel()
        self.order = list(order)
        self.endResetModel()

    def changed(self) -> None:
        """Draw the cells anew that are in sight; order and number of rows stay."""
        if self.order:
            last = self.index(len(self.order) - 1, len(_TITLES) - 1)
            self.dataChanged.emit(self.index(0, 0), last)

    def rowCount(self, parent: Index | None = None) -> int:
        """Return how many images are listed."""
        return 0 if parent is not None and parent.isValid() else len(self.order)

    def columnCount(self, parent: Index | None = None) -> int:
        """Return the number of columns."""
        return len(_TITLES)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:  # Any: as Qt has it
        """Return a column's title, and what it means."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.ToolTipRole:
            return _TIPS[section]
        return _TITLES[section] if role == Qt.ItemDataRole.DisplayRole else None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return what a cell shows."""  # Any: as Qt has it
        place = self.order[index.row()]
        item = self._session.items[place]
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(item, index.column())
        if role == Qt.ItemDataRole.TextAlignmentRole and index.column() == COUNT:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        standing = self._session.standing(place)
        if role == Qt.ItemDataRole.ForegroundRole and standing.status in _COLOURS:
            return QColor(_COLOURS[standing.status])
        if role == Qt.ItemDataRole.ToolTipRole:
            return self._tip(item, standing)
        return None

    def _text(self, item: Item, column: int) -> str:
        if column == NAME:
            return item.name
        if column == COUNT:
            count = self._session.facts_of(item).count
            return "" if count is None else f"{count:,}"
        standing = self._session.worklist.of(item)
        return _SIGNS[standing.status] if column == STATUS else _who(standing)

    def _tip(self, item: Item, standing: Standing) -> str:
        classes = self._session.facts_of(item).classes
        told = [
            f"{item.name}: {standing.status}",
            f"assigned to {standing.assignee}" if standing.assignee else "",
            f"reviewed by {standing.reviewer}" if standing.reviewer else "",
            f"split {item.split}" if item.split else "",
            f"group {item.group}" if item.group else "",
            ", ".join(sorted(classes)) if classes else "",
        ]
        return "\n".join(filter(None, told))


def _who(standing: Standing) -> str:
    if standing.reviewer:
        return f"{standing.assignee} / {standing.reviewer}".lstrip(" /")
    return standing.assignee


class ListView(QTableView):
    """The table; several rows can be selected, one is opened.

    Signals
    -------
    opened(int)
        Place in the dataset of the row that was double-clicked, or entered.
    """

    opened = Signal(int)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.rows = ListModel(session)
        self.setModel(self.rows)
        self.verticalHeader().hide()
        self.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self.verticalHeader().setDefaultSectionSize(20)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        head = self.horizontalHeader()
        head.setMinimumSectionSize(20)
        for column in range(len(_TITLES)):
            if column == NAME:
                head.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch)
            else:
                head.setSectionResizeMode(column, QHeaderView.ResizeMode.Interactive)
                head.resizeSection(column, _WIDTHS[column])
        self.activated.connect(lambda index: self.opened.emit(self.rows.order[index.row()]))

    @property
    def chosen(self) -> list[int]:
        """Places in the dataset of the selected rows."""
        return [self.rows.order[index.row()] for index in self.selectionModel().selectedRows()]

    def show_place(self, place: int | None) -> None:
        """Select the row of an image, and bring it into sight."""
        if place is None or place not in self.rows.order:
            return
        row = self.rows.order.index(place)
        self.selectRow(row)
        self.scrollTo(self.rows.index(row, NAME))

"""Menus whose entries stand under headings; and the menu of models, by what they find."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QFont, QStandardItem, QStandardItemModel, QWheelEvent
from qtpy.QtWidgets import QComboBox

from maskloop.gui.choices import slim

Entry = tuple[str, str]  # text and tooltip
Group = tuple[str, Sequence[Entry]]  # heading and entries
Row = dict[str, Any]  # Any: plain JSON values, of `list_models`

TO_FETCH = "To fetch"
CANNOT_RUN = "Cannot run"


class GroupedMenu(QComboBox):
    """A menu with headings, which cannot be chosen."""

    def __init__(self) -> None:
        super().__init__()
        slim(self)
        self.setMaxVisibleItems(24)
        self._items = QStandardItemModel(self)
        self.setModel(self._items)

    def fill(self, groups: Iterable[Group]) -> None:
        """Show these, keeping the choice where it is still there; tells nobody."""
        kept = self.currentText()
        before = self.blockSignals(True)
        self._items.clear()
        for heading, entries in groups:
            if heading:
                self._items.appendRow(_heading(heading))
            for text, tip in entries:
                item = QStandardItem(text)
                item.setToolTip(tip)
                self._items.appendRow(item)
        # Qt chooses the first row by itself, a heading.
        self.setCurrentIndex(-1)
        if not self.choose(kept):
            self.choose_first()
        self.blockSignals(before)

    def choose(self, text: str) -> bool:
        """Choose an entry by its text; return whether it is there."""
        for index in range(self.count()):
            if self.itemText(index) == text and self._is_entry(index):
                self.setCurrentIndex(index)
                return True
        return False

    def choose_first(self) -> None:
        """Choose the first entry."""
        entries = self.entries
        if entries:
            self.choose(entries[0])

    @property
    def entries(self) -> list[str]:
        """Every text that can be chosen."""
        return [self.itemText(i) for i in range(self.count()) if self._is_entry(i)]

    @property
    def headings(self) -> list[str]:
        """Every heading."""
        return [self.itemText(i) for i in range(self.count()) if not self._is_entry(i)]

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Let the wheel scroll the panel: it passes over many menus on its way."""
        event.ignore()

    def _is_entry(self, index: int) -> bool:
        return bool(self._items.item(index).flags() & Qt.ItemFlag.ItemIsEnabled)


def _heading(text: str) -> QStandardItem:
    item = QStandardItem(text)
    font = QFont()
    font.setBold(True)
    item.setFont(font)
    item.setFlags(Qt.ItemFlag.NoItemFlags)
    return item


class ModelMenu(GroupedMenu):
    """The models that are ready, by what they find; those to be fetched behind the last entry."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[Row] = []
        self._shows_all = False
        self._last = ""
        self._others: list[Group] = []
        self.activated.connect(self._take)

    @property
    def models(self) -> list[Row]:
        """Rows of `list_models` that can be chosen, in the order shown."""
        known = {row["name"]: row for row in self._rows}
        return [known[name] for name in self.entries if name in known]

    @property
    def chosen(self) -> Row | None:
        """The chosen model's row, or None."""
        name = self.currentText()
        return next((row for row in self._rows if row["name"] == name), None)

    def show_models(self, rows: Sequence[Row], *, others: Iterable[Group] = ()) -> None:
        """Show these models below other entries; those without weights belong to Train."""
        self._rows = [row for row in rows if row["state"] != "no weights"]
        self._others = list(others)
        self._refill()

    def choose(self, text: str) -> bool:
        """Choose a model by its name, one that is to be fetched too."""
        if super().choose(text):
            self._last = text
            return True
        if not self._shows_all and any(row["name"] == text for row in self._rows):
            self._shows_all = True
            self._refill()
            return self.choose(text)
        return False

    def choose_first(self) -> None:
        """Choose the first entry that is not the last one, which only shows more."""
        known = [text for text in self.entries if text != _more(self._waiting)]
        if known:
            self.choose(known[0])

    @property
    def _waiting(self) -> list[Row]:
        """Models that are not ready."""
        return [row for row in self._rows if row["state"] != "present"]

    def _refill(self) -> None:
        ready = [row for row in self._rows if row["state"] == "present"]
        groups = [*self._others]
        groups += [(title, _entries(found)) for title, found in by_what_they_find(ready)]
        if self._shows_all:
            waiting = [row for row in self._rows if row["state"] == "to be fetched"]
            groups += [
                (f"{TO_FETCH}: {title}", _entries(found))
                for title, found in by_what_they_find(waiting)
            ]
            broken = [row for row in self._rows if row["state"] == "broken"]
            groups += [(CANNOT_RUN, _entries(broken))] if broken else []
        elif self._waiting:
            tip = "Show the models that are not ready: most are downloaded on first use."
            groups.append(("Not ready", [(_more(self._waiting), tip)]))
        self.fill(groups)

    def _take(self, index: int) -> None:
        """Show all where the last entry was chosen; remember what else was."""
        if self.currentText() != _more(self._waiting) or self._shows_all:
            self._last = self.currentText()
            return
        last = self._last
        self._shows_all = True
        self._refill()
        super().choose(last)
        self.currentIndexChanged.emit(self.currentIndex())
        # The menu has only just been closed by this very click.
        QTimer.singleShot(0, self.showPopup)


def by_what_they_find(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """Return models in groups of one set of classes each, in order of first appearance."""
    groups: dict[tuple[str, ...], tuple[str, list[Row]]] = {}
    for row in rows:
        names = sorted(name.casefold() for name in row["labels"].values())
        key = (row["task"], *names)
        groups.setdefault(key, (what_it_finds(row), []))[1].append(row)
    return list(groups.values())


def what_it_finds(row: Row) -> str:
    """Return in a few words what a model draws."""
    names = list(row["labels"].values())
    if row["task"] == "panoptic":
        things = [name for name in names if name in row["things"]]
        stuff = [name for name in names if name not in row["things"]]
        text = "; ".join([f"{_few(things)}, one by one", *([_few(stuff)] if stuff else [])])
    else:
        text = _few(names)
        text += ", one by one" if row["task"] == "instance" else ""
    return text[:1].upper() + text[1:]


def _few(names: Sequence[str]) -> str:
    if not names:
        return "no named class"
    if len(names) <= 4:
        return ", ".join(names)
    return f"{len(names)} classes: {', '.join(names[:3])} ..."


def about(model: Row) -> str:
    """Return what a model is, was proved on and may be used for, for a tooltip."""
    lines = [
        model["title"],
        f"finds: {_listed(list(model['labels'].values()))}" if model["labels"] else "",
        f"licence: {model['licence']}" if model["licence"] else "",
        short(model),
        memory_words(model),
        *model["limits"],
    ]
    return "\n".join(line for line in lines if line)


def short(model: Row) -> str:
    """Return a model's axes, on what it was proved, and whether it must be fetched."""
    if model["state"] == "broken":
        return f"Cannot run: {model['reason']}"
    size = f", {model['size'] / 1e6:.0f} MB" if model["size"] else ""
    fetched = "" if model["state"] == "present" else f" Fetched on first use{size}."
    if fetched and model["folder"]:
        fetched = f" Run asks for its folder {model['folder']}{size}."
    proof = {"experimental": "experimental"}.get(model["proof"], f"proved on {model['proof']}")
    return f"{'/'.join(f'{n}D' for n in model['ndim'])}, {proof}.{fetched}"


def memory_words(model: Row) -> str:
    """Return what one pass of the network takes, where that was measured; else ""."""
    told = model.get("memory")
    if not told:
        return ""
    window = " x ".join(str(n) for n in told["window"])
    return f"memory: {told['bytes'] / 1e9:.1f} GB for {window} at a time ({told['device']})"


def _listed(names: list[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _entries(rows: Iterable[Row]) -> list[Entry]:
    return [(row["name"], about(row)) for row in rows]


def _more(rows: Sequence[Row]) -> str:
    count = sum(row["state"] == "to be fetched" for row in rows)
    return f"{count} to fetch ..." if count else f"{len(rows)} that cannot run ..."

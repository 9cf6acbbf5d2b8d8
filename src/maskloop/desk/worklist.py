"""The list of a dataset's images that a team works through: who does what, and how far it is."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskloop.core.errors import StorageError
from maskloop.core.standing import STATUSES, Progress, Standing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from maskloop.core.dataset import Item

FOLDER = ".maskloop-list"
_FIELDS = ("status", "assignee", "reviewer")
_TICK = 1e-6  # seconds: what is written after reading an entry is later, whatever the clocks say


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an item's masks; None is not known yet.

    Parameters
    ----------
    classes : frozenset of str, optional
        Names of the classes that occur.
    count : int, optional
        How many objects there are, or classes where ids are classes.
    """

    classes: frozenset[str] | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows of a list are wanted; what is empty asks for nothing.

    Parameters
    ----------
    text : str
        Part of the name, in any case.
    status : str
        One of `maskloop.core.standing.STATUSES`.
    label : str
        A class that must occur.
    least, most : int, optional
        How many objects there must be.
    assignee : str
        Whose it is.
    """

    text: str = ""
    status: str = ""
    label: str = ""
    least: int | None = None
    most: int | None = None
    assignee: str = ""

    def passes(self, item: Item, standing: Standing, facts: Facts) -> bool:
        """Whether a row is wanted; one whose classes or count are not known is not."""
        if self.status and standing.status != self.status:
            return False
        if self.assignee and standing.assignee != self.assignee:
            return False
        if self.text and self.text.casefold() not in item.name.casefold():
            return False
        if self.label and self.label not in (facts.classes or ()):
            return False
        if self.least is None and self.most is None:
            return True
        if facts.count is None:
            return False
        return (self.least or 0) <= facts.count and (self.most is None or facts.count <= self.most)


def listed_facts(item: Item) -> Facts:
    """Return what the listing itself tells of an item."""
    return Facts(item.classes, item.count)


@dataclass(slots=True)
class Worklist:
    """How far each item of a dataset is, kept on disk so that a team can share it.

    Every person and machine appends lines to a file of its own, so that nobody ever overwrites
    another's: shared folders have no locks to rely on. Of two lines on one field of one item the
    later counts. Items go by digits of where their image lies below the dataset, whatever a format
    calls them; digits, as a name may be a patient's.

    Parameters
    ----------
    root : Path
        The dataset's folder or file.
    folder : Path, optional
        Where the files lie, made at the first line; None keeps the list in memory.
    author : str
        Whose lines these are.
    problem : str
        Why the list is not on disk, in words; empty where it is.
    """

    root: Path
    folder: Path | None = None
    author: str = ""
    problem: str = ""
    _known: dict[str, dict[str, tuple[float, str]]] = field(default_factory=dict, repr=False)
    _read: dict[str, int] = field(default_factory=dict, repr=False)
    # Asked for of every item whenever one is marked: each is made out once.
    _standings: dict[tuple[str, str], Standing] = field(default_factory=dict, repr=False)
    _keys: dict[tuple[str, Path | None], str] = field(default_factory=dict, repr=False)

    @classmethod
    def beside(
        cls, root: Path, *, workspace: Path | str | None = None, author: str = ""
    ) -> Worklist:
        """Open the list of the dataset at `root`: in its folder, else in the workspace.

        A folder that a team shares is the place for it; only one that cannot be written is not.
        """
        whole = Path(os.path.abspath(root))
        place, problem = _place(whole, workspace)
        made = cls(whole, place, author, problem)
        made.refresh()
        return made

    def of(self, item: Item) -> Standing:
        """Return how far an item is: as the list has it, else as the dataset says."""
        key = self._key(item)
        known = self._standings.get((key, item.status))
        if known is None:
            told = {"status": item.status}
            told |= {name: value for name, (_, value) in self._known.get(key, {}).items()}
            known = self._standings[key, item.status] = Standing.of(told)
        return known

    def people(self) -> tuple[str, ...]:
        """Return the names of assignees and reviewers, sorted."""
        rows = self._known.values()
        return tuple(
            sorted({row[k][1] for row in rows for k in _FIELDS[1:] if k in row and row[k][1]})
        )

    def mark(
        self,
        items: Iterable[Item],
        *,
        status: Progress | None = None,
        assignee: str | None = None,
        reviewer: str | None = None,
    ) -> None:
        """Set what is given for these items, and write it down before returning.

        Raises
        ------
        StorageError
            If the disk refuses; here nothing is changed then.
        """
        given = {"status": status, "assignee": assignee, "reviewer": reviewer}
        wanted = {key: value for key, value in given.items() if value is not None}
        lines: list[dict[str, Any]] = []  # Any: plain JSON values
        for item in items:
            now = asdict(self.of(item))
            fresh = {key: value for key, value in wanted.items() if now[key] != value}
            if fresh:
                key = self._key(item)
                known = (when for when, _ in self._known.get(key, {}).values())
                when = max(time.time(), max(known, default=0.0) + _TICK)
                lines.append({"item": key, "time": when, "by": self.author, **fresh})
        if not lines:
            return
        self._append(lines)
        for line in lines:
            self._take(line)

    def refresh(self) -> bool:
        """Read what others have written since; return whether anything changed."""
        if self.folder is None or not self.folder.is_dir():
            return False
        before = {key: dict(row) for key, row in self._known.items()}
        for path in sorted(self.folder.glob("*.jsonl")):
            self._read_on(path)
        return before != self._known

    def _read_on(self, path: Path) -> None:
        at = self._read.get(path.name, 0)
        try:
            with path.open("rb") as file:
                file.seek(at)
                text = file.read()
        except OSError:  # gone, or being replaced by somebody's backup: read at the next call
            return
        whole = text.rfind(b"\n") + 1  # the last line may still be on its way
        self._read[path.name] = at + whole
        for line in text[:whole].splitlines():
            try:
                found = json.loads(line)
            except ValueError:  # torn by a crash, or by a full disk
                continue
            if isinstance(found, dict):
                self._take(found)

    def _take(self, line: dict[str, Any]) -> None:  # Any: plain JSON values
        key, when = line.get("item"), line.get("time")
        if not isinstance(key, str) or not isinstance(when, (int, float)):
            return
        row = self._known.setdefault(key, {})
        for status in ("", *STATUSES):
            self._standings.pop((key, status), None)
        for name in _FIELDS:
            value = line.get(name)
            if isinstance(value, str) and (float(when), value) > row.get(name, (0.0, "")):
                row[name] = (float(when), value)

    def _append(self, lines: list[dict[str, Any]]) -> None:  # Any: plain JSON values
        if self.folder is None:
            return
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
        try:
            _make(self.folder)
            path = self.folder / f"{self._own}.jsonl"
            mode = self.folder.stat().st_mode & 0o666
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode)
            with os.fdopen(handle, "ab", buffering=0) as file:
                start = file.seek(0, os.SEEK_END)
                if start and not _ends_whole(path):  # a line that a crash had torn
                    text = b"\n" + text
                if file.write(text) != len(text):
                    raise OSError(0, "no room for all of it")
                os.fsync(file.fileno())
        except OSError as error:
            msg = (
                f"expected to write the list of work in {self.folder.name}, got "
                f"{error.strerror or error}; free space or choose a workspace that can be written"
            )
            raise StorageError(msg) from error

    def _key(self, item: Item) -> str:
        known = self._keys.get((item.name, item.image))
        if known is None:
            known = self._keys[item.name, item.image] = self._digits_of(item)
        return known

    def _digits_of(self, item: Item) -> str:
        image = "" if item.image is None else os.path.abspath(item.image)
        folder = str(self.root if self.root.suffix == "" else self.root.parent) + os.sep
        within = image.removeprefix(folder) if image.startswith(folder) else item.name
        return _digits(within.replace(os.sep, "/"))

    @property
    def _own(self) -> str:
        user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
        return _digits(f"{socket.gethostname()} {user}")


def chosen(
    items: Sequence[Item], worklist: Worklist, facts: dict[str, Facts], wanted: Filter
) -> list[int]:
    """Return the places in `items` that pass a filter, in order."""
    is_all = wanted == Filter()
    return [
        place
        for place, item in enumerate(items)
        if is_all
        or wanted.passes(item, worklist.of(item), facts.get(item.name) or listed_facts(item))
    ]


def next_of(
    order: Sequence[int],
    now: int | None,
    by: int = 1,
    *,
    among: Collection[int] | None = None,
) -> int | None:
    """Return the place that comes next in an order, going round at the ends; None if none does.

    Parameters
    ----------
    order : sequence of int
        Places as they are shown.
    now : int, optional
        Where one is; None before the first.
    by : {1, -1}
    among : collection of int, optional
        Those that count; all where left out.
    """
    if not order:
        return None
    at = order.index(now) if now is not None and now in order else (-1 if by > 0 else len(order))
    for step in range(1, len(order) + 1):
        found = order[(at + by * step) % len(order)]
        if found != now and (among is None or found in among):
            return found
    return None


def _place(root: Path, workspace: Path | str | None) -> tuple[Path | None, str]:
    beside = root / FOLDER if root.is_dir() else root.parent / f".{root.name}{FOLDER}"
    if beside.is_dir() and os.access(beside, os.W_OK):
        return beside, ""
    if not beside.exists() and os.access(beside.parent, os.W_OK):
        return beside, ""
    chosen = Path(workspace).expanduser() if workspace else None
    if chosen is not None and chosen.is_dir() and os.access(chosen, os.W_OK):
        # A folder's name may be a patient's: digits of the whole path instead.
        return chosen / f"{_digits(str(root))}{FOLDER}", ""
    return None, "the dataset's folder cannot be written, and no workspace is chosen"


def _make(folder: Path) -> None:
    """Make the folder, open to the group where the one above is."""
    if folder.is_dir():
        return
    given = folder.parent.stat().st_mode & 0o2070 if os.name == "posix" else 0
    folder.mkdir(exist_ok=True)
    if os.name == "posix":
        folder.chmod(0o700 | given)


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]

"""What lies beside shapes: the table of classes, lists of splits and groups, pictures, sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from maskloop.core.errors import FormatError
from maskloop.core.labels import Label, LabelTable
from maskloop.datasets.base import PICTURES as PICTURES
from maskloop.datasets.base import split_folder
from maskloop.formats.base import reading, table_bytes, table_from

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from maskloop.core.dataset import Item

TABLE = "classes.json"
_GROUPS = "groups.json"
_LARGEST = 2**32  # pixels of a picture


def scheme_of(folder: Path, names: Iterable[str]) -> LabelTable:
    """Return the table of classes that lies in a folder, with a row for every further name."""
    table = LabelTable()
    if (folder / TABLE).is_file():
        with reading(folder / TABLE):
            table = table_from((folder / TABLE).read_bytes()) or table
    known = {row.name for row in table.values()}
    further = [name for name in dict.fromkeys(names) if name not in known]
    start = max(table, default=0) + 1
    return table.with_rows(
        Label(number, name, is_thing=True) for number, name in enumerate(further, start=start)
    )


def write_scheme(folder: Path, scheme: LabelTable) -> None:
    """Write the table of classes."""
    (folder / TABLE).write_bytes(table_bytes(LabelTable(scheme.values())))


class Lists:
    """Which split and group items belong to: ``splits/train.txt`` and so on, ``groups.json``."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}
        self._groups: dict[str, str] = {}

    def add(self, item: Item, name: str) -> None:
        """Note where an item of a written name belongs; an empty word is none."""
        if item.split:
            self._names.setdefault(item.split, []).append(name)
        if item.group:
            self._groups[name] = item.group

    def write(self, folder: Path, *, has_splits: bool = True) -> None:
        """Write the lists there are; those of splits only where nothing else holds them."""
        import orjson

        for split, names in self._names.items() if has_splits else ():
            (folder / "splits").mkdir(exist_ok=True)
            text = "".join(f"{name}\n" for name in names)
            (folder / "splits" / f"{split_folder(split)}.txt").write_text(text, encoding="utf-8")
        if self._groups:
            options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
            (folder / _GROUPS).write_bytes(orjson.dumps(self._groups, option=options))

    @staticmethod
    def told(items: Iterable[Item], folder: Path) -> tuple[Item, ...]:
        """Return items with the splits and groups that lie in a folder, where it has any.

        Raises
        ------
        FormatError
            If groups.json holds something else.
        """
        splits = {
            line: listed.stem
            for listed in sorted((folder / "splits").glob("*.txt"))
            for line in listed.read_text(encoding="utf-8", errors="replace").splitlines()
        }
        groups = json_at(folder / _GROUPS) if (folder / _GROUPS).is_file() else {}
        if not isinstance(groups, dict):
            msg = f"expected {{name: group}} in {_GROUPS}, got {str(groups)[:40]!r}"
            raise FormatError(f"{msg}; correct or remove it")
        return tuple(
            replace(
                item,
                split=splits.get(item.name, item.split),
                group=str(groups.get(item.name, item.group)),
            )
            for item in items
        )


def told_apart(items: Iterable[Item]) -> tuple[Item, ...]:
    """Return the items, with their splits in their names where names repeat."""
    listed = tuple(items)
    if len({item.name for item in listed}) == len(listed):
        return listed
    return tuple(
        replace(item, name=f"{item.split}/{item.name}") if item.split else item for item in listed
    )


def without_suffix(name: str) -> str:
    """Return a picture's name without the suffix of a picture; other dots belong to the name."""
    lower = name.lower()
    found = next((suffix for suffix in PICTURES if lower.endswith(suffix)), "")
    return name[: len(name) - len(found)] if len(name) > len(found) else name


def size_of(path: Path) -> tuple[int, int]:
    """Return ``(height, width)`` of a picture; only its header is read.

    Raises
    ------
    FormatError
        If it is none.
    """
    from maskloop.formats.picture_pillow import opened

    with reading(path), opened(path) as picture:
        width, height = picture.size
        return require_size(height, width, path.name)


def require_size(
    height: Any,
    width: Any,
    where: str,  # Any: what a file states
) -> tuple[int, int]:
    """Return a picture's size where it can be one; both come from files.

    Raises
    ------
    FormatError
        If these are no whole numbers above 0, or the picture would not fit anywhere.
    """
    is_whole = type(height) is type(width) is int
    if is_whole and min(height, width) > 0 and height * width <= _LARGEST:
        return height, width
    if is_whole and min(height, width) > 0:
        msg = (
            f"expected a picture of at most {_LARGEST:,} pixels in {where}, got {width} x {height}"
        )
        raise FormatError(f"{msg}; cut it into tiles")
    msg = f"expected the height and width of a picture in {where}, got {(height, width)!r}"
    raise FormatError(f"{msg}; repair the entry")


def json_at(path: Path) -> Any:  # Any: plain JSON values
    """Return the content of a JSON file.

    Raises
    ------
    FormatError
        If it is none.
    """
    import orjson

    with reading(path):
        text = path.read_bytes()
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        msg = f"expected JSON in {path.name}, got {error}; the file is damaged: copy it again"
        raise FormatError(msg) from error

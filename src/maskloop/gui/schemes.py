"""Class schemes: a table of labels as a small JSON file, to begin other cases with; no Qt."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from maskloop.core.errors import FormatError, MissingFileError, StorageError
from maskloop.core.labels import Label, LabelTable

SUFFIX = ".classes.json"
_KEY = "maskloop_classes"
_VERSION = 1
# What belongs to a mask and not to its scheme.
_OWN = ("score", "author", "status")


def read_scheme(path: Path) -> LabelTable:
    """Return the table in a file of `write_scheme`, or in a plain ``{"1": "liver"}``.

    Raises
    ------
    MissingFileError
        If there is no such file.
    FormatError
        If it holds no scheme; the message says what is wrong with which row.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        msg = f"expected a class scheme at {path}, got nothing there; choose another file"
        raise MissingFileError(msg) from error
    except (OSError, ValueError) as error:
        msg = f"expected a class scheme in {path.name}, got {error}; choose a JSON file"
        raise FormatError(msg) from error
    rows = _rows(found, path)
    labels = []
    for number, row in enumerate(rows, start=1):
        labels.append(_label(row, f"row {number} of {path.name}"))
    try:
        return LabelTable(labels)
    except ValueError as error:
        msg = f"{error} (in {path.name})"
        raise FormatError(msg) from error


def write_scheme(path: Path, table: LabelTable) -> None:
    """Write a table's ids, names, colours, categories, visibility and locks as JSON.

    Raises
    ------
    StorageError
        If the file cannot be written; an older one of that name then stays.
    """
    rows = [{k: v for k, v in row.items() if k not in _OWN} for row in table.to_rows()]
    fresh = path.with_name(f".{path.name}.new")
    try:
        text = json.dumps({_KEY: _VERSION, "labels": rows}, indent=1, ensure_ascii=False)
        fresh.write_text(f"{text}\n", encoding="utf-8")
        if read_scheme(fresh).names != table.names:
            raise OSError(0, "other rows than were written")
        os.replace(fresh, path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        msg = (
            f"expected to write {path.name} in {path.parent}, got {error.strerror or error}; "
            "choose a folder that can be written"
        )
        raise StorageError(msg) from error


def _rows(found: Any, path: Path) -> list[Any]:  # Any: plain JSON values
    if isinstance(found, dict) and isinstance(found.get("labels"), list):
        version = found.get(_KEY, _VERSION)
        if version != _VERSION:
            msg = (
                f"expected a class scheme of version {_VERSION} in {path.name}, got {version!r}; "
                "save it again with this version"
            )
            raise FormatError(msg)
        return list(found["labels"])
    if isinstance(found, dict) and found and all(str(key).isdecimal() for key in found):
        return [{"id": int(key), "name": name} for key, name in found.items() if int(key)]
    msg = (
        f"expected a class scheme in {path.name}, an object with the list 'labels', got "
        f"{type(found).__name__}; save one with Save scheme to see how it looks"
    )
    raise FormatError(msg)


def _label(row: Any, where: str) -> Label:  # Any: plain JSON values
    if not isinstance(row, dict) or not isinstance(row.get("id"), int):
        msg = f"expected a whole number 'id' in {where}, got {row!r}; add it"
        raise FormatError(msg)
    if not isinstance(row.get("name"), str) or not row["name"].strip():
        msg = f"expected a 'name' in {where}, got {row.get('name')!r}; add it"
        raise FormatError(msg)
    for key in ("locked", "visible", "is_thing", "ignore"):
        if not isinstance(row.get(key, False), bool):
            msg = f"expected true or false for {key!r} in {where}, got {row[key]!r}; correct it"
            raise FormatError(msg)
    try:
        kept = {k: v for k, v in row.items() if k not in _OWN}
        return next(iter(LabelTable.from_rows([kept]).values()))
    except (ValueError, TypeError, AttributeError) as error:
        msg = f"{error} (in {where})"
        raise FormatError(msg) from error

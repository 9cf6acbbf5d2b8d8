"""The items of COCO files: names that differ, and the pictures beside them."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from maskloop.core.dataset import Item
from maskloop.core.errors import InputError
from maskloop.datasets import coco_file
from maskloop.datasets.base import Options, inside
from maskloop.formats import coco_shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from maskloop.datasets.coco_file import CocoFile

Entry = dict[str, Any]  # Any: plain JSON values

# A relative path in which no part begins with a dot: `inside` need not look at it.
_PLAIN = re.compile(r"[\w\-][\w\-. ]*(?:/[\w\-][\w\-. ]*)*")


def listed(
    files: Sequence[CocoFile], options: Options, drawn_of: Callable[[list[Entry]], list[Entry]]
) -> tuple[Item, ...]:
    """Return an item an image of every file, with the picture where one is found.

    Parameters
    ----------
    files : sequence of CocoFile
    options : Options
    drawn_of : callable
        Returns what is drawn, with its ``category_id``, of the annotations of an image.
    """
    found: list[tuple[str, str, Item]] = []
    for file in files:
        split, word = coco_file.split_of(file.path)
        at_hand = _Pictures(file.path, split, word)
        for image in file.images:
            name = _stated(image, file, options)
            shape = coco_shapes.size_of(image, file.path.name)
            drawn = drawn_of(file.annotations[image["id"]])
            item = Item(
                _stem(name),
                at_hand.find(name),
                shape,
                group=_group(image),
                split=split,
                classes=frozenset([file.classes[a["category_id"]] for a in drawn]),
                count=len(drawn),
                has_mask=file.is_drawn,
                ref=(file, image),
            )
            found.append((name, split or file.path.stem, item))
    return _renamed(found)


class _Pictures:
    """Finds pictures in the folders where they usually lie beside a COCO file."""

    def __init__(self, path: Path, split: str, word: str) -> None:
        base = path.parent.parent if path.parent.name == "annotations" else path.parent
        words = [w for w in dict.fromkeys((word, split, path.stem)) if w]
        if path.stem.endswith("_default"):
            words.append("default")
        folders = [f / w for w in words for f in (base / "images", base)]
        folders += [base / "images", base / "JPEGImages", base / "data", base, path.parent]
        self._folders = [f for f in dict.fromkeys(folders) if f.is_dir()]
        self._names: dict[str, frozenset[str]] = {}

    def find(self, name: str) -> Path | None:
        """Return the picture of that name, if any folder has it; the last one is asked first."""
        below, _, last = name.rpartition("/")
        for number, folder in enumerate(self._folders):
            if last in self._listed(f"{folder}/{below}"):
                if number:
                    self._folders.insert(0, self._folders.pop(number))
                return folder / name
        return None

    def _listed(self, folder: str) -> frozenset[str]:
        """Return the names in a folder, read once: asking for each is slow on a network."""
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder))
            except OSError:
                self._names[folder] = frozenset()
        return self._names[folder]


def _stem(name: str) -> str:
    """Return a file's name, folders included, without its suffix."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and "/" not in suffix and stem and not stem.endswith("/") else name


def _stated(image: Entry, file: CocoFile, options: Options) -> str:
    """Return an image's file name as a relative path with forward slashes."""
    name = image.get("file_name", image["id"])
    if type(name) is str and _PLAIN.fullmatch(name):
        return name
    text = str(name).replace("\\", "/") if isinstance(name, (str, int)) else ""
    if options.repair:
        return text.rpartition("/")[2] or str(image["id"])
    try:
        return inside(file.path.parent, text).relative_to(file.path.parent).as_posix()
    except InputError as error:
        msg = f"image {image['id']} of {file.path.name}: {error}; or open with --repair to look "
        raise InputError(f"{msg}for its last part only") from error


def _group(image: Entry) -> str:
    found = image.get("group_id", image.get("video_id", ""))
    return str(found) if isinstance(found, (str, int)) else ""


def _renamed(found: Sequence[tuple[str, str, Item]]) -> tuple[Item, ...]:
    """Return the items; names that differ by suffix or folder only get those, too."""
    counts = Counter(_undotted(item.name) for _, _, item in found)
    if counts.total() == len(counts):
        return tuple(item for _, _, item in found)
    whole = [name if counts[_undotted(item.name)] > 1 else item.name for name, _, item in found]
    counts = Counter(map(_undotted, whole))
    return tuple(
        replace(item, name=f"{prefix}/{name}" if counts[_undotted(name)] > 1 else name)
        for name, (_, prefix, item) in zip(whole, found, strict=True)
    )


def _undotted(name: str) -> str:
    """Return what `safe_name` makes of a name from `_stated`."""
    return name.replace(".", "_")

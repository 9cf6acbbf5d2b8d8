"""What is in a CVAT file and where each picture begins, in one pass that keeps no shapes.

References
----------
.. [1] CVAT, "XML annotation format", version 1.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.parsers import expat

from maskloop.core.errors import FormatError
from maskloop.datasets.beside import (
    require_size,
)

if TYPE_CHECKING:
    from pathlib import Path

_SHAPES = ("mask", "polygon", "box", "ellipse")
_ENCODINGS = ("utf-8", "us-ascii", "iso-8859-1")  # those that read well from the middle on
_LABEL = ("name", "color")
_ATTRIBUTE = ("name", "mutable", "input_type", "default_value", "values")


@dataclass(slots=True)
class Entry:
    """One picture of the file: what its element states, and its first and one-past-last byte."""

    name: str
    height: int
    width: int
    subset: str
    start: int
    stop: int = 0
    count: int = 0
    classes: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Index:
    """All pictures, the labels that the task declares, and the XML declaration as bytes."""

    entries: list[Entry] = field(default_factory=list)
    labels: list[dict[str, Any]] = field(default_factory=list)  # Any: texts and attributes
    head: bytes = b""


class _Reader:
    """Handlers of expat; one object reads one file."""

    def __init__(self, path: Path) -> None:
        self.index = Index()
        self._path = path
        self._way: list[str] = []
        self._text = ""
        self._ended: Entry | None = None
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._data
        self._parser.XmlDeclHandler = self._declared
        self._parser.StartDoctypeDeclHandler = self._doctype

    def read(self) -> Index:
        """Return the index; see `listed`."""
        try:
            with self._path.open("rb") as stream:
                self._parser.ParseFile(stream)
        except expat.ExpatError as error:
            msg = f"expected whole XML in {self._path.name}, got {error}; export it from CVAT again"
            raise FormatError(msg) from error
        except (ValueError, LookupError) as error:
            if isinstance(error, FormatError):
                raise
            msg = f"expected text in {self._path.name}, got {error}; export it from CVAT again"
            raise FormatError(msg) from error
        return self.index

    def _declared(self, version: str, encoding: str | None, standalone: int) -> None:
        if encoding and encoding.lower() not in _ENCODINGS:
            msg = f"expected text as UTF-8 in {self._path.name}, got {encoding!r}"
            raise FormatError(f"{msg}; save it as UTF-8")
        if encoding:
            self.index.head = f'<?xml version="1.0" encoding="{encoding}"?>'.encode()

    def _doctype(self, *stated: object) -> None:
        # Entities can make a small text huge, and name files outside.
        msg = f"expected plain XML in {self._path.name}, got one with a DOCTYPE"
        raise FormatError(f"{msg}; export it from CVAT again")

    def _close(self) -> None:
        """Note where the last picture ended: before whatever comes next."""
        if self._ended is not None:
            self._ended.stop = self._parser.CurrentByteIndex
            self._ended = None

    def _start(self, tag: str, stated: dict[str, str]) -> None:
        self._close()
        if not self._way and tag != "annotations":
            msg = f"expected CVAT's <annotations> in {self._path.name}, got <{tag}>"
            raise FormatError(f"{msg}; choose another file")
        if tag == "track":
            msg = f"expected CVAT for images 1.1, got tracks of a video in {self._path.name}"
            raise FormatError(f"{msg}; export it from CVAT as 'CVAT for images 1.1'")
        depth = len(self._way)
        self._way.append(tag)
        self._text = ""
        if tag == "image" and depth == 1:
            self._picture(stated)
        elif depth == 2 and self._way[1] == "image" and tag in _SHAPES:
            entry = self.index.entries[-1]
            entry.count += 1
            entry.classes.add(stated.get("label", ""))
        elif tag == "label" and "labels" in self._way:
            self.index.labels.append({"name": "", "color": "", "attributes": []})
        elif tag == "attribute" and self.index.labels and "labels" in self._way:
            self.index.labels[-1]["attributes"].append({})

    def _picture(self, stated: dict[str, str]) -> None:
        where = f"the picture {stated.get('name')!r} of {self._path.name}"
        try:
            size = int(stated["height"]), int(stated["width"])
        except (KeyError, ValueError):
            size = (0, 0)
        height, width = require_size(*size, where)
        name, subset = stated.get("name", ""), stated.get("subset", "") or "default"
        start = self._parser.CurrentByteIndex
        self.index.entries.append(Entry(name, height, width, subset, start))

    def _end(self, tag: str) -> None:
        self._close()
        self._way.pop()
        if tag == "image" and len(self._way) == 1:
            self._ended = self.index.entries[-1]
        elif (
            "labels" in self._way and self.index.labels and self._way[-1] in ("label", "attribute")
        ):
            label = self.index.labels[-1]
            if self._way[-1] == "label" and tag in _LABEL:
                label[tag] = self._text
            elif self._way[-1] == "attribute" and tag in _ATTRIBUTE and label["attributes"]:
                label["attributes"][-1][tag] = self._text
        self._text = ""

    def _data(self, text: str) -> None:
        self._text += text


def listed(path: Path) -> Index:
    """Return what a CVAT file holds.

    Raises
    ------
    FormatError
        If it is no such file, is damaged, or a video's.
    """
    return _Reader(path).read()

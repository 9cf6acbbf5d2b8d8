"""A fast scan of a DICOM file's head; pydicom where the layout is not what the standard says.

References
----------
.. [1] DICOM PS3.5 7.1 (element layout), 7.5 (sequences); PS3.10 7.1 (file meta information).
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from maskloop.core.errors import FormatError, MaskloopError
from maskloop.formats.base import first_bytes
from maskloop.formats.dicom_head import BIG_ENDIAN, DEFLATED, IDENTIFYING, TEXTS, WORDS, Slice

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_WINDOW = 1 << 14
_UNDEFINED = 0xFFFFFFFF
_PIXELS = {0x7FE00008: 4, 0x7FE00009: 8, 0x7FE00010: 1}  # 4, 8: bytes of a floating point number
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_KINDS = _LONG | frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
)
_STARTS = (b"\x02\0\0\0", b"\x02\0\x01\0", b"\x02\0\x10\0", b"\0\x08\0\x05", b"\0\x08\0\x08")
_DOUBLES = {0x00189087: "b_value"}
_LUT = 0x00283000  # Modality LUT Sequence: stored values mean what a table says, not a slope
_WANTED = frozenset((*WORDS, *TEXTS, *_DOUBLES, *IDENTIFYING, 0x00020002, 0x00020010, _LUT))
_TABLE = "a table of values (Modality LUT) in place of a slope"


class _Layout(NamedTuple):
    """How elements are laid out."""

    is_explicit: bool
    head: struct.Struct
    tag: struct.Struct
    long: struct.Struct
    double: struct.Struct


def _layout(order: str, *, is_explicit: bool) -> _Layout:
    shapes = ("HH2sH" if is_explicit else "HHI", "HH", "I", "d")
    return _Layout(is_explicit, *(struct.Struct(order + shape) for shape in shapes))


_EXPLICIT = _layout("<", is_explicit=True)
_IMPLICIT = _layout("<", is_explicit=False)
_BIG = _layout(">", is_explicit=True)


def is_dicom(head: bytes) -> bool:
    """Whether these first bytes of a file are DICOM's, with or without the 128-byte preamble."""
    if head[128:132] == b"DICM":
        return True
    # Files without a preamble start with the file meta group or an identifying element.
    is_start = head[:4] in _STARTS or (head[0:2] == b"\x08\x00" and head[3:4] == b"\0")
    return len(head) >= 8 and is_start and (head[4:6] in _KINDS or head[6:8] == b"\0\0")


def sop_class(path: Path) -> str:
    """Return the SOP class UID of a DICOM file from its first bytes; empty where there is none."""
    head = first_bytes(path, 4096)
    if head[128:132] == b"DICM":
        return _uid_after(head, b"\x02\x00\x02\x00")
    return _uid_after(head, b"\x08\x00\x16\x00") if head[:1] == b"\x08" else ""


def _uid_after(head: bytes, tag: bytes) -> str:
    at = head.find(tag)
    if at < 0:
        return ""
    length = head[at + 6 : at + 8] if head[at + 4 : at + 6] == b"UI" else head[at + 4 : at + 6]
    value = head[at + 8 : at + 8 + int.from_bytes(length, "little")]
    return value.rstrip(b"\0 ").decode("ascii", "replace")


def scan(path: Path) -> Slice | None:
    """Return a file's header without its pixels; None if the file is not DICOM.

    Raises
    ------
    FormatError
        If the file says it is DICOM and cannot be read as such.
    OSError
        If the system does not let us.
    """
    # A file object costs more than the scan itself saves; this runs once for each file of a folder.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        size = os.fstat(handle).st_size
        head = os.read(handle, _WINDOW)
        if not is_dicom(head):
            return None
        found = _scanned(handle, head, size, path)
    finally:
        os.close(handle)
    return found if found is not None else _by_pydicom(path, size)


def _scanned(handle: int, head: bytes, size: int, path: Path) -> Slice | None:
    """Return the header by our own walk; None where the layout is not what the standard says."""
    fields: dict[int, bytes] = {}
    at = 132 if head[128:132] == b"DICM" else 0
    at, _, _, _ = _walked(head, at, fields, _EXPLICIT, 0x00030000)
    syntax = _text(fields.get(0x00020010, b""))
    if not syntax and head[at : at + 2] == b"\0\x08":
        syntax = BIG_ENDIAN
    layout = _BIG if syntax == BIG_ENDIAN else _EXPLICIT
    base = 0
    if syntax == DEFLATED:
        try:
            head = zlib.decompressobj(-15).decompress(head[at:] + os.read(handle, 1 << 20), 1 << 22)
        except zlib.error:
            return None
        at, handle = 0, -1
    if head[at + 4 : at + 6] not in _KINDS:
        layout = _IMPLICIT
    room = _WINDOW
    while True:
        before = at
        at, tag, start, length = _walked(head, at, fields, layout, 0x7FE00008)
        if tag or handle < 0 or base + at + 8 > size:
            break
        # The next element starts or ends beyond the window: move there, widen if it stands still.
        is_stuck = at == before
        if is_stuck and base + len(head) >= size:
            return None
        room = room * 4 if is_stuck else _WINDOW
        base += at
        os.lseek(handle, base, os.SEEK_SET)
        head, at = os.read(handle, room), 0
    found = _slice(path, fields, syntax, size, layout, (tag, base + start, length))
    if not tag and handle >= 0 and base + at != size:
        found.words["is_cut"] = 1
    return found


def _slice(
    path: Path,
    fields: dict[int, bytes],
    syntax: str,
    size: int,
    layout: _Layout,
    pixels: tuple[int, int, int],
) -> Slice:
    order: Literal["little", "big"] = "big" if layout is _BIG else "little"
    texts: dict[str, str] = {}
    words: dict[str, int] = {}
    filled = []
    for tag, value in fields.items():
        name = TEXTS.get(tag)
        if name is not None:
            texts[name] = _text(value)
        elif tag in WORDS:
            words[WORDS[tag]] = int.from_bytes(value[:2], order)
        elif tag in IDENTIFYING and value.strip(b"\0 ^"):
            filled.append(IDENTIFYING[tag])
    for tag, name in _DOUBLES.items():
        if len(fields.get(tag, b"")) == 8:
            texts[name] = f"{layout.double.unpack(fields[tag])[0]:g}"
    if _LUT in fields:
        texts["problem"] = _TABLE
    tag, start, length = pixels
    texts.setdefault("class", _text(fields.get(0x00020002, b"")))
    if tag in _PIXELS:
        words["has_pixels"] = _PIXELS[tag]
    is_raw = tag in _PIXELS and layout is not _BIG and length != _UNDEFINED and syntax != DEFLATED
    return Slice(
        path,
        texts,
        words,
        syntax,
        start if is_raw else None,
        -1 if length == _UNDEFINED else length,
        size,
        tuple(filled),
    )


def _walked(
    head: bytes, at: int, fields: dict[int, bytes], layout: _Layout, end: int
) -> tuple[int, int, int, int]:
    """Collect wanted elements from `at` on, up to tag `end` or the window's.

    Returns where the walk stopped and, if that is at `end` or beyond, tag, start and length of the
    value there; else tag 0.
    """
    size, wanted, long_kinds = len(head), _WANTED, _LONG
    unpack, is_explicit = layout.head.unpack_from, layout.is_explicit
    while at + 8 <= size:
        if is_explicit:
            group, element, kind, length = unpack(head, at)
            start = at + 8
            if kind in long_kinds:
                if start + 4 > size:
                    break
                (length,) = layout.long.unpack_from(head, start)
                start += 4
        else:
            group, element, length = unpack(head, at)
            start = at + 8
        tag = group << 16 | element
        if tag >= end:
            return at, tag, start, length
        if length == _UNDEFINED:
            after = _skipped(head, start, layout)
            if after < 0:
                break
            if tag == _LUT:
                fields[tag] = b""
            at = after
            continue
        if tag in wanted:
            if start + length > size:
                break
            fields[tag] = head[start : start + length]
        at = start + length
    return at, 0, 0, 0


def _skipped(head: bytes, at: int, layout: _Layout) -> int:
    """Return where a sequence of undefined length ends; -1 if that is beyond the window."""
    size, depth = len(head), 1
    while depth:
        if at + 8 > size:
            return -1
        group, element = layout.tag.unpack_from(head, at)
        if group == 0xFFFE:
            (length,) = layout.long.unpack_from(head, at + 4)
            at += 8
            if element != 0xE000:
                depth -= 1
            elif length == _UNDEFINED:
                depth += 1
            else:
                at += length
            continue
        start, length = at + 8, 0
        if not layout.is_explicit:
            (length,) = layout.long.unpack_from(head, at + 4)
        elif head[at + 4 : at + 6] in _LONG:
            if start + 4 > size:
                return -1
            (length,) = layout.long.unpack_from(head, start)
            start += 4
        else:
            length = layout.head.unpack_from(head, at)[3]
        if length == _UNDEFINED:
            depth, at = depth + 1, start
        else:
            at = start + length
    return at


class Bounded(io.BufferedReader):
    """A file that never reads beyond its end, whatever length a header claims.

    Python allocates what `read` is asked for before it looks at the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return at most `size` bytes, and at most what is left."""
        if size is None or size < 0 or size > io.DEFAULT_BUFFER_SIZE:
            left = max(self._size - self.tell(), 0)
            size = left if size is None or size < 0 else min(size, left)
        return super().read(size)


@contextmanager
def damaged(path: Path, what: str) -> Iterator[None]:
    """Turn what libraries raise for a damaged file into a `FormatError`; `what` it should be."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (MaskloopError, MemoryError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        # Any error can come out of a damaged file, and its own words may quote values of it.
        msg = (
            f"expected a whole {what} in {path.name}, got {type(error).__name__} while reading "
            "it; copy the file again"
        )
        raise FormatError(msg) from error


@lru_cache(maxsize=1)
def damage() -> tuple[type[Exception], ...]:
    """Return what pydicom raises for damaged files; an OSError of it has no error number."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    plain = (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError)
    rare = (EOFError, ArithmeticError, OSError, struct.error, zlib.error)
    return (*plain, *rare, BytesLengthException, InvalidDicomError)


def _by_pydicom(path: Path, size: int) -> Slice:
    import pydicom

    tags = [*TEXTS, *WORDS, *IDENTIFYING, *_DOUBLES, _LUT]
    with warnings.catch_warnings(), Bounded(path) as stream:
        warnings.simplefilter("ignore")
        try:
            data = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=tags)
            texts = {n: _as_text(data[t].value) for t, n in TEXTS.items() if t in data}
            texts |= {"problem": _TABLE} if _LUT in data else {}
            words = {n: int(data[t].value or 0) for t, n in WORDS.items() if t in data}
            filled = tuple(n for t, n in IDENTIFYING.items() if t in data and data[t].value)
            syntax = str(data.file_meta.get("TransferSyntaxUID", ""))
        except damage() as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            msg = (
                f"expected a whole DICOM file, got {path.name}: {type(error).__name__}; copy the "
                "file again"
            )
            raise FormatError(msg) from error
    if not texts:
        msg = f"expected a whole DICOM file, got {path.name}, cut short; copy the file again"
        raise FormatError(msg)
    words["has_pixels"] = 1
    return Slice(path, texts, words, syntax, None, -1, size, filled)


def _as_text(value: Any) -> str:  # Any: pydicom's value types
    if value is None:
        return ""
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return str(value)
    return "\\".join(map(str, value))


@lru_cache(maxsize=4096)
def _text(value: bytes) -> str:
    return value.decode("latin-1").strip("\0 ")

"""Voxels that a text header points at: found beside it, unpacked, never more than there are.

A header only claims. Before memory is asked for, the claim is held against the file's own size.
"""

from __future__ import annotations

import bz2
import os
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError, InputError
from maskloop.formats.base import missing
from maskloop.formats.gunzip import gunzip

if TYPE_CHECKING:
    import re
    from collections.abc import Container
    from pathlib import Path

    from maskloop.core.job import Job

_RATIO = 1040  # deflate cannot shrink more than this
_PIECE = 1 << 24
_LONGEST_HEADER = 1 << 26
_LONGEST_LINE = 4096


def read_head(path: Path, end: re.Pattern[bytes]) -> tuple[bytes, int]:
    """Return a text header up to and with the first match of `end`, and its length.

    A file without such an end is all header, as of data in another file.
    """
    head = b""
    with path.open("rb") as stream:
        while piece := stream.read(1 << 16):
            new = max(0, len(head) - _LONGEST_LINE)
            head += piece
            found = end.search(head, new)
            if found is not None:
                return head[: found.end()], found.end()
            if len(head) > _LONGEST_HEADER:
                msg = (
                    f"expected a header of at most {_LONGEST_HEADER >> 20} MB in {path.name}, got "
                    "no end of it; the file is damaged: copy it again"
                )
                raise FormatError(msg)
    return head, len(head)


def beside(header: Path, named: str) -> Path:
    """Return the data file that `header` names; only a plain name in its own folder will do.

    Raises
    ------
    FormatError
        If it names a list of files, or leads elsewhere, by its path or through a link.
    MissingFileError
        If there is no such file.
    """
    if named.split()[:1] == ["LIST"] or "%" in named:
        msg = (
            f"expected one data file beside {header.name}, got a list of files ({named[:40]!r}); "
            "save the volume in one file"
        )
        raise FormatError(msg)
    is_plain = named not in ("", ".", "..") and not set(named) & set('/\\:\0*?"<>|')
    found = header.with_name(named) if is_plain else header
    folder = os.path.realpath(header.parent)
    if not is_plain or os.path.dirname(os.path.realpath(found)) != folder:
        msg = (
            f"expected {header.name} to name a data file in its own folder, got {named!r}; put "
            "the data beside the header and write its plain name there"
        )
        raise FormatError(msg)
    if not found.is_file():
        raise missing(found, f"the data file that {header.name} names")
    return found


def read_raw(
    path: Path, dtype: np.dtype[Any], count: int, *, start: int
) -> npt.NDArray[Any]:  # Any: the type that the header names
    """Return `count` numbers that lie unpacked in a file, in native byte order.

    A `start` of -1 means that they are the last in the file.
    """
    size, needed = path.stat().st_size, count * dtype.itemsize
    start = size - needed if start == -1 else start
    if start < 0 or size - start < needed:
        raise cut_short(path.name, needed, max(0, size - max(0, start)))
    return as_native(np.fromfile(path, dtype, count, offset=start))


def unpack(
    packed: npt.NDArray[np.uint8], needed: int, name: str, *, job: Job
) -> npt.NDArray[np.uint8]:
    """Return `needed` bytes of gzip, zlib or bzip2 data; which of them, its first bytes tell."""
    if bytes(packed[:3]) == b"BZh":
        return _in_parts(packed, needed, name, job)
    if needed > _RATIO * len(packed):
        raise cut_short(name, needed // _RATIO, len(packed))
    is_gzip = bytes(packed[:2]) == b"\x1f\x8b"
    whole = gunzip(packed, needed) if is_gzip else _unzlib(packed, needed)
    return whole if whole is not None else _in_parts(packed, needed, name, job)


def _unzlib(packed: npt.NDArray[np.uint8], needed: int) -> npt.NDArray[np.uint8] | None:
    import deflate

    try:
        content = deflate.zlib_decompress(packed, needed)
    except deflate.DeflateError:
        return None
    return np.frombuffer(content, np.uint8) if len(content) == needed else None


def _in_parts(
    packed: npt.NDArray[np.uint8], needed: int, name: str, job: Job
) -> npt.NDArray[np.uint8]:
    """Unpack several members, or one that goes on; memory grows with what really comes out."""
    is_bzip2 = bytes(packed[:3]) == b"BZh"
    content, rest = bytearray(), bytes(packed)
    try:
        while rest and len(content) < needed:
            unpacker: Any = bz2.BZ2Decompressor() if is_bzip2 else zlib.decompressobj(47)
            while not unpacker.eof and len(content) < needed:
                job.check()
                piece = unpacker.decompress(rest, min(_PIECE, needed - len(content)))
                rest = b"" if is_bzip2 else unpacker.unconsumed_tail
                content += piece
                if not piece and not rest:
                    break
            if not unpacker.eof:
                unpacker.decompress(rest, 1)  # reaches the checksum, where there is one
                break
            rest = unpacker.unused_data
    except (OSError, zlib.error) as error:
        msg = (
            f"expected {needed} bytes in {name}, got {len(content)} before the packed data broke "
            f"off ({error}); copy the file again"
        )
        raise FormatError(msg) from error
    if len(content) < needed:
        raise cut_short(name, needed, len(content))
    return np.frombuffer(content, np.uint8)


def numbers(text: bytes, dtype: np.dtype[Any], count: int, name: str) -> npt.NDArray[Any]:
    """Return `count` numbers written as text, parted by white space."""
    # A number takes a digit and a blank at least.
    if 2 * count - 1 > len(text):
        raise cut_short(name, 2 * count - 1, len(text))
    words = text.split()
    if len(words) < count:
        msg = (
            f"expected {count} numbers in {name}, got {len(words)}; the file was cut short: copy "
            "it again"
        )
        raise FormatError(msg)
    try:
        return np.array(words[:count]).astype(dtype.newbyteorder("="))
    except (ValueError, OverflowError) as error:
        msg = f"expected numbers of type {dtype} in {name}, got {error}; copy the file again"
        raise FormatError(msg) from error


def as_native(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the same numbers in native byte order; a foreign array is turned in place."""
    if data.dtype.isnative:
        return data
    if not data.flags.writeable:
        data = data.copy()
    return data.byteswap(inplace=True).view(data.dtype.newbyteorder("="))


def widened(data: npt.NDArray[Any], known: Container[str]) -> npt.NDArray[Any]:
    """Return pixels in a type that a format has: bool as bytes, half floats as single ones.

    Parameters
    ----------
    known : container of str
        The format's types, as NumPy's codes without byte order: ``"u1"``, ``"f4"``.

    Raises
    ------
    InputError
        If no type of the format holds the values.
    """
    wider = {"b1": np.uint8, "f2": np.float32}
    code = data.dtype.str[1:]
    if code not in known and code not in wider:
        msg = (
            f"expected integers or floats of at most 64 bits, got {data.dtype}; convert the image "
            "first"
        )
        raise InputError(msg)
    return data.astype(wider.get(code, data.dtype), copy=False)


def cut_short(name: str, needed: int, found: int) -> FormatError:
    """Return the error for a file with fewer bytes than its header needs."""
    return FormatError(
        f"expected at least {needed} bytes of data in {name}, got {found}; the file was cut "
        "short: copy it again"
    )

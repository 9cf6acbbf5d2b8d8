"""The append-only log of steps in a case folder; what a crash cannot take."""

from __future__ import annotations

import os
import struct
import zlib
from typing import TYPE_CHECKING, Literal

from maskloop.core.edits import Edit
from maskloop.core.errors import FormatError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Entry = Edit | Literal["undo", "redo"]

_MAGIC = b"maskloop journal 1\n"
_HEAD = struct.Struct("<II")  # length of the payload, its CRC-32


class Journal:
    """Steps on disk: each appended record is on the medium before `append` returns.

    A record is its payload's length and CRC-32 (both little-endian uint32), then the payload: one
    letter, and the edit where the letter is ``E``. ``U`` and ``R`` are an undo and a redo.

    Parameters
    ----------
    path : Path
        The file; made if it does not exist. Opening reads every record. Bytes after the last whole
        record are cut off: a step that was being written when the machine stopped. Where whole
        data follows a damaged record, the rest is first kept beside the journal.

    Raises
    ------
    FormatError
        If the file is not a journal; it is left alone.
    StorageError
        If it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dropped = ""
        try:
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
        except OSError as error:
            raise _refused(path, error) from error
        try:
            self.entries = list(self._recovered())
        except BaseException:
            self._file.close()
            raise

    def append(self, entry: Entry) -> None:
        """Write one step and wait until the disk has it.

        Raises
        ------
        StorageError
            If the disk refuses; the journal then ends with its last whole record.
        """
        payload = _LETTERS[entry] if isinstance(entry, str) else b"E" + entry.to_bytes()
        end = self._file.seek(0, os.SEEK_END)
        try:
            self._write(_HEAD.pack(len(payload), zlib.crc32(payload)) + payload)
        except OSError as error:
            self._file.truncate(end)
            raise _refused(self.path, error) from error
        self.entries.append(entry)

    def close(self) -> None:
        """Let go of the file; nothing is pending."""
        self._file.close()

    def _write(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            rest = rest[self._file.write(rest) :]
        os.fsync(self._file.fileno())

    def _recovered(self) -> Iterator[Entry]:
        content = self._file.read()
        if not content:
            self._write(_MAGIC)
            return
        if not content.startswith(_MAGIC):
            if _MAGIC.startswith(content):  # the machine stopped while the first line was written
                self._cut(0, content)
                self._write(_MAGIC)
                return
            msg = (
                f"expected a maskloop journal at {self.path.name}, got {content[:20]!r}; "
                f"move the file away or choose another case"
            )
            raise FormatError(msg)
        start = len(_MAGIC)
        while start < len(content):
            payload = _payload(content, start)
            if payload is None:
                self._cut(start, content)
                return
            yield _entry(payload)
            start += _HEAD.size + len(payload)

    def _cut(self, end: int, content: bytes) -> None:
        """Cut the file at `end`; keep what follows beside it where that may hold whole steps."""
        rest = content[end:]
        self.dropped = (
            f"the last step was not finished when the program stopped ({len(rest)} bytes)"
        )
        if any(_payload(rest, at) is not None for at in range(1, len(rest))):
            kept = self.path.with_name(f"{self.path.name}.damaged-{end}")
            kept.write_bytes(rest)
            self.dropped = (
                f"the journal is damaged at byte {end}: steps after it were not read, "
                f"their {len(rest)} bytes are kept in {kept.name}"
            )
        self._file.truncate(end)
        self._file.seek(end)
        os.fsync(self._file.fileno())


_LETTERS = {"undo": b"U", "redo": b"R"}


def _payload(content: bytes, start: int) -> bytes | None:
    if start + _HEAD.size > len(content):
        return None
    size, checksum = _HEAD.unpack_from(content, start)
    payload = content[start + _HEAD.size : start + _HEAD.size + size]
    return payload if len(payload) == size and size and zlib.crc32(payload) == checksum else None


def _entry(payload: bytes) -> Entry:
    if payload == b"U":
        return "undo"
    if payload == b"R":
        return "redo"
    if payload[:1] != b"E":
        msg = (
            f"expected a step of a known kind, got {payload[:1]!r}; open the case with a newer "
            "version"
        )
        raise FormatError(msg)
    return Edit.from_bytes(payload[1:])


def _refused(path: Path, error: OSError) -> StorageError:
    msg = (
        f"expected to write the journal {path.name} in {path.parent}, "
        f"got {error.strerror or error}; free space or choose a folder that can be written"
    )
    return StorageError(msg)

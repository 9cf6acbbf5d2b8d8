"""The append-only log of steps in a case folder; what a crash cannot take."""

from __future__ import annotations

import os
import struct
import threading
import time
import zlib
from typing import TYPE_CHECKING, Literal

from maskloop.core.edits import Edit
from maskloop.core.errors import FormatError, StorageError
from maskloop.core.files import sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

Entry = Edit | Literal["undo", "redo"]

_MAGIC = b"maskloop journal 1\n"
_HEAD = struct.Struct("<II")  # length of the payload, its CRC-32
_TOGETHER = 256  # steps of a compacted record
_RETRY_S = 1.0


class Journal:
    """Steps on disk: each appended record is on the medium before `append` returns.

    A record is its payload's length and CRC-32 (both little-endian uint32), then the payload: one
    letter, and the edit where the letter is ``E``. ``U`` and ``R`` are an undo and a redo; ``Z``
    is many records, deflated together.

    Parameters
    ----------
    path : Path
        The file; made if it does not exist. Opening reads every record. Bytes after the last whole
        record are cut off: a step that was being written when the machine stopped. Where whole
        data follows a damaged record, the rest is first kept beside the journal.
    is_read_only : bool
        Read the whole records and change nothing.
    mode : int
        Permissions of a new file.

    Raises
    ------
    FormatError
        If the file is not a journal; it is left alone.
    StorageError
        If it cannot be read or written.
    """

    def __init__(self, path: Path, *, is_read_only: bool = False, mode: int = 0o600) -> None:
        self.path = path
        self.dropped = ""
        self._is_read_only = is_read_only
        self._mode = mode
        how = os.O_RDONLY if is_read_only else os.O_RDWR | os.O_CREAT
        is_new = not is_read_only and not path.exists()
        try:
            self._file = os.fdopen(
                os.open(path, how, mode), "rb" if is_read_only else "r+b", buffering=0
            )
            if is_new:
                path.chmod(mode)  # whatever the umask took away
        except OSError as error:
            raise _refused(path, error) from error
        try:
            self.entries = list(self._recovered())
        except BaseException:
            self._file.close()
            raise

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._file.fileno()).st_size

    def append(self, *entries: Entry) -> None:
        """Write steps and wait until the disk has them.

        Raises
        ------
        StorageError
            If the disk refuses; the journal then ends with its last whole record.
        """
        end = self._file.seek(0, os.SEEK_END)
        try:
            self._write(b"".join(_record(entry) for entry in entries))
        except OSError as error:
            self._file.truncate(end)
            raise _refused(self.path, error) from error
        self.entries.extend(entries)

    def rewrite(self, entries: Sequence[Entry]) -> None:
        """Replace the content by these steps, many to a record; all at once or not at all.

        Raises
        ------
        StorageError
            If the disk refuses, or does not give back what was written; the old file stays.
        """
        made = self.path.with_name(f".{self.path.name}.new")
        try:
            fresh = os.fdopen(os.open(made, os.O_RDWR | os.O_CREAT | os.O_TRUNC, self._mode), "r+b")
            made.chmod(self._mode)
            with fresh:
                fresh.write(_MAGIC)
                for start in range(0, len(entries), _TOGETHER):
                    part = b"".join(_record(entry) for entry in entries[start : start + _TOGETHER])
                    fresh.write(_framed(b"Z" + zlib.compress(part, 6)))
                fresh.flush()
                os.fsync(fresh.fileno())
            again = Journal(made, is_read_only=True)
            again.close()
            if again.entries != list(entries):
                raise OSError(0, "other bytes than were written")
            self._file.close()
            made.replace(self.path)
            self._file = self.path.open("r+b", buffering=0)
            sync_folder(self.path.parent)
        except OSError as error:
            made.unlink(missing_ok=True)
            if self._file.closed:
                self._file = self.path.open("r+b", buffering=0)
            raise _refused(self.path, error) from error
        self.entries = list(entries)

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
            if not self._is_read_only:
                self._write(_MAGIC)
            return
        if not content.startswith(_MAGIC):
            if _MAGIC.startswith(content):  # the machine stopped while the first line was written
                self._cut(0, content)
                if not self._is_read_only:
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
            yield from _entries(payload)
            start += _HEAD.size + len(payload)

    def _cut(self, end: int, content: bytes) -> None:
        """Cut the file at `end`; keep what follows beside it where that may hold whole steps."""
        rest = content[end:]
        self.dropped = (
            f"the last step was not finished when the program stopped ({len(rest)} bytes)"
        )
        if self._is_read_only:
            return
        if any(_payload(rest, at) is not None for at in range(1, len(rest))):
            kept = self.path.with_name(f"{self.path.name}.damaged-{end}")
            with os.fdopen(os.open(kept, os.O_WRONLY | os.O_CREAT, self._mode), "wb") as file:
                file.write(rest)
            self.dropped = (
                f"the journal is damaged at byte {end}: steps after it were not read, "
                f"their {len(rest)} bytes are kept in {kept.name}"
            )
        self._file.truncate(end)
        self._file.seek(end)
        os.fsync(self._file.fileno())


class BackgroundJournal:
    """A journal written in a thread of its own, so that a window never waits for the disk.

    Steps are written in their order, those that came together with one wait for the disk. Where
    the disk refuses, they are kept and tried again every second.

    Parameters
    ----------
    journal : Journal
    on_trouble : callable
        Told in words, in the journal's thread, when the disk refuses and when it works again.
    """

    def __init__(self, journal: Journal, on_trouble: Callable[[str], None]) -> None:
        self.path = journal.path
        self.dropped = journal.dropped
        self.entries = journal.entries
        self.lags_s: list[float] = []
        self._journal = journal
        self._on_trouble = on_trouble
        self._pending: list[tuple[float, Entry]] = []
        self._is_ending = False
        self._is_refused = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="maskloop journal", daemon=True)
        self._thread.start()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._journal.size

    def append(self, *entries: Entry) -> None:
        """Hand steps to the thread; returns at once."""
        with self._news:
            now = time.monotonic()
            self._pending.extend((now, entry) for entry in entries)
            self._news.notify_all()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything is on disk; return whether it is."""
        with self._news:
            return self._news.wait_for(
                lambda: not self._pending or (self._is_refused and self._is_ending), timeout_s
            )

    def rewrite(self, entries: Sequence[Entry]) -> None:
        """As for `Journal`, once everything is on disk."""
        self.flush()
        self._journal.rewrite(entries)
        self.entries = self._journal.entries

    def finish(self) -> bool:
        """End the thread, with one more try where the disk refuses; return if all is on disk."""
        with self._news:
            self._is_ending = True
            self._news.notify_all()
        self._thread.join()
        return not self._pending

    def close(self) -> None:
        """Write what is pending and let go of the file.

        Raises
        ------
        StorageError
            If the disk still refuses: says how many steps are not on it.
        """
        self.finish()
        self._journal.close()
        if self._pending:
            msg = (
                f"expected to write the last {len(self._pending)} steps to {self.path.name}, but "
                "the disk refused to the end; free space and export the mask before you close it"
            )
            raise StorageError(msg)

    def _work(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._pending or self._is_ending)
                batch = list(self._pending)
            if not batch:
                return
            try:
                self._journal.append(*(entry for _, entry in batch))
            except StorageError as error:
                if not self._wait(error):
                    return
                continue
            now = time.monotonic()
            with self._news:
                self.lags_s.extend(now - since for since, _ in batch)
                del self.lags_s[:-1000]
                del self._pending[: len(batch)]
                was_refused, self._is_refused = self._is_refused, False
                self._news.notify_all()
            if was_refused:
                self._on_trouble("The disk works again: every step is written.")

    def _wait(self, error: StorageError) -> bool:
        """Tell of trouble once and wait a while; return whether to try again."""
        if not self._is_refused:
            self._on_trouble(f"Not on disk yet, tried again every second: {error}")
        with self._news:
            self._is_refused = True
            self._news.notify_all()
            if self._is_ending:
                return False
            self._news.wait_for(lambda: self._is_ending, _RETRY_S)
        return True


class NoJournal:
    """Stands in for a journal where a case lives in memory only."""

    path = None
    dropped = ""
    size = 0

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def append(self, *entries: Entry) -> None:
        """Keep nothing."""

    def rewrite(self, entries: Sequence[Entry]) -> None:
        """Keep nothing."""

    def close(self) -> None:
        """Do nothing."""


_LETTERS = {"undo": b"U", "redo": b"R"}


def _framed(payload: bytes) -> bytes:
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def _record(entry: Entry) -> bytes:
    return _framed(_LETTERS[entry] if isinstance(entry, str) else b"E" + entry.to_bytes())


def _payload(content: bytes, start: int) -> bytes | None:
    if start + _HEAD.size > len(content):
        return None
    size, checksum = _HEAD.unpack_from(content, start)
    payload = content[start + _HEAD.size : start + _HEAD.size + size]
    return payload if len(payload) == size and size and zlib.crc32(payload) == checksum else None


def _entries(payload: bytes) -> Iterator[Entry]:
    letter = payload[:1]
    if letter == b"U":
        yield "undo"
    elif letter == b"R":
        yield "redo"
    elif letter == b"E":
        yield Edit.from_bytes(payload[1:])
    elif letter == b"Z":
        content, start = zlib.decompress(payload[1:]), 0
        while (inner := _payload(content, start)) is not None:
            yield from _entries(inner)
            start += _HEAD.size + len(inner)
    else:
        msg = f"expected a step of a known kind, got {letter!r}; open the case with a newer version"
        raise FormatError(msg)


def _refused(path: Path, error: OSError) -> StorageError:
    msg = (
        f"expected to write the journal {path.name} in {path.parent}, "
        f"got {error.strerror or error}; free space or choose a folder that can be written"
    )
    return StorageError(msg)

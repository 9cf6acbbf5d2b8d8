"""Several files replaced together, only when all are right; else none is touched.

Each file is replaced whole, in the order in which it was asked for: a process killed in between
leaves the first ones new and the others old, none of them half. What it left aside has a name that
starts with ``.maskloop-`` and is removed by a later export into that folder, after a day.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from maskloop.core.errors import MissingFileError, StorageError
from maskloop.core.files import sync_folder

_PREFIX = ".maskloop-"
_STALE_S = 24 * 3600  # nobody writes one file for a day
_MODE_LOCK = threading.Lock()


class Swap:
    """Temporary files beside their targets that replace them all, or vanish."""

    def __init__(self, path: Path, suffix: str) -> None:
        self._path = path
        self._suffix = suffix
        self._pairs: list[tuple[Path, Path]] = []

    def __enter__(self) -> Swap:
        folder = self._path.parent
        if not folder.is_dir():
            msg = (
                f"expected a folder {str(folder)!r} to write {self._path.name!r} into, "
                f"got nothing there; create it first"
            )
            raise StorageError(msg)
        _remove_stale(folder)
        return self

    def file(self, target: Path) -> Path:
        """Return an empty private file that `commit` will move onto `target`."""
        if target.exists() and not target.is_file():
            msg = (
                f"expected {str(target)!r} to be a file that can be replaced, got a folder or "
                "device; choose another name"
            )
            raise StorageError(msg)
        # A link stays a link: what it points to is replaced.
        real = Path(os.path.realpath(target))
        ending = self._suffix if target == self._path else "".join(target.suffixes[-1:])
        handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=ending, dir=real.parent)
        self._pairs.append((Path(name), real))
        os.close(handle)
        return Path(name)

    def commit(self) -> None:
        """Flush every file to the disk and move all onto their targets, or none."""
        for temporary, target in self._pairs:
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            os.chmod(temporary, _mode_for(target))
        begun: list[tuple[Path, Path, Path | None]] = []
        try:
            for temporary, target in self._pairs:
                begun.append((temporary, target, _keep(target)))
                os.replace(temporary, target)
        except BaseException:
            for temporary, target, kept in reversed(begun):
                _put_back(target, kept, is_moved=not temporary.exists())
            raise
        for _, _, kept in begun:
            if kept is not None:
                with suppress(OSError):  # all is in place: a name left over does no harm
                    kept.unlink(missing_ok=True)
        sync_folder(self._path.parent)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for temporary, _ in self._pairs:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, (StorageError, MissingFileError)):
            msg = (
                f"expected to write {str(self._path)!r}, but the system answered {words(error)!r}; "
                f"{_advice(_first(error))}; what was there before is unchanged"
            )
            raise StorageError(msg) from error


def _remove_stale(folder: Path) -> None:
    """Remove what a process killed a day ago or earlier left in `folder`."""
    with suppress(OSError):
        for left in folder.glob(_PREFIX + "*"):
            with suppress(OSError):
                if left.is_file() and time.time() - left.stat().st_ctime > _STALE_S:
                    left.unlink()


def _keep(target: Path) -> Path | None:
    """Return a second name (or a copy) of an existing file, so that it can be put back."""
    if not target.exists():
        return None
    handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=".old", dir=target.parent)
    kept = Path(name)
    try:
        os.close(handle)
        kept.unlink()
        try:
            os.link(target, kept)
        except OSError:  # a file system without links
            shutil.copy2(target, kept)
    except BaseException:
        kept.unlink(missing_ok=True)
        raise
    return kept


def _put_back(target: Path, kept: Path | None, *, is_moved: bool) -> None:
    if not is_moved:
        if kept is not None:
            kept.unlink(missing_ok=True)
    elif kept is not None:
        os.replace(kept, target)
    else:
        target.unlink(missing_ok=True)


def _mode_for(target: Path) -> int:
    if target.exists():
        return target.stat().st_mode & 0o777
    with _MODE_LOCK:
        mask = os.umask(0o077)
        os.umask(mask)
    return 0o666 & ~mask


def words(error: OSError) -> str:
    """Return what the system said, in its words, not in those of a library that passes it on."""
    said = _first(error)
    return said.strerror or str(said) or type(said).__name__


def _first(error: OSError) -> OSError:
    """Return the error of the system behind one that a library raised from it."""
    while error.errno is None and isinstance(error.__cause__, OSError):
        error = error.__cause__
    return error


def _advice(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free some space or write elsewhere"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "choose a folder you may write to"
    return "check the folder and the disk"

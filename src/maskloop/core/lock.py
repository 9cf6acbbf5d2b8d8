"""Who holds a case folder: one writer at a time, and no dead one."""

from __future__ import annotations

import datetime
import json
import os
import socket
import sys
from typing import IO, TYPE_CHECKING

from maskloop.core.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path


class FolderLock:
    """A lock on a case folder that the system lets go of when the process ends, however it ends.

    The file says who holds it; it is emptied at release, so that one with text in it that nobody
    holds tells of a process that died.

    Parameters
    ----------
    path : Path
        The lock file; made if it does not exist.

    Attributes
    ----------
    is_held : bool
        Whether this object holds the lock.
    holder : str
        Who else holds it, in words; empty where nobody does.
    was_left : bool
        Whether the last holder died without letting go.

    Raises
    ------
    StorageError
        If the file cannot be made or written.
    """

    def __init__(self, path: Path, *, mode: int = 0o600) -> None:
        self.path = path
        self.holder = ""
        self.was_left = False
        self.is_held = False
        self._file: IO[bytes] | None = None
        is_new = not path.exists()
        try:
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, mode), "r+b", buffering=0)
            if is_new:
                path.chmod(mode)  # whatever the umask took away
            self._take(self._file)
        except OSError as error:
            self.release()
            msg = (
                f"expected to lock the case folder {path.parent.name}, got "
                f"{error.strerror or error}; free space or choose a workspace that can be written"
            )
            raise StorageError(msg) from error

    def release(self) -> None:
        """Let go; a later holder sees that this one ended as it should."""
        if self._file is None:
            return
        if self.is_held:
            self._file.truncate(0)
            _unlock(self._file)
            self.is_held = False
        self._file.close()
        self._file = None

    def _take(self, file: IO[bytes]) -> None:
        written = file.read(4096)
        if not _try_lock(file):
            self.holder = _words(written)
            return
        self.is_held = True
        self.was_left = bool(written.strip())
        about = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        file.seek(0)
        file.truncate(0)
        file.write(json.dumps(about).encode())


def state(path: Path) -> tuple[str, bool]:
    """Return who holds a lock file, in words, and whether its last holder died; takes nothing."""
    if not path.exists():
        return "", False
    # Where nobody may write, nobody needs to; some systems lock only what is open for writing.
    with path.open("r+b" if os.access(path, os.W_OK) else "rb") as file:
        written = file.read(4096)
        if not _try_lock(file):
            return _words(written), False
        _unlock(file)
    return "", bool(written.strip())


def _words(written: bytes) -> str:
    try:
        about = json.loads(written)
        return f"process {about['process']} on {about['host']}, since {about['since']}"
    except (ValueError, KeyError, TypeError):
        return "another window"


# Locks of the system go with the process: a file that merely says "locked" would outlive a crash.

if sys.platform == "win32":
    import msvcrt

    _FAR = 1 << 30  # beyond what is written: Windows forbids others to read locked bytes

    def _try_lock(file: IO[bytes]) -> bool:
        file.seek(_FAR)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(file: IO[bytes]) -> None:
        file.seek(_FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import errno
    import fcntl

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            return not _is_alive(file)  # this file system has no locks: go by what the file says
        return True

    def _unlock(file: IO[bytes]) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_UN)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL):
                raise

    def _is_alive(file: IO[bytes]) -> bool:
        file.seek(0)
        try:
            about = json.loads(file.read(4096))
            if about["host"] != socket.gethostname():
                return True
            os.kill(about["process"], 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        except (ValueError, KeyError, TypeError):
            return False
        return True

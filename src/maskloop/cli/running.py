"""Run a command: progress, cancel, exit codes, and errors in words."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from typing import TYPE_CHECKING

import click

from maskloop.core.errors import MaskloopError
from maskloop.core.job import Job, Progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

DONE, BUG, BAD_INPUT, CANCELLED = 0, 1, 2, 130


class Bar:
    """Draw progress on a terminal; at most ten times a second."""

    def __init__(self) -> None:
        self._last = 0.0
        self._is_drawn = False

    def __call__(self, progress: Progress) -> None:
        """Draw how far a job is, and its notes above the bar."""
        if progress.note:
            self.clear()
            click.echo(progress.note, err=True)
        if not progress.stage:
            return
        now = time.monotonic()
        is_end = progress.total and progress.done >= progress.total
        if now - self._last < 0.1 and not is_end:
            return
        self._last, self._is_drawn = now, True
        share = min(1.0, progress.done / progress.total) if progress.total else 0.0
        count = f"{progress.done}/{progress.total}" if progress.total else f"{progress.done}"
        filled = round(24 * share)
        bar = "#" * filled + "." * (24 - filled) if progress.total else "." * 24
        click.echo(f"\r\x1b[K{progress.stage[:40]:<24} [{bar}] {count}", err=True, nl=False)

    def clear(self) -> None:
        """Take the bar off the terminal."""
        if self._is_drawn:
            click.echo("\r\x1b[K", err=True, nl=False)
            self._is_drawn = False


def _notes_only(progress: Progress) -> None:
    """Tell what a person must read where there is no terminal to draw on."""
    if progress.note:
        click.echo(progress.note, err=True)


@contextlib.contextmanager
def working() -> Iterator[Job]:
    """Give a job that shows progress on a terminal and that Ctrl+C cancels; twice stops at once."""
    bar = Bar() if sys.stderr.isatty() else None
    job = Job(bar or _notes_only)

    def stop(number: int, frame: FrameType | None) -> None:
        if job.is_cancelled:
            raise KeyboardInterrupt
        job.cancel()

    try:
        before = signal.signal(signal.SIGINT, stop)
    except ValueError:  # not the main thread: whoever runs us handles Ctrl+C
        before = None
    try:
        # Whatever other packages print goes to stderr: stdout is for our one answer.
        with contextlib.redirect_stdout(sys.stderr):
            yield job
    finally:
        if bar is not None:
            bar.clear()
        if before is not None:
            signal.signal(signal.SIGINT, before)


def words_of(error: BaseException) -> str:
    """Return what a person should read of a foreseen failure."""
    if isinstance(error, MaskloopError):
        return str(error)
    if isinstance(error, OSError):
        place = f" of {error.filename!r}" if error.filename else ""
        reason = error.strerror or str(error) or type(error).__name__
        return (
            f"expected the system to allow the use{place}, got {reason!r}; "
            "check the path, its permissions and the free space"
        )
    return (
        "expected enough memory for this, got none left; "
        "close other programs or use a smaller image"
    )

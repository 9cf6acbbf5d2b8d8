"""Run one slow thing beside the window: progress, Stop, and errors as words.

Not napari's ``thread_worker``: its generator form swallows every ``RuntimeError``, and torch's
out-of-memory and shape errors are such. The worker thread touches neither Qt nor layers; the
window asks it for news.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from napari.utils import cancelable_progress
from qtpy.QtCore import QObject, QTimer, Signal

from maskloop.core.errors import Cancelled, MaskloopError
from maskloop.core.job import Job, Progress

_log = logging.getLogger(__name__)

ASK_EVERY_MS = 40
# A worker deep inside one network call cannot hear Stop at once: after this it is left to finish
# alone, and its result is thrown away.
PATIENCE_S = 0.6


class Run(QObject):
    """One call in a thread of its own.

    Parameters
    ----------
    work : callable
        Takes the `Job`; its value comes with `done`.
    title : str
        Shown in the activity dock.
    parent : QObject
        Owner; when it goes, the work is stopped.
    is_quiet : bool
        Whether it is left out of the activity dock, whose every entry costs the window a tenth of
        a second: for what comes often and nobody waits for.

    Signals
    -------
    moved(Progress), said(str), done(object), failed(str), stopped(), ended()
        All in the window's thread; `ended` follows exactly one of done, failed, stopped.
    """

    moved = Signal(object)
    said = Signal(str)
    done = Signal(object)
    failed = Signal(str)
    stopped = Signal()
    ended = Signal()

    def __init__(
        self,
        work: Callable[[Job], object],
        title: str,
        parent: QObject,
        *,
        is_quiet: bool = False,
    ) -> None:
        super().__init__(parent)
        self.title = title
        self.is_quiet = is_quiet
        self.seconds = 0.0
        self._work = work
        self._latest: Progress | None = None
        self._noted: list[Progress] = []
        self._notes: list[str] = []
        self._outcome: tuple[str, Any] | None = None  # Any: whatever the work returns
        self._stop_wanted: float | None = None
        self._bar: cancelable_progress | None = None
        self._began = 0.0
        self._job = Job(self._hear)
        self._thread = threading.Thread(target=self._run, name=f"maskloop {title}", daemon=True)
        self._timer = QTimer(self)
        self._timer.setInterval(ASK_EVERY_MS)
        self._timer.timeout.connect(self._ask)
        self.destroyed.connect(self._job.cancel)

    @property
    def is_running(self) -> bool:
        """Whether `ended` is still to come."""
        return self._timer.isActive()

    def start(self) -> None:
        """Begin; returns at once."""
        if not self.is_quiet:
            self._bar = cancelable_progress(total=0, desc=self.title, cancel_callback=self.stop)
        self._began = time.monotonic()
        self._timer.start()
        self._thread.start()

    def stop(self) -> None:
        """Ask the work to stop; `stopped` comes within a second, whatever the work is doing."""
        if self._stop_wanted is None:
            self._stop_wanted = time.monotonic()
            self._job.cancel()

    # The thread's side: plain attributes, each written by this side only.

    def _hear(self, progress: Progress) -> None:
        if progress.stage and progress.note:
            self._noted.append(progress)
        elif progress.stage:
            self._latest = progress
        elif progress.note:
            self._notes.append(progress.note)

    def _run(self) -> None:
        try:
            self._outcome = ("done", self._work(self._job))
        except Cancelled:
            self._outcome = ("stopped", None)
        except MaskloopError as error:
            self._outcome = ("failed", str(error))
        except Exception as error:  # whatever torch or a file raises: shown, never a hang
            _log.exception("%s failed", self.title)
            self._outcome = ("failed", _words(error))

    # The window's side.

    def _ask(self) -> None:
        self.seconds = time.monotonic() - self._began
        if self._bar is not None and self._bar.is_canceled:
            self.stop()
        while self._notes:
            self.said.emit(self._notes.pop(0))
        for progress in self._news():
            if self._stop_wanted is None:
                self._show(progress)
                self.moved.emit(progress)
        waited = time.monotonic() - self._stop_wanted if self._stop_wanted is not None else 0.0
        if self._outcome is not None:
            self._end(*self._outcome)
        elif waited > PATIENCE_S:
            self._end("stopped", None)

    def _news(self) -> list[Progress]:
        """Return every report that carries a note (a curve misses none), and the newest other."""
        latest, self._latest = self._latest, None
        noted = [self._noted.pop(0) for _ in range(len(self._noted))]
        return noted if latest is None else [*noted, latest]

    def _show(self, progress: Progress) -> None:
        bar = self._bar
        if bar is None:
            return
        if bar.total != progress.total:
            bar.total = progress.total
            bar.n = 0
        bar.set_description(f"{self.title}: {progress.stage}")
        if progress.done > bar.n:
            bar.update(progress.done - bar.n)

    def _end(self, how: str, value: Any) -> None:  # Any: whatever the work returns
        self._timer.stop()
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if how == "done" and self._stop_wanted is None:
            self.done.emit(value)
        elif how == "failed":
            self.failed.emit(value)
        else:
            self.stopped.emit()
        self.ended.emit()


def _words(error: Exception) -> str:
    text = str(error).strip().splitlines()
    first = text[0] if text else "no message"
    return f"{type(error).__name__}: {first}; the log (napari's terminal) has the details"

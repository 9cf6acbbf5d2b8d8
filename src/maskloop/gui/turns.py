"""Actions on one case, one after another; slow ones beside the window."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QObject, Qt, Signal


@dataclass(frozen=True, slots=True)
class Slow:
    """The rest of an action: `work` in a thread, which touches no Qt, then `done` in the window."""

    work: Callable[[], Any]  # Any: what `done` takes
    done: Callable[[Any], None]


Action = Callable[[], Slow | None]


class Turns(QObject):
    """Runs actions in the order in which they were added, never two at once.

    Parameters
    ----------
    failed : callable
        Takes what an action raised; the next one then has its turn.
    """

    _ready = Signal()

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        super().__init__()
        self._failed = failed
        self._waiting: deque[Action] = deque()
        self._slow: tuple[Future[Any], Slow] | None = None
        self._is_at_it = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="maskloop editing")
        self._ready.connect(self._go_on, Qt.ConnectionType.QueuedConnection)

    @property
    def is_busy(self) -> bool:
        """Whether an action runs or waits."""
        return self._slow is not None or bool(self._waiting)

    def add(self, action: Action) -> None:
        """Run an action now, or as soon as those before it have ended."""
        self._waiting.append(action)
        self._go_on()

    def wait(self) -> None:
        """Return when nothing runs and nothing waits."""
        while self.is_busy and not self._is_at_it:
            if self._slow is not None:
                self._slow[0].exception()
            self._go_on()

    def close(self) -> None:
        """End the thread."""
        self.wait()
        self._pool.shutdown()

    def _go_on(self) -> None:
        if self._is_at_it:
            return
        self._is_at_it = True
        try:
            while self._end_slow() and self._waiting:
                self._begin(self._waiting.popleft())
        finally:
            self._is_at_it = False

    def _begin(self, action: Action) -> None:
        try:
            slow = action()
        except Exception as error:  # told by `failed`, which knows bugs from words
            self._failed(error)
            return
        if slow is not None:
            future = self._pool.submit(slow.work)
            self._slow = (future, slow)
            future.add_done_callback(lambda _: self._ready.emit())

    def _end_slow(self) -> bool:
        """End the slow action if its work is done; return whether the next one may begin."""
        if self._slow is None:
            return True
        future, slow = self._slow
        if not future.done():
            return False
        self._slow = None
        try:
            slow.done(future.result())
        except Exception as error:  # told by `failed`, which knows bugs from words
            self._failed(error)
        return True

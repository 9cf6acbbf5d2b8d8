"""Progress and cancel for one piece of slow work; a Job carries word and runs nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import TypeVar

from maskloop.core.errors import Cancelled

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """One report: `done` of `total` steps of `stage`; `total` is 0 where it is not known."""

    stage: str
    done: int
    total: int
    note: str = ""


class Job:
    """Carry progress to whoever shows it, and the wish to stop back to the work.

    Parameters
    ----------
    listener : callable, optional
        Takes each `Progress`. Called in the thread that works.

    Examples
    --------
    >>> seen = []
    >>> job = Job(seen.append)
    >>> [x for x in job.track([3, 4], "tiles")]
    [3, 4]
    >>> seen[-1]
    Progress(stage='tiles', done=2, total=2, note='')
    """

    def __init__(self, listener: Callable[[Progress], None] | None = None) -> None:
        self._listener = listener
        self._stop = threading.Event()
        self.notes: list[str] = []

    def cancel(self) -> None:
        """Ask the work to stop at its next step; safe from any thread."""
        self._stop.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody asked the work to stop."""
        return self._stop.is_set()

    def check(self) -> None:
        """Raise `Cancelled` if somebody asked the work to stop."""
        if self._stop.is_set():
            msg = "stopped as asked; nothing was written"
            raise Cancelled(msg)

    def report(self, stage: str, done: int, total: int = 0, *, note: str = "") -> None:
        """Tell the listener where the work is; raise `Cancelled` if it should stop."""
        self.check()
        if self._listener is not None:
            self._listener(Progress(stage, done, total, note))

    def say(self, note: str) -> None:
        """Keep a sentence the person should read, such as the memory rung that ran."""
        self.notes.append(note)
        if self._listener is not None:
            self._listener(Progress("", 0, 0, note))

    def track(self, items: Iterable[T], stage: str, *, total: int | None = None) -> Iterator[T]:
        """Yield each item, reporting after each one and stopping when cancelled."""
        count = total if total is not None else (len(items) if isinstance(items, Sized) else 0)
        self.report(stage, 0, count)
        for done, item in enumerate(items, start=1):
            self.check()
            yield item
            self.report(stage, done, count)

"""Job carries word; Registry imports on demand."""

from __future__ import annotations

import pytest

from maskloop.core.errors import Cancelled, MaskloopError, UnknownNameError
from maskloop.core.job import Job, Progress
from maskloop.core.registry import Registry


def test_track_reports_every_step() -> None:
    seen: list[Progress] = []
    assert list(Job(seen.append).track("ab", "letters")) == ["a", "b"]
    assert [(p.done, p.total) for p in seen] == [(0, 2), (1, 2), (2, 2)]


def test_cancel_stops_before_the_next_item() -> None:
    job, done = Job(), []

    def work() -> None:
        for item in job.track(range(10), "items"):
            done.append(item)
            if item == 3:
                job.cancel()

    with pytest.raises(Cancelled):
        work()
    assert done == [0, 1, 2, 3]


def test_notes_are_kept_for_the_report() -> None:
    job = Job()
    job.say("ran on the CPU")
    assert job.notes == ["ran on the CPU"]


def test_registry_imports_only_what_is_asked_for() -> None:
    shelf = Registry("thing", "maskloop.nothing", {"job": "maskloop.core.job:Job", "bad": "no:pe"})
    assert shelf.get("job") is Job
    assert "job" in shelf
    assert list(shelf) == ["job", "bad"]
    with pytest.raises(MaskloopError, match="importing it failed"):
        shelf.get("bad")
    with pytest.raises(UnknownNameError, match="choose one of: bad, job"):
        shelf.get("jab")

"""Slow work runs beside the window, stops when asked, and never hangs it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import torch
from qtpy.QtCore import QObject

from maskloop.core.errors import InputError
from maskloop.core.job import Job
from maskloop.gui.runner import Run


@pytest.fixture
def owner(qtbot: Any) -> QObject:
    return QObject()


def started(work: Any, owner: QObject) -> Run:
    run = Run(work, "work", owner)
    run.start()
    return run


def test_the_value_comes_back_in_the_windows_thread(qtbot: Any, owner: QObject) -> None:
    threads = []

    def work(job: Job) -> int:
        threads.append(threading.get_ident())
        return 7

    run = Run(work, "work", owner)
    run.done.connect(lambda value: threads.append((value, threading.get_ident())))
    with qtbot.waitSignal(run.ended, timeout=5000):
        run.start()
    assert threads[1] == (7, threading.get_ident())
    assert threads[0] != threading.get_ident()


def test_progress_and_notes_are_told(qtbot: Any, owner: QObject) -> None:
    def work(job: Job) -> None:
        job.say("tile 64 ran")
        for step in range(5):
            job.report("train", step, 5, note=f"loss={step}")

    run = Run(work, "work", owner)
    notes, said = [], []
    run.moved.connect(lambda progress: notes.append(progress.note))
    run.said.connect(said.append)
    with qtbot.waitSignal(run.ended, timeout=5000):
        run.start()
    assert notes == [f"loss={step}" for step in range(5)]
    assert said == ["tile 64 ran"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "CUDA out of memory"),
        (RuntimeError("shape '[3]' is invalid"), "shape"),
        (InputError("expected a volume, got a picture; choose another"), "expected a volume"),
        (KeyError("weights"), "weights"),
    ],
)
def test_every_error_is_words_not_a_hang(
    qtbot: Any, owner: QObject, error: Exception, words: str
) -> None:
    def work(job: Job) -> None:
        raise error

    run = Run(work, "work", owner)
    with qtbot.waitSignal(run.failed, timeout=5000) as caught:
        run.start()
    assert words in caught.args[0]
    assert not run.is_running


def test_stop_ends_work_that_listens(qtbot: Any, owner: QObject) -> None:
    def work(job: Job) -> None:
        for _ in job.track(range(1000), "tiles"):
            time.sleep(0.02)

    run = started(work, owner)
    qtbot.wait(100)
    before = time.monotonic()
    with qtbot.waitSignal(run.stopped, timeout=2000):
        run.stop()
    assert time.monotonic() - before < 1


def test_stop_ends_within_a_second_even_where_nobody_listens(qtbot: Any, owner: QObject) -> None:
    free = threading.Event()
    run = started(lambda job: free.wait(20), owner)
    results = []
    run.done.connect(results.append)
    qtbot.wait(50)
    before = time.monotonic()
    with qtbot.waitSignal(run.stopped, timeout=2000):
        run.stop()
    assert time.monotonic() - before < 1
    free.set()
    qtbot.wait(150)
    assert results == []


def test_the_docks_own_cancel_stops_it_too(qtbot: Any, owner: QObject) -> None:
    def work(job: Job) -> None:
        for _ in job.track(range(1000), "tiles"):
            time.sleep(0.02)

    run = started(work, owner)
    qtbot.wait(100)
    with qtbot.waitSignal(run.stopped, timeout=2000):
        run._bar.cancel()


def beside_a_window(code: str) -> subprocess.CompletedProcess[str]:
    script = f"""
import napari, numpy, torch
from qtpy.QtWidgets import QApplication
napari.Viewer().add_image(numpy.zeros((10, 10)))
QApplication.processEvents()
{code}
print("alive")
"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


@pytest.mark.parametrize(
    "code",
    [
        "from maskloop.ops.device import load_dynamo; load_dynamo(); "
        "torch.optim.AdamW([torch.nn.Parameter(torch.zeros(3))])",
        "from maskloop.models import FAMILIES, cards; card = cards.find_card('nuclei-deeplab'); "
        "FAMILIES.get('deeplab').build(card)",
    ],
    ids=["optimiser", "timm"],
)
def test_what_imports_triton_does_not_crash_a_window(code: str) -> None:
    """Mesa's LLVM and triton's in one process end in a segmentation fault."""
    found = beside_a_window(code)
    assert "alive" in found.stdout, found.stderr[-2000:]

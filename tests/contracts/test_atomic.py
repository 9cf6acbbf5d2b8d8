"""An error, a full disk or a kill inside a writer leaves the old file or the complete new one."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from maskloop import formats
from maskloop.core.errors import StorageError
from maskloop.core.geometry import Geometry
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.loop.export import export
from maskloop.loop.load import load_mask
from tests.contracts.test_formats import series_header

POINTS = 10
# Calls that change a disk, or come just before or after one that does.
TOUCHING = {"open", "write", "flush", "close", "fsync", "chmod", "link", "replace", "unlink"}
NOT_WRITTEN = {".jpg", ".jpeg", ".nhdr", ".tiff"}  # they hold no masks; .tiff is .tif
WRITERS = [
    (name, suffix)
    for name in formats.FORMATS
    if formats.get(name).write_mask is not None
    for suffix in formats.get(name).suffixes
    if suffix not in NOT_WRITTEN
]
Act = Callable[[], None]


def scene(name: str, number: int) -> Mask:
    """Return a mask whose ids, and so whose file, differ by `number`."""
    ids = np.zeros((4, 20, 30), np.uint8)
    ids[1:3, 4:9, 5:21] = number
    ids[2, 12:18, 1 : 6 + number] = 9
    table = LabelTable.classes({number: "liver", 9: "tumour"})
    if name in ("coco", "picture"):
        return Mask(ids[2].copy(), Geometry.pixels(ids.shape[1:]), table)
    mask = Mask(ids, Geometry.regular(ids.shape, (3, 0.7, 0.8), (1, 2, 3)), table)
    return replace(mask, header=series_header(len(ids))) if name == "dicomseg" else mask


@contextmanager
def at_call(number: int | None, act: Act | None = None) -> Iterator[list[str]]:
    """Count the calls that touch the disk; before number `number` of them, `act`."""
    seen: list[str] = []

    def watch(frame: FrameType, event: str, found: Any) -> None:
        if event == "c_call" and getattr(found, "__name__", "") in TOUCHING:
            seen.append(found.__name__)
            if act is not None and len(seen) - 1 == number:
                sys.setprofile(None)
                act()

    sys.setprofile(watch)
    try:
        yield seen
    finally:
        sys.setprofile(None)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Case:
    """A folder with an old export, and what the old and the new file look like when complete."""

    def __init__(self, name: str, suffix: str, folder: Path) -> None:
        self.old, self.new = scene(name, 1), scene(name, 2)
        other = folder / "complete"
        other.mkdir()
        complete = other / f"mask{suffix}"
        self.path = folder / "case" / f"mask{suffix}"
        self.path.parent.mkdir()
        export(self.old, complete)  # what is imported at first use is not part of the writing
        self.hashes = {digest(complete): self.old}
        with at_call(None) as self.calls:
            export(self.new, complete)
        self.hashes[digest(complete)] = self.new
        export(self.old, self.path)
        self.before = {p.name: p.read_bytes() for p in self.path.parent.iterdir()}

    def points(self, calls: set[str] = TOUCHING, *, until_replaced: bool = False) -> list[int]:
        """Return ten or more of these calls, spread over the writing; each move is among them."""
        moves = [n for n, call in enumerate(self.calls) if call == "replace"]
        last = moves[-1] if until_replaced else len(self.calls) - 1
        fitting = [n for n, call in enumerate(self.calls[: last + 1]) if call in calls]
        spread = np.linspace(0, len(fitting) - 1, POINTS).astype(int)
        return sorted({*(fitting[n] for n in spread), *moves})

    def restore(self) -> None:
        for left in self.path.parent.iterdir():
            left.unlink()
        for name, content in self.before.items():
            (self.path.parent / name).write_bytes(content)

    def check_file(self) -> Mask:
        """Assert that the file is the old one or the new one and reads as such."""
        found = digest(self.path)
        if self.path.suffix != ".mhd":  # the names of the data files take turns
            assert found in self.hashes
        read = load_mask(self.path)
        whole = [m for m in (self.old, self.new) if np.array_equal(m.data, read.data)]
        assert len(whole) == 1
        if self.path.suffix != ".mhd":
            assert self.hashes[found] is whole[0]
        return whole[0]

    def left_over(self) -> list[str]:
        return [p.name for p in self.path.parent.iterdir() if p.name.startswith(".")]


@pytest.fixture(params=WRITERS, ids=lambda w: f"{w[0]}{w[1]}")
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return Case(*request.param, tmp_path)


def failing(error: BaseException) -> Act:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize("kind", ["exception", "full disk"])
def test_an_error_at_any_of_ten_points_leaves_the_old_file_and_nothing_else(case, kind):
    # A disk without room refuses no link and no removal; a failed close leaks what it closes.
    calls = TOUCHING - ({"close"} if kind == "exception" else {"close", "link", "unlink", "chmod"})
    points = case.points(calls, until_replaced=True)
    assert len(points) >= POINTS
    raised = 0
    for point in points:
        error = (
            RuntimeError("injected")
            if kind == "exception"
            else OSError(errno.ENOSPC, "No space left on device")
        )
        expected = RuntimeError if kind == "exception" else StorageError
        try:
            with at_call(point, failing(error)) as seen:
                export(case.new, case.path)
        except expected:
            raised += 1
            # Garbage collected meanwhile shifts the count; after the last move it is too late.
            is_moved = seen[:-1].count("replace") == case.calls.count("replace")
            wanted = case.new if is_moved else case.old
            assert case.check_file() is wanted, f"call {point}: {seen[-1]}"
            if is_moved:
                case.restore()
        else:  # tifffile passes over an error where another way serves
            assert case.check_file() is case.new, f"call {point}: {case.calls[point]}"
            case.restore()
        assert sorted(p.name for p in case.path.parent.iterdir()) == sorted(case.before)
    assert raised >= POINTS - 1


def test_a_limit_on_file_sizes_leaves_the_old_file(case):
    before = {p.name: digest(p) for p in case.path.parent.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, limits[1]))
    try:
        with pytest.raises(StorageError, match="free some space or write elsewhere"):
            export(case.new, case.path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {p.name: digest(p) for p in case.path.parent.iterdir()} == before


def killed_at(case: Case, point: int) -> bool:
    """Export in a process of its own that is killed at `point`; return whether it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a child of a process with threads
        child = os.fork()
    if child == 0:
        try:
            with at_call(point, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                export(case.new, case.path)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked to be killed")
def test_a_kill_at_any_of_ten_points_leaves_the_old_or_the_new_file(case):
    seen = set()
    for point in case.points():
        case.restore()
        assert killed_at(case, point)
        seen.add(case.check_file() is case.new)
        assert all(name.startswith(".maskloop-") for name in case.left_over())
    assert seen == {False, True}
    export(case.new, case.path)  # what is left over is in nobody's way
    assert case.check_file() is case.new


def test_what_a_killed_export_left_is_removed_after_a_day(tmp_path, monkeypatch):
    left = tmp_path / ".maskloop-abc.nii.gz"
    left.write_bytes(b"half a file")
    export(scene("nifti", 1), tmp_path / "a.nii.gz")
    assert left.exists()  # another process may be writing it
    now = time.time()
    monkeypatch.setattr("maskloop.formats.swap.time.time", lambda: now + 25 * 3600)
    export(scene("nifti", 1), tmp_path / "b.nii.gz")
    assert not left.exists()


def test_an_old_mhd_never_names_new_data(tmp_path):
    path = tmp_path / "mask.mhd"
    named = set()
    for number in (1, 2, 1):
        before = path.read_bytes() if path.exists() else b""
        export(scene("metaimage", number), path)
        data = path.read_bytes().rpartition(b"=")[2].strip().decode()
        assert f"= {data}\n".encode() not in before
        assert [p.name for p in tmp_path.glob("*.zraw")] == [data]
        named.add(data)
    assert named == {"mask.zraw", "mask.b.zraw"}

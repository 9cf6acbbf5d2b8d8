from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maskloop.core import lock
from maskloop.core.case import Case
from maskloop.core.edits import Edit
from maskloop.core.errors import (
    FormatError,
    InputError,
    MissingFileError,
    ReadOnlyError,
    StorageError,
)
from maskloop.core.geometry import Geometry
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask


def start() -> Mask:
    ids = np.zeros((4, 6, 5), np.uint8)
    ids[1:3, 2:4, 1:4] = 1
    labels = LabelTable([Label(1, "liver", colour="#aa0000")])
    source = Path("/clinic/DOE^JANE/scan.nii.gz")
    return Mask(ids, Geometry.regular((4, 6, 5), (3, 1, 1)), labels, source)


def painted(mask: Mask, number: int) -> Edit:
    after = mask.data.astype(np.uint16)
    after.flat[number * 7 % after.size] = 2 + number * 40
    labels = mask.labels.with_rows([Label(2 + number * 40, f"object {number}")])
    return Edit.between(mask.data, after, labels=(mask.labels, labels), words=f"paint {number}")


def test_a_case_reopens_bit_for_bit_with_its_history(tmp_path):
    with Case.create(tmp_path / "a.maskloop", start()) as case:
        for number in range(9):
            case.apply(painted(case.mask, number))
        case.undo()
        case.undo()
        case.redo()
        expected, labels = case.mask.data.copy(), dict(case.mask.labels)
        position = case.history.position
    with Case.open(tmp_path / "a.maskloop") as again:
        assert np.array_equal(again.mask.data, expected)
        assert dict(again.mask.labels) == labels
        assert again.mask.geometry.matches(start().geometry)
        assert again.history.position == position == 8
        assert again.history.steps == [f"paint {n}" for n in range(9)]
        assert again.dropped == ""
        while again.undo():
            pass
        assert np.array_equal(again.mask.data, start().data)
        assert dict(again.mask.labels) == dict(start().labels)
        assert again.undo() is None


def test_the_start_is_not_changed_by_strokes(tmp_path):
    mask = start()
    before = mask.data.copy()
    with Case.create(tmp_path / "a.maskloop", mask) as case:
        case.apply(painted(case.mask, 1))
    assert np.array_equal(mask.data, before)


def test_the_folder_is_private_and_names_no_patient(tmp_path):
    folder = tmp_path / "a.maskloop"
    with Case.create(folder, start(), provenance={"image_sha256": "ab"}) as case:
        case.apply(painted(case.mask, 1))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {p.name for p in folder.iterdir()} == {"case.json", "journal", "lock", "start-0.npz"}
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in folder.iterdir())
    assert not any(b"DOE" in p.read_bytes() for p in folder.iterdir())
    about = json.loads((folder / "case.json").read_text())
    assert about["provenance"]["image_sha256"] == "ab"
    assert set(about["provenance"]["versions"]) == {"maskloop", "python", "numpy"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.maskloop"]


def test_a_second_case_of_one_name_is_refused(tmp_path):
    Case.create(tmp_path / "a.maskloop", start()).close()
    with pytest.raises(StorageError, match="File exists; open the case"):
        Case.create(tmp_path / "a.maskloop", start())
    assert [p.name for p in tmp_path.iterdir()] == ["a.maskloop"]


def test_a_folder_that_is_no_case_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match=r"expected a case folder with case\.json"):
        Case.open(tmp_path)
    Case.create(tmp_path / "a.maskloop", start()).close()
    (tmp_path / "a.maskloop" / "case.json").write_text("{")
    with pytest.raises(FormatError, match="restore them from a backup"):
        Case.open(tmp_path / "a.maskloop")


def test_a_torn_step_is_dropped_and_said(tmp_path):
    with Case.create(tmp_path / "a.maskloop", start()) as case:
        case.apply(painted(case.mask, 1))
        expected = case.mask.data.copy()
        case.apply(painted(case.mask, 2))
    journal = tmp_path / "a.maskloop" / "journal"
    journal.write_bytes(journal.read_bytes()[:-3])
    with Case.open(tmp_path / "a.maskloop") as again:
        assert np.array_equal(again.mask.data, expected)
        assert "not finished" in again.dropped


def test_a_step_that_cannot_be_kept_is_not_made(tmp_path, monkeypatch):
    with Case.create(tmp_path / "a.maskloop", start()) as case:

        def full(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("maskloop.core.journal.os.fsync", full)
        with pytest.raises(StorageError):
            case.apply(painted(case.mask, 1))
        assert np.array_equal(case.mask.data, start().data)
        assert len(case.history) == 0


def test_a_step_of_another_mask_is_refused_and_not_journalled(tmp_path):
    with Case.create(tmp_path / "a.maskloop", start()) as case:
        foreign = Edit.between(np.full((4, 6, 5), 9, np.uint8), np.zeros((4, 6, 5), np.uint8))
        with pytest.raises(InputError, match="in their order"):
            case.apply(foreign)
    with Case.open(tmp_path / "a.maskloop") as again:
        assert len(again.history) == 0


def ball_of(shape, spacing, index, radius):
    grid = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    squares = [((g - i) * s) ** 2 for g, i, s in zip(grid, index, spacing, strict=True)]
    return sum(squares) <= radius**2


def test_a_painted_ball_is_round_in_millimetres():
    shape, spacing = (20, 40, 40), (3.0, 0.7, 0.9)
    mask = Mask(np.zeros(shape, np.uint8), Geometry.regular(shape, spacing), LabelTable())
    case = Case.in_memory(mask)
    case.paint((9, 20, 17), radius_mm=6.5, label="lesion")
    assert np.array_equal(case.mask.data > 0, ball_of(shape, spacing, (9, 20, 17), 6.5))
    assert case.mask.labels[1].name == "lesion"
    case.paint((19, 0, 39), radius_mm=2, label=1)  # cut by the edge
    case.paint((3, 3, 3), radius_mm=0, label=300)  # one voxel, in a wider type
    assert case.mask.data.dtype == np.uint16
    assert case.mask.data[3, 3, 3] == 300
    assert np.count_nonzero(case.mask.data == 300) == 1
    assert case.mask.labels[300].name == "label 300"


def test_a_disc_is_painted_on_a_picture_and_one_frame_of_a_series():
    flat = Mask(np.zeros((30, 40), np.uint8), Geometry.pixels((30, 40)), LabelTable())
    case = Case.in_memory(flat)
    case.paint((10, 12), radius_mm=5, label=2)
    assert np.array_equal(case.mask.data == 2, ball_of((30, 40), (1, 1), (10, 12), 5))
    moving = Mask(
        np.zeros((3, 4, 9, 9), np.uint8), Geometry.regular((4, 9, 9), (2, 1, 1)), LabelTable()
    )
    case = Case.in_memory(moving)
    case.paint((1, 2, 4, 4), radius_mm=2, label=1)
    assert np.array_equal(case.mask.data[1] == 1, ball_of((4, 9, 9), (2, 1, 1), (2, 4, 4), 2))
    assert not case.mask.data[[0, 2]].any()


@pytest.mark.parametrize(
    ("index", "radius", "label", "words"),
    [
        ((4, 0, 0), 1, 1, "expected an index within the shape"),
        ((0, 0), 1, 1, "expected an index within the shape"),
        ((0, float("nan"), 0), 1, 1, "expected an index within the shape"),
        ((0, 0, 0), -1, 1, "expected a radius of at least 0"),
        ((0, 0, 0), float("inf"), 1, "expected a radius of at least 0"),
        ((0, 0, 0), 1, -1, "expected a label.s name or its id"),
        ((0, "a", 0), 1, 1, "expected an index and a radius in numbers"),
        (None, 1, 1, "expected an index and a radius in numbers"),
        ((0, 0, 0), None, 1, "expected an index and a radius in numbers"),
    ],
)
def test_what_cannot_be_painted_is_refused_in_words(index, radius, label, words):
    case = Case.in_memory(start())
    with pytest.raises(InputError, match=words):
        case.paint(index, radius_mm=radius, label=label)
    assert len(case.history) == 0


@pytest.mark.parametrize("label", ["", "  ", None, 1.5, -1, 2**70])
def test_a_label_that_is_neither_a_name_nor_an_id_is_refused(label):
    case = Case.in_memory(start())
    with pytest.raises(InputError, match="expected a label's name or its id"):
        case.paint((1, 1, 1), radius_mm=1, label=label)
    assert len(case.history) == 0


def test_a_ball_is_round_on_a_sheared_grid_and_one_of_rounded_spacing():
    sheared = np.array([[0, 0, 1, 0], [0.7, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1.0]])
    rounded = Geometry.regular((9, 21, 21), [float(np.float32(n)) for n in (2.5, 0.8, 0.8)])
    for grid, radius in ((Geometry((9, 21, 21), sheared), 5.3), (rounded, 4.0)):
        case = Case.in_memory(Mask(np.zeros(grid.shape, np.uint8), grid, LabelTable()))
        case.paint((4, 10, 10), radius_mm=radius, label="ball")
        steps = np.moveaxis(np.indices(grid.shape), 0, -1) - (4, 10, 10)
        away = np.linalg.norm(steps @ grid.affine[:-1, :-1].T, axis=-1)
        assert np.array_equal(case.mask.data == 1, away <= radius + 1e-5)


def test_a_closed_case_is_not_changed(tmp_path):
    with Case.create(tmp_path / "a.maskloop", start()) as case:
        case.paint((1, 1, 1), radius_mm=1, label=1)
    expected, journal = case.mask.data.copy(), (case.folder / "journal").read_bytes()
    changes = (
        lambda: case.paint((2, 2, 2), radius_mm=2, label=2),
        lambda: case.set_labels(LabelTable()),
        case.undo,
        case.compact,
        lambda: case.go_to(0),
    )
    for change in changes:
        with pytest.raises(InputError, match="expected an open case"):
            change()
    assert np.array_equal(case.mask.data, expected)
    assert (case.folder / "journal").read_bytes() == journal


def test_no_tool_or_model_changes_what_a_person_painted(tmp_path):
    with Case.create(tmp_path / "a.maskloop", start(), author="anna") as case:
        case.paint((1, 2, 1), radius_mm=1, label=2)  # over liver and background
        case.paint((2, 2, 2), radius_mm=0, label=0)  # erased by hand: stays erased
        painted_now = case.mask.data.copy()
        by_hand = case.hand()
        assert np.count_nonzero(by_hand) == 6
        found = case.change(np.full((4, 6, 5), 1, np.uint8), tool="phantom", kind="model")
        assert np.array_equal(case.mask.data[by_hand], painted_now[by_hand])
        assert (case.mask.data[~by_hand] == 1).all()
        assert found.refused is not None
        assert found.refused.by_hand == found.refused.count == 6
        assert found.refused.words == "6 voxels painted by hand stayed as they were"
        ghost = np.zeros((4, 6, 5), bool)
        ghost[found.refused.box] = found.refused.region
        assert np.array_equal(ghost, by_hand)
        forced = case.change(np.full((4, 6, 5), 1, np.uint8), tool="x", over_hand=True)
        assert forced.refused is None
        assert (case.mask.data == 1).all()
        case.undo()
        assert np.array_equal(case.hand(), by_hand)
    with Case.open(tmp_path / "a.maskloop") as again:
        assert np.array_equal(again.hand(), by_hand)
        assert again.authors[1].name == "anna"


def test_a_stroke_over_the_same_label_makes_the_voxel_the_persons():
    case = Case.in_memory(start())
    case.paint((1, 2, 2), radius_mm=0, label=1)
    assert case.mask.data[1, 2, 2] == 1
    case.change(np.zeros((4, 6, 5), np.uint8), tool="model", kind="model")
    assert np.flatnonzero(case.mask.data).tolist() == [np.ravel_multi_index((1, 2, 2), (4, 6, 5))]
    case.undo()
    case.undo()
    assert not case.hand().any()


def test_a_locked_label_neither_loses_nor_gains_a_voxel():
    case = Case.in_memory(start())
    case.set_labels(LabelTable([Label(1, "liver", locked=True), Label(2, "tumour")]), "lock liver")
    before = case.mask.data.copy()
    edit = case.paint((1, 1, 1), radius_mm=2, label=2)
    assert (case.mask.data[before == 1] == 1).all()
    assert (case.mask.data == 2).any()
    assert edit.voxels == np.count_nonzero(case.mask.data == 2)
    with pytest.raises(InputError, match="expected an unlocked label, got 'liver'"):
        case.paint((0, 0, 0), radius_mm=1, label=1)
    found = case.change(np.full((4, 6, 5), 1, np.uint8), kind="person", tool="fill")
    assert found.edit.is_empty
    assert found.refused is not None
    assert found.refused.locked == np.count_nonzero(before == 0)
    case.undo()
    case.undo()
    assert not case.mask.labels[1].locked


def test_what_changed_meanwhile_stays():
    case = Case.in_memory(start())
    since = case.mask.data.copy()
    case.change(np.where(since == 0, 3, since).astype(np.uint8), tool="grow")
    found = case.change(np.zeros_like(since), since=since, tool="late")
    assert found.refused is not None
    assert found.refused.changed_since == np.count_nonzero(since == 0)
    assert np.array_equal(case.mask.data == 3, since == 0)


def random_walk(case, rng, count):
    shape = case.mask.data.shape
    for _ in range(count):
        kind = rng.integers(7)
        at = [int(rng.integers(n)) for n in shape]
        if kind == 0:
            label = int(rng.choice([0, 1, 2, 3, 300]))
            if label == 0 or label not in case.mask.labels or not case.mask.labels[label].locked:
                case.paint(at, radius_mm=float(rng.uniform(0, 4)), label=label)
        elif kind == 1:
            wanted = case.mask.data.copy()
            wanted[: at[0] + 1] = 1
            case.change(wanted, tool="model", kind="model", author="net", words="model run")
        elif kind == 2:
            wanted = np.roll(case.mask.data, 1, axis=1)
            case.change(wanted, tool="smooth", over_hand=bool(rng.integers(2)))
        elif kind == 3 and (labels := case.mask.labels):  # once: another thread may change it
            number = int(rng.choice(list(labels)))
            row = labels[number]
            changes = [
                {"name": f"n{rng.integers(99)}"},
                {"colour": "#123456"},
                {"locked": not row.locked},
                {"status": "accepted"},
            ]
            case.set_labels(case.mask.labels.with_rows([replace(row, **changes[rng.integers(4)])]))
        elif kind == 4:
            wanted = case.mask.data.copy()
            wanted[wanted == 2] = 0
            case.change(wanted, kind="person", tool="delete", words="delete 2")
        elif kind == 5 and "other" in case.masks:
            case.paint(at, radius_mm=2, label="cyst", mask="other")
        elif kind == 6:
            case.undo()
            case.undo()
            case.redo()


def test_300_random_steps_undone_give_the_first_bytes_back_and_redone_the_last(tmp_path):
    rng = np.random.default_rng(4)
    with Case.create(tmp_path / "a.maskloop", start(), author="anna") as case:
        case.add_mask("other", replace(start(), data=np.zeros((4, 6, 5), np.uint8)))
        first = {n: (m.data.tolist(), dict(m.labels)) for n, m in case.masks.items()}
        while len(case.history) < 300:
            random_walk(case, rng, 50)
        case.redo()
        last = {n: (m.data.tolist(), dict(m.labels)) for n, m in case.masks.items()}
        by = {n: case.author_of(mask=n).tolist() for n in case.masks}
    with Case.open(tmp_path / "a.maskloop") as again:
        steps = again.history.position
        assert {n: (m.data.tolist(), dict(m.labels)) for n, m in again.masks.items()} == last
        assert {n: again.author_of(mask=n).tolist() for n in again.masks} == by
        again.go_to(0)
        assert {n: (m.data.tolist(), dict(m.labels)) for n, m in again.masks.items()} == first
        assert not any(again.author_of(mask=n).any() for n in again.masks)
        again.compact()
    with Case.open(tmp_path / "a.maskloop") as third:
        assert third.history.position == 0
        third.go_to(steps)
        assert {n: (m.data.tolist(), dict(m.labels)) for n, m in third.masks.items()} == last
        assert {n: third.author_of(mask=n).tolist() for n in third.masks} == by


def test_a_second_window_reads_and_a_dead_one_locks_nothing(tmp_path):
    folder = tmp_path / "a.maskloop"
    with Case.create(folder, start()) as case:
        case.paint((0, 0, 0), radius_mm=0, label=1)
        second = Case.open(folder)
        assert second.is_read_only
        assert "open in another window (process" in second.notices[0]
        assert np.array_equal(second.mask.data, case.mask.data)
        with pytest.raises(ReadOnlyError, match="for reading only"):
            second.paint((0, 0, 1), radius_mm=0, label=1)
        with pytest.raises(ReadOnlyError):
            second.undo()
        size = (folder / "journal").stat().st_size
        second.close()
        case.paint((0, 0, 1), radius_mm=0, label=1)
        assert (folder / "journal").stat().st_size > size
    script = f"""
import os
from pathlib import Path
from maskloop.core import lock
from maskloop.core.case import Case
case = Case.open(Path({str(folder)!r}))
case.paint((0, 0, 2), radius_mm=0, label=1)
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert lock.state(folder / "lock") == ("", True)
    with Case.open(folder) as again:
        assert not again.is_read_only
        assert again.mask.data[0, 0, :3].tolist() == [1, 1, 1]
    assert lock.state(folder / "lock") == ("", False)


def test_a_folder_that_cannot_be_written_is_opened_for_reading(tmp_path, monkeypatch):
    folder = tmp_path / "a.maskloop"
    Case.create(folder, start()).close()
    monkeypatch.setattr("maskloop.core.case.os.access", lambda path, mode: False)
    with Case.open(folder) as case:
        assert case.is_read_only
        assert case.notices == ("a.maskloop cannot be written: it is open for reading only",)


def test_case_json_tells_the_steps_in_words(tmp_path):
    folder = tmp_path / "a.maskloop"
    with Case.create(folder, start(), author="anna") as case:
        wanted = np.full((4, 6, 5), 2, np.uint8)
        case.change(wanted, tool="net", kind="model", author="net", about={"sha256": "ab"})
        case.paint((0, 0, 0), radius_mm=0, label=1)
        case.paint((0, 0, 1), radius_mm=0, label=1)
        case.undo()
    about = json.loads((folder / "case.json").read_text())
    assert [(s["author"], s["kind"], s["words"]) for s in about["steps"]] == [
        ("net", "model", "net"),
        ("anna", "person", "brush: liver"),
    ]
    assert about["models"] == [{"sha256": "ab"}]
    assert about["steps"][0]["voxels"] == 120
    assert about["steps"][0]["time"].startswith("20")


def test_listeners_hear_of_steps_and_of_steps_taken_back():
    case = Case.in_memory(start())
    heard = []
    end = case.subscribe(lambda step: heard.append((step.edit.words, step.box, step.is_undo)))
    case.paint((0, 0, 0), radius_mm=0, label=1)
    box = (slice(0, 1), slice(0, 1), slice(0, 1))
    case.undo()
    case.go_to(1)
    end()
    case.undo()
    words = "brush: liver"
    assert heard == [(words, box, False), (words, box, True), (words, box, False)]


def test_extents_hold_their_labels_through_all_steps():
    rng = np.random.default_rng(1)
    case = Case.in_memory(start())
    for number in (1, 2, 3, 300):
        case.extent(number)
    for _ in range(60):
        random_walk(case, rng, 1)
        for number in (1, 2, 3, 300):
            box = case.extent(number)
            held = case.mask.data == number
            assert held.any() <= (box is not None)
            if box is not None:
                held[box] = False
                assert not held.any()


def test_steps_written_in_the_background_are_on_disk_soon(tmp_path):
    folder = tmp_path / "a.maskloop"
    with Case.create(folder, start(), in_background=True) as case:
        for number in range(40):
            case.paint((0, 0, number % 5), radius_mm=0, label=1 + number)
        case.flush()
        assert 0 < case.lag_s < 1
        copied = (folder / "journal").read_bytes()
        expected = case.mask.data.copy()
    other = tmp_path / "b.maskloop"
    shutil.copytree(folder, other)
    (other / "journal").write_bytes(copied)
    with Case.open(other) as again:
        assert np.array_equal(again.mask.data, expected)


def test_a_full_disk_in_the_background_is_told_and_tried_again(tmp_path, monkeypatch):
    told = []
    with Case.create(tmp_path / "a.maskloop", start(), in_background=True) as case:
        case.on_trouble = told.append
        real = os.fsync
        is_full = [True]

        def sync(descriptor):
            if is_full[0]:
                raise OSError(28, "No space left on device")
            real(descriptor)

        monkeypatch.setattr("maskloop.core.journal.os.fsync", sync)
        case.paint((0, 0, 0), radius_mm=0, label=1)
        deadline = time.monotonic() + 5
        while not told and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "No space left on device" in told[0]
        is_full[0] = False
        case.flush()
        assert told[1:] == ["The disk works again: every step is written."]
        expected = case.mask.data.copy()
    with Case.open(tmp_path / "a.maskloop") as again:
        assert np.array_equal(again.mask.data, expected)


def test_a_disk_that_stays_full_does_not_keep_a_case_from_closing(tmp_path, monkeypatch):
    def sync(descriptor):
        raise OSError(28, "No space left on device")

    case = Case.create(tmp_path / "a.maskloop", start(), in_background=True)
    case.on_trouble = lambda words: None
    monkeypatch.setattr("maskloop.core.journal.os.fsync", sync)
    case.paint((0, 0, 0), radius_mm=0, label=1)
    ended = []

    def close():
        with pytest.raises(StorageError, match="expected to write the last 1 steps"):
            case.close()
        ended.append(True)

    closing = threading.Thread(target=close, daemon=True)
    closing.start()
    closing.join(10)
    assert ended
    monkeypatch.undo()
    with Case.open(tmp_path / "a.maskloop") as again:
        assert not again.is_read_only
        assert len(again.history) == 0


@pytest.mark.parametrize("content", [None, b""])
def test_a_journal_that_is_gone_is_told(tmp_path, content):
    folder = tmp_path / "a.maskloop"
    with Case.create(folder, start()) as case:
        case.paint((0, 0, 0), radius_mm=0, label=1)
    (folder / "journal").unlink()
    if content is not None:
        (folder / "journal").write_bytes(content)
    with pytest.raises(FormatError, match="expected the journal of a"):
        Case.open(folder, read_only=True)
    with Case.open(folder) as again:
        assert again.dropped == "its journal is gone, and the 1 steps in it are lost"
        assert again.notices == (f"a.maskloop: {again.dropped}",)


def test_a_case_that_was_never_opened_can_be_read(tmp_path):
    Case.create(tmp_path / "a.maskloop", start()).close()
    (tmp_path / "a.maskloop" / "journal").unlink()
    with Case.open(tmp_path / "a.maskloop", read_only=True) as case:
        assert np.array_equal(case.mask.data, start().data)


def test_compaction_forgets_only_what_nobody_can_reach(tmp_path):
    folder = tmp_path / "a.maskloop"
    with Case.create(folder, start()) as case:
        for number in range(300):
            case.paint((0, 0, number % 5), radius_mm=0, label=2 + number % 7)
            if number % 3:
                case.undo()
        case.undo()
        size = (folder / "journal").stat().st_size
        expected, done = case.mask.data.copy(), case.history.position
        steps = case.history.steps[:done]
        case.compact()
        assert (folder / "journal").stat().st_size < size / 3
        case.paint((3, 5, 4), radius_mm=0, label=9)  # the journal goes on
        case.undo()
    with Case.open(folder) as again:
        assert np.array_equal(again.mask.data, expected)
        assert again.history.steps == [*steps, "brush: label 9"]
        again.go_to(0)
        assert np.array_equal(again.mask.data, start().data)


def test_steps_of_several_threads_come_one_after_the_other(tmp_path):
    with Case.create(tmp_path / "a.maskloop", start(), in_background=True) as case:
        seeds = range(6)

        def work(seed):
            rng = np.random.default_rng(seed)
            for _ in range(40):
                with contextlib.suppress(InputError):  # another thread locked the label meanwhile
                    random_walk(case, rng, 1)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in seeds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected, by = case.mask.data.copy(), case.author_of().copy()
    with Case.open(tmp_path / "a.maskloop") as again:
        assert np.array_equal(again.mask.data, expected)
        assert np.array_equal(again.author_of(), by)
        again.go_to(0)
        assert np.array_equal(again.mask.data, start().data)


def test_damaged_files_are_refused_or_recovered_in_words(tmp_path):
    folder = tmp_path / "a.maskloop"
    with Case.create(folder, start()) as case:
        for number in range(20):
            case.paint((number % 4, number % 6, 2), radius_mm=3, label=1 + number % 3)
        case.undo()
        case.compact()
        case.paint((0, 0, 0), radius_mm=1, label=5)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    rng = np.random.default_rng(5)
    outcomes = set()
    for number in range(80):
        damaged = tmp_path / f"{number}.maskloop"
        damaged.mkdir()
        name = ("case.json", "journal", "start-0.npz", "lock")[number % 4]
        content = bytearray(whole[name])
        if content and number % 3:
            content[int(rng.integers(len(content)))] ^= int(rng.integers(1, 256))
        else:
            content = content[: int(rng.integers(len(content) + 1))]
        for other, kept in {**whole, name: bytes(content)}.items():
            (damaged / other).write_bytes(kept)
        try:
            with Case.open(damaged) as case:
                case.undo()
                case.paint((0, 0, 1), radius_mm=0, label=1)
            outcomes.add("recovered")
        except FormatError:
            outcomes.add("refused")
    assert outcomes == {"recovered", "refused"}

"""Review: candidates decided, slices seen, drafts shown; kept in the case folder."""

from __future__ import annotations

import itertools
import json
import os
import stat
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskloop.core.candidate import Candidate
from maskloop.core.case import Case
from maskloop.core.errors import InputError, StorageError, UnknownNameError
from maskloop.core.geometry import Geometry
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.core.report import as_ranges, ranges_in_words
from maskloop.core.review import (
    FILE,
    SEEN_AFTER_S,
    Review,
    accepted,
    edited,
    rejected,
    with_status,
)


def candidate(
    start: tuple[int, ...] = (2, 3, 4), *, peak: float = 0.3, label: int = 2, size: int = 3
) -> Candidate:
    return Candidate.of(
        np.ones((size,) * len(start), bool),
        number=1,
        label=label,
        name="tumour",
        start=start,
        peak=peak,
        mean=peak / 2,
        voxel_mm3=2.0,
    )


# Candidates


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=3, max_side=6)).filter(np.any))
def test_a_candidate_keeps_its_region_and_survives_json(region: np.ndarray) -> None:
    start = tuple(range(5, 5 + region.ndim))
    one = Candidate.of(
        region, number=3, label=7, name="cyst", start=start, peak=0.25, mean=0.125, voxel_mm3=None
    )
    np.testing.assert_array_equal(one.region, region)
    assert one.region.dtype == bool
    assert one.voxels == region.sum()
    assert one.volume_mm3 is None
    inside = tuple(c - s for c, s in zip(one.centre, start, strict=True))
    assert region[inside]
    assert Candidate.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_the_centre_is_a_voxel_of_the_piece_even_in_a_ring() -> None:
    ring = np.ones((5, 5), bool)
    ring[1:4, 1:4] = False
    one = Candidate.of(
        ring, number=1, label=1, name="a", start=(10, 20), peak=0.2, mean=0.2, voxel_mm3=None
    )
    assert ring[one.centre[0] - 10, one.centre[1] - 20]


def test_accepting_draws_the_region_and_nothing_else() -> None:
    before = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    region = np.zeros((3, 3, 3), bool)
    region[0] = True
    one = Candidate.of(
        region, number=1, label=300, name="t", start=(0, 0, 0), peak=0.2, mean=0.2, voxel_mm3=1.0
    )
    wanted = one.wanted(before)
    assert (wanted[0] == 300).all()
    np.testing.assert_array_equal(wanted[1:], before[1:])
    np.testing.assert_array_equal(before.ravel(), np.arange(27))


def test_the_worklist_is_ordered_and_each_is_decided_once() -> None:
    review = Review()
    review.propose([candidate((i * 5, 0, 0), peak=p) for i, p in enumerate((0.2, 0.4, 0.3))])
    assert [c.peak for c in review.open_candidates] == [0.4, 0.3, 0.2]
    first, second, third = (c.number for c in review.open_candidates)
    done = review.accept(first, "Ada")
    assert (done.status, done.who) == ("accepted", "Ada")
    assert abs(done.time - time.time()) < 60
    review.dismiss(second, "Ada")
    assert [c.number for c in review.open_candidates] == [third]
    assert [c.status for c in review.candidates] == ["open", "accepted", "dismissed"]
    again = review.reopen(first)
    assert (again.status, again.who, again.time) == ("open", "", 0.0)
    assert [c.number for c in review.open_candidates] == [first, third]
    with pytest.raises(UnknownNameError, match="candidate"):
        review.accept(99)


def test_a_second_run_asks_nothing_twice() -> None:
    review = Review()
    review.propose([candidate((0, 0, 0)), candidate((10, 0, 0)), candidate((20, 0, 0))])
    review.dismiss(1, "Ada")
    review.accept(2, "Ada")
    moved = candidate((0, 0, 1))
    other_class = candidate((0, 0, 0), label=3)
    apart = candidate((2, 2, 2))
    fresh = review.propose([moved, other_class, apart, candidate((10, 1, 0))])
    assert [(c.label, c.box[0].start) for c in fresh] == [(3, 0), (2, 2)]
    assert [c.number for c in review.candidates] == [1, 2, 4, 5]
    assert [c.status for c in review.candidates] == ["dismissed", "accepted", "open", "open"]


# Coverage


def test_a_slice_is_seen_after_its_visits_add_up() -> None:
    review = Review(shape=(6, 4, 5))
    for index in (2, 3):
        review.see(0, index, SEEN_AFTER_S / 2, "liver")
    assert not review.seen(0).any()
    review.see(0, 2, SEEN_AFTER_S / 2, "lung")
    assert review.seen(0).tolist() == [False, False, True, False, False, False]
    assert review.unseen(0) == (0, 1, 3, 4, 5)
    assert review.unseen(0, range(2, 4)) == (3,)
    assert review.unseen(1) == (0, 1, 2, 3)
    review.see(0, 3, -1.0)
    review.see(0, 99, 5.0)
    assert review.unseen(0, range(2, 4)) == (3,)


def test_seconds_are_told_by_window_and_the_longest_axis_leads() -> None:
    review = Review(shape=(3, 4, 5))
    assert review.main_axis == 0
    review.see(0, 1, 1.0, "liver")
    review.see(2, 4, 2.0, "liver")
    review.see(2, 4, 3.0, "bone")
    assert review.main_axis == 2
    assert review.windows(2) == ("bone", "liver")
    assert review.seconds(2).tolist() == [0, 0, 0, 0, 5.0]
    assert review.seconds(2, "liver").tolist() == [0, 0, 0, 0, 2.0]
    assert review.windows(1) == ()


def test_without_a_shape_a_range_is_needed() -> None:
    review = Review()
    review.see(0, 4, 1.0)
    assert review.unseen(0, range(3, 6)) == (3, 5)
    with pytest.raises(InputError, match="shape"):
        review.unseen(0)


@given(st.sets(st.integers(0, 60)))
def test_ranges_hold_each_index_once(indices: set[int]) -> None:
    rows = as_ranges(sorted(indices))
    held = [i for first, last in rows for i in range(first, last + 1)]
    assert held == sorted(indices)
    assert all(b[0] > a[1] + 1 for a, b in itertools.pairwise(rows))


def test_many_ranges_are_counted_not_listed() -> None:
    assert ranges_in_words([3, 4, 5, 9]) == "3 to 5, 9"
    assert ranges_in_words(range(0, 40, 2), most=2) == "0, 2, and 18 more"


# Search first


def test_the_draft_is_hidden_until_it_is_shown_and_that_is_kept() -> None:
    review = Review(shape=(3, 4, 5))
    assert not review.is_searching
    review.begin_search()
    assert review.is_searching
    shown = review.show_draft("Ada", unseen=2)
    assert (shown.who, shown.anyway, shown.unseen) == ("Ada", True, 2)
    assert not review.is_searching
    review.begin_search()
    review.show_draft("Ada")
    assert [one.anyway for one in review.showings] == [True, False]


# On disk


def filled(folder: Path | None = None) -> Review:
    review = Review(folder, shape=(6, 4, 5))
    review.propose([candidate((0, 0, 0), peak=0.2), candidate((1, 9, 9), peak=0.4)])
    review.dismiss(1, "Ada")
    review.see(0, 2, 0.75, "liver")
    review.see(1, 3, 0.5)
    review.begin_search()
    review.show_draft("Ada", unseen=1)
    return review


def test_a_review_comes_back_from_its_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    review = filled(tmp_path)
    assert review.save()
    assert not review.save()
    again = Review.load(tmp_path)
    assert again.to_json() == review.to_json()
    assert again.candidates == review.candidates
    assert again.unseen(0) == review.unseen(0)
    assert not again.is_searching
    assert [p.name for p in tmp_path.iterdir()] == [FILE]
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    again.see(0, 0, 1.0)
    assert again.save()
    assert Review.load(tmp_path).unseen(0) == (1, 3, 4, 5)


def test_a_shared_folder_lets_its_group_read_the_review(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    filled(tmp_path).save()
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o660


def test_saving_when_due_writes_at_most_once_a_second(tmp_path: Path) -> None:
    review = filled(tmp_path)
    assert review.save_if_due()
    review.see(0, 1, 1.0)
    assert not review.save_if_due()
    review._saved_at -= 2
    assert review.save_if_due()
    assert not review.save_if_due()


def test_nothing_is_written_in_memory_or_read_only(tmp_path: Path) -> None:
    assert not filled().save()
    filled(tmp_path).save()
    before = (tmp_path / FILE).read_bytes()
    other = Review.load(tmp_path, is_read_only=True)
    other.accept(2)
    assert not other.save()
    assert (tmp_path / FILE).read_bytes() == before


def test_a_failed_write_leaves_the_old_file_and_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    review = filled(tmp_path)
    review.save()
    before = (tmp_path / FILE).read_bytes()
    review.see(0, 4, 1.0)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left"):
            review.save()
    assert (tmp_path / FILE).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [FILE]
    assert review.save()
    assert 4 not in Review.load(tmp_path).unseen(0)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"version": 1}', b"\xff\x00"])
def test_a_damaged_review_is_kept_aside_and_told(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / FILE).write_bytes(damage)
    review = Review.load(tmp_path, shape=(3, 3, 3))
    assert "damaged" in review.notice
    assert review.candidates == ()
    (aside,) = tmp_path.glob("review-damaged-*")
    assert aside.read_bytes() == damage
    review.see(0, 1, 1.0)
    assert review.save()
    assert Review.load(tmp_path).notice == ""


def test_damage_inside_a_region_is_found_at_opening(tmp_path: Path) -> None:
    filled(tmp_path).save()
    found = json.loads((tmp_path / FILE).read_bytes())
    found["candidates"][0]["region"] = "AAAA"
    (tmp_path / FILE).write_text(json.dumps(found))
    assert "damaged" in Review.load(tmp_path).notice


def test_the_review_of_a_newer_maskloop_is_left_alone(tmp_path: Path) -> None:
    content = json.dumps({**filled().to_json(), "version": 99})
    (tmp_path / FILE).write_text(content)
    review = Review.load(tmp_path)
    assert "update maskloop" in review.notice
    review.see(0, 0, 1.0)
    assert not review.save()
    assert (tmp_path / FILE).read_text() == content


def test_threads_may_see_and_save_at_once(tmp_path: Path) -> None:
    review = Review(tmp_path, shape=(50, 4, 5))

    def look() -> None:
        for index in range(50):
            review.see(0, index, 0.25)
            review.save_if_due()

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    review.save()
    np.testing.assert_allclose(Review.load(tmp_path).seconds(0), 1.0)


# What is left open


def test_a_report_counts_only_the_slices_that_matter() -> None:
    review = filled()
    for index in (1, 2, 4):
        review.see(0, index, 1.0, "liver")
    report = review.report([range(1, 6), range(4), range(5)])
    assert report.unseen == (3, 5)
    not_seen, undecided, early = report.warnings
    assert not_seen == "not looked at: slices 3, 5 of axis 0 (2 of slices 1 to 5)"
    assert undecided.startswith("1 candidate below the model's threshold, not decided: tumour 0.40")
    assert early == "the draft was shown before 1 slice had been looked at"
    plain = json.loads(json.dumps(report.to_json()))
    assert plain["unseen"] == [[3, 3], [5, 5]]
    assert plain["candidates"] == {"open": 1, "accepted": 0, "dismissed": 1}
    assert "Ada" not in json.dumps(plain)


def test_a_finished_review_warns_of_nothing() -> None:
    review = Review(shape=(2, 2, 2))
    review.see(0, 0, 1.0)
    review.see(0, 1, 1.0)
    review.begin_search()
    assert review.report([range(2)] * 3).warnings == (
        "the search was not ended: the draft is hidden from the reader still",
    )
    review.show_draft("Ada")
    assert review.report([range(2)] * 3).warnings == ()


# One object at a time


TABLE = LabelTable([Label(1, "liver"), Label(2, "tumour"), Label(3, "cyst", locked=True)])


def test_a_status_changes_one_row_only() -> None:
    for change, word in ((accepted, "accepted"), (edited, "edited")):
        found = change(TABLE, 2)
        assert found[2].status == word
        assert (found[1], found[3]) == (TABLE[1], TABLE[3])
        assert TABLE[2].status == "new"
    with pytest.raises(UnknownNameError, match=r"2 \(tumour\)"):
        with_status(TABLE, 9, "accepted")


def test_a_rejected_object_leaves_its_voxels_and_keeps_its_row() -> None:
    before = np.array([[1, 2, 2], [0, 2, 3]], np.uint8)
    table, wanted = rejected(TABLE, 2, before)
    assert wanted.tolist() == [[1, 0, 0], [0, 0, 3]]
    assert table[2].status == "rejected"
    assert before.tolist() == [[1, 2, 2], [0, 2, 3]]
    _, under = rejected(TABLE, 2, before, under=1)
    assert under.tolist() == [[1, 1, 1], [0, 1, 3]]


def test_rejecting_one_piece_of_a_class_leaves_the_others_and_the_status() -> None:
    before = np.array([[2, 0, 2], [2, 0, 3]], np.uint8)
    region = np.zeros((2, 3), bool)
    region[:, 2] = True
    table, wanted = rejected(TABLE, 2, before, region=region)
    assert wanted.tolist() == [[2, 0, 0], [2, 0, 3]]
    assert table == TABLE


# Together with a case


def test_a_candidate_is_accepted_as_one_step_that_respects_locks() -> None:
    ids = np.zeros((6, 8, 8), np.uint8)
    ids[2, 3, 4] = 3  # a locked cyst inside the candidate's place
    case = Case.in_memory(Mask(ids, Geometry.regular(ids.shape, (2, 1, 1)), TABLE), author="Ada")
    (one,) = case.review.propose([candidate((2, 3, 4))])
    before = case.mask.data.copy()
    wanted = one.wanted(case.mask.data[one.box])
    change = case.change(wanted, box=one.box, tool="accept", kind="person")
    case.review.accept(one.number, "Ada")
    assert (case.mask.data == 2).sum() == 26
    assert case.mask.data[2, 3, 4] == 3
    assert change.refused is not None
    assert change.refused.count == 1
    assert case.review.open_candidates == ()
    case.undo()
    np.testing.assert_array_equal(case.mask.data, before)


def test_a_cases_review_survives_closing(tmp_path: Path) -> None:
    mask = Mask(np.zeros((6, 8, 8), np.uint8), Geometry.regular((6, 8, 8), (2, 1, 1)), TABLE)
    with Case.create(tmp_path / "ct.maskloop", mask) as case:
        case.review.propose([candidate()])
        case.review.dismiss(1, "Ada")
        case.review.see(0, 3, 1.0, "liver")
    with Case.open(tmp_path / "ct.maskloop") as case:
        assert [one.status for one in case.review.candidates] == ["dismissed"]
        assert case.review.unseen(0) == (0, 1, 2, 4, 5)
        assert case.review.shape == (6, 8, 8)


def test_a_picture_has_no_slices_to_miss() -> None:
    report = Review(shape=(5, 6)).report([range(5), range(6)])
    assert report.unseen == ()
    assert report.warnings == ()

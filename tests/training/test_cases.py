"""Pairs are found, and whole patients are held out by content, not by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskloop.core.errors import InputError, MissingFileError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.mask import Mask
from maskloop.training.cases import (
    find_pairs,
    fingerprint,
    held_out_block,
    patients_of,
    read_cases,
    split_cases,
)

prints = st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=12)


def _image(value: float = 0) -> Image:
    return Image(np.full((3, 4, 5), value, np.float32), Geometry.regular((3, 4, 5), (1, 1, 1)))


def _touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())


@given(prints, st.integers(0, 5), st.lists(st.sampled_from("xyz"), min_size=12, max_size=12))
def test_no_image_and_no_patient_is_on_both_sides(
    found: list[str], seed: int, people: list[str]
) -> None:
    patients = people[: len(found)]
    split = split_cases(found, seed=seed, patients=patients)
    assert set(split.train) | set(split.held_out) == set(range(len(found)))
    if split.by_block:
        assert split.groups == 1
        return
    for sides in (found, patients):
        assert not {sides[i] for i in split.train} & {sides[i] for i in split.held_out}
    assert split.held_out
    assert split.train


@given(st.permutations(list("abcdefg")), st.integers(0, 5))
def test_the_order_of_cases_changes_nothing(order: list[str], seed: int) -> None:
    one = split_cases(list("abcdefg"), seed=seed)
    two = split_cases(order, seed=seed)
    assert {"abcdefg"[i] for i in one.held_out} == {order[i] for i in two.held_out}
    assert len(one.held_out) == 2


def test_what_an_earlier_model_was_measured_on_stays_held_out() -> None:
    for seed in range(5):
        split = split_cases(list("abcdefghi"), seed=seed, held="hi", trained="abcdefg")
        assert {"abcdefghi"[i] for i in split.held_out} >= {"h", "i"}


def test_two_groups_leave_one_out_and_one_is_cut_in_blocks() -> None:
    assert split_cases(["a", "b"], seed=0).kind == "leave one out"
    assert split_cases(["a"], seed=0).kind == "spatial block"
    assert split_cases(["a", "a"], seed=0).kind == "spatial block"
    assert split_cases(["a", "b", "c"], seed=0).kind == "cases"


def test_pairs_are_found_in_two_folders(tmp_path: Path) -> None:
    _touch(
        tmp_path / "images" / "one.nii.gz",
        tmp_path / "images" / "two.png",
        tmp_path / "masks" / "one.nii",
        tmp_path / "masks" / "one.nii.receipt.json",
        tmp_path / "masks" / "two_mask.png",
        tmp_path / "reviewed" / "one.nii.gz",
        tmp_path / "images" / "notes.txt",
    )
    found = find_pairs(tmp_path)
    assert [(c.name, Path(str(c.mask)).name) for c in found] == [
        ("one", "one.nii"),
        ("two", "two_mask.png"),
    ]
    assert found[0].reviewed == tmp_path / "reviewed" / "one.nii.gz"
    assert found[1].reviewed is None


def test_pairs_are_found_side_by_side(tmp_path: Path) -> None:
    _touch(*(tmp_path / n for n in ("a.nii.gz", "a_seg.nii.gz", "b.png", "b_labels.tif", "c.png")))
    assert [c.name for c in find_pairs(tmp_path)] == ["a", "b"]


def test_an_image_without_a_mask_is_named(tmp_path: Path) -> None:
    _touch(tmp_path / "images" / "one.png", tmp_path / "masks" / "two.png")
    with pytest.raises(InputError, match=r"one\.png"):
        find_pairs(tmp_path)


def test_cases_may_come_in_any_form(tmp_path: Path) -> None:
    _touch(tmp_path / "a.png", tmp_path / "a_mask.png")
    image, mask = _image(), Mask.like(_image(), np.zeros((3, 4, 5)), ["liver"])
    given = [
        (image, mask),
        f"{tmp_path / 'a.png'}={tmp_path / 'a_mask.png'}",
        tmp_path,
        (tmp_path / "a.png", str(tmp_path / "a_mask.png"), np.ones((3, 4, 5), bool)),
    ]
    found = read_cases(given)
    assert [c.name for c in found] == ["case-001", "a", "a", "a"]
    assert [c.name for c in read_cases(str(tmp_path))] == ["a"]


@pytest.mark.parametrize("wrong", ["nowhere", "nowhere=nothing"])
def test_a_missing_case_is_named(wrong: str) -> None:
    with pytest.raises(MissingFileError, match="nowhere"):
        read_cases([wrong])


def test_a_lone_image_is_refused(tmp_path: Path) -> None:
    _touch(tmp_path / "a.png")
    with pytest.raises(InputError, match="IMAGE=MASK"):
        read_cases([tmp_path / "a.png"])


def test_no_cases_are_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        read_cases([])


def test_a_fingerprint_follows_content_and_place_not_names(tmp_path: Path) -> None:
    _touch(tmp_path / "x" / "1.dcm", tmp_path / "y" / "1.dcm")
    (tmp_path / "y" / "1.dcm").rename(tmp_path / "y" / "renamed.dcm")
    assert fingerprint(tmp_path / "x") == fingerprint(tmp_path / "y")
    assert fingerprint(_image(1)) == fingerprint(_image(1))
    assert fingerprint(_image(1)) != fingerprint(_image(2))
    moved = Image(_image(1).data, Geometry.regular((3, 4, 5), (1, 1, 2)))
    assert fingerprint(_image(1)) != fingerprint(moved)


def test_patients_come_from_a_rule() -> None:
    cases = read_cases([(_image(), Mask.like(_image(), np.zeros((3, 4, 5)), ["liver"]))] * 2)
    assert patients_of(cases, r"case-(\d)") == ["0", "0"]
    assert patients_of(cases, {"case-001": "P", "case-002": "Q"}) == ["P", "Q"]
    with pytest.raises(InputError, match="case-001"):
        patients_of(cases, "nobody")
    with pytest.raises(InputError, match="regular expression"):
        patients_of(cases, "(")


@given(st.integers(4, 30), st.integers(1, 6), st.integers(1, 6))
def test_a_block_is_a_part_and_holds_some_of_each_class(n: int, rows: int, columns: int) -> None:
    ids = np.zeros((n, rows, columns), np.uint8)
    ids[: n // 2] = 1
    ids[n // 4 : 3 * n // 4] = 2
    block = held_out_block(ids)
    cut = block[0].start
    assert 0 < cut < n
    assert ids[block].size < ids.size
    assert (ids[block] > 0).any()


def test_a_picture_is_cut_along_its_longer_side() -> None:
    ids = np.zeros((20, 60), np.uint16)
    ids[2:6, 50:55] = 9
    block = held_out_block(ids)
    assert block[0] == slice(0, 20)
    assert 50 <= block[1].start <= 55

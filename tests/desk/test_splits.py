"""Splits: whole groups, the same every time, and a refusal where any split would leak."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskloop.core.dataset import Dataset, Item
from maskloop.core.errors import InputError
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.desk.splits import assigned, folds, groups_of, leaks, shares_of

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def dataset_of(items, root=None) -> Dataset:
    def never(item, job):
        raise AssertionError("a split reads no mask")

    return Dataset("d", "made", root, LabelTable.classes(["cell"]), tuple(items), never)


def patients(*sizes: int) -> Dataset:
    return dataset_of(
        Item(f"p{number}/s{i}", group=f"p{number}")
        for number, size in enumerate(sizes)
        for i in range(size)
    )


@given(
    sizes=st.lists(st.integers(1, 30), min_size=3, max_size=40),
    seed=st.integers(0, 5),
    order=st.randoms(use_true_random=False),
)
def test_no_group_is_cut_none_is_empty_and_order_changes_nothing(sizes, seed, order):
    made = patients(*sizes)
    split = {item.name: item.split for item in assigned(made, SHARES, seed).items}
    for number in range(len(sizes)):
        assert len({split[i.name] for i in made.items if i.group == f"p{number}"}) == 1
    assert set(split.values()) == set(SHARES)
    items = list(made.items)
    order.shuffle(items)
    again = assigned(replace(made, items=tuple(items)), SHARES, seed)
    assert {item.name: item.split for item in again.items} == split


def test_single_items_come_as_near_as_counting_allows():
    found = assigned(dataset_of(Item(f"im{i}") for i in range(1000)), SHARES, 3)
    assert Counter(i.split for i in found.items) == {"train": 800, "val": 100, "test": 100}


def test_another_seed_chooses_others():
    made = dataset_of(Item(f"im{i}") for i in range(50))
    one, other = (assigned(made, SHARES, seed) for seed in (0, 1))
    assert [i.split for i in one.items] != [i.split for i in other.items]


def test_too_few_patients_are_refused_in_words():
    with pytest.raises(InputError, match="at least 3 groups for as many splits, got 2"):
        assigned(patients(40, 60), SHARES)
    with pytest.raises(InputError, match="at least 5 groups for as many folds, got 4"):
        folds(patients(9, 9, 9, 9), 5)


def test_a_share_that_whole_patients_cannot_reach_is_told():
    job = Job()
    found = assigned(patients(90, 5, 5), {"train": 0.5, "val": 0.25, "test": 0.25}, job=job)
    assert sorted(Counter(i.split for i in found.items).values()) == [5, 5, 90]
    assert any("holds 90 of 100 items (90%) instead of 50%" in note for note in job.notes)


def test_slices_without_a_group_are_kept_together_by_their_names():
    job = Job()
    made = dataset_of(Item(f"scan{v}_slice{z:03d}") for v in range(6) for z in range(9))
    found = assigned(made, SHARES, job=job)
    for v in range(6):
        assert len({i.split for i in found.items if i.name.startswith(f"scan{v}_")}) == 1
    assert any("6 groups were taken from the names" in note for note in job.notes)


def test_items_without_any_group_are_told_to_stand_alone():
    job = Job()
    groups_of(dataset_of([Item("000139"), Item("000285")]), job=job)
    assert any("each item stands alone" in note for note in job.notes)


def test_equal_pictures_lie_on_one_side(tmp_path):
    for name, value in (("a", 1), ("b", 2), ("c", 1), ("d", 3)):
        (tmp_path / name).write_bytes(np.full(99, value, np.uint8).tobytes())
    items = [Item(name, tmp_path / name, group=f"g{name}") for name in "abcd"]
    items.append(Item("e", tmp_path / "b", group="gd"))  # links b with d
    job = Job()
    groups = groups_of(dataset_of(items), job=job)
    assert groups[0] == groups[2]
    assert groups[1] == groups[3] == groups[4]
    assert len(set(groups)) == 2
    assert any("4 items show 2 pictures that are equal" in note for note in job.notes)


def test_files_that_differ_in_one_byte_are_no_copies(tmp_path):
    whole = bytearray(400_000)
    items = []
    for number in range(3):
        path = tmp_path / f"{number}.raw"
        whole[100_000] = number // 2  # outside every block that is looked at first
        path.write_bytes(whole)
        items.append(Item(f"i{number}", path))
    groups = groups_of(dataset_of(items))
    assert groups[0] == groups[1] != groups[2]


def test_rules_by_folder_item_pattern_and_mapping():
    made = dataset_of([Item("x/p1_a", group="g"), Item("x/p2_b", group="g"), Item("y")])
    assert groups_of(made, "folder") == ["x", "x", "y"]
    assert groups_of(made, "item") == ["x/p1_a", "x/p2_b", "y"]
    assert groups_of(made, {"x/p1_a": "1", "x/p2_b": "1", "y": "2"}) == ["1", "1", "2"]
    with pytest.raises(InputError, match="patient of case 'y'"):
        groups_of(made, r"(p\d)")


def test_each_item_is_validated_once_and_no_patient_twice():
    made = patients(3, 4, 5, 2, 7, 1)
    found = folds(made, 3, seed=2)
    assert sorted(n for fold in found for n in fold["val"]) == sorted(i.name for i in made.items)
    for fold in found:
        assert {n[:2] for n in fold["train"]}.isdisjoint(n[:2] for n in fold["val"])
        assert len(fold["train"]) + len(fold["val"]) == len(made.items)


def test_leaks_of_a_dataset_are_named():
    items = [Item("a", group="p1", split="train"), Item("b", group="p1", split="test"), Item("c")]
    assert leaks(dataset_of(items)) == ["'p1' lies in test, train"]
    assert leaks(dataset_of(items[:1])) == []


def test_shares_are_read_and_refused_in_words():
    assert shares_of("train=0.8, val=0.2") == {"train": 0.8, "val": 0.2}
    for text in ("train", "train=x", "train=0.5,train=0.5", "=1", ""):
        with pytest.raises(InputError, match=r"train=0\.8"):
            shares_of(text)
    for shares in ({"a": 0.5}, {"a": 1.5, "b": -0.5}, {}, {"a": float("inf")}, {"../x": 1.0}):
        with pytest.raises(InputError, match="expected"):
            assigned(patients(1, 1, 1), shares)

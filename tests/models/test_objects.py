"""Objects: overlaps settled by score and counted, tiles joined into what was one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskloop.models.objects import Found, join, scale_to, settle, table


def square(top: int, left: int, size: int, score: float, category: str = "cell") -> Found:
    box = (slice(top, top + size), slice(left, left + size))
    return Found(box, np.ones((size, size), bool), score, category)


def test_the_better_score_has_the_overlap_and_the_loss_is_counted() -> None:
    found = settle([square(0, 0, 4, 0.6), square(2, 2, 4, 0.9, "dog")], (8, 8), author="m")
    assert [row.category for row in found.labels.values()] == ["dog", "cell"]
    assert [row.score for row in found.labels.values()] == [0.9, 0.6]
    assert (found.ids == 1).sum() == 16
    assert (found.ids == 2).sum() == 12
    assert (found.lost, found.covered) == (4, 0)
    assert found.boxes[1] == (slice(2, 6), slice(2, 6))
    assert found.boxes[2] == (slice(0, 4), slice(0, 4))
    assert found.ids.dtype == np.uint8


def test_an_object_wholly_under_a_better_one_is_dropped_and_told() -> None:
    found = settle([square(1, 1, 2, 0.5), square(0, 0, 4, 0.9), square(5, 5, 2, 0.1)], (8, 8))
    assert list(found.labels) == [1, 2]
    assert (found.lost, found.covered) == (4, 1)
    assert found.ids[5, 5] == 2


def test_too_small_a_rest_is_dropped_and_freed_for_the_next() -> None:
    listed = [square(0, 0, 4, 0.9), square(0, 1, 4, 0.8), square(0, 4, 1, 0.7)]
    found = settle(listed, (8, 8), keep=0.5)
    assert found.covered == 1
    assert found.ids[0, 4] == 2
    assert found.lost == 16


def test_nothing_found_is_an_empty_map() -> None:
    found = settle([], (3, 4))
    assert found.ids.shape == (3, 4)
    assert not found.ids.any()
    assert len(found.labels) == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 6), st.floats(0, 1)),
        max_size=12,
    )
)
@settings(max_examples=50, deadline=None)
def test_every_claimed_voxel_is_given_or_counted(
    squares: list[tuple[int, int, int, float]],
) -> None:
    found = settle([square(*one) for one in squares], (20, 20))
    claimed = np.zeros((20, 20), int)
    for top, left, size, _ in squares:
        claimed[top : top + size, left : left + size] += 1
    np.testing.assert_array_equal(found.ids > 0, claimed > 0)
    assert np.count_nonzero(found.ids) + found.lost == claimed.sum()
    assert sorted(set(np.unique(found.ids)) - {0}) == list(found.labels)
    for i, box in found.boxes.items():
        rows, columns = np.nonzero(found.ids == i)
        assert box == (
            slice(rows.min(), rows.max() + 1),
            slice(columns.min(), columns.max() + 1),
        )


@pytest.mark.parametrize("step", [16, 24, 31])
def test_objects_cut_by_tiles_become_one_again(step: int) -> None:
    from skimage.measure import label

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:90, :100]
    region = np.zeros((90, 100), bool)
    for cy, cx, r in rng.integers((0, 0, 3), (90, 100, 8), (25, 3)):
        region |= (y - cy) ** 2 + (x - cx) ** 2 < r * r
    truth = label(region)
    tiles = []
    for top, left in itertools.product(range(0, 90, step), range(0, 100, step)):
        box = (slice(top, min(top + 40, 90)), slice(left, min(left + 40, 100)))
        part = truth[box]
        order = rng.permutation(truth.max()) + 1  # a tile numbers as it likes
        tiles.append((box, np.where(part > 0, order[part - 1], 0).astype(np.uint16)))
    ids, members = join(tiles, truth.shape)
    pairs = set(zip(truth.ravel().tolist(), ids.ravel().tolist(), strict=True))
    assert len(pairs) == truth.max() + 1
    assert len(members) == truth.max()


def test_touching_objects_of_two_tiles_stay_two() -> None:
    first = np.zeros((10, 10), np.uint8)
    second = np.zeros((10, 10), np.uint8)
    first[:, 4:9], second[:, 3:8] = 1, 1  # columns 4..8 and 5+3..: 8..12 of the whole
    tiles = [
        ((slice(0, 10), slice(0, 10)), first),
        ((slice(0, 10), slice(5, 15)), second),
    ]
    ids, members = join(tiles, (10, 15))
    assert len(members) == 2
    assert set(np.unique(ids[:, 8])) == {1}
    assert set(np.unique(ids[:, 9:13])) == {2}


def test_joining_nothing_is_empty() -> None:
    ids, members = join([((slice(0, 3), slice(0, 3)), np.zeros((3, 3), np.uint8))], (3, 3))
    assert not ids.any()
    assert members == []


def test_a_table_has_a_row_an_object() -> None:
    rows = table([2, 5], {2: "cell", 5: "dog"}, {2: 0.5, 5: 0.25}, author="m")
    assert [(r.id, r.name, r.category, r.score) for r in rows.values()] == [
        (2, "cell 2", "cell", 0.5),
        (5, "dog 5", "dog", 0.25),
    ]


def test_scale_respects_both_sides() -> None:
    assert scale_to((400, 500), 800, 1333) == 2
    assert scale_to((400, 2666), 800, 1333) == 0.5

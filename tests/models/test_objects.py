"""Objects: overlaps settled by score and counted, tiles joined into what was one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskloop.models.objects import Found, joined, scale_to, settle, table


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


def seen_in(truth: np.ndarray, box: tuple[slice, ...]) -> list[Found]:
    """Return the objects of an id map as a tile sees them: cut at its edges."""
    part = truth[box]
    found = []
    for i in np.unique(part[part > 0]):
        rows, columns = np.nonzero(part == i)
        at = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
        found.append(Found(at, part[at] == i, float(i) / 1000, "cell"))
    return found


def tiles_of(shape: tuple[int, int], side: int, step: int) -> list[tuple[slice, slice]]:
    starts = itertools.product(range(0, shape[0], step), range(0, shape[1], step))
    return [
        (slice(y, min(y + side, shape[0])), slice(x, min(x + side, shape[1]))) for y, x in starts
    ]


@pytest.mark.parametrize("step", [16, 24, 31])
def test_objects_cut_by_tiles_become_one_again(step: int) -> None:
    from skimage.measure import label

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:90, :100]
    region = np.zeros((90, 100), bool)
    for cy, cx, r in rng.integers((0, 0, 3), (90, 100, 8), (25, 3)):
        region |= (y - cy) ** 2 + (x - cx) ** 2 < r * r
    truth = label(region)
    tiles = [(box, seen_in(truth, box)) for box in tiles_of(truth.shape, 40, step)]
    found = settle(joined(tiles), truth.shape)
    pairs = set(zip(truth.ravel().tolist(), found.ids.ravel().tolist(), strict=True))
    assert len(pairs) == truth.max() + 1
    assert len(found.labels) == truth.max()
    assert found.lost == 0


def test_an_object_cut_by_four_tiles_is_one() -> None:
    truth = np.zeros((60, 60), np.uint8)
    truth[10:50, 10:50] = 1
    boxes = [(slice(y, y + 36), slice(x, x + 36)) for y in (0, 24) for x in (0, 24)]
    tiles = [(box, seen_in(truth, box)) for box in boxes]
    assert [len(found) for _, found in tiles] == [1, 1, 1, 1]
    (one,) = joined(tiles)
    assert one.box == (slice(10, 50), slice(10, 50))
    assert one.region.all()


def test_what_a_neighbour_sees_whole_is_left_to_it() -> None:
    # The left tile sees two columns of it and draws them badly: half of them is missing.
    left = [Found((slice(5, 10), slice(18, 20)), np.eye(5, 2, dtype=bool), 0.9, "cell")]
    right = [square(5, 8, 5, 0.4)]
    boxes = [(slice(0, 20), slice(0, 20)), (slice(0, 20), slice(10, 30))]
    (one,) = joined(list(zip(boxes, (left, right), strict=True)))
    assert (one.score, one.region.sum()) == (0.4, 25)


def test_touching_objects_of_two_tiles_stay_two() -> None:
    first, second = square(0, 4, 5, 0.5), square(0, 3, 5, 0.6)  # columns 4..8, and 5 + 3..7
    boxes = [(slice(0, 10), slice(0, 10)), (slice(0, 10), slice(5, 15))]
    assert len(joined([(boxes[0], [first]), (boxes[1], [second])])) == 2


def test_one_place_of_two_categories_stays_two() -> None:
    boxes = [(slice(0, 10), slice(0, 10)), (slice(0, 10), slice(5, 15))]
    tiles = [(boxes[0], [square(2, 4, 6, 0.5)]), (boxes[1], [square(2, 0, 5, 0.6, "dog")])]
    assert sorted(one.category for one in joined(tiles)) == ["cell", "dog"]


def test_joining_nothing_is_empty() -> None:
    assert joined([((slice(0, 3), slice(0, 3)), [])]) == []


def test_a_table_has_a_row_an_object() -> None:
    rows = table([2, 5], {2: "cell", 5: "dog"}, {2: 0.5, 5: 0.25}, author="m")
    assert [(r.id, r.name, r.category, r.score) for r in rows.values()] == [
        (2, "cell 2", "cell", 0.5),
        (5, "dog 5", "dog", 0.25),
    ]


def test_scale_respects_both_sides() -> None:
    assert scale_to((400, 500), 800, 1333) == 2
    assert scale_to((400, 2666), 800, 1333) == 0.5

"""Which pixels join an object at a click, and which leave it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskloop.ops import clicks


def disc(middle: tuple[int, int], radius: int, shape: tuple[int, int] = (40, 60)) -> np.ndarray:
    rows, columns = np.indices(shape)
    return (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 <= radius**2


@given(st.integers(8, 30), st.integers(8, 50), st.integers(1, 7))
def test_the_innermost_pixel_of_a_disc_is_its_middle(row: int, column: int, radius: int) -> None:
    assert clicks.innermost(disc((row, column), radius)) == (row, column)


def test_the_innermost_pixel_lies_inside_where_the_mean_does_not() -> None:
    ring = disc((20, 30), 15) & ~disc((20, 30), 9)
    assert ring[clicks.innermost(ring)]
    mean = tuple(int(v.mean()) for v in np.nonzero(ring))
    assert not ring[mean]


def test_an_edge_of_the_array_is_a_border() -> None:
    assert clicks.innermost(np.ones((5, 9), bool))[0] == 2


def test_only_the_piece_with_the_point_is_drawn() -> None:
    chances = np.where(disc((10, 10), 5) | disc((10, 40), 8), 0.9, 0.1).astype(np.float32)
    assert np.array_equal(clicks.drawn(chances, 0.5, (10, 10)), disc((10, 10), 5))
    assert np.array_equal(clicks.drawn(chances, 0.5, (30, 10)), disc((10, 40), 8))
    assert np.array_equal(clicks.drawn(chances, 0.5, (-3, 10)), disc((10, 40), 8))


def test_another_object_that_was_drawn_along_leaves() -> None:
    own, other = disc((20, 20), 9), disc((20, 34), 7)
    chances = np.where(other, 0.9, 0.1).astype(np.float32)
    leaves = clicks.leaving(own | other, chances, 0.5, (20, 36), of_middle=None)
    assert np.array_equal(leaves, other & ~own | other & own)


def test_an_object_that_the_network_sees_as_one_is_cut_between_point_and_middle() -> None:
    whole = disc((20, 20), 9) | disc((20, 36), 7)
    rows, columns = np.indices(whole.shape)
    middle = clicks.innermost(whole)

    def seen(point: tuple[int, int]) -> np.ndarray:
        far = np.hypot(rows - point[0], columns - point[1])
        return np.where(whole, 0.6 + 0.4 * np.exp(-far / 10), 0.1).astype(np.float32)

    leaves = clicks.leaving(whole, seen((20, 38)), 0.5, (20, 38), of_middle=seen(middle))
    assert leaves[20, 38]
    assert not leaves[middle]
    assert 0 < np.count_nonzero(leaves) < np.count_nonzero(whole) / 2
    # Without the comparison all but the middle would go.
    blunt = clicks.leaving(whole, seen((20, 38)), 0.5, (20, 38), of_middle=None)
    assert np.count_nonzero(blunt) > np.count_nonzero(whole) / 2


def test_a_click_at_the_middle_takes_the_object_away() -> None:
    whole = disc((20, 20), 9)
    none = np.zeros(whole.shape, np.float32)
    assert np.array_equal(clicks.leaving(whole, none, 0.5, (21, 20), of_middle=None), whole)


def test_where_the_network_sees_nothing_the_nearer_half_leaves() -> None:
    whole = np.zeros((20, 60), bool)
    whole[5:15, 5:55] = True
    none = np.zeros(whole.shape, np.float32)
    leaves = clicks.leaving(whole, none, 0.5, (10, 50), of_middle=None)
    assert leaves[10, 54]
    assert not leaves[clicks.innermost(whole)]
    assert not (leaves & ~whole).any()


def test_a_first_click_is_scored_by_what_it_draws() -> None:
    ids = np.zeros((40, 60), np.uint16)
    ids[disc((20, 15), 8)], ids[disc((20, 45), 6)] = 3, 7

    def half(point: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray] | None:
        if point[1] > 30:
            return None
        box = (slice(10, 30), slice(0, 30))
        region = disc((20, 15), 8)[box].copy()
        region[:, 15:] = False
        return box, region

    found = clicks.first_click_ious(ids, half)
    truth = disc((20, 15), 8)
    assert found == {3: pytest.approx(truth[:, :15].sum() / truth.sum()), 7: 0.0}

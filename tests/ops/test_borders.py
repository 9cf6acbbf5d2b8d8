"""Gaps between touching objects, and weights between near ones, against plain counting."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from maskloop.ops import borders

FIVE_APART = np.repeat([[1] * 8 + [0] * 5 + [2] * 8], 9, axis=0).astype(np.uint8)

objects = npst.arrays(
    np.uint16,
    npst.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7),
    elements=st.integers(0, 4),
)


def pairs(ids: np.ndarray) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return all pairs of neighbours, corners among them, that belong to different objects."""
    found = []
    for at in np.ndindex(ids.shape):
        for step in itertools.product((-1, 0, 1), repeat=ids.ndim):
            there = tuple(a + s for a, s in zip(at, step, strict=True))
            if all(0 <= t < n for t, n in zip(there, ids.shape, strict=True)):
                a, b = int(ids[at]), int(ids[there])
                if a and b and a != b:
                    found.append((at, there))
    return found


def counted(ids: np.ndarray, w0: float, sigma: float) -> np.ndarray:
    """Return the formula of the paper, voxel by voxel."""
    found = np.zeros(ids.shape)
    spots = {int(i): np.argwhere(ids == i) for i in np.unique(ids) if i}
    for at in np.argwhere(ids == 0):
        near = sorted(np.sqrt(((s - at) ** 2).sum(1)).min() for s in spots.values())
        if len(near) > 1:
            found[tuple(at)] = w0 * np.exp(-((near[0] + near[1]) ** 2) / (2 * sigma**2))
    return found


def test_a_gap_of_five_pixels_weighs_what_the_paper_says() -> None:
    """Six steps from cell to cell through any pixel of the gap: 10 exp(-36 / 50)."""
    found = borders.weights(FIVE_APART)
    assert found[:, 8:13] == pytest.approx(4.8675226)
    assert not found[:, :8].any()
    assert not found[:, 13:].any()
    # What the bar catches: the nearest cell alone, another sigma, another w0.
    nearest_alone = 10 * np.exp(-(np.array([1, 2, 3, 2, 1]) ** 2) / 50)
    for wrong in (nearest_alone, borders.weights(FIVE_APART, sigma=4)[0, 8:13]):
        assert not np.allclose(found[0, 8:13], wrong, rtol=0.05)
    assert borders.weights(FIVE_APART, w0=1)[4, 10] == pytest.approx(0.48675226)


def test_a_lonely_cell_has_no_border() -> None:
    alone = np.zeros((20, 20), np.uint8)
    alone[5:9, 5:9] = 3
    assert not borders.weights(alone).any()
    assert not borders.weights(np.zeros((4, 4), np.uint8)).any()


@given(objects)
def test_weights_are_those_counted_voxel_by_voxel(ids: np.ndarray) -> None:
    found = borders.weights(ids, w0=7.0, sigma=3.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, counted(ids, 7.0, 3.0), rtol=1e-4, atol=1e-5)


def test_what_lies_beyond_the_reach_adds_less_than_it_weighs() -> None:
    ids = np.zeros((3, 70), np.uint8)
    ids[:, 0], ids[:, -1] = 1, 2
    assert borders.weights(ids).max() <= counted(ids, 10, 5).max() < 1e-6
    assert borders.reach(5.0) == 25


@given(objects)
def test_no_two_objects_touch_any_more_and_no_more_is_taken(ids: np.ndarray) -> None:
    cut = borders.gaps(ids)
    assert not pairs(np.where(cut, 0, ids))
    touching = {at for at, _ in pairs(ids)}
    assert {tuple(at) for at in np.argwhere(cut).tolist()} <= touching
    assert bool(cut.any()) == bool(touching)


def test_the_larger_object_gives_way_by_one_voxel() -> None:
    ids = np.zeros((6, 12), np.uint8)
    ids[1:5, :8], ids[1:5, 8:11] = 2, 9
    cut = borders.gaps(ids)
    assert np.argwhere(cut).tolist() == [[row, 7] for row in range(1, 5)]


def test_objects_of_two_classes_may_touch() -> None:
    ids = np.array([[1, 1, 2, 2, 3, 3]], np.uint8)
    classes = np.array([0, 1, 1, 2])
    assert borders.gaps(ids, classes).astype(int).tolist() == [[0, 0, 1, 0, 0, 0]] or (
        borders.gaps(ids, classes).astype(int).tolist() == [[0, 1, 0, 0, 0, 0]]
    )
    assert borders.gaps(ids).sum() == 2

"""Labels smoothed together leave no gap, and follow SciPy's Gaussian."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maskloop.ops import joint as module
from maskloop.ops.joint import joint

SPACING = (3.0, 1.0, 1.5)


def labels(seed: int, ndim: int) -> np.ndarray:
    """Four labels that fill a ragged blob and meet inside it, in the middle of the field."""
    rng = np.random.default_rng(seed)
    shape = (20, 44, 40)[-ndim:]
    fields = [ndimage.gaussian_filter(rng.random(shape), 2.0) for _ in range(4)]
    ids = 1 + np.argmax(fields, axis=0).astype(np.uint8)
    ids[ndimage.gaussian_filter(rng.random(shape), 1.5) < 0.47] = 0
    inner = np.zeros(shape, bool)
    inner[tuple(slice(n // 4, -(n // 4)) for n in shape)] = True
    return np.where(inner, ids, 0).astype(np.uint8)


def blurred(region: np.ndarray, radius: float) -> np.ndarray:
    sigma = [radius / s for s in SPACING[-region.ndim :]]
    return ndimage.gaussian_filter(region.astype(np.float32), sigma, mode="nearest")


@settings(max_examples=15)
@given(st.integers(0, 2**31), st.sampled_from([1.0, 2.5]), st.sampled_from([2, 3]))
def test_no_gap_opens_the_labels_together_are_smoothed_as_one_region(seed, radius, ndim):
    ids = labels(seed, ndim)
    found = ids.copy()
    joint(found, SPACING[-ndim:], radius)
    assert np.array_equal(found > 0, blurred(ids > 0, radius) > 0.5)


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.sampled_from([2, 3]))
def test_inside_each_voxel_gets_the_label_that_is_strongest_when_blurred(seed, ndim):
    ids = labels(seed, ndim)
    found = ids.copy()
    joint(found, SPACING[-ndim:], 2.0)
    strengths = np.stack([blurred(ids == i, 2.0) for i in range(1, 5)])
    best = 1 + strengths.argmax(0)
    first, second = np.sort(strengths, axis=0)[[-1, -2]]
    is_clear = (found > 0) & (first - second > 1e-5)
    assert is_clear.any()
    assert np.array_equal(found[is_clear], best[is_clear])


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.sampled_from([2, 3]))
def test_locked_labels_stay_and_give_no_background_away(seed, ndim):
    ids = labels(seed, ndim)
    found = ids.copy()
    joint(found, SPACING[-ndim:], 2.0, locked=[2])
    assert np.array_equal(found == 2, ids == 2)
    strengths = np.stack([blurred(ids == i, 2.0) for i in range(1, 5)])
    is_locks = strengths.argmax(0) == 1
    assert not found[is_locks & (ids == 0)].any()
    # An unlocked voxel that the locked label would take stays with an unlocked one: no gap.
    assert found[is_locks & (ids > 0) & (blurred(ids > 0, 2.0) > 0.5)].all()


@pytest.mark.parametrize("ndim", [2, 3])
def test_in_slabs_it_is_the_same(monkeypatch, ndim):
    ids = labels(7, ndim)
    whole = ids.copy()
    joint(whole, SPACING[-ndim:], 1.5, locked=[3])
    monkeypatch.setattr(module, "_CHUNK", 3 * ids.size // len(ids))
    joint(ids, SPACING[-ndim:], 1.5, locked=[3])
    assert np.array_equal(ids, whole)


def test_an_empty_mask_stays_empty():
    ids = np.zeros((4, 5, 6), np.uint16)
    joint(ids, SPACING, 2.0)
    assert not ids.any()

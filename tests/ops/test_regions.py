from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maskloop.core.boxes import box_of
from maskloop.ops import regions


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(7, 9, 8), (12, 11)]))
def test_distances_are_scipys(seed, shape):
    region = np.random.default_rng(seed).random(shape) < 0.8
    spacing = (3.0, 0.7, 1.1)[-len(shape) :]
    expected = ndimage.distance_transform_edt(region, sampling=spacing)
    assert np.allclose(regions.depth(region, spacing), expected, rtol=1e-5)
    assert np.allclose(regions.distance(~region, spacing), expected, rtol=1e-5)


def test_a_region_without_an_outside_is_infinitely_deep():
    assert np.isinf(regions.depth(np.ones((4, 5), bool), (1.0, 1.0))).all()
    assert np.isinf(regions.distance(np.zeros((4, 5), bool), (1.0, 1.0))).all()
    assert (regions.depth(np.zeros((4, 5), bool), (1.0, 1.0)) == 0).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(7, 9, 8), (12, 11)]))
def test_the_depth_of_a_small_region_in_a_large_field_is_scipys(seed, shape):
    field = np.zeros([3 * n for n in shape], bool)
    field[tuple(slice(n, 2 * n) for n in shape)] = np.random.default_rng(seed).random(shape) < 0.9
    spacing = (3.0, 0.7, 1.1)[-len(shape) :]
    expected = ndimage.distance_transform_edt(field, sampling=spacing)
    assert np.allclose(regions.depth(field, spacing), expected, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(7, 9, 8), (12, 11)]))
def test_signed_distances_are_the_depth_inside_and_the_distance_outside(seed, shape):
    region = np.random.default_rng(seed).random(shape) < 0.6
    spacing = (3.0, 0.7, 1.1)[-len(shape) :]
    inside = ndimage.distance_transform_edt(region, sampling=spacing)
    outside = ndimage.distance_transform_edt(~region, sampling=spacing)
    assert np.allclose(regions.signed(region, spacing), inside - outside, rtol=1e-5)


def test_threads_give_the_distances_of_one(monkeypatch):
    region = np.random.default_rng(0).random((20, 60, 50)) < 0.9
    alone = regions.depth(region, (3.0, 0.7, 1.1))
    monkeypatch.setattr(regions, "_THREADED", 1)
    assert np.array_equal(regions.depth(region, (3.0, 0.7, 1.1)), alone)


def test_the_voxels_of_a_distance_hold_it_on_every_axis():
    assert regions.voxels_of(10.0, (5.0, 0.7)) == (3, 16)
    far = regions.voxels_of(np.inf, (5.0, 0.7))
    ids = np.pad(np.ones((1, 1), np.uint8), 9)
    assert box_of(ids, 1, margin=far) == (slice(0, 19), slice(0, 19))

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maskloop.ops import regions


@settings(deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(9, 8, 7), (13, 6), (2, 5, 6, 4)]), st.booleans())
def test_the_box_of_a_label_is_scipys(seed, shape, is_chunked):
    rng = np.random.default_rng(seed)
    ids = (rng.random(shape) < 0.03).astype(np.uint8) * rng.integers(1, 4, shape, dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        if is_chunked:
            patch.setattr(regions, "_CHUNK", 30)
        found = {label: regions.box_of(ids, label) for label in (1, 2, 3)}
    expected = dict.fromkeys((1, 2, 3)) | dict(enumerate(ndimage.find_objects(ids), start=1))
    assert found == expected


def test_a_margin_is_cut_at_the_ends():
    ids = np.zeros((10, 12), np.uint8)
    ids[1, 5] = 4
    assert regions.box_of(ids, 4, margin=2) == (slice(0, 4), slice(3, 8))
    assert regions.box_of(ids, 4, margin=(0, 9)) == (slice(1, 2), slice(0, 12))


def test_a_label_that_is_absent_has_no_box():
    assert regions.box_of(np.zeros((3, 4), np.uint8), 1) is None
    assert regions.box_of(np.zeros((0, 4), np.uint8), 1) is None


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


def test_the_voxels_of_a_distance_hold_it_on_every_axis():
    assert regions.voxels_of(10.0, (5.0, 0.7)) == (3, 16)

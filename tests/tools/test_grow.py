from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.tools.grow import grow

SPACING = (5.0, 1.0, 0.7)


def mask_of(ids: np.ndarray) -> Mask:
    grid = Geometry.regular(ids.shape, SPACING) if ids.ndim == 3 else Geometry.pixels(ids.shape)
    labels = LabelTable.classes(["liver", "vessel"])
    return Mask.like(Image(np.zeros(ids.shape, np.int16), grid), ids, labels)


def test_a_point_grows_to_the_ball_of_the_margin_on_unequal_spacing():
    ids = np.zeros((9, 41, 41), np.uint8)
    ids[4, 20, 20] = 1
    found = grow(mask_of(ids), label=1, margin=10.0)
    z, y, x = np.indices(ids.shape)
    away = ((z - 4) * 5.0) ** 2 + ((y - 20) * 1.0) ** 2 + ((x - 20) * 0.7) ** 2
    assert np.array_equal(found == 1, away <= 100.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.1, 12), st.booleans(), st.sampled_from([2, 3]))
def test_growing_and_shrinking_follow_scipys_distances(seed, margin, is_growing, ndim):
    rng = np.random.default_rng(seed)
    ids = (ndimage.gaussian_filter(rng.random((10, 24, 25)[-ndim:]), 2) > 0.5).astype(np.uint8)
    spacing = SPACING if ndim == 3 else (1.0, 1.0)
    region = ids == 1
    if is_growing:
        distance = ndimage.distance_transform_edt(~region, sampling=spacing)
        expected = distance <= margin if region.any() else region
    else:
        distance = ndimage.distance_transform_edt(region, sampling=spacing)
        expected = distance > margin if not region.all() else region
    if np.isclose(distance, margin, rtol=1e-5).any():
        return  # a voxel on the border itself: either answer is right to rounding
    found = grow(mask_of(ids), label=1, margin=margin if is_growing else -margin)
    assert np.array_equal(found == 1, expected)


def test_other_labels_are_walls():
    ids = np.zeros((20, 20), np.uint8)
    ids[8:12, 4:8] = 1
    ids[:, 9] = 2
    found = grow(mask_of(ids), label=1, margin=3.0)
    assert (found[:, 9] == 2).all()
    assert (found == 1).sum() > 16


def test_shrinking_does_not_eat_where_the_image_ends():
    ids = np.zeros((20, 20), np.uint8)
    ids[:, 5:15] = 1
    found = grow(mask_of(ids), label=1, margin=-1.0)
    assert (found[:, 6:14] == 1).all()
    assert (found == 1).sum() == 20 * 8


@pytest.mark.parametrize("margin", [0.0, 0.69, -0.69])
def test_below_a_voxel_nothing_changes(margin):
    ids = np.zeros((9, 20, 20), np.uint8)
    ids[3:6, 5:12, 5:12] = 1
    assert np.array_equal(grow(mask_of(ids), label=1, margin=margin), ids)

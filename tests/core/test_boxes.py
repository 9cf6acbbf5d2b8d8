from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maskloop.core import boxes

SHAPES = st.sampled_from([(9, 8, 7), (13, 6), (2, 5, 6, 4)])


@settings(deadline=None)
@given(st.integers(0, 2**31), SHAPES, st.booleans())
def test_the_box_of_a_label_is_scipys(seed, shape, is_chunked):
    rng = np.random.default_rng(seed)
    ids = (rng.random(shape) < 0.03).astype(np.uint8) * rng.integers(1, 4, shape, dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        if is_chunked:
            patch.setattr(boxes, "_CHUNK", 30)
        found = {label: boxes.box_of(ids, label) for label in (1, 2, 3)}
    expected = dict.fromkeys((1, 2, 3)) | dict(enumerate(ndimage.find_objects(ids), start=1))
    assert found == expected


def test_a_margin_is_cut_at_the_ends():
    ids = np.zeros((10, 12), np.uint8)
    ids[1, 5] = 4
    assert boxes.box_of(ids, 4, margin=2) == (slice(0, 4), slice(3, 8))
    assert boxes.box_of(ids, 4, margin=(0, 9)) == (slice(1, 2), slice(0, 12))


def test_a_label_that_is_absent_has_no_box():
    assert boxes.box_of(np.zeros((3, 4), np.uint8), 1) is None
    assert boxes.box_of(np.zeros((0, 4), np.uint8), 1) is None


@settings(deadline=None)
@given(st.integers(0, 2**31), SHAPES, st.booleans())
def test_the_box_of_a_difference_is_scipys(seed, shape, is_chunked):
    rng = np.random.default_rng(seed)
    before = rng.integers(0, 3, shape, dtype=np.uint16)
    after = np.where(rng.random(shape) < 0.02, before + 1, before)
    with pytest.MonkeyPatch.context() as patch:
        if is_chunked:
            patch.setattr(boxes, "_CHUNK", 30)
        found = boxes.difference_box(before, after)
    assert found == next(iter(ndimage.find_objects((before != after).astype(int))), None)


def test_a_hull_holds_its_boxes_and_no_more():
    one, other = (slice(1, 3), slice(4, 5)), (slice(2, 7), slice(0, 2))
    assert boxes.hull([one, other]) == (slice(1, 7), slice(0, 5))


def test_a_bounded_box_cuts_what_the_box_cuts():
    ids = np.arange(35).reshape(5, 7)
    for box in (None, (slice(-2, None), slice(1, 99)), (slice(3), slice(2, -1))):
        within = boxes.bounded(box, ids.shape)
        assert np.array_equal(ids[within], ids if box is None else ids[box])
        assert all(
            0 <= part.start <= part.stop <= n for part, n in zip(within, ids.shape, strict=True)
        )


def test_a_shifted_box_names_the_same_voxels_of_the_larger_array():
    large = np.arange(80).reshape(8, 10)
    part, box = large[2:7, 3:9], (slice(1, 4), slice(0, 2))
    assert np.array_equal(part[box], large[boxes.shifted(box, [2, 3])])

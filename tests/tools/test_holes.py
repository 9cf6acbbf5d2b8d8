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
from maskloop.tools.holes import holes


def mask_of(ids: np.ndarray, spacing: tuple[float, ...] = (5.0, 2.0, 2.0)) -> Mask:
    grid = Geometry.regular(ids.shape, spacing) if ids.ndim == 3 else Geometry.pixels(ids.shape)
    labels = LabelTable.classes(["liver", "vessel"])
    return Mask.like(Image(np.zeros(ids.shape, np.int16), grid), ids, labels)


def shell() -> np.ndarray:
    ids = np.zeros((9, 12, 12), np.uint8)
    ids[1:8, 1:11, 1:11] = 1
    ids[3:6, 3:6, 3:6] = 0  # 27 voxels
    ids[4, 8, 8] = 0
    return ids


def test_enclosed_background_is_filled():
    assert (holes(mask_of(shell()), label=1) == 1).sum() == 7 * 10 * 10


def test_other_labels_inside_stay():
    ids = shell()
    ids[4, 4, 4] = 2
    found = holes(mask_of(ids), label=1)
    assert found[4, 4, 4] == 2
    assert (found == 1).sum() == 7 * 10 * 10 - 1


def test_a_tunnel_is_open_in_the_volume_and_closed_in_its_slices():
    ids = shell()
    ids[:, 4, 4] = 0
    assert holes(mask_of(ids), label=1)[0, 4, 4] == 0
    assert (holes(mask_of(ids), label=1)[3:6, 3:6, 3:6] == 0).all()
    found = holes(mask_of(ids), label=1, across="slices")
    assert (found[1:8, 1:11, 1:11] == 1).all()
    assert (found[0] == 0).all()


@pytest.mark.parametrize(("axis", "number"), [("z", 0), ("y", 1), ("x", 2)])
def test_slices_are_closed_across_the_chosen_axis(axis, number):
    ids = np.zeros((11, 11, 11), np.uint8)
    ids[2:9, 2:9, 2:9] = 1
    tunnel = [slice(4, 6)] * 3
    tunnel[number] = slice(None)
    ids[tuple(tunnel)] = 0
    filled = {a: holes(mask_of(ids), label=1, across="slices", axis=a) for a in "zyx"}
    assert (filled[axis] == 1).sum() == 7**3
    for other in set("zyx") - {axis}:
        assert np.array_equal(filled[other], ids)
    slices = np.moveaxis(ids == 1, number, 0)
    expected = np.stack([ndimage.binary_fill_holes(part) for part in slices])
    assert np.array_equal(np.moveaxis(filled[axis] == 1, number, 0), expected)


@pytest.mark.parametrize(("largest", "left"), [(0, 0), (19, 28), (20, 27), (539, 27), (540, 0)])
def test_holes_above_a_volume_in_mm3_stay_open(largest, left):
    found = holes(mask_of(shell()), label=1, largest=largest)
    assert (found[1:8, 1:11, 1:11] == 0).sum() == left


def test_by_slices_the_size_of_each_slices_hole_counts():
    found = holes(mask_of(shell()), label=1, across="slices", largest=20)
    assert (found[1:8, 1:11, 1:11] == 0).sum() == 27
    found = holes(mask_of(shell()), label=1, across="slices", largest=9 * 20)
    assert (found[1:8, 1:11, 1:11] == 0).sum() == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(9, 10, 11), (20, 17)]))
def test_the_filled_region_is_scipys(seed, shape):
    ids = (np.random.default_rng(seed).random(shape) < 0.7).astype(np.uint8)
    found = holes(mask_of(ids), label=1)
    assert np.array_equal(found == 1, ndimage.binary_fill_holes(ids == 1))

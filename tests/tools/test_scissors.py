from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.measure import grid_points_in_poly

from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.loop.correct import correct
from maskloop.ops.strokes import polygon
from maskloop.tools.scissors import scissors

SPACING = (5.0, 1.0, 0.7)


def mask_of(ids: np.ndarray) -> Mask:
    grid = Geometry.regular(ids.shape, SPACING) if ids.ndim == 3 else Geometry.pixels(ids.shape)
    labels = LabelTable.classes(["liver", "vessel"])
    return Mask.like(Image(np.zeros(ids.shape, np.int16), grid), ids, labels)


@given(st.integers(0, 2**31), st.integers(3, 12))
def test_polygons_are_filled_as_by_scikit_image(seed, corners):
    # Corners off the pixel centres: what lies on a line itself is either's.
    rng = np.random.default_rng(seed)
    ring = rng.uniform(-4, 34, (corners, 2))
    assert np.array_equal(polygon(ring.tolist(), (30, 26)), grid_points_in_poly((30, 26), ring))


def test_a_polygon_of_pixel_corners_holds_just_its_pixels():
    found = polygon([(1.5, 2.5), (1.5, 6.5), (4.5, 6.5), (4.5, 2.5)], (8, 9))
    expected = np.zeros((8, 9), bool)
    expected[2:5, 3:7] = True
    assert np.array_equal(found, expected)


OUTLINE = ((4, 5.5, 5.5), (4, 5.5, 20.5), (4, 15.5, 20.5), (4, 15.5, 5.5))


def block() -> np.ndarray:
    ids = np.zeros((9, 30, 30), np.uint8)
    ids[1:8, 3:27, 3:27] = 1
    ids[:, 10, :] = 2
    return ids


@pytest.mark.parametrize(
    ("through", "depth", "slices"),
    [
        ("slice", 0.0, [4]),
        ("depth", 5.0, [3, 4, 5]),
        ("depth", 9.9, [3, 4, 5]),
        ("all slices", 0, range(9)),
    ],
)
def test_erasing_inside_goes_through_the_slices_asked_for(through, depth, slices):
    ids = block()
    found = scissors(mask_of(ids), label=1, outline=OUTLINE, through=through, depth=depth)
    expected = ids.copy()
    for k in slices:
        inner = expected[k, 6:16, 6:21]
        inner[inner == 1] = 0
    assert np.array_equal(found, expected)


def test_erasing_outside_leaves_what_is_inside_on_the_slice_and_all_other_slices():
    ids = block()
    found = scissors(mask_of(ids), label=1, outline=OUTLINE, what="erase outside")
    expected = ids.copy()
    inside = np.zeros((30, 30), bool)
    inside[6:16, 6:21] = True
    expected[4][~inside & (ids[4] == 1)] = 0
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_filling_works_across_every_axis(axis):
    ids = np.zeros((20, 20, 20), np.uint8)
    corners = np.insert(np.array([(2.5, 3.5), (2.5, 8.5), (6.5, 8.5), (6.5, 3.5)]), axis, 7, axis=1)
    found = scissors(mask_of(ids), label=1, outline=corners.tolist(), what="fill inside")
    plane = np.moveaxis(found, axis, 0)
    assert plane[7, 3:7, 4:9].all()
    assert found.sum() == 20


def test_a_picture_is_one_slice():
    ids = np.zeros((20, 30), np.uint8)
    corners = ((2.5, 3.5), (2.5, 8.5), (6.5, 8.5), (6.5, 3.5))
    found = scissors(mask_of(ids), label=1, outline=corners, what="fill inside")
    assert found[3:7, 4:9].all()
    assert found.sum() == 20


def test_the_step_is_the_persons_and_can_be_undone():
    mask = mask_of(block())
    values = {"outline": OUTLINE, "through": "all slices"}
    done = correct(mask, "scissors", label="liver", parameters=values)
    assert done.edit.kind == "person"
    ids = done.mask.data.copy()
    done.edit.revert(ids)
    assert np.array_equal(ids, mask.data)


def test_an_outline_over_several_slices_is_refused():
    with pytest.raises(InputError, match="positions on one slice"):
        scissors(mask_of(block()), label=1, outline=((1, 2, 3), (2, 5, 7), (3, 9, 1)))

from __future__ import annotations

import numpy as np
import pytest

from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.tools.threshold import threshold


def scene() -> tuple[Image, Mask]:
    """A bright square of 60 HU, half of it labelled, with a bright square apart from it."""
    pixels = np.full((30, 40), -20, np.int16)
    pixels[10:20, 10:20] = 60
    pixels[10:20, 24:28] = 60
    ids = np.zeros((30, 40), np.uint8)
    ids[8:20, 10:15] = 1
    image = Image(pixels, Geometry.pixels((30, 40)))
    return image, Mask.like(image, ids, LabelTable.classes(["lesion", "vessel"]))


def test_inside_drops_voxels_out_of_range():
    image, mask = scene()
    found = threshold(mask, image, label=1, lower=0)
    assert np.array_equal(found == 1, (mask.data == 1) & (image.data >= 0))


def test_both_ends_belong_to_the_range():
    image, mask = scene()
    assert (threshold(mask, image, label=1, lower=60, upper=60) == 1).sum() == 50
    assert (threshold(mask, image, label=1, lower=61) == 1).sum() == 0


def test_around_takes_background_in_range_within_the_margin():
    image, mask = scene()
    found = threshold(mask, image, label=1, lower=0, where="around", margin=3)
    assert (found[10:20, 15:18] == 1).all()
    assert (found[10:20, 18:] == 0).all()
    assert (found[8:10, 10:15] == 1).all()


def test_connected_only_leaves_what_stands_apart():
    image, mask = scene()
    near = threshold(mask, image, label=1, lower=0, where="around", margin=30)
    assert (near[10:20, 10:20] == 1).all()
    assert (near[10:20, 24:28] == 0).all()
    far = threshold(mask, image, label=1, lower=0, where="around", margin=30, connected=False)
    assert (far[10:20, 24:28] == 1).all()


def test_both_drops_and_takes():
    image, mask = scene()
    found = threshold(mask, image, label=1, lower=0, where="both", margin=30)
    assert np.array_equal(
        np.argwhere(found == 1), np.argwhere(np.pad(np.ones((10, 10)), ((10, 10), (10, 20))))
    )


def test_other_labels_in_range_stay():
    image, mask = scene()
    mask.data[10:20, 15:17] = 2
    found = threshold(mask, image, label=1, lower=0, where="both", margin=30)
    assert (found[10:20, 15:17] == 2).all()
    assert (found[10:20, 17:] == 0).all()  # the vessel is a wall


def test_pixels_that_are_not_a_number_are_out_of_range():
    image, mask = scene()
    pixels = image.data.astype(np.float32)
    pixels[12, 12] = np.nan
    found = threshold(mask, Image(pixels, image.geometry), label=1, upper=100)
    assert found[12, 12] == 0
    assert (found == 1).sum() == 59


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "expected lower or upper for threshold, got neither"),
        ({"lower": 5, "upper": 1}, "expected lower up to upper, got 5 and 1"),
    ],
)
def test_a_range_that_cannot_work_is_refused(values, words):
    image, mask = scene()
    with pytest.raises(InputError, match=words):
        threshold(mask, image, label=1, **values)


def test_without_one_intensity_a_voxel_it_is_refused():
    _, mask = scene()
    with pytest.raises(InputError, match="got none; give the image"):
        threshold(mask, None, label=1, lower=0)
    colour = Image(np.zeros((30, 40, 3), np.uint8), mask.geometry, has_channels=True)
    with pytest.raises(InputError, match=r"got shape \(30, 40, 3\)"):
        threshold(mask, colour, label=1, lower=0)

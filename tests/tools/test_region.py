from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.segmentation import flood

from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.loop.correct import correct
from maskloop.tools.region import region

SPACING = (3.0, 1.0, 0.8)
SHAPE = (15, 50, 60)


def place(index: tuple[float, ...]) -> np.ndarray:
    """Distances in mm of all voxels from an index."""
    offset = np.indices(SHAPE) - np.array(index)[:, None, None, None]
    return np.linalg.norm(offset * np.array(SPACING)[:, None, None, None], axis=0)


def scene(pixels: np.ndarray, ids: np.ndarray | None = None, locked: bool = False):
    geometry = Geometry.regular(SHAPE, SPACING)
    image = Image(pixels.astype(np.int16), geometry)
    labels = LabelTable([Label(1, "tumour"), Label(2, "liver"), Label(3, "vessel", locked=locked)])
    return image, Mask.like(image, np.zeros(SHAPE, np.uint8) if ids is None else ids, labels)


@pytest.mark.parametrize("touching", ["faces", "corners"])
def test_without_a_limit_it_is_the_flood_of_scikit_image(touching):
    rng = np.random.default_rng(0)
    pixels = ndimage.gaussian_filter(rng.normal(0, 300, SHAPE), 1.2)
    pixels[7, 25, 30] = 0
    image, mask = scene(pixels)
    found = region(
        mask, image, label=1, points=((7, 25, 30),), lower=-20, upper=20, within=1000.0,
        touching=touching, fill=False,
    )  # fmt: skip
    expected = flood(
        (np.abs(image.data) <= 20).astype(int),
        (7, 25, 30),
        connectivity=1 if touching == "faces" else 3,
    )
    assert np.array_equal(found == 1, expected)


def test_the_limit_is_a_radius_in_millimetres_round_the_points():
    image, mask = scene(np.full(SHAPE, 50))
    found = region(mask, image, label=1, points=((7, 25, 20),), lower=0, upper=99, within=9.0)
    assert np.array_equal(found == 1, place((7, 25, 20)) <= 9.0)


def test_a_ball_is_found_from_its_own_intensities():
    true = place((7, 25, 30)) <= 11
    noise = np.random.default_rng(0).normal(0, 4, SHAPE)
    image, mask = scene(np.where(true, 60, 120) + noise)
    found = region(mask, image, label=1, points=((7, 25, 30),), spread=5.0, within=30) == 1
    assert np.array_equal(found, true)


def test_a_leak_is_sealed_by_a_ball_that_does_not_pass_it():
    one, other = place((7, 25, 15)) <= 9, place((7, 25, 45)) <= 9
    neck = np.zeros(SHAPE, bool)
    neck[7, 25, 15:45] = True
    image, mask = scene(np.where(one | other | neck, 100, 0))
    given = {"points": ((7, 25, 15),), "lower": 50.0, "within": 60.0}
    leaked = region(mask, image, label=1, **given) == 1
    sealed = region(mask, image, label=1, seal=1.5, **given) == 1
    assert leaked[other].all()
    assert not sealed[other].any()
    assert (sealed & one).sum() > 0.93 * one.sum()
    assert not (sealed & ~one & ~neck).any()


def test_it_takes_the_label_it_was_begun_in_and_no_other():
    pixels = np.where(place((7, 25, 30)) <= 9, 60, 120)
    ids = np.full(SHAPE, 2, np.uint8)
    ids[:, :, 32:] = 3
    image, mask = scene(pixels, ids)
    found = region(mask, image, label=1, points=((7, 25, 28),), upper=90.0)
    assert np.array_equal(found == 1, (pixels == 60) & (ids == 2))
    assert (found[:, :, 32:] == 3).all()


def test_it_grows_in_a_picture_and_is_one_step():
    y, x = np.indices((40, 40))
    pixels = np.where(np.hypot(y - 20, x - 18) <= 8, 200, 10).astype(np.uint8)
    image = Image(pixels, Geometry.pixels((40, 40)))
    mask = Mask.like(image, np.zeros((40, 40), np.uint8), LabelTable())
    done = correct(
        mask, "region", image=image, label="cell", parameters={"points": "20,18", "lower": 100}
    )
    assert np.array_equal(done.mask.data == 1, pixels == 200)
    assert done.mask.labels[1].name == "cell"
    assert done.edit.kind == "tool"


def test_bounds_the_wrong_way_round_are_told():
    image, mask = scene(np.zeros(SHAPE))
    with pytest.raises(InputError, match="lower up to upper"):
        region(mask, image, label=1, points=((7, 25, 30),), lower=5, upper=-5)


def test_colours_are_taken_as_their_grey():
    y, x = np.indices((40, 40))
    true = np.hypot(y - 20, x - 18) <= 8
    colours = np.where(true[..., None], (200, 40, 90), (10, 60, 20)).astype(np.uint8)
    image = Image(colours, Geometry.pixels((40, 40)), has_channels=True)
    mask = Mask.like(image, np.zeros((40, 40), np.uint8), ["cell"])
    given = {"points": ((20, 18),), "within": 30.0}
    edges = (93.0 + 0.1, 93.54 - 0.1)  # 0.299 * 200 + 0.587 * 40 + 0.114 * 90 = 93.54
    assert np.array_equal(region(mask, image, label=1, lower=edges[0], **given) == 1, true)
    assert not region(mask, image, label=1, upper=edges[1], **given).any()
    odd = Image(colours[..., :2], image.geometry, has_channels=True)
    with pytest.raises(InputError, match="one intensity or colour"):
        region(mask, odd, label=1, lower=1.0, **given)

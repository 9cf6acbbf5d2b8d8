from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.tools.grow import grow
from maskloop.tools.hollow import hollow

SPACING = (3.0, 1.0, 0.7)


def mask_of(ids: np.ndarray, spacing: tuple[float, ...] = SPACING) -> Mask:
    grid = Geometry.regular(ids.shape, spacing) if ids.ndim == 3 else Geometry.pixels(ids.shape)
    labels = LabelTable.classes(["liver", "vessel"])
    return Mask.like(Image(np.zeros(ids.shape, np.int16), grid), ids, labels)


@given(
    st.integers(0, 2**31),
    st.floats(0, 9),
    st.sampled_from(["inside", "outside", "both"]),
    st.sampled_from([2, 3]),
)
def test_the_shell_is_what_margins_take_and_add(seed, thickness, where, ndim):
    rng = np.random.default_rng(seed)
    ids = (ndimage.gaussian_filter(rng.random((10, 24, 25)[-ndim:]), 2) > 0.5).astype(np.uint8)
    mask = mask_of(ids)
    inner, outer = {"inside": (1, 0), "outside": (0, 1), "both": (0.5, 0.5)}[where]
    more = grow(mask, label=1, margin=outer * thickness) == 1
    less = grow(mask, label=1, margin=-inner * thickness) == 1
    found = hollow(mask, label=1, thickness=thickness, where=where)
    assert np.array_equal(found == 1, more & ~less)


@pytest.mark.parametrize(("where", "side"), [("inside", -1), ("outside", 1)])
def test_the_shell_of_a_ball_is_as_thick_as_asked_to_half_a_voxel(where, side):
    grid = np.indices((61, 61, 61)) - 30.0
    ids = ((grid**2).sum(0) <= 20**2).astype(np.uint8)
    found = hollow(mask_of(ids, (1.0, 1.0, 1.0)), label=1, thickness=4.0, where=where)
    thin, thick = (4 / 3 * np.pi * abs((20 + side * t) ** 3 - 20**3) for t in (3.5, 4.0))
    assert thin < (found == 1).sum() < thick


def test_other_labels_stay_and_the_edge_of_the_image_is_no_surface():
    ids = np.zeros((30, 30), np.uint8)
    ids[:, 10:20] = 1
    ids[:, 21] = 2
    found = hollow(mask_of(ids), label=1, thickness=3.0, where="outside")
    assert (found[:, 21] == 2).all()
    assert (found[:, [7, 8, 9, 20, 22]] == 1).all()
    assert (found[:, 10:20] == 0).all()
    assert (hollow(mask_of(ids), label=1, thickness=3.0)[:, 13:17] == 0).all()

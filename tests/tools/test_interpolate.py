from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.loop.load import load_mask
from maskloop.tools.interpolate import interpolate

SPACING = (5.0, 0.8, 1.1)


def mask_of(ids: np.ndarray, spacing: tuple[float, ...] = SPACING) -> Mask:
    grid = Geometry.regular(ids.shape, spacing) if ids.ndim == 3 else Geometry.pixels(ids.shape)
    labels = LabelTable.classes(["liver", "vessel"])
    return Mask.like(Image(np.zeros(ids.shape, np.int16), grid), ids, labels)


def ellipsoid(shape=(41, 60, 64)) -> np.ndarray:
    grid = np.stack(np.indices(shape), -1) - np.array(shape) / 2
    return ((grid / (np.array(shape) * 0.45)) ** 2).sum(-1) <= 1


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_an_ellipsoid_comes_back_from_every_fourth_slice_along_any_axis(axis):
    true, number = ellipsoid(), "zyx".index(axis)
    ids = np.zeros(true.shape, np.uint8)
    stack, drawn = np.moveaxis(ids, number, 0), np.moveaxis(true, number, 0)
    stack[::4] = drawn[::4]
    found = interpolate(mask_of(ids), label=1, axis=axis)
    held = np.flatnonzero(stack.any(axis=(1, 2)))
    span = slice(held[0], held[-1] + 1)
    assert dice(np.moveaxis(found, number, 0)[span] == 1, drawn[span]) > 0.98
    assert np.array_equal(np.moveaxis(found, number, 0)[::4], stack[::4])
    assert not np.moveaxis(found, number, 0)[: span.start].any()
    assert not np.moveaxis(found, number, 0)[span.stop :].any()


@given(st.integers(0, 2**31))
def test_other_labels_and_drawn_slices_never_change_and_gaps_only_fill(seed):
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.random((3, 12, 24, 22)), (0, 2, 3, 3))
    ids = fields.argmax(0).astype(np.uint8)
    for at in rng.choice(12, 7, replace=False):
        ids[at][ids[at] == 1] = 0
    found = interpolate(mask_of(ids), label=1)
    assert np.array_equal(found == 2, ids == 2)
    held = (ids == 1).any(axis=(1, 2))
    assert np.array_equal(found[held], ids[held])
    assert ((found == ids) | (ids == 0)).all()
    outside = np.flatnonzero(held)[[0, -1]] if held.any() else [12, -1]
    assert np.array_equal(found[: outside[0]], ids[: outside[0]])
    assert np.array_equal(found[outside[1] + 1 :], ids[outside[1] + 1 :])


def test_every_second_slice_is_trusted_and_the_others_are_drawn_anew():
    true = ellipsoid()
    ids = true.astype(np.uint8)
    rng = np.random.default_rng(0)
    held = np.flatnonzero(true.any(axis=(1, 2)))
    for at in held[1:-1:2]:
        ids[at] = rng.random(ids[at].shape) < 0.5
    found = interpolate(mask_of(ids), label=1, every=2)
    assert np.array_equal(found[held[::2]], ids[held[::2]])
    assert dice(found == 1, true) > 0.98
    assert np.array_equal(interpolate(mask_of(ids), label=1), ids)


@pytest.mark.parametrize(("longest", "is_filled"), [(0.0, True), (19.9, False), (20.0, True)])
def test_gaps_longer_than_so_many_mm_stay_open(longest, is_filled):
    ids = np.zeros((12, 20, 20), np.uint8)
    ids[[1, 3, 7], 5:15, 5:15] = 1
    found = interpolate(mask_of(ids), label=1, longest=longest)
    assert found[2, 10, 10] == 1
    assert found[4:7].any() == is_filled


def test_distances_in_the_slice_are_in_mm():
    # From a small to a large square on pixels three times as long as wide: where the outline lies
    # half way is decided by the shorter distance, in mm.
    ids = np.zeros((3, 60, 60), np.uint8)
    ids[0, 28:32, 28:32] = 1
    ids[2, 20:40, 4:56] = 1
    square = interpolate(mask_of(ids, (5.0, 1.0, 1.0)), label=1)[1]
    long = interpolate(mask_of(ids, (5.0, 3.0, 1.0)), label=1)[1]
    assert long.sum() > square.sum() > 16
    region = ids == 1
    for spacing, found in (((1.0, 1.0), square), ((3.0, 1.0), long)):
        signed = [
            ndimage.distance_transform_edt(region[at], sampling=spacing)
            - ndimage.distance_transform_edt(~region[at], sampling=spacing)
            for at in (0, 2)
        ]
        mean = signed[0] + signed[1]
        assert np.array_equal(found[abs(mean) > 1e-4] == 1, mean[abs(mean) > 1e-4] > 0)


def test_a_picture_has_no_slices_between():
    ids = np.zeros((20, 20), np.uint8)
    ids[4:8, 4:8] = ids[12:16, 4:8] = 1
    assert np.array_equal(interpolate(mask_of(ids), label=1), ids)


def test_a_real_liver_comes_back_from_every_third_slice(shared_data):
    mask = load_mask(shared_data / "ct_liver" / "ircadb17" / "labels_3mm.nii.gz")
    true = mask.data == 1
    held = np.flatnonzero(true.any(axis=(1, 2)))
    ids = np.zeros(true.shape, np.uint8)
    ids[held[::3]] = true[held[::3]]
    found = interpolate(replace(mask, data=ids), label=1)
    span = slice(held[0], held[::3][-1] + 1)
    assert dice(found[span] == 1, true[span]) > 0.96

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.tools.smooth import smooth

SPACING = (3.0, 1.0, 1.5)
METHODS = ["median", "opening", "closing", "gaussian"]


def mask_of(ids: np.ndarray) -> Mask:
    grid = Geometry.regular(ids.shape, SPACING) if ids.ndim == 3 else Geometry.pixels(ids.shape)
    labels = LabelTable.classes(["liver", "vessel"])
    return Mask.like(Image(np.zeros(ids.shape, np.int16), grid), ids, labels)


def ball(radius: float, spacing: tuple[float, ...]) -> np.ndarray:
    half = [int(radius / s) for s in spacing]
    grid = np.meshgrid(
        *[np.arange(-h, h + 1) * s for h, s in zip(half, spacing, strict=True)], indexing="ij"
    )
    return sum(g**2 for g in grid) <= radius**2 + 1e-9


def blob(seed: int, ndim: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ids = ndimage.gaussian_filter(rng.random((12, 30, 28)[-ndim:]), 1.5) > 0.5
    inner = np.zeros_like(ids)
    inner[tuple(slice(n // 4, -(n // 4)) for n in ids.shape)] = True
    return (ids & inner).astype(np.uint8)


def reference(
    region: np.ndarray, method: str, radius: float, spacing: tuple[float, ...]
) -> np.ndarray:
    width = 24
    wide = np.pad(region, width)
    kernel = ball(radius, spacing)
    if method == "median":
        counts = ndimage.convolve(wide.astype(np.int32), kernel.astype(np.int32), mode="constant")
        found = counts > kernel.sum() / 2
    elif method == "gaussian":
        sigma = [radius / s for s in spacing]
        found = ndimage.gaussian_filter(wide.astype(np.float32), sigma, mode="nearest") > 0.5
    elif method == "opening":
        found = ndimage.binary_opening(wide, kernel)
    else:
        found = ndimage.binary_closing(wide, kernel)
    return found[tuple(slice(width, -width) for _ in region.shape)]


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    radius=st.sampled_from([1.6, 2.3, 4.1]),
    ndim=st.sampled_from([2, 3]),
)
def test_the_smoothed_region_is_scipys(method, seed, radius, ndim):
    ids = blob(seed, ndim)
    found = smooth(mask_of(ids), label=1, method=method, radius=radius)
    spacing = SPACING if ndim == 3 else (1.0, 1.0)
    assert np.array_equal(found == 1, reference(ids == 1, method, radius, spacing))


def test_opening_cuts_a_bridge_and_closing_a_gap():
    ids = np.zeros((30, 50), np.uint8)
    ids[5:25, 5:20] = ids[5:25, 30:45] = 1
    ids[14:16, 20:30] = 1
    assert smooth(mask_of(ids), label=1, method="opening", radius=3)[14, 25] == 0
    ids = np.zeros((30, 50), np.uint8)
    ids[5:25, 5:45] = 1
    ids[5:25, 24:26] = 0
    assert (smooth(mask_of(ids), label=1, method="closing", radius=3)[8:22, 24:26] == 1).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_label_cut_by_the_edge_of_the_image_is_not_eaten_there(method):
    ids = np.zeros((12, 30, 30), np.uint8)
    ids[:, 8:22, :] = 1
    assert np.array_equal(smooth(mask_of(ids), label=1, method=method, radius=3.0), ids)


@pytest.mark.parametrize("method", METHODS)
def test_a_ball_keeps_its_size_and_noise_on_it_goes(method):
    z, y, x = np.indices((17, 50, 36))
    clean = ((z - 8) * 3.0) ** 2 + ((y - 25) * 1.0) ** 2 + ((x - 18) * 1.5) ** 2 <= 18.0**2
    found = smooth(mask_of(clean.astype(np.uint8)), label=1, method=method, radius=2.0) == 1
    assert 2 * (found & clean).sum() / (found.sum() + clean.sum()) > 0.97
    if method in ("median", "gaussian"):
        rng = np.random.default_rng(0)
        rough = clean ^ (rng.random(clean.shape) < 0.05)
        smoothed = smooth(mask_of(rough.astype(np.uint8)), label=1, method=method, radius=3.0) == 1
        assert (smoothed ^ clean).sum() < 0.5 * (rough ^ clean).sum()


def test_radius_zero_changes_nothing():
    ids = blob(3, 3)
    for method in METHODS:
        assert np.array_equal(smooth(mask_of(ids), label=1, method=method, radius=0.0), ids)


def test_joint_changes_all_unlocked_labels_wherever_they_are_and_opens_no_gap():
    rng = np.random.default_rng(2)
    ids = np.zeros((12, 40, 60), np.uint8)
    ids[2:10, 5:35, 4:24] = 1
    ids[2:10, 5:35, 24:44] = 2
    ids[2:10, 5:35, 22:26] = 1 + (rng.random((8, 30, 4)) < 0.5)  # a ragged border between the two
    ids[4:7, 10:14, 52:56] = 2
    found = smooth(mask_of(ids), label=1, method="joint", radius=2.0)
    alone = smooth(mask_of((ids > 0).astype(np.uint8)), label=1, method="gaussian", radius=2.0)
    assert np.array_equal(found > 0, alone > 0)
    assert (found[3:9, 9:31, 8:40] > 0).all()
    border = found[5, 20, 4:44]
    assert (np.diff(border.astype(int)) != 0).sum() == 1
    one = smooth(mask_of(ids), label=1, method="gaussian", radius=2.0)
    assert np.array_equal(one == 2, ids == 2)


def test_joint_is_the_gaussian_where_there_is_one_label():
    ids = blob(5, 3)
    one, two = (smooth(mask_of(ids), label=1, method=m, radius=2.0) for m in ("joint", "gaussian"))
    assert np.array_equal(one, two)


def test_joint_leaves_locked_labels():
    ids = blob(5, 3)
    ids[ids > 0] = 1 + (np.indices(ids.shape)[2][ids > 0] > 14)
    mask = mask_of(ids)
    locked = LabelTable([Label(1, "liver"), Label(2, "vessel", locked=True)])
    found = smooth(replace(mask, labels=locked), label=1, method="joint", radius=2.0)
    assert np.array_equal(found == 2, ids == 2)
    assert not np.array_equal(found, ids)

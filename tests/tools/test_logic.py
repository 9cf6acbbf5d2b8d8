from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from maskloop.core.errors import InputError, UnknownNameError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.tools.logic import logic

SPACING = (3.0, 1.0, 0.7)


def mask_of(ids: np.ndarray, **second: object) -> Mask:
    grid = Geometry.regular(ids.shape, SPACING) if ids.ndim == 3 else Geometry.pixels(ids.shape)
    labels = LabelTable([Label(1, "liver"), Label(2, "tumour", **second), Label(3, "vessel")])
    return Mask.like(Image(np.zeros(ids.shape, np.int16), grid), ids, labels)


def three(seed: int, ndim: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.random((10, 24, 25)[-ndim:]), 1.5) for _ in range(4)]
    return np.argmax(fields, axis=0).astype(np.uint8)


def widened(region: np.ndarray, margin: float) -> np.ndarray:
    spacing = SPACING if region.ndim == 3 else (1.0, 1.0)
    if margin > 0:
        return ndimage.distance_transform_edt(~region, sampling=spacing) <= margin + 1e-5
    return ndimage.distance_transform_edt(region, sampling=spacing) > -margin + 1e-5


@given(
    st.integers(0, 2**31),
    st.sampled_from(["add", "subtract", "intersect", "copy"]),
    st.sampled_from([-2.1, -1.1, 0.0, 1.1, 3.2]),
    st.booleans(),
    st.sampled_from([2, 3]),
)
def test_the_operations_are_those_of_sets(seed, operation, margin, is_locked, ndim):
    ids = three(seed, ndim)
    if not (ids == 2).any():
        return
    mask = mask_of(ids, locked=is_locked)
    found = logic(mask, label=1, other="tumour", operation=operation, margin=margin)
    wide = widened(ids == 2, margin) if margin else ids == 2
    own = ids == 1
    free = (ids == 0) | ((ids == 2) & (not is_locked))
    expected = {
        "add": own | (wide & free),
        "subtract": own & ~wide,
        "intersect": own & wide,
        "copy": wide & (free | own),
    }[operation]
    assert np.array_equal(found == 1, expected)
    assert np.array_equal(found == 3, ids == 3)
    assert np.array_equal(found == 2, (ids == 2) & ~expected)


def test_a_label_without_voxels_can_be_begun_by_a_copy():
    ids = np.zeros((20, 20), np.uint8)
    ids[5:9, 5:9] = 2
    found = logic(mask_of(ids), label=1, other=2, operation="copy", margin=1.0)
    assert (found == 1).sum() == 16 + 4 * 4
    assert not (found == 2).any()


def test_another_label_must_be_named():
    mask = mask_of(np.ones((5, 5), np.uint8))
    with pytest.raises(InputError, match=r"another label for logic, got none; choose one of: 2"):
        logic(mask, label=1)
    with pytest.raises(InputError, match="got 'liver' itself"):
        logic(mask, label=1, other="liver")
    with pytest.raises(UnknownNameError, match="tumor"):
        logic(mask, label=1, other="tumor")
    assert np.array_equal(logic(replace(mask), label=1, other="tumour"), mask.data)

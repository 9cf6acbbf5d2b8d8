from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.core.parameters import Points
from maskloop.loop.correct import correct
from maskloop.tools.copy_slice import copy_slice

SPACING = (3.0, 1.0, 0.8)


def tube(lean: float = 0.0, growth: float = 0.0) -> tuple[Image, np.ndarray]:
    """A bright tube (60) in tissue (0) with noise; its middle and radius change by slice, in mm."""
    z, y, x = np.indices((12, 60, 70)) * np.array(SPACING)[:, None, None, None]
    step = z / 3.0 - 4
    true = (y - 30 - lean * step) ** 2 + (x - 28) ** 2 <= (9 + growth * step) ** 2
    noise = np.random.default_rng(0).normal(0, 5, true.shape)
    pixels = (60 * true + noise).astype(np.int16)
    return Image(pixels, Geometry.regular(true.shape, SPACING)), true


def mask_of(image: Image, ids: np.ndarray) -> Mask:
    return Mask.like(image, ids, LabelTable.classes(["lesion", "vessel"]))


def drawn(true: np.ndarray, at: int = 4) -> np.ndarray:
    ids = np.zeros(true.shape, np.uint8)
    ids[at] = true[at]
    return ids


AT = Points([(4, 30, 35)])


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize(
    ("slices", "filled"), [(1, [5]), (3, [5, 6, 7]), (-2, [2, 3]), (99, list(range(5, 12)))]
)
def test_the_slice_is_copied_to_so_many_slices_on_or_back(slices, filled):
    image, true = tube()
    ids = drawn(true)
    found = copy_slice(mask_of(image, ids), label=1, at=AT, slices=slices)
    for at in range(12):
        expected = ids[4] if at in [4, *filled] else 0
        assert np.array_equal(found[at], np.broadcast_to(expected, ids[4].shape))


def test_adjusted_it_follows_a_structure_that_leans_and_grows():
    image, true = tube(lean=1.2, growth=0.6)
    mask = mask_of(image, drawn(true))
    plain = copy_slice(mask, image, label=1, at=AT, slices=5)
    found = copy_slice(mask, image, label=1, at=AT, slices=5, adjust=True, band=3.0)
    assert dice(found[9] == 1, true[9]) > 0.9 > dice(plain[9] == 1, true[9])
    for at in range(5, 10):
        assert dice(found[at] == 1, true[at]) > 0.9


def test_the_outline_moves_no_further_than_the_band_in_mm():
    image, true = tube()
    image.data[:] = 60  # the same everywhere
    ids = drawn(true)
    values = {"at": AT, "adjust": True, "share": 100.0}
    for band in (0.0, 2.0):
        found = copy_slice(mask_of(image, ids), image, label=1, band=band, **values)
        away = ndimage.distance_transform_edt(~true[4], sampling=SPACING[1:])
        assert np.array_equal(found[5] == 1, away <= band + 1e-6)


def test_only_the_piece_at_the_point_is_copied():
    image, true = tube()
    ids = drawn(true)
    ids[4, 50:55, 60:65] = 1
    mask = mask_of(image, ids)
    assert copy_slice(mask, label=1, at=AT)[5, 52, 62] == 1
    found = copy_slice(mask, label=1, at=AT, what="piece")
    assert np.array_equal(found[5] == 1, true[4])
    with pytest.raises(InputError, match="on a piece that holds the label, got one beside it"):
        copy_slice(mask, label=1, at=Points([(4, 2, 2)]), what="piece")


def test_what_is_there_stays_or_is_replaced_and_other_labels_stay():
    image, true = tube()
    ids = drawn(true)
    ids[5, 2:6, 2:6] = 1
    ids[5, 28:33, 30:40] = 2
    mask = mask_of(image, ids)
    kept = copy_slice(mask, label=1, at=AT)
    assert (kept[5, 2:6, 2:6] == 1).all()
    assert (kept[5, 28:33, 30:40] == 2).all()
    replaced = copy_slice(mask, label=1, at=AT, existing="replace")
    assert not replaced[5, 2:6, 2:6].any()
    assert (replaced[5, 28:33, 30:40] == 2).all()


@pytest.mark.parametrize("axis", ["y", "x"])
def test_it_copies_along_any_axis(axis):
    image, true = tube()
    ids = true.astype(np.uint8)
    number = "zyx".index(axis)
    point = [4, 30, 35]
    stack = np.moveaxis(ids, number, 0)
    stack[point[number] + 1 :] = 0
    found = copy_slice(mask_of(image, ids), label=1, at=Points([point]), axis=axis, slices=2)
    moved = np.moveaxis(found, number, 0)
    for by in (1, 2):
        assert np.array_equal(moved[point[number] + by], stack[point[number]])
    assert not moved[point[number] + 3 :].any()


def test_it_looks_at_its_slices_only_however_large_the_volume():
    image, true = tube()
    done = correct(
        mask_of(image, drawn(true)), "copy_slice", image=image, parameters={"at": AT, "slices": 2}
    )
    assert done.edit.box[0] == slice(5, 7)
    assert done.edit.voxels == 2 * true[4].sum()


def test_what_cannot_be_copied_is_refused():
    image, true = tube()
    mask = mask_of(image, drawn(true))
    with pytest.raises(InputError, match="a point in the slice to copy from, got none"):
        copy_slice(mask, label=1)
    with pytest.raises(InputError, match="on a slice that holds the label, got one beside it"):
        copy_slice(mask, label=1, at=Points([(6, 30, 35)]))
    with pytest.raises(InputError, match="adjust to, got none; give the image"):
        copy_slice(mask, label=1, at=AT, adjust=True)

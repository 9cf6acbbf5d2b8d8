from __future__ import annotations

import numpy as np
import pytest

from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.tools.merge import merge


def mask_of(ids: np.ndarray, **second: object) -> Mask:
    spacing = (5.0, 2.0, 2.0)
    grid = Geometry.regular(ids.shape, spacing) if ids.ndim == 3 else Geometry.pixels(ids.shape)
    labels = LabelTable([Label(1, "cell 1"), Label(2, "cell 2", **second), Label(3, "cell 3")])
    return Mask.like(Image(np.zeros(ids.shape, np.int16), grid), ids, labels)


def scene() -> np.ndarray:
    ids = np.zeros((5, 20, 40), np.uint8)
    ids[1:4, 5:10, 5:10] = 1
    ids[1:4, 5:10, 13:16] = 2  # 8 mm between centres from 1
    ids[1:4, 10:12, 10:12] = 2  # meets 1 at an edge
    ids[1:4, 5:10, 30:34] = 2  # far away
    ids[2, 7, 10] = 3
    return ids


def test_all_of_the_other_joins_wherever_it_is():
    ids = scene()
    found = merge(mask_of(ids), label=1, other="cell 2")
    assert np.array_equal(found == 1, np.isin(ids, (1, 2)))
    assert np.array_equal(found == 3, ids == 3)


@pytest.mark.parametrize(("gap", "joined"), [(0.0, 1), (7.9, 1), (8.0, 2), (42.0, 3)])
def test_only_pieces_that_touch_or_come_within_the_gap_in_mm(gap, joined):
    ids = scene()
    found = merge(mask_of(ids), label=1, other=2, touching=True, gap=gap)
    pieces = ((10, 10), (5, 13), (5, 30))
    assert sum(bool(found[2, y, x] == 1) for y, x in pieces) == joined


def test_the_gap_is_closed_over_background_only_and_where_it_is_short_enough():
    ids = scene()
    ids[1:4, 10:12, 10:12] = 0
    assert np.array_equal(merge(mask_of(ids), label=1, other=2, gap=7.9) > 0, ids > 0)
    found = merge(mask_of(ids), label=1, other=2, gap=8.0)
    assert (found[1:4, 5:10, 10:13] == np.where(ids[1:4, 5:10, 10:13] == 3, 3, 1)).all()
    assert not found[[0, 4]].any()
    assert not found[:, :, 16:30].any()


def test_a_locked_label_is_not_merged():
    with pytest.raises(InputError, match="got 'cell 2', which is locked; unlock it first"):
        merge(mask_of(scene(), locked=True), label=1, other=2)


def test_in_a_picture_distances_are_pixels():
    found = merge(mask_of(scene()[2]), label=1, other=2, touching=True, gap=4.0)
    assert found[5, 13] == 1
    assert found[5, 30] == 2

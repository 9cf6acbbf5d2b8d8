from __future__ import annotations

import numpy as np
import pytest

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.tools.islands import islands

GRID = Geometry.regular((10, 20, 20), (5.0, 2.0, 2.0))  # a voxel is 20 mm3


def mask_of(ids: np.ndarray, geometry: Geometry = GRID, **rows: object) -> Mask:
    image = Image(np.zeros(geometry.shape, np.int16), geometry)
    labels = LabelTable([Label(1, "liver", **rows), Label(2, "tumour")])
    return Mask.like(image, ids, labels)


def pieces() -> np.ndarray:
    ids = np.zeros((10, 20, 20), np.uint8)
    ids[1:4, 2:6, 2:6] = 2  # 48 voxels
    ids[6, 10:12, 10:12] = 2  # 4 voxels
    ids[8, 15, 15] = 2  # 1 voxel
    return ids


def test_only_the_largest_piece_is_kept():
    ids = islands(mask_of(pieces()), label=2)
    assert (ids == 2).sum() == 48


@pytest.mark.parametrize(("smallest", "kept"), [(0, 53), (20, 53), (20.1, 52), (80, 52), (961, 0)])
def test_pieces_below_a_volume_in_mm3_go(smallest, kept):
    ids = islands(mask_of(pieces()), label=2, keep="all", smallest=smallest)
    assert (ids == 2).sum() == kept


def test_in_a_picture_the_size_is_in_pixels():
    ids = pieces()[6]
    picture = mask_of(ids, Geometry.pixels((20, 20)))
    assert (islands(picture, label=2, keep="all", smallest=4) == 2).sum() == 4
    assert (islands(picture, label=2, keep="all", smallest=5) == 2).sum() == 0


def test_voxels_that_meet_at_a_corner_are_one_piece_unless_told_otherwise():
    ids = np.zeros((10, 20, 20), np.uint8)
    ids[3, 4, 4:6] = ids[4, 5, 6] = 1
    assert (islands(mask_of(ids), label=1) == 1).sum() == 3
    assert (islands(mask_of(ids), label=1, touching="faces") == 1).sum() == 2


def test_a_dropped_lesion_becomes_what_surrounds_it():
    ids = np.ones((10, 20, 20), np.uint8)
    ids[2:5, 5:9, 5:9] = 2
    ids[8, 15, 15] = 2
    ids[:, 0] = 0
    ids[3, 1, 10] = 2  # five faces in the liver, one in the background
    found = islands(mask_of(ids), label=2, replace_by="surroundings")
    assert found[8, 15, 15] == 1
    assert found[3, 1, 10] == 1
    assert (found == 2).sum() == 48
    assert islands(mask_of(ids), label=2)[8, 15, 15] == 0


def test_a_locked_label_gains_nothing_from_dropped_pieces():
    ids = np.ones((10, 20, 20), np.uint8)
    ids[2:5, 5:9, 5:9] = 2
    ids[8, 15, 15] = 2
    found = islands(mask_of(ids, locked=True), label=2, replace_by="surroundings")
    assert found[8, 15, 15] == 0


def test_split_gives_each_kept_piece_an_id_the_largest_keeps_its_own():
    found = islands(mask_of(pieces()), label=2, keep="all", smallest=40, split=True)
    assert {int(i): int((found == i).sum()) for i in np.unique(found) if i} == {2: 48, 3: 4}


def test_split_widens_the_type_where_there_are_many_pieces():
    ids = np.zeros((40, 40), np.uint8)
    ids[::2, ::2] = 1
    picture = mask_of(ids, Geometry.pixels((40, 40)))
    found = islands(picture, label=1, keep="all", touching="faces", split=True)
    assert found.dtype == np.uint16
    assert len(np.unique(found)) == 401
    assert sorted(np.unique(found))[:3] == [0, 1, 3]  # 2 has a row in the table

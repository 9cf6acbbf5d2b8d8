from __future__ import annotations

import numpy as np
import pytest

from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.core.parameters import Points
from maskloop.loop.correct import correct
from maskloop.tools.delete import delete
from maskloop.tools.relabel import relabel


def mask_of(ids: np.ndarray) -> Mask:
    spacing = (5.0, 2.0, 2.0)
    grid = Geometry.regular(ids.shape, spacing) if ids.ndim == 3 else Geometry.pixels(ids.shape)
    labels = LabelTable(
        [Label(1, "liver"), Label(2, "tumour"), Label(3, "cyst"), Label(4, "vessel", locked=True)]
    )
    return Mask.like(Image(np.zeros(ids.shape, np.int16), grid), ids, labels)


def scene() -> np.ndarray:
    ids = np.zeros((6, 20, 30), np.uint8)
    ids[1:5, 3:17, 3:27] = 1
    ids[2:4, 5:8, 5:8] = 2
    ids[4, 8, 8] = 2  # hangs on by a corner
    ids[2:4, 10:14, 15:19] = 2
    ids[3, 15, 20] = 4
    return ids


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_whole_label_becomes_another(ndim):
    ids = scene()[2] if ndim == 2 else scene()
    found = relabel(mask_of(ids), label=2, becomes="cyst")
    assert np.array_equal(found, np.where(ids == 2, 3, ids))


@pytest.mark.parametrize(("touching", "voxels"), [("corners", 19), ("faces", 18)])
def test_only_the_piece_at_a_point_becomes_another(touching, voxels):
    found = relabel(mask_of(scene()), label=2, becomes=3, at=Points([(2, 6, 6)]), touching=touching)
    assert (found == 3).sum() == voxels
    assert (found[2:4, 10:14, 15:19] == 2).all()


def test_several_points_take_several_pieces():
    points = Points([(2, 6, 6), (3, 7, 7), (2, 12.4, 17)])
    assert not (relabel(mask_of(scene()), label=2, becomes=3, at=points) == 2).any()


def test_without_a_name_it_becomes_a_new_object_with_a_row():
    mask = mask_of(scene())
    done = correct(mask, "relabel", label="tumour", parameters={"at": "2,6,6"})
    assert (done.mask.data == 5).sum() == 19
    assert done.mask.labels[5].category == "tumour"


def test_a_new_id_above_255_widens_the_type():
    ids = scene()
    ids[0, 0, 0] = 255
    found = relabel(mask_of(ids), label=2)
    assert found.dtype == np.uint16
    assert (found == 256).sum() == (ids == 2).sum()


@pytest.mark.parametrize("tool", [relabel, delete])
@pytest.mark.parametrize("point", [(2, 4, 4), (0, 0, 0), (99, 6, 6), (-1, 6, 6)])
def test_a_point_beside_the_label_is_refused(tool, point):
    with pytest.raises(InputError, match="on the label, got one beside it; point at its voxels"):
        tool(mask_of(scene()), label=2, at=Points([point]))


def test_it_never_becomes_a_locked_label():
    with pytest.raises(InputError, match="got 'vessel', which is locked"):
        relabel(mask_of(scene()), label=2, becomes="vessel")


def test_a_deleted_label_leaves_background_or_what_surrounded_it():
    ids = scene()
    assert np.array_equal(delete(mask_of(ids), label=2), np.where(ids == 2, 0, ids))
    found = delete(mask_of(ids), label=2, replace_by="surroundings")
    assert np.array_equal(found, np.where(ids == 2, 1, ids))


def test_only_the_piece_at_a_point_is_deleted():
    ids = scene()
    found = delete(mask_of(ids), label=2, at=Points([(3, 12, 16)]))
    assert (found == 2).sum() == 19
    assert (found == 0).sum() == (ids == 0).sum() + 32


def test_a_locked_label_gains_nothing_from_a_deleted_piece():
    ids = np.full((5, 9, 9), 4, np.uint8)
    ids[2, 4, 4] = 2
    assert delete(mask_of(ids), label=2, replace_by="surroundings")[2, 4, 4] == 0

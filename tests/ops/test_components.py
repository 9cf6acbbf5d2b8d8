"""Pieces, holes and boxes against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from maskloop.core.errors import InputError
from maskloop.ops import components


def _blobs(shape, seed=0):
    noise = np.random.default_rng(seed).normal(size=shape)
    return ndimage.gaussian_filter(noise, 1.2) > 0.1


def _same_partition(a, b):
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


@pytest.mark.parametrize(
    ("shape", "connectivity", "rank"),
    [
        ((30, 40, 50), 6, 1),
        ((30, 40, 50), 18, 2),
        ((30, 40, 50), 26, 3),
        ((70, 90), 4, 1),
        ((70, 90), 8, 2),
    ],
)
def test_label_parts_a_region_as_scipy_does(shape, connectivity, rank):
    region = _blobs(shape)
    ids, count = components.label(region, connectivity=connectivity)
    structure = ndimage.generate_binary_structure(len(shape), rank)
    expected, wanted = ndimage.label(region, structure)
    assert count == wanted
    assert _same_partition(ids, expected)
    assert (components.sizes(ids, count) == np.bincount(ids.ravel(), minlength=count + 1)).all()


@settings(max_examples=60)
@given(
    arrays(bool, array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9)),
    st.booleans(),
)
def test_small_regions_are_parted_as_scipy_does(region, has_corners):
    rank = region.ndim if has_corners else 1
    connectivity = {(2, 1): 4, (2, 2): 8, (3, 1): 6, (3, 3): 26}[region.ndim, rank]
    ids, count = components.label(region, connectivity=connectivity)
    structure = ndimage.generate_binary_structure(region.ndim, rank)
    expected, wanted = ndimage.label(region, structure)
    assert count == wanted
    assert _same_partition(ids, expected)


def test_pieces_of_a_picture_hold_no_background():
    # cc3d 4.1.1 with 8 neighbours puts the first voxel of the second row into a piece.
    region = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 1]], dtype=bool)
    ids, count = components.label(region)
    assert count == 2
    assert np.array_equal(ids > 0, region)


def test_label_takes_the_widest_connectivity_and_narrow_ids_by_default():
    region = np.zeros((2, 2), dtype=bool)
    region[0, 0] = region[1, 1] = True
    ids, count = components.label(region)
    assert (count, ids.dtype) == (1, np.uint8)
    assert components.label(region, connectivity=4)[1] == 2


def test_label_of_nothing_is_nothing():
    ids, count = components.label(np.zeros((3, 4, 5), dtype=bool))
    assert count == 0
    assert not ids.any()


def test_label_refuses_a_connectivity_of_another_dimension():
    with pytest.raises(InputError, match="expected a connectivity among"):
        components.label(np.ones((3, 3), dtype=bool), connectivity=26)


@pytest.mark.parametrize("shape", [(30, 40, 50), (70, 90)])
def test_fill_holes_fills_what_scipy_fills(shape):
    region = _blobs(shape, seed=3)
    assert (components.fill_holes(region) == ndimage.binary_fill_holes(region)).all()
    assert not components.fill_holes(np.zeros(shape, dtype=bool)).any()


def test_largest_keeps_one_piece_and_drop_small_keeps_those_of_the_size():
    region = np.zeros((4, 20, 20), dtype=bool)
    region[1, 1:3, 1:3] = True  # 4 voxels
    region[1:3, 6:9, 6:9] = True  # 18
    region[3, 15, 15] = True  # 1
    only = components.largest(region)
    assert only.sum() == 18
    assert only[1, 7, 7]
    assert components.drop_small(region, 4).sum() == 22
    assert components.drop_small(region, 5).sum() == 18
    assert not components.largest(np.zeros_like(region)).any()


def test_boxes_are_those_of_each_id_that_occurs():
    ids = np.zeros((5, 9, 9), dtype=np.uint16)
    ids[1:3, 2:4, 5:9] = 4
    ids[4, 0, 0] = 2
    assert components.boxes(ids) == {
        2: (slice(4, 5), slice(0, 1), slice(0, 1)),
        4: (slice(1, 3), slice(2, 4), slice(5, 9)),
    }


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.uint16, np.uint32, np.uint64, np.int64])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
def test_boxes_of_a_picture_are_scipys(kind, share):
    rng = np.random.default_rng(5)
    blobs = rng.integers(0, 90, (40, 60)).astype(kind).repeat(9, 0).repeat(7, 1)
    blobs[rng.random(blobs.shape) < share] = 1  # few runs, many, and no runs at all
    blobs[:, 200:] *= np.array(rng.random(220) < 0.3).astype(kind)
    expected = ndimage.find_objects(blobs.astype(np.int64))
    assert components.boxes(blobs) == {i: b for i, b in enumerate(expected, start=1) if b}


def test_boxes_of_ids_that_no_table_could_hold():
    flat = np.zeros((6, 8), np.uint64)
    flat[1:3, 2:5] = 2**63 + 1
    flat[5, 7] = 7
    box = (slice(1, 3), slice(2, 5))
    wanted = {7: (slice(5, 6), slice(7, 8)), 2**63 + 1: box}
    assert components.boxes(flat) == wanted
    assert components.boxes(flat[None]) == {i: (slice(0, 1), *b) for i, b in wanted.items()}
    assert components.boxes(np.zeros((0, 4), np.uint8)) == {}
    assert components.boxes(np.zeros((3, 4), np.uint8)) == {}


def test_the_piece_at_a_voxel_is_the_one_that_holds_it():
    region = np.zeros((4, 20, 20), dtype=bool)
    region[1:3, 3:6, 3:6] = region[1:3, 10:12, 3:6] = True
    found = components.piece_at(region, (2, 10, 4))
    assert found.sum() == 12
    assert found[1, 11, 5]
    assert not components.piece_at(region, (0, 0, 0)).any()
    assert not components.piece_at(np.zeros_like(region), (1, 4, 4)).any()


def test_surroundings_are_the_id_across_most_faces_but_never_a_forbidden_one():
    ids = np.zeros((9, 9), dtype=np.uint8)
    ids[3:6, 2:7] = 1
    ids[4, 3] = 2
    ids[3, 3] = 5
    pieces = (ids == 2).astype(np.uint8)
    pieces[8, 8] = 2
    assert components.surroundings(ids, pieces, [1]) == [1]
    assert components.surroundings(ids, pieces, [1, 2], never=[1]) == [5, 0]
    assert components.surroundings(ids, pieces, [1], never=[1, 5]) == [0]
    assert components.surroundings(ids, pieces, []) == []


def test_the_largest_piece_keeps_its_id_and_the_others_get_new_ones_by_size():
    sizes = np.array([900, 4, 30, 8, 2])
    stays = np.array([False, True, True, True, False])
    assert components.numbered(sizes, stays, label=3, start=7).tolist() == [0, 8, 3, 7, 0]
    assert not components.numbered(sizes, np.zeros(5, bool), label=3, start=7).any()
    with pytest.raises(InputError, match="expected room for 3 new ids"):
        components.numbered(sizes, stays, label=3, start=2**32 - 2)

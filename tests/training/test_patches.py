"""Crops come from where they should, and carry what nobody reviewed as IGNORE."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maskloop.core.errors import InputError
from maskloop.models.base import IGNORE as BATCH_IGNORE
from maskloop.models.base import Volume
from maskloop.training.patches import IGNORE, PatchStore, spots_of


def _volume(shape: tuple[int, ...] = (20, 30, 40), **more: object) -> Volume:
    ids = np.zeros(shape, np.uint8)
    ids[4:16, 5:20, 6:30] = 1
    ids[8:10, 8:10, 8:10] = 2
    places = np.arange(ids.size, dtype=np.float32).reshape(1, *shape)
    return Volume(places, ids, **more)  # type: ignore[arg-type]


def test_patches_and_families_agree_on_the_id_of_unreviewed_voxels() -> None:
    assert IGNORE == BATCH_IGNORE


def test_a_crop_holds_the_same_place_of_image_and_ids(tmp_path: Path) -> None:
    store = PatchStore(tmp_path)
    volume = _volume()
    store.add("a", volume)
    found = store.draw(np.random.default_rng(3), (8, 8, 8), count=20)
    assert found.images.shape == (20, 1, 8, 8, 8)
    flat = volume.ids.ravel()
    for image, ids in zip(found.images, found.ids, strict=True):
        np.testing.assert_array_equal(flat[image[0].long().numpy()], ids.numpy())


def test_half_of_the_crops_are_centred_on_corrected_and_a_quarter_on_rare_voxels() -> None:
    corrected = np.zeros((20, 30, 40), bool)
    corrected[1, 2, 3] = True
    spots = spots_of(_volume(), corrected)
    assert spots["corrected"].tolist() == [[1, 2, 3]]
    assert len(spots["rare"]) == 8
    assert (spots["rare"] >= 8).all()
    assert (spots["rare"] < 10).all()


def test_three_quarters_of_the_crops_hold_the_rare_class(tmp_path: Path) -> None:
    store = PatchStore(tmp_path)
    volume = _volume((60, 60, 60))
    only = volume.ids == 2
    store.add("a", volume, corrected=only)
    found = store.draw(np.random.default_rng(0), (12, 12, 12), count=200)
    share = float((found.ids == 2).any(dim=3).any(dim=2).any(dim=1).float().mean())
    assert 0.70 < share < 0.85


def test_unreviewed_voxels_and_those_outside_the_volume_are_ignored(tmp_path: Path) -> None:
    reviewed = np.ones((20, 30, 40), bool)
    reviewed[:10] = False
    store = PatchStore(tmp_path)
    store.add("a", _volume(reviewed=reviewed))
    found = store.draw(np.random.default_rng(0), (24, 30, 40), count=1)
    ids = found.ids[0].numpy()
    assert (ids[:12] == IGNORE).all()
    assert (ids[12:22] >= 0).all()
    assert (ids[22:] == IGNORE).all()


def test_no_crop_is_centred_where_nobody_looked(tmp_path: Path) -> None:
    reviewed = np.zeros((20, 30, 40), bool)
    reviewed[8:10, 8:10, 8:10] = True
    spots = spots_of(_volume(reviewed=reviewed))
    for kind in ("corrected", "rare", "reviewed"):
        assert reviewed[tuple(spots[kind].T)].all()


def test_a_volume_without_reviewed_voxels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected reviewed voxels"):
        PatchStore(tmp_path).add("a", _volume(reviewed=np.zeros((20, 30, 40), bool)))


def test_the_same_random_state_gives_the_same_crops_from_a_reopened_store(tmp_path: Path) -> None:
    store = PatchStore(tmp_path)
    store.add("b", _volume())
    store.add("a", _volume())
    first = store.draw(np.random.default_rng([1, 7]), (8, 8, 8), count=5)
    again = PatchStore(tmp_path).draw(np.random.default_rng([1, 7]), (8, 8, 8), count=5)
    assert (first.images == again.images).all()
    assert (first.ids == again.ids).all()


def test_objects_keep_their_categories_in_two_dimensions(tmp_path: Path) -> None:
    ids = np.zeros((40, 40), np.uint16)
    ids[2:8, 2:8], ids[20:30, 20:30] = 7, 300
    store = PatchStore(tmp_path)
    store.add("a", Volume(np.zeros((3, 40, 40), np.float32), ids, categories={7: 1, 300: 2}))
    found = store.draw(np.random.default_rng(0), (40, 40), count=1)
    assert found.categories == [{7: 1, 300: 2}]
    assert set(np.unique(found.ids)) == {0, 7, 300}

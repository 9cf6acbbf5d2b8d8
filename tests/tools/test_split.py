from __future__ import annotations

import zipfile

import numpy as np
import pytest
from skimage.io import imread

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.core.parameters import Points
from maskloop.loop.correct import correct
from maskloop.tools.islands import islands
from maskloop.tools.split import split


def mask_of(ids: np.ndarray, spacing: tuple[float, ...] = (3.0, 1.0, 1.0)) -> Mask:
    grid = Geometry.regular(ids.shape, spacing) if ids.ndim == 3 else Geometry.pixels(ids.shape)
    labels = LabelTable.classes(["nuclei", "other"])
    return Mask.like(Image(np.zeros(ids.shape, np.int16), grid), ids, labels)


def discs(seed: int, count: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """A picture of discs that touch or overlap a little, and which disc each pixel is nearest."""
    rng = np.random.default_rng(seed)
    places: list[np.ndarray] = []
    radii: list[float] = []
    while len(places) < count:
        radius = rng.uniform(8, 13)
        place = rng.uniform(20, 180, 2)
        apart = [np.hypot(*(place - p)) / (radius + r) for p, r in zip(places, radii, strict=True)]
        if not apart or min(apart) > 0.85:
            places.append(place)
            radii.append(radius)
    y, x = np.indices((200, 200))
    away = np.stack([np.hypot(y - p[0], x - p[1]) - r for p, r in zip(places, radii, strict=True)])
    return np.where(away.min(0) <= 0, 1, 0).astype(np.uint8), np.where(
        away.min(0) <= 0, away.argmin(0) + 1, 0
    )


@pytest.mark.parametrize("seed", range(5))
def test_touching_nuclei_are_told_apart(seed):
    ids, true = discs(seed)
    found = split(mask_of(ids), label=1, distance=8.0)
    assert np.array_equal(found > 0, ids > 0)
    scores = []
    for disc in range(1, true.max() + 1):
        region = true == disc
        overlap = np.bincount(found[region])
        part = found == overlap.argmax()
        scores.append((region & part).sum() / (region | part).sum())
    assert len(np.unique(found)) - 1 == true.max()
    assert min(scores) > 0.8


def test_the_largest_part_keeps_the_id_and_correct_adds_rows_for_the_others():
    ids, true = discs(1)
    done = correct(mask_of(ids), "split", label="nuclei", parameters={"distance": 8})
    sizes = np.bincount(done.mask.data.ravel())
    assert sizes[1] == sizes[1:].max()
    assert set(done.mask.ids()) == {1, *range(3, 2 + true.max())}
    assert all(row.category == "nuclei" for i, row in done.mask.labels.items() if i != 2)


def test_the_wanted_number_and_the_points_decide_alone():
    ids, true = discs(3)
    touching = len(np.unique(split(mask_of(ids), label=1, neck=0.0))) - 1
    found = split(mask_of(ids), label=1, parts=touching + 1, distance=1000.0)
    assert len(np.unique(found)) - 1 == touching + 1
    middles = [np.argwhere(true == i).mean(0) for i in range(1, true.max() + 1)]
    found = split(mask_of(ids), label=1, at=Points.of(middles), distance=1000.0)
    assert len(np.unique(found)) - 1 == true.max()
    assert len({int(found[tuple(np.rint(m).astype(int))]) for m in middles}) == true.max()


def test_two_lesions_in_thick_slices_are_cut_between_their_middles():
    grid = np.stack(np.indices((12, 50, 60)), -1) * (3.0, 1.0, 1.0)
    a, b = (grid - (18, 25, 20)), (grid - (18, 25, 38))
    ids = (((a**2).sum(-1) <= 100) | ((b**2).sum(-1) <= 100)).astype(np.uint8)
    found = split(mask_of(ids), label=1)
    assert sorted(np.unique(found)) == [0, 1, 3]
    assert len(np.unique(found[..., :28])) == 2
    assert len(np.unique(found[..., 31:])) == 2


def test_real_nuclei_come_apart_from_their_foreground(shared_data, tmp_path):
    with zipfile.ZipFile(shared_data / "images2d" / "dsb2018_nuclei" / "shared.zip") as packed:
        names = sorted(n for n in packed.namelist() if n.startswith("labels/") and "." in n)[:16]
        packed.extractall(tmp_path, names)
    found = joined = total = 0
    for name in names:
        true = imread(tmp_path / name)
        mask = mask_of((true > 0).astype(np.uint8))
        found += matches(true, split(mask, label=1))
        joined += matches(true, islands(mask, label=1, keep="all", split=True))
        total += len(np.unique(true)) - 1
    assert found > 0.88 * total
    assert total - found < 0.6 * (total - joined)


def matches(true: np.ndarray, found: np.ndarray) -> int:
    """Count true objects that a found one covers with an intersection over union above 0.7."""
    counts = np.zeros((int(true.max()) + 1, int(found.max()) + 1))
    np.add.at(counts, (true.ravel(), found.ravel()), 1)
    union = counts.sum(1)[:, None] + counts.sum(0)[None] - counts
    return int((counts / union.clip(1) > 0.7)[1:, 1:].any(1).sum())

"""Volumes made up for the tests of datasets: classes, objects, overlaps, any grid."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from maskloop.core.dataset import Dataset, Holding, Item, Sample
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.formats import nifti
from maskloop.formats.base import Target

SHAPE = (5, 7, 6)
SCHEME = LabelTable([Label(3, "liver"), Label(8, "tumour", colour="#102030", is_thing=True)])


def turned(degrees: float) -> np.ndarray:
    """Return a turn about an axis that is none of x, y, z and no diagonal."""
    x, y, z = np.array((0.3, -0.5, 0.81)) / np.linalg.norm((0.3, -0.5, 0.81))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def grids(degrees: float = 0) -> Iterator[Geometry]:
    """Yield the grids of all 48 orientations, turned by so many degrees."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            axes = np.zeros((3, 3))
            axes[list(order), range(3)] = signs
            affine = np.eye(4)
            affine[:3, :3] = turned(degrees) @ axes @ np.diag((3.0, 0.8, 0.7))
            affine[:3, 3] = (-120.5, 33.25, 410.75)
            yield Geometry(SHAPE, affine, "mm")


GRID = next(grids())


def classes(grid: Geometry = GRID) -> Mask:
    """Return a liver with a hole and two tumours in it, one of them a single voxel."""
    ids = np.zeros(SHAPE, np.uint8)
    ids[1:4, 1:6, 1:5] = 3
    ids[2, 3, 2] = 0
    ids[2, 2, 3] = ids[3, 4:6, 3] = 8
    return Mask(ids, grid, SCHEME)


def overlapping(grid: Geometry = GRID) -> tuple[Mask, Mask]:
    """Return two objects that share voxels, one in two parts."""
    rows = [Label(n, f"tumour {n}", category="tumour", is_thing=True) for n in (2, 9)]
    one, other = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint16)
    one[1:3, 1:4, 1:4] = one[4, 6, 5] = 2
    other[2:4, 2:6, 2:5] = 9
    return Mask(one, grid, LabelTable([rows[0]])), Mask(other, grid, LabelTable([rows[1]]))


def image_file(folder: Path, name: str = "ct", grid: Geometry = GRID) -> Path:
    """Write a volume of known values and return its file."""
    values = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) * 7 - 500
    path = folder / f"{name}.nii.gz"
    nifti.write_image(Image(values, grid), Target(path, ".nii.gz", path))
    return path


def dataset_of(root: Path, *samples: Sample, kind: Holding = "classes") -> Dataset:
    """Return a dataset of these samples that lies nowhere."""
    found = {sample.item.name: sample for sample in samples}
    items = tuple(sample.item for sample in samples)
    return Dataset("d", "made", root, SCHEME, items, lambda item, job: found[item.name], kind)


def sample(root: Path, name: str = "ct", *masks: Mask, **more: object) -> Sample:
    """Return a sample with an image on disk; of classes where no masks are given."""
    chosen = masks or (classes(),)
    item = Item(name, image_file(root, name.replace("/", "-"), chosen[0].geometry))
    item = replace(item, shape=SHAPE, **more)
    return Sample(item, chosen)

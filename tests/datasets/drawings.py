"""Pictures with objects that formats of shapes find hard, as a dataset."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as Picture

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.geometry import Geometry
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.datasets.base import regions

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = (20, 30)
SCHEME = LabelTable([Label(1, "cell", colour="#0072b2", is_thing=True), Label(2, "sky")])


def thing(number: int, category: str = "cell") -> Label:
    return Label(number, f"{category} {number}", category=category, is_thing=True)


def mask_of(ids: np.ndarray, *rows: Label) -> Mask:
    return Mask(ids, Geometry.pixels(ids.shape), LabelTable(rows))


def difficult() -> Mask:
    """Return 1: a ring with an island's hole, 2: two parts, 3: a pixel, 4: touching corners."""
    ids = np.zeros(SHAPE, np.uint8)
    ids[1:10, 1:12] = 1
    ids[3:8, 4:9] = 0
    ids[12:15, 2:6] = 2
    ids[17:19, 10:13] = 2
    ids[0, 29] = 3
    ids[12:14, 20:22] = 4
    ids[14:16, 22:24] = 4
    return mask_of(ids, *(thing(i) for i in (1, 2, 3, 4)))


def dataset_of(
    folder: Path, *masks: Mask, names: tuple[str, ...] = ("a", "b"), split: str = ""
) -> Dataset:
    """Return a dataset with a picture a mask."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = {}
    for name, mask in zip(names, masks, strict=False):
        path = folder / f"{name}.png"
        Picture.fromarray(np.full(mask.data.shape, 99, np.uint8)).save(path)
        samples[name] = Sample(Item(name, path, mask.data.shape, split=split), (mask,))
    items = tuple(sample.item for sample in samples.values())
    return Dataset("d", "made", folder, SCHEME, items, lambda i, job: samples[i.name], "objects")


def with_rows(dataset: Dataset, *rows: Label) -> Dataset:
    """Return a dataset of one item whose mask has other rows."""
    sample = dataset.read(dataset.items[0])
    masks = tuple(replace(mask, labels=LabelTable(rows)) for mask in sample.masks)
    changed = replace(sample, masks=masks)
    return replace(dataset, reader=lambda item, job: changed)


def region_of(sample: Sample, name: str) -> np.ndarray:
    """Return what the row of a name fills, on the whole grid."""
    found = np.zeros(sample.masks[0].data.shape, bool)
    for one in regions(sample):
        if one.label.name == name:
            found[one.box] |= one.region
    return found


def box(rows: slice, columns: slice, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    region = np.zeros(shape, bool)
    region[rows, columns] = True
    return region

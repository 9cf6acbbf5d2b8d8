"""Cityscapes: label ids, and numbers of objects in 16-bit PNGs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from maskloop.core.errors import InputError
from maskloop.core.image import smallest_unsigned
from maskloop.datasets import maskfolder, maskfolder_profile, maskfolder_write
from maskloop.datasets.base import (
    Held,
    Loss,
    Options,
    class_of,
    place_image,
    safe_name,
    split_folder,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from maskloop.core.dataset import Dataset, Sample
    from maskloop.core.job import Job
    from maskloop.core.labels import Label

_MOST_OBJECTS = 999  # of one class: class * 1000 + number
_MOST_WITH_OBJECTS = 64  # 65 * 1000 + 999 is no 16-bit number
_UNLABELED = "unlabeled"  # 0 in files; its label has the first id that Cityscapes leaves free
_FREE = 35
BACKGROUND = Loss("image", "gets unlabeled background", "get unlabeled background")


def hold(sample: Sample, dataset: Dataset, *, options: Options) -> Held:
    """Settle overlaps; classes that Cityscapes does not know get ids from 35 up.

    Where the scheme has its class unlabeled, no pixel is background: both are 0.
    """
    found = maskfolder_write.held(sample, "Cityscapes", most_objects=2**16, with_void=False)
    found = _without_background(found, dataset)
    counts: dict[str, int] = {}
    for row in found.sample.masks[0].labels.values():
        if row.category is not None:
            name = class_of(row)
            counts[name] = counts.get(name, 0) + 1
            if counts[name] > _MOST_OBJECTS:
                msg = (
                    f"expected at most {_MOST_OBJECTS} objects of {name!r} a picture for "
                    f"Cityscapes, got more in {sample.item.name!r}; convert to coco instead"
                )
                raise InputError(msg)
    return found


def _is_void(row: Label) -> bool:
    """Whether a row is Cityscapes' own unlabeled, and not a class that happens to be called so."""
    return row.name == _UNLABELED and row.ignore and row.category is None


def _without_background(found: Held, dataset: Dataset) -> Held:
    mask = found.sample.masks[0]
    rows = [*mask.labels.values(), *dataset.scheme.values()]
    own = next((row for row in rows if _is_void(row)), None)
    if own is None or mask.data.all():
        return found
    present = next((i for i, row in mask.labels.items() if _is_void(row)), 0)
    number = present or max(mask.labels, default=0) + 1
    data = mask.data.astype(np.promote_types(mask.data.dtype, smallest_unsigned(number)))
    data[data == 0] = number
    filled = replace(mask, data=data, labels=mask.labels.with_rows([replace(own, id=number)]))
    sample = replace(found.sample, masks=(filled,))
    return Held(sample, {**found.losses, BACKGROUND: 1})


def write(
    dataset: Dataset, samples: Iterable[Sample], folder: Path, *, options: Options, job: Job
) -> None:
    """Write label ids, instance ids where there are objects, pictures, and classes.json."""
    own = maskfolder_profile.shipped("cityscapes").variants[0].classes
    fixed = {row.name: value or row.id for value, row in own if value >= 0}
    values = maskfolder_write.Values.of(
        dataset, most=254, with_void=False, fixed=fixed, start=_FREE
    )
    for sample in samples:
        name = safe_name(sample.item.name)
        split = split_folder(sample.item.split or "train")
        ids = sample.masks[0].data
        classes, objects = values.tables(sample.masks[0])
        classes[[i for i, row in sample.masks[0].labels.items() if _is_void(row)]] = 0
        stem = folder / "gtFine" / split / f"{name}_gtFine"
        path = stem.with_name(stem.name + "_labelIds.png")
        maskfolder_write.save(path, classes[ids], header=sample.header)
        if dataset.kind != "classes" or objects.any():
            path = stem.with_name(stem.name + "_instanceIds.png")
            maskfolder_write.save(path, _instance_ids(classes, objects)[ids], header=sample.header)
        picture = folder / "leftImg8bit" / split / f"{name}_leftImg8bit"
        place_image(sample.item, picture, options=options, job=job)
    maskfolder_write.save_table(folder / "classes.json", values.table())


def _instance_ids(
    classes: maskfolder_write.Numbers, objects: maskfolder_write.Numbers
) -> maskfolder_write.Numbers:
    """Return class * 1000 + number, from 0 in each class; the class alone where no object is."""
    ids = classes.copy()
    counts: dict[int, int] = {}
    for at in np.flatnonzero(objects).tolist():
        value = int(classes[at])
        if value > _MOST_WITH_OBJECTS:
            msg = (
                f"expected at most {_MOST_WITH_OBJECTS} for the id of a class with objects in "
                f"Cityscapes, got {value}; convert to coco instead"
            )
            raise InputError(msg)
        ids[at] = value * 1000 + counts.get(value, 0)
        counts[value] = counts.get(value, 0) + 1
    return ids


FORMAT = replace(
    maskfolder.format_for("cityscapes"), hold=hold, write=write, options=frozenset({"images"})
)

"""Folders of images: what a path holds as a list, a dataset or nothing but images."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import FormatError, InputError
from maskloop.core.image import stem_of
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.desk.worklist import FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGES = "images"  # what a list of images without masks calls its format
_MASK_WORDS = re.compile(
    r"(^|[^a-z])(mask|masks|seg|segmentation|label|labels|gt)([^a-z]|$)", re.IGNORECASE
)
_LOOKED_AT = 20  # files of a folder that are asked whether they are DICOM


def is_named_mask(path: Path) -> bool:
    """Whether a file's name says that it holds labels."""
    return path.name.lower().endswith(".seg.nrrd") or bool(_MASK_WORDS.search(stem_of(path)))


def recognised(path: Path) -> str:
    """Return the name of the dataset format that knows a path; empty where none does.

    A folder of volumes, pictures or DICOM series that no format knows is ``"images"``, unless its
    own files are the slices of one series. Images beside their masks stay pairs once some of them
    are corrected and so have cases, too.
    """
    from maskloop import datasets

    found = datasets.known(path)
    if found is not None and found.name == "cases" and datasets.get("pairs").sniff(path):
        return "pairs"
    if found is not None:
        return found.name
    if not path.is_dir() or holds_dicom(path):
        return ""
    return IMAGES if next(_images_in(path), None) is not None else ""


def holds_volumes(folder: Path) -> bool:
    """Whether the first image below a folder is a volume, by its name, or a series of DICOM."""
    from maskloop import formats

    first = next(_images_in(folder), None)
    known = None if first is None or first.is_dir() else formats.by_suffix(first)
    return first is not None and (known is None or known[0] != "picture")


def holds_dicom(folder: Path) -> bool:
    """Whether files of a folder itself are DICOM; only some are asked."""
    asked = 0
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if asked >= _LOOKED_AT:
                    return False
                if entry.name.startswith(".") or not entry.is_file():
                    continue
                asked += 1
                if _is_dicom(Path(entry.path)):
                    return True
    except OSError:
        return False
    return False


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() == ".dcm":
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _images_in(folder: Path) -> Iterator[Path]:
    """Yield files of images and folders of DICOM below a folder, in order; cases are passed by."""
    from maskloop import formats

    try:
        found = sorted(folder.iterdir())
    except OSError:
        return
    names = {path.name.lower() for path in found}
    for path in found:
        if path.name.startswith(".") or path.name.endswith((".maskloop", FOLDER)):
            continue
        if path.is_dir():
            if holds_dicom(path):
                yield path
            else:
                yield from _images_in(path)
            continue
        known = formats.by_suffix(path)
        is_part = path.name.lower().endswith(".raw") or f"{path.name.lower()}.labels.json" in names
        if known is None or known[0] in ("coco", "dicomseg", "rtstruct", "dicom") or is_part:
            continue
        if not is_named_mask(path):
            yield path


def list_images(root: Path, *, job: Job | None = None) -> Dataset:
    """List the images below a folder; none of them is read, and none has a mask yet.

    Raises
    ------
    FormatError
        If there are none.
    """
    job = job or Job()
    items = []
    for path in _images_in(root):
        job.check()
        within = path.relative_to(root)
        name = within.as_posix() if path.is_dir() else (within.parent / stem_of(path)).as_posix()
        parts = within.parts
        group = parts[0] if len(parts) > 1 else ""
        items.append(Item(name, path, group=group, has_mask=False))
    if not items:
        msg = f"expected images in {root.name}, got none; choose another folder"
        raise FormatError(msg)
    counts = Counter(item.name for item in items)
    items = [  # one name with two suffixes: told apart by them
        replace(item, name=item.image.relative_to(root).as_posix())
        if counts[item.name] > 1 and item.image is not None
        else item
        for item in items
    ]

    def read(item: Item, job: Job) -> Sample:
        from maskloop.loop.load import load

        if item.image is None:
            msg = f"expected the image of {item.name!r}, got none; list the folder again"
            raise InputError(msg)
        image = load(item.image, job=job)
        return Sample(
            item, (Mask.like(image, np.zeros(image.geometry.shape, np.uint8), LabelTable()),)
        )

    return Dataset(root.name, IMAGES, root, LabelTable(), tuple(items), read)

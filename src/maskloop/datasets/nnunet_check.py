"""The rules that nnU-Net checks before it plans, and those it trips over later.

References
----------
.. [1] The documentation of nnU-Net v2: "dataset format", "ignore label", "region-based training",
   and the messages of its integrity check.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core.dataset import Item
from maskloop.core.errors import MaskloopError
from maskloop.datasets.base import Problem, read_image
from maskloop.datasets.files import read_masks
from maskloop.datasets.nnunet import described, listed
from maskloop.datasets.nnunet_write import DATASET
from maskloop.datasets.tables import IGNORE
from maskloop.formats.picture_png import depth_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from maskloop.core.image import Image
    from maskloop.core.job import Job

_PALETTE = 3  # PNG's colour type
_NEEDED = ("channel_names", "labels", "numTraining", "file_ending")
_Row = dict[str, Any]  # Any: plain JSON values


def check(path: Path, job: Job) -> Iterator[Problem]:
    """Yield what nnU-Net would refuse, and what it would learn wrongly."""
    try:
        about = described(path)
    except MaskloopError as error:
        yield Problem("N1", str(error), f"write {DATASET} anew", DATASET)
        return
    missing = [key for key in _NEEDED if key not in about]
    if missing:
        words = f"expected {', '.join(_NEEDED)} in {DATASET}, got no {', '.join(missing)}"
        yield Problem("N1", words, "add them", DATASET)
        return
    if not isinstance(about["channel_names"], dict) or not about["channel_names"]:
        words = f"expected channel_names {{number: name}}, got {about['channel_names']!r:.40}"
        yield Problem("N1", words, 'write {"0": "CT"}, say', DATASET)
        return
    yield from _of_labels(about)
    try:
        cases = [row for row in listed(path, about) if not row[3]]
    except MaskloopError as error:
        yield Problem("N1", str(error), f"write {DATASET} anew", DATASET)
        return
    stated = about["numTraining"]
    if stated != len(cases):
        words = f"expected numTraining {len(cases)}, got {stated!r}"
        yield Problem("N4", words, "correct it, or find the cases that are missing", DATASET)
    known = _numbers(about["labels"])
    for name, image, label, _ in job.track(cases, "cases"):
        yield from _of_case(path, about, name, image, label, known, job)


def _of_labels(about: _Row) -> Iterator[Problem]:
    labels = about["labels"]
    if not isinstance(labels, dict) or any(
        isinstance(value, str) or (type(value) is not int and not isinstance(value, list))
        for value in labels.values()
    ):
        words = f"expected labels {{name: number}}, got {labels!r:.60}"
        yield Problem("N2", words, "turn keys and values round", DATASET)
        return
    if labels.get("background") != 0:
        words = f"expected background 0, got {labels.get('background')!r}"
        yield Problem("N2", words, 'begin labels with "background": 0', DATASET)
    numbers = sorted(_numbers(labels))
    if numbers != list(range(len(numbers))):
        words = f"expected labels 0, 1, 2, ... without gaps, got {numbers}"
        yield Problem("N3", words, "renumber them in the files, too", DATASET)
    ignored = labels.get(IGNORE)
    if ignored is not None and numbers and ignored != numbers[-1]:
        words = f"expected the ignore label to be the highest, got {ignored} of {numbers[-1]}"
        yield Problem("N3", words, "renumber it", DATASET)


def _numbers(labels: Any) -> set[int]:  # Any: as in the file
    found: set[int] = set()
    for value in labels.values() if isinstance(labels, dict) else ():
        found.update(n for n in (value if isinstance(value, list) else [value]) if type(n) is int)
    return found


def _of_case(
    path: Path,
    about: _Row,
    name: str,
    image: Path | None,
    label: Path | None,
    known: set[int],
    job: Job,
) -> Iterator[Problem]:
    channels, ending = about["channel_names"], str(about["file_ending"])
    is_channel = image is None or image.name == f"{name}{ending}"
    if re.search(r"_\d{4}$", name) and is_channel:
        words = f"expected a label file without a channel's number, got {name}{ending}"
        yield Problem("N5", words, "name it as its case", name)
        return
    if image is None or label is None:
        what = "images" if image is None else "label"
        yield Problem("N5", f"expected {what} of case {name!r}, got none", "add them", name)
        return
    is_flat = ending != ".nii.gz" and len(channels) == 3
    places = [
        image.with_name(image.name.replace(f"_0000{ending}", f"_{number:04d}{ending}"))
        for number in range(1 if is_flat else len(channels))
    ]
    absent = [place.name for place in places if not place.is_file()]
    if absent:
        words = f"expected {len(places)} channels of case {name!r}, got no {absent[0]}"
        yield Problem("N5", words, "add it, or correct channel_names", name)
        return
    try:
        mask = read_masks(label, Item(name), "classes", job)[0]
        pictures = [read_image(Item(name, place), job) for place in places]
    except MaskloopError as error:
        yield Problem("N6", str(error), "restore the file", name)
        return
    if depth_of(label)[1] == _PALETTE:
        words = f"expected gray numbers in {label.name}, got a palette: nnU-Net reads its colours"
        yield Problem("N7", words, "save it as gray PNG", name)
    odd = sorted(set(mask.ids()) - known)
    if odd:
        words = f"expected labels {sorted(known)}, got {odd} in case {name!r}"
        yield Problem("N7", words, f"renumber them, or name them in {DATASET}", name)
    for shown in pictures:
        words = mask.geometry.difference(shown.geometry)
        if words:
            words = f"expected label and image of case {name!r} on one grid, but {words}"
            yield Problem("N8", words, "write the label on its image's grid", name)
        if _has_nan(shown):
            words = f"expected numbers in the image of case {name!r}, got NaN"
            yield Problem("N9", words, "replace them by a number", name)


def _has_nan(image: Image) -> bool:
    return image.data.dtype.kind == "f" and bool(np.isnan(image.data).any())

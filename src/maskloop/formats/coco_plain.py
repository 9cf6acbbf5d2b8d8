"""A second COCO decoder, one character at a time, to prove what the writer wrote.

It shares no code with `maskloop.formats.coco` or `maskloop.ops.outlines`.

References
----------
.. [1] The COCO API's C reference (maskApi): characters from 48, 5 bits each, the 6th says that
   more follow, lengths from the fourth on are differences to the one before the last.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import VerificationError
from maskloop.formats.base import Evidence

if TYPE_CHECKING:
    from pathlib import Path


_NUMBER = re.compile(rb"[P-o]*[0-O]")  # characters with the sixth bit, then one without


def read(path: Path) -> Evidence:
    """Return the label picture and the names by id of a file with one image; checks every field."""
    content = json.loads(path.read_bytes())
    (image,) = content["images"]
    height, width = image["height"], image["width"]
    annotations = content["annotations"]
    categories = {c["id"]: c["name"] for c in content["categories"]}
    is_classes = content["info"]["maskloop"]["kind"] == "classes"
    names: dict[int, str] = dict(categories) if is_classes else {}
    for annotation in annotations:
        number = annotation["id"]
        named = f"{categories[annotation['category_id']]} {number}"
        if not is_classes:
            names[number] = annotation.get("attributes", {}).get("name", named)
        if annotation["segmentation"]["size"] != [height, width]:
            _refuse(path, f"run lengths of size {[height, width]}", annotation["segmentation"])
    numbers = [a["id"] for a in annotations]
    if len(set(numbers)) != len(numbers) or any(a["image_id"] != image["id"] for a in annotations):
        _refuse(path, "unique annotation ids, all of one image", numbers[:9])
    ids = _painted(annotations, height, width, path)
    return Evidence(ids, None, names)


def regions(
    path: Path, image_id: int
) -> list[tuple[tuple[slice, slice], npt.NDArray[np.bool_], str, float]]:
    """Return box, region, category and score of each object of an image; they may overlap."""
    content = json.loads(path.read_bytes())
    names = {c["id"]: c["name"] for c in content["categories"]}
    found = []
    for annotation in content["annotations"]:
        if annotation["image_id"] != image_id:
            continue
        height, width = annotation["segmentation"]["size"]
        x, y = _pixels(annotation, height, height * width, path)
        box = (slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1))
        region = np.zeros([int(part.stop - part.start) for part in box], dtype=bool)
        region[y - y.min(), x - x.min()] = True
        found.append((box, region, names[annotation["category_id"]], annotation["score"]))
    return found


def _painted(
    annotations: list[dict[str, Any]], height: int, width: int, path: Path
) -> npt.NDArray[Any]:
    """Paint pixel by pixel along the rows, where the writer counted down the columns."""
    size = height * width
    flat = np.zeros(size, dtype=np.min_scalar_type(max((a["id"] for a in annotations), default=0)))
    for annotation in annotations:
        x, y = _pixels(annotation, height, size, path)
        flat[y * width + x] = annotation["id"]
    return flat.reshape(height, width)


def _pixels(
    annotation: dict[str, Any], height: int, size: int, path: Path
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return columns and rows of an annotation's pixels, which its area and box must fit."""
    lengths = np.array(_lengths(annotation["segmentation"]["counts"]))
    stops = np.cumsum(lengths)[1::2]
    sizes = lengths[1::2]
    # Numbers of all pixels of the runs: each run counts up to its own end.
    pixels = np.arange(sizes.sum()) + np.repeat(stops - np.cumsum(sizes), sizes)
    if not pixels.size or (lengths < 0).any() or lengths.sum() != size:
        _refuse(path, f"run lengths of {size} pixels in annotation {annotation['id']}", lengths)
    x, y = np.divmod(pixels, height)
    box = [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
    found = (len(pixels), [float(n) for n in box])
    meant = (annotation["area"], annotation["bbox"])
    if found != meant:
        _refuse(path, f"area and box {meant} of annotation {annotation['id']}", found)
    return x, y


def _lengths(text: str) -> list[int]:
    lengths: list[int] = []
    for letters in _NUMBER.findall(text.encode("ascii")):
        length = _value(letters)
        lengths.append(length + lengths[-2] if len(lengths) > 2 else length)
    return lengths


@lru_cache(maxsize=65536)
def _value(letters: bytes) -> int:
    value = sum((letter - 48 & 31) << (5 * place) for place, letter in enumerate(letters))
    return value - (1 << (5 * len(letters))) if letters[-1] - 48 & 16 else value


def _refuse(path: Path, expected: str, got: object) -> None:
    msg = f"expected {expected} in {path.name}, got {got!r}; the old file was kept"
    raise VerificationError(msg)

"""A second COCO decoder, one character at a time, to prove what the writer wrote.

It shares no code with `maskloop.formats.coco` or `maskloop.ops.outlines`.

References
----------
.. [1] The COCO API's C reference (maskApi): characters from 48, 5 bits each, the 6th says that
   more follow, lengths from the fourth on are differences to the one before the last.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import VerificationError
from maskloop.formats.base import Evidence

if TYPE_CHECKING:
    from pathlib import Path


def read(path: Path) -> Evidence:
    """Return the label picture and the names by id of a file with one image; checks every field."""
    content = json.loads(path.read_bytes())
    (image,) = content["images"]
    height, width = image["height"], image["width"]
    categories = {c["id"]: c["name"] for c in content["categories"]}
    is_classes = content["info"]["maskloop"]["kind"] == "classes"
    names: dict[int, str] = dict(categories) if is_classes else {}
    flat = np.zeros(height * width, dtype=np.uint32)
    seen: set[int] = set()
    for annotation in content["annotations"]:
        number = annotation["id"]
        if number < 1 or number in seen or annotation["image_id"] != image["id"]:
            msg = f"expected unique annotation ids from 1 in {path.name}, got {number!r}; the old file was kept"
            raise VerificationError(msg)
        seen.add(number)
        if annotation["segmentation"]["size"] != [height, width]:
            msg = f"expected run lengths of size {[height, width]} in {path.name}, got {annotation['segmentation']['size']!r}; the old file was kept"
            raise VerificationError(msg)
        _paint(flat, annotation, height, path)
        named = f"{categories[annotation['category_id']]} {number}"
        if not is_classes:
            names[number] = annotation.get("attributes", {}).get("name", named)
    return Evidence(flat.reshape(width, height).T, None, names)


def _paint(flat: npt.NDArray[Any], annotation: dict[str, Any], height: int, path: Path) -> None:
    at, area = 0, 0
    left = top = 1 << 60
    right = bottom = -1
    for place, length in enumerate(_lengths(annotation["segmentation"]["counts"])):
        if place % 2 and length:
            last = at + length - 1
            flat[at : last + 1] = annotation["id"]
            area += length
            left, right = min(left, at // height), max(right, last // height)
            if at // height == last // height:
                top, bottom = min(top, at % height), max(bottom, last % height)
            else:
                top, bottom = 0, height - 1
        at += length
    box = [left, top, right - left + 1, bottom - top + 1]
    if at != flat.size or area != annotation["area"] or box != annotation["bbox"]:
        msg = (
            f"expected annotation {annotation['id']} of {path.name} to cover {annotation['area']} "
            f"pixels in {annotation['bbox']}, got {area} in {box}; the old file was kept"
        )
        raise VerificationError(msg)


def _lengths(text: str) -> list[int]:
    lengths: list[int] = []
    value = shift = 0
    for letter in text.encode("ascii"):
        chunk = letter - 48
        value |= (chunk & 31) << shift
        shift += 5
        if chunk & 32:
            continue
        if chunk & 16:
            value -= 1 << shift
        if len(lengths) > 2:
            value += lengths[-2]
        lengths.append(value)
        value = shift = 0
    return lengths

"""Prove a COCO panoptic set: the JSON's segments against the ids that its PNGs hold."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import MaskloopError
from maskloop.datasets.proofs import shown
from maskloop.datasets.proofs_file import is_file, is_whole, key_of
from maskloop.datasets.proofs_geometry import check_box, is_number

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from maskloop.core.geometry import Box
    from maskloop.core.job import Job
    from maskloop.datasets.proofs import Findings
    from maskloop.datasets.proofs_file import CocoFile, Entry, Shot

Ids = npt.NDArray[np.uint32]


def check_panoptic(file: CocoFile, findings: Findings, job: Job) -> None:
    """Prove categories, the pairing of lists, and every PNG."""
    _check_categories(file, findings)
    _check_order(file, findings)
    used: set[int] = set()
    for annotation in job.track(file.annotations, "look at PNGs"):
        shot = file.images.get(key_of(annotation.get("image_id")))
        where = _where(file, annotation)
        if shot is None:
            number = annotation.get("image_id")
            findings.add("S7", f"expected the id of an image listed, got {shown(number)}", where)
            continue
        segments = _segments(file, annotation, where, findings)
        used.update(key_of(s.get("category_id")) for s in segments.values())
        if not shot.name.lower().endswith((".jpg", ".jpeg")):
            findings.add("C5", f"expected .jpg, got {shown(shot.name)}", where)
        ids = _ids_of(file, annotation, where, findings)
        if ids is None:
            continue
        if ids.shape != (shot.height, shot.width):
            got = f"{ids.shape[1]} x {ids.shape[0]}"
            words = f"expected {shot.width} x {shot.height}, got {got}"
            findings.add("P3", words, where)
            continue
        _check_png(ids, segments, where, findings)
    kinds = {bool(file.categories[n].get("isthing")) for n in used if n in file.categories}
    if len(kinds) == 1:
        have, lack = ("things", "stuff") if True in kinds else ("stuff", "things")
        findings.add("P8", f"expected things and stuff, got {have} and no {lack}", file.path.name)


def _where(file: CocoFile, annotation: Entry) -> str:
    name = annotation.get("file_name")
    return f"{file.path.name}: {name if isinstance(name, str) else shown(name)}"


def _check_categories(file: CocoFile, findings: Findings) -> None:
    for category in file.categories.values():
        where = f"{file.path.name}: category {shown(category.get('name'))}"
        stated = category.get("isthing")
        if stated not in (0, 1):
            findings.add("P1", f"expected isthing 0 or 1, got {shown(stated)}", where)
        colour = category.get("color")
        parts = colour if isinstance(colour, list) else []
        if len(parts) != 3 or not all(is_whole(c) and 0 <= c <= 255 for c in parts):
            words = f"expected color as [red, green, blue], got {shown(colour)}"
            findings.add("P1", words, where, severity="warning", cure="give each class a colour")


def _check_order(file: CocoFile, findings: Findings) -> None:
    order = [key_of(a.get("image_id")) for a in file.annotations]
    counts = Counter(order)
    for number, shot in file.images.items():
        if counts[number] != 1:
            words = f"expected one annotation, got {counts[number] or 'none'}"
            findings.add("P12", words, f"{file.path.name}: image {shot.name}")
    if order != list(file.images) and Counter(list(file.images)) == counts:
        findings.add("P11", "expected the order of images, got another one", file.path.name)


def _segments(
    file: CocoFile, annotation: Entry, where: str, findings: Findings
) -> dict[int, Entry]:
    """Return the segments by id, having proved their fields."""
    listed = annotation.get("segments_info")
    if not isinstance(listed, list) or not all(isinstance(s, dict) for s in listed):
        findings.add("J1", f"expected a list of segments, got {shown(listed)}", where)
        return {}
    found: dict[int, Entry] = {}
    stuff: Counter[int] = Counter()
    for segment in listed:
        number, category = segment.get("id"), key_of(segment.get("category_id"))
        place = f"{where}: segment {shown(number)}"
        if not is_whole(number) or not 1 <= number < 2**24 or number in found:
            words = f"expected an id of its own from 1 to {2**24 - 1}, got {shown(number)}"
            findings.add("P9", words, place)
            continue
        found[number] = segment
        if category not in file.categories:
            got = shown(segment.get("category_id"))
            findings.add("P9", f"expected the id of a category listed, got {got}", place)
        elif not file.categories[category].get("isthing"):
            stuff[category] += 1
        missing = [key for key in ("iscrowd", "area") if key not in segment]
        if missing:
            findings.add("P6", f"expected iscrowd and area, got no {missing[0]}", place)
    for category, count in stuff.items():
        if count > 1:
            name = shown(file.categories[category].get("name"))
            words = f"expected one segment of the stuff {name}, got {count}"
            findings.add("P10", words, where, severity="warning")
    return found


def png_of(file: CocoFile, annotation: Entry) -> Path | None:
    """Return where the PNG of an annotation should lie; None where its name leads elsewhere."""
    from maskloop.core.errors import InputError
    from maskloop.datasets.base import inside

    folders = (file.path.with_suffix(""), file.path.parent)
    try:
        places = [inside(folder, annotation.get("file_name")) for folder in folders]
    except InputError:
        return None
    return next((place for place in places if is_file(place)), places[0])


def _ids_of(file: CocoFile, annotation: Entry, where: str, findings: Findings) -> Ids | None:
    path = png_of(file, annotation)
    if path is None:
        got = shown(annotation.get("file_name"))
        findings.add("S8", f"expected a relative POSIX file name, got {got}", where)
    elif not is_file(path):
        findings.add("P2", f"expected a PNG in {path.parent.name}/, got no file", where)
    else:
        try:
            return read_ids(path)
        except (MaskloopError, OSError) as error:
            findings.add("P2", f"expected an RGB PNG, got {shown(str(error))}", where)
    return None


def read_ids(path: Path) -> Ids:
    """Return the ids that an RGB PNG holds.

    Raises
    ------
    FormatError
        If it is not an RGB PNG of 8 bits, or damaged.
    """
    from maskloop.core.errors import FormatError
    from maskloop.formats.picture_claims import require_possible
    from maskloop.formats.picture_pillow import opened

    with opened(path) as picture:
        if picture.format != "PNG" or picture.mode != "RGB":
            raise FormatError(f"{picture.format} of mode {picture.mode}")
        require_possible(picture, path)
        red, green, blue = np.moveaxis(np.asarray(picture, np.uint32), -1, 0)
    return np.asarray(red | green << 8 | blue << 16)


def regions_of(ids: Ids) -> Iterator[tuple[int, Box, npt.NDArray[np.bool_]]]:
    """Yield id, box and pixels of each id above 0."""
    from scipy import ndimage

    present = np.unique(ids)
    numbers = np.searchsorted(present, ids)
    if present.size and present[0] != 0:
        numbers += 1
        present = np.concatenate(([0], present))
    for number, box in enumerate(ndimage.find_objects(numbers), start=1):
        yield int(present[number]), box, numbers[box] == number


def _check_png(ids: Ids, segments: Mapping[int, Entry], where: str, findings: Findings) -> None:
    measured = {
        number: (int(region.sum()), [box[1].start, box[0].start, *region.shape[::-1]])
        for number, box, region in regions_of(ids)
    }
    strange = [number for number in measured if number not in segments]
    if strange:
        turned = {(n & 255) << 16 | n & 0xFF00 | n >> 16 for n in measured}
        why = ": red and blue are swapped" if turned == set(segments) else ""
        words = f"expected ids that the JSON lists, got {shown(strange)}{why}"
        findings.add("P4", words, where)
    for number, segment in segments.items():
        place = f"{where}: segment {number}"
        if number not in measured:
            findings.add("P5", "expected its pixels in the PNG, got none", place)
            continue
        area, box = measured[number]
        stated = segment.get("area")
        if "area" in segment and not (is_number(stated) and abs(stated - area) <= 0.5):
            findings.add("P7", f"expected area {area}, got {shown(stated)}", place)
        check_box(place, segment.get("bbox"), box, findings, 0.5, code="P7")


def segments_of(
    file: CocoFile, annotation: Entry, shot: Shot
) -> list[tuple[Entry, Box, npt.NDArray[np.bool_]]]:
    """Return the segments of an image with their pixels; none where the PNG cannot be used."""
    path = png_of(file, annotation)
    listed = annotation.get("segments_info")
    if path is None or not is_file(path) or not isinstance(listed, list):
        return []
    try:
        ids = read_ids(path)
    except (MaskloopError, OSError):
        return []
    if ids.shape != (shot.height, shot.width):
        return []
    found = {key_of(s.get("id")): s for s in listed if isinstance(s, dict)}
    return [(found[n], box, region) for n, box, region in regions_of(ids) if n in found]

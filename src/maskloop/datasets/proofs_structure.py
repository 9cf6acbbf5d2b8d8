"""Prove what COCO annotations and images say of each other and of the pictures on disk."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from maskloop.core.errors import MaskloopError
from maskloop.datasets.proofs import shown
from maskloop.datasets.proofs_file import bad_name, is_file, is_whole, key_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from maskloop.core.job import Job
    from maskloop.datasets.proofs import Findings
    from maskloop.datasets.proofs_file import CocoFile, Entry, Shot

_MOST_DETECTIONS, _SMALLEST = 100, 32
_TURNED = range(5, 9)  # EXIF orientations that swap width and height


def check_splits(files: Sequence[CocoFile], findings: Findings) -> None:
    """Prove that no picture and no group of pictures lies in two splits.

    Files of one kind, such as ``instances_train`` and ``instances_val``, are splits.
    """
    places: dict[tuple[str, Path], str] = {}
    groups: dict[tuple[str, str], str] = {}
    for file in files:
        kind, _, split = file.path.stem.rpartition("_")
        for shot in file.images.values():
            where = f"{file.path.name}: image {shot.name}"
            other = places.setdefault((kind, file.pictures / shot.name), split)
            if other != split:
                words = f"expected a picture of one split, got it in {shown(other)}, too"
                findings.add("S13", words, where)
            other = groups.setdefault((kind, shot.group), split) if shot.group else split
            if other != split:
                words = f"expected group {shown(shot.group)} in one split, got it in {shown(other)}"
                findings.add("D7", f"{words}, too", where)


def check_annotations(file: CocoFile, findings: Findings, job: Job) -> None:
    """Prove what annotations say apart from where they lie."""
    ids: Counter[int] = Counter()
    crowd = 0
    per_class: Counter[tuple[int, int]] = Counter()
    for count, annotation in enumerate(file.annotations):
        if count % 4096 == 0:
            job.check()
        number = annotation.get("id")
        if not is_whole(number) or number < 1:
            words = f"expected a whole number from 1 as id, got {shown(number)}"
            findings.add("S4", words, file.where(annotation))
        else:
            ids[number] += 1
            if ids[number] == 2:
                words = f"expected the id {number} once, got it again"
                findings.add("S4", words, file.where(annotation))
        _check_references(file, annotation, findings)
        is_crowd = annotation.get("iscrowd")
        if not is_whole(is_crowd) or is_crowd not in (0, 1):
            is_soft = is_crowd is None or isinstance(is_crowd, bool)
            findings.add(
                "S11",
                f"expected iscrowd 0 or 1, got {shown(is_crowd)}",
                file.where(annotation),
                severity="warning" if is_soft else "error",
            )
        if "ignore" in annotation:
            findings.add("C6", "expected no key ignore, got one", file.where(annotation))
        crowd += bool(is_crowd)
        if not is_crowd:
            pair = (key_of(annotation.get("image_id")), key_of(annotation.get("category_id")))
            per_class[pair] += 1
    for (image, category), count in sorted(per_class.items()):
        if count > _MOST_DETECTIONS and image in file.images and category in file.categories:
            name = shown(file.categories[category].get("name"))
            words = f"expected at most {_MOST_DETECTIONS} objects of {name}, got {count}"
            findings.add("C1", words, f"{file.path.name}: image {file.images[image].name}")
    if crowd and crowd == len(file.annotations):
        words = f"expected single objects, got {crowd} crowds and nothing else"
        findings.add("C2", words, file.path.name)


def _check_references(file: CocoFile, annotation: Entry, findings: Findings) -> None:
    for key, known in (("image_id", file.images), ("category_id", file.categories)):
        number = annotation.get(key)
        if key_of(number) not in known:
            what = key.removesuffix("_id")
            words = f"expected the id of {what} listed in the file, got {shown(number)}"
            findings.add("S7", words, file.where(annotation))


def check_pictures(file: CocoFile, findings: Findings, job: Job) -> None:
    """Prove that pictures are there, open and have the stated size; only their heads are read."""
    stems: dict[str, str] = {}
    missing = []
    for shot in job.track(list(file.images.values()), "look at pictures"):
        where = f"{file.path.name}: image {shot.name}"
        pure = PurePosixPath(shot.name)
        if "." in pure.stem:
            findings.add("C4", f"expected no dot inside the name, got {shown(pure.name)}", where)
        other = stems.setdefault(shot.stem, shot.name)
        if other != shot.name:
            findings.add("C7", f"expected another name than {shown(other)}'s, got it", where)
        if min(shot.size) < _SMALLEST:
            words = f"expected {_SMALLEST} pixels or more, got {shot.width} x {shot.height}"
            findings.add("C3", words, where)
        if bad_name(shot.name):
            continue
        if is_file(file.pictures / shot.name):
            _check_picture(file.pictures / shot.name, shot, where, findings)
        else:
            missing.append(shot.name)
    if missing and len(missing) == len(file.images):
        words = f"expected the pictures in {file.pictures.name}/, got none of {len(missing)}"
        findings.add("S10", words, file.path.name, severity="warning")
        return
    for name in missing:
        where = f"{file.path.name}: image {name}"
        findings.add("S10", f"expected a file in {file.pictures.name}/, got none", where)


def _check_picture(path: Path, shot: Shot, where: str, findings: Findings) -> None:
    try:
        width, height, turn = picture_size(path)
    except (MaskloopError, OSError) as error:
        findings.add("S10", f"expected a picture that opens, got {shown(str(error))}", where)
        return
    if (width, height) == (shot.width, shot.height):
        return
    words = f"expected {width} x {height} (the stored picture), got {shot.width} x {shot.height}"
    if (height, width) == (shot.width, shot.height):
        why = "EXIF asks for a turn" if turn in _TURNED else "width and height are swapped"
        words += f": {why}"
    findings.add("S9", words, where)


def picture_size(path: Path) -> tuple[int, int, int]:
    """Return width, height and the EXIF orientation (1 where none) from a picture's head."""
    from maskloop.formats.picture_pillow import opened

    with opened(path) as picture:
        width, height = picture.size
        turn = 1
        if picture.format in ("JPEG", "MPO"):
            turn = picture.getexif().get(274, 1)
    return width, height, turn if is_whole(turn) else 1

"""One COCO file: its parts found, its ids checked, its annotations ordered by image."""

from __future__ import annotations

import gc
import re
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from maskloop.core.errors import InputError
from maskloop.core.labels import Label, LabelTable
from maskloop.formats import coco
from maskloop.formats.base import first_bytes
from maskloop.formats.coco_rows import stated_colour

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

Entry = dict[str, Any]  # Any: plain JSON values

_PARTS = ("info", "licenses", "images", "annotations", "categories")
_TASKS = ("instances", "person_keypoints", "stuff", "panoptic", "labels", "captions", "image_info")
_YEAR = re.compile(r"^(train|val|test|unlabeled)(19|20)\d\d$")
_WORDS = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}
_HEAD = 1 << 16
GLANCE = 100  # files of a folder that a sniff looks into


@dataclass(frozen=True, slots=True, eq=False)
class CocoFile:
    """What a COCO file holds.

    Parameters
    ----------
    path : Path
    images : list of dict
        Entries in the file's order.
    annotations : dict
        Image id -> its annotations, in the file's order.
    classes : dict of int to str
        Category id -> name of its class, each name once.
    categories : list of dict
        As they stand.
    info : dict
    licenses : list
    more : dict
        Keys of the file that COCO does not know.
    is_drawn : bool
        Whether the file has a list of annotations at all.
    """

    path: Path
    images: list[Entry]
    annotations: dict[int, list[Entry]]
    classes: dict[int, str]
    categories: list[Entry]
    info: Entry = field(default_factory=dict)
    licenses: list[Any] = field(default_factory=list)  # Any: plain JSON values
    more: Entry = field(default_factory=dict)
    is_drawn: bool = True

    @property
    def kind(self) -> str:
        """What we wrote that ids stand for; empty in the files of others."""
        ours = self.info.get("maskloop")
        kind = ours.get("kind") if isinstance(ours, dict) else ""
        return kind if kind in ("classes", "objects", "panoptic") else ""


def looks_coco(path: Path) -> bool:
    """Whether a file starts like COCO of some kind: a list of images or of annotations of them."""
    if path.suffix.lower() != ".json":
        return False
    head = first_bytes(path, _HEAD)
    if head.lstrip()[:1] != b"{":
        return False
    is_named = b'"images"' in head, b'"annotations"' in head
    return all(is_named) or (any(is_named) and (b'"file_name"' in head or b'"image_id"' in head))


def looks_panoptic(path: Path) -> bool:
    """Whether a COCO file holds panoptic segments, by its first bytes or its name."""
    if not looks_coco(path):
        return False
    if b'"segments_info"' in first_bytes(path, _HEAD):
        return True
    return task_of(path) == "panoptic"


def files_below(folder: Path, *, most: int | None = None) -> list[Path]:
    """Return the COCO files of a folder: in annotations/, in it, or one in each folder of it.

    Of each place only the first `most` files are looked into, where given: others' folders hold a
    JSON a picture.
    """
    for pattern in ("annotations/*.json", "*.json", "*/_annotations.coco.json"):
        listed = sorted(folder.glob(pattern))[:most]
        found = [p for p in listed if p.is_file() and looks_coco(p)]
        if found:
            return found
    return []


def task_of(path: Path) -> str:
    """Return the word before the split in a file's name, such as ``"instances"``; else empty."""
    stem = path.stem.lower()
    return next((t for t in _TASKS if stem == t or stem.startswith(f"{t}_")), "")


def split_of(path: Path) -> tuple[str, str]:
    """Return the split that a file's name tells, and the word as it stands there."""
    stem = path.parent.name if path.name.startswith("_annotations") else path.stem
    task = task_of(path)
    if task:
        word = stem[len(task) :].lstrip("_")
    else:
        known = ("train", "val", "valid", "validation", "test", "training", "testing")
        words = re.split(r"[._\- ]", stem)
        word = next((w for w in words if w.lower() in known or _YEAR.match(w.lower())), "")
    lower = word.lower()
    if match := _YEAR.match(lower):
        return match[1], word
    return _WORDS.get(lower, "" if lower == "default" else word), word


def read_file(path: Path, *, repair: bool, tell: Callable[[str], None]) -> CocoFile:
    """Parse a COCO file and check what ids hang on.

    Parameters
    ----------
    path : Path
    repair : bool
        Whether annotations with missing or repeated ids are renumbered, those of no image left
        out, nameless categories named by their id, and so on.
    tell : callable
        Takes the sentences of what was repaired.

    Raises
    ------
    FormatError
        If it is not COCO.
    InputError
        If ids are missing, repeated, or lead nowhere; names them.
    """
    with no_collection():
        content = coco.parse(path)
        where = path.name
        annotations: list[Entry] = content.get("annotations", [])
        images: list[Entry] = content["images"]
        categories: list[Entry] = content.get("categories", [])
        _require_ids(images, "image", where)
        classes = _class_names(categories, where, repair=repair, tell=tell)
        groups = _by_image(annotations, images, where, repair=repair, tell=tell)
        _check_categories(annotations, classes, where, repair=repair, tell=tell)
        info, licenses = content.get("info"), content.get("licenses")
        return CocoFile(
            path,
            images,
            groups,
            classes,
            categories,
            info if isinstance(info, dict) else {},
            licenses if isinstance(licenses, list) else [],
            {k: v for k, v in content.items() if k not in _PARTS},
            is_drawn="annotations" in content and task_of(path) != "image_info",
        )


def scheme_of(
    files: Sequence[CocoFile], *, is_thing: bool, tell: Callable[[str], None]
) -> LabelTable:
    """Return one row a class; category ids are kept wherever they can be.

    Parameters
    ----------
    files : sequence of CocoFile
    is_thing : bool
        What a category is that does not say.
    tell : callable
        Takes the sentence about classes whose id could not be kept.
    """
    rows: dict[str, Label] = {}
    taken: set[int] = set()
    waiting: dict[str, Entry] = {}
    for file in files:
        by_id = {c["id"]: c for c in reversed(file.categories)}
        for number, name in file.classes.items():
            if name in rows or name in waiting:
                continue
            entry = by_id.get(number, {})
            if number < 1 or number in taken or number > 2**31:
                waiting[name] = entry
                continue
            taken.add(number)
            rows[name] = _row(number, name, entry, is_thing=is_thing)
    if waiting:
        listed = ", ".join(list(waiting)[:5])
        tell(f"ids of categories ({listed}) are below 1 or another file's: numbered anew")
    for number, (name, entry) in enumerate(waiting.items(), start=max(taken, default=0) + 1):
        rows[name] = _row(number, name, entry, is_thing=is_thing)
    return LabelTable(rows.values())


def unique_names(categories: Sequence[Entry]) -> list[str]:
    """Return a name for each category; those that share one get their id behind it."""
    names = [str(c.get("name") or f"category {c.get('id')}") for c in categories]
    shared = {name for name, count in Counter(names).items() if count > 1}
    return [
        f"{name} ({c.get('id')})" if name in shared else name
        for name, c in zip(names, categories, strict=True)
    ]


@contextmanager
def no_collection() -> Iterator[None]:
    """Pause the search for reference cycles: it would walk millions of new lists, and find none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if not gc.get_freeze_count():  # somebody else's frozen objects stay so
                # Makes what is new old without a walk: 0.1 s saved of 0.6 (60,000 annotations).
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def _require_ids(entries: list[Entry], what: str, where: str) -> None:
    ids = [e.get("id") for e in entries]
    if set(map(type, ids)) <= {int} and len(set(ids)) == len(ids):
        return
    msg = (
        f"expected whole numbers as ids of each {what} in {where}, each once, got "
        f"{_odd(ids)}; correct the file: nothing else tells which annotations belong to which"
    )
    raise InputError(msg)


def _odd(ids: list[object]) -> str:
    """Return in words which ids are missing, no whole numbers, or repeated."""
    wrong = [i for i in ids if type(i) is not int]
    if wrong:
        places = [n for n, i in enumerate(ids) if type(i) is not int]
        what = "none" if wrong[0] is None else repr(wrong[0])[:40]
        more = f", and {len(wrong) - 1:,} more like it" if len(wrong) > 1 else ""
        return f"{what} at place {places[0]}{more}"
    twice = [i for i, count in Counter(ids).items() if count > 1]
    shown = ", ".join(map(str, twice[:5])) + (" ..." if len(twice) > 5 else "")
    return f"id {shown} more than once"


def _class_names(
    categories: list[Entry], where: str, *, repair: bool, tell: Callable[[str], None]
) -> dict[int, str]:
    _require_ids(categories, "category", where)
    nameless = [c["id"] for c in categories if not str(c.get("name") or "").strip()]
    if nameless:
        listed = ", ".join(map(str, nameless[:5]))
        if not repair:
            msg = (
                f"expected a name for each category in {where}, got none for id {listed}; "
                "correct the file, or open with --repair to name them by their id"
            )
            raise InputError(msg)
        tell(f"categories {listed} of {where} have no name: called by their id")
    names = unique_names(categories)
    if len(set(names)) < len(names):
        msg = f"expected names of categories that differ in {where}, got {names[:5]}; rename one"
        raise InputError(msg)
    return {c["id"]: name for c, name in zip(categories, names, strict=True)}


def _by_image(
    annotations: list[Entry],
    images: list[Entry],
    where: str,
    *,
    repair: bool,
    tell: Callable[[str], None],
) -> dict[int, list[Entry]]:
    groups: dict[int, list[Entry]] = {image["id"]: [] for image in images}
    lost: list[Entry] = []
    for annotation in annotations:
        try:
            groups[annotation["image_id"]].append(annotation)
        except (KeyError, TypeError):
            lost.append(annotation)
    if lost and not repair:
        shown = [a.get("id") for a in lost[:5]]
        msg = (
            f"expected an image for every annotation in {where}, got none for "
            f"{len(lost):,} of them, with ids {str(shown)[:80]} (image_id "
            f"{str(lost[0].get('image_id'))[:40]}); correct them, or open with --repair to leave "
            "them out"
        )
        raise InputError(msg)
    if lost:
        tell(f"{len(lost):,} annotations of {where} belong to no image: left out")
    if annotations and "segments_info" in annotations[0]:
        return groups  # panoptic entries are known by their image
    ids = [a.get("id") for a in annotations]
    if not (set(map(type, ids)) <= {int} and len(set(ids)) == len(ids)):
        if not repair:
            msg = (
                f"expected whole numbers as ids of each annotation in {where}, each once, got "
                f"{_odd(ids)}; correct them, or open with --repair to number them anew"
            )
            raise InputError(msg)
        tell(f"the annotation ids of {where} are missing or repeated ({_odd(ids)}): numbered anew")
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number
    return groups


def _check_categories(
    annotations: list[Entry],
    classes: dict[int, str],
    where: str,
    *,
    repair: bool,
    tell: Callable[[str], None],
) -> None:
    """Require a listed category of every annotation; repaired, the missing ones are added."""
    if annotations and "segments_info" in annotations[0]:
        return
    try:
        unknown = {a.get("category_id") for a in annotations} - set(classes)
    except TypeError:  # a list, say
        unknown = {None}
    if not unknown:
        return
    first = next(a for a in annotations if _hashable(a.get("category_id")) not in classes)
    numbers = sorted(n for n in unknown if type(n) is int)
    if not repair or len(numbers) < len(unknown):
        msg = (
            f"expected a listed category for every annotation in {where}, got "
            f"{str(first.get('category_id'))[:40]!r} in annotation {first.get('id')!r}; add the "
            "category" + ("" if repair else ", or open with --repair to have it named by its id")
        )
        raise InputError(msg)
    for number in numbers:
        classes[number] = f"category {number}"
    tell(f"categories {numbers[:5]} of {where} are not listed: called by their id")


def _hashable(value: object) -> object:
    return value if isinstance(value, (int, str, float)) else None


def _row(number: int, name: str, entry: Entry, *, is_thing: bool) -> Label:
    said = entry.get("isthing")
    return Label(
        number,
        name,
        colour=stated_colour(entry),
        is_thing=bool(said) if said is not None else is_thing,
        ignore=entry.get("ignore") in (1, True),
    )

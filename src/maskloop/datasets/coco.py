"""COCO instances and stuff as datasets: one JSON a split, pictures beside them.

References
----------
.. [1] COCO, "Data format", sections "Object Detection" and "Stuff Segmentation".
"""

from __future__ import annotations

import os
import re
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import FormatError
from maskloop.datasets import coco_file, coco_sample
from maskloop.datasets.base import (
    DatasetFormat,
    Held,
    Loss,
    Options,
    place_image,
    safe_name,
)
from maskloop.datasets.coco_file import CocoFile, read_file
from maskloop.datasets.coco_items import listed
from maskloop.formats.coco_stream import CocoStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from maskloop.core.dataset import Holding
    from maskloop.core.job import Job
    from maskloop.core.labels import LabelTable

Entry = dict[str, Any]  # Any: plain JSON values

STAYS = Loss(
    "object", "has holes and stays run lengths", "have holes and stay run lengths", is_note=True
)

# Which of several files of one split is read: the first kind that is there.
_ORDER = ("instances", "", "person_keypoints", "stuff", "labels", "image_info", "captions")


def sniff(path: Path) -> bool:
    """Whether a file, or one in a folder or its annotations/, starts like COCO instances."""
    if path.is_dir():
        return any(
            not coco_file.looks_panoptic(p)
            for p in coco_file.files_below(path, most=coco_file.GLANCE)
        )
    return coco_file.looks_coco(path) and not coco_file.looks_panoptic(path)


def open_dataset(path: Path, *, options: Options, job: Job) -> Dataset:
    """List the images of one file, or of the files of a folder, a split each."""
    notices: list[str] = []
    paths = chosen_files(path, notices.append) if path.is_dir() else [path]
    files = [read_file(p, repair=options.repair, tell=notices.append) for p in paths]
    first = files[0]
    for file in files:
        _refuse_panoptic(file)
    is_thing = coco_file.task_of(first.path) != "stuff" and first.kind != "classes"
    scheme = coco_file.scheme_of(files, is_thing=is_thing, tell=notices.append)
    stuff = _stuff(files, scheme)
    _tell_shapeless(files, notices.append)
    items = listed(files, options, _drawn)

    def read(item: Item, job: Job) -> Sample:
        file, image = item.ref
        return coco_sample.sample_of(
            item, file, image, scheme, stuff, repair=options.repair, job=job
        )

    return Dataset(
        path.stem if path.is_file() else path.resolve().name,
        "coco",
        path,
        scheme,
        items,
        read,
        _kind(files, stuff),
        about_of(files),
        tuple(notices),
    )


def hold(sample: Sample, dataset: Dataset, *, options: Options) -> Held:
    """Keep every region whole; only a place in mm has no home."""
    plain = coco_sample.flat(sample)
    losses = coco_sample.losses_of(sample)
    if options.outline == "polygon" and (staying := coco_sample.has_holes(plain)):
        losses[STAYS] = staying
    return Held(plain, losses)


def write(
    dataset: Dataset, samples: Iterable[Sample], folder: Path, *, options: Options, job: Job
) -> None:
    """Write a JSON a split, image by image, and the pictures into a folder a split."""
    categories = coco_sample.Categories(dataset)
    head = head_of(dataset)
    is_polygon = options.outline == "polygon"
    (folder / "annotations").mkdir()
    streams: dict[str, CocoStream] = {}
    ids: dict[str, ImageIds] = {}
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        for sample in samples:
            split = split_word(sample.item.split)
            if split not in streams:
                path = folder / "annotations" / f"instances_{split}.json"
                streams[split] = stack.enter_context(CocoStream(path, head))
                ids[split] = ImageIds()
            number = ids[split].next_for(sample)
            name = placed(sample, folder / "images" / split, options, job)
            found = coco_sample.annotations_of(
                sample, categories, number, first=counts[split] + 1, is_polygon=is_polygon
            )
            counts[split] += len(found)
            streams[split].add(coco_sample.image_entry(sample, number, name), found)
        for stream in streams.values():
            stream.finish(categories.entries())


class ImageIds:
    """Ids of images: an image's own where it has one that is free, else counted up from 1."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._next = 1

    def next_for(self, sample: Sample) -> int:
        """Return the id of the next image."""
        kept = sample.header
        own = kept.image.get("id") if isinstance(kept, coco_sample.CocoKept) else None
        if type(own) is not int or own < 1 or own in self._taken:
            while self._next in self._taken:
                self._next += 1
            own = self._next
        self._taken.add(own)
        return own


def chosen_files(folder: Path, tell: Callable[[str], None]) -> list[Path]:
    """Return one file a split of a folder, of the kind that says most about masks.

    Raises
    ------
    FormatError
        If none is COCO instances.
    """
    found = [p for p in coco_file.files_below(folder) if not coco_file.looks_panoptic(p)]
    if not found:
        msg = (
            f"expected COCO files in {folder.name}/ or its annotations/, got none; choose the "
            "JSON itself"
        )
        raise FormatError(msg)
    kinds = [coco_file.task_of(p) for p in found]
    best = next(kind for kind in _ORDER if kind in kinds)
    chosen = [p for p, kind in zip(found, kinds, strict=True) if kind == best]
    have = {coco_file.split_of(p) for p in chosen}
    # A test set often comes as a list of images only.
    chosen += [
        p
        for p, kind in zip(found, kinds, strict=True)
        if kind == "image_info" and p not in chosen and coco_file.split_of(p) not in have
    ]
    left = [p.name for p in found if p not in chosen]
    if left:
        more = " ..." if len(left) > 6 else ""
        names = ", ".join(left[:6]) + more
        tell(f"not read beside {chosen[0].name}: {names}; open them by themselves")
    return chosen


def about_of(files: Sequence[CocoFile]) -> dict[str, Any]:  # Any: plain JSON values
    """Return what files say of themselves: info, licences, categories, further keys."""
    licenses: dict[str, Any] = {}
    categories: dict[str, Entry] = {}
    for file in files:
        for one in file.licenses:
            licenses.setdefault(str(one.get("id") if isinstance(one, dict) else one), one)
        for name, category in zip(
            coco_file.unique_names(file.categories), file.categories, strict=True
        ):
            categories.setdefault(name, category)
    return {
        "info": {k: v for k, v in files[0].info.items() if k != "maskloop"},
        "licenses": list(licenses.values()),
        "categories": list(categories.values()),
        "more": files[0].more,
    }


def head_of(dataset: Dataset) -> Entry:
    """Return what stands first in a written file."""
    about: Mapping[str, Any] = dataset.about if dataset.format in ("coco", "coco-panoptic") else {}
    info = about.get("info") or {}
    return {
        "info": {**info, "maskloop": {"version": 1, "kind": dataset.kind}},
        "licenses": list(about.get("licenses") or ()),
        **(about.get("more") or {}),
    }


def split_word(split: str) -> str:
    """Return a split's name as part of file names; "default" where an item has none."""
    return re.sub(r"[^A-Za-z0-9_\-]+", "_", split) or "default"


def placed(sample: Sample, folder: Path, options: Options, job: Job) -> str:
    """Put an image's picture into a folder; return its name there, with forward slashes."""
    name = safe_name(sample.item.name)
    path = place_image(sample.item, folder / name, options=options, job=job)
    if path is not None:
        return path.relative_to(folder).as_posix()
    kept = sample.header
    stated = kept.image.get("file_name") if isinstance(kept, coco_sample.CocoKept) else None
    suffix = os.path.splitext(str(stated or ""))[1]
    return name + (suffix if re.fullmatch(r"\.\w{1,5}", suffix) else ".png")


def _refuse_panoptic(file: CocoFile) -> None:
    first = next((group[0] for group in file.annotations.values() if group), {})
    if "segments_info" in first:
        msg = (
            f"expected instances or stuff in {file.path.name}, got panoptic segments; open it with "
            "--from coco-panoptic"
        )
        raise FormatError(msg)


def _tell_shapeless(files: Sequence[CocoFile], tell: Callable[[str], None]) -> None:
    for file in files:
        count = sum(not a.get("segmentation") for g in file.annotations.values() for a in g)
        if count:
            tell(
                f"{count:,} annotations of {file.path.name} have no shape (boxes, keypoints or "
                "captions only): kept for COCO, but nothing of them is drawn"
            )


def _drawn(group: list[Entry]) -> list[Entry]:
    return [a for a in group if a.get("segmentation")]


def _stuff(files: Sequence[CocoFile], scheme: LabelTable) -> frozenset[str]:
    """Return the classes that have one region an image at most, and say that they are stuff."""
    names = {row.name for row in scheme.values() if not row.is_thing}
    if files[0].kind == "objects":
        return frozenset()
    if files[0].kind == "classes":
        names = {row.name for row in scheme.values()}
    if not names:
        return frozenset()
    for file in files:
        wanted = {n for n, name in file.classes.items() if name in names}
        for group in file.annotations.values():
            met = [
                a["category_id"]
                for a in group
                if a["category_id"] in wanted and a.get("segmentation")
            ]
            if len(set(met)) < len(met):
                pieced = {file.classes[n] for n, count in Counter(met).items() if count > 1}
                names -= pieced
                wanted -= {n for n, name in file.classes.items() if name in pieced}
    return frozenset(names)


def _kind(files: Sequence[CocoFile], stuff: frozenset[str]) -> Holding:
    names = {name for file in files for name in file.classes.values()}
    if not stuff:
        return "objects"
    return "classes" if names <= stuff else "panoptic"


FORMAT = DatasetFormat(
    name="coco",
    title="COCO instances and stuff (JSON)",
    sniff=sniff,
    open=open_dataset,
    hold=hold,
    write=write,
    options=frozenset({"images", "outline", "repair"}),
    layout="annotations/instances_SPLIT.json, images/SPLIT/NAME.*",
    proof="real data",
)

"""COCO panoptic: a PNG of segment ids an image, and one JSON a split that says what they are.

Ids are ``R + 256 G + 65536 B``; 0 is void. Things have a segment each, stuff one a class.

References
----------
.. [1] COCO, "Data format", section "Panoptic Segmentation".
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import FormatError, InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import smallest_unsigned
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.datasets import coco_file, coco_sample
from maskloop.datasets.base import (
    DatasetFormat,
    Held,
    Options,
    covered,
    inside,
    safe_name,
)
from maskloop.datasets.coco import ImageIds, about_of, head_of, placed, split_word
from maskloop.datasets.coco_file import CocoFile, read_file
from maskloop.datasets.coco_items import listed
from maskloop.formats import coco_shapes, picture_png
from maskloop.formats.base import reading
from maskloop.formats.coco_rows import object_row
from maskloop.formats.coco_stream import CocoStream
from maskloop.ops import outlines

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import numpy.typing as npt

    from maskloop.core.job import Job
    from maskloop.core.labels import Label

Entry = dict[str, Any]  # Any: plain JSON values

_OWN = ("id", "category_id", "area", "bbox", "iscrowd", "score")
_MOST = 2**24 - 1


def sniff(path: Path) -> bool:
    """Whether a file, or all COCO files of a folder, hold panoptic segments."""
    if path.is_dir():
        found = coco_file.files_below(path, most=coco_file.GLANCE)
        return bool(found) and all(map(coco_file.looks_panoptic, found))
    return coco_file.looks_panoptic(path)


def open_dataset(path: Path, *, options: Options, job: Job) -> Dataset:
    """List the images of one panoptic file, or of those of a folder, a split each."""
    notices: list[str] = []
    paths = [path]
    if path.is_dir():
        paths = [p for p in coco_file.files_below(path) if coco_file.looks_panoptic(p)]
    if not paths:
        msg = f"expected a panoptic JSON in {path.name}/ or its annotations/, got none; choose one"
        raise FormatError(msg)
    files = [read_file(p, repair=options.repair, tell=notices.append) for p in paths]
    for file in files:
        _check(file)
    scheme = coco_file.scheme_of(files, is_thing=True, tell=notices.append)
    items = tuple(
        replace(item, has_mask=item.has_mask and bool(item.ref[0].annotations[item.ref[1]["id"]]))
        for item in listed(files, options, _segments)
    )

    def read(item: Item, job: Job) -> Sample:
        file, image = item.ref
        return _sample(item, file, image, scheme, job)

    name = path.stem if path.is_file() else path.resolve().name
    return Dataset(
        name, "coco-panoptic", path, scheme, items, read, "panoptic", about_of(files),
        tuple(notices),
    )  # fmt: skip


def hold(sample: Sample, dataset: Dataset, *, options: Options) -> Held:
    """Settle overlaps; a place in mm has no home."""
    plain = coco_sample.flat(sample)
    mask, lost = plain.settled()
    losses = coco_sample.losses_of(sample)
    if lost:
        losses |= covered(plain, mask)
    if len(mask.ids()) > _MOST:
        msg = (
            f"expected at most {_MOST:,} segments an image, got more in {sample.item.name!r}; "
            "write coco instead"
        )
        raise InputError(msg)
    return Held(replace(plain, masks=(mask,)), losses)


def write(
    dataset: Dataset, samples: Iterable[Sample], folder: Path, *, options: Options, job: Job
) -> None:
    """Write a JSON and a folder of PNGs a split, and the pictures."""
    categories = coco_sample.Categories(dataset, is_panoptic=True)
    head = head_of(dataset)
    (folder / "annotations").mkdir()
    streams: dict[str, CocoStream] = {}
    ids: dict[str, ImageIds] = {}
    with ExitStack() as stack:
        for sample in samples:
            split = split_word(sample.item.split)
            beside = folder / "annotations" / f"panoptic_{split}"
            if split not in streams:
                stream = CocoStream(beside.with_name(f"{beside.name}.json"), head)
                streams[split] = stack.enter_context(stream)
                ids[split] = ImageIds()
                beside.mkdir()
            number = ids[split].next_for(sample)
            name = placed(sample, folder / "images" / split, options, job)
            file_name = f"{safe_name(sample.item.name)}.png"
            segments, pixels = _segments_of(sample, categories)
            (beside / file_name).parent.mkdir(parents=True, exist_ok=True)
            (beside / file_name).write_bytes(picture_png.packed(pixels, b""))
            entry = {"image_id": number, "file_name": file_name, "segments_info": segments}
            streams[split].add(coco_sample.image_entry(sample, number, name), [entry])
        for stream in streams.values():
            stream.finish(categories.entries())


def _check(file: CocoFile) -> None:
    """Require of every image one entry at most, whose segments have ids and listed categories."""
    where = file.path.name
    for number, group in file.annotations.items():
        if len(group) > 1:
            msg = (
                f"expected one entry an image in {where}, got {len(group)} of image {number}; "
                "remove those that are too many"
            )
            raise InputError(msg)
        segments = group[0].get("segments_info") if group else []
        if not isinstance(segments, list) or not set(map(type, segments)) <= {dict}:
            msg = (
                f"expected a list of segments of image {number} in {where}, got "
                f"{str(segments)[:40]}; choose a panoptic file, or repair it"
            )
            raise FormatError(msg)
        ids = [s.get("id") for s in segments]
        is_odd = not all(type(i) is int and 1 <= i <= _MOST for i in ids)
        if is_odd or len(set(ids)) < len(ids):
            msg = (
                f"expected ids from 1 to {_MOST}, each once, of the segments of image {number} in "
                f"{where}, got {str(ids)[:60]}; correct them, and the PNG with them"
            )
            raise InputError(msg)
        for segment in segments:
            category = segment.get("category_id")
            if type(category) is not int or category not in file.classes:
                msg = (
                    f"expected a listed category for segment {segment['id']} of image {number} in "
                    f"{where}, got {str(category)[:40]!r}; add the category"
                )
                raise InputError(msg)


def _segments(group: list[Entry]) -> list[Entry]:
    found: list[Entry] = group[0]["segments_info"] if group else []
    return found


def _sample(item: Item, file: CocoFile, image: Entry, scheme: LabelTable, job: Job) -> Sample:
    where = file.path.name
    shape = coco_shapes.size_of(image, where)
    group = file.annotations[image["id"]]
    if not group:
        empty = Mask(np.zeros(shape, np.uint8), Geometry.pixels(shape), LabelTable())
        return Sample(item, (empty,), header=coco_sample.CocoKept(image))
    path = inside(file.path.with_suffix(""), group[0].get("file_name"))
    stored = _ids_of(path, shape, job)
    segments = _segments(group)
    present, places = np.unique(stored, return_inverse=True)
    rows = _rows(segments, file, scheme)
    known = {s["id"]: row for s, row in zip(segments, rows, strict=True)}
    foreign = [int(i) for i in present if i and int(i) not in known]
    if foreign:
        msg = (
            f"expected a segment in {where} for every id in {path.name}, got none for "
            f"{foreign[:5]}; the PNG and the JSON are not of one export"
        )
        raise FormatError(msg)
    if gone := sorted(set(known) - set(present.tolist())):
        job.say(f"segments {gone[:5]} of {where} have no pixel in {path.name}: left out")
    numbers = [known[int(i)].id if i else 0 for i in present]
    table = LabelTable(known[int(i)] for i in present if i)
    lookup = np.array(numbers, dtype=smallest_unsigned(max(numbers)))
    mask = Mask(lookup[places.reshape(shape)], Geometry.pixels(shape), table, path)
    extra = {
        row.id: kept
        for row, s in zip(rows, segments, strict=True)
        if (kept := {k: v for k, v in s.items() if k not in _OWN})
    }
    return Sample(item, (mask,), header=coco_sample.CocoKept(image, extra))


def _rows(segments: list[Entry], file: CocoFile, scheme: LabelTable) -> list[Label]:
    """Return a row for each segment: of its class where that is stuff and comes once."""
    by_name = {row.name: row for row in scheme.values()}
    names = [file.classes[s["category_id"]] for s in segments]
    counts = Counter(names)
    is_class = [not by_name[n].is_thing and counts[n] == 1 for n in names]
    taken = {by_name[n].id for n, alone in zip(names, is_class, strict=True) if alone}
    free = (n for n in count(1) if n not in taken)
    return [
        by_name[n]
        if alone
        else replace(object_row(s, next(free), n, False), is_thing=by_name[n].is_thing)
        for s, n, alone in zip(segments, names, is_class, strict=True)
    ]


def _ids_of(path: Path, shape: tuple[int, int], job: Job) -> npt.NDArray[np.uint32]:
    """Return the segment ids of a PNG.

    Raises
    ------
    FormatError
        If it is no RGB picture of that size.
    """
    from maskloop.formats import picture
    from maskloop.formats.base import Choices

    with reading(path):
        found = picture.read_image(path, choices=Choices(), job=job)
    pixels = found.data
    if pixels.shape != (*shape, 3) or pixels.dtype != np.uint8:
        msg = (
            f"expected an RGB picture of {shape[0]} rows and {shape[1]} columns in {path.name}, "
            f"got shape {pixels.shape} of {pixels.dtype}; export the set again"
        )
        raise FormatError(msg)
    weights = np.array([1, 256, 65536], dtype=np.uint32)
    ids: npt.NDArray[np.uint32] = (pixels * weights).sum(axis=2, dtype=np.uint32)
    return ids


def _segments_of(
    sample: Sample, categories: coco_sample.Categories
) -> tuple[list[Entry], npt.NDArray[np.uint8]]:
    """Return the entries of an image's segments, and its ids as RGB; ids count from 1."""
    mask = sample.masks[0]
    kept = sample.header if isinstance(sample.header, coco_sample.CocoKept) else None
    extras: Mapping[int, Entry] = kept.annotations if kept is not None else {}
    found = outlines.encode(mask.data)
    segments = []
    for number, one in enumerate(found, start=1):
        row = mask.labels[one.id]
        segment: Entry = {
            "id": number,
            "category_id": categories.id_of(row),
            "area": one.area,
            "bbox": [float(n) for n in one.box],
            "iscrowd": int(row.ignore),
            **{k: v for k, v in extras.get(row.id, {}).items() if k not in _OWN},
        }
        if row.score is not None:
            segment["score"] = row.score
        segments.append(segment)
    ids = np.array([0, *(one.id for one in found)])
    numbers = np.searchsorted(ids, mask.data).astype(np.uint32)
    pixels = np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16], axis=2)
    return segments, pixels.astype(np.uint8)


FORMAT = DatasetFormat(
    name="coco-panoptic",
    title="COCO panoptic (JSON and PNG)",
    sniff=sniff,
    open=open_dataset,
    hold=hold,
    write=write,
    options=frozenset({"images", "repair"}),
    layout="annotations/panoptic_SPLIT.json, annotations/panoptic_SPLIT/NAME.png, images/SPLIT/*",
    proof="real data",
)

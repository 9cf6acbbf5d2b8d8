"""COCO instances JSON: compressed run lengths out; run lengths and polygons in.

One annotation an id, however many parts; annotation ids are the label ids. Where objects of a
foreign file overlap, crowds lie lowest, then the higher score wins, or where scores are missing
the smaller object, and the loss is told.

References
----------
.. [1] COCO, "Data format", section "Object Detection": images, annotations, categories, iscrowd.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core.errors import FormatError, InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import smallest_unsigned
from maskloop.core.job import Job
from maskloop.core.labels import Kind, Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.formats import coco_shapes
from maskloop.formats.base import Evidence, Format, Planned, Target, first_bytes, reading
from maskloop.formats.coco_rows import CocoHeader, class_row, class_rows, extra_of, object_row
from maskloop.formats.coco_write import is_classes, write_mask
from maskloop.formats.overlap import Layers, Piece
from maskloop.ops import outlines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    from maskloop.core.geometry import Box
    from maskloop.core.image import Image

_Entry = dict[str, Any]  # Any: plain JSON values


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """One object of a file, before overlaps are settled."""

    label: Label
    runs: list[outlines.Runs]
    area: int
    is_crowd: bool
    extra: _Entry


@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """One image of a file, chosen and checked."""

    path: Path
    content: _Entry
    header: CocoHeader
    shape: tuple[int, int]

    @property
    def is_ours(self) -> bool:
        """Whether we wrote the file."""
        return isinstance(self.header.info.get("maskloop"), dict)

    @property
    def kind(self) -> Kind:
        """What we wrote that ids stand for; objects in the files of others."""
        said = self.header.info["maskloop"].get("kind") if self.is_ours else ""
        return "classes" if said == "classes" else "objects"


def sniff(path: Path) -> bool:
    """Whether a file starts like a JSON object that names COCO's parts."""
    head = first_bytes(path, 4096)
    return head.lstrip()[:1] == b"{" and any(
        key in head for key in (b'"annotations"', b'"images"', b'"categories"')
    )


def read_mask(
    path: Path, *, image: Image | None, entry: str | int | None, kind: Kind | None, job: Job
) -> Mask:
    """Read the objects of one image of a COCO file.

    Parameters
    ----------
    image, entry
        Choose the image entry: by `entry` (id or file name), else by the image's file name, else
        the only one.
    kind : {"classes", "objects"}, optional
        ``"classes"`` paints category ids instead of object ids.

    Raises
    ------
    FormatError
        If the file is not COCO, or its run lengths do not fit the picture.
    InputError
        If the file holds several images and none is chosen.
    """
    opened = _opened(path, image, entry)
    kind = kind or opened.kind
    found = _objects(opened, kind, job)
    data, lost = _painted(found, opened.shape)
    if lost:
        job.say(
            f"{lost} pixels of {path.name} belong to several objects; each went to one of them "
            f"(crowds lowest, then the higher score, then the smaller object on top)"
        )
    return _mask(opened, kind, data, found, found)


def read_masks(path: Path, *, image: Image | None, kind: Kind | None, job: Job) -> list[Mask]:
    """Read the objects of one image whole: those that overlap others go to further masks.

    Parameters, and errors, as for `read_mask`.
    """
    opened = _opened(path, image, None)
    kind = kind or opened.kind
    found = _objects(opened, kind, job)
    data, lost = _painted(found, opened.shape)
    if not lost:
        return [_mask(opened, kind, data, found, found)]
    together: dict[int, list[_Found]] = {}
    for one in sorted(found, key=_rank(found), reverse=True):
        together.setdefault(one.label.id, []).append(one)
    layers = Layers(opened.shape, max(together))
    for ones in together.values():
        runs = [part for one in ones for part in one.runs]
        layers.add(ones[0].label, [Piece(*outlines.region_of(runs, opened.shape[0]))])
    job.say(
        f"objects of {path.name} overlap: those under others are on {len(layers) - 1} further "
        "mask(s), each whole"
    )
    masks = []
    for number, (ids, table) in enumerate(layers.found()):
        here = [one for one in found if one.label.id in table]
        masks.append(_mask(opened, kind, ids, here, found if number == 0 else None))
    return masks


def read_apart(
    path: Path, *, entry: str | int | None, job: Job | None = None
) -> list[tuple[Label, Box, npt.NDArray[np.bool_]]]:
    """Read the objects of one image of a COCO file whole, where they overlap too.

    Parameters
    ----------
    entry : str or int, optional
        As for `read_mask`.

    Returns
    -------
    list of (label, box, region)
        In the file's order.

    Raises
    ------
    FormatError, InputError
        As for `read_mask`.
    """
    opened = _opened(path, None, entry)
    found = _objects(opened, "objects", job or Job())
    return [(f.label, *outlines.region_of(f.runs, opened.shape[0])) for f in found if f.area]


def plan(mask: Mask, *, suffix: str) -> Planned:
    """Take a single slice as a picture; refuse volumes; drop rows that have no pixels."""
    ids = mask.data
    while ids.ndim > 2 and ids.shape[0] == 1:
        ids = ids[0]
    if ids.ndim != 2:
        msg = (
            f"expected a picture (y, x) for COCO, got shape {ids.shape}; write .nii.gz, or make a "
            f"dataset of its slices: maskloop convert IN OUT --to coco-volume"
        )
        raise InputError(msg)
    losses = []
    if mask.geometry.unit == "mm":
        losses.append("the place in the world (mm) has no home in COCO: keep the image beside it")
    ids = ids.astype(smallest_unsigned(int(ids.max(initial=0))), copy=False)
    labels = mask.labels
    if not is_classes(labels):
        empty = sorted(set(labels) - set(Mask(ids, Geometry.pixels(ids.shape), labels).ids()))
        labels = labels.without(empty)
        if empty:
            losses.append(f"objects without pixels are left out: {', '.join(map(str, empty))}")
    planned = Mask(ids, Geometry.pixels(ids.shape), labels, mask.source, mask.header)
    return Planned(planned, None, tuple(losses))


def reread(to: Target) -> Evidence:
    """Decode the JSON again, character by character, with the standard library's parser."""
    from maskloop.formats import coco_plain

    return coco_plain.read(to.path)


def parse(path: Path) -> _Entry:
    """Return the JSON of a COCO file: its parts are lists of entries.

    Raises
    ------
    FormatError
        If it is something else.
    """
    import orjson

    with reading(path):
        raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        content = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        msg = (
            f"expected JSON in {path.name}, got {raw[:20]!r} ({error}); check that the file is "
            "whole"
        )
        raise FormatError(msg) from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        msg = (
            f"expected COCO instances in {path.name}, got JSON without a list of images; choose "
            "the annotations file"
        )
        raise FormatError(msg)
    for part in ("images", "annotations", "categories"):
        listed = content.get(part)
        if listed is None:
            content.pop(part, None)
        elif not isinstance(listed, list) or not set(map(type, listed)) <= {dict}:
            msg = (
                f"expected a list of entries as {part!r} in {path.name}, got "
                f"{str(listed)[:60]}; choose a COCO file, or repair it"
            )
            raise FormatError(msg)
    return content


def _opened(path: Path, image: Image | None, entry: str | int | None) -> _Opened:
    content = parse(path)
    categories = content.get("categories", [])
    for number in (c.get("id") for c in categories):
        if type(number) is not int:
            msg = (
                f"expected whole numbers as ids of each category in {path.name}, got "
                f"{str(number)[:40]!r}; correct the file"
            )
            raise FormatError(msg)
    shown = _chosen(content, image, entry, path)
    info, licenses = content.get("info"), content.get("licenses")
    header = CocoHeader(
        shown,
        tuple(categories),
        info if isinstance(info, dict) else {},
        tuple(licenses) if isinstance(licenses, list) else (),
    )
    return _Opened(path, content, header, coco_shapes.size_of(shown, path.name))


def _chosen(
    content: _Entry, image: Image | None, entry: str | int | None, path: Path
) -> Mapping[str, Any]:
    images = content["images"]
    names = {str(i.get("file_name", i.get("id"))): i for i in images}
    if entry is not None:
        wanted = str(entry)
        for shown in images:
            name = str(shown.get("file_name", ""))
            if wanted in (str(shown.get("id")), name, PurePosixPath(name).name):
                return dict(shown)
    elif image is not None and image.source is not None:
        for name, shown in names.items():
            if PurePosixPath(name).name == image.source.name:
                return dict(shown)
        for name, shown in names.items():
            if PurePosixPath(name).stem == image.source.stem:
                return dict(shown)
    if entry is None and len(images) == 1:
        return dict(images[0])
    asked = entry if entry is not None else (image.name if image is not None else "none chosen")
    listed = ", ".join(list(names)[:8]) + (" ..." if len(names) > 8 else "")
    msg = (
        f"expected one of the {len(images)} images of {path.name}, got {asked!r}; choose from: "
        f"{listed}"
    )
    raise InputError(msg)


def _objects(opened: _Opened, kind: Kind, job: Job) -> list[_Found]:
    path, categories = opened.path, opened.header.categories
    shown = opened.header.image.get("id")
    every = opened.content.get("annotations", [])
    annotations = [a for a in every if a.get("image_id") == shown]
    with_shape = [a for a in annotations if a.get("segmentation")]
    if len(with_shape) < len(annotations):
        job.say(
            f"{len(annotations) - len(with_shape)} annotations of {path.name} have no shape: "
            f"left out"
        )
    names = {c["id"]: str(c.get("name", c["id"])) for c in categories}
    runs = coco_shapes.runs_of(with_shape, opened.shape, path.name)
    numbers = _numbers(with_shape, path, job)
    # Others call what they annotate piece by piece stuff, too.
    ours = categories if opened.is_ours else ()
    stuff = {c["id"] for c in ours if not c.get("isthing", True)}
    found = []
    for annotation, number, part in zip(with_shape, numbers, runs, strict=True):
        category = annotation.get("category_id")
        category = category if isinstance(category, (int, str)) else str(category)
        name = names.get(category, str(category)) if isinstance(category, int) else category
        is_crowd = bool(annotation.get("iscrowd"))
        if kind == "classes":
            label = class_row(category, name, categories, path)
        else:
            label = object_row(annotation, number, name, opened.is_ours)
            if category in stuff:
                kept = name if label.name == f"{name} {number}" else label.name
                label = replace(label, name=kept, category=None, is_thing=False)
        extra = extra_of(annotation, is_ours=opened.is_ours)
        found.append(_Found(label, part, outlines.covered(part), is_crowd, extra))
    return found


def _mask(
    opened: _Opened, kind: Kind, data: Any, here: list[_Found], rest: list[_Found] | None
) -> Mask:
    """Return a mask of the objects `here`; where `rest` is given, with the rows of what has none.

    `data` is an array of ids.
    """
    rows = {f.label.id: f.label for f in here}
    if kind == "classes" and rest is not None:
        elsewhere = {f.label.id for f in rest} - set(rows)
        listed = {c.id: c for c in class_rows(opened.header) if c.id not in elsewhere}
        rows = {**listed, **rows}
    kept = {} if kind == "classes" else {f.label.id: f.extra for f in here if f.extra}
    header = replace(opened.header, annotations=kept)
    table = LabelTable(rows.values())
    return Mask(data, Geometry.pixels(opened.shape), table, opened.path, header)


def _numbers(annotations: list[_Entry], path: Path, job: Job) -> list[int]:
    """Return a label id for each annotation: its own id where that is a small unique number."""
    ids = [a.get("id") for a in annotations]
    own = [i for i in ids if isinstance(i, int) and 1 <= i <= 65535]
    if len(set(own)) == len(ids):
        return own
    job.say(
        f"the annotation ids of {path.name} are missing, repeated or above 65535: renumbered from 1"
    )
    return list(range(1, len(ids) + 1))


def _rank(found: list[_Found]) -> Callable[[_Found], tuple[bool, float, int]]:
    """Return the order in which objects lie over each other, the lowest first."""
    has_scores = bool(found) and all(f.label.score is not None for f in found)

    def rank(one: _Found) -> tuple[bool, float, int]:
        return (not one.is_crowd, (one.label.score or 0.0) if has_scores else 0.0, -one.area)

    return rank


def _painted(found: list[_Found], shape: tuple[int, int]) -> tuple[Any, int]:
    """Return the label picture and how many pixels had to leave an object."""
    highest = max((f.label.id for f in found), default=0)
    ordered = sorted(found, key=_rank(found))
    by_id: dict[int, list[outlines.Runs]] = {}
    for one in ordered:
        by_id.setdefault(one.label.id, []).extend(one.runs)
    sets = [runs for one in ordered for runs in one.runs]
    values = [one.label.id for one in ordered for _ in one.runs]
    ids = outlines.painted(sets, values, shape, smallest_unsigned(highest))
    claimed = sum(outlines.covered(runs) for runs in by_id.values())
    return ids, claimed - int(np.count_nonzero(ids))


FORMAT = Format(
    name="coco",
    title="COCO instances (JSON)",
    suffixes=(".json",),
    sniff=sniff,
    read_mask=read_mask,
    read_masks=read_masks,
    write_mask=write_mask,
    plan=plan,
    reread=reread,
    reader="maskloop's second COCO reader",
    has_entries=True,
    proof="real data",
)

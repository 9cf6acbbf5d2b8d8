"""COCO instances JSON: compressed run lengths out; run lengths and polygons in.

One annotation an id, however many parts; annotation ids are the label ids. Where objects of a
foreign file overlap, crowds lie lowest, then the higher score wins, or where scores are missing
the smaller object, and the loss is told.

References
----------
.. [1] COCO, "Data format", section "Object Detection": images, annotations, categories, iscrowd.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from itertools import count
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from maskloop.core.errors import FormatError, InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import smallest_unsigned
from maskloop.core.job import Job
from maskloop.core.labels import Kind, Label, LabelTable, Status, colour_of
from maskloop.core.mask import Mask
from maskloop.formats import coco_shapes
from maskloop.formats.base import Evidence, Format, Planned, Target, first_bytes, reading
from maskloop.ops import outlines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from maskloop.core.geometry import Box
    from maskloop.core.image import Image

KEPT = ("name", "colour", "author", "locked", "visible", "status")
_Entry = dict[str, Any]  # Any: plain JSON values


@dataclass(frozen=True, slots=True)
class CocoHeader:
    """What of a COCO file is written back as it was: image entry, categories, info, licenses."""

    image: Mapping[str, Any] = field(default_factory=dict)
    categories: tuple[Mapping[str, Any], ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    licenses: tuple[Any, ...] = ()  # Any: plain JSON values


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """One object of a file, before overlaps are settled."""

    label: Label
    runs: list[outlines.Runs]
    area: int
    is_crowd: bool


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
    content = parse(path)
    shown = _chosen(content, image, entry, path)
    shape = coco_shapes.size_of(shown, path.name)
    header = CocoHeader(
        shown,
        tuple(content.get("categories", ())),
        content.get("info") or {},
        tuple(content.get("licenses") or ()),
    )
    stated = (header.info.get("maskloop") or {}).get("kind") if header.info else None
    kind = kind or ("classes" if stated == "classes" else "objects")
    found = _objects(content, shown, shape, kind, path, job)
    data, lost = _painted(found, shape)
    if lost:
        job.say(
            f"{lost} pixels of {path.name} belong to several objects; each went to one of them "
            f"(crowds lowest, then the higher score, then the smaller object on top)"
        )
    rows = {f.label.id: f.label for f in found}
    if kind == "classes":
        rows = {**{c.id: c for c in _class_rows(header)}, **rows}
    return Mask(data, Geometry.pixels(shape), LabelTable(rows.values()), path, header)


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
    content = parse(path)
    shown = _chosen(content, None, entry, path)
    shape = coco_shapes.size_of(shown, path.name)
    found = _objects(content, shown, shape, "objects", path, job or Job())
    return [(f.label, *outlines.region_of(f.runs, shape[0])) for f in found if f.area]


def plan(mask: Mask, *, suffix: str) -> Planned:
    """Take a single slice as a picture; refuse volumes; drop rows that have no pixels."""
    ids = mask.data
    while ids.ndim > 2 and ids.shape[0] == 1:
        ids = ids[0]
    if ids.ndim != 2:
        msg = (
            f"expected a picture (y, x) for COCO, got shape {ids.shape}; volumes come in a later "
            f"version: write .nii.gz, or export one slice"
        )
        raise InputError(msg)
    losses = []
    if mask.geometry.unit == "mm":
        losses.append("the place in the world (mm) has no home in COCO: keep the image beside it")
    ids = ids.astype(smallest_unsigned(int(ids.max(initial=0))), copy=False)
    labels = mask.labels
    if not _is_classes(labels):
        empty = sorted(set(labels) - set(Mask(ids, Geometry.pixels(ids.shape), labels).ids()))
        labels = labels.without(empty)
        if empty:
            losses.append(f"objects without pixels are left out: {', '.join(map(str, empty))}")
    planned = Mask(ids, Geometry.pixels(ids.shape), labels, mask.source, mask.header)
    return Planned(planned, None, tuple(losses))


def write_mask(mask: Mask, to: Target) -> None:
    """Write the JSON; the same mask gives the same bytes."""
    import orjson

    to.path.write_bytes(orjson.dumps(_content(mask, to.final), option=orjson.OPT_APPEND_NEWLINE))


def reread(to: Target) -> Evidence:
    """Decode the JSON again, character by character, with the standard library's parser."""
    from maskloop.formats import coco_plain

    return coco_plain.read(to.path)


def _content(mask: Mask, target: Path) -> _Entry:
    header = mask.header if isinstance(mask.header, CocoHeader) else CocoHeader()
    height, width = mask.data.shape
    entry = {
        "id": 1,
        **header.image,
        "width": width,
        "height": height,
        "file_name": _file_name(mask, header, target),
    }
    categories = _categories(mask.labels, header)
    number_of = {c["name"]: c["id"] for c in categories}
    is_classes = _is_classes(mask.labels)
    rows = {**mask.labels}
    annotations = []
    for outline in outlines.encode(mask.data):
        row = rows[outline.id]
        annotation: _Entry = {
            "id": outline.id,
            "image_id": entry["id"],
            "category_id": row.id if is_classes else number_of[row.category or row.name],
            "segmentation": {"size": [height, width], "counts": outline.counts},
            "area": outline.area,
            "bbox": [float(n) for n in outline.box],
            "iscrowd": int(row.ignore and not is_classes),
        }
        if row.score is not None:
            annotation["score"] = row.score
        extra = {} if is_classes else attributes(row)
        if extra:
            annotation["attributes"] = extra
        annotations.append(annotation)
    return {
        "info": {
            **header.info,
            "maskloop": {"version": 1, "kind": "classes" if is_classes else "objects"},
        },
        "licenses": list(header.licenses),
        "images": [entry],
        "annotations": annotations,
        "categories": categories,
    }


def _is_classes(labels: LabelTable) -> bool:
    """Whether ids are category ids; an empty table says nothing, and keeps a file's categories."""
    return bool(labels) and labels.kind == "classes"


def attributes(row: Label) -> _Entry:
    """Return the fields of an object's row that COCO has no place for, where they say something."""
    plain = Label(row.id, f"{row.category} {row.id}")
    return {k: getattr(row, k) for k in KEPT if getattr(row, k) != getattr(plain, k)}


def _categories(labels: LabelTable, header: CocoHeader) -> list[_Entry]:
    """Return the categories: classes keep their ids, objects' categories those of their file."""
    known = {str(c.get("name")): dict(c) for c in header.categories}
    if _is_classes(labels):
        rows = labels.values()
        return [
            {
                "supercategory": "",
                **known.get(r.name, {}),
                "id": r.id,
                "name": r.name,
                "color": _rgb(r.colour),
                "isthing": int(r.is_thing),
            }
            for r in rows
        ]
    wanted = sorted({r.category or r.name for r in labels.values()} - set(known))
    taken = {int(c["id"]) for c in known.values()}
    free = (n for n in count(1) if n not in taken)
    fresh = {name: next(free) for name in wanted}
    found = [dict(c) for c in header.categories]
    stuff = {r.name for r in labels.values() if r.category is None and not r.is_thing}
    for name, number in fresh.items():
        colour = _rgb(colour_of(number))
        is_thing = int(name not in stuff)
        found.append(
            {"id": number, "name": name, "supercategory": "", "color": colour, "isthing": is_thing}
        )
    return sorted(found, key=lambda c: int(c["id"]))


def _rgb(colour: str) -> list[int]:
    return list(bytes.fromhex(colour[1:]))


def _file_name(mask: Mask, header: CocoHeader, target: Path) -> str:
    """Return the picture's name relative to the JSON's folder, with forward slashes."""
    stated = str(header.image.get("file_name", ""))
    source = mask.source
    if source is None:
        return stated or "mask.png"
    if stated and (source.suffix.lower() == ".json" or PurePosixPath(stated).name == source.name):
        return stated
    try:
        return source.resolve().relative_to(target.resolve().parent).as_posix()
    except ValueError:
        return source.name


def parse(path: Path) -> _Entry:
    """Return the JSON of a COCO file, or raise `FormatError`."""
    import orjson

    with reading(path):
        raw = path.read_bytes()
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
    return content


def _chosen(
    content: _Entry, image: Image | None, entry: str | int | None, path: Path
) -> Mapping[str, Any]:
    images = [i for i in content["images"] if isinstance(i, dict)]
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


def _objects(
    content: _Entry,
    shown: Mapping[str, Any],
    shape: tuple[int, int],
    kind: Kind,
    path: Path,
    job: Job,
) -> list[_Found]:
    annotations = [
        a
        for a in content.get("annotations", ())
        if isinstance(a, dict) and a.get("image_id") == shown.get("id")
    ]
    with_shape = [a for a in annotations if a.get("segmentation")]
    if len(with_shape) < len(annotations):
        job.say(
            f"{len(annotations) - len(with_shape)} annotations of {path.name} have no shape: "
            f"left out"
        )
    names = {c.get("id"): str(c.get("name", c.get("id"))) for c in content.get("categories", ())}
    runs = coco_shapes.runs_of(with_shape, shape, path.name)
    numbers = _numbers(with_shape, path, job)
    is_ours = "maskloop" in (content.get("info") or {})
    # Others call what they annotate piece by piece stuff, too.
    stuff = {c.get("id") for c in content.get("categories", ()) if is_ours and not c.get("isthing")}
    found = []
    for annotation, number, part in zip(with_shape, numbers, runs, strict=True):
        category = annotation.get("category_id")
        name = names.get(category, str(category))
        is_crowd = bool(annotation.get("iscrowd"))
        if kind == "classes":
            label = _class_row(category, name, content.get("categories", ()), path)
        else:
            label = object_row(annotation, number, name, is_ours)
            if category in stuff:
                kept = name if label.name == f"{name} {number}" else label.name
                label = replace(label, name=kept, category=None, is_thing=False)
        found.append(_Found(label, part, outlines.covered(part), is_crowd))
    return found


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


def object_row(annotation: _Entry, number: int, category: str, is_ours: bool) -> Label:
    """Return the row of an object; what we once wrote about it is taken back where it fits."""
    is_crowd = bool(annotation.get("iscrowd"))
    word = f"{category} crowd" if is_crowd else category
    score = annotation.get("score")
    row = Label(
        number,
        f"{word} {number}",
        category=category,
        is_thing=True,
        ignore=is_crowd,
        score=float(score) if isinstance(score, (int, float)) else None,
    )
    extra = annotation.get("attributes")
    if not is_ours or not isinstance(extra, dict):
        return row
    kinds = {f.name: f.type for f in fields(Label)}
    kept = {k: v for k, v in extra.items() if k in KEPT and type(v).__name__ == kinds[k]}
    if extra.get("status") in get_args(Status):
        kept["status"] = extra["status"]
    try:
        return replace(row, **kept)
    except InputError:
        return row


def _class_rows(header: CocoHeader) -> list[Label]:
    rows = []
    for category in header.categories:
        number = category.get("id")
        if isinstance(number, int) and number >= 1:
            rows.append(_class_label(number, category))
    return rows


def _class_row(
    number: object, name: str, categories: Sequence[Mapping[str, Any]], path: Path
) -> Label:
    if not isinstance(number, int) or number < 1:
        msg = (
            f"expected category ids of at least 1 in {path.name}, got {number!r}; read it as "
            "objects instead"
        )
        raise FormatError(msg)
    listed = next((c for c in categories if c.get("id") == number), {"name": name})
    return _class_label(number, listed)


def _class_label(number: int, category: Mapping[str, Any]) -> Label:
    return Label(
        number,
        str(category.get("name", number)),
        colour=stated_colour(category),
        is_thing=bool(category.get("isthing", 0)),
    )


def stated_colour(category: Mapping[str, Any]) -> str:
    """Return a category's own colour as ``#rrggbb``; empty where it has none that can be read."""
    colour = category.get("color")
    if isinstance(colour, str):
        return colour.lower() if re.fullmatch(r"#[0-9a-fA-F]{6}", colour) else ""
    if not isinstance(colour, list) or len(colour) != 3:
        return ""
    is_rgb = all(isinstance(c, int) and 0 <= c <= 255 for c in colour)
    return "#" + bytes(colour).hex() if is_rgb else ""


def _painted(found: list[_Found], shape: tuple[int, int]) -> tuple[Any, int]:
    """Return the label picture and how many pixels had to leave an object."""
    highest = max((f.label.id for f in found), default=0)
    canvas = np.zeros(shape[0] * shape[1], dtype=smallest_unsigned(highest))
    has_scores = bool(found) and all(f.label.score is not None for f in found)

    def rank(one: _Found) -> tuple[bool, float, int]:
        return (not one.is_crowd, (one.label.score or 0.0) if has_scores else 0.0, -one.area)

    by_id: dict[int, list[outlines.Runs]] = {}
    for one in sorted(found, key=rank):
        by_id.setdefault(one.label.id, []).extend(one.runs)
        for runs in one.runs:
            outlines.paint(canvas, runs, one.label.id)
    claimed = sum(outlines.covered(runs) for runs in by_id.values())
    lost = claimed - int(np.count_nonzero(canvas))
    return np.ascontiguousarray(canvas.reshape(shape[::-1]).T), lost


FORMAT = Format(
    name="coco",
    title="COCO instances (JSON)",
    suffixes=(".json",),
    sniff=sniff,
    read_mask=read_mask,
    write_mask=write_mask,
    plan=plan,
    reread=reread,
    reader="maskloop's second COCO reader",
    has_entries=True,
    proof="real data",
)

"""LabelMe: one JSON beside each picture, with masks, polygons, rectangles and circles.

Masks are exact: a box whose both corners belong to it, and a PNG of that box. Points lie in the
world of pixel corners, as the canvas shows them: a pixel belongs to a polygon if its centre does.
Shapes of one label and one group number are parts of one object. ``__ignore__`` is LabelMe's word
for what training leaves out.
"""

from __future__ import annotations

import base64
import binascii
import re
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import FormatError
from maskloop.datasets.base import (
    PICTURES,
    DatasetFormat,
    Held,
    Options,
    class_of,
    place_image,
    regions,
    safe_name,
)
from maskloop.datasets.beside import (
    TABLE,
    Lists,
    json_at,
    require_size,
    scheme_of,
    size_of,
    write_scheme,
)
from maskloop.datasets.drawn import (
    KEY,
    Drawn,
    Record,
    extras_of,
    flat,
    laid,
    points_of,
    record_of,
    union,
)
from maskloop.datasets.files import named_files
from maskloop.formats import picture_png
from maskloop.formats.base import first_bytes
from maskloop.ops.fill import cropped, ellipse, fill_corners
from maskloop.ops.rings import rings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from maskloop.core.job import Job
    from maskloop.core.labels import LabelTable
    from maskloop.datasets.base import Region
    from maskloop.ops.fill import Found

IGNORE = "__ignore__"
_LISTS = ("labels.txt", "label_names.txt")
_NO_CLASS = (IGNORE, "_background_")
_LABEL = re.compile(rb'"label"\s*:\s*("(?:[^"\\]|\\.)*")')
_SMALL = 1 << 20  # bytes of a JSON that is parsed when it is listed
_LOOKED_AT = 8  # files of a folder, when asked whether it is one
_AREAS = ("polygon", "rectangle", "circle", "mask", "oriented_rectangle")
_SHAPE = ("label", "points", "shape_type", "mask", KEY)
_FILE = ("shapes", "imagePath", "imageData", "imageHeight", "imageWidth")


def sniff(path: Path) -> bool:
    """Whether a file, or the first JSON files of a folder, start as LabelMe's do."""
    if path.is_dir():
        return any(
            _is_labelme(file)
            for below in ("*.json", "*/*.json", "*/*/*.json")
            for file in islice(path.glob(below), _LOOKED_AT)
        )
    return path.suffix.lower() == ".json" and _is_labelme(path)


def _is_labelme(file: Path) -> bool:
    head = first_bytes(file, 4096)
    # Old files begin with the picture itself, or have no version.
    begins = re.match(rb'\s*\{\s*"imageData"\s*:\s*"', head) is not None
    words = (b'"imagePath"', b'"imageData"', b'"points"', b'"flags"')
    return begins or (b'"shapes"' in head and any(word in head for word in words))


def open_dataset(path: Path, *, options: Options, job: Job) -> Dataset:
    """List the JSON files, each with its picture; small ones are parsed for sizes and labels."""
    root = path if path.is_dir() else path.parent
    files = named_files(root, (".json",)) if path.is_dir() else {path.stem: path}
    items, names = [], set()
    for name, file in job.track(files.items(), "list"):
        if file.name == TABLE or not _is_labelme(file):
            continue
        item, found = _item(name, file, root)
        items.append(item)
        names |= found
    listed = [
        line.strip()
        for file in (root / name for name in _LISTS)
        if file.is_file()
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    wanted = [name for name in [*listed, *sorted(names)] if name not in _NO_CLASS]
    scheme = scheme_of(root, wanted)
    listing = Lists.told(items, root) if path.is_dir() else tuple(items)

    def read(item: Item, job: Job) -> Sample:
        return _read(item, scheme, job)

    title = root.name if path.is_dir() else path.stem
    return Dataset(title, "labelme", path, scheme, listing, read, "objects")


def _item(name: str, file: Path, root: Path) -> tuple[Item, set[str]]:
    """Return an item and the labels in it, as far as a look at its file tells."""
    size = file.stat().st_size
    content: Any = None  # Any: plain JSON values
    if size <= _SMALL:
        try:
            content = json_at(file)
        except FormatError:  # said when the item is read
            content = None
    if not isinstance(content, dict):
        texts = _LABEL.findall(first_bytes(file, _SMALL))
        found = {str(orjson.loads(text)) for text in texts if _is_json(text)}
        return Item(name, _picture(None, file, root), ref=file), found
    try:
        shape = require_size(content.get("imageHeight"), content.get("imageWidth"), file.name)
    except FormatError:
        shape = None
    shown = content.get("shapes")
    shapes = [s for s in shown if isinstance(s, dict)] if isinstance(shown, list) else []
    areas = [s for s in shapes if s.get("shape_type", "polygon") in _AREAS]
    found = {str(s.get("label", "")) for s in areas}
    single = [s for s in areas if s.get("group_id") is None]
    groups = {
        (str(s.get("label")), str(s.get("group_id")))
        for s in areas
        if s.get("group_id") is not None
    }
    item = Item(
        name,
        _picture(content.get("imagePath"), file, root),
        shape,
        classes=frozenset(found),
        count=len(single) + len(groups),
        ref=file,
    )
    return item, found


def _is_json(text: bytes) -> bool:
    try:
        return isinstance(orjson.loads(text), str)
    except orjson.JSONDecodeError:
        return False


def _picture(named: object, file: Path, root: Path) -> Path | None:
    """Return the picture that a file names, if it lies in the dataset, else the one beside it."""
    if isinstance(named, str) and named:
        way: list[str] = list(file.parent.relative_to(root).parts)
        for part in PurePosixPath(named.replace("\\", "/")).parts:
            if part == "..":
                way = way[:-1] if way else ["/"]
            else:
                way.append(part)
        path = root.joinpath(*way)
        if not any(part.startswith("/") or ":" in part for part in way) and path.is_file():
            return path
    beside = (file.with_name(file.stem + suffix) for suffix in PICTURES)
    return next((path for path in beside if path.is_file()), None)


def _read(item: Item, scheme: LabelTable, job: Job) -> Sample:
    file: Path = item.ref
    content = json_at(file)
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        msg = f"expected a list of shapes in {file.name}, got {str(shapes)[:40]!r}"
        raise FormatError(f"{msg}; save the file from LabelMe again")
    if content.get("imageHeight") is not None or item.image is None:
        where = file.name
        shape = require_size(content.get("imageHeight"), content.get("imageWidth"), where)
    else:
        shape = size_of(item.image)
    drawn: dict[object, list[Drawn]] = {}
    left_out = 0
    for number, shown in enumerate(shapes, start=1):
        if shown.get("shape_type", "polygon") not in _AREAS:
            left_out += 1
            continue
        label, group = str(shown.get("label", "")), shown.get("group_id")
        one = _drawn(shown, shape, f"shape {number} ({label}) of {file.name}")
        key = number if group is None else (label, str(group))
        drawn.setdefault(key, []).append(one)
    if left_out:
        job.say(f"{left_out} shapes of {file.name} are points or lines, not areas: left out")
    extra = {key: value for key, value in content.items() if key not in _FILE}
    together = [_joined(parts) for parts in drawn.values()]
    return laid(item, shape, together, scheme, format="labelme", extra=extra)


def _joined(parts: Sequence[Drawn]) -> Drawn:
    first = parts[0]
    return Drawn(first.category, union([p.found for p in parts]), first.record, first.extra)


def _drawn(shown: Record, shape: tuple[int, int], where: str) -> Drawn:
    kept = shown.get(KEY)
    record: Record = dict(kept) if isinstance(kept, dict) else {}
    label = str(shown.get("label", ""))
    if label == IGNORE:
        record.setdefault("ignore", True)
    extra = {key: value for key, value in shown.items() if key not in _SHAPE}
    try:
        found = _found(shown, shape, where)
    except FormatError as error:
        raise FormatError(str(error) if where in str(error) else f"{where}: {error}") from error
    return Drawn(label, found, record, extra)


def _found(shown: Record, shape: tuple[int, int], where: str) -> Found | None:
    kind = shown.get("shape_type", "polygon")
    points = points_of(shown.get("points"), where)
    least = {"polygon": 3, "oriented_rectangle": 3}.get(kind, 2)
    if len(points) < least:
        msg = f"expected at least {least} points in {where}, got {len(points)}"
        raise FormatError(f"{msg}; repair or remove the shape")
    if kind == "mask":
        return _unpacked(shown.get("mask"), points, shape, where)
    if kind == "circle":
        radius = float(np.hypot(*(points[1] - points[0])))
        return ellipse((float(points[0, 0]), float(points[0, 1])), (radius, radius), shape)
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points.tolist()
        points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    return fill_corners([points], shape)


def _unpacked(
    text: object, points: npt.NDArray[np.float64], shape: tuple[int, int], where: str
) -> Found | None:
    """Return the region of a mask shape: a PNG of its box."""
    import io
    import struct
    import warnings
    import zlib

    import PIL.Image

    (left, top), (right, bottom) = np.trunc(points[:2]).tolist()
    size = (int(right - left) + 1, int(bottom - top) + 1)
    if not (0 <= left <= right < shape[1] and 0 <= top <= bottom < shape[0]):
        msg = f"expected a mask inside the picture of {shape[1]} x {shape[0]} pixels in {where}"
        raise FormatError(f"{msg}, got corners {points[:2].tolist()}; draw it again")
    try:
        raw = base64.b64decode(str(text), validate=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged chunks: told below
            with PIL.Image.open(io.BytesIO(raw), formats=["PNG"]) as opened:
                if opened.size != size:
                    msg = f"expected a mask of {size} pixels in {where}, got {opened.size}"
                    raise FormatError(f"{msg}; draw it again")
                inside = np.array(opened) != 0
    except FormatError:
        raise
    except (
        *(binascii.Error, OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error),
        PIL.Image.DecompressionBombError,
    ) as error:
        msg = f"expected a PNG as text in {where}, got {str(error)[:60]!r}; draw it again"
        raise FormatError(msg) from error
    region = inside if inside.ndim == 2 else inside.any(axis=2)
    return cropped(region, int(top), int(left))


def hold(sample: Sample, dataset: Dataset, *, options: Options) -> Held:
    """Keep every region; a grid in mm becomes pixels."""
    return flat(sample, "LabelMe")


def write(
    dataset: Dataset, samples: Iterable[Sample], folder: Path, *, options: Options, job: Job
) -> None:
    """Write a JSON beside each picture, LabelMe's list of labels, and our table of classes."""
    lists = Lists()
    for item, sample in zip(dataset.items, samples, strict=True):
        name = safe_name(item.name)
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        placed = place_image(item, target, options=options, job=job)
        shown = target.name + (".png" if placed is None else placed.suffix)
        content = _content(sample, shown, dataset.scheme, options)
        text = orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        target.with_name(target.name + ".json").write_bytes(text)
        lists.add(item, name)
    lists.write(folder)
    write_scheme(folder, dataset.scheme)
    names = "".join(f"{row.name}\n" for row in dataset.scheme.values())
    (folder / _LISTS[0]).write_text(names, encoding="utf-8")


def _content(sample: Sample, shown: str, scheme: LabelTable, options: Options) -> Record:
    extras = extras_of(sample, "labelme")
    taken = {str(extra.get("group_id")) for extra in extras.objects.values()}
    shapes: list[Record] = []
    for place, one in enumerate(regions(sample), start=1):
        extra = extras.objects.get(one.label.id, {})
        found = _shapes(one, options)
        group = extra.get("group_id")
        if group is None and len(found) > 1:
            group = next(n for n in range(one.label.id, 2**62) if str(n) not in taken)
            taken.add(str(group))
        record = record_of(one.label, place, scheme)
        for shape in found:
            full = {
                "label": class_of(one.label),
                **{"description": "", "flags": {}},
                **extra,
                **{"group_id": group},
                **shape,
            }
            shapes.append({**full, KEY: record} if record else full)
    height, width = sample.masks[0].data.shape
    return {
        **{"version": "5.5.0", "flags": {}},
        **extras.item,
        **{"shapes": shapes, "imagePath": shown, "imageData": None},
        **{"imageHeight": height, "imageWidth": width},
    }


def _shapes(one: Region, options: Options) -> list[Record]:
    """Return an object's shapes: its mask, or polygons where asked for and it has no hole."""
    top, left = one.box[0].start, one.box[1].start
    found = rings(one.region) if options.outline == "polygon" else []
    if found and not any(ring.is_hole for ring in found):
        return [
            {"points": (r.points + np.array([left, top])).tolist(), "shape_type": "polygon"}
            for r in found
        ]
    bottom, right = one.box[0].stop - 1, one.box[1].stop - 1
    png = base64.b64encode(picture_png.packed(one.region.astype(np.uint8), b"")).decode()
    return [{"points": [[left, top], [right, bottom]], "shape_type": "mask", "mask": png}]


FORMAT = DatasetFormat(
    name="labelme",
    title="LabelMe JSON",
    sniff=sniff,
    open=open_dataset,
    hold=hold,
    write=write,
    options=frozenset({"images", "outline"}),
    layout="NAME.json beside NAME.*",
    proof="real data",
)

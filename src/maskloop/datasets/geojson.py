"""GeoJSON as QuPath writes it: polygons with real holes, classes with colours, one file a picture.

QuPath counts pixel corners: a rectangle from 0 to 10 covers ten pixels. Rings along pixel edges
are therefore exact. A hole is a further ring of its polygon, a part a further polygon.

References
----------
.. [1] H. Butler et al., "The GeoJSON Format", RFC 7946, 2016: sections 3.1.6, 3.1.7 and 6.1.
.. [2] QuPath documentation, "Exporting annotations": GeoJSON, objectType and classification.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import FormatError, InputError
from maskloop.core.labels import Label, LabelTable
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
    without_suffix,
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
from maskloop.formats.base import first_bytes
from maskloop.ops.fill import fill_corners
from maskloop.ops.rings import rings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from maskloop.core.job import Job
    from maskloop.datasets.base import Region
    from maskloop.ops.fill import Found

UNNAMED = "object"  # the class of a shape that names none
_SMALL = 1 << 20  # bytes of a file that is parsed when it is listed
_LOOKED_AT = 8  # files of a folder, when asked whether it is one
_CLASS = re.compile(rb'"classification"\s*:\s*\{[^{}]*?"name"\s*:\s*("(?:[^"\\]|\\.)*")')
_OURS = ("classification", "name", "isLocked", KEY)
_OTHER_WORDS = ("class", "label", "category")  # for a class, outside QuPath


def sniff(path: Path) -> bool:
    """Whether a file, or a file of a folder, is named and starts as GeoJSON."""
    if path.is_dir():
        return any(
            _is_geojson(file)
            for below in ("*.geojson", "*/*.geojson", "*/*/*.geojson")
            for file in islice(path.glob(below), _LOOKED_AT)
        )
    return _is_geojson(path)


def _is_geojson(file: Path) -> bool:
    if file.suffix.lower() not in (".geojson", ".json"):
        return False
    head = first_bytes(file, 4096)
    is_named = file.suffix.lower() == ".geojson" and head.lstrip()[:1] in (b"{", b"[")
    return is_named or b'"FeatureCollection"' in head


def open_dataset(path: Path, *, options: Options, job: Job) -> Dataset:
    """List the files, each with its picture; small ones are parsed for classes and counts."""
    root = path if path.is_dir() else path.parent
    files = named_files(root, (".geojson",)) if path.is_dir() else {path.stem: path}
    items = []
    colours: dict[str, str] = {}
    for stem, file in job.track(files.items(), "list"):
        name = without_suffix(stem)
        item, found = _item(name, file)
        items.append(item)
        for word, colour in found.items():
            colours[word] = colours.get(word) or colour
    scheme = _scheme(root, colours)
    listing = Lists.told(items, root) if path.is_dir() else tuple(items)

    def read(item: Item, job: Job) -> Sample:
        return _read(item, scheme, job)

    title = root.name if path.is_dir() else path.stem
    return Dataset(title, "geojson", path, scheme, listing, read, "objects")


def _scheme(root: Path, colours: dict[str, str]) -> LabelTable:
    table = scheme_of(root, sorted(colours))
    if (root / TABLE).is_file():
        return table
    return table.with_rows(
        Label(row.id, row.name, colours[row.name], is_thing=True)
        for row in table.values()
        if colours.get(row.name)
    )


def _item(name: str, file: Path) -> tuple[Item, dict[str, str]]:
    """Return an item and the classes in it with their colours, as far as a look tells."""
    content: Any = None  # Any: plain JSON values
    if file.stat().st_size <= _SMALL:
        try:
            content = json_at(file)
        except FormatError:  # said when the item is read
            content = None
    if content is None:
        texts = set(_CLASS.findall(first_bytes(file, 16 * _SMALL)))
        return Item(name, _picture(file), ref=file), dict.fromkeys(_texts(texts), "")
    features = [f for f in _features(content) or () if isinstance(f, dict)]
    areas = [f for f in features if _has_area(f.get("geometry"))]
    found: dict[str, str] = {}
    for feature in areas:
        word, colour = _class(feature)
        found[word] = found.get(word) or colour
    item = Item(
        name,
        _picture(file),
        _stated_size(content, file),
        classes=frozenset(found),
        count=len(areas),
        ref=file,
    )
    return item, found


def _texts(found: Iterable[bytes]) -> Iterator[str]:
    for text in sorted(found):
        try:
            yield str(orjson.loads(text))
        except orjson.JSONDecodeError:
            continue


def _features(content: Any) -> list[Any] | None:  # Any: plain JSON values
    """Return the features of a collection, of a list, or the single one; None if it is none."""
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        return None
    if content.get("type") == "Feature":
        return [content]
    found = content.get("features")
    return found if isinstance(found, list) else None


def _has_area(geometry: Any) -> bool:  # Any: plain JSON values
    if not isinstance(geometry, dict) or geometry.get("type") not in ("Polygon", "MultiPolygon"):
        return False
    plane = geometry.get("plane")
    is_elsewhere = isinstance(plane, dict) and (plane.get("z") or plane.get("t"))
    return not is_elsewhere


def _class(feature: Record) -> tuple[str, str]:
    """Return the name of a feature's class and its colour, empty where none is stated."""
    properties = feature.get("properties")
    if not isinstance(properties, dict):
        return UNNAMED, ""
    named = properties.get("classification")
    if isinstance(named, dict):
        return str(named.get("name") or UNNAMED), _colour(named)
    words = [named, *(properties.get(key) for key in _OTHER_WORDS)]
    return next((word for word in words if isinstance(word, str) and word), UNNAMED), ""


def _colour(named: Record) -> str:
    colour, packed = named.get("color"), named.get("colorRGB")
    if isinstance(colour, list) and len(colour) >= 3:
        if all(isinstance(c, int) and 0 <= c <= 255 for c in colour[:3]):
            return "#" + bytes(colour[:3]).hex()
    elif isinstance(packed, int):  # Java's signed number of alpha, red, green, blue
        return f"#{packed & 0xFFFFFF:06x}"
    return ""


def _stated_size(content: Any, file: Path) -> tuple[int, int] | None:  # Any: plain JSON values
    stated = content.get(KEY) if isinstance(content, dict) else None
    if not isinstance(stated, dict):
        return None
    try:
        return require_size(stated.get("height"), stated.get("width"), file.name)
    except FormatError:
        return None


def _picture(file: Path) -> Path | None:
    """Return the picture of a file: of its name, with or without a suffix before .geojson."""
    names = [file.stem, *(file.stem + suffix for suffix in PICTURES)]
    places = [file.parent, file.parent / "images", file.parent.parent / "images"]
    found = (place / name for place in places for name in names)
    return next((p for p in found if p.suffix.lower() in PICTURES and p.is_file()), None)


def _read(item: Item, scheme: LabelTable, job: Job) -> Sample:
    file: Path = item.ref
    content = json_at(file)
    features = _features(content)
    if features is None or not all(isinstance(one, dict) for one in features):
        msg = f"expected a FeatureCollection in {file.name}, got {str(content)[:40]!r}"
        raise FormatError(f"{msg}; export it from QuPath again")
    areas = {n: one for n, one in enumerate(features, 1) if _has_area(one.get("geometry"))}
    if len(areas) < len(features):
        job.say(
            f"{len(features) - len(areas)} features of {file.name} are points, lines or on other "
            "planes: left out"
        )
    lines = {n: _polygons(one, f"feature {n} of {file.name}") for n, one in areas.items()}
    shape = _stated_size(content, file)
    if shape is None and item.image is not None:
        shape = size_of(item.image)
    if shape is None:
        shape = _reach([ring for found in lines.values() for one in found for ring in one], file)
        job.say(
            f"{file.name} has no picture beside it: its size is taken from the shapes, "
            f"{shape[1]} x {shape[0]} pixels"
        )
    drawn = [_drawn(one, _filled(lines[number], shape)) for number, one in areas.items()]
    return laid(item, shape, drawn, scheme, format="geojson")


def _polygons(feature: Record, where: str) -> list[list[Any]]:  # Any: arrays of points
    """Return the polygons of a feature, each a list of rings."""
    geometry = feature["geometry"]
    stated = geometry.get("coordinates")
    polygons = [stated] if geometry["type"] == "Polygon" else stated
    if not isinstance(polygons, list) or not all(isinstance(one, list) for one in polygons):
        msg = f"expected polygons as lists of rings in {where}, got {str(stated)[:40]!r}"
        raise FormatError(f"{msg}; repair or remove the feature")
    found = [[points_of(ring, where) for ring in one] for one in polygons]
    for ring in (ring for one in found for ring in one):
        if len(ring) < 3:
            msg = f"expected at least 3 points a ring in {where}, got {len(ring)}"
            raise FormatError(f"{msg}; repair or remove the feature")
    return found


def _filled(polygons: list[list[Any]], shape: tuple[int, int]) -> Found | None:  # Any: arrays
    return union([fill_corners(one, shape) for one in polygons])


def _reach(found: list[Any], file: Path) -> tuple[int, int]:  # Any: arrays of points
    if not found:
        msg = f"expected the picture of {file.name}, got none and no shapes; put it beside the file"
        raise InputError(msg)
    width, height = np.clip(np.ceil(np.concatenate(found).max(axis=0)), 1, 2**40).tolist()
    return require_size(int(height), int(width), file.name)


def _drawn(feature: Record, found: Found | None) -> Drawn:
    stated = feature.get("properties")
    properties: Record = stated if isinstance(stated, dict) else {}
    kept = properties.get(KEY)
    record: Record = dict(kept) if isinstance(kept, dict) else {}
    if isinstance(properties.get("name"), str):
        record["name"] = properties["name"]
    if isinstance(properties.get("isLocked"), bool):
        record["locked"] = properties["isLocked"]
    extra: Record = {
        "properties": {key: value for key, value in properties.items() if key not in _OURS}
    }
    if "id" in feature:
        extra["id"] = feature["id"]
    return Drawn(_class(feature)[0], found, record, extra)


def hold(sample: Sample, dataset: Dataset, *, options: Options) -> Held:
    """Keep every region; a grid in mm becomes pixels."""
    return flat(sample, "GeoJSON")


def write(
    dataset: Dataset, samples: Iterable[Sample], folder: Path, *, options: Options, job: Job
) -> None:
    """Write a file beside each picture, and our table of classes."""
    lists = Lists()
    colours = {row.name: row.colour for row in dataset.scheme.values()}
    for item, sample in zip(dataset.items, samples, strict=True):
        name = safe_name(item.name)
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        place_image(item, target, options=options, job=job)
        height, width = sample.masks[0].data.shape
        extras = extras_of(sample, "geojson").objects
        content = {
            "type": "FeatureCollection",
            KEY: {"height": height, "width": width},
            "features": [
                _feature(one, place, colours, dataset.scheme, dict(extras.get(one.label.id, {})))
                for place, one in enumerate(regions(sample), start=1)
            ],
        }
        text = orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)
        target.with_name(target.name + ".geojson").write_bytes(text)
        lists.add(item, name)
    lists.write(folder)
    write_scheme(folder, dataset.scheme)


def _feature(
    one: Region, place: int, colours: dict[str, str], scheme: LabelTable, extra: Record
) -> Record:
    word = class_of(one.label)
    colour = bytes.fromhex(colours.get(word, one.label.colour)[1:])
    properties: Record = {
        "objectType": "annotation",
        **extra.pop("properties", {}),
        "classification": {"name": word, "color": list(colour)},
    }
    record = record_of(one.label, place, scheme)
    if "name" in record:
        properties["name"] = record.pop("name")
    if record.pop("locked", False):
        properties["isLocked"] = True
    if record:
        properties[KEY] = record
    return {"type": "Feature", **extra, "geometry": _geometry(one), "properties": properties}


def _geometry(one: Region) -> Record:
    """Return rings closed by their first point: outer ones, then their holes, part by part."""
    corner = np.array([one.box[1].start, one.box[0].start])
    parts: dict[int, list[list[list[int]]]] = {}
    for ring in rings(one.region):
        points = (ring.points + corner).tolist()
        parts.setdefault(ring.part, []).append([*points, points[0]])
    polygons = list(parts.values())
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


FORMAT = DatasetFormat(
    name="geojson",
    title="GeoJSON (QuPath)",
    sniff=sniff,
    open=open_dataset,
    hold=hold,
    write=write,
    options=frozenset({"images"}),
    layout="NAME.geojson beside NAME.*",
    proof="real data",
)

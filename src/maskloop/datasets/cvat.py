"""CVAT XML ("CVAT for images 1.1"): masks, polygons, boxes and ellipses of many pictures.

A mask is a box and run lengths of that box only, row by row, background first. Polygons lie in
the world of pixel corners: CVAT turns them into masks with COCO's rasteriser, and so do we. Where
each picture begins in the file is noted when it is listed; only that part is parsed to read it.

References
----------
.. [1] CVAT, "XML annotation format", version 1.1: annotations of images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import numpy as np
import orjson

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import FormatError, InputError
from maskloop.core.labels import Label, LabelTable
from maskloop.datasets.base import (
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
    scheme_of,
    told_apart,
    without_suffix,
    write_scheme,
)
from maskloop.datasets.cvat_index import Entry, Index, listed
from maskloop.datasets.drawn import (
    KEY,
    Drawn,
    Record,
    extras_of,
    flat,
    laid,
    record_of,
)
from maskloop.formats.base import first_bytes, reading
from maskloop.ops import outlines
from maskloop.ops.fill import Found, cropped, ellipse, fill_corners
from maskloop.ops.rings import rings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import numpy.typing as npt

    from maskloop.core.job import Job
    from maskloop.datasets.base import Region

_FILE = "annotations.xml"
_MASK = ("left", "top", "width", "height", "rle")
_BOXES = ("xtl", "ytl", "xbr", "ybr", "cx", "cy", "rx", "ry", "rotation")
_MINE = ("label", "points", *_MASK, *_BOXES)
_NO_AREA = ("polyline", "points", "cuboid", "skeleton", "tag")


def sniff(path: Path) -> bool:
    """Whether a file, or the annotations.xml of a folder, starts as CVAT's do."""
    file = path / _FILE if path.is_dir() else path
    if file.suffix.lower() != ".xml":
        return False
    head = first_bytes(file, 4096)
    return b"<annotations" in head


def open_dataset(path: Path, *, options: Options, job: Job) -> Dataset:
    """List the pictures of the file."""
    file = path / _FILE if path.is_dir() else path
    with reading(file):
        index = listed(file)
    root = file.parent
    items = told_apart(_item(entry, root) for entry in index.entries)
    items = Lists.told(items, root) if path.is_dir() else items
    scheme = _scheme(index, root if path.is_dir() else None)

    def read(item: Item, job: Job) -> Sample:
        return _read(item, file, index, scheme, job)

    about = {"labels": index.labels}
    return Dataset(root.name if path.is_dir() else file.stem, "cvat", path, scheme, items, read,
                   "objects", about)  # fmt: skip


def _item(entry: Entry, root: Path) -> Item:
    from maskloop.datasets.base import inside

    relative = inside(root, entry.name)
    subset = inside(root, entry.subset).relative_to(root)
    places = [root / "images" / subset, root / "images", root / subset, root]
    within = relative.relative_to(root)
    image = next((p / within for p in places if (p / within).is_file()), None)
    return Item(
        without_suffix(within.as_posix()),
        image,
        (entry.height, entry.width),
        split="" if entry.subset == "default" else entry.subset,
        classes=frozenset(entry.classes),
        count=entry.count,
        ref=entry,
    )


def _scheme(index: Index, folder: Path | None) -> LabelTable:
    """Return our own table where there is one, else the labels of the task with their colours."""
    names = [label["name"] for label in index.labels]
    names += [name for entry in index.entries for name in sorted(entry.classes)]
    if folder is not None and (folder / TABLE).is_file():
        return scheme_of(folder, names)
    colours = {label["name"]: label["color"] for label in index.labels}
    rows = []
    for number, name in enumerate(dict.fromkeys(names), start=1):
        try:
            rows.append(Label(number, name, colours.get(name, ""), is_thing=True))
        except InputError:  # a colour of another kind
            rows.append(Label(number, name, is_thing=True))
    return LabelTable(rows)


def _read(item: Item, file: Path, index: Index, scheme: LabelTable, job: Job) -> Sample:
    entry: Entry = item.ref
    with reading(file), file.open("rb") as stream:
        stream.seek(entry.start)
        text = stream.read(entry.stop - entry.start)
    try:
        node = ElementTree.fromstring(index.head + text)
    except ElementTree.ParseError as error:
        msg = (
            f"expected the picture {entry.name!r} of {file.name} where it was listed, got {error}; "
            "the file has changed: open it again"
        )
        raise FormatError(msg) from error
    shape = (entry.height, entry.width)
    drawn, left_out = [], 0
    for number, shown in enumerate(node, start=1):
        if shown.tag in _NO_AREA:
            left_out += 1
            continue
        where = f"{file.name}: {shown.tag} {number} of {entry.name!r}"
        try:
            found = _found(shown, shape)
        except FormatError as error:
            raise FormatError(f"{where}: {error}") from error
        except (ValueError, TypeError, OverflowError) as error:
            msg = f"{where}: expected numbers, got {str(error)[:80]!r}; repair or remove the shape"
            raise FormatError(msg) from error
        drawn.append(_drawn(shown, found))
    empty = sum(one.found is None for one in drawn)
    if left_out or empty:
        job.say(f"{left_out + empty} shapes of {entry.name} cover no pixel: left out")
    return laid(item, shape, drawn, scheme, format="cvat")


def _drawn(node: ElementTree.Element, found: Found | None) -> Drawn:
    extra: Record = {k: v for k, v in node.attrib.items() if k not in _MINE}
    notes = {a.get("name", ""): a.text or "" for a in node if a.tag == "attribute"}
    record = _record(notes.pop(KEY, ""))
    if notes:
        extra["attributes"] = notes
    return Drawn(node.get("label", ""), found, record, extra)


def _record(text: str) -> Record:
    try:
        record = orjson.loads(text or "{}")
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _found(node: ElementTree.Element, shape: tuple[int, int]) -> Found | None:
    """Return what a shape of the file covers."""
    get = node.attrib.get
    if node.tag == "mask":
        return _unpacked(node, shape)
    if node.tag == "polygon":
        pairs = [point.split(",") for point in get("points", "").split(";") if point.strip()]
        if len(pairs) < 3 or any(len(pair) != 2 for pair in pairs):
            msg = f"expected at least 3 points x,y, got {get('points', '')[:40]!r}"
            raise FormatError(f"{msg}; repair or remove the shape")
        ring = [float(value) for pair in pairs for value in pair]
        if not (np.abs(ring) < 1e6).all():
            msg = f"expected points near the picture, got {get('points', '')[:40]!r}"
            raise FormatError(f"{msg}; repair or remove the shape")
        runs = outlines.fill_polygon(ring, shape)
        return outlines.region_of([runs], shape[0]) if runs.size else None
    turn = float(get("rotation", "0"))
    if node.tag == "box":
        left, top, right, bottom = (float(get(k, "nan")) for k in ("xtl", "ytl", "xbr", "ybr"))
        corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        middle = corners.mean(axis=0)
        cos, sin = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
        turned = (corners - middle) @ np.array([[cos, sin], [-sin, cos]]) + middle
        return fill_corners([turned if turn else corners], shape)
    if node.tag == "ellipse":
        x, y, wide, high = (float(get(k, "nan")) for k in ("cx", "cy", "rx", "ry"))
        return ellipse((x, y), (wide, high), shape, degrees=turn)
    msg = f"expected a mask, polygon, box or ellipse, got {node.tag!r}; remove it"
    raise FormatError(msg)


def _unpacked(node: ElementTree.Element, shape: tuple[int, int]) -> Found | None:
    """Return the region of a mask: run lengths of its box, row by row, background first."""
    left, top, width, height = (
        int(node.attrib.get(k, "-1")) for k in ("left", "top", "width", "height")
    )
    is_inside = left >= 0 and top >= 0 and left + width <= shape[1] and top + height <= shape[0]
    if not (is_inside and width > 0 and height > 0):
        msg = (
            f"expected a mask inside the picture of {shape[1]} x {shape[0]} pixels, got "
            f"{width} x {height} at ({left}, {top})"
        )
        raise FormatError(f"{msg}; the file was written for another picture")
    counts = [int(part) for part in node.get("rle", "").split(",")]
    if min(counts) < 0 or sum(counts) != width * height:
        msg = f"expected run lengths that add up to {width * height}, got {sum(counts)}"
        raise FormatError(f"{msg}; the file is damaged or of another dialect")
    values = np.arange(len(counts)) % 2 == 1
    return cropped(np.repeat(values, counts).reshape(height, width), top, left)


def hold(sample: Sample, dataset: Dataset, *, options: Options) -> Held:
    """Keep every region; a grid in mm becomes pixels."""
    return flat(sample, "CVAT")


def write(
    dataset: Dataset, samples: Iterable[Sample], folder: Path, *, options: Options, job: Job
) -> None:
    """Write annotations.xml, picture by picture, the pictures, and our table of classes."""
    write_scheme(folder, dataset.scheme)
    splits = list(dict.fromkeys(item.split or "default" for item in dataset.items))
    lists = Lists()
    with (folder / _FILE).open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(_head(dataset, splits))
        for number, (item, sample) in enumerate(zip(dataset.items, samples, strict=True)):
            name = safe_name(item.name)
            lists.add(item, name)
            target = folder / "images" / name
            placed = place_image(item, target, options=options, job=job)
            suffix = ".png" if placed is None else placed.suffix
            height, width = sample.masks[0].data.shape
            stream.write(
                f'  <image id="{number}" name={quoteattr(name + suffix)} '
                f'subset={quoteattr(item.split or "default")} width="{width}" height="{height}">\n'
            )
            stream.writelines(_shapes(sample, dataset.scheme, options))
            stream.write("  </image>\n")
        stream.write("</annotations>\n")
    lists.write(folder, has_splits=False)


def _head(dataset: Dataset, splits: list[str]) -> str:
    known = {entry.get("name"): entry for entry in dataset.about.get("labels", ())}
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>"]
    lines += ["  <version>1.1</version>", "  <meta>", "    <task>"]
    lines += [f"      <name>{_text(dataset.name)}</name>", f"      <size>{len(dataset)}</size>"]
    lines += ["      <mode>annotation</mode>", "      <subsets>" + _text("\n".join(splits))]
    lines[-1] += "</subsets>"
    lines.append("      <labels>")
    for row in dataset.scheme.values():
        lines += ["        <label>", f"          <name>{_text(row.name)}</name>"]
        lines += [f"          <color>{row.colour}</color>", "          <type>any</type>"]
        lines.append("          <attributes>")
        for attribute in known.get(row.name, {}).get("attributes", ()):
            lines.append("            <attribute>")
            lines += [f"              <{k}>{_text(v)}</{k}>" for k, v in attribute.items()]
            lines.append("            </attribute>")
        lines += ["          </attributes>", "        </label>"]
    lines += ["      </labels>", "    </task>", "  </meta>"]
    return "\n".join(lines) + "\n"


def _shapes(sample: Sample, scheme: LabelTable, options: Options) -> Iterator[str]:
    extras = extras_of(sample, "cvat").objects
    for place, one in enumerate(regions(sample), start=1):
        extra = dict(extras.get(one.label.id, {}))
        notes = dict(extra.pop("attributes", {}))
        record = record_of(one.label, place, scheme)
        if record:
            notes[KEY] = orjson.dumps(record).decode()
        for key in _MINE:
            extra.pop(key, None)
        stated: dict[str, Any] = {"label": class_of(one.label), "source": "manual", "occluded": "0"}
        stated |= {**extra, **_shape(one, options)}
        tag = "polygon" if "points" in stated else "mask"
        stated.setdefault("z_order", "0")
        written = " ".join(f"{k}={quoteattr(str(v))}" for k, v in stated.items())
        yield f"    <{tag} {written}>\n"
        for key, value in notes.items():
            yield f"      <attribute name={quoteattr(key)}>{_text(value)}</attribute>\n"
        yield f"    </{tag}>\n"


def _shape(one: Region, options: Options) -> dict[str, str]:
    top, left = one.box[0].start, one.box[1].start
    if options.outline == "polygon":
        found = rings(one.region)
        if len(found) == 1:  # one part, no hole
            points = found[0].points + np.array([left, top])
            return {"points": ";".join(f"{x:.2f},{y:.2f}" for x, y in points.tolist())}
    height, width = one.region.shape
    counts = ", ".join(map(str, _counts(one.region)))
    box = {"left": left, "top": top, "width": width, "height": height}
    return {"rle": counts, **{key: str(value) for key, value in box.items()}}


def _counts(region: npt.NDArray[np.bool_]) -> list[int]:
    """Return run lengths row by row; the first one counts background and may be 0."""
    row = region.reshape(-1)
    bounds = np.flatnonzero(np.diff(row, prepend=False))
    return [int(n) for n in np.diff(bounds, prepend=0, append=row.size)]


def _text(value: object) -> str:
    from xml.sax.saxutils import escape

    return escape(str(value))


FORMAT = DatasetFormat(
    name="cvat",
    title="CVAT XML (CVAT for images 1.1)",
    sniff=sniff,
    open=open_dataset,
    hold=hold,
    write=write,
    options=frozenset({"images", "outline"}),
    layout="annotations.xml, images/NAME.*; or one XML file beside its pictures",
    proof="real data",
)

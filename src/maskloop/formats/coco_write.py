"""The JSON of one picture's labels as COCO instances."""

from __future__ import annotations

from itertools import count
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from maskloop.core.labels import LabelTable, colour_of
from maskloop.formats.coco_rows import CocoHeader, attributes, attributes_with, rgb
from maskloop.ops import outlines

if TYPE_CHECKING:
    from maskloop.core.mask import Mask
    from maskloop.formats.base import Target

_Entry = dict[str, Any]  # Any: plain JSON values


def write_mask(mask: Mask, to: Target) -> None:
    """Write the JSON; the same mask gives the same bytes."""
    import orjson

    to.path.write_bytes(orjson.dumps(_content(mask, to.final), option=orjson.OPT_APPEND_NEWLINE))


def is_classes(labels: LabelTable) -> bool:
    """Whether ids are category ids; an empty table says nothing, and keeps a file's categories."""
    return bool(labels) and labels.kind == "classes"


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
    has_classes = is_classes(mask.labels)
    rows = {**mask.labels}
    annotations = []
    for outline in outlines.encode(mask.data):
        row = rows[outline.id]
        annotation: _Entry = {
            "id": outline.id,
            "image_id": entry["id"],
            "category_id": row.id if has_classes else number_of[row.category or row.name],
            "segmentation": {"size": [height, width], "counts": outline.counts},
            "area": outline.area,
            "bbox": [float(n) for n in outline.box],
            "iscrowd": int(row.ignore and not has_classes),
        }
        if row.score is not None:
            annotation["score"] = row.score
        if not has_classes:
            extra = header.annotations.get(outline.id, {})
            said = attributes_with(extra, attributes(row))
            annotation |= {k: v for k, v in extra.items() if k != "attributes"}
            annotation |= {"attributes": said} if said else {}
        annotations.append(annotation)
    return {
        "info": {
            **header.info,
            "maskloop": {"version": 1, "kind": "classes" if has_classes else "objects"},
        },
        "licenses": list(header.licenses),
        "images": [entry],
        "annotations": annotations,
        "categories": categories,
    }


def _categories(labels: LabelTable, header: CocoHeader) -> list[_Entry]:
    """Return the categories: classes keep their ids, objects' categories those of their file."""
    known = {str(c.get("name")): dict(c) for c in header.categories}
    if is_classes(labels):
        rows = labels.values()
        return [
            {
                "supercategory": "",
                **known.get(r.name, {}),
                "id": r.id,
                "name": r.name,
                "color": rgb(r.colour),
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
        colour = rgb(colour_of(number))
        is_thing = int(name not in stuff)
        found.append(
            {"id": number, "name": name, "supercategory": "", "color": colour, "isthing": is_thing}
        )
    return sorted(found, key=lambda c: int(c["id"]))


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

"""What COCO files say of labels: annotations and categories as rows, and rows as both."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, get_args

from maskloop.core.errors import FormatError, InputError
from maskloop.core.labels import Label, Status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

KEPT = ("name", "colour", "author", "locked", "visible", "status")
_OWN = (
    "id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd", "score",
)  # fmt: skip
_Entry = dict[str, Any]  # Any: plain JSON values


@dataclass(frozen=True, slots=True)
class CocoHeader:
    """What of a COCO file is written back as it was.

    Image entry, categories, info, licenses; and by label id what annotations say beside COCO's own.
    """

    image: Mapping[str, Any] = field(default_factory=dict)
    categories: tuple[Mapping[str, Any], ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    licenses: tuple[Any, ...] = ()  # Any: plain JSON values
    annotations: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)


def attributes(row: Label) -> _Entry:
    """Return the fields of an object's row that COCO has no place for, where they say something."""
    plain = Label(row.id, f"{row.category} {row.id}")
    return {k: getattr(row, k) for k in KEPT if getattr(row, k) != getattr(plain, k)}


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


def extra_of(annotation: _Entry, *, is_ours: bool) -> _Entry:
    """Return what an annotation says beside its shape, class and score: keypoints, and so on."""
    extra = {k: v for k, v in annotation.items() if k not in _OWN}
    said = extra.get("attributes")
    if is_ours and isinstance(said, dict):
        extra["attributes"] = {k: v for k, v in said.items() if k not in KEPT}
        if not extra["attributes"]:
            del extra["attributes"]
    return extra


def attributes_with(extra: Mapping[str, Any], said: _Entry) -> _Entry:
    """Return the attributes of an annotation: another tool's own, and what we say of the row."""
    theirs = extra.get("attributes")
    return {**(theirs if isinstance(theirs, dict) else {}), **said}


def class_rows(header: CocoHeader) -> list[Label]:
    """Return a row for each category that can be an id."""
    rows = []
    for category in header.categories:
        number = category.get("id")
        if isinstance(number, int) and number >= 1:
            rows.append(_class_label(number, category))
    return rows


def class_row(
    number: object, name: str, categories: Sequence[Mapping[str, Any]], path: Path
) -> Label:
    """Return the row of a category whose id is painted.

    Raises
    ------
    FormatError
        If the id is no whole number of at least 1.
    """
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


def rgb(colour: str) -> list[int]:
    """Return a ``#rrggbb`` as three numbers."""
    return list(bytes.fromhex(colour[1:]))

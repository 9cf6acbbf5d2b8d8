"""What formats of shapes have in common: objects drawn one by one, and what rows say of them.

A format that holds shapes by class name keeps the rest of a row (its own name, colour, author,
score) in one small record beside the shape, and only what differs from the row that the reader
would make by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from maskloop.core.dataset import Item, Sample
from maskloop.core.errors import FormatError, InputError
from maskloop.core.geometry import Geometry
from maskloop.core.labels import Label, LabelTable, Status
from maskloop.core.mask import Mask
from maskloop.datasets.base import PLACE, Held, Loss, class_of
from maskloop.formats.overlap import Layers, Piece

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from maskloop.ops.fill import Found

KEY = "maskloop"  # under which formats that allow foreign keys hold our record of a row
_KEPT = ("name", "colour", "ignore", "score", "author", "locked", "visible", "status", "is_thing")
_KINDS = {f.name: str(f.type) for f in fields(Label)}
_MOST = 2**31 - 1
_USUAL = ("id", "source", "occluded", "z_order", "group_id", "objectType", "properties")

Record = dict[str, Any]  # Any: plain JSON values


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """One shape of a file: the class it names, our record, what it fills, and what else it says.

    Parameters
    ----------
    category : str
        Name of its class.
    found : tuple of (box, bool array), optional
        None where it covers no pixel.
    record : mapping
        As `record_of` made it; empty for foreign files.
    extra : mapping
        Plain JSON values that only the format itself understands, to be written back.
    """

    category: str
    found: Found | None
    record: Mapping[str, Any] = field(default_factory=dict)  # Any: plain JSON values
    extra: Mapping[str, Any] = field(default_factory=dict)  # Any: plain JSON values


@dataclass(frozen=True, slots=True, eq=False)
class Extras:
    """What of an item's file only its own format understands.

    Parameters
    ----------
    format : str
        Name of that format.
    item : mapping
        Of the whole item.
    objects : mapping of int to mapping
        By label id.
    """

    format: str
    item: Mapping[str, Any] = field(default_factory=dict)  # Any: plain JSON values
    objects: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)  # Any: as above

    def lost_in(self, format: str) -> int:
        """Return of how many objects a format loses what they say beside their shape."""
        return 0 if format == self.format else sum(map(_says_more, self.objects.values()))


def _says_more(extra: Mapping[str, Any]) -> bool:  # Any: plain JSON values
    properties = extra.get("properties")
    more = {**extra, **(properties if isinstance(properties, dict) else {})}
    return any(value for key, value in more.items() if key not in _USUAL)


def extras_of(sample: Sample, format: str) -> Extras:
    """Return what a sample carries for a format; nothing where it came from another one."""
    header = sample.header
    is_its_own = isinstance(header, Extras) and header.format == format
    return header if is_its_own else Extras(format)


def record_of(row: Label, place: int, scheme: LabelTable) -> Record:
    """Return what of a row the reader could not guess of the shape at `place`, from 1."""
    is_class = row.category is None
    plain = _plain(row.id, class_of(row), scheme, is_class=is_class)
    kept: Record = {"is_class": True} if is_class else {}
    if row.id != place:
        kept["id"] = row.id
    for name in _KEPT:
        if getattr(row, name) != getattr(plain, name):
            kept[name] = getattr(row, name)
    return kept


def rows_of(drawn: Sequence[Drawn], scheme: LabelTable) -> list[Label]:
    """Return a row for each shape, its ids unique: the kept one, its place, or one that is free."""
    ids = [0] * len(drawn)
    taken: set[int] = set()
    for at, one in enumerate(drawn):
        number = one.record.get("id")
        if type(number) is int and 1 <= number <= _MOST and number not in taken:
            ids[at] = number
            taken.add(number)
    free = 1
    for at, number in enumerate(ids):
        if not number:
            chosen = at + 1
            while chosen in taken:
                free += 1
                chosen = free
            taken.add(chosen)
            ids[at] = chosen
    return [_row(number, one, scheme) for number, one in zip(ids, drawn, strict=True)]


def _row(number: int, one: Drawn, scheme: LabelTable) -> Label:
    is_class = one.record.get("is_class") is True
    row = _plain(number, one.category, scheme, is_class=is_class)
    kept = {
        key: value
        for key, value in one.record.items()
        if key in _KEPT and type(value).__name__ in _KINDS[key]
    }
    if one.record.get("status") in get_args(Status):
        kept["status"] = one.record["status"]
    try:
        return replace(row, **kept)
    except InputError:
        return row


def _plain(number: int, category: str, scheme: LabelTable, *, is_class: bool) -> Label:
    """Return the row that a shape gets of which only the class is known."""
    if not is_class:
        return Label(number, f"{category} {number}", category=category, is_thing=True)
    known = next((row for row in scheme.values() if row.name == category), None)
    return Label(number, category) if known is None else replace(known, id=number)


def laid(
    item: Item,
    shape: tuple[int, int],
    drawn: Sequence[Drawn],
    scheme: LabelTable,
    *,
    format: str,
    extra: Mapping[str, Any] | None = None,  # Any: plain JSON values
) -> Sample:
    """Return shapes as a sample: those that overlap on further masks, in the file's order."""
    filled = [one for one in drawn if one.found is not None]
    rows = rows_of(filled, scheme)
    layers = Layers(shape, max((row.id for row in rows), default=0))
    for row, one in zip(rows, filled, strict=True):
        if one.found is not None:
            layers.add(row, [Piece(*one.found)])
    grid = Geometry.pixels(shape)
    masks = tuple(Mask(ids, grid, table) for ids, table in layers.found())
    objects = {row.id: one.extra for row, one in zip(rows, filled, strict=True) if one.extra}
    return Sample(item, masks, header=Extras(format, extra or {}, objects))


def flat(sample: Sample, what: str) -> Held:
    """Return a sample as a format of pictures in pixels holds it, every region as it is.

    Raises
    ------
    InputError
        If it is a volume.
    """
    first = sample.masks[0]
    if first.data.ndim != 2:
        msg = (
            f"expected pictures (y, x) for {what}, got {sample.item.name!r} of shape "
            f"{first.data.shape}; convert to nnunet or coco-volume instead"
        )
        raise InputError(msg)
    if first.geometry.unit != "mm":
        return Held(sample)
    losses: dict[Loss, int] = {PLACE: 1}
    grid = Geometry.pixels(first.data.shape)
    return Held(
        replace(sample, masks=tuple(replace(m, geometry=grid) for m in sample.masks)), losses
    )


def union(parts: Sequence[Found | None]) -> Found | None:
    """Return several regions as one."""
    found = [part for part in parts if part is not None]
    if len(found) < 2:
        return found[0] if found else None
    low = [min(box[axis].start for box, _ in found) for axis in (0, 1)]
    high = [max(box[axis].stop for box, _ in found) for axis in (0, 1)]
    region = np.zeros((high[0] - low[0], high[1] - low[1]), bool)
    for (rows, columns), part in found:
        region[
            rows.start - low[0] : rows.stop - low[0],
            columns.start - low[1] : columns.stop - low[1],
        ] |= part
    return (slice(low[0], high[0]), slice(low[1], high[1])), region


def points_of(value: object, where: str) -> npt.NDArray[np.float64]:
    """Return points (x, y) as a file states them, shape (n, 2).

    Raises
    ------
    FormatError
        If they are none.
    """
    try:
        points = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        points = np.zeros((0, 0))
    if points.ndim != 2 or points.shape[1] < 2 or not np.isfinite(points).all():
        msg = f"expected points [[x, y], ...] in {where}, got {str(value)[:60]!r}"
        raise FormatError(f"{msg}; repair or remove the shape")
    return points[:, :2]

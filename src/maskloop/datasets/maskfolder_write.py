"""One class value and one object number a pixel: what label PNGs of datasets can hold."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError
from maskloop.core.image import smallest_unsigned
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import renumbered
from maskloop.datasets import drawn, georeference
from maskloop.datasets.base import (
    CROWDS,
    IGNORED,
    SCORES,
    Held,
    Loss,
    class_of,
    covered,
    split_folder,
)
from maskloop.formats import picture_png
from maskloop.formats.base import table_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from maskloop.core.dataset import Dataset, Sample
    from maskloop.core.mask import Mask

VOID = 255
_HIGH = 1 << 20  # ids above it are numbered anew: tables of values have an entry an id
Numbers = npt.NDArray[np.uint16]


def settled(sample: Sample, what: str) -> tuple[Mask, dict[Loss, int]]:
    """Return one mask of a picture in pixels, and what is lost by that.

    Raises
    ------
    InputError
        For volumes and series in time.
    """
    plain = drawn.flat(sample, what)
    losses = dict(plain.losses)
    mask, lost = plain.sample.settled()
    if lost:
        losses |= covered(plain.sample, mask)
    return mask, losses


def held(sample: Sample, what: str, *, most_objects: int, with_void: bool) -> Held:
    """Return a sample as class values and object numbers hold it.

    Parameters
    ----------
    what : str
        The format, for messages.
    most_objects : int
        How many objects a picture may have.
    with_void : bool
        Whether ignored labels share one value; else they stay classes.
    """
    mask, losses = settled(sample, what)
    ids = mask.ids()
    rows = mask.labels.covering(ids)
    kept: dict[int, Label] = {}
    numbers: dict[int, int] = {}
    first: dict[str, int] = {}
    is_high = max(ids, default=0) > _HIGH
    for place, i in enumerate(ids, start=1):
        number = place if is_high else i
        row = replace(rows[i], id=number)
        if row.score is not None:
            losses[SCORES] = losses.get(SCORES, 0) + 1
        if row.ignore and with_void:
            if class_of(row) != "void":
                losses[IGNORED] = losses.get(IGNORED, 0) + 1
            row = Label(number, "void", "#e0e0c0", ignore=True)
        elif row.ignore and row.category is not None:
            losses[CROWDS] = losses.get(CROWDS, 0) + 1
            row = replace(row, ignore=False)
        if row.category is None:  # all of a class are one region
            number = first.setdefault(row.name, number)
            row = replace(row, id=number)
        numbers[i] = number
        kept[number] = replace(row, score=None)
    objects = sum(row.category is not None for row in kept.values())
    if objects > most_objects:
        msg = (
            f"expected at most {most_objects:,} objects a picture for {what}, got {objects:,} in "
            f"{sample.item.name!r}; convert to coco instead"
        )
        raise InputError(msg)
    data = renumbered(mask.data, numbers, smallest_unsigned(max(kept, default=0)))
    made = replace(mask, data=data, labels=LabelTable(kept.values()))
    return Held(replace(sample, masks=(made,)), losses)


@dataclass(slots=True)
class Values:
    """The value of each class in written masks; classes met on the way are added.

    Parameters
    ----------
    rows : dict of str to Label
        By name; the id is the value.
    most : int
        Largest value of a class.
    fixed : dict of str to int
        Values that names have whatever the order.
    start : int
        Smallest value of the other names.
    with_void : bool
        Whether ignored labels share the value 255.
    """

    rows: dict[str, Label] = field(default_factory=dict)
    most: int = 254
    fixed: dict[str, int] = field(default_factory=dict)
    start: int = 1
    with_void: bool = False

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        *,
        most: int,
        with_void: bool,
        fixed: dict[str, int] | None = None,
        start: int = 1,
    ) -> Values:
        """Return the values of a dataset's scheme, in its order.

        A scheme with more classes than there are values gets them in the order of their use.
        """
        made = cls({}, most, fixed or {}, start, with_void)
        rows = [row for row in dataset.scheme.values() if not (row.ignore and with_void)]
        if len(rows) <= most - start - len(made.fixed):
            for row in rows:
                made.of_row(row)
        return made

    def of_row(self, row: Label) -> int:
        """Return the value of a row's class."""
        name = class_of(row)
        known = self.rows.get(name)
        if known is not None:
            if row.category is not None and not known.is_thing:
                self.rows[name] = replace(known, is_thing=True)
            return known.id
        taken = {one.id for one in self.rows.values()} | set(self.fixed.values()) | {VOID}
        value = self.fixed.get(name)
        if value is None:
            value = next(n for n in range(self.start, self.most + 2 + len(taken)) if n not in taken)
        if value > self.most:
            msg = (
                f"expected at most {self.most} for the value of a class, got {value} for {name!r}; "
                "convert to coco instead"
            )
            raise InputError(msg)
        colour = "" if row.category is not None else row.colour
        is_thing = row.is_thing or row.category is not None
        is_ignored = row.ignore and row.category is None
        self.rows[name] = Label(value, name, colour, is_thing=is_thing, ignore=is_ignored)
        return value

    def tables(self, mask: Mask) -> tuple[Numbers, Numbers]:
        """Return the class value and the object number (0: none) of each id; void is 255."""
        top = max(mask.labels, default=0) + 1
        classes, objects = np.zeros(top, np.uint16), np.zeros(top, np.uint16)
        for row in mask.labels.values():
            if self.with_void and row.ignore and row.category is None:
                classes[row.id] = VOID
                continue
            classes[row.id] = self.of_row(row)
            if row.category is not None:
                objects[row.id] = int(objects.max()) + 1
        return classes, objects

    def table(self) -> LabelTable:
        """Return the classes that were written; ids are values."""
        void = [Label(VOID, "void", "#e0e0c0", ignore=True)] if self.with_void else []
        return LabelTable([*self.rows.values(), *void])

    def palette(self) -> bytes:
        """Return three bytes for each of 256 values: the colours of the classes."""
        colours = bytearray(768)
        for row in self.rows.values():
            if row.id < VOID:
                colours[3 * row.id : 3 * row.id + 3] = bytes.fromhex(row.colour[1:])
        colours[3 * VOID :] = bytes.fromhex("e0e0c0")
        return bytes(colours)


def save(
    path: Path, data: npt.NDArray[Any], palette: bytes = b"", *, header: object = None
) -> None:
    """Write a PNG of numbers: with a palette, or gray of 8 or 16 bits.

    Where `header`, the sample's, is a place on earth, that is written beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    wide = data if int(data.max(initial=0)) > VOID else data.astype(np.uint8)
    path.write_bytes(picture_png.packed(wide, palette if wide.dtype == np.uint8 else b""))
    georeference.write_beside(header, path)


def save_table(path: Path, table: LabelTable) -> None:
    """Write the classes whose ids are the values."""
    path.write_bytes(table_bytes(table))


def save_lists(folder: Path, splits: dict[str, list[str]], suffix: str = ".txt") -> None:
    """Write a list of names for each split."""
    for split, names in sorted(splits.items()):
        folder.mkdir(parents=True, exist_ok=True)
        lines: Iterable[str] = (f"{name}\n" for name in names)
        (folder / f"{split_folder(split)}{suffix}").write_text("".join(lines), encoding="utf-8")

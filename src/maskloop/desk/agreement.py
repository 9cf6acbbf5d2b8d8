"""What two readers have in common, in rows: objects, classes, items."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from maskloop.core.geometry import Box

Status = Literal["matched", "missed", "added", "other class"]

DEFINITIONS = {
    "matched": "objects of one class, one to one, so that their IoUs sum to the most; pairs below "
    "the least IoU are not matched",
    "missed": "drawn by A, and by B not at all or as no match",
    "added": "drawn by B, and by A not at all or as no match",
    "other class": "matched, after all within the classes are, with an object of another class",
    "dice": "2 |A and B| / (|A| + |B|) over voxels",
    "hd95": "as in `maskloop score`: 95th percentile of the edge distances, the larger direction",
    "f1": "2 matched / (objects of A + objects of B)",
}


@dataclass(frozen=True, slots=True)
class ObjectAgreement:
    """One object of either reader, or the two that are one.

    Parameters
    ----------
    item, category : str
        Where it is, and its class (A's where the readers name it otherwise).
    status : {"matched", "missed", "added", "other class"}
    a, b : int, optional
        Ids in the readers' masks; None where one has none.
    category_b : str
        B's class; empty where B has none.
    dice, iou, hd95 : float, optional
        None where only one reader drew it.
    voxels_a, voxels_b : int
    volume_a, volume_b : float
        In `unit`.
    unit : {"mm3", "mm2", "px"}
    box : Box
        Around both.
    """

    item: str
    category: str
    status: Status
    a: int | None
    b: int | None
    category_b: str
    dice: float | None
    iou: float | None
    hd95: float | None
    voxels_a: int
    voxels_b: int
    volume_a: float
    volume_b: float
    unit: str
    box: Box

    def to_json(self) -> dict[str, Any]:  # Any: plain JSON values
        """Return JSON-ready values; distances are in mm, or in pixels where `unit` is."""
        return {
            "item": self.item,
            "class": self.category,
            "status": self.status,
            "a": self.a,
            "b": self.b,
            "class_b": self.category_b,
            "dice": self.dice,
            "iou": self.iou,
            "hd95": self.hd95,
            "voxels_a": self.voxels_a,
            "voxels_b": self.voxels_b,
            "size_a": self.volume_a,
            "size_b": self.volume_b,
            "unit": self.unit,
            "box": [[part.start, part.stop] for part in self.box],
        }


@dataclass(frozen=True, slots=True)
class ClassCount:
    """One class of one item: voxels of A, of B and of both; HD95 of the whole class."""

    item: str
    name: str
    voxels_a: int
    voxels_b: int
    both: int
    hd95: float | None

    @property
    def dice(self) -> float | None:
        """None where neither drew it."""
        total = self.voxels_a + self.voxels_b
        return 2 * self.both / total if total else None


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """What two readers have in common.

    Parameters
    ----------
    names : tuple of str
        What A and B are called.
    items : tuple of str
        Those that both have.
    only_a, only_b : tuple of str
        Items that one of them lacks.
    objects : tuple of ObjectAgreement
    classes : tuple of ClassCount
        One a class and item.
    unit : str
        Of distances: ``mm``, ``px``, or ``mm and px`` where items differ.
    notes : tuple of str
        What a person should read.
    """

    names: tuple[str, str]
    items: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    objects: tuple[ObjectAgreement, ...]
    classes: tuple[ClassCount, ...]
    unit: str
    notes: tuple[str, ...] = ()

    def class_rows(self) -> list[dict[str, Any]]:  # Any: plain JSON values
        """Return a row for each class over all items, and one for all classes together.

        Returns
        -------
        list of dict
            ``class``, ``items``, ``objects_a``, ``objects_b``, ``matched``, ``missed``, ``added``,
            ``f1``, ``dice_objects`` and ``hd95_objects`` (means of the matched), ``dice`` (of all
            voxels together), ``dice_items`` (mean over the items where either drew it) and
            ``hd95`` (mean over the items where both did).
        """
        names = list(dict.fromkeys(count.name for count in self.classes))
        rows = [self._row(name) for name in names]
        return [*rows, self._row(None)] if len(rows) > 1 else rows

    def _row(self, name: str | None) -> dict[str, Any]:  # Any: plain JSON values
        counts = [c for c in self.classes if name in (None, c.name)]
        pairs = [o for o in self.objects if o.status == "matched" and name in (None, o.category)]
        in_a = sum(o.a is not None and name in (None, o.category) for o in self.objects)
        in_b = sum(o.b is not None and name in (None, o.category_b) for o in self.objects)
        total = sum(c.voxels_a + c.voxels_b for c in counts)
        return {
            "class": "all classes" if name is None else name,
            "items": len({c.item for c in counts if c.dice is not None}),
            "objects_a": in_a,
            "objects_b": in_b,
            "matched": len(pairs),
            "missed": in_a - len(pairs),
            "added": in_b - len(pairs),
            "f1": 2 * len(pairs) / (in_a + in_b) if in_a + in_b else None,
            "dice_objects": _mean(o.dice for o in pairs),
            "hd95_objects": _mean(o.hd95 for o in pairs),
            "dice": 2 * sum(c.both for c in counts) / total if total else None,
            "dice_items": _mean(c.dice for c in counts),
            "hd95": _mean(c.hd95 for c in counts),
        }

    def item_rows(self) -> list[dict[str, Any]]:  # Any: plain JSON values
        """Return a row for each item: its objects' counts and its Dice over all classes."""
        counts: dict[str, list[ClassCount]] = {}
        for count in self.classes:
            counts.setdefault(count.item, []).append(count)
        drawn: dict[str, list[ObjectAgreement]] = {}
        for one in self.objects:
            drawn.setdefault(one.item, []).append(one)
        rows = []
        for item in self.items:
            objects, of_item = drawn.get(item, []), counts.get(item, [])
            total = sum(c.voxels_a + c.voxels_b for c in of_item)
            status = [o.status for o in objects]
            rows.append(
                {
                    "item": item,
                    **{key: status.count(key) for key in ("matched", "missed", "added")},
                    "other_class": status.count("other class"),
                    "dice": 2 * sum(c.both for c in of_item) / total if total else None,
                    "hd95_objects": _mean(o.hd95 for o in objects),
                }
            )
        return rows

    def to_json(self) -> dict[str, Any]:  # Any: plain JSON values
        """Return JSON-ready values."""
        return {
            "a": self.names[0],
            "b": self.names[1],
            "unit": self.unit,
            "classes": self.class_rows(),
            "items": self.item_rows(),
            "objects": [one.to_json() for one in self.objects],
            "only_a": list(self.only_a),
            "only_b": list(self.only_b),
            "notes": list(self.notes),
            "definitions": DEFINITIONS,
        }

    def write_csv(self, path: Path | str) -> Path:
        """Write a CSV with a line for each object."""
        from maskloop.desk.measure import to_csv

        return to_csv([one.to_json() for one in self.objects], path)


def _mean(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None

"""What a dataset holds: classes, objects, sizes and counts, for each split and group."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.dataset import Dataset
from maskloop.core.errors import InputError
from maskloop.core.job import Job
from maskloop.datasets.base import class_of, regions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from maskloop.core.dataset import Item, Sample
    from maskloop.datasets.base import Region
    from maskloop.desk.datasets import Options

By = Literal["labels", "pieces"]
Numbers = npt.NDArray[np.float64]

# Areas of COCO's evaluation, in pixels: below the first small, below the second medium.
COCO_SIZES = (32**2, 96**2)
_UNITS = {("px", 2): "px", ("px", 3): "voxels", ("mm", 2): "mm2", ("mm", 3): "mm3"}


@dataclass(frozen=True, slots=True)
class Spread:
    """How numbers are spread; all None where there are none."""

    least: float | None = None
    p5: float | None = None
    median: float | None = None
    mean: float | None = None
    p95: float | None = None
    most: float | None = None

    @classmethod
    def of(cls, values: Numbers) -> Spread:
        """Return it of an array; quantiles lie on the line between neighbours."""
        if not values.size:
            return cls()
        p5, median, p95 = np.percentile(values, (5, 50, 95))
        ends = float(values.min()), float(values.max())
        return cls(ends[0], float(p5), float(median), float(values.mean()), float(p95), ends[1])

    def to_json(self) -> dict[str, float | None]:
        """Return JSON-ready values."""
        return {
            "min": self.least,
            "p5": self.p5,
            "median": self.median,
            "mean": self.mean,
            "p95": self.p95,
            "max": self.most,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What was counted: a row for each object, and for each item.

    Parameters
    ----------
    dataset : Dataset
        As it was listed.
    classes : tuple of str
        Names, in the order of the scheme.
    unit : str
        Of sizes: ``px``, ``mm2``, ``mm3``, or ``voxels`` where items disagree.
    item, kind, voxels, size, ignored : array
        Of each object: position of its item, position of its class, how large it is, and whether
        it is to be ignored.
    seen : array of int
        Positions of the items that have masks.
    pixels : int
        Voxels of all grids together.
    shapes : Counter
        How often each shape occurs.
    notes : tuple of str
        What a person should read.
    """

    dataset: Dataset
    classes: tuple[str, ...]
    unit: str
    item: npt.NDArray[np.int64]
    kind: npt.NDArray[np.int64]
    voxels: npt.NDArray[np.int64]
    size: Numbers
    ignored: npt.NDArray[np.bool_]
    seen: npt.NDArray[np.int64]
    pixels: int
    shapes: Counter[tuple[int, ...]]
    notes: tuple[str, ...] = ()

    def rows(self, split: str | None = None) -> list[dict[str, Any]]:  # Any: plain JSON values
        """Return a row for each class, of one split or of all.

        Returns
        -------
        list of dict
            ``class``, ``items`` (in which it occurs), ``objects``, ``voxels``, ``share`` (of all
            voxels of all items), ``per_item`` (objects in the items where it occurs) and ``size``
            (both with ``min``, ``p5``, ``median``, ``mean``, ``p95``, ``max``), ``small``,
            ``medium`` and ``large`` (objects by COCO's areas; None in volumes), ``ignored``
            (regions that are to be ignored, counted nowhere else).
        """
        chosen = self._of_split(split)
        return [self._row(number, chosen) for number in range(len(self.classes))]

    def _row(self, number: int, chosen: npt.NDArray[np.bool_]) -> dict[str, Any]:
        of_class = chosen & (self.kind == number)
        mine = of_class & ~self.ignored
        sizes = self.size[mine]
        per_item = np.unique(self.item[mine], return_counts=True)[1]
        voxels = int(self.voxels[mine].sum())
        classed = np.digitize(sizes, COCO_SIZES) if self.unit == "px" else None
        return {
            "class": self.classes[number],
            "items": len(per_item),
            "objects": int(mine.sum()),
            "voxels": voxels,
            "share": voxels / self.pixels if self.pixels else 0.0,
            "per_item": Spread.of(per_item.astype(np.float64)).to_json(),
            "size": Spread.of(sizes).to_json(),
            **{
                name: None if classed is None else int(np.count_nonzero(classed == step))
                for step, name in enumerate(("small", "medium", "large"))
            },
            "ignored": int((of_class & self.ignored).sum()),
        }

    def _of_split(self, split: str | None) -> npt.NDArray[np.bool_]:
        if split is None:
            return np.ones(len(self.item), np.bool_)
        here = np.array([item.split == split for item in self.dataset.items], np.bool_)
        return here[self.item] if len(self.item) else np.zeros(0, np.bool_)

    @property
    def splits(self) -> tuple[str, ...]:
        """The dataset's splits; empty where it has none."""
        found = {item.split for item in self.dataset.items}
        return tuple(sorted(found)) if found != {""} else ()

    def counts(self) -> npt.NDArray[np.int64]:
        """Return how many objects each item with masks has, in order of `seen`."""
        per_item = np.bincount(self.item[~self.ignored], minlength=len(self.dataset.items))
        return np.asarray(per_item[self.seen], np.int64)

    def split_rows(self) -> list[dict[str, Any]]:  # Any: plain JSON values
        """Return a row for each split: items, groups, objects, and those of each class."""
        found = []
        for split in self.splits:
            items = [item for item in self.dataset.items if item.split == split]
            mine = self._of_split(split) & ~self.ignored
            kinds = np.bincount(self.kind[mine], minlength=len(self.classes)).tolist()
            found.append(
                {
                    "split": split or "none",
                    "items": len(items),
                    "groups": len({item.group for item in items if item.group}),
                    "objects": int(mine.sum()),
                    "classes": dict(zip(self.classes, kinds, strict=True)),
                }
            )
        return found

    def group_rows(self) -> list[dict[str, Any]]:  # Any: plain JSON values
        """Return a row for each group (patient, slide, video): its splits, items and objects."""
        items: dict[str, list[Item]] = {}
        for one in self.dataset.items:
            if one.group:
                items.setdefault(one.group, []).append(one)
        group_of = [item.group for item in self.dataset.items]
        objects = Counter(group_of[i] for i in self.item[~self.ignored].tolist())
        return [
            {
                "group": group,
                "splits": sorted({item.split for item in members if item.split}),
                "items": len(members),
                "objects": objects[group],
            }
            for group, members in sorted(items.items())
        ]

    def object_rows(self) -> Iterator[dict[str, Any]]:  # Any: plain JSON values
        """Yield a row for each object: item, split, group, class, size."""
        for number in range(len(self.item)):
            item = self.dataset.items[int(self.item[number])]
            yield {
                "item": item.name,
                "split": item.split,
                "group": item.group,
                "class": self.classes[int(self.kind[number])],
                "voxels": int(self.voxels[number]),
                "size": float(self.size[number]),
                "unit": self.unit,
                "ignored": bool(self.ignored[number]),
            }

    def to_json(self) -> dict[str, Any]:  # Any: plain JSON values
        """Return JSON-ready values."""
        counts = self.counts()
        return {
            "dataset": self.dataset.name,
            "format": self.dataset.format,
            "kind": self.dataset.kind,
            "items": len(self.dataset.items),
            "with_masks": len(self.seen),
            "empty": int(np.count_nonzero(counts == 0)),
            "without_picture": sum(
                item.image is None and not hasattr(item.ref, "read_image")
                for item in self.dataset.items
            ),
            "objects": int(np.count_nonzero(~self.ignored)),
            "ignored": int(np.count_nonzero(self.ignored)),
            "voxels": self.pixels,
            "unit": self.unit,
            "per_item": Spread.of(counts.astype(np.float64)).to_json(),
            "shapes": [
                {"shape": list(shape), "items": n}
                for shape, n in sorted(self.shapes.items(), key=lambda pair: (-pair[1], pair[0]))
            ],
            "classes": self.rows(),
            "splits": self.split_rows(),
            "groups": self.group_rows(),
            "notes": list(self.notes),
        }

    def write_csv(self, path: Path | str) -> Path:
        """Write the classes as CSV: a line for each class, and for each class of each split."""
        from maskloop.desk.measure import to_csv

        rows = [_flat({"split": "all", **row}) for row in self.rows()]
        for split in self.splits:
            rows += [_flat({"split": split or "none", **row}) for row in self.rows(split)]
        return to_csv(rows, path)

    def write_objects(self, path: Path | str) -> Path:
        """Write a CSV with a line for each object."""
        from maskloop.desk.measure import to_csv

        return to_csv(list(self.object_rows()), path)


def _flat(row: dict[str, Any]) -> dict[str, Any]:  # Any: plain JSON values
    """Return a row whose spreads have become columns such as ``size_median``."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat.update({f"{key}_{name}": number for name, number in value.items()})
        else:
            flat[key] = value
    return flat


@dataclass(slots=True)
class _Tally:
    """What is counted while items are read one by one; changes in place."""

    classes: dict[str, int]
    item: array[int] = field(default_factory=lambda: array("q"))
    kind: array[int] = field(default_factory=lambda: array("q"))
    voxels: array[int] = field(default_factory=lambda: array("q"))
    size: array[float] = field(default_factory=lambda: array("d"))
    ignored: array[int] = field(default_factory=lambda: array("b"))
    seen: array[int] = field(default_factory=lambda: array("q"))
    pixels: int = 0
    shapes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    units: set[str] = field(default_factory=set)

    def add(self, number: int, sample: Sample, by: By) -> None:
        geometry, data = sample.masks[0].geometry, sample.masks[0].data
        self.seen.append(number)
        self.pixels += data.size
        self.shapes[data.shape] += 1
        self.units.add(_UNITS.get((geometry.unit, geometry.ndim), "voxels"))
        voxel = geometry.voxel_size if geometry.unit == "mm" else 1.0
        for region in regions(sample):
            kind = self.classes.setdefault(class_of(region.label), len(self.classes))
            for voxels in _areas(region, by):
                self.item.append(number)
                self.kind.append(kind)
                self.voxels.append(voxels)
                self.size.append(voxels * voxel)
                self.ignored.append(region.label.ignore)


def _areas(region: Region, by: By) -> Sequence[int]:
    if by == "labels":
        return (region.area,)
    from maskloop.ops.components import label, sizes

    found, count = label(region.region)
    return [int(n) for n in sizes(found, count)[1:]]


def statistics(
    source: Dataset | Path | str,
    *,
    by: By = "labels",
    format: str | None = None,
    options: Options | None = None,
    job: Job | None = None,
) -> Statistics:
    """Read every mask of a dataset once and count what is there.

    Parameters
    ----------
    source : Dataset, Path or str
    by : {"labels", "pieces"}
        Whether an object is what carries one id (of classes: the class in one item), or each
        connected piece of it (neighbours share at least a corner).
    format, options
        As for `open_dataset`.
    job : Job, optional
        Progress and cancel.

    Returns
    -------
    Statistics
        Objects that overlap count with all their voxels.

    Raises
    ------
    InputError
        If no item has a mask.
    """
    from maskloop.desk.datasets import open_dataset
    from maskloop.desk.splits import leaks

    job = job or Job()
    dataset = source
    if not isinstance(dataset, Dataset):
        dataset = open_dataset(dataset, format=format, options=options, job=job)
    tally = _Tally({row.name: n for n, row in enumerate(dataset.scheme.values())})
    masked = [n for n, item in enumerate(dataset.items) if item.has_mask]
    if not masked:
        msg = f"expected at least one item with a mask, got none in {dataset.name}; choose another"
        raise InputError(msg)
    for number in job.track(masked, "count"):
        tally.add(number, dataset.read(dataset.items[number], job), by)
    has_splits = len({item.split for item in dataset.items}) > 1
    cut = leaks(dataset) if has_splits else []
    notes = [f"a group is cut by the splits: {words}" for words in _first(cut)]
    unit = next(iter(tally.units)) if len(tally.units) == 1 else "voxels"
    if len(tally.units) > 1:
        notes.append(
            f"sizes are voxels: the items' units differ ({', '.join(sorted(tally.units))})"
        )
    voxels = np.array(tally.voxels, np.int64)
    size = np.array(tally.size, np.float64) if unit != "voxels" else voxels.astype(np.float64)
    return Statistics(
        dataset,
        tuple(tally.classes),
        unit,
        np.array(tally.item, np.int64),
        np.array(tally.kind, np.int64),
        voxels,
        size,
        np.array(tally.ignored, np.bool_),
        np.array(tally.seen, np.int64),
        tally.pixels,
        tally.shapes,
        (*notes, *dataset.notices),
    )


def _first(words: list[str], most: int = 5) -> list[str]:
    more = len(words) - most
    return words if more <= 0 else [*words[:most], f"and {more:,} more"]

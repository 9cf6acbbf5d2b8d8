"""How far two readers agree: object by object, class by class, case by case."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import InputError
from maskloop.core.image import stem_of
from maskloop.core.job import Job
from maskloop.core.mask import Mask
from maskloop.desk.agreement import Agreement, ClassCount, ObjectAgreement, Status
from maskloop.ops.aligned import class_names
from maskloop.ops.matches import Objects, matched, objects_of, shared_voxels
from maskloop.ops.scores import percentile_distance, require_same_grid, surface_distances

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.core.geometry import Box
    from maskloop.core.labels import Kind

Source = Dataset | Mask | Path | str
By = Literal["labels", "pieces"]

__all__ = ["LEAST", "Agreement", "agree"]

LEAST = 0.1


def agree(
    a: Source,
    b: Source,
    *,
    names: tuple[str, str] | None = None,
    by: By | None = None,
    least: float = LEAST,
    smallest: int = 1,
    kind: Kind | None = None,
    reviewed: bool = False,
    only: str | None = None,
    format: str | None = None,
    job: Job | None = None,
) -> Agreement:
    """Compare what two readers drew, object by object.

    Classes are matched by name, upper and lower case alike; where each reader has a single class in
    all, these are matched whatever they are called. What either ignores is left out of both.

    Parameters
    ----------
    a, b : Dataset, Mask, Path or str
        Two masks of one image (files, case folders), or two datasets (folders of cases, COCO, ...)
        whose items are matched by name.
    names : tuple of str, optional
        What the readers are called; the names of the files where left out.
    by : {"labels", "pieces"}, optional
        What is an object of a class: the class as a whole, or each connected piece of it (the
        default: a lesion each). What is an object already stays one, whatever its parts.
    least : float
        Least IoU of two objects that are one, 0 to 1.
    smallest : int
        Objects of fewer voxels that match nothing are not listed but told as a number; they count
        in the Dice of their class.
    kind : {"classes", "objects"}, optional
        What ids without a label table are; in volumes in mm classes unless told.
    reviewed : bool
        Whether only what both readers reviewed is compared, where their datasets tell it; else a
        model's draft that nobody looked at counts as theirs.
    only : str, optional
        Only the datasets' items of this status, such as ``"done"``.
    format : str, optional
        Name of the datasets' format; found out where left out.
    job : Job, optional
        Progress and cancel.

    Raises
    ------
    GeometryError
        If two masks lie on different grids.
    InputError
        If no item is in both, a mask has a time axis, or `least` is not from 0 to 1.
    """
    from maskloop.desk.datasets import chosen

    job = job or Job()
    if smallest < 1:
        msg = f"expected a smallest size of at least 1 voxel, got {smallest}; raise it"
        raise InputError(msg)
    if not 0 <= least <= 1:
        msg = f"expected a least IoU from 0 to 1, got {least!r}; give {LEAST}, say"
        raise InputError(msg)
    one, other = (
        chosen(_opened(source, kind, format, job), status=only, job=job) for source in (a, b)
    )
    pairs, only_a, only_b = _paired(one, other)
    called = names or _called(one.name, other.name)
    objects: list[ObjectAgreement] = []
    classes: list[ClassCount] = []
    notes: dict[str, None] = {}
    units = set()
    specks = 0
    # Of the whole, not of an item: cats alone here and dogs alone there are not one class.
    is_single = all(sum(not r.ignore for r in d.scheme.values()) < 2 for d in (one, other))
    for first, second in job.track(pairs, "compare"):
        samples = (one.read(first, job), other.read(second, job))
        if not reviewed:
            samples = (replace(samples[0], reviewed=None), replace(samples[1], reviewed=None))
        found = _compared(*samples, by=by, least=least, kind=kind, any_name=is_single)
        objects += [o for o in found.objects if not _is_speck(o, smallest)]
        specks += sum(_is_speck(o, smallest) for o in found.objects)
        classes += found.classes
        units.add(found.unit)
        notes.update(dict.fromkeys(found.notes))
    if specks:
        notes[f"{specks:,} objects below {smallest:,} voxels match nothing and are not listed"] = (
            None
        )
    for reader, alone in zip(called, (only_a, only_b), strict=True):
        if alone:
            notes[f"{len(alone):,} items are {reader}'s alone, {alone[0]!r} the first"] = None
    return Agreement(
        called,
        tuple(item.name for item, _ in pairs),
        only_a,
        only_b,
        tuple(objects),
        tuple(classes),
        " and ".join(sorted(units)),
        tuple(notes),
    )


def _is_speck(one: ObjectAgreement, smallest: int) -> bool:
    return one.status in ("missed", "added") and one.voxels_a + one.voxels_b < smallest


def _called(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a != b else (f"{a} (A)", f"{b} (B)")


def _opened(source: Source, kind: Kind | None, format: str | None, job: Job) -> Dataset:
    """Return a dataset, or the one-item dataset of a mask, a file of masks or a case."""
    from maskloop.desk.cases import is_case
    from maskloop.desk.training_set import dataset_at

    if isinstance(source, Dataset):
        return source
    if isinstance(source, Mask):
        return _single(source.name, [source.checked()])
    path = Path(source)
    if path.is_dir() and is_case(path):
        return _single(path.name.removesuffix(".maskloop"), _masks_of_case(path, job))
    dataset = dataset_at(path, format=format, job=job)
    if dataset is not None:
        return dataset
    from maskloop.loop.load import load_masks

    found = load_masks(path, kind=kind, job=job)
    return _single(stem_of(path), [mask.checked() for mask in found])


def _masks_of_case(path: Path, job: Job) -> list[Mask]:
    from maskloop.desk.cases import open_folder

    with open_folder(path, read_only=True, job=job) as case:
        return [replace(mask, data=mask.data.copy()).checked() for mask in case.masks.values()]


def _single(name: str, masks: Sequence[Mask]) -> Dataset:
    from maskloop.core.labels import LabelTable

    def read(item: Item, job: Job) -> Sample:
        return Sample(item, tuple(masks))

    return Dataset(name, "mask", Path(), LabelTable(), (Item(name),), read)


def _paired(
    a: Dataset, b: Dataset
) -> tuple[list[tuple[Item, Item]], tuple[str, ...], tuple[str, ...]]:
    """Return the items that are one, by name; where none is, by the last part of the names."""
    from maskloop.datasets.base import safe_name

    sides = [[item for item in d.items if item.has_mask] for d in (a, b)]
    if all(len(d.items) == 1 and d.format == "mask" for d in (a, b)):
        return [(sides[0][0], sides[1][0])], (), ()
    for last in (False, True):
        keys: list[dict[str, Item]] = []
        for side in sides:
            named: dict[str, Item] = {}
            for item in side:
                name = safe_name(item.name)
                named[name.rpartition("/")[2] if last else name] = item
            keys.append(named)
        is_clear = all(len(k) == len(side) for k, side in zip(keys, sides, strict=True))
        both = [name for name in keys[0] if name in keys[1]]
        if both and is_clear:
            alone = [
                tuple(item.name for name, item in mine.items() if name not in theirs)
                for mine, theirs in (keys, keys[::-1])
            ]
            return [(keys[0][name], keys[1][name]) for name in both], alone[0], alone[1]
    first = [side[0].name if side else "none" for side in sides]
    msg = (
        f"expected items of the same names in {a.name} and {b.name}, got none ({first[0]!r} and "
        f"{first[1]!r} are the first); name them alike"
    )
    raise InputError(msg)


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    objects: list[ObjectAgreement]
    classes: list[ClassCount]
    unit: str
    notes: list[str]


def _compared(
    a: Sample, b: Sample, *, by: By | None, least: float, kind: Kind | None, any_name: bool
) -> _Found:
    """Return the agreement on one item."""
    tables = [replace(s.masks[0], labels=s.labels) for s in (a, b)]
    require_same_grid(tables[0], tables[1])
    if tables[0].data.ndim != tables[0].geometry.ndim:
        msg = (
            f"expected masks without a time axis, got shape {tables[0].data.shape} for "
            f"{a.item.name!r}; compare one frame at a time"
        )
        raise InputError(msg)
    kinds, wholes, called, notes = _kinds(tables[0], tables[1], kind, any_name)
    left_out, note = _left_out(a, b)
    drawn = [
        objects_of(
            [mask.data for mask in sample.masks],
            kinds[side],
            in_pieces=() if by == "labels" else wholes[side],
            left_out=left_out,
        )
        for side, sample in enumerate((a, b))
    ]
    item = a.item.name
    rows = _objects(item, drawn[0], drawn[1], called, tables[0], least)
    spacing = tables[0].geometry.spacing
    counts = [_class(item, n, called[n], drawn[0], drawn[1], spacing) for n in sorted(called)]
    return _Found(rows, counts, tables[0].geometry.unit, [*notes, *note])


def _kinds(
    a: Mask, b: Mask, kind: Kind | None, any_name: bool
) -> tuple[list[dict[int, int]], list[set[int]], dict[int, str], list[str]]:
    """Return the class of each id of both, which ids are classes, their names, and notes."""
    names = [class_names(mask, other, kind) for mask, other in ((a, b), (b, a))]
    wholes = [
        {i for i, name in found.items() if mask.labels[i].category != name}
        for mask, found in zip((a, b), names, strict=True)
    ]
    single = [set(found.values()) for found in names]
    notes = []
    if any_name and all(len(s) == 1 for s in single):
        (wanted,), (own,) = single
        if wanted.casefold() != own.casefold():
            notes.append(f"{own!r} is taken for {wanted!r}: each reader has one class only")
        names[1] = dict.fromkeys(names[1], wanted)
    number: dict[str, int] = {}
    called: dict[int, str] = {}
    for found in names:
        for name in found.values():
            called.setdefault(number.setdefault(name.casefold(), len(number) + 1), name)
    kinds = [{i: number[name.casefold()] for i, name in found.items()} for found in names]
    return kinds, wholes, called, notes


def _left_out(a: Sample, b: Sample) -> tuple[npt.NDArray[np.bool_] | None, list[str]]:
    """Return the voxels that either reader ignores or has not reviewed, and a note of how many."""
    found: npt.NDArray[np.bool_] | None = None
    for sample in (a, b):
        parts = [] if sample.reviewed is None else [~sample.reviewed]
        for mask in sample.masks:
            ignored = [i for i, row in mask.labels.items() if row.ignore]
            if ignored:
                parts.append(np.isin(mask.data, ignored))
        for part in parts:
            found = part if found is None else found | part
    if found is None or not found.any():
        return None, []
    return found, ["what a reader ignores, or has not reviewed where that is asked, is left out"]


def _objects(
    item: str, a: Objects, b: Objects, called: dict[int, str], mask: Mask, least: float
) -> list[ObjectAgreement]:
    shared = shared_voxels(a, b)
    ious = {(i, j): n / (a.areas[i] + b.areas[j] - n) for (i, j), n in shared.items()}
    same = {(i, j): iou for (i, j), iou in ious.items() if a.kinds[i] == b.kinds[j]}
    pairs = matched(same, least)
    taken = set(pairs.values())
    rest = {(i, j): v for (i, j), v in ious.items() if i not in pairs and j not in taken}
    others = matched(rest, least)
    grid = mask.geometry
    voxel = grid.voxel_size if grid.unit == "mm" else 1.0
    unit = f"mm{grid.ndim}" if grid.unit == "mm" else grid.unit

    def row(i: int | None, j: int | None, status: Status) -> ObjectAgreement:
        boxes = [drawn.boxes[n] for drawn, n in ((a, i), (b, j)) if n is not None]
        box = _hull(boxes)
        n_a, n_b = (0 if i is None else a.areas[i]), (0 if j is None else b.areas[j])
        dice = hd95 = iou = None
        if i is not None and j is not None:
            dice, iou = 2 * shared[i, j] / (n_a + n_b), ious[i, j]
            there, back = surface_distances(a.region(i, box), b.region(j, box), grid.spacing)
            hd95 = percentile_distance(there, back)
        name_b = "" if j is None else called[b.kinds[j]]
        return ObjectAgreement(
            item,
            name_b if i is None else called[a.kinds[i]],
            status,
            None if i is None else a.labels[i],
            None if j is None else b.labels[j],
            name_b,
            dice,
            iou,
            hd95,
            n_a,
            n_b,
            n_a * voxel,
            n_b * voxel,
            unit,
            box,
        )

    rows = [row(i, j, "matched") for i, j in sorted(pairs.items())]
    rows += [row(i, j, "other class") for i, j in sorted(others.items())]
    rows += [row(i, None, "missed") for i in a.areas if i not in pairs and i not in others]
    taken |= set(others.values())
    return rows + [row(None, j, "added") for j in b.areas if j not in taken]


def _hull(boxes: Sequence[Box]) -> Box:
    return tuple(
        slice(min(part.start for part in parts), max(part.stop for part in parts))
        for parts in zip(*boxes, strict=True)
    )


def _class(
    item: str, kind: int, name: str, a: Objects, b: Objects, spacing: Sequence[float]
) -> ClassCount:
    """Return how a class as a whole agrees; objects that overlap count once."""
    of_kind = [(drawn, drawn.of_kind(kind)) for drawn in (a, b)]
    boxes = [drawn.boxes[n] for drawn, numbers in of_kind for n in numbers]
    if not boxes:
        return ClassCount(item, name, 0, 0, 0, None)
    box = _hull(boxes)
    one, other = (_union(drawn, numbers, box) for drawn, numbers in of_kind)
    sums = [int(np.count_nonzero(part)) for part in (one, other, one & other)]
    hd95 = None
    if sums[0] and sums[1]:
        hd95 = percentile_distance(*surface_distances(one, other, spacing))
    return ClassCount(item, name, sums[0], sums[1], sums[2], hd95)


def _union(drawn: Objects, numbers: list[int], box: Box) -> npt.NDArray[np.bool_]:
    """Return what objects fill of a box together."""
    found = np.zeros([part.stop - part.start for part in box], np.bool_)
    for layer, ids in enumerate(drawn.layers):
        own = [n for n in numbers if drawn.layer_of[n] == layer]
        if own:
            lookup = np.zeros(max(drawn.areas) + 1, np.bool_)
            lookup[own] = True
            found |= lookup[ids[box]]
    return found

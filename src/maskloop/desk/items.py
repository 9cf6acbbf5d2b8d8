"""The items of a list: found in a dataset or a folder of images, opened, and read as corrected."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maskloop.core.errors import MaskloopError
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.desk.cases import case_folder, is_case
from maskloop.desk.images import IMAGES, list_images, recognised
from maskloop.desk.worklist import Facts, listed_facts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from maskloop.core.dataset import Dataset, Holding, Item, Sample
    from maskloop.core.image import Image
    from maskloop.datasets.base import Options
    from maskloop.desk.worklist import Worklist


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """One item, ready to be shown.

    Parameters
    ----------
    item : Item
    image : Image, optional
        None where the dataset has no pixels at hand.
    masks : tuple of Mask
        On the image's grid, at least one; what a case of the item would begin with.
    has_case : bool
        Whether there is a case already, whose masks count instead.
    facts : Facts
        What the masks hold.
    """

    item: Item
    image: Image | None
    masks: tuple[Mask, ...]
    has_case: bool
    facts: Facts

    @property
    def is_drawn(self) -> bool:
        """Whether anything is drawn already."""
        return self.has_case or bool(self.facts.count)


def open_list(
    path: Path | str, *, options: Options | None = None, job: Job | None = None
) -> Dataset:
    """List a dataset, or the images of a folder that is none; no mask and no pixel is read.

    Raises
    ------
    MissingFileError, FormatError
        As for `open_dataset`; also where a folder holds no image.
    """
    from maskloop.desk.datasets import open_dataset

    path = Path(path)
    found = recognised(path) if path.exists() else ""
    if found == IMAGES:
        return list_images(path, job=job)
    return open_dataset(path, format=found or None, options=options, job=job)


def open_item(
    dataset: Dataset, item: Item, *, workspace: Path | str | None = None, job: Job | None = None
) -> Opened:
    """Read the pixels of an item and, where it has no case yet, the masks to begin one with.

    Raises
    ------
    MissingFileError, FormatError, InputError, GeometryError
        If pixels or masks cannot be read, or do not lie on one grid.
    """
    from maskloop.loop.load import load

    job = job or Job()
    image = load(item.image, job=job) if item.image is not None else None
    if item.image is not None and is_case(case_folder(item.image, workspace=workspace)):
        return Opened(item, image, (), True, listed_facts(item))
    if item.has_mask or image is None:
        sample = dataset.read(item, job)
        masks = tuple(_on(mask, image) for mask in sample.masks)
        facts = facts_of(sample)
    else:
        shape = image.geometry.shape
        shape = (image.data.shape[0], *shape) if image.has_time else shape
        masks = (Mask.like(image, np.zeros(shape, np.uint8), LabelTable()),)
        facts = Facts(frozenset(), 0)
    return Opened(item, image, _with_scheme(masks, dataset), False, facts)


def facts_of(sample: Sample) -> Facts:
    """Return which classes occur in a sample, and how many ids."""
    names: set[str] = set()
    count = 0
    for mask in sample.masks:
        ids = mask.ids()
        rows = mask.labels.covering(ids)
        names.update(rows[i].category or rows[i].name for i in ids)
        count += len(ids)
    return Facts(frozenset(names), count)


def count_items(
    dataset: Dataset,
    items: Sequence[Item],
    *,
    workspace: Path | str | None = None,
    job: Job | None = None,
) -> dict[str, Facts]:
    """Read the masks of items, as corrected, and return what each holds, by name.

    Items that cannot be read are left out and told to the job.
    """
    job, found = job or Job(), {}
    whole = corrected(dataset, workspace=workspace, only={item.name for item in items})
    for item in job.track(whole.items, "count"):
        try:
            read = facts_of(whole.read(item, job)) if item.has_mask else Facts(frozenset(), 0)
            found[item.name] = read
        except MaskloopError as error:
            job.say(f"{item.name}: {error}")
    return found


def corrected(
    dataset: Dataset,
    *,
    workspace: Path | str | None = None,
    only: Collection[str] | None = None,
    worklist: Worklist | None = None,
) -> Dataset:
    """Return the dataset with the masks of its items' cases in the place of its own.

    Parameters
    ----------
    dataset : Dataset
    workspace : path, optional
        Where cases lie whose image's folder cannot be written or is shared.
    only : collection of str, optional
        Names of the items to take; all where left out.
    worklist : Worklist, optional
        Says how far each item is.

    Returns
    -------
    Dataset
        Its scheme has the classes that people added in the cases.
    """
    items = [item for item in dataset.items if only is None or item.name in only]
    return _corrected(dataset, items, _cases_of(items, workspace), worklist)


def _cases_of(items: Iterable[Item], workspace: Path | str | None) -> dict[str, Path]:
    """Return the case folders of those items that have one, by name."""
    found = {}
    for item in items:
        folder = None if item.image is None else case_folder(item.image, workspace=workspace)
        if folder is not None and is_case(folder):
            found[item.name] = folder
    return found


def _corrected(
    dataset: Dataset,
    chosen: Iterable[Item],
    cases: Mapping[str, Path],
    worklist: Worklist | None,
) -> Dataset:
    items = []
    for item in chosen:
        if item.name in cases:
            item = replace(item, has_mask=True, classes=None, count=None)
        if worklist is not None:
            item = replace(item, status=worklist.of(item).status)
        items.append(item)

    def read(item: Item, job: Job) -> Sample:
        folder = cases.get(item.name)
        if folder is None:
            return dataset.read(item, job)
        return _sample_of(folder, item, scheme, job)

    tables = _tables_of(cases.values())
    scheme = _scheme_with(dataset.scheme, tables)
    kind = _kind_with(dataset, tables)
    return replace(dataset, items=tuple(items), reader=read, scheme=scheme, kind=kind)


def as_worked(
    dataset: Dataset, *, workspace: Path | str | None = None, job: Job | None = None
) -> Dataset:
    """Return a dataset as people left it: corrected where items have cases, with their status.

    Nothing is written. A folder of cases is one already.

    Parameters
    ----------
    dataset : Dataset
    workspace : path, optional
        Where cases lie whose image's folder cannot be written or is shared.
    job : Job, optional
        Told of how many items the corrections are taken.
    """
    from maskloop.desk.worklist import Worklist

    if dataset.format == "cases":
        return dataset
    kept = Worklist.beside(dataset.root, workspace=workspace)
    cases = _cases_of(dataset.items, workspace)
    if cases and job is not None:
        job.say(
            f"{len(cases):,} of {len(dataset.items):,} items have a case: their masks are taken as "
            "corrected there"
        )
    return _corrected(dataset, dataset.items, cases, kept)


def nameless(dataset: Dataset) -> Dataset:
    """Return a list of images under names that tell no patient, for whatever is written of it.

    Folders of DICOM, and those above images, are often called after one: they become numbers.
    Datasets that are more than a list of images keep the names that they have.
    """
    if dataset.format != IMAGES:
        return dataset
    groups: dict[str, str] = {}
    origins: dict[str, Item] = {}
    for number, item in enumerate(dataset.items, start=1):
        group = item.group
        if group:
            group = groups.setdefault(group, f"group-{len(groups) + 1:03d}")
        is_folder = item.image is not None and item.image.is_dir()
        name = f"series-{number:03d}" if is_folder else item.name.rpartition("/")[2]
        name = f"{group}/{name}" if group else name
        name = name if name not in origins else f"{name}-{number:03d}"
        origins[name] = replace(item, group=group)

    def read(item: Item, job: Job) -> Sample:
        own = origins[item.name]
        return replace(dataset.read(own, job), item=item)

    items = tuple(replace(item, name=name) for name, item in origins.items())
    return replace(dataset, items=items, reader=read)


def free_id(tables: Iterable[LabelTable]) -> int:
    """Return an id above those of all tables."""
    return 1 + max((i for table in tables for i in table), default=0)


def class_row(number: int, row: Label) -> Label:
    """Return the row of a new object of a class: its number, and the class as its category."""
    return Label(number, f"{row.name} {number}", category=row.name, is_thing=True)


def _sample_of(folder: Path, item: Item, scheme: LabelTable, job: Job) -> Sample:
    """Return what a case holds, its classes numbered as in the scheme."""
    from maskloop import datasets
    from maskloop.datasets.base import Options
    from maskloop.datasets.tables import recoded

    opened = datasets.get("cases").open
    if opened is None:
        msg = "cases can be read"
        raise RuntimeError(msg)
    found = opened(folder, options=Options(), job=job)
    sample = found.read(found.items[0], job)
    ids = {row.name: row.id for row in scheme.values()}
    masks = []
    for mask in sample.masks:
        rows = mask.labels
        numbers = {i: ids.get(row.name, i) for i, row in rows.items()}
        is_apart = len(set(numbers.values())) == len(numbers)
        if rows.kind == "classes" and is_apart and any(i != n for i, n in numbers.items()):
            table = LabelTable(replace(row, id=numbers[i]) for i, row in rows.items())
            mask = recoded(mask, numbers, table)
        masks.append(mask)
    return replace(sample, item=item, masks=tuple(masks))


def _tables_of(cases: Iterable[Path]) -> list[LabelTable]:
    """Return the tables that the logs of cases tell of, without opening one."""
    found: list[LabelTable] = []
    for folder in cases:
        try:
            told = json.loads((folder / "case.json").read_bytes())
            tables = told.get("labels") or {row["name"]: row["labels"] for row in told["masks"]}
            found += [LabelTable.from_rows(table) for table in tables.values()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # reading the item will say what is wrong with it
    return found


def _scheme_with(scheme: LabelTable, tables: Iterable[LabelTable]) -> LabelTable:
    """Return the scheme and the classes that tables name beside it."""
    known = {row.name for row in scheme.values()}
    for row in (row for table in tables for row in table.values()):
        name = row.category or row.name
        if name not in known:
            known.add(name)
            number = max(scheme, default=0) + 1
            fresh = Label(number, name, is_thing=row.category is not None, ignore=row.ignore)
            scheme = scheme.with_rows([fresh])
    return scheme


def _kind_with(dataset: Dataset, tables: Iterable[LabelTable]) -> Holding:
    """Return what ids stand for once people have drawn what the dataset had none of."""
    has_objects = {table.kind == "objects" for table in tables if table}
    if dataset.kind != "classes" or True not in has_objects:
        return dataset.kind
    return "objects" if dataset.format == IMAGES and False not in has_objects else "panoptic"


def _with_scheme(masks: tuple[Mask, ...], dataset: Dataset) -> tuple[Mask, ...]:
    """Give the first mask a row for each class of the scheme that people can paint with.

    Where ids are objects, the classes of things are no rows: each object gets one of its own.
    """
    if dataset.kind == "objects":
        return masks
    first, scheme = masks[0], dataset.scheme
    has_objects = dataset.kind == "panoptic"
    names = {row.name for row in first.labels.values() if row.category is None}
    rows: list[Label] = []
    top = max((i for mask in masks for i in mask.labels), default=0)
    for row in scheme.values():
        if row.name in names or (has_objects and row.is_thing):
            continue
        taken = any(row.id in mask.labels for mask in masks) or any(r.id == row.id for r in rows)
        number = row.id
        if taken:
            top = max(top, max((r.id for r in rows), default=0), max(scheme)) + 1
            number = top
        rows.append(replace(row, id=number))
    return (replace(first, labels=first.labels.with_rows(rows)), *masks[1:])


def _on(mask: Mask, image: Image | None) -> Mask:
    """Return a mask on its image's grid; one that counts pixels takes the image's place."""
    if image is None:
        return mask
    shape = image.geometry.shape
    if mask.geometry.unit == "px" and image.geometry.unit == "mm" and mask.data.shape == shape:
        mask = replace(mask, geometry=image.geometry)
    mask.require_on(image)
    return replace(mask, source=image.source, header=image.header, title=image.title)

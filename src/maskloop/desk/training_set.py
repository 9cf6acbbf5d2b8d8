"""A dataset as training cases: an item's mask is read when it is needed and let go after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from maskloop.core.errors import FormatError, InputError
from maskloop.core.labels import LabelTable
from maskloop.training.cases import Drawn, TrainingCase, find_pairs

if TYPE_CHECKING:
    from maskloop.core.dataset import Dataset, Item
    from maskloop.core.job import Job


@dataclass(frozen=True, slots=True, eq=False)
class DrawnItem:
    """The masks of one item as one mask."""

    dataset: Dataset
    item: Item

    @property
    def labels(self) -> LabelTable:
        """The classes that may occur: those listed for the item, else the dataset's."""
        scheme, listed = self.dataset.scheme, self.item.classes
        return LabelTable(row for row in scheme.values() if listed is None or row.name in listed)

    def read(self, job: Job) -> Drawn:
        """Return the mask; where objects overlap, `Sample.settled` says which one is seen."""
        sample = self.dataset.read(self.item, job)
        mask, lost = sample.settled()
        return Drawn(mask, sample.reviewed, lost)


def training_cases(dataset: Dataset, job: Job) -> list[TrainingCase]:
    """Return the items that have a picture and a mask; nothing is read.

    Raises
    ------
    InputError
        If there is none.
    """
    found = [
        TrainingCase(
            item.name,
            item.image,
            DrawnItem(dataset, item),
            group=item.group,
            split=item.split,
        )
        for item in dataset.items
        if item.image is not None and item.has_mask
    ]
    without = sum(item.image is None for item in dataset.items)
    if not found:
        msg = (
            f"expected items with a picture and a mask in {dataset.name}, got none of "
            f"{len(dataset.items):,} ({without:,} without a picture); put the pictures where the "
            "dataset names them"
        )
        raise InputError(msg)
    if without:
        job.say(f"{dataset.name}: {without:,} items have no picture at hand and are left out")
    return found


def dataset_at(
    place: Path | str, *, format: str | None = None, profile: Path | None = None, job: Job
) -> Dataset | None:
    """Return the dataset at a path; None where there is none, or plain pairs (see `find_pairs`).

    Parameters
    ----------
    place : Path or str
    format : str, optional
        Name of its format; found out where left out.
    profile : Path, optional
        A profile of one's own for a folder of masks.
    job : Job
        Told what the dataset wants a person to know.

    Raises
    ------
    MaskloopError
        As for `open_dataset`.
    """
    from maskloop import datasets
    from maskloop.desk.datasets import Options, open_dataset

    path = Path(place)
    if format is None and profile is None:
        if not path.exists():
            return None
        try:
            format = datasets.format_of(path).name
        except FormatError:
            return None
        if format == "pairs" and _are_pairs(path):
            return None
    return open_dataset(path, format=format, options=Options(profile=profile), job=job)


def _are_pairs(path: Path) -> bool:
    if (path / "images").is_dir():
        return True
    try:
        return bool(find_pairs(path))
    except InputError:
        return False

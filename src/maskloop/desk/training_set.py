"""A dataset as training cases: an item's mask is read when it is needed and let go after."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from maskloop.core.dataset import Dataset
from maskloop.core.errors import FormatError, InputError
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.datasets.base import read_image
from maskloop.training.cases import Drawn, TrainingCase, find_pairs, fingerprint, read_cases, sided

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.core.dataset import Item
    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.training.cases import Pair, Triple


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

    def read_image(self, job: Job) -> Image:
        """Return the pixels."""
        return read_image(self.item, job)


def given_cases(
    cases: Dataset | Path | str | Sequence[Dataset | Pair | Triple | Path | str],
    *,
    only: str | None = None,
    format: str | None = None,
    profile: Path | None = None,
    job: Job,
) -> list[TrainingCase]:
    """Return training cases of pairs and of datasets, those that a dataset's own split leaves.

    Parameters
    ----------
    cases, only, format, profile
        As for `maskloop.train`.
    job : Job
        Told what is left out.

    Raises
    ------
    InputError
        If a form is not understood, no case is found, or a status is asked of pairs.
    """
    from maskloop.desk.datasets import chosen
    from maskloop.desk.items import as_worked

    given = [cases] if isinstance(cases, (str, Path, Dataset)) else list(cases)
    plain: list[Pair | Triple | Path | str] = []
    found: list[TrainingCase] = []
    for one in given:
        dataset: Dataset | None = None
        if isinstance(one, Dataset):
            dataset = one
        elif isinstance(one, (str, Path)):
            is_told = format is not None or profile is not None
            if is_told or not _are_pairs(Path(one)):
                dataset = dataset_at(one, format=format, profile=profile, job=job)
                dataset = None if dataset is None else as_worked(dataset, job=job)
        if dataset is not None:
            listed = training_cases(chosen(dataset, status=only, job=job), job)
            left = sided(listed)
            if len(left) < len(listed):
                job.say(
                    f"{dataset.name}: {len(listed) - len(left):,} of {len(listed):,} items are "
                    "neither trained on nor scored: they are of another split"
                )
            found += left
        elif not isinstance(one, Dataset):
            plain.append(one)
    if plain and only is not None:
        msg = f"expected datasets beside only={only!r}, got pairs, which have no status; leave it"
        raise InputError(f"{msg} out")
    if plain or not found:
        found = [*read_cases(plain), *found]
    if any(case.split for case in found):  # what has no split of its own is there to be learnt
        found = [replace(case, split=case.split or "train") for case in found]
    return found


def reviewed_cases(
    cases: Sequence[TrainingCase], job: Job
) -> tuple[list[TrainingCase], list[tuple[str, str]]]:
    """Return the cases of which anything was reviewed, and fingerprints of masks and reviews.

    Raises
    ------
    InputError
        If nothing was reviewed in any.
    """
    kept, prints = [], []
    lost = 0
    for case in job.track(cases, "read masks"):
        if isinstance(case.mask, (Mask, Path)):
            kept.append(case)
            prints.append((fingerprint(case.mask), fingerprint(case.reviewed)))
            continue
        drawn = case.mask.read(job)
        if drawn.reviewed is not None and not drawn.reviewed.any():
            continue
        lost += drawn.lost
        kept.append(case)
        prints.append((fingerprint(drawn.mask), fingerprint(drawn.reviewed)))
    if not kept:
        msg = (
            f"expected reviewed voxels in some of {len(cases):,} cases, got none; mark a case done "
            "or review a part of one"
        )
        raise InputError(msg)
    if len(kept) < len(cases):
        job.say(f"{len(cases) - len(kept):,} cases in which nothing was reviewed are left out")
    if lost:
        job.say(
            f"objects overlap in {lost:,} voxels: each is learnt as the better scored object's, "
            "or the smaller one's"
        )
    return kept, prints


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
        if item.has_mask and _has_pixels(item)
    ]
    without = sum(not _has_pixels(item) for item in dataset.items)
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


def _has_pixels(item: Item) -> bool:
    return item.image is not None or hasattr(item.ref, "read_image")


def dataset_at(
    place: Path | str, *, format: str | None = None, profile: Path | None = None, job: Job
) -> Dataset | None:
    """Return the dataset at a path; None where no format knows it.

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
    return open_dataset(path, format=format, options=Options(profile=profile), job=job)


def _are_pairs(path: Path) -> bool:
    """Whether a folder is one that `find_pairs` knows and no format but that of plain pairs."""
    from maskloop import datasets

    if not path.is_dir():
        return False
    try:
        if datasets.format_of(path).name != "pairs":
            return False
    except FormatError:
        return True
    if (path / "images").is_dir():
        return True
    try:
        return bool(find_pairs(path))
    except InputError:
        return False

"""Many images and their masks: listed at once, read one by one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError
from maskloop.core.image import smallest_unsigned
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.core.mask import id_runs, renumbered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from maskloop.core.mask import Mask

Holding = Literal["classes", "objects", "panoptic"]


@dataclass(frozen=True, slots=True)
class Item:
    """One picture or volume of a dataset, as its listing tells it; nothing of it is read yet.

    Parameters
    ----------
    name : str
        Unique in the dataset: a relative POSIX path without suffix, such as ``"aachen/000019"``.
    image : Path, optional
        File or DICOM folder of the pixels; None where the dataset has none at hand.
    shape : tuple of int, optional
        Of the spatial axes, array order; None where the listing does not tell it.
    group : str
        What a split must not cut: patient, slide or video; empty where the item stands alone.
    split : str
        ``"train"``, ``"val"``, ``"test"`` or the dataset's own word; empty where it has none.
    classes : frozenset of str, optional
        Names of the classes that occur, where the listing tells it without reading masks.
    count : int, optional
        How many objects there are, where the listing tells it.
    status : str
        How far a case is: ``"unseen"``, ``"in work"``, ``"done"``, ``"flagged"``; empty where
        nobody keeps count.
    has_mask : bool
        Whether anything is drawn or promised to be: an item of a test set may have pixels only.
    ref : Any
        Opaque; for the reader that listed it.
    """

    name: str
    image: Path | None = None
    shape: tuple[int, ...] | None = None
    group: str = ""
    split: str = ""
    classes: frozenset[str] | None = None
    count: int | None = None
    status: str = ""
    has_mask: bool = True
    ref: Any = field(default=None, repr=False, compare=False)  # Any: the reader's own


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The masks of one item.

    Parameters
    ----------
    item : Item
    masks : tuple of Mask
        At least one, all on one grid. None has an overlap inside: objects that overlap lie on
        different masks, each whole on one of them, with ids unique over all.
    reviewed : bool array, optional
        Where a person vouches for the masks; None where that is everywhere.
    drafts : mapping of str to Mask
        What models drew before people corrected it, by name.
    authors : array of uint8, optional
        Number of who drew each voxel of the first mask; 0 where nobody is known.
    author_names : mapping of int to str
        Names of those numbers.
    header : Any
        Opaque; for formats that write back what they do not understand.
    """

    item: Item
    masks: tuple[Mask, ...]
    reviewed: npt.NDArray[np.bool_] | None = None
    drafts: Mapping[str, Mask] = field(default_factory=dict)
    authors: npt.NDArray[np.uint8] | None = None
    author_names: Mapping[int, str] = field(default_factory=dict)
    header: Any = field(default=None, repr=False)  # Any: opaque to all but its own format

    def __post_init__(self) -> None:
        if not self.masks:
            msg = f"expected at least one mask for {self.item.name!r}, got none; give an empty one"
            raise InputError(msg)

    @property
    def labels(self) -> LabelTable:
        """The rows of all masks together."""
        if len(self.masks) == 1:
            return self.masks[0].labels
        return LabelTable(row for mask in self.masks for row in mask.labels.values())

    def settled(self) -> tuple[Mask, int]:
        """Return one id a voxel, and how many voxels had to leave an object for that.

        Ignored regions lie lowest; above them the higher score wins or, where scores are missing,
        the smaller object.
        """
        first = self.masks[0]
        if len(self.masks) == 1:
            return first, 0
        labels = self.labels
        ids = np.zeros(first.data.shape, smallest_unsigned(max(labels, default=0)))
        has_scores = all(row.score is not None for row in labels.values())
        areas: Counter[int] = Counter()
        for mask in self.masks:
            for some, lengths in id_runs(mask.data):
                present, at = np.unique(some, return_inverse=True)
                counts = np.bincount(at.reshape(-1), lengths, present.size)
                areas.update(dict(zip(present.tolist(), counts.astype(int).tolist(), strict=True)))

        def rank(number: int) -> tuple[bool, float, int, int]:
            row = labels[number]
            score = (row.score or 0.0) if has_scores else 0.0
            return (not row.ignore, score, -areas[number], -number)

        places = {number: at for at, number in enumerate(sorted(labels, key=rank), start=1)}
        height = np.zeros(ids.shape, smallest_unsigned(len(places)))
        claimed = 0
        for mask in self.masks:
            mine = renumbered(mask.data, places, height.dtype)
            claimed += int(np.count_nonzero(mine))
            is_higher = mine > height
            ids[is_higher] = mask.data[is_higher]
            height[is_higher] = mine[is_higher]
        lost = claimed - int(np.count_nonzero(height))
        return replace(first, data=ids, labels=labels), lost


class ReadItem(Protocol):
    """Read the masks of one item; each dataset brings its own."""

    def __call__(self, item: Item, job: Job) -> Sample:
        """Return the sample."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A list of items, what their labels mean, and how to read one.

    Parameters
    ----------
    name : str
        For people; never a patient's.
    format : str
        Name of the dataset format, such as ``"coco"`` or ``"voc"``.
    root : Path
        Folder (or file) it was opened from.
    scheme : LabelTable
        The classes, one row each: id, name, colour, thing or stuff, ignored or not. Objects name
        their class in ``Label.category``.
    items : sequence of Item
        In order of name where the dataset has no order of its own.
    reader : callable
        Reads one item.
    kind : {"classes", "objects", "panoptic"}
        What ids stand for: a class each, an object each, or both.
    about : mapping
        What the dataset says about itself, to be written back: info, licences, further keys.
    notices : tuple of str
        What a person should know before trusting it, in words.
    """

    name: str
    format: str
    root: Path
    scheme: LabelTable
    items: Sequence[Item]
    reader: ReadItem
    kind: Holding = "classes"
    about: Mapping[str, Any] = field(default_factory=dict)  # Any: plain JSON values
    notices: tuple[str, ...] = ()

    def read(self, item: Item, job: Job | None = None) -> Sample:
        """Return the masks of one item."""
        return self.reader(item, job or Job())

    def __len__(self) -> int:
        return len(self.items)

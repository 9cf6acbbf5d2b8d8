"""The label arrays that a dataset is compared with: another dataset, or a folder of mask files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from maskloop import datasets
from maskloop.core.dataset import Item, Sample
from maskloop.core.errors import FormatError, InputError
from maskloop.datasets.base import Options, class_of, safe_name
from maskloop.datasets.proofs_truth import Piece, pieces_of, united
from maskloop.formats.base import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from maskloop.core.job import Job

_SUFFIXES = (
    ".png",
    ".tif",
    ".tiff",
    ".npy",
    ".nii.gz",
    ".nii",
    ".nrrd",
    ".mha",
    ".mgz",
)
_NAMELESS = "object"  # what the readers of mask files call objects without a table


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """Masks by the name of their image.

    Parameters
    ----------
    name : str
    names : tuple of str
        Of the items, in order.
    classes : mapping of str to int
        Ids by the classes' names; empty where the truth lists none.
    has_own_ids : bool
        Whether those ids are what was stored, and must be kept.
    is_classes : bool, optional
        Whether ids are classes, so that the objects of each are taken together; None where each
        item's own table says it.
    read : callable
        Reads one item by its name.
    """

    name: str
    names: tuple[str, ...]
    classes: Mapping[str, int]
    has_own_ids: bool
    is_classes: bool | None
    read: Callable[[str, Job], Sample]
    _found: dict[str, str] = field(default_factory=dict, repr=False)

    def name_of(self, wanted: str) -> str | None:
        """Return the item that belongs to an image: of its whole name, else of its last part."""
        if not self._found:
            last: dict[str, list[str]] = {}
            for name in self.names:
                last.setdefault(_plain(name).rpartition("/")[2], []).append(name)
            self._found.update({k: names[0] for k, names in last.items() if len(names) == 1})
            self._found.update({_plain(name): name for name in self.names})
        plain = _plain(wanted)
        return self._found.get(plain) or self._found.get(plain.rpartition("/")[2])

    def pieces(self, name: str, job: Job) -> tuple[tuple[int, ...], list[Piece], bool]:
        """Return the shape of an item, what it holds, and whether each piece is a class."""
        sample = self.read(name, job)
        labels = sample.labels
        has_names = any(class_of(row) != _NAMELESS for row in labels.values())
        pieces = pieces_of(sample, has_names=has_names)
        is_classes = self._takes_together(sample)
        if is_classes:
            pieces = united(pieces, name)
        return sample.masks[0].data.shape, pieces, is_classes

    def _takes_together(self, sample: Sample) -> bool:
        """Whether the objects of a class are one piece in this item."""
        if self.is_classes is not None:
            return self.is_classes
        return bool(sample.labels) and sample.labels.kind == "classes"


def _plain(name: str) -> str:
    try:
        return safe_name(name)
    except InputError:
        return name


def truth_of(path: Path, job: Job) -> Truth:
    """Return the truth that lies at a path.

    Parameters
    ----------
    path : Path
        A dataset of any format, a folder of label arrays (PNG, TIFF, NPY, NIfTI, ...) named as
        their images, or one such file.

    Raises
    ------
    MissingFileError
        If nothing is there.
    InputError
        If there is no label array.
    """
    if not path.exists():
        raise missing(path, "the true masks")
    try:
        chosen = datasets.format_of(path)
    except FormatError:
        return _of_files(path, job)
    found = chosen.open(path, options=Options(), job=job) if chosen.open else None
    if found is None or not found.items:
        return _of_files(path, job)
    by_name = {item.name: item for item in found.items if item.has_mask}
    return Truth(
        path.name,
        tuple(by_name),
        {row.name: row.id for row in found.scheme.values()},
        chosen.name in ("indexed", "coco"),
        found.kind == "classes",
        lambda name, job: found.read(by_name[name], job),
    )


def _of_files(path: Path, job: Job) -> Truth:
    root = path if path.is_dir() else path.parent
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    by_name = {_stem(p, root): p for p in files if _suffix(p)}
    if not by_name:
        msg = (
            f"expected label arrays ({', '.join(_SUFFIXES)}) in {path.name}, got none; name a "
            "folder of masks or a dataset"
        )
        raise InputError(msg)
    return Truth(
        path.name,
        tuple(by_name),
        {},
        has_own_ids=False,
        is_classes=None,
        read=lambda name, job: _read(name, by_name[name], job),
    )


def _suffix(path: Path) -> str:
    return next((s for s in _SUFFIXES if path.name.lower().endswith(s)), "")


def _stem(path: Path, root: Path) -> str:
    name = path.relative_to(root).as_posix()
    return name[: len(name) - len(_suffix(path))]


def _read(name: str, path: Path, job: Job) -> Sample:
    """Return the mask of one file; values are ids of objects where no table says otherwise."""
    from maskloop.core.geometry import Geometry
    from maskloop.core.mask import Mask, as_ids
    from maskloop.formats.base import table_beside
    from maskloop.loop.load import load_masks

    item = Item(name)
    if path.suffix.lower() != ".npy":
        return Sample(item, tuple(load_masks(path, job=job)))
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        msg = f"expected an array of labels in {path.name}, got {error}; save it with numpy.save"
        raise FormatError(msg) from error
    if not isinstance(values, np.ndarray) or values.ndim not in (2, 3):
        msg = f"expected labels of shape (y, x) or (z, y, x) in {path.name}; save one array a file"
        raise FormatError(msg)
    ids = as_ids(values)
    grid = Geometry.pixels(ids.shape) if ids.ndim == 2 else Geometry.regular(ids.shape, (1, 1, 1))
    return Sample(item, (Mask(ids, grid, table_beside(path, ids, None)),))

"""Label ids on an image's grid; the editable truth."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import GeometryError, InputError
from maskloop.core.image import Image, smallest_unsigned, stem_of
from maskloop.core.labels import LabelTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from maskloop.core.geometry import Geometry


_TABLE = 1 << 20  # ids up to here are looked up in a table, others are searched
_PART = 1 << 22  # voxels looked at together: what is compared stays in the cache


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """One id per voxel and the table that says what the ids mean.

    Parameters
    ----------
    data : array of unsigned int
        ``(z, y, x)`` or ``(y, x)``; a time axis may come first. 0 is background.
    geometry : Geometry
        The grid of the spatial axes; the image's own.
    labels : LabelTable
        A row for every id that may occur. Ids without a row are allowed while editing;
        `checked` adds rows for them.
    source, header, title
        As for `Image`.
    """

    data: npt.NDArray[Any]
    geometry: Geometry
    labels: LabelTable
    source: Path | None = None
    header: Any = field(default=None, repr=False)  # Any: opaque to all but its own format
    title: str = ""

    def __post_init__(self) -> None:
        if self.data.shape[-self.geometry.ndim :] != self.geometry.shape:
            msg = (
                f"expected ids of shape {self.geometry.shape}, got {self.data.shape}; "
                f"resample the mask or choose its own image"
            )
            raise GeometryError(msg)
        if self.data.dtype.kind not in "bu":
            msg = (
                f"expected label ids of an unsigned type, got {self.data.dtype}; "
                f"pass the array through maskloop.core.mask.as_ids first"
            )
            raise InputError(msg)

    @classmethod
    def like(
        cls,
        image: Image,
        ids: npt.ArrayLike,
        labels: LabelTable | Mapping[int, str] | Sequence[str],
    ) -> Mask:
        """Return a mask on `image`'s grid; the only way a model makes one.

        Parameters
        ----------
        image : Image
            Gives grid, source and header.
        ids : array_like
            Whole numbers >= 0 on the image's spatial grid; stored in the narrowest unsigned type
            (bool becomes uint8).
        labels : LabelTable, or names as for `LabelTable.classes`
            Meaning of the ids.

        Raises
        ------
        InputError
            If ids are negative or not whole.
        GeometryError
            If the shape is not the grid's.
        """
        table = labels if isinstance(labels, LabelTable) else LabelTable.classes(labels)
        return cls(
            as_ids(ids, highest=max(table, default=0)),
            image.geometry,
            table,
            image.source,
            image.header,
            image.title,
        )

    @property
    def name(self) -> str:
        """The title, else the file name without its suffixes, or ``"mask"``."""
        return self.title or (stem_of(self.source) if self.source is not None else "mask")

    def ids(self) -> list[int]:
        """Return the ids that occur, ascending, background left out; one pass over the data."""
        return present_ids(self.data)

    def checked(self) -> Mask:
        """Return the mask with a row in the table for every id that occurs."""
        ids = self.ids()
        # Nothing is known of an empty table's ids: most such files hold objects.
        labels = self.labels.covering(ids) if self.labels else LabelTable.objects(ids)
        return self if labels == self.labels else replace(self, labels=labels)

    def require_on(self, image: Image) -> None:
        """Raise `GeometryError`, in mm and by corner, unless the mask lies on `image`'s grid."""
        words = image.geometry.difference(self.geometry)
        if words:
            msg = (
                f"expected mask {self.name!r} on the grid of {image.name!r} "
                f"{image.geometry.shape}, but {words}; resample it or choose its own image"
            )
            raise GeometryError(msg)


def present_ids(data: npt.NDArray[Any]) -> list[int]:
    """Return the ids above 0 that occur in an array of bool or unsigned int, ascending."""
    found: set[int] = set()
    for ids, _ in id_runs(data):
        found.update(np.unique(ids).tolist())
    return sorted(int(i) for i in found if i)


def renumbered(
    ids: npt.NDArray[Any], numbers: Mapping[int, int], dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """Return ids with each replaced by its number, and by 0 where it has none.

    However large the ids are: a table of 2**32 entries is never made.
    """
    found: npt.NDArray[Any]
    highest = int(ids.max(initial=0))
    kept = {old: new for old, new in numbers.items() if 0 < old <= highest}
    if highest <= _TABLE:
        table = np.zeros(highest + 1, dtype)
        for old, new in kept.items():
            table[old] = new
        found = table[ids]
        return found
    olds = np.array(sorted(kept), np.uint64)
    news = np.array([0, *(kept[int(n)] for n in olds)], dtype)
    at = np.searchsorted(olds, ids)
    is_known = olds[np.minimum(at, olds.size - 1)] == ids if olds.size else np.False_
    found = news[np.where(is_known, at + 1, 0)]
    return found


def id_runs(data: npt.NDArray[Any]) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.int64]]]:
    """Yield, part by part, ids and how many voxels each stands for; an id may occur often.

    Ids come in runs: only where eight bytes differ from the eight before is looked at.
    """
    if data.flags.c_contiguous:
        flat = data.reshape(-1)
        parts = (flat[at : at + _PART] for at in range(0, flat.size, _PART))
    else:
        slabs = data if data.ndim > 2 else (data,)
        parts = (np.ascontiguousarray(slab).reshape(-1) for slab in slabs)
    together = 8 // data.itemsize
    for part in parts:
        rest = part.size % together
        words = part[: part.size - rest].view(np.uint64)
        starts = np.concatenate(([0], np.flatnonzero(words[1:] != words[:-1]) + 1))[: words.size]
        yield (
            words[starts].view(part.dtype),
            np.repeat(np.diff(starts, append=words.size), together),
        )
        yield part[part.size - rest :], np.ones(rest, np.int64)


def as_ids(values: npt.ArrayLike, *, highest: int = 0) -> npt.NDArray[Any]:
    """Return `values` as the narrowest unsigned ids that hold them and `highest`.

    Raises
    ------
    InputError
        If a value is negative, not whole, or not a number.
    """
    found = np.asarray(values)
    if found.dtype.kind not in "biuf":
        msg = (
            f"expected whole numbers as label ids, got dtype {found.dtype}; "
            f"convert the mask to integers"
        )
        raise InputError(msg)
    if found.size == 0:
        return found.astype(np.uint8)
    if found.dtype.kind == "f" and not (
        np.isfinite(found).all() and (found == np.rint(found)).all()
    ):
        odd = found[~(np.isfinite(found) & (found == np.rint(found)))].flat[0]
        msg = (
            f"expected whole numbers as label ids, got {float(odd)!r}; "
            f"this looks like an image or a probability map: threshold it first"
        )
        raise InputError(msg)
    if found.dtype.kind in "if" and found.min() < 0:
        msg = f"expected label ids of at least 0, got {found.min()}; renumber the labels"
        raise InputError(msg)
    top = max(int(found.max()), highest)
    if top >= 2**64:
        msg = f"expected label ids below 2**64, got {float(top):.3g}; renumber the labels"
        raise InputError(msg)
    return found.astype(smallest_unsigned(top), copy=False)

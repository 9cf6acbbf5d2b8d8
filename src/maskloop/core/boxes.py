"""Boxes, one slice an array axis: where in an array something lies, and how boxes combine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from maskloop.core.geometry import Box

Ids = npt.NDArray[Any]  # Any: labels come in every integer width
Region = npt.NDArray[np.bool_]

_CHUNK = 1 << 22  # voxels compared at once; bounds the memory of a search


def box_of(ids: Ids, label: int, *, margin: Sequence[int] | int = 0) -> Box | None:
    """Return the tight box of a label, widened by `margin` voxels and cut at the array's ends.

    Parameters
    ----------
    ids : array of int or bool
        Label ids of any shape; a region is the label 1.
    label : int
        The id to look for.
    margin : int or sequence of int
        Voxels to add at both ends of each axis.

    Returns
    -------
    tuple of slice, or None
        None where the label does not occur.
    """
    is_region = ids.dtype == np.bool_ and label == 1
    box = _tight(
        ids.shape, ((at, ids[at] if is_region else ids[at] == label) for at in _parts(ids.shape))
    )
    return None if box is None else widened(box, ids.shape, margin)


def difference_box(old: Ids, new: Ids) -> Box | None:
    """Return the tight box in which two arrays of one shape differ, or None if they do not."""
    return _tight(old.shape, ((at, old[at] != new[at]) for at in _parts(old.shape)))


def hull(boxes: Iterable[Box]) -> Box:
    """Return the smallest box that holds all the given ones, at least one."""
    return tuple(
        slice(min(part.start for part in parts), max(part.stop for part in parts))
        for parts in zip(*boxes, strict=True)
    )


def widened(box: Box, shape: Sequence[int], by: Sequence[int] | int = 1) -> Box:
    """Return a box with `by` voxels more at both ends of each axis, cut at the array's ends."""
    widths = [by] * len(box) if isinstance(by, int) else by
    return tuple(
        slice(max(0, part.start - width), min(n, part.stop + width))
        for part, n, width in zip(box, shape, widths, strict=True)
    )


def shifted(box: Box, starts: Iterable[int]) -> Box:
    """Return a box told in a larger array, in which the box's own array begins at `starts`."""
    return tuple(slice(b.start + s, b.stop + s) for b, s in zip(box, starts, strict=True))


def bounded(box: Box | None, shape: Sequence[int]) -> Box:
    """Return a box with its open and negative ends told in numbers; all of the array if None."""
    if box is None:
        return tuple(slice(0, n) for n in shape)
    return tuple(slice(*part.indices(n)[:2]) for part, n in zip(box, shape, strict=True))


def _parts(shape: Sequence[int]) -> Iterator[slice]:
    step = max(1, _CHUNK * shape[0] // max(int(np.prod(shape)), 1))
    return (slice(start, start + step) for start in range(0, shape[0], step))


def _tight(shape: Sequence[int], parts: Iterable[tuple[slice, Region]]) -> Box | None:
    """Return the tight box of what is true, looked at in parts along the first axis."""
    hits = [np.zeros(n, dtype=bool) for n in shape]
    for part, region in parts:
        # One pass over the part gives a plane; the other axes are read from that plane.
        plane: Region = np.asarray(region.any(axis=0))
        if not plane.any():
            continue
        hits[0][part] = region.reshape(len(region), -1).any(axis=1)
        for axis in range(1, len(shape)):
            others = tuple(a for a in range(len(shape) - 1) if a != axis - 1)
            hits[axis] |= plane.any(axis=others)
    if not hits[0].any():
        return None
    ends = [np.flatnonzero(hit)[[0, -1]] for hit in hits]
    return tuple(slice(int(first), int(last) + 1) for first, last in ends)

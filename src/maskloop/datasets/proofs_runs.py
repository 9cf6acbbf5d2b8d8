"""Run lengths of many COCO masks decoded at once, apart from the code that writes them.

References
----------
.. [1] The COCO API's C reference (maskApi): characters from 48, 5 bits each, the 6th says that
   more follow, lengths from the fourth on are differences to the one before the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.core.geometry import Box

Ints = npt.NDArray[np.int64]
_LONGEST = 8  # characters of one number: 40 bits, above any picture


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """Run lengths of several masks, one after the other.

    Parameters
    ----------
    values : array of int
        Background first, then mask, and so on in turn.
    firsts : array of int
        Where each mask's begin; one more at the end.
    """

    values: Ints
    firsts: Ints

    def of(self, number: int) -> Ints:
        """Return the lengths of one mask."""
        return self.values[self.firsts[number] : self.firsts[number + 1]]


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What masks fill: pixels, boxes ``(x, y, width, height)``, and what is wrong with each.

    Boxes are meaningful only for masks with pixels and lengths that add up.
    """

    areas: Ints
    boxes: Ints
    totals: Ints
    has_negative: npt.NDArray[np.bool_]


def uncompressed(texts: Sequence[bytes]) -> tuple[Lengths, list[int]]:
    """Return the lengths that compressed counts stand for, and the numbers of damaged ones.

    Damaged ones (foreign characters, an unfinished number, a number beyond 40 bits, no character
    at all) have no lengths.
    """
    is_bad = _damaged(texts)
    whole = [b"" if bad else text for text, bad in zip(texts, is_bad, strict=True)]
    letters = (np.frombuffer(b"".join(whole), np.uint8) - 48).astype(np.int64)
    ends = np.flatnonzero(letters & 32 == 0)
    starts = np.concatenate((np.zeros(min(1, ends.size), np.int64), ends[:-1] + 1))
    sizes = ends - starts + 1
    bits = (letters & 31) << (5 * (np.arange(letters.size) - np.repeat(starts, sizes)))
    values = np.add.reduceat(bits, starts) if starts.size else np.zeros(0, np.int64)
    values -= np.where(letters[ends] & 16, np.int64(1) << (5 * sizes), 0)
    reach = np.cumsum([0, *map(len, whole)])
    firsts = np.searchsorted(starts, reach)
    return Lengths(_summed(values, firsts), firsts), np.flatnonzero(is_bad).tolist()


def _damaged(texts: Sequence[bytes]) -> npt.NDArray[np.bool_]:
    sizes = np.array([len(text) for text in texts], np.int64)
    is_bad = np.equal(sizes, 0)
    letters = np.frombuffer(b"".join(texts), np.uint8) - 48  # what lies below wraps round
    owner = np.repeat(np.arange(sizes.size), sizes)
    is_bad[owner[letters > 63]] = True
    lasts = np.cumsum(sizes) - 1
    is_open = letters & 32 != 0
    has_any = sizes > 0
    is_bad[has_any] |= is_open[lasts[has_any]]
    if letters.size >= _LONGEST:
        in_row = np.concatenate(([0], np.cumsum(is_open)))
        is_long = in_row[_LONGEST:] - in_row[:-_LONGEST] == _LONGEST
        is_bad[owner[np.flatnonzero(is_long)]] = True
    return is_bad


def _summed(values: Ints, firsts: Ints) -> Ints:
    """Return lengths from what each differs by from the one before the last."""
    place = np.arange(values.size) - np.repeat(firsts[:-1], np.diff(firsts))
    found = values.copy()
    for is_mine in (place % 2 == 1, (place % 2 == 0) & (place > 0)):
        sums = np.cumsum(np.where(is_mine, values, 0))
        before = np.concatenate(([0], sums))[firsts[:-1]]
        found[is_mine] = (sums - np.repeat(before, np.diff(firsts)))[is_mine]
    return found


def measured(lengths: Lengths, heights: Ints) -> Measured:
    """Return what each mask fills in a picture of its height."""
    values, firsts = lengths.values, lengths.firsts
    sizes = np.diff(firsts)
    count = sizes.size
    owner = np.repeat(np.arange(count), sizes)
    place = np.arange(values.size) - np.repeat(firsts[:-1], sizes)
    sums = np.concatenate(([0], np.cumsum(values)))
    stops = sums[1:] - sums[firsts[:-1]][owner]
    is_run = (place % 2 == 1) & (values > 0)
    has_negative = np.zeros(count, bool)
    has_negative[owner[values < 0]] = True
    totals = sums[firsts[1:]] - sums[firsts[:-1]]
    mine, last, size = owner[is_run], stops[is_run] - 1, values[is_run]
    areas = np.zeros(count, np.int64)
    np.add.at(areas, mine, size)
    high = np.maximum(heights[mine], 1)
    first = last - size + 1
    left, right = first // high, last // high
    is_column = left == right
    ends = np.full((count, 4), [2**62, 2**62, -1, -1], np.int64)
    np.minimum.at(ends[:, 0], mine, left)
    np.minimum.at(ends[:, 1], mine, np.where(is_column, first % high, 0))
    np.maximum.at(ends[:, 2], mine, right)
    np.maximum.at(ends[:, 3], mine, np.where(is_column, last % high, high - 1))
    boxes = ends.copy()
    boxes[:, 2:] += 1 - ends[:, :2]
    return Measured(areas, boxes, totals, has_negative)


def region(lengths: npt.NDArray[Any], height: int) -> tuple[Box, npt.NDArray[np.bool_]] | None:
    """Return the box that a mask fills and the region inside it; None where it has no pixel."""
    bounds = np.concatenate(([0], np.cumsum(lengths)))
    inside = np.flatnonzero(lengths[1::2] > 0) * 2 + 1
    if not inside.size:
        return None
    left = int(bounds[inside[0]]) // height
    right = (int(bounds[inside[-1] + 1]) - 1) // height + 1
    within = np.diff(np.clip(bounds, left * height, right * height))
    flat = np.repeat(np.arange(within.size) % 2 == 1, within)
    picture = np.zeros((right - left) * height, bool)
    picture[: flat.size] = flat
    columns = picture.reshape(right - left, height)
    rows = np.flatnonzero(columns.any(axis=0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return (slice(top, bottom), slice(left, right)), np.ascontiguousarray(columns[:, top:bottom].T)

"""Objects as runs of voxels along rows: found once, clipped, compared and drawn again.

A stack is an array ``(slice, row, column)``; its voxels are numbered in that order, and a run is
the numbers ``start`` to ``stop - 1`` of neighbours in one row. Runs are kept in ascending order.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Ints = npt.NDArray[np.int64]
Window = tuple[slice, slice, slice]  # of a stack; starts and stops are given

_SPARSE = 1 / 32  # of the words of eight bytes that hold something


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Runs of voxels and whose they are.

    Parameters
    ----------
    starts, stops : array of int64, shape (n,)
        First voxel number, and one past the last.
    owners : array of int64, shape (n,)
        Number of the object each run belongs to.
    """

    starts: Ints
    stops: Ints
    owners: Ints

    @classmethod
    def none(cls) -> Runs:
        """Return no runs."""
        empty = np.zeros(0, dtype=np.int64)
        return cls(empty, empty, empty)

    @classmethod
    def of(
        cls, numbers: npt.NDArray[Any], shape: Sequence[int], window: Window | None = None
    ) -> Runs:
        """Return the runs of one number above 0, in order of voxels.

        Parameters
        ----------
        numbers : array of int
            Content of `window`.
        shape : sequence of int
            Of the whole stack.
        window : tuple of slice, optional
            Where `numbers` lies in the stack; the whole where left out.
        """
        length, height, width = numbers.shape
        rows = np.ascontiguousarray(numbers).reshape(length * height, width)
        is_start = np.empty(rows.shape, dtype=bool)
        is_start[:, 0] = True
        np.not_equal(rows[:, 1:], rows[:, :-1], out=is_start[:, 1:])
        at = np.flatnonzero(is_start)
        owners = rows.reshape(-1)[at]
        lengths = np.diff(at, append=rows.size)
        inside = owners != 0
        at, lengths, owners = at[inside], lengths[inside], owners[inside].astype(np.int64)
        if window is not None:
            row, x = np.divmod(at, width)
            z, y = np.divmod(row, height)
            first = [part.start for part in window]
            at = ((z + first[0]) * shape[1] + y + first[1]) * shape[2] + x + first[2]
        return cls(at, at + lengths, owners)

    @classmethod
    def joined(cls, parts: Sequence[Runs]) -> Runs:
        """Return several sets of runs as one, in order of voxels; none may overlap."""
        starts = np.concatenate([part.starts for part in parts])
        order = np.argsort(starts, kind="stable")
        return cls(
            starts[order],
            np.concatenate([part.stops for part in parts])[order],
            np.concatenate([part.owners for part in parts])[order],
        )

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def voxels(self) -> int:
        """How many voxels the runs hold."""
        return int((self.stops - self.starts).sum())

    def chosen(self, which: npt.NDArray[Any] | slice) -> Runs:  # Any: bool or int numbers
        """Return some of the runs, chosen as from an array."""
        return Runs(self.starts[which], self.stops[which], self.owners[which])

    def owned_by(self, number: int) -> Runs:
        """Return the same runs as those of one object."""
        return Runs(self.starts, self.stops, np.full(len(self), number, dtype=np.int64))

    def by_owner(self) -> Iterator[tuple[int, Runs]]:
        """Yield each owner and its runs, ascending."""
        order = by_value(self.owners)
        owners = self.owners[order]
        firsts = np.flatnonzero(np.diff(owners, prepend=-1))
        for first, stop in pairwise([*firsts.tolist(), owners.size]):
            yield int(owners[first]), self.chosen(order[first:stop])

    def mended(self, width: int) -> Runs:
        """Return the runs with those that touch in a row put together."""
        if not len(self):
            return self
        is_new = np.ones(len(self), dtype=bool)
        is_new[1:] = (
            (self.starts[1:] != self.stops[:-1])
            | (self.starts[1:] % width == 0)
            | (self.owners[1:] != self.owners[:-1])
        )
        firsts = np.flatnonzero(is_new)
        lasts = np.append(firsts[1:], len(self)) - 1
        return Runs(self.starts[firsts], self.stops[lasts], self.owners[firsts])

    def inside(self, shape: Sequence[int], window: Window) -> Runs:
        """Return what of the runs lies in a window."""
        part, left, right = self._across(shape, window)
        starts = np.maximum(part.starts, left)
        stops = np.minimum(part.stops, right)
        return Runs(starts, stops, part.owners).chosen(starts < stops)

    def outside(self, shape: Sequence[int], window: Window) -> Runs:
        """Return what of the runs lies outside a window."""
        first, last = self._slices(shape, window)
        part, left, right = self._across(shape, window)
        is_other = self._is_other(shape, window, first, last)
        before = Runs(part.starts, np.minimum(part.stops, left), part.owners)
        after = Runs(np.maximum(part.starts, right), part.stops, part.owners)
        sides = [side.chosen(side.starts < side.stops) for side in (before, after)]
        others = [self.chosen(slice(0, first)), self.chosen(slice(last, None))]
        return Runs.joined([*others, self.chosen(slice(first, last)).chosen(is_other), *sides])

    def drawn(self, shape: Sequence[int], window: Window) -> npt.NDArray[Any]:
        """Return the owners of the voxels in a window, 0 where none, as int32 if they fit."""
        sizes = [part.stop - part.start for part in window]
        part = self.inside(shape, window)
        row, x = np.divmod(part.starts, shape[2])
        z, y = np.divmod(row, shape[1])
        first = [s.start for s in window]
        at = ((z - first[0]) * sizes[1] + y - first[1]) * sizes[2] + x - first[2]
        # Owners are added where runs begin and taken off where they end; no two begin together.
        is_narrow = not len(part) or part.owners.max() < 2**31
        owners = part.owners.astype(np.int32 if is_narrow else np.int64)
        steps = np.zeros(sizes[0] * sizes[1] * sizes[2] + 1, dtype=owners.dtype)
        steps[at] += owners
        steps[at + part.stops - part.starts] -= owners
        return np.cumsum(steps[:-1], dtype=steps.dtype).reshape(sizes)

    def _slices(self, shape: Sequence[int], window: Window) -> tuple[int, int]:
        """Return which runs lie in the slices of a window."""
        size = shape[1] * shape[2]
        ends = [window[0].start * size, window[0].stop * size]
        first, last = np.searchsorted(self.starts, ends)
        return int(first), int(last)

    def _is_other(
        self, shape: Sequence[int], window: Window, first: int, last: int
    ) -> npt.NDArray[np.bool_]:
        """Return which of the runs in the window's slices lie in other rows."""
        y = self.starts[first:last] // shape[2] % shape[1]
        return np.asarray((y < window[1].start) | (y >= window[1].stop))

    def _across(self, shape: Sequence[int], window: Window) -> tuple[Runs, Ints, Ints]:
        """Return the runs in the window's rows, and where the window begins and ends in them."""
        first, last = self._slices(shape, window)
        part = self.chosen(slice(first, last))
        part = part.chosen(~self._is_other(shape, window, first, last))
        row = part.starts // shape[2] * shape[2]
        return part, row + window[2].start, row + window[2].stop


def sparse(numbers: npt.NDArray[Any]) -> Runs | None:
    """Return the runs of a stack that is nearly empty; None where looking at all is as good.

    Eight bytes are looked at together, and only those that are not all 0 one by one.
    """
    together = 8 // numbers.dtype.itemsize
    if not numbers.flags.c_contiguous or numbers.size % together:
        return None
    words = numbers.reshape(-1).view(np.uint64)
    held = np.flatnonzero(words)
    if held.size > words.size * _SPARSE:
        return None
    values = words[held].view(numbers.dtype)
    at = (held[:, None] * together + np.arange(together)).reshape(-1)
    at, values = at[values != 0], values[values != 0]
    is_first = np.ones(at.size, dtype=bool)
    is_first[1:] = (
        (np.diff(at) != 1) | (values[1:] != values[:-1]) | (at[1:] % numbers.shape[2] == 0)
    )
    firsts = np.flatnonzero(is_first)
    starts = at[firsts]
    return Runs(starts, starts + np.diff(firsts, append=at.size), values[firsts].astype(np.int64))


def by_value(numbers: Ints) -> Ints:
    """Return the order that sorts numbers of at least 0, equal ones as they were."""
    # Sorting by digits, which is much faster, is done for 16 bits only.
    is_narrow = numbers.size and numbers.max() < 1 << 16
    return np.argsort(numbers.astype(np.uint16) if is_narrow else numbers, kind="stable")


def shared(one: Runs, other: Runs) -> dict[tuple[int, int], int]:
    """Return how many voxels each pair of owners shares, pairs that share none left out."""
    if not len(one) or not len(other):
        return {}
    edges = np.unique(np.concatenate((one.starts, one.stops, other.starts, other.stops)))
    owners = []
    for runs in (one, other):
        at = np.searchsorted(runs.starts, edges[:-1], side="right") - 1
        held = runs.owners[at]
        owners.append(np.where((at >= 0) & (edges[:-1] < runs.stops[at]), held, 0))
    return paired(owners[0], owners[1], np.diff(edges))


def tally(numbers: npt.NDArray[Any]) -> dict[int, int]:
    """Return how many voxels each number above 0 has, ascending."""
    flat = numbers.reshape(-1)
    at = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    firsts = np.concatenate((np.zeros(min(1, flat.size), np.int64), at))
    held, where = np.unique(flat[firsts], return_inverse=True)
    counts = np.zeros(held.size, dtype=np.int64)
    np.add.at(counts, where.reshape(-1), np.diff(firsts, append=flat.size))
    return {n: c for n, c in zip(held.tolist(), counts.tolist(), strict=True) if n}


def paired(
    one: npt.NDArray[Any], other: npt.NDArray[Any], counts: Ints | None = None
) -> dict[tuple[int, int], int]:
    """Return how often (or with which sum of `counts`) each pair of numbers above 0 occurs."""
    one, other = one.reshape(-1), other.reshape(-1)
    # Neighbours mostly have the same pair: only the first of a row of them is looked at.
    is_new = np.ones(one.size, dtype=bool)
    is_new[1:] = (one[1:] != one[:-1]) | (other[1:] != other[:-1])
    firsts = np.flatnonzero(is_new)
    if not firsts.size:
        return {}
    times = np.diff(firsts, append=one.size) if counts is None else np.add.reduceat(counts, firsts)
    held = (one[firsts] != 0) & (other[firsts] != 0)
    firsts, times = firsts[held], times[held]
    if not firsts.size:
        return {}
    top = int(other[firsts].max()) + 1
    code, where = np.unique(one[firsts].astype(np.int64) * top + other[firsts], return_inverse=True)
    total = np.zeros(code.size, dtype=np.int64)
    np.add.at(total, where.reshape(-1), times)
    return {divmod(pair, top): n for pair, n in zip(code.tolist(), total.tolist(), strict=True)}

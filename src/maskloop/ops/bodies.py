"""One object's runs with what is summed over its rows and found in its slices; cheap to patch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.ops.recist import longest
from maskloop.ops.runs import by_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.core.image import Image
    from maskloop.ops.recist import Planes
    from maskloop.ops.runs import Ints, Runs, Window

Table = npt.NDArray[Any]  # Any: rows of the types below
Floats = npt.NDArray[np.float64]

_ROW = np.dtype(
    [
        *((name, np.int64) for name in ("row", "left", "right", "voxels", "known")),
        *((name, np.float64) for name in ("total", "spread", "low", "high")),
    ]
)
_SLICE = np.dtype([("number", np.int64), ("length", np.float64), ("ends", np.float64, 4)])
_PART = 1 << 20  # voxels whose pixels are looked at together


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """The values of an image, to be asked for by voxel numbers of a stack.

    Parameters
    ----------
    flat : array
        All values, as they lie in memory.
    shape : tuple of int
        Of the stack.
    steps : tuple of int
        How many values apart neighbours along each axis of the stack lie.
    """

    flat: npt.NDArray[Any]
    shape: tuple[int, int, int]
    steps: tuple[int, int, int]

    @classmethod
    def of(cls, image: Image, planes: Planes) -> Pixels:
        """Return the values of an image without time axis and channels."""
        data = np.ascontiguousarray(image.data)
        stack = planes.stack(data)
        z, y, x = (step // data.itemsize for step in stack.strides)
        return cls(data.reshape(-1), planes.shape, (z, y, x))

    def of_runs(self, starts: Ints, lengths: Ints) -> Floats:
        """Return the values of runs, one after the other."""
        rows, x = np.divmod(starts, self.shape[2])
        z, y = np.divmod(rows, self.shape[1])
        first = z * self.steps[0] + y * self.steps[1] + x * self.steps[2]
        begins = np.cumsum(lengths) - lengths
        within = np.arange(int(lengths.sum())) - np.repeat(begins, lengths)
        at = np.repeat(first, lengths) + within * self.steps[2]
        return self.flat[at].astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """One object: where it lies, and the sums from which its measures follow.

    Sums are kept by row and axes by slice, so that a change costs what it touches; and always made
    by the same steps from the same voxels, so that a patched body equals a fresh one to the bit.

    Parameters
    ----------
    runs : Runs
        Its voxels.
    rows : structured array
        One entry a row that holds voxels: ``row`` (number in the stack), first and last column
        (``left``, ``right``), ``voxels``, how many of them have a finite value (``known``), their
        ``total``, squared deviations from the row's mean (``spread``), ``low`` and ``high``.
    slices : structured array
        One entry a slice that holds voxels: ``number``, ``length`` and ``ends`` of the longest
        line.
    """

    runs: Runs
    rows: Table
    slices: Table

    @property
    def voxels(self) -> int:
        """How many voxels the object has."""
        return int(self.rows["voxels"].sum())

    def window(self, height: int) -> Window:
        """Return the tight box in the stack, whose slices have `height` rows."""
        y = self.rows["row"] % height
        number = self.slices["number"]
        return (
            slice(int(number[0]), int(number[-1]) + 1),
            slice(int(y.min()), int(y.max()) + 1),
            slice(int(self.rows["left"].min()), int(self.rows["right"].max()) + 1),
        )

    def statistics(self) -> tuple[float, float, float, float] | None:
        """Return mean, standard deviation (population), least and greatest of the finite values."""
        rows = self.rows
        if not rows["known"].all():
            rows = rows[rows["known"] > 0]
        if not rows.size:
            return None
        known = rows["known"]
        count = int(known.sum())
        mean = float(rows["total"].sum()) / count
        apart = rows["total"] / known - mean
        spread = float(rows["spread"].sum()) + float((known * apart**2).sum())
        ends = float(rows["low"].min()), float(rows["high"].max())
        return mean, math.sqrt(spread / count), *ends


def bodies(runs: Runs, planes: Planes, pixels: Pixels | None) -> dict[int, Body]:
    """Return the body of every owner of some runs."""
    if not len(runs):
        return {}
    runs = runs.chosen(by_value(runs.owners))
    rows, owners = _rows(runs, planes.shape, pixels)
    slices, slice_owners = _slices(rows, owners, planes)
    found = {}
    numbers = np.unique(runs.owners)
    cuts = [
        np.searchsorted(held, np.append(numbers, numbers[-1] + 1))
        for held in (runs.owners, owners, slice_owners)
    ]
    for at, number in enumerate(numbers.tolist()):
        run, row, part = (slice(int(cut[at]), int(cut[at + 1])) for cut in cuts)
        found[number] = Body(runs.chosen(run), rows[row].copy(), slices[part].copy())
    return found


def patched(
    parts: Sequence[Body], runs: Runs, window: Window, planes: Planes, pixels: Pixels | None
) -> Body:
    """Return the body of some runs that differ from those of its parts in a window only.

    Parameters
    ----------
    parts : sequence of Body
        One or more objects that are now one.
    runs : Runs
        All of the new object, in order of voxels.
    window : tuple of slice
        Where it is not the sum of its parts; its whole rows are looked at anew.
    planes, pixels
        As for `bodies`.
    """
    shape = planes.shape
    size = shape[1] * shape[2]
    # Where objects are joined, any row may have voxels of both.
    first, last = (window[0].start, window[0].stop) if len(parts) == 1 else (0, shape[0])
    rows = _in_order([part.rows for part in parts])
    cuts = np.searchsorted(rows["row"], [first * shape[1], last * shape[1]])
    before, middle, after = rows[: cuts[0]], rows[cuts[0] : cuts[1]], rows[cuts[1] :]
    near = runs.chosen(slice(*np.searchsorted(runs.starts, [first * size, last * size])))
    is_kept = ~_in_window(middle["row"], shape, window)
    is_dirty = _in_window(near.starts // shape[2], shape, window)
    if len(parts) > 1:
        twice = rows["row"][1:][rows["row"][1:] == rows["row"][:-1]]
        is_kept &= ~np.isin(middle["row"], twice)
        is_dirty |= np.isin(near.starts // shape[2], twice)
    made, _ = _rows(near.chosen(is_dirty), shape, pixels)
    middle = _in_order([middle[is_kept], made])
    rows = np.concatenate((before, middle, after))
    slices = np.concatenate([part.slices for part in parts])
    number = slices["number"]
    is_old = (number < window[0].start) | (number >= window[0].stop)
    if len(parts) > 1:
        held, times = np.unique(number, return_counts=True)
        is_old &= np.isin(number, held[times == 1])
    slices = slices[is_old]
    is_new = ~np.isin(middle["row"] // shape[1], slices["number"])
    fresh, _ = _slices(middle[is_new], np.zeros(int(is_new.sum()), np.int64), planes)
    slices = np.concatenate((slices, fresh))
    return Body(runs, rows, slices[np.argsort(slices["number"], kind="stable")])


def _in_order(tables: Sequence[Table]) -> Table:
    """Return rows of several tables as one, in order of voxels."""
    if len(tables) == 1:
        return tables[0]
    rows = np.concatenate(tables)
    return rows[np.argsort(rows["row"], kind="stable")]


def _in_window(rows: Ints, shape: tuple[int, int, int], window: Window) -> npt.NDArray[np.bool_]:
    z, y = np.divmod(rows, shape[1])
    return np.asarray(
        (z >= window[0].start)
        & (z < window[0].stop)
        & (y >= window[1].start)
        & (y < window[1].stop)
    )


def _rows(runs: Runs, shape: tuple[int, int, int], pixels: Pixels | None) -> tuple[Table, Ints]:
    """Return what is summed over each row of each object, and the objects' numbers."""
    width = shape[2]
    number = runs.starts // width
    lengths = runs.stops - runs.starts
    is_first = np.ones(len(runs), dtype=bool)
    is_first[1:] = (np.diff(number) != 0) | (np.diff(runs.owners) != 0)
    firsts = np.flatnonzero(is_first)
    rows = np.zeros(firsts.size, dtype=_ROW)
    if not firsts.size:
        return rows, runs.owners
    lasts = np.append(firsts[1:], len(runs)) - 1
    rows["row"] = number[firsts]
    rows["left"] = runs.starts[firsts] % width
    rows["right"] = (runs.stops[lasts] - 1) % width
    rows["voxels"] = np.add.reduceat(lengths, firsts)
    if pixels is not None:
        ends = np.cumsum(rows["voxels"])
        begin = 0
        while begin < rows.size:
            base = ends[begin - 1] if begin else 0
            stop = max(begin + 1, int(np.searchsorted(ends, base + _PART, side="right")))
            held = slice(int(firsts[begin]), int(lasts[stop - 1]) + 1)
            values = pixels.of_runs(runs.starts[held], lengths[held])
            _add_values(rows[begin:stop], values)
            begin = stop
    return rows, runs.owners[firsts]


def _add_values(rows: Table, values: Floats) -> None:
    """Fill in what follows from the pixels, in place; `values` are those of all the rows."""
    begins = np.cumsum(rows["voxels"]) - rows["voxels"]
    is_known = np.isfinite(values)
    if is_known.all():
        rows["known"] = rows["voxels"]
        low = high = values
    else:
        rows["known"] = np.add.reduceat(is_known.astype(np.int64), begins)
        low, high = np.where(is_known, values, np.inf), np.where(is_known, values, -np.inf)
        values = np.where(is_known, values, 0.0)
    rows["total"] = np.add.reduceat(values, begins)
    means = rows["total"] / np.maximum(rows["known"], 1)
    apart = (values - np.repeat(means, rows["voxels"])) * is_known
    rows["spread"] = np.add.reduceat(apart * apart, begins)
    rows["low"] = np.minimum.reduceat(low, begins)
    rows["high"] = np.maximum.reduceat(high, begins)


def _slices(rows: Table, owners: Ints, planes: Planes) -> tuple[Table, Ints]:
    """Return the longest line of each slice of each object, and the objects' numbers."""
    number = rows["row"] // planes.shape[1]
    is_first = np.ones(rows.size, dtype=bool)
    is_first[1:] = (np.diff(number) != 0) | (np.diff(owners) != 0)
    firsts = np.flatnonzero(is_first)
    slices = np.zeros(firsts.size, dtype=_SLICE)
    if firsts.size:
        slices["number"] = number[firsts]
        group = np.cumsum(is_first)
        y = rows["row"] % planes.shape[1]
        slices["length"], slices["ends"] = longest(
            group, y, rows["left"], rows["right"], planes.gram
        )
    return slices, owners[firsts]

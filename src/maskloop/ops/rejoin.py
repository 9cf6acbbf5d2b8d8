"""Which connected pieces a change of a box leaves of the objects that touch it, found locally."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.ops.runs import Runs, paired, tally

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from maskloop.ops.runs import Window

Numbers = npt.NDArray[Any]  # Any: whichever integer type is wide enough

_MARGIN = 2  # voxels round the change at first
_FAR = 4  # an object's whole box is looked at where it is no larger than so many next tries


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """What became of the objects of one label.

    Parameters
    ----------
    window : tuple of slice
        Where `old` and `new` lie; outside it, nothing changed but whose the voxels are.
    old : array of int
        Numbers of the objects before.
    new : array of int
        Numbers of the pieces now, 1 to n.
    heirs : mapping of int to int
        The piece to which each old object's voxels outside the window belong; without an entry
        where it has none.
    """

    window: Window
    old: Numbers
    new: Numbers
    heirs: Mapping[int, int]

    def pairs(self) -> dict[tuple[int, int], int]:
        """Return how many voxels of the window each piece and each old object share."""
        return paired(self.new, self.old)


def connected(ids: Numbers) -> Numbers:
    """Return the connected pieces of every id (26 neighbours) of a stack, numbered from 1.

    Not with `cc3d`'s short way for two values: in 4.1.1 that fails on lines of a few voxels.
    """
    import cc3d

    found = cc3d.connected_components(np.ascontiguousarray(ids), connectivity=26)
    return np.asarray(found)


def connected_runs(runs: Runs, shape: Sequence[int]) -> Runs:
    """Return runs of labels as runs of their connected pieces (26 neighbours), numbered from 1.

    Costs what the runs cost, not what the volume does: two runs of neighbouring rows are joined
    where one, made longer by a voxel at both ends, meets the other.

    Parameters
    ----------
    runs : Runs
        In order of voxels; owners are labels.
    shape : sequence of int
        Of the stack.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    width, size = shape[2], shape[1] * shape[2]
    row = runs.starts // width
    y = row % shape[1]
    firsts, seconds = [], []
    for slices, rows in ((0, 1), (1, -1), (1, 0), (1, 1)):
        is_inside = (y + rows >= 0) & (y + rows < shape[1])
        shift = slices * size + rows * width
        begin = (row * width + shift)[is_inside]
        low = np.maximum(runs.starts[is_inside] + shift - 1, begin)
        high = np.minimum(runs.stops[is_inside] + shift + 1, begin + width)
        from_, to = np.searchsorted(runs.stops, low, "right"), np.searchsorted(runs.starts, high)
        counts = np.maximum(to - from_, 0)
        one = np.repeat(np.flatnonzero(is_inside), counts)
        other = np.repeat(from_ - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        is_same = runs.owners[one] == runs.owners[other]
        firsts.append(one[is_same])
        seconds.append(other[is_same])
    one, other = np.concatenate(firsts), np.concatenate(seconds)
    links = coo_array((np.ones(one.size, bool), (one, other)), shape=(len(runs), len(runs)))
    _, pieces = connected_components(links, directed=False)
    return Runs(runs.starts, runs.stops, pieces.astype(np.int64) + 1)


def rejoined(
    stack: Numbers,
    label: int,
    changed: Window,
    owners: Callable[[Window], Numbers],
    windows: Callable[[int], Window],
    *,
    most: int,
) -> Joined | None:
    """Return the connected pieces of a label round a change, and which old objects they continue.

    Pieces are looked for in a window round the change. An old object that leaves the window from
    one piece only still hangs together by it, whatever it is like outside; where it leaves from
    several, the window is widened until it does not, or until the object is inside altogether.

    Parameters
    ----------
    stack : array of int
        Ids after the change.
    label : int
        The id.
    changed : tuple of slice
        Where ids may have changed.
    owners : callable
        Numbers of the objects of the label before the change, in a window.
    windows : callable
        Tight box of an object before the change.
    most : int
        Voxels of the largest window to look at.

    Returns
    -------
    Joined or None
        None where a larger window would be needed.
    """
    near, window = (_grown(changed, margin, stack.shape) for margin in (1, _MARGIN))
    while True:
        if _size(window) > most:
            return None
        pieces = connected((stack[window] == label).view(np.uint8))
        old = owners(window)
        inner = _within(near, window)
        is_touched = np.zeros(int(pieces.max()) + 1, dtype=bool)
        is_touched[list(tally(pieces[inner]))] = True
        touched = set(tally(old[inner]))
        leaving = _leaving(pieces, old, window, stack.shape)
        exits: dict[int, int] = {}
        unsettled = set()
        for piece, number in leaving:
            if (
                is_touched[piece]
                and number in touched
                and not _holds(window, windows(number))
                and exits.setdefault(number, piece) != piece
            ):
                unsettled.add(number)
        if not unsettled:
            break
        wider = _grown(window, _MARGIN + round(_size(window) ** (1 / 3) / 4), stack.shape)
        whole = _holding([window, *(windows(number) for number in unsettled)])
        window = whole if _size(whole) <= _FAR * _size(wider) else wider
    group = np.cumsum(is_touched) * is_touched
    for piece, number in paired(pieces, old):
        # What the change does not reach hangs on outside the window.
        if not is_touched[piece] and number in exits:
            group[piece] = group[exits[number]]
    is_kept = np.zeros(int(old.max()) + 1, dtype=bool)
    is_kept[list(touched)] = True
    old = old * is_kept[old]
    heirs = {number: int(group[piece]) for number, piece in exits.items()}
    return _tight(Joined(window, old, group[pieces], heirs), changed)


def _tight(found: Joined, changed: Window) -> Joined:
    """Return the same in the changed window alone, where no piece was parted or joined."""
    links = {*found.pairs(), *((piece, number) for number, piece in found.heirs.items())}
    pieces, numbers = ([link[side] for link in links] for side in (0, 1))
    if len(set(pieces)) < len(pieces) or len(set(numbers)) < len(numbers):
        return found
    inner = _within(changed, found.window)
    heirs = {number: piece for piece, number in links}
    return Joined(changed, found.old[inner], found.new[inner], heirs)


def _leaving(
    pieces: Numbers, old: Numbers, window: Window, shape: Sequence[int]
) -> set[tuple[int, int]]:
    """Return which piece of which old object meets which side of the window."""
    found: set[tuple[int, int]] = set()
    for axis, (part, length) in enumerate(zip(window, shape, strict=True)):
        sides = [0] if part.start > 0 else []
        sides += [-1] if part.stop < length else []
        for side in sides:
            one, other = (np.take(a, side, axis=axis) for a in (pieces, old))
            found.update(paired(one, other))
    return found


def _grown(window: Window, margin: int, shape: Sequence[int]) -> Window:
    z, y, x = (
        slice(max(0, part.start - margin), min(length, part.stop + margin))
        for part, length in zip(window, shape, strict=True)
    )
    return z, y, x


def _within(inner: Window, outer: Window) -> Window:
    z, y, x = (
        slice(a.start - b.start, a.stop - b.start) for a, b in zip(inner, outer, strict=True)
    )
    return z, y, x


def _holding(windows: Sequence[Window]) -> Window:
    z, y, x = (
        slice(min(w[axis].start for w in windows), max(w[axis].stop for w in windows))
        for axis in range(3)
    )
    return z, y, x


def _holds(outer: Window, inner: Window) -> bool:
    return all(a.start <= b.start and b.stop <= a.stop for a, b in zip(outer, inner, strict=True))


def _size(window: Window) -> int:
    size = 1
    for part in window:
        size *= part.stop - part.start
    return size

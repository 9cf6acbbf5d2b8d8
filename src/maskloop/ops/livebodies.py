"""The bodies of all objects of a mask, kept up to date from the boxes that changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.ops.bodies import Body, bodies, patched
from maskloop.ops.measure import objects_of
from maskloop.ops.rejoin import Joined, rejoined
from maskloop.ops.runs import Runs, shared, tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from maskloop.ops.bodies import Pixels
    from maskloop.ops.measure import By
    from maskloop.ops.recist import Planes
    from maskloop.ops.runs import Window

    Listener = Callable[[int, Joined, Mapping[int, int]], None]

_MOST = 1 << 24  # voxels of a window from which on all objects are found anew


@dataclass(frozen=True, slots=True)
class Update:
    """Numbers of the objects that a change altered, made and ended.

    Parameters
    ----------
    changed, added, gone : tuple of int
        Ascending.
    is_whole : bool
        Whether the change was so large that all objects were found anew.
    """

    changed: tuple[int, ...] = ()
    added: tuple[int, ...] = ()
    gone: tuple[int, ...] = ()
    is_whole: bool = False


@dataclass(slots=True)
class _Moved:
    """The numbers of one update, as they are gathered."""

    changed: set[int] = field(default_factory=set)
    added: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    is_whole: bool = False

    def told(self) -> Update:
        changed, added, gone = (
            tuple(sorted(numbers)) for numbers in (self.changed, self.added, self.gone)
        )
        return Update(changed, added, gone, self.is_whole)


@dataclass(frozen=True, slots=True, eq=False)
class Living:
    """One object: its label, its body and its tight box in the stack."""

    label: int
    body: Body
    window: Window


class LiveBodies:
    """All objects of a stack of ids, by number; a number stays with its object as long as it lives.

    Where a change parts an object, the largest part keeps the number; where it joins some, the one
    that brought most voxels gives it. An object that ended and comes back as it was, by undo, has
    its number again.

    Parameters
    ----------
    stack : array of int
        Ids, as `Planes.stack` shows them.
    planes, pixels
        As for `bodies`.
    by : {"pieces", "labels"}
        As for `measure`.
    """

    def __init__(
        self, stack: npt.NDArray[Any], planes: Planes, pixels: Pixels | None, *, by: By
    ) -> None:
        self.by: By = by
        self.stack = stack
        self._planes = planes
        self._pixels = pixels
        self._living: dict[int, Living] = {}
        self._ended: dict[tuple[int, int, int], int] = {}
        self._next = 1
        self._boxes: npt.NDArray[np.int64] | None = None
        runs, labels = objects_of(stack, by=by)
        for number, body in bodies(runs, planes, pixels).items():
            self._put(number, labels[number], body)

    def __getitem__(self, number: int) -> Living:
        return self._living[number]

    def __contains__(self, number: object) -> bool:
        return number in self._living

    def __len__(self) -> int:
        return len(self._living)

    @property
    def numbers(self) -> list[int]:
        """The objects' numbers, ascending."""
        return sorted(self._living)

    @property
    def labels(self) -> dict[int, int]:
        """The label of each object."""
        return {number: living.label for number, living in self._living.items()}

    def runs(self) -> Runs:
        """Return the runs of all objects, in order of voxels."""
        return _joined([self._living[n].body.runs.owned_by(n) for n in self._living])

    def owners(self, window: Window, label: int | None = None) -> npt.NDArray[Any]:
        """Return the numbers of the objects (of one label) in a window, 0 where there is none."""
        near = self._near(window)
        if label is not None:
            near = [n for n in near if self._living[n].label == label]
        runs = [self._living[n].body.runs.owned_by(n) for n in near]
        return self._drawn(runs, window)

    def update(self, window: Window, listener: Listener | None = None) -> Update:
        """Follow a change of the stack in a window.

        Parameters
        ----------
        window : tuple of slice
            Where ids changed; nothing else is looked at, but for what must be to tell whether an
            object still hangs together.
        listener : callable, optional
            Told, label by label, what became of the objects and which numbers the pieces have;
            not where the update `is_whole`.
        """
        moved = _Moved()
        size = int(np.prod([part.stop - part.start for part in window]))
        if size and not (size <= _MOST and self._follow(window, moved, listener)):
            moved = self._find_anew()
        return moved.told()

    def _follow(self, window: Window, moved: _Moved, listener: Listener | None) -> bool:
        """Follow a change; return False, with nothing done, where it reaches too far."""
        runs = [
            self._living[n].body.runs.owned_by(self._living[n].label) for n in self._near(window)
        ]
        was, now = self._drawn(runs, window), self.stack[window]
        is_other = was != now
        labels = sorted({*tally(was * is_other), *tally(now * is_other)})
        found = {label: self._pieces(label, window) for label in labels}
        if any(joined is None for joined in found.values()):
            return False
        for label, joined in found.items():
            if joined is not None:
                self._settle(label, joined, moved, listener)
        return True

    def _pieces(self, label: int, window: Window) -> Joined | None:
        if self.by == "pieces":
            return rejoined(
                self.stack,
                label,
                window,
                lambda part: self.owners(part, label),
                lambda number: self._living[number].window,
                most=_MOST,
            )
        old = self.owners(window, label)
        new = (self.stack[window] == label).astype(np.int32)
        number = next((n for n, living in self._living.items() if living.label == label), None)
        if number is None:
            return Joined(window, old, new, {})
        left = self._living[number].body.voxels - np.count_nonzero(old)
        return Joined(window, old, new, {number: 1} if left or new.any() else {})

    def _settle(self, label: int, found: Joined, moved: _Moved, listener: Listener | None) -> None:
        """Put the objects of one label in the place of those before."""
        shape = self._planes.shape
        olds = {*tally(found.old), *found.heirs}
        inside = dict(Runs.of(found.new, shape, found.window).by_owner())
        numbers = self._numbered(label, found, inside)
        if listener is not None:
            listener(label, found, numbers)
        before = {old: self._living[old] for old in olds}
        for old in olds - set(numbers.values()):
            moved.gone.add(old)
            self._end(old)
        for piece, number in numbers.items():
            heirs = [old for old, heir in found.heirs.items() if heir == piece]
            if heirs == [number] and np.array_equal(found.old == number, found.new == piece):
                continue
            here = inside.get(piece, Runs.none())
            if heirs:
                parts = [before[old].body for old in heirs]
                rest = [part.runs.outside(shape, found.window) for part in parts]
                whole = _joined([*rest, here]).owned_by(number).mended(shape[2])
                body = patched(parts, whole, found.window, self._planes, self._pixels)
            else:
                (body,) = bodies(here, self._planes, self._pixels).values()
            (moved.changed if number in before else moved.added).add(number)
            self._put(number, label, body)

    def _numbered(self, label: int, found: Joined, inside: Mapping[int, Runs]) -> dict[int, int]:
        """Return the number of each piece: that of the old object it shares most voxels with."""
        counts = found.pairs()
        held = tally(found.old)
        for old, piece in found.heirs.items():
            outside = self._living[old].body.voxels - held.get(old, 0)
            counts[piece, old] = counts.get((piece, old), 0) + outside
        numbers = _matched(counts)
        for piece in sorted(set(inside) - set(numbers)):
            numbers[piece] = self._fresh(label, inside[piece])
        return numbers

    def _fresh(self, label: int, runs: Runs) -> int:
        """Return a new number, or that of an object that ended and is back as it was."""
        number = self._ended.pop(_key(label, runs), None)
        if number is not None and number not in self._living:
            return number
        number, self._next = self._next, self._next + 1
        return number

    def _find_anew(self) -> _Moved:
        """Find all objects; each keeps the number of the old one it shares most voxels with."""
        old, before = self.runs(), self._living
        runs, labels = objects_of(self.stack, by=self.by)
        counts = {
            (piece, number): count
            for (piece, number), count in shared(runs, old).items()
            if labels[piece] == before[number].label
        }
        numbers = _matched(counts)
        moved = _Moved(is_whole=True)
        self._living = {}
        for piece, body in bodies(runs, self._planes, self._pixels).items():
            number = numbers.get(piece)
            if number is None:
                number = self._fresh(labels[piece], body.runs)
                moved.added.add(number)
            elif not _equal(body.runs, before[number].body.runs):
                moved.changed.add(number)
            self._put(number, labels[piece], body)
        moved.gone = set(before) - set(self._living)
        for number in moved.gone:
            self._ended[_key(before[number].label, before[number].body.runs)] = number
        return moved

    def _put(self, number: int, label: int, body: Body) -> None:
        self._living[number] = Living(label, body, body.window(self._planes.shape[1]))
        self._next = max(self._next, number + 1)
        self._boxes = None

    def _end(self, number: int) -> None:
        living = self._living.pop(number)
        self._ended[_key(living.label, living.body.runs)] = number
        self._boxes = None

    def _near(self, window: Window) -> list[int]:
        """Return the objects whose boxes meet a window."""
        if self._boxes is None:
            rows = [
                (n, *(e for s in living.window for e in (s.start, s.stop)))
                for n, living in self._living.items()
            ]
            self._boxes = np.array(rows, dtype=np.int64).reshape(-1, 7)
        boxes = self._boxes
        is_near = np.ones(len(boxes), dtype=bool)
        for axis, part in enumerate(window):
            is_near &= (boxes[:, 1 + 2 * axis] < part.stop) & (boxes[:, 2 + 2 * axis] > part.start)
        return [int(n) for n in boxes[is_near, 0]]

    def _drawn(self, runs: list[Runs], window: Window) -> npt.NDArray[Any]:
        inside = [part.inside(self._planes.shape, window) for part in runs]
        return _joined(inside).drawn(self._planes.shape, window)


def _joined(parts: list[Runs]) -> Runs:
    return Runs.joined(parts) if parts else Runs.none()


def _matched(counts: Mapping[tuple[int, int], int]) -> dict[int, int]:
    """Return which number each piece keeps; each number once, the most voxels first."""
    numbers: dict[int, int] = {}
    taken: set[int] = set()
    ordered: Iterable[tuple[tuple[int, int], int]] = sorted(
        counts.items(), key=lambda item: (-item[1], item[0])
    )
    for (piece, old), _ in ordered:
        if piece not in numbers and old not in taken:
            numbers[piece] = old
            taken.add(old)
    return numbers


def _equal(one: Runs, other: Runs) -> bool:
    return np.array_equal(one.starts, other.starts) and np.array_equal(one.stops, other.stops)


def _key(label: int, runs: Runs) -> tuple[int, int, int]:
    """Return what tells an object from others, were it to come back."""
    return label, runs.voxels, hash(runs.starts.tobytes() + runs.stops.tobytes())

"""What a model drew, object by object, and how much of it the objects of now still hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from maskloop.ops.runs import Runs, paired, shared, tally

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from maskloop.ops.rejoin import Joined, Numbers


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """The objects of a mask as a model left it.

    Parameters
    ----------
    runs : Runs
        Of all its objects, in order of voxels; owners are the draft's own numbers.
    labels : mapping of int to int
        Label of each.
    sizes : mapping of int to int
        Voxels of each.
    """

    runs: Runs
    labels: Mapping[int, int]
    sizes: Mapping[int, int]

    @classmethod
    def of(cls, runs: Runs, labels: Mapping[int, int]) -> Draft:
        """Return the draft whose objects have these runs and labels."""
        count = np.bincount(
            runs.owners, weights=runs.stops - runs.starts
        )  # sums below 2**53 are exact
        return cls(runs, dict(labels), {number: int(count[number]) for number in labels})


class Overlap:
    """How many voxels each object shares with each of the draft's objects of its label.

    What the draft had and nobody has now is told of the object that holds most of what is left of
    the draft's object, of the one with the lowest number on a tie.

    Parameters
    ----------
    draft : Draft
        What to compare with.
    runs : Runs
        Of all objects now, in order of voxels.
    labels : mapping of int to int
        Label of each object.
    """

    def __init__(self, draft: Draft, runs: Runs, labels: Mapping[int, int]) -> None:
        self.draft = draft
        self._parts: dict[int, Counter[int]] = {}
        self._holders: dict[int, dict[int, int]] = {number: {} for number in draft.labels}
        parts: dict[int, Counter[int]] = {}
        for (old, number), count in shared(draft.runs, runs).items():
            if draft.labels[old] == labels[number]:
                parts.setdefault(number, Counter())[old] = count
        for number, held in parts.items():
            self._put(number, held)

    def change(self, number: int, voxels: int) -> tuple[int, int]:
        """Return how many voxels of an object are not the draft's, and how many it lost."""
        held = self._parts.get(number, Counter())
        removed = 0
        for old in held:
            holders = self._holders[old]
            if max(holders, key=lambda n: (holders[n], -n)) == number:
                removed += self.draft.sizes[old] - sum(holders.values())
        return voxels - held.total(), removed

    @property
    def lost(self) -> list[int]:
        """Numbers of the draft's objects of which nothing is left."""
        return [old for old, holders in self._holders.items() if not holders]

    def held(self, number: int) -> int:
        """Return how many voxels of an object are the draft's."""
        return self._parts.get(number, Counter()).total()

    def move(
        self, label: int, found: Joined, numbers: Mapping[int, int], shape: Sequence[int]
    ) -> None:
        """Follow a change of one label.

        Parameters
        ----------
        label : int
            The id.
        found : Joined
            What the change came to.
        numbers : mapping of int to int
            Object number of each piece.
        shape : tuple of int
            Of the stack.
        """
        wanted = self.draft.runs.inside(shape, found.window)
        is_label = np.array([self.draft.labels[n] == label for n in wanted.owners.tolist()], bool)
        drawn = wanted.chosen(is_label).drawn(shape, found.window)
        before, after = _counted(found.old, drawn), _counted(found.new, drawn)
        olds = {*tally(found.old), *found.heirs}
        parts = {numbers[piece]: held for piece, held in after.items()}
        for old in olds:
            outside = self._parts.get(old, Counter()) - before.get(old, Counter())
            if outside:
                heir = numbers[found.heirs[old]]
                parts[heir] = parts.get(heir, Counter()) + outside
        for number in {*olds, *numbers.values()}:
            self._drop(number)
        for number, held in parts.items():
            self._put(number, held)

    def _put(self, number: int, held: Counter[int]) -> None:
        self._parts[number] = held
        for old, count in held.items():
            self._holders[old][number] = count

    def _drop(self, number: int) -> None:
        for old in self._parts.pop(number, Counter()):
            del self._holders[old][number]


def _counted(numbers: Numbers, drawn: Numbers) -> dict[int, Counter[int]]:
    """Return how many voxels each number shares with each of the draft's objects."""
    found: dict[int, Counter[int]] = {}
    for (number, old), count in paired(numbers, drawn).items():
        found.setdefault(number, Counter())[old] = count
    return found

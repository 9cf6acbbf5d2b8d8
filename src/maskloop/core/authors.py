"""Who each voxel is from, and which changes are refused because of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of, shifted
from maskloop.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from maskloop.core.geometry import Box

Ids = npt.NDArray[Any]  # Any: labels come in every integer width
Region = npt.NDArray[np.bool_]
Who = Literal["", "person", "tool", "model"]

_MOST = 255  # author numbers are kept in one byte a voxel; 0 is nobody known


@dataclass(frozen=True, slots=True)
class Author:
    """Who changed voxels.

    Parameters
    ----------
    number : int
        1 to 255; what the case's array of authors holds.
    name : str
        The person, or the model; empty where a person gave no name.
    kind : {"person", "tool", "model"}
        Painted by the person, computed by a tool that the person ran, or found by a model.
    """

    number: int
    name: str
    kind: Who


class Authors(Mapping[int, Author]):
    """The authors of one case, by number, in the order in which they first changed something.

    Examples
    --------
    >>> authors = Authors()
    >>> authors.number_of("anna", "person"), authors.number_of("phantom-liver", "model")
    (1, 2)
    >>> authors.by_hand[[0, 1, 2]]
    array([False,  True, False])
    """

    def __init__(self) -> None:
        self._rows: dict[int, Author] = {}
        self.by_hand: Region = np.zeros(_MOST + 1, dtype=bool)

    def __getitem__(self, key: int) -> Author:
        return self._rows[key]

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def number_of(self, name: str, kind: Who) -> int:
        """Return an author's number, given out at the first call; 0 where the kind is empty.

        Raises
        ------
        InputError
            If 255 authors have numbers already.
        """
        if not kind:
            return 0
        for row in self._rows.values():
            if (row.name, row.kind) == (name, kind):
                return row.number
        number = max(self._rows, default=0) + 1
        if number > _MOST:
            msg = (
                f"expected at most {_MOST} authors in one case, got one more, {name!r}; export the "
                "mask and begin a new case with it"
            )
            raise InputError(msg)
        self.take(Author(number, name, kind))
        return number

    def take(self, author: Author) -> None:
        """Add an author whose number is known, such as from a journal."""
        if author.number:
            self._rows[author.number] = author
            self.by_hand[author.number] = author.kind == "person"


@dataclass(frozen=True, slots=True, eq=False)
class Refused:
    """Voxels that a change wanted and did not get.

    Parameters
    ----------
    box : tuple of slice
        Where they lie, one slice an array axis of the mask.
    region : array of bool
        Those voxels, of the box's shape.
    wanted : array of unsigned int
        The ids that the change wanted in the box.
    by_hand, locked, changed_since : int
        How many voxels stayed because a person painted them, because their label or the wanted one
        is locked, and because they changed while the work ran; each voxel counts once.
    """

    box: Box
    region: Region
    wanted: Ids
    by_hand: int = 0
    locked: int = 0
    changed_since: int = 0

    @property
    def count(self) -> int:
        """How many voxels stayed as they were."""
        return self.by_hand + self.locked + self.changed_since

    @property
    def words(self) -> str:
        """What a person should read."""
        parts = [
            (self.by_hand, "painted by hand"),
            (self.locked, "of locked labels"),
            (self.changed_since, "changed meanwhile"),
        ]
        listed = " and ".join(f"{count:,} voxels {text}" for count, text in parts if count)
        return f"{listed} stayed as they were" if listed else ""

    def moved(self, starts: Iterable[int]) -> Refused:
        """Return the same, told of a larger array in which the box begins at `starts`."""
        return replace(self, box=shifted(self.box, starts))


def settled(
    before: Ids,
    wanted: Ids,
    *,
    hand: Region | None = None,
    locked: Iterable[int] = (),
    since: Ids | None = None,
) -> tuple[Ids, Refused | None]:
    """Return what a change may make of some voxels, and what it was refused.

    Parameters
    ----------
    before, wanted : array of int
        Ids now and as the change wants them, of one shape.
    hand : array of bool, optional
        Voxels that must stay because a person painted them.
    locked : iterable of int
        Ids that neither lose nor gain a voxel.
    since : array of int, optional
        Ids when the work began: voxels that differ from them now must stay.

    Returns
    -------
    ids : array of int
        `wanted` itself where nothing was refused, else a copy.
    refused : Refused or None
        With a box that is tight within the given arrays.
    """
    wants = wanted != before
    is_locked = np.zeros(before.shape, dtype=bool)
    for number in locked:
        is_locked |= (before == number) | (wanted == number)
    is_locked &= wants
    by_hand = np.zeros_like(wants) if hand is None else hand & wants & ~is_locked
    meanwhile = np.zeros_like(wants)
    if since is not None:
        meanwhile = (before != since) & wants & ~is_locked & ~by_hand
    region = is_locked | by_hand | meanwhile
    box = box_of(region, 1)
    if box is None:
        return wanted, None
    ids = wanted.copy()
    ids[region] = before[region]
    counts = [int(np.count_nonzero(part)) for part in (by_hand, is_locked, meanwhile)]
    return ids, Refused(box, region[box].copy(), wanted[box].copy(), *counts)

"""Panoptic quality: how well segments of things and stuff are found and outlined, in one number.

A. Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4: segments of one class match where
their intersection over union is above 0.5, which no two segments can be with the same one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core.errors import InputError
from maskloop.ops.scores import joint_counts

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy.typing as npt

    Ids = npt.NDArray[Any]  # Any: whichever unsigned type holds the ids

_MATCH = 0.5


@dataclass(frozen=True, slots=True)
class Quality:
    """How well the segments of one class were found; add those of several pictures.

    Parameters
    ----------
    hits : int
        Segments that match one of the truth.
    overlap : float
        Sum of their intersections over unions.
    spare : int
        Segments that match none.
    missed : int
        Segments of the truth that none matches.
    """

    hits: int = 0
    overlap: float = 0.0
    spare: int = 0
    missed: int = 0

    def __add__(self, other: Quality) -> Quality:
        return Quality(
            self.hits + other.hits,
            self.overlap + other.overlap,
            self.spare + other.spare,
            self.missed + other.missed,
        )

    @property
    def pq(self) -> float:
        """Panoptic quality, `sq` times `rq`; NaN where there is no segment at all."""
        total = self.hits + self.spare / 2 + self.missed / 2
        return self.overlap / total if total else math.nan

    @property
    def sq(self) -> float:
        """Segmentation quality: the mean overlap of hits; NaN without one."""
        return self.overlap / self.hits if self.hits else math.nan

    @property
    def rq(self) -> float:
        """Recognition quality: the F1 score of segments; NaN where there is none at all."""
        total = self.hits + self.spare / 2 + self.missed / 2
        return self.hits / total if total else math.nan


def panoptic_quality(
    found: Ids,
    truth: Ids,
    *,
    found_classes: Mapping[int, str],
    truth_classes: Mapping[int, str],
    stuff: Collection[str] = (),
    void: npt.NDArray[np.bool_] | None = None,
    crowd: Collection[int] = (),
) -> dict[str, Quality]:
    """Return the quality of each class that occurs.

    Parameters
    ----------
    found, truth : array of unsigned int
        One id a segment, one shape; 0 is no segment.
    found_classes, truth_classes : mapping of int to str
        Class of each id; an id of no class is no segment.
    stuff : collection of str
        Classes of which all ids of a picture are one segment.
    void : bool array, optional
        Where the truth is not known: it counts for no union, and a segment that matches none and
        lies more than half there is not spare.
    crowd : collection of int
        Ids of the truth that stand for several things: they are not missed, and a segment of their
        class that matches none and lies more than half in them and `void` is not spare.

    Raises
    ------
    InputError
        If the shapes differ.
    """
    if found.shape != truth.shape or (void is not None and void.shape != truth.shape):
        msg = f"expected ids of one shape, got {found.shape} and {truth.shape}; resample one"
        raise InputError(msg)
    mine, my_class = _segments(found, found_classes, stuff, ())
    theirs, their_class = _segments(truth, truth_classes, stuff, crowd)
    nowhere = max(their_class, default=0) + 1
    if void is not None:
        theirs = np.where(void, nowhere, theirs)
    counts = joint_counts(mine, theirs)
    areas: dict[int, int] = {}
    true_areas: dict[int, int] = {}
    for (a, b), n in counts.items():
        areas[a] = areas.get(a, 0) + n
        true_areas[b] = true_areas.get(b, 0) + n
    result = dict.fromkeys([*my_class.values(), *their_class.values()], Quality())
    taken: set[int] = set()
    met: set[int] = set()
    for (a, b), common in counts.items():
        if a not in my_class or b in crowd or my_class[a] != their_class.get(b):
            continue
        whole = areas[a] + true_areas[b] - common - counts.get((a, nowhere), 0)
        if common / whole > _MATCH:
            taken.add(a)
            met.add(b)
            result[my_class[a]] += Quality(1, common / whole)
    for a in set(areas) & set(my_class) - taken:
        like = {b for b in crowd if their_class.get(b) == my_class[a]} | {nowhere}
        if sum(counts.get((a, b), 0) for b in like) / areas[a] <= _MATCH:
            result[my_class[a]] += Quality(spare=1)
    for b in set(true_areas) & set(their_class) - met - set(crowd):
        result[their_class[b]] += Quality(missed=1)
    return result


def _segments(
    ids: Ids, classes: Mapping[int, str], stuff: Collection[str], crowd: Collection[int]
) -> tuple[Ids, dict[int, str]]:
    """Return the map with one id for each kind of stuff and none for ids of no class."""
    highest = int(ids.max()) if ids.size else 0
    lookup = np.zeros(highest + 1, dtype=np.uint32)
    first: dict[str, int] = {}
    for i in sorted(classes):
        if not 0 < i <= highest:
            continue
        name = classes[i]
        lookup[i] = first.setdefault(name, i) if name in stuff and i not in crowd else i
    return lookup[ids], {int(i): classes[int(i)] for i in np.unique(lookup) if i}

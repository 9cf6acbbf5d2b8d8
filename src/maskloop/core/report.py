"""What a review leaves open: slices not looked at, candidates not decided, drafts shown early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from maskloop.core.candidate import Candidate


def as_ranges(indices: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Return ascending indices as (first, last) of their unbroken rows.

    Examples
    --------
    >>> as_ranges([3, 4, 5, 9])
    ((3, 5), (9, 9))
    """
    found: list[tuple[int, int]] = []
    for index in indices:
        if found and index == found[-1][1] + 1:
            found[-1] = (found[-1][0], index)
        else:
            found.append((index, index))
    return tuple(found)


def ranges_in_words(indices: Iterable[int], *, most: int = 8) -> str:
    """Return indices in words: ``"3 to 5, 9"``; rows past `most` are counted only."""
    rows = as_ranges(indices)
    words = [str(a) if a == b else f"{a} to {b}" for a, b in rows[:most]]
    if len(rows) > most:
        left = sum(b - a + 1 for a, b in rows[most:])
        words.append(f"and {left} more")
    return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Showing:
    """When the draft was shown to a reader who searched first.

    Parameters
    ----------
    time : float
        Seconds since 1970, UTC.
    who : str
        The reader.
    anyway : bool
        Whether slices were still unseen, and the reader asked for the draft all the same.
    unseen : int
        How many slices those were.
    """

    time: float
    who: str = ""
    anyway: bool = False
    unseen: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What a review leaves open at one moment, for a receipt.

    Parameters
    ----------
    axis : int
        The axis that was looked along longest.
    within : range
        Slices of it that count.
    unseen : tuple of int
        Those of them that were not looked at.
    seen_after_s : float
        From how many seconds on screen a slice counts as looked at.
    seconds : mapping of str to float
        Seconds on screen along that axis, by window.
    candidates : tuple of Candidate
        All of them.
    showings : tuple of Showing
        When a hidden draft was shown.
    is_searching : bool
        Whether the draft is hidden still.
    """

    axis: int
    within: range
    unseen: tuple[int, ...]
    seen_after_s: float
    seconds: Mapping[str, float]
    candidates: tuple[Candidate, ...]
    showings: tuple[Showing, ...]
    is_searching: bool

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know before the mask is relied on; empty if nothing is left."""
        words = []
        if self.unseen:
            what = "slice" if len(self.unseen) == 1 else "slices"
            of = f"{len(self.unseen)} of slices {self.within[0]} to {self.within[-1]}"
            words.append(
                f"not looked at: {what} {ranges_in_words(self.unseen)} of axis {self.axis} ({of})"
            )
        waiting = sorted(
            (one for one in self.candidates if one.status == "open"), key=lambda one: -one.peak
        )
        if waiting:
            first = [f"{c.name} {c.peak:.2f} at {c.centre}" for c in waiting[:3]]
            more = f" and {len(waiting) - 3} more" if len(waiting) > 3 else ""
            count = "1 candidate" if len(waiting) == 1 else f"{len(waiting)} candidates"
            words.append(
                f"{count} below the model's threshold, not decided: {', '.join(first)}{more}"
            )
        words += [
            f"the draft was shown before {_slices(one.unseen)} had been looked at"
            for one in self.showings
            if one.anyway
        ]
        if self.is_searching:
            words.append("the search was not ended: the draft is hidden from the reader still")
        return tuple(words)

    def to_json(self) -> dict[str, Any]:  # Any: plain JSON values
        """Return JSON-ready values, without the readers' names."""
        states = [one.status for one in self.candidates]
        return {
            "axis": self.axis,
            "slices": [self.within.start, self.within.stop - 1],
            "unseen": [list(pair) for pair in as_ranges(self.unseen)],
            "seen_after_s": self.seen_after_s,
            "seconds": {name: round(s, 1) for name, s in self.seconds.items()},
            "candidates": {
                "open": states.count("open"),
                "accepted": states.count("accepted"),
                "dismissed": states.count("dismissed"),
            },
            "undecided": [
                {"number": c.number, "name": c.name, "peak": c.peak, "centre": list(c.centre)}
                for c in self.candidates
                if c.status == "open"
            ],
            "search_first": [
                {"time": one.time, "anyway": one.anyway, "unseen": one.unseen}
                for one in self.showings
            ],
            "is_searching": self.is_searching,
        }


def _slices(count: int) -> str:
    return "1 slice" if count == 1 else f"{count} slices"

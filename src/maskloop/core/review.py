"""The reader's safety net: candidates a model left out, slices looked at, what was shown when."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.candidate import Candidate, Decision
from maskloop.core.errors import InputError, StorageError, UnknownNameError
from maskloop.core.files import put
from maskloop.core.report import Report, Showing, as_ranges, ranges_in_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from maskloop.core.labels import LabelTable, Status

Ids = npt.NDArray[Any]  # Any: labels come in every integer width
Region = npt.NDArray[np.bool_]

__all__ = [
    "SEEN_AFTER_S",
    "Candidate",
    "Decision",
    "Report",
    "Review",
    "Showing",
    "accepted",
    "as_ranges",
    "edited",
    "ranges_in_words",
    "rejected",
    "with_status",
]

FILE = "review.json"
SEEN_AFTER_S = 0.3
"""Seconds on screen, all visits together, after which a slice counts as looked at."""

_DUE_S = 1.0
_VERSION = 1


class Review:
    """What a reader did beside the drawing: candidates decided, slices seen, drafts shown.

    Kept as ``review.json`` in the case folder; it holds no patient data. Any thread may call it.

    Parameters
    ----------
    folder : Path, optional
        The case folder; None keeps the review in memory.
    shape : sequence of int, optional
        Slices along each axis of the case's grid; `unseen` needs it where no range is given.
    is_read_only : bool
        Whether `save` leaves the file alone.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        shape: Sequence[int] | None = None,
        is_read_only: bool = False,
    ) -> None:
        self.folder = folder
        self.shape: tuple[int, ...] | None = None if shape is None else tuple(map(int, shape))
        self.is_read_only = is_read_only
        self.seen_after_s = SEEN_AFTER_S
        self.notice = ""
        self.search_began: float = 0.0
        self.showings: tuple[Showing, ...] = ()
        self._candidates: dict[int, Candidate] = {}
        self._seconds: dict[int, dict[str, dict[int, float]]] = {}
        self._lock = threading.RLock()
        self._writing = threading.Lock()
        self._is_changed = False
        self._saved_at = 0.0

    @classmethod
    def load(
        cls,
        folder: Path | None,
        *,
        shape: Sequence[int] | None = None,
        is_read_only: bool = False,
    ) -> Review:
        """Return the review kept in a case folder, or an empty one.

        A damaged file is put aside, never overwritten, and `notice` says so.
        """
        empty = cls(folder, shape=shape, is_read_only=is_read_only)
        path = None if folder is None else folder / FILE
        if path is None or not path.is_file():
            return empty
        try:
            found = cls.from_json(json.loads(path.read_bytes()))
        except InputError as error:  # of a newer maskloop: not ours to replace
            empty.notice, empty.is_read_only = str(error), True
            return empty
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            empty.notice = f"the review of this case is damaged ({error}): it begins anew"
            if not is_read_only:
                aside = path.with_name(f"review-damaged-{int(time.time())}.json")
                try:
                    path.rename(aside)
                    empty.notice += f", the damaged file is kept as {aside.name}"
                except OSError:
                    empty.is_read_only = True
                    empty.notice += ", and nothing of it is kept"
            return empty
        found.folder, found.is_read_only = folder, is_read_only
        if shape is not None:
            found.shape = tuple(int(n) for n in shape)
        return found

    # Candidates

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All candidates by number."""
        with self._lock:
            return tuple(self._candidates[number] for number in sorted(self._candidates))

    @property
    def open_candidates(self) -> tuple[Candidate, ...]:
        """Those not decided yet, the highest peak first, then the highest mean."""
        waiting = [one for one in self.candidates if one.status == "open"]
        return tuple(sorted(waiting, key=lambda one: (-one.peak, -one.mean, one.number)))

    def propose(self, candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
        """Take a model's candidates as the worklist; return those that were added.

        Decided ones stay; what is open is replaced. A new piece that a decided one covers by half
        (of the smaller) is not asked about again.
        """
        with self._lock:
            decided = {n: c for n, c in self._candidates.items() if c.status != "open"}
            number = max(self._candidates, default=0)
            fresh = []
            for one in candidates:
                if any(one.overlaps(other) for other in decided.values()):
                    continue
                number += 1
                fresh.append(replace(one, number=number, status="open", who="", time=0.0))
            self._candidates = {**decided, **{one.number: one for one in fresh}}
            self._is_changed = True
        return tuple(fresh)

    def accept(self, number: int, who: str = "") -> Candidate:
        """Mark a candidate as accepted; `Candidate.wanted` gives the ids to draw.

        Raises
        ------
        UnknownNameError
            If there is no such candidate.
        """
        return self._decide(number, "accepted", who)

    def dismiss(self, number: int, who: str = "") -> Candidate:
        """Mark a candidate as looked at and not wanted; raises as `accept`."""
        return self._decide(number, "dismissed", who)

    def reopen(self, number: int) -> Candidate:
        """Take a decision back; raises as `accept`."""
        return self._decide(number, "open", "")

    def _decide(self, number: int, status: Decision, who: str) -> Candidate:
        with self._lock:
            known = self._candidates.get(number)
            if known is None:
                raise UnknownNameError.of(
                    "candidate", str(number), [str(n) for n in self._candidates]
                )
            when = 0.0 if status == "open" else time.time()
            self._candidates[number] = replace(known, status=status, who=who, time=when)
            self._is_changed = True
            return self._candidates[number]

    # Coverage

    def see(self, axis: int, index: int, seconds: float, window: str = "") -> None:
        """Add time that slice `index` of `axis` was on screen, under the name of the window."""
        if seconds <= 0:
            return
        with self._lock:
            slices = self._seconds.setdefault(int(axis), {}).setdefault(window, {})
            slices[int(index)] = slices.get(int(index), 0.0) + float(seconds)
            self._is_changed = True

    def windows(self, axis: int) -> tuple[str, ...]:
        """Return the names of the windows that slices of `axis` were seen in, the longest first."""
        with self._lock:
            totals = {w: sum(s.values()) for w, s in self._seconds.get(axis, {}).items()}
        return tuple(sorted(totals, key=lambda window: -totals[window]))

    def seconds(self, axis: int, window: str | None = None) -> npt.NDArray[np.float64]:
        """Return the seconds that each slice of `axis` was on screen, in one window or in any."""
        found = np.zeros(self._length(axis))
        with self._lock:
            for name, slices in self._seconds.get(axis, {}).items():
                if window is None or name == window:
                    for index, more in slices.items():
                        if 0 <= index < len(found):
                            found[index] += more
        return found

    def seen(self, axis: int) -> Region:
        """Return which slices of `axis` were on screen for `seen_after_s` or longer."""
        return np.asarray(self.seconds(axis) >= self.seen_after_s)

    def unseen(self, axis: int, within: range | None = None) -> tuple[int, ...]:
        """Return the slices of `axis` (of `within`, if given) that were not looked at, ascending.

        Raises
        ------
        InputError
            If neither a range nor the review's `shape` says how many slices there are.
        """
        if within is None:
            if self.shape is None:
                msg = (
                    "expected a review that knows the case's shape, got none; set `shape` or give "
                    "a range of slices"
                )
                raise InputError(msg)
            within = range(self._length(axis))
        seen = self.seen(axis)
        return tuple(i for i in within if not (0 <= i < len(seen) and seen[i]))

    @property
    def main_axis(self) -> int:
        """The axis that was looked along longest; 0 where nothing was looked at."""
        with self._lock:
            totals = {
                axis: sum(sum(slices.values()) for slices in windows.values())
                for axis, windows in self._seconds.items()
            }
        return min(totals, key=lambda axis: (-totals[axis], axis), default=0)

    def _length(self, axis: int) -> int:
        if self.shape is not None:
            return self.shape[axis]
        with self._lock:
            windows = self._seconds.get(axis, {}).values()
            return max((max(s, default=-1) for s in windows), default=-1) + 1

    # Search first

    @property
    def is_searching(self) -> bool:
        """Whether the draft is hidden until the reader has been through the slices."""
        return self.search_began > 0 and not any(
            one.time >= self.search_began for one in self.showings
        )

    def begin_search(self) -> None:
        """Hide the draft from now on: the reader looks first."""
        with self._lock:
            self.search_began, self._is_changed = time.time(), True

    def show_draft(self, who: str = "", *, unseen: int = 0) -> Showing:
        """Record that the draft is shown now; with `unseen` slices left, it is shown anyway."""
        with self._lock:
            showing = Showing(time.time(), who, unseen > 0, unseen)
            self.showings, self._is_changed = (*self.showings, showing), True
        return showing

    def report(self, extent: Sequence[range]) -> Report:
        """Return what is left open now.

        Parameters
        ----------
        extent : sequence of range
            Slices along each axis that count: those that hold a label, or all.
        """
        axis = min(self.main_axis, len(extent) - 1)
        seconds = {name: float(self.seconds(axis, name).sum()) for name in self.windows(axis)}
        return Report(
            axis=axis,
            within=extent[axis],
            # A picture is seen whole; it has no slices to miss.
            unseen=self.unseen(axis, extent[axis]) if len(extent) > 2 else (),
            seen_after_s=self.seen_after_s,
            seconds=seconds,
            candidates=self.candidates,
            showings=self.showings,
            is_searching=self.is_searching,
        )

    # On disk

    def to_json(self) -> dict[str, Any]:  # Any: plain JSON values
        """Return JSON-ready values."""
        with self._lock:
            seconds = {
                str(axis): {
                    window: {str(i): round(s, 3) for i, s in sorted(slices.items())}
                    for window, slices in windows.items()
                }
                for axis, windows in self._seconds.items()
            }
            return {
                "version": _VERSION,
                "shape": None if self.shape is None else list(self.shape),
                "seen_after_s": self.seen_after_s,
                "seconds": seconds,
                "search_began": self.search_began,
                "showings": [
                    {"time": s.time, "who": s.who, "anyway": s.anyway, "unseen": s.unseen}
                    for s in self.showings
                ],
                "candidates": [one.to_json() for one in self.candidates],
            }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Review:  # Any: plain JSON values
        """Rebuild a review from `to_json`, in memory.

        Raises
        ------
        InputError
            If a newer maskloop wrote it.
        """
        if int(found["version"]) > _VERSION:
            msg = (
                f"expected a review of version {_VERSION} or older, got {found['version']!r}; "
                "update maskloop"
            )
            raise InputError(msg)
        made = cls(shape=found["shape"])
        made.seen_after_s = float(found["seen_after_s"])
        made._seconds = {
            int(axis): {
                window: {int(i): float(s) for i, s in slices.items()}
                for window, slices in windows.items()
            }
            for axis, windows in found["seconds"].items()
        }
        made.search_began = float(found["search_began"])
        made.showings = tuple(Showing(**one) for one in found["showings"])
        rows = [Candidate.from_json(one) for one in found["candidates"]]
        made._candidates = {one.number: one for one in rows}
        return made

    def save_if_due(self) -> bool:
        """Save what changed, at most once a second; return whether anything was written."""
        if time.monotonic() - self._saved_at < _DUE_S:
            return False
        return self.save()

    def save(self) -> bool:
        """Put what changed on disk by an atomic replacement; return whether anything was written.

        Raises
        ------
        StorageError
            If the disk refuses; the file is what it was.
        """
        with self._writing:
            with self._lock:
                if not self._is_changed or self.folder is None or self.is_read_only:
                    return False
                content = json.dumps(self.to_json(), separators=(",", ":")).encode()
                self._is_changed = False
                self._saved_at = time.monotonic()
            try:
                # A folder that a team shares lets the team read: never more than the folder itself.
                mode = self.folder.stat().st_mode & 0o666
                put(self.folder / FILE, content, mode=mode)
            except OSError as error:
                self._is_changed = True
                msg = (
                    f"expected to write {FILE} in {self.folder.name}, but the system answered "
                    f"{error}; free space or check the folder's permissions"
                )
                raise StorageError(msg) from error
        return True


# One object at a time: accept, reject, edit


def with_status(labels: LabelTable, label: int, status: Status) -> LabelTable:
    """Return the table with the row of one id marked as new, accepted, edited or rejected.

    Raises
    ------
    UnknownNameError
        If the table has no such id.
    """
    row = labels.get(label)
    if row is None:
        known = [f"{i} ({name})" for i, name in labels.names.items()]
        raise UnknownNameError.of("label", str(label), known)
    return labels.with_rows([replace(row, status=status)])


def accepted(labels: LabelTable, label: int) -> LabelTable:
    """Return the table with one object accepted; its voxels stay as they are."""
    return with_status(labels, label, "accepted")


def edited(labels: LabelTable, label: int) -> LabelTable:
    """Return the table with one object marked as edited by hand."""
    return with_status(labels, label, "edited")


def rejected(
    labels: LabelTable, label: int, before: Ids, *, region: Region | None = None, under: int = 0
) -> tuple[LabelTable, Ids]:
    """Return the table and the ids that reject one object: its row stays, its voxels go.

    Parameters
    ----------
    labels : LabelTable
        With a row for the object.
    label : int
        The object's id, or its class where `region` names the piece.
    before : array of unsigned int
        Ids, usually those of the object's box; not changed.
    region : bool array, optional
        Shape of `before`; the one piece to reject of a class. The row's status then stays: other
        pieces share it.
    under : int
        What the voxels become: background, or the organ the object lay in.

    Returns
    -------
    LabelTable
        For `Case.set_labels`, or the `labels` of `Case.change`.
    array
        ``wanted`` of `Case.change`.
    """
    gone = before == label if region is None else region & (before == label)
    wanted = before.astype(np.promote_types(before.dtype, np.min_scalar_type(under)))
    wanted[gone] = under
    table = with_status(labels, label, "rejected") if region is None else labels
    return table, wanted

"""One image under correction: its masks, one history, and a folder that outlives a crash."""

from __future__ import annotations

import functools
import logging
import math
import os
import threading
import time
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from maskloop.core import casefile
from maskloop.core.authors import Author, Authors, Refused, Who, settled
from maskloop.core.boxes import bounded, box_of, difference_box, hull, shifted
from maskloop.core.edits import Edit, History
from maskloop.core.errors import FormatError, InputError, ReadOnlyError, StorageError
from maskloop.core.image import smallest_unsigned
from maskloop.core.journal import BackgroundJournal, Journal, NoJournal
from maskloop.core.lock import FolderLock
from maskloop.core.mask import Mask, present_ids
from maskloop.core.review import Review

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from maskloop.core.geometry import Box
    from maskloop.core.labels import LabelTable

F = TypeVar("F", bound="Callable[..., Any]")  # Any: methods of a case
Ids = npt.NDArray[Any]  # Any: labels come in every integer width
Region = npt.NDArray[np.bool_]

_log = logging.getLogger(__name__)
_ROUNDING = 1e-6  # of a radius; files keep a spacing of 0.8 mm as 0.80000001
_WORTH_COMPACTING = 4 << 20  # bytes; below it a journal is read in well under a second


def _in_turn(method: F) -> F:
    """Let one thread at a time change a case: strokes and slow tools come from different ones."""

    @functools.wraps(method)
    def alone(self: Case, *args: Any, **options: Any) -> Any:  # Any: as the method's
        with self._turn:
            return method(self, *args, **options)

    return cast("F", alone)


@dataclass(frozen=True, slots=True)
class Step:
    """What happened to a case: a step was made, done again, or taken back (`is_undo`)."""

    edit: Edit
    box: Box
    mask: str
    is_undo: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What came of a wanted change: the step (empty if nothing), and what was refused."""

    edit: Edit
    refused: Refused | None = None


class Case:
    """Masks being corrected, every step of them in one history and on disk.

    The folder holds ``case.json`` (grid, labels, hashes, versions, the steps in words: no patient
    name, no path), ``start-N.npz`` (the ids of each mask before the first step), ``journal``,
    ``lock`` and ``review.json``; readable by its owner only, or as the workspace's group may.
    Make one with `create`, `open` where the folder exists, or `in_memory`.

    A tool or a model never changes a voxel that a person painted, nor one of a locked label,
    unless `change` is told so; a person's stroke may change anything but locked labels. Any thread
    may make a step.

    Parameters
    ----------
    masks : mapping of str to Mask
        The starts, by name, the first one active; their arrays become the case's own.
    journal : Journal, BackgroundJournal or NoJournal
        Replayed onto them.
    folder : Path, optional
        The case folder, ``NAME.maskloop``; None in memory.
    provenance : mapping
        JSON-ready facts from ``case.json``.
    author : str
        Name of the person at work.
    """

    def __init__(
        self,
        masks: Mapping[str, Mask],
        journal: Journal | BackgroundJournal | NoJournal,
        *,
        folder: Path | None = None,
        provenance: Mapping[str, Any] | None = None,  # Any: plain JSON values
        author: str = "",
        lock: FolderLock | None = None,
        is_read_only: bool = False,
    ) -> None:
        self.folder = folder
        self.provenance = dict(provenance or {})
        self.author = author
        self.authors = Authors()
        self.history = History()
        self.active = next(iter(masks))
        self.is_read_only = is_read_only
        self.notices: tuple[str, ...] = ()
        shape = masks[self.active].geometry.shape
        self.review = Review.load(folder, shape=shape, is_read_only=is_read_only)
        self.on_trouble: Callable[[str], None] = _log.warning
        self._lock = lock
        self._turn = threading.RLock()
        self._masks = dict(masks)
        # Pages of zeros cost nothing until somebody paints on them.
        self._by = {n: np.zeros(mask.data.shape, np.uint8) for n, mask in masks.items()}
        self._extents: dict[tuple[str, int], Box | None] = {}
        self._listeners: list[Callable[[Step], None]] = []
        self._journal = journal
        for entry in journal.entries:
            self._take(entry)

    # Making and opening

    @classmethod
    def create(
        cls,
        folder: Path,
        mask: Mask,
        *,
        provenance: Mapping[str, Any] | None = None,  # Any: plain JSON values
        author: str = "",
        in_background: bool = False,
        mode: int = 0o700,
    ) -> Case:
        """Make the folder with `mask` as the start.

        Parameters
        ----------
        folder : Path
            Must not exist yet.
        mask : Mask
            Ids and labels before the first step.
        provenance : mapping, optional
            JSON-ready facts to keep, such as hashes of inputs; no patient's name.
        author : str
            Signs the steps of the person.
        in_background : bool
            Whether steps are written in a thread; else each one is on disk when its call returns.
        mode : int
            Permissions of the folder; files get the same without the right to execute.

        Raises
        ------
        StorageError
            If the folder exists or cannot be written.
        """
        casefile.make(folder, mask, provenance or {}, mode=mode)
        return cls.open(folder, author=author, in_background=in_background)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        author: str = "",
        read_only: bool = False,
        in_background: bool = False,
    ) -> Case:
        """Open a case folder and replay its journal.

        Where another window holds the case, or the folder cannot be written, it is opened for
        reading only; `notices` say so, and what a crash had left unfinished.

        Raises
        ------
        MissingFileError
            If there is no case.
        FormatError
            If its files are damaged; where its journal is gone, if it is opened for reading only.
        """
        starts, about = casefile.read(folder)
        notices = []
        lock = None
        if not read_only and not os.access(folder, os.W_OK):
            notices.append(f"{folder.name} cannot be written: it is open for reading only")
            read_only = True
        if not read_only:
            lock = FolderLock(folder / "lock", mode=casefile.file_mode(folder))
            if lock.holder:
                words = f"{folder.name} is open in another window ({lock.holder})"
                notices.append(f"{words}: here it is open for reading only")
                read_only = True
        journal: Journal | NoJournal = NoJournal()
        try:
            journal = _journal(folder, len(about.get("steps", ())), is_read_only=read_only)
            case = cls(
                starts,
                journal,
                folder=folder,
                provenance=about["provenance"],
                author=author,
                lock=lock,
                is_read_only=read_only,
            )
        except BaseException:
            journal.close()
            if lock is not None:
                lock.release()
            raise
        if lock is not None and lock.was_left:
            notices.append(
                f"{folder.name}: the program that had it open did not end properly; its "
                f"{len(case.history)} finished steps are here"
            )
        if journal.dropped:
            notices.append(f"{folder.name}: {journal.dropped}")
        if case.review.notice:
            notices.append(case.review.notice)
        case.notices = tuple(notices)
        if isinstance(journal, Journal) and not read_only and in_background:
            case._journal = BackgroundJournal(journal, lambda words: case.on_trouble(words))
        return case

    @classmethod
    def in_memory(cls, mask: Mask, *, author: str = "") -> Case:
        """Return a case without a folder, for a mask whose image has no file."""
        own = replace(mask, data=mask.data.copy())
        return cls({"": own}, NoJournal(), author=author)

    # What there is

    @property
    def masks(self) -> Mapping[str, Mask]:
        """The masks by name; the first is named ``""``."""
        return MappingProxyType(self._masks)

    @property
    def mask(self) -> Mask:
        """The active mask now; its array is the live one and changes with each step."""
        return self._masks[self.active]

    @property
    def dropped(self) -> str:
        """What the journal lost at opening, in words; empty if nothing."""
        return self._journal.dropped

    def author_of(self, *, mask: str | None = None) -> npt.NDArray[np.uint8]:
        """Return the live array of author numbers of a mask; 0 where nobody is known."""
        return self._by[self._named(mask)]

    def hand(self, box: Box | None = None, *, mask: str | None = None) -> Region:
        """Return which voxels, of a box or of all, a person painted."""
        by = self.author_of(mask=mask)
        return np.asarray(self.authors.by_hand[by if box is None else by[box]])

    def extent(self, label: int, *, mask: str | None = None) -> Box | None:
        """Return a box that holds all voxels of a label, perhaps with some room; None if none.

        Looked for once, then kept up to date by the steps.
        """
        key = (self._named(mask), label)
        if key not in self._extents:
            self._extents[key] = box_of(self._masks[key[0]].data, label)
        return self._extents[key]

    def subscribe(self, listener: Callable[[Step], None]) -> Callable[[], None]:
        """Call `listener` after each step, in the thread that made it; return how to end that."""
        self._listeners.append(listener)

        def end() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return end

    # Steps

    @_in_turn
    def change(
        self,
        wanted: Ids,
        *,
        box: Box | None = None,
        labels: LabelTable | None = None,
        since: Ids | None = None,
        tool: str = "",
        words: str = "",
        kind: Who = "tool",
        author: str | None = None,
        about: Mapping[str, Any] | None = None,  # Any: plain JSON values
        over_hand: bool = False,
        over_locked: bool = False,
        claimed: Region | None = None,
        mask: str | None = None,
    ) -> Change:
        """Make voxels of a box what somebody wants them to be, as far as they may.

        Parameters
        ----------
        wanted : array of unsigned int
            Ids of the box's shape.
        box : tuple of slice, optional
            The whole mask where left out.
        labels : LabelTable, optional
            The table afterwards; ids without a row get one.
        since : array of int, optional
            The box's ids when the work began: what changed meanwhile stays.
        tool, words : str
            Its name, and what the step is called.
        kind : {"person", "tool", "model"}
            Whose work it is: a person's may change what is painted by hand.
        author : str, optional
            The person at work where left out; a model's name for a model.
        about : mapping, optional
            JSON-ready facts: options, or the model, its hashes and its device.
        over_hand, over_locked : bool
            Whether it may change voxels painted by hand, or of locked labels.
        claimed : array of bool, optional
            Voxels of the box that are the author's now even where their id stays.
        mask : str, optional
            The active one where left out.

        Raises
        ------
        ReadOnlyError
            If the case is open for reading only.
        StorageError
            If the disk refuses the step; it is then not made.
        """
        self._require_open()
        name = self._named(mask)
        data, table = self._masks[name].data, self._masks[name].labels
        within = bounded(box, data.shape)
        before = data[within]
        if wanted.shape != before.shape:
            msg = f"expected ids of shape {before.shape} for the box, got {wanted.shape}; cut them"
            raise InputError(msg)
        # All that follows costs what differs, not what is given: a whole volume may be.
        part = _differing(before, wanted, claimed)
        within = shifted(part, [outer.start for outer in within])
        before, wanted = before[part], wanted[part]
        since = None if since is None else since[part]
        claimed = None if claimed is None else claimed[part]
        locked = () if over_locked else [i for i, row in table.items() if row.locked]
        hand = None if kind == "person" or over_hand else self.hand(within, mask=name)
        ids, refused = settled(before, wanted, hand=hand, locked=locked, since=since)
        starts = [w.start for w in within]
        if refused is not None:
            if claimed is not None:
                claimed = claimed.copy()
                claimed[refused.box] &= ~refused.region
            refused = refused.moved(starts)
        if claimed is not None and locked:
            claimed = claimed & ~np.isin(before, list(locked))
        who = self.author if author is None else author
        after = table if labels is None else labels
        edit = Edit.between(
            before,
            ids,
            labels=(table, after.covering(present_ids(ids[ids != before]))),
            tool=tool,
            author=who,
            words=words,
            kind=kind,
            number=self.authors.number_of(who, kind),
            authors=self._by[name][within],
            claimed=claimed,
        ).moved(starts)
        edit = replace(edit, mask=name, about=dict(about or {}))
        if not edit.is_empty:
            self.apply(edit)
        return Change(edit, refused)

    @_in_turn
    def paint(
        self,
        index: Sequence[float],
        *,
        radius_mm: float,
        label: int | str,
        mask: str | None = None,
    ) -> Edit:
        """Paint a ball (in a picture a disc) as a person's stroke.

        Parameters
        ----------
        index : sequence of float
            Its centre in array order, ``(z, y, x)`` or ``(y, x)``; a time index first, if any.
        radius_mm : float
            Voxels whose centre lies within it are painted, the nearest one in any case; pixels in
            a picture.
        label : int or str
            Id or name; a new one is added to the table. 0 erases.
        mask : str, optional
            The active one where left out.

        Returns
        -------
        Edit
            The step; empty where nothing changed. Voxels of locked labels stay.

        Raises
        ------
        InputError
            If the index lies outside, the radius is negative, or the label is locked.
        """
        name = self._named(mask)
        found = self._masks[name]
        table, number = found.labels.having(label)
        if number and table[number].locked:
            msg = f"expected an unlocked label, got {table[number].name!r}; unlock it first"
            raise InputError(msg)
        box, region = _ball(found, index, radius_mm)
        wanted = found.data[box].astype(_type_for(found.data, number))
        wanted[region] = number
        words = f"brush: {table[number].name}" if number else "erase"
        return self.change(
            wanted,
            box=box,
            labels=table,
            tool="brush",
            words=words,
            kind="person",
            claimed=region,
            mask=name,
        ).edit

    @_in_turn
    def set_labels(self, labels: LabelTable, words: str = "", *, mask: str | None = None) -> Edit:
        """Give a mask another table of labels, as one step; no voxel changes."""
        self._require_open()
        name = self._named(mask)
        none = np.zeros((0,) * self._masks[name].data.ndim, np.uint8)
        edit = Edit.between(
            none,
            none,
            labels=(self._masks[name].labels, labels),
            tool="labels",
            author=self.author,
            words=words or "labels",
            kind="person",
        )
        edit = replace(edit, mask=name)
        if not edit.is_empty:
            self.apply(edit)
        return edit

    @_in_turn
    def add_mask(self, name: str, mask: Mask) -> None:
        """Add a mask beside the others, for objects that overlap; its ids are copied.

        Raises
        ------
        InputError
            If there is one of that name, or it lies on another grid.
        """
        self._require_open()
        words = self.mask.geometry.difference(mask.geometry)
        if name in self._masks or words:
            why = words or "one of that name is there"
            msg = f"expected a new mask on the case's grid, got {name!r}: {why}; choose another"
            raise InputError(msg)
        if self.folder is not None:
            casefile.add_start(self.folder, name, mask)
        self._masks[name] = replace(mask, data=mask.data.copy())
        self._by[name] = np.zeros(mask.data.shape, np.uint8)

    @_in_turn
    def apply(self, edit: Edit) -> Box:
        """Apply a step, keep it on disk, return the changed box.

        Raises
        ------
        InputError
            If the mask does not hold what it held before the step.
        StorageError
            If the disk refuses; the step is then not made.
        """
        self._require_open()
        if not edit.time:
            edit = replace(edit, time=round(time.time(), 3))
        self._require_room(edit)
        ids, by = self._arrays(edit)
        edit.apply(ids, by)
        try:
            self._journal.append(edit)
        except StorageError:
            edit.revert(ids, by)
            raise
        self.history.push(edit)
        self._done(edit)
        self._tell(Step(edit, edit.box, edit.mask))
        return edit.box

    def undo(self) -> Edit | None:
        """Take the last step back; return it, or None if there is none."""
        return self._walk("undo") if self.history.can_undo else None

    def redo(self) -> Edit | None:
        """Do the next step again; return it, or None if there is none."""
        return self._walk("redo") if self.history.can_redo else None

    @_in_turn
    def go_to(self, position: int) -> list[Edit]:
        """Take back or do again until `position` steps are applied; return the walk."""
        self._require_open()
        self.history.require(position)
        count = position - self.history.position
        word: Any = "redo" if count > 0 else "undo"  # Any: one of two literals
        if count:
            self._journal.append(*[word] * abs(count))
        return [edit for _ in range(abs(count)) if (edit := self._take_and_tell(word)) is not None]

    # The folder

    @property
    def lag_s(self) -> float:
        """How long the last steps took from the call to the disk, at most; 0 where it waits."""
        found = self._journal.lags_s if isinstance(self._journal, BackgroundJournal) else ()
        return max(found, default=0.0)

    def flush(self) -> None:
        """Wait until every step is on disk."""
        if isinstance(self._journal, BackgroundJournal):
            self._journal.flush()

    @_in_turn
    def compact(self) -> None:
        """Write the journal anew without forgotten steps; what undo and redo reach stays."""
        self._require_open()
        steps: list[Any] = [*self.history]  # Any: edits and the word "undo"
        undone = len(self.history) - self.history.position
        self._journal.rewrite(steps + ["undo"] * undone)

    def close(self) -> None:
        """Write what is pending and let go of the folder.

        Raises
        ------
        StorageError
            If the disk refuses steps to the end.
        """
        if self.folder is None or (self._lock is None and not self.is_read_only):
            return
        try:
            is_behind = isinstance(self._journal, BackgroundJournal) and not self._journal.finish()
            if not self.is_read_only and not is_behind:
                self._tidy(self.folder)
        finally:
            lock, self._lock = self._lock, None
            try:
                self._journal.close()
            finally:
                if lock is not None:
                    lock.release()

    def _tidy(self, folder: Path) -> None:
        """Leave the folder small and described; none of this is needed to open it again."""
        try:
            self.review.save()
            casefile.write_log(folder, self._log_rows(), self._masks)
            if self._journal.size > _WORTH_COMPACTING and self._is_wasteful():
                self.compact()
        except StorageError as error:
            self.on_trouble(str(error))

    def __enter__(self) -> Case:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _is_wasteful(self) -> bool:
        return self._journal.size > 2 * sum(edit.nbytes for edit in self.history)

    def _log_rows(self) -> list[dict[str, Any]]:  # Any: plain JSON values
        return [casefile.in_words(edit) for edit in list(self.history)[: self.history.position]]

    # Inside

    def _named(self, mask: str | None) -> str:
        name = self.active if mask is None else mask
        if name not in self._masks:
            msg = f"expected a mask of the case, got {name!r}; choose one of: {list(self._masks)}"
            raise InputError(msg)
        return name

    def _require_open(self) -> None:
        if self.is_read_only and self.folder is not None:
            why = "; ".join(self.notices) or f"{self.folder.name} was opened so"
            msg = f"expected a case that may be changed, got one for reading only: {why}; close it"
            raise ReadOnlyError(f"{msg} there, and open it again")
        if self.folder is not None and self._lock is None:
            msg = f"expected an open case, got {self.folder.name}, which was closed; open it again"
            raise InputError(msg)

    def _arrays(self, edit: Edit) -> tuple[Ids, npt.NDArray[np.uint8]]:
        name = self._named(edit.mask)
        return self._masks[name].data, self._by[name]

    @_in_turn
    def _walk(self, word: Any) -> Edit | None:  # Any: "undo" or "redo"
        self._require_open()
        self._journal.append(word)
        return self._take_and_tell(word)

    def _take_and_tell(self, word: str) -> Edit | None:
        edit = self._take(word)
        if edit is not None:
            self._tell(Step(edit, edit.box, edit.mask, is_undo=word == "undo"))
        return edit

    def _take(self, entry: Edit | str) -> Edit | None:
        """Take one step in memory."""
        if isinstance(entry, Edit):
            self._require_room(entry)
            self.authors.take(Author(entry.number, entry.author, entry.kind))
            self.history.apply(entry, *self._arrays(entry))
            self._done(entry)
            return entry
        edit = self.history.last if entry == "undo" else self.history.next
        if edit is None:
            return None
        walk = self.history.undo if entry == "undo" else self.history.redo
        walk(*self._arrays(edit))
        self._done(edit, is_back=entry == "undo")
        return edit

    def _done(self, edit: Edit, *, is_back: bool = False) -> None:
        """Follow a step with the table and the extents."""
        if edit.rows_before or edit.rows_after:
            old = self._masks[edit.mask]
            table = edit.table_before(old.labels) if is_back else edit.table_after(old.labels)
            self._masks[edit.mask] = replace(old, labels=table)
        if self._extents and edit.voxels:
            for number in edit.ids_after(is_back=is_back):
                key = (edit.mask, number)
                if key in self._extents:
                    known = self._extents[key]
                    self._extents[key] = edit.box if known is None else hull([known, edit.box])

    def _tell(self, step: Step) -> None:
        for listener in list(self._listeners):
            listener(step)

    def _require_room(self, edit: Edit) -> None:
        """Widen the ids where the step needs it; the array is then a new one."""
        name = self._named(edit.mask)
        data = self._masks[name].data
        wanted = np.promote_types(data.dtype, np.dtype(edit.dtype).newbyteorder("="))
        if edit.voxels and wanted != data.dtype:
            self._masks[name] = replace(self._masks[name], data=data.astype(wanted))


def _journal(folder: Path, steps: int, *, is_read_only: bool) -> Journal | NoJournal:
    """Open the journal of a case of so many known steps, and say if it is gone."""
    path = folder / "journal"
    is_gone = steps > 0 and not (path.exists() and path.stat().st_size)
    if is_gone and is_read_only:
        msg = (
            f"expected the journal of {folder.name}, in which case.json lists {steps} steps, got "
            "none; restore it from a backup"
        )
        raise FormatError(msg)
    if is_read_only and not path.exists():  # made a moment ago, and nothing painted yet
        return NoJournal()
    journal = Journal(path, is_read_only=is_read_only, mode=casefile.file_mode(folder))
    if is_gone:
        journal.dropped = f"its journal is gone, and the {steps} steps in it are lost"
    return journal


def _differing(before: Ids, wanted: Ids, claimed: Region | None) -> Box:
    """Return the box of what differs or is claimed; an empty one where nothing is."""
    box = difference_box(before, wanted)
    if claimed is not None and (more := box_of(claimed, 1)) is not None:
        box = more if box is None else hull([box, more])
    return box or tuple(slice(0, 0) for _ in before.shape)


def _type_for(data: Ids, number: int) -> np.dtype[Any]:  # Any: the width is chosen at run time
    return np.promote_types(data.dtype, smallest_unsigned(number))


def _ball(mask: Mask, index: Sequence[float], radius: float) -> tuple[Box, Region]:
    """Return the box and the voxels of a ball round an index, cut at the array's ends."""
    shape, grid = mask.data.shape, mask.geometry
    lead = len(shape) - grid.ndim
    try:
        centre, radius = [float(i) for i in index], float(radius)
    except (TypeError, ValueError) as error:
        msg = f"expected an index and a radius in numbers, got {index!r} and {radius!r}; give both"
        raise InputError(msg) from error
    is_inside = len(centre) == len(shape) and all(
        math.isfinite(i) and -0.5 <= i < n - 0.5 for i, n in zip(centre, shape, strict=False)
    )
    if not is_inside:
        msg = f"expected an index within the shape {shape}, got {tuple(index)!r}; choose a voxel"
        raise InputError(msg)
    if not (math.isfinite(radius) and radius >= 0):
        msg = f"expected a radius of at least 0, got {radius!r}; give it in mm (pixels in 2D)"
        raise InputError(msg)
    steps = grid.affine[:-1, :-1]
    # How far a ball reaches along each array axis; on a sheared grid further than its step tells.
    reaches = radius * np.linalg.norm(np.linalg.inv(steps), axis=1)
    middle = [min(max(round(i), 0), n - 1) for i, n in zip(centre, shape, strict=True)]
    box = [slice(i, i + 1) for i in middle]
    for axis, reach in enumerate(reaches.tolist(), start=lead):
        first = max(0, math.ceil(centre[axis] - reach - _ROUNDING * (1 + reach)))
        stop = min(shape[axis], math.floor(centre[axis] + reach + _ROUNDING * (1 + reach)) + 1)
        box[axis] = slice(min(first, middle[axis]), max(stop, middle[axis] + 1))
    offsets = [np.arange(b.start, b.stop) - i for b, i in zip(box, centre, strict=True)][lead:]
    spread = np.ix_(*offsets)
    squares = sum(sum(s * o for s, o in zip(row, spread, strict=True)) ** 2 for row in steps)
    region = np.asarray(squares <= (radius * (1 + _ROUNDING)) ** 2)
    region[tuple(i - b.start for i, b in zip(middle, box, strict=True))[lead:]] = True
    return tuple(box), region[(None,) * lead] if lead else region

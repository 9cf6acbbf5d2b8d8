"""Correct: run a tool on one label, as one undoable step that respects what people painted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.authors import Refused, settled
from maskloop.core.case import Case
from maskloop.core.edits import Edit
from maskloop.core.errors import InputError
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.mask import Mask
from maskloop.core.parameters import Points, checked_values, parameters_of
from maskloop.tools import TOOLS
from maskloop.tools.base import traits_of
from maskloop.tools.work import Result, Work, work_on

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from maskloop.core.authors import Who
    from maskloop.core.geometry import Box
    from maskloop.core.labels import LabelTable
    from maskloop.tools.base import Traits

Region = npt.NDArray[np.bool_]

__all__ = ["Correction", "Prepared", "correct", "prepare"]


@dataclass(frozen=True, slots=True)
class Correction:
    """What a tool did.

    Parameters
    ----------
    mask : Mask
        The new mask; a given one is untouched, a case's is the live one.
    edit : Edit
        The step from the old mask to the new one, to undo, redo and journal.
    tool : str
        Its name.
    notes : tuple of str
        What a person should read, such as how many voxels changed.
    refused : Refused, optional
        Voxels that the tool wanted and did not get.
    """

    mask: Mask
    edit: Edit
    tool: str
    notes: tuple[str, ...]
    refused: Refused | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A tool with copies of all that it looks at, for a thread beside a window.

    Parameters
    ----------
    work : maskloop.tools.work.Work
        Its `run` gives the new ids of a box; it may be called in any thread.
    words : str
        What the step is called.
    kind : {"person", "tool"}
        Whose work the result is.
    about : mapping
        The tool's options, JSON-ready.
    """

    work: Work
    words: str
    kind: Who
    about: Mapping[str, Any]  # Any: plain JSON values

    def run(self, job: Job | None = None) -> Result:
        """Return what the tool makes of its box."""
        job = job or Job()
        job.report(self.work.tool, 0)
        return self.work.run(job)


def prepare(
    mask: Mask | Case,
    tool: str,
    *,
    image: Image | None = None,
    label: str | int | None = None,
    parameters: Mapping[str, object] | None = None,
    author: str = "",
    hand: Region | None = None,
    box: Box | None = None,
    frame: int | None = None,
) -> Prepared:
    """Copy what a tool needs of a mask; quick, as no more than the box it reaches is looked at.

    Parameters, errors as for `correct`; one label only.
    """
    function = TOOLS.get(tool)
    options = parameters_of(function)
    values = checked_values(options, parameters or {}, of=tool)
    traits = traits_of(function)
    case = mask if isinstance(mask, Case) else None
    held = mask.mask if isinstance(mask, Case) else mask
    table, number = _labelled(held.labels, label, traits)
    held = replace(held, labels=table)
    work = work_on(
        tool,
        function,
        held,
        image=image,
        label=number,
        parameters=options,
        values=values,
        hand=hand if case is None else case.hand,
        limit=box,
        frame=frame,
        extent=None if case is None else case.extent,
        author=author or (case.author if case is not None else ""),
    )
    return Prepared(work, f"{tool}: {table[number].name}", *_facts(tool, traits, number, values))


def correct(
    mask: Mask | Case | Path | str,
    tool: str,
    *,
    image: Image | Path | str | None = None,
    label: str | int | None = None,
    parameters: Mapping[str, object] | None = None,
    author: str = "",
    hand: Region | None = None,
    over_hand: bool = False,
    box: Box | None = None,
    frame: int | None = None,
    job: Job | None = None,
) -> Correction:
    """Run a tool on one label of a mask.

    Parameters
    ----------
    mask : Mask, Case or path
        The mask to correct; with a time axis, each time point is corrected on its own. Of a case,
        the active mask; the step joins its history.
    tool : str
        Name on the shelf of tools, such as ``"islands"``.
    image : Image or path, optional
        The image the mask lies on; tools that look at intensities need it.
    label : str or int, optional
        Name or id of the label to change; ``"all"`` for each one in turn. May be left out where
        the mask has one label only. Tools that add an object take a new id or name too.
    parameters : mapping of str to object, optional
        The tool's options by name; those left out keep their defaults. Positions are told in array
        order, as `Points`, tuples, or text.
    author : str
        The person's name, kept in the edit and in new rows.
    hand : array of bool, optional
        Voxels that a person painted; a case knows its own.
    over_hand : bool
        Whether a tool may change voxels that a person painted.
    box : tuple of slice, optional
        Spatial box outside of which nothing may change.
    frame : int, optional
        The only time point to correct, of a series in time.
    job : Job, optional
        Progress and cancel.

    Returns
    -------
    Correction
        The new mask, the edit, notes, and what was refused.

    Raises
    ------
    UnknownNameError
        If the tool, the label or an option is not known.
    InputError
        If the label is missing, locked or empty, or an option cannot be used.
    GeometryError
        If the mask does not lie on the image's grid.
    """
    job = job or Job()
    traits = traits_of(TOOLS.get(tool))
    image = _image(image, job)
    case = mask if isinstance(mask, Case) else None
    held = mask.mask if isinstance(mask, Case) else _mask(mask, image, job).checked()
    if image is not None:
        held.require_on(image)
    chosen = _chosen(held, label, traits, case)
    # Any: keyword arguments of `prepare`
    given: dict[str, Any] = {
        "image": image,
        "parameters": parameters,
        "author": author,
        "box": box,
        "frame": frame,
    }
    if case is not None and len(chosen) == 1:
        ready = prepare(case, tool, label=chosen[0], **given)
        found = _apply(case, ready, ready.run(job), over_hand=over_hand)
    else:
        hand = case.hand() if case is not None else hand
        found = _one_by_one(held, tool, chosen, given, None if over_hand else hand, job)
        if case is not None:
            changed = case.change(
                found.mask.data,
                labels=found.mask.labels,
                tool=tool,
                words=found.edit.words,
                kind=found.edit.kind,
                over_hand=True,  # what a person painted has been put back already
                about=found.edit.about,
            )
            found = replace(found, mask=case.mask, edit=changed.edit)
    for note in found.notes:
        job.say(note)
    return found


def _apply(case: Case, ready: Prepared, result: Result, *, over_hand: bool) -> Correction:
    changed = case.change(
        result.ids,
        box=result.box,
        # A new label gets its row only if it gets a voxel.
        labels=result.labels if (result.ids != result.since).any() else None,
        since=result.since,
        tool=ready.work.tool,
        words=ready.words,
        kind=ready.kind,
        about=ready.about,
        over_hand=over_hand,
    )
    gone = [i for i in changed.edit.ids_after(is_back=True) if i and not _holds(case, i)]
    notes = _notes(ready.work.mask, changed.edit, result.labels, gone)
    words = (changed.refused.words,) if changed.refused is not None else ()
    return Correction(case.mask, changed.edit, ready.work.tool, notes + words, changed.refused)


def _one_by_one(
    before: Mask,
    tool: str,
    chosen: list[str | int],
    given: Mapping[str, Any],  # Any: keyword arguments of `prepare`
    hand: Region | None,
    job: Job,
) -> Correction:
    """Correct one label after the other on a copy."""
    found = replace(before, data=before.data.copy())
    refusals, ready = [], None
    for one in job.track(chosen, tool):
        ready = prepare(found, tool, label=one, hand=hand, **given)
        result = ready.work.run(job)
        protected = None if hand is None or ready.kind == "person" else hand[result.box]
        locked = [i for i, row in found.labels.items() if row.locked]
        ids, refused = settled(result.since, result.ids, hand=protected, locked=locked)
        if refused is not None:
            refusals.append(refused.moved([part.start for part in result.box]))
        wide = np.promote_types(found.data.dtype, ids.dtype)
        found = replace(found, data=found.data.astype(wide, copy=False), labels=result.labels)
        found.data[result.box] = ids
    if ready is None:
        empty = Edit.between(before.data[:0], before.data[:0], tool=tool, words=tool)
        return Correction(before, empty, tool, ("no label may be changed: all are locked",))
    edit = Edit.between(
        before.data,
        found.data,
        labels=(before.labels, found.labels),
        tool=tool,
        author=given["author"],
        words=tool if len(chosen) > 1 else ready.words,
        kind=ready.kind,
    )
    edit = replace(edit, about=dict(ready.about))
    gone = [i for i in edit.ids_after(is_back=True) if i and not (found.data == i).any()]
    notes = _notes(before, edit, found.labels, gone)
    words = tuple(refused.words for refused in refusals)
    return Correction(found, edit, tool, notes + words, _together(refusals, before.data.shape))


def _together(refusals: list[Refused], shape: tuple[int, ...]) -> Refused | None:
    if len(refusals) < 2:
        return refusals[0] if refusals else None
    box = tuple(
        slice(min(r.box[a].start for r in refusals), max(r.box[a].stop for r in refusals))
        for a in range(len(shape))
    )
    region = np.zeros([part.stop - part.start for part in box], dtype=bool)
    wanted = np.zeros(region.shape, np.result_type(*(r.wanted.dtype for r in refusals)))
    for refused in refusals:
        inner = tuple(
            slice(b.start - o.start, b.stop - o.start)
            for b, o in zip(refused.box, box, strict=True)
        )
        region[inner] |= refused.region
        wanted[inner][refused.region] = refused.wanted[refused.region]
    counts = [sum(getattr(r, n) for r in refusals) for n in ("by_hand", "locked", "changed_since")]
    return Refused(box, region, wanted, *counts)


def _facts(
    tool: str,
    traits: Traits,
    label: int,
    values: Mapping[str, Any],  # Any: values of a tool's options
) -> tuple[Who, dict[str, Any]]:  # Any: plain JSON values
    plain = {k: v.to_text() if isinstance(v, Points) else v for k, v in values.items()}
    kind: Who = "person" if traits.by_hand else "tool"
    return kind, {"tool": tool, "label": label, "parameters": plain}


def _image(image: Image | Path | str | None, job: Job) -> Image | None:
    if image is None or isinstance(image, Image):
        return image
    from maskloop.loop.load import load

    return load(image, job=job)


def _mask(mask: Mask | Path | str, image: Image | None, job: Job) -> Mask:
    if isinstance(mask, Mask):
        return mask
    from maskloop.loop.load import load_mask

    return load_mask(mask, image=image, job=job)


def _labelled(
    labels: LabelTable, label: str | int | None, traits: Traits
) -> tuple[LabelTable, int]:
    """Return the table, with a new row where the tool may begin one, and the id of the label."""
    if label is None and len(labels) == 1:
        label = next(iter(labels))
    if label is None:
        known = ", ".join(f"{i} ({row.name})" for i, row in list(labels.items())[:20])
        msg = f"expected the label to correct, got none; choose one of: {known or 'a new one'}"
        raise InputError(msg)
    if traits.starts_empty:
        labels, number = labels.having(label)
    else:
        number = labels.id_of(label)
    if number == 0 or labels[number].locked:
        name = "background" if number == 0 else repr(labels[number].name)
        msg = f"expected an unlocked label, got {name}, which is locked; unlock it first"
        raise InputError(msg)
    return labels, number


def _chosen(
    mask: Mask, label: str | int | None, traits: Traits, case: Case | None
) -> list[str | int]:
    """Return the labels to correct, none of them locked."""
    if traits.starts_empty and label is not None and label != "all":
        return [label]
    if case is not None and label is not None and label != "all":
        number = _labelled(mask.labels, label, traits)[1]
        present = [number] if _holds(case, number) else []
    else:
        present = mask.ids()
        if not present:
            msg = (
                f"expected mask {mask.name!r} to hold a label, got an empty one; draw or predict "
                "first"
            )
            raise InputError(msg)
    if label == "all" and "all" not in mask.labels.names.values():
        return [i for i in present if not mask.labels[i].locked]
    if label is None and len(present) > 1:
        known = ", ".join(f"{i} ({mask.labels[i].name})" for i in present[:20])
        more = f" and {len(present) - 20} more" if len(present) > 20 else ""
        msg = (
            f"expected the label to correct, as the mask holds {len(present)}, got none; choose "
            f"one of: {known}{more}"
        )
        raise InputError(msg)
    one = present[0] if label is None else mask.labels.id_of(label)
    _labelled(mask.labels, one, traits)
    if one not in present:
        msg = (
            f"expected label {mask.labels[one].name!r} to have voxels, got none; choose one of: "
            f"{present or mask.ids()}"
        )
        raise InputError(msg)
    return [one]


def _notes(before: Mask, edit: Edit, labels: LabelTable, gone: list[int]) -> tuple[str, ...]:
    if edit.is_empty:
        return ("nothing changed",)
    grid = before.geometry
    size = edit.voxels * grid.voxel_size
    amount = (
        f"{size / 1000:.3g} mL"
        if grid.ndim == 3 and grid.unit == "mm"
        else f"{size:.3g} {grid.unit}2"
    )
    notes = [f"{edit.voxels} voxels changed ({amount})"]
    added = [row for i, row in labels.items() if i not in before.labels]
    if added:
        notes.append(f"{len(added)} new objects of {added[0].category or added[0].name}")
    if gone:
        names = [before.labels[i].name for i in gone if i in before.labels]
        notes.append(f"no voxel of {', '.join(names)} is left")
    return tuple(notes)


def _holds(case: Case, label: int) -> bool:
    box = case.extent(label)
    return box is not None and bool((case.mask.data[box] == label).any())

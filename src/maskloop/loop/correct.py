"""Correct: run a tool on one label and get the new mask and the edit that undoes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.edits import Edit, difference_box
from maskloop.core.errors import InputError
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask, present_ids
from maskloop.core.parameters import checked_values, parameters_of
from maskloop.tools import TOOLS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Correction:
    """What a tool did.

    Parameters
    ----------
    mask : Mask
        The new mask; the given one is untouched.
    edit : Edit
        The step from the old mask to the new one, to undo, redo and journal.
    tool : str
        Its name.
    notes : tuple of str
        What a person should read, such as how many voxels changed.
    """

    mask: Mask
    edit: Edit
    tool: str
    notes: tuple[str, ...]


def correct(
    mask: Mask | Path | str,
    tool: str,
    *,
    image: Image | Path | str | None = None,
    label: str | int | None = None,
    parameters: Mapping[str, object] | None = None,
    author: str = "",
    job: Job | None = None,
) -> Correction:
    """Run a tool on one label of a mask.

    Parameters
    ----------
    mask : Mask or path
        The mask to correct; with a time axis, each time point is corrected on its own.
    tool : str
        Name on the shelf of tools, such as ``"islands"``.
    image : Image or path, optional
        The image the mask lies on; tools that look at intensities need it.
    label : str or int, optional
        Name or id of the label to change; ``"all"`` for each one in turn. May be left out where
        the mask has one label only.
    parameters : mapping of str to object, optional
        The tool's options by name; those left out keep their defaults.
    author : str
        The person's name, kept in the edit and in new rows.
    job : Job, optional
        Progress and cancel.

    Returns
    -------
    Correction
        The new mask, the edit, and notes.

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
    function = TOOLS.get(tool)
    values = checked_values(parameters_of(function), parameters or {}, of=tool)
    image = _image(image, job)
    mask = _mask(mask, image, job).checked()
    if image is not None:
        mask.require_on(image)
    chosen = _chosen(mask, label)
    found = mask
    for one in job.track(chosen, tool):
        found = _run(function, found, image, one, values, author)
    words = tool if len(chosen) > 1 else f"{tool}: {mask.labels[chosen[0]].name}"
    edit = Edit.between(
        mask.data,
        found.data,
        labels=(mask.labels, found.labels),
        tool=tool,
        author=author,
        words=words,
    )
    notes = _notes(mask, found, edit)
    for note in notes:
        job.say(note)
    return Correction(found, edit, tool, notes)


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


def _chosen(mask: Mask, label: str | int | None) -> list[int]:
    """Return the ids to correct, none of them locked."""
    present = mask.ids()
    if not present:
        msg = (
            f"expected mask {mask.name!r} to hold a label, got an empty one; draw or predict first"
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
    if mask.labels[one].locked:
        msg = (
            f"expected an unlocked label, got {mask.labels[one].name!r}, which is locked; unlock "
            "it first"
        )
        raise InputError(msg)
    if one not in present:
        msg = (
            f"expected label {mask.labels[one].name!r} to have voxels, got none; choose one of: "
            f"{present}"
        )
        raise InputError(msg)
    return [one]


def _run(
    function: Any,  # Any: a tool, whose options are its own
    mask: Mask,
    image: Image | None,
    label: int,
    values: Mapping[str, object],
    author: str,
) -> Mask:
    if mask.data.ndim == mask.geometry.ndim:
        ids = function(mask, image, label=label, **values)
    else:
        ids = _by_frames(function, mask, image, label, values)
    _require_own(mask, ids, label)
    return replace(mask, data=ids, labels=_with_new_rows(mask.labels, ids, label, author))


def _by_frames(
    function: Any,  # Any: a tool, whose options are its own
    mask: Mask,
    image: Image | None,
    label: int,
    values: Mapping[str, object],
) -> npt.NDArray[Any]:
    frames = []
    table = mask.labels
    for number, data in enumerate(mask.data):
        pixels = image.frame(number) if image is not None else None
        frame = function(replace(mask, data=data, labels=table), pixels, label=label, **values)
        # New ids of one frame are taken for the next, which would else give them out again.
        table = _with_new_rows(table, frame, label, "")
        frames.append(frame)
    return np.stack(frames)


def _require_own(mask: Mask, ids: npt.NDArray[Any], label: int) -> None:
    """Raise unless only this label's and background voxels changed; holds third parties to it."""
    msg = ""
    if ids.shape != mask.data.shape or ids.dtype.kind != "u":
        msg = (
            f"expected ids of shape {mask.data.shape}, unsigned, from the tool, got {ids.shape} "
            f"of {ids.dtype}; report it to the tool's author"
        )
    else:
        box = difference_box(mask.data, ids)
        if box is None:
            return
        old, new = mask.data[box], ids[box]
        changed = old != new
        lost, gained = present_ids(old[changed]), present_ids(new[changed])
        locked = {i for i, row in mask.labels.items() if row.locked}
        foreign = sorted((set(lost) - {label}) | (set(gained) & locked))
        if foreign:
            msg = (
                f"expected only label {label} and background to change, but the tool changed "
                f"{foreign}; report it to the tool's author"
            )
    if msg:
        raise InputError(msg)


def _with_new_rows(
    labels: LabelTable, ids: npt.NDArray[Any], label: int, author: str
) -> LabelTable:
    """Return the table with a row for every object that a split made out of `label`."""
    top = max(labels)
    highest = int(ids.max())
    if highest <= top:
        return labels
    fresh = [i for i in present_ids(ids) if i not in labels]
    parent = labels[label]
    category = parent.category or parent.name
    made = [
        Label(i, f"{category} {i}", category=category, is_thing=True, author=author) for i in fresh
    ]
    return labels.with_rows([replace(parent, category=category, is_thing=True), *made])


def _notes(before: Mask, after: Mask, edit: Edit) -> tuple[str, ...]:
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
    added = [row for i, row in after.labels.items() if i not in before.labels]
    if added:
        notes.append(f"{len(added)} new objects of {added[0].category}")
    gone = [before.labels[i].name for i in before.ids() if i not in after.ids()]
    if gone:
        notes.append(f"no voxel of {', '.join(gone)} is left")
    return tuple(notes)

"""Where a case is kept, and how one moves from memory to disk; no Qt."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskloop.core.case import Case
from maskloop.core.edits import Edit
from maskloop.core.image import stem_of
from maskloop.core.mask import Mask


@dataclass(frozen=True, slots=True)
class Place:
    """Where a case goes: the workspace (None: beside its image), or why nowhere."""

    workspace: Path | None = None
    problem: str = ""


def place_for(source: Path, workspace: str) -> Place:
    """Return where the case of an image is kept.

    Beside the image, unless its folder is read-only or shared by a team: then in the workspace.
    """
    from maskloop.desk.cases import case_folder, is_shared

    if case_folder(source).is_dir() or not is_shared(source.parent):
        return Place()
    is_writable = os.access(source.parent, os.W_OK)
    how = "is shared by a team" if is_writable else "cannot be written"
    why = f"the folder of {source.name} {how}"
    chosen = Path(workspace).expanduser() if workspace else None
    if chosen is None:
        return Place(None, f"{why}, and no workspace is chosen")
    if not (chosen.is_dir() and os.access(chosen, os.W_OK)):
        return Place(None, f"{why}, and the workspace {chosen} cannot be written")
    return Place(chosen)


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """A case in memory as it was at one moment.

    Parameters
    ----------
    starts : mapping of str to Mask
        Each mask before the first step.
    edits : tuple of Edit
        Every step, those taken back too.
    position : int
        How many of them are applied.
    """

    starts: Mapping[str, Mask]
    edits: tuple[Edit, ...]
    position: int


def snapshot_of(case: Case) -> Snapshot:
    """Copy a case that nobody changes meanwhile."""
    edits, position = tuple(case.history), case.history.position
    masks = {
        name: Mask(mask.data.copy(), mask.geometry, mask.labels, mask.source)
        for name, mask in case.masks.items()
    }
    tables = {name: mask.labels for name, mask in masks.items()}
    for edit in reversed(edits[:position]):
        edit.revert(masks[edit.mask].data)
        tables[edit.mask] = edit.table_before(tables[edit.mask])
    starts = {
        name: Mask(mask.data, mask.geometry, tables[name], mask.source)
        for name, mask in masks.items()
    }
    return Snapshot(starts, edits, position)


def moved_to(case: Case, snapshot: Snapshot, memory: Case) -> None:
    """Bring a new case, made with the snapshot's first start, to where the snapshot is."""
    for name, start in snapshot.starts.items():
        if name not in case.masks:
            case.add_mask(name, start)
    for author in memory.authors.values():
        case.authors.number_of(author.name, author.kind)
    for edit in snapshot.edits:
        case.apply(edit)
    case.go_to(snapshot.position)


def catch_up(case: Case, snapshot: Snapshot, memory: Case) -> None:
    """Bring a case from where the snapshot was to where the case in memory is now."""
    fresh = [name for name in memory.masks if name not in case.masks]
    if fresh:
        starts = snapshot_of(memory).starts
        for name in fresh:
            case.add_mask(name, starts[name])
    now = tuple(memory.history)
    same = 0
    for old, new in zip(snapshot.edits, now, strict=False):
        if old is not new:
            break
        same += 1
    for author in memory.authors.values():
        case.authors.number_of(author.name, author.kind)
    if same < len(now):
        case.go_to(same)
        for edit in now[same:]:
            case.apply(edit)
    case.go_to(memory.history.position)


def repeated_on(case: Case, snapshot: Snapshot, names: Mapping[str, str]) -> None:
    """Repeat the applied steps of a case in memory on masks of another case, by their new names."""
    for old, new in names.items():
        case.add_mask(new, snapshot.starts[old])
    for edit in snapshot.edits[: snapshot.position]:
        name = names[edit.mask]
        mask = case.masks[name]
        wanted = mask.data[edit.box].copy()
        Edit.apply(edit.moved([-part.start for part in edit.box]), wanted)
        case.change(
            wanted,
            box=edit.box,
            labels=edit.table_after(mask.labels),
            tool=edit.tool,
            words=edit.words,
            kind=edit.kind,
            author=edit.author,
            about=edit.about,
            over_hand=True,
            over_locked=True,
            mask=name,
        )


def free_name(wanted: str, taken: Container[str]) -> str:
    """Return a mask's name, made of plain letters, that is not taken."""
    plain = re.sub(r"[^\w .-]+", "-", wanted).strip("-. ") or "labels"
    number = 2
    name = plain
    while name in taken:
        name = f"{plain} {number}"
        number += 1
    return name


@dataclass(slots=True)
class Found:
    """A case that an image was found to have, and what the person said to it."""

    source: Path
    workspace: Path | None
    state: Mapping[str, Any]  # Any: plain JSON values
    answer: str = ""

    @property
    def is_locked(self) -> bool:
        """Whether another window holds it."""
        return bool(self.state.get("locked_by"))

    @property
    def words(self) -> str:
        """What the person should know before the choice."""
        state, name = self.state, stem_of(self.source)
        if state.get("problem"):
            return f"{name} has a case that cannot be read: {state['problem']}"
        people = ", ".join(state["authors"])
        count = f"{state['steps']:,} corrections" if state["steps"] else "earlier corrections"
        text = f"{name} has {count}{f' by {people}' if people else ''}, last {state['changed']}"
        if self.is_locked:
            return f"{text}; they are open in another window ({state['locked_by']})."
        return f"{text}." if state["was_closed"] else f"{text}; the program did not end properly."


def put_aside(folder: Path) -> Path:
    """Rename a case folder so that a new one can be begun; never deletes one."""
    number = 2
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return folder.rename(aside)

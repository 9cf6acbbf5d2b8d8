"""Accept, reject and edit one object: undoable steps that the table of objects follows; no Qt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from maskloop.core.case import Case, Step
from maskloop.core.edits import Edit
from maskloop.core.labels import Status
from maskloop.core.review import rejected, with_status
from maskloop.ops.components import piece_at
from maskloop.ops.measure import Measured
from maskloop.ops.objects import ObjectIndex, Row
from maskloop.ops.recist import Axis

Region = npt.NDArray[np.bool_]
Verdict = Literal["accepted", "rejected", "edited"]
WORDS: dict[Verdict, str] = {"accepted": "accept", "rejected": "reject", "edited": "edit"}


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What `LayerEditor.change` takes to keep a verdict on one object."""

    ids: npt.NDArray[Any]  # Any: labels come in every integer width
    options: dict[str, Any]  # Any: keyword arguments of `Case.change`


def decide(case: Case, name: str, row: Row, verdict: Verdict, *, by: str) -> Decision:
    """Return the step that keeps a verdict.

    An accepted object's voxels become the person's own: no model and no tool changes them later.
    A rejected one's voxels go, and its numbers stay with the step. Where each object has a row of
    the label table, the row takes the status too.

    Parameters
    ----------
    case : Case
    name : str
        Of the mask.
    row : Row
        The object.
    verdict : {"accepted", "rejected", "edited"}
    by : {"pieces", "labels"}
        What an object is.
    """
    mask, m = case.masks[name], row.measured
    before = mask.data[m.box]
    region = before == m.label
    if by == "pieces":
        inside = tuple(n - part.start for n, part in zip(m.place, m.box, strict=True))
        region = piece_at(region, inside)
    table = mask.labels
    has_row = by == "labels" and m.label in table
    ids = before
    if verdict == "rejected":
        table, ids = rejected(table, m.label, before, region=None if has_row else region)
    elif has_row:
        table = with_status(table, m.label, verdict)
    about = {"verdict": verdict, "was": row.status, "object": _plain(row)}
    return Decision(
        ids,
        {
            "labels": table,
            "tool": WORDS[verdict],
            "words": f"{WORDS[verdict]} {row.name} {m.id}",
            "kind": "person",
            "claimed": region if verdict == "accepted" else None,
            "about": about,
        },
    )


class Verdicts:
    """Verdicts on the objects of one index, as the steps of its case tell them.

    Parameters
    ----------
    index : ObjectIndex
    steps : iterable of Edit
        Those of the case that are done, oldest first.
    name : str
        Of the mask.
    """

    def __init__(self, index: ObjectIndex, steps: Iterable[Edit], name: str) -> None:
        self._index = index
        self._name = name
        self._gone: dict[int, Row] = {}
        for edit in steps:
            self._take(edit, is_undo=False)

    @property
    def rejected(self) -> tuple[Row, ...]:
        """Rows of the objects that were rejected, as they were; numbered below zero."""
        return tuple(
            replace(row, measured=replace(row.measured, id=-1 - place))
            for place, row in enumerate(self._gone.values())
        )

    def follow(self, step: Step) -> int:
        """Follow a step that the index has taken; return the object that it was about, or 0."""
        return self._take(step.edit, is_undo=step.is_undo)

    def _take(self, edit: Edit, *, is_undo: bool) -> int:
        verdict = edit.about.get("verdict")
        if verdict not in WORDS or edit.mask != self._name:
            return 0
        row = _row(edit.about["object"])
        if verdict == "rejected":
            if is_undo:
                self._gone.pop(id(edit), None)
            else:
                self._gone[id(edit)] = row
        number = self._index.at(row.measured.place) or 0
        if not number:
            return 0
        status = edit.about.get("was") if is_undo else verdict
        if status in get_args(Status):
            self._index.mark(number, status)
        return number


def _plain(row: Row) -> dict[str, Any]:  # Any: plain JSON values
    m = row.measured
    return {
        "number": m.id,
        "label": m.label,
        "name": row.name,
        "voxels": m.voxels,
        "size": m.size,
        "box": [[part.start, part.stop] for part in m.box],
        "slices": m.slices,
        "slice": m.slice,
        "place": list(m.place),
        "axes": [[a.length, list(a.start), list(a.stop)] for a in (m.long_axis, m.short_axis)],
        "values": [m.mean, m.sd, m.low, m.high],
    }


def _row(plain: dict[str, Any]) -> Row:  # Any: plain JSON values
    long_axis, short_axis = (
        Axis(float(length), tuple(start), tuple(stop)) for length, start, stop in plain["axes"]
    )
    mean, sd, low, high = plain["values"]
    found = Measured(
        id=int(plain["number"]),
        label=int(plain["label"]),
        voxels=int(plain["voxels"]),
        size=float(plain["size"]),
        box=tuple(slice(int(a), int(b)) for a, b in plain["box"]),
        slices=int(plain["slices"]),
        slice=int(plain["slice"]),
        place=tuple(int(n) for n in plain["place"]),
        long_axis=long_axis,
        short_axis=short_axis,
        mean=mean,
        sd=sd,
        low=low,
        high=high,
    )
    return Row(found, str(plain["name"]), 0.0, found.size, "rejected")

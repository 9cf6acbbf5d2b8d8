"""One tool on one label: copies of what it looks at, a thread, and one step on the case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from qtpy.QtCore import QTimer

from maskloop.core.geometry import Box
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.gui import layers
from maskloop.gui.host import Host
from maskloop.gui.turns import Slow


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What one press of Apply asked for.

    Parameters
    ----------
    editor : LayerEditor
    tool : str
    label : int
        Id of the label to change.
    values : dict
        Options of the tool.
    image : napari layer, optional
        The image behind the labels.
    limit : tuple of slice, optional
        Spatial box of the true grid outside of which nothing may change.
    frame : int, optional
        The only time point to change.
    over_hand : bool
        Whether what a person painted may change too.
    """

    editor: Any  # Any: a LayerEditor
    tool: str
    label: int
    values: dict[str, object]
    image: Any  # Any: a napari layer or None
    limit: Box | None
    frame: int | None
    over_hand: bool


Show = Callable[[Any, str], None]  # Any: a Change, or None


def start(host: Host, wanted: Wanted, show: Show) -> None:
    """Run a tool beside the window; `show` takes what came of it, and words.

    The tool's own box of the mask is copied and nothing more; voxels painted while the tool runs
    stay as they are.
    """
    if wanted.image is None:
        _prepare(host, wanted, None, show)
        return
    seen = layers.capture(wanted.image)
    if isinstance(seen.array, np.ndarray):
        _prepare(host, wanted, seen.image(), show)
        return

    def read(job: Job) -> Image:
        return seen.image()

    def then(image: Image) -> None:
        # One thing runs at a time: this one ends after `then` has returned.
        QTimer.singleShot(0, lambda: _prepare(host, wanted, image, show))

    host.start(read, f"Reading {wanted.image.name}", then)


def _prepare(host: Host, wanted: Wanted, image: Image | None, show: Show) -> None:
    """Copy what the tool needs when all strokes so far are steps, then run it."""
    editor = wanted.editor

    def copy() -> Any:  # Any: a Prepared; its type would import the loop
        from maskloop.loop.correct import prepare

        case = editor.case
        case.active = editor.mask_name
        return prepare(
            case,
            wanted.tool,
            image=image,
            label=wanted.label,
            parameters=wanted.values,
            box=wanted.limit,
            frame=wanted.frame,
        )

    # In turn with the strokes, none of which changes the case meanwhile; beside the window, as a
    # label's extent is looked for in the whole mask the first time.
    editor.take_strokes()
    editor.keeper.turns.add(lambda: Slow(copy, lambda ready: _run(host, wanted, ready, show)))


def _run(host: Host, wanted: Wanted, ready: Any, show: Show) -> None:  # Any: a Prepared
    editor = wanted.editor

    def end(result: Any) -> None:  # Any: a Result; its type lies on a shelf
        if editor.layer is None:
            host.say("The labels layer was deleted meanwhile; nothing was changed.", "warning")
            return
        editor.change_later(
            result.ids,
            result.box,
            lambda change: show(change, _words(ready.words, change, editor)),
            labels=result.labels,
            since=result.since,
            tool=wanted.tool,
            words=ready.words,
            kind=ready.kind,
            about=ready.about,
            over_hand=wanted.over_hand,
        )

    host.start(ready.run, ready.words, end)


def _words(words: str, change: Any, editor: Any) -> str:  # Any: a Change, a LayerEditor
    edit = change.edit
    text = f"{words}: {edit.voxels:,} voxels changed" if edit.voxels else f"{words}: no change"
    if edit.voxels and editor.place.geometry.ndim == 3 and editor.place.geometry.unit == "mm":
        text += f" ({edit.voxels * editor.place.geometry.voxel_size / 1000:.3g} mL)"
    known = {row.id for row in edit.rows_before}
    made = sum(row.id not in known for row in edit.rows_after)
    text += f", {made} new in the table" if made else ""
    return f"{text}. {change.refused.words}." if change.refused else f"{text}."

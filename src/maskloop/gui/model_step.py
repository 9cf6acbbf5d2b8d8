"""A model's result as one step on a layer: what people painted and locked stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from maskloop.core.case import Change
from maskloop.core.geometry import Geometry
from maskloop.core.mask import Mask
from maskloop.core.redraw import redrawn
from maskloop.gui import layers
from maskloop.gui.layer_editor import LARGE, LayerEditor
from maskloop.gui.turns import Slow


def draw(
    editor: LayerEditor,
    found: Mask,
    frame: layers.Frame,
    done: Callable[[Change], None],
    **options: Any,  # Any: as for `Case.change`
) -> None:
    """Let a model's result replace what a model drew before; `done` follows in the window.

    Parameters
    ----------
    editor : LayerEditor
    found : Mask
        On the true grid; of one frame where `frame` is given.
    frame : tuple of int
        Index along each of the layer's first axes that the result has not.
    done : callable
        Takes the `Change`.
    options
        As for `Case.change`.
    """

    def work() -> Change:
        box, wanted, labels = _wanted(editor, found, frame)
        return editor.case.change(
            wanted,
            box=box,
            labels=labels,
            kind="model",
            mask=editor.mask_name,
            **{**options, "about": editor.facts(options.get("about") or {})},
        )

    def end(change: Change) -> None:
        editor.settled(change)
        done(change)

    def begin() -> Slow | None:
        if found.data.size > LARGE:
            return Slow(work, end)
        end(work())
        return None

    editor.take_strokes()
    editor.keeper.turns.add(begin)


def _wanted(editor: LayerEditor, found: Mask, frame: layers.Frame) -> Any:  # Any: box, ids, table
    """Return the box on the true grid, the ids wanted in it, and the table."""
    place, case = editor.place, editor.case
    held = case.masks[editor.mask_name]
    lead = place.lead - len(frame)
    fresh = found.data if lead < 0 else place.shown(found.data, lead=lead)
    shape = place.shown(held.data).shape[len(frame) :]
    box = place.true_box((*(slice(i, i + 1) for i in frame), *(slice(0, n) for n in shape)))
    first = (0,) * len(frame)
    now = place.shown(held.data[box])[first]
    hand = place.shown(case.hand(box, mask=editor.mask_name))[first]
    # Only shapes count here: both are turned as the layer shows them.
    is_flat = place.geometry.ndim == 2 or lead < 0
    grid = Geometry.pixels(shape[-2:]) if is_flat else Geometry.regular(shape[-3:], (1.0,) * 3)
    ids, labels = redrawn(Mask(now, grid, held.labels), Mask(fresh, grid, found.labels), hand=hand)
    return box, place.restored(np.asarray(ids)[(None,) * len(frame)]), labels

"""Each finished step on a Labels layer, on disk within a second and off the window's thread.

Kept for layers whose image came from a file in a folder that can be written. Not kept: steps on a
second layer of the same image, and undo by other means than Ctrl+Z or the panel's buttons (napari
tells nobody); the next step on the same voxels brings those in.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QTimer

from maskloop.core.case import Case
from maskloop.core.edits import Edit
from maskloop.core.errors import MaskloopError
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask, as_ids
from maskloop.gui import layers, parents

_log = logging.getLogger(__name__)
_NAPARI_REMEMBERS = 100  # undo steps a layer
_WAIT_AT_CLOSE_S = 5.0

Box = tuple[slice, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What a finished step left in its box, as the layer shows it."""

    box: Box
    ids: layers.Pixels
    labels: LabelTable
    words: str


class LayerJournal:
    """Writes the steps of one Labels layer into a case folder.

    Parameters
    ----------
    layer : napari.layers.Labels
        With our placement and without a time axis.
    image : Path
        File the layer's image came from; the case lies beside it.
    author : str
        Signs the steps.
    say : callable
        Takes words for the person; called in the journal's thread.
    """

    def __init__(
        self, layer: layers.Layer, image: Path, *, author: str, say: Callable[[str], None]
    ) -> None:
        self._layer = weakref.ref(layer)
        self._place = layers.placement_of(layer)
        self._image = image
        self._author = author
        self._say = say
        self._steps: queue.SimpleQueue[Step | None] = queue.SimpleQueue()
        self._done: deque[Box] = deque(maxlen=_NAPARI_REMEMBERS)
        self._undone: list[Box] = []
        self._has_begun = False
        self._pending: list[tuple[Box, str]] = []
        self._thread = threading.Thread(target=self._write, name="maskloop journal", daemon=True)
        self._thread.start()
        layer.events.paint.connect(self._painted)
        layer.events.data.connect(self._replaced)
        layer.bind_key("Control-Z", lambda _: self.undo(), overwrite=True)
        layer.bind_key("Control-Shift-Z", lambda _: self.redo(), overwrite=True)

    def undo(self) -> None:
        """Take back the layer's last step, in the journal too."""
        if (layer := self._layer()) is not None:
            layer.undo()
            if self._done:
                self._undone.append(self._done.pop())
                self._keep(self._undone[-1], "undo")

    def redo(self) -> None:
        """Do the step again that was taken back, in the journal too."""
        if (layer := self._layer()) is not None:
            layer.redo()
            if self._undone:
                self._done.append(self._undone.pop())
                self._keep(self._done[-1], "redo")

    def close(self) -> None:
        """Write what is pending and let go of layer and folder."""
        if (layer := self._layer()) is not None:
            layer.events.paint.disconnect(self._painted)
            layer.events.data.disconnect(self._replaced)
            layer.bind_key("Control-Z", None, overwrite=True)
            layer.bind_key("Control-Shift-Z", None, overwrite=True)
            self._flush()
        self._steps.put(None)
        self._thread.join(_WAIT_AT_CLOSE_S)

    def _painted(self, event: Any) -> None:  # Any: napari events are untyped
        box = box_of(event.value)
        if box is not None:
            self._done.append(box)
            self._undone.clear()
            self._keep(box, "stroke")

    def _replaced(self, event: Any = None) -> None:  # Any: napari events are untyped
        layer = self._layer()
        if layer is not None and layers.shape_of(layer) == self._place.shape:
            self._keep(tuple(slice(0, n) for n in self._place.shape), "replaced")

    def _keep(self, box: Box, words: str) -> None:
        # napari tells of a step before it writes the voxels, except for strokes of the mouse.
        self._flush()
        self._pending.append((box, words))
        QTimer.singleShot(0, self._flush)

    def _flush(self) -> None:
        """Copy what finished steps left and hand it to the thread."""
        pending, self._pending = self._pending, []
        layer = self._layer()
        if layer is None:
            return
        for box, words in pending:
            if not self._has_begun:
                # What the layer held before is not known any more: the first step brings it all.
                self._has_begun = True
                box = tuple(slice(0, n) for n in self._place.shape)
            table = layers.table_of(layer)
            self._steps.put(Step(box, np.array(layer.data[box]), table, words))

    # The thread's side.

    def _write(self) -> None:
        case: Case | None = None
        is_refused = False
        while (step := self._steps.get()) is not None:
            try:
                if case is None and not is_refused:
                    case = self._opened()
                if case is not None:
                    self._append(case, step)
            except MaskloopError as error:
                is_refused = case is None
                self._say(f"Not in the journal: {error}")
            except Exception as error:  # the window must know, whatever went wrong
                _log.exception("journal")
                is_refused = case is None
                self._say(f"Not in the journal: {type(error).__name__}: {error}")
        if case is not None:
            case.close()

    def _opened(self) -> Case:
        from maskloop.desk.cases import case_folder, open_case

        if case_folder(self._image).is_dir():
            return open_case(self._image)
        place = self._place
        shape = place.geometry.shape
        empty = Mask(np.zeros(shape, np.uint8), place.geometry, LabelTable(), place.source)
        return open_case(self._image, mask=empty)

    def _append(self, case: Case, step: Step) -> None:
        before = self._place.shown(case.mask.data)[step.box]
        box = self._true_box(step.box)
        turn = self._place
        edit = Edit.between(
            np.ascontiguousarray(turn.restored(before, lead=0)),
            np.ascontiguousarray(turn.restored(as_ids(step.ids), lead=0)),
            labels=(case.mask.labels, step.labels),
            tool=step.words,
            author=self._author,
        )
        if edit.is_empty:
            return
        moved = (
            slice(outer.start + inner.start, outer.start + inner.stop)
            for outer, inner in zip(box, edit.box, strict=True)
        )
        case.apply(replace(edit, box=tuple(moved)) if edit.voxels else edit)

    def _true_box(self, box: Box) -> Box:
        """Return the box on the true grid of a box of the layer."""
        true = [slice(0, 0)] * len(box)
        for part, axis, flip in zip(box, self._place.axes, self._place.flips, strict=True):
            length = self._place.geometry.shape[axis]
            true[axis] = slice(length - part.stop, length - part.start) if flip else part
        return tuple(true)


class Journals:
    """One journal an image, for the layers that are corrected in the panel.

    Parameters
    ----------
    say : callable
        Takes words for the person; called in a journal's thread.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._open: dict[Path, tuple[weakref.ref[Any], LayerJournal]] = {}  # Any: napari layers

    def of(self, layer: layers.Layer) -> LayerJournal | None:
        """Return the journal of a layer, or None if it has none."""
        for known, journal in self._open.values():
            if known() is layer:
                return journal
        return None

    def begin(
        self, layer: layers.Layer, others: Sequence[layers.Layer], *, author: str
    ) -> LayerJournal | None:
        """Keep a journal of a layer from now on, if it can have one; return it."""
        if (known := self.of(layer)) is not None:
            return known
        source = source_of(layer, others)
        place = layers.placement_of(layer)
        if source is None or place.lead or layer.multiscale or self._is_taken(source):
            return None
        if place.is_guessed:
            return None
        journal = LayerJournal(layer, source, author=author, say=self._say)
        self._open[source] = (weakref.ref(layer), journal)
        return journal

    def close(self) -> None:
        """Write everything that is pending."""
        for _, journal in self._open.values():
            journal.close()
        self._open.clear()

    def _is_taken(self, source: Path) -> bool:
        entry = self._open.get(source)
        if entry is None:
            return False
        if entry[0]() is None:
            entry[1].close()
            del self._open[source]
            return False
        return True


def source_of(layer: layers.Layer, others: Sequence[layers.Layer]) -> Path | None:
    """Return the image file that a Labels layer was made on, if its folder can be written."""
    image = parents.image_behind(layer, others)
    source = layers.placement_of(image).source if image is not None else None
    if source is None or not source.exists() or not os.access(source.parent, os.W_OK):
        return None
    return source


def box_of(atoms: Sequence[Any]) -> Box | None:  # Any: napari changed this payload in 0.8
    """Return the box that a ``paint`` event's atoms touched, or None if there are none."""
    starts: list[list[int]] = []
    stops: list[list[int]] = []
    for atom in atoms:
        key = getattr(atom, "slice_key", None)
        if key is not None:
            starts.append([int(part.start) for part in key])
            stops.append([int(part.stop) for part in key])
        elif len(atom[0]) and np.size(atom[0][0]):
            starts.append([int(np.min(axis)) for axis in atom[0]])
            stops.append([int(np.max(axis)) + 1 for axis in atom[0]])
    if not starts:
        return None
    lows, highs = np.min(starts, axis=0), np.max(stops, axis=0)
    return tuple(slice(int(a), int(b)) for a, b in zip(lows, highs, strict=True))

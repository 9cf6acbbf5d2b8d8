"""The cases behind the window's Labels layers: one an image, one history over all its masks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QObject, QTimer, Signal

from maskloop.core.case import Case, Change
from maskloop.core.edits import Edit
from maskloop.core.errors import MaskloopError
from maskloop.core.mask import Mask
from maskloop.gui import layers, parents
from maskloop.gui.keeper import Keeper, around
from maskloop.gui.layer_editor import LARGE, LayerEditor, refusal_of
from maskloop.gui.ondisk import free_name
from maskloop.gui.strokes import Stroke
from maskloop.gui.turns import Slow

_log = logging.getLogger(__name__)

Region = npt.NDArray[np.bool_]
Key = Path | tuple[str, int]


class Editors(QObject):
    """Every Labels layer that is corrected here, and the case of its image.

    Parameters
    ----------
    viewer : napari.Viewer
    say : callable
        Takes words for the person, and of which kind they are.
    author : callable
        Returns the name that signs steps.

    Attributes
    ----------
    limits : tuple of float, optional
        Lowest and highest value of the image that strokes of the mouse are kept to.

    Signals
    -------
    changed(Keeper)
        The history, the tables or the place on disk of a case are others.
    refused(LayerEditor, Change)
        A step did not get all it wanted.
    stepped(Keeper, Step)
        Each step of each case.
    """

    changed = Signal(object)
    refused = Signal(object, object)
    stepped = Signal(object, object)

    def __init__(
        self,
        viewer: Any,  # Any: napari is untyped
        say: Callable[[str, str], None],
        author: Callable[[], str],
    ) -> None:
        super().__init__()
        self.viewer = viewer
        self.limits: tuple[float, float] | None = None
        self.say = say
        self._author = author
        self._editors: list[LayerEditor] = []
        self._keepers: dict[Key, Keeper] = {}

    # Finding

    def of(self, layer: layers.Layer) -> LayerEditor | None:
        """Return the editor of a Labels layer; None for one that cannot be part of a case."""
        if layer is None:
            return None
        layer = layers.bare(layer)
        for editor in self._editors:
            if editor.layer is layer:
                return editor
        if type(layer).__name__ != "Labels" or refusal_of(layer):
            return None
        self._editors = [editor for editor in self._editors if editor.layer is not None]
        self._editors.append(editor := LayerEditor(layer, self))
        return editor

    def known(self, layer: layers.Layer) -> LayerEditor | None:
        """Return the editor of a layer that has an open case already."""
        found = self.of(layer)
        return found if found is not None and found.is_open else None

    def keeper_of(self, source: Path | None) -> Keeper | None:
        """Return who keeps the case of an image file, if it is open."""
        return None if source is None else self._keepers.get(source)

    @property
    def keepers(self) -> tuple[Keeper, ...]:
        """Every open case."""
        return tuple(self._keepers.values())

    # Opening

    def open(self, editor: LayerEditor, array: Any = None) -> None:  # Any: ids of any type
        """Bind a layer to the case of its image; nothing is read or copied in a large one yet.

        Parameters
        ----------
        editor : LayerEditor
        array : array of int, optional
            What the layer held before its first step, where it holds something else now.
        """
        if editor.is_open:
            return
        layer = editor.layer
        array = layer.data if array is None else array
        parents.adopt(layer, [layers.bare(x) for x in self.viewer.layers])
        editor.place = layers.placement_of(layer)
        image, source, key = self._home(layer)
        table = layers.table_of(layer)
        keeper = self._keepers.get(key)
        is_first = keeper is None
        if keeper is None:
            keeper = self.keep(key, Keeper(source, self.failed, image))
        name = "" if is_first else free_name(suffix_of(layer, image), keeper.editors)
        if not is_first and keeper.is_open:
            name = free_name(name, keeper.case.masks)
        editor.bind(keeper, name)
        made: list[Mask] = []

        def take(mask: Mask) -> None:
            editor.take_back_waiting(mask)
            made.append(mask)

        def begin() -> Any:  # Any: a new case, or None
            if is_first:
                return Case.in_memory(made[0], author=self._author())
            return keeper.case.add_mask(name, made[0])

        def begun(case: Case | None) -> None:
            if case is not None:
                keeper.case = case
            if len(editor.labels) != len(table):
                editor.show_table()

        for work, done in ((lambda: editor.start(array, table), take), (begin, begun)):
            keeper.turns.add(_beside(work, done, array.size > LARGE))

    def _home(self, layer: layers.Layer) -> tuple[Any, Path | None, Key]:  # Any: a napari layer
        """Return a layer's image, the image's file, and what its case goes by."""
        image = parents.image_behind(layer, [layers.bare(x) for x in self.viewer.layers])
        source = source_of(layer, image)
        owner = layer if image is None else image
        return image, source, source or ("image" if image is not None else "labels", id(owner))

    def is_barred(self, editor: LayerEditor) -> bool:
        """Whether the case of the layer's image is open for reading only."""
        keeper = self._keepers.get(self._home(editor.layer)[2])
        return keeper is not None and keeper.is_open and keeper.case.is_read_only

    def suffix_of(self, editor: LayerEditor) -> str:
        """Return what a layer is called beside its image."""
        layer = editor.layer
        shown = [layers.bare(x) for x in self.viewer.layers]
        return suffix_of(layer, parents.image_behind(layer, shown)) if layer is not None else ""

    def keep(self, key: Key, keeper: Keeper) -> Keeper:
        """Take a case as one of the window's."""
        self._keepers[key] = keeper
        keeper.changed.connect(lambda: self.changed.emit(keeper))
        keeper.stepped.connect(lambda step: self.stepped.emit(keeper, step))
        keeper.troubled.connect(lambda words: self.say(words, "warning"))
        return keeper

    def show_mask(self, keeper: Keeper, name: str, layer: layers.Layer) -> LayerEditor:
        """Bind a layer that was made from a mask of an open case to it."""
        editor = LayerEditor(layers.bare(layer), self)
        editor.bind(keeper, name)
        self._editors.append(editor)
        return editor

    def drop(self, editor: LayerEditor) -> None:
        """Let go of a layer; its mask stays in the case."""
        editor.release()
        if editor in self._editors:
            self._editors.remove(editor)
        if editor.is_open and editor.keeper.editors.get(editor.mask_name) is editor:
            del editor.keeper.editors[editor.mask_name]

    def let_go(self, keeper: Keeper) -> None:
        """Forget a case of the window, and its layers; closing it is the caller's."""
        for editor in list(keeper.editors.values()):
            self.drop(editor)
        self._keepers = {key: known for key, known in self._keepers.items() if known is not keeper}

    def soon(self, editor: LayerEditor) -> None:
        """Make steps of a layer's new strokes when napari has written them."""
        QTimer.singleShot(0, editor.take_strokes)

    # The history

    def undo(self, editor: LayerEditor) -> Edit | None:
        """Take back the last step of the layer's case; return it."""
        return self._walk(editor, "undo")

    def redo(self, editor: LayerEditor) -> Edit | None:
        """Do again the step of the layer's case that was taken back last; return it."""
        return self._walk(editor, "redo")

    def go_to(self, editor: LayerEditor, position: int) -> None:
        """Undo or redo until `position` steps are applied."""
        editor.flush()
        keeper = editor.keeper

        def done() -> None:
            last = keeper.case.history.last
            self.say(f"As after: {last.words}." if last is not None else "As at the start.", "")

        keeper.turns.add(lambda: keeper.go_to(position, done))

    def _walk(self, editor: LayerEditor, word: str) -> Edit | None:
        editor.flush()
        if not editor.is_open:
            self.say(f"There is nothing to {word}.", "")
            return None
        try:
            edit = editor.keeper.walk(word)
        except MaskloopError as error:
            self.say(str(error), "error")
            return None
        if edit is None:
            self.say(f"There is nothing to {word}.", "")
            return None
        past = "Undone" if word == "undo" else "Done again"
        self.say(f"{past}: {edit.words}.{self._turn_to(editor, edit)}", "")
        return edit

    def _turn_to(self, editor: LayerEditor, edit: Edit) -> str:
        """Choose the layer that a step was made on; return words where it is another one."""
        if edit.mask == editor.mask_name:
            return ""
        other = editor.keeper.editors.get(edit.mask)
        layer = other.layer if other is not None else None
        shown = [layers.bare(x) for x in self.viewer.layers]
        if layer is None or layer not in shown:
            return " Its layer is not in the window any more."
        self.viewer.layers.selection.active = layer
        return f" It was on {layer.name}."

    # What came of a step

    def tell(self, editor: LayerEditor, found: Change | MaskloopError) -> None:
        """Say what a step was refused."""
        if isinstance(found, MaskloopError):
            self.say(str(found), "error")
        elif found.refused is not None:
            self.refused.emit(editor, found)

    def insist(self, editor: LayerEditor, change: Change) -> None:
        """Make a step again, as one step, that may change what a person painted."""
        edit, refused = change.edit, change.refused
        if refused is None or editor.layer is None:
            return
        editor.flush()
        case, name = editor.case, editor.mask_name
        by_hand = refused.region & case.hand(refused.box, mask=name)
        box = around([refused.box, edit.box]) if edit.voxels else refused.box
        data, table = case.masks[name].data, case.masks[name].labels
        wanted = data[box].astype(np.promote_types(data.dtype, refused.wanted.dtype))
        inner = tuple(
            slice(part.start - out.start, part.stop - out.start)
            for part, out in zip(refused.box, box, strict=True)
        )
        wanted[inner][by_hand] = refused.wanted[by_hand]
        last = case.history.last
        try:
            if last is not None and replace(last, time=edit.time) == edit:
                editor.keeper.walk("undo")
            editor.change(
                wanted,
                box,
                labels=table,
                tool=edit.tool,
                words=f"{edit.words}, hand-painted voxels too",
                kind=edit.kind,
                author=edit.author,
                about=edit.about,
                over_hand=True,
            )
            self.say(
                f"{edit.words}: {np.count_nonzero(by_hand):,} voxels painted by hand changed too.",
                "good",
            )
        except MaskloopError as error:
            self.say(str(error), "error")

    def outside(self, editor: LayerEditor, stroke: Stroke) -> Region | None:
        """Return which voxels of a stroke's box lie outside the limits; None without limits."""
        if self.limits is None or not stroke.is_drawn:
            return None
        layer = editor.layer
        image = parents.image_behind(layer, [layers.bare(x) for x in self.viewer.layers])
        if image is None or image.rgb or image.multiscale:
            return None
        values = np.asarray(image.data[stroke.box])
        low, high = self.limits
        return np.asarray((values < low) | (values > high))

    def failed(self, error: Exception) -> None:
        """Say what an action raised; a bug goes to the log as well."""
        if isinstance(error, MaskloopError):
            self.say(str(error), "error")
            return
        _log.error("editing", exc_info=error)
        self.say(f"{type(error).__name__}: {error}", "error")

    def flush(self) -> None:
        """Wait until all strokes so far are steps."""
        for editor in self._editors:
            editor.flush()

    def close(self) -> None:
        """Write everything that is pending and let go of layers and folders."""
        self.flush()
        for editor in self._editors:
            editor.release()
        for keeper in self.keepers:
            try:
                keeper.close()
            except MaskloopError as error:
                self.say(str(error), "error")
        self._editors.clear()
        self._keepers.clear()


def _beside(work: Callable[[], Any], done: Callable[[Any], None], is_large: bool) -> Any:
    """Return an action that works beside the window where there is much to do."""  # Any: values

    def act() -> Slow | None:
        if is_large:
            return Slow(work, done)
        done(work())
        return None

    return act


def source_of(layer: layers.Layer, image: layers.Layer | None) -> Path | None:
    """Return the image file that a Labels layer lies on, or None."""
    place = layers.placement_of(layer)
    source = layers.placement_of(image).source if image is not None else None
    is_lost = place.is_guessed and place.geometry.ndim == 3
    if source is None or not source.exists() or is_lost:
        return None
    return source.resolve()


def suffix_of(layer: layers.Layer, image: layers.Layer | None) -> str:
    """Return a layer's name without that of its image, which may be a patient's."""
    name = str(image.name) if image is not None else ""
    found = str(layer.name).removeprefix(name).strip("_ ") if name else ""
    return found if found and found != str(layer.name) else "labels"

"""One Labels layer and its mask of a case: strokes of napari's become steps, steps are drawn."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import difference_box
from maskloop.core.case import Case, Change, Step
from maskloop.core.edits import Edit
from maskloop.core.errors import MaskloopError
from maskloop.core.geometry import Box
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask, as_ids
from maskloop.gui import layers
from maskloop.gui.choices import is_alive
from maskloop.gui.keeper import Keeper
from maskloop.gui.strokes import Stroke
from maskloop.gui.turns import Slow

if TYPE_CHECKING:
    from maskloop.gui.editing import Editors

Ids = npt.NDArray[Any]  # Any: labels come in every integer width

LARGE = 1 << 22  # voxels; more are compared, packed and drawn beside the window


class LayerEditor:
    """Binds one Labels layer to one mask of a case. The case holds the truth, the layer shows it.

    Parameters
    ----------
    layer : napari.layers.Labels
        On a numpy array.
    editors : Editors
        Knows the case of the layer's image.

    Attributes
    ----------
    place : Placement
        How the layer lies on the true grid.
    mask_name : str
        Which mask of the case it shows.
    """

    def __init__(self, layer: layers.Layer, editors: Editors) -> None:
        self._layer = weakref.ref(layer)
        self._editors = editors
        self.place = layers.placement_of(layer)
        self.mask_name = ""
        self._keeper: Keeper | None = None
        self._array: Ids = layer.data
        self._new: list[Stroke] = []  # their voxels may not be written yet
        self._waiting: list[Stroke] = []  # no steps yet, the new ones among them
        self._is_own = False
        self._was_slow = False
        self._is_replaced = False  # by an array that is not compared yet
        self._is_named = False
        layer.events.paint.connect(self._painted)
        layer.events.data.connect(self._replaced)
        layer.bind_key("Control-Z", lambda _: editors.undo(self), overwrite=True)
        layer.bind_key("Control-Shift-Z", lambda _: editors.redo(self), overwrite=True)

    # What there is

    @property
    def layer(self) -> Any:  # Any: napari layers are untyped
        """The layer; None once it is gone."""
        return self._layer()

    @property
    def keeper(self) -> Keeper:
        """Who keeps the case; opened at the first call."""
        if self._keeper is None:
            self._editors.open(self)
        if self._keeper is None:
            msg = "opening binds a layer to its case"
            raise RuntimeError(msg)
        return self._keeper

    @property
    def is_open(self) -> bool:
        """Whether the layer has a case; none is made for one that is only looked at."""
        return self._keeper is not None

    @property
    def is_barred(self) -> bool:
        """Whether the case of the layer's image is open for reading only."""
        return self._editors.is_barred(self)

    @property
    def case(self) -> Case:
        """The case, opened at the first call; ask anew each time: it moves from memory to disk."""
        return self.keeper.case

    @property
    def labels(self) -> LabelTable:
        """What the ids mean."""
        if self._keeper is not None and self._keeper.is_open:
            return self.case.masks[self.mask_name].labels
        layer = self.layer
        return LabelTable() if layer is None else layers.table_of(layer)

    # What a person or a tool does

    def change(self, ids: Ids, box: Box | None = None, **options: Any) -> Change:  # Any: as change
        """Change voxels of a box on the true grid; options as for `Case.change`.

        The layer follows, and what was refused is shown. May be called from any thread.
        """
        self.flush()
        options["about"] = self.facts(options.get("about") or {})
        change = self.case.change(_unsigned(ids), box=box, mask=self.mask_name, **options)
        if threading.current_thread() is threading.main_thread():
            self.settled(change)
        return change

    def change_later(
        self, ids: Ids, box: Box | None, done: Callable[[Change], None], **options: Any
    ) -> None:  # Any: as for `Case.change`
        """As `change`, beside the window where the box is large; `done` follows in the window."""
        options["about"] = self.facts(options.get("about") or {})

        def work() -> Change:
            return self.case.change(_unsigned(ids), box=box, mask=self.mask_name, **options)

        def end(change: Change) -> None:
            self.settled(change)
            done(change)

        def begin() -> Slow | None:
            if ids.size > LARGE:
                return Slow(work, end)
            end(work())
            return None

        self.take_strokes()
        self.keeper.turns.add(begin)

    def settled(self, change: Change) -> None:
        """Draw a change that was made, and tell what it was refused; in the window's thread."""
        self.keeper.deliver()
        self._editors.tell(self, change)

    def set_labels(self, table: LabelTable, words: str = "") -> Edit:
        """Give the mask another table, as one step."""
        self.flush()
        edit = self.case.set_labels(table, words, mask=self.mask_name)
        self.keeper.deliver()
        if self.layer is not None:
            self.show_table()
        return edit

    def undo(self) -> Edit | None:
        """Take back the last step of the case; return it."""
        return self._editors.undo(self)

    def redo(self) -> Edit | None:
        """Do again the step of the case that was taken back last; return it."""
        return self._editors.redo(self)

    def go_to(self, position: int) -> None:
        """Undo or redo until `position` steps of the case are applied."""
        self._editors.go_to(self, position)

    def subscribe(self, listener: Callable[[Step], None]) -> Callable[[], None]:
        """Call `listener`, in the window's thread, after each step of the case; return its end."""
        keeper = self.keeper
        keeper.stepped.connect(listener)

        def end() -> None:
            # The keeper is held by this: a signal whose owner is gone cannot be left.
            if is_alive(keeper):
                keeper.stepped.disconnect(listener)

        return end

    def flush(self) -> None:
        """Wait until all strokes so far are steps."""
        if threading.current_thread() is threading.main_thread():
            self.take_strokes()
            if self._keeper is not None:
                self._keeper.turns.wait()

    def release(self) -> None:
        """Let go of the layer."""
        layer = self.layer
        if layer is not None:
            layer.events.paint.disconnect(self._painted)
            layer.events.data.disconnect(self._replaced)
            layer.bind_key("Control-Z", None, overwrite=True)
            layer.bind_key("Control-Shift-Z", None, overwrite=True)

    # What napari does

    def _painted(self, event: Any) -> None:  # Any: napari events are untyped
        self.take_strokes()
        layer = self.layer
        stroke = None if layer is None else Stroke.of(event.value, str(layer.mode))
        if stroke is not None:
            self._new.append(stroke)
            self._waiting.append(stroke)
            # napari tells of a step before it writes the voxels, except for strokes of the mouse.
            self._editors.soon(self)

    def take_strokes(self) -> None:
        """Make steps of the strokes that napari has told of since the last call."""
        new, self._new = self._new, []
        for stroke in new:
            self.keeper.turns.add(partial(self._keep, stroke))

    def _replaced(self, event: Any = None) -> None:  # Any: napari events are untyped
        layer = self.layer
        if layer is None or self._is_own:
            return
        if not isinstance(layer.data, np.ndarray) or layer.data.shape != self._array.shape:
            self._editors.drop(self)
            return
        old, self._array = self._array, layer.data
        self._is_replaced = True
        self._editors.open(self, old)
        self.take_strokes()
        self.keeper.turns.add(self._keep_all)

    # Opening

    def bind(self, keeper: Keeper, mask_name: str) -> None:
        """Take the layer as showing this mask from now on."""
        self._keeper, self.mask_name = keeper, mask_name
        keeper.editors[mask_name] = self

    def start(self, array: Ids, table: LabelTable) -> Mask:
        """Return what an array of the layer's shape holds: a copy on the true grid, ids listed."""
        place = self.place
        data = np.array(place.restored(_unsigned(array)), order="C")
        return Mask(data, place.geometry, table, place.source).checked()

    def take_back_waiting(self, mask: Mask) -> None:
        """Take strokes that are no steps yet out of a mask, in place."""
        shown = self.place.shown(mask.data)
        for stroke in reversed(self._waiting):
            stroke.take_back(shown)

    # Steps from strokes

    def _keep(self, stroke: Stroke) -> Slow | None:
        layer = self.layer
        if layer is None:
            return None
        is_alone = self._waiting == [stroke] and not (self._was_slow or self._is_replaced)
        shown = self.place.shown(self.case.masks[self.mask_name].data)[stroke.box]
        if is_alone:
            wanted = layer.data[stroke.box]  # with whatever else was written there since
        else:
            wanted = shown.astype(layer.data.dtype)
            stroke.write(wanted, [part.start for part in stroke.box])
        outside = self._editors.outside(self, stroke)
        if outside is not None:
            wanted = np.where(outside, shown, wanted)
        is_large = stroke.size > LARGE
        if is_large:
            wanted = np.array(wanted)
        must_show = outside is not None or not is_alone

        def end(found: Change | MaskloopError) -> None:
            self._waiting.remove(stroke)
            self.keeper.deliver()
            self._forget()
            is_refused = isinstance(found, MaskloopError) or found.refused is not None
            if must_show or is_refused:
                self.show(self.place.true_box(stroke.box))
            self._was_slow = is_large
            self._editors.tell(self, found)

        work = partial(self._change, wanted, stroke.box, stroke.tool, self._words(stroke))
        if is_large:
            self._was_slow = True
            return Slow(work, end)
        end(work())
        return None

    def _words(self, stroke: Stroke) -> str:
        table = self.labels
        names = [table[i].name if i in table else f"label {i}" for i in stroke.ids]
        return f"{stroke.tool}: {', '.join(names[:3])}" if names else stroke.tool

    def _change(self, shown: Ids, box: Box, tool: str, words: str) -> Change | MaskloopError:
        """Make a person's step of what a box of the layer holds; an error is returned."""
        try:
            ids = self.place.restored(_unsigned(shown))
            with self.keeper.shown_already():
                return self.case.change(
                    ids,
                    box=self.place.true_box(box),
                    tool=tool,
                    words=words,
                    kind="person",
                    about=self.facts({}),
                    mask=self.mask_name,
                )
        except MaskloopError as error:
            return error

    def _keep_all(self) -> Slow:
        """Make one step of whatever the layer's whole array holds otherwise than the case."""
        array = self.layer.data

        def work() -> tuple[Box, Change | MaskloopError] | None:
            shown = self.place.shown(self.case.masks[self.mask_name].data)
            box = difference_box(shown, array)
            if box is None:
                return None
            return box, self._change(np.array(array[box]), box, "replace", "replaced")

        def end(found: tuple[Box, Change | MaskloopError] | None) -> None:
            self._is_replaced = False
            self.keeper.deliver()
            self._forget()
            if found is not None:
                box, change = found
                if isinstance(change, MaskloopError) or change.refused is not None:
                    self.show(self.place.true_box(box))
                self._editors.tell(self, change)

        return Slow(work, end)

    def facts(self, facts: Mapping[str, Any]) -> dict[str, Any]:  # Any: plain JSON values
        """Return the facts of a step; the first of a mask tells what its layer is called."""
        if self._is_named:
            return dict(facts)
        self._is_named = True
        return {**facts, "layer": self._editors.suffix_of(self)}

    def _forget(self) -> None:
        """Empty napari's own history: it would hold each step a second time."""
        layer = self.layer
        for name in ("_undo_history", "_redo_history"):
            own = getattr(layer, name, None)
            if own is not None:
                own.clear()

    # Showing

    def show(self, box: Box) -> None:
        """Write a box of the case, on the true grid, into the layer."""
        layer = self.layer
        if layer is None or self._is_replaced:
            return
        data = self.case.masks[self.mask_name].data
        self._make_room(layer, data[box])
        target, within = layer.data, self.place.shown_box(box)
        region = self.place.shown(data)[within]
        if region.size <= LARGE:
            target[within] = region
            self._drawn()
            return
        self.keeper.turns.add(lambda: Slow(lambda: _copy(region, target, within), self._drawn))

    def _drawn(self, _: object = None) -> None:
        layer = self.layer
        if layer is not None:
            for stroke in self._waiting:
                stroke.write(layer.data)
            layer.refresh(thumbnail=False, extent=False)

    def show_table(self) -> None:
        """Give the layer the names and colours of the case."""
        layer = self.layer
        if layer is not None:
            layers.set_table(layer, self.case.masks[self.mask_name].labels)
            self.place = layers.placement_of(layer)

    def _make_room(self, layer: layers.Layer, ids: Ids) -> None:
        highest = int(ids.max(initial=0)) if ids.dtype.itemsize > layer.data.dtype.itemsize else 0
        if highest > np.iinfo(layer.data.dtype).max:
            self.replace_array(layer.data.astype(ids.dtype))

    def replace_array(self, array: Ids) -> None:
        """Give the layer another array that holds the same ids."""
        self._is_own = True
        try:
            self.layer.data = array
        finally:
            self._is_own = False
        self._array = array
        self._forget()


def _unsigned(ids: Ids) -> Ids:
    return ids if ids.dtype.kind == "u" else as_ids(ids)


def _copy(ids: Ids, target: Ids, box: Box) -> None:
    target[box] = ids


def refusal_of(layer: layers.Layer) -> str:
    """Return why a Labels layer cannot be corrected as part of a case, or ""."""
    kind = type(layer.data).__module__.split(".")[0]
    if layer.multiscale:
        return f"{layer.name} is multiscale; napari cannot edit it."
    if not isinstance(layer.data, np.ndarray):
        return (
            f"{layer.name} lies in a {kind} array: napari paints on it, but its steps are not "
            "kept here. Export it and open the file to correct it with a history."
        )
    if not layer.data.flags.writeable:
        return f"{layer.name} lies in an array that cannot be written; duplicate the layer first."
    return ""

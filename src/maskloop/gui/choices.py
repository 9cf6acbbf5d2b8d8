"""A menu of the viewer's layers of one kind, true while layers come, go and change name."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from qtpy import compat
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QSizePolicy

from maskloop.gui.layers import bare
from maskloop.gui.placement import GHOST

is_alive: Callable[[object], bool] = compat.isalive


def slim(box: QComboBox) -> QComboBox:
    """Let a menu be narrower than its longest entry; return it."""
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(10)
    box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return box


class LayerChoice(QComboBox):
    """Choose one layer; follows what is selected in napari's layer list.

    Parameters
    ----------
    viewer : napari.Viewer
    kind : str
        ``"Image"`` or ``"Labels"``.
    empty : str
        Shown where there is no such layer.

    Signals
    -------
    changed()
        Another layer is chosen, or the chosen one was renamed.
    """

    changed = Signal()

    def __init__(self, viewer: Any, kind: str, empty: str) -> None:  # Any: napari is untyped
        super().__init__()
        slim(self)
        self._kind = kind
        self._empty = empty
        self._viewer = viewer
        self._layers: list[weakref.ref[Any]] = []
        self._named: list[weakref.ref[Any]] = []
        events = viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered):
            event.connect(self._refill)
        viewer.layers.selection.events.active.connect(self._follow)
        self.currentIndexChanged.connect(lambda _: self.changed.emit())
        self._refill()
        self._follow()

    @property
    def layer(self) -> Any:  # Any: napari layers are untyped
        """The chosen layer, or None."""
        index = self.currentIndex()
        return self._layers[index]() if 0 <= index < len(self._layers) else None

    def choose(self, layer: Any) -> None:  # Any: napari layers are untyped
        """Choose this layer if it is in the menu."""
        for index, known in enumerate(self._layers):
            if known() is bare(layer):
                self.setCurrentIndex(index)

    def release(self) -> None:
        """Stop listening to the viewer."""
        events = self._viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered):
            event.disconnect(self._refill)
        self._viewer.layers.selection.events.active.disconnect(self._follow)
        for known in self._named:
            if (layer := known()) is not None:
                layer.events.name.disconnect(self._refill)
        self._named.clear()

    def _refill(self, event: Any = None) -> None:  # Any: napari events are untyped
        if not is_alive(self):
            return
        chosen = self.layer
        layers = [bare(layer) for layer in self._viewer.layers]
        shown = [layer for layer in reversed(layers) if GHOST not in layer.metadata]
        found = [layer for layer in shown if type(layer).__name__ == self._kind]
        before = self.blockSignals(True)
        self.clear()
        self._layers = [weakref.ref(layer) for layer in found]
        self.addItems([layer.name for layer in found] or [self._empty])
        if any(layer is chosen for layer in found):
            self.choose(chosen)
        self.blockSignals(before)
        self.setEnabled(bool(found))
        heard = [known() for known in self._named]
        for layer in found:
            if not any(layer is known for known in heard):
                layer.events.name.connect(self._refill)
                self._named.append(weakref.ref(layer))
        self.changed.emit()

    def _follow(self, event: Any = None) -> None:  # Any: napari events are untyped
        if is_alive(self):
            self.choose(self._viewer.layers.selection.active)

"""The outline of what a step was refused: shown until the next step, never edited or exported."""

from __future__ import annotations

from typing import Any

import numpy as np

from maskloop.core.authors import Refused
from maskloop.gui import layers
from maskloop.gui.layer_editor import LayerEditor
from maskloop.gui.placement import GHOST

NAME = "refused"
COLOUR = "#ff5ad1"  # none of the classes' own colours
_ROOM = 2  # voxels round the box: napari draws no outline at an array's very edge


class Ghost:
    """Outlines refused voxels on a layer of its own, no larger than they are.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: Any) -> None:  # Any: napari is untyped
        self._viewer = viewer
        self._layer: Any = None  # Any: a napari layer

    @property
    def layer(self) -> Any:  # Any: a napari layer
        """The layer, or None while nothing is outlined."""
        is_there = any(layers.bare(x) is self._layer for x in self._viewer.layers)
        return self._layer if is_there else None

    def show(self, editor: LayerEditor, refused: Refused) -> None:
        """Outline what a step on a layer was refused."""
        from napari.layers import Layer

        self.clear()
        below = editor.layer
        if below is None:
            return
        region = editor.place.shown(refused.region)
        box = editor.place.shown_box(refused.box)
        room = [(min(_ROOM, part.start), _ROOM) for part in box]
        ids = np.pad(region.astype(np.uint8), room)
        start = [part.start - before for part, (before, _) in zip(box, room, strict=True)]
        moved = np.asarray(below.translate) + np.asarray(below.scale) * start
        options = {**layers.layout_of(below), "translate": moved}
        options |= {"name": NAME, "metadata": {GHOST: True}, "opacity": 1.0}
        options["colormap"] = {None: "transparent", 0: "transparent", 1: COLOUR}
        chosen = self._viewer.layers.selection.active
        made = Layer.create(ids, options, "labels")
        made.contour = 2
        made.editable = False
        self._layer = layers.bare(self._viewer.add_layer(made))
        self._viewer.layers.selection.active = chosen

    def clear(self) -> None:
        """Take the outline away."""
        layer = self.layer
        self._layer = None
        if layer is not None:
            chosen = self._viewer.layers.selection.active
            self._viewer.layers.remove(layer)
            if chosen is not None and layers.bare(chosen) is not layer:
                self._viewer.layers.selection.active = chosen

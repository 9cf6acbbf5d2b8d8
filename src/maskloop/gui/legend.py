"""Names of the classes in their colours, written into a corner of the picture."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

from napari.components.overlays import TextOverlay

from maskloop.core.labels import LabelTable
from maskloop.core.mask import present_ids
from maskloop.gui import layers

MOST = 12  # lines; a longer legend hides the picture
_LARGE = 1 << 24  # voxels above which nobody waits until the ids that occur are found
_POINTS = 10
_MORE = "#d0d0d0"


class Legend:
    """Follows the visible Labels layers: classes by name, objects by how many there are of a kind.

    Objects alone have no legend: each has a colour of its own.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: Any) -> None:  # Any: napari is untyped
        self._viewer = viewer
        self._is_wanted = True
        self._lines: list[TextOverlay] = []
        self._heard: list[weakref.ref[Any]] = []  # Any: napari layers are untyped
        events = viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered):
            event.connect(self._follow)
        self._follow()

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Text and colour of each line shown."""
        return [(line.text, _hexadecimal(line.color)) for line in self._lines if line.visible]

    @property
    def is_wanted(self) -> bool:
        """Whether there is to be a legend."""
        return self._is_wanted

    @is_wanted.setter
    def is_wanted(self, value: bool) -> None:
        self._is_wanted = value
        self.refresh()

    def refresh(self, event: Any = None) -> None:  # Any: napari events are untyped
        """Write the lines again."""
        rows = self._rows() if self._is_wanted else []
        more = len(rows) - MOST
        if more > 0:
            rows = [*rows[: MOST - 1], (f"and {more + 1} more", _MORE)]
        while len(self._lines) < len(rows):
            self._add_line()
        for number, line in enumerate(self._lines):
            text, colour = rows[number] if number < len(rows) else ("", _MORE)
            if number < len(rows):
                line.text, line.color = text, colour
            line.visible = number < len(rows)

    def release(self) -> None:
        """Stop following; take the lines away."""
        events = self._viewer.layers.events
        for event in (events.inserted, events.removed, events.reordered):
            event.disconnect(self._follow)
        for known in self._heard:
            if (layer := known()) is not None:
                _disconnect(layer, self.refresh)
        self._heard.clear()
        overlays = self._viewer.canvas.overlays
        for number, line in enumerate(self._lines):
            # A panel opened again has put its own lines there.
            if overlays.get(_name(number)) is line:
                overlays.pop(_name(number))
        self._lines.clear()

    def _follow(self, event: Any = None) -> None:  # Any: napari events are untyped
        heard = [known() for known in self._heard]
        for layer in self._labels():
            if not any(layer is known for known in heard):
                for source in _events(layer):
                    source.connect(self.refresh)
                self._heard.append(weakref.ref(layer))
        self.refresh()

    def _labels(self) -> list[Any]:  # Any: napari layers are untyped
        bare = [layers.bare(layer) for layer in reversed(list(self._viewer.layers))]
        return [layer for layer in bare if type(layer).__name__ == "Labels"]

    def _rows(self) -> list[tuple[str, str]]:
        found: dict[tuple[str, str], None] = {}
        for layer in self._labels():
            table = layers.table_of(layer)
            if layer.visible and table:
                found.update(dict.fromkeys(_rows_of(layer, table)))
        return list(found)

    def _add_line(self) -> None:
        overlays = self._viewer.canvas.overlays
        name = _name(len(self._lines))
        line = TextOverlay(position="top_left", font_size=_POINTS, box=True, visible=False)
        overlays.pop(name, None)
        overlays[name] = line
        self._lines.append(line)


def _rows_of(layer: Any, table: LabelTable) -> list[tuple[str, str]]:  # Any: a napari layer
    rows = [row for row in table.values() if row.visible and row.category is None]
    if len(rows) > MOST and layer.data.size <= _LARGE:
        held = set(present_ids(layer.data))
        rows = [row for row in rows if row.id in held]
    if not rows:
        return []
    kinds = Counter(row.category for row in table.values() if row.visible and row.category)
    counts = [(f"{kind}: {number}, each its own colour", _MORE) for kind, number in kinds.items()]
    return [*((f"\N{BLACK SQUARE} {row.name}", row.colour) for row in rows), *counts]


def _events(layer: Any) -> tuple[Any, ...]:  # Any: napari is untyped
    return layer.events.visible, layer.events.colormap, layer.events.features


def _disconnect(layer: Any, follower: Any) -> None:  # Any: napari is untyped
    for source in _events(layer):
        source.disconnect(follower)


def _hexadecimal(colour: Any) -> str:  # Any: four numbers from 0 to 1
    return "#" + "".join(f"{round(float(part) * 255):02x}" for part in colour[:3])


def _name(number: int) -> str:
    return f"maskloop_legend_{number}"

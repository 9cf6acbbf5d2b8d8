"""Keep the patient's head up and right side where it is expected; write the letters."""

from __future__ import annotations

from typing import Any

from napari.components.overlays import TextOverlay

from maskloop.gui import layers
from maskloop.gui.bearing import MARK, Convention, Facing, edges, facing_of, guide_of

_PLACES = {
    "top": "top_center",
    "bottom": "bottom_center",
    "left": "middle_left",
    "right": "middle_right",
}
_POINTS = 14


class Upright:
    """Follows the viewer's axes and layers; turns the camera only, never an array or an affine.

    Volumes are shown with slices counted from the feet, so that 3D is no mirror image; coronal and
    sagittal planes would stand on their heads.

    Parameters
    ----------
    viewer : napari.Viewer
    convention : {"radiological", "neurological"}
        Whether the patient's right is on screen left or on screen right.
    """

    def __init__(
        self,
        viewer: Any,  # Any: napari is untyped
        convention: Convention = "radiological",
    ) -> None:
        self._viewer = viewer
        self._convention = convention
        self._was_turned = False
        self._marks = {}
        for edge, place in _PLACES.items():
            mark = TextOverlay(position=place, color=MARK, font_size=_POINTS, box=False)
            viewer.canvas.overlays.pop(_name(edge), None)
            viewer.canvas.overlays[_name(edge)] = mark
            self._marks[edge] = mark
        for event in self._events():
            event.connect(self._turn)
        viewer.scene.camera.events.orientation.connect(self._write)
        self._turn()

    @property
    def convention(self) -> Convention:
        """Whether the patient's right is on screen left or on screen right."""
        return self._convention

    @convention.setter
    def convention(self, value: Convention) -> None:
        self._convention = value
        self._turn()

    @property
    def letters(self) -> dict[str, str]:
        """What stands at the edges ``top bottom left right``; empty where nothing does."""
        shown = {edge: mark.text for edge, mark in self._marks.items() if mark.visible}
        return {edge: text for edge, text in shown.items() if text}

    def release(self) -> None:
        """Stop following; take the letters away."""
        for event in self._events():
            event.disconnect(self._turn)
        self._viewer.scene.camera.events.orientation.disconnect(self._write)
        overlays = self._viewer.canvas.overlays
        for edge, mark in self._marks.items():
            # A panel opened again has put its own letters there.
            if overlays.get(_name(edge)) is mark:
                overlays.pop(_name(edge))

    def _events(self) -> list[Any]:  # Any: napari events are untyped
        dims, listed = self._viewer.dims.events, self._viewer.layers.events
        active = self._viewer.layers.selection.events.active
        of_layers = [listed.inserted, listed.removed, listed.reordered, active]
        return [dims.order, dims.ndim, dims.ndisplay, dims.axis_labels, *of_layers]

    def _turn(self, event: Any = None) -> None:  # Any: napari events are untyped
        dims, camera = self._viewer.dims, self._viewer.scene.camera
        guide = self._guide()
        if guide is not None:
            facing = facing_of(guide, tuple(dims.order), self._convention)
        elif self._was_turned:
            facing = Facing()
        else:
            self._write()
            return
        self._was_turned = guide is not None
        depth, vertical, horizontal = camera.orientation
        if (str(vertical), str(horizontal)) != (facing.vertical, facing.horizontal):
            camera.orientation = (depth, facing.vertical, facing.horizontal)
        self._write()

    def _write(self, event: Any = None) -> None:  # Any: napari events are untyped
        dims = self._viewer.dims
        guide = self._guide()
        _, vertical, horizontal = (str(part) for part in self._viewer.scene.camera.orientation)
        texts: dict[str, str] = dict.fromkeys(_PLACES, "")
        if guide is not None:
            facing = Facing(
                "up" if vertical == "up" else "down", "left" if horizontal == "left" else "right"
            )
            found = edges(guide, tuple(dims.order), facing)
            texts = {edge: getattr(found, edge) for edge in _PLACES}
        for edge, mark in self._marks.items():
            mark.text = texts[edge]
            mark.visible = bool(texts[edge])

    def _guide(self) -> layers.Layer | None:
        dims = self._viewer.dims
        return guide_of(self._viewer) if dims.ndim >= 3 and dims.ndisplay == 2 else None


def _name(edge: str) -> str:
    return f"maskloop_{edge}"

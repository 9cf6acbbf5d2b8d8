"""Keep the patient's head up: turn the picture over where its rows run upwards."""

from __future__ import annotations

from typing import Any

UPWARDS = ("S",)


class Upright:
    """Follows the viewer's axes; volumes only, and only those that say where their axes lead.

    Volumes are shown with slices counted from the feet, so that 3D is no mirror image; coronal and
    sagittal planes would stand on their heads.
    """

    def __init__(self, viewer: Any) -> None:  # Any: napari is untyped
        self._viewer = viewer
        viewer.dims.events.order.connect(self._turn)
        viewer.dims.events.axis_labels.connect(self._turn)
        viewer.dims.events.ndisplay.connect(self._turn)
        self._turn()

    def release(self) -> None:
        """Stop following."""
        dims = self._viewer.dims
        for event in (dims.events.order, dims.events.axis_labels, dims.events.ndisplay):
            event.disconnect(self._turn)

    def _turn(self, event: Any = None) -> None:  # Any: napari events are untyped
        dims = self._viewer.dims
        if dims.ndim < 2:
            return
        rows = str(dims.axis_labels[dims.order[-2]])
        camera = self._viewer.scene.camera
        depth, vertical, horizontal = camera.orientation
        wanted = "up" if dims.ndisplay == 2 and rows in UPWARDS else "down"
        if str(vertical) != wanted:
            camera.orientation = (depth, wanted, horizontal)

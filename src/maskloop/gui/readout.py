"""What lies under the mouse: patient millimetres, value, label, and the stored index; no Qt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskloop.gui import bearing, layers
from maskloop.gui.placement import KEY, Placement


@dataclass(frozen=True, slots=True)
class Spot:
    """One point of an image.

    Parameters
    ----------
    point : array, optional
        RAS+ mm through the true affine; None where the image has no known place in a patient.
    index : tuple of int
        Of the nearest voxel in the stored array, leading axes (time) first.
    at : tuple of int
        Of the same voxel in the layer's array.
    """

    point: npt.NDArray[np.float64] | None
    index: tuple[int, ...]
    at: tuple[int, ...]


def spot_at(
    layer: layers.Layer, position: npt.ArrayLike, displayed: tuple[int, ...] = ()
) -> Spot | None:
    """Return what a layer has at a position of the viewer's world, or None outside of it.

    Parameters
    ----------
    layer : napari.layers.Image or napari.layers.Labels
    position : sequence of float
        One number an axis of the viewer.
    displayed : tuple of int
        Axes of the viewer that the screen shows; along the others the slice shown is meant.
    """
    where = np.asarray(position, dtype=np.float64)
    first = len(where) - layer.ndim
    if first < 0:
        return None
    found = np.array(layer.world_to_data(where[first:]), dtype=np.float64)
    shape = layers.shape_of(layer)
    at = tuple(int(i) for i in np.floor(found + 0.5))
    if any(not 0 <= i < n for i, n in zip(at, shape, strict=True)):
        return None
    if displayed:
        hidden = [a for a in range(layer.ndim) if a + first not in displayed]
        found[hidden] = np.array(at)[hidden]
    place = layers.placement_of(layer)
    grid = place.geometry
    true, stored = np.empty(grid.ndim), list(at)
    for axis, (source, is_flipped) in enumerate(zip(place.axes, place.flips, strict=True)):
        own, last = place.lead + axis, grid.shape[source] - 1
        true[source] = last - found[own] if is_flipped else found[own]
        stored[place.lead + source] = last - at[own] if is_flipped else at[own]
    point = grid.to_world(true) if bearing.knows_patient(layer) else None
    return Spot(point, tuple(stored), at)


class Readout:
    """Words for the mouse's position.

    Parameters
    ----------
    viewer : napari.Viewer
    """

    def __init__(self, viewer: Any) -> None:  # Any: napari is untyped
        self._viewer = viewer
        self._seen: tuple[Any, bool] | None = None  # Any: the image last asked about

    def text(
        self,
        position: npt.ArrayLike,
        image: layers.Layer | None,
        labels: layers.Layer | None,
    ) -> str:
        """Return up to two lines; empty in 3D and beside the layers.

        Parameters
        ----------
        position : sequence of float
            In the viewer's world, as ``viewer.cursor.position``.
        image, labels : napari layer, optional
            Whose value and label to tell.
        """
        dims = self._viewer.dims
        if dims.ndisplay != 2:
            return ""
        shown = tuple(dims.displayed)
        spots = [
            (x, spot_at(x, position, shown)) for x in (image, labels) if x is not None and x.visible
        ]
        inside = [(layer, spot) for layer, spot in spots if spot is not None]
        if not inside:
            return ""
        words = [self._words(layer, spot, layer is labels) for layer, spot in inside]
        spot = inside[0][1]
        words.append(f"[{', '.join(map(str, spot.index))}]")
        point = "" if spot.point is None else bearing.in_words(spot.point) + "\n"
        return point + " · ".join(word for word in words if word)

    def _words(self, layer: layers.Layer, spot: Spot, is_labels: bool) -> str:
        value = value_at(layer, spot.at)
        if value is None:
            return ""
        if is_labels:
            number = int(value)
            return f"{name_of(layer, number)} ({number})" if number else "background"
        if layer.rgb:
            return " ".join(_number(v) for v in np.atleast_1d(value))
        return f"{_number(value)}{' HU' if self._is_ct(layer) else ''}"

    def _is_ct(self, layer: layers.Layer) -> bool:
        if self._seen is None or self._seen[0] is not layer.data:
            self._seen = (layer.data, layers.is_ct(layer))
        return self._seen[1]


def _number(value: Any) -> str:  # Any: a numpy scalar
    return str(int(value)) if np.asarray(value).dtype.kind in "biu" else f"{float(value):.6g}"


def value_at(layer: layers.Layer, at: tuple[int, ...]) -> Any:  # Any: a number, or colours
    """Return a layer's value at an index of its array; None where that would mean computing."""
    data = layer.data[0] if layer.multiscale else layer.data
    return data[at] if isinstance(data, np.ndarray) else None


def name_of(layer: layers.Layer, number: int) -> str:
    """Return the name of a label, or ``"label"`` where it has none."""
    own = layer.metadata.get(KEY)
    if isinstance(own, Placement) and own.labels:
        row = own.labels.get(number)
        return row.name if row is not None else "label"
    features = layer.features
    if not {"index", "name"} <= set(features.columns):
        return "label"
    found = features["name"][features["index"] == number]
    return str(found.iloc[0]) if len(found) else "label"

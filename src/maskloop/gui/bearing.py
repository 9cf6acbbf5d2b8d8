"""Which way the patient lies on the screen, and where a point of it is in the patient; no Qt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.geometry import Geometry
from maskloop.gui import layers

Convention = Literal["radiological", "neurological"]
MARK = "#ffd54a"  # of letters and crosshair, on every plane
CONVENTIONS: tuple[Convention, ...] = ("radiological", "neurological")

_ENDS = (("L", "R"), ("P", "A"), ("I", "S"))
_OPPOSITE = dict(zip("LRPAIS", "RLAPSI", strict=True))
# About 17 degrees: below that a second letter would tell the person less than it distracts.
_TELLING = 0.3
# Where each plane is expected to begin: head, face, and the side that the convention names.
_TOP = ("S", "A")
Vectors = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Edges:
    """Letters of the directions in which the patient continues beyond each edge of the picture."""

    top: str
    bottom: str
    left: str
    right: str


@dataclass(frozen=True, slots=True)
class Facing:
    """How the camera must be turned: napari's ``orientation2d``."""

    vertical: Literal["up", "down"] = "down"
    horizontal: Literal["left", "right"] = "right"


def knows_patient(layer: layers.Layer) -> bool:
    """Whether a layer's voxels have a known place in a patient."""
    place = layers.placement_of(layer)
    geometry = place.geometry
    if place.is_guessed or geometry.ndim != 3 or geometry.unit != "mm":
        return False
    # Stacks of pictures may know their spacing, never where the patient's left is.
    suffix = place.source.suffix.lower() if place.source is not None else ""
    return suffix not in (".tif", ".tiff", ".png", ".jpg", ".jpeg")


def guide_of(viewer: Any) -> layers.Layer | None:  # Any: napari is untyped
    """Return the layer that says where the patient lies: the active one, else the topmost."""
    active = viewer.layers.selection.active
    known = [layers.bare(x) for x in reversed(list(viewer.layers)) if _is_grid(x)]
    fitting = [layer for layer in known if knows_patient(layer)]
    if any(layer is layers.bare(active) for layer in fitting):
        return layers.bare(active)
    return fitting[0] if fitting else None


def _is_grid(layer: layers.Layer) -> bool:
    return type(layers.bare(layer)).__name__ in ("Image", "Labels")


def directions(layer: layers.Layer, ndim: int) -> Vectors:
    """Return where each of the viewer's last axes leads in the patient.

    Parameters
    ----------
    layer : napari.layers.Layer
        One that `knows_patient`.
    ndim : int
        Number of the viewer's axes.

    Returns
    -------
    array of shape (ndim, 3)
        RAS+ vector of a unit step along each viewer axis; zeros for axes that are not spatial.
    """
    place = layers.placement_of(layer)
    grid = place.geometry.transposed(place.axes, place.flips).affine[:3, :3]
    own = layer.ndim
    origin = np.asarray(layer.world_to_data((0.0,) * own), dtype=np.float64)
    steps = [np.asarray(layer.world_to_data(one)) - origin for one in np.eye(own)]
    found = np.zeros((ndim, 3))
    for axis in range(max(0, own - ndim), own):
        found[ndim - own + axis] = grid @ steps[axis][place.lead :]
    return found


def letters(direction: npt.ArrayLike) -> str:
    """Return the letters of a RAS+ direction, strongest first: ``"L"``, or ``"AL"`` where oblique.

    Examples
    --------
    >>> letters((-1, 0.1, 0))
    'L'
    >>> letters((-0.6, 0.8, 0))
    'AL'
    """
    vector = np.asarray(direction, dtype=np.float64)
    size = float(np.linalg.norm(vector))
    if size == 0:
        return ""
    parts = np.abs(vector) / size
    order = [int(i) for i in np.argsort(-parts, kind="stable") if parts[i] > _TELLING]
    return "".join(_ENDS[i][int(vector[i] > 0)] for i in order[:2])


def opposite(text: str) -> str:
    """Return the letters of the opposite direction."""
    return "".join(_OPPOSITE[letter] for letter in text)


def edges(layer: layers.Layer, order: tuple[int, ...], facing: Facing) -> Edges:
    """Return the letters at the four edges of the plane spanned by the last two of `order`."""
    found = directions(layer, len(order))
    down, right = letters(found[order[-2]]), letters(found[order[-1]])
    if facing.vertical == "up":
        down = opposite(down)
    if facing.horizontal == "left":
        right = opposite(right)
    return Edges(opposite(down), down, opposite(right), right)


def facing_of(
    layer: layers.Layer, order: tuple[int, ...], convention: Convention = "radiological"
) -> Facing:
    """Return how to turn the camera: head or face up; the patient's right where it is expected.

    Radiological: the patient's right on screen left, as seen from the feet. Neurological: on
    screen right. Planes without left and right have the face on screen left.
    """
    found = directions(layer, len(order))
    nearest = _nearest(found)
    rows, columns = nearest.get(order[-2], ""), nearest.get(order[-1], "")
    left = {"R": "R", "L": "R", "A": "A", "P": "A"}.get(columns, "")
    if convention == "neurological" and left == "R":
        left = "L"
    return Facing(
        "up" if rows in _TOP else "down",
        "left" if left and columns == left else "right",
    )


def _nearest(found: Vectors) -> dict[int, str]:
    """Return the letter that each spatial axis follows most closely, each letter pair once."""
    spatial = [axis for axis, vector in enumerate(found) if vector.any()]
    if len(spatial) != 3:
        return {}
    affine = np.eye(4)
    affine[:3, :3] = found[spatial].T
    return dict(zip(spatial, Geometry((1, 1, 1), affine).orientation, strict=True))


def in_words(point: npt.ArrayLike) -> str:
    """Return a RAS+ point in mm with its letters.

    Examples
    --------
    >>> in_words((12.34, -45.6, 0))
    'R 12.3  P 45.6  S 0.0 mm'
    """
    values = np.asarray(point, dtype=np.float64)
    parts = (f"{_ENDS[i][int(v >= 0)]} {abs(v):.1f}" for i, v in enumerate(values))
    return f"{'  '.join(parts)} mm"

"""Outline what has an edge: a wire that snaps to edges, or the level line through a point."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError
from maskloop.core.geometry import Box
from maskloop.core.image import Image
from maskloop.core.mask import Mask
from maskloop.core.parameters import Points
from maskloop.ops import paths, strokes
from maskloop.ops.intensity import blurred, intensities
from maskloop.tools.base import traits
from maskloop.tools.options import PaintOver, SliceAxis


@traits(
    reach=lambda values: values["within"] + 4 * values["blur"] + max(values["spacing"]),
    around=("points",),
    others=True,
    by_hand=True,
    needs=("image", "points"),
    starts_empty=True,
)
def livewire(
    mask: Mask,
    image: Image | None = None,
    *,
    label: int,
    anchors: Annotated[
        Points | None,
        {
            "shape": "points",
            "label": "anchors",
            "tooltip": "Points near the edge, in order round it; for a level, one on the edge.",
        },
    ] = None,
    mode: Annotated[
        Literal["edges", "level"],
        {
            "label": "follow",
            "tooltip": "The strongest edges from anchor to anchor, or the level of one point.",
        },
    ] = "edges",
    snap: Annotated[
        float,
        {
            "min": 0.0,
            "max": 50.0,
            "step": 0.5,
            "label": "snap within (mm; pixels in a picture)",
            "tooltip": "How far an anchor is moved to the steepest place near it.",
        },
    ] = 2.0,
    blur: Annotated[
        float,
        {
            "min": 0.0,
            "max": 20.0,
            "step": 0.5,
            "label": "blur (mm; pixels in a picture)",
            "tooltip": "Gaussian before edges are looked for; more for noisy images.",
        },
    ] = 1.0,
    within: Annotated[
        float,
        {
            "min": 1.0,
            "max": 5000.0,
            "label": "no further than (mm; pixels in a picture)",
            "tooltip": "How far from the anchors the outline may run.",
        },
    ] = 100.0,
    axis: SliceAxis = "auto",
    over: PaintOver = "all",
) -> npt.NDArray[Any]:
    """Fill an outline that follows the image on one slice.

    Parameters
    ----------
    mask : Mask
        Ids ``(z, y, x)`` or ``(y, x)``.
    image : Image
        Intensities on the mask's grid; of a colour picture, its grey.
    label : int
        The id to fill with.
    anchors : Points
        On one slice, in array index order; the wire is closed from the last to the first.
    mode : {"edges", "level"}
        Least-cost paths along edges between anchors, or the level line through each anchor.
    snap : float
        How far an anchor is moved to the steepest place, in the unit of the grid.
    blur : float
        Standard deviation of the Gaussian before, in the unit of the grid.
    within : float
        How far from the anchors' box the outline may run.
    axis : {"auto", "z", "y", "x"}
        Array axis across the slice.
    over : {"all", "background"}
        What may be filled over.

    Returns
    -------
    array of unsigned int
        New ids; only voxels of the anchors' slice differ.

    Raises
    ------
    InputError
        If anchors or image are missing, the anchors lie on several slices, or on nothing that has
        an edge.
    """
    if not anchors:
        msg = "expected anchors for livewire, got none; set some round the edge"
        raise InputError(msg)
    pixels = intensities(image, of="livewire")
    ids = strokes.room_for(mask, label)
    across, number = strokes.slice_of(anchors, ids.shape, axis, of="livewire")
    kept = [k for k in range(ids.ndim) if k != across]
    whole = tuple(slice(None) if k in kept else number for k in range(ids.ndim))
    spacing = [mask.geometry.spacing[k] for k in kept]
    corners = np.array([[anchor[k] for k in kept] for anchor in anchors])
    plane, planes = pixels[whole], ids[whole]
    box = _box(corners, spacing, within, plane.shape)
    values = blurred(plane, box, spacing, blur)
    inner = (corners - [part.start for part in box]).tolist()
    if mode == "edges":
        region = paths.along_edges(values, spacing, inner, snap=snap)
    else:
        region = np.zeros(values.shape, dtype=bool)
        for corner in inner:
            region |= paths.level_at(values, corner, of="livewire")
    planes[box][region & strokes.taken(mask, label, whole, over=over)[box]] = label
    return ids


def _box(
    corners: npt.NDArray[np.float64], spacing: list[float], distance: float, shape: tuple[int, ...]
) -> Box:
    """Return the part of a plane no further than the distance from the corners' box."""
    more = [math.floor(distance / step) for step in spacing]
    low, high = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
    return tuple(
        slice(min(max(0, int(a) - m), n - 1), max(1, min(n, int(b) + m + 1)))
        for a, b, m, n in zip(low, high, more, shape, strict=True)
    )

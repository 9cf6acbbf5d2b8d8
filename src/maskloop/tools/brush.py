"""Paint or erase along a path, with a ball or a disc in millimetres."""

from __future__ import annotations

from typing import Annotated, Any

import numpy.typing as npt

from maskloop.core.errors import InputError
from maskloop.core.image import Image
from maskloop.core.mask import Mask
from maskloop.ops import strokes
from maskloop.tools.base import traits
from maskloop.tools.options import PaintOver, SliceAxis, StrokeForm, StrokePath, StrokeRadius


@traits(
    reach=lambda values: values["radius"],
    around=("points",),
    others=True,
    by_hand=True,
    needs=("points",),
    starts_empty=True,
)
def brush(
    mask: Mask,
    image: Image | None = None,
    *,
    label: int,
    path: StrokePath = None,
    radius: StrokeRadius = 5.0,
    form: StrokeForm = "ball",
    axis: SliceAxis = "auto",
    erase: Annotated[
        bool,
        {"label": "erase", "tooltip": "Take this label's voxels away instead of painting."},
    ] = False,
    over: PaintOver = "all",
) -> npt.NDArray[Any]:
    """Paint a label along a path, or erase it there.

    Parameters
    ----------
    mask : Mask
        Ids ``(z, y, x)`` or ``(y, x)``.
    image : Image, optional
        Not used.
    label : int
        The id to paint or erase.
    path : Points
        Corners of the path in array index order, joined by straight lines.
    radius : float
        Between voxel centres, in the unit of the grid; true to unequal spacing.
    form : {"ball", "disc"}
        What moves along the path.
    axis : {"auto", "z", "y", "x"}
        Array axis across the slices of a disc.
    erase : bool
        Whether this label's voxels become background; other labels stay.
    over : {"all", "background"}
        What may be painted over.

    Returns
    -------
    array of unsigned int
        New ids.

    Raises
    ------
    InputError
        If there is no path, or a disc's path lies on no one slice.
    """
    if not path:
        msg = "expected a path for brush, got none; draw one"
        raise InputError(msg)
    ids = strokes.room_for(mask, label)
    across = None
    if form == "disc":
        across, _ = strokes.slice_of(path, ids.shape, axis, of="brush")
    box, region = strokes.along(ids.shape, mask.geometry.spacing, path, radius, across=across)
    part = ids[box]
    if erase:
        part[region & (part == label)] = 0
    else:
        part[region & strokes.taken(mask, label, box, over=over)] = label
    return ids

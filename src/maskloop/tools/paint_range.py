"""Paint only voxels of an intensity range."""

from __future__ import annotations

from typing import Annotated, Any

import numpy.typing as npt

from maskloop.core.errors import InputError
from maskloop.core.image import Image
from maskloop.core.mask import Mask
from maskloop.ops import strokes
from maskloop.ops.intensity import in_range, intensities
from maskloop.tools.base import traits
from maskloop.tools.options import PaintOver, SliceAxis, StrokeForm, StrokePath, StrokeRadius


@traits(
    reach=lambda values: values["radius"],
    around=("points",),
    others=True,
    by_hand=True,
    needs=("image", "points"),
    starts_empty=True,
)
def paint_range(
    mask: Mask,
    image: Image | None = None,
    *,
    label: int,
    path: StrokePath = None,
    radius: StrokeRadius = 5.0,
    lower: Annotated[
        float | None,
        {
            "label": "from (HU or intensity)",
            "tooltip": "Lowest intensity that is painted; none if left out.",
        },
    ] = None,
    upper: Annotated[
        float | None,
        {
            "label": "to (HU or intensity)",
            "tooltip": "Highest intensity that is painted; none if left out.",
        },
    ] = None,
    form: StrokeForm = "ball",
    axis: SliceAxis = "auto",
    over: PaintOver = "all",
) -> npt.NDArray[Any]:
    """Paint a label along a path, but only where the intensity lies in a range.

    Parameters
    ----------
    mask : Mask
        Ids ``(z, y, x)`` or ``(y, x)``.
    image : Image
        Intensities on the mask's grid: HU in CT, the grey of a colour picture.
    label : int
        The id to paint.
    path : Points
        Corners of the path in array index order, joined by straight lines.
    radius : float
        Between voxel centres, in the unit of the grid.
    lower, upper : float, optional
        Range, both ends included; at least one is needed.
    form : {"ball", "disc"}
        What moves along the path.
    axis : {"auto", "z", "y", "x"}
        Array axis across the slices of a disc.
    over : {"all", "background"}
        What may be painted over.

    Returns
    -------
    array of unsigned int
        New ids.

    Raises
    ------
    InputError
        If path, image or both bounds are missing, or a disc's path lies on no one slice.
    """
    if not path:
        msg = "expected a path for paint_range, got none; draw one"
        raise InputError(msg)
    pixels = intensities(image, of="paint_range")
    ids = strokes.room_for(mask, label)
    across = None
    if form == "disc":
        across, _ = strokes.slice_of(path, ids.shape, axis, of="paint_range")
    box, region = strokes.along(ids.shape, mask.geometry.spacing, path, radius, across=across)
    region &= in_range(pixels[box], lower, upper, of="paint_range")
    ids[box][region & strokes.taken(mask, label, box, over=over)] = label
    return ids

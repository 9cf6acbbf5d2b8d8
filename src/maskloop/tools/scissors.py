"""Cut or fill with a closed outline drawn on a slice."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError
from maskloop.core.image import Image
from maskloop.core.mask import Mask
from maskloop.core.parameters import Points
from maskloop.ops import strokes
from maskloop.tools.base import traits
from maskloop.tools.options import PaintOver, SliceAxis


@traits(
    # What lies outside the outline, and the other slices, may be anywhere in the label.
    reach=lambda values: (
        math.inf
        if values["through"] == "all slices" or values["what"] == "erase outside"
        else values["depth"]
        if values["through"] == "depth"
        else 0.0
    ),
    around=("points",),
    others=True,
    by_hand=True,
    needs=("points",),
    starts_empty=True,
)
def scissors(
    mask: Mask,
    image: Image | None = None,
    *,
    label: int,
    outline: Annotated[
        Points | None,
        {
            "shape": "polygon",
            "label": "outline",
            "tooltip": "Corners of a closed outline on one slice, of any of the three axes.",
        },
    ] = None,
    what: Annotated[
        Literal["erase inside", "erase outside", "fill inside"],
        {
            "label": "what",
            "tooltip": (
                "Take this label away inside the outline, or outside it, or fill the outline."
            ),
        },
    ] = "erase inside",
    through: Annotated[
        Literal["slice", "depth", "all slices"],
        {
            "label": "through",
            "tooltip": "This slice only, the slices within the depth, or all of them.",
        },
    ] = "slice",
    depth: Annotated[
        float,
        {
            "min": 0.0,
            "max": 500.0,
            "step": 0.5,
            "label": "depth to each side (mm)",
            "tooltip": "With through: depth, how far the cut goes to both sides of the slice.",
        },
    ] = 5.0,
    axis: SliceAxis = "auto",
    over: PaintOver = "all",
) -> npt.NDArray[Any]:
    """Erase a label inside or outside a closed outline, or fill the outline with it.

    Parameters
    ----------
    mask : Mask
        Ids ``(z, y, x)`` or ``(y, x)``.
    image : Image, optional
        Not used.
    label : int
        The id to cut or fill.
    outline : Points
        At least three corners on one slice, in array index order; inside is by even and odd, for
        voxel centres.
    what : {"erase inside", "erase outside", "fill inside"}
        Erasing takes this label only; outside means on the slices that are cut.
    through : {"slice", "depth", "all slices"}
        Which slices are cut; a picture has one.
    depth : float
        To each side of the outline's slice, between slice centres, in the unit of the grid.
    axis : {"auto", "z", "y", "x"}
        Array axis across the slice.
    over : {"all", "background"}
        What may be filled over.

    Returns
    -------
    array of unsigned int
        New ids.

    Raises
    ------
    InputError
        If there is no outline, or its corners lie on several slices.
    """
    if not outline or len(outline) < 3:
        msg = f"expected an outline of three corners for scissors, got {outline!r}; draw one"
        raise InputError(msg)
    ids = strokes.room_for(mask, label)
    across, number = strokes.slice_of(outline, ids.shape, axis, of="scissors")
    if across is None:
        planes, free = ids, strokes.taken(mask, label, (slice(None),) * 2, over=over)
        inside = strokes.polygon(outline, ids.shape)
    else:
        corners = [[v for k, v in enumerate(c) if k != across] for c in outline]
        plane = [n for k, n in enumerate(ids.shape) if k != across]
        more = math.floor(depth / mask.geometry.spacing[across] + 1e-9)
        first = {"slice": number, "depth": max(0, number - more)}.get(through, 0)
        stop = {"slice": number + 1, "depth": number + more + 1}.get(through, ids.shape[across])
        box = tuple(slice(first, stop) if k == across else slice(None) for k in range(3))
        planes = np.moveaxis(ids[box], across, 0)
        free = np.moveaxis(strokes.taken(mask, label, box, over=over), across, 0)
        inside = strokes.polygon(corners, (plane[0], plane[1]))
    if what == "fill inside":
        planes[inside & free] = label
    else:
        gone = inside if what == "erase inside" else ~inside
        planes[gone & (planes == label)] = 0
    return ids

"""Correct a label by the image's intensity."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of
from maskloop.core.errors import InputError
from maskloop.core.image import Image
from maskloop.core.mask import Mask
from maskloop.ops import components, regions
from maskloop.tools.base import traits


@traits(
    reach=lambda values: 0.0 if values["where"] == "inside" else values["margin"],
    needs=("image",),
)
def threshold(
    mask: Mask,
    image: Image | None = None,
    *,
    label: int,
    lower: Annotated[
        float | None,
        {
            "label": "from (HU or intensity)",
            "tooltip": "Lowest intensity that belongs to the label; none if left out.",
        },
    ] = None,
    upper: Annotated[
        float | None,
        {
            "label": "to (HU or intensity)",
            "tooltip": "Highest intensity that belongs to the label; none if left out.",
        },
    ] = None,
    where: Annotated[
        Literal["inside", "around", "both"],
        {
            "label": "where",
            "tooltip": (
                "Inside: drop voxels out of range. Around: take background in range. Both: do both."
            ),
        },
    ] = "inside",
    margin: Annotated[
        float,
        {
            "min": 0.0,
            "max": 200.0,
            "step": 0.5,
            "label": "reach around (mm; pixels in a picture)",
            "tooltip": "How far from the label background may join.",
        },
    ] = 5.0,
    connected: Annotated[
        bool,
        {
            "label": "connected only",
            "tooltip": "Background joins only where it hangs together with the label.",
        },
    ] = True,
) -> npt.NDArray[Any]:
    """Drop a label's voxels out of an intensity range, or take background in range around it.

    Parameters
    ----------
    mask : Mask
        Ids ``(z, y, x)`` or ``(y, x)``.
    image : Image
        Intensities on the mask's grid, one channel: HU in CT.
    label : int
        The id to change.
    lower, upper : float, optional
        Range, both ends included; at least one is needed.
    where : {"inside", "around", "both"}
        Which voxels may change.
    margin : float
        How far from the label background may join, in the unit of the grid.
    connected : bool
        Whether joined voxels must hang together with the label, by faces.

    Returns
    -------
    array of unsigned int
        New ids; only this label's and background voxels differ.

    Raises
    ------
    InputError
        If there is no image, it has channels, or no bound is given.
    """
    if image is None or image.has_channels or image.has_time:
        got = "none" if image is None else f"shape {image.data.shape}"
        msg = (
            f"expected an image with one intensity a voxel for threshold, got {got}; give the "
            "image, one channel of it"
        )
        raise InputError(msg)
    if lower is None and upper is None:
        msg = (
            "expected lower or upper for threshold, got neither; give at least one bound of the "
            "range"
        )
        raise InputError(msg)
    if lower is not None and upper is not None and lower > upper:
        msg = f"expected lower up to upper, got {lower!r} and {upper!r}; exchange them"
        raise InputError(msg)
    ids = mask.data.copy()
    spacing = mask.geometry.spacing
    reach = 0.0 if where == "inside" else margin
    box = box_of(ids, label, margin=regions.voxels_of(reach, spacing))
    if box is None:
        return ids
    part, pixels = ids[box], image.data[box]
    region = part == label
    is_in_range = np.ones(part.shape, dtype=bool)
    if lower is not None:
        is_in_range &= pixels >= lower
    if upper is not None:
        is_in_range &= pixels <= upper
    if where != "around":
        part[region & ~is_in_range] = 0
    if where != "inside":
        joins = is_in_range & (mask.data[box] == 0) & (regions.distance(region, spacing) <= margin)
        if connected:
            pieces, _ = components.label(
                joins | (part == label), connectivity=6 if part.ndim == 3 else 4
            )
            touched = np.unique(pieces[part == label])
            joins &= np.isin(pieces, touched[touched > 0])
        part[joins] = label
    return ids

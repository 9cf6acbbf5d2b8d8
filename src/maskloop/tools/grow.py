"""Add or take a margin in millimetres."""

from __future__ import annotations

from typing import Annotated, Any

import numpy.typing as npt

from maskloop.core.boxes import box_of
from maskloop.core.image import Image
from maskloop.core.mask import Mask
from maskloop.ops import regions
from maskloop.tools.base import traits


@traits(reach=lambda values: abs(values["margin"]))
def grow(
    mask: Mask,
    image: Image | None = None,
    *,
    label: int,
    margin: Annotated[
        float,
        {
            "min": -200.0,
            "max": 200.0,
            "step": 0.5,
            "label": "margin (mm; pixels in a picture)",
            "tooltip": (
                "Distance by which the label grows; below 0 it shrinks. Never over other labels."
            ),
        },
    ] = 2.0,
) -> npt.NDArray[Any]:
    """Grow a label by a margin, or shrink it where the margin is negative.

    Distances are Euclidean between voxel centres and honour unequal spacing: a voxel of background
    joins if a voxel of the label lies within the margin, and a voxel of the label goes if a voxel
    outside it does. A label cut by the edge of the image is not eaten there.

    Parameters
    ----------
    mask : Mask
        Ids ``(z, y, x)`` or ``(y, x)``.
    image : Image, optional
        Not used.
    label : int
        The id to change.
    margin : float
        In the unit of the mask's grid.

    Returns
    -------
    array of unsigned int
        New ids; only this label's and background voxels differ.

    References
    ----------
    .. [1] P. Felzenszwalb, D. Huttenlocher, "Distance Transforms of Sampled Functions", 2012.
    """
    ids = mask.data.copy()
    spacing = mask.geometry.spacing
    box = box_of(ids, label, margin=regions.voxels_of(abs(margin), spacing))
    if box is None or margin == 0:
        return ids
    part = ids[box]
    region = part == label
    if margin > 0:
        part[(regions.distance(region, spacing) <= margin) & (part == 0)] = label
    else:
        part[region & (regions.depth(region, spacing) <= -margin)] = 0
    return ids

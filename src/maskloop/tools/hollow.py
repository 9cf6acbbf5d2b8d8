"""Turn a label into a shell of given thickness."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy.typing as npt

from maskloop.core.boxes import box_of
from maskloop.core.image import Image
from maskloop.core.mask import Mask
from maskloop.ops import regions
from maskloop.tools.base import traits


@traits(reach=lambda values: values["thickness"])
def hollow(
    mask: Mask,
    image: Image | None = None,
    *,
    label: int,
    thickness: Annotated[
        float,
        {
            "min": 0.0,
            "max": 200.0,
            "step": 0.5,
            "label": "thickness (mm; pixels in a picture)",
            "tooltip": "Of the shell that is left; thinner than a voxel nothing is left.",
        },
    ] = 3.0,
    where: Annotated[
        Literal["inside", "outside", "both"],
        {
            "label": "shell lies",
            "tooltip": (
                "Inside the label's surface, outside of it, or half of it on each side. Never over "
                "other labels."
            ),
        },
    ] = "inside",
) -> npt.NDArray[Any]:
    """Keep a shell along a label's surface and drop the rest of the label.

    The shell inside is what a margin of minus the thickness would take, the shell outside what a
    margin of the thickness would add; both is half of each. A label cut by the edge of the image
    has no surface there.

    Parameters
    ----------
    mask : Mask
        Ids ``(z, y, x)`` or ``(y, x)``.
    image : Image, optional
        Not used.
    label : int
        The id to change.
    thickness : float
        In the unit of the mask's grid, between voxel centres.
    where : {"inside", "outside", "both"}
        On which side of the surface the shell lies.

    Returns
    -------
    array of unsigned int
        New ids; only this label's and background voxels differ.
    """
    ids = mask.data.copy()
    spacing = mask.geometry.spacing
    box = box_of(ids, label, margin=regions.voxels_of(thickness, spacing))
    if box is None:
        return ids
    part = ids[box]
    region = part == label
    away = regions.signed(region, spacing)
    inner, outer = {
        "inside": (thickness, 0.0),
        "outside": (0.0, thickness),
        "both": (thickness / 2, thickness / 2),
    }[where]
    part[region & (away > inner)] = 0
    part[~region & (away >= -outer) & (part == 0)] = label
    return ids

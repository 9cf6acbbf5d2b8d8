"""Fill what a label encloses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of
from maskloop.core.image import Image
from maskloop.core.mask import Mask
from maskloop.ops import components, regions
from maskloop.tools.base import traits


@traits(reach=lambda values: 0.0)
def holes(
    mask: Mask,
    image: Image | None = None,
    *,
    label: int,
    across: Annotated[
        Literal["volume", "slices"],
        {
            "label": "closed in",
            "tooltip": (
                "A hole must be closed in the whole volume, or only in each slice across the axis."
            ),
        },
    ] = "volume",
    axis: Annotated[
        Literal["z", "y", "x"],
        {
            "label": "slices across",
            "tooltip": "Array axis that the slices are counted along; a picture has one slice.",
        },
    ] = "z",
    largest: Annotated[
        float,
        {
            "min": 0.0,
            "max": 1e9,
            "label": "fill up to (mm\u00b3; pixels in a picture; 0: all)",
            "tooltip": "Larger holes stay open. By slices, the size of each slice's hole counts.",
        },
    ] = 0.0,
) -> npt.NDArray[Any]:
    """Fill the background that a label encloses.

    Other labels stay: a vessel inside the liver is no hole, and neither is background that a wall
    made partly of another label encloses.

    Parameters
    ----------
    mask : Mask
        Ids ``(z, y, x)`` or ``(y, x)``.
    image : Image, optional
        Not used.
    label : int
        The id to change.
    across : {"volume", "slices"}
        Where a hole must be closed; a picture has one slice.
    axis : {"z", "y", "x"}
        The array axis across which slices lie; not used for the volume.
    largest : float
        Size of the largest hole filled, mm3 in a volume, area in a picture; 0 fills all.

    Returns
    -------
    array of unsigned int
        New ids; only background voxels differ.
    """
    ids = mask.data.copy()
    box = box_of(ids, label)
    if box is None:
        return ids
    part = ids[box]
    region = part == label
    if across == "slices" and region.ndim == 3:
        found = np.empty(region.shape, dtype=bool)
        number = "zyx".index(axis)
        slices = (np.moveaxis(a, number, 0) for a in (region, part, found))
        for inside, around, target in zip(*slices, strict=True):
            target[...] = _found(np.ascontiguousarray(inside), around, largest, mask)
    else:
        found = _found(region, part, largest, mask)
    part[found] = label
    return ids


def _found(
    region: regions.Region, ids: npt.NDArray[Any], largest: float, mask: Mask
) -> npt.NDArray[np.bool_]:
    """Return the background in holes of up to `largest`; holes meet across faces."""
    found = components.fill_holes(region) & (ids == 0)
    if largest > 0:
        pieces, count = components.label(found, connectivity=6 if found.ndim == 3 else 4)
        is_small = components.sizes(pieces, count) <= largest / mask.geometry.voxel_size + 1e-6
        found &= is_small[pieces]
    return np.asarray(found)

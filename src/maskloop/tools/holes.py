"""Fill what a label encloses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.image import Image
from maskloop.core.mask import Mask
from maskloop.ops import components, regions


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
                "A hole must be closed in the whole volume, or only in each slice of the first "
                "axis."
            ),
        },
    ] = "volume",
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
    largest : float
        Size of the largest hole filled, mm3 in a volume, area in a picture; 0 fills all.

    Returns
    -------
    array of unsigned int
        New ids; only background voxels differ.
    """
    ids = mask.data.copy()
    box = regions.box_of(ids, label)
    if box is None:
        return ids
    part = ids[box]
    region = part == label
    if across == "slices" and region.ndim == 3:
        filled = np.stack([components.fill_holes(np.ascontiguousarray(s)) for s in region])
    else:
        filled = components.fill_holes(region)
    found = filled & (part == 0)
    if largest > 0:
        found &= ~_above(found, largest / mask.geometry.voxel_size, across == "slices")
    part[found] = label
    return ids


def _above(found: npt.NDArray[np.bool_], voxels: float, by_slices: bool) -> npt.NDArray[np.bool_]:
    """Return the holes of more than so many voxels; holes meet across faces."""
    if by_slices and found.ndim == 3:
        return np.stack([_above(np.ascontiguousarray(s), voxels, False) for s in found])
    pieces, _ = components.label(found, connectivity=6 if found.ndim == 3 else 4)
    sizes = np.bincount(pieces.ravel())
    large = sizes > voxels + 1e-6
    large[0] = False
    return np.asarray(large[pieces])

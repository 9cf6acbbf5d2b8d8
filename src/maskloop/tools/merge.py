"""Make one label of two."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of, hull
from maskloop.core.errors import InputError
from maskloop.core.image import Image
from maskloop.core.mask import Mask
from maskloop.ops import components, regions
from maskloop.tools.base import traits
from maskloop.tools.named import other_label


@traits(reach=lambda values: values["gap"], around=("label", "labels"), others=True, by_hand=True)
def merge(
    mask: Mask,
    image: Image | None = None,
    *,
    label: int,
    other: Annotated[
        str | None,
        {
            "is_label": True,
            "label": "merge with",
            "tooltip": "Name or id of the label or object that becomes part of this one.",
        },
    ] = None,
    touching: Annotated[
        bool,
        {
            "label": "only pieces that touch",
            "tooltip": "Of the other, take only what touches this label or comes within the gap.",
        },
    ] = False,
    gap: Annotated[
        float,
        {
            "min": 0.0,
            "max": 200.0,
            "step": 0.5,
            "label": "close gaps up to (mm; pixels in a picture)",
            "tooltip": "Background between the two joins where they are no further apart.",
        },
    ] = 0.0,
) -> npt.NDArray[Any]:
    """Merge another label or object into a label.

    Parameters
    ----------
    mask : Mask
        Ids ``(z, y, x)`` or ``(y, x)``.
    image : Image, optional
        Not used.
    label : int
        The id that both get.
    other : str
        Name or id of the label that goes.
    touching : bool
        Whether only the other's pieces that touch the label, corners included, or come within the
        gap, are taken.
    gap : float
        A voxel of background joins if its distances to the two labels sum to no more than this, in
        the unit of the grid.

    Returns
    -------
    array of unsigned int
        New ids; only voxels of the other label and of the background differ.

    Raises
    ------
    InputError
        If no other label is named, or it is locked.
    """
    second = other_label(mask, label, other, of="merge")
    if mask.labels[second].locked:
        msg = (
            f"expected an unlocked label to merge, got {mask.labels[second].name!r}, which is "
            "locked; unlock it first"
        )
        raise InputError(msg)
    ids = mask.data.copy()
    spacing = mask.geometry.spacing
    boxes = [box_of(ids, one) for one in (label, second)]
    if boxes[0] is None or boxes[1] is None:
        return ids
    box = hull([boxes[0], boxes[1]])
    part = ids[box]
    own, theirs = part == label, part == second
    away = regions.distance(own, spacing) if gap > 0 else None
    if touching:
        theirs = _meeting(theirs, own, None if away is None else away <= gap)
    if away is not None:
        bridge = away + regions.distance(theirs, spacing) <= gap
        part[bridge & (part == 0)] = label
    part[theirs] = label
    return ids


def _meeting(
    region: regions.Region, own: regions.Region, near: npt.NDArray[np.bool_] | None
) -> npt.NDArray[np.bool_]:
    """Return the pieces of a region that touch `own`, corners included, or reach into `near`."""
    from scipy import ndimage

    pieces, count = components.label(region)
    meets = ndimage.binary_dilation(own, np.ones((3,) * own.ndim))
    is_kept = np.zeros(count + 1, dtype=bool)
    is_kept[pieces[region & (meets if near is None else meets | near)]] = True
    return np.asarray(is_kept[pieces])

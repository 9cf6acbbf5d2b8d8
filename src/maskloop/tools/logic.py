"""Add, subtract, intersect or copy another label."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of
from maskloop.core.image import Image
from maskloop.core.mask import Mask
from maskloop.ops import regions
from maskloop.tools.base import traits
from maskloop.tools.named import other_label


@traits(
    reach=lambda values: abs(values["margin"]),
    around=("label", "labels"),
    others=True,
    starts_empty=True,
)
def logic(
    mask: Mask,
    image: Image | None = None,
    *,
    label: int,
    other: Annotated[
        str | None,
        {
            "is_label": True,
            "label": "other label",
            "tooltip": "Name or id of the label to add, subtract, intersect or copy.",
        },
    ] = None,
    operation: Annotated[
        Literal["add", "subtract", "intersect", "copy"],
        {
            "label": "operation",
            "tooltip": (
                "Add: the other's voxels join. Subtract: those within it go. Intersect: only those "
                "within it stay. Copy: the label becomes the other."
            ),
        },
    ] = "add",
    margin: Annotated[
        float,
        {
            "min": -200.0,
            "max": 200.0,
            "step": 0.5,
            "label": "widen the other by (mm; pixels in a picture)",
            "tooltip": "The other label counts as grown by this margin; below 0, as shrunk.",
        },
    ] = 0.0,
) -> npt.NDArray[Any]:
    """Join another label to a label, take it out, keep what lies within it, or copy it.

    A voxel has one label, so labels meet but never overlap: with no margin, subtract changes
    nothing, and adding or copying moves the other's voxels. With a margin, subtract keeps a
    distance from the other label, and intersect keeps what is near it.

    Parameters
    ----------
    mask : Mask
        Ids ``(z, y, x)`` or ``(y, x)``.
    image : Image, optional
        Not used.
    label : int
        The id to change.
    other : str
        Name or id of another label.
    operation : {"add", "subtract", "intersect", "copy"}
        What to do with it.
    margin : float
        How far the other label is grown before, in the unit of the grid; below 0 it is shrunk.

    Returns
    -------
    array of unsigned int
        New ids; only voxels of both labels and of the background differ, those of the other one
        only if it is not locked.

    Raises
    ------
    InputError
        If no other label is named.
    """
    second = other_label(mask, label, other, of="logic")
    ids = mask.data.copy()
    spacing = mask.geometry.spacing
    around = regions.voxels_of(abs(margin), spacing)
    own = box_of(ids, label, margin=around)
    theirs = box_of(ids, second, margin=around)
    if operation in ("subtract", "intersect"):
        if own is not None:
            part = ids[own]
            inside = _widened(part == second, margin, spacing)
            part[(part == label) & (inside == (operation == "subtract"))] = 0
        return ids
    before = mask.data
    if operation == "copy" and own is not None:
        ids[own][before[own] == label] = 0
    if theirs is not None:
        old, part = before[theirs], ids[theirs]
        may_move = second not in mask.labels or not mask.labels[second].locked
        is_free = (old == 0) | (old == label) | ((old == second) & may_move)
        part[_widened(old == second, margin, spacing) & is_free] = label
    return ids


def _widened(
    region: regions.Region, margin: float, spacing: tuple[float, ...]
) -> npt.NDArray[np.bool_]:
    if margin > 0:
        return regions.distance(region, spacing) <= margin
    return region if margin == 0 else regions.depth(region, spacing) > -margin

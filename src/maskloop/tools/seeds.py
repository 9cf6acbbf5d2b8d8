"""Grow labels from their seeds against each other, along the image's edges."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of
from maskloop.core.errors import InputError
from maskloop.core.image import Image
from maskloop.core.mask import Mask, present_ids
from maskloop.ops import coarse, flood, regions
from maskloop.ops.intensity import intensities
from maskloop.tools.base import traits

_Ids = npt.NDArray[Any]  # Any: labels come in every integer width


@traits(
    reach=lambda values: values["within"] + 2 * max(values["spacing"]),
    others=True,
    needs=("image",),
)
def seeds(
    mask: Mask,
    image: Image | None = None,
    *,
    label: int,
    within: Annotated[
        float,
        {
            "min": 1.0,
            "max": 500.0,
            "label": "no further than (mm; pixels in a picture)",
            "tooltip": "What lies this far from all seeds counts as background.",
        },
    ] = 15.0,
    which: Annotated[
        Literal["all", "this"],
        {
            "label": "who grows",
            "tooltip": "All labels near this one, or this one only, against the others.",
        },
    ] = "all",
    rest: Annotated[
        str | None,
        {
            "is_label": True,
            "label": "label that stands for nothing",
            "tooltip": "Its voxels are seeds of background: it competes, and does not grow.",
        },
    ] = None,
    blur: Annotated[
        float,
        {
            "min": 0.0,
            "max": 5.0,
            "step": 0.5,
            "label": "blur (voxels)",
            "tooltip": "Gaussian before slopes are taken; more for noisy images.",
        },
    ] = 1.0,
    hand: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[Any]:
    """Fill what lies between the seeds of labels: a voxel goes to the flood that comes first.

    Of a label that a person painted, what the person painted is the seed, and its other voxels
    are decided anew; of other labels all voxels are. What a person erased, and what lies too far
    from all seeds, is background's own seed. Locked labels compete as they are.

    Parameters
    ----------
    mask : Mask
        Ids ``(z, y, x)`` or ``(y, x)``.
    image : Image
        Intensities on the mask's grid; of a colour picture, its grey.
    label : int
        The id round which labels grow.
    within : float
        From the seeds, in the unit of the grid.
    which : {"all", "this"}
        Whose growth is kept.
    rest : str, optional
        Name or id of a label that stands for background.
    blur : float
        Standard deviation of the Gaussian before slopes are taken, in voxels.
    hand : array of bool, optional
        Voxels that a person painted or erased.

    Returns
    -------
    array of unsigned int
        New ids.

    Raises
    ------
    InputError
        If there is no image, it has other channels than colours, or `rest` is the label itself.

    References
    ----------
    .. [1] V. Vezhnevets, V. Konouchine, "GrowCut: Interactive Multi-Label N-D Image Segmentation",
       GraphiCon 2005: the same competition of seeds, by cellular automata instead of a flood.
    """
    pixels = intensities(image, of="seeds")
    ids = mask.data.copy()
    spacing = mask.geometry.spacing
    wide = regions.voxels_of(within, spacing)
    box = box_of(ids, label, margin=wide)
    if box is None:
        return ids
    nothing = mask.labels.id_of(rest) if rest else 0
    if nothing == label:
        msg = f"expected another label to stand for nothing, got {rest!r} itself; choose another"
        raise InputError(msg)
    part = ids[box]
    locked = {i for i, row in mask.labels.items() if row.locked}
    begin, rivals = _begin(part, None if hand is None else hand[box], locked)
    background = len(rivals) + 1
    begin[coarse.further(begin != 0, spacing, within) & (begin == 0)] = background
    if nothing in rivals:
        begin[begin == rivals.index(nothing) + 1] = background
    won = flood.compete(pixels[box], spacing, begin, blur=blur)
    number = np.array([0, *rivals, 0], dtype=ids.dtype)
    # What floods do not decide, and labels that stand for nothing or are locked, stay.
    fixed = np.isin(part, [*locked, nothing]) & (part != 0)
    wanted = np.where(fixed, part, number[won])
    wanted[np.isin(wanted, list(locked)) & ~fixed] = 0
    if which == "this":
        is_own = (part == label) | (part == 0)
        wanted = np.where(is_own, np.where(wanted == label, label, 0), part)
    part[...] = wanted
    return ids


def _begin(
    part: _Ids, hand: npt.NDArray[np.bool_] | None, locked: set[int]
) -> tuple[_Ids, list[int]]:
    """Return the seeds, numbered from 1, and the ids that the numbers stand for."""
    rivals = present_ids(part)
    begin = np.zeros(part.shape, dtype=np.min_scalar_type(len(rivals) + 2))
    for number, rival in enumerate(rivals, start=1):
        region = part == rival
        if hand is not None and rival not in locked and (hand & region).any():
            region &= hand
        begin[region] = number
    if hand is not None:
        begin[hand & (part == 0)] = len(rivals) + 1
    return begin, rivals

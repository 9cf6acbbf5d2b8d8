"""Inside or outside from scribbles, by a minimum cut or random walks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of
from maskloop.core.geometry import Box
from maskloop.core.image import Image
from maskloop.core.mask import Mask
from maskloop.core.parameters import Points
from maskloop.ops import coarse, regions, scribbles, strokes
from maskloop.ops.intensity import intensities
from maskloop.tools.base import traits

_Region = npt.NDArray[np.bool_]


@traits(
    reach=lambda values: values["within"] + 2 * max(values["spacing"]),
    needs=("image",),
)
def walker(
    mask: Mask,
    image: Image | None = None,
    *,
    label: int,
    method: Annotated[
        Literal["cut", "walker"],
        {
            "label": "method",
            "tooltip": (
                "Cut: by how usual an intensity is in the scribbles, with a short surface. Walker: "
                "by edges between the scribbles only; scribble more."
            ),
        },
    ] = "cut",
    outside: Annotated[
        Points | None,
        {
            "shape": "points",
            "label": "outside at",
            "tooltip": "Points that do not belong to the label, beside the other labels.",
        },
    ] = None,
    within: Annotated[
        float,
        {
            "min": 1.0,
            "max": 500.0,
            "label": "no further than (mm; pixels in a picture)",
            "tooltip": "What lies this far from the scribbles counts as outside.",
        },
    ] = 20.0,
    contrast: Annotated[
        float,
        {
            "min": 0.0,
            "max": 1e6,
            "label": "an edge is (HU or intensity; 0: by noise)",
            "tooltip": "Difference of neighbours that counts as an edge; 0 takes it from noise.",
        },
    ] = 0.0,
    surface: Annotated[
        float,
        {
            "min": 0.0,
            "max": 20.0,
            "step": 0.1,
            "label": "smoothness of a cut",
            "tooltip": "Weight of the surface: more gives rounder, shorter outlines.",
        },
    ] = 1.0,
    hand: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[Any]:
    """Draw a label anew from scribbles inside and outside it.

    What a person painted with the label is inside; where nobody painted it, all of it is. Outside
    are all other labels, what a person erased, the given points, and all that is too far away. The
    label's voxels near the scribbles that nobody painted are decided anew; those further away, such
    as other lesions of the label, and other labels stay.

    Parameters
    ----------
    mask : Mask
        Ids ``(z, y, x)`` or ``(y, x)``.
    image : Image
        Intensities on the mask's grid; of a colour picture, its grey.
    label : int
        The id to draw.
    method : {"cut", "walker"}
        The minimum cut by the scribbles' intensities, or random walks along like voxels.
    outside : Points, optional
        In array index order.
    within : float
        From the scribbles, in the unit of the grid.
    contrast : float
        Difference of intensity that counts as an edge; 0 for three times the noise.
    surface : float
        Weight of a cut's surface.
    hand : array of bool, optional
        Voxels that a person painted or erased.

    Returns
    -------
    array of unsigned int
        New ids; only this label's and background voxels differ.

    Raises
    ------
    InputError
        If there is no image, or it has other channels than colours.

    References
    ----------
    .. [1] Y. Boykov, M.-P. Jolly, "Interactive Graph Cuts for Optimal Boundary & Region
       Segmentation of Objects in N-D Images", ICCV 2001.
    .. [2] L. Grady, "Random Walks for Image Segmentation", IEEE TPAMI 28, 2006.
    """
    pixels = intensities(image, of="walker")
    ids = mask.data.copy()
    spacing = mask.geometry.spacing
    drawn = mask.data == label
    if hand is not None and (hand & drawn).any():
        drawn &= hand
    box = box_of(drawn.view(np.uint8), 1, margin=regions.voxels_of(within, spacing))
    if box is None:
        return ids
    part = ids[box]
    seeds = np.zeros(part.shape, dtype=np.uint8)
    seeds[(part != 0) & (part != label)] = scribbles.OUTSIDE
    if hand is not None:
        seeds[hand[box] & (part == 0)] = scribbles.OUTSIDE
    seeds[_dabs(outside, spacing, mask, box)] = scribbles.OUTSIDE
    seeds[drawn[box]] = scribbles.INSIDE
    is_far = coarse.further(drawn[box], spacing, within)
    seeds[is_far & (seeds == 0)] = scribbles.OUTSIDE
    found = scribbles.divided(
        pixels[box], spacing, seeds, method=method, contrast=contrast, surface=surface
    )
    part[(part == label) & ~is_far] = 0
    part[found & (part == 0)] = label
    return ids


def _dabs(points: Points | None, spacing: tuple[float, ...], mask: Mask, box: Box) -> _Region:
    """Return the voxels round the points, two voxels wide, in the box."""
    found = np.zeros([part.stop - part.start for part in box], dtype=bool)
    for point in points or ():
        near, dab = strokes.along(mask.data.shape, spacing, [point], 2 * max(spacing))
        found |= strokes.moved((near, dab), box)
    return found

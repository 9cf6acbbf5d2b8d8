"""Tell touching objects apart."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of
from maskloop.core.image import Image, smallest_unsigned
from maskloop.core.mask import Mask
from maskloop.core.parameters import Points
from maskloop.ops import components
from maskloop.ops.parts import parts_of
from maskloop.tools.base import traits
from maskloop.tools.named import next_id


@traits(reach=lambda values: 0.0)
def split(
    mask: Mask,
    image: Image | None = None,
    *,
    label: int,
    distance: Annotated[
        float,
        {
            "min": 0.0,
            "max": 1000.0,
            "step": 0.5,
            "label": "middles at least apart (mm; pixels in a picture)",
            "tooltip": "Parts whose deepest points lie nearer to each other stay together.",
        },
    ] = 5.0,
    neck: Annotated[
        float,
        {
            "min": 0.0,
            "max": 1.0,
            "step": 0.05,
            "label": "neck narrower than (share)",
            "tooltip": (
                "Parts are told apart where the neck between them is narrower than this share of "
                "the smaller part's width."
            ),
        },
    ] = 0.85,
    parts: Annotated[
        int,
        {
            "min": 0,
            "max": 10000,
            "label": "number of parts (0: by distance and neck)",
            "tooltip": "Cut at the deepest necks until there are so many; the rest is not used.",
        },
    ] = 0,
    at: Annotated[
        Points | None,
        {
            "shape": "points",
            "label": "one part a point",
            "tooltip": "Points on the objects, one each; then the other options are not used.",
        },
    ] = None,
) -> npt.NDArray[Any]:
    """Split a label where it narrows, by a watershed on the distance to its surface.

    Pieces that do not touch are parts of their own. The largest part keeps the id, the others get
    new ones above the highest in use.

    Parameters
    ----------
    mask : Mask
        Ids ``(z, y, x)`` or ``(y, x)``.
    image : Image, optional
        Not used.
    label : int
        The id to change.
    distance : float
        Least distance between the deepest points of two parts, in the unit of the grid.
    neck : float
        Two parts are apart where the widest way between them is narrower than this share of the
        depth of the shallower one.
    parts : int
        Wanted number of parts, pieces that do not touch included; 0 to decide by the shape.
    at : Points, optional
        Array indices on the objects; each becomes a part, whatever its shape.

    Returns
    -------
    array of unsigned int
        New ids, in a wider type if the new ones need it; only this label's voxels differ.

    References
    ----------
    .. [1] S. Beucher, F. Meyer, "The Morphological Approach to Segmentation: The Watershed
       Transformation", 1993; basins are merged by dynamics, M. Grimaud, "A New Measure of
       Contrast: the Dynamics", SPIE 1992.
    """
    box = box_of(mask.data, label, margin=1)
    if box is None:
        return mask.data.copy()
    region = mask.data[box] == label
    marks = None if at is None else at.moved([-one.start for one in box])
    pieces = parts_of(
        region, mask.geometry.spacing, distance=distance, neck=neck, wanted=parts, marks=marks
    )
    sizes = components.sizes(pieces, int(pieces.max()))
    new = components.numbered(sizes, np.arange(len(sizes)) > 0, label=label, start=next_id(mask))
    result = mask.data.astype(smallest_unsigned(max(int(new.max()), np.iinfo(mask.data.dtype).max)))
    result[box][region] = new[pieces[region]]
    return result

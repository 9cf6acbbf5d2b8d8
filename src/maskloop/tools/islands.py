"""Keep, drop or tell apart the separate pieces of a label."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of
from maskloop.core.image import Image, smallest_unsigned
from maskloop.core.mask import Mask
from maskloop.ops import components
from maskloop.tools.base import traits
from maskloop.tools.named import next_id
from maskloop.tools.options import Touching


@traits(reach=lambda values: 0.0)
def islands(
    mask: Mask,
    image: Image | None = None,
    *,
    label: int,
    keep: Annotated[
        Literal["largest", "all"],
        {
            "label": "keep",
            "tooltip": "Only the largest piece, or every piece that is large enough.",
        },
    ] = "largest",
    smallest: Annotated[
        float,
        {
            "min": 0.0,
            "max": 1e9,
            "label": "drop below (mm\u00b3; pixels in a picture)",
            "tooltip": "Pieces smaller than this go, the largest one too.",
        },
    ] = 0.0,
    touching: Touching = "corners",
    replace_by: Annotated[
        Literal["background", "surroundings"],
        {
            "label": "dropped pieces become",
            "tooltip": (
                "Background, or the unlocked label that surrounds each piece most: a dropped "
                "lesion becomes liver."
            ),
        },
    ] = "background",
    split: Annotated[
        bool,
        {
            "label": "split into objects",
            "tooltip": "Give every kept piece but the largest an id of its own.",
        },
    ] = False,
) -> npt.NDArray[Any]:
    """Keep the largest piece of a label, drop small pieces, or split pieces into objects.

    Parameters
    ----------
    mask : Mask
        Ids ``(z, y, x)`` or ``(y, x)``.
    image : Image, optional
        Not used.
    label : int
        The id to change.
    keep : {"largest", "all"}
        Which pieces stay, of those that are not too small.
    smallest : float
        Volume in mm3 (area in a picture) below which a piece goes.
    touching : {"faces", "corners"}
        6 or 26 neighbours in a volume, 4 or 8 in a picture.
    replace_by : {"background", "surroundings"}
        What dropped voxels become.
    split : bool
        Whether kept pieces get new ids, above the highest in use; the largest keeps `label`.

    Returns
    -------
    array of unsigned int
        New ids, in a wider type if the new ones need it; only this label's voxels differ.
    """
    box = box_of(mask.data, label, margin=1)
    if box is None:
        return mask.data.copy()
    part = mask.data[box]
    connectivity = components.neighbours(touching, part.ndim)
    pieces, count = components.label(part == label, connectivity=connectivity)
    sizes = components.sizes(pieces, count)
    sizes[0] = 0
    stays = sizes * mask.geometry.voxel_size >= smallest * (1 - 1e-9)
    stays[0] = False
    if keep == "largest":
        first = int(sizes.argmax())
        stays[[i for i in range(count + 1) if i != first]] = False
    if split:
        new = components.numbered(sizes, stays, label=label, start=next_id(mask))
    else:
        new = np.where(stays, label, 0).astype(np.uint32)
    if replace_by == "surroundings":
        gone = np.flatnonzero(~stays[1:]) + 1
        never = [label, *(i for i, row in mask.labels.items() if row.locked)]
        new[gone] = components.surroundings(part, pieces, gone, never=never)
    result = mask.data.astype(smallest_unsigned(max(int(new.max()), np.iinfo(mask.data.dtype).max)))
    region = pieces > 0
    result[box][region] = new[pieces[region]]
    return result

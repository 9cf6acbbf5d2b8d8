"""Take a label, or one piece of it, away."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of
from maskloop.core.image import Image
from maskloop.core.mask import Mask
from maskloop.ops import components
from maskloop.tools.base import traits
from maskloop.tools.named import pieces_at
from maskloop.tools.options import PiecesAt, Touching


@traits(reach=lambda values: 0.0, by_hand=True)
def delete(
    mask: Mask,
    image: Image | None = None,
    *,
    label: int,
    at: PiecesAt = None,
    touching: Touching = "corners",
    replace_by: Annotated[
        Literal["background", "surroundings"],
        {
            "label": "deleted voxels become",
            "tooltip": (
                "Background, or the unlocked label that surrounds each piece most: a deleted "
                "lesion becomes liver."
            ),
        },
    ] = "background",
) -> npt.NDArray[Any]:
    """Delete a label, or the connected pieces of it at some points.

    Parameters
    ----------
    mask : Mask
        Ids ``(z, y, x)`` or ``(y, x)``.
    image : Image, optional
        Not used.
    label : int
        The id to change.
    at : Points, optional
        Array indices on the pieces that go.
    touching : {"faces", "corners"}
        6 or 26 neighbours in a volume, 4 or 8 in a picture.
    replace_by : {"background", "surroundings"}
        What deleted voxels become.

    Returns
    -------
    array of unsigned int
        New ids; only this label's voxels differ.

    Raises
    ------
    InputError
        If a point lies beside the label.
    """
    ids = mask.data.copy()
    box = box_of(ids, label, margin=1)
    if box is None:
        return ids
    part = ids[box]
    region = part == label
    if at is not None:
        starts = [-one.start for one in box]
        region = pieces_at(region, at.moved(starts), touching=touching, of="delete")
    if replace_by == "background":
        part[region] = 0
        return ids
    never = [label, *(i for i, row in mask.labels.items() if row.locked)]
    pieces, count = components.label(
        region, connectivity=components.neighbours(touching, part.ndim)
    )
    new = components.surroundings(part, pieces, range(1, count + 1), never=never)
    part[region] = np.array([0, *new], dtype=ids.dtype)[pieces[region]]
    return ids

"""Give a label's voxels, or one piece of it, to another label."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of
from maskloop.core.errors import InputError
from maskloop.core.image import Image, smallest_unsigned
from maskloop.core.mask import Mask
from maskloop.tools.base import traits
from maskloop.tools.named import next_id, other_label, pieces_at
from maskloop.tools.options import PiecesAt, Touching


@traits(reach=lambda values: 0.0, by_hand=True)
def relabel(
    mask: Mask,
    image: Image | None = None,
    *,
    label: int,
    becomes: Annotated[
        str | None,
        {
            "is_label": True,
            "label": "becomes",
            "tooltip": "Name or id of the label that it becomes; a new object if left out.",
        },
    ] = None,
    at: PiecesAt = None,
    touching: Touching = "corners",
) -> npt.NDArray[Any]:
    """Turn a label, or the connected pieces of it at some points, into another label.

    Parameters
    ----------
    mask : Mask
        Ids ``(z, y, x)`` or ``(y, x)``.
    image : Image, optional
        Not used.
    label : int
        The id to change.
    becomes : str, optional
        Name or id of another label; an id above the highest in use if left out.
    at : Points, optional
        Array indices on the pieces that change.
    touching : {"faces", "corners"}
        6 or 26 neighbours in a volume, 4 or 8 in a picture.

    Returns
    -------
    array of unsigned int
        New ids, in a wider type if the new one needs it; only this label's voxels differ.

    Raises
    ------
    InputError
        If the other label is locked, or a point lies beside the label.
    """
    box = box_of(mask.data, label)
    if box is None:
        return mask.data.copy()
    new = next_id(mask) if becomes is None else other_label(mask, label, becomes, of="relabel")
    if new in mask.labels and mask.labels[new].locked:
        msg = (
            f"expected an unlocked label to turn into, got {mask.labels[new].name!r}, which is "
            "locked; unlock it first"
        )
        raise InputError(msg)
    highest = max(new, int(np.iinfo(mask.data.dtype).max))
    ids = mask.data.astype(smallest_unsigned(highest))
    part = ids[box]
    region = part == label
    if at is not None:
        starts = [-one.start for one in box]
        region = pieces_at(region, at.moved(starts), touching=touching, of="relabel")
    part[region] = new
    return ids

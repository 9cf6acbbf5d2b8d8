"""Keep, drop or tell apart the separate pieces of a label."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError
from maskloop.core.image import Image, smallest_unsigned
from maskloop.core.mask import Mask
from maskloop.ops import components, regions


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
    touching: Annotated[
        Literal["faces", "corners"],
        {
            "label": "pieces hang together by",
            "tooltip": "Voxels that share a face, or also those that share an edge or a corner.",
        },
    ] = "corners",
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
    box = regions.box_of(mask.data, label, margin=1)
    if box is None:
        return mask.data.copy()
    part = mask.data[box]
    faces = touching == "faces"
    connectivity = (6 if faces else 26) if part.ndim == 3 else (4 if faces else 8)
    pieces, count = components.label(part == label, connectivity=connectivity)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    stays = sizes * mask.geometry.voxel_size >= smallest * (1 - 1e-9)
    stays[0] = False
    if keep == "largest":
        first = int(sizes.argmax())
        stays[[i for i in range(count + 1) if i != first]] = False
    new = np.where(stays, label, 0).astype(np.uint32)
    if replace_by == "surroundings":
        locked = [i for i, row in mask.labels.items() if row.locked]
        for piece in np.flatnonzero(~stays[1:]) + 1:
            new[piece] = _surrounding(part, pieces, int(piece), locked)
    if split:
        _renumber(new, sizes, stays, start=max(_highest(mask), max(mask.labels, default=0)) + 1)
    result = mask.data.astype(smallest_unsigned(max(int(new.max()), np.iinfo(mask.data.dtype).max)))
    region = pieces > 0
    result[box][region] = new[pieces[region]]
    return result


def _highest(mask: Mask) -> int:
    return int(mask.data.max())


def _renumber(
    new: npt.NDArray[np.uint32],
    sizes: npt.NDArray[np.int64],
    stays: npt.NDArray[np.bool_],
    *,
    start: int,
) -> None:
    """Give every kept piece but the largest a new id, in place, largest first."""
    order = sorted(np.flatnonzero(stays), key=lambda piece: -int(sizes[piece]))
    if start + len(order) > np.iinfo(np.uint32).max:
        msg = (
            f"expected room for {len(order)} new ids above {start - 1}, got none; renumber the "
            "labels"
        )
        raise InputError(msg)
    for number, piece in enumerate(order[1:], start=start):
        new[piece] = number


def _surrounding(
    part: npt.NDArray[Any], pieces: npt.NDArray[Any], piece: int, locked: list[int]
) -> int:
    """Return the id, background or an unlocked label, with most voxels on the piece's border."""
    from scipy import ndimage

    box = regions.box_of(pieces, piece, margin=1)
    if box is None:
        return 0
    inner = pieces[box] == piece
    border = ndimage.binary_dilation(inner) & (pieces[box] == 0)
    ids, counts = np.unique(part[box][border], return_counts=True)
    counts[np.isin(ids, locked)] = 0
    return int(ids[counts.argmax()]) if counts.any() else 0

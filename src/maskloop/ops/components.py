"""Connected pieces, holes and boxes of regions; always on the region's own box."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError
from maskloop.core.image import smallest_unsigned
from maskloop.ops.regions import box_of

if TYPE_CHECKING:
    from maskloop.core.geometry import Box

Region = npt.NDArray[np.bool_]
Ids = npt.NDArray[Any]  # Any: whichever unsigned type is narrow enough

Connectivity = Literal[4, 6, 8, 18, 26]

_CONNECTIVITIES: dict[int, tuple[Connectivity, ...]] = {2: (4, 8), 3: (6, 18, 26)}


def label(region: npt.NDArray[Any], *, connectivity: int | None = None) -> tuple[Ids, int]:
    """Return the connected pieces of a region as ids 1 to n, and n.

    Parameters
    ----------
    region : array
        ``(z, y, x)`` or ``(y, x)``; true or non-zero inside.
    connectivity : int, optional
        6, 18 or 26 in 3D, 4 or 8 in 2D; the largest (corners touch) where not given.

    Returns
    -------
    ids : array of unsigned int
        Narrowest type that holds n.
    n : int
        Number of pieces.

    Raises
    ------
    InputError
        If the connectivity is not one of the region's dimension.
    """
    import cc3d

    region = _as_region(region)
    connectivity = _checked(connectivity, region.ndim)
    box = _box(region)
    if box is None:
        return np.zeros(region.shape, dtype=np.uint8), 0
    part, count = cc3d.connected_components(
        np.ascontiguousarray(region[box]),
        connectivity=connectivity,
        return_N=True,
        binary_image=True,
    )
    ids = np.zeros(region.shape, dtype=smallest_unsigned(int(count)))
    ids[box] = part
    return ids, int(count)


def sizes(ids: Ids, count: int) -> npt.NDArray[np.int64]:
    """Return the voxels of each id from 0 to `count`, counted slab by slab."""
    total = np.zeros(count + 1, dtype=np.int64)
    # np.bincount makes an int64 copy of what it is given.
    for slab in ids if ids.ndim > 2 else (ids,):
        total += np.bincount(slab.ravel(), minlength=count + 1)
    return total


def largest(region: npt.NDArray[Any], *, connectivity: int | None = None) -> Region:
    """Return the piece with the most voxels; one of them on a tie."""
    pieces, count = label(region, connectivity=connectivity)
    if count < 2:
        return pieces > 0
    return np.asarray(pieces == 1 + int(sizes(pieces, count)[1:].argmax()))


def drop_small(
    region: npt.NDArray[Any], min_voxels: int, *, connectivity: int | None = None
) -> Region:
    """Return the region without its pieces of fewer than `min_voxels` voxels."""
    pieces, count = label(region, connectivity=connectivity)
    stays = sizes(pieces, count) >= min_voxels
    stays[0] = False
    return np.asarray(stays[pieces])


def fill_holes(region: npt.NDArray[Any]) -> Region:
    """Return the region with the background it encloses; in 3D a hole must be closed all round.

    Holes are closed across faces: background that meets the outside over an edge only is a hole.
    """
    import fill_voids

    region = _as_region(region)
    box = _box(region)
    if box is None:
        return region.copy()
    filled = region.copy()
    # Nothing outside the tight box is enclosed, and no hole reaches the box's faces.
    filled[box] = fill_voids.fill(np.ascontiguousarray(region[box]), in_place=False)
    return filled


def boxes(ids: Ids) -> dict[int, Box]:
    """Return the tight box of every id that occurs, background left out."""
    from scipy import ndimage

    found = ndimage.find_objects(ids)
    return {i: box for i, box in enumerate(found, start=1) if box is not None}


def _as_region(region: npt.NDArray[Any]) -> Region:
    return region if region.dtype == np.bool_ else region != 0


def _box(region: Region) -> Box | None:
    return box_of(region.view(np.uint8), 1)


def _checked(connectivity: int | None, ndim: int) -> Connectivity:
    known = _CONNECTIVITIES.get(ndim)
    if known is None:
        msg = f"expected a region of 2 or 3 axes, got {ndim}; choose one frame or channel first"
        raise InputError(msg)
    if connectivity is None:
        return known[-1]
    if connectivity not in known:
        msg = f"expected a connectivity among {known} in {ndim}D, got {connectivity!r}; choose one"
        raise InputError(msg)
    return connectivity

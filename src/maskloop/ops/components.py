"""Connected pieces, holes and boxes of regions; always on the region's own box."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of, widened
from maskloop.core.errors import InputError
from maskloop.core.image import smallest_unsigned
from maskloop.core.mask import id_runs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from maskloop.core.geometry import Box

Region = npt.NDArray[np.bool_]
Ids = npt.NDArray[Any]  # Any: whichever unsigned type is narrow enough

Connectivity = Literal[4, 6, 8, 18, 26]

_HIGH = 1 << 20  # ids above it are numbered anew: a box is kept for every number up to the highest
_WORTH = 8  # voxels a run, on average, from which on runs are worth it

_CONNECTIVITIES: dict[int, tuple[Connectivity, ...]] = {2: (4, 8), 3: (6, 18, 26)}


def neighbours(touching: Literal["faces", "corners"], ndim: int) -> Connectivity:
    """Return the connectivity of voxels that hang together by faces, or by corners too."""
    return _CONNECTIVITIES[ndim][0 if touching == "faces" else -1]


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
    box, part, count = _pieces(region, connectivity)
    ids = np.zeros(region.shape, dtype=smallest_unsigned(count))
    if box is not None:
        ids[box] = part
    return ids, count


def _pieces(region: npt.NDArray[Any], connectivity: int | None) -> tuple[Box | None, Ids, int]:
    """Return the region's box, the pieces in it as ids of any unsigned type, and how many."""
    import cc3d

    region = _as_region(region)
    connectivity = _checked(connectivity, region.ndim)
    box = _box(region)
    if box is None:
        return None, np.zeros((0,) * region.ndim, np.uint8), 0
    part = np.ascontiguousarray(region[box])
    stack = part if part.ndim == 3 else part[None]
    # In 2D with 8 neighbours cc3d 4.1.1 marks voxels of background, and with 26 neighbours it fails
    # on some boxes one voxel thick, where 18 are the same: always a volume, a thin one with 18.
    wide: Connectivity = 18 if 1 in stack.shape else 26
    taken: dict[int, Connectivity] = {4: 6, 6: 6, 18: 18, 8: wide, 26: wide}
    pieces, count = cc3d.connected_components(
        stack, connectivity=taken[connectivity], return_N=True, binary_image=True
    )
    return box, pieces.reshape(part.shape), int(count)


def sizes(ids: Ids, count: int) -> npt.NDArray[np.int64]:
    """Return the voxels of each id from 0 to `count`."""
    total = np.zeros(count + 1, dtype=np.int64)
    # np.bincount makes an int64 copy of what it is given: it gets runs, not voxels.
    for found, lengths in id_runs(ids):
        total += np.bincount(found, lengths, minlength=count + 1).astype(np.int64)
    return total


def largest(region: npt.NDArray[Any], *, connectivity: int | None = None) -> Region:
    """Return the piece with the most voxels; one of them on a tie."""
    box, pieces, count = _pieces(region, connectivity)
    kept = np.zeros(region.shape, dtype=bool)
    if box is not None:
        kept[box] = pieces == 1 + int(sizes(pieces, count)[1:].argmax())
    return kept


def drop_small(
    region: npt.NDArray[Any], min_voxels: int, *, connectivity: int | None = None
) -> Region:
    """Return the region without its pieces of fewer than `min_voxels` voxels."""
    box, pieces, count = _pieces(region, connectivity)
    kept = np.zeros(region.shape, dtype=bool)
    if box is not None:
        stays = sizes(pieces, count) >= min_voxels
        stays[0] = False
        kept[box] = stays[pieces]
    return kept


def piece_at(
    region: npt.NDArray[Any], index: Sequence[int], *, connectivity: int | None = None
) -> Region:
    """Return the piece that holds the voxel at `index`; empty where that is outside the region."""
    box, pieces, _ = _pieces(region, connectivity)
    kept = np.zeros(region.shape, dtype=bool)
    if box is not None and region[tuple(index)]:
        at = tuple(i - part.start for i, part in zip(index, box, strict=True))
        kept[box] = pieces == pieces[at]
    return kept


def fill_holes(region: npt.NDArray[Any]) -> Region:
    """Return the region with the background it encloses; in 3D a hole must be closed all round.

    Holes are closed across faces: background that meets the outside over an edge only is a hole.
    """
    import fill_voids

    region = _as_region(region)
    filled = np.zeros(region.shape, dtype=bool)
    box = _box(region)
    if box is not None:
        # Nothing outside the tight box is enclosed, and no hole reaches the box's faces.
        filled[box] = fill_voids.fill(np.ascontiguousarray(region[box]), in_place=False)
    return filled


def surroundings(
    ids: Ids, pieces: Ids, chosen: Iterable[int], *, never: Collection[int] = ()
) -> list[int]:
    """Return, for each chosen piece, the id with most voxels across its faces, or background.

    Parameters
    ----------
    ids : array of unsigned int
        The ids around.
    pieces : array of unsigned int
        As from `label`, of the shape of `ids`; other pieces do not count as surroundings.
    chosen : iterable of int
        Numbers of pieces.
    never : collection of int
        Ids that are not chosen, such as locked ones; 0 where there is no other.
    """
    from scipy import ndimage

    found = []
    places = boxes(pieces)
    for piece in chosen:
        box = widened(places[int(piece)], ids.shape)
        inner = pieces[box] == piece
        border = ndimage.binary_dilation(inner) & (pieces[box] == 0)
        around, counts = np.unique(ids[box][border], return_counts=True)
        counts[np.isin(around, list(never))] = 0
        found.append(int(around[counts.argmax()]) if counts.any() else 0)
    return found


def numbered(
    sizes: npt.NDArray[np.int64], stays: npt.NDArray[np.bool_], *, label: int, start: int
) -> npt.NDArray[np.uint32]:
    """Return the new id of every piece: the largest keeps `label`, the others get their own.

    Parameters
    ----------
    sizes : array of int64
        Voxels of the pieces 0 to n; piece 0 is the background.
    stays : array of bool
        Which pieces keep an id; the others get 0.
    label : int
        Id of the largest piece.
    start : int
        Id of the second largest; the ones after it count on.

    Raises
    ------
    InputError
        If the ids do not fit into 32 bits.
    """
    new = np.zeros(len(sizes), dtype=np.uint32)
    order = sorted(np.flatnonzero(stays), key=lambda piece: -int(sizes[piece]))
    if start + len(order) > np.iinfo(np.uint32).max:
        msg = (
            f"expected room for {len(order)} new ids above {start - 1}, got none; renumber the "
            "labels"
        )
        raise InputError(msg)
    new[order[:1]] = label
    new[order[1:]] = np.arange(start, start + max(len(order) - 1, 0))
    return new


def boxes(ids: Ids) -> dict[int, Box]:
    """Return the tight box of every id that occurs, ascending, background left out.

    However large the ids are. A picture is read as runs, several times faster than voxel by voxel.
    """
    from scipy import ndimage

    if ids.dtype == np.bool_:
        ids = ids.view(np.uint8)
    if ids.ndim == 2 and (found := _boxes_of_runs(ids)) is not None:
        return found
    known: Ids | None = None
    if ids.size and int(ids.max()) > _HIGH:
        known = np.union1d(np.zeros(1, ids.dtype), ids)
        ids = np.searchsorted(known, ids)
    places = ndimage.find_objects(ids)
    return {
        i if known is None else int(known[i]): box
        for i, box in enumerate(places, start=1)
        if box is not None
    }


def _boxes_of_runs(ids: Ids) -> dict[int, Box] | None:
    """Return the boxes of a picture's ids; None where runs are too short to be worth it."""
    if not ids.size:
        return {}
    is_start = np.ones(ids.shape, np.bool_)
    np.not_equal(ids[:, 1:], ids[:, :-1], out=is_start[:, 1:])
    starts = np.flatnonzero(is_start)
    if starts.size > ids.size // _WORTH + ids.shape[0]:
        return None
    rows, left = np.divmod(starts, ids.shape[1])
    values = ids[rows, left]
    right = left + np.diff(starts, append=ids.size)
    order = np.argsort(values, kind="stable")  # within an id the rows still ascend
    order = order[np.searchsorted(values[order], 0, "right") :]
    if not order.size:
        return {}
    values, rows, left, right = values[order], rows[order], left[order], right[order]
    firsts = np.concatenate(([0], np.flatnonzero(values[1:] != values[:-1]) + 1))
    lasts = np.append(firsts[1:], values.size) - 1
    found = zip(
        values[firsts].tolist(),
        rows[firsts].tolist(),
        (rows[lasts] + 1).tolist(),
        np.minimum.reduceat(left, firsts).tolist(),
        np.maximum.reduceat(right, firsts).tolist(),
        strict=True,
    )
    return {number: (slice(top, end), slice(x, stop)) for number, top, end, x, stop in found}


def _as_region(region: npt.NDArray[Any]) -> Region:
    return region if region.dtype == np.bool_ else region != 0


def _box(region: Region) -> Box | None:
    return box_of(region, 1)


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

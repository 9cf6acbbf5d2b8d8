"""Labels and places that the options of a tool name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from maskloop.core.errors import InputError
from maskloop.ops import components

if TYPE_CHECKING:
    from collections.abc import Iterable

    from maskloop.core.mask import Mask
    from maskloop.ops.regions import Region


def next_id(mask: Mask) -> int:
    """Return the lowest id above all that occur or have a row."""
    return max(int(mask.data.max(initial=0)), max(mask.labels, default=0)) + 1


def other_label(mask: Mask, label: int, other: str | int | None, *, of: str) -> int:
    """Return the id of the label that an option names.

    Raises
    ------
    InputError
        If none is named, or `label` itself is.
    UnknownNameError
        If there is no such label; the message lists those there are.
    """
    if other is None or other == "":
        known = ", ".join(f"{i} ({name})" for i, name in mask.labels.names.items() if i != label)
        msg = f"expected another label for {of}, got none; choose one of: {known}"
        raise InputError(msg)
    found = mask.labels.id_of(other)
    if found == label:
        msg = (
            f"expected another label for {of}, got {mask.labels[found].name!r} itself; choose "
            "another one"
        )
        raise InputError(msg)
    return found


def pieces_at(
    region: Region,
    points: Iterable[Iterable[float]],
    *,
    touching: Literal["faces", "corners"] = "corners",
    of: str,
) -> Region:
    """Return the connected pieces of a region that hold the voxels nearest to `points`.

    Raises
    ------
    InputError
        If a point lies beside the region.
    """
    found = region & False
    connectivity = components.neighbours(touching, region.ndim)
    for point in points:
        index = tuple(round(v) for v in point)
        is_within = all(0 <= i < n for i, n in zip(index, region.shape, strict=True))
        if not is_within or not region[index]:
            msg = (
                f"expected the points of {of} on the label, got one beside it; point at its voxels"
            )
            raise InputError(msg)
        if not found[index]:
            found |= components.piece_at(region, index, connectivity=connectivity)
    return found

"""The shapes of COCO annotations as runs: compressed and plain run lengths, polygons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core.errors import FormatError
from maskloop.ops import outlines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_Entry = dict[str, Any]  # Any: plain JSON values
_MOST_PIXELS = 2**31


def size_of(shown: Mapping[str, Any], where: str) -> tuple[int, int]:
    """Return height and width of an image entry.

    Raises
    ------
    FormatError
        If they are missing, no whole numbers above 0, or of a picture beyond any memory.
    """
    height, width = shown.get("height"), shown.get("width")
    is_whole = all(
        isinstance(n, (int, float)) and not isinstance(n, bool) and 1 <= n < 2**31 and n == int(n)
        for n in (height, width)
    )
    if not is_whole or int(height or 0) * int(width or 0) > _MOST_PIXELS:
        msg = (
            f"expected height and width of image {shown.get('id')!r} in {where}, of up to 2**31 "
            f"pixels together, got {str((height, width))[:60]}; repair the image entry"
        )
        raise FormatError(msg)
    return int(height or 0), int(width or 0)


def runs_of(
    annotations: Sequence[_Entry],
    shape: tuple[int, int],
    where: str,
    *,
    repair: bool = False,
) -> list[list[outlines.Runs]]:
    """Return the runs of each annotation; all run lengths are decoded together.

    Parameters
    ----------
    annotations : sequence of dict
        Each with a ``segmentation``.
    shape : tuple of int
        ``(height, width)`` of the picture.
    where : str
        Name of the file, for messages.
    repair : bool
        Whether rings that bound nothing are left out, and a bare ring is taken as a list of one.

    Raises
    ------
    FormatError
        If a shape is damaged or of another picture; the message names the annotation's id.
    """
    packed = [a for a in annotations if isinstance(a["segmentation"], dict)]
    for annotation in packed:
        segment = annotation["segmentation"]
        if segment.get("size") != list(shape) or "counts" not in segment:
            msg = (
                f"expected run lengths of size {list(shape)} in annotation "
                f"{annotation.get('id')!r} of {where}, got size {str(segment.get('size'))[:60]}"
                f"{'' if 'counts' in segment else ' without counts'}; the height comes first, "
                "and both are the picture's"
            )
            raise FormatError(msg)
    decoded = iter(_decoded(packed, shape[0] * shape[1], where))
    return [
        [next(decoded)]
        if isinstance(a["segmentation"], dict)
        else _rings(a, shape, where, repair=repair)
        for a in annotations
    ]


def _decoded(packed: list[_Entry], size: int, where: str) -> list[outlines.Runs]:
    counts = [a["segmentation"]["counts"] for a in packed]
    try:
        return outlines.decode(counts, size)
    except FormatError:
        for annotation, one in zip(packed, counts, strict=True):
            try:
                outlines.decode([one], size)
            except FormatError as error:
                raise _damaged(annotation, where, error) from error
        raise


def _rings(
    annotation: _Entry, shape: tuple[int, int], where: str, *, repair: bool
) -> list[outlines.Runs]:
    """Return the runs of a polygon annotation; its rings are united, as COCO means them."""
    rings = annotation["segmentation"]
    if repair and isinstance(rings, list):
        rings = rings if not rings or isinstance(rings[0], list) else [rings]
        rings = [r for r in rings if not (isinstance(r, list) and len(r) < 6)]
    if not isinstance(rings, list) or not all(
        isinstance(r, list) and len(r) >= 6 and len(r) % 2 == 0 for r in rings
    ):
        msg = (
            f"expected rings of at least 3 points in annotation {annotation.get('id')!r} of "
            f"{where}, got {str(rings)[:60]}; correct it, or open with --repair to leave out "
            "rings that bound nothing"
        )
        raise FormatError(msg)
    found = []
    for ring in rings:
        points = _numbers(ring)
        if points is None:
            msg = (
                f"expected numbers as corners in annotation {annotation.get('id')!r} of {where}, "
                f"got {str(ring)[:60]}; correct it"
            )
            raise FormatError(msg)
        try:
            found.append(outlines.fill_polygon(points, shape))
        except FormatError as error:
            raise _damaged(annotation, where, error) from error
    return found


def _numbers(ring: list[Any]) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    try:
        points = np.asarray(ring)
    except ValueError:  # lists of several lengths
        return None
    return points.astype(np.float64) if points.dtype.kind in "iuf" and points.ndim == 1 else None


def _damaged(annotation: _Entry, where: str, error: FormatError) -> FormatError:
    return FormatError(f"annotation {annotation.get('id')!r} of {where}: {error}")

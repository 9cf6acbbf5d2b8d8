"""What a click means: which pixels of a network's answer join an object, and which leave it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from maskloop.ops import components
from maskloop.ops.regions import depth

if TYPE_CHECKING:
    from collections.abc import Callable

    from maskloop.core.geometry import Box

Region = npt.NDArray[np.bool_]
Point = tuple[int, int]
Chances = npt.NDArray[np.float32]


def innermost(region: Region) -> Point:
    """Return the pixel of a region that lies deepest in it; the array's edges are borders too.

    Examples
    --------
    >>> innermost(np.ones((3, 5), bool))
    (1, 1)
    """
    inside = depth(np.pad(region, 1), (1.0, 1.0))[1:-1, 1:-1]
    row, column = np.unravel_index(int(inside.argmax()), region.shape)
    return int(row), int(column)


def drawn(chances: Chances, threshold: float, point: Point) -> Region:
    """Return the pixels of an answer that are of the object at a point: one connected piece.

    The largest where the answer leaves the point out.

    Parameters
    ----------
    chances : float32 array ``(y, x)``
    threshold : float
        Pixels above it are of the object.
    point : (y, x)
        In the array; it may lie outside.
    """
    region = chances > threshold
    is_inside = all(0 <= i < n for i, n in zip(point, region.shape, strict=True))
    if is_inside and region[point]:
        return components.piece_at(region, point)
    return components.largest(region)


def leaving(
    whole: Region,
    chances: Chances,
    threshold: float,
    point: Point,
    *,
    of_middle: Chances | None,
) -> Region:
    """Return which pixels of an object leave it when somebody says that a point is not of it.

    Where the network sees another object at the point than at the object's middle, that one leaves.
    Where it sees the same, what is likelier to be of the point leaves: the object is cut between
    the two. A point at the very middle takes the object away.

    Parameters
    ----------
    whole : array of bool ``(y, x)``
        The object as it is now, with what people changed by hand.
    chances : float32 array ``(y, x)``
        Of each pixel to be of the object at the point.
    threshold : float
        Pixels above it are.
    point : (y, x)
    of_middle : float32 array ``(y, x)``, optional
        As `chances`, at the object's innermost pixel; None where the network sees nothing there.
    """
    middle = innermost(whole)
    if max(abs(a - b) for a, b in zip(middle, point, strict=True)) <= 1:
        return whole
    seen = whole & (chances > threshold)
    if seen[middle] and of_middle is not None:
        seen &= chances > of_middle
    seen[middle] = False
    if not seen[point]:
        # The network has no word for it: what lies nearer to the point than to the middle leaves.
        rows, columns = np.indices(whole.shape)
        near, far = ((rows - y) ** 2 + (columns - x) ** 2 for y, x in (point, middle))
        seen = whole & (near < far)
    return components.piece_at(seen, point)


def first_click_ious(
    ids: npt.NDArray[np.integer], draw: Callable[[Point], tuple[Box, Region] | None]
) -> dict[int, float]:
    """Return the IoU of what one click draws with each object, clicked at its innermost pixel.

    Parameters
    ----------
    ids : array of int ``(y, x)``
        The truth: 0, and one id an object.
    draw : callable
        Takes the point and returns a box and the region in it, or None.
    """
    found = {}
    for number in np.unique(ids[ids > 0]).tolist():
        truth = ids == number
        drawn = draw(innermost(truth))
        if drawn is None:
            found[int(number)] = 0.0
            continue
        box, region = drawn
        both = int(np.count_nonzero(truth[box] & region))
        either = int(np.count_nonzero(truth)) + int(np.count_nonzero(region)) - both
        found[int(number)] = both / either
    return found

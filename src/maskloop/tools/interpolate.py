"""Fill between drawn slices."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of
from maskloop.core.image import Image
from maskloop.core.mask import Mask
from maskloop.ops.between import between
from maskloop.tools.base import traits


@traits(reach=lambda values: 0.0)
def interpolate(
    mask: Mask,
    image: Image | None = None,
    *,
    label: int,
    axis: Annotated[
        Literal["z", "y", "x"],
        {
            "label": "slices across",
            "tooltip": "Array axis along which the slices were drawn.",
        },
    ] = "z",
    every: Annotated[
        int,
        {
            "min": 1,
            "max": 1000,
            "label": "trust every n-th slice",
            "tooltip": (
                "1: all slices that hold the label are as drawn. Above: of those only every n-th, "
                "and the last; the ones between are drawn anew."
            ),
        },
    ] = 1,
    longest: Annotated[
        float,
        {
            "min": 0.0,
            "max": 10000.0,
            "label": "longest gap (mm; 0: any)",
            "tooltip": "Gaps between drawn slices that are longer than this stay open.",
        },
    ] = 0.0,
) -> npt.NDArray[Any]:
    """Fill the slices between drawn ones with the shapes in between, by signed distance.

    Only slices between two that hold the label change, never other labels. Where the shapes of two
    slices do not overlap, the shape between them may vanish: draw one slice more.

    Parameters
    ----------
    mask : Mask
        Ids ``(z, y, x)``; a picture ``(y, x)`` has no slices and stays as it is.
    image : Image, optional
        Not used.
    label : int
        The id to change.
    axis : {"z", "y", "x"}
        The array axis across which slices lie.
    every : int
        How many of the slices that hold the label are trusted: every one, every second, ...
    longest : float
        Longest distance between two trusted slices that is filled, in mm; 0 for any.

    Returns
    -------
    array of unsigned int
        New ids; only background voxels differ, and with `every` above 1 this label's, too.
    """
    ids = mask.data.copy()
    box = box_of(ids, label, margin=1)
    if box is None or ids.ndim != 3:
        return ids
    number = "zyx".index(axis)
    part = np.moveaxis(ids[box], number, 0)
    region = part == label
    drawn = np.flatnonzero(region.any(axis=(1, 2))).tolist()
    given = sorted({*drawn[::every], drawn[-1]})
    spacing = [step for at, step in enumerate(mask.geometry.spacing) if at != number]
    far = longest / mask.geometry.spacing[number] + 1e-6 if longest > 0 else len(part)
    for near in _runs(given, far):
        for at, where, shape in between(region, near, spacing):
            if every > 1:
                part[at][region[at]] = 0
            target = part[at][where]
            target[shape & (target == 0)] = label
    return ids


def _runs(given: list[int], far: float) -> list[list[int]]:
    """Return the slices in groups, with no step above `far` inside a group."""
    cuts = [at for at, (a, b) in enumerate(itertools.pairwise(given), start=1) if b - a > far]
    return [given[a:b] for a, b in itertools.pairwise([0, *cuts, len(given)])]

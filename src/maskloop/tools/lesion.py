"""Add a lesion: its long axis on one slice gives a draft in all slices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy.typing as npt

from maskloop.core.errors import InputError
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.mask import Mask
from maskloop.core.parameters import Points
from maskloop.ops import lesions, strokes
from maskloop.ops.intensity import intensities
from maskloop.tools.base import traits


def _reach(values: Mapping[str, Any]) -> float:  # Any: values of options
    line, spacing = values["line"], values["spacing"]
    if not line or len(line) != 2:
        return 0.0
    sides = [(b - a) * step for a, b, step in zip(*line, spacing, strict=True)]
    return float(lesions.BEYOND * max(math.hypot(*sides), *spacing) + 3 * max(spacing))


@traits(
    reach=_reach,
    around=("points",),
    others=True,
    needs=("image", "points"),
    starts_empty=True,
)
def lesion(
    mask: Mask,
    image: Image | None = None,
    *,
    label: int,
    line: Annotated[
        Points | None,
        {
            "shape": "line",
            "label": "long axis",
            "tooltip": "From edge to edge along the longest diameter on the slice that shows it.",
        },
    ] = None,
    job: Job | None = None,
) -> npt.NDArray[Any]:
    """Draft a lesion in all slices from its long axis on one.

    The draft follows the image where inside and outside look different, and is an ellipsoid on
    the axis where they do not; it is there to be corrected. It takes background and the unlocked
    labels that the line crosses, such as the liver round a tumour, and no other label.

    Parameters
    ----------
    mask : Mask
        Ids ``(z, y, x)`` or ``(y, x)``.
    image : Image
        Intensities on the mask's grid; of a colour picture, its grey.
    label : int
        The id of the lesion; it may have voxels already, which stay.
    line : Points
        Both ends of the longest diameter, in array index order.
    job : Job, optional
        Told where the image shows no edge, and the draft is a mere ellipsoid.

    Returns
    -------
    array of unsigned int
        New ids.

    Raises
    ------
    InputError
        If line or image are missing, or the line has no length.
    """
    if not line or len(line) != 2:
        msg = f"expected the two ends of a long axis for lesion, got {line!r}; draw a line"
        raise InputError(msg)
    pixels = intensities(image, of="lesion")
    if math.dist(*line) < 0.5:
        msg = f"expected a long axis of some voxels for lesion, got {line!r}; draw a longer line"
        raise InputError(msg)
    ids = strokes.room_for(mask, label)
    draft = lesions.from_long_axis(pixels, mask.geometry.spacing, *line)
    if not draft.has_contrast and job is not None:
        job.say("no edge was found round the line: the draft is an ellipsoid on it")
    crossed = [[a + (b - a) * k / 8 for a, b in zip(*line, strict=True)] for k in range(1, 8)]
    free = strokes.grown_over(mask, label, draft.box, crossed)
    ids[draft.box][draft.region & free] = label
    return ids

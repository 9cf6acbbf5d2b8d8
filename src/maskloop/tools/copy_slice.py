"""Copy a label from one slice to the next ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of
from maskloop.core.errors import InputError
from maskloop.core.image import Image
from maskloop.core.mask import Mask
from maskloop.core.parameters import Points
from maskloop.ops import components, regions
from maskloop.tools.base import traits


def _reach(values: Mapping[str, Any]) -> float:  # Any: values of options
    """Return how far the last slice is, or the outline may have moved till then."""
    step = values["spacing"]["zyx".index(values["axis"]) - 3 + len(values["spacing"])]
    return float(abs(values["slices"]) * max(step, values["band"] if values["adjust"] else 0.0))


@traits(reach=_reach, needs=("points",))
def copy_slice(
    mask: Mask,
    image: Image | None = None,
    *,
    label: int,
    at: Annotated[
        Points | None,
        {
            "shape": "points",
            "label": "from the slice at",
            "tooltip": "A point in the slice to copy from.",
        },
    ] = None,
    axis: Annotated[
        Literal["z", "y", "x"],
        {
            "label": "slices across",
            "tooltip": "Array axis along which to copy.",
        },
    ] = "z",
    slices: Annotated[
        int,
        {
            "min": -100,
            "max": 100,
            "label": "to how many slices on",
            "tooltip": "How many of the next slices get the label; below 0, of the previous ones.",
        },
    ] = 1,
    what: Annotated[
        Literal["slice", "piece"],
        {
            "label": "copy",
            "tooltip": "All that the slice holds of the label, or only the piece at the point.",
        },
    ] = "slice",
    existing: Annotated[
        Literal["keep", "replace"],
        {
            "label": "what is there already",
            "tooltip": "Keep the label's voxels in the slices copied to, or replace them.",
        },
    ] = "keep",
    adjust: Annotated[
        bool,
        {
            "label": "adjust to the image",
            "tooltip": (
                "Move the outline, within the band, to where the image looks as under the label "
                "copied."
            ),
        },
    ] = False,
    band: Annotated[
        float,
        {
            "min": 0.0,
            "max": 100.0,
            "step": 0.5,
            "label": "band (mm; pixels in a picture)",
            "tooltip": "How far the outline may move from one slice to the next.",
        },
    ] = 3.0,
    share: Annotated[
        float,
        {
            "min": 10.0,
            "max": 100.0,
            "label": "intensities that count (%)",
            "tooltip": "Share of the copied label's intensities, the middle ones, to look for.",
        },
    ] = 90.0,
) -> npt.NDArray[Any]:
    """Copy the label of a slice to the next slices, adjusted to the image if wanted.

    Adjusted, a voxel nearer to the outline than the band belongs to the copy if its intensity is
    among the middle ones of the slice copied from; voxels deeper inside belong, those further
    outside do not. Pieces that hang together with no voxel of the former slice are dropped and
    holes filled; the next slice starts from the result.

    Parameters
    ----------
    mask : Mask
        Ids ``(z, y, x)``; a picture ``(y, x)`` has no next slice and stays as it is.
    image : Image, optional
        Intensities on the mask's grid, one channel; needed to adjust.
    label : int
        The id to copy.
    at : Points
        Array index in the slice to copy from; the first one counts.
    axis : {"z", "y", "x"}
        The array axis along which to copy.
    slices : int
        How many slices get the copy, below 0 towards lower indices; it ends at the image's edge.
    what : {"slice", "piece"}
        All of the label in the slice, or the piece there (8 neighbours) that holds the point.
    existing : {"keep", "replace"}
        Whether the label's voxels in the slices copied to stay.
    adjust : bool
        Whether to fit the copy to the image.
    band : float
        How far the outline may move a slice, in the unit of the grid.
    share : float
        Middle share, in percent, of the intensities under the label that count as the label's.

    Returns
    -------
    array of unsigned int
        New ids; only this label's and background voxels differ.

    Raises
    ------
    InputError
        If there is no point on a slice that holds the label, or no image to adjust to.
    """
    ids = mask.data.copy()
    box = box_of(ids, label)
    if box is None or ids.ndim != 3:
        return ids
    number = "zyx".index(axis)
    stack = np.moveaxis(ids, number, 0)
    start, shape = _source(np.moveaxis(mask.data, number, 0), label, at, number, what)
    step = 1 if slices > 0 else -1
    targets = [k for k in range(start + step, start + slices + step, step) if 0 <= k < len(stack)]
    spacing = tuple(s for k, s in enumerate(mask.geometry.spacing) if k != number)
    pixels = _pixels(image, number) if adjust else None
    if pixels is not None:
        rest = (100 - share) / 2
        bounds = np.nanpercentile(pixels[start][shape], [rest, 100 - rest])
    for target in targets:
        if pixels is not None:
            shape = _adjusted(shape, pixels[target], tuple(bounds), band, spacing)
        if existing == "replace":
            stack[target][stack[target] == label] = 0
        stack[target][shape & (stack[target] == 0)] = label
    return ids


def _source(
    stack: npt.NDArray[Any], label: int, at: Points | None, number: int, what: str
) -> tuple[int, npt.NDArray[np.bool_]]:
    """Return the slice to copy from and the shape in it."""
    if not at:
        msg = "expected a point in the slice to copy from, got none; point at that slice"
        raise InputError(msg)
    index = [round(v) for v in at[0]]
    start = index.pop(number)
    shape = stack[start] == label if 0 <= start < len(stack) else np.zeros((0, 0), bool)
    if what == "piece" and shape.any():
        is_on_it = all(0 <= i < n for i, n in zip(index, shape.shape, strict=True))
        shape = components.piece_at(shape, index) if is_on_it else shape & False
    if not shape.any():
        msg = (
            f"expected the point of copy_slice on a {what} that holds the label, got one beside "
            "it; point at another one"
        )
        raise InputError(msg)
    return start, shape


def _pixels(image: Image | None, number: int) -> npt.NDArray[Any]:
    if image is None or image.has_channels or image.has_time:
        got = "none" if image is None else f"shape {image.data.shape}"
        msg = (
            f"expected an image with one intensity a voxel to adjust to, got {got}; give the "
            "image, one channel of it, or copy without adjust"
        )
        raise InputError(msg)
    return np.moveaxis(image.data, number, 0)


def _adjusted(
    shape: npt.NDArray[np.bool_],
    pixels: npt.NDArray[Any],
    bounds: tuple[float, ...],
    band: float,
    spacing: tuple[float, ...],
) -> npt.NDArray[np.bool_]:
    """Return the shape with its outline moved to the edge of the intensities, within the band."""
    found = np.zeros(shape.shape, dtype=bool)
    box = box_of(shape, 1, margin=regions.voxels_of(band, spacing))
    if box is None:
        return found
    former = shape[box]
    away = regions.signed(former, spacing)
    is_alike = (pixels[box] >= bounds[0]) & (pixels[box] <= bounds[1])
    wanted = (away > band) | (is_alike & (away >= -band))
    pieces, count = components.label(wanted, connectivity=4)
    stays = np.zeros(count + 1, dtype=bool)
    stays[pieces[wanted & former]] = True
    found[box] = components.fill_holes(stays[pieces])
    return found

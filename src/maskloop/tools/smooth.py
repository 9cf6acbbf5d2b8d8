"""Smooth a label's surface."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of
from maskloop.core.image import Image
from maskloop.core.mask import Mask
from maskloop.ops import regions
from maskloop.ops.joint import joint
from maskloop.tools.base import traits


def _reach(method: str, radius: float) -> float:
    """Return how far the filters look: a Gaussian is cut at four standard deviations."""
    return {"joint": math.inf, "gaussian": 4 * radius}.get(method, 2 * radius)


@traits(reach=lambda values: _reach(values["method"], values["radius"]), others=True)
def smooth(
    mask: Mask,
    image: Image | None = None,
    *,
    label: int,
    method: Annotated[
        Literal["median", "opening", "closing", "gaussian", "joint"],
        {
            "label": "method",
            "tooltip": (
                "Median rounds, opening cuts thin bridges, closing fills thin gaps, Gaussian "
                "softens, joint softens all unlocked labels at once and leaves no gap between them."
            ),
        },
    ] = "median",
    radius: Annotated[
        float,
        {
            "min": 0.0,
            "max": 100.0,
            "step": 0.5,
            "label": "radius (mm; pixels in a picture)",
            "tooltip": (
                "Of the ball, or the Gaussian's standard deviation; below one voxel little happens."
            ),
        },
    ] = 3.0,
) -> npt.NDArray[Any]:
    """Smooth one label, or all together; new voxels come from the background, lost ones go to it.

    Parameters
    ----------
    mask : Mask
        Ids ``(z, y, x)`` or ``(y, x)``.
    image : Image, optional
        Not used.
    label : int
        The id to change.
    method : {"median", "opening", "closing", "gaussian", "joint"}
        Median: majority in a ball. Opening and closing: with a ball. Gaussian: blurred at 0.5.
        Joint: labels together as by Gaussian, and within that the label that is strongest when
        blurred; all unlocked labels change, whichever is `label`.
    radius : float
        In the unit of the mask's grid; true to unequal spacing.

    Returns
    -------
    array of unsigned int
        New ids; only this label's and background voxels differ, with the joint method also those
        of other unlocked labels. The edge of the image is no surface: beyond it the label is taken
        to go on as at the edge.
    """
    ids = mask.data.copy()
    spacing = mask.geometry.spacing
    if method == "joint":
        if radius > 0:
            joint(ids, spacing, radius, locked=[i for i, row in mask.labels.items() if row.locked])
        return ids
    reach = _reach(method, radius)
    box = box_of(ids, label, margin=regions.voxels_of(reach, spacing))
    if box is None or radius == 0:
        return ids
    part = ids[box]
    region = part == label
    smoothed = _METHODS[method](region, spacing, radius)
    part[region & ~smoothed] = 0
    part[smoothed & (part == 0)] = label
    return ids


def _ball(spacing: tuple[float, ...], radius: float) -> npt.NDArray[np.bool_]:
    axes = [
        np.arange(-int(radius / step + 1e-6), int(radius / step + 1e-6) + 1) * step
        for step in spacing
    ]
    squares = np.meshgrid(*[axis**2 for axis in axes], indexing="ij")
    return np.asarray(sum(squares) <= radius**2 * (1 + 1e-6))


def _median(
    region: regions.Region, spacing: tuple[float, ...], radius: float
) -> npt.NDArray[np.bool_]:
    from scipy import fft

    ball = _ball(spacing, radius)
    half = [n // 2 for n in ball.shape]
    padded = np.pad(region, [(h, h) for h in half], mode="edge").astype(np.float32)
    shape = [fft.next_fast_len(n, real=True) for n in padded.shape]
    # A ball is its own mirror image, so the convolution counts the voxels of the label around each.
    counts = fft.irfftn(fft.rfftn(padded, shape) * fft.rfftn(ball.astype(np.float32), shape), shape)
    centre = tuple(slice(2 * h, 2 * h + n) for h, n in zip(half, region.shape, strict=True))
    return np.asarray(np.rint(counts[centre]) > ball.sum() / 2)


def _gaussian(
    region: regions.Region, spacing: tuple[float, ...], radius: float
) -> npt.NDArray[np.bool_]:
    from scipy import ndimage

    sigma = [radius / step for step in spacing]
    blurred = ndimage.gaussian_filter(region.astype(np.float32), sigma, mode="nearest")
    return np.asarray(blurred > 0.5)


def _opening(
    region: regions.Region, spacing: tuple[float, ...], radius: float
) -> npt.NDArray[np.bool_]:
    core = regions.depth(region, spacing) > radius
    return regions.distance(core, spacing) <= radius


def _closing(
    region: regions.Region, spacing: tuple[float, ...], radius: float
) -> npt.NDArray[np.bool_]:
    return ~_opening(~region, spacing, radius)


_METHODS = {"median": _median, "opening": _opening, "closing": _closing, "gaussian": _gaussian}

"""Intensities that a tool asks for: one a voxel, ranges, and steps per millimetre."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.core.geometry import Box
    from maskloop.core.image import Image

Region = npt.NDArray[np.bool_]

_GREY = (0.299, 0.587, 0.114)


def intensities(image: Image | None, *, of: str) -> npt.NDArray[Any]:
    """Return the pixels of an image as one intensity a voxel; of colours, their grey.

    Raises
    ------
    InputError
        If there is no image, or it has a time axis or other channels than colours.

    References
    ----------
    .. [1] ITU-R Recommendation BT.601: the weights of red, green and blue.
    """
    if image is not None and image.has_channels and image.channels in (3, 4) and not image.has_time:
        grey = image.data[..., :3].astype(np.float32) @ np.array(_GREY, dtype=np.float32)
        return np.asarray(grey)
    if image is None or image.has_channels or image.has_time:
        got = "none" if image is None else f"shape {image.data.shape}"
        msg = (
            f"expected an image with one intensity or colour a voxel for {of}, got {got}; give the "
            "image, one channel of it"
        )
        raise InputError(msg)
    return image.data


def in_range(
    pixels: npt.NDArray[Any], lower: float | None, upper: float | None, *, of: str
) -> Region:
    """Return where intensities lie in a range, both ends included.

    Raises
    ------
    InputError
        If no bound is given, or they are the wrong way round.
    """
    if lower is None and upper is None:
        msg = f"expected lower or upper for {of}, got neither; give at least one bound of the range"
        raise InputError(msg)
    if lower is not None and upper is not None and lower > upper:
        msg = f"expected lower up to upper, got {lower!r} and {upper!r}; exchange them"
        raise InputError(msg)
    found = np.ones(pixels.shape, dtype=bool)
    if lower is not None:
        found &= pixels >= lower
    if upper is not None:
        found &= pixels <= upper
    return found


def blurred(
    pixels: npt.NDArray[Any], box: Box, spacing: Sequence[float], sigma: float
) -> npt.NDArray[Any]:
    """Return a box of the pixels after a Gaussian, which also sees what lies round the box.

    Parameters
    ----------
    pixels : array
        Any real type.
    box : tuple of slice
        With starts and stops within the array.
    spacing : sequence of float
        Step along each axis.
    sigma : float
        Standard deviation in the unit of `spacing`; cut at four of them, 0 for the pixels as
        they are.
    """
    from scipy import ndimage

    if sigma <= 0:
        return pixels[box]
    sigmas = [sigma / step for step in spacing]
    more = [int(4 * s + 0.5) for s in sigmas]
    wide = tuple(
        slice(max(0, part.start - m), min(n, part.stop + m))
        for part, m, n in zip(box, more, pixels.shape, strict=True)
    )
    found = ndimage.gaussian_filter(pixels[wide].astype(np.float32), sigmas, truncate=4.0)
    inner = tuple(
        slice(part.start - w.start, part.stop - w.start) for part, w in zip(box, wide, strict=True)
    )
    return np.asarray(found[inner])


def steepness(pixels: npt.NDArray[Any], spacing: Sequence[float]) -> npt.NDArray[np.float32]:
    """Return the length of the gradient, in intensities per unit of `spacing`.

    Parameters
    ----------
    pixels : array
        Any real type.
    spacing : sequence of float
        Step along each axis.
    """
    found = pixels.astype(np.float32, copy=False)
    squares = np.zeros(found.shape, dtype=np.float32)
    for axis, step in enumerate(spacing):
        if found.shape[axis] > 1:
            squares += np.square(np.gradient(found, step, axis=axis))
    return np.sqrt(squares)

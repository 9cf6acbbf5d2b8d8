"""The colour map of Pascal VOC: bits of a number, spread over red, green and blue.

References
----------
.. [1] The PASCAL VOC 2012 development kit, ``VOClabelcolormap.m``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_Numbers = npt.NDArray[np.int64]


def colours_of(numbers: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Return the colour of each number, ``(..., 3)``.

    Examples
    --------
    >>> colours_of([1, 15, 255]).tolist()
    [[128, 0, 0], [192, 128, 128], [224, 224, 192]]
    """
    wanted = np.asarray(numbers, np.int64)
    rgb = np.zeros((*wanted.shape, 3), np.int64)
    for step in range(8):
        for channel in range(3):
            rgb[..., channel] |= (wanted >> (3 * step + channel) & 1) << (7 - step)
    return rgb.astype(np.uint8)


def numbers_of(red: _Numbers, green: _Numbers, blue: _Numbers) -> _Numbers:
    """Return the number of each colour; every colour has one."""
    numbers = np.zeros(red.shape, np.int64)
    for step in range(8):
        for channel, values in enumerate((red, green, blue)):
            numbers |= (values >> (7 - step) & 1) << (3 * step + channel)
    return numbers

"""Guided filter: smooth numbers so that their edges follow those of a picture.

Paper: K. He, J. Sun, X. Tang, "Guided Image Filtering", PAMI 35(6), 2013, sections 3.1 (grey guide,
Algorithm 1) and 3.4 (guide of several channels). Written from the paper, for any number of axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError

Array = npt.NDArray[np.float32]

_CHUNK = 1 << 21  # voxels refined at a time


@dataclass(frozen=True, slots=True)
class Refinement:
    """How far, and how strongly, an answer's edges are drawn to the picture's.

    Parameters
    ----------
    radius : int
        Of the window, in voxels of the network's grid; 1 or more. Of 1 to 6, 2 left the fewest
        wrong pixels in membranes of electron microscopy; 4 and more closed thin ones.
    epsilon : float
        Variance of a guide of range 0 to 1 below which a window counts as flat; above 0. Smaller
        keeps fainter edges.
    """

    radius: int = 2
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        is_radius = isinstance(self.radius, int) and self.radius >= 1
        if not is_radius or isinstance(self.radius, bool) or not 0 < self.epsilon < np.inf:
            msg = (
                f"expected a radius of 1 voxel or more and an epsilon above 0 to refine with, got "
                f"{self.radius!r} and {self.epsilon!r}; leave them out for the usual ones"
            )
            raise InputError(msg)

    @classmethod
    def of(cls, asked: bool | int | Mapping[str, Any] | Refinement | None) -> Refinement | None:
        """Return what is asked for, None where nothing is.

        True is the usual one, a number its radius, a mapping its fields, as a card holds them.

        Raises
        ------
        InputError
            If it is none of these.
        """
        if asked is None or asked is False:
            return None
        if asked is True:
            return cls()
        if isinstance(asked, Refinement):
            return asked
        if isinstance(asked, int):
            return cls(radius=asked)
        if isinstance(asked, Mapping) and set(asked) <= {part.name for part in fields(cls)}:
            return cls(**asked)
        msg = f"expected a refinement of radius and epsilon, got {asked!r}; name these alone"
        raise InputError(msg)

    def to_json(self) -> dict[str, Any]:  # Any: plain JSON values
        """Return what a card holds as ``refine``."""
        return asdict(self)


def guided_filter(values: Array, guide: Array, *, radius: int, epsilon: float) -> Array:
    """Return `values` smoothed within windows, but not across edges of `guide`.

    In each window the result is a linear function of the guide that fits the values best in the
    sense of least squares, with a penalty `epsilon` on its slope; a voxel takes the mean of the
    functions of all windows it lies in. Windows are cut off at the borders.

    Parameters
    ----------
    values : float32 array ``(k, *spatial)``
        Filtered one by one; a constant stays what it is.
    guide : float32 array ``(c, *spatial)``
        Finite; adding a number to it changes nothing.
    radius : int
        A window's side is ``2 * radius + 1``.
    epsilon : float
        In squared units of the guide, above 0.

    Returns
    -------
    float32 array ``(k, *spatial)``
    """
    # The variance is a difference of squares: small numbers keep its digits.
    guide = guide - guide.mean(axis=tuple(range(1, guide.ndim)), keepdims=True)
    mean = _Mean(guide.shape[1:], radius)
    means = mean.of(guide)
    inverse = _inverse(guide, means, mean, epsilon)
    found = np.empty_like(values, dtype=np.float32)
    for target, one in zip(found, values, strict=True):
        level = mean(one)
        joint = mean.of(guide * one) - means * level
        slope = np.einsum("ij...,j...->i...", inverse, joint)
        offset = level - (slope * means).sum(axis=0)
        target[...] = mean(offset)
        target += (mean.of(slope) * guide).sum(axis=0)
    return found


def _inverse(guide: Array, means: Array, mean: _Mean, epsilon: float) -> Array:
    """Return the inverse of each window's covariance plus `epsilon`, ``(c, c, *spatial)``."""
    count = len(guide)
    spread = np.empty((count, *guide.shape), np.float32)
    for i in range(count):
        for j in range(i, count):
            spread[i, j] = spread[j, i] = mean(guide[i] * guide[j]) - means[i] * means[j]
        # Rounding may leave a variance just below 0.
        np.maximum(spread[i, i], 0, out=spread[i, i])
        spread[i, i] += epsilon
    if count == 1:
        return np.reciprocal(spread, out=spread)
    last = np.moveaxis(spread, (0, 1), (-2, -1)).astype(np.float64)
    return np.moveaxis(np.linalg.inv(last), (-2, -1), (0, 1)).astype(np.float32)


class _Mean:
    """Means over windows of one radius that are cut off at the borders."""

    def __init__(self, shape: tuple[int, ...], radius: int) -> None:
        self.side = 2 * radius + 1
        self.share = self._filtered(np.ones(shape, np.float32))

    def __call__(self, values: Array) -> Array:
        found = self._filtered(values)
        found /= self.share
        return found

    def of(self, planes: Array) -> Array:
        return np.stack([self(plane) for plane in planes])

    def _filtered(self, values: Array) -> Array:
        from scipy import ndimage

        found: Array = ndimage.uniform_filter(values, self.side, np.float32, mode="constant")
        return found


def guide_of(picture: Array) -> Array:
    """Return a posed picture ``(c, *spatial)`` as a guide: range 0 to 1, outliers cut.

    Channels share one scale, so that a dull one does not become all noise; a grey picture repeated
    into several channels becomes one.
    """
    axes = tuple(range(1, picture.ndim))
    low, high = np.percentile(picture, (0.5, 99.5), axis=axes, keepdims=True).astype(np.float32)
    own: Array = (picture - low) / np.maximum(high - low, np.float32(1e-6))
    if all(np.allclose(own[0], other, atol=1e-3) for other in own[1:]):
        return own[:1].clip(0, 1)
    own = (picture - low) / np.float32(max(float(np.max(high - low)), 1e-6))
    return own.clip(0, 1)


def refine(chances: Array, picture: Array, asked: Refinement) -> Array:
    """Return probabilities whose edges follow the picture's.

    Parameters
    ----------
    chances : float32 array ``(k, *spatial)``
        They sum to 1.
    picture : float32 array ``(c, *spatial)``
        What the network saw, in any units.
    asked : Refinement

    Returns
    -------
    float32 array ``(k, *spatial)``
        They sum to 1, and none is below 0.
    """
    guide = guide_of(picture)
    found = np.empty_like(chances)
    count, reach = chances.shape[1], 2 * asked.radius  # how far a voxel's result looks
    plane = max(1, chances[0, 0].size)
    step = max(4 * reach, _CHUNK // plane, 1)
    for first in range(0, count, step):
        last = min(first + step, count)
        low, high = max(0, first - reach), min(count, last + reach)
        part = guided_filter(
            chances[1:, low:high],
            guide[:, low:high],
            radius=asked.radius,
            epsilon=asked.epsilon,
        )
        found[1:, first:last] = part[:, first - low : last - low]
    # The filter is linear and keeps constants: the background is what the others leave.
    found[0] = 1 - found[1:].sum(axis=0)
    np.maximum(found, 0, out=found)
    found /= found.sum(axis=0)
    return found

"""The borders between objects: gaps where they touch, and how much a pixel between two weighs.

Method: O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional Networks for Biomedical Image
Segmentation", MICCAI 2015, section 3.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import widened
from maskloop.ops import regions
from maskloop.ops.components import boxes

if TYPE_CHECKING:
    from collections.abc import Iterator

Ids = npt.NDArray[Any]  # Any: objects come in every integer width
Region = npt.NDArray[np.bool_]

_CUT = 5.0  # standard deviations beyond which an object adds less than 4e-6 of the weight


def gaps(objects: Ids, classes: Ids | None = None) -> Region:
    """Return the voxels that must become background so that no two objects touch any more.

    They are of the larger of the two objects, one voxel thick; corners touch too.

    Parameters
    ----------
    objects : array of unsigned int
        ``(*spatial)``, object ids; 0 is background.
    classes : array, optional
        ``classes[id]`` is an object's class: only objects of one class are parted. All where None.

    Examples
    --------
    >>> gaps(np.array([[1, 1, 1, 2, 2]])).astype(int).tolist()
    [[0, 0, 1, 0, 0]]
    """
    found = np.zeros(objects.shape, dtype=bool)
    count = np.bincount(objects.ravel())
    # Ties go by id, so that of two equal objects one gives way and not both.
    rank = np.empty(len(count), dtype=np.int64)
    rank[np.argsort(count, kind="stable")] = np.arange(len(count))
    for here, there in _neighbours(objects.ndim):
        a, b = objects[here], objects[there]
        touch = (a != b) & (a > 0) & (b > 0)
        if classes is not None:
            touch &= classes[a] == classes[b]
        is_first = rank[a] > rank[b]
        found[here] |= touch & is_first
        found[there] |= touch & ~is_first
    return found


def weights(objects: Ids, *, w0: float = 10.0, sigma: float = 5.0) -> npt.NDArray[np.float32]:
    """Return what the loss of each background voxel gains by lying between two objects.

    ``w0 exp(-(d1 + d2)^2 / (2 sigma^2))`` with the distances to the nearest and the second nearest
    object, in voxels, between centres; 0 inside objects and where there is no second one.

    Parameters
    ----------
    objects : array of unsigned int
        ``(*spatial)``, object ids; 0 is background.
    w0 : float
        Weight at no distance.
    sigma : float
        In voxels.

    Examples
    --------
    >>> round(float(weights(np.array([[1, 0, 0, 0, 0, 0, 2]]))[0, 3]), 3)  # 10 exp(-36 / 50)
    4.868
    """
    nearest = np.full(objects.shape, np.inf, dtype=np.float32)
    second = nearest.copy()
    steps = (1.0,) * objects.ndim
    width = reach(sigma)
    for number, box in boxes(objects).items():
        around = widened(box, objects.shape, width)
        away = regions.distance(objects[around] == number, steps)
        near, next_near = nearest[around], second[around]
        np.minimum(next_near, np.maximum(near, away), out=next_near)
        np.minimum(near, away, out=near)
    gain = w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    return np.where(objects > 0, 0, gain).astype(np.float32)


def reach(sigma: float) -> int:
    """Return how many voxels around a crop decide about the weights in it."""
    return math.ceil(_CUT * sigma)


def _neighbours(ndim: int) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Yield the two views in which neighbours, corners among them, lie on each other, once each."""
    views = {0: (slice(None), slice(None)), 1: (slice(None, -1), slice(1, None))}
    views[-1] = views[1][::-1]
    for step in itertools.product((0, 1, -1), repeat=ndim):
        if next((n for n in step if n), -1) > 0:
            yield tuple(views[n][0] for n in step), tuple(views[n][1] for n in step)

"""Anchors fitted to the boxes of the objects to be found, level by level of a pyramid.

Shapes are clustered by overlap, as in J. Redmon, A. Farhadi, "YOLO9000: Better, Faster, Stronger",
CVPR 2017, section 2, "Dimension Clusters"; which level looks for which size follows T.-Y. Lin et
al., "Feature Pyramid Networks for Object Detection", CVPR 2017, section 4.1: 32 pixels at a step
of 4, and twice as many from level to level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator

from maskloop.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from maskloop.models.base import Volume

Shapes = tuple[tuple[tuple[float, float], ...], ...]
"""Level by level, the (width, height) of each anchor in pixels of the network."""

RATIOS = (0.5, 1.0, 2.0)
"""Height by width of the papers' anchors."""
_SIZE = 8  # side of a level's middle anchor, in steps of the level
_ROUNDS = 50


def usual(steps: Sequence[int], sizes: Sequence[float] = (_SIZE,)) -> Shapes:
    """Return the papers' anchors: each of `sizes`, in steps of the level, in three ratios.

    Examples
    --------
    >>> usual([4])
    (((45.0, 23.0), (32.0, 32.0), (23.0, 45.0)),)
    """
    return tuple(
        tuple(
            (float(round(step * size / ratio**0.5)), float(round(step * size * ratio**0.5)))
            for ratio in RATIOS
            for size in sizes
        )
        for step in steps
    )


def fitted(boxes: npt.NDArray[np.float64], steps: Sequence[int], each: int = len(RATIOS)) -> Shapes:
    """Return anchors like the boxes of objects, `each` a level.

    Parameters
    ----------
    boxes : float array ``(n, 2)``
        Width and height in pixels of the network, > 0.
    steps : sequence of int
        Pixels between two places of each level, ascending.
    each : int
        Anchors at a place.

    Returns
    -------
    tuple
        A level with fewer than `each` boxes of its size, or with boxes all alike, has anchors
        about their mean in the papers' ratios; one with none has the papers' own.
    """
    sides = np.sqrt(boxes.prod(axis=1))
    # Between two levels' sizes, the middle of their logarithms.
    edges = [step * _SIZE * 2**0.5 for step in steps[:-1]]
    level = np.searchsorted(edges, sides)
    found = []
    for number, step in enumerate(steps):
        mine = boxes[level == number]
        if len(mine) >= each and len(np.unique(mine, axis=0)) >= each:
            centres = clustered(mine, each)
        elif len(mine):
            centres = _about(mine.mean(axis=0), each)
        else:
            centres = _about(np.full(2, float(step * _SIZE)), each)
        found.append(tuple((round(float(w), 1), round(float(h), 1)) for w, h in centres))
    return tuple(found)


def _about(shape: npt.NDArray[np.float64], each: int) -> npt.NDArray[np.float64]:
    # As many ratios as anchors, from the first of the papers' to the last.
    ratios = np.geomspace(RATIOS[0], RATIOS[-1], each) if each > 1 else np.ones(1)
    return np.stack([shape[0] / ratios**0.5, shape[1] * ratios**0.5], axis=1)


def clustered(boxes: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
    """Return the `count` shapes ``(count, 2)`` that overlap the boxes best, by area: k-means.

    The distance of two shapes is 1 minus the intersection over union of boxes of one centre; it
    begins with the boxes at equal shares of the order by area, so it is the same every time.
    """
    order = np.argsort(boxes.prod(axis=1), kind="stable")
    starts = (np.arange(count) + 0.5) / count * len(boxes)
    centres = boxes[order[starts.astype(int)]].astype(np.float64)
    nearest = np.full(len(boxes), -1)
    for _ in range(_ROUNDS):
        before, nearest = nearest, overlaps(boxes, centres).argmax(axis=1)
        if (before == nearest).all():
            break
        for k in range(count):
            if (nearest == k).any():
                centres[k] = boxes[nearest == k].mean(axis=0)
    found: npt.NDArray[np.float64] = centres[np.argsort(centres.prod(axis=1), kind="stable")]
    return found


def overlaps(
    boxes: npt.NDArray[np.float64], shapes: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return ``(n, k)``: intersection over union of boxes ``(n, 2)`` and shapes of one centre."""
    common = np.minimum(boxes[:, None], shapes[None]).prod(axis=2)
    whole = boxes.prod(axis=1)[:, None] + shapes.prod(axis=1)[None] - common
    found: npt.NDArray[np.float64] = common / whole
    return found


def boxes_of(
    volumes: Iterable[Volume], classes: Iterable[int] | None = None
) -> npt.NDArray[np.float64]:
    """Return width and height of the objects of training pictures, ``(n, 2)``.

    Parameters
    ----------
    volumes : iterable of Volume
    classes : iterable of int, optional
        Class indices that count; all where left out.
    """
    from maskloop.ops.components import boxes

    wanted = None if classes is None else set(classes)
    sizes = [
        (box[1].stop - box[1].start, box[0].stop - box[0].start)
        for volume in volumes
        for i, box in boxes(volume.ids).items()
        if i in volume.categories and (wanted is None or volume.categories[i] in wanted)
    ]
    return np.array(sizes, dtype=np.float64).reshape(-1, 2)


class ShapedAnchors(AnchorGenerator):  # type: ignore[misc]  # torchvision has no types
    """Anchors of told shapes at every place of each level."""

    def __init__(self, shapes: Sequence[Sequence[Sequence[float]]]) -> None:
        # Only how many there are is asked of the sizes.
        super().__init__(tuple((1.0,) * len(level) for level in shapes), ((1.0,),) * len(shapes))
        self.cell_anchors = [
            torch.tensor([[-w / 2, -h / 2, w / 2, h / 2] for w, h in level], device="cpu")
            for level in shapes
        ]


def told(parameters: Mapping[str, Any], otherwise: Shapes) -> Shapes:  # Any: JSON
    """Return the anchors that a card tells (``anchors``), else others.

    Raises
    ------
    InputError
        If they are not, level by level, pairs of numbers over 0.
    """
    levels = parameters.get("anchors")
    if not levels:
        return otherwise
    try:
        found = tuple(tuple((float(w), float(h)) for w, h in level) for level in levels)
    except (TypeError, ValueError):
        found = ()
    if not found or not all(level and min(map(min, level)) > 0 for level in found):
        msg = (
            "expected anchors level by level, the width and height over 0 of each, got "
            f"{levels!r}; correct the card, or leave them out to have them fitted"
        )
        raise InputError(msg)
    return found


def as_many(shapes: Shapes, levels: int) -> Shapes:
    """Return `shapes`; raise `InputError` unless so many levels have as many anchors each."""
    counts = [len(level) for level in shapes]
    if len(counts) != levels or len(set(counts)) != 1:
        msg = (
            f"expected anchors of {levels} levels, as many for each, got {counts}; correct the "
            "card, or leave them out to have them fitted"
        )
        raise InputError(msg)
    return shapes

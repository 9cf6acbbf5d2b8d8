"""Boxes of YOLACT: where it begins, how it moves them, which it keeps.

W. Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, section 2.2 (matching, encoding);
D. Bolya et al., "YOLACT: Real-time Instance Segmentation", ICCV 2019, section 5 (anchors) and 4.2
(Fast NMS).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

if TYPE_CHECKING:
    from collections.abc import Sequence

STEPS = (8, 16, 32, 64, 128)
"""Pixels between the cells of P3 to P7."""
_RATIOS = (1.0, 0.5, 2.0)  # width by height
_SIZE = 3  # side of a level's anchor, in steps: 24 pixels at P3
_VARIANCES = (0.1, 0.2)  # of a move and a stretch
_IS, _IS_NOT = 0.5, 0.4

Shapes = tuple[tuple[tuple[float, float], ...], ...]
"""Level by level, the (width, height) of the boxes that a cell begins with."""


def papers(*, scales: int = 1, is_square: bool = False) -> Shapes:
    """Return the paper's shapes: one side a level, or three of a third of an octave, in 3 ratios.

    Parameters
    ----------
    scales : int
        Sides a level: 1, of YOLACT++ 3.
    is_square : bool
        Whether heights are the widths, as they were when the authors' COCO weights were trained.
    """
    return tuple(
        tuple(
            (side * ratio**0.5, side * (ratio**0.5 if is_square else ratio**-0.5))
            for side in (step * _SIZE * 2 ** (n / 3) for n in range(scales))
            for ratio in _RATIOS
        )
        for step in STEPS
    )


def priors(
    shapes: Shapes, sizes: Sequence[tuple[int, int]], within: tuple[int, int] | None = None
) -> Tensor:
    """Return the boxes that all cells begin with, centre and size: ``(n, 4)`` in pixels.

    Level by level, row by row, cell by cell, in the order of the shapes.

    Parameters
    ----------
    shapes : tuple
        One entry a level.
    sizes : sequence of (int, int)
        Rows and columns of the levels.
    within : (int, int), optional
        Rows and columns of the picture, where cells divide it evenly whatever their step (of a
        picture squashed to a size that is no multiple of the steps); else cells are `STEPS` apart.
    """
    found = []
    for number, (mine, (rows, columns)) in enumerate(zip(shapes, sizes, strict=True)):
        step = STEPS[number]
        high, wide = (step, step) if within is None else (within[0] / rows, within[1] / columns)
        y = (torch.arange(rows, dtype=torch.float32) + 0.5) * high
        x = (torch.arange(columns, dtype=torch.float32) + 0.5) * wide
        centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 1, 2)
        told = torch.tensor(mine, dtype=torch.float32).reshape(1, -1, 2)
        pairs = (len(centres), len(mine), 2)
        found.append(torch.cat([centres.expand(pairs), told.expand(pairs)], dim=2).reshape(-1, 4))
    return torch.cat(found)


def corners(boxes: Tensor) -> Tensor:
    """Return x0, y0, x1, y1 of boxes told by centre and size."""
    found: Tensor = box_convert(boxes, "cxcywh", "xyxy")
    return found


def encoded(boxes: Tensor, begins: Tensor) -> Tensor:
    """Return how each of `begins` (centre and size) becomes the box (corners) beside it."""
    wanted = box_convert(boxes, "xyxy", "cxcywh")
    move = (wanted[:, :2] - begins[:, :2]) / (begins[:, 2:] * _VARIANCES[0])
    stretch = (wanted[:, 2:].clamp(min=1e-3) / begins[:, 2:]).log() / _VARIANCES[1]
    return torch.cat([move, stretch], dim=1)


def decoded(told: Tensor, begins: Tensor) -> Tensor:
    """Return the boxes (corners) that `begins` (centre and size) become as they are `told` to."""
    centres = begins[..., :2] + told[..., :2] * _VARIANCES[0] * begins[..., 2:]
    # A stretch past e^8 is of a network that went astray; its boxes must stay finite.
    sizes = begins[..., 2:] * (told[..., 2:] * _VARIANCES[1]).clamp(max=8).exp()
    return corners(torch.cat([centres, sizes], dim=-1))


def matched(boxes: Tensor, begins: Tensor) -> Tensor:
    """Return which object each prior is for ``(n,)``: its number, -1 for none, -2 for undecided.

    An IoU of at least 0.5 makes it an object's, one below 0.4 makes it none; whatever its IoU,
    each object has the prior that meets it best, the better met ones first; in a crowd of more
    objects than priors, some have none.

    Parameters
    ----------
    boxes : Tensor ``(m, 4)``
        Of the objects, corners.
    begins : Tensor ``(n, 4)``
        The priors, centre and size.
    """
    if not len(boxes):
        return torch.full((len(begins),), -1, dtype=torch.int64, device=begins.device)
    overlaps = box_iou(boxes, corners(begins))
    best, found = overlaps.max(dim=0)
    found = torch.where(best >= _IS, found, torch.where(best < _IS_NOT, -1, -2))
    for place, one in _own_priors(overlaps):
        found[place] = one
    return found


def _own_priors(overlaps: Tensor) -> list[tuple[int, int]]:
    """Return (prior, object) pairs: the best pair of all first, each of either but once.

    All objects ask at once for the prior that they meet best; it takes the best of them, also in
    place of one that it took before, and who was turned away asks the next: D. Gale, L. Shapley,
    "College Admissions and the Stability of Marriage", 1962. One pair after the other gives the
    same, in as many rounds as there are objects.
    """
    meets = overlaps.detach().cpu().numpy()
    left = meets.copy()
    holder = np.full(meets.shape[1], -1)
    waiting = np.arange(len(meets))
    while len(waiting):
        asked = left[waiting].argmax(axis=1)
        values = left[waiting, asked]
        asking = values > 0  # in a crowd some are left with priors that they do not touch: none
        waiting, asked, values = waiting[asking], asked[asking], values[asking]
        held = holder[asked]
        best = np.where(held < 0, -1.0, meets[held, asked])
        order = np.lexsort((waiting, -values))
        first = order[np.unique(asked[order], return_index=True)[1]]
        won = np.zeros(len(waiting), bool)
        won[first] = values[first] > best[first]
        displaced = won & (held >= 0)
        left[held[displaced], asked[displaced]] = -1.0
        left[waiting[~won], asked[~won]] = -1.0
        holder[asked[won]] = waiting[won]
        waiting = np.concatenate([waiting[~won], held[displaced]])
    taken = np.flatnonzero(holder >= 0)
    return list(zip(taken.tolist(), holder[taken].tolist(), strict=True))


def fast_nms(boxes: Tensor, scores: Tensor, labels: Tensor, *, most: float = 0.5) -> Tensor:
    """Return the numbers of the boxes that Fast NMS keeps, the best score first.

    A box falls to any better one of its class that it meets too much, also to one that has fallen
    itself: all at once, and a little stricter than the usual suppression, one after the other.

    Parameters
    ----------
    boxes : Tensor ``(n, 4)``
        Corners.
    scores, labels : Tensor ``(n,)``
    most : float
        IoU up to which both are kept.
    """
    if not len(boxes):
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    order = scores.argsort(descending=True, stable=True)
    boxes, labels = boxes[order], labels[order]
    overlaps = box_iou(boxes, boxes) * (labels[:, None] == labels[None])
    return order[overlaps.triu(diagonal=1).amax(dim=0) <= most]

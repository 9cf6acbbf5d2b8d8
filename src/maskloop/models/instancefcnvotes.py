"""Masks by vote: what all boxes that overlap one object say of its pixels, weighed by score.

Y. Li et al., CVPR 2017, section 3.2, after J. Dai et al., "Instance-aware Semantic Segmentation
via Multi-task Network Cascades", CVPR 2016, section 3.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torchvision.ops import box_iou, nms

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from maskloop.core.geometry import Box


@dataclass(frozen=True, slots=True, eq=False)
class Voted:
    """One object that boxes agreed on.

    Parameters
    ----------
    place : box and bool array, or None
        Its pixels; None where it has none in the picture.
    score : float
        Of its best box.
    voters : int
        Boxes whose masks were averaged.
    """

    place: tuple[Box, npt.NDArray[np.bool_]] | None
    score: float
    voters: int


def voted(
    boxes: Tensor,
    scores: Tensor,
    masks: Tensor,
    size: tuple[int, int],
    *,
    least_score: float = 0.0,
    most: int = 300,
    overlap: float = 0.3,
    agreeing: float = 0.5,
    threshold: float = 0.4,
) -> list[Voted]:
    """Return the objects of one class, the best first.

    Parameters
    ----------
    boxes : Tensor ``(k, 4)``
        x0, y0, x1, y1 in pixels of the image.
    scores : Tensor ``(k,)``
        Of the class.
    masks : Tensor ``(k, m, m)``
        Probabilities in each box.
    size : tuple of int
        Rows and columns of the image.
    least_score : float
        Boxes below it name no object; they still vote.
    most : int
        Objects named.
    overlap : float
        IoU with a better box above which a box names no object of its own.
    agreeing : float
        IoU with the named box above which a box votes.
    threshold : float
        Pixels above it belong to the object.
    """
    able = torch.nonzero(scores >= least_score)[:, 0]
    kept = able[nms(boxes[able], scores[able], overlap)][:most]
    votes = box_iou(boxes[kept], boxes) > agreeing
    found = []
    for number, mine in zip(kept.tolist(), votes, strict=True):
        mine[number] = True
        told = averaged(boxes[mine], scores[mine], masks[mine], size)
        place = None if told is None else _binary(*told, threshold)
        found.append(Voted(place, float(scores[number]), int(mine.sum())))
    return found


def averaged(
    boxes: Tensor, weights: Tensor, masks: Tensor, size: tuple[int, int]
) -> tuple[Box, Tensor] | None:
    """Return the weighted mean of masks, each 0 outside its box, where any box lies.

    None where none lies in the image. Masks are interpolated bilinearly between their cells.
    """
    near = boxes[:, :2].min(0).values.floor().clamp(min=0).int().tolist()
    far = boxes[:, 2:].max(0).values.ceil().int().tolist()
    columns, rows = (
        slice(a, min(b, n)) for a, b, n in zip(near, far, (size[1], size[0]), strict=True)
    )
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None
    cells = masks.shape[-1]
    down = _spread(boxes[:, 1], boxes[:, 3], rows, cells)
    across = _spread(boxes[:, 0], boxes[:, 2], columns, cells)
    share = weights / weights.sum().clamp(min=1e-9)
    # Mask by mask rows @ mask @ columns; the sum over masks is part of the second product.
    tall = torch.matmul(down, masks.float() * share[:, None, None])
    whole = tall.permute(1, 0, 2).flatten(1) @ across.permute(0, 2, 1).flatten(0, 1)
    return (rows, columns), whole


def _spread(start: Tensor, stop: Tensor, pixels: slice, cells: int) -> Tensor:
    """Return ``(k, pixels, cells)``: how much of each cell of a mask lies in each pixel."""
    centres = torch.arange(pixels.start, pixels.stop, device=start.device) + 0.5
    share = (centres - start[:, None]) / (stop - start).clamp(min=1e-6)[:, None]
    at = (share * cells - 0.5).clamp(0, cells - 1)
    weight = (1 - (at[..., None] - torch.arange(cells, device=start.device)).abs()).clamp(min=0)
    return weight * ((share >= 0) & (share < 1))[..., None]


def _binary(box: Box, chance: Tensor, threshold: float) -> tuple[Box, npt.NDArray[np.bool_]] | None:
    region = (chance > threshold).cpu().numpy()
    return (box, region) if region.any() else None

"""What SOLO's cells should say, and Matrix NMS; all objects at once.

X. Wang et al., "SOLO: Segmenting Objects by Locations", ECCV 2020, section 3.3 (labels, losses);
X. Wang et al., "SOLOv2: Dynamic and Fast Instance Segmentation", NeurIPS 2020 (Matrix NMS).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from maskloop.models.onestage import middles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.models.instances import Targets

CENTRE = 0.2
"""Share of an object's box round its centre of mass whose cells stand for it."""


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Which cells of one level of one picture stand for which objects.

    Parameters
    ----------
    cells : int64 Tensor ``(k,)``
        Each at most once.
    owners : int64 Tensor ``(k,)``
        Number of the object.
    """

    cells: Tensor
    owners: Tensor


def cells_of(
    targets: Targets,
    scales: Sequence[Sequence[float]],
    grids: Sequence[int],
    *,
    centre: float = CENTRE,
) -> list[Cells]:
    """Return the cells that stand for the objects of one picture, level by level.

    A level takes objects whose box has a mean side (square root of its area) in its range. The
    cells lie in the part `centre` of the box round the centre of mass, at most one beside that of
    the centre itself. A cell that several objects claim goes to the smallest of them.
    """
    height, width = targets.masks.shape[1:]
    boxes = targets.boxes
    sides = (boxes[:, 2:] - boxes[:, :2]).flip(1)  # y, x
    size = boxes.new_tensor([height, width])
    middle = middles(targets.masks).flip(1)
    reach = sides * 0.5 * centre
    mean_side = sides.prod(1).sqrt()
    ranks = targets.masks.sum((1, 2)).argsort().argsort()
    found = []
    for (low, high), grid in zip(scales, grids, strict=True):
        cell = size / grid
        at = (middle / cell).floor()
        first = ((middle - reach) / cell).floor().clamp(min=0)
        last = ((middle + reach) / cell).floor().clamp(max=grid - 1)
        steps = torch.arange(-1, 2, device=boxes.device)
        rows, columns = (at[:, axis, None] + steps for axis in (0, 1))
        fits_y, fits_x = (
            (places >= first[:, axis, None]) & (places <= last[:, axis, None])
            for axis, places in enumerate((rows, columns))
        )
        is_hit = (mean_side >= low) & (mean_side <= high)
        fits = fits_y[:, :, None] & fits_x[:, None, :] & is_hit[:, None, None]
        index = (rows[:, :, None] * grid + columns[:, None, :]).long()
        owners = torch.nonzero(fits)[:, 0]
        found.append(_settled(index[fits], owners, ranks, grid * grid))
    return found


def _settled(cells: Tensor, owners: Tensor, ranks: Tensor, count: int) -> Cells:
    """Return each cell once, with the object of the lowest rank."""
    none = len(ranks)
    best = ranks.new_full((count,), none).scatter_reduce(0, cells, ranks[owners], "amin")
    taken = torch.nonzero(best < none)[:, 0]
    return Cells(taken, ranks.argsort()[best[taken]])


def is_open(unseen: Tensor, grid: int) -> Tensor:
    """Return which cells, ``(S * S,)``, somebody looked at wholly: they may prove background."""
    covered = functional.adaptive_max_pool2d(unseen.float()[None], (grid, grid))
    return covered.flatten() == 0


def dice_losses(found: Tensor, truth: Tensor, seen: Tensor) -> Tensor:
    """Return one minus Dice of each of ``(k, h, w)``, with squares in the denominator.

    Parameters
    ----------
    found, truth : Tensor ``(k, h, w)``
        From 0 to 1.
    seen : Tensor ``(h, w)``
        1 where somebody looked, else 0.
    """
    found, truth = found * seen, truth * seen
    both = (found * truth).sum((1, 2))
    sizes = found.square().sum((1, 2)) + truth.square().sum((1, 2))
    return 1 - 2 * both / sizes.clamp(min=1e-4)


def matrix_nms(masks: Tensor, labels: Tensor, scores: Tensor, *, sigma: float = 2.0) -> Tensor:
    """Return the scores, lowered where a better object of the class covers the same pixels.

    All pairs at once. An object's decay by a better one is weighed by how much that one is itself
    covered by a still better one; the strongest decay counts.

    Parameters
    ----------
    masks : bool Tensor ``(n, h, w)``
    labels : int64 Tensor ``(n,)``
    scores : Tensor ``(n,)``
        Descending.
    sigma : float
        Of the Gaussian of the overlap.
    """
    flat = masks.flatten(1).float()
    common = flat @ flat.T
    areas = flat.sum(1)
    iou = common / (areas[:, None] + areas[None] - common).clamp(min=1)
    is_pair = (labels[:, None] == labels[None]).triu(diagonal=1)
    iou = torch.where(is_pair, iou, torch.zeros_like(iou))
    if not len(scores):
        return scores
    covered = iou.max(dim=0).values  # of each object, by its betters
    decay = torch.exp(-sigma * (iou.square() - covered.square()[:, None]))
    # Only betters of the same class have a say.
    decay = torch.where(is_pair, decay, torch.ones_like(decay))
    return scores * decay.min(dim=0).values

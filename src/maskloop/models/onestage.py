"""Parts of networks that find objects in one pass: towers over a pyramid, focal loss, ranges."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork, sigmoid_focal_loss

from maskloop.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from maskloop.models.cards import ModelCard

PRIOR = 0.01
"""How likely a network that has learnt nothing should think an object is at any one place."""


def paper_recipe(shortest: int, longest: int, patch: Sequence[int]) -> dict[str, Any]:  # Any: JSON
    """Return how SOLO and PolarMask were trained: sixteen pictures at a time, 12 rounds of COCO.

    Parameters
    ----------
    shortest, longest : int
        Sides of the picture, in pixels.
    patch : sequence of int
        Rows and columns, in whole steps of the network.
    """
    return {
        "optimiser": "sgd",
        "rate": 0.01,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "batch": 16,
        "steps": 88_700,
        "parameters": {
            "shortest": shortest,
            "longest": longest,
            "patch": list(patch),
            "augmentation": ["mirror_x"],
        },
    }


def tower(channels: int, features: int, depth: int) -> nn.Sequential:
    """Return `depth` times a 3x3 convolution without bias, a group norm and a ReLU."""
    return nn.Sequential(
        *(
            nn.Sequential(
                nn.Conv2d(channels if number == 0 else features, features, 3, 1, 1, bias=False),
                _norm(features),
                nn.ReLU(inplace=True),
            )
            for number in range(depth)
        )
    )


def _norm(features: int) -> nn.GroupNorm:
    """Return a group norm of eight channels a group, as the papers' 32 groups of 256 features.

    A coarse map may be a single pixel: with one channel a group nothing would be left of it.
    """
    return nn.GroupNorm(math.gcd(32, max(1, features // 8)), features)


def start_calm(parts: Iterable[nn.Module]) -> None:
    """Draw the convolutions of towers from N(0, 0.01), biases 0.

    T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 4.1.
    """
    for part in parts:
        for layer in part.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


def start_rare(scores: nn.Conv2d) -> None:
    """Let class scores begin at `PRIOR`: the many empty places would swamp the first steps."""
    if scores.bias is not None:
        nn.init.constant_(scores.bias, -math.log((1 - PRIOR) / PRIOR))


def pyramid(fpn: FeaturePyramidNetwork, stages: Sequence[Tensor]) -> list[Tensor]:
    """Return the maps of a feature pyramid over `stages`, the finest first."""
    named = OrderedDict((str(number), stage) for number, stage in enumerate(stages))
    return list(fpn(named).values())


def focal(logits: Tensor, labels: Tensor, keep: Tensor) -> Tensor:
    """Return the summed focal loss (alpha 0.25, gamma 2) of independent classes.

    Parameters
    ----------
    logits : Tensor ``(n, classes)``
    labels : int64 Tensor ``(n,)``
        From 1; 0 for none of the classes.
    keep : bool Tensor ``(n,)``
        Places that count; the others have no loss.
    """
    logits, labels = logits[keep].float(), labels[keep]
    truth = torch.zeros_like(logits)
    hit = torch.nonzero(labels)[:, 0]
    truth[hit, labels[hit] - 1] = 1
    loss: Tensor = sigmoid_focal_loss(logits, truth, alpha=0.25, gamma=2.0, reduction="sum")
    return loss


def middles(masks: Tensor) -> Tensor:
    """Return the centres of mass of ``(n, y, x)``: x, y in pixels from the picture's edge."""
    area = masks.sum((1, 2)).clamp(min=1)
    rows, columns = (torch.arange(n, device=masks.device) + 0.5 for n in masks.shape[1:])
    return torch.stack(
        [(masks.sum(1) * columns).sum(1) / area, (masks.sum(2) * rows).sum(1) / area], dim=1
    )


def pairs_of(card: ModelCard, key: str, usual: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return the card's table of ``[low, high]``, one row a level; `usual` if it is silent.

    Raises
    ------
    InputError
        If it has another number of rows, or a row is no range.
    """
    try:
        rows = [[float(n) for n in row] for row in card.parameters.get(key, usual)]
    except (TypeError, ValueError):
        rows = []
    if len(rows) != len(usual) or any(len(row) != 2 or row[0] >= row[1] for row in rows):
        msg = (
            f"expected {len(usual)} ranges [low, high] under {key!r} of {card.name!r}, "
            f"got {card.parameters.get(key)!r}; correct the card"
        )
        raise InputError(msg)
    return rows

"""What AdaptIS learns from: points in objects, the normalised focal loss, the worth of points.

K. Sofiiuk, O. Barinova, A. Konushin, "AdaptIS: Adaptive Instance Selection Network", ICCV 2019,
sections 3.2 and 3.3; written from the paper. Licence of the code: BSD-3-Clause.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from maskloop.models.base import IGNORE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.models.instances import Targets

GAMMA = 2.0
ALPHA = 0.5
BAD = 0.3  # share of an object's points, the worst ones, that are no proposal at all
_BEST, _LEAST = 1.0, 0.7
_SMALL = 1e-8


def focal_weights(chances: Tensor, is_seen: Tensor) -> Tensor:
    """Return the weight of each pixel, harder ones more; they sum to the pixels that are seen.

    Parameters
    ----------
    chances : Tensor ``(n, y, x)``
        Probability of what is true there.
    is_seen : bool Tensor ``(n, y, x)``
        Other pixels weigh nothing.

    Returns
    -------
    Tensor ``(n, y, x)``
        Without gradients. Plain focal loss fades as a network learns; with these weights its
        gradients stay as large as those of cross-entropy (section 3.2).
    """
    hard = (1 - chances.detach()).clamp_min(0) ** GAMMA * is_seen
    total, count = hard.sum((1, 2), keepdim=True), is_seen.sum((1, 2), keepdim=True)
    even = is_seen.to(hard.dtype)
    return torch.where(total > _SMALL, hard * (count / total.clamp_min(_SMALL)), even)


def object_loss(logits: Tensor, truth: Tensor, is_seen: Tensor, *, alpha: float = ALPHA) -> Tensor:
    """Return the normalised focal loss of masks, the mean over points that see anything.

    Parameters
    ----------
    logits : Tensor ``(p, y, x)``
    truth, is_seen : bool Tensor ``(p, y, x)``
    alpha : float
        Weight of the object; ``1 - alpha`` is that of all else.
    """
    logits = logits.float()
    sign = truth.to(logits.dtype) * 2 - 1
    entropy = -functional.logsigmoid(logits * sign)
    weights = focal_weights((logits * sign).sigmoid(), is_seen)
    weights = weights * torch.where(truth, alpha, 1 - alpha)
    count = is_seen.sum((1, 2))
    each = (entropy * weights).sum((1, 2)) / count.clamp_min(1)
    return each.sum() / (count > 0).sum().clamp_min(1)


def class_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the normalised focal loss of classes ``(n, c, y, x)``, the mean over pictures.

    Parameters
    ----------
    logits : Tensor ``(n, c, y, x)``
    truth : int64 Tensor ``(n, y, x)``
        Class index; `IGNORE` where nobody looked.
    """
    is_seen = truth != IGNORE
    entropy = functional.cross_entropy(
        logits.float(), truth.masked_fill(~is_seen, 0), reduction="none"
    )
    weights = focal_weights((-entropy).exp(), is_seen)
    count = is_seen.sum((1, 2))
    each = (entropy * weights).sum((1, 2)) / count.clamp_min(1)
    return each.sum() / (count > 0).sum().clamp_min(1)


def class_map(targets: Targets) -> Tensor:
    """Return the class index of each pixel ``(y, x)`` of one picture; `IGNORE` where unseen."""
    found = torch.zeros_like(targets.unseen, dtype=torch.int64)
    for label, mask in zip(targets.labels, targets.masks, strict=True):
        found[mask] = label
    return found.masked_fill(targets.unseen, IGNORE)


def points_in(targets: Targets, count: int) -> tuple[Tensor, Tensor]:
    """Return `count` random points, each in an object drawn at random, and those objects' numbers.

    Returns
    -------
    points : int64 Tensor ``(count, 2)``
        y, x; none where there is no object.
    numbers : int64 Tensor ``(count,)``
    """
    if not len(targets):
        none = torch.zeros((0, 2), dtype=torch.int64, device=targets.unseen.device)
        return none, none[:, 0]
    numbers = torch.randint(len(targets), (count,))
    points = [_some(targets.masks[n], 1) for n in numbers.tolist()]
    return torch.cat(points), numbers.to(targets.labels.device)


def points_of_one(targets: Targets, count: int) -> tuple[Tensor, int]:
    """Return `count` random points of one object drawn at random, and its number."""
    number = int(torch.randint(len(targets), (1,)))
    return _some(targets.masks[number], count), number


def _some(mask: Tensor, count: int) -> Tensor:
    inside = mask.nonzero()
    return inside[torch.randint(len(inside), (count,)).to(inside.device)]


def overlaps(is_in: Tensor, truth: Tensor, is_seen: Tensor, area: int) -> Tensor:
    """Return the IoU of each mask ``(p, y, x)`` with an object of `area` pixels in all.

    Of `truth` only a window is seen, so that what lies beyond counts as missed.
    """
    found = is_in & is_seen
    both = (found & truth).sum((1, 2))
    return both / (found.sum((1, 2)) + area - both).clamp_min(1)


def worth(ious: Tensor) -> Tensor:
    """Return how good proposals an object's points are, by the rank of the masks they lead to.

    The worst three of ten are no proposals: 0. The others go from 0.7 to 1 (section 3.3).
    """
    count = len(ious)
    ranks = torch.empty_like(ious)
    ranks[ious.argsort()] = torch.arange(count, device=ious.device, dtype=ious.dtype)
    bad = int(BAD * count)
    good = _LEAST + (_BEST - _LEAST) * (ranks - bad) / max(count - 1 - bad, 1)
    return torch.where(ranks < bad, torch.zeros_like(good), good)


def windows_of(maps: Sequence[Tensor], starts: Tensor, like: Tensor) -> Tensor:
    """Return windows ``(p, h, w)`` as large as those of `like`, from `starts` (y, x) on."""
    rows, columns = like.shape[1:]
    return torch.stack(
        [
            one[y : y + rows, x : x + columns]
            for one, (y, x) in zip(maps, starts.tolist(), strict=True)
        ]
    )

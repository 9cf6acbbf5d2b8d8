"""What training minimises; voxels that nobody reviewed weigh nothing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_SMOOTH = 1e-5


def dice_ce(
    logits: Tensor,
    target: Tensor,
    *,
    ignore: int = 255,
    class_weights: Tensor | None = None,
    dice_share: float = 0.5,
) -> Tensor:
    """Return soft Dice plus cross-entropy of class scores.

    Parameters
    ----------
    logits : Tensor
        ``(n, classes, *spatial)``; class 0 is background.
    target : Tensor
        ``(n, *spatial)`` class indices; `ignore` where nobody reviewed.
    ignore : int
        Index of voxels that contribute nothing, neither to the loss nor to its gradient.
    class_weights : Tensor, optional
        One weight a class, for both terms.
    dice_share : float
        Share of the Dice term in the sum, 0 to 1.

    Returns
    -------
    Tensor
        A scalar; 0 with zero gradients where every voxel is ignored.

    References
    ----------
    .. [1] Drozdzal et al., "The Importance of Skip Connections in Biomedical Image Segmentation",
       DLMIA 2016, section 2.2 (soft Dice); summed with cross-entropy as in Isensee et al.,
       "nnU-Net", Nature Methods 2021.
    """
    target = target.long()
    is_seen = target != ignore
    if not bool(is_seen.any()):
        return logits.sum() * 0
    logits = logits.float()
    entropy = cross_entropy(logits, target, ignore=ignore, class_weights=class_weights)
    dice = soft_dice(logits.softmax(1), target, ignore=ignore, class_weights=class_weights)
    return dice_share * dice + (1 - dice_share) * entropy


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore: int = 255,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy of class scores, each voxel times the weight of its class.

    Parameters
    ----------
    logits, target, ignore
        As for `dice_ce`.
    class_weights : Tensor, optional
        One weight a class; the mean is over the weights.

    Returns
    -------
    Tensor
        A scalar; 0 with zero gradients where every voxel is ignored.
    """
    target = target.long()
    is_seen = target != ignore
    if not bool(is_seen.any()):
        return logits.sum() * 0
    return functional.cross_entropy(
        logits.float(), target.masked_fill(~is_seen, -100), weight=class_weights, ignore_index=-100
    )


def weighted_ce(logits: Tensor, target: Tensor, weights: Tensor, *, ignore: int = 255) -> Tensor:
    """Return the cross-entropy of class scores, each voxel times its weight.

    Parameters
    ----------
    logits : Tensor
        ``(n, classes, *spatial)``.
    target : Tensor
        ``(n, *spatial)`` class indices; `ignore` where nobody reviewed.
    weights : Tensor
        ``(n, *spatial)``, 0 or more.
    ignore : int
        Index of voxels that contribute nothing.

    Returns
    -------
    Tensor
        A scalar: the weighted sum by the number of reviewed voxels; 0 where there are none.
    """
    is_seen = target != ignore
    if not bool(is_seen.any()):
        return logits.sum() * 0
    entropy = functional.cross_entropy(
        logits.float(), target.masked_fill(~is_seen, -100), ignore_index=-100, reduction="none"
    )
    return (entropy * weights.to(entropy)).sum() / is_seen.sum()


def soft_dice(
    probabilities: Tensor,
    target: Tensor,
    *,
    ignore: int = 255,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return one minus the soft Dice of the foreground classes, summed over the whole batch.

    The batch is one region, as lesions that fill few voxels of few patches need it. Background has
    no part in the mean, unless it is the only class.

    Parameters
    ----------
    probabilities : Tensor
        ``(n, classes, *spatial)``, 0 to 1.
    target, ignore, class_weights
        As for `dice_ce`.
    """
    classes = probabilities.shape[1]
    is_seen = (target != ignore).unsqueeze(1)
    truth = functional.one_hot(target.masked_fill(target == ignore, 0).long(), classes)
    truth = truth.movedim(-1, 1).to(probabilities.dtype) * is_seen
    # where, not a product: an infinite or undefined score at an ignored voxel must not leak in.
    found = torch.where(is_seen, probabilities, torch.zeros_like(probabilities))
    axes = [0, *range(2, truth.ndim)]
    first = 1 if classes > 1 else 0
    shared = (found * truth).sum(axes)[first:]
    both = (found.sum(axes) + truth.sum(axes))[first:]
    dice = (2 * shared + _SMOOTH) / (both + _SMOOTH)
    if class_weights is None:
        return 1 - dice.mean()
    weights = class_weights[first:].to(dice)
    return 1 - (dice * weights).sum() / weights.sum().clamp_min(_SMOOTH)


def dice_bce(
    logits: Tensor,
    target: Tensor,
    *,
    reviewed: Tensor | None = None,
    positive_weight: float = 1.0,
    dice_share: float = 0.5,
) -> Tensor:
    """Return soft Dice plus binary cross-entropy of independent sigmoid channels.

    Parameters
    ----------
    logits : Tensor
        ``(n, channels, *spatial)``.
    target : Tensor
        The same shape, 0 to 1.
    reviewed : Tensor, optional
        Bool, the same shape or broadcastable to it; where false, a voxel contributes nothing.
    positive_weight : float
        Weight of foreground voxels in the cross-entropy.
    dice_share : float
        Share of the Dice term in the sum, 0 to 1.

    Returns
    -------
    Tensor
        A scalar; 0 with zero gradients where nothing is reviewed.
    """
    logits, target = logits.float(), target.float()
    is_seen = torch.ones_like(target, dtype=torch.bool)
    if reviewed is not None:
        is_seen = reviewed.bool().expand_as(target)
    if not bool(is_seen.any()):
        return logits.sum() * 0
    chosen, wanted = logits[is_seen], target[is_seen]
    entropy = functional.binary_cross_entropy_with_logits(
        chosen, wanted, pos_weight=torch.tensor(positive_weight, device=logits.device)
    )
    nothing = torch.zeros_like(target)
    found = torch.where(is_seen, logits.sigmoid(), nothing)
    truth = torch.where(is_seen, target, nothing)
    axes = [0, *range(2, truth.ndim)]
    shared, both = (found * truth).sum(axes), found.sum(axes) + truth.sum(axes)
    dice = 1 - ((2 * shared + _SMOOTH) / (both + _SMOOTH)).mean()
    return dice_share * dice + (1 - dice_share) * entropy

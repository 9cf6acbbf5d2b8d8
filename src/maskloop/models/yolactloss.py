"""What YOLACT learns by: classes, boxes, masks, and a semantic map beside them.

D. Bolya et al., "YOLACT: Real-time Instance Segmentation", ICCV 2019, sections 3.1, 3.3 and 5; of
YOLACT++ (PAMI 2020) section 5.1. What nobody reviewed is no background: its priors are left out,
and its cells count in no mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from maskloop.models.instances import Targets, is_unseen
from maskloop.models.yolactboxes import corners, encoded, matched

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.models.yolactnet import Answer, Yolact

_BOXES, _MASKS, _SEMANTIC, _RESCORING = 1.5, 6.125, 1.0, 25.0
_NEGATIVES = 3  # background priors learnt from for each that is an object's
_MOST_MASKS = 100  # of a picture in a step
_LEAST_AREA = 25  # cells of an object from which rescoring is learnt


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """What the priors of one picture are for.

    Parameters
    ----------
    which : int64 Tensor ``(priors,)``
        Object, or below 0 for none.
    classes : int64 Tensor ``(priors,)``
        Of the object; 0 for background, -1 for what is left out.
    """

    which: Tensor
    classes: Tensor


def match(target: Targets, begins: Tensor) -> Matched:
    """Return what each prior (centre and size) of a picture is for."""
    which = matched(target.boxes, begins)
    classes = torch.full_like(which, -1)
    classes[which == -1] = 0
    is_object = which >= 0
    classes[is_object] = target.labels[which[is_object]]
    unknown = (classes == 0) & is_unseen(corners(begins), target.unseen)
    return Matched(which, torch.where(unknown, -1, classes))


def loss(network: Yolact, answer: Answer, targets: Sequence[Targets], begins: Tensor) -> Tensor:
    """Return the weighted sum of all losses of a batch, a scalar.

    Parameters
    ----------
    network : Yolact
        Of which only the rescoring is asked, once there are masks.
    answer : Answer
        For the pictures, with a semantic map.
    targets : sequence of Targets
        One a picture.
    begins : Tensor ``(priors, 4)``
        Centre and size.
    """
    found = [match(one, begins) for one in targets]
    classes = torch.stack([one.classes for one in found])
    is_object = classes > 0
    count = is_object.sum().clamp(min=1)
    total = of_classes(answer.classes, classes) / count
    total = total + answer.boxes.sum() * 0 + answer.coefficients.sum() * 0
    total = total + answer.prototypes.sum() * 0
    for number, (target, one) in enumerate(zip(targets, found, strict=True)):
        mine = is_object[number].nonzero()[:, 0]
        if not len(mine):
            continue
        wanted = encoded(target.boxes[one.which[mine]], begins[mine])
        off = functional.smooth_l1_loss(answer.boxes[number, mine], wanted, reduction="sum")
        masks, scored = _of_masks(network, answer, number, target, mine, one.which[mine])
        total = total + (_BOXES * off + _MASKS * masks + _RESCORING * scored) / count
    if answer.semantic is None:
        return total
    return total + _SEMANTIC * of_semantic(answer.semantic, targets)


def of_classes(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the summed cross-entropy of objects' priors and the hardest of the background's.

    Three of the background for each of an object, picture by picture; three where there is none,
    unlike the paper: a picture without objects teaches as well.

    Parameters
    ----------
    logits : Tensor ``(n, priors, 1 + classes)``
    classes : int64 Tensor ``(n, priors)``
        -1 for what is left out.
    """
    each = functional.cross_entropy(logits.transpose(1, 2), classes.clamp(min=0), reduction="none")
    hardness = torch.where(classes == 0, each.detach(), -1.0)
    wanted = _NEGATIVES * (classes > 0).sum(dim=1).clamp(min=1)
    rank = hardness.argsort(dim=1, descending=True).argsort(dim=1)
    is_hard = (rank < wanted[:, None]) & (classes == 0)
    return (each * (is_hard | (classes > 0))).sum()


def of_semantic(logits: Tensor, targets: Sequence[Targets]) -> Tensor:
    """Return the cross-entropy of a map of the classes: its sum over them, its mean over cells.

    Cells that nobody reviewed do not count.
    """
    size = (int(logits.shape[2]), int(logits.shape[3]))
    total = logits.sum() * 0
    for one, target in zip(logits, targets, strict=True):
        wanted = torch.zeros_like(one)
        if len(target):
            masks = (shrunk(target.masks, size) > 0.5).to(one.dtype)
            wanted = wanted.index_add(0, target.labels - 1, masks).clamp(max=1)
        seen = _seen(target, size)
        each = functional.binary_cross_entropy_with_logits(one, wanted, reduction="none")
        total = total + (each * seen).sum() / seen.sum().clamp(min=1) / len(targets)
    return total


def shrunk(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Return masks ``(n, y, x)`` with as many cells as `size`, bilinearly, 0 to 1."""
    return functional.interpolate(masks[None].float(), size=size, mode="bilinear")[0]


def inside(boxes: Tensor, size: tuple[int, int], *, rim: float = 1.0) -> Tensor:
    """Return which cells ``(n, y, x)`` lie in boxes told in cells, or in a rim round them."""
    y, x = (torch.arange(n, device=boxes.device, dtype=boxes.dtype) for n in size)
    x0, y0, x1, y1 = (boxes[:, i, None] for i in range(4))
    rows = (y >= y0 - rim) & (y < y1 + rim)
    columns = (x >= x0 - rim) & (x < x1 + rim)
    return rows[:, :, None] & columns[:, None, :]


def _seen(target: Targets, size: tuple[int, int]) -> Tensor:
    return (shrunk(target.unseen[None], size)[0] < 0.5).float()


def _of_masks(
    network: Yolact, answer: Answer, number: int, target: Targets, mine: Tensor, which: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the losses of one picture's masks and of their rescoring, each summed over priors."""
    total = len(mine)
    if total > _MOST_MASKS:
        # Drawn on the processor, whose random numbers a resumed training goes on with.
        chosen = torch.randperm(total)[:_MOST_MASKS].to(mine.device)
        mine, which = mine[chosen], which[chosen]
    prototypes = answer.prototypes[number]
    size = (int(prototypes.shape[1]), int(prototypes.shape[2]))
    cells = size[1] / target.masks.shape[2], size[0] / target.masks.shape[1]
    boxes = target.boxes[which] * target.boxes.new_tensor([*cells, *cells])
    wanted = (shrunk(target.masks, size) > 0.5)[which].float()
    logits = torch.einsum("nk,kyx->nyx", answer.coefficients[number, mine], prototypes)
    within = inside(boxes, size) * _seen(target, size)
    each = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    masks = ((each * within).sum(dim=(1, 2)) / areas.clamp(min=1)).sum() * (total / len(mine))
    if network.rescoring is None:
        return masks, masks.new_zeros(())
    cut = logits.sigmoid() * within
    return masks, _of_rescoring(network, cut, wanted, target.labels[which])


def _of_rescoring(network: Yolact, masks: Tensor, wanted: Tensor, labels: Tensor) -> Tensor:
    is_large = wanted.sum(dim=(1, 2)) > _LEAST_AREA
    if network.rescoring is None or not bool(is_large.any()):
        return masks.sum() * 0
    masks, wanted, labels = masks[is_large], wanted[is_large], labels[is_large]
    sure = (masks > 0.5).float()
    common = (sure * wanted).sum(dim=(1, 2))
    real = common / (sure + wanted).clamp(max=1).sum(dim=(1, 2)).clamp(min=1)
    told = network.rescoring(masks).gather(1, labels[:, None] - 1)[:, 0]
    return functional.smooth_l1_loss(told, real, reduction="sum")

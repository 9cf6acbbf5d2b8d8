"""What FCIS learns: boxes told apart and refined, masks of what is in them, the hardest first.

Y. Li et al., CVPR 2017, section 3.3; hard examples after A. Shrivastava et al., "Training
Region-based Object Detectors with Online Hard Example Mining", CVPR 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou, roi_align

from maskloop.models.instancefcnnet import BINS
from maskloop.models.instances import is_unseen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.models.instancefcnnet import Read
    from maskloop.models.instances import Targets

DEVIATIONS = (0.2, 0.2, 0.5, 0.5)
"""Spread of the offsets that boxes are refined by: of the centre, then of the sides' logarithms."""
_CODER = BoxCoder(weights=tuple(1 / one for one in DEVIATIONS))
_LEAST_IOU = 0.5  # of a box with an object, to stand for it
_WEIGHTS = {"class": 1.0, "mask": 10.0, "box": 1.0}


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What boxes should have been read as.

    Parameters
    ----------
    labels : int64 Tensor ``(k,)``
        Class index, 0 for background, -1 where nothing is known.
    masks : float Tensor ``(k, bins, bins)``
        Of the object, as far as it lies in the box; 0 and 1. Only of positive boxes.
    seen : bool Tensor ``(k, bins, bins)``
        Where somebody looked.
    deltas : Tensor ``(k, 4)``
    """

    labels: Tensor
    masks: Tensor
    seen: Tensor
    deltas: Tensor


def as_rois(boxes: Sequence[Tensor]) -> Tensor:
    """Return boxes of several pictures as one tensor ``(k, 5)``, the picture's number first."""
    return torch.cat(
        [torch.cat([one.new_full((len(one), 1), i), one], dim=1) for i, one in enumerate(boxes)]
    )


def moved(boxes: Tensor, deltas: Tensor, size: tuple[int, int]) -> Tensor:
    """Return boxes ``(k, 4)`` refined by what was read, cut to a picture of `size`."""
    refined = _CODER.decode_single(deltas.float(), boxes)
    limits = refined.new_tensor([size[1], size[0]] * 2)
    return torch.minimum(refined.clamp(min=0), limits)


def wanted_of(boxes: Tensor, targets: Targets) -> Wanted:
    """Return what boxes ``(k, 4)`` of one picture should be read as.

    A box stands for the object it overlaps most, from an IoU of 0.5 on; else for background.
    """
    number = len(boxes)
    labels = torch.zeros(number, dtype=torch.int64, device=boxes.device)
    masks = boxes.new_zeros((number, BINS, BINS))
    seen = torch.ones_like(masks, dtype=torch.bool)
    deltas = torch.zeros_like(boxes)
    if len(targets):
        overlap, nearest = box_iou(boxes, targets.boxes).max(1)
        hit = torch.nonzero(overlap >= _LEAST_IOU)[:, 0]
        mine = nearest[hit]
        labels[hit] = targets.labels[mine]
        masks[hit] = (_cut(targets.masks, boxes[hit], mine) >= 0.5).float()
        seen[hit] = _cut(targets.unseen[None], boxes[hit], torch.zeros_like(mine)) < 0.5
        deltas[hit] = _CODER.encode_single(targets.boxes[mine], boxes[hit])
    labels[(labels == 0) & is_unseen(boxes, targets.unseen)] = -1
    return Wanted(labels, masks, seen, deltas)


def _cut(maps: Tensor, boxes: Tensor, which: Tensor) -> Tensor:
    """Return ``(k, bins, bins)``: each box's share of its map ``(n, y, x)``, cell by cell."""
    rois = torch.cat([which[:, None].to(boxes.dtype), boxes], dim=1)
    cut: Tensor = roi_align(maps[:, None].float(), rois, BINS, aligned=True)
    return cut[:, 0]


def head_loss(read: Read, wanted: Sequence[Wanted], *, hardest: int) -> Tensor:
    """Return the loss of the `hardest` boxes of each picture.

    Parameters
    ----------
    read : Read
        Of the boxes of all pictures, in order.
    wanted : sequence of Wanted
        One a picture.
    hardest : int
        Boxes a picture whose summed losses are largest; the others teach nothing.
    """
    labels = torch.cat([one.labels for one in wanted])
    cost, parts = _costs(read, labels, wanted)
    chosen = _chosen(cost.detach(), labels, [len(one.labels) for one in wanted], hardest)
    if not len(chosen):
        return read.classes.sum() * 0
    things = chosen[labels[chosen] > 0]
    total = _WEIGHTS["class"] * parts["class"][chosen].mean()
    total = total + _WEIGHTS["box"] * parts["box"][chosen].mean()
    return total + _WEIGHTS["mask"] * parts["mask"][things].sum() / max(len(things), 1)


def _costs(
    read: Read, labels: Tensor, wanted: Sequence[Wanted]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the summed loss of each box, and its parts."""
    things = torch.nonzero(labels > 0)[:, 0]
    masks, seen, deltas = (
        torch.cat([getattr(one, name) for one in wanted])[things]
        for name in ("masks", "seen", "deltas")
    )
    said = read.masks[things, :, :, labels[things]]
    off = functional.binary_cross_entropy_with_logits(said, masks, reduction="none") * seen
    by_pixel = off.sum((1, 2)) / seen.sum((1, 2)).clamp(min=1)
    by_side = functional.smooth_l1_loss(read.deltas[things], deltas, reduction="none").sum(1)
    none = read.classes.new_zeros(len(labels))
    parts = {
        "class": functional.cross_entropy(read.classes, labels.clamp(min=0), reduction="none"),
        "mask": none.index_put((things,), by_pixel),
        "box": none.index_put((things,), by_side),
    }
    total = torch.stack([_WEIGHTS[name] * part for name, part in parts.items()]).sum(0)
    return total, parts


def _chosen(cost: Tensor, labels: Tensor, counts: Sequence[int], hardest: int) -> Tensor:
    """Return the numbers of each picture's boxes that cost most, but those that nobody saw."""
    found, start = [], 0
    for count in counts:
        known = start + torch.nonzero(labels[start : start + count] >= 0)[:, 0]
        found.append(known[cost[known].topk(min(hardest, len(known))).indices])
        start += count
    return torch.cat(found)

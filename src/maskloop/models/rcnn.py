"""Detectors of two stages: what families that propose regions, then box and outline them, share.

K. He et al., "Mask R-CNN", ICCV 2017, sections 3 and 3.1, figure 4; T.-Y. Lin et al., "Feature
Pyramid Networks for Object Detection", CVPR 2017. Put together from torchvision's parts
(BSD-3-Clause), with tensors named as torchvision names them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import roi_align

from maskloop.models import anchors
from maskloop.models.instances import Targets, cpu_recipe, is_unseen, nothing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from maskloop.models.base import Volume
    from maskloop.models.cards import ModelCard
    from maskloop.models.pasting import View

PYRAMID_STEPS = (4, 8, 16, 32, 64)
"""Pixels between two places of P2 to P6."""
C4_STEP = 16
_SHOWN = 100  # detections of a picture, as in the paper

RECIPES = {
    # Section 3.1 and appendix A: 16 pictures, 90,000 steps at 0.02 on eight GPUs.
    "paper": {
        "steps": 90_000,
        "rate": 0.02,
        "optimiser": "sgd",
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "batch": 16,
    },
    "cpu": cpu_recipe(proposals=300),
}
"""Ways to train beside ours, which is the loop's own."""


class CarefulProposals(RegionProposalNetwork):  # type: ignore[misc]  # torchvision has no types
    """Region proposals that do not learn background where nobody looked."""

    unseen: list[Tensor] | None = None

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return torchvision's labels, with -1 (left out) for unreviewed background."""
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        return _without_unseen(labels, anchors, self.unseen), boxes


class CarefulHeads(RoIHeads):  # type: ignore[misc]  # torchvision has no types
    """Heads that do not learn background where nobody looked."""

    unseen: list[Tensor] | None = None

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return torchvision's labels, with -1 (left out) for unreviewed background."""
        matched, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        return matched, _without_unseen(labels, proposals, self.unseen)


def _without_unseen(
    labels: list[Tensor], boxes: list[Tensor], unseen: list[Tensor] | None
) -> list[Tensor]:
    if unseen is None:
        return labels
    return [
        torch.where((mine == 0) & is_unseen(box, where), -torch.ones_like(mine), mine)
        for mine, box, where in zip(labels, boxes, unseen, strict=True)
    ]


def surveyed(
    card: ModelCard,
    volumes: Iterable[Volume],
    steps: Sequence[int],
    *,
    each: int = 3,
    classes: Iterable[int] | None = None,
) -> ModelCard:
    """Return the card with anchors fitted to training boxes, and group norms in the network.

    Neither is touched where the card tells it, or where the network was trained before.

    Parameters
    ----------
    card : ModelCard
    volumes : iterable of Volume
        On the network's grid.
    steps : sequence of int
        Pixels between two places of each level.
    each : int
        Anchors at a place.
    classes : iterable of int, optional
        Class indices of what is to be boxed; all where left out.
    """
    if card.weights or card.base:
        return card
    more: dict[str, Any] = {}  # Any: JSON
    if "norm" not in card.parameters:
        more["norm"] = "group"
    if "anchors" not in card.parameters:
        boxes = anchors.boxes_of(volumes, classes)
        if len(boxes):
            shapes = anchors.fitted(boxes, steps, each)
            more["anchors"] = [[list(shape) for shape in level] for level in shapes]
    return replace(card, parameters={**card.parameters, **more})


def detected(network: Any, features: Mapping[str, Tensor], view: View) -> dict[str, Tensor]:
    """Return ``boxes``, ``labels``, ``scores`` and ``masks`` ``(n, m, m)`` of one view, on the CPU.

    Parameters
    ----------
    network : MaskRCNN
    features : mapping of str to Tensor
        Of the view's picture; boxes in half precision are pixels off.
    view : View
    """
    images = ImageList(view.picture, [view.seen])
    proposals, _ = network.rpn(images, features)
    (found,), _ = network.roi_heads(features, proposals, images.image_sizes)
    found = {name: value.cpu() for name, value in found.items()}
    return {**found, "masks": found["masks"][:, 0]}


def detection_loss(
    network: Any,  # Any: torchvision has no types
    features: Mapping[str, Tensor],
    images: Tensor,
    targets: Sequence[Targets],
) -> Tensor:
    """Return the sum of the five losses of the paper and its proposal network.

    Anchors and proposals that lie more than half in unreviewed regions are left out as background.

    Parameters
    ----------
    network : MaskRCNN
    features : mapping of str to Tensor
        Of the images.
    images : Tensor ``(n, c, y, x)``
    targets : sequence of Targets
        Labels are the network's outputs.
    """
    network.rpn.unseen = network.roi_heads.unseen = [one.unseen for one in targets]
    told = [
        {"boxes": one.boxes, "labels": one.labels, "masks": one.masks.byte()} for one in targets
    ]
    size = (int(images.shape[-2]), int(images.shape[-1]))
    batch = ImageList(images, [size] * len(images))
    proposals, first = network.rpn(batch, features, told)
    _, second = network.roi_heads(features, proposals, batch.image_sizes, told)
    losses = [*first.values(), *second.values()]
    if not any(len(one) for one in targets):
        # With no object and nothing reviewed there is no sample, whose mean would be NaN.
        losses = [loss for loss in losses if bool(torch.isfinite(loss))]
    return torch.stack(losses).sum() if losses else nothing(network)


def outlined(network: Any, features: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Return mask scores ``(detections, outputs, m, m)`` of boxes that fill the first picture.

    As many regions go through the heads as the card proposes, and as the paper detects (100; fewer
    if the card says so): how many there are is known only by choosing among scores, which a network
    without numbers cannot.
    """
    network.rpn.head(list(features.values()))
    heads = network.roi_heads
    finest, side = features["0"], heads.box_roi_pool.output_size
    whole = images.new_tensor([0, 0, 0, images.shape[-1], images.shape[-2]])
    step = 1 / heads.box_roi_pool.scales[0]

    def regions(count: int, size: tuple[int, int]) -> Tensor:
        found: Tensor = roi_align(finest, whole.expand(count, 5), size, 1 / step, 2)
        return found

    heads.box_predictor(heads.box_head(regions(network.rpn._post_nms_top_n["testing"], side)))
    masks = regions(min(_SHOWN, heads.detections_per_img), heads.mask_roi_pool.output_size)
    scores: Tensor = heads.mask_predictor(heads.mask_head(masks))
    return scores

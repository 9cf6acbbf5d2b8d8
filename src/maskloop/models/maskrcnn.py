"""Mask R-CNN with ResNet-50 and a feature pyramid: objects in photographs.

Papers: K. He et al., "Mask R-CNN", ICCV 2017, section 3; T.-Y. Lin et al., "Feature Pyramid
Networks for Object Detection", CVPR 2017; variant v2 after Y. Li et al., "Benchmarking Detection
Transfer Learning with Vision Transformers", arXiv 2111.11429, 2021.

The network is torchvision's (BSD-3-Clause), built from its parts; resizing, pasting of masks and
the treatment of unreviewed regions are our own. Its weights were trained by the torchvision
authors on COCO 2017, whose pictures carry their photographers' terms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from maskloop.core.errors import InputError, UnknownNameError
from maskloop.models.instances import InstanceFamily, Targets, is_unseen, listed, nothing
from maskloop.models.pasting import View, from_boxes
from maskloop.models.pyramid import NORMS
from maskloop.ops.device import autocast

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.core.labels import LabelTable
    from maskloop.models.cards import ModelCard
    from maskloop.models.objects import Found
    from maskloop.ops.device import Device

_VARIANTS = {
    "resnet50": "Mask R-CNN, ResNet-50 FPN",
    "resnet50-v2": "Mask R-CNN v2, ResNet-50 FPN",
}


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


class MaskRCNNFamily(InstanceFamily):
    """Mask R-CNN; stateless.

    `card.parameters`, besides those of `InstanceFamily`: ``detections`` (300), ``least_score``
    (0.5), ``proposals`` (1000; twice as many in training), ``samples`` (512: boxes a picture in
    training), ``norm`` (``"group"`` in a network that starts from nothing; ``"frozen"`` keeps the
    statistics that published weights come with), ``backbone`` (``"resnet50"``).
    """

    name = "maskrcnn"
    title = "Mask R-CNN (torchvision)"
    variants: tuple[str, ...] = tuple(_VARIANTS)
    trunk = "backbone.body."

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network of `variant` for `labels`."""
        variant = self.known(variant)
        return self.fresh(
            variant,
            labels,
            _VARIANTS[variant],
            {
                "detections": 300,
                "least_score": 0.5,
                "norm": "group" if variant == "resnet50" else "batch",
                "patch": [512, 512],
                "heads": ["roi_heads.box_predictor", "roi_heads.mask_predictor.mask_fcn_logits"],
            },
        )

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights; nothing is downloaded."""
        outputs = int(card.parameters.get("outputs", len(card.labels) + 1))
        told: dict[str, Any] = {
            "box_detections_per_img": int(card.parameters.get("detections", 300)),
            "box_score_thresh": float(card.parameters.get("least_score", 0.5)),
            "rpn_post_nms_top_n_test": int(card.parameters.get("proposals", 1000)),
            "rpn_post_nms_top_n_train": 2 * int(card.parameters.get("proposals", 1000)),
            "box_batch_size_per_image": int(card.parameters.get("samples", 512)),
        }
        if card.variant == "resnet50-v2":
            network = maskrcnn_resnet50_fpn_v2(
                weights=None, weights_backbone=None, num_classes=outputs, **told
            )
        elif card.variant == "resnet50":
            network = MaskRCNN(_backbone(card), num_classes=outputs, **told)
        else:
            raise UnknownNameError.of("variant of maskrcnn", card.variant, list(_VARIANTS))
        network.rpn = _as(CarefulProposals, network.rpn)
        network.roi_heads = _as(CarefulHeads, network.roi_heads)
        built: nn.Module = network.eval()
        return built

    def find(
        self, network: nn.Module, view: View, *, card: ModelCard, device: Device
    ) -> list[Found]:
        """Return the objects in one view; only the backbone runs in mixed precision.

        Boxes in half precision are pixels off.
        """
        parts = _checked(network)
        with autocast(device):
            features = parts.backbone(view.picture)
        features = {level: values.float() for level, values in features.items()}
        images = ImageList(view.picture, [view.seen])
        proposals, _ = parts.rpn(images, features)
        (found,), _ = parts.roi_heads(features, proposals, images.image_sizes)
        found = {name: value.cpu() for name, value in found.items()}
        regions = from_boxes(found["masks"][:, 0], found["boxes"], view)
        return listed(regions, found["labels"].tolist(), found["scores"].tolist(), card)

    def losses(
        self, network: nn.Module, images: Tensor, targets: Sequence[Targets], *, card: ModelCard
    ) -> Tensor:
        """Return the sum of the five losses of the paper and its proposal network.

        Anchors and proposals that lie more than half in unreviewed regions are left out as
        background. Published batch norms keep their statistics: batches are small.
        """
        parts = _checked(network)
        parts.rpn.unseen = parts.roi_heads.unseen = [one.unseen for one in targets]
        told = [
            {"boxes": one.boxes, "labels": _outputs(one.labels, card), "masks": one.masks.byte()}
            for one in targets
        ]
        size = (int(images.shape[-2]), int(images.shape[-1]))
        batch = ImageList(images, [size] * len(images))
        features = parts.backbone(images)
        proposals, first = parts.rpn(batch, features, told)
        _, second = parts.roi_heads(features, proposals, batch.image_sizes, told)
        losses = [*first.values(), *second.values()]
        if not any(len(one) for one in targets):
            # With no object and nothing reviewed there is no sample, whose mean would be NaN.
            losses = [loss for loss in losses if bool(torch.isfinite(loss))]
        return torch.stack(losses).sum() if losses else nothing(network)


def _checked(network: nn.Module) -> Any:  # Any: torchvision has no types
    if not isinstance(network, MaskRCNN):
        msg = f"expected a Mask R-CNN, got {type(network).__name__}; build it from its card"
        raise InputError(msg)
    return network


def _outputs(labels: Tensor, card: ModelCard) -> Tensor:
    """Return the network's outputs of class indices: where the card says so, labels' own ids."""
    if "outputs" not in card.parameters:
        return labels
    return labels.new_tensor([0, *card.labels])[labels]


def _backbone(card: ModelCard) -> nn.Module:
    norm = str(card.parameters.get("norm", "frozen"))
    backbone: nn.Module = resnet_fpn_backbone(
        backbone_name=str(card.parameters.get("backbone", "resnet50")),
        weights=None,
        norm_layer=NORMS[norm],
        trainable_layers=3 if norm == "frozen" else 5,
    )
    return backbone


def _as(kind: type[nn.Module], plain: nn.Module) -> nn.Module:
    """Return a module of a subclass with the parts of `plain`; torchvision has no hook for this."""
    careful = kind.__new__(kind)
    careful.__dict__.update(plain.__dict__)
    return careful


FAMILY = MaskRCNNFamily()

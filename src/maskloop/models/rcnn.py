"""Detectors of two stages: what families that propose regions, then box and outline them, share.

K. He et al., "Mask R-CNN", ICCV 2017, sections 3 and 3.1, figure 4; T.-Y. Lin et al., "Feature
Pyramid Networks for Object Detection", CVPR 2017. Put together from torchvision's parts
(BSD-3-Clause), with tensors named as torchvision names them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool
from torchvision.ops.poolers import LevelMapper

from maskloop.core.errors import InputError
from maskloop.models import anchors
from maskloop.models.anchors import ShapedAnchors
from maskloop.models.instances import Targets, is_unseen, nothing
from maskloop.models.pyramid import NORMS, Trunk, trunk_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torchvision.models.detection import MaskRCNN

    from maskloop.models.base import Volume
    from maskloop.models.cards import ModelCard
    from maskloop.models.pasting import View

PYRAMID_STEPS = (4, 8, 16, 32, 64)
"""Pixels between two places of P2 to P6."""
C4_STEP = 16
_C4_SIZES = (2, 4, 8, 16, 32)  # 32 to 512 pixels, in steps of the map
_SAMPLES = 512  # boxes a picture in training, and
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
    # What two cores train in an hour, and predict with in a second.
    "cpu": {
        "steps": 1500,
        "rate": 1e-3,
        "batch": 4,
        "parameters": {
            "backbone": "resnet18",
            "width": 0.5,
            "features": 64,
            "proposals": 300,
            "patch": [256, 256],
        },
    },
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


class Pyramid(nn.Module):
    """A residual network and its feature pyramid: P2 to P6, named ``0`` to ``3`` and ``pool``."""

    def __init__(self, body: Trunk, features: int, norm: str | None = None) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(
            list(body.features),
            features,
            extra_blocks=LastLevelMaxPool(),
            norm_layer=None if norm is None else NORMS[norm],
        )
        self.out_channels = features

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the five maps of ``(n, c, y, x)``, the finest first."""
        found: dict[str, Tensor] = self.fpn({str(i): c for i, c in enumerate(self.body(x))})
        return found


class FourStages(nn.Module):
    """A residual network as far as C4; its fifth stage waits for the regions."""

    def __init__(self, body: Trunk) -> None:
        super().__init__()
        self.body = body
        for part in body.get_submodule("layer4").modules():
            if isinstance(part, nn.Conv2d):
                # Regions are 7 x 7 already (Mask R-CNN, figure 4 left): no step in the fifth.
                part.stride = (1, 1)
        self.out_channels = body.features[2]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return C4 of ``(n, c, y, x)``, named ``0``."""
        body = self.body
        x = body.maxpool(body.relu(body.bn1(body.conv1(x))))
        for number in range(1, 4):
            x = body.get_submodule(f"layer{number}")(x)
        return {"0": x}


class FifthStage(nn.Module):
    """The trunk's fifth stage on regions: shared by boxes and masks, owned by the trunk alone."""

    def __init__(self, body: Trunk, *, is_averaged: bool) -> None:
        super().__init__()
        # In a tuple, or its tensors would be named, and saved, three times.
        self._stage = (body.get_submodule("layer4"),)
        self._is_averaged = is_averaged

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, c', 7, 7)`` of regions ``(n, c, 7, 7)``; or their means ``(n, c')``."""
        found: Tensor = self._stage[0](x)
        return found.mean((2, 3)) if self._is_averaged else found


def features_of(card: ModelCard) -> int:
    """Return the features of the pyramid and the heads that a card tells (``features``), or 256.

    Raises
    ------
    InputError
        If they cannot be.
    """
    features = int(card.parameters.get("features", 256))
    if not 1 <= features <= 1024:
        msg = f"expected 1 to 1024 features of the pyramid, got {features}; correct the card"
        raise InputError(msg)
    return features


def norm_of(card: ModelCard, usual: str = "frozen") -> str:
    """Return the norm that a card tells, or the one that published weights come with."""
    return str(card.parameters.get("norm", usual))


def on_pyramid(kind: type[MaskRCNN], card: ModelCard, outputs: int) -> nn.Module:
    """Return Mask R-CNN on a pyramid (figure 4, right), of a class derived from torchvision's."""
    features, norm = features_of(card), norm_of(card)
    backbone = Pyramid(_body(card, norm), features)
    shapes = anchors.told(card.parameters, anchors.usual(PYRAMID_STEPS))
    hidden = 4 * features
    return _put_together(
        kind,
        card,
        backbone,
        shapes,
        RPNHead(features, len(shapes[0])),
        boxes=(TwoMLPHead(features * 7**2, hidden), FastRCNNPredictor(hidden, outputs)),
        masks=(
            MaskRCNNHeads(features, (features,) * 4, 1),
            MaskRCNNPredictor(features, features, outputs),
        ),
    )


def on_normed_pyramid(kind: type[MaskRCNN], card: ModelCard, outputs: int) -> nn.Module:
    """Return torchvision's second version: norms in pyramid and heads, convolutions before boxes.

    Y. Li et al., "Benchmarking Detection Transfer Learning with Vision Transformers", arXiv
    2111.11429, 2021, section 2.
    """
    norm = "group" if norm_of(card) == "group" else "batch"
    make = NORMS[norm]
    features = features_of(card)
    backbone = Pyramid(_body(card, norm), features, norm)
    shapes = anchors.told(card.parameters, anchors.usual(PYRAMID_STEPS))
    hidden = 4 * features
    return _put_together(
        kind,
        card,
        backbone,
        shapes,
        RPNHead(features, len(shapes[0]), conv_depth=2),
        boxes=(
            FastRCNNConvFCHead((features, 7, 7), [features] * 4, [hidden], norm_layer=make),
            FastRCNNPredictor(hidden, outputs),
        ),
        masks=(
            MaskRCNNHeads(features, [features] * 4, 1, norm_layer=make),
            MaskRCNNPredictor(features, features, outputs),
        ),
    )


def on_c4(kind: type[MaskRCNN], card: ModelCard, outputs: int) -> nn.Module:
    """Return Mask R-CNN on C4 (figure 4, left): the fifth stage in the head, masks of 14 x 14."""
    features = features_of(card)
    body = _body(card, norm_of(card))
    backbone = FourStages(body)
    shapes = anchors.told(card.parameters, anchors.usual([C4_STEP], _C4_SIZES))
    return _put_together(
        kind,
        card,
        backbone,
        shapes,
        RPNHead(backbone.out_channels, len(shapes[0])),
        boxes=(
            FifthStage(body, is_averaged=True),
            FastRCNNPredictor(body.features[3], outputs),
        ),
        masks=(
            FifthStage(body, is_averaged=False),
            MaskRCNNPredictor(body.features[3], features, outputs),
        ),
        mask_side=7,
    )


def _body(card: ModelCard, norm: str) -> Trunk:
    body = trunk_of(replace(card, parameters={**card.parameters, "norm": norm}))
    if norm == "frozen":
        for part in (body.conv1, body.get_submodule("layer1")):
            part.requires_grad_(False)
    return body


def _put_together(
    kind: type[MaskRCNN],
    card: ModelCard,
    backbone: Pyramid | FourStages,
    shapes: anchors.Shapes,
    proposer: nn.Module,
    *,
    boxes: tuple[nn.Module, nn.Module],
    masks: tuple[nn.Module, nn.Module],
    mask_side: int = 14,
) -> nn.Module:
    told = card.parameters
    proposals = int(told.get("proposals", 1000))
    network = kind(
        backbone,
        rpn_anchor_generator=ShapedAnchors(shapes),
        rpn_head=proposer,
        rpn_pre_nms_top_n_test=max(1000, proposals),
        rpn_pre_nms_top_n_train=max(2000, 2 * proposals),
        rpn_post_nms_top_n_test=proposals,
        rpn_post_nms_top_n_train=2 * proposals,
        box_roi_pool=_pool(7, len(shapes)),
        box_head=boxes[0],
        box_predictor=boxes[1],
        box_score_thresh=float(told.get("least_score", 0.5)),
        box_detections_per_img=int(told.get("detections", 300)),
        box_batch_size_per_image=_samples(card),
        mask_roi_pool=_pool(mask_side, len(shapes)),
        mask_head=masks[0],
        mask_predictor=masks[1],
    )
    network.rpn = _as(CarefulProposals, network.rpn)
    network.roi_heads = _as(CarefulHeads, network.roi_heads)
    built: nn.Module = network.eval()
    return built


def _samples(card: ModelCard) -> int:
    """Return how many boxes of a picture its heads learn from: the paper's, fewer on small ones."""
    told = card.parameters
    height, width = told.get("patch", (512, 512))
    return int(told.get("samples", min(_SAMPLES, max(64, _SAMPLES * height * width // 512**2))))


def _pool(side: int, levels: int) -> MultiScaleRoIAlign:
    """Return RoIAlign; from P2 to P5 by a box's size, or from C4.

    Its scales are told: torchvision guesses them from the first picture, wrongly where that is
    small and padded, and keeps them.
    """
    steps = PYRAMID_STEPS[:4] if levels > 1 else (C4_STEP,)
    pool = MultiScaleRoIAlign([str(i) for i in range(len(steps))], side, sampling_ratio=2)
    pool.scales = [1 / step for step in steps]
    pool.map_levels = LevelMapper(2, 5) if levels > 1 else LevelMapper(4, 4)
    return pool


def _as(kind: type[nn.Module], plain: nn.Module) -> nn.Module:
    """Return a module of a subclass with the parts of `plain`; torchvision has no hook for this."""
    careful = kind.__new__(kind)
    careful.__dict__.update(plain.__dict__)
    return careful


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

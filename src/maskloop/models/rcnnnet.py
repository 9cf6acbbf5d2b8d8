"""Networks of two stages, put together from torchvision's parts (BSD-3-Clause).

K. He et al., "Mask R-CNN", ICCV 2017, figure 4; T.-Y. Lin et al., "Feature Pyramid Networks for
Object Detection", CVPR 2017. Tensors are named as torchvision names them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool
from torchvision.ops.poolers import LevelMapper

from maskloop.core.errors import InputError
from maskloop.models import anchors
from maskloop.models.anchors import ShapedAnchors
from maskloop.models.pyramid import NORMS, Trunk, trunk_of
from maskloop.models.rcnn import C4_STEP, PYRAMID_STEPS, CarefulHeads, CarefulProposals

if TYPE_CHECKING:
    from torchvision.models.detection import MaskRCNN

    from maskloop.models.cards import ModelCard

_C4_SIZES = (2, 4, 8, 16, 32)  # 32 to 512 pixels, in steps of the map
_SAMPLES = 512  # boxes a picture in training


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
    shapes = anchors.as_many(shapes, len(PYRAMID_STEPS) if isinstance(backbone, Pyramid) else 1)
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

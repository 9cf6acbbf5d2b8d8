"""Mask R-CNN: objects in photographs, each with a box, a class and an outline.

Papers: K. He et al., "Mask R-CNN", ICCV 2017, section 3; T.-Y. Lin et al., "Feature Pyramid
Networks for Object Detection", CVPR 2017; variant v2 after Y. Li et al., "Benchmarking Detection
Transfer Learning with Vision Transformers", arXiv 2111.11429, 2021.

The network is put together from torchvision's parts (BSD-3-Clause); resizing, pasting of masks,
fitted anchors and the treatment of unreviewed regions are our own. Published weights were trained
by the torchvision authors on COCO 2017, whose pictures carry their photographers' terms.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torchvision.models.detection import MaskRCNN

from maskloop.core.errors import InputError, UnknownNameError
from maskloop.models import rcnn, rcnnnet
from maskloop.models.base import load_strict
from maskloop.models.bounds import require_sound
from maskloop.models.instances import InstanceFamily, Targets, listed
from maskloop.models.pasting import View, from_boxes
from maskloop.ops.device import autocast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from maskloop.core.labels import LabelTable
    from maskloop.models.base import Volume
    from maskloop.models.cards import ModelCard
    from maskloop.models.objects import Found
    from maskloop.ops.device import Device

_TITLES = {
    "resnet50": "Mask R-CNN, ResNet-50 FPN",
    "resnet50-v2": "Mask R-CNN v2, ResNet-50 FPN",
    "c4": "Mask R-CNN, ResNet-50 C4",
}
_BUILDERS: dict[str, Callable[[type[MaskRCNN], ModelCard, int], nn.Module]] = {
    "resnet50": rcnnnet.on_pyramid,
    "resnet50-v2": rcnnnet.on_normed_pyramid,
    "c4": rcnnnet.on_c4,
}


class MaskRCNNFamily(InstanceFamily):
    """Mask R-CNN; stateless.

    `card.parameters`, besides those of `InstanceFamily` and of the trunk (``backbone``, ``width``):
    ``features`` (256: of pyramid and heads), ``anchors`` (level by level, width and height of each
    in pixels of the network; fitted to the training boxes in a network that starts from nothing),
    ``proposals`` (1000; twice as many in training), ``detections`` (500 a view), ``least_score``
    (0.5), ``samples`` (boxes a picture in training: 512 in a patch of 512 x 512 pixels, fewer in
    smaller ones), ``norm`` (``"frozen"``: the statistics that published weights come with; a
    network that starts from nothing gets ``"group"``).
    """

    name = "maskrcnn"
    title = "Mask R-CNN (torchvision)"
    variants: tuple[str, ...] = tuple(_TITLES)
    trunk = "backbone.body."

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network of `variant` for `labels`.

        Pictures are seen at their own size: nothing is enlarged to 800 pixels unasked.
        """
        variant = self.known(variant)
        return self.fresh(
            variant,
            labels,
            _TITLES[variant],
            {
                "detections": 500,
                "least_score": 0.5,
                "patch": [512, 512],
                "heads": ["roi_heads.box_predictor", "roi_heads.mask_predictor.mask_fcn_logits"],
                "recipes": rcnn.RECIPES,
            },
        )

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights; nothing is downloaded."""
        require_sound(card)
        outputs = int(card.parameters.get("outputs", len(card.labels) + 1))
        if card.variant not in _BUILDERS:
            raise UnknownNameError.of("variant of maskrcnn", card.variant, list(_BUILDERS))
        return _BUILDERS[card.variant](MaskRCNN, card, outputs)

    def load(self, card: ModelCard, files: Mapping[str, Path]) -> nn.Module:
        """Return the network with the weights in `files`, in eval mode."""
        return load_strict(self.build(card), files, name=card.name, renamed=_renamed)

    def begin(self, card: ModelCard, state: Mapping[str, Tensor]) -> nn.Module:
        """Return the network on a classifier's trunk, or on another Mask R-CNN but its heads."""
        return super().begin(card, _renamed(state))

    def survey(self, card: ModelCard, volumes: Iterable[Volume]) -> ModelCard:
        """Return the card with anchors like the training objects, if nothing was trained yet.

        A trunk that starts from nothing gets group norms: published statistics are not its own.
        """
        steps = (rcnn.C4_STEP,) if card.variant == "c4" else rcnn.PYRAMID_STEPS
        return rcnn.surveyed(card, volumes, steps, each=15 if card.variant == "c4" else 3)

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
        found = rcnn.detected(parts, features, view)
        regions = from_boxes(found["masks"], found["boxes"], view)
        return listed(regions, found["labels"].tolist(), found["scores"].tolist(), card)

    def losses(
        self, network: nn.Module, images: Tensor, targets: Sequence[Targets], *, card: ModelCard
    ) -> Tensor:
        """Return the sum of the five losses of the paper and its proposal network.

        Anchors and proposals that lie more than half in unreviewed regions are left out as
        background. Published batch norms keep their statistics: batches are small.
        """
        parts = _checked(network)
        told = [replace(one, labels=_outputs(one.labels, card)) for one in targets]
        return rcnn.detection_loss(parts, parts.backbone(images), images, told)

    def raw(self, network: nn.Module, images: Tensor, *, card: ModelCard) -> Tensor:
        """Return the mask scores ``(detections, outputs, m, m)`` of boxes that fill a picture."""
        parts = _checked(network)
        return rcnn.outlined(parts, parts.backbone(images), images)


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


# What torchvision's first detectors called their convolutions, and published weights still do.
_EARLIER = (
    (re.compile(r"^rpn\.head\.conv\.(weight|bias)$"), r"rpn.head.conv.0.0.\1"),
    (
        re.compile(r"^backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(weight|bias)$"),
        r"backbone.fpn.\1_blocks.\2.0.\3",
    ),
)
_MASK_LAYER = re.compile(r"^roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)$")


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for told, value in state.items():
        name = told
        for pattern, now in _EARLIER:
            name = pattern.sub(now, name)
        if match := _MASK_LAYER.match(name):
            name = f"roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}"
        found[name] = value
    return found


FAMILY = MaskRCNNFamily()

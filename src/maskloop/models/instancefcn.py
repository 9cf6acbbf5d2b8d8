"""Instance-sensitive fully convolutional networks: FCIS, and the proposals of InstanceFCN.

Papers: Y. Li, H. Qi, J. Dai, X. Ji, Y. Wei, "Fully Convolutional Instance-aware Semantic
Segmentation", CVPR 2017 (variants coco and voc); J. Dai, K. He, Y. Li, S. Ren, J. Sun,
"Instance-sensitive Fully Convolutional Networks", ECCV 2016 (variant proposals).
Sizes and thresholds of FCIS as in the authors' release (MIT), written anew; of InstanceFCN there
is no public code. No published weights can be loaded: train, from a classifier's if at hand.
Licence of the code: BSD-3-Clause.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maskloop.core.errors import InputError
from maskloop.models import anchors
from maskloop.models import instancefcnproposals as windows
from maskloop.models.bounds import require_sound
from maskloop.models.instancefcnnet import FCIS, Read
from maskloop.models.instancefcntargets import as_rois, head_loss, moved, wanted_of
from maskloop.models.instancefcnvotes import voted
from maskloop.models.instances import InstanceFamily, Targets, cpu_recipe, listed
from maskloop.models.pasting import from_boxes
from maskloop.models.pyramid import trunk_of
from maskloop.ops.device import autocast

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from maskloop.core.labels import LabelTable
    from maskloop.models.base import Volume
    from maskloop.models.cards import ModelCard
    from maskloop.models.objects import Found
    from maskloop.models.pasting import View
    from maskloop.models.pyramid import Trunk
    from maskloop.ops.device import Device

_TITLES = {
    "coco": "FCIS, ResNet-101, 12 anchors",
    "voc": "FCIS, ResNet-101, 9 anchors",
    "proposals": "InstanceFCN, VGG-16, proposals without classes",
}
_SIZES = {"coco": (4, 8, 16, 32), "voc": (8, 16, 32)}  # of anchors, in steps of 16 pixels
_DILATED = {16: (5,), 8: (4, 5)}  # step of the maps -> stages that keep the step before
# Section 4.1 of the paper: 8 GPUs at 5e-4 a picture, 8 epochs of COCO's 80k pictures.
_PAPER = {
    "optimiser": "sgd",
    "momentum": 0.9,
    "rate": 4e-3,
    "weight_decay": 5e-4,
    "schedule": "constant",
    "batch": 8,
    "steps": 80_000,
    "parameters": {"norm": "frozen", "fixed": 2, "shortest": 600, "longest": 1000},
}
# Sections 3.3 and 4 of the paper on proposals; its rate and length are not told there.
_PAPER_PROPOSALS = {
    "optimiser": "sgd",
    "momentum": 0.9,
    "rate": 1e-3,
    "weight_decay": 5e-4,
    "batch": 8,
    "steps": 40_000,
    "parameters": {
        "cells": windows.CELLS,
        "scales": [round(one, 3) for one in windows.SCALES],
        "shortest": 600,
        "overlap_of_proposals": 0.8,
    },
}


class InstanceFCNFamily(InstanceFamily):
    """FCIS and InstanceFCN; stateless.

    `card.parameters`, besides those of `InstanceFamily` and `trunk_of`: ``step`` (16, or 8: pixels
    a cell of the maps), ``features`` (1024: of the convolution before the part maps), ``anchors``
    (one level: width and height of each in pixels of the network; fitted to the training boxes in
    a network that starts from nothing), ``proposals`` (300: boxes looked at, more for crowded
    pictures; at most 300 in training), ``hardest``
    (128: boxes a picture that are learnt from), ``fixed`` (0: how many of the five stages of the
    trunk stay as they are), ``rounds`` (2: how often boxes are read; each time from where the one
    before moved them), ``least_score`` (0.5), ``detections`` (300).

    Of proposals: ``backbone`` (``"vgg16"``), ``width``, ``features`` (512), ``cells`` (21: along a
    side of a window, 8 pixels each) and ``scales`` (factors at which a picture is looked at), both
    fitted to the training boxes in a network that starts from nothing, ``proposals`` (300),
    ``least_score``, ``overlap_of_proposals`` (0.8 in the paper, whose proposals may be rivals; 0.3
    on fresh cards: IoU of boxes above which the worse one is dropped).
    """

    name = "instancefcn"
    title = "FCIS and InstanceFCN (Li 2017, Dai 2016)"
    variants: tuple[str, ...] = tuple(_TITLES)

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network of `variant` for `labels`."""
        variant = self.known(variant)
        if variant == "proposals":
            return self._proposals_card(labels)
        return self.fresh(
            variant,
            labels,
            _TITLES[variant],
            {
                "least_score": 0.5,
                # Boxes inside a larger one overlap it little: what is left of them is no object.
                "most_covered": 0.5,
                "patch": [512, 512],
                "heads": ["cls_seg"],
                "recipes": {"paper": _PAPER, "cpu": cpu_recipe(step=8)},
            },
            sources=("Li et al., CVPR 2017",),
        )

    def _proposals_card(self, labels: LabelTable) -> ModelCard:
        if len(labels) != 1:
            msg = (
                f"expected one label for {self.name}:proposals, which tells no classes apart, got "
                f"{len(labels)} ({', '.join(labels.names.values())}); give one, or choose coco"
            )
            raise InputError(msg)
        return self.fresh(
            "proposals",
            labels,
            _TITLES["proposals"],
            {
                "least_score": 0.5,
                "most_covered": 0.5,
                "overlap_of_proposals": 0.3,
                "patch": [512, 512],
                # Of another label nothing is to be learnt anew: no tensor is of a class.
                "heads": ["class"],
                "recipes": {"paper": _PAPER_PROPOSALS},
            },
            limits=("Tells objects from background, but no classes.",),
            sources=("Dai et al., ECCV 2016",),
        )

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights."""
        require_sound(card)
        variant, told = self.known(card.variant), card.parameters
        if variant == "proposals":
            return _window_network(card)
        step = int(told.get("step", 16))
        if step not in _DILATED:
            msg = f"expected a step of 16 or 8 pixels, got {step}; correct the card"
            raise InputError(msg)
        network = FCIS(
            trunk_of(card, "resnet101", dilated=_DILATED[step]),
            len(card.labels),
            step=step,
            features=int(told.get("features", 1024)),
            anchors=anchors.as_many(anchors.told(told, anchors.usual([16], _SIZES[variant])), 1),
            proposals=int(told.get("proposals", 300)),
        )
        _fix(network.trunk, int(told.get("fixed", 0)))
        return network

    def survey(self, card: ModelCard, volumes: Iterable[Volume]) -> ModelCard:
        """Return the card with anchors, or windows, like the training objects.

        Those that it tells are left alone, and those of a trained network.
        """
        fitted = "scales" if self.known(card.variant) == "proposals" else "anchors"
        if card.weights or card.base or fitted in card.parameters:
            return card
        boxes = anchors.boxes_of(volumes)
        if not len(boxes):
            return card
        if fitted == "scales":
            more = windows.windows_for(boxes.max(1), card.parameters.get("cells"))
            return replace(card, parameters={**card.parameters, **more})
        each = len(anchors.RATIOS) * len(_SIZES[self.known(card.variant)])
        shapes = [list(shape) for shape in anchors.fitted(boxes, [16], each)[0]]
        return replace(card, parameters={**card.parameters, "anchors": [shapes]})

    def raw(self, network: nn.Module, images: Tensor, *, card: ModelCard) -> Tensor:
        """Return the part maps ``(n, 2 * classes * 49, h, w)``, of proposals ``(n, 25, h, w)``."""
        if isinstance(network, windows.InstanceFCN):
            maps: Tensor = network(images)[0]
            return maps
        net = _checked(network)
        fourth, parts, _ = net(images)
        net.rpn.head([fourth])
        found: Tensor = parts
        return found

    def find(
        self, network: nn.Module, view: View, *, card: ModelCard, device: Device
    ) -> list[Found]:
        """Return the objects in one view: boxes read, moved, read again; masks by vote.

        Of proposals: the windows that hold something, at every scale.
        """
        if isinstance(network, windows.InstanceFCN):
            return _proposed(network, view, card, device)
        net, told = _checked(network), card.parameters
        with autocast(device):
            fourth, parts, sides = net(view.picture)
        (boxes,), _ = net.propose(fourth, view.picture, [view.seen])
        boxes, read = read_in_rounds(
            net, parts, sides, boxes, view.seen, rounds=int(told.get("rounds", 2))
        )
        chances = read.classes.softmax(1)[:, 1:]
        masks = agnostic(read.masks[..., 1:], chances).cpu()
        boxes, chances = view.on_image(boxes).cpu(), chances.cpu()
        found = []
        for k in range(chances.shape[1]):
            mine = voted(
                boxes,
                chances[:, k],
                masks,
                view.size,
                least_score=float(told.get("least_score", 0.5)),
                most=int(told.get("detections", 300)),
            )
            labels, scores = [k + 1] * len(mine), [one.score for one in mine]
            found += listed([one.place for one in mine], labels, scores, card)
        found.sort(key=lambda one: -one.score)
        return found[: int(told.get("detections", 300))]

    def losses(
        self, network: nn.Module, images: Tensor, targets: Sequence[Targets], *, card: ModelCard
    ) -> Tensor:
        """Return the losses of the proposals and of the hardest boxes, objects' own among them.

        Anchors and boxes that lie more than half in unreviewed regions are no background.
        """
        if isinstance(network, windows.InstanceFCN):
            factors = windows.usable(_scales(card), images.shape[-2:])
            factor = factors[int(torch.randint(len(factors), ()))]
            return windows.window_loss(network, *windows.rescaled(images, targets, factor))
        net = _checked(network)
        fourth, parts, sides = net(images)
        size = (int(images.shape[-2]), int(images.shape[-1]))
        proposals, first = net.propose(fourth, images, [size] * len(images), targets)
        boxes = [
            torch.cat([mine.detach(), one.boxes])
            for mine, one in zip(proposals, targets, strict=True)
        ]
        wanted = [wanted_of(mine, one) for mine, one in zip(boxes, targets, strict=True)]
        read = net.read(parts, sides, as_rois(boxes))
        hardest = int(card.parameters.get("hardest", 128))
        # Where nothing was reviewed no anchor is sampled, and torchvision's mean of none is NaN.
        first = [loss for loss in first if bool(torch.isfinite(loss)) or any(map(len, targets))]
        return torch.stack([*first, head_loss(read, wanted, hardest=hardest)]).sum()


def _scales(card: ModelCard) -> list[float]:
    return [float(one) for one in card.parameters.get("scales", windows.SCALES)]


def _window_network(card: ModelCard) -> windows.InstanceFCN:
    told = card.parameters
    if told.get("backbone", "vgg16") == "vgg16":
        trunk: windows.VGGTrunk | Trunk = windows.VGGTrunk(
            card.channels, float(told.get("width", 1.0))
        )
    else:
        trunk = trunk_of(card, dilated=_DILATED[windows.STEP])
    return windows.InstanceFCN(
        trunk,
        features=int(told.get("features", 512)),
        cells=int(told.get("cells", windows.CELLS)),
    )


def _proposed(
    network: windows.InstanceFCN, view: View, card: ModelCard, device: Device
) -> list[Found]:
    told = card.parameters
    with autocast(device):
        boxes, masks, scores = windows.proposed(
            network,
            view.picture,
            _scales(card),
            least_score=float(told.get("least_score", 0.5)),
            most=int(told.get("proposals", 300)),
            overlap=float(told.get("overlap_of_proposals", 0.8)),
        )
    regions = from_boxes(masks.float().cpu(), boxes.float().cpu(), view)
    return listed(regions, [1] * len(regions), scores.float().tolist(), card)


def read_in_rounds(
    network: FCIS,
    parts: Tensor,
    sides: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    *,
    rounds: int = 2,
) -> tuple[Tensor, Read]:
    """Return boxes ``(k, 4)`` and what was read of them; each round adds those it moved.

    Parameters
    ----------
    parts, sides : Tensor
        Maps of one picture, as `FCIS` gives them.
    boxes : Tensor ``(n, 4)``
    size : tuple of int
        Rows and columns boxes are cut to.
    rounds : int
        2 doubles the boxes.
    """
    seen, said = [], []
    for _ in range(rounds):
        read = network.read(parts, sides, as_rois([boxes]))
        seen.append(boxes)
        said.append(read)
        boxes = moved(boxes, read.deltas, size)
    return torch.cat(seen), Read(
        *(torch.cat([getattr(one, n) for one in said]) for n in ("classes", "masks", "deltas"))
    )


def agnostic(masks: Tensor, chances: Tensor) -> Tensor:
    """Return one mask a box ``(k, m, m)``: those of the classes, weighed by their chances.

    Parameters
    ----------
    masks : Tensor ``(k, m, m, labels)``
        Inside minus outside.
    chances : Tensor ``(k, labels)``
        The background's left out: nobody taught it a mask.
    """
    share = chances / chances.sum(1, keepdim=True).clamp(min=1e-9)
    return torch.einsum("kijc,kc->kij", masks.sigmoid(), share)


def _fix(trunk: nn.Module, stages: int) -> None:
    """Let the first `stages` of the five stages of a residual network stay as they are."""
    names = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
    for name in (name for stage in names[:stages] for name in stage):
        trunk.get_submodule(name).requires_grad_(requires_grad=False)


def _checked(network: nn.Module) -> Any:  # Any: a submodule's calls have no types
    if not isinstance(network, FCIS):
        msg = f"expected an FCIS, got {type(network).__name__}; build it from its card"
        raise InputError(msg)
    return network


FAMILY = InstanceFCNFamily()

"""YOLACT and YOLACT++: each object a sum of prototype masks, in one pass.

Papers: D. Bolya, C. Zhou, F. Xiao, Y. J. Lee, "YOLACT: Real-time Instance Segmentation", ICCV 2019,
sections 3 to 5; "YOLACT++: Better Real-time Instance Segmentation", PAMI 2020, section 5. Written
from the papers; the names of tensors and the square anchors of the authors' weights are facts of
their repository (dbolya/yolact, MIT).

Other than the paper: anchors are fitted to the training boxes, pictures keep their size, pictures
without objects teach background, and masks are cut at the box's own edges. The recipe ``paper``
brings the paper's sizes and anchors back. Licence of the code: BSD-3-Clause. The authors' weights
are read from a local file and not passed on.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maskloop.core.errors import InputError
from maskloop.models import anchors
from maskloop.models.bounds import require_sound
from maskloop.models.instances import InstanceFamily, Targets, cpu_recipe, listed
from maskloop.models.pasting import View, from_maps
from maskloop.models.pyramid import trunk_of
from maskloop.models.yolactboxes import STEPS, Shapes, decoded, fast_nms, papers, priors
from maskloop.models.yolactloss import inside, loss
from maskloop.models.yolactnames import converted
from maskloop.models.yolactnet import Answer, Yolact, deform
from maskloop.ops.device import autocast

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from maskloop.core.labels import LabelTable
    from maskloop.models.base import Volume
    from maskloop.models.cards import ModelCard
    from maskloop.models.objects import Found
    from maskloop.ops.device import Device

_VARIANTS = {
    "resnet50": "YOLACT, ResNet-50",
    "resnet101": "YOLACT, ResNet-101",
    "resnet50-plus": "YOLACT++, ResNet-50",
    "resnet101-plus": "YOLACT++, ResNet-101",
}
_DEFORMED = {"resnet101": 3}  # one of so many blocks; each where not told
_SIDE = 550  # of the paper's pictures
# What a level looks for is 8 of these: as large as the paper's anchors, 3 of the level's own steps.
_FITTED_STEPS = tuple(3 * step // 8 for step in STEPS)
_PAPER = {
    "optimiser": "sgd",
    "rate": 1e-3,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "batch": 8,
    "steps": 800_000,
}


class YolactFamily(InstanceFamily):
    """YOLACT; stateless.

    `card.parameters`, besides those of `InstanceFamily`: ``backbone``, ``width``, ``norm``;
    ``features`` (256: of pyramid and head), ``prototypes`` (32), ``anchors`` (level by level,
    ``[width, height]`` of each; fitted to the training boxes where left out), ``detections`` (300),
    ``candidates`` (1000: boxes that go into the suppression), ``least_score`` (0.3), ``most_iou``
    (0.5: above it the worse of two boxes falls).
    """

    name = "yolact"
    title = "YOLACT and YOLACT++ (Bolya 2019)"
    variants: tuple[str, ...] = tuple(_VARIANTS)

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network of `variant` for `labels`."""
        variant = self.known(variant)
        size = {"squashed": [_SIDE, _SIDE], "patch": [_SIDE, _SIDE]}
        paper = {**size, "anchors": _plain(papers(scales=_scales(variant)))}
        return self.fresh(
            variant,
            labels,
            _VARIANTS[variant],
            {
                "patch": [512, 512],
                "heads": ["head.classes", "semantic", "rescoring.layers.10"],
                "recipes": {"paper": {**_PAPER, "parameters": paper}, "cpu": cpu_recipe()},
            },
            limits=("Outlines are as coarse as its prototypes, of one cell for 4 x 4 pixels.",),
            sources=("arXiv:1904.02689", "arXiv:1912.06218"),
        )

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights; nothing is downloaded."""
        require_sound(card)
        variant = self.known(card.variant)
        told = card.parameters
        shapes = _shapes(card)
        trunk = trunk_of(card, variant.removesuffix("-plus"))
        if variant.endswith("-plus"):
            deform(trunk, _DEFORMED.get(variant.removesuffix("-plus"), 1))
        return Yolact(
            trunk,
            classes=len(card.labels),
            priors=len(shapes[0]),
            levels=len(shapes),
            features=int(told.get("features", 256)),
            prototypes=int(told.get("prototypes", 32)),
            is_rescored=variant.endswith("-plus"),
        ).eval()

    def published(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of the authors' network: 550 pixels, and the anchors they trained with.

        Those of YOLACT were square by an oversight that its weights have learnt; YOLACT++'s are
        not. The authors' mean of the pixels differs from ImageNet's by less than 0.01 deviations.
        """
        variant = self.known(variant)
        card = self.card(variant, labels)
        shapes = papers(scales=_scales(variant), is_square=not variant.endswith("-plus"))
        told = {
            **card.parameters,
            "squashed": [_SIDE, _SIDE],
            "patch": [_SIDE, _SIDE],
            "anchors": _plain(shapes),
            "candidates": 200,
            "detections": 100,
        }
        return dataclasses.replace(card, parameters=told)

    def converted(self, card: ModelCard, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of dbolya/yolact's weights under our names; see `Imports`."""
        shapes = _shapes(card)
        return converted(state, priors=len(shapes[0]), levels=len(shapes))

    def survey(self, card: ModelCard, volumes: Iterable[Volume]) -> ModelCard:
        """Return the card with anchors like the training boxes, unless it has some."""
        if card.weights or card.parameters.get("anchors"):
            return card
        boxes = anchors.boxes_of(volumes)
        if not len(boxes):
            return card
        fitted = anchors.fitted(boxes, _FITTED_STEPS, each=3 * _scales(card.variant))
        told = {**card.parameters, "anchors": _plain(fitted)}
        return dataclasses.replace(card, parameters=told)

    def begin(self, card: ModelCard, state: Mapping[str, Tensor]) -> nn.Module:
        """Return the network on a classifier's trunk; deformable taps begin in their places."""
        with torch.device("meta"):
            own = self.build(card).state_dict()
        moves = {
            key.removeprefix(self.trunk): torch.zeros(value.shape)
            for key, value in own.items()
            if key.startswith(self.trunk)
            and (".conv2.offsets." in key or key.endswith(".conv2.bias"))
        }
        return super().begin(card, {**moves, **state})

    def raw(self, network: nn.Module, images: Tensor, *, card: ModelCard) -> Tensor:
        """Return the prototypes ``(n, k, y, x)`` of pictures; the head is asked too."""
        answer: Answer = _checked(network)(images)
        return answer.prototypes

    def find(
        self, network: nn.Module, view: View, *, card: ModelCard, device: Device
    ) -> list[Found]:
        """Return the objects in one view; boxes and masks are reckoned in full precision."""
        net, told = _checked(network), card.parameters
        with autocast(device):
            answer = net(view.picture)
        begins = _priors(card, answer.sizes, view.picture).to(view.picture.device)
        chances = answer.classes[0].float().softmax(dim=1)[:, 1:]
        least = float(told.get("least_score", 0.3))
        which, classes = (chances > least).nonzero(as_tuple=True)
        scores = chances[which, classes]
        if len(scores) > (most := int(told.get("candidates", 1000))):
            scores, best = scores.topk(most)
            which, classes = which[best], classes[best]
        boxes = decoded(answer.boxes[0].float()[which], begins[which])
        kept = fast_nms(boxes, scores, classes, most=float(told.get("most_iou", 0.5)))
        kept = kept[: int(told.get("detections", 300))]
        boxes, scores, classes, which = boxes[kept], scores[kept], classes[kept], which[kept]
        prototypes = answer.prototypes[0].float()
        masks = assembled(prototypes, answer.coefficients[0].float()[which])
        if net.rescoring is not None and len(masks):
            cut = masks * inside(_in_cells(boxes, view.picture, masks), _size(masks))
            scores = scores * net.rescoring(cut).gather(1, classes[:, None])[:, 0].clamp(max=1)
        regions = from_maps(masks, view, boxes=boxes)
        return listed(regions, (classes + 1).tolist(), scores.tolist(), card)

    def losses(
        self, network: nn.Module, images: Tensor, targets: Sequence[Targets], *, card: ModelCard
    ) -> Tensor:
        """Return the sum of the paper's losses; see `maskloop.models.yolactloss`."""
        net = _checked(network)
        answer = net(images)
        begins = _priors(card, answer.sizes, images).to(images.device)
        return loss(net, answer, targets, begins)


def assembled(prototypes: Tensor, coefficients: Tensor) -> Tensor:
    """Return masks ``(n, y, x)``, 0 to 1: sums of prototypes ``(k, y, x)``, section 3.2."""
    return torch.einsum("nk,kyx->nyx", coefficients, prototypes).sigmoid()


def _size(maps: Tensor) -> tuple[int, int]:
    return int(maps.shape[-2]), int(maps.shape[-1])


def _in_cells(boxes: Tensor, picture: Tensor, maps: Tensor) -> Tensor:
    """Return boxes told in a picture's pixels in cells of maps of all of it."""
    (height, width), (rows, columns) = _size(picture), _size(maps)
    steps = (columns / width, rows / height)
    return boxes * boxes.new_tensor([*steps, *steps])


def _scales(variant: str) -> int:
    return 3 if variant.endswith("-plus") else 1


def _shapes(card: ModelCard) -> Shapes:
    usual = papers(scales=_scales(card.variant))
    shapes = anchors.told(card.parameters, usual)
    if not 0 < len(shapes) <= len(STEPS) or len({len(level) for level in shapes}) != 1:
        msg = (
            f"expected anchors of 1 to {len(STEPS)} levels, as many for each, in the card of "
            f"{card.name!r}, got {[len(level) for level in shapes]}; leave them out to have them "
            "fitted"
        )
        raise InputError(msg)
    return shapes


def _plain(shapes: Shapes) -> list[Any]:  # Any: JSON
    return [[[round(w, 3), round(h, 3)] for w, h in level] for level in shapes]


def _priors(card: ModelCard, sizes: Sequence[tuple[int, int]], picture: Tensor) -> Tensor:
    within = _size(picture) if card.parameters.get("squashed") else None
    return priors(_shapes(card), sizes, within)


def _checked(network: nn.Module) -> Yolact:
    if not isinstance(network, Yolact):
        msg = f"expected a YOLACT, got {type(network).__name__}; build it from its card"
        raise InputError(msg)
    return network


FAMILY = YolactFamily()

"""Panoptic FPN: countable things and the stuff around them, in one map of ids.

Paper: A. Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019, sections 3.1 to 3.4 and
figure 3; merging after A. Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 7. Things
are Mask R-CNN's, put together from torchvision's parts (BSD-3-Clause); the semantic head and the
rest are written from the papers. No trained weights come with it.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import MaskRCNN

from maskloop.core.errors import InputError
from maskloop.core.labels import Label, LabelTable
from maskloop.models import objects, rcnn, rcnnnet
from maskloop.models.base import Segmentation
from maskloop.models.bounds import require_sound
from maskloop.models.instances import InstanceFamily, Targets
from maskloop.models.objects import Found
from maskloop.models.pasting import View, from_boxes
from maskloop.models.pyramid import group_norm
from maskloop.ops.device import autocast
from maskloop.ops.losses import cross_entropy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy.typing as npt

    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.models.base import Volume
    from maskloop.models.cards import ModelCard
    from maskloop.ops.device import Device

_IGNORE = 255
_LEAST_STUFF = 4096  # pixels, of
_USUAL_PICTURE = 480 * 640  # such pictures as COCO's
_THINGS = 80  # of COCO


class SemanticHead(nn.Module):
    """Class scores at a step of 4 pixels, from the levels of a pyramid (figure 3).

    Each level goes through convolutions with group norm and ReLU, each but P2's followed by
    bilinear enlargement, until all have P2's step; then they are added.

    Parameters
    ----------
    features : int
        Of the pyramid; half as many inside.
    classes : int
        Of stuff, and one first for all that is none.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        inner = max(1, features // 2)
        self.levels = nn.ModuleList(_chain(features, inner, times) for times in range(4))
        self.score = nn.Conv2d(inner, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return ``(n, classes, y, x)`` of P2 to P5, as large as P2."""
        found = [level(one) for level, one in zip(self.levels, maps, strict=True)]
        scores: Tensor = self.score(torch.stack(found).sum(0))
        return scores


def _chain(features: int, inner: int, times: int) -> nn.Sequential:
    """Return the way of a level that is enlarged so many times twofold; of P2, one convolution."""
    parts: list[nn.Module] = []
    for number in range(max(times, 1)):
        before = features if number == 0 else inner
        parts += [nn.Conv2d(before, inner, 3, padding=1, bias=False), group_norm(inner), nn.ReLU()]
        if times:
            parts.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*parts)


class PanopticFPN(MaskRCNN):  # type: ignore[misc]  # torchvision has no types
    """Mask R-CNN on a pyramid, and a semantic head on the same."""

    semantic: SemanticHead


class PanopticFamily(InstanceFamily):
    """Panoptic FPN; stateless. Labels marked as things are found one by one, the others as stuff.

    What a reviewed picture leaves unlabelled is background: it gets no id.

    `card.parameters`, besides those of Mask R-CNN: ``least_stuff`` (4096: pixels of the image below
    which a region of stuff is dropped; in a network that starts from nothing, the same share of a
    training picture as that is of one of COCO's), ``most_covered`` (0.5: share of a thing under
    better ones above which it is dropped), ``semantic_weight`` (0.5, in the loss).
    """

    name = "panoptic"
    title = "Panoptic FPN (Kirillov 2019)"
    tasks: tuple[str, ...] = ("panoptic",)
    variants: tuple[str, ...] = ("resnet50",)
    trunk = "backbone.body."

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network for things and stuff.

        Raises
        ------
        InputError
            If there is no thing, or no stuff, among the labels.
        """
        variant = self.known(variant)
        things = [row.name for row in labels.values() if row.is_thing]
        if not things or len(things) == len(labels):
            msg = (
                f"expected labels of things and of stuff, got {len(things)} of things among "
                f"{len(labels)}; mark what can be counted as a thing, or choose a family that "
                "finds objects alone (maskrcnn) or classes alone (deeplab)"
            )
            raise InputError(msg)
        return self.fresh(
            variant,
            labels,
            "Panoptic FPN, ResNet-50",
            {
                "detections": 500,
                "least_score": 0.5,
                "patch": [512, 512],
                "recipes": rcnn.RECIPES,
            },
            limits=("things come before stuff: a region of stuff is what no thing has taken",),
            sources=("https://arxiv.org/abs/1901.02446",),
        )

    def labels_for(self, classes: int) -> LabelTable:
        """Return labels for so many outputs of the semantic head: one is all things together.

        As many things as COCO has stand beside them.
        """
        stuff = [Label(i, f"stuff {i}") for i in range(1, classes)]
        more = range(classes, classes + _THINGS)
        return LabelTable([*stuff, *(Label(i, f"thing {i}", is_thing=True) for i in more)])

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights; nothing is downloaded."""
        require_sound(card)
        self.known(card.variant)
        things, stuff = _kinds(card)
        network = rcnnnet.on_pyramid(PanopticFPN, card, len(things) + 1)
        network.semantic = SemanticHead(rcnnnet.features_of(card), len(stuff) + 1)
        return network

    def survey(self, card: ModelCard, volumes: Iterable[Volume]) -> ModelCard:
        """Return the card with anchors like the training things, if nothing was trained yet."""
        areas: list[int] = []

        def noted() -> Iterator[Volume]:
            for volume in volumes:
                areas.append(volume.ids.size)
                yield volume

        things, _ = _kinds(card)
        card = rcnn.surveyed(card, noted(), rcnn.PYRAMID_STEPS, classes=things)
        if not areas or "least_stuff" in card.parameters:
            return card
        area = median(areas) / float(card.parameters.get("enlarge", 1.0)) ** 2
        least = min(_LEAST_STUFF, round(_LEAST_STUFF * area / _USUAL_PICTURE))
        return replace(card, parameters={**card.parameters, "least_stuff": least})

    def find(
        self, network: nn.Module, view: View, *, card: ModelCard, device: Device
    ) -> list[Found]:
        """Return the things and the regions of stuff in one view; they overlap.

        The score of a region of stuff is the mean probability of its class in it.
        """
        parts = _checked(network)
        with autocast(device):
            features = parts.backbone(view.picture)
            scores = parts.semantic(_levels(features))
        features = {level: values.float() for level, values in features.items()}
        told = rcnn.detected(parts, features, view)
        regions = from_boxes(told["masks"], told["boxes"], view)
        things, stuff = ([_rows(card)[k].name for k in kind] for kind in _kinds(card))
        pairs = zip(regions, told["labels"].tolist(), told["scores"].tolist(), strict=True)
        found = [
            Found(*part, score, things[label - 1])
            for part, label, score in pairs
            if part is not None
        ]
        return found + _stuff_in(_on_image(scores.float(), view), stuff)

    def segment(
        self, network: nn.Module, image: Image, *, card: ModelCard, device: Device, job: Job
    ) -> Segmentation:
        """Return one id a thing and one a kind of stuff: every pixel has at most one."""
        found, notes = self.objects(network, image, card=card, device=device, job=job)
        merged = merge(found, image.geometry.shape, card)
        return replace(merged, notes=(*notes, *merged.notes))

    def losses(
        self, network: nn.Module, images: Tensor, targets: Sequence[Targets], *, card: ModelCard
    ) -> Tensor:
        """Return Mask R-CNN's losses and the weighted cross-entropy of stuff (section 3.3).

        Unreviewed pixels are in neither.
        """
        parts = _checked(network)
        features = parts.backbone(images)
        things, stuff = _kinds(card)
        count = len(card.labels) + 1
        told = [_only(one, things, count) for one in targets]
        instance = rcnn.detection_loss(parts, features, images, told)
        scores = functional.interpolate(
            parts.semantic(_levels(features)), size=images.shape[-2:], mode="bilinear"
        )
        wanted = torch.stack([_stuff_map(_only(one, stuff, count)) for one in targets])
        weight = float(card.parameters.get("semantic_weight", 0.5))
        return instance + weight * cross_entropy(scores, wanted, ignore=_IGNORE)

    def raw(self, network: nn.Module, images: Tensor, *, card: ModelCard) -> Tensor:
        """Return the scores of stuff ``(n, classes, y, x)``; the heads of things run too."""
        parts = _checked(network)
        features = parts.backbone(images)
        rcnn.outlined(parts, features, images)
        scores = parts.semantic(_levels(features))
        return functional.interpolate(scores, size=images.shape[-2:], mode="bilinear")


def merge(found: Sequence[Found], shape: Sequence[int], card: ModelCard) -> Segmentation:
    """Return things and stuff with no pixel in two: the better thing first, then stuff.

    A thing scored below the card's ``least_score``, or with more than ``most_covered`` of it under
    better ones, is dropped; so is stuff of which fewer than ``least_stuff`` pixels are left.

    Parameters
    ----------
    found : sequence of Found
        Things and regions of stuff, told apart by their category.
    shape : sequence of int
        Of the image.
    card : ModelCard
    """
    told = card.parameters
    stuff = {_rows(card)[k].name: _rows(card)[k] for k in _kinds(card)[1]}
    least_score = float(told.get("least_score", 0.5))
    things = [one for one in found if one.category not in stuff and one.score >= least_score]
    keep = 1 - float(told.get("most_covered", 0.5))
    settled = objects.settle(things, shape, author=card.name, keep=keep)
    ids = settled.ids.astype(np.uint32)
    rows = list(settled.labels.values())
    free = settled.ids == 0
    for region in sorted((one for one in found if one.category in stuff), key=lambda r: -r.score):
        known = next((r for r in rows if r.name == region.category and not r.is_thing), None)
        number = known.id if known else len(rows) + 1
        mine = region.region & free[region.box]
        ids[region.box][mine] = number
        free[region.box] &= ~mine
        if known is None:
            like = stuff[region.category]
            rows.append(Label(number, like.name, like.colour, author=card.name))
    least = int(told.get("least_stuff", _LEAST_STUFF))
    return replace(_without_small_stuff(ids, rows, settled, least), objects=tuple(things))


def _without_small_stuff(
    ids: npt.NDArray[np.uint32], rows: list[Label], settled: objects.Settled, least: int
) -> Segmentation:
    """Return the map without stuff of fewer pixels, its ids without gaps."""
    sizes = np.bincount(ids.ravel(), minlength=len(rows) + 1)
    kept = [row for row in rows if row.is_thing or sizes[row.id] >= max(least, 1)]
    lookup = np.zeros(len(rows) + 1, dtype=np.min_scalar_type(len(kept)))
    lookup[[row.id for row in kept]] = np.arange(1, len(kept) + 1)
    labels = LabelTable(replace(row, id=int(lookup[row.id])) for row in kept)
    notes = []
    if settled.covered:
        notes.append(f"{settled.covered} things lay mostly under better ones: dropped")
    small = [row.name for row in rows if row not in kept]
    if small:
        notes.append(f"stuff of fewer than {least} pixels was dropped: {', '.join(small)}")
    return Segmentation(lookup[ids], labels, tuple(notes), settled.lost)


def _stuff_in(scores: Tensor, names: Sequence[str]) -> list[Found]:
    """Return where each kind of stuff has the highest of scores ``(1 + kinds, y, x)``."""
    highest, winners = scores.softmax(0).max(0)
    chances, indices = highest.cpu().numpy(), winners.cpu().numpy()
    box = tuple(slice(0, n) for n in indices.shape)
    found = []
    for k, name in enumerate(names, start=1):
        region = indices == k
        if region.any():
            found.append(Found(box, region, float(chances[region].mean()), name))
    return found


def _on_image(scores: Tensor, view: View) -> Tensor:
    """Return scores ``(1, c, y, x)`` at a step of 4 pixels on the image's grid ``(c, y, x)``."""
    whole = functional.interpolate(scores, size=view.picture.shape[-2:], mode="bilinear")
    whole = whole[..., : view.seen[0], : view.seen[1]]
    if view.seen != view.size:
        whole = functional.interpolate(whole, size=view.size, mode="bilinear")
    return whole[0]


def _levels(features: Any) -> list[Tensor]:  # Any: a mapping of torchvision's
    return [features[str(level)] for level in range(4)]


def _rows(card: ModelCard) -> dict[int, Label]:
    """Return the label of each class index."""
    return dict(enumerate(card.labels.values(), start=1))


def _kinds(card: ModelCard) -> tuple[list[int], list[int]]:
    """Return the class indices of things and of stuff; their outputs are in this order, from 1."""
    rows = _rows(card)
    return [k for k, r in rows.items() if r.is_thing], [
        k for k, r in rows.items() if not r.is_thing
    ]


def _only(targets: Targets, kind: Sequence[int], count: int) -> Targets:
    """Return the targets of some class indices, numbered from 1 among themselves."""
    numbers = targets.labels.new_zeros(count)
    numbers[list(kind)] = torch.arange(1, len(kind) + 1, device=numbers.device)
    labels = numbers[targets.labels]
    mine = labels > 0
    return Targets(targets.boxes[mine], labels[mine], targets.masks[mine], targets.unseen)


def _stuff_map(stuff: Targets) -> Tensor:
    """Return the output that each pixel should have: 0 for things and what has no label."""
    wanted = torch.zeros_like(stuff.unseen, dtype=torch.int64)
    for label, mask in zip(stuff.labels, stuff.masks, strict=True):
        wanted[mask] = label
    wanted[stuff.unseen] = _IGNORE
    return wanted


def _checked(network: nn.Module) -> Any:  # Any: torchvision has no types
    if not isinstance(network, PanopticFPN):
        msg = f"expected a Panoptic FPN, got {type(network).__name__}; build it from its card"
        raise InputError(msg)
    return network


FAMILY = PanopticFamily()

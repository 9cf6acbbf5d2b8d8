"""PolarMask: an object is a point and 36 rays to its outline; star-convex objects only.

Paper: E. Xie, P. Sun, X. Song, W. Wang, X. Liu, D. Liang, C. Shen, P. Luo, "PolarMask: Single Shot
Instance Segmentation with Polar Representation", CVPR 2020. Written from the paper; the terms of
the authors' code are unclear, and nothing of it is used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import batched_nms

from maskloop.core.errors import InputError
from maskloop.models import LISTED, rays
from maskloop.models.bounds import require_sound
from maskloop.models.instances import InstanceFamily, Targets, cpu_recipe, listed
from maskloop.models.objects import Found
from maskloop.models.onestage import focal, middles, pairs_of, paper_recipe
from maskloop.models.polarnet import STRIDES, Answers, Polar
from maskloop.models.pyramid import trunk_of
from maskloop.ops.device import autocast

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.core.labels import LabelTable
    from maskloop.core.mask import Mask
    from maskloop.models.base import Volume
    from maskloop.models.cards import ModelCard
    from maskloop.models.pasting import View
    from maskloop.ops.device import Device

_RANGES = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8))
_RADIUS = 1.5  # steps of a level round the centre of mass whose points stand for an object
_HELD = 0.9  # an object of which rays keep less is not star-convex enough
_BENT = 0.25  # an object of less centerness: its longest ray is over 16 times its shortest
_HIGHEST = 1.5  # of a certain class at a perfect centre
_A_LEVEL = 1000  # points that go on to NMS
_PAPER = paper_recipe(768, 1280, (768, 1280))


@dataclass(frozen=True, slots=True, eq=False)
class Owned:
    """What the points of one picture should say.

    Parameters
    ----------
    owners : int64 Tensor ``(p,)``
        Number of the object that each point stands for; -1 for none.
    keep : bool Tensor ``(p,)``
        Points whose class counts: not those of no object where nobody looked.
    """

    owners: Tensor
    keep: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Drawn(Found):
    """An object drawn by rays.

    Parameters
    ----------
    is_bent : bool
        Whether its point is hardly a middle: it may be bent, or hollow there.
    """

    is_bent: bool = False


class PolarMaskFamily(InstanceFamily):
    """PolarMask; stateless.

    `card.parameters`, besides those of `InstanceFamily` and of `trunk_of`: ``features`` (256),
    ``convs`` (4: depth of a tower), ``boxes`` (true: a box is learnt beside the rays), ``ranges``
    (five ranges of the longest way from a point to a side of its object's box, in pixels of the
    network), ``first_score`` (0.05: of the class alone), ``least_score`` (0.05: with centerness),
    ``detections`` (100), ``nms`` (0.5).
    """

    name = "polarmask"
    title = "PolarMask (Xie 2020), star-convex objects"
    variants: tuple[str, ...] = ("resnet50",)
    spare_outputs = 0

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network of `variant` for `labels`."""
        return self.fresh(
            self.known(variant),
            labels,
            "PolarMask, ResNet-50 FPN",
            {
                "patch": [512, 512],
                "detections": 500,
                "least_score": 0.3,
                "heads": ["scores."],
                "recipe": {"rate": 1e-3, "weight_decay": 1e-4},
                "recipes": {"paper": _PAPER, "cpu": cpu_recipe()},
            },
            limits=(
                *LISTED[self.name].limits,
                "objects under eight of the network's pixels across may be missed",
            ),
            sources=("doi:10.1109/CVPR42600.2020.01221", "arXiv:1909.13226"),
        )

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights; nothing is downloaded."""
        require_sound(card)
        self.known(card.variant)
        return Polar(
            trunk_of(card),
            len(card.labels),
            features=int(card.parameters.get("features", 256)),
            depth=int(card.parameters.get("convs", 4)),
            has_boxes=bool(card.parameters.get("boxes", True)),
        ).eval()

    def prepare(
        self,
        image: Image,
        mask: Mask,
        *,
        card: ModelCard,
        reviewed: npt.NDArray[np.bool_] | None,
        job: Job,
    ) -> list[Volume]:
        """Return the picture and its objects; say which of them rays cannot hold."""
        found = super().prepare(image, mask, card=card, reviewed=reviewed, job=job)
        for volume in found:
            kept = [rays.held(region) for region in _regions(volume)]
            bent = [share for share in kept if share < _HELD]
            if bent:
                job.say(
                    f"{mask.name}: {len(bent)} of {len(kept)} objects are not star-convex: "
                    f"{rays.COUNT} rays keep {min(bent):.0%} of the worst (IoU; {_HELD:.0%} is "
                    "asked); PolarMask cannot learn their shape, another family can"
                )
        return found

    def objects(
        self, network: nn.Module, image: Image, *, card: ModelCard, device: Device, job: Job
    ) -> tuple[list[Found], tuple[str, ...]]:
        """Return all that the network finds, and a note where a shape looks bent or hollow."""
        found, notes = super().objects(network, image, card=card, device=device, job=job)
        bent = sum(isinstance(one, Drawn) and one.is_bent for one in found)
        if bent:
            notes = (
                *notes,
                f"{bent} of {len(found)} objects may be bent or hollow: PolarMask draws "
                "star-convex shapes only; look at these, and correct them or use another family",
            )
        return found, notes

    def find(
        self, network: nn.Module, view: View, *, card: ModelCard, device: Device
    ) -> list[Found]:
        """Return the objects in one view."""
        told = card.parameters
        with autocast(device):
            answers = _checked(network)(view.picture)
        scores, labels, at = candidates(
            answers, view.seen, least=float(told.get("first_score", 0.05))
        )
        points, lengths = answers.points[at], answers.rays[0, at].float()
        boxes = rays.boxes_round(points, lengths)
        kept = batched_nms(boxes, scores, labels, float(told.get("nms", 0.5)))
        kept = kept[: int(told.get("detections", 100))]
        kept = kept[scores[kept] >= float(told.get("least_score", 0.05))]
        regions = rays.filled(points[kept], lengths[kept], view.size, ratio=view.ratio)
        middles = torch.minimum(
            answers.centres[0, at[kept]].float().sigmoid(), rays.centerness(lengths[kept])
        )
        # A part without pixels is None, and left out of the list as in `listed`.
        is_bent = [m < _BENT for m, part in zip(middles.tolist(), regions, strict=True) if part]
        found = listed(regions, (labels[kept] + 1).tolist(), scores[kept].tolist(), card)
        return [
            Drawn(one.box, one.region, one.score, one.category, bent)
            for one, bent in zip(found, is_bent, strict=True)
        ]

    def losses(
        self, network: nn.Module, images: Tensor, targets: Sequence[Targets], *, card: ModelCard
    ) -> Tensor:
        """Return focal loss, Polar IoU, box IoU and centerness, each with a weight of 1.

        A point where nobody looked is no background; a ray that ends there is not learnt.
        """
        answers = _checked(network)(images)
        ranges = pairs_of(card, "ranges", _RANGES)
        kinds, shapes, centred, weights = [], [], [], []
        count = 0
        for picture, plain in enumerate(targets):
            one = in_one_piece(plain)
            told = owned(one, answers.points, answers.levels, ranges)
            labels = torch.cat([one.labels, one.labels.new_zeros(1)])[told.owners]
            kinds.append(focal(answers.scores[picture], labels, told.keep))
            at = torch.nonzero(told.owners >= 0)[:, 0]
            count += len(at)
            if len(at):
                losses, entropy, weight = _shape_losses(answers, picture, at, told.owners[at], one)
                shapes.append(losses * weight)
                centred.append(entropy)
                weights.append(weight)
        loss = torch.stack(kinds).sum() / (count + len(targets))
        if not count:
            return loss
        total = torch.cat(weights).sum().clamp(min=rays.LEAST)
        return loss + torch.cat(shapes).sum() / total + torch.cat(centred).sum() / count

    def raw(self, network: nn.Module, images: Tensor, *, card: ModelCard) -> Tensor:
        """Return the lengths of the rays of all points, ``(n, 36, p)``, level by level."""
        lengths: Tensor = _checked(network)(images).rays
        return lengths.transpose(1, 2)


def in_one_piece(targets: Targets) -> Targets:
    """Return the objects' largest pieces, their boxes as told: rays reach no other piece."""
    masks = targets.masks.cpu().numpy().copy()
    for number, (x0, y0, x1, y1) in enumerate(targets.boxes.long().tolist()):
        part = masks[number, y0:y1, x0:x1]
        part[:] = rays.largest(part)
    solid = torch.from_numpy(masks).to(targets.masks.device)
    return replace(targets, masks=solid)


def owned(
    targets: Targets, points: Tensor, levels: Tensor, ranges: Sequence[Sequence[float]]
) -> Owned:
    """Return which object each point stands for: the smallest of those that claim it.

    An object claims the points within 1.5 steps of its centre of mass, inside its box, of the level
    whose range holds the longest way from the point to a side of the box.
    """
    height, width = targets.unseen.shape
    column, row = points[:, 0].long().clamp(0, width - 1), points[:, 1].long().clamp(0, height - 1)
    is_seen = ~targets.unseen[row, column]
    if not len(targets):
        return Owned(torch.full_like(levels, -1), is_seen)
    near, far = points[:, None] - targets.boxes[:, :2], targets.boxes[:, 2:] - points[:, None]
    ways = torch.cat([near, far], dim=2)  # p, n, 4
    reach = _RADIUS * points.new_tensor(STRIDES)[levels]
    off = (points[:, None] - middles(targets.masks)).abs().amax(2)
    low, high = points.new_tensor(ranges)[levels].unbind(1)
    longest = ways.amax(2)
    claims = (ways.amin(2) > 0) & (off < reach[:, None])
    claims &= (longest >= low[:, None]) & (longest <= high[:, None])
    areas = (targets.boxes[:, 2:] - targets.boxes[:, :2]).prod(1)
    least, owners = torch.where(claims, areas, torch.inf).min(1)
    owners = torch.where(least < torch.inf, owners, -torch.ones_like(owners))
    return Owned(owners, is_seen | (owners >= 0))


def _shape_losses(
    answers: Answers, picture: int, at: Tensor, owners: Tensor, targets: Targets
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses of rays and box, and of centerness, and the weights of the points."""
    points, found = answers.points[at], answers.rays[picture, at]
    truth, known = rays.cast(targets.masks, owners, points, targets.unseen, count=found.shape[1])
    weight = rays.centerness(truth)
    whole = known.all(1)
    losses = rays.polar_iou_losses(found, truth, known)
    if answers.sides is not None:
        near, far = points - targets.boxes[owners, :2], targets.boxes[owners, 2:] - points
        losses = losses + _box_losses(answers.sides[picture, at], torch.cat([near, far], 1)) * whole
    entropy = functional.binary_cross_entropy_with_logits(
        answers.centres[picture, at].float(), weight, reduction="none"
    )
    return losses, entropy * whole, weight


def _box_losses(found: Tensor, truth: Tensor) -> Tensor:
    """Return minus the log of the IoU of boxes told by the ways to their sides from one point."""

    def area(ways: Tensor) -> Tensor:
        return (ways[:, 0] + ways[:, 2]) * (ways[:, 1] + ways[:, 3])

    common = area(torch.minimum(found, truth))
    iou = common / (area(found) + area(truth) - common).clamp(min=rays.LEAST)
    return -iou.clamp(min=rays.LEAST).log()


def candidates(
    answers: Answers, seen: tuple[int, int], *, least: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores, labels (from 0) and points' numbers of the first picture's likely objects.

    A score is the class's times centerness plus a half, by 1.5: from 0 to 1. Of each
    level the best thousand points go on; those beyond the picture do not.
    """
    kinds = answers.scores[0].float().sigmoid()
    inside = (answers.points[:, 0] < seen[1]) & (answers.points[:, 1] < seen[0])
    kinds = kinds * inside[:, None]
    factor = (answers.centres[0].float().sigmoid() + 0.5) / _HIGHEST
    best = kinds.amax(1) * factor
    chosen = []
    for number in range(len(STRIDES)):
        mine = torch.nonzero(answers.levels == number)[:, 0]
        chosen.append(mine[best[mine].topk(min(_A_LEVEL, len(mine))).indices])
    at = torch.cat(chosen)
    row, label = torch.nonzero(kinds[at] > least, as_tuple=True)
    at = at[row]
    scores = kinds[at, label] * factor[at]
    return scores, label, at


def _regions(volume: Volume) -> list[npt.NDArray[np.bool_]]:
    """Return the objects of a training picture, each in its box."""
    from scipy.ndimage import find_objects

    boxes = enumerate(find_objects(volume.ids.astype(np.int64)), start=1)
    return [volume.ids[b] == i for i, b in boxes if b is not None and i in volume.categories]


def _checked(network: nn.Module) -> Polar:
    if not isinstance(network, Polar):
        msg = f"expected a PolarMask, got {type(network).__name__}; build it from its card"
        raise InputError(msg)
    return network


FAMILY = PolarMaskFamily()

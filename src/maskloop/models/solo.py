"""SOLO and decoupled SOLO: an object's place in a grid names the map that holds its mask.

Paper: X. Wang, T. Kong, C. Shen, Y. Jiang, L. Li, "SOLO: Segmenting Objects by Locations", ECCV
2020; Matrix NMS from X. Wang et al., "SOLOv2: Dynamic and Fast Instance Segmentation", NeurIPS
2020. Written from the papers. Weights that mmdetection (Apache-2.0) publishes can be
imported; ours are our own.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from maskloop.core.errors import InputError
from maskloop.models import LISTED
from maskloop.models.bounds import require_sound
from maskloop.models.instances import InstanceFamily, Targets, cpu_recipe, listed, nothing
from maskloop.models.onestage import focal, pairs_of, paper_recipe
from maskloop.models.pasting import View, from_maps
from maskloop.models.pyramid import trunk_of
from maskloop.models.solonet import GRIDS, STRIDES, Answers, Solo
from maskloop.models.solotargets import Cells, cells_of, dice_losses, is_open, matrix_nms
from maskloop.ops.device import autocast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.core.labels import LabelTable
    from maskloop.models.cards import ModelCard
    from maskloop.models.objects import Found
    from maskloop.ops.device import Device

_VARIANTS = {"resnet50": "SOLO, ResNet-50 FPN", "decoupled": "Decoupled SOLO, ResNet-50 FPN"}
_SCALES = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
_MASK_WEIGHT = 3.0
_CANDIDATES = 500
_PAPER_PATCH = [800, 1344]
_PAPER = paper_recipe(800, 1333, _PAPER_PATCH)


class SoloFamily(InstanceFamily):
    """SOLO; stateless.

    The grid lies over the picture that the network sees, so a picture is looked at through windows
    as large as the patches it learnt from, where no size of the whole is told.

    `card.parameters`, besides those of `InstanceFamily` and of `trunk_of`: ``features`` (256),
    ``convs`` (7: depth of a tower), ``grids`` (five numbers of cells along a side), ``scales``
    (five ranges of an object's mean side in pixels of the network; the paper's give each object 12
    to 48 pixels of its mask's map across, and small ones the finest), ``first_score`` (0.1),
    ``least_score`` (0.05, after Matrix NMS), ``sigma`` (2.0), ``detections`` (100), ``candidates``
    (500: masks that meet each other in Matrix NMS).
    """

    name = "solo"
    title = "SOLO (Wang 2020)"
    variants: tuple[str, ...] = tuple(_VARIANTS)
    spare_outputs = 0

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network of `variant` for `labels`."""
        variant = self.known(variant)
        return self.fresh(
            variant,
            labels,
            _VARIANTS[variant],
            {
                "patch": [512, 512],
                "detections": 300,
                "least_score": 0.3,
                "heads": ["scores."],
                "recipe": {"rate": 1e-3, "weight_decay": 1e-4},
                "recipes": {"paper": _PAPER, "cpu": cpu_recipe()},
            },
            limits=(
                *LISTED[self.name].limits,
                "detail finer than a quarter of the network's pixels is lost",
            ),
            sources=("doi:10.1007/978-3-030-58523-5_38", "arXiv:2003.10152"),
        )

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights; nothing is downloaded."""
        require_sound(card)
        variant = self.known(card.variant)
        return Solo(
            trunk_of(card),
            len(card.labels),
            grids=_grids(card),
            features=int(card.parameters.get("features", 256)),
            depth=int(card.parameters.get("convs", 7)),
            decoupled=variant == "decoupled",
        ).eval()

    def objects(
        self, network: nn.Module, image: Image, *, card: ModelCard, device: Device, job: Job
    ) -> tuple[list[Found], tuple[str, ...]]:
        """Return all that the network finds; see `InstanceFamily.objects`."""
        told = card.parameters
        if not any(told.get(key) for key in ("window", "shortest", "squashed")):
            side = max(self.patch(card)) / float(told.get("enlarge", 1.0))
            card = replace(card, parameters={**told, "window": max(32, round(side))})
        return super().objects(network, image, card=card, device=device, job=job)

    def find(
        self, network: nn.Module, view: View, *, card: ModelCard, device: Device
    ) -> list[Found]:
        """Return the objects in one view."""
        solo = _checked(network)
        view = replace(view, picture=self._filled(view.picture, card))
        with autocast(device):
            answers = solo(view.picture)
        told = card.parameters
        scores, labels, masks = candidates(
            solo,
            answers,
            least=float(told.get("first_score", 0.1)),
            most=int(told.get("candidates", _CANDIDATES)),
        )
        scores = matrix_nms(masks > 0.5, labels, scores, sigma=float(told.get("sigma", 2.0)))
        order = scores.argsort(descending=True)[: int(told.get("detections", 100))]
        order = order[scores[order] >= float(told.get("least_score", 0.05))]
        regions = from_maps(masks[order], view)
        return listed(regions, (labels[order] + 1).tolist(), scores[order].tolist(), card)

    def _filled(self, picture: Tensor, card: ModelCard) -> Tensor:
        """Return a picture no smaller than those that were learnt from: cells are shares of it."""
        if card.parameters.get("shortest") or card.parameters.get("squashed"):
            return picture
        lacks = [
            max(0, -(-want // self.multiple) * self.multiple - have)
            for want, have in zip(self.patch(card), picture.shape[2:], strict=True)
        ]
        return functional.pad(picture, (0, lacks[1], 0, lacks[0]))

    def losses(
        self, network: nn.Module, images: Tensor, targets: Sequence[Targets], *, card: ModelCard
    ) -> Tensor:
        """Return focal loss of the cells plus three times Dice of their masks.

        A cell with an unreviewed pixel is no background, and such pixels have no part in Dice.
        """
        solo = _checked(network)
        answers = solo(images)
        scales = pairs_of(card, "scales", _SCALES)
        told = [cells_of(one, scales, solo.grids) for one in targets]
        found = sum(len(level.cells) for levels in told for level in levels)
        places, masks = [], []
        for number, grid in enumerate(solo.grids):
            logits = answers.scores[number].flatten(2).transpose(1, 2)
            for picture, (one, levels) in enumerate(zip(targets, told, strict=True)):
                level = levels[number]
                labels = one.labels.new_zeros(grid * grid)
                labels[level.cells] = one.labels[level.owners]
                keep = is_open(one.unseen, grid) | (labels > 0)
                places.append(focal(logits[picture], labels, keep))
                if len(level.cells):
                    masks.append(_dice(solo, answers, number, picture, level, one))
        loss = torch.stack(places).sum() / (found + 1)
        if masks:
            loss = loss + _MASK_WEIGHT * torch.cat(masks).mean()
        return loss if loss.requires_grad else loss + nothing(network)

    def raw(self, network: nn.Module, images: Tensor, *, card: ModelCard) -> Tensor:
        """Return the logits of the masks of all cells, at a quarter of the picture's size.

        Of columns, then rows of cells, level by level, where these are decoupled.
        """
        solo = _checked(network)
        maps = solo.whole(solo(images))
        size = maps[0].shape[2:]
        return torch.cat(
            [functional.interpolate(one, size=size, mode="bilinear") for one in maps], dim=1
        )

    def published(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of mmdetection's network, which sees pictures at 800 pixels."""
        card = self.card(variant, labels)
        sizes = {"shortest": 800, "longest": 1333, "patch": _PAPER_PATCH}
        return replace(card, parameters={**card.parameters, **sizes, "detections": 100})

    def converted(self, card: ModelCard, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of mmdetection's SOLO under our names; see `Imports`."""
        with torch.device("meta"):
            order = {key: n for n, key in enumerate(self.build(card).state_dict())}
        found = {own_name(key): value for key, value in state.items()}
        return {key: found[key] for key in sorted(found, key=lambda k: order.get(k, len(order)))}


def candidates(
    solo: Solo, answers: Answers, *, least: float, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores (descending), labels (from 0) and masks of cells that may hold an object.

    A score must be `least` and no lower than those of the cells before it (in its row, its column,
    and across): points NMS with a 2x2 window. It is then weighed by how sure its mask is.
    """
    places = []
    for number, logits in enumerate(answers.scores):
        values = logits[:1].float().sigmoid()
        top = functional.max_pool2d(values, 2, stride=1, padding=1)[:, :, :-1, :-1]
        values = torch.where(top == values, values, torch.zeros_like(values))[0].flatten(1)
        label, cell = torch.nonzero(values > least, as_tuple=True)
        places.append((values[label, cell], label, cell, torch.full_like(cell, number)))
    scores, labels, cells, levels = (torch.cat(parts) for parts in zip(*places, strict=True))
    # Masks are costly: of more than this, a network is unsure anyway.
    order = scores.argsort(descending=True)[: 2 * most]
    scores, labels, cells, levels = (x[order] for x in (scores, labels, cells, levels))
    size = tuple(answers.maps[0][0].shape[2:])
    masks = scores.new_zeros((len(scores), *size))
    for number in range(len(answers.scores)):
        mine = torch.nonzero(levels == number)[:, 0]
        if len(mine):
            coarse = solo.masks(answers, number, 0, cells[mine])
            masks[mine] = functional.interpolate(coarse[None], size=size, mode="bilinear")[0]
    inside = (masks > 0.5).float()
    areas = inside.sum((1, 2))
    sureness = (masks * inside).sum((1, 2)) / areas.clamp(min=1)
    steps = torch.tensor(STRIDES, device=levels.device)[levels]
    scores = torch.where(areas > steps, scores * sureness, torch.zeros_like(scores))
    order = scores.argsort(descending=True)[:most]
    order = order[scores[order] > 0]
    return scores[order], labels[order], masks[order]


def _dice(
    solo: Solo, answers: Answers, number: int, picture: int, level: Cells, target: Targets
) -> Tensor:
    found = solo.masks(answers, number, picture, level.cells)
    step = target.masks.shape[1] // found.shape[1]
    chosen, which = torch.unique(level.owners, return_inverse=True)
    truth = functional.avg_pool2d(target.masks[chosen].float(), step)[which]
    seen = functional.avg_pool2d((~target.unseen).float()[None], step)[0] > 0.5
    return dice_losses(found, truth, seen.float())


def _grids(card: ModelCard) -> tuple[int, ...]:
    grids = tuple(int(n) for n in card.parameters.get("grids", GRIDS))
    if len(grids) != len(GRIDS) or min(grids) < 1:
        msg = f"expected {len(GRIDS)} numbers of cells along a side, got {grids}; correct the card"
        raise InputError(msg)
    return grids


def _checked(network: nn.Module) -> Solo:
    if not isinstance(network, Solo):
        msg = f"expected a SOLO, got {type(network).__name__}; build it from its card"
        raise InputError(msg)
    return network


_MMDET = (
    (r"^backbone\.", "trunk."),
    (r"^neck\.lateral_convs\.(\d)\.conv\.", r"fpn.inner_blocks.\1.0."),
    (r"^neck\.fpn_convs\.(\d)\.conv\.", r"fpn.layer_blocks.\1.0."),
    (r"^(?:mask_head|bbox_head)\.", ""),
    (r"^(?:cls|cate)_convs\.", "classing."),
    (r"^(?:mask|ins)_convs\.", "masking."),
    (r"^(?:mask|ins)_convs_x\.", "columns."),
    (r"^(?:mask|ins)_convs_y\.", "rows."),
    (r"^conv_mask_list\.", "cell_masks."),
    (r"^conv_mask_list_x\.", "column_masks."),
    (r"^conv_mask_list_y\.", "row_masks."),
    (r"^conv_cls\.", "scores."),
    (r"^((?:classing|masking|columns|rows)\.\d+)\.conv\.", r"\1.0."),
    (r"^((?:classing|masking|columns|rows)\.\d+)\.gn\.", r"\1.1."),
)


def own_name(name: str) -> str:
    """Return our name of a tensor of mmdetection's SOLO; one that is not known stays as it is.

    Examples
    --------
    >>> own_name("mask_head.mask_convs.0.gn.bias")
    'masking.0.1.bias'
    """
    for pattern, words in _MMDET:
        name = re.sub(pattern, words, name)
    return name


FAMILY = SoloFamily()

"""Mask R-CNN with ResNet-50 and a feature pyramid: objects in photographs.

Papers: K. He et al., "Mask R-CNN", ICCV 2017, section 3; T.-Y. Lin et al., "Feature Pyramid
Networks for Object Detection", CVPR 2017; variant v2 after Y. Li et al., "Benchmarking Detection
Transfer Learning with Vision Transformers", arXiv 2111.11429, 2021.

The network is torchvision's (BSD-3-Clause), built from its parts; resizing, pasting of masks and
the treatment of unreviewed regions are our own. Its weights were trained by the torchvision
authors on COCO 2017, whose pictures carry their photographers' terms.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops.misc import FrozenBatchNorm2d

from maskloop.core.errors import InputError, UnknownNameError
from maskloop.models import base, objects
from maskloop.models.base import Batch, Segmentation, Volume
from maskloop.models.cards import ModelCard
from maskloop.models.objects import Found, scale_to
from maskloop.models.posing import fit_channels, normalise, require_usable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy.typing as npt

    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.core.labels import LabelTable
    from maskloop.core.mask import Mask
    from maskloop.ops.device import Device, Rung

_VARIANTS = {"v1": "Mask R-CNN, ResNet-50 FPN", "v2": "Mask R-CNN v2, ResNet-50 FPN"}
_DIVISOR = 32  # the coarsest step of the pyramid
_UNSEEN = 0.5  # a box with more than this part unreviewed is no proof of background


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
        torch.where((mine == 0) & (_mean_in(box, total) > _UNSEEN), -torch.ones_like(mine), mine)
        for mine, box, total in zip(labels, boxes, unseen, strict=True)
    ]


def _mean_in(boxes: Tensor, total: Tensor) -> Tensor:
    """Return the mean inside each box ``(x0, y0, x1, y1)`` from a summed-area table."""
    height, width = total.shape[0] - 1, total.shape[1] - 1
    x0, x1 = (boxes[:, i].round().long().clamp(0, width) for i in (0, 2))
    y0, y1 = (boxes[:, i].round().long().clamp(0, height) for i in (1, 3))
    inside = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
    return inside / ((x1 - x0) * (y1 - y0)).clamp(min=1)


def _summed(unseen: Tensor) -> Tensor:
    return functional.pad(unseen.float().cumsum(0).cumsum(1), (1, 0, 1, 0))


class MaskRCNNFamily:
    """Mask R-CNN; stateless.

    `card.parameters`: ``shortest``, ``longest`` (800, 1333: sides of the picture in the network),
    ``detections`` (300), ``least_score`` (0.5), ``proposals`` (1000; twice as many in training),
    ``samples`` (512: boxes a picture in training), ``slices`` (False: volumes are refused),
    ``norm`` (``"group"`` in a network that starts from nothing; ``"frozen"`` keeps the statistics
    that published weights come with), ``outputs`` (class outputs of the network where they are
    not the labels plus one: then a label's id is its output).
    """

    name = "maskrcnn"
    title = "Mask R-CNN (torchvision)"
    tasks: tuple[str, ...] = ("instance",)
    ndims: tuple[int, ...] = (2,)
    variants: tuple[str, ...] = tuple(_VARIANTS)
    is_trainable = True

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network of `variant` for `labels`."""
        variant = variant or "v1"
        if variant not in _VARIANTS:
            raise UnknownNameError.of("variant of maskrcnn", variant, list(_VARIANTS))
        return ModelCard(
            name=f"maskrcnn-{variant}",
            title=f"{_VARIANTS[variant]}, untrained",
            family=self.name,
            variant=variant,
            task="instance",
            ndim=2,
            labels=labels,
            modality="RGB photograph",
            channels=3,
            licence="BSD-3-Clause",
            parameters={
                "shortest": 800,
                "longest": 1333,
                "detections": 300,
                "least_score": 0.5,
                "slices": False,
                "norm": "group" if variant == "v1" else "batch",
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
        if card.variant == "v2":
            network = maskrcnn_resnet50_fpn_v2(
                weights=None, weights_backbone=None, num_classes=outputs, **told
            )
        elif card.variant == "v1":
            network = MaskRCNN(_backbone(card), num_classes=outputs, **told)
        else:
            raise UnknownNameError.of("variant of maskrcnn", card.variant, list(_VARIANTS))
        network.rpn = _as(CarefulProposals, network.rpn)
        network.roi_heads = _as(CarefulHeads, network.roi_heads)
        built: nn.Module = network.eval()
        return built

    def load(self, card: ModelCard, files: Mapping[str, Path]) -> nn.Module:
        """Return the network with the weights in `files`, in eval mode."""
        return base.load_strict(self.build(card), files, name=card.name)

    def segment(
        self, network: nn.Module, image: Image, *, card: ModelCard, device: Device, job: Job
    ) -> Segmentation:
        """Return one id an object on the image's grid, overlaps settled by score."""
        from maskloop.ops.device import autocast, ladder, run_ladder

        require_usable(image, card)
        data, notes = _normalised(image)
        resized = _resized(torch.from_numpy(data), card)

        def attempt(rung: Rung) -> dict[str, Tensor]:
            network.to(rung.device.torch).eval()
            with torch.inference_mode():
                found = _detect(network, resized.to(rung.device.torch), autocast(rung.device))
            return {name: value.cpu() for name, value in found.items()}

        job.report("network", 0, 1)
        found = run_ladder(ladder(device, 1), attempt, job)
        job.report("network", 1, 1)
        settled = objects.settle(
            _pasted(found, resized.shape[-2:], image.geometry.shape, card),
            image.geometry.shape,
            author=card.name,
        )
        if settled.covered:
            notes = (*notes, f"{settled.covered} objects lay wholly under better ones: dropped")
        return Segmentation(settled.ids, settled.labels, notes, settled.lost)

    def prepare(
        self,
        image: Image,
        mask: Mask,
        *,
        card: ModelCard,
        reviewed: npt.NDArray[np.bool_] | None,
        job: Job,
    ) -> list[Volume]:
        """Return the picture at the network's size with its objects' ids.

        A class map is split into connected objects first.
        """
        job.check()
        mask.require_on(image)
        require_usable(image, card)
        ids, categories, ignored = _objects_of(mask, card)
        if ignored is not None:
            reviewed = ~ignored if reviewed is None else reviewed & ~ignored
        resized = _resized(torch.from_numpy(_normalised(image)[0]), card)
        size = tuple(int(n) for n in resized.shape[-2:])
        return [
            Volume(
                resized.numpy(),
                _nearest(ids, size),
                None if reviewed is None else _nearest(reviewed, size),
                categories,
            )
        ]

    def patch(self, card: ModelCard) -> tuple[int, ...]:
        """Return the training patch on the resized picture; the card's, else 512 squared."""
        return tuple(card.parameters.get("patch", (512, 512)))

    def train_step(self, network: nn.Module, batch: Batch, *, card: ModelCard) -> Tensor:
        """Return the sum of the five losses of the paper and its proposal network.

        Anchors and proposals that lie more than half in unreviewed regions are left out as
        background. Published batch norms keep their statistics: batches are small.
        """
        if not isinstance(network, MaskRCNN):
            msg = f"expected a Mask R-CNN, got {type(network).__name__}; build it from its card"
            raise InputError(msg)
        network.train()
        if card.parameters.get("norm", "frozen") == "frozen":
            for part in network.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.eval()
        unseen = [_summed(ids == base.IGNORE) for ids in batch.ids]
        network.rpn.unseen = network.roi_heads.unseen = unseen
        targets = [
            _targets(ids, categories, card)
            for ids, categories in zip(batch.ids, batch.categories, strict=True)
        ]
        images = _listed(batch.images)
        features = network.backbone(images.tensors)
        proposals, first = network.rpn(images, features, targets)
        _, second = network.roi_heads(features, proposals, images.image_sizes, targets)
        losses = [*first.values(), *second.values()]
        if not any(len(target["boxes"]) for target in targets):
            # With no object and nothing reviewed there is no sample, whose mean would be NaN.
            losses = [loss for loss in losses if bool(torch.isfinite(loss))]
        nothing = sum(level.sum() for level in features.values()) * 0
        return torch.stack(losses).sum() if losses else nothing

    def augmentation(self, card: ModelCard) -> frozenset[str]:
        """Return what the card allows; else mirroring, small turns, scale, gamma, noise, blur."""
        told = card.parameters.get("augmentation")
        free = ("mirror_x", "rotate", "scale", "gamma", "noise", "blur")
        return frozenset(free if told is None else told)


def _backbone(card: ModelCard) -> nn.Module:
    is_frozen = card.parameters.get("norm", "frozen") == "frozen"
    backbone: nn.Module = resnet_fpn_backbone(
        backbone_name="resnet50",
        weights=None,
        norm_layer=FrozenBatchNorm2d if is_frozen else _group_norm,
        trainable_layers=3 if is_frozen else 5,
    )
    for part in backbone.modules():
        if isinstance(part, FrozenBatchNorm2d):
            part.eps = 0.0  # the published weights were trained so
    return backbone


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(32, channels)


def _as(kind: type[nn.Module], plain: nn.Module) -> nn.Module:
    """Return a module of a subclass with the parts of `plain`; torchvision has no hook for this."""
    careful = kind.__new__(kind)
    careful.__dict__.update(plain.__dict__)
    return careful


def _normalised(image: Image) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    stacked, notes = fit_channels(image, 3)
    data, more = normalise(stacked, "imagenet")
    return np.ascontiguousarray(data), (*notes, *more)


def _resized(image: Tensor, card: ModelCard) -> Tensor:
    """Return the picture resized as torchvision's own transform does: bilinear, no antialiasing."""
    factor = scale_to(
        image.shape[-2:],
        int(card.parameters.get("shortest", 800)),
        int(card.parameters.get("longest", 1333)),
    )
    return functional.interpolate(
        image[None],
        scale_factor=factor,
        mode="bilinear",
        recompute_scale_factor=True,
        align_corners=False,
    )[0]


def _listed(images: Tensor) -> ImageList:
    """Pad a batch at its far ends to whole steps of the pyramid."""
    height, width = images.shape[-2:]
    padded = functional.pad(images, (0, -width % _DIVISOR, 0, -height % _DIVISOR))
    return ImageList(padded, [(height, width)] * len(images))


def _detect(
    network: nn.Module, image: Tensor, mixed: AbstractContextManager[Any] | None = None
) -> dict[str, Tensor]:
    """Return boxes, labels, scores and 28x28 masks on the resized picture.

    Only the backbone runs in mixed precision: boxes in half precision are pixels off.
    """
    if not isinstance(network, MaskRCNN):
        msg = f"expected a Mask R-CNN, got {type(network).__name__}; build it from its card"
        raise InputError(msg)
    images = _listed(image[None])
    with mixed or nullcontext():
        features = network.backbone(images.tensors)
    features = {level: values.float() for level, values in features.items()}
    proposals, _ = network.rpn(images, features)
    found: list[dict[str, Tensor]]
    found, _ = network.roi_heads(features, proposals, images.image_sizes)
    return found[0]


def _pasted(
    found: Mapping[str, Tensor],
    seen: tuple[int, ...] | torch.Size,
    shape: tuple[int, ...],
    card: ModelCard,
) -> list[Found]:
    """Return the objects at the image's own size, each in its box only.

    Geometry as torchvision's ``paste_masks_in_image``: the mask is widened by one cell at each
    side, its box likewise, and the box's corners are cut to whole pixels.
    """
    ratio = torch.tensor([shape[1] / seen[1], shape[0] / seen[0]] * 2)
    masks = functional.pad(found["masks"], (1, 1, 1, 1))
    widening = masks.shape[-1] / (masks.shape[-1] - 2)
    boxes = _widened(found["boxes"] * ratio, widening).to(torch.int64)
    names = _names(card)
    listed = []
    for mask, box, label, score in zip(
        masks, boxes.tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True
    ):
        name = names.get(int(label))
        x0, y0, x1, y1 = box[0], box[1], max(box[2], box[0]) + 1, max(box[3], box[1]) + 1
        part = (slice(max(y0, 0), min(y1, shape[0])), slice(max(x0, 0), min(x1, shape[1])))
        if name is None or part[0].start >= part[0].stop or part[1].start >= part[1].stop:
            continue
        large = functional.interpolate(
            mask[None], size=(y1 - y0, x1 - x0), mode="bilinear", align_corners=False
        )[0, 0]
        inside = large[
            part[0].start - y0 : part[0].stop - y0, part[1].start - x0 : part[1].stop - x0
        ]
        listed.append(Found(part, (inside > 0.5).numpy(), float(score), name))
    return listed


def _widened(boxes: Tensor, factor: float) -> Tensor:
    centre = (boxes[:, :2] + boxes[:, 2:]) * 0.5
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * factor
    return torch.cat([centre - half, centre + half], dim=1)


def _names(card: ModelCard) -> dict[int, str]:
    """Return the class name of each output of the network; one without a label is left out."""
    if "outputs" in card.parameters:
        return card.labels.names
    return {k: card.labels[i].name for k, i in enumerate(card.labels, start=1)}


def _targets(ids: Tensor, categories: Mapping[int, int], card: ModelCard) -> dict[str, Tensor]:
    """Return boxes, labels and masks of the objects in one patch."""
    outputs = dict(enumerate(card.labels, start=1))
    is_direct = "outputs" in card.parameters
    boxes, labels, masks = [], [], []
    for i in torch.unique(ids).tolist():
        if i <= 0 or int(i) not in categories:
            continue
        mask = ids == i
        rows, columns = torch.where(mask.any(1))[0], torch.where(mask.any(0))[0]
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        index = categories[int(i)]
        labels.append(outputs[index] if is_direct else index)
        masks.append(mask)
    shape = (0, *ids.shape)
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32, device=ids.device).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64, device=ids.device),
        "masks": torch.stack(masks).to(torch.uint8)
        if masks
        else torch.zeros(shape, dtype=torch.uint8, device=ids.device),
    }


def _objects_of(
    mask: Mask, card: ModelCard
) -> tuple[npt.NDArray[Any], dict[int, int], npt.NDArray[np.bool_] | None]:
    """Return object ids, the class index of each, and where the loss must not look."""
    lookup, ignored = base.class_indices(mask, card)
    unseen = np.isin(mask.data, ignored) if ignored else None
    if mask.labels.kind == "objects":
        categories = {i: int(lookup[i]) for i in mask.ids() if lookup[i]}
        return mask.data, categories, unseen
    from maskloop.ops.components import label

    whole = np.zeros(mask.data.shape, dtype=np.uint32)
    categories = {}
    for index in range(1, len(card.labels) + 1):
        ids, count = label(lookup[mask.data] == index)
        whole[ids > 0] = ids[ids > 0] + np.uint32(len(categories))
        start = len(categories)
        categories.update({start + i: index for i in range(1, count + 1)})
    return whole, categories, unseen


def _nearest(values: npt.NDArray[Any], size: tuple[int, ...]) -> npt.NDArray[Any]:
    from maskloop.ops import resample

    is_region = values.dtype == np.bool_
    found = resample.nearest(values.view(np.uint8) if is_region else values, size)
    return found.astype(bool) if is_region else found


FAMILY = MaskRCNNFamily()

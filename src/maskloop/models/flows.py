"""Objects from a field that points at their centres: cell nuclei that touch, told apart.

Papers: C. Stringer et al., "Cellpose: a generalist algorithm for cellular segmentation", Nature
Methods 18, 2021 (a residual U-Net predicts foreground and a flow); W. Shi et al., "Real-Time Single
Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network", CVPR
2016 (pixels folded into channels, and back). What the flow is, and how it becomes objects:
`maskloop.models.fields`.

All code is our own. The weights were trained by ``scripts/train_nuclei.py`` on pictures of the 2018
Data Science Bowl (CC0) and are CC0 themselves.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from maskloop.core.errors import InputError, UnknownNameError
from maskloop.core.labels import LabelTable
from maskloop.models import base, objects
from maskloop.models.base import Batch, Segmentation, Volume
from maskloop.models.cards import ModelCard
from maskloop.models.fields import Decoding, Targets, decode, targets
from maskloop.models.instances import objects_of
from maskloop.models.posing import fit_channels, require_usable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.core.mask import Mask
    from maskloop.ops.device import Device, Rung

_VARIANTS = {"small": (32, 64, 96, 128)}
_FOLD = 2  # pixels along an axis that become channels; halves the time of a step on a processor
_STRIDE = 16  # of the coarsest level


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, taken: int, given: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(taken, given, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(given)
        self.second = nn.Conv2d(given, given, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(given)
        self.shortcut = nn.Conv2d(taken, given, 1, bias=False) if taken != given else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.first_norm(self.first(x)), inplace=True)
        inner = self.second_norm(self.second(inner))
        return functional.relu(inner + self.shortcut(x), inplace=True)


class FlowNet(nn.Module):
    """A residual U-Net on folded pixels with three outputs: logit of foreground, flow y, flow x.

    Batch norms, not group norms: in use they are constants, so that what a window holds elsewhere
    does not change a pixel's answer.

    Parameters
    ----------
    channels : int
        Of the picture.
    widths : tuple of int
        Features of each level, finest (half size) first.
    """

    def __init__(self, channels: int = 1, widths: tuple[int, ...] = _VARIANTS["small"]) -> None:
        super().__init__()
        steps = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(
            [
                _Block(channels * _FOLD**2, widths[0]),
                *(_Block(fine, coarse) for fine, coarse in steps),
            ]
        )
        self.narrow = nn.ModuleList([nn.Conv2d(coarse, fine, 1) for fine, coarse in steps])
        self.up = nn.ModuleList([_Block(fine, fine) for fine, _ in steps])
        self.head = nn.Conv2d(widths[0], 3 * _FOLD**2, 3, padding=1)
        self.keeps_statistics = False
        self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> FlowNet:
        """Set the mode; norms of a trained network stay: a few pictures would spoil them."""
        super().train(mode)
        if self.keeps_statistics:
            for part in self.modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, 3, y, x)`` of ``(n, channels, y, x)``; any size of at least 1."""
        height, width = x.shape[-2:]
        x = functional.pad(x, (0, -width % _STRIDE, 0, -height % _STRIDE), mode="replicate")
        x = functional.pixel_unshuffle(x, _FOLD).contiguous(memory_format=torch.channels_last)
        kept: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for level in range(len(self.up) - 1, -1, -1):
            x = functional.interpolate(self.narrow[level](x), scale_factor=2.0, mode="nearest")
            x = self.up[level](x + kept[level])
        x = functional.pixel_shuffle(self.head(x), _FOLD)
        return x[..., :height, :width]


def loss(predicted: Tensor, wanted: Targets) -> Tensor:
    """Return cross-entropy plus soft Dice of the foreground plus the squared error of the flow.

    The flow counts inside objects and, weaker, as 0 outside. Unreviewed pixels count nowhere.
    """
    seen = wanted.seen.float()
    logit, flow = predicted[:, 0], predicted[:, 1:]
    entropy = functional.binary_cross_entropy_with_logits(
        logit, wanted.foreground, weight=seen, reduction="sum"
    ) / seen.sum().clamp_min(1)
    chance = logit.sigmoid() * seen
    both = (chance * wanted.foreground).sum()
    dice = 1 - (2 * both + 1) / (chance.sum() + (wanted.foreground * seen).sum() + 1)
    error = (flow - wanted.flow).square().sum(dim=1)
    inside = wanted.foreground * wanted.whole
    outside = (1 - wanted.foreground) * wanted.whole
    pull = (error * inside).sum() / inside.sum().clamp_min(1)
    rest = (error * outside).sum() / outside.sum().clamp_min(1)
    return entropy + dice + 2 * pull + 0.5 * rest


def seen_by_network(image: Image) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Return a picture as the network sees it, ``(1, y, x)``, and notes: `unit_of`, `curved`."""
    unit, notes = unit_of(image)
    return curved(unit), notes


def unit_of(image: Image) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Return the luminance of a picture from 0 to 1, ``(1, y, x)``, objects bright, and notes.

    The 1st and 99.8th percentile become 0 and 1. A picture whose background is bright (its median
    lies above the middle) is turned over. A picture of one value becomes 0.
    """
    stacked, notes = fit_channels(image, 1)
    data = np.asarray(stacked, dtype=np.float32).reshape(1, *image.geometry.shape[-2:])
    if not np.isfinite(data).all():
        msg = f"expected finite pixel values in {image.name!r}, got NaN or infinity; replace them"
        raise InputError(msg)
    low, high = (float(n) for n in np.percentile(data, (1.0, 99.8)))
    if not high > low:
        low, high = float(data.min()), float(data.max())
    if not high > low:
        return np.zeros_like(data), (*notes, "the picture has one value everywhere")
    unit = (data - np.float32(low)) / np.float32(high - low)
    if float(np.median(unit)) > 0.5:
        unit = 1 - unit
        notes = (*notes, "bright background: turned over")
    return unit, notes


def curved(unit: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the square root, odd round 0, of values held within -0.2 and 2.

    Faint nuclei beside bright ones are not lost so.
    """
    held = np.clip(unit, -0.2, 2.0)
    found: npt.NDArray[np.float32] = np.sign(held) * np.sqrt(np.abs(held))
    return found.astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True)
class Zoom:
    """When a picture is looked at a second time, enlarged.

    Parameters
    ----------
    below : float
        Diameter of the median object, in pixels; 0 for never.
    factor : float
        How much larger, > 1.
    """

    below: float = 16.0
    factor: float = 1.5

    @classmethod
    def of(cls, card: ModelCard) -> Zoom:
        """Return what the card's ``zoom`` says, ours where it says nothing."""
        return cls(**card.parameters.get("zoom", {}))


class FlowsFamily:
    """Networks of foreground and flow; stateless.

    `card.parameters`: ``tile`` (512: side of a window), ``overlap`` (0.25), ``batch`` (2),
    ``patch`` ([160, 160]), ``decoding`` (the fields of `Decoding`), ``zoom`` (those of `Zoom`).
    """

    name = "flows"
    title = "Flows to object centres"
    tasks: tuple[str, ...] = ("instance",)
    ndims: tuple[int, ...] = (2,)
    variants: tuple[str, ...] = tuple(_VARIANTS)
    is_trainable = True

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network of `variant` for objects of one class."""
        variant = variant or "small"
        if variant not in _VARIANTS:
            raise UnknownNameError.of("variant of flows", variant, list(_VARIANTS))
        if len(labels) > 1:
            msg = (
                f"expected one class of objects for the family 'flows', got "
                f"{', '.join(labels.names.values())}; choose another family or merge the classes"
            )
            raise InputError(msg)
        return ModelCard(
            name=f"flows-{variant}",
            title="Flows to object centres, untrained",
            family=self.name,
            variant=variant,
            task="instance",
            ndim=2,
            labels=labels or LabelTable.classes(["object"]),
            modality="grey or RGB picture",
            channels=1,
            licence="BSD-3-Clause",
            parameters={"patch": [160, 160]},
        )

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights."""
        if card.variant not in _VARIANTS:
            raise UnknownNameError.of("variant of flows", card.variant, list(_VARIANTS))
        return FlowNet(card.channels, _VARIANTS[card.variant])

    def load(self, card: ModelCard, files: Mapping[str, Path]) -> nn.Module:
        """Return the network with the weights in `files`; from now on its norms stay."""
        network = base.load_strict(self.build(card), files, name=card.name)
        network.keeps_statistics = True  # type: ignore[assignment]  # a plain attribute of FlowNet
        return network

    def segment(
        self, network: nn.Module, image: Image, *, card: ModelCard, device: Device, job: Job
    ) -> Segmentation:
        """Return one id an object on the image's grid.

        Fields are predicted window by window and blended; the whole picture is then decoded once,
        so that there are no seams. Where the median object is small, all of it is done again on the
        enlarged picture.
        """
        _require_picture(image, card)
        data, notes = seen_by_network(image)
        how = Decoding.of(card)
        if data.any():
            ids, scores = _found(network, data, how, card, device, job)
            zoom = Zoom.of(card)
            if 0 < _diameter(ids) < zoom.below:
                ids, scores = _found_larger(network, data, zoom.factor, how, card, device, job)
                notes = (
                    *notes,
                    f"objects are small: looked again at {zoom.factor:g} times the size",
                )
        else:
            ids, scores = np.zeros(data.shape[1:], dtype=np.uint8), {}
        category = next(iter(card.labels.names.values()), "object")
        table = objects.table(scores, dict.fromkeys(scores, category), scores, author=card.name)
        return Segmentation(ids.reshape(image.geometry.shape), table, notes)

    def prepare(
        self,
        image: Image,
        mask: Mask,
        *,
        card: ModelCard,
        reviewed: npt.NDArray[np.bool_] | None,
        job: Job,
    ) -> list[Volume]:
        """Return the picture as the network sees it, with its objects' ids, at its own size.

        A class map is split into connected objects first.
        """
        job.check()
        mask.require_on(image)
        _require_picture(image, card)
        data, _ = seen_by_network(image)
        ids, categories, ignored = objects_of(mask, card)
        if ignored is not None:
            reviewed = ~ignored if reviewed is None else reviewed & ~ignored
        flat = data.shape[1:]
        return [
            Volume(
                data,
                ids.reshape(flat),
                None if reviewed is None else reviewed.reshape(flat),
                categories,
            )
        ]

    def patch(self, card: ModelCard) -> tuple[int, ...]:
        """Return the training patch in pixels; the card's, else 160 squared."""
        return tuple(card.parameters.get("patch", (160, 160)))

    def train_step(self, network: nn.Module, batch: Batch, *, card: ModelCard) -> Tensor:
        """Return the loss of one batch; its targets are made from the ids as they are."""
        network.train()
        ids = batch.ids
        if batch.categories and any(batch.categories):
            ids = _known_only(ids, batch.categories)
        return loss(network(batch.images), targets(ids))

    def augmentation(self, card: ModelCard) -> frozenset[str]:
        """Return what the card allows; else everything that a picture from above survives."""
        told = card.parameters.get("augmentation")
        free = (
            "mirror_x", "mirror_y", "rotate", "scale", "elastic", "gamma", "noise", "blur"
        )  # fmt: skip
        return frozenset(free if told is None else told)


def _found(
    network: nn.Module,
    data: npt.NDArray[np.float32],
    how: Decoding,
    card: ModelCard,
    device: Device,
    job: Job,
) -> tuple[npt.NDArray[Any], dict[int, float]]:
    """Return ids and scores of the objects in a normalised picture ``(1, y, x)``."""
    from maskloop.ops.device import ladder, run_ladder
    from maskloop.ops.tiling import predict_scores

    side = int(card.parameters.get("tile", 512))
    tile = tuple(min(side, n + -n % _STRIDE) for n in data.shape[1:])

    def attempt(rung: Rung) -> npt.NDArray[np.float32]:
        network.to(rung.device.torch).eval()
        return predict_scores(
            data,
            network,
            tile=rung.tile or tile,
            classes=3,
            overlap=float(card.parameters.get("overlap", 0.25)),
            device=rung.device,
            batch=rung.batch,
            job=job,
        )

    rungs = ladder(
        device,
        int(card.parameters.get("batch", 2)),
        tile,
        smallest_tile=tuple(min(128, n) for n in tile),
        multiple=_STRIDE,
    )
    fields = run_ladder(rungs, attempt, job)
    job.report("objects", 0, 1)
    found = decode(fields, how)
    job.report("objects", 1, 1)
    return found


def _found_larger(
    network: nn.Module,
    data: npt.NDArray[np.float32],
    factor: float,
    how: Decoding,
    card: ModelCard,
    device: Device,
    job: Job,
) -> tuple[npt.NDArray[Any], dict[int, float]]:
    """Return what `_found` finds in the picture enlarged by `factor`, at the picture's own size."""
    size = tuple(max(1, round(n * factor)) for n in data.shape[1:])
    large = functional.interpolate(
        torch.from_numpy(data)[None], size=size, mode="bilinear", align_corners=False
    )[0].numpy()
    larger = dataclasses.replace(how, least_area=round(how.least_area * factor**2))
    ids, scores = _found(network, large, larger, card, device, job)
    rows, columns = (
        ((np.arange(n) + 0.5) * m / n).astype(int)
        for n, m in zip(data.shape[1:], size, strict=True)
    )
    return ids[np.ix_(rows, columns)], scores


def _diameter(ids: npt.NDArray[Any]) -> float:
    """Return the diameter of a disc as large as the median object; 0 where there is none."""
    sizes = np.bincount(ids.ravel())[1:]
    return float(np.sqrt(4 / np.pi * np.median(sizes))) if len(sizes) else 0.0


def _known_only(ids: Tensor, categories: list[Mapping[int, int]]) -> Tensor:
    """Return ids without those objects that belong to no class of the card."""
    kept = ids.clone()
    for one, known in zip(kept, categories, strict=True):
        wanted = torch.tensor(list(known), dtype=one.dtype, device=one.device)
        one[(one > 0) & ~torch.isin(one, wanted)] = 0
    return kept


def _require_picture(image: Image, card: ModelCard) -> None:
    shape = image.geometry.shape
    if len(shape) == 3 and shape[0] != 1:
        msg = (
            f"expected one picture (y, x) for model {card.name!r}, got the volume {image.name!r} "
            f"of shape {shape}; choose one slice: objects are not joined from slice to slice"
        )
        raise InputError(msg)
    require_usable(image, card)


FAMILY = FlowsFamily()

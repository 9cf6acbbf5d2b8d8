"""SegNet: an encoder whose pooling indices tell its decoder where each maximum came from.

Paper: V. Badrinarayanan, A. Kendall, R. Cipolla, "SegNet: A Deep Convolutional Encoder-Decoder
Architecture for Image Segmentation", PAMI 2017, sections 3 and 4, Fig. 2 and 3. Class weights by
median frequency: D. Eigen, R. Fergus, "Predicting Depth, Surface Normals and Semantic Labels with a
Common Multi-Scale Convolutional Architecture", ICCV 2015, section 4.3.2. Written from the papers.
Other than the paper: pictures are normalised as ImageNet's, not by local contrast, and the momentum
of its recipe is Nesterov's. The authors' weights are CC BY-NC and are not used. Licence of the
code: BSD-3-Clause.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskloop.core.errors import InputError
from maskloop.models.base import IGNORE, Batch, Volume
from maskloop.models.blocks import start_he, vgg_stages
from maskloop.models.cards import ModelCard
from maskloop.models.dense import DenseFamily
from maskloop.ops.losses import cross_entropy

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from maskloop.core.labels import LabelTable

_LEAST = 32  # pixels a side that five poolings need
_PAPER = {
    "optimiser": "sgd",
    "rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "constant",
    "batch": 12,
    "steps": 40_000,
}


def unpooled(x: Tensor, places: Tensor, size: Sequence[int]) -> Tensor:
    """Return maxima ``(n, c, y, x)`` at the places they came from, in maps of `size`; 0 elsewhere.

    What `torch.nn.functional.max_unpool2d` gives, by one scatter: that one has no deterministic
    form on CUDA and no form that can be exported.
    """
    n, c = x.shape[:2]
    flat = x.new_zeros((n, c, size[0] * size[1]))
    return flat.scatter(2, places.flatten(2), x.flatten(2)).view(n, c, *size)


def _unpool(x: Tensor, places: Tensor, size: torch.Size) -> Tensor:
    needs_scatter = (
        torch.are_deterministic_algorithms_enabled()
        or torch.compiler.is_compiling()  # torch.export too
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]  # left untyped
    )
    if needs_scatter:
        return unpooled(x, places, size)
    return F.max_unpool2d(x, places, [2, 2], output_size=size)


def _unit(taken: int, given: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(taken, given, 3, padding=1), nn.BatchNorm2d(given), nn.ReLU(inplace=True)
    )


class SegNet(nn.Module):
    """13 convolutions down as VGG-16, the same 13 back up; no full layer, nothing learnt upsamples.

    Parameters
    ----------
    channels, classes : int
    width : float
        Times VGG's features (1.0 in the paper).
    """

    def __init__(self, channels: int, classes: int, *, width: float = 1.0) -> None:
        super().__init__()
        stages = vgg_stages(width)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        taken = channels
        for stage in stages:
            sizes = zip((taken, *stage[:-1]), stage, strict=True)
            self.encoder.append(nn.Sequential(*(_unit(a, b) for a, b in sizes)))
            taken = stage[-1]
        for number in range(len(stages) - 1, -1, -1):
            stage = stages[number]
            # The last convolution of a stage narrows to the stage above.
            given = [*stage[1:], stages[number - 1][-1] if number else classes]
            sizes = zip((stage[-1], *given[:-1]), given, strict=True)
            units: list[nn.Module] = [_unit(a, b) for a, b in sizes]
            if number == 0:
                units[-1] = nn.Conv2d(stage[-1], classes, 3, padding=1)
            self.decoder.append(nn.Sequential(*units))
        start_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores ``(n, classes, y, x)`` of ``(n, channels, y, x)``, of any size from 32.

        Raises
        ------
        InputError
            If a side is shorter than 32 pixels.
        """
        if min(x.shape[2:]) < _LEAST:
            msg = (
                f"expected a picture of at least {_LEAST}x{_LEAST} pixels for SegNet, got "
                f"{x.shape[2]}x{x.shape[3]}; enlarge it or choose a larger patch"
            )
            raise InputError(msg)
        places, sizes = [], []
        for stage in self.encoder:
            x = stage(x)
            sizes.append(x.shape[2:])
            x, place = F.max_pool2d(x, 2, return_indices=True)
            places.append(place)
        for stage in self.decoder:
            x = stage(_unpool(x, places.pop(), sizes.pop()))
        return x


def median_frequency_weights(volumes: Iterable[Volume], classes: int) -> list[float]:
    """Return one weight a class: the median of all classes' frequencies over its own.

    A class's frequency is its share of the reviewed pixels of those pictures that show it. A class
    in no picture weighs 1 and has no part in the median.

    Parameters
    ----------
    volumes : iterable of Volume
        Ids are class indices.
    classes : int
        With the background.
    """
    own, shown = np.zeros(classes), np.zeros(classes)
    for volume in volumes:
        ids = np.asarray(volume.ids)
        seen = ids if volume.reviewed is None else ids[np.asarray(volume.reviewed)]
        counts = np.bincount(seen.ravel(), minlength=classes)
        own += counts
        shown += np.where(counts > 0, seen.size, 0)
    is_known = own > 0
    weights = np.ones(classes)
    if is_known.any():
        frequencies = own[is_known] / shown[is_known]
        weights[is_known] = np.median(frequencies) / frequencies
    return [float(weight) for weight in weights]


class SegNetFamily(DenseFamily):
    """SegNet of one shape.

    `card.parameters`: ``width`` (1.0), ``class_weights`` (one a class, the background first; set by
    `survey` before the first step).
    """

    name = "segnet"
    title = "SegNet (Badrinarayanan 2017)"
    ndims = (2,)
    variants = ("vgg16",)

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network for photographs."""
        variant = self.known(variant)
        return ModelCard(
            name=self.name,
            title="SegNet, untrained",
            family=self.name,
            variant=variant,
            ndim=2,
            labels=labels,
            modality="RGB photograph",
            channels=3,
            licence="BSD-3-Clause",
            sources=("Badrinarayanan et al., PAMI 2017",),
            parameters={
                "normalise": "imagenet",
                "patch": [256, 256],
                "tile": [512, 512],
                "whole": 1024 * 1024,
                "heads": ["decoder.4.1"],
                "recipes": {"paper": dict(_PAPER)},
            },
        )

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights."""
        width = float(card.parameters.get("width", 1.0))
        return SegNet(card.channels, len(card.labels) + 1, width=width)

    def tile(self, card: ModelCard, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the window for an image of `shape`; a smaller one is mirrored to 32 pixels."""
        return tuple(max(n, _LEAST) for n in super().tile(card, shape))

    def survey(self, card: ModelCard, volumes: Iterable[Volume]) -> ModelCard:
        """Return the card with the median-frequency weights of the training pictures."""
        weights = median_frequency_weights(volumes, len(card.labels) + 1)
        return replace(card, parameters={**card.parameters, "class_weights": weights})

    def train_step(self, network: nn.Module, batch: Batch, *, card: ModelCard) -> Tensor:
        """Return the cross-entropy of the reviewed pixels, weighted by class as surveyed."""
        logits = self.logits(network, batch.images)
        told = card.parameters.get("class_weights")
        weights = None if told is None else torch.tensor(told, device=logits.device)
        return cross_entropy(logits, batch.ids, ignore=IGNORE, class_weights=weights)


FAMILY = SegNetFamily()

"""SegNet: an encoder whose pooling indices tell its decoder where each maximum came from.

Paper: V. Badrinarayanan, A. Kendall, R. Cipolla, "SegNet: A Deep Convolutional Encoder-Decoder
Architecture for Image Segmentation", PAMI 2017, sections 3 and 4, Fig. 2 and 3. Written from the
paper. The authors' weights are CC BY-NC and are not used. Licence of the code: BSD-3-Clause.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from maskloop.core.errors import UnknownNameError
from maskloop.models.blocks import start_he, vgg_stages
from maskloop.models.cards import ModelCard
from maskloop.models.dense import DenseFamily

if TYPE_CHECKING:
    from maskloop.core.labels import LabelTable


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
        """Return scores ``(n, classes, y, x)`` of ``(n, channels, y, x)``; 32 pixels or more."""
        places, sizes = [], []
        for stage in self.encoder:
            x = stage(x)
            sizes.append(x.shape[2:])
            x, place = F.max_pool2d(x, 2, return_indices=True)
            places.append(place)
        for stage in self.decoder:
            x = stage(F.max_unpool2d(x, places.pop(), [2, 2], output_size=sizes.pop()))
        return x


class SegNetFamily(DenseFamily):
    """SegNet of one shape; `card.parameters`: ``width`` (1.0)."""

    name = "segnet"
    title = "SegNet (Badrinarayanan 2017)"
    ndims = (2,)
    variants = ("vgg16",)

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network for photographs."""
        variant = variant or "vgg16"
        if variant not in self.variants:
            raise UnknownNameError.of(f"variant of {self.name}", variant, list(self.variants))
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
            },
        )

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights."""
        width = float(card.parameters.get("width", 1.0))
        return SegNet(card.channels, len(card.labels) + 1, width=width)


FAMILY = SegNetFamily()

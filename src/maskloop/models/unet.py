"""U-Net: the 2015 network, unpadded; and its residual 3D kin.

Paper: O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional Networks for Biomedical Image
Segmentation", MICCAI 2015, Fig. 1 and sections 2 and 3. Written from the paper; the authors'
release is not used. The 3D network is in `maskloop.models.unet3d`. Licence of the code and of the
shipped weights: BSD-3-Clause.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskloop.core.errors import InputError, UnknownNameError
from maskloop.models.blocks import cropped, narrowed, start_he
from maskloop.models.cards import ModelCard
from maskloop.models.dense import DenseFamily
from maskloop.models.unet3d import UNet3D

if TYPE_CHECKING:
    from maskloop.core.labels import LabelTable
    from maskloop.ops.device import Device, Rung

MARGIN = 92  # pixels that the network's output is smaller by, at each side
_FEATURES = (64, 128, 256, 512, 1024)


def _pair(taken: int, given: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(taken, given, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(given, given, 3),
        nn.ReLU(inplace=True),
    )


class UNet2015(nn.Module):
    """Five levels of unpadded convolutions; what comes up is joined with the middle of what went.

    Parameters
    ----------
    channels, classes : int
    width : float
        Times the paper's features.
    """

    def __init__(self, channels: int, classes: int, *, width: float = 1.0) -> None:
        super().__init__()
        features = [narrowed(n, width) for n in _FEATURES]
        pairs = list(itertools.pairwise(features))
        self.down = nn.ModuleList(
            [_pair(channels, features[0]), *(_pair(fine, coarse) for fine, coarse in pairs)]
        )
        self.dropout = nn.Dropout(0.5)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in reversed(pairs))
        self.join = nn.ModuleList(_pair(2 * a, a) for a, _ in reversed(pairs))
        self.score = nn.Conv2d(features[0], classes, 1)
        start_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores of ``(n, channels, y, x)``, smaller by 92 pixels at each side.

        Raises
        ------
        InputError
            If a side is not 16 n + 60 for a whole n of at least 8: a pooling would drop a row, and
            everything after it would sit half a pixel off.
        """
        if any(n < 188 or (n - 60) % 16 for n in x.shape[2:]):
            msg = (
                f"expected sides of 188, 204, 220, ... (16 n + 60) pixels for the unpadded U-Net, "
                f"got {tuple(x.shape[2:])}; mirror the borders up to the next such size"
            )
            raise InputError(msg)
        kept = []
        for number, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if number else x)
            kept.append(x)
        x = self.dropout(kept.pop())
        for up, join in zip(self.up, self.join, strict=True):
            x = up(x)
            x = join(torch.cat([cropped(kept.pop(), x.shape[2:]), x], dim=1))
        scores: Tensor = self.score(x)
        return scores


class UNetFamily(DenseFamily):
    """The unpadded 2D U-Net of 2015, and a padded residual one for volumes.

    `card.parameters`: ``width`` (2015: times the paper's features, 1.0; residual3d: features at
    full resolution, 8).
    """

    name = "unet"
    title = "U-Net"
    ndims = (2, 3)
    variants = ("2015", "residual3d")

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network: grey pictures, or CT in Hounsfield units."""
        variant = variant or "2015"
        if variant not in self.variants:
            raise UnknownNameError.of(f"variant of {self.name}", variant, list(self.variants))
        return (_card_2015 if variant == "2015" else _card_3d)(self.name, variant, labels)

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights."""
        classes = len(card.labels) + 1
        if card.variant == "residual3d":
            return UNet3D(card.channels, classes, width=int(card.parameters.get("width", 8)))
        return UNet2015(card.channels, classes, width=float(card.parameters.get("width", 1.0)))

    def rungs(self, card: ModelCard, device: Device, tile: tuple[int, ...]) -> list[Rung]:
        """Return what to try when memory runs out; unpadded tiles stay 16 n + 60."""
        rungs = super().rungs(card, device, tile)
        if card.variant != "2015":
            return rungs
        return [replace(rung, tile=_allowed(rung.tile or tile)) for rung in rungs]


def _allowed(tile: tuple[int, ...]) -> tuple[int, ...]:
    """Return the largest sides 16 n + 60 (188 or more) that are not above `tile`."""
    return tuple(max(188, (n - 60) // 16 * 16 + 60) for n in tile)


def _card_2015(family: str, variant: str, labels: LabelTable) -> ModelCard:
    return ModelCard(
        name=f"{family}-{variant}",
        title="U-Net of 2015, untrained",
        family=family,
        variant=variant,
        ndim=2,
        labels=labels,
        modality="grey picture",
        channels=1,
        licence="BSD-3-Clause",
        sources=("doi:10.1007/978-3-319-24574-4_28",),
        parameters={
            "normalise": "zscore",
            "margin": MARGIN,
            "patch": [316, 316],
            "tile": [572, 572],
            "overlap": 0.0,
            "batch": 1,
            "heads": ["score"],
        },
    )


def _card_3d(family: str, variant: str, labels: LabelTable) -> ModelCard:
    return ModelCard(
        name=f"{family}-{variant}",
        title="Residual 3D U-Net, untrained",
        family=family,
        variant=variant,
        labels=labels,
        modality="CT",
        spacing=(3.0, 3.0, 3.0),
        licence="BSD-3-Clause",
        sources=("doi:10.1007/978-3-319-46723-8_49", "doi:10.1007/978-3-319-24574-4_28"),
        parameters={
            "width": 8,
            "orientation": "SAR",
            "normalise": {"clip": [-150, 250], "mean": 50, "std": 100},
            "patch": [40, 40, 40],
            "tile": [64, 64, 64],
            "multiple": 8,
            "batch": 4,
            "overlap": 0.25,
        },
    )


FAMILY = UNetFamily()

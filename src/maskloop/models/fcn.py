"""Fully convolutional networks on VGG-16: FCN-32s, FCN-16s, FCN-8s.

Paper: J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for Semantic Segmentation",
CVPR 2015, section 4 and Fig. 3; E. Shelhamer, J. Long, T. Darrell, the same title, PAMI 2017.
Sizes, paddings and crops as in the definitions that the authors released (BSD-2-Clause), written
anew.
Licence of the code: BSD-3-Clause.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskloop.core.errors import UnknownNameError
from maskloop.models.blocks import cropped, narrowed, start_he, vgg_stages
from maskloop.models.cards import ModelCard
from maskloop.models.dense import DenseFamily

if TYPE_CHECKING:
    from maskloop.core.labels import LabelTable

_SCALES = {"32s": (64,), "16s": (4, 32), "8s": (4, 4, 16)}  # sides of the transposed convolutions
_LAST_CROP = {"32s": 19, "16s": 27, "8s": 31}
_SKIP_CROPS = (5, 9)  # of pool4's and pool3's scores
_PAD = 100


def bilinear_kernel(side: int) -> Tensor:
    """Return the weights ``(side, side)`` that interpolate linearly by ``side // 2``."""
    factor = (side + 1) // 2
    middle = factor - 1 if side % 2 else factor - 0.5
    line = 1 - (torch.arange(side, dtype=torch.float32) - middle).abs() / factor
    return line[:, None] * line[None, :]


class Upscore(nn.ConvTranspose2d):
    """A transposed convolution without bias that starts as linear interpolation, class by class."""

    def __init__(self, classes: int, side: int, *, is_learnt: bool) -> None:
        super().__init__(classes, classes, side, stride=side // 2, bias=False)
        with torch.no_grad():
            self.weight.zero_()
            self.weight[range(classes), range(classes)] = bilinear_kernel(side)
        self.weight.requires_grad_(is_learnt)


class FCN(nn.Module):
    """VGG-16 made convolutional, its scores brought back to the picture's size in 1 to 3 steps.

    Parameters
    ----------
    channels, classes : int
    variant : {"32s", "16s", "8s"}
    width : float
        Times VGG's features (1.0 in the paper).
    hidden : int
        Features of fc6 and fc7 (4096 in the paper).
    learns_upsampling : bool
        Whether transposed convolutions are trained (the paper's text) or stay bilinear (the
        networks the authors released).
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        variant: str = "8s",
        *,
        width: float = 1.0,
        hidden: int = 4096,
        learns_upsampling: bool = False,
    ) -> None:
        super().__init__()
        stages, taken = vgg_stages(width), channels
        self.stages = nn.ModuleList()
        for number, stage in enumerate(stages):
            layers: list[nn.Module] = []
            for place, given in enumerate(stage):
                is_first = number == 0 and place == 0
                layers += [
                    nn.Conv2d(taken, given, 3, padding=_PAD if is_first else 1),
                    nn.ReLU(inplace=True),
                ]
                taken = given
            # Caffe rounds a pooled size up.
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            self.stages.append(nn.Sequential(*layers))
        self.fc6 = nn.Conv2d(taken, hidden, 7)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        start_he(self)
        skips = [stages[3][-1], stages[2][-1]][: len(_SCALES[variant]) - 1]
        self.score = nn.Conv2d(hidden, classes, 1)
        self.score_skips = nn.ModuleList(nn.Conv2d(n, classes, 1) for n in skips)
        for part in (self.score, *self.score_skips):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)
        self.upscores = nn.ModuleList(
            Upscore(classes, side, is_learnt=learns_upsampling) for side in _SCALES[variant]
        )
        self.last_crop = _LAST_CROP[variant]

    def forward(self, x: Tensor) -> Tensor:
        """Return scores ``(n, classes, y, x)`` of ``(n, channels, y, x)``, any size from 1 on."""
        size = x.shape[2:]
        pooled = []
        for stage in self.stages:
            x = stage(x)
            pooled.append(x)
        x = F.dropout(F.relu(self.fc6(x)), training=self.training)
        x = F.dropout(F.relu(self.fc7(x)), training=self.training)
        x = self.score(x)
        skips = zip(self.score_skips, (pooled[3], pooled[2]), _SKIP_CROPS, strict=False)
        for upscore, (score, kept, crop) in zip(self.upscores, skips, strict=False):
            x = upscore(x)
            x = x + cropped(score(kept), x.shape[2:], offset=crop)
        return cropped(self.upscores[-1](x), size, offset=self.last_crop)


class FCNFamily(DenseFamily):
    """FCN of three strides.

    `card.parameters`: ``width`` (1.0), ``hidden`` (4096, times ``width``), ``learns_upsampling``
    (False).
    """

    name = "fcn"
    title = "FCN on VGG-16 (Long 2015)"
    ndims = (2,)
    variants = tuple(_SCALES)

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network for photographs."""
        variant = variant or "32s"
        if variant not in _SCALES:
            raise UnknownNameError.of(f"variant of {self.name}", variant, list(_SCALES))
        return ModelCard(
            name=f"{self.name}-{variant}",
            title=f"FCN-{variant}, untrained",
            family=self.name,
            variant=variant,
            ndim=2,
            labels=labels,
            modality="RGB photograph",
            channels=3,
            licence="BSD-3-Clause",
            sources=("Long et al., CVPR 2015",),
            parameters={
                "normalise": "imagenet",
                "patch": [320, 320],
                "tile": [512, 512],
                "whole": 1024 * 1024,
                "heads": ["score", "score_skips", "upscores"],
            },
        )

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights; score layers zero, as in the paper."""
        if card.variant not in _SCALES:
            raise UnknownNameError.of(f"variant of {self.name}", card.variant, list(_SCALES))
        width = float(card.parameters.get("width", 1.0))
        return FCN(
            card.channels,
            len(card.labels) + 1,
            card.variant,
            width=width,
            hidden=narrowed(int(card.parameters.get("hidden", 4096)), width),
            learns_upsampling=bool(card.parameters.get("learns_upsampling", False)),
        )


FAMILY = FCNFamily()

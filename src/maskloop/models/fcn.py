"""Fully convolutional networks on VGG-16: FCN-32s, FCN-16s, FCN-8s.

Paper: J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for Semantic Segmentation",
CVPR 2015, section 4 and Fig. 3; E. Shelhamer, J. Long, T. Darrell, the same title, PAMI 2017.
Sizes, paddings and crops as in the definitions that the authors released (BSD-2-Clause), written
anew. A training may begin with torchvision's VGG-16 (BSD-3-Clause, ImageNet), and the finer
networks with a trained coarser one, as in section 4.2.
Licence of the code: BSD-3-Clause.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskloop.core.errors import InputError, WeightsError
from maskloop.models.base import key_difference
from maskloop.models.blocks import cropped, for_grey, narrowed, start_he, vgg_stages
from maskloop.models.cards import ModelCard
from maskloop.models.dense import DenseFamily

if TYPE_CHECKING:
    from collections.abc import Mapping

    from maskloop.core.labels import LabelTable

_SCALES = {"32s": (64,), "16s": (4, 32), "8s": (4, 4, 16)}  # sides of the transposed convolutions
_LAST_CROP = {"32s": 19, "16s": 27, "8s": 31}
_SKIP_CROPS = (5, 9)  # of pool4's and pool3's scores
_PAD = 100
_FIRST = "stages.0.0.weight"
_LEARNS = ("none", "steps", "all")
# Section 4.3; the rate falls a hundredfold where skips are added (4.2). 175 epochs of the 8,498
# pictures trained on are some 75,000 steps.
_PAPER = {
    "optimiser": "sgd",
    "momentum": 0.9,
    "rate": 1e-4,
    "weight_decay": 5e-4,
    "schedule": "constant",
    "batch": 20,
    "steps": 75_000,
    "parameters": {"loss": "cross-entropy", "upsampling": "steps"},
}


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
    upsampling : {"none", "steps", "all"}
        Which transposed convolutions are trained: none (the networks the authors released), all
        but the last (section 4.3 of the paper), or every one. All start linear.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        variant: str = "8s",
        *,
        width: float = 1.0,
        hidden: int = 4096,
        upsampling: str = "none",
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
        *steps, last = _SCALES[variant]
        self.upscores = nn.ModuleList(
            Upscore(classes, side, is_learnt=upsampling != "none") for side in steps
        )
        self.upscores.append(Upscore(classes, last, is_learnt=upsampling == "all"))
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


def from_vgg(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of torchvision's VGG-16 under our names.

    Its first two linear layers become convolutions over the 7 x 7 features they were made for
    (section 4.1: "convolutionalized"); the last one, of ImageNet's classes, has no part.
    """
    names = {"fc6": "classifier.0", "fc7": "classifier.3"}
    place = 0
    for number, stage in enumerate(vgg_stages()):
        for layer in range(len(stage)):
            names[f"stages.{number}.{2 * layer}"] = f"features.{place}"
            place += 2
        place += 1  # the pool
    absent = [name for name in names.values() if f"{name}.weight" not in state]
    if absent:
        msg = (
            f"expected the tensors of torchvision's vgg16, got none of {', '.join(absent)}; give "
            f"the file of all its layers"
        )
        raise WeightsError(msg)
    found = {
        f"{ours}.{part}": state[f"{theirs}.{part}"]
        for ours, theirs in names.items()
        for part in ("weight", "bias")
    }
    # Linear layers saw the features channel by channel, each row by row.
    for name, side in (("fc6", 7), ("fc7", 1)):
        weight = found[f"{name}.weight"]
        found[f"{name}.weight"] = weight.reshape(len(weight), -1, side, side)
    return found


class FCNFamily(DenseFamily):
    """FCN of three strides.

    `card.parameters`: ``width`` (1.0), ``hidden`` (4096, times ``width``), ``upsampling``
    (``"none"``, see `FCN`), ``loss`` (``"cross-entropy"`` as in the paper; Dice plus cross-entropy
    where not told).
    """

    name = "fcn"
    title = "FCN on VGG-16 (Long 2015)"
    ndims = (2,)
    variants = tuple(_SCALES)

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network for photographs."""
        variant = self.known(variant)
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
                "recipes": {"paper": {**_PAPER, "rate": 1e-4 if variant == "32s" else 1e-6}},
            },
        )

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights; score layers zero, as in the paper."""
        variant = self.known(card.variant)
        upsampling = str(card.parameters.get("upsampling", "none"))
        if upsampling not in _LEARNS:
            msg = (
                f"expected upsampling to be one of {_LEARNS}, got {upsampling!r}; correct the card"
            )
            raise InputError(msg)
        width = float(card.parameters.get("width", 1.0))
        return FCN(
            card.channels,
            len(card.labels) + 1,
            variant,
            width=width,
            hidden=narrowed(int(card.parameters.get("hidden", 4096)), width),
            upsampling=upsampling,
        )

    def begin(self, card: ModelCard, state: Mapping[str, Tensor]) -> nn.Module:
        """Return the network of `card` with VGG-16's features, or a coarser network's.

        Scores of skips that the coarser one lacks are zero: they change nothing until they are
        trained.
        """
        network = self.build(card)
        own = network.state_dict()
        if "features.0.weight" in state:
            state = from_vgg(state)
            if card.channels == 1:
                state[_FIRST] = for_grey(state[_FIRST])
            left: tuple[str, ...] = ("score", "upscores")
        else:
            # The last step of a coarser network is none of a finer one: sizes differ.
            other = {k for k in state if k in own and own[k].shape != state[k].shape}
            state = {k: v for k, v in state.items() if not (k in other and "upscores" in k)}
            left = ("score_skips", "upscores")
        begun = {**{k: v for k, v in own.items() if k.startswith(left)}, **state}
        words = key_difference(own, begun)
        if words:
            msg = (
                f"expected VGG-16 or a coarser FCN of the widths and classes of {card.name!r}, but "
                f"the tensors differ:\n{words}\nstart from other weights"
            )
            raise WeightsError(msg)
        network.load_state_dict(begun, strict=True)
        return network


FAMILY = FCNFamily()

"""The network of YOLACT: a pyramid, prototypes, and one head that all its levels share.

D. Bolya et al., "YOLACT: Real-time Instance Segmentation", ICCV 2019, section 3, Fig. 2 to 4; of
YOLACT++: "YOLACT++: Better Real-time Instance Segmentation", PAMI 2020, section 5. Deformable
convolutions: X. Zhu et al., "Deformable ConvNets v2: More Deformable, Better Results", CVPR 2019,
section 3.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import flop_registry, register_flop_formula
from torchvision.ops import deform_conv2d

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.models.pyramid import Trunk

_RESCORING = (8, 16, 32, 64, 128)
_LEAST_SCORED = 63  # cells a side from which five unpadded convolutions leave one


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the network says of pictures; boxes in the order of `maskloop.models.yolactboxes`.

    Parameters
    ----------
    boxes : Tensor ``(n, priors, 4)``
        How each prior is to be moved and stretched.
    classes : Tensor ``(n, priors, 1 + classes)``
        Logits, the background first.
    coefficients : Tensor ``(n, priors, k)``
        How much of each prototype, -1 to 1.
    prototypes : Tensor ``(n, k, h, w)``
        0 or more.
    semantic : Tensor ``(n, classes, y, x)``, optional
        Logits of each class at every cell of the finest level; only while training.
    sizes : tuple of (int, int)
        Rows and columns of the levels.
    """

    boxes: Tensor
    classes: Tensor
    coefficients: Tensor
    prototypes: Tensor
    semantic: Tensor | None
    sizes: tuple[tuple[int, int], ...]


class Pyramid(nn.Module):
    """A feature pyramid on C3 to C5: bilinear on the way down, ReLU at its end, P6 and P7 by steps.

    Parameters
    ----------
    taken : sequence of int
        Channels of C3, C4 and C5.
    given : int
        Channels of every level.
    levels : int
        How many, 1 or more; P3 first. With fewer than three the coarser ones still lend to P3.
    """

    def __init__(self, taken: Sequence[int], given: int, levels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([nn.Conv2d(n, given, 1) for n in taken])
        self.smooth = nn.ModuleList([nn.Conv2d(given, given, 3, padding=1) for _ in taken[:levels]])
        self.coarser = nn.ModuleList(
            [nn.Conv2d(given, given, 3, stride=2, padding=1) for _ in range(levels - len(taken))]
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return P3 and on, of C3 to C5."""
        summed: list[Tensor] = []
        for layer, one in zip(reversed(self.lateral), reversed(maps), strict=True):
            beside = layer(one)
            if summed:
                size = (int(one.shape[2]), int(one.shape[3]))
                beside = beside + functional.interpolate(summed[0], size=size, mode="bilinear")
            summed.insert(0, beside)
        found = [
            functional.relu(layer(one)) for layer, one in zip(self.smooth, summed, strict=False)
        ]
        for layer in self.coarser:
            found.append(layer(found[-1]))
        return found


class Head(nn.Module):
    """What is said at every cell of every level: boxes, classes, coefficients.

    Rows of the layer of classes are ordered by class, then prior: those of one class lie together.
    """

    def __init__(self, features: int, priors: int, outputs: int, prototypes: int) -> None:
        super().__init__()
        self.priors, self.outputs = priors, outputs
        self.shared = nn.Conv2d(features, features, 3, padding=1)
        self.boxes = nn.Conv2d(features, 4 * priors, 3, padding=1)
        self.classes = nn.Conv2d(features, outputs * priors, 3, padding=1)
        self.coefficients = nn.Conv2d(features, prototypes * priors, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return each ``(n, cells x priors, values)``, cells row by row."""
        x = functional.relu(self.shared(x))
        boxes, coefficients = (
            values.permute(0, 2, 3, 1).reshape(len(x), -1, values.shape[1] // self.priors)
            for values in (self.boxes(x), torch.tanh(self.coefficients(x)))
        )
        classes = self.classes(x).unflatten(1, (self.outputs, self.priors))
        return boxes, classes.permute(0, 3, 4, 2, 1).reshape(len(x), -1, self.outputs), coefficients


def prototypes_of(features: int, count: int) -> nn.Sequential:
    """Return the layers from the finest level to `count` prototypes, twice as large."""

    def block() -> list[nn.Module]:
        return [nn.Conv2d(features, features, 3, padding=1), nn.ReLU(inplace=True)]

    first = [*block(), *block(), *block()]
    last = [nn.Conv2d(features, count, 1), nn.ReLU()]
    return nn.Sequential(*first, nn.Upsample(scale_factor=2, mode="bilinear"), *block(), *last)


class Rescoring(nn.Module):
    """How well a mask will meet its object, class by class: YOLACT++, section 5.1."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        sizes = zip((1, *_RESCORING[:-1]), _RESCORING, strict=True)
        layers: list[nn.Module] = []
        for taken, given in sizes:
            layers += [nn.Conv2d(taken, given, 3, stride=2), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(_RESCORING[-1], classes, 1), nn.ReLU())

    def forward(self, masks: Tensor) -> Tensor:
        """Return ``(n, classes)``, 0 or more, of masks ``(n, h, w)`` cut to their boxes."""
        height, width = masks.shape[-2:]
        lacks = (0, max(0, _LEAST_SCORED - width), 0, max(0, _LEAST_SCORED - height))
        found: Tensor = self.layers(functional.pad(masks, lacks)[:, None])
        return found.amax(dim=(2, 3))


if torch.ops.torchvision.deform_conv2d not in flop_registry:

    @register_flop_formula(torch.ops.torchvision.deform_conv2d)
    def _deformed_work(x: list[int], w: list[int], *_: object, out_shape: list[int]) -> int:
        """Return twice the multiply-adds, as torch counts those of plain convolutions."""
        return 2 * math.prod(out_shape) * math.prod(w[1:])


class Deformable(nn.Module):
    """A 3x3 convolution that looks where it says itself, each tap as strongly as it says.

    It begins as half of a plain convolution: taps in their places, at half strength.

    Parameters
    ----------
    plain : Conv2d
        Whose size, step and weights it takes.
    """

    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation = plain.stride, plain.padding, plain.dilation
        self.weight = plain.weight
        self.bias = nn.Parameter(torch.zeros(plain.out_channels))
        taps = plain.kernel_size[0] * plain.kernel_size[1]
        self.offsets = nn.Conv2d(
            plain.in_channels,
            3 * taps,
            (plain.kernel_size[0], plain.kernel_size[1]),
            stride=(plain.stride[0], plain.stride[1]),
            padding=(int(plain.padding[0]), int(plain.padding[1])),
            dilation=(plain.dilation[0], plain.dilation[1]),
        )
        for weight in self.offsets.parameters():
            nn.init.zeros_(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, out, y, x)``."""
        # Where the rest is computed in half precision, this has no kernel for it.
        told = self.offsets(x).to(self.weight.dtype)
        taps = told.shape[1] // 3
        found: Tensor = deform_conv2d(
            x.to(self.weight.dtype),
            told[:, : 2 * taps],
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            mask=told[:, 2 * taps :].sigmoid(),
        )
        return found


def deform(trunk: Trunk, every: int) -> None:
    """Make 3x3 convolutions of C3 to C5 deformable, in place: of every so-manieth block.

    YOLACT++, section 5.2: all of them in ResNet-50, one of three in ResNet-101.
    """
    for number in (2, 3, 4):
        for block in list(trunk.get_submodule(f"layer{number}").children())[::every]:
            plain = block.get_submodule("conv2")
            if isinstance(plain, nn.Conv2d):
                block.add_module("conv2", Deformable(plain))


class Yolact(nn.Module):
    """YOLACT, or YOLACT++ where it rescores.

    Parameters
    ----------
    trunk : Trunk
    classes : int
        Without the background.
    priors : int
        Boxes a cell begins with.
    levels, features, prototypes : int
        Of the pyramid; channels of all after the trunk; masks of which each is a sum.
    is_rescored : bool
        Whether it tells how good its masks are.
    """

    def __init__(
        self,
        trunk: Trunk,
        *,
        classes: int,
        priors: int,
        levels: int = 5,
        features: int = 256,
        prototypes: int = 32,
        is_rescored: bool = False,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.pyramid = Pyramid(trunk.features[1:], features, levels)
        self.prototypes = prototypes_of(features, prototypes)
        self.head = Head(features, priors, classes + 1, prototypes)
        self.semantic = nn.Conv2d(features, classes, 1)
        self.rescoring = Rescoring(classes) if is_rescored else None
        for name, part in self.named_modules():
            if isinstance(part, nn.Conv2d) and not name.startswith("trunk."):
                nn.init.xavier_uniform_(part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, x: Tensor) -> Answer:
        """Return what is said of ``(n, c, y, x)``."""
        levels = self.pyramid(self.trunk(x)[1:])
        boxes, classes, coefficients = zip(*(self.head(one) for one in levels), strict=True)
        return Answer(
            torch.cat(boxes, dim=1),
            torch.cat(classes, dim=1),
            torch.cat(coefficients, dim=1),
            self.prototypes(levels[0]),
            self.semantic(levels[0]) if self.training else None,
            tuple((int(one.shape[2]), int(one.shape[3])) for one in levels),
        )

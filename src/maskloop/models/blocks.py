"""Parts that several families are built of: VGG's stages, and the fitting of one map to another."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Features of the 13 convolutions of VGG-16, stage by stage.

K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
ICLR 2015, Table 1, column D.
"""


def narrowed(features: int, width: float, *, multiple: int = 4) -> int:
    """Return `features` times `width`, rounded to a `multiple` of at least one such."""
    if width == 1:
        return features
    return max(multiple, round(features * width / multiple) * multiple)


def vgg_stages(width: float = 1.0) -> list[tuple[int, ...]]:
    """Return the features of VGG-16's stages, each times `width`."""
    return [tuple(narrowed(n, width) for n in stage) for stage in VGG16]


def cropped(x: Tensor, size: Sequence[int], *, offset: int | None = None) -> Tensor:
    """Return the part of ``(n, c, *spatial)`` that has `size`: the middle, or from `offset` on."""
    for axis, n in enumerate(size, start=2):
        start = (x.shape[axis] - n) // 2 if offset is None else offset
        x = x.narrow(axis, start, n)
    return x


def for_grey(weight: Tensor) -> Tensor:
    """Return a first layer's weights ``(out, 3, y, x)`` for one channel: three equal ones."""
    return weight.sum(1, keepdim=True)


def start_he(network: nn.Module) -> None:
    """Draw convolutions and linear layers from N(0, 2 / fan-in), biases 0.

    K. He et al., "Delving Deep into Rectifiers", ICCV 2015, section 2.2. Into a pixel of a
    transposed convolution go as many numbers as its kernel has taps for each pixel it makes.
    """
    for part in network.modules():
        if isinstance(part, nn.ConvTranspose2d):
            taps = math.prod(part.kernel_size) / math.prod(part.stride)
            nn.init.normal_(part.weight, std=math.sqrt(2 / (part.in_channels * taps)))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        if isinstance(part, nn.Conv2d | nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)

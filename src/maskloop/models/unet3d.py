"""A small residual 3D U-Net.

Papers: O. Ronneberger, P. Fischer, T. Brox, "U-Net", MICCAI 2015 (contracting and expanding paths
joined by concatenation); Ö. Çiçek et al., "3D U-Net", MICCAI 2016, Fig. 2 (the same in 3D); K. He
et al., "Deep Residual Learning for Image Recognition", CVPR 2016, Fig. 2 (identity shortcut round
each pair of convolutions). Instance norm and leaky ReLU in place of batch norm and ReLU, after
F. Isensee et al., "nnU-Net", Nature Methods 2021. Written for maskloop; no code of others. Licence
of the code and of the shipped phantom weights: BSD-3-Clause.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SLOPE = 0.01


class ResidualBlock(nn.Module):
    """Two 3-cube convolutions with instance norm, and a shortcut round them."""

    def __init__(self, inside: int, outside: int, *, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv3d(inside, outside, 3, stride, 1, bias=False)
        self.first_norm = nn.InstanceNorm3d(outside, affine=True)
        self.second = nn.Conv3d(outside, outside, 3, 1, 1, bias=False)
        self.second_norm = nn.InstanceNorm3d(outside, affine=True)
        self.shortcut: nn.Module = nn.Identity()
        if inside != outside or stride != 1:
            self.shortcut = nn.Conv3d(inside, outside, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``(n, outside, z, y, x)``, halved in size where the stride is 2."""
        y = F.leaky_relu(self.first_norm(self.first(x)), _SLOPE, inplace=True)
        y = self.second_norm(self.second(y))
        return F.leaky_relu(y + self.shortcut(x), _SLOPE, inplace=True)


class UNet3D(nn.Module):
    """Four levels, each twice as wide as the one above; sizes need to be multiples of 8.

    Parameters
    ----------
    channels : int
        Of the input.
    classes : int
        Of the output, background among them.
    width : int
        Features at full resolution.
    """

    def __init__(self, channels: int, classes: int, *, width: int = 8) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(
            [ResidualBlock(channels, width), *(ResidualBlock(a, b, stride=2) for a, b in pairs)]
        )
        self.up = nn.ModuleList(nn.ConvTranspose3d(b, a, 2, 2) for a, b in reversed(pairs))
        self.join = nn.ModuleList(ResidualBlock(2 * a, a) for a, _ in reversed(pairs))
        self.score = nn.Conv3d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(n, classes, z, y, x)`` of input ``(n, channels, z, y, x)``."""
        kept = []
        for block in self.down:
            x = block(x)
            kept.append(x)
        x = kept.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([kept.pop(), up(x)], dim=1))
        scores: Tensor = self.score(x)
        return scores

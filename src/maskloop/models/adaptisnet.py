"""The networks of AdaptIS: features of a picture once, and the object at a point from them.

K. Sofiiuk, O. Barinova, A. Konushin, "AdaptIS: Adaptive Instance Selection Network", ICCV 2019,
sections 3.1 to 3.3 and 4.1; written from the paper. The residual backbone's decoder is after
L.-C. Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation", ECCV 2018, with plain convolutions; the normalisation led by a point after X. Huang
and S. Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization",
ICCV 2017, equation 8. Licence of the code: BSD-3-Clause.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from maskloop.models.blocks import narrowed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from maskloop.models.pyramid import Trunk

    Norm = Callable[[int], nn.Module]

_LEVELS = (32, 64, 128, 256, 512)
_SMALL = 1e-5
_RATES = (6, 12, 18)
_LOW = 48


def _block(taken: int, given: int, make: Norm, *, bias: bool = False) -> list[nn.Module]:
    """Return a 3x3 convolution, ReLU and a norm: in this order."""
    return [nn.Conv2d(taken, given, 3, padding=1, bias=bias), nn.ReLU(inplace=True), make(given)]


def _pair(taken: int, middle: int, given: int, make: Norm) -> nn.Sequential:
    return nn.Sequential(*_block(taken, middle, make), *_block(middle, given, make))


def _doubling(taken: int, given: int) -> nn.ConvTranspose2d:
    """Return a transposed convolution that begins as bilinear interpolation to twice the size."""
    layer = nn.ConvTranspose2d(taken, given, 4, stride=2, padding=1, groups=given, bias=False)
    tent = torch.tensor([0.25, 0.75, 0.75, 0.25])
    # Several channels share an output: together they interpolate their mean.
    layer.weight.data.copy_((tent[:, None] * tent * given / taken).expand_as(layer.weight))
    return layer


class ToyUNet(nn.Module):
    """The padded U-Net of the paper's toy experiment, as fine as the picture.

    Parameters
    ----------
    channels : int
        Of the picture.
    features : int
        Of what comes out (32 in the paper).
    width : float
        Times the paper's features inside.
    make : callable
        Of a norm for so many channels.
    """

    stride = 1

    def __init__(
        self, channels: int, features: int, *, width: float = 1.0, make: Norm = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        sizes = [narrowed(n, width, multiple=8) for n in _LEVELS]
        self.start = nn.BatchNorm2d(channels)
        self.down = nn.ModuleList(
            _pair(a, b, b, make) for a, b in itertools.pairwise([channels, *sizes])
        )
        self.up, self.join = nn.ModuleList(), nn.ModuleList()
        taken = sizes[-1]
        for number, size in reversed(list(enumerate(sizes[:-1]))):
            given = sizes[number - 1] if number else size
            self.up.append(_doubling(taken, size) if taken % size == 0 else _folded(taken, size))
            self.join.append(_pair(2 * size, size, given, make))
            taken = given
        self.close = _pair(taken, features, features, make)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, features, y, x)`` of a picture whose sides are multiples of 16."""
        x = self.start(x)
        kept: list[Tensor] = []
        for number, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2, ceil_mode=True) if number else x)
            kept.append(x)
        x = kept.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([up(x), kept.pop()], dim=1))
        found: Tensor = self.close(x)
        return found


def _folded(taken: int, given: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(taken, given, 1, bias=False), _doubling(given, given))


class AtrousDecoder(nn.Module):
    """A residual network whose last stage is dilated, an atrous pyramid and a decoder at stride 4.

    Parameters
    ----------
    trunk : Trunk
        Built with ``dilated=(5,)``: its maps have strides 4, 8, 16 and 16.
    features : int
        Of what comes out.
    make : callable
        Of a norm for so many channels.
    """

    stride = 4

    def __init__(self, trunk: Trunk, features: int, *, make: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.trunk = trunk
        low, deep = trunk.features[0], trunk.features[-1]
        kernels = ((1, 1), *((3, rate) for rate in _RATES))
        self.parts = nn.ModuleList(_sampling(deep, features, k, r, make) for k, r in kernels)
        # One number a picture: nothing to take a batch's statistics of.
        self.whole = nn.Sequential(nn.Conv2d(deep, features, 1), nn.ReLU(inplace=True))
        self.together = _sampling((len(kernels) + 1) * features, features, 1, 1, make)
        self.low = _sampling(low, _LOW, 1, 1, make)
        self.decoder = _pair(features + _LOW, features, features, make)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, features, y / 4, x / 4)`` of a picture whose sides are multiples of 16."""
        low, _, _, deep = self.trunk(x)
        mean = self.whole(deep.mean((2, 3), keepdim=True)).expand(-1, -1, *deep.shape[2:])
        deep = self.together(torch.cat([*(part(deep) for part in self.parts), mean], dim=1))
        deep = functional.interpolate(deep, low.shape[2:], mode="bilinear", align_corners=False)
        found: Tensor = self.decoder(torch.cat([deep, self.low(low)], dim=1))
        return found


def _sampling(taken: int, given: int, kernel: int, rate: int, make: Norm) -> nn.Sequential:
    pad = rate if kernel == 3 else 0
    return nn.Sequential(
        nn.Conv2d(taken, given, kernel, padding=pad, dilation=rate, bias=False),
        make(given),
        nn.ReLU(inplace=True),
    )


class AdaIN(nn.Module):
    """Gives each channel the mean and the deviation that a point asks for (section 3.1)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.scale = nn.Linear(features, features)
        self.shift = nn.Linear(features, features)
        nn.init.ones_(self.scale.bias)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Return ``(p, c, y, x)`` normalised over space, then scaled and shifted by ``(p, c)``."""
        mean = x.mean((2, 3), keepdim=True)
        spread = (x.var((2, 3), keepdim=True, correction=0) + _SMALL).rsqrt()
        scale, shift = self.scale(told)[..., None, None], self.shift(told)[..., None, None]
        found: Tensor = (x - mean) * spread * scale + shift
        return found


class PointHead(nn.Module):
    """Tells which pixels are of one object with a point: the only part that runs once a point.

    Parameters
    ----------
    features : int
        Of the backbone.
    make : callable
        Of a norm for so many channels.
    outward : tuple of float
        What the answer is multiplied with, and what is added then: the paper's toy network begins
        with few pixels inside.
    """

    def __init__(
        self,
        features: int,
        *,
        make: Norm = nn.BatchNorm2d,
        outward: tuple[float, float] = (1.0, 0.0),
    ) -> None:
        super().__init__()
        n = features
        self.controller = nn.Sequential(
            *(
                part
                for _ in range(3)
                for part in (nn.Conv2d(n, n, 1), nn.ReLU(inplace=True), make(n))
            )
        )
        self.before = nn.Sequential(
            *_block(n + 3, n, make, bias=True),
            *_block(n, n, make, bias=True),
            *_block(n, n, make, bias=True),
        )
        self.adain = AdaIN(n)
        self.after = nn.Sequential(
            *_block(n, n // 2, make, bias=True), nn.Conv2d(n // 2, 1, 1, bias=True)
        )
        self.outward = outward

    def forward(self, features: Tensor, places: Tensor, told: Tensor) -> Tensor:
        """Return logits ``(p, 1, y, x)``.

        Parameters
        ----------
        features : Tensor ``(p, c, y, x)``
            Of the picture, or of a window of it.
        places : Tensor ``(p, 3, y, x)``
            From `places_from`.
        told : Tensor ``(p, c)``
            What the controller says at each point.
        """
        found = self.adain(self.before(torch.cat([features, places], dim=1)), told)
        scale, shift = self.outward
        logits: Tensor = self.after(found) * scale + shift
        return logits


def places_from(
    points: Tensor, starts: Tensor, size: Sequence[int], *, stride: int, reach: float
) -> Tensor:
    """Return how far each cell lies from a point: along y, along x, and the distance.

    Parameters
    ----------
    points : Tensor ``(p, 2)``
        y, x in pixels.
    starts : Tensor ``(p, 2)``
        Cells from which a window goes, y, x.
    size : sequence of int
        Rows and columns of cells in a window.
    stride : int
        Pixels a cell; its centre is meant.
    reach : float
        Pixels that count as 1; what is further counts as 1 (or -1) too.
    """
    offsets = []
    for axis, n in enumerate(size):
        cells = starts[:, axis, None] + torch.arange(n, device=points.device)
        offsets.append((cells + 0.5) * stride - 0.5 - points[:, axis, None])
    dy, dx = offsets[0][:, :, None], offsets[1][:, None, :]
    dy, dx = dy.expand(-1, -1, int(size[1])), dx.expand(-1, int(size[0]), -1)
    found = torch.stack([dy, dx, (dy.square() + dx.square()).sqrt()], dim=1)
    return (found / reach).clamp(-1, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What of a picture (or of several) does not depend on a point.

    Parameters
    ----------
    features : Tensor ``(n, c, y, x)``
    told : Tensor ``(n, c, y, x)``
        What the controller says at each cell.
    classes : Tensor ``(n, classes, y, x)``
        Scores, background first.
    proposals : Tensor ``(n, 1, y, x)``
        Logits of how good a point each cell is.
    """

    features: Tensor
    told: Tensor
    classes: Tensor
    proposals: Tensor


class AdaptIS(nn.Module):
    """Backbone, semantic head, proposal head and point head.

    Parameters
    ----------
    backbone : ToyUNet or AtrousDecoder
    features : int
        Of the backbone's answer.
    classes : int
        Background included.
    make : callable
        Of a norm for so many channels.
    outward : tuple of float
        Of the point head.
    """

    def __init__(
        self,
        backbone: ToyUNet | AtrousDecoder,
        features: int,
        classes: int,
        *,
        make: Norm = nn.BatchNorm2d,
        outward: tuple[float, float] = (1.0, 0.0),
    ) -> None:
        super().__init__()
        n = features
        self.backbone = backbone
        self.stride = backbone.stride
        self.semantic = nn.Sequential(
            *(part for _ in range(3) for part in _block(n, n, make, bias=True)),
            nn.Conv2d(n, classes, 1),
        )
        self.proposal = nn.Sequential(
            *(part for _ in range(2) for part in _block(n, n, make, bias=True)),
            nn.Conv2d(n, 1, 1),
        )
        self.head = PointHead(n, make=make, outward=outward)

    def forward(self, images: Tensor) -> Seen:
        """Return the part that is computed once a picture ``(n, c, y, x)``.

        The proposal head learns from the features, never they from it (section 3.3: it is trained
        with all else frozen).
        """
        features = self.backbone(images)
        return Seen(
            features,
            self.head.controller(features),
            self.semantic(features),
            self.proposal(features.detach()),
        )

    def objects_at(
        self, seen: Seen, which: Tensor, points: Tensor, *, side: int, reach: float
    ) -> tuple[Tensor, Tensor]:
        """Return logits of the pixels of the object at each point, in a window round it.

        Parameters
        ----------
        seen : Seen
        which : int64 Tensor ``(p,)``
            Picture of each point.
        points : float Tensor ``(p, 2)``
            y, x in pixels.
        side : int
            Of the window, in pixels; 0 for the whole picture, as in the paper.
        reach : float
            Pixels that count as 1 in relative coordinates.

        Returns
        -------
        logits : Tensor ``(p, h, w)``
            One a cell.
        starts : int64 Tensor ``(p, 2)``
            Cells, y and x, from which each window goes.
        """
        height, width = seen.features.shape[2:]
        wanted = -(-side // self.stride) if side else max(height, width)
        size = (min(wanted, height), min(wanted, width))
        limits = torch.tensor([height - size[0], width - size[1]], device=points.device)
        half = torch.tensor(size, device=points.device) / 2
        cells = (points + 0.5) / self.stride
        starts = (cells - half).round().long().clamp_min(0).minimum(limits)
        features = _windows(seen.features, which, starts, size)
        places = places_from(points, starts, size, stride=self.stride, reach=reach)
        told = sampled_at(seen.told, which, cells - 0.5)
        return self.head(features, places.to(features.dtype), told)[:, 0], starts


def _windows(maps: Tensor, which: Tensor, starts: Tensor, size: tuple[int, int]) -> Tensor:
    if size == tuple(maps.shape[2:]):
        return maps[which]
    rows, columns = size
    return torch.stack(
        [
            maps[n, :, y : y + rows, x : x + columns]
            for n, (y, x) in zip(which.tolist(), starts.tolist(), strict=True)
        ]
    )


def sampled_at(maps: Tensor, which: Tensor, cells: Tensor) -> Tensor:
    """Return ``(p, c)``: maps ``(n, c, y, x)`` at fractional cells, bilinearly."""
    last = torch.tensor(maps.shape[2:], device=cells.device) - 1
    at = cells.clamp_min(0).minimum(last)
    low = at.floor().long()
    high = (low + 1).minimum(last)
    wy, wx = (at - low).to(maps.dtype).unbind(1)
    (y0, x0), (y1, x1) = low.unbind(1), high.unbind(1)
    above = maps[which, :, y0, x0] * (1 - wx)[:, None] + maps[which, :, y0, x1] * wx[:, None]
    below = maps[which, :, y1, x0] * (1 - wx)[:, None] + maps[which, :, y1, x1] * wx[:, None]
    found: Tensor = above * (1 - wy)[:, None] + below * wy[:, None]
    return found

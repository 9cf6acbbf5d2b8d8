"""Patch classification: what a pixel is, from the window around it.

Paper: D. Cireşan, A. Giusti, L. Gambardella, J. Schmidhuber, "Deep Neural Networks Segment Neuronal
Membranes in Electron Microscopy Images", NIPS 2012, section 2 and Table 1 (network N4). Dense
evaluation: A. Giusti et al., "Fast Image Scanning with Deep Max-Pooling Convolutional Neural
Networks", ICIP 2013, written here with dilation. No code was published with the papers; this is
written from them. Licence of the code: BSD-3-Clause.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from maskloop.core.errors import UnknownNameError
from maskloop.models.blocks import narrowed, start_he
from maskloop.models.cards import ModelCard
from maskloop.models.dense import DenseFamily

if TYPE_CHECKING:
    from maskloop.core.labels import LabelTable

_KERNELS = {"n4": (4, 5, 4, 4), "w33": (4, 4, 3)}
_LAST = {"n4": 3, "w33": 2}  # side of the last map, which the first full layer sees whole


class PatchNet(nn.Module):
    """Convolution and max-pooling in turn, then two full layers, on one window or on a picture.

    Parameters
    ----------
    channels, classes : int
    kernels : tuple of int
        Side of each convolution; a 2x2 max-pooling follows each.
    last : int
        Side of the map that is left of a window.
    maps, hidden : int
        Features of the convolutions and of the full layer (48 and 200 in the paper).
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        kernels: tuple[int, ...] = _KERNELS["n4"],
        last: int = _LAST["n4"],
        maps: int = 48,
        hidden: int = 200,
    ) -> None:
        super().__init__()
        taken = [channels, *[maps] * (len(kernels) - 1)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(n, maps, kernel) for n, kernel in zip(taken, kernels, strict=True)
        )
        # The full layers as convolutions: the same weights serve a window and a picture.
        self.full = nn.Conv2d(maps, hidden, last)
        self.score = nn.Conv2d(hidden, classes, 1)
        start_he(self)

    @property
    def window(self) -> int:
        """Side of the window a pixel is judged by: 95 for N4."""
        side = self.full.kernel_size[0]
        for convolution in reversed(self._layers()):
            side = side * 2 + convolution.kernel_size[0] - 1
        return side

    def _layers(self) -> list[nn.Conv2d]:
        return [part for part in self.convolutions if isinstance(part, nn.Conv2d)]

    def windows(self, x: Tensor) -> Tensor:
        """Return scores ``(n, classes, 1, 1)`` of windows ``(n, channels, window, window)``."""
        for convolution in self._layers():
            x = F.relu(F.max_pool2d(convolution(x), 2))
        scores: Tensor = self.score(F.relu(self.full(x)))
        return scores

    def forward(self, x: Tensor) -> Tensor:
        """Return scores of every window in ``(n, channels, y, x)``: smaller by ``window - 1``.

        Pooling keeps every position, and what follows looks at every second, fourth, ... one: the
        same sums as window by window, each computed once.
        """
        step = 1
        for convolution in self._layers():
            x = F.conv2d(x, convolution.weight, convolution.bias, dilation=step)
            x = F.relu(F.max_pool2d(x, 2, stride=1, dilation=step))
            step *= 2
        x = F.relu(F.conv2d(x, self.full.weight, self.full.bias, dilation=step))
        scores: Tensor = self.score(x)
        return scores


class PatchNetFamily(DenseFamily):
    """Networks that judge each pixel by a window.

    `card.parameters`: ``width`` (1.0: times 48 maps and 200 hidden units).
    """

    name = "patchnet"
    title = "Patch classification (Cireşan 2012)"
    ndims = (2,)
    variants = tuple(_KERNELS)

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network that sees grey windows."""
        variant = variant or "n4"
        if variant not in _KERNELS:
            raise UnknownNameError.of(f"variant of {self.name}", variant, list(_KERNELS))
        margin = (PatchNet(1, 2, kernels=_KERNELS[variant], last=_LAST[variant]).window - 1) // 2
        return ModelCard(
            name=f"{self.name}-{variant}",
            title=f"Patch classification, {2 * margin + 1}-pixel window, untrained",
            family=self.name,
            variant=variant,
            ndim=2,
            labels=labels,
            modality="grey picture",
            channels=1,
            licence="BSD-3-Clause",
            sources=("Cireşan et al., NIPS 2012",),
            parameters={
                "normalise": "zscore",
                "margin": margin,
                "patch": [2 * margin + 64] * 2,
                "tile": [2 * margin + 256] * 2,
                "overlap": 0.0,
                "batch": 1,
            },
        )

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights."""
        if card.variant not in _KERNELS:
            raise UnknownNameError.of(f"variant of {self.name}", card.variant, list(_KERNELS))
        width = float(card.parameters.get("width", 1.0))
        return PatchNet(
            card.channels,
            len(card.labels) + 1,
            kernels=_KERNELS[card.variant],
            last=_LAST[card.variant],
            maps=narrowed(48, width),
            hidden=narrowed(200, width),
        )


FAMILY = PatchNetFamily()

"""Patch classification: what a pixel is, from the window around it.

Paper: D. Cireşan, A. Giusti, L. Gambardella, J. Schmidhuber, "Deep Neural Networks Segment Neuronal
Membranes in Electron Microscopy Images", NIPS 2012, section 2 and Table 1 (network N4). Dense
evaluation: A. Giusti et al., "Fast Image Scanning with Deep Max-Pooling Convolutional Neural
Networks", ICIP 2013, written here with dilation; training on whole crops at once: J. Masci et al.,
"A Fast Learning Algorithm for Image Segmentation with Max-Pooling Convolutional Networks", ICIP
2013. No code was published with the papers; this is written from them. Not here: the paper's
optional foveation and non-uniform sampling of the window, and the average of several networks.
Licence of the code: BSD-3-Clause.
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
from maskloop.models.blocks import narrowed, start_he
from maskloop.models.cards import ModelCard
from maskloop.models.dense import DenseFamily, chances_of, middle_of
from maskloop.ops.calibration import Tally, calibrated, evened

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from maskloop.core.job import Job
    from maskloop.core.labels import LabelTable
    from maskloop.ops.device import Device

_KERNELS = {"n4": (4, 5, 4, 4), "w33": (4, 4, 3)}
_LAST = {"n4": 3, "w33": 2}  # side of the last map, which the first full layer sees whole
_MEDIAN = 2  # pixels: radius of the paper's last filter
_LEAST = 64  # pixels of each class in a step; a class that shows fewer is drawn from repeatedly
_ENOUGH = 1 << 22  # pixels to calibrate with
# Plain gradient descent is the paper's; the rate is ours.
_PAPER = {
    "optimiser": "sgd",
    "rate": 1e-2,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "schedule": "constant",
}


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

    def sliding(self, x: Tensor, *, batch: int = 256) -> Tensor:
        """Return what `forward` returns as the paper does it: window by window, `batch` at once.

        Hundreds of times slower than `forward`, and what that is held against.
        """
        side = self.window
        views = x.unfold(2, side, 1).unfold(3, side, 1).movedim(1, 3)  # n, y, x, channels, window
        where = torch.cartesian_prod(*(torch.arange(n) for n in views.shape[:3]))
        parts = torch.split(where, batch)
        found = torch.cat([self.windows(views[tuple(part.T)])[:, :, 0, 0] for part in parts])
        return found.reshape(*views.shape[:3], -1).movedim(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores of every window in ``(n, channels, y, x)``: smaller by ``window - 1``.

        Pooling keeps every position, and what follows looks at every second, fourth, ... one: the
        same sums as window by window, each computed once.

        Raises
        ------
        InputError
            If the picture is smaller than the window.
        """
        if min(x.shape[2:]) < self.window:
            msg = (
                f"expected a picture of at least {self.window}x{self.window} pixels, the window, "
                f"got {x.shape[2]}x{x.shape[3]}; choose a larger patch or tile"
            )
            raise InputError(msg)
        step = 1
        for convolution in self._layers():
            x = F.conv2d(x, convolution.weight, convolution.bias, dilation=step)
            x = F.relu(F.max_pool2d(x, 2, stride=1, dilation=step))
            step *= 2
        x = F.relu(F.conv2d(x, self.full.weight, self.full.bias, dilation=step))
        scores: Tensor = self.score(x)
        return scores


def balanced(ids: Tensor) -> Tensor:
    """Return places in the flattened `ids` that show every class equally often, by torch's chance.

    All pixels of the rarest class, and as many of each other one; none where only one class was
    reviewed, as that would tip the balance.
    """
    flat = ids.flatten()
    kinds = [int(kind) for kind in torch.unique(flat) if kind != IGNORE]
    if len(kinds) < 2:
        return flat.new_zeros(0)
    places = [(flat == kind).nonzero().squeeze(1) for kind in kinds]
    count = max(_LEAST, min(len(place) for place in places))
    chosen = []
    for place in places:
        # Drawn on the processor: the same crops are the same step on every device.
        is_rare = len(place) < count
        draw = torch.randint(len(place), (count,)) if is_rare else torch.randperm(len(place))
        chosen.append(place[draw[:count].to(place.device)])
    return torch.cat(chosen)


def _turned(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return images and ids, each crop turned by some number of right angles."""
    is_square = batch.ids.shape[1] == batch.ids.shape[2]
    turns = torch.randint(4, (len(batch.ids),)) * (1 if is_square else 2)
    pairs = zip(batch.images, batch.ids, turns.tolist(), strict=True)
    turned = [(torch.rot90(a, k, (1, 2)), torch.rot90(b, k, (0, 1))) for a, b, k in pairs]
    images, ids = zip(*turned, strict=True)
    return torch.stack(images), torch.stack(ids)


def _median(chances: npt.NDArray[np.float32], radius: int) -> npt.NDArray[np.float32]:
    """Return each class's median over a disc, again summing to 1."""
    from scipy import ndimage

    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disc = y * y + x * x <= radius * radius
    if len(chances) == 2:
        # The background's median is what the other's leaves of 1.
        one = ndimage.median_filter(chances[1], footprint=disc)
        return np.stack([1 - one, one])
    found = np.stack([ndimage.median_filter(one, footprint=disc) for one in chances])
    return evened(found, chances)


class PatchNetFamily(DenseFamily):
    """Networks that judge each pixel by a window.

    `card.parameters`: ``width`` (1.0: times 48 maps and 200 hidden units), ``turns`` (True: crops
    are turned by right angles in training), ``median`` (2: radius of the filter over the
    probabilities, in pixels; 0 for none), ``calibration`` (four coefficients a class; set by
    `calibrate` after the last step).
    """

    name = "patchnet"
    title = "Patch classification (Cireşan 2012)"
    ndims = (2,)
    variants = tuple(_KERNELS)

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network that sees grey windows."""
        variant = self.known(variant)
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
                "tile": [2 * margin + 512] * 2,
                "overlap": 0.0,
                "batch": 1,
                "median": _MEDIAN,
                "augmentation": ["mirror_y", "mirror_x"],
                "heads": ["score"],
                "recipes": {"paper": dict(_PAPER)},
            },
        )

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights."""
        variant = self.known(card.variant)
        width = float(card.parameters.get("width", 1.0))
        return PatchNet(
            card.channels,
            len(card.labels) + 1,
            kernels=_KERNELS[variant],
            last=_LAST[variant],
            maps=narrowed(48, width),
            hidden=narrowed(200, width),
        )

    def tile(self, card: ModelCard, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the window for an image of `shape`: no larger than its windows need."""
        rim = 2 * int(card.parameters.get("margin", 0))
        return tuple(min(t, n + rim) for t, n in zip(super().tile(card, shape), shape, strict=True))

    def train_step(self, network: nn.Module, batch: Batch, *, card: ModelCard) -> Tensor:
        """Return the cross-entropy over equally many pixels of each class, chosen by chance."""
        images, ids = batch.images, batch.ids
        if card.parameters.get("turns", True):
            images, ids = _turned(batch)
        logits = self.logits(network, images)
        ids = middle_of(ids, logits)
        places = balanced(ids)
        if not len(places):
            return logits.sum() * 0
        scores = logits.movedim(1, -1).flatten(0, -2)[places]
        return F.cross_entropy(scores.float(), ids.flatten()[places].long())

    def calibrate(
        self,
        network: nn.Module,
        volumes: Iterable[Volume],
        *,
        card: ModelCard,
        device: Device,
        job: Job,
    ) -> ModelCard:
        """Return the card with a cubic a class: from the balanced network to true frequencies.

        Of the training pictures, evenly as many as are needed.
        """
        tally = Tally(len(card.labels) + 1)
        for volume in job.track(_some(list(volumes)), "calibrate"):
            data, ids, seen = _without_rim(volume, int(card.parameters.get("margin", 0)))
            scores = self.scores(network, data, card=card, device=device, job=job)
            tally.add(chances_of(scores)[:, seen], ids[seen])
        return replace(card, parameters={**card.parameters, "calibration": tally.cubics()})

    def settles(self, card: ModelCard) -> bool:
        """Whether the highest score is not yet the answer: a calibration or a filter follows."""
        told = card.parameters
        return bool(told.get("calibration") or told.get("median")) or super().settles(card)

    def settle(
        self,
        chances: npt.NDArray[np.float32],
        data: npt.NDArray[np.float32],
        *,
        card: ModelCard,
    ) -> npt.NDArray[np.float32]:
        """Return calibrated, then median-filtered probabilities; see `DenseFamily.settle`."""
        cubics = card.parameters.get("calibration", ())
        if len(cubics) == len(chances):  # a card that was given other labels has none yet
            chances = calibrated(chances, cubics)
        radius = int(card.parameters.get("median", 0))
        if radius:
            chances = _median(chances, radius)
        return super().settle(chances, data, card=card)


def _some(volumes: Sequence[Volume]) -> list[Volume]:
    """Return evenly spaced volumes of together about as many pixels as calibrating needs."""
    pixels = sum(volume.ids.size for volume in volumes)
    return list(volumes[:: max(1, -(-pixels // _ENOUGH))])


def _without_rim(
    volume: Volume, margin: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.integer], npt.NDArray[np.bool_]]:
    """Return data, ids and reviewed pixels of the picture as it was before `prepare` mirrored."""
    inner = tuple(slice(margin, n - margin) for n in volume.ids.shape)
    ids = np.asarray(volume.ids[inner])
    seen = np.ones(ids.shape, bool) if volume.reviewed is None else volume.reviewed[inner]
    return np.array(volume.data[(slice(None), *inner)]), ids, np.asarray(seen)


FAMILY = PatchNetFamily()

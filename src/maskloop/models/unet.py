"""U-Net: the 2015 network, unpadded, with its weighted loss; and its residual 3D kin.

Paper: O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional Networks for Biomedical Image
Segmentation", MICCAI 2015, Fig. 1 and sections 2 and 3. Written from the paper; the authors'
release is not used. The 3D network is in `maskloop.models.unet3d`. Licence of the code and of the
shipped weights: BSD-3-Clause.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskloop.core.errors import InputError
from maskloop.core.labels import LabelTable
from maskloop.models.base import IGNORE, class_indices
from maskloop.models.blocks import cropped, narrowed, start_he
from maskloop.models.cards import ModelCard
from maskloop.models.dense import DenseFamily
from maskloop.models.unet3d import UNet3D
from maskloop.ops import borders, components
from maskloop.ops.losses import weighted_ce

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.core.mask import Mask
    from maskloop.models.base import Batch, Volume
    from maskloop.ops.device import Device, Rung

MARGIN = 92  # pixels that the network's output is smaller by, at each side
_FEATURES = (64, 128, 256, 512, 1024)
_MOST = 10.0  # times the mean: a rarer class would make single pixels decide a step


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
    full resolution, 8). Of 2015 alone: ``border`` (``{"w0": 10, "sigma": 5, "cells": "labels"}``:
    the extra weight of the pixels between two cells, see `maskloop.ops.borders.weights`; cells are
    the objects of the mask, or the pieces of each of its classes; with ``"background"`` the pieces
    of what carries no label, as in a mask of membranes), ``class_weights`` (background first;
    found by `survey`).
    """

    name = "unet"
    title = "U-Net"
    ndims = (2, 3)
    variants = ("2015", "residual3d")

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        """Return the card of an untrained network: grey pictures, or CT in Hounsfield units."""
        variant = self.known(variant)
        return (_card_2015 if variant == "2015" else _card_3d)(self.name, variant, labels)

    def build(self, card: ModelCard) -> nn.Module:
        """Return the network with random weights."""
        classes = len(card.labels) + 1
        if self.known(card.variant) == "residual3d":
            return UNet3D(card.channels, classes, width=int(card.parameters.get("width", 8)))
        return UNet2015(card.channels, classes, width=float(card.parameters.get("width", 1.0)))

    def prepare(
        self,
        image: Image,
        mask: Mask,
        *,
        card: ModelCard,
        reviewed: npt.NDArray[np.bool_] | None,
        job: Job,
    ) -> list[Volume]:
        """Return the case on the network's grid; objects stay apart, for `train_step` to part."""
        rows = mask.checked().labels
        if card.variant != "2015" or rows.kind != "objects":
            return super().prepare(image, mask, card=card, reviewed=reviewed, job=job)
        classes, _ = class_indices(mask, card)
        drawn = [i for i in mask.ids() if classes[i] or rows[i].ignore]
        # Each object is a class of its own on the way to the grid, and an object of one after it.
        each = LabelTable(replace(rows[i], name=f"object {i}", category=None) for i in drawn)
        volumes = super().prepare(
            image,
            replace(mask, labels=each),
            card=replace(card, labels=each),
            reviewed=reviewed,
            job=job,
        )
        found = []
        for volume in volumes:
            here = np.unique(volume.ids)
            table = {int(k): int(classes[drawn[k - 1]]) for k in here[here > 0]}
            found.append(replace(volume, categories=table))
        return found

    def survey(self, card: ModelCard, volumes: Iterable[Volume]) -> ModelCard:
        """Return the card with weights that make every class count the same, 10 at the most.

        They balance the pixels of all training cases ("w_c", section 3 of the paper).
        """
        if card.variant != "2015":
            return card
        counts = np.zeros(len(card.labels) + 1)
        for volume in volumes:
            ids = volume.ids if volume.reviewed is None else volume.ids[volume.reviewed]
            classes = _lookup(volume.categories, int(ids.max(initial=0)))[ids]
            counts += np.bincount(classes.ravel(), minlength=len(counts))
        present = counts > 0
        weights = np.ones(len(counts))
        weights[present] = counts.sum() / (present.sum() * counts[present])
        told = [round(float(w), 4) for w in weights.clip(max=_MOST)]
        return replace(card, parameters={**card.parameters, "class_weights": told})

    def train_step(self, network: nn.Module, batch: Batch, *, card: ModelCard) -> Tensor:
        """Return the cross-entropy over reviewed pixels; 2015: weighted by class and border."""
        if card.variant != "2015":
            return super().train_step(network, batch, card=card)
        logits = self.logits(network, batch.images)
        size = logits.shape[2:]
        reach = borders.reach(_border(card)["sigma"])
        seen = tuple(min(n + 2 * reach, m) for n, m in zip(size, batch.ids.shape[1:], strict=True))
        cut = cropped(batch.ids[:, None], seen)[:, 0].cpu().numpy()
        categories = batch.categories or [{} for _ in cut]
        pairs = [target(ids, known, card) for ids, known in zip(cut, categories, strict=True)]
        classes, weights = (
            cropped(torch.from_numpy(np.stack(part))[:, None], size)[:, 0].to(logits.device)
            for part in zip(*pairs, strict=True)
        )
        return weighted_ce(logits, classes, weights, ignore=IGNORE)

    def tile(self, card: ModelCard, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the window for an image of `shape`; 2015: no larger than the image needs."""
        told = super().tile(card, shape)
        if card.variant != "2015":
            return told
        needed = (n + 2 * MARGIN + (60 - n - 2 * MARGIN) % 16 for n in shape)
        return _allowed(tuple(min(most, n) for most, n in zip(told, needed, strict=True)))

    def rungs(self, card: ModelCard, device: Device, tile: tuple[int, ...]) -> list[Rung]:
        """Return what to try when memory runs out; unpadded tiles stay 16 n + 60."""
        rungs = super().rungs(card, device, tile)
        if card.variant != "2015":
            return rungs
        return [replace(rung, tile=_allowed(rung.tile or tile)) for rung in rungs]


def target(
    ids: npt.NDArray[Any],  # Any: whichever integer type holds the ids
    categories: Mapping[int, int],
    card: ModelCard,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return what the pixels of a crop should be, and how much each of them weighs.

    Parameters
    ----------
    ids : array of int ``(*spatial)``
        As `Batch.ids`: objects where `categories` tells their classes, else class indices.
    categories : mapping of int to int
        Object id -> class index.
    card : ModelCard
        Its ``border`` and ``class_weights``.

    Returns
    -------
    classes : int64 array
        Touching objects of one class are parted by background.
    weights : float32 array
        ``w_c + w0 exp(-(d1 + d2)^2 / (2 sigma^2))``, the second part between cells only.
    """
    ids = ids.astype(np.int64)
    inside = np.maximum(ids, 0)
    lookup = _lookup(categories, int(inside.max(initial=0)))
    classes = lookup[inside]
    rule = _border(card)
    if rule["cells"] == "background":
        cells = components.label(ids == 0, connectivity=components.neighbours("faces", ids.ndim))[0]
    elif categories:
        cells = np.where(borders.gaps(inside, lookup), 0, inside)
        classes = np.where(cells > 0, classes, 0)
    else:
        cells = _pieces(classes)
    told = card.parameters.get("class_weights") or [1.0] * (len(card.labels) + 1)
    weights = np.asarray(told, dtype=np.float32)[classes]
    if rule["w0"]:
        weights += borders.weights(cells, w0=rule["w0"], sigma=rule["sigma"])
    return np.where(ids < 0, IGNORE, classes), weights


def _pieces(classes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return ids of the connected pieces of every class above 0."""
    cells = np.zeros(classes.shape, dtype=np.int64)
    for number in np.unique(classes[classes > 0]):
        pieces, _ = components.label(classes == number)
        cells += np.where(pieces > 0, pieces + cells.max(), 0)
    return cells


def _lookup(categories: Mapping[int, int], highest: int) -> npt.NDArray[np.int64]:
    """Return the class of each id up to `highest`: its own where nothing is told of objects."""
    if not categories:
        return np.arange(highest + 1)
    found = np.zeros(max(highest, *categories) + 1, dtype=np.int64)
    found[list(categories)] = list(categories.values())
    return found


def _border(card: ModelCard) -> dict[str, Any]:  # Any: numbers and a word
    """Return the rule of the weights between cells.

    Raises
    ------
    InputError
        If its cells are neither of the two kinds.
    """
    rule = {"w0": 10.0, "sigma": 5.0, "cells": "labels", **card.parameters.get("border", {})}
    if rule["cells"] not in ("labels", "background"):
        msg = (
            f"expected the cells of border to be 'labels' or 'background' on the card of "
            f"{card.name!r}, got {rule['cells']!r}; correct its card"
        )
        raise InputError(msg)
    return rule


def _allowed(tile: tuple[int, ...]) -> tuple[int, ...]:
    """Return the largest sides 16 n + 60 not above `tile`; at least 204, for 16 pixels to show."""
    return tuple(max(204, (n - 60) // 16 * 16 + 60) for n in tile)


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
            "grain": 16,  # four poolings: tiles then agree with the whole picture
            "patch": [316, 316],
            "tile": [572, 572],
            "overlap": 0.0,
            "batch": 1,
            "heads": ["score"],
            "border": {"w0": 10.0, "sigma": 5.0, "cells": "labels"},
            "augmentation": ["mirror_y", "mirror_x", "rotate", "elastic_grid", "gamma"],
            # The paper tells no rate, no length and no weight decay: the rate here is ours.
            "recipes": {
                "paper": {
                    "optimiser": "sgd",
                    "momentum": 0.99,
                    "batch": 1,
                    "schedule": "constant",
                    "weight_decay": 0.0,
                    "rate": 1e-3,
                    "parameters": {"patch": [572, 572]},
                }
            },
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

"""InstanceFCN: masks put together in windows from maps of an object's parts, without classes.

J. Dai, K. He, Y. Li, S. Ren, J. Sun, "Instance-sensitive Fully Convolutional Networks", ECCV 2016,
sections 3 and 4. There is no public code; which windows stand for an object, and the scales, are
fitted to the data here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.ops import box_iou, nms, roi_align

from maskloop.models.blocks import start_he, vgg_stages
from maskloop.models.instancefcnnet import start_small
from maskloop.models.instances import Targets, is_unseen

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from maskloop.models.pyramid import Trunk

STEP = 8
"""Pixels a cell of the maps."""
CELLS = 21
"""Cells along a side of a window."""
PARTS = 5
"""Parts of an object along each axis, each with a map of its own."""
SCALES = tuple(1.5**n for n in range(-4, 2))
"""Section 4: the picture of 600 pixels, times these."""
_SAMPLES = 256  # windows a picture, at most half of them on objects
_GOOD, _FAIR, _POOR = 0.7, 0.4, 0.3
_LARGEST = 4.0  # times which a picture is enlarged at most


class VGGTrunk(nn.Module):
    """VGG-16 at a step of 8 pixels: its fourth pool keeps the size, its fifth stage looks wider.

    Tensors are named as torchvision names them.
    """

    def __init__(self, channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        taken = channels
        for number, stage in enumerate(vgg_stages(width)):
            reach = 2 if number == 4 else 1
            for given in stage:
                layers.append(nn.Conv2d(taken, given, 3, padding=reach, dilation=reach))
                layers.append(nn.ReLU(inplace=True))
                taken = given
            if number < 3:
                layers.append(nn.MaxPool2d(2))
            elif number == 3:
                # A side of 3 about the cell: a side of 2 would move the map by half of one.
                layers.append(nn.MaxPool2d(3, stride=1, padding=1))
        self.features = nn.Sequential(*layers)
        self.given = (taken,)
        start_he(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the last map of ``(n, c, y, x)``, as a list of one."""
        return [self.features(x)]


class InstanceFCN(nn.Module):
    """A trunk and two branches: maps of an object's parts, and whether a window holds an object.

    Parameters
    ----------
    trunk : VGGTrunk or Trunk
        Of which the last map, at a step of 8, is used.
    features : int
        Of the hidden layer of each branch (512 in the paper).
    cells : int
        Along a side of a window.
    """

    def __init__(self, trunk: VGGTrunk | Trunk, *, features: int = 512, cells: int = CELLS) -> None:
        super().__init__()
        self.trunk = trunk
        self.cells = cells
        taken = trunk.given[-1] if isinstance(trunk, VGGTrunk) else trunk.features[-1]
        self.part_hidden = nn.Conv2d(taken, features, 1)
        self.parts = nn.Conv2d(features, PARTS * PARTS, 3, padding=1)
        self.object_hidden = nn.Conv2d(taken, features, 3, padding=1)
        self.objectness = nn.Conv2d(features, 1, 1)
        start_small(self.part_hidden, self.parts, self.object_hidden, self.objectness)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores of the parts ``(n, 25, h, w)`` and of the windows ``(n, 1, h, w)``."""
        last = self.trunk(x)[-1]
        parts = self.parts(functional.relu(self.part_hidden(last)))
        return parts, self.objectness(functional.relu(self.object_hidden(last)))


def assembled(maps: Tensor, windows: Tensor, cells: int = CELLS) -> Tensor:
    """Return the mask of each window, every cell copied from the map of its part.

    Parameters
    ----------
    maps : Tensor ``(n, parts * parts, h, w)``
    windows : int64 Tensor ``(k, 3)``
        Number of the picture, row and column of the middle cell.
    cells : int
        Along a side; those beyond the map repeat its border.

    Returns
    -------
    Tensor ``(k, cells, cells)``
    """
    parts = round(maps.shape[1] ** 0.5)
    along = torch.arange(cells, device=maps.device)
    part = along * parts // cells
    rows = (windows[:, 1, None] - cells // 2 + along).clamp(0, maps.shape[2] - 1)
    columns = (windows[:, 2, None] - cells // 2 + along).clamp(0, maps.shape[3] - 1)
    which = part[:, None] * parts + part
    return maps[windows[:, 0, None, None], which, rows[:, :, None], columns[:, None, :]]


def boxes_of(windows: Tensor, cells: int = CELLS) -> Tensor:
    """Return x0, y0, x1, y1 ``(k, 4)`` of windows ``(k, 3)`` in pixels of the network."""
    corner = (windows[:, [2, 1]] - cells // 2).float() * STEP
    return torch.cat([corner, corner + cells * STEP], dim=1)


def window_loss(network: InstanceFCN, images: Tensor, targets: Sequence[Targets]) -> Tensor:
    """Return the logistic losses of 256 windows a picture, and of the cells of those on objects."""
    maps, objectness = network(images)
    maps, objectness = maps.float(), objectness.float()
    total = objectness.sum() * 0 + maps.sum() * 0
    grid = torch.cartesian_prod(
        torch.arange(maps.shape[2], device=maps.device),
        torch.arange(maps.shape[3], device=maps.device),
    )
    for number, told in enumerate(targets):
        windows = functional.pad(grid, (1, 0), value=number)
        boxes = boxes_of(windows, network.cells)
        labels, nearest = labelled(boxes, told)
        ((things,), (others,)) = BalancedPositiveNegativeSampler(_SAMPLES, 0.5)([labels])
        chosen = torch.nonzero(things | others)[:, 0]
        if not len(chosen):
            continue
        said = objectness[number, 0].flatten()[chosen]
        total = total + functional.binary_cross_entropy_with_logits(said, labels[chosen])
        mine = torch.nonzero(things)[:, 0]
        if len(mine):
            masks = assembled(maps, windows[mine], network.cells)
            total = total + _mask_loss(masks, boxes[mine], nearest[mine], told)
    mean: Tensor = total / max(len(targets), 1)
    return mean


def labelled(boxes: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """Return 1, 0 or -1 (left out) for windows ``(k, 4)``, and the object nearest to each.

    A window stands for an object from an IoU of 0.7 on; so does the object's best one from 0.4
    on: at most scales an object has no window of its size, and that is no fault of the window.
    """
    labels = torch.zeros(len(boxes), device=boxes.device)
    nearest = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    if len(targets):
        overlaps = box_iou(targets.boxes, boxes)
        best, nearest = overlaps.max(0)
        labels[best >= _POOR] = -1
        top = overlaps.max(1, keepdim=True).values
        is_top = ((overlaps == top) & (top >= _FAIR)).any(0)
        labels[(best >= _GOOD) | is_top] = 1
    labels[(labels == 0) & is_unseen(boxes, targets.unseen)] = -1
    return labels, nearest


def _mask_loss(masks: Tensor, boxes: Tensor, which: Tensor, targets: Targets) -> Tensor:
    """Return the mean logistic loss of the cells that lie in the picture and were reviewed."""
    cells = masks.shape[-1]

    def cut(maps: Tensor, number: Tensor) -> Tensor:
        rois = torch.cat([number[:, None].to(boxes.dtype), boxes], dim=1)
        found: Tensor = roi_align(maps[:, None].float(), rois, cells, aligned=True)
        return found[:, 0]

    truth = (cut(targets.masks, which) >= 0.5).float()
    seen = cut(~targets.unseen[None], torch.zeros_like(which)) > 0.5
    off = functional.binary_cross_entropy_with_logits(masks, truth, reduction="none") * seen
    return off.sum() / seen.sum().clamp(min=1)


def usable(scales: Sequence[float], size: Sequence[int]) -> list[float]:
    """Return those factors that leave two cells of a picture, or the largest if none does."""
    found = [factor for factor in scales if min(size) * factor >= 2 * STEP]
    return found or [max(scales)]


def rescaled(
    images: Tensor, targets: Sequence[Targets], factor: float
) -> tuple[Tensor, list[Targets]]:
    """Return pictures and objects times `factor`; of larger ones a part as large as before.

    The part is drawn so that the middle of an object lies in it, where there is one.
    """
    if factor == 1:
        return images, list(targets)
    size = images.shape[-2:]
    large = functional.interpolate(
        images, scale_factor=factor, mode="bilinear", recompute_scale_factor=True
    )
    found, cuts = [], []
    for one in targets:
        corner = _corner(one.boxes * factor, large.shape[-2:], size)
        rows, columns = (slice(a, a + n) for a, n in zip(corner, size, strict=True))
        cuts.append((rows, columns))
        found.append(_cut_targets(one, large.shape[-2:], rows, columns))
    cut = [large[i, :, rows, columns] for i, (rows, columns) in enumerate(cuts)]
    return torch.stack(cut), found


def _corner(boxes: Tensor, whole: Sequence[int], part: Sequence[int]) -> tuple[int, ...]:
    """Return first row and column of a part of a picture, near one object of it."""
    centre = torch.rand(2) * torch.tensor([float(n) for n in whole])
    if len(boxes):
        one = boxes[int(torch.randint(len(boxes), ()))].cpu()
        centre = torch.stack([one[1] + one[3], one[0] + one[2]]) / 2
    shift = torch.rand(2) - 0.5
    return tuple(
        min(max(0, int(c + s * n * 0.5) - n // 2), max(0, all_ - n))
        for c, s, n, all_ in zip(centre.tolist(), shift.tolist(), part, whole, strict=True)
    )


def _cut_targets(one: Targets, size: Sequence[int], rows: slice, columns: slice) -> Targets:
    def cut(maps: Tensor) -> Tensor:
        large = functional.interpolate(maps[:, None].float(), size=tuple(size), mode="nearest")
        return large[:, 0, rows, columns] > 0.5

    unseen = cut(one.unseen[None])[0]
    masks = cut(one.masks) if len(one) else one.masks.new_zeros((0, *unseen.shape))
    kept = torch.nonzero(masks.flatten(1).any(1))[:, 0]
    masks = masks[kept]
    sides = []
    for axis in (1, 2):
        hit = masks.any(axis).float()
        sides += [hit.argmax(1), hit.shape[1] - hit.flip(1).argmax(1)]
    x0, x1, y0, y1 = sides
    return Targets(torch.stack([x0, y0, x1, y1], 1).float(), one.labels[kept], masks, unseen)


def proposed(
    network: InstanceFCN,
    picture: Tensor,
    scales: Sequence[float],
    *,
    least_score: float = 0.5,
    most: int = 300,
    overlap: float = 0.8,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes ``(k, 4)``, masks ``(k, cells, cells)`` and scores of one picture's objects.

    Parameters
    ----------
    network : InstanceFCN
    picture : Tensor ``(1, c, y, x)``
    scales : sequence of float
        Factors at which it is looked at, each with windows of the same size.
    least_score : float
    most : int
        Proposals in all.
    overlap : float
        IoU of the masks' boxes with a better one above which a proposal is dropped.
    """
    boxes, masks, scores = [], [], []
    for factor in usable(scales, picture.shape[-2:]):
        seen = functional.interpolate(picture, scale_factor=factor, mode="bilinear")
        maps, objectness = network(seen)
        chance = objectness[0, 0].float().sigmoid()
        windows = torch.nonzero(chance >= least_score)
        score = chance[windows[:, 0], windows[:, 1]]
        best = score.argsort(descending=True)[: 4 * most]
        windows = functional.pad(windows[best], (1, 0))
        boxes.append(boxes_of(windows, network.cells) / factor)
        masks.append(assembled(maps.float(), windows, network.cells).sigmoid())
        scores.append(score[best])
    box, mask, score = torch.cat(boxes), torch.cat(masks), torch.cat(scores)
    # Windows of one size overlap alike: what is in them tells objects apart.
    able = (mask > 0.5).flatten(1).any(1)
    box, mask, score = box[able], mask[able], score[able]
    kept = nms(_tight(mask > 0.5, box), score, overlap)[:most]
    return box[kept], mask[kept], score[kept]


def _tight(masks: Tensor, boxes: Tensor) -> Tensor:
    """Return the boxes of masks ``(k, m, m)`` told on a grid in `boxes`."""
    cells = masks.shape[-1]
    sides = []
    for axis in (1, 2):
        hit = masks.any(axis).float()
        sides += [hit.argmax(1), cells - hit.flip(1).argmax(1)]
    x0, x1, y0, y1 = sides
    share = torch.stack([x0, y0, x1, y1], 1) / cells
    return boxes[:, [0, 1, 0, 1]] + share * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)


def windows_for(
    sides: npt.NDArray[np.float64], cells: int | None = None
) -> dict[str, Any]:  # Any: JSON
    """Return ``cells`` and ``scales`` for objects: so that windows are as large as they are.

    Parameters
    ----------
    sides : float array ``(n,)``
        The longer side of the box of each object, in pixels of the network.
    cells : int, optional
        Along a side of a window; at most the paper's 21, fewer where the small objects would have
        to be enlarged more than fourfold to fill it.
    """
    small, large = np.quantile(sides, [0.1, 0.9])
    if cells is None:
        cells = int(np.clip(int(_LARGEST * small / STEP) | 1, PARTS, CELLS))
    side = cells * STEP
    low, high = np.log(side / np.array([large, small])) / np.log(1.5)
    steps = np.linspace(low, high, 1 + max(0, int(np.ceil(high - low - 0.25))))
    return {"cells": cells, "scales": [round(float(1.5**n), 3) for n in steps]}

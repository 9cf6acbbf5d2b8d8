"""FCIS: maps of inside and outside of an object's parts, and how a box is read off them.

Y. Li, H. Qi, J. Dai, X. Ji, Y. Wei, "Fully Convolutional Instance-aware Semantic Segmentation",
CVPR 2017, section 3 and Fig. 3; group-wise pooling after J. Dai et al., "R-FCN", NIPS 2016,
section 2. Sizes as in the authors' release (MIT), written anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.image_list import ImageList

from maskloop.models.anchors import ShapedAnchors
from maskloop.models.rcnn import CarefulProposals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.models.anchors import Shapes
    from maskloop.models.instances import Targets
    from maskloop.models.pyramid import Trunk

GROUPS = 7
"""Parts of an object along each axis, each with maps of its own."""
BINS = 21
"""Cells of a mask along each axis."""
_MOST_SAMPLES = 4
_LEARNT = 300  # proposals a picture, of which training chooses the hardest


def position_sensitive(
    maps: Tensor, rois: Tensor, *, step: float, groups: int = GROUPS, bins: int = BINS
) -> Tensor:
    """Return the values of maps in boxes, each part of a box from the maps of that part.

    A bin averages bilinear samples, as many along an axis as it spans cells of the map (at most
    4): 21 bins share 7 groups, three by three.

    Parameters
    ----------
    maps : Tensor ``(n, c * groups * groups, h, w)``
        The channels of one thing lie together: its parts, row by row.
    rois : Tensor ``(k, 5)``
        Number of the picture, then x0, y0, x1, y1 in pixels.
    step : float
        Pixels a cell of the map.
    groups, bins : int

    Returns
    -------
    Tensor ``(k, bins, bins, c)``
    """
    number, channels, height, width = maps.shape
    parts = groups * groups
    values = maps.float().reshape(number, channels // parts, parts, height, width)
    # One row a cell of one part's maps: a bin is then a weighted sum of few rows.
    table = values.permute(0, 2, 3, 4, 1).reshape(-1, channels // parts)
    if not len(rois):
        return table.new_empty((0, bins, bins, channels // parts))
    part = torch.arange(bins, device=maps.device) * groups // bins
    of_part = part[:, None] * groups + part[None, :]
    counts = _samples(rois, step, bins)
    pieces, order = [], []
    for count in sorted({tuple(one) for one in counts.tolist()}):
        mine = torch.nonzero((counts == counts.new_tensor(list(count))).all(1))[:, 0]
        boxes = rois[mine].float()
        rows, by_row = _cells(boxes[:, 2], boxes[:, 4], step, height, bins, count[0])
        columns, by_column = _cells(boxes[:, 1], boxes[:, 3], step, width, bins, count[1])
        first = boxes[:, 0].long()[:, None, None] * parts + of_part
        places = (first[..., None, None] * height + rows[:, :, None, :, None]) * width
        places = places + columns[:, None, :, None, :]
        weights = (by_row[:, :, None, :, None] * by_column[:, None, :, None, :]).expand_as(places)
        many = places.shape[-2] * places.shape[-1]
        summed = functional.embedding_bag(
            places.reshape(-1, many),
            table,
            mode="sum",
            per_sample_weights=weights.reshape(-1, many),
        )
        pieces.append(summed.reshape(len(mine), bins, bins, -1))
        order.append(mine)
    back = torch.cat(order).argsort()
    return torch.cat(pieces)[back]


def _samples(rois: Tensor, step: float, bins: int) -> Tensor:
    """Return how many samples along y and x a bin of each box takes ``(k, 2)``."""
    sides = torch.stack([rois[:, 4] - rois[:, 2], rois[:, 3] - rois[:, 1]], dim=1)
    return (sides / (step * bins)).ceil().clamp(1, _MOST_SAMPLES).long()


def _cells(
    start: Tensor, stop: Tensor, step: float, size: int, bins: int, count: int
) -> tuple[Tensor, Tensor]:
    """Return the cells ``(k, bins, 2 * count)`` that samples lie between, and their shares."""
    share = (torch.arange(bins * count, device=start.device) + 0.5) / (bins * count)
    at = (start[:, None] + (stop - start)[:, None] * share) / step - 0.5
    at = at.clamp(0, size - 1)
    below = at.floor()
    above = (below + 1).clamp(max=size - 1)
    weight = at - below
    cells = torch.stack([below, above], dim=-1).long()
    weights = torch.stack([1 - weight, weight], dim=-1) / count
    return cells.reshape(-1, bins, 2 * count), weights.reshape(-1, bins, 2 * count)


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """What the maps say of boxes.

    Parameters
    ----------
    classes : Tensor ``(k, 1 + labels)``
        Scores before the softmax, the background first.
    masks : Tensor ``(k, bins, bins, 1 + labels)``
        Inside minus outside: the sigmoid of it is the softmax over the pair.
    deltas : Tensor ``(k, 4)``
        How to move the box, in units of `maskloop.models.instancefcntargets.DEVIATIONS`.
    """

    classes: Tensor
    masks: Tensor
    deltas: Tensor


def start_small(*layers: nn.Conv2d) -> None:
    """Draw new layers from N(0, 0.01 squared), biases 0, as the authors of both papers did."""
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.01)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class PairedHead(nn.Module):
    """The proposal network's head with two scores an anchor: background and object.

    Answers what torchvision expects, one score: that object minus that of background, whose
    sigmoid is the softmax over the two.
    """

    def __init__(self, taken: int, hidden: int, anchors: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(taken, hidden, 3, padding=1)
        self.cls = nn.Conv2d(hidden, 2 * anchors, 1)
        self.bbox = nn.Conv2d(hidden, 4 * anchors, 1)
        start_small(self.conv, self.cls, self.bbox)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return objectness ``(n, anchors, h, w)`` and box offsets of each map."""
        scores, deltas = [], []
        for x in features:
            hidden = functional.relu(self.conv(x))
            background, thing = self.cls(hidden).chunk(2, dim=1)
            scores.append(thing - background)
            deltas.append(self.bbox(hidden))
        return scores, deltas


class FCIS(nn.Module):
    """A residual network, proposals from its fourth stage, and part maps from its fifth.

    Parameters
    ----------
    trunk : Trunk
        Its last stage keeps the step of the one before.
    labels : int
        Classes without the background.
    step : int
        Pixels a cell of the fifth stage; the fourth's is the same.
    features : int
        Of the convolution over the fifth stage (1024 in the paper; the proposals' half of it).
    anchors : Shapes
        Of one level, as `maskloop.models.anchors` gives them.
    proposals : int
        Boxes a picture that are looked at; in training at most 300.
    """

    def __init__(
        self,
        trunk: Trunk,
        labels: int,
        *,
        step: int = 16,
        features: int = 1024,
        anchors: Shapes,
        proposals: int = 300,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.step = step
        parts = GROUPS * GROUPS
        self.rpn = CarefulProposals(
            ShapedAnchors(anchors),
            PairedHead(trunk.features[2], max(features // 2, 1), len(anchors[0])),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 6000, "testing": 6000},
            # More than the paper's are for crowded pictures; a crop in training has fewer objects.
            post_nms_top_n={"training": min(proposals, _LEARNT), "testing": proposals},
            nms_thresh=0.7,
        )
        self.conv_new = nn.Conv2d(trunk.features[3], features, 1)
        self.cls_seg = nn.Conv2d(features, parts * 2 * (1 + labels), 1)
        self.bbox = nn.Conv2d(features, parts * 2 * 4, 1)
        start_small(self.conv_new, self.cls_seg, self.bbox)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the fourth stage, the part maps and the maps of boxes of ``(n, c, y, x)``."""
        *_, fourth, fifth = self.trunk(x)
        fifth = functional.relu(self.conv_new(fifth))
        return fourth, self.cls_seg(fifth), self.bbox(fifth)

    def propose(
        self,
        fourth: Tensor,
        images: Tensor,
        sizes: list[tuple[int, int]],
        targets: Sequence[Targets] = (),
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return boxes of each picture that may hold an object, and in training the losses.

        Anchors that lie more than half in unreviewed regions are no background.
        """
        self.rpn.unseen = [one.unseen for one in targets]
        boxes, losses = self.rpn(
            ImageList(images, sizes),
            {"0": fourth.float()},
            [{"boxes": one.boxes} for one in targets],
        )
        return boxes, list(losses.values())

    def read(self, parts: Tensor, boxes: Tensor, rois: Tensor) -> Read:
        """Return what part maps and maps of boxes say of boxes ``(k, 5)``."""
        pooled = position_sensitive(torch.cat([parts, boxes], dim=1), rois, step=self.step)
        *size, things = pooled.shape
        # Class by class, so that rows of the layer can follow their class to another set of them.
        inside, outside = pooled[..., :-8].reshape(*size, -1, 2).unbind(-1)
        classes = torch.maximum(inside, outside).mean((1, 2))
        # Of the two sets of four the second is the object's; boxes of background stay.
        return Read(classes, inside - outside, pooled[..., things - 4 :].mean((1, 2)))

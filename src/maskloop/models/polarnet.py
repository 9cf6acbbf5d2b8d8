"""PolarMask's network: classes, centerness, boxes and rays at every point of a pyramid.

E. Xie et al., "PolarMask: Single Shot Instance Segmentation with Polar Representation", CVPR 2020,
section 3 and figure 2, on the detector of Z. Tian et al., "FCOS: Fully Convolutional One-Stage
Object Detection", ICCV 2019, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from maskloop.models.onestage import pyramid, start_calm, start_rare, tower
from maskloop.models.rays import COUNT

if TYPE_CHECKING:
    from maskloop.models.pyramid import Trunk

STRIDES = (8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What the network says of all ``p`` points of a batch of pictures.

    Parameters
    ----------
    scores : Tensor ``(n, p, classes)``
        Logits.
    centres : Tensor ``(n, p)``
        Logits of centerness.
    sides : Tensor ``(n, p, 4)`` or None
        Pixels to the left, upper, right and lower side of the box; None without its branch.
    rays : Tensor ``(n, p, 36)``
        Pixels, over 0.
    points : Tensor ``(p, 2)``
        x, y in pixels from the picture's edge.
    levels : int64 Tensor ``(p,)``
        Number of each point's level.
    """

    scores: Tensor
    centres: Tensor
    sides: Tensor | None
    rays: Tensor
    points: Tensor
    levels: Tensor


class Polar(nn.Module):
    """PolarMask.

    Parameters
    ----------
    trunk : Trunk
    classes : int
        The background is none.
    features : int
        Channels of pyramid and towers.
    depth : int
        Convolutions of a tower.
    rays : int
        A point.
    has_boxes : bool
        Whether boxes are learnt beside the rays (the paper shows that they need not be).
    """

    def __init__(
        self,
        trunk: Trunk,
        classes: int,
        *,
        features: int = 256,
        depth: int = 4,
        rays: int = COUNT,
        has_boxes: bool = True,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.fpn = FeaturePyramidNetwork(
            list(trunk.features[1:]), features, extra_blocks=LastLevelP6P7(features, features)
        )
        self.classing = tower(features, features, depth)
        self.scores = nn.Conv2d(features, classes, 3, padding=1)
        self.centres = nn.Conv2d(features, 1, 3, padding=1)
        self.raying = tower(features, features, depth)
        self.rays = nn.Conv2d(features, rays, 3, padding=1)
        self.ray_scales = nn.Parameter(torch.ones(len(STRIDES)))
        self.has_boxes = has_boxes
        if has_boxes:
            self.boxing = tower(features, features, depth)
            self.sides = nn.Conv2d(features, 4, 3, padding=1)
            self.side_scales = nn.Parameter(torch.ones(len(STRIDES)))
        start_calm(part for name, part in self.named_children() if name not in ("trunk", "fpn"))
        start_rare(self.scores)

    def forward(self, x: Tensor) -> Answers:
        """Return the answers at all points of a picture ``(n, c, y, x)``."""
        levels = pyramid(self.fpn, self.trunk(x)[1:])
        parts = []
        for number, (level, stride) in enumerate(zip(levels, STRIDES, strict=True)):
            kinds = self.classing(level)
            # Lengths in steps of the level: exp keeps them over 0, a scale learns their spread.
            rays = (self.rays(self.raying(level)).float() * self.ray_scales[number]).exp() * stride
            found = [self.scores(kinds), self.centres(kinds), rays]
            if self.has_boxes:
                sides = self.sides(self.boxing(level)).float() * self.side_scales[number]
                found.append(sides.exp() * stride)
            parts.append([one.flatten(2).transpose(1, 2) for one in found])
        joined = [torch.cat(same, dim=1) for same in zip(*parts, strict=True)]
        places = [points_of(level, s) for level, s in zip(levels, STRIDES, strict=True)]
        numbers = [torch.full((len(p),), n, device=x.device) for n, p in enumerate(places)]
        return Answers(
            joined[0],
            joined[1][..., 0],
            joined[3] if self.has_boxes else None,
            joined[2],
            torch.cat(places),
            torch.cat(numbers),
        )


def points_of(level: Tensor, stride: int) -> Tensor:
    """Return the middles of a map's cells in the picture, ``(h * w, 2)``: x, y."""
    height, width = level.shape[2:]
    rows, columns = ((torch.arange(n, device=level.device) + 0.5) * stride for n in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)

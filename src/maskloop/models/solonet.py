"""SOLO's network: category grids and one mask a cell, or one a column and one a row of cells.

X. Wang et al., "SOLO: Segmenting Objects by Locations", ECCV 2020, section 3, and its
decoupled form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from maskloop.models.onestage import pyramid, start_calm, start_rare, tower

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.models.pyramid import Trunk

GRIDS = (40, 36, 24, 16, 12)
"""Cells along each side of the picture, level by level."""
STRIDES = (8, 8, 16, 32, 32)
"""Pixels a step of the five levels: the finest and the coarsest map of the pyramid are resized."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What the network says of a batch, level by level.

    Parameters
    ----------
    scores : list of Tensor ``(n, classes, S, S)``
        Logits.
    maps : list of tuple of Tensor
        What masks are made of, twice as fine as the level: features ``(n, f, h, w)``; or logits of
        the columns and of the rows of cells, each ``(n, S, h, w)``.
    """

    scores: list[Tensor]
    maps: list[tuple[Tensor, ...]]


def with_places(x: Tensor, axes: str = "xy") -> Tensor:
    """Return ``(n, c, h, w)`` with a channel for each of `axes` that says where a pixel is.

    From -1 at the first pixel to 1 at the last.
    """
    n, _, height, width = x.shape
    across = torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype)
    down = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype)
    known = {
        "x": across.expand(n, 1, height, width),
        "y": down[:, None].expand(n, 1, height, width),
    }
    return torch.cat([x, *(known[axis] for axis in axes)], dim=1)


class Solo(nn.Module):
    """SOLO; cell ``i * S + j`` is row `i`, column `j`.

    Parameters
    ----------
    trunk : Trunk
    classes : int
        The background is none.
    grids : sequence of int
        Five.
    features : int
        Channels of pyramid and towers.
    depth : int
        Convolutions of a tower.
    decoupled : bool
        Whether a cell's mask is the product of its column's and its row's (decoupled SOLO).
    """

    def __init__(
        self,
        trunk: Trunk,
        classes: int,
        *,
        grids: Sequence[int] = GRIDS,
        features: int = 256,
        depth: int = 7,
        decoupled: bool = False,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.fpn = FeaturePyramidNetwork(
            list(trunk.features), features, extra_blocks=LastLevelMaxPool()
        )
        self.grids = tuple(grids)
        self.decoupled = decoupled
        self.classing = tower(features, features, depth)
        self.scores = nn.Conv2d(features, classes, 3, padding=1)
        if decoupled:
            self.columns = tower(features + 1, features, depth)
            self.rows = tower(features + 1, features, depth)
            self.column_masks = nn.ModuleList(nn.Conv2d(features, s, 3, 1, 1) for s in grids)
            self.row_masks = nn.ModuleList(nn.Conv2d(features, s, 3, 1, 1) for s in grids)
        else:
            self.masking = tower(features + 2, features, depth)
            self.cell_masks = nn.ModuleList(nn.Conv2d(features, s * s, 1) for s in grids)
        start_calm(part for name, part in self.named_children() if name not in ("trunk", "fpn"))
        start_rare(self.scores)

    def forward(self, x: Tensor) -> Answers:
        """Return scores and what masks are made of, for a picture ``(n, c, y, x)``."""
        found = self.levels(x)
        scores, maps = [], []
        for number, (level, grid) in enumerate(zip(found, self.grids, strict=True)):
            cells = functional.interpolate(level, size=(grid, grid), mode="bilinear")
            scores.append(self.scores(self.classing(cells)))
            maps.append(self._maps(level, number))
        return Answers(scores, maps)

    def levels(self, x: Tensor) -> list[Tensor]:
        """Return the five maps of the pyramid at `STRIDES`."""
        found = pyramid(self.fpn, self.trunk(x))
        found[0] = functional.interpolate(found[0], size=found[1].shape[2:], mode="bilinear")
        found[4] = functional.interpolate(found[4], size=found[3].shape[2:], mode="bilinear")
        return found

    def _maps(self, level: Tensor, number: int) -> tuple[Tensor, ...]:
        if not self.decoupled:
            return (_doubled(self.masking(with_places(level))),)
        across = _doubled(self.columns(with_places(level, "x")))
        down = _doubled(self.rows(with_places(level, "y")))
        return self.column_masks[number](across), self.row_masks[number](down)

    def masks(self, answers: Answers, number: int, picture: int, cells: Tensor) -> Tensor:
        """Return the masks of some cells of a level, probabilities ``(k, h, w)``.

        Only these cells' masks are computed: the last convolution sees one pixel, and so its other
        outputs have no part in them.
        """
        maps = [one[picture] for one in answers.maps[number]]
        if self.decoupled:
            across, down = maps
            grid = self.grids[number]
            columns, rows = cells % grid, torch.div(cells, grid, rounding_mode="floor")
            return across[columns].float().sigmoid() * down[rows].float().sigmoid()
        last = self.cell_masks[number]
        weight, bias = last.get_parameter("weight")[cells], last.get_parameter("bias")[cells]
        # Maps come in half precision where the rest was computed in it; weights never do.
        return functional.conv2d(maps[0][None].to(weight.dtype), weight, bias)[0].float().sigmoid()

    def whole(self, answers: Answers) -> list[Tensor]:
        """Return the logits of all masks, level by level: of cells, or of columns, then rows."""
        if self.decoupled:
            return [torch.cat(maps, dim=1) for maps in answers.maps]
        return [last(maps[0]) for last, maps in zip(self.cell_masks, answers.maps, strict=True)]


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="bilinear")

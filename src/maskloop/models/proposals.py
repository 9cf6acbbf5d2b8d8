"""Boxes that may hold an object: anchors fitted to the data, and a network that proposes them.

S. Ren et al., "Faster R-CNN", NIPS 2015, section 3; its proposal network is torchvision's
(BSD-3-Clause).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.rpn import RegionProposalNetwork

from maskloop.models.instances import is_unseen

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from maskloop.models.base import Volume

_ROUNDS = 50


class CarefulProposals(RegionProposalNetwork):  # type: ignore[misc]  # torchvision has no types
    """Region proposals that do not learn background where nobody looked.

    Each picture's targets may hold ``unseen``, a bool map of its pixels, beside their ``boxes``.
    """

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return torchvision's labels, with -1 (left out) for unreviewed background."""
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        seen = [
            without_unseen(label, box, told["unseen"]) if "unseen" in told else label
            for label, box, told in zip(labels, anchors, targets, strict=True)
        ]
        return seen, boxes

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return torchvision's losses; 0 where no anchor is left, whose mean would be NaN."""
        if all(bool((label < 0).all()) for label in labels):
            return objectness.sum() * 0, pred_bbox_deltas.sum() * 0
        found: tuple[Tensor, Tensor] = super().compute_loss(
            objectness, pred_bbox_deltas, labels, regression_targets
        )
        return found


def without_unseen(labels: Tensor, boxes: Tensor, unseen: Tensor) -> Tensor:
    """Return labels with -1 in place of 0 for boxes that lie more than half in `unseen`."""
    return torch.where((labels == 0) & is_unseen(boxes, unseen), -torch.ones_like(labels), labels)


def box_sides(volumes: Iterable[Volume]) -> npt.NDArray[np.float64]:
    """Return height and width ``(n, 2)`` of the box of every object, in pixels of the network."""
    from scipy.ndimage import find_objects

    sides = []
    for volume in volumes:
        found = find_objects(volume.ids.astype(np.int32))
        for i, box in enumerate(found, start=1):
            if box is not None and i in volume.categories:
                sides.append([part.stop - part.start for part in box])
    return np.asarray(sides, dtype=float).reshape(-1, 2)


def typical(values: npt.NDArray[np.float64], count: int) -> list[float]:
    """Return `count` values, ascending, that the given ones lie close to: k-means of logarithms.

    Parameters
    ----------
    values : float array ``(n,)``
        Positive; at least one.
    count : int

    Examples
    --------
    >>> import numpy as np
    >>> [round(v) for v in typical(np.array([10.0, 10, 11, 40, 42]), 2)]
    [10, 41]
    """
    logs = np.sort(np.log(np.asarray(values, dtype=float)))
    centres = np.quantile(logs, (np.arange(count) + 0.5) / count)
    for _ in range(_ROUNDS):
        nearest = np.abs(logs[:, None] - centres).argmin(axis=1)
        moved = np.array(
            [
                logs[nearest == k].mean() if (nearest == k).any() else centres[k]
                for k in range(count)
            ]
        )
        if np.allclose(moved, centres):
            break
        centres = moved
    return [float(v) for v in np.exp(np.sort(centres))]

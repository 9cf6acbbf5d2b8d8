"""From what networks say of objects to pixels of the image, in their boxes only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    import numpy.typing as npt

    from maskloop.core.geometry import Box


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A picture as a network sees it, and what it stands for.

    Parameters
    ----------
    picture : Tensor ``(1, c, y, x)``
        Resized, normalised, padded at its far ends to whole steps of the network.
    seen : tuple of int
        Rows and columns of it that are picture.
    size : tuple of int
        Rows and columns of the image which these are; results are told in its pixels.
    """

    picture: Tensor
    seen: tuple[int, int]
    size: tuple[int, int]

    @property
    def ratio(self) -> tuple[float, float]:
        """Pixels of the image a pixel of the network, along y and x."""
        return self.size[0] / self.seen[0], self.size[1] / self.seen[1]

    def on_image(self, boxes: Tensor) -> Tensor:
        """Return boxes ``(n, 4)``, x0 y0 x1 y1, of the network's pixels in the image's."""
        y, x = self.ratio
        return boxes * boxes.new_tensor([x, y, x, y])


def from_boxes(
    masks: Tensor, boxes: Tensor, view: View, *, threshold: float = 0.5
) -> list[tuple[Box, npt.NDArray[np.bool_]] | None]:
    """Return the objects whose masks are told on a small grid in their boxes.

    Geometry as torchvision's ``paste_masks_in_image``: the mask is widened by one cell at each
    side, its box likewise, and the box's corners are cut to whole pixels.

    Parameters
    ----------
    masks : Tensor ``(n, m, m)``
        Probabilities.
    boxes : Tensor ``(n, 4)``
        x0, y0, x1, y1 in pixels of the network.
    view : View
    threshold : float
        Pixels above it belong to the object.

    Returns
    -------
    list of (box, region) or None
        One an object, in order; None where nothing of the box lies in the image.
    """
    height, width = view.size
    padded = functional.pad(masks[:, None], (1, 1, 1, 1))
    widening = padded.shape[-1] / max(padded.shape[-1] - 2, 1)
    corners = _widened(view.on_image(boxes), widening).to(torch.int64)
    found: list[tuple[Box, npt.NDArray[np.bool_]] | None] = []
    for mask, (x0, y0, right, bottom) in zip(padded, corners.tolist(), strict=True):
        x1, y1 = max(right, x0) + 1, max(bottom, y0) + 1
        rows = slice(max(y0, 0), min(y1, height))
        columns = slice(max(x0, 0), min(x1, width))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            found.append(None)
            continue
        large = functional.interpolate(
            mask[None], size=(y1 - y0, x1 - x0), mode="bilinear", align_corners=False
        )[0, 0]
        inside = large[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0]
        found.append(((rows, columns), (inside > threshold).numpy()))
    return found


def _widened(boxes: Tensor, factor: float) -> Tensor:
    centre = (boxes[:, :2] + boxes[:, 2:]) * 0.5
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * factor
    return torch.cat([centre - half, centre + half], dim=1)


def from_maps(
    maps: Tensor, view: View, *, threshold: float = 0.5, boxes: Tensor | None = None
) -> list[tuple[Box, npt.NDArray[np.bool_]] | None]:
    """Return the objects whose masks are told for all of the (padded) picture, coarsely.

    Between cells they are interpolated bilinearly, as
    ``torch.nn.functional.interpolate(..., align_corners=False)`` does, but only where an object is.

    Parameters
    ----------
    maps : Tensor ``(n, h, w)``
        Of which cell ``(0, 0)`` lies at the picture's near corner and the last one at its far end.
    view : View
    threshold : float
        Pixels above it belong to the object.
    boxes : Tensor ``(n, 4)``, optional
        x0, y0, x1, y1 in pixels of the network, outside of which nothing belongs to the object.

    Returns
    -------
    list of (box, region) or None
        One an object, in order; None where it has no pixel.
    """
    told = maps.detach().float().cpu()
    steps = [
        n / full * seen / size
        for n, full, seen, size in zip(
            told.shape[1:], view.picture.shape[2:], view.seen, view.size, strict=True
        )
    ]
    limits = None if boxes is None else view.on_image(boxes.detach().float().cpu()).tolist()
    found: list[tuple[Box, npt.NDArray[np.bool_]] | None] = []
    for number, one in enumerate(told):
        is_in = one > threshold
        ranges = [
            _reach(is_in.any(1 - axis), step, n)
            for axis, (step, n) in enumerate(zip(steps, view.size, strict=True))
        ]
        if limits is not None:
            x0, y0, x1, y1 = limits[number]
            cuts = ((round(y0), round(y1)), (round(x0), round(x1)))
            ranges = [
                (max(a, low), min(b, high))
                for (a, b), (low, high) in zip(ranges, cuts, strict=True)
            ]
        if any(a >= b for a, b in ranges):
            found.append(None)
            continue
        rows, columns = (
            (torch.arange(a, b) + 0.5) * step - 0.5
            for (a, b), step in zip(ranges, steps, strict=True)
        )
        region = (sampled(one, rows, columns) > threshold).numpy()
        box = tuple(slice(a, b) for a, b in ranges)
        found.append((box, region) if region.any() else None)
    return found


def _reach(cells: Tensor, step: float, size: int) -> tuple[int, int]:
    """Return from where to where, in pixels, cells that are above a threshold can reach."""
    hit = torch.nonzero(cells)
    if not len(hit):
        return 0, 0
    low, high = (int(hit[0]) - 1) / step, (int(hit[-1]) + 2) / step
    return max(0, int(np.floor(low))), min(size, int(np.ceil(high)))


def sampled(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return ``(len(rows), len(columns))``: values ``(h, w)`` between cells, bilinearly.

    Beyond the outermost centres a map goes on with its last value.
    """
    for axis, places in enumerate((rows, columns)):
        last = values.shape[axis] - 1
        at = places.clamp(0, last)
        below = at.floor().long()
        weight = (at - below).reshape(-1, 1) if axis == 0 else at - below
        above = (below + 1).clamp(max=last)
        low, high = values.index_select(axis, below), values.index_select(axis, above)
        values = low + (high - low) * weight
    return values

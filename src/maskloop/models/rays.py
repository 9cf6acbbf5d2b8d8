"""Outlines as rays: how far an object reaches from one point, in equal steps of the angle.

E. Xie et al., "PolarMask: Single Shot Instance Segmentation with Polar Representation", CVPR 2020,
section 3. A ray's angle is measured from the y axis: x = cx + d sin a, y = cy + d cos a.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from maskloop.models.onestage import middles

if TYPE_CHECKING:
    import numpy.typing as npt

    from maskloop.core.geometry import Box

COUNT = 36
LEAST = 1e-6
"""Length of a ray that meets nothing of the object."""
_FEWEST, _MOST = 32, 256  # places looked at along a ray
_AT_ONCE = 256  # points whose rays are cast together


def directions(count: int = COUNT, device: torch.device | None = None) -> Tensor:
    """Return the unit vectors x, y of the rays, ``(count, 2)``."""
    angles = torch.arange(count, device=device) * (2 * torch.pi / count)
    return torch.stack([angles.sin(), angles.cos()], dim=1)


def cast(
    masks: Tensor, which: Tensor, points: Tensor, unseen: Tensor, *, count: int = COUNT
) -> tuple[Tensor, Tensor]:
    """Return how far objects reach from points, ray by ray, all at once.

    A ray ends where it leaves the object for the last time, in steps of half a pixel for small
    objects and of a 256th of the way across for large ones.

    Parameters
    ----------
    masks : bool Tensor ``(n, y, x)``
    which : int64 Tensor ``(p,)``
        Number of the object of each point.
    points : Tensor ``(p, 2)``
        x, y in pixels from the picture's edge; they may lie outside the object.
    unseen : bool Tensor ``(y, x)``
        Where nobody looked.
    count : int
        Rays a point.

    Returns
    -------
    lengths : Tensor ``(p, count)``
        In pixels; `LEAST` where a ray meets nothing of the object.
    known : bool Tensor ``(p, count)``
        Not where a ray ends at pixels that nobody looked at: the object may go on there.
    """
    if not len(points):
        return points.new_zeros((0, count)), unseen.new_zeros((0, count))
    reach = _reach(masks)[which]
    spans = torch.maximum((points - reach[:, :2]).abs(), (points - reach[:, 2:]).abs())
    far = spans.square().sum(1).sqrt() + 1
    parts = [
        _cast(masks, which[a : a + _AT_ONCE], points[a : a + _AT_ONCE], far[a : a + _AT_ONCE],
              unseen, count)
        for a in range(0, len(points), _AT_ONCE)
    ]  # fmt: skip
    lengths, known = zip(*parts, strict=True)
    return torch.cat(lengths), torch.cat(known)


def _reach(masks: Tensor) -> Tensor:
    """Return x0, y0, x1, y1 of each object."""
    sides = []
    for axis in (1, 2):
        hit = masks.any(axis).to(torch.int8)
        n = hit.shape[1]
        sides += [hit.argmax(1), n - hit.flip(1).argmax(1)]
    return torch.stack([sides[0], sides[2], sides[1], sides[3]], dim=1).float()


def _cast(
    masks: Tensor, which: Tensor, points: Tensor, far: Tensor, unseen: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    steps = int(min(max(2 * float(far.max()), _FEWEST), _MOST))
    along = torch.arange(1, steps + 1, device=points.device)
    step = (far / steps)[:, None, None]  # p, 1, 1
    toward = directions(count, points.device)
    reached = (along - 0.5) * step  # p, 1, steps
    x, y = (points[:, i, None, None] + reached * toward[None, :, i, None] for i in (0, 1))
    inside = _between(masks, which[:, None, None], x, y) >= 0.5
    last = (inside * along).amax(2)
    lengths = (last * step[:, :, 0]).clamp(min=LEAST)
    x, y = (points[:, i, None] + (lengths + 0.5) * toward[None, :, i] for i in (0, 1))
    return lengths, ~_at(unseen[None], torch.zeros_like(which)[:, None], x, y)


def _between(masks: Tensor, which: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the share of an object at places, bilinear between the middles of pixels.

    Where it is a half, an outline runs as smoothly as the object's: along the edges of whole pixels
    an outline is too wide, by the corners of its steps.
    """
    column, row = (x - 0.5).floor(), (y - 0.5).floor()
    right, down = x - 0.5 - column, y - 0.5 - row
    corners = [
        _at(masks, which, column + 0.5 + i, row + 0.5 + j) * across * along
        for i, across in ((0, 1 - right), (1, right))
        for j, along in ((0, 1 - down), (1, down))
    ]
    return torch.stack(corners).sum(0)


def _at(masks: Tensor, which: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the values of masks at places; False outside the picture."""
    height, width = masks.shape[1:]
    column, row = x.floor().long(), y.floor().long()
    is_in = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    found = masks[which, row.clamp(0, height - 1), column.clamp(0, width - 1)]
    return found & is_in


def centerness(lengths: Tensor) -> Tensor:
    """Return how much a point is the middle: root of the shortest ray by the longest."""
    return (lengths.amin(1) / lengths.amax(1).clamp(min=LEAST)).sqrt()


def polar_iou_losses(found: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Return the Polar IoU loss of each point: log of summed larger by smaller rays.

    Parameters
    ----------
    found, truth : Tensor ``(p, count)``
        Lengths over 0.
    known : bool Tensor ``(p, count)``
        Rays that count.
    """
    larger = (torch.maximum(found, truth) * known).sum(1).clamp(min=LEAST)
    smaller = (torch.minimum(found, truth) * known).sum(1).clamp(min=LEAST)
    return (larger / smaller).log()


def boxes_round(points: Tensor, lengths: Tensor) -> Tensor:
    """Return the smallest boxes round outlines, ``(p, 4)``: x0, y0, x1, y1."""
    ends = points[:, None] + lengths[:, :, None] * directions(lengths.shape[1], points.device)
    return torch.cat([ends.amin(1), ends.amax(1)], dim=1)


def filled(
    points: Tensor,
    lengths: Tensor,
    size: tuple[int, int],
    *,
    ratio: tuple[float, float] = (1.0, 1.0),
) -> list[tuple[Box, npt.NDArray[np.bool_]] | None]:
    """Return the pixels inside outlines: those whose centre is no farther than the outline.

    Parameters
    ----------
    points : Tensor ``(p, 2)``
        x, y.
    lengths : Tensor ``(p, count)``
    size : tuple of int
        Rows and columns of the image.
    ratio : tuple of float
        Pixels of the image a pixel of the network, along y and x.

    Returns
    -------
    list of (box, region) or None
        One an outline, in order; None where it holds no pixel.
    """
    boxes = boxes_round(points, lengths).cpu().double().numpy()
    rays = lengths.cpu().double().numpy()
    found: list[tuple[Box, npt.NDArray[np.bool_]] | None] = []
    for (x0, y0, x1, y1), ray, middle in zip(boxes, rays, points.cpu().numpy(), strict=True):
        rows = slice(max(int(y0 * ratio[0]), 0), min(int(np.ceil(y1 * ratio[0])), size[0]))
        columns = slice(max(int(x0 * ratio[1]), 0), min(int(np.ceil(x1 * ratio[1])), size[1]))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            found.append(None)
            continue
        y = (np.arange(rows.start, rows.stop) + 0.5) / ratio[0] - middle[1]
        x = (np.arange(columns.start, columns.stop) + 0.5) / ratio[1] - middle[0]
        region = _inside(x, y, ray)
        found.append(((rows, columns), region) if region.any() else None)
    return found


def _inside(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], ray: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Return which of the places at x across and y down lie inside an outline round 0, 0."""
    step = 2 * np.pi / len(ray)
    distance = np.hypot(y[:, None], x[None])
    angle = np.arctan2(x[None], y[:, None]) % (2 * np.pi)
    number = np.minimum((angle / step).astype(int), len(ray) - 1)
    part = angle - number * step
    first, second = ray[number], np.roll(ray, -1)[number]
    # Where the straight line between the ends of two rays is met.
    across = first * np.sin(part) + second * np.sin(step - part)
    found: npt.NDArray[np.bool_] = distance * across <= first * second * np.sin(step)
    return found


def held(region: npt.NDArray[np.bool_], *, count: int = COUNT) -> float:
    """Return the IoU of an object with what rays from its middle keep of it, 0 to 1.

    The middle is the centre of mass of its largest piece. 1 is a perfect copy; a disc keeps 0.98 or
    more, a crescent or a ring far less.
    """
    whole = largest(region)
    if not whole.any():
        return 0.0
    masks = torch.from_numpy(whole)[None]
    point = middles(masks)
    lengths, _ = cast(
        masks, torch.zeros(1, dtype=torch.int64), point, torch.zeros_like(masks[0]), count=count
    )
    size = (region.shape[0], region.shape[1])
    (kept,) = filled(point, lengths, size)
    if kept is None:
        return 0.0
    common = np.count_nonzero(kept[1] & region[kept[0]])
    return float(common / (np.count_nonzero(kept[1]) + np.count_nonzero(region) - common))


def largest(region: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the largest connected piece of an object."""
    from maskloop.ops.components import label

    ids, count = label(region)
    if count <= 1:
        return region
    found: npt.NDArray[np.bool_] = ids == 1 + int(np.argmax(np.bincount(ids.ravel())[1:]))
    return found

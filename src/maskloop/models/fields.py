"""Objects as a field that points at their centres, and back.

Papers: C. Stringer, T. Wang, M. Michaelos, M. Pachitariu, "Cellpose: a generalist algorithm for
cellular segmentation", Nature Methods 18, 2021, section "Methods" (pixels follow a flow, those that
meet are one object; objects whose own flow differs from the predicted one are dropped); D. Neven et
al., "Instance Segmentation by Jointly Optimizing Spatial Embeddings and Clustering Bandwidth", CVPR
2019 (each pixel points at its object's centre).

Here the flow is a direction to the centre, not the gradient of a heat diffusion: it follows from
ids by one sum an object, so that training makes its targets on the fly from whatever crop it is
given. All code is our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from maskloop.core.image import smallest_unsigned
from maskloop.models.base import IGNORE

if TYPE_CHECKING:
    import numpy.typing as npt

    from maskloop.models.cards import ModelCard

_NEAR = 3.0  # pixels from the centre within which vectors shrink to 0, so that pixels come to rest
_STEPS = 160  # the way from the edge of the largest object a network can see whole
_AT_REST = 0.05  # pixels a step


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What the network should say of a batch.

    Parameters
    ----------
    foreground : float tensor ``(n, y, x)``
        1 inside objects.
    flow : float tensor ``(n, 2, y, x)``
        Vectors (y, x) to the object's centre, of length 1 from `_NEAR` pixels outwards and
        shrinking to 0 at the centre; 0 outside objects.
    seen : bool tensor ``(n, y, x)``
        Pixels somebody reviewed.
    whole : bool tensor ``(n, y, x)``
        Pixels whose flow is known: those seen, less objects that run on into what was not.
    """

    foreground: Tensor
    flow: Tensor
    seen: Tensor
    whole: Tensor


def targets(ids: Tensor) -> Targets:
    """Return what the network should say where the objects are `ids` ``(n, y, x)``.

    The centre of an object is its mean pixel, or where that lies outside it (a crescent), the
    object's pixel nearest to that. An object cut by the border of the picture has the centre of
    the part that is there.
    """
    count, height, width = ids.shape
    is_object = ids > 0
    seen = ids != IGNORE
    flow = torch.zeros((count, 2, height, width), device=ids.device)
    whole = seen.clone()
    sample, y, x = is_object.nonzero(as_tuple=True)
    if len(sample):
        top = int(ids.max()) + 1
        _, number = torch.unique(sample * top + ids[sample, y, x], return_inverse=True)
        points = torch.stack([y, x], dim=1).to(torch.float32)
        way = _centres(number, points)[number] - points
        length = way.norm(dim=1, keepdim=True).clamp_min(_NEAR)
        flow[sample, :, y, x] = way / length
        near_unseen = functional.max_pool2d((~seen).float()[:, None], 3, 1, 1)[:, 0] > 0
        cut = torch.zeros(int(number.max()) + 1, device=ids.device)
        cut.index_add_(0, number, near_unseen[sample, y, x].float())
        whole[sample, y, x] = cut[number] == 0
    return Targets(is_object.float(), flow, seen, whole)


def _centres(number: Tensor, points: Tensor) -> Tensor:
    """Return the centre of each object from its pixels ``(n, 2)`` and whose each one is."""
    count = int(number.max()) + 1
    sums = torch.zeros((count, 2), device=points.device).index_add_(0, number, points)
    sizes = torch.zeros(count, device=points.device).index_add_(
        0, number, torch.ones_like(points[:, 0])
    )
    mean = sums / sizes[:, None]
    gap = (points - mean[number]).square().sum(dim=1)
    least = torch.full((count,), torch.inf, device=points.device)
    least = least.scatter_reduce(0, number, gap, "amin")
    place = torch.arange(len(points), device=points.device)
    first = torch.full((count,), len(points), device=points.device)
    is_nearest = gap == least[number]
    first = first.scatter_reduce(0, number[is_nearest], place[is_nearest], "amin")
    return torch.where(least[:, None] < 1, mean, points[first])


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the three outputs become objects.

    Parameters
    ----------
    threshold : float
        Least probability of a foreground pixel.
    least_area : int
        Of an object, in pixels.
    error : float
        Greatest mean squared difference between an object's own flow and the predicted one.
    together : float
        Meeting points closer than this part of their objects' common radius are one.
    """

    threshold: float = 0.5
    least_area: int = 20
    error: float = 0.4
    together: float = 0.3

    @classmethod
    def of(cls, card: ModelCard) -> Decoding:
        """Return what the card's ``decoding`` says, ours where it says nothing."""
        return cls(**card.parameters.get("decoding", {}))


def decode(
    scores: npt.NDArray[np.float32], how: Decoding | None = None
) -> tuple[npt.NDArray[Any], dict[int, float]]:
    """Return object ids ``(y, x)`` and the score of each, from scores ``(3, y, x)``.

    Parameters
    ----------
    scores : float32 array
        Logit of the foreground, flow y, flow x.
    how : Decoding, optional
        Thresholds.

    Returns
    -------
    ids : array of unsigned int
        From 1, by the row of their centres.
    scores : dict of int to float
        Mean foreground probability times the agreement of the flow, 0 to 1.
    """
    how = how or Decoding()
    bar = float(np.log(how.threshold / (1 - how.threshold)))
    y, x = np.nonzero(scores[0] > bar)
    shape = scores.shape[1:]
    if len(y) < how.least_area:
        return np.zeros(shape, dtype=np.uint8), {}
    flow = torch.from_numpy(np.ascontiguousarray(scores[1:]))
    ends = follow(flow, torch.from_numpy(np.stack([y, x], axis=1)))
    number = _meeting(ends, shape, how)
    ids = np.zeros(shape, dtype=np.int32)
    ids[y, x] = number
    ids = _tidied(ids, how.least_area)
    return _judged(ids, scores, how)


def follow(flow: Tensor, start: Tensor, steps: int = _STEPS) -> Tensor:
    """Return where pixels ``(n, 2)`` end that walk along `flow` ``(2, y, x)``, one pixel a step.

    Those that have come to rest are taken out of the walk every ten steps.
    """
    height, width = flow.shape[1:]
    ends = start.to(torch.float32)
    walking = torch.arange(len(ends))
    highest = torch.tensor([height - 1, width - 1], dtype=torch.float32)
    field = flow[None].flip(1)  # grid_sample speaks (x, y)
    to_unit = 2 / highest.clamp_min(1)
    for first in range(0, steps, 10):
        points = ends[walking]
        for _ in range(min(10, steps - first)):
            grid = (points * to_unit - 1).flip(1)[None, None]
            found = functional.grid_sample(
                field, grid, mode="bilinear", padding_mode="border", align_corners=True
            )
            move = found[0, :, 0].T.flip(1)
            points = torch.minimum((points + move).clamp_min(0), highest)
        ends[walking] = points
        walking = walking[move.square().sum(dim=1) > _AT_REST**2]
        if not len(walking):
            break
    return ends


def _meeting(ends: Tensor, shape: tuple[int, ...], how: Decoding) -> npt.NDArray[np.int32]:
    """Return for each pixel the number (from 1) of the point where it meets others; 0 for none.

    The density of ends is climbed to its peaks, in steps of the highest pixel within two; peaks
    that are too close for two objects are one.
    """
    from scipy import ndimage

    height, width = shape
    cell = ends.round().long()
    flat = (cell[:, 0] * width + cell[:, 1]).numpy()
    counts = np.bincount(flat, minlength=height * width).reshape(shape).astype(np.float32)
    density = torch.from_numpy(ndimage.gaussian_filter(counts, 1.0, truncate=2.0, mode="constant"))
    _, higher = functional.max_pool2d(density[None, None], 5, 1, 2, return_indices=True)
    upward = higher.flatten().numpy()
    peak = upward[flat]
    while (upward[peak] != peak).any():
        peak = upward[peak]
    places, number = np.unique(peak, return_inverse=True)
    mass = np.bincount(number)
    merged = _one_object(np.stack(np.divmod(places, width), axis=1), mass, how.together)
    found = merged[number]
    large = np.bincount(found) >= how.least_area
    return np.where(large[found], found + 1, 0).astype(np.int32)


def _one_object(
    places: npt.NDArray[np.int64], mass: npt.NDArray[np.int64], together: float
) -> npt.NDArray[np.int64]:
    """Return the number of the object of each peak: peaks near each other are one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    reach = together * float(np.sqrt(2 * mass.max() / np.pi))
    pairs = cKDTree(places).query_pairs(max(reach, 1.5), output_type="ndarray")
    gap = np.linalg.norm(places[pairs[:, 0]] - places[pairs[:, 1]], axis=1)
    radius = np.sqrt(mass[pairs].sum(axis=1) / np.pi)
    pairs = pairs[gap < together * radius]
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(mass),) * 2)
    found: npt.NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
    return found


def _tidied(ids: npt.NDArray[np.int32], least_area: int) -> npt.NDArray[np.int32]:
    """Return each object as its largest piece with its holes filled, those too small left out."""
    from scipy import ndimage

    tidy = np.zeros_like(ids)
    for number, box in enumerate(ndimage.find_objects(ids), start=1):
        if box is None:
            continue
        region = ids[box] == number
        pieces, count = ndimage.label(region)
        if count > 1:
            region = pieces == 1 + int(np.bincount(pieces.ravel())[1:].argmax())
        if np.count_nonzero(region) < least_area:
            continue
        filled = ndimage.binary_fill_holes(region)
        view = tidy[box]
        view[filled & ((ids[box] == 0) | region)] = number
    return tidy


def _judged(
    ids: npt.NDArray[np.int32], scores: npt.NDArray[np.float32], how: Decoding
) -> tuple[npt.NDArray[Any], dict[int, float]]:
    """Drop objects whose own flow is not the predicted one; renumber the rest and score them."""
    own = targets(torch.from_numpy(ids.astype(np.int64))[None]).flow[0].numpy()
    inside = ids > 0
    belongs = ids[inside]
    top = int(ids.max(initial=0)) + 1
    sizes = np.bincount(belongs, minlength=top).clip(1)
    gap = np.square(own[:, inside] - scores[1:, inside]).sum(axis=0)
    error = np.bincount(belongs, weights=gap, minlength=top) / sizes
    chance = 1 / (1 + np.exp(-scores[0, inside]))
    sure = np.bincount(belongs, weights=chance, minlength=top) / sizes
    present = np.bincount(belongs, minlength=top) > 0
    kept = np.flatnonzero(present & (error <= how.error))
    lookup = np.zeros(top, dtype=smallest_unsigned(len(kept)))
    lookup[kept] = np.arange(1, len(kept) + 1)
    agreement = np.clip(1 - error / 2, 0, 1)
    return lookup[ids], {i: float(sure[k] * agreement[k]) for i, k in enumerate(kept, start=1)}

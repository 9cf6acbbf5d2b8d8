"""A lesion from its long axis: what a reader draws for RECIST, made a region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.ops import coarse
from maskloop.ops.cuts import edge_weights, minimum_cut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.core.geometry import Box

Field = npt.NDArray[np.float32]
Region = npt.NDArray[np.bool_]

BEYOND = 0.8  # lengths from the middle of the axis that are looked at
_STEPS = 28  # of the working grid along the axis; 45 along the box: the answer comes in a moment
_WIDTH, _HEIGHT = 0.8, 0.75  # of the first ellipsoid, across the axis and across its slice
_SHAPE, _SURFACE = 1.1, 1.4  # weights beside the evidence of the intensities
_MOST_EVIDENCE = 2.0  # of one voxel, in nats
_MOST = 1.07  # lengths: nothing of the lesion is further from either end; some slack
_SURE = 0.88  # share of the axis that lies in the lesion in any case
_REFITS = 3
_LEAST_EVIDENCE = 0.5  # mean evidence for the two samples together; noise alone gives less


@dataclass(frozen=True, slots=True)
class Draft:
    """A region in its box, and whether the image had a say in it.

    Parameters
    ----------
    box : Box
        Where the region lies in the array.
    region : array of bool
        Of the box's shape.
    has_contrast : bool
        False where inside and outside look alike: the region is then the ellipsoid on the axis.
    """

    box: Box
    region: Region
    has_contrast: bool


@dataclass(frozen=True, slots=True)
class _Grid:
    """A coarse grid of means of blocks of voxels, and where it lies in the array."""

    pixels: Field
    blocks: npt.NDArray[np.int64]  # voxels a block along each axis
    start: npt.NDArray[np.int64]  # index of the first voxel
    spacing: npt.NDArray[np.float64]  # of the blocks

    def centres(self) -> list[npt.NDArray[np.float64]]:
        """Return how far the blocks lie from the first voxel along each axis."""
        return [
            ((np.arange(count) + 0.5) - 0.5 / size) * step
            for count, size, step in zip(self.pixels.shape, self.blocks, self.spacing, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class _Frame:
    """Distances from the middle of the axis, in half lengths: along it and across it."""

    along: Field
    across: tuple[Field, ...]  # in the slice, and across the slices in a volume

    @property
    def off_axis(self) -> Field:
        """Squared distance from the axis."""
        return np.asarray(sum(np.square(part) for part in self.across), dtype=np.float32)

    def ellipsoid(self, middles: Sequence[float], halves: Sequence[float]) -> Field:
        """Return 0 at the middle, 1 on the surface and more outside, as squares of distances."""
        found = np.square(self.along)
        for part, middle, half in zip(self.across, middles, halves, strict=True):
            found = found + np.square((part - np.float32(middle)) / np.float32(half))
        return np.asarray(found, dtype=np.float32)


def from_long_axis(
    pixels: npt.NDArray[Any],
    spacing: Sequence[float],
    start: Sequence[float],
    stop: Sequence[float],
) -> Draft:
    """Return the region of a lesion whose longest diameter on a slice runs from start to stop.

    The intensities round the line and those of a shell about it are learned as histograms; the
    region is the minimum cut between them, held to an ellipsoid on the axis that is fitted again
    to each result, and never beyond what a longest diameter allows.

    Parameters
    ----------
    pixels : array
        Intensities ``(z, y, x)`` or ``(y, x)``, one channel.
    spacing : sequence of float
        Step along each axis.
    start, stop : sequence of float
        Ends of the axis, in array index order.

    Returns
    -------
    Draft
        The region reaches at most 0.8 lengths from the middle of the axis.

    References
    ----------
    .. [1] C. Rother, V. Kolmogorov, A. Blake, "GrabCut: Interactive Foreground Extraction using
       Iterated Graph Cuts", ACM Trans. Graph. 23, 2004: learning, cutting and learning again.
    .. [2] V. Lempitsky et al., "Image Segmentation with a Bounding Box Prior", ICCV 2009: a hint
       is held to as a whole, not only as seeds.
    """
    steps = np.asarray(spacing, dtype=np.float64)
    ends = np.asarray([start, stop], dtype=np.float64)
    length = max(float(np.linalg.norm((ends[1] - ends[0]) * steps)), float(steps.min()))
    grid = _grid(pixels, steps, ends.mean(axis=0), length)
    frame, allowed = _frame(grid, (ends - grid.start) * steps, length)
    first = frame.ellipsoid(*_start_of(frame))
    share, has_contrast = _cut(grid, frame, first, allowed, length)
    if not has_contrast:
        share = np.clip(1 - 0.5 * first, 0, 1).astype(np.float32)  # 0.5 on the surface
    box = tuple(
        slice(int(a), int(a + n * b))
        for a, n, b in zip(grid.start, share.shape, grid.blocks, strict=True)
    )
    return Draft(box, coarse.linear(share, grid.blocks.tolist()) > 0.5, has_contrast)


def _start_of(frame: _Frame) -> tuple[list[float], list[float]]:
    return [0.0] * len(frame.across), [_WIDTH, _HEIGHT][: len(frame.across)]


def _grid(
    pixels: npt.NDArray[Any],
    steps: npt.NDArray[np.float64],
    middle: npt.NDArray[np.float64],
    length: float,
) -> _Grid:
    shape = np.asarray(pixels.shape)
    blocks = np.maximum(1, np.floor(length / _STEPS / steps + 1e-6)).astype(np.int64)
    # A hair wider, so that the box is the same whatever the array was cut from.
    half = BEYOND * length / steps + 1e-6
    start = np.clip(np.floor(middle - half), 0, shape - 1).astype(np.int64)
    stop = np.clip(np.ceil(middle + half) + 1, start + 1, shape).astype(np.int64)
    blocks = np.minimum(blocks, stop - start)
    counts = (stop - start) // blocks
    part = pixels[tuple(slice(a, a + n * b) for a, n, b in zip(start, counts, blocks, strict=True))]
    return _Grid(coarse.means(part, tuple(blocks.tolist())), blocks, start, steps * blocks)


def _frame(grid: _Grid, ends: npt.NDArray[np.float64], length: float) -> tuple[_Frame, Region]:
    """Return distances from the axis, and where the lesion can be at all."""
    ndim = ends.shape[1]
    middle, along = ends.mean(axis=0), (ends[1] - ends[0]) / length
    if not along.any():
        along = np.eye(ndim)[-1]
    if ndim == 2:
        across = [np.array([-along[1], along[0]])]
    else:
        normal = np.eye(3)[int(np.abs(along).argmin())]
        normal = normal - (normal @ along) * along
        normal /= np.linalg.norm(normal)
        across = [np.cross(along, normal), normal]
    rays = [np.asarray(c - m, np.float32) for c, m in zip(grid.centres(), middle, strict=True)]

    def project(direction: npt.NDArray[np.float64]) -> Field:
        parts = [r * np.float32(d * 2 / length) for r, d in zip(rays, direction, strict=True)]
        return np.asarray(sum(np.ix_(*parts)), dtype=np.float32)

    frame = _Frame(project(along), tuple(project(direction) for direction in across))
    # The longest diameter: nothing of the lesion lies further than its length from either end.
    far = np.square(np.abs(frame.along) + 1) + frame.off_axis
    return frame, (far <= (2 * _MOST) ** 2) & (np.abs(frame.along) <= _MOST)


def _cut(
    grid: _Grid, frame: _Frame, first: Field, allowed: Region, length: float
) -> tuple[Field, bool]:
    """Return the share of each block in the lesion, and whether inside and outside differ."""
    from scipy import ndimage

    on_axis = (np.abs(frame.along) < _SURE) & (frame.off_axis <= 0.12**2) | (first < 0.06)
    on_axis |= first == first.min()
    core = (np.square(frame.along / np.float32(0.8)) + frame.off_axis / np.float32(0.35**2)) <= 1
    inside, outside = core | on_axis, (first > 1.7) & (first < 3.2)
    # Noise of neighbouring blocks; the median leaves edges out.
    noise = 1.5 * float(np.median(np.abs(np.diff(grid.pixels, axis=-1)))) if first.size > 1 else 0.0
    smooth = ndimage.gaussian_filter(grid.pixels, 0.5)
    ties = edge_weights(smooth, grid.spacing.tolist(), contrast=max(3 * noise, 1e-3), floor=0.05)
    weight = np.float32(_SURFACE * length / _STEPS / grid.spacing.min())
    ties = [tie * weight for tie in ties]
    shape = first
    share: Field | None = None
    region = first <= 1
    least = max(4, 0.1 * int((first <= 1).sum()))
    for turn in range(_REFITS):
        evidence = _evidence(grid.pixels, inside, outside)
        if not _tells(evidence, inside, outside):
            return first, False
        cost = np.float32(_SHAPE) * np.clip(shape - 1, -1, 1.5) - evidence
        cost[~allowed], cost[on_axis] = 4, -6
        share = minimum_cut(cost, ties, start=share, rounds=40 if turn else 60)
        region = _piece(share > 0.5, on_axis)
        if int(region.sum()) < least:
            return first, False
        shape = frame.ellipsoid(*_fitted(frame, region))
        # With its edge: learned from the inner part alone, small lesions come out too small.
        inside = region
        outside = (shape > 1.35) & (shape < 3) & ~region
    kept = np.where(region, np.float32(0) if share is None else share, np.float32(0))
    return ndimage.gaussian_filter(kept, 0.6), True


def _piece(region: Region, on_axis: Region) -> Region:
    """Return the pieces of the region that the axis crosses, without holes."""
    from maskloop.ops import components

    pieces, _ = components.label(region, connectivity=6 if region.ndim == 3 else 4)
    kept = np.unique(pieces[on_axis])
    return components.fill_holes(np.isin(pieces, kept[kept > 0]))


def _fitted(frame: _Frame, region: Region) -> tuple[list[float], list[float]]:
    """Return middle and half axes across the line, half way from the start's to the region's."""
    middles, halves = [], []
    spread = 2.0 if region.ndim == 2 else 5**0.5  # half axis of a full ellipsoid by its deviation
    for part, usual in zip(frame.across, (_WIDTH, _HEIGHT), strict=False):
        values = part[region]
        middles.append(0.5 * float(values.mean()))
        halves.append(0.5 * usual + 0.5 * min(max(spread * float(values.std()), 0.5), 1.1))
    return middles, halves


def _evidence(pixels: Field, inside: Region, outside: Region, bins: int = 24) -> Field:
    """Return the log ratio of how usual each intensity is inside and outside, cut at both ends."""
    from scipy import ndimage

    if not inside.any() or not outside.any():
        return np.zeros_like(pixels)
    low, high = np.percentile(pixels[inside], [1, 99])
    width = max(float(high - low), 1e-6)
    place = np.clip((pixels - (low - width / 2)) * (bins / (2 * width)), 0, bins - 1).astype(int)

    def usual(region: Region) -> npt.NDArray[np.float64]:
        counts = np.bincount(place[region], minlength=bins).astype(np.float64)
        counts = ndimage.gaussian_filter1d(counts, 1.0, mode="nearest")
        return np.asarray((counts + 6 / bins) / (counts.sum() + 6))

    ratio = np.log(usual(inside) / usual(outside)).astype(np.float32)
    found: Field = np.clip(ratio, -_MOST_EVIDENCE, _MOST_EVIDENCE)[place]
    return found


def _tells(evidence: Field, inside: Region, outside: Region) -> bool:
    """Whether intensities tell inside from outside at all."""
    if not inside.any() or not outside.any():
        return False
    return float(evidence[inside].mean() - evidence[outside].mean()) > _LEAST_EVIDENCE

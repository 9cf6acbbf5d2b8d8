"""Inside or outside from scribbles: decided on a coarse grid, then finely in a narrow band."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of
from maskloop.ops import coarse
from maskloop.ops.cuts import edge_weights, minimum_cut, random_walk

if TYPE_CHECKING:
    from collections.abc import Sequence

Field = npt.NDArray[np.float32]
Ids = npt.NDArray[np.uint8]
Region = npt.NDArray[np.bool_]

OUTSIDE, INSIDE = 1, 2

_CELLS = 32_000  # of the coarse grid: a cube of 32 answers within a tenth of a second
_OPEN = 0.4  # shares this near to one half are decided finely
_MOST_EVIDENCE = 3.0  # of one cell, in nats


def divided(
    pixels: npt.NDArray[Any],
    spacing: Sequence[float],
    seeds: Ids,
    *,
    method: Literal["walker", "cut"] = "walker",
    contrast: float = 0.0,
    surface: float = 1.0,
) -> Region:
    """Return the voxels that belong to the inside scribbles rather than to the outside ones.

    Parameters
    ----------
    pixels : array
        Intensities, any real type.
    spacing : sequence of float
        Step along each axis.
    seeds : array of uint8
        1 outside, 2 inside, 0 to be decided.
    method : {"walker", "cut"}
        Random walks along like voxels, or the minimum cut between the scribbles' intensities.
    contrast : float
        Difference of intensity that counts as an edge; 0 to take it from the image's noise.
    surface : float
        Weight of the surface of a cut.
    """
    if not (seeds == INSIDE).any():
        return np.zeros(seeds.shape, dtype=bool)
    blocks = coarse.blocks_for(seeds.shape, spacing, _CELLS)
    steps = [b * s for b, s in zip(blocks, spacing, strict=True)]
    cells, held = coarse.means(pixels, blocks), coarse.agreed(seeds, blocks)
    edge = contrast or edge_of(cells)
    shares = _guess(held)
    if method == "walker":
        shares = random_walk(cells, steps, shares, held == 0, contrast=edge, rounds=120)
    else:
        cost = -_evidence(cells, held == INSIDE, held == OUTSIDE)
        cost[held == INSIDE], cost[held == OUTSIDE] = -9, 9
        ties = [np.float32(surface) * tie for tie in edge_weights(cells, steps, contrast=edge)]
        shares = minimum_cut(cost, ties, rounds=80)
    return _fine(pixels, spacing, seeds, shares, blocks, contrast or edge_of(pixels))


def edge_of(pixels: npt.NDArray[Any]) -> float:
    """Return the difference of neighbours that counts as an edge: three times the noise's."""
    # A few planes tell the noise of all.
    some = pixels[:: max(1, len(pixels) // 16)].astype(np.float32)
    if some.shape[-1] < 2:
        return 1.0
    return max(3 * 1.4826 * float(np.median(np.abs(np.diff(some, axis=-1)))), 1e-3)


def _guess(held: Ids) -> Field:
    """Return 1 inside, 0 outside, and by the nearer of both elsewhere."""
    import edt

    if not (held == OUTSIDE).any():
        return np.ones(held.shape, dtype=np.float32)
    inner = edt.edt(np.ascontiguousarray(held != INSIDE))
    outer = edt.edt(np.ascontiguousarray(held != OUTSIDE))
    return np.asarray(outer / (inner + outer + np.float32(1e-6)), dtype=np.float32)


def _fine(
    pixels: npt.NDArray[Any],
    spacing: Sequence[float],
    seeds: Ids,
    shares: Field,
    blocks: coarse.Blocks,
    contrast: float,
) -> Region:
    """Return the region at full resolution: walks decide the band round the coarse surface."""
    rough = shares > 0.5
    region = np.where(seeds == 0, coarse.spread(rough, blocks, seeds.shape), seeds == INSIDE)
    band = coarse.undecided(rough)
    cells = box_of(band.view(np.uint8), 1, margin=1)
    if cells is None or max(blocks) == 1:
        return region
    # Only the box of the band is looked at voxel by voxel.
    box = tuple(
        slice(part.start * size, min(part.stop * size, n))
        for part, size, n in zip(cells, blocks, seeds.shape, strict=True)
    )
    shape = [part.stop - part.start for part in box]
    fine = coarse.linear(shares[cells], blocks, shape)
    free = seeds[box] == 0
    region[box] = np.where(free, fine > 0.5, region[box])
    unknown = coarse.spread(band[cells], blocks, shape) & free & (np.abs(fine - 0.5) < _OPEN)
    # What the coarse grid has settled is where the walks of the band end.
    ends = np.where(unknown, fine, region[box])
    found = random_walk(
        pixels[box], spacing, ends, unknown, contrast=contrast, tolerance=0.03, rounds=12
    )
    region[box] = found > 0.5
    return region


def _evidence(cells: Field, inside: Region, outside: Region, bins: int = 32) -> Field:
    """Return the log ratio of how usual each intensity is in both scribbles, cut at both ends."""
    from scipy import ndimage

    if not inside.any() or not outside.any():
        return np.zeros_like(cells)
    # Of each: a small scribble among much outside would lie beyond what most of all cells hold.
    ends = [np.percentile(cells[region], [0.5, 99.5]) for region in (inside, outside)]
    low, high = np.min(ends), np.max(ends)
    width = max(float(high - low), 1e-6)
    place = np.clip((cells - low) * (bins / width), 0, bins - 1).astype(int)

    def usual(region: Region) -> npt.NDArray[np.float64]:
        counts = np.bincount(place[region], minlength=bins).astype(np.float64)
        counts = ndimage.gaussian_filter1d(counts, 3.0, mode="nearest")
        # The same floor for both: an intensity that neither holds must speak for neither.
        return np.asarray(counts / max(counts.sum(), 1) + 0.02 / bins)

    ratio = np.log(usual(inside) / usual(outside)).astype(np.float32)
    found: Field = np.clip(ratio, -_MOST_EVIDENCE, _MOST_EVIDENCE)[place]
    return found

"""Competition of seeds for what lies between them, along the image's edges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from maskloop.core.boxes import box_of
from maskloop.ops import coarse
from maskloop.ops.intensity import steepness

if TYPE_CHECKING:
    from collections.abc import Sequence

Seeds = npt.NDArray[Any]  # Any: whichever unsigned type is narrow enough

_CELLS = 80_000  # of the coarse grid


def compete(
    pixels: npt.NDArray[Any], spacing: Sequence[float], seeds: Seeds, *, blur: float = 1.0
) -> Seeds:
    """Return for every voxel the seed whose flood reaches it first over the image's slopes.

    A watershed on a coarse grid decides all but a band of blocks where floods meet; a second one,
    of single voxels, decides the band.

    Parameters
    ----------
    pixels : array
        Intensities, any real type.
    spacing : sequence of float
        Step along each axis; slopes are per unit of it.
    seeds : array of unsigned int
        0 to be decided; each other number competes for its own.
    blur : float
        Standard deviation of the Gaussian before slopes are taken, in cells of either grid.

    Returns
    -------
    array of unsigned int
        As `seeds`, decided everywhere that a flood reaches.

    References
    ----------
    .. [1] F. Meyer, "Un algorithme optimal pour la ligne de partage des eaux", 1991; here by
       scikit-image.
    """
    blocks = coarse.blocks_for(seeds.shape, spacing, _CELLS)
    steps = [b * s for b, s in zip(blocks, spacing, strict=True)]
    held = coarse.agreed(seeds, blocks)
    cells = _watershed(coarse.means(pixels, blocks), steps, held, None, blur)
    found = np.where(seeds == 0, coarse.spread(cells, blocks, seeds.shape), seeds)
    if max(blocks) == 1:
        return found.astype(seeds.dtype)
    band = coarse.undecided(cells)
    cut = box_of(band.view(np.uint8), 1, margin=1)
    if cut is None:
        return found.astype(seeds.dtype)
    box = tuple(
        slice(part.start * size, min(part.stop * size, n))
        for part, size, n in zip(cut, blocks, seeds.shape, strict=True)
    )
    shape = [part.stop - part.start for part in box]
    unknown = coarse.spread(band[cut], blocks, shape) & (seeds[box] == 0)
    # One voxel of settled ground all round is enough for the floods of the band to start from.
    ground = ndimage.binary_dilation(unknown, np.ones((3,) * unknown.ndim)) & ~unknown
    begin = np.where(ground, found[box], seeds.dtype.type(0))
    fine = _watershed(pixels[box], spacing, begin, unknown | ground, blur)
    found[box][unknown] = fine[unknown]
    return found.astype(seeds.dtype)


def _watershed(
    pixels: npt.NDArray[Any],
    steps: Sequence[float],
    seeds: Seeds,
    within: npt.NDArray[np.bool_] | None,
    blur: float,
) -> Seeds:
    from skimage.segmentation import watershed

    smooth = ndimage.gaussian_filter(pixels.astype(np.float32), blur) if blur > 0 else pixels
    slopes = steepness(smooth, steps)
    found = watershed(slopes, seeds.astype(np.int32), mask=within)  # type: ignore[no-untyped-call]  # scikit-image's own
    return np.asarray(found).astype(seeds.dtype)

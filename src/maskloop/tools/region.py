"""Grow a region from points through like intensities."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError
from maskloop.core.geometry import Box
from maskloop.core.image import Image
from maskloop.core.mask import Mask
from maskloop.core.parameters import Points
from maskloop.ops import components, regions, strokes
from maskloop.ops.intensity import blurred, in_range, intensities
from maskloop.tools.base import traits
from maskloop.tools.options import Touching

_Region = npt.NDArray[np.bool_]
_SAMPLE = 2.5  # radius round a point in which intensities are learned, in the unit of the grid


@traits(
    reach=lambda values: values["within"] + 4 * values["blur"] + max(values["spacing"]),
    around=("points",),
    others=True,
    needs=("image", "points"),
    starts_empty=True,
)
def region(
    mask: Mask,
    image: Image | None = None,
    *,
    label: int,
    points: Annotated[
        Points | None,
        {
            "shape": "points",
            "label": "from",
            "tooltip": "Points inside what is meant; it grows from each of them.",
        },
    ] = None,
    lower: Annotated[
        float | None,
        {
            "label": "from (HU or intensity)",
            "tooltip": "Lowest intensity that joins; with both bounds left out, learned.",
        },
    ] = None,
    upper: Annotated[
        float | None,
        {
            "label": "to (HU or intensity)",
            "tooltip": "Highest intensity that joins; with both bounds left out, learned.",
        },
    ] = None,
    spread: Annotated[
        float,
        {
            "min": 0.1,
            "max": 20.0,
            "step": 0.1,
            "label": "learned range (standard deviations)",
            "tooltip": "How far from the mean round the points intensities may lie, if no bounds.",
        },
    ] = 2.5,
    within: Annotated[
        float,
        {
            "min": 0.1,
            "max": 2000.0,
            "label": "no further than (mm; pixels in a picture)",
            "tooltip": "Radius round the points beyond which nothing joins.",
        },
    ] = 30.0,
    touching: Touching = "faces",
    blur: Annotated[
        float,
        {
            "min": 0.0,
            "max": 20.0,
            "step": 0.5,
            "label": "blur (mm; pixels in a picture)",
            "tooltip": "Gaussian before intensities are compared; more for noisy images.",
        },
    ] = 0.0,
    seal: Annotated[
        float,
        {
            "min": 0.0,
            "max": 50.0,
            "step": 0.5,
            "label": "seal leaks up to (radius in mm; pixels)",
            "tooltip": "Growth does not pass through necks thinner than twice this.",
        },
    ] = 0.0,
    fill: Annotated[
        bool,
        {"label": "fill holes", "tooltip": "Take the voxels that the grown region encloses."},
    ] = True,
) -> npt.NDArray[Any]:
    """Grow a region from points through voxels of like intensity.

    It takes background and the labels in which the points lie, so that a tumour grows into the
    liver it was begun in, and into no other label.

    Parameters
    ----------
    mask : Mask
        Ids ``(z, y, x)`` or ``(y, x)``.
    image : Image
        Intensities on the mask's grid: HU in CT, the grey of a colour picture.
    label : int
        The id that grows.
    points : Points
        Where growth begins, in array index order.
    lower, upper : float, optional
        Range, both ends included. With neither, the mean of what lies 2.5 mm (pixels) round the
        points, `spread` standard deviations to both sides.
    spread : float
        See there.
    within : float
        Radius round the points, in the unit of the grid.
    touching : {"faces", "corners"}
        6 or 26 neighbours in a volume, 4 or 8 in a picture.
    blur : float
        Standard deviation of a Gaussian before, in the unit of the grid.
    seal : float
        Radius of the ball that must fit through a neck for growth to pass.
    fill : bool
        Whether enclosed voxels join too.

    Returns
    -------
    array of unsigned int
        New ids.

    Raises
    ------
    InputError
        If points or image are missing, or the bounds are the wrong way round.

    References
    ----------
    .. [1] R. Adams, L. Bischof, "Seeded Region Growing", IEEE TPAMI 16, 1994.
    """
    if not points:
        msg = "expected points for region, got none; set at least one inside what you mean"
        raise InputError(msg)
    pixels = intensities(image, of="region")
    ids = strokes.room_for(mask, label)
    spacing = mask.geometry.spacing
    box, near = _balls(ids.shape, spacing, points, within)
    if not near.size:
        return ids
    values = blurred(pixels, box, spacing, blur)
    seeds = strokes.moved(_balls(ids.shape, spacing, points, 0.0), box)
    if lower is None and upper is None:
        sample = strokes.moved(_balls(ids.shape, spacing, points, _SAMPLE), box) & near
        mean, deviation = float(values[sample].mean()), float(values[sample].std())
        lower, upper = mean - spread * deviation, mean + spread * deviation
    alike = in_range(values, lower, upper, of="region") & near
    alike &= strokes.grown_over(mask, label, box, points)
    found = _reached(alike, seeds, spacing, seal, touching)
    if fill:
        found = components.fill_holes(found) & strokes.grown_over(mask, label, box, points)
    ids[box][found] = label
    return ids


def _balls(
    shape: tuple[int, ...], spacing: tuple[float, ...], points: Points, radius: float
) -> tuple[Box, _Region]:
    """Return the voxels near to any of the points, in their common box."""
    found = [strokes.along(shape, spacing, [point], radius) for point in points]
    box = tuple(
        slice(min(part.start for part in parts), max(part.stop for part in parts))
        for parts in zip(*(one for one, _ in found), strict=True)
    )
    near = np.zeros([part.stop - part.start for part in box], dtype=bool)
    for one, ball in found:
        near[
            tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(one, box, strict=True))
        ] |= ball
    return box, near


def _reached(
    alike: _Region,
    seeds: _Region,
    spacing: tuple[float, ...],
    seal: float,
    touching: Literal["faces", "corners"],
) -> _Region:
    """Return what hangs together with the seeds, through necks wide enough."""
    connectivity = components.neighbours(touching, alike.ndim)
    if seal > 0:
        # The opening by a ball, of which only the pieces round the seeds are kept.
        core = regions.depth(alike, spacing) > seal
        begin = core & (regions.distance(seeds, spacing) <= 2 * seal)
        if not begin.any():
            return alike & seeds
        wide = regions.distance(_pieces(core, begin, connectivity), spacing) <= seal
        alike, seeds = alike & wide, begin
    return _pieces(alike, seeds & alike, connectivity)


def _pieces(whole: _Region, begin: _Region, connectivity: int) -> _Region:
    pieces, count = components.label(whole, connectivity=connectivity)
    stays = np.zeros(count + 1, dtype=bool)
    stays[pieces[begin]] = True
    stays[0] = False
    return np.asarray(stays[pieces])

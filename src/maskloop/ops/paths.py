"""Outlines on a slice that follow the image: least-cost paths along edges, and levels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError
from maskloop.ops.intensity import steepness
from maskloop.ops.strokes import along, polygon

if TYPE_CHECKING:
    from collections.abc import Sequence

Region = npt.NDArray[np.bool_]
Field = npt.NDArray[np.float32]
Pixels = npt.NDArray[Any]  # Any: every real type
Path = npt.NDArray[np.intp]  # (n, 2) rows and columns


def edge_costs(steep: Field) -> Field:
    """Return what a path pays a unit of length: near 0 on strong edges, 1 where nothing is."""
    usual = max(float(np.percentile(steep, 90)), 1e-12)
    costs: Field = (0.02 + 1 / (1 + np.square(np.float32(3 / usual) * steep))).astype(np.float32)
    return costs


def least_cost(
    costs: Field, spacing: Sequence[float], start: Sequence[int], stop: Sequence[int]
) -> Path:
    """Return the pixels of the cheapest path between two pixels, both ends included.

    Steps go to the eight neighbours; their true lengths count on unequal spacing. The search is
    held to a window round both ends, half their distance and ten pixels wider.

    References
    ----------
    .. [1] E. Mortensen, W. Barrett, "Interactive Segmentation with Intelligent Scissors", Graph.
       Models Image Process. 60, 1998.
    .. [2] E. Dijkstra, "A Note on Two Problems in Connexion with Graphs", Numer. Math. 1, 1959.
    """
    from skimage.graph import MCP_Geometric

    ends = np.array([start, stop])
    more = int(np.abs(ends[1] - ends[0]).max()) // 2 + 10
    low = np.maximum(ends.min(axis=0) - more, 0)
    high = np.minimum(ends.max(axis=0) + more + 1, costs.shape)
    window = np.ascontiguousarray(costs[low[0] : high[0], low[1] : high[1]], dtype=np.float64)
    search = MCP_Geometric(window, sampling=tuple(spacing))
    search.find_costs([tuple(ends[0] - low)], [tuple(ends[1] - low)])
    steps: Path = np.asarray(search.traceback(tuple(ends[1] - low)), dtype=np.intp) + low
    return steps


def along_edges(
    pixels: Pixels,
    spacing: Sequence[float],
    anchors: Sequence[Sequence[float]],
    *,
    snap: float = 0.0,
) -> Region:
    """Return what a closed outline through anchors encloses, drawn along the image's edges.

    Parameters
    ----------
    pixels : array
        Intensities of a plane.
    spacing : (float, float)
        Step along rows and columns.
    anchors : sequence of (row, column)
        At least two; the last is joined to the first.
    snap : float
        How far each anchor may be moved to the steepest pixel, in the unit of `spacing`.
    """
    steep = steepness(pixels, spacing)
    found = [_snapped(steep, spacing, anchor, snap) for anchor in anchors]
    # The whole plane's edges are of no concern to an outline in a corner of it.
    near = _window(found, steep.shape)
    origin = np.array([part.start for part in near])
    costs = edge_costs(steep[near])
    parts = [
        least_cost(costs, spacing, np.array(a) - origin, np.array(b) - origin)[:-1] + origin
        for a, b in zip(found, [*found[1:], found[0]], strict=True)
        if a != b
    ]
    region = np.zeros(pixels.shape, dtype=bool)
    outline = np.concatenate(parts) if parts else np.array(found)
    if len(outline) > 2:
        region = polygon(outline.tolist(), (pixels.shape[0], pixels.shape[1]))
    line = np.zeros(pixels.shape, dtype=bool)
    line[tuple(outline.T)] = True
    return _with_line(region, line, pixels)


def _window(found: list[tuple[int, int]], shape: tuple[int, ...]) -> tuple[slice, slice]:
    ends = np.array(found)
    more = int(np.ptp(ends, axis=0).max()) // 2 + 11
    low, high = np.maximum(ends.min(axis=0) - more, 0), ends.max(axis=0) + more + 1
    rows, columns = (
        slice(int(a), min(int(b), n)) for a, b, n in zip(low, high, shape, strict=True)
    )
    return rows, columns


def _snapped(
    steep: Field, spacing: Sequence[float], anchor: Sequence[float], snap: float
) -> tuple[int, int]:
    """Return the steepest pixel within the distance of an anchor, the nearest one on a tie."""
    index = [
        min(max(int(np.floor(v + 0.5)), 0), n - 1) for v, n in zip(anchor, steep.shape, strict=True)
    ]
    box, near = along(steep.shape, spacing, [index], snap)
    rows, columns = np.nonzero(near)
    away = np.hypot(
        (rows + box[0].start - index[0]) * spacing[0],
        (columns + box[1].start - index[1]) * spacing[1],
    )
    best = int(np.lexsort((away, -steep[box][near]))[0])
    return box[0].start + int(rows[best]), box[1].start + int(columns[best])


def _with_line(region: Region, line: Region, pixels: Pixels) -> Region:
    """Return the region with those pixels of its outline that look more like it than outside."""
    from scipy import ndimage

    inner = region & ~line
    near = ndimage.binary_dilation(line, iterations=3) & ~line
    if not (near & inner).any() or not (near & ~region).any():
        return region | line
    inside, outside = pixels[near & inner].mean(), pixels[near & ~region].mean()
    is_alike = np.abs(pixels - inside) <= np.abs(pixels - outside)
    found: Region = inner | (line & is_alike)
    return found


def level_at(pixels: Pixels, point: Sequence[float], *, of: str) -> Region:
    """Return what the level line through a point encloses on a plane, its holes filled.

    The level is the intensity at the point, linear between pixels; of the lines at that level the
    one that passes nearest is taken. A line cut by the edge of the plane is closed along it.

    Raises
    ------
    InputError
        If the point lies outside, or no line passes within two pixels of it: the image is flat.

    References
    ----------
    .. [1] W. Lorensen, H. Cline, "Marching Cubes", SIGGRAPH 1987, in two dimensions.
    """
    from skimage.measure import find_contours

    values = pixels.astype(np.float64)
    if not all(-0.5 <= v < n - 0.5 for v, n in zip(point, values.shape, strict=True)):
        msg = f"expected a point on the slice for {of}, got {tuple(point)!r}; choose another"
        raise InputError(msg)
    level = _between_pixels(values, point)
    # Beyond the edge is taken to lie on the side that the region's inside does not.
    choices = []
    for outside in (values.min() - 1, values.max() + 1):
        framed = np.pad(values, 1, constant_values=outside)
        for line in find_contours(framed, level):  # type: ignore[no-untyped-call]  # scikit-image's own
            away = float(np.linalg.norm(line - 1 - np.asarray(point), axis=1).min())
            choices.append((round(away, 3), len(line), line - 1))
    near = [choice for choice in choices if choice[0] <= 2]
    if not near:
        msg = (
            f"expected an edge at the point for {of}, got a flat place; point at the edge of what "
            "you mean"
        )
        raise InputError(msg)
    _, _, line = min(near, key=lambda choice: choice[:2])
    return polygon(line.tolist(), (values.shape[0], values.shape[1]))


def _between_pixels(values: npt.NDArray[np.float64], point: Sequence[float]) -> float:
    from scipy import ndimage

    at = np.array(point, dtype=np.float64)[:, None]
    return float(ndimage.map_coordinates(values, at, order=1, mode="nearest")[0])

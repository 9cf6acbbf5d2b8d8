"""Axes of digital ellipsoids against the analytic ones, and of shapes that can be counted."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.ops.measure import measure
from maskloop.ops.recist import Planes, axes_of


def turned(degrees: tuple[float, float, float]) -> np.ndarray:
    """Return a rotation about x, then y, then z."""
    found = np.eye(3)
    for (a, b), angle in zip(((1, 2), (0, 2), (0, 1)), np.radians(degrees), strict=True):
        turn = np.eye(3)
        turn[[a, a, b, b], [a, b, a, b]] = (
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
            np.cos(angle),
        )
        found = turn @ found
    return found


def grid(spacing, turn=(0, 0, 0), shear=0.0, shape=(3, 3, 3)) -> Geometry:
    """Return a grid whose (z, y, x) axes are those of the world, turned and sheared."""
    affine = np.eye(4)
    steps = np.zeros((3, 3))
    steps[[2, 1, 0], [0, 1, 2]] = spacing
    steps[1, 0] += shear * spacing[0]
    affine[:3, :3] = turned(turn) @ steps
    return Geometry(shape, affine)


GRIDS = {
    "isotropic": grid((1, 1, 1)),
    "0.7x0.7x5": grid((5, 0.7, 0.7)),
    "oblique": grid((2.5, 0.8, 0.8), (12, -20, 31)),
    "steep oblique": grid((1.2, 0.9, 1.1), (35, 20, 50)),
    "gantry tilt": grid((3, 0.8, 0.8), shear=0.3),
    "sagittal": grid((1, 1, 3)).transposed((2, 0, 1)),
}


def ellipsoid(geometry: Geometry, axes_mm, turn, offset):
    """Return a digital ellipsoid (voxel centres inside) on a fitting grid, and its quadric.

    The quadric is a symmetric matrix A in the world: inside where (p - c) A (p - c) <= 1.
    """
    rotation = turned(turn)
    half = np.asarray(axes_mm) / 2
    quadric = rotation @ np.diag(half**-2.0) @ rotation.T
    reach = np.sqrt(
        np.diag(np.linalg.inv(geometry.affine[:3, :3].T @ quadric @ geometry.affine[:3, :3]))
    )
    shape = tuple(int(n) for n in 2 * np.ceil(reach) + 5)
    fitting = Geometry(shape, geometry.affine)
    middle = np.array(shape) // 2 + np.asarray(offset)
    centre = fitting.to_world(middle)
    points = fitting.to_world(np.stack(np.indices(shape), axis=-1)) - centre
    inside = np.einsum("...i,ij,...j", points, quadric, points) <= 1
    return inside, fitting, quadric, middle


def chord(ellipse, frame, along=None) -> float:
    """Return the longest chord of an ellipse ``v A v <= 1``, or that along a direction."""
    if along is None:
        return 2 / np.sqrt(np.linalg.eigvalsh(ellipse)[0])
    v = frame.T @ along
    return 2 / np.sqrt(v @ ellipse @ v)


def sections(geometry: Geometry, quadric, middle):
    """Return the length of the longest chord along a world direction in each slice, by formula.

    As a function of the direction; of none, the longest of all directions.
    """
    across = Planes.of(geometry).across
    steps = geometry.affine[:3, :3]
    inplane = np.delete(steps, across, axis=1)
    frame, _ = np.linalg.qr(inplane)
    found = {}
    for number in range(geometry.shape[across]):
        origin = steps[:, across] * (number - middle[across])
        a = frame.T @ quadric @ frame
        b = frame.T @ quadric @ origin
        rest = 1 - (origin @ quadric @ origin - b @ np.linalg.solve(a, b))
        if rest > 0:
            found[number] = functools.partial(chord, a / rest, frame)
    return found


SIZES = [(5, 5, 5), (10, 10, 10), (17, 14, 11), (30, 20, 24), (44, 30, 27), (60, 45, 36)]


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_ellipsoids_have_the_axes_and_volumes_of_their_formula(name, size):
    for number, offset in enumerate([(0, 0, 0), (0.5, 0.5, 0.5), (0.2, -0.3, 0.41)]):
        turn = (0, 0, 0) if number < 2 else (25, -40, 65)
        inside, geometry, quadric, middle = ellipsoid(GRIDS[name], size, turn, offset)
        mask = Mask(inside.astype(np.uint8), geometry, LabelTable.classes(["lesion"]))
        if not inside.any():
            assert measure(mask) == []  # a small ball may lie between two slices
            continue
        (found,) = measure(mask)
        assert found.voxels == inside.sum()  # in one piece
        assert found.size == pytest.approx(inside.sum() * abs(np.linalg.det(geometry.affine)))
        spans = [part.stop - part.start for part in found.box]
        # Placed evenly on the grid, many centres lie on a small ball's surface: 5 % too many.
        if min(spans) >= 10 and number == 2:
            assert found.size == pytest.approx(np.pi / 6 * np.prod(size), rel=0.02)
        across = Planes.of(geometry).across
        step = max(s for a, s in enumerate(geometry.spacing) if a != across)
        true = sections(geometry, quadric, middle)
        assert abs(found.long_axis.length - max(f() for f in true.values())) <= step + 1e-9
        lines = []
        for line in (found.long_axis, found.short_axis):
            start, stop = geometry.to_world([line.start, line.stop])
            assert line.start[across] == line.stop[across] == found.slice
            assert np.linalg.norm(stop - start) == pytest.approx(line.length)
            lines.append((stop - start) / line.length)
        assert abs(lines[0] @ lines[1]) < np.sin(np.radians(1))
        expected = true[found.slice](lines[1])
        assert abs(found.short_axis.length - expected) <= step + 1e-9
        assert inside[found.place]
        assert found.slices == inside.any(axis=tuple({0, 1, 2} - {across})).sum()


@settings(max_examples=60)
@given(st.integers(0, 10**6))
def test_the_long_axis_is_the_longest_distance_between_voxel_edges(seed):
    rng = np.random.default_rng(seed)
    region = rng.random(rng.integers(1, 9, 2)) < rng.random()
    if not region.any():
        return
    affine = np.eye(3)
    affine[:2, :2] = rng.normal(size=(2, 2))
    geometry = Geometry(region.shape, affine, "mm")
    long, short = axes_of(region, geometry)
    index = np.argwhere(region)
    edges = np.concatenate([index + e for e in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))])
    points = geometry.to_world(edges)
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)
    assert long.length == pytest.approx(gaps.max())
    start, stop = geometry.to_world([long.start, long.stop])
    assert np.linalg.norm(stop - start) == pytest.approx(long.length)
    first, last = geometry.to_world([short.start, short.stop])
    assert np.linalg.norm(last - first) == pytest.approx(short.length)
    assert (stop - start) @ (last - first) == pytest.approx(0, abs=1e-9 * long.length)


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_the_short_axis_is_the_longest_chord_of_the_outline_across(seed):
    from skimage.measure import find_contours

    rng = np.random.default_rng(seed)
    region = rng.random(rng.integers(2, 9, 2)) < rng.uniform(0.2, 0.9)
    if not region.any():
        return
    geometry = Geometry.pixels(region.shape)
    long, short = axes_of(region, geometry)
    along = np.subtract(long.stop, long.start) / long.length
    across = np.array([-along[1], along[0]])
    contours = find_contours(np.pad(region, 1).astype(float), 0.5, fully_connected="high")
    pieces = np.concatenate([np.stack((c[:-1], c[1:]), axis=1) for c in contours]) - 1
    u, v = pieces @ along, pieces @ across
    best = 0.0
    for where in np.unique(u):
        crossed = (u.min(axis=1) <= where) & (u.max(axis=1) >= where)
        ends = []
        for (a, b), (p, q) in zip(u[crossed], v[crossed], strict=True):
            ends += [p, q] if a == b else [p + (q - p) * (where - a) / (b - a)]
        best = max(best, max(ends) - min(ends))
    assert short.length == pytest.approx(best, abs=1e-6)


def test_a_single_voxel_is_as_long_as_a_voxel():
    region = np.zeros((3, 4, 5), bool)
    region[1, 2, 3] = True
    long, short = axes_of(region, Geometry.regular(region.shape, (5, 0.7, 0.9)))
    assert (long.length, short.length) == pytest.approx((0.9, 0.7))
    assert (long.start, long.stop) == ((1, 2, 3.5), (1, 2, 2.5))
    assert axes_of(np.zeros((2, 2), bool), Geometry.pixels((2, 2))) is None


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_axes_lie_in_the_array_plane_nearest_axial_in_every_axis_order(order):
    region = np.zeros((4, 9, 12), bool)
    region[1, 2:4, 1:11] = True
    region[:, 6, 2] = True  # longer along z than across
    geometry = Geometry.regular(region.shape, (9, 1, 1))
    long, short = axes_of(region, geometry)
    moved = axes_of(region.transpose(order), geometry.transposed(order))
    for before, after in zip((long, short), moved, strict=True):
        assert after.length == pytest.approx(before.length)
        assert {after.start, after.stop} == {
            tuple(np.array(end)[list(order)]) for end in (before.start, before.stop)
        }


def test_regions_at_the_border_of_the_array_end_at_its_edge():
    region = np.ones((4, 6), bool)
    long, short = axes_of(region, Geometry.pixels(region.shape))
    ends = np.array([long.start, long.stop, short.start, short.stop])
    assert ends.min() == -0.5
    assert (ends <= (3.5, 5.5)).all()


def test_pixel_statistics_are_numpys():
    rng = np.random.default_rng(2)
    ids = (rng.random((6, 20, 21)) < 0.4).astype(np.uint8)
    geometry = GRIDS["sagittal"].__class__(ids.shape, GRIDS["sagittal"].affine)
    for values in (
        rng.integers(-1000, 3000, ids.shape).astype(np.int16),
        rng.normal(1e5, 1, ids.shape),
        np.asfortranarray(rng.normal(40, 90, ids.shape).astype(np.float32)),
    ):
        mask = Mask(ids, geometry, LabelTable.classes(["a"]))
        (row,) = measure(mask, Image(values, geometry), by="labels")
        inside = values[ids == 1].astype(np.float64)
        assert (row.low, row.high) == (inside.min(), inside.max())
        if values.dtype == np.int16:
            assert row.mean == inside.mean()
        assert row.mean == pytest.approx(inside.mean(), rel=1e-13)
        assert row.sd == pytest.approx(inside.std(), rel=1e-11)


def test_values_that_are_not_finite_are_left_out():
    ids = np.ones((2, 3), np.uint8)
    grid_ = Geometry.pixels(ids.shape)
    values = np.array([[1.0, np.nan, 3.0], [np.inf, 5.0, -np.inf]])
    mask = Mask(ids, grid_, LabelTable.classes(["a"]))
    (row,) = measure(mask, Image(values, grid_))
    assert (row.mean, row.low, row.high) == (3, 1, 5)
    assert row.sd == pytest.approx(np.std([1, 3, 5]))
    (row,) = measure(mask, Image(np.full((2, 3), np.nan), grid_))
    assert (row.mean, row.sd, row.low, row.high) == (None,) * 4

"""Rings along pixel edges hold a region exactly, as pycocotools and scikit-image read them too."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from maskloop.ops.rings import filled, rings

regions = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))


def area(points: np.ndarray) -> float:
    x, y = points.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


@settings(max_examples=120, deadline=None)
@given(region=regions, zoom=st.integers(1, 3))
def test_filled_rings_are_the_region(region, zoom):
    region = np.kron(region, np.ones((zoom, zoom), bool))
    np.testing.assert_array_equal(
        filled([ring.points for ring in rings(region)], region.shape), region
    )


@settings(max_examples=120, deadline=None)
@given(region=regions)
def test_rings_are_simple_and_their_corners_are_turns(region):
    for ring in rings(region):
        steps = np.roll(ring.points, -1, axis=0) - ring.points
        assert len({tuple(p) for p in ring.points.tolist()}) == len(ring.points)
        assert ((steps == 0).sum(axis=1) == 1).all()
        assert (np.diff((steps[:, 0] == 0).astype(int)) != 0).all()


@settings(max_examples=120, deadline=None)
@given(region=regions)
def test_a_piece_has_one_outer_ring_and_its_own_holes(region):
    found = rings(region)
    parts, count = ndimage.label(region)
    holes = 0
    for number in range(1, count + 1):
        mine = [ring for ring in found if ring.part == number]
        assert [ring.is_hole for ring in mine] == [False] + [True] * (len(mine) - 1)
        assert sum(area(ring.points) for ring in mine) == (parts == number).sum()
        alone = np.pad(parts == number, 1)
        holes += ndimage.label(~alone)[1] - 1
    assert sum(ring.is_hole for ring in found) == holes


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # its Cython
@settings(max_examples=80, deadline=None)
@given(region=regions)
def test_outer_rings_of_a_region_without_holes_are_exact_in_pycocotools(region):
    peer = pytest.importorskip("pycocotools.mask")
    lines = [r.points.reshape(-1).astype(float).tolist() for r in rings(region) if not r.is_hole]
    found = rings(region)
    if not lines or any(r.is_hole for r in found):
        return
    height, width = region.shape
    merged = peer.decode(peer.merge(peer.frPyObjects(lines, height, width)))
    np.testing.assert_array_equal(merged.astype(bool), region)


@settings(max_examples=80, deadline=None)
@given(
    points=hnp.arrays(
        float, st.tuples(st.integers(3, 9), st.just(2)), elements=st.floats(-3, 15, width=16)
    )
)
def test_filled_equals_a_count_of_crossings_at_every_centre(points):
    shape = (11, 13)
    meant = np.zeros(shape, bool)
    for row, column in np.ndindex(shape):
        x, y = column + 0.5, row + 0.5
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if y0 > y1:
                x0, y0, x1, y1 = x1, y1, x0, y0
            if y0 <= y < y1 and x0 + (x1 - x0) / (y1 - y0) * (y - y0) <= x:
                meant[row, column] ^= True
    np.testing.assert_array_equal(filled([points], shape), meant)


def test_a_square_with_a_hole_and_a_pixel_at_its_corner():
    region = np.zeros((5, 5), bool)
    region[:3, :3] = True
    region[1, 1] = False
    region[3, 3] = True
    outer, hole, other = rings(region)
    assert outer.points.tolist() == [[0, 0], [3, 0], [3, 3], [0, 3]]
    assert hole.is_hole
    assert sorted(hole.points.tolist()) == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert other.points.tolist() == [[3, 3], [4, 3], [4, 4], [3, 4]]


def test_nothing_has_no_ring():
    assert rings(np.zeros((4, 4), bool)) == []
    assert rings(np.zeros((0, 4), bool)) == []

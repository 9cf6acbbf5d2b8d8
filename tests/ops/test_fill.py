"""Rings fill as the tools that wrote them fill: by corners, and as OpenCV does by centres."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage import draw

from maskloop.core.errors import FormatError
from maskloop.ops.fill import ellipse, fill_centres, fill_corners
from maskloop.ops.trails import trail

# Rings and what cv2.fillPoly made of them on 12 rows of 16 pixels, packed: recorded with OpenCV
# 5.0.0 and again with 4.14.0.
OPENCV = [
    ([[15, 10], [10, 6], [10, 9]], "00000000000000000000000000200030003c003e00070000"),
    (
        [[13, 3], [3, 10], [0, 10], [4, 0]],
        "0c000f801ff01ffc3ff83fe03fc07f807e00fc00f0000000",
    ),
    (
        [[7, 5], [13, 9], [2, 3], [12, 4], [1, 3]],
        "0000000000007f001df8070001c000600018000400000000",
    ),
    (
        [[11, 6], [4, 6], [15, 11], [7, 9], [7, 9], [8, 8], [9, 7]],
        "0000000000000000000000000ff003e000c001f0003c0003",
    ),
    ([[5, 5], [15, 2]], "000000000003001c01e00600000000000000000000000000"),
    (
        [[13, 6], [2, 11], [13, 5], [9, 9], [1, 11], [0, 9], [7, 7], [0, 5], [2, 6]],
        "00000000000000000000c0043ffc03f03fe0ffc0ff007000",
    ),
]
regions = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14))


def whole(found, shape: tuple[int, int]) -> np.ndarray:
    region = np.zeros(shape, bool)
    if found is not None:
        region[found[0]] = found[1]
    return region


@pytest.mark.parametrize(("ring", "packed"), OPENCV)
def test_centres_fill_as_opencv_fills(ring, packed):
    expected = np.unpackbits(np.frombuffer(bytes.fromhex(packed), np.uint8)).reshape(12, 16) > 0
    np.testing.assert_array_equal(whole(fill_centres(np.array(ring), (12, 16)), (12, 16)), expected)


def on_a_line(ring: np.ndarray, size: int) -> bool:
    """Whether a line goes through a pixel's centre, where both answers are right."""
    centres = np.mgrid[:size, :size].reshape(2, -1).T + 0.5
    start, end = ring[:, None], np.roll(ring, -1, axis=0)[:, None]
    way, to = end - start, centres[None] - start
    across = np.abs(way[..., 0] * to[..., 1] - way[..., 1] * to[..., 0])
    return bool((across <= 1e-9 * (1 + np.abs(way).max())).any())


@settings(max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.lists(st.tuples(st.floats(-3, 23), st.floats(-3, 23)), min_size=3, max_size=8))
def test_corners_fill_as_scikit_image_fills_shifted_by_half(points):
    ring = np.array(points)
    assume(not on_a_line(ring, 20))
    filled = whole(fill_corners([ring], (20, 20)), (20, 20))
    other = draw.polygon2mask((20, 20), ring[:, ::-1] - 0.5)
    np.testing.assert_array_equal(filled, other)


def test_a_ring_in_a_ring_is_a_hole():
    square = np.array([[1, 1], [9, 1], [9, 9], [1, 9]])
    filled = whole(fill_corners([square, square / 2 + 2], (12, 12)), (12, 12))
    assert filled.sum() == 64 - 16
    assert not filled[4, 4]


def test_an_ellipse_is_scikit_images():
    found = whole(ellipse((20.3, 15.8), (9.5, 4.2), (30, 40), degrees=25), (30, 40))
    other = np.zeros((30, 40), bool)
    other[draw.ellipse(15.3, 19.8, 4.2, 9.5, (30, 40), rotation=-np.deg2rad(25))] = True
    np.testing.assert_array_equal(found, other)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e300])
def test_coordinates_out_of_this_world_are_refused(value):
    with pytest.raises(FormatError, match="coordinates"):
        fill_corners([np.array([[0, 0], [value, 3], [4, 4]])], (9, 9))


@settings(max_examples=150)
@given(regions)
def test_a_connected_region_comes_back_from_its_trail(region):
    """Holes, spurs, corners and single pixels included: nothing is lost or added."""
    labels, count = ndimage.label(region, np.ones((3, 3)))
    for number in range(1, count + 1):
        part = labels == number
        line = trail(part)
        assert len(line) >= 3
        np.testing.assert_array_equal(whole(fill_centres(line, part.shape), part.shape), part)


@settings(max_examples=80)
@given(regions)
def test_a_trail_joins_parts_and_loses_nothing(region):
    if not region.any():
        return
    drawn = whole(fill_centres(trail(region), region.shape), region.shape)
    assert not (region & ~drawn).any()
    assert ndimage.label(drawn, np.ones((3, 3)))[1] == 1


@settings(max_examples=40)
@given(regions)
def test_a_trail_steps_in_eight_directions_only(region):
    """Other steps are drawn differently by different rasterisers."""
    if not region.any():
        return
    line = trail(region)
    dx, dy = np.abs(np.roll(line, -1, axis=0) - line).T
    assert ((dx == 0) | (dy == 0) | (dx == dy)).all()

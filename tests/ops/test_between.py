"""Shapes between slices against full-frame distances of SciPy."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maskloop.ops import between as module
from maskloop.ops import regions
from maskloop.ops.between import between

SPACING = (0.7, 1.3)


def blobs(seed: int, shape: tuple[int, int, int] = (9, 40, 44)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = ndimage.gaussian_filter(rng.random(shape), (3, 5, 5)) > 0.5
    inner = np.zeros(shape, bool)
    inner[:, 6:-8, 7:-9] = True
    return found & inner


def filled(region: np.ndarray, given: list[int]) -> np.ndarray:
    found = region.copy()
    for at, box, shape in between(region, given, SPACING):
        found[at] = False
        found[at][box] = shape
    return found


def signed(region: np.ndarray) -> np.ndarray:
    inside = ndimage.distance_transform_edt(region, sampling=SPACING)
    return inside - ndimage.distance_transform_edt(~region, sampling=SPACING)


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from([2, 3, 4, 8]))
def test_the_shapes_are_those_of_signed_distances_of_whole_frames(seed, step):
    region = blobs(seed)
    chosen = [at for at in range(0, 9, step) if region[at].any()]
    found = filled(region, chosen)
    for a, b in itertools.pairwise(chosen):
        one, two = signed(region[a]), signed(region[b])
        for at in range(a + 1, b):
            mean = (one * (b - at) + two * (at - a)) / (b - a)
            is_clear = abs(mean) > 1e-4
            assert np.array_equal(found[at][is_clear], mean[is_clear] > 0)
    assert np.array_equal(found[chosen], region[chosen])


def test_a_cone_between_two_discs_has_the_radii_between():
    y, x = np.indices((81, 81)) - 40.0
    radius = np.hypot(y, x)
    region = np.zeros((11, 81, 81), bool)
    region[0], region[10] = radius <= 10, radius <= 30
    for at, box, shape in between(region, [0, 10], (1.0, 1.0)):
        true = radius[box] <= 10 + 2 * at
        assert abs(shape.sum() / true.sum() - 1) < 0.05
        assert not (shape & ~(radius[box] <= 11.5 + 2 * at)).any()


def test_threads_give_the_shapes_of_one(monkeypatch):
    region = blobs(4)
    chosen = [at for at in range(0, 9, 2) if region[at].any()]
    alone = filled(region, chosen)
    monkeypatch.setattr(module, "_THREADED", 1)
    assert np.array_equal(filled(region, chosen), alone)


def test_the_cost_is_that_of_the_shapes_whatever_the_frame(monkeypatch):
    sizes = []
    original = regions.signed

    def counted(region, spacing):
        sizes.append(region.size)
        return original(region, spacing)

    monkeypatch.setattr(regions, "signed", counted)
    small = blobs(2)
    filled(small, [0, 4, 8])
    first = list(sizes)
    sizes.clear()
    filled(np.pad(small, ((0, 0), (200, 200), (200, 200))), [0, 4, 8])
    assert sizes == first
    assert len(sizes) == 3
    assert max(sizes) <= 40 * 44


def test_slices_that_the_shape_fills_are_deeper_than_any_other():
    region = np.zeros((5, 8, 9), bool)
    region[0] = region[4] = True
    assert filled(region, [0, 4]).all()
    region[4] = False
    region[4, 2:4, 2:4] = True
    found = filled(region, [0, 4])
    assert found[1].sum() >= found[3].sum() >= 4


def test_without_a_gap_there_is_nothing_between():
    assert not list(between(blobs(1), [2, 3, 4], SPACING))
    assert not list(between(blobs(1), [2], SPACING))

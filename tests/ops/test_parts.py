"""Parts of balls and tubes whose cut is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maskloop.core.errors import InputError
from maskloop.ops.parts import parts_of

SPACING = (2.5, 1.0, 0.8)


def balls(*parts: tuple[tuple[float, ...], float], ndim: int = 3) -> tuple[np.ndarray, list]:
    """Balls of (middle in mm, radius in mm) on unequal spacing, together and one by one."""
    shape, spacing = (28, 70, 100)[-ndim:], SPACING[-ndim:]
    grid = np.stack(np.indices(shape), -1) * spacing
    single = [((grid - np.array(m)[-ndim:]) ** 2).sum(-1) <= r**2 for m, r in parts]
    return np.logical_or.reduce(single), single


def found_at(ids: np.ndarray, middle: tuple[float, ...]) -> int:
    spacing = SPACING[-ids.ndim :]
    return int(ids[tuple(round(m / s) for m, s in zip(middle[-ids.ndim :], spacing, strict=True))])


@pytest.mark.parametrize("ndim", [2, 3])
def test_two_touching_balls_are_cut_at_their_neck_on_unequal_spacing(ndim):
    a, b = (35.0, 35.0, 22.0), (35.0, 35.0, 46.0)
    region, (one, two) = balls((a, 14.0), (b, 14.0), ndim=ndim)
    ids = parts_of(region, SPACING[-ndim:], distance=5.0)
    assert ids.max() == 2
    assert found_at(ids, a) != found_at(ids, b)
    for ball, middle in ((one, a), (two, b)):
        part = ids == found_at(ids, middle)
        assert 2 * (part & ball).sum() / (part.sum() + ball.sum()) > 0.95
    assert np.array_equal(ids > 0, region)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_ball_an_ellipsoid_and_a_tube_stay_whole(ndim):
    shape, spacing = (28, 70, 100)[-ndim:], SPACING[-ndim:]
    grid = np.stack(np.indices(shape), -1) * spacing
    middle = np.array((35.0, 35.0, 40.0))[-ndim:]
    for radii in ((20, 20, 20), (12, 12, 34), (30, 10, 16)):
        region = (((grid - middle) / np.array(radii)[-ndim:]) ** 2).sum(-1) <= 1
        assert parts_of(region, spacing).max() == 1, radii
    tube = ((grid - middle)[..., :-1] ** 2).sum(-1) <= 8**2
    tube[..., :5] = tube[..., -5:] = False
    assert parts_of(tube, spacing).max() == 1


def test_middles_nearer_than_the_distance_stay_together():
    region, _ = balls(((35.0, 35.0, 22.0), 14.0), ((35.0, 35.0, 46.0), 14.0))
    assert parts_of(region, SPACING, distance=20.0).max() == 2
    assert parts_of(region, SPACING, distance=28.0).max() == 1


def test_a_neck_wider_than_the_share_is_no_neck():
    # Two balls of radius 14 at 16 mm: the neck's half width is sqrt(14**2 - 8**2) = 11.5, 0.82.
    region, _ = balls(((35.0, 35.0, 22.0), 14.0), ((35.0, 35.0, 38.0), 14.0))
    assert parts_of(region, SPACING, neck=0.95).max() == 2
    assert parts_of(region, SPACING, neck=0.6).max() == 1


@pytest.mark.parametrize("wanted", [1, 2, 3, 4])
def test_the_wanted_number_of_parts_cuts_the_deepest_necks_first(wanted):
    places = [(35.0, 20.0, 14.0), (35.0, 20.0, 32.0), (35.0, 20.0, 54.0)]
    alone = ((35.0, 58.0, 60.0), 7.0)
    region, _ = balls(*((p, 11.0) for p in places), alone)
    ids = parts_of(region, SPACING, wanted=wanted)
    # The ball apart is a part in any case; then the neck at 43 mm is deeper than that at 23 mm.
    assert ids.max() == max(2, wanted)
    if wanted == 3:
        assert found_at(ids, places[0]) == found_at(ids, places[1]) != found_at(ids, places[2])


def test_marks_make_one_part_each_and_pieces_without_one_stay_apart():
    region, _ = balls(((35.0, 35.0, 22.0), 12.0), ((35.0, 35.0, 34.0), 12.0))
    region[1:3, 60:66, 90:96] = True
    marks = [(14, 35, 22), (14, 35, 50)]
    ids = parts_of(region, SPACING, marks=marks)
    assert ids[14, 35, 22] == 1
    assert ids[14, 35, 50] == 2
    assert set(np.unique(ids[1:3, 60:66, 90:96])) == {3}
    assert np.array_equal(ids > 0, region)
    with pytest.raises(InputError, match="each point of split on the label"):
        parts_of(region, SPACING, marks=[(0, 0, 0)])


@settings(max_examples=15)
@given(st.integers(0, 2**31), st.sampled_from([(9, 30, 28), (40, 44)]), st.booleans())
def test_parts_cover_the_region_hang_together_and_never_join_pieces(seed, shape, is_counted):
    rng = np.random.default_rng(seed)
    region = np.pad(ndimage.gaussian_filter(rng.random(shape), 1.5) > 0.5, 1)
    spacing = SPACING[-len(shape) :]
    ids = parts_of(region, spacing, distance=2.0, wanted=12 if is_counted else 0)
    assert np.array_equal(ids > 0, region)
    assert set(np.unique(ids)) == set(range(ids.max() + 1)) - ({0} - set(np.unique(ids)))
    touching = np.ones((3,) * region.ndim)
    pieces, count = ndimage.label(region, touching)
    assert ids.max() >= count
    for part in range(1, ids.max() + 1):
        assert ndimage.label(ids == part, touching)[1] == 1
        assert len(np.unique(pieces[ids == part])) == 1
    if is_counted and ids.max() > count:
        assert ids.max() <= 12


def test_nothing_and_everything_are_no_parts():
    assert not parts_of(np.zeros((5, 6), bool), (1.0, 1.0)).any()
    assert (parts_of(np.ones((5, 6), bool), (1.0, 1.0)) == 1).all()

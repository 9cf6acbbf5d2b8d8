"""Chances in one byte a voxel, and the pieces in them that nobody drew."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.ops import resample, tiling
from maskloop.ops.candidates import (
    LOW,
    MOST_CLASSES,
    TOP,
    Chances,
    Sieve,
    encode,
    steps_of,
    worklist,
)

ALL = Sieve(smallest_mm3=0, smallest_voxels=1)
LABELS = LabelTable([Label(1, "liver"), Label(2, "tumour"), Label(5, "cyst")])


def decoded(codes: np.ndarray, things: int) -> tuple[np.ndarray, np.ndarray]:
    steps = steps_of(things)
    return codes // steps, (codes % steps) / (steps - 1) * TOP


def mask_of(ids: np.ndarray, spacing: tuple[float, ...] | None = (2.0, 1.0, 1.0)) -> Mask:
    grid = Geometry.pixels(ids.shape) if spacing is None else Geometry.regular(ids.shape, spacing)
    return Mask(ids.astype(np.uint8), grid, LABELS)


@given(st.integers(1, MOST_CLASSES), st.integers(0, 2**32 - 1))
def test_a_code_tells_the_likeliest_thing_to_half_a_step(things: int, seed: int) -> None:
    chances = np.random.default_rng(seed).dirichlet(np.ones(things + 1), 20).T[1:]
    which, chance = decoded(encode(chances), things)
    np.testing.assert_array_equal(which, chances.argmax(axis=0))
    wanted = np.minimum(chances.max(axis=0), TOP)
    np.testing.assert_allclose(chance, wanted, atol=0.51 * TOP / (steps_of(things) - 1))


def test_too_many_things_are_refused() -> None:
    with pytest.raises(InputError, match="1 to 25 classes"):
        steps_of(MOST_CLASSES + 1)


@pytest.mark.parametrize("things", [(2,), (2, 5)])
def test_a_run_of_tiles_keeps_the_softmax_of_the_scores_that_decide(
    things: tuple[int, ...],
) -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 6, 3, padding=1)
    volume = np.random.default_rng(0).normal(size=(1, 23, 17, 31)).astype(np.float32) * 4
    watch = tiling.Watch(things)
    told = {"tile": (12, 12, 12), "classes": 6, "overlap": 0.4}
    ids = tiling.predict_labels(volume, network, watch=watch, **told)
    np.testing.assert_array_equal(ids, tiling.predict_labels(volume, network, **told))
    scores = tiling.predict_scores(volume, network, **told)
    chances = torch.softmax(torch.from_numpy(scores), 0).numpy()[list(things)]
    found, wanted = watch.codes.astype(int), encode(chances).astype(int)
    assert watch.codes.dtype == np.uint8
    # Sums in another order: a probability may round to the next step, or the likeliest swap.
    same_thing = found // steps_of(len(things)) == wanted // steps_of(len(things))
    assert same_thing.mean() > 0.999
    assert np.abs(found - wanted)[same_thing].max() <= 1


@settings(max_examples=30)
@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=3, max_side=7)),
    st.lists(st.integers(1, 40), min_size=3, max_size=3),
)
def test_interpolation_in_parts_is_that_of_the_whole(values: np.ndarray, size: list[int]) -> None:
    shape = tuple(size[: values.ndim])
    zooms = [n / m for n, m in zip(values.shape, shape, strict=True)]
    at = np.meshgrid(
        *((np.arange(m) + 0.5) * z - 0.5 for m, z in zip(shape, zooms, strict=True)), indexing="ij"
    )
    wanted = ndimage.map_coordinates(values.astype(float), at, order=1, mode="nearest")
    np.testing.assert_allclose(resample.linear(values, shape), wanted, atol=0.5001)
    parts = list(resample.linear_parts(np.stack([values, values]), shape))
    np.testing.assert_allclose(np.concatenate([p for _, p in parts], axis=1)[1], wanted, atol=1e-3)


def test_a_finer_grid_costs_little_more_than_its_bytes() -> None:
    codes = np.random.default_rng(0).integers(0, 255, (40, 50, 50)).astype(np.uint8)
    shape = (160, 300, 300)
    tracemalloc.start()
    found = Chances(codes, (2,)).on_shape(shape)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.codes.shape == shape
    assert found.codes.nbytes == 160 * 300 * 300
    assert peak < 2.5 * found.codes.nbytes  # a volume of floats alone would be four times


def test_two_things_stay_apart_on_a_finer_grid() -> None:
    chances = np.zeros((2, 4, 4, 8))
    chances[0, :, :, 1], chances[1, :, :, 6] = 0.4, 0.3
    found = Chances(encode(chances), (2, 5)).on_shape((8, 8, 16))
    which, chance = decoded(found.codes, 2)
    assert chance[..., 3].max() == pytest.approx(0.3, abs=0.01)  # a quarter of the way to nothing
    assert (which[..., :8][chance[..., :8] > 0.05] == 0).all()
    assert (which[..., 8:][chance[..., 8:] > 0.05] == 1).all()
    assert chance[..., 12].max() == pytest.approx(0.225, abs=0.01)


# The worklist


def test_what_touches_a_drawn_object_is_its_rim_not_a_candidate() -> None:
    ids = np.zeros((3, 12, 12), np.uint8)
    ids[1, 2:4, 2:4] = 2
    chances = np.zeros(ids.shape)
    chances[1, 2:5, 2:5] = 0.4  # round the drawn one
    chances[2, 5, 5] = 0.4  # meets that rim at a corner
    chances[1, 8:10, 8:10] = 0.3
    found = worklist(mask_of(ids), Chances(encode(chances[None]), (2,)), ALL)
    assert [c.box for c in found.candidates] == [(slice(1, 2), slice(8, 10), slice(8, 10))]
    assert found.candidates[0].volume_mm3 == pytest.approx(4 * 2)


def test_a_liver_round_it_does_not_hide_a_candidate_but_another_thing_does() -> None:
    ids = np.ones((3, 12, 12), np.uint8)
    ids[:, :, 6:] = 5
    chances = np.zeros((2, *ids.shape))
    chances[0, 1, 2:4, 2:4] = chances[0, 1, 8:10, 8:10] = 0.3
    found = worklist(mask_of(ids), Chances(encode(chances), (2, 5)), ALL)
    assert [(c.label, c.name, c.centre[1] < 5) for c in found.candidates] == [(2, "tumour", True)]


def test_each_thing_has_candidates_of_its_own() -> None:
    chances = np.zeros((2, 3, 12, 12))
    chances[0, 1, 2:4, 2:4], chances[1, 1, 2:4, 4:6] = 0.2, 0.3
    found = worklist(mask_of(np.zeros((3, 12, 12))), Chances(encode(chances), (2, 5)), ALL)
    assert [(c.name, c.voxels) for c in found.candidates] == [("cyst", 4), ("tumour", 4)]
    assert [c.peak for c in found.candidates] == pytest.approx([0.3, 0.2], abs=0.005)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.05, LOW, 0.3]))
def test_pieces_are_those_of_scipy_less_the_ones_that_touch(seed: int, low: float) -> None:
    rng = np.random.default_rng(seed)
    chances = ndimage.gaussian_filter(rng.random((9, 14, 14)), 1.2)
    chances = (chances - chances.min()) / np.ptp(chances)
    ids = np.where(chances > 0.8, 2, 0)
    chances = np.minimum(chances * 0.6, TOP)
    sieve = Sieve(low, smallest_mm3=0, smallest_voxels=1, most=1000)
    found = worklist(mask_of(ids), Chances(encode(chances[None]), (2,)), sieve)
    kept = np.rint(chances / TOP * 254) >= np.ceil(low / TOP * 254 - 0.5)
    pieces, count = ndimage.label(kept | (ids == 2), np.ones((3, 3, 3)))
    free = [i for i in range(1, count + 1) if not (ids[pieces == i] == 2).any()]
    assert {c.region.sum() for c in found.candidates} == {(pieces == i).sum() for i in free}
    assert len(found.candidates) == len(free)
    assert (found.small, found.more) == (0, 0)
    for one in found.candidates:
        held = chances[one.box][one.region]
        assert one.peak == pytest.approx(held.max(), abs=0.002)
        assert one.mean == pytest.approx(held.mean(), abs=0.002)


def test_small_pieces_and_a_long_list_are_counted() -> None:
    chances = np.zeros((3, 40, 40))
    for i in range(6):
        chances[1, 6 * i : 6 * i + 3, 0:3] = 0.2 + 0.04 * i
    chances[1, 2, 30] = chances[1, 20, 30:33] = 0.4
    codes = encode(chances[None])
    found = worklist(mask_of(np.zeros(chances.shape)), Chances(codes, (2,)), Sieve(most=4))
    assert [round(c.peak, 2) for c in found.candidates] == [0.4, 0.36, 0.32, 0.28]
    assert (found.small, found.more) == (2, 2)
    words = found.words(Sieve(most=4))
    assert words.startswith("4 candidates below the model's threshold (2 smaller than 14 mm3")
    assert "2 less likely than the first 4 left out" in words


def test_a_picture_has_candidates_in_pixels() -> None:
    chances = np.zeros((1, 30, 30))
    chances[0, 2:7, 2:7], chances[0, 20:23, 20:23] = 0.4, 0.3
    found = worklist(mask_of(np.zeros((30, 30)), None), Chances(encode(chances), (2,)))
    (one,) = found.candidates
    assert (one.centre, one.voxels, one.volume_mm3) == ((4, 4), 25, None)
    assert found.small == 1


def test_nothing_likely_makes_an_empty_list() -> None:
    codes = np.zeros((3, 4, 5), np.uint8)
    found = worklist(mask_of(np.ones((3, 4, 5))), Chances(codes, (2,)))
    assert found.candidates == ()
    assert "look for missed objects yourself" in found.words(Sieve())


@pytest.mark.parametrize("low", [0.0, 0.5, -1.0, float("nan")])
def test_a_threshold_out_of_range_is_refused(low: float) -> None:
    with pytest.raises(InputError, match="low threshold"):
        Sieve(low)


def test_what_is_asked_for_becomes_a_sieve() -> None:
    assert Sieve.of(False) is None
    assert Sieve.of(True) == Sieve(LOW)
    assert Sieve.of(0.25) == Sieve(0.25)
    assert Sieve.of(Sieve(most=3)) == Sieve(most=3)

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage.segmentation import watershed

from maskloop.ops import coarse, flood
from maskloop.ops.intensity import blurred, steepness


@given(st.integers(0, 2**31), st.tuples(*[st.integers(1, 4)] * 3))
def test_blocks_hold_means_and_the_one_id_all_agree_on(seed, blocks):
    rng = np.random.default_rng(seed)
    shape = tuple(n * b for n, b in zip((3, 2, 4), blocks, strict=True))
    pixels = rng.normal(0, 10, shape)
    ids = np.where(rng.random(shape) < 0.3, rng.integers(1, 3, shape), 0).astype(np.uint8)
    means, agreed = coarse.means(pixels, blocks), coarse.agreed(ids, blocks)
    for index in np.ndindex(means.shape):
        part = tuple(slice(i * b, (i + 1) * b) for i, b in zip(index, blocks, strict=True))
        held = set(np.unique(ids[part])) - {0}
        assert np.isclose(means[index], pixels[part].mean(), atol=1e-4)
        assert agreed[index] == (held.pop() if len(held) == 1 else 0)
    assert np.array_equal(
        coarse.spread(agreed, blocks, shape)[:: blocks[0]][:, 0, 0], agreed[:, 0, 0]
    )


def test_blocks_are_near_cubes_in_millimetres():
    blocks = coarse.blocks_for((60, 300, 400), (3.0, 0.75, 0.5), 32_000)
    sides = np.array(blocks) * (3.0, 0.75, 0.5)
    assert sides.max() / sides.min() < 1.3
    assert 15_000 < np.prod(np.array((60, 300, 400)) / blocks) < 64_000


@pytest.mark.parametrize("blocks", [(1, 1), (2, 3), (4, 4)])
def test_a_slope_is_a_slope_again_between_the_blocks_centres(blocks):
    y, x = np.indices((12, 24)).astype(float)
    found = coarse.linear(coarse.means(2 * y + 3 * x, blocks), blocks)
    assert found.shape == (12, 24)
    inner = (slice(blocks[0], -blocks[0]), slice(blocks[1], -blocks[1]))
    assert np.allclose(found[inner], (2 * y + 3 * x)[inner], atol=1e-4)


def test_a_blurred_box_is_a_box_of_the_blurred_whole():
    pixels = np.random.default_rng(0).normal(0, 10, (20, 50, 60)).astype(np.float32)
    box = (slice(5, 9), slice(10, 40), slice(0, 30))
    whole = ndimage.gaussian_filter(pixels, [2 / 3, 2, 2.5])
    assert np.allclose(blurred(pixels, box, (3.0, 1.0, 0.8), 2.0), whole[box], atol=1e-4)


def test_steepness_is_per_millimetre():
    z, y, x = np.indices((8, 9, 10)) * np.array((3.0, 1.0, 0.5)).reshape(3, 1, 1, 1)
    assert np.allclose(steepness(2 * z - 1 * y + 2 * x, (3.0, 1.0, 0.5)), 3.0, atol=1e-4)


def test_floods_meet_where_those_of_scikit_image_do():
    rng = np.random.default_rng(0)
    pixels = ndimage.gaussian_filter(rng.normal(0, 100, (40, 44)), 2).astype(np.float32)
    seeds = np.zeros(pixels.shape, np.uint8)
    seeds[5, 5], seeds[30, 35], seeds[8, 38] = 1, 2, 3
    found = flood.compete(pixels, (1.0, 1.0), seeds, blur=0.0)
    assert np.array_equal(found, watershed(steepness(pixels, (1.0, 1.0)), seeds.astype(int)))


def test_the_fine_band_puts_the_meeting_of_floods_on_the_edge_itself():
    z, y, x = np.indices((90, 96, 100))
    true = (z - 45) ** 2 + (y - 47) ** 2 + (x - 51) ** 2 <= 30.3**2
    seeds = np.zeros(true.shape, np.uint8)
    seeds[45, 47, 40:60], seeds[2:4], seeds[-4:-2] = 1, 2, 2
    found = flood.compete(np.where(true, 60.0, 110.0), (1.0, 1.0, 1.0), seeds, blur=0.0)
    wrong = (found == 1) != true
    assert wrong.sum() < 0.06 * true.sum()
    edge = ndimage.binary_dilation(true) & ~ndimage.binary_erosion(true)
    assert not (wrong & ~edge).any()

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_flow
from skimage.segmentation import random_walker

from maskloop.ops.cuts import edge_weights, minimum_cut, random_walk


def cost_of(region: np.ndarray, cost: np.ndarray, ties: list[np.ndarray]) -> float:
    total = float(cost[region].sum())
    for axis, tie in enumerate(ties):
        total += float(tie[np.diff(region.astype(int), axis=axis) != 0].sum())
    return total


def least_by_flow(cost: np.ndarray, ties: list[np.ndarray]) -> float:
    """The cost of the minimum cut, by SciPy's maximum flow on whole numbers."""
    index = np.arange(cost.size).reshape(cost.shape)
    source, sink = cost.size, cost.size + 1
    rows, columns, weights = [], [], []
    for axis, tie in enumerate(ties):
        one = index.take(range(cost.shape[axis] - 1), axis).ravel()
        other = index.take(range(1, cost.shape[axis]), axis).ravel()
        rows += [one, other]
        columns += [other, one]
        weights += [tie.ravel()] * 2
    flat = cost.ravel()
    within, without = np.flatnonzero(flat < 0), np.flatnonzero(flat > 0)
    rows += [np.full(within.size, source), without]
    columns += [within, np.full(without.size, sink)]
    weights += [-flat[within], flat[without]]
    joined = [np.concatenate(parts) for parts in (weights, rows, columns)]
    size = (cost.size + 2,) * 2
    graph = csr_matrix((joined[0].astype(np.int32), (joined[1], joined[2])), shape=size)
    return maximum_flow(graph, source, sink).flow_value + flat[within].sum()


@settings(max_examples=12)
@given(st.integers(0, 2**31), st.sampled_from([(13, 14), (6, 7, 8)]))
def test_its_cost_is_that_of_the_minimum_cut_by_maximum_flow(seed, shape):
    rng = np.random.default_rng(seed)
    cost = np.rint(1000 * ndimage.gaussian_filter(rng.normal(0, 1, shape), 0.7)).astype(int)
    shapes = [[n - (a == k) for k, n in enumerate(shape)] for a in range(len(shape))]
    ties = [rng.integers(0, 300, s) for s in shapes]
    share = minimum_cut(
        (cost / 1000).astype(np.float32), [(t / 1000).astype(np.float32) for t in ties], rounds=400
    )
    best = least_by_flow(cost, ties)
    assert best <= cost_of(share > 0.5, cost, ties) <= best + 0.005 * abs(best)


def test_ties_are_weak_across_edges_and_true_to_spacing():
    pixels = np.zeros((4, 6, 6))
    pixels[:, :, 3:] = 100
    along_z, along_y, along_x = edge_weights(pixels, (4.0, 1.0, 2.0), contrast=20.0, floor=0.01)
    assert np.allclose(along_z, 0.25)
    assert np.allclose(along_y, 1.0)
    assert np.allclose(along_x[:, :, [0, 1, 3, 4]], 0.5)
    assert np.allclose(along_x[:, :, 2], 0.005)


@pytest.mark.parametrize("shape", [(24, 25), (9, 12, 11)])
def test_a_walk_has_the_chances_of_scikit_images_random_walker(shape):
    rng = np.random.default_rng(0)
    pixels = ndimage.gaussian_filter(rng.normal(0, 60, shape), 1.0)
    labels = np.zeros(shape, int)
    labels[(2,) * len(shape)] = 1
    labels[(-3,) * len(shape)] = 2
    # Its weights are exp(-beta g^2 / (10 sd)); ours exp(-(g / contrast)^2).
    chances = random_walker(pixels, labels, beta=4, mode="bf", return_full_prob=True, prob_tol=1.0)
    contrast = float(np.sqrt(10 * pixels.std() / 4))
    found = random_walk(
        pixels, (1.0,) * len(shape), (labels == 2).astype(np.float32), labels == 0,
        contrast=contrast, floor=1e-10, tolerance=1e-10, rounds=5000,
    )  # fmt: skip
    assert np.abs(found - chances[1]).max() < 5e-3


def test_a_walk_between_two_walls_has_straight_chances_in_millimetres():
    shares = np.zeros((5, 11), np.float32)
    shares[:, -1] = 1
    unknown = np.ones(shares.shape, bool)
    unknown[:, [0, -1]] = False
    found = random_walk(
        np.zeros(shares.shape), (3.0, 0.5), shares, unknown, contrast=1.0, tolerance=1e-9
    )
    assert np.allclose(found, np.linspace(0, 1, 11), atol=1e-4)

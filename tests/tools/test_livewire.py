from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.ops.paths import least_cost
from maskloop.ops.scores import dice
from maskloop.tools.livewire import livewire

STEPS = (1.0, 0.6)  # of rows and columns


def disc(noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of a blurred disc of radius 14 on unequal steps, and its true pixels."""
    y, x = np.indices((60, 90)) * np.array(STEPS)[:, None, None]
    true = (y - 30) ** 2 + (x - 26) ** 2 <= 14**2
    pixels = ndimage.gaussian_filter(np.where(true, 140.0, 60.0), 0.8)
    return pixels + np.random.default_rng(1).normal(0, noise, true.shape), true


def in_volume(pixels: np.ndarray, axis: int) -> tuple[Image, Mask]:
    volume = np.moveaxis(np.stack([np.zeros_like(pixels), pixels, np.zeros_like(pixels)]), 0, axis)
    spacing = [*STEPS]
    spacing.insert(axis, 4.0)
    image = Image(np.ascontiguousarray(volume), Geometry.regular(volume.shape, spacing))
    ids = np.zeros(volume.shape, np.uint8)
    return image, Mask.like(image, ids, LabelTable.classes(["lesion"]))


def ring(axis: int, count: int, off: float = 0.0) -> list[list[float]]:
    """Anchors round the disc, some of them off its edge by some pixels."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    found = []
    for k, angle in enumerate(angles):
        radius = 14 + off * (-1) ** k
        point = [(30 + radius * np.sin(angle)) / STEPS[0], (26 + radius * np.cos(angle)) / STEPS[1]]
        point.insert(axis, 1.0)
        found.append(point)
    return found


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("noise", [0.0, 12.0])
def test_the_wire_finds_a_disc_from_anchors_beside_its_edge(axis, noise):
    pixels, true = disc(noise)
    image, mask = in_volume(pixels, axis)
    found = livewire(mask, image, label=1, anchors=ring(axis, 6, off=1.2))
    plane = np.moveaxis(found, axis, 0)
    assert dice(plane[1] == 1, true) > 0.97
    assert not plane[[0, 2]].any()
    # The corners alone, joined by straight lines, are much less than the disc.
    assert dice(plane[1] == 1, true) > 0.03 + 3 * 3**0.5 / (2 * np.pi)


def test_a_level_is_the_region_above_it_that_the_point_lies_on():
    pixels, true = disc(0.0)
    away = np.zeros_like(pixels)
    away[5:9, 70:80] = 200.0  # another bright thing
    image, mask = in_volume(np.maximum(pixels, away), 0)
    at = [1.0, 30.0, (26 + 14) / STEPS[1] + 0.5]
    found = livewire(mask, image, label=1, anchors=[at], mode="level", blur=0.0)[1] == 1
    level = ndimage.map_coordinates(pixels, np.array(at[1:])[:, None], order=1)[0]
    assert np.array_equal(found, (pixels > level) & ndimage.binary_dilation(true, iterations=3))


def test_a_level_that_the_picture_cuts_is_closed_along_its_edge():
    y, x = np.indices((40, 40))
    pixels = np.clip(100.0 - np.hypot(y - 0, x - 20), 0, 100)
    mask = Mask.like(Image(pixels, Geometry.pixels((40, 40))), np.zeros((40, 40), int), ["a"])
    image = Image(pixels, mask.geometry)
    found = livewire(mask, image, label=1, anchors=[(12.5, 20.0)], mode="level", blur=0.0)
    assert np.array_equal(found == 1, np.hypot(y, x - 20) < 12.5)


def test_a_flat_place_has_no_level():
    mask = Mask.like(Image(np.zeros((9, 9)), Geometry.pixels((9, 9))), np.zeros((9, 9), int), ["a"])
    with pytest.raises(InputError, match="expected an edge at the point"):
        livewire(
            mask, Image(np.zeros((9, 9)), mask.geometry), label=1, anchors=[(4, 4)], mode="level"
        )


def test_a_path_costs_no_more_than_any_other_of_a_small_grid():
    rng = np.random.default_rng(0)
    costs = rng.uniform(0.1, 1, (7, 8))
    path = least_cost(costs.astype(np.float32), (1.0, 1.0), (0, 0), (6, 7))
    best = np.full(costs.shape, np.inf)
    best[0, 0] = 0.0
    for _ in range(60):  # Bellman and Ford, over eight neighbours
        for move in [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b]:
            for i, j in np.ndindex(costs.shape):
                k, m = i + move[0], j + move[1]
                if 0 <= k < 7 and 0 <= m < 8:
                    step = np.hypot(*move) * (costs[i, j] + costs[k, m]) / 2
                    best[k, m] = min(best[k, m], best[i, j] + step)
    steps = np.diff(path, axis=0)
    means = (costs[tuple(path[:-1].T)] + costs[tuple(path[1:].T)]) / 2
    assert np.isclose((np.hypot(*steps.T) * means).sum(), best[6, 7], rtol=1e-5)

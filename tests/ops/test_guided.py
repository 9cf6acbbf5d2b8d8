"""The guided filter: equal to the paper's sums, exact where a result is known, tiled exactly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from maskloop.core.errors import InputError
from maskloop.ops import guided
from maskloop.ops.guided import Refinement, guide_of, guided_filter, refine


def by_windows(values: np.ndarray, guide: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """The paper's equations 4 to 8 (14 to 16 for several channels), one window after another."""
    shape = guide.shape[1:]
    total, count = np.zeros(shape), np.zeros(shape)
    flat = guide.astype(np.float64)
    for centre in itertools.product(*map(range, shape)):
        window = tuple(slice(max(0, c - radius), c + radius + 1) for c in centre)
        inside = flat[(slice(None), *window)].reshape(len(guide), -1)
        wanted = values[window].astype(np.float64).ravel()
        mean, level = inside.mean(axis=1), wanted.mean()
        away = inside - mean[:, None]
        spread = away @ away.T / inside.shape[1] + epsilon * np.eye(len(guide))
        slope = np.linalg.solve(spread, away @ (wanted - level) / inside.shape[1])
        here = flat[(slice(None), *window)]
        total[window] += np.tensordot(slope, here - mean.reshape(-1, *[1] * len(shape)), 1) + level
        count[window] += 1
    return total / count


@pytest.mark.parametrize(("shape", "channels"), [((9, 12), 1), ((9, 12), 3), ((5, 6, 7), 1)])
def test_it_is_the_papers_sum_over_windows(shape: tuple[int, ...], channels: int) -> None:
    rng = np.random.default_rng(len(shape) + channels)
    guide = rng.random((channels, *shape)).astype(np.float32)
    values = rng.random((2, *shape)).astype(np.float32)
    found = guided_filter(values, guide, radius=2, epsilon=0.01)
    for one, wanted in zip(found, values, strict=True):
        np.testing.assert_allclose(one, by_windows(wanted, guide, 2, 0.01), atol=2e-5)


def test_a_linear_function_of_the_guide_comes_back() -> None:
    guide = np.random.default_rng(0).random((1, 20, 30)).astype(np.float32)
    found = guided_filter(3 * guide - 1, guide, radius=3, epsilon=1e-9)
    np.testing.assert_allclose(found, 3 * guide - 1, atol=1e-3)


def test_adding_a_number_to_the_guide_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    guide, values = rng.random((2, 1, 20, 30)).astype(np.float32)
    plain = guided_filter(values, guide, radius=3, epsilon=1e-3)
    np.testing.assert_allclose(
        guided_filter(values, guide + 100, radius=3, epsilon=1e-3), plain, atol=2e-3
    )


def edge(noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A picture with an edge at column 20 and chances whose border is 2 columns beside it."""
    picture = np.zeros((1, 24, 40), np.float32)
    picture[:, :, 20:] = 1
    picture += np.random.default_rng(0).normal(0, noise, picture.shape).astype(np.float32)
    right = np.full((24, 40), 0.1, np.float32)
    right[:, 22:] = 0.9
    return picture, np.stack([1 - right, right])


def test_a_border_is_drawn_to_the_edge_close_by() -> None:
    picture, chances = edge(noise=0.02)
    found = refine(chances.copy(), picture, Refinement(radius=6))
    drawn = found.argmax(axis=0)
    assert (drawn[:, :20] == 0).all()
    assert (drawn[:, 20:] == 1).all()
    # A plain mean over the same windows blurs the border and leaves it where it was.
    flat = refine(chances.copy(), np.zeros_like(picture), Refinement(radius=6)).argmax(axis=0)
    np.testing.assert_array_equal(flat, chances.argmax(axis=0))


def test_probabilities_stay_probabilities() -> None:
    rng = np.random.default_rng(0)
    chances = rng.dirichlet((0.1, 0.1, 0.1), (30, 40)).astype(np.float32).transpose(2, 0, 1)
    found = refine(chances.copy(), rng.random((3, 30, 40)).astype(np.float32), Refinement(2, 1e-4))
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    assert found.min() >= 0
    assert found.dtype == np.float32


def test_parts_are_seamless(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    chances = rng.dirichlet((1, 1), (90, 20)).astype(np.float32).transpose(2, 0, 1)
    picture = rng.random((1, 90, 20)).astype(np.float32)
    whole = refine(chances.copy(), picture, Refinement(2))
    monkeypatch.setattr(guided, "_CHUNK", 1)
    np.testing.assert_allclose(refine(chances.copy(), picture, Refinement(2)), whole, atol=1e-6)


def test_a_grey_picture_in_three_channels_guides_as_one() -> None:
    grey = np.random.default_rng(0).random((1, 8, 9)).astype(np.float32) * 300 - 50
    scales = np.array([1, 1.1, 0.9], np.float32).reshape(3, 1, 1)
    assert guide_of(grey * scales + scales).shape == (1, 8, 9)
    assert guide_of(np.concatenate([grey, grey[:, ::-1]])).shape == (2, 8, 9)
    found = guide_of(grey)
    assert (found.min(), found.max()) == (0, 1)


def test_a_flat_picture_is_no_guide() -> None:
    assert (guide_of(np.full((3, 5, 5), 7, np.float32)) == 0).all()


def test_what_may_be_asked() -> None:
    assert Refinement.of(None) is None
    assert Refinement.of(False) is None
    assert Refinement.of(True) == Refinement(2)
    assert Refinement.of(7) == Refinement(7)
    assert Refinement.of({"epsilon": 0.1}) == Refinement(2, 0.1)
    assert Refinement.of(Refinement(3, 0.2).to_json()) == Refinement(3, 0.2)


@pytest.mark.parametrize(
    "asked", [0, -1, {"radius": 0}, {"radius": 2.5}, {"epsilon": 0}, {"magic": 1}, "yes"]
)
def test_what_is_no_refinement_is_refused(asked: object) -> None:
    with pytest.raises(InputError, match="expected a r"):
        Refinement.of(asked)  # type: ignore[arg-type]

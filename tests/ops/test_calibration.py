"""A cubic is laid through frequencies that never falls and never leaves 0 to 1."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskloop.ops.calibration import Tally, calibrated, monotone_cubic

X = np.linspace(0, 1, 101)


def test_a_rising_cubic_is_found_again() -> None:
    wanted = [0.05, 0.2, 0.1, 0.6]
    found = monotone_cubic(X, np.polynomial.Polynomial(wanted)(X), np.ones(101))
    assert found == pytest.approx(wanted, abs=1e-4)


@given(st.integers(0, 999), st.integers(1, 30))
def test_whatever_the_points_it_rises_within_0_and_1(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.random(count), rng.random(count)
    values = np.polynomial.Polynomial(monotone_cubic(x, y, rng.random(count) + 0.1))(X)
    assert (np.diff(values) >= -1e-6).all()
    assert values.min() >= -1e-6
    assert values.max() <= 1 + 1e-6


def test_a_plain_fit_of_falling_points_would_fall() -> None:
    """What the constraint is for: without it the bar above is missed."""
    y = 0.5 + 0.3 * np.sin(7 * X)
    assert np.diff(np.polynomial.Polynomial.fit(X, y, 3)(X)).min() < -1e-3


def test_the_nearest_rising_cubic_is_no_worse_than_others_that_rise() -> None:
    y = np.clip(X**4 / (X**4 + (1 - X) ** 2), 0, 1)
    found = monotone_cubic(X, y, np.ones(101))
    error = float(((np.polynomial.Polynomial(found)(X) - y) ** 2).sum())
    for a in np.linspace(0, 1, 6):
        for b in np.linspace(0, 1 - a, 6):
            other = [0, a, b, 1 - a - b]
            assert error <= float(((np.polynomial.Polynomial(other)(X) - y) ** 2).sum()) + 1e-6


def test_two_classes_stay_each_others_rest() -> None:
    rng = np.random.default_rng(0)
    one = rng.random(20_000).astype(np.float32)
    truth = (rng.random(20_000) < one**2).astype(np.uint8)
    tally = Tally(2)
    tally.add(np.stack([1 - one, one]), truth)
    background, label = (np.polynomial.Polynomial(c) for c in tally.cubics())
    np.testing.assert_allclose(background(1 - X), 1 - label(X), atol=2e-3)
    np.testing.assert_allclose(label(X), X**2, atol=0.03)


def test_counted_in_parts_is_counted_at_once() -> None:
    rng = np.random.default_rng(1)
    chances = rng.dirichlet(np.ones(3), 600).T.astype(np.float32)
    truth = rng.integers(0, 3, 600)
    whole, parts = Tally(3), Tally(3)
    whole.add(chances, truth)
    for part in (slice(0, 100), slice(100, 600)):
        parts.add(chances[:, part], truth[part])
    np.testing.assert_allclose(parts.cubics(), whole.cubics(), atol=1e-6)


def test_a_class_never_seen_keeps_its_probability() -> None:
    tally = Tally(3)
    chances = np.array([[0.9, 0.1, 0.3], [0.05, 0.8, 0.5], [0.05, 0.1, 0.2]], np.float32)
    tally.add(chances, np.array([0, 1, 1], np.uint8))
    cubics = tally.cubics()
    assert cubics[2] == [0, 1, 0, 0]
    assert cubics[0] != [0, 1, 0, 0]


def test_one_class_alone_changes_nothing() -> None:
    """Where only cells were reviewed, a pixel that looks like background is not called a cell."""
    tally = Tally(2)
    tally.add(np.array([[0.9, 0.2], [0.1, 0.8]], np.float32), np.ones(2, np.uint8))
    assert tally.cubics() == [[0, 1, 0, 0]] * 2


def test_where_every_class_becomes_0_the_old_probabilities_stand() -> None:
    raw = np.array([[0.5, 1.0], [0.5, 0.0]], np.float32)
    found = calibrated(raw, [[-0.5, 1, 0, 0], [-0.5, 1, 0, 0]])
    np.testing.assert_array_equal(found, raw)

"""Dice per class agrees with the definition and leaves out what nobody reviewed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from maskloop.training.measure import dice_by_class, mean_scores


def test_dice_agrees_with_its_definition() -> None:
    rng = np.random.default_rng(0)
    found, truth = (rng.integers(0, 3, (5, 6, 7)).astype(np.uint8) for _ in range(2))
    where = rng.random((5, 6, 7)) > 0.4
    scores = dice_by_class(found, truth, ["liver", "tumour", "cyst"], where)
    for number, name in ((1, "liver"), (2, "tumour")):
        a, b = (found == number) & where, (truth == number) & where
        assert scores[name] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert math.isnan(scores["cyst"])


def test_a_label_found_where_there_is_none_scores_zero() -> None:
    empty, full = np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)
    assert dice_by_class(full, empty, ["liver"]) == {"liver": 0.0}


def test_means_leave_out_cases_without_the_label() -> None:
    found = mean_scores([{"a": 1.0, "b": math.nan}, {"a": 0.5, "b": math.nan}])
    assert found["a"] == 0.75
    assert math.isnan(found["b"])

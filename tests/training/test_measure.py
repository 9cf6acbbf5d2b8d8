"""Dice per class agrees with the definition and leaves out what nobody reviewed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from maskloop.core.labels import Label, LabelTable
from maskloop.training.measure import dice_by_class, mean_scores, panoptic_by_class


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


def test_things_and_stuff_are_scored_by_panoptic_quality() -> None:
    truth = np.zeros((4, 10), np.uint8)
    truth[:, :5], truth[:, 5:], truth[0, 0], truth[0, 9] = 1, 2, 4, 5
    # Classes: sky 1, cow 2, grass 3; the truth's ids are sky, sky, a cow, an unknown.
    class_of = np.array([0, 1, 1, 0, 2, 0])
    where = truth != 5
    mine = np.zeros((4, 10), np.uint8)
    mine[:2], mine[2:], mine[0, 0] = 7, 8, 9
    labels = LabelTable(
        [Label(7, "sky"), Label(8, "grass"), Label(9, "cow 9", category="cow", is_thing=True)]
    )
    classes = [Label(1, "sky"), Label(2, "cow", is_thing=True), Label(3, "grass"), Label(4, "sea")]
    found = panoptic_by_class(mine, labels, truth, class_of, classes, where)
    # Sky: 18 of 38 pixels are no match, one spare and one missed.
    assert found["sky"] == 0
    assert (found["cow"], found["grass"]) == (1.0, 0.0)
    assert math.isnan(found["sea"])

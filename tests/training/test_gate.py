"""The gate lets a model through only where held-out cases show it is no worse."""

from __future__ import annotations

import math

import pytest

from maskloop.training.gate import judge

OLD = {"liver": 0.95, "tumour": 0.50}


def _judge(new: dict[str, float], **more: object) -> str:
    arguments: dict[str, object] = {"is_disjoint": True, "cases": 6, **more}
    return judge(new, OLD, **arguments).verdict  # type: ignore[arg-type]


def test_a_better_model_is_promoted() -> None:
    assert _judge({"liver": 0.945, "tumour": 0.60}) == "proved"


@pytest.mark.parametrize("liver", [0.9399, 0.5, 0.0])
def test_a_model_that_loses_more_than_one_point_on_any_label_is_not(liver: float) -> None:
    found = judge({"liver": liver, "tumour": 0.99}, OLD, is_disjoint=True, cases=6)
    assert found.verdict == "candidate"
    assert not found.is_promoted
    assert "Dice of liver fell" in found.reasons[0]


def test_exactly_one_point_may_be_lost() -> None:
    assert _judge({"liver": 0.94, "tumour": 0.60}) == "proved"


def test_a_model_that_gains_nothing_is_not_promoted() -> None:
    assert _judge(dict(OLD)) == "candidate"


def test_too_few_cases_prove_nothing_however_good_the_score() -> None:
    assert _judge({"liver": 1.0, "tumour": 1.0}, cases=2) == "candidate, unproved"


def test_a_held_out_case_that_was_trained_on_proves_nothing() -> None:
    assert _judge({"liver": 1.0, "tumour": 1.0}, is_disjoint=False) == "candidate, unproved"


def test_a_model_without_a_forerunner_stays_a_candidate() -> None:
    found = judge({"liver": 0.99}, None, is_disjoint=True, cases=9)
    assert found.verdict == "candidate"
    assert "no earlier model" in found.reasons[0]


def test_a_label_in_no_held_out_case_neither_helps_nor_harms() -> None:
    nan = math.nan
    found = judge(
        {"liver": 0.97, "tumour": nan}, {"liver": 0.95, "tumour": nan}, is_disjoint=True, cases=3
    )
    assert found.verdict == "proved"
    assert "tumour: in no held-out case" in found.reasons


def test_a_label_that_can_no_longer_be_scored_counts_as_lost() -> None:
    assert _judge({"liver": 0.99, "tumour": math.nan}) == "candidate"

"""What the menus say of families, and that the code behind them says the same."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys

import pytest

from maskloop.core.labels import Label, LabelTable
from maskloop.desk import catalogue
from maskloop.models import FAMILIES, LISTED, Listed
from maskloop.models.base import Clicks

OWN = list(FAMILIES.entries)


def test_every_family_of_ours_is_listed() -> None:
    assert sorted(LISTED) == sorted(OWN)
    assert [row["name"] for row in catalogue.list_families()] == list(FAMILIES)


@pytest.mark.parametrize("name", OWN)
def test_what_is_listed_is_what_the_code_says(name: str) -> None:
    listed = LISTED[name]
    if listed.needs and importlib.util.find_spec(listed.needs[0]) is None:
        pytest.skip(f"{listed.needs[0]} is not installed")
    family = FAMILIES.get(name)
    told = (listed.title, listed.ndims, listed.variants, listed.tasks, listed.is_trainable)
    known = (family.title, family.ndims, family.variants, family.tasks, family.is_trainable)
    assert told == tuple(tuple(v) if isinstance(v, list) else v for v in known)
    assert listed.draws_at_points == isinstance(family, Clicks)
    rows = [Label(1, "nucleus", is_thing=True), Label(2, "tumour")]
    labels = LabelTable(rows[: 2 if name in ("liver", "panoptic") else 1])
    recipes = {
        variant: tuple(family.card(variant, labels).parameters.get("recipes", ()))
        for variant in family.variants
    }
    for variant in family.variants:
        assert set(listed.limits) <= set(family.card(variant, labels).limits)
    assert {v: n for v, n in listed.recipes.items() if n} == {v: n for v, n in recipes.items() if n}


def test_families_are_listed_without_torch() -> None:
    code = (
        "import sys; from maskloop.desk.catalogue import list_families as f; "
        "assert any(row['variants'] for row in f()); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_family_whose_package_is_missing_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = dataclasses.replace(LISTED["unet"], needs=("no_such_package", "extra"))
    monkeypatch.setitem(LISTED, "unet", absent)
    row = next(r for r in catalogue.list_families() if r["name"] == "unet")
    assert row["state"] == "missing"
    assert "napari-maskloop[extra]" in row["reason"]


def test_a_family_of_another_package_is_listed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES.entries, "theirs", "their.package:FAMILY")
    row = next(r for r in catalogue.list_families() if r["name"] == "theirs")
    assert row == catalogue._family_row("theirs", Listed("theirs", (), ()))
    assert (row["variants"], row["trainable"], row["state"]) == ([], True, "present")

"""The command compare: two masks or two models, its answers, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

import maskloop
from maskloop.cli import run
from maskloop.models import FAMILIES
from tests.gui.fake_family import save_fake


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a CT and two masks of it that differ in two places."""
    ids = np.zeros((20, 18, 10), np.uint8)
    ids[3:15, 3:15, 2:8] = 1
    other = ids.copy()
    other[3:15, 3:15, 7] = 0
    other[16:19, 16, 1] = 2
    for name, data in (("ct", ids.astype(np.int16) * 60), ("a", ids), ("b", other)):
        affine = np.diag([1.0, 1.0, 3.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(data, affine), tmp_path / f"{name}.nii.gz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_masks_are_compared(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "a.nii.gz", "b.nii.gz", "-o", "map.nii.gz", "--csv", "list.csv", "--json"]
    assert run(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["agreement"] == {
        "alike": 720, "only_a": 144, "only_b": 3, "other_class": 0, "share": 720 / 867,
    }  # fmt: skip
    assert [(r["a"], r["b"], r["voxels"]) for r in told["differences"]] == [
        ("label 1", "background", 144),
        ("background", "label 2", 3),
    ]
    assert [c["dice"] for c in told["classes"]] == [pytest.approx(1440 / 1584), 0.0]
    assert told["receipt"]["verdict"]
    kinds = maskloop.load_mask("map.nii.gz", kind="classes").data
    assert np.bincount(kinds.ravel()).tolist()[1:] == [720, 144, 3]
    with Path("list.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2


def test_text_is_for_people(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "a.nii.gz", "b.nii.gz", "--smallest", "10"]) == 0
    text = capsys.readouterr().out
    assert "a and b: 83.0% alike" in text
    assert "2 differences" in text
    assert "1 smaller region not listed, 3 voxels in all" in text
    assert "432 mm3" in text


def test_two_models_are_compared(
    files: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(FAMILIES.entries, "fake", "tests.gui.fake_family:FAMILY")
    save_fake(files, "first", ndim=3)
    save_fake(files, "second", ndim=3, how="high")
    assert run(["compare", "ct.nii.gz", "--models", "first", "second", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["a"]["name"], told["b"]["name"]) == ("first", "second")
    assert told["agreement"]["only_a"] == 864
    assert told["agreement"]["share"] == 0.0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a.nii.gz"], "two masks"),
        (["a.nii.gz", "b.nii.gz", "ct.nii.gz"], "two masks"),
        (["ct.nii.gz", "b.nii.gz", "--models", "x", "y"], "one image"),
        (["ct.nii.gz", "--models", "x", "x"], "two different models"),
        (["ct.nii.gz", "--models", "nosuch", "nuclei"], "nosuch"),
        (["a.nii.gz", "nosuch.nii.gz"], "nosuch.nii.gz"),
    ],
)
def test_wrong_use_is_refused_in_words(
    files: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert run(["compare", *words]) == 2
    assert told in capsys.readouterr().err

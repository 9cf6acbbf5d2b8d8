"""The scripts that people copy from run as they stand."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SAMPLES = ROOT / "sample_data"


def run(name: str, *arguments: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def test_ct_to_nifti_writes_a_proved_mask(tmp_path, monkeypatch, capsys) -> None:
    out = tmp_path / "mask.nii.gz"
    truth = SAMPLES / "phantom_ct_labels.nii.gz"
    run("ct_to_nifti.py", SAMPLES / "phantom_ct.nii.gz", truth, out, monkeypatch=monkeypatch)
    assert out.is_file()
    said = capsys.readouterr().out
    assert said.startswith("PASS")
    liver = next(line for line in said.splitlines() if line.startswith("liver "))
    assert float(liver.split()[1]) > 0.8


def test_nuclei_to_coco_writes_one_annotation_a_nucleus(tmp_path, monkeypatch, capsys) -> None:
    import json

    out = tmp_path / "nuclei.json"
    run("nuclei_to_coco.py", SAMPLES / "nuclei.png", out, monkeypatch=monkeypatch)
    found = json.loads(out.read_text(encoding="utf-8"))
    assert f"{len(found['annotations'])} nuclei" in capsys.readouterr().out
    assert len(found["annotations"]) > 10


def test_correct_a_case_leaves_what_the_reader_painted(tmp_path, monkeypatch, capsys) -> None:
    run("correct_a_case.py", SAMPLES / "phantom_ct.nii.gz", tmp_path, monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    assert "voxels painted by hand stayed as they were" in said
    assert "brush: tumour" in said
    assert "'grow: liver', 'phantom-liver: 2 labels'" in said
    assert said.splitlines()[2].startswith("liver ")


def test_move_a_dataset_tells_what_is_lost_and_proves_the_rest(
    tmp_path, monkeypatch, capsys
) -> None:
    source = tmp_path / "scans"
    for folder, name in (("images", "phantom_ct.nii.gz"), ("masks", "phantom_ct_labels.nii.gz")):
        (source / folder).mkdir(parents=True)
        shutil.copy(SAMPLES / name, source / folder)
    run("move_a_dataset.py", source, tmp_path / "out", Path("nnunet"), monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    assert "1 items of pairs, classes" in said
    assert "liver" in said
    assert f"PASS  {tmp_path / 'out'}" in said
    assert (tmp_path / "out" / "imagesTr" / "phantom_ct_0000.nii.gz").is_file()

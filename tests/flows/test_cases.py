"""A case from the first stroke to its replay, headless, with a real model."""

from __future__ import annotations

import json

import numpy as np
import pytest

import maskloop
from maskloop.cli import run
from maskloop.desk.draft import draft
from maskloop.ops.phantom import phantom_ct


@pytest.fixture
def ct(tmp_path):
    image, _ = phantom_ct(3, shape=(32, 64, 64), lesions=(2, 2))
    maskloop.convert(image, tmp_path / "ct.nii.gz")
    return tmp_path / "ct.nii.gz"


def test_a_models_rerun_leaves_the_readers_voxels_and_locked_labels(ct, capsys):
    assert run(["draft", str(ct), "-m", "phantom-liver", "--author", "anna", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["voxels"] > 1000
    assert told["refused"] == 0
    with maskloop.open_case(ct, author="anna") as case:
        drawn = case.mask.data.copy()
        liver = case.mask.labels.id_of("liver")
        inside = np.argwhere(drawn == liver)
        case.paint(inside[len(inside) // 2], radius_mm=6, label="tumour")
        case.paint((2, 3, 3), radius_mm=8, label="liver")
        by_hand, painted = case.hand(), case.mask.data.copy()
        rerun = draft(case, ct, "phantom-liver")
        assert rerun.edit.is_empty
        assert rerun.refused is not None
        assert rerun.refused.by_hand == np.count_nonzero(by_hand & (painted != drawn))
        assert np.array_equal(case.mask.data, painted)
        forced = draft(case, ct, "phantom-liver", over_hand=True)
        assert np.array_equal(case.mask.data, drawn)
        assert forced.edit.about["weights"]
        case.undo()
        assert np.array_equal(case.mask.data, painted)
    about = json.loads((ct.parent / "ct.maskloop" / "case.json").read_text())
    assert [s["kind"] for s in about["steps"]] == ["model", "person", "person"]
    (run_of_model,) = about["models"]
    assert run_of_model["model"] == "phantom-liver"
    assert all(len(digest) == 64 for digest in run_of_model["weights"].values())
    assert run_of_model["device"]


def test_replay_rebuilds_the_mask_that_was_left(ct, tmp_path, capsys):
    with maskloop.open_case(ct) as case:
        case.paint((10, 30, 30), radius_mm=20, label="liver")
        case.paint((10, 30, 30), radius_mm=8, label="tumour")
        expected = case.mask.data.copy()
    out = tmp_path / "mask.nii.gz"
    case_folder = str(ct.parent / "ct.maskloop")
    assert run(["replay", case_folder, "-o", str(out), "--image", str(ct), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "PASS"
    found = maskloop.load_mask(out)
    assert np.array_equal(found.data, expected)
    assert found.labels.names == {1: "liver", 2: "tumour"}
    again = tmp_path / "again.nii.gz"
    assert run(["replay", case_folder, "-o", str(again)]) == 0
    assert np.array_equal(maskloop.load_mask(again).data, expected)
    assert maskloop.load_mask(again).geometry.matches(found.geometry)
    assert run(["replay", str(tmp_path / "gone.maskloop"), "-o", str(out)]) == 2
    assert "expected a case folder" in capsys.readouterr().err


def test_a_tool_on_a_case_folder_is_a_step_of_it(ct, tmp_path, capsys):
    with maskloop.open_case(ct) as case:
        case.paint((10, 30, 30), radius_mm=20, label="liver")
        case.paint((10, 12, 12), radius_mm=0, label="liver")
        drawn = case.mask.data.copy()
    folder = str(ct.parent / "ct.maskloop")
    command = ["correct", folder, "--tool", "islands", "--label", "liver", "--author", "anna"]
    assert run([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["voxels"], told["refused"], told["receipt"]) == (0, 1, None)
    assert run([*command, "--over-hand", "-o", str(tmp_path / "mask.nii.gz")]) == 0
    with maskloop.open_case(ct) as case:
        assert case.history.steps[-1] == "islands: liver"
        assert case.mask.data.sum() == drawn.sum() - 1
        assert np.array_equal(maskloop.load_mask(tmp_path / "mask.nii.gz").data, case.mask.data)
    box = ["--box", "0:5,:,:", "--margin", "5"]
    capsys.readouterr()
    assert run(["correct", folder, "--tool", "grow", "--label", "1", *box, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["voxels"] > 0
    with maskloop.open_case(ct) as case:
        changed = case.mask.data != drawn
        changed[10, 12, 12] = False
        assert changed[:5].any()
        assert not changed[5:].any()
    assert run(["correct", folder, "--tool", "grow", "--label", "1", "--box", "a:b"]) == 2
    assert "expected a box such as" in capsys.readouterr().err
    assert run(["correct", str(ct), "--tool", "grow", "--label", "1"]) == 2
    assert "only a case folder keeps the change" in capsys.readouterr().err


def test_a_picture_and_a_second_mask_are_replayed_too(tmp_path, capsys):
    picture = maskloop.Image(
        np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8),
        maskloop.Geometry.pixels((40, 50)),
        has_channels=True,
    )
    maskloop.convert(picture, tmp_path / "photo.png")
    with maskloop.open_case(tmp_path / "photo.png") as case:
        case.paint((20, 20), radius_mm=6, label="cat")
        case.add_mask("shadows", maskloop.Mask.like(picture, np.zeros((40, 50), np.uint8), []))
        case.paint((20, 22), radius_mm=3, label="shadow", mask="shadows")
        first, second = (case.masks[name].data.copy() for name in ("", "shadows"))
    folder = str(tmp_path / "photo.maskloop")
    for mask, expected in ((None, first), ("shadows", second)):
        chosen = ["--mask", mask] if mask else []
        assert run(["replay", folder, "-o", str(tmp_path / f"{mask}.png"), *chosen]) == 0
        assert np.array_equal(maskloop.load_mask(tmp_path / f"{mask}.png").data, expected)
    assert "it also has shadows" in capsys.readouterr().err
    image = str(tmp_path / "photo.png")
    assert run(["replay", folder, "--image", image, "-o", str(tmp_path / "mask.json")]) == 0
    assert run(["replay", folder, "--mask", "x", "-o", str(tmp_path / "x.png")]) == 2
    assert "choose one of: shadows" in capsys.readouterr().err

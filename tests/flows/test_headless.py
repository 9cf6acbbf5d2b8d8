"""The walks that must stay straight, without a window: CT to mask, photo to COCO, fine-tuning."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as Picture

import maskloop
from maskloop.cli import run
from maskloop.core.case import Case
from maskloop.core.edits import Edit
from maskloop.core.geometry import Geometry
from maskloop.core.mask import Mask
from maskloop.desk.cases import case_folder, open_case, replay
from maskloop.ops.phantom import nuclei_picture, phantom_ct

SHAPE, SPACING = (20, 36, 36), (8.0, 8.0, 8.0)


def oblique(grid: Geometry) -> np.ndarray:
    """The (x, y, z) affine of a phantom's grid, tilted as a scanner tilts it and moved."""
    a, b = np.deg2rad(9), np.deg2rad(-6)
    about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    about_z = [[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]]
    tilt = np.eye(4)
    tilt[:3, :3] = np.array(about_x) @ np.array(about_z)
    tilt[:3, 3] = (-31.5, 12.25, 417.0)
    return tilt @ grid.affine[:, [2, 1, 0, 3]]


def draw_ct(path: Path, seed: int) -> Mask:
    """Write a phantom as an oblique LAS NIfTI; return its exact mask, in the file's voxel order."""
    image, truth = phantom_ct(seed, shape=SHAPE, spacing=SPACING, lesions=(3, 5))
    data, affine = image.data.T, oblique(image.geometry)
    flipped = affine.copy()
    flipped[:3, 3] += flipped[:3, 0] * (data.shape[0] - 1)
    flipped[:3, 0] *= -1
    volume = nibabel.Nifti1Image(data[::-1].copy(), flipped)
    volume.header.set_xyzt_units("mm")
    nibabel.save(volume, path)
    loaded = maskloop.load(path)
    return Mask.like(loaded, truth.data[:, :, ::-1].copy(), truth.labels)


def world_points(path: Path, label: int) -> np.ndarray:
    """Where the voxels of a label lie in mm, by nibabel alone."""
    volume = nibabel.load(path)
    index = np.argwhere(np.asarray(volume.dataobj) == label)
    return nibabel.affines.apply_affine(volume.affine, index)


def test_ct_to_draft_to_strokes_and_tools_to_nifti(tmp_path):
    path = tmp_path / "ct.nii.gz"
    truth = draw_ct(path, 5)
    image = maskloop.load(path)
    draft = maskloop.predict(image, "phantom-liver").mask
    assert draft.geometry.matches(image.geometry)
    assert draft.ids()

    with open_case(path, mask=draft) as case:
        tumour = np.argwhere(truth.data == 2)
        z, y, x = tumour[len(tumour) // 2]
        stroke = case.mask.data.copy()
        stroke[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2] = 2
        case.apply(Edit.between(case.mask.data, stroke, tool="brush", author="Ada", words="brush"))
        done = maskloop.correct(case.mask, "islands", image=image, label="liver", author="Ada")
        case.apply(done.edit)
        grown = maskloop.correct(
            case.mask, "grow", image=image, label="tumour", parameters={"margin": 8.0}
        )
        case.apply(grown.edit)
        case.undo()
        assert case.history.steps == ["brush", "islands: liver", "grow: tumour"]
        corrected = case.mask.data.copy()

    assert np.array_equal(replay(case_folder(path)).data, corrected)
    mask = Mask.like(image, corrected, draft.labels)
    receipt = maskloop.export(mask, tmp_path / "mask.nii.gz", image=image)
    assert receipt.verdict == "PASS"

    # What two other programs read: the same voxels at the same millimetres as the CT's own.
    volume = nibabel.load(tmp_path / "mask.nii.gz")
    assert np.allclose(volume.affine, nibabel.load(path).affine, atol=1e-4)
    assert np.array_equal(np.asarray(volume.dataobj), corrected.T)
    points = world_points(tmp_path / "mask.nii.gz", 2)
    expected = image.geometry.to_world(np.argwhere(corrected == 2))
    assert np.abs(points[np.lexsort(points.T)] - expected[np.lexsort(expected.T)]).max() < 1e-3
    import SimpleITK

    read = SimpleITK.ReadImage(str(tmp_path / "mask.nii.gz"))
    assert np.array_equal(SimpleITK.GetArrayFromImage(read), corrected)
    index = [int(i) for i in (x, y, z)]
    lps = np.array(read.TransformContinuousIndexToPhysicalPoint([float(i) for i in index]))
    assert np.abs(lps * (-1, -1, 1) - image.geometry.to_world([z, y, x])).max() < 1e-3


def test_the_case_refuses_another_image_and_a_second_start(tmp_path):
    path = tmp_path / "ct.nii.gz"
    truth = draw_ct(path, 6)
    open_case(path, mask=truth).close()
    with pytest.raises(maskloop.MaskloopError, match="which exists, got one"):
        open_case(path, mask=truth)
    with open_case(path) as case:
        assert np.array_equal(case.mask.data, truth.data)
        assert dict(case.mask.labels) == dict(truth.labels)
    draw_ct(path, 7)
    with pytest.raises(maskloop.MaskloopError, match="made for, got another"):
        open_case(path)


def test_a_new_case_starts_empty_and_may_lie_in_a_workspace(tmp_path):
    path = tmp_path / "photo.png"
    Picture.fromarray(np.zeros((20, 30), np.uint8)).save(path)
    (tmp_path / "work").mkdir()
    with open_case(path, workspace=tmp_path / "work") as case:
        assert case.mask.data.shape == (20, 30)
        assert not case.mask.data.any()
        assert case.folder is not None
        assert case.folder.parent == tmp_path / "work"
        assert case.folder.name.startswith("photo-")
    with Case.open(case.folder) as again:
        assert len(again.history) == 0


def test_photo_to_objects_to_coco(tmp_path):
    drawn, _ = nuclei_picture(3, (96, 96), count=(6, 10))
    Picture.fromarray(drawn.data).save(tmp_path / "cells.png")
    image = maskloop.load(tmp_path / "cells.png")
    found = maskloop.predict(image, "nuclei").mask
    assert found.labels.kind == "objects"
    assert len(found.ids()) >= 3
    done = maskloop.correct(found, "holes", image=image, label="all")
    receipt = maskloop.export(done.mask, tmp_path / "cells.json", image=image)
    assert receipt.verdict == "PASS"
    document = json.loads((tmp_path / "cells.json").read_text())
    assert document["images"][0]["file_name"] == "cells.png"
    assert len(document["annotations"]) == len(done.mask.ids())
    back = maskloop.load_mask(tmp_path / "cells.json", image=image)
    assert np.array_equal(back.data > 0, done.mask.data > 0)


def test_corrected_cases_to_a_new_model_in_the_menu(tmp_path, home, capsys):
    words = []
    for seed in (21, 22, 23):
        truth = draw_ct(tmp_path / f"ct_{seed}.nii.gz", seed)
        image = maskloop.load(tmp_path / f"ct_{seed}.nii.gz")
        maskloop.export(truth, tmp_path / f"mask_{seed}.nii.gz", image=image)
        words.append(f"{tmp_path / f'ct_{seed}.nii.gz'}={tmp_path / f'mask_{seed}.nii.gz'}")
    assert "mine" not in [row["name"] for row in maskloop.list_models()]

    command = ["train", *words, "--base", "phantom-liver", "--name", "mine", "--steps", "1"]
    assert run([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["new"]) == set(report["old"]) == {"liver", "tumour"}
    assert len(report["held_out"]) == 1
    assert len(report["trained_on"]) == 2
    assert not set(report["held_out"]) & set(report["trained_on"])

    (row,) = [row for row in maskloop.list_models() if row["name"] == "mine"]
    assert row["origin"] == "user"
    assert row["state"] == "present"
    assert Path(report["folder"]).is_relative_to(home)
    found = maskloop.predict(tmp_path / "ct_21.nii.gz", "mine")
    assert found.mask.geometry.matches(maskloop.load(tmp_path / "ct_21.nii.gz").geometry)

    # The same training asked for again is not run again.
    assert run(command) == 0
    assert "mine:" in capsys.readouterr().out


def test_the_corrected_mask_scores_better_than_the_draft(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    truth = draw_ct(tmp_path / "ct.nii.gz", 8)
    image = maskloop.load("ct.nii.gz")
    maskloop.export(truth, "truth.nii.gz", image=image)
    spoiled = truth.data.copy()
    spoiled[2:5, 2:5, 2:5] = 1
    maskloop.export(Mask.like(image, spoiled, truth.labels), "draft.nii.gz", image=image)
    tool = ["correct", "draft.nii.gz", "--image", "ct.nii.gz", "--tool", "islands"]
    assert run([*tool, "--label", "liver", "-o", "better.nii.gz"]) == 0
    capsys.readouterr()
    dice = {}
    for name in ("draft", "better"):
        assert run(["score", f"{name}.nii.gz", "truth.nii.gz", "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["labels"]
        dice[name] = {row["name"]: row["dice"] for row in rows}
    assert dice["draft"]["liver"] < dice["better"]["liver"] == 1.0
    assert dice["draft"]["tumour"] == dice["better"]["tumour"] == 1.0


def test_opening_correcting_and_exporting_never_import_torch(tmp_path):
    draw_ct(tmp_path / "ct.nii.gz", 9)
    script = f"""
import sys
from pathlib import Path
import numpy as np
import maskloop
from maskloop.cli import run
from maskloop.core.mask import Mask
folder = Path({str(tmp_path)!r})
image = maskloop.load(folder / "ct.nii.gz")
ids = (image.data > 0).astype(np.uint8)
maskloop.export(Mask.like(image, ids, ["body"]), folder / "mask.nii.gz", image=image)
assert run(["info", str(folder / "mask.nii.gz")]) == 0
old, new = str(folder / "mask.nii.gz"), str(folder / "new.nii.gz")
assert run(["correct", old, "-t", "smooth", "-o", new]) == 0
assert run(["models"]) == run(["tools"]) == run(["formats"]) == 0
assert run(["score", new, old]) == 0
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)

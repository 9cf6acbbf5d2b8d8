"""info: what a file is, in JSON."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import PIL.Image
import pytest

from maskloop.core.geometry import Geometry
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.desk.check import info
from maskloop.loop.export import export


def test_a_volume_says_where_it_lies(tmp_path):
    affine = np.array([[0, 0, 3.0, 1], [-0.7, 0, 0, 2], [0, 0.8, 0, 3], [0, 0, 0, 1]])
    values = np.random.default_rng(0).integers(-1000, 900, (4, 5, 6)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "ct.nii.gz")
    found = json.loads(json.dumps(info(tmp_path / "ct.nii.gz")))
    assert (found["kind"], found["format"], found["shape"]) == ("volume", "nifti", [6, 5, 4])
    np.testing.assert_allclose(found["spacing_mm"], [3, 0.8, 0.7], atol=1e-6)
    assert found["orientation"] == "RSP"
    np.testing.assert_allclose(found["affine"], affine[:, [2, 1, 0, 3]], atol=1e-6)
    assert found["range"] == [int(values.min()), int(values.max())]
    assert (found["dtype"], found["frames"], found["channels"], found["labels"]) == (
        "int16",
        1,
        1,
        None,
    )


def test_a_mask_lists_its_labels(tmp_path):
    ids = np.zeros((4, 5, 6), np.uint8)
    ids[1:3, 1:4, 1:5] = 2
    grid = Geometry.regular((4, 5, 6), (3, 1, 1))
    export(Mask(ids, grid, LabelTable.classes({1: "liver", 2: "tumour"})), tmp_path / "m.nii.gz")
    found = info(tmp_path / "m.nii.gz")
    assert found["kind"] == "mask"
    assert [(r["id"], r["name"], r["voxels"]) for r in found["labels"]] == [
        (1, "liver", 0),
        (2, "tumour", 24),
    ]


@pytest.mark.parametrize("suffix", ["png", "tif", "json"])
def test_label_pictures_are_masks(tmp_path, suffix):
    ids = np.zeros((20, 30), np.uint8)
    ids[3:9, 4:12], ids[11:18, 14:28] = 1, 2
    export(Mask(ids, Geometry.pixels((20, 30)), LabelTable()), tmp_path / f"m.{suffix}")
    found = json.loads(json.dumps(info(tmp_path / f"m.{suffix}")))
    assert found["kind"] == ("coco" if suffix == "json" else "mask")
    assert (found["shape"], found["spacing_mm"], found["unit"]) == ([20, 30], None, "px")
    assert [r["voxels"] for r in found["labels"]] == [48, 98]


def test_a_photo_is_a_picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    found = info(tmp_path / "a.png")
    assert (found["kind"], found["channels"], found["labels"]) == ("picture", 3, None)


def test_values_that_are_no_numbers_stay_json(tmp_path):
    values = np.full((3, 3, 3), np.nan, np.float32)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii")
    assert info(tmp_path / "a.nii")["range"] == [None, None]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ct_liver/ircadb17/labels.nii.gz", "mask"),
        ("ct_liver/ircadb17/ct_3mm.nii.gz", "volume"),
        ("mri/sct/t2/t2_seg-manual_labeled.nii.gz", "mask"),
        ("mri/brainchop_t1/t1_crop.nii.gz", "volume"),
        ("mri/mricron_templates/aal.nii.gz", "mask"),
        ("images2d/stardist_samples/img2d.tif", "picture"),
        ("images2d/stardist_samples/mask2d.tif", "mask"),
    ],
)
def test_real_files_are_recognised(shared_data, name, kind):
    assert info(shared_data / name)["kind"] == kind

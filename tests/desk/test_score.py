"""What `score` says of two masks, as JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from maskloop.core.errors import GeometryError, InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.desk.check import score
from maskloop.ops.phantom import nuclei_picture, phantom_ct


@pytest.fixture(scope="module")
def pair():
    _, truth = phantom_ct(1, shape=(24, 48, 48), spacing=(6.0, 7.0, 7.0), lesions=(3, 4))
    ids = np.roll(truth.data, 1, axis=2)
    return Mask(ids, truth.geometry, truth.labels), truth


def test_classes_get_dice_distances_and_volumes_with_their_definitions(pair):
    found, truth = pair
    report = json.loads(json.dumps(score(found, truth)))
    liver = report["labels"][0]
    assert report["kind"] == "classes"
    assert liver["name"] == "liver"
    both = (found.data == 1) & (truth.data == 1)
    size = (found.data == 1).sum() + (truth.data == 1).sum()
    assert liver["dice"] == pytest.approx(2 * both.sum() / size)
    assert liver["hd95_mm"] == pytest.approx(7.0)
    assert liver["volume_ml"]["truth"] == pytest.approx((truth.data == 1).sum() * 6 * 49 / 1000)
    assert set(report["definitions"]) == {"dice", "hd95", "nsd"}
    assert "voxel-edge (MONAI)" in report["definitions"]["hd95"]


def test_a_wider_tolerance_finds_more_of_the_surface(pair):
    strict, lenient = (score(*pair, nsd_tolerance_mm=t)["labels"][0]["nsd"] for t in (2.0, 7.5))
    assert strict < 0.9 < lenient
    with pytest.raises(InputError, match="tolerance above 0"):
        score(*pair, nsd_tolerance_mm=0)


def test_grids_that_differ_are_refused_in_mm(pair):
    found, truth = pair
    affine = truth.geometry.affine.copy()
    affine[0, 3] += 2.5
    shifted = Mask(found.data, Geometry(truth.geometry.shape, affine), found.labels)
    with pytest.raises(GeometryError, match=r"2\.5 mm away"):
        score(shifted, truth)
    with pytest.raises(GeometryError, match="shape"):
        score(
            Mask(
                found.data[1:],
                truth.geometry.cropped((slice(1, 24), slice(None), slice(None))),
                found.labels,
            ),
            truth,
        )


def test_objects_are_scored_by_category_and_one_by_one():
    _, truth = nuclei_picture(5, (96, 96), count=(12, 14))
    ids = truth.data.copy()
    gone = truth.ids()[0]
    ids[ids == gone] = 0
    found = Mask(ids, truth.geometry, truth.labels.without([gone]))
    report = json.loads(json.dumps(score(found, truth)))
    assert report["kind"] == "objects"
    (row,) = report["objects"]
    count = len(truth.labels)
    assert (row["category"], row["predicted"], row["truth"]) == ("nucleus", count - 1, count)
    assert row["ap_50"] == row["ap_mean"] == pytest.approx((count - 1) / count)
    (region,) = report["labels"]
    assert region["name"] == "nucleus"
    assert region["hd95_mm"] is None  # the grid is in pixels
    assert "hd95_px" in region
    assert region["volume_ml"] == {"predicted": None, "truth": None}
    assert "average_precision" in report["definitions"]


def test_label_files_without_a_table_compare_as_classes_by_id(pair):
    found, truth = pair
    nameless = Mask(truth.data, truth.geometry, LabelTable.objects([1, 2]))
    rows = score(found, nameless)["labels"]
    assert [r["name"] for r in rows] == ["liver", "tumour"]
    assert rows == score(found, truth)["labels"]
    both = score(nameless, nameless)
    assert both["kind"] == "classes"
    assert [r["dice"] for r in both["labels"]] == [1, 1]
    assert score(nameless, nameless, kind="objects")["objects"][0]["ap_mean"] == 1


def test_ignored_objects_of_the_truth_count_neither_way():
    ids = np.zeros((20, 20), np.uint8)
    ids[2:6, 2:6], ids[10:15, 10:15] = 1, 2
    image = Image(ids, Geometry.pixels(ids.shape))
    rows = [Label(1, "a", category="cell"), Label(2, "b", category="cell", ignore=True)]
    truth = Mask.like(image, ids, LabelTable(rows))
    report = score(Mask.like(image, ids, LabelTable.objects([1, 2], "cell")), truth)
    assert report["objects"] == [
        {"category": "cell", "predicted": 1, "truth": 1, "ap_50": 1.0, "ap_mean": 1.0}
    ]
    assert [(r["name"], r["dice"]) for r in report["labels"]] == [("cell", 1.0)]


def test_files_are_read_and_named_in_the_report(pair, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    found, truth = pair
    paths = []
    for name, mask in (("predicted", found), ("truth", truth)):
        affine = mask.geometry.affine[:, [2, 1, 0, 3]]
        paths.append(tmp_path / f"{name}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(mask.data.T, affine), paths[-1])
    report = score(*paths)
    assert report["truth"] == str(paths[1])
    expected = score(found, truth)["labels"]
    for row, told in zip(report["labels"], expected, strict=True):
        assert row["dice"] == told["dice"]
        assert row["hd95_mm"] == pytest.approx(told["hd95_mm"], abs=1e-3)

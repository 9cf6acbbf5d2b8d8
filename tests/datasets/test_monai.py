"""MONAI's list of data, against MONAI's own loader."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from maskloop.core.errors import MaskloopError
from maskloop.datasets import format_of
from maskloop.datasets.base import Options, difference
from maskloop.datasets.monai import FORMAT
from maskloop.desk.datasets import convert_dataset, open_dataset
from tests.datasets import volumes


def written(folder, *samples, options=None, kind="classes"):
    made = volumes.dataset_of(folder, *samples, kind=kind)
    convert_dataset(made, folder / "out", "monai", options=options)
    return json.loads((folder / "out" / "datalist.json").read_text())


def test_what_is_listed_comes_back(tmp_path):
    samples = [
        volumes.sample(tmp_path, f"a/v{n}", split=split, group=f"g{n}")
        for n, split in enumerate(("train", "val", "test"))
    ]
    text = written(tmp_path, *samples)
    assert text["labels"] == {"0": "background", "1": "liver", "2": "tumour"}
    assert text["training"] == [
        {
            "name": "a/v0",
            "image": "images/a/v0.nii.gz",
            "label": "labels/a/v0.nii.gz",
            "group": "g0",
        }
    ]
    assert format_of(tmp_path / "out").name == "monai"
    found = open_dataset(tmp_path / "out")
    assert [(i.name, i.split, i.group) for i in found.items] == [
        ("a/v0", "train", "g0"),
        ("a/v1", "val", "g1"),
        ("a/v2", "test", "g2"),
    ]
    assert difference(samples[0], found.read(found.items[0])) == ""
    assert found.scheme[2].colour == "#102030"


@pytest.mark.slow
def test_monai_loads_the_list(tmp_path):
    loader = pytest.importorskip("monai.data", reason="monai is not installed")
    written(tmp_path, volumes.sample(tmp_path, "v0"), volumes.sample(tmp_path, "v1"))
    rows = loader.load_decathlon_datalist(
        str(tmp_path / "out" / "datalist.json"), is_segmentation=True
    )
    assert len(rows) == 2
    stored = np.asanyarray(nibabel.load(rows[0]["label"]).dataobj)
    assert sorted(np.unique(stored).tolist()) == [0, 1, 2]
    assert nibabel.load(rows[0]["image"]).shape == stored.shape


def test_folds_and_reviewed_voxels_are_listed(tmp_path):
    seen = np.zeros(volumes.SHAPE, bool)
    seen[1:4] = True
    meant = replace(volumes.sample(tmp_path, "v", split="fold3"), reviewed=seen)
    text = written(tmp_path, meant, options=Options(maps=True))
    assert text["training"][0]["fold"] == 3
    assert text["training"][0]["reviewed"] == "maps/reviewed/v.nii.gz"
    assert text["labels"]["3"] == "ignore"
    found = open_dataset(tmp_path / "out")
    assert found.items[0].split == "fold3"
    assert np.array_equal(found.read(found.items[0]).reviewed, seen)


def test_a_list_of_others_without_names_is_read(tmp_path):
    for name, values in (("i/a.nii.gz", 5), ("l/a.nii.gz", 2)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        volume = np.full((3, 4, 5), values, np.uint8)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / name)
    text = {
        "training": [{"image": ["./i/a.nii.gz", "i/b.nii.gz"], "label": "l/a.nii.gz"}],
        "test": ["i/a.nii.gz"],
    }
    (tmp_path / "mine.json").write_text(json.dumps(text))
    text["test"] = ["i/c.nii.gz"]
    (tmp_path / "mine.json").write_text(json.dumps(text))
    found = open_dataset(tmp_path / "mine.json")
    assert [(i.name, i.has_mask, i.split) for i in found.items] == [
        ("a", True, "train"),
        ("c", False, "test"),
    ]
    assert found.scheme.names == {2: "label 2"}
    assert found.read(found.items[0]).masks[0].ids() == [2]


def test_the_same_samples_give_the_same_bytes(tmp_path):
    made = volumes.dataset_of(tmp_path, volumes.sample(tmp_path))
    one, two = (convert_dataset(made, tmp_path / n, "monai").sha256 for n in "ab")
    assert one == two


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "[" * 5000,
        '{"training": 3}',
        '{"training": [3]}',
        '{"training": [{}]}',
        '{"training": [{"image": "../x.nii"}]}',
        '{"training": [{"image": "/x.nii"}]}',
        '{"training": [{"image": "x.nii", "label": 7}]}',
        '{"training": [{"label": "x.nii"}], "labels": {"a": []}}',
        '{"training": [{"label": "x.nii"}]}',
    ],
)
def test_a_broken_list_is_refused(tmp_path, text):
    (tmp_path / "datalist.json").write_text(text)
    with pytest.raises(MaskloopError, match="expected"):
        open_dataset(tmp_path, format="monai")


def test_other_json_is_not_claimed(tmp_path):
    (tmp_path / "a.json").write_text('{"images": [], "annotations": []}')
    assert not FORMAT.sniff(tmp_path / "a.json")
    assert not FORMAT.sniff(tmp_path)


def test_files_of_one_name_are_told_apart_and_further_channels_told(tmp_path):
    rows = [
        {"image": [f"{one}/flair.nii.gz", f"{one}/t1.nii.gz"], "label": f"{one}/seg.nii.gz"}
        for one in "ab"
    ]
    content = {"training": rows, "labels": {"0": "background", "1": "tumour"}}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    found = open_dataset(tmp_path)
    assert [item.name for item in found.items] == ["a/flair", "b/flair"]
    assert found.notices == ("2 items have several images: only the first of each is read",)

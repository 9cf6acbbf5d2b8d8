"""Files of annotations are masks too, and a dataset tells what it is."""

from __future__ import annotations

import json

import numpy as np
import pytest

import maskloop
from maskloop.core.errors import InputError

RING = [[2, 1], [6, 1], [6, 5], [2, 5]]


@pytest.fixture
def drawn(tmp_path):
    """A LabelMe file with one square of 4x4 pixels."""
    path = tmp_path / "a.json"
    shape = {"label": "cat", "points": RING, "group_id": None, "shape_type": "polygon", "flags": {}}
    content = {
        "version": "5.4.1",
        "flags": {},
        "shapes": [shape],
        "imagePath": "a.png",
        "imageData": None,
        "imageHeight": 8,
        "imageWidth": 9,
    }
    path.write_text(json.dumps(content))
    return path


def test_a_file_of_annotations_is_read_as_a_mask(drawn):
    mask = maskloop.load_mask(drawn)
    assert mask.data.shape == (8, 9)
    assert [row.category for row in mask.labels.values()] == ["cat"]
    assert np.count_nonzero(mask.data) == 16
    assert mask.data[1:5, 2:6].all()


def test_such_a_file_exports_like_any_mask(drawn, tmp_path):
    receipt = maskloop.export(drawn, tmp_path / "mask.png")
    assert receipt.verdict == "PASS"
    assert receipt.labels[0].voxels == 16


def test_info_tells_of_a_dataset(drawn):
    found = maskloop.info(drawn)
    assert (found["kind"], found["format"], found["items"]) == ("dataset", "labelme", 1)
    assert [row["name"] for row in found["classes"]] == ["cat"]


def test_a_file_of_many_pictures_asks_for_one(tmp_path):
    path = tmp_path / "annotations.xml"
    box = '<box label="cat" xtl="1" ytl="1" xbr="4" ybr="5" occluded="0" z_order="0"></box>'
    images = "".join(
        f'<image id="{n}" name="p{n}.png" width="9" height="8">{box}</image>' for n in range(2)
    )
    path.write_text(
        f'<?xml version="1.0"?><annotations><version>1.1</version>{images}</annotations>'
    )
    with pytest.raises(InputError, match="p0, p1"):
        maskloop.load_mask(path)
    assert np.count_nonzero(maskloop.load_mask(path, entry="p1").data) == 12


def test_a_folder_that_could_be_two_things_is_told(tmp_path):
    from PIL import Image

    (tmp_path / "coco.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "a.png", "width": 9, "height": 8}],
                "annotations": [],
                "categories": [{"id": 1, "name": "cat"}],
            }
        )
    )
    for name in ("a.png", "a_mask.png"):
        Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / name)
    job = maskloop.Job()
    dataset = maskloop.open_dataset(tmp_path, job=job)
    assert dataset.format == "coco"
    assert any("pairs" in note and "--from" in note for note in job.notes)
    assert maskloop.open_dataset(tmp_path, format="pairs", job=(quiet := maskloop.Job()))
    assert not any("--from" in note for note in quiet.notes)

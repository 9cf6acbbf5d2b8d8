"""`validate` on COCO panoptic sets: JSON against PNGs, and both against the truth."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from PIL import Image as Picture

from maskloop.desk.validate import validate
from tests.desk.coco_set import HEIGHT, WIDTH, panoptic_content, write_panoptic


@pytest.fixture(scope="module")
def clean():
    return panoptic_content()


def codes(found):
    return {one.code for one in found.problems}


def segment(content, number=1):
    return content["annotations"][0]["segments_info"][number]


def erase(content, pictures):
    pictures["a_one.png"][pictures["a_one.png"] == 1003] = 700_000
    ground = segment(content, 0)
    ground["area"] += 1


def swap(content, pictures):
    for name, ids in pictures.items():
        pictures[name] = (ids & 255) << 16 | ids & 0xFF00 | ids >> 16


def crop(content, pictures):
    pictures["three.png"] = pictures["three.png"][:-1]


def split_stuff(content, pictures):
    ids = pictures["three.png"]
    ids[:, 48:] = 700_001
    (ground,) = content["annotations"][2]["segments_info"]
    half = HEIGHT * 48
    ground.update(area=half, bbox=[0, 0, 48, HEIGHT])
    content["annotations"][2]["segments_info"].append(
        {**ground, "id": 700_001, "bbox": [48, 0, 48, HEIGHT]}
    )


def only_things(content, pictures):
    for category in content["categories"]:
        category["isthing"] = 1


DEFECTS = {
    "isthing is missing": ("P1", lambda c, p: c["categories"][0].pop("isthing")),
    "a colour is missing": ("P1", lambda c, p: c["categories"][0].pop("color")),
    "a PNG is missing": ("P2", lambda c, p: p.pop("three.png")),
    "the PNG has another size": ("P3", crop),
    "red and blue are swapped": ("P4", swap),
    "a segment is missing from the JSON": (
        "P4",
        lambda c, p: c["annotations"][0]["segments_info"].pop(),
    ),
    "a segment is missing from the PNG": ("P5", erase),
    "iscrowd is missing": ("P6", lambda c, p: segment(c).pop("iscrowd")),
    "area is missing": ("P6", lambda c, p: segment(c).pop("area")),
    "the area is wrong": ("P7", lambda c, p: segment(c).update(area=3)),
    "the box is two corners": ("P7", lambda c, p: segment(c).update(bbox=[6, 4, 30, 24])),
    "there is no stuff": ("P8", only_things),
    "a segment's class does not exist": ("P9", lambda c, p: segment(c).update(category_id=5)),
    "a segment's id is 0": ("P9", lambda c, p: segment(c).update(id=0)),
    "a segment's id is repeated": ("P9", lambda c, p: segment(c).update(id=1002)),
    "stuff is in two segments": ("P10", split_stuff),
    "annotations have another order": ("P11", lambda c, p: c["annotations"].reverse()),
    "an image has no annotation": ("P12", lambda c, p: c["annotations"].pop()),
    "a PNG's name leads out": (
        "S8",
        lambda c, p: c["annotations"][0].update(file_name="../../a_one.png"),
    ),
    "an image does not exist": ("S7", lambda c, p: c["annotations"][0].update(image_id=9)),
    "segments are no list": ("J1", lambda c, p: c["annotations"][0].update(segments_info=3)),
    "pictures are PNG": ("C5", lambda c, p: c["images"][0].update(file_name="a_one.png")),
}


def test_a_clean_panoptic_set_is_passed_in_silence(tmp_path, clean):
    found = validate(write_panoptic(tmp_path, *clean))
    assert found.problems == ()
    assert found.checked == {"annotations": 3, "images": 3}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_of_a_panoptic_set_is_caught(tmp_path, clean, name):
    code, defect = DEFECTS[name]
    content, pictures = copy.deepcopy(clean)
    defect(content, pictures)
    found = validate(write_panoptic(tmp_path, content, pictures))
    assert code in codes(found)


def test_swapped_channels_are_named(tmp_path, clean):
    content, pictures = copy.deepcopy(clean)
    swap(content, pictures)
    assert (
        "red and blue are swapped"
        in validate(write_panoptic(tmp_path, content, pictures)).to_text()
    )


def test_a_palette_png_is_no_panoptic_png(tmp_path, clean):
    root = write_panoptic(tmp_path, *clean)
    place = root / "annotations" / "panoptic_train" / "three.png"
    Picture.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(place)
    assert codes(validate(root)) == {"P2"}
    place.write_bytes(place.read_bytes()[:40])
    assert codes(validate(root)) == {"P2"}


def test_segments_are_compared_with_the_truth(tmp_path, clean):
    content, pictures = copy.deepcopy(clean)
    truth = tmp_path / "truth"
    truth.mkdir()
    for name, ids in pictures.items():
        np.save(truth / name.replace(".png", ".npy"), ids)
    root = write_panoptic(tmp_path / "set", content, pictures)
    found = validate(root, truth=truth)
    assert found.problems == ()
    assert found.checked["true objects"] == 9
    np.save(truth / "a_one.npy", np.roll(pictures["a_one.png"], 1, axis=0))
    assert codes(validate(root, truth=truth)) == {"T5"}

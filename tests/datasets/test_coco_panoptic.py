"""COCO panoptic: ids in colours, one segment a thing, one a class of stuff."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import FormatError, InputError
from maskloop.core.geometry import Geometry
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.datasets.base import Options
from maskloop.desk.datasets import convert_dataset, open_dataset, plan

NO_PICTURES = Options(images="none")


def segment(number, category, **more) -> dict:
    return {"id": number, "category_id": category, "area": 1, "bbox": [0, 0, 1, 1], **more}


def written(root: Path, ids: np.ndarray, segments: list[dict], **more) -> Path:
    """Write a panoptic set by hand: id = R + 256 G + 65536 B."""
    beside = root / "annotations" / "panoptic_val2017"
    beside.mkdir(parents=True, exist_ok=True)
    red, green, blue = ids % 256, ids // 256 % 256, ids // 65536
    Picture.fromarray(np.stack([red, green, blue], axis=2).astype(np.uint8)).save(beside / "a.png")
    height, width = ids.shape
    content = {
        "images": [{"id": 3, "file_name": "a.jpg", "height": height, "width": width}],
        "annotations": [{"image_id": 3, "file_name": "a.png", "segments_info": segments}],
        "categories": [
            {"id": 1, "name": "cell", "isthing": 1, "color": [255, 0, 0]},
            {"id": 7, "name": "sky", "isthing": 0, "color": [0, 0, 255]},
        ],
        **more,
    }
    (root / "annotations" / "panoptic_val2017.json").write_text(json.dumps(content))
    return root


def read_first(root: Path) -> Sample:
    dataset = open_dataset(root, format="coco-panoptic")
    return dataset.read(dataset.items[0])


def picture() -> np.ndarray:
    ids = np.zeros((6, 8), int)
    ids[:3, :4], ids[:3, 4:], ids[4:, :] = 70_001, 301, 9
    return ids


def test_segments_are_objects_and_stuff_is_its_class(tmp_path):
    found = [segment(70_001, 1), segment(301, 1, iscrowd=1), segment(9, 7)]
    dataset = open_dataset(written(tmp_path, picture(), found))
    assert (dataset.format, dataset.kind) == ("coco-panoptic", "panoptic")
    (item,) = dataset.items
    assert (item.name, item.split, item.count, item.classes) == ("a", "val", 3, {"cell", "sky"})
    sample = dataset.read(item)
    (mask,) = sample.masks
    rows = {(r.category, r.name, r.ignore): i for i, r in mask.labels.items()}
    assert rows == {
        ("cell", "cell 1", False): 1,
        ("cell", "cell crowd 2", True): 2,
        (None, "sky", False): 7,
    }
    meant = np.zeros((6, 8), int)
    meant[:3, :4], meant[:3, 4:], meant[4:] = 1, 2, 7
    np.testing.assert_array_equal(mask.data, meant)
    assert [r.colour for r in dataset.scheme.values()] == ["#ff0000", "#0000ff"]


def test_what_is_written_follows_the_rules_of_panoptic_files(tmp_path):
    """Every id of the PNG is in the JSON and back; areas and boxes are true; things are told."""
    found = [segment(70_001, 1, iscrowd=1), segment(301, 1), segment(9, 7, note="n")]
    source = open_dataset(written(tmp_path / "in", picture(), found))
    convert_dataset(source, tmp_path / "out", "coco-panoptic", options=NO_PICTURES)
    content = json.loads((tmp_path / "out/annotations/panoptic_val.json").read_text())
    pixels = np.asarray(Picture.open(tmp_path / "out/annotations/panoptic_val/a.png")).astype(int)
    ids = pixels @ [1, 256, 65536]
    (entry,) = content["annotations"]
    assert (entry["image_id"], entry["file_name"]) == (3, "a.png")
    assert content["images"][0]["id"] == 3
    segments = {s["id"]: s for s in entry["segments_info"]}
    assert set(np.unique(ids)) - {0} == set(segments)
    for number, one in segments.items():
        y, x = np.nonzero(ids == number)
        assert one["area"] == len(x)
        assert one["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
    assert [s["iscrowd"] for s in segments.values()] == [1, 0, 0]
    assert [s.get("note") for s in segments.values()] == [None, None, "n"]
    assert [(c["id"], c["isthing"]) for c in content["categories"]] == [(1, 1), (7, 0)]
    np.testing.assert_array_equal(ids == 0, picture() == 0)


def test_instances_become_panoptic_with_overlaps_settled_and_counted(tmp_path):
    grid = Geometry.pixels((8, 9))
    masks = []
    for number, cut in enumerate((np.s_[0:6, 0:6], np.s_[2:4, 2:4], np.s_[7:, 7:]), start=1):
        ids = np.zeros((8, 9), np.uint8)
        ids[cut] = number
        row = Label(number, f"cell {number}", category="cell", is_thing=True)
        masks.append(Mask(ids, grid, LabelTable([row])))
    sample = Sample(Item("a"), tuple(masks))
    scheme = LabelTable([Label(4, "cell", is_thing=True)])
    source = Dataset("d", "m", tmp_path, scheme, (sample.item,), lambda i, job: sample, "objects")
    planned = plan(source, "coco-panoptic", options=NO_PICTURES)
    assert planned.losses == ("1 object loses pixels to others that lie over it",)
    planned.write(tmp_path / "out")
    content = json.loads((tmp_path / "out/annotations/panoptic_default.json").read_text())
    (entry,) = content["annotations"]
    assert [s["area"] for s in entry["segments_info"]] == [32, 4, 2]
    assert content["categories"][0]["isthing"] == 1


def test_a_class_of_which_objects_come_is_a_thing(tmp_path):
    ids = np.array([[1, 0, 2], [0, 7, 0]], np.uint8)
    rows = [Label(i, f"cell {i}", category="cell", is_thing=True) for i in (1, 2)]
    mask = Mask(ids, Geometry.pixels(ids.shape), LabelTable([*rows, Label(7, "sky")]))
    sample = Sample(Item("a"), (mask,))
    scheme = LabelTable([Label(4, "cell"), Label(7, "sky")])  # says of none that it is a thing
    source = Dataset("d", "m", tmp_path, scheme, (sample.item,), lambda i, job: sample, "panoptic")
    convert_dataset(source, tmp_path / "out", "coco-panoptic", options=NO_PICTURES)
    content = json.loads((tmp_path / "out/annotations/panoptic_default.json").read_text())
    assert [(c["name"], c["isthing"]) for c in content["categories"]] == [("cell", 1), ("sky", 0)]


def test_ids_beyond_a_byte_come_back(tmp_path):
    ids = np.arange(1, 601, dtype=np.uint16).reshape(20, 30)
    table = LabelTable(Label(int(i), f"cell {i}", category="cell", is_thing=True) for i in ids.flat)
    mask = Mask(ids, Geometry.pixels(ids.shape), table)
    sample = Sample(Item("a"), (mask,))
    scheme = LabelTable([Label(4, "cell", is_thing=True)])
    source = Dataset("d", "m", tmp_path, scheme, (sample.item,), lambda i, job: sample, "objects")
    convert_dataset(source, tmp_path / "out", "coco-panoptic", options=NO_PICTURES)
    pixels = np.asarray(Picture.open(tmp_path / "out/annotations/panoptic_default/a.png"))
    np.testing.assert_array_equal(pixels.astype(int) @ [1, 256, 65536], ids)


def test_a_folder_of_both_kinds_is_instances_and_the_panoptic_file_opens_by_itself(
    shared_data, tmp_path
):
    with zipfile.ZipFile(shared_data / "fixtures/datumaro_coco/assets.zip") as archive:
        archive.extractall(tmp_path)
    root = tmp_path / "coco_dataset"
    assert open_dataset(root / "coco").format == "coco"
    alone = open_dataset(root / "coco" / "annotations" / "panoptic_val.json")
    assert alone.format == "coco-panoptic"
    whole = open_dataset(root / "coco_panoptic")
    assert [(i.name, i.split, i.image is not None) for i in whole.items] == [
        ("a", "train", True),
        ("b", "val", True),
    ]
    with pytest.raises(FormatError, match="5 rows and 10 columns"):  # its PNG is 5 x 5
        whole.read(whole.items[0])


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        ([segment(1, 1)], r"for every id in a\.png"),
        ([segment(70_001, 1), segment(70_001, 1)], "each once"),
        ([segment(0, 1)], "ids from 1"),
        ([segment(2**24, 1)], "ids from 1"),
        ([segment("9", 1)], "ids from 1"),
        ([segment(9, 5)], "listed category for segment 9 of image 3"),
        ([segment(9, [])], "listed category for segment 9"),
        ([7], "list of segments of image 3"),
        (None, "list of segments of image 3"),
    ],
)
def test_broken_sets_are_refused_in_words(tmp_path, segments, words):
    root = written(tmp_path, picture(), segments)
    with pytest.raises(InputError, match=words):
        read_first(root)


def test_a_png_that_leads_out_or_does_not_fit_is_refused(tmp_path):
    found = [segment(70_001, 1), segment(301, 1), segment(9, 7)]
    root = written(tmp_path, picture(), found)
    dataset = open_dataset(root)
    png = root / "annotations/panoptic_val2017/a.png"
    for shape in ((6, 8), (5, 8, 3)):
        Picture.fromarray(np.zeros(shape, np.uint8)).save(png)
        with pytest.raises(FormatError, match="6 rows and 8 columns"):
            dataset.read(dataset.items[0])
    png.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError):
        dataset.read(dataset.items[0])
    entry = {"image_id": 3, "file_name": "../../../a.png", "segments_info": found}
    evil = open_dataset(written(tmp_path, picture(), found, annotations=[entry]))
    with pytest.raises(InputError, match="nothing outside"):
        evil.read(evil.items[0])


def test_an_image_without_an_entry_has_no_mask_yet(tmp_path):
    dataset = open_dataset(written(tmp_path, picture(), [], annotations=[]), format="coco-panoptic")
    assert [replace(i, ref=None).has_mask for i in dataset.items] == [False]


def test_every_category_says_its_colour_though_instances_say_none(tmp_path):
    triangle = [1, 1, 5, 1, 5, 5]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 6, "width": 8}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 2, "segmentation": [triangle], "iscrowd": 0}
        ],
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "rod", "color": [9, 8, 7]}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    convert_dataset(tmp_path / "a.json", tmp_path / "out", "coco-panoptic", options=NO_PICTURES)
    (file,) = (tmp_path / "out").rglob("panoptic*.json")
    found = {c["name"]: c["color"] for c in json.loads(file.read_text())["categories"]}
    assert found["rod"] == [9, 8, 7]
    assert len(found["cell"]) == 3

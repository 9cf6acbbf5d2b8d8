"""Pascal VOC, Cityscapes and Hugging Face folders as their own tools would read them."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import InputError, MaskloopError
from maskloop.core.geometry import Geometry
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.datasets import georeference
from maskloop.datasets.base import Options, class_of, regions
from maskloop.desk.datasets import convert_dataset, open_dataset, plan
from tests.datasets.profile_sets import cityscapes, inria_aerial, save, text
from tests.formats import dicom_slices

SCHEME = LabelTable(
    [
        Label(4, "road", "#804080"),
        Label(9, "car", is_thing=True),
        Label(11, "kite", is_thing=True),
        Label(20, "hidden", ignore=True),
    ]
)


def car(number: int, name: str = "car", **more) -> Label:
    return Label(number, f"{name} {number}", category=name, is_thing=True, **more)


def mask_of(ids, rows) -> Mask:
    data = np.array(ids, np.uint16)
    return Mask(data, Geometry.pixels(data.shape), LabelTable(rows))


def dataset_of(tmp_path, *masks: Mask, name: str = "a/b.c") -> Dataset:
    sample = Sample(Item(name, split="val", group="g"), masks)
    return Dataset("d", "made", tmp_path, SCHEME, (sample.item,), lambda i, job: sample, "panoptic")


def street(tmp_path) -> Dataset:
    """Return a road, two cars, a kite and a region to ignore."""
    rows = [SCHEME[4], car(30), car(31), car(32, "kite"), SCHEME[20]]
    return dataset_of(tmp_path, mask_of([[4, 4, 30], [31, 32, 20], [0, 0, 0]], rows))


def stored(path):
    with Pillow.open(path) as picture:
        return picture.mode, np.array(picture).tolist(), picture.getpalette()


def test_voc_files_hold_what_the_development_kit_says(tmp_path):
    convert_dataset(street(tmp_path), tmp_path / "out", "voc")
    out = tmp_path / "out"
    mode, classes, palette = stored(out / "SegmentationClass/a/b_c.png")
    assert mode == "P"
    assert classes == [[1, 1, 2], [2, 3, 255], [0, 0, 0]]
    # From the kit's own palette: aeroplane, person, void.
    assert palette[3:6] == [128, 0, 0]
    assert palette[45:48] == [192, 128, 128]
    assert palette[765:] == [224, 224, 192]
    _, objects, _ = stored(out / "SegmentationObject/a/b_c.png")
    assert objects == [[0, 0, 1], [2, 3, 255], [0, 0, 0]]
    assert (out / "ImageSets/Segmentation/val.txt").read_text() == "a/b_c\n"
    assert "car:0,128,0::" in (out / "labelmap.txt").read_text().splitlines()


def test_voc_opens_without_our_table_by_its_labelmap(tmp_path):
    convert_dataset(street(tmp_path), tmp_path / "out", "voc")
    (tmp_path / "out/classes.json").unlink()
    found = open_dataset(tmp_path / "out")
    assert found.format == "voc"
    named = [class_of(r.label) for r in regions(found.read(found.items[0]))]
    assert sorted(named) == ["car", "car", "kite", "road", "void"]


def test_cityscapes_files_hold_its_ids(tmp_path):
    convert_dataset(street(tmp_path), tmp_path / "out", "cityscapes")
    stem = tmp_path / "out/gtFine/val/a"
    assert stored(stem / "b_c_gtFine_labelIds.png")[1] == [[7, 7, 26], [26, 35, 36], [0, 0, 0]]
    ids = stored(stem / "b_c_gtFine_instanceIds.png")[1]
    assert ids == [[7, 7, 26000], [26001, 35000, 36], [0, 0, 0]]


def test_cityscapes_itself_comes_back_as_it_was(tmp_path):
    (tmp_path / "in").mkdir()
    cityscapes(tmp_path / "in")
    convert_dataset(tmp_path / "in", tmp_path / "out", "cityscapes", lossless=True)
    for what in ("instanceIds", "labelIds"):
        name = f"gtFine/train/aachen/aachen_000000_000019_gtFine_{what}.png"
        before, after = (stored(tmp_path / side / name)[1] for side in ("in", "out"))
        assert after == before


def test_background_is_unlabeled_where_cityscapes_has_such_a_class(tmp_path):
    rows = [Label(1, "road"), Label(2, "unlabeled", ignore=True)]
    mask = mask_of([[1, 2, 0]], rows)
    sample = Sample(Item("a"), (mask,))
    made = Dataset("d", "made", tmp_path, mask.labels, (sample.item,), lambda i, job: sample)
    assert plan(made, "cityscapes").losses == ("1 image gets unlabeled background",)
    convert_dataset(made, tmp_path / "out", "cityscapes")
    found = open_dataset(tmp_path / "out")
    areas = {r.label.name: r.area for r in regions(found.read(found.items[0]))}
    assert areas == {"road": 1, "unlabeled": 2}


def test_objects_that_are_called_unlabeled_are_no_void(tmp_path):
    made = dataset_of(tmp_path, mask_of([[0, 3, 4]], [car(3, "unlabeled"), car(4, "unlabeled")]))
    convert_dataset(made, tmp_path / "out", "cityscapes", lossless=True)
    found = open_dataset(tmp_path / "out")
    names = [r.label.category for r in regions(found.read(found.items[0]))]
    assert names == ["unlabeled", "unlabeled"]


def test_hugging_face_lists_columns_and_names(tmp_path):
    convert_dataset(street(tmp_path), tmp_path / "out", "huggingface")
    lines = (tmp_path / "out/val/metadata.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "mask_file_name": "masks/a/b_c.png",
            "name": "a/b_c",
            "instances_file_name": "instances/a/b_c.png",
            "group": "g",
        }
    ]
    names = json.loads((tmp_path / "out/id2label.json").read_text())
    assert names == {"0": "background", "1": "road", "2": "car", "3": "kite"}
    assert stored(tmp_path / "out/val/masks/a/b_c.png")[1] == [[1, 1, 2], [2, 3, 255], [0, 0, 0]]


def test_a_hugging_face_folder_of_others_opens(tmp_path):
    save(tmp_path / "train/im/x.png", np.zeros((1, 3, 3), np.uint8))
    save(tmp_path / "train/seg/x.png", np.array([[0, 1, 2]], np.uint8))
    line = {"file_name": "im/x.png", "label_file_name": "seg/x.png", "text": "a street"}
    text(tmp_path / "train/metadata.jsonl", json.dumps(line) + "\n")
    text(tmp_path / "id2label.json", json.dumps({"0": "wall", "1": "floor", "2": "bed"}))
    found = open_dataset(tmp_path)
    assert found.format == "huggingface"
    sample = found.read(found.items[0])
    assert sorted(r.label.name for r in regions(sample)) == ["bed", "floor", "wall"]
    assert (found.items[0].split, found.items[0].name) == ("train", "im/x")


@pytest.mark.parametrize(
    "line",
    [
        '{"mask_file_name": "../../etc/passwd"}',
        '{"mask_file_name": "/etc/passwd"}',
        '{"mask_file_name": 7}',
        '{"mask_file_name": ["a"]}',
        '{"mask_file_name": "a.png", ',
        "[1]",
        "{}",
        '{"mask_file_name": "not there.png"}',
    ],
)
def test_a_bad_line_of_metadata_is_told_in_words(tmp_path, line):
    text(tmp_path / "metadata.jsonl", line + "\n")

    def read():
        found = open_dataset(tmp_path, format="huggingface")
        found.read(found.items[0])

    with pytest.raises(MaskloopError, match="; "):
        read()


@pytest.mark.parametrize("name", ["voc", "cityscapes", "huggingface"])
def test_losses_are_counted_one_by_one(tmp_path, name):
    below = mask_of(
        [[30, 30, 31], [32, 32, 20]],
        [car(30, score=0.5), car(31, score=0.4), car(32, score=0.9), SCHEME[20]],
    )
    above = mask_of([[33, 0, 34], [0, 0, 0]], [car(33, score=0.7), car(34, score=0.8)])
    # 33 and 34 win by their scores: 30 loses a pixel, 31 all it has. 20 has no score, though.
    rows = LabelTable([*below.labels.without([20]).values(), car(20, "hidden", ignore=True)])
    lost = plan(dataset_of(tmp_path, Mask(below.data, below.geometry, rows), above), name).losses
    assert "1 object is dropped" in lost
    assert "1 object loses pixels to others that lie over it" in lost
    assert any("score" in words for words in lost)
    wanted = "1 crowd becomes a plain object" if name == "cityscapes" else "1 ignored region loses"
    assert any(words.startswith(wanted) for words in lost)


def test_more_objects_than_a_palette_holds_are_refused(tmp_path):
    ids = np.arange(1, 257).reshape(16, 16)
    made = dataset_of(tmp_path, mask_of(ids, [car(int(i)) for i in ids.ravel()]))
    with pytest.raises(InputError, match="at most 254 objects"):
        plan(made, "voc")
    convert_dataset(made, tmp_path / "out", "cityscapes", lossless=True)


def test_a_thousand_objects_of_a_class_are_refused_by_cityscapes(tmp_path):
    ids = np.arange(1, 1001).reshape(40, 25)
    made = dataset_of(tmp_path, mask_of(ids, [car(int(i)) for i in ids.ravel()]))
    with pytest.raises(InputError, match="at most 999 objects of 'car'"):
        plan(made, "cityscapes")


def test_more_classes_than_fit_are_refused_with_nothing_written(tmp_path):
    ids = np.arange(1, 257).reshape(16, 16)
    rows = LabelTable([Label(int(i), f"class {i}") for i in ids.ravel()])
    made = dataset_of(tmp_path, mask_of(ids, rows.values()))
    with pytest.raises(InputError, match="at most 254"):
        convert_dataset(made, tmp_path / "out", "voc")
    assert not (tmp_path / "out").exists()


def test_a_scheme_of_many_classes_is_written_where_few_are_used(tmp_path):
    scheme = LabelTable([Label(i, f"class {i}") for i in range(1, 400)])
    mask = mask_of([[7, 300]], [scheme[7], scheme[300]])
    sample = Sample(Item("a"), (mask,))
    made = Dataset("d", "made", tmp_path, scheme, (sample.item,), lambda i, job: sample)
    convert_dataset(made, tmp_path / "out", "voc", lossless=True)
    found = open_dataset(tmp_path / "out")
    assert {r.label.name for r in regions(found.read(found.items[0]))} == {"class 7", "class 300"}


def test_indexed_sets_keep_groups_and_large_ids_shrink(tmp_path):
    data = np.array([[0, 70_000], [90_000, 90_000]], np.uint32)
    mask = Mask(data, Geometry.pixels((2, 2)), LabelTable([car(70_000), car(90_000)]))
    convert_dataset(dataset_of(tmp_path, mask), tmp_path / "out", "indexed", lossless=True)
    found = open_dataset(tmp_path / "out")
    assert found.items[0].group == "g"
    back = found.read(found.items[0]).masks[0]
    assert back.data.tolist() == [[0, 1], [2, 2]]
    assert back.labels[2].name == "car 90000"


def keys(*pairs):
    listed = [number for key, value in pairs for number in (key, 0, 1, value)]
    return (34735, "H", 4 + len(listed), (1, 1, 0, len(pairs), *listed))


SCALE = (33550, "d", 3, (0.3, 0.3, 0.0))
TIE = (33922, "d", 6, (0, 0, 0, 616500.0, 3345000.5, 0.0))


# What GDAL 3.9 (rasterio 1.4.4) says of the same tags, and of the .aux.xml beside a PNG.
@pytest.mark.parametrize(
    ("tags", "transform", "system"),
    [
        (
            [SCALE, TIE, keys((1024, 1), (1025, 1), (3072, 32614))],
            (616500.0, 0.3, 0.0, 3345000.5, 0.0, -0.3),
            "EPSG:32614",
        ),
        (
            [SCALE, TIE, keys((1024, 1), (1025, 2), (3072, 32614))],
            (616499.85, 0.3, 0.0, 3345000.65, 0.0, -0.3),
            "EPSG:32614",
        ),
        (
            [SCALE, (*TIE[:3], (2, 1, 0, *TIE[3][3:])), keys((1025, 1), (2048, 4326))],
            (616499.4, 0.3, 0.0, 3345000.8, 0.0, -0.3),
            "EPSG:4326",
        ),
        (
            [
                (34264, "d", 16, (0.2, 0.1, 0, 500, 0.1, -0.2, 0, 900, *[0] * 7, 1)),
                keys((1025, 1), (3072, 25832)),
            ],
            (500.0, 0.2, 0.1, 900.0, 0.1, -0.2),
            "EPSG:25832",
        ),
    ],
)
def test_places_on_earth_are_those_of_gdal(tmp_path, tags, transform, system):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((4, 5), np.uint8), extratags=tags)
    found = georeference.of(path)
    assert found.transform == pytest.approx(transform, abs=1e-9)
    assert found.system == system
    georeference.write_beside(found, tmp_path / "b.png")
    assert georeference.of(tmp_path / "b.png") == found


@pytest.mark.parametrize("name", ["voc", "huggingface", "indexed", "cityscapes"])
def test_an_aerial_picture_keeps_its_coordinate_system(tmp_path, name):
    (tmp_path / "in").mkdir()
    inria_aerial(tmp_path / "in")
    tags = [SCALE, TIE, keys((1025, 1), (3072, 32614))]
    for folder in ("gt", "images"):
        data = np.array([[0, 255, 255]], np.uint8)
        tifffile.imwrite(tmp_path / f"in/train/{folder}/austin1.tif", data, extratags=tags)
    convert_dataset(tmp_path / "in", tmp_path / "out", name)
    before = (tmp_path / "in/train/images/austin1.tif").read_bytes()
    assert [p.read_bytes() for p in (tmp_path / "out").rglob("austin1*.tif")] == [before]
    found = open_dataset(tmp_path / "out")
    place = found.read(found.items[0]).header
    assert place == georeference.GeoReference(
        (616500.0, 0.3, 0.0, 3345000.5, 0.0, -0.3), "EPSG:32614"
    )


@pytest.mark.parametrize("words", ["", "<a/>", "<GeoTransform>1,2</GeoTransform>", "<!DOCTYPE x>"])
def test_a_damaged_place_is_none(tmp_path, words):
    save(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    text(tmp_path / "a.png.aux.xml", words)
    assert georeference.of(tmp_path / "a.png") is None


def test_pictures_can_be_left_where_they_are(tmp_path):
    (tmp_path / "in").mkdir()
    inria_aerial(tmp_path / "in")
    convert_dataset(tmp_path / "in", tmp_path / "out", "voc", options=Options(images="none"))
    assert not (tmp_path / "out/JPEGImages").exists()


@pytest.mark.parametrize("to", ["voc", "indexed", "huggingface", "geojson", "labelme"])
def test_splits_never_lead_out_of_the_folder(to, tmp_path):
    made = street(tmp_path)
    outside = replace(made, items=(replace(made.items[0], split="../../outside"),))
    sample = made.read(made.items[0])
    outside = replace(outside, reader=lambda i, job: replace(sample, item=i))
    with pytest.raises(InputError, match="inside the dataset"):
        convert_dataset(outside, tmp_path / "refused", to)
    within = replace(outside, items=(replace(made.items[0], split="a/b"),))
    convert_dataset(within, tmp_path / "set", to)
    assert open_dataset(tmp_path / "set").items[0].split == "a_b"


def test_high_ids_take_no_table_of_their_size(tmp_path):
    ids = np.array([[2**31, 2**31, 7]], np.uint32)
    mask = Mask(ids, Geometry.pixels(ids.shape), LabelTable([car(2**31), car(7)]))
    tracemalloc.start()
    receipt = convert_dataset(dataset_of(tmp_path, mask), tmp_path / "out", "voc")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert receipt.objects == 2
    assert peak < 1 << 26


def test_pictures_of_one_name_in_two_splits_are_told_apart(tmp_path):
    for split in ("train", "validation"):
        save(tmp_path / split / "masks/1.png", np.ones((1, 2), np.uint8))
        line = json.dumps({"mask_file_name": "masks/1.png"})
        text(tmp_path / split / "metadata.jsonl", f"{line}\n")
    names = [item.name for item in open_dataset(tmp_path).items]
    assert names == ["train/masks/1", "validation/masks/1"]


def test_images_without_a_mask_are_told(tmp_path):
    made = street(tmp_path)
    more = replace(made, items=(*made.items, Item("test", has_mask=False)))
    planned = plan(more, "voc")
    assert "1 image without a mask is left out" in planned.notes
    assert len(planned.dataset) == 1


@pytest.mark.parametrize("to", ["coco-panoptic", "indexed"])
def test_objects_wholly_under_others_are_dropped_and_counted(to, tmp_path):
    below = mask_of([[1, 2, 2]], [car(1), car(2)])
    above = mask_of([[3, 3, 0]], [car(3)])
    above = replace(above, labels=LabelTable([car(3, score=0.9)]))
    below = replace(below, labels=LabelTable([car(1, score=0.2), car(2, score=0.1)]))
    losses = plan(dataset_of(tmp_path, below, above), to).losses
    assert "1 object is dropped" in losses
    assert "1 object loses pixels to others that lie over it" in losses


@pytest.mark.parametrize("to", ["coco", "voc", "indexed", "huggingface", "cityscapes", "yolo"])
def test_dicom_is_written_anew_without_the_patient(to, tmp_path):
    file = dicom_slices.write(tmp_path / "scan.dcm", (0, 0, 0))
    ids = np.zeros((dicom_slices.ROWS, dicom_slices.COLUMNS), np.uint8)
    ids[2:4, 1:3] = 30
    made = dataset_of(tmp_path, mask_of(ids, [car(30)]))
    sample = made.read(made.items[0])
    item = replace(sample.item, image=file)
    drawn = replace(made, items=(item,), reader=lambda i, job: replace(sample, item=i))
    convert_dataset(drawn, tmp_path / "out", to)
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(b"SECRET" in one or b"DICM" in one for one in written)
    (back,) = open_dataset(tmp_path / "out").items
    assert back.image is not None
    assert back.image.suffix in (".png", ".tif")

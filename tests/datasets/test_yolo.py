"""YOLO's texts: read and written as OpenCV draws them, every change counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as Picture

from maskloop.core.errors import FormatError, InputError
from maskloop.core.labels import Label
from maskloop.datasets import yolo
from maskloop.datasets.base import SCORES, Options, difference
from maskloop.datasets.yolo_yaml import parsed, written
from maskloop.desk.datasets import convert_dataset, open_dataset
from tests.datasets.drawings import (
    SCHEME,
    box,
    dataset_of,
    difficult,
    mask_of,
    region_of,
    thing,
    with_rows,
)

# A ring of pixels and what cv2.fillPoly (5.0.0 and 4.14.0) made of it on 12 rows of 16, packed.
RING = [[13, 3], [3, 10], [0, 10], [4, 0]]
FILLED = "0c000f801ff01ffc3ff83fe03fc07f807e00fc00f0000000"


def placed(folder, text: str, *, names: str = "names: [cell, sky]", size=(30, 20)):
    """Write a set of one picture of (width, height)."""
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    (folder / "data.yaml").write_text(f"train: images/train\nval: images/val\n{names}\n")
    Picture.new("L", size).save(folder / "images" / "train" / "a.png")
    (folder / "labels" / "train" / "a.txt").write_text(text)
    return folder


def read(folder):
    dataset = open_dataset(folder)
    return dataset.read(dataset.items[0])


@pytest.mark.parametrize("ahead", [0, 0.25, 0.5, 0.9])
def test_lines_are_drawn_as_opencv_draws_them(ahead, tmp_path):
    """Trainers cut coordinates off, wherever in the pixel the point was put."""
    shares = [
        f"{(v + ahead) / s:.6f}" for point in RING for v, s in zip(point, (16, 12), strict=True)
    ]
    sample = read(placed(tmp_path, f"0 {' '.join(shares)}\n", size=(16, 12)))
    expected = np.unpackbits(np.frombuffer(bytes.fromhex(FILLED), np.uint8)).reshape(12, 16) > 0
    np.testing.assert_array_equal(region_of(sample, "cell 1"), expected)


def test_what_is_written_is_the_same_pixel_cut_off_or_rounded(tmp_path):
    ids = np.zeros((20, 30), np.uint8)
    ids[3:7, 4:9] = 1
    convert_dataset(dataset_of(tmp_path / "in", mask_of(ids, thing(1))), tmp_path / "out", "yolo")
    number, *shares = (tmp_path / "out" / "labels" / "a.txt").read_text().split()
    points = np.array(shares, np.float32).reshape(-1, 2) * np.array([30, 20], np.float32)
    assert number == "0"
    assert points.astype(np.int32).tolist() == np.rint(points).astype(np.int32).tolist()
    assert {tuple(p) for p in points.astype(int).tolist()} == {(4, 3), (8, 3), (8, 6), (4, 6)}


def test_a_box_is_a_rectangle_and_told(tmp_path):
    from maskloop.core.job import Job

    said = []
    dataset = open_dataset(placed(tmp_path, "1 0.5 0.5 0.2 0.3\n"))
    sample = dataset.read(dataset.items[0], Job(lambda *a: said.append(str(a))))
    np.testing.assert_array_equal(region_of(sample, "sky 1"), box(np.s_[7:13], np.s_[12:18]))
    assert any("1 objects of a.txt are boxes" in words for words in said)


def test_holes_touching_corners_and_single_pixels_are_kept(tmp_path):
    made = dataset_of(tmp_path / "in", difficult())
    held = yolo.hold(made.read(made.items[0]), made, options=Options())
    assert dict(held.losses) == {yolo.JOINED: 1}
    for number, category in ((1, "cell"), (3, "cell"), (4, "cell")):
        before = region_of(made.read(made.items[0]), f"{category} {number}")
        np.testing.assert_array_equal(region_of(held.sample, f"{category} {number}"), before)


def test_parts_are_joined_by_a_line_one_pixel_wide(tmp_path):
    made = dataset_of(tmp_path / "in", difficult())
    before = made.read(made.items[0])
    held = yolo.hold(before, made, options=Options()).sample
    joined = region_of(held, "cell 2") & ~region_of(before, "cell 2")
    # From (14, 5) to (17, 10), both ends drawn before: a diagonal, then straight.
    assert joined.sum() == 4
    assert joined.any(axis=0)[6:10].all()


def test_every_loss_is_counted(tmp_path):
    made = dataset_of(tmp_path / "in", difficult())
    rows = [
        replace(thing(1), score=0.5),
        replace(thing(2), name="left one", score=0.75),
        replace(thing(3), ignore=True),
        Label(4, "sky"),
    ]
    made = with_rows(made, *rows)
    losses = yolo.hold(made.read(made.items[0]), made, options=Options()).losses
    assert dict(losses) == {SCORES: 2, yolo.NAMES: 1, yolo.LEFT_OUT: 1, yolo.JOINED: 1}


def test_a_class_becomes_an_object_a_part(tmp_path):
    ids = np.zeros((20, 30), np.uint8)
    ids[1:4, 1:4] = ids[4, 4] = ids[10:12, 20:22] = 2  # (4, 4) touches by a corner
    made = dataset_of(tmp_path / "in", mask_of(ids, SCHEME[2]))
    receipt = convert_dataset(made, tmp_path / "out", "yolo")
    assert receipt.losses == ("1 class region becomes objects, one a part",)
    text = (tmp_path / "out" / "labels" / "a.txt").read_text()
    assert [line[0] for line in text.splitlines()] == ["1", "1"]


def test_splits_names_and_colours_come_back(tmp_path):
    made = dataset_of(tmp_path / "in", difficult(), difficult())
    items = tuple(
        replace(item, split=split) for item, split in zip(made.items, ("train", ""), strict=True)
    )
    convert_dataset(replace(made, items=items), tmp_path / "out", "yolo")
    keys = parsed((tmp_path / "out" / "data.yaml").read_text(), "data.yaml")
    back = open_dataset(tmp_path / "out")
    assert (keys["train"], keys["val"]) == ("images/train", "images/train")
    assert [(i.name, i.split) for i in back.items] == [("a", "train"), ("b", "")]
    assert {r.name: r.colour for r in back.scheme.values()} == {
        r.name: r.colour for r in SCHEME.values()
    }


def test_without_pictures_the_sizes_are_noted(tmp_path):
    made = dataset_of(tmp_path / "in", difficult())
    convert_dataset(made, tmp_path / "out", "yolo", options=Options(images="none"))
    assert (tmp_path / "out" / "sizes.csv").read_text() == "name,height,width\nlabels/a,20,30\n"
    assert open_dataset(tmp_path / "out").items[0].shape == (20, 30)
    (tmp_path / "out" / "sizes.csv").unlink()
    with pytest.raises(InputError, match="shares of its size"):
        read(tmp_path / "out")


def test_other_layouts_open(tmp_path):
    """Pictures and texts below each split, as Roboflow writes; paths of another machine."""
    for kind in ("images", "labels"):
        (tmp_path / "valid" / kind).mkdir(parents=True)
    Picture.new("L", (30, 20)).save(tmp_path / "valid" / "images" / "a.b.jpg")
    (tmp_path / "valid" / "labels" / "a.b.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    text = "path: /content/set\nval: ../valid/images\ntrain: ../train/images\nnc: 1\nnames: ['x']\n"
    (tmp_path / "data.yaml").write_text(text)
    (item,) = open_dataset(tmp_path).items
    assert (item.name, item.split, item.has_mask) == ("a.b", "val", True)
    assert read(tmp_path).labels[1].category == "x"


def test_a_folder_without_yaml_is_known_by_its_texts(tmp_path):
    from maskloop.datasets import format_of

    placed(tmp_path, "0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (tmp_path / "data.yaml").unlink()
    assert format_of(tmp_path).name == "yolo"
    (item,) = open_dataset(tmp_path).items
    assert (item.name, item.split) == ("a", "train")
    # The matrix of regions of Stanford Background is whole numbers.
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 0 0 1 1\n0 0 1 1 1\n")
    assert not yolo.sniff(tmp_path)
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (tmp_path / "annotations").mkdir()
    assert not yolo.sniff(tmp_path)


def test_lists_of_pictures_open(tmp_path):
    placed(tmp_path, "0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (tmp_path / "train.txt").write_text("./images/train/a.png\n")
    (tmp_path / "data.yaml").write_text("train: train.txt\nnames:\n  0: cell\n")
    (item,) = open_dataset(tmp_path).items
    assert (item.name, item.split) == ("train/a", "train")
    assert len(read(tmp_path).labels) == 1


def test_a_picture_without_a_text_is_empty_and_a_split_without_texts_is_for_tests(tmp_path):
    placed(tmp_path, "")
    Picture.new("L", (30, 20)).save(tmp_path / "images" / "train" / "b.png")
    (tmp_path / "images" / "test").mkdir()
    Picture.new("L", (30, 20)).save(tmp_path / "images" / "test" / "c.png")
    with (tmp_path / "data.yaml").open("a") as stream:
        stream.write("test: images/test\n")
    dataset = open_dataset(tmp_path)
    assert [(i.name, i.has_mask) for i in dataset.items] == [("a", True), ("b", True), ("c", False)]
    assert not dataset.read(dataset.items[1]).masks[0].data.any()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 0.1 0.2 x 0.3 0.5 0.6", "line 1 of a.txt"),
        ("0 0.1 0.2 0.3 0.3 0.5", "pairs of shares"),
        ("0 12 30 15 40 18 50", "divide x by the width"),
        ("0 nan 0.2 0.3 0.3 0.5 0.6", "pairs of shares"),
        ("7 0.1 0.2 0.3 0.3 0.5 0.6", "a class from 0 to 1"),
        ("-1 0.1 0.2 0.3 0.3 0.5 0.6", "number of a class"),
        ("0.5 0.1 0.2 0.3 0.3 0.5 0.6", "number of a class"),
    ],
)
def test_damaged_lines_are_named(line, words, tmp_path):
    with pytest.raises(FormatError, match=words):
        read(placed(tmp_path, f"{line}\n"))


def test_keypoints_are_refused(tmp_path):
    """Their lines would read as polygons."""
    placed(tmp_path, "", names="names: [a]\nkpt_shape: [17, 3]")
    with pytest.raises(FormatError, match="keypoints"):
        open_dataset(tmp_path)


def test_folders_outside_the_dataset_are_refused(tmp_path):
    placed(tmp_path / "set", "")
    (tmp_path / "set" / "data.yaml").write_text("train: images/../../other\nnames: [a]\n")
    with pytest.raises(InputError, match="relative"):
        open_dataset(tmp_path / "set")


YAMLS = (
    "names: ['a b', \"c: #d\", e]\nnc: 3",
    "names:\n  0: person\n  1: 'it''s'  # a comment\n\n  2: \"x\\ty\"\ntrain: images/train",
    "names:\n- cat\n- dog\ntrain: [images/a, images/b]",
    "# head\n---\nnames: {0: cat, 1: 'dog, cat'}\n",
    "names: [a,\n  b,\n  c]\nval: images/val # c",
)


@pytest.mark.parametrize("text", YAMLS)
def test_yaml_is_read_as_pyyaml_reads_it(text):
    yaml = pytest.importorskip("yaml")
    found = parsed(text, "data.yaml")

    def plain(value):
        if isinstance(value, dict):
            return {str(k): str(v) for k, v in value.items()}
        return [str(v) for v in value] if isinstance(value, list) else str(value)

    assert found == {key: plain(value) for key, value in yaml.safe_load(text).items()}


def test_yaml_written_is_read_by_pyyaml():
    yaml = pytest.importorskip("yaml")
    names = ["a: b", "# c", 'd "e"', "é\n", "1", "yes"]
    found = yaml.safe_load(written({"train": "images/x y", "names": names}))
    assert found == {"train": "images/x y", "names": dict(enumerate(names))}
    assert parsed(written({"names": names}), "")["names"] == {
        str(at): name for at, name in enumerate(names)
    }


@pytest.mark.parametrize("text", ["names: [a, b", "  x", "names\n", "names: {"])
def test_other_yaml_is_refused_by_line(text):
    with pytest.raises(FormatError, match=r"line \d of data\.yaml"):
        parsed(text, "data.yaml")


def test_real_nuclei_are_kept_to_the_pixel(nuclei, tmp_path):
    receipt = convert_dataset(nuclei, tmp_path / "out", "yolo")
    back = open_dataset(tmp_path / "out")
    assert receipt.losses == ()
    for item, found in zip(nuclei.items, back.items, strict=True):
        assert difference(nuclei.read(item), back.read(found)) == ""


def test_a_long_line_of_quotes_is_read_at_once():
    import time

    start = time.process_time()
    assert parsed('a: "\\' + '"\\' * 20_000, "f").keys() == {"a"}
    assert parsed("a: " + "x'# " * 20_000, "f").keys() == {"a"}
    assert time.process_time() - start < 2

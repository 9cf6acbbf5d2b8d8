"""`validate` on COCO instances: silent on clean sets, and every injected defect is caught."""

from __future__ import annotations

import copy
import json
import time
import zipfile

import numpy as np
import pytest
from PIL import Image as Picture
from pycocotools import mask as api

from maskloop.cli import run
from maskloop.core.errors import MissingFileError, UnknownNameError
from maskloop.datasets.proofs import RULES
from maskloop.desk.validate import validate
from tests.desk.coco_set import (
    CLASSES,
    HEIGHT,
    WIDTH,
    annotation,
    coco_content,
    label_arrays,
    write_set,
    write_truth,
)

ONE, TWO, PIXEL, FOUR = range(4)  # the objects of the first image


@pytest.fixture(scope="module")
def clean():
    return coco_content()


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    return write_truth(tmp_path_factory.mktemp("truth"))


def codes(found, severity="error"):
    return {one.code for one in found.problems if one.severity == severity}


def region(number):
    return label_arrays()["a/one"][0] == number + 1


def redraw(content, number, drawn):
    """Let an object be drawn otherwise, with area and box that fit."""
    old = content["annotations"][number]
    new = annotation(drawn, old["id"], old["image_id"], old["category_id"])
    content["annotations"][number] = new


def put(place, value):
    """Return a defect that sets one value; the place is a path of keys."""

    def defect(content):
        *way, last = place
        for key in way:
            content = content[key]
        content[last] = value

    return defect


def drop(place):
    def defect(content):
        *way, last = place
        for key in way:
            content = content[key]
        del content[last]

    return defect


def redrawn(number, change):
    return lambda content: redraw(content, number, change(region(number)))


def without_second_part(drawn):
    drawn[:, 18:] = False
    return drawn


def without_hole(drawn):
    drawn[10:16, 12:20] = True
    return drawn


def split_in_two(content):
    left, right = region(TWO), region(TWO)
    left[:, 18:], right[:, :18] = False, False
    redraw(content, TWO, left)
    content["annotations"].append(annotation(right, 99, 1, 3))


def merged(content):
    redraw(content, ONE, region(ONE) | region(PIXEL))
    del content["annotations"][PIXEL]


def each(key, change):
    def defect(content):
        for one in content["annotations"]:
            one[key] = change(one)

    return defect


def swapped_classes(content):
    for one in content["annotations"]:
        one["category_id"] = 4 - one["category_id"]


def reordered(content):
    """Number the categories anew, as some exporters do; the classes of objects stay right."""
    for row in content["categories"]:
        row["id"] = 1 + row["id"] // 2
    for one in content["annotations"]:
        one["category_id"] = 1 + one["category_id"] // 2


def transposed_pixels(drawn):
    """Write row after row where COCO counts column after column."""
    return drawn.reshape(-1).reshape(WIDTH, HEIGHT).T


def polygons(content):
    """Outline objects through the centres of their border's pixels, as many tools do."""
    for number, one in enumerate(content["annotations"][:1]):
        x, y, w, h = one["bbox"]
        ring = [x, y, x + w - 1, y, x + w - 1, y + h - 1, x, y + h - 1]
        content["annotations"][number].update(segmentation=[ring], area=(w - 1) * (h - 1))


FIRST = ("annotations", ONE)
MASK = (*FIRST, "segmentation")
STRUCTURE = {
    "info is missing": ("J2", drop(("info",))),
    "images are missing": ("J1", drop(("images",))),
    "annotations are no list": ("J1", put(("annotations",), {"0": {}})),
    "an annotation is a number": ("J1", lambda c: c["annotations"].append(7)),
    "an image id is text": ("S1", put(("images", 0, "id"), "1")),
    "an image id is repeated": ("S2", put(("images", 1, "id"), 1)),
    "a file name is repeated": ("S3", put(("images", 1, "file_name"), "a/one.jpg")),
    "annotation ids begin with 0": ("S4", each("id", lambda one: one["id"] - 1)),
    "an annotation id is repeated": ("S4", put((*FIRST, "id"), 2)),
    "an annotation id is missing": ("S4", drop((*FIRST, "id"))),
    "annotation ids are text": ("S4", each("id", lambda one: str(one["id"]))),
    "a category id is 0": ("S5", put(("categories", 0, "id"), 0)),
    "a category id is repeated": ("S5", put(("categories", 1, "id"), 1)),
    "a category has no name": ("S6", drop(("categories", 0, "name"))),
    "two categories have one name": ("S6", put(("categories", 1, "name"), "cell")),
    "a category does not exist": ("S7", put((*FIRST, "category_id"), 2)),
    "an image does not exist": ("S7", put((*FIRST, "image_id"), 44)),
    "a path is absolute": ("S8", put(("images", 0, "file_name"), "/data/one.jpg")),
    "a path leads out": ("S8", put(("images", 0, "file_name"), "../one.jpg")),
    "a path has backslashes": ("S8", put(("images", 0, "file_name"), "a\\one.jpg")),
    "a path is of Windows": ("S8", put(("images", 0, "file_name"), "C:/one.jpg")),
    "width and height are swapped": (
        "S9",
        lambda c: c["images"][2].update(width=HEIGHT, height=WIDTH),
    ),
    "the size is missing": ("S9", drop(("images", 0, "width"))),
    "a picture is missing": ("S10", put(("images", 2, "file_name"), "four.jpg")),
    "iscrowd is 2": ("S11", put((*FIRST, "iscrowd"), 2)),
    "iscrowd is missing": ("S11", drop((*FIRST, "iscrowd"))),
    "there is no mask": ("G1", put(MASK, [])),
    "run lengths are of a swapped size": ("G2", put((*MASK, "size"), [WIDTH, HEIGHT])),
    "run lengths are of another size": ("G2", put((*MASK, "size"), [HEIGHT + 1, WIDTH])),
    "counts are str(bytes)": (
        "G3",
        lambda c: c["annotations"][ONE]["segmentation"].update(
            counts=str(c["annotations"][ONE]["segmentation"]["counts"].encode())
        ),
    ),
    "counts break off": (
        "G3",
        lambda c: c["annotations"][ONE]["segmentation"].update(
            counts=c["annotations"][ONE]["segmentation"]["counts"][:-3]
        ),
    ),
    "counts are of another alphabet": ("G3", put((*MASK, "counts"), "eJxLYAAAAFQAVA==")),
    "plain counts do not add up": ("G3", put((*MASK, "counts"), [10, 20, 30])),
    "a run length is negative": ("G3", put((*MASK, "counts"), [10, -20, 30])),
    "a polygon has four numbers": ("G4", put(MASK, [[1, 1, 9, 9]])),
    "a polygon has an odd count": ("G4", put(MASK, [[1, 1, 9, 1, 9, 9, 4]])),
    "a polygon lies outside": ("G4", put(MASK, [[1, 1, 900, 1, 900, 9]])),
    "a polygon has no list": ("G4", put(MASK, [1, 1, 9, 1, 9, 9])),
    "a mask is empty": ("G5", put((*MASK, "counts"), [HEIGHT * WIDTH])),
    "the area is the image's": ("G6", each("area", lambda one: HEIGHT * WIDTH)),
    "the area is the box's": ("G6", each("area", lambda one: one["bbox"][2] * one["bbox"][3])),
    "the area is missing": ("G6", drop((*FIRST, "area"))),
    "boxes are two corners": (
        "G7",
        each(
            "bbox",
            lambda one: [
                *one["bbox"][:2],
                one["bbox"][0] + one["bbox"][2],
                one["bbox"][1] + one["bbox"][3],
            ],
        ),
    ),
    "boxes are one pixel short": (
        "G7",
        each("bbox", lambda one: [*one["bbox"][:2], one["bbox"][2] - 1, one["bbox"][3] - 1]),
    ),
    "boxes have height before width": (
        "G7",
        each("bbox", lambda one: [*one["bbox"][:2], *one["bbox"][:1:-1]]),
    ),
    "a mask stands twice": (
        "G8",
        lambda c: c["annotations"].append({**c["annotations"][0], "id": 50}),
    ),
    "all objects are crowds": ("C2", each("iscrowd", lambda one: 1)),
    "ignore is a key": ("C6", put((*FIRST, "ignore"), 0)),
    "a name is all dots": ("C4", put(("images", 2, "file_name"), "1.2.840.jpg")),
    "there are no annotations": ("S12", put(("annotations",), [])),
    "there are no images": ("S12", put(("images",), [])),
    "an image is tiny": ("C3", put(("images", 2, "height"), 20)),
    "two pictures have one stem": ("C7", put(("images", 2, "file_name"), "a/one.png")),
}
TRUTH = {
    "masks are transposed": ("T3", redrawn(FOUR, transposed_pixels)),
    "rows and columns are exchanged": (
        "T5",
        redrawn(FOUR, lambda d: np.pad(d[:, :64].T, ((0, 0), (0, 32)))),
    ),
    "a mask is shifted by a pixel": ("T5", redrawn(FOUR, lambda d: np.roll(d, 1, (0, 1)))),
    "a single pixel is shifted": ("T5", redrawn(PIXEL, lambda d: np.roll(d, 1, 1))),
    "holes are filled": ("T5", redrawn(ONE, without_hole)),
    "parts are lost": ("T5", redrawn(TWO, without_second_part)),
    "a tiny object is lost": ("T3", drop(("annotations", PIXEL))),
    "an image's objects are lost": ("T3", lambda c: c.update(annotations=c["annotations"][:4])),
    "objects are merged": ("T3", merged),
    "an object is split": ("T4", split_in_two),
    "an object is invented": (
        "T4",
        lambda c: c["annotations"].append(annotation(~region(ONE) & ~region(FOUR), 77, 3, 1)),
    ),
    "classes are swapped": ("T6", swapped_classes),
    "an object has become a crowd": ("T7", put((*FIRST, "iscrowd"), 1)),
    "an empty image is left out": ("T2", drop(("images", 2))),
    "outlines run through pixel centres": ("T5", polygons),
    "a mask is of another image": ("T4", put((*FIRST, "image_id"), 3)),
}


def test_a_clean_set_is_passed_in_silence(tmp_path, truth, clean):
    found = validate(write_set(tmp_path, clean), truth=truth)
    assert found.problems == ()
    assert found.verdict == "PASS"
    assert found.checked == {"annotations": 6, "images": 3, "true objects": 6}


def test_plain_counts_and_crack_polygons_are_passed_in_silence(tmp_path, truth, clean):
    content = copy.deepcopy(clean)
    plain = label_arrays()["a/one"][0] == 4
    runs = np.diff(np.flatnonzero(np.diff(plain.T.reshape(-1), prepend=~plain[0, 0], append=2)))
    content["annotations"][FOUR]["segmentation"]["counts"] = [int(n) for n in runs]
    ring = [[71, 51, 71, 50, 70, 50, 70, 51]]
    content["annotations"][PIXEL]["segmentation"] = ring
    assert int(api.area(api.frPyObjects(ring, HEIGHT, WIDTH))[0]) == 1
    found = validate(write_set(tmp_path, content), truth=truth)
    assert found.problems == ()


def test_the_box_of_a_polygons_pixels_is_as_right_as_that_of_its_corners(tmp_path, clean):
    content = copy.deepcopy(clean)
    tip = [20.0, 20, 40, 20, 40, 30.2, 60, 30.3, 40, 30.4, 40, 40, 20, 40]  # fills no pixel
    runs = api.merge(api.frPyObjects([tip], HEIGHT, WIDTH))
    drawn = content["annotations"][ONE]
    drawn |= {"segmentation": [tip], "area": int(api.area(runs)), "bbox": [20, 20, 40, 20]}
    assert api.toBbox(runs).tolist() == [20, 20, 20, 20]
    assert "G7" not in codes(validate(write_set(tmp_path / "corners", content)))
    drawn["bbox"] = api.toBbox(runs).tolist()
    assert "G7" not in codes(validate(write_set(tmp_path / "pixels", content)))
    drawn["bbox"] = [20, 20, 30, 20]
    assert "G7" in codes(validate(write_set(tmp_path / "neither", content)))


@pytest.mark.parametrize("name", STRUCTURE)
def test_a_defect_of_structure_or_geometry_is_caught(tmp_path, clean, name):
    code, defect = STRUCTURE[name]
    content = copy.deepcopy(clean)
    defect(content)
    found = validate(write_set(tmp_path, content))
    assert code in codes(found) | codes(found, "warning")
    one = next(p for p in found.problems if p.code == code)
    assert one.words.startswith("expected ")
    assert one.cure
    assert one.severity == ("warning" if name == "iscrowd is missing" else RULES[code].severity)


@pytest.mark.parametrize("name", TRUTH)
def test_a_defect_that_only_the_truth_shows_is_caught(tmp_path, truth, clean, name):
    code, defect = TRUTH[name]
    content = copy.deepcopy(clean)
    defect(content)
    root = write_set(tmp_path, content)
    if code != "T2" and "crowd" not in name and "outlines" not in name and "image" not in name:
        assert validate(root).errors == 0  # nothing but the truth tells
    assert code in codes(validate(root, truth=truth))


def test_the_words_name_the_mistake(tmp_path, truth, clean):
    wanted = {
        "holes are filled": "holes are filled",
        "parts are lost": "1 of 2 parts are lost",
        "a mask is shifted by a pixel": r"shifted by (+1, +1)",
        "objects are merged": "merged",
        "an object is split": "split",
        "rows and columns are exchanged": "rows and columns exchanged",
    }
    for number, (name, words) in enumerate(wanted.items()):
        content = copy.deepcopy(clean)
        TRUTH[name][1](content)
        found = validate(write_set(tmp_path / str(number), content), truth=truth)
        assert any(words in one.words for one in found.problems), name


def test_categories_that_were_numbered_anew_are_caught(tmp_path, clean):
    content = copy.deepcopy(clean)
    reordered(content)
    from maskloop.core.labels import LabelTable
    from maskloop.formats.base import table_bytes

    own = tmp_path / "truth"
    write_truth(own / "masks")
    (own / "classes.json").write_bytes(table_bytes(LabelTable.classes(CLASSES)))
    root = write_set(tmp_path / "set", content)
    assert validate(write_set(tmp_path / "clean", clean), truth=own).problems == ()
    found = validate(root, truth=own)
    assert codes(found) == {"T1"}
    assert "expected id 3 for 'dead cell', got 2" in found.to_text()


def test_stored_pictures_decide_the_size(tmp_path, clean):
    root = write_set(tmp_path, clean)
    turned = Picture.new("RGB", (HEIGHT, WIDTH))
    exif = turned.getexif()
    exif[274] = 6
    turned.save(root / "images" / "three.jpg", exif=exif)
    found = validate(root)
    assert codes(found) == {"S9"}
    assert "EXIF" in found.problems[0].words


def test_a_damaged_picture_is_caught(tmp_path, clean):
    root = write_set(tmp_path, clean)
    (root / "images" / "three.jpg").write_bytes(b"\xff\xd8\xff nothing")
    assert codes(validate(root)) == {"S10"}


def test_without_pictures_one_warning_says_so(tmp_path, clean):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(clean))
    found = validate(path)
    assert codes(found) == set()
    assert found.counts == {"S10": 1}


def test_more_objects_than_cocoeval_keeps_are_told(tmp_path, clean):
    content = copy.deepcopy(clean)
    content["annotations"] = []
    for number in range(120):
        drawn = np.zeros((HEIGHT, WIDTH), bool)
        drawn[2 * (number // 20) : 2 * (number // 20) + 1, 4 * (number % 20)] = True
        content["annotations"].append(annotation(drawn, number + 1, 1, 1))
    found = validate(write_set(tmp_path, content))
    assert found.counts == {"C1": 1}
    assert found.verdict == "PASS"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'{"images": [{"id": 1',
        b'{"images": [], "annotations": [], "categories": [NaN]}',
        b'{"images": ' + b"[" * 200_000,
        b'{"images": "\xff\xfe"}',
        b"[1, 2, 3]",
        b'{"images": 3, "annotations": null}',
    ],
)
def test_what_is_no_coco_json_is_told(tmp_path, text):
    path = tmp_path / "instances_train.json"
    path.write_bytes(text)
    found = validate(path)
    assert codes(found) & {"J0", "J1"}
    assert found.verdict == "FAIL"


def test_a_byte_order_mark_is_told_and_the_rest_is_looked_at(tmp_path, clean):
    content = copy.deepcopy(clean)
    content["annotations"][0]["area"] = 1
    path = write_set(tmp_path, content) / "annotations" / "instances_train.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert validate(tmp_path).counts == {"G6": 1, "J0": 1}


def test_only_the_first_of_many_problems_are_listed_but_all_are_counted(tmp_path, clean):
    content = copy.deepcopy(clean)
    one = content["annotations"][0]
    content["annotations"] = [{**one, "id": n, "area": 7} for n in range(1, 61)]
    found = validate(write_set(tmp_path, content))
    assert found.counts["G6"] == 60
    assert sum(p.code == "G6" for p in found.problems) == 20
    assert "and 40 more of G6" in found.to_text()


def test_the_command_fails_only_for_errors(tmp_path, clean, capsys):
    root = write_set(tmp_path / "good", clean)
    assert run(["validate", str(root)]) == 0
    content = copy.deepcopy(clean)
    del content["info"]
    assert run(["validate", str(write_set(tmp_path / "warned", content))]) == 0
    content["annotations"][0]["id"] = 0
    capsys.readouterr()
    assert run(["validate", str(write_set(tmp_path / "bad", content)), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "FAIL"
    assert found["counts"] == {"J2": 1, "S4": 1}
    assert run(["validate", str(tmp_path / "none")]) == 2


def test_what_is_not_there_is_an_error_of_the_command(tmp_path, clean):
    with pytest.raises(MissingFileError):
        validate(tmp_path / "none")
    root = write_set(tmp_path, clean)
    with pytest.raises(MissingFileError):
        validate(root, truth=tmp_path / "none")
    with pytest.raises(UnknownNameError):
        validate(root, format="cocoo")


def test_real_coco_has_only_the_wrong_areas_of_its_crowds(shared_data, tmp_path):
    with zipfile.ZipFile(shared_data / "images2d" / "tiny_coco" / "tiny_coco.zip") as packed:
        packed.extractall(tmp_path)
    found = validate(tmp_path)
    assert found.verdict == "PASS"
    # pycocotools counts 37950 pixels where COCO itself states 40881, and so on.
    assert found.counts == {"G6": 4}
    assert found.checked == {"annotations": 424, "images": 38}
    assert "expected area 37950, got 40881" in found.to_text()


def test_a_name_cannot_write_on_the_terminal(tmp_path, clean):
    content = copy.deepcopy(clean)
    content["images"][2]["file_name"] = "\x1b[2J" + "x" * 5000
    text = validate(write_set(tmp_path, content)).to_text()
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) < 500


def test_pictures_and_groups_in_two_splits_are_caught(tmp_path, clean):
    root = write_set(tmp_path, clean)
    content = copy.deepcopy(clean)
    assert validate(root).counts == {}
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))
    assert validate(root).counts == {"S13": 3}
    for shot in content["images"]:
        shot["file_name"] = f"val/{shot['file_name']}"
        shot["group_id"] = 4
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))
    content["images"] = [{**content["images"][0], "file_name": "other.jpg"}]
    content["annotations"] = []
    (root / "annotations" / "instances_test.json").write_text(json.dumps(content))
    found = validate(root)
    assert found.counts["D7"] == 3
    assert "S13" not in found.counts
    # Another kind of annotations of the same pictures is no split.
    (root / "annotations" / "instances_test.json").unlink()
    (root / "annotations" / "instances_val.json").unlink()
    (root / "annotations" / "stuff_val.json").write_text(json.dumps(clean))
    assert validate(root).counts == {}


@pytest.mark.parametrize(
    ("code", "place", "value"),
    [
        ("S9", ("images", 0, "height"), 2**31 - 1),
        ("G4", MASK, [[0, 0, 96, 64] * 60_000]),
        ("G6", MASK, [[0, 0, 96, 0, 96, 64]]),
        ("G3", (*MASK, "counts"), [2**39] * 4),
        ("G3", (*MASK, "counts"), "oooooooooooooooooooooooo0"),
    ],
)
def test_what_would_fill_the_memory_is_refused_at_once(tmp_path, truth, clean, code, place, value):
    content = copy.deepcopy(clean)
    put(place, value)(content)
    content["images"][1].update(height=2**17, width=2**17)
    content["annotations"][4]["segmentation"] = [[0, 0, 2**17, 0, 2**17, 2**17, 0, 2**17]]
    began = time.process_time()
    assert code in codes(validate(write_set(tmp_path, content), truth=truth))
    assert time.process_time() - began < 5

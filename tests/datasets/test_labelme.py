"""LabelMe's JSON: masks and shapes as its canvas shows them, groups of parts, its own words."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as Picture

from maskloop.core.errors import FormatError
from maskloop.core.job import Job
from maskloop.datasets.base import Options, difference
from maskloop.desk.datasets import convert_dataset, open_dataset
from tests.datasets.drawings import box, dataset_of, difficult, region_of, thing, with_rows


def png(region: np.ndarray, mode: str = "L") -> str:
    """Return a mask as LabelMe embeds it; Pillow writes it here."""
    stream = io.BytesIO()
    Picture.fromarray(region.astype(np.uint8)).convert(mode).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def shape(points, kind: str = "polygon", label: str = "cell", **more):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, **more}


def written(folder, *shapes, name: str = "a.json", **more):
    content = {
        **{"version": "5.4.1", "flags": {}, "shapes": list(shapes)},
        **{"imagePath": "a.png", "imageData": None, "imageHeight": 20, "imageWidth": 30},
        **more,
    }
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def read(file, job: Job | None = None):
    dataset = open_dataset(file)
    return dataset.read(dataset.items[0], job)


def drawn(one, folder) -> np.ndarray:
    return region_of(read(written(folder, one)), "cell 1")


@pytest.mark.parametrize("mode", ["L", "1"])
def test_both_corners_of_a_mask_belong_to_it(mode, tmp_path):
    region = np.zeros((3, 4), bool)
    region[0] = region[2, 3] = region[1, 0] = True
    text = png(region * 255 if mode == "1" else region, mode)
    expected = np.zeros((20, 30), bool)
    expected[5:8, 10:14] = region
    found = drawn(shape([[10, 5], [13, 7]], "mask", mask=text), tmp_path)
    np.testing.assert_array_equal(found, expected)


def test_a_polygon_covers_the_pixels_whose_centres_it_holds(tmp_path):
    corners = [[3, 2], [9, 2], [9, 6], [3, 6]]
    np.testing.assert_array_equal(drawn(shape(corners), tmp_path), box(np.s_[2:6], np.s_[3:9]))


def test_rectangles_may_be_drawn_from_any_corner(tmp_path):
    found = drawn(shape([[9.4, 6.2], [3, 2]], "rectangle"), tmp_path)
    np.testing.assert_array_equal(found, box(np.s_[2:6], np.s_[3:9]))


def test_a_circle_is_a_centre_and_a_point_on_it(tmp_path):
    found = drawn(shape([[15, 10], [15, 4]], "circle"), tmp_path)
    y, x = np.mgrid[:20, :30] + 0.5
    np.testing.assert_array_equal(found, (x - 15) ** 2 + (y - 10) ** 2 <= 36)


def test_shapes_of_one_label_and_group_are_one_object(tmp_path):
    part, far = [[1, 1], [4, 1], [4, 4], [1, 4]], [[20, 10], [24, 10], [24, 13], [20, 13]]
    file = written(
        tmp_path,
        shape(part, group_id=5),
        shape(far, group_id=5),
        shape(part, label="sky", group_id=5),
        shape(far, label="sky"),
    )
    dataset = open_dataset(file)
    sample = dataset.read(dataset.items[0])
    assert dataset.items[0].count == 3
    assert [row.category for row in sample.labels.values()] == ["cell", "sky", "sky"]
    one = region_of(sample, "cell 1")
    np.testing.assert_array_equal(
        one, box(np.s_[1:4], np.s_[1:4]) | box(np.s_[10:13], np.s_[20:24])
    )


def test_shapes_that_overlap_are_each_whole(tmp_path):
    low, high = [[1, 1], [9, 1], [9, 9], [1, 9]], [[5, 5], [12, 5], [12, 12], [5, 12]]
    sample = read(written(tmp_path, shape(low), shape(high)))
    assert len(sample.masks) == 2
    assert [int(region_of(sample, n).sum()) for n in ("cell 1", "cell 2")] == [64, 49]


def test_what_labelme_ignores_is_ignored(tmp_path):
    square = [[1, 1], [4, 1], [4, 4], [1, 4]]
    sample = read(written(tmp_path, shape(square, label="__ignore__")))
    assert [row.ignore for row in sample.labels.values()] == [True]


def test_points_and_lines_are_told_and_left_out(tmp_path):
    said = []
    file = written(tmp_path, shape([[1, 1]], "point"), shape([[1, 1], [2, 5]], "linestrip"))
    assert not read(file, Job(lambda *a: said.append(str(a)))).labels
    assert any("2 shapes of a.json are points or lines" in words for words in said)


@pytest.mark.parametrize("stated", ["../images/a.png", "..\\images\\a.png", "C:\\old\\a.png"])
def test_the_picture_is_the_one_named_or_the_one_beside(stated, tmp_path):
    for where in ("images", "json"):
        (tmp_path / where).mkdir()
        Picture.new("L", (30, 20)).save(tmp_path / where / "a.png")
    written(tmp_path / "json", imagePath=stated)
    (item,) = open_dataset(tmp_path).items
    assert item.image == tmp_path / ("json" if ":" in stated else "images") / "a.png"


def test_a_picture_outside_the_dataset_is_never_touched(tmp_path):
    Picture.new("L", (30, 20)).save(tmp_path / "secret.png")
    written(tmp_path / "set", imagePath="../secret.png")
    (item,) = open_dataset(tmp_path / "set").items
    assert item.image is None


def test_a_file_with_its_picture_inside_is_listed_by_its_beginning(tmp_path):
    square = [[1, 1], [4, 1], [4, 4], [1, 4]]
    written(tmp_path, shape(square, label='a "b"'), imageData="A" * 2_000_000)
    dataset = open_dataset(tmp_path)
    assert dataset.items[0].count is None
    assert [row.name for row in dataset.scheme.values()] == ['a "b"']
    assert len(dataset.read(dataset.items[0]).labels) == 1


def test_files_of_old_versions_open(tmp_path):
    """No version, no size, colours of lines; the picture in front where it is inside."""
    Picture.new("L", (30, 20)).save(tmp_path / "a.png")
    square = {"label": "bus", "points": [[1, 1], [4, 1], [4, 4], [1, 4]], "fill_color": None}
    for front in (None, "A" * 9000):
        content = {"imageData": front, "shapes": [square], "lineColor": [0, 255, 0, 128]}
        (tmp_path / "a.json").write_text(json.dumps({**content, "imagePath": "a.png"}))
        dataset = open_dataset(tmp_path)
        assert dataset.format == "labelme"
        assert region_of(dataset.read(dataset.items[0]), "bus 1").sum() == 9


def test_what_labelme_says_is_written_back(tmp_path):
    square = [[1, 1], [4, 1], [4, 4], [1, 4]]
    more = {"description": "left one", "flags": {"sure": True}, "group_id": 3}
    written(tmp_path / "in", shape(square, **more), flags={"done": True}, version="5.4.1")
    convert_dataset(tmp_path / "in", tmp_path / "out", "labelme")
    content = json.loads((tmp_path / "out" / "a.json").read_bytes())
    (one,) = content["shapes"]
    assert (content["version"], content["flags"]) == ("5.4.1", {"done": True})
    assert {key: one[key] for key in more} == more


def test_rows_come_back_with_names_scores_and_ids(tmp_path):
    made = dataset_of(tmp_path / "in", difficult())
    rows = [replace(thing(1), name="first", score=0.25, author="ann"), thing(2), thing(3)]
    made = with_rows(made, *rows, replace(thing(4), locked=True, status="accepted"))
    convert_dataset(made, tmp_path / "out", "labelme")
    back = open_dataset(tmp_path / "out")
    assert back.read(back.items[0]).labels == made.read(made.items[0]).labels
    assert back.scheme == made.scheme


def test_polygons_on_request_keep_parts_in_a_group_and_holes_in_masks(tmp_path):
    made = dataset_of(tmp_path / "in", difficult())
    options = Options(outline="polygon")
    receipt = convert_dataset(made, tmp_path / "out", "labelme", options=options)
    shapes = json.loads((tmp_path / "out" / "a.json").read_bytes())["shapes"]
    told = [(s["shape_type"], s["group_id"]) for s in shapes]
    assert receipt.losses == ()
    assert told == [
        *[("mask", None), ("polygon", 2), ("polygon", 2), ("polygon", None)],
        *[("polygon", 4), ("polygon", 4)],
    ]


@pytest.mark.parametrize("name", ["labelme", "geojson", "cvat", "yolo"])
def test_splits_and_groups_come_back(name, tmp_path):
    made = dataset_of(tmp_path / "in", difficult(), difficult(), names=("a.1", "b"))
    told = (("val", "slide 7"), ("train", ""))
    items = tuple(
        replace(item, split=split, group=group)
        for item, (split, group) in zip(made.items, told, strict=True)
    )
    convert_dataset(replace(made, items=items), tmp_path / "out", name)
    back = {i.name: (i.split, i.group) for i in open_dataset(tmp_path / "out").items}
    assert back == {"a_1": ("val", "slide 7"), "b": ("train", "")}


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (shape([[1, 1], [2, 2]]), "3 points in shape 1"),
        (shape([[1, None], [2, 2], [3, 3]]), "points"),
        (shape("abc"), "points"),
        (shape([[1, 1], [40, 4]], "mask", mask=""), "inside the picture"),
        (shape([[1, 1], [4, 4]], "mask", mask="####"), "PNG"),
        (shape([[1, 1], [4, 4]], "mask", mask=png(np.ones((3, 3)))), r"\(4, 4\) pixels"),
        (shape([[1, 1], [4, 4]], "mask"), "PNG"),
        (shape([[1, 1], [4, 1e300], [3, 3]]), "coordinates"),
    ],
)
def test_damaged_shapes_are_named(one, words, tmp_path):
    with pytest.raises(FormatError, match=words):
        read(written(tmp_path, one))


@pytest.mark.parametrize("size", [0, -3, 1.5, "20", True, None, 10**12])
def test_impossible_sizes_are_refused(size, tmp_path):
    with pytest.raises(FormatError, match=r"height and width|at most 4,294,967,296 pixels"):
        read(written(tmp_path, imageHeight=size))


def test_real_nuclei_are_kept_to_the_pixel(nuclei, tmp_path):
    for outline in ("rle", "polygon"):
        out = tmp_path / outline
        convert_dataset(nuclei, out, "labelme", options=Options(outline=outline))
        back = open_dataset(out)
        for item, found in zip(nuclei.items, back.items, strict=True):
            assert difference(nuclei.read(item), back.read(found)) == ""

"""GeoJSON as QuPath writes it: corners, real holes, parts, classes and colours."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as Picture
from skimage import draw

from maskloop.core.errors import FormatError, InputError
from maskloop.core.job import Job
from maskloop.datasets.base import difference
from maskloop.desk.datasets import convert_dataset, open_dataset
from tests.datasets.drawings import box, dataset_of, difficult, mask_of, region_of, thing, with_rows

SQUARE = [[3, 2], [9, 2], [9, 6], [3, 6], [3, 2]]
HOLE = [[5, 3], [5, 5], [7, 5], [7, 3], [5, 3]]
FAR = [[20, 10], [24, 10], [24, 13], [20, 13], [20, 10]]


def feature(coordinates, kind: str = "Polygon", word="cell", colour=(1, 2, 3), **more):
    named = {"name": word, "color": list(colour)}
    return {
        **{"type": "Feature", "id": "e1", "geometry": {"type": kind, "coordinates": coordinates}},
        "properties": {"objectType": "annotation", "classification": named, **more},
    }


def written(folder, *features, name: str = "a.geojson", content=None, has_picture: bool = True):
    folder.mkdir(parents=True, exist_ok=True)
    if has_picture:
        Picture.new("L", (30, 20)).save(folder / "a.png")
    found = {"type": "FeatureCollection", "features": list(features)}
    file = folder / name
    file.write_text(json.dumps(found if content is None else content))
    return file


def read(file, job: Job | None = None):
    dataset = open_dataset(file, format="geojson")
    return dataset.read(dataset.items[0], job)


def test_corners_are_whole_numbers_and_holes_are_real(tmp_path):
    sample = read(written(tmp_path, feature([SQUARE, HOLE])))
    expected = box(np.s_[2:6], np.s_[3:9]) & ~box(np.s_[3:5], np.s_[5:7])
    np.testing.assert_array_equal(region_of(sample, "cell 1"), expected)


def test_parts_are_one_object(tmp_path):
    sample = read(written(tmp_path, feature([[SQUARE, HOLE], [FAR], [SQUARE]], "MultiPolygon")))
    expected = box(np.s_[2:6], np.s_[3:9]) | box(np.s_[10:13], np.s_[20:24])
    np.testing.assert_array_equal(region_of(sample, "cell 1"), expected)


def test_slanted_lines_cover_what_scikit_image_says(tmp_path):
    ring = [[3.2, 2.1], [25.7, 4.4], [20.2, 18.9], [14.1, 9.3], [2.6, 16.3], [3.2, 2.1]]
    found = region_of(read(written(tmp_path, feature([ring]))), "cell 1")
    expected = draw.polygon2mask((20, 30), np.array(ring)[:, ::-1] - 0.5)
    np.testing.assert_array_equal(found, expected)


def test_classes_bring_their_colours_new_and_old(tmp_path):
    old = feature([FAR], word="sky")
    old["properties"]["classification"] = {"name": "sky", "colorRGB": -3140401}
    dataset = open_dataset(written(tmp_path, feature([SQUARE]), old))
    assert {r.name: r.colour for r in dataset.scheme.values()} == {
        "cell": "#010203",
        "sky": "#d014cf",
    }
    assert (dataset.items[0].count, dataset.items[0].classes) == (2, {"cell", "sky"})


@pytest.mark.parametrize("wrap", [lambda one: [one], lambda one: one])
def test_lists_and_single_features_open_too(wrap, tmp_path):
    sample = read(written(tmp_path, content=wrap(feature([SQUARE]))))
    assert [row.category for row in sample.labels.values()] == ["cell"]


@pytest.mark.parametrize(
    ("properties", "word"),
    [
        ({"class": "road"}, "road"),
        ({"classification": "road"}, "road"),
        ({}, "object"),
        (None, "object"),
    ],
)
def test_classes_of_other_programs(properties, word, tmp_path):
    one = {**feature([SQUARE]), "properties": properties}
    sample = read(written(tmp_path, one))
    assert [row.category for row in sample.labels.values()] == [word]


def test_names_and_locks_of_qupath_are_the_rows(tmp_path):
    sample = read(written(tmp_path, feature([SQUARE], name="left", isLocked=True)))
    (row,) = sample.labels.values()
    assert (row.name, row.locked, row.category) == ("left", True, "cell")


def test_points_and_other_planes_are_told_and_left_out(tmp_path):
    said = []
    point = {**feature([1, 2]), "geometry": {"type": "Point", "coordinates": [1, 2]}}
    above = feature([SQUARE])
    above["geometry"]["plane"] = {"c": -1, "z": 3, "t": 0}
    file = written(tmp_path, point, above, feature([FAR]))
    assert len(read(file, Job(lambda *a: said.append(str(a)))).labels) == 1
    assert any("2 features of a.geojson" in words for words in said)


def test_without_a_picture_the_shapes_tell_the_size(tmp_path):
    said = []
    file = written(tmp_path, feature([FAR]), has_picture=False)
    assert read(file, Job(lambda *a: said.append(str(a)))).masks[0].data.shape == (13, 24)
    assert any("24 x 13 pixels" in words for words in said)
    with pytest.raises(InputError, match="put it beside"):
        read(written(tmp_path / "none", has_picture=False))


def test_rings_written_close_wind_and_measure_as_the_standard_says(tmp_path):
    """RFC 7946, 3.1.6: closed, holes the other way round; areas are the numbers of pixels."""
    made = dataset_of(tmp_path / "in", difficult())
    convert_dataset(made, tmp_path / "out", "geojson")
    content = json.loads((tmp_path / "out" / "a.geojson").read_bytes())
    ids = made.read(made.items[0]).masks[0].data
    kinds = []
    for number, one in enumerate(content["features"], start=1):
        geometry = one["geometry"]
        kinds.append(geometry["type"])
        stated = geometry["coordinates"]
        area = 0.0
        for polygon in [stated] if geometry["type"] == "Polygon" else stated:
            signs = []
            for ring in polygon:
                assert ring[0] == ring[-1]
                x, y = np.array(ring, float).T
                signs.append(float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2))
            assert signs[0] > 0
            assert all(sign < 0 for sign in signs[1:])
            area += sum(signs)
        assert area == (ids == number).sum()
    assert kinds == ["Polygon", "MultiPolygon", "Polygon", "MultiPolygon"]
    assert content["features"][0]["properties"]["classification"] == {
        "name": "cell",
        "color": [0, 0x72, 0xB2],
    }


def test_what_qupath_says_is_written_back(tmp_path):
    more = {"measurements": {"area": 12.5}, "metadata": {"reader": "ann"}}
    written(tmp_path / "in", feature([SQUARE], **more))
    convert_dataset(tmp_path / "in", tmp_path / "out", "geojson")
    (one,) = json.loads((tmp_path / "out" / "a.geojson").read_bytes())["features"]
    assert one["id"] == "e1"
    assert {key: one["properties"][key] for key in more} == more


def test_rows_come_back_with_names_scores_and_ids(tmp_path):
    made = dataset_of(tmp_path / "in", difficult())
    rows = [replace(thing(1), name="first", score=0.25, author="ann"), thing(2), thing(3)]
    made = with_rows(made, *rows, replace(thing(4), locked=True, ignore=True))
    convert_dataset(made, tmp_path / "out", "geojson")
    back = open_dataset(tmp_path / "out")
    assert back.read(back.items[0]).labels == made.read(made.items[0]).labels
    assert back.scheme == made.scheme


def test_an_empty_picture_stays(tmp_path):
    made = dataset_of(tmp_path / "in", mask_of(np.zeros((20, 30), np.uint8)))
    convert_dataset(made, tmp_path / "out", "geojson")
    back = open_dataset(tmp_path / "out")
    assert back.items[0].shape == (20, 30)
    assert not back.read(back.items[0]).masks[0].data.any()


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (feature([[[1, 1], [2, 2]]]), "3 points a ring in feature 1"),
        (feature(7), "lists of rings"),
        (feature([["a"]]), "points"),
        (feature([[[1, 1], [1e300, 2], [3, 3]]]), "coordinates"),
    ],
)
def test_damaged_features_are_named(one, words, tmp_path):
    with pytest.raises(FormatError, match=words):
        read(written(tmp_path, one))


def test_real_nuclei_are_kept_to_the_pixel(nuclei, tmp_path):
    convert_dataset(nuclei, tmp_path / "out", "geojson")
    back = open_dataset(tmp_path / "out")
    for item, found in zip(nuclei.items, back.items, strict=True):
        assert difference(nuclei.read(item), back.read(found)) == ""

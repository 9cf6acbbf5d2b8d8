"""COCO: labels to JSON to labels is identity, and what pycocotools reads is what we meant."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from maskloop.core.errors import FormatError, InputError, VerificationError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.formats import coco_plain
from maskloop.loop.export import export
from maskloop.loop.load import load_mask, load_masks

# pycocotools 2.0.11 converts its buffers in a way that NumPy 2 has renamed.
NUMPY2 = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def picture(ids, labels=None, source=None) -> Mask:
    ids = np.asarray(ids, np.uint16)
    return Mask(ids, Geometry.pixels(ids.shape), labels or LabelTable(), source)


def scene() -> np.ndarray:
    """Return a ring with a hole, an object in two parts, a single pixel and a touching pair."""
    ids = np.zeros((40, 60), np.uint16)
    ids[5:15, 5:15] = 3
    ids[8:12, 8:12] = 0
    ids[20:25, 3:9] = ids[30:39, 50:60] = 7
    ids[0, 59] = 8
    ids[25:30, 20:25], ids[25:30, 25:30] = 9, 10
    return ids


def content(path: Path) -> dict:
    return json.loads(path.read_text())


@NUMPY2
def test_pycocotools_reads_back_the_same_labels(tmp_path):
    coco = pytest.importorskip("pycocotools.mask")
    ids = scene()
    export(picture(ids), tmp_path / "m.json")
    found = np.zeros_like(ids)
    for annotation in content(tmp_path / "m.json")["annotations"]:
        region = coco.decode(annotation["segmentation"])
        found[region == 1] = annotation["id"]
        assert annotation["area"] == int(coco.area(annotation["segmentation"]))
        assert annotation["bbox"] == list(coco.toBbox(annotation["segmentation"]))
        assert annotation["iscrowd"] == 0
    np.testing.assert_array_equal(found, ids)


def test_one_annotation_an_id_however_many_parts(tmp_path):
    export(picture(scene()), tmp_path / "m.json")
    found = content(tmp_path / "m.json")
    assert [a["id"] for a in found["annotations"]] == [3, 7, 8, 9, 10]
    assert {a["category_id"] for a in found["annotations"]} == {1}
    assert [(c["id"], c["name"]) for c in found["categories"]] == [(1, "object")]


def test_classes_keep_their_ids_as_category_ids(tmp_path):
    table = LabelTable(
        [Label(1, "liver", "#aa0000"), Label(3, "tumour", "#00bb00"), Label(9, "cyst")]
    )
    ids = np.zeros((6, 8), np.uint8)
    ids[1, 1], ids[2:4, 2:6] = 1, 3
    export(picture(ids, table), tmp_path / "m.json")
    found = content(tmp_path / "m.json")
    assert [(c["id"], c["name"]) for c in found["categories"]] == [
        (1, "liver"),
        (3, "tumour"),
        (9, "cyst"),
    ]
    assert found["categories"][0]["color"] == [0xAA, 0, 0]
    assert [(a["id"], a["category_id"]) for a in found["annotations"]] == [(1, 1), (3, 3)]
    again = load_mask(tmp_path / "m.json")
    np.testing.assert_array_equal(again.data, ids)
    assert dict(again.labels) == dict(table)


def test_kind_classes_changes_what_ids_without_a_table_are(tmp_path):
    export(picture(scene()), tmp_path / "m.json", kind="classes")
    found = content(tmp_path / "m.json")
    assert [c["id"] for c in found["categories"]] == [3, 7, 8, 9, 10]
    assert load_mask(tmp_path / "m.json").labels.kind == "classes"


def test_rows_of_objects_come_back(tmp_path):
    table = LabelTable(
        [
            Label(3, "left one", "#123456", "cell", True, score=0.5, author="me", status="edited"),
            Label(7, "nucleus 7", category="nucleus", is_thing=True, locked=True, visible=False),
            Label(8, "cell 8", category="cell", is_thing=True),
            Label(9, "cell crowd 9", category="cell", is_thing=True, ignore=True),
            Label(10, "cell 10", category="cell", is_thing=True),
        ]
    )
    export(picture(scene(), table), tmp_path / "m.json")
    assert dict(load_mask(tmp_path / "m.json").labels) == dict(table)
    found = content(tmp_path / "m.json")
    assert [(c["id"], c["name"]) for c in found["categories"]] == [(1, "cell"), (2, "nucleus")]
    assert [a["iscrowd"] for a in found["annotations"]] == [0, 0, 0, 1, 0]


def test_an_empty_mask_still_writes_its_image(tmp_path):
    export(picture(np.zeros((4, 5)), source=tmp_path / "photo.png"), tmp_path / "m.json")
    found = content(tmp_path / "m.json")
    assert found["images"] == [{"id": 1, "width": 5, "height": 4, "file_name": "photo.png"}]
    assert found["annotations"] == []
    assert load_mask(tmp_path / "m.json").data.shape == (4, 5)


def test_the_file_name_is_relative_to_the_json(tmp_path):
    ids = scene()
    image = Image(ids, Geometry.pixels(ids.shape), tmp_path / "images" / "a.png")
    export(picture(ids), tmp_path / "m.json", image=image)
    assert content(tmp_path / "m.json")["images"][0]["file_name"] == "images/a.png"
    (tmp_path / "out").mkdir()
    export(picture(ids), tmp_path / "out" / "m.json", image=image)
    assert content(tmp_path / "out" / "m.json")["images"][0]["file_name"] == "a.png"


def test_the_same_mask_gives_the_same_bytes(tmp_path):
    first = export(picture(scene()), tmp_path / "a.json")
    second = export(picture(scene()), tmp_path / "b.json")
    assert first.sha256["a.json"] == second.sha256["b.json"]


def test_a_volume_is_refused_in_words_and_one_slice_is_a_picture(tmp_path):
    grid = Geometry.regular((2, 4, 5), (3, 1, 1))
    with pytest.raises(InputError, match=r"convert IN OUT --to coco-volume"):
        export(Mask(np.ones((2, 4, 5), np.uint8), grid, LabelTable()), tmp_path / "m.json")
    grid = Geometry.regular((1, 4, 5), (3, 1, 1))
    receipt = export(Mask(np.ones((1, 4, 5), np.uint8), grid, LabelTable()), tmp_path / "m.json")
    assert any("mm" in loss for loss in receipt.losses)
    assert load_mask(tmp_path / "m.json").data.shape == (4, 5)


def test_an_object_without_pixels_is_told_as_lost(tmp_path):
    receipt = export(picture([[0, 1]], LabelTable.objects([1, 2])), tmp_path / "m.json")
    assert receipt.losses == ("objects without pixels are left out: 2",)


def foreign(annotations, *, categories=None, images=None) -> dict:
    images = images or [{"id": 5, "file_name": "a.png", "width": 10, "height": 8}]
    return {
        "images": images,
        "annotations": annotations,
        "categories": categories or [{"id": 4, "name": "cell", "supercategory": "life"}],
    }


def annotation(number, segmentation, **more) -> dict:
    return {"id": number, "image_id": 5, "category_id": 4, "segmentation": segmentation, **more}


def box(x0, y0, x1, y1) -> list:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def write(path: Path, found: dict) -> Path:
    path.write_text(json.dumps(found))
    return path


def test_polygons_and_plain_run_lengths_are_read(tmp_path):
    path = write(
        tmp_path / "f.json",
        foreign(
            [annotation(1, box(1, 1, 3, 4)), annotation(2, {"size": [8, 10], "counts": [72, 8]})]
        ),
    )
    mask = load_mask(path)
    assert (mask.data == 1).sum() == 6
    assert mask.data[:, 9].tolist() == [2] * 8
    assert mask.labels[1].category == "cell"


def test_overlaps_go_to_the_smaller_object_and_are_told(tmp_path):
    path = write(
        tmp_path / "f.json",
        foreign(
            [
                annotation(1, box(2, 2, 4, 4)),
                annotation(2, box(0, 0, 8, 8)),
                annotation(3, box(0, 0, 9, 8), iscrowd=1),
            ]
        ),
    )
    job = Job()
    mask = load_mask(path, job=job)
    assert [int((mask.data == i).sum()) for i in (1, 2, 3)] == [4, 60, 8]
    assert any(note.startswith("68 pixels") for note in job.notes)
    assert mask.labels[3].ignore


def test_overlaps_go_to_the_higher_score(tmp_path):
    path = write(
        tmp_path / "f.json",
        foreign(
            [annotation(1, box(2, 2, 4, 4), score=0.1), annotation(2, box(0, 0, 8, 8), score=0.9)]
        ),
    )
    assert load_mask(path).ids() == [2]


def test_category_ids_and_fields_of_a_foreign_file_are_kept(tmp_path):
    found = foreign(
        [annotation(1, box(1, 1, 3, 4))],
        categories=[
            {"id": 4, "name": "cell", "supercategory": "life", "color": [1, 2, 3]},
            {"id": 90, "name": "other"},
        ],
    )
    found["images"][0]["license"] = 7
    mask = load_mask(write(tmp_path / "f.json", found))
    export(mask, tmp_path / "m.json")
    again = content(tmp_path / "m.json")
    assert again["categories"] == found["categories"]
    assert again["images"] == found["images"]


def test_kind_classes_paints_category_ids(tmp_path):
    path = write(
        tmp_path / "f.json",
        foreign([annotation(1, box(1, 1, 3, 4)), annotation(2, box(5, 5, 7, 7))]),
    )
    mask = load_mask(path, kind="classes")
    assert mask.ids() == [4]
    assert mask.labels[4].name == "cell"


def test_large_or_repeated_annotation_ids_are_renumbered_and_told(tmp_path):
    for ids in ((10**9, 5), (3, 3)):
        path = write(
            tmp_path / "f.json",
            foreign([annotation(i, box(n, 1, n + 1, 2)) for n, i in enumerate(ids, 1)]),
        )
        job = Job()
        assert load_mask(path, job=job).ids() == [1, 2]
        assert any("renumbered" in note for note in job.notes)


def test_one_image_of_many_is_chosen_by_id_name_or_image(tmp_path):
    images = [
        {"id": 5, "file_name": "x/a.png", "width": 10, "height": 8},
        {"id": 6, "file_name": "x/b.png", "width": 4, "height": 3},
    ]
    path = write(tmp_path / "f.json", foreign([annotation(1, box(1, 1, 3, 4))], images=images))
    assert load_mask(path, entry=6).data.shape == (3, 4)
    assert load_mask(path, entry="a.png").ids() == [1]
    image = Image(np.zeros((3, 4), np.uint8), Geometry.pixels((3, 4)), Path("elsewhere/b.png"))
    assert load_mask(path, image=image).data.shape == (3, 4)
    for wrong in ({}, {"entry": "c.png"}):
        with pytest.raises(
            InputError, match=r"expected one of the 2 images .* choose from: x/a\.png, x/b\.png"
        ):
            load_mask(path, **wrong)


@pytest.mark.parametrize(
    "broken",
    [
        "{",
        "[1, 2]",
        '{"a": 1}',
        foreign([annotation(1, {"size": [10, 8], "counts": [80]})]),
        foreign([annotation(1, {"size": [8, 10], "counts": "b'xy'"})]),
        foreign([annotation(1, {"size": [8, 10]})]),
        foreign([annotation(1, {"size": [8, 10], "counts": ["a"]})]),
        foreign([annotation(1, [[1, 2, 3, 4]])]),
        foreign([annotation(1, [[1, 2, "x", 4, 5, 6]])]),
        foreign([], images=[{"id": 5, "file_name": "a.png"}]),
    ],
)
def test_broken_files_are_refused_in_words(tmp_path, broken):
    path = tmp_path / "f.json"
    path.write_text(broken if isinstance(broken, str) else json.dumps(broken))
    with pytest.raises(FormatError):
        load_mask(path)


@pytest.mark.parametrize("field", ["area", "bbox", "counts", "id", "size"])
def test_the_second_reader_notices_a_wrong_field(tmp_path, field):
    export(picture(scene()), tmp_path / "m.json")
    found = content(tmp_path / "m.json")
    one = found["annotations"][0]
    changed = {"area": 1, "bbox": [0.0, 0.0, 1.0, 1.0], "counts": "0", "id": 7, "size": [60, 40]}
    (one["segmentation"] if field in ("counts", "size") else one)[field] = changed[field]
    with pytest.raises(VerificationError):
        coco_plain.read(write(tmp_path / "m.json", found))


@NUMPY2
def test_real_photos_decode_as_pycocotools_decodes_them(shared_data, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    with zipfile.ZipFile(shared_data / "images2d/tiny_coco/tiny_coco.zip") as archive:
        name = next(n for n in archive.namelist() if n.endswith("instances_train2017.json"))
        path = Path(archive.extract(name, tmp_path))
    found = coco.COCO(path)
    for image in found.dataset["images"][:12]:
        mask = load_mask(path, entry=image["id"])
        union = np.zeros(mask.data.shape, bool)
        for one in found.loadAnns(found.getAnnIds(imgIds=image["id"])):
            union |= found.annToMask(one).astype(bool)
        np.testing.assert_array_equal(mask.data > 0, union)


def test_overlapping_objects_open_whole_on_further_masks(tmp_path):
    path = write(
        tmp_path / "f.json",
        foreign(
            [
                annotation(1, box(0, 0, 8, 8)),
                annotation(2, box(2, 2, 4, 4)),
                annotation(3, box(0, 0, 9, 8), iscrowd=1),
                annotation(4, box(9, 0, 10, 8)),
            ]
        ),
    )
    job = Job()
    masks = load_masks(path, job=job)
    areas = [{i: int((m.data == i).sum()) for i in m.ids()} for m in masks]
    assert areas == [{2: 4, 4: 8}, {1: 64}, {3: 72}]
    assert [sorted(m.labels) for m in masks] == [[2, 4], [1], [3]]
    assert any("2 further mask(s)" in note for note in job.notes)


def test_objects_apart_open_as_one_mask(tmp_path):
    path = write(tmp_path / "f.json", foreign([annotation(1, box(0, 0, 2, 2))]))
    (mask,) = load_masks(path)
    np.testing.assert_array_equal(mask.data, load_mask(path).data)


def test_overlapping_classes_open_on_further_masks(tmp_path):
    path = write(
        tmp_path / "f.json",
        foreign(
            [
                annotation(1, box(0, 0, 4, 4)),
                annotation(2, box(3, 3, 8, 8)),
                {**annotation(3, box(2, 2, 4, 4)), "category_id": 9},
            ],
            categories=[{"id": 4, "name": "cell"}, {"id": 7, "name": "x"}, {"id": 9, "name": "y"}],
        ),
    )
    masks = load_masks(path, kind="classes")
    assert [{i: int((m.data == i).sum()) for i in m.ids()} for m in masks] == [{9: 4}, {4: 40}]
    assert [sorted(m.labels) for m in masks] == [[7, 9], [4]]


def test_keypoints_and_further_keys_of_a_foreign_file_are_written_again(tmp_path):
    more = {"keypoints": [1, 2, 2], "num_keypoints": 1, "attributes": {"x": 1}, "note": "n"}
    mask = load_mask(write(tmp_path / "f.json", foreign([annotation(1, box(1, 1, 3, 4), **more)])))
    export(mask, tmp_path / "m.json")
    (found,) = content(tmp_path / "m.json")["annotations"]
    assert {key: found[key] for key in more} == more
    again = load_mask(tmp_path / "m.json")
    export(again, tmp_path / "again.json")
    assert content(tmp_path / "again.json") == content(tmp_path / "m.json")


def test_a_damaged_shape_is_refused_by_its_annotation(tmp_path):
    good = annotation(1, {"size": [8, 10], "counts": [80]})
    path = write(
        tmp_path / "f.json", foreign([good, annotation(41, {"size": [8, 10], "counts": [8]})])
    )
    with pytest.raises(FormatError, match=r"annotation 41 of f\.json"):
        load_mask(path)

"""COCO datasets: read whole, written so that pycocotools sees the same pixels."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from random import Random
from weakref import finalize

import numpy as np
import pytest
from PIL import Image as Picture

from maskloop import datasets
from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import FormatError, InputError, MaskloopError
from maskloop.core.geometry import Geometry
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.datasets.base import Options, class_of, difference, regions
from maskloop.desk.datasets import convert_dataset, open_dataset, plan
from maskloop.loop.load import load_mask

# pycocotools 2.0.11 converts its buffers in a way that NumPy 2 has renamed.
NUMPY2 = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def box(x0, y0, x1, y1) -> list:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def annotation(number, segmentation, *, image=5, category=4, **more) -> dict:
    found = {"id": number, "image_id": image, "category_id": category}
    return {**found, "segmentation": segmentation, "iscrowd": 0, **more}


def content(annotations, **more) -> dict:
    return {
        "info": {"year": 2020},
        "licenses": [{"id": 1, "name": "CC BY"}],
        "images": [
            {"id": 5, "file_name": "a.png", "width": 10, "height": 8, "license": 1},
            {"id": 9, "file_name": "deep/b.png", "width": 6, "height": 6, "group_id": "p1"},
        ],
        "annotations": annotations,
        "categories": [
            {"id": 4, "name": "cell", "supercategory": "life"},
            {"id": 90, "name": "rod", "supercategory": "life", "color": [1, 2, 3]},
        ],
        **more,
    }


def folder(root: Path, found: dict, name: str = "instances_train2017.json") -> Path:
    """Write a dataset in the layout of COCO 2017."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / name).write_text(json.dumps(found))
    for image in found["images"]:
        path = root / "images" / "train2017" / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Picture.new("L", (image["width"], image["height"])).save(path)
    return root


def written(root: Path, name: str = "instances_train.json") -> dict:
    return json.loads((root / "annotations" / name).read_text())


def pixels(sample: Sample) -> list[tuple[str, tuple, int]]:
    return [
        (class_of(r.label), tuple((p.start, p.stop) for p in r.box), r.area)
        for r in regions(sample)
    ]


def peer(path: Path):
    coco = pytest.importorskip("pycocotools.coco")
    with contextlib.redirect_stdout(io.StringIO()):
        return coco.COCO(str(path))


def test_a_folder_lists_its_images_without_reading_them(tmp_path):
    found = content([annotation(1, box(1, 1, 3, 4)), annotation(2, box(0, 0, 2, 2), category=90)])
    dataset = open_dataset(folder(tmp_path / "set", found))
    assert (dataset.format, dataset.kind, dataset.name) == ("coco", "objects", "set")
    one, other = dataset.items
    assert (one.name, one.split, one.count, one.shape) == ("a", "train", 2, (8, 10))
    assert one.classes == {"cell", "rod"}
    assert one.image == tmp_path / "set" / "images" / "train2017" / "a.png"
    assert (other.name, other.group, other.count) == ("deep/b", "p1", 0)
    assert [(r.id, r.name, r.is_thing) for r in dataset.scheme.values()] == [
        (4, "cell", True),
        (90, "rod", True),
    ]
    assert dataset.scheme[90].colour == "#010203"


@pytest.mark.parametrize(
    ("layout", "split"),
    [
        ("instances.json", ""),
        ("instances_default.json", ""),
        ("instances_val2017.json", "val"),
        ("instances_validation.json", "val"),
        ("my_cells.test.json", "test"),
        ("stuff_fold3.json", "fold3"),
    ],
)
def test_splits_come_from_file_names(tmp_path, layout, split):
    dataset = open_dataset(folder(tmp_path, content([]), layout))
    assert [item.split for item in dataset.items] == [split, split]


def test_every_form_of_shape_is_read(tmp_path):
    """By hand: columns 1 and 2 of rows 1 to 3, of 8 rows and 10 columns."""
    plain = [9, 3, 5, 3, 60]
    packed = "9350g1"  # 9, 3, 5, then 3 - 3 and 60 - 5 in chunks of 5 bits
    shapes = [
        box(1, 1, 3, 4),
        [*box(1, 1, 2, 4), *box(2, 1, 3, 4)],
        {"size": [8, 10], "counts": plain},
        {"size": [8, 10], "counts": packed},
        {"size": [8, 10], "counts": f"b'{packed}'"},
    ]
    meant = np.zeros((8, 10), bool)
    meant[1:4, 1:3] = True
    mask = pytest.importorskip("pycocotools.mask")
    assert mask.encode(np.asfortranarray(meant.astype(np.uint8)))["counts"].decode() == packed
    for number, shape in enumerate(shapes):
        dataset = open_dataset(folder(tmp_path / str(number), content([annotation(7, shape)])))
        (found,) = dataset.read(dataset.items[0]).masks
        np.testing.assert_array_equal(found.data == 7, meant)


def test_objects_that_overlap_lie_whole_on_further_masks(tmp_path):
    found = [
        annotation(1, box(0, 0, 8, 8)),
        annotation(2, box(2, 2, 4, 4), category=90),
        annotation(3, box(3, 3, 9, 7), iscrowd=1),
        annotation(4, box(9, 0, 10, 8)),
    ]
    dataset = open_dataset(folder(tmp_path, content(found)))
    sample = dataset.read(dataset.items[0])
    assert [sorted(m.labels) for m in sample.masks] == [[1, 4], [2], [3]]
    assert [r.area for r in regions(sample)] == [64, 8, 4, 24]
    assert sample.labels[3].ignore


def test_what_coco_does_not_know_is_written_again(tmp_path):
    keypoints = {"keypoints": [1, 2, 2], "num_keypoints": 1, "attributes": {"x": 1}, "note": "n"}
    found = content(
        [
            annotation(11, box(1, 1, 3, 4), score=0.5, **keypoints),
            annotation(12, [], bbox=[1.0, 1.0, 2.0, 2.0], area=4.0, category=90),
        ],
        tracks=[{"id": 1}],
    )
    job = Job()
    source = open_dataset(folder(tmp_path / "in", found), job=job)
    assert any("1 annotations of instances_train2017.json have no shape" in n for n in job.notes)
    convert_dataset(source, tmp_path / "out", "coco")
    again = written(tmp_path / "out")
    assert again["categories"] == found["categories"]
    assert again["licenses"] == found["licenses"]
    assert again["info"]["year"] == 2020
    assert again["tracks"] == [{"id": 1}]
    assert again["images"] == found["images"]
    first, second = again["annotations"]
    assert {k: first[k] for k in keypoints} == keypoints
    assert (first["id"], first["score"], first["category_id"]) == (1, 0.5, 4)
    assert second == {**found["annotations"][1], "id": 2}


def scene(root: Path) -> Dataset:
    """Return a made dataset: a hole, parts, an overlap, stuff, a single pixel; and nothing."""
    ids = np.zeros((20, 30), np.uint8)
    ids[2:9, 2:9] = 1
    ids[4:6, 4:6] = 0
    ids[12:15, 2:6] = ids[16:19, 8:20] = 2
    ids[0, 29] = 3
    ids[15:, 22:] = 5
    above = np.zeros((20, 30), np.uint8)
    above[6:14, 1:5] = 4
    grid = Geometry.pixels((20, 30))
    rows = [Label(i, f"cell {i}", category="cell", is_thing=True) for i in (1, 2, 3)]
    sky = Label(5, "sky", "#00ffff")
    rod = Label(4, "rod 4", category="rod", is_thing=True, score=0.25)
    masks = (Mask(ids, grid, LabelTable([*rows, sky])), Mask(above, grid, LabelTable([rod])))
    empty = (Mask(np.zeros((20, 30), np.uint8), grid, LabelTable()),)
    root.mkdir(exist_ok=True)
    Picture.new("L", (30, 20)).save(root / "a.png")
    items = (
        Item("one/a.b", root / "a.png", group="p7", split="val"),
        Item("two", root / "a.png", split="val"),
    )
    held = {items[0].name: masks, items[1].name: empty}
    scheme = LabelTable(
        [
            Label(2, "cell", is_thing=True),
            Label(5, "sky", "#00ffff"),
            Label(8, "rod", is_thing=True),
        ]
    )
    return Dataset(
        "d", "made", root, scheme, items, lambda i, job: Sample(i, held[i.name]), "panoptic"
    )


@NUMPY2
@pytest.mark.parametrize("outline", ["rle", "polygon"])
def test_pycocotools_sees_the_same_pixels_areas_and_boxes(tmp_path, outline):
    source = scene(tmp_path / "in")
    receipt = convert_dataset(source, tmp_path / "out", "coco", options=Options(outline=outline))
    found = peer(tmp_path / "out" / "annotations" / "instances_val.json")
    theirs = {c["id"]: c["name"] for c in found.dataset["categories"]}
    assert theirs == {2: "cell", 5: "sky", 8: "rod"}
    meant = list(regions(source.read(source.items[0])))
    assert [a["id"] for a in found.dataset["annotations"]] == [1, 2, 3, 4, 5]
    for one, entry in zip(meant, found.dataset["annotations"], strict=True):
        whole = np.zeros((20, 30), bool)
        whole[one.box] = one.region
        np.testing.assert_array_equal(found.annToMask(entry).astype(bool), whole)
        assert theirs[entry["category_id"]] == class_of(one.label)
        assert entry["area"] == one.area
        rows, columns = one.box
        size = [columns.stop - columns.start, rows.stop - rows.start]
        assert entry["bbox"] == [columns.start, rows.start, *size]
        assert entry["iscrowd"] == 0
    is_rings = [isinstance(a["segmentation"], list) for a in found.dataset["annotations"]]
    assert is_rings == [outline == "polygon" and number != 1 for number in range(1, 6)]
    told = ("1 object has holes and stays run lengths",) if outline == "polygon" else ()
    assert (receipt.losses, receipt.notes) == ((), told)


def test_images_without_objects_and_groups_stay_and_paths_are_relative(tmp_path):
    convert_dataset(scene(tmp_path / "in"), tmp_path / "out", "coco")
    found = written(tmp_path / "out", "instances_val.json")
    assert found["images"] == [
        {"id": 1, "file_name": "one/a_b.png", "width": 30, "height": 20, "group_id": "p7"},
        {"id": 2, "file_name": "two.png", "width": 30, "height": 20},
    ]
    assert (tmp_path / "out" / "images" / "val" / "one" / "a_b.png").is_file()
    back = open_dataset(tmp_path / "out")
    assert [(i.name, i.group, i.split, i.image is not None) for i in back.items] == [
        ("one/a_b", "p7", "val", True),
        ("two", "", "val", True),
    ]
    assert back.kind == "panoptic"
    sample = back.read(back.items[0])
    assert [r.name for r in sample.labels.values() if r.category is None] == ["sky"]
    assert next(r.score for r in sample.labels.values() if r.category == "rod") == 0.25


def test_stuff_keeps_a_region_a_class(tmp_path):
    found = content([annotation(1, box(1, 1, 3, 4)), annotation(2, box(5, 5, 7, 7), category=90)])
    dataset = open_dataset(folder(tmp_path / "in", found, "stuff_train2017.json"))
    sample = dataset.read(dataset.items[0])
    assert dataset.kind == "classes"
    assert [(i, r.name, r.category) for i, r in sample.labels.items()] == [
        (4, "cell", None),
        (90, "rod", None),
    ]
    convert_dataset(dataset, tmp_path / "out", "coco")
    again = open_dataset(tmp_path / "out")
    assert again.kind == "classes"
    assert pixels(again.read(again.items[0])) == pixels(sample)


def test_what_comes_twice_in_an_image_is_objects_and_not_stuff(tmp_path):
    found = content([annotation(1, box(1, 1, 3, 4)), annotation(2, box(5, 5, 7, 7))])
    dataset = open_dataset(folder(tmp_path / "in", found, "stuff_train2017.json"))
    sample = dataset.read(dataset.items[0])
    assert [r.category for r in sample.labels.values()] == ["cell", "cell"]


def test_names_that_differ_by_their_suffix_or_split_only_stay_apart(tmp_path):
    found = content([])
    found["images"][1] = {"id": 9, "file_name": "a.jpg", "width": 6, "height": 6}
    folder(tmp_path, found)
    assert [i.name for i in open_dataset(tmp_path).items] == ["a.png", "a.jpg"]
    found["images"] = found["images"][:1]
    folder(tmp_path, found)
    folder(tmp_path, found, "instances_val2017.json")
    assert [i.name for i in open_dataset(tmp_path).items] == ["train/a.png", "val/a.png"]


def test_one_kind_of_file_is_read_and_the_others_are_told(tmp_path):
    folder(tmp_path, content([annotation(1, box(1, 1, 3, 4))]))
    for name in ("captions_train2017.json", "stuff_train2017.json", "image_info_test2017.json"):
        folder(tmp_path, content([]), name)
    dataset = open_dataset(tmp_path)
    assert {(i.split, i.has_mask) for i in dataset.items} == {("train", True), ("test", False)}
    assert "captions_train2017.json, stuff_train2017.json" in dataset.notices[0]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("to", "outline"), [("coco", "rle"), ("coco", "polygon"), ("coco-panoptic", "rle")]
)
def test_noise_comes_back_pixel_by_pixel(tmp_path, to, outline, seed):
    """Regions of one pixel, with holes in holes, touching by corners, at every border."""
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, 40, 2).tolist())
    masks = []
    for first in (1, 11) if to == "coco" else (1,):
        ids = random.integers(0, 4, shape) * (random.random(shape) < random.uniform(0.2, 1))
        ids = np.where(ids > 0, ids + first, 0).astype(np.uint8)
        rows = [
            Label(n, f"cell {n}", category=("cell", "rod")[n % 2], is_thing=True)
            for n in range(first, first + 5)
        ]
        masks.append(Mask(ids, Geometry.pixels(shape), LabelTable(rows)))
    sample = Sample(Item("a"), tuple(masks))
    source = Dataset("d", "m", tmp_path, LabelTable(), (sample.item,), lambda i, job: sample)
    options = Options() if to != "coco" else Options(outline=outline)
    convert_dataset(source, tmp_path / "out", to, options=options)
    back = open_dataset(tmp_path / "out")
    assert back.format == to
    assert difference(sample, back.read(back.items[0])) == ""


def test_what_is_ignored_is_a_crowd_to_others_and_ignored_when_it_comes_back(tmp_path):
    ids = np.zeros((8, 9), np.uint8)
    ids[:3], ids[5:] = 1, 2
    scheme = LabelTable([Label(1, "road"), Label(2, "void", ignore=True)])
    sample = Sample(Item("a"), (Mask(ids, Geometry.pixels((8, 9)), scheme),))
    source = Dataset("d", "m", tmp_path, scheme, (sample.item,), lambda i, job: sample)
    for to in ("coco", "coco-panoptic"):
        convert_dataset(source, tmp_path / to, to)
        back = open_dataset(tmp_path / to)
        rows = back.read(back.items[0]).labels
        assert [(r.name, r.ignore) for r in rows.values()] == [("road", False), ("void", True)]
    entries = written(tmp_path / "coco", "instances_default.json")["annotations"]
    assert [a["iscrowd"] for a in entries] == [0, 1]


def test_what_is_not_reviewed_is_told_as_lost(tmp_path):
    ids = np.ones((8, 9), np.uint8)
    mask = Mask(ids, Geometry.pixels((8, 9)), LabelTable([Label(1, "road")]))
    sample = Sample(Item("a"), (mask,), reviewed=np.zeros((8, 9), bool))
    source = Dataset("d", "m", tmp_path, LabelTable(), (sample.item,), lambda i, job: sample)
    for to in ("coco", "coco-panoptic"):
        assert plan(source, to).losses == ("1 image loses what of it was reviewed",)


def test_a_volume_is_sent_to_coco_volume(tmp_path):
    grid = Geometry.regular((3, 4, 5), (1, 1, 1))
    sample = Sample(Item("v"), (Mask(np.ones((3, 4, 5), np.uint8), grid, LabelTable()),))
    source = Dataset("d", "made", tmp_path, LabelTable(), (sample.item,), lambda i, job: sample)
    with pytest.raises(InputError, match="--to coco-volume"):
        plan(source, "coco")


def test_a_mask_without_a_table_is_an_object_an_id(tmp_path):
    ids = np.zeros((8, 9), np.uint8)
    ids[:2, :2] = ids[5:, 5:] = 3
    ids[3, 3] = 9
    sample = Sample(Item("a"), (Mask(ids, Geometry.pixels((8, 9)), LabelTable()),))
    source = Dataset("d", "m", tmp_path, LabelTable(), (sample.item,), lambda i, job: sample)
    convert_dataset(source, tmp_path / "out", "coco", options=Options(images="none"))
    found = written(tmp_path / "out", "instances_default.json")
    assert [a["area"] for a in found["annotations"]] == [16, 1]
    assert [c["name"] for c in found["categories"]] == ["object"]


@NUMPY2
def test_real_instances_come_back_as_pycocotools_reads_them(shared_data, tmp_path):
    with zipfile.ZipFile(shared_data / "images2d/tiny_coco/tiny_coco.zip") as archive:
        names = [n for n in archive.namelist() if n.endswith(".json")]
        for name in names:
            archive.extract(name, tmp_path / "in")
    root = (tmp_path / "in" / names[0]).parent.parent
    source = open_dataset(root)
    assert (len(source.items), sum(i.count for i in source.items)) == (38, 288 + 136)
    theirs = peer(root / "annotations" / "instances_train2017.json")
    for item in source.items[:6]:
        entries = theirs.loadAnns(theirs.getAnnIds(imgIds=int(item.name)))
        meant = sorted(int(theirs.annToMask(a).sum()) for a in entries)
        assert sorted(r.area for r in regions(source.read(item))) == [n for n in meant if n]
    receipt = convert_dataset(source, tmp_path / "out", "coco")
    assert (receipt.objects, receipt.losses) == (424, ())
    ours = peer(tmp_path / "out" / "annotations" / "instances_train.json")
    assert len(ours.dataset["annotations"]) == 288
    first = {c["id"]: c for c in theirs.dataset["categories"]}
    assert {c["id"]: c for c in ours.dataset["categories"]}.items() >= first.items()


@pytest.mark.parametrize("name", ["coco_instances", "coco_roboflow", "mmdet_coco", "coco_stuff"])
def test_other_layouts_find_their_pictures(shared_data, tmp_path, name):
    with zipfile.ZipFile(shared_data / "fixtures/datumaro_coco/assets.zip") as archive:
        archive.extractall(tmp_path)
    dataset = open_dataset(tmp_path / "coco_dataset" / name)
    assert [(i.name, i.split) for i in dataset.items] == [("a", "train"), ("b", "val")]
    assert all(i.image is not None for i in dataset.items)


def broken(change) -> dict:
    found = content([annotation(1, box(1, 1, 3, 4)), annotation(2, box(5, 5, 7, 7))])
    change(found)
    return found


def put(*way, to):
    def change(found):
        for key in way[:-1]:
            found = found[key]
        found[way[-1]] = to

    return change


def drop(*way):
    def change(found):
        for key in way[:-1]:
            found = found[key]
        del found[way[-1]]

    return change


FIRST = ("annotations", 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put(*FIRST, "id", to=2), "id 2 more than once"),
        (drop(*FIRST, "id"), "none at place 0"),
        (put(*FIRST, "id", to="x"), "'x' at place 0"),
        (put(*FIRST, "image_id", to=77), r"1 of them, with ids \[1\] \(image_id 77\)"),
        (put(*FIRST, "category_id", to=77), "'77' in annotation 1"),
        (put(*FIRST, "category_id", to=[1]), r"\[1\]"),
        (put("categories", 0, "name", to=""), "got none for id 4"),
        (drop("categories", 0, "name"), "got none for id 4"),
        (put("categories", 0, "id", to=90), "id 90 more than once"),
        (put("images", 0, "id", to=9), "id 9 more than once"),
        (put("images", 0, "file_name", to="/etc/passwd"), "image 5 .* '/etc/passwd'"),
        (put("images", 0, "file_name", to="../a.png"), r"image 5 .* '\.\./a\.png'"),
        (put("images", 0, "file_name", to="C:\\a.png"), "image 5"),
        (drop("images", 0, "height"), "height and width of image 5"),
        (put("images", 0, "height", to=10**9), "height and width of image 5"),
        (put("annotations", to={}), "list of entries as 'annotations'"),
        (put("annotations", to=[3]), "list of entries as 'annotations'"),
        (put("categories", to="cell"), "list of entries as 'categories'"),
    ],
)
def test_a_list_that_leads_nowhere_is_refused_by_id(tmp_path, change, words):
    with pytest.raises(InputError, match=words):
        open_dataset(folder_of(tmp_path, broken(change)), format="coco")


def folder_of(root: Path, found: dict) -> Path:
    path = root / "instances_train.json"
    path.write_text(json.dumps(found))
    return path


@pytest.mark.parametrize(
    "shape",
    [
        {"size": [10, 8], "counts": [80]},
        {"size": [8, 10]},
        {"size": [8, 10], "counts": [40]},
        {"size": [8, 10], "counts": [-1, 81]},
        {"size": [8, 10], "counts": [1.5, 78.5]},
        {"size": [8, 10], "counts": [2**62, 2**62, 2**62, 2**62 + 80]},
        {"size": [8, 10], "counts": [10**30]},
        {"size": [8, 10], "counts": [[80]]},
        {"size": [8, 10], "counts": "~~"},
        {"size": [8, 10], "counts": "oooooooooooooooo0"},
        {"size": [8, 10], "counts": 5},
        {"size": "8x10", "counts": [80]},
        [[1, 2, 3, 4]],
        [[1, 2, "x", 4, 5, 6]],
        [[1, 2, None, 4, 5, 6]],
        [[1, 2, [3], 4, 5, 6]],
        [[1, 2, 1e18, 4, 5, 6]],
        [1, 1, 3, 1, 3, 4],
        "a",
        7,
    ],
)
def test_a_damaged_shape_is_refused_by_the_id_of_its_annotation(tmp_path, shape):
    dataset = open_dataset(
        folder_of(tmp_path, content([annotation(3, box(1, 1, 3, 4)), annotation(41, shape)]))
    )
    with pytest.raises(FormatError, match=r"annotation 41 of instances_train\.json"):
        dataset.read(dataset.items[0])


def test_a_person_may_choose_repairs_that_are_told(tmp_path):
    found = content(
        [
            annotation(1, box(1, 1, 3, 4)),
            annotation(1, [1, 1, 3, 1, 3, 4], category=77),
            annotation(3, box(1, 1, 3, 4), image=1234),
            annotation(4, [[1, 1, 2, 2], *box(5, 5, 7, 7)]),
        ]
    )
    found["images"][0]["file_name"] = "/data/project/a.png"
    del found["categories"][0]["name"]
    path = folder_of(tmp_path, found)
    with pytest.raises(InputError):
        open_dataset(path)
    job = Job()
    dataset = open_dataset(path, options=Options(repair=True), job=job)
    assert len(job.notes) == 4
    assert dataset.items[0].name == "a"
    classes = {r.category for r in dataset.read(dataset.items[0]).labels.values()}
    assert classes == {"category 4", "category 77"}


ODD = (
    *(None, True, -1, 0, 1e308, 10**30, 2**63, "", "x", "../x", [], {}, [[]], [{}]),
    *({"id": 1}, [1, 2], "9350g1", 1.5),
)


def ways(value, at=()):
    """Yield the way to every part of a JSON value."""
    if at:
        yield at
    if isinstance(value, (dict, list)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from ways(part, (*at, key))


def hurt(value: dict, random: Random) -> dict:
    """Return the value with one to three parts removed, doubled, or replaced by something odd."""
    value = deepcopy(value)
    for _ in range(random.randint(1, 3)):
        way = random.choice(list(ways(value)))
        place = value
        for key in way[:-1]:
            place = place[key]
        what = random.random()
        if what < 0.2:
            del place[way[-1]]
        elif what < 0.3 and isinstance(place, list):
            place.append(deepcopy(place[way[-1]]))
        else:
            place[way[-1]] = deepcopy(random.choice(ODD))
    return value


@pytest.mark.parametrize("seed", range(8))
def test_only_deliberate_errors_come_out_of_damaged_files(tmp_path, seed):
    """A bug would come out as another error, or as a warning; what opens must also read."""
    random = Random(seed)
    whole = content(
        [
            annotation(1, box(1, 1, 3, 4), keypoints=[1, 2, 2], attributes={"a": 1}, score=0.5),
            annotation(2, {"size": [8, 10], "counts": [9, 3, 5, 3, 60]}),
            annotation(3, {"size": [8, 10], "counts": "9350g1"}, iscrowd=1),
            annotation(4, box(0, 0, 6, 6), image=9, category=90),
        ]
    )
    outcomes = set()
    for _ in range(25):
        text = json.dumps(hurt(whole, random))
        path = tmp_path / random.choice(["instances_train.json", "stuff_val.json"])
        path.write_text(text[: random.randrange(len(text))] if random.random() < 0.1 else text)
        for options in (Options(), Options(repair=True)):
            try:
                dataset = open_dataset(path, format="coco", options=options)
                for item in dataset.items:
                    plan(
                        replace(dataset, items=(item,)), "coco", options=Options(outline="polygon")
                    )
                outcomes.add("read")
            except MaskloopError as error:
                outcomes.add("refused" if "; " in str(error) else f"without a cure: {error}")
        for kind in ("objects", "classes"):
            with contextlib.suppress(MaskloopError):
                load_mask(path, entry=5, kind=kind)
    assert outcomes == {"read", "refused"}


def test_category_ids_that_cannot_be_kept_are_told(tmp_path):
    found = content([annotation(1, box(1, 1, 3, 4), category=0)])
    found["categories"][0] = {"id": 0, "name": "cell"}
    folder(tmp_path, found)
    other = content([annotation(1, box(1, 1, 3, 4), category=4)])
    other["categories"] = [{"id": 4, "name": "rod"}, {"id": 90, "name": "star"}]
    other["images"][0]["file_name"], other["images"][1]["file_name"] = "x.png", "y.png"
    folder(tmp_path, other, "instances_val2017.json")
    dataset = open_dataset(tmp_path)
    assert dataset.notices == (
        "ids of categories (cell, star) are below 1 or another file's: numbered anew",
    )
    assert {r.name: r.id for r in dataset.scheme.values()} == {"rod": 90, "cell": 91, "star": 92}
    assert [sorted(i.classes) for i in dataset.items] == [["cell"], [], ["rod"], []]


def test_a_panoptic_file_is_not_taken_for_instances(tmp_path):
    entry = {"image_id": 5, "file_name": "a.png", "segments_info": []}
    with pytest.raises(FormatError, match="--from coco-panoptic"):
        open_dataset(folder_of(tmp_path, content([entry])), format="coco")


def test_no_more_than_an_image_or_two_are_in_memory_while_writing(tmp_path):
    alive: set[int] = set()
    most = []

    def samples():
        for number in range(20):
            ids = np.full((30, 30), number + 1, np.uint8)
            mask = Mask(ids, Geometry.pixels(ids.shape), LabelTable())
            alive.add(number)
            finalize(ids, alive.discard, number)
            most.append(len(alive))
            yield (
                datasets.get("coco")
                .hold(Sample(Item(f"{number}"), (mask,)), empty, options=Options())
                .sample
            )
            del mask, ids

    empty = Dataset("d", "m", tmp_path, LabelTable(), (), lambda i, job: None, "objects")
    datasets.get("coco").write(empty, samples(), tmp_path, options=Options(), job=Job())
    assert max(most) <= 2
    assert len(written(tmp_path, "instances_default.json")["annotations"]) == 20


@pytest.mark.parametrize(
    ("to", "lost"), [("coco", 0), ("coco-panoptic", 1), ("labelme", 2), ("indexed", 2)]
)
def test_keypoints_and_boxes_that_a_format_cannot_hold_are_counted(to, lost, tmp_path):
    ring = [[0, 0, 4, 0, 4, 4, 0, 4]]
    shared = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "x.png", "width": 8, "height": 8}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {"id": 1, **shared, "segmentation": ring, "keypoints": [1, 1, 2]},
            {"id": 2, **shared},
            {"id": 3, **shared, "segmentation": ring, "keypoints": []},
        ],
    }
    (tmp_path / "c.json").write_text(json.dumps(content))
    losses = plan(tmp_path / "c.json", to).losses
    told = [words for words in losses if "such as keypoints" in words]
    assert [int(words.split()[0]) for words in told] == ([lost] if lost else [])


def test_a_name_with_a_null_byte_is_refused(tmp_path):
    image = {"id": 1, "file_name": "a\0.png", "width": 8, "height": 8}
    content = {"images": [image], "categories": [], "annotations": []}
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="nothing outside"):
        open_dataset(tmp_path / "c.json")

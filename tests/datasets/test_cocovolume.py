"""Volumes as COCO slices and back: grids, windows, tracks, and files that are broken."""

from __future__ import annotations

import copy
import json
import random
from contextlib import suppress
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from PIL import Image as Picture
from pycocotools.coco import COCO

from maskloop.core.dataset import Item, Sample
from maskloop.core.errors import FormatError, InputError, MaskloopError
from maskloop.core.geometry import Geometry
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.datasets import format_of
from maskloop.datasets.base import Options, difference, read_image
from maskloop.datasets.cocovolume import FORMAT
from maskloop.desk.datasets import convert_dataset, open_dataset, plan
from tests.datasets import volumes

ALL = Options(empty="all")


def written(folder, *samples, options=None, kind="classes"):
    """Write samples and return the JSON of the default split."""
    made = volumes.dataset_of(folder, *samples, kind=kind)
    convert_dataset(made, folder / "out", "coco-volume", options=options)
    return json.loads((folder / "out" / "annotations" / "instances_default.json").read_text())


def opened(folder):
    found = open_dataset(folder / "out")
    return found, found.read(found.items[0])


def read_all(folder):
    """Read the masks and pixels of every volume."""
    found = open_dataset(folder, format="coco-volume")
    for item in found.items:
        found.read(item)
        read_image(item, Job())


@pytest.mark.parametrize("degrees", [0, 12, 50])
def test_every_orientation_comes_back_with_its_affine(tmp_path, degrees):
    samples = [
        Sample(Item(f"v{number:02d}"), (volumes.classes(grid),))
        for number, grid in enumerate(volumes.grids(degrees))
    ]
    made = volumes.dataset_of(tmp_path, *samples)
    for axis in range(3):
        out = tmp_path / f"axis{axis}"
        convert_dataset(made, out, "coco-volume", options=Options(axis=axis, empty="none"))
        found = open_dataset(out)
        assert len(found.items) == 48
        for item, meant in zip(found.items, samples, strict=True):
            mask = found.read(item).masks[0]
            assert np.array_equal(mask.data, meant.masks[0].data)
            assert np.array_equal(mask.geometry.affine, meant.masks[0].geometry.affine)


def test_sheared_grids_and_grids_of_pixels_come_back(tmp_path):
    sheared = volumes.GRID.affine.copy()
    sheared[0, 2] += 0.2
    grids = [
        Geometry(volumes.SHAPE, sheared, "mm"),
        Geometry(volumes.SHAPE, np.eye(4)[[2, 1, 0, 3]], "px"),
    ]
    samples = [Sample(Item(f"v{n}"), (volumes.classes(g),)) for n, g in enumerate(grids)]
    written(tmp_path, *samples)
    found = open_dataset(tmp_path / "out")
    for item, grid in zip(found.items, grids, strict=True):
        back = found.read(item).masks[0].geometry
        assert np.array_equal(back.affine, grid.affine)
        assert back.unit == grid.unit


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools
def test_pycocotools_sees_each_object_of_each_slice(tmp_path):
    meant = volumes.sample(tmp_path, "ct", *volumes.overlapping())
    written(tmp_path, meant, kind="objects")
    api = COCO(str(tmp_path / "out" / "annotations" / "instances_default.json"))
    for image in api.dataset["images"]:
        found = {a["track_id"]: a for a in api.imgToAnns[image["id"]]}
        for mask in meant.masks:
            ids = mask.data[image["slice_index"]]
            (number,) = mask.labels
            if not (ids == number).any():
                assert number not in found
                continue
            one = found[number]
            assert np.array_equal(api.annToMask(one).astype(bool), ids == number)
            assert one["area"] == int((ids == number).sum())
            y, x = np.nonzero(ids == number)
            assert one["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            assert one["attributes"]["track_id"] == number
    assert sorted(api.anns) == list(range(1, len(api.anns) + 1))


def test_parts_of_an_object_in_a_slice_are_one_annotation(tmp_path):
    ids = np.zeros(volumes.SHAPE, np.uint8)
    ids[2, 0:2, 0:2] = ids[2, 4:6, 3:5] = 8
    text = written(tmp_path, Sample(Item("a"), (Mask(ids, volumes.GRID, volumes.SCHEME),)))
    assert len(text["annotations"]) == 1
    assert text["annotations"][0]["area"] == 8


def test_rows_tell_where_a_slice_lies(tmp_path):
    meant = volumes.sample(tmp_path, "p.1/ct.v2", group="patient-7")
    text = written(tmp_path, meant, options=Options(axis=1, empty="all"))
    video, image = text["videos"][0], text["images"][3]
    assert (video["name"], video["shape"]) == ("p_1/ct_v2", list(volumes.SHAPE))
    assert image["file_name"] == "p_1/ct_v2/y0003.png"
    assert (image["frame_id"], image["frame_index"], image["slice_index"]) == (3, 3, 3)
    assert (image["slice_axis"], image["video_id"]) == (1, video["id"])
    assert (image["height"], image["width"]) == (volumes.SHAPE[0], volumes.SHAPE[2])
    assert image["group_id"] == video["group_id"] == "patient-7"
    assert np.allclose(image["affine"], volumes.GRID.affine)
    assert np.allclose(image["spacing_mm"], volumes.GRID.spacing)
    assert [c["id"] for c in text["categories"]] == [3, 8]
    with Picture.open(tmp_path / "out" / "images" / image["file_name"]) as shown:
        assert shown.size == (image["width"], image["height"])


def test_neither_uids_nor_dots_are_written(tmp_path):
    uid = "1.2.840.113619.2.55.3.604688119"
    written(tmp_path, Sample(Item(f"{uid}/ct.{uid}"), (volumes.classes(),)))
    files = [p for p in (tmp_path / "out").rglob("*") if p.is_file() and p.name != "receipt.json"]
    assert not any(b"604688119" in p.read_bytes() or "604688119" in str(p) for p in files)
    assert all(p.name.count(".") == 1 for p in files)


@pytest.mark.parametrize(
    ("empty", "kept", "lost"), [("all", 5, 0), ("between", 3, 2), ("none", 2, 3)]
)
def test_empty_slices_are_kept_by_choice_and_told(tmp_path, empty, kept, lost):
    ids = np.zeros(volumes.SHAPE, np.uint8)
    ids[1, 1, 1] = ids[3, 1, 1] = 3
    meant = Sample(Item("a"), (Mask(ids, volumes.GRID, volumes.SCHEME),))
    held = FORMAT.hold(meant, volumes.dataset_of(tmp_path, meant), options=Options(empty=empty))
    assert sum(held.losses.values()) == lost
    text = written(tmp_path, meant, options=Options(empty=empty))
    assert len(text["images"]) == kept
    found, sample = opened(tmp_path)
    assert found.items[0].shape == volumes.SHAPE
    assert difference(meant, sample) == ""


def test_what_was_reviewed_in_part_is_told_as_lost(tmp_path):
    seen = np.ones(volumes.SHAPE, bool)
    meant = replace(volumes.sample(tmp_path), reviewed=seen)
    made = volumes.dataset_of(tmp_path, meant)
    assert plan(made, "coco-volume", options=ALL).losses == ()
    seen[0] = False
    told = ("1 image loses what of it was reviewed",)
    assert plan(made, "coco-volume", options=ALL).losses == told


def test_a_volume_without_any_label_stays_in_the_set(tmp_path):
    nothing = Mask(np.zeros(volumes.SHAPE, np.uint8), volumes.GRID, volumes.SCHEME)
    text = written(tmp_path, Sample(Item("a"), (nothing,)))
    assert (len(text["videos"]), text["images"]) == (1, [])
    assert opened(tmp_path)[1].masks[0].data.shape == volumes.SHAPE


def test_sixteen_bits_give_the_very_values_back(tmp_path):
    meant = volumes.sample(tmp_path)
    text = written(tmp_path, meant, options=Options(bits=16, empty="all"))
    assert text["videos"][0]["window"] == [-500, -500 + 65535]
    found = open_dataset(tmp_path / "out")
    back, own = read_image(found.items[0], Job()), read_image(meant.item, Job())
    assert np.array_equal(back.data, own.data)
    assert back.data.dtype == own.data.dtype
    assert np.array_equal(back.geometry.affine, volumes.GRID.affine)


def test_images_that_become_grey_slices_are_told_of(tmp_path):
    meant = volumes.sample(tmp_path)
    made = volumes.dataset_of(tmp_path, meant)
    for options in (Options(), Options(bits=16, window=(0, 99), empty="all"), Options(bits=16)):
        assert any(
            "grey slices" in note for note in plan(made, "coco-volume", options=options).notes
        )
    for options in (Options(bits=16, empty="all"), Options(images="none")):
        assert plan(made, "coco-volume", options=options).notes == ()


def test_a_window_is_recorded_and_cuts_what_lies_outside(tmp_path):
    meant = volumes.sample(tmp_path)
    text = written(tmp_path, meant, options=Options(window=(-400, 200), empty="all"))
    assert text["images"][0]["window"] == [-400, 200]
    with Picture.open(tmp_path / "out" / "images" / "ct" / "z0003.png") as picture:
        shown = np.array(picture)
    own = read_image(meant.item, Job()).data[3]
    wanted = np.rint(np.clip((own + 400.0) / 600 * 255, 0, 255))
    assert np.array_equal(shown, wanted)
    with pytest.raises(InputError, match="low to high"):
        convert_dataset(
            volumes.dataset_of(tmp_path, meant),
            tmp_path / "more",
            "coco-volume",
            options=Options(window=(5, 5)),
        )


def test_splits_become_files_and_groups_stay(tmp_path):
    samples = [
        volumes.sample(tmp_path, f"v{n}", split=split, group=f"g{n}")
        for n, split in enumerate(("train", "val", ""))
    ]
    convert_dataset(volumes.dataset_of(tmp_path, *samples), tmp_path / "out", "coco-volume")
    names = sorted(p.name for p in (tmp_path / "out" / "annotations").iterdir())
    assert names == ["instances_default.json", "instances_train.json", "instances_val.json"]
    found = {i.name: (i.split, i.group) for i in open_dataset(tmp_path / "out").items}
    assert found == {"v0": ("train", "g0"), "v1": ("val", "g1"), "v2": ("", "g2")}


def test_a_picture_and_a_time_series_are_refused(tmp_path):
    flat = Mask(np.zeros((4, 5), np.uint8), Geometry.pixels((4, 5)), LabelTable())
    times = Mask(np.zeros((2, *volumes.SHAPE), np.uint8), volumes.GRID, LabelTable())
    for mask in (flat, times):
        with pytest.raises(InputError, match="expected a volume"):
            convert_dataset(
                volumes.dataset_of(tmp_path, Sample(Item("a"), (mask,))),
                tmp_path / "out",
                "coco-volume",
            )


def test_a_slice_set_becomes_nifti_again(tmp_path):
    meant = volumes.sample(tmp_path)
    written(tmp_path, meant, options=Options(bits=16, empty="all"))
    convert_dataset(tmp_path / "out", tmp_path / "nifti", "pairs")
    image = nibabel.load(tmp_path / "nifti" / "images" / "ct.nii.gz")
    source = nibabel.load(meant.item.image)
    assert np.array_equal(np.asanyarray(image.dataobj), np.asanyarray(source.dataobj))
    assert np.allclose(image.affine, source.affine, atol=1e-5)
    mask = nibabel.load(tmp_path / "nifti" / "masks" / "ct.nii.gz")
    assert np.array_equal(np.asanyarray(mask.dataobj).T, meant.masks[0].data)


def test_the_same_samples_give_the_same_bytes(tmp_path):
    made = volumes.dataset_of(tmp_path, volumes.sample(tmp_path))
    one, two = (convert_dataset(made, tmp_path / n, "coco-volume").sha256 for n in "ab")
    assert one == two


def test_videos_of_others_are_volumes_of_pixels(tmp_path):
    (tmp_path / "annotations").mkdir()
    ring = [1, 1, 4, 1, 4, 3, 1, 3]
    text = {
        "videos": [{"id": 1, "name": "v"}],
        "images": [
            {"id": 5 + n, "video_id": 1, "frame_id": n, "height": 4, "width": 6, "file_name": "a"}
            for n in range(3)
        ],
        "annotations": [
            {"id": 1, "image_id": 6, "category_id": 1, "instance_id": 7, "segmentation": [ring]}
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (tmp_path / "annotations" / "train.json").write_text(json.dumps(text))
    found = open_dataset(tmp_path, format="coco-volume")
    mask = found.read(found.items[0]).masks[0]
    assert (mask.data.shape, mask.geometry.unit) == ((3, 4, 6), "px")
    assert np.argwhere(mask.data == 7).tolist() == [[1, y, x] for y in (1, 2) for x in (1, 2, 3)]
    assert mask.labels[7].category == "cell"


DAMAGES = {
    "no image": lambda t: t["annotations"][1].update(image_id=99),
    "no track": lambda t: (
        t["annotations"][1].pop("track_id") and t["annotations"][1].pop("attributes")
    ),
    "huge track": lambda t: t["annotations"][1].update(track_id=10**30),
    "no category": lambda t: t["annotations"][1].update(category_id=77),
    "other size": lambda t: t["annotations"][1]["segmentation"].update(size=[3, 3]),
    "foreign run lengths": lambda t: t["annotations"][1]["segmentation"].update(counts="\x01\x02"),
    "short run lengths": lambda t: t["annotations"][1]["segmentation"].update(counts=[1, 2]),
    "odd run lengths": lambda t: t["annotations"][1]["segmentation"].update(counts={"a": 1}),
    "nameless category": lambda t: t["categories"][0].pop("name"),
    "image of no video": lambda t: t["images"][1].update(video_id=9),
    "repeated image": lambda t: t["images"][1].update(id=1),
    "slice outside": lambda t: t["images"][1].update(slice_index=500),
    "huge shape": lambda t: t["videos"][0].update(shape=[10**9, 10**9, 10**9]),
    "flat shape": lambda t: t["videos"][0].update(shape=[4, 5]),
    "flat affine": lambda t: t["videos"][0].update(affine=[1, 2]),
    "singular affine": lambda t: t["videos"][0].update(affine=[[0] * 4] * 4),
    "axis": lambda t: t["videos"][0].update(slice_axis="z"),
    "nameless volume": lambda t: t["videos"][0].update(name=None),
    "labels": lambda t: t["videos"][0].update(labels=[{"id": "a"}]),
    "rows": lambda t: t.update(annotations={"a": 1}),
    "a picture outside": lambda t: t["images"][0].update(file_name="../../secret.png"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_broken_is_refused_by_name(tmp_path, damage):
    text = written(tmp_path, volumes.sample(tmp_path), options=ALL)
    DAMAGES[damage](text)
    file = tmp_path / "out" / "annotations" / "instances_default.json"
    file.write_text(json.dumps(text, separators=(",", ":")))
    with pytest.raises(MaskloopError, match=r"expected .*; "):
        read_all(tmp_path / "out")


def test_only_our_errors_come_out_of_random_damage(tmp_path):
    whole = written(tmp_path, volumes.sample(tmp_path), options=ALL)
    file = tmp_path / "out" / "annotations" / "instances_default.json"
    rng = random.Random(7)
    odd = [None, -1, 0, 2**70, 1.5, "x", [], {}, [None], True]

    def spoil(node):
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(node[key], (dict, list)) and rng.random() < 0.8:
            spoil(node[key])
        else:
            node[key] = rng.choice(odd)

    for _ in range(120):
        text = copy.deepcopy(whole)
        for _ in range(rng.randint(1, 3)):
            spoil(text)
        raw = json.dumps(text, separators=(",", ":")).encode()
        file.write_bytes(raw[: rng.choice([len(raw)] * 9 + [rng.randrange(len(raw))])])
        with suppress(MaskloopError):
            read_all(tmp_path / "out")


def test_it_is_told_from_plain_coco(tmp_path):
    written(tmp_path, volumes.sample(tmp_path))
    assert format_of(tmp_path / "out").name == "coco-volume"
    file = tmp_path / "out" / "annotations" / "instances_default.json"
    assert format_of(file).name == "coco-volume"
    assert len(open_dataset(file).items) == 1
    plain = tmp_path / "plain.json"
    plain.write_text('{"images": [{"id": 1}], "annotations": [], "categories": []}')
    assert not FORMAT.sniff(plain)
    with pytest.raises(FormatError, match="videos"):
        open_dataset(plain, format="coco-volume")


def test_opening_decodes_nothing(tmp_path, monkeypatch):
    from maskloop.ops import outlines

    written(tmp_path, volumes.sample(tmp_path))
    monkeypatch.setattr(outlines, "decode", None)
    found = open_dataset(tmp_path / "out")
    assert found.items[0].classes == frozenset({"liver", "tumour"})
    assert found.items[0].count == 2


def test_a_real_liver_goes_through_slices_and_back(tmp_path, shared_data):
    folder = shared_data / "ct_liver" / "ircadb17"
    (tmp_path / "volume-17.nii.gz").write_bytes((folder / "ct_3mm.nii.gz").read_bytes())
    (tmp_path / "segmentation-17.nii.gz").write_bytes((folder / "labels_3mm.nii.gz").read_bytes())
    options = Options(bits=16, empty="all")
    convert_dataset(tmp_path, tmp_path / "out", "coco-volume", options=options)
    truth = nibabel.load(folder / "labels_3mm.nii.gz")
    found, sample = opened(tmp_path)
    assert np.array_equal(sample.masks[0].data, np.asanyarray(truth.dataobj).T)
    columns = truth.affine[:, [2, 1, 0, 3]]
    assert np.allclose(sample.masks[0].geometry.affine, columns, atol=1e-4)
    pixels = np.asanyarray(nibabel.load(folder / "ct_3mm.nii.gz").dataobj).T
    assert np.array_equal(read_image(found.items[0], Job()).data, pixels)
    assert replace(found.items[0], ref=None).name == "volume-17"


def test_grey_values_that_come_back_are_told_for_what_they_are(tmp_path):
    source = tmp_path / "in"
    for folder in ("images", "masks"):
        (source / folder).mkdir(parents=True)
    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(6, 5, 4) * 20 - 1000
    nibabel.Nifti1Image(values, np.eye(4)).to_filename(source / "images" / "a.nii.gz")
    ids = (values > 0).astype(np.uint8)
    nibabel.Nifti1Image(ids, np.eye(4)).to_filename(source / "masks" / "a.nii.gz")
    made = Options(window=(-160.0, 240.0), empty="all")
    convert_dataset(source, tmp_path / "slices", "coco-volume", options=made)
    job = Job()
    convert_dataset(open_dataset(tmp_path / "slices"), tmp_path / "out", "nnunet", job=job)
    assert any("256 grey values between -160 and 240" in note for note in job.notes)

"""Images and masks that pair by name, volumes of LiTS among them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as Picture

from maskloop.core.dataset import Item, Sample
from maskloop.core.errors import MaskloopError
from maskloop.core.geometry import Geometry
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.datasets import format_of
from maskloop.datasets.base import Options, difference, read_image
from maskloop.datasets.pairs import FORMAT, LITS
from maskloop.desk.datasets import convert_dataset, open_dataset
from tests.datasets import volumes


def nifti(path, ids, *, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.asarray(ids, dtype), np.eye(4)), path)


def png(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(np.asarray(values, np.uint8)).save(path)


def test_overlapping_objects_of_a_volume_come_back_whole(tmp_path):
    meant = volumes.sample(tmp_path, "a/ct", *volumes.overlapping(), group="p1", split="val")
    made = volumes.dataset_of(tmp_path, meant, kind="objects")
    receipt = convert_dataset(made, tmp_path / "out", "pairs")
    back = open_dataset(tmp_path / "out")
    found = back.read(back.items[0])
    assert receipt.losses == ()
    assert (back.format, back.kind, back.items[0].name) == ("pairs", "objects", "a/ct")
    assert (back.items[0].group, back.items[0].split) == ("p1", "val")
    assert difference(meant, found) == ""
    assert back.scheme.names == volumes.SCHEME.names


def test_a_volume_is_written_anew_without_what_its_header_says(tmp_path):
    source = nibabel.Nifti1Image(np.zeros(volumes.SHAPE[::-1], np.int16), np.eye(4))
    source.header["descrip"] = b"Smith^John"
    nibabel.save(source, tmp_path / "ct.nii")
    grid = Geometry.regular(volumes.SHAPE, (1, 1, 1), (0, 0, 0))
    meant = Sample(Item("ct", tmp_path / "ct.nii"), (volumes.classes(grid),))
    convert_dataset(volumes.dataset_of(tmp_path, meant), tmp_path / "out", "pairs")
    image = nibabel.load(tmp_path / "out" / "images" / "ct.nii.gz")
    assert bytes(image.header["descrip"]).strip(b"\0") == b""
    assert image.get_data_dtype() == np.int16


def test_pictures_pair_with_masks_beside_them(tmp_path):
    png(tmp_path / "one.png", np.ones((4, 5)))
    png(tmp_path / "one_mask.png", np.eye(4, 5) * 2)
    png(tmp_path / "deep" / "two.png", np.ones((4, 5)))
    png(tmp_path / "deep" / "two_seg.png", np.eye(4, 5))
    png(tmp_path / "lonely.png", np.ones((4, 5)))
    assert format_of(tmp_path).name == "pairs"
    found = open_dataset(tmp_path)
    assert [item.name for item in found.items] == ["deep/two", "one"]
    assert found.scheme.names == {1: "label 1", 2: "label 2"}
    assert found.notices
    assert "labels.json" in found.notices[0]
    assert found.read(found.items[1]).masks[0].ids() == [2]


def test_many_ids_without_a_table_are_objects(tmp_path):
    ids = np.arange(1, 101).reshape(10, 10)
    png(tmp_path / "images" / "n.png", ids)
    png(tmp_path / "masks" / "n.png", ids)
    found = open_dataset(tmp_path)
    assert found.kind == "objects"
    assert len(found.read(found.items[0]).labels) == 100
    assert found.scheme.names == {1: "object"}


def test_pictures_of_few_and_of_many_objects_are_of_one_class(tmp_path):
    for name, ids in (("few", np.eye(10) * 3), ("many", np.arange(1, 101).reshape(10, 10))):
        png(tmp_path / "images" / f"{name}.png", ids)
        png(tmp_path / "masks" / f"{name}.png", ids)
    found = open_dataset(tmp_path)
    assert (found.kind, found.scheme.names) == ("objects", {1: "object"})
    assert "an object" in found.notices[0]
    few, many = (found.read(item).labels for item in found.items)
    assert {row.category for row in (*few.values(), *many.values())} == {"object"}
    assert (len(few), len(many)) == (1, 100)


def test_the_many_organs_of_a_scan_are_classes(tmp_path):
    ids = np.arange(1, 118).reshape(1, 9, 13)
    nifti(tmp_path / "images" / "c.nii.gz", ids)
    nifti(tmp_path / "labels" / "c.nii.gz", ids)
    found = open_dataset(tmp_path)
    assert (found.kind, len(found.scheme)) == ("classes", 117)


def test_a_table_of_one_class_names_its_many_objects(tmp_path):
    png(tmp_path / "images" / "n.png", np.arange(1, 101).reshape(10, 10))
    png(tmp_path / "masks" / "n.png", np.arange(1, 101).reshape(10, 10))
    rows = LabelTable.classes({1: "nucleus"}).to_rows()
    (tmp_path / "labels.json").write_text(json.dumps({"maskloop": 1, "labels": rows}))
    found = open_dataset(tmp_path)
    assert (found.kind, found.notices) == ("objects", ())
    rows_read = found.read(found.items[0]).labels.values()
    assert [row.category for row in rows_read] == ["nucleus"] * 100


def test_names_come_from_the_table_beside_the_folders(tmp_path):
    nifti(tmp_path / "images" / "c.nii.gz", np.ones((3, 4, 5)))
    nifti(tmp_path / "labels" / "c_seg.nii.gz", np.eye(4, 5)[None].repeat(3, 0) * 2)
    rows = LabelTable.classes({1: "liver", 2: "tumour"}).to_rows()
    (tmp_path / "labels.json").write_text(json.dumps({"maskloop": 1, "labels": rows}))
    found = open_dataset(tmp_path)
    assert found.scheme.names == {1: "liver", 2: "tumour"}
    assert [r.name for r in found.read(found.items[0]).labels.values()] == ["tumour"]


def test_masks_without_images_are_known_again(tmp_path):
    made = volumes.dataset_of(tmp_path, volumes.sample(tmp_path))
    convert_dataset(made, tmp_path / "out", "pairs", options=Options(images="none"))
    found = open_dataset(tmp_path / "out")
    assert (found.format, found.items[0].image) == ("pairs", None)
    assert found.read(found.items[0]).masks[0].data.any()


def test_what_was_reviewed_is_always_written_and_drafts_only_if_asked(tmp_path):
    plain = volumes.sample(tmp_path)
    seen = np.zeros(volumes.SHAPE, bool)
    seen[2] = True
    by = seen.astype(np.uint8) * 2
    meant = replace(
        plain, reviewed=seen, authors=by, author_names={2: "anna"}, drafts={"net": plain.masks[0]}
    )
    made = volumes.dataset_of(tmp_path, meant)
    convert_dataset(made, tmp_path / "bare", "pairs")
    convert_dataset(made, tmp_path / "full", "pairs", options=Options(maps=True))
    bare, full = (
        open_dataset(tmp_path / n).read(open_dataset(tmp_path / n).items[0])
        for n in ("bare", "full")
    )
    assert np.array_equal(bare.reviewed, seen)
    assert (bare.drafts, bare.authors) == ({}, None)
    assert np.array_equal(full.authors, by)
    assert full.author_names == {2: "anna"}
    assert np.array_equal(full.drafts["net"].data, plain.masks[0].data)


def test_lits_volumes_pair_by_number(tmp_path):
    ids = np.zeros((4, 5, 6))
    ids[1:3, 1:4, 1:4], ids[2, 2, 2] = 1, 2
    for number in (2, 10):
        nifti(tmp_path / "batch" / f"volume-{number}.nii", ids, dtype=np.int16)
        nifti(tmp_path / "batch" / f"segmentation-{number}.nii", ids)
    nifti(tmp_path / "test" / "test-volume-0.nii", ids, dtype=np.int16)
    assert format_of(tmp_path).name == "lits"
    found = open_dataset(tmp_path)
    assert [(i.name, i.has_mask) for i in found.items] == [
        ("volume-0", False),
        ("volume-2", True),
        ("volume-10", True),
    ]
    mask = found.read(found.items[1]).masks[0]
    assert {row.name: int((mask.data == i).sum()) for i, row in mask.labels.items()} == {
        "liver": 17,
        "tumour": 1,
    }


def test_the_same_samples_give_the_same_bytes(tmp_path):
    made = volumes.dataset_of(tmp_path, volumes.sample(tmp_path))
    one, two = (convert_dataset(made, tmp_path / n, "pairs").sha256 for n in "ab")
    assert one == two


def test_a_volume_of_pixels_says_that_it_gets_millimetres(tmp_path):
    grid = Geometry(volumes.SHAPE, np.eye(4), "px")
    meant = Sample(Item("p"), (replace(volumes.classes(), geometry=grid),))
    receipt = convert_dataset(volumes.dataset_of(tmp_path, meant), tmp_path / "out", "pairs")
    assert receipt.losses == ("1 volume of pixels gets 1 mm a pixel",)


@pytest.mark.parametrize("damage", ["{", "[]", '{"maskloop": 1}', '{"maskloop":1,"labels":[{}]}'])
def test_a_damaged_table_is_refused_by_name(tmp_path, damage):
    png(tmp_path / "images" / "n.png", np.eye(3))
    png(tmp_path / "masks" / "n.png", np.eye(3))
    (tmp_path / "labels.json").write_text(damage)
    with pytest.raises(MaskloopError, match=r"labels\.json"):
        open_dataset(tmp_path, format="pairs")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"\x1f\x8bno"])
def test_damaged_masks_are_refused(tmp_path, content):
    png(tmp_path / "images" / "n.png", np.eye(3))
    for suffix in (".png", ".nii.gz"):
        (tmp_path / "masks").mkdir(exist_ok=True)
        (tmp_path / "masks" / f"n{suffix}").write_bytes(content)
        with pytest.raises(MaskloopError):
            open_dataset(tmp_path, format="pairs").read(Item("n"))
        (tmp_path / "masks" / f"n{suffix}").unlink()


@pytest.mark.parametrize("known", [FORMAT, LITS])
def test_nothing_else_is_claimed(tmp_path, known):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.1 0.1 0.2 0.2 0.3 0.1")
    png(tmp_path / "images" / "a.png", np.eye(3))
    assert not known.sniff(tmp_path)
    assert not known.sniff(tmp_path / "images")
    assert not known.sniff(tmp_path / "labels" / "a.txt")
    assert not known.sniff(tmp_path / "nothing")


@pytest.mark.parametrize("images", ["copy", "link"])
def test_a_real_tiff_stack_and_its_mask_end_on_one_grid(tmp_path, shared_data, images):
    folder = shared_data / "images2d" / "stardist_samples"
    (tmp_path / "a.tif").write_bytes((folder / "img3d.tif").read_bytes())
    (tmp_path / "a_mask.tif").write_bytes((folder / "mask3d.tif").read_bytes())
    convert_dataset(tmp_path, tmp_path / "out", "pairs", options=Options(images=images))
    back = open_dataset(tmp_path / "out")
    mask = back.read(back.items[0]).masks[0]
    mask.require_on(read_image(back.items[0], Job()))
    assert back.kind == "objects"
    assert len(mask.ids()) == len(np.unique(tifffile.imread(folder / "mask3d.tif"))) - 1


@settings(max_examples=25)
@given(st.data())
def test_any_regions_come_back_from_volumes_and_slices(data):
    masks = []
    for number in range(data.draw(st.integers(1, 3))):
        ids = data.draw(arrays(np.uint8, volumes.SHAPE, elements=st.sampled_from([0, 0, 0, 1, 2])))
        table = LabelTable(
            Label(n + 10 * number, f"c{n}", category="tumour" if n == 1 else "liver", is_thing=True)
            for n in (1, 2)
        )
        ids[ids > 0] += 10 * number
        masks.append(Mask(ids, volumes.GRID, table))
    meant = Sample(Item("v"), tuple(masks))
    options = Options(
        axis=data.draw(st.integers(0, 2)), empty=data.draw(st.sampled_from(["all", "none"]))
    )
    with TemporaryDirectory() as folder:
        made = volumes.dataset_of(Path(folder), meant, kind="objects")
        for name in ("pairs", "coco-volume"):
            chosen = options if name == "coco-volume" else Options()
            convert_dataset(made, Path(folder) / name, name, options=chosen)
            back = open_dataset(Path(folder) / name)
            assert difference(meant, back.read(back.items[0])) == ""


def test_real_liver_volumes_come_back_voxel_by_voxel(tmp_path, shared_data):
    folder = shared_data / "ct_liver" / "ircadb17"
    (tmp_path / "volume-17.nii.gz").write_bytes((folder / "ct_3mm.nii.gz").read_bytes())
    (tmp_path / "segmentation-17.nii.gz").write_bytes((folder / "labels_3mm.nii.gz").read_bytes())
    convert_dataset(tmp_path, tmp_path / "out", "pairs", job=Job())
    stored = nibabel.load(tmp_path / "out" / "masks" / "volume-17.nii.gz")
    truth = nibabel.load(folder / "labels_3mm.nii.gz")
    assert np.array_equal(np.asanyarray(stored.dataobj), np.asanyarray(truth.dataobj))
    assert np.allclose(stored.affine, truth.affine, atol=1e-4)

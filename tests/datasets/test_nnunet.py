"""The nnU-Net folder: labels without gaps, ignored regions, and its integrity rules."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from PIL import Image as Picture

from maskloop.core.dataset import Item, Sample
from maskloop.core.errors import InputError, MaskloopError
from maskloop.core.geometry import Geometry
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.datasets import format_of
from maskloop.datasets.base import Options, class_of, difference
from maskloop.datasets.nnunet import FORMAT
from maskloop.desk.datasets import convert_dataset, open_dataset, plan
from tests.datasets import volumes


def written(folder, *samples, options=None, kind="classes"):
    made = volumes.dataset_of(folder, *samples, kind=kind)
    receipt = convert_dataset(made, folder / "out", "nnunet", options=options)
    return receipt, json.loads((folder / "out" / "dataset.json").read_text())


def ids_of(path):
    return np.asanyarray(nibabel.load(path).dataobj).T


def codes(folder):
    return {one.code for one in FORMAT.check(folder, options=Options(), job=Job())}


def test_labels_are_consecutive_and_their_numbers_recorded(tmp_path):
    meant = volumes.sample(tmp_path, "p.1/ct", group="p1")
    receipt, about = written(tmp_path, meant)
    assert receipt.losses == ()
    assert about["labels"] == {"background": 0, "liver": 1, "tumour": 2}
    assert (about["numTraining"], about["file_ending"]) == (1, ".nii.gz")
    stored = ids_of(tmp_path / "out" / "labelsTr" / "p_1_ct.nii.gz")
    assert np.array_equal(stored == 1, meant.masks[0].data == 3)
    assert np.array_equal(stored == 2, meant.masks[0].data == 8)
    record = json.loads((tmp_path / "out" / "maskloop.json").read_text())
    assert [(row["id"], row["was"]) for row in record["labels"]] == [(1, 3), (2, 8)]
    found = open_dataset(tmp_path / "out")
    assert (found.format, found.items[0].name, found.items[0].group) == ("nnunet", "p_1/ct", "p1")
    assert found.scheme[2].colour == "#102030"
    assert difference(meant, found.read(found.items[0])) == ""
    assert codes(tmp_path / "out") == set()


def test_unreviewed_voxels_get_the_highest_label(tmp_path):
    seen = np.zeros(volumes.SHAPE, bool)
    seen[2:4] = True
    meant = replace(volumes.sample(tmp_path), reviewed=seen)
    receipt, about = written(tmp_path, meant)
    assert receipt.losses == ("1 image is in part ignored: unreviewed",)
    assert about["labels"]["ignore"] == max(about["labels"].values()) == 3
    stored = ids_of(tmp_path / "out" / "labelsTr" / "ct.nii.gz")
    assert (stored[~seen] == 3).all()
    assert np.array_equal(stored[seen] == 2, meant.masks[0].data[seen] == 8)
    found = open_dataset(tmp_path / "out")
    assert [row.ignore for row in found.scheme.values()] == [False, False, True]
    assert codes(tmp_path / "out") == set()


def test_objects_become_their_class_and_that_is_told(tmp_path):
    meant = volumes.sample(tmp_path, "ct", *volumes.overlapping())
    planned = plan(volumes.dataset_of(tmp_path, meant, kind="objects"), "nnunet")
    assert planned.losses == ("2 objects are merged into their class",)
    written(tmp_path, meant, kind="objects")
    stored = ids_of(tmp_path / "out" / "labelsTr" / "ct.nii.gz")
    either = (meant.masks[0].data > 0) | (meant.masks[1].data > 0)
    assert np.array_equal(stored == 2, either)


def test_void_regions_are_ignored_not_background(tmp_path):
    ids = np.zeros(volumes.SHAPE, np.uint8)
    ids[0], ids[1] = 3, 5
    void = Label(5, "unlabelled", ignore=True)
    table = LabelTable([volumes.SCHEME[3], void])
    meant = volumes.sample(tmp_path, "ct", Mask(ids, volumes.GRID, table))
    made = volumes.dataset_of(tmp_path, meant)
    made = replace(made, scheme=volumes.SCHEME.with_rows([void]))
    receipt = convert_dataset(made, tmp_path / "out", "nnunet")
    assert receipt.losses == ("1 ignored region loses its name",)
    stored = ids_of(tmp_path / "out" / "labelsTr" / "ct.nii.gz")
    assert (stored[1] == 3).all()
    assert (stored[0] == 1).all()


def test_images_and_labels_lie_on_one_grid_in_every_orientation(tmp_path):
    samples = [
        volumes.sample(tmp_path, f"v{number:02d}", volumes.classes(grid))
        for number, grid in enumerate(volumes.grids(30))
    ]
    written(tmp_path, *samples)
    assert codes(tmp_path / "out") == set()
    for meant in samples:
        image = nibabel.load(tmp_path / "out" / "imagesTr" / f"{meant.item.name}_0000.nii.gz")
        label = nibabel.load(tmp_path / "out" / "labelsTr" / f"{meant.item.name}.nii.gz")
        columns = meant.masks[0].geometry.affine[:, [2, 1, 0, 3]]
        assert np.allclose(image.affine, columns, atol=1e-3)
        assert np.allclose(label.affine, image.affine, atol=1e-6)


def test_a_ct_is_called_so_by_its_air(tmp_path):
    meant = volumes.sample(tmp_path)
    assert written(tmp_path, meant)[1]["channel_names"] == {"0": "image"}
    source = nibabel.load(meant.item.image)
    values = np.asanyarray(source.dataobj).copy()
    values[0, 0, 0] = -1000
    nibabel.save(nibabel.Nifti1Image(values, source.affine), meant.item.image)
    convert_dataset(volumes.dataset_of(tmp_path, meant), tmp_path / "ct", "nnunet")
    about = json.loads((tmp_path / "ct" / "dataset.json").read_text())
    assert about["channel_names"] == {"0": "CT"}


def test_pictures_become_png_cases(tmp_path):
    Picture.fromarray(np.full((6, 7, 3), 90, np.uint8)).save(tmp_path / "a.jpg")
    ids = np.eye(6, 7, dtype=np.uint8) * 8
    mask = Mask(ids, Geometry.pixels((6, 7)), volumes.SCHEME)
    meant = Sample(Item("a", tmp_path / "a.jpg"), (mask,))
    _, about = written(tmp_path, meant)
    assert about["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert about["file_ending"] == ".png"
    with Picture.open(tmp_path / "out" / "imagesTr" / "a_0000.png") as shown:
        assert shown.mode == "RGB"
    label = tmp_path / "out" / "labelsTr" / "a.png"
    with Picture.open(label) as shown:  # no palette: scikit-image would read its colours
        assert shown.mode == "L"
        assert np.array_equal(np.array(shown), ids // 4)
        indexed = shown.convert("P")
    assert codes(tmp_path / "out") == set()
    indexed.save(label)
    assert codes(tmp_path / "out") == {"N7"}


@pytest.mark.parametrize("words", [("train", "val", "val"), ("fold0", "fold1", "fold1")])
def test_splits_become_nnunets_own(tmp_path, words):
    samples = [volumes.sample(tmp_path, f"v{n}", split=split) for n, split in enumerate(words)]
    samples.append(volumes.sample(tmp_path, "t", split="test"))
    written(tmp_path, *samples)
    assert (tmp_path / "out" / "labelsTs" / "t.nii.gz").is_file()
    (tmp_path / "out" / "maskloop.json").unlink()
    found = {item.name: item.split for item in open_dataset(tmp_path / "out").items}
    assert found == {"v0": words[0], "v1": words[1], "v2": words[2], "t": "test"}
    folds = json.loads((tmp_path / "out" / "splits_final.json").read_text())
    assert all(not set(one["train"]) & set(one["val"]) for one in folds)


def test_maps_are_written_if_asked(tmp_path):
    plain = volumes.sample(tmp_path)
    meant = replace(plain, drafts={"net": plain.masks[0]}, reviewed=np.ones(volumes.SHAPE, bool))
    written(tmp_path, meant, options=Options(maps=True))
    found = open_dataset(tmp_path / "out")
    back = found.read(found.items[0])
    assert np.array_equal(back.drafts["net"].data, plain.masks[0].data)
    assert back.reviewed.all()


def test_the_decathlon_and_regions_are_read(tmp_path):
    for name, values in (("labelsTr/a.nii.gz", np.arange(4)), ("imagesTr/a.nii.gz", np.arange(4))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        volume = np.broadcast_to(values, (2, 3, 4)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / name)
    about = {"labels": {"0": "background", "1": "liver", "2": "cancer"}, "modality": {"0": "CT"}}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    assert format_of(tmp_path).name == "nnunet"
    found = open_dataset(tmp_path)
    assert found.scheme.names == {1: "liver", 2: "cancer"}
    assert found.items[0].image == tmp_path / "imagesTr" / "a.nii.gz"
    names = {class_of(row) for row in found.read(found.items[0]).labels.values()}
    assert names == {"liver", "cancer", "label 3"}
    about["labels"] = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    found = open_dataset(tmp_path)
    assert found.scheme.names == {1: "whole", 2: "core", 3: "enhancing"}
    assert found.notices


def spoil_json(change):
    def spoil(out):
        about = json.loads((out / "dataset.json").read_text())
        change(about)
        (out / "dataset.json").write_text(json.dumps(about))

    return spoil


def respell(out, name, *, data=None, affine=None, to=None):
    """Write a file of the set anew with other values or another grid."""
    path = out / name
    image = nibabel.load(path)
    values = np.asanyarray(image.dataobj).copy()
    values = values if data is None else data(values)
    place = image.affine if affine is None else affine(image.affine.copy())
    path.unlink()
    nibabel.save(nibabel.Nifti1Image(values, place), out / (to or name))


DEFECTS = {
    "no file ending": ("N1", spoil_json(lambda a: a.pop("file_ending"))),
    "no background": ("N2", spoil_json(lambda a: a["labels"].pop("background"))),
    "keys and values swapped": (
        "N2",
        spoil_json(lambda a: a.update(labels={"0": "background", "1": "liver", "2": "tumour"})),
    ),
    "a gap": ("N3", spoil_json(lambda a: a["labels"].update(tumour=4))),
    "ignore in between": (
        "N3",
        spoil_json(lambda a: a.update(labels={"background": 0, "ignore": 1, "liver": 2})),
    ),
    "another count": ("N4", spoil_json(lambda a: a.update(numTraining=7))),
    "image missing": ("N5", lambda out: (out / "imagesTr" / "ct_0000.nii.gz").unlink()),
    "a channel missing": (
        "N5",
        spoil_json(lambda a: a["channel_names"].update({"1": "MR"})),
    ),
    "channel number in the label's name": (
        "N5",
        lambda out: (out / "labelsTr" / "ct.nii.gz").rename(out / "labelsTr" / "ct_0000.nii.gz"),
    ),
    "damaged label": (
        "N6",
        lambda out: (out / "labelsTr" / "ct.nii.gz").write_bytes(b"\x1f\x8bno"),
    ),
    "unexpected label": (
        "N7",
        lambda out: respell(out, "labelsTr/ct.nii.gz", data=lambda v: v * 3),
    ),
    "label 255 for 1": (
        "N7",
        lambda out: respell(out, "labelsTr/ct.nii.gz", data=lambda v: v * 255 // 2),
    ),
    "half a voxel away": (
        "N8",
        lambda out: respell(
            out, "labelsTr/ct.nii.gz", affine=lambda a: a + np.eye(4, 4, 3) * [0, 0, 0, 0.5]
        ),
    ),
    "transposed": (
        "N8",
        lambda out: respell(out, "labelsTr/ct.nii.gz", data=lambda v: v.transpose(1, 0, 2)),
    ),
    "not a number": (
        "N9",
        lambda out: respell(
            out, "imagesTr/ct_0000.nii.gz", data=lambda v: np.full(v.shape, np.nan, np.float32)
        ),
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_is_found(tmp_path, defect):
    code, spoil = DEFECTS[defect]
    written(tmp_path, volumes.sample(tmp_path))
    assert codes(tmp_path / "out") == set()
    spoil(tmp_path / "out")
    assert code in codes(tmp_path / "out")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"labels": 3}', '{"labels": {"a": "b"}}', '{"labels": {"a": -1}}', "[" * 9999],
)
def test_a_broken_dataset_json_is_refused(tmp_path, text):
    (tmp_path / "labelsTr").mkdir()
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(MaskloopError, match="expected"):
        open_dataset(tmp_path, format="nnunet")
    assert codes(tmp_path) & {"N1", "N2"}


@pytest.mark.parametrize("name", ["../../secret.nii.gz", "/etc/passwd", 7, None])
def test_files_outside_the_set_are_not_read(tmp_path, name):
    (tmp_path / "labelsTr").mkdir()
    about = {"labels": {"background": 0}, "dataset": {"a": {"images": [name], "label": name}}}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    with pytest.raises(MaskloopError, match="relative"):
        open_dataset(tmp_path, format="nnunet")


def test_what_nnunet_cannot_hold_is_refused(tmp_path):
    times = Mask(np.zeros((2, *volumes.SHAPE), np.uint8), volumes.GRID, LabelTable())
    with pytest.raises(InputError, match="time points"):
        written(tmp_path, Sample(Item("a"), (times,)))
    foreign = volumes.classes()
    foreign = replace(foreign, labels=LabelTable.classes({3: "spleen", 8: "tumour"}))
    with pytest.raises(InputError, match="spleen"):
        written(tmp_path, Sample(Item("a"), (foreign,)))
    moved = volumes.sample(tmp_path, "m", volumes.classes())
    shifted = volumes.GRID.affine.copy()
    shifted[0, 3] += 2
    mask = replace(moved.masks[0], geometry=Geometry(volumes.SHAPE, shifted, "mm"))
    with pytest.raises(InputError, match="grid"):
        written(tmp_path, replace(moved, masks=(mask,)))
    assert not (tmp_path / "out").exists()


def test_the_same_samples_give_the_same_bytes(tmp_path):
    made = volumes.dataset_of(tmp_path, volumes.sample(tmp_path))
    one, two = (convert_dataset(made, tmp_path / n, "nnunet").sha256 for n in "ab")
    assert one == two


def test_a_real_liver_passes_the_rules(tmp_path, shared_data):
    folder = shared_data / "ct_liver" / "ircadb17"
    (tmp_path / "volume-17.nii.gz").write_bytes((folder / "ct_3mm.nii.gz").read_bytes())
    (tmp_path / "segmentation-17.nii.gz").write_bytes((folder / "labels_3mm.nii.gz").read_bytes())
    convert_dataset(tmp_path, tmp_path / "out", "nnunet")
    about = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert about["labels"] == {"background": 0, "liver": 1, "tumour": 2}
    assert about["channel_names"] == {"0": "CT"}
    assert codes(tmp_path / "out") == set()
    stored = ids_of(tmp_path / "out" / "labelsTr" / "volume-17.nii.gz")
    assert np.array_equal(stored, ids_of(folder / "labels_3mm.nii.gz"))


def test_channels_that_are_not_read_are_told(tmp_path):
    written(tmp_path, volumes.sample(tmp_path, "v"))
    about = json.loads((tmp_path / "out/dataset.json").read_text())
    assert open_dataset(tmp_path / "out").notices == ()
    about["channel_names"] = {"0": "T1", "1": "T2"}
    (tmp_path / "out/dataset.json").write_text(json.dumps(about))
    assert open_dataset(tmp_path / "out").notices == ("of its 2 channels only the first is read",)

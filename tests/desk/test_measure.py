"""What `measure` says of every object: as JSON, as CSV, at the prompt and in the live table."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

import maskloop
from maskloop.cli import run
from maskloop.core.case import Case
from maskloop.core.errors import GeometryError, StorageError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.desk.measure import columns_of, live_entry_of, to_csv, to_json
from maskloop.ops.objects import ObjectIndex
from maskloop.ops.phantom import nuclei_picture, phantom_ct

ASKED = (
    "id", "label", "volume_mm3", "long_axis_mm", "short_axis_mm", "mean", "sd", "min", "max",
    "slices",
)  # fmt: skip


@pytest.fixture(scope="module")
def pair():
    return phantom_ct(1, shape=(24, 48, 48), spacing=(6.0, 7.0, 7.0), lesions=(3, 4))


@pytest.fixture
def files(pair, tmp_path):
    image, mask = pair
    nibabel = pytest.importorskip("nibabel")
    places = tmp_path / "ct.nii.gz", tmp_path / "mask.nii.gz"
    affine = image.geometry.affine[:, [2, 1, 0, 3]]
    nibabel.save(nibabel.Nifti1Image(image.data.T, affine), places[0])
    maskloop.export(mask, places[1])
    return places


def test_every_connected_piece_of_a_label_is_an_object_with_the_asked_numbers(pair):
    from scipy import ndimage

    image, mask = pair
    objects = maskloop.measure(mask, image=image)["objects"]
    assert [row["id"] for row in objects] == list(range(1, len(objects) + 1))
    for label in mask.ids():
        pieces, count = ndimage.label(mask.data == label, np.ones((3, 3, 3)))
        mine = [row for row in objects if row["label"] == label]
        assert len(mine) == count
        for number, row in enumerate(mine, start=1):
            inside = image.data[pieces == number].astype(float)
            assert set(ASKED) <= set(row)
            assert row["volume_mm3"] == inside.size * 6 * 7 * 7
            assert row["mean"] == inside.mean()
            assert row["sd"] == pytest.approx(inside.std(), rel=1e-12)
            assert (row["min"], row["max"]) == (inside.min(), inside.max())
            assert row["slices"] == (pieces == number).any(axis=(1, 2)).sum()
            assert row["name"] == mask.labels[label].name


def test_what_does_not_exist_is_null(pair):
    _, mask = pair
    row = maskloop.measure(mask)["objects"][0]
    assert [row[k] for k in ("mean", "sd", "min", "max", "area_mm2", "area_px")] == [None] * 6
    picture, nuclei = nuclei_picture(5, (96, 96), count=(3, 4))
    rows = maskloop.measure(nuclei, image=picture)["objects"]
    for row in rows:
        assert row["volume_mm3"] is row["long_axis_mm"] is row["short_axis_mm"] is None
        assert row["area_px"] == row["voxels"]
        assert row["long_axis_px"] >= row["short_axis_px"] > 0
        assert row["slices"] == 1
    assert "volume_mm3" not in columns_of(rows)
    slab = Mask(
        nuclei.data, Geometry(nuclei.data.shape, np.diag([0.5, 0.5, 1]), "mm"), nuclei.labels
    )
    row = maskloop.measure(slab)["objects"][0]
    assert row["area_mm2"] == row["voxels"] / 4


def test_corners_join_voxels_into_one_object():
    ids = np.zeros((2, 2, 3), np.uint8)
    ids[0, 0, 0] = ids[1, 1, 1] = 1
    ids[0, 0, 2] = 2
    mask = Mask(ids, Geometry.regular(ids.shape, (2, 1, 1)), LabelTable.classes(["a", "b"]))
    found = maskloop.measure(mask)["objects"]
    assert [(r["label"], r["voxels"], r["slices"]) for r in found] == [(1, 2, 2), (2, 1, 1)]
    apart = Mask(ids[0] | ids[1, ::-1], Geometry.pixels((2, 3)), mask.labels)
    assert len(maskloop.measure(apart)["objects"]) == 2


def test_the_live_table_and_the_command_say_the_same(pair, files, capfd):
    image, mask = pair
    case = Case.in_memory(mask)
    index = ObjectIndex.of_case(case, image, mask="")
    case.subscribe(index.take)
    case.paint((12, 20, 20), radius_mm=20, label=2)
    case.undo()
    assert run(["measure", str(files[1]), "--image", str(files[0]), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)["objects"]
    live = [live_entry_of(row, case.mask) for row in index]
    key = {"added_mm3", "removed_mm3", "added", "removed", "status"}
    for row, row_told in zip(live, told, strict=True):
        assert {k: v for k, v in row.items() if k not in key} == row_told
        assert (row["added_mm3"], row["removed_mm3"], row["status"]) == (0, 0, "new")
    assert told == maskloop.measure(files[1], image=files[0])["objects"]


def test_a_case_folder_is_measured_as_its_journal_left_it(files, tmp_path, capfd):
    with maskloop.open_case(files[0]) as case:
        case.paint((12, 24, 24), radius_mm=30, label="lesion")
        case.paint((12, 24, 24), radius_mm=8, label=0)
        voxels = int((case.mask.data == 1).sum())
        folder = case.folder
    assert run(["measure", str(folder), "--image", str(files[0]), "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)["objects"]
    assert (row["voxels"], row["name"]) == (voxels, "lesion")
    assert row["mean"] is not None


def test_json_and_csv_files_hold_the_same_numbers(pair, files, tmp_path, capfd):
    out, table = tmp_path / "m.json", tmp_path / "m.csv"
    command = ["measure", str(files[1]), "-o", str(out), "--csv", str(table)]
    assert run(command) == 0
    shown = capfd.readouterr().out
    assert "volume_mm3" in shown
    assert "mean" not in shown  # there is no image
    objects = json.loads(out.read_text())["objects"]
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(objects) > 1
    for row, told in zip(rows, objects, strict=True):
        assert float(row["long_axis_mm"]) == told["long_axis_mm"]
        assert row["mean"] == ""
        assert json.loads(row["long_axis"]) == told["long_axis"]
    empty = Mask(np.zeros((2, 2), np.uint8), Geometry.pixels((2, 2)), LabelTable())
    assert maskloop.measure(empty) == {"objects": []}
    to_csv([], table)
    assert table.read_text().startswith("frame,id,label")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    place = to_json([{"id": 1}], tmp_path / "m.json")
    before = place.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        to_json([{"id": float("nan")}], place)
    assert place.read_bytes() == before
    with pytest.raises(StorageError, match="create it first"):
        to_csv([{"id": 1}], tmp_path / "none" / "m.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["m.json"]


def test_frames_of_a_film_are_measured_one_by_one():
    ids = np.zeros((3, 6, 7), np.uint8)
    ids[0, 1:3, 1:4], ids[2, 2:5, 2:6] = 1, 1
    grid = Geometry.pixels((6, 7))
    mask = Mask(ids, grid, LabelTable.classes(["a"]))
    film = Image(np.arange(126.0).reshape(3, 6, 7), grid, has_time=True)
    rows = maskloop.measure(mask, image=film)["objects"]
    assert [(r["id"], r["frame"], r["voxels"]) for r in rows] == [(1, 0, 6), (2, 2, 12)]
    assert rows[1]["mean"] == film.data[2, 2:5, 2:6].mean()


def test_values_that_cannot_be_measured_are_left_out_and_said():
    ids = np.ones((4, 5), np.uint8)
    grid = Geometry.pixels(ids.shape)
    mask = Mask(ids, grid, LabelTable.classes(["a"]))
    job = maskloop.Job()
    colours = Image(np.zeros((4, 5, 3), np.uint8), grid, has_channels=True)
    assert maskloop.measure(mask, image=colours, job=job)["objects"][0]["mean"] is None
    assert job.notes == ["the image has 3 channels: its values are left out"]
    film = Image(np.zeros((2, 4, 5)), grid, has_time=True)
    assert maskloop.measure(mask, image=film, job=job)["objects"][0]["mean"] is None
    assert "time axis" in job.notes[-1]


def test_another_grid_is_refused_in_mm(pair, files, capfd):
    image, mask = pair
    affine = mask.geometry.affine.copy()
    affine[0, 3] += 2.5
    moved = Mask(mask.data, Geometry(mask.geometry.shape, affine), mask.labels)
    with pytest.raises(GeometryError, match=r"2\.5 mm away"):
        maskloop.measure(moved, image=image)
    assert run(["measure", str(files[0].with_name("gone.nii.gz"))]) == 2
    assert "gone.nii.gz" in capfd.readouterr().err


def test_whole_labels_are_measured_as_one(pair):
    _, mask = pair
    pieces = maskloop.measure(mask)["objects"]
    whole = maskloop.measure(mask, by="labels")["objects"]
    assert [row["label"] for row in whole] == mask.ids()
    for row in whole:
        mine = [p["voxels"] for p in pieces if p["label"] == row["label"]]
        assert row["voxels"] == sum(mine)

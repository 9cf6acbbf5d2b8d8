"""`validate` on other formats: it opens, every item reads, ids have rows, pictures fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from PIL import Image as Picture

from maskloop import datasets
from maskloop.cli import run
from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.datasets.base import DatasetFormat, Problem
from maskloop.desk.datasets import convert_dataset
from maskloop.desk.validate import validate
from tests.desk import coco_set

SHAPE = (40, 48)
SCHEME = LabelTable([Label(1, "cell"), Label(2, "sky")])


def ids_of(number):
    ids = np.zeros(SHAPE, np.uint8)
    ids[4 : 12 + number, 5:20] = 1
    ids[30:, 30:40] = 2
    return ids


def made(folder, names=("a", "b")):
    """Write a set of label PNGs with pictures, as `convert` writes it."""
    folder.mkdir(parents=True)
    items = []
    for name in names:
        Picture.fromarray(np.full((*SHAPE, 3), 90, np.uint8)).save(folder / f"{name}.png")
        items.append(Item(name, folder / f"{name}.png"))

    def read(item, job):
        ids = ids_of(names.index(item.name))
        return Sample(item, (Mask(ids, Geometry.pixels(SHAPE), SCHEME),))

    source = Dataset("made", "made", folder, SCHEME, tuple(items), read)
    convert_dataset(source, folder / "set", "indexed")
    return folder / "set"


def counts(path, **options):
    return validate(path, **options).counts


def test_a_set_as_written_is_passed_in_silence(tmp_path):
    found = validate(made(tmp_path / "d"))
    assert found.problems == ()
    assert found.format == "indexed"
    assert found.checked == {"items": 2, "regions": 4}


def test_a_damaged_mask_is_caught(tmp_path):
    root = made(tmp_path / "d")
    (root / "masks" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    assert counts(root) == {"D1": 1, "D9": 1}


def test_a_missing_picture_is_caught(tmp_path):
    root = made(tmp_path / "d")
    (root / "images" / "a.png").unlink()
    assert counts(root) == {"D3": 1, "D9": 1}


def test_pictures_that_are_nowhere_are_one_warning(tmp_path):
    root = made(tmp_path / "d")
    shutil.rmtree(root / "images")
    (root / "receipt.json").unlink()
    found = validate(root)
    assert found.counts == {"D3": 1}
    assert found.verdict == "PASS"


def test_a_damaged_picture_is_caught(tmp_path):
    root = made(tmp_path / "d")
    (root / "images" / "a.png").write_bytes(b"no picture")
    assert counts(root) == {"D3": 1, "D9": 1}


def test_a_mask_of_another_size_is_caught(tmp_path):
    root = made(tmp_path / "d")
    Picture.fromarray(ids_of(0)[1:]).save(root / "masks" / "a.png")
    assert counts(root) == {"D4": 1, "D9": 1}


def test_a_value_that_is_no_class_is_caught(tmp_path):
    root = made(tmp_path / "d")
    Picture.fromarray(ids_of(0) * 2).save(root / "masks" / "a.png")
    found = validate(root)
    assert found.counts == {"D6": 1, "D9": 1}
    assert found.verdict == "FAIL"


def test_a_file_changed_after_writing_is_told(tmp_path):
    root = made(tmp_path / "d")
    with (root / "images" / "a.png").open("ab") as stream:
        stream.write(b"\0")
    found = validate(root)
    assert found.counts == {"D9": 1}
    assert found.verdict == "PASS"


def test_a_receipt_that_leads_out_or_is_damaged_is_no_trap(tmp_path):
    root = made(tmp_path / "d")
    (root / "receipt.json").write_text(json.dumps({"sha256": {"../../etc/passwd": "0", "3": 3}}))
    assert counts(root) == {"D9": 2}
    (root / "receipt.json").write_text("[")
    assert counts(root) == {}


def test_what_does_not_open_is_told(tmp_path):
    root = made(tmp_path / "d")
    (root / "classes.json").write_text("{")
    assert counts(root)["D0"] == 1


def test_a_folder_that_no_format_knows_is_told(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("nothing")
    found = validate(tmp_path)
    assert found.counts == {"D0": 1}
    assert found.format == ""
    assert run(["validate", str(tmp_path)]) == 1
    assert "D0" in capsys.readouterr().out


def test_every_region_is_compared_with_the_truth(tmp_path):
    root = made(tmp_path / "d")
    truth = made(tmp_path / "truth")
    found = validate(root, truth=truth)
    assert found.problems == ()
    assert found.checked["true objects"] == 4
    ids = ids_of(0)
    ids[4, 5] = 0
    Picture.fromarray(ids).save(root / "masks" / "a.png")
    (root / "masks" / "b.png").unlink()
    told = validate(root, truth=truth)
    assert {p.code for p in told.problems if p.severity == "error"} == {"T2", "T5"}
    assert "1 missing and 0 added" in told.to_text()


def format_of(sample: Sample, monkeypatch, **fields):
    """Register a format that gives one sample, and return its name."""
    items = fields.pop("items", (sample.item,))
    name = "fake"

    def opened(path, *, options, job):
        return Dataset(
            name, name, path, SCHEME, items, lambda item, job: replace(sample, item=item), **fields
        )

    def check(path, *, options, job):
        yield Problem("N7", "expected numbers, got letters", "write numbers", "file")

    made_up = DatasetFormat(name, "Fake", lambda path: False, open=opened, check=check)
    monkeypatch.setattr(coco_set, "FAKE", made_up, raising=False)
    monkeypatch.setitem(datasets.DATASETS.entries, name, "tests.desk.coco_set:FAKE")
    return name


def sample_of(*masks, name="a", **fields):
    return Sample(Item(name, **fields), masks)


def mask_of(ids, *rows):
    return Mask(ids, Geometry.pixels(ids.shape), LabelTable(rows))


def test_tables_names_groups_and_notices_are_proved(tmp_path, monkeypatch):
    ids = ids_of(0)
    sample = sample_of(
        mask_of(ids, Label(1, " "), Label(2, "sky")),
        mask_of(ids[:-1] * 0 + 2, Label(3, "cell")),
        group="p1",
        split="train",
    )
    items = (
        sample.item,
        Item("b", group="p1", split="val"),
        Item("b", has_mask=False, split="val"),
    )
    name = format_of(sample, monkeypatch, items=items, notices=("beware",))
    found = validate(tmp_path, format=name)
    assert set(found.counts) == {"D0", "D2", "D3", "D4", "D5", "D6", "D7", "D10", "N7"}
    text = found.to_text()
    assert "expected the group in one split, got it in train, val" in text
    assert "expected a row for each id, got none for [2]" in text
    assert "expected ids of one mask only, got [2] in two" in text
    assert "expected the name once, got it 2 times" in text


def test_an_empty_dataset_is_told(tmp_path, monkeypatch):
    sample = sample_of(mask_of(ids_of(0), *SCHEME.values()))
    name = format_of(sample, monkeypatch, items=())
    assert set(counts(tmp_path, format=name)) == {"D8", "N7"}


def test_volumes_are_compared_with_arrays(tmp_path, monkeypatch):
    ids = np.zeros((6, 20, 24), np.uint8)
    ids[1:4, 3:9, 4:11] = 1
    grid = Geometry.regular(ids.shape, (2.5, 1, 1))
    sample = Sample(Item("case"), (Mask(ids, grid, SCHEME),))
    name = format_of(sample, monkeypatch)
    (tmp_path / "truth").mkdir()
    np.save(tmp_path / "truth" / "case.npy", ids)
    assert not set(counts(tmp_path, format=name, truth=tmp_path / "truth")) - {"D3", "N7"}
    ids = np.roll(ids, 1, axis=0)
    np.save(tmp_path / "truth" / "case.npy", ids)
    found = validate(tmp_path, format=name, truth=tmp_path / "truth")
    assert "shifted by (-1, +0, +0)" in found.to_text()


def test_a_truth_that_is_no_label_array_is_told(tmp_path):
    root = made(tmp_path / "d")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="label arrays"):
        validate(root, truth=tmp_path / "empty")
    (tmp_path / "empty" / "a.npy").write_bytes(b"\x93NUMPY nothing")
    np.save(tmp_path / "empty" / "b.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    found = validate(root, truth=tmp_path / "empty")
    assert found.counts == {"T2": 2}


def test_slices_of_volumes_are_proved_as_coco_and_as_volumes(tmp_path):
    ids = np.zeros((6, 40, 48), np.uint8)
    ids[1:4, 3:9, 4:11] = 1
    grid = Geometry.regular(ids.shape, (2.5, 1, 1))
    pixels = nibabel.Nifti1Image(np.zeros(ids.shape[::-1], np.int16), np.diag([1, 1, 2.5, 1]))
    nibabel.save(pixels, tmp_path / "case.nii.gz")
    item = Item("case", tmp_path / "case.nii.gz")

    def read(item, job):
        return Sample(item, (Mask(ids, grid, SCHEME),))

    source = Dataset("made", "made", tmp_path, SCHEME, (item,), read)
    convert_dataset(source, tmp_path / "set", "coco-volume")
    found = validate(tmp_path / "set")
    assert found.problems == ()
    assert found.checked == {"annotations": 3, "images": 3, "items": 1, "regions": 1}
    np.save(tmp_path / "case.npy", ids)
    (tmp_path / "truth").mkdir()
    shutil.move(tmp_path / "case.npy", tmp_path / "truth")
    assert validate(tmp_path / "set", truth=tmp_path / "truth").problems == ()


@pytest.mark.parametrize("text", ["[1]", "[" * 200_000], ids=["list", "deep"])
def test_a_receipt_of_another_kind_is_no_trap(text, tmp_path):
    made(tmp_path / "in")
    (tmp_path / "in/set/receipt.json").write_text(text)
    assert validate(tmp_path / "in/set").verdict == "PASS"

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest

from maskloop.core.case import Case
from maskloop.core.edits import Edit
from maskloop.core.errors import FormatError, InputError, MissingFileError, StorageError
from maskloop.core.geometry import Geometry
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask


def start() -> Mask:
    ids = np.zeros((4, 6, 5), np.uint8)
    ids[1:3, 2:4, 1:4] = 1
    labels = LabelTable([Label(1, "liver", colour="#aa0000")])
    source = Path("/clinic/DOE^JANE/scan.nii.gz")
    return Mask(ids, Geometry.regular((4, 6, 5), (3, 1, 1)), labels, source)


def painted(mask: Mask, number: int) -> Edit:
    after = mask.data.astype(np.uint16)
    after.flat[number * 7 % after.size] = 2 + number * 40
    labels = mask.labels.with_rows([Label(2 + number * 40, f"object {number}")])
    return Edit.between(mask.data, after, labels=(mask.labels, labels), words=f"paint {number}")


def test_a_case_reopens_bit_for_bit_with_its_history(tmp_path):
    with Case.create(tmp_path / "a.maskloop", start()) as case:
        for number in range(9):
            case.apply(painted(case.mask, number))
        case.undo()
        case.undo()
        case.redo()
        expected, labels = case.mask.data.copy(), dict(case.mask.labels)
        position = case.history.position
    with Case.open(tmp_path / "a.maskloop") as again:
        assert np.array_equal(again.mask.data, expected)
        assert dict(again.mask.labels) == labels
        assert again.mask.geometry.matches(start().geometry)
        assert again.history.position == position == 8
        assert again.history.steps == [f"paint {n}" for n in range(9)]
        assert again.dropped == ""
        while again.undo():
            pass
        assert np.array_equal(again.mask.data, start().data)
        assert dict(again.mask.labels) == dict(start().labels)
        assert again.undo() is None


def test_the_start_is_not_changed_by_strokes(tmp_path):
    mask = start()
    before = mask.data.copy()
    with Case.create(tmp_path / "a.maskloop", mask) as case:
        case.apply(painted(case.mask, 1))
    assert np.array_equal(mask.data, before)


def test_the_folder_is_private_and_names_no_patient(tmp_path):
    folder = tmp_path / "a.maskloop"
    with Case.create(folder, start(), provenance={"image_sha256": "ab"}) as case:
        case.apply(painted(case.mask, 1))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {p.name for p in folder.iterdir()} == {"case.json", "journal", "start.npy"}
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in folder.iterdir())
    assert not any(b"DOE" in p.read_bytes() for p in folder.iterdir())
    about = json.loads((folder / "case.json").read_text())
    assert about["provenance"] == {"image_sha256": "ab"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.maskloop"]


def test_a_second_case_of_one_name_is_refused(tmp_path):
    Case.create(tmp_path / "a.maskloop", start()).close()
    with pytest.raises(StorageError, match="File exists; open the case"):
        Case.create(tmp_path / "a.maskloop", start())
    assert [p.name for p in tmp_path.iterdir()] == ["a.maskloop"]


def test_a_folder_that_is_no_case_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match=r"expected a case folder with case\.json"):
        Case.open(tmp_path)
    Case.create(tmp_path / "a.maskloop", start()).close()
    (tmp_path / "a.maskloop" / "case.json").write_text("{")
    with pytest.raises(FormatError, match="restore them from a backup"):
        Case.open(tmp_path / "a.maskloop")


def test_a_torn_step_is_dropped_and_said(tmp_path):
    with Case.create(tmp_path / "a.maskloop", start()) as case:
        case.apply(painted(case.mask, 1))
        expected = case.mask.data.copy()
        case.apply(painted(case.mask, 2))
    journal = tmp_path / "a.maskloop" / "journal"
    journal.write_bytes(journal.read_bytes()[:-3])
    with Case.open(tmp_path / "a.maskloop") as again:
        assert np.array_equal(again.mask.data, expected)
        assert "not finished" in again.dropped


def test_a_step_that_cannot_be_kept_is_not_made(tmp_path, monkeypatch):
    with Case.create(tmp_path / "a.maskloop", start()) as case:

        def full(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("maskloop.core.journal.os.fsync", full)
        with pytest.raises(StorageError):
            case.apply(painted(case.mask, 1))
        assert np.array_equal(case.mask.data, start().data)
        assert len(case.history) == 0


def test_a_step_of_another_mask_is_refused_and_not_journalled(tmp_path):
    with Case.create(tmp_path / "a.maskloop", start()) as case:
        foreign = Edit.between(np.full((4, 6, 5), 9, np.uint8), np.zeros((4, 6, 5), np.uint8))
        with pytest.raises(InputError, match="in their order"):
            case.apply(foreign)
    with Case.open(tmp_path / "a.maskloop") as again:
        assert len(again.history) == 0

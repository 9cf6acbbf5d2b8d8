"""A folder of corrected cases and their images as a dataset."""

from __future__ import annotations

import shutil
import zipfile

import numpy as np
import pydicom
import pytest

from maskloop.core import casefile
from maskloop.core.case import Case
from maskloop.core.errors import MaskloopError
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.core.standing import Standing, put_standing
from maskloop.datasets import format_of
from maskloop.datasets.base import Options, class_of, difference
from maskloop.datasets.cases import FORMAT
from maskloop.desk.cases import open_case
from maskloop.desk.datasets import chosen, convert_dataset, open_dataset
from tests.datasets import volumes

ORGANS = LabelTable.classes({1: "liver", 2: "tumour"})


def made(folder, name="ct", *, start=None, done=False):
    """Make an image and its case, paint a tumour by hand, and return the case folder."""
    folder.mkdir(parents=True, exist_ok=True)
    image = volumes.image_file(folder, name)
    ids = np.zeros(volumes.SHAPE, np.uint8)
    ids[1:4, 1:6, 1:5] = 1
    mask = Mask(ids, volumes.GRID, ORGANS) if start is None else start
    with open_case(image, mask=mask, author="anna") as case:
        case.paint((2, 3, 3), radius_mm=0.9, label="tumour")
        found = case.folder
    if done:
        put_standing(found, Standing("done", "anna", "ben"))
    return found


def test_cases_and_images_without_one_are_listed_with_their_status(tmp_path):
    made(tmp_path / "p1", "one", done=True)
    made(tmp_path / "p1", "two")
    made(tmp_path / "p2", "one")
    volumes.image_file(tmp_path / "p2", "new")
    volumes.image_file(tmp_path / "p2", "new_mask")
    assert format_of(tmp_path).name == "cases"
    found = open_dataset(tmp_path)
    assert [(i.name, i.group, i.status, i.has_mask) for i in found.items] == [
        ("p1/one", "p1", "done", True),
        ("p1/two", "p1", "in work", True),
        ("p2/new", "p2", "unseen", False),
        ("p2/one", "p2", "in work", True),
    ]
    assert found.items[0].shape == volumes.SHAPE
    assert found.items[0].image == tmp_path / "p1" / "one.nii.gz"
    assert found.scheme.names == {1: "liver", 2: "tumour"}
    assert any("2 of 3 cases are not marked done" in words for words in found.notices)


def test_a_sample_is_what_the_case_holds(tmp_path):
    folder = made(tmp_path)
    found = open_dataset(tmp_path)
    sample = found.read(found.items[0])
    with Case.open(folder, read_only=True) as case:
        assert np.array_equal(sample.masks[0].data, case.mask.data)
    by_hand = sample.masks[0].data == 2
    assert by_hand.any()
    assert np.array_equal(sample.reviewed, by_hand)
    assert {sample.author_names[int(n)] for n in np.unique(sample.authors[by_hand])} == {"anna"}


def test_of_a_case_in_work_the_slices_looked_at_count_as_reviewed(tmp_path):
    folder = made(tmp_path)
    with Case.open(folder, author="anna") as case:
        case.review.see(0, 1, 2.0)
        case.review.see(0, 4, 0.1)
    sample = open_dataset(tmp_path).read(open_dataset(tmp_path).items[0])
    assert sample.reviewed[1].all()
    assert not sample.reviewed[4].any()
    put_standing(folder, Standing("done"))
    assert open_dataset(tmp_path).read(open_dataset(tmp_path).items[0]).reviewed is None


def test_only_what_is_done_can_be_taken(tmp_path):
    made(tmp_path, "one", done=True)
    made(tmp_path, "two")
    kept = chosen(open_dataset(tmp_path), status="done")
    convert_dataset(kept, tmp_path / "out", "pairs")
    assert [item.name for item in open_dataset(tmp_path / "out").items] == ["one"]


def test_drafts_of_models_are_kept_beside_what_was_corrected(tmp_path):
    folder = made(tmp_path)
    with Case.open(folder) as case:
        wanted = case.mask.data.copy()
        wanted[0, 0, 0] = 2
        case.change(wanted, kind="model", author="net")
        case.paint((0, 0, 0), radius_mm=0, label=0)
    found = FORMAT.open(tmp_path, options=Options(maps=True), job=Job())
    drafts = found.read(found.items[0]).drafts
    assert sorted(drafts) == ["net", "start"]
    assert (drafts["start"].data == 2).sum() == 0
    assert drafts["net"].data[0, 0, 0] == 2
    assert found.read(found.items[0]).masks[0].data[0, 0, 0] == 0


def test_further_masks_of_a_case_keep_their_objects_apart(tmp_path):
    one, other = volumes.overlapping()
    folder = made(tmp_path, start=Mask(one.data, one.geometry, one.labels))
    twin = Mask(
        np.where(other.data > 0, 2, 0).astype(np.uint8),
        other.geometry,
        LabelTable([Label(2, "tumour 2", category="tumour", is_thing=True)]),
    )
    with Case.open(folder) as case:
        case.add_mask("further", twin)
    found = open_dataset(tmp_path)
    sample = found.read(found.items[0])
    ids = [set(mask.labels) for mask in sample.masks]
    assert len(sample.masks) == 2
    assert not ids[0] & ids[1]
    assert np.array_equal(sample.masks[1].data > 0, other.data > 0)
    assert {class_of(row) for row in sample.masks[1].labels.values()} == {"tumour"}


def test_classes_of_two_cases_agree_by_name(tmp_path):
    made(tmp_path, "a")
    swapped = LabelTable.classes({1: "tumour", 2: "liver"})
    ids = np.full(volumes.SHAPE, 2, np.uint8)
    made(tmp_path, "b", start=Mask(ids, volumes.GRID, swapped))
    found = open_dataset(tmp_path)
    names = {row.name: i for i, row in found.scheme.items()}
    sample = found.read(found.items[1])
    assert (sample.masks[0].data == names["liver"]).sum() > (
        sample.masks[0].data == names["tumour"]
    ).sum()


def test_no_patient_is_named(tmp_path):
    files = []
    for patient, number in (("Smith^John", "A77"), ("Doe^Jane", "B88")):
        folder = tmp_path / "scans" / f"{patient.split('^')[0]}_2020"
        folder.mkdir(parents=True)
        for at in range(3):
            files.append(slice_of(folder / f"{at}.dcm", patient, number, at))
        with open_case(folder) as case:
            case.paint((1, 2, 2), radius_mm=1, label="liver")
    found = open_dataset(tmp_path / "scans")
    assert [(i.name, i.group) for i in found.items] == [
        ("patient-001", "patient-001"),
        ("patient-002", "patient-002"),
    ]
    convert_dataset(found, tmp_path / "out", "pairs")
    for path in (tmp_path / "out").rglob("*"):
        assert not any(word in path.name.lower() for word in ("smith", "doe", "a77"))
        if path.is_file():
            raw = path.read_bytes().lower()
            assert not any(word in raw for word in (b"smith", b"doe^", b"a77"))


def slice_of(path, patient, number, at):
    """Write one CT slice of a named patient."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{number[1:]}.{at + 1}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    one.StudyInstanceUID, one.SeriesInstanceUID = f"1.2.3.{number[1:]}", f"1.2.3.{number[1:]}.0"
    one.FrameOfReferenceUID, one.Modality = f"1.2.3.{number[1:]}.9", "CT"
    one.PatientName, one.PatientID = patient, number
    one.Rows, one.Columns, one.SamplesPerPixel = 5, 6, 1
    one.PhotometricInterpretation, one.PixelRepresentation = "MONOCHROME2", 1
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.RescaleIntercept, one.RescaleSlope = 15, 0, 1
    one.PixelSpacing, one.SliceThickness = [0.8, 0.7], 3
    one.ImagePositionPatient, one.ImageOrientationPatient = [0, 0, 3 * at], [1, 0, 0, 0, 1, 0]
    one.PixelData = np.arange(30, dtype=np.int16).tobytes()
    pydicom.dcmwrite(path, one)
    return path


def test_a_case_of_a_workspace_finds_its_image_by_name(tmp_path):
    folder = made(tmp_path)
    folder.rename(tmp_path / "ct-0123abcd.maskloop")
    assert [(i.name, i.has_mask) for i in open_dataset(tmp_path).items] == [("ct", True)]


def test_one_case_alone_is_a_dataset_too(tmp_path):
    folder = made(tmp_path)
    found = open_dataset(folder)
    assert (found.format, len(found.items)) == ("cases", 1)
    assert found.items[0].image == tmp_path / "ct.nii.gz"


@pytest.mark.parametrize("damage", [b"", b"[]", b"{", b'{"masks": 3}', b'{"labels": {"": [7]}}'])
def test_a_damaged_case_is_told_and_the_others_open(tmp_path, damage):
    made(tmp_path, "good")
    bad = made(tmp_path, "bad")
    (bad / "case.json").write_bytes(damage)
    found = open_dataset(tmp_path)
    assert "bad" in found.notices[0]
    with pytest.raises(MaskloopError):
        found.read(found.items[0])
    assert found.read(found.items[1]).masks[0].data.any()


def test_a_dataset_with_cases_in_it_stays_what_it_is(tmp_path):
    made(tmp_path / "images")
    (tmp_path / "masks").mkdir()
    shutil.copy(tmp_path / "images" / "ct.nii.gz", tmp_path / "masks" / "ct.nii.gz")
    assert not FORMAT.sniff(tmp_path)
    assert not FORMAT.sniff(tmp_path / "images" / "ct.nii.gz")
    assert not FORMAT.sniff(tmp_path / "masks")


def test_cases_are_listed_without_opening_one(tmp_path, monkeypatch):
    folder = made(tmp_path, "ct0000")
    about = (folder / "case.json").read_text()
    for number in range(1, 200):
        more = tmp_path / f"ct{number:04d}.maskloop"
        more.mkdir()
        (more / "case.json").write_text(about)
        (tmp_path / f"ct{number:04d}.nii.gz").touch()
    monkeypatch.setattr(Case, "open", None)
    monkeypatch.setattr(casefile, "read", None)
    assert len(open_dataset(tmp_path).items) == 200


def test_corrections_of_a_real_scan_come_back_voxel_by_voxel(tmp_path, shared_data):
    with zipfile.ZipFile(shared_data / "ct_liver" / "ircadb17" / "PATIENT_DICOM.zip") as zipped:
        inside = {n.rpartition("_")[2]: n for n in zipped.namelist() if not n.endswith("/")}
        names = [inside[str(number)] for number in range(6)]
        (tmp_path / "s" / "liver_17").mkdir(parents=True)
        for name in names:
            target = tmp_path / "s" / "liver_17" / name.rsplit("/", 1)[-1]
            target.write_bytes(zipped.read(name))
    with open_case(tmp_path / "s" / "liver_17") as case:
        case.paint((0, 200, 200), radius_mm=20, label="liver")
        truth = case.mask.data.copy()
    found = open_dataset(tmp_path / "s")
    assert [item.name for item in found.items] == ["patient-001"]
    convert_dataset(found, tmp_path / "out", "pairs")
    back = open_dataset(tmp_path / "out")
    assert np.array_equal(back.read(back.items[0]).masks[0].data, truth)
    assert difference(found.read(found.items[0]), back.read(back.items[0])) == ""

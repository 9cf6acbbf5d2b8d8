"""DICOM segmentations as a dataset, beside the series they were drawn on."""

from __future__ import annotations

import zipfile

import highdicom
import numpy as np
import pydicom
import pytest

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import GeometryError, InputError, MaskloopError
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.datasets import format_of
from maskloop.datasets.base import Options, class_of, difference
from maskloop.datasets.dicomseg import FORMAT
from maskloop.desk.cases import open_case
from maskloop.desk.datasets import convert_dataset, open_dataset, plan
from maskloop.formats import nrrd
from maskloop.loop.load import load
from tests.datasets import volumes
from tests.formats.ct_series import ORIENTATIONS, write_series

ORGANS = LabelTable([Label(4, "liver", "#dd8265"), Label(9, "tumour")])


def drawn(folder, name="scan", *, cosines=ORIENTATIONS["axial"], overlap=False):
    """Write a series and return a sample of its liver, or of two objects that overlap."""
    write_series(folder / name, cosines)
    image = load(folder / name)
    ids = np.zeros(image.geometry.shape, np.uint8)
    ids[1:5, 3:12, 4:20] = 4
    ids[2, 14:19, 22:30] = 9
    masks = (Mask(ids, image.geometry, ORGANS),)
    if overlap:
        other = np.zeros_like(ids)
        other[2:4, 5:15, 6:18] = 12
        rows = [Label(n, f"lesion {n}", category="lesion", is_thing=True) for n in (4, 9, 12)]
        masks = (
            Mask(ids, image.geometry, LabelTable(rows[:2])),
            Mask(other, image.geometry, LabelTable(rows[2:])),
        )
    return Sample(Item(name, folder / name), masks)


def dataset_of(folder, *samples):
    found = {sample.item.name: sample for sample in samples}
    items = tuple(sample.item for sample in samples)
    return Dataset(
        "d", "made", folder, ORGANS, items, lambda item, job: found[item.name], "classes"
    )


@pytest.mark.parametrize("cosines", ORIENTATIONS.values(), ids=ORIENTATIONS.keys())
def test_masks_of_cases_come_back_in_every_orientation(tmp_path, cosines):
    meant = drawn(tmp_path, cosines=cosines)
    receipt = convert_dataset(dataset_of(tmp_path, meant), tmp_path / "out", "dicomseg")
    assert receipt.losses == ()
    (tmp_path / "scan").rename(tmp_path / "out" / "scan")
    found = open_dataset(tmp_path / "out")
    item = found.items[0]
    assert (item.name, item.image, item.classes) == (
        "scan",
        tmp_path / "out" / "scan",
        frozenset({"liver", "tumour"}),
    )
    assert difference(meant, found.read(item)) == ""
    seg = highdicom.seg.segread(tmp_path / "out" / "scan.seg.dcm")
    assert [s.SegmentLabel for s in seg.SegmentSequence] == ["liver", "tumour"]


def test_objects_that_overlap_stay_whole(tmp_path):
    meant = drawn(tmp_path, overlap=True)
    convert_dataset(dataset_of(tmp_path, meant), tmp_path / "out", "dicomseg")
    names = sorted(p.name for p in (tmp_path / "out").glob("*.dcm"))
    assert names == ["scan.more-2.seg.dcm", "scan.seg.dcm"]
    found = open_dataset(tmp_path / "out")
    sample = found.read(found.items[0])
    assert (len(found.items), len(sample.masks)) == (1, 2)
    assert difference(meant, sample) == ""
    assert {class_of(row) for row in sample.labels.values()} == {"lesion"}


def test_corrected_cases_become_segmentations_without_the_patient(tmp_path):
    folder = tmp_path / "scans" / "Smith"
    write_series(folder)
    for file in folder.glob("*.dcm"):
        one = pydicom.dcmread(file)
        one.PatientName, one.PatientID = "Smith^John", "A77"
        one.save_as(file)
    with open_case(folder) as case:
        case.paint((2, 8, 9), radius_mm=3, label="liver")
        truth = case.mask.data.copy()
    convert_dataset(tmp_path / "scans", tmp_path / "out", "dicomseg")
    assert [p.name for p in (tmp_path / "out").glob("*.dcm")] == ["patient-001.seg.dcm"]
    for file in (tmp_path / "out").iterdir():
        raw = file.read_bytes().lower()
        assert b"smith" not in raw
        assert b"a77" not in raw
    (tmp_path / "scans" / "Smith").rename(tmp_path / "out" / "series")
    back = open_dataset(tmp_path / "out")
    assert np.array_equal(back.read(back.items[0]).masks[0].data, truth)


def test_long_names_are_told(tmp_path):
    meant = drawn(tmp_path)
    rows = LabelTable([Label(4, "liver " * 20), Label(9, "tumour")])
    mask = Mask(meant.masks[0].data, meant.masks[0].geometry, rows)
    made = dataset_of(tmp_path, Sample(meant.item, (mask,)))
    assert plan(made, "dicomseg").losses == ("1 label has its name shortened",)


def test_what_was_drawn_on_no_series_is_refused(tmp_path):
    made = volumes.dataset_of(
        tmp_path, volumes.sample(tmp_path), Sample(Item("x"), (volumes.classes(),))
    )
    for item in made.items:
        with pytest.raises(InputError, match="drawn on a DICOM series"):
            FORMAT.hold(made.read(item), made, options=Options())
    meant = drawn(tmp_path)
    foreign = Sample(meant.item, (volumes.classes(),))
    with pytest.raises(GeometryError, match="grid"):
        FORMAT.hold(foreign, made, options=Options())


def test_the_same_samples_give_the_same_bytes(tmp_path):
    made = dataset_of(tmp_path, drawn(tmp_path, overlap=True))
    one, two = (convert_dataset(made, tmp_path / n, "dicomseg").sha256 for n in "ab")
    assert one == two


def test_an_empty_mask_is_kept(tmp_path):
    meant = drawn(tmp_path)
    nothing = Mask(np.zeros_like(meant.masks[0].data), meant.masks[0].geometry, LabelTable())
    made = dataset_of(tmp_path, Sample(meant.item, (nothing,)))
    convert_dataset(made, tmp_path / "out", "dicomseg")
    back = open_dataset(tmp_path / "out")
    assert not back.read(back.items[0]).masks[0].data.any()


def test_a_series_and_other_folders_are_not_claimed(tmp_path):
    write_series(tmp_path / "scan")
    assert not FORMAT.sniff(tmp_path)
    assert not FORMAT.sniff(tmp_path / "scan" / "00.dcm")
    convert_dataset(dataset_of(tmp_path, drawn(tmp_path, "b")), tmp_path / "out", "dicomseg")
    assert FORMAT.sniff(tmp_path / "out")
    assert format_of(tmp_path / "out" / "b.seg.dcm").name == "dicomseg"
    assert len(open_dataset(tmp_path / "out" / "b.seg.dcm").items) == 1


def test_damaged_segmentations_are_refused(tmp_path):
    convert_dataset(dataset_of(tmp_path, drawn(tmp_path)), tmp_path / "out", "dicomseg")
    file = tmp_path / "out" / "scan.seg.dcm"
    whole = file.read_bytes()
    for length in (400, 700, 1500, len(whole) // 2, len(whole) - 40):
        file.write_bytes(whole[:length])
        with pytest.raises(MaskloopError, match="expected"):
            read_first(tmp_path / "out")


def read_first(folder):
    found = open_dataset(folder, format="dicomseg")
    return found.read(found.items[0])


def test_real_segmentations_find_their_series_and_equal_their_label_maps(tmp_path, shared_data):
    with zipfile.ZipFile(shared_data / "dicom" / "dcmqi_seg" / "segmentations.zip") as zipped:
        for name in zipped.namelist():
            if name.startswith("ct-3slice/") or name in ("liver.dcm", "liver_seg.nrrd"):
                zipped.extract(name, tmp_path)
    found = open_dataset(tmp_path)
    assert [(i.name, i.image) for i in found.items] == [("liver", tmp_path / "ct-3slice")]
    mask = found.read(found.items[0]).masks[0]
    truth = nrrd.FORMAT.read_mask(
        tmp_path / "liver_seg.nrrd", image=None, entry=None, kind=None, job=Job()
    )
    assert int((mask.data > 0).sum()) == int((truth.data > 0).sum()) > 0
    receipt = convert_dataset(found, tmp_path / "out", "dicomseg")
    assert receipt.items == 1


def test_items_do_not_bear_the_patients_name(tmp_path):
    for folder in ("DOE_John", "john doe 2"):
        meant = drawn(tmp_path / "in" / folder)
        for file in (tmp_path / "in" / folder / "scan").iterdir():
            head = pydicom.dcmread(file)
            head.PatientName, head.PatientID = "DOE^JOHN", "4711"
            head.save_as(file)
        convert_dataset(dataset_of(tmp_path, meant), tmp_path / "out", "dicomseg", overwrite=True)
        (tmp_path / "out/scan.seg.dcm").rename(tmp_path / "in" / folder / "liver.seg.dcm")
    items = open_dataset(tmp_path / "in").items
    assert [item.name for item in items] == ["patient-001/liver-1", "patient-001/liver-2"]
    assert {item.group for item in items} == {"patient-001"}

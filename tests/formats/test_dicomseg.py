"""DICOM SEG: every encoding read, every orientation written, each voxel where it was."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import highdicom
import nrrd
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate

from maskloop.core.errors import (
    FormatError,
    GeometryError,
    InputError,
    MaskloopError,
    UnknownNameError,
)
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.formats import dicomseg, dicomseg_plain
from maskloop.formats.base import sidecar_of
from maskloop.loop.export import export
from maskloop.loop.load import load, load_mask, load_masks
from tests.formats.ct_series import CT, FRAME, ORIENTATIONS, SERIES, SHAPE, STUDY, write_series

TABLE = LabelTable([Label(1, "liver", "#dd8265"), Label(2, "tumour"), Label(300, "odd ä")])


def ids() -> np.ndarray:
    """Return labels that no flip, turn or swap of axes leaves as they are; end slices are empty."""
    found = np.zeros(SHAPE, np.uint16)
    found[1:5, 3:12, 4:20] = 1
    found[2:4, 5:8, 6:11] = 2
    found[2, 14:19, 22:30] = 300
    found[4, 0, 0] = 300
    return found


def drawn(image: Image) -> Mask:
    return Mask.like(image, ids(), TABLE)


def points(data: np.ndarray, geometry: Geometry) -> dict[int, np.ndarray]:
    return {int(i): geometry.to_world(np.argwhere(data == i)) for i in np.unique(data) if i}


def require_same_places(found: dict[int, np.ndarray], meant: dict[int, np.ndarray]) -> None:
    assert found.keys() == meant.keys()
    for number, places in meant.items():
        others = found[number]
        assert others.shape == places.shape
        ordered = [p[np.lexsort(np.round(p, 2).T)] for p in (others, places)]
        assert np.linalg.norm(ordered[0] - ordered[1], axis=1).max() < 1e-3


def seen_by_highdicom(path: Path) -> dict[int, np.ndarray]:
    """Return the world points (RAS+) of each label by highdicom's own volume and its affine."""
    seg = highdicom.seg.segread(path)
    volume = seg.get_volume(combine_segments=True)
    numbers = {
        int(s.SegmentNumber): int(s.SegmentDescription.split()[-1][:-1])
        for s in seg.SegmentSequence
    }
    found = {}
    for number, label in numbers.items():
        index = np.argwhere(volume.array == number)
        if len(index):
            found[label] = volume.map_indices_to_reference(index) * (-1, -1, 1)
    return found


@pytest.mark.parametrize("cosines", ORIENTATIONS.values(), ids=ORIENTATIONS.keys())
def test_every_voxel_stays_where_it_was_for_every_reader(cosines, tmp_path):
    mask = drawn(write_series(tmp_path / "ct", cosines))
    out = tmp_path / "mask.seg.dcm"
    receipt = export(mask, out)
    assert receipt.verdict == "PASS"
    assert receipt.worst_corner_mm < 1e-6
    meant = points(mask.data, mask.geometry)
    require_same_places(seen_by_highdicom(out), meant)
    plain = dicomseg_plain.read(out)
    require_same_places(points(plain.data, plain.geometry), meant)
    again = load_mask(out)
    np.testing.assert_array_equal(again.data, mask.data)
    assert again.geometry.matches(mask.geometry)
    assert dict(again.labels) == dict(TABLE)


def test_a_tilted_series_keeps_its_shear(tmp_path):
    image = write_series(tmp_path / "ct", shift=(0.0, 0.9, 0.0))
    mask = drawn(image)
    export(mask, tmp_path / "mask.seg.dcm")
    again = load_mask(tmp_path / "mask.seg.dcm")
    np.testing.assert_array_equal(again.data, mask.data)
    assert again.geometry.matches(image.geometry)


def test_ids_names_and_colours_come_back_without_the_sidecar(tmp_path):
    mask = drawn(write_series(tmp_path / "ct"))
    out = tmp_path / "mask.seg.dcm"
    export(mask, out)
    sidecar_of(out).unlink()
    again = load_mask(out)
    np.testing.assert_array_equal(again.data, mask.data)
    assert dict(again.labels) == dict(TABLE)
    stored = pydicom.dcmread(out).SegmentSequence
    assert [int(s.SegmentNumber) for s in stored] == [1, 2, 3]
    assert [s.SegmentDescription for s in stored] == [f"[label id {i}]" for i in (1, 2, 300)]


def test_an_empty_mask_keeps_its_grid(tmp_path):
    image = write_series(tmp_path / "ct")
    empty = Mask.like(image, np.zeros(SHAPE, np.uint8), LabelTable())
    export(empty, tmp_path / "mask.seg.dcm")
    again = load_mask(tmp_path / "mask.seg.dcm")
    assert again.labels == LabelTable()
    assert not again.data.any()
    assert again.geometry.matches(image.geometry)


def test_a_label_without_voxels_keeps_its_row(tmp_path):
    image = write_series(tmp_path / "ct")
    mask = Mask.like(image, (ids() == 2) * 2, TABLE)
    export(mask, tmp_path / "mask.seg.dcm")
    assert dict(load_mask(tmp_path / "mask.seg.dcm").labels) == dict(TABLE)


def test_empty_frames_are_left_out_but_the_ends_of_the_grid_are_not(tmp_path):
    export(drawn(write_series(tmp_path / "ct")), tmp_path / "mask.seg.dcm")
    data = pydicom.dcmread(tmp_path / "mask.seg.dcm")
    # liver on 4 slices, tumour on 2, the third label on 2, and two empty end slices.
    assert data.NumberOfFrames == 10


def test_the_same_mask_gives_the_same_bytes_and_another_one_other_uids(tmp_path):
    mask = drawn(write_series(tmp_path / "ct"))
    elsewhere = drawn(write_series(tmp_path / "copy"))
    for name, one in (("a", mask), ("b", elsewhere)):
        export(one, tmp_path / f"{name}.seg.dcm")
    assert (tmp_path / "a.seg.dcm").read_bytes() == (tmp_path / "b.seg.dcm").read_bytes()
    changed = mask.data.copy()
    changed[2, 0, 0] = 1
    export(replace(mask, data=changed), tmp_path / "c.seg.dcm")
    first, other = (pydicom.dcmread(tmp_path / f"{n}.seg.dcm") for n in "ac")
    assert first.SOPInstanceUID != other.SOPInstanceUID
    assert first.SeriesInstanceUID != other.SeriesInstanceUID


def test_frames_name_the_images_they_were_drawn_on(tmp_path):
    image = write_series(tmp_path / "ct", ORIENTATIONS["upside down"])
    export(drawn(image), tmp_path / "mask.seg.dcm")
    data = pydicom.dcmread(tmp_path / "mask.seg.dcm")
    assert (data.StudyInstanceUID, data.FrameOfReferenceUID) == (STUDY, FRAME)
    assert data.ReferencedSeriesSequence[0].SeriesInstanceUID == SERIES
    sources = {pydicom.dcmread(p).SOPInstanceUID: pydicom.dcmread(p) for p in image.header.files}
    listed = data.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {item.ReferencedSOPInstanceUID for item in listed} == set(sources)
    for frame in data.PerFrameFunctionalGroupsSequence:
        (item,) = frame.DerivationImageSequence[0].SourceImageSequence
        source = sources[item.ReferencedSOPInstanceUID]
        assert item.ReferencedSOPClassUID == CT
        assert frame.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient
        assert item.SpatialLocationsPreserved == "YES"


def test_frames_of_a_multi_frame_file_are_named_by_number(tmp_path):
    image = write_series(tmp_path / "ct")
    one = replace(
        image.header,
        files=image.header.files[:1] * 6,
        frames=(6, 5, 4, 3, 2, 1),
        sop_instances=image.header.sop_instances[:1] * 6,
        sop_class="1.2.840.10008.5.1.4.1.1.2.1",
    )
    export(drawn(replace(image, header=one)), tmp_path / "mask.seg.dcm")
    data = pydicom.dcmread(tmp_path / "mask.seg.dcm")
    assert len(data.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 1
    numbers = {}
    for frame in data.PerFrameFunctionalGroupsSequence:
        (item,) = frame.DerivationImageSequence[0].SourceImageSequence
        height = float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        numbers[round((height - 240.125) / 2.5)] = item.ReferencedFrameNumber
    assert numbers == {at: 6 - at for at in range(6)}


def test_planes_that_were_computed_name_the_series_but_no_single_image(tmp_path):
    image = write_series(tmp_path / "ct")
    derived = replace(image, header=replace(image.header, is_derived=True))
    export(drawn(derived), tmp_path / "mask.seg.dcm")
    data = pydicom.dcmread(tmp_path / "mask.seg.dcm")
    assert len(data.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 6
    assert all(not f.DerivationImageSequence for f in data.PerFrameFunctionalGroupsSequence)
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.seg.dcm").data, ids())


def test_a_source_without_uids_is_told(tmp_path):
    image = write_series(tmp_path / "ct")
    bare = replace(image.header, study="", series="", frame_of_reference="", sop_instances=())
    receipt = export(drawn(replace(image, header=bare)), tmp_path / "mask.seg.dcm")
    told = "\n".join(receipt.losses)
    assert "no UID of its study" in told
    assert "no UID of its frame of reference" in told
    assert "cannot refer to them" in told
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.seg.dcm").data, ids())


def test_known_names_get_their_codes_and_others_a_general_one(tmp_path):
    export(drawn(write_series(tmp_path / "ct")), tmp_path / "mask.seg.dcm")
    kinds = [
        s.SegmentedPropertyTypeCodeSequence[0].CodeValue
        for s in pydicom.dcmread(tmp_path / "mask.seg.dcm").SegmentSequence
    ]
    assert kinds == ["10200004", "108369006", "85756007"]


def test_a_mask_a_model_made_is_not_called_manual(tmp_path):
    image = write_series(tmp_path / "ct")
    table = TABLE.with_rows([Label(2, "tumour", author="liver-tumour")])
    export(Mask.like(image, ids(), table), tmp_path / "mask.seg.dcm")
    kinds = [
        s.SegmentAlgorithmType for s in pydicom.dcmread(tmp_path / "mask.seg.dcm").SegmentSequence
    ]
    assert kinds == ["MANUAL", "SEMIAUTOMATIC", "MANUAL"]


def test_long_and_odd_names_are_fitted_and_told(tmp_path):
    image = write_series(tmp_path / "ct")
    table = LabelTable([Label(1, "a\\b" + "x" * 90), Label(2, " \n "), Label(300, "ok")])
    receipt = export(Mask.like(image, ids(), table), tmp_path / "mask.seg.dcm")
    assert sum("name is shortened" in loss for loss in receipt.losses) == 2
    assert load_mask(tmp_path / "mask.seg.dcm").labels[2].name == "label 2"


def test_a_mask_without_a_dicom_source_is_refused_in_words(tmp_path):
    mask = Mask(ids(), Geometry.regular(SHAPE, (3, 1, 1)), TABLE)
    with pytest.raises(InputError, match=r"expected a mask drawn on a DICOM series, .*--image"):
        export(mask, tmp_path / "mask.seg.dcm")
    assert list(tmp_path.iterdir()) == []


def test_slices_without_square_corners_are_refused(tmp_path):
    image = write_series(tmp_path / "ct")
    affine = image.geometry.affine.copy()
    affine[:3, 2] += 0.1 * affine[:3, 1]
    sheared = replace(image, geometry=Geometry(SHAPE, affine, "mm"))
    with pytest.raises(GeometryError, match="square corners"):
        export(drawn(sheared), tmp_path / "mask.seg.dcm")


def test_a_grid_against_the_normal_is_turned_and_every_voxel_stays(tmp_path):
    image = write_series(tmp_path / "ct")
    flipped = replace(
        image,
        geometry=image.geometry.transposed((0, 1, 2), (True, False, False)),
        header=replace(image.header, files=image.header.files[::-1]),
    )
    mask = drawn(flipped)
    export(mask, tmp_path / "mask.seg.dcm")
    again = load_mask(tmp_path / "mask.seg.dcm")
    require_same_places(points(again.data, again.geometry), points(mask.data, mask.geometry))
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.seg.dcm", image=flipped).data, ids())


# Identity ---------------------------------------------------------------------------------------

PERSON = {
    "PatientName": "SECRET^PERSON",
    "PatientID": "4711-SECRET",
    "PatientBirthDate": "19511105",
    "PatientSex": "F",
    "PatientComments": "SECRET WORDS",
    "AccessionNumber": "SECRET-ACC",
    "StudyDate": "20240229",
    "StudyDescription": "SECRET STUDY",
    "InstitutionName": "SECRET CLINIC",
    "ReferringPhysicianName": "SECRET^DOCTOR",
}


def test_no_identity_is_written_by_default(tmp_path):
    image = write_series(tmp_path / "ct", **PERSON)
    receipt = export(drawn(image), tmp_path / "mask.seg.dcm")
    raw = (tmp_path / "mask.seg.dcm").read_bytes()
    assert b"SECRET" not in raw
    assert b"19511105" not in raw
    assert b"20240229" not in raw
    data = pydicom.dcmread(tmp_path / "mask.seg.dcm")
    assert data.PatientIdentityRemoved == "YES"
    assert (data.PatientName, data.PatientID, data.StudyDate) == ("", "", "")
    assert any("UIDs of study" in loss for loss in receipt.losses)


def test_keep_phi_copies_patient_and_study(tmp_path):
    image = write_series(tmp_path / "ct", **PERSON)
    export(drawn(image), tmp_path / "mask.seg.dcm", keep_phi=True)
    data = pydicom.dcmread(tmp_path / "mask.seg.dcm")
    kept = {key: str(data[key].value) for key in PERSON if key in data}
    assert kept == {k: v for k, v in PERSON.items() if k != "InstitutionName"}
    assert "PatientIdentityRemoved" not in data
    assert data.ContentDate == "20240229"
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.seg.dcm").data, ids())


@pytest.mark.parametrize(
    ("charset", "name"),
    [("ISO_IR 100", "Müller^Jörg"), (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎")],
)
def test_names_in_other_alphabets_are_kept_whole(charset, name, tmp_path):
    image = write_series(tmp_path / "ct", SpecificCharacterSet=charset, PatientName=name)
    export(drawn(image), tmp_path / "mask.seg.dcm", keep_phi=True)
    assert str(pydicom.dcmread(tmp_path / "mask.seg.dcm").PatientName) == name


def test_attributes_that_must_be_there_are_there_even_if_empty(tmp_path):
    export(drawn(write_series(tmp_path / "ct")), tmp_path / "mask.seg.dcm")
    data = pydicom.dcmread(tmp_path / "mask.seg.dcm")
    # PS3.3: types 1 and 2 of the modules of the Segmentation IOD.
    for keyword in (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
        *("StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID"),
        *("AccessionNumber", "Modality", "SeriesInstanceUID", "SeriesNumber"),
        *("FrameOfReferenceUID", "PositionReferenceIndicator", "Manufacturer"),
        *("ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"),
        *("InstanceNumber", "ContentDate", "ContentTime", "ContentLabel", "ContentDescription"),
        *("ContentCreatorName", "ImageType", "SegmentationType", "SegmentSequence"),
        *("LossyImageCompression", "DimensionOrganizationSequence", "DimensionIndexSequence"),
        *("SOPClassUID", "SOPInstanceUID", "SpecificCharacterSet"),
    ):
        assert keyword in data, keyword


def test_identity_that_the_source_lost_stays_lost(tmp_path):
    image = write_series(tmp_path / "ct", PatientName="ANON", PatientIdentityRemoved="YES")
    export(drawn(image), tmp_path / "mask.seg.dcm", keep_phi=True)
    assert pydicom.dcmread(tmp_path / "mask.seg.dcm").PatientIdentityRemoved == "YES"


def test_a_segmentation_opened_alone_is_written_again_without_its_images(tmp_path):
    image = write_series(tmp_path / "ct", **PERSON)
    export(drawn(image), tmp_path / "a.seg.dcm", keep_phi=True)
    mask = load_mask(tmp_path / "a.seg.dcm")
    changed = mask.data.copy()
    changed[0, 0, :3] = 2
    export(replace(mask, data=changed), tmp_path / "b.seg.dcm")
    np.testing.assert_array_equal(load_mask(tmp_path / "b.seg.dcm").data, changed)
    first, second = (pydicom.dcmread(tmp_path / f"{n}.seg.dcm") for n in "ab")
    assert second.ReferencedSeriesSequence == first.ReferencedSeriesSequence
    assert second.FrameOfReferenceUID == FRAME
    assert b"SECRET" not in (tmp_path / "b.seg.dcm").read_bytes()
    named = {
        tuple(f.PlanePositionSequence[0].ImagePositionPatient): (
            f.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        )
        for f in second.PerFrameFunctionalGroupsSequence
    }
    assert len(set(named.values())) == 6


# Placing on an image ----------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)])
@pytest.mark.parametrize("flips", [(False, False, False), (True, False, True), (True, True, True)])
def test_frames_are_placed_on_any_grid_of_the_same_voxels(axes, flips, tmp_path):
    image = write_series(tmp_path / "ct", ORIENTATIONS["oblique"])
    mask = drawn(image)
    out = tmp_path / "mask.seg.dcm"
    export(mask, out)
    turned = image.geometry.transposed(axes, flips)
    other = Image(np.zeros(turned.shape, np.int16), turned)
    found = load_mask(out, image=other)
    assert found.geometry is other.geometry
    meant = mask.data.transpose(axes)[tuple(slice(None, None, -1 if f else 1) for f in flips)]
    np.testing.assert_array_equal(found.data, meant)


def test_slices_between_are_told(tmp_path):
    image = write_series(tmp_path / "ct")
    export(drawn(image), tmp_path / "mask.seg.dcm")
    affine = image.geometry.affine @ np.diag([0.5, 1, 1, 1])
    finer = Image(np.zeros((11, *SHAPE[1:]), np.int16), Geometry((11, *SHAPE[1:]), affine))
    job = Job()
    found = load_mask(tmp_path / "mask.seg.dcm", image=finer, job=job)
    np.testing.assert_array_equal(found.data[::2], ids())
    assert not found.data[1::2].any()
    assert any("2 slices of" in note for note in job.notes)


def test_a_larger_image_takes_the_frames_and_a_smaller_one_refuses_voxels_outside(tmp_path):
    image = write_series(tmp_path / "ct")
    mask = drawn(image)
    out = tmp_path / "mask.seg.dcm"
    export(mask, out)
    larger = image.geometry.padded((2, 3, 4), (1, 0, 5))
    found = load_mask(out, image=Image(np.zeros(larger.shape, np.int16), larger))
    np.testing.assert_array_equal(found.data[2:8, 3:24, 4:35], mask.data)
    smaller = image.geometry.padded((0, 0, 0), (0, 0, -5))
    with pytest.raises(GeometryError, match="outside it"):
        load_mask(out, image=Image(np.zeros(smaller.shape, np.int16), smaller))
    # What is cut off here holds no voxel of the mask.
    tight = image.geometry.padded((-1, 0, 0), (-1, 0, 0))
    found = load_mask(out, image=Image(np.zeros(tight.shape, np.int16), tight))
    np.testing.assert_array_equal(found.data, mask.data[1:-1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a + np.outer([1, 0, 0, 0], [0, 0, 0, 0.02]), "voxels beside"),
        (lambda a: a * [[1, 1, 1.02, 1]] * 1.0, "beside them"),
        (lambda a: a @ np.diag([0.5, 1, 1, 1]), "outside it"),
    ],
)
def test_another_grid_is_refused_in_words(change, words, tmp_path):
    image = write_series(tmp_path / "ct")
    out = tmp_path / "mask.seg.dcm"
    export(drawn(image), out)
    affine = change(image.geometry.affine)
    affine[3] = (0, 0, 0, 1)
    other = Image(image.data, Geometry(SHAPE, affine, "mm"), title="CT series 9")
    with pytest.raises(GeometryError, match=words):
        load_mask(out, image=other)


def test_the_loader_tells_the_writer_what_these_tests_tell_it(tmp_path):
    image = write_series(tmp_path / "ct", ORIENTATIONS["coronal"])
    loaded = load(tmp_path / "ct")
    assert loaded.header == image.header
    assert loaded.geometry.matches(image.geometry)


def test_codes_of_a_mask_read_onto_its_series_are_kept(tmp_path):
    def other_codes(data) -> None:
        item = data.SegmentSequence[2].SegmentedPropertyTypeCodeSequence[0]
        item.CodeValue, item.CodeMeaning = "4147007", "Mass"

    path = made(tmp_path, x=other_codes)
    image = load(tmp_path / "ct")
    mask = load_mask(path, image=image)
    export(mask, tmp_path / "again.seg.dcm", image=tmp_path / "ct")
    stored = pydicom.dcmread(tmp_path / "again.seg.dcm")
    kinds = [s.SegmentedPropertyTypeCodeSequence[0].CodeValue for s in stored.SegmentSequence]
    assert kinds == ["10200004", "108369006", "4147007"]
    first = stored.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0]
    assert first.SourceImageSequence[0].ReferencedSOPInstanceUID in image.header.sop_instances


def test_a_segmentation_of_another_program_keeps_its_codes(tmp_path, shared_data):
    folder = unzipped(shared_data / "dicom/dcmqi_seg/segmentations.zip", tmp_path)
    source = next(folder.rglob("sparse-labelmap-ppv5.dcm"))
    mask = load_mask(source)
    export(mask, tmp_path / "again.seg.dcm")
    before, after = (
        pydicom.dcmread(p).SegmentSequence for p in (source, tmp_path / "again.seg.dcm")
    )
    for keyword in ("SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence"):
        first, second = before[1][keyword][0], after[0][keyword][0]
        assert (first.CodeValue, first.CodeMeaning) == (second.CodeValue, second.CodeMeaning)
    renamed = LabelTable([Label(1, "spleen")])
    export(replace(mask, labels=renamed), tmp_path / "renamed.seg.dcm")
    stored = pydicom.dcmread(tmp_path / "renamed.seg.dcm").SegmentSequence[0]
    assert stored.SegmentedPropertyTypeCodeSequence[0].CodeValue == "78961009"


# What other programs wrote ----------------------------------------------------------------------


def unzipped(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as found:
        found.extractall(folder)
    return folder


# Voxels of each label as the label maps beside the files (dcmqi) or highdicom itself state them.
DCMQI = {
    "liver.dcm": ["liver_seg.nrrd"],
    "23x38x3/seg/label.seg": ["23x38x3/nrrd/label.nrrd"],
    "24x38x3/seg/label.seg": ["24x38x3/nrrd/label.nrrd"],
    "sparse-labelmap-noppv.dcm": ["sparse_labelmap_noppv_seg.nrrd"],
    "sparse-labelmap-ppv5.dcm": ["sparse_labelmap_ppv5_seg.nrrd"],
}


@pytest.mark.parametrize("name", DCMQI)
def test_real_segmentations_equal_the_label_maps_beside_them(name, shared_data, tmp_path):
    folder = unzipped(shared_data / "dicom/dcmqi_seg/segmentations.zip", tmp_path)
    mask = load_mask(folder / name)
    data, header = nrrd.read(str(folder / DCMQI[name][0]))
    lps = np.eye(4)
    lps[:3, :3] = np.array(header["space directions"], float).T
    lps[:3, 3] = header["space origin"]
    meant = {
        int(i): (np.argwhere(data == i) @ lps[:3, :3].T + lps[:3, 3]) * (-1, -1, 1)
        for i in np.unique(data)
        if i in mask.labels  # dcmqi fills left out frames with the padding value, 5
    }
    require_same_places(points(mask.data, mask.geometry), meant)
    plain = dicomseg_plain.read(folder / name)
    np.testing.assert_array_equal(plain.data, mask.data)
    assert plain.geometry.matches(mask.geometry)
    assert plain.labels == mask.labels.names


def test_real_overlapping_segments_come_as_separate_masks(shared_data, tmp_path):
    folder = unzipped(shared_data / "dicom/dcmqi_seg/segmentations.zip", tmp_path)
    path = folder / "partial_overlaps.dcm"
    with pytest.raises(InputError, match=r"2 \(ORANGE\) over 1 \(GREEN\).*--entry N.*load_masks"):
        load_mask(path)
    masks = load_masks(path)
    assert [m.labels.names for m in masks] == [
        {1: "GREEN", 4: "LIGHT_BLUE", 5: "DARK_BLUE"},
        {2: "ORANGE"},
        {3: "PURPLE"},
    ]
    counts = {int(i): int((m.data == i).sum()) for m in masks for i in m.labels}
    frames = pydicom.dcmread(path)
    stored = dict.fromkeys(range(1, 6), 0)
    for group, pixels in zip(
        frames.PerFrameFunctionalGroupsSequence, frames.pixel_array, strict=True
    ):
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        stored[int(number)] += int(pixels.sum())
    assert counts == stored
    assert all(m.geometry.matches(masks[0].geometry) for m in masks)
    for entry in (3, "3", "PURPLE"):
        one = load_mask(path, entry=entry)
        assert one.labels.names == {3: "PURPLE"}
        np.testing.assert_array_equal(one.data, masks[2].data)
    with pytest.raises(UnknownNameError, match=r"2 \(ORANGE\)"):
        load_mask(path, entry="BLACK")


def test_a_real_segmentation_lies_on_its_ct(shared_data, tmp_path):
    folder = unzipped(shared_data / "dicom/dcmqi_seg/segmentations.zip", tmp_path)
    image = load(folder / "ct-3slice")
    mask = load_mask(folder / "liver.dcm", image=image)
    np.testing.assert_array_equal(mask.data, load_mask(folder / "liver.dcm").data)
    assert mask.geometry is image.geometry


HIGHDICOM = {
    "seg_image_ct_binary.dcm": ((3, 16, 16), 638),
    "seg_image_ct_binary_fractional.dcm": ((3, 16, 16), 638),
    "seg_image_ct_true_fractional.dcm": ((3, 16, 16), 638),
    "seg_image_ct_binary_single_frame.dcm": ((1, 128, 128), 1832),
}


@pytest.mark.parametrize("name", HIGHDICOM)
def test_real_highdicom_files_equal_their_own_volume(name, shared_data, tmp_path):
    folder = unzipped(shared_data / "dicom/highdicom_seg/test_files.zip", tmp_path)
    path = next(folder.rglob(name))
    shape, count = HIGHDICOM[name]
    job = Job()
    mask = load_mask(path, job=job)
    assert mask.data.shape == shape
    assert int((mask.data == 1).sum()) == count
    assert any("at least half" in note for note in job.notes) == ("fractional" in name)
    plain = dicomseg_plain.read(path)
    np.testing.assert_array_equal(plain.data, mask.data)
    assert plain.geometry.matches(mask.geometry)
    if "single" in name:
        return
    volume = highdicom.seg.segread(path).get_volume(rescale_fractional=True)
    index = np.argwhere(volume.array[..., 0] >= 0.5)
    places = volume.map_indices_to_reference(index) * (-1, -1, 1)
    require_same_places(points(mask.data, mask.geometry), {1: places})


@pytest.mark.slow
def test_a_real_mask_is_written_on_a_real_series(shared_data, tmp_path):
    folder = unzipped(shared_data / "ct_liver/ircadb17/PATIENT_DICOM.zip", tmp_path / "ct")
    image = load(next(p.parent for p in folder.rglob("*") if p.is_file()))
    mask = load_mask(shared_data / "ct_liver/ircadb17/labels.nii.gz", image=image)
    receipt = export(mask, tmp_path / "mask.seg.dcm", image=image)
    assert receipt.verdict == "PASS"
    volume = highdicom.seg.segread(tmp_path / "mask.seg.dcm").get_volume(combine_segments=True)
    assert volume.array.shape == (119, 512, 512)
    for label in (1, 2):
        index = np.argwhere(volume.array == label)
        places = volume.map_indices_to_reference(index) * (-1, -1, 1)
        require_same_places({label: places}, {label: points(mask.data, mask.geometry)[label]})


def test_far_apart_frames_leave_a_hole_of_zeros(shared_data, tmp_path):
    folder = unzipped(shared_data / "dicom/highdicom_seg/test_files.zip", tmp_path)
    masks = load_masks(next(folder.rglob("seg_image_ct_binary_overlap.dcm")))
    assert [m.labels.names for m in masks] == [{1: "first segment"}, {2: "second segment"}]
    # One frame at -99.48 mm and three from 103.02 mm on, 1.25 mm apart.
    assert masks[0].data.shape == (165, 16, 16)
    assert np.flatnonzero(masks[0].data.any(axis=(1, 2))).tolist() == [0, 162, 163, 164]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("seg_image_cr_binary.dcm", "projection picture"),
        ("seg_image_sm_control.dcm", "tiles of a microscope slide"),
        ("seg_image_sm_control_labelmap.dcm", "tiles of a microscope slide"),
        ("seg_image_sm_control_labelmap_palette_color.dcm", "tiles of a microscope slide"),
        ("seg_image_sm_dots.dcm", "tiles of a microscope slide"),
        ("seg_image_sm_dots_tiled_full.dcm", "tiles of a microscope slide"),
        ("seg_image_sm_numbers.dcm", "tiles of a microscope slide"),
        ("ct_image.dcm", "another kind of file"),
    ],
)
def test_real_files_that_are_no_stack_are_refused_by_name(name, words, shared_data, tmp_path):
    folder = unzipped(shared_data / "dicom/highdicom_seg/test_files.zip", tmp_path)
    path = next(folder.rglob(name))
    with pytest.raises((FormatError, GeometryError), match=words):
        dicomseg.read_mask(path, image=None, entry=None, kind=None, job=Job())
    assert dicomseg.sniff(path) == (name != "ct_image.dcm")


# Made files: encodings, damage -------------------------------------------------------------------


def made(folder: Path, **changes) -> Path:
    """Write a whole segmentation, change attributes of it, and return its path."""
    path = folder / "mask.seg.dcm"
    export(drawn(write_series(folder / "ct")), path)
    for extra in folder.glob("mask.seg.dcm.*"):
        extra.unlink()
    data = pydicom.dcmread(path)
    for keyword, value in changes.items():
        if callable(value):
            value(data)
        else:
            setattr(data, keyword, value)
    data.save_as(path)
    return path


def label_map(path: Path, image: Image, kind: str, codec: str) -> None:
    """Write a label map or a fractional map with highdicom itself, then compress it."""
    numbers = np.where(ids() == 300, 3, ids()).astype(np.uint8)
    describe = highdicom.seg.SegmentDescription
    code = highdicom.sr.CodedConcept("85756007", "SCT", "Tissue")
    rows = [describe(n, f"s{n}", code, code, "MANUAL") for n in (1, 2, 3)]
    seg = highdicom.seg.Segmentation(
        source_images=[pydicom.dcmread(p) for p in image.header.files],
        pixel_array=numbers,
        segmentation_type=kind,
        segment_descriptions=rows,
        series_instance_uid="2.25.9",
        series_number=7,
        sop_instance_uid="2.25.10",
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
    )
    seg.save_as(path)
    if codec:
        data = pydicom.dcmread(path)
        data.compress(*CODECS[codec], generate_instance_uid=False)
        data.save_as(path)


CODECS = {
    "RLE": ("1.2.840.10008.1.2.5", None, "pydicom"),
    "JPEG-LS": ("1.2.840.10008.1.2.4.80", None, "pyjpegls"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["LABELMAP", "FRACTIONAL"])
@pytest.mark.parametrize("codec", ["", "RLE", "JPEG-LS"])
def test_label_maps_and_fractions_are_read_in_every_lossless_encoding(kind, codec, tmp_path):
    image = write_series(tmp_path / "ct", AccessionNumber="", StudyID="", StudyDate="", **BLANK)
    label_map(tmp_path / "m.dcm", image, kind, codec)
    mask = load_mask(tmp_path / "m.dcm", image=image)
    numbers = np.where(ids() == 300, 3, ids())
    np.testing.assert_array_equal(mask.data, numbers)
    assert mask.labels.names == {1: "s1", 2: "s2", 3: "s3"}
    assert mask.title == "SEG series 7"
    # Left out empty end slices are no part of the file's own grid.
    np.testing.assert_array_equal(load_mask(tmp_path / "m.dcm").data, numbers[1:5])
    one = load_mask(tmp_path / "m.dcm", image=image, entry="s2")
    np.testing.assert_array_equal(one.data, (numbers == 2) * 2)


def test_an_encoding_without_a_decoder_is_named(tmp_path):
    def compressed(data) -> None:
        data.PixelData = encapsulate([b"\0" * 64] * int(data.NumberOfFrames))
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"

    path = made(tmp_path, x=compressed)
    with pytest.raises(MaskloopError, match="without its decoder"):
        load_mask(path)


def test_a_syntax_younger_than_pydicom_is_named(tmp_path):
    path = made(tmp_path)
    raw = path.read_bytes()
    # A name of the same length that no dictionary has, as younger syntaxes are to pydicom.
    tag = b"\x02\0\x10\0UI"
    found = raw.replace(
        tag + b"\x14\x001.2.840.10008.1.2.1\0", tag + b"\x14\x001.2.840.10008.1.2.8\0", 1
    )
    assert found != raw
    path.write_bytes(found)
    with pytest.raises(FormatError, match=r"an encoding that pydicom knows.*1\.2\.8"):
        load_mask(path)


BLANK = {
    "PatientBirthDate": "",
    "PatientSex": "",
    "StudyTime": "",
    "ReferringPhysicianName": "",
    "Manufacturer": "",
}


def test_segments_that_others_added_get_ids_of_their_own(tmp_path):
    def added(data) -> None:
        for text, number in (("", 4), ("[label id 2]", 5), ("[label id 0]", 6)):
            segment = pydicom.Dataset()
            segment.update(data.SegmentSequence[0])
            segment.SegmentNumber, segment.SegmentLabel = number, f"added {number}"
            segment.SegmentDescription = text
            data.SegmentSequence.append(segment)

    found = load_mask(made(tmp_path, x=added)).labels.names
    assert found[1] == "liver"
    assert found[300] == "odd ä"
    assert found[4] == "added 4"
    assert len(found) == 6
    assert set(found.values()) == {"liver", "tumour", "odd ä", "added 4", "added 5", "added 6"}


def test_another_frame_of_reference_is_told(tmp_path):
    job = Job()
    path = made(tmp_path, FrameOfReferenceUID="2.25.999")
    mask = load_mask(path, image=load(tmp_path / "ct"), job=job)
    np.testing.assert_array_equal(mask.data, ids())
    assert any("another frame of reference than 'CT series 4'" in note for note in job.notes)


def test_a_multi_frame_series_takes_and_gives_segmentations(shared_data, tmp_path):
    folder = unzipped(shared_data / "dicom/dcmqi_seg/segmentations.zip", tmp_path)
    image = load(folder / "24x38x3/multiframe/mf.dcm")
    mask = load_mask(folder / "24x38x3/seg/label.seg", image=image)
    np.testing.assert_array_equal(mask.data, load_mask(folder / "24x38x3/seg/label.seg").data)
    export(mask, tmp_path / "mask.seg.dcm", image=image)
    stored = pydicom.dcmread(tmp_path / "mask.seg.dcm")
    source = pydicom.dcmread(folder / "24x38x3/multiframe/mf.dcm")
    for frame in stored.PerFrameFunctionalGroupsSequence:
        item = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert item.ReferencedSOPInstanceUID == source.SOPInstanceUID
        other = source.PerFrameFunctionalGroupsSequence[item.ReferencedFrameNumber - 1]
        places = [
            np.array(f.PlanePositionSequence[0].ImagePositionPatient, float) for f in (frame, other)
        ]
        np.testing.assert_allclose(*places, atol=1e-3)


def uneven(data) -> None:
    for frame in data.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        if abs(float(place[2]) - 245.125) < 1:
            place[2] = "245.9"


def turned(data) -> None:
    first = data.PerFrameFunctionalGroupsSequence[0]
    item = pydicom.Dataset()
    item.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    first.PlaneOrientationSequence = [item]


def aside(data) -> None:
    place = data.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence[0]
    place.ImagePositionPatient[0] = "-20"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (uneven, r"evenly spaced slices .* 1\.725, 2\.5, 3\.275 mm.*--image"),
        (turned, "one orientation"),
        (aside, "in one line"),
    ],
)
def test_frames_that_are_no_regular_stack_are_refused_by_name(change, words, tmp_path):
    with pytest.raises(GeometryError, match=words):
        load_mask(made(tmp_path, x=change))


def without_positions(data) -> None:
    for frame in data.PerFrameFunctionalGroupsSequence:
        del frame.PlanePositionSequence


def stranger(data) -> None:
    frame = data.PerFrameFunctionalGroupsSequence[1]
    frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9


def nonsense_place(data) -> None:
    frame = data.PerFrameFunctionalGroupsSequence[1]
    frame.PlanePositionSequence[0].ImagePositionPatient = ["1e300", "0", "0"]


def fewer_groups(data) -> None:
    data.PerFrameFunctionalGroupsSequence = data.PerFrameFunctionalGroupsSequence[:-1]


@pytest.mark.parametrize(
    "changes",
    [
        {"NumberOfFrames": 1_000_000},
        {"Rows": 65535, "Columns": 65535},
        {"Rows": 0},
        {"BitsAllocated": 32, "SegmentationType": "LABELMAP", "NumberOfFrames": 1},
        {"NumberOfFrames": 0, "Columns": 0},
        {"x": without_positions},
        {"x": stranger},
        {"x": nonsense_place},
        {"x": fewer_groups},
        {"SegmentationType": "NONSENSE"},
        {"SegmentSequence": []},
        {"PixelData": b""},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"},
    ],
    ids=lambda c: getattr(next(iter(c.values())), "__name__", str(next(iter(c.values())))),
)
def test_damaged_headers_are_refused_and_claim_no_memory(changes, tmp_path):
    path = made(tmp_path, **changes)
    with pytest.raises(InputError, match=r"expected .*got .*; "):
        dicomseg.read_mask(path, image=None, entry=None, kind=None, job=Job())


def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path):
    path = made(tmp_path)
    whole = path.read_bytes()
    for share in range(1, 40):
        path.write_bytes(whole[: len(whole) * share // 40])
        try:
            found = dicomseg.read_mask(path, image=None, entry=None, kind=None, job=Job())
        except InputError:
            continue
        np.testing.assert_array_equal(found.data, ids())


def test_frames_of_two_far_places_claim_no_huge_grid(tmp_path):
    def far(data) -> None:
        frame = data.PerFrameFunctionalGroupsSequence[0]
        frame.PlanePositionSequence[0].ImagePositionPatient[2] = "9000000"

    with pytest.raises(GeometryError, match="evenly spaced"):
        load_mask(made(tmp_path, x=far))


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    import sys

    from maskloop.core.errors import MissingExtraError

    path = made(tmp_path)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(MissingExtraError, match=r"napari-maskloop\[dicom\]"):
        load_mask(path)
    with pytest.raises(MissingExtraError, match=r"napari-maskloop\[dicom\]"):
        export(drawn(write_series(tmp_path / "ct")), tmp_path / "b.seg.dcm")

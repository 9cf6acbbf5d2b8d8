"""Real series: each on the grid that independent programs give it, or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from maskloop.core.errors import FormatError, GeometryError
from maskloop.core.geometry import Geometry
from maskloop.core.job import Job
from maskloop.formats import dicom
from maskloop.formats.base import Choices
from maskloop.loop.load import load_mask
from tests.formats.dicom_slices import unzipped


def read(path, job=None, **choices):
    return dicom.read_image(path, choices=Choices(**choices), job=job or Job())


def at_world(image, reference, frame=None):
    """Return the reference's value at each voxel of ours, found by its place in the world."""
    nibabel = pytest.importorskip("nibabel")
    found = nibabel.load(reference)
    data = np.asanyarray(found.dataobj)
    data = data if frame is None else data[..., frame]
    index = np.moveaxis(np.indices(image.data.shape), 0, -1)
    there = image.geometry.to_world(index) @ np.linalg.inv(found.affine)[:3, :3].T
    there += np.linalg.inv(found.affine)[:3, 3]
    assert np.abs(there - np.rint(there)).max() < 1e-3
    assert data.size == image.data.size
    return data[tuple(np.moveaxis(np.rint(there).astype(int), -1, 0))]


@pytest.fixture(scope="module")
def cases(shared_data, tmp_path_factory):
    place = tmp_path_factory.mktemp("cases")
    return unzipped(shared_data / "dicom/dicom2nifti_cases/data.zip", place)


def test_a_real_ct_equals_simpleitk_and_holds_its_labels(shared_data, tmp_path):
    folder = unzipped(shared_data / "ct_liver/ircadb17/PATIENT_DICOM.zip", tmp_path)
    image = read(folder)
    first = min(
        (pydicom.dcmread(p, stop_before_pixels=True) for p in folder.rglob("image_*")),
        key=lambda d: d.ImagePositionPatient[2],
    )
    place = np.array(first.ImagePositionPatient, float) * (-1, -1, 1)
    np.testing.assert_allclose(image.geometry.to_world((0, 0, 0)), place)
    np.testing.assert_allclose(image.geometry.spacing[1:], np.array(first.PixelSpacing, float))
    load_mask(shared_data / "ct_liver/ircadb17/labels.nii.gz", image=image)
    sitk = pytest.importorskip("SimpleITK")
    reader = sitk.ImageSeriesReader()
    place = next(p.parent for p in folder.rglob("image_0"))
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(place)))
    peer = reader.Execute()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(peer), image.data)
    np.testing.assert_allclose(peer.GetSpacing()[::-1], image.geometry.spacing, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("notavolume", "4 pictures of one place"),
        ("sliceincrement/001", "1 missing, the first between .* 10 mm apart"),
        ("sliceincrement/002", "1 missing"),
    ],
)
def test_real_irregular_series_are_refused(cases, name, words):
    with pytest.raises(GeometryError, match=words):
        read(cases / "failing" / name)


def test_a_real_gap_is_filled_by_choice_and_real_slices_stay(cases):
    folder = cases / "failing/sliceincrement/001"
    image = read(folder, fill_gap=True)
    assert image.data.shape == (5, 512, 512)
    np.testing.assert_allclose(image.geometry.spacing[0], 5, atol=1e-5)
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        place = np.array(data.ImagePositionPatient, float) * (-1, -1, 1)
        z = int(np.rint(image.geometry.to_index(place)[0]))
        np.testing.assert_allclose(image.geometry.to_world((z, 0, 0)), place, atol=1e-4)
        np.testing.assert_array_equal(image.data[z], data.pixel_array.astype(int) - 1024)


def test_a_real_gantry_tilt_keeps_every_corner_in_place(cases):
    folder = cases / "failing/gantrytilting"
    job = Job()
    image = read(folder, job)
    assert any("tilted gantry" in note and "14.0" in note for note in job.notes)
    for path, z in zip(image.header.files, range(4), strict=True):
        place = np.array(pydicom.dcmread(path).ImagePositionPatient, float) * (-1, -1, 1)
        np.testing.assert_allclose(image.geometry.to_world((z, 0, 0)), place, atol=1e-3)


def test_two_slices_equal_their_reference(cases):
    job = Job()
    image = read(cases / "failing/slicecount/001", job)
    wanted = at_world(image, cases / "failing/slicecount/001_ground_truth.nii.gz")
    np.testing.assert_array_equal(image.data, wanted)
    assert any("two slices only" in note for note in job.notes)


def test_two_empty_files_beside_a_series_are_left_out(cases):
    found = dicom.inspect(cases / "failing/sliceorientation", job=Job())
    assert [entry["why"] for entry in found["left_out"]] == ["not DICOM"] * 2
    assert found["series"][0]["slices"] == 2


@pytest.mark.parametrize(
    "name",
    ["compressed", "compressed_j2k", "compressed_jpeg", "compressed_jpegls", "compressed_rle"],
)
def test_compressed_series_equal_their_reference(cases, name):
    for needed in {"compressed_jpeg": ["gdcm"], "compressed_jpegls": ["jpeg_ls"]}.get(
        name, ["openjpeg"]
    ):
        pytest.importorskip(needed)
    image = read(cases / "generic" / name / "001")
    wanted = at_world(image, cases / "generic" / name / "001_ground_truth.nii.gz")
    np.testing.assert_array_equal(image.data, wanted)


def test_uneven_steps_under_a_tilt_are_never_a_regular_grid(shared_data, tmp_path):
    folder = unzipped(shared_data / "dicom/ge_tilt_variable_spacing/GE.zip", tmp_path)
    with pytest.raises(GeometryError, match=r"equal steps.*4 mm \(13 times\), 7 mm \(13 times\)"):
        read(folder)
    with pytest.raises(GeometryError, match="equal steps"):
        read(folder, fill_gap=True)
    (row,) = dicom.inspect(folder, job=Job())["series"]
    assert row["tilt_degrees"] == pytest.approx(18.5, abs=0.1)
    job = Job()
    image = read(folder, job, resample=True)
    axes = image.geometry.affine[:3, :3]
    np.testing.assert_allclose(axes.T @ axes, np.diag(np.diag(axes.T @ axes)), atol=1e-6)
    assert any("28 slices with steps of 1.08 to 7.00 mm" in note for note in job.notes)
    # The first and the last slice lie in the grid's outer planes, shifted in themselves only.
    for z, file in ((0, image.header.files[0]), (-1, image.header.files[-1])):
        data = pydicom.dcmread(file)
        place = np.array(data.ImagePositionPatient, float) * (-1, -1, 1)
        corner = image.geometry.to_index(place)
        assert corner[0] == pytest.approx(0 if z == 0 else image.data.shape[0] - 1, abs=1e-6)
        stored = data.pixel_array.astype(float)[100:400, 100:400]
        rows = corner[1] + np.arange(100, 400)
        low = np.floor(rows).astype(int)
        part = (rows - low)[:, None]
        column = round(float(corner[2])) + 100
        plane = image.data[z][:, column : column + 300].astype(float)
        # Back where each stored row lies, two interpolations have smoothed it: on average equal.
        again = plane[low] * (1 - part) + plane[low + 1] * part
        assert np.corrcoef(again.ravel(), stored.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("number", range(1, 10))
def test_nine_encodings_give_the_reference(shared_data, tmp_path, number):
    if number in (5, 6):
        pytest.importorskip("gdcm")
    if number in (7, 8):
        pytest.importorskip("jpeg_ls")
    if number == 9:
        pytest.importorskip("openjpeg")
    unzipped(shared_data / "dicom/transfer_syntaxes/In.zip", tmp_path / "in")
    unzipped(shared_data / "dicom/transfer_syntaxes/Ref.zip", tmp_path / "ref")
    image = read(next((tmp_path / "in").rglob(f"{number}.dcm")))
    assert image.data.shape == (35, 64, 64)
    wanted = at_world(image, next((tmp_path / "ref").rglob(f"{number}.nii")))
    np.testing.assert_array_equal(image.data, wanted)
    assert image.header.is_derived


def test_the_nine_encodings_are_nine_rows(shared_data, tmp_path):
    folder = unzipped(shared_data / "dicom/transfer_syntaxes/In.zip", tmp_path)
    rows = dicom.inspect(folder, job=Job())["series"]
    assert [row["number"] for row in rows] == [str(n) for n in range(1, 10)]
    assert {row["what"] for row in rows} == {"mosaic of 35 slices"}


def test_a_sagittal_series_is_ordered_along_its_own_normal(shared_data, tmp_path):
    folder = unzipped(shared_data / "dicom/decubitus/HFDL.zip", tmp_path)
    image = read(folder)
    assert image.geometry.orientation == "RIP"
    assert image.data.shape == (35, 256, 256)
    np.testing.assert_allclose(image.geometry.spacing, (4.8, 1.015625, 1.015625), rtol=1e-5)
    for z, file in enumerate(image.header.files):
        data = pydicom.dcmread(file)
        place = np.array(data.ImagePositionPatient, float) * (-1, -1, 1)
        np.testing.assert_allclose(image.geometry.to_world((z, 0, 0)), place, atol=1e-3)
        np.testing.assert_array_equal(image.data[z], data.pixel_array)


def test_time_points_of_enhanced_files_equal_their_reference(shared_data, tmp_path):
    folder = unzipped(shared_data / "dicom/enhanced_multiframe/dcm_qa_enh.zip", tmp_path)
    place = next(folder.rglob("XA10"))
    reference = next(folder.rglob("Siemens_REST1*.nii"))
    with pytest.raises(FormatError, match="got 4 parts of one series"):
        read(place)
    for number in range(4):
        image = read(place, series=str(number + 1))
        np.testing.assert_array_equal(image.data, at_world(image, reference, number))
        assert image.title == f"MR series 6, time {number + 1}"


def test_the_two_kinds_of_image_in_a_field_map_equal_their_references(shared_data, tmp_path):
    folder = unzipped(shared_data / "dicom/enhanced_multiframe/dcm_qa_enh.zip", tmp_path)
    place = next(folder.rglob("Philips"))
    rows = dicom.inspect(place, job=Job())["series"]
    assert [row["told_apart_by"] for row in rows] == [["image type FIELD_MAP"], ["image type M"]]
    hertz = read(place, series="1")
    wanted = at_world(hertz, next(folder.rglob("*fieldmaphz.nii")))
    np.testing.assert_allclose(hertz.data, wanted, atol=0.01)
    strength = read(place, series="2")
    wanted = at_world(strength, next(folder.rglob("*NS_801_e1.nii")))
    # The reference is in the vendor's own units: the same picture times one factor.
    ratio = wanted[strength.data > 0] / strength.data[strength.data > 0]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


def test_emptied_uids_still_make_one_volume(shared_data, tmp_path):
    pytest.importorskip("openjpeg")
    folder = unzipped(shared_data / "ct_liver/totalseg_examples/example_ct_dicom.zip", tmp_path)
    image = read(folder)
    labels = shared_data / "ct_liver/totalseg_examples/example_seg_dicom.nii.gz"
    mask = load_mask(labels)
    ours = Geometry(image.geometry.shape, image.geometry.affine)
    axes, flips = ours.towards(mask.geometry.orientation)
    assert ours.transposed(axes, flips).matches(mask.geometry)


def test_two_series_of_a_study_are_listed(shared_data, tmp_path):
    folder = unzipped(shared_data / "ct_liver/hcc_tace_006/HCC_006.zip", tmp_path)
    with pytest.raises(FormatError, match=r"got 2 series.*1 slices.*109 slices"):
        read(folder)
    found = dicom.inspect(folder, job=Job())
    assert [row["what"] for row in found["series"]] == ["single axial slice", "axial volume"]
    assert {row["deidentified"] for row in found["series"]} == {"yes: stated"}
    image = read(folder, series="2")
    assert image.data.shape == (109, 512, 512)
    np.testing.assert_allclose(image.geometry.spacing, (2.5, 0.78125, 0.78125))


def test_unequal_pixel_spacing_on_oblique_slices(shared_data, tmp_path):
    folder = unzipped(shared_data / "mri/studyforrest_t1_dicom/dicoms.zip", tmp_path)
    image = read(folder)
    assert image.data.shape == (384, 384, 274)
    np.testing.assert_allclose(
        image.geometry.spacing, (0.666667, 0.666666686, 0.699987829), rtol=1e-5
    )
    for z in (0, 100, 383):
        data = pydicom.dcmread(image.header.files[z])
        right, down = np.array(data.ImageOrientationPatient, float).reshape(2, 3)
        y_mm, x_mm = map(float, data.PixelSpacing)
        point = np.array(data.ImagePositionPatient, float) + 50 * y_mm * down + 20 * x_mm * right
        there = image.geometry.to_world((z, 50, 20))
        np.testing.assert_allclose(there, point * (-1, -1, 1), atol=0.01)
        assert image.data[z, 50, 20] == data.pixel_array[50, 20]


def test_segmentation_objects_are_rows_and_no_images(shared_data, tmp_path):
    folder = unzipped(shared_data / "dicom/highdicom_seg/test_files.zip", tmp_path)
    found = dicom.inspect(folder, job=Job())
    assert found["kind"] == "dicom series"
    assert {row["what"] for row in found["series"]} == {"single axial slice", "segmentation"}
    files = list(Path(folder).rglob("seg_*.dcm"))
    assert len(files) == 12
    assert not any(map(dicom.sniff, files))

"""A DICOM series: sorted and spaced by position, refused where it is no regular stack."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from maskloop.core.errors import FormatError, GeometryError, MaskloopError
from maskloop.core.job import Job
from maskloop.desk.check import info
from maskloop.loop.load import load
from tests.formats.dicom_slices import COLUMNS, ROWS, series, write


def test_slices_are_sorted_and_spaced_by_position(tmp_path):
    image = load(series(tmp_path, [9.0, 0.0, 6.0, 3.0, 12.0], InstanceNumber=1))
    assert image.data[:, 0, 0].tolist() == [-1024, -994, -964, -934, -904]
    np.testing.assert_allclose(image.geometry.spacing, (3, 0.8, 0.7))
    np.testing.assert_allclose(image.geometry.to_world((0, 0, 0)), (10, 20, 0))
    np.testing.assert_allclose(image.geometry.to_world((2, 3, 4)), (10 - 4 * 0.7, 20 - 3 * 0.8, 6))
    assert image.geometry.orientation == "SPL"
    assert image.data.dtype == np.int16


@pytest.mark.parametrize(
    "orientation",
    [(0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1), (1, 0, 0, 0, -1, 0), (0.6, 0.8, 0, 0, 0, -1)],
)
def test_every_orientation_lies_where_the_tags_say(tmp_path, orientation):
    right, down = np.array(orientation, float).reshape(2, 3)
    normal = np.cross(right, down)
    for number in range(4):
        write(
            tmp_path / f"{3 - number}.dcm",
            np.array((5.0, 6, 7)) - number * 2.5 * normal,
            orientation=orientation,
        )
    geometry = load(tmp_path).geometry
    first = np.array((5.0, 6, 7)) - 3 * 2.5 * normal
    for z, y, x in ((0, 0, 0), (3, 5, 4), (1, 2, 3)):
        lps = first + z * 2.5 * normal + y * 0.8 * down + x * 0.7 * right
        np.testing.assert_allclose(geometry.to_world((z, y, x)), lps * (-1, -1, 1), atol=1e-6)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless]
)
def test_transfer_syntaxes_give_the_same_values(tmp_path, syntax):
    pixels = np.arange(-15, 15, dtype=np.int16).reshape(ROWS, COLUMNS)
    for number in range(3):
        write(tmp_path / str(number), (0, 0, number), pixels=pixels * (number + 1), syntax=syntax)
    image = load(tmp_path)
    np.testing.assert_array_equal(image.data, [pixels * n - 1024 for n in (1, 2, 3)])


@pytest.mark.parametrize(
    ("kind", "slope", "intercept", "dtype"),
    [
        (np.uint16, 1, -1024, np.int16),
        (np.int16, 1, 0, np.int16),
        (np.int16, 2, -1000, np.int16),
        (np.uint16, 1, 0, np.int32),
        (np.int16, 1, -30000, np.int32),
        (np.int16, 0.5, 0.25, np.float32),
        (np.uint8, 1, 0, np.uint8),
    ],
)
def test_rescaling_is_exact_in_the_narrowest_type(tmp_path, kind, slope, intercept, dtype):
    highest = np.iinfo(kind).max if (slope, intercept) in ((1, 0), (1, -30000)) else 3000
    pixels = np.linspace(
        0 if kind != np.int16 else -3000, min(highest, np.iinfo(kind).max), ROWS * COLUMNS
    ).astype(kind)
    pixels = pixels.reshape(ROWS, COLUMNS)
    for number in range(2):
        write(
            tmp_path / str(number), (0, 0, number), pixels=pixels, slope=slope, intercept=intercept
        )
    image = load(tmp_path)
    assert image.data.dtype == dtype
    np.testing.assert_allclose(image.data[0], pixels.astype(np.float64) * slope + intercept)


def test_each_slice_has_its_own_slope(tmp_path):
    pixels = np.full((ROWS, COLUMNS), 100, np.int16)
    for number in range(3):
        write(
            tmp_path / str(number),
            (0, 0, number),
            pixels=pixels,
            slope=number + 1,
            intercept=-number,
        )
    assert load(tmp_path).data[:, 0, 0].tolist() == [100, 199, 298]


def test_monochrome1_is_turned_and_told(tmp_path):
    pixels = np.arange(30, dtype=np.uint16).reshape(ROWS, COLUMNS)
    for number in range(2):
        write(
            tmp_path / str(number),
            (0, 0, number),
            pixels=pixels,
            photometric="MONOCHROME1",
            intercept=0,
            BitsStored=8,
        )
    job = Job()
    np.testing.assert_array_equal(load(tmp_path, job=job).data[0], 255 - pixels.astype(int))
    assert any("MONOCHROME1" in note for note in job.notes)


@pytest.mark.parametrize(
    ("heights", "words"),
    [
        ([0, 3, 9, 12], "1 missing, the first between .* 6 mm apart"),
        ([0, 3, 6, 10, 13], r"equal steps between slices, got 3 mm \(3 times\), 4 mm \(1 times\)"),
    ],
)
def test_irregular_stacks_are_refused_by_name(tmp_path, heights, words):
    with pytest.raises(GeometryError, match=words):
        load(series(tmp_path, heights))


def test_a_tilted_gantry_keeps_its_shear_and_says_so(tmp_path):
    for number in range(4):
        write(tmp_path / str(number), (0, number * 0.8, number * 3.0))
    job = Job()
    geometry = load(tmp_path, job=job).geometry
    np.testing.assert_allclose(geometry.to_world((3, 0, 0)), (0, -2.4, 9), atol=1e-9)
    assert any("14.9 degrees" in note for note in job.notes)


def test_several_series_are_listed_and_a_file_chooses(tmp_path):
    for number in range(3):
        write(tmp_path / f"a{number}", (0, 0, number))
        write(tmp_path / f"b{number}", (0, 0, 2 * number), series="9.9", number=7)
    with pytest.raises(
        FormatError, match=r"got 2 series: row 1: series 4 \(CT, 3 slices of 5x6.*series 7"
    ) as caught:
        load(tmp_path)
    assert "SECRET" not in str(caught.value)
    assert load(tmp_path / "b1").geometry.spacing[0] == 2


def test_mixed_orientations_in_one_series_are_refused(tmp_path):
    write(tmp_path / "a", (0, 0, 0))
    write(tmp_path / "b", (0, 0, 1))
    write(tmp_path / "c", (0, 0, 2), orientation=(0, 1, 0, 0, 0, -1))
    with pytest.raises(FormatError, match="got 2 parts of one series"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"NumberOfFrames": 3}, "several frames"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "mosaic"),
        ({"photometric": "PALETTE COLOR"}, "colours"),
        ({"PixelSpacing": None}, "pixel spacing"),
        ({"ImagePositionPatient": None}, "position and orientation"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "orthogonal"),
    ],
)
def test_what_is_no_plain_slice_is_refused(tmp_path, more, words):
    write(tmp_path / "a", (0, 0, 0), **more)
    write(tmp_path / "b", (0, 0, 1), **more)
    with pytest.raises(MaskloopError, match=words):
        load(tmp_path)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("is_undefined", [False, True])
def test_a_table_of_values_is_refused_by_name(tmp_path, syntax, is_undefined):
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [2, 0, 16], b"\x07\0\x09\0"
    for number in range(2):
        path = write(
            tmp_path / f"{number}", (0, 0, number), syntax=syntax, ModalityLUTSequence=[table]
        )
        data = pydicom.dcmread(path)
        data["ModalityLUTSequence"].is_undefined_length = is_undefined
        data.save_as(path)
    with pytest.raises(MaskloopError, match=r"got a table of values \(Modality LUT\)"):
        load(tmp_path)
    assert not info(tmp_path)["series"][0]["loads"]


def test_other_files_and_a_dicomdir_are_passed_over(tmp_path):
    series(tmp_path, [0, 1, 2])
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"rubbish")
    (tmp_path / "notes.txt").write_text("hello")
    assert load(tmp_path).data.shape == (3, ROWS, COLUMNS)


def test_a_folder_without_dicom_says_so(tmp_path):
    with pytest.raises(FormatError, match="got an empty folder"):
        load(tmp_path)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(FormatError, match="got 1 other files"):
        load(tmp_path)


def test_one_slice_takes_its_stated_depth_and_says_so(tmp_path):
    job = Job()
    assert load(write(tmp_path / "a.dcm", (0, 0, 0)), job=job).geometry.spacing[0] == 5
    assert any("one slice only" in note for note in job.notes)


def test_a_file_cut_short_says_so(tmp_path):
    series(tmp_path, [0, 1, 2])
    victim = tmp_path / "image_1"
    victim.write_bytes(victim.read_bytes()[:-20])
    with pytest.raises(FormatError, match=r"image_1"):
        load(tmp_path)


def test_undefined_length_sequences_are_passed_over(tmp_path):
    item = pydicom.Dataset()
    item.CodeValue = "x"
    sequence = pydicom.Sequence([item])
    sequence.is_undefined_length = True
    for number in range(2):
        write(
            tmp_path / str(number),
            (0, 0, number),
            AnatomicRegionSequence=sequence,
            pixels=np.full((ROWS, COLUMNS), 7, np.int16),
        )
    assert load(tmp_path).data.tolist() == np.full((2, ROWS, COLUMNS), 7 - 1024).tolist()


def test_different_slices_at_one_place_are_refused(tmp_path):
    for number, height in enumerate([0, 3, 3, 6]):
        write(tmp_path / str(number), (0, 0, height), pixels=np.full((ROWS, COLUMNS), number, "i2"))
    with pytest.raises(GeometryError, match="each slice at its own place, got 1 repeated"):
        load(tmp_path)


@pytest.mark.parametrize("seed", range(12))
def test_any_rotation_lies_where_the_tags_say(tmp_path, seed):
    from scipy.spatial.transform import Rotation

    axes = Rotation.random(rng=seed).as_matrix()
    right, down = axes[:, 0].round(6), axes[:, 1].round(6)
    normal = np.cross(right, down)
    order = np.random.default_rng(seed).permutation(5)
    for name, z in enumerate(order):
        place = np.array((30.0, -40, 50)) + 2.5 * z * normal
        pixels = np.full((ROWS, COLUMNS), z, np.int16)
        write(tmp_path / f"{name}", place.round(6), orientation=(*right, *down), pixels=pixels)
    image = load(tmp_path)
    for z, y, x in ((0, 0, 0), (4, ROWS - 1, COLUMNS - 1), (2, 3, 1)):
        lps = np.array((30.0, -40, 50)) + 2.5 * z * normal + y * 0.8 * down + x * 0.7 * right
        np.testing.assert_allclose(image.geometry.to_world((z, y, x)), lps * (-1, -1, 1), atol=1e-4)
        assert image.data[z, y, x] == z - 1024


def test_what_the_scan_cannot_walk_is_left_to_pydicom(tmp_path, monkeypatch):
    from maskloop.formats import dicom_scan

    # A sequence under the VR "UN" holds implicit elements, whatever the file's encoding.
    inner = b"\x08\0\0\x01\x06\0\0\0ABCDEF"
    item = b"\xfe\xff\0\xe0\xff\xff\xff\xff" + inner + b"\xfe\xff\x0d\xe0\0\0\0\0"
    odd = b"\x09\0\x01\x10UN\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    for number in range(2):
        path = write(tmp_path / str(number), (0, 0, number))
        held = path.read_bytes()
        at = held.index(b"\x10\0\x10\0PN")
        path.write_bytes(held[:at] + odd + held[at:])
    asked = []
    real = dicom_scan._by_pydicom
    monkeypatch.setattr(
        dicom_scan, "_by_pydicom", lambda path, size: asked.append(path) or real(path, size)
    )
    assert load(tmp_path).data.shape == (2, ROWS, COLUMNS)
    assert asked

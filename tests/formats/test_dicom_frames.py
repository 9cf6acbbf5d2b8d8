"""Enhanced multi-frame objects and mosaics: each frame where its functional groups place it."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom import Dataset, Sequence
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from maskloop.core.errors import FormatError, MaskloopError
from maskloop.core.job import Job
from maskloop.formats import dicom
from maskloop.formats.base import Choices
from tests.formats.dicom_slices import write

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
ROWS, COLUMNS = 4, 3


def item(**elements):
    found = Dataset()
    for name, value in elements.items():
        setattr(found, name, value)
    return found


def frame(height, *, slope=1.0, **more):
    groups = item(
        PlanePositionSequence=Sequence([item(ImagePositionPatient=[-10, -20, height])]),
        PixelValueTransformationSequence=Sequence(
            [item(RescaleSlope=slope, RescaleIntercept=0, RescaleType="US")]
        ),
    )
    for name, content in more.items():
        setattr(groups, name, Sequence([item(**content)]))
    return groups


def enhanced(path, frames, pixels, *, syntax=ExplicitVRLittleEndian):
    data = Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = ENHANCED_MR
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3.4"
    data.Modality, data.SeriesNumber, data.SeriesInstanceUID = "MR", 5, "1.2.3"
    data.Rows, data.Columns, data.SamplesPerPixel = ROWS, COLUMNS, 1
    data.PhotometricInterpretation, data.NumberOfFrames = "MONOCHROME2", len(frames)
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.SharedFunctionalGroupsSequence = Sequence(
        [
            item(
                PlaneOrientationSequence=Sequence(
                    [item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]
                ),
                PixelMeasuresSequence=Sequence([item(PixelSpacing=[0.8, 0.7], SliceThickness=2)]),
            )
        ]
    )
    data.PerFrameFunctionalGroupsSequence = Sequence(frames)
    data.PixelData = np.asarray(pixels, "<u2").tobytes()
    if syntax == RLELossless:
        data.compress(RLELossless, generate_instance_uid=False)
    data.save_as(path, enforce_file_format=True)
    return path


def stack(values):
    return np.array([np.full((ROWS, COLUMNS), v) for v in values])


def read(path, **choices):
    return dicom.read_image(path, choices=Choices(**choices), job=Job())


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_frames_are_sorted_by_their_own_places(tmp_path, syntax):
    heights = [6, 0, 9, 3]
    path = enhanced(tmp_path / "a", [frame(h) for h in heights], stack(heights), syntax=syntax)
    image = read(path)
    assert image.data[:, 0, 0].tolist() == [0, 3, 6, 9]
    np.testing.assert_allclose(image.geometry.spacing, (3, 0.8, 0.7))
    np.testing.assert_allclose(image.geometry.to_world((1, 0, 0)), (10, 20, 3))
    assert image.header.frames == (2, 4, 1, 3)
    assert image.title == "MR series 5"
    (row,) = dicom.inspect(tmp_path, job=Job())["series"]
    assert row["what"] == "enhanced MR, 4 frames"


def test_each_frame_has_its_own_slope(tmp_path):
    enhanced(tmp_path / "a", [frame(n, slope=n + 1) for n in range(3)], stack([10] * 3))
    assert read(tmp_path).data[:, 0, 0].tolist() == [10, 20, 30]


def test_echoes_in_one_file_are_rows(tmp_path):
    frames = [
        frame(n, MREchoSequence={"EffectiveEchoTime": time})
        for n in range(3)
        for time in (2.0, 4.0)
    ]
    enhanced(tmp_path / "a", frames, stack(range(6)))
    rows = dicom.inspect(tmp_path, job=Job())["series"]
    assert [row["told_apart_by"] for row in rows] == [["echo time 2 ms"], ["echo time 4 ms"]]
    with pytest.raises(FormatError, match="got 2 parts of one series"):
        read(tmp_path)
    assert read(tmp_path, series="2").data[:, 0, 0].tolist() == [1, 3, 5]


def test_an_unknown_dimension_still_tells_frames_apart(tmp_path):
    frames = [
        frame(n, FrameContentSequence={"DimensionIndexValues": [n + 1, part + 1]})
        for part in range(2)
        for n in range(3)
    ]
    enhanced(tmp_path / "a", frames, stack(range(6)))
    rows = dicom.inspect(tmp_path, job=Job())["series"]
    assert [row["told_apart_by"] for row in rows] == [["dimension 2: 1"], ["dimension 2: 2"]]


def test_a_gap_between_frames_is_refused_by_name(tmp_path):
    enhanced(tmp_path / "a", [frame(h) for h in (0, 1, 3, 4)], stack(range(4)))
    with pytest.raises(MaskloopError, match="1 missing"):
        read(tmp_path)
    assert read(tmp_path, fill_gap=True).data[:, 0, 0].tolist() == [0, 1, 2, 2, 3]


def test_frames_without_places_and_frames_cut_short_are_refused(tmp_path):
    path = enhanced(tmp_path / "a", [frame(h) for h in range(4)], stack(range(4)))
    data = pydicom.dcmread(path)
    del data.PerFrameFunctionalGroupsSequence[0]
    data.save_as(path, enforce_file_format=True)
    with pytest.raises(FormatError, match="places for 3 of 4"):
        read(tmp_path)
    path = enhanced(tmp_path / "a", [frame(h) for h in range(4)], stack(range(3)))
    with pytest.raises(FormatError, match="cut short"):
        read(tmp_path)


def test_a_mosaic_without_its_private_header_is_refused(tmp_path):
    write(tmp_path / "a", (0, 0, 0), ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])
    with pytest.raises(FormatError, match=r"mosaic without the private \(CSA\) header"):
        read(tmp_path)
    (row,) = dicom.inspect(tmp_path, job=Job())["series"]
    assert not row["loads"]


def test_a_compressed_file_of_frames_is_opened_once(tmp_path, monkeypatch):
    enhanced(tmp_path / "a", [frame(h) for h in range(5)], stack(range(5)), syntax=RLELossless)
    asked = []
    real = pydicom.dcmread
    monkeypatch.setattr(
        pydicom, "dcmread", lambda *args, **more: asked.append(more) or real(*args, **more)
    )
    assert read(tmp_path).data[:, 0, 0].tolist() == list(range(5))
    assert len([more for more in asked if "stop_before_pixels" not in more]) == 1

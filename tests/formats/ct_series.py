"""Small CT series for tests: one file a slice, in any orientation, with or without a person."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.formats.dicom_head import DicomHeader

CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY, SERIES, FRAME = "2.25.101", "2.25.102", "2.25.103"
SHAPE, SPACING = (6, 21, 31), (2.5, 0.7, 0.8)
# Row direction, column direction.
ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "upside down": (1, 0, 0, 0, -1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": (0.6, 0.64, -0.48, -0.8, 0.48, -0.36),
}


def geometry_of(cosines, *, shift=(0.0, 0.0, 0.0)) -> Geometry:
    """Return the grid of a series: slices ascending along the normal, `shift` mm aside each."""
    right, down = np.array(cosines, float).reshape(2, 3)
    step = np.cross(right, down) * SPACING[0] + shift
    lps = np.eye(4)
    lps[:3, :3] = np.column_stack([step, down * SPACING[1], right * SPACING[2]])
    lps[:3, 3] = (-31.5, 12.25, 240.125)
    return Geometry(SHAPE, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps, "mm")


def write_series(
    folder: Path, cosines=ORIENTATIONS["axial"], *, shift=(0.0, 0.0, 0.0), **more
) -> Image:
    """Write a series and return it as an image that knows its files."""
    folder.mkdir(parents=True, exist_ok=True)
    geometry = geometry_of(cosines, shift=shift)
    files = []
    for at in range(SHAPE[0]):
        place = geometry.to_world((at, 0, 0)) * (-1, -1, 1)
        # Names tell nothing of the order.
        files.append(folder / f"{(at * 7) % 11:02d}.dcm")
        _write(files[-1], at, place, cosines, more)
    header = DicomHeader(
        files=tuple(files),
        sop_class=CT,
        sop_instances=tuple(f"2.25.{200 + at}" for at in range(SHAPE[0])),
        study=STUDY,
        series=SERIES,
        frame_of_reference=FRAME,
        modality="CT",
        number="4",
        transfer_syntax=ExplicitVRLittleEndian,
    )
    return Image(np.zeros(SHAPE, np.int16), geometry, folder, header, title="CT series 4")


def _write(path: Path, at: int, place, cosines, more) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CT, f"2.25.{200 + at}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = pydicom.Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = CT, f"2.25.{200 + at}"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = STUDY, SERIES, FRAME
    data.PatientName, data.PatientID = "", ""
    data.Modality, data.SeriesNumber, data.InstanceNumber = "CT", 4, 9
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.ImagePositionPatient = [f"{n:.10g}" for n in place]
    data.ImageOrientationPatient = [f"{n:.10g}" for n in cosines]
    data.PixelSpacing, data.SliceThickness = list(SPACING[1:]), 5.0
    data.Rows, data.Columns, data.SamplesPerPixel = *SHAPE[1:], 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    for keyword, value in more.items():
        setattr(data, keyword, value)
    data.PixelData = np.full(SHAPE[1:], at, np.int16).tobytes()
    data.save_as(path, enforce_file_format=True)

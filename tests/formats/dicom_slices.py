"""DICOM slices written for tests, and zipped real ones unpacked."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ROWS, COLUMNS = 6, 5


def write(
    path: Path,
    position,
    *,
    series="1.2.3",
    pixels=None,
    orientation=AXIAL,
    slope=1,
    intercept=-1024,
    syntax=ExplicitVRLittleEndian,
    photometric="MONOCHROME2",
    number=4,
    **more,
) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    meta.TransferSyntaxUID = syntax
    data = pydicom.Dataset()
    data.file_meta = meta
    data.PatientName, data.PatientID = "SECRET^PERSON", "4711"
    data.Modality, data.SeriesNumber, data.SeriesInstanceUID = "CT", number, series
    data.ImagePositionPatient, data.ImageOrientationPatient = list(position), list(orientation)
    data.PixelSpacing, data.SliceThickness = [0.8, 0.7], 5.0
    data.Rows, data.Columns, data.SamplesPerPixel = ROWS, COLUMNS, 1
    data.PhotometricInterpretation = photometric
    pixels = np.zeros((ROWS, COLUMNS), np.int16) if pixels is None else pixels
    data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(pixels.dtype.kind == "i")
    data.RescaleSlope, data.RescaleIntercept = slope, intercept
    for key, value in more.items():
        setattr(data, key, value)
    data.PixelData = pixels.astype(
        pixels.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")
    ).tobytes()
    if syntax == RLELossless:
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.compress(RLELossless, generate_instance_uid=False)
    data.save_as(path, enforce_file_format=True)
    return path


def series(folder: Path, heights, **more) -> Path:
    """Write slices whose pixels hold their own height, under shuffled names without suffix."""
    names = np.random.default_rng(2).permutation(len(heights))
    for name, height in zip(names, heights, strict=True):
        write(
            folder / f"image_{name}",
            (-10.0, -20.0, height),
            pixels=np.full((ROWS, COLUMNS), int(height * 10), np.int16),
            **more,
        )
    return folder


def unzipped(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as found:
        found.extractall(folder)
    return folder

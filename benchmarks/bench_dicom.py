"""DICOM: loading a series, its peak memory, the intake of a folder, against what people use."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from timing import table

from maskloop.core.job import Job
from maskloop.formats import dicom
from maskloop.formats.base import Choices

SLICES = 300
FILES = 2000
# VmHWM, not ru_maxrss: that one is inherited from the process that started this one.
_PEAK = """
import sys
from pathlib import Path
from maskloop.core.job import Job
from maskloop.formats import dicom
from maskloop.formats.base import Choices

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024

folder, small = map(Path, sys.argv[1:])
dicom.read_image(small, choices=Choices(), job=Job())
before = peak()
data = dicom.read_image(folder, choices=Choices(), job=Job()).data
print((peak() - before) / data.nbytes)
"""


def series(folder: Path, slices: int, side: int) -> Path:
    """Write slices of one series with as many further elements as scanners write."""
    import pydicom
    from pydicom.dataset import FileMetaDataset

    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(slices):
        data = pydicom.Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        data.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number + 1}"
        data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.3.{number + 1}"
        data.Modality, data.SeriesInstanceUID, data.StudyInstanceUID = "CT", "1.2.9", "1.2.8"
        data.SeriesNumber, data.InstanceNumber = 2, number + 1
        data.ImagePositionPatient = [-180.0, -180.0, 2.5 * number]
        data.ImageOrientationPatient, data.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.7, 0.7]
        data.Rows = data.Columns = side
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        for block in range(60):
            data.add_new((0x0019, 0x1000 + block), "LO", f"value {block}")
        data.PixelData = random.integers(0, 2000, (side, side)).astype(np.int16).tobytes()
        data.save_as(folder / f"IM{number:04d}", enforce_file_format=True)
    return folder


def bench_series(folder: Path) -> None:
    """Load a series as an array of Hounsfield units."""
    import pydicom
    import SimpleITK as sitk

    place, small = series(folder / "series", SLICES, 512), series(folder / "small", 2, 64)
    files = sorted(place.iterdir())

    def usual() -> np.ndarray:
        found = [pydicom.dcmread(file) for file in files]
        found.sort(key=lambda d: d.ImagePositionPatient[2])
        return np.stack([d.pixel_array * d.RescaleSlope + d.RescaleIntercept for d in found])

    def peer() -> object:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(place)))
        return sitk.GetArrayViewFromImage(reader.Execute())

    table(
        f"uncompressed DICOM series, {SLICES} slices of 512x512",
        {
            "maskloop load": lambda: dicom.read_image(place, choices=Choices(), job=Job()),
            "pydicom, the usual loop": usual,
            "SimpleITK series": peer,
            "floor: read all bytes": lambda: [file.read_bytes() for file in files],
        },
        "pydicom, the usual loop",
        "<= 0.15 of the usual loop, <= 0.6 of SimpleITK",
    )
    call = [sys.executable, "-c", _PEAK, str(place), str(small)]
    peak = float(subprocess.run(call, check=True, capture_output=True, text=True).stdout)
    print(f"\nPeak memory above the process's own: {peak:.2f} times the array (target <= 1.3)")


def bench_intake(folder: Path) -> None:
    """Say what a folder holds."""
    import pydicom

    place = series(folder / "many", FILES, 64)
    files = sorted(place.iterdir())
    table(
        f"intake of a folder with {FILES} files",
        {
            "maskloop info": lambda: dicom.inspect(place, job=Job()),
            "pydicom, headers alone": lambda: [
                pydicom.dcmread(file, stop_before_pixels=True) for file in files
            ],
        },
        "pydicom, headers alone",
        "<= 0.5 of pydicom reading the headers",
    )


def main() -> None:
    """Run both."""
    warnings.simplefilter("ignore")
    print("## DICOM\n\nMedian of 5 rounds in turn, after one to warm up.")
    with tempfile.TemporaryDirectory() as name:
        for bench in (bench_series, bench_intake):
            place = Path(name) / bench.__name__
            place.mkdir()
            bench(place)


if __name__ == "__main__":
    main()

"""Opening and writing: NIfTI, DICOM series and COCO against the programs people use today."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from maskloop.core.geometry import Geometry
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.formats import coco, dicom, nifti
from maskloop.formats.base import Choices, Target
from maskloop.loop.export import export
from maskloop.loop.load import load, load_mask
from maskloop.ops import outlines, phantom

ROUNDS = 5
SLICES = 300
SAMPLED = "(100 timed, x5)"
Work = Callable[[], object]


def measured(contenders: dict[str, Work], rounds: int = ROUNDS) -> dict[str, tuple[float, float]]:
    """Return median wall and CPU seconds of each, run in turn; the first round only warms up."""
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    processor: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, work in contenders.items():
            began, used = time.perf_counter(), time.process_time()
            work()
            if number:
                wall[name].append(time.perf_counter() - began)
                processor[name].append(time.process_time() - used)
    return {n: (statistics.median(wall[n]), statistics.median(processor[n])) for n in contenders}


def table(title: str, contenders: dict[str, Work], base: str, target: str) -> None:
    found = measured(contenders)
    for name in found:
        if name.endswith(SAMPLED):
            found[name] = (5 * found[name][0], 5 * found[name][1])
    print(f"\n### {title}\n\nTarget: {target}\n")
    print(f"| what | wall s | CPU s | CPU ratio to {base} |\n|---|---|---|---|")
    for name, (wall, processor) in found.items():
        print(f"| {name} | {wall:.4f} | {processor:.4f} | {processor / found[base][1]:.4f} |")


def volumes(folder: Path) -> tuple[Path, Mask]:
    """Write a CT of 512x512x300 and return it with a mask of its liver and lesions."""
    import nibabel

    small, mask = phantom.phantom_ct(0)
    times = [-(-n // m) for n, m in zip((SLICES, 512, 512), small.data.shape, strict=True)]
    box = tuple(slice(n) for n in (SLICES, 512, 512))
    values = np.kron(small.data, np.ones(times, small.data.dtype))[box]
    noise = np.random.default_rng(0).normal(0, 12, values.shape).astype(np.int16)
    ids = np.kron(mask.data, np.ones(times, mask.data.dtype))[box]
    grid = Geometry.regular(values.shape, (1.5, 0.8, 0.8))
    path = folder / "ct.nii.gz"
    nibabel.save(
        nibabel.Nifti1Image((values.astype(np.int16) + noise).T, grid.affine[:, [2, 1, 0, 3]]), path
    )
    return path, Mask(np.ascontiguousarray(ids), grid, mask.labels)


def bench_nifti(folder: Path) -> None:
    import nibabel
    import SimpleITK as sitk

    path, mask = volumes(folder)
    labels = folder / "labels.nii.gz"
    stored = nibabel.Nifti1Image(mask.data.T, mask.geometry.affine[:, [2, 1, 0, 3]])
    nibabel.save(stored, labels)
    table(
        f"5a read CT 512x512x{SLICES} .nii.gz",
        {
            "maskloop load": lambda: load(path),
            "nibabel asarray(dataobj)": lambda: np.asarray(nibabel.load(path).dataobj),
            "SimpleITK": lambda: sitk.GetArrayViewFromImage(sitk.ReadImage(str(path))),
        },
        "nibabel asarray(dataobj)",
        "<= 0.40 nibabel, <= 0.55 SimpleITK",
    )
    table(
        f"5a read labels 512x512x{SLICES} .nii.gz",
        {
            "maskloop load": lambda: load(labels),
            "maskloop load_mask (ids, table)": lambda: load_mask(labels),
            "nibabel asarray(dataobj)": lambda: np.asarray(nibabel.load(labels).dataobj),
            "SimpleITK": lambda: sitk.GetArrayViewFromImage(sitk.ReadImage(str(labels))),
        },
        "nibabel asarray(dataobj)",
        "<= 0.30 nibabel",
    )
    image = sitk.GetImageFromArray(mask.data)
    ours, verified = folder / "ours.nii.gz", folder / "verified.nii.gz"

    def write() -> None:
        nifti.write_mask(mask, Target(ours, ".nii.gz", ours))

    table(
        f"5b write labels 512x512x{SLICES} .nii.gz",
        {
            "maskloop write alone": write,
            "maskloop export (written, read back, compared)": lambda: export(mask, verified),
            "nibabel save": lambda: nibabel.save(stored, folder / "n.nii.gz"),
            "SimpleITK": lambda: sitk.WriteImage(image, str(folder / "s.nii.gz"), True),
        },
        "nibabel save",
        "write alone <= 0.11 nibabel, file no bigger",
    )
    files = {"maskloop": ours, "nibabel": folder / "n.nii.gz", "SimpleITK": folder / "s.nii.gz"}
    sizes = [f"{name} {file.stat().st_size // 1024}" for name, file in files.items()]
    print(f"\nKiB: {', '.join(sizes)}")


def series(folder: Path, slices: int = 100) -> Path:
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
        data.Rows = data.Columns = 512
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        for block in range(60):  # as many further elements as scanners write
            data.add_new((0x0019, 0x1000 + block), "LO", f"value {block}")
        data.PixelData = random.integers(0, 2000, (512, 512)).astype(np.int16).tobytes()
        data.save_as(folder / f"IM{number:04d}", enforce_file_format=True)
    return folder


def bench_dicom(folder: Path) -> None:
    import pydicom
    import SimpleITK as sitk

    place = series(folder / "series")
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
        "5c uncompressed DICOM series, 100 slices of 512x512",
        {
            "maskloop load": lambda: dicom.read_image(place, choices=Choices(), job=Job()),
            "pydicom, the usual loop": usual,
            "SimpleITK series": peer,
            "floor: read all bytes": lambda: [file.read_bytes() for file in files],
        },
        "pydicom, the usual loop",
        "<= 1/35 (0.029) of the usual loop, <= 1/6 SimpleITK, <= 1.4 times the bytes",
    )


def instances(count: int = 500, side: int = 2048) -> Mask:
    random = np.random.default_rng(0)
    ids = np.zeros((side, side), np.uint16)
    y, x = np.mgrid[-40:41, -40:41]
    cells = [(r, c) for r in range(45, side - 45, 86) for c in range(45, side - 45, 86)]
    for number, at in enumerate(random.permutation(len(cells))[:count], start=1):
        row, column = cells[at]
        a, b = random.uniform(12, 40, 2)
        ids[row - 40 : row + 41, column - 40 : column + 41][(y / a) ** 2 + (x / b) ** 2 < 1] = (
            number
        )
    return Mask(ids, Geometry.pixels(ids.shape), LabelTable.objects(range(1, count + 1), "cell"))


def bench_coco(folder: Path) -> None:
    from pycocotools import mask as peer

    mask = instances()
    ids, numbers = mask.data, mask.ids()

    def usual(wanted: list[int]) -> list[dict[str, Any]]:
        found = []
        for number in wanted:
            run = peer.encode(np.asfortranarray(ids == number).astype(np.uint8))
            area, box = int(peer.area(run)), peer.toBbox(run).tolist()
            run["counts"] = run["counts"].decode()
            found.append({"id": number, "segmentation": run, "area": area, "bbox": box})
        return found

    def usual_file() -> None:
        with (folder / "usual.json").open("w") as stream:
            json.dump({"annotations": usual(numbers[::5])}, stream)

    theirs = [a["segmentation"]["counts"] for a in usual(numbers)]
    ours = [outline.counts for outline in outlines.encode(ids)]
    print(f"\nRun lengths equal pycocotools' byte for byte: {ours == theirs}")
    table(
        f"4a {len(numbers)} run lengths, areas and boxes of one 2048x2048 label picture",
        {
            "maskloop outlines.encode": lambda: outlines.encode(ids),
            f"pycocotools, the usual loop {SAMPLED}": lambda: usual(numbers[::5]),
            "floor: transpose the picture": lambda: np.ascontiguousarray(ids.T),
        },
        f"pycocotools, the usual loop {SAMPLED}",
        ">= 500 times faster (<= 0.002)",
    )
    plain = folder / "plain.json"

    def write() -> None:
        coco.write_mask(mask, Target(plain, ".json", plain))

    table(
        "4c the whole COCO file of that picture",
        {
            "maskloop write alone": write,
            "maskloop export (written, read back, compared)": lambda: export(
                mask, folder / "m.json"
            ),
            f"pycocotools loop and json.dump {SAMPLED}": usual_file,
        },
        f"pycocotools loop and json.dump {SAMPLED}",
        "write alone >= 450 times faster (<= 0.0022)",
    )


def main() -> None:
    warnings.simplefilter("ignore")
    print("## Formats\n\nMedian of 5 rounds in turn, after one to warm up.")
    with tempfile.TemporaryDirectory() as name:
        for bench in (bench_nifti, bench_dicom, bench_coco):
            place = Path(name) / bench.__name__
            place.mkdir()
            bench(place)


if __name__ == "__main__":
    main()

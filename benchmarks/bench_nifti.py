"""NIfTI: opening and writing a CT and its labels, against nibabel and SimpleITK."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
from timing import table

from maskloop.core.geometry import Geometry
from maskloop.core.mask import Mask
from maskloop.formats import nifti
from maskloop.formats.base import Target
from maskloop.loop.export import export
from maskloop.loop.load import load, load_mask
from maskloop.ops import phantom

SLICES = 300


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
            "floor: read the packed bytes": lambda: path.read_bytes(),
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

    table(
        f"5b write labels 512x512x{SLICES} .nii.gz",
        {
            "maskloop write alone": lambda: nifti.write_mask(mask, Target(ours, ".nii.gz", ours)),
            "maskloop export (written, read back, compared)": lambda: export(mask, verified),
            "nibabel save": lambda: nibabel.save(stored, folder / "n.nii.gz"),
            "SimpleITK": lambda: sitk.WriteImage(image, str(folder / "s.nii.gz"), True),
        },
        "nibabel save",
        "write alone <= 0.11 nibabel, export <= 0.8, file no bigger",
    )
    files = {"maskloop": ours, "nibabel": folder / "n.nii.gz", "SimpleITK": folder / "s.nii.gz"}
    sizes = [f"{name} {file.stat().st_size // 1024}" for name, file in files.items()]
    print(f"\nKiB: {', '.join(sizes)}")


def main() -> None:
    warnings.simplefilter("ignore")
    print("## NIfTI\n\nMedian of 5 rounds in turn, after one to warm up.")
    with tempfile.TemporaryDirectory() as name:
        bench_nifti(Path(name))


if __name__ == "__main__":
    main()

"""Write docs/reference/geometry.md: what is proved of each format's geometry, measured by running.

python scripts/prove_geometry.py
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel
import numpy as np
import SimpleITK as sitk

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from maskloop.core.errors import MaskloopError  # noqa: E402
from maskloop.core.job import Job  # noqa: E402
from maskloop.core.mask import Mask  # noqa: E402
from maskloop.loop.export import export  # noqa: E402
from maskloop.loop.load import load, load_mask  # noqa: E402
from tests.contracts.test_orientations import (  # noqa: E402
    CLASSES,
    SUFFIXES,
    by_nibabel,
    prove,
    turned,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = ROOT / "docs" / "reference" / "geometry.md"
AFFINE = np.array([[0.7, 0, 0, -12], [0, 0.8, 0, 30], [0, 0, 3, 41], [0, 0, 0, 1.0]])
PACKAGES = ("nibabel", "SimpleITK", "pynrrd", "pydicom", "highdicom")


def orders() -> Iterator[str]:
    """Yield a row for each format and class: the 48 axis orders in three types."""
    for suffix in SUFFIXES:
        for case in CLASSES:
            with tempfile.TemporaryDirectory() as folder:
                found = prove(Path(folder), suffix, case)
            wrong = "none" if not found.failures else f"{len(found.failures)}"
            peers = ", ".join(found.readers)
            yield (
                f"| `{suffix}` | {case} | {found.cases} | {found.files_read} by {peers} | {wrong} "
                f"| {found.worst_mm:.1e} | {found.worst_affine:.1e} |"
            )


def segmentations() -> Iterator[str]:
    """Yield a row for each orientation of DICOM SEG, read back by highdicom."""
    from tests.formats import test_dicomseg
    from tests.formats.ct_series import ORIENTATIONS, write_series

    for name, cosines in ORIENTATIONS.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            mask = test_dicomseg.drawn(write_series(folder / "ct", cosines))
            export(mask, folder / "mask.seg.dcm")
            seen = test_dicomseg.seen_by_highdicom(folder / "mask.seg.dcm")
            meant = test_dicomseg.points(mask.data, mask.geometry)
            again = load_mask(folder / "mask.seg.dcm")
            is_same = np.array_equal(again.data, mask.data)
            worst, count = 0.0, 0
            for label, places in meant.items():
                ordered = [p[np.lexsort(np.round(p, 2).T)] for p in (seen[label], places)]
                worst = max(worst, float(np.linalg.norm(ordered[0] - ordered[1], axis=1).max()))
                count += len(places)
            affine = float(np.abs(again.geometry.affine - mask.geometry.affine).max())
        same = "none" if is_same else "ids differ"
        yield (
            f"| `.seg.dcm` | {name} | 1 | {count} voxels by highdicom | {same} | {worst:.1e} "
            f"| {affine:.1e} |"
        )


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE, **more: int) -> None:
    image = nibabel.Nifti1Image(values, affine, dtype=values.dtype)
    if "sform" in more:
        image.set_sform(affine, code=more["sform"])
        image.set_qform(affine if more["qform"] else None, code=more["qform"])
    nibabel.save(image, path)


def there_and_back(path: Path) -> str:
    """Load a NIfTI, put a mask on it, export and read it with nibabel; say how far it moved."""
    job = Job()
    image = load(path, job=job)
    still = image.frame(0).channel(0)
    ids = np.zeros(still.geometry.shape, np.uint8)
    ids[0, 1, 2], ids[-1, -1, -1] = 1, 2
    out = path.with_name("mask.nii.gz")
    export(Mask.like(still, ids, ["a", "b"]), out)
    stored, grid = by_nibabel(out)
    source = nibabel.load(path).affine
    index = np.argwhere(ids)[:, ::-1]
    gap = np.linalg.norm(index @ (grid - source)[:3, :3].T + (grid - source)[:3, 3], axis=1).max()
    same = "same labels" if np.array_equal(stored, ids) else "OTHER LABELS"
    axes = "x".join(map(str, image.data.shape))
    told = f"; told: {job.notes[0].partition(' ')[2]}" if job.notes else ""
    return f"read as {axes} {image.data.dtype}; {same}, {gap:.1e} mm off{told}"


def labels_of(path: Path) -> str:
    """Say what a label file gives."""
    job = Job()
    mask = load_mask(path, job=job)
    told = f"; told: {job.notes[0].partition(' ')[2]}" if job.notes else ""
    return f"ids {mask.ids()} as {mask.data.dtype}{told}"


def odd(folder: Path) -> Iterator[str]:
    """Yield a row for each odd case, with what came of it."""
    path = folder / "a.nii"
    ids = np.arange(60).reshape(3, 4, 5) % 3 * 150
    numbers = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    skewed = AFFINE.copy()
    skewed[1, 2] = 0.8
    far = AFFINE.copy()
    far[:3, :3] = turned(30) @ AFFINE[:3, :3]

    def scaled(slope: float, inter: float) -> None:
        save(path, numbers)
        raw = bytearray(path.read_bytes())
        raw[112:120] = np.array((slope, inter), "<f4").tobytes()
        path.write_bytes(raw)

    def disagreeing() -> None:
        image = nibabel.Nifti1Image(numbers, None)
        image.set_sform(AFFINE, code=1)
        image.set_qform(far, code=1)
        nibabel.save(image, path)

    def tilted() -> None:
        save(path, numbers, skewed, sform=1, qform=0)

    colour = np.zeros((3, 4, 5), [(c, "u1") for c in "RGB"])
    cases: list[tuple[str, Callable[[], None], Callable[[Path], str]]] = [
        ("4-D", lambda: save(path, np.stack([numbers] * 6, -1)), there_and_back),
        ("vectors (5-D)", lambda: save(path, np.zeros((3, 4, 5, 1, 2), "f4")), there_and_back),
        ("RGB", lambda: save(path, colour), there_and_back),
        ("labels stored as float64", lambda: save(path, ids.astype("f8")), labels_of),
        ("labels stored as int64", lambda: save(path, ids.astype("i8")), labels_of),
        ("labels with 0.5 among them", lambda: save(path, ids + 0.5), labels_of),
        ("slope 0.0039, intercept -1024.5", lambda: scaled(0.0039, -1024.5), there_and_back),
        ("slope 2, intercept -1024", lambda: scaled(2, -1024), there_and_back),
        ("slope NaN", lambda: scaled(float("nan"), 0), there_and_back),
        ("sform 4, qform 0", lambda: save(path, numbers, sform=4, qform=0), there_and_back),
        ("sform 0, qform 1", lambda: save(path, numbers, sform=0, qform=1), there_and_back),
        ("sform 0, qform 0", lambda: save(path, numbers, sform=0, qform=0), there_and_back),
        ("sform and qform differ", disagreeing, there_and_back),
        ("not at right angles", tilted, there_and_back),
    ]
    for name, make, look in cases:
        make()
        try:
            yield f"| {name} | {look(path)} |"
        except MaskloopError as error:
            yield f"| {name} | refused: {error} |"
    save(path, numbers)
    save(folder / "moved.nii", numbers.astype(np.uint8), AFFINE + np.diag((0.0, 0, 0.2, 0)))
    try:
        load_mask(folder / "moved.nii", image=load(path))
    except MaskloopError as error:
        yield f"| label grid is not the image's | refused: {error} |"
    sheared = folder / "sheared.nii"
    save(sheared, numbers, skewed, sform=1, qform=0)
    try:
        sitk.ReadImage(str(sheared))
    except RuntimeError as error:
        said = str(error).strip().splitlines()[-1].strip()
        yield f"| not at right angles, read by SimpleITK | {said} |"


def main() -> None:
    """Run all cases and write the page."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        text = [
            "# Geometry: what is proved",
            "",
            "Written by `python scripts/prove_geometry.py`, which runs every case anew; nothing is",
            f"typed in. The peers that read back: {versions}.",
            "",
            "## Every axis order",
            "",
            "A volume of 5x6x7 voxels of 3.0x0.8x0.7 mm is written by a peer in each of the 48",
            "axis orders as int16, uint8 and float32, loaded, labelled at six voxels, exported and",
            "read back by peers. *Wrong*: files with other values, labels, shape or storage order.",
            "*mm*: worst distance of a labelled voxel from its place. *Affine*: worst difference",
            "of an element. Sheared is a gantry tilt of 15 degrees; SimpleITK refuses it as NIfTI.",
            "Segmentations are drawn on a synthetic CT series and read back by highdicom.",
            "",
            "| format | class | cases | read back | wrong | mm | affine |",
            "|---|---|---|---|---|---|---|",
            *orders(),
            *segmentations(),
            "",
            "## Odd NIfTI files",
            "",
            "A mask is drawn on each image, exported, and read back by nibabel.",
            "",
            "| case | what came of it |",
            "|---|---|",
            *odd(Path(folder)),
            "",
        ]
    PAGE.write_text("\n".join(text))
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

"""Every axis order, straight, oblique and sheared, keeps each labelled voxel in its place."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk

from maskloop.core.mask import Mask
from maskloop.loop.export import export
from maskloop.loop.load import load

SHAPE = (7, 6, 5)  # i, j, k as stored
STEPS = (0.7, 0.8, 3.0)
ORIGIN = (-120.5, 33.25, 410.75)
DTYPES = ("int16", "uint8", "float32")
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")
LABELLED = {(0, 0, 0): 1, (4, 5, 6): 2, (1, 2, 3): 3, (3, 0, 5): 1, (2, 4, 1): 2, (0, 5, 2): 3}
LPS = np.diag((-1.0, -1.0, 1.0, 1.0))

Read = Callable[[Path], tuple[np.ndarray, np.ndarray]]


def axis_orders() -> Iterator[np.ndarray]:
    """Yield the 48 signed permutations, one column a stored axis."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            axes = np.zeros((3, 3))
            axes[list(order), range(3)] = signs
            yield axes


def turned(degrees: float) -> np.ndarray:
    """Return a turn about an axis that is none of x, y, z and no diagonal."""
    x, y, z = np.array((0.3, -0.5, 0.81)) / np.linalg.norm((0.3, -0.5, 0.81))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def sheared() -> np.ndarray:
    """Return the shear of a gantry tilted by 15 degrees, a little turned."""
    skew = np.eye(3)
    skew[1, 2] = np.tan(np.deg2rad(15))
    skew[0, 1] = 0.1
    return turned(5) @ skew


CLASSES: dict[str, np.ndarray] = {
    "aligned": np.eye(3),
    "12 degrees oblique": turned(12),
    "50 degrees oblique": turned(50),
    "sheared": sheared(),
}


def affine_of(axes: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Return stored index -> RAS+ mm, in numbers that float32 holds, as NIfTI must store them."""
    affine = np.eye(4)
    affine[:3, :3] = turn @ axes @ np.diag(STEPS)
    affine[:3, 3] = ORIGIN
    return affine.astype(np.float32).astype(np.float64)


def write_nifti(path: Path, values: np.ndarray, affine: np.ndarray, is_sheared: bool) -> None:
    image = nibabel.Nifti1Image(values.T, affine)
    image.set_sform(affine, code=1)
    image.set_qform(None if is_sheared else affine, code=0 if is_sheared else 1)
    nibabel.save(image, path)


def write_itk(path: Path, values: np.ndarray, affine: np.ndarray) -> None:
    lps = LPS @ affine
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(steps.tolist())
    image.SetDirection((lps[:3, :3] / steps).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path))


def write_nrrd(path: Path, values: np.ndarray, affine: np.ndarray, is_sheared: bool) -> None:
    if not is_sheared:
        write_itk(path, values, affine)
        return
    lps = LPS @ affine
    header = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T,
        "space origin": lps[:3, 3],
        "kinds": ["domain"] * 3,
        "encoding": "gzip",
    }
    nrrd.write(str(path), values.T, header)


def write_mha(path: Path, values: np.ndarray, affine: np.ndarray, is_sheared: bool) -> None:
    if not is_sheared:
        write_itk(path, values, affine)
        return
    lps = LPS @ affine
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    kinds = {"int16": "MET_SHORT", "uint8": "MET_UCHAR", "float32": "MET_FLOAT"}

    def line(numbers: np.ndarray) -> str:
        return " ".join(repr(float(n)) for n in numbers)

    header = (
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"CompressedData = False\nTransformMatrix = {line((lps[:3, :3] / steps).T.ravel())}\n"
        f"Offset = {line(lps[:3, 3])}\nCenterOfRotation = 0 0 0\nElementSpacing = {line(steps)}\n"
        f"DimSize = {' '.join(str(n) for n in values.shape[::-1])}\n"
        f"ElementType = {kinds[values.dtype.name]}\nElementDataFile = LOCAL\n"
    )
    path.write_bytes(header.encode() + values.tobytes())


WRITE = {".nii": write_nifti, ".nii.gz": write_nifti, ".nrrd": write_nrrd, ".mha": write_mha}


def by_nibabel(path: Path) -> tuple[np.ndarray, np.ndarray]:
    found = nibabel.load(path)
    return np.asanyarray(found.dataobj).T, found.affine


def by_simpleitk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    found = sitk.ReadImage(str(path))
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(found.GetDirection(), (3, 3)) * found.GetSpacing()
    lps[:3, 3] = found.GetOrigin()
    return sitk.GetArrayFromImage(found), LPS @ lps


def by_pynrrd(path: Path) -> tuple[np.ndarray, np.ndarray]:
    data, header = nrrd.read(str(path))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = header["space directions"].T, header["space origin"]
    return data.T, {"left-posterior-superior": LPS}[header["space"]] @ affine


def readers(suffix: str, case: str) -> dict[str, Read]:
    """Return the peers that can read such a file; SimpleITK refuses a sheared NIfTI."""
    if suffix.startswith(".nii"):
        own: dict[str, Read] = {"nibabel": by_nibabel}
        return own if case == "sheared" else {**own, "SimpleITK": by_simpleitk}
    return {
        **({"pynrrd": by_pynrrd} if suffix == ".nrrd" else {}),
        "SimpleITK": by_simpleitk,
    }


@dataclass
class Figures:
    """What a run over many cases found: the worst of all."""

    cases: int = 0
    files_read: int = 0
    worst_mm: float = 0.0
    worst_affine: float = 0.0
    readers: tuple[str, ...] = ()
    failures: list[str] = field(default_factory=list)

    def failed(self, what: str) -> None:
        self.failures.append(what)


def prove(folder: Path, suffix: str, case: str) -> Figures:
    """Load, label, export and read back with peers: 48 axis orders in three types."""
    peers = readers(suffix, case)
    found = Figures(readers=tuple(peers))
    index = np.array(list(LABELLED))
    random = np.random.default_rng(3)
    for number, axes in enumerate(axis_orders()):
        affine = affine_of(axes, CLASSES[case])
        places = index[:, ::-1] @ affine[:3, :3].T + affine[:3, 3]
        for dtype in DTYPES:
            what = f"{suffix}, {case}, axis order {number}, {dtype}"
            values = random.integers(0, 250, SHAPE[::-1]).astype(dtype)
            source, target = folder / f"ct{suffix}", folder / f"labels{suffix}"
            WRITE[suffix](source, values, affine, case == "sheared")
            image = load(source)
            if image.data.dtype != dtype or not np.array_equal(image.data, values):
                found.failed(f"{what}: the image has other values or another type")
            gap = image.geometry.to_world(index) - places
            found.worst_mm = max(found.worst_mm, float(np.linalg.norm(gap, axis=1).max()))
            ids = np.zeros(image.geometry.shape, np.uint8)
            ids[tuple(index.T)] = list(LABELLED.values())
            export(Mask.like(image, ids, ["liver", "tumour", "cyst"]), target)
            for name, read in peers.items():
                stored, grid = read(target)
                if stored.shape != ids.shape or not np.array_equal(stored, ids):
                    found.failed(f"{what}: {name} reads other labels or another storage order")
                    continue
                at = np.argwhere(stored)
                gaps = at[:, ::-1] @ grid[:3, :3].T + grid[:3, 3]
                gaps -= at[:, ::-1] @ affine[:3, :3].T + affine[:3, 3]
                found.worst_mm = max(found.worst_mm, float(np.linalg.norm(gaps, axis=1).max()))
                found.worst_affine = max(found.worst_affine, float(np.abs(grid - affine).max()))
                found.files_read += 1
            found.cases += 1
    return found


@pytest.mark.parametrize("case", CLASSES)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_all_48_axis_orders_keep_each_labelled_voxels_place(suffix, case, tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)  # what survives a power cut is not asked
    found = prove(tmp_path, suffix, case)
    assert found.failures == []
    assert found.cases == 48 * len(DTYPES)
    assert found.files_read == found.cases * len(found.readers)
    assert found.worst_mm <= 1e-3
    assert found.worst_affine <= 1e-5


def test_simpleitk_refuses_a_sheared_nifti_so_nibabel_alone_reads_it_back(tmp_path):
    affine = affine_of(np.eye(3), sheared())
    write_nifti(tmp_path / "ct.nii", np.zeros(SHAPE[::-1], np.int16), affine, True)
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(tmp_path / "ct.nii"))

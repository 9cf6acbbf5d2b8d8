"""Ids of any integer or bool type come back identical, in the smallest type; others do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk

from maskloop import formats
from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.loop.export import export
from maskloop.loop.load import load, load_mask
from tests.contracts.test_formats import series_header

VOLUMES = [n for n in ("nifti", "nrrd", "metaimage", "dicomseg") if n in formats.FORMATS.names()]
WRITTEN = [
    (name, suffix)
    for name in VOLUMES
    for suffix in formats.get(name).suffixes
    if suffix != ".nhdr"  # a header alone is not written
]
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
GRID = Geometry.regular((4, 5, 6), (3, 0.7, 0.8), (1, 2, 3))


def values(dtype: str, tops: tuple[int, ...] = (0, 1, 2, 300)) -> np.ndarray:
    """Return ids that hold each of `tops` that the type holds; no axis is like another."""
    top = 1 if dtype == "bool" else np.iinfo(dtype).max
    ids = np.zeros(GRID.shape, dtype)
    for number, one in enumerate(t for t in tops if t <= top):
        ids[number % 4, number, : number + 2] = one
    return ids


def drawn(name: str, ids: np.ndarray) -> Mask:
    header = series_header(len(ids)) if name == "dicomseg" else None
    image = Image(np.zeros(GRID.shape, np.int16), GRID, None, header)
    return Mask.like(image, ids, LabelTable.classes({i: f"n{i}" for i in np.unique(ids) if i}))


@pytest.mark.parametrize("dtype", ["bool", *INTEGERS])
@pytest.mark.parametrize(("name", "suffix"), WRITTEN, ids=lambda w: w.strip("."))
def test_ids_come_back_identical_in_the_smallest_unsigned_type(name, suffix, dtype, tmp_path):
    ids = values(dtype)
    out = tmp_path / f"mask{suffix}"
    export(drawn(name, ids), out)
    found = load_mask(out)
    np.testing.assert_array_equal(found.data, ids.astype(np.uint64))
    assert found.data.dtype == (np.uint16 if ids.max() == 300 else np.uint8)


@pytest.mark.parametrize(("top", "dtype"), [(255, "uint8"), (256, "uint16"), (70_000, "uint32")])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_peers_find_the_smallest_unsigned_type_in_the_file(suffix, top, dtype, tmp_path):
    ids = values("int64", (1, top))
    out = tmp_path / f"mask{suffix}"
    export(drawn("", ids), out)
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(out)))
    assert stored.dtype == dtype
    np.testing.assert_array_equal(stored, ids)


def write_as(path: Path, ids: np.ndarray) -> None:
    """Write numbers of any type with a peer that does not narrow them."""
    if path.name.endswith((".nii", ".nii.gz")):
        nibabel.save(nibabel.Nifti1Image(ids.T, np.eye(4), dtype=ids.dtype), path)
    elif path.suffix == ".nrrd":
        nrrd.write(str(path), ids.T, {"space": "RAS", "space directions": np.eye(3)})
    else:
        sitk.WriteImage(sitk.GetImageFromArray(ids), str(path))


@pytest.mark.parametrize("dtype", [*INTEGERS, "float32", "float64"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_label_files_of_peers_are_read_whatever_their_type(suffix, dtype, tmp_path):
    ids = values("uint16" if dtype[0] == "f" else dtype).astype(dtype)
    write_as(tmp_path / f"m{suffix}", ids)
    job = Job()
    found = load_mask(tmp_path / f"m{suffix}", job=job)
    np.testing.assert_array_equal(found.data, ids.astype(np.uint64))
    assert found.data.dtype == (np.uint16 if ids.max() == 300 else np.uint8)
    told = [note for note in job.notes if "whole" in note]
    assert len(told) == (dtype[0] == "f")


@pytest.mark.parametrize("odd", [0.5, -1.0, np.nan, np.inf, 0.9999])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_other_numbers_are_refused_as_ids(suffix, odd, tmp_path):
    write_as(tmp_path / f"m{suffix}", np.full(GRID.shape, odd, np.float32))
    with pytest.raises(InputError, match=r"m\..*expected .* ids"):
        load_mask(tmp_path / f"m{suffix}")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("slope", "inter"), [(2.0, -1024.0), (0.5, 3.0)])
def test_the_images_slope_never_leaks_into_the_mask(suffix, slope, inter, tmp_path):
    stored = nibabel.Nifti1Image(np.arange(120, dtype=np.int16).reshape(6, 5, 4), np.eye(4))
    stored.header.set_slope_inter(slope, inter)
    nibabel.save(stored, tmp_path / "ct.nii")
    image = load(tmp_path / "ct.nii")
    ids = values("uint16")
    export(Mask.like(image, ids, ["a", "b"]), tmp_path / f"m{suffix}", image=image)
    found = nibabel.load(tmp_path / f"m{suffix}")
    assert found.header.get_slope_inter() in ((1.0, 0.0), (None, None))
    np.testing.assert_array_equal(np.asanyarray(found.dataobj).T, ids)


def test_a_scaled_label_file_gives_the_scaled_ids_and_says_so(tmp_path):
    stored = nibabel.Nifti1Image(values("int16").T, np.eye(4))
    nibabel.save(stored, tmp_path / "m.nii")
    raw = bytearray((tmp_path / "m.nii").read_bytes())
    raw[112:120] = np.array((2, 0), "<f4").tobytes()
    (tmp_path / "m.nii").write_bytes(raw)
    job = Job()
    assert load_mask(tmp_path / "m.nii", job=job).ids() == [2, 4, 600]
    assert any("scaled" in note for note in job.notes)


def test_ids_too_large_for_nifti_are_refused(tmp_path):
    mask = drawn("", values("int64", (1, 2**32)))
    with pytest.raises(InputError, match="expected label ids below"):
        export(replace(mask, labels=LabelTable()), tmp_path / "m.nii")
    assert list(tmp_path.iterdir()) == []

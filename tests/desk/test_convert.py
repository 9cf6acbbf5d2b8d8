"""convert: an image in another format, on the same grid, proved; identity stays behind."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from maskloop import formats
from maskloop.core.errors import (
    InputError,
    MissingFileError,
    StorageError,
    UnknownNameError,
    VerificationError,
)
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.desk.convert import convert
from maskloop.formats.base import Choices
from maskloop.loop.load import load

NAMES = list(formats.FORMATS)
WRITERS = [n for n in NAMES if formats.get(n).write_image is not None]
ENDS = [(n, s) for n in WRITERS for s in formats.get(n).suffixes]


def oblique(shape=(5, 6, 7)) -> Geometry:
    turn = np.deg2rad(12)
    affine = np.array(
        [
            [0.2, -0.7 * np.sin(turn), 0.8 * np.cos(turn), -91.5],
            [0.1, 0.7 * np.cos(turn), 0.8 * np.sin(turn), 34.25],
            [3.0, 0.05, -0.02, 812.125],
            [0, 0, 0, 1],
        ]
    )
    return Geometry(shape, affine, "mm")


def volume(dtype=np.int16) -> Image:
    random = np.random.default_rng(0)
    values = random.integers(0, 100, (5, 6, 7)) if np.dtype(dtype).kind in "iu" else random.random
    data = values if isinstance(values, np.ndarray) else values((5, 6, 7))
    return Image(data.astype(dtype), oblique())


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize(
    ("name", "suffix"), [(n, s) for n, s in ENDS if n in ("nifti", "nrrd", "metaimage")]
)
def test_values_and_grid_go_along(name, suffix, dtype, tmp_path):
    image = volume(dtype)
    if suffix in (".nhdr", ".seg.nrrd"):
        with pytest.raises(InputError, match=r"expected .*got .*; "):
            convert(image, tmp_path / f"a{suffix}")
        return
    receipt = convert(image, tmp_path / f"a{suffix}")
    again = load(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(again.data, image.data)
    assert again.data.dtype == image.data.dtype
    np.testing.assert_allclose(again.geometry.affine, image.geometry.affine, atol=1e-4)
    assert (receipt.verdict, receipt.what, receipt.labels) == ("PASS", "image", [])
    assert receipt.worst_corner_mm is not None
    assert receipt.worst_corner_mm < 1e-3


@pytest.mark.parametrize("name", [n for n in WRITERS if n in ("nifti", "nrrd", "metaimage")])
def test_time_and_not_a_number_survive(name, tmp_path):
    data = np.random.default_rng(0).random((3, 5, 6, 7)).astype(np.float32)
    data[1, 2, 3, 4] = np.nan
    out = tmp_path / f"a{formats.get(name).suffixes[-1 if name == 'nifti' else 0]}"
    out = out.with_name("a.nrrd") if name == "nrrd" else out
    convert(Image(data, oblique(), has_time=True), out)
    again = load(out)
    assert again.has_time
    np.testing.assert_array_equal(again.data, data)


def test_nothing_of_the_header_goes_along(tmp_path):
    stored = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    stored.header["descrip"] = b"DOE JANE 1961"
    stored.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"DOE JANE 1961"))
    nib.save(stored, tmp_path / "ct.nii")
    for end in (".nii", ".nrrd", ".mha"):
        convert(tmp_path / "ct.nii", tmp_path / f"out{end}")
        assert b"DOE" not in (tmp_path / f"out{end}").read_bytes()


def test_a_file_that_reads_back_otherwise_is_not_put_in_place(tmp_path):
    chosen = formats.get("nifti")
    honest = chosen.write_image
    (tmp_path / "a.nii").write_bytes(b"old")

    def flipped(image, to):
        honest(Image(np.ascontiguousarray(image.data[::-1]), image.geometry), to)

    object.__setattr__(chosen, "write_image", flipped)
    try:
        with pytest.raises(VerificationError, match=r"other voxels, the first at index \(0, 0"):
            convert(volume(), tmp_path / "a.nii")
    finally:
        object.__setattr__(chosen, "write_image", honest)
    assert (tmp_path / "a.nii").read_bytes() == b"old"


def test_formats_without_images_and_odd_targets_are_told(tmp_path):
    with pytest.raises(UnknownNameError, match=r"format for images, got 'coco'.*nifti"):
        convert(volume(), tmp_path / "a.json", to="coco")
    with pytest.raises(UnknownNameError, match="format for images"):
        convert(volume(), tmp_path / "a.xyz")
    with pytest.raises(StorageError, match="add a name such as"):
        convert(volume(), tmp_path)
    with pytest.raises(MissingFileError):
        convert(tmp_path / "nowhere.nii", tmp_path / "a.nii")


def test_choices_for_a_file_that_has_none_are_refused(tmp_path):
    convert(volume(), tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"got --fill-gap, --series; leave it out"):
        load(tmp_path / "a.nii", choices=Choices(series="2", fill_gap=True))


def test_a_cancelled_conversion_writes_nothing(tmp_path):
    job = Job()
    job.cancel()
    with pytest.raises(Exception, match="stopped as asked"):
        convert(volume(), tmp_path / "a.nii", job=job)
    assert list(tmp_path.iterdir()) == []

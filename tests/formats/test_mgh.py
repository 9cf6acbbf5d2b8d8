"""FreeSurfer volumes: where nibabel says, in the stored type, never more than the file holds."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from maskloop.core.errors import Cancelled, FormatError, MaskloopError, UnknownNameError
from maskloop.core.job import Job
from maskloop.formats import mgh
from maskloop.loop.export import export
from maskloop.loop.load import load, load_mask
from tests.formats.memory import memory_below
from tests.formats.turned_grids import AXES, SHAPE, turn


def write(path: Path, values: np.ndarray, axes: np.ndarray = AXES[0]) -> nib.MGHImage:
    affine = np.eye(4)
    affine[:3, :3] = turn(5, 12, 50) @ axes @ np.diag((0.7, 0.8, 3))
    affine[:3, 3] = (-120.5, 33.25, 41)
    # Not nib.save: it leaves the file open.
    content = nib.MGHImage(values, affine).to_bytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".mgz" else content)
    return nib.MGHImage.from_bytes(content)


@pytest.mark.parametrize("axes", AXES[::5])
@pytest.mark.parametrize("suffix", [".mgh", ".mgz"])
def test_voxels_lie_where_nibabel_says(tmp_path, axes, suffix):
    values = np.random.default_rng(1).integers(0, 99, SHAPE).astype(np.int16)
    theirs = write(tmp_path / f"a{suffix}", values, axes)
    image = load(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(image.data.T, values)
    for index in ((0, 0, 0), (6, 5, 4), (3, 1, 2)):
        there = nib.affines.apply_affine(theirs.affine, index[::-1])
        np.testing.assert_allclose(image.geometry.to_world(index), there, atol=1e-3)


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4", "u2"])
def test_every_type_is_read_as_stored(tmp_path, dtype):
    values = np.random.default_rng(1).integers(0, 99, SHAPE).astype(dtype)
    write(tmp_path / "a.mgz", values)
    image = load(tmp_path / "a.mgz")
    assert image.data.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(image.data.T, values)


def test_frames_come_first_as_time(tmp_path):
    values = np.random.default_rng(1).integers(0, 99, (*SHAPE, 4)).astype(np.int32)
    write(tmp_path / "a.mgz", values)
    image = load(tmp_path / "a.mgz")
    assert (image.has_time, image.frames) == (True, 4)
    np.testing.assert_array_equal(image.data.T, values)


def test_the_file_that_nibabel_brings_is_read_as_nibabel_reads_it():
    path = Path(nib.__file__).parent / "tests/data/test.mgz"
    theirs = nib.load(path)
    image = load(path)
    np.testing.assert_array_equal(image.data.T, np.asarray(theirs.dataobj))
    np.testing.assert_allclose(image.geometry.affine, theirs.affine[:, [2, 1, 0, 3]], atol=1e-4)


def test_labels_are_read_and_keep_their_numbers_in_another_format(tmp_path):
    ids = np.zeros(SHAPE, np.int32)
    ids[1:3], ids[4] = 17, 2035
    write(tmp_path / "aseg.mgz", ids)
    mask = load_mask(tmp_path / "aseg.mgz", kind="classes")
    assert mask.data.dtype == np.uint16
    assert mask.labels.names == {17: "label 17", 2035: "label 2035"}
    export(mask, tmp_path / "aseg.nii.gz")
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "aseg.nii.gz").dataobj), ids)
    with pytest.raises(UnknownNameError, match="format for masks"):
        export(mask, tmp_path / "out.mgz")


def test_a_file_without_orientation_is_told_and_taken_as_coronal(tmp_path):
    values = np.zeros(SHAPE, np.uint8)
    write(tmp_path / "a.mgh", values)
    content = bytearray((tmp_path / "a.mgh").read_bytes())
    content[28:30] = b"\0\0"
    (tmp_path / "a.mgh").write_bytes(content)
    job = Job()
    image = load(tmp_path / "a.mgh", job=job)
    assert "states no orientation" in job.notes[0]
    # As in a conformed volume: x to the left, y down, z to the front. (nibabel takes y and z
    # the other way round: its default matrix is the transpose of FreeSurfer's.)
    assert image.geometry.orientation == "AIL"
    np.testing.assert_allclose(image.geometry.to_world(np.array(SHAPE[::-1]) / 2), 0, atol=1e-12)


def test_newer_files_with_a_kind_in_the_version_are_read(tmp_path):
    write(tmp_path / "a.mgh", np.zeros(SHAPE, np.uint8))
    content = bytearray((tmp_path / "a.mgh").read_bytes())
    content[0:4] = struct.pack(">i", (3 << 8) | 1)
    (tmp_path / "a.mgh").write_bytes(content)
    assert load(tmp_path / "a.mgh").geometry.shape == SHAPE[::-1]


@pytest.mark.parametrize("suffix", [".mgh", ".mgz"])
@pytest.mark.parametrize("size", [10**6, 2**31 - 1])
def test_a_small_file_that_claims_to_be_huge_is_refused_before_memory_is_asked_for(
    tmp_path, suffix, size
):
    write(tmp_path / "a.mgh", np.zeros(SHAPE, np.int16))
    content = bytearray((tmp_path / "a.mgh").read_bytes())
    content[4:16] = struct.pack(">3i", size, size, 1)
    packed = gzip.compress(bytes(content)) if suffix == ".mgz" else bytes(content)
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(packed)
    with memory_below(2_000_000), pytest.raises(FormatError, match="cut short"):
        load(path)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, struct.pack(">i", 7)),
        (4, struct.pack(">i", 0)),
        (8, struct.pack(">i", -6)),
        (16, struct.pack(">i", 0)),
        (20, struct.pack(">i", 2)),
        (30, struct.pack(">f", float("nan"))),
        (30, struct.pack(">f", 0)),
        (30, b"\x7f\xa0\0\0"),  # a signalling NaN
        (78, struct.pack(">f", float("inf"))),
        (42, struct.pack(">f", 3e38)),
    ],
)
def test_headers_that_make_no_sense_are_refused_in_words(tmp_path, at, value):
    write(tmp_path / "a.mgh", np.zeros(SHAPE, np.int16))
    content = bytearray((tmp_path / "a.mgh").read_bytes())
    content[at : at + len(value)] = value
    (tmp_path / "a.mgh").write_bytes(content)
    with pytest.raises(FormatError, match=r"expected .*got .*; "):
        load(tmp_path / "a.mgh")


@pytest.mark.parametrize("suffix", [".mgh", ".mgz"])
def test_files_cut_short_anywhere_never_read_as_something_else(tmp_path, suffix):
    values = np.random.default_rng(4).integers(-99, 99, SHAPE).astype(np.int16)
    path = tmp_path / f"a{suffix}"
    write(path, values)
    whole = path.read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 80)):
        path.write_bytes(whole[:size])
        try:
            found = load(path).data
        except MaskloopError:
            continue
        np.testing.assert_array_equal(found.T, values)


def test_content_tells_the_format_and_a_stopped_job_reads_nothing(tmp_path):
    write(tmp_path / "a.mgz", np.zeros(SHAPE, np.int16))
    write(tmp_path / "a.mgh", np.zeros(SHAPE, np.int16))
    assert mgh.sniff(tmp_path / "a.mgz")
    assert mgh.sniff(tmp_path / "a.mgh")
    assert not mgh.sniff(tmp_path)
    job = Job()
    job.cancel()
    with pytest.raises(Cancelled):
        load(tmp_path / "a.mgz", job=job)

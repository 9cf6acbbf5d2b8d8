"""MetaImage: rows of the matrix are axes, SimpleITK agrees, lies of a header are refused."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskloop.core.errors import (
    Cancelled,
    FormatError,
    InputError,
    MaskloopError,
    MissingFileError,
)
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.desk.convert import convert
from maskloop.formats import metaimage
from maskloop.loop.export import export
from maskloop.loop.load import load, load_mask
from tests.formats.memory import memory_below
from tests.formats.turned_grids import AXES, LPS, OBLIQUE, SHAPE, grid_of, labelled, turn

sitk = pytest.importorskip("SimpleITK")

VALUES = np.arange(24, dtype="<i2").reshape(4, 3, 2)


def write(path: Path, change: dict[str, str | None] | None = None, data: bytes = b"") -> Path:
    tags: dict[str, str | None] = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "DimSize": "2 3 4",
        "ElementType": "MET_SHORT",
        **(change or {}),
    }
    last = tags.pop("ElementDataFile", "LOCAL")
    tags["ElementDataFile"] = last
    text = "".join(f"{key} = {value}\n" for key, value in tags.items() if value is not None)
    path.write_bytes(text.encode() + data)
    return path


@settings(max_examples=40)
@given(
    axes=st.sampled_from(AXES),
    angles=st.tuples(*[st.sampled_from((0.0, 12.0, 50.0))] * 3),
    shear=st.sampled_from((0.0, 0.3)),
    suffix=st.sampled_from((".mha", ".mhd")),
)
def test_every_voxel_keeps_its_place_for_simpleitk(tmp_path_factory, axes, angles, shear, suffix):
    skew = np.eye(3)
    skew[0, 1] = shear
    mask = labelled(grid_of(turn(*angles) @ axes @ skew @ np.diag((0.7, 0.8, 3.0))))
    path = tmp_path_factory.mktemp("turn") / f"mask{suffix}"
    assert export(mask, path).verdict == "PASS"
    found = sitk.ReadImage(str(path))
    assert found.GetSize() == SHAPE
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), mask.data)
    index = np.argwhere(mask.data)[::9]
    there = [found.TransformIndexToPhysicalPoint([int(n) for n in at[::-1]]) for at in index]
    np.testing.assert_allclose(np.array(there) @ LPS, mask.geometry.to_world(index), atol=1e-3)
    again = load_mask(path)
    np.testing.assert_allclose(again.geometry.affine, mask.geometry.affine, atol=1e-10)
    assert dict(again.labels) == dict(mask.labels)


@pytest.mark.parametrize("axes", AXES[::5])
@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
def test_what_simpleitk_writes_lies_where_it_says(tmp_path, axes, is_packed, suffix):
    direction = turn(5, 12, 50) @ axes
    image = sitk.GetImageFromArray(VALUES)
    image.SetDirection(direction.ravel().tolist())
    image.SetSpacing((0.7, 0.8, 3))
    image.SetOrigin((10, 20, 30))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"), is_packed)
    found = load(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(found.data, VALUES)
    for index in ((0, 0, 0), (3, 2, 1), (1, 0, 1)):
        lps = image.TransformIndexToPhysicalPoint([int(n) for n in index[::-1]])
        np.testing.assert_allclose(found.geometry.to_world(index), LPS @ lps, atol=1e-6)


@pytest.mark.parametrize(
    "dtype", ["bool", "u1", "i1", "i2", "i4", "i8", "u2", "u4", "u8", "f4", "f8", "f2"]
)
@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
def test_images_of_every_type_come_back_as_they_were(tmp_path, dtype, suffix):
    values = np.random.default_rng(1).integers(0, 2, SHAPE[::-1]).astype(dtype)
    assert convert(Image(values, grid_of(OBLIQUE)), tmp_path / f"a{suffix}").verdict == "PASS"
    np.testing.assert_array_equal(load(tmp_path / f"a{suffix}").data, values)
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"a{suffix}")))
    np.testing.assert_array_equal(theirs, values)


@pytest.mark.parametrize("dtype", ["bool", "u1", "u2", "u4", "u8"])
def test_label_values_come_back_in_the_smallest_type(tmp_path, dtype):
    top = 1 if dtype == "bool" else 255 if dtype == "u1" else 300
    ids = np.zeros((4, 5, 6), dtype)
    ids[1], ids[2, 1:3], ids[3, 2] = 1, min(2, top), top
    table = LabelTable.objects(np.unique(ids[ids > 0]).tolist())
    export(Mask(ids, Geometry.regular(ids.shape, (3, 1, 2)), table), tmp_path / "m.mha")
    again = load_mask(tmp_path / "m.mha")
    np.testing.assert_array_equal(again.data, ids)
    assert again.data.dtype == np.min_scalar_type(top)


@pytest.mark.parametrize(
    ("shape", "has_time", "has_channels"),
    [((4, 3, 2, 3), False, True), ((5, 4, 3, 2), True, False), ((5, 4, 3, 2, 3), True, True)],
)
@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
def test_time_and_channels_go_there_and_back(tmp_path, shape, has_time, has_channels, suffix):
    values = np.random.default_rng(2).integers(0, 99, shape).astype(np.uint8)
    image = Image(values, grid_of(OBLIQUE, (2, 3, 4)), None, None, has_time, has_channels)
    assert convert(image, tmp_path / f"a{suffix}").verdict == "PASS"
    again = load(tmp_path / f"a{suffix}")
    assert (again.has_time, again.has_channels) == (has_time, has_channels)
    np.testing.assert_array_equal(again.data, values)
    assert again.geometry.matches(image.geometry)
    theirs = sitk.ReadImage(str(tmp_path / f"a{suffix}"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(theirs), values)


def test_a_mask_with_a_time_axis_goes_there_and_back(tmp_path):
    ids = np.random.default_rng(2).integers(0, 3, (5, 4, 3, 2)).astype(np.uint8)
    mask = Mask(ids, grid_of(OBLIQUE, (2, 3, 4)), LabelTable.objects([1, 2]))
    export(mask, tmp_path / "m.mha")
    np.testing.assert_array_equal(load_mask(tmp_path / "m.mha").data, ids)


def test_two_axes_are_one_slice_and_are_written_as_two(tmp_path):
    image = sitk.GetImageFromArray(VALUES[0])
    angle = np.deg2rad(30)
    turned = (np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle))
    image.SetDirection(turned)
    image.SetSpacing((0.5, 0.6))
    image.SetOrigin((10, 20))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    found = load(tmp_path / "a.mha")
    assert found.geometry.shape == (1, 3, 2)
    np.testing.assert_allclose(found.geometry.spacing, (1, 0.6, 0.5))
    mask = Mask.like(found, found.data, LabelTable.objects(range(1, 6)))
    export(mask, tmp_path / "m.mha")
    again = sitk.ReadImage(str(tmp_path / "m.mha"))
    assert again.GetSize() == (2, 3)
    np.testing.assert_allclose(again.GetDirection(), turned)
    np.testing.assert_allclose(again.GetOrigin(), (10, 20))


def test_pictures_in_pixels_go_there_and_back_without_a_loss(tmp_path):
    ids = np.arange(6, dtype=np.uint8).reshape(2, 3)
    mask = Mask(ids, Geometry.pixels((2, 3)), LabelTable.objects(range(1, 6)))
    assert export(mask, tmp_path / "m.mha").losses == ()
    assert load_mask(tmp_path / "m.mha").geometry.matches(mask.geometry)
    assert sitk.ReadImage(str(tmp_path / "m.mha")).GetSpacing() == (1, 1)


def test_the_data_of_an_mhd_is_proved_and_replaced_with_it(tmp_path):
    receipt = export(labelled(grid_of(OBLIQUE)), tmp_path / "m.mhd")
    assert set(receipt.sha256) == {"m.mhd", "m.zraw", "m.mhd.labels.json"}
    assert b"ElementDataFile = m.zraw\n" in (tmp_path / "m.mhd").read_bytes()
    assert metaimage.companion(tmp_path / "a:b.mhd", ".mhd") == tmp_path / "a_b.zraw"


@pytest.mark.parametrize(
    "kind", ["MET_CHAR", "MET_USHORT", "MET_LONG", "MET_ULONG_LONG", "MET_DOUBLE"]
)
@pytest.mark.parametrize("encoding", ["raw", "zlib", "text"])
@pytest.mark.parametrize("is_big", [False, True])
def test_every_type_and_byte_order_is_read(tmp_path, kind, encoding, is_big):
    codes = {"MET_CHAR": "i1", "MET_USHORT": "u2", "MET_LONG": "i4", "MET_ULONG_LONG": "u8"}
    values = VALUES.astype((">" if is_big else "<") + codes.get(kind, "f8"))
    data = {
        "raw": values.tobytes(),
        "zlib": zlib.compress(values.tobytes()),
        "text": " ".join(map(str, values.ravel().tolist())).encode(),
    }[encoding]
    tags: dict[str, str | None] = {
        "ElementType": kind,
        "CompressedData": str(encoding == "zlib"),
        "BinaryData": str(encoding != "text"),
        "ElementByteOrderMSB" if is_big else "BinaryDataByteOrderMSB": str(is_big),
    }
    image = load(write(tmp_path / "a.mha", tags, data))
    np.testing.assert_array_equal(image.data, values)
    assert image.data.dtype.isnative
    assert image.geometry.unit == "px"


@pytest.mark.parametrize("place", ["Offset", "Position", "Origin"])
@pytest.mark.parametrize("spacing", ["ElementSpacing", "ElementSize"])
def test_old_names_of_tags_are_read(tmp_path, place, spacing):
    path = write(tmp_path / "a.mha", {place: "1 2 3", spacing: "0.5 0.6 3"}, VALUES.tobytes())
    image = load(path)
    assert image.geometry.spacing == (3, 0.6, 0.5)
    assert image.geometry.to_world((0, 0, 0)).tolist() == [-1, -2, 3]


def test_what_of_a_header_was_not_taken_is_told(tmp_path):
    job = Job()
    tags: dict[str, str | None] = {
        "AnatomicalOrientation": "LPS",
        "DistanceUnits": "furlong",
        "ElementToIntensityFunctionSlope": "2",
        "ElementSpacing": "1 1 1",
    }
    load(write(tmp_path / "a.mha", tags, VALUES.tobytes()), job=job)
    assert len(job.notes) == 3
    quiet = Job()
    tags = {"AnatomicalOrientation": "RAI", "DistanceUnits": "um", "ElementSpacing": "10 10 10"}
    image = load(write(tmp_path / "a.mha", tags, VALUES.tobytes()), job=quiet)
    assert quiet.notes == []
    np.testing.assert_allclose(image.geometry.spacing, (0.01, 0.01, 0.01))


@pytest.mark.parametrize(("size", "ahead"), [("5", b"abcde"), ("-1", b"whatever length")])
def test_data_beside_the_header_is_read_with_its_own_header_skipped(tmp_path, size, ahead):
    (tmp_path / "a.raw").write_bytes(ahead + VALUES.tobytes())
    path = write(tmp_path / "a.mhd", {"HeaderSize": size, "ElementDataFile": "a.raw"})
    np.testing.assert_array_equal(load(path).data, VALUES)


@pytest.mark.parametrize(
    "named",
    ["../x.raw", "/etc/hostname", "sub/x.raw", "..", ".", "..\\x.raw", "C:x.raw", "link.raw"],
)
def test_data_outside_the_headers_folder_is_refused(tmp_path, named):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for path in (tmp_path / "x.raw", folder / "sub/x.raw"):
        path.write_bytes(VALUES.tobytes())
    os.symlink(tmp_path / "x.raw", folder / "link.raw")
    with pytest.raises(FormatError, match="in its own folder, got"):
        load(write(folder / "a.mhd", {"ElementDataFile": named}))


def test_a_missing_data_file_and_a_list_of_files_are_told(tmp_path):
    with pytest.raises(MissingFileError, match=r"data file that a\.mhd names"):
        load(write(tmp_path / "a.mhd", {"ElementDataFile": "none.raw"}))
    for several in ("LIST", "slice%03d.raw 1 4 1"):
        with pytest.raises(FormatError, match="one data file"):
            load(write(tmp_path / "a.mhd", {"ElementDataFile": several}))


@pytest.mark.parametrize("encoding", ["raw", "zlib", "text"])
@pytest.mark.parametrize("sizes", ["1000000 1000000 1000", f"{2**40} {2**40} {2**40}"])
def test_a_small_file_that_claims_to_be_huge_is_refused_before_memory_is_asked_for(
    tmp_path, encoding, sizes
):
    tags: dict[str, str | None] = {
        "DimSize": sizes,
        "CompressedData": str(encoding == "zlib"),
        "BinaryData": str(encoding != "text"),
    }
    path = write(tmp_path / "a.mha", tags, zlib.compress(bytes(9000)) + b"0 " * 300)
    with memory_below(4_000_000), pytest.raises(FormatError, match=r"expected .*got .*; "):
        load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"ObjectType": "Mesh"},
        {"NDims": "5", "DimSize": "1 1 2 3 4"},
        {"NDims": "two"},
        {"NDims": None},
        {"DimSize": "2 3"},
        {"DimSize": "2 3 0"},
        {"DimSize": "2 3 -4"},
        {"DimSize": "2 3 " + "9" * 5000},
        {"DimSize": None},
        {"ElementType": "MET_STRING"},
        {"ElementType": None},
        {"ElementNumberOfChannels": "0"},
        {"ElementNumberOfChannels": "-1"},
        {"ElementSpacing": "1 1"},
        {"ElementSpacing": "1 0 1"},
        {"ElementSpacing": "1 nan 1"},
        {"ElementSpacing": "1 1e308 1e308"},
        {"Offset": "1 1 inf"},
        {"TransformMatrix": "1 0 0 1 0 0 0 0 1"},
        {"TransformMatrix": "1 0 0 1"},
        {"TransformMatrix": "1 0 0 0 x 0 0 0 1"},
        {"NDims": "4", "DimSize": "2 3 2 2", "TransformMatrix": "1 0 0 1 0 1 0 0 0 0 1 0 0 0 0 1"},
        {"HeaderSize": "-5", "ElementDataFile": "a.mha"},
        {"ElementDataFile": None},
    ],
)
def test_headers_that_make_no_sense_are_refused_in_words(tmp_path, change):
    with pytest.raises(FormatError, match=r"(?s)expected .*got .*"):
        load(write(tmp_path / "a.mha", change, VALUES.tobytes()))


@pytest.mark.parametrize("encoding", ["raw", "zlib", "text"])
def test_files_cut_short_anywhere_never_read_as_something_else(tmp_path, encoding):
    values = np.random.default_rng(4).integers(-99, 99, (8, 9, 10)).astype("<i2")
    data = {
        "raw": values.tobytes(),
        "zlib": zlib.compress(values.tobytes()),
        "text": " ".join(map(str, values.ravel().tolist())).encode() + b"\n",
    }[encoding]
    tags: dict[str, str | None] = {
        "DimSize": "10 9 8",
        "CompressedData": str(encoding == "zlib"),
        "BinaryData": str(encoding != "text"),
    }
    whole = write(tmp_path / "a.mha", tags, data).read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 60)):
        (tmp_path / "a.mha").write_bytes(whole[:size])
        try:
            found = load(tmp_path / "a.mha").data
        except MaskloopError:
            continue
        np.testing.assert_array_equal(found, values)


def test_channels_are_no_mask(tmp_path):
    image = Image(np.zeros((4, 3, 2, 3), np.uint8), grid_of(OBLIQUE, (2, 3, 4)), has_channels=True)
    convert(image, tmp_path / "a.mha")
    with pytest.raises(FormatError, match="one label id a voxel"):
        load_mask(tmp_path / "a.mha")
    complex_image = Image(np.zeros((4, 3, 2), np.complex64), grid_of(OBLIQUE, (2, 3, 4)))
    with pytest.raises(InputError, match="at most 64 bits"):
        convert(complex_image, tmp_path / "c.mha")


def test_a_stopped_job_reads_nothing(tmp_path):
    export(labelled(grid_of(OBLIQUE)), tmp_path / "m.mha")
    job = Job()
    job.cancel()
    with pytest.raises(Cancelled):
        load(tmp_path / "m.mha", job=job)


def test_a_real_scan_goes_through_mha_and_stays_where_it_was(shared_data, tmp_path):
    source = shared_data / "ct_liver/totalseg_examples/example_ct_sm.nii.gz"
    image = load(source)
    convert(image, tmp_path / "a.mha")
    again = load(tmp_path / "a.mha")
    np.testing.assert_array_equal(again.data, image.data)
    np.testing.assert_allclose(again.geometry.affine, image.geometry.affine, atol=1e-10)

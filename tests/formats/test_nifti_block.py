"""The header block: nibabel finds the same in it, whatever its numbers, version and byte order."""

from __future__ import annotations

import warnings

import nibabel
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from maskloop.formats.nifti_block import NiftiBlock

KINDS = {1: nibabel.Nifti1Header, 2: nibabel.Nifti2Header}
CODES = sorted(c for c in nibabel.nifti1.data_type_codes.code if isinstance(c, int))
HELD = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
ROOT = 2**-0.5

numbers = st.floats(-1e4, 1e4, width=32)
# Anything that a file may hold; subnormal and signalling numbers are no matter of the format.
wild = numbers | st.sampled_from((0.0, np.inf, -np.inf, np.nan))
small = st.floats(-1, 1, width=32)


@st.composite
def headers(draw: st.DrawFn) -> tuple[int, nibabel.Nifti1Header]:
    """A header as nibabel holds it, with each field that places or counts voxels at random."""
    version = draw(st.sampled_from((1, 2)))
    header = KINDS[version](endianness=draw(st.sampled_from("<>")))
    shape = draw(st.lists(st.integers(0, 32767), min_size=1, max_size=7))
    header["dim"][: 1 + len(shape)] = (len(shape), *shape)
    header["datatype"] = draw(st.sampled_from(CODES))
    header["pixdim"] = draw(st.lists(numbers, min_size=8, max_size=8))
    header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
    header["pixdim"][0] = draw(st.sampled_from((1, -1)))
    for name in ("sform_code", "qform_code"):
        header[name] = draw(st.integers(0, 5))
    for name in ("srow_x", "srow_y", "srow_z"):
        header[name] = draw(st.lists(wild, min_size=4, max_size=4))
    for name in ("qoffset_x", "qoffset_y", "qoffset_z"):
        header[name] = draw(numbers)
    bcd = np.array(draw(st.tuples(small, small, small)))
    if draw(st.booleans()) and bcd.any():  # half a turn, as nearly as the numbers can say it
        bcd /= np.linalg.norm(bcd)
    header["quatern_b"], header["quatern_c"], header["quatern_d"] = bcd
    return version, header


def near(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=120, deadline=None)
@given(headers())
def test_shape_type_and_forms_equal_nibabels(drawn):
    version, theirs = drawn
    ours = NiftiBlock.parsed(theirs.binaryblock + b"voxels", version)
    assert ours.byte_order == theirs.endianness
    assert ours.shape == theirs.get_data_shape()
    found, expected = ours.dtype, theirs.get_data_dtype()
    assert found == expected if expected.kind != "V" or expected.fields else found.itemsize == 0
    np.testing.assert_array_equal(ours.sform, theirs.get_sform())
    np.testing.assert_array_equal(ours.base_affine, theirs.get_base_affine())
    assert ours.to_bytes() == theirs.as_byteswapped("<").binaryblock
    try:
        qform = theirs.get_qform()
    except ValueError:
        with pytest.raises(ValueError, match="longer than 1"):
            _ = ours.qform
    else:
        near(ours.qform, qform)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_every_field_lies_where_nibabel_has_it(version, endian):
    block = np.random.default_rng(version).integers(0, 255, KINDS[version].sizeof_hdr, np.uint8)
    theirs = KINDS[version](block.tobytes(), endian, check=False)
    theirs["dim"][0] = 3
    ours = NiftiBlock.parsed(theirs.binaryblock, version)
    for name in set(theirs.keys()) - {"magic", "eol_check"}:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert bytes(ours["magic"])[:3] == bytes(theirs["magic"])[:3]


@pytest.mark.parametrize("version", [1, 2])
def test_codes_that_the_standard_knows_not_are_key_errors(version):
    block = NiftiBlock.empty(version)
    for code in set(range(-3, 2400)) - set(CODES):
        block["datatype"] = code
        with pytest.raises(KeyError):
            _ = block.dtype


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("ndim", [-3, 0, 8, 9, 100])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_a_number_of_axes_that_makes_no_sense_is_taken_as_nibabel_does(version, ndim, endian):
    theirs = KINDS[version](endianness=endian)
    theirs["dim"] = (ndim, 3, 4, 5, 6, 7, 8, 9)
    theirs = KINDS[version](theirs.binaryblock, check=False)
    ours = NiftiBlock.parsed(theirs.binaryblock, version)
    assert ours.byte_order == theirs.endianness
    assert ours.shape == theirs.get_data_shape()
    np.testing.assert_array_equal(ours.base_affine, theirs.get_base_affine())


@pytest.mark.parametrize("dims", [(-1, 1, 1), (-1, 1, 1, 4), (27307, 1, 6), (27307, 1, 6, 2)])
def test_freesurfers_long_vectors_have_nibabels_shape(dims):
    for version, kind in KINDS.items():
        theirs = kind()
        theirs["dim"][: 1 + len(dims)] = (len(dims), *dims)
        if version == 1:
            theirs["glmin"] = 123456
        assert NiftiBlock.parsed(theirs.binaryblock, version).shape == theirs.get_data_shape()


def test_a_long_vector_without_a_length_is_a_value_error():
    block = NiftiBlock.empty(1)
    block["dim"] = (3, -1, 1, 1, 1, 1, 1, 1)
    with pytest.raises(ValueError, match="no length in glmin"):
        _ = block.shape


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("pixdim", [(0, 1, 1, 1), (2, 1, 1, 1), (np.nan, 1, 1, 1), (1, 1, -1, 1)])
def test_steps_that_make_no_qform_are_value_errors_as_in_nibabel(version, pixdim):
    theirs = KINDS[version]()
    theirs["pixdim"][:4] = pixdim
    with pytest.raises(nibabel.spatialimages.HeaderDataError):
        theirs.get_qform()
    with pytest.raises(ValueError, match="no qform"):
        _ = NiftiBlock.parsed(theirs.binaryblock, version).qform


def turned(axis: np.ndarray, degrees: float) -> np.ndarray:
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@settings(max_examples=120, deadline=None)
@given(
    version=st.sampled_from((1, 2)),
    dtype=st.sampled_from(HELD),
    shape=st.lists(st.integers(1, 32767), min_size=2, max_size=5).map(tuple),
    axis=st.tuples(*[st.integers(-9, 9)] * 3).filter(any),
    degrees=st.sampled_from((0.0, 12.0, 90.0, 120.0, 179.9999, 180.0, 180.0001)) | numbers,
    flip=st.sampled_from((1, -1)),
    steps=st.tuples(*[st.floats(0.01, 100)] * 3),
    origin=st.tuples(numbers, numbers, numbers),
)
@example(1, "u1", (2, 2), (1, 0, 0), 180.0, 1, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
@example(2, "u1", (2, 2), (0, 1, 1), 180.0, -1, (ROOT, 1.0, 1.0), (0.0, 0.0, 0.0))
@example(2, "u1", (2, 2), (-1, 5, -6), 180.0, 1, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
def test_nibabel_reads_what_was_set(version, dtype, shape, axis, degrees, flip, steps, origin):
    affine = np.eye(4)
    affine[:3, :3] = turned(np.array(axis, float), degrees) * (1, flip, 1) * steps
    affine[:3, 3] = origin
    block = NiftiBlock.empty(version)
    block.set_shape(shape)
    block.set_dtype(np.dtype(dtype).newbyteorder(">"))
    block.set_mm()
    block.set_qform(affine, code=1)
    block.set_sform(affine, code=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = KINDS[version](block.to_bytes(), check=True)
    assert found.endianness == "<"
    assert found.get_data_shape() == shape
    assert found.get_data_dtype() == np.dtype(dtype)
    assert found["bitpix"] == 8 * np.dtype(dtype).itemsize
    assert found.get_xyzt_units() == ("mm", "sec")
    assert found.get_slope_inter() == (1, 0)
    assert (int(found["qform_code"]), int(found["sform_code"])) == (1, 2)
    np.testing.assert_allclose(found["pixdim"][1:4], steps, rtol=1e-6)
    # A quaternion of float32 holds a turn near half of one to the root of its precision.
    rounding = {1: 1e-3, 2: 1e-7}[version]
    np.testing.assert_allclose(found.get_sform(), affine, rtol=1e-6, atol=1e-4 * (version == 1))
    np.testing.assert_allclose(
        found.get_qform()[:3, :3] / steps, affine[:3, :3] / steps, atol=rounding
    )
    near(block.qform, found.get_qform())


@settings(max_examples=80, deadline=None)
@given(axis=st.tuples(*[st.integers(-9, 9)] * 3).filter(any), flip=st.sampled_from((1, -1)))
def test_half_turns_of_either_hand_are_stated(axis, flip):
    affine = np.eye(4)
    affine[:3, :3] = turned(np.array(axis, float), 180) * (1, 1, flip)
    for version, precision in ((1, 1e-6), (2, 1e-14)):
        block = NiftiBlock.empty(version)
        block.set_qform(affine, code=1)
        found = KINDS[version](block.to_bytes()).get_qform()
        np.testing.assert_allclose(found, affine, atol=precision)


def test_the_header_of_a_vector_and_of_colours_equals_nibabels():
    for version, kind in KINDS.items():
        for letters in ("RGB", "RGBA"):
            dtype = np.dtype([(letter, np.uint8) for letter in letters])
            theirs, ours = kind(), NiftiBlock.empty(version)
            theirs.set_data_shape((3, 4, 5, 1, 3))
            theirs.set_data_dtype(dtype)
            theirs.set_slope_inter(1, 0)
            theirs.set_intent("vector")
            ours.set_shape((3, 4, 5, 1, 3))
            ours.set_dtype(dtype)
            ours.set_vector()
            assert ours.to_bytes() == theirs.as_byteswapped("<").binaryblock

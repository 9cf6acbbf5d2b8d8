"""NIfTI files that are odd but real: what they hold comes out, or a refusal says why not."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from maskloop.core.errors import FormatError, GeometryError, InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.mask import Mask
from maskloop.desk.convert import convert
from maskloop.formats.gunzip import gunzip
from maskloop.loop.export import export
from maskloop.loop.load import load, load_mask

AFFINE = np.array([[0.7, 0, 0, -12], [0, 0.8, 0, 30], [0, 0, 3, 41], [0, 0, 0, 1.0]])
PEERS = Path(nibabel.__file__).parent / "tests" / "data"


def stored_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    found = nibabel.load(path)
    return np.asanyarray(found.dataobj), found.affine


def ours(image: Image) -> np.ndarray:
    """Return our affine for stored (i, j, k) indices."""
    return image.geometry.affine[:, [2, 1, 0, 3]]


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE, **header: object) -> Path:
    image = nibabel.Nifti1Image(values, affine, dtype=values.dtype)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


def patched(path: Path, offset: int, code: str, *values: float) -> Path:
    raw = bytearray(path.read_bytes())
    struct.pack_into("<" + code, raw, offset, *values)
    path.write_bytes(raw)
    return path


DTYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [*DTYPES, "float32", "float64"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("endian", "<>")
def test_every_type_version_and_byte_order_is_copied_exactly(suffix, dtype, kind, endian, tmp_path):
    random = np.random.default_rng(0)
    values = (random.random((3, 4, 5)) * 100).astype(dtype)
    header = kind.header_class(endianness=endian)
    header.set_data_dtype(dtype)
    nibabel.save(kind(values, AFFINE, header), tmp_path / f"a{suffix}")
    convert(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}")
    found, affine = stored_of(tmp_path / f"b{suffix}")
    np.testing.assert_array_equal(found, values)
    np.testing.assert_allclose(affine, AFFINE, atol=1e-5)
    expected = "int32" if dtype in ("int64", "uint64") else dtype  # programs that read int64: few
    assert nibabel.load(tmp_path / f"b{suffix}").get_data_dtype() == expected


def test_int64_is_kept_where_values_need_it(tmp_path):
    values = np.array([[[2**40, -5]]], np.int64)
    save(tmp_path / "a.nii", values)
    receipt = convert(tmp_path / "a.nii", tmp_path / "b.nii")
    assert "few programs read int64" in receipt.losses[0]
    found, _ = stored_of(tmp_path / "b.nii")
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(("dtype", "stored"), [("bool", "uint8"), ("float16", "float32")])
def test_types_that_nifti_has_not_are_widened(dtype, stored, tmp_path):
    from maskloop.core.job import Job
    from maskloop.formats import nifti
    from maskloop.formats.verify import write_verified

    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    image = Image(values, Geometry.regular(values.shape, (3, 1, 1)))
    write_verified(nifti.FORMAT, image, tmp_path / "a.nii", suffix=".nii", job=Job())
    found, _ = stored_of(tmp_path / "a.nii")
    assert found.dtype == stored
    np.testing.assert_array_equal(found.T, values.astype(stored))


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (3, 4, 1, 6), (3, 4, 5, 1, 2), (3, 4, 5, 6, 2)])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_time_and_vectors_go_there_and_back(shape, suffix, tmp_path):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    save(tmp_path / f"a{suffix}", values)
    image = load(tmp_path / f"a{suffix}")
    assert image.has_time == (shape[3] > 1)
    assert image.has_channels == (len(shape) == 5)
    assert image.geometry.shape == shape[2::-1]
    convert(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}")
    found, affine = stored_of(tmp_path / f"b{suffix}")
    np.testing.assert_array_equal(found, values)
    np.testing.assert_allclose(affine, AFFINE, atol=1e-5)


def test_the_step_of_time_is_kept(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5, 6), np.int16), AFFINE)
    image.header.set_zooms((0.7, 0.8, 3, 2.5))
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, tmp_path / "a.nii.gz")
    convert(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    header = nibabel.load(tmp_path / "b.nii.gz").header
    assert header.get_zooms()[3] == 2.5
    assert header.get_xyzt_units() == ("mm", "sec")


@pytest.mark.parametrize("letters", ["RGB", "RGBA"])
@pytest.mark.parametrize("frames", [1, 2])
def test_colours_go_there_and_back(letters, frames, tmp_path):
    kind = np.dtype([(letter, "u1") for letter in letters])
    shape = (3, 4, 5) if frames == 1 else (3, 4, 5, frames)
    raw = np.random.default_rng(0).integers(0, 256, (*shape, len(letters)), np.uint8)
    values = np.ascontiguousarray(raw).view(kind)[..., 0]
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / "a.nii.gz")
    image = load(tmp_path / "a.nii.gz")
    assert (image.channels, image.frames) == (len(letters), frames)
    convert(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    found, _ = stored_of(tmp_path / "b.nii.gz")
    assert found.dtype == kind
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    ("slope", "inter", "dtype"),
    [
        (1, -40000, "int32"),  # the intercept alone fits no int16, the result does
        (100000, 0, "int64"),
        (0.0039, -1024.5, "float32"),
        (float("nan"), 7, "uint16"),
        (0, 7, "uint16"),
        (float("inf"), 0, "uint16"),
        (2, float("nan"), "int32"),
    ],
)
def test_slopes_give_the_numbers_that_nibabel_gives(slope, inter, dtype, tmp_path):
    values = np.arange(33000, 33060, dtype=np.uint16).reshape(3, 4, 5)
    path = patched(save(tmp_path / "a.nii", values), 112, "2f", slope, inter)
    found = load(path).data
    assert found.dtype == dtype
    expected = values.astype(float)
    if np.isfinite(slope) and slope:
        expected = expected * np.float32(slope) + (np.float32(inter) if np.isfinite(inter) else 0)
    np.testing.assert_allclose(found.T, expected, rtol=1e-6)


def test_a_slope_that_overflows_gives_infinity_and_no_warning(tmp_path):
    save(tmp_path / "a.nii", np.full((2, 2, 2), 1e30, np.float32))
    assert np.isinf(load(patched(tmp_path / "a.nii", 112, "2f", 1e30, 0)).data).all()


def test_a_copy_carries_no_text_and_no_scaling_of_the_source(tmp_path):
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), AFFINE)
    image.header["descrip"] = b"NAME OF A PERSON"
    image.header["db_name"] = b"SECRET DB"
    image.header["intent_name"] = b"SECRET INTENT"
    image.header["aux_file"] = b"SECRET AUX"
    image.header["cal_max"] = 400
    image.header.set_slope_inter(2, -1024)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"SECRET NOTE"))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("afni", b"<SECRET/>"))
    nibabel.save(image, tmp_path / "a.nii")
    receipt = convert(tmp_path / "a.nii", tmp_path / "b.nii")
    raw = (tmp_path / "b.nii").read_bytes()
    assert b"SECRET" not in raw
    assert b"NAME" not in raw
    assert struct.unpack_from("<2f", raw, 112) == (1, 0)
    assert struct.unpack_from("<2f", raw, 124) == (0, 0)
    assert receipt.losses == (
        "2 header extensions of the source are left out: they may hold the patient's identity",
    )
    source = load(tmp_path / "a.nii")
    mask = Mask.like(source, np.ones(source.geometry.shape, np.uint8), ["liver"])
    assert export(mask, tmp_path / "m.nii").losses == receipt.losses


def test_a_masks_own_table_is_no_extension_to_warn_of(tmp_path):
    image = Image(np.zeros((2, 3, 4), np.int16), Geometry.regular((2, 3, 4), (3, 1, 1)))
    export(Mask.like(image, np.ones((2, 3, 4), np.uint8), ["liver"]), tmp_path / "m.nii")
    assert export(load_mask(tmp_path / "m.nii"), tmp_path / "n.nii").losses == ()


@pytest.mark.parametrize("size", [0, 4, 7, -16, 2**31 - 1, 10_000])
def test_extensions_that_lie_about_their_size_are_passed_over(size, tmp_path):
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), AFFINE)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 40))
    nibabel.save(image, tmp_path / "a.nii")
    patched(tmp_path / "a.nii", 352, "i", size)
    np.testing.assert_array_equal(load(tmp_path / "a.nii").data.T, image.dataobj)


@pytest.mark.parametrize("unit", ["meter", "mm", "micron", "unknown"])
def test_units_of_length_are_heeded_and_kept(unit, tmp_path):
    factor = {"meter": 1000, "micron": 0.001}.get(unit, 1)
    stated = AFFINE.copy()
    stated[:3] /= factor
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), stated)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    found = load(tmp_path / "a.nii")
    np.testing.assert_allclose(ours(found), AFFINE, rtol=1e-6)
    export(Mask.like(found, np.ones((5, 4, 3), np.uint8), ["a"]), tmp_path / "m.nii")
    assert load(tmp_path / "m.nii").geometry.matches(found.geometry)
    assert nibabel.load(tmp_path / "m.nii").header.get_xyzt_units()[0] == unit


def with_codes(path: Path, sform: int, qform: int, affine: np.ndarray = AFFINE) -> Path:
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16), affine)
    image.set_sform(affine, code=sform)
    image.set_qform(affine, code=qform)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize(("sform", "qform"), [(4, 0), (0, 1), (1, 1), (2, 4)])
def test_either_form_alone_places_the_voxels_without_a_word(sform, qform, tmp_path):
    job = Job()
    image = load(with_codes(tmp_path / "a.nii", sform, qform), job=job)
    np.testing.assert_allclose(ours(image), AFFINE, atol=1e-5)
    assert job.notes == []
    convert(tmp_path / "a.nii", tmp_path / "b.nii")
    header = nibabel.load(tmp_path / "b.nii").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (sform, qform)


def test_a_qform_serves_where_the_sform_cannot_be_inverted(tmp_path):
    path = with_codes(tmp_path / "a.nii", 1, 1)
    patched(path, 280, "12f", *[0.0] * 12)
    job = Job()
    np.testing.assert_allclose(ours(load(path, job=job)), AFFINE, atol=1e-5)
    assert "the sform cannot be inverted; the qform was taken" in job.notes[0]


def test_an_axis_that_is_not_at_right_angles_goes_there_and_back(tmp_path):
    skewed = AFFINE.copy()
    skewed[1, 2] = 0.8
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), None)
    image.set_sform(skewed, code=1)
    nibabel.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_allclose(ours(load(tmp_path / "a.nii.gz")), skewed, atol=1e-6)
    convert(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    np.testing.assert_allclose(stored_of(tmp_path / "b.nii.gz")[1], skewed, atol=1e-6)


def test_a_label_file_on_another_grid_is_refused_in_mm(tmp_path):
    save(tmp_path / "ct.nii", np.zeros((3, 4, 5), np.int16))
    moved = AFFINE.copy()
    moved[0, 3] += 2
    save(tmp_path / "m.nii", np.ones((3, 4, 5), np.uint8), moved)
    with pytest.raises(GeometryError, match=r"corner voxel at index .* lies 2 mm away"):
        load_mask(tmp_path / "m.nii", image=load(tmp_path / "ct.nii"))
    save(tmp_path / "s.nii", np.ones((3, 4, 6), np.uint8))
    with pytest.raises(GeometryError, match=r"shape \(6, 4, 3\) is not \(5, 4, 3\)"):
        load_mask(tmp_path / "s.nii", image=load(tmp_path / "ct.nii"))


def bomb(**fields: tuple[int, str, tuple[float, ...]]) -> bytes:
    raw = bytearray(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), AFFINE).to_bytes())
    for offset, code, values in fields.values():
        struct.pack_into("<" + code, raw, offset, *values)
    return bytes(raw)


BOMBS = {
    "dims": bomb(dims=(40, "8h", (3, 32767, 32767, 32767, 1, 1, 1, 1))),
    "five dims": bomb(dims=(40, "8h", (5, 32767, 32767, 32767, 32767, 32767, 1, 1))),
    "offset": bomb(offset=(108, "f", (1e12,))),
    "endless offset": bomb(offset=(108, "f", (float("inf"),))),
    "no offset": bomb(offset=(108, "f", (float("nan"),))),
    "negative": bomb(dims=(40, "8h", (3, -4, 4, 4, 1, 1, 1, 1))),
    "no axis": bomb(dims=(40, "8h", (0, 4, 4, 4, 1, 1, 1, 1))),
    "seven axes": bomb(dims=(40, "8h", (7, 2, 2, 2, 2, 2, 2, 2))),
    "complex": bomb(kind=(70, "2h", (32, 64))),
    "long double": bomb(kind=(70, "2h", (1536, 128))),
    "bits": bomb(kind=(70, "2h", (1, 1))),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", BOMBS)
def test_a_header_that_claims_too_much_is_refused_before_memory_is_taken(
    name, packed, tmp_path, monkeypatch
):
    taken = []
    empty = np.empty
    monkeypatch.setattr(
        np, "empty", lambda n, *a, **k: taken.append(np.prod(n)) or empty(n, *a, **k)
    )
    path = tmp_path / ("a.nii.gz" if packed else "a.nii")
    path.write_bytes(gzip.compress(BOMBS[name]) if packed else BOMBS[name])
    with pytest.raises(FormatError, match=r"expected .*got .*; "):
        load(path)
    assert max(taken, default=0) <= 2**20 + 1040 * path.stat().st_size


def test_axes_of_one_behind_the_fifth_are_dropped(tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(bomb(dims=(40, "8h", (7, 4, 4, 4, 1, 1, 1, 1))))
    assert load(path).data.shape == (4, 4, 4)


@pytest.mark.parametrize(("offset", "size"), [(0, 352), (1, 352), (348, 348), (352, 352)])
def test_an_offset_inside_the_header_means_right_behind_it(offset, size, tmp_path):
    values = np.arange(64, dtype=np.int16).reshape(4, 4, 4)
    raw = bytearray(nibabel.Nifti1Image(values, AFFINE).to_bytes())
    struct.pack_into("<f", raw, 108, offset)
    (tmp_path / "a.nii").write_bytes(raw[:size].ljust(size, b"\0") + raw[352:])
    np.testing.assert_array_equal(load(tmp_path / "a.nii").data.T, values)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair])
def test_a_pair_of_hdr_and_img_is_refused_by_name(kind, tmp_path):
    nibabel.save(kind(np.zeros((3, 4, 5), np.int16), AFFINE), tmp_path / "a.hdr")
    with pytest.raises(FormatError, match=r"a\.hdr, the header of a \.hdr and \.img pair; join"):
        load(tmp_path / "a.hdr")


def test_several_gzip_members_are_read_as_one(tmp_path):
    values = np.arange(1000, dtype=np.int16).reshape(10, 10, 10)
    raw = nibabel.Nifti1Image(values, AFFINE).to_bytes()
    (tmp_path / "one.nii.gz").write_bytes(gzip.compress(raw))
    (tmp_path / "two.nii.gz").write_bytes(gzip.compress(raw[:700]) + gzip.compress(raw[700:]))
    for name in ("one", "two"):
        np.testing.assert_array_equal(load(tmp_path / f"{name}.nii.gz").data.T, values)


def test_gunzip_takes_one_member_of_the_stated_size_and_checks_it():
    packed = np.frombuffer(gzip.compress(b"abc" * 1000), np.uint8)
    damaged = packed.copy()
    damaged[-8] ^= 1
    assert bytes(gunzip(packed, 3000)) == b"abc" * 1000
    assert [gunzip(packed, n) for n in (0, 1, 2999, 3001)] == [None] * 4
    assert gunzip(damaged, 3000) is None
    assert gunzip(packed[:20], 3000) is None


@pytest.mark.parametrize(
    "name",
    ["anatomical.nii", "functional.nii", "example4d.nii.gz", "example_nifti2.nii.gz",
     "reoriented_anat_moved.nii", "resampled_anat_moved.nii", "standard.nii.gz"],
)  # fmt: skip
def test_nibabels_own_files_equal_nibabel_and_go_there_and_back(name, tmp_path):
    image = load(PEERS / name)
    values, affine = stored_of(PEERS / name)
    np.testing.assert_allclose(ours(image), affine, atol=1e-5)
    np.testing.assert_allclose(image.data.T, np.squeeze(values), rtol=1e-6)
    convert(PEERS / name, tmp_path / "b.nii.gz")
    again, place = stored_of(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(again.T, image.data)
    np.testing.assert_allclose(place, affine, atol=1e-5)


REAL = ["nifti_edge/*.nii.gz", "mri/*/*.nii.gz", "mri/*/*/*.nii.gz"]


def test_every_real_odd_file_equals_nibabel_and_a_mask_on_it_simpleitk(shared_data, tmp_path):
    files = sorted(path for pattern in REAL for path in shared_data.glob(pattern))
    assert len(files) >= 10
    for path in files:
        image = load(path)
        values, affine = stored_of(path)
        if values.dtype.names:
            values = np.stack([values[n] for n in values.dtype.names], axis=0)
        np.testing.assert_allclose(ours(image), affine, atol=1e-4, err_msg=path.name)
        np.testing.assert_allclose(image.data.T, values, rtol=1e-6, err_msg=path.name)
        still = image.frame(0).channel(0)
        ids = np.zeros(still.geometry.shape, np.uint8)
        ids[0, 1, 2], ids[-1, -2, -3] = 1, 2
        export(Mask.like(still, ids, ["a", "b"]), tmp_path / "m.nii.gz")
        stored, place = stored_of(tmp_path / "m.nii.gz")
        np.testing.assert_array_equal(stored.T, ids, err_msg=path.name)
        np.testing.assert_allclose(place, affine, atol=1e-4, err_msg=path.name)
        by_itk = sitk.ReadImage(str(tmp_path / "m.nii.gz"))
        for index in np.argwhere(ids):
            lps = by_itk.TransformIndexToPhysicalPoint([int(n) for n in index[::-1]])
            meant = still.geometry.to_world(index)
            np.testing.assert_allclose(np.array(lps) * (-1, -1, 1), meant, atol=1e-3)


@pytest.mark.parametrize("dtype", ["complex64", "longdouble"])
def test_images_of_types_that_nifti_programs_do_not_share_are_refused(dtype):
    from maskloop.formats.nifti_write import plan_image

    image = Image(np.zeros((2, 3, 4), dtype), Geometry.regular((2, 3, 4), (1, 1, 1)))
    with pytest.raises(InputError, match="expected pixels of a real type"):
        plan_image(image, suffix=".nii")


@pytest.mark.parametrize("step", [1e300, 1e-320])
def test_steps_beyond_any_length_are_refused(step, tmp_path):
    image = nibabel.Nifti2Image(np.zeros((3, 4, 5), np.int16), None)
    image.header["sform_code"] = 1
    for row, line in zip(("srow_x", "srow_y", "srow_z"), np.eye(4)[:3] * step, strict=True):
        image.header[row] = line
    nibabel.save(image, tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<12d", raw, 400, *(np.eye(4)[:3] * step).ravel())
    struct.pack_into("<2i", raw, 344, 0, 1)
    (tmp_path / "a.nii").write_bytes(raw)
    with pytest.raises(FormatError, match=r"expected a usable affine in a\.nii"):
        load(tmp_path / "a.nii")

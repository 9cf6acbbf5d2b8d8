"""NIfTI: every orientation keeps its place, labels their type, damage its message."""

from __future__ import annotations

import gzip
import itertools
import struct
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskloop.core.errors import FormatError, InputError
from maskloop.core.geometry import Geometry
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.loop.export import export
from maskloop.loop.load import load, load_mask

AXES = [
    np.array(p, dtype=float)
    for order in itertools.permutations(range(3))
    for p in (
        [[s[r] if order[r] == c else 0 for c in range(3)] for r in range(3)]
        for s in itertools.product((1, -1), repeat=3)
    )
]
SHAPE = (5, 6, 7)  # i, j, k as stored


def rotation(angles: tuple[float, float, float]) -> np.ndarray:
    found = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles)):
        one = np.eye(3)
        a, b = [n for n in range(3) if n != axis]
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        found = found @ one
    return found


def affine_of(axes: np.ndarray, turn: np.ndarray, shear: float = 0.0) -> np.ndarray:
    affine = np.eye(4)
    skew = np.eye(3)
    skew[0, 1] = shear
    affine[:3, :3] = turn @ axes @ skew @ np.diag((0.7, 0.8, 3.0))
    affine[:3, 3] = (-120.5, 33.25, 410.0)
    return affine


def write_ct(
    path: Path, affine: np.ndarray, *, sform: int = 1, qform: int = 1, kind=nib.Nifti1Image
) -> np.ndarray:
    values = np.random.default_rng(3).integers(-1000, 1000, SHAPE).astype(np.int16)
    image = kind(values, affine)
    image.set_sform(affine, code=sform)
    image.set_qform(affine if qform else None, code=qform)
    image.header["descrip"] = b"SECRET NAME"
    image.header["cal_max"] = 400
    nib.save(image, path)
    return values


def labelled(image, seed: int = 0) -> Mask:
    ids = np.random.default_rng(seed).integers(0, 4, image.geometry.shape).astype(np.uint8)
    return Mask.like(image, ids, {1: "liver", 2: "tumour", 3: "cyst"})


@settings(max_examples=40, deadline=None)
@given(
    axes=st.sampled_from(AXES),
    angles=st.tuples(*[st.sampled_from((0.0, 12.0, 50.0))] * 3),
    shear=st.sampled_from((0.0, 0.3)),
    suffix=st.sampled_from((".nii", ".nii.gz")),
)
def test_every_orientation_keeps_each_voxels_place(tmp_path_factory, axes, angles, shear, suffix):
    folder = tmp_path_factory.mktemp("turn")
    affine = affine_of(axes, rotation(angles), shear)
    write_ct(folder / f"ct{suffix}", affine, qform=0 if shear else 1)
    image = load(folder / f"ct{suffix}")
    mask = labelled(image)
    receipt = export(mask, folder / f"mask{suffix}")
    assert receipt.verdict == "PASS"

    stored = nib.load(folder / f"mask{suffix}")
    assert stored.shape == SHAPE
    np.testing.assert_allclose(stored.affine, affine, atol=1e-5)
    np.testing.assert_array_equal(np.asanyarray(stored.dataobj).T, mask.data)
    index = np.argwhere(mask.data)
    there = nib.affines.apply_affine(stored.affine, index[:, ::-1])
    np.testing.assert_allclose(there, mask.geometry.to_world(index), atol=1e-3)
    again = load_mask(folder / f"mask{suffix}")
    assert again.geometry.matches(image.geometry)
    assert dict(again.labels) == dict(mask.labels)


@pytest.mark.parametrize(
    "axes",
    AXES,
    ids=lambda a: "".join(map(str, a[np.nonzero(a)].astype(int))) + str(np.abs(a).argmax(0)),
)
def test_all_48_axis_orders_read_the_same_in_simpleitk(tmp_path, axes):
    sitk = pytest.importorskip("SimpleITK")
    write_ct(tmp_path / "ct.nii.gz", affine_of(axes, rotation((5, 12, 50))))
    mask = labelled(load(tmp_path / "ct.nii.gz"))
    export(mask, tmp_path / "mask.nii.gz")
    found = sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), mask.data)
    for index in ((0, 0, 0), (6, 5, 4), (3, 1, 2)):
        lps = np.array(found.TransformIndexToPhysicalPoint([int(n) for n in index[::-1]]))
        np.testing.assert_allclose(lps * (-1, -1, 1), mask.geometry.to_world(index), atol=1e-3)


def test_opening_exporting_and_info_import_neither_nibabel_nor_pydicom(tmp_path):
    write_ct(tmp_path / "ct.nii.gz", affine_of(AXES[5], rotation((12, 0, 3))), sform=0)
    export(labelled(load(tmp_path / "ct.nii.gz")), tmp_path / "m.nii.gz")
    paths = {name: str(tmp_path / f"{name}.nii.gz") for name in ("ct", "m", "n", "i")}
    code = (
        "import sys; from maskloop.cli import run; from maskloop.desk.convert import convert;"
        "from maskloop.loop.export import export; from maskloop.loop.load import load, load_mask;"
        f"image = load({paths['ct']!r}); mask = load_mask({paths['m']!r}, image=image);"
        f"export(mask, {paths['n']!r}, image=image); convert({paths['ct']!r}, {paths['i']!r});"
        f"code = run(['info', {paths['ct']!r}]);"
        "found = {'nibabel', 'pydicom'} & set(sys.modules);"
        "sys.exit(f'{found} imported' if found else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ct.nii.gz" in done.stdout
    assert (tmp_path / "n.nii.gz").exists()
    assert (tmp_path / "i.nii.gz").exists()


@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (2, 1), (4, 0), (0, 1), (0, 2)])
def test_header_codes_are_kept(tmp_path, sform, qform):
    affine = affine_of(AXES[5], rotation((12, 0, 3)))
    write_ct(tmp_path / "ct.nii.gz", affine, sform=sform, qform=qform)
    source = nib.load(tmp_path / "ct.nii.gz").header
    export(labelled(load(tmp_path / "ct.nii.gz")), tmp_path / "mask.nii.gz")
    header = nib.load(tmp_path / "mask.nii.gz").header
    for key in ("sform_code", "qform_code", "xyzt_units", "srow_x", "quatern_b", "qoffset_x"):
        np.testing.assert_array_equal(header[key], source[key])
    np.testing.assert_array_equal(header["pixdim"][:4], source["pixdim"][:4])


def test_nothing_of_the_sources_text_or_scaling_leaks(tmp_path):
    values = write_ct(tmp_path / "ct.nii", affine_of(AXES[0], np.eye(3)))
    image = nib.Nifti1Image(values, None)
    image.header["descrip"] = b"SECRET NAME"
    image.header.set_slope_inter(2, -1024)
    nib.save(image, tmp_path / "ct.nii")
    export(labelled(load(tmp_path / "ct.nii")), tmp_path / "mask.nii")
    raw = (tmp_path / "mask.nii").read_bytes()
    assert b"SECRET" not in raw
    assert struct.unpack_from("<2f", raw, 112) == (1.0, 0.0)
    assert struct.unpack_from("<2f", raw, 124) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("highest", "dtype"), [(1, "uint8"), (255, "uint8"), (256, "uint16"), (70000, "uint32")]
)
def test_ids_are_stored_in_the_smallest_unsigned_type(tmp_path, highest, dtype):
    ids = np.zeros((3, 4, 5), np.uint32)
    ids[1, 2, 3] = highest
    mask = Mask(ids, Geometry.regular((3, 4, 5), (3, 1, 1)), LabelTable())
    export(mask, tmp_path / "mask.nii.gz")
    stored = nib.load(tmp_path / "mask.nii.gz")
    assert stored.get_data_dtype() == dtype
    assert np.unique(np.asanyarray(stored.dataobj)).tolist() == [0, highest]


@pytest.mark.parametrize("kind", [np.bool_, np.int32, np.int64, np.float32, np.float64])
def test_whole_numbers_of_any_type_are_read_as_ids(tmp_path, kind):
    ids = np.array([0, 1, 1, 0, 1, 0]).reshape(1, 2, 3).astype(kind)
    stored = nib.Nifti1Image(
        ids.astype(np.uint8) if kind is np.bool_ else ids,
        np.eye(4),
        dtype=None if kind is np.bool_ else kind,
    )
    nib.save(stored, tmp_path / "m.nii.gz")
    mask = load_mask(tmp_path / "m.nii.gz")
    assert mask.data.dtype == np.uint8
    np.testing.assert_array_equal(mask.data.T, ids.astype(int))
    assert mask.labels[1].category == "object"
    assert load_mask(tmp_path / "m.nii.gz", kind="classes").labels.kind == "classes"


@pytest.mark.parametrize("value", [0.5, -1.0, np.nan])
def test_other_numbers_are_refused_as_ids(tmp_path, value):
    nib.save(nib.Nifti1Image(np.full((2, 2, 2), value, np.float32), np.eye(4)), tmp_path / "m.nii")
    with pytest.raises(InputError, match=r"m\.nii.*expected .* ids"):
        load_mask(tmp_path / "m.nii")


def test_int16_stays_int16_and_needs_no_copy(tmp_path):
    values = write_ct(tmp_path / "ct.nii.gz", affine_of(AXES[0], np.eye(3)))
    image = load(tmp_path / "ct.nii.gz")
    assert image.data.dtype == np.int16
    assert not image.data.flags.owndata
    np.testing.assert_array_equal(image.data, values.T)


@pytest.mark.parametrize(
    ("slope", "inter", "dtype"),
    [
        (1, -1024, np.int16),
        (2, -1024, np.int16),
        (0.5, 3, np.float32),
        (float("nan"), 0, np.uint16),
        (0, 5, np.uint16),
    ],
)
def test_scaling_is_applied_only_where_it_says_something(tmp_path, slope, inter, dtype):
    values = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    image = nib.Nifti1Image(values, np.eye(4))
    nib.save(image, tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<2f", raw, 112, slope, inter)
    (tmp_path / "a.nii").write_bytes(raw)
    found = load(tmp_path / "a.nii").data
    assert found.dtype == dtype
    np.testing.assert_allclose(found.T, nib.load(tmp_path / "a.nii").get_fdata(), atol=1e-4)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_versions_and_byte_orders(tmp_path, kind, endian):
    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    header = kind.header_class(endianness=endian)
    header.set_data_dtype(np.int16)
    nib.save(kind(values, affine_of(AXES[9], np.eye(3)), header), tmp_path / "a.nii.gz")
    image = load(tmp_path / "a.nii.gz")
    assert image.data.dtype.isnative
    np.testing.assert_array_equal(image.data.T, values)
    export(labelled(image), tmp_path / "m.nii.gz")
    stored = nib.load(tmp_path / "m.nii.gz")
    assert isinstance(stored, nib.Nifti2Image) is (kind is nib.Nifti2Image)
    np.testing.assert_allclose(stored.affine, affine_of(AXES[9], np.eye(3)), atol=1e-5)


def test_time_comes_first_and_vectors_last(tmp_path):
    nib.save(
        nib.Nifti1Image(np.arange(2 * 3 * 4 * 5, dtype=np.int16).reshape(2, 3, 4, 5), np.eye(4)),
        tmp_path / "t.nii",
    )
    image = load(tmp_path / "t.nii")
    assert (image.has_time, image.data.shape, image.geometry.shape) == (
        True,
        (5, 4, 3, 2),
        (4, 3, 2),
    )
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4, 1, 3), np.float32), np.eye(4)), tmp_path / "v.nii")
    image = load(tmp_path / "v.nii")
    assert (image.has_channels, image.has_time, image.data.shape) == (True, False, (4, 3, 2, 3))


def test_a_two_dimensional_file_becomes_one_slice_and_stays_two_dimensional(tmp_path):
    nib.save(
        nib.Nifti1Image(np.zeros((4, 5), np.int16), np.diag((2.0, 3, 1, 1))), tmp_path / "a.nii"
    )
    image = load(tmp_path / "a.nii")
    assert image.data.shape == (1, 5, 4)
    export(Mask.like(image, np.ones((1, 5, 4), np.uint8), ["a"]), tmp_path / "m.nii")
    assert nib.load(tmp_path / "m.nii").shape == (4, 5)


def test_a_sheared_grid_is_stated_by_the_sform_only(tmp_path):
    affine = affine_of(AXES[0], rotation((3, 4, 5)), shear=0.4)
    grid = Geometry(SHAPE[::-1], affine[:, [2, 1, 0, 3]])
    ids = np.zeros(SHAPE[::-1], np.uint8)
    ids[1, 2, 3] = 1
    export(Mask(ids, grid, LabelTable.classes(["a"])), tmp_path / "m.nii.gz")
    header = nib.load(tmp_path / "m.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 0)
    np.testing.assert_allclose(header.get_sform(), affine, atol=1e-4)


def test_a_grid_from_elsewhere_gets_both_forms_in_mm(tmp_path):
    grid = Geometry.regular((3, 4, 5), (3, 0.7, 0.8), (1, 2, 3))
    export(
        Mask(np.ones((3, 4, 5), np.uint8), grid, LabelTable.classes(["a"])), tmp_path / "m.nii.gz"
    )
    header = nib.load(tmp_path / "m.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-5)


def test_missing_codes_are_told(tmp_path):
    write_ct(tmp_path / "ct.nii", affine_of(AXES[0], np.eye(3)), sform=0, qform=0)
    job = Job()
    image = load(tmp_path / "ct.nii", job=job)
    assert "states no orientation" in job.notes[0]
    np.testing.assert_allclose(
        image.geometry.affine[:, [2, 1, 0, 3]], nib.load(tmp_path / "ct.nii").affine
    )
    export(labelled(image), tmp_path / "m.nii")
    np.testing.assert_allclose(
        nib.load(tmp_path / "m.nii").affine, nib.load(tmp_path / "ct.nii").affine
    )


def test_disagreeing_forms_are_told_in_mm(tmp_path):
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), None)
    image.set_sform(np.diag((1.0, 1, 1, 1)), code=1)
    image.set_qform(np.diag((-1.0, -1, 1, 1)), code=1)
    nib.save(image, tmp_path / "a.nii")
    job = Job()
    assert load(tmp_path / "a.nii", job=job).geometry.orientation == "SAR"
    # The far corner (4, 5, 0) of shape (5, 6, 7) lies at (-4, -5) by the qform.
    assert job.notes == [
        "a.nii: sform and qform disagree, by the qform the corner voxel at index (0, 5, 4) lies "
        "12.8 mm away; the sform was taken"
    ]


def test_micrometres_become_millimetres(tmp_path):
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.diag((500.0, 500, 1000, 1)))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "a.nii")
    found = load(tmp_path / "a.nii")
    np.testing.assert_allclose(found.geometry.spacing, (1, 0.5, 0.5))
    export(labelled(found), tmp_path / "m.nii")
    assert nib.load(tmp_path / "m.nii").header.get_xyzt_units()[0] == "micron"


def test_the_table_survives_without_its_sidecar(tmp_path):
    write_ct(tmp_path / "ct.nii", affine_of(AXES[0], np.eye(3)))
    mask = labelled(load(tmp_path / "ct.nii"))
    export(mask, tmp_path / "m.nii.gz")
    (tmp_path / "m.nii.gz.labels.json").unlink()
    assert dict(load_mask(tmp_path / "m.nii.gz").labels) == dict(mask.labels)


def test_the_sidecar_serves_where_the_file_has_no_table(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "m.nii")
    (tmp_path / "m.nii.labels.json").write_text('{"maskloop":1,"labels":[{"id":1,"name":"liver"}]}')
    assert load_mask(tmp_path / "m.nii").labels.names == {1: "liver"}


def packed(values: np.ndarray) -> bytes:
    return nib.Nifti1Image(values, np.eye(4)).to_bytes()


def test_several_gzip_members_and_trailing_bytes_are_read(tmp_path):
    values = np.arange(1000, dtype=np.int16).reshape(10, 10, 10)
    raw = packed(values)
    cases = {
        "two.nii.gz": gzip.compress(raw[:700]) + gzip.compress(raw[700:]),
        "zeros.nii.gz": gzip.compress(raw) + bytes(64),
        "rest.nii.gz": gzip.compress(raw) + b"something else",
        "longer.nii.gz": gzip.compress(raw + b"more voxels"),
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(load(tmp_path / name).data.T, values, err_msg=name)


def test_damaged_files_say_so(tmp_path):
    raw = packed(np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16))
    whole = gzip.compress(raw)
    wrong = bytearray(whole)
    wrong[-8] ^= 255
    huge = bytearray(raw)
    struct.pack_into("<3h", huge, 42, 32000, 32000, 32000)
    kind = bytearray(raw)
    struct.pack_into("<h", kind, 70, 999)
    cases = {
        "cut.nii.gz": whole[: len(whole) // 2],
        "crc.nii.gz": bytes(wrong),
        "cut.nii": raw[:-100],
        "text.nii.gz": b"hello, I am a text",
        "text.nii": b"hello, I am a text" * 40,
        "empty.nii.gz": b"",
        "gz_of_text.nii.gz": gzip.compress(b"hello" * 300),
        "huge.nii.gz": gzip.compress(bytes(huge)),
        "kind.nii": bytes(kind),
        "head.nii.gz": whole[:40],
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FormatError, match=r"expected .*got .*; "):
            load(tmp_path / name)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_an_unusable_affine_is_refused(tmp_path, value):
    raw = bytearray(packed(np.zeros((3, 3, 3), np.int16)))
    struct.pack_into("<12f", raw, 280, *[value] * 12)
    struct.pack_into("<2h", raw, 252, 0, 1)
    (tmp_path / "a.nii").write_bytes(raw)
    with pytest.raises(FormatError, match=r"expected a usable affine in a\.nii"):
        load(tmp_path / "a.nii")


def test_colours_are_channels(shared_data):
    for name, channels in (("CIT168.nii.gz", 4), ("rgb_test_file.nii.gz", 3)):
        image = load(shared_data / "nifti_edge" / name)
        assert (image.has_channels, image.channels) == (True, channels)
        stored = np.asanyarray(nib.load(shared_data / "nifti_edge" / name).dataobj)
        np.testing.assert_array_equal(image.data[..., 0].T, stored["R"])
        np.testing.assert_array_equal(image.data[..., 2].T, stored["B"])


@pytest.mark.parametrize(
    "name",
    [
        "nifti_edge/CT_AVM.nii.gz",
        "nifti_edge/CT_pitch.nii.gz",
        "mri/sct/t2/t2.nii.gz",
        "mri/sct/fmri/fmri.nii.gz",
        "mri/mricron_templates/aal.nii.gz",
    ],
)
def test_real_scans_equal_nibabel(shared_data, name):
    image = load(shared_data / name)
    stored = nib.load(shared_data / name)
    np.testing.assert_allclose(image.geometry.affine[:, [2, 1, 0, 3]], stored.affine, atol=1e-6)
    np.testing.assert_allclose(image.data.T, np.asanyarray(stored.dataobj), rtol=1e-6)


@pytest.mark.parametrize("name", ["t2_seg-manual.nii.gz", "t2_seg-manual_labeled.nii.gz"])
def test_real_masks_go_there_and_back(shared_data, tmp_path, name):
    image = load(shared_data / "mri/sct/t2/t2.nii.gz")
    mask = load_mask(shared_data / "mri/sct/t2" / name, image=image)
    export(mask, tmp_path / "m.nii.gz", image=image)
    again, source = nib.load(tmp_path / "m.nii.gz"), nib.load(shared_data / "mri/sct/t2" / name)
    np.testing.assert_array_equal(np.asanyarray(again.dataobj), np.asanyarray(source.dataobj))
    np.testing.assert_allclose(
        again.affine, nib.load(shared_data / "mri/sct/t2/t2.nii.gz").affine, atol=1e-5
    )

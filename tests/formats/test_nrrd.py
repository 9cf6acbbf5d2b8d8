"""NRRD: every axis order keeps its place, segments their names, lies of a header their refusal."""

from __future__ import annotations

import bz2
import gzip
import os
from pathlib import Path

import nrrd
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
    UnknownNameError,
)
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.desk.check import info
from maskloop.desk.convert import convert
from maskloop.loop.export import export
from maskloop.loop.load import load, load_mask, load_masks
from tests.formats.memory import memory_below
from tests.formats.turned_grids import AXES, LPS, OBLIQUE, SHAPE, grid_of, labelled, turn


def write(path: Path, header: str, data: bytes = b"") -> Path:
    path.write_bytes(b"NRRD0004\n" + header.encode() + b"\n\n" + data)
    return path


PLAIN = "type: short\ndimension: 3\nsizes: 2 3 4\nendian: little\nencoding: raw"
VALUES = np.arange(24, dtype="<i2").reshape(4, 3, 2)


@settings(max_examples=40)
@given(
    axes=st.sampled_from(AXES),
    angles=st.tuples(*[st.sampled_from((0.0, 12.0, 50.0))] * 3),
    shear=st.sampled_from((0.0, 0.3)),
)
def test_every_voxel_keeps_its_place_for_pynrrd(tmp_path_factory, axes, angles, shear):
    skew = np.eye(3)
    skew[0, 1] = shear
    steps = turn(*angles) @ axes @ skew @ np.diag((0.7, 0.8, 3.0))
    mask = labelled(grid_of(steps))
    path = tmp_path_factory.mktemp("turn") / "mask.nrrd"
    assert export(mask, path).verdict == "PASS"
    data, header = nrrd.read(str(path))
    assert data.shape == SHAPE
    np.testing.assert_array_equal(data.T, mask.data)
    np.testing.assert_allclose(header["space directions"].T, steps, atol=1e-12)
    index = np.argwhere(mask.data)
    there = index[:, ::-1] @ header["space directions"] + header["space origin"]
    np.testing.assert_allclose(there @ LPS, mask.geometry.to_world(index), atol=1e-3)
    again = load_mask(path)
    np.testing.assert_allclose(again.geometry.affine, mask.geometry.affine, atol=1e-12)
    assert dict(again.labels) == dict(mask.labels)


@pytest.mark.parametrize("axes", AXES[::7])
def test_simpleitk_puts_voxels_where_we_do_both_ways(tmp_path, axes):
    sitk = pytest.importorskip("SimpleITK")
    steps = turn(5, 12, 50) @ axes @ np.diag((0.7, 0.8, 3.0))
    mask = labelled(grid_of(steps))
    export(mask, tmp_path / "ours.nrrd")
    found = sitk.ReadImage(str(tmp_path / "ours.nrrd"))
    sitk.WriteImage(found, str(tmp_path / "theirs.nrrd"), True)
    ours = load_mask(tmp_path / "theirs.nrrd")
    for other in (sitk.GetArrayFromImage(found), ours.data):
        np.testing.assert_array_equal(other, mask.data)
    for index in ((0, 0, 0), (6, 5, 4), (3, 1, 2)):
        lps = np.array(found.TransformIndexToPhysicalPoint([int(n) for n in index[::-1]]))
        np.testing.assert_allclose(lps @ LPS, mask.geometry.to_world(index), atol=1e-3)
        np.testing.assert_allclose(ours.geometry.to_world(index), lps @ LPS, atol=1e-3)


@pytest.mark.parametrize(
    "dtype", ["bool", "u1", "i2", "i4", "i8", "u2", "u4", "u8", "f4", "f8", "f2"]
)
def test_images_of_every_type_come_back_as_they_were(tmp_path, dtype):
    values = np.random.default_rng(1).integers(0, 2, SHAPE[::-1]).astype(dtype)
    image = Image(values, grid_of(OBLIQUE))
    assert convert(image, tmp_path / "a.nrrd").verdict == "PASS"
    np.testing.assert_array_equal(load(tmp_path / "a.nrrd").data, values)
    data, _ = nrrd.read(str(tmp_path / "a.nrrd"))
    np.testing.assert_array_equal(data.T, values)


@pytest.mark.parametrize("dtype", ["bool", "u1", "u2", "u4", "u8"])
def test_label_values_come_back_in_the_smallest_type(tmp_path, dtype):
    top = 1 if dtype == "bool" else 255 if dtype == "u1" else 300
    ids = np.zeros((4, 5, 6), dtype)
    ids[1], ids[2, 1:3], ids[3, 2] = 1, min(2, top), top
    grid = Geometry.regular(ids.shape, (3, 1, 2))
    export(
        Mask(ids, grid, LabelTable.objects(np.unique(ids[ids > 0]).tolist())), tmp_path / "m.nrrd"
    )
    again = load_mask(tmp_path / "m.nrrd")
    np.testing.assert_array_equal(again.data, ids)
    assert again.data.dtype == np.min_scalar_type(top)


@pytest.mark.parametrize("dtype", ["<i2", ">i2", ">u4", ">f8", "<u8", "|i1"])
@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii", "hex"])
def test_every_encoding_type_and_byte_order_is_read(tmp_path, dtype, encoding):
    values = VALUES.astype(dtype)
    content = values.tobytes()
    packed = {
        "raw": content,
        "gzip": gzip.compress(content[:9]) + gzip.compress(content[9:]),
        "bzip2": bz2.compress(content),
        "ascii": b" ".join(str(n).encode() for n in values.ravel().tolist()),
        "hex": content.hex(" ", 3).encode(),
    }[encoding]
    names = {"i2": "int16", "u4": "uint", "f8": "double", "u8": "uint64_t", "i1": "signed char"}
    endian = "big" if dtype[0] == ">" else "little"
    path = write(
        tmp_path / "a.nrrd",
        f"TYPE: {names[dtype[1:]]}\ndimension: 3\nsizes: 2 3 4\nendian: {endian}\n"
        f"encoding: {encoding}",
        packed,
    )
    image = load(path)
    np.testing.assert_array_equal(image.data, values)
    assert image.data.dtype == values.dtype.newbyteorder("=")
    assert image.geometry.unit == "px"  # no spacing, no millimetres


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("space: left-posterior-superior", (-1, -1, 1)),
        ("space: LPS", (-1, -1, 1)),
        ("space: right-anterior-superior", (1, 1, 1)),
        ("space: LAS", (-1, 1, 1)),
        ("space dimension: 3", (-1, -1, 1)),
        ("space: scanner-xyz", (-1, -1, 1)),
    ],
)
def test_each_space_is_turned_into_ras(tmp_path, space, signs):
    path = write(
        tmp_path / "a.nrrd",
        f"{PLAIN}\n{space}\nspace directions: (1,2,0) (-2,1,0) (0,0,5)\nspace origin: (10,20,30)",
        VALUES.tobytes(),
    )
    job = Job()
    image = load(path, job=job)
    expected = np.array(signs) * (10 + 1 - 2 * 2, 20 + 2 * 1 + 1 * 2, 30 + 5 * 3)
    np.testing.assert_allclose(image.geometry.to_world((3, 2, 1)), expected)
    is_nameless = "dimension" in space or "scanner" in space
    assert any("names no patient axes" in note for note in job.notes) is is_nameless


@pytest.mark.parametrize(
    "centering", ["", "\ncenterings: cell cell cell", "\ncenters: node ??? node"]
)
def test_the_origin_is_the_centre_of_the_first_sample_whatever_the_centering(tmp_path, centering):
    path = write(
        tmp_path / "a.nrrd",
        f"{PLAIN}{centering}\nspace: RAS\nspace directions: (2,0,0) (0,2,0) (0,0,2)\n"
        "space origin: (10,20,30)",
        VALUES.tobytes(),
    )
    assert load(path).geometry.to_world((0, 0, 0)).tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    ("units", "factor"), [('"um" "um" "um"', 1e-3), ('"m" "m" "m"', 1000), ('"mm" "mm" "mm"', 1)]
)
def test_space_units_are_turned_into_mm(tmp_path, units, factor):
    path = write(
        tmp_path / "a.nrrd",
        f"{PLAIN}\nspace: RAS\nspace directions: (2,0,0) (0,3,0) (0,0,4)\n"
        f"space origin: (10,20,30)\nspace units: {units}",
        VALUES.tobytes(),
    )
    grid = load(path).geometry
    np.testing.assert_allclose(grid.spacing, np.array((4, 3, 2)) * factor)
    np.testing.assert_allclose(grid.to_world((0, 0, 0)), np.array((10, 20, 30)) * factor)


def test_spacings_alone_place_a_volume_and_the_guess_is_told(tmp_path):
    path = write(tmp_path / "a.nrrd", PLAIN + "\nspacings: 0.5 0.6 3", VALUES.tobytes())
    job = Job()
    image = load(path, job=job)
    assert image.geometry.spacing == (3, 0.6, 0.5)
    assert image.geometry.orientation == "SPL"
    assert any("x was taken as left" in note for note in job.notes)


@pytest.mark.parametrize("dimension", [2, 3])
def test_two_axes_with_a_spacing_are_one_slice_and_are_written_as_two(tmp_path, dimension):
    steps = "(0.5,0) (0,0.6)" if dimension == 2 else "(0.5,0,0) (0,0,-0.6)"
    origin = "(1,2)" if dimension == 2 else "(1,2,3)"
    path = write(
        tmp_path / "a.nrrd",
        f"type: uchar\ndimension: 2\nsizes: 3 2\nencoding: raw\nspace dimension: {dimension}\n"
        f"space directions: {steps}\nspace origin: {origin}",
        bytes(range(6)),
    )
    image = load(path)
    assert image.geometry.shape == (1, 2, 3)
    np.testing.assert_allclose(image.geometry.spacing, (1, 0.6, 0.5))
    export(Mask.like(image, image.data, LabelTable.objects(range(1, 6))), tmp_path / "m.nrrd")
    data, header = nrrd.read(str(tmp_path / "m.nrrd"))
    assert data.shape == (3, 2)
    assert header["space directions"].shape == (2, 3)
    np.testing.assert_allclose(load(tmp_path / "m.nrrd").geometry.affine, image.geometry.affine)


def test_pictures_in_pixels_go_there_and_back_without_a_loss(tmp_path):
    ids = np.arange(6, dtype=np.uint8).reshape(2, 3)
    mask = Mask(ids, Geometry.pixels((2, 3)), LabelTable.objects(range(1, 6)))
    receipt = export(mask, tmp_path / "m.nrrd")
    assert receipt.losses == ()
    again = load_mask(tmp_path / "m.nrrd")
    assert again.geometry.matches(mask.geometry)
    np.testing.assert_array_equal(again.data, ids)
    assert "1 mm a pixel" in export(mask, tmp_path / "m.seg.nrrd").losses[0]


@pytest.mark.parametrize(
    ("kinds", "directions", "axes", "has_time", "has_channels"),
    [
        ("RGB-color domain domain domain", "none {}", (1, 2, 3, 0), False, True),
        ("list domain domain domain", "none {}", (1, 2, 3, 0), False, True),
        ("domain domain domain time", "{} none", (0, 1, 2, 3), True, False),
        ("domain domain domain list", "{} none", (0, 1, 2, 3), True, False),
        ("domain domain domain vector", "{} none", (1, 2, 3, 0), False, True),
        ("time domain domain domain", "none {}", (0, 1, 2, 3), True, False),
    ],
)
def test_axes_beside_space_are_time_first_or_channels_last(
    tmp_path, kinds, directions, axes, has_time, has_channels
):
    at = kinds.split().index(next(k for k in kinds.split() if k != "domain"))
    sizes = [2, 3, 4]
    sizes.insert(at, 5)
    values = np.arange(120, dtype=np.uint8).reshape(sizes[::-1])
    vectors = directions.format("(1,0,0) (0,1,0) (0,0,1)")
    path = write(
        tmp_path / "a.nrrd",
        f"type: uint8\ndimension: 4\nsizes: {' '.join(map(str, sizes))}\nkinds: {kinds}\n"
        f"space: RAS\nspace directions: {vectors}\nspace origin: (0,0,0)\nencoding: raw",
        values.tobytes(),
    )
    image = load(path)
    assert (image.has_time, image.has_channels) == (has_time, has_channels)
    expected = np.moveaxis(values, 3 - at, 0 if has_time else -1)
    np.testing.assert_array_equal(image.data, expected)
    assert image.geometry.shape == (4, 3, 2)


@pytest.mark.parametrize(
    ("shape", "has_time", "has_channels"),
    [((4, 3, 2, 3), False, True), ((5, 4, 3, 2), True, False), ((5, 4, 3, 2, 3), True, True)],
)
def test_time_and_channels_go_there_and_back(tmp_path, shape, has_time, has_channels):
    values = np.random.default_rng(2).integers(0, 99, shape).astype(np.uint8)
    image = Image(values, grid_of(OBLIQUE, (2, 3, 4)), None, None, has_time, has_channels)
    assert convert(image, tmp_path / "a.nrrd").verdict == "PASS"
    again = load(tmp_path / "a.nrrd")
    assert (again.has_time, again.has_channels) == (has_time, has_channels)
    np.testing.assert_array_equal(again.data, values)
    assert again.geometry.matches(image.geometry)


def test_a_time_axis_in_a_space_of_four_is_read(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    values = np.arange(120, dtype=np.uint8).reshape(5, 4, 3, 2)
    image = sitk.GetImageFromArray(values, isVector=False)
    image.SetSpacing((0.5, 0.6, 3, 2))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    found = load(tmp_path / "a.nrrd")
    assert found.has_time
    np.testing.assert_array_equal(found.data, values)
    np.testing.assert_allclose(found.geometry.spacing, (3, 0.6, 0.5))


def slicer(path: Path, volume: np.ndarray, pairs: str, *, is_list: bool = True) -> Path:
    """Write segments as 3D Slicer does: layers in a list axis that varies fastest."""
    sizes, kind = volume.shape[::-1], {"u": "unsigned char", "f": "float"}[volume.dtype.kind]
    return write(
        path,
        f"type: {kind}\ndimension: {len(sizes)}\nspace: left-posterior-superior\n"
        "endian: little\n"
        f"sizes: {' '.join(map(str, sizes))}\n"
        f"space directions: {'none ' if is_list else ''}(-1,0,0) (0,-1,0) (0,0,2)\n"
        f"kinds: {'list ' if is_list else ''}domain domain domain\nencoding: gzip\n"
        f"space origin: (5,6,7)\n{pairs}",
        gzip.compress(np.ascontiguousarray(volume).tobytes()),
    )


LAYERS = np.zeros((4, 3, 6, 2), np.uint8)
LAYERS[1:3, 1, 2:5, 0] = 1
LAYERS[2, 1:, 4:, 0] = 7
LAYERS[1:4, :2, 3:, 1] = 1
PAIRS = """Segment0_ID:=Segment_1
Segment0_Name:=Leber größer
Segment0_Color:=0.5 1 0
Segment0_LabelValue:=1
Segment0_Layer:=0
Segment1_ID:=Segment_2
Segment1_Name:=cyst
Segment1_LabelValue:=7
Segment1_Layer:=0
Segment2_ID:=tumour id
Segment2_Name:=tumour
Segment2_LabelValue:=1
Segment2_Layer:=1
Segment2_Tags:=TerminologyEntry:a^b^c~|Segmentation.Status:completed|"""


def test_overlapping_segments_are_a_mask_a_layer(tmp_path):
    path = slicer(tmp_path / "a.seg.nrrd", LAYERS, PAIRS)
    first, second = load_masks(path)
    np.testing.assert_array_equal(first.data, LAYERS[..., 0])
    np.testing.assert_array_equal(second.data, LAYERS[..., 1])
    assert first.labels.names == {1: "Leber größer", 7: "cyst"}
    assert first.labels[1].colour == "#80ff00"
    assert second.labels.names == {1: "tumour"}
    found = info(path)
    assert (found["kind"], found["masks"]) == ("mask", 2)
    assert [row["name"] for row in found["labels"]] == ["Leber größer", "cyst", "tumour"]


def test_overlapping_segments_are_refused_as_one_mask_and_chosen_by_name_or_id(tmp_path):
    path = slicer(tmp_path / "a.seg.nrrd", LAYERS, PAIRS)
    with pytest.raises(InputError, match=r"got 2, which may overlap: .*'tumour'; .*--entry"):
        load_mask(path)
    for entry in ("tumour", "tumour id", 2):
        mask = load_mask(path, entry=entry)
        np.testing.assert_array_equal(mask.data, LAYERS[..., 1])
    alone = load_mask(path, entry="cyst")
    np.testing.assert_array_equal(alone.data, np.where(LAYERS[..., 0] == 7, 7, 0))
    assert alone.labels.names == {7: "cyst"}
    with pytest.raises(UnknownNameError, match="cyst, tumour"):
        load_mask(path, entry="spleen")


def test_segments_of_before_layers_lie_each_in_its_own_volume(tmp_path):
    pairs = "Segment0_ID:=a\nSegment0_Name:=liver\nSegment1_ID:=b\nSegment1_Name:=tumour"
    volumes = (LAYERS > 0).astype(np.uint8)
    found = load_masks(slicer(tmp_path / "a.seg.nrrd", volumes, pairs))
    assert [m.labels.names for m in found] == [{1: "liver"}, {1: "tumour"}]
    np.testing.assert_array_equal(found[1].data, volumes[..., 1])


def test_a_cropped_segmentation_is_put_in_place_on_its_image(tmp_path):
    whole = load_mask(slicer(tmp_path / "w.seg.nrrd", LAYERS, PAIRS), entry="tumour")
    box = (slice(1, 4), slice(0, 2), slice(3, 6))
    part = Mask(whole.data[box], whole.geometry.cropped(box), whole.labels)
    export(part, tmp_path / "part.seg.nrrd")
    image = Image(np.zeros(whole.data.shape, np.int16), whole.geometry)
    job = Job()
    np.testing.assert_array_equal(
        load_mask(tmp_path / "part.seg.nrrd", image=image, job=job).data, whole.data
    )
    assert any("covers a part" in note for note in job.notes)
    shifted = np.array(part.geometry.affine)
    shifted[0, 3] += 0.3
    off = Geometry(part.geometry.shape, shifted, "mm")
    export(Mask(part.data, off, part.labels), tmp_path / "off.seg.nrrd")
    with pytest.raises(MaskloopError, match="expected mask"):
        load_mask(tmp_path / "off.seg.nrrd", image=image)


def test_slicers_single_empty_voxel_is_an_empty_mask_on_the_image(tmp_path):
    pairs = "Segment0_ID:=a\nSegment0_Name:=liver\nSegment0_LabelValue:=1\nSegment0_Layer:=0"
    path = slicer(tmp_path / "a.seg.nrrd", np.zeros((1, 1, 1), np.uint8), pairs, is_list=False)
    image = Image(np.zeros(SHAPE[::-1], np.int16), grid_of(OBLIQUE))
    mask = load_mask(path, image=image)
    assert (mask.ids(), mask.data.shape) == ([], image.data.shape)
    assert mask.labels.names == {1: "liver"}


def test_a_written_segmentation_has_the_fields_that_slicer_reads(tmp_path):
    grid = grid_of(OBLIQUE, (7, 6, 5))
    ids = np.zeros(grid.shape, np.uint16)
    ids[1:3, 2:6, 4:7] = 2
    ids[0, 0, 0] = 300
    rows = [
        Label(2, "Leber | größer\nzwei \\ drei", "#0a80ff", score=0.25, author="me | you"),
        Label(300, "tumour", category="lesion", is_thing=True, locked=True, status="accepted"),
        Label(9, "absent"),
    ]
    export(Mask(ids, grid, LabelTable(rows)), tmp_path / "m.seg.nrrd")
    text = (tmp_path / "m.seg.nrrd").read_bytes().split(b"\n\n")[0].decode()
    pairs = dict(line.split(":=", 1) for line in text.splitlines() if ":=" in line)
    assert pairs["Segment0_Extent"] == "4 6 2 5 1 2"
    assert pairs["Segment1_Extent"] == "0 -1 0 -1 0 -1"
    assert pairs["Segment2_Extent"] == "0 0 0 0 0 0"
    assert pairs["Segment2_LabelValue"] == "300"
    assert {pairs[f"Segment{n}_Layer"] for n in range(3)} == {"0"}
    assert pairs["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"
    colour = [float(word) for word in pairs["Segment0_Color"].split()]
    np.testing.assert_allclose(colour, np.array((10, 128, 255)) / 255)
    assert "encoding: gzip" in text
    assert dict(load_mask(tmp_path / "m.seg.nrrd").labels) == dict(LabelTable(rows))
    assert not (tmp_path / "m.seg.nrrd.labels.json").exists()


def test_large_ids_and_their_extents_are_written(tmp_path):
    ids = np.zeros((3, 4, 5), np.uint32)
    ids[1, 1:3, 2:4], ids[2, 3, 4] = 70000, 2**32 - 1
    mask = Mask(ids, Geometry.regular(ids.shape, (1, 1, 1)), LabelTable.objects([70000, 2**32 - 1]))
    export(mask, tmp_path / "m.nrrd")
    np.testing.assert_array_equal(load_mask(tmp_path / "m.nrrd").data, ids)
    assert b"Segment0_Extent:=2 3 1 2 1 1\n" in (tmp_path / "m.nrrd").read_bytes()


def test_whole_floats_are_ids_and_others_are_refused(tmp_path):
    for values, is_whole in ((VALUES.astype("<f8"), True), (VALUES + 0.5, False)):
        path = write(
            tmp_path / "a.nrrd",
            PLAIN.replace("short", "double"),
            values.astype("<f8").tobytes(),
        )
        if is_whole:
            np.testing.assert_array_equal(load_mask(path).data, VALUES)
        else:
            with pytest.raises(FormatError, match="whole numbers"):
                load_mask(path)


def test_data_beside_the_header_is_read_with_skips(tmp_path):
    content = b"line one\nline two\nxyz" + VALUES.tobytes()
    (tmp_path / "a.raw").write_bytes(content)
    header = PLAIN + "\ndata file: a.raw\nline skip: 2\nbyte skip: 3"
    np.testing.assert_array_equal(load(write(tmp_path / "a.nhdr", header)).data, VALUES)
    last = write(tmp_path / "b.nhdr", PLAIN + "\ndatafile: a.raw\nbyteskip: -1")
    np.testing.assert_array_equal(load(last).data, VALUES)
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"xyz" + VALUES.tobytes()))
    packed = PLAIN.replace("raw", "gzip") + "\ndata file: a.gz\nbyte skip: 3"
    np.testing.assert_array_equal(load(write(tmp_path / "c.nhdr", packed)).data, VALUES)


@pytest.mark.parametrize(
    "named",
    [
        "../x.raw",
        "/etc/hostname",
        "sub/x.raw",
        "..",
        ".",
        "..\\x.raw",
        "C:x.raw",
        "link.raw",
        "a\0b",
    ],
)
def test_data_outside_the_headers_folder_is_refused(tmp_path, named):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for path in (tmp_path / "x.raw", folder / "sub/x.raw"):
        path.write_bytes(VALUES.tobytes())
    os.symlink(tmp_path / "x.raw", folder / "link.raw")
    path = write(folder / "a.nhdr", f"{PLAIN}\ndata file: {named}")
    with pytest.raises(FormatError, match="in its own folder, got"):
        load(path)


def test_a_missing_or_odd_data_file_is_told(tmp_path):
    with pytest.raises(MissingFileError, match=r"data file that a\.nhdr names"):
        load(write(tmp_path / "a.nhdr", f"{PLAIN}\ndata file: none.raw"))
    os.mkfifo(tmp_path / "pipe.raw")
    with pytest.raises(MissingFileError):
        load(write(tmp_path / "a.nhdr", f"{PLAIN}\ndata file: pipe.raw"))
    for several in ("LIST\na.raw\nb.raw", "slice%03d.raw 1 4 1"):
        with pytest.raises(FormatError, match="one data file"):
            load(write(tmp_path / "a.nhdr", f"{PLAIN}\ndata file: {several}"))


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii", "hex"])
@pytest.mark.parametrize("sizes", ["1000000 1000000 1000", f"{2**40} {2**40} {2**40}"])
def test_a_small_file_that_claims_to_be_huge_is_refused_before_memory_is_asked_for(
    tmp_path, encoding, sizes
):
    data = {"gzip": gzip.compress(bytes(900)), "bzip2": bz2.compress(bytes(900))}
    header = PLAIN.replace("2 3 4", sizes).replace("raw", encoding)
    path = write(tmp_path / "a.nrrd", header, data.get(encoding, b"00 " * 300))
    with memory_below(4_000_000), pytest.raises(FormatError, match=r"expected .*got .*; "):
        load(path)


@pytest.mark.parametrize(
    "change",
    [
        ("sizes: 2 3 4", "sizes: 2 3"),
        ("sizes: 2 3 4", "sizes: 2 3 0"),
        ("sizes: 2 3 4", "sizes: 2 3 -4"),
        ("sizes: 2 3 4", "sizes: 2 3 four"),
        ("sizes: 2 3 4", "sizes: 2 3 " + "9" * 5000),
        ("dimension: 3", "dimension: 99"),
        ("type: short", "type: block"),
        ("type: short", "type: short\ntype: short"),
        ("endian: little", "endian: middle"),
        ("encoding: raw", "encoding: zrl"),
        ("encoding: raw", "encoding: raw\nline skip: -3"),
        ("encoding: raw", "encoding: raw\nbyte skip: -2"),
        ("encoding: raw", "encoding: raw\nbyte skip: x"),
        ("encoding: raw", "encoding: raw\nspace: nowhere"),
        ("encoding: raw", "encoding: raw\nspace: RAS\nspace directions: (1,0,0) (0,1,0)"),
        ("encoding: raw", "encoding: raw\nspace: RAS\nspace directions: (1,0) (0,1) (1,1)"),
        ("encoding: raw", "encoding: raw\nspace: RAS\nspace directions: (1,0,0) (1,0,0) (0,0,1)"),
        ("encoding: raw", "encoding: raw\nspace: RAS\nspace directions: (1,0,0) (0,x,0) (0,0,1)"),
        (
            "encoding: raw",
            "encoding: raw\nspace: RAS\nspace directions: (1,0,0) (0,1e999,0) (0,0,1)",
        ),
        ("encoding: raw", "encoding: raw\nspacings: 1 0 1"),
        ("encoding: raw", "encoding: raw\nspacings: 1 1e308 1e308"),
        ("encoding: raw", "encoding: raw\nspacings: 1 1 1\nspace origin: (1e300,0,0)"),
        ("encoding: raw", "encoding: raw\nspacings: 1 1"),
        ("encoding: raw", "encoding: raw\nkinds: domain domain"),
        ("encoding: raw", "encoding: raw\nkinds: list list domain"),
        ("encoding: raw", "no colon here"),
    ],
)
def test_headers_that_make_no_sense_are_refused_in_words(tmp_path, change):
    path = write(tmp_path / "a.nrrd", PLAIN.replace(*change), VALUES.tobytes())
    with pytest.raises(FormatError, match=r"(?s)expected .*got .*"):
        load(path)


@pytest.mark.parametrize(
    "pairs",
    [
        "Segment0_ID:=a\nSegment0_LabelValue:=zero\nSegment0_Layer:=0",
        "Segment0_ID:=a\nSegment0_LabelValue:=0\nSegment0_Layer:=0",
        "Segment0_ID:=a\nSegment0_LabelValue:=1\nSegment0_Layer:=5",
        "Segment0_ID:=a\nSegment0_LabelValue:=1\nSegment0_Layer:=-1",
        "Segment0_ID:=a\nSegment0_LabelValue:=1\nSegment1_ID:=b\nSegment1_LabelValue:=1",
    ],
)
def test_segments_that_make_no_sense_are_refused_in_words(tmp_path, pairs):
    path = slicer(tmp_path / "a.seg.nrrd", LAYERS[..., 0], pairs, is_list=False)
    with pytest.raises(FormatError, match=r"expected .*got .*"):
        load_mask(path)


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii", "hex"])
def test_files_cut_short_anywhere_never_read_as_something_else(tmp_path, encoding):
    values = np.random.default_rng(4).integers(-99, 99, (8, 9, 10)).astype("<i2")
    content = values.tobytes()
    packed = {
        "raw": content,
        "gzip": gzip.compress(content),
        "bzip2": bz2.compress(content),
        "ascii": b" ".join(str(n).encode() for n in values.ravel().tolist()) + b"\n",
        "hex": content.hex().encode(),
    }[encoding]
    header = PLAIN.replace("2 3 4", "10 9 8").replace("raw", encoding)
    whole = write(tmp_path / "a.nrrd", header, packed).read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 60)):
        (tmp_path / "a.nrrd").write_bytes(whole[:size])
        try:
            found = load(tmp_path / "a.nrrd").data
        except MaskloopError:
            continue
        np.testing.assert_array_equal(found, values)


def test_packed_data_that_was_damaged_is_refused(tmp_path):
    values = np.random.default_rng(4).integers(-99, 99, 5000).astype("<i2")
    header = "type: short\ndimension: 2\nsizes: 50 100\nendian: little\nencoding: gzip"
    whole = bytearray(
        write(tmp_path / "a.nrrd", header, gzip.compress(values.tobytes())).read_bytes()
    )
    for at in (-3, -7, -2000):
        damaged = whole.copy()
        damaged[at] ^= 0x55
        (tmp_path / "a.nrrd").write_bytes(damaged)
        with pytest.raises(FormatError, match=r"expected .*got .*; "):
            load(tmp_path / "a.nrrd")


def test_channels_are_no_mask_and_an_image_is_no_segmentation(tmp_path):
    image = Image(np.zeros((4, 3, 2, 3), np.uint8), grid_of(OBLIQUE, (2, 3, 4)), has_channels=True)
    convert(image, tmp_path / "a.nrrd")
    with pytest.raises(FormatError, match="one label id a voxel"):
        load_mask(tmp_path / "a.nrrd")
    with pytest.raises(InputError, match=r"write \.nrrd instead"):
        convert(image, tmp_path / "a.seg.nrrd")
    with pytest.raises(InputError, match=r"write \.nrrd instead"):
        convert(image, tmp_path / "a.nhdr")


def test_a_stopped_job_reads_and_writes_nothing(tmp_path):
    export(labelled(grid_of(OBLIQUE)), tmp_path / "m.nrrd")
    job = Job()
    job.cancel()
    with pytest.raises(Cancelled):
        load(tmp_path / "m.nrrd", job=job)
    with pytest.raises(Cancelled):
        load_masks(tmp_path / "m.nrrd", job=job)


def test_the_sidecar_names_labels_of_a_plain_volume(tmp_path):
    mask = labelled(grid_of(OBLIQUE))
    export(mask, tmp_path / "m.nii.gz")
    data = mask.data.T
    nrrd.write(str(tmp_path / "m.nrrd"), data)
    (tmp_path / "m.nii.gz.labels.json").rename(tmp_path / "m.nrrd.labels.json")
    assert load_mask(tmp_path / "m.nrrd").labels.names == mask.labels.names


def test_real_label_maps_of_dcmqi_lie_where_pynrrd_says(shared_data, tmp_path):
    import zipfile

    with zipfile.ZipFile(shared_data / "dicom/dcmqi_seg/segmentations.zip") as archive:
        names = [n for n in archive.namelist() if n.endswith(".nrrd")]
        assert names
        for name in names:
            path = Path(archive.extract(name, tmp_path))
            data, header = nrrd.read(str(path))
            mask = load_mask(path)
            np.testing.assert_array_equal(mask.data, data.T)
            index = np.array(mask.data.shape) - 1
            there = index[::-1] @ header["space directions"] + header["space origin"]
            np.testing.assert_allclose(mask.geometry.to_world(index), there @ LPS, atol=1e-6)


def test_segments_stored_as_floats_are_told(tmp_path):
    path = slicer(tmp_path / "a.seg.nrrd", LAYERS.astype(np.float32), PAIRS)
    job = Job()
    first, _ = load_masks(path, job=job)
    np.testing.assert_array_equal(first.data, LAYERS[..., 0])
    assert any("float32, all whole" in note for note in job.notes)

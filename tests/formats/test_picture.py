"""PNG, JPEG and TIFF: pixels as stored, ids as meant, losses told."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from maskloop.core.errors import FormatError, InputError, MaskloopError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.desk.convert import convert
from maskloop.loop.export import export
from maskloop.loop.load import load, load_mask
from tests.formats.memory import memory_below

RNG = np.random.default_rng(1)
GRAY = RNG.integers(0, 256, (7, 9)).astype(np.uint8)
COLOURS = RNG.integers(0, 256, (7, 9, 3)).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **more) -> Path:
    picture = PIL.Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(path, **more)
    return path


@pytest.mark.parametrize("pixels", [GRAY, COLOURS, GRAY.astype(np.uint16) * 250])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_pixels_are_read_as_stored(tmp_path, pixels, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "tif":
        tifffile.imwrite(path, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
    else:
        save(path, pixels)
    image = load(path)
    np.testing.assert_array_equal(image.data, pixels)
    assert image.data.dtype == pixels.dtype
    assert image.has_channels is (pixels.ndim == 3)
    assert (image.geometry.unit, image.geometry.shape) == ("px", (7, 9))


def test_jpegs_are_read_and_refused_as_masks(tmp_path):
    path = save(tmp_path / "a.jpg", COLOURS)
    assert load(path).data.shape == (7, 9, 3)
    with pytest.raises(FormatError, match="without loss"):
        load_mask(path)
    with pytest.raises(InputError, match="without loss"):
        export(Mask(GRAY, Geometry.pixels(GRAY.shape), LabelTable()), tmp_path / "m.jpg")


def test_palettes_are_colours_for_images_and_ids_for_masks(tmp_path):
    picture = PIL.Image.fromarray(GRAY % 4).convert("P")
    picture.putpalette([0, 0, 0, 9, 8, 7, 1, 2, 3, 4, 5, 6])
    picture = PIL.Image.frombytes("P", picture.size, (GRAY % 4).tobytes())
    picture.putpalette([0, 0, 0, 9, 8, 7, 1, 2, 3, 4, 5, 6])
    picture.save(tmp_path / "p.png")
    assert load(tmp_path / "p.png").data[GRAY % 4 == 1].tolist()[0] == [9, 8, 7]
    np.testing.assert_array_equal(load_mask(tmp_path / "p.png").data, GRAY % 4)


def test_alpha_is_dropped_and_told_only_where_it_hides_something(tmp_path):
    for alpha, said in ((255, False), (100, True)):
        pixels = np.dstack([COLOURS, np.full((7, 9), alpha, np.uint8)])
        job = Job()
        image = load(save(tmp_path / "a.png", pixels), job=job)
        np.testing.assert_array_equal(image.data, COLOURS)
        assert any("transparen" in note for note in job.notes) is said


def test_an_exif_turn_is_told_and_not_applied(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    job = Job()
    image = load(save(tmp_path / "a.jpg", COLOURS, exif=exif), job=job)
    assert image.geometry.shape == (7, 9)
    assert any("turned by 90" in note for note in job.notes)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bit_gray_pngs_keep_their_ids(tmp_path, bits):
    values = GRAY % (2**bits)
    packed = np.zeros((7, -(-9 * bits // 8)), np.uint8)
    for y, x in np.ndindex(7, 9):
        packed[y, x * bits // 8] |= values[y, x] << (8 - bits - x * bits % 8)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    (tmp_path / "m.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 7, bits, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    np.testing.assert_array_equal(load_mask(tmp_path / "m.png").data, values)


def test_gray_stored_as_colours_is_a_mask_and_colours_are_not(tmp_path):
    np.testing.assert_array_equal(
        load_mask(save(tmp_path / "g.png", np.dstack([GRAY] * 3))).data, GRAY
    )
    with pytest.raises(FormatError, match="one label id a pixel"):
        load_mask(save(tmp_path / "c.png", COLOURS))


@pytest.mark.parametrize(
    ("highest", "suffix"),
    [
        (1, ".png"),
        (255, ".png"),
        (256, ".png"),
        (65535, ".png"),
        (255, ".tif"),
        (65535, ".tif"),
        (70000, ".tiff"),
    ],
)
def test_label_pictures_go_there_and_back(tmp_path, highest, suffix):
    ids = np.zeros((7, 9), np.uint32)
    ids[2:4, 3:6], ids[5, 5] = 1, highest
    table = LabelTable([Label(highest, "last", "#0a0b0c")])
    export(Mask(ids, Geometry.pixels(ids.shape), table), tmp_path / f"m{suffix}")
    again = load_mask(tmp_path / f"m{suffix}")
    np.testing.assert_array_equal(again.data, ids)
    assert again.labels[highest].name == "last"
    if suffix == ".png" and highest < 256:
        picture = PIL.Image.open(tmp_path / "m.png")
        assert picture.mode == "P"
        assert picture.getpalette()[3 * highest : 3 * highest + 3] == [10, 11, 12]


def test_a_png_refuses_ids_above_16_bits_and_volumes(tmp_path):
    with pytest.raises(InputError, match="up to 65535"):
        export(
            Mask(np.full((2, 2), 65536, np.uint32), Geometry.pixels((2, 2)), LabelTable()),
            tmp_path / "m.png",
        )
    grid = Geometry.regular((2, 3, 4), (1, 1, 1))
    with pytest.raises(InputError, match=r"got shape \(2, 3, 4\); write \.nii\.gz"):
        export(Mask(np.ones((2, 3, 4), np.uint8), grid, LabelTable()), tmp_path / "m.png")
    assert list(tmp_path.iterdir()) == []


def test_a_tiff_stack_keeps_its_spacing_and_tells_what_is_lost(tmp_path):
    ids = RNG.integers(0, 3, (5, 6, 7)).astype(np.uint8)
    grid = Geometry.regular((5, 6, 7), (3, 0.7, 0.8), (1, 2, 3))
    receipt = export(Mask(ids, grid, LabelTable.classes(["a", "b"])), tmp_path / "m.tif")
    assert "origin and direction" in receipt.losses[0]
    again = load_mask(tmp_path / "m.tif")
    np.testing.assert_array_equal(again.data, ids)
    np.testing.assert_allclose(again.geometry.spacing, (3, 0.7, 0.8), atol=1e-5)


def test_stacks_without_spacing_are_in_pixels_and_imagej_units_count(tmp_path):
    pixels = np.zeros((5, 6, 7), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    assert load(tmp_path / "a.tif").geometry.unit == "px"
    tifffile.imwrite(
        tmp_path / "b.tif",
        pixels,
        imagej=True,
        resolution=(4, 2),
        metadata={"spacing": 3, "unit": "um", "axes": "ZYX"},
    )
    image = load(tmp_path / "b.tif")
    np.testing.assert_allclose(image.geometry.spacing, (0.003, 0.0005, 0.00025))


@pytest.mark.parametrize(
    ("axes", "shape", "has_time", "has_channels"),
    [
        ("TZCYX", (2, 3, 4, 6, 7), True, True),
        ("TYX", (2, 6, 7), True, False),
        ("CYX", (2, 6, 7), False, True),
    ],
)
def test_imagej_axes_come_in_our_order(tmp_path, axes, shape, has_time, has_channels):
    pixels = RNG.integers(0, 99, shape).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, imagej=True, metadata={"axes": axes})
    image = load(tmp_path / "a.tif")
    assert (image.has_time, image.has_channels) == (has_time, has_channels)
    np.testing.assert_array_equal(
        image.data, np.moveaxis(pixels, axes.index("C"), -1) if has_channels else pixels
    )


def test_lzw_stacks_are_read_without_further_packages(tmp_path):
    pages = [PIL.Image.fromarray(GRAY), PIL.Image.fromarray(255 - GRAY)]
    pages[0].save(
        tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression="tiff_lzw"
    )
    np.testing.assert_array_equal(load(tmp_path / "a.tif").data, np.stack([GRAY, 255 - GRAY]))


def test_damaged_pictures_say_so(tmp_path):
    whole = save(
        tmp_path / "a.png", RNG.integers(0, 256, (90, 90, 3)).astype(np.uint8)
    ).read_bytes()
    tifffile.imwrite(tmp_path / "t.tif", GRAY)
    cases = {
        "cut.png": whole[:400],
        "text.png": b"hello there",
        "empty.jpg": b"",
        "text.tif": b"hello there",
        "cut.tif": (tmp_path / "t.tif").read_bytes()[:100],
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FormatError, match=r"expected .*got .*; "):
            load(tmp_path / name)


def test_real_nuclei_go_there_and_back(shared_data, tmp_path):
    folder = shared_data / "images2d/stardist_samples"
    mask = load_mask(folder / "mask2d.tif", image=load(folder / "img2d.tif"))
    for suffix in ("png", "tif", "json"):
        export(mask, tmp_path / f"m.{suffix}")
        np.testing.assert_array_equal(load_mask(tmp_path / f"m.{suffix}").data, mask.data)


def test_real_opaque_rgba_pictures_have_three_channels(shared_data, tmp_path):
    with zipfile.ZipFile(shared_data / "images2d/dsb2018_nuclei/shared.zip") as archive:
        name = next(n for n in archive.namelist() if n.endswith(".png") and "mask" not in n.lower())
        image = load(archive.extract(name, tmp_path))
    assert image.geometry.ndim == 2
    assert image.channels in (1, 3)


def zlib_png(width: int, height: int, colour: int = 0, depth: int = 8) -> bytes:
    """Return a PNG that claims a size and holds a few hundred zeros."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(500)))
        + chunk(b"IEND", b"")
    )


def claiming(path: Path, width: int, height: int, compression: int) -> Path:
    """Write a TIFF of one strip that claims a size its few bytes cannot fill."""
    strip = zlib.compress(bytes(300))
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, compression), (262, 3, 1)]
    tags += [(273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, len(strip))]
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    content = b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip
    path.write_bytes(content + struct.pack("<H", len(tags)) + body + bytes(4))
    return path


@pytest.mark.parametrize("compression", [1, 5, 8, 32773, 7, 50000])
@pytest.mark.parametrize("side", [20_000, 1_000_000, 2**31])
def test_a_tiff_that_claims_to_be_huge_is_refused_before_memory_is_asked_for(
    tmp_path, compression, side
):
    path = claiming(tmp_path / "bomb.tif", side, side, compression)
    # The imports take as much; pixels would take more.
    with memory_below(20_000_000), pytest.raises(FormatError, match=r"expected .*got .*; "):
        load(path)


@pytest.mark.parametrize(("width", "height"), [(12_000, 12_000), (1_000_000, 1_000_000)])
def test_a_png_that_claims_to_be_huge_is_refused_before_memory_is_asked_for(
    tmp_path, width, height
):
    path = tmp_path / "bomb.png"
    path.write_bytes(zlib_png(width, height))
    with memory_below(20_000_000), pytest.raises(FormatError, match=r"expected .*got .*; "):
        load(path)


def test_blank_pictures_shrink_as_much_as_is_possible_and_are_read(tmp_path):
    blank = np.zeros((3000, 3000), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", blank, compression="zlib", compressionargs={"level": 9})
    save(tmp_path / "a.png", blank, optimize=True)
    save(tmp_path / "a.jpg", blank, quality=1)
    save(tmp_path / "one.png", blank, "1", optimize=True)
    PIL.Image.fromarray(blank).convert("1").save(tmp_path / "g4.tif", compression="group4")
    PIL.Image.fromarray(blank).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    tifffile.imwrite(tmp_path / "bits.tif", blank > 0, photometric="minisblack")
    for path in sorted(tmp_path.iterdir()):
        assert load(path).data.shape == (3000, 3000), path.name


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("mm", 1), ("micron", 1e-3), ("um", 1e-3), ("\\u00B5m", 1e-3), ("cm", 10), ("inch", 25.4)],
)
def test_each_unit_of_imagej_is_turned_into_mm(tmp_path, unit, factor):
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.zeros((5, 6, 7), np.uint8),
        imagej=True,
        resolution=(4, 2),
        metadata={"spacing": 3, "unit": unit, "axes": "ZYX"},
    )
    found = load(tmp_path / "a.tif").geometry
    assert found.unit == "mm"
    np.testing.assert_allclose(found.spacing, np.array((3, 0.5, 0.25)) * factor)


def test_slices_without_a_distance_are_one_unit_apart_as_in_imagej_and_that_is_told(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.zeros((5, 6, 7), np.uint8),
        imagej=True,
        resolution=(4, 2),
        metadata={"unit": "mm", "axes": "ZYX"},
    )
    job = Job()
    np.testing.assert_allclose(load(tmp_path / "a.tif", job=job).geometry.spacing, (1, 0.5, 0.25))
    assert any("no distance of slices" in note for note in job.notes)


@pytest.mark.parametrize("unit", [None, "µm", "mm", "nm"])
def test_ome_sizes_and_units_are_read(tmp_path, unit):
    sizes = {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", (3, 0.5, 0.25), strict=True)}
    units = {f"PhysicalSize{axis}Unit": unit for axis in "ZYX"} if unit else {}
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        np.zeros((2, 5, 6, 7), np.uint8),
        ome=True,
        metadata={"axes": "TZYX", **sizes, **units},
    )
    image = load(tmp_path / "a.ome.tif")
    factor = {None: 1e-3, "µm": 1e-3, "mm": 1, "nm": 1e-6}[unit]
    assert image.has_time
    np.testing.assert_allclose(image.geometry.spacing, np.array((3, 0.5, 0.25)) * factor)


def test_ome_sizes_for_some_axes_only_are_told_and_not_used(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        np.zeros((5, 6, 7), np.uint8),
        ome=True,
        metadata={"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5},
    )
    job = Job()
    assert load(tmp_path / "a.ome.tif", job=job).geometry.unit == "px"
    assert any("some axes only" in note for note in job.notes)


def test_an_ome_tiff_never_opens_the_other_files_that_it_names(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    tifffile.imwrite(tmp_path / "other.ome.tif", np.full((6, 7), 9, np.uint8), ome=True)
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels DimensionOrder="XYZCT" Type="uint8" SizeX="7" SizeY="6" SizeZ="2" SizeC="1" '
        'SizeT="1" ID="Pixels:0"><Channel ID="Channel:0:0"/><TiffData IFD="0" PlaneCount="1"/>'
        '<TiffData IFD="0" FirstZ="1" PlaneCount="1"><UUID FileName="../other.ome.tif">urn:uuid:1'
        "</UUID></TiffData></Pixels></Image></OME>"
    )
    tifffile.imwrite(
        folder / "a.ome.tif", np.zeros((6, 7), np.uint8), description=xml, metadata=None
    )
    with pytest.raises(FormatError, match="or another file"):
        load(folder / "a.ome.tif")


@pytest.mark.parametrize(
    "change",
    [
        ('SizeZ="1"', 'SizeZ="1000000000"'),
        ('SizeX="7"', 'SizeX="1000000000"'),
        ('SizeT="1"', 'SizeT="-1"'),
        ('PlaneCount="1"', 'PlaneCount="1000000000"'),
        ('FirstZ="0"', 'FirstZ="999999999"'),
        ('SizeZ="1"', 'SizeZ="5"'),
        ("<OME ", "<!DOCTYPE x []><OME "),
    ],
)
def test_an_ome_header_cannot_ask_for_memory(tmp_path, change):
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels DimensionOrder="XYZCT" Type="uint8" SizeX="7" SizeY="6" SizeZ="1" SizeC="1" '
        'SizeT="1" ID="Pixels:0"><TiffData IFD="0" FirstZ="0" PlaneCount="1"/></Pixels></Image>'
        "</OME>"
    )
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.zeros((6, 7), np.uint8), description=xml, metadata=None)
    assert load(path).data.shape == (6, 7)
    xml = xml.replace(*change)
    tifffile.imwrite(path, np.zeros((6, 7), np.uint8), description=xml, metadata=None)
    with memory_below(20_000_000), pytest.raises(FormatError, match=r"expected .*got .*; "):
        load(path)


def test_an_imagej_stack_behind_one_page_is_read_whole_or_refused(tmp_path):
    values = RNG.integers(0, 256, (4, 30, 40)).astype(np.uint8)
    path = tmp_path / "a.tif"
    text = "ImageJ=1.54f\nimages=4\nslices=4\n"
    tifffile.imwrite(path, values[0], description=text, metadata=None)
    path.write_bytes(path.read_bytes() + values[1:].tobytes())
    np.testing.assert_array_equal(load(path).data, values)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(FormatError, match="cut short"):
        load(path)


def test_pages_that_lead_back_to_an_earlier_one_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GRAY, metadata=None)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    first = struct.unpack_from("<I", content, 4)[0]
    count = struct.unpack_from("<H", content, first)[0]
    struct.pack_into("<I", content, first + 2 + 12 * count, first)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(FormatError, match="leads back"):
        load(tmp_path / "a.tif")


def test_resolutions_of_a_plain_picture_stay_out_of_its_grid(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GRAY, resolution=(300, 300), resolutionunit="INCH")
    assert load(tmp_path / "a.tif").geometry.unit == "px"


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_tiffs_cut_short_anywhere_never_read_as_something_else(tmp_path, compression):
    values = RNG.integers(0, 256, (4, 30, 40)).astype(np.uint8)
    path = tmp_path / "a.tif"
    if compression == "lzw":
        pages = [PIL.Image.fromarray(page) for page in values]
        pages[0].save(path, save_all=True, append_images=pages[1:], compression="tiff_lzw")
    else:
        tifffile.imwrite(path, values, compression=compression, photometric="minisblack")
    whole = path.read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:size])
        try:
            found = load(path).data
        except MaskloopError:
            continue
        # Whole pages only, where the chain to the later ones is cut.
        np.testing.assert_array_equal(found, values if found.ndim == 3 else values[0])


@pytest.mark.parametrize("dtype", ["bool", "u1", "u2", "i2", "u4", "i4", "f4", "f2"])
@pytest.mark.parametrize(("shape", "has_time"), [((7, 9), False), ((3, 7, 9), True)])
def test_pictures_are_written_as_tiff_in_every_type_it_holds(tmp_path, dtype, shape, has_time):
    values = RNG.integers(0, 2, shape).astype(dtype)
    image = Image(values, Geometry.pixels((7, 9)), has_time=has_time)
    assert convert(image, tmp_path / "a.tif").verdict == "PASS"
    again = load(tmp_path / "a.tif")
    np.testing.assert_array_equal(again.data, values)
    assert again.has_time is has_time


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4"])
def test_volumes_are_written_as_stacks_with_their_spacing(tmp_path, frames, dtype):
    values = RNG.integers(0, 99, (frames, 5, 6, 7)[frames == 1 :]).astype(dtype)
    grid = Geometry.regular((5, 6, 7), (3, 0.7, 0.8), (1, 2, 3))
    image = Image(values, grid, has_time=frames > 1)
    receipt = convert(image, tmp_path / "a.tif")
    assert "origin and direction" in receipt.losses[0]
    again = load(tmp_path / "a.tif")
    np.testing.assert_array_equal(again.data, values)
    np.testing.assert_allclose(again.geometry.spacing, (3, 0.7, 0.8), atol=1e-5)
    # tifffile knows the axes and the distance as ImageJ would.
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.series[0].axes == ("TZYX" if frames > 1 else "ZYX")
        assert file.imagej_metadata["spacing"] == 3


def test_a_mask_with_time_goes_there_and_back_as_tiff(tmp_path):
    ids = RNG.integers(0, 4, (3, 5, 6, 7)).astype(np.uint8)
    grid = Geometry.regular((5, 6, 7), (3, 0.7, 0.8))
    export(Mask(ids, grid, LabelTable.objects([1, 2, 3])), tmp_path / "m.tif")
    np.testing.assert_array_equal(load_mask(tmp_path / "m.tif").data, ids)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("pixels", [GRAY, COLOURS, GRAY.astype(np.uint16) * 250])
def test_pictures_are_written_as_png_and_tiff(tmp_path, suffix, pixels):
    image = Image(pixels, Geometry.pixels((7, 9)), has_channels=pixels.ndim == 3)
    assert convert(image, tmp_path / f"a{suffix}").verdict == "PASS"
    np.testing.assert_array_equal(load(tmp_path / f"a{suffix}").data, pixels)
    if pixels.dtype == np.uint8:
        np.testing.assert_array_equal(np.array(PIL.Image.open(tmp_path / f"a{suffix}")), pixels)


def test_what_a_picture_cannot_hold_is_refused_in_words(tmp_path):
    grid = Geometry.pixels((7, 9))
    odd = [
        (Image(GRAY.astype(np.float32), grid), ".png", r"8 or 16-bit"),
        (Image(GRAY.astype(np.int16), grid), ".png", r"8 or 16-bit"),
        (Image(COLOURS.astype(np.uint16), grid, has_channels=True), ".tif", "8-bit RGB"),
        (Image(COLOURS[..., :2], grid, has_channels=True), ".png", "2 channels"),
        (Image(GRAY.astype(np.float64), grid), ".tif", r"write \.nrrd"),
        (Image(GRAY, grid), ".jpg", "without loss"),
        (Image(np.stack([GRAY] * 3), grid, has_time=True), ".png", r"write \.nii\.gz"),
    ]
    for image, suffix, words in odd:
        with pytest.raises(InputError, match=words):
            convert(image, tmp_path / f"a{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_whole_floats_become_ids_with_a_notice(tmp_path):
    values = np.zeros((5, 6), np.float32)
    values[2, 3] = 300
    tifffile.imwrite(tmp_path / "m.tif", values)
    job = Job()
    assert load_mask(tmp_path / "m.tif", job=job).ids() == [300]
    assert any("float32, all whole" in note for note in job.notes)

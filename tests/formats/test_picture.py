"""PNG, JPEG and TIFF: pixels as stored, ids as meant, losses told."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from maskloop.core.errors import FormatError, InputError
from maskloop.core.geometry import Geometry
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.loop.export import export
from maskloop.loop.load import load, load_mask

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
    import struct
    import zlib

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

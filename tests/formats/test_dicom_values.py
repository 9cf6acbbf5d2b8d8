"""Stored values: encodings, bits, padding, codecs, headers that lie, memory."""

from __future__ import annotations

import importlib.util
import io
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from maskloop.core.errors import FormatError, MaskloopError, MissingExtraError
from maskloop.core.job import Job
from maskloop.formats import dicom, dicom_codecs, dicom_scan
from maskloop.formats.base import Choices
from tests.formats.dicom_slices import COLUMNS, ROWS, series, write
from tests.formats.memory import memory_below

PIXELS = np.arange(-15, 15, dtype=np.int16).reshape(ROWS, COLUMNS) * 60
LARGE = np.tile(PIXELS, (8, 8))  # JPEG 2000 wants a few pixels more
DECODERS = {"RLE": "rle", "JPEG-LS": "jpeg_ls", "JPEG 2000 lossless": "openjpeg"}


def read(path, job=None):
    return dicom.read_image(path, choices=Choices(), job=job or Job())


@pytest.fixture
def plain_codecs(monkeypatch):
    """Forget which decoders are there, before and after."""
    dicom_codecs.decoder_of.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    dicom_codecs.decoder_of.cache_clear()


def compressed(path, position, syntax, pixels, **more):
    rows, columns = pixels.shape
    write(path, position, pixels=pixels, Rows=rows, Columns=columns, **more)
    data = pydicom.dcmread(path)
    if syntax == JPEG2000Lossless:
        from openjpeg.utils import encode_array

        data.PixelData = encapsulate([bytes(encode_array(pixels, photometric_interpretation=0))])
        data["PixelData"].VR = "OB"
        data.file_meta.TransferSyntaxUID = syntax
    else:
        data.compress(syntax, generate_instance_uid=False)
    data.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.uint8])
def test_lossless_codecs_give_the_values_back(tmp_path, syntax, kind):
    pytest.importorskip("openjpeg" if syntax == JPEG2000Lossless else "jpeg_ls")
    stored = LARGE if kind == np.int16 else np.abs(LARGE) // (1 if kind == np.uint16 else 8)
    stored = stored.astype(kind)
    for number in range(2):
        compressed(tmp_path / str(number), (0, 0, number), syntax, stored, intercept=-1024)
    np.testing.assert_array_equal(read(tmp_path).data[1], stored.astype(int) - 1024)
    (row,) = dicom.inspect(tmp_path, job=Job())["series"]
    assert row["transfer_syntax"] in DECODERS


def test_baseline_jpeg_is_read_near_its_values(tmp_path):
    from PIL import Image as Picture

    plane = np.tile(np.linspace(20, 230, 64).astype(np.uint8), (48, 1))
    for number in range(2):
        path = write(tmp_path / str(number), (0, 0, number), pixels=plane, intercept=0, Rows=48)
        data = pydicom.dcmread(path)
        data.Columns = 64
        stream = io.BytesIO()
        Picture.fromarray(plane).save(stream, "JPEG", quality=95)
        data.PixelData = encapsulate([stream.getvalue()])
        data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        data["PixelData"].VR = "OB"
        data.save_as(path, enforce_file_format=True)
    assert np.abs(read(tmp_path).data[0].astype(int) - plane).max() <= 4


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_a_missing_codec_is_named_with_the_extra(tmp_path, plain_codecs, syntax):
    for number in range(2):
        compressed(tmp_path / str(number), (0, 0, number), syntax, LARGE)
    real = importlib.util.find_spec
    plain_codecs.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: real(name, *rest) if name in ("PIL", "pydicom") else None,
    )
    (row,) = dicom.inspect(tmp_path, job=Job())["series"]
    if syntax == RLELossless:  # pydicom has a decoder of its own
        np.testing.assert_array_equal(read(tmp_path).data[0], LARGE - 1024)
        return
    assert (row["can_decode"], row["loads"]) == (False, False)
    assert "napari-maskloop[dicom]" in row["why_not"]
    with pytest.raises(MissingExtraError, match=r"napari-maskloop\[dicom\]"):
        read(tmp_path)


def test_the_gpl_decoder_is_never_asked():
    for modules in dicom_codecs._MODULES.values():
        assert not {"libjpeg", "pylibjpeg"} & set(modules)
    assert "pylibjpeg" not in dicom_codecs._PLUGINS.values()


def test_an_unknown_encoding_says_so(tmp_path):
    series(tmp_path, [0, 1])
    for path in tmp_path.iterdir():
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
        data.PixelData = encapsulate([b"video"])
        data["PixelData"].VR = "OB"
        data.save_as(path, enforce_file_format=True)
    with pytest.raises(MissingExtraError, match="no decoder here knows"):
        read(tmp_path)


def test_damaged_pixels_of_a_codec_say_so(tmp_path):
    for number in range(2):
        compressed(tmp_path / str(number), (0, 0, number), RLELossless, PIXELS)
    victim = tmp_path / "1"
    victim.write_bytes(victim.read_bytes()[:-60])
    with pytest.raises(FormatError, match="1"):
        read(tmp_path)


@pytest.mark.parametrize(
    "syntax",
    [
        *(ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian),
        DeflatedExplicitVRLittleEndian,
    ],
)
def test_uncompressed_encodings_without_pydicom_reading_the_head(tmp_path, monkeypatch, syntax):
    for number in range(3):
        write(tmp_path / str(number), (0, 0, number), pixels=PIXELS, syntax=syntax)
    monkeypatch.setattr(dicom_scan, "_by_pydicom", None)
    np.testing.assert_array_equal(read(tmp_path).data, [PIXELS - 1024] * 3)


@pytest.mark.parametrize("is_implicit", [True, False])
def test_files_without_preamble_are_read(tmp_path, is_implicit):
    for number in range(2):
        path = write(tmp_path / "x", (0, 0, number), pixels=PIXELS)
        data = pydicom.dcmread(path)
        path.unlink()
        del data.file_meta
        data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        stream = io.BytesIO()
        pydicom.filewriter.dcmwrite(
            stream, data, implicit_vr=is_implicit, little_endian=True, enforce_file_format=False
        )
        held = stream.getvalue()
        (tmp_path / str(number)).write_bytes(held[132:] if held[128:132] == b"DICM" else held)
    assert dicom.sniff(tmp_path / "0")
    np.testing.assert_array_equal(read(tmp_path).data, [PIXELS - 1024] * 2)


def test_large_private_elements_and_long_sequences_are_passed_over(tmp_path, monkeypatch):
    inner = pydicom.Dataset()
    inner.CodeValue = "x"
    inner.is_undefined_length_sequence_item = True
    sequence = pydicom.Sequence([inner] * 4000)
    sequence.is_undefined_length = True
    for number in range(2):
        path = write(tmp_path / str(number), (0, 0, number), pixels=PIXELS)
        data = pydicom.dcmread(path)
        data.add_new((0x0009, 0x0010), "LO", "JUNK")
        data.add_new((0x0009, 0x1001), "OB", b"\xff" * 300_001)
        data.AnatomicRegionSequence = sequence
        data.add_new((0x0029, 0x0010), "LO", "JUNK")
        data.add_new((0x0029, 0x1001), "UN", bytes(70_000))
        data.save_as(path, enforce_file_format=True)
    monkeypatch.setattr(dicom_scan, "_by_pydicom", None)
    np.testing.assert_array_equal(read(tmp_path).data, [PIXELS - 1024] * 2)


@pytest.mark.parametrize("kind", [np.int16, np.uint16])
def test_bits_above_the_stored_ones_are_cleared(tmp_path, kind):
    stored = (np.arange(30).reshape(ROWS, COLUMNS) * 60 - (900 if kind == np.int16 else 0)).astype(
        kind
    )
    dirty = (stored.view(np.uint16) & 0x0FFF) | np.uint16(0x5000)
    for number in range(2):
        write(
            tmp_path / str(number),
            (0, 0, number),
            pixels=dirty.view(kind),
            BitsStored=12,
            HighBit=11,
            intercept=0,
        )
    np.testing.assert_array_equal(read(tmp_path).data[0], stored)


@pytest.mark.parametrize(
    ("kind", "values", "dtype"),
    [
        (np.int32, (-70000, 5), np.int32),
        (np.uint32, (0, 2**31 + 7), np.float32),
        (np.uint16, (0, 65535), np.int32),
        (np.int8, (-5, 5), np.int8),
    ],
)
def test_wide_and_narrow_integers_keep_their_values(tmp_path, kind, values, dtype):
    plane = np.resize(np.array(values, kind), (ROWS, COLUMNS))
    for number in range(2):
        write(tmp_path / str(number), (0, 0, number), pixels=plane, intercept=0)
    image = read(tmp_path)
    assert image.data.dtype == dtype
    np.testing.assert_allclose(image.data[0], plane.astype(float), rtol=1e-7)


def test_floating_point_pixels_are_read(tmp_path):
    plane = np.linspace(-1, 1, ROWS * COLUMNS, dtype=np.float32).reshape(ROWS, COLUMNS)
    for number in range(2):
        path = write(tmp_path / str(number), (0, 0, number), intercept=0)
        data = pydicom.dcmread(path)
        del data.PixelData
        data.BitsAllocated = data.BitsStored = 32
        data.FloatPixelData = plane.tobytes()
        data.save_as(path, enforce_file_format=True)
    np.testing.assert_array_equal(read(tmp_path).data, [plane, plane])


def test_a_padding_value_is_told_and_kept(tmp_path):
    series(tmp_path, [0, 1, 2], PixelPaddingValue=-2000)
    job = Job()
    read(tmp_path, job)
    assert any("padding value" in note for note in job.notes)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_a_header_that_claims_a_giant_picture_is_refused(tmp_path, syntax):
    for number in range(2):
        path = tmp_path / str(number)
        write(path, (0, 0, number), syntax=syntax)
        data = pydicom.dcmread(path)
        data.Rows = data.Columns = 65535
        data.save_as(path, enforce_file_format=True)
    with pytest.raises(FormatError, match="cut short"):
        read(tmp_path)


def test_a_length_beyond_the_file_allocates_nothing(tmp_path):
    path = write(tmp_path / "a", (0, 0, 0))
    held = bytearray(path.read_bytes())
    at = held.index(b"\x08\x00\x60\x00")
    held[at : at + 8] = b"\x09\x00\x01\x10UN\0\0"  # then a four-byte length, 1.4 GB
    held[at + 8 : at + 12] = b"\0\0\0\x54"
    path.write_bytes(held)
    with memory_below(100e6), pytest.raises(MaskloopError):
        read(tmp_path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_loading_takes_little_more_than_the_array(tmp_path):
    plane = np.resize(np.arange(2000, dtype=np.uint16), (512, 512))
    for number in range(60):
        write(tmp_path / str(number), (0, 0, number), pixels=plane, Rows=512, Columns=512)
    code = (
        "import sys; from pathlib import Path; from maskloop.formats import dicom;"
        "from maskloop.formats.base import Choices; from maskloop.core.job import Job;"
        "peak = lambda: next(int(l.split()[1]) for l in Path('/proc/self/status').read_text()"
        ".splitlines() if l.startswith('VmHWM')); before = peak();"
        "d = dicom.read_image(Path(sys.argv[1]), choices=Choices(), job=Job()).data;"
        "print((peak() - before) * 1024 / d.nbytes)"
    )
    call = [sys.executable, "-c", code, str(tmp_path)]
    peak = float(subprocess.run(call, check=True, capture_output=True, text=True).stdout)
    assert 0.9 < peak <= 1.3


PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.mark.parametrize(
    "name",
    [
        *("693_J2KI", "CT_small", "J2K_pixelrep_mismatch", "MR_small", "MR_small_RLE"),
        *("MR_small_bigendian", "MR_small_implicit", "MR_small_jp2klossless", "MR_small_padded"),
        *("MR_small_jpeg_ls_lossless", "examples_overlay"),
    ],
)
def test_files_of_pydicom_give_its_values(tmp_path, name):
    pytest.importorskip("openjpeg")
    pytest.importorskip("jpeg_ls")
    path = PYDICOM / f"{name}.dcm"
    shutil.copy(path, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(path)
        slope, intercept = data.get("RescaleSlope", 1), data.get("RescaleIntercept", 0)
        wanted = data.pixel_array * float(slope) + float(intercept)
    np.testing.assert_array_equal(read(tmp_path).data[0], wanted)


@pytest.mark.parametrize("name", ["JPEGLSNearLossless_08", "JPEGLSNearLossless_16", "image_dfl"])
def test_codecs_without_a_place_in_space_decode_as_pydicom_does(name):
    pytest.importorskip("jpeg_ls")
    path = PYDICOM / f"{name}.dcm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = pydicom.dcmread(path).pixel_array
    np.testing.assert_array_equal(dicom_codecs.decoded(dicom_scan.scan(path)), wanted)


def test_twelve_bit_jpeg_is_refused_by_name(tmp_path):
    shutil.copy(PYDICOM / "JPGExtended.dcm", tmp_path)
    (row,) = dicom.inspect(tmp_path, job=Job())["series"]
    assert (row["can_decode"], "12-bit JPEG extended" in row["why_not"]) == (False, True)


@pytest.mark.parametrize("slope", [0, "", "nan"])
def test_a_useless_rescale_is_refused(tmp_path, slope):
    for number in range(2):
        path = write(tmp_path / str(number), (0, 0, number))
        data = pydicom.dcmread(path)
        data.pop("RescaleSlope")
        data.add_new((0x0028, 0x1053), "LO", str(slope))
        data.save_as(path, enforce_file_format=True)
    if slope == "":
        assert read(tmp_path).data[0, 0, 0] == -1024
        return
    with pytest.raises(FormatError, match="slope"):
        read(tmp_path)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_a_codec_that_claims_another_size_is_refused_before_it_decodes(
    tmp_path, monkeypatch, syntax
):
    pytest.importorskip("openjpeg" if syntax == JPEG2000Lossless else "jpeg_ls")
    for number in range(2):
        path = tmp_path / str(number)
        compressed(path, (0, 0, number), syntax, LARGE)
        held = bytearray(path.read_bytes())
        if syntax == JPEG2000Lossless:
            at = held.index(b"\xff\x4f\xff\x51") + 8
            held[at : at + 8] = b"\0\0\xff\xff" * 2
        else:
            at = held.index(b"\xff\xf7") + 5
            held[at : at + 4] = b"\xff\xff\xff\xff"
        path.write_bytes(held)
    monkeypatch.setattr(dicom_codecs, "_openjpeg", None)
    with pytest.raises(FormatError, match="got ValueError"):
        read(tmp_path)

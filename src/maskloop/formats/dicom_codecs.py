"""Decoders of compressed DICOM pixels: which one reads which encoding, and the extra that has it.

Decoders are named one by one: pydicom would otherwise take any that is installed, among them the
GPL pylibjpeg-libjpeg.

References
----------
.. [1] DICOM PS3.5 A.4 (encapsulated pixels), annex G (RLE); PS3.6, table A-1 (transfer syntaxes).
.. [2] ITU-T T.81 B.2.2 and T.800 A.5.1 (where JPEG and JPEG 2000 state their size).
"""

from __future__ import annotations

import importlib.util
import struct
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError, MissingExtraError
from maskloop.formats.dicom_head import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT
from maskloop.formats.dicom_scan import Bounded, damage

if TYPE_CHECKING:
    from pathlib import Path

    from maskloop.formats.dicom_head import Slice

_NATIVE = {
    IMPLICIT: "uncompressed (implicit)",
    EXPLICIT: "uncompressed",
    BIG_ENDIAN: "uncompressed (big-endian)",
    DEFLATED: "deflated",
}
_JPEG = "1.2.840.10008.1.2.4."
_NAMES = {
    "1.2.840.10008.1.2.5": "RLE",
    _JPEG + "50": "JPEG baseline",
    _JPEG + "51": "JPEG extended",
    _JPEG + "57": "JPEG lossless",
    _JPEG + "70": "JPEG lossless",
    _JPEG + "80": "JPEG-LS",
    _JPEG + "81": "JPEG-LS near-lossless",
    _JPEG + "90": "JPEG 2000 lossless",
    _JPEG + "91": "JPEG 2000",
    _JPEG + "201": "HTJ2K lossless",
    _JPEG + "202": "HTJ2K lossless",
    _JPEG + "203": "HTJ2K",
}
# Encoding -> modules that can decode it, best first; ours by name, the rest through pydicom.
_MODULES = {
    "RLE": ("rle", "pydicom"),
    "JPEG baseline": ("PIL", "gdcm"),
    "JPEG extended": ("PIL", "gdcm"),
    "JPEG lossless": ("gdcm",),
    "JPEG-LS": ("jpeg_ls", "gdcm"),
    "JPEG-LS near-lossless": ("jpeg_ls", "gdcm"),
    "JPEG 2000 lossless": ("openjpeg", "gdcm"),
    "JPEG 2000": ("openjpeg", "gdcm"),
    "HTJ2K lossless": ("openjpeg",),
    "HTJ2K": ("openjpeg",),
}
_PLUGINS = {"pydicom": "pydicom", "PIL": "pillow", "gdcm": "gdcm", "jpeg_ls": "pyjpegls"}


def name_of(syntax: str) -> str:
    """Return the name of an encoding for people."""
    return _NATIVE.get(syntax) or _NAMES.get(syntax) or ("not stated" if not syntax else "unknown")


@cache
def decoder_of(syntax: str) -> str:
    """Return the module that decodes an encoding; empty where none is installed or known."""
    if syntax in _NATIVE or not syntax:
        return "pydicom"
    known = _MODULES.get(_NAMES.get(syntax, ""), ())
    return next((name for name in known if importlib.util.find_spec(name) is not None), "")


def why_not(one: Slice) -> str:
    """Return why a plane's pixels cannot be decoded and what to do; empty where they can."""
    name = _NAMES.get(one.syntax, "")
    if name == "JPEG extended" and one.words.get("bits_stored", 8) > 8:
        return "12-bit JPEG extended, which no decoder here knows; write the series uncompressed"
    if decoder_of(one.syntax):
        return ""
    if name:
        return (
            f"{name} without its decoder: pip install 'napari-maskloop[dicom]', or write the "
            "series uncompressed"
        )
    return "an encoding that no decoder here knows; write the series uncompressed"


def decoded(one: Slice, kept: dict[Path, Any] | None = None) -> npt.NDArray[Any]:
    """Return the stored values of one plane, as its file's whole picture or frame.

    Parameters
    ----------
    one : Slice
        The plane.
    kept : dict, optional
        Keeps the last file of frames open for the next call, which else reads all of it again.

    Raises
    ------
    MissingExtraError
        If the decoder is not installed.
    FormatError
        If the pixels are damaged.
    """
    if reason := why_not(one):
        msg = f"expected pixels that can be decoded in {one.path.name}, got {reason}"
        raise MissingExtraError(msg)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _decoded(one, _opened(one, kept if kept is not None else {}))
        except MemoryError:
            raise
        except (ImportError, NotImplementedError) as error:
            msg = (
                f"expected pixels that can be decoded in {one.path.name}, got "
                f"{name_of(one.syntax)} of a kind its decoder does not know; write the series "
                "uncompressed"
            )
            raise MissingExtraError(msg) from error
        except damage() as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            msg = (
                f"expected whole pixels in {one.path.name}, got {type(error).__name__} from the "
                f"decoder of {name_of(one.syntax)}; copy the file again"
            )
            raise FormatError(msg) from error


def _opened(one: Slice, kept: dict[Path, Any]) -> Any:  # Any: pydicom's data set
    import pydicom

    if one.path in kept:
        return kept[one.path]
    kept.clear()
    with Bounded(one.path) as stream:
        data = pydicom.dcmread(stream, force=True)
    if one.frame >= 0:
        kept[one.path] = data
    return data


def _decoded(one: Slice, data: Any) -> npt.NDArray[Any]:  # Any: pydicom's data set
    import pydicom
    from pydicom.encaps import get_frame
    from pydicom.pixels.decoders.base import get_decoder

    module = decoder_of(one.syntax)
    number = 0 if one.is_tile or one.frame < 0 else one.frame
    rows, columns = int(data.Rows), int(data.Columns)
    if one.syntax in _NAMES:
        count = int(data.get("NumberOfFrames") or 1)
        frame = get_frame(data.PixelData, number, number_of_frames=count)
        if _stated_size(frame) not in (None, (rows, columns)):
            msg = f"encoded pixels of size {_stated_size(frame)}"
            raise ValueError(msg)
        if module == "openjpeg":
            return _openjpeg(frame)
        if module == "rle":
            return _rle(frame, rows, columns, int(data.BitsAllocated))
    if not data.file_meta.get("TransferSyntaxUID"):
        is_implicit = data.original_encoding[0]
        data.file_meta.TransferSyntaxUID = pydicom.uid.UID(IMPLICIT if is_implicit else EXPLICIT)
    syntax = data.file_meta.TransferSyntaxUID
    plugin = "" if syntax in _NATIVE else _PLUGINS[module]
    found, _ = get_decoder(syntax).as_array(data, index=number, raw=True, decoding_plugin=plugin)
    return np.asarray(found)


def _stated_size(frame: bytes) -> tuple[int, int] | None:
    """Return rows and columns that a JPEG's own header states, before a decoder allocates them."""
    at = frame.find(b"\xff\x4f\xff\x51", 0, 4096)  # JPEG 2000: start, then size
    if at >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", frame, at + 8)
        return bottom - top, right - left
    at = 2
    while frame[:2] == b"\xff\xd8" and at + 9 <= len(frame) and frame[at] == 0xFF:
        kind, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if kind == 0xF7 or (0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC)):
            rows, columns = struct.unpack_from(">HH", frame, at + 5)
            return rows, columns
        at += 1 if kind == 0xFF else 2 + length
    return None


def _openjpeg(frame: bytes) -> npt.NDArray[Any]:
    from openjpeg.utils import decode

    return np.asarray(decode(frame))


def _rle(frame: bytes, rows: int, columns: int, bits: int) -> npt.NDArray[Any]:
    from rle.utils import decode_pixel_data

    # Stored as planes of bytes; the decoder puts them together again.
    try:
        held = decode_pixel_data(frame, version=2, rows=rows, columns=columns, bits_allocated=bits)
    except BaseException as error:  # a panic of this decoder, in Rust, is no Exception
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(str(error)) from error
    return np.frombuffer(held, dtype=f"<u{bits // 8}").reshape(rows, columns)

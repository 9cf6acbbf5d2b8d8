"""Pixels of sorted DICOM planes, each rescaled by its own slope and intercept, in one array.

References
----------
.. [1] DICOM PS3.5 8.1.1 (stored bits); PS3.3 C.7.6.3.1.2 (MONOCHROME1), C.11.1 (rescale).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError
from maskloop.formats.dicom_codecs import decoded

if TYPE_CHECKING:
    from pathlib import Path

    from maskloop.core.job import Job
    from maskloop.formats.dicom_head import Slice

_Pixels = npt.NDArray[Any]
_Scale = tuple[float, float]


def read_planes(planes: list[Slice], job: Job) -> _Pixels:
    """Return the planes as ``(z, y, x)``.

    The values are slope * stored + intercept of each plane; the type is int16 where that is exact
    (uint8 for such values without a rescale), else int32 or float32.

    Raises
    ------
    FormatError
        If pixels are cut short or damaged.
    MissingExtraError
        If a decoder is not installed.
    """
    scales = [_scale(one) for one in planes]
    layouts = {_layout(one) for one in planes}
    reader = _Reader()
    is_whole = all(s.is_integer() and i.is_integer() for s, i in scales)
    if len(layouts) > 1 or not is_whole or min(layouts)[0] == "f":
        data = _as_float(planes, scales, reader, job)
    else:
        data = _as_whole(planes, scales, np.dtype("<{}{}".format(*layouts.pop())), reader, job)
    if planes[0].texts.get("photometric") == "MONOCHROME1":
        job.say("stored as MONOCHROME1 (bright means less): turned so that bright means more")
    return data


def exact_dtype(planes: list[Slice]) -> str | None:
    """Return the type that `read_planes` will give; None where that depends on the values."""
    scales, layouts = {_scale(one) for one in planes}, {_layout(one) for one in planes}
    is_whole = all(s.is_integer() and i.is_integer() for s, i in scales)
    if len(layouts) > 1 or not is_whole or min(layouts)[0] == "f":
        return "float32"
    kind, size = layouts.pop()
    if scales == {(1.0, 0.0)} and (kind == "i" or size == 1):
        return f"{'int' if kind == 'i' else 'uint'}{8 * size}"
    bits = max(one.words.get("bits_stored", 8 * size) or 8 * size for one in planes)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if kind == "i" else (0, 2**bits - 1)
    ends = [end * int(s) + int(i) for s, i in scales for end in (low, high)]
    return "int16" if min(ends) >= -32768 and max(ends) <= 32767 else None


def _scale(one: Slice) -> _Scale:
    return (one.numbers("slope") or (1.0,))[0], (one.numbers("intercept") or (0.0,))[0]


def _layout(one: Slice) -> tuple[str, int]:
    size = one.words.get("has_pixels", 1)
    if size in (4, 8):
        return "f", size
    return "i" if one.words.get("is_signed") else "u", one.words["bits"] // 8


class _Reader:
    """Read stored values of planes; keeps the last mosaic or file, which holds many of them."""

    def __init__(self) -> None:
        self._whole: tuple[str, _Pixels] | None = None
        self._open: dict[Path, Any] = {}  # Any: pydicom's data set

    def into(self, plane: _Pixels, one: Slice) -> None:
        """Fill a contiguous little-endian plane with stored values, unused bits cleared."""
        if one.is_tile:
            plane[...] = self._tile(one, plane.dtype)
        elif one.offset is None:
            plane[...] = _fitting(decoded(one, self._open), one.shape, one, plane.dtype)
        else:
            _read_raw(plane, one)

    def _tile(self, one: Slice, dtype: np.dtype[Any]) -> _Pixels:
        side, (height, width) = one.words["side"], one.shape
        shape = height * side, width * side
        if self._whole is None or self._whole[0] != str(one.path):
            if one.offset is None:
                whole = _fitting(decoded(one), shape, one, dtype)
            else:
                whole = np.empty(shape, dtype)
                _read_raw(whole, one)
            self._whole = str(one.path), whole
        row, column = divmod(one.frame, side)
        return self._whole[1][
            row * height : (row + 1) * height, column * width : (column + 1) * width
        ]


def _fitting(found: _Pixels, shape: tuple[int, int], one: Slice, dtype: np.dtype[Any]) -> _Pixels:
    if found.shape != shape:
        msg = (
            f"expected pixels of shape {shape} in {one.path.name}, got {found.shape}; the header "
            "does not fit the pixels: copy the file again"
        )
        raise FormatError(msg)
    # Decoders answer in the sign and width of the encoded picture; two's complement is kept.
    return found.astype(dtype, copy=False)


def _read_raw(plane: _Pixels, one: Slice) -> None:
    view = plane.reshape(-1).view(np.uint8).data
    count = 0
    with open(one.path, "rb", buffering=0) as stream:
        stream.seek(one.offset or 0)
        # One call reads all of it from a disk; a network share may hand it out in parts.
        while count < plane.nbytes and (got := stream.readinto(view[count:])):
            count += got
    if count != plane.nbytes:
        msg = (
            f"expected {plane.nbytes} bytes of pixels in {one.path.name}, got {count}; the file "
            "was cut short: copy it again"
        )
        raise FormatError(msg)


def _ends(plane: _Pixels, one: Slice) -> tuple[int, int]:
    """Return the lowest and highest stored value, after clearing what are no stored bits."""
    low, high = int(plane.min()), int(plane.max())
    size = 8 * plane.dtype.itemsize
    bits = one.words.get("bits_stored", size) or size
    if bits >= size:
        return low, high
    is_signed = plane.dtype.kind == "i"
    lowest, highest = (
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if is_signed else (0, (1 << bits) - 1)
    )
    if lowest <= low and high <= highest:
        return low, high
    # Old scanners kept overlays in the bits above the stored ones.
    plane <<= plane.dtype.type(size - bits)
    plane >>= plane.dtype.type(size - bits)
    return int(plane.min()), int(plane.max())


def _turn(plane: _Pixels, one: Slice, ends: tuple[int, int]) -> tuple[int, int]:
    if one.texts.get("photometric") != "MONOCHROME1":
        return ends
    bits = one.words.get("bits_stored", 0) or 8 * plane.dtype.itemsize
    top: int = -1 if plane.dtype.kind == "i" else 2**bits - 1
    np.subtract(plane.dtype.type(top), plane, out=plane)
    return top - ends[1], top - ends[0]


def _as_float(planes: list[Slice], scales: list[_Scale], reader: _Reader, job: Job) -> _Pixels:
    data = np.empty((len(planes), *planes[0].shape), np.float32)
    for out, one, (slope, intercept) in zip(
        data, job.track(planes, "slices"), scales, strict=False
    ):
        plane = np.empty(one.shape, "<{}{}".format(*_layout(one)))
        reader.into(plane, one)
        if plane.dtype.kind != "f":
            _turn(plane, one, _ends(plane, one))
        # In double precision, as the standard's decimal strings are; rounded once at the end.
        with np.errstate(over="ignore", invalid="ignore"):
            out[...] = plane if (slope, intercept) == (1, 0) else plane * slope + intercept
    return data


def _as_whole(
    planes: list[Slice], scales: list[_Scale], dtype: np.dtype[Any], reader: _Reader, job: Job
) -> _Pixels:
    """Read and rescale plane by plane, while each is in the processor's cache."""
    data = np.empty((len(planes), *planes[0].shape), dtype)
    size = 8 * dtype.itemsize
    # Adding modulo 2**16 is exact where the result fits and can be taken back where it does not.
    is_shift = size == 16 and all(slope == 1 for slope, _ in scales)
    shifted = data.view("<i2") if is_shift else data
    low, high = 0, 0
    for number, one in enumerate(job.track(planes, "slices")):
        reader.into(data[number], one)
        ends = _turn(data[number], one, _ends(data[number], one))
        slope, intercept = int(scales[number][0]), int(scales[number][1])
        found = (ends[0] * slope + intercept, ends[1] * slope + intercept)
        low, high = (min(low, *found), max(high, *found)) if number else (min(found), max(found))
        if is_shift and intercept:
            shifted[number] += _wrapped(intercept)
    is_narrow = low >= -32768 and high <= 32767
    if is_shift and is_narrow:
        return shifted.astype(np.int16, copy=False)
    if is_shift:
        for plane, (_, added) in zip(shifted, scales, strict=True):
            plane -= _wrapped(int(added))
    if set(scales) == {(1.0, 0.0)} and (dtype.kind == "i" or size == 8):
        return data.astype(dtype.newbyteorder("="), copy=False)
    return _widened(data, scales, low, high)


def _wrapped(intercept: int) -> np.int16:
    return np.int16(((intercept + 32768) & 0xFFFF) - 32768)


def _widened(data: _Pixels, scales: list[_Scale], low: int, high: int) -> _Pixels:
    if low >= -32768 and high <= 32767:
        dtype: type[np.number[Any]] = np.int16
    elif low >= -(2**31) and high < 2**31:
        dtype = np.int32
    else:
        dtype = np.float32
    if np.dtype(dtype).kind == "f":
        factors = np.array(scales).reshape(-1, 2, 1, 1)
        return np.asarray(data * factors[:, 0] + factors[:, 1], dtype=np.float32)
    wide = np.empty(data.shape, dtype)
    for out, plane, (slope, intercept) in zip(wide, data, scales, strict=True):
        out[...] = plane.astype(np.int64) * int(slope) + int(intercept)
    return wide

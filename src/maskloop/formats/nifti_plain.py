"""A second NIfTI reader, straight from the standard, to prove what the writers wrote.

It shares no code with `maskloop.formats.nifti_write` and does not use nibabel.

References
----------
.. [1] "NIfTI-1 Data Format", nifti1.h, 2004, and "NIfTI-2", nifti2.h, 2011: field offsets,
   METHOD 2 (quaternion) and METHOD 3 (affine), datatype codes.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import VerificationError
from maskloop.core.geometry import Geometry
from maskloop.formats.base import Evidence
from maskloop.formats.gunzip import gunzip, read_bytes

if TYPE_CHECKING:
    from pathlib import Path

Bytes = npt.NDArray[np.uint8]

# field: (offset, struct code) in NIfTI-1 and NIfTI-2
_FIELDS = {
    "dim": ((40, "8h"), (16, "8q")),
    "datatype": ((70, "h"), (12, "h")),
    "pixdim": ((76, "8f"), (104, "8d")),
    "vox_offset": ((108, "f"), (168, "q")),
    "scale": ((112, "2f"), (176, "2d")),
    "units": ((123, "B"), (500, "i")),
    "codes": ((252, "2h"), (344, "2i")),
    "quatern": ((256, "3f"), (352, "3d")),
    "qoffset": ((268, "3f"), (376, "3d")),
    "srow": ((280, "12f"), (400, "12d")),
}
_TYPES = {
    **{2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8"},
    **{256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"},
}
_COLOURS = {128: 3, 2304: 4}  # bytes a voxel: red, green, blue, alpha


def read(path: Path) -> Evidence:
    """Return voxels as ([t,] z, y, x [, c]), the grid in mm and, of a mask, the names by id."""
    content = read_bytes(path)
    start = content[:1024].tobytes()
    is_packed = start[:2] == b"\x1f\x8b"
    if is_packed:
        start = zlib.decompressobj(31).decompress(start, 1024)
    version = {348: 1, 540: 2}.get(struct.unpack_from("<i", start)[0])
    magic = start[344:348] if version == 1 else start[4:8]
    if version is None or magic not in (b"n+1\0", b"n+2\0"):
        msg = (
            f"expected {path.name} to read back as NIfTI, got {start[:8]!r}; the old file was kept"
        )
        raise VerificationError(msg)
    get = {
        field: struct.unpack_from("<" + places[version - 1][1], start, places[version - 1][0])
        for field, places in _FIELDS.items()
    }
    dims, kind, channels = _layout(get, path)
    begin = int(get["vox_offset"][0])
    size = begin + math.prod(dims) * kind.itemsize * channels
    whole = gunzip(content, size) if is_packed else content
    if whole is None or len(whole) != size:
        msg = (
            f"expected {size} bytes in {path.name}, got "
            f"{'others' if whole is None else len(whole)}; the old file was kept"
        )
        raise VerificationError(msg)
    stored = np.frombuffer(whole, kind, offset=begin)
    geometry = Geometry(tuple(dims[2::-1]), _affine(get)[:, [2, 1, 0, 3]], "mm")
    return Evidence(_ordered(stored, dims, channels), geometry, _names(whole, get, version))


def _layout(get: dict[str, Any], path: Path) -> tuple[list[int], np.dtype[Any], int]:
    """Return (i, j, k[, t[, c]]), the type of one number and how many make a colour, else 1."""
    code = get["datatype"][0]
    if code not in (*_TYPES, *_COLOURS) or get["scale"] != (1.0, 0.0):
        msg = (
            f"expected {path.name} to hold numbers or colours with slope 1 and intercept 0, got "
            f"type {code} with {get['scale']}; the old file was kept"
        )
        raise VerificationError(msg)
    dims = [int(n) for n in get["dim"][1 : 1 + get["dim"][0]]]
    dims += [1] * (3 - len(dims))
    return dims, np.dtype("<" + _TYPES.get(code, "u1")), _COLOURS.get(code, 1)


def _ordered(flat: npt.NDArray[Any], dims: list[int], channels: int) -> npt.NDArray[Any]:
    """Return ([t,] z, y, x [, c]) of numbers whose first axis runs fastest."""
    if channels > 1:
        return flat.reshape(*dims[::-1], channels)
    found = flat.reshape(dims, order="F").T
    return np.moveaxis(found, 0, -1) if len(dims) == 5 else found


def _affine(get: dict[str, Any]) -> npt.NDArray[np.float64]:
    qform_code, sform_code = get["codes"]
    steps = np.array(get["pixdim"][1:4], dtype=np.float64)
    affine = np.eye(4)
    if sform_code > 0:
        affine[:3] = np.array(get["srow"]).reshape(3, 4)
    elif qform_code > 0:
        affine[:3, :3] = _rotation(*get["quatern"]) * steps
        affine[:3, 2] *= -1 if get["pixdim"][0] < 0 else 1
        affine[:3, 3] = get["qoffset"]
    else:
        # No orientation stated: the convention of SPM and nibabel, x to the left, 0 in the middle.
        dims = np.array([*get["dim"][1 : 1 + get["dim"][0]], 1, 1][:3], dtype=np.float64)
        affine[:3, :3] = np.diag(steps * (-1, 1, 1))
        affine[:3, 3] = -affine[:3, :3] @ ((dims - 1) / 2)
    affine[:3] *= {1: 1000.0, 3: 0.001}.get(get["units"][0] & 7, 1.0)
    return affine


def _rotation(b: float, c: float, d: float) -> npt.NDArray[np.float64]:
    a = math.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    if a < 1e-7:
        length = math.sqrt(b * b + c * c + d * d)
        a, b, c, d = 0.0, b / length, c / length, d / length
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )


def _names(content: Bytes, get: dict[str, Any], version: int) -> dict[int, str] | None:
    at = 348 if version == 1 else 540
    if content[at] == 0:
        return None
    size, code = struct.unpack_from("<ii", content.data, at + 4)
    if code != 6 or at + 4 + size > get["vox_offset"][0]:
        return None
    text = content[at + 12 : at + 4 + size].tobytes()
    rows = json.loads(text.rstrip(b"\0"))["labels"]
    return {int(row["id"]): str(row["name"]) for row in rows}

"""A second NIfTI reader, straight from the standard, to prove what the writer wrote.

It shares no code with `maskloop.formats.nifti` and does not use nibabel.

References
----------
.. [1] "NIfTI-1 Data Format", nifti1.h, 2004, and "NIfTI-2", nifti2.h, 2011: field offsets,
   METHOD 2 (quaternion) and METHOD 3 (affine).
"""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import VerificationError
from maskloop.core.geometry import Geometry
from maskloop.formats.base import Evidence

if TYPE_CHECKING:
    from pathlib import Path

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
_TYPES = {2: "u1", 512: "u2", 768: "u4"}


def read(path: Path) -> Evidence:
    """Return ids as (z, y, x), the grid in mm and the names by id of a label file."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = _inflated(content, path)
    version = {348: 1, 540: 2}.get(struct.unpack_from("<i", content)[0])
    magic = content[344:348] if version == 1 else content[4:8]
    if version is None or magic not in (b"n+1\0", b"n+2\0"):
        msg = (
            f"expected {path.name} to read back as NIfTI, got {content[:8]!r}; the old file was "
            "kept"
        )
        raise VerificationError(msg)
    get = {
        field: struct.unpack_from("<" + places[version - 1][1], content, places[version - 1][0])
        for field, places in _FIELDS.items()
    }
    ids = _ids(content, get, path)
    shape = ids.shape[-3:]
    return Evidence(
        ids, Geometry(shape, _affine(get)[:, [2, 1, 0, 3]], "mm"), _names(content, get, version)
    )


def _inflated(content: bytes, path: Path) -> bytes:
    import deflate

    try:
        return bytes(deflate.gzip_decompress(content))
    except deflate.DeflateError as error:
        msg = f"expected {path.name} to inflate again, got {error}; the old file was kept"
        raise VerificationError(msg) from error


def _ids(content: bytes, get: dict[str, Any], path: Path) -> npt.NDArray[Any]:
    slope, inter = get["scale"]
    if get["datatype"][0] not in _TYPES or (slope, inter) != (1.0, 0.0):
        msg = (
            f"expected {path.name} to hold unsigned ids with slope 1 and intercept 0, got type "
            f"{get['datatype'][0]}, {slope}, {inter}; the old file was kept"
        )
        raise VerificationError(msg)
    dims = [int(n) for n in get["dim"][1 : 1 + get["dim"][0]]]
    dims += [1] * (3 - len(dims))
    kind = np.dtype("<" + _TYPES[get["datatype"][0]])
    start, count = int(get["vox_offset"][0]), math.prod(dims)
    if len(content) != start + count * kind.itemsize:
        msg = (
            f"expected {start + count * kind.itemsize} bytes in {path.name}, got {len(content)}; "
            "the old file was kept"
        )
        raise VerificationError(msg)
    return np.frombuffer(content, kind, count, start).reshape(dims, order="F").T


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


def _names(content: bytes, get: dict[str, Any], version: int) -> dict[int, str] | None:
    at = 348 if version == 1 else 540
    if content[at] == 0:
        return None
    size, code = struct.unpack_from("<ii", content, at + 4)
    if code != 6 or at + 4 + size > get["vox_offset"][0]:
        return None
    rows = json.loads(content[at + 12 : at + 4 + size].rstrip(b"\0"))["labels"]
    return {int(row["id"]): str(row["name"]) for row in rows}

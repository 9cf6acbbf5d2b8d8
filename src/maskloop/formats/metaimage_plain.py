"""A second MetaImage reader, straight from its documentation, to prove what the writer wrote.

It shares no code with `maskloop.formats.metaimage`.

References
----------
.. [1] "MetaImage Documentation", Kitware: tags, types and their sizes.
"""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import VerificationError
from maskloop.core.geometry import Geometry
from maskloop.formats.base import Evidence

if TYPE_CHECKING:
    from maskloop.formats.base import Target

_SIZES = {
    **{"CHAR": "b", "UCHAR": "B", "SHORT": "<h", "USHORT": "<H", "INT": "<i", "UINT": "<I"},
    **{"LONG_LONG": "<q", "ULONG_LONG": "<Q", "FLOAT": "<f", "DOUBLE": "<d"},
}


def read(to: Target) -> Evidence:
    """Return numbers as ([t,] z, y, x [, c]) and the grid in RAS+ mm; there are no names."""
    content = to.path.read_bytes()
    tags: dict[str, str] = {}
    at = 0
    while "ElementDataFile" not in tags:
        end = content.index(b"\n", at)
        name, _, value = content[at:end].decode().partition(" = ")
        tags[name] = value
        at = end + 1
    if to.companion is not None and to.final_companion is not None:
        meant, packed = to.final_companion.name, to.companion.read_bytes()
    else:
        meant, packed = "LOCAL", content[at:]
    if tags["ElementDataFile"] != meant or tags.get("CompressedDataSize") != str(len(packed)):
        msg = (
            f"expected {to.final.name} to point at {len(packed)} bytes in {meant!r}, got "
            f"{tags.get('CompressedDataSize')} in {tags['ElementDataFile']!r}; the old file was "
            "kept"
        )
        raise VerificationError(msg)
    flags = (tags["BinaryData"], tags["BinaryDataByteOrderMSB"], tags["CompressedData"])
    if flags != ("True", "False", "True"):
        msg = (
            f"expected {to.final.name} to hold packed little-endian numbers, got {flags}; the old "
            "file was kept"
        )
        raise VerificationError(msg)
    sizes = [int(word) for word in tags["DimSize"].split()]
    channels = int(tags.get("ElementNumberOfChannels", 1))
    kind = np.dtype(_SIZES[tags["ElementType"].removeprefix("MET_")])
    plain = zlib.decompress(packed)
    if len(plain) != math.prod(sizes) * channels * kind.itemsize or len(sizes) != int(
        tags["NDims"]
    ):
        msg = (
            f"expected {math.prod(sizes) * channels} numbers in {to.final.name}, got "
            f"{len(plain)} bytes; the old file was kept"
        )
        raise VerificationError(msg)
    data = np.frombuffer(plain, kind).reshape([*sizes[::-1], channels])
    data = data.astype(kind.newbyteorder("="), copy=False)
    return Evidence(data if channels > 1 else data[..., 0], _grid(tags, sizes), None)


def _grid(tags: dict[str, str], sizes: list[int]) -> Geometry | None:
    """Return the grid: a step along axis n is row n of the matrix times its spacing, in LPS."""
    if "TransformMatrix" not in tags:
        return None
    count = len(sizes)
    rows = _floats(tags["TransformMatrix"]).reshape(count, count)
    spacing, offset = _floats(tags["ElementSpacing"]), _floats(tags["Offset"])
    axes = min(count, 3)
    affine = np.diag((0.0, 0, 0, 1))
    for axis in range(axes):
        affine[:axes, 2 - axis] = rows[axis, :axes] * spacing[axis]
    if axes == 2:
        affine[:, 0] = (0, 0, 1, 0)
    affine[:axes, 3] = offset[:axes]
    affine[:2] *= -1
    return Geometry(tuple([*sizes[:axes], 1][:3][::-1]), affine, "mm")


def _floats(text: str) -> npt.NDArray[np.float64]:
    return np.array([float(word) for word in text.split()])

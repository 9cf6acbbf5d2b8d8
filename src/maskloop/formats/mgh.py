"""FreeSurfer volumes: .mgh, and .mgz packed by gzip. Read only.

Arrays come as ([t,] z, y, x), the reverse of the stored axes, without a copy.

References
----------
.. [1] FreeSurfer wiki, "MghFormat": field offsets; c_ras is the place of the middle voxel.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError, GeometryError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.mask import Mask
from maskloop.formats import stored
from maskloop.formats.base import (
    Choices,
    Format,
    first_bytes,
    ids_of,
    reading,
    table_beside,
)
from maskloop.formats.gunzip import read_bytes
from maskloop.formats.placing import FAR

if TYPE_CHECKING:
    from pathlib import Path

    from maskloop.core.job import Job
    from maskloop.core.labels import Kind

_HEADER = 284  # bytes before the voxels
_TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}


def sniff(path: Path) -> bool:
    """Whether a file starts like an MGH header of version 1, packed or not."""
    start = _start_of(first_bytes(path, 1024))
    return len(start) >= 30 and _looks_right(start)


def read_image(path: Path, *, choices: Choices, job: Job) -> Image:
    """Read a volume in the stored order and type; frames come first, as time.

    Raises
    ------
    FormatError
        If the file is damaged, is not MGH, or its axes cannot be placed.
    """
    with reading(path):
        content = read_bytes(path)
    job.check()
    start = _start_of(bytes(content[:1024]))
    if len(start) < _HEADER or not _looks_right(start):
        msg = (
            f"expected an MGH file, got {path.name} that starts with {bytes(content[:8])!r}; check "
            "that it was not renamed or cut short"
        )
        raise FormatError(msg)
    dtype, shape = _stated(start, path.name)
    count = math.prod(shape)
    needed = _HEADER + count * dtype.itemsize
    if bytes(content[:2]) == b"\x1f\x8b":
        content = _unpacked(content, needed, path.name, job)
    if len(content) < needed:
        raise stored.cut_short(path.name, needed, len(content))
    job.check()
    data = stored.as_native(content[_HEADER:needed].view(dtype)).reshape(shape)
    return Image(
        data if shape[0] > 1 else data[0],
        _geometry(start, shape[1:], path.name, job),
        path,
        has_time=shape[0] > 1,
    )


def read_mask(
    path: Path, *, image: Image | None, entry: str | int | None, kind: Kind | None, job: Job
) -> Mask:
    """Read label ids; the table comes from the sidecar: the format itself has no place for it."""
    found = read_image(path, choices=Choices(), job=job)
    ids = ids_of(found.data, path, job)
    return Mask(ids, found.geometry, table_beside(path, ids, kind), path, None).checked()


def _start_of(head: bytes) -> bytes:
    """Return the header of a possibly packed file, as far as `head` reaches."""
    if head[:2] != b"\x1f\x8b":
        return head[:_HEADER]
    try:
        return zlib.decompressobj(31).decompress(head, _HEADER)
    except zlib.error:
        return b""


def _looks_right(start: bytes) -> bool:
    """Whether a header has version 1, axes of at least one voxel and a type that there is."""
    version, *sizes, kind = (int.from_bytes(start[at : at + 4], "big") for at in range(0, 24, 4))
    # Newer FreeSurfer keeps the kind of file in the upper bits of the version.
    return version & 0xFF == 1 and all(0 < n < 1 << 31 for n in sizes) and kind < 32


def _stated(start: bytes, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return the stored type and ([t,] z, y, x)."""
    width, height, depth, frames, kind = np.frombuffer(start, ">i4", 5, 4).tolist()
    if kind not in _TYPES:
        msg = (
            f"expected 8, 16 or 32-bit integers or floats in {name}, got MGH type {kind}; convert "
            "it with mri_convert first"
        )
        raise FormatError(msg)
    return np.dtype(_TYPES[kind]), (frames, depth, height, width)


def _geometry(start: bytes, shape: tuple[int, ...], name: str, job: Job) -> Geometry:
    """Return the grid: axes are the rows of the stored cosines, the middle voxel lies at c_ras."""
    if int.from_bytes(start[28:30], "big", signed=True) > 0:
        floats = np.array(struct.unpack_from(">15f", start, 30))
        spacing, axes, middle = floats[:3], floats[3:12].reshape(3, 3), floats[12:]
    else:
        job.say(
            f"{name} states no orientation: it was taken as coronal at 1 mm with its middle at 0, "
            "as FreeSurfer does"
        )
        spacing, middle = np.ones(3), np.zeros(3)
        axes = np.array([[-1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    if not all((np.abs(part) < FAR).all() for part in (axes, spacing, middle)):
        msg = (
            f"expected steps and a middle below {FAR:.0e} mm in {name}, got {spacing.tolist()} at "
            f"{middle.tolist()}; the header is damaged: copy the file again"
        )
        raise FormatError(msg)
    affine = np.eye(4)
    affine[:3, :3] = (axes * spacing[:, None])[::-1].T
    affine[:3, 3] = middle - affine[:3, :3] @ (np.array(shape) / 2)
    affine += 0.0  # no -0.0
    try:
        return Geometry(shape, affine, "mm")
    except GeometryError as error:
        msg = f"expected usable direction cosines in {name}, got this: {error}"
        raise FormatError(msg) from error


def _unpacked(
    packed: npt.NDArray[np.uint8], needed: int, name: str, job: Job
) -> npt.NDArray[np.uint8]:
    """Return the inflated file; a footer behind the voxels may or may not be there."""
    length = int.from_bytes(bytes(packed[-4:]), "little")
    footer = length - needed % 2**32
    if 0 < footer < 2**20:
        needed += footer
    return stored.unpack(packed, needed, name, job=job)


FORMAT = Format(
    name="mgh",
    title="FreeSurfer MGH volumes",
    suffixes=(".mgz", ".mgh"),
    sniff=sniff,
    read_image=read_image,
    read_mask=read_mask,
)

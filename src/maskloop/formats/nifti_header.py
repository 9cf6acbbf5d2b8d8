"""What a NIfTI header states: shape, type, scaling and the place of the voxels.

References
----------
.. [1] "NIfTI-1 Data Format", nifti1.h, 2004, and "NIfTI-2", nifti2.h, 2011: sform and qform,
   xyzt_units, extensions.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from maskloop.core.errors import FormatError, GeometryError
from maskloop.core.geometry import Affine, Geometry
from maskloop.formats.nifti_block import NiftiBlock

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from maskloop.core.job import Job

COMMENT = 6  # NIfTI extension code for plain text
RGB = {128: 3, 2304: 4}  # datatype: channels
_UNIT_MM = {1: 1000.0, 3: 0.001}  # xyzt_units: metre, micrometre; all else is taken as mm
_MOST_EXTENSIONS = 1000
_GRID_FIELDS = (
    *("sform_code", "qform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
    *("xyzt_units", "dim_info"),
)


@dataclass(frozen=True, slots=True)
class NiftiHeader:
    """The stored header, kept so that a mask can be written with the same grid and codes."""

    version: int
    block: bytes  # little-endian, 348 or 540 bytes
    geometry: Geometry
    ndim: int  # spatial axes the file states: 2 or 3
    extensions: int = 0  # how many there are beside our own label table


def version_of(start: bytes) -> int | None:
    """Return 1 or 2, or None where the start is no NIfTI header, in one file or of a pair."""
    if len(start) >= 348 and start[344:348] in (b"n+1\0", b"ni1\0"):
        return 1
    if len(start) >= 540 and start[4:8] in (b"n+2\0", b"ni2\0"):
        return 2
    return None


def is_of_a_pair(start: bytes) -> bool:
    """Whether this header says that the voxels lie in another file (``.hdr`` and ``.img``)."""
    return start[344:348] == b"ni1\0" or start[4:8] == b"ni2\0"


def parse(start: bytes, version: int, name: str) -> NiftiBlock:
    """Return the header's fields; refuse one whose type, shape or offset makes no sense."""
    header = NiftiBlock.parsed(start, version)
    try:
        _ = header.dtype, header.shape, int(header["vox_offset"])
    except (ValueError, OverflowError, KeyError) as error:
        msg = (
            f"expected a NIfTI header that makes sense in {name}, got {error}; the file is "
            "damaged: copy it again"
        )
        raise FormatError(msg) from error
    return header


def shape_of(header: NiftiBlock, name: str) -> tuple[int, ...]:
    """Return (i, j, k[, t[, c]]) with trailing axes of one voxel dropped; refuse other shapes."""
    shape = header.shape
    while len(shape) > 5 and shape[-1] == 1:
        shape = shape[:-1]
    if not 2 <= len(shape) <= 5 or any(n < 1 for n in shape):
        msg = (
            f"expected 2 to 5 axes of at least 1 voxel in {name}, got {shape}; extract one "
            "volume first"
        )
        raise FormatError(msg)
    dtype = header.dtype
    if dtype.kind == "c" or not 0 < dtype.itemsize <= 8:
        msg = (
            f"expected real numbers of at most 64 bits in {name}, got {dtype}; convert the file "
            "first"
        )
        raise FormatError(msg)
    return shape


def offset_of(header: NiftiBlock) -> int:
    """Return where the voxels start; an offset inside the header means: right behind it."""
    stated = int(header["vox_offset"])
    return stated if stated >= header.size else header.size + 4


def size_of(header: NiftiBlock, name: str) -> int:
    """Return how many bytes the voxels take, as the header has it."""
    return math.prod(shape_of(header, name)) * header.dtype.itemsize


def kept(header: NiftiBlock, name: str, *, extensions: int, job: Job) -> NiftiHeader:
    """Return what is kept of a header; tell `job` where it leaves the orientation in doubt."""
    stated = shape_of(header, name)
    shape = (*stated[:3], 1)[:3][::-1]
    try:
        with np.errstate(all="ignore"):
            geometry = _geometry(header, shape, name, job)
    except GeometryError as error:
        msg = f"expected a usable affine in {name}, got this: {error}"
        raise FormatError(msg) from error
    return NiftiHeader(header.version, header.to_bytes(), geometry, min(len(stated), 3), extensions)


def _geometry(header: NiftiBlock, shape: tuple[int, ...], name: str, job: Job) -> Geometry:
    """Return the grid: sform, else qform, else the old Analyze rule."""
    scale = _UNIT_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    has_sform, has_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    by_qform = _tried(_qform(header), shape, scale) if has_qform else None
    if not has_sform and not has_qform:
        job.say(
            f"{name} states no orientation (sform and qform codes are 0): left and right are a "
            "guess, x runs to the left and the middle lies at 0"
        )
        return _grid(header.base_affine, shape, scale)
    if not has_sform:
        return by_qform or _grid(_qform(header), shape, scale)
    by_sform = _tried(header.sform, shape, scale)
    if by_sform is None and by_qform is not None:
        job.say(f"{name}: the sform cannot be inverted; the qform was taken")
        return by_qform
    if by_sform is not None and by_qform is not None and not by_sform.matches(by_qform):
        job.say(
            f"{name}: sform and qform disagree, by the qform "
            f"{by_sform.difference(by_qform)}; the sform was taken"
        )
    return by_sform or _grid(header.sform, shape, scale)


def _tried(stored: npt.ArrayLike, shape: tuple[int, ...], scale: float) -> Geometry | None:
    try:
        return _grid(stored, shape, scale)
    except GeometryError:
        return None


def _grid(stored: npt.ArrayLike, shape: tuple[int, ...], scale: float) -> Geometry:
    """Return the grid of (z, y, x) indices for an affine of (i, j, k) indices in a file's unit."""
    affine = np.array(stored, dtype=np.float64)
    affine[:3] *= scale
    return Geometry(shape, turned(affine), "mm")


def _qform(header: NiftiBlock) -> Affine:
    try:
        return header.qform
    except ValueError:
        return np.full((4, 4), np.nan)


def turned(stored: Affine) -> Affine:
    """Return the affine of (z, y, x) indices for one of (i, j, k) indices, or the other way."""
    return stored[:, [2, 1, 0, 3]]


def extensions(
    content: npt.NDArray[np.uint8], header: NiftiBlock, end: int
) -> Iterator[tuple[int, bytes]]:
    """Yield (code, text) of each header extension; stop at the first that lies about its size."""
    at = header.size
    if end < at + 4 or not content[at]:
        return
    at += 4
    for _ in range(_MOST_EXTENSIONS):
        if at + 8 > end:
            return
        size, code = struct.unpack_from(f"{header.byte_order}ii", content.data, at)
        if size < 8 or at + size > end:
            return
        yield code, content[at + 8 : at + size].tobytes()
        at += size


def new_header(
    shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    geometry: Geometry,
    source: NiftiHeader | None,
) -> NiftiBlock:
    """Return a header that holds the grid and its codes, and no text of the source's.

    Parameters
    ----------
    shape : tuple of int
        As stored: (i, j, k[, t[, c]]).
    dtype : dtype
        Of a voxel.
    geometry : Geometry
        The grid to state.
    source : NiftiHeader, optional
        Its codes and numbers are copied where its grid is the same.
    """
    is_large = max(shape) > 32767
    version = 2 if is_large or (source is not None and source.version == 2) else 1
    header = NiftiBlock.empty(version)
    header.set_shape(shape)
    header.set_dtype(dtype)
    if source is not None and _is_same(source.geometry, geometry):
        _copy_grid(header, parse(source.block, source.version, "the source"))
    else:
        _state_grid(header, geometry)
    return header


def _is_same(one: Geometry, other: Geometry) -> bool:
    return one.shape == other.shape and np.array_equal(one.affine, other.affine)


def _copy_grid(header: NiftiBlock, source: NiftiBlock) -> None:
    """Copy what places the voxels, number by number: a recomputed quaternion would differ."""
    for key in _GRID_FIELDS:
        header[key] = source[key]
    header["pixdim"][:5] = source["pixdim"][:5]


def _state_grid(header: NiftiBlock, geometry: Geometry) -> None:
    """State a grid that no NIfTI file gave: sform, and qform too where a rotation can say it."""
    affine = turned(geometry.affine)
    header.set_mm()
    header["pixdim"][1:4] = geometry.spacing[::-1]
    cosines = affine[:3, :3] / np.array(geometry.spacing[::-1])
    if np.allclose(cosines.T @ cosines, np.eye(3), atol=1e-5):
        header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)

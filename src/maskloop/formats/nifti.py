"""NIfTI-1 and NIfTI-2 in one file, plain or gzipped.

Arrays come as (z, y, x): the transpose of the stored (i, j, k), without a copy.
"""

from __future__ import annotations

import gzip
import logging
import math
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError, GeometryError, InputError
from maskloop.core.geometry import Affine, Geometry
from maskloop.core.image import Image, smallest_unsigned
from maskloop.core.mask import Mask, as_ids, present_ids
from maskloop.formats.base import (
    Choices,
    Evidence,
    Format,
    Planned,
    Target,
    as_kind,
    default_table,
    read_sidecar,
    reading,
    table_bytes,
    table_from,
)

if TYPE_CHECKING:
    from pathlib import Path

    from maskloop.core.job import Job
    from maskloop.core.labels import Kind, LabelTable

_LOG = logging.getLogger(__name__)
_COMMENT = 6  # NIfTI extension code for plain text
_UNIT_MM = {1: 1000.0, 3: 0.001}  # xyzt_units: metre, micrometre; all else is taken as mm
_RGB = {128: 3, 2304: 4}
_RATIO = 1040  # deflate cannot shrink more than this


@dataclass(frozen=True, slots=True)
class NiftiHeader:
    """The stored header, kept so that a mask can be written with the same grid and codes."""

    version: int
    block: bytes  # little-endian, 348 or 540 bytes
    geometry: Geometry
    ndim: int  # spatial axes the file states: 2 or 3


@dataclass(frozen=True, slots=True, eq=False)
class _Stored:
    """A file as it lies on disk: a nibabel header, all its bytes, where the voxels start."""

    header: Any  # Any: nibabel is untyped
    version: int
    content: bytearray
    offset: int
    name: str


def sniff(path: Path) -> bool:
    """Whether a file starts like a NIfTI file, gzipped or not."""
    try:
        with path.open("rb") as stream:
            head = stream.read(2048)
    except OSError:
        return False
    return _version_of(_inflated_start(head)) is not None


def read_image(path: Path, *, choices: Choices, job: Job) -> Image:
    """Read a volume; integers stay integers unless the header scales them by a fraction.

    Returns
    -------
    Image
        ``(z, y, x)``, with a time axis first and channels (RGB, vectors) last where present.

    Raises
    ------
    FormatError
        If the file is damaged, is not NIfTI, or has an unusable affine.
    """
    return _image_of(_open(path, job), path)


def read_mask(
    path: Path, *, image: Image | None, entry: str | int | None, kind: Kind | None, job: Job
) -> Mask:
    """Read label ids; the table comes from the file's extension, else from the sidecar."""
    stored = _open(path, job)
    found = _image_of(stored, path)
    if found.has_channels:
        msg = (
            f"expected one label id a voxel in {path.name}, got {found.channels} channels; "
            "choose a label file"
        )
        raise FormatError(msg)
    try:
        ids = as_ids(found.data)
    except InputError as error:
        raise FormatError(f"{path.name}: {error}") from error
    labels = _table_in(stored) or read_sidecar(path)
    if labels is None:
        labels = default_table(present_ids(ids), kind)
    return Mask(ids, found.geometry, as_kind(labels, kind), path, found.header).checked()


def plan(mask: Mask, *, suffix: str) -> Planned:
    """Narrow the ids; put a picture of pixels on a grid of 1 mm, and say so."""
    losses: tuple[str, ...] = ()
    ids = mask.data.astype(smallest_unsigned(int(mask.data.max(initial=0))), copy=False)
    if ids.dtype.itemsize > 4:
        msg = f"expected label ids below 2**32, got {int(ids.max())}; renumber the labels"
        raise InputError(msg)
    geometry = mask.geometry
    if geometry.ndim == 2 or geometry.unit == "px":
        losses = ("the pixel grid has no millimetres: written as 1 mm a pixel, as ITK does",)
        geometry = _pixels_in_mm(geometry)
        ids = ids.reshape(*ids.shape[: mask.data.ndim - mask.geometry.ndim], *geometry.shape)
    planned = Mask(ids, geometry, mask.labels, mask.source, mask.header)
    return Planned(planned, geometry, losses)


def write_mask(mask: Mask, to: Target) -> None:
    """Write ids in the source's storage order with its header codes, and nothing else of it."""
    header = _new_header(mask)
    note = _extension(mask.labels)
    header["vox_offset"] = header.sizeof_hdr + 4 + len(note)
    voxels = mask.data.astype(mask.data.dtype.newbyteorder("<"), order="C", copy=False)
    parts = [header.binaryblock, b"\1\0\0\0" if note else b"\0\0\0\0", note]
    if not to.suffix.endswith(".gz"):
        with to.path.open("wb") as stream:
            stream.write(b"".join(parts))
            stream.write(voxels.reshape(-1).data)
        return
    packer = _gzip_writer()
    with (
        to.path.open("wb") as raw,
        packer(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
    ):
        packed.write(b"".join(parts))
        packed.write(voxels.reshape(-1).data)


def _gzip_writer() -> Any:  # Any: isal is untyped
    from isal import igzip

    return igzip.IGzipFile


def reread(to: Target) -> Evidence:
    """Read a label file with nothing but the NIfTI-1/2 standard: no nibabel, no shared helper."""
    from maskloop.formats import nifti_plain

    return nifti_plain.read(to.path)


def _open(path: Path, job: Job) -> _Stored:
    with reading(path):
        raw = path.read_bytes()
    job.check()
    start = _inflated_start(raw[:65536])
    version = _version_of(start)
    if version is None:
        msg = (
            f"expected a NIfTI file, got {path.name} that starts with {raw[:8]!r}; "
            f"check that it was not renamed or cut short"
        )
        raise FormatError(msg)
    header = _parse_header(start, version, path.name)
    offset = max(int(header["vox_offset"]), header.sizeof_hdr)
    needed = offset + _data_size(header, path.name)
    content = _inflate(raw, needed, path.name) if raw[:2] == b"\x1f\x8b" else bytearray(raw)
    if len(content) < needed:
        msg = (
            f"expected {needed} bytes in {path.name}, got {len(content)}; the file was cut "
            "short: copy it again"
        )
        raise FormatError(msg)
    return _Stored(header, version, content, offset, path.name)


def _inflated_start(head: bytes) -> bytes:
    """Return the first bytes of a possibly gzipped file, as far as `head` reaches."""
    if head[:2] != b"\x1f\x8b":
        return head[:544]
    try:
        return zlib.decompressobj(31).decompress(head, 544)
    except zlib.error:
        return b""


def _version_of(start: bytes) -> int | None:
    """Return 1 or 2, or None where the start is no single-file NIfTI header."""
    if start[344:348] == b"n+1\0" and len(start) >= 348:
        return 1
    if start[4:8] == b"n+2\0" and len(start) >= 540:
        return 2
    return None


def _parse_header(start: bytes, version: int, name: str) -> Any:  # Any: nibabel is untyped
    nibabel = _nibabel()
    kinds = {1: nibabel.Nifti1Header, 2: nibabel.Nifti2Header}
    try:
        header = kinds[version](start[: kinds[version].sizeof_hdr], check=False)
        header.get_data_dtype()
        header.get_data_shape()
        int(header["vox_offset"])
    except (nibabel.spatialimages.HeaderDataError, ValueError, OverflowError, KeyError) as error:
        msg = (
            f"expected a NIfTI header that makes sense in {name}, got {error}; the file is "
            "damaged: copy it again"
        )
        raise FormatError(msg) from error
    return header


def _nibabel() -> Any:  # Any: nibabel is untyped
    import nibabel

    return nibabel


def _data_size(header: Any, name: str) -> int:  # Any: nibabel is untyped
    shape = header.get_data_shape()
    if not 2 <= len(shape) <= 5 or any(n < 1 for n in shape):
        msg = (
            f"expected 2 to 5 axes of at least 1 voxel in {name}, got {tuple(shape)}; extract "
            "one volume first"
        )
        raise FormatError(msg)
    if header.get_data_dtype().kind == "c" or header.get_data_dtype().itemsize > 8:
        msg = (
            f"expected real numbers of at most 64 bits in {name}, got {header.get_data_dtype()}; "
            "convert the file first"
        )
        raise FormatError(msg)
    return math.prod(int(n) for n in shape) * int(header.get_data_dtype().itemsize)


def _inflate(raw: bytes, needed: int, name: str) -> bytearray:
    """Return the inflated bytes; one shot where the file is one gzip member, as nearly all are."""
    if needed > _RATIO * len(raw):
        msg = (
            f"expected at least {needed // _RATIO} bytes in {name}, got {len(raw)}; the file was "
            "cut short: copy it again"
        )
        raise FormatError(msg)
    import deflate

    stated = struct.unpack("<I", raw[-4:])[0]
    if needed % 2**32 <= stated <= needed % 2**32 + 2**20:
        try:
            whole: bytearray = deflate.gzip_decompress(raw, needed - needed % 2**32 + stated)
        except deflate.DeflateError:
            pass
        else:
            if len(whole) >= needed:
                return whole
    return _inflate_in_parts(raw, needed, name)


def _inflate_in_parts(raw: bytes, needed: int, name: str) -> bytearray:
    """Inflate several members, or one followed by other bytes, which are ignored."""
    content = bytearray(needed)
    view, filled = memoryview(content), 0
    try:
        with gzip.GzipFile(fileobj=BytesIO(raw)) as stream:
            while filled < needed and (count := stream.readinto(view[filled:])):
                filled += count
            try:
                stream.read()
            except gzip.BadGzipFile as error:
                if "CRC" in str(error) or "length" in str(error).lower():
                    raise
    except (OSError, EOFError, zlib.error) as error:
        msg = (
            f"expected {needed} bytes in {name}, got {filled} before the gzip data broke off "
            f"({error}); copy the file again"
        )
        raise FormatError(msg) from error
    if filled < needed:
        msg = (
            f"expected {needed} bytes in {name}, got {filled}; the file was cut short: copy it "
            "again"
        )
        raise FormatError(msg)
    return content


def _image_of(stored: _Stored, path: Path) -> Image:
    data, has_time, has_channels = _axes(stored)
    header = _kept_header(stored)
    scaled = _scaled(data, stored.header)
    return Image(scaled, header.geometry, path, header, has_time, has_channels)


def _axes(stored: _Stored) -> tuple[npt.NDArray[Any], bool, bool]:
    """Return the voxels as ([t,] z, y, x [, c]) and which of t and c there are."""
    shape = tuple(int(n) for n in stored.header.get_data_shape())
    code = int(stored.header["datatype"])
    dtype = stored.header.get_data_dtype()
    count = math.prod(shape)
    if code in _RGB:
        flat = np.frombuffer(stored.content, np.uint8, count * _RGB[code], stored.offset)
        data = flat.reshape(*shape[::-1], _RGB[code])
    else:
        data = np.frombuffer(stored.content, dtype, count, stored.offset).reshape(shape[::-1])
        if not data.dtype.isnative:
            data = data.byteswap(inplace=True).view(data.dtype.newbyteorder("="))
    extra = 1 if code in _RGB else 0
    while data.ndim - extra < 3:
        data = data[np.newaxis]
    has_channels = bool(extra)
    if data.ndim - extra == 5:
        if data.shape[0] > 1 and extra:
            msg = (
                f"expected one value an axis in {stored.name}, got vectors of colours {shape}; "
                "extract one volume first"
            )
            raise FormatError(msg)
        has_channels = has_channels or data.shape[0] > 1
        data = data[0] if data.shape[0] == 1 else np.moveaxis(data, 0, -1)
    has_time = data.ndim - int(has_channels) == 4
    if has_time and data.shape[0] == 1:
        return data[0], False, has_channels
    return data, has_time, has_channels


def _scaled(data: npt.NDArray[Any], header: Any) -> npt.NDArray[Any]:  # Any: nibabel is untyped
    """Apply scl_slope and scl_inter; whole-number scalings keep integers."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope) or slope == 0 or int(header["datatype"]) in _RGB:
        return data
    inter = inter if math.isfinite(inter) else 0.0
    if slope == 1 and inter == 0:
        return data
    if data.dtype.kind in "iu" and slope.is_integer() and inter.is_integer():
        ends = [
            int(data.min()) * int(slope) + int(inter),
            int(data.max()) * int(slope) + int(inter),
        ]
        kind = np.result_type(*(np.min_scalar_type(e) for e in (*ends, -1)))
        if kind.kind == "i":
            wide = np.promote_types(kind, np.int16)
            whole: npt.NDArray[Any] = data.astype(wide)
            whole *= wide.type(int(slope))
            whole += wide.type(int(inter))
            return whole
    scaled: npt.NDArray[Any] = data.astype(np.float64 if data.dtype.itemsize > 4 else np.float32)
    scaled *= scaled.dtype.type(slope)
    scaled += scaled.dtype.type(inter)
    return scaled


def _kept_header(stored: _Stored) -> NiftiHeader:
    header = stored.header
    shape = tuple(int(n) for n in (*header.get_data_shape()[:3], 1)[:3])
    try:
        geometry = Geometry(shape[::-1], _array_affine(_affine(header, stored.name)), "mm")
    except GeometryError as error:
        msg = f"expected a usable affine in {stored.name}, got this: {error}"
        raise FormatError(msg) from error
    block = header.as_byteswapped("<").binaryblock
    return NiftiHeader(stored.version, block, geometry, min(len(header.get_data_shape()), 3))


def _affine(header: Any, name: str) -> Affine:  # Any: nibabel is untyped
    """Return the map from (i, j, k) to RAS+ mm: sform, else qform, else the old Analyze rule."""
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    affine = _stated_affine(header)
    if sform_code > 0 and qform_code > 0:
        qform = _qform(header)
        if qform is not None and not np.allclose(qform, affine, atol=1e-2):
            _LOG.warning("%s: sform and qform disagree; the sform was taken", name)
        if abs(np.linalg.det(affine[:3, :3])) < 1e-12 and qform is not None:
            _LOG.warning("%s: the sform cannot be inverted; the qform was taken", name)
            affine = qform
    if sform_code <= 0 and qform_code <= 0:
        _LOG.warning(
            "%s: the header states no orientation (sform and qform codes are 0); "
            "left and right are a guess: x runs to the left, the middle lies at 0",
            name,
        )
    scale = _UNIT_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    affine[:3] *= scale
    return affine


def _stated_affine(header: Any) -> Affine:  # Any: nibabel is untyped
    if int(header["sform_code"]) > 0:
        return np.array(header.get_sform(), dtype=np.float64)
    if int(header["qform_code"]) > 0:
        qform = _qform(header)
        return np.full((4, 4), np.nan) if qform is None else qform
    return np.array(header.get_base_affine(), dtype=np.float64)


def _qform(header: Any) -> Affine | None:  # Any: nibabel is untyped
    nibabel = _nibabel()
    try:
        return np.asarray(header.get_qform(), dtype=np.float64)
    except (nibabel.spatialimages.HeaderDataError, ValueError, np.linalg.LinAlgError):
        return None


def _array_affine(stored: Affine) -> Affine:
    """Return the affine of (z, y, x) indices for one of (i, j, k) indices, or the other way."""
    return stored[:, [2, 1, 0, 3]]


def _pixels_in_mm(geometry: Geometry) -> Geometry:
    """Return a grid of 1 mm a pixel whose x runs to the left and y to the back, as ITK takes it."""
    shape = (1, *geometry.shape)[-3:]
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = (1, -1, -1)
    affine[3, 3] = 1
    return Geometry(shape, affine, "mm")


def _new_header(mask: Mask) -> Any:  # Any: nibabel is untyped
    """Return a header that holds the grid and its codes, and no text of the source's."""
    nibabel = _nibabel()
    kept = mask.header if isinstance(mask.header, NiftiHeader) else None
    is_large = max(mask.data.shape) > 32767
    version = 2 if is_large or (kept is not None and kept.version == 2) else 1
    header = (nibabel.Nifti2Header if version == 2 else nibabel.Nifti1Header)()
    shape = mask.data.shape[::-1]
    if kept is not None and kept.ndim == 2 and len(shape) == 3 and shape[2] == 1:
        shape = shape[:2]
    header.set_data_shape(shape)
    header.set_data_dtype(mask.data.dtype)
    header.set_slope_inter(1, 0)
    if kept is not None and _is_same(kept.geometry, mask.geometry):
        _copy_grid(header, _parse_header(kept.block, kept.version, mask.name))
    else:
        _state_grid(header, mask.geometry)
    return header


def _is_same(one: Geometry, other: Geometry) -> bool:
    return one.shape == other.shape and np.array_equal(one.affine, other.affine)


def _copy_grid(header: Any, source: Any) -> None:  # Any: nibabel is untyped
    """Copy what places the voxels, number by number: a recomputed quaternion would differ."""
    for key in (
        *("sform_code", "qform_code", "quatern_b", "quatern_c", "quatern_d"),
        *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
        *("xyzt_units", "dim_info"),
    ):
        header[key] = source[key]
    header["pixdim"][:5] = source["pixdim"][:5]


def _state_grid(header: Any, geometry: Geometry) -> None:  # Any: nibabel is untyped
    """State a grid that no NIfTI file gave: sform, and qform too where a rotation can say it."""
    affine = _array_affine(geometry.affine)
    header.set_xyzt_units("mm", "sec")
    header["pixdim"][1:4] = geometry.spacing[::-1]
    cosines = affine[:3, :3] / np.array(geometry.spacing[::-1])
    if np.allclose(cosines.T @ cosines, np.eye(3), atol=1e-5):
        header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)


def _extension(labels: LabelTable) -> bytes:
    """Return a comment extension that holds the label table, padded to 16 bytes."""
    if not labels:
        return b""
    text = table_bytes(labels)
    size = (8 + len(text) + 15) // 16 * 16
    return struct.pack("<ii", size, _COMMENT) + text.ljust(size - 8, b"\0")


def _table_in(stored: _Stored) -> LabelTable | None:
    """Return the label table in a file's extensions, or None."""
    at = stored.header.sizeof_hdr
    endian = stored.header.endianness
    if stored.offset < at + 4 or not stored.content[at]:
        return None
    at += 4
    while at + 8 <= stored.offset:
        size, code = struct.unpack_from(f"{endian}ii", stored.content, at)
        if size < 8 or at + size > stored.offset:
            return None
        if code == _COMMENT:
            table = table_from(bytes(stored.content[at + 8 : at + size]))
            if table is not None:
                return table
        at += size
    return None


FORMAT = Format(
    name="nifti",
    title="NIfTI-1 and NIfTI-2 volumes",
    suffixes=(".nii.gz", ".nii"),
    sniff=sniff,
    read_image=read_image,
    read_mask=read_mask,
    write_mask=write_mask,
    plan=plan,
    reread=reread,
    reader="maskloop's plain NIfTI reader (struct and libdeflate)",
    has_sidecar=True,
    proof="real data",
)

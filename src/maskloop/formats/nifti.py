"""NIfTI-1 and NIfTI-2 in one file, plain or gzipped.

Arrays come as (z, y, x): the transpose of the stored (i, j, k), without a copy.

References
----------
.. [1] "NIfTI-1 Data Format", nifti1.h, 2004, and "NIfTI-2", nifti2.h, 2011: dimensions, scaling.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError
from maskloop.core.image import Image
from maskloop.core.mask import Mask
from maskloop.formats.base import (
    Choices,
    Evidence,
    Format,
    Target,
    as_kind,
    first_bytes,
    ids_of,
    reading,
    table_beside,
    table_from,
)
from maskloop.formats.gunzip import gunzip, read_bytes
from maskloop.formats.nifti_header import (
    COMMENT,
    RGB,
    extensions,
    is_of_a_pair,
    kept,
    offset_of,
    parse,
    shape_of,
    size_of,
    version_of,
)
from maskloop.formats.nifti_write import plan, plan_image, write_image, write_mask
from maskloop.formats.stored import as_native

if TYPE_CHECKING:
    from pathlib import Path

    from maskloop.core.job import Job
    from maskloop.core.labels import Kind, LabelTable
    from maskloop.formats.nifti_block import NiftiBlock

_RATIO = 1040  # deflate cannot shrink more than this
_STEP = 1 << 20
_GZIP = b"\x1f\x8b"

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class _Stored:
    """A file as it lies on disk: its header, all its bytes, where the voxels start."""

    header: NiftiBlock
    content: Bytes
    offset: int
    name: str


def sniff(path: Path) -> bool:
    """Whether a file starts like a NIfTI file, gzipped or not; a ``.hdr`` of a pair does too."""
    return version_of(_inflated_start(first_bytes(path, 2048))) is not None


def read_image(path: Path, *, choices: Choices, job: Job) -> Image:
    """Read a volume; integers stay integers unless the header scales them by a fraction.

    Tells the job where the header states no orientation, or two that differ.

    Returns
    -------
    Image
        ``(z, y, x)``, with a time axis first and channels (RGB, vectors) last where present.

    Raises
    ------
    FormatError
        If the file is damaged, is not NIfTI, or has an unusable affine.
    """
    return _image_of(_open(path, job), path, job)


def read_mask(
    path: Path, *, image: Image | None, entry: str | int | None, kind: Kind | None, job: Job
) -> Mask:
    """Read label ids; the table comes from the file's extension, else from the sidecar.

    Fractional types are taken where every number is whole, and the job is told.
    """
    stored = _open(path, job)
    found = _image_of(stored, path, job)
    if found.has_channels:
        msg = (
            f"expected one label id a voxel in {path.name}, got {found.channels} channels; "
            "choose a label file"
        )
        raise FormatError(msg)
    ids = ids_of(found.data, path, job)
    if found.data.dtype.kind in "iu" and _scaling(stored.header) != (1, 0):
        job.say(f"{path.name}: the label ids were scaled as the header says")
    labels = _table_in(stored)
    labels = as_kind(labels, kind) if labels else table_beside(path, ids, kind)
    return Mask(ids, found.geometry, labels, path, found.header).checked()


def reread(to: Target) -> Evidence:
    """Read a file by the NIfTI-1/2 standard alone: nothing of this reader's or the writer's."""
    from maskloop.formats import nifti_plain

    return nifti_plain.read(to.path)


def _open(path: Path, job: Job) -> _Stored:
    with reading(path):
        raw = read_bytes(path)
    job.check()
    head = raw[:65536].tobytes()
    start = _inflated_start(head)
    version = version_of(start)
    if version is None:
        msg = (
            f"expected a NIfTI file, got {path.name} that starts with {head[:8]!r}; "
            f"check that it was not renamed or cut short"
        )
        raise FormatError(msg)
    if is_of_a_pair(start):
        msg = (
            f"expected a NIfTI file in one piece, got {path.name}, the header of a .hdr and .img "
            f"pair; join the two with nib-convert (it comes with nibabel)"
        )
        raise FormatError(msg)
    header = parse(start, version, path.name)
    offset = offset_of(header)
    needed = offset + size_of(header, path.name)
    content = _inflate(raw, needed, path.name) if head[:2] == _GZIP else raw
    if len(content) < needed:
        raise _cut_short(needed, len(content), path.name)
    return _Stored(header, content, offset, path.name)


def _cut_short(needed: int, got: int, name: str, why: str = "") -> FormatError:
    return FormatError(
        f"expected {needed} bytes in {name}, got {got}{why}; the file was cut short: copy it again"
    )


def _inflated_start(head: bytes) -> bytes:
    """Return the first bytes of a possibly gzipped file, as far as `head` reaches."""
    if head[:2] != _GZIP:
        return head[:544]
    try:
        return zlib.decompressobj(31).decompress(head, 544)
    except zlib.error:
        return b""


def _inflate(raw: Bytes, needed: int, name: str) -> Bytes:
    """Return the inflated bytes; one shot where the file is one gzip member, as nearly all are."""
    if needed > _RATIO * len(raw):
        raise _cut_short(needed, len(raw), name, " of packed ones, which cannot hold that many")
    stated = struct.unpack("<I", raw[-4:].tobytes())[0]
    if needed % 2**32 <= stated <= needed % 2**32 + _STEP:
        whole = gunzip(raw, needed - needed % 2**32 + stated)
        if whole is not None:
            return whole
    return _inflate_in_parts(raw, needed, name)


def _inflate_in_parts(raw: Bytes, needed: int, name: str) -> Bytes:
    """Inflate several members, or one followed by other bytes, which are ignored."""
    content = np.empty(needed, np.uint8)
    view, filled = content.data, 0
    try:
        with gzip.GzipFile(fileobj=BytesIO(raw.data)) as stream:
            while filled < needed and (count := stream.readinto(view[filled:])):
                filled += count
            try:
                while stream.read(_STEP):
                    pass
            except gzip.BadGzipFile as error:
                if "CRC" in str(error) or "length" in str(error).lower():
                    raise
    except (OSError, EOFError, zlib.error) as error:
        why = f" before the gzip data broke off ({error})"
        raise _cut_short(needed, filled, name, why) from error
    if filled < needed:
        raise _cut_short(needed, filled, name)
    return content


def _image_of(stored: _Stored, path: Path, job: Job) -> Image:
    others = sum(
        not (code == COMMENT and table_from(text) is not None)
        for code, text in extensions(stored.content, stored.header, stored.offset)
    )
    header = kept(stored.header, stored.name, extensions=others, job=job)
    data, has_time, has_channels = _axes(stored)
    if int(stored.header["datatype"]) not in RGB:
        data = _scaled(data, *_scaling(stored.header))
    return Image(data, header.geometry, path, header, has_time, has_channels)


def _axes(stored: _Stored) -> tuple[npt.NDArray[Any], bool, bool]:
    """Return the voxels as ([t,] z, y, x [, c]) and which of t and c there are."""
    shape = shape_of(stored.header, stored.name)
    code = int(stored.header["datatype"])
    dtype = stored.header.dtype
    count = math.prod(shape)
    if code in RGB:
        flat = np.frombuffer(stored.content, np.uint8, count * RGB[code], stored.offset)
        data = flat.reshape(*shape[::-1], RGB[code])
    else:
        flat = as_native(np.frombuffer(stored.content, dtype, count, stored.offset))
        data = flat.reshape(shape[::-1])
    extra = 1 if code in RGB else 0
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


def _scaling(header: NiftiBlock) -> tuple[float, float]:
    """Return slope and intercept; a slope of 0, or one that is no number, means: none."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope) or slope == 0:
        return 1.0, 0.0
    return slope, inter if math.isfinite(inter) else 0.0


def _scaled(data: npt.NDArray[Any], slope: float, inter: float) -> npt.NDArray[Any]:
    """Apply slope and intercept; whole-number scalings keep integers."""
    if slope == 1 and inter == 0:
        return data
    if data.dtype.kind in "iu" and slope.is_integer() and inter.is_integer():
        factor, offset = int(slope), int(inter)
        ends = (int(data.min()) * factor + offset, int(data.max()) * factor + offset)
        numbers = (*ends, factor, offset)
        for wide in (np.int16, np.int32, np.int64):
            limits = np.iinfo(wide)
            if limits.min <= min(numbers) and max(numbers) <= limits.max:
                # Values that do not fit wrap round, and the sum, which does fit, wraps back.
                whole: npt.NDArray[Any] = data.astype(wide)
                whole *= wide(factor)
                whole += wide(offset)
                return whole
    scaled: npt.NDArray[Any] = data.astype(np.float64 if data.dtype.itemsize > 4 else np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled *= scaled.dtype.type(slope)
        scaled += scaled.dtype.type(inter)
    return scaled


def _table_in(stored: _Stored) -> LabelTable | None:
    """Return the label table in a file's extensions, or None."""
    for code, text in extensions(stored.content, stored.header, stored.offset):
        if code == COMMENT and (table := table_from(text)) is not None:
            return table
    return None


FORMAT = Format(
    name="nifti",
    title="NIfTI-1 and NIfTI-2 volumes",
    suffixes=(".nii.gz", ".nii"),
    sniff=sniff,
    read_image=read_image,
    read_mask=read_mask,
    write_mask=write_mask,
    write_image=write_image,
    plan=plan,
    plan_image=plan_image,
    reread=reread,
    reader="maskloop's second NIfTI reader",
    has_sidecar=True,
    proof="real data",
)

"""Masks and images as NIfTI files that carry the source's grid and nothing else of it.

References
----------
.. [1] "NIfTI-1 Data Format", nifti1.h, 2004, and "NIfTI-2", nifti2.h, 2011: vox_offset,
   extensions of 16 bytes each, vectors along the fifth axis.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError
from maskloop.core.image import Image, smallest_unsigned
from maskloop.formats.base import Planned, PlannedImage, Target, table_bytes
from maskloop.formats.nifti_header import COMMENT, RGB, NiftiHeader, new_header
from maskloop.formats.placing import in_mm

if TYPE_CHECKING:
    from maskloop.core.geometry import Geometry
    from maskloop.core.labels import LabelTable
    from maskloop.core.mask import Mask
    from maskloop.formats.nifti_block import NiftiBlock

_TYPES = frozenset(("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"))
_COLOURS = {channels: code for code, channels in RGB.items()}


def plan(mask: Mask, *, suffix: str) -> Planned:
    """Narrow the ids; put a picture of pixels on a grid of 1 mm, and say so."""
    ids = mask.data.astype(smallest_unsigned(int(mask.data.max(initial=0))), copy=False)
    if ids.dtype.itemsize > 4:
        msg = f"expected label ids below 2**32, got {int(ids.max())}; renumber the labels"
        raise InputError(msg)
    geometry, losses = _placed(mask.geometry)
    ids = ids.reshape(*ids.shape[: mask.data.ndim - mask.geometry.ndim], *geometry.shape)
    planned = replace(mask, data=ids, geometry=geometry)
    return Planned(planned, geometry, (*losses, *_left_out(mask.header)))


def plan_image(image: Image, *, suffix: str) -> PlannedImage:
    """Keep the type where NIfTI has it; put a picture of pixels on a grid of 1 mm, and say so."""
    data, notes = _storable(image.data)
    geometry, losses = _placed(image.geometry)
    before = data.shape[: int(image.has_time)]
    after = data.shape[data.ndim - int(image.has_channels) :]
    planned = replace(image, data=data.reshape(*before, *geometry.shape, *after), geometry=geometry)
    return PlannedImage(planned, geometry, (*notes, *losses, *_left_out(image.header)))


def _storable(data: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Return pixels in a type that NIfTI has and that programs read, and what was done for it."""
    if data.dtype.kind == "b":
        return data.astype(np.uint8), ()
    if data.dtype == np.float16:
        return data.astype(np.float32), ()
    if data.dtype.kind in "iu" and data.dtype.itemsize == 8:
        ends = (int(data.min(initial=0)), int(data.max(initial=0)))
        narrow = np.result_type(*(np.min_scalar_type(end) for end in ends), np.int32)
        if narrow == np.int32:
            note = f"{data.dtype} pixels are stored as int32, which holds each of their values"
            return data.astype(np.int32), (note,)
        return data, (f"few programs read {data.dtype} pixels; these values need them",)
    if data.dtype.newbyteorder("=").str[1:] not in _TYPES:
        msg = (
            f"expected pixels of a real type of at most 64 bits for NIfTI, got {data.dtype}; "
            "convert them first"
        )
        raise InputError(msg)
    return data, ()


def _placed(geometry: Geometry) -> tuple[Geometry, tuple[str, ...]]:
    """Return a grid in mm; pixels become 1 mm with x to the left and y to the back, as in ITK."""
    if geometry.ndim == 3 and geometry.unit == "mm":
        return geometry, ()
    note = "the pixel grid has no millimetres: written as 1 mm a pixel, as ITK does"
    return in_mm(geometry), (note,)


def _left_out(header: object) -> tuple[str, ...]:
    if not isinstance(header, NiftiHeader) or not header.extensions:
        return ()
    return (
        f"{header.extensions} header extensions of the source are left out: they may hold the "
        "patient's identity",
    )


def write_mask(mask: Mask, to: Target) -> None:
    """Write ids in the source's storage order with its header codes, and nothing else of it."""
    source = mask.header if isinstance(mask.header, NiftiHeader) else None
    shape = _stored_shape(mask.data.shape, source)
    header = new_header(shape, mask.data.dtype, mask.geometry, source)
    _write(header, _extension(mask.labels), mask.data, to)


def write_image(image: Image, to: Target) -> None:
    """Write pixels in the source's storage order with its header codes, and nothing else of it."""
    source = image.header if isinstance(image.header, NiftiHeader) else None
    voxels, dtype = image.data, image.data.dtype
    shape = _stored_shape(voxels.shape, source)
    is_vector = False
    if image.has_channels:
        shape = _stored_shape(voxels.shape[:-1], source)
        if dtype == np.uint8 and image.channels in _COLOURS:
            dtype = np.dtype([(letter, np.uint8) for letter in "RGBA"[: image.channels]])
        else:
            is_vector = True
            shape = (*(*shape, 1, 1)[:4], image.channels)
            voxels = np.moveaxis(voxels, -1, 0)
    header = new_header(shape, dtype, image.geometry, source)
    if is_vector:
        header.set_vector()
    _write(header, b"", voxels, to)


def _stored_shape(shape: tuple[int, ...], source: NiftiHeader | None) -> tuple[int, ...]:
    """Return (i, j, k[, t]) for ([t,] z, y, x); a single slice of a flat file stays flat."""
    if source is not None and source.ndim == 2 and len(shape) == 3 and shape[0] == 1:
        return shape[:0:-1]
    return shape[::-1]


def _write(header: NiftiBlock, note: bytes, data: npt.NDArray[Any], to: Target) -> None:
    header["vox_offset"] = header.size + 4 + len(note)
    voxels = data.astype(data.dtype.newbyteorder("<"), order="C", copy=False)
    before = header.to_bytes() + (b"\1\0\0\0" if note else b"\0\0\0\0") + note
    if not to.suffix.endswith(".gz"):
        with to.path.open("wb") as stream:
            stream.write(before)
            stream.write(voxels.reshape(-1).view(np.uint8).data)
        return
    packer = _packer()
    # A level above 1 costs time and wins 1 % on labels; below, the file grows.
    with (
        to.path.open("wb") as raw,
        packer(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
    ):
        packed.write(before)
        packed.write(voxels.reshape(-1).view(np.uint8).data)


def _packer() -> Any:  # Any: isal is untyped
    from isal import igzip

    return igzip.IGzipFile


def _extension(labels: LabelTable) -> bytes:
    """Return a comment extension that holds the label table, padded to 16 bytes."""
    if not labels:
        return b""
    text = table_bytes(labels)
    size = (8 + len(text) + 15) // 16 * 16
    return struct.pack("<ii", size, COMMENT) + text.ljust(size - 8, b"\0")

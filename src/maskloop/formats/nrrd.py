"""NRRD volumes and 3D Slicer's segmentations: .nrrd, .seg.nrrd, and .nhdr with its data beside it.

Arrays come as ([t,] z, y, x [, c]), the reverse of the file's axes, without a copy.

References
----------
.. [1] G. Kindlmann, "Definition of NRRD File Format", Teem 1.11: data files, encodings, skips.
.. [2] 3D Slicer developer guide, "Segmentations", section "Segmentation labelmap file format".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError, InputError
from maskloop.core.image import Image, smallest_unsigned
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.formats import nrrd_header, nrrd_segments, placing, stored
from maskloop.formats.base import (
    Choices,
    Evidence,
    Format,
    Planned,
    PlannedImage,
    Target,
    as_kind,
    first_bytes,
    ids_of,
    reading,
    table_beside,
)
from maskloop.formats.gunzip import read_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from maskloop.core.geometry import Geometry
    from maskloop.core.job import Job
    from maskloop.core.labels import Kind
    from maskloop.formats.nrrd_segments import Segment

_BLANK_LINE = re.compile(rb"\n\r?\n")
_NAMES = {"i1": "signed char", "i2": "short", "i4": "int", "i8": "long long", "f4": "float"}
_NAMES |= {"u1": "unsigned char", "u2": "unsigned short", "u4": "unsigned int"}
_NAMES |= {"u8": "unsigned long long", "f8": "double"}
_TEXT = ("ascii", "text", "txt")
_PACKED = ("gzip", "gz", "bzip2", "bz2")


@dataclass(frozen=True, slots=True)
class NrrdHeader:
    """What a mask must know to be written as its image was: whether the file had two axes."""

    geometry: Geometry
    ndim: int


@dataclass(frozen=True, slots=True, eq=False)
class _Volume:
    """A file in our axis order."""

    data: npt.NDArray[Any]
    layout: nrrd_header.Layout
    header: nrrd_header.Header


def sniff(path: Path) -> bool:
    """Whether a file starts like an NRRD header."""
    return re.match(rb"NRRD\d{4}\r?\n", first_bytes(path, 16)) is not None


def read_image(path: Path, *, choices: Choices, job: Job) -> Image:
    """Read a volume in the stored order and type.

    A list axis that varies fastest becomes channels; one that varies slowest becomes time. Two
    axes with a spacing become one slice, without one a picture in pixels.

    Raises
    ------
    FormatError
        If the file is damaged, is not NRRD, or its axes cannot be placed.
    """
    found = _open(path, job)
    at = found.layout
    header = NrrdHeader(at.geometry, at.ndim)
    return Image(found.data, at.geometry, path, header, at.has_time, at.has_channels)


def read_mask(
    path: Path, *, image: Image | None, entry: str | int | None, kind: Kind | None, job: Job
) -> Mask:
    """Read label ids; `entry` takes one segment alone, by name or id, where segments overlap.

    With `image`, segments that cover part of its grid are put in place on it.
    """
    found = _open(path, job)
    segments = nrrd_segments.read(found.header.keys, path.name)
    if not segments:
        if entry is not None:
            msg = f"expected segments in {path.name} to choose {entry!r} from, got none; leave it"
            raise InputError(msg + " out")
        return _onto(_plain(found, path, kind, job), image, job)
    if entry is not None:
        chosen = nrrd_segments.choose(segments, entry)
        ids = _layer(found, chosen.layer, path, job)
        ids = np.where(ids == chosen.label.id, ids, ids.dtype.type(0))
        return _onto(_layer_mask(found, path, [chosen], ids, kind), image, job)
    layers = sorted({segment.layer for segment in segments})
    if len(layers) > 1:
        names = ", ".join(repr(segment.label.name) for segment in segments[:20])
        msg = (
            f"expected one layer of segments in {path.name}, got {len(layers)}, which may overlap: "
            f"{names}; choose one segment with --entry NAME, or load them all as several masks"
        )
        raise InputError(msg)
    ids = _layer(found, layers[0], path, job)
    return _onto(_layer_mask(found, path, segments, ids, kind), image, job)


def read_masks(path: Path, *, image: Image | None, kind: Kind | None, job: Job) -> list[Mask]:
    """Read the layers of a segmentation, each as a mask; other files as one mask."""
    found = _open(path, job)
    segments = nrrd_segments.read(found.header.keys, path.name)
    if not segments:
        return [_onto(_plain(found, path, kind, job), image, job)]
    masks = []
    for layer in job.track(sorted({segment.layer for segment in segments}), "layers"):
        own = [segment for segment in segments if segment.layer == layer]
        mask = _layer_mask(found, path, own, _layer(found, layer, path, job), kind)
        masks.append(_onto(mask, image, job))
    return masks


def plan(mask: Mask, *, suffix: str) -> Planned:
    """Narrow the ids; say what the dialect cannot hold."""
    _refuse_header_only(suffix)
    ids = mask.data.astype(smallest_unsigned(int(mask.data.max(initial=0))), copy=False)
    geometry = mask.geometry
    losses: tuple[str, ...] = ()
    if suffix == ".seg.nrrd":
        if ids.ndim > geometry.ndim:
            msg = f"expected (z, y, x) for .seg.nrrd, got shape {ids.shape}; write .nrrd instead"
            raise InputError(msg)
        if geometry.ndim == 2 or geometry.unit == "px":
            losses = ("the pixel grid has no millimetres: written as 1 mm a pixel, as ITK does",)
            geometry = placing.in_mm(geometry)
            ids = ids.reshape(geometry.shape)
    rows = [
        replace(row, name=row.name.strip() or f"label {row.id}") for row in mask.labels.values()
    ]
    if rows != list(mask.labels.values()):
        losses = (*losses, "blanks around a label's name have no place in NRRD")
    planned = replace(mask, data=ids, geometry=geometry, labels=LabelTable(rows))
    return Planned(planned, placing.stated(geometry), losses)


def plan_image(image: Image, *, suffix: str) -> PlannedImage:
    """Widen bool and half floats to the next type that NRRD has; refuse what has none."""
    _refuse_header_only(suffix)
    if suffix == ".seg.nrrd":
        msg = "expected a mask for .seg.nrrd, got an image; write .nrrd instead"
        raise InputError(msg)
    data = stored.widened(image.data, _NAMES)
    return PlannedImage(replace(image, data=data), placing.stated(image.geometry))


def write_mask(mask: Mask, to: Target) -> None:
    """Write ids packed by gzip, with their segments as 3D Slicer names them."""
    has_time = mask.data.ndim > mask.geometry.ndim
    lines = _grid_lines(mask.data, mask.geometry, mask.header, has_time, has_channels=False)
    _write([*lines, *nrrd_segments.lines(mask)], mask.data, to.path)


def write_image(image: Image, to: Target) -> None:
    """Write pixels packed by gzip, and nothing of the source's header but its grid."""
    lines = _grid_lines(
        image.data, image.geometry, image.header, image.has_time, image.has_channels
    )
    _write(lines, image.data, to.path)


def reread(to: Target) -> Evidence:
    """Read the file with pynrrd, which had no part in writing it."""
    from maskloop.formats import nrrd_plain

    return nrrd_plain.read(to.path)


def _open(path: Path, job: Job) -> _Volume:
    with reading(path):
        text, start = stored.read_head(path, _BLANK_LINE)
    header = nrrd_header.parse(text, start, path.name)
    layout = nrrd_header.layout(header)
    job.check()
    flat = _numbers(header, layout, path, job)
    job.check()
    data = flat.reshape(layout.sizes[::-1]).transpose(layout.order)
    for note in layout.notes:
        job.say(note)
    # A file of two axes is one slice; single samples of no role stand in front.
    first = len(layout.sizes) - layout.ndim - int(layout.has_time) - int(layout.has_channels)
    time = data.shape[first : first + int(layout.has_time)]
    channels = data.shape[data.ndim - int(layout.has_channels) :]
    shape = (*time, *layout.geometry.shape, *channels)
    return _Volume(data.reshape(shape), layout, header)


def _numbers(
    header: nrrd_header.Header, layout: nrrd_header.Layout, path: Path, job: Job
) -> npt.NDArray[Any]:
    """Return the numbers in file order; sizes are held against the file before any allocation."""
    named = header.fields.get("datafile")
    source = path if named is None else stored.beside(path, named)
    encoding = header.fields.get("encoding", "").lower()
    line_skip = nrrd_header.integer(header, "lineskip", 0)
    skip = nrrd_header.integer(header, "byteskip", 0)
    if line_skip < 0 or skip < -1 or (skip == -1 and encoding != "raw"):
        msg = (
            f"expected line skip and byte skip of at least 0 in {path.name} (byte skip -1 for raw "
            f"data), got {line_skip} and {skip} with encoding {encoding!r}; repair the header"
        )
        raise FormatError(msg)
    needed = layout.count * layout.dtype.itemsize
    with reading(source):
        start = _after_lines(source, header.start if named is None else 0, line_skip)
        if encoding == "raw":
            at = -1 if skip == -1 else start + skip
            return stored.read_raw(source, layout.dtype, layout.count, start=at)
        rest = read_bytes(source)[start:]
    if encoding in _PACKED:
        content = stored.unpack(rest, needed + skip, source.name, job=job)
        return stored.as_native(content[skip:].view(layout.dtype))
    if encoding in _TEXT:
        return stored.numbers(bytes(rest[skip:]), layout.dtype, layout.count, source.name)
    if encoding == "hex":
        return _from_hex(bytes(rest[skip:]), needed, source.name, layout)
    msg = (
        f"expected the encoding raw, gzip, bzip2, ascii or hex in {path.name}, got "
        f"{encoding[:20]!r}; save the file again with one of them"
    )
    raise FormatError(msg)


def _after_lines(source: Path, start: int, lines: int) -> int:
    if not lines:
        return start
    with source.open("rb") as stream:
        stream.seek(start)
        while lines and stream.readline():
            lines -= 1
        return stream.tell()


def _from_hex(text: bytes, needed: int, name: str, layout: nrrd_header.Layout) -> npt.NDArray[Any]:
    if len(text) < 2 * needed:
        raise stored.cut_short(name, 2 * needed, len(text))
    try:
        content = bytearray.fromhex(text.decode("ascii", "replace"))
    except ValueError as error:
        msg = f"expected hexadecimal digits in {name}, got {error}; copy the file again"
        raise FormatError(msg) from error
    if len(content) < needed:
        raise stored.cut_short(name, needed, len(content))
    return stored.as_native(np.frombuffer(content, layout.dtype, layout.count))


def _plain(found: _Volume, path: Path, kind: Kind | None, job: Job) -> Mask:
    """Return the mask of a file without segments."""
    if found.layout.has_channels:
        msg = (
            f"expected one label id a voxel in {path.name}, got {found.data.shape[-1]} channels; "
            "choose a label file"
        )
        raise FormatError(msg)
    ids = ids_of(found.data, path, job)
    labels = table_beside(path, ids, kind)
    header = NrrdHeader(found.layout.geometry, found.layout.ndim)
    return Mask(ids, found.layout.geometry, labels, path, header).checked()


def _layer(found: _Volume, layer: int, path: Path, job: Job) -> npt.NDArray[Any]:
    """Return the ids of one layer; the list axis lies where channels or time do."""
    at = found.layout
    if at.has_time and not at.has_channels and "time" in found.header.words("kinds"):
        return ids_of(found.data, path, job)  # an axis that is called time holds no layers
    count = found.data.shape[-1] if at.has_channels else found.data.shape[0] if at.has_time else 1
    if layer >= count or (at.has_channels and at.has_time):
        msg = (
            f"expected layers 0 to {count - 1} in {path.name}, got a segment on layer {layer}; "
            "repair the header"
        )
        raise FormatError(msg)
    data = found.data[..., layer] if at.has_channels else found.data
    return ids_of(np.ascontiguousarray(data[layer] if at.has_time else data), path, job)


def _layer_mask(
    found: _Volume,
    path: Path,
    segments: list[Segment],
    ids: npt.NDArray[Any],
    kind: Kind | None,
) -> Mask:
    labels = as_kind(nrrd_segments.table(segments, path.name), kind)
    header = NrrdHeader(found.layout.geometry, found.layout.ndim)
    return Mask(ids, found.layout.geometry, labels, path, header).checked()


def _onto(mask: Mask, image: Image | None, job: Job) -> Mask:
    """Return the mask on its image's grid where it covers a part of it, voxel on voxel.

    3D Slicer stores only the part of the grid that holds segments; what is left out is background.
    """
    if image is None or mask.geometry.unit != "mm" or mask.geometry.matches(image.geometry):
        return mask
    grid = image.geometry
    if grid.ndim != mask.geometry.ndim or mask.data.ndim != grid.ndim:
        return mask
    first = np.rint(grid.to_index(mask.geometry.to_world([0] * grid.ndim))).astype(int)
    stops = first + mask.geometry.shape
    ids = np.zeros(grid.shape, mask.data.dtype)
    if mask.data.size > 1 or mask.data.any():  # Slicer saves no segments as one empty voxel
        if (first < 0).any() or (stops > grid.shape).any():
            return mask
        box = tuple(slice(int(a), int(b)) for a, b in zip(first, stops, strict=True))
        if not grid.cropped(box).matches(mask.geometry):
            return mask
        ids[box] = mask.data
        job.say(f"{mask.name} covers a part of {image.name}: the rest was filled with background")
    return replace(mask, data=ids, geometry=grid, header=image.header)


def _refuse_header_only(suffix: str) -> None:
    if suffix == ".nhdr":
        msg = "expected a name for one file, got .nhdr, a header alone; write .nrrd instead"
        raise InputError(msg)


def _grid_lines(
    data: npt.NDArray[Any],
    geometry: Geometry,
    header: Any,  # Any: any format's
    has_time: bool,
    has_channels: bool,
) -> list[str]:
    """Return the fields that state type, axes and grid, fastest axis first."""
    is_placed = placing.stated(geometry) is not None
    is_flat = (
        isinstance(header, NrrdHeader)
        and header.ndim == 2
        and np.array_equal(header.geometry.affine, geometry.affine)
        and geometry.shape[0] == 1
    )
    steps = geometry.affine[:-1, :-1] * (np.array([[-1], [-1], [1]]) if is_placed else 1)
    columns = [steps[:, axis] for axis in range(int(is_flat), geometry.ndim)][::-1]
    sizes = list(data.shape[::-1])
    if is_flat:
        del sizes[int(has_channels) + 2]
    kinds = ["domain"] * len(columns)
    vectors = [_vector(column) for column in columns]
    if has_channels:
        kinds.insert(0, _colour_kind(data))
        vectors.insert(0, "none")
    if has_time:
        kinds.append("time")
        vectors.append("none")
    lines = [
        f"type: {_NAMES[data.dtype.str[1:]]}",
        f"dimension: {len(sizes)}",
        *(["space: left-posterior-superior"] if is_placed else []),
        f"sizes: {' '.join(map(str, sizes))}",
        *([f"space directions: {' '.join(vectors)}"] if is_placed else []),
        f"kinds: {' '.join(kinds)}",
        "endian: little",
        "encoding: gzip",
    ]
    if is_placed:
        lines.append(f"space origin: {_vector(geometry.affine[:3, 3] * (-1, -1, 1))}")
    return lines


def _colour_kind(data: npt.NDArray[Any]) -> str:
    is_small = data.dtype == np.uint8
    return {3: "RGB-color", 4: "RGBA-color"}.get(data.shape[-1] if is_small else 0, "vector")


def _vector(numbers: npt.NDArray[np.float64]) -> str:
    # Adding 0 turns -0.0 into 0.0; repr keeps every bit.
    return "(" + ",".join(repr(float(n) + 0.0) for n in numbers) + ")"


def _write(lines: list[str], data: npt.NDArray[Any], path: Path) -> None:
    packer = _gzip_writer()
    voxels = data.astype(data.dtype.newbyteorder("<"), order="C", copy=False)
    with path.open("wb") as raw:
        raw.write("\n".join(["NRRD0004", *lines, "", ""]).encode())
        with packer(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0) as packed:
            packed.write(voxels.reshape(-1).data)


def _gzip_writer() -> Any:  # Any: isal is untyped
    from isal import igzip

    return igzip.IGzipFile


FORMAT = Format(
    name="nrrd",
    title="NRRD volumes and 3D Slicer segmentations",
    suffixes=(".seg.nrrd", ".nrrd", ".nhdr"),
    sniff=sniff,
    read_image=read_image,
    read_mask=read_mask,
    read_masks=read_masks,
    write_mask=write_mask,
    write_image=write_image,
    plan=plan,
    plan_image=plan_image,
    reread=reread,
    reader="pynrrd",
    has_entries=True,
    proof="real data",
)

"""MetaImage volumes: .mha, and .mhd with its data beside it.

Arrays come as ([t,] z, y, x [, c]), the reverse of the file's axes, without a copy. The rows of the
stored matrix are the directions of the axes; the world is left, posterior, superior.

References
----------
.. [1] "MetaImage Documentation", Kitware: tags and types; ITK `MetaImageIO` for the matrix's rows.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError, GeometryError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image, smallest_unsigned
from maskloop.core.mask import Mask
from maskloop.formats import placing, stored
from maskloop.formats.base import (
    Choices,
    Evidence,
    Format,
    Planned,
    PlannedImage,
    Target,
    first_bytes,
    ids_of,
    reading,
    table_beside,
)
from maskloop.formats.gunzip import read_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from maskloop.core.job import Job
    from maskloop.core.labels import Kind

_LAST_TAG = re.compile(rb"(?m)^ElementDataFile[ \t]*=[^\n]*\n")
_TYPES = {
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2"},
    # MET_LONG has four bytes in every MetaIO, whatever the machine's long.
    **{"MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4"},
    **{"MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}
_NAMES = {code: name for name, code in _TYPES.items() if name not in ("MET_LONG", "MET_ULONG")}
_MM = {"": 1.0, "mm": 1.0, "um": 1e-3, "cm": 10.0, "m": 1000.0}
_PIECE = 1 << 24


@dataclass(frozen=True, slots=True)
class MetaHeader:
    """What a mask must know to be written as its image was: whether the file had two axes."""

    geometry: Geometry
    ndim: int


@dataclass(frozen=True, slots=True, eq=False)
class _Header:
    """Tags as text, where data in the same file starts, and the shape and type they state."""

    tags: dict[str, str]
    start: int
    name: str
    sizes: tuple[int, ...]
    channels: int
    dtype: np.dtype[Any]  # Any: the type that the header names

    def says(self, *names: str) -> bool:
        """Whether the first of these tags that is there says True."""
        return self.first(*names)[:1] in ("T", "t", "1")

    def first(self, *names: str) -> str:
        """Return the first of these tags that is there, or an empty string."""
        return next((self.tags[name] for name in names if name in self.tags), "")

    def floats(self, count: int, *names: str) -> npt.NDArray[np.float64] | None:
        """Return the numbers of a tag, None where it is not there."""
        text = self.first(*names)
        if not text:
            return None
        try:
            found = np.array([float(word) for word in text.split()])
        except ValueError:
            found = np.zeros(0)
        if len(found) != count:
            msg = (
                f"expected {count} numbers as {names[0]} of {self.name}, got {text[:60]!r}; repair "
                "the header"
            )
            raise FormatError(msg)
        return found


def sniff(path: Path) -> bool:
    """Whether a file starts like a MetaImage header."""
    start = first_bytes(path, 512)
    return re.match(rb"(ObjectType|NDims|Comment)[ \t]*=", start) is not None


def read_image(path: Path, *, choices: Choices, job: Job) -> Image:
    """Read a volume in the stored order and type; a fourth axis is time.

    Raises
    ------
    FormatError
        If the file is damaged, is not MetaImage, or its axes cannot be placed.
    """
    header = _open(path)
    geometry = _geometry(header, job)
    job.check()
    data = _numbers(header, path, job).reshape(_shape(header, geometry))
    job.check()
    kept = MetaHeader(geometry, min(len(header.sizes), 3))
    return Image(data, geometry, path, kept, len(header.sizes) == 4, header.channels > 1)


def read_mask(
    path: Path, *, image: Image | None, entry: str | int | None, kind: Kind | None, job: Job
) -> Mask:
    """Read label ids; the table comes from the sidecar: the format itself has no place for it."""
    found = read_image(path, choices=Choices(), job=job)
    if found.has_channels:
        msg = (
            f"expected one label id a voxel in {path.name}, got {found.channels} channels; "
            "choose a label file"
        )
        raise FormatError(msg)
    ids = ids_of(found.data, path, job)
    labels = table_beside(path, ids, kind)
    return Mask(ids, found.geometry, labels, path, found.header).checked()


def plan(mask: Mask, *, suffix: str) -> Planned:
    """Narrow the ids."""
    ids = mask.data.astype(smallest_unsigned(int(mask.data.max(initial=0))), copy=False)
    return Planned(replace(mask, data=ids), placing.stated(mask.geometry))


def plan_image(image: Image, *, suffix: str) -> PlannedImage:
    """Widen bool and half floats to the next type that MetaImage has; refuse what has none."""
    data = stored.widened(image.data, _NAMES)
    return PlannedImage(replace(image, data=data), placing.stated(image.geometry))


def write_mask(mask: Mask, to: Target) -> None:
    """Write ids packed by zlib."""
    has_time = mask.data.ndim > mask.geometry.ndim
    _write(mask.data, mask.geometry, mask.header, to, has_time=has_time, channels=1)


def write_image(image: Image, to: Target) -> None:
    """Write pixels packed by zlib, and nothing of the source's header but its grid."""
    _write(
        image.data,
        image.geometry,
        image.header,
        to,
        has_time=image.has_time,
        channels=image.channels,
    )


def companion(path: Path, suffix: str) -> Path | None:
    """Return the data file for an .mhd header, under a name that every system can hold.

    It is never the one that the header now on disk names: an old header keeps its old data until
    the new header is in place.
    """
    if suffix != ".mhd":
        return None
    stem = re.sub(r'[\\:*?"<>|]', "_", path.stem)
    first, second = (path.with_name(stem + end) for end in (".zraw", ".b.zraw"))
    return second if _names(path, first) else first


def _names(header: Path, data: Path) -> bool:
    """Whether the header at `header` holds its voxels in `data`."""
    try:
        text, _ = stored.read_head(header, _LAST_TAG)
    except (FileNotFoundError, FormatError):
        return False
    line = text.rstrip(b"\n").rpartition(b"\n")[2]
    return line.partition(b"=")[2].strip() == data.name.encode()


def reread(to: Target) -> Evidence:
    """Read the file with nothing but the documentation of MetaImage: no shared helper."""
    from maskloop.formats import metaimage_plain

    return metaimage_plain.read(to)


def _open(path: Path) -> _Header:
    with reading(path):
        text, start = stored.read_head(path, _LAST_TAG)
    lines = text.decode("utf-8", "replace").split("\n")
    pairs = [line.partition("=") for line in lines if "=" in line]
    tags = {key.strip(): value.strip() for key, _, value in pairs}
    if not text.strip() or tags.get("ObjectType", "Image") != "Image" or "NDims" not in tags:
        msg = (
            f"expected a MetaImage header, got {path.name} that starts with {text[:8]!r}; check "
            "that it was not renamed or cut short"
        )
        raise FormatError(msg)
    try:
        sizes = tuple(int(word) for word in tags.get("DimSize", "").split())
        channels = int(tags.get("ElementNumberOfChannels", "1"))
        ndims = int(tags["NDims"])
    except ValueError:
        sizes, channels, ndims = (), 0, 0
    if len(sizes) != ndims or not 2 <= ndims <= 4 or min(sizes) < 1 or channels < 1:
        msg = (
            f"expected 2 to 4 axes of at least 1 voxel in {path.name}, got NDims "
            f"{tags['NDims'][:20]!r} with DimSize {tags.get('DimSize', '')[:60]!r}; the header is "
            "damaged: copy the file again"
        )
        raise FormatError(msg)
    kind = tags.get("ElementType", "").removesuffix("_ARRAY")
    if kind not in _TYPES:
        msg = (
            f"expected integers or floats of at most 64 bits in {path.name}, got {kind[:30]!r}; "
            "convert the file first"
        )
        raise FormatError(msg)
    header = _Header(tags, start, path.name, sizes, channels, np.dtype(_TYPES[kind]))
    is_big = header.says("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    return replace(header, dtype=header.dtype.newbyteorder(">" if is_big else "<"))


def _shape(header: _Header, geometry: Geometry) -> tuple[int, ...]:
    time = header.sizes[3:]
    channels = (header.channels,) if header.channels > 1 else ()
    return (*time, *geometry.shape, *channels)


def _geometry(header: _Header, job: Job) -> Geometry:
    """Return the grid in our order; a file without a spacing is a picture or stack of pixels."""
    ndim = len(header.sizes)
    shape = header.sizes[:3][::-1]
    spacing = header.floats(ndim, "ElementSpacing", "ElementSize")
    origin = header.floats(ndim, "Offset", "Position", "Origin")
    matrix = header.floats(ndim * ndim, "TransformMatrix", "Rotation", "Orientation")
    if spacing is None and origin is None and matrix is None:
        return placing.unplaced(shape)
    _tell(header, job, has_matrix=matrix is not None)
    unit = header.first("DistanceUnits").lower()
    rows = np.eye(ndim) if matrix is None else matrix.reshape(ndim, ndim)
    with np.errstate(over="ignore", invalid="ignore"):
        steps = rows * (np.ones(ndim) if spacing is None else spacing)[:, None]
    if ndim == 4 and (steps[3, :3].any() or steps[:3, 3].any()):
        msg = (
            f"expected a time axis apart from space in {header.name}, got the TransformMatrix "
            f"{rows.tolist()}; resample the file"
        )
        raise FormatError(msg)
    place = np.zeros(ndim) if origin is None else origin
    flips = np.array((-1.0, -1.0, 1.0))[: min(ndim, 3)]
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            steps *= _MM.get(unit, 1)
            place = place * _MM.get(unit, 1)
        return _grid(shape, (steps[:3, :3] * flips).T, flips * place[:3])
    except GeometryError as error:
        msg = f"expected a usable spacing and TransformMatrix in {header.name}, got this: {error}"
        raise FormatError(msg) from error


def _grid(
    shape: tuple[int, ...],
    steps: npt.NDArray[np.float64],
    origin: npt.NDArray[np.float64],
) -> Geometry:
    """Return the grid for steps by column, fastest first, in RAS+ mm; two axes are one slice."""
    placing.require_near(steps, origin)
    affine = np.diag((0.0, 0, 0, 1))
    count = len(shape)
    affine[:count, 3 - count : 3] = steps[:, ::-1] + 0.0  # no -0.0
    if count == 2:
        affine[:3, 0] = (0, 0, 1)
        shape = (1, *shape)
    affine[:count, 3] = origin + 0.0
    return Geometry(shape, affine, "mm")


def _tell(header: _Header, job: Job, *, has_matrix: bool) -> None:
    """Say what of the header was not taken."""
    words = header.first("AnatomicalOrientation")
    if not has_matrix and words not in ("", "RAI") and set(words) - {"?"}:
        job.say(
            f"{header.name} states AnatomicalOrientation {words[:10]!r} and no TransformMatrix: x "
            "was taken as left, y as back, z as up, as ITK does"
        )
    unit = header.first("DistanceUnits").lower()
    if unit not in _MM and set(unit) - {"?"}:
        job.say(f"{header.name} states lengths in {unit[:20]!r}, not known: taken as mm")
    scale = header.first("ElementToIntensityFunctionSlope") or "1"
    if scale not in ("1", "1.0"):
        job.say(f"{header.name} states an intensity slope, which was not applied, as in ITK")


def _numbers(header: _Header, path: Path, job: Job) -> npt.NDArray[Any]:
    """Return the numbers in file order; sizes are held against the file before any allocation."""
    named = header.tags.get("ElementDataFile", "")
    is_local = named.upper() == "LOCAL"
    source = path if is_local else stored.beside(path, named)
    count = math.prod(header.sizes) * header.channels
    skip = 0 if is_local else _header_size(header)
    start = header.start if is_local else max(skip, 0)
    with reading(source):
        if header.first("BinaryData")[:1] in ("F", "f", "0"):
            text = bytes(read_bytes(source)[start:])
            return stored.numbers(text, header.dtype, count, source.name)
        if not header.says("CompressedData"):
            at = -1 if skip == -1 else start
            return stored.read_raw(source, header.dtype, count, start=at)
        packed = read_bytes(source)[start:]
    content = stored.unpack(packed, count * header.dtype.itemsize, source.name, job=job)
    return stored.as_native(content.view(header.dtype))


def _header_size(header: _Header) -> int:
    text = header.first("HeaderSize") or "0"
    try:
        size = int(text)
    except ValueError:
        size = -2
    if size < -1 or (size == -1 and header.says("CompressedData")):
        msg = (
            f"expected a HeaderSize of at least 0 in {header.name} (-1 for plain data), got "
            f"{text[:20]!r}; repair the header"
        )
        raise FormatError(msg)
    return size


def _grid_tags(geometry: Geometry, *, is_flat: bool, has_time: bool) -> list[str]:
    """Return the tags that place the voxels, fastest axis first."""
    if placing.stated(geometry) is None:
        return []
    count = 2 if is_flat else 3
    steps = (geometry.affine[:3, :3] * np.array([[-1], [-1], [1]]))[:, ::-1][:count, :count]
    spacing = np.linalg.norm(steps, axis=0)
    rows = (steps / spacing).T
    origin = (geometry.affine[:3, 3] * (-1, -1, 1))[:count]
    if has_time:
        rows = np.block([[rows, np.zeros((count, 1))], [np.zeros((1, count)), np.ones((1, 1))]])
        spacing, origin = np.append(spacing, 1), np.append(origin, 0)
    return [
        f"TransformMatrix = {_words(rows)}",
        f"Offset = {_words(origin)}",
        f"CenterOfRotation = {_words(np.zeros(len(origin)))}",
        f"ElementSpacing = {_words(spacing)}",
    ]


def _words(numbers: npt.NDArray[np.float64]) -> str:
    # Adding 0 turns -0.0 into 0.0; repr keeps every bit.
    return " ".join(repr(float(n) + 0.0) for n in numbers.ravel())


def _write(
    data: npt.NDArray[Any],
    geometry: Geometry,
    header: Any,  # Any: any format's
    to: Target,
    *,
    has_time: bool,
    channels: int,
) -> None:
    is_flat = (
        isinstance(header, MetaHeader)
        and header.ndim == 2
        and not has_time
        and header.geometry.shape == geometry.shape
        and np.array_equal(header.geometry.affine, geometry.affine)
    )
    has_channels = data.ndim > geometry.ndim + int(has_time)
    sizes = list(data.shape[: data.ndim - int(has_channels)][::-1])
    if is_flat and geometry.ndim == 3:
        sizes = sizes[:2]
    pieces = _packed(data.astype(data.dtype.newbyteorder("<"), order="C", copy=False))
    lines = [
        "ObjectType = Image",
        f"NDims = {len(sizes)}",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        f"CompressedDataSize = {sum(map(len, pieces))}",
        *_grid_tags(geometry, is_flat=is_flat, has_time=has_time),
        f"DimSize = {' '.join(map(str, sizes))}",
        *([f"ElementNumberOfChannels = {channels}"] if channels > 1 else []),
        f"ElementType = {_NAMES[data.dtype.str[1:]]}",
        f"ElementDataFile = {'LOCAL' if to.final_companion is None else to.final_companion.name}",
    ]
    text = "\n".join([*lines, ""]).encode()
    if to.companion is None:
        to.path.write_bytes(b"".join([text, *pieces]))
    else:
        to.companion.write_bytes(b"".join(pieces))
        to.path.write_bytes(text)


def _packed(voxels: npt.NDArray[Any]) -> list[bytes]:
    """Return one zlib stream in pieces."""
    from isal import isal_zlib

    packer = isal_zlib.compressobj(1)
    view = voxels.reshape(-1).view(np.uint8).data
    found = [packer.compress(view[at : at + _PIECE]) for at in range(0, len(view), _PIECE)]
    return [*found, packer.flush()]


FORMAT = Format(
    name="metaimage",
    title="MetaImage volumes",
    suffixes=(".mha", ".mhd"),
    sniff=sniff,
    read_image=read_image,
    read_mask=read_mask,
    write_mask=write_mask,
    write_image=write_image,
    plan=plan,
    plan_image=plan_image,
    reread=reread,
    companion=companion,
    reader="maskloop's second MetaImage reader",
    has_sidecar=True,
)

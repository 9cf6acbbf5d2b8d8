"""PNG, JPEG and TIFF pictures; TIFF stacks as volumes; label images as PNG and TIFF.

Pixels stay on the stored grid: a turn asked for by EXIF is told, not applied, because masks and
COCO files count pixels of the stored grid. A TIFF stack is a volume in mm only where its ImageJ
header or its OME-XML states a spacing with a unit; else it is a volume in pixels.
"""

from __future__ import annotations

import logging
import math
import struct
import warnings
import zlib
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError, InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image, smallest_unsigned
from maskloop.core.labels import colour_of
from maskloop.core.mask import Mask, as_ids, present_ids
from maskloop.formats.base import (
    Choices,
    Evidence,
    Format,
    Planned,
    PlannedImage,
    Target,
    as_kind,
    default_table,
    read_sidecar,
    reading,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from xml.etree.ElementTree import Element

    from maskloop.core.job import Job
    from maskloop.core.labels import Kind, LabelTable

_LOG = logging.getLogger(__name__)
_TIFF = (".tif", ".tiff")
_JPEG = (".jpg", ".jpeg")
_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_IN_MM = {
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "\\u00b5m", "micron", "microns", "micrometer"), 1e-3),
    **dict.fromkeys(("cm", "centimeter"), 10.0),
    **dict.fromkeys(("inch", "inches", "in"), 25.4),
    **dict.fromkeys(("m", "meter"), 1000.0),
    **dict.fromkeys(("nm", "nanometer"), 1e-6),
}
# The most that a compression can shrink: PackBits 128 bytes to 2, deflate by its longest match,
# LZW by its longest string, JPEG a block to 2 bits, zstd a block to 4 bytes.
_RATIOS = {1: 1, 32773: 64, 8: 1040, 32946: 1040, 5: 2731, 6: 1000, 7: 1000, 50000: 33_000}
_FAX = (2, 3, 4)  # a blank row to 1 bit
_ANY_RATIO = 4000
_PNG_TYPES = ("u1", "u2")
_TIFF_TYPES = ("u1", "u2", "i2", "u4", "i4", "f4")
_TURNS = {
    2: "mirrored",
    3: "turned by 180",
    4: "mirrored",
    5: "mirrored",
    6: "turned by 90",
    7: "mirrored",
    8: "turned by 270",
}


def sniff(path: Path) -> bool:
    """Whether a file starts like a PNG, JPEG or TIFF."""
    try:
        with path.open("rb") as stream:
            return stream.read(8).startswith(_STARTS)
    except OSError:
        return False


def read_image(path: Path, *, choices: Choices, job: Job) -> Image:
    """Read a picture ``(y, x [, 3])`` or a TIFF stack ``([t,] z, y, x [, c])``.

    Palettes become colours; transparency is dropped, and that is told where it held something.
    """
    if _is_tiff(path):
        image, has_alpha = _read_tiff(path, job)
    else:
        image = _read_pillow(path, job)
        has_alpha = image.channels in (2, 4)
    return _without_alpha(image, job) if has_alpha else image


def read_mask(
    path: Path, *, image: Image | None, entry: str | int | None, kind: Kind | None, job: Job
) -> Mask:
    """Read label ids from a PNG or TIFF; palette numbers are ids. JPEGs are refused."""
    with reading(path), path.open("rb") as stream:
        if stream.read(3) == b"\xff\xd8\xff":
            msg = (
                f"expected a label image without loss, got the JPEG {path.name}, whose ids are "
                f"blurred; save the labels as PNG or TIFF"
            )
            raise FormatError(msg)
    found = _read_tiff(path, job)[0] if _is_tiff(path) else _read_pillow(path, job, as_ids=True)
    data = _one_channel(found.data, path) if found.has_channels else found.data
    try:
        ids = as_ids(data)
    except InputError as error:
        raise FormatError(f"{path.name}: {error}") from error
    labels = read_sidecar(path)
    if labels is None:
        present = present_ids(ids)
        if present == [255]:
            job.say(f"{path.name} holds 0 and 255, a yes/no mask: its one label has id 255")
        labels = default_table(present, kind)
    return Mask(ids, found.geometry, as_kind(labels, kind), path, None).checked()


def plan(mask: Mask, *, suffix: str) -> Planned:
    """Narrow the ids; refuse volumes in PNG; say what of the grid is lost."""
    if suffix in _JPEG:
        msg = "expected a label image without loss, got a JPEG name; write .png or .tif instead"
        raise InputError(msg)
    highest = int(mask.data.max(initial=0))
    if highest > (65535 if suffix == ".png" else 2**32 - 1):
        msg = f"expected ids up to 65535 for {suffix}, got {highest}; write .tif or .nii.gz instead"
        raise InputError(msg)
    ids = mask.data.astype(smallest_unsigned(highest), copy=False)
    whole = Image(ids, mask.geometry, has_time=ids.ndim > mask.geometry.ndim)
    stored, grid, losses = _fitted(whole, suffix)
    planned = Mask(stored.data, stored.geometry, mask.labels, mask.source, None, mask.title)
    return Planned(planned, grid, losses)


def plan_image(image: Image, *, suffix: str) -> PlannedImage:
    """Refuse what the dialect cannot hold exactly; say what of the grid is lost."""
    if suffix in _JPEG:
        msg = "expected a picture without loss, got a JPEG name; write .png or .tif instead"
        raise InputError(msg)
    wider = {"b1": np.uint8, "f2": np.float32}
    data = image.data.astype(wider.get(image.data.dtype.str[1:], image.data.dtype), copy=False)
    is_rgb = image.channels == 3 and data.dtype == np.uint8
    known = _PNG_TYPES if suffix == ".png" else _TIFF_TYPES
    if data.dtype.str[1:] not in known or (image.has_channels and not is_rgb):
        msg = (
            f"expected gray {'8 or 16-bit' if suffix == '.png' else '8, 16 or 32-bit'} pixels or "
            f"8-bit RGB for {suffix}, got {image.channels} channels of {image.data.dtype}; write "
            ".nrrd instead"
        )
        raise InputError(msg)
    stored, grid, losses = _fitted(replace(image, data=data, header=None), suffix)
    return PlannedImage(stored, grid, losses)


def _fitted(image: Image, suffix: str) -> tuple[Image, Geometry | None, tuple[str, ...]]:
    """Return the image without single slices, the grid that the file states, and what is lost."""
    grid, data, has_time = image.geometry, image.data, image.has_time
    if has_time and image.frames == 1:
        data, has_time = data[0], False
    if grid.ndim == 3 and grid.shape[0] == 1:
        data = data[:, 0] if has_time else data[0]
    spatial = data.ndim - int(has_time) - int(image.has_channels)
    if suffix == ".png" and (spatial > 2 or has_time):
        msg = f"expected (y, x) for .png, got shape {data.shape}; write .nii.gz instead"
        raise InputError(msg)
    losses: tuple[str, ...] = ()
    if grid.unit == "mm":
        what = "origin and direction" if spatial == 3 else "spacing, origin and direction"
        losses = (f"{what} of the grid have no place in {suffix}: keep the image beside it",)
    shown = grid if spatial == grid.ndim else Geometry.pixels(grid.shape[1:])
    stored = _stack_grid(grid.shape, grid.spacing) if spatial == 3 and grid.unit == "mm" else None
    return replace(image, data=data, geometry=shown, has_time=has_time), stored, losses


def write_mask(mask: Mask, to: Target) -> None:
    """Write a label image: PNG with a palette up to id 255, 16-bit PNG above, or TIFF."""
    if to.suffix not in _TIFF:
        to.path.write_bytes(_png(mask.data, _palette(mask)))
    else:
        has_time = mask.data.ndim > mask.geometry.ndim
        _write_tiff(mask.data, mask.geometry, to.path, has_time=has_time, is_rgb=False)


def write_image(image: Image, to: Target) -> None:
    """Write pixels as PNG or TIFF; a TIFF stack states its spacing as ImageJ does."""
    if to.suffix not in _TIFF:
        to.path.write_bytes(_png(image.data, b""))
    else:
        _write_tiff(
            image.data,
            image.geometry,
            to.path,
            has_time=image.has_time,
            is_rgb=image.has_channels,
        )


def reread(to: Target) -> Evidence:
    """Read a picture with Pillow, which wrote neither the PNG nor the TIFF."""
    with _pillow(to.path) as picture:
        pages = []
        tags = getattr(picture, "tag_v2", None)
        is_unsigned = tags is not None and 1 in (tags.get(339) or (1,))
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            page = np.array(picture)
            # Pillow has no unsigned 32-bit mode; the bits are right.
            is_turned = page.dtype == np.int32 and is_unsigned
            pages.append(page.view(np.uint32) if is_turned else page)
        data = pages[0] if len(pages) == 1 else np.stack(pages)
        picture.seek(0)
        tags = getattr(picture, "tag_v2", None)
        if tags is None:
            return Evidence(data, None, None)
        frames, geometry = _grid_in_tags(tags, data)
        return Evidence(data.reshape(frames, -1, *data.shape[1:]), geometry, None)


def _is_tiff(path: Path) -> bool:
    with reading(path), path.open("rb") as stream:
        return stream.read(2) in (b"II", b"MM")


@contextmanager
def _pillow(path: Path) -> Iterator[Any]:  # Any: Pillow's class is imported on demand
    """Open a picture; large ones are welcome, damaged ones are told as such."""
    import PIL.Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        warnings.simplefilter("ignore", UserWarning)  # damaged EXIF: it places no pixel
        try:
            with PIL.Image.open(path) as picture:
                yield picture
        except PIL.Image.DecompressionBombError as error:
            msg = (
                f"expected a picture of at most 179 million pixels, got {path.name} ({error}); "
                "save it as TIFF"
            )
            raise FormatError(msg) from error
        except MemoryError as error:
            msg = f"expected a picture that fits in memory, got {path.name}; cut or shrink it first"
            raise FormatError(msg) from error
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
            if isinstance(error, (FormatError, InputError)) or getattr(error, "errno", None):
                raise
            msg = (
                f"expected a whole PNG, JPEG or TIFF, got {path.name}: {error}; copy the file "
                "again or convert it"
            )
            raise FormatError(msg) from error


def _read_pillow(path: Path, job: Job, *, as_ids: bool = False) -> Image:
    """Return pixels as (y, x) or (y, x, c); with `as_ids`, palette numbers instead of colours."""
    data = _pillow_pixels(path, job, as_ids=as_ids)
    return Image(data, Geometry.pixels(data.shape[:2]), path, has_channels=data.ndim == 3)


def _pillow_pixels(path: Path, job: Job, *, as_ids: bool) -> npt.NDArray[Any]:
    with _pillow(path) as picture:
        _require_possible(picture, path)
        _tell_turn(picture, path, job)
        depth = _png_depth(path)
        if depth in ((16, 2), (16, 6)):
            job.say(f"{path.name} has 16-bit colours: read as 8 bits; save it as TIFF to keep them")
        if picture.mode == "P" and not as_ids:
            picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
        elif picture.mode not in (
            "1",
            "L",
            "LA",
            "P",
            "I",
            "F",
            "RGB",
            "RGBA",
        ) and not picture.mode.startswith("I;16"):
            picture = picture.convert("RGBA" if picture.mode in ("PA", "RGBa") else "RGB")
        data: npt.NDArray[Any] = np.array(picture)
    if data.dtype == bool:
        return data.astype(np.uint8) * (1 if as_ids else 255)
    if as_ids and depth in ((2, 0), (4, 0)):
        stretched: npt.NDArray[Any] = data // (
            255 // (2 ** depth[0] - 1)
        )  # as Pillow stretches few bits
        return stretched
    if data.dtype == np.int32 and depth[0] == 16:
        return data.astype(np.uint16)
    return data if data.dtype.isnative else data.astype(data.dtype.newbyteorder("="))


def _require_possible(picture: Any, path: Path) -> None:  # Any: Pillow's class
    """Refuse a size that no file of this length can hold, before pixels are allocated."""
    if picture.format == "TIFF":  # its tags were looked at already
        return
    ratio = {"PNG": 1040, "JPEG": 1000}.get(picture.format, _ANY_RATIO)
    bits = {"1": 1, "P": 1, "L": 2}.get(picture.mode, 8 * len(picture.getbands()))
    needed = picture.width * picture.height * bits // 8
    size = path.stat().st_size
    if needed > ratio * size:
        raise _cut_short(path, needed // ratio, size)


def _png_depth(path: Path) -> tuple[int, int]:
    """Return a PNG's bits a sample and colour type; (0, 0) for other files."""
    with path.open("rb") as stream:
        head = stream.read(26)
    return (head[24], head[25]) if head.startswith(_STARTS[0]) and len(head) == 26 else (0, 0)


def _tell_turn(picture: Any, path: Path, job: Job) -> None:  # Any: Pillow's class
    turn = _TURNS.get(picture.getexif().get(0x0112, 1))
    if turn is not None:
        job.say(
            f"{path.name} asks viewers to show it {turn}; the stored grid was kept, "
            f"because masks and COCO count its pixels"
        )


def _without_alpha(image: Image, job: Job) -> Image:
    data = image.data
    if image.channels < 2:  # a damaged header calls the only channel transparency
        return image.channel(0)
    if data.dtype.kind == "u" and int(data[..., -1].min()) < np.iinfo(data.dtype).max:
        job.say(f"{image.name} has transparent pixels; the transparency was dropped")
    data = np.ascontiguousarray(data[..., :-1])
    shown = Image(data, image.geometry, image.source, None, image.has_time, has_channels=True)
    return shown.channel(0) if shown.channels == 1 else shown


def _one_channel(data: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    colours = data[..., : 3 if data.shape[-1] >= 3 else 1]
    if (colours == colours[..., :1]).all():
        return np.ascontiguousarray(colours[..., 0])
    msg = (
        f"expected one label id a pixel in {path.name}, got {data.shape[-1]} channels of colours; "
        f"save the labels as gray or indexed PNG"
    )
    raise FormatError(msg)


def _read_tiff(path: Path, job: Job) -> tuple[Image, bool]:
    """Return ([t,] [z,] y, x [, c]) on its grid, and whether the last channel is transparency."""
    import tifffile

    pages = _count_pages(path)
    damage = (
        *(tifffile.TiffFileError, ValueError, IndexError, KeyError, struct.error, zlib.error),
        # What tifffile raises for tags that contradict each other.
        *(AttributeError, TypeError, ArithmeticError, RuntimeError, AssertionError),
    )
    steps: tuple[float, float, float] | None = None
    try:
        # Other files that an OME-TIFF names are not opened: they may lie anywhere.
        with tifffile.TiffFile(path, _multifile=False) as file:
            ome = _ome_of(file, pages, path) if file.is_ome else None
            series = file.series[0]
            page = series.keyframe
            _require_whole(series, path)
            if ome is not None:
                steps = _ome_steps(ome, path, job)
            else:
                _require_images(series, file.imagej_metadata or {}, pages, path, job)
                steps = _imagej_steps(page, file.imagej_metadata or {}, path, job)
            if len(file.series) > 1:
                job.say(f"{path.name} holds {len(file.series)} pictures; the first was read")
            has_alpha = int(page.photometric) == 2 and bool(page.extrasamples)
            return _ordered(series.asarray(), series.axes, steps, path), has_alpha
    except damage as error:
        if isinstance(error, FormatError):
            raise
        if "imagecodecs" not in str(error):
            msg = (
                f"expected a whole TIFF, got {path.name}: {error}; "
                f"copy the file again or convert it"
            )
            raise FormatError(msg) from error
    # Compressions that tifffile leaves to another package, such as LZW, Pillow reads itself.
    data = _pages_by_pillow(path)
    is_coloured = data.ndim > 2 and data.shape[-1] in (3, 4)
    axes = "IYX"[-(data.ndim - int(is_coloured)) :] + "S" * int(is_coloured)
    return _ordered(data, axes, steps, path), is_coloured and data.shape[-1] == 4


def _count_pages(path: Path) -> int:
    """Follow the pages of a TIFF; readers pass over a page that lies behind the end in silence."""
    size = path.stat().st_size
    seen: set[int] = set()
    with path.open("rb") as stream:
        start = stream.read(16)
        order = ">" if start[:2] == b"MM" else "<"
        is_big = start[2:4] in (b"+\0", b"\0+")
        count, entry, link = ("Q", 20, "Q") if is_big else ("H", 12, "I")
        at = 8 if is_big else 4
        while True:
            if at + struct.calcsize(link) > size:
                raise _cut_short(path, at + struct.calcsize(link), size)
            stream.seek(at)
            text = stream.read(struct.calcsize(link))
            place = struct.unpack(order + link, text)[0]
            if place == 0:
                return len(seen)
            if place in seen:
                msg = (
                    f"expected pages that follow each other in {path.name}, got a page that leads "
                    "back to an earlier one; the file is damaged: copy it again"
                )
                raise FormatError(msg)
            seen.add(place)
            if place + struct.calcsize(count) > size:
                raise _cut_short(path, place + struct.calcsize(count), size)
            stream.seek(place)
            text = stream.read(struct.calcsize(count))
            at = place + len(text) + entry * struct.unpack(order + count, text)[0]


def _ome_of(file: Any, pages: int, path: Path) -> Element | None:  # Any: tifffile's class
    """Return the OME-XML of a file if it speaks of this file's pages only, None if it is damaged.

    tifffile makes lists as long as the XML asks for, and opens the files that it names.
    """
    from xml.etree import ElementTree

    xml = str(file.ome_metadata or "")
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:  # entities can make a small text huge
        msg = (
            f"expected plain OME-XML in {path.name}, got one with a DOCTYPE; save it again as "
            "ImageJ TIFF"
        )
        raise FormatError(msg)
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None
    for node in root.iter():
        kind = node.tag.rpartition("}")[2]
        if kind == "Pixels":
            planes = math.prod(_whole(node, f"Size{axis}") for axis in "ZCT")
            area = math.prod(_whole(node, f"Size{axis}") for axis in "XY")
            is_sane = planes <= 64 * pages and area <= _ANY_RATIO * path.stat().st_size
        elif kind == "TiffData":
            names = ("IFD", "FirstZ", "FirstC", "FirstT", "PlaneCount", "NumPlanes")
            is_sane = all(_whole(node, name) <= 64 * pages for name in names)
        else:
            is_elsewhere = node.text != root.get("UUID") and node.get("FileName") != path.name
            is_sane = kind != "UUID" or not is_elsewhere
        if not is_sane:
            msg = (
                f"expected OME-XML about the {pages} pages of {path.name}, got a {kind} that needs "
                "more of them or another file; save the picture as one whole file"
            )
            raise FormatError(msg)
    return root


def _whole(node: Element, name: str) -> int:
    text = node.get(name, "1")
    return int(text) if text.isdecimal() and len(text) < 20 else 10**20


def _require_images(
    series: Any, imagej: dict[str, Any], pages: int, path: Path, job: Job
) -> None:  # Any: tifffile's class
    """Refuse an ImageJ stack behind one page that has fewer planes than its header says."""
    page = series.keyframe
    area = int(page.imagewidth) * int(page.imagelength) * int(page.samplesperpixel)
    planes, stated = math.prod(series.shape) // max(1, area), imagej.get("images", 1)
    if not isinstance(stated, int) or stated <= planes:
        return
    if pages == 1:
        raise _cut_short(path, stated * area * int(page.bitspersample) // 8, path.stat().st_size)
    job.say(f"{path.name} speaks of {stated} images and holds {planes}; those were read")


def _require_whole(series: Any, path: Path) -> None:  # Any: tifffile's class
    """Hold what the tags claim against the size of the file, before any pixel is allocated."""
    size = path.stat().st_size
    bits = math.prod(int(n) for n in series.shape) * int(series.keyframe.bitspersample)
    if series.dataoffset is not None:
        stored = size - series.dataoffset
    else:
        stored = 0
        for page in series.pages:
            if page is None:
                msg = (
                    f"expected all planes of {path.name}, got a header that names more than there "
                    "are; the file was cut short: copy it again"
                )
                raise FormatError(msg)
            ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
            if max(ends, default=0) > size:
                raise _cut_short(path, max(ends), size)
            stored += sum(page.databytecounts)
    kind = int(series.keyframe.compression)
    widest = min(int(series.keyframe.imagewidth), 8000)
    ratio = widest if kind in _FAX else _RATIOS.get(kind, _ANY_RATIO)
    if bits > 8 * ratio * min(stored, size):
        raise _cut_short(path, bits // 8 // ratio, min(stored, size))


def _cut_short(path: Path, needed: int, found: int) -> FormatError:
    return FormatError(
        f"expected at least {needed} bytes of pixels in {path.name}, got {found}; the file was cut "
        "short: copy it again"
    )


def _pages_by_pillow(path: Path) -> npt.NDArray[Any]:
    with _pillow(path) as picture:
        pages = []
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            _require_possible(picture, path)
            pages.append(np.array(picture))
    return pages[0] if len(pages) == 1 else np.stack(pages)


def _ordered(
    data: npt.NDArray[Any], axes: str, steps: tuple[float, float, float] | None, path: Path
) -> Image:
    roles: dict[str, int] = {}
    for at, letter in enumerate(axes):
        if letter not in "YX" and data.shape[at] == 1:
            continue
        role = {"Y": "y", "X": "x", "S": "c", "C": "c", "T": "t", "Z": "z"}.get(letter, "z")
        if role == "z" and role in roles and "t" not in roles:
            role = "t"
        if role in roles:
            msg = (
                f"expected ([t,] [z,] y, x [, c]) in {path.name}, got axes {axes} {data.shape}; "
                "split the file first"
            )
            raise FormatError(msg)
        roles[role] = at
    if "y" not in roles or "x" not in roles:
        msg = (
            f"expected a picture in {path.name}, got axes {axes} {data.shape}; convert the file "
            "first"
        )
        raise FormatError(msg)
    kept = [roles[r] for r in "tzyxc" if r in roles]
    single = [at for at in range(data.ndim) if at not in kept]
    data = np.ascontiguousarray(
        data.transpose(*single, *kept).reshape([data.shape[k] for k in kept])
    )
    if not data.dtype.isnative:
        data = data.astype(data.dtype.newbyteorder("="))
    start = int("t" in roles)
    shape = data.shape[start : start + 2 + int("z" in roles)]
    if "z" not in roles:
        geometry = Geometry.pixels(shape)
    elif steps is None:
        geometry = Geometry(shape, np.eye(4)[[2, 1, 0, 3]], "px")
    else:
        geometry = _stack_grid(shape, steps)
    return Image(data, geometry, path, None, "t" in roles, "c" in roles)


def _stack_grid(shape: tuple[int, ...], steps: tuple[float, ...]) -> Geometry:
    """Return the grid of a stack that knows only its spacing: x to the left, y to the back."""
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = np.array(steps) * (1, -1, -1)
    affine[3, 3] = 1
    return Geometry(shape, affine, "mm")


def _imagej_steps(
    page: Any, imagej: dict[str, Any], path: Path, job: Job
) -> tuple[float, float, float] | None:  # Any: tifffile's classes
    """Return the (z, y, x) spacing in mm that an ImageJ header states, or None."""
    factor = _IN_MM.get(str(imagej.get("unit", "")).strip().lower())
    if factor is None:
        return None
    tags = page.tags
    found = []
    for name in ("YResolution", "XResolution"):
        if name not in tags or 0 in tags[name].value:
            return None
        above, below = tags[name].value
        found.append(factor * below / above)
    depth = imagej.get("spacing")
    if not depth and imagej.get("slices", imagej.get("images", 1)) > 1:
        job.say(
            f"{path.name} states no distance of slices: 1 {imagej['unit']} was taken, as ImageJ"
        )
    return abs(float(depth or 1)) * factor, found[0], found[1]


def _ome_steps(root: Element, path: Path, job: Job) -> tuple[float, float, float] | None:
    """Return the (z, y, x) spacing in mm of the first picture in OME-XML, or None."""
    pixels = next((node for node in root.iter() if node.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return None
    found: list[float | None] = []
    for axis in "ZYX":
        # The schema's own unit, where none is written, is the micrometre.
        factor = _IN_MM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm").lower())
        size = _positive(pixels.get(f"PhysicalSize{axis}", ""))
        found.append(None if factor is None or size is None else size * factor)
    z, y, x = found
    if z is not None and y is not None and x is not None:
        return z, y, x
    if pixels.get("SizeZ") != "1" and any(found):
        job.say(f"{path.name} states a distance of voxels for some axes only: read in pixels")
    return None


def _positive(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def _write_tiff(
    data: npt.NDArray[Any], grid: Geometry, path: Path, *, has_time: bool, is_rgb: bool
) -> None:
    import tifffile

    frames = len(data) if has_time else 1
    slices = grid.shape[0] if grid.ndim == 3 else 1
    lines = ["ImageJ=1.54f"]
    density = (1.0, 1.0)
    if frames * slices > 1:
        lines += [f"images={frames * slices}", f"slices={slices}"]
        if has_time:
            lines += [f"frames={frames}", "hyperstack=true"]
        if grid.ndim == 3 and grid.unit == "mm":
            lines += [f"spacing={grid.spacing[0]!r}", "unit=mm"]
            density = (1 / grid.spacing[2], 1 / grid.spacing[1])
    pages = data.reshape(frames * slices, *data.shape[data.ndim - 2 - int(is_rgb) :])
    tifffile.imwrite(
        path,
        pages if len(pages) > 1 else pages[0],
        photometric="rgb" if is_rgb else "minisblack",
        compression="zlib",
        description="\n".join(lines) + "\n",
        metadata=None,
        resolution=density,
        resolutionunit="NONE",
        software="maskloop",
    )


def _grid_in_tags(
    tags: Any, data: npt.NDArray[Any]
) -> tuple[int, Geometry | None]:  # Any: Pillow's class
    """Return the time points and the grid of a stack from its raw tags; shares no reader above."""
    words = dict(line.split("=", 1) for line in str(tags.get(270, "")).splitlines() if "=" in line)
    frames = int(words.get("frames", 1))
    if words.get("unit") != "mm":
        return frames, None
    z, y, x = float(words["spacing"]), 1 / float(tags[283]), 1 / float(tags[282])
    affine = [[0, 0, -x, 0], [0, -y, 0, 0], [z, 0, 0, 0], [0, 0, 0, 1]]
    shape = (int(words["slices"]), *data.shape[1:3])
    return frames, Geometry(shape, np.array(affine), "mm")


def _png(data: npt.NDArray[Any], palette: bytes) -> bytes:
    """Return the bytes of a PNG: 8-bit RGB or gray, with a palette where given, or 16-bit gray."""
    from isal import isal_zlib

    height, width = data.shape[:2]
    is_small = data.dtype.itemsize == 1
    values = data if is_small else data.astype(">u2")
    values = np.ascontiguousarray(values).view(np.uint8).reshape(height, -1)
    rows = np.zeros((height, values.shape[1] + 1), np.uint8)  # each row starts with filter 0
    rows[:, 1:] = values
    colours = 2 if data.ndim == 3 else 3 if palette else 0
    head = struct.pack(">IIBBBBB", width, height, 8 if is_small else 16, colours, 0, 0, 0)
    listed = _chunk(b"PLTE", palette) if palette else b""
    body = _chunk(b"IDAT", isal_zlib.compress(rows.data, 2))
    return _STARTS[0] + _chunk(b"IHDR", head) + listed + body + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def _palette(mask: Mask) -> bytes:
    """Return three bytes an id up to 255, none where ids go higher."""
    if mask.data.dtype.itemsize > 1:
        return b""
    labels: LabelTable = mask.labels
    colours = ["#000000"] + [
        labels[i].colour if i in labels else colour_of(i)
        for i in range(1, int(mask.data.max(initial=0)) + 1)
    ]
    return b"".join(bytes.fromhex(colour[1:]) for colour in colours)


FORMAT = Format(
    name="picture",
    title="PNG, JPEG and TIFF pictures",
    suffixes=(".png", ".tif", ".tiff", ".jpg", ".jpeg"),
    sniff=sniff,
    read_image=read_image,
    read_mask=read_mask,
    write_mask=write_mask,
    write_image=write_image,
    plan=plan,
    plan_image=plan_image,
    reread=reread,
    reader="Pillow",
    has_sidecar=True,
    proof="real data",
)

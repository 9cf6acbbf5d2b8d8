"""PNG, JPEG and TIFF pictures; TIFF stacks as volumes; label images as PNG and TIFF.

Pixels stay on the stored grid: a turn asked for by EXIF is told, not applied, because masks and
COCO files count pixels of the stored grid. A TIFF stack is a volume in mm only where its ImageJ
header states a z spacing; else it is a volume in pixels.
"""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from contextlib import contextmanager
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
    Target,
    as_kind,
    default_table,
    read_sidecar,
    reading,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from maskloop.core.job import Job
    from maskloop.core.labels import Kind, LabelTable

_LOG = logging.getLogger(__name__)
_TIFF = (".tif", ".tiff")
_JPEG = (".jpg", ".jpeg")
_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_IN_MM = {
    "mm": 1.0,
    "um": 1e-3,
    "µm": 1e-3,
    "\\u00b5m": 1e-3,
    "micron": 1e-3,
    "cm": 10.0,
    "nm": 1e-6,
}
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
        image, has_alpha = _read_tiff(path)
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
    found = _read_tiff(path)[0] if _is_tiff(path) else _read_pillow(path, job, as_ids=True)
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
    grid, highest = mask.geometry, int(mask.data.max(initial=0))
    ids = _one_slice(mask.data)
    if ids.ndim > (2 if suffix == ".png" else 3):
        msg = (
            f"expected {'(y, x)' if suffix == '.png' else '([z,] y, x)'} for {suffix}, got shape "
            f"{ids.shape}; write .nii.gz instead"
        )
        raise InputError(msg)
    if highest > (65535 if suffix == ".png" else 2**32 - 1):
        msg = f"expected ids up to 65535 for {suffix}, got {highest}; write .tif or .nii.gz instead"
        raise InputError(msg)
    losses: tuple[str, ...] = ()
    if grid.unit == "mm":
        what = "origin and direction" if ids.ndim == 3 else "spacing, origin and direction"
        losses = (f"{what} of the grid have no place in {suffix}: keep the image beside it",)
    ids = ids.astype(smallest_unsigned(highest), copy=False)
    shown = grid if ids.shape == grid.shape else Geometry.pixels(ids.shape)
    stored = _stack_grid(ids.shape, grid.spacing) if ids.ndim == 3 and grid.unit == "mm" else None
    return Planned(Mask(ids, shown, mask.labels, mask.source, None), stored, losses)


def write_mask(mask: Mask, to: Target) -> None:
    """Write a label image: PNG with a palette up to id 255, 16-bit PNG above, or TIFF."""
    if to.suffix in _TIFF:
        _write_tiff(mask, to.path)
    else:
        to.path.write_bytes(_png(mask))


def reread(to: Target) -> Evidence:
    """Read a label image with Pillow, which wrote neither the PNG nor the TIFF."""
    with _pillow(to.path) as picture:
        pages = []
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            page = np.array(picture)
            # Pillow has no unsigned 32-bit mode; the bits are right.
            pages.append(page.view(np.uint32) if page.dtype == np.int32 else page)
        ids = pages[0] if len(pages) == 1 else np.stack(pages)
        picture.seek(0)
        tags = getattr(picture, "tag_v2", None)
        return Evidence(ids, _grid_in_tags(tags, ids.shape) if tags else None, None)


def _is_tiff(path: Path) -> bool:
    with reading(path), path.open("rb") as stream:
        return stream.read(2) in (b"II", b"MM")


@contextmanager
def _pillow(path: Path) -> Iterator[Any]:  # Any: Pillow's class is imported on demand
    """Open a picture; large ones are welcome, damaged ones are told as such."""
    import PIL.Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        try:
            with PIL.Image.open(path) as picture:
                yield picture
        except PIL.Image.DecompressionBombError as error:
            msg = (
                f"expected a picture of at most 179 million pixels, got {path.name} ({error}); "
                "save it as TIFF"
            )
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


def _one_slice(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    while data.ndim > 2 and data.shape[0] == 1:
        data = data[0]
    return data


def _read_tiff(path: Path) -> tuple[Image, bool]:
    """Return ([t,] [z,] y, x [, c]) on its grid, and whether the last channel is transparency."""
    import tifffile

    damage = (tifffile.TiffFileError, ValueError, IndexError, KeyError, struct.error, zlib.error)
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            page = series.keyframe
            steps = _steps(page, file.imagej_metadata or {})
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
    return _ordered(data, axes, None, path), is_coloured and data.shape[-1] == 4


def _pages_by_pillow(path: Path) -> npt.NDArray[Any]:
    with _pillow(path) as picture:
        pages = []
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
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


def _steps(page: Any, imagej: dict[str, Any]) -> tuple[float, float, float] | None:
    """Return the (z, y, x) spacing in mm that an ImageJ header states, or None."""
    factor = _IN_MM.get(str(imagej.get("unit", "")).lower())
    if factor is None or not imagej.get("spacing"):
        return None
    tags = page.tags
    found = []
    for name in ("YResolution", "XResolution"):
        if name not in tags or 0 in tags[name].value:
            return None
        above, below = tags[name].value
        found.append(factor * below / above)
    return abs(float(imagej["spacing"])) * factor, found[0], found[1]


def _write_tiff(mask: Mask, path: Path) -> None:
    import tifffile

    ids, grid = mask.data, mask.geometry
    lines = ["ImageJ=1.54f"]
    density = (1.0, 1.0)
    if ids.ndim == 3:
        lines += [f"images={len(ids)}", f"slices={len(ids)}"]
        if grid.unit == "mm":
            lines += [f"spacing={grid.spacing[0]!r}", "unit=mm"]
            density = (1 / grid.spacing[2], 1 / grid.spacing[1])
    tifffile.imwrite(
        path,
        ids,
        photometric="minisblack",
        compression="zlib",
        description="\n".join(lines) + "\n",
        metadata=None,
        resolution=density,
        resolutionunit="NONE",
        software="maskloop",
    )


def _grid_in_tags(tags: Any, shape: tuple[int, ...]) -> Geometry | None:  # Any: Pillow's class
    """Return the grid of a stack from its raw tags; shares nothing with the reader above."""
    words = dict(line.split("=", 1) for line in str(tags.get(270, "")).splitlines() if "=" in line)
    if len(shape) != 3 or words.get("unit") != "mm":
        return None
    z, y, x = float(words["spacing"]), 1 / float(tags[283]), 1 / float(tags[282])
    affine = [[0, 0, -x, 0], [0, -y, 0, 0], [z, 0, 0, 0], [0, 0, 0, 1]]
    return Geometry(shape, np.array(affine), "mm")


def _png(mask: Mask) -> bytes:
    """Return the bytes of a PNG: 8-bit with a palette where ids allow, else 16-bit gray."""
    from isal import isal_zlib

    height, width = mask.data.shape
    is_small = mask.data.dtype.itemsize == 1
    values = mask.data.view(np.uint8) if is_small else mask.data.astype(">u2").view(np.uint8)
    values = np.ascontiguousarray(values).reshape(height, -1)
    rows = np.zeros((height, values.shape[1] + 1), np.uint8)  # each row starts with filter 0
    rows[:, 1:] = values
    head = struct.pack(
        ">IIBBBBB", width, height, 8 if is_small else 16, 3 if is_small else 0, 0, 0, 0
    )
    palette = _chunk(b"PLTE", _palette(mask)) if is_small else b""
    body = _chunk(b"IDAT", isal_zlib.compress(rows.data, 2))
    return _STARTS[0] + _chunk(b"IHDR", head) + palette + body + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def _palette(mask: Mask) -> bytes:
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
    plan=plan,
    reread=reread,
    reader="Pillow",
    has_sidecar=True,
    proof="real data",
)

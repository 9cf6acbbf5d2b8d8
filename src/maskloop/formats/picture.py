"""PNG, JPEG and TIFF pictures; TIFF stacks as volumes; label images as PNG and TIFF.

Pixels stay on the stored grid: a turn asked for by EXIF is told, not applied, because masks and
COCO files count pixels of the stored grid. A TIFF stack is a volume in mm only where its ImageJ
header or its OME-XML states a spacing with a unit; else it is a volume in pixels.

References
----------
.. [1] `picture_png` and `picture_tiff` name the standards of the two containers.
.. [2] "Exchangeable image file format" (Exif) 2.3, JEITA CP-3451C, section 4.6.4: orientation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError, InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image, smallest_unsigned
from maskloop.core.labels import colour_of
from maskloop.core.mask import Mask, present_ids
from maskloop.formats import picture_png, picture_tiff, placing, stored
from maskloop.formats.base import (
    Choices,
    Evidence,
    Format,
    Planned,
    PlannedImage,
    Target,
    as_kind,
    default_table,
    first_bytes,
    ids_of,
    read_sidecar,
    reading,
)
from maskloop.formats.picture_claims import require_possible
from maskloop.formats.picture_pillow import opened

if TYPE_CHECKING:
    from pathlib import Path

    from maskloop.core.job import Job
    from maskloop.core.labels import Kind, LabelTable

_TIFF = (".tif", ".tiff")
_JPEG = (".jpg", ".jpeg")
_STARTS = (picture_png.SIGNATURE, b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PLAIN = tuple(kind + end for kind in (b"P5", b"P6") for end in (b"\n", b"\r", b" "))
_PNG_TYPES = ("u1", "u2")
_TIFF_TYPES = ("u1", "u2", "i2", "u4", "i4", "f4")
_MODES = ("1", "L", "LA", "P", "I", "F", "RGB", "RGBA")  # whose samples numpy takes as they are
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
    """Whether a file starts like a PNG, JPEG or TIFF, or a BMP or PGM that has another suffix."""
    start = first_bytes(path, 10)
    is_bitmap = start.startswith(b"BM") and start[6:] == bytes(4)
    return is_bitmap or start.startswith((*_STARTS, *_PLAIN))


def read_image(path: Path, *, choices: Choices, job: Job) -> Image:
    """Read a picture ``(y, x [, 3])`` or a TIFF stack ``([t,] z, y, x [, c])``.

    Palettes become colours; transparency is dropped, and that is told where it held something.
    """
    if _is_tiff(path):
        image, has_alpha = picture_tiff.read(path, job)
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
    is_tiff = _is_tiff(path)
    found = picture_tiff.read(path, job)[0] if is_tiff else _read_pillow(path, job, as_ids=True)
    data = _one_channel(found.data, path) if found.has_channels else found.data
    ids = ids_of(data, path, job)
    labels = read_sidecar(path)
    if labels is None:
        present = present_ids(ids)
        if present == [255]:
            job.say(f"{path.name} holds 0 and 255, a yes/no mask: its one label has id 255")
        labels = default_table(present, kind)
    return Mask(ids, found.geometry, as_kind(labels, kind), path, None).checked()


def read_values(path: Path, job: Job, *, with_colours: bool = False) -> Image:
    """Read the stored values of a mask whose coding a profile knows: all channels, JPEG too.

    Palettes stay numbers, or become colours with `with_colours`.
    """
    if _is_tiff(path):
        return picture_tiff.read(path, job)[0]
    return _read_pillow(path, job, as_ids=not with_colours)


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
    fitted, grid, losses = _fitted(whole, suffix)
    planned = Mask(fitted.data, fitted.geometry, mask.labels, mask.source, None, mask.title)
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
    return PlannedImage(*_fitted(replace(image, data=data, header=None), suffix))


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
    is_placed = spatial == 3 and grid.unit == "mm"
    stated = placing.by_spacing(grid.shape, grid.spacing) if is_placed else None
    return replace(image, data=data, geometry=shown, has_time=has_time), stated, losses


def write_mask(mask: Mask, to: Target) -> None:
    """Write a label image: PNG with a palette up to id 255, 16-bit PNG above, or TIFF."""
    if to.suffix not in _TIFF:
        to.path.write_bytes(picture_png.packed(mask.data, _palette(mask)))
    else:
        has_time = mask.data.ndim > mask.geometry.ndim
        picture_tiff.write(mask.data, mask.geometry, to.path, has_time=has_time, is_rgb=False)


def write_image(image: Image, to: Target) -> None:
    """Write pixels as PNG or TIFF; a TIFF stack states its spacing as ImageJ does."""
    if to.suffix not in _TIFF:
        to.path.write_bytes(picture_png.packed(image.data, b""))
    else:
        picture_tiff.write(
            image.data,
            image.geometry,
            to.path,
            has_time=image.has_time,
            is_rgb=image.has_channels,
        )


def reread(to: Target) -> Evidence:
    """Read a picture with Pillow, which wrote neither the PNG nor the TIFF."""
    with opened(to.path) as picture:
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


def _read_pillow(path: Path, job: Job, *, as_ids: bool = False) -> Image:
    """Return pixels as (y, x) or (y, x, c); with `as_ids`, palette numbers instead of colours."""
    data = _pillow_pixels(path, job, as_ids=as_ids)
    return Image(data, Geometry.pixels(data.shape[:2]), path, has_channels=data.ndim == 3)


def _pillow_pixels(path: Path, job: Job, *, as_ids: bool) -> npt.NDArray[Any]:
    with opened(path) as picture:
        require_possible(picture, path)
        _tell_turn(picture, path, job)
        depth = picture_png.depth_of(path)
        if depth in ((16, 2), (16, 6)):
            job.say(f"{path.name} has 16-bit colours: read as 8 bits; save it as TIFF to keep them")
        if picture.mode == "P" and not as_ids:
            picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
        elif picture.mode not in _MODES and not picture.mode.startswith("I;16"):
            picture = picture.convert("RGBA" if picture.mode in ("PA", "RGBa") else "RGB")
        data: npt.NDArray[Any] = np.array(picture)
    if data.dtype == bool:
        return data.astype(np.uint8) * (1 if as_ids else 255)
    if as_ids and depth in ((2, 0), (4, 0)):
        # Pillow stretches few bits over 0 to 255.
        narrow: npt.NDArray[Any] = data // (255 // (2 ** depth[0] - 1))
        return narrow
    if data.dtype == np.int32 and depth[0] == 16:
        return data.astype(np.uint16)
    return stored.as_native(data)


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

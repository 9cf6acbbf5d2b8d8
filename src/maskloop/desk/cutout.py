"""Cut objects out of a picture: RGBA with a soft edge, proved by another reader."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError, StorageError, VerificationError
from maskloop.core.files import sha256_of
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.mask import Mask
from maskloop.formats import picture_png
from maskloop.formats.picture_pillow import opened

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Cutout", "cutout"]

_WIDEST = 100.0  # pixels: above, half opacity would no longer tell inside from outside in 8 bits


@dataclass(frozen=True, slots=True)
class Cutout:
    """Proof of a written cut-out.

    Parameters
    ----------
    path : Path
    sha256 : str
        Of the file.
    labels : tuple of str
        Names of what was cut out.
    pixels : int
        How many pixels of the mask are in it: those of at least half opacity.
    size : tuple of int
        ``(width, height)`` in pixels.
    corner : tuple of int
        ``(x, y)`` of its first pixel in the whole picture.
    soft_px : float
        Width of the edge.
    verdict : str
        ``"PASS"``: what does not read back as meant is not put in place.
    """

    path: Path
    sha256: str
    labels: tuple[str, ...]
    pixels: int
    size: tuple[int, int]
    corner: tuple[int, int]
    soft_px: float
    verdict: str = "PASS"

    def to_json(self) -> dict[str, Any]:  # Any: plain JSON values
        """Return the proof as JSON-ready values."""
        return {
            "path": str(self.path),
            "sha256": self.sha256,
            "labels": list(self.labels),
            "pixels": self.pixels,
            "size": list(self.size),
            "corner": list(self.corner),
            "soft_px": self.soft_px,
            "verdict": self.verdict,
        }

    def to_text(self) -> str:
        """Return the proof in a line for people."""
        return (
            f"{self.verdict}  {self.path}  ({self.size[0]} x {self.size[1]} pixels, "
            f"{self.pixels:,} of them in {', '.join(self.labels)}; read back with Pillow)"
        )


def cutout(
    image: Image | Path | str,
    mask: Mask | Path | str,
    out: Path | str,
    *,
    labels: Sequence[str | int] = (),
    soft_px: float = 0.0,
    crop: bool = False,
    entry: str | int | None = None,
    job: Job | None = None,
) -> Cutout:
    """Write what labels cover of a picture as a PNG whose rest is transparent.

    Opacity falls in a straight line across a band of `soft_px` pixels round the border: half of it
    lies inside. Pixels of at least half opacity are exactly those of the mask, and pixels that
    cannot be seen are black, so nothing of the rest is given away. The file is written aside, read
    back with another reader and compared, and only then put in place.

    Parameters
    ----------
    image : Image, Path or str
        A picture ``(y, x)`` or ``(y, x, 3)``; other values than bytes are stretched, and told.
    mask : Mask, Path or str
        On the picture's grid.
    out : Path or str
        Name ending in ``.png``.
    labels : sequence of str or int
        Names or ids of objects, or names of classes; everything but ignored regions if left out.
    soft_px : float
        Width of the edge in pixels, 0 (hard) to 100.
    crop : bool
        Whether the picture is cut to the box of what can be seen.
    entry : str or int, optional
        Where `mask` is a file of several: which one.
    job : Job, optional
        Told what was stretched.

    Raises
    ------
    InputError
        If this is no picture, no such width, or nothing of that label is drawn.
    GeometryError
        If the mask is not on the picture's grid.
    VerificationError, StorageError
        If it does not read back as meant, or the disk refuses; an old file is untouched.
    """
    from maskloop.loop.load import load, load_mask

    job, out = job or Job(), Path(out)
    if out.suffix.lower() != ".png":
        msg = f"expected a name ending in .png, got {out.name!r}; only PNG keeps the soft edge"
        raise InputError(msg)
    if not 0 <= soft_px <= _WIDEST:
        msg = f"expected a soft edge of 0 to {_WIDEST:.0f} pixels, got {soft_px!r}; choose another"
        raise InputError(msg)
    for given in (image, mask):
        source = given if isinstance(given, (str, Path)) else given.source
        if source is not None and out.exists() and out.resolve() == Path(source).resolve():
            msg = f"expected a place other than {Path(source).name!r} itself, got {str(out)!r}"
            raise InputError(f"{msg}; choose another name")
    shown = image if isinstance(image, Image) else load(image, job=job)
    drawn = mask if isinstance(mask, Mask) else load_mask(mask, image=shown, entry=entry, job=job)
    if shown.geometry.ndim != 2 or shown.has_time:
        msg = f"expected a picture (y, x), got {shown.name!r} of shape {shown.data.shape}"
        raise InputError(f"{msg}; export one slice of it first")
    drawn.require_on(shown)
    region, names = _chosen(drawn, labels)
    alpha = opacity(region, soft_px)
    pixels = np.dstack([_colours(shown, job), alpha])
    pixels[alpha == 0] = 0
    top = left = 0
    if crop:
        rows, columns = (np.flatnonzero((alpha > 0).any(axis=axis)) for axis in (1, 0))
        top, left = int(rows[0]), int(columns[0])
        pixels = pixels[top : rows[-1] + 1, left : columns[-1] + 1]
    _write_proved(pixels, out)
    size = (pixels.shape[1], pixels.shape[0])
    count = int(region.sum())
    return Cutout(out, sha256_of(out), names, count, size, (left, top), float(soft_px))


def opacity(region: npt.NDArray[np.bool_], soft_px: float) -> npt.NDArray[np.uint8]:
    """Return 0 to 255 across a band round the border; the picture's own border is none.

    At least half (128) exactly where the region is.
    """
    from scipy import ndimage

    if not soft_px or region.all():
        return np.where(region, np.uint8(255), np.uint8(0))
    # Centres next to the border lie half a pixel from it.
    inside = ndimage.distance_transform_edt(region) - 0.5
    outside = 0.5 - ndimage.distance_transform_edt(~region)
    share = np.clip(np.where(region, inside, outside) / soft_px + 0.5, 0, 1)
    found: npt.NDArray[np.uint8] = np.rint(255 * share).astype(np.uint8)
    return found


def _chosen(
    mask: Mask, labels: Sequence[str | int]
) -> tuple[npt.NDArray[np.bool_], tuple[str, ...]]:
    """Return what the labels cover, and their names."""
    rows = mask.checked().labels
    if labels:
        ids: list[int] = []
        for label in labels:
            of_class = [row.id for row in rows.values() if row.category == str(label)]
            ids += of_class or [rows.id_of(label)]
    else:
        ids = [row.id for row in rows.values() if not row.ignore]
    region = np.isin(mask.data, ids)
    names = tuple(dict.fromkeys([str(one) for one in labels] or [rows[i].name for i in ids]))
    if not region.any():
        what = ", ".join(names) or "any label"
        msg = f"expected something drawn as {what}, got nothing; choose another label"
        raise InputError(msg)
    return region, names


def _colours(image: Image, job: Job) -> npt.NDArray[np.uint8]:
    """Return the picture as (y, x, 3) bytes."""
    data = image.data
    if image.has_channels and image.channels != 3:
        msg = f"expected gray or RGB pixels, got {image.channels} channels; choose one of them"
        raise InputError(msg)
    if data.dtype != np.uint8:
        low, high = float(np.nanmin(data)), float(np.nanmax(data))
        job.say(f"{image.name}: values from {low:g} to {high:g} are stretched to 8 bits")
        share = (data.astype(np.float64) - low) / ((high - low) or 1.0)
        data = np.rint(255 * np.nan_to_num(share)).astype(np.uint8)
    return data if image.has_channels else np.repeat(data[..., None], 3, axis=2)


def _write_proved(pixels: npt.NDArray[np.uint8], out: Path) -> None:
    """Write aside, read back with Pillow, compare, replace."""
    if not out.resolve().parent.is_dir():
        msg = f"expected a folder to write {out.name!r} in, got none at {str(out.parent)!r}"
        raise StorageError(f"{msg}; make it first")
    try:
        handle, name = tempfile.mkstemp(prefix=".maskloop-", suffix=".png", dir=out.parent)
        fresh = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(picture_png.packed(pixels, b""))
                file.flush()
                os.fsync(file.fileno())
            with opened(fresh) as picture:
                mode, found = picture.mode, np.array(picture)
            if mode != "RGBA" or not np.array_equal(found, pixels):
                msg = f"expected {out.name!r} to read back as written, got other pixels"
                raise VerificationError(f"{msg}; nothing was replaced, report this")
            fresh.chmod(0o644)
            fresh.replace(out)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        msg = f"expected to write {str(out)!r}, but the system answered {error.strerror!r}"
        raise StorageError(f"{msg}; check the folder and the disk") from error

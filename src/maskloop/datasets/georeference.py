"""Where a picture lies on the earth: read from GeoTIFF, written beside PNGs as GDAL does.

A copied GeoTIFF keeps its place by itself. A label PNG cannot hold it; GDAL and QGIS read it from
``NAME.png.aux.xml``, and so does maskloop.

References
----------
.. [1] "OGC GeoTIFF Standard" 1.1, OGC 19-008r4: ModelPixelScale, ModelTiepoint,
   ModelTransformation, and the keys of the coordinate system.
.. [2] GDAL, "Persistent Auxiliary Metadata" (.aux.xml): SRS and GeoTransform.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from pathlib import Path

_SCALE, _TIEPOINT, _MATRIX, _KEYS = 33550, 33922, 34264, 34735
_RASTER_TYPE, _GEOGRAPHIC, _PROJECTED = 1025, 2048, 3072
_OWN = 32767  # a coordinate system without a number
_TIFF = (".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class GeoReference:
    """Six numbers and the name of a coordinate system.

    Parameters
    ----------
    transform : tuple of float
        As GDAL orders them: x of the corner, x a column, x a row, y of the corner, y a column, y a
        row.
    system : str
        Such as ``"EPSG:32614"``; empty where the file gives it no number.
    """

    transform: tuple[float, float, float, float, float, float]
    system: str = ""


def of(path: Path | None) -> GeoReference | None:
    """Return where a TIFF, or a picture with an ``.aux.xml`` beside it, lies; None if nowhere."""
    if path is None:
        return None
    if path.suffix.lower() in _TIFF:
        found = _in_tiff(path)
        if found is not None:
            return found
    beside = path.with_name(path.name + ".aux.xml")
    return _in_xml(beside) if beside.is_file() else None


def write_beside(found: object, path: Path) -> None:
    """Write ``NAME.png.aux.xml`` for a written mask, where `found` is a `GeoReference`."""
    if not isinstance(found, GeoReference):
        return
    system = f"  <SRS>{escape(found.system)}</SRS>\n" if found.system else ""
    numbers = ", ".join(repr(float(n)) for n in found.transform)
    path.with_name(path.name + ".aux.xml").write_text(
        f"<PAMDataset>\n{system}  <GeoTransform>{numbers}</GeoTransform>\n</PAMDataset>\n",
        encoding="utf-8",
    )


def _in_tiff(path: Path) -> GeoReference | None:
    import tifffile

    try:
        with tifffile.TiffFile(path, _multifile=False) as file:
            listed = file.pages.first.tags
            tags = {tag.code: tag.value for tag in listed if tag.code >= _SCALE}
        return _from_tags(tags)
    # A damaged place leaves the pixels as they are; what is wrong with those, their reader tells.
    except (
        *(tifffile.TiffFileError, OSError, ValueError, TypeError, IndexError, KeyError),
        *(AttributeError, ArithmeticError, struct.error),
    ):
        return None


def _from_tags(tags: dict[int, Any]) -> GeoReference | None:  # Any: what tifffile makes of a tag
    keys = _keys(tags.get(_KEYS, ()))
    if _MATRIX in tags:
        m = [float(n) for n in tags[_MATRIX]]
        step = (m[3], m[0], m[1], m[7], m[4], m[5])
    elif _SCALE in tags and _TIEPOINT in tags:
        across, down = (float(n) for n in tags[_SCALE][:2])
        column, row, _, x, y, _ = (float(n) for n in tags[_TIEPOINT][:6])
        step = (x - column * across, across, 0.0, y + row * down, 0.0, -down)
    else:
        return None
    if keys.get(_RASTER_TYPE) == 2:  # the point is the centre of the pixel
        x0, xc, xr, y0, yc, yr = step
        step = (x0 - (xc + xr) / 2, xc, xr, y0 - (yc + yr) / 2, yc, yr)
    if not all(math.isfinite(n) for n in step):
        return None
    number = keys.get(_PROJECTED, keys.get(_GEOGRAPHIC, _OWN))
    return GeoReference(step, f"EPSG:{number}" if 0 < number < _OWN else "")


def _keys(values: Any) -> dict[int, int]:  # Any: as above
    """Return the GeoKeys whose value is a short number."""
    entries = [int(n) for n in values][4:]
    four = zip(*(entries[at::4] for at in range(4)), strict=False)
    return {key: value for key, place, _, value in four if place == 0}


def _in_xml(path: Path) -> GeoReference | None:
    try:
        text = path.read_bytes()
        if len(text) > 100_000 or b"<!" in text:
            return None
        root = ElementTree.fromstring(text)
        numbers = tuple(float(n) for n in root.findtext("GeoTransform", "").split(","))
        if len(numbers) != 6 or not all(math.isfinite(n) for n in numbers):
            return None
        return GeoReference(numbers, (root.findtext("SRS") or "").strip())
    except (OSError, ValueError, ElementTree.ParseError):
        return None

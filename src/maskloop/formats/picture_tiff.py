"""TIFF pictures and stacks, with the spacing that ImageJ or OME state.

References
----------
.. [1] "TIFF Revision 6.0", Adobe, 1992.
.. [2] "The OME-TIFF format", Open Microscopy Environment: PhysicalSize and its units.
.. [3] ImageJ, `ij/io/TiffDecoder.java` and `FileInfo.java`: the lines of the image description.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError
from maskloop.core.image import Image
from maskloop.formats import placing, stored
from maskloop.formats.picture_claims import count_pages, ome_of, require_images, require_whole
from maskloop.formats.picture_pillow import pages_of

if TYPE_CHECKING:
    from pathlib import Path
    from xml.etree.ElementTree import Element

    from maskloop.core.geometry import Geometry
    from maskloop.core.job import Job

_IN_MM = {
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "\\u00b5m", "micron", "microns", "micrometer"), 1e-3),
    **dict.fromkeys(("cm", "centimeter"), 10.0),
    **dict.fromkeys(("inch", "inches", "in"), 25.4),
    **dict.fromkeys(("m", "meter"), 1000.0),
    **dict.fromkeys(("nm", "nanometer"), 1e-6),
}


def read(path: Path, job: Job) -> tuple[Image, bool]:
    """Return ([t,] [z,] y, x [, c]) on its grid, and whether the last channel is transparency."""
    import tifffile

    pages = count_pages(path)
    damage = (
        *(tifffile.TiffFileError, ValueError, IndexError, KeyError, struct.error, zlib.error),
        # What tifffile raises for tags that contradict each other.
        *(AttributeError, TypeError, ArithmeticError, RuntimeError, AssertionError),
    )
    steps: tuple[float, float, float] | None = None
    try:
        # Other files that an OME-TIFF names are not opened: they may lie anywhere.
        with tifffile.TiffFile(path, _multifile=False) as file:
            ome = ome_of(file, pages, path) if file.is_ome else None
            series = file.series[0]
            page = series.keyframe
            require_whole(series, path)
            if ome is not None:
                steps = _ome_steps(ome, path, job)
            else:
                require_images(series, file.imagej_metadata or {}, pages, path, job)
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
                f"expected a whole TIFF, got {path.name}: {error}; copy the file again or "
                "convert it"
            )
            raise FormatError(msg) from error
    # Compressions that tifffile leaves to another package, such as LZW, Pillow reads itself.
    data = pages_of(path)
    is_coloured = data.ndim > 2 and data.shape[-1] in (3, 4)
    axes = "IYX"[-(data.ndim - int(is_coloured)) :] + "S" * int(is_coloured)
    return _ordered(data, axes, steps, path), is_coloured and data.shape[-1] == 4


def write(
    data: npt.NDArray[Any], grid: Geometry, path: Path, *, has_time: bool, is_rgb: bool
) -> None:
    """Write ([t,] [z,] y, x [, c]) as a page, or as a stack that states its spacing as ImageJ does.

    `grid` is that of the spatial axes; of it, only a spacing in mm is stored.
    """
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


def _ordered(
    data: npt.NDArray[Any], axes: str, steps: tuple[float, float, float] | None, path: Path
) -> Image:
    """Return pixels as ([t,] [z,] y, x [, c]), by tifffile's letters for axes; I is any list."""
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
    data = stored.as_native(data)
    start = int("t" in roles)
    shape = data.shape[start : start + 2 + int("z" in roles)]
    if steps is not None and "z" in roles:
        geometry = placing.by_spacing(shape, steps)
    else:
        geometry = placing.unplaced(shape)
    return Image(data, geometry, path, None, "t" in roles, "c" in roles)


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

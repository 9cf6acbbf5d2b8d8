"""Where the frames of a DICOM segmentation lie: on the grid they make, or on an image's.

References
----------
.. [1] DICOM PS3.3 C.7.6.16.2.1 (pixel measures), C.7.6.16.2.3 (plane position), C.7.6.16.2.4
   (plane orientation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import GeometryError
from maskloop.core.geometry import Geometry

if TYPE_CHECKING:
    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.formats.dicomseg_file import SegFile
    from maskloop.formats.overlap import Index


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a frame goes: flip its axes, turn them, cut what lies outside, put it at `index`."""

    index: Index
    flips: tuple[slice, slice]
    is_turned: bool
    cut: tuple[slice, slice]
    outside: str

    def turned(self, values: npt.NDArray[Any]) -> tuple[Index, npt.NDArray[Any]]:
        """Return the index and what to put there; raise `GeometryError` if a voxel has no home."""
        found = values[self.flips]
        found = found.T if self.is_turned else found
        inside = found[self.cut]
        if self.outside and np.count_nonzero(inside) < np.count_nonzero(found):
            raise GeometryError(self.outside)
        return self.index, inside


def own_places(file: SegFile, grid: Geometry) -> list[Place]:
    """Return where each frame goes on the grid that the frames make."""
    levels = np.rint(grid.to_index(file.origins)[:, 0]).astype(int)
    whole = slice(None)
    box = tuple(slice(0, n) for n in file.shape)
    return [Place((int(k), *box), (whole, whole), False, (whole, whole), "") for k in levels]


def own_grid(file: SegFile) -> Geometry:
    """Return the grid that the frames' positions make; left out frames leave holes in it.

    Raises
    ------
    GeometryError
        If the frames differ in orientation or spacing, or are not evenly spaced in one line.
    """
    down, right, origins = file.down[0], file.right[0], file.origins
    pixel = min(float(np.linalg.norm(down)), float(np.linalg.norm(right)))
    reach = max(file.shape)
    for vectors, first in ((file.down, down), (file.right, right)):
        if np.abs(vectors - first).max() * reach > 0.01 * pixel * max(reach / 100, 1):
            msg = (
                f"expected frames of one orientation and spacing in {file.path.name}, got several; "
                "pass the image it was drawn on with --image"
            )
            raise GeometryError(msg)
    normal = np.cross(right, down)
    normal /= np.linalg.norm(normal)
    along = origins @ normal
    order = np.argsort(along, kind="stable")
    sorted_along = along[order]
    is_new = np.concatenate(([True], np.diff(sorted_along) > 0.01 * pixel))
    planes = sorted_along[is_new]
    if len(planes) == 1:
        if file.depth <= 0:
            msg = (
                f"expected a depth of the one slice of {file.path.name}, got none; pass the image "
                "it was drawn on with --image"
            )
            raise GeometryError(msg)
        step, count, base = normal * file.depth, 1, origins[order[0]]
    else:
        counts = _counts(planes, file, len(planes))
        count = int(counts[-1]) + 1
        # The line through all positions: tilted stacks shift sideways from slice to slice.
        places = origins[order]
        levels = counts[np.cumsum(is_new) - 1].astype(np.float64)
        step = (places[-1] - places[0]) / levels[-1]
        base = places[0]
        off = np.linalg.norm(places - base - np.outer(levels, step), axis=1).max()
        if off > max(0.02, 0.01 * pixel):
            msg = (
                f"expected the frames of {file.path.name} in one line, got one {off:.3g} mm beside "
                "it; pass the image it was drawn on with --image"
            )
            raise GeometryError(msg)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([step, down, right])
    affine[:3, 3] = base
    return Geometry((count, *file.shape), affine, "mm")


def _counts(planes: npt.NDArray[np.float64], file: SegFile, frames: int) -> npt.NDArray[np.int64]:
    """Return how many steps each plane lies from the first; refuse what no step fits."""
    gaps = np.diff(planes)
    smallest = float(gaps.min())
    for step in (file.depth, smallest, smallest / 2, smallest / 3):
        if step <= 0 or step > smallest * 1.05:
            continue
        counts = np.concatenate(([0], np.cumsum(np.rint(gaps / step)))).astype(np.int64)
        if counts[-1] >= 64 * frames + 1024:
            break
        exact = (planes[-1] - planes[0]) / counts[-1]
        off = np.abs(planes - planes[0] - counts * exact).max()
        if off <= min(max(0.01 * exact, 0.02), 0.1 * exact):
            return counts
    steps = sorted({round(float(g), 3) for g in gaps})
    listed = ", ".join(f"{g:g}" for g in steps[:6]) + (" ..." if len(steps) > 6 else "")
    msg = (
        f"expected evenly spaced slices in {file.path.name}, got steps of {listed} mm; pass the "
        "image it was drawn on with --image"
    )
    raise GeometryError(msg)


def places_on(file: SegFile, image: Image, job: Job) -> list[Place]:
    """Return where each frame goes on the image's grid: on its voxels within 1 % of one."""
    grid = image.geometry
    if grid.ndim != 3 or grid.unit != "mm":
        msg = (
            f"expected a volume in mm for {file.path.name}, got {image.name!r} "
            f"({grid.shape}, {grid.unit}); choose the image it was drawn on"
        )
        raise GeometryError(msg)
    frames = (getattr(image.header, "frame_of_reference", ""), file.seg.get("FrameOfReferenceUID"))
    if all(frames) and frames[0] != frames[1]:
        job.say(
            f"{file.path.name} states another frame of reference than {image.name!r}; it was "
            "placed by its positions all the same: check that it lies where it should"
        )
    rows, columns = file.shape
    firsts = grid.to_index(file.origins)
    downs = grid.to_index(file.origins + file.down) - firsts
    rights = grid.to_index(file.origins + file.right) - firsts
    places = []
    for number, (first, down, right) in enumerate(zip(firsts, downs, rights, strict=True), 1):
        steps = np.rint([down, right])
        corners = [(r, c) for r in (0, rows - 1) for c in (0, columns - 1)]
        off = max(
            float(np.abs(first + r * down + c * right - (np.rint(first) + (r, c) @ steps)).max())
            for r, c in corners
        )
        is_on_axes = sorted(np.abs(steps).sum(axis=0).tolist()) == [0, 1, 1]
        if not is_on_axes or off > 0.01:
            how = f"{off:.2g} voxels beside them" if is_on_axes else "turned against them"
            msg = (
                f"expected the frames of {file.path.name} on the voxels of {image.name!r}, got "
                f"frame {number} {how}; choose the image it was drawn on, or read it without one"
            )
            raise GeometryError(msg)
        places.append(_place(np.rint(first).astype(int), steps.astype(int), file, image, number))
    levels = np.unique(np.rint(firsts).astype(int), axis=0)
    apart = np.abs(np.diff(levels, axis=0)).sum(axis=1)
    if apart.size and apart.min() > 1:
        job.say(
            f"the slices of {file.path.name} lie at least {apart.min()} slices of {image.name!r} "
            "apart; those between were left empty"
        )
    return places


def _place(
    first: npt.NDArray[np.int64],
    steps: npt.NDArray[np.int64],
    file: SegFile,
    image: Image,
    number: int,
) -> Place:
    shape = image.geometry.shape
    axes = [int(np.flatnonzero(step)[0]) for step in steps]
    signs = [int(step.sum()) for step in steps]
    plane = 3 - sum(axes)
    index: list[int | slice] = [0, 0, 0]
    cuts: dict[int, slice] = {}
    is_inside = 0 <= first[plane] < shape[plane]
    for axis, sign, length in zip(axes, signs, file.shape, strict=True):
        low = int(first[axis]) - (length - 1 if sign < 0 else 0)
        start, stop = max(low, 0), min(low + length, shape[axis])
        if not (start == low and stop == low + length):
            is_inside = False
        stop = max(stop, start)
        index[axis] = slice(start, stop)
        cuts[axis] = slice(start - low, stop - low)
    outside = ""
    if not is_inside:
        outside = (
            f"expected {file.path.name} inside {image.name!r}, got voxels of frame {number} "
            "outside it; choose the image it was drawn on, or read it without one"
        )
        if not 0 <= first[plane] < shape[plane]:
            cuts = dict.fromkeys(axes, slice(0, 0))
            index = [0 if axis == plane else slice(0, 0) for axis in range(3)]
    if 0 <= first[plane] < shape[plane]:
        index[plane] = int(first[plane])
    flips = (slice(None, None, signs[0]), slice(None, None, signs[1]))
    low_axis, high_axis = sorted(axes)
    cut = (cuts[low_axis], cuts[high_axis])
    return Place(tuple(index), flips, axes[0] > axes[1], cut, outside)

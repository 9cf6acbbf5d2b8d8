"""DICOM RTSTRUCT: outlines in patient millimetres, filled on the grid of the image they lie on.

A voxel belongs to a region if its centre lies inside the outline or on it, to a thousandth of a
voxel. Outlines of one region on one slice combine by even and odd: an outline inside another is a
hole, whose edge still belongs to the region.

References
----------
.. [1] DICOM PS3.3 A.19, C.8.8.5 (structure set), C.8.8.6 (ROI contour: CLOSED_PLANAR, keyholes).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError, GeometryError, InputError
from maskloop.core.labels import Label
from maskloop.core.mask import Mask
from maskloop.formats.base import Format, as_kind, reading
from maskloop.formats.dicom_scan import Bounded, damaged, sop_class
from maskloop.formats.overlap import Layers, Piece, chosen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.core.labels import Kind

_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
_ON_EDGE = 1e-3  # of a voxel; outlines are written with four digits or so
_CROSSINGS = 1 << 20
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_Dataset = Any  # Any: pydicom's dataset, whose attributes are known at run time only
_Points = npt.NDArray[np.float64]


def sniff(path: Path) -> bool:
    """Whether a file holds a DICOM structure set."""
    return sop_class(path) == _SOP_CLASS


def read_mask(
    path: Path, *, image: Image | None, entry: str | int | None, kind: Kind | None, job: Job
) -> Mask:
    """Fill the outlines of a structure set on the grid of its image.

    Parameters
    ----------
    path : Path
        An RTSTRUCT file.
    image : Image
        The series it was drawn on; outlines alone have no grid.
    entry : str or int, optional
        The one region to read: its ROI number or its name.
    kind : {"classes", "objects"}, optional
        What the regions are read as.

    Raises
    ------
    FormatError
        If the file is damaged or no structure set.
    GeometryError
        If the outlines belong to another frame of reference, or do not lie on the slices.
    InputError
        If no image is given, or regions overlap and none is chosen; lists them.
    """
    file = _parsed(path)
    on = _required(image, file)
    layers = _laid(file, on, entry, job)
    layers.require_one(path, "ROI", {roi.row.id: n for n, roi in file.rois.items()})
    return _masks(file, layers, on, kind)[0]


def read_masks(path: Path, *, image: Image | None, kind: Kind | None, job: Job) -> list[Mask]:
    """Read a structure set as few masks as hold its regions without an overlap inside one."""
    file = _parsed(path)
    on = _required(image, file)
    return _masks(file, _laid(file, on, None, job), on, kind)


def inspect(path: Path, *, job: Job) -> dict[str, Any]:  # Any: plain JSON values
    """Return the regions of a structure set; without an image they have no voxels."""
    regions = [
        {
            "number": number,
            "name": roi.row.name,
            "colour": roi.row.colour,
            "outlines": len(roi.outlines),
            "points and open lines": roi.others,
        }
        for number, roi in _parsed(path).rois.items()
    ]
    return {"kind": "outlines", "regions": regions, "notes": list(job.notes)}


@dataclass(slots=True, eq=False)
class _Roi:
    """One region: its label, its closed outlines in RAS+ mm, what was left out."""

    row: Label
    frame_of_reference: str
    outlines: list[_Points] = field(default_factory=list)
    others: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _File:
    path: Path
    title: str
    rois: dict[int, _Roi]


def _parsed(path: Path) -> _File:
    import pydicom

    with reading(path), damaged(path, "DICOM structure set"):
        with Bounded(path) as stream:
            data = pydicom.dcmread(stream, force=True)
        if str(data.get("SOPClassUID", "")) != _SOP_CLASS:
            msg = (
                f"expected a DICOM structure set in {path.name}, got another kind of file; choose "
                "an RTSTRUCT file"
            )
            raise FormatError(msg)
        number = str(data.get("SeriesNumber") or "").strip()
        title = f"RTSTRUCT series {number}" if number.isdigit() else "RTSTRUCT"
        return _File(path, title, _rois(data))


def _rois(data: _Dataset) -> dict[int, _Roi]:
    shared = str(data.get("FrameOfReferenceUID") or "")
    stated = [int(roi.ROINumber) for roi in data.StructureSetROISequence]
    is_usable = min(stated, default=1) > 0 and len(set(stated)) == len(stated)
    rois = {}
    for order, roi in enumerate(data.StructureSetROISequence, start=1):
        number = int(roi.ROINumber)
        name = " ".join(str(roi.get("ROIName") or "").split()) or f"ROI {number}"
        row = Label(number if is_usable else order, name)
        rois[number] = _Roi(row, str(roi.get("ReferencedFrameOfReferenceUID") or shared))
    for drawn in data.get("ROIContourSequence") or ():
        found = rois.get(int(drawn.ReferencedROINumber))
        if found is None:
            continue
        rgb = drawn.get("ROIDisplayColor")
        if rgb is not None and len(rgb) == 3:
            values = [min(max(int(n), 0), 255) for n in rgb]
            colour = "#{:02x}{:02x}{:02x}".format(*values)
            found.row = Label(found.row.id, found.row.name, colour)
        for contour in drawn.get("ContourSequence") or ():
            points = _points(contour)
            if str(contour.get("ContourGeometricType", "")) in _CLOSED and len(points) > 2:
                found.outlines.append(points)
            else:
                found.others += 1
    return rois


def _points(contour: _Dataset) -> _Points:
    # Parsing a hundred thousand decimal strings one by one takes pydicom seconds.
    value = contour.get_item("ContourData").value
    if isinstance(value, bytes):
        value = value.strip(b" \0").split(b"\\") if value.strip(b" \0") else []
    flat = np.array([float(n) for n in value or ()], dtype=np.float64)
    if flat.size % 3 or not np.isfinite(flat).all():
        msg = "a contour is no list of finite points"
        raise ValueError(msg)
    points: _Points = flat.reshape(-1, 3) * _LPS_TO_RAS
    return points


def _required(image: Image | None, file: _File) -> Image:
    """Return the image; refuse none, pictures, and another frame of reference."""
    name = file.path.name
    if image is None:
        msg = (
            f"expected the image that {name} was drawn on, got none; outlines alone have no grid: "
            "pass the series' folder with --image"
        )
        raise InputError(msg)
    if image.geometry.ndim != 3 or image.geometry.unit != "mm":
        msg = (
            f"expected a volume in mm for {name}, got {image.name!r} ({image.geometry.shape}, "
            f"{image.geometry.unit}); choose the series it was drawn on"
        )
        raise GeometryError(msg)
    known = str(getattr(image.header, "frame_of_reference", "") or "")
    foreign = [roi for roi in file.rois.values() if roi.frame_of_reference not in ("", known)]
    if known and foreign:
        msg = (
            f"expected outlines in the frame of reference of {image.name!r}, got {name} with "
            f"{foreign[0].row.name!r} in another one; choose the series it was drawn on"
        )
        raise GeometryError(msg)
    return image


def _laid(file: _File, image: Image, entry: str | int | None, job: Job) -> Layers:
    rois = file.rois
    if entry is not None:
        number = chosen(entry, {n: roi.row for n, roi in rois.items()}, "ROI")
        rois = {number: rois[number]}
    layers = Layers(image.geometry.shape, max((r.row.id for r in rois.values()), default=0))
    tally = _Tally()
    for roi in job.track(list(rois.values()), "ROIs"):
        layers.add(roi.row, _pieces(roi, image, file, tally))
    tally.tell(file.path, image, job)
    left_out = {roi.row.name: roi.others for roi in rois.values() if roi.others}
    if left_out:
        listed = ", ".join(f"{n} of {name!r}" for name, n in left_out.items())
        job.say(f"{file.path.name}: points and open lines enclose nothing, left out: {listed}")
    if any(roi.row.id != number for number, roi in rois.items()):
        job.say(f"{file.path.name}: ROI numbers are no label ids, so the regions count from 1")
    return layers


@dataclass(slots=True, eq=False)
class _Tally:
    """What the person should know about the outlines of a file."""

    worst: float = 0.0
    outside: int = 0
    gaps: list[str] = field(default_factory=list)

    def tell(self, path: Path, image: Image, job: Job) -> None:
        if self.worst > 0.1:
            job.say(
                f"{path.name}: outlines lie up to {self.worst:.2f} of a slice beside the slices of "
                f"{image.name!r}; each was put on the nearest one"
            )
        if self.outside:
            job.say(f"{path.name}: {self.outside} outlines lie outside {image.name!r}: left out")
        if self.gaps:
            job.say(
                f"{path.name}: slices without an outline between others, left empty: "
                f"{', '.join(self.gaps)}"
            )


def _pieces(roi: _Roi, image: Image, file: _File, tally: _Tally) -> Iterator[Piece]:
    depth, *shape = image.geometry.shape
    on_level: dict[int, list[_Points]] = {}
    for outline in roi.outlines:
        index = image.geometry.to_index(outline)
        level = int(np.rint(np.clip(index[:, 0].mean(), -2, depth + 1)))
        off = float(np.abs(index[:, 0] - level).max())
        if not 0 <= level < depth:
            tally.outside += 1
            continue
        if off > 0.5 + _ON_EDGE:
            msg = (
                f"expected the outlines of {file.path.name} on the slices of {image.name!r}, got "
                f"one of {roi.row.name!r} that leaves its slice by {off:.2g} slices; it was drawn "
                "on other planes, choose that series"
            )
            raise GeometryError(msg)
        tally.worst = max(tally.worst, off)
        on_level.setdefault(level, []).append(index[:, 1:])
    levels = sorted(on_level)
    missing = levels[-1] - levels[0] + 1 - len(levels) if levels else 0
    if missing:
        tally.gaps.append(f"{missing} of {roi.row.name!r}")
    for level in levels:
        found = fill(on_level[level], (shape[0], shape[1]))
        if found is not None:
            box, region = found
            yield Piece((level, *box), region)


def fill(
    rings: list[_Points], shape: tuple[int, int]
) -> tuple[tuple[slice, slice], npt.NDArray[np.bool_]] | None:
    """Return the pixels whose centres lie inside the rings, or on one.

    Parameters
    ----------
    rings : list of array of shape (n, 2)
        Closed rings of ``(row, column)``; pixel centres lie at whole numbers. Several combine by
        even and odd.
    shape : tuple of int
        Rows and columns of the slice; what lies outside is cut off.

    Returns
    -------
    tuple or None
        A box of the slice and which of its pixels are inside; None where there are none.
    """
    every = np.concatenate(rings)
    low = np.clip(np.ceil(every.min(axis=0) - _ON_EDGE), 0, shape).astype(int)
    high = np.clip(np.floor(every.max(axis=0) + _ON_EDGE) + 1, 0, shape).astype(int)
    if (high <= low).any():
        return None
    height, width = (int(n) for n in high - low)
    switches = np.zeros((height, width + 1), np.int64)
    on_edge = np.zeros((height, width), bool)
    for ring in rings:
        # Far away points would make numbers that no whole number holds; crossings stay inside.
        ends = np.clip(ring - low, -1e9, 1e9)
        for start, end in _batches(ends, height):
            _cross(start, end, switches)
            _touch(start, end, on_edge)
    inside = (np.cumsum(switches, axis=1)[:, :-1] & 1).astype(bool) | on_edge
    box = (slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1])))
    return box, inside


def _batches(points: _Points, height: int) -> Iterator[tuple[_Points, _Points]]:
    """Yield the edges of a ring, few enough at a time for their crossings to fit in memory."""
    after = np.roll(points, -1, axis=0)
    size = max(1, _CROSSINGS // (height + 1))
    for at in range(0, len(points), size):
        yield points[at : at + size], after[at : at + size]


def _cross(start: _Points, end: _Points, switches: npt.NDArray[np.int64]) -> None:
    """Count, in place, where edges cross the centre lines of rows; a row's lower end is open."""
    height, width = switches.shape
    rows, x = _crossings(start, end, height, is_closed=False)
    columns = np.clip(np.ceil(x), 0, width - 1).astype(np.int64)
    switches += np.bincount(rows * width + columns, minlength=switches.size).reshape(height, width)


def _touch(start: _Points, end: _Points, on_edge: npt.NDArray[np.bool_]) -> None:
    """Mark, in place, the pixel centres that lie on an edge."""
    height, width = on_edge.shape
    rows, x = _crossings(start, end, height, is_closed=True)
    columns = np.clip(np.rint(x), -1, width).astype(np.int64)
    is_met = (np.abs(x - columns) < _ON_EDGE) & (columns >= 0) & (columns < width)
    on_edge[rows[is_met], columns[is_met]] = True
    level = np.rint(start[:, 0])
    is_flat = (np.abs(start[:, 0] - level) < _ON_EDGE) & (np.abs(end[:, 0] - level) < _ON_EDGE)
    for row, one, other in zip(
        level[is_flat].tolist(), start[is_flat, 1].tolist(), end[is_flat, 1].tolist(), strict=True
    ):
        if 0 <= row < height:
            first = max(int(np.ceil(min(one, other) - _ON_EDGE)), 0)
            last = min(int(np.floor(max(one, other) + _ON_EDGE)), width - 1)
            on_edge[int(row), first : max(last + 1, first)] = True


def _crossings(
    start: _Points, end: _Points, height: int, *, is_closed: bool
) -> tuple[npt.NDArray[np.int64], _Points]:
    """Return the row and the column at which edges cross the centre lines of rows."""
    low, high = np.minimum(start[:, 0], end[:, 0]), np.maximum(start[:, 0], end[:, 0])
    if is_closed:
        firsts, lasts = np.ceil(low - _ON_EDGE), np.floor(high + _ON_EDGE)
    else:
        firsts, lasts = np.ceil(low), np.ceil(high) - 1
    firsts = np.clip(firsts, 0, height).astype(np.int64)
    lasts = np.clip(lasts, -1, height - 1).astype(np.int64)
    counts = np.where(high > low, np.maximum(lasts - firsts + 1, 0), 0)
    edge = np.repeat(np.arange(len(counts)), counts)
    rows = firsts[edge] + np.arange(edge.size) - np.repeat(np.cumsum(counts) - counts, counts)
    share = (rows - start[edge, 0]) / (end[edge, 0] - start[edge, 0])
    share = np.clip(share, 0, 1)
    return rows, start[edge, 1] + share * (end[edge, 1] - start[edge, 1])


def _masks(file: _File, layers: Layers, image: Image, kind: Kind | None) -> list[Mask]:
    return [
        Mask(
            ids,
            image.geometry,
            as_kind(table, kind),
            file.path,
            image.header,
            title=file.title,
        )
        for ids, table in layers.found()
    ]


FORMAT = Format(
    name="rtstruct",
    title="DICOM structure set (RTSTRUCT)",
    suffixes=(".rtstruct.dcm",),
    sniff=sniff,
    read_mask=read_mask,
    read_masks=read_masks,
    inspect=inspect,
    has_entries=True,
    proof="synthetic data only",
)

"""A second reader of DICOM SEG on pydicom alone: unpacks the bits, places frames by position.

It shares no code with the writer or with the reader that goes through highdicom.

References
----------
.. [1] DICOM PS3.3 C.8.20.2 (segmentation image), C.7.6.16 (functional groups); PS3.5 8.1.1 (bits).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError
from maskloop.core.geometry import Geometry
from maskloop.formats.base import Evidence

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_Dataset = Any  # Any: pydicom's dataset, whose attributes are known at run time only


def read(path: Path) -> Evidence:
    """Read an uncompressed BINARY, LABELMAP or FRACTIONAL segmentation without overlaps.

    Returns
    -------
    Evidence
        Ids on the grid that the frames' positions make, and the segments' names.

    Raises
    ------
    FormatError
        If segments overlap, or the pixels are compressed.
    """
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(path)
        if data.file_meta.TransferSyntaxUID.is_compressed:
            msg = f"expected uncompressed pixels in {path.name}, got others; write it uncompressed"
            raise FormatError(msg)
        groups = list(data.PerFrameFunctionalGroupsSequence)
        shared = data.SharedFunctionalGroupsSequence[0]
        affine, levels = _lattice(groups, shared)
        numbers = _ids(data.SegmentSequence)
        shape = max(levels) + 1, int(data.Rows), int(data.Columns)
        ids = np.zeros(shape, np.min_scalar_type(max(numbers.values())))
        for level, group, plane in zip(levels, groups, _planes(data), strict=True):
            found = _painted(data, group, shared, plane, numbers)
            if (ids[level][found > 0] > 0).any():
                msg = f"expected segments without overlap in {path.name}, got some; split them"
                raise FormatError(msg)
            ids[level] += found.astype(ids.dtype)
        names = {
            numbers[int(s.SegmentNumber)]: str(s.SegmentLabel)
            for s in data.SegmentSequence
            if numbers.get(int(s.SegmentNumber))
        }
    return Evidence(ids, Geometry(ids.shape, affine, "mm"), names)


def _ids(segments: _Dataset) -> dict[int, int]:
    """Return the label id of each segment number; 0 for the placeholder of an empty mask."""
    ids = {0: 0}
    for segment in segments:
        number = int(segment.SegmentNumber)
        words = str(segment.get("SegmentDescription", "")).split("[")[-1].rstrip("] ").split()
        if words == ["no", "label"]:
            ids[number] = 0
        elif words[:2] == ["label", "id"]:
            ids[number] = int(words[2])
        else:
            ids[number] = number
    return ids


def _planes(data: _Dataset) -> Iterator[npt.NDArray[Any]]:
    """Yield the stored values of each frame, (rows, columns)."""
    shape = int(data.Rows), int(data.Columns)
    size, bits = shape[0] * shape[1], int(data.BitsAllocated)
    stored = np.frombuffer(data.PixelData, np.uint8)
    for number in range(int(data.get("NumberOfFrames", 1))):
        start, stop = number * size * bits, (number + 1) * size * bits
        part = stored[start // 8 : -(-stop // 8)]
        if bits == 1:
            # PS3.5 8.1.1: the first pixel is the least significant bit; frames follow without gaps.
            part = np.unpackbits(part, bitorder="little")[start % 8 :][:size]
        yield part.view("<u2" if bits == 16 else np.uint8).reshape(shape)


def _painted(
    data: _Dataset,
    group: _Dataset,
    shared: _Dataset,
    plane: npt.NDArray[Any],
    ids: dict[int, int],
) -> npt.NDArray[np.uint32]:
    if data.SegmentationType == "LABELMAP":
        table = np.zeros(65536, np.uint32)
        table[list(ids)] = list(ids.values())
        return np.asarray(table[plane])
    segment = _item(group, shared, "SegmentIdentificationSequence")
    number = ids[int(segment.ReferencedSegmentNumber)]
    least = int(data.MaximumFractionalValue) / 2 if data.SegmentationType == "FRACTIONAL" else 1
    return np.where(plane >= least, np.uint32(number), np.uint32(0))


def _item(group: _Dataset, shared: _Dataset, name: str) -> _Dataset:
    return (group if name in group else shared)[name].value[0]


def _lattice(groups: list[_Dataset], shared: _Dataset) -> tuple[npt.NDArray[np.float64], list[int]]:
    """Return the affine of (z, y, x) to RAS+ mm, and the plane that each frame lies on."""
    places = [
        [float(n) for n in _item(g, shared, "PlanePositionSequence").ImagePositionPatient]
        for g in groups
    ]
    turn = _item(groups[0], shared, "PlaneOrientationSequence").ImageOrientationPatient
    measures = _item(groups[0], shared, "PixelMeasuresSequence")
    x1, y1, z1, x2, y2, z2 = (float(n) for n in turn)
    normal = (y1 * z2 - z1 * y2, z1 * x2 - x1 * z2, x1 * y2 - y1 * x2)
    heights = [sum(a * b for a, b in zip(p, normal, strict=True)) for p in places]
    low, high = min(heights), max(heights)
    spacing = float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 0)
    others = sorted({round(h - low, 4) for h in heights} - {0.0})
    if others and (not spacing or spacing > others[0] * 1.05):
        spacing = others[0]
    levels = [round((h - low) / spacing) for h in heights]
    first, last = (np.array(places[heights.index(h)]) for h in (low, high))
    step = (last - first) / max(levels) if max(levels) else spacing * np.array(normal)
    row, column = (float(n) for n in measures.PixelSpacing)
    affine = np.zeros((4, 4))
    affine[:3, 0], affine[:3, 3], affine[3, 3] = step, first, 1
    affine[:3, 1] = np.array((x2, y2, z2)) * row
    affine[:3, 2] = np.array((x1, y1, z1)) * column
    affine[:2] *= -1
    return affine, levels

"""DICOM SEG: segmentations read and written through highdicom, placed by their positions.

A segment's label id stands at the end of its SegmentDescription, ``[label id 300]``, because
segment numbers must run from 1 without gaps; files of other programs give the segment number as
the id. A file written here holds no identity unless asked: only the UIDs of the study, the frame
of reference and the source images, without which no viewer could place it.

References
----------
.. [1] DICOM PS3.3 A.51 and C.8.20 (Segmentation), C.7.6.16 (multi-frame functional groups);
   C.7.6.16.2.1.1 (pixel measures); C.7.1.1 and C.12.1.1.7 (patient identity removed).
.. [2] C. P. Bridge et al., "Highdicom: a Python library for standardized encoding of image
   annotations and machine learning model outputs", J. Digit. Imaging, 2022.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maskloop.core.mask import Mask
from maskloop.formats.base import Evidence, Format, Target, as_kind, read_sidecar
from maskloop.formats.dicom_head import DicomHeader
from maskloop.formats.dicom_scan import damaged, sop_class
from maskloop.formats.dicomseg_file import (
    SOP_CLASSES,
    WHAT,
    SegFile,
    opened,
    require_described,
    stored_frame,
)
from maskloop.formats.dicomseg_place import Place, own_grid, own_places, places_on
from maskloop.formats.dicomseg_source import SegHeader, codes_of
from maskloop.formats.dicomseg_write import plan, write_mask
from maskloop.formats.overlap import Layers, chosen, cropped

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.core.labels import Kind, Label, LabelTable


def sniff(path: Path) -> bool:
    """Whether a file holds a DICOM segmentation."""
    return sop_class(path) in SOP_CLASSES


def read_mask(
    path: Path, *, image: Image | None, entry: str | int | None, kind: Kind | None, job: Job
) -> Mask:
    """Read a segmentation as one mask.

    Parameters
    ----------
    path : Path
        A SEG file: BINARY, LABELMAP or FRACTIONAL.
    image : Image, optional
        The image it was drawn on: every frame is placed on its grid by position. Without it, the
        frames' own positions make the grid; frames that were left out as empty become zeros.
    entry : str or int, optional
        The one segment to read: its number, its name or its label id.
    kind : {"classes", "objects"}, optional
        What the segments are read as.

    Raises
    ------
    FormatError
        If the file is damaged or no segmentation.
    GeometryError
        If the frames are no regular stack, or do not lie on the image's slices.
    InputError
        If segments overlap and none is chosen; lists them.
    MissingExtraError
        If highdicom is not installed.
    """
    file = opened(path, job)
    layers = _laid(file, image, entry, job)
    layers.require_one(path, "segment", {row.id: n for n, row in file.rows.items()})
    return _masks(file, layers, image, kind)[0]


def read_masks(path: Path, *, image: Image | None, kind: Kind | None, job: Job) -> list[Mask]:
    """Read a segmentation as few masks as hold its segments without an overlap inside one."""
    file = opened(path, job)
    return _masks(file, _laid(file, image, None, job), image, kind)


def reread(to: Target) -> Evidence:
    """Read the file again with pydicom alone."""
    from maskloop.formats import dicomseg_plain

    return dicomseg_plain.read(to.path)


def _laid(file: SegFile, image: Image | None, entry: str | int | None, job: Job) -> Layers:
    """Return the segments in layers without overlaps, on the image's grid or on their own."""
    rows = file.rows
    if entry is not None:
        number = chosen(entry, rows, "segment")
        rows = {number: rows[number]}
    grid = own_grid(file) if image is None else image.geometry
    places = own_places(file, grid) if image is None else places_on(file, image, job)
    layers = Layers(grid.shape, max((r.id for r in rows.values()), default=0))
    with damaged(file.path, WHAT):
        if file.kind == "LABELMAP":
            _lay_map(file, rows, places, layers, job)
        else:
            _lay_segments(file, rows, places, layers, job)
    return layers


def _lay_segments(
    file: SegFile, rows: Mapping[int, Label], places: list[Place], layers: Layers, job: Job
) -> None:
    highest = int(file.seg.get("MaximumFractionalValue") or 255)
    is_fractional = file.kind == "FRACTIONAL"
    if is_fractional:
        stated = str(file.seg.get("SegmentationFractionalType") or "")
        words = {"PROBABILITY": "a probability", "OCCUPANCY": "an occupancy"}
        what = words.get(stated, "a fraction")
        job.say(
            f"{file.path.name} holds {what} for each voxel: voxels of at least half of its maximum "
            f"({highest}) were taken"
        )
    frames: dict[int, list[int]] = {}
    for at, number in enumerate(file.numbers):
        frames.setdefault(number, []).append(at)
    require_described(file, frames)
    for number, row in job.track(list(rows.items()), "segments"):
        pieces = []
        for at in frames.get(number, ()):
            stored = stored_frame(file, at)
            region = stored != 0
            if is_fractional:
                region &= stored.astype(np.int64) * 2 >= highest
            index, turned = places[at].turned(region)
            piece = cropped(index, turned)
            if piece is not None:
                pieces.append(piece)
        layers.add(row, pieces)


def _lay_map(
    file: SegFile, rows: Mapping[int, Label], places: list[Place], layers: Layers, job: Job
) -> None:
    """Paint a label map through a table of ids; nothing can overlap in it."""
    table = np.zeros(1 << int(file.seg.BitsAllocated), np.uint32)
    for number, row in rows.items():
        table[number] = row.id
    layer = layers.blank()
    for at in job.track(range(len(file.numbers)), "frames"):
        stored = stored_frame(file, at)
        require_described(file, np.unique(stored).tolist())
        index, ids = places[at].turned(table[stored])
        np.copyto(layer.ids[index], ids, where=ids != 0, casting="unsafe")
    layer.rows.update((row.id, row) for row in rows.values())


def _masks(file: SegFile, layers: Layers, image: Image | None, kind: Kind | None) -> list[Mask]:
    grid = own_grid(file) if image is None else image.geometry
    side = read_sidecar(file.path)
    number = str(file.seg.get("SeriesNumber") or "").strip()
    segments = {int(s.SegmentNumber): s for s in file.seg.SegmentSequence}
    codes = {row.id: codes_of(segments[n]) for n, row in file.rows.items()}
    onto = None if image is None else image.header
    header = SegHeader(file.path, onto if isinstance(onto, DicomHeader) else None, codes)
    return [
        Mask(
            ids,
            grid,
            as_kind(_with_side(table, side), kind),
            file.path,
            header,
            title=f"SEG series {number}" if number.isdigit() else "SEG",
        )
        for ids, table in layers.found()
    ]


def _with_side(table: LabelTable, side: LabelTable | None) -> LabelTable:
    """Return the table with what only the sidecar knows of a label of the same id and name."""
    if side is None:
        return table
    return table.with_rows(
        side[i] for i, row in table.items() if i in side and side[i].name == row.name
    )


FORMAT = Format(
    name="dicomseg",
    title="DICOM segmentation (SEG)",
    suffixes=(".seg.dcm",),
    sniff=sniff,
    read_mask=read_mask,
    read_masks=read_masks,
    write_mask=write_mask,
    plan=plan,
    reread=reread,
    reader="maskloop's second SEG reader, on pydicom alone",
    has_sidecar=True,
    has_entries=True,
    can_keep_phi=True,
    proof="real data",
)

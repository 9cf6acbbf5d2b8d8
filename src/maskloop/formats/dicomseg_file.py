"""A DICOM segmentation parsed through highdicom, its claims checked against its size first.

References
----------
.. [1] DICOM PS3.3 C.8.20.2 (segmentation image), C.8.20.4 (segment description), C.7.6.16
   (functional groups).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError, GeometryError, MissingExtraError
from maskloop.core.labels import Label
from maskloop.formats.base import reading
from maskloop.formats.dicom_scan import Bounded, damaged
from maskloop.formats.dicomseg_source import NO_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from maskloop.core.geometry import Affine
    from maskloop.core.job import Job

WHAT = "DICOM segmentation"
SOP_CLASSES = frozenset(("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"))
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
_ID = re.compile(r"\[label id (\d{1,9})\]\s*$")
# A blank frame of 512 x 512 takes about 50 bytes in the densest lossless syntax.
_DENSEST = 20_000
_FARTHEST = 1e7
_KINDS = ("BINARY", "FRACTIONAL", "LABELMAP")
# Not GDCM: it ends the whole process when a compressed frame is damaged.
_DECODERS = ("pydicom", "pyjpegls", "pylibjpeg", "pillow")
_Dataset = Any  # Any: pydicom's dataset, whose attributes are known at run time only


@dataclass(frozen=True, slots=True, eq=False)
class SegFile:
    """A parsed segmentation.

    Parameters
    ----------
    path : Path
        The file.
    seg : dataset
        highdicom's segmentation.
    kind : str
        ``"BINARY"``, ``"FRACTIONAL"`` or ``"LABELMAP"``.
    rows : dict of int to Label
        What each segment number means.
    numbers : list of int
        Segment number of each frame; 0 for label maps.
    origins, down, right : array of shape (frames, 3)
        World point of each frame's first voxel, and its steps to the next row and column; RAS+ mm.
    depth : float
        Stated step between slices in mm, 0 where there is none.
    """

    path: Path
    seg: _Dataset
    kind: str
    rows: dict[int, Label]
    numbers: list[int]
    origins: Affine
    down: Affine
    right: Affine
    depth: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a frame."""
        return int(self.seg.Rows), int(self.seg.Columns)


def opened(path: Path, job: Job) -> SegFile:
    """Return the parsed file, its claims checked against its size first."""
    try:
        import highdicom
        import pydicom
    except ImportError as error:
        msg = (
            "expected highdicom for DICOM segmentations, got no such package; "
            "pip install 'napari-maskloop[dicom]'"
        )
        raise MissingExtraError(msg) from error
    job.report("read", 0, 0)
    with reading(path), damaged(path, WHAT), Bounded(path) as stream:
        data = pydicom.dcmread(stream, force=True)
        if str(data.get("SOPClassUID", "")) not in SOP_CLASSES:
            msg = (
                f"expected a DICOM segmentation in {path.name}, got another kind of file; choose a "
                "SEG file, or load it as an image"
            )
            raise FormatError(msg)
        _require_frames(data, path)
        seg = highdicom.seg.Segmentation.from_dataset(data, copy=False)
        return _parsed(seg, path)


def _require_frames(data: _Dataset, path: Path) -> None:
    """Refuse headers that claim more than the file holds, and frames without a place in 3D."""
    syntax = data.file_meta.TransferSyntaxUID
    if not syntax.is_transfer_syntax:
        msg = (
            f"expected an encoding that pydicom knows in {path.name}, got {str(syntax)[:64]!r}; "
            "write the segmentation uncompressed"
        )
        raise FormatError(msg)
    rows, columns, bits = int(data.Rows), int(data.Columns), int(data.BitsAllocated)
    frames = int(data.get("NumberOfFrames", 1) or 1)
    held = len(data.PixelData)
    is_native = not syntax.is_encapsulated
    fits = frames * rows * columns * bits <= 8 * held
    if bits not in (1, 8, 16):
        msg = (
            f"expected 1, 8 or 16 bits a pixel in {path.name}, got {bits}; the header is damaged: "
            "copy the file again"
        )
        raise FormatError(msg)
    if min(rows, columns, frames) < 1 or not (
        fits if is_native else frames * rows * columns <= _DENSEST * held
    ):
        msg = (
            f"expected the pixels of {frames} frames of {columns}x{rows} in {path.name}, got "
            f"{held} bytes; the file was cut short or its header is damaged: copy it again"
        )
        raise FormatError(msg)
    groups = data.get("PerFrameFunctionalGroupsSequence") or ()
    is_slide = any("PlanePositionSlideSequence" in g for g in groups)
    if is_slide or str(data.get("DimensionOrganizationType", "")) == "TILED_FULL":
        msg = (
            f"expected frames that are slices of a volume in {path.name}, got tiles of a "
            "microscope slide; such segmentations cannot be read yet"
        )
        raise FormatError(msg)
    if len(groups) != frames:
        msg = (
            f"expected a position for each of the {frames} frames of {path.name}, got "
            f"{len(groups)}; the file is damaged: copy it again"
        )
        raise FormatError(msg)


def _parsed(seg: _Dataset, path: Path) -> SegFile:
    kind = str(seg.SegmentationType)
    if kind not in _KINDS:
        msg = (
            f"expected a segmentation of type {', '.join(_KINDS)} in {path.name}, got another; the "
            "header is damaged: copy the file again"
        )
        raise FormatError(msg)
    shared = (seg.get("SharedFunctionalGroupsSequence") or [{}])[0]
    frames = list(seg.PerFrameFunctionalGroupsSequence)

    def of(frame: _Dataset, group: str) -> _Dataset:
        found = frame.get(group) or shared.get(group)
        return found[0] if found else None

    if any(of(f, "PlanePositionSequence") is None for f in frames) or any(
        of(f, "PlaneOrientationSequence") is None for f in frames
    ):
        msg = (
            f"expected the position and orientation of every frame in {path.name}, got none; a "
            "segmentation of a projection picture (X-ray) has no place in space and cannot be read "
            "yet"
        )
        raise GeometryError(msg)
    places = [of(f, "PlanePositionSequence").ImagePositionPatient for f in frames]
    turns = [of(f, "PlaneOrientationSequence").ImageOrientationPatient for f in frames]
    measures = [of(f, "PixelMeasuresSequence") for f in frames]
    spacing = np.array([m.PixelSpacing for m in measures], np.float64).reshape(-1, 2)
    axes = np.array(turns, np.float64).reshape(-1, 2, 3) * _LPS_TO_RAS
    origins = np.array(places, np.float64).reshape(-1, 3) * _LPS_TO_RAS
    numbers_are_sane = all(
        (np.isfinite(n) & (np.abs(n) < _FARTHEST)).all() for n in (axes, origins, spacing)
    )
    if not numbers_are_sane or not (spacing > 0).all():
        msg = (
            f"expected positions within {_FARTHEST:g} mm and spacings above 0 in {path.name}, got "
            "others; the header is damaged: copy the file again"
        )
        raise FormatError(msg)
    lengths = np.linalg.norm(axes, axis=2)
    if not np.allclose(lengths, 1, atol=1e-3) or np.abs((axes[:, 0] * axes[:, 1]).sum(1)).max() > (
        1e-3
    ):
        msg = (
            f"expected two orthogonal unit vectors as orientation in {path.name}, got others; the "
            "header is damaged: copy the file again"
        )
        raise GeometryError(msg)
    axes /= lengths[..., None]
    depth = abs(float(measures[0].get("SpacingBetweenSlices") or 0)) or abs(
        float(measures[0].get("SliceThickness") or 0)
    )
    numbers = [
        0
        if kind == "LABELMAP"
        else int(of(f, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        for f in frames
    ]
    return SegFile(
        path=path,
        seg=seg,
        kind=kind,
        rows=_rows(seg.SegmentSequence),
        numbers=numbers,
        origins=origins,
        down=axes[:, 1] * spacing[:, :1],
        right=axes[:, 0] * spacing[:, 1:],
        depth=depth if np.isfinite(depth) else 0.0,
    )


def _rows(segments: _Dataset) -> dict[int, Label]:
    """Return a label for each segment number; the placeholder of an empty mask has none."""
    import highdicom

    texts = {int(s.SegmentNumber): str(s.get("SegmentDescription") or "") for s in segments}
    ids = _label_ids(texts)
    rows = {}
    for segment in segments:
        number = int(segment.SegmentNumber)
        if number < 1 or texts[number] == NO_LABEL:
            continue
        name = " ".join(str(segment.get("SegmentLabel") or "").split()) or f"segment {number}"
        lab = segment.get("RecommendedDisplayCIELabValue")
        colour = ""
        if lab is not None and len(lab) == 3:
            rgb = highdicom.color.CIELabColor.from_dicom_value(list(lab)).to_rgb(clip=True)
            colour = "#{:02x}{:02x}{:02x}".format(*rgb)
        rows[number] = Label(ids[number], name, colour)
    return dict(sorted(rows.items()))


def _label_ids(texts: Mapping[int, str]) -> dict[int, int]:
    """Return a label id for each segment number: the stated one, else the number, else a free one.

    Another program may have added segments to a file of ours, or copied one with its description.
    """
    stated = {n: int(m[1]) for n, t in texts.items() if (m := _ID.search(t)) and int(m[1]) > 0}
    uses = Counter(stated.values())
    ids = {n: i for n, i in stated.items() if uses[i] == 1}
    taken = set(ids.values())
    free = (n for n in count(max([*texts, *taken], default=0) + 1))
    for number in sorted(set(texts) - set(ids)):
        ids[number] = number if number not in taken else next(free)
        taken.add(ids[number])
    return ids


def stored_frame(file: SegFile, at: int) -> npt.NDArray[Any]:
    """Return the stored values of a frame."""
    syntax = file.seg.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return np.asarray(file.seg.get_stored_frame(at + 1))
    from pydicom.pixels.decoders.base import get_decoder

    try:
        decoder = get_decoder(syntax)
        usable = [name for name in _DECODERS if name in decoder.available_plugins]
    except NotImplementedError:
        usable = []
    if not usable:
        msg = (
            f"expected pixels that can be decoded in {file.path.name}, got {syntax.name!r} without "
            "its decoder; pip install 'napari-maskloop[dicom]', or write the file uncompressed"
        )
        raise MissingExtraError(msg)
    values, _ = decoder.as_array(file.seg, index=at, decoding_plugin=usable[0])
    if values.shape != file.shape:
        msg = f"frames of shape {values.shape}"
        raise ValueError(msg)
    return np.asarray(values)


def require_described(file: SegFile, numbers: Iterable[int]) -> None:
    """Raise `FormatError` if a segment number above 0 has no description."""
    described = {int(s.SegmentNumber) for s in file.seg.SegmentSequence}
    strangers = sorted(set(numbers) - described - {0})
    if strangers:
        msg = (
            f"expected frames of described segments in {file.path.name}, got segment "
            f"{strangers[0]}; the file is damaged"
        )
        raise FormatError(msg)

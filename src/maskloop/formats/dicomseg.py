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

import re
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import (
    FormatError,
    GeometryError,
    MaskloopError,
    MissingExtraError,
)
from maskloop.core.geometry import Affine, Geometry
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.formats.base import Evidence, Format, Target, as_kind, read_sidecar, reading
from maskloop.formats.dicom_head import DicomHeader
from maskloop.formats.dicomseg_write import NO_LABEL, SegHeader, codes_of, plan, write_mask
from maskloop.formats.overlap import Index, Layers, chosen, cropped

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.core.labels import Kind

SOP_CLASSES = frozenset(("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"))
LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
_ID = re.compile(r"\[label id (\d{1,9})\]\s*$")
# A blank frame of 512 x 512 takes about 50 bytes in the densest lossless syntax.
_DENSEST = 20_000
_FARTHEST = 1e7
_KINDS = ("BINARY", "FRACTIONAL", "LABELMAP")
# Not GDCM: it ends the whole process when a compressed frame is damaged.
_DECODERS = ("pydicom", "pyjpegls", "pylibjpeg", "pillow")
_Dataset = Any  # Any: pydicom's dataset, whose attributes are known at run time only


def sniff(path: Path) -> bool:
    """Whether a file holds a DICOM segmentation."""
    return sop_class(path) in SOP_CLASSES


def sop_class(path: Path) -> str:
    """Return the SOP class UID of a DICOM file from its first bytes; empty where there is none."""
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
    except OSError:
        return ""
    if head[128:132] == b"DICM":
        return _uid_after(head, b"\x02\x00\x02\x00")
    return _uid_after(head, b"\x08\x00\x16\x00") if head[:1] == b"\x08" else ""


def _uid_after(head: bytes, tag: bytes) -> str:
    at = head.find(tag)
    if at < 0:
        return ""
    length = head[at + 6 : at + 8] if head[at + 4 : at + 6] == b"UI" else head[at + 4 : at + 6]
    value = head[at + 8 : at + 8 + int.from_bytes(length, "little")]
    return value.rstrip(b"\0 ").decode("ascii", "replace")


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
    file = _opened(path, job)
    layers = _laid(file, image, entry, job)
    layers.require_one(path, "segment", {row.id: n for n, row in file.rows.items()})
    return _masks(file, layers, image, kind)[0]


def read_masks(path: Path, *, image: Image | None, kind: Kind | None, job: Job) -> list[Mask]:
    """Read a segmentation as few masks as hold its segments without an overlap inside one."""
    file = _opened(path, job)
    return _masks(file, _laid(file, image, None, job), image, kind)


def reread(to: Target) -> Evidence:
    """Read the file again with pydicom alone."""
    from maskloop.formats import dicomseg_plain

    return dicomseg_plain.read(to.path)


@dataclass(frozen=True, slots=True, eq=False)
class _File:
    """A parsed segmentation; frame arrays are in RAS+ mm, in the order of the frames."""

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
        return int(self.seg.Rows), int(self.seg.Columns)


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    """Turn what libraries raise for a damaged file into a `FormatError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (MaskloopError, MemoryError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        # Any error can come out of a damaged file, and its own words may quote values of it.
        msg = (
            f"expected a whole DICOM segmentation in {path.name}, got {type(error).__name__} while "
            "reading it; copy the file again"
        )
        raise FormatError(msg) from error


def _opened(path: Path, job: Job) -> _File:
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
    with reading(path), _damaged(path):
        try:
            data = pydicom.dcmread(path)
        except pydicom.errors.InvalidDicomError:
            data = pydicom.dcmread(path, force=True)
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
    rows, columns, bits = int(data.Rows), int(data.Columns), int(data.BitsAllocated)
    frames = int(data.get("NumberOfFrames", 1) or 1)
    held = len(data.PixelData)
    is_native = not data.file_meta.TransferSyntaxUID.is_encapsulated
    fits = frames * rows * columns * bits <= 8 * held
    if min(rows, columns, frames, bits) < 1 or not (
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


def _parsed(seg: _Dataset, path: Path) -> _File:
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
    axes = np.array(turns, np.float64).reshape(-1, 2, 3) * LPS_TO_RAS
    origins = np.array(places, np.float64).reshape(-1, 3) * LPS_TO_RAS
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
    return _File(
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


def _laid(file: _File, image: Image | None, entry: str | int | None, job: Job) -> Layers:
    """Return the segments in layers without overlaps, on the image's grid or on their own."""
    rows = file.rows
    if entry is not None:
        number = chosen(entry, rows, "segment")
        rows = {number: rows[number]}
    grid = _own_grid(file) if image is None else image.geometry
    places = _own_places(file, grid) if image is None else _places_on(file, image, job)
    layers = Layers(grid.shape, max((r.id for r in rows.values()), default=0))
    with _damaged(file.path):
        if file.kind == "LABELMAP":
            _lay_map(file, rows, places, layers, job)
        else:
            _lay_segments(file, rows, places, layers, job)
    return layers


def _lay_segments(
    file: _File, rows: Mapping[int, Label], places: list[_Place], layers: Layers, job: Job
) -> None:
    highest = int(file.seg.get("MaximumFractionalValue") or 255)
    is_fractional = file.kind == "FRACTIONAL"
    if is_fractional:
        what = str(file.seg.get("SegmentationFractionalType") or "fraction").lower()
        job.say(
            f"{file.path.name} holds a {what} for each voxel: voxels of at least half of its "
            f"maximum ({highest}) were taken"
        )
    frames: dict[int, list[int]] = {}
    for at, number in enumerate(file.numbers):
        frames.setdefault(number, []).append(at)
    _require_described(file, frames)
    for number, row in job.track(list(rows.items()), "segments"):
        pieces = []
        for at in frames.get(number, ()):
            stored = _frame(file, at)
            region = stored != 0
            if is_fractional:
                region &= stored.astype(np.int64) * 2 >= highest
            index, turned = places[at].turned(region)
            piece = cropped(index, turned)
            if piece is not None:
                pieces.append(piece)
        layers.add(row, pieces)


def _lay_map(
    file: _File, rows: Mapping[int, Label], places: list[_Place], layers: Layers, job: Job
) -> None:
    """Paint a label map through a table of ids; nothing can overlap in it."""
    table = np.zeros(1 << int(file.seg.BitsAllocated), np.uint32)
    for number, row in rows.items():
        table[number] = row.id
    layer = layers.blank()
    for at in job.track(range(len(file.numbers)), "frames"):
        stored = _frame(file, at)
        _require_described(file, np.unique(stored).tolist())
        index, ids = places[at].turned(table[stored])
        np.copyto(layer.ids[index], ids, where=ids != 0, casting="unsafe")
    layer.rows.extend(rows.values())


def _frame(file: _File, at: int) -> npt.NDArray[Any]:
    """Return the stored values of a frame."""
    syntax = file.seg.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return np.asarray(file.seg.get_stored_frame(at + 1))
    from pydicom.pixels.decoders.base import get_decoder

    decoder = get_decoder(syntax)
    usable = [name for name in _DECODERS if name in decoder.available_plugins]
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


def _require_described(file: _File, numbers: Iterable[int]) -> None:
    described = {int(s.SegmentNumber) for s in file.seg.SegmentSequence}
    strangers = sorted(set(numbers) - described - {0})
    if strangers:
        msg = (
            f"expected frames of described segments in {file.path.name}, got segment "
            f"{strangers[0]}; the file is damaged"
        )
        raise FormatError(msg)


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
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


def _own_places(file: _File, grid: Geometry) -> list[_Place]:
    """Return where each frame goes on the grid that the frames make."""
    levels = np.rint(grid.to_index(file.origins)[:, 0]).astype(int)
    whole = slice(None)
    box = tuple(slice(0, n) for n in file.shape)
    return [_Place((int(k), *box), (whole, whole), False, (whole, whole), "") for k in levels]


def _own_grid(file: _File) -> Geometry:
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


def _counts(planes: npt.NDArray[np.float64], file: _File, frames: int) -> npt.NDArray[np.int64]:
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


def _places_on(file: _File, image: Image, job: Job) -> list[_Place]:
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
    file: _File,
    image: Image,
    number: int,
) -> _Place:
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
    return _Place(tuple(index), flips, axes[0] > axes[1], cut, outside)


def _masks(file: _File, layers: Layers, image: Image | None, kind: Kind | None) -> list[Mask]:
    grid = _own_grid(file) if image is None else image.geometry
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
    reader="maskloop's plain SEG reader (pydicom)",
    has_sidecar=True,
    proof="real data",
)

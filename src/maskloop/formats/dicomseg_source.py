"""What a DICOM segmentation was drawn on, and what its labels are coded as; no free text.

The writer learns of the source images through this alone.

References
----------
.. [1] DICOM PS3.3 C.8.20.4 (segment description), 8.8 (coded meanings), C.7.6.16.2.6 (derivation
   image); PS3.5 B.2 (UIDs made from UUIDs).
"""

from __future__ import annotations

import hashlib
import uuid
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core.errors import InputError
from maskloop.formats.base import reading
from maskloop.formats.dicom_head import DicomHeader

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from maskloop.core.mask import Mask

NO_LABEL = "[no label]"
LPS = np.array([-1.0, -1.0, 1.0])
_CODE_PARTS = (
    *("CodeValue", "LongCodeValue", "URNCodeValue"),
    *("CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning"),
)
CODED = (
    "SegmentedPropertyCategoryCodeSequence",
    "SegmentedPropertyTypeCodeSequence",
    "SegmentedPropertyTypeModifierCodeSequence",
    "AnatomicRegionSequence",
    "AnatomicRegionModifierSequence",
    "PrimaryAnatomicStructureSequence",
    "PrimaryAnatomicStructureModifierSequence",
)
_Dataset = Any  # Any: pydicom's dataset, whose attributes are known at run time only


@dataclass(frozen=True, slots=True, eq=False)
class SegHeader:
    """What of a segmentation is written back as it was.

    Parameters
    ----------
    path : Path
        The file.
    series : DicomHeader, optional
        Header of the DICOM image it was read onto.
    codes : mapping of int to (str, dataset)
        Name and coded meaning of each label id: category, type, modifiers, regions; no free text.
    """

    path: Path
    series: DicomHeader | None = None
    codes: Mapping[int, tuple[str, _Dataset]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ref:
    """One source image, or one frame of it."""

    series: str
    sop_class: str
    instance: str
    frame: int | None = None
    is_same_place: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """A planned mask's header: where it came from, plane by plane, and what its labels mean.

    Parameters
    ----------
    study, frame_of_reference : str
        UIDs.
    number : int
        Series number to write.
    planes : list of list of Ref
        What each plane of the array was drawn on; empty lists where that is not known.
    others : list of Ref
        All source images.
    codes : mapping
        As of `SegHeader`.
    identity : Path, optional
        A file that knows the patient; read only if identity is to be kept.
    """

    study: str
    frame_of_reference: str
    number: int
    planes: list[list[Ref]]
    others: list[Ref]
    codes: Mapping[int, tuple[str, _Dataset]]
    identity: Path | None


def codes_of(segment: _Dataset) -> tuple[str, _Dataset]:
    """Return the name and the coded meaning of a segment, without its free text."""
    from pydicom.dataset import Dataset

    kept = Dataset()
    for name in CODED:
        if segment.get(name):
            setattr(kept, name, [_code(item) for item in segment[name].value])
    kept.SegmentAlgorithmType = str(segment.get("SegmentAlgorithmType") or "MANUAL")
    return " ".join(str(segment.get("SegmentLabel") or "").split()), kept


def _code(item: _Dataset) -> _Dataset:
    from pydicom.dataset import Dataset

    kept = Dataset()
    for name in _CODE_PARTS:
        if item.get(name):
            setattr(kept, name, str(item[name].value))
    for name in CODED:
        if item.get(name):
            setattr(kept, name, [_code(inner) for inner in item[name].value])
    return kept


def ready_of(mask: Mask, losses: list[str]) -> Ready:
    """Return the source of a mask; what it lacks is added to `losses`.

    Raises
    ------
    InputError
        If the mask was drawn on no DICOM image.
    """
    header = mask.header
    codes: Mapping[int, tuple[str, _Dataset]] = {}
    if isinstance(header, SegHeader):
        codes = header.codes
        losses.append("free text of the segments as they were read (descriptions, tracking names)")
        if header.series is None:
            return _from_segmentation(mask, header, losses)
        header = header.series
    if not isinstance(header, DicomHeader):
        msg = (
            f"expected a mask drawn on a DICOM series, got {mask.name!r} without one; pass --image "
            "FOLDER, or write .nii.gz"
        )
        raise InputError(msg)
    instances = header.sop_instances or ("",) * len(header.files)
    frames = header.frames or (None,) * len(header.files)
    every = [
        Ref(header.series, header.sop_class, instance, frame)
        for instance, frame in zip(instances, frames, strict=False)
    ]
    known = [ref for ref in every if ref.series and ref.sop_class and ref.instance]
    if len(known) < len(every) or not every:
        losses.append("the source images have no UIDs: the mask cannot refer to them")
    fits = len(every) == mask.data.shape[0] and not header.is_derived
    planes = [[ref] if fits and ref in known else [] for ref in every] if fits else []
    return Ready(
        study=header.study or _made("study", header.series, mask, losses),
        frame_of_reference=header.frame_of_reference
        or _made("frame of reference", header.series or header.study, mask, losses),
        number=_series_number(header.number),
        planes=planes or [[] for _ in range(mask.data.shape[0])],
        others=known,
        codes=codes,
        identity=header.files[0] if header.files else None,
    )


def _from_segmentation(mask: Mask, header: SegHeader, losses: list[str]) -> Ready:
    """Return the source of a mask that was read from a SEG file without its images."""
    import pydicom

    with reading(header.path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(header.path, stop_before_pixels=True, force=True)
    series_of: dict[str, str] = {}
    others = []
    for series in data.get("ReferencedSeriesSequence") or ():
        for item in series.get("ReferencedInstanceSequence") or ():
            ref = _ref(item, str(series.get("SeriesInstanceUID", "")))
            series_of[ref.instance] = ref.series
            others.append(ref)
    planes: list[list[Ref]] = [[] for _ in range(mask.data.shape[0])]
    for frame in data.get("PerFrameFunctionalGroupsSequence") or ():
        place = frame.get("PlanePositionSequence")
        if not place:
            continue
        point = np.array(place[0].ImagePositionPatient, np.float64) * LPS
        level = round(float(mask.geometry.to_index(point)[0]))
        for derivation in frame.get("DerivationImageSequence") or ():
            for item in derivation.get("SourceImageSequence") or ():
                ref = _ref(item, series_of.get(str(item.ReferencedSOPInstanceUID), ""))
                if 0 <= level < len(planes) and ref not in planes[level]:
                    planes[level].append(ref)
    study, frame_uid = (
        str(data.get(key, "")) for key in ("StudyInstanceUID", "FrameOfReferenceUID")
    )
    return Ready(
        study=study or _made("study", "", mask, losses),
        frame_of_reference=frame_uid or _made("frame of reference", study, mask, losses),
        number=_series_number(str(data.get("SeriesNumber") or "")),
        planes=planes,
        others=others,
        codes=header.codes,
        identity=header.path,
    )


def _ref(item: _Dataset, series: str) -> Ref:
    number = item.get("ReferencedFrameNumber")
    return Ref(
        series,
        str(item.get("ReferencedSOPClassUID", "")),
        str(item.get("ReferencedSOPInstanceUID", "")),
        int(number) if isinstance(number, (int, str)) else None,
        str(item.get("SpatialLocationsPreserved", "NO")) == "YES",
    )


def _series_number(text: str) -> int:
    """Return a number for our series: a thousand above the source's."""
    digits = text if text.isdigit() else "0"
    return 1000 + int(digits) % 1_000_000


def _made(what: str, seed: str, mask: Mask, losses: list[str]) -> str:
    losses.append(f"the source has no UID of its {what}: a new one was made")
    return uid_of(what, seed, mask.geometry.affine.tobytes())


def uid_of(*parts: str | bytes) -> str:
    """Return a UID that hangs on `parts` alone."""
    state = hashlib.sha256()
    for part in parts:
        state.update((part.encode() if isinstance(part, str) else part) + b"\0")
    return f"2.25.{uuid.UUID(bytes=state.digest()[:16], version=5).int}"

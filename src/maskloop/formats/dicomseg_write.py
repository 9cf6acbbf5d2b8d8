"""Writing DICOM SEG: one binary segment a label, no identity unless asked, the same bytes again.

highdicom is shown stand-ins for the source images that hold nothing but UIDs and positions, so
that it cannot copy what we did not mean; references and dates are then set by us.

References
----------
.. [1] DICOM PS3.3 A.51, C.8.20.2 (segmentation image); PS3.16 CID 7150 to 7159 (what is segmented);
   PS3.15 E.2 (identity removed).
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import GeometryError, InputError, MissingExtraError
from maskloop.core.image import smallest_unsigned
from maskloop.core.labels import Label, LabelTable
from maskloop.formats.base import Planned, Target, reading
from maskloop.formats.dicomseg_source import CODED, LPS, NO_LABEL, Ready, Ref, ready_of, uid_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from maskloop.core.geometry import Geometry
    from maskloop.core.mask import Mask

_ANATOMY = ("91723000", "Anatomical Structure")
_ABNORMAL = ("49755003", "Morphologically Abnormal Structure")
_TISSUE = ("85756007", "Tissue")
# SNOMED CT codes as DICOM PS3.16 lists them (CID 7150 to 7159).
_TYPES = {
    "liver": (_ANATOMY, ("10200004", "Liver")),
    "tumour": (_ABNORMAL, ("108369006", "Neoplasm")),
    "tumor": (_ABNORMAL, ("108369006", "Neoplasm")),
    "liver tumour": (_ABNORMAL, ("108369006", "Neoplasm")),
    "liver tumor": (_ABNORMAL, ("108369006", "Neoplasm")),
    "lesion": (_ABNORMAL, ("52988006", "Lesion")),
    "cyst": (_ABNORMAL, ("367643001", "Cyst")),
    "spleen": (_ANATOMY, ("78961009", "Spleen")),
    "kidney": (_ANATOMY, ("64033007", "Kidney")),
    "pancreas": (_ANATOMY, ("15776009", "Pancreas")),
    "gallbladder": (_ANATOMY, ("28231008", "Gallbladder")),
    "stomach": (_ANATOMY, ("69695003", "Stomach")),
    "lung": (_ANATOMY, ("39607008", "Lung")),
    "heart": (_ANATOMY, ("80891009", "Heart")),
    "aorta": (_ANATOMY, ("15825003", "Aorta")),
    "portal vein": (_ANATOMY, ("32764006", "Portal vein")),
    "brain": (_ANATOMY, ("12738006", "Brain")),
    "spinal cord": (_ANATOMY, ("2748008", "Spinal cord")),
    "bone": (_ANATOMY, ("272673000", "Bone")),
    "organ": (_ANATOMY, ("113343008", "Organ")),
}
_NO_DATE, _NO_TIME = "19000101", "000000"
_PATIENT = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientBirthTime"),
    *("PatientSex", "OtherPatientIDs", "OtherPatientNames", "EthnicGroup", "PatientComments"),
    *("PatientAge", "PatientSize", "PatientWeight", "AdditionalPatientHistory", "Occupation"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "AdmittingDiagnosesDescription"),
    *("StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber"),
    *("ReferringPhysicianName", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy"),
)
_Dataset = Any  # Any: pydicom's dataset, whose attributes are known at run time only


def plan(mask: Mask, *, suffix: str) -> Planned:
    """Order the slices along their normal, fit the names, find the source; refuse other masks.

    Raises
    ------
    InputError
        If the mask was drawn on no DICOM image, has a time axis, or has too many labels.
    GeometryError
        If its slices have no square corners.
    """
    losses: list[str] = []
    if mask.data.shape != mask.geometry.shape or mask.geometry.ndim != 3:
        msg = (
            f"expected one volume (z, y, x) for DICOM SEG, got shape {mask.data.shape}; choose one "
            "time point"
        )
        raise InputError(msg)
    ready = ready_of(mask, losses)
    mask, ready = _upright(mask, ready)
    labels = _fitting(mask.labels, losses)
    if len(labels) > 65535 or max(labels, default=0) > 999_999_999:
        msg = (
            f"expected at most 65535 labels with ids below 10**9 for DICOM SEG, got {len(labels)} "
            f"up to {max(labels)}; renumber them"
        )
        raise InputError(msg)
    losses.append(
        "identity: names, dates and institutions of the source are left out unless --keep-phi is "
        "given; UIDs of study, frame of reference and source images are kept, to place the mask"
    )
    ids = mask.data.astype(smallest_unsigned(int(mask.data.max(initial=0))), copy=False)
    planned = replace(mask, data=ids, labels=labels, header=ready)
    return Planned(planned, mask.geometry, tuple(losses))


def _upright(mask: Mask, ready: Ready) -> tuple[Mask, Ready]:
    """Return the mask with its slices in ascending order along the frames' normal."""
    step, down, right = mask.geometry.affine[:3, :3].T
    lengths = np.linalg.norm(down), np.linalg.norm(right)
    cosine = float(down @ right / (lengths[0] * lengths[1]))
    if abs(cosine) > 1e-4:
        angle = float(np.degrees(np.arccos(cosine)))
        msg = (
            f"expected slices with square corners for DICOM SEG, got {angle:.3g} degrees between "
            "their edges; resample the mask, or write .nii.gz"
        )
        raise GeometryError(msg)
    if np.cross(right, down) @ step > 0:
        return mask, ready
    geometry = mask.geometry.transposed((0, 1, 2), (True, False, False))
    flipped = replace(mask, data=mask.data[::-1], geometry=geometry)
    return flipped, replace(ready, planes=ready.planes[::-1])


def _fitting(labels: LabelTable, losses: list[str]) -> LabelTable:
    """Return the table with names that a DICOM text of 64 characters can hold."""
    rows = []
    for row in labels.values():
        plain = "".join(c if c.isprintable() and c != "\\" else " " for c in row.name)
        name = " ".join(plain.split())[:64].strip() or f"label {row.id}"
        if name != row.name:
            losses.append(f"label {row.id}: its name is shortened to {name!r}")
        rows.append(replace(row, name=name))
    return LabelTable(rows)


def write_mask(mask: Mask, to: Target) -> None:
    """Write the file; the same mask gives the same bytes."""
    try:
        import highdicom
        from pydicom.uid import ExplicitVRLittleEndian
    except ImportError as error:
        msg = (
            "expected highdicom to write DICOM segmentations, got no such package; "
            "pip install 'napari-maskloop[dicom]'"
        )
        raise MissingExtraError(msg) from error
    import maskloop

    ready = mask.header
    if not isinstance(ready, Ready):
        msg = f"expected a planned mask, got {mask.name!r}; call plan first"
        raise InputError(msg)
    numbers, marks = _numbered(mask)
    digest = _digest(mask, ready, keep_phi=to.keep_phi)
    identity = _identity(ready.identity) if to.keep_phi else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seg = highdicom.seg.Segmentation(
            source_images=_stand_ins(mask.geometry, ready),
            pixel_array=numbers,
            segmentation_type="BINARY",
            segment_descriptions=_segments(mask.labels, ready),
            series_instance_uid=uid_of("series", digest),
            series_number=ready.number,
            sop_instance_uid=uid_of("instance", digest),
            instance_number=1,
            manufacturer="maskloop",
            manufacturer_model_name="maskloop",
            software_versions=maskloop.__version__,
            device_serial_number="0",
            transfer_syntax_uid=ExplicitVRLittleEndian,
            content_label="SEGMENTATION",
            content_date=identity.get("ContentDate", _NO_DATE),
            content_time=_NO_TIME,
            series_description="Segmentation",
            specific_character_set="ISO_IR 192",
        )
        _unmark(seg, marks, mask.geometry)
        _refer(seg, ready)
        _settle(seg, digest, identity)
        seg.save_as(to.path, enforce_file_format=True)


def _numbered(mask: Mask) -> tuple[npt.NDArray[Any], list[int]]:
    """Return segment numbers instead of ids, and the empty end planes that were marked.

    Empty frames are left out of the file, but the first and the last plane must be in it, or a
    reader without the source would not know how far the grid goes. A mark in their first voxel
    keeps highdicom from leaving them out; `_unmark` takes it away again.
    """
    ids = list(mask.labels)
    table = np.zeros(max(ids, default=0) + 1, smallest_unsigned(max(len(ids), 1)))
    table[ids] = np.arange(1, len(ids) + 1)
    numbers = table[mask.data]
    marks = [at for at in dict.fromkeys((0, len(numbers) - 1)) if not numbers[at].any()]
    for at in marks:
        numbers[at, 0, 0] = 1
    return numbers, marks


def _unmark(seg: _Dataset, marks: list[int], geometry: Geometry) -> None:
    pixels = bytearray(seg.PixelData)
    size = int(seg.Rows) * int(seg.Columns)
    wanted = [geometry.to_world((at, 0, 0)) * LPS for at in marks]
    for number, frame in enumerate(seg.PerFrameFunctionalGroupsSequence):
        found = frame.get("SegmentIdentificationSequence")
        if found and int(found[0].ReferencedSegmentNumber) != 1:
            continue
        place = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, np.float64)
        if any(np.linalg.norm(place - point) < 0.1 * min(geometry.spacing) for point in wanted):
            bit = number * size
            pixels[bit >> 3] &= 0xFF ^ (1 << (bit & 7))
    seg.PixelData = bytes(pixels)


def _stand_ins(geometry: Geometry, ready: Ready) -> list[_Dataset]:
    """Return one data set a plane that has its place and nothing of a person."""
    from pydicom.dataset import Dataset

    step, down, right = geometry.affine[:3, :3].T
    normal = np.cross(right, down)
    normal /= np.linalg.norm(normal)
    cosines = [*(right / np.linalg.norm(right) * LPS), *(down / np.linalg.norm(down) * LPS)]
    (depth,) = _decimals([step @ normal])
    found = []
    for at in range(geometry.shape[0]):
        one = Dataset()
        for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID"):
            setattr(one, name, "")
        one.AccessionNumber = one.ReferringPhysicianName = one.StudyDate = one.StudyTime = ""
        one.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        one.SOPInstanceUID = f"2.25.{at + 1}"
        one.StudyInstanceUID, one.SeriesInstanceUID = ready.study, "2.25.0"
        one.FrameOfReferenceUID, one.Modality = ready.frame_of_reference, "OT"
        one.Rows, one.Columns = geometry.shape[1:]
        one.ImageOrientationPatient = _decimals(cosines)
        one.ImagePositionPatient = _decimals(geometry.to_world((at, 0, 0)) * LPS)
        one.PixelSpacing = _decimals(geometry.spacing[1:])
        one.SliceThickness = one.SpacingBetweenSlices = depth
        found.append(one)
    return found


def _segments(labels: LabelTable, ready: Ready) -> list[_Dataset]:
    """Return a description for each label; one placeholder where there is none."""
    rows = list(labels.values())
    found = [_segment(number, row, ready) for number, row in enumerate(rows, start=1)]
    if not found:
        empty = _segment(1, Label(1, "no label"), ready)
        empty.SegmentDescription = NO_LABEL
        found.append(empty)
    return found


def _segment(number: int, row: Label, ready: Ready) -> _Dataset:
    import highdicom
    from pydicom.sr.coding import Code

    import maskloop

    name, kept = ready.codes.get(row.id, ("", None))
    if name != row.name:
        kept = None
    category, kind = _TYPES.get(
        " ".join(row.name.lower().replace("_", " ").split()), (_TISSUE, _TISSUE)
    )
    by_hand = not row.author and (kept is None or kept.SegmentAlgorithmType == "MANUAL")
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="maskloop",
        version=maskloop.__version__,
        family=Code("123110", "DCM", "Artificial Intelligence"),
    )
    segment = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=row.name,
        segmented_property_category=Code(category[0], "SCT", category[1]),
        segmented_property_type=Code(kind[0], "SCT", kind[1]),
        algorithm_type="MANUAL" if by_hand else "SEMIAUTOMATIC",
        algorithm_identification=None if by_hand else algorithm,
        display_color=highdicom.color.CIELabColor.from_rgb(*bytes.fromhex(row.colour[1:])),
    )
    segment.SegmentDescription = f"[label id {row.id}]"
    if kept is not None:
        for element in kept:
            if element.keyword in CODED:
                setattr(segment, element.keyword, element.value)
    return segment


def _refer(seg: _Dataset, ready: Ready) -> None:
    """Put the true source images in the place of the stand-ins."""
    from pydicom.dataset import Dataset

    for frame in seg.PerFrameFunctionalGroupsSequence:
        derivation = frame.DerivationImageSequence[0]
        item = derivation.SourceImageSequence[0]
        at = int(str(item.ReferencedSOPInstanceUID).rsplit(".", 1)[1]) - 1
        items = []
        for ref in ready.planes[at]:
            one = _referenced(ref)
            one.PurposeOfReferenceCodeSequence = item.PurposeOfReferenceCodeSequence
            one.SpatialLocationsPreserved = "YES" if ref.is_same_place else "NO"
            if ref.frame is not None:
                one.ReferencedFrameNumber = ref.frame
            items.append(one)
        if items:
            derivation.SourceImageSequence = items
        else:
            frame.DerivationImageSequence = []
    whole = list(dict.fromkeys(replace(ref, frame=None) for ref in ready.others))
    seg.SourceImageSequence = [_referenced(ref) for ref in whole]
    groups = []
    for uid in dict.fromkeys(ref.series for ref in whole):
        group = Dataset()
        group.SeriesInstanceUID = uid
        group.ReferencedInstanceSequence = [_referenced(r) for r in whole if r.series == uid]
        groups.append(group)
    if groups:
        seg.ReferencedSeriesSequence = groups
    else:
        del seg.ReferencedSeriesSequence, seg.SourceImageSequence


def _referenced(ref: Ref) -> _Dataset:
    from pydicom.dataset import Dataset

    one = Dataset()
    one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID = ref.sop_class, ref.instance
    return one


def _settle(seg: _Dataset, digest: str, identity: Mapping[str, _Dataset]) -> None:
    """Take out what depends on the clock or on chance; state whether identity was removed."""
    for keyword in (
        "InstanceCreationDate",
        "InstanceCreationTime",
        "ContributingEquipmentSequence",
    ):
        if keyword in seg:
            delattr(seg, keyword)
    seg.ContentCreatorName = ""  # type 2: must be there, may be empty
    organization = uid_of("dimensions", digest)
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    if not identity:
        seg.PatientIdentityRemoved = "YES"
        seg.DeidentificationMethod = "maskloop: attributes of the source were not copied"
        seg.LongitudinalTemporalInformationModified = "REMOVED"
    for keyword, value in identity.items():
        if keyword != "ContentDate":
            setattr(seg, keyword, value)


def _identity(path: Path | None) -> dict[str, _Dataset]:
    """Return the patient's and the study's attributes of a source file."""
    if path is None:
        return {}
    import pydicom

    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        found = {k: data[k].value for k in _PATIENT if k in data}
        names = {k: str(v) for k, v in found.items() if data[k].VR == "PN"}
    date = next(
        (str(data[k].value) for k in ("ContentDate", "SeriesDate", "StudyDate") if data.get(k)), ""
    )
    return {**found, **names, "ContentDate": date if len(date) == 8 else _NO_DATE}


def _decimals(values: Iterable[float]) -> list[_Dataset]:
    """Return decimal strings of at most 16 characters, as DICOM has them; never a minus zero."""
    from pydicom.valuerep import DSfloat

    return [DSfloat(float(n) + 0.0, auto_format=True) for n in values]


def _digest(mask: Mask, ready: Ready, *, keep_phi: bool) -> str:
    """Return what all UIDs of the file hang on: ids, grid, labels, source."""
    state = hashlib.sha256(np.ascontiguousarray(mask.data).data)
    rows = [(row.id, row.name, row.colour, not row.author) for row in mask.labels.values()]
    source = replace(ready, identity=None)
    words = (mask.data.dtype.str, mask.geometry.shape, rows, source, keep_phi)
    state.update(mask.geometry.affine.tobytes() + repr(words).encode())
    return state.hexdigest()

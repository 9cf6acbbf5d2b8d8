"""What is kept of a DICOM file's head, one plane at a time, and what an image's header tells.

References
----------
.. [1] DICOM PS3.6, table 6-1 (tags); PS3.15 table E.1-1 (attributes that identify a person).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
_LARGEST = 1e9
WORDS = {
    0x00280002: "samples",
    0x00280010: "rows",
    0x00280011: "columns",
    0x00280100: "bits",
    0x00280101: "bits_stored",
    0x00280103: "is_signed",
    0x00280120: "padding",
}
TEXTS = {
    0x00080008: "kind",
    0x00080016: "class",
    0x00080018: "instance",
    0x00080032: "time",
    0x00080060: "modality",
    0x00120062: "is_deidentified",
    0x00180050: "thickness",
    0x00180081: "echo_time",
    0x00180086: "echo",
    0x00180088: "between",
    0x00181060: "trigger",
    0x0020000D: "study",
    0x0020000E: "series",
    0x00200011: "number",
    0x00200012: "acquisition",
    0x00200013: "instance_number",
    0x00200032: "position",
    0x00200037: "orientation",
    0x00200052: "frame_of_reference",
    0x00200100: "temporal",
    0x00280004: "photometric",
    0x00280008: "frames",
    0x00280030: "spacing",
    0x00280301: "is_burned_in",
    0x00281052: "intercept",
    0x00281053: "slope",
}
IDENTIFYING = {
    0x00080050: "AccessionNumber",
    0x00080080: "InstitutionName",
    0x00080081: "InstitutionAddress",
    0x00080090: "ReferringPhysicianName",
    0x00081040: "InstitutionalDepartmentName",
    0x00081048: "PhysiciansOfRecord",
    0x00081050: "PerformingPhysicianName",
    0x00081060: "NameOfPhysiciansReadingStudy",
    0x00081070: "OperatorsName",
    0x00100010: "PatientName",
    0x00100020: "PatientID",
    0x00100030: "PatientBirthDate",
    0x00100032: "PatientBirthTime",
    0x00101000: "OtherPatientIDs",
    0x00101001: "OtherPatientNames",
    0x00101005: "PatientBirthName",
    0x00101040: "PatientAddress",
    0x00101060: "PatientMotherBirthName",
    0x00102154: "PatientTelephoneNumbers",
    0x001021B0: "AdditionalPatientHistory",
    0x00104000: "PatientComments",
    0x00321032: "RequestingPhysician",
    0x00324000: "StudyComments",
    0x00400006: "ScheduledPerformingPhysicianName",
}


@dataclass(frozen=True, slots=True)
class DicomHeader:
    """Where the planes of an image came from; nothing of the person.

    Parameters
    ----------
    files : tuple of Path
        One per plane of the array, in its z order; a multi-frame file occurs once a plane.
    frames : tuple of int, optional
        Frame number of each plane in its file, from 1 as in ``ReferencedFrameNumber``; None where
        each file is one plane.
    is_derived : bool
        Whether planes were computed (resampled, filled in, cut from a mosaic), so that they do not
        equal files or frames.
    sop_class : str
        SOP Class UID of the files.
    sop_instances : tuple of str
        SOP Instance UID of each plane's file.
    study, series, frame_of_reference : str
        UIDs; empty where the files have none.
    modality, number : str
        Such as ``"CT"`` and ``"4"``; empty where the files do not say.
    transfer_syntax : str
        UID of the encoding.
    """

    files: tuple[Path, ...]
    frames: tuple[int, ...] | None = None
    is_derived: bool = False
    sop_class: str = ""
    sop_instances: tuple[str, ...] = ()
    study: str = ""
    series: str = ""
    frame_of_reference: str = ""
    modality: str = ""
    number: str = ""
    transfer_syntax: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """One plane: a file's header, or that of one frame or mosaic tile in it.

    Parameters
    ----------
    path : Path
        The file.
    texts : dict of str to str
        Wanted elements that are text, by our names (`TEXTS`).
    words : dict of str to int
        Wanted elements that are numbers (`WORDS`).
    syntax : str
        Transfer syntax UID; empty where the file does not say.
    offset : int, optional
        Where raw little-endian pixels start; None where they must be decoded.
    length : int
        Bytes of the pixel element; -1 where it does not say (compressed).
    size : int
        Bytes of the file.
    filled : tuple of str
        Names of identifying attributes that hold something; never what they hold.
    frame : int
        Number of the frame or tile in the file, from 0; -1 where the file is one plane.
    is_tile : bool
        Whether the plane is cut from a mosaic.
    """

    path: Path
    texts: dict[str, str]
    words: dict[str, int]
    syntax: str = ""
    offset: int | None = None
    length: int = -1
    size: int = 0
    filled: tuple[str, ...] = ()
    frame: int = -1
    is_tile: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.words.get("rows", 0), self.words.get("columns", 0)

    @property
    def frames(self) -> int:
        """Number of frames of the file."""
        return int((self.numbers("frames") or (1.0,))[0])

    @property
    def bytes(self) -> int:
        """Bytes that one plane's raw pixels take."""
        rows, columns = self.shape
        return rows * columns * self.words.get("bits", 0) // 8

    @property
    def kinds(self) -> list[str]:
        """Values of Image Type."""
        return self.texts.get("kind", "").upper().split("\\")

    def numbers(self, name: str) -> tuple[float, ...]:
        """Return an element's finite numbers; empty where it is absent or holds something else."""
        return numbers_of(self.texts.get(name, ""))


@lru_cache(maxsize=4096)
def numbers_of(text: str) -> tuple[float, ...]:
    """Return the numbers of a text with backslashes; empty where it holds others, or absurd ones.

    Absurd is what no scanner means (beyond 10**9), and what would overflow in arithmetic.
    """
    try:
        found = tuple(map(float, text.split("\\"))) if text else ()
    except ValueError:
        return ()
    return found if all(-_LARGEST <= n <= _LARGEST for n in found) else ()

"""The head of a DICOM file: a fast scan of what intake and loading need, pydicom where it fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


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

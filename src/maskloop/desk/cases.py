"""Open a case beside its image, and replay one to a mask."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maskloop.core.case import Case
from maskloop.core.errors import InputError, MissingFileError
from maskloop.core.image import stem_of
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask

if TYPE_CHECKING:
    from maskloop.core.job import Job


def case_folder(image: Path | str, *, workspace: Path | str | None = None) -> Path:
    """Return where an image's case lies: ``NAME.maskloop`` beside it, or in `workspace`.

    Examples
    --------
    >>> case_folder("scans/ct.nii.gz").name
    'ct.maskloop'
    """
    path = Path(image)
    return Path(workspace or path.parent) / f"{stem_of(path)}.maskloop"


def open_case(
    image: Path | str,
    *,
    mask: Mask | None = None,
    workspace: Path | str | None = None,
    job: Job | None = None,
) -> Case:
    """Open the case of an image, or make one.

    Parameters
    ----------
    image : path
        Image file or DICOM folder.
    mask : Mask, optional
        The start of a new case; empty where left out. Refused where the case exists.
    workspace : path, optional
        Folder to keep the case in, where the image's own cannot be written.
    job : Job, optional
        Progress and cancel.

    Returns
    -------
    Case
        With every finished step; `Case.dropped` says what was lost.

    Raises
    ------
    InputError
        If the image has changed since the case was made, or a start is given for an old case.
    """
    from maskloop.loop.load import load

    folder = case_folder(image, workspace=workspace)
    if not folder.is_dir():
        found = load(image, job=job)
        if mask is None:
            mask = Mask.like(found, np.zeros(found.geometry.shape, np.uint8), LabelTable())
        mask.require_on(found)
        return Case.create(folder, mask, provenance={"image_sha256": _hash(Path(image))})
    if mask is not None:
        msg = (
            f"expected no start for the case {folder.name}, which exists, got one; open it as it is"
        )
        raise InputError(msg)
    case = Case.open(folder)
    expected = case.provenance.get("image_sha256")
    if expected and expected != _hash(Path(image)):
        case.close()
        msg = (
            f"expected the image that {folder.name} was made for, got another; restore it or move "
            "the case away"
        )
        raise InputError(msg)
    return case


def replay(folder: Path | str) -> Mask:
    """Return the mask that a case folder's journal leads to, bit for bit."""
    path = Path(folder)
    if not path.is_dir():
        msg = f"expected a case folder, got {str(path)!r}, which does not exist; give NAME.maskloop"
        raise MissingFileError(msg)
    with Case.open(path) as case:
        return replace(case.mask)


def _hash(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files in order of their hashes."""
    if path.is_dir():
        parts = sorted(_hash(file) for file in path.rglob("*") if file.is_file())
        return hashlib.sha256("".join(parts).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

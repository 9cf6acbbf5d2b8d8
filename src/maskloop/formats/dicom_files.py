"""The DICOM files of a folder and everything below it, and what was left out and why.

References
----------
.. [1] DICOM PS3.10 8.6 (DICOMDIR, which is passed over: what it lists may not be what is there).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from maskloop.core.errors import FormatError
from maskloop.formats.dicom_scan import scan
from maskloop.formats.dicom_series import is_cut, kind_of
from maskloop.formats.swap import words

if TYPE_CHECKING:
    from maskloop.core.job import Job
    from maskloop.formats.dicom_head import Slice

DIRECTORY = "1.2.840.10008.1.3.10"


@dataclass(slots=True)
class Found:
    """Headers of a folder's DICOM files, and the names of other files with the reason."""

    slices: list[Slice] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    @property
    def damaged(self) -> list[str]:
        """Names of files that might belong to a series and could not be read."""
        return [name for name, why in self.left_out if why.startswith(("damaged", "unreadable"))]


def found_in(folder: Path, job: Job, *, is_deep: bool = True) -> Found:
    """Return what a folder (and, if `is_deep`, all below it) holds, whatever the files' names."""
    found = Found()
    files: list[str] = []
    if is_deep:
        _walk(str(folder), files, found.left_out, {_identity(os.stat(folder))})
    else:
        files = sorted(entry.path for entry in os.scandir(folder) if entry.is_file())
    for name in job.track(files, "headers"):
        _add(Path(name), found)
    return found


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _walk(
    folder: str, files: list[str], left_out: list[tuple[str, str]], above: set[tuple[int, int]]
) -> None:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        left_out.append((os.path.basename(folder), f"unreadable: {words(error)}"))
        return
    for entry in entries:
        try:
            if entry.is_dir():
                # A link to a folder above would be walked for ever.
                own = _identity(entry.stat())
                if own in above:
                    left_out.append((entry.name, "a link to a folder that holds it"))
                else:
                    _walk(entry.path, files, left_out, above | {own})
            elif entry.is_file():
                files.append(entry.path)
            else:
                why = "unreadable: a link to nothing" if entry.is_symlink() else "no regular file"
                left_out.append((entry.name, why))
        except OSError as error:
            left_out.append((entry.name, f"unreadable: {words(error)}"))


def _add(path: Path, found: Found) -> None:
    try:
        one = scan(path)
    except FormatError:
        found.left_out.append((path.name, "damaged: the header ends early or makes no sense"))
        return
    except OSError as error:
        found.left_out.append((path.name, f"unreadable: {words(error)}"))
        return
    if one is None:
        found.left_out.append((path.name, "not DICOM"))
    elif one.texts.get("class") == DIRECTORY:
        found.left_out.append((path.name, "DICOMDIR"))
    elif kind_of(one):
        found.slices.append(one)
    elif is_cut(one):
        found.left_out.append((path.name, "damaged: cut short before its pixels"))
    else:
        found.left_out.append((path.name, "no pixels"))

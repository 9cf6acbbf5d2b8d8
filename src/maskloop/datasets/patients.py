"""Patients' names, kept out of the names of items."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path


def identity_of(file: Path) -> tuple[str, frozenset[str]]:
    """Return the patient's identifier in a DICOM file, and words that names may contain."""
    import pydicom

    from maskloop.formats.dicom_scan import damage

    tags = ["PatientID", "PatientName"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            head = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags, force=True)
        number, name = str(head.get("PatientID") or ""), str(head.get("PatientName") or "")
    except damage():
        return "", frozenset()
    return number or name, words_of(name, number)


def words_of(name: str, number: str) -> frozenset[str]:
    """Return the words of a patient's name and identifier that names of folders may contain."""
    words = re.split(r"[\s^=,;]+", f"{name} {number}")
    return frozenset(word.lower() for word in words if len(word) > 2)


def without(name: str, words: Collection[str], number: str) -> str:
    """Return an item's name whose parts that tell the patient are the patient's number instead."""
    if not number:
        return name
    return "/".join(
        number if any(word in part.lower() for word in words) else part for part in name.split("/")
    )


def told_apart(names: Sequence[str]) -> list[str]:
    """Return the names; those that came to be one are counted."""
    counts = Counter(names)
    used: Counter[str] = Counter()
    found = []
    for name in names:
        used[name] += 1
        found.append(name if counts[name] == 1 else f"{name}-{used[name]}")
    return found

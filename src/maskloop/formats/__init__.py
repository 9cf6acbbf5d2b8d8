"""The shelf of file formats: one line each; nothing is imported until asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskloop.core.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

    from maskloop.formats.base import Format

# name: (module:attribute, suffixes), longest suffix first.
_TABLE: dict[str, tuple[str, tuple[str, ...]]] = {
    "nifti": ("maskloop.formats.nifti:FORMAT", (".nii.gz", ".nii")),
    "nrrd": ("maskloop.formats.nrrd:FORMAT", (".seg.nrrd", ".nrrd", ".nhdr")),
    "metaimage": ("maskloop.formats.metaimage:FORMAT", (".mha", ".mhd")),
    "mgh": ("maskloop.formats.mgh:FORMAT", (".mgz", ".mgh")),
    "dicomseg": ("maskloop.formats.dicomseg:FORMAT", (".seg.dcm",)),
    "rtstruct": ("maskloop.formats.rtstruct:FORMAT", (".rtstruct.dcm",)),
    "dicom": ("maskloop.formats.dicom:FORMAT", (".dcm", ".dicom", ".ima")),
    "picture": ("maskloop.formats.picture:FORMAT", (".png", ".tif", ".tiff", ".jpg", ".jpeg")),
    "coco": ("maskloop.formats.coco:FORMAT", (".json",)),
}

# Formats that share a suffix and are told apart by content: those that hold masks only, first.
KIN = {"dicom": ("dicomseg", "rtstruct")}

FORMATS = Registry(
    "format", "maskloop.formats", {name: target for name, (target, _) in _TABLE.items()}
)


def get(name: str) -> Format:
    """Import and return the format called `name`; see `Registry.get` for the errors."""
    found: Format = FORMATS.get(name)
    return found


def _own_suffixes() -> dict[str, tuple[str, ...]]:
    return {name: ends for name, (_, ends) in _TABLE.items()}


def suffixes() -> dict[str, tuple[str, ...]]:
    """Return the suffixes of every format; only formats of other packages are imported."""
    ours = _own_suffixes()
    return {name: ours.get(name) or get(name).suffixes for name in FORMATS}


def by_suffix(path: Path) -> tuple[str, str] | None:
    """Return ``(format name, suffix)`` for a file name, the longest suffix first, or None.

    Examples
    --------
    >>> from pathlib import Path
    >>> by_suffix(Path("case.01.NII.GZ"))
    ('nifti', '.nii.gz')
    """
    name = path.name.lower()
    # Our own table first: looking for entry points reads every installed package's metadata.
    for listed in (_own_suffixes, suffixes):
        table = listed()
        fits = [(len(e), n, e) for n, ends in table.items() for e in ends if name.endswith(e)]
        if fits:
            return max(fits)[1:]
    return None


def by_word(word: str) -> tuple[str, str] | None:
    """Return ``(format name, suffix)`` for what a person types: ``nifti``, ``png``, ``.nii``.

    The suffix is empty where the word is a format's name.
    """
    if word in FORMATS:
        return word, ""
    wanted = "." + word.lower().lstrip(".")
    for name, ends in suffixes().items():
        if wanted in ends:
            return name, wanted
    return None

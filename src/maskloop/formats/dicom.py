"""DICOM: one series of a folder as a volume in Hounsfield (or rescaled) units.

Slices are sorted by their positions along the normal and spaced by them; what is not one regular
stack is refused by name or, where the person chose so, filled in or resampled, and told. No name,
number or date of a person is kept or shown.

References
----------
.. [1] DICOM PS3.3 C.7.6.2 (image plane), C.11.1 (rescale).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from maskloop.core.errors import FormatError, GeometryError, MissingExtraError, UnknownNameError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.formats.base import Choices, Format, reading
from maskloop.formats.dicom_codecs import why_not
from maskloop.formats.dicom_files import DIRECTORY, Found, found_in
from maskloop.formats.dicom_grid import filled, resampled
from maskloop.formats.dicom_head import DicomHeader
from maskloop.formats.dicom_pixels import read_planes
from maskloop.formats.dicom_report import grid_keys, intake_text, line_of, row_report
from maskloop.formats.dicom_scan import scan
from maskloop.formats.dicom_series import CONTOURS, SEGMENTATIONS, Row, rows_of

if TYPE_CHECKING:
    from pathlib import Path

    from maskloop.core.job import Job
    from maskloop.formats.dicom_stack import Stack

__all__ = ["FORMAT", "inspect", "intake_text", "read_image", "sniff"]


def sniff(path: Path) -> bool:
    """Whether a file is a DICOM image, with or without preamble; not SEG, not RTSTRUCT."""
    if path.is_dir():
        return False
    try:
        found = scan(path)
    except FormatError:
        return True
    except OSError:
        return False
    return found is not None and found.texts.get("class") not in SEGMENTATIONS | CONTOURS


def inspect(path: Path, *, job: Job) -> dict[str, Any]:  # Any: plain JSON values
    """Return the intake report of a folder and all below it, or of the series of a file.

    Returns
    -------
    dict
        ``path``, ``kind`` (``"dicom series"`` where there is exactly one image row, else
        ``"dicom folder"``), ``format``, ``series`` (a list of rows: what each is, slices, spacing,
        steps, gaps, copies, tilt, encoding, de-identification, problems and the choices that
        settle them), ``left_out`` (file and why) and ``notes``. With one image row that loads,
        also the grid keys that `maskloop.info` has for volumes.

    Raises
    ------
    FormatError
        If a file is given that is no DICOM.
    """
    rows, found = _rows(path, job)
    images = [row for row in rows if row.is_image]
    report: dict[str, Any] = {
        "path": str(path),
        "kind": "dicom series" if len(images) == 1 else "dicom folder",
        "format": "dicom",
        "series": [row_report(row, number, path) for number, row in enumerate(rows, 1)],
        "left_out": [{"file": name, "why": why} for name, why in found.left_out],
        "notes": list(dict.fromkeys(job.notes)),
    }
    return {**report, **(grid_keys(images[0]) if len(images) == 1 else {})}


def read_image(path: Path, *, choices: Choices, job: Job) -> Image:
    """Read the one series of a folder, or the series that a file belongs to.

    Returns
    -------
    Image
        ``(z, y, x)``; int16 where that is exact, else int32 or float32.

    Raises
    ------
    FormatError
        If there is no series, more than one and none chosen, or pixels are damaged.
    GeometryError
        If the slices are no regular stack and no choice settles that; the message names it.
    MissingExtraError
        If the pixels need a decoder that is not installed.
    """
    rows, found = _rows(path, job)
    if found.damaged:
        job.say(
            f"{len(found.damaged)} damaged or unreadable files were left out: "
            f"{', '.join(found.damaged[:8])}{' ...' if len(found.damaged) > 8 else ''}"
        )
    row = _chosen(rows, found, path, choices)
    return _image(row, path, choices, job)


def _rows(path: Path, job: Job) -> tuple[list[Row], Found]:
    """Return the rows of a folder, or those of the series of a file."""
    with reading(path):
        if path.is_dir():
            found = found_in(path, job)
            return rows_of(found.slices), found
        own = scan(path)
    if own is None:
        msg = f"expected a DICOM image, got {path.name}, which is none; choose another file"
        raise FormatError(msg)
    if own.texts.get("class") == DIRECTORY:
        msg = f"expected a DICOM image, got the index {path.name!r}; choose the folder it lies in"
        raise FormatError(msg)
    with reading(path):
        found = found_in(path.parent, job, is_deep=False)
    series = own.texts.get("series", ""), own.texts.get("number", "")
    alike = [
        one
        for one in found.slices
        if (one.texts.get("series", ""), one.texts.get("number", "")) == series
    ]
    # A damaged file might be a slice of this series.
    maybe = [(name, why) for name, why in found.left_out if name in found.damaged]
    return rows_of(alike), Found(alike, maybe)


def _chosen(rows: list[Row], found: Found, path: Path, choices: Choices) -> Row:
    images = [row for row in rows if row.is_image]
    if choices.series is not None:
        return _named(rows, choices.series)
    if path.is_file():
        images = [row for row in images if any(one.path == path for one in row.planes)] or images
    if len(images) == 1:
        return images[0]
    if not images:
        _refuse_empty(rows, found)
    listed = [line_of(row, number) for number, row in enumerate(rows, 1) if row.is_image]
    several = "series" if len({row.uid for row in images}) > 1 else "parts of one series"
    msg = (
        f"expected one DICOM series, got {len(images)} {several}: {'; '.join(listed[:8])}"
        f"{' ...' if len(listed) > 8 else ''}; choose one with --series and its row "
        "(maskloop info lists them), or give one of its files"
    )
    raise FormatError(msg)


def _named(rows: list[Row], wanted: str) -> Row:
    """Return the row of that number or SeriesInstanceUID."""
    wanted = wanted.strip()
    known = [str(number) for number, row in enumerate(rows, 1) if row.is_image]
    if wanted in known:
        return rows[int(wanted) - 1]
    alike = [row for row in rows if row.is_image and row.uid and row.uid == wanted]
    if len(alike) == 1:
        return alike[0]
    if alike:
        numbers = [str(rows.index(row) + 1) for row in alike]
        msg = (
            f"expected a series that is one volume, got one of {len(alike)} (rows "
            f"{', '.join(numbers)}); choose by the row's number"
        )
        raise FormatError(msg)
    raise UnknownNameError.of("row or the SeriesInstanceUID of one", wanted, known)


def _refuse_empty(rows: list[Row], found: Found) -> NoReturn:
    if rows:
        held = " and ".join(sorted({f"{row.kind} objects" for row in rows}))
    elif found.left_out:
        held = f"{len(found.left_out)} other files"
    else:
        held = "an empty folder"
    msg = f"expected DICOM images, got {held}; choose the folder of a series"
    raise FormatError(msg)


def _image(row: Row, path: Path, choices: Choices, job: Job) -> Image:
    stack = row.stack()
    for problem in stack.blocking(choices):
        raise GeometryError(problem.words) if problem.is_about_place else FormatError(problem.words)
    for one in row.planes:
        if reason := why_not(one):
            msg = f"expected pixels that can be decoded in {one.path.name}, got {reason}"
            raise MissingExtraError(msg)
    for note in (*stack.notes, *_needless(stack, choices)):
        job.say(note)
    if row.copies:
        job.say(f"{len(row.copies)} files hold a slice a second time: one of each was used")
    data = read_planes(stack.planes, job)
    names = {problem.name for problem in stack.problems}
    is_upright = choices.resample and (
        stack.tilt_degrees > 0 or names - {"missing slices"} != set()
    )
    if is_upright:
        data, affine = resampled(data, stack, job)
        if stack.gaps:
            where = "; ".join(stack.gaps_in_words[:8])
            job.say(f"missing slices were computed from their neighbours too: {where}")
    elif stack.gaps:
        data, affine = filled(data, stack, job)
    else:
        affine = stack.affine(len(data))
    if not is_upright and stack.tilt_note:
        job.say(stack.tilt_note)
    is_derived = is_upright or bool(stack.gaps) or stack.planes[0].is_tile
    header = _header(row, stack, is_derived=is_derived)
    return Image(data, Geometry(data.shape, affine, "mm"), path, header, title=row.title)


def _needless(stack: Stack, choices: Choices) -> list[str]:
    """Return in words which choices had nothing to do."""
    notes = []
    if choices.fill_gap and not stack.gaps:
        notes.append("no slice is missing: --fill-gap had nothing to do")
    if choices.resample and not stack.problems and not stack.tilt_degrees > 0:
        notes.append("the slices are upright and evenly spaced: --resample had nothing to do")
    return notes


def _header(row: Row, stack: Stack, *, is_derived: bool) -> DicomHeader:
    first = stack.planes[0]
    frames = tuple(one.frame + 1 for one in stack.planes)
    return DicomHeader(
        tuple(one.path for one in stack.planes),
        frames if min(frames) > 0 and not first.is_tile else None,
        is_derived,
        first.texts.get("class", ""),
        tuple(one.texts.get("instance", "") for one in stack.planes),
        first.texts.get("study", ""),
        row.uid,
        first.texts.get("frame_of_reference", ""),
        row.modality,
        row.number,
        first.syntax,
    )


FORMAT = Format(
    name="dicom",
    title="DICOM series in a folder",
    suffixes=(".dcm", ".dicom", ".ima"),
    sniff=sniff,
    read_image=read_image,
    inspect=inspect,
    choices=frozenset({"series", "resample", "fill_gap"}),
    proof="real data",
)

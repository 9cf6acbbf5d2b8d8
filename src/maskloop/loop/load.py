"""First verb: read an image or a mask, whatever its format."""

from __future__ import annotations

import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from maskloop import formats
from maskloop.core.errors import FormatError, InputError, UnknownNameError
from maskloop.core.job import Job
from maskloop.formats.base import Choices, Format, reading

if TYPE_CHECKING:
    from maskloop.core.image import Image
    from maskloop.core.labels import Kind
    from maskloop.core.mask import Mask
    from maskloop.datasets.base import DatasetFormat


def load(path: Path | str, *, choices: Choices | None = None, job: Job | None = None) -> Image:
    """Read a picture or a volume.

    Parameters
    ----------
    path : Path or str
        A file (NIfTI, NRRD, MetaImage, MGH, PNG, JPEG, TIFF, DICOM) or a folder of DICOM.
    choices : Choices, optional
        Decisions about a DICOM folder that cannot be loaded as it stands.
    job : Job, optional
        Progress and cancel.

    Returns
    -------
    Image
        ``([t,] z, y, x [, c])`` or ``([t,] y, x [, c])`` in the stored order and, where that can
        hold the values, the stored type.

    Raises
    ------
    MissingFileError
        If nothing is there.
    FormatError
        If the content is damaged, of no known format, or has no usable grid.
    GeometryError
        If slices are missing, repeated or unevenly spaced and no choice says what to do.
    InputError
        If the file holds labels only, or a choice has no meaning for the format.
    UnknownNameError
        If no series has the chosen number or UID.
    MissingExtraError
        If pixels need a decoder that is not installed.
    """
    path, choices = Path(path), choices or Choices()
    found = format_of(path)
    if found.read_image is None:
        msg = (
            f"expected an image, got {path.name} ({found.title}), which holds labels only; "
            f"pass it as a mask"
        )
        raise InputError(msg)
    if odd := choices.made - found.choices:
        flags = ", ".join(sorted("--" + name.replace("_", "-") for name in odd))
        msg = (
            f"expected no such choice for {found.title}, got {flags}; leave it out: it is for "
            "DICOM series"
        )
        raise InputError(msg)
    with reading(path):
        return found.read_image(path, choices=choices, job=job or Job())


def load_mask(
    path: Path | str,
    *,
    image: Image | None = None,
    entry: str | int | None = None,
    kind: Kind | None = None,
    job: Job | None = None,
) -> Mask:
    """Read label ids and what they mean.

    Parameters
    ----------
    path : Path or str
        NIfTI, NRRD, MetaImage, MGH, PNG, TIFF, COCO, DICOM SEG or RTSTRUCT file, a case folder, or
        a file of another dataset format that holds annotations (LabelMe, GeoJSON, CVAT).
    image : Image, optional
        The image the mask belongs to: the mask must lie on its grid. In a COCO file of many
        images it chooses the entry by file name; an RTSTRUCT cannot be read without it.
    entry : str or int, optional
        File name or id of the image in a COCO file of many; number, name or label id of the one
        segment or region to read; name of one of a case's masks.
    kind : {"classes", "objects"}, optional
        What ids without a table are; objects where not said.
    job : Job, optional
        Progress and cancel.

    Raises
    ------
    MissingFileError, FormatError
        As for `load`.
    InputError
        If the file holds images only, values are not whole numbers of at least 0, or regions
        overlap and `entry` chooses none.
    GeometryError
        If the mask does not lie on the image's grid; says by how many mm and at which corner.
    """
    path = Path(path)
    if (path / "case.json").is_file():
        return _mask_of_case(path, image, entry, job)
    if (part := _item_of(path, image, entry, job)) is not None:
        return part
    found = format_of(path)
    if found.read_mask is None:
        raise _no_mask(path, found)
    if entry is not None and not found.has_entries:
        msg = f"expected a file of several masks to choose {str(entry)!r} from, got {path.name}"
        raise InputError(f"{msg} ({found.title}), which holds one; leave --entry out")
    with reading(path):
        mask = found.read_mask(path, image=image, entry=entry, kind=kind, job=job or Job())
    if image is not None:
        mask.require_on(image)
    return mask


def load_masks(
    path: Path | str,
    *,
    image: Image | None = None,
    kind: Kind | None = None,
    job: Job | None = None,
) -> list[Mask]:
    """Read a file whose regions may overlap as masks that have no overlap inside.

    Parameters
    ----------
    path, image, kind, job
        As for `load_mask`.

    Returns
    -------
    list of Mask
        At least one; only one where nothing overlaps.

    Raises
    ------
    MissingFileError, FormatError, InputError, GeometryError
        As for `load_mask`.
    """
    path = Path(path)
    found = None if (path / "case.json").is_file() else format_of(path)
    if found is None or found.read_masks is None:
        return [load_mask(path, image=image, kind=kind, job=job)]
    with reading(path):
        masks = found.read_masks(path, image=image, kind=kind, job=job or Job())
    for mask in masks:
        if image is not None:
            mask.require_on(image)
    return masks


def _mask_of_case(
    folder: Path, image: Image | None, entry: str | int | None, job: Job | None
) -> Mask:
    from maskloop.desk.cases import replay

    mask = replay(folder, mask=None if entry is None else str(entry), job=job)
    if image is not None:
        mask.require_on(image)
    return mask


def annotations_at(path: Path) -> DatasetFormat | None:
    """Return the dataset format of a single file of annotations that no file format reads."""
    from maskloop import datasets

    by_name = formats.by_suffix(path)
    is_open = by_name is None or (by_name[0] == "coco" and not formats.get("coco").sniff(path))
    return datasets.known(path) if is_open and path.is_file() else None


def _item_of(
    path: Path, image: Image | None, entry: str | int | None, job: Job | None
) -> Mask | None:
    """Return the mask of one picture of a file of annotations; None if it is no such file."""
    from maskloop.datasets.base import Options

    known = annotations_at(path)
    if known is None or known.open is None:
        return None
    job = job or Job()
    dataset = known.open(path, options=Options(), job=job)
    wanted = str(entry) if entry is not None else image.name if image is not None else None
    fits = [
        item
        for item in dataset.items
        if len(dataset.items) == 1 or wanted in (item.name, PurePosixPath(item.name).name)
    ]
    if len(fits) != 1:
        listed = ", ".join(item.name for item in dataset.items[:8])
        msg = (
            f"expected one of the {len(dataset.items)} pictures of {path.name}, got "
            f"{wanted or 'none chosen'!r}; choose with --entry or --image from: {listed}"
        )
        raise InputError(msg)
    mask, lost = dataset.read(fits[0], job).settled()
    if lost:
        job.say(f"{lost} pixels of {path.name} belong to several objects; each went to one of them")
    if image is not None:
        mask.require_on(image)
    return mask


def _no_mask(path: Path, found: Format) -> InputError:
    return InputError(
        f"expected a mask, got {path.name} ({found.title}), which holds images only; choose "
        "a label file"
    )


def format_of(path: Path) -> Format:
    """Return the format of an existing file or folder: by its suffix, else by its content.

    Raises
    ------
    MissingFileError
        If nothing is there.
    FormatError
        If no format knows it.
    """
    with reading(path):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return formats.get("dicom")
        if not stat.S_ISREG(mode):  # a pipe would be waited on for ever
            msg = f"expected a file or a folder, got {path.name!r}, which is neither; save it first"
            raise FormatError(msg)
        by_name = formats.by_suffix(path)
        if by_name is not None:
            kin = (formats.get(name) for name in formats.KIN.get(by_name[0], ()))
            return next((k for k in kin if k.sniff(path)), None) or formats.get(by_name[0])
        for name in formats.FORMATS:
            candidate = formats.get(name)
            if candidate.sniff(path):
                return candidate
    known = ", ".join(end for ends in formats.suffixes().values() for end in ends)
    msg = f"expected a file of a known format ({known}), got {path.name!r}; convert it first"
    raise FormatError(msg)


def format_to_write(
    out: Path, to: str | None, *, what: Literal["masks", "images"] = "masks"
) -> tuple[Format, str]:
    """Return the format and the suffix in which to write `out`; `to` overrides the suffix.

    Raises
    ------
    UnknownNameError
        If neither names a format that can hold `what`; the message lists those that can.
    """
    chosen = formats.by_suffix(out) if to is None else formats.by_word(to)
    names = (chosen[0], *formats.KIN.get(chosen[0], ())) if chosen is not None else ()
    found = next((f for f in map(formats.get, names) if _writes(f, what)), None)
    if chosen is None or found is None:
        writable = [f for f in map(formats.get, formats.FORMATS) if _writes(f, what)]
        known = [f"{f.name} ({', '.join(f.suffixes)})" for f in writable]
        raise UnknownNameError.of(
            f"format for {what}", to or "".join(out.suffixes) or out.name, known
        )
    by_name = next((end for end in found.suffixes if out.name.lower().endswith(end)), "")
    given = chosen[1] if chosen[1] in found.suffixes else ""
    return found, given or by_name or found.suffixes[0]


def _writes(found: Format, what: str) -> bool:
    return (found.write_mask if what == "masks" else found.write_image) is not None

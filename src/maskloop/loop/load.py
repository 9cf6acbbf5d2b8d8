"""First verb: read an image or a mask, whatever its format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from maskloop import formats
from maskloop.core.errors import FormatError, InputError, UnknownNameError
from maskloop.core.job import Job
from maskloop.formats.base import Format, reading

if TYPE_CHECKING:
    from maskloop.core.image import Image
    from maskloop.core.labels import Kind
    from maskloop.core.mask import Mask


def load(path: Path | str, *, job: Job | None = None) -> Image:
    """Read a picture or a volume.

    Parameters
    ----------
    path : Path or str
        A file (NIfTI, PNG, JPEG, TIFF, DICOM) or a folder with one DICOM series.
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
    """
    path = Path(path)
    found = format_of(path)
    if found.read_image is None:
        msg = (
            f"expected an image, got {path.name} ({found.title}), which holds labels only; "
            f"pass it as a mask"
        )
        raise InputError(msg)
    with reading(path):
        return found.read_image(path, job=job or Job())


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
        NIfTI, PNG, TIFF or COCO file.
    image : Image, optional
        The image the mask belongs to: the mask must lie on its grid. In a COCO file of many
        images it chooses the entry by file name.
    entry : str or int, optional
        File name or id of the image in a COCO file of many.
    kind : {"classes", "objects"}, optional
        What ids without a table are; objects where not said.
    job : Job, optional
        Progress and cancel.

    Raises
    ------
    MissingFileError, FormatError
        As for `load`.
    InputError
        If values are not whole numbers of at least 0.
    GeometryError
        If the mask does not lie on the image's grid; says by how many mm and at which corner.
    """
    path = Path(path)
    found = format_of(path)
    if found.read_mask is None:
        msg = (
            f"expected a mask, got {path.name} ({found.title}), which holds images only; choose "
            "a label file"
        )
        raise InputError(msg)
    with reading(path):
        mask = found.read_mask(path, image=image, entry=entry, kind=kind, job=job or Job())
    if image is not None:
        mask.require_on(image)
    return mask


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
        path.stat()
        if path.is_dir():
            return formats.get("dicom")
        by_name = formats.by_suffix(path)
        if by_name is not None:
            return formats.get(by_name[0])
        for name in formats.FORMATS:
            candidate = formats.get(name)
            if candidate.sniff(path):
                return candidate
    known = ", ".join(end for ends in formats.suffixes().values() for end in ends)
    msg = f"expected a file of a known format ({known}), got {path.name!r}; convert it first"
    raise FormatError(msg)


def format_to_write(out: Path, to: str | None) -> tuple[Format, str]:
    """Return the format and the suffix in which to write `out`; `to` overrides the suffix.

    Raises
    ------
    UnknownNameError
        If neither names a format that can hold masks; the message lists those that can.
    """
    chosen = formats.by_suffix(out) if to is None else formats.by_word(to)
    found = formats.get(chosen[0]) if chosen is not None else None
    if chosen is None or found is None or found.write_mask is None:
        writable = [f for f in map(formats.get, formats.FORMATS) if f.write_mask is not None]
        known = [f"{f.name} ({', '.join(f.suffixes)})" for f in writable]
        raise UnknownNameError.of(
            "format for masks", to or "".join(out.suffixes) or out.name, known
        )
    by_name = next((end for end in found.suffixes if out.name.lower().endswith(end)), "")
    return found, chosen[1] or by_name or found.suffixes[0]

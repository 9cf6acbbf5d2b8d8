"""Write an image in another format, on the same grid and proved; identity stays behind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from maskloop.core.errors import StorageError
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.formats.verify import Receipt, write_verified
from maskloop.loop.load import format_to_write, load

if TYPE_CHECKING:
    from maskloop.formats.base import Choices


def convert(
    source: Image | Path | str,
    out: Path | str,
    *,
    choices: Choices | None = None,
    to: str | None = None,
    job: Job | None = None,
) -> Receipt:
    """Write an image and prove the file.

    As `maskloop.export` for masks: written beside `out`, read back by code that shares nothing
    with the writer, compared voxel by voxel and corner by corner, and only then put in place.
    Values and grid go along, no text of the source's header does.

    Parameters
    ----------
    source : Image, Path or str
        Pixels, or what `load` reads.
    out : Path or str
        Target; the suffix chooses the format.
    choices : Choices, optional
        Where `source` is a DICOM folder that cannot be loaded as it stands.
    to : str, optional
        Format or suffix that overrides the suffix of `out`.
    job : Job, optional
        Progress and cancel.

    Returns
    -------
    Receipt
        Verdict, hashes, what the format could not hold.

    Raises
    ------
    UnknownNameError
        If the format is not known or holds no images.
    InputError
        If the format cannot hold this image, such as a volume in a PNG.
    VerificationError, StorageError
        If the file does not read back as meant, or the disk refuses; the old file is untouched.
    """
    job, out = job or Job(), Path(out)
    if out.is_dir():
        msg = (
            f"expected a file name to write to, got the folder {str(out)!r}; add a name such as "
            "image.nii.gz"
        )
        raise StorageError(msg)
    chosen, suffix = format_to_write(out, to, what="images")
    image = source if isinstance(source, Image) else load(source, choices=choices, job=job)
    return write_verified(chosen, image, out, suffix=suffix, job=job)

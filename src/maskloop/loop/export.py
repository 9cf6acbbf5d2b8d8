"""Fourth verb: write a mask, read it back with a second reader, and only then replace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maskloop import formats
from maskloop.core.errors import InputError, StorageError
from maskloop.core.job import Job
from maskloop.core.mask import Mask
from maskloop.core.review import Review
from maskloop.desk.cases import is_case
from maskloop.formats.base import as_kind, default_table
from maskloop.formats.verify import Receipt, write_verified
from maskloop.loop.load import format_to_write, load, load_mask

if TYPE_CHECKING:
    from maskloop.core.image import Image
    from maskloop.core.labels import Kind, LabelTable
    from maskloop.formats.base import Choices

__all__ = ["Receipt", "export"]


def export(
    mask: Mask | Path | str,
    out: Path | str,
    *,
    image: Image | Path | str | None = None,
    to: str | None = None,
    kind: Kind | None = None,
    entry: str | int | None = None,
    choices: Choices | None = None,
    keep_phi: bool = False,
    review: Review | None = None,
    job: Job | None = None,
) -> Receipt:
    """Write a mask and prove the file.

    The file is written beside `out`, read back by a reader that shares no code with the writer,
    compared voxel by voxel, label by label and corner by corner in mm, and only then put in
    place, together with its label table (``OUT.labels.json``, where the format holds none that
    all programs read) and its receipt (``OUT.receipt.json``).

    Parameters
    ----------
    mask : Mask, Path or str
        Label ids, a file of them, or a case folder, which brings its review along.
    out : Path or str
        Target; the suffix chooses the format.
    image : Image, Path or str, optional
        The image the mask belongs to: gives header and file name; the grids must agree.
    to : str, optional
        Format (``"nifti"``) or suffix (``"png"``) that overrides the suffix of `out`.
    kind : {"classes", "objects"}, optional
        What ids without a table are; objects where not said.
    entry : str or int, optional
        Where `mask` is a file of several: which one; see `load_mask`.
    choices : Choices, optional
        Where `image` is a path: see `load`.
    keep_phi : bool
        Whether the patient's identity may go into formats that have a place for it (DICOM SEG).
    review : Review, optional
        What the reader saw and decided. Slices not looked at and candidates not decided are told
        and recorded in the receipt; nothing is refused for them.
    job : Job, optional
        Progress and cancel.

    Returns
    -------
    Receipt
        Verdict, hashes, voxels and volume of each label, what the format could not hold.

    Raises
    ------
    UnknownNameError
        If the format is not known or holds no masks.
    GeometryError
        If the mask is not on the image's grid.
    InputError
        If the format cannot hold this mask, such as a volume in a PNG.
    VerificationError
        If the file does not read back as meant; the old file is untouched.
    StorageError
        If the disk refuses; the old file is untouched.
    """
    job = job or Job()
    out = Path(out)
    if out.is_dir():
        msg = (
            f"expected a file name to write to, got the folder {str(out)!r}; add a name such as "
            "mask.nii.gz"
        )
        raise StorageError(msg)
    chosen, suffix = format_to_write(out, to)
    if choices is not None and choices.made and not isinstance(image, (str, Path)):
        flags = ", ".join(sorted("--" + name.replace("_", "-") for name in choices.made))
        msg = f"expected an image to which {flags} applies, got none; add --image FOLDER"
        raise InputError(msg)
    if keep_phi and not chosen.can_keep_phi:
        msg = (
            f"expected a format with a place for identity (DICOM SEG), got {chosen.title}; "
            "leave --keep-phi out, or write .seg.dcm"
        )
        raise InputError(msg)
    on = load(image, choices=choices, job=job) if isinstance(image, (str, Path)) else image
    if on is not None and _is_of(out, on):
        msg = (
            f"expected a place for the mask other than its image, got {str(out)!r} for both; "
            "choose another name"
        )
        raise InputError(msg)
    if not isinstance(mask, Mask):
        folder = Path(mask)
        mask = load_mask(mask, image=on, entry=entry, kind=kind, job=job)
        if review is None and is_case(folder):
            review = Review.load(folder, shape=mask.geometry.shape, is_read_only=True)
            if review.notice:
                job.say(review.notice)
    if on is not None:
        mask.require_on(on)
        # A mask read onto this very image may carry what its own file said beside its header.
        series = getattr(mask.header, "series", None)
        is_kept = on.header is None or (series is not None and series == on.header)
        header = mask.header if is_kept else on.header
        mask = replace(mask, geometry=on.geometry, source=on.source, header=header, title=on.title)
    ready = _with_table(mask, kind)
    report = None if review is None else review.report(_extent(ready))
    receipt = write_verified(
        chosen, ready, out, suffix=suffix, job=job, keep_phi=keep_phi, report=report
    )
    for warning in receipt.warnings:
        job.say(warning)
    return receipt


def _extent(mask: Mask) -> list[range]:
    """Return the slices along each axis that hold a label; all of them in an empty mask."""
    ndim, hits = mask.geometry.ndim, [np.zeros(n, bool) for n in mask.geometry.shape]
    frames = mask.data.reshape(-1, *mask.geometry.shape)
    for frame in frames:
        for index, plane in enumerate(frame):
            held = plane != 0
            if not held.any():
                continue
            hits[0][index] = True
            for axis in range(1, ndim):
                others = tuple(a for a in range(ndim - 1) if a != axis - 1)
                hits[axis] |= held.any(axis=others)
    if not hits[0].any():
        return [range(n) for n in mask.geometry.shape]
    ends = [np.flatnonzero(hit)[[0, -1]] for hit in hits]
    return [range(int(first), int(last) + 1) for first, last in ends]


def _is_of(out: Path, image: Image) -> bool:
    """Return whether `out` is the image's own file, or a slice of some DICOM series."""
    if not out.is_file():
        return False
    if image.source is not None and image.source.is_file() and out.samefile(image.source):
        return True
    name, _ = formats.by_suffix(out) or ("", "")
    return name in ("dicom", "dicomseg") and formats.get("dicom").sniff(out)


def _with_table(mask: Mask, kind: Kind | None) -> Mask:
    """Return the mask with a row for every id, read as `kind`."""
    labels: LabelTable = mask.labels or default_table(mask.ids(), kind)
    return replace(mask, labels=as_kind(labels, kind)).checked()

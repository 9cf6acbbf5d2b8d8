"""A file is written aside, read back by other code, compared, and only then put in place."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError, VerificationError
from maskloop.core.files import sha256_of
from maskloop.core.image import Image
from maskloop.formats.base import (
    Evidence,
    Format,
    Planned,
    PlannedImage,
    Target,
    receipt_of,
    sidecar_of,
    table_bytes,
    voxel_counts,
)
from maskloop.formats.swap import Swap

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from maskloop.core.geometry import Geometry
    from maskloop.core.job import Job
    from maskloop.core.labels import LabelTable
    from maskloop.core.mask import Mask
    from maskloop.core.report import Report


@dataclass(frozen=True, slots=True)
class LabelCount:
    """How much of one label a file holds; volume is None where the grid has no mm."""

    id: int
    name: str
    voxels: int
    volume_ml: float | None = None
    objects: int | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof that a file was read back by a second reader and is what was meant.

    Parameters
    ----------
    path : Path
        The written file.
    format, verdict, reader : str
        Format name, ``"PASS"``, name of the second reader.
    sha256 : dict of str to str
        File name -> hash, for the file, its companion and its sidecar.
    labels : list of LabelCount
        Counted in the file that was read back.
    worst_corner_mm : float, optional
        Largest distance between a corner voxel's place in the file and in the mask.
    losses : tuple of str
        What the format cannot hold, in words.
    written : str
        ISO time, UTC.
    source : str, optional
        Name of the file the mask or its image came from; for DICOM, its modality and series.
    shape : tuple of int
        Of the stored array, in maskloop's order.
    what : str
        ``"mask"`` or ``"image"``.
    warnings : tuple of str
        What was left open when the file was written: slices not looked at, candidates not decided.
    review : mapping, optional
        The same as JSON-ready values; None where no review was given.
    """

    path: Path
    format: str
    verdict: str
    reader: str
    sha256: dict[str, str]
    labels: list[LabelCount]
    worst_corner_mm: float | None
    losses: tuple[str, ...] = ()
    written: str = ""
    source: str | None = None
    shape: tuple[int, ...] = ()
    what: str = "mask"
    warnings: tuple[str, ...] = ()
    review: Mapping[str, Any] | None = None  # Any: plain JSON values

    def to_json(self) -> dict[str, Any]:  # Any: plain JSON values
        """Return the receipt as JSON-ready values."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        rows = [{f.name: getattr(row, f.name) for f in fields(row)} for row in self.labels]
        return {
            **plain,
            "path": str(self.path),
            "labels": rows,
            "losses": list(self.losses),
            "shape": list(self.shape),
            "warnings": list(self.warnings),
        }

    def to_text(self) -> str:
        """Return the receipt in lines for people."""
        lines = [f"{self.verdict}  {self.path}  ({self.format}, read back with {self.reader})"]
        if self.worst_corner_mm is not None:
            lines.append(f"  grid     worst corner {self.worst_corner_mm:.2g} mm off")
        for row in self.labels:
            volume = "" if row.volume_ml is None else f", {row.volume_ml:.3f} ml"
            lines.append(f"  label    {row.id} {row.name}: {row.voxels} voxels{volume}")
        if not self.labels and self.what == "mask":
            lines.append("  label    none: the mask is empty")
        lines += [f"  lost     {loss}" for loss in self.losses]
        lines += [f"  warning  {warning}" for warning in self.warnings]
        lines += [f"  sha256   {digest}  {name}" for name, digest in self.sha256.items()]
        return "\n".join(lines)


def write_verified(
    format: Format,
    item: Mask | Image,
    path: Path,
    *,
    suffix: str,
    job: Job,
    keep_phi: bool = False,
    report: Report | None = None,
) -> Receipt:
    """Write `item` beside `path`, read it back with a second reader, compare, then replace.

    The file, its companion, its sidecar and its receipt are replaced together: if anything fails,
    all are what they were, and no temporary file remains.

    Parameters
    ----------
    format : Format
        Must be able to write such an item.
    item : Mask or Image
        A mask needs a row for every id that occurs.
    path : Path
        Target; an existing regular file is replaced, its permissions kept.
    suffix : str
        One of the format's; chooses the dialect.
    job : Job
        Told of the stages; cancelling before the last one leaves everything as it was.
    keep_phi : bool
        Whether the patient's identity may be written, by formats that have a place for it.
    report : Report, optional
        What the review of the mask leaves open; recorded in the receipt, refuses nothing.

    Raises
    ------
    VerificationError
        If the file does not read back as what was meant.
    StorageError
        If the disk refuses.
    InputError
        If the format cannot hold such an item.
    """
    planned = _planned(format, item, suffix)
    with Swap(path, suffix) as swap:
        job.report("write", 0, 3)
        second = format.companion(path, suffix) if format.companion is not None else None
        # The companion is put in place first: a file never names one that is not there yet.
        aside = swap.file(second) if second is not None else None
        to = Target(swap.file(path), suffix, path, aside, second, keep_phi)
        _write(format, planned, to)
        job.report("read back", 1, 3)
        evidence = _read_back(format, to)
        worst = _compare(planned, evidence, path)
        hashes = {path.name: sha256_of(to.path)}
        if aside is not None and second is not None:
            hashes[second.name] = sha256_of(aside)
        if format.has_sidecar and isinstance(planned, Planned):
            side = swap.file(sidecar_of(path))
            hashes[sidecar_of(path).name] = _write_table(planned.mask.labels, side, path)
        receipt = Receipt(
            path=path,
            format=format.name,
            verdict="PASS",
            reader=format.reader,
            sha256=hashes,
            labels=[] if isinstance(item, Image) else _label_counts(item, evidence.data),
            worst_corner_mm=worst,
            losses=planned.losses,
            written=datetime.now(UTC).isoformat(timespec="seconds"),
            source=item.title or (item.source.name if item.source is not None else None),
            shape=tuple(_stored(planned).shape),
            what="image" if isinstance(item, Image) else "mask",
            warnings=() if report is None else report.warnings,
            review=None if report is None else report.to_json(),
        )
        swap.file(receipt_of(path)).write_bytes(_receipt_bytes(receipt))
        job.report("replace", 2, 3)
        swap.commit()
    if second is not None and format.companion is not None:
        # The file names `second` now; the other name held what was there before.
        spare = format.companion(path, suffix)
        if spare is not None and spare != second:
            with suppress(OSError):
                spare.unlink(missing_ok=True)
    job.report("done", 3, 3)
    return receipt


def _planned(format: Format, item: Mask | Image, suffix: str) -> Planned | PlannedImage:
    what = "images" if isinstance(item, Image) else "masks"
    if format.reread is not None:
        if isinstance(item, Image):
            if format.plan_image is not None and format.write_image is not None:
                return format.plan_image(item, suffix=suffix)
        elif format.plan is not None and format.write_mask is not None:
            return format.plan(item, suffix=suffix)
    msg = f"expected a format that can be written with {what}, got {format.name!r}; choose another"
    raise InputError(msg)


def _write(format: Format, planned: Planned | PlannedImage, to: Target) -> None:
    if isinstance(planned, Planned):
        if format.write_mask is not None:
            format.write_mask(planned.mask, to)
    elif format.write_image is not None:
        format.write_image(planned.image, to)


def _stored(planned: Planned | PlannedImage) -> npt.NDArray[Any]:
    return planned.mask.data if isinstance(planned, Planned) else planned.image.data


def _write_table(labels: LabelTable, side: Path, path: Path) -> str:
    text = table_bytes(labels)
    side.write_bytes(text)
    if side.read_bytes() != text:
        msg = (
            f"expected the label table of {path.name} to read back as written, got other "
            "bytes; check the disk"
        )
        raise VerificationError(msg)
    return sha256_of(side)


def _read_back(format: Format, to: Target) -> Evidence:
    """Return what the second reader finds; a file that it cannot read at all is wrong too."""
    if format.reread is None:
        msg = f"expected a format with a second reader, got {format.name!r}; choose another one"
        raise InputError(msg)
    try:
        return format.reread(to)
    except VerificationError:
        raise
    except (
        *(ValueError, KeyError, IndexError, TypeError, AttributeError, SyntaxError, EOFError),
        *(struct.error, zlib.error, OSError),
    ) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        msg = (
            f"expected {to.final.name} to read back, got {type(error).__name__}: {error}; "
            f"the old file was kept"
        )
        raise VerificationError(msg) from error


def _label_counts(mask: Mask, ids: npt.NDArray[Any]) -> list[LabelCount]:
    in_mm = mask.geometry.unit == "mm" and mask.geometry.ndim == 3
    size = mask.geometry.voxel_size / 1000 if in_mm else None
    names = mask.labels.names
    return [
        LabelCount(i, names.get(i, f"label {i}"), n, None if size is None else n * size)
        for i, n in voxel_counts(ids).items()
    ]


def _receipt_bytes(receipt: Receipt) -> bytes:
    import orjson

    # The full path may name a person; the file's own name is enough beside the file.
    return orjson.dumps(
        {**receipt.to_json(), "path": receipt.path.name},
        option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
    )


def _compare(planned: Planned | PlannedImage, evidence: Evidence, path: Path) -> float | None:
    """Return the worst corner in mm; raise `VerificationError` at the first difference."""
    meant, found = _stored(planned), evidence.data
    if [n for n in found.shape if n > 1] != [n for n in meant.shape if n > 1]:
        msg = (
            f"expected {path.name} to read back with shape {meant.shape}, got {found.shape}; the "
            "old file was kept"
        )
        raise VerificationError(msg)
    found = found.reshape(meant.shape)
    if not _are_equal(found, meant):
        differs = np.asarray(found != meant)
        if meant.dtype.kind == "f":
            differs &= ~(np.isnan(found) & np.isnan(meant))
        if differs.any():
            first = tuple(int(n) for n in np.argwhere(differs)[0])
            msg = (
                f"expected {path.name} to read back as written, got {int(differs.sum())} other "
                f"voxels, the first at index {first} ({found[first]!r} for {meant[first]!r}); "
                f"the old file was kept"
            )
            raise VerificationError(msg)
    if isinstance(planned, Planned):
        _compare_labels(planned.mask.labels, evidence.labels, path)
    return _compare_grids(planned.geometry, evidence.geometry, path)


def _are_equal(found: npt.NDArray[Any], meant: npt.NDArray[Any]) -> bool:
    """Compare slab by slab: what is compared stays in the cache."""
    if meant.ndim < 3:
        return np.array_equal(found, meant)
    return all(np.array_equal(one, other) for one, other in zip(found, meant, strict=True))


def _compare_labels(meant: LabelTable, found: Mapping[int, str] | None, path: Path) -> None:
    if found is None:
        return
    wrong = [(i, n, found.get(i)) for i, n in meant.names.items() if found.get(i) != n]
    if wrong:
        number, name, other = wrong[0]
        msg = (
            f"expected label {number} of {path.name} to read back as {name!r}, got {other!r}; "
            "the old file was kept"
        )
        raise VerificationError(msg)


def _compare_grids(meant: Geometry | None, found: Geometry | None, path: Path) -> float | None:
    if meant is None:
        return None
    if found is None or found.shape != meant.shape:
        shape = None if found is None else found.shape
        msg = (
            f"expected {path.name} to read back on a grid of shape {meant.shape}, got {shape}; "
            "the old file was kept"
        )
        raise VerificationError(msg)
    corners = meant.corners()
    gaps = np.linalg.norm(found.corners() - corners, axis=1)
    # Headers hold float32: far from the origin a micrometre-sized voxel cannot be placed better.
    rounding = 8 * float(np.finfo(np.float32).eps) * float(np.abs(corners).max())
    allowed = max(min(1e-3, 0.01 * min(meant.spacing)), rounding)
    worst = float(gaps.max())
    if not worst <= allowed:
        msg = (
            f"expected the corners of {path.name} to read back within {allowed:.2g} {meant.unit}, "
            f"got one {worst:.3g} {meant.unit} away; the old file was kept"
        )
        raise VerificationError(msg)
    return worst if meant.unit == "mm" else None

"""What a format can do, what an export proves, and how a file is replaced only once it is right."""

from __future__ import annotations

import hashlib
import struct
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError, MissingFileError, StorageError, VerificationError
from maskloop.core.labels import Kind, LabelTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from maskloop.core.geometry import Geometry
    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.core.mask import Mask
from maskloop.formats.swap import Swap, words

SIDECAR = ".labels.json"
RECEIPT = ".receipt.json"


class ReadImage(Protocol):
    """Read pixels and their grid."""

    def __call__(self, path: Path, *, job: Job) -> Image:
        """Return the image at `path`."""
        ...


class ReadMask(Protocol):
    """Read label ids, their grid and their table.

    `image` and `entry` choose among several masks in one file; `kind` says what ids without a
    table mean.
    """

    def __call__(
        self,
        path: Path,
        *,
        image: Image | None,
        entry: str | int | None,
        kind: Kind | None,
        job: Job,
    ) -> Mask:
        """Return the mask at `path`."""
        ...


class WriteMask(Protocol):
    """Write a mask to `path` in the dialect of `suffix`; `target` is the name it will bear."""

    def __call__(self, mask: Mask, path: Path, *, suffix: str, target: Path) -> None:
        """Write the file."""
        ...


class Reread(Protocol):
    """Read back what was written, sharing no code with the writer."""

    def __call__(self, path: Path, *, suffix: str) -> Evidence:
        """Return what the file holds."""
        ...


class Sniff(Protocol):
    """Whether the content of a file or folder is of this format, whatever its name."""

    def __call__(self, path: Path) -> bool:
        """Return whether it is."""
        ...


class Plan(Protocol):
    """Return the mask as the format can hold it, what is lost by that, and the stored grid.

    Raises an `InputError` for what the format cannot hold at all.
    """

    def __call__(self, mask: Mask, *, suffix: str) -> Planned:
        """Return the plan."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What a second reader found in a written file.

    Parameters
    ----------
    ids : array
        In maskloop's array order; axes of length 1 may be missing or added.
    geometry : Geometry, optional
        None where the format holds no grid.
    labels : mapping of int to str, optional
        Names by id; None where the file itself holds no table.
    """

    ids: npt.NDArray[Any]
    geometry: Geometry | None
    labels: Mapping[int, str] | None


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """A mask as it will be stored, the grid the file must then state, and what is lost."""

    mask: Mask
    geometry: Geometry | None
    losses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Format:
    """One file format; what is None it cannot do.

    Parameters
    ----------
    name, title : str
        Key on the shelf, words for people.
    suffixes : tuple of str
        Lower case, longest first; the first is the default.
    sniff : callable
        Tells the format by content.
    read_image, read_mask, write_mask : callable, optional
        The three directions.
    plan : callable, optional
        Adapts a mask before `write_mask`.
    reread : callable, optional
        The second reader; must not share code with `write_mask`.
    reader : str
        Name of the second reader, for the receipt.
    has_sidecar : bool
        Whether the label table is also written beside the file.
    proof : str
        ``"real data"``, ``"synthetic data only"`` or ``"experimental"``.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    sniff: Sniff
    read_image: ReadImage | None = None
    read_mask: ReadMask | None = None
    write_mask: WriteMask | None = None
    plan: Plan | None = None
    reread: Reread | None = None
    reader: str = ""
    has_sidecar: bool = False
    proof: str = "synthetic data only"


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
        File name -> hash, for the file and its sidecar.
    labels : list of LabelCount
        Counted in the file that was read back.
    worst_corner_mm : float, optional
        Largest distance between a corner voxel's place in the file and in the mask.
    losses : tuple of str
        What the format cannot hold, in words.
    written : str
        ISO time, UTC.
    source : str, optional
        Name of the file the mask or its image came from.
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
    shape: tuple[int, ...] = field(default=())

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
        }

    def to_text(self) -> str:
        """Return the receipt in lines for people."""
        lines = [f"{self.verdict}  {self.path}  ({self.format}, read back with {self.reader})"]
        if self.worst_corner_mm is not None:
            lines.append(f"  grid     worst corner {self.worst_corner_mm:.2g} mm off")
        for row in self.labels:
            volume = "" if row.volume_ml is None else f", {row.volume_ml:.3f} ml"
            lines.append(f"  label    {row.id} {row.name}: {row.voxels} voxels{volume}")
        if not self.labels:
            lines.append("  label    none: the mask is empty")
        lines += [f"  lost     {loss}" for loss in self.losses]
        lines += [f"  sha256   {digest}  {name}" for name, digest in self.sha256.items()]
        return "\n".join(lines)


def sidecar_of(path: Path) -> Path:
    """Return where the label table of a mask file lies: ``mask.nii.gz.labels.json``."""
    return path.with_name(path.name + SIDECAR)


def receipt_of(path: Path) -> Path:
    """Return where the receipt of a mask file lies: ``mask.nii.gz.receipt.json``."""
    return path.with_name(path.name + RECEIPT)


def table_bytes(labels: LabelTable) -> bytes:
    """Return a label table as the JSON of sidecars and NIfTI extensions; same table, same bytes."""
    import orjson

    return orjson.dumps(
        {"maskloop": 1, "labels": labels.to_rows()}, option=orjson.OPT_APPEND_NEWLINE
    )


def table_from(text: bytes) -> LabelTable | None:
    """Return the table held in `table_bytes`, or None if this is something else."""
    import orjson

    try:
        found = orjson.loads(text.strip(b"\0 \n"))
        return LabelTable.from_rows(found["labels"]) if "maskloop" in found else None
    except (ValueError, TypeError, KeyError):
        return None


def read_sidecar(path: Path) -> LabelTable | None:
    """Return the label table beside a mask file, or None if there is none that can be read."""
    try:
        return table_from(sidecar_of(path).read_bytes())
    except OSError:
        return None


def voxel_counts(ids: npt.NDArray[Any]) -> dict[int, int]:
    """Return ``{id: voxels}`` of the ids above 0, ascending."""
    totals: dict[int, int] = {}
    for slab in ids if ids.ndim > 2 else (ids,):
        # Ids come in runs: adding up run lengths is ten times cheaper than counting voxels.
        flat = slab.reshape(-1)
        starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        starts = np.concatenate(([0], starts))
        lengths = np.diff(starts, append=flat.size)
        values, place = np.unique(flat[starts], return_inverse=True)
        sums = np.bincount(place, weights=lengths)
        for number, count in zip(values.tolist(), sums.tolist(), strict=True):
            totals[int(number)] = totals.get(int(number), 0) + int(count)
    totals.pop(0, None)
    return dict(sorted(totals.items()))


def default_table(ids: list[int], kind: Kind | None) -> LabelTable:
    """Return rows for ids that came without a table; objects unless `kind` says classes."""
    if kind == "classes":
        return LabelTable.classes({i: f"label {i}" for i in ids})
    return LabelTable.objects(ids)


def as_kind(labels: LabelTable, kind: Kind | None) -> LabelTable:
    """Return the table read as classes or as objects; unchanged if it is so already."""
    from dataclasses import replace

    if kind is None or not labels or labels.kind == kind:
        return labels
    if kind == "objects":
        return LabelTable(replace(r, category=r.name, is_thing=True) for r in labels.values())
    return LabelTable(replace(r, category=None) for r in labels.values())


def missing(path: Path, what: str = "a file") -> MissingFileError:
    """Return the error for a path that does not exist."""
    return MissingFileError(
        f"expected {what} at {str(path)!r}, got nothing there; check the spelling and the folder"
    )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError met while reading `path` into a deliberate one."""
    try:
        yield
    except (MissingFileError, StorageError):
        raise
    except FileNotFoundError as error:
        raise missing(path) from error
    except OSError as error:
        if error.errno is None:  # libraries raise bare OSErrors for damaged content
            raise
        msg = (
            f"expected to read {str(path)!r}, but the system answered {words(error)!r}; "
            f"check its permissions and the disk"
        )
        raise StorageError(msg) from error


def write_verified(
    format: Format,
    mask: Mask,
    path: Path,
    *,
    suffix: str,
    job: Job,
) -> Receipt:
    """Write `mask` beside `path`, read it back with a second reader, compare, then replace.

    The file, its sidecar and its receipt are replaced together: if anything fails, all three are
    what they were, and no temporary file remains.

    Parameters
    ----------
    format : Format
        Must be able to write.
    mask : Mask
        With a row for every id that occurs.
    path : Path
        Target; an existing regular file is replaced, its permissions kept.
    suffix : str
        One of the format's; chooses the dialect.
    job : Job
        Told of the stages; cancelling before the last one leaves everything as it was.

    Raises
    ------
    VerificationError
        If the file does not read back as what was meant.
    StorageError
        If the disk refuses.
    InputError
        If the format cannot hold such a mask.
    """
    if format.plan is None or format.write_mask is None or format.reread is None:
        msg = f"expected a format that can hold masks, got {format.name!r}; choose another one"
        raise InputError(msg)
    planned = format.plan(mask, suffix=suffix)
    with Swap(path, suffix) as swap:
        job.report("write", 0, 3)
        main = swap.file(path)
        format.write_mask(planned.mask, main, suffix=suffix, target=path)
        job.report("read back", 1, 3)
        evidence = _read_back(format, main, suffix, path)
        worst = _compare(planned, evidence, path)
        hashes = {path.name: _sha256(main)}
        if format.has_sidecar:
            side = swap.file(sidecar_of(path))
            text = table_bytes(planned.mask.labels)
            side.write_bytes(text)
            if side.read_bytes() != text:
                msg = (
                    f"expected the label table of {path.name} to read back as written, got other "
                    "bytes; check the disk"
                )
                raise VerificationError(msg)
            hashes[sidecar_of(path).name] = _sha256(side)
        receipt = Receipt(
            path=path,
            format=format.name,
            verdict="PASS",
            reader=format.reader,
            sha256=hashes,
            labels=_label_counts(mask, evidence.ids),
            worst_corner_mm=worst,
            losses=planned.losses,
            written=datetime.now(UTC).isoformat(timespec="seconds"),
            source=mask.source.name if mask.source is not None else None,
            shape=tuple(planned.mask.data.shape),
        )
        swap.file(receipt_of(path)).write_bytes(_receipt_bytes(receipt))
        job.report("replace", 2, 3)
        swap.commit()
    job.report("done", 3, 3)
    return receipt


def _read_back(format: Format, main: Path, suffix: str, path: Path) -> Evidence:
    """Return what the second reader finds; a file that it cannot read at all is wrong too."""
    if format.reread is None:
        msg = f"expected a format with a second reader, got {format.name!r}; choose another one"
        raise InputError(msg)
    try:
        return format.reread(main, suffix=suffix)
    except VerificationError:
        raise
    except (
        *(ValueError, KeyError, IndexError, TypeError, AttributeError, SyntaxError, EOFError),
        *(struct.error, zlib.error, OSError),
    ) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        msg = (
            f"expected {path.name} to read back, got {type(error).__name__}: {error}; "
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


def _compare(planned: Planned, evidence: Evidence, path: Path) -> float | None:
    """Return the worst corner in mm; raise `VerificationError` at the first difference."""
    meant, found = planned.mask.data, evidence.ids
    if [n for n in found.shape if n > 1] != [n for n in meant.shape if n > 1]:
        msg = (
            f"expected {path.name} to read back with shape {meant.shape}, got {found.shape}; the "
            "old file was kept"
        )
        raise VerificationError(msg)
    found = found.reshape(meant.shape)
    if not np.array_equal(found, meant):
        first = tuple(int(n) for n in np.argwhere(found != meant)[0])
        msg = (
            f"expected {path.name} to read back as written, got {int((found != meant).sum())} "
            f"other voxels, the first at index {first} ({found[first]!r} for {meant[first]!r}); "
            f"the old file was kept"
        )
        raise VerificationError(msg)
    _compare_labels(planned.mask.labels, evidence.labels, path)
    return _compare_grids(planned.geometry, evidence.geometry, path)


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


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""What a format can do, what a person may choose, and where label tables lie."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError, InputError, MissingFileError, StorageError
from maskloop.core.labels import Kind, LabelTable
from maskloop.core.mask import as_ids, id_runs, present_ids
from maskloop.formats.swap import words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from maskloop.core.geometry import Geometry
    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.core.mask import Mask

SIDECAR = ".labels.json"
RECEIPT = ".receipt.json"


@dataclass(frozen=True, slots=True)
class Choices:
    """What a person decided about a file that cannot be loaded as it stands.

    Parameters
    ----------
    series : str, optional
        Row of the intake report, such as ``"2"``, or a SeriesInstanceUID.
    resample : bool
        Put tilted or unevenly spaced slices on a regular, upright grid, from their true positions.
    fill_gap : bool
        Put interpolated slices where slices are missing.
    """

    series: str | None = None
    resample: bool = False
    fill_gap: bool = False

    @property
    def made(self) -> frozenset[str]:
        """Names of the choices that are not the default."""
        return frozenset(f.name for f in fields(self) if getattr(self, f.name) != f.default)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a writer writes, and where the second reader then looks.

    Parameters
    ----------
    path : Path
        The temporary file.
    suffix : str
        One of the format's; chooses the dialect.
    final : Path
        The name the file will bear.
    companion, final_companion : Path, optional
        The same for the second file of a format that needs one.
    keep_phi : bool
        Whether the patient's identity may be written.
    """

    path: Path
    suffix: str
    final: Path
    companion: Path | None = None
    final_companion: Path | None = None
    keep_phi: bool = False


class ReadImage(Protocol):
    """Read pixels and their grid."""

    def __call__(self, path: Path, *, choices: Choices, job: Job) -> Image:
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


class ReadMasks(Protocol):
    """Read a file whose regions overlap as several masks, none with an overlap inside."""

    def __call__(
        self, path: Path, *, image: Image | None, kind: Kind | None, job: Job
    ) -> list[Mask]:
        """Return the masks at `path`, at least one."""
        ...


class Inspect(Protocol):
    """Say what lies at `path` without reading pixels, as JSON-ready values."""

    def __call__(self, path: Path, *, job: Job) -> dict[str, Any]:  # Any: plain JSON values
        """Return what `info` prints."""
        ...


class WriteMask(Protocol):
    """Write a mask in the dialect of `to`'s suffix."""

    def __call__(self, mask: Mask, to: Target) -> None:
        """Write the file, and its companion where there is one."""
        ...


class WriteImage(Protocol):
    """Write an image in the dialect of `to`'s suffix."""

    def __call__(self, image: Image, to: Target) -> None:
        """Write the file, and its companion where there is one."""
        ...


class Reread(Protocol):
    """Read back what was written, sharing no code with the writer."""

    def __call__(self, to: Target) -> Evidence:
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


class PlanImage(Protocol):
    """As `Plan`, for an image."""

    def __call__(self, image: Image, *, suffix: str) -> PlannedImage:
        """Return the plan."""
        ...


class Companion(Protocol):
    """Return a second file for `path` that the file now there does not name, or None."""

    def __call__(self, path: Path, suffix: str) -> Path | None:
        """Return its name."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What a second reader found in a written file.

    Parameters
    ----------
    data : array
        Ids or pixels in maskloop's array order; axes of length 1 may be missing or added.
    geometry : Geometry, optional
        None where the format holds no grid.
    labels : mapping of int to str, optional
        Names by id; None where the file itself holds no table.
    """

    data: npt.NDArray[Any]
    geometry: Geometry | None
    labels: Mapping[int, str] | None


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """A mask as it will be stored, the grid the file must then state, and what is lost."""

    mask: Mask
    geometry: Geometry | None
    losses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class PlannedImage:
    """An image as it will be stored, the grid the file must then state, and what is lost."""

    image: Image
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
    read_image, read_mask, read_masks, write_mask, write_image : callable, optional
        The directions; `read_masks` where regions of one file may overlap.
    plan, plan_image : callable, optional
        Adapt a mask before `write_mask`, an image before `write_image`.
    reread : callable, optional
        The second reader; must not share code with the writers.
    inspect : callable, optional
        What `info` prints, where reading pixels would be the wrong answer.
    companion : callable, optional
        Names the second file of a format that needs two.
    choices : frozenset of str
        The fields of `Choices` that `read_image` heeds.
    has_entries : bool
        Whether one file can hold several masks, so that `read_mask` heeds `entry`.
    can_keep_phi : bool
        Whether there is a place for the patient's identity, so that `Target.keep_phi` is heeded.
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
    read_masks: ReadMasks | None = None
    write_mask: WriteMask | None = None
    write_image: WriteImage | None = None
    plan: Plan | None = None
    plan_image: PlanImage | None = None
    reread: Reread | None = None
    inspect: Inspect | None = None
    companion: Companion | None = None
    choices: frozenset[str] = frozenset()
    has_entries: bool = False
    can_keep_phi: bool = False
    reader: str = ""
    has_sidecar: bool = False
    proof: str = "synthetic data only"


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
    for found, lengths in id_runs(ids):
        if found.dtype.itemsize <= 2:  # a table of all ids is small: no sorting
            sums = np.bincount(found, weights=lengths)
            values = np.flatnonzero(sums)
            sums = sums[values]
        else:
            values, place = np.unique(found, return_inverse=True)
            sums = np.bincount(place, weights=lengths)
        for number, count in zip(values.tolist(), sums.tolist(), strict=True):
            totals[int(number)] = totals.get(int(number), 0) + int(count)
    totals.pop(0, None)
    return dict(sorted(totals.items()))


def ids_of(values: npt.NDArray[Any], path: Path, job: Job) -> npt.NDArray[Any]:
    """Return a file's values as label ids; tell the job where they were fractional numbers.

    Raises
    ------
    FormatError
        If a value is negative or not whole.
    """
    try:
        ids = as_ids(values)
    except InputError as error:
        raise FormatError(f"{path.name}: {error}") from error
    if values.dtype.kind == "f":
        job.say(f"{path.name}: the values are {values.dtype}, all whole: taken as label ids")
    return ids


def default_table(ids: list[int], kind: Kind | None) -> LabelTable:
    """Return rows for ids that came without a table; objects unless `kind` says classes."""
    if kind == "classes":
        return LabelTable.classes({i: f"label {i}" for i in ids})
    return LabelTable.objects(ids)


def as_kind(labels: LabelTable, kind: Kind | None) -> LabelTable:
    """Return the table read as classes or as objects; unchanged if it is so already."""
    if kind is None or not labels or labels.kind == kind:
        return labels
    if kind == "objects":
        return LabelTable(replace(r, category=r.name, is_thing=True) for r in labels.values())
    return LabelTable(replace(r, category=None) for r in labels.values())


def table_beside(path: Path, ids: npt.NDArray[Any], kind: Kind | None) -> LabelTable:
    """Return the sidecar's table, else a row for each id there is; read as `kind` if given."""
    labels = read_sidecar(path)
    if labels is None:
        labels = default_table(present_ids(ids), kind)
    return as_kind(labels, kind)


def first_bytes(path: Path, count: int) -> bytes:
    """Return at most `count` bytes from the start of a file; none where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(count)
    except OSError:
        return b""


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

"""Open a dataset, and write one in another format: told before, proved after."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskloop import datasets
from maskloop.core.errors import InputError, MaskloopError, StorageError, VerificationError
from maskloop.core.files import sha256_of
from maskloop.core.job import Job
from maskloop.datasets.base import (
    EXTRAS,
    UNDRAWN,
    DatasetFormat,
    Held,
    Loss,
    Options,
    Says,
    difference,
    fingerprint,
    has_pixels,
    safe_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from maskloop.core.dataset import Dataset, Item, Sample

__all__ = [
    "Conversion",
    "DatasetReceipt",
    "Options",
    "chosen",
    "convert_dataset",
    "is_dataset_format",
    "open_dataset",
    "plan",
]

RECEIPT = "receipt.json"
_ASIDE = ".maskloop-"
_STALE_S = 24 * 3600  # nobody writes one dataset for a day
_OF_READING = frozenset({"profile", "repair"})


def open_dataset(
    path: Path | str,
    *,
    format: str | None = None,
    options: Options | None = None,
    job: Job | None = None,
) -> Dataset:
    """List a dataset's items without reading masks or pixels.

    Parameters
    ----------
    path : Path or str
        Folder or file.
    format : str, optional
        Name of its format (see `list_formats`); found out where left out.
    options : Options, optional
        A profile of one's own, repairs.
    job : Job, optional
        Progress and cancel; told what `Dataset.notices` say.

    Raises
    ------
    MissingFileError, FormatError
        If nothing is there, or no format knows it.
    UnknownNameError
        If the named format is not known.
    """
    path, options, job = Path(path), options or Options(), job or Job()
    chosen = datasets.get(format) if format is not None else datasets.format_of(path)
    if chosen.open is None:
        msg = f"expected a format that can be read, got {chosen.name!r}; it can be written only"
        raise InputError(msg)
    if not path.exists():
        from maskloop.formats.base import missing

        raise missing(path, "a dataset")
    if format is None and (others := datasets.others(path, chosen)):
        job.say(
            f"{path.name} is read as {chosen.name}, but could be {', '.join(others)} too: choose "
            "with --from"
        )
    found = chosen.open(path, options=options, job=job)
    names = Counter(item.name for item in found.items)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        msg = f"expected each item's name once, got {twice[0]!r} {names[twice[0]]} times"
        raise InputError(f"{msg}; rename one of them")
    for notice in found.notices:
        job.say(notice)
    return found


@dataclass(frozen=True, slots=True)
class DatasetReceipt:
    """Proof that a dataset was opened again and holds what was meant.

    Parameters
    ----------
    path : Path
        Folder of the written dataset.
    format, source : str
        Name of its format; name of what it was made from.
    items, objects : int
        How many items, and how many regions (objects, or classes of an item).
    losses : tuple of str
        What the format could not hold, in words.
    sha256 : dict of str to str
        Relative POSIX path -> hash of every file.
    written : str
        ISO time, UTC.
    verdict : str
        ``"PASS"``: what does not read back as meant is not put in place.
    notes : tuple of str
        What a person should know and is no loss.
    """

    path: Path
    format: str
    source: str
    items: int
    objects: int
    losses: tuple[str, ...]
    sha256: dict[str, str] = field(repr=False)
    written: str = ""
    verdict: str = "PASS"
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:  # Any: plain JSON values
        """Return the receipt as JSON-ready values."""
        return {
            "path": str(self.path),
            "format": self.format,
            "source": self.source,
            "items": self.items,
            "objects": self.objects,
            "losses": list(self.losses),
            "notes": list(self.notes),
            "sha256": self.sha256,
            "written": self.written,
            "verdict": self.verdict,
        }

    def to_text(self) -> str:
        """Return the receipt in lines for people."""
        items = f"{self.items:,} item{'s' * (self.items != 1)}"
        lines = [
            f"{self.verdict}  {self.path}  ({self.format}; {items}, {self.objects:,} regions, all "
            "read back and compared)"
        ]
        lines += [f"  lost     {loss}" for loss in self.losses]
        return "\n".join(lines + [f"  note     {note}" for note in self.notes])


@dataclass(frozen=True, slots=True)
class _Meant:
    """What of an item must read back: a digest of its regions, and how many they are."""

    digest: str
    regions: int


@dataclass(frozen=True, slots=True, eq=False)
class Conversion:
    """A dataset about to be written: what is lost is known, nothing is on disk yet.

    Parameters
    ----------
    dataset : Dataset
    target : DatasetFormat
    options : Options
    losses : tuple of str
        "12 objects lose their holes", in falling order.
    refused : mapping of str to str
        Items that the format cannot hold at all, and why.
    notes : tuple of str
        What a person should know and is no loss.
    """

    dataset: Dataset
    target: DatasetFormat
    options: Options
    losses: tuple[str, ...]
    refused: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def write(
        self, out: Path | str, *, overwrite: bool = False, job: Job | None = None
    ) -> DatasetReceipt:
        """Write the dataset aside, open it again, compare every mask, and only then put it there.

        Parameters
        ----------
        out : Path or str
            Folder, made here.
        overwrite : bool
            Whether a dataset that is there already is replaced; what is no dataset never is.
        job : Job, optional
            Progress and cancel; cancelling leaves everything as it was.

        Raises
        ------
        StorageError
            If the place is taken, or the disk refuses.
        VerificationError
            If it does not read back as meant.
        """
        job, out = job or Job(), Path(out)
        _require_free(out, overwrite=overwrite)
        if self.dataset.root.resolve().is_relative_to(out.resolve()):
            msg = (
                f"expected to write beside the dataset that is read, got {str(out)!r}, which is or "
                "holds it; choose another name"
            )
            raise StorageError(msg)
        _remove_stale(out.resolve().parent)
        aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=out.resolve().parent))
        try:
            made = aside / "set"
            made.mkdir()
            written = self._fill(made, job)
            objects = self._prove(made, written, job)
            receipt = DatasetReceipt(
                path=out,
                format=self.target.name,
                source=self.dataset.name,
                items=len(self.dataset.items),
                objects=objects,
                losses=self.losses,
                notes=self.notes,
                sha256={
                    p.relative_to(made).as_posix(): sha256_of(p)
                    for p in sorted(made.rglob("*"))
                    if p.is_file()
                },
                written=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            told = {**receipt.to_json(), "path": out.name}
            (made / RECEIPT).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
            _swap(made, out, aside)
        except OSError as error:
            if isinstance(error, StorageError) or error.errno is None:
                raise
            msg = (
                f"expected to write {str(out)!r}, but the system answered {error.strerror!r}; "
                "check the folder and the disk; what was there before is unchanged"
            )
            raise StorageError(msg) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return receipt

    def tell(self, job: Job) -> None:
        """Say the losses and the notes."""
        for words in (*self.losses, *self.notes):
            job.say(words)

    def require_lossless(self) -> None:
        """Raise `InputError` if anything would be lost."""
        if self.losses:
            msg = (
                f"expected a conversion without loss, got: {'; '.join(self.losses)}; choose "
                "another format, or allow it"
            )
            raise InputError(msg)

    def to_json(self) -> dict[str, Any]:  # Any: plain JSON values
        """Return what would be written and what be lost, as JSON-ready values."""
        return {
            "source": self.dataset.name,
            "format": self.target.name,
            "items": len(self.dataset.items),
            "losses": list(self.losses),
            "refused": self.refused,
            "notes": list(self.notes),
        }

    def _held(self, item: Item, job: Job) -> Held:
        if self.target.hold is None:
            raise _not_written(self.target)
        return self.target.hold(self.dataset.read(item, job), self.dataset, options=self.options)

    def _fill(self, folder: Path, job: Job) -> dict[str, _Meant]:
        """Write every item; return what of each must read back, by name."""
        if self.target.write is None:
            raise _not_written(self.target)
        meant: dict[str, _Meant] = {}

        def samples() -> Iterator[Sample]:
            for item in job.track(self.dataset.items, "write"):
                sample = self._held(item, job).sample
                count = sum(len(mask.ids()) for mask in sample.masks)
                meant[item.name] = _Meant(fingerprint(sample), count)
                yield sample

        self.target.write(self.dataset, samples(), folder, options=self.options, job=job)
        return meant

    def _prove(self, folder: Path, written: Mapping[str, _Meant], job: Job) -> int:
        """Compare every item of the written dataset with what was meant; return the regions."""
        if self.target.open is None:
            msg = f"expected a format that reads what it writes, got {self.target.name!r}"
            raise VerificationError(f"{msg}; report this")
        quiet = Job()
        back = self.target.open(folder, options=self.options, job=quiet)
        by_name = {item.name: item for item in back.items}
        count = 0
        for item in job.track(self.dataset.items, "read back"):
            meant = written[item.name]
            count += meant.regions
            found = by_name.pop(safe_name(item.name), None)
            if found is None:
                if meant.regions:
                    raise _unlike(item, f"{meant.regions} region(s) missing: the item is not there")
                continue
            sample = back.read(found, quiet)
            if fingerprint(sample) == meant.digest:
                continue
            # Read once more to say how they differ, or that a grid was rounded and no more.
            words = difference(self._held(item, quiet).sample, sample)
            if words:
                raise _unlike(item, words)
        if by_name:
            msg = f"expected no further items to read back, got {next(iter(by_name))!r}"
            raise VerificationError(f"{msg}; nothing was replaced, report this")
        return count


def is_dataset_format(name: str) -> bool:
    """Return whether a dataset format is called so."""
    return name in datasets.DATASETS


def chosen(
    dataset: Dataset,
    *,
    split: str | None = None,
    seed: int = 0,
    by: str | None = None,
    status: str | None = None,
    job: Job | None = None,
) -> Dataset:
    """Return a dataset split anew and without the items that are not wanted.

    Parameters
    ----------
    dataset : Dataset
    split : str, optional
        ``"train=0.8,val=0.1,test=0.1"``: shares of the groups (patients, slides, videos).
    seed : int
        Another seed splits otherwise.
    by : str, optional
        The rule of groups: ``"folder"``, ``"item"`` or a regular expression found in names.
    status : str, optional
        Only items of this status, such as ``"done"``.
    job : Job, optional
        Told of what a split cannot do.

    Raises
    ------
    InputError
        If nothing is left, or the split cannot be understood.
    """
    if status is not None:
        items = tuple(item for item in dataset.items if item.status == status)
        if not items:
            known = ", ".join(sorted({item.status for item in dataset.items if item.status}))
            msg = (
                f"expected items of status {status!r} in {dataset.name}, got none (there is: "
                f"{known or 'no status at all'}); leave --only out"
            )
            raise InputError(msg)
        dataset = replace(dataset, items=items)
    if split is not None:
        from maskloop.desk.splits import assigned, shares_of

        dataset = assigned(dataset, shares_of(split), seed, by=by, job=job)
    return dataset


def plan(
    source: Dataset | Path | str,
    to: str,
    *,
    format: str | None = None,
    options: Options | None = None,
    only: frozenset[str] | None = None,
    skip_refused: bool = False,
    job: Job | None = None,
) -> Conversion:
    """Read every mask of a dataset and say what another format cannot hold of it.

    Parameters
    ----------
    source : Dataset, Path or str
    to : str
        Name of the dataset format to write.
    format : str, optional
        Name of the source's format; found out where left out.
    options : Options, optional
    only : frozenset of str, optional
        Names of the items to take; all where left out.
    skip_refused : bool
        Whether items that the format cannot hold at all are left out, and told, rather than
        stopping everything.
    job : Job, optional
        Progress and cancel.

    Raises
    ------
    UnknownNameError
        If a format is not known.
    InputError
        If the format cannot be written, heeds no such option, or cannot hold an item.
    """
    job, options = job or Job(), options or Options()
    target = datasets.get(to)
    if target.hold is None or target.write is None or target.open is None:
        raise _not_written(target)
    odd = options.made - target.options - _OF_READING
    if odd:
        flags = ", ".join(sorted("--" + name.replace("_", "-") for name in odd))
        msg = f"expected options that {target.title} heeds, got {flags}; leave them out"
        raise InputError(msg)
    dataset = _opened(source, format, options, job)
    wanted = [item for item in dataset.items if only is None or item.name in only]
    items = [item for item in wanted if item.has_mask]
    if not items:
        msg = f"expected at least one item with a mask, got none in {dataset.name}; choose others"
        raise InputError(msg)
    named = Counter(safe_name(item.name) for item in items)
    clash = next((name for name, count in named.items() if count > 1), None)
    if clash is not None:
        msg = f"expected names that differ without their dots, got {clash!r} twice; rename one"
        raise InputError(msg)
    losses: Counter[Loss] = Counter({UNDRAWN: len(wanted) - len(items)})
    refused: dict[str, str] = {}
    alone: list[str] = []
    unlike: list[str] = []
    for item in job.track(items, "look"):
        try:
            sample = dataset.read(item, job)
            losses.update(target.hold(sample, dataset, options=options).losses)
            if isinstance(sample.header, Says):
                losses[EXTRAS] += sample.header.lost_in(target.name)
        except InputError as error:
            if not skip_refused:
                raise
            refused[item.name] = str(error)
            continue
        if options.images != "none" and not has_pixels(item):
            alone.append(repr(safe_name(item.name)))
        elif options.images != "none" and (words := _other_size(sample)):
            unlike.append(f"{safe_name(item.name)!r} ({words})")
    kept = replace(dataset, items=tuple(i for i in items if i.name not in refused))
    counted = [(loss.is_note, loss.words(count)) for loss, count in losses.most_common() if count]
    lost = tuple(words for is_note, words in counted if not is_note)
    if refused:
        lost += (f"{len(refused):,} item(s) cannot be held at all and are left out",)
    notes = tuple(words for is_note, words in counted if is_note)
    if unlike:
        notes += (
            f"{len(unlike):,} picture(s) are not as large as their masks, the first {unlike[0]}: "
            "correct the dataset before anybody learns from it",
        )
    if alone:
        notes += (
            f"{len(alone):,} item(s) have no picture at hand, the first {alone[0]}: their masks "
            "are written without it",
        )
    return Conversion(kept, target, options, lost, refused, notes)


def _other_size(sample: Sample) -> str:
    """Return in words how a picture's size differs from its mask's; EXIF may have turned it."""
    from maskloop.datasets.base import PICTURES
    from maskloop.datasets.beside import size_of

    image, shape = sample.item.image, sample.masks[0].data.shape
    if image is None or len(shape) != 2 or not image.name.lower().endswith(PICTURES):
        return ""
    try:
        size = size_of(image)
    except MaskloopError:
        return ""
    if sorted(size) == sorted(shape):
        return ""
    return f"{size[1]} x {size[0]}, its mask {shape[1]} x {shape[0]}"


def convert_dataset(
    source: Dataset | Path | str,
    out: Path | str,
    to: str,
    *,
    format: str | None = None,
    options: Options | None = None,
    overwrite: bool = False,
    lossless: bool = False,
    job: Job | None = None,
) -> DatasetReceipt:
    """Write a dataset in another format; losses are told to the job before anything is written.

    Parameters
    ----------
    lossless : bool
        Whether any loss is a reason not to write at all.

    Other parameters, and errors, as for `plan` and `Conversion.write`.
    """
    job = job or Job()
    planned = plan(source, to, format=format, options=options, job=job)
    planned.tell(job)
    if lossless:
        planned.require_lossless()
    return planned.write(out, overwrite=overwrite, job=job)


def _opened(
    source: Dataset | Path | str, format: str | None, options: Options, job: Job
) -> Dataset:
    if not isinstance(source, (str, Path)):
        return source
    return open_dataset(source, format=format, options=options, job=job)


def _require_free(out: Path, *, overwrite: bool) -> None:
    if not out.resolve().parent.is_dir():
        msg = f"expected a folder to write {out.name!r} in, got none at {str(out.parent)!r}"
        raise StorageError(f"{msg}; make it first")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    is_ours = out.is_dir() and (out / RECEIPT).is_file()
    if not (overwrite and is_ours):
        what = "a dataset written by maskloop" if is_ours else "something else"
        cure = "add --overwrite to replace it" if is_ours else "choose another name"
        raise StorageError(f"expected {str(out)!r} to be free, got {what} there; {cure}")
    _require_untouched(out)


def _require_untouched(out: Path) -> None:
    """Refuse to replace a written dataset that people went on working in."""
    receipt = out / RECEIPT
    try:
        listed = json.loads(receipt.read_bytes()).get("sha256", {})
    except (ValueError, AttributeError, RecursionError):
        listed = {}
    written = receipt.stat().st_mtime_ns  # the last file of all
    changed = []
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        is_left = path.name.startswith(".") or path.suffix == ".cache" or path == receipt
        if is_left or not path.is_file():
            continue
        if name not in listed or (
            path.stat().st_mtime_ns > written and sha256_of(path) != listed[name]
        ):
            changed.append(name)
    if changed:
        msg = (
            f"expected {str(out)!r} as maskloop wrote it, got {len(changed):,} file(s) added or "
            f"changed since, the first {changed[0]!r}; choose another name, or remove it yourself"
        )
        raise StorageError(msg)


def _remove_stale(folder: Path) -> None:
    """Remove what a process killed a day ago or earlier left in `folder`."""
    with suppress(OSError):
        for left in folder.glob(_ASIDE + "*"):
            if left.is_dir() and time.time() - left.stat().st_mtime > _STALE_S:
                shutil.rmtree(left, ignore_errors=True)


def _swap(made: Path, out: Path, aside: Path) -> None:
    """Put `made` at `out`; what was there before is back if that fails."""
    old = aside / "old"
    had = out.exists()
    if had:
        out.rename(old)
    try:
        made.chmod(0o755)
        made.rename(out)
    except BaseException:
        if had:
            with suppress(OSError):
                old.rename(out)
        raise


def _not_written(target: DatasetFormat) -> InputError:
    known = ", ".join(n for n in datasets.DATASETS if datasets.get(n).write is not None)
    return InputError(
        f"expected a dataset format that can be written ({known}), got {target.name!r}; choose one"
    )


def _unlike(item: Item, words: str) -> VerificationError:
    return VerificationError(
        f"expected {item.name!r} to read back as written, got {words}; nothing was replaced, "
        "report this"
    )

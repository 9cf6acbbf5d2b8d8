"""A folder of cases and their images: what people corrected, and how far they are.

An image without a case is an item without a mask. Patients are told apart by number, in order of
the items' names: neither their names nor their identifiers are kept, and where a folder is called
after one the item is not. What a person vouches for is the whole mask of a case that is done; else
the slices that were looked at, and what was painted by hand.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core import casefile
from maskloop.core.case import Case
from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import FormatError, InputError, MaskloopError
from maskloop.core.image import stem_of
from maskloop.core.labels import Label, LabelTable
from maskloop.core.standing import standing_of
from maskloop.datasets import patients
from maskloop.datasets.base import DatasetFormat, Options
from maskloop.datasets.files import PICTURES
from maskloop.datasets.tables import recoded, scheme_of, unique
from maskloop.formats.base import first_bytes
from maskloop.formats.dicom_scan import is_dicom

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from maskloop.core.dataset import Holding
    from maskloop.core.job import Job
    from maskloop.core.mask import Mask

_CASE = ".maskloop"
_DIGITS = re.compile(r"-[0-9a-f]{8}$")  # of a case in a workspace
_MASK_NAME = re.compile(r"(^|[^a-z])(masks?|seg(mentation)?|labels?|gt)([^a-z]|$)", re.IGNORECASE)
_DEEP, _ENOUGH = 3, 5000  # folders and names looked at to tell the format
_LOOKED_AT = 20  # files of a folder that are asked whether they are DICOM


@dataclass(slots=True)
class _Found:
    """A case or an image, and what is known without opening either."""

    name: str
    image: Path | None = None
    folder: Path | None = None
    about: dict[str, Any] = field(default_factory=dict)  # Any: plain JSON values
    status: str = "unseen"
    problem: str = ""

    def rows(self, known: set[tuple[str, bool]]) -> Iterator[Label]:
        """Yield a row of each class that the log tells and `known` lacks; it is added there."""
        tables = self.about.get("labels") or {
            row["name"]: row["labels"] for row in self.about.get("masks", ())
        }
        for row in (row for table in tables.values() for row in table):
            key = (row.get("category") or row["name"], bool(row.get("category")))
            if key not in known:
                known.add(key)
                yield from LabelTable.from_rows([row]).values()


def sniff(path: Path) -> bool:
    """Whether a folder is a case, or holds some and is no set of images/ and masks/."""
    if not path.is_dir():
        return False
    if (path / "case.json").is_file():
        return True
    if (path / "images").is_dir() and any((path / n).is_dir() for n in ("masks", "labels")):
        return False
    left = _ENOUGH
    level = [path]
    for _ in range(_DEEP):
        below = []
        for folder in level:
            for entry in _entries(folder):
                left -= 1
                if left < 0:
                    return False
                if entry.is_dir() and not entry.name.startswith("."):
                    if entry.name.endswith(_CASE) and os.path.isfile(f"{entry.path}/case.json"):
                        return True
                    below.append(Path(entry.path))
        level = below
    return False


def open_dataset(path: Path, *, options: Options, job: Job) -> Dataset:
    """List the cases below a folder, and the images that have none; no case is opened."""
    is_one = (path / "case.json").is_file()
    found = [_alone(path)] if is_one else _all(path, job)
    if not any(one.folder is not None for one in found):
        msg = f"expected cases (NAME.maskloop) in {path.name}/, got none; correct an image first"
        raise FormatError(msg)
    called = _patients(found)
    rows: list[Label] = []
    known: set[tuple[str, bool]] = set()
    for one in found:
        try:
            rows += one.rows(known)
        except (MaskloopError, KeyError, TypeError, AttributeError) as error:
            one.problem = one.problem or str(error)
    scheme = scheme_of(rows)
    items = tuple(
        Item(
            name,
            one.image,
            shape=_shape(one.about),
            group=group,
            status=one.status,
            has_mask=one.folder is not None,
            ref=one,
        )
        for one, (name, group) in zip(found, called, strict=True)
    )
    things = {row.category for row in rows if row.category}
    has_classes = any(row.category is None and row.name not in things for row in rows)
    kind: Holding = "classes" if not things else "panoptic" if has_classes else "objects"

    def read(item: Item, job: Job) -> Sample:
        return _read(item, scheme, options)

    return Dataset(path.name, "cases", path, scheme, items, read, kind, notices=_notices(found))


def _notices(found: Sequence[_Found]) -> tuple[str, ...]:
    told = []
    damaged = [one for one in found if one.problem]
    if damaged:
        told.append(
            f"{len(damaged)} cases cannot be read, the first {damaged[0].name!r}: "
            f"{damaged[0].problem}"
        )
    cases = [one for one in found if one.folder is not None]
    undone = sum(one.status != "done" for one in cases)
    if undone:
        told.append(
            f"{undone:,} of {len(cases):,} cases are not marked done: only slices that were looked "
            "at and voxels painted by hand count as reviewed there"
        )
    without = sum(one.image is None for one in cases)
    if without:
        told.append(f"{without:,} cases have no image beside them: their masks are read alone")
    return tuple(told)


def _all(path: Path, job: Job) -> list[_Found]:
    """Return every case and image below a folder, in order of name."""
    places = list(_walk(str(path), "", job))
    images = [place for place in places if not place.is_case]
    by_name: dict[str, _Place] = {}
    by_stem: dict[str, list[_Place]] = {}
    for place in images:
        by_name.setdefault(place.name, place)
        by_stem.setdefault(place.name.rpartition("/")[2], []).append(place)
    found = []
    taken: set[str] = set()
    for place in places:
        if not place.is_case:
            continue
        image = by_name.get(place.name)
        stem = place.name.rpartition("/")[2]
        if image is None and _DIGITS.search(stem):
            alike = by_stem.get(_DIGITS.sub("", stem), [])
            image = alike[0] if len(alike) == 1 else None
        name = place.name if image is None else image.name
        one = _case(Path(place.path), name)
        if image is not None:
            one.image = Path(image.path)
            taken.add(image.path)
        found.append(one)
    found += [_Found(one.name, Path(one.path)) for one in images if one.path not in taken]
    names = Counter(one.name for one in found)
    for one in found:  # one name with two suffixes: told apart by them
        own = one.image or one.folder
        if names[one.name] > 1 and own is not None:
            one.name = own.relative_to(path).as_posix()
    return sorted(found, key=lambda one: one.name)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a case or an image lies, and its relative POSIX name without suffix."""

    path: str
    name: str
    is_case: bool


def _walk(folder: str, above: str, job: Job) -> Iterator[_Place]:
    """Yield the cases and images below a folder; a DICOM folder is an image."""
    job.check()
    # Text, not paths: a list of 10,000 must come at once.
    for entry in sorted(_entries(folder), key=lambda entry: entry.name):
        name = entry.name
        if name.startswith(".") or entry.is_symlink():
            continue
        if not entry.is_dir():
            suffix = next((end for end in PICTURES if name.lower().endswith(end)), "")
            stem = name[: len(name) - len(suffix)]
            if suffix and not _MASK_NAME.search(stem):
                yield _Place(entry.path, above + stem, False)
        elif name.endswith(_CASE):
            yield _Place(entry.path, above + name.removesuffix(_CASE), True)
        elif _dicom_file(entry.path) is not None:
            yield _Place(entry.path, above + name, False)
        else:
            yield from _walk(entry.path, f"{above}{name}/", job)


def _alone(folder: Path) -> _Found:
    """Return a case that was named itself, with the image beside it."""
    one = _case(folder, folder.name.removesuffix(_CASE))
    stem = folder.name.removesuffix(_CASE)
    beside = [p for p in sorted(folder.parent.iterdir()) if p != folder and stem_of(p) == stem]
    fits = (p for p in beside if p.name.lower().endswith(PICTURES) or _dicom_file(p) is not None)
    one.image = next(fits, None)
    return one


def _case(folder: Path, name: str) -> _Found:
    import orjson

    one = _Found(name, folder=folder)
    try:
        told = orjson.loads((folder / "case.json").read_bytes())
        one.about = told if isinstance(told, dict) else {}
        if not one.about:
            one.problem = "case.json holds no description"
        one.status = _status(folder, one.about)
    except (OSError, ValueError) as error:
        one.problem = str(error)
    return one


def _shape(about: dict[str, Any]) -> tuple[int, ...] | None:  # Any: plain JSON values
    shape = about.get("shape")
    is_shape = isinstance(shape, list) and all(isinstance(n, int) for n in shape)
    return tuple(shape) if is_shape and shape else None


def _status(folder: Path, about: dict[str, Any]) -> str:  # Any: plain JSON values
    """Return how far a case is: as people said, else whether a step was made."""
    standing = standing_of(folder) if "standing.json" in os.listdir(folder) else None
    if standing is not None:
        return standing.status
    journal = f"{folder}/journal"
    has_steps = about.get("steps") or (os.path.isfile(journal) and os.path.getsize(journal))
    return "in work" if has_steps else "unseen"


def _patients(found: Sequence[_Found]) -> list[tuple[str, str]]:
    """Return a name and a group for each item: patients by number, their names taken out."""
    numbers: dict[str, str] = {}
    made = []
    for one in found:
        known = one.about.get("provenance")
        stated = known.get("group") if isinstance(known, dict) else None
        patient, words = _identity(one.image)
        number = ""
        if patient:
            number = numbers.setdefault(patient, f"patient-{len(numbers) + 1:03d}")
        plain = patients.without(one.name, words, number)
        # A folder may be called after a patient whose images state nothing.
        folder = plain.split("/")[0] if "/" in plain else ""
        made.append((plain, str(stated) if stated else number or folder))
    names = patients.told_apart([name for name, _ in made])
    return [(name, group) for name, (_, group) in zip(names, made, strict=True)]


def _identity(image: Path | None) -> tuple[str, frozenset[str]]:
    """Return the patient's identifier of a DICOM folder, and the words that name the patient."""
    is_folder = image is not None and not image.name.lower().endswith(PICTURES)
    file = _dicom_file(image) if image is not None and is_folder else None
    return ("", frozenset()) if file is None else patients.identity_of(file)


def _dicom_file(folder: Path | str) -> Path | None:
    """Return a file of a folder that is DICOM; only some are asked."""
    asked = 0
    for entry in _entries(folder):
        if entry.name.startswith(".") or not entry.is_file():
            continue
        asked += 1
        if asked > _LOOKED_AT:
            return None
        if is_dicom(first_bytes(Path(entry.path), 256)):
            return Path(entry.path)
    return None


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def _read(item: Item, scheme: LabelTable, options: Options) -> Sample:
    one: _Found = item.ref
    if one.folder is None:
        msg = f"expected a case of {item.name!r}, got an image alone; correct it first"
        raise InputError(msg)
    with Case.open(one.folder, read_only=True) as case:
        masks = [_drawn(mask, scheme) for mask in case.masks.values()]
        kept = [mask for mask in masks if mask.data.any()] or masks[:1]
        sample = Sample(
            item,
            unique(kept),
            reviewed=None if item.status == "done" else _reviewed(case),
            authors=case.author_of(mask="").copy() if kept[0] is masks[0] else None,
            author_names={n: who.name or who.kind for n, who in case.authors.items()},
        )
        if not options.maps:
            return sample
        return replace(sample, drafts=_drafts(case, one.folder))


def _drawn(mask: Mask, scheme: LabelTable) -> Mask:
    """Return a mask without rows of objects that are gone, its classes as the scheme has them."""
    ids = set(mask.ids())
    rows = mask.labels.covering(sorted(ids))
    rows = rows.without(i for i, row in rows.items() if row.category and i not in ids)
    if rows.kind == "objects":
        return replace(mask, labels=rows)
    known = {row.name: row.id for row in scheme.values()}
    numbers = {i: known.get(row.name, i) for i, row in rows.items()}
    if len(set(numbers.values())) < len(numbers) or all(i == n for i, n in numbers.items()):
        return replace(mask, labels=rows)
    table = LabelTable(replace(row, id=numbers[i]) for i, row in rows.items())
    return recoded(mask, numbers, table)


def _reviewed(case: Case) -> npt.NDArray[np.bool_]:
    """Return where a person looked or painted."""
    shape, grid = case.masks[""].data.shape, case.masks[""].geometry
    found = np.zeros(shape, bool)
    for name in case.masks:
        found |= case.hand(mask=name)
    if grid.ndim == 3:
        axis = min(case.review.main_axis, 2)
        seen = np.flatnonzero(case.review.seen(axis)[: grid.shape[axis]])
        np.moveaxis(found, len(shape) - 3 + axis, 0)[seen] = True
    return found


def _drafts(case: Case, folder: Path) -> dict[str, Mask]:
    """Return the first mask as each model left it, and as it was before the first step."""
    start = casefile.read(folder)[0][""]
    found = {"start": start} if start.data.any() else {}
    highest = np.iinfo(np.uint8).max
    edits = [e for e in list(case.history)[: case.history.position] if not e.mask]
    for edit in edits:
        if edit.voxels:
            highest = max(highest, np.iinfo(np.dtype(edit.dtype)).max)
    wide = np.promote_types(start.data.dtype, np.min_scalar_type(highest))
    now = replace(start, data=start.data.astype(wide))
    for edit in edits:
        edit.apply(now.data)
        now = replace(now, labels=edit.table_after(now.labels))
        if edit.kind == "model":
            found[edit.author or edit.tool] = replace(now, data=now.data.copy())
    return found


FORMAT = DatasetFormat(
    name="cases",
    title="Folder of corrected cases",
    sniff=sniff,
    open=open_dataset,
    dims=frozenset({2, 3}),
    options=frozenset({"maps"}),
    layout="NAME.maskloop beside NAME.*, or beside the DICOM folder NAME/",
    proof="real data",
)

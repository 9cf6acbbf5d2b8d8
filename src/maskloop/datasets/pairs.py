"""Images and masks that pair by name: two folders, or one file beside the other.

Either ``images/`` and ``masks/`` (or ``labels/``) hold files of one name up to the suffix, with
objects that overlap in ``masks_2/`` and so on; or an image ``NAME.ext`` lies beside its mask
``NAME_mask.ext`` (``_masks``, ``_label``, ``_labels``, ``_seg``). Names of classes come from the
masks' own tables, else from ``labels.json``; ids that nobody names are called ``label 1``.

The challenge of liver tumours (LiTS) pairs by number: ``volume-N.nii`` and ``segmentation-N.nii``.

References
----------
.. [1] P. Bilic et al., "The Liver Tumor Segmentation Benchmark (LiTS)", Med. Image Anal., 2023:
   1 is the liver, 2 a tumour.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import FormatError, InputError
from maskloop.core.labels import Label, LabelTable
from maskloop.datasets.base import DatasetFormat, Held, Loss, Options, class_of, safe_name
from maskloop.datasets.files import (
    MASKS,
    PICTURES,
    as_stored,
    has_own_table,
    named_files,
    read_maps,
    read_masks,
    write_maps,
    write_mask,
    write_picture,
)
from maskloop.datasets.tables import scheme_of, unique
from maskloop.formats.base import (
    first_bytes,
    read_sidecar,
    reading,
    sidecar_of,
    table_bytes,
    table_from,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from maskloop.core.dataset import Holding
    from maskloop.core.job import Job
    from maskloop.core.labels import Kind
    from maskloop.core.mask import Mask

_TABLE, _GROUPS = "labels.json", "groups.json"
_MASK_FOLDERS = ("masks", "labels")
_ENDINGS = ("_masks", "_mask", "_labels", "_label", "_seg")
_ENOUGH = 5000  # names looked at to tell the format
_FOLDERS = 50  # below a folder that are looked into
_LOOKED_AT = 12  # masks looked into where no table names the classes
_FEW = {"px": 32, "mm": 255}  # ids by unit; more of them are objects: organs of a scan are many
_LITS = re.compile(r"^segmentation-(\d+)\.nii(\.gz)?$", re.IGNORECASE)
_LIVER = LabelTable([Label(1, "liver"), Label(2, "tumour", is_thing=True)])


@dataclass(frozen=True, slots=True)
class _Source:
    """Where an item's masks lie, and what they mean unless they say so themselves."""

    masks: tuple[Path, ...]
    root: Path


def sniff(path: Path) -> bool:
    """Whether a folder holds images and masks that pair by name."""
    if not path.is_dir():
        return False
    if (path / "masks").is_dir() and b'"maskloop"' in first_bytes(path / _TABLE, 64):
        return True  # ours, perhaps without images
    folder = _mask_folder(path)
    if folder is not None:
        names = {_stem(entry.name) for entry in _entries(folder) if _is(entry.name, MASKS)}
        below = {entry.name for entry in _entries(folder) if entry.is_dir()}
        shown = [_stem(entry.name) for entry in _entries(path / "images")]
        return any(n in below or any(n + e in names for e in ("", *_ENDINGS)) for n in shown)
    names = {_stem(entry.name) for entry in _entries(path) if _is(entry.name, PICTURES)}
    return any(_base(name, names) for name in names)


def sniff_lits(path: Path) -> bool:
    """Whether a folder holds the volumes of LiTS, or one that does."""
    return path.is_dir() and any(True for _ in _lits_masks(path))


def open_dataset(path: Path, *, options: Options, job: Job) -> Dataset:
    """List the masks, each with the image of its name."""
    found = _two_folders(path) if _mask_folder(path) is not None else _one_folder(path)
    groups, splits = _groups(path), _splits(path)
    items = tuple(
        Item(
            name,
            image,
            group=groups.get(name, ""),
            split=splits.get(name, ""),
            has_mask=bool(masks),
            ref=_Source(tuple(masks), path),
        )
        for name, image, masks in found
    )
    if not items:
        msg = (
            f"expected pairs in {path.name}/ (images/ and masks/, or NAME.ext beside "
            "NAME_mask.ext), got none; rename the masks as the images"
        )
        raise FormatError(msg)
    scheme, kind, is_guess = _scheme(path, items, job)
    notices = []
    if is_guess:
        notices.append(
            f"no table names the classes of {path.name}: each id is "
            f"{'a class' if kind == 'classes' else 'an object'} here; put names, and "
            f'"kind": "classes" or "objects", into {_TABLE}'
        )
    alone = [item.name for item in items if not item.has_mask]
    if alone:
        notices.append(f"{len(alone):,} images have no mask, the first {alone[0]!r}")

    def read(item: Item, job: Job) -> Sample:
        return _read(item, scheme, kind, job)

    return Dataset(path.name, "pairs", path, scheme, items, read, kind, notices=tuple(notices))


def open_lits(path: Path, *, options: Options, job: Job) -> Dataset:
    """List the volumes of LiTS; a volume without segmentation is one of the test set."""
    masks = dict(_lits_masks(path))
    images = {
        found[1]: file
        for name, file in named_files(path, (".nii.gz", ".nii")).items()
        if (found := re.fullmatch(r"(?:.*/)?(?:test-)?volume-(\d+)", name, re.IGNORECASE))
    }
    items = []
    for number in sorted({*masks, *images}, key=int):
        mask = masks.get(number)
        source = _Source(() if mask is None else (mask,), path)
        name = f"volume-{number}"
        items.append(Item(name, images.get(number), has_mask=mask is not None, ref=source))

    def read(item: Item, job: Job) -> Sample:
        return _read(item, _LIVER, "classes", job)

    return Dataset(path.name, "lits", path, _LIVER, tuple(items), read)


def _two_folders(path: Path) -> Iterable[tuple[str, Path | None, list[Path]]]:
    folder = _mask_folder(path)
    if folder is None:
        return
    images = named_files(path / "images", PICTURES)
    further = [
        named_files(more, MASKS)
        for more in sorted(path.glob(f"{folder.name}_*"), key=lambda p: (len(p.name), p.name))
        if more.is_dir() and more.name.rpartition("_")[2].isdecimal()
    ]
    masks: dict[str, list[Path]] = {}
    for name, mask in named_files(folder, MASKS).items():
        base = name if name in images else _base(name, images) or name
        masks.setdefault(base, [mask, *(more[name] for more in further if name in more)])
    for name in sorted({*images, *masks}):
        image = images.get(name)
        if image is None and (path / "images" / name).is_dir():
            image = path / "images" / name  # slices of a DICOM series
        elif name not in masks and any(name.startswith(f"{other}/") for other in masks):
            continue  # one slice of it
        yield name, image, masks.get(name, [])


def _one_folder(path: Path) -> Iterable[tuple[str, Path | None, list[Path]]]:
    files = named_files(path, PICTURES)
    for name, mask in files.items():
        base = _base(name, files)
        if base is not None:
            yield base, files[base], [mask]


def _lits_masks(path: Path) -> Iterable[tuple[str, Path]]:
    below = [path / e.name for e in _entries(path) if e.is_dir() and not e.name.startswith(".")]
    for folder in (path, *sorted(below)[:_FOLDERS]):
        for entry in _entries(folder):
            found = _LITS.match(entry.name)
            if found and entry.is_file():
                yield found[1], folder / entry.name


def _read(item: Item, scheme: LabelTable, kind: Holding, job: Job) -> Sample:
    source: _Source = item.ref
    if not source.masks:
        msg = f"expected a mask of {item.name!r}, got an image alone; draw one, or leave it out"
        raise InputError(msg)
    wanted: Kind = "classes" if kind == "classes" else "objects"
    masks: list[Mask] = []
    for path in source.masks:
        for mask in read_masks(path, item, None, job):
            own = has_own_table(path, mask)
            table = mask.labels if own else _table_for(mask, scheme, wanted)
            masks.append(replace(mask, labels=table))
    sample = Sample(item, unique(masks))
    return read_maps(sample, source.root, job)


def _table_for(mask: Mask, scheme: LabelTable, kind: Kind) -> LabelTable:
    """Return the rows of a mask that brought none: the scheme's, or objects of its first class."""
    ids = mask.ids()
    if kind == "classes":
        known = LabelTable(scheme[i] for i in ids if i in scheme)
        return known.covering(ids)
    names = [row.name for row in scheme.values()]
    return LabelTable.objects(ids, "object" if "object" in names or not names else names[0])


def _scheme(path: Path, items: Sequence[Item], job: Job) -> tuple[LabelTable, Holding, bool]:
    """Return the classes, what ids stand for, and whether their names are made up."""
    table = path / _TABLE
    stated = None
    if table.is_file():
        with reading(table):
            raw = table.read_bytes()
        stated = table_from(raw)
        if stated is None:
            msg = f"expected a table of labels in {_TABLE}, got {raw[:20]!r}; write it anew"
            raise FormatError(msg)
        kind = _stated_kind(raw)
        if kind is not None:
            return stated, kind, False
    masks = [item for item in items if item.has_mask]
    step = max(1, len(masks) // _LOOKED_AT)
    rows: dict[str, Label] = {}
    bare: list[LabelTable] = []  # of masks that brought no names
    is_many = has_objects = has_classes = False
    for item in masks[::step][:_LOOKED_AT]:
        path = item.ref.masks[0]
        labels = read_sidecar(path)
        if labels is None:
            mask = read_masks(path, item, None, job)[0]
            labels = mask.labels
            if not has_own_table(path, mask):
                bare.append(labels)
                is_many |= len(labels) > _FEW[mask.geometry.unit]
                continue
        has_objects |= any(row.category is not None for row in labels.values())
        has_classes |= any(row.category is None for row in labels.values())
        for row in labels.values():
            rows.setdefault(class_of(row), row)
    if bare:  # the same for all: a picture of few objects is no picture of so many classes
        ids = {i for labels in bare for i in labels}
        is_many = is_many and not ids <= set(stated or ())
        has_objects |= is_many
        has_classes |= not is_many
        if stated is None and not is_many:
            rows |= {f"label {i}": Label(i, f"label {i}") for i in sorted(ids)}
        elif stated is None:
            rows.setdefault("object", LabelTable.objects([1], "object")[1])
    is_guess = bool(bare) and stated is None
    kind_found: Holding = "classes"
    if has_objects:
        kind_found = "panoptic" if has_classes else "objects"
    return stated or scheme_of(rows.values()), kind_found, is_guess


def _stated_kind(raw: bytes) -> Holding | None:
    import orjson

    found = orjson.loads(raw).get("kind")
    for kind in ("classes", "objects", "panoptic"):
        if found == kind:
            return kind
    return None


def hold(sample: Sample, dataset: Dataset, *, options: Options) -> Held:
    """Return each mask as its file holds it; what overlaps lies on further masks."""
    losses: dict[Loss, int] = {}
    masks = []
    for mask in sample.masks:
        stored, _, lost = as_stored(mask)
        masks.append(replace(stored, labels=stored.labels.covering(stored.ids())))
        losses.update(lost)
    return Held(replace(sample, masks=tuple(masks)), losses)


def write(
    dataset: Dataset, samples: Iterable[Sample], folder: Path, *, options: Options, job: Job
) -> None:
    """Write images/, masks/, the maps beside them, the classes, splits and groups."""
    splits: dict[str, list[str]] = {}
    groups: dict[str, str] = {}
    for sample in samples:
        name = safe_name(sample.item.name)
        for number, mask in enumerate(sample.masks, start=1):
            where = folder / ("masks" if number == 1 else f"masks_{number}") / name
            path = write_mask(mask, where)
            sidecar_of(path).write_bytes(table_bytes(mask.labels))
        ndim = sample.masks[0].geometry.ndim
        write_picture(sample.item, folder / "images" / name, ndim=ndim, options=options, job=job)
        write_maps(sample, folder, name, options=options)
        if sample.item.split:
            splits.setdefault(sample.item.split, []).append(name)
        if sample.item.group:
            groups[name] = sample.item.group
    (folder / "images").mkdir(exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    about = json.loads(table_bytes(LabelTable(dataset.scheme.values())))
    _put(folder / _TABLE, {**about, "kind": dataset.kind})
    if groups:
        _put(folder / _GROUPS, groups)
    for split, names in splits.items():
        (folder / "splits").mkdir(exist_ok=True)
        text = "".join(f"{name}\n" for name in names)
        (folder / "splits" / f"{safe_name(split)}.txt").write_text(text, encoding="utf-8")


def _put(path: Path, content: Any) -> None:  # Any: plain JSON values
    text = json.dumps(content, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _groups(path: Path) -> dict[str, str]:
    file = path / _GROUPS
    if not file.is_file():
        return {}
    try:
        with reading(file):
            found = json.loads(file.read_bytes())
        return {str(name): str(group) for name, group in found.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        msg = f"expected {{name: group}} in {_GROUPS}, got {error}; correct or remove it"
        raise FormatError(msg) from error


def _splits(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for listed in sorted((path / "splits").glob("*.txt")):
        with reading(listed):
            text = listed.read_text(encoding="utf-8", errors="replace")
        found.update((line, listed.stem) for line in text.splitlines() if line)
    return found


def _mask_folder(path: Path) -> Path | None:
    if not (path / "images").is_dir():
        return None
    return next((path / name for name in _MASK_FOLDERS if (path / name).is_dir()), None)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(islice(found, _ENOUGH))
    except OSError:
        return []


def _is(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.lower().endswith(suffixes) and not name.startswith(".")


def _stem(name: str) -> str:
    from pathlib import PurePosixPath

    lowered = name.lower()
    for double in MASKS:
        if double.count(".") > 1 and lowered.endswith(double):
            return name[: -len(double)]
    return PurePosixPath(name).stem


def _base(name: str, names: Iterable[str]) -> str | None:
    """Return the image's name for a mask's, among `names` (a set or mapping)."""
    for ending in _ENDINGS:
        if name.endswith(ending) and name[: -len(ending)] in names:
            return name[: -len(ending)]
    return None


FORMAT = DatasetFormat(
    name="pairs",
    title="Images and masks that pair by name",
    sniff=sniff,
    open=open_dataset,
    hold=hold,
    write=write,
    dims=frozenset({2, 3}),
    options=frozenset({"images", "maps"}),
    layout="images/NAME.*, masks/NAME.*; or NAME.* beside NAME_mask.*",
    proof="real data",
)

LITS = DatasetFormat(
    name="lits",
    title="LiTS volumes",
    sniff=sniff_lits,
    open=open_lits,
    dims=frozenset({3}),
    layout="volume-N.nii, segmentation-N.nii",
)

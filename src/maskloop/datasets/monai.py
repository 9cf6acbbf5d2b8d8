"""MONAI's list of data: one JSON that names images and labels, beside both.

``training``, ``validation`` and ``testing`` list ``{"image": ..., "label": ..., "fold": 0}`` with
paths relative to the JSON's folder; ``labels`` names the numbers. Classes become 1, 2, ... in order
of their ids, for MONAI's one-hot encoding wants no gaps.

References
----------
.. [1] M. J. Cardoso et al., "MONAI: An open-source framework for deep learning in healthcare",
   arXiv:2211.02701, 2022; the documentation of ``load_decathlon_datalist`` and of Auto3DSeg.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import FormatError, InputError
from maskloop.core.image import stem_of
from maskloop.core.labels import LabelTable
from maskloop.datasets.base import DatasetFormat, Held, Options, inside, safe_name
from maskloop.datasets.files import (
    as_stored,
    has_own_table,
    read_maps,
    read_masks,
    write_gray,
    write_maps,
    write_picture,
)
from maskloop.datasets.nnunet import scheme_of
from maskloop.datasets.tables import as_classes, consecutive
from maskloop.formats.base import first_bytes, reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from maskloop.core.job import Job
    from maskloop.core.labels import Label

LIST = "datalist.json"
_PARTS = {"training": "train", "validation": "val", "testing": "test", "test": "test"}
_Row = dict[str, Any]  # Any: plain JSON values


@dataclass(frozen=True, slots=True)
class _Source:
    """Where an item's label lies, None where there is none; its path as it is listed."""

    label: Path | None
    reviewed: Path | None
    path: str = ""
    channels: int = 1


def sniff(path: Path) -> bool:
    """Whether a JSON file, or a folder's datalist.json, lists images and labels to train on."""
    file = path / LIST if path.is_dir() else path
    if file.suffix.lower() != ".json" or not file.is_file():
        return False
    head = first_bytes(file, 1 << 16)
    return b'"training"' in head and b'"image"' in head


def open_dataset(path: Path, *, options: Options, job: Job) -> Dataset:
    """List what the JSON lists."""
    file = path / LIST if path.is_dir() else path
    about = _parsed(file)
    root = file.parent
    record = about.get("maskloop")
    scheme = LabelTable()
    if isinstance(about.get("labels"), dict):
        scheme = scheme_of(about, record if isinstance(record, dict) else {})
    items = []
    for part, split in _PARTS.items():
        rows = about.get(part, [])
        if not isinstance(rows, list):
            msg = f"expected a list of {part} in {file.name}, got {rows!r:.40}; correct it"
            raise FormatError(msg)
        items += [_item(row, split, part, root, file.name) for row in rows]
    items = _told_apart(items)
    notices = [] if scheme else [f"{file.name} names no labels: classes are called after ids"]
    if several := sum(item.ref.channels > 1 for item in items):
        notices.append(f"{several:,} items have several images: only the first of each is read")
    if not scheme:
        scheme = _looked_up(items, job)

    def read(item: Item, job: Job) -> Sample:
        return _read(item, scheme, root, job)

    name = root.name if path.is_dir() else stem_of(file)
    return Dataset(name, "monai", path, scheme, tuple(items), read, notices=tuple(notices))


def _item(row: object, split: str, part: str, root: Path, where: str) -> Item:
    if isinstance(row, str):  # the decathlon's test set
        row = {"image": row}
    if not isinstance(row, dict):
        msg = f"expected {{image, label}} in {part} of {where}, got {row!r:.40}; correct it"
        raise FormatError(msg)
    shown, label = row.get("image"), row.get("label")
    image: Any = shown[0] if isinstance(shown, list) and shown else shown
    if image is None and label is None:
        msg = f"expected an image or a label in {part} of {where}, got {row!r:.60}; correct it"
        raise FormatError(msg)
    reviewed = row.get("reviewed")
    named = PurePosixPath(str(label if image is None else image))
    stem = named.name
    for end in (".nii.gz", named.suffix):
        stem = stem.removesuffix(end) if end else stem
    source = _Source(
        None if label is None else inside(root, label),
        None if reviewed is None else inside(root, reviewed),
        named.with_name(stem).as_posix() if stem else "",
        len(shown) if isinstance(shown, list) else 1,
    )
    place = None if image is None else inside(root, image)
    fold = row.get("fold")
    if type(fold) is int and part == "training":
        split = f"fold{fold}"
    own = row.get("name")
    return Item(
        own if isinstance(own, str) and own else stem,
        place,
        group=str(row.get("group") or ""),
        split=split,
        has_mask=source.label is not None,
        ref=source,
    )


def _told_apart(items: Sequence[Item]) -> list[Item]:
    """Return the items; those that share a name are called by their path."""
    counts = Counter(item.name for item in items)
    return [
        replace(item, name=item.ref.path or item.name) if counts[item.name] > 1 else item
        for item in items
    ]


def _looked_up(items: Sequence[Item], job: Job) -> LabelTable:
    """Return the classes that the first masks show, where no table names them."""
    rows: dict[int, Label] = {}
    for item in [item for item in items if item.has_mask][:4]:
        mask = read_masks(item.ref.label, item, "classes", job)[0]
        rows.update(mask.labels)
    return LabelTable(rows.values())


def _read(item: Item, scheme: LabelTable, root: Path, job: Job) -> Sample:
    source: _Source = item.ref
    if source.label is None:
        msg = f"expected a label of {item.name!r}, got an image alone; leave it out"
        raise InputError(msg)
    mask = read_masks(source.label, item, "classes", job)[0]
    ids = mask.ids()
    if not scheme and has_own_table(source.label, mask):
        rows = mask.labels
    else:
        rows = LabelTable(row for i, row in scheme.items() if i in ids or not row.ignore)
    sample = Sample(item, (replace(mask, labels=rows.covering(ids)),))
    return read_maps(sample, root / "maps", job)


def hold(sample: Sample, dataset: Dataset, *, options: Options) -> Held:
    """Return the sample as one mask of consecutive classes, on the grid its file states."""
    mask, losses = as_classes(sample, consecutive(dataset.scheme))
    stored, _, lost = as_stored(replace(mask, header=None))
    return Held(replace(sample, masks=(stored,)), {**losses, **lost})


def write(
    dataset: Dataset, samples: Iterable[Sample], folder: Path, *, options: Options, job: Job
) -> None:
    """Write images/, labels/ and the list."""
    parts: dict[str, list[_Row]] = {"training": [], "validation": [], "testing": []}
    ignores = False
    for sample in samples:
        mask, item = sample.masks[0], sample.item
        name = safe_name(item.name)
        ignores |= any(row.ignore for row in mask.labels.values())
        label = write_gray(mask, folder / "labels" / name)
        ndim = mask.geometry.ndim
        shown = folder / "images" / name
        image = write_picture(item, shown, ndim=ndim, options=options, job=job)
        row: _Row = {"name": name}
        if image is not None:
            row["image"] = image.relative_to(folder).as_posix()
        row["label"] = label.relative_to(folder).as_posix()
        if item.group:
            row["group"] = item.group
        fold = re.fullmatch(r"fold-?(\d+)", item.split)
        if fold:
            row["fold"] = int(fold[1])
        if options.maps:
            write_maps(sample, folder / "maps", name, options=options)
            seen = folder / "maps" / "reviewed" / label.relative_to(folder / "labels")
            if seen.is_file():
                row["reviewed"] = seen.relative_to(folder).as_posix()
        part = {"val": "validation", "test": "testing"}.get(item.split, "training")
        parts[part].append(row)
    (folder / LIST).write_text(_text(dataset, parts, ignores=ignores), encoding="utf-8")


def _text(dataset: Dataset, parts: Mapping[str, list[_Row]], *, ignores: bool) -> str:
    rows = [r for r in consecutive(dataset.scheme).values() if ignores or not r.ignore]
    own = {row.name: row.id for row in dataset.scheme.values()}
    record = [
        {
            "id": row.id,
            "was": own.get(row.name),
            "name": row.name,
            "colour": row.colour,
            "is_thing": row.is_thing,
        }
        for row in rows
    ]
    content = {
        "name": safe_name(dataset.name or "dataset"),
        "labels": {"0": "background", **{str(row.id): row.name for row in rows}},
        "numTraining": len(parts["training"]),
        "numTest": len(parts["testing"]),
        "training": parts["training"],
        **({"validation": parts["validation"]} if parts["validation"] else {}),
        **({"testing": parts["testing"]} if parts["testing"] else {}),
        "maskloop": {"version": 1, "labels": record},
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _parsed(file: Path) -> _Row:
    with reading(file):
        raw = file.read_bytes()
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        msg = f"expected JSON in {file.name}, got {raw[:20]!r} ({error}); repair it"
        raise FormatError(msg) from error
    if not isinstance(found, dict) or not any(part in found for part in _PARTS):
        msg = f"expected a list called training in {file.name}, got none; choose the datalist"
        raise FormatError(msg)
    return found


FORMAT = DatasetFormat(
    name="monai",
    title="MONAI datalist",
    sniff=sniff,
    open=open_dataset,
    hold=hold,
    write=write,
    dims=frozenset({2, 3}),
    options=frozenset({"images", "maps"}),
    layout="datalist.json, images/NAME.nii.gz, labels/NAME.nii.gz",
)

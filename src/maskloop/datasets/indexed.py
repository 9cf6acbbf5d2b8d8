"""Pictures beside label PNGs whose values are ids: ``images/``, ``masks/`` and ``classes.json``.

Ids of objects are explained by the table beside each mask (``NAME.png.labels.json``), those of
classes by ``classes.json``; palettes show the scheme's colours. Splits are lists of names in
``splits/train.txt`` and so on.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import FormatError, InputError
from maskloop.core.labels import LabelTable
from maskloop.core.mask import renumbered
from maskloop.datasets import georeference, maskfolder_write
from maskloop.datasets.base import PICTURES, DatasetFormat, Held, Options, place_image, safe_name
from maskloop.formats import picture
from maskloop.formats.base import Target, read_sidecar, reading, sidecar_of, table_bytes, table_from

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from maskloop.core.dataset import Holding
    from maskloop.core.job import Job
    from maskloop.core.mask import Mask

_GROUPS = "groups.json"
_HIGHEST = 65_535
_TABLE = "classes.json"


def sniff(path: Path) -> bool:
    """Whether a folder has masks/ and our table of classes."""
    return (path / _TABLE).is_file() and (path / "masks").is_dir()


def open_dataset(path: Path, *, options: Options, job: Job) -> Dataset:
    """List the masks, each with the picture of its name."""
    with reading(path / _TABLE):
        scheme = table_from((path / _TABLE).read_bytes())
    if scheme is None:
        msg = f"expected a table of labels in {_TABLE}, got something else; write the set anew"
        raise FormatError(msg)
    pictures = {
        p.relative_to(path / "images").with_suffix("").as_posix(): p
        for p in sorted((path / "images").rglob("*"))
        if p.suffix.lower() in PICTURES
    }
    splits = {
        line: listed.stem
        for listed in sorted((path / "splits").glob("*.txt"))
        for line in listed.read_bytes().decode("utf-8", "replace").splitlines()
    }
    groups = _groups(path / _GROUPS)
    items = []
    for mask in sorted((path / "masks").rglob("*.png")):
        name = mask.relative_to(path / "masks").with_suffix("").as_posix()
        split, group = splits.get(name, ""), groups.get(name, "")
        items.append(Item(name, pictures.get(name), split=split, group=group, ref=mask))
    tables = [found for item in items[:8] if (found := read_sidecar(item.ref)) is not None]

    def read(item: Item, job: Job) -> Sample:
        table = read_sidecar(item.ref) or scheme
        with reading(item.ref):
            found = picture.read_mask(item.ref, image=None, entry=None, kind="classes", job=job)
        place = georeference.of(item.ref) or georeference.of(item.image)
        made = replace(found, labels=table.covering(found.ids()))
        return Sample(item, (made,), header=place)

    is_mixed = any(table.is_mixed for table in tables)
    kind: Holding = "panoptic" if is_mixed else "objects" if tables else "classes"
    return Dataset(path.name, "indexed", path, scheme, tuple(items), read, kind)


def _groups(path: Path) -> dict[str, str]:
    """Return ``{name: group}``, of which a set without groups has none."""
    if not path.is_file():
        return {}
    with reading(path):
        try:
            found = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            msg = f"expected JSON in {path.name}, got: {error}; correct it or remove it"
            raise FormatError(msg) from error
    if not isinstance(found, dict):
        raise FormatError(f"expected {{name: group}} in {path.name}, got a list; correct it")
    return {str(name): str(group) for name, group in found.items()}


def hold(sample: Sample, dataset: Dataset, *, options: Options) -> Held:
    """Settle overlaps; a grid in mm becomes pixels."""
    mask, losses = maskfolder_write.settled(sample, "label PNGs")
    if int(mask.data.max(initial=0)) > _HIGHEST:
        mask = _renumbered(mask, sample.item.name)
    return Held(replace(sample, masks=(mask,)), losses)


def _renumbered(mask: Mask, name: str) -> Mask:
    """Return the mask with ids from 1 without gaps, for what 16 bits cannot count."""
    ids = mask.ids()
    if len(ids) > _HIGHEST:
        msg = (
            f"expected at most {_HIGHEST:,} labels a picture for label PNGs, got {len(ids):,} in "
            f"{name!r}; convert to coco instead"
        )
        raise InputError(msg)
    known = mask.labels.covering(ids)
    rows = [replace(known[i], id=n) for n, i in enumerate(ids, start=1)]
    data = renumbered(mask.data, {i: n for n, i in enumerate(ids, start=1)}, np.uint16)
    return replace(mask, data=data, labels=LabelTable(rows))


def write(
    dataset: Dataset, samples: Iterable[Sample], folder: Path, *, options: Options, job: Job
) -> None:
    """Write the PNGs, their tables where ids are objects, the scheme, and the splits."""
    splits: dict[str, list[str]] = {}
    groups: dict[str, str] = {}
    for sample in samples:
        name = safe_name(sample.item.name)
        path = folder / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = sample.masks[0]
        picture.write_mask(mask, Target(path, ".png", path))
        georeference.write_beside(sample.header, path)
        if dataset.kind != "classes":
            sidecar_of(path).write_bytes(table_bytes(mask.labels))
        place_image(sample.item, folder / "images" / name, options=options, job=job)
        if sample.item.split:
            splits.setdefault(sample.item.split, []).append(name)
        if sample.item.group:
            groups[name] = sample.item.group
    (folder / _TABLE).write_bytes(table_bytes(LabelTable(dataset.scheme.values())))
    maskfolder_write.save_lists(folder / "splits", splits)
    if groups:
        text = json.dumps(groups, indent=1, ensure_ascii=False)
        (folder / _GROUPS).write_text(f"{text}\n", encoding="utf-8")


FORMAT = DatasetFormat(
    name="indexed",
    title="Label PNGs with a table",
    sniff=sniff,
    open=open_dataset,
    hold=hold,
    write=write,
    options=frozenset({"images"}),
    layout="images/NAME.*, masks/NAME.png, classes.json",
)

"""A folder that Hugging Face `datasets` opens as ``imagefolder``: pictures, label PNGs, a table.

Values of label PNGs are classes as ``id2label.json`` names them, 0 is background and 255 is to be
ignored; where there are objects, a second PNG numbers them.

References
----------
.. [1] Hugging Face `datasets`, "Create an image dataset", section ImageFolder: ``metadata.jsonl``
   with ``file_name`` and further columns ``*_file_name``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import FormatError, InputError
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.datasets import georeference, maskfolder_names, maskfolder_values, maskfolder_write
from maskloop.datasets.base import (
    DatasetFormat,
    Held,
    Options,
    inside,
    place_image,
    safe_name,
    split_folder,
)
from maskloop.datasets.beside import told_apart
from maskloop.datasets.maskfolder_formula import Formula
from maskloop.datasets.maskfolder_profile import NamesFile, Variant
from maskloop.formats.base import first_bytes, reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from maskloop.core.dataset import Holding
    from maskloop.core.job import Job

_META = "metadata.jsonl"
_LABELS = "id2label.json"
_MOST = 254
_IMAGES = ("file_name", "image_file_name", "image")
_MASKS = ("mask_file_name", "label_file_name", "annotation_file_name", "segmentation_file_name")
_OBJECTS = ("instances_file_name", "instance_file_name", "objects_file_name")
_NOTED = ("name", "group")


def sniff(path: Path) -> bool:
    """Whether a folder, or a split in it, lists pictures with masks in metadata.jsonl."""
    return any(
        any(f'"{column}"'.encode() in first_bytes(found, 4096) for column in _MASKS)
        for found in _lists(path)
    )


def _lists(path: Path) -> list[Path]:
    try:
        return sorted([*path.glob(_META), *path.glob(f"*/{_META}")]) if path.is_dir() else []
    except OSError:
        return []


def open_dataset(path: Path, *, options: Options, job: Job) -> Dataset:
    """List the lines of every metadata.jsonl."""
    lists = _lists(path)
    if not lists:
        msg = f"expected {_META} in {path.name} or its splits, got none; choose the folder above"
        raise FormatError(msg)
    items: list[Item] = []
    for listed in lists:
        split = "" if listed.parent == path else listed.parent.name
        for number, line in enumerate(_lines(listed), start=1):
            items.append(_item(line, listed.parent, split, f"{listed.name}:{number}"))
    classes = _classes(path)
    has_objects = any(item.ref[1] is not None for item in items)
    kind: Holding = "panoptic" if has_objects else "classes"
    variant = Variant(
        masks=("{path}",),
        kind=kind,
        nothing=(),
        object_=Formula("V") if has_objects else None,
        objects="objects" if has_objects else "",
    )

    def read(item: Item, job: Job) -> Sample:
        mask, second = item.ref
        if mask is None:
            msg = f"expected a mask of {item.name!r}, got a picture alone; choose items with masks"
            raise InputError(msg)
        found = maskfolder_values.stored(mask, job, key="", with_colours=False)
        objects = None
        if second is not None:
            more = maskfolder_values.stored(second, job, key="", with_colours=False)
            objects = maskfolder_values.distinct(more, second)
        decoded = maskfolder_values.decode(
            maskfolder_values.distinct(found, mask), objects, variant, classes, mask
        )
        made = Mask(decoded.ids, found.geometry, decoded.labels, mask)
        return Sample(item, (made,), header=georeference.of(mask) or georeference.of(item.image))

    scheme = LabelTable(row for _, row in classes)
    return Dataset(path.name, "huggingface", path, scheme, told_apart(items), read, kind)


def _lines(listed: Path) -> Iterator[dict[str, Any]]:  # Any: plain JSON values
    import orjson

    with reading(listed):
        text = listed.read_bytes()
    for number, line in enumerate(text.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            found = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            msg = f"expected JSON in line {number} of {listed.name}, got: {error}; correct it"
            raise FormatError(msg) from error
        if not isinstance(found, dict):
            msg = f"expected an object in line {number} of {listed.name}, got {str(found)[:40]!r}"
            raise FormatError(f"{msg}; correct it")
        yield found


def _item(line: dict[str, Any], folder: Path, split: str, where: str) -> Item:  # Any: as above
    image, mask, objects = (
        next((inside(folder, line[c]) for c in columns if line.get(c) is not None), None)
        for columns in (_IMAGES, _MASKS, _OBJECTS)
    )
    known = image or mask
    if known is None:
        msg = (
            f"expected file_name or mask_file_name in {where}, got {sorted(line)[:6]}; complete it"
        )
        raise FormatError(msg)
    name, group = (line.get(key) for key in _NOTED)
    return Item(
        name
        if isinstance(name, str) and name
        else known.relative_to(folder).with_suffix("").as_posix(),
        image,
        split=split,
        group=group if isinstance(group, str) else "",
        has_mask=mask is not None,
        ref=(mask, objects),
    )


def _classes(path: Path) -> tuple[tuple[int, Label], ...]:
    """Return the classes of classes.json (ours), else of id2label.json, else none."""
    own = Variant(masks=("{path}",), names=(NamesFile("classes.json", "table"),))
    if (path / "classes.json").is_file():
        return maskfolder_names.named(path, own, None)
    if not (path / _LABELS).is_file():
        return ()
    found = maskfolder_names.json_of(path / _LABELS)
    try:
        names = {int(key): str(name) for key, name in found.items()}
    except (AttributeError, TypeError, ValueError) as error:
        msg = f"expected {{number: name}} in {_LABELS}, got: {error}; correct it"
        raise FormatError(msg) from error
    return maskfolder_names.merged(
        (), {value: name for value, name in names.items() if value > 0 or name != "background"}
    )


def hold(sample: Sample, dataset: Dataset, *, options: Options) -> Held:
    """Settle overlaps; ignored labels become void."""
    return maskfolder_write.held(sample, "Hugging Face", most_objects=65_534, with_void=True)


def write(
    dataset: Dataset, samples: Iterable[Sample], folder: Path, *, options: Options, job: Job
) -> None:
    """Write a folder a split: pictures, label PNGs, numbers of objects, metadata.jsonl."""
    values = maskfolder_write.Values.of(dataset, most=_MOST, with_void=True)
    lines: dict[str, list[str]] = {}
    for sample in samples:
        name = safe_name(sample.item.name)
        split = split_folder(sample.item.split or "train")
        classes, objects = values.tables(sample.masks[0])
        place, ids = folder / split, sample.masks[0].data
        path = place / "masks" / f"{name}.png"
        maskfolder_write.save(path, classes[ids], header=sample.header)
        line = {"mask_file_name": f"masks/{name}.png", "name": name}
        if dataset.kind != "classes" or objects.any():
            maskfolder_write.save(place / "instances" / f"{name}.png", objects[ids])
            line["instances_file_name"] = f"instances/{name}.png"
        shown = place / "images" / name
        picture = place_image(sample.item, shown, options=options, job=job)
        if picture is not None:
            line = {"file_name": picture.relative_to(place).as_posix(), **line}
        if sample.item.group:
            line["group"] = sample.item.group
        lines.setdefault(split, []).append(json.dumps(line, ensure_ascii=False) + "\n")
    for split, listed in lines.items():
        (folder / split / _META).write_text("".join(listed), encoding="utf-8")
    table = values.table()
    names = {0: "background", **{row.id: row.name for row in table.values() if not row.ignore}}
    (folder / _LABELS).write_text(
        json.dumps(names, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    maskfolder_write.save_table(folder / "classes.json", table)


FORMAT = DatasetFormat(
    name="huggingface",
    title="Hugging Face image and label folder",
    sniff=sniff,
    open=open_dataset,
    hold=hold,
    write=write,
    options=frozenset({"images"}),
    layout="SPLIT/images/NAME.*, SPLIT/masks/NAME.png, SPLIT/metadata.jsonl, id2label.json",
)

"""Pictures beside label PNGs whose values are ids: ``images/``, ``masks/`` and ``classes.json``.

Ids of objects are explained by the table beside each mask (``NAME.png.labels.json``), those of
classes by ``classes.json``; palettes show the scheme's colours. Splits are lists of names in
``splits/train.txt`` and so on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import FormatError, InputError
from maskloop.core.geometry import Geometry
from maskloop.core.labels import LabelTable
from maskloop.datasets.base import (
    COVERED,
    PLACE,
    DatasetFormat,
    Held,
    Loss,
    Options,
    place_image,
    safe_name,
)
from maskloop.formats import picture
from maskloop.formats.base import Target, read_sidecar, reading, sidecar_of, table_bytes, table_from

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from maskloop.core.dataset import Holding
    from maskloop.core.job import Job
    from maskloop.core.mask import Mask

_TABLE = "classes.json"
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


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
        if p.suffix.lower() in _PICTURES
    }
    splits = {
        line: listed.stem
        for listed in sorted((path / "splits").glob("*.txt"))
        for line in listed.read_text(encoding="utf-8").splitlines()
    }
    items = []
    for mask in sorted((path / "masks").rglob("*.png")):
        name = mask.relative_to(path / "masks").with_suffix("").as_posix()
        items.append(Item(name, pictures.get(name), split=splits.get(name, ""), ref=mask))
    has_tables = any(sidecar_of(item.ref).is_file() for item in items[:1])

    def read(item: Item, job: Job) -> Sample:
        table = read_sidecar(item.ref) or scheme
        with reading(item.ref):
            found = picture.read_mask(item.ref, image=None, entry=None, kind="classes", job=job)
        return Sample(item, (replace(found, labels=table.covering(found.ids())),))

    kind: Holding = "objects" if has_tables else "classes"
    return Dataset(path.name, "indexed", path, scheme, tuple(items), read, kind)


def hold(sample: Sample, dataset: Dataset, *, options: Options) -> Held:
    """Settle overlaps; a grid in mm becomes pixels."""
    mask, lost = sample.settled()
    if mask.data.ndim != 2:
        msg = (
            f"expected pictures (y, x) for label PNGs, got {sample.item.name!r} of shape "
            f"{mask.data.shape}; convert to nnunet or coco-volume instead"
        )
        raise InputError(msg)
    losses: dict[Loss, int] = {COVERED: _covered(sample, mask)} if lost else {}
    if mask.geometry.unit == "mm":
        losses[PLACE] = 1
    plain = replace(mask, geometry=Geometry.pixels(mask.data.shape))
    return Held(replace(sample, masks=(plain,)), losses)


def _covered(sample: Sample, settled: Mask) -> int:
    return sum(bool((settled.data[m.data == i] != i).any()) for m in sample.masks for i in m.ids())


def write(
    dataset: Dataset, samples: Iterable[Sample], folder: Path, *, options: Options, job: Job
) -> None:
    """Write the PNGs, their tables where ids are objects, the scheme, and the splits."""
    splits: dict[str, list[str]] = {}
    for sample in samples:
        name = safe_name(sample.item.name)
        path = folder / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = sample.masks[0]
        picture.write_mask(mask, Target(path, ".png", path))
        if dataset.kind != "classes":
            sidecar_of(path).write_bytes(table_bytes(mask.labels))
        place_image(sample.item, folder / "images" / name, options=options)
        if sample.item.split:
            splits.setdefault(sample.item.split, []).append(name)
    (folder / _TABLE).write_bytes(table_bytes(LabelTable(dataset.scheme.values())))
    for split, names in splits.items():
        (folder / "splits").mkdir(exist_ok=True)
        text = "".join(f"{name}\n" for name in names)
        (folder / "splits" / f"{split}.txt").write_text(text, encoding="utf-8")


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

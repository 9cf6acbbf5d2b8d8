"""The folder that nnU-Net trains on: one NIfTI a channel and case, labels without gaps.

Classes become 1, 2, ... in order of their ids; ``maskloop.json`` records what they were, colours,
groups and the items' own names. Voxels that nobody reviewed get the ignore label, which is the
highest. The older dialect of the Medical Segmentation Decathlon (``{"1": "liver"}``) is read too.

References
----------
.. [1] F. Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical
   image segmentation", Nat. Methods, 2021; the documentation of nnU-Net v2: "dataset format",
   "ignore label", "region-based training", "manual data splits".
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import FormatError, InputError
from maskloop.core.labels import Label, LabelTable
from maskloop.datasets.base import (
    DatasetFormat,
    Held,
    Options,
    inside,
)
from maskloop.datasets.files import (
    as_stored,
    read_maps,
    read_masks,
)
from maskloop.datasets.nnunet_write import DATASET, MAPS, RECORD, SPLITS, Writer
from maskloop.datasets.tables import IGNORE, as_classes, consecutive
from maskloop.formats.base import first_bytes, reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from maskloop.core.job import Job

_Row = dict[str, Any]  # Any: plain JSON values


@dataclass(frozen=True, slots=True)
class Source:
    """The label file of a case; None in the test set."""

    label: Path | None


def sniff(path: Path) -> bool:
    """Whether a folder has a dataset.json that names labels, and labelsTr/."""
    head = first_bytes(path / DATASET, 1 << 16) if path.is_dir() else b""
    return b'"labels"' in head and (path / "labelsTr").is_dir()


def described(path: Path) -> _Row:
    """Return what dataset.json says.

    Raises
    ------
    FormatError
        If it holds something else.
    """
    return _object(path / DATASET)


def open_dataset(path: Path, *, options: Options, job: Job) -> Dataset:
    """List the cases of labelsTr/, labelsTs/ and imagesTs/."""
    about = described(path)
    record = _object(path / RECORD) if (path / RECORD).is_file() else {}
    scheme = scheme_of(about, record)
    known = record.get("cases")
    cases: Mapping[str, Any] = known if isinstance(known, dict) else {}
    splits = _splits(path)
    items = []
    for name, image, label, is_test in listed(path, about):
        case = cases.get(name)
        row: Mapping[str, Any] = case if isinstance(case, dict) else {}
        split = str(row.get("split") or splits.get(name) or ("test" if is_test else ""))
        items.append(
            Item(
                str(row.get("name") or name),
                image,
                group=str(row.get("group") or ""),
                split=split,
                has_mask=label is not None,
                ref=Source(label),
            )
        )

    def read(item: Item, job: Job) -> Sample:
        source: Source = item.ref
        if source.label is None:
            msg = f"expected a label file of {item.name!r}, got an image of the test set alone"
            raise InputError(f"{msg}; leave it out")
        mask = read_masks(source.label, item, "classes", job)[0]
        ids = mask.ids()
        rows = LabelTable(row for i, row in scheme.items() if i in ids or not row.ignore)
        sample = Sample(item, (replace(mask, labels=rows.covering(ids)),))
        name = source.label.name.removesuffix(str(about.get("file_ending") or ".nii.gz"))
        return read_maps(sample, path / MAPS, job, name=name)

    notices = []
    if _has_regions(about):
        notices.append("its regions overlap by design: each label is one class here")
    channels = about.get("channel_names", about.get("modality"))
    if isinstance(channels, dict) and len(channels) > 1:
        notices.append(f"of its {len(channels)} channels only the first is read")
    return Dataset(path.name, "nnunet", path, scheme, tuple(items), read, notices=tuple(notices))


def scheme_of(about: _Row, record: _Row) -> LabelTable:
    """Return the classes: by name, of the older dialect by number, or of regions.

    Raises
    ------
    FormatError
        If the labels are none of these.
    """
    labels = about.get("labels")
    if not isinstance(labels, dict):
        msg = f"expected labels {{name: number}} in {DATASET}, got {labels!r:.60}; correct it"
        raise FormatError(msg)
    names: dict[int, str] = {}
    sizes: dict[int, int] = {}
    for key, value in labels.items():
        if isinstance(value, str) and key.isdecimal() and len(key) < 10:  # {"1": "liver"}
            names.setdefault(int(key), value)
        elif _is_number(value):
            names[value] = key
            sizes[value] = 1
        elif isinstance(value, list) and value and all(map(_is_number, value)):
            for number in value:  # a region: the smallest that holds a label names it
                if len(value) < sizes.get(number, 1 << 30):
                    names[number], sizes[number] = key, len(value)
        else:
            msg = (
                f"expected labels {{name: number}} in {DATASET}, got {key!r}: {value!r:.40}; "
                "correct it"
            )
            raise FormatError(msg)
    names.pop(0, None)
    kept = record.get("labels")
    colours: dict[str, _Row] = {}
    for row in kept if isinstance(kept, list) else ():
        if isinstance(row, dict):
            colours[str(row.get("name"))] = row
    rows = []
    counts = Counter(names.values())
    for number, name in sorted(names.items()):
        is_twice = counts[name] > 1
        own = colours.get(name, {})
        colour, is_thing = own.get("colour"), own.get("is_thing") is True
        rows.append(
            Label(
                number,
                f"{name} {number}" if is_twice else name,
                colour if isinstance(colour, str) and re.fullmatch("#[0-9a-f]{6}", colour) else "",
                is_thing=is_thing,
                ignore=name == IGNORE,
            )
        )
    return LabelTable(rows)


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**32


def _has_regions(about: _Row) -> bool:
    return any(isinstance(value, list) for value in about["labels"].values())


def listed(path: Path, about: _Row) -> Iterator[tuple[str, Path | None, Path | None, bool]]:
    """Yield name, first image, label and whether it is of the test set, for each case."""
    ending = str(about.get("file_ending") or ".nii.gz")
    placed = about.get("dataset")
    if isinstance(placed, dict):  # files anywhere, named one by one
        for name, row in sorted(placed.items()):
            images = row.get("images") if isinstance(row, dict) else None
            if not isinstance(images, list) or not images:
                msg = f"expected images of case {name!r} in {DATASET}, got {row!r:.60}; correct it"
                raise FormatError(msg)
            yield str(name), inside(path, images[0]), inside(path, row.get("label")), False
        return
    for end, is_test in (("Tr", False), ("Ts", True)):
        images, labels = path / f"images{end}", path / f"labels{end}"
        names = {p.name[: -len(ending)] for p in labels.glob(f"*{ending}") if _seen(p)}
        if is_test:
            shown = (p.name[: -len(ending)] for p in images.glob(f"*{ending}") if _seen(p))
            names |= {re.sub(r"_\d{4}$", "", name) for name in shown}
        for name in sorted(names):
            places = (images / f"{name}_0000{ending}", images / f"{name}{ending}")
            image = next((place for place in places if place.is_file()), None)
            label = labels / f"{name}{ending}"
            yield name, image, label if label.is_file() else None, is_test


def _seen(path: Path) -> bool:
    return not path.name.startswith(".")


def _splits(path: Path) -> dict[str, str]:
    """Return the split of each case, from one split of train and val or from folds."""
    file = path / SPLITS
    if not file.is_file():
        return {}
    try:
        with reading(file):
            found = json.loads(file.read_bytes())
        folds = [({str(n) for n in one["train"]}, [str(n) for n in one["val"]]) for one in found]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        msg = f"expected [{{train, val}}] in {SPLITS}, got {error}; correct or remove it"
        raise FormatError(msg) from error
    if len(folds) == 1:
        train, val = folds[0]
        return {**dict.fromkeys(train, "train"), **dict.fromkeys(val, "val")}
    return {name: f"fold{number}" for number, (_, val) in enumerate(folds) for name in val}


def hold(sample: Sample, dataset: Dataset, *, options: Options) -> Held:
    """Return the sample as one mask of consecutive classes, on the grid its file states."""
    mask, losses = as_classes(sample, consecutive(dataset.scheme))
    if mask.data.ndim != mask.geometry.ndim:
        msg = (
            f"expected a picture or a volume for nnU-Net, got several time points of shape "
            f"{mask.data.shape} in {sample.item.name!r}; convert them one by one"
        )
        raise InputError(msg)
    stored, suffix, lost = as_stored(replace(mask, header=None))
    if suffix == ".tif":
        msg = f"expected at most 65535 classes for nnU-Net, got {len(mask.labels)}; merge some"
        raise InputError(msg)
    return Held(replace(sample, masks=(stored,)), {**losses, **lost})


def write(
    dataset: Dataset, samples: Iterable[Sample], folder: Path, *, options: Options, job: Job
) -> None:
    """Write imagesTr/, labelsTr/ (Ts for the test split), dataset.json and the record."""
    writer = Writer(folder, options, job)
    for sample in samples:
        writer.put(sample)
    writer.finish(dataset)


def _object(path: Path) -> _Row:
    with reading(path):
        raw = path.read_bytes()
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        msg = f"expected JSON in {path.name}, got {raw[:20]!r} ({error}); repair it"
        raise FormatError(msg) from error
    if not isinstance(found, dict):
        msg = f"expected an object in {path.name}, got {type(found).__name__}; repair it"
        raise FormatError(msg)
    return found


def _check(path: Path, *, options: Options, job: Job) -> Any:  # Any: an iterator of problems
    from maskloop.datasets.nnunet_check import check

    return check(path, job)


FORMAT = DatasetFormat(
    name="nnunet",
    title="nnU-Net v2 dataset",
    sniff=sniff,
    open=open_dataset,
    hold=hold,
    write=write,
    check=_check,
    dims=frozenset({2, 3}),
    options=frozenset({"images", "maps"}),
    layout="dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz",
    proof="real data",
)

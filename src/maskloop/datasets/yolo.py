"""YOLO segmentation: a text beside each picture, one closed line an object, and data.yaml.

Trainers draw the lines with OpenCV, whose whole numbers are pixel centres. We write the line of
`ops.trails` a quarter of a pixel behind each centre, so that rounding and cutting off give the
same pixel, and read lines as trainers draw them. Holes survive; parts that do not touch are
joined by thin lines; classes become objects, one a part.

References
----------
.. [1] Ultralytics documentation, "Instance Segmentation Datasets Overview": label format and
   dataset YAML.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import FormatError, InputError
from maskloop.core.labels import LabelTable, colour_of
from maskloop.datasets.base import (
    SCORES,
    DatasetFormat,
    Held,
    Loss,
    Options,
    class_of,
    place_image,
    regions,
    safe_name,
)
from maskloop.datasets.beside import (
    Lists,
    size_of,
    told_apart,
)
from maskloop.datasets.drawn import (
    Drawn,
    flat,
    laid,
)
from maskloop.datasets.yolo_places import (
    REST,
    SIZES,
    SPLITS,
    YAML,
    folders,
    listed,
    scheme_of,
    sizes_of,
    sniff,
    yaml_of,
)
from maskloop.datasets.yolo_yaml import Value, parsed, written
from maskloop.formats.base import reading
from maskloop.ops.fill import cropped, fill_centres
from maskloop.ops.trails import trail

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy.typing as npt

    from maskloop.core.job import Job
    from maskloop.datasets.base import Region
    from maskloop.ops.fill import Found

JOINED = Loss("object", "has its parts joined by a thin line", "have their parts joined by lines")
APART = Loss("class region", "becomes objects, one a part", "become objects, one a part")
LEFT_OUT = Loss("ignored region", "is left out", "are left out")
NAMES = Loss("object", "loses its own name", "lose their own names")

_AHEAD = 0.25  # of a pixel: cut off or rounded, the same pixel
_SLACK = 0.01  # of a pixel: six digits of a share


def open_dataset(path: Path, *, options: Options, job: Job) -> Dataset:
    """List pictures and texts of every split that data.yaml names; no text is read."""
    root = path if path.is_dir() else path.parent
    file = yaml_of(path) if path.is_dir() else path
    keys: dict[str, Value] = {}
    if file is not None:
        with reading(file):
            keys = parsed(file.read_text(encoding="utf-8-sig", errors="replace"), file.name)
    if "kpt_shape" in keys:
        msg = f"expected outlines, got keypoints (kpt_shape) in {root.name}; choose another set"
        raise FormatError(msg)
    scheme = scheme_of(keys.get("names", []), keys.get("colors", []), root)
    sizes = sizes_of(root)
    found = [
        item for split, folder in folders(keys, root) for item in listed(folder, split, root, sizes)
    ]

    def read(item: Item, job: Job) -> Sample:
        return _read(item, scheme, job)

    return Dataset(
        root.name, "yolo", path, scheme, Lists.told(told_apart(found), root), read, "objects"
    )


def _read(item: Item, scheme: LabelTable, job: Job) -> Sample:
    if item.shape is not None:
        shape = (item.shape[0], item.shape[1])
    elif item.image is not None:
        shape = size_of(item.image)
    else:
        msg = f"expected the picture of {item.name!r}, got none: lines are shares of its size"
        raise InputError(f"{msg}; put it into the dataset")
    file: Path | None = item.ref
    if file is None or not file.is_file():
        return _sample(item, shape, [], scheme)
    with reading(file):
        text = file.read_text(encoding="utf-8", errors="replace")
    drawn, boxes = [], 0
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            where = f"line {number} of {file.name}"
            name, values = _parsed(line, scheme, where)
            boxes += values.size == 4
            drawn.append((name, _filled(values, shape, where)))
    if boxes:
        job.say(f"{boxes} objects of {file.name} are boxes without an outline: read as rectangles")
    return _sample(item, shape, drawn, scheme)


def _sample(
    item: Item, shape: tuple[int, int], found: list[tuple[str, Found | None]], scheme: LabelTable
) -> Sample:
    return laid(item, shape, [Drawn(*one) for one in found], scheme, format="yolo")


def _parsed(line: str, scheme: LabelTable, where: str) -> tuple[str, npt.NDArray[np.float64]]:
    """Return the class and the numbers of a line."""
    words = line.split()
    try:
        values = np.array(words[1:], dtype=np.float64)
        number = float(words[0])
    except ValueError as error:
        msg = f"expected 'class x y x y x y ...' as numbers in {where}, got {line[:40]!r}"
        raise FormatError(f"{msg}; repair or remove the line") from error
    if not number.is_integer() or not 0 <= number < 2**31:
        msg = f"expected the number of a class in {where}, got {words[0]!r}"
        raise FormatError(f"{msg}; repair or remove the line")
    if values.size < 4 or values.size % 2 or not ((values > -0.5) & (values < 1.5)).all():
        msg = f"expected pairs of shares from 0 to 1 in {where}, got {' '.join(words[1:])[:40]!r}"
        raise FormatError(f"{msg}; divide x by the width and y by the height")
    row = scheme.get(int(number) + 1)
    if row is None and scheme:
        known = max(scheme) - 1
        msg = f"expected a class from 0 to {known} in {where}, got {int(number)}"
        raise FormatError(f"{msg}; add its name to data.yaml")
    return (f"class {int(number)}" if row is None else row.name), values


def _filled(values: npt.NDArray[np.float64], shape: tuple[int, int], where: str) -> Found | None:
    """Return what a trainer draws for a line, or the rectangle for a box (centre and size)."""
    size = np.array(shape[::-1])
    if values.size == 4:
        middle, extent = values.reshape(2, 2) * size
        low, high = np.rint(middle - extent / 2), np.rint(middle + extent / 2)
        left, top = np.clip(low, 0, size - 1).astype(int).tolist()
        right, bottom = np.clip(high, [left + 1, top + 1], size).astype(int).tolist()
        return cropped(np.ones((bottom - top, right - left), bool), top, left)
    try:
        return fill_centres(np.floor(values.reshape(-1, 2) * size + _SLACK).astype(np.int64), shape)
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from error


def hold(sample: Sample, dataset: Dataset, *, options: Options) -> Held:
    """Draw every line as trainers will; count what that changes."""
    plain = flat(sample, "YOLO")
    losses = Counter(plain.losses)
    found: list[tuple[str, Found | None]] = []
    for one in regions(plain.sample):
        if one.label.ignore:
            losses[LEFT_OUT] += 1
            continue
        pieces = _pieces(one)
        losses[APART] += len(pieces) > 1
        losses[SCORES] += one.label.score is not None
        losses[NAMES] += one.label.category is not None and one.label.name != (
            f"{one.label.category} {one.label.id}"
        )
        for top, left, region in pieces:
            box, drawn = _drawn(region)
            losses[JOINED] += int(drawn.sum()) != int(region.sum())
            rows, columns = box
            place = (
                slice(top + rows.start, top + rows.stop),
                slice(left + columns.start, left + columns.stop),
            )
            found.append((class_of(one.label), (place, drawn)))
    shape = plain.sample.masks[0].data.shape
    held = _sample(sample.item, (shape[0], shape[1]), found, dataset.scheme)
    return Held(replace(held, header=None), {k: n for k, n in losses.items() if n})


def _pieces(one: Region) -> list[tuple[int, int, npt.NDArray[np.bool_]]]:
    """Return the parts of a class, or an object whole: top, left and region."""
    from scipy import ndimage

    top, left = one.box[0].start, one.box[1].start
    if one.label.category is not None:
        return [(top, left, one.region)]
    labels, _ = ndimage.label(one.region, np.ones((3, 3)))
    return [
        (top + box[0].start, left + box[1].start, labels[box] == number)
        for number, box in enumerate(ndimage.find_objects(labels), start=1)
    ]


def _drawn(region: npt.NDArray[np.bool_]) -> Found:
    found = fill_centres(trail(region), (region.shape[0], region.shape[1]))
    if found is None:  # every line draws its own points
        msg = "expected a line that draws something, got none; report this"
        raise InputError(msg)
    return found


def write(
    dataset: Dataset, samples: Iterable[Sample], folder: Path, *, options: Options, job: Job
) -> None:
    """Write images/SPLIT, labels/SPLIT and data.yaml; sizes.csv where pictures are not placed."""
    names = [row.name for row in dataset.scheme.values() if not row.ignore]
    colours = {row.name: row.colour for row in dataset.scheme.values()}
    splits: dict[str, None] = {}
    sizes = []
    lists = Lists()
    has_splits = any(item.split for item in dataset.items)
    for item, sample in zip(dataset.items, samples, strict=True):
        split = safe_name(item.split or REST) if has_splits else ""
        splits[split] = None
        name = safe_name(item.name)
        lists.add(item, name)
        within = f"{split}/{name}" if split else name
        lines = []
        for one in regions(sample):
            word = class_of(one.label)
            if word not in names:
                names.append(word)
            lines.append(_line(one, names.index(word), sample.masks[0].data.shape))
        for kind in ("images", "labels"):
            (folder / kind / within).parent.mkdir(parents=True, exist_ok=True)
        (folder / "labels" / f"{within}.txt").write_text("".join(lines), encoding="ascii")
        placed = place_image(item, folder / "images" / within, options=options, job=job)
        if placed is None:
            height, width = sample.masks[0].data.shape
            sizes.append(f"labels/{within},{height},{width}\n")
    lists.write(folder, has_splits=False)
    if sizes:
        text = "".join(["name,height,width\n", *sizes])
        (folder / SIZES).write_text(text, encoding="utf-8")
    shades = [colours.get(name) or colour_of(at) for at, name in enumerate(names, start=1)]
    keys = {**_paths(list(splits)), "names": names, "colors": shades}
    (folder / YAML[0]).write_text(written(keys), encoding="utf-8")


def _paths(splits: list[str]) -> dict[str, str]:
    """Return the folder of each split; trainers want train and val, if need be the same."""
    paths = {split or "train": f"images/{split}".rstrip("/") for split in splits}
    ordered = {key: paths[key] for key in (*SPLITS, *paths) if key in paths}
    first = next(iter(ordered.values()), "images")
    return {"train": first, "val": first, **ordered}


def _line(one: Region, number: int, shape: tuple[int, ...]) -> str:
    corner = np.array([one.box[1].start, one.box[0].start])
    shares = (trail(one.region) + corner + _AHEAD) / np.array([shape[1], shape[0]])
    return f"{number} " + " ".join(f"{value:.6f}" for value in shares.reshape(-1).tolist()) + "\n"


FORMAT = DatasetFormat(
    name="yolo",
    title="YOLO segmentation",
    sniff=sniff,
    open=open_dataset,
    hold=hold,
    write=write,
    options=frozenset({"images"}),
    layout="data.yaml, images/SPLIT/NAME.*, labels/SPLIT/NAME.txt",
    proof="real data",
)

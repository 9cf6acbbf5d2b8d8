"""Volumes as COCO: one PNG a slice, one annotation an object and slice; and the way back.

A volume is a video: ``videos`` tell its shape, its affine (columns in order of the array axes
z, y, x; rows RAS+ in mm), its labels, the window of its slices and its group; ``images`` its
slices in order. Each annotation names its object of the volume as ``track_id``, in ``attributes``
too, where other programs carry it along. Parts of an object in one slice are one annotation.

References
----------
.. [1] COCO, "Data format"; the keys ``video_id``, ``frame_id``, ``frame_index``, ``track_id`` and
   ``instance_id`` as in the COCO dialects for videos (MMTracking's CocoVID, kwcoco).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.errors import FormatError, GeometryError, InputError
from maskloop.core.labels import Label, LabelTable
from maskloop.datasets.base import (
    REVIEW,
    SLICES,
    DatasetFormat,
    Held,
    Loss,
    Options,
    class_ids,
    class_of,
    has_pixels,
    is_partly_reviewed,
    read_image,
    safe_name,
)
from maskloop.datasets.cocovolume_read import Volume, opened
from maskloop.formats import picture_png
from maskloop.formats.base import first_bytes
from maskloop.ops import outlines

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import BinaryIO

    import numpy.typing as npt

    from maskloop.core.image import Image
    from maskloop.core.job import Job

GREYS = Loss(
    "image",
    "becomes grey slices: its own values come back with --bits 16 --empty all and no window only",
    "become grey slices: their own values come back with --bits 16 --empty all and no window only",
    is_note=True,
)
_MARK = b'"kind":"volumes"'
_AXES = "zyx"
_NO_SPLIT = "default"
_Row = dict[str, Any]  # Any: plain JSON values


def sniff(path: Path) -> bool:
    """Whether a file, or one of a folder's annotations/, says that it holds volumes."""
    return any(_MARK in first_bytes(file, 256) for file in _files(path)[:8])


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted((path / "annotations").glob("*.json"))
    return [path] if path.suffix.lower() == ".json" and path.is_file() else []


def open_dataset(path: Path, *, options: Options, job: Job) -> Dataset:
    """List the volumes; run lengths are decoded when one is read."""
    files = _files(path)
    if not files:
        msg = f"expected JSON files in {path.name}/annotations/, got none; choose another folder"
        raise FormatError(msg)
    root = path if path.is_dir() else path.parent.parent
    volumes: list[Volume] = []
    scheme = LabelTable()
    for file in job.track(files, "annotations"):
        found, categories = opened(file, root, job)
        volumes += found
        scheme = scheme.with_rows(categories.values())
    items = tuple(
        Item(
            volume.name,
            shape=volume.geometry.shape,
            group=volume.group,
            split="" if volume.split == _NO_SPLIT else volume.split,
            classes=volume.classes,
            count=volume.count,
            ref=volume,
        )
        for volume in volumes
    )
    rows = [row for volume in volumes for row in volume.labels.values()]
    has = {row.category is not None for row in rows}
    kind: Any = "classes" if has == {False} else "panoptic" if len(has) == 2 else "objects"

    def read(item: Item, job: Job) -> Sample:
        volume: Volume = item.ref
        return Sample(item, volume.masks())

    return Dataset(root.name, "coco-volume", root, scheme, items, read, kind)


def hold(sample: Sample, dataset: Dataset, *, options: Options) -> Held:
    """Return the sample as it is, and how many slices without labels are left out.

    Raises
    ------
    InputError
        If it is no volume.
    """
    mask = sample.masks[0]
    if mask.geometry.ndim != 3 or mask.data.ndim != 3:
        what = "a picture" if mask.data.ndim == 2 else "several time points"
        msg = (
            f"expected a volume (z, y, x) for coco-volume, got {what} of shape {mask.data.shape} "
            f"in {sample.item.name!r}; convert pictures to coco, and time points one by one"
        )
        raise InputError(msg)
    if options.axis not in (0, 1, 2):
        msg = f"expected the axis 0, 1 or 2 to cut along, got {options.axis!r}; choose one"
        raise InputError(msg)
    masks = tuple(
        replace(one, labels=one.labels.covering(one.ids()), header=None) for one in sample.masks
    )
    left_out = mask.data.shape[options.axis] - len(_slices(sample, options))
    is_whole = options.bits == 16 and options.window is None and not left_out
    is_changed = not is_whole and options.images != "none" and has_pixels(sample.item)
    losses = {
        SLICES: left_out,
        REVIEW: int(is_partly_reviewed(sample)),
        GREYS: int(is_changed),
    }
    held = Sample(sample.item, masks)
    return Held(held, {loss: count for loss, count in losses.items() if count})


def _slices(sample: Sample, options: Options) -> list[int]:
    """Return the slices that are written: all, from the first to the last labelled, or labelled."""
    count = sample.masks[0].data.shape[options.axis]
    if options.empty == "all":
        return list(range(count))
    others = tuple(axis for axis in range(3) if axis != options.axis)
    labelled = np.flatnonzero(
        np.logical_or.reduce([mask.data.any(axis=others) for mask in sample.masks])
    )
    if options.empty == "none" or not labelled.size:
        return [int(n) for n in labelled]
    return list(range(int(labelled[0]), int(labelled[-1]) + 1))


def write(
    dataset: Dataset, samples: Iterable[Sample], folder: Path, *, options: Options, job: Job
) -> None:
    """Write the slices and, for each split, one JSON."""
    (folder / "annotations").mkdir()
    writer = _Writer(dataset, folder, options)
    try:
        for sample in samples:
            writer.put(sample, job)
        if not writer.sheets:
            writer.sheet("")
        writer.finish()
    finally:
        writer.close()


class _Sheet:
    """The JSON of one split; rows of images and annotations wait in files until it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.videos: list[bytes] = []
        self._parts = {n: path.with_name(f".{path.stem}.{n}") for n in ("images", "annotations")}
        self._streams: dict[str, BinaryIO] = {n: p.open("w+b") for n, p in self._parts.items()}

    def add(self, part: str, row: _Row) -> None:
        """Add a row of ``"images"`` or ``"annotations"``."""
        stream = self._streams[part]
        stream.write((b",\n" if stream.tell() else b"") + _json(row))

    def finish(self, info: _Row, categories: list[_Row]) -> None:
        """Join the parts."""
        with self.path.open("wb") as out:
            out.write(b'{"info":' + _json(info) + b',\n"licenses":[],\n"videos":[\n')
            out.write(b",\n".join(self.videos) + b"],\n")
            for part, stream in self._streams.items():
                stream.seek(0)
                out.write(b'"' + part.encode() + b'":[\n')
                shutil.copyfileobj(stream, out)
                out.write(b"],\n")
            out.write(b'"categories":' + _json(categories) + b"}\n")

    def close(self) -> None:
        """Remove the parts."""
        for name, stream in self._streams.items():
            stream.close()
            self._parts[name].unlink(missing_ok=True)


class _Writer:
    """Numbers what it writes from 1: videos, images and annotations, over all splits."""

    def __init__(self, dataset: Dataset, folder: Path, options: Options) -> None:
        self.sheets: dict[str, _Sheet] = {}
        self._folder, self._options = folder, options
        self._numbers = class_ids(dataset.scheme)
        self._classes = {row.name: row for row in dataset.scheme.values()}
        self._videos = self._images = self._annotations = 0

    def sheet(self, split: str) -> _Sheet:
        """Return the JSON of a split, begun at the first call."""
        name = safe_name(split) if split else _NO_SPLIT
        if name not in self.sheets:
            path = self._folder / "annotations" / f"instances_{name}.json"
            self.sheets[name] = _Sheet(path)
        return self.sheets[name]

    def put(self, sample: Sample, job: Job) -> None:
        """Write one volume."""
        sheet, axis = self.sheet(sample.item.split), self._options.axis
        geometry = sample.masks[0].geometry
        self._videos += 1
        name = safe_name(sample.item.name)
        image = None
        if self._options.images != "none" and has_pixels(sample.item):
            image = read_image(sample.item, job)
            _require_same(image, sample)
        scale = None if image is None else _Scale.of(image, self._options)
        place = {
            "slice_axis": axis,
            "affine": geometry.affine.tolist(),
            "spacing_mm": list(geometry.spacing) if geometry.unit == "mm" else None,
            "group_id": sample.item.group,
            "window": None if scale is None else [scale.low, scale.high],
        }
        rows = LabelTable(row for mask in sample.masks for row in mask.labels.values())
        sheet.videos.append(
            _json(
                {
                    "id": self._videos,
                    "name": name,
                    "shape": list(geometry.shape),
                    "unit": geometry.unit,
                    **place,
                    "bits": None if scale is None else scale.bits,
                    "labels": rows.to_rows(),
                }
            )
        )
        shown = [n for n in range(3) if n != axis]
        height, width = (geometry.shape[n] for n in shown)
        for frame, at in enumerate(_slices(sample, self._options)):
            self._images += 1
            file = f"{name}/{_AXES[axis]}{at:04d}.png"
            row = {
                "id": self._images,
                "file_name": file,
                "width": width,
                "height": height,
                "video_id": self._videos,
                "frame_id": frame,
                "frame_index": frame,
                "slice_index": at,
                **place,
            }
            sheet.add("images", row)
            if image is not None and scale is not None:
                path = self._folder / "images" / file
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = scale.shown(np.take(image.data, at, axis=axis))
                path.write_bytes(picture_png.packed(pixels, b""))
            for mask in sample.masks:
                ids = np.take(mask.data, at, axis=axis)
                self._annotate(ids, rows, sheet)

    def _annotate(self, ids: npt.NDArray[Any], rows: LabelTable, sheet: _Sheet) -> None:
        for outline in outlines.encode(ids):
            label = rows[outline.id]
            self._annotations += 1
            row = {
                "id": self._annotations,
                "image_id": self._images,
                "category_id": self._category(label),
                "segmentation": {"size": list(ids.shape), "counts": outline.counts},
                "area": outline.area,
                "bbox": [float(n) for n in outline.box],
                "iscrowd": int(label.ignore),
                "track_id": outline.id,
                "attributes": {"track_id": outline.id},
            }
            if label.score is not None:
                row["score"] = label.score
            sheet.add("annotations", row)

    def _category(self, label: Label) -> int:
        name = class_of(label)
        if name not in self._numbers:
            number = max(self._numbers.values(), default=0) + 1
            self._numbers[name] = number
            is_thing = label.is_thing or label.category is not None
            self._classes[name] = Label(number, name, is_thing=is_thing, ignore=label.ignore)
        return self._numbers[name]

    def finish(self) -> None:
        """Write every JSON whole."""
        info = {"maskloop": {"version": 1, "kind": "volumes"}}
        categories = [
            {
                "id": row.id,
                "name": row.name,
                "supercategory": "",
                "color": list(bytes.fromhex(row.colour[1:])),
                "isthing": int(row.is_thing),
                **({"ignore": 1} if row.ignore else {}),
            }
            for row in sorted(self._classes.values(), key=lambda row: row.id)
        ]
        for sheet in self.sheets.values():
            sheet.finish(info, categories)

    def close(self) -> None:
        """Remove what is half written."""
        for sheet in self.sheets.values():
            sheet.close()


@dataclass(frozen=True, slots=True)
class _Scale:
    """Which values become black and white; exact where the steps between them are whole."""

    low: float
    high: float
    bits: int

    @classmethod
    def of(cls, image: Image, options: Options) -> _Scale:
        """Return the window asked for, else one that holds every value of the image."""
        top = 2**options.bits - 1
        if image.has_channels:
            return cls(0, 255, 8)
        if options.window is not None:
            low, high = options.window
            if not low < high:
                msg = f"expected a window from low to high, got {low:g} to {high:g}; turn it round"
                raise InputError(msg)
            return cls(float(low), float(high), options.bits)
        finite = (
            image.data if image.data.dtype.kind in "biu" else image.data[np.isfinite(image.data)]
        )
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        if image.data.dtype.kind in "biu" and high - low <= top:
            high = low + top  # one step of gray a unit: nothing is rounded
        return cls(low, high if high > low else low + 1, options.bits)

    def shown(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the gray values of a slice; colours stay."""
        if values.ndim == 3:
            return np.ascontiguousarray(values)
        top = 2**self.bits - 1
        part = (values.astype(np.float64) - self.low) * (top / (self.high - self.low))
        whole = np.rint(np.clip(np.nan_to_num(part, nan=0.0), 0, top))
        gray: npt.NDArray[Any] = whole.astype(np.uint8 if self.bits == 8 else np.uint16)
        return gray


def _require_same(image: Image, sample: Sample) -> None:
    grid = sample.masks[0].geometry
    is_rgb = image.channels == 3 and image.data.dtype == np.uint8
    if image.has_time or (image.has_channels and not is_rgb):
        msg = (
            f"expected a gray or RGB volume for {sample.item.name!r}, got {image.frames} time "
            f"points of {image.channels} channels; choose one of them, or add --images none"
        )
        raise InputError(msg)
    if image.geometry.shape != grid.shape:
        msg = (
            f"expected the image of {sample.item.name!r} of its mask's shape {grid.shape}, got "
            f"{image.geometry.shape}; choose its own image, or add --images none"
        )
        raise GeometryError(msg)


def _json(row: Mapping[str, Any] | list[_Row]) -> bytes:  # Any: plain JSON values
    import orjson

    return orjson.dumps(row)


FORMAT = DatasetFormat(
    name="coco-volume",
    title="COCO of slices, with the way back",
    sniff=sniff,
    open=open_dataset,
    hold=hold,
    write=write,
    dims=frozenset({3}),
    options=frozenset({"images", "axis", "window", "bits", "empty"}),
    layout="annotations/instances_SPLIT.json, images/VOLUME/z0042.png",
    proof="real data",
)

"""Writing the folder that nnU-Net trains on, case by case."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core.errors import GeometryError, InputError
from maskloop.datasets.base import Options, has_pixels, place_file, read_image, safe_name
from maskloop.datasets.files import write_gray, write_maps
from maskloop.datasets.tables import consecutive
from maskloop.formats import nifti, picture
from maskloop.formats.base import Target
from maskloop.formats.dicom_head import DicomHeader
from maskloop.formats.nifti_write import plan_image

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from maskloop.core.dataset import Dataset, Item, Sample
    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.core.mask import Mask

DATASET, RECORD, SPLITS = "dataset.json", "maskloop.json", "splits_final.json"
MAPS = "maps"
_AIR_HU = -900  # darker than anything but air is CT
_Row = dict[str, Any]  # Any: plain JSON values


class Writer:
    """Writes case by case, and what is known of all of them at the end."""

    def __init__(self, folder: Path, options: Options, job: Job) -> None:
        self._folder, self._options, self._job = folder, options, job
        self._cases: dict[str, _Row] = {}
        self._channels: tuple[str, ...] = ()
        self._ndim = 0
        self._training = self._without = 0
        self._ignores = False

    def put(self, sample: Sample) -> None:
        """Write one case.

        Raises
        ------
        InputError
            If it has other axes or channels than those before, or several time points.
        GeometryError
            If its mask does not lie on its image's grid.
        """
        mask, item = sample.masks[0], sample.item
        name = self._name(item)
        end = "Ts" if item.split == "test" else "Tr"
        if self._ndim not in (0, mask.geometry.ndim):
            msg = f"expected pictures or volumes for nnU-Net, got both ({item.name!r}); split them"
            raise InputError(msg)
        self._ndim = mask.geometry.ndim
        self._training += end == "Tr"
        self._ignores |= any(row.ignore for row in mask.labels.values())
        write_gray(mask, self._folder / f"labels{end}" / name)
        if self._options.images != "none" and has_pixels(item):
            image = read_image(item, self._job)
            self._put_image(image, mask, item, self._folder / f"images{end}" / name)
        else:
            self._without += 1
        if self._options.maps:
            write_maps(sample, self._folder / MAPS, name, options=self._options)

    def _name(self, item: Item) -> str:
        wanted = safe_name(item.name)
        flat = re.sub(r"\s+", "_", wanted.replace("/", "_"))
        name, number = flat, 1
        while name in self._cases:
            number += 1
            name = f"{flat}-{number}"
        row = {"name": wanted, "group": item.group, "split": item.split}
        self._cases[name] = {key: value for key, value in row.items() if value}
        return name

    def _put_image(self, image: Image, mask: Mask, item: Item, path: Path) -> None:
        if image.has_time:
            msg = f"expected one time point of {item.name!r}, got {image.frames}; choose one"
            raise InputError(msg)
        is_flat = image.geometry.ndim == 2
        channels = _channel_names(image)
        if self._channels and self._channels != channels:
            if len(self._channels) != len(channels):
                msg = (
                    f"expected {len(self._channels)} channel(s) as in the cases before, got "
                    f"{len(channels)} in {item.name!r}; nnU-Net needs the same of every case"
                )
                raise InputError(f"{msg}: leave it out")
            self._channels = tuple(
                one if one == other else "image"
                for one, other in zip(self._channels, channels, strict=True)
            )
        self._channels = self._channels or channels
        if is_flat:
            planned = picture.plan_image(image, suffix=".png").image
            files = {".png": [planned]}
        else:
            parts = [image.channel(n) for n in range(image.channels)]
            files = {".nii.gz": [plan_image(one, suffix=".nii.gz").image for one in parts]}
        ((suffix, images),) = files.items()
        words = images[0].geometry.difference(mask.geometry)
        if words:
            msg = f"expected the mask of {item.name!r} on its image's grid, but {words}"
            raise GeometryError(f"{msg}; choose its own image, or add --images none")
        path.parent.mkdir(parents=True, exist_ok=True)
        source = item.image
        is_linked = self._options.images == "link" and source is not None and len(images) == 1
        if is_linked and source is not None and source.name.endswith(suffix):
            place_file(source, path.with_name(f"{path.name}_0000"), options=self._options)
            return
        for number, one in enumerate(images):
            to = path.with_name(f"{path.name}_{number:04d}{suffix}")
            (picture if is_flat else nifti).write_image(one, Target(to, suffix, to))

    def finish(self, dataset: Dataset) -> None:
        """Write what is known of all cases."""
        rows = consecutive(dataset.scheme)
        labels = {"background": 0}
        labels.update((row.name, i) for i, row in rows.items() if not row.ignore or self._ignores)
        if self._without:
            self._job.say(
                f"{self._without:,} cases were written without their images: nnU-Net needs them"
            )
        _put(
            self._folder / DATASET,
            {
                "name": safe_name(dataset.name or "dataset"),
                "channel_names": {
                    str(number): name for number, name in enumerate(self._channels or ("image",))
                },
                "labels": labels,
                "numTraining": self._training,
                "file_ending": ".png" if self._ndim == 2 else ".nii.gz",
            },
        )
        own = {row.name: row.id for row in dataset.scheme.values()}
        record = [
            {
                "id": row.id,
                "was": own[row.name],
                "name": row.name,
                "colour": row.colour,
                "is_thing": row.is_thing,
            }
            for row in rows.values()
            if not row.ignore
        ]
        _put(self._folder / RECORD, {"version": 1, "labels": record, "cases": self._cases})
        splits = _as_splits({n: row.get("split", "") for n, row in self._cases.items()})
        if splits:
            _put(self._folder / SPLITS, splits)
        for name in ("imagesTr", "labelsTr"):
            (self._folder / name).mkdir(exist_ok=True)


def _as_splits(split_of: Mapping[str, str]) -> list[dict[str, list[str]]]:
    """Return nnU-Net's list of splits: one of train and val, or one a fold."""
    names: dict[str, list[str]] = {}
    for name, split in split_of.items():
        if split and split != "test":
            names.setdefault(split, []).append(name)
    folds = sorted(n for n in names if re.fullmatch(r"fold-?\d+", n))
    if folds and len(folds) == len(names) > 1:
        return [
            {
                "train": sorted(n for one in folds if one != fold for n in names[one]),
                "val": names[fold],
            }
            for fold in folds
        ]
    if "train" in names and "val" in names:
        return [{"train": names["train"], "val": names["val"]}]
    return []


def _channel_names(image: Image) -> tuple[str, ...]:
    """Return what the channels are; the name CT makes nnU-Net clip and scale Hounsfield units."""
    if image.geometry.ndim == 2:
        return ("R", "G", "B") if image.channels == 3 else ("gray",) * image.channels
    known = image.header.modality if isinstance(image.header, DicomHeader) else ""
    is_whole = image.data.dtype.kind in "if" and image.channels == 1
    if not known and is_whole and float(np.nanmin(image.data)) <= _AIR_HU:
        known = "CT"
    return tuple([known or "image"] * image.channels)


def _put(path: Path, content: Any) -> None:  # Any: plain JSON values
    text = json.dumps(content, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")

"""The COCO file that keeps every object of each image whole, also where objects overlap."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core.errors import InputError, VerificationError
from maskloop.formats import coco_plain
from maskloop.formats.swap import Swap
from maskloop.ops import outlines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.core.labels import LabelTable
    from maskloop.core.mask import Mask
    from maskloop.formats.verify import Receipt
    from maskloop.models.objects import Found

_Entry = dict[str, Any]  # Any: plain JSON values
_WHAT = "Every object a model found, whole, also where a better one lies over it."


@dataclass(slots=True)
class OverlapFile:
    """One COCO file of many images, good for an image as long as the mask beside it is the same.

    Objects stand the best score first. An image's entry also names its ``mask`` and that file's
    ``mask_sha256``.

    Parameters
    ----------
    path : Path
        The file.
    model : str
        Name of the model's card.
    categories : dict of str to int
        Class name -> its id.
    images : dict
        Mask's file name -> entry of the image.
    annotations : dict
        Mask's file name -> annotations of the image.
    """

    path: Path
    model: str
    categories: dict[str, int]
    images: dict[str, _Entry] = field(default_factory=dict)
    annotations: dict[str, list[_Entry]] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, model: str, labels: LabelTable) -> OverlapFile:
        """Return what the file holds; nothing where it is new or of another model.

        Raises
        ------
        InputError
            If the path holds something else.
        """
        if not path.parent.is_dir():
            msg = f"expected an existing folder to write {path.name!r} in, got none; make it first"
            raise InputError(msg)
        made = cls(path, model, {name: i for i, name in labels.names.items()})
        if not path.exists():
            return made
        try:
            found = json.loads(path.read_bytes())
            told = found["info"]["maskloop"]
            by_image: dict[int, list[_Entry]] = {}
            for annotation in found["annotations"]:
                by_image.setdefault(annotation["image_id"], []).append(annotation)
            if told["overlaps"] and told["model"] == model:
                made.categories = {c["name"]: c["id"] for c in found["categories"]}
                made.images = {str(entry["mask"]): entry for entry in found["images"]}
                made.annotations = {
                    name: by_image.get(entry["id"], []) for name, entry in made.images.items()
                }
        except (OSError, ValueError, KeyError, TypeError) as error:
            msg = (
                f"expected {str(path)!r} to be free or a list of objects with their overlaps, got "
                "another file; choose another name"
            )
            raise InputError(msg) from error
        return made

    def knows(self, receipt: Receipt) -> bool:
        """Return whether the file holds the objects beside this very mask."""
        name = receipt.path.name
        entry = self.images.get(name)
        return entry is not None and entry["mask_sha256"] == receipt.sha256.get(name)

    def put(self, image: Path, receipt: Receipt, mask: Mask, found: Sequence[Found]) -> None:
        """Add the objects of one image, read the file back, compare, and replace it.

        Raises
        ------
        InputError
            If the image is no picture.
        VerificationError
            If what was written is not what was found; the file is what it was.
        StorageError
            If the disk refuses; the file is what it was.
        """
        if mask.geometry.ndim != 2:
            msg = (
                f"expected a picture (y, x) for COCO, got shape {mask.geometry.shape}; choose one "
                "slice, or leave the overlaps out"
            )
            raise InputError(msg)
        name, (height, width) = receipt.path.name, mask.geometry.shape
        known = self.images.get(name, {})
        entry: _Entry = {
            "id": known.get("id", 1 + max((e["id"] for e in self.images.values()), default=0)),
            "width": width,
            "height": height,
            # A folder is often called after a patient.
            "file_name": image.name if image.is_file() else "a folder",
            "mask": name,
            "mask_sha256": receipt.sha256[name],
        }
        self.images[name] = entry
        self.annotations[name] = self._annotations(found, entry)
        content = self._content()
        with Swap(self.path, ".json") as swap:
            made = swap.file(self.path)
            made.write_text(json.dumps(content) + "\n", encoding="utf-8")
            _prove(made, content, entry, found)
            swap.commit()

    def _annotations(self, found: Sequence[Found], entry: _Entry) -> list[_Entry]:
        for one in found:
            free = 1 + max(self.categories.values(), default=0)
            self.categories.setdefault(one.category, free)
        shape = (entry["height"], entry["width"])
        drawn = outlines.encode_regions([(one.box, one.region) for one in found], shape)
        return [
            {
                "image_id": entry["id"],
                "category_id": self.categories[one.category],
                "segmentation": {"size": list(shape), "counts": outline.counts},
                "area": outline.area,
                "bbox": [float(n) for n in outline.box],
                "iscrowd": 0,
                "score": float(one.score),
            }
            for one, outline in zip(found, drawn, strict=True)
        ]

    def _content(self) -> _Entry:
        annotations = [one for mine in self.annotations.values() for one in mine]
        return {
            "info": {
                "description": _WHAT,
                "maskloop": {
                    "version": 1,
                    "kind": "objects",
                    "overlaps": True,
                    "model": self.model,
                },
            },
            "licenses": [],
            "images": list(self.images.values()),
            "annotations": [{**one, "id": n} for n, one in enumerate(annotations, start=1)],
            "categories": [
                {"id": i, "name": name, "supercategory": "", "isthing": 1}
                for name, i in self.categories.items()
            ],
        }


@dataclass(frozen=True, slots=True)
class OverlapFiles:
    """One file for all images, or a folder with a file an image, named after its mask.

    A single file is written anew for each image: of thousands, take a folder.

    Parameters
    ----------
    path : Path
    model : str
    labels : LabelTable
        The model's.
    single : OverlapFile, optional
        None for a folder.
    """

    path: Path
    model: str
    labels: LabelTable
    single: OverlapFile | None

    @classmethod
    def of(cls, path: Path, model: str, labels: LabelTable) -> OverlapFiles:
        """Return where the objects go; a folder is made if need be.

        Raises
        ------
        InputError
            If the place holds something else, or is neither a JSON file nor a folder.
        """
        if path.suffix.lower() == ".json" and not path.is_dir():
            return cls(path, model, labels, OverlapFile.of(path, model, labels))
        if not path.is_dir() and (path.exists() or path.suffix):
            msg = (
                f"expected a file .json or a folder for the objects, got {str(path)!r}; choose "
                "another name"
            )
            raise InputError(msg)
        path.mkdir(parents=True, exist_ok=True)
        return cls(path, model, labels, None)

    def _file(self, receipt: Receipt) -> OverlapFile:
        if self.single is not None:
            return self.single
        # With the mask's own suffix: a.png and a.tif are two masks.
        return OverlapFile.of(self.path / f"{receipt.path.name}.json", self.model, self.labels)

    def knows(self, receipt: Receipt) -> bool:
        """Return whether the objects beside this very mask are kept."""
        return self._file(receipt).knows(receipt)

    def put(self, image: Path, receipt: Receipt, mask: Mask, found: Sequence[Found]) -> None:
        """Keep the objects of one image; see `OverlapFile.put`."""
        self._file(receipt).put(image, receipt, mask, found)


def _prove(path: Path, content: _Entry, entry: _Entry, found: Sequence[Found]) -> None:
    """Decode what was written by other code than wrote it; raise unless it is what was found."""
    back = json.loads(path.read_bytes())
    listed = coco_plain.regions(path, entry["id"])
    is_same = back == json.loads(json.dumps(content)) and len(listed) == len(found)
    if not is_same or not all(
        (name, score) == (one.category, float(one.score))
        and np.array_equal(region, _tight(one, box))
        for one, (box, region, name, score) in zip(found, listed, strict=True)
    ):
        msg = (
            f"expected {path.name} to read back as the {len(found)} objects that were found, got "
            "others; the old file was kept, report this"
        )
        raise VerificationError(msg)


def _tight(one: Found, box: tuple[slice, ...]) -> Any:  # Any: a bool array
    """Return an object inside another box, which must hold all of it."""
    whole = np.zeros([part.stop - part.start for part in box], dtype=bool)
    rows, columns = np.nonzero(one.region)
    places = [
        at + mine.start - part.start
        for at, mine, part in zip((rows, columns), one.box, box, strict=True)
    ]
    if all((at >= 0).all() and (at < n).all() for at, n in zip(places, whole.shape, strict=True)):
        whole[tuple(places)] = True
        return whole
    return None


def load_objects(path: Path | str, *, entry: str | int | None = None) -> tuple[Found, ...]:
    """Return every object of one image of a COCO file whole, in the file's order.

    `load_mask` reads the same file as one id a pixel.

    Parameters
    ----------
    path : Path or str
        As `maskloop predict --overlaps` writes it, or any COCO instances.
    entry : str or int, optional
        Which image, by id or file name; may be left out where there is only one.

    Returns
    -------
    tuple of Found
        A score of 1 where the file tells none.

    Raises
    ------
    FormatError
        If the file is not COCO, or its run lengths do not fit the picture.
    InputError
        If the file holds several images and none is chosen.
    """
    from maskloop.formats.coco import read_apart
    from maskloop.models.objects import Found

    return tuple(
        Found(
            box, region, 1.0 if label.score is None else label.score, label.category or label.name
        )
        for label, box, region in read_apart(Path(path), entry=entry)
    )

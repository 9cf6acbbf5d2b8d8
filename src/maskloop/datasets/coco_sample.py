"""The annotations of one COCO image as masks, and masks as annotations."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core.dataset import Item, Sample
from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import smallest_unsigned
from maskloop.core.labels import Label, LabelTable, colour_of
from maskloop.core.mask import Mask
from maskloop.datasets.base import PLACE, REVIEW, Loss, class_of, regions
from maskloop.datasets.coco_file import unique_names
from maskloop.formats import coco_rows, coco_shapes
from maskloop.formats.overlap import Layers, Piece
from maskloop.ops import outlines
from maskloop.ops.rings import rings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from maskloop.core.dataset import Dataset
    from maskloop.core.job import Job
    from maskloop.datasets.coco_file import CocoFile

Entry = dict[str, Any]  # Any: plain JSON values

_IMAGE = ("id", "file_name", "width", "height")
_MOST_ID = 65535


@dataclass(frozen=True, slots=True, eq=False)
class CocoKept:
    """What of a COCO image is written back as it was.

    Parameters
    ----------
    image : dict
        The image's entry.
    annotations : dict of int to dict
        Label id -> what its annotation says beside COCO's own: keypoints, attributes, and so on.
    shapeless : tuple of (str, dict)
        Class and annotation of boxes, keypoints or captions that draw nothing.
    """

    image: Entry
    annotations: Mapping[int, Entry] = field(default_factory=dict)
    shapeless: tuple[tuple[str, Entry], ...] = ()

    def lost_in(self, format: str) -> int:
        """Return of how many annotations a format loses what they say beside their shape."""
        said = sum(
            any(value for key, value in extra.items() if key != "iscrowd")
            for extra in self.annotations.values()
        )
        lost = {"coco": 0, "coco-panoptic": len(self.shapeless)}
        return lost.get(format, said + len(self.shapeless))


def sample_of(
    item: Item,
    file: CocoFile,
    image: Entry,
    scheme: LabelTable,
    stuff: Collection[str],
    *,
    repair: bool,
    job: Job,
) -> Sample:
    """Return the masks of one image; objects that overlap lie on different masks.

    Parameters
    ----------
    stuff : collection of str
        Classes whose one region an image is a class of its own, and no object.

    Raises
    ------
    FormatError
        If a shape is damaged; names the annotation.
    """
    where = file.path.name
    shape = coco_shapes.size_of(image, where)
    annotations = file.annotations[image["id"]]
    drawn = [a for a in annotations if a.get("segmentation")]
    runs = coco_shapes.runs_of(drawn, shape, where, repair=repair)
    rows = _rows(drawn, file, scheme, stuff)
    areas = [outlines.covered(part) for part in runs]
    if empty := [a["id"] for a, area in zip(drawn, areas, strict=True) if not area]:
        job.say(f"annotations {empty[:5]} of {where} cover no pixel of {item.name}: left out")
    found = [(r, part, n) for r, part, n in zip(rows, runs, areas, strict=True) if n]
    grid = Geometry.pixels(shape)
    masks = tuple(Mask(ids, grid, table, file.path) for ids, table in _laid(found, shape))
    kept = CocoKept(
        image,
        {row.id: extra for row, a in zip(rows, drawn, strict=True) if (extra := _extra(a, file))},
        tuple(
            (file.classes.get(a.get("category_id", 0), ""), a)
            for a in annotations
            if not a.get("segmentation")
        ),
    )
    return Sample(item, masks, header=kept)


def flat(sample: Sample) -> Sample:
    """Return a sample as pictures in pixels.

    Raises
    ------
    InputError
        If it is a volume of several slices.
    """
    masks = []
    for mask in sample.masks:
        ids = mask.data
        while ids.ndim > 2 and ids.shape[0] == 1:
            ids = ids[0]
        if ids.ndim != 2:
            msg = (
                f"expected pictures (y, x) for COCO, got {sample.item.name!r} of shape "
                f"{ids.shape}; convert volumes --to coco-volume instead"
            )
            raise InputError(msg)
        masks.append(replace(mask, data=ids, geometry=Geometry.pixels(ids.shape)).checked())
    return replace(sample, masks=tuple(masks))


def losses_of(sample: Sample) -> dict[Loss, int]:
    """Return what no COCO file has a place for."""
    losses = {}
    if sample.masks[0].geometry.unit == "mm":
        losses[PLACE] = 1
    if sample.reviewed is not None and not sample.reviewed.all():
        losses[REVIEW] = 1
    return losses


class Categories:
    """The categories of a file to be written: ids of classes, and new ones as they come.

    Parameters
    ----------
    dataset : Dataset
        Its scheme gives ids; where it comes from COCO, entries stay as they were.
    is_panoptic : bool
        Whether every category must say its colour and whether it is a thing.
    """

    def __init__(self, dataset: Dataset, *, is_panoptic: bool = False) -> None:
        is_coco = dataset.format in ("coco", "coco-panoptic")
        raw = [dict(c) for c in dataset.about.get("categories", ())] if is_coco else []
        self._known = dict(zip(unique_names(raw), raw, strict=True))
        self._rows: dict[str, Label] = {}
        for row in dataset.scheme.values():
            self._rows.setdefault(row.name, row)
        self._is_thing = dataset.kind == "objects"
        self._is_panoptic = is_panoptic
        self._drawn: set[str] = set()  # classes of which objects came

    def id_of(self, row: Label) -> int:
        """Return the category id of an object's class, or of a class."""
        name = class_of(row)
        if row.category is not None and row.is_thing:
            self._drawn.add(name)
        known = self._rows.get(name)
        if known is None:
            taken = {r.id for r in self._rows.values()}
            is_free = row.category is None and row.id not in taken
            number = row.id if is_free else next(n for n in count(1) if n not in taken)
            colour = row.colour if row.category is None else ""
            known = Label(number, name, colour=colour, is_thing=row.is_thing, ignore=row.ignore)
            self._rows[name] = known
        return known.id

    def entries(self) -> list[Entry]:
        """Return the categories, ascending by id."""
        return [self._entry(row) for row in sorted(self._rows.values(), key=lambda r: r.id)]

    def _entry(self, row: Label) -> Entry:
        known = self._known.get(row.name)
        if known is None:
            fresh = {"id": row.id, "name": row.name, "supercategory": ""}
            is_thing = row.is_thing or self._is_thing or row.name in self._drawn
            fresh |= {"color": coco_rows.rgb(row.colour), "isthing": int(is_thing)}
            return {**fresh, "ignore": 1} if row.ignore else fresh
        entry = {**known, "id": row.id}
        stated = coco_rows.stated_colour(known)
        if (stated or colour_of(row.id)) != row.colour or (self._is_panoptic and not stated):
            entry["color"] = coco_rows.rgb(row.colour)
        if self._is_panoptic or "isthing" in known or row.is_thing != self._is_thing:
            entry["isthing"] = int(row.is_thing)
        return entry


def annotations_of(
    sample: Sample, categories: Categories, image_id: int, *, first: int, is_polygon: bool
) -> list[Entry]:
    """Return the annotations of one image, ids counted up from `first`."""
    kept = sample.header if isinstance(sample.header, CocoKept) else CocoKept({})
    numbers = count(first)
    found = []
    for row, shape in _shapes(sample, is_polygon=is_polygon):
        extra = kept.annotations.get(row.id, {})
        is_class = row.category is None
        annotation: Entry = {
            "id": next(numbers),
            "image_id": image_id,
            "category_id": categories.id_of(row),
            **shape,
            "iscrowd": extra.get("iscrowd", int(row.ignore)) if is_class else int(row.ignore),
            **{k: v for k, v in extra.items() if k != "iscrowd"},
        }
        if row.score is not None:
            annotation["score"] = row.score
        said = {} if is_class else coco_rows.attributes(row)
        if row.ignore and row.name == f"{row.category} crowd {row.id}":
            del said["name"]  # what a crowd is called when it is read
        if said:
            annotation["attributes"] = coco_rows.attributes_with(extra, said)
        found.append(annotation)
    for name, entry in kept.shapeless:
        again = {**entry, "id": next(numbers), "image_id": image_id}
        if name:
            again["category_id"] = categories.id_of(Label(1, name, category=name, is_thing=True))
        found.append(again)
    return found


def has_holes(sample: Sample) -> int:
    """Return how many regions of a sample have holes, which polygons cannot hold."""
    return sum(any(ring.is_hole for ring in rings(one.region)) for one in regions(sample))


def image_entry(sample: Sample, image_id: int, file_name: str) -> Entry:
    """Return the entry of an image, with what its own file said of it."""
    height, width = sample.masks[0].data.shape
    kept = sample.header.image if isinstance(sample.header, CocoKept) else {}
    entry = {"id": image_id, "file_name": file_name, "width": width, "height": height}
    if sample.item.group:
        entry["group_id"] = sample.item.group
    return {**entry, **{k: v for k, v in kept.items() if k not in _IMAGE and k != "group_id"}}


def _rows(
    drawn: Sequence[Entry], file: CocoFile, scheme: LabelTable, stuff: Collection[str]
) -> list[Label]:
    """Return a row for each annotation: a class's own, or an object's with its own id."""
    by_name = {row.name: row for row in scheme.values()}
    names = [file.classes[a["category_id"]] for a in drawn]
    classes = {by_name[name].id for name in names if name in stuff}
    own = [a["id"] for a, name in zip(drawn, names, strict=True) if name not in stuff]
    if not all(1 <= n <= _MOST_ID for n in own) or classes.intersection(own):
        free = (n for n in count(1) if n not in classes)
        own = [next(free) for _ in own]
    numbers = iter(own)
    is_ours = bool(file.kind)
    return [
        by_name[name] if name in stuff else coco_rows.object_row(a, next(numbers), name, is_ours)
        for a, name in zip(drawn, names, strict=True)
    ]


def _laid(
    found: Sequence[tuple[Label, list[outlines.Runs], int]], shape: tuple[int, int]
) -> list[tuple[np.ndarray[Any, Any], LabelTable]]:
    """Return ids and tables: one pair where nothing overlaps, else as few as hold all."""
    highest = max((row.id for row, _, _ in found), default=0)
    sets = [part for _, runs, _ in found for part in runs]
    values = [row.id for row, runs, _ in found for _ in runs]
    ids = outlines.painted(sets, values, shape, smallest_unsigned(highest))
    if int(np.count_nonzero(ids)) == sum(area for _, _, area in found):
        return [(ids, LabelTable(row for row, _, _ in found))]
    layers = Layers(shape, highest)
    for row, runs, _ in found:
        layers.add(row, [Piece(*outlines.region_of(runs, shape[0]))])
    return layers.found()


def _extra(annotation: Entry, file: CocoFile) -> Entry:
    """Return what an annotation says beside its shape, class and score."""
    extra = coco_rows.extra_of(annotation, is_ours=bool(file.kind))
    crowd = annotation.get("iscrowd", 0)
    return extra if crowd in (0, False) else {**extra, "iscrowd": crowd}


def _shapes(sample: Sample, *, is_polygon: bool) -> Iterator[tuple[Label, Entry]]:
    """Yield row, and segmentation, area and box, of every region: mask by mask, by id."""
    for mask in sample.masks:
        size = list(mask.data.shape)
        lines = _polygons(mask) if is_polygon else {}
        for one in outlines.encode(mask.data):
            drawn = lines.get(one.id) or {"size": size, "counts": one.counts}
            box = [float(n) for n in one.box]
            yield mask.labels[one.id], {"segmentation": drawn, "area": one.area, "bbox": box}


def _polygons(mask: Mask) -> dict[int, list[list[int]]]:
    """Return the rings of each region without holes, by id."""
    found = {}
    for one in regions(Sample(Item(""), (mask,))):
        lines = rings(one.region)
        if not any(ring.is_hole for ring in lines):
            corner = np.array([one.box[1].start, one.box[0].start])
            found[one.label.id] = [(r.points + corner).reshape(-1).tolist() for r in lines]
    return found

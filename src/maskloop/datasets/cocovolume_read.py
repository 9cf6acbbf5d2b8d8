"""Volumes out of COCO: masks from the run lengths of slices, pixels from their pictures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.core.errors import FormatError, InputError, MaskloopError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.datasets.base import inside
from maskloop.formats import coco, picture
from maskloop.formats.base import Choices, reading
from maskloop.formats.overlap import Layers, Piece
from maskloop.ops import outlines

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from maskloop.core.job import Job

_LARGEST = 2**34  # voxels
_HIGHEST = 2**32  # label ids are below it
_Row = dict[str, Any]  # Any: plain JSON values


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """One video of a file: its slices and what is drawn on them, not decoded yet.

    Parameters
    ----------
    name, group, split : str
    geometry : Geometry
    axis : int
        Array axis that the slices count.
    labels : LabelTable
        Rows of its objects and classes.
    classes : frozenset of str
        Names of those that are drawn.
    slices : mapping of int to dict
        Rows of the images by number of the slice.
    annotations : tuple of (int, int, dict)
        Number of the slice, label id, row.
    root, file : Path
        Folder of the dataset; the JSON, for messages.
    about : mapping
        The video's own row.
    """

    name: str
    group: str
    split: str
    geometry: Geometry
    axis: int
    labels: LabelTable
    classes: frozenset[str]
    slices: Mapping[int, _Row]
    annotations: tuple[tuple[int, int, _Row], ...]
    root: Path
    file: Path
    about: Mapping[str, Any] = field(default_factory=dict)  # Any: plain JSON values

    @property
    def count(self) -> int:
        """How many objects (or classes) are drawn."""
        return len({number for _, number, _ in self.annotations})

    def masks(self) -> tuple[Mask, ...]:
        """Return the masks; what overlaps lies on further ones.

        Raises
        ------
        FormatError
            If run lengths are damaged, or of another size; names the annotation.
        """
        shape = tuple(n for axis, n in enumerate(self.geometry.shape) if axis != self.axis)
        pieces: dict[int, list[Piece]] = {}
        runs = self._decoded((shape[0], shape[1]))
        for (at, number, _), sets in zip(self.annotations, runs, strict=True):
            if not any(one.size for one in sets):
                continue
            box, region = outlines.region_of([one for one in sets if one.size], shape[0])
            index: list[int | slice] = list(box)
            index.insert(self.axis, at)
            pieces.setdefault(number, []).append(Piece(tuple(index), region))
        layers = Layers(self.geometry.shape, max(self.labels, default=0))
        for number in sorted(pieces):
            layers.add(self.labels[number], pieces[number])
        found = layers.found()
        drawn = set(pieces)
        rest = [row for i, row in self.labels.items() if i not in drawn]
        return tuple(
            Mask(ids, self.geometry, table.with_rows(rest) if number == 0 else table, self.file)
            for number, (ids, table) in enumerate(found)
        )

    def read_image(self, job: Job) -> Image:
        """Return the pixels of the slices, in the values they were before the window.

        Raises
        ------
        InputError
            If not every slice has its picture.
        """
        count = self.geometry.shape[self.axis]
        window, bits = self.about.get("window"), self.about.get("bits")
        data: npt.NDArray[Any] | None = None
        for at in job.track(range(count), "slices"):
            row = self.slices.get(at)
            path = None if row is None else inside(self.root / "images", row.get("file_name"))
            if path is None or not path.is_file():
                msg = (
                    f"expected a picture of each of the {count} slices of {self.name!r}, got none "
                    f"of slice {at}; write the set with --empty all and its pictures"
                )
                raise InputError(msg)
            with reading(path):
                page = picture.read_image(path, choices=Choices(), job=job).data
            if data is None:
                data = np.zeros((count, *page.shape), page.dtype)
            if page.shape != data.shape[1:]:
                msg = f"expected slices of one size, got {page.shape} in {path.name}; repair it"
                raise FormatError(msg)
            data[at] = page
        if data is None:
            raise FormatError(self.name)
        has_channels = data.ndim == 4
        data = np.ascontiguousarray(np.moveaxis(data, 0, self.axis))
        if not has_channels and window is not None and _is_window(window) and bits in (8, 16):
            data = _unwindowed(data, window, bits)
            if bits == 8:
                job.say(
                    f"the pixels of {self.name!r} are 256 grey values between {window[0]:g} and "
                    f"{window[1]:g}, not the scan's own; take the scan itself to train on"
                )
        return Image(data, self.geometry, None, has_channels=has_channels, title=self.name)

    @property
    def has_pixels(self) -> bool:
        """Whether every slice has its picture."""
        folder = self.root / "images"
        rows = (self.slices.get(at) for at in range(self.geometry.shape[self.axis]))
        return all(
            row is not None and inside(folder, row.get("file_name")).is_file() for row in rows
        )

    def _decoded(self, shape: tuple[int, int]) -> list[list[outlines.Runs]]:
        """Return the runs of each annotation; all run lengths are decoded together."""
        size = shape[0] * shape[1]
        packed: list[tuple[_Row, Any]] = []  # Any: as in the file
        for _, _, row in self.annotations:
            held = row.get("segmentation")
            if isinstance(held, dict):
                if list(held.get("size") or ()) != list(shape):
                    raise self._refused(row, f"run lengths of size {list(shape)}", held.get("size"))
                packed.append((row, held.get("counts")))
        try:
            decoded = iter(outlines.decode([counts for _, counts in packed], size))
        except (MaskloopError, TypeError, ValueError, OverflowError):
            decoded = iter([self._alone(row, counts, size) for row, counts in packed])
        found = []
        for _, _, row in self.annotations:
            held = row.get("segmentation")
            if isinstance(held, dict):
                found.append([next(decoded)])
            else:
                found.append(self._rings(row, held, shape))
        return found

    def _alone(self, row: _Row, counts: Any, size: int) -> outlines.Runs:  # Any: as in the file
        try:
            return outlines.decode([counts], size)[0]
        except (MaskloopError, TypeError, ValueError, OverflowError) as error:
            raise self._refused(row, "whole run lengths", f"{counts!r:.40} ({error})") from error

    def _rings(self, row: _Row, rings: Any, shape: tuple[int, int]) -> list[outlines.Runs]:
        is_rings = isinstance(rings, list) and all(
            isinstance(ring, list) and len(ring) >= 6 and len(ring) % 2 == 0 for ring in rings
        )
        if not is_rings:
            raise self._refused(row, "run lengths or rings of 3 points", f"{rings!r:.40}")
        try:
            return [outlines.fill_polygon(ring, shape) for ring in rings]
        except (MaskloopError, TypeError, ValueError, OverflowError) as error:
            raise self._refused(row, "rings of numbers", f"{rings!r:.40} ({error})") from error

    def _refused(self, row: _Row, wanted: str, got: object) -> FormatError:
        return FormatError(
            f"expected {wanted} in annotation {row.get('id')!r} of {self.file.name}, got {got}; "
            "repair or remove it"
        )


def _is_window(window: object) -> bool:
    return (
        isinstance(window, list)
        and len(window) == 2
        and all(isinstance(n, (int, float)) for n in window)
        and window[0] < window[1]
    )


def _unwindowed(data: npt.NDArray[Any], window: Any, bits: int) -> npt.NDArray[Any]:
    low, high = (float(n) for n in window)
    step = (high - low) / (2**bits - 1)
    if step == 1 and low.is_integer():
        whole = data.astype(np.int64) + int(low)
        for narrow in (np.int16, np.int32):
            limits = np.iinfo(narrow)
            if limits.min <= whole.min() and whole.max() <= limits.max:
                return whole.astype(narrow)
        return whole
    values: npt.NDArray[Any] = (data * step + low).astype(np.float32)
    return values


def opened(file: Path, root: Path, job: Job) -> tuple[list[Volume], LabelTable]:
    """Return the volumes of a file, nothing decoded, and its classes.

    Raises
    ------
    FormatError
        If it is no such file; names the row that is wrong.
    """
    content = coco.parse(file)
    where = file.name
    categories = _categories(_rows(content, "categories", where), where)
    videos = _rows(content, "videos", where)
    if not videos and _rows(content, "images", where):
        msg = f"expected videos (volumes) in {where}, got images alone; read it as coco instead"
        raise FormatError(msg)
    split = file.stem.removeprefix("instances_")
    images: dict[int, list[_Row]] = {}
    place_of: dict[int, tuple[int, int]] = {}
    for row in _rows(content, "images", where):
        video = _whole(row, "video_id", f"image {row.get('id')!r} of {where}")
        at = _slice_of(row, where)
        number = _whole(row, "id", f"an image of {where}")
        if number in place_of:
            msg = f"expected each image id once in {where}, got {number} twice; repair it"
            raise FormatError(msg)
        place_of[number] = (video, at)
        images.setdefault(video, []).append(row)
    drawn: dict[int, list[tuple[int, _Row]]] = {}
    for row in _rows(content, "annotations", where):
        image = row.get("image_id")
        if type(image) is not int or image not in place_of:
            msg = (
                f"expected an image of {where} for annotation {row.get('id')!r}, got {image!r}; "
                "correct its image_id"
            )
            raise FormatError(msg)
        video, at = place_of[image]
        drawn.setdefault(video, []).append((at, row))
    numbers = {_whole(row, "id", f"a video of {where}") for row in videos}
    if lost := sorted(set(images) - numbers):
        msg = f"expected a video of {where} for each image, got none with the id {lost[0]}"
        raise FormatError(f"{msg}; add it, or correct the video_id")
    found = []
    for row in job.track(videos, "volumes"):
        number = _whole(row, "id", f"a video of {where}")
        volume = _volume(row, images.get(number, []), categories, split, root, file)
        found.append(_with_annotations(volume, drawn.get(number, []), categories))
    return found, categories


def _slice_of(row: _Row, where: str) -> int:
    for key in ("slice_index", "frame_index", "frame_id"):
        at = row.get(key)
        if type(at) is int and at >= 0:
            return at
    msg = (
        f"expected slice_index of at least 0 in image {row.get('id')!r} of {where}, got "
        f"{row.get('slice_index')!r}; add it"
    )
    raise FormatError(msg)


def _volume(
    row: _Row,
    images: list[_Row],
    categories: LabelTable,
    split: str,
    root: Path,
    file: Path,
) -> Volume:
    what = f"video {row.get('id')!r} of {file.name}"
    name = row.get("name")
    if not isinstance(name, str) or not name:
        msg = f"expected a name of {what}, got {name!r}; add one"
        raise FormatError(msg)
    slices = {_slice_of(one, file.name): one for one in images}
    axis = row.get("slice_axis", 0)
    if axis not in (0, 1, 2):
        msg = f"expected slice_axis 0, 1 or 2 in {what}, got {axis!r}; correct it"
        raise FormatError(msg)
    geometry = _geometry(row, images, slices, axis, what)
    if slices and max(slices) >= geometry.shape[axis]:
        msg = (
            f"expected slices below {geometry.shape[axis]} in {what}, got {max(slices)}; correct "
            "its shape"
        )
        raise FormatError(msg)
    try:
        labels = LabelTable.from_rows(row.get("labels") or ())
    except (MaskloopError, TypeError, AttributeError, ValueError) as error:
        msg = f"expected rows of labels in {what}, got {error}; correct them"
        raise FormatError(msg) from error
    if max(labels, default=0) >= _HIGHEST:
        msg = f"expected label ids below {_HIGHEST:,} in {what}, got {max(labels)}; renumber them"
        raise FormatError(msg)
    group = row.get("group_id")
    text = "" if group is None else str(group)
    return Volume(
        name, text, split, geometry, axis, labels, frozenset(), slices, (), root, file, row
    )


def _geometry(
    row: _Row, images: list[_Row], slices: Mapping[int, _Row], axis: int, what: str
) -> Geometry:
    shape = row.get("shape")
    if shape is None and images:
        height, width = images[0].get("height"), images[0].get("width")
        shape = [height, width]
        shape.insert(axis, max(slices) + 1)
    is_shape = isinstance(shape, list) and len(shape) == 3
    if not is_shape or not all(type(n) is int and n >= 1 for n in shape or ()):
        msg = f"expected the shape [z, y, x] of {what}, got {shape!r:.60}; correct it"
        raise FormatError(msg)
    lengths: list[int] = shape or []
    if lengths[0] * lengths[1] * lengths[2] > _LARGEST:
        msg = f"expected a volume of at most {_LARGEST} voxels in {what}, got {lengths}; correct it"
        raise FormatError(msg)
    affine = row.get("affine")
    if affine is None:
        return Geometry(tuple(lengths), np.eye(4)[[2, 1, 0, 3]], "px")
    unit = "px" if row.get("unit") == "px" else "mm"
    try:
        return Geometry(
            tuple(lengths), np.array(affine, np.float64), "px" if unit == "px" else "mm"
        )
    except (MaskloopError, TypeError, ValueError) as error:
        msg = f"expected an affine of 4 x 4 numbers in {what}, got {affine!r:.60}; correct it"
        raise FormatError(f"{msg} ({error})") from error


def _with_annotations(
    volume: Volume, drawn: list[tuple[int, _Row]], categories: LabelTable
) -> Volume:
    """Return the volume with its annotations; objects that its table lacks get a row."""
    rows = dict(volume.labels)
    annotations = []
    names: set[str] = set()
    for at, row in drawn:
        attributes = row.get("attributes")
        track = row.get("track_id", row.get("instance_id"))
        if track is None and isinstance(attributes, dict):
            track = attributes.get("track_id")
        what = f"annotation {row.get('id')!r} of {volume.file.name}"
        if type(track) is not int or not 1 <= track < _HIGHEST:
            msg = f"expected a track_id of at least 1 in {what}, got {track!r:.40}; add it"
            raise FormatError(msg)
        category = row.get("category_id")
        if type(category) is not int or category not in categories:
            msg = (
                f"expected a category of the file in {what}, got {category!r:.40}; correct its "
                "category_id"
            )
            raise FormatError(msg)
        known = categories[category]
        if track not in rows:
            rows[track] = Label(
                track,
                f"{known.name} {track}",
                category=known.name,
                is_thing=True,
                ignore=bool(row.get("iscrowd")),
            )
        names.add(rows[track].category or rows[track].name)
        annotations.append((at, track, row))
    return replace(
        volume,
        labels=LabelTable(rows.values()),
        classes=frozenset(names),
        annotations=tuple(annotations),
    )


def _categories(rows: list[_Row], where: str) -> LabelTable:
    found = []
    for row in rows:
        number, name = row.get("id"), row.get("name")
        if type(number) is not int or number < 1 or not isinstance(name, str):
            msg = (
                f"expected a category of {where} with an id of at least 1 and a name, got "
                f"{row!r:.80}; correct it"
            )
            raise FormatError(msg)
        colour = row.get("color")
        is_rgb = isinstance(colour, list) and len(colour) == 3
        is_rgb = is_rgb and all(type(n) is int and 0 <= n <= 255 for n in colour or ())
        text = "#" + bytes(colour or ()).hex() if is_rgb else ""
        things, ignored = bool(row.get("isthing", 1)), bool(row.get("ignore"))
        found.append(Label(number, name, text, is_thing=things, ignore=ignored))
    try:
        return LabelTable(found)
    except InputError as error:
        raise FormatError(f"{where}: {error}") from error


def _rows(content: Mapping[str, Any], key: str, where: str) -> list[_Row]:
    found = content.get(key, [])
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        msg = f"expected a list of {key} in {where}, got {found!r:.40}; correct it"
        raise FormatError(msg)
    return found


def _whole(row: _Row, key: str, what: str) -> int:
    found = row.get(key)
    if type(found) is not int:
        msg = f"expected a whole {key} of {what}, got {found!r:.40}; correct it"
        raise FormatError(msg)
    return found

"""One tool's work on the box that it reaches: what it is given, and what it gives back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of, difference_box, hull, widened
from maskloop.core.errors import InputError
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask, present_ids
from maskloop.core.parameters import Parameter, Points
from maskloop.ops import regions
from maskloop.tools.base import Traits, traits_of

if TYPE_CHECKING:
    from maskloop.core.geometry import Box
    from maskloop.core.image import Image

Ids = npt.NDArray[Any]  # Any: labels come in every integer width
Values = Mapping[str, Any]  # Any: a tool's options are its own
Extent = Callable[[int], "Box | None"]


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a tool made of a box.

    Parameters
    ----------
    box : tuple of slice
        Of the whole mask, time axis first if there is one.
    since, ids : array of unsigned int
        The box before and after.
    labels : LabelTable
        With rows for new ids.
    """

    box: Box
    since: Ids
    ids: Ids
    labels: LabelTable


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A tool, its options, and copies of all that it looks at; `run` may be called in any thread.

    Parameters
    ----------
    tool : str
        Its name, for messages.
    function : callable
    label : int
    values : mapping
        The options, positions told in the box.
    box : tuple of slice
        Of the whole mask.
    mask : Mask
        The box of it, copied.
    image : Image, optional
        The box of it.
    hand : array of bool, optional
        Voxels of the box that a person painted.
    limit : tuple of slice, optional
        Part of the box that may change.
    author : str
        For rows of new ids.
    """

    tool: str
    function: Callable[..., Any]  # Any: a tool's options are its own
    label: int
    values: Values
    box: Box
    mask: Mask
    image: Image | None
    hand: npt.NDArray[np.bool_] | None
    limit: Box | None
    author: str = ""

    @property
    def traits(self) -> Traits:
        """The traits of the tool."""
        return traits_of(self.function)

    def run(self, job: Job | None = None) -> Result:
        """Run the tool on each frame; tools that have something to say tell the job.

        Raises
        ------
        InputError
            If the tool changes what its traits do not allow, or its options do not fit.
        """
        mask = self.mask
        job = job or Job()
        is_flat = mask.data.ndim == mask.geometry.ndim
        ids = self._frame(mask, self.image, self.hand, job) if is_flat else self._frames(job)
        _require_own(mask, ids, self.label, self.traits, self.tool)
        if self.limit is not None:
            kept = mask.data.astype(np.promote_types(ids.dtype, mask.data.dtype))
            kept[self.limit] = ids[self.limit]
            ids = kept
        labels = _with_new_rows(mask.labels, mask.data, ids, self.label, self.author)
        return Result(self.box, mask.data, ids, labels)

    def _frame(
        self, mask: Mask, image: Image | None, hand: npt.NDArray[np.bool_] | None, job: Job
    ) -> Ids:
        known = inspect.signature(self.function).parameters
        given = {name: v for name, v in (("hand", hand), ("job", job)) if name in known}
        return np.asarray(self.function(mask, image, label=self.label, **self.values, **given))

    def _frames(self, job: Job) -> Ids:
        frames = []
        table = self.mask.labels
        for number, data in enumerate(self.mask.data):
            pixels = self.image
            if pixels is not None and pixels.has_time:
                pixels = pixels.frame(number)
            hand = self.hand[number] if self.hand is not None else None
            frame = self._frame(replace(self.mask, data=data, labels=table), pixels, hand, job)
            # New ids of one frame are taken for the next, which would else give them out again.
            table = _with_new_rows(table, data, frame, self.label, "")
            frames.append(frame)
        return np.stack(frames)


def work_on(
    tool: str,
    function: Callable[..., Any],  # Any: a tool's options are its own
    mask: Mask,
    *,
    image: Image | None,
    label: int,
    parameters: list[Parameter],
    values: Values,
    hand: npt.NDArray[np.bool_] | Callable[[Box], npt.NDArray[np.bool_]] | None = None,
    limit: Box | None = None,
    frame: int | None = None,
    extent: Extent | None = None,
    author: str = "",
) -> Work:
    """Return the work of a tool on no more than the box it reaches.

    Parameters
    ----------
    tool, function
        Its name and itself.
    mask : Mask
        The whole one; only the box is copied.
    image : Image, optional
        On the mask's grid.
    label : int
        The id to change.
    parameters, values
        The tool's options and their checked values.
    hand : array of bool, or callable
        Voxels that a person painted, of the whole mask; or what gives them for a box.
    limit : tuple of slice, optional
        Spatial box outside of which nothing may change.
    frame : int, optional
        The only time point to work on; each one where left out.
    extent : callable, optional
        Gives a box that holds a label; looked for in the mask where left out.
    author : str
        For rows of new ids.

    Raises
    ------
    InputError
        If the tool needs an image that is not given, positions do not fit the mask, or the limit
        holds no voxel.
    """
    traits = traits_of(function)
    _require_needs(tool, traits, image)
    grid = mask.geometry
    named = {p.name for p in parameters if p.is_label}
    points = [v for v in values.values() if isinstance(v, Points)]
    for found in points:
        if any(len(position) != grid.ndim for position in found):
            msg = (
                f"expected positions of {grid.ndim} numbers for {tool}, got {found.to_text()!r}; "
                "give them in array order"
            )
            raise InputError(msg)
    whole = tuple(slice(0, n) for n in grid.shape)
    box: Box | None = whole
    if traits.reach is not None:
        wide = traits.reach({**values, "spacing": grid.spacing})
        ids = [label] if "label" in traits.around else []
        if "labels" in traits.around:
            ids += [mask.labels.id_of(str(values[n])) for n in named if values[n] is not None]
        boxes = [_extent_of(mask, number, extent) for number in ids]
        if "points" in traits.around:
            boxes += [_box_of_points(found, grid.shape) for found in points]
        box = _widened(boxes, wide, grid.spacing, grid.shape) or tuple(slice(0, 1) for _ in whole)
        if limit is not None:
            near = _widened([_cut(limit, grid.shape)], wide, grid.spacing, grid.shape)
            box = _meeting(box, near or box)
    if box is None:
        msg = f"expected a limit that meets what {tool} works on, got {limit!r}; choose another"
        raise InputError(msg)
    full = (*_frames_of(mask, frame), *box)
    starts = [-part.start for part in box]
    moved = {
        name: value.moved(starts) if isinstance(value, Points) else value
        for name, value in values.items()
    }
    by_hand = hand(full) if callable(hand) else None if hand is None else hand[full]
    return Work(
        tool,
        function,
        label,
        moved,
        full,
        replace(mask, data=mask.data[full].copy(), geometry=grid.cropped(box)),
        None if image is None else _crop(image, full),
        by_hand,
        None if limit is None else _within(_cut(limit, grid.shape), box, len(full) - len(box)),
        author,
    )


def _require_needs(tool: str, traits: Traits, image: Image | None) -> None:
    if image is None and {"image", "hu"} & set(traits.needs):
        msg = f"expected an image for {tool}, which looks at intensities, got none; give its image"
        raise InputError(msg)


def _extent_of(mask: Mask, label: int, extent: Extent | None) -> Box | None:
    found = extent(label) if extent is not None else box_of(mask.data, label)
    return None if found is None else found[len(found) - mask.geometry.ndim :]


def _box_of_points(points: Points, shape: tuple[int, ...]) -> Box:
    box = []
    for values, length in zip(zip(*points, strict=True), shape, strict=True):
        low, high = int(np.floor(min(values))), int(np.ceil(max(values)))
        if high < 0 or low >= length:
            msg = (
                f"expected positions within the shape {shape}, got {points.to_text()!r}; give them "
                "in array order"
            )
            raise InputError(msg)
        box.append(slice(max(0, low), min(length, high + 1)))
    return tuple(box)


def _widened(
    boxes: list[Box | None], reach: float, spacing: tuple[float, ...], shape: tuple[int, ...]
) -> Box | None:
    """Return the box that holds all of them and the reach round them, within the mask."""
    known = [box for box in boxes if box is not None]
    if not known:
        return None
    wide = regions.voxels_of(min(reach, 1e9), spacing)
    return widened(hull(known), shape, wide)


def _cut(limit: Box, shape: tuple[int, ...]) -> Box:
    box = tuple(slice(*part.indices(n)[:2]) for part, n in zip(limit, shape, strict=False))
    if len(limit) != len(shape) or any(part.stop <= part.start for part in box):
        msg = f"expected a box that holds voxels of shape {shape}, got {limit!r}; choose another"
        raise InputError(msg)
    return box


def _meeting(one: Box, other: Box) -> Box | None:
    box = tuple(
        slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True)
    )
    return box if all(part.start < part.stop for part in box) else None


def _within(limit: Box, box: Box, lead: int) -> Box:
    """Return the limit told in the box's own indices; empty slices where they do not meet."""
    inner = tuple(
        slice(max(0, a.start - b.start), max(0, min(a.stop, b.stop) - b.start))
        for a, b in zip(limit, box, strict=True)
    )
    return (*[slice(None)] * lead, *inner)


def _frames_of(mask: Mask, frame: int | None) -> Box:
    """Return the slices of the time axis to work on; none where there is no such axis."""
    counts = mask.data.shape[: mask.data.ndim - mask.geometry.ndim]
    if frame is None:
        return tuple(slice(0, n) for n in counts)
    if not counts or not 0 <= frame < counts[0]:
        known = f"0 to {counts[0] - 1}" if counts else "none: there is no time axis"
        msg = f"expected a frame of {known}, got {frame!r}; choose another"
        raise InputError(msg)
    return (slice(frame, frame + 1),)


def _crop(image: Image, full: Box) -> Image:
    """Return the box of an image; one without a time axis serves every frame as it is."""
    box = full[len(full) - image.geometry.ndim :]
    lead = (full[0] if len(full) > len(box) else slice(None),) if image.has_time else ()
    return replace(image, data=image.data[(*lead, *box)], geometry=image.geometry.cropped(box))


def _require_own(mask: Mask, ids: Ids, label: int, traits: Traits, tool: str) -> None:
    """Raise unless only what the traits allow has changed; holds third parties to it."""
    if ids.shape != mask.data.shape or ids.dtype.kind != "u":
        msg = (
            f"expected ids of shape {mask.data.shape}, unsigned, from {tool}, got {ids.shape} "
            f"of {ids.dtype}; report it to the tool's author"
        )
        raise InputError(msg)
    box = None if traits.others else difference_box(mask.data, ids)
    if box is None:
        return
    changed = mask.data[box] != ids[box]
    lost = set(present_ids(mask.data[box][changed]))
    locked = {i for i, row in mask.labels.items() if row.locked}
    foreign = sorted((lost - {label}) | (set(present_ids(ids[box][changed])) & locked))
    if foreign:
        msg = (
            f"expected only label {label} and background to change, but {tool} changed "
            f"{foreign}; report it to the tool's author"
        )
        raise InputError(msg)


def _with_new_rows(
    labels: LabelTable, before: Ids, ids: Ids, label: int, author: str
) -> LabelTable:
    """Return the table with a row for every object that a split made out of `label`."""
    if not ids.size or int(ids.max()) <= max(labels, default=0):
        return labels
    fresh = [i for i in present_ids(ids[ids != before]) if i not in labels]
    if not fresh:
        return labels
    parent = labels[label]
    category = parent.category or parent.name
    made = [
        Label(i, f"{category} {i}", category=category, is_thing=True, author=author) for i in fresh
    ]
    return labels.with_rows([replace(parent, category=category, is_thing=True), *made])

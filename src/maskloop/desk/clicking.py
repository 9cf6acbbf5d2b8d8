"""Draw by clicks: a model shows the object at a point, or takes away what is not of an object."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.case import Case
from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image, smallest_unsigned
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.loop.predict import Predictor
from maskloop.ops import clicks, components

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from maskloop.core.geometry import Box
    from maskloop.models.base import Answer, Clicks, Sight
    from maskloop.models.cards import ModelCard
    from maskloop.ops.device import Device

_NEAR = 64  # pixels that a network should see round a point, where the picture has them
_KEPT = 6  # slices, or parts of a large picture, that are remembered

Region = npt.NDArray[np.bool_]
Place = tuple[int | None, int]  # the axis across a slice, and its number; (None, 0) for a picture

__all__ = ["Clicked", "Clicker", "Drawing", "click", "first_clicks", "list_clickers"]


@dataclass(frozen=True, slots=True, eq=False)
class Clicked:
    """What one click asks for.

    Parameters
    ----------
    box : tuple of slice
        Of the mask's grid; nothing else changes.
    ids : array of unsigned int
        What the box is to hold.
    since : array of unsigned int
        What it held when the click was answered.
    labels : LabelTable
        The table afterwards.
    label : int
        The object that got or lost voxels; 0 where there is none.
    words : str
        What the step is called.
    note : str
        Why nothing came of it, or what was left out; empty where all is plain.
    """

    box: Box
    ids: npt.NDArray[Any]  # Any: the narrowest unsigned type that fits
    since: npt.NDArray[Any]  # Any: as the mask's
    labels: LabelTable
    label: int
    words: str
    note: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether no voxel changes."""
        return bool((self.ids == self.since).all())


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """What a row of clicks made.

    Parameters
    ----------
    mask : Mask
        The new one; of a case, the live one.
    voxels : int
        That changed, all clicks together.
    notes : tuple of str
        What a person should read.
    """

    mask: Mask
    voxels: int
    notes: tuple[str, ...]


class Clicker(Predictor):
    """A model that draws the object at a point, with what it has seen of one image.

    The part that does not depend on a point is computed once a slice; a click then costs a look at
    a small window. Volumes are drawn on slice by slice.

    Parameters
    ----------
    model, device, job
        As for `Predictor`.

    Raises
    ------
    InputError
        If the model does not draw at points.
    UnknownNameError, WeightsError, DeviceError
        As for `Predictor`.
    """

    def __init__(
        self, model: str | ModelCard, device: str = "auto", *, job: Job | None = None
    ) -> None:
        from maskloop.models.base import Clicks

        super().__init__(model, device, job=job)
        if not isinstance(self._family, Clicks):
            msg = (
                f"expected a model that draws at a click, got {self.card.name!r} of family "
                f"{self.card.family!r}; choose one of family adaptis"
            )
            raise InputError(msg)
        self._clicks: Clicks = self._family
        self._image: Image | None = None
        self._sights: list[tuple[Place, Sight]] = []

    @property
    def image(self) -> Image | None:
        """The image that is clicked in."""
        return self._image

    def show(self, image: Image) -> None:
        """Take an image to click in; what was seen of another one is forgotten."""
        if image is not self._image:
            self._image, self._sights = image, []

    def look(
        self, point: Sequence[float], *, axis: int | None = None, job: Job | None = None
    ) -> None:
        """See the slice of a point now, so that the first click there need not wait."""
        place, pixel = self._placed(point, axis)
        self._seen(place, pixel, job or Job())

    def has_seen(self, point: Sequence[float], *, axis: int | None = None) -> bool:
        """Whether a click there would be answered at once."""
        place, pixel = self._placed(point, axis)
        return self._known(place, pixel) is not None

    def click(
        self,
        mask: Mask,
        point: Sequence[float],
        *,
        remove: bool = False,
        label: int | None = None,
        over: bool = False,
        axis: int | None = None,
        job: Job | None = None,
    ) -> Clicked:
        """Return what a click changes in a mask; nothing is written.

        Parameters
        ----------
        mask : Mask
            On the grid of the image shown: what people changed in it counts.
        point : sequence of float
            In array index order.
        remove : bool
            Whether what is at the point leaves the object there, instead of joining one.
        label : int, optional
            Which label gets the voxels. Where left out, the object that has the point; else the
            class that the model names, if the table has it; else a new object.
        over : bool
            Whether voxels of other labels are taken too, locked ones never.
        axis : int, optional
            Across the slice, in a volume; that of the largest spacing where left out.
        job : Job, optional

        Raises
        ------
        InputError
            If no image is shown, the point lies outside, or the label is locked.
        GeometryError
            If the mask does not lie on the image's grid.
        """
        mask.require_on(self._shown())
        place, pixel = self._placed(point, axis)
        sight = self._seen(place, pixel, job or Job())
        held = mask.data if place[0] is None else mask.data.take(place[1], axis=place[0])
        make = self._removed if remove else self._added
        box, ids, labels, number, note = make(mask, held, sight, pixel, label, over)
        since = held[box]
        words = f"{self.card.name}: {labels[number].name if number else 'nothing'}"
        if place[0] is not None:
            whole = [*box]
            whole.insert(place[0], slice(place[1], place[1] + 1))
            box = tuple(whole)
            ids, since = (np.expand_dims(one, place[0]) for one in (ids, since))
        return Clicked(box, ids, since, labels, number, words, note)

    # Seeing

    def _shown(self) -> Image:
        if self._image is None:
            msg = "expected an image to click in, got none; show one first"
            raise InputError(msg)
        return self._image

    def _placed(self, point: Sequence[float], axis: int | None) -> tuple[Place, clicks.Point]:
        """Return the slice of a point and the pixel in it."""
        from maskloop.models.posing import flat_axis

        image = self._shown()
        shape = image.geometry.shape
        index = [int(np.floor(v + 0.5)) for v in point]
        at = ",".join(f"{v:g}" for v in point)
        if len(index) != len(shape):
            axes = "z,y,x" if len(shape) == 3 else "y,x"
            msg = f"expected a point {axes} in an image of shape {shape}, got {at}; write it so"
            raise InputError(msg)
        if any(not 0 <= i < n for i, n in zip(index, shape, strict=True)):
            msg = f"expected a point inside the image of shape {shape}, got {at}; click inside it"
            raise InputError(msg)
        if len(shape) == 2:
            return (None, 0), (index[0], index[1])
        across = flat_axis(image.geometry) if axis is None else axis
        number = index.pop(across)
        return (across, number), (index[0], index[1])

    def _known(self, place: Place, pixel: clicks.Point) -> Sight | None:
        size = [n for a, n in enumerate(self._shown().geometry.shape) if a != place[0]]
        return next((s for p, s in self._sights if p == place and _shows(s, pixel, size)), None)

    def _seen(self, place: Place, pixel: clicks.Point, job: Job) -> Sight:
        sight = self._known(place, pixel)
        if sight is None:
            job.report(f"looking with {self.card.name}", 0)
            sight = self._clicks.look(
                self._network,
                _slice(self._shown(), place),
                card=self.card,
                device=self.device,
                job=job,
                near=pixel,
            )
            self._sights = [(place, sight), *self._sights][:_KEPT]
        return sight

    # Answering

    def _answer(self, sight: Sight, pixel: clicks.Point) -> Answer | None:
        return self._clicks.answer(self._network, sight, pixel, card=self.card)

    def _added(
        self,
        mask: Mask,
        held: npt.NDArray[Any],  # Any: as the mask's
        sight: Sight,
        pixel: clicks.Point,
        label: int | None,
        over: bool,
    ) -> tuple[Box, npt.NDArray[Any], LabelTable, int, str]:
        found = self._answer(sight, pixel)
        if found is None:
            return _nothing(held, mask.labels, pixel, f"{self.card.name} sees no object there")
        part = held[found.box]
        local = _moved(pixel, found.box)
        region = clicks.drawn(found.chances, found.threshold, local)
        score = float(found.chances[region].mean())
        wanted = label or (0 if over else _object_at(mask.labels, int(held[pixel])))
        labels, number = self._labelled(mask, found.category, wanted, score)
        locked = [i for i, row in labels.items() if row.locked]
        allowed = ~np.isin(part, locked) if over else (part == 0) | (part == number)
        new = region & allowed & (part != number)
        if not new.any():
            why = "every pixel of it is painted already" if region.any() else "nothing is there"
            return _nothing(held, mask.labels, pixel, f"nothing changed: {why}")
        ids = part.astype(np.promote_types(part.dtype, smallest_unsigned(number)))
        ids[new] = number
        left = int(np.count_nonzero(region & ~allowed))
        note = f"{left} pixels of it are painted already: they stay" if left else ""
        return found.box, ids, labels, number, note

    def _labelled(
        self, mask: Mask, category: str, wanted: int, score: float
    ) -> tuple[LabelTable, int]:
        """Return the table, with a row for a new object, and the id that gets the voxels."""
        labels = mask.labels
        if wanted:
            labels, number = labels.having(wanted)
        elif (known := _class_of(labels, category)) is not None:
            number = known
        else:
            number = max([*labels, int(mask.data.max(initial=0))], default=0) + 1
            row = Label(
                number,
                f"{category} {number}",
                category=category,
                is_thing=True,
                score=round(score, 4),
                author=self.card.name,
            )
            labels = labels.with_rows([row])
        _require_unlocked(labels[number])
        return labels, number

    def _removed(
        self,
        mask: Mask,
        held: npt.NDArray[Any],  # Any: as the mask's
        sight: Sight,
        pixel: clicks.Point,
        label: int | None,
        over: bool,
    ) -> tuple[Box, npt.NDArray[Any], LabelTable, int, str]:
        number = int(held[pixel])
        if not number:
            return _nothing(held, mask.labels, pixel, "nothing is painted there")
        _require_unlocked(mask.labels[number])
        whole = held == number
        if mask.labels[number].category is None:
            whole = components.piece_at(whole, pixel)
        rows, columns = (np.flatnonzero(whole.any(1 - a)) for a in (0, 1))
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        whole = whole[box]
        local = _moved(pixel, box)
        middle = clicks.innermost(whole)
        inside = (middle[0] + box[0].start, middle[1] + box[1].start)
        at = self._answer(sight, pixel)
        of_middle = self._answer(sight, inside) if _holds(sight.box, inside) else None
        leaves = clicks.leaving(
            whole,
            np.zeros(whole.shape, np.float32) if at is None else _cut(at, box),
            0.5 if at is None else at.threshold,
            local,
            of_middle=None if of_middle is None else _cut(of_middle, box),
        )
        ids = held[box].copy()
        ids[leaves] = 0
        return box, ids, mask.labels, number, ""


def list_clickers() -> list[str]:
    """Return the names of the models that are ready and draw at a click."""
    from maskloop.models import weights
    from maskloop.models.cards import all_cards

    return [
        card.name
        for card in all_cards()
        if card.weights and _draws_at_points(card.family) and weights.present(card)
    ]


def _draws_at_points(family: str) -> bool:
    from maskloop.models import FAMILIES, LISTED

    if family in LISTED:
        return LISTED[family].draws_at_points
    from maskloop.models.base import Clicks  # and with it torch: of another package's family only

    return family in FAMILIES and isinstance(FAMILIES.get(family), Clicks)


def click(
    image: Image | Path | str,
    model: str | Clicker,
    points: Sequence[Sequence[float]],
    *,
    remove: Sequence[Sequence[float]] = (),
    mask: Mask | Case | Path | str | None = None,
    label: str | int | None = None,
    over: bool = False,
    over_hand: bool = False,
    axis: int | None = None,
    device: str = "auto",
    job: Job | None = None,
) -> Drawing:
    """Draw the objects at points, as clicks in the window do.

    Parameters
    ----------
    image : Image or path
    model : str or Clicker
        Name on the menu, of a family that draws at points.
    points : sequence of positions
        In array index order; one object each, unless an object has the point already.
    remove : sequence of positions
        What is there leaves its object, after all points were drawn.
    mask : Mask, Case or path, optional
        What is drawn into; a new mask where left out. Each click is a step of a case.
    label : str or int, optional
        Which label gets all voxels, instead of an object each.
    over : bool
        Whether voxels of other labels are taken too.
    over_hand : bool
        Whether voxels of a case that a person painted may change.
    axis : int, optional
        Across the slices, in a volume.
    device : str
    job : Job, optional

    Raises
    ------
    InputError
        If a point lies outside, a label is locked, or the model does not draw at points.
    UnknownNameError, WeightsError, DeviceError
        As for `Predictor`.
    """
    from maskloop.loop.load import load, load_mask

    job = job or Job()
    pixels = image if isinstance(image, Image) else load(image, job=job)
    clicker = model if isinstance(model, Clicker) else Clicker(model, device, job=job)
    clicker.show(pixels)
    if mask is None:
        mask = Mask.like(pixels, np.zeros(pixels.geometry.shape, np.uint8), LabelTable())
    if isinstance(mask, Path | str):
        mask = load_mask(mask, image=pixels, kind="objects", job=job)
    case = mask if isinstance(mask, Case) else None
    held = mask.mask if isinstance(mask, Case) else replace(mask.checked(), data=mask.data.copy())
    number = None if label is None else held.labels.having(label)[1]
    voxels, notes = 0, []
    steps = [*((p, False) for p in points), *((p, True) for p in remove)]
    for point, is_away in job.track(steps, "clicks"):
        one = clicker.click(
            held, point, remove=is_away, label=number, over=over, axis=axis, job=job
        )
        if one.note:
            notes.append(f"{','.join(f'{v:g}' for v in point)}: {one.note}")
        if one.is_empty:
            continue
        if case is not None:
            change = change_of(case, one, clicker, over_hand=over_hand)
            voxels += change.edit.voxels
            held = case.mask
            if change.refused is not None:
                notes.append(change.refused.words)
            continue
        voxels += int(np.count_nonzero(one.ids != one.since))
        wide = np.promote_types(held.data.dtype, one.ids.dtype)
        held = replace(held, data=held.data.astype(wide, copy=False), labels=one.labels)
        held.data[one.box] = one.ids
    for note in notes:
        job.say(note)
    return Drawing(held, voxels, tuple(notes))


def change_of(case: Case, one: Clicked, clicker: Clicker, *, over_hand: bool = False) -> Any:
    """Make a click a step of a case's active mask; return the `Change`."""
    return case.change(one.ids, **options_of(one, clicker), box=one.box, over_hand=over_hand)


def options_of(one: Clicked, clicker: Clicker) -> dict[str, Any]:  # Any: as for `Case.change`
    """Return how `Case.change` is to make a click a step."""
    about: Mapping[str, Any] = {
        "model": clicker.card.name,
        "weights": {weight.file: weight.sha256 for weight in clicker.card.weights},
        "device": clicker.device.name,
    }
    return {
        "labels": one.labels,
        "since": one.since,
        "tool": "click",
        "words": one.words,
        "kind": "model",
        "author": clicker.card.name,
        "about": about,
    }


def first_clicks(
    family: Clicks,
    network: nn.Module,
    image: Image,
    ids: npt.NDArray[np.integer],
    *,
    card: ModelCard,
    device: Device,
) -> dict[int, float]:
    """Return how well one click draws each object of a picture, clicked at its innermost pixel.

    Parameters
    ----------
    family : Clicks
        Of the network.
    network : Module
    image : Image
        A picture.
    ids : array of int ``(y, x)``
        The truth: 0, and one id an object.
    card : ModelCard
    device : Device

    Returns
    -------
    dict of int to float
        Intersection over union of each id with the answer; 0 where there was none.
    """
    job = Job()
    sights: list[Sight] = []

    def draw(point: clicks.Point) -> tuple[Box, Region] | None:
        sight = next((s for s in sights if _shows(s, point, image.geometry.shape)), None)
        if sight is None:
            sight = family.look(network, image, card=card, device=device, job=job, near=point)
            sights.append(sight)
        found = family.answer(network, sight, point, card=card)
        if found is None:
            return None
        local = _moved(point, found.box)
        return found.box, clicks.drawn(found.chances, found.threshold, local)

    return clicks.first_click_ious(ids, draw)


def _require_unlocked(row: Label) -> None:
    if row.locked:
        msg = f"expected an unlocked label, got {row.name!r}; unlock it first"
        raise InputError(msg)


def _object_at(labels: LabelTable, number: int) -> int:
    """Return an id that is of an object, 0 for one that is of a class."""
    return number if number in labels and labels[number].category is not None else 0


def _class_of(labels: LabelTable, name: str) -> int | None:
    """Return the id of the class of a name, None where there is none."""
    rows = labels.values()
    return next((row.id for row in rows if row.name == name and row.category is None), None)


def _shows(sight: Sight, point: clicks.Point, size: Sequence[int]) -> bool:
    """Whether a sight also shows enough of what is round a point."""
    return all(
        (part.start == 0 or i >= part.start + _NEAR) and (part.stop == n or i < part.stop - _NEAR)
        for i, part, n in zip(point, sight.box, size, strict=True)
    )


def _slice(image: Image, place: Place) -> Image:
    """Return a slice as a picture; a picture as it is."""
    axis, number = place
    if axis is None:
        return image
    shape = [n for a, n in enumerate(image.geometry.shape) if a != axis]
    plane = image.data.take(number, axis=axis)
    grid = Geometry.pixels((shape[0], shape[1]))
    return Image(plane, grid, image.source, has_channels=image.has_channels)


def _moved(point: clicks.Point, box: Box) -> clicks.Point:
    return point[0] - box[0].start, point[1] - box[1].start


def _holds(box: Box, point: clicks.Point) -> bool:
    return all(part.start <= i < part.stop for i, part in zip(point, box, strict=True))


def _cut(found: Answer, box: Box) -> npt.NDArray[np.float32]:
    """Return an answer's probabilities in another box, 0 where it says nothing."""
    values = np.zeros([part.stop - part.start for part in box], np.float32)
    inner, outer = [], []
    for own, other in zip(found.box, box, strict=True):
        start, stop = max(own.start, other.start), min(own.stop, other.stop)
        stop = max(start, stop)
        inner.append(slice(start - own.start, stop - own.start))
        outer.append(slice(start - other.start, stop - other.start))
    if all(part.stop > part.start for part in outer):
        values[tuple(outer)] = found.chances[tuple(inner)]
    return values


def _nothing(
    held: npt.NDArray[Any], labels: LabelTable, pixel: clicks.Point, note: str
) -> tuple[Box, npt.NDArray[Any], LabelTable, int, str]:  # Any: as the mask's
    box = (slice(pixel[0], pixel[0] + 1), slice(pixel[1], pixel[1] + 1))
    return box, held[box].copy(), labels, 0, note

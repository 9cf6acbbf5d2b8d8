"""The live table of a mask's objects: built once, then kept up to date from what changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from maskloop.core.errors import UnknownNameError
from maskloop.ops.drafts import Draft, Overlap
from maskloop.ops.livebodies import LiveBodies, Update
from maskloop.ops.measure import measured, objects_of, pixels_of
from maskloop.ops.recist import Planes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from maskloop.core.case import Case, Step
    from maskloop.core.geometry import Box
    from maskloop.core.image import Image
    from maskloop.core.labels import LabelTable, Status
    from maskloop.core.mask import Mask
    from maskloop.ops.measure import By, Measured
    from maskloop.ops.rejoin import Joined
    from maskloop.ops.runs import Window

_OPEN: tuple[Status, ...] = ("new", "accepted")


@dataclass(frozen=True, slots=True)
class Row:
    """One object in the table.

    Parameters
    ----------
    measured : Measured
        Its measures; `measured.id` is its number, which stays as long as the object lives.
    name : str
        The label's.
    added, removed : float
        Volume (area) that the object has and the model's draft had not, and the other way round.
    status : str
        ``new``, ``accepted``, ``edited`` or ``rejected``.
    score : float, optional
        How sure the model was of it, 0 to 1; its label's.
    """

    measured: Measured
    name: str
    added: float
    removed: float
    status: Status
    score: float | None = None


@dataclass(slots=True)
class _Standing:
    """What people did with an object: steps on it since its status was set, and its own status."""

    touched: int = 0
    verdict: Status | None = None


class ObjectIndex:
    """All objects of a mask with their measures, cheap to keep up to date.

    Where the label table holds objects, an id is an object; where it holds classes, each connected
    piece (26-neighbourhood; 8 in 2D) is one. After a change of a box only the objects that touch it
    are looked at, and of these only the rows and slices in the box. The rows always equal those of
    `measure`, but for the numbers, which stay with an object as long as it lives.

    An object's status is its own (`mark`), else its label's. ``new`` and ``accepted`` become
    ``edited`` once a step of a person or a tool has changed voxels of the object after the status
    was set, and are themselves again once such steps are undone. A model's step edits nothing.

    Parameters
    ----------
    mask : Mask
        Without a time axis; its array may change, but each change must be told to `update`.
    image : Image, optional
        For pixel statistics; one channel, no time axis.
    draft : Mask, optional
        What a model drew, to compare with; the mask as it is now where left out.
    by : {"pieces", "labels"}, optional
        What an object is; from the kind of the table where left out.

    Raises
    ------
    InputError, GeometryError
        As for `measure`.

    Examples
    --------
    >>> import numpy as np
    >>> from maskloop.core.geometry import Geometry
    >>> from maskloop.core.labels import LabelTable
    >>> from maskloop.core.mask import Mask
    >>> ids = np.zeros((8, 8), np.uint8)
    >>> ids[1:3, 1:7] = 1
    >>> index = ObjectIndex(Mask(ids, Geometry.pixels(ids.shape), LabelTable.classes(["cell"])))
    >>> ids[:, 4] = 0
    >>> index.update((slice(0, 8), slice(4, 5)))
    Update(changed=(1,), added=(2,), gone=(), is_whole=False)
    >>> [(row.measured.id, row.measured.voxels, row.removed) for row in index]
    [(1, 6, 2.0), (2, 4, 0.0)]
    """

    def __init__(
        self,
        mask: Mask,
        image: Image | None = None,
        *,
        draft: Mask | None = None,
        by: By | None = None,
    ) -> None:
        self.by: By = by or ("labels" if mask.labels.kind == "objects" else "pieces")
        self._geometry = mask.geometry
        self._planes = Planes.of(mask.geometry)
        self._labels = mask.labels
        self._case: Case | None = None
        self._name = ""
        pixels = pixels_of(mask, image, self._planes)
        stack = self._planes.stack(mask.data)
        self._bodies = LiveBodies(stack, self._planes, pixels, by=self.by)
        self._measured: dict[int, Measured] = {}
        self._standing: dict[int, _Standing] = {}
        self._drafts = [self._as_now() if draft is None else self._as_in(draft)]
        self._compare()
        for number in self._bodies.numbers:
            self._standing[number] = _Standing(int(self._differs(number)))

    @classmethod
    def of_case(
        cls, case: Case, image: Image | None = None, *, mask: str | None = None
    ) -> ObjectIndex:
        """Return the table of a case's mask; then give every step to `take`.

        The draft is the mask as the last model run left it, or as the case began.
        """
        name = case.active if mask is None else mask
        index = cls(case.masks[name], image, draft=draft_of(case, name))
        index._case, index._name = case, name
        return index

    # Asking

    def __len__(self) -> int:
        return len(self._bodies)

    def __contains__(self, number: object) -> bool:
        return number in self._bodies

    def __iter__(self) -> Iterator[Row]:
        return (self[number] for number in self._bodies.numbers)

    def __getitem__(self, number: int) -> Row:
        """Return one object's row.

        Raises
        ------
        UnknownNameError
            If no living object has this number.
        """
        found = self._measured.get(number)
        if found is None:
            living = self._bodies[self._checked(number)]
            found = measured(number, living.label, living.body, self._planes, self._geometry)
            self._measured[number] = found
        size = self._geometry.voxel_size
        added, removed = self._overlap.change(number, found.voxels)
        row = self._labels.get(found.label)
        name = row.name if row is not None else f"label {found.label}"
        score = row.score if row is not None else None
        return Row(found, name, added * size, removed * size, self.status(number), score)

    @property
    def numbers(self) -> list[int]:
        """The objects' numbers, ascending."""
        return self._bodies.numbers

    @property
    def lost(self) -> tuple[int, float]:
        """How many of the draft's objects are gone altogether, and their volume (area)."""
        gone = self._overlap.lost
        voxels = sum(self._drafts[-1].sizes[old] for old in gone)
        return len(gone), voxels * self._geometry.voxel_size

    def at(self, index: Sequence[float]) -> int | None:
        """Return the number of the object at an array index, None where there is none."""
        place = self._planes.place(tuple(round(n) for n in index))
        if not all(0 <= n < length for n, length in zip(place, self._planes.shape, strict=True)):
            return None
        z, y, x = (slice(n, n + 1) for n in place)
        return int(self._bodies.owners((z, y, x))[0, 0, 0]) or None

    def status(self, number: int) -> Status:
        """Return an object's status."""
        row = self._labels.get(self._bodies[self._checked(number)].label)
        standing = self._standing.get(number, _Standing())
        status = standing.verdict or (row.status if row is not None else "new")
        return "edited" if status in _OPEN and standing.touched > 0 else status

    def mark(self, number: int, status: Status | None) -> None:
        """Give one object a status of its own, over that of its label; None takes it back."""
        self._standing[self._checked(number)] = _Standing(verdict=status)

    # Following

    def take(self, step: Step) -> Update:
        """Follow a step of the case that `of_case` was given; to be given to `Case.subscribe`."""
        if self._case is None or step.mask != self._name:
            return Update()
        before, mask = self._labels, self._case.masks[self._name]
        by_model = step.edit.kind == "model"
        found = self.update(step.box if step.edit.voxels else (), mask=mask)
        if by_model:
            self._follow_model(is_undo=step.is_undo)
        else:
            for number in (*found.changed, *found.added):
                self._touch(number, found, -1 if step.is_undo else 1)
        self._follow_rows(before, is_undo=step.is_undo)
        return found

    def update(self, box: Box, *, mask: Mask | None = None) -> Update:
        """Follow a change of the mask's voxels.

        Parameters
        ----------
        box : tuple of slice
            Where they changed; nothing outside it is looked at, but for what must be to tell
            whether an object still hangs together. Empty where none did.
        mask : Mask, optional
            The mask after the change, where its array or its table is another now.

        Returns
        -------
        Update
            Which objects changed.
        """
        if mask is not None:
            self._bodies.stack, self._labels = self._planes.stack(mask.data), mask.labels
        if not box:
            return Update()
        found = self._bodies.update(self._window(box), self._moved)
        if found.is_whole:
            self._compare()
        for number in (*found.changed, *found.added, *found.gone):
            self._measured.pop(number, None)
        return found

    def _window(self, box: Box) -> Window:
        shape = self._geometry.shape
        ends = [part.indices(length)[:2] for part, length in zip(box, shape, strict=True)]
        first, last = (self._planes.place(tuple(end[side] for end in ends)) for side in (0, 1))
        if self._planes.across is None:
            last = (1, *last[1:])
        z, y, x = (slice(a, max(a, b)) for a, b in zip(first, last, strict=True))
        return z, y, x

    def _moved(self, label: int, found: Joined, numbers: Mapping[int, int]) -> None:
        self._overlap.move(label, found, numbers, self._planes.shape)

    def _touch(self, number: int, found: Update, times: int) -> None:
        """Count a step of a person on an object; a part split off counts as touched."""
        standing = self._standing.setdefault(number, _Standing())
        if number in found.changed:
            standing.touched = max(0, standing.touched + times)
        elif times > 0 and self._overlap.held(number):
            standing.touched = max(1, standing.touched)

    def _follow_model(self, *, is_undo: bool) -> None:
        """Take what a model left as the draft from now on; the one before where it is undone."""
        if not is_undo:
            self._drafts.append(self._as_now())
        else:
            self._drafts.pop()
            if not self._drafts and self._case is not None:
                self._drafts.append(self._as_in(draft_of(self._case, self._name)))
        self._compare()

    def _follow_rows(self, before: LabelTable, *, is_undo: bool) -> None:
        """Give a label's new status to all its objects, until they are changed."""
        changed = {
            i for i, row in self._labels.items() if i in before and before[i].status != row.status
        }
        if not changed:
            return
        for number, label in self._bodies.labels.items():
            if label in changed:
                self._standing[number] = _Standing(int(is_undo and self._differs(number)))

    # The draft

    def _as_now(self) -> Draft:
        return Draft.of(self._bodies.runs(), self._bodies.labels)

    def _as_in(self, mask: Mask) -> Draft:
        return Draft.of(*objects_of(self._planes.stack(mask.data), by=self.by))

    def _compare(self) -> None:
        self._overlap = Overlap(self._drafts[-1], self._bodies.runs(), self._bodies.labels)

    def _differs(self, number: int) -> bool:
        return any(self._overlap.change(number, self._bodies[number].body.voxels))

    def _checked(self, number: int) -> int:
        if number not in self._bodies:
            raise UnknownNameError.of("n object", str(number), [str(n) for n in self.numbers])
        return number


def draft_of(case: Case, name: str) -> Mask:
    """Return a case's mask as its last model run left it; as the case began where none ran."""
    mask = case.masks[name]
    steps = [edit for edit in list(case.history)[: case.history.position] if edit.mask == name]
    ids = mask.data.copy()
    for edit in reversed(steps):
        if edit.kind == "model":
            break
        edit.revert(ids)
    return replace(mask, data=ids)

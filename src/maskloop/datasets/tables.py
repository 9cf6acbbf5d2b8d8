"""What the ids of several masks mean together: unique ids, one scheme, classes without gaps."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from maskloop.core.errors import InputError
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import present_ids, renumbered
from maskloop.datasets.base import (
    COVERED,
    IGNORED,
    MERGED,
    UNREVIEWED,
    Loss,
    class_of,
    is_partly_reviewed,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from maskloop.core.dataset import Sample
    from maskloop.core.mask import Mask


def unique(masks: Sequence[Mask]) -> tuple[Mask, ...]:
    """Return masks whose ids are unique over all; those of later ones move up where they clash."""
    found: list[Mask] = []
    taken: set[int] = set()
    for mask in masks:
        one = mask
        if taken & set(mask.labels):
            start = max(taken)
            moved = {old: start + n for n, old in enumerate(mask.labels, start=1)}
            rows = LabelTable(replace(mask.labels[old], id=new) for old, new in moved.items())
            one = recoded(mask, moved, rows)
        taken |= set(one.labels)
        found.append(one)
    return tuple(found)


def scheme_of(rows: Collection[Label]) -> LabelTable:
    """Return the classes that rows belong to or are, with their own ids where those are free."""
    found: dict[str, Label] = {}
    for row in rows:
        if row.category is None:
            found.setdefault(row.name, row)
    for row in rows:
        if row.category is not None and row.category not in found:
            found[row.category] = replace(row, name=row.category, category=None, score=None)
    taken: set[int] = set()
    numbered = []
    classes = sorted(found.values(), key=lambda row: row.id)
    own = {row.id for row in classes if row.id <= 65535}
    free = (n for n in range(1, 1 << 62) if n not in own and n not in taken)
    for row in classes:
        number = row.id if row.id <= 65535 and row.id not in taken else next(free)
        taken.add(number)
        numbered.append(Label(number, row.name, row.colour, None, row.is_thing, row.ignore))
    return LabelTable(numbered)


def recoded(mask: Mask, numbers: Mapping[int, int], labels: LabelTable) -> Mask:
    """Return a mask whose ids are renumbered, with another table; ids not named become 0."""
    dtype = np.min_scalar_type(max((*numbers.values(), *labels), default=0))
    data = renumbered(mask.data, numbers, dtype)
    return replace(mask, data=data, labels=labels)


IGNORE = "ignore"


def consecutive(scheme: LabelTable) -> LabelTable:
    """Return the classes as 1, 2, ... in order of their ids, and one after them that is ignored.

    Raises
    ------
    InputError
        If a class bears the name of one of the two that have a meaning of their own.
    """
    rows: dict[str, Label] = {}
    for row in scheme.values():
        if row.ignore:
            continue
        if row.name in (IGNORE, "background"):
            msg = (
                f"expected no class called {row.name!r}, got one (id {row.id}); the name has a "
                "meaning of its own in this format: rename the class"
            )
            raise InputError(msg)
        rows.setdefault(row.name, row)
    found = [
        Label(number, row.name, row.colour, is_thing=row.is_thing)
        for number, row in enumerate(rows.values(), start=1)
    ]
    return LabelTable([*found, Label(len(found) + 1, IGNORE, "#808080", ignore=True)])


def as_classes(sample: Sample, classes: LabelTable) -> tuple[Mask, dict[Loss, int]]:
    """Return a sample as one mask of the `consecutive` classes, and what is lost by that.

    Objects become their class. What nobody reviewed, or is ignored, becomes the last class.

    Raises
    ------
    InputError
        If a class is not among them.
    """
    number_of = {row.name: i for i, row in classes.items()}
    void = number_of[IGNORE]
    settled, _ = sample.settled()
    rows = settled.labels.covering(settled.ids())
    numbers: dict[int, int] = {}
    for i, row in rows.items():
        name = class_of(row)
        if not row.ignore and name not in number_of:
            known = ", ".join(n for n in number_of if n != IGNORE) or "none"
            msg = (
                f"expected the classes of the dataset ({known}) in {sample.item.name!r}, got "
                f"{name!r}; add it to the table of labels"
            )
            raise InputError(msg)
        numbers[i] = void if row.ignore else number_of[name]
    mask = recoded(settled, numbers, classes)
    present = {i for one in sample.masks for i in one.ids()}
    losses: Counter[Loss] = Counter()
    losses[MERGED] = sum(rows[i].category is not None and not rows[i].ignore for i in present)
    losses[IGNORED] = sum(rows[i].ignore and class_of(rows[i]) != IGNORE for i in present)
    if len(sample.masks) > 1:
        for one in sample.masks:
            own = renumbered(one.data, numbers, mask.data.dtype)
            losses[COVERED] += len(present_ids(one.data[own != mask.data]))
    if sample.reviewed is not None and is_partly_reviewed(sample):
        data = mask.data.astype(np.promote_types(mask.data.dtype, np.min_scalar_type(void)))
        data[~sample.reviewed] = void
        mask = replace(mask, data=data)
        losses[UNREVIEWED] = 1
    used = set(mask.ids())
    kept = LabelTable(row for i, row in classes.items() if i != void or void in used)
    return replace(mask, labels=kept), {loss: n for loss, n in losses.items() if n}

"""What the ids of several masks mean together: unique ids, one scheme, classes without gaps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.labels import Label, LabelTable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

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
    highest = int(mask.data.max(initial=0))
    kept = {old: new for old, new in numbers.items() if 0 < old <= highest}
    dtype = np.min_scalar_type(max((*kept.values(), *labels), default=0))
    data: npt.NDArray[Any]
    if highest <= 1 << 20:
        table = np.zeros(highest + 1, dtype)
        for old, new in kept.items():
            table[old] = new
        data = table[mask.data]
    else:
        olds = np.array(sorted(kept), np.uint64)
        news = np.array([0, *(kept[int(n)] for n in olds)], dtype)
        at = np.searchsorted(olds, mask.data)
        is_known = olds[np.minimum(at, olds.size - 1)] == mask.data if olds.size else np.False_
        data = news[np.where(is_known, at + 1, 0)]
    return replace(mask, data=data, labels=labels)

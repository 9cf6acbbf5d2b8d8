"""Give two masks the same class ids, matched by name, so that they can be compared."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from maskloop.core.image import smallest_unsigned
from maskloop.core.labels import Label, LabelTable

if TYPE_CHECKING:
    import numpy.typing as npt

    from maskloop.core.labels import Kind
    from maskloop.core.mask import Mask

_NAMELESS = "object"  # category of objects of which nothing is known


def aligned(a: Mask, b: Mask, kind: Kind | None = None) -> tuple[Mask, Mask, LabelTable, list[str]]:
    """Return both masks as classes of one table, that table, and what was matched in words.

    Parameters
    ----------
    a, b : Mask
        On one grid, with a row for every id. Classes are matched by name, upper and lower case
        alike; objects by their category; the single class of each whatever it is called. What
        either ignores is background in both.
    kind : {"classes", "objects"}, optional
        What objects of no category of their own are: what the other mask's are where those are
        known, else objects in pictures and classes in volumes.
    """
    called = [class_names(mask, other, kind) for mask, other in ((a, b), (b, a))]
    notes = []
    single = [set(names.values()) for names in called]
    if all(len(s) == 1 for s in single) and single[0] != single[1]:
        (wanted,), (own,) = single
        if wanted.casefold() != own.casefold():
            notes.append(f"{own!r} is taken for {wanted!r}: each mask has one class only")
        called[1] = dict.fromkeys(called[1], wanted)
    spelling: dict[str, str] = {}
    for names in called:
        for name in names.values():
            spelling.setdefault(name.casefold(), name)
    number = {key: n for n, key in enumerate(spelling, start=1)}
    colours = {
        number[called[side][row.id].casefold()]: row.colour
        for side, mask in ((1, b), (0, a))
        for row in mask.labels.values()
        if row.category is None and row.id in called[side]
    }
    table = LabelTable(Label(n, spelling[key], colours.get(n, "")) for key, n in number.items())
    ignored = _ignored(a, b)
    made = []
    for mask, names in zip((a, b), called, strict=True):
        lookup = np.zeros(max(mask.labels, default=0) + 1, dtype=smallest_unsigned(len(number)))
        for i, name in names.items():
            lookup[i] = number[name.casefold()]
        data = lookup[mask.data]
        if ignored is not None:
            data[ignored] = 0
        made.append(replace(mask, data=data, labels=table))
    return made[0], made[1], table, notes


def class_names(mask: Mask, other: Mask, kind: Kind | None) -> dict[int, str]:
    """Return the class of each id; of nameless ids what `kind` or the other mask makes of them."""
    as_classes = kind == "classes" or (kind is None and not _holds_objects(mask, other))
    known = {i: row.name for m in (other, mask) for i, row in m.labels.items() if not row.category}
    found = {}
    for i, row in mask.labels.items():
        if row.ignore:
            continue
        if row.category == _NAMELESS and as_classes:
            found[i] = known.get(i, f"label {i}")
        else:
            found[i] = row.category or row.name
    return found


def _holds_objects(mask: Mask, other: Mask) -> bool:
    """Whether nameless ids are objects: those of pictures, and where the other mask's are."""
    categories = {row.category for row in other.labels.values()}
    if categories - {_NAMELESS}:
        return None not in categories
    return mask.geometry.unit == "px"


def _ignored(*masks: Mask) -> npt.NDArray[np.bool_] | None:
    """Return where any of the masks is to be left out; None where nothing is."""
    found: npt.NDArray[np.bool_] | None = None
    for mask in masks:
        ids = [i for i, row in mask.labels.items() if row.ignore]
        if ids:
            here = np.isin(mask.data, ids)
            found = here if found is None else found | here
    return found

"""What a model's new result asks for, on top of the masks that people have worked on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.image import smallest_unsigned
from maskloop.core.mask import present_ids

if TYPE_CHECKING:
    from collections.abc import Mapping

    from maskloop.core.labels import Label, LabelTable
    from maskloop.core.mask import Mask

Ids = npt.NDArray[Any]  # Any: labels come in every integer width


def redrawn(
    held: Mask, found: Mask, *, hand: npt.NDArray[np.bool_] | None = None
) -> tuple[Ids, LabelTable]:
    """Return the ids and the table that a model's result asks for.

    A model redraws its own classes and the background; labels that it does not know stay. Classes
    meet by name, whatever their ids. A model that finds objects replaces those of its categories,
    except such as a person painted on; its objects then take ids that are free.

    Parameters
    ----------
    held, found : Mask
        What is there, and what the model found, on one grid.
    hand : array of bool, optional
        Voxels that a person painted.

    Returns
    -------
    ids : array of unsigned int
        Hand-painted and locked voxels are for `Case.change` to keep.
    labels : LabelTable
    """
    if found.labels.kind == "objects":
        return _objects(held, found, hand)
    ids_of = _classes_by_name(held.labels, found.labels)
    names = {row.name for row in found.labels.values()}
    own = {*ids_of.values(), *(i for i, row in held.labels.items() if row.category in names)}
    new = [replace(row, id=ids_of[i]) for i, row in found.labels.items()]
    labels = held.labels.with_rows(row for row in new if row.id not in held.labels)
    return _drawn(held.data, found.data, ids_of, own), labels


def _classes_by_name(held: LabelTable, found: LabelTable) -> dict[int, int]:
    known = {row.name: row.id for row in held.values()}
    ids_of = {i: known[row.name] for i, row in found.items() if row.name in known}
    taken = {*held, *ids_of.values()}
    for number in found:
        if number not in ids_of:
            ids_of[number] = number if number not in taken else max(taken) + 1
            taken.add(ids_of[number])
    return ids_of


def _objects(held: Mask, found: Mask, hand: npt.NDArray[np.bool_] | None) -> tuple[Ids, LabelTable]:
    categories = {row.category for row in found.labels.values()}
    own = {i for i, row in held.labels.items() if row.category in categories}
    kept = {i for i in own if held.labels[i].locked}
    if hand is not None:
        kept |= own & set(present_ids(held.data[hand]))
    taken = kept | (set(held.labels) - own)
    ids_of: dict[int, int] = {}
    number = 0
    for old in found.labels:
        number += 1
        while number in taken:
            number += 1
        ids_of[old] = number
    rows = [_renumbered(row, ids_of[i]) for i, row in found.labels.items()]
    return _drawn(held.data, found.data, ids_of, own), held.labels.without(own - kept).with_rows(
        rows
    )


def _renumbered(row: Label, number: int) -> Label:
    is_numbered = row.name == f"{row.category} {row.id}"
    name = f"{row.category} {number}" if is_numbered else row.name
    return replace(row, id=number, name=name)


def _drawn(held: Ids, found: Ids, ids_of: Mapping[int, int], own: set[int]) -> Ids:
    top = max([*ids_of.values(), int(held.max(initial=0))], default=0)
    # Ids without a row keep their number: nothing says what else they could be.
    table = np.arange(max([*ids_of, int(found.max(initial=0))], default=0) + 1)
    for old, new in ids_of.items():
        table[old] = new
    wanted = table.astype(smallest_unsigned(max(top, int(table.max(initial=0)))))[found]
    foreign = sorted(set(present_ids(held)) - own)
    if foreign:
        stays = np.isin(held, foreign)
        wanted[stays] = held[stays]
    return wanted

"""Regions that may overlap, laid into as few masks as hold them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError, UnknownNameError
from maskloop.core.image import smallest_unsigned
from maskloop.core.labels import Label, LabelTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

Index = tuple[int | slice, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Part of a region: true where ``array[index]`` belongs to it."""

    index: Index
    region: npt.NDArray[np.bool_]


@dataclass(slots=True, eq=False)
class _Layer:
    ids: npt.NDArray[Any]
    rows: dict[int, Label] = field(default_factory=dict)


class Layers:
    """Arrays of label ids, none with an overlap inside; regions come in order of their numbers.

    Parameters
    ----------
    shape : tuple of int
        Grid of every layer.
    highest : int
        Largest label id to come; chooses the type.
    """

    def __init__(self, shape: tuple[int, ...], highest: int) -> None:
        self._shape, self._dtype = shape, smallest_unsigned(highest)
        self._layers: list[_Layer] = []
        self._clashes: list[tuple[Label, list[Label]]] = []

    def __len__(self) -> int:
        return len(self._layers)

    def add(self, row: Label, pieces: Iterable[Piece]) -> None:
        """Lay a region into the first layer in which it overlaps nothing."""
        held = list(pieces)
        met: list[Label] = []
        for layer in self._layers:
            found = _met(layer, held)
            if not found:
                break
            met += found
        else:
            layer = self.blank()
        if met:
            self._clashes.append((row, met))
        for piece in held:
            layer.ids[piece.index][piece.region] = row.id
        layer.rows[row.id] = row

    def blank(self) -> _Layer:
        """Return a new, empty layer, kept."""
        layer = _Layer(np.zeros(self._shape, self._dtype))
        self._layers.append(layer)
        return layer

    def found(self) -> list[tuple[npt.NDArray[Any], LabelTable]]:
        """Return the ids and the table of every layer; one empty layer where nothing came."""
        if not self._layers:
            self.blank()
        return [(layer.ids, LabelTable(layer.rows.values())) for layer in self._layers]

    def require_one(self, path: Path, what: str, numbers: Mapping[int, int]) -> None:
        """Raise `InputError` that lists what overlaps, unless one layer holds everything.

        Parameters
        ----------
        path : Path
            The file, for the message.
        what : str
            ``"segment"`` or ``"ROI"``.
        numbers : mapping of int to int
            Number in the file by label id.
        """
        if not self._clashes:
            return
        pairs = [
            f"{numbers[row.id]} ({row.name}) over "
            + " and ".join(f"{numbers[other.id]} ({other.name})" for other in met)
            for row, met in self._clashes
        ]
        listed = ", ".join(pairs[:6]) + (" ..." if len(pairs) > 6 else "")
        msg = (
            f"expected {what}s that share no voxel in {path.name}, got {what} {listed}; choose one "
            f"with --entry N (in Python: entry=N), or read all of them with maskloop.load_masks"
        )
        raise InputError(msg)


def _met(layer: _Layer, pieces: list[Piece]) -> list[Label]:
    """Return the rows of a layer that the pieces would overwrite."""
    hit: set[int] = set()
    for piece in pieces:
        under = layer.ids[piece.index][piece.region]
        if under.any():
            hit.update(int(n) for n in np.unique(under) if n)
    return [layer.rows[number] for number in sorted(hit)]


def cropped(index: Index, region: npt.NDArray[np.bool_]) -> Piece | None:
    """Return a piece cut to what is true in it, or None where nothing is.

    `index` holds one whole number and, for each axis of `region` in order, a slice of step 1.
    """
    rows = np.flatnonzero(region.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(region.any(axis=0))
    boxes = iter(
        (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    )
    inner: list[int | slice] = []
    cuts: list[slice] = []
    for part in index:
        if isinstance(part, slice):
            cut = next(boxes)
            start = part.start or 0
            cuts.append(cut)
            inner.append(slice(start + cut.start, start + cut.stop))
        else:
            inner.append(part)
    return Piece(tuple(inner), region[tuple(cuts)].copy())


def chosen(entry: str | int, rows: Mapping[int, Label], what: str) -> int:
    """Return the number in the file that `entry` names: by number, else by name, else by label id.

    Raises
    ------
    UnknownNameError
        If nothing is called so; lists what there is.
    """
    text = str(entry).strip()
    for number in rows:
        if str(number) == text:
            return number
    for number, row in rows.items():
        if row.name == text:
            return number
    for number, row in rows.items():
        if str(row.id) == text:
            return number
    raise UnknownNameError.of(what, text, [f"{n} ({r.name})" for n, r in rows.items()])

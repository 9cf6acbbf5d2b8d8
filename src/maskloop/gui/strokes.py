"""What napari tells of a finished stroke, and what it means for an array of ids; no Qt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskloop.core.geometry import Box

Ids = npt.NDArray[Any]  # Any: labels come in every integer width
Where = tuple[Any, ...]  # Any: slices and a bool array, or arrays of indices

# What a stroke is called, by the mode that its layer is in.
_MODES = {"paint": "brush", "erase": "erase", "fill": "fill", "polygon": "polygon"}


@dataclass(frozen=True, slots=True, eq=False)
class Stroke:
    """One finished step of napari's on a Labels layer.

    Parameters
    ----------
    atoms : tuple
        Payload of the layer's ``paint`` event: since napari 0.8 atoms of a box, a bool array and
        values; of ``data_setitem`` still indices, values before, values after.
    box : tuple of slice
        Tight around all of them, in the layer's array.
    tool : str
        What the person did it with.
    """

    atoms: tuple[Any, ...]  # Any: napari's own types
    box: Box
    tool: str

    @classmethod
    def of(cls, atoms: Sequence[Any], mode: str) -> Stroke | None:  # Any: napari's own types
        """Return the stroke of a ``paint`` event, or None if it touched nothing."""
        starts: list[list[int]] = []
        stops: list[list[int]] = []
        for atom in atoms:
            key = getattr(atom, "slice_key", None)
            if key is not None:
                starts.append([int(part.start) for part in key])
                stops.append([int(part.stop) for part in key])
            elif len(atom[0]) and np.size(atom[0][0]):
                starts.append([int(np.min(axis)) for axis in atom[0]])
                stops.append([int(np.max(axis)) + 1 for axis in atom[0]])
        if not starts:
            return None
        lows, highs = np.min(starts, axis=0), np.max(stops, axis=0)
        box = tuple(slice(int(a), int(b)) for a, b in zip(lows, highs, strict=True))
        return cls(tuple(atoms), box, _MODES.get(mode, "paint"))

    @property
    def is_drawn(self) -> bool:
        """Whether it was drawn with the mouse, not written by a program."""
        return any(hasattr(atom, "slice_key") for atom in self.atoms)

    @property
    def ids(self) -> list[int]:
        """Ids that the stroke wrote, background left out."""
        found: set[int] = set()
        for _, _, after in self._parts():
            found.update([int(after)] if np.ndim(after) == 0 else np.unique(after).tolist())
        return sorted(found - {0})

    @property
    def size(self) -> int:
        """Voxels of the box."""
        return int(np.prod([part.stop - part.start for part in self.box]))

    def write(self, ids: Ids, starts: Sequence[int] = ()) -> None:
        """Write what the stroke made into `ids`, in place.

        Parameters
        ----------
        ids : array of int
            The whole array of the layer, or the part of it that holds the stroke's box.
        starts : sequence of int
            Where in the layer's array that part begins.
        """
        for where, _, after in self._parts(starts):
            _put(ids, where, after)

    def take_back(self, ids: Ids) -> None:
        """Write what was there before the stroke into the whole array `ids`, in place."""
        for where, before, _ in reversed(list(self._parts())):
            _put(ids, where, before)

    def _parts(self, starts: Sequence[int] = ()) -> Iterator[tuple[Where, Any, Any]]:  # Any: ids
        by = starts or (0,) * len(self.box)
        for atom in self.atoms:
            key = getattr(atom, "slice_key", None)
            if key is None:
                indices = tuple(np.asarray(i) - n for i, n in zip(atom[0], by, strict=True))
                yield indices, atom[1], atom[2]
            else:
                box = tuple(
                    slice(part.start - n, part.stop - n) for part, n in zip(key, by, strict=True)
                )
                yield (box, atom.mask), atom.old_values, atom.new_value


def _put(ids: Ids, where: Where, values: Any) -> None:  # Any: ids or one id
    if isinstance(where[0], tuple):
        box, mask = where
        if mask is None:
            ids[box] = values
        else:
            ids[box][mask] = values
    else:
        ids[where] = values

"""Which objects of one drawing are which of another: one to one, by how much they overlap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.ops.components import boxes, label, sizes
from maskloop.ops.scores import joint_counts

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from maskloop.core.geometry import Box

Ids = npt.NDArray[Any]  # Any: whichever unsigned type is narrow enough
Region = npt.NDArray[np.bool_]
Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """The objects of one drawing, numbered from 1 over all of its layers.

    Parameters
    ----------
    layers : list of array
        Object numbers, 0 elsewhere; each object lies on one layer.
    layer_of : dict of int to int
        On which.
    kinds : dict of int to int
        Class of each object.
    labels : dict of int to int
        Id that the object had in its mask.
    areas : dict of int to int
        Voxels of each.
    boxes : dict of int to Box
        Tight box of each.
    """

    layers: list[Ids]
    layer_of: dict[int, int]
    kinds: dict[int, int]
    labels: dict[int, int]
    areas: dict[int, int]
    boxes: dict[int, Box]

    def region(self, number: int, box: Box) -> Region:
        """Return what an object fills of a box."""
        return np.asarray(self.layers[self.layer_of[number]][box] == number)

    def of_kind(self, kind: int) -> list[int]:
        """Return the numbers of a class's objects."""
        return [number for number, own in self.kinds.items() if own == kind]


def objects_of(
    layers: Sequence[Ids],
    kinds: Mapping[int, int],
    *,
    in_pieces: Collection[int],
    left_out: Region | None = None,
) -> Objects:
    """Return the objects of masks that may overlap.

    Parameters
    ----------
    layers : sequence of array
        Label ids, of one shape.
    kinds : mapping of int to int
        Class of each id; an id without one is left out.
    in_pieces : collection of int
        Ids whose connected pieces (neighbours share at least a corner) are an object each.
    left_out : array of bool, optional
        Voxels that are nobody's.
    """
    found = Objects([], {}, {}, {}, {}, {})
    for place, ids in enumerate(layers):
        kept = ids if left_out is None else np.where(left_out, 0, ids)
        made = np.zeros(ids.shape, np.uint32)
        found.layers.append(made)
        for number, box in boxes(kept).items():
            if number not in kinds:
                continue
            region = kept[box] == number
            count = len(found.areas)
            pieces, new = label(region) if number in in_pieces else (region.astype(np.uint8), 1)
            made[box][region] = pieces[region].astype(np.uint32) + np.uint32(count)
            areas = sizes(pieces, new)
            for piece, part in boxes(pieces).items():
                own = count + piece
                found.layer_of[own], found.kinds[own] = place, kinds[number]
                found.labels[own], found.areas[own] = number, int(areas[piece])
                found.boxes[own] = tuple(
                    slice(outer.start + inner.start, outer.start + inner.stop)
                    for outer, inner in zip(box, part, strict=True)
                )
    return found


def shared_voxels(a: Objects, b: Objects) -> dict[Pair, int]:
    """Return how many voxels each pair of objects shares; only pairs that meet."""
    found: dict[Pair, int] = {}
    for one in a.layers:
        for other in b.layers:
            found.update({p: n for p, n in joint_counts(one, other).items() if p[0] and p[1]})
    return found


def matched(ious: Mapping[Pair, float], least: float) -> dict[int, int]:
    """Return the one-to-one matching whose IoUs sum to the most, of pairs that reach `least`.

    Exact: objects that meet, however indirectly, are solved together as an assignment.
    """
    pairs = [(pair, iou) for pair, iou in ious.items() if iou >= least and iou > 0]
    if not pairs:
        return {}
    from scipy import optimize, sparse

    rows = {a: i for i, a in enumerate(sorted({a for (a, _), _ in pairs}))}
    columns = {b: len(rows) + i for i, b in enumerate(sorted({b for (_, b), _ in pairs}))}
    ends = ([rows[a] for (a, _), _ in pairs], [columns[b] for (_, b), _ in pairs])
    size = len(rows) + len(columns)
    graph = sparse.coo_matrix((np.ones(len(pairs)), ends), shape=(size, size))
    _, group = sparse.csgraph.connected_components(graph, directed=False)
    together: dict[int, list[tuple[Pair, float]]] = {}
    for (a, b), iou in pairs:
        together.setdefault(int(group[rows[a]]), []).append(((a, b), iou))
    found: dict[int, int] = {}
    for members in together.values():
        if len(members) == 1:
            found.update([members[0][0]])
            continue
        ours = {a: i for i, a in enumerate(sorted({a for (a, _), _ in members}))}
        theirs = {b: j for j, b in enumerate(sorted({b for (_, b), _ in members}))}
        gain = np.zeros((len(ours), len(theirs)))
        for (a, b), iou in members:
            gain[ours[a], theirs[b]] = iou
        chosen = set(zip(*optimize.linear_sum_assignment(gain, maximize=True), strict=True))
        found.update(pair for pair, _ in members if (ours[pair[0]], theirs[pair[1]]) in chosen)
    return found

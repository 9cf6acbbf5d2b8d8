"""Compare the objects of one image with the truth, pixel by pixel, and name what went wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from maskloop.datasets.proofs import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from maskloop.core.dataset import Sample
    from maskloop.core.geometry import Box
    from maskloop.datasets.proofs import Findings

Region = npt.NDArray[np.bool_]
_SAME = 0.5  # overlap over union from which on two are one object
_REST = 0.1  # the same, where one lies inside the other
_INSIDE = 0.8  # share of an object inside another that makes it a part of it
_NEAR = 4  # pixels of a shift that is still told as one


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """One object, or one class, of an image.

    Parameters
    ----------
    name : str
        Its class; empty where the truth has no names.
    box, region
        Where it lies, and what it fills of that.
    where : str
        How a message names it.
    is_crowd : bool, optional
        None where that is not known.
    """

    name: str
    box: Box
    region: Region
    where: str
    is_crowd: bool | None = None

    @property
    def starts(self) -> tuple[int, ...]:
        """First index of the box along each axis."""
        return tuple(int(part.start) for part in self.box)

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.region))


def pieces_of(sample: Sample, *, has_names: bool = True) -> list[Piece]:
    """Return what a sample holds, an id a piece; classes are left out where they have no names."""
    from maskloop.datasets.base import class_of, regions

    return [
        Piece(
            class_of(one.label) if has_names else "",
            one.box,
            one.region,
            f"{sample.item.name}: object {one.label.id}",
            one.label.ignore,
        )
        for one in regions(sample)
    ]


def united(pieces: Iterable[Piece], where: str) -> list[Piece]:
    """Return one piece a class: all of its objects together."""
    groups: dict[str, list[Piece]] = defaultdict(list)
    for piece in pieces:
        groups[piece.name].append(piece)
    found = []
    for name, group in sorted(groups.items()):
        axes = range(len(group[0].box))
        low = [min(p.box[a].start for p in group) for a in axes]
        high = [max(p.box[a].stop for p in group) for a in axes]
        canvas = np.zeros([h - w for w, h in zip(low, high, strict=True)], bool)
        for piece in group:
            part = tuple(
                slice(s.start - w, s.stop - w) for s, w in zip(piece.box, low, strict=True)
            )
            canvas[part] |= piece.region
        box = tuple(slice(w, h) for w, h in zip(low, high, strict=True))
        found.append(Piece(name, box, canvas, f"{where}: class {name}"))
    return found


def compare(meant: Sequence[Piece], found: Sequence[Piece], findings: Findings) -> int:
    """Note how the pieces of one image differ from the truth's; return how many are the same."""
    left, rest = _without_twins(list(meant), list(found), findings)
    same = len(meant) - len(left)
    left, rest = _moved(left, rest, findings)
    left, rest = _overlapping(left, rest, findings)
    for piece in left:
        around = next((p for p in found if _shared(piece, p) >= _INSIDE * piece.area), None)
        got = "none" if around is None else f"it inside {around.where}: merged"
        words = f"expected this object ({_size(piece)}), got {got}"
        findings.add("T3", words, piece.where)
    for piece in rest:
        around = next((p for p in meant if _shared(piece, p) >= _INSIDE * piece.area), None)
        why = "" if around is None else f", a part of {around.where}: split"
        words = f"expected no further object, got one ({_size(piece)}){why}"
        findings.add("T4", words, piece.where)
    return same


def _size(piece: Piece) -> str:
    return f"{piece.area:,} pixel" + ("" if piece.area == 1 else "s")


def _print(region: Region) -> tuple[tuple[int, ...], bytes]:
    return region.shape, np.packbits(region).tobytes()


def _without_twins(
    meant: list[Piece], found: list[Piece], findings: Findings
) -> tuple[list[Piece], list[Piece]]:
    """Take out pairs that lie alike, telling those of another class; same classes pair first."""
    waiting: dict[object, list[Piece]] = defaultdict(list)
    for piece in found:
        waiting[(piece.starts, _print(piece.region))].append(piece)
    left = []
    for piece in meant:
        alike = waiting[(piece.starts, _print(piece.region))]
        if not alike:
            left.append(piece)
            continue
        twin = next((p for p in alike if not piece.name or p.name == piece.name), alike[0])
        alike.remove(twin)
        _check_names(piece, twin, findings)
    taken = Counter(id(p) for pieces in waiting.values() for p in pieces)
    return left, [p for p in found if taken[id(p)]]


def _check_names(piece: Piece, twin: Piece, findings: Findings) -> None:
    if piece.name and piece.name != twin.name:
        words = f"expected class {shown(piece.name)}, got {shown(twin.name)}"
        findings.add("T6", words, twin.where)
    if None not in (piece.is_crowd, twin.is_crowd) and piece.is_crowd != twin.is_crowd:
        words = f"expected iscrowd {int(bool(piece.is_crowd))}, got {int(bool(twin.is_crowd))}"
        findings.add("T7", words, twin.where)


def _moved(
    meant: list[Piece], found: list[Piece], findings: Findings
) -> tuple[list[Piece], list[Piece]]:
    """Take out pairs of one form, shifted by little or with the axes exchanged."""
    forms: dict[object, list[Piece]] = defaultdict(list)
    for piece in found:
        forms[_print(piece.region)].append(piece)
    left = []
    for piece in meant:
        alike = [p for p in forms[_print(piece.region)] if max(map(abs, _step(piece, p))) <= _NEAR]
        turned = (
            [
                p
                for p in forms[_print(np.ascontiguousarray(piece.region.T))]
                if p.starts == piece.starts[::-1]
            ]
            if piece.region.ndim == 2
            else []
        )
        if not alike and not turned:
            left.append(piece)
            continue
        if alike:
            twin = min(alike, key=lambda p: sum(map(abs, _step(piece, p))))
            step = ", ".join(f"{n:+d}" for n in _step(piece, twin))
            words = f"expected the pixels of {piece.where}, got them shifted by ({step})"
        else:
            twin = turned[0]
            words = f"expected the pixels of {piece.where}, got rows and columns exchanged"
        forms[_print(twin.region)].remove(twin)
        findings.add("T5", words, twin.where)
        _check_names(piece, twin, findings)
    kept = {id(p) for pieces in forms.values() for p in pieces}
    return left, [p for p in found if id(p) in kept]


def _step(one: Piece, other: Piece) -> tuple[int, ...]:
    return tuple(b - a for a, b in zip(one.starts, other.starts, strict=True))


def _shared(one: Piece, other: Piece) -> int:
    """Return how many pixels two pieces share."""
    ours, theirs = [], []
    for a, b in zip(one.box, other.box, strict=True):
        low, high = max(a.start, b.start), min(a.stop, b.stop)
        if low >= high:
            return 0
        ours.append(slice(low - a.start, high - a.start))
        theirs.append(slice(low - b.start, high - b.start))
    return int(np.count_nonzero(one.region[tuple(ours)] & other.region[tuple(theirs)]))


def _overlapping(
    meant: list[Piece], found: list[Piece], findings: Findings
) -> tuple[list[Piece], list[Piece]]:
    """Take out pairs that overlap most, telling in which pixels they differ."""
    pairs = []
    for i, piece in enumerate(meant):
        for j in _meeting(piece, found):
            shared = _shared(piece, found[j])
            pairs.append((shared / (piece.area + found[j].area - shared), i, j, shared))
    gone: set[int] = set()
    taken: set[int] = set()
    for overlap, i, j, shared in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
        # What lies inside an object is what remains of it.
        is_rest = overlap >= _REST and shared >= _INSIDE * found[j].area
        if not (overlap >= _SAME or is_rest) or i in gone or j in taken:
            continue
        gone.add(i)
        taken.add(j)
        piece, twin = meant[i], found[j]
        missing, extra = piece.area - shared, twin.area - shared
        words = f"expected the pixels of {piece.where}, got {missing} missing and {extra} added"
        findings.add("T5", words + _reason(piece, twin, missing, extra), twin.where)
        _check_names(piece, twin, findings)
    return (
        [piece for i, piece in enumerate(meant) if i not in gone],
        [piece for j, piece in enumerate(found) if j not in taken],
    )


def _meeting(piece: Piece, found: Sequence[Piece]) -> list[int]:
    """Return the numbers of those whose boxes meet a piece's."""
    return [
        j
        for j, other in enumerate(found)
        if all(
            a.start < b.stop and b.start < a.stop for a, b in zip(piece.box, other.box, strict=True)
        )
    ]


def _reason(piece: Piece, twin: Piece, missing: int, extra: int) -> str:
    """Return the mistake that explains how two differ, where one does."""
    from scipy import ndimage

    if not missing and piece.box == twin.box:
        filled = ndimage.binary_fill_holes(piece.region)
        if np.array_equal(filled, twin.region):
            return ": holes are filled"
    if not extra:
        parts, count = ndimage.label(piece.region, np.ones((3,) * piece.region.ndim))
        canvas = np.zeros_like(piece.region)
        part = tuple(
            slice(t.start - p.start, t.stop - p.start)
            for p, t in zip(piece.box, twin.box, strict=True)
        )
        canvas[part] = twin.region
        kept = np.unique(parts[canvas])
        if np.array_equal(np.isin(parts, kept), canvas) and len(kept) < count:
            return f": {count - len(kept)} of {count} parts are lost"
    return ""

"""What a model nearly drew: likely pieces below its decision, as a worklist."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of
from maskloop.core.errors import InputError
from maskloop.core.review import Candidate
from maskloop.ops import components, resample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.core.mask import Mask

Codes = npt.NDArray[np.uint8]
Region = npt.NDArray[np.bool_]

LOW = 0.1
"""Probability from which a voxel belongs to a candidate, where not told otherwise."""

TOP = 0.5
"""Kept probabilities end here: no class is left undrawn above it, by argmax or by threshold."""

MOST_CLASSES = 25  # in one byte: ten steps of probability are left to each


@dataclass(frozen=True, slots=True)
class Sieve:
    """Which pieces are worth a person's time.

    Parameters
    ----------
    low : float
        Probability from which a voxel belongs to a candidate; above 0, below 0.5.
    smallest_mm3 : float
        Pieces of less are counted, not listed; 14 mm3 is a ball of 3 mm.
    smallest_voxels : int
        The same in voxels: a single one is noise at any spacing.
    smallest_px : int
        The same for grids in pixels.
    most : int
        Longest list; what comes after it is counted.
    """

    low: float = LOW
    smallest_mm3: float = 14.0
    smallest_voxels: int = 2
    smallest_px: int = 20
    most: int = 200

    def __post_init__(self) -> None:
        if not 0 < self.low < TOP:
            msg = (
                f"expected a low threshold above 0 and below {TOP}, got {self.low!r}; "
                f"{LOW} is usual"
            )
            raise InputError(msg)

    @classmethod
    def of(cls, asked: bool | float | Sieve) -> Sieve | None:
        """Return the sieve asked for: True is the usual one, a number is its low threshold."""
        if isinstance(asked, Sieve):
            return asked
        if isinstance(asked, bool):
            return cls() if asked else None
        return cls(low=float(asked))

    def least(self, voxel_mm3: float | None) -> int:
        """Return the fewest voxels of a piece that is listed."""
        if voxel_mm3 is None:
            return self.smallest_px
        return max(self.smallest_voxels, math.ceil(self.smallest_mm3 / voxel_mm3 - 1e-6))


@dataclass(frozen=True, slots=True, eq=False)
class Chances:
    """How likely the likeliest thing is at each voxel, in one byte a voxel.

    Parameters
    ----------
    codes : uint8 array
        ``k * steps + q``: thing `k`, and its probability as ``q / (steps - 1) * TOP``, cut at
        `TOP`.
    ids : tuple of int
        Label id of each thing.
    """

    codes: Codes
    ids: tuple[int, ...]

    def on_shape(self, shape: Sequence[int]) -> Chances:
        """Return the chances on a grid of `shape` over the same box, interpolated linearly.

        Thing by thing and some planes at a time: no volume of floats exists.
        """
        if self.codes.shape == tuple(shape):
            return self
        if len(self.ids) == 1:
            return replace(self, codes=resample.linear(self.codes, shape))
        steps = steps_of(len(self.ids))
        codes = np.zeros(shape, np.uint8)
        best = np.zeros(shape, np.uint8)
        for k in range(len(self.ids)):
            own = np.where(self.codes // steps == k, self.codes % steps, 0)
            found = resample.linear(own.astype(np.uint8, copy=False), shape)
            higher = found > best
            codes[higher] = k * steps + found[higher]
            np.maximum(best, found, out=best)
        return replace(self, codes=codes)


@dataclass(frozen=True, slots=True)
class Worklist:
    """Candidates, the likeliest first, and how many were left out.

    Parameters
    ----------
    candidates : tuple of Candidate
        By peak probability, then mean; numbered from 1.
    small : int
        Pieces too small to list.
    more : int
        Pieces past the longest list.
    """

    candidates: tuple[Candidate, ...]
    small: int = 0
    more: int = 0

    def words(self, sieve: Sieve) -> str:
        """Return what was found in one sentence."""
        count = len(self.candidates)
        left = []
        if self.small:
            left.append(f"{self.small} smaller than {sieve.smallest_mm3:g} mm3 or a few voxels")
        if self.more:
            left.append(f"{self.more} less likely than the first {sieve.most}")
        rest = f" ({' and '.join(left)} left out)" if left else ""
        if not count:
            return (
                f"no candidates below the model's threshold{rest}: a model that is sure of what "
                "it misses lists nothing, look for missed objects yourself"
            )
        return f"{count} candidate{'' if count == 1 else 's'} below the model's threshold{rest}"


def steps_of(things: int) -> int:
    """Return how many steps of probability a byte leaves to each of so many things."""
    if not 1 <= things <= MOST_CLASSES:
        msg = (
            f"expected 1 to {MOST_CLASSES} classes to look for candidates of, got {things}; "
            "mark fewer labels as things on the card"
        )
        raise InputError(msg)
    return 255 // things


def encode(probabilities: npt.NDArray[Any]) -> Codes:
    """Return codes of probabilities ``(thing, *spatial)``; see `Chances`."""
    steps = steps_of(len(probabilities))
    codes = np.zeros(probabilities.shape[1:], np.uint8)
    best = np.zeros(codes.shape, np.float32)
    for k, chance in enumerate(probabilities):
        higher = chance > best
        share = np.minimum(chance[higher], TOP) / TOP
        codes[higher] = k * steps + np.rint(share * (steps - 1)).astype(np.uint8)
        np.maximum(best, chance, out=best)
    return codes


def worklist(mask: Mask, chances: Chances, sieve: Sieve | None = None) -> Worklist:
    """Return the pieces that are likely enough, and not drawn.

    A piece is a connected set (corners touch) of voxels whose chance of a thing is at least
    ``sieve.low``. Where it touches drawn voxels of that thing it is their rim, not a candidate;
    voxels drawn as another thing belong to that.

    Parameters
    ----------
    mask : Mask
        What the model drew, without a time axis.
    chances : Chances
        On the mask's grid.
    sieve : Sieve, optional
    """
    sieve = sieve or Sieve()
    in_mm = mask.geometry.unit == "mm" and mask.geometry.ndim == 3
    voxel_mm3 = mask.geometry.voxel_size if in_mm else None
    least = sieve.least(voxel_mm3)
    found: list[_Piece] = []
    small = 0
    for k in range(len(chances.ids)):
        pieces, ignored = _pieces_of(mask, chances, k, sieve.low, least)
        found += pieces
        small += ignored
    found.sort(key=lambda piece: (-piece.peak, -piece.mean))
    names = mask.labels.names
    listed = [
        Candidate.of(
            piece.region,
            number=number,
            label=piece.label,
            name=names.get(piece.label, f"label {piece.label}"),
            start=piece.start,
            peak=piece.peak,
            mean=piece.mean,
            voxel_mm3=voxel_mm3,
        )
        for number, piece in enumerate(found[: sieve.most], start=1)
    ]
    return Worklist(tuple(listed), small, max(0, len(found) - sieve.most))


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    label: int
    region: Region
    start: tuple[int, ...]
    peak: float
    mean: float


def _pieces_of(
    mask: Mask, chances: Chances, k: int, low: float, least: int
) -> tuple[list[_Piece], int]:
    """Return the pieces of one thing that are large enough, and how many are not."""
    steps, label = steps_of(len(chances.ids)), chances.ids[k]
    first = max(1, math.ceil(low / TOP * (steps - 1) - 0.5))
    inside = chances.codes >= k * steps + first
    if k + 1 < len(chances.ids):
        inside &= chances.codes < (k + 1) * steps
    # One voxel more, so that a drawn neighbour is seen.
    box = box_of(inside.view(np.uint8), 1, margin=1)
    if box is None:
        return [], 0
    ids, codes, inside = mask.data[box], chances.codes[box], inside[box]
    drawn = ids == label
    for other in chances.ids:
        if other != label:
            inside &= ids != other
    pieces, count = components.label(inside | drawn)
    is_rim = np.zeros(count + 1, dtype=bool)
    is_rim[0] = True
    is_rim[pieces[drawn]] = True
    sizes = components.sizes(pieces, count)
    listed = np.flatnonzero(~is_rim & (sizes >= least))
    small = int((~is_rim).sum()) - len(listed)
    offset = [part.start for part in box]
    boxes = components.boxes(pieces) if len(listed) else {}
    found = []
    for number in listed.tolist():
        region = pieces[boxes[number]] == number
        shares = (codes[boxes[number]][region] % steps).astype(np.float64) * (TOP / (steps - 1))
        start = tuple(p.start + o for p, o in zip(boxes[number], offset, strict=True))
        found.append(_Piece(label, region, start, float(shares.max()), float(shares.mean())))
    return found, small

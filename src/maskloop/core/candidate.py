"""A piece of a class that a model held likely, but less than it needs to draw it."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from maskloop.core.geometry import Box

Ids = npt.NDArray[Any]  # Any: labels come in every integer width
Region = npt.NDArray[np.bool_]
Decision = Literal["open", "accepted", "dismissed"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A piece of a class that the model held likely, but less than it needs to draw it.

    Parameters
    ----------
    number : int
        From 1, the likeliest first; stays the piece's name within a case.
    label : int
        Id of the class it would be.
    name : str
        Name of that class.
    box : tuple of slice
        Tight box of the piece, one slice an array axis.
    packed : bytes
        Deflated bits of the piece within its box; see `region`.
    peak, mean : float
        Highest and mean probability in the piece, 0 to 1.
    voxels : int
        Size of the piece.
    volume_mm3 : float, optional
        Its volume; None where the grid is in pixels or flat.
    centre : tuple of int
        Index of the piece's voxel nearest its centre, to jump to.
    status : {"open", "accepted", "dismissed"}
    who : str
        Who decided; empty while open.
    time : float
        When, in seconds since 1970 (UTC); 0 while open.
    """

    number: int
    label: int
    name: str
    box: Box
    packed: bytes
    peak: float
    mean: float
    voxels: int
    volume_mm3: float | None
    centre: tuple[int, ...]
    status: Decision = "open"
    who: str = ""
    time: float = 0.0

    @classmethod
    def of(
        cls,
        region: Region,
        *,
        number: int,
        label: int,
        name: str,
        start: Sequence[int],
        peak: float,
        mean: float,
        voxel_mm3: float | None,
    ) -> Candidate:
        """Return the candidate of a region cut to its box, which begins at index `start`."""
        at = np.argwhere(region)
        nearest = at[np.square(at - at.mean(axis=0)).sum(axis=1).argmin()]
        return cls(
            number=number,
            label=label,
            name=name,
            box=tuple(slice(int(s), int(s) + n) for s, n in zip(start, region.shape, strict=True)),
            packed=zlib.compress(np.packbits(region).tobytes(), 6),
            peak=peak,
            mean=mean,
            voxels=len(at),
            volume_mm3=None if voxel_mm3 is None else len(at) * voxel_mm3,
            centre=tuple(int(a + s) for a, s in zip(nearest, start, strict=True)),
        )

    @property
    def region(self) -> Region:
        """The piece, a bool array of the box's shape."""
        shape = tuple(part.stop - part.start for part in self.box)
        bits = np.frombuffer(zlib.decompress(self.packed), np.uint8)
        return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).view(np.bool_)

    def wanted(self, before: Ids) -> Ids:
        """Return the box's ids with the piece drawn: what `Case.change` takes to accept it.

        Parameters
        ----------
        before : array of unsigned int
            Ids in `box`; not changed.
        """
        dtype = np.promote_types(before.dtype, np.min_scalar_type(self.label))
        drawn = before.astype(dtype)
        drawn[self.region] = self.label
        return drawn

    def overlaps(self, other: Candidate) -> bool:
        """Return whether two candidates of one class share half of the smaller one, or more."""
        if self.label != other.label:
            return False
        both = tuple(
            slice(max(a.start, b.start), min(a.stop, b.stop))
            for a, b in zip(self.box, other.box, strict=True)
        )
        if any(part.start >= part.stop for part in both):
            return False
        shared = np.logical_and(self._within(both), other._within(both))
        return 2 * int(shared.sum()) >= min(self.voxels, other.voxels)

    def _within(self, box: Box) -> Region:
        inner = zip(box, self.box, strict=True)
        return self.region[tuple(slice(a.start - b.start, a.stop - b.start) for a, b in inner)]

    def to_json(self) -> dict[str, Any]:  # Any: plain JSON values
        """Return JSON-ready values; the region as base64 of its deflated bits."""
        return {
            "number": self.number,
            "label": self.label,
            "name": self.name,
            "peak": round(self.peak, 4),
            "mean": round(self.mean, 4),
            "voxels": self.voxels,
            "volume_mm3": None if self.volume_mm3 is None else round(self.volume_mm3, 3),
            "centre": list(self.centre),
            "box": [[part.start, part.stop] for part in self.box],
            "status": self.status,
            "who": self.who,
            "time": self.time,
            "region": base64.b64encode(self.packed).decode("ascii"),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Candidate:  # Any: plain JSON values
        """Rebuild a candidate from `to_json`."""
        kept = {k: v for k, v in found.items() if k in cls.__slots__}
        kept["box"] = tuple(slice(int(a), int(b)) for a, b in found["box"])
        kept["centre"] = tuple(int(n) for n in found["centre"])
        kept["packed"] = base64.b64decode(found["region"])
        candidate = cls(**kept)
        try:
            _ = candidate.region  # a region that does not unpack must be told at opening
        except zlib.error as error:
            msg = f"the region of candidate {candidate.number} does not unpack ({error})"
            raise ValueError(msg) from error
        return candidate

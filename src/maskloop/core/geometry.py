"""Where an array lies in the world: one shape, one affine, one unit.

Array axes are (z, y, x) or (y, x). World axes are (x, y, z), RAS+ (right, anterior, superior
positive), in mm; photographs are (x, y) in pixels. Nothing else in maskloop touches an affine.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import GeometryError

if TYPE_CHECKING:
    from collections.abc import Sequence

Unit = Literal["mm", "px"]
Box = tuple[slice, ...]
Affine = npt.NDArray[np.float64]

_CODES = (("L", "R"), ("P", "A"), ("I", "S"))
_TOLERANCE = 0.01  # of a voxel, at the worst corner


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """A regular grid in space.

    Parameters
    ----------
    shape : tuple of int
        Voxels along each array axis, ``(z, y, x)`` or ``(y, x)``; each at least 1.
    affine : array of shape (n + 1, n + 1)
        Homogeneous map from array index (in array-axis order) to world point ``(x, y, z)`` or
        ``(x, y)``. Voxel *centres* lie at integer indices. Stored read-only, as float64.
    unit : {"mm", "px"}
        Unit of the world axes.

    Raises
    ------
    GeometryError
        If the affine has the wrong size, is not finite, or cannot be inverted.
    """

    shape: tuple[int, ...]
    affine: Affine
    unit: Unit = "mm"

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        affine = np.array(self.affine, dtype=np.float64)
        ndim = len(shape)
        if ndim not in (2, 3) or any(n < 1 for n in shape):
            msg = (
                f"expected 2 or 3 axes of at least 1 voxel, got shape {shape}; "
                f"choose one frame or channel first"
            )
            raise GeometryError(msg)
        if affine.shape != (ndim + 1, ndim + 1):
            msg = (
                f"expected an affine of shape {(ndim + 1, ndim + 1)} for shape {shape}, "
                f"got {affine.shape}; rebuild it"
            )
            raise GeometryError(msg)
        if not np.isfinite(affine).all():
            msg = f"expected a finite affine, got {affine.tolist()!r}; repair the file's header"
            raise GeometryError(msg)
        with np.errstate(over="ignore"):
            steps = np.linalg.norm(affine[:-1, :-1], axis=0)
        is_usable = bool((steps > 0).all() and np.isfinite(steps).all())
        if not is_usable or abs(np.linalg.det(affine[:-1, :-1] / steps)) < 1e-6:
            msg = (
                f"expected an affine that can be inverted, got {affine.tolist()!r}; "
                f"repair the file's header"
            )
            raise GeometryError(msg)
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @classmethod
    def pixels(cls, shape: Sequence[int]) -> Geometry:
        """Return the grid of a photograph: index ``(y, x)`` is point ``(x, y)``, in pixels."""
        affine = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        return cls(tuple(shape), affine, "px")

    @classmethod
    def regular(
        cls,
        shape: Sequence[int],
        spacing: Sequence[float],
        origin: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> Geometry:
        """Return an axis-aligned grid whose (z, y, x) axes run to S, A and R.

        Parameters
        ----------
        shape : sequence of int
            ``(z, y, x)``.
        spacing : sequence of float
            Step in mm along ``(z, y, x)``.
        origin : sequence of float
            World point ``(x, y, z)`` of voxel (0, 0, 0), in mm.
        """
        affine = np.zeros((4, 4))
        affine[[2, 1, 0], [0, 1, 2]] = spacing
        affine[:3, 3] = origin
        affine[3, 3] = 1
        return cls(tuple(shape), affine, "mm")

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.shape)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Step along each array axis, in `unit`."""
        return tuple(float(n) for n in np.linalg.norm(self.affine[:-1, :-1], axis=0))

    @property
    def voxel_size(self) -> float:
        """Volume (3D, mm3) or area (2D) of one voxel; true for sheared grids too."""
        # Not `det`: its elimination rounds even where the axes are at right angles.
        steps = self.affine[:-1, :-1].T.tolist()
        if self.ndim == 2:
            (a, b), (c, d) = steps
            return float(abs(a * d - b * c))
        (a, b, c), (d, e, f), (g, h, i) = steps
        return float(abs(a * (e * i - f * h) + b * (f * g - d * i) + c * (d * h - e * g)))

    @property
    def axis_order(self) -> tuple[int, ...]:
        """World axis (0 = x, 1 = y, 2 = z) that each array axis follows most closely, each once."""
        cosines = np.abs(self.affine[:-1, :-1] / np.array(self.spacing))
        # The assignment with the largest product of cosines is right for every rotation and shear;
        # a greedy choice per axis picks one world axis twice near 45 degrees.
        best = max(
            itertools.permutations(range(self.ndim)),
            key=lambda order: sum(np.log(cosines[w, a] + 1e-12) for a, w in enumerate(order)),
        )
        return tuple(best)

    @property
    def orientation(self) -> str:
        """Letters of the directions in which the array axes increase, such as ``"SAR"``.

        Photographs give an empty string: they have no patient axes.
        """
        if self.ndim != 3:
            return ""
        return "".join(
            _CODES[world][int(self.affine[world, axis] > 0)]
            for axis, world in enumerate(self.axis_order)
        )

    def to_world(self, index: npt.ArrayLike) -> Affine:
        """Return world points ``(..., x y z)`` of array indices ``(..., z y x)``, whole or not."""
        found = np.asarray(index, dtype=np.float64)
        points: Affine = found @ self.affine[:-1, :-1].T + self.affine[:-1, -1]
        return points

    def to_index(self, point: npt.ArrayLike) -> Affine:
        """Return fractional array indices ``(..., z y x)`` of world points ``(..., x y z)``."""
        inverse = np.linalg.inv(self.affine)
        found = np.asarray(point, dtype=np.float64)
        index: Affine = found @ inverse[:-1, :-1].T + inverse[:-1, -1]
        return index

    def corners(self) -> Affine:
        """Return the world points of the centres of the corner voxels, ``(2**n, n)``."""
        ends = [(0, n - 1) for n in self.shape]
        return self.to_world(list(itertools.product(*ends)))

    def transposed(self, axes: Sequence[int], flips: Sequence[bool] | None = None) -> Geometry:
        """Return the grid of ``array.transpose(axes)``, then reversed where `flips` is true.

        Parameters
        ----------
        axes : sequence of int
            Source axis of each new axis, as in `numpy.transpose`.
        flips : sequence of bool, optional
            Whether each *new* axis is reversed afterwards.
        """
        axes = tuple(axes)
        shape = tuple(self.shape[a] for a in axes)
        affine = self.affine.copy()
        affine[:, : self.ndim] = self.affine[:, list(axes)]
        for axis, flip in enumerate(flips or ()):
            if flip:
                affine[:, -1] += affine[:, axis] * (shape[axis] - 1)
                affine[:, axis] *= -1
        return Geometry(shape, affine, self.unit)

    def towards(self, orientation: str) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Return the ``(axes, flips)`` for `transposed` that come closest to `orientation`.

        Parameters
        ----------
        orientation : str
            Three letters, one a new array axis, such as ``"SAR"``.
        """
        worlds = [
            next(i for i, pair in enumerate(_CODES) if letter in pair)
            for letter in orientation.upper()
        ]
        order = self.axis_order
        axes = tuple(order.index(world) for world in worlds)
        flips = tuple(
            self.orientation[a] != letter
            for a, letter in zip(axes, orientation.upper(), strict=True)
        )
        return axes, flips

    def cropped(self, box: Box) -> Geometry:
        """Return the grid of ``array[box]``; slices must have step 1 and not be empty."""
        starts, shape = [], []
        for part, length in zip(box, self.shape, strict=True):
            start, stop, step = part.indices(length)
            if step != 1 or stop <= start:
                msg = (
                    f"expected slices of step 1 inside shape {self.shape}, got {box!r}; "
                    f"choose a box that holds voxels"
                )
                raise GeometryError(msg)
            starts.append(start)
            shape.append(stop - start)
        affine = self.affine.copy()
        affine[:-1, -1] = self.to_world(starts)
        return Geometry(tuple(shape), affine, self.unit)

    def padded(self, before: Sequence[int], after: Sequence[int]) -> Geometry:
        """Return the grid with voxels added (removed, where negative) at the ends of each axis."""
        shape = tuple(n + b + a for n, b, a in zip(self.shape, before, after, strict=True))
        affine = self.affine.copy()
        affine[:-1, -1] = self.to_world([-b for b in before])
        return Geometry(shape, affine, self.unit)

    def resampled(self, spacing: Sequence[float], shape: Sequence[int] | None = None) -> Geometry:
        """Return a grid of the given spacing over the same box: outermost voxel *edges* coincide.

        The shape is rounded up to whole voxels (or given), and the spacing then adjusted so that
        the extent along each axis is kept exactly.

        Parameters
        ----------
        spacing : sequence of float
            Wanted step along each array axis, > 0, in `unit`.
        shape : sequence of int, optional
            Wanted shape; overrides what `spacing` asks for.
        """
        if any(not step > 0 for step in spacing):
            msg = (
                f"expected spacings above 0, got {tuple(spacing)!r}; "
                f"give the step in {self.unit} along each axis"
            )
            raise GeometryError(msg)
        if shape is None:
            shape = [
                max(1, round(n * s / t))
                for n, s, t in zip(self.shape, self.spacing, spacing, strict=True)
            ]
        ratio = np.array(self.shape) / np.array(shape)
        affine = self.affine.copy()
        affine[:-1, :-1] = self.affine[:-1, :-1] * ratio
        affine[:-1, -1] = self.to_world((ratio - 1) / 2)
        return Geometry(tuple(shape), affine, self.unit)

    def matches(self, other: Geometry) -> bool:
        """Whether `other` is the same grid, to 1 % of a voxel at the worst corner."""
        if self.shape != other.shape or self.unit != other.unit:
            return False
        return self._worst_corner(other)[0] <= _TOLERANCE * min(self.spacing)

    def difference(self, other: Geometry) -> str:
        """Return in words how `other` differs, for a message; empty if it `matches`."""
        if self.shape != other.shape:
            return f"shape {other.shape} is not {self.shape}"
        if self.unit != other.unit:
            return f"unit {other.unit} is not {self.unit}"
        distance, corner = self._worst_corner(other)
        if distance <= _TOLERANCE * min(self.spacing):
            return ""
        return f"the corner voxel at index {corner} lies {distance:.3g} {self.unit} away"

    def _worst_corner(self, other: Geometry) -> tuple[float, tuple[int, ...]]:
        gaps = np.linalg.norm(self.corners() - other.corners(), axis=1)
        worst = int(gaps.argmax())
        ends = list(itertools.product(*[(0, n - 1) for n in self.shape]))
        return float(gaps[worst]), ends[worst]

"""Random changes to crops that keep their labels true, in torch, for 2D and 3D.

Turning, scaling and bending are one resampling: images linear, ids nearest. Mirrors are only those
the family allows: a mirrored abdomen has its liver on the wrong side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
import torch.nn.functional as F

from maskloop.training.patches import IGNORE, Patches

if TYPE_CHECKING:
    from collections.abc import Sequence

KINDS: Final = frozenset(
    {
        "mirror_x",
        "mirror_y",
        "mirror_z",
        "rotate",
        "scale",
        "elastic",
        "elastic_grid",
        "gamma",
        "noise",
        "blur",
    }
)
_MIRRORS = ("mirror_x", "mirror_y", "mirror_z")  # from the last axis backwards
_REACH = 1.25
_GRID = 3  # nodes along an axis of the elastic deformation of the U-Net
_GRID_SIGMA = 10.0  # its standard deviation, in pixels


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What may happen to a crop.

    Parameters
    ----------
    allowed : frozenset of str
        Among `KINDS`. ``elastic`` bends one crop in five, by a share of its size; ``elastic_grid``
        every crop, by the pixels of the U-Net's paper: for crops of 180 pixels and more.
    spacing : tuple of float, optional
        Step along each axis of the network's grid: turning is done in millimetres, so that a ball
        stays a ball. Equal steps where None.
    """

    allowed: frozenset[str]
    spacing: tuple[float, ...] | None = None

    @property
    def bends(self) -> bool:
        """Whether crops are resampled, and so wanted larger than the patch."""
        return bool(self.allowed & {"rotate", "scale", "elastic", "elastic_grid"})

    def reach(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the size to cut out so that most turned crops find their corners."""
        return tuple(math.ceil(n * _REACH) if self.bends else n for n in shape)

    def __call__(self, patches: Patches, shape: Sequence[int], rng: np.random.Generator) -> Patches:
        """Return new crops of `shape` (the middle of `patches`); `rng` decides everything.

        Voxels that fall outside what was cut out become `IGNORE`.
        """
        images, ids = [], []
        for image, cut in zip(patches.images, patches.ids, strict=True):
            moved, labels = self._place(image, cut, tuple(shape), rng)
            moved, labels = self._mirror(moved, labels, rng)
            images.append(self._shade(moved, rng))
            ids.append(labels)
        return Patches(torch.stack(images), torch.stack(ids), patches.categories)

    def _place(
        self,
        image: torch.Tensor,
        ids: torch.Tensor,
        shape: tuple[int, ...],
        rng: np.random.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ndim = len(shape)
        turn = "rotate" in self.allowed and rng.random() < 0.4
        grow = "scale" in self.allowed and rng.random() < 0.4
        bend = "elastic" in self.allowed and rng.random() < 0.2
        bend_grid = "elastic_grid" in self.allowed
        if not (turn or grow or bend or bend_grid):
            start = [(have - want) // 2 for have, want in zip(ids.shape, shape, strict=True)]
            box = tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))
            return image[(slice(None), *box)].clone(), ids[box].clone()
        steps = np.array(self.spacing or (1.0,) * ndim)
        matrix = np.eye(ndim)
        if turn:
            matrix = matrix @ _rotation(ndim, rng, free=set(_MIRRORS[:2]) <= self.allowed)
        if grow:
            matrix = matrix * np.exp(rng.uniform(np.log(0.75), np.log(1.35)))
        # index -> mm, turn, mm -> index
        matrix = np.diag(1 / steps) @ matrix @ np.diag(steps)
        where = _positions(shape, matrix)
        if bend:
            where = where + _bumps(shape, steps, rng)
        if bend_grid:
            where = where + _grid_bumps(shape, steps, rng)
        return _sample(image, ids, where)

    def _mirror(
        self, image: torch.Tensor, ids: torch.Tensor, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        axes = [
            -1 - number
            for number, name in enumerate(_MIRRORS[: ids.ndim])
            if name in self.allowed and rng.random() < 0.5
        ]
        return (image.flip(axes), ids.flip(axes)) if axes else (image, ids)

    def _shade(self, image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        if "gamma" in self.allowed and rng.random() < 0.3:
            low, high = image.min(), image.max()
            span = (high - low).clamp_min(1e-6)
            image = ((image - low) / span) ** float(np.exp(rng.uniform(-0.35, 0.35))) * span + low
        if "blur" in self.allowed and rng.random() < 0.15:
            image = _blurred(image, float(rng.uniform(0.4, 0.9)))
        if "noise" in self.allowed and rng.random() < 0.3:
            generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
            noise = torch.randn(image.shape, generator=generator)
            image = image + noise * float(rng.uniform(0, 0.1)) * image.std()
        return image


def _rotation(
    ndim: int, rng: np.random.Generator, *, free: bool
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return a turn in the plane of the last two axes (any angle if `free`), and a tilt in 3D."""
    angle = np.deg2rad(rng.uniform(-180, 180) if free else rng.uniform(-25, 25))
    matrix = np.eye(ndim)
    c, s = np.cos(angle), np.sin(angle)
    matrix[-2:, -2:] = [[c, -s], [s, c]]
    if ndim == 3:
        for axis in (1, 2):
            tilt = np.deg2rad(rng.uniform(-15, 15))
            turn = np.eye(3)
            turn[0, 0] = turn[axis, axis] = np.cos(tilt)
            turn[0, axis], turn[axis, 0] = -np.sin(tilt), np.sin(tilt)
            matrix = matrix @ turn
    return matrix


def _positions(
    shape: tuple[int, ...], matrix: np.ndarray[tuple[int, int], np.dtype[np.float64]]
) -> torch.Tensor:
    """Return each new voxel's offset, in voxels, from the middle of the old crop."""
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    return grid @ torch.from_numpy(matrix).float().T


def _bumps(
    shape: tuple[int, ...],
    steps: np.ndarray[tuple[int], np.dtype[np.float64]],
    rng: np.random.Generator,
) -> torch.Tensor:
    """Return smooth random shifts in voxels: a coarse grid of offsets, enlarged."""
    ndim = len(shape)
    extent = float(min(n * s for n, s in zip(shape, steps, strict=True)))
    reach = rng.uniform(0.01, 0.04) * extent
    coarse = rng.normal(0, reach, (1, ndim, *(4,) * ndim)) / steps.reshape(1, ndim, *(1,) * ndim)
    mode = "trilinear" if ndim == 3 else "bilinear"
    fine = F.interpolate(torch.from_numpy(coarse).float(), shape, mode=mode, align_corners=True)
    return fine[0].movedim(0, -1)


def _grid_bumps(
    shape: tuple[int, ...],
    steps: np.ndarray[tuple[int], np.dtype[np.float64]],
    rng: np.random.Generator,
) -> torch.Tensor:
    """Return the shifts of the U-Net's paper, in voxels ``(*shape, ndim)``.

    Normal at the nodes of a 3 x 3 grid (3 x 3 x 3 in a volume) with a deviation of 10 pixels of the
    finest axis, bicubic between them (O. Ronneberger et al., MICCAI 2015, section 3.1).
    """
    ndim = len(shape)
    nodes = rng.normal(0, _GRID_SIGMA * steps.min(), (*(_GRID,) * ndim, ndim)) / steps
    found = torch.from_numpy(nodes).float()
    for axis, n in enumerate(shape):
        # The rows of one: how much of each node reaches each voxel along the axis.
        share = F.interpolate(
            torch.eye(_GRID)[None, None], (n, _GRID), mode="bicubic", align_corners=True
        )[0, 0]
        found = torch.tensordot(share, found.movedim(axis, 0), dims=1).movedim(0, axis)
    return found


def _sample(
    image: torch.Tensor, ids: torch.Tensor, where: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    halves = torch.tensor([n / 2 for n in ids.shape], dtype=torch.float32)
    grid = (where / halves).flip(-1)[None]
    moved = F.grid_sample(
        image[None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )[0]
    # float32 holds ids up to 2**24 exactly, and nearest picks one and mixes none.
    labels = F.grid_sample(
        ids[None, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False
    )[0, 0].round()
    outside = (grid[0].abs() > 1).any(dim=-1)
    return moved, labels.long().masked_fill(outside, IGNORE)


def _blurred(image: torch.Tensor, sigma: float) -> torch.Tensor:
    ticks = torch.arange(-2, 3, dtype=torch.float32)
    kernel = torch.exp(-(ticks**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    for axis in range(1, image.ndim):
        line = image.movedim(axis, -1)
        if line.shape[-1] < 3:
            continue
        flat = F.pad(line.reshape(-1, 1, line.shape[-1]), (2, 2), mode="replicate")
        image = F.conv1d(flat, kernel[None, None]).reshape(line.shape).movedim(-1, axis)
    return image.contiguous()

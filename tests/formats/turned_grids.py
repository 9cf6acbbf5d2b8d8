"""Grids turned every way, for tests of volume formats: permuted, mirrored, oblique."""

from __future__ import annotations

import itertools

import numpy as np

from maskloop.core.geometry import Geometry
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask

LPS = np.diag([-1.0, -1.0, 1.0])
# The 48 ways in which three axes can run along three others.
AXES = [
    np.eye(3)[list(order)] * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
SHAPE = (5, 6, 7)  # fastest first, as in the file
ORIGIN = np.array((-120.5, 33.25, 410.0))


def turn(a: float, b: float, c: float) -> np.ndarray:
    """Return a rotation about all three axes: equal to its transpose for no two of them."""
    found = np.eye(3)
    for axis, angle in enumerate(np.deg2rad((a, b, c))):
        one = np.eye(3)
        i, j = [n for n in range(3) if n != axis]
        one[i, i] = one[j, j] = np.cos(angle)
        one[i, j], one[j, i] = -np.sin(angle), np.sin(angle)
        found = found @ one
    return found


OBLIQUE = turn(12, 25, 50) @ np.diag((0.7, 0.8, 3.0))


def grid_of(steps: np.ndarray, shape: tuple[int, ...] = SHAPE) -> Geometry:
    """Return the grid of LPS steps given by columns, fastest first."""
    affine = np.eye(4)
    affine[:3, :3] = (LPS @ steps)[:, ::-1]
    affine[:3, 3] = LPS @ ORIGIN
    return Geometry(shape[::-1], affine, "mm")


def labelled(grid: Geometry) -> Mask:
    """Return a mask of three classes, scattered over a grid."""
    ids = np.random.default_rng(0).integers(0, 4, grid.shape).astype(np.uint8)
    return Mask(ids, grid, LabelTable.classes({1: "liver", 2: "tumour", 3: "cyst"}))

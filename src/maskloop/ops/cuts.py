"""Globally optimal two-way cuts and random walks on small grids, by numpy alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

Field = npt.NDArray[np.float32]


def edge_weights(
    pixels: npt.NDArray[Any], spacing: Sequence[float], *, contrast: float, floor: float = 0.02
) -> list[Field]:
    """Return, for each axis, how strongly each voxel holds to the next: 1 where they are alike.

    Parameters
    ----------
    pixels : array
        Intensities, any real type.
    spacing : sequence of float
        Step along each axis.
    contrast : float
        Difference of intensity at which the tie falls to exp(-1).
    floor : float
        Weakest tie.

    Returns
    -------
    list of array of float32
        One array an axis, one voxel shorter along it; scaled by the steps so that a surface costs
        the same in every direction.
    """
    steps = np.asarray(spacing, dtype=np.float64)
    found = []
    for axis, step in enumerate(steps):
        difference = np.diff(pixels.astype(np.float32, copy=False), axis=axis)
        tie = np.exp(-np.square(difference / np.float32(max(contrast, 1e-6))))
        area = float(steps.min() / step)
        found.append((np.float32(area) * np.maximum(tie, np.float32(floor))).astype(np.float32))
    return found


def minimum_cut(
    cost: Field, ties: Sequence[Field], *, start: Field | None = None, rounds: int = 80
) -> Field:
    """Return the share of each voxel, 0 to 1, in the region of least total cost.

    The region ``u > 0.5`` minimises the sum of `cost` inside it plus the ties that its surface
    cuts: the minimum cut of a grid graph with face neighbours, reached by a primal-dual iteration
    on the convex relaxation instead of a discrete maximum flow, whose time on a grid of this size
    is far longer in SciPy.

    Parameters
    ----------
    cost : array of float32
        What it costs to count a voxel in rather than out; below 0 where it belongs in.
    ties : sequence of array
        As from `edge_weights`, times the weight of the surface.
    start : array, optional
        Where to start, 0 to 1.
    rounds : int
        Number of iterations.

    References
    ----------
    .. [1] A. Chambolle, T. Pock, "A First-Order Primal-Dual Algorithm for Convex Problems with
       Applications to Imaging", J. Math. Imaging Vis. 40, 2011, algorithm 1.
    .. [2] T. Chan, S. Esedoglu, M. Nikolova, "Algorithms for Finding Global Minimizers of Image
       Segmentation and Denoising Models", SIAM J. Appl. Math. 66, 2006, theorem 2.
    """
    step = np.float32(1 / np.sqrt(4 * cost.ndim))  # sigma * tau * |gradient|^2 = 1
    share = (cost < 0).astype(np.float32) if start is None else start.astype(np.float32)
    ahead, pull = share.copy(), -step * cost
    # Flows are kept `step` times too large, so that no round multiplies whole arrays by it.
    square = np.float32(step * step)
    most = [step * tie for tie in ties]
    least = [-tie for tie in most]
    flows = [np.zeros_like(tie) for tie in ties]
    rooms = [np.empty_like(tie) for tie in ties]  # no round makes an array of its own
    befores, afters = _shifted(cost.ndim)
    following = np.empty_like(share)
    for _ in range(rounds):
        np.add(share, pull, out=following)
        for axis, (flow, room) in enumerate(zip(flows, rooms, strict=True)):
            before, after = befores[axis], afters[axis]
            np.subtract(ahead[after], ahead[before], out=room)
            room *= square
            flow += room
            np.minimum(flow, most[axis], out=flow)
            np.maximum(flow, least[axis], out=flow)
            following[before] += flow
            following[after] -= flow
        np.maximum(following, 0, out=following)
        np.minimum(following, 1, out=following)
        np.multiply(following, 2, out=ahead)
        ahead -= share
        share, following = following, share
    return share


def _shifted(ndim: int) -> tuple[list[tuple[slice, ...]], list[tuple[slice, ...]]]:
    """Return, an axis each, the slices of all voxels but the last, and of all but the first."""
    every = slice(None)
    befores = [tuple(slice(0, -1) if a == b else every for b in range(ndim)) for a in range(ndim)]
    afters = [tuple(slice(1, None) if a == b else every for b in range(ndim)) for a in range(ndim)]
    return befores, afters

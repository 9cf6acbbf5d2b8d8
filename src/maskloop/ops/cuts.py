"""Globally optimal two-way cuts and random walks on small grids, by numpy alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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


def random_walk(
    pixels: npt.NDArray[Any],
    spacing: Sequence[float],
    shares: Field,
    unknown: npt.NDArray[np.bool_],
    *,
    contrast: float,
    floor: float = 1e-4,
    tolerance: float = 1e-3,
    rounds: int = 200,
) -> Field:
    """Return, for unknown voxels, the chance that a walk from there meets a share of 1 first.

    A walk goes to a face neighbour, the sooner the more alike it is and the nearer.

    Parameters
    ----------
    pixels : array
        Intensities, any real type.
    spacing : sequence of float
        Step along each axis.
    shares : array of float32
        0 or 1 (or between) at known voxels, where walks end; a first guess at unknown ones.
    unknown : array of bool
        Where to answer; only these voxels cost time. Pieces of it that touch no known voxel keep
        their guess.
    contrast, floor : float
        As for `edge_weights`.
    tolerance : float
        Relative residual at which the iteration stops.
    rounds : int
        Most iterations.

    Returns
    -------
    array of float32
        `shares`, answered where unknown.

    References
    ----------
    .. [1] L. Grady, "Random Walks for Image Segmentation", IEEE TPAMI 28, 2006, sections III-A
       and III-B: the Dirichlet problem on the image's graph, here by conjugate gradients.
    """
    from scipy import sparse
    from scipy.sparse.linalg import LinearOperator, cg

    found = shares.astype(np.float32)
    nodes = np.flatnonzero(unknown)
    if nodes.size == 0:
        return found
    number = np.full(unknown.size, -1, dtype=np.int32)
    number[nodes] = np.arange(nodes.size, dtype=np.int32)
    values, known = pixels.ravel(), found.ravel()
    degree, right = np.zeros(nodes.size), np.zeros(nodes.size)
    pairs = []
    for one, other, step in _edges(unknown, spacing):
        difference = values[one].astype(np.float32) - values[other].astype(np.float32)
        tie = np.maximum(np.exp(-np.square(difference / max(contrast, 1e-6))), floor) / step**2
        a, b = number[one], number[other]
        for here, there, far in ((a, b, other), (b, a, one)):
            is_own, is_end = here >= 0, (here >= 0) & (there < 0)
            degree += np.bincount(here[is_own], tie[is_own], nodes.size)
            right += np.bincount(here[is_end], (tie * known[far])[is_end], nodes.size)
        inner = (a >= 0) & (b >= 0)
        pairs.append((a[inner], b[inner], tie[inner]))
    rows, columns, ties = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    every = np.arange(nodes.size, dtype=np.int32)
    degree = np.maximum(degree, 1e-12)
    system = sparse.csr_matrix(
        (
            np.concatenate((-ties, -ties, degree)),
            (np.concatenate((rows, columns, every)), np.concatenate((columns, rows, every))),
        ),
        shape=(nodes.size, nodes.size),
    )
    thinner = 1 / degree
    scale = LinearOperator(system.shape, matvec=lambda v: v * thinner)
    guess = known[nodes].astype(np.float64)
    answer, _ = cg(system, right, x0=guess, rtol=tolerance, maxiter=rounds, M=scale)
    found.ravel()[nodes] = np.clip(answer, 0, 1)
    return found


def _edges(
    unknown: npt.NDArray[np.bool_], spacing: Sequence[float]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], float]]:
    """Yield, an axis at a time, the flat indices of the pairs that touch an unknown voxel."""
    befores, afters = _shifted(unknown.ndim)
    smallest = min(spacing)
    for axis, step in enumerate(spacing):
        stride = math.prod(unknown.shape[axis + 1 :])
        is_pair = np.zeros(unknown.shape, dtype=bool)
        is_pair[befores[axis]] = unknown[befores[axis]] | unknown[afters[axis]]
        one = np.flatnonzero(is_pair)
        yield one, one + stride, step / smallest


def _shifted(ndim: int) -> tuple[list[tuple[slice, ...]], list[tuple[slice, ...]]]:
    """Return, an axis each, the slices of all voxels but the last, and of all but the first."""
    every = slice(None)
    befores = [tuple(slice(0, -1) if a == b else every for b in range(ndim)) for a in range(ndim)]
    afters = [tuple(slice(1, None) if a == b else every for b in range(ndim)) for a in range(ndim)]
    return befores, afters

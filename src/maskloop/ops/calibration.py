"""From what a network says to how often it is right: one monotone cubic a class.

A network that was shown every class equally often thinks rare classes likelier than they are. Its
outputs are sorted into bins, the share of true voxels is counted in each, and a cubic that never
falls is laid through the shares by least squares.

Method: D. Cireşan, A. Giusti, L. Gambardella, J. Schmidhuber, "Deep Neural Networks Segment
Neuronal Membranes in Electron Microscopy Images", NIPS 2012, section 2.4. That a cubic rises is
held here by its Bernstein coefficients, which is sufficient, not necessary; more than two classes,
each with a cubic of its own, are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

_BINS = 64
_FEW = 100.0  # voxels; a bin with so many counts half as much as one with very many
_SAME = (0.0, 1.0, 0.0, 0.0)  # the cubic that changes nothing
_INSIST = 1e4  # weight of the equation that keeps the cubic's end at 1 or below


class Tally:
    """How often each class was true, by how likely the network thought it.

    Parameters
    ----------
    classes : int
        With the background.
    """

    def __init__(self, classes: int) -> None:
        self._counts = np.zeros((classes, _BINS))
        self._sums = np.zeros((classes, _BINS))
        self._hits = np.zeros((classes, _BINS))

    def add(self, chances: npt.NDArray[np.float32], truth: npt.NDArray[Any]) -> None:
        """Count voxels: probabilities ``(classes, n)`` and class indices ``(n,)``."""
        for number, values in enumerate(chances):
            places = np.minimum((values * _BINS).astype(np.intp), _BINS - 1)
            self._counts[number] += np.bincount(places, minlength=_BINS)
            self._sums[number] += np.bincount(places, values, minlength=_BINS)
            self._hits[number] += np.bincount(places[truth == number], minlength=_BINS)

    def cubics(self) -> list[list[float]]:
        """Return four coefficients a class, constant first.

        The identity for a class never seen, and for every class where one alone was: its share of
        the reviewed voxels says nothing of the others.
        """
        if np.count_nonzero(self._hits.any(axis=1)) < 2:
            return [list(_SAME) for _ in self._counts]
        found = []
        for counts, sums, hits in zip(self._counts, self._sums, self._hits, strict=True):
            filled = counts > 0
            if not hits.any():
                found.append(list(_SAME))
                continue
            counts = counts[filled]
            found.append(
                monotone_cubic(
                    sums[filled] / counts, hits[filled] / counts, counts / (counts + _FEW)
                )
            )
        return found


def monotone_cubic(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]
) -> list[float]:
    """Return the cubic nearest to the points that never falls and stays in 0 to 1 over 0 to 1.

    Parameters
    ----------
    x, y : float64 array ``(n,)``
        Points, 0 to 1.
    weights : float64 array ``(n,)``
        Of the points' squared distances, > 0.

    Returns
    -------
    list of float
        Four coefficients, the constant first.
    """
    from scipy.optimize import nnls

    # Sums of Bernstein polynomials from the k-th on: the cubic rises where none is subtracted.
    rises = np.array([[1, 0, 0, 0], [0, 3, -3, 1], [0, 0, 3, -2], [0, 0, 0, 1.0]])
    powers = x[:, None] ** np.arange(4)
    root = np.sqrt(weights)[:, None]
    # A fifth unknown takes what the four leave of 1: they add up to the cubic's value at 1.
    system = np.vstack([np.pad(root * (powers @ rises.T), [(0, 0), (0, 1)]), np.full(5, _INSIST)])
    steps, _ = nnls(system, np.append(root[:, 0] * y, _INSIST))
    return [float(c) for c in steps[:4] @ rises]


def calibrated(
    chances: npt.NDArray[np.float32], cubics: Sequence[Sequence[float]]
) -> npt.NDArray[np.float32]:
    """Return probabilities ``(classes, *spatial)`` mapped by their cubics, again summing to 1.

    Where every class came out as 0 the probabilities stay what they were.
    """
    found = np.empty_like(chances)
    for target, values, (a, b, c, d) in zip(found, chances, cubics, strict=True):
        np.clip(((d * values + c) * values + b) * values + a, 0, 1, out=target)
    return evened(found, chances)


def evened(
    chances: npt.NDArray[np.float32], otherwise: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return `chances`, changed in place so that they sum to 1; `otherwise` where all are 0."""
    total = chances.sum(axis=0)
    is_lost = total < 1e-6
    chances /= np.where(is_lost, 1, total)
    if is_lost.any():
        chances[:, is_lost] = otherwise[:, is_lost]
    return chances

"""Scores of held-out cases, label by label, with what nobody reviewed left out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def dice_by_class(
    found: npt.NDArray[Any],
    truth: npt.NDArray[Any],
    names: Sequence[str],
    where: npt.NDArray[np.bool_] | None = None,
) -> dict[str, float]:
    """Return the Dice of each class; NaN where it is in neither map.

    Parameters
    ----------
    found, truth : array of unsigned int
        Class index per voxel, one shape; 0 is background.
    names : sequence of str
        Name of class 1, 2, ...
    where : bool array, optional
        Voxels that count; all where None.
    """
    classes = len(names) + 1
    joint = np.zeros(classes * classes, np.int64)
    for number in range(truth.shape[0]):  # slabs keep the 64-bit copies of bincount small
        keep = slice(None) if where is None else where[number]
        pairs = truth[number].astype(np.int64) * classes + found[number]
        joint += np.bincount(pairs[keep].ravel(), minlength=classes * classes)
    table = joint.reshape(classes, classes)
    both, sizes = np.diag(table), table.sum(0) + table.sum(1)
    return {
        name: float(2 * both[k] / sizes[k]) if sizes[k] else math.nan
        for k, name in enumerate(names, start=1)
    }


def mean_scores(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each label over the cases in which it occurs; NaN where in none."""
    columns: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, [])
            if not math.isnan(value):
                columns[name].append(value)
    return {name: float(np.mean(v)) if v else math.nan for name, v in columns.items()}

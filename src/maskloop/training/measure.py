"""Scores of held-out cases, label by label, with what nobody reviewed left out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from maskloop.ops.panoptic import Quality, panoptic_quality
from maskloop.ops.scores import average_precision, joint_counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from maskloop.core.labels import Label, LabelTable


def dice_by_class(
    found: npt.NDArray[Any],  # Any: whichever unsigned type holds the ids
    truth: npt.NDArray[Any],  # Any: as above
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
    if where is not None:
        found, truth = found * where, truth * where
    counts = joint_counts(found, truth)
    sizes = dict.fromkeys(range(1, len(names) + 1), 0)
    for (a, b), n in counts.items():
        for one in (a, b):
            if one:
                sizes[one] += n
    return {
        name: 2 * counts.get((k, k), 0) / sizes[k] if sizes[k] else math.nan
        for k, name in enumerate(names, start=1)
    }


def precision_by_class(
    found: npt.NDArray[Any],  # Any: whichever unsigned type holds the ids
    labels: LabelTable,
    truth: npt.NDArray[Any],  # Any: as above
    class_of: npt.NDArray[Any],  # Any: as above
    names: Sequence[str],
) -> dict[str, float]:
    """Return TP / (TP + FP + FN) of objects at IoU 0.5 for each class; NaN where it has none.

    Parameters
    ----------
    found, truth : array of unsigned int
        Object ids, one shape.
    labels : LabelTable
        Of `found`; a row's category is the name of its class.
    class_of : array
        Class index of each id in `truth`.
    names : sequence of str
        Name of class 1, 2, ...
    """
    scores = {}
    for index, name in enumerate(names, start=1):
        wanted = [i for i, row in labels.items() if len(names) == 1 or row.category == name]
        mine = np.where(np.isin(found, wanted), found, 0)
        theirs = np.where(class_of[truth] == index, truth, 0)
        has_any = mine.any() or theirs.any()
        scores[name] = float(average_precision(mine, theirs)[0]) if has_any else math.nan
    return scores


def panoptic_by_class(
    found: npt.NDArray[Any],  # Any: whichever unsigned type holds the ids
    labels: LabelTable,
    truth: npt.NDArray[Any],  # Any: as above
    class_of: npt.NDArray[Any],  # Any: as above
    classes: Sequence[Label],
    where: npt.NDArray[np.bool_],
) -> dict[str, float]:
    """Return the panoptic quality of each class; NaN where it has no segment.

    Parameters
    ----------
    found, truth : array of unsigned int
        Ids of things and stuff, one shape.
    labels : LabelTable
        Of `found`; a thing's category, or the name of stuff, is the name of its class.
    class_of : array
        Class index of each id in `truth`.
    classes : sequence of Label
        Class 1, 2, ...
    where : bool array
        Voxels that count.
    """
    qualities = panoptic_quality(
        found,
        truth * where,
        found_classes={i: row.category or row.name for i, row in labels.items()},
        truth_classes={i: classes[k - 1].name for i, k in enumerate(class_of.tolist()) if k},
        stuff=[row.name for row in classes if not row.is_thing],
        void=~where,
    )
    none = Quality()
    return {row.name: qualities.get(row.name, none).pq for row in classes}


def mean_scores(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each label over the cases in which it occurs; NaN where in none."""
    columns: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, [])
            if not math.isnan(value):
                columns[name].append(value)
    return {name: float(np.mean(v)) if v else math.nan for name, v in columns.items()}


def to_json(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Return scores as JSON can hold them: NaN becomes null."""
    return {name: None if math.isnan(value) else float(value) for name, value in scores.items()}


def from_json(scores: Mapping[str, float | None]) -> dict[str, float]:
    """Return the scores that `to_json` wrote."""
    return {name: math.nan if value is None else value for name, value in scores.items()}

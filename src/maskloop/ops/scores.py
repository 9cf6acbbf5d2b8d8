"""How well two masks agree: overlap, surface distance, and objects found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.boxes import box_of
from maskloop.core.errors import GeometryError, InputError
from maskloop.core.job import Job

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from maskloop.core.geometry import Box
    from maskloop.core.labels import LabelTable
    from maskloop.core.mask import Mask

Ids = npt.NDArray[Any]  # Any: whichever unsigned type
Region = npt.NDArray[np.bool_]
Counts = dict[tuple[int, int], int]

DEFINITIONS = {
    "dice": "2 |A and B| / (|A| + |B|) over voxels; absent in both: not scored",
    "hd95": "voxel-edge (MONAI): edge voxels have a face neighbour outside; 95th percentile of the "
    "distances from each edge to the other, the larger of both directions",
    "nsd": "voxel-edge (MONAI): share of both masks' edge voxels within the tolerance of the "
    "other's edge",
    "average_precision": "TP / (TP + FP + FN) per image at an IoU of at least the threshold, "
    "objects matched one to one (2018 Data Science Bowl); the mean is over 0.50 to 0.95 by 0.05",
}
MEAN_THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
_CHUNK = 1 << 19  # voxels at a time, so that they stay in the processor's cache
_CROWDED = 1 / 20  # share of edge voxels in their box above which a distance map costs less


@dataclass(frozen=True, slots=True)
class LabelScore:
    """How well one label agrees.

    Parameters
    ----------
    id, name
        The label; ids joined by ``together`` have id 0.
    dice : float, optional
        None where the label is absent in both masks.
    hd95, nsd : float, optional
        None where a distance has no meaning: the label is absent in both masks, or (`hd95`) in one.
    voxels_predicted, voxels_truth : int
        Counts.
    voxel_size : float
        Volume in mm3, or area in pixels.
    unit : {"mm", "px"}
        Unit of `hd95`.
    """

    id: int
    name: str
    dice: float | None
    hd95: float | None
    nsd: float | None
    voxels_predicted: int
    voxels_truth: int
    voxel_size: float
    unit: str

    @property
    def status(self) -> str:
        """``absent`` (in both), ``missed``, ``invented`` or ``scored``."""
        if self.voxels_predicted and self.voxels_truth:
            return "scored"
        if self.voxels_truth:
            return "missed"
        return "invented" if self.voxels_predicted else "absent"

    @property
    def hd95_mm(self) -> float | None:
        """The distance where the grid is in mm, else None."""
        return self.hd95 if self.unit == "mm" else None

    def volume_ml(self, voxels: int) -> float | None:
        """Return the volume of so many voxels; None on a grid in pixels."""
        return voxels * self.voxel_size / 1000 if self.unit == "mm" else None

    def to_json(self) -> dict[str, Any]:  # Any: plain JSON values
        """Return JSON-ready values."""
        row: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "status": self.status,
            "dice": self.dice,
            "hd95_mm": self.hd95_mm,
            "nsd": self.nsd,
            "volume_ml": {
                "predicted": self.volume_ml(self.voxels_predicted),
                "truth": self.volume_ml(self.voxels_truth),
            },
            "voxels": {"predicted": self.voxels_predicted, "truth": self.voxels_truth},
        }
        return row if self.unit == "mm" else {**row, "hd95_px": self.hd95}


def joint_counts(a: Ids, b: Ids) -> Counts:
    """Return how many voxels carry each pair of ids, in one pass; (0, 0) included.

    Parameters
    ----------
    a, b : array of unsigned int
        The same shape.
    """
    highest = [int(m.max()) if m.size else 0 for m in (a, b)]
    if (highest[0] + 1) * (highest[1] + 1) <= 256:
        return _few_counts(a, b, highest[1] + 1)
    total: Counts = {}
    for x, y in _chunks(a, b):
        # Most voxels are background in both: only the others are looked at closely.
        held = np.flatnonzero((x != 0) | (y != 0))
        total[0, 0] = total.get((0, 0), 0) + x.size - held.size
        if held.size == 0:
            continue
        x, y = x[held], y[held]
        top = int(y.max()) + 1
        if (int(x.max()) + 1) * top <= 1 << 20:
            counts = np.bincount(x.astype(np.intp) * top + y)
            pairs = np.flatnonzero(counts)
            counts = counts[pairs]
        else:
            pairs, counts = np.unique(x.astype(np.uint64) * np.uint64(top) + y, return_counts=True)
        for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
            key = divmod(pair, top)
            total[key] = total.get(key, 0) + count
    return total


def _chunks(a: Ids, b: Ids) -> Iterator[tuple[Ids, Ids]]:
    step = max(1, _CHUNK * len(a) // max(a.size, 1))
    for first in range(0, len(a), step):
        yield a[first : first + step].ravel(), b[first : first + step].ravel()


def _few_counts(a: Ids, b: Ids, top: int) -> Counts:
    """Count pairs that fit a byte: two voxels are one number of two bytes, counted at once."""
    joint = np.zeros((256, 256), dtype=np.int64)
    odd = np.zeros(256, dtype=np.int64)
    for x, y in _chunks(a, b):
        pairs = x.astype(np.uint8, copy=False) * np.uint8(top)
        pairs += y.astype(np.uint8, copy=False)
        even = pairs[: pairs.size // 2 * 2].view(np.uint16)
        joint += np.bincount(even, minlength=1 << 16).reshape(256, 256)
        odd += np.bincount(pairs[even.size * 2 :], minlength=256)
    counts = joint.sum(axis=0) + joint.sum(axis=1) + odd
    return {divmod(int(pair), top): int(counts[pair]) for pair in np.flatnonzero(counts)}


def score_masks(
    predicted: Mask,
    truth: Mask,
    *,
    nsd_tolerance_mm: float = 2.0,
    together: Mapping[str, Sequence[int]] | None = None,
    surfaces: bool = True,
    job: Job | None = None,
) -> list[LabelScore]:
    """Return Dice, HD95 and NSD of every label in either mask or its table.

    Voxels of the truth whose label says ``ignore`` are left out of both.

    Parameters
    ----------
    predicted, truth : Mask
        On the same grid, the same ids meaning the same labels.
    nsd_tolerance_mm : float
        Distance within which two surfaces count as the same; in pixels on a grid in pixels.
    together : mapping of str to sequence of int, optional
        Regions to score besides the labels, such as ``{"whole liver": (1, 2)}``.
    surfaces : bool
        Whether distances are wanted; without them `hd95` and `nsd` are None.
    job : Job, optional
        Told after each label.

    Returns
    -------
    list of LabelScore
        By id; those of `together` last.

    Raises
    ------
    GeometryError
        If the masks lie on different grids; the message says by how many mm.
    InputError
        If the same names have other ids in the two masks.
    """
    require_same_grid(predicted, truth)
    _require_same_names(predicted.labels, truth.labels)
    found, real = _without_ignored(predicted, truth)
    counts = joint_counts(found, real)
    ids = sorted({i for pair in counts for i in pair if i} | _scored_rows(predicted, truth))
    names = {**predicted.labels.names, **truth.labels.names}
    wanted: list[tuple[int, str, tuple[int, ...]]]
    wanted = [(i, names.get(i, f"label {i}"), (i,)) for i in ids]
    wanted += [(0, name, tuple(group)) for name, group in (together or {}).items()]
    return [
        _score_one((number, name, group), found, real, counts, truth, nsd_tolerance_mm, surfaces)
        for number, name, group in (job or Job()).track(wanted, "labels")
    ]


def require_same_grid(predicted: Mask, truth: Mask) -> None:
    """Raise `GeometryError`, in mm and by corner, unless both masks lie on one grid."""
    words = truth.geometry.difference(predicted.geometry)
    if not words and predicted.data.shape != truth.data.shape:
        words = f"{predicted.data.shape} is not {truth.data.shape}"
    if words:
        msg = (
            f"expected the predicted mask {predicted.name!r} on the grid of the truth "
            f"{truth.name!r} {truth.geometry.shape}, but {words}; resample one of them first"
        )
        raise GeometryError(msg)


def _require_same_names(predicted: LabelTable, truth: LabelTable) -> None:
    ids = {name: i for i, name in truth.names.items()}
    for number, name in predicted.names.items():
        if "classes" in (predicted.kind, truth.kind) and ids.get(name, number) != number:
            msg = (
                f"expected label {name!r} to have the same id in both masks, got {number} in the "
                f"prediction and {ids[name]} in the truth; renumber one of them"
            )
            raise InputError(msg)


def _scored_rows(predicted: Mask, truth: Mask) -> set[int]:
    if "objects" in (predicted.labels.kind, truth.labels.kind):
        return set()
    ignored = {i for i, row in truth.labels.items() if row.ignore}
    return (set(predicted.labels) | set(truth.labels)) - ignored


def _without_ignored(predicted: Mask, truth: Mask) -> tuple[Ids, Ids]:
    ignored = [i for i, row in truth.labels.items() if row.ignore]
    if not ignored:
        return predicted.data, truth.data
    is_ignored = np.isin(truth.data, ignored)
    return np.where(is_ignored, 0, predicted.data), np.where(is_ignored, 0, truth.data)


def _score_one(
    label: tuple[int, str, tuple[int, ...]],
    found: Ids,
    real: Ids,
    counts: Counts,
    truth: Mask,
    tolerance: float,
    surfaces: bool,
) -> LabelScore:
    number, name, group = label
    in_found = sum(n for (p, _), n in counts.items() if p in group)
    in_real = sum(n for (_, t), n in counts.items() if t in group)
    shared = sum(n for (p, t), n in counts.items() if p in group and t in group)
    dice = 2 * shared / (in_found + in_real) if in_found + in_real else None
    hd95: float | None = None
    nsd: float | None = None
    if surfaces and in_found and in_real:
        box = _box_of_all((found, real), group)
        there, back = surface_distances(
            _region(found[box], group), _region(real[box], group), truth.geometry.spacing
        )
        hd95, nsd = percentile_distance(there, back), share_within(there, back, tolerance)
    elif surfaces and (in_found or in_real):
        nsd = 0.0
    geometry = truth.geometry
    return LabelScore(
        number, name, dice, hd95, nsd, in_found, in_real, geometry.voxel_size, geometry.unit
    )


def _region(ids: Ids, group: tuple[int, ...]) -> Region:
    return np.asarray(ids == group[0] if len(group) == 1 else np.isin(ids, group))


def _box_of_all(arrays: Sequence[Ids], ids: Sequence[int]) -> Box:
    boxes = [b for a in arrays for i in ids if (b := box_of(a, i)) is not None]
    return tuple(
        slice(min(b[axis].start for b in boxes), max(b[axis].stop for b in boxes))
        for axis in range(arrays[0].ndim)
    )


def dice(predicted: Region, truth: Region) -> float | None:
    """Return the Dice overlap of two regions; None where both are empty."""
    both = int(np.count_nonzero(predicted)) + int(np.count_nonzero(truth))
    return 2 * int(np.count_nonzero(predicted & truth)) / both if both else None


def edges(region: Region) -> Region:
    """Return the voxels of a region that have a face neighbour outside it, or beyond the array."""
    inner = region.copy()
    for axis in range(region.ndim):
        lead = (slice(None),) * axis
        inner[(*lead, slice(1, None))] &= region[(*lead, slice(None, -1))]
        inner[(*lead, slice(None, -1))] &= region[(*lead, slice(1, None))]
        for end in (0, -1):
            inner[(*lead, end)] = False
    return region & ~inner


def surface_distances(
    predicted: Region, truth: Region, spacing: Sequence[float]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the distances of each edge voxel to the other region's edge, in both directions.

    Parameters
    ----------
    predicted, truth : array of bool
        The same shape, neither empty.
    spacing : sequence of float
        Step along each array axis.
    """
    found, real = edges(predicted), edges(truth)
    if np.count_nonzero(found) + np.count_nonzero(real) > _CROWDED * found.size:
        import edt

        there, back = (
            edt.edt(~far, anisotropy=tuple(spacing), black_border=False, parallel=2)[near]
            for near, far in ((found, real), (real, found))
        )
        return there, back
    from scipy.spatial import cKDTree

    points = [np.argwhere(m) * np.asarray(spacing) for m in (found, real)]
    there, back = (
        cKDTree(far).query(near)[0].astype(np.float32)
        for near, far in ((points[0], points[1]), (points[1], points[0]))
    )
    return there, back


def percentile_distance(
    there: npt.NDArray[np.float32], back: npt.NDArray[np.float32], percentile: float = 95
) -> float:
    """Return the larger of both directions' percentiles of the surface distances."""
    return float(max(np.percentile(there, percentile), np.percentile(back, percentile)))


def share_within(
    there: npt.NDArray[np.float32], back: npt.NDArray[np.float32], tolerance: float
) -> float:
    """Return the share of both surfaces' distances that do not exceed the tolerance."""
    near = np.count_nonzero(there <= tolerance) + np.count_nonzero(back <= tolerance)
    return float(near / (len(there) + len(back)))


def average_precision(
    predicted: Ids, truth: Ids, thresholds: Sequence[float] = (0.5,)
) -> npt.NDArray[np.float64]:
    """Return TP / (TP + FP + FN) of objects at each IoU threshold.

    Parameters
    ----------
    predicted, truth : array of unsigned int
        Object ids on the same grid, 0 background; ids need not correspond.
    thresholds : sequence of float
        Least IoU of a match, 0 < t <= 1. Each object is matched at most once, so that as many as
        possible are.

    Returns
    -------
    array of float
        One value a threshold; 1 where there are no objects in either.

    References
    ----------
    .. [1] Caicedo et al., "Nucleus segmentation across imaging experiments: the 2018 Data Science
       Bowl", Nature Methods 2019, Methods (evaluation metric).
    """
    if predicted.shape != truth.shape:
        msg = f"expected ids of one shape, got {predicted.shape} and {truth.shape}; resample one"
        raise InputError(msg)
    ious, n_found, n_real = _pairwise_iou(predicted, truth)
    found = []
    for threshold in thresholds:
        hits = _matches(ious, threshold)
        every = n_found + n_real - hits
        found.append(hits / every if every else 1.0)
    return np.array(found, dtype=np.float64)


def _pairwise_iou(predicted: Ids, truth: Ids) -> tuple[Mapping[tuple[int, int], float], int, int]:
    """Return the IoU of every pair that meets, and the number of objects in each."""
    counts = joint_counts(predicted, truth)
    in_found: dict[int, int] = {}
    in_real: dict[int, int] = {}
    for (p, t), n in counts.items():
        in_found[p] = in_found.get(p, 0) + n
        in_real[t] = in_real.get(t, 0) + n
    ious = {(p, t): n / (in_found[p] + in_real[t] - n) for (p, t), n in counts.items() if p and t}
    return ious, sum(1 for i in in_found if i), sum(1 for i in in_real if i)


def _matches(ious: Mapping[tuple[int, int], float], threshold: float) -> int:
    """Return the size of the largest one-to-one matching of pairs at or above the threshold."""
    pairs = [pair for pair, iou in ious.items() if iou >= threshold]
    rows, columns = {p for p, _ in pairs}, {t for _, t in pairs}
    if len(rows) == len(columns) == len(pairs):
        return len(pairs)
    from scipy import sparse

    row_of = {p: i for i, p in enumerate(sorted(rows))}
    column_of = {t: i for i, t in enumerate(sorted(columns))}
    graph = sparse.csr_matrix(
        (np.ones(len(pairs)), ([row_of[p] for p, _ in pairs], [column_of[t] for _, t in pairs])),
        shape=(len(rows), len(columns)),
    )
    partner = sparse.csgraph.maximum_bipartite_matching(graph, perm_type="column")
    return int(np.count_nonzero(partner >= 0))

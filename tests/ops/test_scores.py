"""Scores against MONAI, SciPy, scikit-image and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, optimize
from skimage.metrics import hausdorff_distance

from maskloop.core.errors import GeometryError, InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.ops import scores
from maskloop.ops.phantom import nuclei_picture

SPACING = (2.5, 0.78, 0.9)


def _mask(ids, *, spacing=SPACING, labels=None, origin=(0.0, 0.0, 0.0)):
    ids = np.asarray(ids)
    if ids.ndim == 2:
        grid = Geometry.pixels(ids.shape)
    else:
        grid = Geometry.regular(ids.shape, spacing, origin)
    return Mask.like(Image(ids, grid), ids, labels or {1: "liver", 2: "tumour"})


def _pair(seed=0, shape=(24, 40, 44)):
    rng = np.random.default_rng(seed)

    def blobs():
        raw = ndimage.gaussian_filter(rng.normal(size=shape), 3)
        raw = common + 0.6 * raw / raw.std()
        return np.digitize(raw, np.quantile(raw, [0.6, 0.9])).astype(np.uint8)

    common = ndimage.gaussian_filter(rng.normal(size=shape), 3)
    common /= common.std()
    return blobs(), blobs()


def test_joint_counts_are_those_of_a_two_dimensional_histogram():
    a, b = _pair()
    expected, _, _ = np.histogram2d(a.ravel(), b.ravel(), bins=(np.arange(4), np.arange(4)))
    counts = scores.joint_counts(a, b)
    assert {k: v for k, v in counts.items() if v} == {
        (i, j): int(expected[i, j]) for i in range(3) for j in range(3) if expected[i, j]
    }
    odd = a.ravel()[:101]
    assert sum(scores.joint_counts(odd, b.ravel()[:101]).values()) == 101
    wide = scores.joint_counts(a * np.uint8(100), b)
    assert {(i // 100, j): n for (i, j), n in wide.items() if n} == {
        k: v for k, v in counts.items() if v
    }
    far = a.astype(np.uint32) * 5_000_000
    assert scores.joint_counts(far, far)[5_000_000, 5_000_000] == (a == 1).sum()


@pytest.mark.filterwarnings("ignore")  # MONAI warns of its own deprecations
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dice_hd95_and_nsd_equal_monais(seed):
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    a, b = _pair(seed)
    found = scores.score_masks(_mask(a), _mask(b), nsd_tolerance_mm=1.5)
    one_hot = [
        torch.from_numpy(np.stack([m == i for i in (0, 1, 2)])[None]).float() for m in (a, b)
    ]
    dice = metrics.compute_dice(*one_hot, include_background=False)[0]
    hd95 = metrics.compute_hausdorff_distance(
        *one_hot, include_background=False, percentile=95, spacing=SPACING
    )[0]
    nsd = metrics.compute_surface_dice(
        *one_hot, class_thresholds=[1.5, 1.5], include_background=False, spacing=SPACING
    )[0]
    for row, d, h, n in zip(found, dice, hd95, nsd, strict=True):
        assert row.dice == pytest.approx(float(d), abs=1e-6)
        assert row.hd95_mm == pytest.approx(float(h), abs=1e-4)
        assert row.nsd == pytest.approx(float(n), abs=1e-6)


def test_points_and_distance_maps_give_the_same_distances(monkeypatch):
    a, b = (m == 2 for m in _pair(6))
    found = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(scores, "_CROWDED", share)
        found.append(scores.surface_distances(a, b, SPACING))
    for maps, points in zip(*found, strict=True):
        np.testing.assert_allclose(maps, points, atol=1e-4)


def test_the_hundredth_percentile_is_scikit_images_hausdorff_distance():
    a, b = (m == 2 for m in _pair(4))
    there, back = scores.surface_distances(a, b, (1, 1, 1))
    largest = scores.percentile_distance(there, back, 100)
    expected = hausdorff_distance(scores.edges(a), scores.edges(b))
    assert largest == pytest.approx(expected, abs=1e-4)


def test_edges_are_what_binary_erosion_takes_away():
    a, _ = _pair(5)
    region = a > 0
    assert (scores.edges(region) == (region & ~ndimage.binary_erosion(region))).all()
    flat = region[0]
    assert (scores.edges(flat) == (flat & ~ndimage.binary_erosion(flat))).all()


def test_a_mask_agrees_with_itself():
    a, _ = _pair()
    for row in scores.score_masks(_mask(a), _mask(a)):
        assert (row.dice, row.hd95_mm, row.nsd, row.status) == (1, 0, 1, "scored")


def test_empty_labels_are_named_and_not_scored():
    truth, found = np.zeros((6, 9, 9), np.uint8), np.zeros((6, 9, 9), np.uint8)
    truth[2:4, 2:5, 2:5] = 1
    found[2:4, 2:5, 2:5] = 2
    labels = {1: "liver", 2: "tumour", 3: "vessel"}
    rows = scores.score_masks(_mask(found, labels=labels), _mask(truth, labels=labels))
    told = [(r.name, r.status, r.dice, r.hd95, r.nsd) for r in rows]
    assert told == [
        ("liver", "missed", 0, None, 0),
        ("tumour", "invented", 0, None, 0),
        ("vessel", "absent", None, None, None),
    ]
    ml = rows[0].to_json()["volume_ml"]
    assert ml == {"predicted": 0, "truth": pytest.approx(18 * np.prod(SPACING) / 1000)}


def test_labels_can_be_scored_together():
    a, b = _pair()
    row = scores.score_masks(_mask(a), _mask(b), together={"organ": (1, 2)})[-1]
    assert row.name == "organ"
    assert row.dice == pytest.approx(scores.dice(a > 0, b > 0))


def test_ignored_voxels_of_the_truth_do_not_count():
    a, b = _pair()
    truth = b.copy()
    truth[:12] = 3
    labels = LabelTable([Label(1, "liver"), Label(2, "tumour"), Label(3, "unsure", ignore=True)])
    rows = scores.score_masks(_mask(a), _mask(truth, labels=labels), surfaces=False)
    assert [r.name for r in rows] == ["liver", "tumour"]
    assert rows[0].dice == pytest.approx(scores.dice(a[12:] == 1, b[12:] == 1))


def test_another_grid_is_refused_in_mm():
    a, b = _pair()
    with pytest.raises(GeometryError, match=r"lies 3 mm away.*resample"):
        scores.score_masks(_mask(a, origin=(3.0, 0, 0)), _mask(b))


def test_labels_numbered_differently_are_refused():
    a, b = _pair()
    with pytest.raises(InputError, match="same id in both"):
        scores.score_masks(_mask(a, labels={1: "tumour", 2: "liver"}), _mask(b))


def test_a_cancelled_score_stops():
    from maskloop.core.errors import Cancelled

    job = Job()
    job.cancel()
    a, b = _pair()
    with pytest.raises(Cancelled):
        scores.score_masks(_mask(a), _mask(b), job=job)


def _precision_by_assignment(found, real, threshold):
    """AP by an explicit IoU matrix and SciPy's assignment."""
    p, t = ([i for i in np.unique(m) if i] for m in (found, real))
    iou = np.array(
        [
            [np.sum((found == i) & (real == j)) / np.sum((found == i) | (real == j)) for j in t]
            for i in p
        ]
    )
    rows, columns = optimize.linear_sum_assignment(-(iou >= threshold).astype(float))
    hits = int((iou[rows, columns] >= threshold).sum())
    return hits / (len(p) + len(t) - hits)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75, 0.9])
def test_average_precision_equals_an_explicit_assignment(threshold):
    truth = nuclei_picture(3, (96, 96), count=(12, 16))[1].data
    moved = np.roll(truth, (2, 1), axis=(0, 1))
    moved[moved == 3] = 0
    moved[:8] = 0
    moved[-9:, :9] = 200
    # ids need not correspond
    shuffled = np.random.default_rng(0).permutation(256).astype(np.uint16) + 1
    found = np.where(moved > 0, shuffled[moved], 0).astype(np.uint16)
    got = scores.average_precision(found, truth, (threshold,))[0]
    assert got == pytest.approx(_precision_by_assignment(found, truth, threshold))


def test_average_precision_by_hand():
    truth = np.zeros((10, 30), np.uint8)
    truth[0:4, 0:4], truth[0:4, 10:14], truth[0:4, 20:24] = 1, 2, 3
    found = np.zeros_like(truth)
    found[0:4, 0:4] = 7  # IoU 1
    found[0:4, 10:13] = 8  # IoU 0.75
    found[6:9, 0:3] = 9  # nothing there
    got = scores.average_precision(found, truth, (0.5, 0.75, 0.8))
    assert got == pytest.approx([2 / 4, 2 / 4, 1 / 5])
    empty = np.zeros_like(truth)
    assert scores.average_precision(empty, empty)[0] == 1
    assert scores.average_precision(found, empty)[0] == 0

"""Panoptic quality: by its definition, on cases made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from maskloop.core.errors import InputError
from maskloop.ops.panoptic import Quality, panoptic_quality


def test_truth_against_itself_is_one() -> None:
    truth = np.zeros((8, 8), np.uint8)
    truth[:4], truth[4:, :4], truth[4:, 4:] = 1, 2, 3
    classes = {1: "sky", 2: "cow", 3: "cow"}
    found = panoptic_quality(truth, truth, found_classes=classes, truth_classes=classes)
    assert found == {"sky": Quality(1, 1.0), "cow": Quality(2, 2.0)}
    assert all(one.pq == one.sq == one.rq == 1 for one in found.values())


def test_two_segments_by_hand() -> None:
    # A row of 20 pixels. Truth: cow 1 on 0-9, cow 2 on 10-14. Found: cow on 0-7, cow on 13-19.
    truth, mine = np.zeros((1, 20), np.uint8), np.zeros((1, 20), np.uint8)
    truth[0, :10], truth[0, 10:15] = 1, 2
    mine[0, :8], mine[0, 13:20] = 5, 6
    found = panoptic_quality(
        mine, truth, found_classes={5: "cow", 6: "cow"}, truth_classes={1: "cow", 2: "cow"}
    )["cow"]
    # 8/10 matches; 2/10 does not: one spare, one missed.
    assert found == Quality(1, 0.8, 1, 1)
    assert found.pq == pytest.approx(0.8 / 2)
    assert (found.sq, found.rq) == (pytest.approx(0.8), pytest.approx(0.5))


def test_half_is_no_match() -> None:
    truth, mine = np.zeros((1, 6), np.uint8), np.zeros((1, 6), np.uint8)
    truth[0, :4], mine[0, 1:6] = 1, 1  # 3 of 6
    names = {1: "cow"}
    found = panoptic_quality(mine, truth, found_classes=names, truth_classes=names)["cow"]
    assert found == Quality(0, 0.0, 1, 1)
    assert found.pq == 0
    assert math.isnan(found.sq)


def test_another_class_is_no_match() -> None:
    ids = np.ones((2, 2), np.uint8)
    found = panoptic_quality(ids, ids, found_classes={1: "cow"}, truth_classes={1: "horse"})
    assert found == {"cow": Quality(spare=1), "horse": Quality(missed=1)}


def test_void_is_left_out_of_the_union_and_forgives_what_lies_in_it() -> None:
    truth, mine = np.zeros((1, 20), np.uint8), np.zeros((1, 20), np.uint8)
    void = np.zeros((1, 20), bool)
    truth[0, :6], void[0, 6:16] = 1, True
    mine[0, :10], mine[0, 12:18], mine[0, 18:20] = 1, 2, 3
    names = {1: "cow", 2: "cow", 3: "cow"}
    found = panoptic_quality(mine, truth, found_classes=names, truth_classes=names, void=void)
    # 6/6 with void out of the union; 4 of 6 pixels in void; 0 of 2.
    assert found == {"cow": Quality(1, 1.0, 1, 0)}
    # The simplification: void as background.
    plain = panoptic_quality(mine, truth, found_classes=names, truth_classes=names)
    assert plain == {"cow": Quality(1, 0.6, 2, 0)}


def test_a_crowd_is_neither_missed_nor_matched_and_forgives_its_class_only() -> None:
    truth, mine = np.zeros((1, 12), np.uint8), np.zeros((1, 12), np.uint8)
    truth[0, :8] = 1
    mine[0, :3], mine[0, 3:6], mine[0, 6:8] = 1, 2, 3
    found = panoptic_quality(
        mine,
        truth,
        found_classes={1: "cow", 2: "cow", 3: "horse"},
        truth_classes={1: "cow"},
        crowd=[1],
    )
    assert found == {"cow": Quality(), "horse": Quality(spare=1)}
    assert math.isnan(found["cow"].pq)


def test_stuff_is_one_segment_however_many_ids_it_has() -> None:
    truth, mine = np.zeros((4, 8), np.uint8), np.zeros((4, 8), np.uint8)
    truth[:, :3], truth[:, 5:] = 1, 2
    mine[:, :3] = 7
    mine[:, 5:] = 7
    told = {"found_classes": {7: "sky"}, "truth_classes": {1: "sky", 2: "sky"}}
    assert panoptic_quality(mine, truth, stuff=["sky"], **told) == {"sky": Quality(1, 1.0)}
    assert panoptic_quality(mine, truth, **told) == {"sky": Quality(0, 0.0, 1, 2)}


def test_pictures_add_before_they_are_divided() -> None:
    total = Quality(1, 0.8, 1, 1) + Quality(2, 1.6)
    assert total == Quality(3, pytest.approx(2.4), 1, 1)
    assert total.pq == pytest.approx(2.4 / 4)


def test_random_maps_equal_the_definition_written_out() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        coarse = rng.integers(0, 6, (2, 6, 6)).repeat(5, 1).repeat(5, 2).astype(np.uint16)
        truth, mine = coarse
        swap = rng.random(truth.shape) < 0.4
        mine = np.where(swap, mine, truth)
        void = rng.random(truth.shape) < 0.1
        truth = np.where(void, 0, truth).astype(np.uint16)
        names = {i: "ab"[i % 2] for i in range(1, 6)}
        found = panoptic_quality(mine, truth, found_classes=names, truth_classes=names, void=void)
        for name in "ab":
            assert found.get(name, Quality()) == _slowly(mine, truth, void, names, name)


def _slowly(
    mine: np.ndarray, truth: np.ndarray, void: np.ndarray, names: dict[int, str], name: str
) -> Quality:
    regions = [mine == i for i in names if names[i] == name and (mine == i).any()]
    wanted = [truth == i for i in names if names[i] == name and (truth == i).any()]
    overlap, hits, met = 0.0, set(), set()
    for a, region in enumerate(regions):
        for b, real in enumerate(wanted):
            iou = (region & real).sum() / ((region & ~void) | real).sum()
            if iou > 0.5:
                overlap += iou
                hits.add(a)
                met.add(b)
    spare = [
        a
        for a, region in enumerate(regions)
        if a not in hits and (region & void).sum() <= 0.5 * region.sum()
    ]
    return Quality(len(hits), pytest.approx(overlap), len(spare), len(wanted) - len(met))


def test_shapes_must_agree() -> None:
    with pytest.raises(InputError, match="one shape"):
        panoptic_quality(
            np.zeros((2, 2), np.uint8),
            np.zeros((2, 3), np.uint8),
            found_classes={},
            truth_classes={},
        )

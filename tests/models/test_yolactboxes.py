"""Where YOLACT's boxes begin, which are whose, and which are kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from maskloop.models.yolactboxes import (
    corners,
    decoded,
    encoded,
    fast_nms,
    matched,
    papers,
    priors,
)


def test_the_papers_shapes_have_one_area_a_level_and_three_ratios() -> None:
    for level, side in zip(papers(), (24, 48, 96, 192, 384), strict=True):
        shapes = torch.tensor(level)
        torch.testing.assert_close(shapes.prod(1), torch.full((3,), float(side**2)))
        torch.testing.assert_close(shapes[:, 0] / shapes[:, 1], torch.tensor([1.0, 0.5, 2.0]))


def test_the_authors_weights_were_trained_with_squares_of_three_areas() -> None:
    for level, side in zip(papers(is_square=True), (24, 48, 96, 192, 384), strict=True):
        shapes = torch.tensor(level)
        torch.testing.assert_close(shapes[:, 0], shapes[:, 1])
        torch.testing.assert_close(shapes.prod(1), side**2 * torch.tensor([1.0, 0.5, 2.0]))


def test_cells_lie_row_by_row_and_their_steps_are_the_networks() -> None:
    found = priors((((10.0, 20.0), (30.0, 5.0)), ((7.0, 7.0), (8.0, 8.0))), [(2, 3), (1, 2)])
    assert found[0].tolist() == [4, 4, 10, 20]
    assert found[1].tolist() == [4, 4, 30, 5]
    assert found[2].tolist() == [12, 4, 10, 20]
    assert found[6].tolist() == [4, 12, 10, 20]
    assert found[12].tolist() == [8, 8, 7, 7]
    assert found[14].tolist() == [24, 8, 7, 7]
    assert len(found) == 2 * (6 + 2)


def test_cells_of_a_squashed_picture_divide_it_evenly() -> None:
    sizes = [(69, 69), (35, 35), (18, 18), (9, 9), (5, 5)]
    found = priors(papers(), sizes, (550, 550))
    assert len(found) == 19_248
    last = found[-1, :2]
    torch.testing.assert_close(last, torch.full((2,), 550 * 4.5 / 5))
    assert float(priors(papers(), sizes)[-1, 0]) == 4.5 * 128  # beyond it: not for squashed ones


@given(st.lists(st.tuples(*[st.floats(1, 90)] * 4), min_size=1, max_size=8))
def test_a_box_told_by_a_prior_is_the_box(rows: list[tuple[float, ...]]) -> None:
    told = torch.tensor(rows, dtype=torch.float64)
    boxes = torch.cat([told[:, :2], told[:, :2] + told[:, 2:]], dim=1)
    begins = torch.tensor([[20.0, 30.0, 24.0, 12.0]], dtype=torch.float64).expand(len(boxes), 4)
    torch.testing.assert_close(decoded(encoded(boxes, begins), begins), boxes)


def test_a_move_counts_in_tenths_of_the_prior_and_a_stretch_in_fifths_of_its_logarithm() -> None:
    begins = torch.tensor([[50.0, 50.0, 20.0, 10.0]])
    found = encoded(torch.tensor([[42.0, 45.0, 62.0, 65.0]]), begins)
    torch.testing.assert_close(found, torch.tensor([[1.0, 5.0, 0.0, np.log(2) / 0.2]]).float())


def brute(boxes: Tensor, begins: Tensor) -> list[int]:
    """Return what `matched` should, one prior after the other."""
    overlaps = box_iou(boxes, corners(begins)).tolist()
    found = []
    for prior in range(len(begins)):
        column = [row[prior] for row in overlaps]
        best = max(range(len(boxes)), key=column.__getitem__)
        found.append(best if column[best] >= 0.5 else -1 if column[best] < 0.4 else -2)
    taken: set[int] = set()
    left = set(range(len(boxes)))
    while left:
        pairs = [(overlaps[i][j], i, j) for i in left for j in range(len(begins)) if j not in taken]
        overlap, one, prior = max(pairs, key=lambda pair: pair[0])
        if overlap == 0:
            break
        found[prior] = one
        taken.add(prior)
        left.remove(one)
    return found


@pytest.mark.parametrize("seed", range(6))
def test_matching_is_what_one_after_the_other_gives(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(4, 4), (2, 2)]
    begins = priors((((9.0, 9.0), (6.0, 12.0)), ((20.0, 20.0), (14.0, 28.0))), sizes)
    # The more objects, the more of them want one prior.
    for count in (1, 5, 20, 39):
        middles = torch.rand(count, 2, generator=generator) * 24 + 4
        halves = torch.rand(count, 2, generator=generator) * 9 + 2
        boxes = torch.cat([middles - halves, middles + halves], dim=1)
        assert matched(boxes, begins).tolist() == brute(boxes, begins)


def test_more_objects_than_priors_take_one_each_as_far_as_they_go() -> None:
    begins = priors((((9.0, 9.0),),), [(2, 2)])
    corner = torch.rand(30, 2, generator=torch.Generator().manual_seed(0)) * 8
    found = matched(torch.cat([corner, corner + 6], dim=1), begins).tolist()
    assert len(set(found)) == 4
    assert min(found) >= 0


def test_every_object_has_a_prior_however_small_it_is_even_where_two_want_the_same() -> None:
    begins = priors((((24.0, 24.0),),), [(4, 4)])
    boxes = torch.tensor([[3.0, 3.0, 5.0, 5.0], [2.0, 2.0, 6.0, 6.0], [1.0, 20.0, 3.0, 21.0]])
    found = matched(boxes, begins).tolist()
    assert sorted(i for i in found if i >= 0) == [0, 1, 2]
    assert matched(boxes[:0], begins).tolist() == [-1] * 16
    # Without the rule no prior would be anybody's.
    assert float(box_iou(boxes, corners(begins)).max()) < 0.4


def chain() -> tuple[Tensor, Tensor, Tensor]:
    """Return three boxes of which each meets the next one, by 0.625 and 0.6."""
    starts = torch.tensor([0.0, 3 / 13, 3 / 13 + 0.25]) * 100
    boxes = torch.stack([starts, torch.zeros(3), starts + 100, torch.full((3,), 10.0)], dim=1)
    return boxes, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64)


def keeps_the_first_of_a_chain(suppress: object) -> None:
    assert callable(suppress)
    boxes, scores, labels = chain()
    assert suppress(boxes, scores, labels).tolist() == [0]


def test_a_fallen_box_still_fells_others() -> None:
    boxes, scores, labels = chain()
    overlaps = box_iou(boxes, boxes)
    found = [float(overlaps[i, j]) for i, j in ((0, 1), (1, 2), (0, 2))]
    assert found == pytest.approx([0.625, 0.6, 0.35], abs=2e-3)
    keeps_the_first_of_a_chain(fast_nms)
    # The usual suppression is not it: there the second box has fallen before it meets the third.
    assert batched_nms(boxes, scores, labels, 0.5).tolist() == [0, 2]
    with pytest.raises(AssertionError):
        keeps_the_first_of_a_chain(lambda b, s, c: batched_nms(b, s, c, 0.5))


def slow_nms(boxes: Tensor, scores: Tensor, labels: Tensor, most: float) -> list[int]:
    order = sorted(range(len(boxes)), key=lambda i: -float(scores[i]))
    kept = []
    for rank, i in enumerate(order):
        better = [j for j in order[:rank] if labels[j] == labels[i]]
        if all(float(box_iou(boxes[i, None], boxes[j, None])) <= most for j in better):
            kept.append(i)
    return kept


@pytest.mark.parametrize("seed", range(3))
def test_fast_nms_at_once_is_its_definition_in_loops(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    near = torch.rand(40, 2, generator=generator) * 40
    boxes = torch.cat([near, near + 10 + torch.rand(40, 2, generator=generator) * 20], dim=1)
    scores = torch.rand(40, generator=generator)
    labels = torch.randint(0, 3, (40,), generator=generator)
    found = fast_nms(boxes, scores, labels, most=0.3).tolist()
    assert found == slow_nms(boxes, scores, labels, 0.3)
    assert set(found) < set(range(40))
    assert set(found) <= set(batched_nms(boxes, scores, labels, 0.3).tolist())


def test_no_box_is_none() -> None:
    none = torch.zeros(0)
    assert fast_nms(torch.zeros(0, 4), none, none.long()).tolist() == []

"""What YOLACT learns by: hardest background three to one, masks by their boxes, nothing unseen."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from maskloop.models.instances import Targets
from maskloop.models.pyramid import Trunk
from maskloop.models.yolactboxes import encoded, priors
from maskloop.models.yolactloss import inside, loss, match, of_classes, of_semantic
from maskloop.models.yolactnet import Answer, Yolact

BEGINS = priors((((24.0, 24.0),),), [(8, 8)])


def one_square(*, unseen: Tensor | None = None) -> Targets:
    """Return a square of 24 pixels round the cell in row 3, column 3."""
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, 16:40, 16:40] = True
    boxes = torch.tensor([[16.0, 16.0, 40.0, 40.0]])
    hidden = torch.zeros(64, 64, dtype=torch.bool) if unseen is None else unseen
    return Targets(boxes, torch.tensor([2]), mask, hidden)


def network(*, is_rescored: bool = False) -> Yolact:
    torch.manual_seed(0)
    trunk = Trunk("resnet18", width=0.125)
    made = Yolact(trunk, classes=2, priors=1, levels=1, features=8, prototypes=2)
    if is_rescored:
        made = Yolact(
            trunk, classes=2, priors=1, levels=1, features=8, prototypes=2, is_rescored=True
        )
    return made


def perfect(target: Targets) -> Answer:
    """Return the answer that is right in all."""
    matching = match(target, BEGINS)
    classes = torch.full((1, 64, 3), -30.0)
    classes[0, torch.arange(64), matching.classes.clamp(min=0)] = 30.0
    boxes = torch.zeros(1, 64, 4)
    mine = matching.which >= 0
    boxes[0, mine] = encoded(target.boxes[matching.which[mine]], BEGINS[mine])
    prototypes = torch.zeros(1, 2, 16, 16)
    prototypes[0, 0, 4:10, 4:10], prototypes[0, 1] = 60.0, 30.0
    coefficients = torch.tensor([1.0, -1.0]).expand(1, 64, 2).clone()
    semantic = torch.full((1, 2, 8, 8), -30.0)
    semantic[0, 1, 2:5, 2:5] = 30.0
    return Answer(boxes, classes, coefficients, prototypes, semantic, ((8, 8),))


def value(answer: Answer, target: Targets, **told: bool) -> float:
    return float(loss(network(**told), answer, [target], BEGINS))


def test_a_perfect_answer_costs_nothing_and_each_mistake_does() -> None:
    target = one_square()
    assert value(perfect(target), target) == pytest.approx(0, abs=1e-4)
    for part in ("boxes", "classes", "coefficients", "semantic"):
        answer = perfect(target)
        getattr(answer, part).zero_()
        assert value(answer, target) > 0.2, part


def test_losses_weigh_what_the_paper_says() -> None:
    target = one_square()
    objects = int((match(target, BEGINS).classes > 0).sum())
    assert objects >= 1
    answer = perfect(target)
    answer.boxes.add_(2.0)  # past 1, where smooth L1 is the distance less a half
    assert value(answer, target) == pytest.approx(1.5 * 4 * 1.5, rel=1e-4)
    answer = perfect(target)
    answer.coefficients.zero_()  # a half everywhere; the box and its rim are 8 x 8 cells of 6 x 6
    wanted = 6.125 * math.log(2) * 64 / 36
    assert value(answer, target) == pytest.approx(wanted, rel=1e-4)
    answer = perfect(target)
    assert answer.semantic is not None
    answer.semantic.zero_()
    assert value(answer, target) == pytest.approx(2 * math.log(2), rel=1e-4)


def test_only_the_hardest_background_counts_three_to_one() -> None:
    logits = torch.zeros(1, 10, 2)
    logits[0, :, 1] = torch.linspace(-3, 3, 10)
    classes = torch.zeros(1, 10, dtype=torch.int64)
    classes[0, 2], classes[0, 9] = 1, -1
    each = torch.nn.functional.softplus(logits[0, :, 1])
    # The last is left out; the three hardest of the rest are the next three.
    wanted = each[[8, 7, 6]].sum() + torch.nn.functional.softplus(-logits[0, 2, 1])
    torch.testing.assert_close(of_classes(logits, classes), wanted)
    all_of_it = torch.nn.functional.cross_entropy(logits[0, :9], classes[0, :9], reduction="sum")
    assert float(all_of_it) > float(wanted) + 0.5  # what a loss without choosing would be


def test_a_prior_between_is_neither_object_nor_background() -> None:
    begins = torch.tensor([[28.0, 28.0, 24.0, 24.0], [28.0, 36.4, 24.0, 24.0]])
    found = match(one_square(), begins)  # the second meets the square by 0.48
    assert found.classes.tolist() == [2, -1]


def test_background_that_nobody_saw_is_left_out_and_objects_are_not() -> None:
    unseen = torch.zeros(64, 64, dtype=torch.bool)
    unseen[:, 44:] = True
    seen, half = match(one_square(), BEGINS), match(one_square(unseen=unseen), BEGINS)
    columns = torch.arange(64) % 8
    assert (half.classes[columns == 7] == -1).all()
    assert (seen.classes[columns == 7] == 0).all()
    assert torch.equal(seen.classes[columns < 4], half.classes[columns < 4])
    whole = match(one_square(unseen=torch.ones(64, 64, dtype=torch.bool)), BEGINS)
    assert set(whole.classes.tolist()) == {-1, 2}


def test_cells_that_nobody_saw_count_in_no_mask_and_no_map() -> None:
    unseen = torch.zeros(64, 64, dtype=torch.bool)
    unseen[16:28] = True
    target = one_square(unseen=unseen)
    answer = perfect(target)
    answer.prototypes.requires_grad_()
    assert answer.semantic is not None
    answer.semantic.requires_grad_()
    loss(network(), answer, [target], BEGINS).backward()
    for values, step in ((answer.prototypes, 4), (answer.semantic, 8)):
        assert values.grad is not None
        rows = values.grad[0].abs().sum(dim=(0, 2))
        assert not rows[-(-16 // step) : 28 // step].any()


def test_a_map_of_classes_learns_where_any_object_of_a_class_is() -> None:
    first = torch.zeros(3, 16, 16, dtype=torch.bool)
    first[0, :8, :8] = first[1, :8, 8:] = first[2, 8:] = True
    none = torch.zeros(16, 16, dtype=torch.bool)
    target = Targets(torch.zeros(3, 4), torch.tensor([1, 1, 2]), first, none)
    right = torch.full((1, 2, 4, 4), -30.0)
    right[0, 0, :2] = right[0, 1, 2:] = 30.0
    assert float(of_semantic(right, [target])) == pytest.approx(0, abs=1e-6)
    assert float(of_semantic(-right, [target])) == pytest.approx(30 * 2, rel=1e-3)


def test_a_box_and_its_rim() -> None:
    found = inside(torch.tensor([[2.0, 1.0, 4.0, 2.0]]), (5, 6), rim=0.0)
    assert found[0].nonzero().tolist() == [[1, 2], [1, 3]]
    assert int(inside(torch.tensor([[2.0, 1.0, 4.0, 2.0]]), (5, 6)).sum()) == 3 * 4


def test_rescoring_learns_the_masks_own_iou() -> None:
    target = one_square()
    net = network(is_rescored=True)
    assert net.rescoring is not None
    answer = perfect(target)
    last = net.rescoring.layers[-2]
    assert isinstance(last, torch.nn.Conv2d)
    torch.nn.init.zeros_(last.weight)
    for said, wanted in ((1.0, 0.0), (0.5, 25 * 0.5 * 0.25)):
        torch.nn.init.constant_(last.bias, said)
        found = float(loss(net, answer, [target], BEGINS).detach())
        assert found == pytest.approx(wanted, abs=1e-3)


def test_a_batch_without_objects_is_finite_and_has_gradients() -> None:
    nothing = Targets(
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, 64, 64, dtype=torch.bool),
        torch.zeros(64, 64, dtype=torch.bool),
    )
    answer = perfect(one_square())
    answer.classes.requires_grad_()
    found = loss(network(), answer, [nothing], BEGINS)
    found.backward()
    assert torch.isfinite(found)
    assert answer.classes.grad is not None
    # Three priors of the background, the hardest: those sure of an object.
    assert int((answer.classes.grad.abs().sum(2) > 1e-3).sum()) in range(1, 4)

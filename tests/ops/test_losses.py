"""Losses against MONAI's and by hand; ignored voxels weigh nothing."""

from __future__ import annotations

import pytest
import torch

from maskloop.ops.losses import dice_bce, dice_ce, soft_dice


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 7, 8, generator=generator)
    target = torch.randint(0, 3, (2, 6, 7, 8), generator=generator)
    return logits, target


@pytest.mark.parametrize("ignore", [255, -1])
def test_ignored_voxels_change_neither_loss_nor_gradient(case, ignore):
    logits, target = case
    target[:, 2:4] = ignore
    wild = logits.clone()
    wild[:, :, 2:4] = torch.randn_like(wild[:, :, 2:4]) * 50
    found = []
    for scores in (logits.clone(), wild):
        scores.requires_grad_()
        loss = dice_ce(scores, target, ignore=ignore)
        loss.backward()
        assert not scores.grad[:, :, 2:4].any()
        found.append((float(loss.detach()), scores.grad[:, :, 4:].clone()))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1])


def test_a_case_that_nobody_reviewed_gives_zero_and_a_zero_gradient(case):
    logits, target = case
    logits.requires_grad_()
    loss = dice_ce(logits, torch.full_like(target, 255))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


def test_a_perfect_answer_costs_almost_nothing_and_a_wrong_one_much(case):
    _, target = case
    right = torch.nn.functional.one_hot(target, 3).movedim(-1, 1) * 30.0
    assert float(dice_ce(right, target)) < 1e-4
    assert float(dice_ce(right.roll(1, dims=1), target)) > 5


def test_dice_equals_the_formula_over_the_batch():
    probabilities = torch.tensor([[[0.3, 0.9]], [[0.7, 0.1]]]).movedim(0, 1)  # 1 x 2 x 2
    loss = soft_dice(probabilities, torch.tensor([[1, 0]]))
    assert float(loss.detach()) == pytest.approx(1 - 2 * 0.7 / (0.8 + 1), abs=1e-4)


def test_dice_and_cross_entropy_equal_monais(case):
    monai = pytest.importorskip("monai.losses")
    logits, target = case
    theirs = monai.DiceCELoss(
        to_onehot_y=True, softmax=True, include_background=False, batch=True, smooth_nr=1e-5
    )(logits, target.unsqueeze(1))
    assert float(dice_ce(logits, target)) == pytest.approx(float(theirs) / 2, abs=1e-5)


def test_class_weights_move_the_loss_towards_the_heavy_class(case):
    _, target = case
    right = torch.nn.functional.one_hot(target, 3).movedim(-1, 1) * 8.0
    missing_two = right.clone()
    missing_two[:, 2] = -8.0
    light = dice_ce(missing_two, target, class_weights=torch.tensor([1.0, 1.0, 0.1]))
    heavy = dice_ce(missing_two, target, class_weights=torch.tensor([1.0, 1.0, 10.0]))
    assert float(heavy) > 2 * float(light)


def test_binary_loss_ignores_what_nobody_reviewed():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 1, 9, 9, generator=generator, requires_grad=True)
    target = (torch.rand(2, 1, 9, 9, generator=generator) > 0.6).float()
    reviewed = torch.ones(2, 1, 9, 9, dtype=torch.bool)
    reviewed[:, :, :4] = False
    loss = dice_bce(logits, target, reviewed=reviewed)
    loss.backward()
    assert not logits.grad[:, :, :4].any()
    assert logits.grad[:, :, 4:].any()
    cropped = dice_bce(logits.detach()[:, :, 4:], target[:, :, 4:])
    assert float(loss.detach()) == pytest.approx(float(cropped), abs=1e-6)
    nothing = dice_bce(logits.detach(), target, reviewed=torch.zeros_like(reviewed))
    assert float(nothing) == 0

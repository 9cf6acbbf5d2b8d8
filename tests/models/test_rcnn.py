"""What makes a detector of two stages the paper's: each bar, and the simplification it catches."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import MultiScaleRoIAlign, roi_pool

from maskloop.core.labels import LabelTable
from maskloop.models.inspect import inspect_card
from maskloop.models.maskrcnn import FAMILY
from maskloop.models.pasting import View, from_boxes
from tests.models import overfit

LABELS = LabelTable.classes({1: "disc", 2: "square"})
NARROW = {"backbone": "resnet18", "width": 0.25, "features": 16, "norm": "group"}


def network(variant: str = "resnet50", **told: object) -> torch.nn.Module:
    card = FAMILY.card(variant, LABELS)
    torch.manual_seed(1)
    return FAMILY.build(dataclasses.replace(card, parameters={**card.parameters, **NARROW, **told}))


@pytest.mark.parametrize(
    ("variant", "parameters", "side"),
    [("resnet50", 44_401_393, 28), ("resnet50-v2", 46_359_409, 28), ("c4", 36_023_085, 14)],
)
def test_parameters_and_masks_are_the_papers(variant: str, parameters: int, side: int) -> None:
    labels = LabelTable.classes([f"class {i}" for i in range(1, 91)])
    found = inspect_card(FAMILY.card(variant, labels), (256, 320))
    assert found.parameters == parameters
    assert found.output_shape == [100, 91, side, side]


def ramp(size: int = 32) -> dict[str, torch.Tensor]:
    """Return P2 of 128 pixels whose value is the column's number."""
    return {"0": torch.arange(size, dtype=torch.float32).expand(1, 1, size, size)}


def test_regions_are_aligned_exactly_on_a_ramp_where_rounding_errs() -> None:
    pool = network().roi_heads.box_roi_pool
    pool.featmap_names = ["0"]
    box = torch.tensor([[17.3, 20.9, 70.1, 61.7]])
    found = pool(ramp(), [box], [(128, 128)])[0, 0]
    left, right = box[0, 0] / 4, box[0, 2] / 4
    wanted = left + (torch.arange(7) + 0.5) * (right - left) / 7
    assert (found - wanted).abs().max() < 1e-5
    # RoIPool's whole cells are more than half a cell off somewhere.
    rounded = roi_pool(ramp()["0"], [box], (7, 7), 1 / 4)[0, 0]
    assert (rounded - wanted).abs().max() > 0.5


def test_a_third_of_a_cell_moves_what_is_aligned_and_not_what_is_rounded() -> None:
    pool = network().roi_heads.box_roi_pool
    pool.featmap_names = ["0"]
    box = torch.tensor([[16.2, 20.2, 72.2, 60.2]])
    moved = box + torch.tensor([1.2, 0, 1.2, 0])  # 0.3 cells
    one, other = (pool(ramp(), [b], [(128, 128)]) for b in (box, moved))
    assert (other - one - 0.3).abs().max() < 1e-5
    a, b = (roi_pool(ramp()["0"], [b], (7, 7), 1 / 4) for b in (box, moved))
    assert torch.equal(a, b)


def test_a_boxs_level_is_that_of_equation_1() -> None:
    mapper = network().roi_heads.box_roi_pool.map_levels
    rng = np.random.default_rng(0)
    sides = np.exp(rng.uniform(math.log(20), math.log(900), (200, 2)))
    boxes = torch.tensor([[0, 0, w, h] for w, h in sides])
    wanted = [min(5, max(2, math.floor(4 + math.log2(math.sqrt(w * h) / 224)))) for w, h in sides]
    assert (mapper([boxes]) + 2).tolist() == wanted
    assert len(set(wanted)) == 4
    # On C4 there is one level for all.
    assert set(network("c4").roi_heads.box_roi_pool.map_levels([boxes]).tolist()) == {0}


def test_the_scale_of_a_small_padded_picture_is_told_not_guessed() -> None:
    maps = {str(i): torch.rand(1, 1, 16 >> i, 16 >> i) for i in range(4)}
    box = torch.tensor([[4.0, 4.0, 30.0, 30.0]])
    told = network().roi_heads.box_roi_pool
    guessed = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, sampling_ratio=2)
    right = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, sampling_ratio=2)
    wanted = right(maps, [box], [(64, 64)])
    assert torch.equal(told(maps, [box], [(40, 40)]), wanted)
    # 40 rows of picture in 64: torchvision takes a step of 4 for one of 2.
    assert not torch.equal(guessed(maps, [box], [(40, 40)]), wanted)


def test_each_class_has_a_mask_of_its_own() -> None:
    heads = network().roi_heads
    features = torch.rand(3, 16, 14, 14)

    def masks() -> torch.Tensor:
        scores = heads.mask_predictor(heads.mask_head(features))
        return torch.stack([scores.sigmoid(), scores.softmax(1)])[:, :, 1]

    with torch.no_grad():
        before = masks()
        heads.mask_predictor.mask_fcn_logits.weight[2] += 1
        after = masks()
    assert torch.equal(before[0], after[0])
    # One softmax over the classes would let them compete.
    assert (before[1] - after[1]).abs().max() > 0.01


def test_the_fifth_stage_of_c4_steps_nowhere_and_is_saved_once() -> None:
    net = network("c4")
    stage = net.backbone.body.get_submodule("layer4")
    assert all(p.stride == (1, 1) for p in stage.modules() if isinstance(p, torch.nn.Conv2d))
    pooled = torch.rand(2, net.backbone.out_channels, 7, 7)
    assert net.roi_heads.mask_head(pooled).shape[-2:] == (7, 7)
    masks = net.roi_heads.mask_predictor(net.roi_heads.mask_head(pooled))
    assert masks.shape == (2, 3, 14, 14)
    names = [name for name in net.state_dict() if "layer4" in name]
    assert names
    assert all(name.startswith("backbone.body.layer4") for name in names)
    net.roi_heads.box_head(pooled).sum().backward()
    assert stage[0].conv1.weight.grad is not None


@pytest.mark.parametrize("size", [(64, 80), (96, 60)])
def test_masks_in_boxes_are_those_pasted_in_whole_pictures(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    masks = torch.rand(12, 28, 28)
    corners = torch.rand(12, 2) * 60 - 8
    boxes = torch.cat([corners, corners + 2 + torch.rand(12, 2) * 40], 1)
    view = View(torch.zeros(1, 3, 64, 96), (64, 80), size)
    found = from_boxes(masks, boxes, view)
    whole = paste_masks_in_image(masks[:, None], view.on_image(boxes), size)[:, 0] > 0.5
    for wanted, part in zip(whole.numpy(), found, strict=True):
        mine = np.zeros(size, bool)
        if part is not None:
            assert part[1].shape == tuple(side.stop - side.start for side in part[0])
            mine[part[0]] = part[1]
        np.testing.assert_array_equal(mine, wanted)


@pytest.mark.parametrize("recipe", ["paper", "cpu"])
def test_recipes_set_what_the_card_knows(recipe: str) -> None:
    card = FAMILY.card("", LABELS)
    more = card.parameters["recipes"][recipe].get("parameters", {})
    small = dataclasses.replace(card, parameters={**card.parameters, **more})
    with torch.device("meta"):
        count = sum(p.numel() for p in FAMILY.build(small).parameters())
    assert (count < 5_000_000) == (recipe == "cpu")
    assert "shortest" not in small.parameters  # pictures are seen at their own size


def overfit_card() -> dict[str, object]:
    card = FAMILY.card("", overfit.LABELS)
    few = {"backbone": "resnet18", "width": 0.5, "features": 64, "patch": [64, 64]}
    return {"family": FAMILY, "card": dataclasses.replace(card, parameters=card.parameters | few)}


@pytest.mark.slow
def test_two_pictures_are_learnt_by_heart(tmp_path: Path) -> None:
    cases = [overfit.picture(seed, 64) for seed in (0, 1)]
    score, _ = overfit.learn_objects(**overfit_card(), cases=cases, folder=tmp_path, steps=50)
    assert score >= 0.80


@pytest.mark.slow
def test_shuffled_labels_are_not_learnt(tmp_path: Path) -> None:
    cases = [overfit.shuffled(overfit.picture(seed, 64)) for seed in (0, 1)]
    score, _ = overfit.learn_objects(**overfit_card(), cases=cases, folder=tmp_path, steps=50)
    assert score < 0.40

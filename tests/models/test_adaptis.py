"""AdaptIS: the paper's network and rules; what its points learn; what it draws."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskloop.core.errors import WeightsError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.models import adaptistargets as goals
from maskloop.models.adaptis import FAMILY, as_used, rules_of
from maskloop.models.adaptisnet import AdaIN, AdaptIS, Seen, ToyUNet, places_from
from maskloop.models.adaptispicks import Drawn, Picking, candidates, drawn, on_image, picked
from maskloop.models.base import IGNORE, Clicks, Volume
from maskloop.models.cards import ModelCard
from maskloop.models.inspect import inspect
from maskloop.models.instances import targets_of
from maskloop.models.pasting import View
from maskloop.ops.device import CPU
from tests.models.overfit import LABELS, learn_objects, picture, shuffled


def card(variant: str = "toy", **told: object) -> ModelCard:
    """Return the card of a narrow network."""
    fresh = FAMILY.card(variant, LABELS)
    few: dict[str, object] = {"width": 0.25, "features": 8, "points": 4, "proposal_points": 10}
    return dataclasses.replace(fresh, parameters={**fresh.parameters, **few, **told})


def network(variant: str = "toy", **told: object) -> AdaptIS:
    torch.manual_seed(0)
    built = FAMILY.build(card(variant, **told))
    assert isinstance(built, AdaptIS)
    return built


def objects(size: int = 64) -> Tensor:
    """Return ids of two discs, and a corner that nobody looked at."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    ids = torch.zeros((size, size), dtype=torch.int64)
    ids[(y - 20) ** 2 + (x - 18) ** 2 < 81] = 1
    ids[(y - 42) ** 2 + (x - 40) ** 2 < 121] = 2
    ids[-6:, :6] = IGNORE
    return ids


# The network


def test_the_toy_network_has_the_papers_parameters() -> None:
    found = inspect("adaptis", variant="toy", classes=2, channels=3)
    assert found.parameters == 6_794_634
    with torch.device("meta"):
        built = FAMILY.build(FAMILY.card("toy", LabelTable.classes(["thing"])))
    assert isinstance(built, AdaptIS)
    assert sum(p.numel() for p in built.head.parameters()) == 38_945


def test_a_head_without_its_controller_has_other_parameters() -> None:
    head = AdaptIS(ToyUNet(3, 32), 32, 2).head
    head.controller = nn.Sequential()
    assert sum(p.numel() for p in head.parameters()) != 38_945


def test_transposed_convolutions_begin_as_interpolation() -> None:
    for layer in (part for part in network().modules() if _is_up(part)):
        flat = torch.ones(1, layer.in_channels, 4, 4)
        inside = layer(flat)[..., 1:-1, 1:-1]
        torch.testing.assert_close(inside, torch.ones_like(inside))


def _is_up(part: nn.Module) -> bool:
    return isinstance(part, nn.ConvTranspose2d)


def test_adain_gives_the_mean_and_the_deviation_that_the_point_asks_for() -> None:
    torch.manual_seed(0)
    layer = AdaIN(6)
    x, told = torch.randn(3, 6, 40, 30) * 5 + 2, torch.randn(3, 6)
    found = layer(x, told)
    torch.testing.assert_close(found.mean((2, 3)), layer.shift(told), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        found.std((2, 3), correction=0), layer.scale(told).abs(), atol=1e-4, rtol=1e-4
    )


def test_without_normalising_the_mean_would_be_the_features_own() -> None:
    torch.manual_seed(0)
    layer = AdaIN(6)
    x, told = torch.randn(3, 6, 40, 30) * 5 + 2, torch.randn(3, 6)
    plain = x * layer.scale(told)[..., None, None] + layer.shift(told)[..., None, None]
    assert (plain.mean((2, 3)) - layer.shift(told)).abs().max() > 0.5


def test_the_scale_begins_near_one() -> None:
    assert bool((AdaIN(4).scale.bias == 1).all())


@pytest.mark.parametrize("stride", [1, 4])
def test_relative_coordinates_are_offsets_and_a_distance_clipped_at_the_reach(stride: int) -> None:
    point = torch.tensor([[9.5, 5.5]])
    found = places_from(point, torch.zeros(1, 2), (8, 8), stride=stride, reach=10.0)[0]
    centre = (torch.arange(8) + 0.5) * stride - 0.5
    dy, dx = (centre - 9.5) / 10, (centre - 5.5) / 10
    torch.testing.assert_close(found[0, :, 0], dy.clamp(-1, 1))
    torch.testing.assert_close(found[1, 0], dx.clamp(-1, 1))
    torch.testing.assert_close(
        found[2], (dy[:, None] ** 2 + dx[None] ** 2).sqrt().clamp(max=1), atol=1e-6, rtol=1e-6
    )


def test_two_points_of_the_same_features_give_two_masks() -> None:
    net = network()
    seen = net(torch.randn(1, 3, 64, 64))
    points = torch.tensor([[20.0, 18.0], [42.0, 40.0]])
    which = torch.zeros(2, dtype=torch.int64)
    logits, _ = net.objects_at(seen, which, points, side=0, reach=42.0)
    assert logits.shape == (2, 64, 64)
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_coordinates_alone_move_the_mask() -> None:
    net = network()
    seen = net(torch.randn(1, 3, 64, 64))
    # The controller says the same everywhere: only the coordinates tell the points apart.
    seen = dataclasses.replace(seen, told=torch.ones_like(seen.told))
    which = torch.zeros(2, dtype=torch.int64)
    points = torch.tensor([[20.0, 18.0], [42.0, 40.0]])
    moved, _ = net.objects_at(seen, which, points, side=0, reach=42.0)
    assert (moved[0] - moved[1]).abs().max() > 1e-3
    far = 1e9  # so far that every offset is nothing
    still, _ = net.objects_at(seen, which, points, side=0, reach=far)
    torch.testing.assert_close(still[0], still[1], atol=1e-5, rtol=1e-4)


def test_a_window_is_cut_round_its_point_and_kept_inside_the_picture() -> None:
    net = network()
    seen = net(torch.randn(1, 3, 64, 64))
    points = torch.tensor([[32.0, 32.0], [0.0, 63.0]])
    which = torch.zeros(2, dtype=torch.int64)
    logits, starts = net.objects_at(seen, which, points, side=32, reach=16.0)
    assert logits.shape == (2, 32, 32)
    assert starts.tolist() == [[16, 16], [0, 32]]


@pytest.mark.parametrize(("variant", "stride"), [("toy", 1), ("resnet50", 4)])
def test_each_variant_answers_at_its_stride(variant: str, stride: int) -> None:
    told = {"backbone": "resnet18"} if variant == "resnet50" else {}
    net = network(variant, **told)
    seen = net(torch.randn(1, 3, 64, 64))
    assert seen.features.shape[2:] == (64 // stride, 64 // stride)
    assert seen.classes.shape[1] == 3
    assert seen.proposals.shape[1] == 1


def test_the_resnet_ends_at_a_sixteenth_and_dilates_its_last_stage() -> None:
    net = network("resnet50", backbone="resnet18")
    trunk = net.backbone.trunk
    assert [m.shape[-1] for m in trunk(torch.randn(1, 3, 64, 64))] == [16, 8, 4, 4]


# Learning


def test_focal_weights_sum_to_the_pixels_seen() -> None:
    torch.manual_seed(0)
    chances, is_seen = torch.rand(3, 20, 20), torch.rand(3, 20, 20) > 0.2
    weights = goals.focal_weights(chances, is_seen)
    torch.testing.assert_close(weights.sum((1, 2)), is_seen.sum((1, 2)).float())
    assert not weights.requires_grad
    assert bool((weights[~is_seen] == 0).all())
    plain = (1 - chances) ** goals.GAMMA * is_seen  # the focal loss that is not normalised
    assert not torch.allclose(plain.sum((1, 2)), is_seen.sum((1, 2)).float(), rtol=0.05)
    assert bool((goals.focal_weights(torch.ones(1, 4, 4), torch.ones(1, 4, 4) > 0) == 1).all())


def test_the_gradient_of_the_normalised_loss_does_not_fade_as_it_learns() -> None:
    def slope(normalised: bool, sure: float) -> float:
        logits = torch.full((1, 8, 8), sure, requires_grad=True)
        truth = torch.ones(1, 8, 8, dtype=torch.bool)
        if normalised:
            loss = goals.object_loss(logits, truth, truth)
        else:
            hard = (1 - logits.sigmoid().detach()) ** goals.GAMMA
            loss = 0.5 * (hard * -nn.functional.logsigmoid(logits)).mean()
        loss.backward()
        assert logits.grad is not None
        return float(logits.grad.abs().sum()) / (1 - float(torch.tensor(sure).sigmoid()))

    assert slope(True, 4.0) == pytest.approx(slope(True, 0.0), rel=1e-4)
    assert slope(False, 4.0) < 0.01 * slope(False, 0.0)


def test_losses_do_not_look_where_nobody_did() -> None:
    logits = torch.zeros(1, 4, 4)
    truth = torch.zeros(1, 4, 4, dtype=torch.bool)
    is_seen = torch.ones_like(truth)
    is_seen[0, 0] = False
    wrong = logits.clone()
    wrong[0, 0] = 50.0
    assert goals.object_loss(wrong, truth, is_seen) == goals.object_loss(logits, truth, is_seen)
    assert goals.object_loss(wrong, truth, torch.ones_like(truth)) > 1
    classes = torch.full((1, 4, 4), IGNORE)
    assert goals.class_loss(torch.randn(1, 3, 4, 4), classes) == 0


def test_points_lie_in_their_objects() -> None:
    targets = targets_of(objects(), {1: 1, 2: 2})
    points, numbers = goals.points_in(targets, 40)
    assert set(numbers.tolist()) == {0, 1}
    assert all(
        bool(targets.masks[n, y, x])
        for (y, x), n in zip(points.tolist(), numbers.tolist(), strict=True)
    )
    some, number = goals.points_of_one(targets, 10)
    assert bool(targets.masks[number][some[:, 0], some[:, 1]].all())


def test_the_worst_three_of_ten_points_are_no_proposals() -> None:
    found = goals.worth(torch.tensor([0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.4, 0.6, 0.5, 0.55]))
    assert found.tolist() == pytest.approx(
        [0, 1.0, 0, 0.95, 0, 0.9, 0.7, 0.85, 0.75, 0.8], abs=1e-6
    )


def test_an_overlap_counts_what_of_the_object_lies_beyond_the_window() -> None:
    is_in = torch.ones(1, 4, 4, dtype=torch.bool)
    everywhere = torch.ones_like(is_in)
    assert goals.overlaps(is_in, everywhere, everywhere, 16).item() == 1.0
    assert goals.overlaps(is_in, everywhere, everywhere, 64).item() == 0.25


def _gradients(net: AdaptIS, proposals: Tensor) -> dict[str, bool]:
    net.zero_grad(set_to_none=True)
    proposals.sum().backward()
    return {
        name: any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in part.parameters())
        for name, part in net.named_children()
    }


def test_proposals_teach_their_own_head_and_nothing_else() -> None:
    net = network().train()
    images = torch.randn(2, 3, 64, 64)
    assert _gradients(net, net(images).proposals) == {
        "backbone": False,
        "semantic": False,
        "proposal": True,
        "head": False,
    }
    # Were the features not cut off, the backbone would learn from them.
    assert _gradients(net, net.proposal(net.backbone(images)))["backbone"]


def test_a_part_answers_as_when_predicting_and_is_then_as_before() -> None:
    head = network().train().head
    head.adain.eval()
    modes = [part.training for part in head.modules()]
    with as_used(head):
        assert not any(part.training for part in head.modules())
    assert [part.training for part in head.modules()] == modes


def test_pictures_without_objects_train() -> None:
    net = network().train()
    empty = targets_of(torch.zeros((64, 64), dtype=torch.int64), {})
    loss = FAMILY.losses(net, torch.randn(1, 3, 64, 64), [empty], card=card())
    assert torch.isfinite(loss)
    loss.backward()


def test_a_survey_fits_the_window_and_leaves_what_a_card_tells() -> None:
    ids = objects().clamp_min(0).numpy().astype(np.uint8)
    volume = Volume(np.zeros((3, 64, 64), np.float32), ids, None, {1: 1, 2: 1})
    found = FAMILY.survey(card(), [volume]).parameters
    assert (found["head_window"], found["reach"]) == (64, 32)
    assert FAMILY.survey(card(head_window=128), [volume]).parameters["head_window"] == 128
    assert "reach" in FAMILY.survey(card(head_window=128), [volume]).parameters
    empty = Volume(np.zeros((3, 64, 64), np.float32), np.zeros((64, 64), np.uint8), None, {})
    assert "head_window" not in FAMILY.survey(card(), [empty]).parameters


def test_the_toy_has_no_classifier_to_begin_on_and_the_resnet_has() -> None:
    from maskloop.models.pyramid import Trunk

    with pytest.raises(WeightsError, match="residual backbone"):
        FAMILY.begin(card(), {})
    state = Trunk("resnet18", width=0.25).state_dict()
    told = card("resnet50", backbone="resnet18")
    begun = FAMILY.begin(told, state)
    assert isinstance(begun, AdaptIS)
    trunk: Any = begun.backbone.trunk
    assert torch.equal(trunk.conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize("variant", ["toy", "resnet50"])
def test_a_network_for_other_classes_keeps_all_but_the_scores(variant: str) -> None:
    told: dict[str, object] = {"backbone": "resnet18"} if variant == "resnet50" else {}
    state = network(variant, **told).state_dict()
    other = dataclasses.replace(card(variant, **told), labels=LabelTable.classes(list("abcd")))
    begun = FAMILY.begin(other, state).state_dict()
    assert begun["semantic.9.weight"].shape[0] == 5
    changed = {k for k, v in begun.items() if k not in state or not torch.equal(v, state[k])}
    assert changed == {"semantic.9.weight", "semantic.9.bias"}


# Drawing


class Discs(nn.Module):
    """Stands for a network: every point's object is a disc of `radius` round a known middle."""

    stride = 1

    def __init__(self, middles: list[tuple[int, int]], radius: int) -> None:
        super().__init__()
        self.middles, self.radius = middles, radius

    def objects_at(
        self, seen: Seen, which: Tensor, points: Tensor, *, side: int, reach: float
    ) -> tuple[Tensor, Tensor]:
        size = seen.features.shape[2:]
        y, x = torch.meshgrid(*(torch.arange(n) for n in size), indexing="ij")
        masks = []
        for row, column in points.tolist():
            near = min(self.middles, key=lambda m: (m[0] - row) ** 2 + (m[1] - column) ** 2)
            inside = (y - near[0]) ** 2 + (x - near[1]) ** 2 <= self.radius**2
            masks.append(torch.where(inside, 5.0, -5.0))
        return torch.stack(masks), torch.zeros(len(points), 2, dtype=torch.int64)


def seen_at(points: list[tuple[int, int, float]], size: int = 64) -> Seen:
    """Return a sight whose proposals peak at points (y, x, worth) and where all is a thing."""
    proposals = torch.full((1, 1, size, size), -9.0)
    for y, x, worth in points:
        proposals[..., y - 2 : y + 3, x - 2 : x + 3] = torch.logit(torch.tensor(worth))
    classes = torch.zeros(1, 2, size, size)
    classes[:, 1] = 9.0
    features = torch.zeros(1, 1, size, size)
    return Seen(features, features, classes, proposals)


def test_the_best_free_point_goes_first_and_no_two_objects_share_too_much() -> None:
    middles = [(20, 20), (20, 28), (44, 44)]  # the first two overlap by half
    seen = seen_at([(20, 18, 0.9), (20, 31, 0.8), (44, 44, 0.7)])
    net: Any = Discs(middles, 9)
    found = picked(net, seen, Picking(), size=(64, 64))
    assert [one.worth for one in found] == sorted((one.worth for one in found), reverse=True)
    assert len(found) == 2
    for k, one in enumerate(found):
        for other in found[:k]:
            a, b = one.chances > 0.5, other.chances > 0.5
            assert int((a & b).sum()) <= 0.4 * int(a.sum())
    # Without that rule all three would be drawn.
    free = picked(net, seen, Picking(most_shared=1.0, spread=0), size=(64, 64))
    assert len(free) == 3


def test_a_point_inside_a_found_object_is_not_asked() -> None:
    seen = seen_at([(20, 18, 0.9), (20, 24, 0.8)])
    net: Any = Discs([(20, 20)], 9)
    assert len(picked(net, seen, Picking(most_shared=1.0), size=(64, 64))) == 1


def test_points_lie_on_things_and_inside_the_picture() -> None:
    seen = seen_at([(20, 18, 0.9), (60, 60, 0.8)])
    net: Any = Discs([(20, 20), (60, 60)], 5)
    assert len(picked(net, seen, Picking(), size=(64, 64))) == 2
    assert len(picked(net, seen, Picking(), size=(50, 50))) == 1
    seen.classes[..., :30, :30] = torch.tensor([9.0, -9.0])[None, :, None, None]
    assert len(picked(net, seen, Picking(), size=(64, 64))) == 1


def test_tiny_objects_are_dropped() -> None:
    seen = seen_at([(20, 20, 0.9)])
    net: Any = Discs([(20, 20)], 1)
    assert picked(net, seen, Picking(), size=(64, 64)) == []
    assert len(picked(net, seen, Picking(least_area=5), size=(64, 64))) == 1


def test_candidates_come_the_best_first_and_above_the_least_worth() -> None:
    cells, worths = candidates(seen_at([(20, 20, 0.6), (40, 40, 0.9), (50, 10, 0.2)]), Picking())
    assert cells.tolist() == [[40, 40], [20, 20]]
    assert bool((worths[:-1] >= worths[1:]).all())


def test_an_object_that_its_window_cuts_is_looked_at_in_a_wider_one() -> None:
    sides: list[int] = []

    class Wide(Discs):
        def objects_at(
            self, seen: Seen, which: Tensor, points: Tensor, *, side: int, reach: float
        ) -> tuple[Tensor, Tensor]:
            sides.append(side)
            logits, _ = super().objects_at(seen, which, points, side=side, reach=reach)
            starts = (points - side / 2).round().long().clamp(0, 64 - side)
            y, x = starts[0].tolist()
            return logits[:, y : y + side, x : x + side], starts

    net: Any = Wide([(32, 32)], 12)
    rules = Picking(side=16)
    ((chances, start),) = drawn(net, seen_at([]), torch.tensor([[32.0, 32.0]]), rules)
    assert sides == [16, 32]
    assert (tuple(chances.shape), start) == ((32, 32), (16, 16))


@pytest.mark.parametrize("stride", [1, 4])
def test_an_object_of_a_window_comes_back_to_the_images_pixels(stride: int) -> None:
    # The network saw the picture twice as large.
    view = View(torch.zeros(1, 3, 128, 128), (128, 128), (64, 64))
    cells = 128 // stride
    y, x = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
    centre, radius = (cells / 2, cells / 4), cells / 8
    whole = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2).float()
    cut = 8
    window = Drawn(whole[cut:, : cells - cut], (cut, 0))
    found = on_image(window, view, stride, 0.5)
    assert found is not None
    box, chances = found
    middle = [part.start + np.nonzero(chances > 0.5)[a].mean() for a, part in enumerate(box)]
    wanted = [(c + 0.5) * stride / 2 - 0.5 for c in centre]
    assert np.allclose(middle, wanted, atol=0.6)
    area = np.pi * (radius * stride / 2) ** 2
    assert np.count_nonzero(chances > 0.5) == pytest.approx(area, rel=0.15)
    assert on_image(Drawn(torch.zeros(4, 4), (0, 0)), view, stride, 0.5) is None


# Clicking


def test_the_family_answers_clicks_on_the_images_grid() -> None:
    assert isinstance(FAMILY, Clicks)
    told, net = card(head_window=32, reach=16), network()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    image = Image(pixels, Geometry.pixels((50, 70)), has_channels=True)
    sight = FAMILY.look(net, image, card=told, device=CPU, job=Job())
    assert [(part.start, part.stop) for part in sight.box] == [(0, 50), (0, 70)]
    with torch.no_grad():
        net.head.after[-1].bias.fill_(1e3)  # every pixel is inside
    found = FAMILY.answer(net, sight, (10, 60), card=told)
    assert found is not None
    assert found.category in {"disc", "square"}
    assert found.chances.dtype == np.float32
    assert found.chances.shape == tuple(part.stop - part.start for part in found.box)
    assert found.box[0].start <= 10 < found.box[0].stop
    assert found.box[1].start <= 60 < found.box[1].stop
    with torch.no_grad():
        net.head.after[-1].bias.fill_(-1e3)
    assert FAMILY.answer(net, sight, (10, 60), card=told) is None


def test_of_a_large_picture_the_part_round_the_point_is_seen() -> None:
    told, net = card(head_window=32, reach=16, window=64), network()
    pixels = np.random.default_rng(0).integers(0, 256, (150, 170, 3), dtype=np.uint8)
    image = Image(pixels, Geometry.pixels((150, 170)), has_channels=True)
    sight = FAMILY.look(net, image, card=told, device=CPU, job=Job(), near=(140, 80))
    assert [(part.start, part.stop) for part in sight.box] == [(86, 150), (48, 112)]
    whole = card(head_window=32, reach=16)
    assert rules_of(told) == rules_of(whole)
    with torch.no_grad():
        net.head.after[-1].bias.fill_(1e3)
    found = FAMILY.answer(net, sight, (140, 80), card=told)
    assert found is not None
    assert all(
        part.start >= seen.start and part.stop <= seen.stop
        for part, seen in zip(found.box, sight.box, strict=True)
    )


@pytest.fixture(params=["toy", "resnet50"])
def learner(request: pytest.FixtureRequest) -> ModelCard:
    told = {"width": 0.5, "features": 32, "head_window": 0, "reach": 42}
    if request.param == "resnet50":
        told = {"width": 0.5, "features": 32, "backbone": "resnet18", "enlarge": 2.0}
        told |= {"head_window": 0, "reach": 84, "normalise": "zscore"}
    return card(request.param, points=8, **told)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_pictures_are_learnt_by_heart_and_dealt_labels_are_not(
    learner: ModelCard, tmp_path: Path
) -> None:
    cases = [picture(0, 64), picture(1, 64)]
    steps = 80 if learner.variant == "toy" else 150
    score, spare = learn_objects(FAMILY, learner, cases, tmp_path / "true", steps=steps)
    assert score >= 0.75
    assert spare <= 1
    noise = [shuffled(case) for case in cases]
    control, _ = learn_objects(FAMILY, learner, noise, tmp_path / "noise", steps=steps)
    assert control < 0.75

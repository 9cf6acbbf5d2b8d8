"""YOLACT: the paper's parts, each held to a bar that its simplification does not pass."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import DeformConv2d

from maskloop.core.errors import InputError
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.models import yolact
from maskloop.models.base import IGNORE, Batch, Volume
from maskloop.models.cards import ModelCard, WeightFile
from maskloop.models.inspect import inspect
from maskloop.models.pasting import View, from_maps
from maskloop.models.yolact import FAMILY, assembled
from maskloop.models.yolactboxes import papers
from maskloop.models.yolactnet import Answer, Deformable, Rescoring, Yolact
from maskloop.ops.device import CPU
from tests.models.overfit import LABELS, Case, learn_objects, picture, shuffled

NARROW = {"backbone": "resnet18", "width": 0.25, "features": 16, "patch": [64, 64]}


def narrow(variant: str = "resnet50", **told: object) -> ModelCard:
    card = FAMILY.card(variant, LABELS)
    return dataclasses.replace(card, parameters={**card.parameters, **NARROW, **told})


def built(card: ModelCard, seed: int = 0) -> Yolact:
    torch.manual_seed(seed)
    network = FAMILY.build(card)
    assert isinstance(network, Yolact)
    return network


def answer_at(network: Yolact, side: int) -> Answer:
    torch.manual_seed(1)
    with torch.inference_mode():
        found: Answer = network.eval()(torch.randn(1, 3, side, side))
    return found


@pytest.mark.parametrize(
    ("variant", "parameters", "gmac"),
    [("resnet50", 31_164_943, 59.2), ("resnet101", 50_157_071, 82.4)],
)
def test_size_and_work_are_the_references(variant: str, parameters: int, gmac: float) -> None:
    found = inspect("yolact", variant=variant, classes=81, channels=3, size=(550, 550))
    assert found.parameters == parameters
    assert found.gmac == pytest.approx(gmac, rel=0.01)
    assert found.output_shape == [1, 32, 138, 138]


def has_the_papers_size(network: nn.Module) -> None:
    assert sum(p.numel() for p in network.parameters()) == 31_164_943


def test_the_size_notices_every_part() -> None:
    labels = LabelTable.classes([f"class {i}" for i in range(80)])
    card = FAMILY.card("resnet50", labels)
    with torch.device("meta"):
        network = FAMILY.build(card)
        other = dataclasses.replace(card, parameters={**card.parameters, "prototypes": 31})
        with pytest.raises(AssertionError):
            has_the_papers_size(FAMILY.build(other))
    has_the_papers_size(network)
    for name in ("semantic", "prototypes.9", "head.shared", "pyramid.coarser.1"):
        part = network.get_submodule(name)
        network.set_submodule(name, nn.Identity())
        with pytest.raises(AssertionError):
            has_the_papers_size(network)
        network.set_submodule(name, part)


def has_the_papers_priors(card: ModelCard) -> None:
    with torch.device("meta"):
        network = FAMILY.build(card)
        found = network(torch.rand(1, 3, 550, 550))
    assert found.sizes == ((69, 69), (35, 35), (18, 18), (9, 9), (5, 5))
    assert found.boxes.shape == (1, 19_248, 4)
    assert found.classes.shape == (1, 19_248, 3)
    assert found.coefficients.shape == (1, 19_248, 32)


def test_there_are_19248_priors_at_550_pixels() -> None:
    has_the_papers_priors(narrow())


def test_the_count_of_priors_notices_a_missing_ratio_and_a_missing_level() -> None:
    two = [[list(shape) for shape in level[:2]] for level in papers()]
    for shapes in (two, [[list(s) for s in level] for level in papers()[:4]]):
        with pytest.raises(AssertionError):
            has_the_papers_priors(narrow(anchors=shapes))


def test_yolact_plus_looks_at_three_scales_a_level() -> None:
    assert [len(level) for level in papers(scales=3)] == [9] * 5
    sides = sorted({round((w * h) ** 0.5, 2) for w, h in papers(scales=3)[0]})
    assert sides == [24.0, 30.24, 38.1]
    assert built(narrow("resnet50-plus")).head.priors == 9


def prototypes_are_none_below_0(network: Yolact) -> None:
    found = answer_at(network, 550).prototypes
    assert found.shape == (1, 32, 138, 138)
    assert float(found.amin()) == 0
    assert float(found.amax()) > 0


def test_prototypes_are_0_or_more() -> None:
    network = built(narrow())
    prototypes_are_none_below_0(network)
    network.prototypes[-1] = nn.Identity()
    with pytest.raises(AssertionError):
        prototypes_are_none_below_0(network)


def coefficients_are_held(network: Yolact) -> None:
    found = answer_at(network, 64).coefficients
    assert float(found.amin()) < -0.5
    assert float(found.amax()) > 0.5
    assert float(found.abs().amax()) <= 1


def test_coefficients_lie_between_minus_1_and_1(monkeypatch: pytest.MonkeyPatch) -> None:
    network = built(narrow())
    nn.init.normal_(network.head.coefficients.weight, std=3.0)
    coefficients_are_held(network)
    monkeypatch.setattr(torch, "tanh", lambda x: x)
    with pytest.raises(AssertionError):
        coefficients_are_held(network)
    monkeypatch.setattr(torch, "tanh", torch.sigmoid)  # none could take a prototype away
    with pytest.raises(AssertionError):
        coefficients_are_held(network)


def test_the_semantic_map_is_there_while_training_only() -> None:
    network = built(narrow())
    assert answer_at(network, 64).semantic is None
    seen = []
    network.semantic.register_forward_hook(lambda *_: seen.append(1))
    network.eval()(torch.rand(1, 3, 64, 64))
    assert not seen
    found = network.train()(torch.rand(2, 3, 64, 64)).semantic
    assert found is not None
    assert found.shape == (2, 2, 8, 8)
    assert seen


def test_levels_are_rectified_and_the_coarsest_are_steps_of_the_one_before() -> None:
    network = built(narrow())
    with torch.inference_mode():
        maps = network.trunk(torch.randn(1, 3, 64, 64))[1:]
        levels = network.pyramid(maps)
        assert all(float(one.amin()) >= 0 for one in levels[:3])
        torch.testing.assert_close(levels[3], network.pyramid.coarser[0](levels[2]))
        torch.testing.assert_close(levels[4], network.pyramid.coarser[1](levels[3]))
        assert float(levels[3].amin()) < 0


def test_a_mask_is_the_sigmoid_of_a_sum_of_prototypes() -> None:
    rng = np.random.default_rng(0)
    prototypes, coefficients = rng.random((4, 5, 6)), rng.uniform(-1, 1, (3, 4))
    wanted = 1 / (1 + np.exp(-np.tensordot(coefficients, prototypes, axes=1)))
    found = assembled(torch.from_numpy(prototypes), torch.from_numpy(coefficients))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def sign_tells(sum_of: object) -> None:
    assert callable(sum_of)
    prototypes = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    told = torch.tensor([[0.5, -0.25, 0.75]])
    flipped = told * torch.tensor([1.0, -1.0, 1.0])
    change = sum_of(prototypes, flipped).logit() - sum_of(prototypes, told).logit()
    torch.testing.assert_close(change, -2 * told[0, 1] * prototypes[None, 1])


def test_the_sign_of_a_coefficient_turns_its_prototypes_part_round() -> None:
    sign_tells(assembled)
    with pytest.raises(AssertionError):
        sign_tells(lambda prototypes, told: assembled(prototypes, told.abs()))


class Scripted(Yolact):
    """A YOLACT that says what it was told to."""

    said: Answer

    def forward(self, x: Tensor) -> Answer:
        return self.said


def scripted(
    card: ModelCard, *, chosen: dict[int, tuple[float, float]], coefficients: float = 1.0
) -> Scripted:
    """Return a network that is sure of a few priors: logit of class 1, of class 2."""
    network = built(card)
    network.__class__ = Scripted
    plain = answer_at_of(network)
    classes = torch.zeros_like(plain.classes)
    classes[..., 0] = 20
    for prior, (first, second) in chosen.items():
        classes[0, prior] = torch.tensor([0.0, first, second])
    ones = torch.ones_like(plain.prototypes)
    assert isinstance(network, Scripted)
    network.said = dataclasses.replace(
        plain,
        boxes=torch.zeros_like(plain.boxes),
        classes=classes,
        coefficients=torch.full_like(plain.coefficients, coefficients),
        prototypes=ones,
    )
    return network


def answer_at_of(network: Yolact) -> Answer:
    with torch.inference_mode():
        found = Yolact.forward(network.eval(), torch.zeros(1, 3, 64, 64))
    return dataclasses.replace(
        found, **{k: getattr(found, k).clone() for k in ("boxes", "classes", "coefficients")}
    )


def found_by(network: Yolact, card: ModelCard) -> list[tuple[tuple[int, ...], float, str]]:
    view = View(torch.zeros(1, 3, 64, 64), (64, 64), (64, 64))
    return [
        (
            (one.box[0].start, one.box[0].stop, one.box[1].start, one.box[1].stop),
            one.score,
            one.category,
        )
        for one in FAMILY.find(network, view, card=card, device=CPU)
        if one.region.all()
    ]


# One prior a cell of 8 pixels, 24 pixels wide and high.
ONE = [[[24.0, 24.0]]]


def is_cut_to_its_box(network: Yolact, card: ModelCard) -> None:
    ((box, score, category),) = found_by(network, card)
    # The cell's middle is (28, 36); the mask itself fills the picture.
    assert box == (16, 40, 24, 48)
    assert score == pytest.approx(1, abs=1e-3)
    assert category == "disc"


def test_nothing_of_a_mask_lies_outside_of_its_box(monkeypatch: pytest.MonkeyPatch) -> None:
    card = narrow(anchors=ONE)
    network = scripted(card, chosen={3 * 8 + 4: (9.0, 0.0)})
    is_cut_to_its_box(network, card)
    monkeypatch.setattr(yolact, "from_maps", lambda maps, view, **_: from_maps(maps, view))
    with pytest.raises(AssertionError):
        is_cut_to_its_box(network, card)


def test_boxes_of_two_classes_do_not_fall_to_each_other_and_a_doubt_is_no_object() -> None:
    card = narrow(anchors=ONE)
    sure = {20: (9.0, 0.0), 21: (8.0, 0.0), 36: (0.0, 7.0), 60: (0.0, 0.0)}
    found = found_by(scripted(card, chosen=sure), card)
    # 20 and 21 are neighbours: their boxes meet by half. 60 gives a third to each class.
    assert sorted(name for _, _, name in found) == ["disc"] * 3 + ["square"] * 2
    least = narrow(anchors=ONE, least_score=0.6)
    assert len(found_by(scripted(least, chosen=sure), least)) == 3
    strict = narrow(anchors=ONE, least_score=0.6, most_iou=0.3)
    assert len(found_by(scripted(strict, chosen=sure), strict)) == 2


def test_no_more_objects_than_the_card_says() -> None:
    card = narrow(anchors=ONE, detections=2)
    sure = {0: (9.0, 0.0), 7: (8.0, 0.0), 56: (7.0, 0.0), 63: (6.0, 0.0)}
    assert len(found_by(scripted(card, chosen=sure), card)) == 2
    few = narrow(anchors=ONE, candidates=3)
    assert len(found_by(scripted(few, chosen=sure), few)) == 3


def test_yolact_plus_multiplies_the_score_by_the_masks_own() -> None:
    card = narrow("resnet50-plus", anchors=ONE)
    network = scripted(card, chosen={3 * 8 + 4: (0.0, 9.0)})
    assert network.rescoring is not None
    seen = []

    def half(_: object, args: tuple[Tensor, ...], __: Tensor) -> Tensor:
        seen.append(args[0])
        return torch.tensor([[0.9, 0.5]])

    network.rescoring.register_forward_hook(half)
    ((_, score, category),) = found_by(network, card)
    assert (round(score, 3), category) == (0.5, "square")
    # It is shown the mask cut to its box: 24 pixels are 6 cells of 4, a rim of one round them.
    assert 6 * 6 <= int((seen[0] > 0).sum()) <= 8 * 8


def test_rescoring_has_six_convolutions_and_takes_the_best_place() -> None:
    network = Rescoring(3)
    layers = [part for part in network.modules() if isinstance(part, nn.Conv2d)]
    assert [part.out_channels for part in layers] == [8, 16, 32, 64, 128, 3]
    assert [part.stride[0] for part in layers] == [2, 2, 2, 2, 2, 1]
    assert network(torch.rand(4, 138, 138)).shape == (4, 3)
    assert network(torch.rand(4, 16, 16)).shape == (4, 3)


def test_which_convolutions_are_deformable_is_the_papers() -> None:
    for variant, wanted in (("resnet50-plus", 13), ("resnet101-plus", 11), ("resnet101", 0)):
        with torch.device("meta"):
            network = FAMILY.build(FAMILY.card(variant, LABELS))
        found = [name for name, part in network.named_modules() if isinstance(part, Deformable)]
        assert len(found) == wanted
        assert not any(name.startswith("trunk.layer1") for name in found)


def test_a_deformable_convolution_is_torchvisions_and_begins_as_half_a_plain_one() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
    mine = Deformable(plain)
    x = torch.randn(2, 4, 12, 13)
    torch.testing.assert_close(mine(x), plain(x) / 2)
    nn.init.normal_(mine.offsets.weight, std=0.3)
    other = DeformConv2d(4, 6, 3, stride=2, padding=1)
    other.load_state_dict({"weight": mine.weight, "bias": mine.bias})
    told = mine.offsets(x)
    wanted = other(x, told[:, :18], told[:, 18:].sigmoid())
    torch.testing.assert_close(mine(x), wanted)
    # One row further down for all taps: the plain convolution of the picture moved up.
    nn.init.zeros_(mine.offsets.weight)
    with torch.no_grad():
        mine.offsets.bias[:18:2] = 1.0
        mine.offsets.bias[18:] = 20.0
    moved = torch.cat([x[:, :, 1:], torch.zeros(2, 4, 1, 13)], dim=2)
    torch.testing.assert_close(mine(x)[:, :, 1:], plain(moved)[:, :, 1:])


def test_the_work_of_deformable_convolutions_is_counted() -> None:
    plain = nn.Conv2d(4, 6, 3, padding=1, bias=False)
    with FlopCounterMode(display=False) as work:
        Deformable(plain)(torch.rand(2, 4, 10, 11))
    taps, pixels = 9, 2 * 10 * 11
    assert work.get_total_flops() == 2 * pixels * taps * 4 * (6 + 3 * taps)


def volume(sides: list[tuple[int, int]]) -> Volume:
    ids = np.zeros((256, 256), np.int32)
    for n, (height, width) in enumerate(sides, start=1):
        top, left = divmod(n - 1, 8)
        ids[top * 32 : top * 32 + height, left * 32 : left * 32 + width] = n
    categories = dict.fromkeys(range(1, len(sides) + 1), 1)
    return Volume(np.zeros((3, 256, 256), np.float32), ids, None, categories)


def test_anchors_are_fitted_to_the_training_boxes() -> None:
    sides = [(12, 12)] * 8 + [(12, 24)] * 8 + [(24, 12)] * 8
    card = FAMILY.survey(narrow(), [volume(sides)])
    first = sorted(tuple(shape) for shape in card.parameters["anchors"][0])
    assert first == [(12.0, 12.0), (12.0, 24.0), (24.0, 12.0)]
    assert len(card.parameters["anchors"]) == 5
    assert ModelCard.from_json(card.to_json()) == card
    assert built(card).head.priors == 3


def test_anchors_of_a_trained_network_and_of_a_card_that_has_some_stay() -> None:
    volumes = [volume([(12, 12)] * 8)]
    told = narrow(anchors=ONE)
    assert FAMILY.survey(told, volumes) is told
    weights = (WeightFile("w.safetensors", "0" * 64, 1, {"file": "w.safetensors"}),)
    trained = dataclasses.replace(narrow(), weights=weights)
    assert FAMILY.survey(trained, volumes) is trained
    empty = narrow()
    assert FAMILY.survey(empty, [volume([])]) is empty


def test_anchors_that_differ_in_number_from_level_to_level_are_refused() -> None:
    with pytest.raises(InputError, match=r"as many for each.*\[1, 2\]"):
        FAMILY.build(narrow(anchors=[[[8.0, 8.0]], [[8.0, 8.0], [9.0, 9.0]]]))
    with pytest.raises(InputError, match="1 to 5 levels"):
        FAMILY.build(narrow(anchors=[[[8.0, 8.0]]] * 6))


def test_a_squashed_picture_is_not_padded() -> None:
    card = narrow(squashed=[50, 70])
    network = built(card)
    sizes = []
    network.register_forward_pre_hook(lambda _, args: sizes.append(tuple(args[0].shape[2:])))
    image, _ = picture(0, 64)
    FAMILY.segment(network, image, card=card, device=CPU, job=Job())
    assert sizes == [(50, 70)]
    plain = narrow()
    sizes.clear()
    FAMILY.segment(network, picture(0, 50)[0], card=plain, device=CPU, job=Job())
    assert sizes == [(64, 64)]


def test_the_papers_recipe_brings_back_its_pictures_and_anchors() -> None:
    told = FAMILY.card("resnet101", LABELS).parameters["recipes"]["paper"]
    assert (told["optimiser"], told["rate"], told["momentum"]) == ("sgd", 1e-3, 0.9)
    assert told["parameters"]["squashed"] == told["parameters"]["patch"] == [550, 550]
    sides = [level[0] for level in told["parameters"]["anchors"]]
    assert sides == [[24.0] * 2, [48.0] * 2, [96.0] * 2, [192.0] * 2, [384.0] * 2]


@pytest.mark.parametrize("variant", ["resnet50", "resnet50-plus"])
def test_training_begins_on_a_classifiers_trunk(variant: str) -> None:
    card = narrow(variant)
    plain = built(narrow("resnet50"), seed=3).trunk.state_dict()
    network = FAMILY.begin(card, {key: value + 1 for key, value in plain.items()})
    own = network.state_dict()
    for key, value in plain.items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(own[f"trunk.{key}"], value + 1)
    for name, part in network.named_modules():
        if isinstance(part, Deformable):
            assert not part.offsets.weight.any(), name


def batch_of_discs() -> Batch:
    rng = np.random.default_rng(0)
    images, ids = rng.normal(0, 0.2, (2, 3, 64, 64)).astype(np.float32), np.zeros((2, 64, 64))
    y, x = np.mgrid[:64, :64]
    for n, (row, column) in enumerate(((20, 24), (40, 36))):
        disc = (y - row) ** 2 + (x - column) ** 2 < 144
        images[n][:, disc] += 2
        ids[n][disc] = 7
    return Batch(torch.from_numpy(images), torch.from_numpy(ids).long(), [{7: 1}, {7: 1}])


@pytest.mark.parametrize("variant", ["resnet50", "resnet50-plus"])
def test_every_part_learns(variant: str) -> None:
    card = narrow(variant)
    network = built(card).train()
    FAMILY.train_step(network, batch_of_discs(), card=card).backward()
    # No object of these is as large as a coarser level's anchors, and a mask of which nothing is
    # sure has a score of 0, as the rescoring may say already.
    free = ("pyramid.smooth.1", "pyramid.smooth.2", "pyramid.coarser", "rescoring")
    for name, weight in network.named_parameters():
        if not name.startswith(free):
            assert weight.grad is not None, name
            assert weight.grad.any(), name


def test_pictures_without_objects_teach_background() -> None:
    card = narrow()
    network = built(card).train()
    batch = batch_of_discs()
    empty = Batch(batch.images, torch.zeros_like(batch.ids), [{}, {}])
    loss = FAMILY.train_step(network, empty, card=card)
    assert torch.isfinite(loss)
    loss.backward()
    gradient = network.head.classes.weight.grad
    assert gradient is not None
    assert float(gradient.abs().sum()) > 0
    unseen = Batch(batch.images, torch.full_like(batch.ids, IGNORE), [{}, {}])
    assert float(FAMILY.train_step(network, unseen, card=card).detach()) == 0


def test_one_seed_gives_one_curve() -> None:
    card, curves = narrow(), []
    for _ in range(2):
        network = built(card, seed=5).train()
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
        losses = []
        for _ in range(3):
            loss = FAMILY.train_step(network, batch_of_discs(), card=card)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        curves.append(losses)
    assert curves[0] == curves[1]
    assert curves[0][-1] < curves[0][0]


def learnt(variant: str, cases: list[Case], folder: Path) -> tuple[float, int]:
    card = narrow(variant, width=1.0, features=64, prototypes=8)
    return learn_objects(FAMILY, card, cases, folder, steps=50)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["resnet50", "resnet50-plus"])
def test_two_pictures_are_learnt_by_heart_and_shuffled_ones_are_not(
    variant: str, tmp_path: Path
) -> None:
    cases = [picture(i, 64) for i in range(2)]
    iou, spare = learnt(variant, cases, tmp_path / "a")
    assert iou >= 0.75
    assert spare <= 2
    control, _ = learnt(variant, [shuffled(case) for case in cases], tmp_path / "b")
    assert control < 0.75
    assert control < iou - 0.3


def test_labels_with_one_class_work() -> None:
    labels = LabelTable.classes(["nucleus"])
    card = dataclasses.replace(narrow("resnet50-plus"), labels=labels)
    found = answer_at(built(card), 64)
    assert found.classes.shape[2] == 2

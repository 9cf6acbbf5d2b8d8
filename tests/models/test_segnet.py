"""SegNet is its paper's: indices of the same forward, no learnt upsampling, weighted classes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.models import segnet
from maskloop.models.base import IGNORE, Batch, Volume, write_state
from maskloop.models.cards import ModelCard, find_card, save_card
from maskloop.models.segnet import FAMILY, SegNet, median_frequency_weights, unpooled
from maskloop.ops.device import CPU
from tests.models.overfit import learn, picture, shuffled

LABELS = LabelTable.classes({1: "disc", 2: "square"})


def card(**told: object) -> ModelCard:
    plain = FAMILY.card("", LABELS)
    return dataclasses.replace(plain, parameters={**plain.parameters, "width": 1 / 16, **told})


def narrow() -> SegNet:
    torch.manual_seed(0)
    return SegNet(3, 3, width=1 / 16).eval()


def test_the_papers_network_has_its_parameters_and_layers() -> None:
    network = SegNet(3, 11)
    assert sum(p.numel() for p in network.parameters()) == 29_449_355
    down = [p for p in network.encoder.modules() if isinstance(p, nn.Conv2d)]
    up = [p for p in network.decoder.modules() if isinstance(p, nn.Conv2d)]
    assert [p.out_channels for p in down] == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert [p.out_channels for p in up] == [512] * 5 + [256] * 3 + [128] * 2 + [64] * 2 + [11]
    assert all(p.kernel_size == (3, 3) and p.bias is not None for p in (*down, *up))
    kinds = [type(p) for p in network.modules()]
    assert nn.ConvTranspose2d not in kinds
    assert kinds.count(nn.BatchNorm2d) == kinds.count(nn.ReLU) == 25  # none after the last


class Watched:
    """Poolings and unpoolings of one forward, in order."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.pooled: list[tuple[Tensor, Tensor]] = []
        self.raised: list[tuple[Tensor, Tensor, Tensor]] = []
        pool, unpool = F.max_pool2d, segnet._unpool

        def max_pool2d(x: Tensor, size: int, *, return_indices: bool) -> tuple[Tensor, Tensor]:
            found = pool(x, size, return_indices=return_indices)
            self.pooled.append(found)
            return found

        def watched(x: Tensor, places: Tensor, size: torch.Size) -> Tensor:
            found = unpool(x, places, size)
            self.raised.append((x, places, found))
            return found

        patch.setattr(segnet.F, "max_pool2d", max_pool2d)
        patch.setattr(segnet, "_unpool", watched)

    def lies_at_its_maxima(self) -> bool:
        """Whether each map, raised, is non-zero nowhere but where its stage's maxima were."""
        for (_, places), (x, _, found) in zip(reversed(self.pooled), self.raised, strict=True):
            at_places = found.flatten(2).gather(2, places.flatten(2))
            if not torch.equal(at_places, x.flatten(2)):
                return False
            if torch.count_nonzero(found) != torch.count_nonzero(x):
                return False
        return True


def test_maxima_go_back_to_where_the_encoder_found_them(monkeypatch: pytest.MonkeyPatch) -> None:
    network = narrow()
    watched = Watched(monkeypatch)
    with torch.no_grad():
        network(torch.randn(1, 3, 64, 96))
        assert len(watched.pooled) == len(watched.raised) == 5
        assert watched.lies_at_its_maxima()
        for (_, places), (_, used, _) in zip(reversed(watched.pooled), watched.raised, strict=True):
            assert used is places
        earlier = [places for _, places in watched.pooled]
        watched.pooled.clear()
        watched.raised.clear()
        network(torch.randn(1, 3, 64, 96))
        assert watched.lies_at_its_maxima()
    for old, (_, new) in zip(earlier, watched.pooled, strict=True):
        assert not torch.equal(old, new)


@pytest.mark.parametrize("how", ["nearest", "bilinear", "shuffled"])
def test_any_other_way_up_is_told_apart(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """The bar above falls where maps are enlarged without the indices, or with wrong ones."""
    network, x = narrow(), torch.randn(1, 3, 64, 96)

    def other(x: Tensor, places: Tensor, size: torch.Size) -> Tensor:
        if how != "shuffled":
            return F.interpolate(x, size=size, mode=how)
        mixed = places.flatten(2)[..., torch.randperm(places[0, 0].numel())]
        return F.max_unpool2d(x, mixed.view_as(places), [2, 2], output_size=size)

    with torch.no_grad():
        right = network(x)
        with monkeypatch.context() as patch:
            patch.setattr(segnet, "_unpool", other)
            watched = Watched(patch)
            wrong = network(x)
            assert not watched.lies_at_its_maxima()
    assert (right - wrong).abs().max() > 0.1 * right.abs().max()


@pytest.mark.parametrize("size", [(360, 480), (33, 47), (32, 32), (45, 101)])
def test_any_size_comes_back_as_itself(size: tuple[int, int]) -> None:
    with torch.no_grad():
        assert narrow()(torch.zeros(1, 3, *size)).shape == (1, 3, *size)


def test_less_than_32_pixels_is_refused_by_the_network_and_mirrored_by_the_family() -> None:
    network = narrow()
    with pytest.raises(InputError, match=r"at least 32x32 pixels for SegNet, got 31x40"):
        network(torch.zeros(1, 3, 31, 40))
    pixels = np.random.default_rng(0).integers(0, 256, (9, 20, 3), dtype=np.uint8)
    image = Image(pixels, Geometry.pixels((9, 20)), has_channels=True)
    found = FAMILY.segment(network, image, card=card(), device=CPU, job=Job())
    assert found.ids.shape == (9, 20)


@pytest.mark.parametrize("size", [(8, 12), (7, 13)])
def test_the_scatter_is_max_unpool2d(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    pooled, places = F.max_pool2d(torch.randn(2, 5, *size), 2, return_indices=True)
    a, b = (pooled.clone().requires_grad_() for _ in range(2))
    ours = unpooled(a, places, size)
    theirs = F.max_unpool2d(b, places, [2, 2], output_size=size)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    weights = torch.randn_like(ours)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    assert a.grad is not None
    torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0)


def test_the_scatter_serves_where_torch_is_to_be_deterministic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, x = narrow(), torch.randn(1, 3, 50, 40)

    def never(*_: object, **__: object) -> Tensor:
        msg = "expected the scatter here; max_unpool2d has no deterministic form on CUDA"
        raise AssertionError(msg)

    with torch.no_grad():
        plain = network(x)
        monkeypatch.setattr(segnet.F, "max_unpool2d", never)
        with pytest.raises(AssertionError):
            network(x)
        torch.use_deterministic_algorithms(True)
        try:
            torch.testing.assert_close(network(x), plain, rtol=0, atol=0)
        finally:
            torch.use_deterministic_algorithms(False)


def test_an_exported_network_holds_no_unpooling_and_says_the_same() -> None:
    network, x = narrow(), torch.randn(1, 3, 40, 50)
    program = torch.export.export(network, (x,))
    names = [str(node.target) for node in program.graph.nodes]
    assert sum("scatter" in name for name in names) == 5
    assert not any("unpool" in name for name in names)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), network(x))


def volume(ids: list[list[int]], reviewed: list[list[int]] | None = None) -> Volume:
    found = np.array(ids, np.uint8)
    seen = None if reviewed is None else np.array(reviewed, bool)
    return Volume(np.zeros((3, *found.shape), np.float32), found, seen)


def test_class_weights_are_the_median_frequency_over_the_classes_own() -> None:
    """By hand: frequencies 5/8, 2/8 and, in the one picture that shows it, 1/4; median 1/4."""
    pictures = [volume([[0, 0], [0, 1]]), volume([[0, 0], [1, 2]])]
    assert median_frequency_weights(pictures, 4) == [0.4, 1.0, 1.0, 1.0]
    # Counted over all pictures, class 2 would be 1/8 and weigh 2.
    pictures.append(volume([[0, 0], [0, 0]]))
    assert median_frequency_weights(pictures, 3) == pytest.approx([0.25 / 0.75, 1, 1])


def test_pixels_nobody_reviewed_have_no_part_in_the_weights() -> None:
    pictures = [volume([[0, 0], [1, 1]], [[1, 1], [1, 0]])]
    frequencies = np.array([2 / 3, 1 / 3])
    assert median_frequency_weights(pictures, 2) == pytest.approx(0.5 / frequencies)


def test_a_survey_puts_the_weights_on_the_card_and_the_loss_heeds_them() -> None:
    surveyed = FAMILY.survey(card(), [volume([[0, 0], [0, 1]]), volume([[0, 0], [1, 2]])])
    weights = surveyed.parameters["class_weights"]
    assert weights == [0.4, 1.0, 1.0]
    assert ModelCard.from_json(surveyed.to_json()) == surveyed
    torch.manual_seed(0)
    scores = torch.randn(1, 3, 4, 5)
    ids = torch.randint(0, 3, (1, 4, 5))
    ids[0, 0] = IGNORE
    batch = Batch(torch.zeros(1, 3, 4, 5), ids)
    loss = FAMILY.train_step(_Given(scores), batch, card=surveyed)
    each = -scores.log_softmax(1).movedim(1, -1)[ids >= 0].gather(1, ids[ids >= 0][:, None])[:, 0]
    shares = torch.tensor(weights)[ids[ids >= 0]]
    torch.testing.assert_close(loss, (each * shares).sum() / shares.sum())
    plain = FAMILY.train_step(_Given(scores), batch, card=card())
    torch.testing.assert_close(plain, each.mean())
    assert abs(float(loss - plain)) > 1e-3


class _Given(nn.Module):
    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, images: Tensor) -> Tensor:
        return self.scores


def test_the_papers_recipe_can_be_asked_for() -> None:
    from maskloop.loop.train import _recipe

    recipe, batch = _recipe(FAMILY.card("", LABELS), FAMILY, False, None, 0, "paper")
    assert (recipe.optimiser, recipe.learning_rate, recipe.momentum) == ("sgd", 0.1, 0.9)
    assert (recipe.schedule, recipe.weight_decay, recipe.steps) == ("constant", 5e-4, 40_000)
    assert batch == 12
    assert recipe.rate(30_000) == 0.1


def test_training_surveys_its_pictures_and_keeps_the_weights(home: Path, tmp_path: Path) -> None:
    from maskloop.loop.train import train

    path = tmp_path / "tiny.safetensors"
    tiny = dataclasses.replace(card(patch=[40, 40]), name="tiny")
    write_state(FAMILY.build(tiny), path)
    save_card(tiny, {path.name: path})
    cases = [picture(seed, 48) for seed in range(3)]
    train(cases, "tiny", "taught", steps=2, device="cpu")
    weights = find_card("taught").parameters["class_weights"]
    assert len(weights) == 3
    assert weights[0] < 0.5  # most of each picture is background
    assert 1.0 in weights  # the class of the median


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_pictures_are_learnt_by_heart_and_dealt_labels_are_not(tmp_path: Path) -> None:
    cases = [picture(1, 64), picture(2, 64)]
    small = card(width=0.25)
    score, _ = learn(FAMILY, small, cases, tmp_path / "true", steps=80)
    assert score >= 0.85
    noise = [shuffled(case) for case in cases]
    control, _ = learn(FAMILY, small, noise, tmp_path / "noise", steps=80)
    assert control < 0.85


@pytest.mark.slow
def test_the_same_seed_learns_the_same(tmp_path: Path) -> None:
    cases = [picture(1, 64), picture(2, 64)]
    curves = [learn(FAMILY, card(), cases, tmp_path / name, steps=5)[1] for name in "ab"]
    assert [p.loss for p in curves[0]] == [p.loss for p in curves[1]]

"""Patch classification: dense is the sliding window, classes are balanced, chances calibrated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor, nn

from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.models import patchnet
from maskloop.models.base import IGNORE, Batch, Calibrates, GivesProbabilities, write_state
from maskloop.models.cards import ModelCard, find_card, save_card
from maskloop.models.patchnet import FAMILY, PatchNet, balanced
from maskloop.ops.device import CPU
from tests.models.overfit import learn, picture, shuffled

MEMBRANE = LabelTable.classes({1: "membrane"})
TWO = LabelTable.classes({1: "disc", 2: "square"})


def card(variant: str = "w33", labels: LabelTable = MEMBRANE, **told: object) -> ModelCard:
    plain = FAMILY.card(variant, labels)
    return dataclasses.replace(plain, parameters={**plain.parameters, "width": 0.25, **told})


def small(seed: int = 0, classes: int = 2) -> PatchNet:
    """Return the 33-pixel network, narrow, with biases that are not 0."""
    torch.manual_seed(seed)
    network = PatchNet(1, classes, kernels=(4, 4, 3), last=2, maps=8, hidden=12).eval()
    for part in network.modules():
        if isinstance(part, nn.Conv2d) and part.bias is not None:
            nn.init.normal_(part.bias, std=0.1)
    return network


def loop(network: PatchNet, x: Tensor) -> Tensor:
    """Return the scores of every window, cut out and judged one after the other: the oracle."""
    side = network.window
    rows, columns = (n - side + 1 for n in x.shape[2:])
    found = [
        network.windows(x[:, :, i : i + side, j : j + side])[:, :, 0, 0]
        for i in range(rows)
        for j in range(columns)
    ]
    return torch.stack(found, dim=-1).unflatten(-1, (rows, columns))


def test_n4_is_the_papers_network() -> None:
    network = PatchNet(1, 2)
    assert sum(p.numel() for p in network.parameters()) == 219_290
    assert network.window == 95
    sides = [95]
    for convolution in network.convolutions:
        assert isinstance(convolution, nn.Conv2d)
        assert convolution.padding == (0, 0)
        sides += [sides[-1] - convolution.kernel_size[0] + 1]
        sides += [sides[-1] // 2]
    assert sides == [95, 92, 46, 42, 21, 18, 9, 6, 3]
    assert FAMILY.card("", MEMBRANE).parameters["margin"] == 47


def test_a_picture_comes_out_smaller_by_the_window_and_not_below_it() -> None:
    network = PatchNet(1, 2, maps=4, hidden=4)
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 96, 101)).shape == (1, 2, 2, 7)
    with pytest.raises(InputError, match="at least 95x95 pixels, the window, got 94x120"):
        network(torch.zeros(1, 1, 94, 120))


def test_dense_is_the_sliding_window_for_the_papers_network() -> None:
    torch.manual_seed(0)
    network, x = PatchNet(1, 2).eval(), torch.randn(1, 1, 98, 97)
    with torch.no_grad():
        expected = loop(network, x)
        assert expected.std() > 1e-2
        assert (network(x) - expected).abs().max() < 1e-5
        assert (network.sliding(x, batch=5) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("shape", [(2, 1, 40, 45), (1, 1, 33, 50)])
def test_dense_is_the_sliding_window_for_any_picture(shape: tuple[int, ...]) -> None:
    network = small()
    x = torch.randn(*shape)
    with torch.no_grad():
        expected = loop(network, x)
        torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(network.sliding(x), expected, rtol=0, atol=1e-5)


def _undilated(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def plain(*args: object, **named: object) -> Tensor:
        named.pop("dilation", None)
        return call(*args, **named)

    return plain


@pytest.mark.parametrize("part", ["conv2d", "max_pool2d"])
def test_without_dilation_dense_is_something_else(
    monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """The bar above falls where what follows a pooling looks at neighbours, not at every second."""
    network, x = small(), torch.randn(1, 1, 40, 45)
    with torch.no_grad():
        expected = loop(network, x)
        monkeypatch.setattr(patchnet.F, part, _undilated(getattr(patchnet.F, part)))
        found = network(x)[:, :, : expected.shape[2], : expected.shape[3]]
    assert found.shape == expected.shape
    assert (found - expected).abs().max() > 1e-2


def grey(shape: tuple[int, int], seed: int = 0) -> Image:
    pixels = np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)
    return Image(ndimage.gaussian_filter(pixels, 1.0), Geometry.pixels(shape))


def chances(network: nn.Module, image: Image, told: ModelCard) -> npt.NDArray[np.float32]:
    return FAMILY.probabilities(network, image, card=told, device=CPU, job=Job())


def test_a_pixel_at_the_border_is_judged_by_a_mirrored_window() -> None:
    network, image, plain = small(), grey((37, 41)), card(median=0)
    found = chances(network, image, plain)
    data = (image.data - image.data.mean()) / image.data.std()

    def corner(mode: str) -> npt.NDArray[np.float32]:
        window = np.pad(data, 16, mode=mode)[:33, :33]  # type: ignore[call-overload]
        with torch.no_grad():
            scores = network.windows(torch.from_numpy(window[None, None].astype(np.float32)))
        return scores.softmax(1)[0, :, 0, 0].numpy()

    np.testing.assert_allclose(found[:, 0, 0], corner("reflect"), atol=1e-5)
    for other in ("constant", "edge"):
        assert np.abs(found[:, 0, 0] - corner(other)).max() > 1e-3


@pytest.mark.parametrize("shape", [(70, 90), (12, 100), (20, 9)])
def test_tiles_leave_no_trace(shape: tuple[int, int]) -> None:
    network, image = small(), grey(shape)
    whole = chances(network, image, card(median=0, tile=[32 + 100] * 2))
    tiled = chances(network, image, card(median=0, tile=[32 + 11, 32 + 17]))
    np.testing.assert_allclose(tiled, whole, atol=1e-5)
    assert whole.std() > 1e-4


def test_a_small_picture_is_not_filled_up_to_a_tile() -> None:
    assert FAMILY.tile(card(), (20, 900)) == (20 + 32, 512 + 32)


class Given(nn.Module):
    """Scores whatever the picture."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, images: Tensor) -> Tensor:
        return self.scores


@given(
    share=st.floats(0.005, 0.4), ignored=st.floats(0, 0.5), classes=st.integers(2, 4),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_every_class_is_shown_equally_often(
    share: float, ignored: float, classes: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rest = np.full(classes - 1, share / (classes - 1))
    ids = torch.from_numpy(rng.choice(classes, (2, 60, 60), p=[1 - share, *rest]))
    ids[torch.from_numpy(rng.random((2, 60, 60)) < ignored)] = IGNORE
    shown = ids.flatten()[balanced(ids)]
    counts = [int((shown == k).sum()) for k in range(classes)]
    assert set(counts) == {max(64, min(int((ids == k).sum()) for k in range(classes)))}
    assert len(shown) == sum(counts)


def test_a_step_feels_as_many_pixels_of_each_class_and_none_that_nobody_reviewed() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.choice(2, (2, 64, 64), p=[0.9, 0.1]))
    ids[:, :10] = IGNORE
    felt = torch.zeros(2)
    draws = []
    for _ in range(20):
        scores = torch.zeros(2, 2, 64, 64, requires_grad=True)
        batch = Batch(torch.zeros(2, 1, 96, 96), torch.nn.functional.pad(ids, (16,) * 4))
        FAMILY.train_step(Given(scores), batch, card=card(turns=False)).backward()
        assert scores.grad is not None
        is_felt = scores.grad.abs().sum(1) > 0
        assert not is_felt[ids == IGNORE].any()
        assert torch.equal(is_felt & (ids == 1), ids == 1)  # all of the rarer class
        felt += torch.stack([is_felt[ids == k].sum() for k in (0, 1)])
        draws.append(is_felt)
    assert abs(float(felt[0] / felt[1]) - 1) <= 0.02
    assert not torch.equal(draws[0], draws[1])  # the others are drawn anew
    # Of all pixels, as a plain cross-entropy would take them, nine in ten are background.
    assert float((ids == 0).sum() / (ids == 1).sum()) > 5


def test_one_class_alone_teaches_nothing() -> None:
    scores = torch.randn(1, 2, 8, 8, requires_grad=True)
    batch = Batch(torch.zeros(1, 1, 40, 40), torch.zeros(1, 40, 40, dtype=torch.int64))
    FAMILY.train_step(Given(scores), batch, card=card()).backward()
    assert scores.grad is not None
    assert not scores.grad.any()


class Reads(nn.Module):
    """Sure of what the middle of the picture says, and keeps the pictures it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        middle = images[:, 0, 16:-16, 16:-16]
        return torch.stack([1 - middle, middle], dim=1) * 50


@pytest.mark.parametrize(("shape", "turns"), [((48, 48), 4), ((48, 52), 2)])
def test_crops_and_their_ids_are_turned_together(shape: tuple[int, int], turns: int) -> None:
    torch.manual_seed(0)
    ids = (torch.rand(20, *shape) < 0.4).long()
    network = Reads()
    batch = Batch(ids[:, None].float(), ids)
    assert FAMILY.train_step(network, batch, card=card()) < 1e-6
    found = {
        k
        for crop, told in zip(network.seen[0][:, 0], ids, strict=True)
        for k in range(0, 4, 4 // turns)
        if torch.equal(crop.long(), torch.rot90(told, k))
    }
    assert len(found) == turns
    FAMILY.train_step(network, batch, card=card(turns=False))
    assert torch.equal(network.seen[1], batch.images)
    assert FAMILY.augmentation(card()) == {"mirror_x", "mirror_y"}


class Sure(nn.Module):
    """Thinks a pixel is what it is with the odds of a network that saw each class equally often."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(images), images], dim=1)


def test_calibration_brings_a_balanced_network_to_true_frequencies() -> None:
    """One pixel in five is membrane; the scores are right for one in two."""
    rng = np.random.default_rng(0)
    truth = rng.random((300, 400)) < 0.2
    # Gaussians at -1 and 1: the odds at x are exp(2x) where both are equally frequent.
    odds = rng.normal(np.where(truth, 1.0, -1.0)) * 2
    image = Image(odds.astype(np.float32), Geometry.pixels(odds.shape))
    plain = card(margin=0, normalise=None, tile=[100, 100], median=0)
    volumes = FAMILY.prepare(
        image,
        Mask.like(image, truth.astype(np.uint8), MEMBRANE),
        card=plain,
        reviewed=None,
        job=Job(),
    )
    told = FAMILY.calibrate(Sure(), volumes, card=plain, device=CPU, job=Job())
    assert ModelCard.from_json(told.to_json()) == told
    assert FAMILY.settles(told)
    assert not FAMILY.settles(plain)
    raw, found = (chances(Sure(), image, c) for c in (plain, told))
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    assert _worst(raw[1], truth) > 0.2
    assert _worst(found[1], truth) < 0.08  # a cubic follows Bayes' curve no closer
    order = np.argsort(raw[1], axis=None)
    assert (np.diff(found[1].ravel()[order]) >= -1e-6).all()  # monotone in the raw ones
    wrong = [np.count_nonzero((p[1] > 0.5) != truth) for p in (raw, found)]
    assert wrong[1] < wrong[0]
    assert FAMILY.segment(Sure(), image, card=told, device=CPU, job=Job()).ids.sum() == (
        np.count_nonzero(found.argmax(0))
    )


def _worst(chances: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_]) -> float:
    """Return how far a probability is from the share of true pixels, over ten bins, at worst."""
    places = np.minimum((chances * 10).astype(int), 9)
    bins = [places == k for k in range(10) if np.count_nonzero(places == k) > 500]
    assert len(bins) > 5
    return max(abs(float(truth[b].mean() - chances[b].mean())) for b in bins)


def test_calibration_looks_at_the_picture_without_its_rim_and_at_reviewed_pixels_only() -> None:
    network, image, plain = small(), grey((40, 50)), card()
    truth = image.data > np.median(image.data)
    mask = Mask.like(image, truth.astype(np.uint8), MEMBRANE)
    told = FAMILY.calibrate(
        network,
        FAMILY.prepare(image, mask, card=plain, reviewed=None, job=Job()),
        card=plain,
        device=CPU,
        job=Job(),
    )
    raw = chances(
        network, image, dataclasses.replace(plain, parameters={**plain.parameters, "median": 0})
    )
    tally = patchnet.Tally(2)
    tally.add(raw.reshape(2, -1), truth.ravel())
    np.testing.assert_allclose(told.parameters["calibration"], tally.cubics(), atol=1e-4)
    seen = np.zeros(truth.shape, bool)
    seen[:20] = True
    part = FAMILY.calibrate(
        network,
        FAMILY.prepare(image, mask, card=plain, reviewed=seen, job=Job()),
        card=plain,
        device=CPU,
        job=Job(),
    )
    tally = patchnet.Tally(2)
    tally.add(raw[:, :20].reshape(2, -1), truth[:20].ravel())
    np.testing.assert_allclose(part.parameters["calibration"], tally.cubics(), atol=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_last_filter_is_the_median_over_a_disc_of_two_pixels(classes: int) -> None:
    rng = np.random.default_rng(0)
    raw = rng.dirichlet(np.ones(classes), (20, 30)).astype(np.float32).transpose(2, 0, 1)
    labels = LabelTable.classes({k: f"class {k}" for k in range(1, classes)})
    found = FAMILY.settle(raw.copy(), np.zeros((1, 20, 30), np.float32), card=card(labels=labels))
    offsets = [(i, j) for i in range(-2, 3) for j in range(-2, 3) if i * i + j * j <= 4]
    assert len(offsets) == 13
    for y, x in ((2, 2), (9, 14), (17, 27)):
        medians = np.array([np.median([c[y + i, x + j] for i, j in offsets]) for c in raw])
        np.testing.assert_allclose(found[:, y, x], medians / medians.sum(), atol=1e-6)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-6)


def test_a_speck_goes_and_a_membrane_stays() -> None:
    ids = np.zeros((40, 40), bool)
    ids[20, 20] = ids[5:8, :] = True  # a wall of three pixels
    raw = np.stack([~ids, ids]).astype(np.float32)
    found = FAMILY.settle(raw, np.zeros((1, 40, 40), np.float32), card=card()).argmax(0)
    assert not found[20, 20]
    assert found[6, :].all()


def test_a_card_given_other_labels_forgets_a_calibration_of_other_classes() -> None:
    raw = np.random.default_rng(0).dirichlet(np.ones(3), (9, 9)).astype(np.float32)
    raw = np.moveaxis(raw, -1, 0)
    told = card(labels=TWO, median=0, calibration=[[0, 1, 0, 0], [0, 0.5, 0, 0]])
    found = FAMILY.settle(raw.copy(), np.zeros((1, 9, 9), np.float32), card=told)
    np.testing.assert_array_equal(found, raw)


def test_the_family_tells_calibrated_probabilities() -> None:
    assert isinstance(FAMILY, Calibrates)
    assert isinstance(FAMILY, GivesProbabilities)


def test_the_papers_recipe_is_plain_gradient_descent() -> None:
    from maskloop.loop.train import _recipe

    recipe, _ = _recipe(FAMILY.card("", MEMBRANE), FAMILY, False, 10, 0, "paper")
    assert (recipe.optimiser, recipe.momentum, recipe.weight_decay) == ("sgd", 0.0, 0.0)
    assert recipe.schedule == "constant"


def test_training_leaves_a_calibrated_model_on_the_menu(home: Path, tmp_path: Path) -> None:
    from maskloop.loop.predict import predict
    from maskloop.loop.train import train

    path = tmp_path / "tiny.safetensors"
    tiny = dataclasses.replace(card(labels=TWO, width=0.1, patch=[56, 56]), name="tiny")
    write_state(FAMILY.build(tiny), path)
    save_card(tiny, {path.name: path})
    cases = [picture(seed, 48, is_grey=True) for seed in range(3)]
    train(cases, "tiny", "taught", steps=3, device="cpu")
    taught = find_card("taught")
    assert len(taught.parameters["calibration"]) == 3
    found = predict(cases[0][0], "taught", device="cpu", probabilities=True)
    assert found.probabilities is not None
    ids = np.array([0, *TWO])[found.probabilities.argmax(0)]
    np.testing.assert_array_equal(ids, found.mask.data)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_pictures_are_learnt_by_heart_and_dealt_labels_are_not(tmp_path: Path) -> None:
    cases = [picture(seed, 128, is_grey=True) for seed in range(8)]
    plain = dataclasses.replace(card(labels=TWO, width=1 / 3), ndim=2)
    score, _ = learn(FAMILY, plain, cases, tmp_path / "true", steps=100)
    assert score >= 0.85
    noise = [shuffled(case) for case in cases]
    control, _ = learn(FAMILY, plain, noise, tmp_path / "noise", steps=100)
    assert control < 0.5


@pytest.mark.slow
def test_the_same_seed_learns_the_same(tmp_path: Path) -> None:
    cases = [picture(seed, 64, is_grey=True) for seed in range(3)]
    plain = card(labels=TWO)
    curves = [learn(FAMILY, plain, cases, tmp_path / name, steps=5)[1] for name in "ab"]
    assert [p.loss for p in curves[0]] == [p.loss for p in curves[1]]

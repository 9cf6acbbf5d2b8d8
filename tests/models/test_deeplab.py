"""DeepLab v3+ is its paper's: separable atrous pyramid, two convolutions to decode, any stride."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from maskloop.core.errors import InputError, WeightsError
from maskloop.models.base import IGNORE, Batch, Begins
from maskloop.models.cards import ModelCard
from maskloop.models.deeplab import FAMILY, Atrous, DeepLab, Pyramid, raised
from tests.models.overfit import LABELS, learn, picture, shuffled

RATES = {16: [6, 12, 18], 8: [12, 24, 36]}
BLOCKS = {"xception41": 3 + 8 + 2, "xception65": 3 + 16 + 2, "xception71": 5 + 16 + 2}


def card(variant: str = "xception41", **told: object) -> ModelCard:
    plain = FAMILY.card(variant, LABELS)
    parameters = {**plain.parameters, "width": 0.125, "patch": [64, 64], **told}
    return dataclasses.replace(plain, parameters=parameters)


@pytest.fixture(scope="module")
def whole() -> DeepLab:
    """Return the paper's network for the 21 classes of VOC."""
    torch.manual_seed(0)
    return DeepLab(3, 21).eval()


def narrow(variant: str = "xception41", stride: int = 16) -> DeepLab:
    torch.manual_seed(0)
    return DeepLab(3, 3, variant, stride=stride, width=0.125).eval()


def test_the_papers_network_has_its_parameters(whole: DeepLab) -> None:
    assert sum(p.numel() for p in whole.parameters()) == 41_055_413


def cost(network: DeepLab, side: int) -> float:
    """Return thousand millions of multiply-adds for a square picture."""
    ghost = copy.deepcopy(network).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ghost(torch.zeros(1, 3, side, side, device="meta"))
    return counter.get_total_flops() / 2e9


def test_the_papers_picture_costs_what_the_authors_measured(whole: DeepLab) -> None:
    """54.17 at 513 x 513 and stride 16 (their model zoo)."""
    assert cost(whole, 513) == pytest.approx(54.17, rel=0.01)
    # The simplification: one convolution in the decoder.
    simpler = copy.deepcopy(whole)
    simpler.decoder = simpler.decoder[:1]
    assert cost(simpler, 513) != pytest.approx(54.17, rel=0.01)


@pytest.mark.parametrize("stride", [16, 8])
def test_the_pyramid_has_the_papers_rates(stride: int) -> None:
    pyramid = narrow(stride=stride).pyramid
    wide = [m for m in pyramid.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert [m.dilation[0] for m in wide] == RATES[stride]
    assert [m.padding for m in wide] == [m.dilation for m in wide]
    # One 1x1, three rates, and the mean of the picture; joined by a 1x1.
    assert isinstance(pyramid.join[0], nn.Conv2d)
    assert pyramid.join[0].in_channels == 5 * pyramid.join[0].out_channels


def test_every_wide_convolution_of_the_head_is_separable(whole: DeepLab) -> None:
    head = nn.ModuleList([whole.pyramid, whole.low, whole.decoder, whole.score])
    wide = [m for m in head.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert len(wide) == 3 + 2
    assert all(m.groups == m.in_channels == m.out_channels for m in wide)
    for part in (*whole.pyramid.atrous, *whole.decoder):
        assert isinstance(part, Atrous)
        kinds = [type(m) for m in part]
        # Batch norm and ReLU follow the depthwise half too.
        assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2
        assert part[3].kernel_size == (1, 1)


def test_the_decoder_is_the_papers(whole: DeepLab) -> None:
    low = whole.low[0]
    assert isinstance(low, nn.Conv2d)
    assert (low.in_channels, low.out_channels, low.kernel_size) == (256, 48, (1, 1))
    first, second = whole.decoder
    assert first[0].in_channels == 256 + 48  # type: ignore[index]  # a sequence
    assert [part[3].out_channels for part in (first, second)] == [256, 256]  # type: ignore[index]
    assert whole.score.kernel_size == (1, 1)


@pytest.mark.parametrize("variant", sorted(BLOCKS))
def test_an_xception_has_the_papers_blocks(variant: str) -> None:
    body = narrow(variant).backbone.body
    assert len(body.blocks) == BLOCKS[variant]
    separable = [m for m in body.modules() if type(m).__name__ == "SeparableConv2d"]
    assert len(separable) == 3 * BLOCKS[variant]
    assert not [m for m in body.modules() if isinstance(m, nn.MaxPool2d)]


@pytest.mark.parametrize("variant", ["xception41", "xception71", "resnet50"])
@pytest.mark.parametrize("size", [(65, 97), (64, 50)])
@torch.no_grad()
def test_features_have_their_strides(variant: str, size: tuple[int, int]) -> None:
    told = {"width": 0.125 if variant.startswith("x") else 1.0}
    x = torch.randn(1, 3, *size)
    shapes = []
    for stride in (16, 8):
        torch.manual_seed(0)
        network = DeepLab(3, 3, variant, stride=stride, **told).eval()
        low, deep = network.features(x)
        assert low.shape[2:] == tuple(-(-n // 4) for n in size)
        assert deep.shape[2:] == tuple(-(-n // stride) for n in size)
        assert network(x).shape == (1, 3, *size)
        shapes.append({k: v.shape for k, v in network.state_dict().items()})
    # The stride changes no weights: what was trained at one is used at the other.
    assert shapes[0] == shapes[1]


@torch.no_grad()
def test_a_finer_stride_dilates_what_it_no_longer_strides() -> None:
    """At the places that both strides see, the deep features are the same."""
    coarse, fine = narrow(), narrow(stride=8)
    fine.load_state_dict(coarse.state_dict())
    x = torch.randn(1, 3, 129, 129)

    def agrees() -> bool:
        return torch.allclose(
            coarse.features(x)[1], fine.features(x)[1][:, :, ::2, ::2], rtol=1e-3, atol=1e-4
        )

    assert agrees()
    # The simplification: the stride removed without dilation.
    for part in fine.backbone.modules():
        if isinstance(part, nn.Conv2d) and part.dilation == (4, 4):
            part.dilation = part.padding = (2, 2)
    assert not agrees()


@torch.no_grad()
def test_the_mean_of_the_picture_is_everywhere_the_same() -> None:
    torch.manual_seed(0)
    pyramid = Pyramid(16, 8, (6, 12, 18)).eval()
    seen: list[Tensor] = []
    pyramid.join.register_forward_hook(lambda part, given, got: seen.append(given[0]))
    x = torch.randn(1, 16, 9, 7)
    pyramid(x)
    branch = seen[0][:, -8:]
    mean = x.flatten(2).sum(2) / (9 * 7)
    torch.testing.assert_close(branch[:, :, :1, :1], pyramid.pooled(mean[:, :, None, None]))
    assert branch.std(dim=(2, 3)).max() == 0
    assert branch.std() > 0
    assert seen[0][:, :-8].std(dim=(2, 3)).min() > 0  # no other branch is


@torch.no_grad()
def test_the_pyramid_sees_as_far_as_its_rates() -> None:
    torch.manual_seed(0)
    pyramid, x = Pyramid(16, 8, (6, 12, 18)).eval(), torch.randn(1, 16, 41, 41)
    other = x.clone()
    other[:, :, 20, 20 + 18] += 10

    def sees() -> bool:
        parts = [part(x) - part(other) for part in pyramid.atrous]
        return bool(parts[2][:, :, 20, 20].any()) and not parts[1][:, :, 20, 20].any()

    assert sees()
    # The simplification: convolutions that are not atrous.
    for part in pyramid.atrous.modules():
        if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3):
            part.dilation = part.padding = (1, 1)
    assert not sees()


def test_features_are_raised_to_where_their_kernels_saw() -> None:
    """Of features that say where they are (pixel 4 i), the raised map says the same of pixels."""

    def place(n: int) -> Tensor:
        return 4 * torch.arange(float(n))[None, None, None].expand(1, 1, n, n)

    for side in (33, 29, 32):
        n = -(-side // 4)
        found = raised(place(n), 4, (side, side))[0, 0, 0]
        inner = slice(0, 4 * (n - 1) + 1)
        torch.testing.assert_close(found[inner], torch.arange(float(side))[inner])
        spread = F.interpolate(place(n), (side, side), mode="bilinear")[0, 0, 0]
        assert (spread - torch.arange(float(side))).abs()[inner].max() > 1  # the simplification


def test_at_the_papers_size_corners_are_aligned() -> None:
    x = torch.randn(1, 2, 33, 33)
    wanted = F.interpolate(x, (513, 513), mode="bilinear", align_corners=True)
    torch.testing.assert_close(raised(x, 16, (513, 513)), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("stride", [4, 32])
def test_another_stride_is_refused(stride: int) -> None:
    with pytest.raises(InputError, match="16 or 8"):
        FAMILY.build(card(stride=stride))


@pytest.mark.parametrize("variant", ["xception41", "resnet50"])
@torch.no_grad()
def test_a_published_backbone_gives_its_own_features(variant: str) -> None:
    """A classifier's file begins the network; its features are those timm takes of that file."""
    import timm

    assert isinstance(FAMILY, Begins)
    torch.manual_seed(3)
    theirs = timm.create_model(variant, pretrained=False, num_classes=7)
    state = {k: v for k, v in theirs.state_dict().items() if "num_batches" not in k}
    ours = FAMILY.begin(card(variant, width=1.0), state).eval()
    dilated = timm.create_model(variant, pretrained=False, num_classes=7, output_stride=16).eval()
    dilated.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 65, 65)
    wanted = dilated.forward_intermediates(x, indices=[1, 4], intermediates_only=True)
    for a, b in zip(ours.features(x), wanted, strict=True):  # type: ignore[operator]  # ours
        torch.testing.assert_close(a, b)


def test_what_is_no_backbone_of_the_variant_is_refused() -> None:
    state = {f"stem.{k}": v for k, v in nn.Linear(2, 2).state_dict().items()}
    with pytest.raises(WeightsError, match="missing"):
        FAMILY.begin(card(), state)


def test_grey_pictures_begin_with_the_sum_of_the_colours() -> None:
    body = narrow().backbone.body.state_dict()
    grey = dataclasses.replace(card(), channels=1)
    found = FAMILY.begin(grey, body).state_dict()["backbone.body.stem.0.conv.weight"]
    torch.testing.assert_close(found, body["stem.0.conv.weight"].sum(1, keepdim=True))


def step(told: ModelCard, count: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    network = FAMILY.build(told).train()
    ids = torch.randint(0, 3, (count, 33, 33))
    ids[:, :4] = IGNORE
    return network, FAMILY.train_step(network, Batch(torch.randn(count, 3, 33, 33), ids), card=told)


def test_a_published_backbone_keeps_its_statistics_in_small_batches() -> None:
    for norm, is_kept in (("frozen", True), ("batch", False)):
        network, loss = step(card(norm=norm), 2)
        assert torch.isfinite(loss)
        means = [v for k, v in network.state_dict().items() if "running_mean" in k]
        of_backbone = [
            v for k, v in network.state_dict().items() if "running_mean" in k and "backbone" in k
        ]
        assert all(not m.any() for m in of_backbone) is is_kept
        assert any(m.any() for m in means)  # the head learns its own


def test_one_picture_alone_can_be_trained_on() -> None:
    network, loss = step(card(), 1)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert torch.isfinite(loss)
    assert not network.pyramid.pooled[1].training  # type: ignore[union-attr,index]  # a `Pyramid`


def test_the_papers_recipe_is_on_the_card() -> None:
    recipe = FAMILY.card("", LABELS).parameters["recipes"]["paper"]
    assert (recipe["schedule"], recipe["rate"], recipe["batch"]) == ("poly", 0.007, 16)
    assert recipe["parameters"]["patch"] == [513, 513]
    _, loss = step(card(loss=recipe["parameters"]["loss"]), 2)
    _, other = step(card(), 2)
    assert not torch.isclose(loss, other)


@pytest.mark.slow
def test_two_pictures_are_learnt_by_heart(tmp_path: Path) -> None:
    cases = [picture(seed, 64) for seed in (1, 2)]
    told = card("xception65", width=0.25)
    assert learn(FAMILY, told, cases, tmp_path / "a", steps=80)[0] >= 0.85
    dealt = [shuffled(case) for case in cases]
    assert learn(FAMILY, told, dealt, tmp_path / "b", steps=80)[0] < 0.5

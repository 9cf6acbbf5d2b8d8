"""Looking inside: what is counted is what the papers and a hand count say, for every family."""

from __future__ import annotations

import json
import time

import pytest
import torch
from torch import Tensor, nn

from maskloop.core.errors import InputError, UnknownNameError
from maskloop.core.labels import LabelTable
from maskloop.models import FAMILIES, LISTED
from maskloop.models.cards import ModelCard
from maskloop.models.dense import DenseFamily
from maskloop.models.inspect import inspect, layers

VARIANTS = [
    pytest.param(name, variant, marks=[pytest.mark.slow] if number else [])
    for name in FAMILIES.entries
    for number, variant in enumerate(LISTED[name].variants)
]


class Own(nn.Conv2d):
    """Ours, but a convolution."""


class Pair(nn.Module):
    """Two convolutions, a fixed kernel, and a buffer that is no weight."""

    scale: Tensor

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 4, 3, padding=1)
        self.second = Own(4, classes, 1, bias=False)
        self.second.weight.requires_grad_(False)
        self.register_buffer("scale", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.first(x)
        if y.shape[2] != y.shape[3]:
            raise RuntimeError("not a square")
        return self.second(y) * 1.0


class PairFamily(DenseFamily):
    name = "pair"
    variants = ("only",)

    def card(self, variant: str, labels: LabelTable) -> ModelCard:
        if variant not in self.variants:
            raise UnknownNameError.of("variant of pair", variant, list(self.variants))
        return ModelCard(
            name="p", title="p", family="pair", ndim=2, labels=labels, parameters={"tile": [20, 20]}
        )

    def build(self, card: ModelCard) -> nn.Module:
        return Pair(card.channels, len(card.labels) + 1)


class RunFamily(PairFamily):
    """The same, but with an answer that depends on numbers: shapes alone do not do."""

    name = "run"

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        found: Tensor = network(images)
        return found if float(found.sum()) == float(found.sum()) else found[:, :1]


FAMILY, MUST_RUN = PairFamily(), RunFamily()


@pytest.fixture(autouse=True)
def pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES.entries, "pair", "tests.models.test_inspect:FAMILY")
    monkeypatch.setitem(FAMILIES.entries, "run", "tests.models.test_inspect:MUST_RUN")


@pytest.mark.parametrize("family", ["pair", "run"])
def test_a_small_network_is_what_a_hand_count_says(family: str) -> None:
    found = inspect(family, classes=3, size=(10, 10))
    assert found.parameters == 4 * 9 + 4 + 3 * 4  # the frozen kernel counts, the buffer does not
    assert found.gmac == pytest.approx((100 * 4 * 9 + 100 * 3 * 4) / 1e9)
    assert found.output_shape == [1, 3, 10, 10]
    assert found.layers == {"Conv2d": 2}
    weights, picture, features, scores = 4 * (52 + 8), 4 * 100, 4 * 400, 4 * 300
    # The scores and their product with 1 are alive together; so are the features, still named.
    assert found.memory_mb == pytest.approx((weights + picture + features + 2 * scores) / 1e6)


def test_channels_classes_and_sizes_reach_the_network() -> None:
    assert inspect("pair", channels=2, classes=5).parameters == 2 * 36 + 4 + 20
    assert inspect("pair", classes=1, size=(7,)).output_shape == [1, 1, 7, 7]
    assert inspect("pair").output_shape == [1, 2, 20, 20]


def test_a_real_pass_holds_as_much_as_the_told_shapes() -> None:
    assert inspect("run", size=(50, 50)).memory_mb == inspect("pair", size=(50, 50)).memory_mb


@pytest.mark.parametrize(
    ("family", "variant", "classes", "size", "parameters", "gmac"),
    [
        ("fcn", "32s", 21, (512, 512), 136_152_917, 190.2),
        ("fcn", "16s", 21, (512, 512), 134_815_994, 190.3),
        ("fcn", "8s", 21, (512, 512), 134_489_759, 190.4),
        ("segnet", "vgg16", 11, (360, 480), 29_449_355, 106.3),
        ("deeplab", "xception65", 21, (513, 513), 41_055_413, 54.04),
        ("torchsemantic", "fcn_resnet50", 21, (512, 512), 32_957_013, 138.4),
    ],
)
def test_networks_are_what_their_papers_and_other_counters_say(
    family: str,
    variant: str,
    classes: int,
    size: tuple[int, ...],
    parameters: int,
    gmac: float,
) -> None:
    found = inspect(family, variant=variant, classes=classes, size=size)
    assert found.parameters == parameters
    assert found.gmac == pytest.approx(gmac, rel=0.002)
    assert found.output_shape == [1, classes, *size]


def test_the_unpadded_unet_of_one_channel_and_two_classes() -> None:
    found = inspect("unet", classes=2, channels=1)
    assert (found.parameters, found.output_shape) == (31_030_658, [1, 2, 388, 388])
    assert found.gmac == pytest.approx(150.4, rel=0.001)
    assert found.layers["ConvTranspose2d"] == 4
    assert found.layers["Conv2d"] == 19


def test_the_patch_classifier_has_the_papers_weights() -> None:
    found = inspect("patchnet", size=(95, 95))
    assert found.parameters == 219_290
    assert found.output_shape == [1, 2, 1, 1]


def test_volumes_take_three_numbers() -> None:
    found = inspect("unet", variant="residual3d", classes=3, channels=2, size=(16, 24, 32))
    assert found.output_shape == [1, 3, 16, 24, 32]
    assert found.layers["Conv3d"] == 22


@pytest.mark.parametrize(("family", "variant"), VARIANTS)
def test_every_network_can_be_looked_into(family: str, variant: str) -> None:
    for module in LISTED[family].needs[:1]:
        pytest.importorskip(module)
    found = inspect(family, variant=variant)
    assert found.parameters > 0
    assert found.gmac > 0
    assert found.memory_mb * 1e6 > 4 * found.parameters
    assert sum(found.layers.values()) > 1
    assert json.loads(json.dumps(found.to_json())) == found.to_json()
    assert list(found.to_json()) == ["parameters", "gmac", "output_shape", "memory_mb", "layers"]


def test_the_first_variant_is_the_usual_one() -> None:
    assert inspect("fcn") == inspect("fcn", variant="32s")


def test_a_layer_derived_from_torchs_counts_as_torchs() -> None:
    assert layers(nn.Sequential(Own(1, 1, 1), nn.Sequential(nn.ReLU()), nn.ModuleList())) == {
        "Conv2d": 1,
        "ReLU": 1,
    }


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(UnknownNameError, match=r"'nope'.*unet"):
        inspect("nope")
    with pytest.raises(UnknownNameError, match="8s"):
        inspect("fcn", variant="4s")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"size": (64, 64, 64)}, "expected a size H W for unet, got 64 64 64"),
        ({"size": (0, 5)}, "got 0 5"),
        ({"size": (570, 570)}, "570"),
        ({"classes": 0}, "1 or more classes"),
        ({"channels": 0}, "1 or more classes and channels"),
    ],
)
def test_what_the_network_does_not_take_is_refused(told: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        inspect("unet", **told)  # type: ignore[arg-type]


def test_a_size_that_torch_refuses_is_refused_in_words() -> None:
    with pytest.raises(InputError, match=r"expected a size that pair takes.*choose a larger"):
        inspect("pair", size=(10, 12))


def test_no_number_is_computed_for_a_network_that_can_be_told_shapes() -> None:
    """FCN-32s on 2000x2000 pixels: 2 x 10^12 multiply-adds would take minutes and gigabytes."""
    began = time.process_time()
    found = inspect("fcn", size=(2000, 2000))
    assert time.process_time() - began < 20
    assert found.gmac > 1900
    assert found.memory_mb > 2000

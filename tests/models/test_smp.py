"""The library's networks under names that say whose they are, and never its research-only parts."""

from __future__ import annotations

import dataclasses
import importlib
import sys

import pytest
import torch

from maskloop.core.errors import InputError, MissingExtraError, UnknownNameError
from maskloop.core.labels import LabelTable
from maskloop.models import FAMILIES
from maskloop.models.cards import ModelCard
from maskloop.models.smp import FAMILY

LABELS = LabelTable.classes({1: "cell", 2: "debris"})
library = pytest.importorskip("segmentation_models_pytorch", reason="the extra smp is absent")


def card(variant: str, **told: object) -> ModelCard:
    plain = FAMILY.card(variant, LABELS)
    return dataclasses.replace(plain, parameters={**plain.parameters, **told})


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail on any way by which the library fetches weights."""

    def refused(*args: object, **kwargs: object) -> None:
        pytest.fail("the library asked the network for weights")

    monkeypatch.setattr(library.encoders, "hf_hub_download", refused)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("variant", FAMILY.variants)
@torch.no_grad()
def test_a_decoder_gives_one_score_a_class_at_the_pictures_size(variant: str) -> None:
    told = card(variant, encoder="mobilenet_v2")
    network = FAMILY.build(told)
    assert type(network).__name__.lower() == variant
    side = FAMILY.tile(told, (64, 64))[0]
    assert network(torch.zeros(1, 3, side, side)).shape == (1, 3, side, side)


@pytest.mark.parametrize(
    ("variant", "encoder", "parameters"),
    [("unet", "resnet34", 24_436_659), ("fpn-tu-resnet18", "tu-resnet18", None)],
)
def test_a_variant_names_its_encoder(variant: str, encoder: str, parameters: int | None) -> None:
    told = FAMILY.card(variant, LABELS)
    assert (told.name, told.parameters["encoder"]) == (f"smp-{variant}", encoder)
    count = sum(p.numel() for p in FAMILY.build(told).parameters())
    assert parameters is None or count == parameters


def test_no_network_passes_for_a_papers() -> None:
    for variant in FAMILY.variants:
        assert "segmentation-models-pytorch" in FAMILY.card(variant, LABELS).title
    for variant, ours in (("unet", "unet:2015"), ("deeplabv3plus", "deeplab")):
        (limit,) = FAMILY.card(variant, LABELS).limits
        assert ours in limit
        assert ours.partition(":")[0] in FAMILIES


def test_an_encoder_for_research_only_is_refused_with_its_licence() -> None:
    with pytest.raises(InputError, match="NVIDIA Source Code License"):
        FAMILY.card("segformer-mit_b0", LABELS)
    with pytest.raises(InputError, match="noncommercial"):
        FAMILY.build(card("segformer", encoder="mit_b0"))
    network = FAMILY.build(card("segformer", encoder="mit_b0", noncommercial=True))
    assert sum(p.numel() for p in network.parameters()) > 3_000_000


def test_what_the_library_does_not_know_is_named() -> None:
    with pytest.raises(UnknownNameError, match="resnet34"):
        FAMILY.build(card("unet", encoder="resnet1"))
    with pytest.raises(UnknownNameError, match="tu-NAME"):
        FAMILY.build(card("unet", encoder="tu-nothing"))
    with pytest.raises(UnknownNameError, match="deeplabv3plus"):
        FAMILY.card("vnet", LABELS)


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(MissingExtraError, match=r"napari-maskloop\[smp\]"):
        FAMILY.build(card("unet"))


def test_naming_the_family_imports_no_library() -> None:
    # Compared by a fresh import: other tests of this file have it loaded.
    module = importlib.import_module("maskloop.models.smp")
    assert "segmentation_models_pytorch" not in vars(module)

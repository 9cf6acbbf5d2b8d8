"""What a training begins with: named, checked, brought from elsewhere without a network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from maskloop.core.errors import InputError, UnknownNameError, WeightsError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.desk import catalogue
from maskloop.loop.train import train
from maskloop.models import FAMILIES, LISTED, cards, starts, weights
from maskloop.models.base import Begins, read_state, write_state
from maskloop.models.cards import MemoryUse, ModelCard, find_card, save_card

LABELS = LabelTable.classes({1: "cell"})
BACKBONES = {card.name: card for card in starts.backbones()}
PAIR = tuple[Image, Mask]


def small(family: str, variant: str) -> ModelCard:
    plain = FAMILIES.get(family).card(variant, LABELS)
    told = {"width": 1 / 64, "patch": [32, 32], "recipe": {"batch": 1}}
    return dataclasses.replace(plain, parameters={**plain.parameters, **told})


def pairs(count: int = 3) -> list[PAIR]:
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        ids = np.zeros((40, 40), np.uint8)
        y, x = rng.integers(4, 24, 2)
        ids[y : y + 12, x : x + 12] = 1
        pixels = np.clip(ids[..., None] * 120 + rng.normal(60, 8, (40, 40, 3)), 0, 255)
        image = Image(pixels.astype(np.uint8), Geometry.pixels((40, 40)), has_channels=True)
        found.append((image, Mask.like(image, ids, LABELS)))
    return found


@pytest.fixture
def coarse(tmp_path: Path) -> ModelCard:
    """Save a narrow FCN-32s as a model of the user's."""
    card = dataclasses.replace(small("fcn", "32s"), name="my-fcn32", status="candidate")
    torch.manual_seed(0)
    network = FAMILIES.get("fcn").build(card)
    torch.nn.init.normal_(network.score.weight)
    path = tmp_path / "fcn32.safetensors"
    write_state(network, path)
    return save_card(card, {path.name: path})


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_a_backbone_fits_a_family_and_says_where_it_comes_from(name: str) -> None:
    backbone = BACKBONES[name]
    family = FAMILIES.get(backbone.family)
    assert isinstance(family, Begins)
    assert backbone.variant in ("", *family.variants)
    assert backbone.licence
    (weight,) = backbone.weights
    # The publisher's own name holds the first digits of the hash.
    assert weight.file.rpartition("-")[2] == f"{weight.sha256}.pth"
    assert weight.source["url"].endswith(weight.file)
    if "torchvision" in weight.source:
        known = weights.torchvision_weights(weight.source["torchvision"])
        assert known.url == weight.source["url"]


def test_every_variant_has_its_backbone_and_no_menu_shows_one() -> None:
    for family in ("fcn", "deeplab"):
        for variant in FAMILIES.get(family).variants:
            assert starts.backbone_of(small(family, variant)) is not None
    assert not set(BACKBONES) & {card.name for card in cards.all_cards()}


def test_without_a_network_the_error_names_the_file_and_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MASKLOOP_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"download\.pytorch\.org/models/vgg16-397923af\.pth"):
        starts.begin(small("fcn", "32s"), "vgg16-imagenet", Job())
    with pytest.raises(WeightsError, match="weights fetch vgg16-imagenet --from FILE"):
        catalogue.weights_fetch("vgg16-imagenet")


def test_another_file_is_not_taken_for_a_backbones(tmp_path: Path) -> None:
    other = tmp_path / "vgg16-397923af.pth"
    other.write_bytes(b"not it")
    with pytest.raises(WeightsError, match="397923af"):
        catalogue.weights_fetch("vgg16-imagenet", source=other)
    (row,) = catalogue.weights_list("vgg16-imagenet")
    assert row["state"] == "absent"


def test_a_file_brings_its_pixels_rule_and_its_source(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    torch.save({"stem.0.conv.weight": torch.zeros(1)}, path)
    plain = small("deeplab", "xception65")
    card, start = starts.begin(plain, str(path), Job())
    assert (card.parameters["normalise"], card.parameters["norm"]) == ("signed", "frozen")
    assert any("timm" in source for source in card.sources)
    assert set(start.state()) == {"stem.0.conv.weight"}
    assert start.model is None


def test_a_start_of_another_family_or_none_is_refused(coarse: ModelCard) -> None:
    with pytest.raises(InputError, match="family 'deeplab'"):
        starts.begin(small("deeplab", "xception41"), "my-fcn32", Job())
    with pytest.raises(UnknownNameError, match=r"my-fcn32, .*vgg16-imagenet"):
        starts.begin(small("fcn", "16s"), "nothing", Job())
    with pytest.raises(InputError, match="leave out the start"):
        train(pairs(), "my-fcn32", "next", steps=1, start="my-fcn32")


def test_training_goes_on_from_the_coarser_network(coarse: ModelCard) -> None:
    report = train(pairs(), "fcn:16s", "my-fcn16", steps=1, device="cpu", start="my-fcn32")
    card = find_card("my-fcn16")
    assert (card.variant, card.base) == ("16s", "my-fcn32")
    assert card.title.startswith("FCN-16s begun with my-fcn32")
    # The coarser network is what the finer one is held against.
    assert report.old is not None
    old = read_state(next(iter(weights.paths(coarse).values())))
    new = read_state(next(iter(weights.paths(card).values())))
    assert "score_skips.0.weight" in new
    # One step with the first rate of a warm-up moves weights by little; random ones lie apart.
    for key in ("stages.0.0.weight", "fc6.weight", "score.weight"):
        assert (old[key] - new[key]).abs().max() < 0.02
        assert old[key].std() > 0.02


def test_a_finer_network_keeps_its_own_recipe_and_no_memory_of_the_coarser(
    coarse: ModelCard,
) -> None:
    """Section 4.2 of the paper: the rate falls a hundredfold where skips are added."""
    measured = dataclasses.replace(coarse, memory=MemoryUse(1e6, 10.0, 1024, "cpu"))
    save_card(measured, dict(weights.paths(coarse)), overwrite=True)
    assert find_card("my-fcn32").memory is not None
    card, _ = starts.begin(small("fcn", "16s"), "my-fcn32", Job())
    assert coarse.parameters["recipes"]["paper"]["rate"] == 1e-4
    assert card.parameters["recipes"]["paper"]["rate"] == 1e-6
    assert card.parameters["width"] == coarse.parameters["width"]
    assert card.memory is None


def test_a_recipe_sets_the_loss_on_the_card(coarse: ModelCard) -> None:
    told = {"rate": 1e-3, "batch": 1, "parameters": {"loss": "cross-entropy"}}
    own = dataclasses.replace(
        coarse, name="with-recipe", parameters={**coarse.parameters, "recipes": {"short": told}}
    )
    save_card(own, dict(weights.paths(coarse)))
    train(pairs(), "with-recipe", "shorter", steps=1, device="cpu", recipe="short")
    assert find_card("shorter").parameters["loss"] == "cross-entropy"
    with pytest.raises(UnknownNameError, match="short"):
        train(pairs(), "with-recipe", "longer", steps=1, device="cpu", recipe="long")


RESIDUAL = [
    name
    for name, listed in LISTED.items()
    if {"instance", "panoptic"} & set(listed.tasks) and name != "flows"
]


@pytest.mark.parametrize("name", RESIDUAL)
def test_every_family_that_finds_objects_begins_on_a_residual_network(
    name: str, tmp_path: Path
) -> None:
    import torchvision

    rows = [Label(1, "cell", is_thing=True), Label(2, "ground")]
    variant = {"adaptis": "resnet50", "yolact": "resnet50"}.get(name, "")
    table = LabelTable(rows if name == "panoptic" else rows[:1])
    card = FAMILIES.get(name).card(variant, table)
    assert [b.name for b in starts.fitting(card)][-1].startswith("resnet")
    torch.manual_seed(5)
    classifier = torchvision.models.resnet18(weights=None)
    path = tmp_path / "mine.pth"
    torch.save(classifier.state_dict(), path)
    few = {"backbone": "resnet18", "features": 16}
    card = dataclasses.replace(card, parameters={**card.parameters, **few})
    begun, start = starts.begin(card, str(path), Job())
    assert begun.parameters["norm"] == "frozen"
    assert begun.parameters["backbone"] == "resnet18"
    network = FAMILIES.get(name).begin(begun, start.state())
    state = network.state_dict()
    trunk = FAMILIES.get(name).trunk
    for key, value in classifier.state_dict().items():
        if not key.startswith("fc.") and not key.endswith("num_batches_tracked"):
            assert torch.equal(state[f"{trunk}{key}"], value), key
    with pytest.raises(WeightsError, match="choose a start that fits"):
        FAMILIES.get(name).begin(begun, {"conv1.weight": torch.zeros(1)})


def test_a_backbones_name_says_how_deep_the_network_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "_files", lambda card, job: {})
    card = FAMILIES.get("maskrcnn").card("", LABELS)
    for depth in (18, 50, 101):
        begun, _ = starts.begin(card, f"resnet{depth}-imagenet", Job())
        assert begun.parameters["backbone"] == f"resnet{depth}"
        assert any(f"ResNet{depth}_Weights" in source for source in begun.sources)
    with pytest.raises(UnknownNameError, match="resnet18-imagenet"):
        starts.begin(card, "vgg16-imagenet", Job())


def test_a_model_of_other_classes_lends_all_but_its_heads(tmp_path: Path) -> None:
    family = FAMILIES.get("maskrcnn")
    few = {"backbone": "resnet18", "width": 0.25, "features": 16, "norm": "group"}
    few |= {"anchors": [[[9, 9]]] * 5, "outputs": 3}
    old = family.card("", LabelTable.classes({1: "cat", 2: "dog"}))
    old = dataclasses.replace(old, name="pets", parameters={**old.parameters, **few})
    torch.manual_seed(0)
    network = family.build(old)
    path = tmp_path / "pets.safetensors"
    write_state(network, path)
    save_card(dataclasses.replace(old, status="candidate"), {path.name: path})
    card, start = starts.begin(family.card("", LABELS), "pets", Job())
    assert card.labels == LABELS
    assert (card.base, card.weights, start.model) == ("pets", (), None)
    assert "outputs" not in card.parameters
    assert family.survey(card, []) == card  # its anchors and norms are the pets'
    begun = family.begin(card, start.state()).state_dict()
    heads = tuple(card.parameters["heads"])
    for key, value in network.state_dict().items():
        if not key.startswith(heads):
            assert torch.equal(begun[key], value), key
    assert begun["roi_heads.box_predictor.cls_score.weight"].shape[0] == 2

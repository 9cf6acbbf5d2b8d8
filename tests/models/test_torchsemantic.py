"""torchvision's segmentation networks: its own weights' names, its own answer on our grid."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from maskloop.core.errors import UnknownNameError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.models.base import IGNORE, Batch, write_state
from maskloop.models.cards import ModelCard, all_cards
from maskloop.models.torchsemantic import FAMILY
from maskloop.models.weights import torchvision_weights
from maskloop.ops.device import CPU

CARDS = {card.variant: card for card in all_cards() if card.family == "torchsemantic"}
LIGHT = "lraspp_mobilenet_v3_large"


def small_card(variant: str = LIGHT) -> ModelCard:
    card = FAMILY.card(variant, LabelTable.classes(["cat", "dog"]))
    return dataclasses.replace(card, parameters={**card.parameters, "shortest": 64, "longest": 96})


def picture(shape: tuple[int, ...] = (50, 70)) -> Image:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    return Image(pixels, Geometry.pixels(shape), has_channels=True)


def test_there_is_a_card_for_every_variant() -> None:
    assert set(CARDS) == set(FAMILY.variants)


@pytest.mark.parametrize("variant", FAMILY.variants)
def test_cards_say_what_torchvision_publishes(variant: str) -> None:
    card = CARDS[variant]
    (weight,) = card.weights
    published = torchvision_weights(str(weight.source["torchvision"]))
    assert published.url == weight.source["url"]
    assert published.url.endswith(f"/{weight.file}")
    assert weight.file.endswith(f"-{weight.sha256}.pth")
    assert [*card.labels.names.values()] == published.meta["categories"][1:]
    assert [*card.labels] == list(range(1, 21))
    (metrics,) = card.metrics.values()
    wanted = published.meta["_metrics"]["COCO-val2017-VOC-labels"]
    assert sorted(metrics.values()) == sorted(wanted.values())


@pytest.mark.parametrize(
    ("variant", "count"),
    [
        ("fcn_resnet50", 35_322_218),
        ("deeplabv3_resnet50", 42_004_074),
        ("deeplabv3_mobilenet_v3_large", 11_029_328),
        (LIGHT, 3_221_538),
    ],
)
def test_published_networks_have_the_published_parameter_count(variant: str, count: int) -> None:
    published = torchvision_weights(str(CARDS[variant].weights[0].source["torchvision"]))
    assert published.meta["num_params"] == count
    with torch.device("meta"):
        network = FAMILY.build(CARDS[variant])
    assert sum(p.numel() for p in network.parameters()) == count


def test_weights_are_loaded_strictly(tmp_path: Path) -> None:
    card = small_card()
    torch.manual_seed(0)
    network = FAMILY.build(card)
    write_state(network, tmp_path / "w.safetensors")
    again = FAMILY.load(card, {"w.safetensors": tmp_path / "w.safetensors"})
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_labels_equal_torchvisions_recipe_at_the_pictures_size() -> None:
    torch.manual_seed(0)
    card, image = small_card(), picture()
    network = FAMILY.build(card)
    from torchvision.transforms.v2 import functional as recipe

    pixels = torch.from_numpy(image.data).permute(2, 0, 1).float() / 255
    small = recipe.normalize(
        recipe.resize(pixels, [64, 89]), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    with torch.inference_mode():
        scores = network(small[None])["out"]
        # A random network says one class everywhere; without its bias all three take part.
        network.classifier.low_classifier.bias -= scores.mean((0, 2, 3))
        scores = network(small[None])["out"]
        whole = torch.nn.functional.interpolate(scores, size=(50, 70), mode="bilinear")
    found = FAMILY.segment(network, image, card=card, device=CPU, job=Job())
    wanted = whole[0].argmax(0).numpy()
    assert found.ids.shape == (50, 70)
    assert np.mean(found.ids == wanted) > 0.995
    assert len(np.unique(wanted)) == 3


def test_a_volume_is_taken_slice_by_slice() -> None:
    torch.manual_seed(0)
    card = small_card()
    data = np.random.default_rng(0).integers(-100, 200, (3, 20, 24)).astype(np.int16)
    image = Image(data, Geometry.regular(data.shape, (5, 1, 1)))
    found = FAMILY.segment(FAMILY.build(card), image, card=card, device=CPU, job=Job())
    assert found.ids.shape == data.shape
    assert any("slices along axis 0" in note for note in found.notes)
    assert any("stretched" in note for note in found.notes)


@pytest.mark.slow
def test_training_lowers_the_loss_where_reviewed() -> None:
    torch.manual_seed(0)
    card = small_card()
    network = FAMILY.build(card).train()
    images = torch.randn(2, 3, 64, 64)
    ids = (images[:, 0] > 0).long()
    ids[:, 48:] = IGNORE
    images[:, :, :32] += 1
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        loss = FAMILY.train_step(network, Batch(images, ids, [{}, {}]), card=card)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_published_batch_norms_keep_their_statistics() -> None:
    card = small_card()
    card = dataclasses.replace(card, parameters={**card.parameters, "norm": "frozen"})
    network = FAMILY.build(card).train()
    before = {k: v.clone() for k, v in network.state_dict().items() if "running" in k}
    batch = Batch(torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.int64))
    FAMILY.train_step(network, batch, card=card).backward()
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items() if k in before)


def test_an_unknown_variant_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="fcn_resnet50"):
        FAMILY.card("fcn_resnet9000", LabelTable())

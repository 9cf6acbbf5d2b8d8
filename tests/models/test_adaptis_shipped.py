"""The shipped AdaptIS: what one click finds, on drawn nuclei and on pictures it never saw."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.desk.clicking import first_clicks
from maskloop.models import weights
from maskloop.models.adaptis import FAMILY
from maskloop.models.cards import ModelCard, find_card
from maskloop.ops.device import CPU
from maskloop.ops.phantom import nuclei_picture


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return find_card("nuclei-adaptis")


@pytest.fixture(scope="module")
def network(card: ModelCard) -> nn.Module:
    return FAMILY.load(card, weights.paths(card))


def ious(network: nn.Module, image: Image, ids: np.ndarray, card: ModelCard) -> list[float]:
    return list(first_clicks(FAMILY, network, image, ids, card=card, device=CPU).values())


def test_a_click_draws_the_nucleus_it_meets(card: ModelCard, network: nn.Module) -> None:
    image, truth = nuclei_picture(1)
    found = ious(network, image, truth.data, card)
    assert len(found) > 20
    assert np.mean(found) > 0.5
    # Clicks that know nothing of the picture: the same points, drawn on it turned upside down.
    turned = Image(image.data[::-1].copy(), image.geometry, has_channels=image.has_channels)
    assert np.mean(ious(network, turned, truth.data, card)) < 0.2


def held_out(shared_data: Path, folder: Path, most: int) -> list[tuple[Image, np.ndarray]]:
    """Return the smallest of the pictures that neither shipped model of nuclei was trained on."""
    from PIL import Image as Pillow

    names = find_card("nuclei").metrics["held_out"]["names"]
    cases = []
    with zipfile.ZipFile(shared_data / "images2d/dsb2018_nuclei/shared.zip") as found:
        for name in names:
            found.extract(f"images/{name}.png", folder)
            found.extract(f"labels/{name}.png", folder)
            pixels = np.asarray(Pillow.open(folder / f"images/{name}.png"))[..., :3]
            ids = np.asarray(Pillow.open(folder / f"labels/{name}.png"))
            cases.append((Image(pixels, Geometry.pixels(ids.shape), has_channels=True), ids))
    return sorted(cases, key=lambda case: case[1].size)[:most]


def test_what_was_held_out_was_never_trained_on(card: ModelCard) -> None:
    told = card.metrics["training"]
    assert len(told["trained"]) == 43
    assert len(told["held_out"]) == 21
    assert not set(told["trained"]) & set(told["held_out"])


def test_first_clicks_on_small_held_out_pictures(
    card: ModelCard, network: nn.Module, shared_data: Path, tmp_path: Path
) -> None:
    found = [ious(network, *case, card) for case in held_out(shared_data, tmp_path, 6)]
    assert np.mean(np.concatenate(found)) > 0.6


@pytest.mark.slow
def test_first_clicks_on_all_held_out_nuclei_are_what_the_card_says(
    card: ModelCard, network: nn.Module, shared_data: Path, tmp_path: Path
) -> None:
    found = np.concatenate(
        [ious(network, *case, card) for case in held_out(shared_data, tmp_path, 21)]
    )
    told = card.metrics["held_out"]["first_click_iou"]
    assert len(found) == 811
    assert told >= 0.7
    assert found.mean() == pytest.approx(told, abs=0.01)

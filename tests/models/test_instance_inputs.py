"""Every family of objects on the pictures that people do have, and in half precision."""

from __future__ import annotations

import dataclasses
import importlib

import numpy as np
import pytest
import torch

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.models import FAMILIES
from maskloop.models.cards import ModelCard
from maskloop.ops.device import CPU

_SMALL = {"backbone": "resnet18", "width": 0.25, "features": 16, "patch": [64, 64]}
_CASES: dict[tuple[str, str], dict[str, object]] = {
    ("maskrcnn", "resnet50"): {"proposals": 20, "norm": "group"},
    ("maskrcnn", "resnet50-v2"): {"proposals": 20, "norm": "group"},
    ("maskrcnn", "c4"): {"proposals": 20, "norm": "group"},
    ("panoptic", "resnet50"): {"proposals": 20, "norm": "group"},
    ("instancefcn", "coco"): {"proposals": 20},
    ("instancefcn", "proposals"): {"proposals": 20},
    ("yolact", "resnet50"): {},
    ("yolact", "resnet50-plus"): {"backbone": "resnet50", "width": 0.125},
    ("solo", "resnet50"): {"grids": [8, 6, 5, 4, 3], "convs": 2},
    ("solo", "decoupled"): {"grids": [8, 6, 5, 4, 3], "convs": 2},
    ("polarmask", "resnet50"): {"convs": 2},
    ("adaptis", "toy"): {},
    ("adaptis", "resnet50"): {},
}
_PICTURES = {
    "tiny": ((20, 30), np.uint8, 3),
    "a pixel": ((1, 1), np.uint8, 0),
    "a strip of grey": ((5, 90), np.uint8, 0),
    "16-bit grey": ((40, 70), np.uint16, 0),
    "16-bit colour with alpha": ((50, 33), np.uint16, 4),
}


def card(name: str, variant: str) -> ModelCard:
    rows = [Label(1, "nucleus", is_thing=True)]
    if name == "panoptic":
        rows.append(Label(2, "matrix"))
    fresh = FAMILIES.get(name).card(variant, LabelTable(rows))
    # Whatever an untrained network says is worth a look.
    any_score = {"least_score": 0.0, "first_score": 0.0, "proposal": 0.0, "things": 0.0}
    told = {**fresh.parameters, **_SMALL, **any_score, **_CASES[name, variant]}
    return dataclasses.replace(fresh, parameters=told)


def picture(shape: tuple[int, int], dtype: type, channels: int) -> Image:
    size = (*shape, channels) if channels else shape
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, size).astype(dtype)
    return Image(values, Geometry.pixels(shape), has_channels=bool(channels))


@pytest.mark.parametrize(("name", "variant"), list(_CASES))
def test_any_picture_is_segmented_on_its_own_grid(name: str, variant: str) -> None:
    torch.manual_seed(0)
    family, mine = FAMILIES.get(name), card(name, variant)
    network = family.build(mine)
    for words, (shape, dtype, channels) in _PICTURES.items():
        image = picture(shape, dtype, channels)
        found = family.segment(network, image, card=mine, device=CPU, job=Job())
        assert found.ids.shape == shape, words
        for one in found.objects or ():
            assert one.region.shape == found.ids[one.box].shape, words
            assert 0 <= one.score <= 1, words


@pytest.mark.parametrize(("name", "variant"), list(_CASES))
def test_objects_are_found_in_half_precision(
    name: str, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on CUDA: what a network says comes in half precision, its weights stay whole.
    module = importlib.import_module(f"maskloop.models.{name}")
    half = torch.autocast("cpu", dtype=torch.bfloat16)
    monkeypatch.setattr(module, "autocast", lambda device: half)
    torch.manual_seed(0)
    family, mine = FAMILIES.get(name), card(name, variant)
    image = picture((40, 50), np.uint8, 3)
    found = family.segment(family.build(mine), image, card=mine, device=CPU, job=Job())
    assert found.ids.shape == (40, 50)

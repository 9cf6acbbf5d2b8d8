"""mmdetection's SOLO: an independent reckoning in its layout answers as our network does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as f

from maskloop.core.errors import WeightsError
from maskloop.core.labels import LabelTable
from maskloop.desk.imports import import_model
from maskloop.models import weights
from maskloop.models.cards import ModelCard, find_card
from maskloop.models.solo import FAMILY
from maskloop.models.solonet import Solo

GRIDS = (8, 6, 4, 3, 2)
FEATURES, DEPTH, GROUPS = 16, 2, 2
LABELS = LabelTable.classes(["cell", "speck", "ring"])
State = dict[str, Tensor]


def narrow(variant: str, labels: LabelTable = LABELS) -> ModelCard:
    card = FAMILY.card(variant, labels)
    few = {"backbone": "resnet18", "width": 0.25, "features": FEATURES, "convs": DEPTH}
    told = {**card.parameters, **few, "grids": list(GRIDS), "patch": [64, 64]}
    return dataclasses.replace(card, parameters=told)


def authors(variant: str) -> State:
    """Return random tensors as mmdetection lays them out, written down part by part."""
    draw = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw) * 0.2

    trunk = FAMILY.build(narrow(variant)).state_dict()
    found = {
        f"backbone.{key.removeprefix('trunk.')}": value.clone()
        for key, value in trunk.items()
        if key.startswith("trunk.")
    }
    channels = (16, 32, 64, 128)
    for number, n in enumerate(channels):
        found[f"neck.lateral_convs.{number}.conv.weight"] = some(FEATURES, n, 1, 1)
        found[f"neck.lateral_convs.{number}.conv.bias"] = some(FEATURES)
        found[f"neck.fpn_convs.{number}.conv.weight"] = some(FEATURES, FEATURES, 3, 3)
        found[f"neck.fpn_convs.{number}.conv.bias"] = some(FEATURES)
    extra = {"cls_convs": 0, "mask_convs": 2}
    if variant == "decoupled":
        extra = {"cls_convs": 0, "mask_convs_x": 1, "mask_convs_y": 1}
    for name, more in extra.items():
        for number in range(DEPTH):
            n = FEATURES + (more if number == 0 else 0)
            start = f"mask_head.{name}.{number}"
            found[f"{start}.conv.weight"] = some(FEATURES, n, 3, 3)
            found[f"{start}.gn.weight"] = some(FEATURES) + 1
            found[f"{start}.gn.bias"] = some(FEATURES)
    for number, s in enumerate(GRIDS):
        lasts = {"conv_mask_list": (s * s, FEATURES, 1, 1)}
        if variant == "decoupled":
            shape = (s, FEATURES, 3, 3)
            lasts = {"conv_mask_list_x": shape, "conv_mask_list_y": shape}
        for name, shape in lasts.items():
            found[f"mask_head.{name}.{number}.weight"] = some(*shape)
            found[f"mask_head.{name}.{number}.bias"] = some(shape[0])
    found["mask_head.conv_cls.weight"] = some(3, FEATURES, 3, 3)
    found["mask_head.conv_cls.bias"] = some(3)
    return found


def reckoned(state: State, stages: list[Tensor]) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Return class and mask logits, from the maps of the backbone and the authors' tensors."""

    def conv(name: str, x: Tensor, padding: int = 0) -> Tensor:
        return f.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), padding=padding)

    def tower(name: str, x: Tensor) -> Tensor:
        for number in range(DEPTH):
            start = f"mask_head.{name}.{number}"
            x = conv(f"{start}.conv", x, 1)
            x = f.group_norm(x, GROUPS, state[f"{start}.gn.weight"], state[f"{start}.gn.bias"])
            x = x.relu()
        return x

    def resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
        return f.interpolate(x, size=size, mode="bilinear", align_corners=False)

    lateral = [conv(f"neck.lateral_convs.{n}.conv", x) for n, x in enumerate(stages)]
    for n in (2, 1, 0):
        size = lateral[n].shape[2:]
        lateral[n] = lateral[n] + f.interpolate(lateral[n + 1], size=size, mode="nearest")
    levels = [conv(f"neck.fpn_convs.{n}.conv", x, 1) for n, x in enumerate(lateral)]
    last = levels[3][:, :, ::2, ::2]
    levels = [resize(levels[0], tuple(levels[1].shape[2:])), *levels[1:]]
    levels.append(resize(last, tuple(levels[3].shape[2:])))
    scores, masks = [], []
    for number, (level, grid) in enumerate(zip(levels, GRIDS, strict=True)):
        scores.append(
            conv("mask_head.conv_cls", tower("cls_convs", resize(level, (grid, grid))), 1)
        )
        height, width = level.shape[2:]
        x = torch.linspace(-1, 1, width).expand(1, 1, height, width)
        y = torch.linspace(-1, 1, height)[:, None].expand(1, 1, height, width)
        double = (2 * height, 2 * width)
        if "mask_head.conv_mask_list.0.weight" in state:
            deep = resize(tower("mask_convs", torch.cat([level, x, y], 1)), double)
            masks.append([conv(f"mask_head.conv_mask_list.{number}", deep)])
            continue
        across = resize(tower("mask_convs_x", torch.cat([level, x], 1)), double)
        down = resize(tower("mask_convs_y", torch.cat([level, y], 1)), double)
        masks.append(
            [
                conv(f"mask_head.conv_mask_list_x.{number}", across, 1),
                conv(f"mask_head.conv_mask_list_y.{number}", down, 1),
            ]
        )
    return scores, masks


@pytest.mark.parametrize("variant", ["resnet50", "decoupled"])
def test_an_imported_network_answers_as_the_authors_layout_says(variant: str) -> None:
    state, card = authors(variant), narrow(variant)
    network = FAMILY.build(card)
    assert isinstance(network, Solo)
    network.load_state_dict(FAMILY.converted(card, state), strict=True)
    picture = torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        answers = network.eval()(picture)
        scores, masks = reckoned(state, network.trunk(picture))
    for found, wanted in zip(answers.scores, scores, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    for number, grid in enumerate(GRIDS):
        row, column = 1, grid - 1
        (mask,) = network.masks(answers, number, 0, torch.tensor([row * grid + column])).detach()
        told = masks[number]
        wanted = (
            told[0][0, row * grid + column].sigmoid()
            if len(told) == 1
            else told[0][0, column].sigmoid() * told[1][0, row].sigmoid()
        )
        torch.testing.assert_close(mask, wanted, rtol=1e-4, atol=1e-4)


def test_a_file_of_mmdetections_becomes_a_model_of_ones_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(type(FAMILY), "published", lambda _, v, labels: narrow(v, labels))
    state = authors("decoupled")
    path, names = tmp_path / "decoupled_solo.pth", tmp_path / "classes.txt"
    torch.save({"state_dict": state, "meta": {"epoch": 12}}, path)
    names.write_text("cell\nspeck\nring\n", encoding="utf-8")
    import_model(path, "solo:decoupled", "mine", labels=names, licence="Apache-2.0")
    card = find_card("mine")
    assert (card.licence, card.labels.names) == ("Apache-2.0", {1: "cell", 2: "speck", 3: "ring"})
    found = FAMILY.load(card, weights.paths(card)).state_dict()
    assert torch.equal(found["rows.1.1.weight"], state["mask_head.mask_convs_y.1.gn.weight"])
    with pytest.raises(WeightsError, match="missing     cell_masks"):
        import_model(path, "solo:resnet50", "other", labels=names)


def test_the_card_of_an_import_sees_pictures_as_mmdetection_does() -> None:
    told = FAMILY.published("resnet50", LABELS).parameters
    assert (told["shortest"], told["longest"], told["detections"]) == (800, 1333, 100)
    assert told["patch"] == [800, 1344]  # cells are shares of the whole picture: no crops

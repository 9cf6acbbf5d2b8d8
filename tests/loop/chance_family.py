"""A network that reads the chance of tumour off the image: what it says is known beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskloop.core.labels import Label, LabelTable
from maskloop.models.cards import ModelCard, save_card
from maskloop.models.dense import DenseFamily

LABELS = LabelTable([Label(1, "liver"), Label(2, "tumour", is_thing=True)])


class Reader(nn.Module):
    """Scores whose softmax is (1 - p, 0, p), where a voxel holds p in thousandths."""

    def forward(self, x: Tensor) -> Tensor:
        p = (x / 1000).clamp(1e-6, 1 - 1e-6)
        return torch.cat([torch.zeros_like(p), torch.full_like(p, -30), torch.logit(p)], 1)


class ChanceFamily(DenseFamily):
    name = "chance"
    title = "Chance"

    def load(self, card: ModelCard, files: Any) -> nn.Module:
        return Reader()


FAMILY = ChanceFamily()


def save_model(folder: Path, **parameters: Any) -> ModelCard:
    """Put the model ``chances`` into the user's folder."""
    weights = folder / "none.safetensors"
    weights.write_bytes(b"no weights")
    spacing = parameters.pop("spacing", None)
    card = ModelCard(
        "chances",
        "Reads chances",
        "chance",
        ndim=3,
        labels=LABELS,
        spacing=spacing,
        status="proved",
        parameters={"tile": [24, 24, 24], "overlap": 0.25, **parameters},
    )
    return save_card(card, {weights.name: weights})

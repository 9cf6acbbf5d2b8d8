"""A model that draws the bright piece at a click, the surer the nearer: to test clicks with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from maskloop.core.labels import LabelTable
from maskloop.models.base import Answer, Segmentation, Sight
from maskloop.models.cards import ModelCard, save_card
from maskloop.ops import components


class ClickFamily:
    name = "bright"
    title = "Bright pieces"
    tasks = ("instance",)
    ndims = (2,)
    variants = ()
    is_trainable = False

    def __init__(self) -> None:
        self.looks: list[tuple[int, int] | None] = []

    def build(self, card: ModelCard) -> nn.Module:
        return nn.Identity()

    def load(self, card: ModelCard, files: Any) -> nn.Module:
        return nn.Identity()

    def segment(
        self, network: nn.Module, image: Any, *, card: ModelCard, device: Any, job: Any
    ) -> Segmentation:
        ids, count = components.label(_grey(image) > 100)
        return Segmentation(ids, LabelTable.objects(range(1, count + 1), "cell"))

    def look(
        self,
        network: nn.Module,
        image: Any,
        *,
        card: ModelCard,
        device: Any,
        job: Any,
        near: tuple[int, int] | None = None,
    ) -> Sight:
        self.looks.append(near)
        side = int(card.parameters["window"])
        middle = near or (0, 0)
        starts = [
            min(max(0, m - side // 2), max(0, n - side))
            for m, n in zip(middle, image.geometry.shape, strict=True)
        ]
        box = tuple(
            slice(a, min(a + side, n)) for a, n in zip(starts, image.geometry.shape, strict=True)
        )
        return Sight(box, _grey(image)[box])

    def answer(
        self, network: nn.Module, sight: Sight, point: tuple[int, int], *, card: ModelCard
    ) -> Answer | None:
        local = tuple(i - part.start for i, part in zip(point, sight.box, strict=True))
        region = components.piece_at(sight.kept > 100, local)
        if not region.any():
            return None
        rows, columns = np.indices(region.shape)
        far = np.hypot(rows - local[0], columns - local[1])
        chances = np.where(region, 0.6 + 0.4 * np.exp(-far / 10), 0.1).astype(np.float32)
        return Answer(sight.box, chances, 0.5, "cell")


def _grey(image: Any) -> np.ndarray:
    return image.data.mean(axis=-1) if image.has_channels else image.data


FAMILY = ClickFamily()


def save_bright(folder: Path, name: str = "bright", *, window: int = 512) -> None:
    """Put the model into the user's folder."""
    weights = folder / "none.safetensors"
    weights.write_bytes(b"no weights")
    card = ModelCard(
        name,
        "Bright pieces",
        "bright",
        ndim=2,
        task="instance",
        labels=LabelTable.classes(["cell"]),
        parameters={"window": window, "slices": False},
        status="proved",
    )
    save_card(card, {"none.safetensors": weights})

"""A model small and odd enough to test the window with: it thresholds, waits or fails as told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from maskloop.core.labels import Label, LabelTable
from maskloop.models.base import Segmentation
from maskloop.models.cards import ModelCard, save_card


class FakeFamily:
    name = "fake"
    title = "Fake"
    tasks = ("semantic", "instance", "panoptic")
    ndims = (2, 3)
    variants = ()
    is_trainable = False

    def build(self, card: ModelCard) -> nn.Module:
        return nn.Identity()

    def load(self, card: ModelCard, files: Any) -> nn.Module:
        return nn.Identity()

    def segment(
        self, network: nn.Module, image: Any, *, card: ModelCard, device: Any, job: Any
    ) -> Segmentation:
        how = card.parameters["how"]
        if how == "fail":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 178 GiB.")
        for _ in job.track(range(100 if how == "slow" else 2), "tiles"):
            time.sleep(0.1 if how == "slow" else 0.0)
        if how == "deaf":
            time.sleep(4)
        pixels = image.data
        if image.has_channels:
            pixels = pixels.mean(axis=-1)
        ids = (pixels > 50).astype(np.uint8)
        ids[pixels > 100] = 2
        if how == "high":
            ids = (pixels > 100).astype(np.uint8)
        labels = card.labels
        if card.task == "instance":
            labels = LabelTable.objects((1, 2), "cell")
        if card.task == "panoptic":
            return panoptic(pixels)
        return Segmentation(ids, labels)


def panoptic(pixels: np.ndarray) -> Segmentation:
    """Call each bright piece a cell, half as sure as it is bright, and all else ground."""
    from skimage.measure import label

    pieces, count = label(pixels > 100, return_num=True)
    rows = [
        Label(
            i,
            f"cell {i}",
            category="cell",
            is_thing=True,
            score=float(pixels[pieces == i].max()) / 255,
        )
        for i in range(1, count + 1)
    ]
    ground = count + 1
    ids = np.where(pieces == 0, ground, pieces).astype(np.uint8)
    return Segmentation(
        ids, LabelTable([*rows, Label(ground, "ground")]), ("cell 1 is no star: drawn as one",)
    )


class Likely(FakeFamily):
    """Tells how likely each class is."""

    def probabilities(
        self, network: nn.Module, image: Any, *, card: ModelCard, device: Any, job: Any
    ) -> Any:
        ids = self.segment(network, image, card=card, device=device, job=job).ids
        found = np.full((1 + len(card.labels), *ids.shape), 0.125, np.float32)
        np.put_along_axis(found, ids[None].astype(np.intp), np.float32(0.75), 0)
        return found


FAMILY = FakeFamily()
LIKELY = Likely()


def save_fake(folder: Path, name: str, *, ndim: int, how: str = "quick", **more: Any) -> None:
    """Put a fake model into the user's folder."""
    weights = folder / "none.safetensors"
    weights.write_bytes(b"no weights")
    card = ModelCard(
        name,
        f"Fake {name}",
        "likely" if how == "likely" else "fake",
        ndim=ndim,
        labels=more.pop("labels", LabelTable.classes({1: "liver", 2: "tumour"})),
        parameters={"how": how, "slices": False},
        status="proved",
        **more,
    )
    save_card(card, {"none.safetensors": weights})

"""A picture of 4000x3000 pixels by tiles: in bounded memory, and without seams."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.models.cards import ModelCard
from maskloop.models.dense import DenseFamily
from maskloop.ops.device import CPU

CLASSES = 8
MARGIN = 3
SEAMLESS = 1e-4
LARGE = (4000, 3000)
MOST_MIB = 250  # of which the picture as floats is 46, the label map 11


class Narrow(nn.Module):
    """Three 3x3 convolutions that look 3 pixels around; unpadded, or padded as a mistake."""

    def __init__(self, *, is_padded: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        told = {"padding": int(is_padded)}
        self.layers = nn.Sequential(
            nn.Conv2d(1, 2, 3, **told),
            nn.ReLU(),
            nn.Conv2d(2, 2, 3, **told),
            nn.ReLU(),
            nn.Conv2d(2, CLASSES, 3, **told),
        )

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found


def card_of(*, margin: int = MARGIN) -> ModelCard:
    return ModelCard(
        name="n",
        title="n",
        family="narrow",
        ndim=2,
        labels=LabelTable.classes([f"class {i}" for i in range(1, CLASSES)]),
        parameters={
            "normalise": "zscore",
            "tile": [512 + 2 * margin] * 2,
            "margin": margin,
            "overlap": 0.0,
            "batch": 1,
        },
    )


def picture(shape: tuple[int, ...] = LARGE) -> Image:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Image(pixels, Geometry.pixels(shape))


def seam(network: nn.Module, card: ModelCard, shape: tuple[int, ...]) -> float:
    """Return how far scores by tiles are from those of the whole picture inside the margin."""
    data = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    found = DenseFamily().scores(network.eval(), data, card=card, device=CPU, job=Job())
    with torch.inference_mode():
        whole = network(torch.from_numpy(data)[None])[0].numpy()
    rim = (shape[0] - whole.shape[1]) // 2
    edge = MARGIN  # what lies outside the picture was made up by either in its own way
    inside = (slice(None), *(slice(edge, n - edge) for n in shape))
    held = (slice(None), *(slice(edge - rim, n + rim - edge) for n in whole.shape[1:]))
    return float(np.abs(found[inside] - whole[held]).max())


def test_tiles_of_a_large_picture_leave_no_seam() -> None:
    assert seam(Narrow(), card_of(), (1100, 700)) <= SEAMLESS


def test_the_bar_catches_tiles_that_pad_themselves() -> None:
    assert seam(Narrow(is_padded=True), card_of(margin=0), (1100, 700)) > 100 * SEAMLESS


def peaks_mib() -> tuple[float, float]:
    """Return the peaks above the start of drawing the labels, and of taking all the scores.

    In a fresh process, so that nothing freed before is taken again unseen.
    """
    code = """
from tests.models.test_dense_large import *
from maskloop.models.posing import pose
from maskloop.models.memory import peak_of
network, card, family = Narrow().eval(), card_of(), DenseFamily()
def labels(image):
    found = family.segment(network, image, card=card, device=CPU, job=Job())
    assert found.ids.shape == image.data.shape
def scores(image):
    family.scores(network, pose(image, card).data, card=card, device=CPU, job=Job())
large = picture()
for work in (labels, scores):
    work(picture((600, 600)))
    print(peak_of(lambda: work(large), CPU) / 2**20)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    labels, scores = map(float, told.stdout.split())
    return labels, scores


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
def test_a_large_picture_needs_bounded_memory_and_the_bar_catches_scores_of_the_whole() -> None:
    labels, scores = peaks_mib()
    assert labels <= MOST_MIB
    assert scores > MOST_MIB

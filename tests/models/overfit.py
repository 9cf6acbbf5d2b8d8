"""Little pictures to learn by heart: whether a family's loss, targets and answer fit together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.models.base import Batch, Calibrates, Family, Segmentation, Surveys
from maskloop.models.cards import ModelCard
from maskloop.ops.device import CPU
from maskloop.training.fit import Point, Recipe, fit, seeded
from maskloop.training.patches import Patches

LABELS = LabelTable.classes({1: "disc", 2: "square"})
Case = tuple[Image, Mask]


def picture(seed: int, size: int, *, is_grey: bool = False) -> Case:
    """Return a disc and a square, each of its colour, in noise, and what they are."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    ids = np.zeros((size, size), np.uint8)
    radius = int(size * rng.uniform(0.14, 0.18))
    left, right = rng.permutation([size // 4, size - size // 4])
    rows = rng.integers(radius + 2, size - radius - 2, 2)
    ids[(y - rows[0]) ** 2 + (x - left) ** 2 <= radius**2] = 1
    ids[(abs(y - rows[1]) <= radius) & (abs(x - right) <= radius)] = 2
    colours = np.array([(90, 130, 90), (220, 180, 60), (30, 40, 120)], float)
    pixels = colours[ids] + rng.normal(0, 15, (size, size, 3))
    pixels = np.clip(pixels.mean(-1) if is_grey else pixels, 0, 255).astype(np.uint8)
    image = Image(pixels, Geometry.pixels((size, size)), has_channels=not is_grey)
    return image, Mask.like(image, ids, LABELS)


def shuffled(case: Case, seed: int = 0) -> Case:
    """Return the picture with its pixels' labels dealt anew: nothing in it tells them any more."""
    image, mask = case
    ids = np.random.default_rng(seed).permutation(mask.data.ravel()).reshape(mask.data.shape)
    return image, Mask.like(image, ids, mask.labels)


def learn(
    family: Family,
    card: ModelCard,
    cases: list[Case],
    folder: Path,
    *,
    steps: int,
    batch: int = 2,
    rate: float = 1e-3,
) -> tuple[float, tuple[Point, ...]]:
    """Train on whole pictures as `maskloop train` does; return their mean IoU and the curve."""
    found, curve = _learnt(family, card, cases, folder, steps, batch, rate)
    truth = [mask.data for _, mask in cases]
    return mean_iou(np.stack([one.ids for one in found]), np.stack(truth)), curve


def learn_objects(
    family: Family,
    card: ModelCard,
    cases: list[Case],
    folder: Path,
    *,
    steps: int,
    batch: int = 2,
    rate: float = 1e-3,
) -> tuple[float, int]:
    """Train on whole pictures; return the mean best IoU of each object, and the spare detections.

    The best is looked for among detections of the object's class; spare are those that meet no
    object of their class with an IoU of 0.5.
    """
    found, _ = _learnt(family, card, cases, folder, steps, batch, rate)
    ious, spare = [], 0
    for one, (_, mask) in zip(found, cases, strict=True):
        hits = set()
        for i in mask.ids():
            name = mask.labels[i].category or mask.labels[i].name
            same = [k for k, row in one.labels.items() if (row.category or row.name) == name]
            overlaps = {k: _iou(one.ids == k, mask.data == i) for k in same}
            ious.append(max(overlaps.values(), default=0.0))
            hits |= {k for k, iou in overlaps.items() if iou >= 0.5}
        spare += len(set(one.labels) - hits)
    return float(np.mean(ious)), spare


def _iou(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    return float(np.count_nonzero(a & b) / max(np.count_nonzero(a | b), 1))


def _learnt(
    family: Family,
    card: ModelCard,
    cases: list[Case],
    folder: Path,
    steps: int,
    batch: int,
    rate: float,
) -> tuple[list[Segmentation], tuple[Point, ...]]:
    volumes = [
        volume
        for image, mask in cases
        for volume in family.prepare(image, mask, card=card, reviewed=None, job=Job())
    ]
    if isinstance(family, Surveys):
        card = family.survey(card, volumes)
    with seeded(0):
        network = family.build(card)

    def draw(rng: np.random.Generator) -> Patches:
        chosen = [volumes[int(i)] for i in rng.permutation(len(volumes))[:batch]]
        ids = [
            np.where(True if v.reviewed is None else v.reviewed, v.ids.astype(np.int64), -1)
            for v in chosen
        ]
        images = torch.from_numpy(np.stack([v.data for v in chosen]))
        return Patches(
            images, torch.from_numpy(np.stack(ids)), [dict(v.categories) for v in chosen]
        )

    recipe = Recipe(steps, rate, average=0.0, schedule="constant", checkpoint_every=0)
    fitted = fit(
        network,
        lambda net, p: family.train_step(
            net, Batch(p.images, p.ids, list(p.categories)), card=card
        ),
        draw,
        recipe=recipe,
        folder=folder,
    )
    if isinstance(family, Calibrates):
        card = family.calibrate(network, volumes, card=card, device=CPU, job=Job())
    found = [family.segment(network, image, card=card, device=CPU, job=Job()) for image, _ in cases]
    return found, fitted.curve


def mean_iou(found: npt.NDArray[np.integer], truth: npt.NDArray[np.integer]) -> float:
    """Return the mean over the background and the two labels of intersection over union."""
    scores = []
    for label in (0, *LABELS):
        a, b = found == label, truth == label
        scores.append(np.count_nonzero(a & b) / np.count_nonzero(a | b))
    return float(np.mean(scores))

"""Train the shipped `phantom-liver` network on random phantoms, measure it, write its weights.

    python scripts/train_phantom_liver.py --steps 600 --work /tmp/phantom-liver

Stopped and started again with the same arguments it goes on where it was. Phantoms with seeds from
10000 are for training, from 90000 for measuring: none is in both.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.models.base import Batch
from maskloop.models.unet import FAMILY
from maskloop.models.weights import sha256_of
from maskloop.ops.device import choose
from maskloop.ops.phantom import LABELS as NAMES
from maskloop.ops.phantom import phantom_ct
from maskloop.training.augment import Augmentation
from maskloop.training.checkpoints import plain_state
from maskloop.training.fit import Recipe, fit
from maskloop.training.patches import Patches, PatchStore

if TYPE_CHECKING:
    from maskloop.core.image import Image
    from maskloop.core.mask import Mask

LABELS = LabelTable.classes(NAMES)
TRAIN_SEED, TEST_SEED = 10_000, 90_000
SMALL_MM = 10.0
# Whole trunks on two scanners' grids, and narrow fields in which the anatomy is scaled down.
GRIDS = (
    ((96, 128, 128), (3.0, 2.8, 2.8)),
    ((96, 128, 128), (3.0, 2.8, 2.8)),
    ((72, 100, 100), (4.0, 3.6, 3.6)),
    ((64, 80, 80), (3.0, 3.0, 3.0)),
)


def phantom(seed: int) -> tuple[Image, Mask]:
    shape, spacing = GRIDS[seed % len(GRIDS)]
    return phantom_ct(seed, shape=shape, spacing=spacing)


def fill(store: PatchStore, count: int, job: Job) -> None:
    card = FAMILY.card("residual3d", LABELS)
    for seed in range(TRAIN_SEED, TRAIN_SEED + count):
        if f"{seed}" not in store:
            image, mask = phantom(seed)
            (volume,) = FAMILY.prepare(image, mask, card=card, reviewed=None, job=job)
            store.add(f"{seed}", volume)


def measure(network: torch.nn.Module, count: int) -> dict[str, object]:
    """Return held-out Dice per label, and how many lesions of which size were hit."""
    card = FAMILY.card("residual3d", LABELS)
    dice: dict[str, list[float]] = {"liver": [], "tumour": [], "liver and tumour together": []}
    hit = {"small": [0, 0], "large": [0, 0]}
    for seed in range(TEST_SEED, TEST_SEED + count):
        image, mask = phantom(seed)
        found = FAMILY.segment(network, image, card=card, device=choose("cpu"), job=Job())
        for ids, name in zip(((1,), (2,), (1, 2)), dice, strict=True):
            a, b = np.isin(found.ids, ids), np.isin(mask.data, ids)
            if a.any() or b.any():
                dice[name].append(2 * float((a & b).sum()) / float(a.sum() + b.sum()))
        lesions, n = ndimage.label(mask.data == 2)
        for lesion in range(1, n + 1):
            region = lesions == lesion
            size = (6 * region.sum() * image.geometry.voxel_size / np.pi) ** (1 / 3)
            kind = "small" if size < SMALL_MM else "large"
            hit[kind][0] += bool((found.ids[region] == 2).any())
            hit[kind][1] += 1
    return {
        "held_out_phantoms": count,
        "seeds": [TEST_SEED, TEST_SEED + count - 1],
        "dice": {name: round(float(np.mean(values)), 4) for name, values in dice.items()},
        "lesions_hit": {
            f"under {SMALL_MM:g} mm": hit["small"],
            f"from {SMALL_MM:g} mm": hit["large"],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--phantoms", type=int, default=120)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--held-out", type=int, default=16)
    parser.add_argument("--work", type=Path, default=Path("phantom-liver"))
    parser.add_argument("--out", type=Path, default=None, help="where the weights go")
    parser.add_argument("--measure", type=Path, default=None, help="only measure these weights")
    options = parser.parse_args()
    if options.measure is not None:
        card = FAMILY.card("residual3d", LABELS)
        network = FAMILY.load(card, {options.measure.name: options.measure})
        print(json.dumps(measure(network, options.held_out), indent=1))
        return

    start = time.perf_counter()
    last = 0.0

    def show(progress: object) -> None:
        nonlocal last
        if time.perf_counter() - last > 20:
            last = time.perf_counter()
            print(f"{last - start:6.0f} s", progress, flush=True)

    job = Job(show)
    store = PatchStore(options.work / "volumes")
    fill(store, options.phantoms, job)
    print(f"{len(store)} phantoms ready after {time.perf_counter() - start:.0f} s", flush=True)

    card = FAMILY.card("residual3d", LABELS)
    shape = FAMILY.patch(card)
    augment = Augmentation(FAMILY.augmentation(card), card.spacing)
    torch.manual_seed(0)
    network = FAMILY.build(card)

    def loss(net: torch.nn.Module, patches: Patches) -> torch.Tensor:
        return FAMILY.train_step(
            net, Batch(patches.images, patches.ids, patches.categories), card=card
        )

    def draw(rng: np.random.Generator) -> Patches:
        cut = store.draw(rng, shape, count=options.batch, reach=augment.reach(shape))
        return augment(cut, shape, rng)

    recipe = Recipe(options.steps, options.rate, average=0.99, checkpoint_every=50)
    fit(network, loss, draw, recipe=recipe, folder=options.work / "run", job=job)
    trained = time.perf_counter() - start

    out = options.out or options.work / "phantom-liver.safetensors"
    from safetensors.torch import save_file

    save_file(plain_state(network), out)
    report = measure(network, options.held_out)
    report |= {
        "steps": options.steps,
        "seconds": round(trained),
        "sha256": sha256_of(out),
        "size": out.stat().st_size,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()

"""Train and measure the shipped model ``nuclei`` on pictures of the 2018 Data Science Bowl.

    python scripts/train_nuclei.py FOLDER --steps 1500 --out nuclei.safetensors
    python scripts/train_nuclei.py FOLDER --evaluate nuclei.safetensors

FOLDER holds ``images/NAME.png`` and ``labels/NAME.png`` (uint16, one id a nucleus) for the 64 names
of the CC0 subset. A third, fixed by `split`, is never trained on, nor is any setting chosen on it.
A run that was killed goes on from its checkpoints. The same steps, seed and torch give the same
weights on one machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image as Pillow
from torch.nn import functional

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.models import base, fields, flows
from maskloop.ops.device import CPU
from maskloop.training.fit import Recipe, fit
from maskloop.training.patches import IGNORE, Patches

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
SIDE = 160
BATCH = 8
DIAMETERS = (9.0, 50.0)  # of the median nucleus of a picture, in the crops

Field = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture with its nuclei."""

    name: str
    image: Image
    ids: Ids

    @property
    def look(self) -> str:
        """How it was taken, as far as size and colour tell."""
        rgb = self.image.data[..., :3].astype(int)
        colour = "stained" if np.ptp(rgb, axis=-1).mean() > 5 else "grey"
        height, width = self.ids.shape
        return f"{colour} {width}x{height}"

    @property
    def diameter(self) -> float:
        """Of the disc that has the area of the median nucleus, in pixels."""
        sizes = np.bincount(self.ids.ravel())[1:]
        return float(np.sqrt(4 / np.pi * np.median(sizes[sizes > 0])))


def read(folder: Path) -> list[Picture]:
    found = []
    for path in sorted((folder / "images").glob("*.png")):
        pixels = np.asarray(Pillow.open(path))
        ids = np.asarray(Pillow.open(folder / "labels" / path.name)).astype(np.int64)
        image = Image(pixels, Geometry.pixels(ids.shape), path, has_channels=pixels.ndim == 3)
        found.append(Picture(path.stem, image, ids))
    if not found:
        msg = f"expected pictures in {folder / 'images'}, got none; unzip the data set there"
        raise SystemExit(msg)
    return found


def split(pictures: list[Picture], seed: int = 2018) -> tuple[list[Picture], list[Picture]]:
    """Return pictures to train on and a held-out third: every third of each look, shuffled."""
    looks = defaultdict(list)
    for picture in pictures:
        looks[picture.look].append(picture)
    rng = np.random.default_rng(seed)
    train, held = [], []
    for look in sorted(looks):
        mixed = [looks[look][i] for i in rng.permutation(len(looks[look]))]
        cut = max(1, round(len(mixed) / 3))
        held += mixed[:cut]
        train += mixed[cut:]
    return train, sorted(held, key=lambda p: p.name)


class Crops:
    """Random crops of the training pictures, turned, scaled, bent in brightness."""

    def __init__(self, pictures: list[Picture]) -> None:
        looks = defaultdict(list)
        for picture in pictures:
            unit = flows.unit_of(picture.image)[0][0]
            looks[picture.look].append((unit, picture.ids, picture.diameter))
        self.looks = list(looks.values())
        # Rare looks are drawn more often than their count says, common ones less.
        weight = np.sqrt([len(pictures) for pictures in self.looks])
        self.chances = weight / weight.sum()

    def __call__(self, rng: np.random.Generator) -> Patches:
        """Return one batch; `rng` decides everything."""
        images, ids = zip(*(self._one(rng) for _ in range(BATCH)), strict=True)
        seen = flows.curved(np.stack(images)[:, None])
        return Patches(torch.from_numpy(seen), torch.stack(ids), [{} for _ in ids])

    def _one(self, rng: np.random.Generator) -> tuple[Field, torch.Tensor]:
        look = self.looks[int(rng.choice(len(self.looks), p=self.chances))]
        unit, ids, diameter = look[int(rng.integers(len(look)))]
        wanted = np.exp(rng.uniform(*np.log(DIAMETERS)))
        scale = float(np.clip(wanted / diameter, 0.6, 2.2))
        crop, cut = _warped(unit, ids, scale, rng)
        if rng.random() < 0.02:
            crop, cut = np.zeros_like(crop), torch.zeros_like(cut)
            crop += rng.uniform(0.1, 0.6) + rng.normal(0, rng.uniform(0.02, 0.3), crop.shape)
        return _shaded(crop, rng), cut


def _warped(
    unit: Field, ids: Ids, scale: float, rng: np.random.Generator
) -> tuple[Field, torch.Tensor]:
    """Return a crop by one resampling; what lies outside the picture is not reviewed."""
    angle, stretch = rng.uniform(0, 2 * np.pi), np.exp(rng.normal(0, 0.08))
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s], [s, c]]) @ np.diag([stretch, 1 / stretch])
    if rng.random() < 0.5:
        turn = turn @ np.diag([1, -1])
    turn /= scale
    shape = np.array(ids.shape)
    room = np.minimum(SIDE / scale / 2, shape / 2)
    if rng.random() < 0.7:
        some = np.flatnonzero(ids)
        middle = np.array(np.unravel_index(rng.choice(some), ids.shape)) + rng.uniform(-30, 30, 2)
    else:
        middle = rng.uniform((0, 0), shape)
    middle = np.clip(middle, room * 0.8, shape - room * 0.8)
    ticks = np.arange(SIDE) - (SIDE - 1) / 2
    grid = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1) @ turn.T + middle
    place = torch.from_numpy((2 * (grid + 0.5) / shape - 1)[..., ::-1].astype(np.float32).copy())
    sampled = functional.grid_sample(
        torch.from_numpy(unit)[None, None], place[None], padding_mode="reflection",
        align_corners=False,
    )  # fmt: skip
    labels = functional.grid_sample(
        torch.from_numpy(ids.astype(np.float32))[None, None], place[None], mode="nearest",
        padding_mode="border", align_corners=False,
    )  # fmt: skip
    outside = (place.abs() > 1).any(dim=-1)
    return sampled[0, 0].numpy(), labels[0, 0].round().long().masked_fill(outside, IGNORE)


def _shaded(crop: Field, rng: np.random.Generator) -> Field:
    if rng.random() < 0.1:
        crop = 1 - crop
    if rng.random() < 0.5:
        crop = np.sign(crop) * np.abs(crop) ** np.exp(rng.normal(0, 0.3))
    crop = crop * rng.uniform(0.6, 1.5) + rng.uniform(-0.05, 0.1)
    if rng.random() < 0.3:
        slope = rng.normal(0, 0.15, 2)
        ticks = np.linspace(-1, 1, SIDE)
        crop = crop * (1 + slope[0] * ticks[:, None] + slope[1] * ticks[None])
    if rng.random() < 0.25:
        from scipy import ndimage

        crop = ndimage.gaussian_filter(crop, rng.uniform(0.4, 1.5))
    if rng.random() < 0.5:
        crop = crop + rng.normal(0, rng.uniform(0, 0.08), crop.shape)
    return np.ascontiguousarray(crop, dtype=np.float32)


def matches(predicted: npt.NDArray[Any], truth: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return TP, FP and FN at each of `THRESHOLDS`, ``(10, 3)``; a pair matches above its IoU."""
    rows, columns = int(predicted.max()) + 1, int(truth.max()) + 1
    joint = predicted.astype(np.int64).ravel() * columns + truth.astype(np.int64).ravel()
    counts = np.bincount(joint, minlength=rows * columns).reshape(rows, columns)
    mine, theirs = counts.sum(axis=1), counts.sum(axis=0)
    union = mine[:, None] + theirs[None] - counts
    iou = (counts / np.maximum(union, 1))[1:, 1:]
    found, wanted = np.count_nonzero(mine[1:]), np.count_nonzero(theirs[1:])
    hits = np.array([np.count_nonzero(iou > t) for t in THRESHOLDS])
    return np.stack([hits, found - hits, wanted - hits], axis=1)


def precision(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    total = counts.sum(axis=-1)
    return np.where(total > 0, counts[..., 0] / np.maximum(total, 1), 1.0)


def otsu(image: Image) -> npt.NDArray[Any]:
    """Return the baseline: Otsu's threshold on the same normalised picture, then components."""
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    unit = flows.unit_of(image)[0][0]
    region = ndimage.binary_fill_holes(unit > threshold_otsu(unit))
    ids, _ = ndimage.label(region)
    small = np.bincount(ids.ravel()) < fields.Decoding().least_area
    ids[small[ids]] = 0
    return ids


def evaluate(network: torch.nn.Module, pictures: list[Picture]) -> dict[str, Any]:
    """Return AP of the network and of the baseline, over all pictures and by look."""
    card = _card()
    rows = []
    started = time.perf_counter()
    for picture in pictures:
        found = flows.FAMILY.segment(network, picture.image, card=card, device=CPU, job=Job())
        rows.append((picture, matches(found.ids, picture.ids)))
    seconds = time.perf_counter() - started
    plain = [(picture, matches(otsu(picture.image), picture.ids)) for picture in pictures]
    return {
        "pictures": len(pictures),
        "nuclei": int(sum(len(np.unique(p.ids)) - 1 for p in pictures)),
        "seconds": round(seconds, 1),
        "network": _summary(rows),
        "otsu_components": _summary(plain),
        "per_picture": {
            p.name: {"look": p.look, "network": round(float(precision(c)[0]), 4),
                     "otsu_components": round(float(precision(o)[0]), 4)}
            for (p, c), (_, o) in zip(rows, plain, strict=True)
        },
    }  # fmt: skip


def _summary(rows: list[tuple[Picture, npt.NDArray[np.int64]]]) -> dict[str, Any]:
    found = {"all": rows}
    for look in sorted({p.look for p, _ in rows}):
        found[look] = [row for row in rows if row[0].look == look]
    table = {}
    for name, part in found.items():
        counts = np.stack([c for _, c in part])
        each, pooled = precision(counts), precision(counts.sum(axis=0))
        table[name] = {
            "pictures": len(part),
            "ap50": round(float(each[:, 0].mean()), 4),
            "ap75": round(float(each[:, 5].mean()), 4),
            "mean_ap": round(float(each.mean()), 4),
            "pooled_ap50": round(float(pooled[0]), 4),
            "pooled_mean_ap": round(float(pooled.mean()), 4),
        }
    return table


def _card() -> Any:
    return flows.FAMILY.card("small", LabelTable.classes(["nucleus"]))


def _show(job_started: float) -> Job:
    def listen(progress: Any) -> None:
        if progress.stage == "train" and progress.done % 25 == 0:
            minutes = (time.perf_counter() - job_started) / 60
            print(
                f"{progress.done}/{progress.total}  {minutes:.1f} min  {progress.note}", flush=True
            )

    return Job(listen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("nuclei.safetensors"))
    parser.add_argument("--checkpoints", type=Path, default=None)
    parser.add_argument("--evaluate", type=Path, default=None, help="measure these weights only")
    parser.add_argument("--threads", type=int, default=1)
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    torch.manual_seed(told.seed)
    train, held = split(read(told.folder))
    if told.evaluate:
        network = flows.FAMILY.load(_card(), {"weights": told.evaluate})
    else:
        network = flows.FAMILY.build(_card())
        recipe = Recipe(
            told.steps, learning_rate=told.rate, average=0.995, seed=told.seed, checkpoint_every=100
        )
        fit(
            network,
            lambda net, batch: flows.loss(net(batch.images), fields.targets(batch.ids)),
            Crops(train),
            recipe=recipe,
            folder=told.checkpoints or told.out.with_suffix(".checkpoints"),
            job=_show(time.perf_counter()),
        )
        base.write_state(network, told.out)
    report = {
        "trained_on": [p.name for p in train],
        "held_out": evaluate(network, held),
        "training_pictures": {
            k: v for k, v in evaluate(network, train).items() if k != "per_picture"
        },
    }
    text = json.dumps(report, indent=1)
    (told.evaluate or told.out).with_suffix(".report.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()

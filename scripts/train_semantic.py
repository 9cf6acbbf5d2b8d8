"""Train the semantic families on microscopy and measure them: shipped cards, and a comparison.

    python scripts/train_semantic.py nuclei FOLDER --family unet:2015 --out RUNS
    python scripts/train_semantic.py em FOLDER --family all --out RUNS
    python scripts/train_semantic.py table RUNS
    python scripts/train_semantic.py cards RUNS

``nuclei``: FOLDER holds ``images/NAME.png`` and ``labels/NAME.png`` (uint16, one id a nucleus) of
the CC0 subset of the 2018 Data Science Bowl; a third is held out, as in ``train_nuclei.py``.
``em``: FOLDER holds ``image/N.png`` and ``label/N.png`` (0 where a membrane is) of the ISBI 2012
stack; slices 0 to 19 are trained on, 20 to 29 held out. That stack is for research: its weights are
measured and never shipped.

The networks are narrow (see `NARROW`), so that each trains on two processor cores within an hour.
A run that was killed goes on from its checkpoints; one that is finished is not run again. The same
steps, seed and torch give the same weights on one machine.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import runs
import torch
from PIL import Image as Pillow
from runs import Case
from scipy import ndimage
from skimage.metrics import adapted_rand_error
from train_nuclei import read as read_nuclei
from train_nuclei import split as split_nuclei

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.models import FAMILIES
from maskloop.models.base import GivesProbabilities
from maskloop.models.cards import ModelCard
from maskloop.ops.device import CPU

# What differs from the paper's network: widths, and the sizes of crops. Steps were chosen so that a
# run takes some ten minutes of one core.
NARROW: dict[str, dict[str, Any]] = {
    "deeplab:xception65": {"width": 0.125, "patch": [192, 192]},
    "fcn:32s": {"width": 0.125, "hidden": 2048, "patch": [256, 256], "recipe": {"rate": 7e-4}},
    "fcn:16s": {"width": 0.125, "hidden": 2048, "patch": [256, 256], "recipe": {"rate": 7e-4}},
    "fcn:8s": {"width": 0.125, "hidden": 2048, "patch": [256, 256], "recipe": {"rate": 7e-4}},
    "segnet:vgg16": {"width": 0.1875, "patch": [160, 160]},
    "unet:2015": {"width": 0.1875, "patch": [316, 316], "recipe": {"rate": 7e-4}},
    "patchnet:n4": {"patch": [158, 158], "recipe": {"rate": 1e-3, "batch": 2}},
}
STEPS = {
    "deeplab:xception65": 900,
    "fcn:32s": 200,
    "fcn:16s": 150,
    "fcn:8s": 450,
    "segnet:vgg16": 900,
    "unet:2015": 550,
    "patchnet:n4": 300,
}
STARTS = {"fcn:16s": "fcn:32s", "fcn:8s": "fcn:16s"}  # stage by stage, as in the paper
COLOUR = ("fcn", "segnet", "deeplab")
REFINE = True


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Pictures to learn from, pictures to be judged by, and the classes."""

    name: str
    labels: LabelTable
    train: list[Case]
    held_out: list[Case]
    normalise: Any  # Any: a rule of a card
    augmentation: tuple[str, ...] = ("mirror_y", "mirror_x", "rotate", "scale", "gamma", "noise")


def em(folder: Path) -> Task:
    """Return the electron microscopy task: membranes between cells."""
    labels = LabelTable([Label(1, "membrane")])

    def case(number: int) -> Case:
        grey = np.asarray(Pillow.open(folder / "image" / f"{number}.png").convert("L"))
        cell = np.asarray(Pillow.open(folder / "label" / f"{number}.png").convert("L")) > 127
        image = Image(grey, Geometry.pixels(grey.shape))
        return Case(str(number), image, Mask.like(image, (~cell).astype(np.uint8), labels))

    cases = [case(n) for n in range(30)]
    return Task("em", labels, cases[:20], cases[20:], "zscore")


def nuclei(folder: Path) -> Task:
    """Return the task of telling nuclei from the rest in pictures of six looks."""
    labels = LabelTable([Label(1, "nucleus", is_thing=True)])

    def case(picture: Any) -> Case:  # Any: a picture of train_nuclei
        pixels = picture.image.data[..., :3]
        image = Image(pixels, picture.image.geometry, has_channels=True)
        ids = picture.ids.astype(np.uint16)
        table = LabelTable(
            Label(int(i), f"nucleus {i}", category="nucleus", is_thing=True)
            for i in np.unique(ids[ids > 0])
        )
        return Case(picture.name, image, Mask.like(image, ids, table))

    train, held = split_nuclei(read_nuclei(folder))
    rule = {"percentile": [1, 99.8]}
    return Task("nuclei", labels, [case(p) for p in train], [case(p) for p in held], rule)


def card_of(task: Task, model: str) -> ModelCard:
    """Return the untrained card of a narrow network for the task."""
    family, _, variant = model.partition(":")
    card = FAMILIES.get(family).card(variant, task.labels)
    told = {
        **card.parameters,
        **NARROW[model],
        "normalise": task.normalise,
        "augmentation": list(task.augmentation),
    }
    if task.name == "em" and family == "unet":
        # Here the walls are drawn, and the cells are what is left.
        told["border"] = {**told["border"], "cells": "background"}
    channels = 3 if task.name == "nuclei" and family in COLOUR else 1
    return dataclasses.replace(card, channels=channels, parameters=told)


def measure(task: Task, card: ModelCard, path: Path) -> dict[str, Any]:
    """Return the scores on what was held out, of the weights as written, plain and refined."""
    family = FAMILIES.get(card.family)
    network = family.load(card, {path.name: path})
    started = time.process_time()
    plain = _scores(task, card, network)
    seconds = time.process_time() - started
    found = {"scores": plain, "cpu_seconds_a_picture": round(seconds / len(task.held_out), 2)}
    if isinstance(family, GivesProbabilities):
        told = {**card.parameters, "refine": REFINE}
        found["refined"] = _scores(task, dataclasses.replace(card, parameters=told), network)
    return found


def _scores(task: Task, card: ModelCard, network: torch.nn.Module) -> dict[str, float]:
    rows = []
    for case in task.held_out:
        segment = FAMILIES.get(card.family).segment
        found = segment(network, case.image, card=card, device=CPU, job=Job()).ids
        rows.append((em_scores if task.name == "em" else nuclei_scores)(found, case.mask.data))
    return {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0]}


def em_scores(
    found: npt.NDArray[Any],
    truth: npt.NDArray[Any],  # Any: class maps
) -> Mapping[str, float]:
    """Return pixel error, IoU of membrane, and the foreground-restricted Rand score.

    Cells are the 4-connected parts between membranes. Found membrane is given to the nearest cell,
    true membrane is left out (I. Arganda-Carreras et al., "Crowdsourcing the creation of image
    segmentation algorithms for connectomics", Frontiers in Neuroanatomy 2015, alpha = 0.5), at the
    one threshold of argmax: the challenge took the best of many.
    """
    wall, true_wall = found == 1, truth == 1
    cells, _ = ndimage.label(~wall)
    if cells.any():
        nearest = ndimage.distance_transform_edt(wall, return_distances=False, return_indices=True)
        cells = cells[tuple(nearest)]
    true_cells, _ = ndimage.label(~true_wall)
    error = adapted_rand_error(true_cells, cells, ignore_labels=(0,))[0]
    both, either = (wall & true_wall).sum(), (wall | true_wall).sum()
    return {
        "pixel_error": float((wall != true_wall).mean()),
        "membrane_iou": float(both / max(either, 1)),
        "rand": 1 - float(error),
    }


def nuclei_scores(found: npt.NDArray[Any], truth: npt.NDArray[Any]) -> Mapping[str, float]:
    """Return Dice and IoU of nucleus against the rest, and the share of nuclei found by half."""
    region, true_region = found > 0, truth > 0
    both = (region & true_region).sum()
    sizes = np.bincount(truth.ravel())[1:]
    hit = np.bincount(truth.ravel(), weights=region.ravel())[1:]
    has = sizes > 0
    return {
        "dice": float(2 * both / max(region.sum() + true_region.sum(), 1)),
        "iou": float(both / max((region | true_region).sum(), 1)),
        "nuclei_half_covered": float((hit[has] >= 0.5 * sizes[has]).mean()),
        "pixel_error": float((region != true_region).mean()),
    }


def table(folder: Path) -> str:
    """Return the finished reports as Markdown tables."""
    lines = []
    for place in sorted(folder.glob("*/")):
        reports = [json.loads(p.read_text()) for p in sorted(place.glob("*/report.json"))]
        if not reports:
            continue
        keys = list(reports[0]["scores"])
        lines += [f"**{place.name}**", "", "| model | parameters | steps | training, CPU s |"]
        lines[-1] += "".join(f" {k} | refined |" for k in keys) + " CPU s a picture |"
        lines.append("|" + "---|" * (5 + 2 * len(keys)))
        for report in sorted(reports, key=lambda r: r["model"]):
            refined = report.get("refined", {})
            rounds = " + ".join(map(str, report["rounds"]))
            row = f"| {report['model']} | {report['parameters']:,} | {rounds} |"
            row += f" {report['cpu_seconds']} |"
            row += "".join(f" {report['scores'][k]:.4f} | {refined.get(k, '-')} |" for k in keys)
            lines.append(f"{row} {report['cpu_seconds_a_picture']} |")
        lines.append("")
    return "\n".join(lines)


# Shipped as: name, title, and what a person should know before trusting it.
SHIPPED = {
    "patchnet:n4": ("nuclei-patchnet", "each pixel by the window around it (Cireşan 2012)"),
    "fcn:8s": ("nuclei-fcn8s", "narrow FCN-8s (Long 2015)"),
    "unet:2015": ("nuclei-unet", "narrow U-Net (Ronneberger 2015)"),
    "segnet:vgg16": ("nuclei-segnet", "narrow SegNet (Badrinarayanan 2017)"),
    "deeplab:xception65": ("nuclei-deeplab", "narrow DeepLab v3+ (Chen 2018)"),
}
LIMITS = (
    "Tells nucleus from the rest; nuclei that touch stay one region: the tool `split`, or the "
    "model `nuclei`, takes them apart.",
    "Trained for minutes on 43 pictures of six looks, with {what}: to try the family and to "
    "fine-tune from, not the best that it can do.",
    "Nuclei that are plainly brighter than all else need no network: Otsu's threshold with holes "
    "filled has a mean Dice of 0.879 on the same held-out pictures, but 0.19 on the bright field.",
)


def ship(folder: Path) -> None:
    """Put the trained nuclei networks into the package."""
    for model, (name, what) in SHIPPED.items():
        where = folder / "nuclei" / model.replace(":", "-")
        report = json.loads((where / "report.json").read_text())
        runs.ship(
            where,
            name,
            f"Nucleus or not: {what}",
            limits=[limit.format(what=what) for limit in LIMITS],
            more=runs.measured(
                report,
                "train_semantic.py",
                "means over the held-out pictures; region of all nuclei together",
            ),
        )


def main() -> None:
    told = runs.parsed(__doc__, ("em", "nuclei"), list(NARROW))
    if told.task == "table":
        print(table(told.folder))
        return
    if told.task == "cards":
        ship(told.folder)
        return
    task = (em if told.task == "em" else nuclei)(told.folder)
    for model in NARROW if told.family == "all" else (told.family,):
        where = _folder(told.out, task, model)
        if told.measure:
            runs.measure_again(where, partial(measure, task))
            continue
        runs.train(
            task.train,
            task.held_out,
            card_of(task, model),
            where,
            steps=told.steps or STEPS[model],
            seed=told.seed,
            measure=partial(measure, task),
            again=told.again,
            start=_folder(told.out, task, STARTS[model]) if model in STARTS else None,
        )


def _folder(out: Path, task: Task, model: str) -> Path:
    return out / task.name / model.replace(":", "-")


if __name__ == "__main__":
    main()

"""Train the families that find objects on microscopy and measure them: shipped cards, a comparison.

    python scripts/train_instances.py nuclei FOLDER --family solo:decoupled --out RUNS
    python scripts/train_instances.py table RUNS
    python scripts/train_instances.py cards RUNS

FOLDER holds ``images/NAME.png`` and ``labels/NAME.png`` (uint16, one id a nucleus) of the CC0
subset of the 2018 Data Science Bowl; a third is held out by picture, as in ``train_nuclei.py``.

The networks are narrow (see `NARROW`): a ResNet-18 of half its width, so that each trains on two
processor cores within an hour. A run that was killed goes on from its checkpoints; one that is
finished is not run again. The same steps, seed and torch give the same weights on one machine.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import runs
import train_nuclei
from runs import Case
from train_semantic import nuclei

from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.desk.clicking import first_clicks
from maskloop.models import FAMILIES
from maskloop.models.base import Clicks
from maskloop.models.cards import ModelCard
from maskloop.ops.device import CPU

_SMALL = {"backbone": "resnet18", "width": 0.5, "features": 64, "norm": "batch"}
# What differs from the paper's network: backbone, widths, and how large a nucleus is in it.
NARROW: dict[str, dict[str, Any]] = {
    "maskrcnn:resnet50": {**_SMALL, "samples": 128, "proposals": 300},
    "instancefcn:coco": {**_SMALL, "enlarge": 2.0, "step": 8},
    "yolact:resnet50": {**_SMALL, "enlarge": 2.0},
    "solo:decoupled": {**_SMALL, "enlarge": 2.0},
    "polarmask:resnet50": {**_SMALL, "enlarge": 2.0},
    "adaptis:toy": {
        "width": 0.5,
        "patch": [160, 160],
        "points": 6,
        "proposal_points": 8,
        "head_window": 128,
        "reach": 64,
    },
    "panoptic:resnet50": {**_SMALL, "samples": 128, "proposals": 300},
}
BACKGROUND = "background"
STEPS = dict.fromkeys(NARROW, 600)


def card_of(model: str, labels: LabelTable, normalise: Any) -> ModelCard:
    """Return the untrained card of a narrow network for nuclei."""
    family, _, variant = model.partition(":")
    card = FAMILIES.get(family).card(variant, labels)
    told = {
        **card.parameters,
        "patch": [256, 256],
        "detections": 500,
        "least_area": 20,
        **NARROW[model],
        "normalise": normalise,
        "augmentation": ["mirror_y", "mirror_x", "rotate", "scale", "gamma", "noise"],
    }
    return dataclasses.replace(card, parameters=told)


def with_background(case: Case) -> Case:
    """Return the case with what lies between the nuclei as a class of stuff."""
    ids, labels = case.mask.data.copy(), case.mask.labels
    stuff = Label(max(labels, default=0) + 1, BACKGROUND)
    ids[ids == 0] = stuff.id
    table = LabelTable([*labels.values(), stuff])
    return dataclasses.replace(case, mask=Mask.like(case.image, ids, table))


def _cases(model: str, cases: Sequence[Case]) -> list[Case]:
    return [with_background(c) for c in cases] if model.startswith("panoptic") else list(cases)


def _things(ids: npt.NDArray[Any], labels: LabelTable) -> npt.NDArray[Any]:  # Any: object ids
    stuff = [i for i, row in labels.items() if not row.is_thing]
    return np.where(np.isin(ids, stuff), 0, ids)


def measure(held_out: Sequence[Case], card: ModelCard, path: Path) -> dict[str, Any]:
    """Return the scores on what was held out, of the weights as written."""
    family = FAMILIES.get(card.family)
    network = family.load(card, {path.name: path})
    started = time.process_time()
    told = [
        family.segment(network, case.image, card=card, device=CPU, job=Job()) for case in held_out
    ]
    seconds = time.process_time() - started
    found = [_things(one.ids, one.labels) for one in told]
    truth = [_things(case.mask.data, case.mask.labels) for case in held_out]
    measured: dict[str, Any] = {
        "scores": scores(found, truth),
        "cpu_seconds_a_picture": round(seconds / len(held_out), 2),
    }
    if isinstance(family, Clicks):
        each = [
            first_clicks(family, network, case.image, ids, card=card, device=CPU)
            for case, ids in zip(held_out, truth, strict=True)
        ]
        ious = [iou for found_there in each for iou in found_there.values()]
        measured["scores"]["first_click_iou"] = round(float(np.mean(ious)), 4)
        measured["first_click_by_picture"] = {
            case.name: round(float(np.mean(list(one.values()))), 3)
            for case, one in zip(held_out, each, strict=True)
        }
    return measured


def scores(
    found: Sequence[npt.NDArray[Any]],
    truth: Sequence[npt.NDArray[Any]],  # Any: object ids
) -> dict[str, float]:
    """Return AP at 0.5 and over 0.5 to 0.95, means over pictures, and the error of the count."""
    counts = np.stack(
        [train_nuclei.matches(a, b.astype(np.int64)) for a, b in zip(found, truth, strict=True)]
    )
    each = train_nuclei.precision(counts)
    numbers = [
        (len(np.unique(a[a > 0])), len(np.unique(b[b > 0])))
        for a, b in zip(found, truth, strict=True)
    ]
    return {
        "ap50": round(float(each[:, 0].mean()), 4),
        "mean_ap": round(float(each.mean()), 4),
        "pooled_ap50": round(float(train_nuclei.precision(counts.sum(axis=0))[0]), 4),
        "count_error": round(float(np.mean([abs(a - b) / max(b, 1) for a, b in numbers])), 4),
    }


def table(folder: Path) -> str:
    """Return the finished reports as a Markdown table."""
    reports = [json.loads(p.read_text()) for p in sorted(folder.glob("nuclei/*/report.json"))]
    known = [r for r in reports if r["model"] in NARROW]
    lines = [
        "| model | parameters | steps | training, CPU s | AP@0.5 | mean AP | pooled AP@0.5 | "
        "count error | CPU s a picture |",
        "|" + "---|" * 9,
    ]
    for r in sorted(known, key=lambda r: -r["scores"]["ap50"]):
        s = r["scores"]
        steps = " + ".join(map(str, r["rounds"]))
        lines.append(
            f"| {r['model']} | {r['parameters']:,} | {steps} | {r['cpu_seconds']} | "
            f"{s['ap50']:.3f} | {s['mean_ap']:.3f} | {s['pooled_ap50']:.3f} | "
            f"{s['count_error']:.2f} | {r['cpu_seconds_a_picture']} |"
        )
    return "\n".join(lines)


# Shipped as: name, and what it is. The others are measured only: all together they would make the
# package five times as large, and none of them is better than the model `nuclei`.
SHIPPED = {"adaptis:toy": ("nuclei-adaptis", "AdaptIS (Sofiiuk 2019), for clicks and by itself")}
LIMITS = (
    "Made for the click tool: one click at the innermost pixel of a held-out nucleus draws it "
    "with a "
    "mean IoU of {first_click_iou:.2f}; by its own points it finds fewer (AP@0.5 {ap50:.2f}; the "
    "model `nuclei` has 0.81 on the same pictures).",
    "Trained for minutes on 43 pictures of six looks; weakest on stained tissue.",
)


def ship(folder: Path) -> None:
    """Put the trained networks into the package."""
    for model, (name, what) in SHIPPED.items():
        where = folder / "nuclei" / model.replace(":", "-")
        if not (where / "report.json").exists():
            print(f"{where}: not trained yet", flush=True)
            continue
        report = json.loads((where / "report.json").read_text())
        runs.ship(
            where,
            name,
            f"Nuclei one by one: {what}",
            limits=[limit.format(**report["scores"]) for limit in LIMITS],
            more=runs.measured(
                report,
                "train_instances.py",
                "AP = TP / (TP + FP + FN) at an IoU, mean over pictures; mean AP over IoU 0.50 to "
                "0.95 in steps of 0.05; count error = |found - true| / true",
            ),
        )


def main() -> None:
    told = runs.parsed(__doc__, ("nuclei",), list(NARROW))
    if told.task == "table":
        print(table(told.folder))
        return
    if told.task == "cards":
        ship(told.folder)
        return
    task = nuclei(told.folder)
    both = LabelTable([*task.labels.values(), Label(2, BACKGROUND)])
    for model in NARROW if told.family == "all" else (told.family,):
        where = told.out / "nuclei" / model.replace(":", "-")
        if told.measure:
            runs.measure_again(where, partial(measure, _cases(model, task.held_out)))
            continue
        runs.train(
            _cases(model, task.train),
            _cases(model, task.held_out),
            card_of(model, both if model.startswith("panoptic") else task.labels, task.normalise),
            where,
            steps=told.steps or STEPS[model],
            seed=told.seed,
            measure=partial(measure, _cases(model, task.held_out)),
            again=told.again,
        )


if __name__ == "__main__":
    main()

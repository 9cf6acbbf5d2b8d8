"""What the training scripts share: a resumable run with its report, and a card in the catalogue."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.mask import Mask
from maskloop.models import FAMILIES
from maskloop.models.base import Batch, Calibrates, Surveys, Volume, read_state
from maskloop.models.cards import ModelCard
from maskloop.ops.device import CPU
from maskloop.training.augment import Augmentation
from maskloop.training.cases import fingerprint
from maskloop.training.fit import Recipe, fit, seeded
from maskloop.training.patches import PatchStore

Measure = Callable[[ModelCard, Path], dict[str, Any]]  # Any: JSON


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One picture with its mask."""

    name: str
    image: Image
    mask: Mask


def train(
    cases: Sequence[Case],
    held_out: Sequence[Case],
    card: ModelCard,
    where: Path,
    *,
    steps: int,
    seed: int,
    measure: Measure,
    again: bool = False,
    start: Path | None = None,
) -> None:
    """Train one network and write weights, card and report; nothing if they are there.

    `again` goes on from the weights that are there, with a warm-up and a fall of the rate anew.
    `start` is the folder of a run whose tensors are taken where they fit.
    """
    done: list[int] = []
    spent = 0
    if again:
        before = json.loads((where / "report.json").read_text())
        done, spent = before["rounds"], before["cpu_seconds"]
    elif (where / "report.json").exists():
        print(f"{where}: finished before", flush=True)
        return
    family = FAMILIES.get(card.family)
    started = time.process_time()
    store = PatchStore(where / "volumes")
    for case in cases:
        if case.name not in store:
            (volume,) = family.prepare(case.image, case.mask, card=card, reviewed=None, job=Job())
            store.add(case.name, volume)
    volumes = [Volume(v.data, v.ids, v.reviewed, v.categories) for v in store.volumes()]
    if isinstance(family, Surveys):
        card = family.survey(card, volumes)
    with seeded(seed):
        network = family.build(card)
    if again or start is not None:
        _begin(network, where if again else start)
    shape = family.patch(card)
    augment = Augmentation(family.augmentation(card))
    told = card.parameters.get("recipe", {})
    batch = int(told.get("batch", 4))
    recipe = Recipe(
        steps, float(told.get("rate", 1.5e-3)), seed=seed, average=0.995, checkpoint_every=50
    )
    fit(
        network,
        lambda net, part: family.train_step(
            net, Batch(part.images, part.ids, list(part.categories)), card=card
        ),
        lambda rng: augment(
            store.draw(rng, shape, count=batch, reach=augment.reach(shape)), shape, rng
        ),
        recipe=recipe,
        folder=where / f"checkpoints-{len(done)}",
        job=_show(f"{where.parent.name} {where.name}"),
    )
    if isinstance(family, Calibrates):
        card = family.calibrate(network, volumes, card=card, device=CPU, job=Job())
    write(network, where / "weights.safetensors")
    (where / "card.json").write_text(json.dumps(card.to_json(), indent=1) + "\n")
    report = {
        "model": f"{card.family}:{card.variant}",
        "parameters": sum(p.numel() for p in network.parameters()),
        "rounds": [*done, steps],
        "batch": batch,
        "cpu_seconds": round(time.process_time() - started) + spent,
        "trained": [[c.name, fingerprint(c.image)] for c in cases],
        "held_out": [[c.name, fingerprint(c.image)] for c in held_out],
        **measure(card, where / "weights.safetensors"),
    }
    (where / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({k: v for k, v in report.items() if k not in ("trained", "held_out")}))


def measure_again(where: Path, measure: Measure) -> None:
    """Bring a finished report up to date with how networks are run today."""
    if not (where / "report.json").exists():
        print(f"{where}: not trained yet", flush=True)
        return
    card = ModelCard.from_json(json.loads((where / "card.json").read_text()))
    report = json.loads((where / "report.json").read_text())
    report |= measure(card, where / "weights.safetensors")
    (where / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(where.name, report["scores"], flush=True)


def _begin(network: torch.nn.Module, folder: Path) -> None:
    """Copy what another network has learnt where it fits."""
    own = network.state_dict()
    known = read_state(folder / "weights.safetensors")
    own.update({k: v.float() for k, v in known.items() if k in own and own[k].shape == v.shape})
    network.load_state_dict(own)


def write(network: torch.nn.Module, path: Path) -> None:
    """Write the weights in half precision: half the size; scores are measured of what is written.

    Variances stay whole: some are below what half precision can hold.
    """
    from safetensors.torch import save_file

    state = network.state_dict()
    halves = {
        k: v.half() if v.is_floating_point() and not k.endswith("running_var") else v
        for k, v in sorted(state.items())
    }
    save_file({k: v.detach().contiguous().clone() for k, v in halves.items()}, path)


def ship(
    where: Path, name: str, title: str, *, limits: Sequence[str], more: Mapping[str, Any]
) -> None:
    """Put a trained network of nuclei into the package: weights, and its block of the catalogue.

    A block of the same name is replaced. `more` are the block's own fields.
    """
    from maskloop.core.files import sha256_of

    models = Path(__file__).parents[1] / "src" / "maskloop" / "models"
    catalogue = models / "catalogue.json"
    blocks = json.loads(catalogue.read_text())
    file = models / "weights" / f"{name}.safetensors"
    file.write_bytes((where / "weights.safetensors").read_bytes())
    card = ModelCard.from_json(json.loads((where / "card.json").read_text()))
    block = dataclasses.replace(
        card, name=name, title=title, status="shipped", proof="real data"
    ).to_json() | {
        "modality": "fluorescence, stained tissue or bright-field microscopy",
        "licence": "CC0-1.0",
        "licence_url": "https://creativecommons.org/publicdomain/zero/1.0/",
        "limits": [*card.limits, *limits],
        "weights": [
            {
                "file": file.name,
                "sha256": sha256_of(file),
                "size": file.stat().st_size,
                "source": {"package": file.name},
            }
        ],
        **more,
    }
    places = [i for i, b in enumerate(blocks) if b["name"] == name]
    known = blocks[places[0]].get("memory") if places else None
    if known:
        block["memory"] = known  # of its windows, measured by `maskloop models memory`
    at = places[0] if places else len(blocks)
    blocks[at : at + len(places)] = [block]
    catalogue.write_text(_as_text(blocks) + "\n")


def measured(report: Mapping[str, Any], script: str, definition: str) -> dict[str, Any]:
    """Return a card's fields that tell on what it was trained, and how well it does."""
    return {
        "trained_on": (
            f"{len(report['trained'])} of 64 pictures of the 2018 Data Science Bowl (CC0), by "
            f"scripts/{script}; the others were held out"
        ),
        "metrics": {
            "definition": definition,
            "held_out": {"pictures": len(report["held_out"]), **report["scores"]},
            **{k: report[k] for k in ("refined",) if k in report},
            "parameters": report["parameters"],
            "rounds of steps": report["rounds"],
            "training_cpu_seconds": report["cpu_seconds"],
            "training": {
                "trained": sorted(key for _, key in report["trained"]),
                "held_out": sorted(key for _, key in report["held_out"]),
            },
        },
    }


def _as_text(value: Any, indent: str = "", before: int = 0) -> str:  # Any: JSON
    """Return JSON as the catalogue is written: on one line what fits on one."""
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or (indent and len(indent) + before + len(line) < 100):
        return line
    deeper = indent + "  "
    if isinstance(value, list):
        rows = [_as_text(v, deeper) for v in value]
        first, last = "[]"
    else:
        keys = {k: json.dumps(k) for k in value}
        rows = [f"{keys[k]}: {_as_text(v, deeper, len(keys[k]) + 2)}" for k, v in value.items()]
        first, last = "{}"
    body = ",\n".join(f"{deeper}{row}" for row in rows)
    return f"{first}\n{body}\n{indent}{last}"


def parsed(doc: str, tasks: Sequence[str], models: Sequence[str]) -> argparse.Namespace:
    """Return what the command line says, for as many threads as it says."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("task", choices=(*tasks, "table", "cards"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--family", default="all", choices=("all", *models))
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", action="store_true", help="measure what is trained, again")
    parser.add_argument("--again", action="store_true", help="train on from what is there")
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    return told


def _show(name: str) -> Job:
    started = time.perf_counter()

    def listen(progress: Any) -> None:
        if progress.stage == "train" and progress.done % 25 == 0:
            minutes = (time.perf_counter() - started) / 60
            print(
                f"{name} {progress.done}/{progress.total} {minutes:.1f} min {progress.note}",
                flush=True,
            )

    return Job(listen)

"""Fifth verb: teach a model from corrected masks, and say honestly whether it got better."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import InputError, UnknownNameError, WeightsError
from maskloop.core.files import sha256_of
from maskloop.core.job import Job
from maskloop.core.labels import Kind, Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.loop.load import load, load_mask
from maskloop.training.measure import (
    dice_by_class,
    from_json,
    mean_scores,
    panoptic_by_class,
    precision_by_class,
    to_json,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from maskloop.core.dataset import Dataset
    from maskloop.core.image import Image
    from maskloop.models.base import Family, Volume
    from maskloop.models.cards import ModelCard
    from maskloop.models.starts import Start
    from maskloop.training.cases import Pair, Split, TrainingCase, Triple
    from maskloop.training.fit import Point, Recipe
    from maskloop.training.gate import Verdict
    from maskloop.training.patches import Patches
    from maskloop.training.runs import Run

_FINE_TUNE_STEPS, _FROM_SCRATCH_STEPS = 300, 1000
_FINE_TUNE_RATE, _FROM_SCRATCH_RATE = 5e-4, 1.5e-3
_LOOKS = 5  # points of held-out scores in a curve
_LOOK_SECONDS = 20.0  # a look that takes longer is not repeated


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What a training did, and what it proves.

    Parameters
    ----------
    card : ModelCard
        The new model, as the menu shows it.
    old, new : mapping of str to float
        Mean held-out score per label before and after; `old` is None where training began from
        random weights. NaN for a label that is in no held-out case.
    measure : str
        ``"Dice"``, ``"AP@0.5"`` for objects, or ``"PQ"`` for things and stuff.
    verdict : str
        ``proved``, ``candidate`` or ``candidate, unproved``.
    reasons : tuple of str
        Why, in sentences.
    split : str
        ``cases``, ``leave one out``, ``spatial block`` or ``the dataset's own``.
    trained_on, held_out : tuple of str
        Names of the cases.
    folder : Path
        Of the new model.
    curve : tuple of Point
        Loss of each step, held-out scores of some.
    steps, seconds
        Length; seconds of this call alone.
    resumed_at : int
        Step from which this call went on; 0 where it began.
    """

    card: ModelCard
    old: Mapping[str, float] | None
    new: Mapping[str, float]
    measure: str
    verdict: Verdict
    reasons: tuple[str, ...]
    split: str
    trained_on: tuple[str, ...]
    held_out: tuple[str, ...]
    folder: Path
    curve: tuple[Point, ...]
    steps: int
    seconds: float
    resumed_at: int = 0

    @property
    def is_promoted(self) -> bool:
        """Whether the new model may be offered before the one it came from."""
        return self.verdict == "proved"

    def to_text(self) -> str:
        """Return lines for people: the verdict, its reasons, and where the model lies."""
        lines = [f"{self.card.name}: {self.verdict}", *(f"  {reason}" for reason in self.reasons)]
        lines.append(f"  trained on  {', '.join(self.trained_on)}")
        lines.append(f"  held out    {', '.join(self.held_out)} ({self.split})")
        lines.append(f"  {self.steps} steps in {self.seconds:.0f} s; {self.folder}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Return JSON-ready fields; a score that does not exist is null."""
        return {
            "model": self.card.name,
            "card": self.card.to_json(),
            "old": None if self.old is None else to_json(self.old),
            "new": to_json(self.new),
            "measure": self.measure,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "split": self.split,
            "trained_on": list(self.trained_on),
            "held_out": list(self.held_out),
            "folder": str(self.folder),
            "curve": [
                {"step": p.step, "loss": p.loss, "held_out": to_json(p.held_out)}
                for p in self.curve
            ],
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "resumed_at": self.resumed_at,
        }


def train(
    cases: Dataset | Path | str | Sequence[Dataset | Pair | Triple | Path | str],
    base: str,
    name: str,
    *,
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    patients: str | Mapping[str, str] | None = None,
    recipe: str = "",
    start: str = "",
    only: str | None = None,
    format: str | None = None,
    profile: Path | None = None,
    overwrite: bool = False,
    job: Job | None = None,
) -> TrainingReport:
    """Train a model on corrected cases, score it beside the old one, and put it in the menu.

    Killed or cancelled, the same call goes on where it stopped. The base is never changed.

    Parameters
    ----------
    cases : Dataset, sequence of pairs, ``"IMAGE=MASK"`` strings, datasets or folders; or one path
        Images and masks may be nouns or paths. A third member of a pair says where the mask was
        reviewed; elsewhere, and where a label has `ignore`, there is no loss and no score. A
        dataset (a folder or file that `open_dataset` knows, such as a folder of cases) is read
        item by item. Where it has splits of its own, its validation set is held out, or its test
        set where it has no validation; its groups are never cut.
    base : str
        A model's name, or ``FAMILY[:VARIANT]`` for a network with random weights and the masks'
        own classes.
    name : str
        Of the new model.
    steps : int, optional
        Optimiser steps; the card's, else 300 from a trained base and 1000 from random weights.
    seed : int
        Decides the held-out cases, the crops and random weights.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    patients : str or mapping, optional
        A regular expression found in the case's name, or ``{case name: patient}``. Cases of one
        patient are never on both sides of the split.
    recipe : str
        Name of one of the family's recipes, such as ``"paper"``; ours where left out.
    start : str
        Where `base` names a network: what it begins with instead of random weights. A model of the
        family (FCN's next coarser one), a published backbone (``"vgg16-imagenet"``), or a file
        with such a backbone's weights.
    only : str, optional
        Only a dataset's items of this status, such as ``"done"``.
    format : str, optional
        Name of the datasets' format; found out where left out.
    profile : Path, optional
        A profile of one's own for a folder of masks.
    overwrite : bool
        Whether a model or an unfinished training of that name may be replaced.
    job : Job, optional
        Hears ``prepare``, ``score`` and ``train``; the notes of the latter read
        ``loss=0.1234 held_out_dice:tumour=0.610``.

    Returns
    -------
    TrainingReport
        Both scores, the verdict and its reasons.

    Raises
    ------
    InputError
        If a case, a label or a name cannot be used.
    Cancelled
        If the job was cancelled; the run is kept to be gone on with.
    """
    from maskloop.desk.training_set import given_cases

    job = job or Job()
    began = time.perf_counter()
    found = given_cases(cases, only=only, format=format, profile=profile, job=job)
    plan = _plan(found, base, name, steps, seed, device, patients, recipe, start, job)
    finished = _finished(plan, overwrite)
    if finished is not None:
        job.say(f"model {name!r} was trained from these very cases before; nothing was done")
        return finished
    run = plan.open(overwrite)
    try:
        _prepare(plan, run, job)
        old = _old_scores(plan, run, job)
        plan = _surveyed(plan, run)
        network, curve, resumed = _fit(plan, run, job)
    except (InputError, WeightsError):
        # What was given cannot be used: kept, the run would hold its name against the call that
        # puts it right, which is another training.
        if not run.has_steps:
            run.remove()
        raise
    plan = _calibrated(plan, run, network, job)
    report = _conclude(plan, run, network, old, curve, job)
    report = dataclasses.replace(
        report, seconds=time.perf_counter() - began, resumed_at=resumed, steps=plan.recipe.steps
    )
    _write_report(report)
    run.remove()
    return report


@dataclass(frozen=True, slots=True)
class _Plan:
    """All that is decided before the first step."""

    name: str
    cases: tuple[TrainingCase, ...]
    prints: tuple[str, ...]
    split: Split
    family: Family
    base: ModelCard
    is_trained: bool
    recipe: Recipe
    batch: int
    device: str
    manifest: Mapping[str, Any]  # Any: JSON
    start: Start | None = None

    @property
    def is_disjoint(self) -> bool:
        """Whether nothing held out was ever trained on, in this run or the base's."""
        trained = {self.prints[i] for i in self.split.train} | set(_line(self.base, "trained"))
        return not any(self.prints[i] in trained for i in self.split.held_out)

    @property
    def measure(self) -> str:
        return {"instance": "AP@0.5", "panoptic": "PQ"}.get(self.base.task, "Dice")

    def open(self, overwrite: bool) -> Run:
        from maskloop.models.cards import home
        from maskloop.training.runs import Run

        return Run.open(home() / "runs" / self.name, self.manifest, overwrite=overwrite)

    def names(self, which: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.cases[i].name for i in which)


def _plan(
    cases: list[TrainingCase],
    base: str,
    name: str,
    steps: int | None,
    seed: int,
    device: str,
    patients: str | Mapping[str, str] | None,
    recipe_name: str,
    start_name: str,
    job: Job,
) -> _Plan:
    from maskloop.desk.training_set import reviewed_cases
    from maskloop.models import FAMILIES
    from maskloop.ops.device import choose
    from maskloop.training.cases import fingerprint

    card, is_trained = _base_card(base, cases, job)
    start = None
    if start_name:
        card, start = _started(card, is_trained, start_name, job)
        is_trained = start.model is not None
    family: Family = FAMILIES.get(card.family)
    if not family.is_trainable:
        msg = (
            f"expected a model that can be trained, got {card.name!r} of family {card.family!r}, "
            f"which cannot yet; choose another base"
        )
        raise InputError(msg)
    cases, drawn = reviewed_cases(cases, job)
    prints = tuple(
        fingerprint(_image_of(case, job) if case.image is None else case.image)
        for case in job.track(cases, "read")
    )
    split = _split(cases, prints, seed, patients, card, job)
    recipe, batch = _recipe(card, family, is_trained, steps, seed, recipe_name)
    card = dataclasses.replace(card, parameters=_told(card, recipe_name))
    manifest = {
        "base": card.name if is_trained else base,
        "weights": [w.sha256 for w in card.weights],
        "labels": card.labels.to_rows(),
        "cases": [[p, *both] for p, both in zip(prints, drawn, strict=True)],
        "held_out": list(split.held_out),
        "recipe": dataclasses.asdict(recipe),
        "batch": batch,
        **({"start": start.prints()} if start else {}),
    }
    where = choose(device).name
    return _Plan(
        name,
        tuple(cases),
        prints,
        split,
        family,
        card,
        is_trained,
        recipe,
        batch,
        where,
        manifest,
        start,
    )


def _split(
    cases: Sequence[TrainingCase],
    prints: Sequence[str],
    seed: int,
    rule: str | Mapping[str, str] | None,
    card: ModelCard,
    job: Job,
) -> Split:
    """Return the cases' own split where they have one, else a third of the patients held out."""
    from maskloop.training.cases import patients_of, split_as_told, split_cases

    patients = None
    if rule is not None:
        patients = patients_of(cases, rule)
    elif any(case.group for case in cases):
        patients = [
            f"group {c.group}" if c.group else p for c, p in zip(cases, prints, strict=True)
        ]
    splits = [case.split for case in cases]
    if all(splits):
        found = split_as_told(prints, splits, patients=patients)
        left_out = len(cases) - len(found.train) - len(found.held_out)
        if left_out:
            job.say(
                f"{left_out:,} training cases share a patient, slide or video (or their picture) "
                "with a held-out case: they are left out"
            )
        return found
    return split_cases(
        prints,
        seed=seed,
        patients=patients,
        trained=_line(card, "trained"),
        held=_line(card, "held_out"),
    )


def _line(card: ModelCard, which: str) -> Sequence[str]:
    """Return the fingerprints of images that the models before this one trained on or held out."""
    found = card.metrics.get("training")
    return found.get(which, ()) if isinstance(found, Mapping) else ()


def _base_card(base: str, cases: Sequence[TrainingCase], job: Job) -> tuple[ModelCard, bool]:
    """Return the card to start from, and whether it has weights."""
    from maskloop.models import FAMILIES, weights
    from maskloop.models.cards import all_cards, find_card

    names = [card.name for card in all_cards()]
    if base in names:
        card = find_card(base)
        if card.weights and not weights.present(card):
            weights.fetch(card, job)
        return card, bool(card.weights)
    family, _, variant = base.partition(":")
    if family not in FAMILIES:
        raise UnknownNameError.of("model or family", base, [*names, *FAMILIES])
    if not FAMILIES.get(family).is_trainable:
        msg = (
            f"expected a family that can be trained, got {family!r}, which cannot yet; "
            f"choose another"
        )
        raise InputError(msg)
    tasks = FAMILIES.get(family).tasks
    card = FAMILIES.get(family).card(variant, _labels_of(cases, "semantic" in tasks, job))
    return card, False


def _started(
    card: ModelCard, is_trained: bool, start_name: str, job: Job
) -> tuple[ModelCard, Start]:
    """Return the card of a network that begins with more than random weights, and with what."""
    from maskloop.models import FAMILIES
    from maskloop.models.base import Begins
    from maskloop.models.starts import begin

    if is_trained or not isinstance(FAMILIES.get(card.family), Begins):
        why = "is trained already" if is_trained else f"of family {card.family!r} has none"
        msg = (
            f"expected an untrained network that can begin with {start_name!r}, got {card.name!r}, "
            f"which {why}; leave out the start"
        )
        raise InputError(msg)
    return begin(card, start_name, job)


def _labels_of(cases: Sequence[TrainingCase], as_classes: bool, job: Job) -> LabelTable:
    """Return the classes that occur in the masks' tables; objects by their category."""
    rows: dict[str, Label] = {}
    for case in job.track(cases, "read labels"):
        for row in _rows_of(case, as_classes, job).values():
            name = row.category or row.name
            if row.ignore or name in rows:
                continue
            wanted = row.id if row.category is None else len(rows) + 1
            taken = {known.id for known in rows.values()}
            number = wanted if wanted not in taken else max(taken) + 1
            is_thing = row.is_thing or row.category is not None
            rows[name] = Label(number, name, is_thing=is_thing)
    if not rows:
        msg = "expected masks with labels, got none in any case; label something first"
        raise InputError(msg)
    return LabelTable(rows.values())


def _told(card: ModelCard, recipe_name: str) -> dict[str, Any]:  # Any: JSON
    """Return the card's parameters with those that the chosen recipe sets (its loss, its crops)."""
    chosen = card.parameters.get("recipes", {}).get(recipe_name, {})
    return {**card.parameters, **chosen.get("parameters", {})}


def _recipe(
    card: ModelCard,
    family: Family,
    is_trained: bool,
    steps: int | None,
    seed: int,
    name: str,
) -> tuple[Recipe, int]:
    """Return how to train and how many crops a step.

    The card's ``recipe`` parameters win over what holds for all, those of the one chosen among its
    ``recipes`` over both.
    """
    from maskloop.training.fit import Recipe

    named = card.parameters.get("recipes", {})
    if name and name not in named:
        raise UnknownNameError.of(f"recipe of {card.name}", name, list(named))
    told = {**card.parameters.get("recipe", {}), **named.get(name, {})}
    if steps is None:
        steps = int(told.get("steps", _FINE_TUNE_STEPS if is_trained else _FROM_SCRATCH_STEPS))
    voxels = math.prod(family.patch(dataclasses.replace(card, parameters=_told(card, name))))
    limits = ((64**3, 4), (128**3, 2)) if card.ndim == 3 else ((512**2, 4), (1024**2, 2))
    batch = int(told.get("batch", next((n for most, n in limits if voxels <= most), 1)))
    recipe = Recipe(
        steps,
        float(told.get("rate", _FINE_TUNE_RATE if is_trained else _FROM_SCRATCH_RATE)),
        optimiser=told.get("optimiser", "adamw"),
        weight_decay=float(told.get("weight_decay", 1e-2)),
        momentum=float(told.get("momentum", 0.99)),
        schedule=told.get("schedule", "cosine"),
        seed=seed,
        checkpoint_every=max(1, min(50, steps // 4)),
        watch_every=max(1, steps // _LOOKS),
        freeze_statistics=is_trained and batch < 8,
    )
    return recipe, batch


def _finished(plan: _Plan, overwrite: bool) -> TrainingReport | None:
    """Return the report of the same training if it was done before; refuse a taken name."""
    import json

    from maskloop.models.cards import all_cards, models_folder
    from maskloop.training.runs import key_of

    folder = models_folder() / plan.name
    taken = next((card for card in all_cards() if card.name == plan.name), None)
    if taken is None and not folder.exists():
        return None
    if plan.name == plan.base.name or not folder.exists():
        msg = (
            f"expected a new name for the model, got {plan.name!r}, which is in use; choose another"
        )
        raise InputError(msg)
    training = taken.metrics.get("training", {}) if taken is not None else {}
    report = folder / "report.json"
    is_same = isinstance(training, Mapping) and training.get("key") == key_of(plan.manifest)
    if taken is not None and is_same and report.is_file() and not overwrite:
        return _read_report(taken, folder, json.loads(report.read_text(encoding="utf-8")))
    if not overwrite:
        msg = (
            f"expected a new name for the model, got {plan.name!r}, which another training made; "
            f"choose another name, or overwrite it"
        )
        raise InputError(msg)
    return None


def _rows_of(case: TrainingCase, as_classes: bool, job: Job) -> LabelTable:
    if isinstance(case.mask, (Mask, Path)):
        return _mask_of(case.mask, None, as_classes, job).checked().labels
    return case.mask.labels


def _image_of(case: TrainingCase, job: Job) -> Image:
    if isinstance(case.image, Path):
        return load(case.image, job=job)
    if case.image is not None:
        return case.image
    if isinstance(case.mask, (Mask, Path)):
        msg = f"expected an image for case {case.name!r}, got none; give the image of its mask"
        raise InputError(msg)
    return case.mask.read_image(job)


def _mask_of(mask: Mask | Path, image: Image | None, as_classes: bool, job: Job) -> Mask:
    if isinstance(mask, Mask):
        if image is not None:
            mask.require_on(image)
        return mask
    kind: Kind = "classes" if as_classes else "objects"
    return load_mask(mask, image=image, kind=kind, job=job)


def _open(
    plan: _Plan, case: TrainingCase, job: Job
) -> tuple[Image, Mask, npt.NDArray[np.bool_] | None]:
    """Return a case's image, mask and reviewed voxels, loaded now and kept by nobody."""
    image = _image_of(case, job)
    reviewed = case.reviewed
    if isinstance(case.mask, (Mask, Path)):
        mask = _mask_of(case.mask, image, plan.base.task == "semantic", job)
    else:
        drawn = case.mask.read(job)
        drawn.mask.require_on(image)
        mask, reviewed = drawn.mask, drawn.reviewed
    if isinstance(reviewed, Path):
        reviewed = load_mask(reviewed, image=image, kind="classes", job=job).data > 0
    if reviewed is not None and reviewed.shape != mask.data.shape:
        msg = (
            f"expected reviewed voxels of shape {mask.data.shape} for case {case.name!r}, "
            f"got {reviewed.shape}; give one value a voxel"
        )
        raise InputError(msg)
    return image, mask, reviewed


def _prepare(plan: _Plan, run: Run, job: Job) -> None:
    """Write the training volumes of each case, one case in memory at a time."""
    from maskloop.training.cases import held_out_block
    from maskloop.training.patches import PatchStore

    store = PatchStore(run.folder / "volumes")
    for number in job.track(plan.split.train, "prepare"):
        if run.read(f"prepared-{number:04d}.json") is not None:
            continue
        image, mask, reviewed = _open(plan, plan.cases[number], job)
        if plan.split.by_block:
            seen = np.ones(mask.data.shape, bool) if reviewed is None else reviewed.copy()
            seen[held_out_block(mask.data)] = False
            reviewed = seen
        volumes = plan.family.prepare(image, mask, card=plan.base, reviewed=reviewed, job=job)
        usable = [v for v in volumes if v.reviewed is None or v.reviewed.any()]
        for part, volume in enumerate(usable):
            store.add(f"{number:04d}-{part:04d}", volume)
        run.write(f"prepared-{number:04d}.json", {"volumes": len(usable)})
    if not len(store):
        msg = "expected reviewed voxels in some training case, got none; review a part of one"
        raise InputError(msg)


def _old_scores(plan: _Plan, run: Run, job: Job) -> dict[str, float] | None:
    if not plan.is_trained:
        return None
    known = run.read("old.json")
    if known is None:
        start = time.perf_counter()
        before = plan.start.model if plan.start and plan.start.model else plan.base
        scores = _scores(plan, before, job)
        known = {"scores": to_json(scores), "seconds": time.perf_counter() - start}
        run.write("old.json", known)
    return from_json(known["scores"])


def _scores(plan: _Plan, card: ModelCard, job: Job) -> dict[str, float]:
    """Return the mean held-out score per label of a model, by the verb people will use."""
    from maskloop.loop.predict import Predictor

    predictor = Predictor(card, device=plan.device)
    rows = []
    for number in job.track(plan.split.held_out, "score"):
        image, mask, reviewed = _open(plan, plan.cases[number], job)
        found = predictor.predict(image, job=job).mask
        rows.append(_score_one(plan, found.data, found.labels, mask, reviewed))
    return mean_scores(rows)


def _score_one(
    plan: _Plan,
    found: npt.NDArray[Any],  # Any: label ids
    labels: LabelTable,
    mask: Mask,
    reviewed: npt.NDArray[np.bool_] | None,
) -> dict[str, float]:
    """Return the score per label of one case, in its reviewed (and, if so, held-out) part."""
    from maskloop.models.base import class_indices
    from maskloop.training.cases import held_out_block

    lookup, ignored = class_indices(mask, plan.base)
    where = ~np.isin(mask.data, ignored) if ignored else np.ones(mask.data.shape, bool)
    if reviewed is not None:
        where &= reviewed
    truth, box = mask.data, (slice(None),) * mask.data.ndim
    if plan.split.by_block:
        box = held_out_block(mask.data)
    found, truth, where = found[box], truth[box], where[box]
    names = list(plan.base.labels.names.values())
    if plan.base.task == "instance":
        return precision_by_class(found * where, labels, truth * where, lookup, names)
    if plan.base.task == "panoptic":
        classes = list(plan.base.labels.values())
        return panoptic_by_class(found, labels, truth, lookup, classes, where)
    to_index = np.zeros(max([*plan.base.labels, int(found.max(initial=0))]) + 1, np.uint16)
    to_index[list(plan.base.labels)] = np.arange(1, len(names) + 1)
    return dice_by_class(to_index[found], lookup[truth], names, where)


def _network(plan: _Plan) -> nn.Module:
    from maskloop.models import weights
    from maskloop.models.base import Begins
    from maskloop.training.fit import seeded

    if plan.is_trained and plan.start is None:
        return plan.family.load(plan.base, weights.paths(plan.base))
    with seeded(plan.recipe.seed):
        if plan.start is not None and isinstance(plan.family, Begins):
            return plan.family.begin(plan.base, plan.start.state())
        return plan.family.build(plan.base)


def _fit(plan: _Plan, run: Run, job: Job) -> tuple[nn.Module, tuple[Point, ...], int]:
    from maskloop.models.base import Batch
    from maskloop.ops.device import load_dynamo
    from maskloop.training.augment import Augmentation
    from maskloop.training.fit import fit
    from maskloop.training.patches import PatchStore

    store = PatchStore(run.folder / "volumes")
    shape = plan.family.patch(plan.base)
    augment = Augmentation(plan.family.augmentation(plan.base), plan.base.spacing)

    def draw(rng: np.random.Generator) -> Patches:
        cut = store.draw(rng, shape, count=plan.batch, reach=augment.reach(shape))
        return augment(cut, shape, rng)

    def loss(network: nn.Module, patches: Patches) -> Tensor:
        batch = Batch(patches.images, patches.ids, list(patches.categories))
        return plan.family.train_step(network, batch, card=plan.base)

    load_dynamo()
    network = _network(plan)
    fitted = fit(
        network,
        loss,
        draw,
        recipe=plan.recipe,
        folder=run.folder,
        device=plan.device,
        watch=_Watch(plan, run, job),
        job=job,
    )
    return network, fitted.curve, fitted.resumed_at


def _volumes(run: Run) -> Iterator[Volume]:
    from maskloop.models.base import Volume
    from maskloop.training.patches import PatchStore

    for found in PatchStore(run.folder / "volumes").volumes():
        yield Volume(found.data, found.ids, found.reviewed, found.categories)


def _surveyed(plan: _Plan, run: Run) -> _Plan:
    """Return the plan with what the family wants to know of all its cases on the card."""
    from maskloop.models.base import Surveys

    if not isinstance(plan.family, Surveys):
        return plan
    return dataclasses.replace(plan, base=plan.family.survey(plan.base, _volumes(run)))


def _calibrated(plan: _Plan, run: Run, network: nn.Module, job: Job) -> _Plan:
    """Return the plan with how the trained network's scores become probabilities on the card."""
    from maskloop.models.base import Calibrates
    from maskloop.ops.device import choose

    if not isinstance(plan.family, Calibrates):
        return plan
    card = plan.family.calibrate(
        network, _volumes(run), card=plan.base, device=choose(plan.device), job=job
    )
    return dataclasses.replace(plan, base=card)


class _Watch:
    """Scores held-out cases while training, as long as that is quick. Nothing is chosen by it."""

    def __init__(self, plan: _Plan, run: Run, job: Job) -> None:
        self.plan = plan
        self.job = job
        old = run.read("old.json")
        self.is_slow = old is not None and old["seconds"] > _LOOK_SECONDS

    def __call__(self, network: nn.Module) -> dict[str, float]:
        from maskloop.ops.device import choose

        if self.is_slow:
            return {}
        start = time.perf_counter()
        quiet = _Quiet(self.job)
        rows = []
        for number in self.plan.split.held_out:
            image, mask, reviewed = _open(self.plan, self.plan.cases[number], quiet)
            found = self.plan.family.segment(
                network, image, card=self.plan.base, device=choose(self.plan.device), job=quiet
            )
            rows.append(_score_one(self.plan, found.ids, found.labels, mask, reviewed))
        self.is_slow = time.perf_counter() - start > _LOOK_SECONDS
        return _known(mean_scores(rows))


class _Quiet(Job):
    """A job that reports nothing and stops when another one does."""

    def __init__(self, outer: Job) -> None:
        super().__init__()
        self._outer = outer

    def check(self) -> None:
        self._outer.check()


def _conclude(
    plan: _Plan,
    run: Run,
    network: nn.Module,
    old: dict[str, float] | None,
    curve: tuple[Point, ...],
    job: Job,
) -> TrainingReport:
    """Score the new weights, judge them, and save the model with both scores on its card."""
    from maskloop.models.cards import models_folder, save_card
    from maskloop.training.gate import judge

    files = _write_weights(plan, run, network)
    new = _scores(plan, _card_in_run(plan, files), job)
    judgement = judge(
        new,
        old,
        is_disjoint=plan.is_disjoint,
        cases=plan.split.groups,
        measure=plan.measure,
    )
    curve = (*curve[:-1], dataclasses.replace(curve[-1], held_out=_known(new)))
    job.report("train", plan.recipe.steps, plan.recipe.steps, note=curve[-1].to_note())
    card = _new_card(plan, old, new, judgement.verdict, judgement.reasons)
    saved = save_card(card, files, overwrite=True)
    for reason in (f"{plan.name}: {judgement.verdict}", *judgement.reasons):
        job.say(reason)
    return TrainingReport(
        saved,
        old,
        new,
        plan.measure,
        judgement.verdict,
        judgement.reasons,
        plan.split.kind,
        plan.names(plan.split.train),
        plan.names(plan.split.held_out),
        models_folder() / plan.name,
        curve,
        plan.recipe.steps,
        0.0,
    )


def _write_weights(plan: _Plan, run: Run, network: nn.Module) -> dict[str, Path]:
    """Write the network as the base's files hold it, or as one file where that cannot be told."""
    from safetensors.torch import save_file

    from maskloop.models import weights
    from maskloop.models.base import read_state
    from maskloop.training.checkpoints import plain_state

    state = plain_state(network)
    parts: dict[str, set[str]] = {}
    if plan.is_trained and plan.start is None:
        for file, path in weights.paths(plan.base).items():
            parts[file] = set(read_state(path))
    whole = len(parts) < 2 or set().union(*parts.values()) != set(state)
    if whole:
        parts = {f"{plan.name}.safetensors": set(state)}
    files = {}
    for file, keys in parts.items():
        path = run.folder / file
        save_file({k: v for k, v in state.items() if k in keys}, path)
        files[file] = path
    return files


def _card_in_run(plan: _Plan, files: Mapping[str, Path]) -> ModelCard:
    """Return a card whose weights are the run's own files, to predict before anything is saved."""
    from maskloop.models.cards import WeightFile

    return dataclasses.replace(
        plan.base,
        name=plan.name,
        weights=tuple(
            WeightFile(file, sha256_of(path), path.stat().st_size, {"file": str(path.resolve())})
            for file, path in files.items()
        ),
    )


def _new_card(
    plan: _Plan,
    old: Mapping[str, float] | None,
    new: Mapping[str, float],
    verdict: Verdict,
    reasons: Sequence[str],
) -> ModelCard:
    from maskloop.training.runs import key_of

    def prints(which: Sequence[int], earlier: str) -> list[str]:
        return sorted({*_line(plan.base, earlier), *(plan.prints[i] for i in which)})

    count = len(plan.split.train)
    cases = f"{count} corrected case{'s' if count > 1 else ''}"
    start = plan.base.title if plan.is_trained else plan.family.title
    how = "fine-tuned" if plan.is_trained else "trained"
    measured = {
        "measure": plan.measure,
        "split": plan.split.kind,
        "cases": len(plan.split.held_out),
        "before": None if old is None else to_json(old),
        "after": to_json(new),
    }
    by_block = plan.split.by_block
    training = {
        "key": key_of(plan.manifest),
        "verdict": verdict,
        "reasons": list(reasons),
        "steps": plan.recipe.steps,
        "seed": plan.recipe.seed,
        "rate": plan.recipe.learning_rate,
        "batch": plan.batch,
        "trained": prints(plan.split.train, "trained"),
        "held_out": [] if by_block else prints(plan.split.held_out, "held_out"),
    }
    words = [f"{verdict}: {reasons[0]}."]
    if by_block:
        words.append("Trained on parts of the very cases it was scored on: an overfit.")
    return dataclasses.replace(
        plan.base,
        name=plan.name,
        title=f"{start}, {how} on {cases}",
        status="proved" if verdict == "proved" else "candidate",
        proof="experimental",
        base=plan.base.name if plan.is_trained else "",
        limits=(*plan.base.limits, *words),
        trained_on=f"{cases} of the user's"
        + (f", from {plan.base.name} ({plan.base.trained_on})" if plan.is_trained else ""),
        metrics={"held_out": measured, "training": training},
        weights=(),
    )


def _write_report(report: TrainingReport) -> None:
    import json

    part = report.folder / ".report.json.part"
    part.write_text(json.dumps(report.to_json(), indent=1), encoding="utf-8")
    part.replace(report.folder / "report.json")


def _read_report(card: ModelCard, folder: Path, found: Mapping[str, Any]) -> TrainingReport:
    """Return the report of an earlier, equal training."""
    from maskloop.training.fit import Point

    return TrainingReport(
        card,
        None if found["old"] is None else from_json(found["old"]),
        from_json(found["new"]),
        found["measure"],
        found["verdict"],
        tuple(found["reasons"]),
        found["split"],
        tuple(found["trained_on"]),
        tuple(found["held_out"]),
        folder,
        tuple(Point(p["step"], p["loss"], from_json(p["held_out"])) for p in found["curve"]),
        found["steps"],
        found["seconds"],
        found["resumed_at"],
    )


def _known(scores: Mapping[str, float]) -> dict[str, float]:
    return {k: v for k, v in scores.items() if not math.isnan(v)}

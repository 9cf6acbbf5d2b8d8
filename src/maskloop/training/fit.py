"""The training loop: plain PyTorch, resumable to the bit, stoppable at any step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from maskloop.core.errors import Cancelled, InputError
from maskloop.core.job import Job
from maskloop.training.checkpoints import Checkpoints, plain_state
from maskloop.training.patches import Patches

if TYPE_CHECKING:
    from pathlib import Path

Loss = Callable[[nn.Module, Patches], Tensor]
Draw = Callable[[np.random.Generator], Patches]
Watch = Callable[[nn.Module], Mapping[str, float]]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw torch's random numbers from `seed`, and leave the process's own stream as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train.

    Parameters
    ----------
    steps : int
        Optimiser steps, >= 1.
    learning_rate : float
        At the end of the warm-up.
    optimiser : {"adamw", "sgd"}
        ``sgd`` has Nesterov's momentum, as nnU-Net does.
    momentum : float
        Of ``sgd``.
    schedule : {"cosine", "poly", "constant"}
        How the rate falls after the warm-up; ``poly`` with the power 0.9 of DeepLab.
    weight_decay : float
        Not applied to biases and norms.
    warmup : float
        Share of the steps over which the rate rises from 0.
    clip : float
        Largest norm of the gradient.
    average : float
        Decay of the moving average of the weights; smaller in the first steps.
    seed : int
        With the step's number, decides each crop and change.
    checkpoint_every, watch_every : int
        In steps; 0 for never (a checkpoint is still written at the end and when cancelled).
    freeze_statistics : bool
        Whether batch norms keep their means and variances: small batches would spoil them.
    """

    steps: int
    learning_rate: float = 1e-3
    optimiser: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 1e-2
    warmup: float = 0.05
    clip: float = 10.0
    average: float = 0.99
    seed: int = 0
    momentum: float = 0.99
    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    checkpoint_every: int = 50
    watch_every: int = 0
    freeze_statistics: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            msg = (
                f"expected at least 1 training step, got {self.steps!r}; "
                f"leave it out for the default"
            )
            raise InputError(msg)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step (from 0): a function of the step alone.

        A schedule object that counts for itself jumps when a run is resumed.
        """
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        part = (step - warm) / max(1, self.steps - warm)
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "poly":
            return self.learning_rate * float((1 - part) ** 0.9)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part)))


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the learning curve.

    Parameters
    ----------
    step : int
        Steps done.
    loss : float
        Of that step's batch.
    held_out : mapping of str to float
        Score per label on the watched cases; empty where they were not looked at.
    """

    step: int
    loss: float
    held_out: Mapping[str, float]

    def to_note(self) -> str:
        """Return ``loss=0.123 held_out_dice:tumour=0.610``, to be shown or parsed."""
        scores = [f"held_out_dice:{k.replace(' ', '_')}={v:.3f}" for k, v in self.held_out.items()]
        return " ".join([f"loss={self.loss:.4f}", *scores])


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a training leaves: the averaged weights are in the network."""

    curve: tuple[Point, ...]
    resumed_at: int


def fit(
    network: nn.Module,
    loss: Loss,
    draw: Draw,
    *,
    recipe: Recipe,
    folder: Path,
    device: str = "cpu",
    watch: Watch | None = None,
    job: Job | None = None,
) -> Fitted:
    """Train `network` in place; go on where an earlier call in `folder` stopped.

    On a CPU, a run that was killed at any step and started again ends with the same weights, bit
    for bit, as one that was not.

    Parameters
    ----------
    network : Module
        Ends with the moving average of its weights, in eval mode, on `device`.
    loss : callable
        ``loss(network, patches)`` gives a scalar with gradients.
    draw : callable
        ``draw(rng)`` gives the patches of a step.
    recipe : Recipe
        Length, rate, optimiser, seed.
    folder : Path
        For checkpoints.
    device : str
        A torch device.
    watch : callable, optional
        ``watch(network)`` gives scores on held-out cases for the curve. It sees the averaged
        weights; nothing is chosen by it.
    job : Job, optional
        Hears ``train`` once a step; cancelling stops within one step, with a checkpoint.

    Raises
    ------
    Cancelled
        If the job was cancelled; running again goes on from there.
    FloatingPointError
        If the loss is not finite twenty times in a row.
    """
    job = job or Job()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        run = _Run(network.to(device), recipe, Checkpoints(folder), device)
        resumed = run.resume()
        job.report("train", run.step, recipe.steps, note=run.note())
        while run.step < recipe.steps:
            run.advance(loss, draw)
            try:
                if watch is not None and _is_due(run.step, recipe.watch_every, recipe.steps):
                    run.look(watch)
                job.report("train", run.step, recipe.steps, note=run.note())
                job.check()
            except Cancelled:
                run.keep()
                raise
            if _is_due(run.step, recipe.checkpoint_every, recipe.steps):
                run.keep()
        run.finish()
    return Fitted(tuple(run.curve), resumed)


def _is_due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


class _Run:
    """The moving parts of one training."""

    def __init__(
        self, network: nn.Module, recipe: Recipe, checkpoints: Checkpoints, device: str
    ) -> None:
        self.network = network
        self.recipe = recipe
        self.checkpoints = checkpoints
        self.device = device
        self.optimiser = _optimiser(network, recipe)
        self.average = plain_state(network)
        self.step = 0
        self.spoilt = 0
        self.curve: list[Point] = []

    def resume(self) -> int:
        found = self.checkpoints.latest()
        if found is None:
            return 0
        self.average, state = self.checkpoints.restore(
            found, network=self.network, optimiser=self.optimiser
        )
        self.step = int(state["step"])
        self.spoilt = int(state["spoilt"])
        self.curve = [Point(p["step"], p["loss"], p["held_out"]) for p in state["curve"]]
        return self.step

    def advance(self, loss: Loss, draw: Draw) -> None:
        rate = self.recipe.rate(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        # Seeded by the step: a resumed run draws what the unbroken one would have drawn.
        patches = draw(np.random.default_rng([self.recipe.seed, self.step]))
        batch = Patches(
            patches.images.to(self.device), patches.ids.to(self.device), patches.categories
        )
        self._to_train()
        self.optimiser.zero_grad(set_to_none=True)
        value = loss(self.network, batch)
        found = float(value.detach())
        if math.isfinite(found):
            value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
            self.optimiser.step()
            self.spoilt = 0
        else:
            self.spoilt += 1
            if self.spoilt >= 20:
                msg = "expected a finite loss, got none in 20 steps; look for NaN in the images"
                raise FloatingPointError(msg)
        self.step += 1
        self._follow()
        self.curve.append(Point(self.step, found, {}))

    def _to_train(self) -> None:
        self.network.train()
        if self.recipe.freeze_statistics:
            for part in self.network.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.eval()

    @torch.no_grad()
    def _follow(self) -> None:
        decay = min(self.recipe.average, self.step / (self.step + 9))
        for name, value in self.network.state_dict().items():
            kept = self.average[name]
            if kept.is_floating_point():
                kept.lerp_(value.detach().to(kept), 1 - decay)
            else:
                kept.copy_(value)

    def look(self, watch: Watch) -> None:
        own = plain_state(self.network)
        rng = torch.get_rng_state()
        self.network.load_state_dict(self.average)
        self.network.eval()
        try:
            with torch.no_grad():
                scores = {str(k): float(v) for k, v in watch(self.network).items()}
        finally:
            self.network.load_state_dict(own)
            torch.set_rng_state(rng)
        last = self.curve[-1]
        self.curve[-1] = Point(last.step, last.loss, scores)

    def note(self) -> str:
        return self.curve[-1].to_note() if self.curve else ""

    def keep(self) -> None:
        curve = [{"step": p.step, "loss": p.loss, "held_out": dict(p.held_out)} for p in self.curve]
        state: dict[str, Any] = {  # Any: JSON
            "curve": curve,
            "spoilt": self.spoilt,
            "seed": self.recipe.seed,
            "rate": self.recipe.rate(self.step),
        }
        self.checkpoints.save(
            self.step,
            network=self.network,
            average=self.average,
            optimiser=self.optimiser,
            state=state,
        )

    def finish(self) -> None:
        self.network.load_state_dict(self.average)
        self.network.eval()


def _optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    learnt = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learnt if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if recipe.optimiser == "sgd":
        momentum = recipe.momentum
        return torch.optim.SGD(
            groups, lr=recipe.learning_rate, momentum=momentum, nesterov=momentum > 0
        )
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)

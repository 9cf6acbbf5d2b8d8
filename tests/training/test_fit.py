"""The loop learns, stops when told, and goes on to the same weights, bit for bit."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from maskloop.core.errors import Cancelled, InputError, WeightsError
from maskloop.core.job import Job, Progress
from maskloop.training.checkpoints import Checkpoints, plain_state
from maskloop.training.fit import Recipe, fit
from maskloop.training.patches import Patches

SETUP = """
import numpy as np
import torch
from torch import nn
from maskloop.training.patches import Patches


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Conv2d(6, 2, 1),
    )


def draw(rng):
    images = torch.from_numpy(rng.normal(size=(2, 1, 12, 12)).astype(np.float32))
    return Patches(images, (images[:, 0] > 0.3).long(), [{}, {}])


def loss(net, patches):
    return nn.functional.cross_entropy(net(patches.images), patches.ids, ignore_index=-1)
"""
_SPACE: dict[str, object] = {}
exec(SETUP, _SPACE)  # the killed process below runs the same lines


def network() -> nn.Module:
    return _SPACE["network"]()  # type: ignore[operator, no-any-return]


def draw(rng: np.random.Generator) -> Patches:
    return _SPACE["draw"](rng)  # type: ignore[operator, no-any-return]


def loss(net: nn.Module, patches: Patches) -> Tensor:
    return _SPACE["loss"](net, patches)  # type: ignore[operator, no-any-return]


def _trained(folder: Path, steps: int = 40, **more: object) -> nn.Module:
    net = network()
    recipe = Recipe(steps, 1e-2, checkpoint_every=7)
    fit(net, loss, draw, recipe=recipe, folder=folder, **more)  # type: ignore[arg-type]
    return net


def _equal(one: nn.Module, two: nn.Module) -> bool:
    a, b = plain_state(one), plain_state(two)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_loss_falls(tmp_path: Path) -> None:
    net = network()
    curve = fit(net, loss, draw, recipe=Recipe(60, 1e-2), folder=tmp_path).curve
    losses = [p.loss for p in curve]
    assert [p.step for p in curve] == list(range(1, 61))
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])
    assert not net.training


def test_a_killed_run_ends_with_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    unbroken = _trained(tmp_path / "unbroken")
    killed = tmp_path / "killed"
    script = SETUP + textwrap.dedent(f"""
        import time
        from pathlib import Path
        from maskloop.training.fit import Recipe, fit

        def slow(net, patches):
            time.sleep(0.05)
            return loss(net, patches)

        recipe = Recipe(40, 1e-2, checkpoint_every=7)
        fit(network(), slow, draw, recipe=recipe, folder=Path({str(killed)!r}))
    """)
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 120
    while not (killed / "LATEST").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.13)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert Checkpoints(killed).latest() is not None
    net = network()
    fitted = fit(net, loss, draw, recipe=Recipe(40, 1e-2, checkpoint_every=7), folder=killed)
    assert 0 < fitted.resumed_at < 40
    assert [p.step for p in fitted.curve] == list(range(1, 41))
    assert _equal(net, unbroken)


@pytest.mark.parametrize("stop", [1, 7, 18, 39])
def test_a_cancelled_run_stops_within_one_step_and_goes_on_to_the_same_weights(
    tmp_path: Path, stop: int
) -> None:
    unbroken = _trained(tmp_path / "unbroken")
    done: list[int] = []

    def listen(progress: Progress) -> None:
        done.append(progress.done)
        if progress.done == stop:
            job.cancel()

    job = Job(listen)
    with pytest.raises(Cancelled):
        _trained(tmp_path / "stopped", job=job)
    assert max(done) == stop
    assert _equal(_trained(tmp_path / "stopped"), unbroken)


def test_watching_changes_no_weight(tmp_path: Path) -> None:
    def watch(net: nn.Module) -> dict[str, float]:
        assert not net.training
        torch.rand(3)
        return {"dice": float(next(net.parameters()).abs().mean())}

    plain = _trained(tmp_path / "plain")
    net = network()
    recipe = Recipe(40, 1e-2, checkpoint_every=7, watch_every=10)
    fitted = fit(net, loss, draw, recipe=recipe, folder=tmp_path / "watched", watch=watch)
    assert [p.step for p in fitted.curve if p.held_out] == [10, 20, 30, 40]
    assert _equal(net, plain)


def test_training_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(4)
    torch.manual_seed(5)
    net = nn.Conv2d(1, 2, 1)
    torch.manual_seed(5)
    fit(net, loss, draw, recipe=Recipe(3), folder=tmp_path)
    assert torch.equal(torch.rand(4), wanted)


def test_notes_can_be_parsed(tmp_path: Path) -> None:
    seen: list[Progress] = []
    fit(
        network(),
        loss,
        draw,
        recipe=Recipe(2),
        folder=tmp_path,
        watch=lambda net: {"big tumour": 0.61},
        job=Job(seen.append),
    )
    last = dict(part.split("=") for part in seen[-1].note.split())
    assert seen[-1].stage == "train"
    assert (seen[-1].done, seen[-1].total) == (2, 2)
    assert float(last["loss"]) > 0
    assert last["held_out_dice:big_tumour"] == "0.610"


def test_the_rate_rises_then_falls_and_depends_on_the_step_alone() -> None:
    recipe = Recipe(100, 1e-3)
    rates = [recipe.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(2e-4)
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) in (4, 5)
    assert all(a >= b for a, b in itertools.pairwise(rates[5:]))
    assert rates[-1] < 2e-5


def test_frozen_statistics_stay(tmp_path: Path) -> None:
    net = network()
    before = net[1].running_mean.clone()  # type: ignore[index, operator, union-attr]
    fit(net, loss, draw, recipe=Recipe(5, freeze_statistics=True), folder=tmp_path)
    assert torch.equal(net[1].running_mean, before)  # type: ignore[index]


def test_a_loss_that_is_not_finite_changes_nothing_and_ends_the_run(tmp_path: Path) -> None:
    net = network()
    before = plain_state(net)
    with pytest.raises(FloatingPointError, match="expected a finite loss"):
        fit(
            net,
            lambda n, p: loss(n, p) * math.nan,
            draw,
            recipe=Recipe(40, freeze_statistics=True),
            folder=tmp_path,
        )
    assert all(torch.equal(v, before[k]) for k, v in plain_state(net).items() if "num" not in k)


def test_only_the_last_two_checkpoints_are_kept_and_each_is_whole(tmp_path: Path) -> None:
    _trained(tmp_path)
    found = sorted(p.name for p in tmp_path.glob("step_*"))
    assert found == ["step_000035", "step_000040"]
    assert (tmp_path / "LATEST").read_text() == "step_000040"
    for name in found:
        files = {p.name for p in (tmp_path / name).iterdir()}
        assert files == {"model.safetensors", "ema.safetensors", "optim.pt", "state.json"}
    torch.load(tmp_path / "step_000040" / "optim.pt", weights_only=True)
    assert (
        load_file(tmp_path / "step_000040" / "ema.safetensors").keys()
        == plain_state(network()).keys()
    )


def test_a_checkpoint_cut_short_by_a_kill_is_not_used(tmp_path: Path) -> None:
    (tmp_path / ".step_000007.part").mkdir()
    (tmp_path / "step_000007").mkdir()
    assert Checkpoints(tmp_path).latest() is None


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    _trained(tmp_path, steps=2)
    with pytest.raises(WeightsError, match="expected a checkpoint of this network"):
        fit(nn.Conv2d(1, 2, 1), loss, draw, recipe=Recipe(4), folder=tmp_path)


def test_no_steps_are_refused() -> None:
    with pytest.raises(InputError, match="at least 1 training step"):
        Recipe(0)

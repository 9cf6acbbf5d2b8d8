"""Memory: a line through two measured sizes, kept on the card, told by the listing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from maskloop.core.errors import InputError
from maskloop.core.labels import LabelTable
from maskloop.desk.catalogue import list_models
from maskloop.models import FAMILIES, memory
from maskloop.models.cards import MemoryUse, ModelCard, save_card
from maskloop.ops.device import CPU, Device

needs_proc = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="peaks are read from /proc"
)


@needs_proc
def test_a_peak_is_what_was_held_at_once_and_let_go_again() -> None:
    def work() -> None:
        for _ in range(3):  # never two at once
            held = np.ones(40_000_000, np.uint8)
            del held

    peak = memory.peak_of(work, CPU)
    assert 39e6 < peak < 60e6
    assert memory.peak_of(lambda: None, CPU) < 5e6


def test_where_the_system_does_not_tell_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_RESET", Path("/nowhere/at/all"))
    with pytest.raises(InputError, match="measure on another machine"):
        memory.peak_of(lambda: None, CPU)


def test_the_line_goes_through_both_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    family = FAMILIES.get("unet")
    labels = LabelTable.classes(["a"])
    card = family.card("residual3d", labels)
    seen: list[int] = []

    def peak(work: object, device: Device) -> int:
        work()  # type: ignore[operator]
        seen.append(1)
        # The second round is disturbed: the median is not.
        return (10_000_000, 26_000_000, 90_000_000, 20, 10_000_000, 26_000_000)[len(seen) - 1]

    monkeypatch.setattr(memory, "peak_of", peak)
    network = family.build(card)
    sizes = ((16, 16, 16), (32, 32, 16))
    used = memory.measure(family, network, card, CPU, sizes=sizes)
    weights = 4 * sum(p.numel() for p in network.parameters())
    slope = 16e6 / (16384 - 4096)
    assert used.per_voxel == pytest.approx(slope, abs=0.1)
    assert used.fixed == pytest.approx(10e6 - 4096 * slope + weights, rel=1e-3)
    assert used.at((32, 32, 16)) == pytest.approx(26e6 + weights, rel=1e-3)
    assert (used.measured_to, used.device) == (16384, "cpu")


def test_equal_sizes_make_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "peak_of", lambda work, device: 1)
    family = FAMILIES.get("unet")
    card = family.card("residual3d", LabelTable.classes(["a"]))
    with pytest.raises(InputError, match="two sizes of other volume"):
        memory.measure(family, family.build(card), card, CPU, sizes=((16, 16, 16), (16, 16, 16)))


@pytest.mark.parametrize(
    ("family", "variant"), [("unet", "2015"), ("unet", "residual3d"), ("segnet", ""), ("fcn", "8s")]
)
def test_the_second_size_is_one_the_network_takes(family: str, variant: str) -> None:
    found = FAMILIES.get(family)
    card = found.card(variant, LabelTable.classes(["a"]))
    small, large = memory._two_sizes(found, card)
    assert large == card.window
    assert 0.2 < np.prod(small) / np.prod(large) < 0.5


@needs_proc
@pytest.mark.slow
def test_measured_memory_grows_with_the_window_as_the_told_shapes_do() -> None:
    """Of a real network, in a fresh process: the line at its window, and what tensors need."""
    code = """
import json
from maskloop.core.labels import LabelTable
from maskloop.models import FAMILIES
from maskloop.models.inspect import inspect_card
from maskloop.models.memory import measure
from maskloop.ops.device import CPU
family = FAMILIES.get("unet")
card = family.card("residual3d", LabelTable.classes(["a"]))
used = measure(family, family.build(card), card, CPU)
told = inspect_card(card, card.window).memory_mb
print(json.dumps([used.at(card.window) / 1e6, used.per_voxel, told]))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    measured, slope, tensors = json.loads(told.stdout)
    assert slope > 0
    assert 0.7 * tensors < measured < 6 * tensors  # torch's own buffers come on top


def test_a_card_keeps_it_and_the_listing_tells_it(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"weights")
    use = MemoryUse(5e6, 100.5, 4096, "cuda")
    card = ModelCard(
        "mine", "mine", "unet", variant="2015", ndim=2, memory=use, parameters={"tile": [64, 64]}
    )
    saved = save_card(card, {weights.name: weights})
    assert saved.memory == use
    assert ModelCard.from_json(json.loads(json.dumps(saved.to_json()))) == saved
    rows = {row["name"]: row for row in list_models()}
    told = {"bytes": round(5e6 + 100.5 * 4096), "window": [64, 64], "device": "cuda"}
    assert rows["mine"]["memory"] == told
    assert "memory" not in ModelCard("other", "other", "unet").to_json()


@pytest.mark.parametrize("told", [{"fixed": -1}, {"per_voxel": "much"}, {"device": 5}])
def test_what_is_no_measurement_is_refused(told: dict[str, object]) -> None:
    fields = {"fixed": 1, "per_voxel": 1, "measured_to": 1, "device": "cpu", **told}
    with pytest.raises(InputError, match="measure it again"):
        ModelCard.from_json({"name": "m", "title": "m", "family": "unet", "memory": fields})


@needs_proc
@pytest.mark.slow
def test_the_command_measures_a_shipped_model_and_leaves_its_card(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from maskloop.cli import run

    assert run(["models", "memory", "phantom-liver", "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["window"] == [64, 64, 64]
    assert found["bytes"] > 1e6
    assert found["saved"] is False

"""A training's state on disk, complete or absent: a kill at any moment loses a few steps."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from maskloop.core.errors import StorageError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path

_KEEP = 2


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Folders ``step_NNNNNN`` and a pointer ``LATEST``.

    Each folder holds ``model.safetensors``, ``ema.safetensors``, ``optim.pt`` (tensors only) and
    ``state.json``. A folder appears under its name only when all of it is on the disk.

    Parameters
    ----------
    folder : Path
        The run's folder; made if absent.
    """

    folder: Path

    def save(
        self,
        step: int,
        *,
        network: nn.Module,
        average: dict[str, Tensor],
        optimiser: torch.optim.Optimizer,
        state: dict[str, Any],  # Any: JSON
    ) -> Path:
        """Write the state after `step` steps and forget all but the last two.

        Raises
        ------
        StorageError
            If the disk refuses; the earlier checkpoints stay.
        """
        target = self.folder / f"step_{step:06d}"
        staging = self.folder / f".step_{step:06d}.part"
        try:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            save_file(plain_state(network), staging / "model.safetensors")
            save_file(average, staging / "ema.safetensors")
            torch.save(
                {"optimiser": optimiser.state_dict(), "rng": torch.get_rng_state()},
                staging / "optim.pt",
            )
            (staging / "state.json").write_text(json.dumps({**state, "step": step}))
            for path in staging.iterdir():
                _sync(path)
            _sync(staging)
            shutil.rmtree(target, ignore_errors=True)
            staging.replace(target)
            pointer = self.folder / ".LATEST.part"
            pointer.write_text(target.name)
            _sync(pointer)
            pointer.replace(self.folder / "LATEST")
            _sync(self.folder)
        except OSError as error:
            shutil.rmtree(staging, ignore_errors=True)
            msg = (
                f"expected to write a checkpoint in {self.folder}, got {error}; "
                f"free some space and run again"
            )
            raise StorageError(msg) from error
        self._forget(keep=target.name)
        return target

    def latest(self) -> Path | None:
        """Return the newest complete checkpoint, or None."""
        pointer = self.folder / "LATEST"
        if pointer.is_file():
            found = self.folder / pointer.read_text().strip()
            if (found / "state.json").is_file():
                return found
        return None

    def restore(
        self, checkpoint: Path, *, network: nn.Module, optimiser: torch.optim.Optimizer
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Put a checkpoint back and return the averaged weights and the state.

        Restores torch's random state too, so that what follows is what would have followed.

        Raises
        ------
        WeightsError
            If the checkpoint does not belong to this network.
        """
        try:
            network.load_state_dict(load_file(checkpoint / "model.safetensors"), strict=True)
            saved = torch.load(checkpoint / "optim.pt", weights_only=True, map_location="cpu")
            optimiser.load_state_dict(saved["optimiser"])
            average: dict[str, Tensor] = load_file(checkpoint / "ema.safetensors")
            state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            msg = (
                f"expected a checkpoint of this network in {checkpoint}, got {error}; "
                f"delete the run's folder and start again"
            )
            raise WeightsError(msg) from error
        torch.set_rng_state(saved["rng"])
        return average, state

    def _forget(self, *, keep: str) -> None:
        found = sorted(p.name for p in self.folder.glob("step_*"))
        for name in found[:-_KEEP]:
            if name != keep:
                shutil.rmtree(self.folder / name, ignore_errors=True)


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a network's tensors on the CPU, sorted by name, each with its own memory."""
    found = network.state_dict()
    return {k: found[k].detach().cpu().contiguous().clone() for k in sorted(found)}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # Windows cannot sync a folder; its rename is journalled
        if path.is_file():
            raise
    finally:
        os.close(handle)

"""The import contracts hold, and each one fails when somebody breaks it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# contract -> (file that breaks it, the line that does)
PLANTED = {
    "floors": ("core/mask.py", "import maskloop.ops.components"),
    "faces-call-verbs": ("cli/verbs.py", "import maskloop.tools"),
    "families-apart": ("models/unet.py", "import maskloop.models.flows"),
    "window-in-gui-only": ("loop/load.py", "import napari"),
    "no-qt-in-contributions": ("gui/layers.py", "import qtpy"),
    "numpy-only-core": ("core/geometry.py", "import scipy"),
    "torch-has-its-rooms": ("loop/export.py", "import torch"),
}


def check(folder: Path, *contracts: str) -> subprocess.CompletedProcess[str]:
    chosen = [part for name in contracts for part in ("--contract", name)]
    code = "import sys; from importlinter.cli import lint_imports_command as run; run()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--config", "pyproject.toml", *chosen],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copytree(
        ROOT / "src" / "maskloop",
        tmp_path / "src" / "maskloop",
        ignore=shutil.ignore_patterns("__pycache__", "weights"),
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_contract_holds(checkout: Path) -> None:
    outcome = check(checkout)
    assert outcome.returncode == 0, outcome.stdout


@pytest.mark.parametrize("contract", PLANTED)
def test_a_planted_import_breaks_its_contract(contract: str, checkout: Path) -> None:
    file, line = PLANTED[contract]
    module = checkout / "src" / "maskloop" / file
    module.write_text(module.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    outcome = check(checkout, contract)
    assert outcome.returncode == 1, outcome.stdout + outcome.stderr
    assert "BROKEN" in outcome.stdout


def test_every_contract_has_a_planted_violation() -> None:
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert {c["id"] for c in settings["tool"]["importlinter"]["contracts"]} == set(PLANTED)


def loaded_after(code: str) -> set[str]:
    """Return the names of the modules that a fresh interpreter holds after `code`."""
    script = f"{code}\nimport sys; print('\\n'.join(sys.modules))"
    outcome = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(outcome.stdout.split())


def test_import_maskloop_pulls_no_submodule() -> None:
    assert {m for m in loaded_after("import maskloop") if m.startswith("maskloop.")} == set()


@pytest.mark.parametrize(
    "code",
    [
        "import maskloop; maskloop.load, maskloop.load_mask, maskloop.export, maskloop.correct",
        "import maskloop; maskloop.list_models(); maskloop.list_formats(); maskloop.list_tools()",
        "import maskloop.cli",
        "import maskloop.gui.contributions",
    ],
)
def test_viewing_correcting_and_listing_never_load_torch(code: str) -> None:
    assert "torch" not in loaded_after(code)


def test_every_public_name_exists() -> None:
    import maskloop

    missing = [name for name in maskloop.__all__ if not hasattr(maskloop, name)]
    assert missing == []

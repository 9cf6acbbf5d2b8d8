"""Fixtures for every room: real data where it lies, a home of its own for each run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Shared and busy machines miss any deadline; the same examples each run keep a red check red.
settings.register_profile("maskloop", deadline=None, derandomize=True)
settings.load_profile("maskloop")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real scans and pictures; the test is skipped where it is absent."""
    folder = Path(os.environ.get("MASKLOOP_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "MANIFEST.tsv").is_file():
        pytest.skip(f"real data not found at {folder}; set MASKLOOP_TEST_DATA to its folder")
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test its own model folder and cache, so that none touches the user's."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("MASKLOOP_HOME", str(folder))
    return folder

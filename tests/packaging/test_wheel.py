"""The wheel, installed by itself into a fresh environment, carries the whole plugin."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

PROBE = """
import json, sys
from npe2 import PluginManifest
results = [r for r in PluginManifest.discover() if r.manifest is not None]
found = next(r for r in results if r.manifest.name == "napari-maskloop")
manifest = found.manifest
parts = manifest.contributions
print(json.dumps({
    "file": str(found.distribution.locate_file("maskloop")),
    "version": manifest.package_version,
    "readers": [r.command for r in parts.readers],
    "writers": [w.command for w in parts.writers],
    "samples": [s.key for s in parts.sample_data],
    "widgets": [w.display_name for w in parts.widgets],
    "torch": "torch" in sys.modules,
    "napari": "napari" in sys.modules,
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "-o", folder, ROOT],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interpreter of a fresh environment that holds only our wheel and borrows the rest."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    found = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", found, "install", "-q", "--no-deps", wheel],
        check=True,
        capture_output=True,
    )
    # The dependencies come from the running environment: a second torch would cost gigabytes.
    # Files of our own checkout must not come with them, so the path file names site-packages only.
    import npe2

    here = Path(npe2.__file__).parents[1]
    site = subprocess.run(
        [found, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (Path(site) / "zz_borrowed.pth").write_text(f"{here}\n", encoding="utf-8")
    return found


def test_wheel_holds_manifest_types_catalogue_and_weights(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "maskloop/napari.yaml",
        "maskloop/py.typed",
        "maskloop/models/catalogue.json",
        "maskloop/models/weights/nuclei.safetensors",
        "maskloop/models/weights/phantom-liver.safetensors",
    ):
        assert wanted in names
    assert not [n for n in names if n.startswith(("tests/", "docs/", "sample_data/"))]


def test_wheel_stays_below_fifteen_megabytes(wheel: Path) -> None:
    assert wheel.stat().st_size < 15e6


def test_fresh_environment_finds_readers_writers_samples_and_widget(python: Path) -> None:
    outcome = subprocess.run(
        [python, "-I", "-c", PROBE], check=True, capture_output=True, text=True
    )
    found = json.loads(outcome.stdout)
    assert Path(found["file"]).is_relative_to(python.parents[1])
    assert found["readers"]
    assert found["writers"]
    assert len(found["samples"]) >= 2
    assert found["widgets"] == ["maskloop"]
    assert not found["torch"]
    assert not found["napari"]


def test_fresh_environment_has_the_command(python: Path) -> None:
    outcome = subprocess.run(
        [python.parent / "maskloop", "--help"], check=True, capture_output=True, text=True
    )
    for verb in ("predict", "correct", "export", "train"):
        assert verb in outcome.stdout


def test_metadata_names_napari_and_no_qt_binding(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    metadata = archive.read(name).decode()
    assert "Classifier: Framework :: napari" in metadata
    assert "License-Expression: BSD-3-Clause" in metadata
    core = [
        line
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]
    assert not [line for line in core if "qt" in line.lower() or "pyside" in line.lower()]
    assert not [line for line in core if "napari" in line.lower()]

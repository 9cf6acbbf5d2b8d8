"""The manifest says nothing that napari or npe2 would drop in silence."""

from __future__ import annotations

import importlib
import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from napari._app_model.constants import MenuId
from npe2 import PluginManifest
from npe2.manifest.contributions import ContributionPoints

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "src" / "maskloop" / "napari.yaml"


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def referred(node: Any) -> set[str]:
    """Return every command id that some contribution names."""
    if isinstance(node, dict):
        own = {node["command"]} if "command" in node else set()
        return own.union(*(referred(v) for v in node.values()))
    if isinstance(node, list):
        return set().union(*(referred(v) for v in node))
    return set()


def test_npe2_takes_it_with_its_imports() -> None:
    found = PluginManifest.from_file(FILE)
    found.validate_imports()
    assert found.name == "napari-maskloop"


def test_every_key_is_one_that_npe2_reads(manifest: dict[str, Any]) -> None:
    assert set(manifest) <= set(PluginManifest.model_fields)
    assert set(manifest["contributions"]) <= set(ContributionPoints.model_fields)
    parsed = PluginManifest.from_file(FILE).contributions.model_dump(exclude_unset=True)
    for kind in ("commands", "readers", "writers", "widgets", "sample_data"):
        for given, kept in zip(manifest["contributions"][kind], parsed[kind], strict=True):
            assert set(given) <= set(kept), kind


def test_every_command_is_declared_once_used_and_importable(manifest: dict[str, Any]) -> None:
    commands = manifest["contributions"]["commands"]
    ids = [c["id"] for c in commands]
    assert len(ids) == len(set(ids))
    rest = {k: v for k, v in manifest["contributions"].items() if k != "commands"}
    assert referred(rest) == set(ids)
    for command in commands:
        assert command["id"].startswith(f"{manifest['name']}.")
        module, _, name = command["python_name"].partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_menus_exist_in_napari(manifest: dict[str, Any]) -> None:
    assert set(manifest["contributions"]["menus"]) <= {str(m.value) for m in MenuId}


def test_the_name_is_that_of_the_distribution(manifest: dict[str, Any]) -> None:
    points = importlib.metadata.entry_points(group="napari.manifest")
    ours = [p for p in points if p.value == "maskloop:napari.yaml"]
    assert ours[0].dist is not None
    assert manifest["name"] == ours[0].name == ours[0].dist.name


def test_the_file_at_the_root_is_the_packages_own() -> None:
    assert (ROOT / "napari.yaml").resolve() == FILE.resolve()


def test_the_icon_lies_in_the_package(manifest: dict[str, Any]) -> None:
    package, _, name = manifest["icon"].partition(":")
    assert (ROOT / "src" / package.replace(".", "/") / name).is_file()


def test_no_reader_claims_every_gzip(manifest: dict[str, Any]) -> None:
    for reader in manifest["contributions"]["readers"]:
        assert "*.gz" not in reader["filename_patterns"]
        assert "*" not in reader["filename_patterns"]

"""A real window with our panel in it, and models that answer at once."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("QT_API", "pyside6")
os.environ.setdefault("LIBGL_ALWAYS_SOFTWARE", "1")

from maskloop.models import FAMILIES
from tests.gui.fake_family import save_fake

_DONE_MS = 180_000


@pytest.fixture(scope="package", autouse=True)
def quick_collections() -> Iterator[None]:
    """Keep what the tests before these left out of the many collections that napari asks for."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep napari's settings out of the user's."""
    folder = tmp_path_factory.mktemp("napari")
    monkeypatch.setenv("NAPARI_CONFIG", str(folder / "settings.yaml"))


@pytest.fixture
def fake_models(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that puts a fake model into the menu."""
    monkeypatch.setitem(FAMILIES.entries, "fake", "tests.gui.fake_family:FAMILY")
    monkeypatch.setitem(FAMILIES.entries, "likely", "tests.gui.fake_family:LIKELY")

    def add(name: str, **options: Any) -> None:
        save_fake(tmp_path, name, **options)

    return add


@pytest.fixture
def window(make_napari_viewer: Any, fake_models: Callable[..., None]) -> Iterator[Any]:
    """Return (viewer, panel), the panel opened through the plugin manager as a person does."""
    fake_models("fake3d", ndim=3)
    fake_models("fake2d", ndim=2)
    viewer = make_napari_viewer()
    _, panel = viewer.window.add_plugin_dock_widget("napari-maskloop", "maskloop")
    yield viewer, panel
    if panel.host.run is not None:
        panel.host.stop()


@pytest.fixture
def settle(qtbot: Any) -> Callable[[Any], None]:
    """Return a function that waits until the panel's task has ended."""

    def wait(panel: Any) -> None:
        qtbot.waitUntil(lambda: not panel.host.is_busy, timeout=_DONE_MS)

    return wait

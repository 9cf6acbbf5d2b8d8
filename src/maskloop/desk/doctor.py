"""Say what works on this machine, and the exact command that repairs what does not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

_PACKAGES = (
    "napari-maskloop", "numpy", "scipy", "scikit-image", "nibabel", "pydicom", "torch",
    "torchvision", "connected-components-3d", "edt", "fill-voids", "napari", "PySide6",
    "PySide6_Essentials", "PyQt6", "PyQt5",
)  # fmt: skip
_LOW_SPACE = 2_000_000_000


def doctor() -> dict[str, Any]:  # Any: plain JSON values
    """Return what this machine has; touches no network.

    Returns
    -------
    dict
        ``maskloop python executable platform processors memory_bytes packages device window
        storage is_offline problems``. ``device`` is that of `maskloop.ops.device.describe`;
        ``problems`` are rows of ``problem`` and ``fix`` (what to run or do), none if all is well.
    """
    from maskloop.ops.device import describe

    device = describe()
    window = _window()
    storage = _storage()
    problems = [
        {"problem": problem, "fix": fix}
        for problem, fix in (
            (device["problem"], device["fix"]),
            (window["problem"], window["fix"]),
            *((place["problem"], place["fix"]) for place in storage.values()),
        )
        if problem
    ]
    packages = {name: _version(name) for name in _PACKAGES}
    return {
        "maskloop": packages["napari-maskloop"] or "not installed as a package",
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "memory_bytes": _memory(),
        "packages": {name: version for name, version in packages.items() if version},
        "device": device,
        "window": window,
        "storage": storage,
        "is_offline": bool(os.environ.get("MASKLOOP_OFFLINE")),
        "problems": problems,
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None


def _window() -> dict[str, Any]:  # Any: plain JSON values
    """Return whether napari and a Qt binding are installed, importing neither."""
    napari = _version("napari")
    names = ("PySide6", "PyQt6", "PyQt5")
    binding = next((name for name in names if importlib.util.find_spec(name) is not None), None)
    display = (
        platform.system() != "Linux"
        or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
        or os.environ.get("QT_QPA_PLATFORM", "") in ("offscreen", "minimal", "vnc")
    )
    problem = fix = None
    if napari is None or binding is None:
        absent = " and ".join(
            word for word, there in (("napari", napari), ("a Qt binding", binding)) if there is None
        )
        problem = f"the window needs {absent}"
        fix = f"{sys.executable} -m pip install 'napari-maskloop[all]'"
    return {
        "napari": napari,
        "qt": binding,
        "has_display": display,
        "problem": problem,
        "fix": fix,
    }


def _storage() -> dict[str, dict[str, Any]]:  # Any: plain JSON values
    """Return where models, weights and temporary files lie, their size, and the room left."""
    from maskloop.models.cards import home, models_folder
    from maskloop.models.weights import weights_folder

    places = {
        "home": home(),
        "models": models_folder(),
        "weights": weights_folder(),
        "temporary": Path(tempfile.gettempdir()),
    }
    return {name: _place(path, is_ours=name != "temporary") for name, path in places.items()}


def _place(path: Path, *, is_ours: bool) -> dict[str, Any]:  # Any: plain JSON values
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    is_writable = there.is_dir() and os.access(there, os.W_OK)
    free = shutil.disk_usage(there).free
    problem = fix = None
    if not is_writable:
        problem = f"{there} cannot be written"
        fix = f"make it writable, or set MASKLOOP_HOME to a folder that is (chmod u+w {there})"
    elif free < _LOW_SPACE:
        problem = f"only {free / 1e9:.1f} GB are free at {there}"
        fix = "free some space, or set MASKLOOP_HOME to a larger disk"
    return {
        "path": str(path),
        "size_bytes": _size(path) if is_ours else None,
        "is_writable": is_writable,
        "free_bytes": free,
        "problem": problem,
        "fix": fix,
    }


def _size(folder: Path) -> int:
    files = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    return sum(file.lstat().st_size for file in files)

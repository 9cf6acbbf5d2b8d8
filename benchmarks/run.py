"""Run every benchmark in turn and write the table of results with date and versions.

Each `bench_*.py` beside this file prints its own Markdown section: ours and its peers, interleaved
in one process, medians of at least five rounds, and the ratio that counts.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
_NAMES = (
    "start", "nifti", "dicom", "coco", "ops", "tools", "draw", "case", "stroke",
    "forward", "patchnet", "instances", "click",
)  # fmt: skip
SECTIONS = tuple(f"bench_{name}" for name in _NAMES)
LONG = ("bench_liver",)  # minutes each, and needs fetched weights and a real CT
PACKAGES = (
    "torch", "torchvision", "numpy", "scipy", "scikit-image", "monai", "nibabel", "SimpleITK",
    "pycocotools", "napari", "pydicom", "pynrrd", "highdicom", "isal", "deflate", "edt",
    "connected-components-3d",
)  # fmt: skip


def versions() -> str:
    """Return one line that says on what the figures were taken."""
    found = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in PACKAGES)
    return (
        f"{datetime.date.today().isoformat()}, {os.cpu_count()} cores ({platform.machine()}), "
        f"{platform.system()}, Python {platform.python_version()}; {found}."
    )


def main(names: list[str]) -> int:
    """Run the named sections (all quick ones by default); return 1 if one failed."""
    text = ["# Benchmarks", "", "`make bench` writes this file. " + versions(), ""]
    text += [
        "Wall seconds on a small shared machine say little by themselves: read the ratios. Every",
        "contender of a table ran in turn in the same process; figures are medians.",
        "",
    ]
    failed = False
    for name in names or SECTIONS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        outcome = subprocess.run(
            [sys.executable, HERE / f"{name}.py"], capture_output=True, text=True, check=False
        )
        if outcome.returncode:
            failed = True
            print(outcome.stderr, file=sys.stderr)
            text += [f"## {name}", "", "failed to run; see the console", ""]
        else:
            text += [outcome.stdout.strip(), ""]
    if not names:
        (HERE / "RESULTS.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""How long people wait before anything happens: import and --help."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 5


def seconds(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    python = sys.executable
    command = str(Path(python).with_name("maskloop"))
    contenders = {
        "python -c pass (floor)": (python, "-c", "pass"),
        "import maskloop": (python, "-c", "import maskloop"),
        "maskloop --help": (command, "--help"),
        "maskloop models": (command, "models"),
        "import nibabel": (python, "-c", "import nibabel"),
        "import torch": (python, "-c", "import torch"),
    }
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, parts in contenders.items():
            taken[name].append(seconds(*parts))
    floor = statistics.median(taken["python -c pass (floor)"])
    print("## Start\n")
    print("| what | wall s | above the floor, ms | target |")
    print("|---|---|---|---|")
    targets = {"import maskloop": "< 50 ms", "maskloop --help": "< 300 ms in all"}
    for name, values in taken.items():
        middle = statistics.median(values)
        print(f"| {name} | {middle:.3f} | {(middle - floor) * 1e3:.0f} | {targets.get(name, '')} |")


if __name__ == "__main__":
    main()

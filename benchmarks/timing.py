"""Time contenders in turn, in one process, and print a table of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

ROUNDS = 5
SAMPLED = "(100 timed, x5)"
Work = Callable[[], object]


def measured(contenders: dict[str, Work], rounds: int = ROUNDS) -> dict[str, tuple[float, float]]:
    """Return median wall and CPU seconds of each, run in turn; the first round only warms up."""
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    processor: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, work in contenders.items():
            began, used = time.perf_counter(), time.process_time()
            work()
            if number:
                wall[name].append(time.perf_counter() - began)
                processor[name].append(time.process_time() - used)
    return {n: (statistics.median(wall[n]), statistics.median(processor[n])) for n in contenders}


def table(title: str, contenders: dict[str, Work], base: str, target: str) -> None:
    found = measured(contenders)
    for name in found:
        if name.endswith(SAMPLED):
            found[name] = (5 * found[name][0], 5 * found[name][1])
    print(f"\n### {title}\n\nTarget: {target}\n")
    print(f"| what | wall s | CPU s | CPU ratio to {base} |\n|---|---|---|---|")
    for name, (wall, processor) in found.items():
        print(f"| {name} | {wall:.4f} | {processor:.4f} | {processor / found[base][1]:.4f} |")

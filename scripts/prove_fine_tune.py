"""Show that a few corrected cases teach `phantom-liver` the small lesions it misses.

    python scripts/prove_fine_tune.py --out docs/reference

Twelve phantoms of a "new scanner" (many lesions of 6 to 16 mm) stand for corrected cases; `train`
holds four out. Prints both scores and the time, and draws the learning curve as fine-tune.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from maskloop.core.job import Job, Progress
from maskloop.loop.train import TrainingReport, train
from maskloop.ops.phantom import phantom_ct

if TYPE_CHECKING:
    from maskloop.core.image import Image
    from maskloop.core.mask import Mask

SEED = 40_000  # phantom-liver was trained on seeds from 10000 and measured on seeds from 90000


def corrected_case(seed: int) -> tuple[Image, Mask]:
    return phantom_ct(
        seed, shape=(64, 80, 80), spacing=(3.0, 3.0, 3.0), lesions=(8, 14), diameters_mm=(6.0, 16.0)
    )


def draw(report: TrainingReport, path: Path) -> None:
    """Write the learning curve as SVG: loss as a line, held-out Dice as dots."""
    wide, high, left, foot = 640, 300, 50, 40
    steps = report.curve[-1].step
    top = max(p.loss for p in report.curve)

    def at(step: float, value: float) -> str:
        x = left + (wide - left - 10) * step / steps
        return f"{x:.1f},{10 + (high - foot - 10) * (1 - value):.1f}"

    def line(values: list[tuple[int, float]], colour: str) -> str:
        points = " ".join(at(s, v) for s, v in values)
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'

    smooth, parts = report.curve[0].loss, []
    for point in report.curve:
        smooth = 0.9 * smooth + 0.1 * point.loss
        parts.append((point.step, smooth / top))
    body = [line(parts, "#999999")]
    for name, colour in (("liver", "#e69f00"), ("tumour", "#0072b2")):
        seen = [(p.step, p.held_out[name]) for p in report.curve if name in p.held_out]
        if report.old is not None:
            seen.insert(0, (0, report.old[name]))
        body.append(line(seen, colour))
        body.extend(
            '<circle cx="{}" cy="{}" r="4" fill="{}"/>'.format(*at(s, v).split(","), colour)
            for s, v in seen
        )
        x, y = at(*seen[-1]).split(",")
        body.append(
            f'<text x="{float(x) - 8}" y="{float(y) + 18}" text-anchor="end" fill="{colour}">'
            f"{name}: held-out Dice {seen[0][1]:.2f} to {seen[-1][1]:.2f}</text>"
        )
    for value in (0.0, 0.5, 1.0):
        x, y = at(0, value).split(",")
        body.append(f'<text x="{float(x) - 8}" y="{float(y) + 4}" text-anchor="end">{value}</text>')
    x, y = at(steps, 0).split(",")
    body.append(f'<text x="{x}" y="{float(y) + 24}" text-anchor="end">step {steps}</text>')
    x, y = at(0, 0).split(",")
    body.append(f'<text x="{x}" y="{float(y) + 24}" fill="#777777">grey: training loss</text>')
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" '
        f'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>'
        + "".join(body)
        + "</svg>\n",
        encoding="utf-8",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--base", default="phantom-liver")
    parser.add_argument("--out", type=Path, default=None, help="folder for the figure")
    options = parser.parse_args()
    start, last = time.perf_counter(), 0.0

    def show(progress: Progress) -> None:
        nonlocal last
        if time.perf_counter() - last > 15 or "held_out" in progress.note:
            last = time.perf_counter()
            print(f"{last - start:5.0f} s", progress, flush=True)

    with tempfile.TemporaryDirectory() as home:
        os.environ["MASKLOOP_HOME"] = home
        cases = [corrected_case(SEED + i) for i in range(options.cases)]
        began, used = time.perf_counter(), time.process_time()
        report = train(cases, options.base, "new-scanner", steps=options.steps, job=Job(show))
        found = report.to_json()
        if options.out is not None:
            draw(report, options.out / "fine-tune.svg")
    keys = ("old", "new", "measure", "verdict", "reasons", "held_out", "steps")
    print(
        json.dumps(
            {k: found[k] for k in keys}
            | {
                "seconds": round(time.perf_counter() - began),
                "cpu_seconds": round(time.process_time() - used),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()

"""Liver and tumours in a real CT: the recipe's tiling and a plain network against ours.

Needs the folder of real data (MASKLOOP_TEST_DATA, or ../shared/data beside the checkout). The tiles
of both tilings are taken by turns; a stage's time is the median tile times the number of tiles.
``--whole`` runs every tile of both tilings once and compares the results (a quarter of an hour).
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from maskloop.core.job import Job
from maskloop.loop.load import load, load_mask
from maskloop.models import cards, liver, weights
from maskloop.models.liver import FAMILY, Scan
from maskloop.models.livernets import LiverTumour, quick_lesions
from maskloop.ops.device import CPU

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = tuple(t - 2 * m for t, m in zip(liver.LESION_TILE, liver.LESION_MARGIN, strict=True))
ROUNDS = 5


def recipe_starts(shape: Sequence[int]) -> list[tuple[int, ...]]:
    """Return where the authors' tiling puts its outputs: steps of one output, then one at the end.

    The last step overshoots and one more tile ends flush, so an axis takes one tile too many.
    """
    axes = []
    for n, out in zip(shape, OUTPUT, strict=True):
        size = min(n, out)
        firsts = [*range(0, n, size), *([n - size] if n % size else [])]
        axes.append([math.ceil(f + (size - 1) / 2) - out // 2 for f in firsts])
    return list(itertools.product(*axes))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    wall, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - used


def row(name: str, tiles: int, times: list[tuple[float, float]], base: float) -> str:
    wall, used = (statistics.median(t[i] for t in times) for i in (0, 1))
    total = tiles * used
    return f"| {name} | {tiles} | {wall:.1f} | {used:.1f} | {total:.0f} | {total / base:.3f} |"


def series(folder: Path, room: Path) -> Path:
    import zipfile

    with zipfile.ZipFile(folder / "PATIENT_DICOM.zip") as archive:
        archive.extractall(room)
    return next(p.parent for p in sorted(room.rglob("image_0")))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def whole(
    name: str,
    scan: Scan,
    region: np.ndarray,
    truth: np.ndarray,
    view: liver.LesionView,
    tiles: Sequence[tuple[int, ...]],
    run: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    chance = np.zeros(view.data.shape, np.float32)
    used = time.process_time()
    for start in tiles:
        tile = torch.from_numpy(liver.cut_tile(view.data, start))[None, None]
        liver.put_tile(chance, torch.sigmoid(run(tile))[0, 0].numpy(), start)
    used = time.process_time() - used
    fine = np.zeros(view.grid, np.float32)
    fine[view.inner] = chance > 0.5
    shape = region[view.box].shape
    found = np.zeros(region.shape, bool)
    fine = liver.resample(fine, liver.LESION_SPACING, scan.spacing, shape, area=False)
    found[view.box] = fine > 1e-6
    print(
        f"- {name}, {len(tiles)} tiles run: {used:.0f} CPU s, tumour Dice "
        f"{dice(found, truth == 2):.4f}, liver Dice {dice(found | region, truth > 0):.4f}"
    )


def main() -> None:
    data = Path(os.environ.get("MASKLOOP_TEST_DATA", ROOT.parent / "shared" / "data"))
    folder = data / "ct_liver" / "ircadb17"
    if not folder.is_dir():
        print(f"## Liver and tumours\n\nNot run: no real CT at {folder}.")
        return
    card = cards.find_card("liver-tumour")
    files = weights.fetch(card, source=data / "weights" / "pyliverlesionseg")
    ours = FAMILY.load(card, files)
    plain = LiverTumour()
    plain.load_state_dict(ours.state_dict())
    plain.eval()
    assert isinstance(ours, LiverTumour)
    with tempfile.TemporaryDirectory() as room:
        scan = Scan.of(load(series(folder, Path(room))), card)
    mask = load_mask(folder / "labels.nii.gz")
    axes, flips = mask.geometry.towards("SAR")
    truth = np.flip(mask.data.transpose(axes), [a for a, flip in enumerate(flips) if flip])

    def eager(part: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        def run(tile: torch.Tensor) -> torch.Tensor:
            with torch.inference_mode():
                return part(tile)

        return run

    def fast(tile: torch.Tensor) -> torch.Tensor:
        return quick_lesions(ours.lesions, tile)

    found: list[np.ndarray] = []
    stage = timed(
        lambda: found.append(
            liver.find_liver(ours.liver, scan, tile=liver.LIVER_TILE, device=CPU, job=Job())
        )
    )
    region = found[0]
    view = liver.lesion_view(scan, region)
    recipe, cover = recipe_starts(view.data.shape), liver.cover(view.liver, OUTPUT)
    liver_tile = torch.zeros(1, 1, *liver.LIVER_TILE)
    liver_tile[:, :, 49:113, 30:133, 40:150] = torch.rand(64, 103, 110) - 0.5

    contenders = {
        "liver net, plain": (1, lambda _: eager(plain.liver)(liver_tile)),
        "liver net, ours": (1, lambda _: eager(ours.liver)(liver_tile)),
        "lesion net, plain port of the recipe": (len(recipe), eager(plain.lesions)),
        "lesion net, the recipe's tiles, channels last": (len(recipe), eager(ours.lesions)),
        "lesion net, our tiles, plain network": (len(cover), eager(plain.lesions)),
        "lesion net, ours": (len(cover), fast),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for number in range(ROUNDS):
        for name, (tiles, run) in contenders.items():
            if name.startswith("liver") and number > 2:
                continue
            starts = recipe if tiles == len(recipe) else cover
            start = starts[number * len(starts) // ROUNDS]
            tile = torch.from_numpy(liver.cut_tile(view.data, start))[None, None]
            times[name].append(timed(lambda run=run, tile=tile: run(tile)))  # type: ignore[misc]  # bound now
    print("## Liver and tumours\n")
    print(
        f"IRCADb 17, 119 x 512 x 512, {torch.get_num_threads()} threads. The whole liver stage "
        f"(search, 3 mm, median, net, back): {stage[0]:.1f} s wall, {stage[1]:.1f} CPU s; liver "
        f"Dice {dice(region, truth > 0):.4f}. Target: faster at equal Dice.\n"
    )
    print("| what | tiles | wall s a tile | CPU s a tile | CPU s in all | ratio |")
    print("|---|---|---|---|---|---|")
    for name, (tiles, _) in contenders.items():
        first = "liver net, plain" if name.startswith("liver") else list(contenders)[2]
        base = contenders[first][0] * statistics.median(t[1] for t in times[first])
        print(row(name, tiles, times[name], base))
    if "--whole" in sys.argv:
        print()
        for name, starts, run in (("ours", cover, fast), ("recipe", recipe, eager(ours.lesions))):
            whole(name, scan, region, truth, view, starts, run)


if __name__ == "__main__":
    main()

"""A case of 10,000 strokes on a large volume: its journal, its opening, undo of a model's mask."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from maskloop.core.case import Case
from maskloop.core.geometry import Geometry
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask

SHAPE = (600, 512, 512)
STROKES = 10_000
MOVES = 30


def disc(radius: int) -> np.ndarray:
    """Return a disc of pixels."""
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return rows**2 + columns**2 <= radius**2


def stroke(case: Case, random: np.random.Generator, shape: np.ndarray, number: int) -> None:
    """Paint one stroke of 30 moves with a brush of diameter 40, as the window does."""
    half = shape.shape[0] // 2
    begin = random.uniform((100, 100), (400, 400))
    path = np.cumsum(random.normal(0, 6, (MOVES, 2)), axis=0) + begin
    path = np.clip(path, half + 1, 510 - half).astype(int)
    low, high = path.min(axis=0) - half, path.max(axis=0) + half + 1
    at = int(random.integers(SHAPE[0]))
    box = (slice(at, at + 1), slice(low[0], high[0]), slice(low[1], high[1]))
    wanted = case.mask.data[box].copy()
    for row, column in path - low:
        part = wanted[0, row - half : row + half + 1, column - half : column + half + 1]
        part[shape] = 1 + number % 2
    case.change(wanted, box=box, tool="brush", words="brush: tumour", kind="person")


def main() -> None:
    random = np.random.default_rng(0)
    labels = LabelTable.classes(["liver", "tumour"])
    empty = Mask(np.zeros(SHAPE, np.uint8), Geometry.regular(SHAPE, (1.0, 0.8, 0.8)), labels)
    shape = disc(20)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "ct.maskloop"
        case = Case.create(folder, empty, author="anna", in_background=True)
        taken = []
        for number in range(STROKES):
            began = time.perf_counter()
            stroke(case, random, shape, number)
            taken.append(time.perf_counter() - began)
            if number % 50 == 0:
                case.flush()  # a person pauses; without it the disk is never waited for at all
        case.flush()
        plain = (folder / "journal").stat().st_size
        expected = case.mask.data.copy()
        case.compact()
        compacted = (folder / "journal").stat().st_size
        case.close()
        whole = sum(file.stat().st_size for file in folder.iterdir())
        opened = []
        for _ in range(3):
            began = time.perf_counter()
            again = Case.open(folder)
            opened.append(time.perf_counter() - began)
            is_same = np.array_equal(again.mask.data, expected)
            again.close()
        if not is_same:
            raise SystemExit("the case opened with other bytes than it was left with")
        case = Case.in_memory(empty)
        model = np.zeros(SHAPE, np.uint8)
        model[200:360, 150:330, 120:340] = 1
        model[240:260, 180:230, 180:220] = 2
        began = time.perf_counter()
        edit = case.change(model, tool="net", kind="model", author="net").edit
        written = time.perf_counter() - began
        began = time.perf_counter()
        case.undo()
        undone = time.perf_counter() - began
    print("## A case on 512x512x600, 10,000 strokes of 30 moves with a brush of 40\n")
    print("| what | figure | target |\n|---|---|---|")
    middle, slow = statistics.median(taken), sorted(taken)[int(0.95 * len(taken))]
    print(f"| one stroke kept, median / p95 | {middle * 1e3:.2f} / {slow * 1e3:.2f} ms | |")
    print(f"| journal as written | {plain / 1e6:.1f} MB, {plain / STROKES:.0f} bytes a stroke | |")
    print(f"| journal compacted | {compacted / 1e6:.1f} MB | < 20 MB |")
    print(f"| the whole case folder | {whole / 1e6:.1f} MB | |")
    print(f"| opening it, median of 3 | {statistics.median(opened):.2f} s | < 3 s |")
    print(f"| a model's mask of {edit.voxels / 1e6:.1f} M voxels: kept | {written:.2f} s | |")
    print(f"| its record | {edit.nbytes / 1e3:.0f} KB | <= 1 MB |")
    print(f"| its undo | {undone:.2f} s | |")


if __name__ == "__main__":
    main()

"""Measure the draft that `lesion` makes of a long axis, on real tumours and on phantoms.

python scripts/prove_lesion.py [FOLDER of real data, ../shared/data by default]

The tool sees the image and two points; the truth gives the points and judges the draft.
"""

from __future__ import annotations

import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist, squareform

from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.loop.correct import correct
from maskloop.loop.load import load, load_mask
from maskloop.ops import components
from maskloop.ops.phantom import nuclei_picture, phantom_ct
from maskloop.ops.scores import dice

ROOT = Path(__file__).resolve().parents[1]
SEEDS = range(400, 412)  # none of them was looked at while the method was made
JITTER_MM = (1.0, 2.0, 3.0, 5.0)
TRIES = 25


@dataclass(frozen=True)
class Case:
    """A true object and its long axis: the longest diameter within one slice of all slices."""

    name: str
    image: Image
    truth: np.ndarray
    line: np.ndarray  # (2, ndim), in array index order

    @property
    def length(self) -> float:
        """Length of the long axis, in the unit of the grid."""
        return float(np.linalg.norm((self.line[1] - self.line[0]) * self.image.geometry.spacing))


def long_axis(truth: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Return the ends of the longest in-plane diameter over the slices of the first axis."""
    best, found = -1.0, np.zeros((2, truth.ndim))
    planes = [((), truth)] if truth.ndim == 2 else [((k,), plane) for k, plane in enumerate(truth)]
    for number, plane in planes:
        corners = np.argwhere(plane)
        if not len(corners):
            continue
        try:
            corners = corners[ConvexHull(corners).vertices]
        except (QhullError, ValueError):
            corners = corners[[0, -1]]  # a single row of pixels
        gaps = squareform(pdist(corners * np.asarray(spacing[-2:])))
        one, other = np.unravel_index(gaps.argmax(), gaps.shape)
        if gaps[one, other] > best:
            best = gaps[one, other]
            found = np.array([[*number, *corners[one]], [*number, *corners[other]]], dtype=float)
    return found


def case_of(name: str, image: Image, truth: np.ndarray) -> Case:
    return Case(name, image, truth, long_axis(truth, image.geometry.spacing))


def ircadb(data: Path) -> list[Case]:
    """Return the two tumours of 3D-IRCADb 17, drawn by radiologists."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(data / "ct_liver/ircadb17/PATIENT_DICOM.zip") as packed:
            packed.extractall(folder)
        image = load(folder)
        mask = load_mask(data / "ct_liver/ircadb17/labels.nii.gz", image=image)
        pieces, _ = components.label(mask.data == 2)
        cases = [case_of(f"IRCADb 17, tumour {k}", image, pieces == k) for k in (1, 2)]
        return [
            Case(c.name, Image(np.array(image.data), image.geometry), c.truth, c.line)
            for c in cases
        ]


def lits(data: Path) -> list[Case]:
    """Return the pieces of tumour of LiTS 117 above 300 voxels; its spacing is not known."""
    image = load(data / "ct_liver/lits117_128/img_117.nii.gz")
    mask = load_mask(data / "ct_liver/lits117_128/lab_117.nii.gz", image=image)
    pieces, count = components.label(mask.data == 2, connectivity=6)
    sizes = components.sizes(pieces, count)
    large = [k for k in range(1, count + 1) if sizes[k] > 300]
    return [case_of(f"LiTS 117, piece {k}", image, pieces == k) for k in large]


def phantoms() -> list[Case]:
    """Return the lesions of 8 mm and above of phantoms, a quarter of them faint."""
    found = []
    for seed in SEEDS:
        image, mask = phantom_ct(
            seed,
            shape=(90, 180, 180),
            spacing=(2.5, 1.6, 1.6),
            lesions=(2, 5),
            diameters_mm=(10, 60),
        )
        pieces, count = components.label(mask.data == 2)
        found += [case_of(f"phantom {seed}", image, pieces == k) for k in range(1, count + 1)]
    return [case for case in found if case.length >= 8]


def nuclei() -> list[Case]:
    """Return nuclei of drawn pictures: the same tool in two dimensions."""
    found = []
    for seed in range(400, 404):
        image, mask = nuclei_picture(seed)
        grey = image if not image.has_channels else image.channel(0)
        found += [case_of(f"picture {seed}", grey, mask.data == k) for k in mask.ids()[:12]]
    return [case for case in found if case.length >= 8]


def drafted(case: Case, line: np.ndarray) -> tuple[float, float]:
    """Return the Dice of the draft and the processor seconds that the whole step took."""
    empty = Mask.like(case.image, np.zeros(case.truth.shape, np.uint8), LabelTable())
    begun = time.process_time()
    done = correct(
        empty, "lesion", image=case.image, label="tumour", parameters={"line": line.tolist()}
    )
    spent = time.process_time() - begun
    return float(dice(done.mask.data > 0, case.truth) or 0.0), spent


def jittered(case: Case, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Return the line with both ends moved within the slice, by a Gaussian in mm an axis."""
    spacing = np.asarray(case.image.geometry.spacing)
    moves = rng.normal(0, deviation, (2, len(spacing))) / spacing
    moves[:, : len(spacing) - 2] = 0
    limit = np.asarray(case.truth.shape) - 1
    return np.clip(case.line + moves, 0, limit)


def row(name: str, values: list[float]) -> str:
    ordered = np.sort(values)
    enough = 100 * float((ordered >= 0.8).mean())
    shown = (ordered.min(), np.quantile(ordered, 0.1), np.median(ordered), ordered.max())
    return f"| {name} | {len(values)} | {' | '.join(f'{v:.3f}' for v in shown)} | {enough:.0f} % |"


HEAD = (
    "| what | lines | least | 10 % below | median | most | 0.8 or more |\n"
    "|---|---|---|---|---|---|---|"
)


def main(arguments: list[str]) -> int:
    """Print the tables; return 1 if a tumour of IRCADb 17 stays below a Dice of 0.8."""
    data = Path(arguments[0]) if arguments else ROOT.parent / "shared" / "data"
    rng, failed = np.random.default_rng(0), False
    groups = {"phantoms": phantoms(), "drawn nuclei, 2D": nuclei()}
    if (data / "MANIFEST.tsv").is_file():
        real = ircadb(data)
        print("| true long axis | length, mm | Dice | processor seconds |\n|---|---|---|---|")
        drafted(real[0], real[0].line)  # the first run also imports what it needs
        for case in real:
            found, spent = drafted(case, case.line)
            failed |= found < 0.8
            print(f"| {case.name} | {case.length:.1f} | {found:.3f} | {spent:.2f} |", flush=True)
        print(f"\nDice with both ends moved by a Gaussian in the slice\n\n{HEAD}")
        for case in real:
            for deviation in JITTER_MM:
                lines = [jittered(case, deviation, rng) for _ in range(TRIES)]
                name = f"{case.name}, SD {deviation:g} mm"
                print(row(name, [drafted(case, line)[0] for line in lines]), flush=True)
        groups["LiTS 117"] = lits(data)
    print(f"\nDice on other objects, from their true axes and with ends moved by 5 %\n\n{HEAD}")
    for name, cases in groups.items():
        print(row(name, [drafted(case, case.line)[0] for case in cases]), flush=True)
        moved = [drafted(c, jittered(c, 0.05 * c.length, rng))[0] for c in cases]
        print(row(f"{name}, ends moved", moved), flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

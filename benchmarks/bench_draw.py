"""Answers of the image-guided tools on a cube of 128, beside what scikit-image and SciPy take."""

from __future__ import annotations

import os
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "2")
warnings.simplefilter("ignore")  # peers' deprecations

import numpy as np  # noqa: E402
import timing  # noqa: E402

from maskloop.core.geometry import Geometry  # noqa: E402
from maskloop.core.image import Image  # noqa: E402
from maskloop.core.mask import Mask  # noqa: E402
from maskloop.ops.scores import dice  # noqa: E402
from maskloop.tools.lesion import lesion  # noqa: E402
from maskloop.tools.region import region  # noqa: E402
from maskloop.tools.seeds import seeds  # noqa: E402
from maskloop.tools.walker import walker  # noqa: E402

SIDE, RADIUS = 128, 35
MIDDLE = (64, 64, 60)


def scene() -> tuple[Image, Mask, np.ndarray]:
    """A ball of 60 in 110 with noise of 15, a scribble (1) in it and one (2) beside it."""
    axes = np.ogrid[:SIDE, :SIDE, :SIDE]
    true = sum((a - m) ** 2 for a, m in zip(axes, MIDDLE, strict=True)) <= RADIUS**2
    noise = np.random.default_rng(0).normal(0, 15, true.shape)
    pixels = (np.where(true, 60, 110) + noise).astype(np.int16)
    image = Image(pixels, Geometry.regular(true.shape, (1.0, 1.0, 1.0)))
    ids = np.zeros(true.shape, np.uint8)
    ids[64, 60:68, 40:80], ids[64, 20:24, 20:100] = 1, 2
    return image, Mask.like(image, ids, ["lesion", "rest"]), true


def main() -> None:
    from scipy import ndimage
    from skimage.segmentation import flood, random_walker, watershed

    image, mask, true = scene()
    empty = Mask(np.zeros_like(mask.data), mask.geometry, mask.labels)
    line = ((64, 64, 60 - RADIUS), (64, 64, 60 + RADIUS))
    smooth = ndimage.gaussian_filter(image.data.astype(np.float32), 1)

    def cut(method: str) -> np.ndarray:
        return walker(mask, image, label=1, within=60.0, method=method) == 1

    def grown() -> np.ndarray:
        found = region(empty, image, label=1, points=(MIDDLE,), upper=85.0, within=50.0, blur=1.0)
        return found == 1

    def theirs_grown() -> np.ndarray:
        found = ndimage.gaussian_filter(image.data.astype(np.float32), 1)
        return flood((found <= 85).astype(np.uint8), MIDDLE)

    def theirs_flood() -> np.ndarray:
        return watershed(ndimage.gaussian_gradient_magnitude(smooth, 1), mask.data) == 1

    def theirs_walk() -> np.ndarray:
        half = image.data.reshape(64, 2, 64, 2, 64, 2).mean(axis=(1, 3, 5))
        marks = mask.data.reshape(64, 2, 64, 2, 64, 2).max(axis=(1, 3, 5)).astype(int)
        return random_walker(half, marks, beta=130, mode="cg_j", tol=1e-3) == 1

    ours = {
        "lesion from its long axis": lambda: lesion(empty, image, label=1, line=line) == 1,
        "region": grown,
        "seeds": lambda: seeds(mask, image, label=1, within=60.0) == 1,
        "walker, cut": lambda: cut("cut"),
        "walker, walks": lambda: cut("walker"),
    }
    theirs = {
        "scikit-image flood after the same blur": theirs_grown,
        "scikit-image watershed": theirs_flood,
        "scikit-image random_walker, half resolution": theirs_walk,
    }
    print("## Drawing guided by the image")
    timing.table(
        "A ball of radius 35 in a cube of 128, one answer",
        {**ours, **theirs},
        "scikit-image watershed",
        "walker < 0.1 s on a quiet machine, all others < 1 s",
    )
    scores = {name: dice(work(), true) for name, work in ours.items()}
    print("\nDice: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))


if __name__ == "__main__":
    main()

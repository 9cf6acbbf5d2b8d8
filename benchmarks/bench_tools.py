"""Pieces, holes, distances, slices between and whole tools on a CT-sized mask, with their peers."""

from __future__ import annotations

import importlib.util
import itertools
import os
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "2")
warnings.simplefilter("ignore")  # peers' deprecations

import numpy as np  # noqa: E402
import timing  # noqa: E402

SHAPE = (300, 512, 512)
SPACING = (1.0, 0.8, 0.8)
SCIPY = "scipy"


def ball(shape: tuple[int, ...], middle: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    parts = zip(axes, middle, radii, strict=True)
    return sum(((axis - m) / r) ** 2 for axis, m, r in parts) < 1


def liver_with_lesions() -> np.ndarray:
    """A liver of 90x130x120 voxels half width, 20 lesions in it, a hole and some specks."""
    rng = np.random.default_rng(0)
    ids = ball(SHAPE, (150, 250, 230), (90, 130, 120)).astype(np.uint8)
    for _ in range(20):
        z, y, x = rng.integers((100, 180, 170), (200, 320, 300))
        ids[z : z + 9, y : y + 14, x : x + 12] = 2
    ids[150, 250, 120:130] = 0
    ids[20:24, 60:64, 60:64] = 1
    return ids


def pieces(ids: np.ndarray) -> None:
    import cc3d
    from scipy import ndimage
    from skimage.measure import label

    from maskloop.ops import components

    lesions, organ = ids == 2, ids == 1
    whole = np.ones((3, 3, 3))
    timing.table(
        "Connected components of 20 lesions, 300x512x512, 26 neighbours",
        {
            "ours": lambda: components.label(lesions),
            SCIPY: lambda: ndimage.label(lesions, whole),
            "scikit-image": lambda: label(lesions, connectivity=3),
            "cc3d": lambda: cc3d.connected_components(lesions, connectivity=26, binary_image=True),
        },
        SCIPY,
        "<= 0.2 of scipy",
    )

    def scipy_largest() -> np.ndarray:
        found, _ = ndimage.label(organ, whole)
        return found == 1 + np.bincount(found.ravel())[1:].argmax()

    timing.table(
        "Keep the largest piece of the liver, 300x512x512",
        {
            "ours": lambda: components.largest(organ),
            SCIPY: scipy_largest,
            "cc3d.largest_k": lambda: cc3d.largest_k(organ, k=1, connectivity=26),
        },
        SCIPY,
        "<= 0.2 of scipy, <= 0.5 of cc3d",
    )
    same = (components.largest(organ) == scipy_largest()).all()
    print(f"\nSame voxels as scipy's: {bool(same)}")


def holes(ids: np.ndarray) -> None:
    import fill_voids
    from scipy import ndimage

    from maskloop.ops import components

    organ = ids == 1
    timing.table(
        "Fill the holes of the liver, 300x512x512",
        {
            "ours": lambda: components.fill_holes(organ),
            SCIPY: lambda: ndimage.binary_fill_holes(organ),
            "fill_voids": lambda: fill_voids.fill(organ),
        },
        SCIPY,
        "<= 0.02 of scipy, <= 0.11 of fill_voids",
    )
    same = (components.fill_holes(organ) == ndimage.binary_fill_holes(organ)).all()
    print(f"\nSame voxels as scipy's: {bool(same)}")


def distances() -> None:
    import edt
    from scipy import ndimage

    from maskloop.ops import regions

    organ = ball((210, 320, 320), (100, 160, 150), (70, 110, 105))
    field = np.zeros(SHAPE, bool)
    field[:210, :320, :320] = organ
    timing.table(
        "Distance to the surface of a liver of 140x220x210 in 210x320x320",
        {
            "ours": lambda: regions.depth(organ, SPACING),
            "ours, the same in 300x512x512": lambda: regions.depth(field, SPACING),
            SCIPY: lambda: ndimage.distance_transform_edt(organ, sampling=SPACING),
            "edt, 1 thread": lambda: edt.edt(organ, anisotropy=SPACING),
        },
        SCIPY,
        "<= 0.017 of scipy, <= 0.65 of edt",
    )


def whole_frames(ids: np.ndarray) -> np.ndarray:
    """Fill between slices as napari-label-interpolator does: signed distances of whole frames."""
    import edt

    found = ids.copy()
    held = [z for z, frame in enumerate(ids) if frame.any()]
    signed = {z: edt.sdf(ids[z] == 1) for z in held}
    for a, b in itertools.pairwise(held):
        for z in range(a + 1, b):
            share = (z - a) / (b - a)
            found[z][signed[a] * (1 - share) + signed[b] * share > 0] = 1
    return found


def between() -> None:
    from maskloop.core.geometry import Geometry
    from maskloop.core.image import Image
    from maskloop.core.mask import Mask
    from maskloop.loop.correct import prepare
    from maskloop.tools.interpolate import interpolate

    def drawn(frame: int) -> np.ndarray:
        true = ball((41, frame, frame), (20, 250, 260), (24, 110, 115))
        ids = np.zeros(true.shape, np.uint8)
        ids[::5] = true[::5]
        return ids

    def mask_of(ids: np.ndarray) -> Mask:
        grid = Geometry.regular(ids.shape, (5.0, 1.0, 1.0))
        return Mask.like(Image(ids, grid), ids, ["liver"])

    small, large = mask_of(drawn(512)), mask_of(drawn(1024))
    boxes = [prepare(mask, "interpolate", label=1).work for mask in (small, large)]
    base = "signed distances of whole frames"
    contenders = {
        "ours": lambda: interpolate(small, label=1),
        "ours, on the box that `correct` cuts": boxes[0].run,
        "the same of frames of 1024x1024": boxes[1].run,
        base: lambda: whole_frames(small.data),
    }
    if importlib.util.find_spec("napari_label_interpolator"):
        from napari_label_interpolator.interpolator import interpolate_sdf

        base = "napari-label-interpolator"
        contenders[base] = lambda: interpolate_sdf(small.data)
    timing.table(
        "Fill between slices, 41x512x512, every 5th given, one label",
        contenders,
        base,
        "<= 0.2, better 0.067 of napari-label-interpolator; <= 0.010 s",
    )
    same = (interpolate(small, label=1) == whole_frames(small.data)).mean()
    print(f"\nShare of voxels as from whole frames: {same:.8f}")


def tools(ids: np.ndarray) -> None:
    """Time each tool as a person meets it: on one lesion of a case, one step in its history."""
    from maskloop.core.case import Case
    from maskloop.core.geometry import Geometry
    from maskloop.core.image import Image
    from maskloop.core.labels import Label, LabelTable
    from maskloop.core.mask import Mask
    from maskloop.loop.correct import correct

    image = Image(np.zeros(SHAPE, np.int16), Geometry.regular(SHAPE, SPACING))
    ids = ids.copy()
    ids[140:160, 240:262, 220:240] = 3
    ids[150, 250, 225:235] = 0
    rows = [Label(1, "liver"), Label(2, "vessel"), Label(3, "lesion")]
    case = Case.in_memory(Mask.like(image, ids, LabelTable(rows)))
    at = ((150, 245, 225),)
    chosen: dict[str, dict[str, object]] = {
        "grow": {"margin": 3.0},
        "holes": {},
        "islands": {},
        "smooth": {},
        "hollow": {"where": "outside"},
        "split": {"parts": 2},
        "interpolate": {"every": 3},
        "copy_slice": {"at": at, "slices": 3},
        "logic": {"other": "liver", "operation": "intersect", "margin": 2.0},
        "relabel": {"at": at},
        "delete": {},
    }

    def step(name: str, values: dict[str, object]) -> None:
        correct(case, name, image=image, label="lesion", parameters=values)
        case.undo()

    found = timing.measured(
        {name: lambda n=name, v=values: step(n, v) for name, values in chosen.items()}
    )
    print("\n### One tool on one lesion of 20x22x20 in 300x512x512, with its undo\n")
    print("| tool | wall ms | CPU ms |\n|---|---|---|")
    for name, (wall, processor) in found.items():
        print(f"| {name} | {wall * 1e3:.1f} | {processor * 1e3:.1f} |")


def main() -> None:
    print("## Tools")
    ids = liver_with_lesions()
    tools(ids)
    between()
    pieces(ids)
    holes(ids)
    distances()


if __name__ == "__main__":
    main()

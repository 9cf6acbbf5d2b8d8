"""Tiling, resampling, components and scores against their peers, in one process."""

from __future__ import annotations

import functools
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch

warnings.simplefilter("ignore")  # peers' deprecations

ROUNDS = 5
Contender = Callable[[], object]


def table(
    title: str,
    contenders: dict[str, Contender],
    *,
    targets: dict[str, str] | None = None,
    overhead_of: str | None = None,
    rounds: int = ROUNDS,
) -> None:
    """Print medians of wall and CPU seconds, and wall ratios to the first contender (ours)."""
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            start, busy = time.perf_counter(), time.process_time()
            run()
            if number:  # the first round warms up
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - busy)
    ours = next(iter(contenders))
    print(f"\n### {title}\n")
    print("| what | wall s | CPU s | ours / it, wall | ours / it, CPU | target |")
    print("|---|---|---|---|---|---|")

    def cost(values: dict[str, list[float]], name: str) -> float:
        lists = values[name], values[overhead_of] if overhead_of else [0.0] * rounds
        return statistics.median(a - b for a, b in zip(*lists, strict=True))

    for name in contenders:
        ratios = [
            "-" if name in (ours, overhead_of) else f"{cost(v, ours) / cost(v, name):.3f}"
            for v in (wall, cpu)
        ]
        middle = [f"{statistics.median(v[name]):.4f}" for v in (wall, cpu)]
        print(f"| {name} | {' | '.join(middle + ratios)} | {(targets or {}).get(name, '')} |")
    if overhead_of:
        print(f"\nRatios are of what is left after taking off {overhead_of!r}, round by round.")
    sys.stdout.flush()


def extra_mib(run: Contender) -> float:
    """Return the peak resident memory above the start of a call (Linux)."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key + ":"))


def _monai_labels(volume: torch.Tensor, net: torch.nn.Module, tile: int, batch: int) -> np.ndarray:
    from monai.inferers import sliding_window_inference

    with torch.inference_mode():
        found = sliding_window_inference(
            volume[None], tile, batch, net, overlap=0.5, mode="gaussian"
        )
        return found[0].argmax(0).to(torch.uint8).numpy()


def _bare(volume: torch.Tensor, net: torch.nn.Module, tile: int, batch: int) -> None:
    """Call the network once per window of the same grid, and nothing else."""
    from maskloop.ops.tiling import Windows

    ndim = volume.ndim - 1
    windows = Windows.over(volume.shape[1:], (tile,) * ndim, overlap=0.5, margin=(0,) * ndim)
    one = volume[(slice(None), *(slice(0, tile),) * ndim)]
    full = torch.stack([one] * batch).contiguous()
    with torch.inference_mode():
        left = len(windows)
        while left > 0:
            net(full[: min(batch, left)])
            left -= batch


def sliding() -> None:
    from monai.networks.nets import UNet

    from maskloop.ops.tiling import predict_labels

    torch.manual_seed(0)
    volume = torch.randn(1, 144, 288, 288)
    point = torch.nn.Conv3d(1, 3, 1).eval()
    ours = functools.partial(predict_labels, tile=(96,) * 3, classes=3)
    table(
        "Stitching: 1x1x1 network, 3 classes, 144x288x288, windows of 96, overlap 0.5",
        {
            "ours": lambda: ours(volume, point),
            "MONAI sliding_window_inference": lambda: _monai_labels(volume, point, 96, 1),
            "bare network": lambda: _bare(volume, point, 96, 1),
        },
        overhead_of="bare network",
        targets={"MONAI sliding_window_inference": "<= 0.05"},
    )
    unet = UNet(3, 1, 3, (16, 32, 64, 128), (2, 2, 2), norm="INSTANCE").eval()
    small = torch.randn(1, 72, 96, 96)
    equal = predict_labels(
        small, unet, tile=(48,) * 3, classes=3, batch=4, weights="monai"
    ) == _monai_labels(small, unet, 48, 4)
    table(
        "A small real U-Net: 72x96x96, windows of 48, overlap 0.5",
        {
            "ours, batch 4": lambda: predict_labels(
                small, unet, tile=(48,) * 3, classes=3, batch=4
            ),
            "bare network, batch 4": lambda: _bare(small, unet, 48, 4),
            "MONAI, batch 4": lambda: _monai_labels(small, unet, 48, 4),
            "MONAI, batch 1": lambda: _monai_labels(small, unet, 48, 1),
        },
        targets={"bare network, batch 4": "<= 1.08", "MONAI, batch 4": "<= 0.85"},
        rounds=7,
    )
    print(f"\nShare of voxels with MONAI's label, with MONAI's weights: {equal.mean():.6f}")


def memory() -> None:
    from maskloop.ops.tiling import predict_labels

    point = torch.nn.Conv3d(1, 3, 1).eval()
    volume = torch.zeros(1, 300, 512, 512)
    small = torch.zeros(1, 128, 128, 128)
    predict_labels(small, point, tile=(128,) * 3, classes=3)
    _monai_labels(small, point, 128, 1)
    print(
        "\n### Peak memory from a 300x512x512 volume to its label map (3 classes, windows of 128)\n"
    )
    print("| what | extra MiB | wall s, one run | target |")
    print("|---|---|---|---|")
    for name, run, target in (
        ("ours", lambda: predict_labels(volume, point, tile=(128,) * 3, classes=3), "<= 420"),
        ("MONAI sliding_window_inference", lambda: _monai_labels(volume, point, 128, 1), ""),
    ):
        start = time.perf_counter()
        found = extra_mib(run)
        print(f"| {name} | {found:.0f} | {time.perf_counter() - start:.1f} | {target} |")
    sys.stdout.flush()


def _organ(shape: tuple[int, int, int]) -> np.ndarray:
    z, y, x = np.ogrid[tuple(slice(0, n) for n in shape)]
    middle = [n / 2 for n in shape]
    ids = np.zeros(shape, np.uint8)

    def ball(offset: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
        parts = zip((z, y, x), middle, offset, radii, strict=True)
        return sum(((a - m - o * 2 * m) / (r * m)) ** 2 for a, m, o, r in parts) < 1

    ids[ball((0, 0, 0), (0.8, 0.7, 0.65))] = 1
    ids[ball((0.05, -0.1, 0.1), (0.2, 0.2, 0.2))] = 2
    return ids


def resampling() -> None:
    import SimpleITK as sitk
    from scipy import ndimage
    from skimage.transform import resize

    from maskloop.core.geometry import Geometry
    from maskloop.core.image import Image
    from maskloop.ops import resample

    interpolate = torch.nn.functional.interpolate
    old, new = (80, 200, 200), (133, 104, 104)
    hu = np.random.default_rng(0).integers(-1000, 1000, old).astype(np.int16)
    image = Image(hu, Geometry.regular(old, (1.0, 1.0, 1.0)))
    spacing = tuple(a / b for a, b in zip(old, new, strict=True))
    zoom = [b / a for a, b in zip(old, new, strict=True)]
    itk = sitk.GetImageFromArray(hu)

    def itk_linear() -> np.ndarray:
        return _itk(itk, new, spacing, sitk.sitkLinear)

    table(
        "Linear resampling of int16 pixels, 80x200x200 to 133x104x104",
        {
            "ours": lambda: resample.image(image, spacing),
            "torch trilinear": lambda: interpolate(
                torch.from_numpy(hu).float()[None, None], size=new, mode="trilinear"
            ),
            "SimpleITK linear": itk_linear,
            "scipy zoom order 1": lambda: ndimage.zoom(
                hu, zoom, order=1, mode="nearest", grid_mode=True
            ),
            "skimage resize order 1": lambda: resize(hu, new, order=1, preserve_range=True),
        },
        targets={"torch trilinear": "<= 0.5", "SimpleITK linear": "<= 0.2"},
    )
    ids, fine = _organ((120, 160, 160)), (120, 320, 320)
    one_hot = functools.partial(torch.nn.functional.one_hot, num_classes=3)

    def torch_labels() -> np.ndarray:
        maps = one_hot(torch.from_numpy(ids).long()).movedim(-1, 0)[None].float()
        return interpolate(maps, size=fine, mode="trilinear")[0].argmax(0).to(torch.uint8).numpy()

    def skimage_labels() -> np.ndarray:
        maps = [resize((ids == i).astype(np.float32), fine, order=1) for i in range(3)]
        return np.stack(maps).argmax(0).astype(np.uint8)

    labels = sitk.GetImageFromArray(ids)
    half = tuple(a / b for a, b in zip(ids.shape, fine, strict=True))
    table(
        "Labels by linear vote, 120x160x160 to 120x320x320, 3 classes",
        {
            "ours": lambda: resample.labels(ids, fine),
            "torch one-hot + argmax": torch_labels,
            "SimpleITK LabelLinear": lambda: _itk(labels, fine, half, sitk.sitkLabelLinear),
            "skimage, one map a class": skimage_labels,
        },
        targets={"skimage, one map a class": "<= 0.011", "SimpleITK LabelLinear": "<= 0.077"},
    )
    agree = (resample.labels(ids, fine) == torch_labels()).mean()
    print(f"\nShare of voxels with torch's label: {agree:.8f}")
    big, classes = (120, 256, 256), 8
    organ = _organ((96, 160, 160))
    raw = np.stack(
        [ndimage.gaussian_filter((organ == i).astype(np.float32), 2) for i in range(classes)]
    ) * 8 + np.random.default_rng(0).normal(0, 0.05, (classes, *organ.shape)).astype(np.float32)
    raw = raw.astype(np.float32)

    def torch_scores() -> np.ndarray:
        found = interpolate(torch.from_numpy(raw)[None], size=big, mode="trilinear")[0]
        return found.argmax(0).to(torch.uint8).numpy()

    table(
        "Class scores to labels on a finer grid, 8 classes, 96x160x160 to 120x256x256",
        {"ours": lambda: resample.scores(raw, big), "torch trilinear + argmax": torch_scores},
        targets={"torch trilinear + argmax": "<= 0.033"},
    )
    agree = (resample.scores(raw, big) == torch_scores()).mean()
    print(f"\nShare of voxels with torch's label: {agree:.8f}")


def _itk(image: object, shape: tuple[int, ...], steps: tuple[float, ...], how: int) -> np.ndarray:
    import SimpleITK as sitk

    filt = sitk.ResampleImageFilter()
    filt.SetInterpolator(how)
    filt.SetSize(shape[::-1])
    filt.SetOutputSpacing(steps[::-1])
    filt.SetOutputOrigin([(s - 1) / 2 for s in steps[::-1]])
    return sitk.GetArrayFromImage(filt.Execute(image))


def regions() -> None:
    from scipy import ndimage
    from skimage.measure import label, regionprops

    from maskloop.core.geometry import Geometry
    from maskloop.core.image import Image
    from maskloop.core.mask import Mask
    from maskloop.ops import components, measure, scores

    rng = np.random.default_rng(0)
    ids = np.zeros((150, 512, 512), np.uint8)
    ids[30:130, 120:400, 90:330] = 1
    for _ in range(20):
        z, y, x = rng.integers((35, 130, 100), (115, 380, 310))
        ids[z : z + 9, y : y + 12, x : x + 11] = 2
    mask = Mask.like(Image(ids, Geometry.regular(ids.shape, (2, 0.8, 0.8))), ids, ["liver", "t"])
    table(
        "Volumes of every lesion of a class map, 150x512x512",
        {
            "ours": lambda: measure.pieces(mask, 2),
            "skimage label + regionprops": lambda: [
                r.area for r in regionprops(label(ids == 2, connectivity=3))
            ],
        },
        targets={"skimage label + regionprops": "<= 0.05"},
    )
    organ = ids == 1

    def scipy_largest() -> np.ndarray:
        found, _ = ndimage.label(organ, np.ones((3, 3, 3)))
        return found == 1 + np.bincount(found.ravel())[1:].argmax()

    table(
        "Keep the largest piece, 150x512x512",
        {"ours": lambda: components.largest(organ), "scipy label + bincount": scipy_largest},
    )
    table(
        "Fill holes, 150x512x512",
        {
            "ours": lambda: components.fill_holes(organ),
            "scipy binary_fill_holes": lambda: ndimage.binary_fill_holes(organ),
        },
        targets={"scipy binary_fill_holes": "<= 0.02"},
    )
    a, b = ids[25:125], np.roll(ids[25:125], 3, axis=2)

    def numpy_dice() -> list[float]:
        return [2 * ((a == i) & (b == i)).sum() / ((a == i).sum() + (b == i).sum()) for i in (1, 2)]

    table(
        "Dice of two classes, 100x512x512",
        {"ours": lambda: scores.joint_counts(a, b), "numpy, a class at a time": numpy_dice},
        targets={"numpy, a class at a time": "<= 0.25"},
    )
    _surfaces()


def _surfaces() -> None:
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    from maskloop.core.geometry import Geometry
    from maskloop.core.image import Image
    from maskloop.core.mask import Mask
    from maskloop.ops import scores

    real = (_organ((155, 215, 260)) > 0).astype(np.uint8)
    moved = np.roll(real, (2, 3, -4), axis=(0, 1, 2))
    grid, spacing = Geometry.regular(real.shape, (2.5, 0.78, 0.78)), (2.5, 0.78, 0.78)
    ours = [Mask.like(Image(m, grid), m, ["liver"]) for m in (moved, real)]
    theirs = [torch.from_numpy(np.stack([m == 0, m == 1])[None]) for m in (moved, real)]

    def monai() -> tuple[float, float]:
        options = {"include_background": False, "spacing": spacing}
        hd95 = compute_hausdorff_distance(*theirs, percentile=95, **options)
        return float(hd95), float(compute_surface_dice(*theirs, class_thresholds=[2.0], **options))

    table(
        "HD95 and surface Dice of a liver, 155x215x260",
        {"ours": lambda: scores.score_masks(*ours), "MONAI": monai},
        targets={"MONAI": "<= 0.25"},
    )
    row = scores.score_masks(*ours)[0]
    print(f"\nours {row.hd95:.4f} mm, {row.nsd:.4f}; MONAI {monai()[0]:.4f} mm, {monai()[1]:.4f}")


def main() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    print("## Operations")
    for section in (sliding, resampling, regions, memory):
        section()


if __name__ == "__main__":
    main()

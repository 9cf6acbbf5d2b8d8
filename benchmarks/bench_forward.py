"""What families add to their networks; the tiling and resampling of pictures and volumes."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import warnings

import numpy as np
import torch
from bench_ops import _bare, _monai_labels, extra_mib, table

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.models import FAMILIES
from maskloop.models.cards import ModelCard
from maskloop.ops.device import CPU
from maskloop.ops.tiling import Windows

warnings.simplefilter("ignore")  # peers' deprecations

# family, variant, width, input: narrow enough that a round takes about a second on one core
NETWORKS = (
    ("patchnet", "n4", 0.25, (157, 157)),
    ("fcn", "8s", 0.125, (128, 128)),
    ("segnet", "vgg16", 0.25, (192, 192)),
    ("unet", "2015", 0.25, (316, 316)),
    ("deeplab", "xception65", 0.25, (257, 257)),
    ("unet", "residual3d", 8, (48, 48, 48)),
)


def card_of(family: str, variant: str, width: float, **told: object) -> ModelCard:
    """Return a narrow card of two classes besides the background."""
    card = FAMILIES.get(family).card(variant, LabelTable.classes(["a", "b"]))
    return dataclasses.replace(card, parameters={**card.parameters, "width": width, **told})


def forward() -> None:
    """Time a family's scores of a batch against its modules called bare on the same batch."""
    print("\n### One pass: a family's scores against its bare modules\n\nTarget: ratio <= 1.05")
    for name, variant, width, size in NETWORKS:
        family, card = FAMILIES.get(name), card_of(name, variant, width)
        torch.manual_seed(0)
        network = family.build(card).eval()
        images = torch.randn(1, card.channels, *size)

        def ours(
            family: object = family, network: object = network, images: object = images
        ) -> None:
            with torch.inference_mode():
                family.logits(network, images)  # type: ignore[attr-defined]

        def bare(network: object = network, images: object = images) -> None:
            with torch.inference_mode():
                network(images)  # type: ignore[operator]

        shape = "x".join(map(str, size))
        table(
            f"{name} {variant}, width {width:g}, {shape}",
            {"ours": ours, "bare modules": bare},
            targets={"bare modules": "<= 1.05"},
        )


def whole_job() -> None:
    """Time a picture and a volume to labels against the network on the same windows."""
    for name, variant, width, shape, tile in (
        ("segnet", "vgg16", 0.25, (480, 640), (256, 256)),
        ("unet", "residual3d", 8, (64, 96, 96), (48, 48, 48)),
    ):
        family = FAMILIES.get(name)
        card = card_of(name, variant, width, tile=tile, whole=0, overlap=0.5, batch=4)
        torch.manual_seed(0)
        network = family.build(card).eval()
        data = np.random.default_rng(0).normal(size=(card.channels, *shape)).astype(np.float32)
        volume = torch.from_numpy(data)
        count = len(Windows.over(shape, tile, overlap=0.5, margin=(0,) * len(shape)))
        told = "x".join(map(str, shape))
        infer = functools.partial(family.infer, network, data, card=card, device=CPU, job=Job())
        table(
            f"{name} {variant}, {told} to labels, {count} windows of {tile[0]}, overlap 0.5",
            {
                "ours": infer,
                "bare network on the windows": lambda: _bare(volume, network, tile[0], 4),  # noqa: B023  (called now)
                "MONAI, batch 4": lambda: _monai_labels(volume, network, tile[0], 4),  # noqa: B023
            },
            targets={"bare network on the windows": "<= 1.08", "MONAI, batch 4": "<= 0.85"},
        )


def stitching() -> None:
    """Time the stitching of a picture, the network's own time taken off."""
    from maskloop.ops.tiling import predict_labels

    torch.manual_seed(0)
    picture = torch.randn(1, 3000, 4000)
    point = torch.nn.Conv2d(1, 3, 1).eval()
    ours = functools.partial(predict_labels, tile=(512, 512), classes=3)
    table(
        "Stitching: 1x1 network, 3 classes, 3000x4000, windows of 512, overlap 0.5",
        {
            "ours": lambda: ours(picture, point),
            "MONAI sliding_window_inference": lambda: _monai_labels(picture, point, 512, 1),
            "bare network": lambda: _bare(picture, point, 512, 1),
        },
        overhead_of="bare network",
        targets={"MONAI sliding_window_inference": "<= 0.05"},
    )


def resampling() -> None:
    """Time the resampling of a picture, of its labels and of its scores."""
    from maskloop.ops import resample

    interpolate = functools.partial(torch.nn.functional.interpolate, mode="bilinear")
    old, new = (1500, 2000), (2100, 1400)
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 4096, old).astype(np.int16)
    image = Image(grey, Geometry.pixels(old))
    step = tuple(a / b for a, b in zip(old, new, strict=True))
    table(
        "Linear resampling of int16 pixels, 1500x2000 to 2100x1400",
        {
            "ours": lambda: resample.image(image, step),
            "torch bilinear": lambda: interpolate(
                torch.from_numpy(grey).float()[None, None], size=new
            ),
        },
        targets={"torch bilinear": "<= 0.5"},
    )
    y, x = np.ogrid[: old[0], : old[1]]
    ids = np.zeros(old, np.uint8)
    for number in range(60):
        at, radius = rng.integers((0, 0), old), rng.integers(20, 90)
        ids[(y - at[0]) ** 2 + (x - at[1]) ** 2 < radius**2] = 1 + number % 2
    fine = (3000, 4000)

    def torch_labels() -> np.ndarray:
        maps = torch.nn.functional.one_hot(torch.from_numpy(ids).long()).movedim(-1, 0)
        found = interpolate(maps[None].float(), size=fine)[0]
        return found.argmax(0).to(torch.uint8).numpy()

    table(
        "Labels by linear vote, 1500x2000 to 3000x4000, 3 classes",
        {
            "ours": lambda: resample.labels(ids, fine),
            "torch one-hot + argmax": torch_labels,
        },
        targets={"torch one-hot + argmax": "<= 0.077"},
    )
    scores = np.stack([(ids == i) * 8.0 for i in range(3)]).astype(np.float32)
    scores += rng.normal(0, 0.05, scores.shape).astype(np.float32)

    def torch_scores() -> np.ndarray:
        found = interpolate(torch.from_numpy(scores)[None], size=fine)[0]
        return found.argmax(0).to(torch.uint8).numpy()

    table(
        "Class scores to labels on a finer grid, 3 classes, 1500x2000 to 3000x4000",
        {"ours": lambda: resample.scores(scores, fine), "torch bilinear + argmax": torch_scores},
        targets={"torch bilinear + argmax": "<= 0.033"},
    )


def large_picture() -> None:
    """Measure the memory that a picture of 4000x3000 takes, by tiles of the unpadded U-Net."""
    family, card = FAMILIES.get("unet"), card_of("unet", "2015", 0.0625)
    torch.manual_seed(0)
    network = family.build(card).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (4000, 3000), dtype=np.uint8)
    print("\n### Peak memory of a 4000x3000 picture to labels, U-Net of 2015 at width 0.0625\n")
    print("| picture | extra MiB |\n|---|---|")
    for shape in ((1000, 750), (4000, 3000)):
        image = Image(np.ascontiguousarray(pixels[: shape[0], : shape[1]]), Geometry.pixels(shape))
        run = functools.partial(family.segment, network, image, card=card, device=CPU, job=Job())
        print(f"| {shape[0]}x{shape[1]} | {extra_mib(run):.0f} |")
        sys.stdout.flush()


def main() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    print("## Networks, in two and three dimensions")
    for section in (forward, whole_job, stitching, resampling, large_picture):
        section()


if __name__ == "__main__":
    main()

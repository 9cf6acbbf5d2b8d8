"""Networks of objects: Mask R-CNN beside torchvision alone, masks pasted, copies suppressed."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from timing import SAMPLED, table
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import box_iou

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.models.maskrcnn import FAMILY
from maskloop.models.pasting import View, from_boxes
from maskloop.models.solotargets import matrix_nms
from maskloop.models.yolactboxes import fast_nms
from maskloop.ops.device import choose

warnings.simplefilter("ignore")  # peers' deprecations
torch.set_num_threads(1)

SIDE = 512
OBJECTS = 500
PICTURE = (2048, 2048)


def scattered(
    count: int, size: tuple[int, int], side: tuple[int, int], *, overlap: float = 0.0
) -> Tensor:
    """Return boxes x0, y0, x1, y1 of whole pixels; a share of them moved copies of others."""
    random = np.random.default_rng(0)
    sides = random.integers(*side, (count, 2))
    corners = random.integers(0, np.array(size)[::-1] - sides)
    boxes = np.concatenate([corners, corners + sides], axis=1)
    copies = int(overlap * count)
    moved = boxes[random.integers(0, count - copies, copies)] + random.integers(-4, 5, (copies, 1))
    boxes[count - copies :] = moved.clip(0, min(size))
    return torch.from_numpy(boxes).float()


def maskrcnn() -> None:
    """Compare the network through us, to one id a pixel, with torchvision's own call."""
    torch.manual_seed(0)
    card = FAMILY.card("resnet50", LabelTable([Label(1, "cell", is_thing=True)]))
    # Weights are random: all scores are alike, and as many are kept as torchvision keeps.
    told = {"least_score": 0.05, "detections": 100, "window": 0}
    card = replace(card, parameters={**card.parameters, **told})
    network = FAMILY.build(card)
    network.transform.min_size, network.transform.max_size = (SIDE,), SIDE
    pixels = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8)
    image = Image(pixels, Geometry.pixels((SIDE, SIDE)), has_channels=True)
    picture = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    device = choose("cpu")

    def alone() -> int:
        with torch.inference_mode():
            (found,) = network([picture])
        return len(found["masks"] > 0.5)

    def ours() -> int:
        found = FAMILY.segment(network, image, card=card, device=device, job=Job())
        return len(found.objects or ())

    print(f"\nObjects found: {alone()} by torchvision, {ours()} through us.")
    table(
        f"Mask R-CNN, ResNet-50 FPN, {SIDE}x{SIDE}",
        {"ours, one id a pixel": ours, "torchvision, masks as large as the picture": alone},
        "torchvision, masks as large as the picture",
        "<= 1.03",
    )


def pasting() -> None:
    """Compare masks pasted in their boxes with masks pasted in full frames."""
    boxes = scattered(OBJECTS, PICTURE, (16, 96))
    masks = torch.rand(OBJECTS, 28, 28)
    view = View(torch.zeros(1, 1, *PICTURE), PICTURE, PICTURE)
    few = OBJECTS // 5
    same = paste_masks_in_image(masks[:few, None], boxes[:few], PICTURE)[:, 0] > 0.5
    for whole, part in zip(same.numpy(), from_boxes(masks[:few], boxes[:few], view), strict=True):
        assert part is not None
        assert np.array_equal(whole[part[0]], part[1])
        assert whole.sum() == part[1].sum()
    table(
        f"{OBJECTS} masks of 28x28 pasted at {PICTURE[0]}x{PICTURE[1]}",
        {
            "ours, in their boxes": lambda: from_boxes(masks, boxes, view),
            f"torchvision, full frames {SAMPLED}": lambda: (
                paste_masks_in_image(masks[:few, None], boxes[:few], PICTURE) > 0.5
            ),
        },
        f"torchvision, full frames {SAMPLED}",
        "<= 0.1",
    )


def matrix_in_turn(masks: Tensor, labels: Tensor, scores: Tensor, sigma: float = 2.0) -> Tensor:
    """Lower scores as Matrix NMS does, a pair at a time."""
    count = len(scores)
    iou = torch.zeros(count, count)
    for j in range(count):
        for i in range(j):
            if labels[i] == labels[j]:
                common = (masks[i] & masks[j]).sum()
                iou[i, j] = common / (masks[i] | masks[j]).sum().clamp(min=1)
    lowered = scores.clone()
    for j in range(count):
        for i in range(j):
            if labels[i] == labels[j]:
                covered = iou[:, i].max()
                decay = torch.exp(-sigma * (iou[i, j] ** 2 - covered**2))
                lowered[j] = min(lowered[j], scores[j] * decay)
    return lowered


def fast_in_turn(boxes: Tensor, labels: Tensor, most: float = 0.5) -> list[int]:
    """Keep boxes as Fast NMS does, a pair at a time; they come in order of score."""
    kept = []
    for j in range(len(boxes)):
        worst = 0.0
        for i in range(j):
            if labels[i] == labels[j]:
                worst = max(worst, float(box_iou(boxes[i : i + 1], boxes[j : j + 1])))
        if worst <= most:
            kept.append(j)
    return kept


def suppression() -> None:
    """Compare both ways to thin copies out with the same a pair at a time."""
    count, size = 150, (128, 128)
    boxes = scattered(count, size, (8, 40), overlap=0.5)
    labels = torch.arange(count) % 3
    scores = torch.linspace(0.9, 0.1, count)
    masks = torch.zeros(count, *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    torch.testing.assert_close(
        matrix_nms(masks, labels, scores), matrix_in_turn(masks, labels, scores)
    )
    assert fast_nms(boxes, scores, labels).tolist() == fast_in_turn(boxes, labels)
    table(
        f"Matrix NMS of {count} masks of {size[0]}x{size[1]}",
        {
            "ours, all pairs at once": lambda: matrix_nms(masks, labels, scores),
            "a pair at a time": lambda: matrix_in_turn(masks, labels, scores),
        },
        "a pair at a time",
        "<= 0.1",
    )
    table(
        f"Fast NMS of {count} boxes",
        {
            "ours, all pairs at once": lambda: fast_nms(boxes, scores, labels),
            "a pair at a time": lambda: fast_in_turn(boxes, labels),
        },
        "a pair at a time",
        "<= 0.1",
    )


if __name__ == "__main__":
    print("## Networks of objects")
    maskrcnn()
    pasting()
    suppression()

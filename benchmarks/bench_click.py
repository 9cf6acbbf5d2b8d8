"""A click on a 512x512 picture, as the window answers it; and what a click on all of it costs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import torch

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.models.adaptis import FAMILY
from maskloop.models.adaptisnet import AdaptIS, places_from
from maskloop.models.cards import ModelCard
from maskloop.ops import clicks
from maskloop.ops.device import CPU

SIDE, CLICKS, WHOLE = 512, 60, 4


def times(work: Callable[[int], object], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return wall and CPU milliseconds of each of `count` calls, after one that warms up."""
    work(0)
    wall, processor = [], []
    for number in range(count):
        began, used = time.perf_counter(), time.process_time()
        work(number)
        wall.append(1000 * (time.perf_counter() - began))
        processor.append(1000 * (time.process_time() - used))
    return np.array(wall), np.array(processor)


def card_of(**told: object) -> ModelCard:
    """Return the card of a toy network of the paper's width."""
    fresh = FAMILY.card("toy", LabelTable.classes(["nucleus"]))
    return dataclasses.replace(fresh, parameters={**fresh.parameters, **told})


def discs(real: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> Callable[..., object]:
    """Return a head that works as `real` does and answers with a disc of 12 pixels."""

    def answer(
        seen: object, which: torch.Tensor, points: torch.Tensor, *, side: int, reach: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits, starts = real(seen, which, points, side=side, reach=reach)
        size = (int(logits.shape[1]), int(logits.shape[2]))
        far = places_from(points, starts, size, stride=1, reach=1e4)[:, 2] * 1e4
        return torch.where(far < 12, 5.0, -5.0) + 0 * logits, starts

    return answer


def main() -> None:
    torch.manual_seed(0)
    network = FAMILY.build(card_of())
    assert isinstance(network, AdaptIS)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    image = Image(pixels, Geometry.pixels((SIDE, SIDE)), has_channels=True)
    points = rng.integers(0, SIDE, (CLICKS, 2)).tolist()
    print(f"## A click on a {SIDE}x{SIDE} picture: AdaptIS, the paper's toy network\n")
    print("Target: 95 of 100 clicks within 100 ms on two cores, the picture seen before.\n")
    print("| what | median ms | p95 ms | median CPU ms |\n|---|---|---|---|")

    def row(name: str, found: tuple[np.ndarray, np.ndarray]) -> None:
        wall, processor = found
        print(
            f"| {name} | {np.median(wall):.0f} | {np.percentile(wall, 95):.0f} | "
            f"{np.median(processor):.0f} |"
        )

    windowed = card_of(head_window=96, reach=48)
    sight = FAMILY.look(network, image, card=windowed, device=CPU, job=Job())
    # Random weights draw nothing or all: what the head says is computed, then replaced by a disc.
    network.objects_at = discs(network.objects_at)  # type: ignore[method-assign]

    def click(card: ModelCard) -> Callable[[int], object]:
        def work(number: int) -> object:
            y, x = points[number]
            found = FAMILY.answer(network, sight, (y, x), card=card)
            assert found is not None
            local = (y - found.box[0].start, x - found.box[1].start)
            return clicks.drawn(found.chances, found.threshold, local)

        return work

    row("a click, head in a 96-pixel window", times(click(windowed), CLICKS))
    wider = card_of(head_window=192, reach=48)
    row("a click, head in a 192-pixel window", times(click(wider), CLICKS))
    row("a click, head on the full frame", times(click(card_of(reach=48)), WHOLE))

    def look(_: int) -> object:
        return FAMILY.look(network, image, card=windowed, device=CPU, job=Job())

    row("the picture seen, once", times(look, 2))


if __name__ == "__main__":
    main()

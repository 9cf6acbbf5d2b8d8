"""Patch classification of one picture: the dense evaluation beside the paper's sliding window."""

from __future__ import annotations

import numpy as np
import torch
from timing import measured

from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.models.patchnet import FAMILY, PatchNet
from maskloop.ops.device import CPU

SIDE = 512
TIMED = 128  # windows of the sliding window that are timed; the picture has 512 x 512


def main() -> None:
    torch.manual_seed(0)
    card = FAMILY.card("n4", LabelTable.classes({1: "membrane"}))
    network = FAMILY.build(card).eval()
    assert isinstance(network, PatchNet)
    picture = np.random.default_rng(0).normal(size=(1, SIDE, SIDE)).astype(np.float32)
    rim = (network.window - 1) // 2
    mirrored = np.pad(picture, [(0, 0), (rim, rim), (rim, rim)], mode="reflect")
    whole = torch.from_numpy(mirrored)[None]
    strip = whole[:, :, : network.window, : network.window + TIMED - 1]

    @torch.inference_mode()
    def dense() -> torch.Tensor:
        return network(whole)

    @torch.inference_mode()
    def sliding() -> torch.Tensor:
        return network.sliding(strip, batch=TIMED)

    def tiled() -> np.ndarray:
        return FAMILY.scores(network, picture, card=card, device=CPU, job=Job())

    apart = float((dense()[:, :, :1, :TIMED] - sliding()).abs().max())
    seam = float(np.abs(dense()[0].numpy() - tiled()).max())
    names = ("dense, whole", "dense, by tiles as Predict does", "sliding window")
    found = measured(dict(zip(names, (dense, tiled, sliding), strict=True)))
    scale = SIDE * SIDE / TIMED
    found[names[2]] = (found[names[2]][0] * scale, found[names[2]][1] * scale)
    print(f"## Patch classification: N4 on a {SIDE}x{SIDE} picture\n")
    print("Target: dense in seconds, the same scores as the sliding window to 1e-5.\n")
    print("| what | wall s | CPU s | times the dense one, CPU |\n|---|---|---|---|")
    for name, (wall, processor) in found.items():
        print(f"| {name} | {wall:.2f} | {processor:.2f} | {processor / found[names[0]][1]:.2f} |")
    print(
        f"\nThe sliding window's row is {TIMED} windows times {scale:.0f}; the other two are whole."
    )
    print(f"Largest difference of scores: sliding to dense {apart:.1e}, tiles to whole {seam:.1e}.")


if __name__ == "__main__":
    main()

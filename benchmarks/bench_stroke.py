"""A brush stroke in a real napari window, with and without our journal listening."""

from __future__ import annotations

import os
import statistics
import time

import numpy as np

os.environ.setdefault("QT_API", "pyside6")
SHAPE = (300, 512, 512)
ROUNDS = 9


def stroke(layer: object, row: int) -> float:
    """Return the seconds that 30 dabs of radius 20 along one row take, as one undo step."""
    began = time.perf_counter()
    with layer.block_history():  # type: ignore[attr-defined]  # napari's layer
        for step in range(30):
            layer.paint((150, row, 40 + 10 * step), 1)  # type: ignore[attr-defined]  # ditto
    return time.perf_counter() - began


def main() -> None:
    import napari

    import maskloop
    from maskloop.gui import layers as gui_layers

    volume = np.zeros(SHAPE, np.int16)
    image = maskloop.Image(volume, maskloop.Geometry.regular(SHAPE, (1.0, 0.8, 0.8)))
    mask = maskloop.Mask.like(image, np.zeros(SHAPE, np.uint8), {1: "liver", 2: "tumour"})
    viewer = napari.Viewer(show=True)
    data, settings, _ = gui_layers.image_layers(image)[0]
    viewer.add_image(data, **settings)
    plain = viewer.add_labels(np.zeros(SHAPE, np.uint8), scale=(1.0, 0.8, 0.8))
    data, settings, _ = gui_layers.mask_layer(mask)
    ours = viewer.add_labels(data, **settings)
    for layer in (plain, ours):
        layer.brush_size = 40
    taken: dict[str, list[float]] = {"napari's own Labels": [], "our Labels layer": []}
    for round_ in range(ROUNDS):
        taken["napari's own Labels"].append(stroke(plain, 100 + 20 * round_))
        taken["our Labels layer"].append(stroke(ours, 100 + 20 * round_))
    viewer.close()
    base = statistics.median(taken["napari's own Labels"])
    print("## Brush stroke in napari, 30 dabs of radius 20 on 300x512x512\n")
    print("| what | ms a stroke | ms a dab | ratio |")
    print("|---|---|---|---|")
    for name, values in taken.items():
        middle = statistics.median(values)
        print(f"| {name} | {middle * 1e3:.1f} | {middle / 30 * 1e3:.2f} | {middle / base:.2f} |")


if __name__ == "__main__":
    main()

"""A brush stroke in a real napari window, with and without a case on disk behind it."""

from __future__ import annotations

import functools
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("QT_API", "pyside6")
SHAPE = (600, 512, 512)
ROUNDS = 15
DABS = 30


def stroke(layer: Any, row: int, redraw: Any = None) -> float:
    """Return the seconds that 30 dabs of radius 20 along one row take, as one step of napari's.

    `redraw` is called after each, as the window does after each move of the mouse.
    """
    began = time.perf_counter()
    with layer.block_history():
        for step in range(DABS):
            layer.paint((300, row, 40 + 10 * step), 1)
            if redraw is not None:
                redraw()
    return time.perf_counter() - began


def main() -> None:
    import napari
    from qtpy.QtWidgets import QApplication

    import maskloop
    from maskloop.gui import layers as gui_layers
    from maskloop.gui.turns import Turns

    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAPARI_CONFIG"] = f"{folder}/settings.yaml"
        path = Path(folder) / "ct.nii"
        # All that we do in the window's thread for a step, and for making the case, is a turn.
        blocks: list[float] = []
        go_on = Turns._go_on

        @functools.wraps(go_on)  # Qt finds a slot by its name
        def timed(self: Any) -> None:
            began = time.perf_counter()
            go_on(self)
            blocks.append(time.perf_counter() - began)

        Turns._go_on = timed  # type: ignore[method-assign]  # timed
        geometry = maskloop.Geometry.regular(SHAPE, (1.0, 0.8, 0.8))
        image = maskloop.Image(np.zeros(SHAPE, np.int16), geometry, path)
        mask = maskloop.Mask.like(image, np.zeros(SHAPE, np.uint8), {1: "liver"})
        _write(path, geometry)
        viewer = napari.Viewer(show=True)
        _, panel = viewer.window.add_plugin_dock_widget("napari-maskloop", "maskloop")
        data, settings, _ = gui_layers.image_layers(image)[0]
        viewer.add_image(data, **settings)
        plain = viewer.add_labels(np.zeros(SHAPE, np.uint8), scale=(1.0, 0.8, 0.8), name="plain")
        data, settings, _ = gui_layers.mask_layer(mask, name="ours")
        ours = gui_layers.bare(viewer.add_labels(data, **settings))
        plain = gui_layers.bare(plain)
        for layer in (plain, ours):
            layer.brush_size = 40
        editors = panel.host.editors
        known = editors.of(plain)
        editors.drop(known)  # napari alone, with its own history
        editor = editors.of(ours)
        stroke(ours, 60)
        _serve(QApplication, lambda: editor.is_open and editor.keeper.is_on_disk, 120)
        first = max(blocks)
        blocks.clear()
        viewer.dims.set_current_step(0, 300)
        names = ("napari alone", "with a case on disk")
        taken: dict[tuple[str, bool], list[float]] = {}
        for round_ in range(ROUNDS):
            for is_drawn in (True, False):
                for name, layer in zip(names, (plain, ours), strict=True):
                    viewer.layers.selection.active = layer
                    _serve(QApplication, lambda: False, 0.2)
                    redraw = QApplication.processEvents if is_drawn else None
                    began = time.perf_counter()
                    stroke(layer, 80 + 20 * round_ + 10 * is_drawn, redraw)
                    if layer is ours:  # what we do follows when napari has written the voxels
                        editor.take_strokes()
                    spent = time.perf_counter() - began
                    taken.setdefault((name, is_drawn), []).append(spent)
        case = editor.case
        case.flush()
        lags = sorted(getattr(case._journal, "lags_s", [0.0]))
        size = statistics.mean(edit.nbytes for edit in case.history)
        shape = "x".join(map(str, SHAPE))
        print(f"## Brush stroke in napari, {DABS} dabs of radius 20 on {shape}\n")
        print("| what | ms a stroke | ratio |")
        print("|---|---|---|")
        for is_drawn, how in ((True, ", the picture drawn after each move"), (False, "")):
            base = statistics.median(taken[names[0], is_drawn])
            for name in names:
                middle = statistics.median(taken[name, is_drawn])
                print(f"| {name}{how} | {middle * 1e3:.1f} | {middle / base:.2f} |")
        print("\n| what | value |")
        print("|---|---|")
        print(
            f"| journal lag, 95th percentile | {lags[int(0.95 * (len(lags) - 1))] * 1e3:.0f} ms |"
        )
        print(f"| longest block of the window by us, a stroke | {max(blocks) * 1e3:.1f} ms |")
        print(f"| the same, first stroke (the case is made) | {first * 1e3:.1f} ms |")
        print(f"| bytes of a step | {size:.0f} ({size / DABS:.0f} a dab) |")
        panel.host.keeping.close()
        viewer.close()


def _write(path: Path, geometry: Any) -> None:
    import nibabel

    nibabel.Nifti1Image(np.zeros(SHAPE[::-1], np.int16), geometry.affine).to_filename(path)


def _serve(application: Any, condition: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        application.processEvents()
        time.sleep(0.002)


if __name__ == "__main__":
    main()

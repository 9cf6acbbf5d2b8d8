"""Our keys are documented, act, and are none of napari's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from app_model.types import KeyBinding

from maskloop.gui.keys import KEYS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "keys.md"


def bound() -> list[KeyBinding]:
    """Return every key that the page documents, the range of digits written out."""
    names = [key for key in KEYS if "..." not in key]
    names += [f"Ctrl-{number}" for number in range(1, 10)]
    return [KeyBinding.from_str(name.replace("-", "+")) for name in names]


def test_the_page_lists_every_key_as_the_code_has_it() -> None:
    rows = [f"| `{key}` | {does} |" for key, does in KEYS.items()]
    listed = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert listed == rows


def test_no_key_is_one_of_napari(window: Any) -> None:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels
    from napari.utils.shortcuts import default_shortcuts

    viewer, panel = window
    viewer.add_image(np.zeros((4, 5, 6)))
    panel.correct.new.click()
    of_labels = [name for name in default_shortcuts if not _is_of_others(name)]
    theirs = {key for name in of_labels for key in default_shortcuts[name]}
    for kind in (ViewerModel, Labels, Image):
        theirs |= {key for key in kind.class_keymap if isinstance(key, KeyBinding)}
    # napari's own undo of one layer is what ours stands for: the one exception.
    undo = {KeyBinding.from_str("Ctrl+Z"), KeyBinding.from_str("Ctrl+Shift+Z")}
    assert undo <= theirs
    assert {str(key) for key in bound() if key in theirs - undo} == set()
    assert set(bound()) <= set(viewer.keymap)


def _is_of_others(name: str) -> bool:
    kinds = ("points", "shape", "vertex", "direct", "select_mode", "add_", "vectors", "tracks")
    others = ("surface", "select_all", "select_append", "drawing")
    return any(kind in name for kind in kinds + others)


def test_keys_act_on_the_brush_and_the_classes(window: Any) -> None:
    from maskloop.core.geometry import Geometry
    from maskloop.core.image import Image
    from maskloop.gui import layers

    viewer, panel = window
    pixels = np.full((6, 20, 24), -1000, np.int16)
    image = Image(pixels, Geometry.regular(pixels.shape, (5.0, 0.8, 0.8)))
    data, options, _ = layers.image_layers(image, name="ct")[0]
    viewer.add_image(data, **options)
    panel.correct.new.click()
    panel.correct.classes.add_label.click()
    labels = panel.host.labels.layer
    press(viewer, "Ctrl+1")
    assert labels.selected_label == 1
    press(viewer, "Ctrl+2")
    assert labels.selected_label == 2
    press(viewer, "Ctrl+9")
    assert labels.selected_label == 2
    press(viewer, "S")
    assert labels.n_edit_dimensions == 3
    press(viewer, "S")
    assert labels.n_edit_dimensions == 2
    panel.correct.brush.diameter.setValue(8.0)
    assert labels.brush_size == 9  # 7.2 mm, an odd number of voxels as napari paints
    assert abs(panel.correct.brush.diameter.value() - 7.2) < 0.05
    before = labels.brush_size
    press(viewer, "W")
    assert labels.brush_size == before + 2
    press(viewer, "Q")
    assert labels.brush_size == before


def press(viewer: Any, key: str) -> None:
    viewer.keymap[KeyBinding.from_str(key)](viewer)

"""The legend in the picture says what the colours are, while layers come, change and go."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from napari.layers import Layer

from maskloop.core.geometry import Geometry
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.gui import layers
from maskloop.gui.legend import MOST


def add(viewer: Any, table: LabelTable, ids: np.ndarray | None = None) -> Any:
    data = np.ones((8, 9), np.uint8) if ids is None else ids
    mask = Mask(data, Geometry.pixels(data.shape), table)
    return layers.bare(viewer.add_layer(Layer.create(*layers.mask_layer(mask, name="m"))))


def test_the_legend_follows_the_layers_and_their_tables(window: Any) -> None:
    viewer, panel = window
    legend = panel.predict.legend
    assert legend.lines == []
    table = LabelTable.classes(["liver", "tumour"])
    layer = add(viewer, table)
    lines = [("■ liver", table[1].colour), ("■ tumour", table[2].colour)]
    assert legend.lines == lines
    layers.set_table(layer, LabelTable.classes(["liver", "cyst"]))
    assert [text for text, _ in legend.lines] == ["■ liver", "■ cyst"]
    layer.visible = False
    assert legend.lines == []
    layer.visible = True
    panel.predict.show_legend.setChecked(False)
    assert legend.lines == []
    panel.predict.show_legend.setChecked(True)
    assert len(legend.lines) == 2
    viewer.layers.remove(layer)
    assert legend.lines == []


def test_what_holds_both_names_its_classes_and_counts_its_objects(window: Any) -> None:
    viewer, panel = window
    rows = [*LabelTable.objects([1, 2], "cell").values(), Label(3, "ground")]
    layer = add(viewer, LabelTable([*rows, replace(rows[0], id=7, visible=False)]))
    lines = panel.predict.legend.lines
    assert lines[0] == ("\N{BLACK SQUARE} ground", rows[2].colour)
    assert [text for text, _ in lines[1:]] == ["cell: 2, each its own colour"]
    layers.set_table(layer, LabelTable(rows[:2]))
    assert panel.predict.legend.lines == []


def test_objects_have_none_and_many_classes_are_those_that_occur(window: Any) -> None:
    viewer, panel = window
    legend = panel.predict.legend
    cells = add(viewer, LabelTable.objects([1, 2], "cell"))
    assert legend.lines == []
    viewer.layers.remove(cells)
    ids = np.zeros((8, 9), np.uint8)
    ids[0, :3] = 7, 19, 3
    many = LabelTable.classes([f"class {n}" for n in range(1, 31)])
    layer = add(viewer, many, ids)
    assert [text for text, _ in legend.lines] == ["■ class 3", "■ class 7", "■ class 19"]
    viewer.layers.remove(layer)
    add(viewer, many, np.arange(31, dtype=np.uint8).reshape(1, -1))
    assert len(legend.lines) == MOST
    assert legend.lines[-1][0] == "and 19 more"

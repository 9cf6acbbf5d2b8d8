"""Compare in the window: two models or layers, the map, the list, and a click that goes there."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
from napari.layers import Layer
from qtpy.QtCore import Qt

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.gui import layers
from maskloop.gui.placement import GHOST

Settle = Callable[[Any], None]


def ct() -> Image:
    """Return a warm block with a hot one in it, feet first and left-handed."""
    pixels = np.full((10, 24, 20), -1000, np.int16)
    pixels[2:8, 4:20, 4:16] = 70
    pixels[4:6, 8:12, 6:10] = 150
    affine = np.array([[0, 0, 2.0, 0], [0, -2.0, 0, 0], [-3.0, 0, 0, 0], [0, 0, 0, 1]])
    return Image(pixels, Geometry(pixels.shape, affine))


@pytest.fixture
def compared(window: Any, fake_models: Callable[..., None], settle: Settle) -> Any:
    """Return the window with a CT on which fake3d and high3d were compared."""
    viewer, panel = window
    fake_models("high3d", ndim=3, how="high")
    viewer.add_layer(Layer.create(*layers.image_layers(ct(), name="ct")[0]))
    panel.compare.open()
    panel.compare.a.choose("fake3d")
    panel.compare.b.choose("high3d")
    panel.compare.run.click()
    settle(panel)
    return viewer, panel


def test_the_map_and_the_list_are_those_of_the_desk(compared: Any) -> None:
    viewer, panel = compared
    found = panel.compare._found
    assert found.names == ("fake3d", "high3d")
    (shown,) = [layers.bare(x) for x in viewer.layers if GHOST in x.metadata]
    place = layers.placement_of(shown)
    assert np.array_equal(shown.data, place.shown(found.agreement.data))
    assert np.array_equal(place.restored(shown.data) == 4, ct().data == 150)
    assert not shown.editable
    assert panel.host.labels.layer is None
    assert "liver: Dice 0.000" in panel.compare.about.text()
    texts = [panel.compare.list.item(0, column).text() for column in range(5)]
    assert texts[:3] == ["1", "liver", "\N{EN DASH}"]
    assert texts[3] == "13.4 mL"
    lines = [text for text, _ in panel.predict.legend.lines]
    assert "■ only fake3d" in lines


def test_a_click_goes_there_with_a_ring(compared: Any, qtbot: Any) -> None:
    viewer, panel = compared
    view = panel.compare.list
    assert view.rowCount() == 2
    view.selectRow(1)
    one = panel.compare._found.differences[1]
    (shown,) = [layers.bare(x) for x in viewer.layers if GHOST in x.metadata]
    place = layers.placement_of(shown)
    at = place.shown_box(tuple(slice(n, n + 1) for n in one.place))
    assert viewer.dims.current_step[0] == at[0].start
    assert place.restored(shown.data)[one.place] == 4
    assert "ring" not in panel.host.message.text()
    assert "fake3d says tumour, high3d says liver" in panel.host.message.text()
    assert "difference" in [x.name for x in viewer.layers]
    assert layers.bare(viewer.layers.selection.active) is not shown
    qtbot.keyClick(view, Qt.Key.Key_N)
    assert view.current == 0
    qtbot.keyClick(view, Qt.Key.Key_P)
    assert view.current == 1


def test_a_second_comparison_replaces_the_first(compared: Any, settle: Settle) -> None:
    viewer, panel = compared
    panel.compare.list.selectRow(0)
    panel.compare.run.click()
    settle(panel)
    assert [x.name for x in viewer.layers] == ["ct", "fake3d or high3d"]


def test_a_labels_layer_is_compared_with_a_model(
    window: Any, settle: Settle, tmp_path: Path
) -> None:
    viewer, panel = window
    image = ct()
    viewer.add_layer(Layer.create(*layers.image_layers(image, name="ct")[0]))
    ids = (image.data > 50).astype(np.uint8) + (image.data > 100)
    ids[2, 4:20, 4:16] = 0
    mask = Mask(ids.astype(np.uint8), image.geometry, LabelTable.classes(["liver", "tumour"]))
    viewer.add_layer(Layer.create(*layers.mask_layer(mask, name="mine")))
    panel.compare.open()
    panel.compare.a.choose("layer: mine")
    panel.compare.b.choose("fake3d")
    panel.compare.run.click()
    settle(panel)
    found = panel.compare._found
    assert [one.voxels for one in found.differences] == [16 * 12]
    assert (found.counts["only_a"], found.counts["only_b"]) == (0, 16 * 12)
    assert not viewer.layers["mine"].visible
    panel.compare.write(tmp_path / "list.csv")
    with (tmp_path / "list.csv").open() as file:
        assert [r["b"] for r in csv.DictReader(file)] == ["liver"]


def test_one_frame_of_a_series_is_compared_in_its_frame(
    window: Any, fake_models: Callable[..., None], settle: Settle
) -> None:
    viewer, panel = window
    fake_models("high2d", ndim=2, how="high")
    film = np.zeros((4, 12, 16), np.float32)
    film[2, 3:9, 4:10] = 60
    viewer.add_image(dask.array.from_array(film), name="film", axis_labels=("t", "y", "x"))
    viewer.dims.set_current_step(0, 2)
    panel.compare.open()
    panel.compare.a.choose("fake2d")
    panel.compare.b.choose("high2d")
    panel.compare.run.click()
    settle(panel)
    (shown,) = [layers.bare(x) for x in viewer.layers if GHOST in x.metadata]
    assert shown.data.shape == film.shape
    assert np.array_equal(shown.data[2] == 2, film[2] > 0)
    assert not shown.data[[0, 1, 3]].any()
    viewer.dims.set_current_step(0, 0)
    panel.compare.list.selectRow(0)
    assert viewer.dims.current_step[0] == 2


def test_one_slice_of_a_volume_is_compared_by_2d_models(
    window: Any, fake_models: Callable[..., None], settle: Settle
) -> None:
    viewer, panel = window
    fake_models("high2d", ndim=2, how="high")
    viewer.add_layer(Layer.create(*layers.image_layers(ct(), name="ct")[0]))
    viewer.dims.set_current_step(0, 4)
    panel.compare.open()
    panel.compare.a.choose("fake2d")
    panel.compare.b.choose("high2d")
    panel.compare.run.click()
    settle(panel)
    viewer.dims.set_current_step(0, 0)
    for row in range(panel.compare.list.rowCount()):
        panel.compare.list.selectRow(row)
        assert viewer.dims.current_step[0] == 4
    (shown,) = [layers.bare(x) for x in viewer.layers if GHOST in x.metadata]
    assert shown.data[4].any()
    ring = viewer.layers["difference"].data[0]
    assert shown.data[tuple(round(n) for n in ring)] in (2, 4)


def test_run_is_disabled_with_a_reason(window: Any) -> None:
    viewer, panel = window
    panel.compare.open()
    assert panel.compare.reason.text() == "Open an image first."
    viewer.add_image(np.zeros((30, 40)), name="flat")
    assert panel.compare.reason.text() == ""
    assert panel.compare.a.currentText() != panel.compare.b.currentText()
    panel.compare.a.choose("fake2d")
    panel.compare.b.choose("fake3d")
    assert panel.compare.reason.text() == "fake3d needs a volume; flat is a picture."
    panel.compare.b.choose("fake2d")
    assert panel.compare.reason.text() == "Choose two different ones."
    assert not panel.compare.run.isEnabled()
    panel.compare.b.choose("nuclei")
    assert panel.compare.run.isEnabled()
    viewer.add_labels(np.zeros((20, 40), np.uint8), name="small")
    panel.compare.a.choose("layer: small")
    assert panel.compare.reason.text() == "small is not of the size of flat."

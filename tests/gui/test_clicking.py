"""The click tool in a real window: an object appears, Shift takes away, undo is undo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Layer
from qtpy.QtCore import QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.gui import layers
from maskloop.gui.clicking import EACH, SELECTED
from maskloop.gui.pickers import shown_points
from maskloop.gui.placement import Placement
from maskloop.models import FAMILIES
from tests.desk import click_family
from tests.desk.click_family import save_bright


@pytest.fixture
def bright(fake_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES.entries, "bright", "tests.desk.click_family:FAMILY")
    click_family.FAMILY.looks.clear()
    save_bright(tmp_path)


def cells() -> np.ndarray:
    pixels = np.full((60, 80), 20, np.uint8)
    pixels[10:20, 10:22] = 200
    pixels[35:55, 40:60] = 180
    return pixels


@pytest.fixture
def clicks(bright: None, window: Any, settle: Any) -> tuple[Any, Any, Any]:
    """Return (viewer, panel, click bar) with a picture, the tool switched on and ready."""
    viewer, panel = window
    image = Image(cells(), Geometry.pixels((60, 80)))
    data, options, _ = layers.image_layers(image, name="cells")[0]
    viewer.add_image(data, **options)
    bar = panel.correct.click
    bar.model.setCurrentText("bright")
    bar.on.click()
    settle(panel)
    assert bar.is_ready
    return viewer, panel, bar


def at(viewer: Any, *index: float) -> tuple[float, ...]:
    """Return the world position of a pixel of the active layer."""
    return tuple(viewer.layers.selection.active.data_to_world(index))


def press(canvas: Any, spot: tuple[float, float], *, to: Any = None, shift: bool = False) -> None:
    """Press and release the left button on the canvas, moving to another place between."""
    kinds = QMouseEvent.Type
    held = Qt.KeyboardModifier.ShiftModifier if shift else Qt.KeyboardModifier.NoModifier
    stops = [(kinds.MouseButtonPress, spot)]
    stops += [(kinds.MouseMove, to)] if to else []
    stops += [(kinds.MouseButtonRelease, to or spot)]
    for kind, where in stops:
        point = QPointF(*where)
        is_move = kind == kinds.MouseMove
        button = Qt.MouseButton.NoButton if is_move else Qt.MouseButton.LeftButton
        down = (
            Qt.MouseButton.NoButton
            if kind == kinds.MouseButtonRelease
            else Qt.MouseButton.LeftButton
        )
        whole = QPointF(canvas.mapToGlobal(point.toPoint()))
        QApplication.sendEvent(canvas, QMouseEvent(kind, point, whole, button, down, held))
        QApplication.processEvents()


def test_switched_on_it_makes_labels_and_sees_the_picture_before_the_first_click(
    clicks: Any,
) -> None:
    viewer, panel, bar = clicks
    layer = panel.host.labels.layer
    assert layer.name == "cells_clicks"
    assert viewer.layers.selection.active is layer
    assert click_family.FAMILY.looks == [(30, 40)]
    assert "Shift" in bar.about.text()


def test_a_click_is_an_object_and_undo_takes_it_back(clicks: Any) -> None:
    viewer, panel, bar = clicks
    layer = panel.host.labels.layer
    bar.click_at(at(viewer, 15, 15))
    bar.click_at(at(viewer, 45, 50))
    assert np.array_equal(layer.data > 0, cells() > 100)
    assert layer.data[15, 15] != layer.data[45, 50]
    table = layers.table_of(layer)
    assert [row.name for row in table.values()] == ["cell 1", "cell 2"]
    assert layer.selected_label == 2
    assert "400 pixels drawn as cell 2" in panel.host.message.text()
    editor = panel.host.editors.of(layer)
    assert editor.case.history.steps == ["bright: cell 1", "bright: cell 2"]
    editor.undo()
    assert not (layer.data == 2).any()
    editor.redo()
    assert np.count_nonzero(layer.data == 2) == 400
    assert len(click_family.FAMILY.looks) == 1


def test_shift_takes_away_and_the_next_click_sees_what_a_hand_did(clicks: Any) -> None:
    viewer, panel, bar = clicks
    layer = panel.host.labels.layer
    bar.click_at(at(viewer, 45, 50))
    bar.click_at(at(viewer, 36, 41), remove=True)
    assert layer.data[36, 41] == 0
    left = np.count_nonzero(layer.data)
    assert 0 < left < 400
    bar.click_at(at(viewer, 45, 50))
    assert np.count_nonzero(layer.data == 1) == 400  # the same object, whole again
    layer.mode = "erase"
    assert not bar.on.isChecked()  # the eraser has the mouse
    layer.brush_size = 5
    layer.paint((45, 58), 0)
    bar.model.setCurrentText("bright")
    bar.on.click()
    QApplication.processEvents()
    erased = layer.data == 0
    bar.click_at(at(viewer, 45, 50))
    # What a person erased is a person's: a model does not paint it again unless asked.
    assert layer.data[45, 58] == 0
    assert np.array_equal(layer.data == 0, erased)
    bar.over.setChecked(True)
    bar.into.setCurrentText(SELECTED)
    bar.click_at(at(viewer, 45, 50))
    assert np.count_nonzero(layer.data == 1) == 400


def test_all_clicks_can_draw_into_the_selected_label(clicks: Any) -> None:
    viewer, panel, bar = clicks
    layer = panel.host.labels.layer
    bar.click_at(at(viewer, 15, 15))
    assert bar.into.currentText() == EACH
    bar.into.setCurrentText(SELECTED)
    bar.click_at(at(viewer, 45, 50))
    assert set(np.unique(layer.data)) == {0, 1}
    assert np.array_equal(layer.data > 0, cells() > 100)


def test_painted_and_locked_objects_stay(clicks: Any) -> None:
    viewer, panel, bar = clicks
    layer = panel.host.labels.layer
    layer.paint((45, 50), 7)
    QApplication.processEvents()
    painted = layer.data == 7
    assert painted.any()
    bar.click_at(at(viewer, 36, 58))
    assert np.array_equal(layer.data == 7, painted)
    assert np.count_nonzero(layer.data > 0) == 400
    bar.click_at(at(viewer, 2, 2))
    assert "sees no object" in panel.host.message.text()


def test_the_mouse_clicks_and_a_drag_only_moves_the_picture(clicks: Any, qtbot: Any) -> None:
    viewer, panel, bar = clicks
    viewer.window.resize(700, 500)
    viewer.show()
    QApplication.processEvents()
    viewer.reset_view()
    QApplication.processEvents()
    canvas = viewer.window._qt_viewer.canvas.native
    layer = panel.host.labels.layer
    camera = viewer.scene.camera
    centre = np.array(canvas.size().toTuple()) / 2

    def spot(row: float, column: float) -> tuple[float, float]:
        away = (np.array([column, row]) - np.array(camera.center[1:])[::-1]) * camera.zoom
        x, y = centre + away
        return float(x), float(y)

    press(canvas, spot(45, 50))
    assert np.count_nonzero(layer.data == 1) == 400
    press(canvas, spot(15, 15), to=spot(25, 30))
    assert np.count_nonzero(layer.data) == 400
    press(canvas, spot(37, 42), shift=True)
    assert 0 < np.count_nonzero(layer.data) < 400
    assert layer.data[37, 42] == 0
    bar.on.setChecked(False)
    before = layer.data.copy()
    press(canvas, spot(15, 15))
    assert np.array_equal(layer.data, before)


def test_a_turned_volume_is_drawn_on_the_slice_that_is_shown(
    bright: None, window: Any, settle: Any
) -> None:
    viewer, panel = window
    volume = np.stack(
        [np.zeros((60, 80), np.uint8), cells(), cells(), np.zeros((60, 80), np.uint8)]
    )
    affine = np.array([[0, 0, 1.0, 0], [0, 1.0, 0, 0], [-4.0, 0, 0, 0], [0, 0, 0, 1]])
    image = Image(volume, Geometry(volume.shape, affine))
    data, options, _ = layers.image_layers(image, name="ct")[0]
    viewer.add_image(data, **options)
    panel.correct.new.click()
    layer = panel.host.labels.layer
    place: Placement = layers.placement_of(layer)
    assert any(place.flips)
    (shown,) = shown_points(place, [[2, 15, 15]])
    order = viewer.dims.order
    viewer.dims.set_current_step(order[0], round(shown[order[0]]))
    bar = panel.correct.click
    bar.model.setCurrentText("bright")
    bar.on.click()
    settle(panel)
    bar.click_at(tuple(layer.data_to_world(shown)))
    settle(panel)
    editor = panel.host.editors.of(layer)
    found = editor.case.mask.data
    assert found[2, 15, 15] > 0
    assert np.count_nonzero(found) == 120
    # Another slice is looked at when it is clicked in.
    (shown,) = shown_points(place, [[1, 45, 50]])
    viewer.dims.set_current_step(order[0], round(shown[order[0]]))
    bar.click_at(tuple(layer.data_to_world(shown)))
    settle(panel)
    assert np.count_nonzero(editor.case.mask.data[1]) == 400
    assert len(click_family.FAMILY.looks) == 2
    viewer.dims.ndisplay = 3
    bar.click_at(tuple(layer.data_to_world(shown)))
    assert "2D" in panel.host.message.text()


def test_without_a_model_that_clicks_the_tool_says_what_is_missing(
    window: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maskloop.desk import clicking

    _, panel = window
    monkeypatch.setattr(clicking, "list_clickers", list)
    bar = panel.correct.click
    bar.refill()
    assert not bar.on.isEnabled()
    assert "adaptis" in bar.about.text()


def test_another_image_switches_the_tool_off(clicks: Any) -> None:
    viewer, panel, bar = clicks
    other = Image(np.zeros((60, 80), np.uint8), Geometry.pixels((60, 80)))
    data, options, _ = layers.image_layers(other, name="other")[0]
    viewer.add_image(data, **options)
    blank = layers.blank_like(viewer.layers["other"], layers.table_of(panel.host.labels.layer), "x")
    panel.host.labels.choose(viewer.add_layer(Layer.create(*blank)))
    assert not bar.on.isChecked()

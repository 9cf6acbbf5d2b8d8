"""What is drawn in the real canvas comes back on the true grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from napari.layers import Layer
from qtpy.QtCore import QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication

from maskloop.core.geometry import Geometry
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.core.parameters import Parameter, Points
from maskloop.gui import layers
from maskloop.gui.pickers import DRAWING, Picker, on_slice, shown_points, true_points
from maskloop.gui.placement import Placement

SHAPE = (8, 60, 90)
# Stored right to left, front to back and feet last: shown with every axis turned.
AFFINE = np.array([[0, 0, 0.5, 3.0], [0, 1.5, 0, -20.0], [-3.0, 0, 0, 40.0], [0, 0, 0, 1]])


def mouse(canvas: Any, kind: str, at: tuple[float, float]) -> None:
    """Send one event of the left button to the canvas, as Qt would."""
    types = {
        "press": QMouseEvent.Type.MouseButtonPress,
        "move": QMouseEvent.Type.MouseMove,
        "release": QMouseEvent.Type.MouseButtonRelease,
    }
    spot = QPointF(*at)
    button = Qt.MouseButton.NoButton if kind == "move" else Qt.MouseButton.LeftButton
    held = Qt.MouseButton.NoButton if kind == "release" else Qt.MouseButton.LeftButton
    event = QMouseEvent(
        types[kind],
        spot,
        QPointF(canvas.mapToGlobal(spot.toPoint())),
        button,
        held,
        Qt.KeyboardModifier.NoModifier,
    )
    QApplication.sendEvent(canvas, event)
    QApplication.processEvents()


def drag(canvas: Any, *stops: tuple[float, float]) -> None:
    """Press at the first stop, move along the others, release at the last."""
    mouse(canvas, "press", stops[0])
    for stop in stops[1:]:
        mouse(canvas, "move", stop)
    mouse(canvas, "release", stops[-1])


@pytest.fixture
def drawn_on(make_napari_viewer: Any) -> tuple[Any, Any, Any]:
    """Return (viewer, labels layer, canvas) with a turned volume in the window."""
    viewer = make_napari_viewer()
    viewer.window.resize(700, 500)
    mask = Mask(np.zeros(SHAPE, np.uint8), Geometry(SHAPE, AFFINE), LabelTable.classes(["a"]))
    data, options, kind = layers.mask_layer(mask, name="mask")
    layer = layers.bare(viewer.add_layer(Layer.create(data, options, kind)))
    viewer.show()
    QApplication.processEvents()
    return viewer, layer, viewer.window._qt_viewer.canvas.native


def picker_of(qtbot: Any, viewer: Any, layer: Any, shape: str) -> Picker:
    picker = Picker(viewer, Parameter("axis", Points, label="axis", shape=shape), lambda: layer)
    qtbot.addWidget(picker)
    return picker


def pixel_of(viewer: Any, layer: Any, index: tuple[float, ...]) -> tuple[float, float]:
    """Return where in the canvas an index of the layer is seen."""
    world = np.asarray(layer.data_to_world(index))[list(viewer.dims.displayed)]
    canvas = viewer.window._qt_viewer.canvas
    transform = canvas.view.scene.transform
    mapped = transform.map([world[1], world[0], 0, 1])
    return float(mapped[0] / mapped[3]), float(mapped[1] / mapped[3])


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
def test_a_dragged_line_gives_its_ends_in_the_true_array(
    drawn_on: Any, qtbot: Any, order: tuple[int, ...]
) -> None:
    viewer, layer, canvas = drawn_on
    viewer.dims.order = order
    at = [4, 20, 30]
    viewer.dims.set_current_step(order[0], at[order[0]])
    viewer.reset_view()
    QApplication.processEvents()
    picker = picker_of(qtbot, viewer, layer, "line")
    heard: list[str] = []
    picker.drawn.connect(lambda: heard.append("drawn"))
    picker.draw()
    ends = []
    for step in (0, 3):
        index = list(at)
        index[order[1]] += step
        index[order[2]] += 4 * step
        ends.append(tuple(index))
    first, last = (pixel_of(viewer, layer, end) for end in ends)
    drag(canvas, first, ((first[0] + last[0]) / 2, (first[1] + last[1]) / 2), last)
    qtbot.waitUntil(lambda: bool(heard), timeout=3000)

    found = np.array(picker.value())
    wanted = np.array(true_points(layers.placement_of(layer), ends))
    hidden = layers.placement_of(layer).axes[order[0]]
    assert np.array_equal(found[:, hidden], wanted[:, hidden])  # whole: the slice itself
    assert np.abs(found - wanted).max() < 0.6, (found, wanted)
    grid = layers.placement_of(layer).geometry
    length = np.linalg.norm(np.diff(grid.to_world(found), axis=0))
    assert picker.count.text() == f"{length:.1f} mm"
    assert layers.bare(viewer.layers.selection.active) is layer


def test_the_drawing_lies_where_the_labels_lie(drawn_on: Any, qtbot: Any) -> None:
    viewer, layer, _ = drawn_on
    picker = picker_of(qtbot, viewer, layer, "points")
    picker.draw()
    drawing = picker.layer
    assert drawing.metadata[DRAWING]
    assert viewer.layers.selection.active is drawing
    for name in layers.PLACING:
        assert np.array_equal(np.asarray(getattr(drawing, name)), np.asarray(getattr(layer, name)))


def test_clicked_points_are_counted_and_cleared(drawn_on: Any, qtbot: Any) -> None:
    viewer, layer, canvas = drawn_on
    viewer.dims.set_current_step(0, 2)
    picker = picker_of(qtbot, viewer, layer, "points")
    assert picker.value() is None
    picker.draw()
    QApplication.processEvents()
    for index in ((2, 10, 10), (2, 30, 50)):
        spot = pixel_of(viewer, layer, index)
        mouse(canvas, "press", spot)
        mouse(canvas, "release", spot)
    qtbot.waitUntil(lambda: picker.count.text() == "2 points", timeout=3000)
    assert picker.value() == true_points(layers.placement_of(layer), [[2, 10, 10], [2, 30, 50]])
    picker.clear_button.click()
    assert picker.value() is None
    assert [x.name for x in viewer.layers] == ["mask"]


def test_a_lasso_gives_a_polygon_on_one_slice(drawn_on: Any, qtbot: Any) -> None:
    viewer, layer, canvas = drawn_on
    viewer.dims.set_current_step(0, 3)
    QApplication.processEvents()
    picker = picker_of(qtbot, viewer, layer, "polygon")
    picker.draw()
    corners = [(3, 10, 10), (3, 10, 60), (3, 25, 72), (3, 40, 60), (3, 40, 10), (3, 12, 10)]
    drag(canvas, *(pixel_of(viewer, layer, corner) for corner in corners))
    qtbot.waitUntil(lambda: picker.value() is not None, timeout=3000)
    found = shown_points(layers.placement_of(layer), picker.value())
    assert len(found) >= 4
    assert set(found[:, 0]) == {3.0}
    assert found[:, 1:].min() > 8
    assert found[:, 1:].max() < 74


def test_a_deleted_drawing_is_no_drawing(drawn_on: Any, qtbot: Any) -> None:
    viewer, layer, _ = drawn_on
    picker = picker_of(qtbot, viewer, layer, "line")
    picker.draw()
    viewer.layers.remove(picker.layer)
    assert picker.value() is None
    picker.draw()
    assert len(viewer.layers) == 2


@given(
    index=st.tuples(*(st.floats(0, n - 1) for n in SHAPE)),
    axes=st.permutations([0, 1, 2]),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    lead=st.integers(0, 1),
)
def test_there_and_back_is_the_same_place(
    index: tuple[float, ...], axes: list[int], flips: tuple[bool, ...], lead: int
) -> None:
    place = Placement(Geometry.regular(SHAPE, (3, 1.5, 0.5)), tuple(axes), flips, lead)
    shown = shown_points(place, [index], frame=(5,) * lead)
    assert shown.shape == (1, 3 + lead)
    assert np.allclose(true_points(place, shown), [index])


def test_a_voxel_keeps_its_place_through_both_turns() -> None:
    geometry = Geometry(SHAPE, AFFINE)
    place = Placement.of(Mask(np.zeros(SHAPE, np.uint8), geometry, LabelTable()))
    data = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    for index in ((0, 0, 0), (7, 59, 89), (2, 33, 4)):
        at = tuple(int(v) for v in shown_points(place, [index])[0])
        assert place.shown(data)[at] == data[index]


def test_only_the_axis_that_is_shared_is_rounded() -> None:
    found = on_slice([[2.9999, 1.4, 5.0], [2.9999, 7.6, 5.5]])
    assert found.tolist() == [[3.0, 1.4, 5.0], [3.0, 7.6, 5.5]]

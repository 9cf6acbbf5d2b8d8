"""What the real canvas shows: sides, millimetres of the brush, three planes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Layer
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QImage, QMouseEvent, QWheelEvent

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.gui import layers
from maskloop.gui.ortho import ThreeViews
from maskloop.gui.planes import picture_of, planes_of
from maskloop.gui.upright import Upright
from tests.gui.test_bearing import ORIENTATIONS, grid

PLANES = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}
SPACING = (5.0, 0.7, 0.7)


def marked(geometry: Geometry, side: str) -> Image:
    """Return darkness with one bright face at the end of the patient that a letter names."""
    pixels = np.zeros(geometry.shape, np.uint8)
    axes, flips = geometry.towards("SAR")
    world = "SAR".index(side) if side in "SAR" else "IPL".index(side)
    index: list[Any] = [slice(None)] * 3
    is_last = (side in "SAR") != flips[world]
    index[axes[world]] = -1 if is_last else 0
    pixels[tuple(index)] = 255
    return Image(pixels, geometry)


def bright_side(shot: np.ndarray) -> str:
    """Return on which side of the picture the light lies."""
    found = shot[..., :3].min(axis=2) > 200
    # The letters at the edges are no part of the picture.
    found[:50], found[-50:], found[:, :50], found[:, -50:] = False, False, False, False
    rows, columns = (np.nonzero(found)[axis].mean() for axis in (0, 1))
    down = rows - (shot.shape[0] - 1) / 2
    right = columns - (shot.shape[1] - 1) / 2
    if abs(down) > abs(right):
        return "bottom" if down > 0 else "top"
    return "right" if right > 0 else "left"


@pytest.fixture
def canvas(make_napari_viewer: Any) -> Any:
    """Return a viewer and what turns it upright and writes the letters."""
    viewer = make_napari_viewer()
    viewer.window.resize(500, 420)
    viewer.show()
    upright = Upright(viewer)
    yield viewer, upright
    upright.release()


@pytest.mark.parametrize(
    ("first", "step", "sides"),
    [
        (0, 6, "R"),
        (3, 6, "LS"),
        pytest.param(1, 3, "RLPS", marks=pytest.mark.slow),
        pytest.param(2, 3, "RLPS", marks=pytest.mark.slow),
        pytest.param(0, 3, "RLPS", marks=pytest.mark.slow),
    ],
)
def test_the_light_at_a_patients_end_is_rendered_beside_its_letter(
    canvas: Any, first: int, step: int, sides: str
) -> None:
    """Some orientations, all 48 when slow; every second turned by 12 degrees; both conventions."""
    viewer, upright = canvas
    planes = {"R": "axial", "L": "coronal", "P": "sagittal", "S": "coronal"}
    for number, orientation in enumerate(ORIENTATIONS[first::step]):
        geometry = grid(orientation, "12 degrees" if number % 2 else "aligned")
        side = sides[number % len(sides)]
        order = PLANES[planes[side]]
        viewer.layers.clear()
        viewer.add_layer(Layer.create(*layers.image_layers(marked(geometry, side))[0]))
        upright.convention = "neurological" if number % 3 == 2 else "radiological"
        viewer.dims.order = order
        viewer.dims.set_current_step(order[0], viewer.layers[0].data.shape[order[0]] // 2)
        viewer.reset_view(margin=0.3)
        where = bright_side(viewer.screenshot(flash=False))
        assert upright.letters[where][0] == side, (orientation, side, upright.letters)
        if side == "R" and upright.convention == "radiological":
            assert where == "left"


def test_left_and_right_change_places_on_the_canvas_only(canvas: Any) -> None:
    viewer, upright = canvas
    layer = viewer.add_layer(
        Layer.create(*layers.image_layers(marked(grid("LPS", "aligned"), "R"))[0])
    )
    viewer.reset_view(margin=0.3)
    before = layer.data.copy(), layer.scale.copy(), layer.translate.copy()
    assert bright_side(viewer.screenshot(flash=False)) == "left"
    upright.convention = "neurological"
    assert bright_side(viewer.screenshot(flash=False)) == "right"
    for old, new in zip(before, (layer.data, layer.scale, layer.translate), strict=True):
        assert np.array_equal(old, new)


@pytest.mark.parametrize(
    ("orientation", "order"),
    [("SAR", (0, 1, 2)), ("LPI", (1, 0, 2)), ("LPI", (2, 0, 1)), ("PSR", None)],
)
def test_the_brush_is_round_in_millimetres(
    make_napari_viewer: Any, orientation: str, order: tuple[int, ...] | None
) -> None:
    """Anisotropic steps (5 x 0.7 x 0.7 mm): the painted extent agrees along all axes painted."""
    shape, steps = (21, 121, 121), SPACING
    axes, flips = Geometry.regular((1, 1, 1), (1, 1, 1)).towards(orientation)
    regular = Geometry.regular(shape, steps)
    geometry = regular.transposed(axes, flips)
    viewer = make_napari_viewer()
    image = viewer.add_layer(
        Layer.create(*layers.image_layers(Image(np.zeros(geometry.shape, np.uint8), geometry))[0])
    )
    viewer.layers.selection = {image}
    viewer._new_labels()
    labels = viewer.layers[-1]
    labels.mode = "paint"
    labels.brush_size = 60
    is_ball = order is None
    viewer.dims.order = order or (0, 1, 2)
    labels.n_edit_dimensions = 3 if is_ball else 2
    labels.paint((10, 60, 60), 1)

    found = np.argwhere(labels.data)
    extent = (np.ptp(found, axis=0) + 1) * np.array(labels.scale)
    painted = range(3) if is_ball else viewer.dims.displayed
    # The brush's diameter is given in steps of the finest axis.
    diameter = labels.brush_size * min(steps)
    for axis in painted:
        assert extent[axis] == pytest.approx(diameter, abs=2 * steps[0 if axis == 0 else 1])
    in_plane = [extent[axis] for axis in painted if labels.scale[axis] == min(steps)]
    assert np.ptp(in_plane) <= 2 * min(steps) + 1e-9
    centre = found.mean(axis=0)
    assert np.allclose(centre, (10, 60, 60), atol=0.5)
    volume = len(found) * float(np.prod(labels.scale))
    if is_ball:
        assert volume == pytest.approx(np.pi / 6 * diameter**3, rel=0.06)
    else:
        (hidden,) = set(range(3)) - set(painted)
        area = volume / labels.scale[hidden]
        assert area == pytest.approx(np.pi / 4 * diameter**2, rel=0.06)


def test_three_planes_show_what_the_canvas_does_not(window: Any, qtbot: Any) -> None:
    viewer, panel = window
    geometry = Geometry.regular((8, 20, 30), (5.0, 2.0, 1.0), (-15.0, -20.0, -20.0))
    viewer.add_layer(Layer.create(*layers.image_layers(marked(geometry, "R"), name="ct")[0]))
    panel.load.three_views.click()
    views = panel.load.views
    viewer.show()
    qtbot.wait(100)
    assert [view.plane.name for view in views.views] == ["coronal", "sagittal"]
    assert views.views[0].letters.left == "R"
    assert views.views[0].letters.top == "S"
    assert views.views[1].letters.left == "A"

    shot = grabbed(views.views[0])
    assert light(shot)[0] < shot.shape[1] / 2
    panel.load.convention.setCurrentIndex(1)
    assert views.views[0].letters.left == "L"
    assert light(grabbed(views.views[0]))[0] > shot.shape[1] / 2
    panel.load.convention.setCurrentIndex(0)

    views.enlarge(views.views[1].plane)
    assert viewer.dims.order == (2, 0, 1)
    assert [view.plane.name for view in views.views] == ["axial", "coronal"]
    panel.load.three_views.click()
    assert panel.load.views is None


def grabbed(widget: Any) -> np.ndarray:
    """Return a widget as red, green, blue."""
    image = widget.grab().toImage().convertToFormat(QImage.Format.Format_RGBA8888)
    data = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), -1)
    return data[:, : image.width() * 4].reshape(image.height(), image.width(), 4)[..., :3].copy()


def light(shot: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(shot.min(axis=2) > 220)
    return float(columns.mean()), float(rows.mean())


def press(view: Any, where: QPointF) -> None:
    left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    kind = QMouseEvent.Type.MouseButtonPress
    view.mousePressEvent(QMouseEvent(kind, where, where, left, left, none))


def test_a_click_moves_the_crosshair_and_the_wheel_steps(window: Any, qtbot: Any) -> None:
    viewer, panel = window
    geometry = Geometry.regular((8, 20, 30), (5.0, 2.0, 1.0))
    layer = viewer.add_layer(
        Layer.create(*layers.image_layers(Image(np.zeros(geometry.shape, np.uint8), geometry))[0])
    )
    panel.load.three_views.click()
    views = panel.load.views
    viewer.show()
    qtbot.wait(50)
    coronal = views.views[0]
    wanted = np.asarray(layer.data_to_world((6, 9, 4)))
    press(coronal, coronal.to_screen().map(QPointF(wanted[2], wanted[0])))
    assert viewer.dims.current_step[0] == 6
    assert viewer.dims.current_step[2] == 4
    assert viewer.dims.current_step[1] == 9

    up = QPoint(0, 120)
    none = Qt.MouseButton.NoButton
    point = QPointF(5, 5)
    free = Qt.KeyboardModifier.NoModifier
    phase = Qt.ScrollPhase.NoScrollPhase
    coronal.wheelEvent(QWheelEvent(point, point, up, up, none, free, phase, False))
    assert viewer.dims.current_step[1] == 10

    assert all(line.isVisible() for line in views._cross)
    layer_point = np.asarray(layer.data_to_world((6, 3, 4)))
    event = type("Move", (), {"modifiers": ("Shift",), "position": tuple(layer_point)})()
    for callback in viewer.mouse_move_callbacks:
        callback(viewer, event)
    assert viewer.dims.current_step == (6, 3, 4)


def test_strokes_are_seen_in_the_other_planes(window: Any, qtbot: Any) -> None:
    viewer, panel = window
    geometry = Geometry.regular((8, 20, 30), (5.0, 2.0, 1.0))
    viewer.add_layer(
        Layer.create(*layers.image_layers(Image(np.zeros(geometry.shape, np.uint8), geometry))[0])
    )
    panel.correct.new.click()
    labels = panel.host.labels.layer
    panel.load.three_views.click()
    views = panel.load.views
    viewer.show()
    qtbot.wait(50)
    coronal = views.views[0]
    before = grabbed(coronal).astype(int)
    labels.brush_size = 8
    labels.paint((4, round(viewer.dims.current_step[1]), 15), 1)
    qtbot.wait(50)
    changed = np.abs(grabbed(coronal).astype(int) - before).max(axis=2) > 30
    assert changed.any()
    panel.host.editors.of(labels).undo()
    qtbot.wait(50)
    assert not (np.abs(grabbed(coronal).astype(int) - before).max(axis=2) > 30).any()


def test_only_what_changed_is_sliced_again(
    window: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maskloop.gui import ortho

    viewer, panel = window
    geometry = Geometry.regular((8, 20, 30), (5.0, 2.0, 1.0))
    image = layers.bare(
        viewer.add_layer(
            Layer.create(
                *layers.image_layers(Image(np.ones(geometry.shape, np.int16), geometry))[0]
            )
        )
    )
    panel.correct.new.click()
    labels = panel.host.labels.layer
    panel.load.three_views.click()
    viewer.show()
    qtbot.wait(100)
    sliced: list[str] = []
    real = ortho.picture_of
    monkeypatch.setattr(
        ortho, "picture_of", lambda layer, *rest: sliced.append(layer.name) or real(layer, *rest)
    )
    labels.paint((4, 5, 5), 1)
    qtbot.wait(50)
    assert set(sliced) == {labels.name}
    sliced.clear()
    image.contrast_limits = (0, 2)
    qtbot.wait(50)
    assert set(sliced) == {image.name}


def test_the_crosshair_crosses_the_voxel_it_names(window: Any, qtbot: Any) -> None:
    """Put light where the crosshair should be and look under it on the rendered canvas."""
    viewer, panel = window
    viewer.window.resize(1000, 800)
    geometry = Geometry.regular((9, 21, 31), (3.0, 2.0, 2.0))
    for order, convention in (((0, 1, 2), 0), ((1, 0, 2), 1), ((2, 0, 1), 0)):
        viewer.layers.clear()
        image = Image(np.zeros(geometry.shape, np.uint8), geometry)
        image.data[2, 15, 7] = 255
        layer = viewer.add_layer(Layer.create(*layers.image_layers(image)[0]))
        at = tuple(int(i) for i in np.argwhere(layer.data)[0])
        if panel.load.views is None:
            panel.load.three_views.click()
            viewer.show()
        panel.load.convention.setCurrentIndex(convention)
        viewer.dims.order = order
        viewer.dims.current_step = at
        qtbot.wait(50)
        viewer.reset_view(margin=0.3)
        shot = viewer.screenshot(flash=False)
        assert isinstance(panel.load.views, ThreeViews)
        upright, level = panel.load.views._cross
        inner = shot[50:-50, 50:-50, :3].min(axis=2) > 200
        rows, columns = (np.nonzero(inner)[axis] + 50 for axis in (0, 1))
        assert columns.min() - 1 <= upright.x() <= columns.max() + 1
        assert rows.min() - 1 <= level.y() <= rows.max() + 1


def test_planes_of_layers_on_other_grids_lie_over_each_other() -> None:
    coarse = Geometry.regular((4, 10, 10), (6.0, 4.0, 4.0), (2.0, 2.0, 3.0))
    fine = Geometry.regular((8, 20, 20), (3.0, 2.0, 2.0), (1.0, 1.0, 1.5))
    boxes = []
    for geometry in (coarse, fine):
        layer = Layer.create(*layers.image_layers(marked(geometry, "L"))[0])
        point = layer.data_to_world([n // 2 for n in geometry.shape])
        found = [picture_of(layer, plane, point) for plane in planes_of(3, has_patient=True)]
        boxes.append([picture.box for picture in found if picture is not None])
        axial = found[0]
        assert axial is not None
        assert axial.colours[:, -1, :3].min() == 255
        assert axial.colours[:, 0, :3].max() == 0
    assert np.allclose(boxes[0], boxes[1])


def test_a_layer_turned_by_hand_is_left_out_of_the_planes() -> None:
    (data,) = layers.image_layers(marked(Geometry.regular((4, 10, 10), (6, 4, 4)), "L"))
    layer = Layer.create(*data)
    plane = planes_of(3, has_patient=True)[0]
    point = layer.data_to_world((2, 5, 5))
    assert picture_of(layer, plane, point) is not None
    layer.rotate = 20.0
    assert picture_of(layer, plane, layer.data_to_world((2, 5, 5))) is None


def test_a_series_in_time_and_colours_are_drawn_as_napari_draws_them() -> None:
    geometry = Geometry.regular((3, 4, 5), (3.0, 2.0, 2.0))
    pixels = np.zeros((2, *geometry.shape), np.uint8)
    pixels[1, 2] = 255
    series = Image(pixels, geometry, has_time=True)
    layer = Layer.create(*layers.image_layers(series)[0])
    axial = planes_of(4, has_patient=True)[0]
    for time, shade in ((0, 0), (1, 255)):
        found = picture_of(layer, axial, layer.data_to_world((time, 2, 1, 1)))
        assert found is not None
        assert found.colours[..., :3].min() == found.colours[..., :3].max() == shade
    colours = np.zeros((*geometry.shape, 3), np.uint8)
    colours[..., 1] = 200
    painted = Image(colours, geometry, has_channels=True)
    (data,) = layers.image_layers(painted)
    picture = picture_of(Layer.create(*data), planes_of(3, has_patient=True)[1], (3, -2, -2))
    assert picture is not None
    assert picture.colours[0, 0].tolist() == [0, 200, 0, 255]
    assert picture.colours.shape == (3, 5, 4)


def test_the_views_go_with_the_panel(make_napari_viewer: Any, qtbot: Any) -> None:
    viewer = make_napari_viewer()
    dock, panel = viewer.window.add_plugin_dock_widget("napari-maskloop", "maskloop")
    panel.load.three_views.click()
    assert panel.load.views is None
    assert "need a volume" in panel.host.message.text()
    viewer.add_image(np.zeros((4, 5, 6)))
    panel.load.three_views.click()
    views = panel.load.views
    assert [view.plane.name for view in views.views] == ["y", "x"]
    assert views.views[0].letters is None
    viewer.show()
    qtbot.wait(50)
    assert views.isVisible()
    gone: list[bool] = []
    panel.destroyed.connect(lambda: gone.append(True))
    viewer.window.remove_dock_widget(dock)
    panel.deleteLater()
    qtbot.waitUntil(lambda: bool(gone), timeout=5000)
    assert not views.isVisible()
    viewer.dims.set_current_step(0, 2)
    viewer.layers.clear()
    assert not viewer.mouse_move_callbacks


def test_real_ct_has_its_liver_on_screen_left(shared_data: Path) -> None:
    from maskloop.gui.bearing import edges, facing_of
    from maskloop.loop.load import load_mask

    mask = load_mask(shared_data / "ct_liver" / "ircadb17" / "labels_3mm.nii.gz")
    layer = Layer.create(*layers.mask_layer(mask))
    facing = facing_of(layer, (0, 1, 2))
    assert edges(layer, (0, 1, 2), facing).left == "R"
    columns = np.nonzero(layer.data)[2]
    assert facing.horizontal == "right"
    assert columns.mean() < layer.data.shape[2] / 2

"""The tools in a real window: search, forms, limits, one undoable step, what a person painted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from napari.layers import Layer
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QLineEdit

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.gui import layers
from maskloop.gui.marks import jump
from maskloop.gui.pickers import shown_points
from maskloop.gui.placement import Placement
from maskloop.gui.toolbox import EVERYWHERE, FIRST, RECTANGLE, SLICE, VISIBLE, ToolBox

SHAPE = (12, 40, 48)
# Turned on every axis when shown: what lands in the wrong place is seen.
AFFINE = np.array([[0, 0, 1.0, 0], [0, 1.0, 0, 0], [-2.0, 0, 0, 0], [0, 0, 0, 1]])
TABLE = LabelTable.classes(["organ", "lesion", "vessel"])


def case_arrays() -> tuple[np.ndarray, np.ndarray]:
    """Return a CT and labels: an organ, a lesion apart from it, crumbs of the lesion."""
    pixels = np.full(SHAPE, -1000, np.int16)
    ids = np.zeros(SHAPE, np.uint8)
    ids[2:10, 5:20, 5:20] = 1
    ids[3:8, 24:34, 28:40] = 2
    ids[9, 36:38, 2:4] = 2
    pixels[ids == 1], pixels[ids == 2] = 60, 120
    return pixels, ids


@pytest.fixture
def tools(window: Any, qtbot: Any) -> Iterator[tuple[Any, ToolBox, Any, np.ndarray]]:
    """Return (panel, toolbox, labels layer, ids in the stored order) on a turned CT."""
    viewer, panel = window
    geometry = Geometry(SHAPE, AFFINE)
    pixels, ids = case_arrays()
    data, options, _ = layers.image_layers(Image(pixels, geometry), name="ct")[0]
    viewer.add_image(data, **options)
    mask = Mask(ids, geometry, TABLE)
    layer = layers.bare(viewer.add_layer(Layer.create(*layers.mask_layer(mask, name="draft"))))
    assert any(Placement.of(mask).flips)
    box = ToolBox(panel.host)
    qtbot.addWidget(box)
    layer.selected_label = 2
    box.refresh()
    yield panel, box, layer, ids
    box.release()


@pytest.fixture
def apply(qtbot: Any) -> Callable[[ToolBox, Any], None]:
    """Return a function that presses Apply and waits until the step is made."""

    def press(box: ToolBox, button: Any = None) -> None:
        with qtbot.waitSignal(box.applied, timeout=20_000):
            (button or box.apply).click()
        qtbot.waitUntil(lambda: not box._host.is_busy, timeout=5000)

    return press


def truth(layer: Any, panel: Any) -> np.ndarray:
    """Return the case's ids on the true grid, which the layer must show."""
    editor = panel.host.editors.of(layer)
    found = editor.case.mask.data
    assert np.array_equal(layers.placement_of(layer).shown(found), layer.data)
    return np.asarray(found)


def test_six_tools_are_at_hand_and_each_stands_for_one_that_there_is(tools: Any) -> None:
    _, box, _, _ = tools
    assert [button.text() for button in box.buttons.values()] == [text for text, _ in FIRST]
    assert all(button.toolTip() for button in box.buttons.values())


def test_the_search_finds_by_name_and_by_words_and_enter_takes_the_first(
    tools: Any, qtbot: Any
) -> None:
    _, box, _, _ = tools
    box.show()
    assert not box.results.isVisible()
    qtbot.keyClicks(box.query, "encl")
    assert box.found == ["holes"]
    assert box.results.isVisible()
    qtbot.keyClicks(box.query, "oses backgr")
    assert box.found == ["holes"]
    qtbot.keyClick(box.query, Qt.Key.Key_Return)
    assert box.chosen == "holes"
    assert box.query.text() == ""
    assert not box.results.isVisible()
    assert "holes" not in box.buttons
    assert not any(button.isChecked() for button in box.buttons.values())


def test_a_search_that_finds_nothing_says_so(tools: Any, qtbot: Any) -> None:
    _, box, _, _ = tools
    chosen = box.chosen
    qtbot.keyClicks(box.query, "xylophone")
    assert box.results.item(0).text() == "no tool has these words"
    qtbot.keyClick(box.query, Qt.Key.Key_Return)
    assert box.chosen == chosen


def test_a_tool_is_one_step_in_place_and_undo_takes_it_back(tools: Any, apply: Any) -> None:
    panel, box, layer, ids = tools
    box.choose("islands")
    apply(box)
    wanted = ids.copy()
    wanted[9, 36:38, 2:4] = 0
    assert np.array_equal(truth(layer, panel), wanted)
    editor = panel.host.editors.of(layer)
    assert editor.case.history.steps == ["islands: lesion"]
    assert editor.case.history.last.kind == "tool"
    assert "4 voxels changed" in box.outcome.text()
    editor.undo()
    assert np.array_equal(truth(layer, panel), ids)


def test_what_was_painted_by_hand_stays_unless_ticked(tools: Any, apply: Any, qtbot: Any) -> None:
    panel, box, layer, _ = tools
    layer.mode = "paint"
    layer.brush_size = 1
    layer.paint((11, 2, 2), 2)  # a crumb of the person's own
    editor = panel.host.editors.of(layer)
    qtbot.waitUntil(lambda: editor.is_open and len(editor.case.history) == 1, timeout=3000)
    painted = layer.data.copy()
    assert painted[11, 2, 2] == 2
    box.choose("islands")
    apply(box)
    assert layer.data[11, 2, 2] == 2
    assert "painted by hand" in box.outcome.text()
    box.over_hand.setChecked(True)
    apply(box)
    assert layer.data[11, 2, 2] == 0


def test_voxels_painted_while_a_tool_runs_stay(tools: Any, qtbot: Any, monkeypatch: Any) -> None:
    panel, box, layer, _ = tools
    from maskloop.tools import work as work_module

    run = work_module.Work.run

    def slow(self: Any, job: Any) -> Any:
        found = run(self, job)
        time.sleep(0.8)
        return found

    monkeypatch.setattr(work_module.Work, "run", slow)
    box.choose("islands")
    with qtbot.waitSignal(box.applied, timeout=20_000):
        box.apply.click()
        qtbot.waitUntil(lambda: panel.host.is_busy, timeout=5000)
        place = layers.placement_of(layer)
        crumb = place.shown_box((slice(9, 10), slice(36, 37), slice(2, 3)))
        layer.paint(tuple(part.start for part in crumb), 3)
    where = tuple(part.start for part in crumb)
    assert layer.data[where] == 3
    found = truth(layer, panel)
    assert (found[9] == 2).sum() == 0
    assert found[9, 36, 2] == 3


def test_a_tool_is_limited_to_the_slice_shown(tools: Any, apply: Any, window: Any) -> None:
    viewer, _ = window
    panel, box, layer, ids = tools
    box.choose("grow")
    box.form.fields["margin"].setValue(2.0)
    box.limit.setCurrentText(SLICE)
    place = layers.placement_of(layer)
    step = place.shown_box((slice(5, 6), slice(0, 1), slice(0, 1)))[0].start
    viewer.dims.set_current_step(0, step)
    apply(box)
    found = truth(layer, panel)
    assert (found[5] != ids[5]).any()
    others = [i for i in range(SHAPE[0]) if i != 5]
    assert np.array_equal(found[others], ids[others])


def test_a_tool_is_limited_to_what_is_in_view(tools: Any, apply: Any, window: Any) -> None:
    viewer, _ = window
    panel, box, layer, ids = tools
    viewer.show()
    jump(viewer, layer, (5, 29, 39))
    viewer.scene.camera.zoom *= 6
    QApplication.processEvents()
    box.choose("grow")
    box.form.fields["margin"].setValue(2.0)
    box.limit.setCurrentText(VISIBLE)
    limit = box._box()
    assert limit[0] == slice(0, SHAPE[0])  # all slices
    assert limit[2].start > 28
    assert limit[2].stop > 40
    apply(box)
    changed = np.argwhere(truth(layer, panel) != ids)
    assert len(changed)
    assert changed[:, 2].max() == 41  # 1 mm steps, a margin of 2 mm
    assert changed[:, 2].min() >= limit[2].start


def test_apply_is_disabled_with_its_reason(tools: Any) -> None:
    _, box, layer, _ = tools
    box.choose("islands")
    assert box.apply.isEnabled(), box.reason.text()
    layer.selected_label = 0
    box.refresh()
    assert not box.apply.isEnabled()
    assert box.reason.text() == "Select a label in the table; background cannot be corrected."
    layer.selected_label = 1
    layers.set_table(layer, TABLE.with_rows([Label(1, "organ", locked=True)]))
    box.refresh()
    assert box.reason.text() == "organ is locked; unlock it in the table first."
    assert box.apply.toolTip() == box.reason.text()
    layer.selected_label = 2
    box.limit.setCurrentText(RECTANGLE)
    assert box.reason.text() == "Draw the rectangle first."
    box.limit.setCurrentText(EVERYWHERE)
    assert box.apply.isEnabled()


def test_an_option_that_names_a_label_offers_the_others(tools: Any, apply: Any) -> None:
    panel, box, layer, ids = tools
    box.choose("merge")
    field = box.form.fields["other"]
    names = [field.itemText(i) for i in range(field.count())]
    assert [n for n in names if n != "none"] == ["organ", "vessel"]
    field.setCurrentText("organ")
    apply(box)
    found = truth(layer, panel)
    assert not (found == 1).any()
    assert (found == 2).sum() == (ids > 0).sum()


def test_the_last_tool_is_repeated_on_another_label(tools: Any, apply: Any) -> None:
    panel, box, layer, ids = tools
    assert not box.again.isEnabled()
    box.choose("grow")
    box.form.fields["margin"].setValue(-1.0)
    apply(box)
    box.choose("islands")
    layer.selected_label = 1
    box.refresh()
    assert box.again.text() == "Repeat grow"
    apply(box, box.again)
    found = truth(layer, panel)
    assert (found == 1).sum() < (ids == 1).sum()
    assert panel.host.editors.of(layer).case.history.steps == ["grow: lesion", "grow: organ"]


def test_a_lesions_long_axis_drawn_in_the_picture_makes_a_draft_at_once(
    tools: Any, window: Any, qtbot: Any
) -> None:
    viewer, _ = window
    panel, box, layer, _ = tools
    z, y, x = np.indices(SHAPE)
    wanted = ((z - 5) / 3) ** 2 + ((y - 29) / 6) ** 2 + ((x - 13) / 8) ** 2 <= 1
    noise = np.random.default_rng(5).normal(0, 4, SHAPE)
    place = layers.placement_of(layer)
    image = layers.bare(viewer.layers["ct"])
    image.data = place.shown((np.where(wanted, 130, 60) + noise).astype(np.int16))
    layer.selected_label = 3
    jump(viewer, layer, (5, 29, 13))
    qtbot.keyClicks(box.query, "lesion")
    qtbot.keyClick(box.query, Qt.Key.Key_Return)
    assert box.chosen == "lesion"
    assert box.at_once.isChecked()
    assert box.reason.text().startswith("Draw first")
    picker = box.form.pickers[0]
    picker.draw_button.click()
    ends = shown_points(place, [(5, 29, 5), (5, 29, 21)])
    with qtbot.waitSignal(box.applied, timeout=20_000):
        picker.layer.add([ends], shape_type="line")
    found = truth(layer, panel) == 3
    assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) > 0.8
    qtbot.waitUntil(lambda: picker.layer is None, timeout=3000)  # the drawing has done its work
    assert panel.host.editors.of(layer).case.history.last.tool == "lesion"


def test_the_brush_button_puts_the_brush_in_the_hand(tools: Any, window: Any) -> None:
    viewer, _ = window
    _, box, layer, _ = tools
    viewer.layers.selection.active = viewer.layers["ct"]
    box.buttons["brush"].click()
    assert str(layer.mode) == "paint"
    assert layers.bare(viewer.layers.selection.active) is layer


def test_a_picture_is_counted_in_pixels_and_has_no_hounsfield_tools(
    window: Any, qtbot: Any
) -> None:
    viewer, panel = window
    viewer.add_image(np.zeros((40, 50), np.uint8), name="photo")
    panel.host.image.choose(viewer.layers["photo"])
    panel.correct.make_labels()
    box = ToolBox(panel.host)
    qtbot.addWidget(box)
    box.choose("grow")
    texts = [label.text() for label in box.form.findChildren(type(box.title))]
    assert any("px" in text for text in texts), texts
    assert not any("mm" in text for text in texts)
    for name in box._tools:
        if "hu" in box._tools[name]["needs"]:
            assert name not in box.search(name)
    box.release()


def test_every_control_has_a_tooltip(tools: Any) -> None:
    _, box, _, _ = tools
    for name in box._tools:
        box.choose(name)
        for field in box.form.fields.values():
            assert field.toolTip() or any(c.toolTip() for c in field.children()), name
    for child in box.findChildren(QLineEdit):
        if child.parent() is box:
            assert child.toolTip()


def test_a_drawn_rectangle_limits_all_slices(tools: Any, apply: Any) -> None:
    panel, box, layer, ids = tools
    box.choose("grow")
    box.form.fields["margin"].setValue(2.0)
    box.limit.setCurrentText(RECTANGLE)
    box.rectangle.draw()
    corners = [(5, 20, 34), (5, 20, 46), (5, 38, 46), (5, 38, 34)]
    shown = shown_points(layers.placement_of(layer), corners)
    box.rectangle.layer.add([shown], shape_type="rectangle")
    QApplication.processEvents()
    assert box._box() == (slice(0, SHAPE[0]), slice(20, 39), slice(34, 47))
    apply(box)
    changed = np.argwhere(truth(layer, panel) != ids)
    assert changed[:, 2].min() >= 34
    assert set(changed[:, 0]) > {5}


def test_what_is_limited_to_the_slice_leaves_other_time_points(
    window: Any, apply: Any, qtbot: Any
) -> None:
    viewer, panel = window
    pixels, ids = case_arrays()
    geometry = Geometry(SHAPE, AFFINE)
    film = Image(np.stack([pixels] * 3), geometry, has_time=True)
    data, options, _ = layers.image_layers(film, name="film")[0]
    viewer.add_image(data, **options)
    mask = Mask(np.stack([ids] * 3), geometry, TABLE)
    layer = layers.bare(viewer.add_layer(Layer.create(*layers.mask_layer(mask, name="draft"))))
    box = ToolBox(panel.host)
    qtbot.addWidget(box)
    layer.selected_label = 2
    viewer.dims.set_current_step(0, 1)
    box.choose("grow")
    box.limit.setCurrentText(SLICE)
    apply(box)
    found = truth(layer, panel)
    assert (found[1] != ids).any()
    assert np.array_equal(found[0], ids)
    assert np.array_equal(found[2], ids)
    box.release()

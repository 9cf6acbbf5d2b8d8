"""The table of objects in a real window: live, walked with keys, decided by undoable steps."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Layer
from qtpy.QtCore import Qt

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.gui import layers
from maskloop.gui.pickers import true_points
from maskloop.ops.measure import measure

SHAPE = (12, 40, 48)
AFFINE = np.array([[0, 0, 1.0, 0], [0, 1.0, 0, 0], [-2.0, 0, 0, 0], [0, 0, 0, 1]])


def lesions() -> np.ndarray:
    """Return ids: a large, a middle and a small lesion of label 2, an organ of label 1."""
    ids = np.zeros(SHAPE, np.uint8)
    ids[1:11, 2:18, 2:18] = 1
    ids[3:8, 24:34, 28:40] = 2
    ids[2:5, 22:28, 4:10] = 2
    ids[9, 36:38, 2:5] = 2
    return ids


@pytest.fixture
def table(window: Any, qtbot: Any) -> tuple[Any, Any, Any, np.ndarray]:
    """Return (viewer, panel, labels layer, ids) with the section open and everything measured."""
    viewer, panel = window
    geometry, ids = Geometry(SHAPE, AFFINE), lesions()
    pixels = np.full(SHAPE, -1000, np.int16)
    pixels[ids == 1], pixels[ids == 2] = 60, 120
    data, options, _ = layers.image_layers(Image(pixels, geometry), name="ct")[0]
    viewer.add_image(data, **options)
    mask = Mask(ids, geometry, LabelTable.classes(["organ", "lesion"]))
    layer = layers.bare(viewer.add_layer(Layer.create(*layers.mask_layer(mask, name="draft"))))
    panel.objects.open()
    qtbot.waitUntil(lambda: panel.objects.list.rows.rowCount() == 4, timeout=10_000)
    return viewer, panel, layer, ids


def rows_of(panel: Any) -> dict[int, Any]:
    model = panel.objects.list.rows
    return {number: model.row(number) for number in model.numbers}


def largest(panel: Any) -> int:
    """Return the number of the largest lesion."""
    lesions_ = [row for row in rows_of(panel).values() if row.name == "lesion"]
    return int(max(lesions_, key=lambda row: row.measured.size).measured.id)


def same_as_measured(panel: Any, layer: Any) -> None:
    """Raise unless the table tells what measuring everything anew tells."""
    case = panel.host.editors.of(layer).case
    pixels = layers.image_of(layers.bare(panel.host.viewer.layers["ct"]))
    fresh = sorted(
        (m.label, m.voxels, round(m.long_axis.length, 6), m.mean)
        for m in measure(case.mask, pixels)
    )
    shown = sorted(
        (m.label, m.voxels, round(m.long_axis.length, 6), m.mean)
        for m in (row.measured for row in rows_of(panel).values() if row.status != "rejected")
    )
    assert shown == fresh


def test_the_table_is_what_measuring_gives(table: Any) -> None:
    _, panel, layer, _ = table
    same_as_measured(panel, layer)
    assert panel.objects.about.text() == "4 objects."


def test_a_section_that_is_closed_measures_nothing(window: Any) -> None:
    viewer, panel = window
    viewer.add_labels(np.ones((4, 5, 6), np.uint8), name="a")
    assert panel.objects.list.rows.rowCount() == 0
    assert not panel.host.editors.of(viewer.layers["a"]).is_open


def test_a_click_goes_there_and_draws_both_axes_on_their_slice(table: Any) -> None:
    viewer, panel, layer, _ = table
    number = largest(panel)
    panel.objects.list.choose(number)
    m = rows_of(panel)[number].measured
    place = layers.placement_of(layer)
    at = place.shown_box(tuple(slice(int(n), int(n) + 1) for n in m.long_axis.start))[0].start
    assert viewer.dims.current_step[0] == at
    drawn = layers.bare(viewer.layers["long and short axis"])
    ends = [true_points(place, line) for line in drawn.data]
    assert np.allclose(ends[0], (m.long_axis.start, m.long_axis.stop))
    assert np.allclose(ends[1], (m.short_axis.start, m.short_axis.stop))
    centre = np.asarray(viewer.scene.camera.center)[-2:]
    middle = np.asarray(layer.data_to_world(np.mean(drawn.data[0], axis=0)))[1:]
    assert np.allclose(centre, middle)
    assert viewer.layers.selection.active is not drawn
    assert layer.selected_label == 2
    assert "mm" in panel.objects.details.text()


def test_n_and_p_walk_the_rows_in_the_order_shown(table: Any, qtbot: Any) -> None:
    _, panel, _, _ = table
    view = panel.objects.list
    view.sortByColumn(2, Qt.SortOrder.DescendingOrder)
    sizes = [rows_of(panel)[n].measured.size for n in view.rows.numbers]
    assert sizes == sorted(sizes, reverse=True)
    seen = []
    for _ in range(5):
        qtbot.keyClick(view, Qt.Key.Key_N)
        seen.append(view.current.measured.id)
    numbers = list(view.rows.numbers)
    assert seen == [*numbers, numbers[0]]
    qtbot.keyClick(view, Qt.Key.Key_P)
    assert view.current.measured.id == numbers[-1]


def test_the_keys_work_in_the_picture_too(table: Any) -> None:
    viewer, panel, layer, _ = table
    viewer.layers.selection.active = layer
    panel.objects.list.step(1)
    first = panel.objects.list.current.measured.id
    keys = viewer.keymap
    press = {str(key): act for key, act in keys.items()}
    press["N"](viewer)
    assert panel.objects.list.current.measured.id != first
    press["Shift+N"](viewer)
    assert panel.objects.list.current.measured.id == first
    press["A"](viewer)
    assert rows_of(panel)[first].status == "accepted"


def test_a_stroke_changes_the_row_at_once(table: Any, qtbot: Any) -> None:
    _, panel, layer, _ = table
    number = largest(panel)
    before = rows_of(panel)[number]
    place = layers.placement_of(layer)
    spot = place.shown_box((slice(5, 6), slice(29, 30), slice(40, 41)))
    layer.brush_size = 3
    layer.paint(tuple(part.start for part in spot), 2)
    qtbot.waitUntil(lambda: rows_of(panel)[number].measured.voxels > before.measured.voxels)
    row = rows_of(panel)[number]
    assert row.status == "edited"
    assert row.added > 0
    assert "added" in panel.objects.details.text() or panel.objects.list.current is None
    same_as_measured(panel, layer)
    panel.host.editors.of(layer).undo()
    assert rows_of(panel)[number].measured.voxels == before.measured.voxels
    same_as_measured(panel, layer)


def test_reject_takes_the_voxels_keeps_the_row_and_is_undone(table: Any, qtbot: Any) -> None:
    _, panel, layer, ids = table
    number = largest(panel)
    panel.objects.list.choose(number)
    qtbot.keyClick(panel.objects.list, Qt.Key.Key_D)
    editor = panel.host.editors.of(layer)
    wanted = ids.copy()
    wanted[3:8, 24:34, 28:40] = 0
    assert np.array_equal(editor.case.mask.data, wanted)
    assert number not in rows_of(panel)
    rejected = [row for row in rows_of(panel).values() if row.status == "rejected"]
    assert [row.measured.voxels for row in rejected] == [5 * 10 * 12]
    assert len(editor.case.history) == 1
    assert editor.case.history.steps[0].startswith("reject lesion")
    editor.undo()
    assert np.array_equal(editor.case.mask.data, ids)
    assert {row.status for row in rows_of(panel).values()} == {"new"}
    assert len(rows_of(panel)) == 4
    editor.redo()
    assert [row.status for row in rows_of(panel).values()].count("rejected") == 1


def test_an_accepted_object_is_the_persons_and_undo_takes_it_back(table: Any) -> None:
    _, panel, layer, ids = table
    number = largest(panel)
    panel.objects.list.choose(number)
    panel.objects.accept.click()
    editor = panel.host.editors.of(layer)
    assert rows_of(panel)[number].status == "accepted"
    hand = editor.case.hand()
    assert hand[3:8, 24:34, 28:40].all()
    assert hand.sum() == 5 * 10 * 12
    without = editor.case.mask.data.copy()
    without[3:8] = 0
    change = editor.change(
        without[3:8] * 0, (slice(3, 8), slice(0, 40), slice(0, 48)), kind="model"
    )
    assert change.refused.by_hand == 5 * 10 * 12
    editor.undo()
    editor.undo()
    assert rows_of(panel)[number].status == "new"
    assert not editor.case.hand().any()
    assert np.array_equal(editor.case.mask.data, ids)


def test_verdicts_are_read_from_the_history_again(table: Any, qtbot: Any) -> None:
    _, panel, _, _ = table
    numbers = [n for n, row in rows_of(panel).items() if row.name == "lesion"]
    for number, act in zip(numbers, ("accept", "reject"), strict=False):
        panel.objects.list.choose(number)
        panel.objects._decide(act)
    statuses = sorted(row.status for row in rows_of(panel).values())
    panel.objects._forget()
    panel.objects.refresh()
    qtbot.waitUntil(lambda: panel.objects._index is not None, timeout=10_000)
    assert sorted(row.status for row in rows_of(panel).values()) == statuses
    assert statuses.count("accepted") == statuses.count("rejected") == 1


def test_edit_selects_the_label_and_the_brush(table: Any) -> None:
    viewer, panel, layer, _ = table
    number = largest(panel)
    panel.objects.list.choose(number)
    panel.objects.edit.click()
    assert str(layer.mode) == "paint"
    assert layer.selected_label == 2
    assert layers.bare(viewer.layers.selection.active) is layer
    assert rows_of(panel)[number].status == "edited"


def test_the_table_is_written_as_csv_and_json(table: Any, tmp_path: Path) -> None:
    _, panel, _, _ = table
    panel.objects.write(tmp_path / "objects.csv")
    panel.objects.write(tmp_path / "objects.json")
    with (tmp_path / "objects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = json.loads((tmp_path / "objects.json").read_text())["objects"]
    assert len(rows) == len(found) == 4
    volumes = sorted(row.measured.size for row in rows_of(panel).values())
    assert sorted(float(entry["volume_mm3"]) for entry in found) == pytest.approx(volumes)
    assert sorted(float(row["volume_mm3"]) for row in rows) == pytest.approx(volumes)


def test_objects_of_a_picture_are_counted_in_pixels(window: Any, qtbot: Any) -> None:
    viewer, panel = window
    ids = np.zeros((60, 80), np.uint16)
    for number, (y, x) in enumerate(((5, 5), (20, 30), (40, 60)), start=1):
        ids[y : y + 8, x : x + 5] = number
    mask = Mask(ids, Geometry.pixels(ids.shape), LabelTable.objects([1, 2, 3], "cell"))
    layer = layers.bare(viewer.add_layer(Layer.create(*layers.mask_layer(mask, name="cells"))))
    panel.objects.open()
    qtbot.waitUntil(lambda: panel.objects.list.rows.rowCount() == 3, timeout=10_000)
    panel.objects.list.choose(2)
    assert "40 px" in panel.objects.details.text()
    panel.objects.accept.click()
    editor = panel.host.editors.of(layer)
    assert editor.case.mask.labels[2].status == "accepted"
    editor.undo()
    assert editor.case.mask.labels[2].status == "new"
    assert rows_of(panel)[2].status == "new"


def test_five_hundred_objects_are_updated_within_a_tenth_of_a_second(
    window: Any, qtbot: Any
) -> None:
    viewer, panel = window
    ids = np.zeros((64, 256, 256), np.uint8)
    corners = [
        (z, y, x) for z in range(2, 60, 12) for y in range(4, 250, 25) for x in range(4, 250, 25)
    ]
    for z, y, x in corners[:500]:
        ids[z : z + 5, y : y + 9, x : x + 9] = 1
    mask = Mask(ids, Geometry.regular(ids.shape, (3, 1, 1)), LabelTable.classes(["cell"]))
    layer = layers.bare(viewer.add_layer(Layer.create(*layers.mask_layer(mask, name="many"))))
    panel.objects.open()
    qtbot.waitUntil(lambda: panel.objects.list.rows.rowCount() == 500, timeout=20_000)
    editor = panel.host.editors.of(layer)
    box = (slice(2, 8), slice(100, 125), slice(100, 125))
    times = []
    for number in (1, 0, 1):
        began = time.perf_counter()
        editor.change(np.full((6, 25, 25), number, np.uint8), box, kind="person")
        times.append(time.perf_counter() - began)
    assert max(row.measured.voxels for row in rows_of(panel).values()) == 6 * 25 * 25
    assert min(times) < 0.1, times

"""The reader's safety net in a real window: candidates, search first, warnings before export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Layer
from qtpy.QtCore import QPoint, Qt

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.core.review import Candidate
from maskloop.gui import layers
from maskloop.gui.pickers import true_points

SHAPE = (12, 40, 48)
AFFINE = np.array([[0, 0, 1.0, 0], [0, 1.0, 0, 0], [-2.0, 0, 0, 0], [0, 0, 0, 1]])
PEAKS = (0.2, 0.45, 0.3)


def candidates() -> list[Candidate]:
    """Return three balls that the model held likely, the likeliest second."""
    found = []
    for number, (start, peak) in enumerate(
        zip(((2, 5, 5), (6, 20, 30), (9, 30, 8)), PEAKS, strict=True), start=1
    ):
        region = np.zeros((2, 4, 5), bool)
        region[:, 1:3] = region[:, :, 2] = True
        found.append(
            Candidate.of(
                region,
                number=number,
                label=2,
                name="lesion",
                start=start,
                peak=peak,
                mean=peak / 2,
                voxel_mm3=2.0,
            )
        )
    return found


@pytest.fixture
def reviewed(window: Any) -> tuple[Any, Any, Any, Any]:
    """Return (viewer, panel, labels layer, editor) with candidates and the section open."""
    viewer, panel = window
    geometry = Geometry(SHAPE, AFFINE)
    ids = np.zeros(SHAPE, np.uint8)
    ids[3:10, 2:38, 2:40] = 1
    pixels = np.full(SHAPE, -1000, np.int16)
    pixels[ids == 1] = 60
    data, options, _ = layers.image_layers(
        Image(pixels, geometry, title="CT of a test"), name="ct"
    )[0]
    viewer.add_image(data, **options)
    mask = Mask(ids, geometry, LabelTable.classes(["liver", "lesion"]))
    layer = layers.bare(viewer.add_layer(Layer.create(*layers.mask_layer(mask, name="draft"))))
    panel.review.open()
    editor = panel.host.editors.of(layer)
    editor.case.review.propose(candidates())
    panel.review.watch.is_active = lambda: True
    panel.review.refresh()
    return viewer, panel, layer, editor


def numbers_of(panel: Any) -> list[int]:
    return [one.number for one in panel.review.list.rows.candidates]


def look_everywhere(viewer: Any, panel: Any) -> None:
    """Show each slice long enough, as the watch's own clock counts it."""
    watch = panel.review.watch
    for step in range(SHAPE[0]):
        viewer.dims.set_current_step(0, step)
        watch.settle()
        watch._since -= 0.4
        watch.settle()


def test_the_worklist_is_ordered_and_names_what_it_shows(reviewed: Any) -> None:
    _, panel, _, _ = reviewed
    assert [one.peak for one in panel.review.list.rows.candidates] == sorted(PEAKS, reverse=True)
    assert panel.review.about.text() == "3 of 3 candidates still to decide."
    row = [panel.review.list.rows.data(panel.review.list.rows.index(0, c)) for c in range(6)]
    size = f"{panel.review.list.rows.candidates[0].voxels * 2} mm\N{SUPERSCRIPT THREE}"
    assert row == ["2", "lesion", "45%", size, "6", ""]


def test_a_click_goes_there_with_a_marker(reviewed: Any) -> None:
    viewer, panel, layer, _ = reviewed
    panel.review.list.step(1)
    one = panel.review.list.current
    ring = layers.bare(viewer.layers["candidate"])
    place = layers.placement_of(layer)
    assert true_points(place, ring.data) == (tuple(float(n) for n in one.centre),)
    at = place.shown_box(tuple(slice(n, n + 1) for n in one.centre))[0].start
    assert viewer.dims.current_step[0] == at
    assert layers.bare(viewer.layers.selection.active) is not ring


def test_one_key_accepts_and_the_candidate_is_an_object_of_the_person(
    reviewed: Any, qtbot: Any
) -> None:
    _, panel, layer, editor = reviewed
    panel.review.list.step(1)
    one = panel.review.list.current
    qtbot.keyClick(panel.review.list, Qt.Key.Key_A)
    drawn = editor.case.mask.data[one.box] == 2
    assert np.array_equal(drawn, one.region)
    assert np.array_equal(layers.placement_of(layer).shown(editor.case.mask.data), layer.data)
    assert editor.case.hand(one.box)[one.region].all()
    last = editor.case.history.last
    assert (last.kind, last.words) == ("person", f"accept candidate {one.number}: lesion")
    assert [c.status for c in editor.case.review.candidates] == ["open", "accepted", "open"]
    assert panel.review.list.current.number != one.number  # on to the next one


def test_undo_puts_the_candidate_back_on_the_list(reviewed: Any, qtbot: Any) -> None:
    _, panel, _, editor = reviewed
    panel.review.list.step(1)
    panel.review.accept.click()
    editor.undo()
    assert not (editor.case.mask.data == 2).any()
    qtbot.waitUntil(
        lambda: panel.review.about.text() == "3 of 3 candidates still to decide.", timeout=3000
    )
    editor.redo()
    assert [c.status for c in editor.case.review.candidates].count("accepted") == 1


def test_one_key_dismisses_and_it_can_be_asked_again(reviewed: Any, qtbot: Any) -> None:
    _, panel, _, editor = reviewed
    for _ in range(3):
        panel.review.list.step(1)
        qtbot.keyClick(panel.review.list, Qt.Key.Key_D)
    assert not editor.case.review.open_candidates
    assert panel.review.about.text() == "All decided."
    assert len(editor.case.history) == 0
    panel.review.list.selectRow(0)
    panel.review.refresh()
    panel.review.reopen.click()
    assert len(editor.case.review.open_candidates) == 1


def test_search_first_hides_the_draft_and_it_cannot_be_shown_by_mistake(reviewed: Any) -> None:
    _, panel, layer, editor = reviewed
    panel.objects.open()
    panel.review.search.click()
    assert not layer.visible
    layer.visible = True
    assert not layer.visible
    assert "stays hidden" in panel.host.message.text()
    assert not numbers_of(panel)
    assert not panel.objects.list.isVisibleTo(panel)
    assert "unseen" in panel.review.show_draft.text()
    panel.review.show_draft.click()
    assert layer.visible
    assert [(s.anyway, s.unseen > 0) for s in editor.case.review.showings] == [(True, True)]
    assert len(numbers_of(panel)) == 3
    layer.visible = False  # the person's own business again
    assert not layer.visible


def test_after_the_search_the_draft_is_shown_and_that_is_recorded(reviewed: Any) -> None:
    viewer, panel, layer, editor = reviewed
    panel.review.search.click()
    assert panel.review.scope.currentText() == "liver"
    look_everywhere(viewer, panel)
    assert panel.review.show_draft.text() == "Show the draft"
    assert panel.review.coverage.text().startswith("7 of 7 slices looked at (Soft tissue")
    panel.review.show_draft.click()
    assert layer.visible
    assert [(s.anyway, s.unseen) for s in editor.case.review.showings] == [(False, 0)]


def test_the_strip_follows_the_slider_and_a_click_goes_there(reviewed: Any, qtbot: Any) -> None:
    viewer, panel, _, _ = reviewed
    panel.review.scope.setCurrentIndex(0)
    viewer.dims.set_current_step(0, 3)
    panel.review.watch.settle()
    strip = panel.review.strip
    strip.resize(240, strip.height())
    where = 20 * 7 + 10  # the eighth of twelve, as the slider counts
    qtbot.mouseClick(strip, Qt.MouseButton.LeftButton, pos=QPoint(where, 5))
    assert viewer.dims.current_step[0] == 7


def test_export_warns_before_and_records_what_was_not_reviewed(
    reviewed: Any, settle: Any, tmp_path: Path
) -> None:
    _, panel, _, _ = reviewed
    panel.export.open()
    assert "not looked at" in panel.export.warnings.text().lower()
    assert "3 candidates" in panel.export.warnings.text()
    panel.export.path.setText(str(tmp_path / "out.nii.gz"))
    panel.export.run.click()
    settle(panel)
    text = panel.export.receipt.toPlainText()
    assert "warning" in text
    receipt = next(tmp_path.glob("*receipt*.json"), None) or next(tmp_path.glob("*.json"))
    kept = json.loads(receipt.read_text())
    assert any("not looked at" in w for w in kept["warnings"])
    assert any("3 candidates" in w for w in kept["warnings"])


def test_when_all_is_seen_and_decided_export_warns_of_nothing(reviewed: Any, qtbot: Any) -> None:
    viewer, panel, _, _ = reviewed
    look_everywhere(viewer, panel)
    for _ in range(3):
        panel.review.list.step(1)
        panel.review.dismiss.click()
    panel.export.open()
    assert panel.export.warnings.text() == ""


def test_nothing_is_opened_for_a_section_that_is_closed(window: Any) -> None:
    viewer, panel = window
    viewer.add_labels(np.ones((4, 5, 6), np.uint8), name="a")
    assert not panel.review.header.isChecked()
    assert not panel.host.editors.of(viewer.layers["a"]).is_open

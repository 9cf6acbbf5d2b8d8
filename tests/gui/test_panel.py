"""The panel in a real window: predict, correct, export, train, and what people do in between."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array
import nibabel
import numpy as np
import pytest
from PIL import Image as Picture
from qtpy.QtWidgets import QAbstractButton, QComboBox, QLabel, QLineEdit, QWidget

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.gui import layers, parents
from maskloop.gui import panel as panel_module
from maskloop.gui.placement import Placement
from maskloop.gui.tips import TIPS

Settle = Callable[[Any], None]


def ct() -> Image:
    """Return air with a warm block in it and a hot one in that, feet first and left-handed."""
    pixels = np.full((10, 24, 20), -1000, np.int16)
    pixels[2:8, 4:20, 4:16] = 70
    pixels[4:6, 8:12, 6:10] = 150
    affine = np.array([[0, 0, 2.0, 0], [0, -2.0, 0, 0], [-3.0, 0, 0, 0], [0, 0, 0, 1]])
    return Image(pixels, Geometry(pixels.shape, affine))


def add_ct(viewer: Any) -> Any:
    data, options, _ = layers.image_layers(ct(), name="ct")[0]
    return layers.bare(viewer.add_image(data, **options))


def layer_named(viewer: Any, name: str) -> Any:
    return layers.bare(viewer.layers[name])


def test_predict_makes_one_named_undoable_layer_in_place(window: Any, settle: Settle) -> None:
    viewer, panel = window
    image = add_ct(viewer)
    panel.predict.choose("fake3d")
    panel.predict.run.click()
    assert panel.host.is_busy
    settle(panel)

    result = layer_named(viewer, "ct_fake3d")
    assert np.array_equal(result.data == 1, image.data == 70)
    assert np.array_equal(result.scale, image.scale)
    assert result.units == image.units
    assert layers.mask_of(result)[0].geometry.matches(ct().geometry)
    assert list(result.features["name"]) == ["background", "liver", "tumour"]
    assert panel.host.labels.layer is result
    case = panel.host.editors.of(result).case
    (edit,) = case.history
    assert (edit.kind, edit.author) == ("model", "fake3d")
    assert {"model", "weights", "device", "seconds", "parameters", "version"} <= set(edit.about)
    panel.correct.undo.click()
    assert not result.data.any()
    assert not layers.table_of(result)


def test_a_second_run_is_a_step_in_the_same_layer(window: Any, settle: Settle) -> None:
    viewer, panel = window
    add_ct(viewer)
    panel.predict.choose("fake3d")
    panel.predict.run.click()
    settle(panel)
    result = layer_named(viewer, "ct_fake3d")
    result.selected_label = 2
    result.paint((5, 2, 2), 2)
    painted = result.data.copy()
    by_hand = painted == 2
    by_hand[layers.bare(viewer.layers["ct"]).data == 150] = False
    assert by_hand.any()
    viewer.layers["ct"].data[:] = -1000  # the model now finds nothing
    panel.predict.run.click()
    settle(panel)
    assert [x.name for x in viewer.layers] == ["ct", "ct_fake3d", "refused"]
    assert np.array_equal(result.data > 0, by_hand)
    assert f"{by_hand.sum()} voxels painted by hand" in panel.host.message.text()
    panel.correct.undo.click()
    assert np.array_equal(result.data, painted)


def test_the_model_proposed_fits_the_image(window: Any) -> None:
    viewer, panel = window
    viewer.add_image(np.zeros((30, 40)), name="flat")
    assert 2 in panel.predict.chosen["ndim"]
    add_ct(viewer)
    assert 3 in panel.predict.chosen["ndim"]


def test_run_is_disabled_with_a_reason(window: Any) -> None:
    viewer, panel = window
    assert not panel.predict.run.isEnabled()
    assert "Open an image" in panel.predict.reason.text()
    viewer.add_image(np.zeros((30, 40)), name="flat")
    panel.predict.choose("fake3d")
    assert not panel.predict.run.isEnabled()
    assert panel.predict.reason.text() == "fake3d needs a volume; flat is a picture."
    panel.predict.choose("fake2d")
    assert panel.predict.run.isEnabled()


def test_a_ct_model_warns_on_what_is_no_ct(window: Any, fake_models: Callable[..., None]) -> None:
    viewer, panel = window
    fake_models("ct-only", ndim=3, modality="CT")
    panel.predict.refresh.click()
    viewer.add_image(np.zeros((10, 20, 30)), name="mri")
    panel.predict.choose("ct-only")
    assert "Hounsfield" in panel.predict.reason.text()
    assert panel.predict.run.isEnabled()


def test_stop_works_within_a_second_and_changes_nothing(
    window: Any, fake_models: Callable[..., None], qtbot: Any, settle: Settle
) -> None:
    viewer, panel = window
    fake_models("deaf", ndim=3, how="deaf")
    panel.predict.refresh.click()
    add_ct(viewer)
    panel.predict.choose("deaf")
    panel.predict.run.click()
    qtbot.wait(800)
    before = time.monotonic()
    panel.host.stop_button.click()
    settle(panel)
    assert time.monotonic() - before < 1
    assert [x.name for x in viewer.layers] == ["ct"]
    assert "stopped" in panel.host.message.text()
    assert panel.predict.run.isEnabled()


def test_errors_of_torch_are_shown(
    window: Any, fake_models: Callable[..., None], settle: Settle
) -> None:
    viewer, panel = window
    fake_models("full", ndim=3, how="fail")
    panel.predict.refresh.click()
    add_ct(viewer)
    panel.predict.choose("full")
    panel.predict.run.click()
    settle(panel)
    assert "CUDA out of memory" in panel.host.message.text()
    assert panel.predict.run.isEnabled()


def test_a_layer_deleted_while_a_model_runs_does_no_harm(
    window: Any, fake_models: Callable[..., None], settle: Settle
) -> None:
    viewer, panel = window
    add_ct(viewer)
    panel.predict.choose("fake3d")
    panel.predict.run.click()
    viewer.layers.remove("ct")
    settle(panel)
    assert layer_named(viewer, "ct_fake3d").data.any()


def test_renamed_and_deleted_layers_are_followed(window: Any, settle: Settle) -> None:
    viewer, panel = window
    image = add_ct(viewer)
    image.name = "liver phase"
    assert panel.host.image.currentText() == "liver phase"
    panel.predict.choose("fake3d")
    panel.predict.run.click()
    settle(panel)
    assert "liver phase_fake3d" in viewer.layers
    viewer.layers.clear()
    assert panel.host.image.layer is None
    assert panel.host.labels.layer is None
    assert not panel.predict.run.isEnabled()
    assert not panel.correct.toolbox.apply.isEnabled()
    assert not panel.export.run.isEnabled()


def test_one_frame_of_a_lazy_series_is_segmented_into_its_frame(
    window: Any, settle: Settle
) -> None:
    viewer, panel = window
    pixels = np.zeros((5, 30, 40))
    pixels[3, 5:10] = 80
    viewer.add_image(dask.array.from_array(pixels), axis_labels=("t", "y", "x"), name="movie")
    panel.predict.choose("fake2d")
    assert panel.predict.rows_of_form.isRowVisible(panel.predict.frames[0])
    viewer.dims.set_current_step(0, 3)
    assert panel.predict.frames[0].value() == 3
    panel.predict.run.click()
    settle(panel)
    result = layer_named(viewer, "movie_fake2d")
    assert result.data.shape == pixels.shape
    assert np.array_equal(result.data > 0, pixels > 0)


def test_a_colour_picture_asks_for_its_channel(window: Any, settle: Settle) -> None:
    viewer, panel = window
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:10, :, 1] = 200
    viewer.add_image(pixels, rgb=True, name="photo")
    panel.predict.choose("fake2d")
    assert panel.predict.rows_of_form.isRowVisible(panel.predict.channel)
    panel.predict.channel.setCurrentText("green")
    panel.predict.run.click()
    settle(panel)
    assert (layer_named(viewer, "photo_fake2d").data == 2).sum() == 400


def test_ct_windows_are_one_click_and_only_for_ct(window: Any) -> None:
    viewer, panel = window
    image = add_ct(viewer)
    panel.load.windows["Liver"].click()
    assert image.contrast_limits == [0, 160]
    panel.load.windows["Lung"].click()
    assert image.contrast_limits == [-1350, 150]
    viewer.add_image(np.zeros((10, 20, 30)), name="mri")
    assert not panel.load.windows["Liver"].isEnabled()


def test_a_coronal_view_stands_on_its_feet(window: Any) -> None:
    viewer, _ = window
    add_ct(viewer)
    assert str(viewer.scene.camera.orientation[1]) == "down"
    viewer.dims.order = (1, 0, 2)
    assert str(viewer.scene.camera.orientation[1]) == "up"
    viewer.dims.order = (0, 1, 2)
    assert str(viewer.scene.camera.orientation[1]) == "down"


def test_a_tool_is_one_undoable_step_on_the_selected_label(
    window: Any, settle: Settle, qtbot: Any
) -> None:
    viewer, panel = window
    add_ct(viewer)
    panel.correct.new.click()
    labels = panel.host.labels.layer
    labels.data_setitem(np.nonzero(np.ones((2, 2, 2))), 1)
    labels.data_setitem((np.array([5, 5, 5]), np.array([9, 9, 9]), np.array([8, 9, 10])), 1)
    before = labels.data.copy()
    editor = panel.host.editors.of(labels)
    editor.flush()
    panel.correct.toolbox.over_hand.setChecked(True)
    panel.correct.toolbox.choose("islands")
    panel.correct.toolbox.apply.click()
    qtbot.waitUntil(lambda: (labels.data > 0).sum() == 8, timeout=20_000)
    settle(panel)
    panel.correct.undo.click()
    assert np.array_equal(labels.data, before)
    panel.correct.redo.click()
    assert (labels.data > 0).sum() == 8


def test_the_class_table_names_chooses_and_hides(window: Any, settle: Settle) -> None:
    viewer, panel = window
    add_ct(viewer)
    panel.predict.choose("fake3d")
    panel.predict.run.click()
    settle(panel)
    result = layer_named(viewer, "ct_fake3d")
    table = panel.correct.table
    assert [table.item(r, 2).text() for r in range(table.rowCount())] == ["liver", "tumour"]
    table.selectRow(1)
    assert result.selected_label == 2
    assert result.selected_label == 2
    result.selected_label = 1
    assert table.currentRow() == 0 or table.selectionModel().selectedRows()[0].row() == 0
    table.item(1, 2).setText("metastasis")
    assert layers.table_of(result)[2].name == "metastasis"
    from qtpy.QtCore import Qt

    table.item(1, 3).setCheckState(Qt.CheckState.Unchecked)
    assert result.get_color(2)[3] == 0
    panel.correct.classes.add_label.click()
    assert result.selected_label == 3
    assert table.rowCount() == 3


def test_labels_of_another_plugin_are_listed_on_demand(window: Any) -> None:
    viewer, panel = window
    viewer.add_labels(np.array([[0, 4], [9, 9]]), name="theirs")
    assert panel.correct.table.rowCount() == 0
    panel.correct.classes.scan.click()
    assert panel.correct.table.rowCount() == 2


def test_background_is_not_corrected(window: Any) -> None:
    viewer, panel = window
    labels = viewer.add_labels(np.zeros((5, 5), np.uint8))
    labels.selected_label = 0
    assert not panel.correct.toolbox.apply.isEnabled()
    assert "background" in panel.correct.toolbox.reason.text()


def test_export_shows_the_receipt_and_keeps_the_grid(
    window: Any, settle: Settle, tmp_path: Path
) -> None:
    viewer, panel = window
    add_ct(viewer)
    panel.predict.choose("fake3d")
    panel.predict.run.click()
    settle(panel)
    out = tmp_path / "liver.nii.gz"
    assert panel.export.path.text().endswith("ct_fake3d.nii.gz")
    panel.export.path.setText(str(out))
    panel.export.run.click()
    settle(panel)
    assert "PASS" in panel.export.receipt.toPlainText()
    assert not panel.export.receipt.isHidden()
    expected = Geometry(ct().geometry.shape, ct().geometry.affine)
    found = nibabel.load(out)
    assert np.allclose(found.affine[:3, 3], expected.affine[:3, 3])
    assert (np.asarray(found.dataobj) == 2).sum() == 32


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
def test_new_labels_of_napari_are_exported_on_the_grid_of_their_oblique_ct(
    window: Any, settle: Settle, tmp_path: Path, order: tuple[int, ...]
) -> None:
    affine = np.array(
        [[-0.9, 0.2, 0.0, 40], [0.2, 0.9, 0.3, -30], [0.0, -0.2, 2.4, 10], [0, 0, 0, 1]]
    )
    pixels = np.random.default_rng(3).integers(-1000, 900, (12, 11, 10)).astype(np.int16)
    path = tmp_path / "ct.nii.gz"
    nibabel.Nifti1Image(pixels, affine).to_filename(path)
    viewer, panel = window
    (image,) = viewer.open(str(path), plugin="napari-maskloop")
    viewer.layers.selection = {image}
    viewer.dims.order = order
    viewer._new_labels()
    labels = layers.bare(viewer.layers[-1])
    labels.brush_size = 3
    labels.paint((4, 6, 7), 1)
    out = tmp_path / "painted.nii.gz"
    panel.export.path.setText(str(out))
    panel.export.run.click()
    settle(panel)
    assert "PASS" in panel.export.receipt.toPlainText()
    found = nibabel.load(out)
    assert np.allclose(found.affine, affine, atol=1e-5)
    marked = np.sort(pixels[np.asarray(found.dataobj) > 0])
    assert np.array_equal(marked, np.sort(image.data[labels.data > 0]))


def test_new_labels_keep_their_place_when_their_image_is_removed(
    window: Any, settle: Settle, tmp_path: Path
) -> None:
    viewer, panel = window
    image = add_ct(viewer)
    viewer.layers.selection = {image}
    viewer._new_labels()
    labels = layers.bare(viewer.layers[-1])
    labels.data_setitem((np.array([4]), np.array([3]), np.array([2])), 1)
    viewer.layers.remove(image)
    out = tmp_path / "painted.nii.gz"
    panel.export.path.setText(str(out))
    panel.export.run.click()
    settle(panel)
    found = nibabel.load(out)
    (x, y, z) = np.argwhere(np.asarray(found.dataobj))[0]
    place = Placement.of(ct())
    (index,) = np.argwhere(place.restored(labels.data))
    there = found.affine @ (x, y, z, 1)
    assert np.allclose(there[:3], ct().geometry.to_world(index), atol=1e-4)


def test_strokes_on_new_labels_of_napari_are_in_the_journal(window: Any, tmp_path: Path) -> None:
    from maskloop.desk.cases import case_folder, replay

    affine = np.diag([-0.7, -0.7, 5.0, 1.0])
    path = tmp_path / "ct.nii.gz"
    nibabel.Nifti1Image(np.zeros((9, 8, 7), np.int16), affine).to_filename(path)
    viewer, panel = window
    (image,) = viewer.open(str(path), plugin="napari-maskloop")
    viewer.layers.selection = {image}
    viewer._new_labels()
    labels = layers.bare(viewer.layers[-1])
    labels.brush_size = 3
    labels.paint((3, 4, 5), 1)
    panel.host.keeping.close()
    kept = replay(case_folder(path))
    place = layers.placement_of(layers.bare(image))
    assert np.array_equal(place.shown(kept.data), labels.data)


def test_labels_of_unknown_place_are_refused_in_the_panel(
    window: Any, settle: Settle, tmp_path: Path
) -> None:
    viewer, panel = window
    viewer.add_image(np.zeros((4, 5, 6)), scale=(3, 1, 1), units=("mm",) * 3, name="theirs")
    viewer._new_labels()
    panel.export.path.setText(str(tmp_path / "out.nii.gz"))
    panel.export.run.click()
    settle(panel)
    assert "open the image with maskloop" in panel.host.message.text()
    assert list(tmp_path.glob("out*")) == []


def test_every_format_that_holds_masks_is_offered_and_filtered(window: Any) -> None:
    from maskloop.desk.catalogue import list_formats
    from maskloop.gui.sections.load import filters

    _, panel = window
    offered = [
        panel.export.format.itemText(i).split()[0] for i in range(panel.export.format.count())
    ]
    assert len(offered) == len(set(offered))
    for row in list_formats():
        if "masks" in row["writes"]:
            assert row["suffixes"][0] in offered
    for suffix in (".nii.gz", ".seg.nrrd", ".mha", ".seg.dcm", ".png", ".json"):
        assert suffix in offered
    assert "*.mgz" in filters("images")
    assert "*.json" not in filters("images")
    assert "*.seg.nrrd" in filters("masks")


def test_the_mouse_is_followed_within_two_milliseconds(window: Any) -> None:
    viewer, panel = window
    add_ct(viewer)
    panel.correct.new.click()
    panel.host.labels.layer.data[:] = 1
    points = [panel.host.image.layer.data_to_world((3, 4 + i % 9, 5)) for i in range(300)]
    viewer.cursor.position = tuple(points[0])
    start = time.process_time()
    for point in points:
        viewer.cursor.position = tuple(point)
    assert (time.process_time() - start) / len(points) < 0.002
    first, second = panel.host.under_mouse.text().split("\n")
    assert first.endswith("mm")
    assert "label 1 (1)" in second
    viewer.cursor.position = (1e6, 1e6, 1e6)
    assert panel.host.under_mouse.text() == "\n"


def test_the_preferred_side_is_taken_from_the_preferences(
    make_napari_viewer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maskloop.gui.sections import load as load_module

    preferred = {"sides": "neurological"}
    monkeypatch.setattr(load_module, "setting", preferred.get)
    viewer = make_napari_viewer()
    _, panel = viewer.window.add_plugin_dock_widget("napari-maskloop", "maskloop")
    add_ct(viewer)
    assert panel.letters == {"top": "A", "bottom": "P", "left": "L", "right": "R"}
    panel.load.convention.setCurrentIndex(0)
    assert panel.letters["left"] == "R"


def test_overlapping_regions_open_as_one_layer_each(
    window: Any, settle: Settle, shared_data: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(shared_data / "dicom" / "dcmqi_seg" / "segmentations.zip") as packed:
        packed.extractall(tmp_path)
    viewer, panel = window
    panel.load.open_path(tmp_path / "ct-3slice")
    settle(panel)
    panel.load.open_path(tmp_path / "partial_overlaps.dcm")
    settle(panel)
    image, *masks = viewer.layers
    assert image.name == "CT series 2"
    assert len(masks) > 1
    assert len({mask.name for mask in masks}) == len(masks)
    for mask in masks:
        assert type(layers.bare(mask)).__name__ == "Labels"
        assert mask.data.any()
        assert layers.same_grid(mask, image)


def test_export_of_a_picture_as_coco(window: Any, settle: Settle, tmp_path: Path) -> None:
    viewer, panel = window
    viewer.add_image(np.zeros((30, 40)), name="cells")
    ids = np.zeros((30, 40), np.int32)
    ids[2:6, 2:6], ids[10:14, 2:6] = 1, 2
    viewer.add_labels(ids, name="nuclei")
    panel.export.kind.setCurrentText("objects")
    formats = [panel.export.format.itemText(i) for i in range(panel.export.format.count())]
    panel.export.format.setCurrentIndex(next(i for i, f in enumerate(formats) if ".json" in f))
    out = tmp_path / "nuclei.json"
    panel.export.path.setText(str(out))
    panel.export.run.click()
    settle(panel)
    assert len(json.loads(out.read_text())["annotations"]) == 2


def test_a_failed_export_says_why(window: Any, settle: Settle, tmp_path: Path) -> None:
    viewer, panel = window
    viewer.add_labels(np.zeros((3, 30, 40), np.uint8), name="stack")
    panel.export.path.setText(str(tmp_path / "stack.png"))
    panel.export.run.click()
    settle(panel)
    assert "expected" in panel.host.message.text()
    assert not (tmp_path / "stack.png").exists()


def test_open_loads_beside_the_window(window: Any, settle: Settle, tmp_path: Path) -> None:
    viewer, panel = window
    path = tmp_path / "photo.png"
    Picture.fromarray(np.full((30, 40), 90, np.uint8)).save(path)
    panel.load.open_path(path)
    settle(panel)
    assert viewer.layers[0].name == "photo"
    panel.load.open_path(tmp_path / "missing.nii.gz")
    settle(panel)
    assert "missing.nii.gz" in panel.host.message.text()
    assert len(viewer.layers) == 1


def test_one_task_at_a_time(window: Any, fake_models: Callable[..., None], settle: Settle) -> None:
    viewer, panel = window
    fake_models("slow", ndim=3, how="slow")
    panel.predict.refresh.click()
    add_ct(viewer)
    panel.predict.choose("slow")
    panel.predict.run.click()
    for button in (
        panel.predict.run,
        panel.correct.toolbox.apply,
        panel.export.run,
        panel.train.run,
    ):
        assert not button.isEnabled()
    panel.host.stop_button.click()
    settle(panel)
    assert panel.predict.run.isEnabled()


def test_a_card_that_torch_cannot_use_is_told_with_its_cure(
    window: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import maskloop.desk.doctor as desk

    monkeypatch.setattr(
        desk,
        "doctor",
        lambda: {"device": {"problem": "a GPU that torch cannot use", "fix": "pip install X"}},
    )
    _, panel = window
    panel.predict.look_at_gpu()
    qtbot.waitUntil(lambda: "pip install X" in panel.predict.gpu.text(), timeout=5000)


def test_at_1366_by_768_nothing_is_cut_off(window: Any, qtbot: Any) -> None:
    viewer, panel = window
    add_ct(viewer)
    viewer.add_image(np.zeros((30, 40, 3), np.uint8), rgb=True, name="a photograph " * 8)
    panel.host.say("expected a file in /a/very/long/path" + "/folder" * 40, "error")
    for section in panel.sections:
        section.open()
    panel.export.receipt.show()
    panel.train.curve.show()
    qt_window = viewer.window._qt_window
    viewer.show()
    qt_window.resize(1366, 768)
    qtbot.wait(300)
    assert qt_window.width() <= 1366
    wide = panel.area.viewport().width()
    inside = panel.area.widget()
    assert inside.width() <= wide, (panel.area.minimumWidth(), panel.width())
    for kind in (QAbstractButton, QComboBox, QLineEdit, QLabel):
        for child in inside.findChildren(kind):
            if child.isVisible() and child.window() is panel.window():
                right = child.mapTo(inside, child.rect().topRight()).x()
                assert right <= wide, child.objectName() or child
                if isinstance(child, QAbstractButton):
                    assert child.width() >= child.minimumSizeHint().width(), child.text()
    assert panel.host.mapTo(panel, panel.host.rect().bottomLeft()).y() <= panel.height()


def test_every_control_has_a_tooltip(window: Any) -> None:
    _, panel = window
    assert all(text.endswith(".") for text in TIPS.values())
    for kind in (QAbstractButton, QComboBox, QLineEdit):
        for child in panel.findChildren(kind):
            own = child
            while own is not None and not own.toolTip() and isinstance(own, QWidget):
                own = own.parentWidget()
                if own is panel:
                    own = None
            assert own is not None, child


def test_closing_the_dock_lets_go_of_the_viewer(make_napari_viewer: Any, qtbot: Any) -> None:
    viewer = make_napari_viewer()
    dock, panel = viewer.window.add_plugin_dock_widget("napari-maskloop", "maskloop")
    assert isinstance(panel, panel_module.Panel)
    gone = []
    panel.destroyed.connect(lambda: gone.append(True))
    viewer.window.remove_dock_widget(dock)
    panel.deleteLater()
    qtbot.waitUntil(lambda: bool(gone), timeout=5000)
    add_ct(viewer)
    viewer.layers[0].name = "other"
    viewer.dims.set_current_step(0, 3)
    viewer.layers.clear()


def test_training_shows_its_curve_its_verdict_and_a_new_model(
    window: Any,
    settle: Settle,
    fake_models: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The window's part alone: the verb is replaced, so that what it says is known."""
    import maskloop.loop.train as verb

    asked = {}

    def fake_train(
        cases: Any, base: str, name: str, *, steps: int | None, recipe: str, job: Any
    ) -> Any:
        asked.update(cases=cases, base=base, name=name, steps=steps, recipe=recipe)
        for step in range(1, 4):
            job.report("train", step, 3, note=f"loss={1 / step} held_out_dice:tumour=0.{step}")
        fake_models("taught", ndim=3)
        point = SimpleNamespace(step=3, held_out={"tumour": 0.45})
        return SimpleNamespace(
            card=SimpleNamespace(name="taught"),
            old={"tumour": 0.2},
            new={"tumour": 0.45},
            measure="Dice",
            verdict="candidate, unproved",
            reasons=("one case is no proof",),
            split="spatial block",
            curve=(point,),
            steps=3,
            is_promoted=False,
        )

    monkeypatch.setattr(verb, "train", fake_train)
    viewer, panel = window
    image = add_ct(viewer)
    assert not panel.train.run.isEnabled()
    panel.predict.choose("fake3d")
    panel.predict.run.click()
    settle(panel)
    panel.train.add_case.click()
    image.data[:] = 0  # what was added is a copy of the labels as they were
    layer_named(viewer, "ct_fake3d").data[:] = 0
    panel.train.base.setCurrentText("fake3d")
    panel.train.name.setText("taught")
    panel.train.steps.setValue(3)
    panel.train.run.click()
    settle(panel)

    ((seen, mask),) = asked["cases"]
    assert (asked["base"], asked["name"], asked["steps"]) == ("fake3d", "taught", 3)
    assert asked["recipe"] == ""
    assert seen.geometry.matches(ct().geometry)
    assert (mask.data == 2).sum() == 32
    assert [step for step, _ in panel.train.curve.loss] == [1, 2, 3]
    assert panel.train.curve.scores["tumour"][-1] == (3, 0.45)
    assert "tumour: 0.200 → 0.450" in panel.train.verdict.text()
    assert "one case is no proof" in panel.train.verdict.text()
    assert panel.predict.model.findText("taught") >= 0
    assert panel.train.base.findText("taught") >= 0
    panel.train.name.setText("")
    panel.train.base.choose("segnet:vgg16")
    assert panel.train.name.text() == "segnet-vgg16-mine"
    panel.train.recipe.setCurrentText("paper")
    panel.train.run.click()
    settle(panel)
    assert (asked["base"], asked["recipe"]) == ("segnet:vgg16", "paper")


def test_probabilities_become_hidden_layers_in_the_place_of_the_image(
    window: Any, fake_models: Callable[..., None], settle: Settle
) -> None:
    viewer, panel = window
    fake_models("likely", ndim=3, how="likely")
    panel.predict.refill()
    image = add_ct(viewer)
    panel.predict.choose("likely")
    panel.predict.chances.setChecked(True)
    for _ in range(2):
        panel.predict.run.click()
        settle(panel)
    names = [x.name for x in viewer.layers]
    title = "ct_likely probability"
    assert sorted(names) == sorted(["ct", "ct_likely", f"{title}: liver", f"{title}: tumour"])
    assert names[-1] == "ct_likely"
    liver = layer_named(viewer, f"{title}: liver")
    assert not liver.visible
    assert np.array_equal(liver.data == np.float32(0.75), image.data == 70)
    assert np.array_equal(liver.scale, image.scale)
    assert np.array_equal(liver.translate, image.translate)
    assert layers.bare(viewer.layers.selection.active) is layer_named(viewer, "ct_likely")
    assert panel.host.image.layer is image
    assert parents.image_behind(layer_named(viewer, "ct_likely"), list(viewer.layers)) is image


def test_objects_are_neither_refined_nor_likely(
    window: Any, fake_models: Callable[..., None]
) -> None:
    viewer, panel = window
    fake_models("cells", ndim=3, task="instance")
    panel.predict.refill()
    add_ct(viewer)
    panel.predict.choose("cells")
    assert not panel.predict.refine.isEnabled()
    assert "one by one" in panel.predict.chances.toolTip()
    panel.predict.choose("fake3d")
    assert panel.predict.refine.isEnabled()


def test_the_edges_are_followed_where_asked(
    window: Any, settle: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    import maskloop.loop.predict as verb

    asked = []
    plain = verb.Predictor.predict

    def predict(self: Any, image: Any, job: Any, **told: Any) -> Any:
        asked.append((told["refine"], told["probabilities"]))
        return plain(self, image, job, **told)

    monkeypatch.setattr(verb.Predictor, "predict", predict)
    viewer, panel = window
    add_ct(viewer)
    panel.predict.choose("fake3d")
    panel.predict.run.click()
    settle(panel)
    panel.predict.refine.setChecked(True)
    panel.predict.run.click()
    settle(panel)
    assert asked == [(None, False), (True, False)]
    assert layer_named(viewer, "ct_fake3d").data.any()


def test_run_asks_for_the_folder_of_weights_that_cannot_be_downloaded(
    window: Any,
    settle: Settle,
    shared_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with zipfile.ZipFile(shared_data / "weights/brainchop/models.zip") as held:
        held.extractall(tmp_path / "held")
    viewer, panel = window
    add_ct(viewer)
    panel.predict.choose("brainchop-tissue-light")
    assert "Run asks for its folder model5_gw_ae" in panel.predict.about.text()
    answers = iter(["", str(tmp_path / "held" / "model5_gw_ae")])
    ask = "maskloop.gui.sections.predict.QFileDialog.getExistingDirectory"
    monkeypatch.setattr(ask, lambda *_: next(answers))
    panel.predict.run.click()  # no folder was chosen
    assert not panel.host.is_busy
    panel.predict.run.click()
    settle(panel)
    assert panel.predict.chosen["name"] == "brainchop-tissue-light"
    assert panel.predict.chosen["state"] == "present"
    assert "press Run" in panel.host.message.text()
    assert "asks for its folder" not in panel.predict.about.text()

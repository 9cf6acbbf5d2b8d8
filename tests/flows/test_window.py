"""The walks of the design, in a real napari window, on phantoms and shipped models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image as Picture

from maskloop.desk.cases import case_folder, replay
from maskloop.gui import layers
from maskloop.ops.phantom import nuclei_picture, phantom_ct

_WAIT_MS = 200_000


@pytest.fixture
def window(make_napari_viewer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("NAPARI_CONFIG", str(tmp_path / "napari" / "settings.yaml"))
    viewer = make_napari_viewer()
    _, panel = viewer.window.add_plugin_dock_widget("napari-maskloop", "maskloop")
    return viewer, panel


@pytest.fixture
def settle(qtbot: Any) -> Callable[[Any], None]:
    def wait(panel: Any) -> None:
        qtbot.waitUntil(lambda: not panel.host.is_busy, timeout=_WAIT_MS)

    return wait


def dice(found: Any, truth: Any) -> float:
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def test_ct_to_liver_to_brush_to_nifti(
    window: Any, settle: Callable[[Any], None], qtbot: Any, tmp_path: Path
) -> None:
    viewer, panel = window
    image, truth = phantom_ct(11, shape=(64, 96, 96), spacing=(4.5, 3.7, 3.7), lesions=(2, 4))
    path = tmp_path / "case.nii.gz"
    # Left-posterior-superior, x first: the file's own order, to be met again in the export.
    turned = nibabel.Nifti1Image(
        np.ascontiguousarray(image.data.transpose(2, 1, 0)),
        image.geometry.affine[:, [2, 1, 0, 3]],
    ).as_reoriented(np.array([[0, -1], [1, -1], [2, 1]]))
    turned.to_filename(path)

    (shown,) = viewer.open(str(path), plugin="napari-maskloop")
    assert panel.predict.chosen["name"] in ("phantom-liver", "liver-tumour")
    panel.predict.choose("phantom-liver")
    panel.predict.run.click()
    settle(panel)
    result = layers.bare(viewer.layers["case_phantom-liver"])
    liver = result.data > 0
    expected = layers.placement_of(shown).shown(np.asarray(turned.dataobj).transpose(2, 1, 0))
    assert np.array_equal(expected, shown.data)

    result.selected_label = 2
    result.brush_size = 3
    result.paint((30, 40, 40), 2)
    painted = result.data.copy()
    panel.correct.table.selectRow(0)
    panel.correct.toolbox.choose("islands")
    with qtbot.waitSignal(panel.correct.toolbox.applied, timeout=20_000):
        panel.correct.toolbox.apply.click()
    settle(panel)
    out = tmp_path / "mask.nii.gz"
    panel.export.path.setText(str(out))
    panel.export.run.click()
    settle(panel)

    assert "PASS" in panel.export.receipt.toPlainText()
    found = nibabel.load(out)
    assert np.allclose(found.affine, turned.affine, atol=1e-5)
    assert (np.asarray(found.dataobj) > 0).sum() == (result.data > 0).sum()
    true_liver = truth.data[:, ::-1, ::-1].transpose(2, 1, 0) > 0
    assert dice(np.asarray(found.dataobj) > 0, true_liver) > 0.85
    assert liver.any()
    corrected = result.data.copy()
    editor = panel.host.editors.of(result)
    editor.undo()
    if not np.array_equal(result.data, painted):
        pytest.fail("one undo does not take back the tool's step")
    editor.redo()
    assert np.array_equal(result.data, corrected)
    panel.host.keeping.close()
    kept = replay(case_folder(path))
    assert np.array_equal(kept.data.transpose(2, 1, 0), np.asarray(found.dataobj))


def test_picture_to_nuclei_to_coco(
    window: Any, settle: Callable[[Any], None], tmp_path: Path
) -> None:
    viewer, panel = window
    image, truth = nuclei_picture(4, (200, 220))
    path = tmp_path / "cells.png"
    Picture.fromarray(image.data).save(path)
    viewer.open(str(path), plugin="napari-maskloop")
    assert panel.predict.chosen["name"] == "nuclei"

    panel.predict.run.click()
    settle(panel)
    result = viewer.layers["cells_nuclei"]
    count = len(np.unique(result.data)) - 1
    expected = len(truth.ids())
    assert 0.7 * expected <= count <= 1.3 * expected

    out = tmp_path / "cells.json"
    assert panel.export.path.text() == str(tmp_path / "cells_nuclei.json")
    panel.export.path.setText(str(out))
    panel.export.run.click()
    settle(panel)
    written = json.loads(out.read_text())
    assert len(written["annotations"]) == count
    assert written["images"][0]["file_name"] == "cells.png"
    assert {c["name"] for c in written["categories"]} == {"nucleus"}


@pytest.mark.slow
def test_corrected_cases_to_a_new_model_in_the_menu(
    window: Any, settle: Callable[[Any], None]
) -> None:
    from napari.layers import Layer

    viewer, panel = window
    for seed in range(31, 35):
        viewer.layers.clear()
        image, mask = phantom_ct(seed, shape=(48, 72, 72), spacing=(6, 5, 5), lesions=(3, 6))
        for data in (*layers.image_layers(image), layers.mask_layer(mask)):
            viewer.add_layer(Layer.create(*data))
        panel.train.add_current()
    panel.train.base.setCurrentText("phantom-liver")
    panel.train.name.setText("mine")
    panel.train.steps.setValue(10)
    panel.train.run.click()
    settle(panel)
    assert len(panel.train.curve.loss) >= 10
    assert "Dice on held-out" in panel.train.verdict.text()
    assert panel.predict.model.findText("mine") >= 0

"""Strokes made in napari are on disk within a second, bit for bit."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from maskloop.core.case import Case
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.desk.cases import case_folder, replay
from maskloop.gui import layers
from maskloop.gui.journal import Journals
from maskloop.loop.load import load

ORIENTATIONS = [
    "".join(letters)
    for order in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*order)
]


def written(folder: Path, orientation: str = "RAS") -> Path:
    """Write a small CT whose voxels run as the letters say (x first, as NIfTI does)."""
    codes = nibabel.orientations.axcodes2ornt(tuple(orientation))
    path = folder / "ct.nii.gz"
    pixels = np.random.default_rng(1).integers(-1000, 500, (7, 6, 5)).astype(np.int16)
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    ras = nibabel.Nifti1Image(pixels, affine)
    turn = nibabel.orientations.ornt_transform(nibabel.orientations.io_orientation(affine), codes)
    ras.as_reoriented(turn).to_filename(path)
    return path


def opened(path: Path) -> tuple[Any, Any]:
    from napari.layers import Layer

    image = Layer.create(*layers.image_layers(load(path))[0])
    table = LabelTable.classes(["liver", "tumour"])
    return image, Layer.create(*layers.blank_like(image, table, "labels"))


def begun(path: Path) -> tuple[Journals, Any, list[str]]:
    said: list[str] = []
    journals = Journals(said.append)
    image, labels = opened(path)
    assert journals.begin(labels, [image, labels], author="Ada") is not None
    return journals, labels, said


@pytest.mark.parametrize("orientation", ORIENTATIONS[::5])
def test_replay_gives_the_painted_mask_bit_for_bit(tmp_path: Path, orientation: str) -> None:
    path = written(tmp_path, orientation)
    journals, labels, said = begun(path)
    rng = np.random.default_rng(2)
    labels.brush_size = 2
    for _ in range(12):
        labels.selected_label = int(rng.integers(0, 3))
        labels.paint(tuple(rng.integers(0, labels.data.shape)), labels.selected_label)
    labels.fill((0, 0, 0), 2)
    labels.data_setitem((np.array([3, 0]), np.array([1, 4]), np.array([2, 2])), 1)
    journals.close()
    expected, _ = layers.mask_of(labels)
    found = replay(case_folder(path))
    assert said == []
    assert np.array_equal(found.data, expected.data)
    assert found.geometry.matches(expected.geometry)
    assert found.labels.names == {1: "liver", 2: "tumour"}


def test_undo_and_redo_by_key_are_kept(tmp_path: Path) -> None:
    path = written(tmp_path)
    journals, labels, _ = begun(path)
    labels.paint((2, 2, 2), 1)
    labels.paint((1, 4, 4), 2)
    journal = journals.of(labels)
    assert journal is not None
    journal.undo()
    journal.undo()
    journal.redo()
    journals.close()
    assert np.array_equal(replay(case_folder(path)).data, layers.mask_of(labels)[0].data)
    assert labels.data[2, 2, 2] == 1
    assert not (labels.data == 2).any()


def test_a_stroke_is_on_disk_within_a_second(tmp_path: Path, qtbot: Any) -> None:
    path = written(tmp_path)
    journals, labels, _ = begun(path)
    log = case_folder(path) / "journal"
    labels.paint((2, 2, 2), 1)  # the first also opens the case
    qtbot.waitUntil(lambda: log.is_file() and log.stat().st_size > 100, timeout=10_000)
    before = log.stat().st_size
    labels.paint((1, 1, 1), 2)
    start = time.monotonic()
    qtbot.waitUntil(lambda: log.stat().st_size > before, timeout=5000)
    assert time.monotonic() - start < 1
    journals.close()


def test_an_earlier_case_is_gone_on_with(tmp_path: Path) -> None:
    path = written(tmp_path)
    for label in (1, 2):
        journals, labels, said = begun(path)
        labels.paint((2, 2, label), label)
        journals.close()
        assert said == []
    assert np.array_equal(replay(case_folder(path)).data, layers.mask_of(labels)[0].data)
    with Case.open(case_folder(path)) as case:
        assert case.history.can_undo
        assert case.undo() is not None


def test_an_image_that_changed_is_told_and_its_case_left_alone(tmp_path: Path) -> None:
    path = written(tmp_path)
    journals, labels, _ = begun(path)
    labels.paint((2, 2, 2), 1)
    journals.close()
    kept = (case_folder(path) / "journal").read_bytes()
    pixels = np.zeros((7, 6, 5), np.int16)
    nibabel.Nifti1Image(pixels, nibabel.load(path).affine).to_filename(path)
    journals, labels, said = begun(path)
    labels.paint((2, 2, 2), 2)
    journals.close()
    assert "Not in the journal" in said[0]
    assert (case_folder(path) / "journal").read_bytes() == kept


def test_layers_without_a_file_have_no_journal() -> None:
    from napari.layers import Layer

    pixels = np.zeros((4, 5, 6), np.int16)
    image = Layer.create(
        *layers.image_layers(Image(pixels, Geometry.regular(pixels.shape, (3, 2, 2))))[0]
    )
    labels = Layer.create(*layers.blank_like(image, LabelTable(), "labels"))
    assert Journals(print).begin(labels, [image, labels], author="") is None


def test_a_second_layer_of_the_same_image_is_not_mixed_in(tmp_path: Path) -> None:
    from napari.layers import Layer

    path = written(tmp_path)
    journals, labels, _ = begun(path)
    image, _ = opened(path)
    second = Layer.create(*layers.blank_like(image, LabelTable(), "second"))
    assert journals.begin(second, [image, labels, second], author="") is None
    journals.close()


def test_the_panel_keeps_a_journal_and_recovers_it(
    window: Any, settle: Callable[[Any], None], tmp_path: Path, qtbot: Any
) -> None:
    viewer, panel = window
    path = written(tmp_path)
    panel.load.open_path(path)
    settle(panel)
    panel.correct.new.click()
    labels = panel.host.labels.layer
    labels.paint((2, 2, 2), 1)
    viewer.layers.selection.active = layers.bare(viewer.layers[1])
    panel.correct.undo.click()
    panel.correct.redo.click()
    panel.correct.journals.close()
    expected = labels.data.copy()
    viewer.layers.clear()
    panel.load.open_path(path)
    settle(panel)
    assert not panel.correct.recover.isHidden()
    panel.correct.recover.click()
    settle(panel)
    assert np.array_equal(viewer.layers["ct_recovered"].data, expected)

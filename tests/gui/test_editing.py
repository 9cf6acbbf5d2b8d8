"""Every step on a Labels layer is a step of one case: undoable, on disk, bit for bit."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array
import nibabel
import numpy as np
import pytest

from maskloop.core.case import Case
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.desk.cases import case_folder, open_case, replay
from maskloop.gui import layer_editor, layers
from maskloop.gui.editing import Editors
from maskloop.gui.keeping import Keeping
from maskloop.loop.load import load

ORIENTATIONS = [
    "".join(letters)
    for order in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*order)
]
Settle = Callable[[Any], None]


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


class Bench:
    """A viewer without a window, its editors, and one image with labels on it."""

    def __init__(self, path: Path, **settings: Any) -> None:
        from napari.components import ViewerModel

        self.viewer = ViewerModel()
        self.said: list[str] = []
        self.image = self.add(layers.image_layers(load(path))[0])
        self.labels = self.blank("ct_labels", ["liver", "tumour"])
        wanted = {"author": "Ada", **settings}
        self.editors = Editors(self.viewer, lambda text, _: self.said.append(text), lambda: "Ada")
        self.keeping = Keeping(self.editors, wanted.get, lambda: False)
        self.editor = self.editors.of(self.labels)
        self.keeping.look(path.resolve())

    def add(self, data: Any) -> Any:
        from napari.layers import Layer

        return self.viewer.add_layer(Layer.create(*data))

    def blank(self, name: str, names: list[str]) -> Any:
        return self.add(layers.blank_like(self.image, LabelTable.classes(names), name))

    def close(self) -> None:
        self.keeping.close()


@pytest.fixture
def bench(tmp_path: Path, qapp: Any) -> Any:
    made = []

    def make(path: Path | None = None, **settings: Any) -> Bench:
        made.append(Bench(path or written(tmp_path), **{"journal": True, **settings}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def scribble(labels: Any, seed: int = 2) -> None:
    rng = np.random.default_rng(seed)
    labels.brush_size = 2
    for _ in range(12):
        labels.selected_label = int(rng.integers(0, 3))
        labels.paint(tuple(rng.integers(0, labels.data.shape)), labels.selected_label)
    labels.fill((0, 0, 0), 2)
    labels.data_setitem((np.array([3, 0]), np.array([1, 4]), np.array([2, 2])), 1)


@pytest.mark.parametrize("orientation", ORIENTATIONS[::5])
def test_replay_gives_the_painted_mask_bit_for_bit(
    bench: Any, tmp_path: Path, orientation: str
) -> None:
    path = written(tmp_path, orientation)
    one = bench(path)
    scribble(one.labels)
    one.close()
    expected, _ = layers.mask_of(one.labels)
    found = replay(case_folder(path))
    assert one.said == []
    assert np.array_equal(found.data, expected.data)
    assert found.geometry.matches(expected.geometry)
    assert found.labels.names == {1: "liver", 2: "tumour"}


@pytest.mark.parametrize("orientation", ORIENTATIONS[::7])
def test_undo_gives_the_first_bytes_back_and_redo_the_last(
    bench: Any, tmp_path: Path, orientation: str
) -> None:
    one = bench(written(tmp_path, orientation), journal=False)
    first = one.labels.data.copy()
    scribble(one.labels)
    last = one.labels.data.copy()
    one.editor.flush()
    steps = len(one.editor.case.history)
    assert steps > 10
    while one.editor.undo() is not None:
        pass
    assert np.array_equal(one.labels.data, first)
    for _ in range(steps):
        one.editor.redo()
    assert np.array_equal(one.labels.data, last)


def test_napari_keeps_no_second_history(bench: Any) -> None:
    one = bench()
    scribble(one.labels)
    one.editor.flush()
    kept = one.labels.data.copy()
    one.labels.undo()  # another plugin's: there is nothing for it to take back
    one.labels.paint((1, 1, 1), 1)
    one.editor.flush()
    one.editor.undo()
    assert np.array_equal(one.labels.data, kept)


def test_keys_drive_the_history(bench: Any) -> None:
    from app_model.types import KeyBinding

    one = bench()
    one.labels.paint((2, 2, 2), 1)
    one.labels.paint((1, 4, 4), 2)
    for key, expected in (("Ctrl+Z", 1), ("Ctrl+Z", 0), ("Ctrl+Shift+Z", 1)):
        one.labels.keymap[KeyBinding.from_str(key)](one.labels)
        assert one.editor.case.history.position == expected
        shown = one.editor.place.shown(one.editor.case.mask.data)
        assert np.array_equal(one.labels.data, shown)


def test_a_stroke_is_on_disk_within_a_second(bench: Any, tmp_path: Path, qtbot: Any) -> None:
    path = written(tmp_path)
    one = bench(path)
    log = case_folder(path) / "journal"
    one.labels.paint((2, 2, 2), 1)  # the first also makes the folder
    qtbot.waitUntil(lambda: one.editor.keeper.is_on_disk, timeout=10_000)
    before = log.stat().st_size
    one.labels.paint((1, 1, 1), 2)
    start = time.monotonic()
    qtbot.waitUntil(lambda: log.stat().st_size > before, timeout=5000)
    assert time.monotonic() - start < 1
    assert [edit.author for edit in one.editor.case.history] == ["Ada", "Ada"]


def test_strokes_made_while_the_folder_is_made_are_in_it(bench: Any, tmp_path: Path) -> None:
    path = written(tmp_path)
    one = bench(path)
    for at in range(4):
        one.labels.paint((at, 2, 2), 1)
        one.editor.take_strokes()
    one.editor.undo()
    one.editor.undo()
    one.labels.paint((4, 4, 4), 2)
    one.close()
    with Case.open(case_folder(path)) as case:
        assert np.array_equal(one.editor.place.shown(case.mask.data), one.labels.data)
        assert len(case.history) == 3


def test_all_layers_of_an_image_are_masks_of_one_case(bench: Any) -> None:
    one = bench()
    second = one.blank("ct_second", ["cyst"])
    other = one.editors.of(second)
    one.labels.paint((2, 2, 2), 1)
    one.editor.flush()
    second.paint((2, 2, 2), 1)
    other.flush()
    one.labels.paint((1, 1, 1), 2)
    one.editor.flush()
    assert other.case is one.editor.case
    assert [edit.words for edit in other.case.history] == [
        "paint: liver",
        "paint: cyst",
        "paint: tumour",
    ]
    one.viewer.layers.selection.active = one.labels
    one.editor.undo()
    one.editor.undo()
    assert not second.data.any()
    assert one.viewer.layers.selection.active is second
    assert one.said[-1] == "Undone: paint: cyst. It was on ct_second."


def test_a_locked_label_is_put_back_and_counted(bench: Any) -> None:
    one = bench()
    told = []
    one.editors.refused.connect(lambda editor, change: told.append(change.refused))
    one.labels.brush_size = 1
    one.labels.paint((2, 2, 2), 1)
    one.editor.flush()
    table = one.editor.labels
    locked = table.with_rows([replace(table[1], locked=True)])
    one.editor.set_labels(locked, "lock liver")
    one.labels.brush_size = 5
    one.labels.paint((2, 2, 2), 2)
    one.editor.flush()
    assert one.labels.data[2, 2, 2] == 1
    assert (one.labels.data == 2).any()
    assert [refused.locked for refused in told] == [1]
    assert np.array_equal(one.labels.data, one.editor.place.shown(one.editor.case.mask.data))


def test_strokes_are_kept_to_a_range_of_values(bench: Any) -> None:
    one = bench()
    one.editors.limits = (-200.0, 200.0)
    one.labels.n_edit_dimensions = 3
    one.labels.brush_size = 9
    one.labels.paint((2, 2, 2), 1)
    one.editor.flush()
    values = one.image.data[one.labels.data == 1]
    assert values.size
    assert values.min() >= -200
    assert values.max() <= 200
    assert (one.editor.case.mask.data == 1).sum() == values.size
    one.editors.limits = None
    one.labels.paint((2, 2, 2), 1)
    one.editor.flush()
    assert one.image.data[one.labels.data == 1].max() > 200


def test_what_a_tool_may_not_change_stays(bench: Any) -> None:
    one = bench()
    told = []
    one.editors.refused.connect(lambda editor, change: told.append(change))
    one.labels.paint((2, 2, 2), 1)
    one.editor.flush()
    painted = one.labels.data.copy()
    everything = np.full_like(one.editor.case.mask.data, 2)
    one.editor.change(everything, tool="flood", words="flood", kind="tool")
    assert np.array_equal(one.labels.data == 1, painted == 1)
    assert (one.labels.data == 2).sum() == everything.size - (painted == 1).sum()
    assert told[0].refused.by_hand == (painted == 1).sum()
    one.editors.insist(one.editor, told[0])
    assert (one.labels.data == 2).all()
    assert [edit.tool for edit in one.editor.case.history] == ["paint", "flood"]
    one.editor.undo()
    assert np.array_equal(one.labels.data, painted)


def test_data_replaced_as_a_whole_is_one_step(bench: Any) -> None:
    one = bench()
    one.labels.paint((2, 2, 2), 1)
    before = one.labels.data.copy()
    fresh = np.random.default_rng(5).integers(0, 3, before.shape).astype(np.uint8)
    one.labels.data = fresh.copy()
    one.editor.flush()
    assert one.editor.case.history.last.words == "replaced"
    one.editor.undo()
    assert np.array_equal(one.labels.data, before)
    one.editor.redo()
    assert np.array_equal(one.labels.data, fresh)


def test_data_replaced_before_any_stroke_can_be_undone(bench: Any) -> None:
    one = bench()
    one.labels.data = np.ones_like(one.labels.data)
    one.editor.flush()
    one.editor.undo()
    assert not one.labels.data.any()


def test_large_steps_go_beside_the_window(
    bench: Any, monkeypatch: pytest.MonkeyPatch, qtbot: Any
) -> None:
    monkeypatch.setattr(layer_editor, "LARGE", 1)
    monkeypatch.setattr("maskloop.gui.editing.LARGE", 1)
    one = bench()
    first = one.labels.data.copy()
    scribble(one.labels)
    qtbot.waitUntil(lambda: not one.editor.keeper.turns.is_busy, timeout=10_000)
    last = one.labels.data.copy()
    case = one.editor.case
    assert np.array_equal(one.editor.place.shown(case.mask.data), last)
    one.editor.go_to(0)
    qtbot.waitUntil(lambda: not one.editor.keeper.turns.is_busy, timeout=10_000)
    assert np.array_equal(one.labels.data, first)
    one.editor.go_to(len(case.history))
    one.editor.flush()
    assert np.array_equal(one.labels.data, last)


def test_a_time_series_is_one_case(tmp_path: Path, bench: Any) -> None:
    path = tmp_path / "cine.nii.gz"
    pixels = np.zeros((6, 5, 4, 3), np.int16)
    nibabel.Nifti1Image(pixels, np.diag([-2.0, 2.0, 3.0, 1.0])).to_filename(path)
    one = bench(path)
    assert one.labels.data.shape == (3, 4, 5, 6)
    one.labels.paint((1, 2, 2, 2), 1)
    one.labels.paint((2, 1, 1, 1), 2)
    one.editor.flush()
    case = one.editor.case
    assert np.array_equal(one.editor.place.shown(case.mask.data, lead=1), one.labels.data)
    kept = one.labels.data.copy()
    one.close()
    found = replay(case_folder(path))
    assert np.array_equal(one.editor.place.shown(found.data, lead=1), kept)


def test_a_picture_is_corrected_likewise(tmp_path: Path, bench: Any) -> None:
    from PIL import Image as Picture

    path = tmp_path / "cells.png"
    Picture.fromarray(np.zeros((30, 40), np.uint8)).save(path)
    one = bench(path)
    one.labels.paint((5, 6), 1)
    one.close()
    assert np.array_equal(replay(case_folder(path)).data, one.labels.data)


def test_lazy_and_multiscale_layers_are_left_alone_with_words(bench: Any) -> None:
    one = bench()
    lazy = one.viewer.add_labels(dask.array.zeros((4, 5), dtype=np.uint8), name="lazy")
    assert one.editors.of(lazy) is None
    assert "dask" in layer_editor.refusal_of(lazy)
    levels = [np.zeros((64, 64), np.uint8), np.zeros((32, 32), np.uint8)]
    pyramid = one.viewer.add_labels(levels, multiscale=True, name="pyramid")
    assert one.editors.of(pyramid) is None
    assert "multiscale" in layer_editor.refusal_of(pyramid)


def test_layers_without_a_file_have_a_history_in_memory(bench: Any, tmp_path: Path) -> None:
    one = bench()
    pixels = np.zeros((4, 5, 6), np.int16)
    image = one.add(
        layers.image_layers(Image(pixels, Geometry.regular(pixels.shape, (3, 2, 2))))[0]
    )
    labels = one.add(layers.blank_like(image, LabelTable(), "drawn"))
    editor = one.editors.of(labels)
    labels.paint((1, 1, 1), 3)
    editor.flush()
    one.editors.undo(editor)
    assert not labels.data.any()
    assert not editor.keeper.is_on_disk
    assert list(tmp_path.glob("*.maskloop")) == []


def test_signed_and_wide_ids_are_kept(bench: Any) -> None:
    one = bench(journal=False)
    ids = np.zeros(one.image.data.shape, np.int32)
    ids[0, 0, 0] = 70_000
    other = one.add((ids, {**layers.layout_of(one.image), "name": "theirs"}, "labels"))
    editor = one.editors.of(other)
    first = ids.copy()
    other.paint((2, 2, 2), 300)
    editor.flush()
    last = other.data.copy()
    editor.undo()
    assert np.array_equal(other.data, first)
    editor.redo()
    assert np.array_equal(other.data, last)
    assert 70_000 in editor.labels


def test_ids_that_need_room_get_it(bench: Any) -> None:
    one = bench(journal=False)
    wanted = one.editor.case.mask.data.astype(np.uint16)
    wanted[0, 0, 0] = 900
    one.editor.change(wanted, tool="objects", kind="tool")
    assert 900 in one.labels.data
    one.editor.undo()
    assert not one.labels.data.any()


def test_an_image_that_changed_is_told_and_its_case_left_alone(bench: Any, tmp_path: Path) -> None:
    path = written(tmp_path)
    one = bench(path)
    one.labels.paint((2, 2, 2), 1)
    one.close()
    kept = (case_folder(path) / "journal").read_bytes()
    pixels = np.zeros((7, 6, 5), np.int16)
    nibabel.Nifti1Image(pixels, nibabel.load(path).affine).to_filename(path)
    with pytest.raises(ValueError, match="image"):
        open_case(path)
    again = bench(path)
    again.labels.paint((2, 2, 2), 2)
    again.close()
    assert (case_folder(path) / "journal").read_bytes() == kept

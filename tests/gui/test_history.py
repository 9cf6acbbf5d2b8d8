"""300 operations of every kind through the window: undone the first bytes, redone the last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from maskloop.core.case import Case
from maskloop.core.edits import Edit, History
from maskloop.desk.cases import case_folder
from maskloop.gui import layers
from maskloop.gui.history_view import VOXELS, WORDS, HistoryModel, HistoryView
from maskloop.loop.correct import correct

Settle = Callable[[Any], None]
STEPS = 300
SHAPE = (14, 16, 12)


def made(folder: Path) -> Path:
    path = folder / "ct.nii.gz"
    pixels = np.full(SHAPE[::-1], -1000, np.int16)
    pixels[2:9, 3:12, 2:11] = 70
    pixels[4:7, 6:9, 4:7] = 150
    nibabel.Nifti1Image(pixels, np.diag([-2.0, 2.0, 3.0, 1.0])).to_filename(path)
    return path


class Hand:
    """Does one thing after the other to a layer, as a person would."""

    def __init__(self, panel: Any, labels: Any, seed: int) -> None:
        self.panel, self.labels = panel, labels
        self.editor = panel.host.editors.of(labels)
        self.rng = np.random.default_rng(seed)
        self.done: dict[str, int] = {}

    def act(self) -> None:
        acts = (self.stroke, self.ball, self.fill, self.polygon, self.set_voxels, self.tool)
        acts += (self.model, self.merge, self.delete, self.rename, self.recolour, self.lock)
        acts += (self.stroke, self.ball, self.replace, self.add)
        act = acts[self.rng.integers(len(acts))]
        act()
        self.editor.flush()
        self.done[act.__name__] = self.done.get(act.__name__, 0) + 1

    def spot(self) -> tuple[int, ...]:
        return tuple(int(self.rng.integers(0, n)) for n in self.labels.data.shape)

    def label(self) -> int:
        return int(self.rng.choice(list(self.editor.labels)))

    def stroke(self) -> None:
        self.labels.n_edit_dimensions = 2
        self.labels.brush_size = int(self.rng.integers(1, 6))
        z, y, x = self.spot()
        with self.labels.block_history():  # as napari does while the mouse is down
            for step in range(4):
                self.labels.paint((z, y, min(x + step, self.labels.data.shape[2] - 1)), self.any())

    def any(self) -> int:
        return int(self.rng.choice([0, self.label()]))

    def ball(self) -> None:
        self.labels.n_edit_dimensions = 3
        self.labels.brush_size = int(self.rng.integers(1, 6))
        self.labels.paint(self.spot(), self.label())

    def fill(self) -> None:
        self.labels.n_edit_dimensions = int(self.rng.choice([2, 3]))
        self.labels.fill(self.spot(), self.any())

    def polygon(self) -> None:
        self.labels.n_edit_dimensions = 2
        z = self.spot()[0]
        corners = [(z, 1, 1), (z, 8, 2), (z, 6, 9)]
        self.labels.paint_polygon(corners, self.label())

    def set_voxels(self) -> None:
        count = int(self.rng.integers(1, 30))
        where = tuple(self.rng.integers(0, n, count) for n in self.labels.data.shape)
        self.labels.data_setitem(where, self.any())

    def replace(self) -> None:
        fresh = self.labels.data.copy()
        fresh[:, ::3] = 0
        self.labels.data = fresh

    def tool(self) -> None:
        case = self.editor.case
        present = case.mask.ids()
        free = [i for i in present if not case.mask.labels[i].locked]
        if free:
            name = str(self.rng.choice(["islands", "smooth", "holes", "grow"]))
            correct(case, name, label=int(self.rng.choice(free)), over_hand=True)
            self.editor.keeper.deliver()

    def model(self) -> None:
        self.panel.host.image.choose(self.panel.host.viewer.layers[0])
        self.panel.predict.run.click()

    def merge(self) -> None:
        ids = self.editor.case.mask.data
        wanted = np.where(ids == 2, 1, ids).astype(ids.dtype)
        self.editor.change(wanted, tool="merge", words="merge", kind="person")

    def delete(self) -> None:
        self.labels.selected_label = self.label()
        if len(self.editor.labels) > 2:
            self.panel.correct.classes.remove_label.click()

    def add(self) -> None:
        self.panel.correct.classes.add_label.click()

    def rename(self) -> None:
        self._row(name=f"name {self.rng.integers(1000)}")

    def recolour(self) -> None:
        self._row(colour=f"#{self.rng.integers(0, 2**24):06x}")

    def lock(self) -> None:
        row = self.editor.labels[self.label()]
        self._row(locked=not row.locked)

    def _row(self, **changes: Any) -> None:
        row = replace(self.editor.labels[self.label()], **changes)
        self.panel.correct.classes.put(self.editor.labels.with_rows([row]), "row")


def test_300_operations_undone_give_the_first_bytes_redone_the_last(
    window: Any, settle: Settle, tmp_path: Path, qtbot: Any
) -> None:
    path = made(tmp_path)
    _, panel = window
    panel.load.open_path(path)
    settle(panel)
    panel.predict.choose("fake3d")
    panel.predict.run.click()
    settle(panel)
    labels = panel.host.labels.layer
    hand = Hand(panel, labels, seed=11)
    first, first_table = np.zeros_like(labels.data), {}
    for _ in range(STEPS):
        hand.act()
        if panel.host.is_busy:
            settle(panel)
            hand.editor.flush()
    assert len(hand.done) == 14, hand.done
    last, last_table = labels.data.copy(), dict(hand.editor.labels)
    case = hand.editor.case
    count = len(case.history)
    assert count > STEPS * 0.6
    assert np.array_equal(hand.editor.place.shown(case.mask.data), last)
    for _ in range(count):
        hand.editor.undo()
    assert np.array_equal(labels.data, first)
    assert dict(hand.editor.labels) == first_table
    hand.editor.go_to(count)
    hand.editor.flush()
    assert np.array_equal(labels.data, last)
    assert dict(hand.editor.labels) == last_table
    authors = case.author_of().copy()
    panel.host.keeping.close()
    with Case.open(case_folder(path)) as again:
        assert np.array_equal(hand.editor.place.shown(again.mask.data), last)
        assert np.array_equal(again.author_of(), authors)
        while again.undo() is not None:
            pass
        assert not again.mask.data.any()
        assert dict(again.mask.labels) == first_table
        while again.redo() is not None:
            pass
        assert np.array_equal(hand.editor.place.shown(again.mask.data), last)
        assert dict(again.mask.labels) == last_table


def steps(count: int) -> History:
    return History(
        Edit((slice(0, 1),), voxels=n, words=f"brush {n}", author="Ada", kind="person", time=1.0)
        for n in range(1, count + 1)
    )


def test_only_rows_in_view_are_read(qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    view = HistoryView()
    qtbot.addWidget(view)
    view.resize(320, 180)
    asked = set()
    plain = HistoryModel.data
    monkeypatch.setattr(
        HistoryModel,
        "data",
        lambda self, index, role=0: asked.add(index.row()) or plain(self, index, role),
    )
    view.show()
    view.show_history(steps(10_000))
    qtbot.waitUntil(lambda: 10_000 in asked, timeout=5000)
    assert len(asked) < 100
    assert view.steps.rowCount() == 10_001


def test_a_click_asks_for_the_step_and_undone_steps_are_grey(qtbot: Any) -> None:
    from qtpy.QtCore import Qt

    view = HistoryView()
    qtbot.addWidget(view)
    history = steps(3)
    view.show_history(history)
    asked: list[int] = []
    view.chosen.connect(asked.append)
    view.clicked.emit(view.steps.index(2, 0))
    assert asked == [2]
    model = view.steps
    texts = [model.data(model.index(row, WORDS)).strip() for row in range(4)]
    assert texts == [
        "start",
        "brush 1",
        "brush 2",
        "\N{BLACK RIGHT-POINTING SMALL TRIANGLE} brush 3",
    ]
    assert model.data(model.index(1, VOXELS)) == "1"
    grey = [model.data(model.index(r, 0), Qt.ItemDataRole.ForegroundRole) for r in range(4)]
    assert grey == [None] * 4
    history._position = 1  # as after two undos
    view.show_history(history)
    grey = [model.data(model.index(r, 0), Qt.ItemDataRole.ForegroundRole) for r in range(4)]
    assert [one is not None for one in grey] == [False, False, True, True]
    history.push(Edit((slice(0, 1),), voxels=9, words="fill"))
    view.show_history(history)
    assert model.rowCount() == 3


def test_the_table_says_what_is_wrong_with_a_scheme(tmp_path: Path) -> None:
    from maskloop.core.errors import FormatError, MaskloopError
    from maskloop.core.labels import Label, LabelTable
    from maskloop.gui.schemes import read_scheme, write_scheme

    table = LabelTable(
        [Label(1, "Leber", "#112233", locked=True), Label(7, "cyst 7", category="cyst")]
    )
    path = tmp_path / "liver.classes.json"
    write_scheme(path, table)
    assert read_scheme(path) == table
    path.write_text('{"1": "liver", "2": "tumour"}')
    assert read_scheme(path).names == {1: "liver", 2: "tumour"}
    for text, told in (
        ("no json", "JSON"),
        ("[1, 2]", "'labels'"),
        ('{"labels": [{"name": "x"}]}', "row 1"),
        ('{"labels": [{"id": 1, "name": ""}]}', "'name'"),
        ('{"labels": [{"id": 1, "name": "x", "locked": "yes"}]}', "'locked'"),
        ('{"labels": [{"id": 1, "name": "x", "colour": "blue"}]}', "row 1"),
        ('{"labels": [{"id": 0, "name": "x"}]}', "at least 1"),
        ('{"labels": [{"id": 1, "name": "x"}, {"id": 1, "name": "y"}]}', "more than once"),
        ('{"maskloop_classes": 9, "labels": []}', "version"),
    ):
        path.write_text(text)
        with pytest.raises(FormatError, match=told):
            read_scheme(path)
    with pytest.raises(MaskloopError, match="nothing there"):
        read_scheme(tmp_path / "none.json")


def test_classes_are_edited_in_steps_and_a_scheme_keeps_what_is_drawn(
    window: Any, tmp_path: Path
) -> None:
    from qtpy.QtCore import Qt

    from maskloop.core.labels import LabelTable
    from maskloop.gui.label_table import LOCK, NAME
    from maskloop.gui.schemes import write_scheme

    viewer, panel = window
    viewer.add_image(np.zeros((20, 30)), name="photo")
    classes = panel.correct.classes
    panel.correct.new.click()
    labels = panel.host.labels.layer
    editor = panel.host.editors.of(labels)
    classes.add_label.click()
    labels.paint((5, 5), 2)
    editor.flush()
    classes.table.item(1, NAME).setText("cell")
    classes.table.item(1, LOCK).setCheckState(Qt.CheckState.Checked)
    before = labels.data.copy()
    labels.paint((5, 5), 1)
    editor.flush()
    assert np.array_equal(labels.data == 2, before == 2)
    assert not panel.correct.refusal.isHidden()
    assert "locked" in panel.correct.refusal.text.text()
    assert panel.correct.ghost.layer is not None
    assert panel.host.labels.layer is labels
    path = tmp_path / "s.classes.json"
    write_scheme(path, LabelTable.classes({1: "nucleus", 3: "debris"}))
    classes.open_scheme(path)
    assert editor.labels.names == {1: "nucleus", 2: "cell", 3: "debris"}
    assert panel.correct.ghost.layer is None  # the next step took it away
    classes.save_scheme(tmp_path / "saved")
    assert (tmp_path / "saved.classes.json").is_file()
    words = [edit.words for edit in editor.case.history]
    assert words[0] == "add label 2"
    assert "rename label 2 to cell" in words
    assert "lock cell" in words
    for _ in words:
        panel.correct.undo.click()
    assert not labels.data.any()
    assert layers.table_of(labels).names == {1: "label 1"}

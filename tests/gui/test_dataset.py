"""A dataset in the window: a list to walk through, saved on the way, shared by a team."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image as Picture

from maskloop.core.case import Case
from maskloop.core.dataset import Dataset, Item, Sample
from maskloop.core.geometry import Geometry
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.core.standing import standing_of
from maskloop.desk.cases import case_folder
from maskloop.desk.datasets import convert_dataset
from maskloop.desk.worklist import Filter, Worklist
from maskloop.gui.host import set_setting

CELLS = LabelTable.classes({1: "cell", 2: "dirt"})
SHAPE = (24, 30)


@pytest.fixture(autouse=True)
def own_name() -> Any:
    """Sign as anna, and leave nothing in napari's preferences, which outlive a test."""
    set_setting("workspace", "")
    set_setting("author", "anna")
    yield
    set_setting("workspace", "")
    set_setting("author", "")


def written(folder: Path, count: int = 4, *, kind: str = "classes") -> Path:
    """Write a dataset of pictures, each with one class (or object) at a place of its own."""
    pictures = folder / "pictures"
    pictures.mkdir()
    items, samples = [], {}
    for number in range(count):
        name = f"p{number}"
        pixels = np.random.default_rng(number).integers(0, 200, SHAPE).astype(np.uint8)
        Picture.fromarray(pixels).save(pictures / f"{name}.png")
        item = Item(name, pictures / f"{name}.png", has_mask=True)
        ids = np.zeros(SHAPE, np.uint8)
        ids[2 : 6 + number, 3:9] = 1
        table = CELLS
        if kind == "objects":
            table = LabelTable([Label(1, "cell 1", category="cell", is_thing=True)])
        items.append(item)
        samples[name] = Sample(item, (Mask(ids, Geometry.pixels(SHAPE), table),))
    made = Dataset(
        "cells", "made", folder, CELLS, tuple(items), lambda i, job: samples[i.name], kind
    )
    convert_dataset(made, folder / "set", "indexed")
    return folder / "set"


@pytest.fixture
def opened(window: Any, settle: Callable[[Any], None], tmp_path: Path) -> Any:
    """Return (viewer, panel, folder): a dataset of four pictures, listed."""
    viewer, panel = window
    folder = written(tmp_path)
    panel.dataset.open_path(folder)
    settle(panel)
    return viewer, panel, folder


def shown(panel: Any, qtbot: Any, place: int) -> None:
    qtbot.waitUntil(lambda: panel.dataset.session.place == place, timeout=20_000)
    qtbot.waitUntil(lambda: not panel.host.is_busy, timeout=20_000)


def test_a_dataset_is_a_list_and_nothing_of_it_is_open(opened: Any) -> None:
    viewer, panel, _ = opened
    assert panel.dataset.list.rows.rowCount() == 4
    assert panel.dataset.about.text() == "set (indexed): 4 unseen."
    assert not viewer.layers
    assert panel.dataset.header.isChecked()


def test_another_dataset_is_drafted_by_the_same_model(
    opened: Any, settle: Callable[[Any], None]
) -> None:
    from maskloop.gui.dataset_ahead import Drafter

    _, panel, folder = opened
    chosen = Drafter("fake2d", "cpu", (2,))
    panel.dataset.session.ahead.use(chosen)
    panel.dataset.open_path(folder)
    settle(panel)
    assert panel.dataset.session.ahead.drafter == chosen


def test_next_opens_picture_and_mask_with_the_classes_of_the_dataset(
    opened: Any, qtbot: Any
) -> None:
    viewer, panel, _ = opened
    panel.dataset.next.click()
    shown(panel, qtbot, 0)
    assert [layer.name for layer in viewer.layers] == ["p0", "p0_labels"]
    labels = panel.host.labels.layer
    assert labels.data.sum() == 24
    rows = {row.id: row.name for row in panel.host.editors.of(labels).labels.values()}
    assert rows == {1: "cell", 2: "dirt"}
    assert panel.dataset.session.standing(0).status == "in work"
    assert panel.dataset.session.standing(0).assignee == "anna"


def test_going_on_saves_and_coming_back_shows_it(opened: Any, qtbot: Any) -> None:
    viewer, panel, folder = opened
    session = panel.dataset.session
    session.step(1)
    shown(panel, qtbot, 0)
    labels = panel.host.labels.layer
    labels.data_setitem((np.array([20]), np.array([20])), 2)
    expected = labels.data.copy()
    session.step(1)
    shown(panel, qtbot, 1)
    assert [layer.name for layer in viewer.layers] == ["p1", "p1_labels"]
    case = case_folder(folder / "images" / "p0.png")
    with Case.open(case) as found:  # not held by the window any more
        assert not found.is_read_only
        assert np.array_equal(found.mask.data, expected)
        assert found.history.last.author == "anna"
    session.step(-1)
    shown(panel, qtbot, 0)
    back = panel.host.labels.layer
    assert np.array_equal(back.data, expected)
    assert back.editable
    panel.correct.undo.click()
    assert back.data[20, 20] == 0
    assert panel.correct.banner.isHidden(), "nobody is asked whether to go on"


def test_an_image_that_was_only_looked_at_gets_no_case(opened: Any, qtbot: Any) -> None:
    _, panel, folder = opened
    session = panel.dataset.session
    for place in range(3):
        session.step(1)
        shown(panel, qtbot, place)
    assert not list((folder / "images").glob("*.maskloop"))


def test_done_goes_to_the_next_unseen_and_is_kept_on_disk(opened: Any, qtbot: Any) -> None:
    _, panel, folder = opened
    session = panel.dataset.session
    session.mark([1], status="flagged")
    session.step(1)
    shown(panel, qtbot, 0)
    panel.host.labels.layer.data_setitem((np.array([20]), np.array([20])), 2)
    panel.dataset.done.click()
    shown(panel, qtbot, 2)
    kept = Worklist.beside(folder)
    assert [kept.of(item).status for item in session.items] == [
        "done",
        "flagged",
        "in work",
        "unseen",
    ]
    standing = standing_of(case_folder(folder / "images" / "p0.png"))
    assert (standing.status, standing.assignee) == ("done", "anna")


def test_keys_in_the_picture_go_on_and_flag(opened: Any, qtbot: Any) -> None:
    viewer, panel, _ = opened
    from app_model.types import KeyBinding

    def press(key: str) -> None:
        viewer.keymap[KeyBinding.from_str(key)](viewer)

    press("U")
    shown(panel, qtbot, 0)
    press("K")
    shown(panel, qtbot, 1)
    press("Shift+K")
    shown(panel, qtbot, 0)
    press("Shift+J")
    assert panel.dataset.session.standing(0).status == "flagged"
    press("J")
    shown(panel, qtbot, 2)
    assert panel.dataset.session.standing(0).status == "done"


def test_what_another_person_marks_is_seen(opened: Any) -> None:
    _, panel, folder = opened
    other = Worklist.beside(folder, author="bob")
    items = panel.dataset.session.items
    other.mark([items[0], items[2]], status="done", assignee="bob")
    panel.dataset.session.refresh()
    assert panel.dataset.about.text() == "set (indexed): 2 unseen, 2 done."
    panel.dataset.who.setCurrentText("bob")
    panel.dataset._refilter()
    assert [panel.dataset.session.items[i].name for i in panel.dataset.session.order] == [
        "p0",
        "p2",
    ]


def test_selected_rows_are_assigned_and_reviewed(opened: Any) -> None:
    _, panel, folder = opened
    view = panel.dataset.list
    view.selectRow(3)
    panel.dataset.assignee.setEditText("carol")
    panel.dataset.assign.click()
    panel.dataset.review()
    found = Worklist.beside(folder).of(panel.dataset.session.items[3])
    assert (found.status, found.assignee, found.reviewer) == ("done", "carol", "anna")
    panel.dataset.mark("flagged")
    assert Worklist.beside(folder).of(panel.dataset.session.items[3]).reviewer == "", (
        "what is not done was not reviewed"
    )


def test_counting_reads_masks_as_corrected_and_the_filter_knows_classes(
    opened: Any, settle: Callable[[Any], None], qtbot: Any
) -> None:
    _, panel, _ = opened
    session = panel.dataset.session
    session.step(1)
    shown(panel, qtbot, 0)
    panel.host.labels.layer.data_setitem((np.array([20]), np.array([20])), 2)
    session.step(1)
    shown(panel, qtbot, 1)
    assert session.facts_of(session.items[0]).count is None, "not what it was before"
    session.facts.clear()
    panel.dataset.label.setCurrentText("dirt")
    panel.dataset._refilter()
    assert session.order == []
    assert "4 are not counted yet" in panel.dataset.about.text()
    panel.dataset.count.click()
    settle(panel)
    assert [session.items[i].name for i in session.order] == ["p0"]
    panel.dataset.session.refilter(Filter(least=2))
    assert session.order == [0]
    panel.dataset.session.refilter(Filter(most=1))
    assert session.order == [1, 2, 3]
    panel.dataset.count.click()
    assert "known already" in panel.host.message.text()


def test_overlapping_objects_are_masks_of_one_case(
    window: Any, settle: Callable[[Any], None], qtbot: Any, tmp_path: Path
) -> None:
    viewer, panel = window
    folder = written(tmp_path, 2, kind="objects")
    panel.dataset.open_path(folder)
    settle(panel)
    session = panel.dataset.session
    geometry = Geometry.pixels(SHAPE)
    masks = []
    for number in (1, 2):
        ids = np.zeros(SHAPE, np.uint8)
        ids[5:12, 4 * number : 4 * number + 6] = number
        row = Label(number, f"cell {number}", category="cell", is_thing=True)
        masks.append(Mask(ids, geometry, LabelTable([row])))
    from dataclasses import replace

    session.dataset = replace(session.dataset, reader=lambda item, job: Sample(item, tuple(masks)))
    session.go(0)
    shown(panel, qtbot, 0)
    assert [layer.name for layer in viewer.layers] == ["p0", "p0_labels", "p0_labels 2"]
    panel.dataset.kind.setCurrentText("cell")
    panel.dataset.new_object.click()
    assert panel.host.labels.layer.selected_label == 3, "free over both masks"
    panel.host.labels.layer.data_setitem((np.array([20]), np.array([20])), 3)
    session.step(1)
    shown(panel, qtbot, 1)
    with Case.open(case_folder(folder / "images" / "p0.png"), read_only=True) as case:
        found = [*case.masks.values()]
    assert [mask.ids() for mask in found] == [[1, 3], [2]]
    assert found[0].labels[3].category == "cell"
    assert np.array_equal(found[1].data, masks[1].data)


def test_a_folder_of_volumes_is_a_list_and_the_model_drafts_what_comes(
    window: Any, settle: Callable[[Any], None], qtbot: Any, tmp_path: Path
) -> None:
    _, panel = window
    for number in range(2):
        pixels = np.zeros((9, 10, 8), np.int16)
        pixels[2:6, 3:7, 2 : 4 + number] = 120
        path = tmp_path / f"ct{number}.nii.gz"
        nibabel.Nifti1Image(pixels, np.diag([-0.7, -0.7, 5.0, 1.0])).to_filename(path)
    panel.dataset.open_path(tmp_path)
    settle(panel)
    session = panel.dataset.session
    assert [item.name for item in session.items] == ["ct0", "ct1"]
    session.step(1)
    shown(panel, qtbot, 0)
    assert not panel.host.labels.layer.data.any()
    panel.predict.choose("fake3d")
    panel.dataset.draft.click()
    qtbot.waitUntil(lambda: panel.host.labels.layer.data.any(), timeout=20_000)
    assert (panel.host.labels.layer.data == 2).sum() == 4 * 4 * 2
    qtbot.waitUntil(lambda: "ct1" in session.ahead._done, timeout=20_000)
    session.step(1)
    shown(panel, qtbot, 1)
    assert (panel.host.labels.layer.data == 2).sum() == 4 * 4 * 3
    panel.dataset.draft.click()
    session.step(1)
    shown(panel, qtbot, 0)
    with Case.open(case_folder(tmp_path / "ct1.nii.gz"), read_only=True) as case:
        assert case.history.last.kind == "model"
        assert case.history.last.author == "fake3d"


def test_what_cannot_be_saved_is_not_left_unasked(opened: Any, qtbot: Any) -> None:
    _, panel, _ = opened
    session = panel.dataset.session
    session.step(1)
    shown(panel, qtbot, 0)
    set_setting("journal", False)
    try:
        panel.host.labels.layer.data_setitem((np.array([20]), np.array([20])), 2)
        session.step(1)
        qtbot.waitUntil(lambda: not panel.dataset.unsaved.isHidden(), timeout=5000)
        assert session.place == 0
        assert panel.host.labels.layer.data[20, 20] == 2
        assert "journal is off" in panel.host.message.text()
        panel.dataset.unsaved.click()
        shown(panel, qtbot, 1)
    finally:
        set_setting("journal", True)


def test_ten_thousand_images_are_listed_without_reading_one(window: Any, tmp_path: Path) -> None:
    import time

    _, panel = window

    def read(item: Item, job: Any) -> Sample:
        raise AssertionError("a mask was read")

    items = tuple(Item(f"train/{i:05}", count=i % 7, classes=frozenset()) for i in range(10_000))
    found = Dataset("big", "made", tmp_path, CELLS, items, read)
    session = panel.dataset.session
    start = time.process_time()
    session._opened(found, Worklist.beside(tmp_path), ())
    session.refilter(Filter(text="99", least=3))
    session.refilter(Filter(status="done"))
    session.refilter(Filter())
    spent = time.process_time() - start
    assert panel.dataset.list.rows.rowCount() == 10_000
    assert spent < 3, f"{spent:.2f} s"


def test_losses_are_shown_before_anything_is_written(
    opened: Any, settle: Callable[[Any], None], qtbot: Any, tmp_path: Path
) -> None:
    _, panel, _ = opened
    session, box = panel.dataset.session, panel.convert
    session.step(1)
    shown(panel, qtbot, 0)
    panel.host.labels.layer.data_setitem((np.array([20]), np.array([20])), 2)
    box.choose("indexed")
    box.folder.setText(str(tmp_path / "out"))
    assert box.answer.isHidden()
    box.look.click()
    settle(panel)
    qtbot.waitUntil(lambda: box._planned is not None, timeout=10_000)
    assert box.losses.text() == "Nothing is lost."
    assert not (tmp_path / "out").exists()
    shown(panel, qtbot, 0)
    assert "4 images can be written without loss" in panel.host.message.text()
    box.cancel.click()
    assert not (tmp_path / "out").exists()
    box.look.click()
    qtbot.waitUntil(lambda: box._planned is not None, timeout=10_000)
    shown(panel, qtbot, 0)
    panel.host.labels.layer.data_setitem((np.array([20]), np.array([20])), 1)
    qtbot.waitUntil(box.answer.isHidden, timeout=5000)  # what was planned is not so any more
    panel.correct.undo.click()
    box.look.click()
    qtbot.waitUntil(lambda: box._planned is not None, timeout=10_000)
    shown(panel, qtbot, 0)
    box.write.click()
    qtbot.waitUntil(lambda: not box.receipt.isHidden(), timeout=10_000)
    shown(panel, qtbot, 0)
    assert "PASS" in box.receipt.toPlainText()
    assert "read back and compared" in panel.host.message.text(), "not only which image is back"
    written = np.array(Picture.open(tmp_path / "out" / "masks" / "p0.png"))
    assert written[20, 20] == 2, "with what was corrected"
    assert written.sum() == 26


def test_a_loss_is_told_and_can_be_refused(
    opened: Any, settle: Callable[[Any], None], qtbot: Any, tmp_path: Path
) -> None:
    from dataclasses import replace

    _, panel, _ = opened
    session, box = panel.dataset.session, panel.convert
    masks = []
    for number in (1, 2):
        ids = np.zeros(SHAPE, np.uint8)
        ids[5:12, 4 * number : 4 * number + 6] = number
        row = Label(number, f"cell {number}", category="cell", is_thing=True)
        masks.append(Mask(ids, Geometry.pixels(SHAPE), LabelTable([row])))
    session.dataset = replace(
        session.dataset, reader=lambda item, job: Sample(item, tuple(masks)), kind="objects"
    )
    box.choose("indexed")
    box.folder.setText(str(tmp_path / "out"))
    box.plan()
    qtbot.waitUntil(lambda: box._planned is not None, timeout=10_000)
    settle(panel)
    assert "4 objects lose pixels to others over it" in box.losses.text()
    assert box.write.isEnabled()
    box.lossless.setChecked(True)
    assert not box.write.isEnabled()


def test_a_dataset_dropped_on_the_window_is_listed(
    window: Any, settle: Callable[[Any], None], tmp_path: Path
) -> None:
    viewer, panel = window
    folder = written(tmp_path)
    viewer.open(str(folder), plugin="napari-maskloop")
    assert not viewer.layers
    settle(panel)
    assert panel.dataset.list.rows.rowCount() == 4


def test_folders_of_plain_pictures_and_foreign_files_are_left_to_others(tmp_path: Path) -> None:
    from maskloop.gui import contributions

    (tmp_path / "photos").mkdir()
    Picture.new("L", (9, 9)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "package.json").write_text('{"name": "x"}')
    assert contributions.get_reader(str(tmp_path / "photos")) is None
    assert contributions.get_reader(str(tmp_path / "package.json")) is None
    volume = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    (tmp_path / "ct").mkdir()
    volume.to_filename(tmp_path / "ct" / "a.nii.gz")
    assert contributions.get_reader(str(tmp_path / "ct")) is contributions.read_list


def test_a_broken_image_is_told_and_passed_by(opened: Any, qtbot: Any) -> None:
    _, panel, folder = opened
    session = panel.dataset.session
    (folder / "images" / "p1.png").write_bytes(b"no picture")
    session.step(1)
    shown(panel, qtbot, 0)
    session.step(1)
    qtbot.waitUntil(lambda: "p1.png" in panel.host.message.text(), timeout=10_000)
    assert session.place is None
    assert session.standing(1).status == "unseen"
    session.step(1)
    shown(panel, qtbot, 2)


def test_an_item_without_a_picture_can_be_looked_at_only(opened: Any, qtbot: Any) -> None:
    from dataclasses import replace

    viewer, panel, _ = opened
    session = panel.dataset.session
    items = tuple(replace(item, image=None) for item in session.items)
    session.dataset = replace(session.dataset, items=items)
    session.step(1)
    shown(panel, qtbot, 0)
    assert [layer.name for layer in viewer.layers] == ["p0_labels"]
    assert not panel.host.labels.layer.editable
    assert "not corrected" in panel.host.message.text()


def test_what_others_mark_keeps_the_rows_selected(opened: Any) -> None:
    _, panel, folder = opened
    session = panel.dataset.session
    panel.dataset.list.selectRow(2)
    Worklist.beside(folder, author="bob").mark([session.items[0]], status="flagged")
    session.refresh()
    assert panel.dataset.list.chosen == [2]
    assert session.standing(0).status == "flagged"


def test_a_label_is_cut_out_of_its_picture(
    opened: Any, settle: Callable[[Any], None], qtbot: Any, tmp_path: Path
) -> None:
    _, panel, folder = opened
    assert panel.cutout.isHidden()
    panel.dataset.session.step(1)
    shown(panel, qtbot, 0)
    assert not panel.cutout.isHidden()
    panel.host.labels.layer.data_setitem((np.array([20]), np.array([20])), 2)
    panel.host.labels.layer.selected_label = 1
    panel.cutout.what.setCurrentIndex(1)
    panel.cutout.soft.setValue(0)
    panel.cutout.save(tmp_path / "cell.png")
    settle(panel)
    found = np.array(Picture.open(tmp_path / "cell.png").convert("RGBA"))
    grey = np.array(Picture.open(folder / "images" / "p0.png"))
    region = np.zeros(SHAPE, bool)
    region[2:6, 3:9] = True
    assert np.array_equal(found[..., 3], np.where(region, 255, 0))
    assert np.array_equal(found[region][:, 0], grey[region])


def test_a_json_dropped_is_a_list_or_the_masks_of_the_picture_that_is_open(
    window: Any, settle: Callable[[Any], None], tmp_path: Path
) -> None:
    viewer, panel = window
    folder = written(tmp_path, 1, kind="objects")
    convert_dataset(folder, tmp_path / "coco", "coco")
    (found,) = (tmp_path / "coco").rglob("*instances*.json")
    viewer.open(str(found), plugin="napari-maskloop")
    settle(panel)
    assert panel.dataset.list.rows.rowCount() == 1
    assert not viewer.layers
    viewer.open(str(folder / "images" / "p0.png"), plugin="napari-maskloop")
    viewer.open(str(found), plugin="napari-maskloop")
    assert len(viewer.layers) == 2
    assert viewer.layers[1].data.astype(bool).sum() == 24


def test_a_case_that_somebody_began_meanwhile_is_gone_on_with(opened: Any, qtbot: Any) -> None:
    from maskloop.desk.cases import open_case

    _, panel, folder = opened
    session = panel.dataset.session
    session.step(1)
    shown(panel, qtbot, 0)
    qtbot.waitUntil(lambda: session.ahead._ready is not None, timeout=20_000)
    with open_case(folder / "images" / "p1.png", author="bob") as case:
        case.paint((20, 20), radius_mm=0, label="dirt")
    session.step(1)
    shown(panel, qtbot, 1)
    editor = panel.host.editors.of(panel.host.labels.layer)
    assert [edit.author for edit in editor.case.history] == ["bob"]
    assert not editor.case.is_read_only

"""The window asks before an earlier case is gone on with, and tells where steps are kept."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from maskloop.core.case import Case
from maskloop.desk.cases import case_folder, open_case, replay
from maskloop.gui import layers, ondisk
from maskloop.gui.host import set_setting

Settle = Callable[[Any], None]


@pytest.fixture(autouse=True)
def no_workspace() -> Any:
    """Leave no workspace in napari's preferences, which outlive a test."""
    set_setting("workspace", "")
    yield
    set_setting("workspace", "")


def made(folder: Path) -> Path:
    path = folder / "ct.nii.gz"
    pixels = np.random.default_rng(1).integers(-1000, 500, (9, 8, 7)).astype(np.int16)
    nibabel.Nifti1Image(pixels, np.diag([-0.7, -0.7, 5.0, 1.0])).to_filename(path)
    return path


def corrected(path: Path, steps: int = 3) -> np.ndarray:
    """Make a case with some strokes of anna's; return its mask."""
    with open_case(path, author="anna") as case:
        for at in range(steps):
            case.paint((at, 2, 2), radius_mm=2, label="liver")
        return case.mask.data.copy()


def opened(window: Any, settle: Settle, path: Path, qtbot: Any) -> tuple[Any, Any]:
    viewer, panel = window
    panel.load.open_path(path)
    settle(panel)
    panel.correct.open()
    qtbot.waitUntil(lambda: not panel.correct.banner.isHidden(), timeout=10_000)
    return viewer, panel


def test_an_earlier_case_is_asked_about_where_it_is_seen(
    window: Any, settle: Settle, qtbot: Any, tmp_path: Path
) -> None:
    path = made(tmp_path)
    corrected(path)
    _, panel = window
    assert not panel.correct.header.isChecked()
    panel.load.open_path(path)
    settle(panel)
    qtbot.waitUntil(lambda: not panel.correct.banner.isHidden(), timeout=10_000)
    assert panel.correct.header.isChecked()
    assert panel.host.message.text().startswith("ct has 3 corrections")
    panel.correct.header.setChecked(False)
    panel.host.keeping.changed.emit()
    qtbot.wait(200)
    assert not panel.correct.header.isChecked(), "who closes it is not asked again and again"


def test_continue_opens_the_case_bit_for_bit(
    window: Any, settle: Settle, qtbot: Any, tmp_path: Path
) -> None:
    path = made(tmp_path)
    expected = corrected(path)
    _, panel = opened(window, settle, path, qtbot)
    text = panel.correct.banner.text.text()
    assert text.startswith("ct has 3 corrections by anna, last ")
    assert "properly" not in text
    panel.correct.banner.yes.click()
    settle(panel)
    labels = panel.host.labels.layer
    editor = panel.host.editors.of(labels)
    assert np.array_equal(labels.data, editor.place.shown(expected))
    qtbot.waitUntil(panel.correct.banner.isHidden, timeout=5000)
    labels.paint((1, 1, 1), 1)
    panel.correct.undo.click()
    panel.correct.undo.click()
    panel.host.keeping.close()
    with Case.open(case_folder(path)) as case:
        words = ["brush: liver"] * 3 + ["paint: liver"]
        assert case.history.steps == words
        assert case.history.position == 2
        assert case.redo() is not None
        assert np.array_equal(case.mask.data, expected)


def test_start_afresh_keeps_the_old_case(
    window: Any, settle: Settle, qtbot: Any, tmp_path: Path
) -> None:
    path = made(tmp_path)
    expected = corrected(path)
    _, panel = opened(window, settle, path, qtbot)
    panel.correct.new.click()
    labels = panel.host.labels.layer
    labels.paint((3, 3, 3), 1)  # before the answer: kept in memory, and said so
    editor = panel.host.editors.of(labels)
    editor.flush()
    qtbot.waitUntil(lambda: "until you choose" in panel.correct.kept.text(), timeout=5000)
    assert not editor.keeper.is_on_disk
    panel.correct.banner.no.click()
    panel.host.keeping.close()
    assert np.array_equal(replay(path.parent / "ct.maskloop.2").data, expected)
    assert np.array_equal(editor.place.shown(replay(case_folder(path)).data), labels.data)


def test_strokes_made_before_the_answer_join_the_case(
    window: Any, settle: Settle, qtbot: Any, tmp_path: Path
) -> None:
    path = made(tmp_path)
    expected = corrected(path)
    _, panel = opened(window, settle, path, qtbot)
    panel.correct.new.click()
    drawn = panel.host.labels.layer
    drawn.paint((3, 3, 3), 1)
    panel.host.editors.of(drawn).flush()
    panel.correct.banner.yes.click()
    settle(panel)
    editor = panel.host.editors.of(drawn)
    assert editor.keeper.is_on_disk
    assert editor.mask_name
    kept = drawn.data.copy()
    panel.host.keeping.close()
    with Case.open(case_folder(path)) as case:
        assert np.array_equal(case.masks[""].data, expected)
        assert np.array_equal(editor.place.shown(case.masks[editor.mask_name].data), kept)
        assert len(case.history) == 4


def test_a_crash_is_told_and_loses_nothing(
    window: Any, settle: Settle, qtbot: Any, tmp_path: Path
) -> None:
    path = made(tmp_path)
    expected = corrected(path)
    folder = case_folder(path)
    (folder / "lock").write_text(json.dumps({"pid": 2**22 + 1, "host": "gone", "since": "then"}))
    with (folder / "journal").open("ab") as log:
        log.write(b"\x40\x00\x00\x00torn")  # a record that was being written
    _, panel = opened(window, settle, path, qtbot)
    assert "did not end properly" in panel.correct.banner.text.text()
    panel.correct.banner.yes.click()
    settle(panel)
    labels = panel.host.labels.layer
    assert np.array_equal(panel.host.editors.of(labels).place.shown(expected), labels.data)
    assert "not finished" in panel.host.message.text()


def test_a_second_window_opens_it_for_reading_only(
    window: Any, settle: Settle, qtbot: Any, tmp_path: Path
) -> None:
    path = made(tmp_path)
    expected = corrected(path)
    with open_case(path, author="ben") as held:
        assert not held.is_read_only
        _, panel = opened(window, settle, path, qtbot)
        assert "another window" in panel.correct.banner.text.text()
        assert panel.correct.banner.no.isHidden()
        panel.correct.banner.yes.click()
        settle(panel)
        labels = panel.host.labels.layer
        assert not labels.editable
        assert np.array_equal(panel.host.editors.of(labels).place.shown(expected), labels.data)
        qtbot.waitUntil(lambda: "reading only" in panel.correct.reason.text(), timeout=5000)
        qtbot.waitUntil(lambda: "another window" in panel.correct.kept.text(), timeout=5000)
        panel.correct.new.click()
        assert not panel.host.labels.layer.editable
        panel.host.keeping.close()


def test_a_shared_folder_wants_a_workspace(
    window: Any, settle: Settle, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = tmp_path / "team"
    team.mkdir()
    path = made(team)
    team.chmod(team.stat().st_mode | stat.S_IWOTH)
    _, panel = window
    panel.load.open_path(path)
    settle(panel)
    panel.correct.open()
    panel.correct.new.click()
    labels = panel.host.labels.layer
    labels.paint((3, 3, 3), 1)
    editor = panel.host.editors.of(labels)
    editor.flush()
    assert not editor.keeper.is_on_disk
    told = "shared by a team, and no workspace is chosen"
    qtbot.waitUntil(lambda: told in panel.correct.kept.text(), timeout=5000)
    assert not panel.correct.choose_workspace.isHidden()
    own = tmp_path / "own"
    own.mkdir()
    panel.correct.use_workspace(own)
    qtbot.waitUntil(lambda: editor.keeper.is_on_disk, timeout=10_000)
    assert editor.case.folder is not None
    assert editor.case.folder.parent == own
    qtbot.waitUntil(panel.correct.choose_workspace.isHidden, timeout=5000)
    panel.host.keeping.close()
    (folder,) = own.iterdir()
    assert np.array_equal(editor.place.shown(replay(folder).data), labels.data)
    assert list(team.iterdir()) == [path]


def test_the_journal_can_be_off(
    window: Any, settle: Settle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, panel = window
    monkeypatch.setattr(panel.host.keeping, "_setting", {"journal": False}.get)
    path = made(tmp_path)
    panel.load.open_path(path)
    settle(panel)
    panel.correct.new.click()
    panel.host.labels.layer.paint((3, 3, 3), 1)
    panel.host.keeping.close()
    assert list(tmp_path.glob("*.maskloop")) == []


def test_no_name_is_taken_twice() -> None:
    assert ondisk.free_name("cyst", {"": 1, "cyst": 1}) == "cyst 2"
    assert ondisk.free_name("", {}) == "labels"
    assert ondisk.free_name("a/b:c", {}) == "a-b-c"


def test_put_aside_never_overwrites(tmp_path: Path) -> None:
    for expected in ("ct.maskloop.2", "ct.maskloop.3"):
        folder = tmp_path / "ct.maskloop"
        folder.mkdir()
        assert ondisk.put_aside(folder).name == expected


def test_labels_of_a_case_are_named_after_the_image(
    window: Any, settle: Settle, qtbot: Any, tmp_path: Path
) -> None:
    path = made(tmp_path)
    viewer, panel = window
    panel.load.open_path(path)
    settle(panel)
    panel.predict.choose("fake3d")
    panel.predict.run.click()
    settle(panel)
    editor = panel.host.editors.of(panel.host.labels.layer)
    qtbot.waitUntil(lambda: editor.keeper.is_on_disk, timeout=10_000)
    panel.host.keeping.close()
    log = (case_folder(path) / "case.json").read_text()
    assert '"layer": "fake3d"' in log
    with Case.open(case_folder(path)) as case:
        from maskloop.gui.keeping import _first_name

        assert _first_name(case) == "fake3d"
        assert layers.bare(viewer.layers["ct_fake3d"]).data.any()

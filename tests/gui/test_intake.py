"""A folder of DICOM that leaves something to decide is asked about, never guessed."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtWidgets import QCheckBox

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.gui import contributions, layers
from maskloop.gui.intake import Decision, Intake, ways_of

Settle = Callable[[Any], None]


def row(number: int, **other: Any) -> dict[str, Any]:
    return {
        "row": number,
        "number": str(number + 1),
        "modality": "CT",
        "what": "axial volume",
        "slices": 40,
        "spacing_mm": [3.0, 0.7, 0.7],
        "problems": [],
        "notes": [],
        "loads": True,
        **other,
    }


GAP = {"name": "gap", "words": "expected 40 slices, got 38", "choices": ["--fill-gap"]}
UNEVEN = {
    "name": "uneven spacing",
    "words": "expected equal steps",
    "choices": ["--resample", "--fill-gap"],
}
CONTOURS = {
    "row": 2,
    "number": "7",
    "modality": "RTSTRUCT",
    "what": "contours",
    "files": 1,
    "loads": False,
    "problems": [],
}
MIXED = {"name": "mixed sizes", "words": "expected one size", "choices": []}


def report(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"series": list(rows)}


@pytest.mark.parametrize(
    ("rows", "is_asked"),
    [
        ((row(1),), False),
        ((row(1), row(2)), True),
        ((row(1, loads=False, problems=[GAP]),), True),
        ((row(1, tilt_degrees=18.5),), True),
        ((row(1), CONTOURS), False),
        ((CONTOURS,), False),
        ((), False),
    ],
)
def test_only_what_is_undecided_is_asked(rows: tuple[dict[str, Any], ...], is_asked: bool) -> None:
    assert contributions.must_ask(report(*rows)) is is_asked


def test_choices_are_read_as_they_are_printed() -> None:
    assert ways_of(UNEVEN) == {"resample", "fill_gap"}
    assert ways_of({"choices": ["--series N", "fill_gap"]}) == {"series", "fill_gap"}


def test_the_longest_series_that_loads_is_proposed(qtbot: Any) -> None:
    short, broken = row(1, slices=3), row(3, slices=900, loads=False, problems=[MIXED])
    dialog = Intake(report(short, row(2), broken))
    qtbot.addWidget(dialog)
    heard: list[Decision] = []
    dialog.decided.connect(heard.append)
    assert dialog.open_button.isEnabled()
    dialog.accept()
    assert heard == [Decision("2")]


def test_a_problem_must_be_settled_before_the_series_opens(qtbot: Any) -> None:
    dialog = Intake(report(row(1, loads=False, problems=[GAP]), row(2, slices=2)))
    qtbot.addWidget(dialog)
    heard: list[Decision] = []
    dialog.decided.connect(heard.append)
    dialog.choose(0)
    assert "expected 40 slices, got 38" in dialog.words.text()
    assert dialog.resample.isHidden()
    assert not dialog.open_button.isEnabled()
    dialog.accept()
    assert not heard
    dialog.fill_gap.setChecked(True)
    assert dialog.open_button.isEnabled()
    dialog.accept()
    assert heard == [Decision("1", fill_gap=True)]


def test_the_window_names_its_boxes_not_flags_of_the_command_line(qtbot: Any) -> None:
    problem = {**UNEVEN, "words": "expected equal steps; resample: --resample"}
    note = "kept as a shear (--resample makes it upright)"
    dialog = Intake(report(row(1, loads=False, problems=[problem], notes=[note])))
    qtbot.addWidget(dialog)
    assert "--" not in dialog.words.text()
    assert dialog.words.text().count(dialog.resample.text()) == 2


def test_a_series_that_nothing_can_mend_cannot_be_opened(qtbot: Any) -> None:
    dialog = Intake(report(row(1, loads=False, problems=[MIXED, GAP])))
    qtbot.addWidget(dialog)
    dialog.fill_gap.setChecked(True)
    assert not dialog.open_button.isEnabled()
    assert "cannot be opened" in dialog.words.text()


def test_what_is_no_image_is_listed_and_not_opened(qtbot: Any) -> None:
    dialog = Intake(report(row(1, told_apart_by=["echo 2"]), CONTOURS, row(3, slices=2)))
    qtbot.addWidget(dialog)
    assert dialog.open_button.isEnabled()
    assert dialog.table.item(0, 2).text() == "axial volume, echo 2"
    dialog.choose(1)
    assert "no image" in dialog.words.text()
    assert not dialog.open_button.isEnabled()


def test_ticks_do_not_stay_when_another_series_is_selected(qtbot: Any) -> None:
    dialog = Intake(report(row(1, loads=False, problems=[UNEVEN]), row(2, tilt_degrees=12.0)))
    qtbot.addWidget(dialog)
    dialog.choose(0)
    dialog.resample.setChecked(True)
    dialog.choose(1)
    assert not dialog.resample.isHidden()
    assert not dialog.resample.isChecked()
    assert dialog.fill_gap.isHidden()
    assert dialog.table.item(1, 5).text() == "tilt 12°"
    for box in dialog.findChildren(QCheckBox):
        assert box.toolTip()


def test_the_decision_reaches_the_reader_and_its_notices_are_shown(
    window: Any, settle: Settle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window's part alone: the verbs are replaced, so that what they say is known."""
    import maskloop.desk.check as desk
    import maskloop.loop.load as verb

    folder = tmp_path / "DOE JOHN"
    folder.mkdir()
    asked: list[Any] = []

    def fake_load(path: Path, *, choices: Any, job: Any) -> Image:
        asked.append(choices)
        job.say("2 slices were interpolated")
        pixels = np.zeros((4, 5, 6), np.int16)
        return Image(pixels, Geometry.regular((4, 5, 6), (3, 1, 1)), path, title="CT series 3")

    found = report(row(1), row(2, loads=False, problems=[GAP, UNEVEN]))
    monkeypatch.setattr(desk, "info", lambda path, *, job=None: found)
    monkeypatch.setattr(verb, "load", fake_load)
    viewer, panel = window
    panel.load.open_path(folder)
    settle(panel)
    dialog = panel.load.intake
    assert dialog.isVisible()
    assert len(viewer.layers) == 0
    dialog.choose(1)
    dialog.fill_gap.setChecked(True)
    dialog.accept()
    settle(panel)
    assert [x.name for x in viewer.layers] == ["CT series 3"]
    (choices,) = asked
    assert (choices.series, choices.resample, choices.fill_gap) == ("2", False, True)
    assert "2 slices were interpolated" in panel.host.message.text()
    assert "DOE" not in panel.host.message.text()
    panel.correct.new.click()
    assert "DOE" not in Path(panel.export.path.text()).name


def test_a_dropped_folder_opens_the_panel_and_asks(
    make_napari_viewer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import maskloop.desk.check as desk

    (tmp_path / "IM1").write_bytes(b"\0" * 128 + b"DICM")
    found = report(row(1), row(2))
    monkeypatch.setattr(desk, "info", lambda path, *, job=None: found)
    viewer = make_napari_viewer()
    assert viewer.open(str(tmp_path), plugin="napari-maskloop") == []
    _, panel = viewer.window.add_plugin_dock_widget("napari-maskloop", "maskloop")
    assert panel.load.intake.table.rowCount() == 2
    panel.load.intake.reject()


def test_a_real_tilted_series_with_uneven_steps_is_resampled_on_request(
    window: Any, settle: Settle, shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "dicom" / "ge_tilt_variable_spacing" / "GE.zip"
    with zipfile.ZipFile(source) as packed:
        packed.extractall(tmp_path)
    viewer, panel = window
    panel.load.open_path(tmp_path)
    settle(panel)
    dialog = panel.load.intake
    assert "equal steps" in dialog.words.text()
    assert not dialog.open_button.isEnabled()
    dialog.resample.setChecked(True)
    dialog.accept()
    settle(panel)
    (layer,) = viewer.layers
    assert layer.name.startswith("CT")
    assert np.all(layer.scale > 0)
    grid = layers.placement_of(layers.bare(layer)).geometry
    axes = grid.affine[:3, :3] / np.array(grid.spacing)
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    assert panel.letters["left"] == "R"

"""Objects and classes in one layer: menu, words, legend, table, file and comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from maskloop.core.labels import Label, LabelTable
from maskloop.gui import layers
from maskloop.loop.load import load_mask


@pytest.fixture
def scene(window: Any, fake_models: Callable[..., None], settle: Callable[[Any], None]) -> Any:
    """Return (viewer, panel, labels layer): three cells on ground, as a panoptic model has them."""
    labels = LabelTable([Label(1, "cell", is_thing=True), Label(2, "ground")])
    fake_models("both", ndim=2, task="panoptic", labels=labels)
    viewer, panel = window
    pixels = np.zeros((40, 50), np.uint8)
    pixels[4:14, 5:15], pixels[20:30, 8:20], pixels[25:33, 32:44] = 204, 255, 153
    viewer.add_image(pixels, name="cells")
    panel.predict.refill()
    panel.predict.choose("both")
    panel.predict.run.click()
    settle(panel)
    return viewer, panel, layers.bare(viewer.layers["cells_both"])


def test_the_menu_and_the_words_tell_objects_from_classes(scene: Any) -> None:
    _, panel, _ = scene
    assert "Cell, one by one; ground" in panel.predict.model.headings
    assert not panel.predict.refine.isEnabled()
    assert not panel.predict.chances.isEnabled()
    said = panel.host.message.text()
    assert "3 objects and 1 class in" in said
    assert "cell 1 is no star" in said


def test_one_layer_holds_both_and_the_legend_explains_it(scene: Any) -> None:
    _, panel, layer = scene
    table = layers.table_of(layer)
    assert [row.is_thing for row in table.values()] == [True, True, True, False]
    assert table.kind == "objects"
    assert (np.asarray(layer.data) > 0).all()
    for row in table.values():  # what the legend shows is what is drawn
        shown = "#" + "".join(f"{round(255 * float(n)):02x}" for n in layer.get_color(row.id)[:3])
        assert shown == row.colour
    assert panel.predict.legend.lines[0] == ("\N{BLACK SQUARE} ground", table[4].colour)
    assert panel.predict.legend.lines[1][0] == "cell: 3, each its own colour"


def test_the_table_of_objects_has_scores(scene: Any, qtbot: Any) -> None:
    _, panel, _ = scene
    panel.objects.open()
    view = panel.objects.list
    qtbot.waitUntil(lambda: view.rows.rowCount() == 4, timeout=10_000)
    assert not view.isColumnHidden(6)
    assert view.isColumnHidden(4)
    view.sortByColumn(6, view.horizontalHeader().sortIndicatorOrder().DescendingOrder)
    shown = [view.rows.data(view.rows.index(row, 6)) for row in range(4)]
    assert shown == ["1.00", "0.80", "0.60", ""]
    view.choose(view.rows.numbers[1])
    assert "score 0.80" in panel.objects.details.text()
    assert panel.objects.details.text().startswith("cell 1, new")


def test_without_scores_there_is_no_such_column(window: Any, qtbot: Any) -> None:
    viewer, panel = window
    viewer.add_labels(np.eye(9, dtype=np.uint8), name="drawn")
    panel.objects.open()
    qtbot.waitUntil(lambda: panel.objects.list.rows.rowCount() == 1, timeout=10_000)
    assert panel.objects.list.isColumnHidden(6)


def test_a_coco_file_keeps_what_is_thing_and_what_is_class(scene: Any, tmp_path: Path) -> None:
    from maskloop.loop.export import export

    _, panel, layer = scene
    editor = panel.host.editors.of(layer)
    if not editor.is_open:
        panel.host.editors.open(editor)
    held = editor.case.mask
    receipt = export(held, tmp_path / "both.json")
    assert receipt.verdict == "PASS"
    back = load_mask(tmp_path / "both.json")
    np.testing.assert_array_equal(back.data, held.data)
    assert back.labels[4] == Label(4, "ground", author=held.labels[4].author)
    for i in (1, 2, 3):
        assert (back.labels[i].category, back.labels[i].is_thing) == ("cell", True)
        assert back.labels[i].score == pytest.approx(held.labels[i].score)


def test_it_is_compared_class_by_class(scene: Any, settle: Callable[[Any], None]) -> None:
    viewer, panel, layer = scene
    panel.compare.open()
    corrected = np.array(layer.data)
    corrected[corrected == 2] = 4  # one cell is ground
    made = viewer.add_labels(corrected, name="corrected")
    layers.set_table(layers.bare(made), layers.table_of(layer))
    panel.compare.a.choose("layer: corrected")
    panel.compare.b.choose("both")
    panel.compare.run.click()
    settle(panel)
    found = panel.compare._found
    assert {row.name for row in found.labels} == {"cell", "ground"}
    assert [(found.class_name(d.a), found.class_name(d.b)) for d in found.differences] == [
        ("ground", "cell")
    ]


def test_what_training_tells_stays_beside_its_verdict(
    window: Any, settle: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    import maskloop.loop.train as verb

    def fake_train(cases: Any, base: str, name: str, *, job: Any, **told: Any) -> Any:
        for case in range(9):
            job.say(f"{case}: 2 of 9 objects are no stars")
        return SimpleNamespace(
            card=SimpleNamespace(name=name),
            old=None,
            new={"cell": 0.5},
            measure="AP@0.5",
            verdict="candidate",
            reasons=(),
            split="cases",
            curve=(),
            steps=1,
            is_promoted=True,
        )

    monkeypatch.setattr(verb, "train", fake_train)
    viewer, panel = window
    viewer.add_image(np.zeros((8, 9), np.uint8), name="picture")
    viewer.add_labels(np.ones((8, 9), np.uint8), name="drawn")
    panel.train.add_case.click()
    panel.train.base.choose("maskrcnn:resnet50")
    panel.train.run.click()
    settle(panel)
    told = panel.train.verdict.text().splitlines()
    assert told[-7:-1] == [f"{case}: 2 of 9 objects are no stars" for case in range(6)]
    assert told[-1] == "and 3 notes more"
    assert "AP@0.5" in panel.train.verdict.text()


def test_limits_of_a_family_are_read_before_training(
    window: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    from maskloop.models import LISTED

    _, panel = window
    panel.train.open()
    limited = dataclasses.replace(LISTED["maskrcnn"], limits=("no rings",))
    monkeypatch.setitem(LISTED, "maskrcnn", limited)
    panel.train.refill()
    panel.train.base.choose("maskrcnn:resnet50")
    assert panel.train.limits.text() == "no rings"
    assert not panel.train.limits.isHidden()
    panel.train.base.choose("unet:2015")
    assert panel.train.limits.isHidden()

"""Clicks draw objects and take away, and leave what people painted or locked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskloop.cli import run
from maskloop.core.case import Case
from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.desk.clicking import Clicked, Clicker, change_of, click, first_clicks, list_clickers
from maskloop.models import FAMILIES
from maskloop.models.cards import find_card
from maskloop.ops.device import CPU
from tests.desk import click_family
from tests.desk.click_family import save_bright


@pytest.fixture(autouse=True)
def bright(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES.entries, "bright", "tests.desk.click_family:FAMILY")
    click_family.FAMILY.looks.clear()
    save_bright(tmp_path)


def cells(shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    pixels = np.full(shape, 20, np.uint8)
    pixels[10:20, 10:22] = 200
    pixels[35:55, 40:60] = 180
    return pixels


def picture(pixels: np.ndarray | None = None) -> Image:
    pixels = cells() if pixels is None else pixels
    return Image(pixels, Geometry.pixels(pixels.shape))


def empty(image: Image, labels: LabelTable | None = None) -> Mask:
    ids = np.zeros(image.geometry.shape, np.uint8)
    return Mask.like(image, ids, labels or LabelTable())


def applied(mask: Mask, one: Clicked) -> Mask:
    data = mask.data.astype(np.promote_types(mask.data.dtype, one.ids.dtype))
    data[one.box] = one.ids
    return dataclasses.replace(mask, data=data, labels=one.labels)


@pytest.fixture
def ready() -> tuple[Clicker, Image]:
    clicker, image = Clicker("bright", "cpu"), picture()
    clicker.show(image)
    return clicker, image


def test_each_click_is_an_object_with_class_score_and_author(ready: Any) -> None:
    clicker, image = ready
    first = applied(empty(image), clicker.click(empty(image), (15, 15)))
    both = applied(first, clicker.click(first, (45, 50)))
    assert np.array_equal(both.data > 0, image.data > 100)
    assert both.data[15, 15] == 1
    assert both.data[45, 50] == 2
    row = both.labels[2]
    assert (row.name, row.category, row.is_thing, row.author) == ("cell 2", "cell", True, "bright")
    assert row.score is not None
    assert 0.6 < row.score < 1


def test_the_picture_is_seen_once_however_many_clicks(ready: Any) -> None:
    clicker, image = ready
    mask = empty(image)
    assert not clicker.has_seen((15, 15))
    for point in ((15, 15), (45, 50), (12, 11), (0, 0)):
        clicker.click(mask, point)
    assert len(click_family.FAMILY.looks) == 1
    assert clicker.has_seen((59, 79))
    clicker.show(picture(np.zeros((60, 80), np.uint8)))
    assert not clicker.has_seen((15, 15))


def test_of_a_large_picture_a_part_is_seen_and_another_when_needed(tmp_path: Path) -> None:
    save_bright(tmp_path, "part", window=256)
    pixels = np.full((600, 700), 20, np.uint8)
    pixels[280:300, 300:330] = 200
    clicker, image = Clicker("part", "cpu"), picture(pixels)
    clicker.show(image)
    one = clicker.click(empty(image), (290, 310))
    assert np.array_equal(applied(empty(image), one).data > 0, pixels > 100)
    clicker.click(empty(image), (300, 300))
    assert len(click_family.FAMILY.looks) == 1
    clicker.click(empty(image), (20, 20))
    clicker.click(empty(image), (0, 0))
    assert click_family.FAMILY.looks == [(290, 310), (20, 20)]


def test_nothing_there_changes_nothing_and_says_so(ready: Any) -> None:
    clicker, image = ready
    one = clicker.click(empty(image), (30, 5))
    assert one.is_empty
    assert "no object" in one.note
    again = applied(empty(image), clicker.click(empty(image), (15, 15)))
    same = clicker.click(again, (15, 15))
    assert same.is_empty
    assert "painted already" in same.note


def test_painted_and_locked_voxels_stay_unless_asked(ready: Any) -> None:
    clicker, image = ready
    table = LabelTable.objects([1, 2], "cell")
    table = table.with_rows([dataclasses.replace(table[2], locked=True)])
    mask = empty(image, table)
    mask.data[10:20, 10:14] = 1
    mask.data[10:20, 14:16] = 2
    one = clicker.click(mask, (15, 20))
    found = applied(mask, one).data
    assert np.array_equal(found[10:20, 10:14], mask.data[10:20, 10:14])
    assert (found[10:20, 14:16] == 2).all()
    assert (found[10:20, 16:22] == 3).all()
    assert "60 pixels" in one.note
    found = applied(mask, clicker.click(mask, (15, 20), over=True)).data
    assert (found[10:20, 10:14] == 3).all()
    assert (found[10:20, 14:16] == 2).all()  # locked: never
    with pytest.raises(InputError, match="unlock"):
        clicker.click(mask, (15, 15), remove=True)
    with pytest.raises(InputError, match="unlock"):
        clicker.click(mask, (15, 20), label=2)


def test_a_click_on_an_object_makes_it_larger_and_sees_what_a_hand_took(ready: Any) -> None:
    clicker, image = ready
    mask = applied(empty(image), clicker.click(empty(image), (45, 50)))
    mask.data[35:55, 40:48] = 0  # the person's eraser
    one = clicker.click(mask, (45, 55))
    assert one.label == 1
    assert np.array_equal(applied(mask, one).data == 1, cells() == 180)


def test_shift_takes_from_the_object_as_it_is_now(ready: Any) -> None:
    clicker, image = ready
    mask = applied(empty(image), clicker.click(empty(image), (45, 50)))
    mask.data[35:55, 60:75] = 1  # the person's brush went too far, where the model sees nothing
    one = clicker.click(mask, (45, 72), remove=True)
    found = applied(mask, one).data
    assert found[45, 72] == 0
    assert found[45, 50] == 1
    assert 0 < np.count_nonzero(found) < np.count_nonzero(mask.data)
    assert clicker.click(mask, (2, 2), remove=True).is_empty


def test_a_mask_of_the_models_class_gets_that_class_and_a_chosen_label_its_own(ready: Any) -> None:
    clicker, image = ready
    mask = empty(image, LabelTable.classes(["ground", "cell"]))
    assert clicker.click(mask, (15, 15)).label == 2
    assert clicker.click(mask, (15, 15), label=1).label == 1
    other = empty(image, LabelTable.classes(["ground"]))
    one = clicker.click(other, (15, 15))
    assert (one.label, one.labels[2].category) == (2, "cell")
    other.data[:] = 1  # a region of a class is no object: it does not grow
    assert clicker.click(other, (15, 15)).is_empty


def test_a_volume_is_drawn_on_slice_by_slice() -> None:
    volume = np.stack([np.zeros((60, 80), np.uint8), cells(), cells()])
    image = Image(volume, Geometry.regular(volume.shape, (5.0, 1.0, 1.0)))
    clicker = Clicker("bright", "cpu")
    clicker.show(image)
    mask = empty(image)
    found = applied(mask, clicker.click(mask, (1, 15, 15)))
    assert np.count_nonzero(found.data[1]) == 120
    assert not found.data[[0, 2]].any()
    across = applied(mask, clicker.click(mask, (1, 45, 50), axis=2))
    assert np.array_equal(across.data[:, :, 50] > 0, volume[:, :, 50] > 100)
    assert not across.data[:, :, :50].any()
    assert len(click_family.FAMILY.looks) == 2


def test_a_point_outside_and_another_grid_are_refused(ready: Any) -> None:
    clicker, image = ready
    for point, words in (
        ((60, 3), "inside the image"),
        ((-1, 3), "inside the image"),
        ((3, 3, 3), "a point y,x in"),
    ):
        with pytest.raises(InputError, match=words):
            clicker.click(empty(image), point)
    with pytest.raises(InputError):
        clicker.click(empty(picture(np.zeros((20, 20), np.uint8))), (3, 3))
    fresh = Clicker("bright", "cpu")
    with pytest.raises(InputError, match="show one"):
        fresh.click(empty(image), (3, 3))


def test_a_model_that_draws_at_no_point_is_refused_and_not_listed() -> None:
    with pytest.raises(InputError, match="draws at a click"):
        Clicker("nuclei", "cpu")
    assert "bright" in list_clickers()
    assert "nuclei" not in list_clickers()


def test_a_case_keeps_each_click_as_a_step_and_a_hand_stays(ready: Any) -> None:
    clicker, image = ready
    case = Case.in_memory(empty(image), author="anna")
    hand = case.mask.data.copy()
    hand[10:20, 10:12] = 1
    case.change(hand, labels=LabelTable.objects([1], "cell"), kind="person", words="brush")
    done = click(image, clicker, [(15, 20), (45, 50)], mask=case)
    assert case.history.steps == ["brush", "bright: cell 2", "bright: cell 3"]
    assert case.history.last is not None
    assert (case.history.last.kind, case.history.last.author) == ("model", "bright")
    assert done.voxels == 100 + 400
    over = click(image, clicker, [(15, 20)], mask=case, over=True)
    assert any("by hand" in note for note in over.notes)
    assert (case.mask.data[10:20, 10:12] == 1).all()
    change_of(case, clicker.click(case.mask, (15, 20), over=True), clicker, over_hand=True)
    assert not (case.mask.data == 1).any()
    for _ in range(4):
        case.undo()
    assert np.array_equal(case.mask.data, hand)


def test_a_row_of_points_and_what_is_not_of_them() -> None:
    image = picture()
    given = empty(image)
    done = click(image, "bright", [(15, 15), (45, 50), (0, 0)], remove=[(45, 50)], mask=given)
    assert not given.data.any()
    assert done.mask.data[15, 15] == 1
    assert done.voxels >= 520
    assert done.notes == ("0,0: bright sees no object there",)


def test_a_first_click_is_measured_against_the_truth() -> None:
    card = find_card("bright")
    family = click_family.FAMILY
    network = family.build(card)
    ids = np.zeros((60, 80), np.uint8)
    ids[10:20, 10:22], ids[35:55, 40:50], ids[0:5, 0:5] = 1, 2, 3
    found = first_clicks(family, network, picture(), ids, card=card, device=CPU)
    assert found == {1: 1.0, 2: 0.5, 3: 0.0}
    assert len(family.looks) == 1


def test_the_command_draws_and_takes_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image as Pillow

    source, out = tmp_path / "cells.png", tmp_path / "drawn.png"
    Pillow.fromarray(cells()).save(source)
    words = ["click", str(source), "-m", "bright", "--device", "cpu", "--json"]
    assert run([*words, "--at", "15,15 45,50", "-o", str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["voxels"] == 520
    assert told["labels"] == {"1": "cell 1", "2": "cell 2"}
    assert np.array_equal(np.asarray(Pillow.open(out)) > 0, cells() > 100)
    better = tmp_path / "better.png"
    arguments = ["--mask", str(out), "--away", "14,15", "-o", str(better)]
    assert run([*words, *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["voxels"] > 0
    assert run([*words, "-o", str(out)]) == 2
    assert run([*words, "--at", "15,15"]) == 2

"""The list of work: shared by a team, never overwritten, and what of it passes a filter."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from maskloop.core.dataset import Item
from maskloop.core.errors import StorageError
from maskloop.core.standing import Standing, put_standing, standing_of
from maskloop.desk.worklist import FOLDER, Facts, Filter, Worklist, chosen, next_of


def item(root: Path, name: str, **more: object) -> Item:
    return Item(name, root / f"{name}.png", **more)


def test_what_is_marked_is_there_for_the_next_to_open_it(tmp_path: Path) -> None:
    one = Worklist.beside(tmp_path, author="anna")
    assert not (tmp_path / FOLDER).exists(), "looking leaves nothing behind"
    one.mark([item(tmp_path, "a")], status="in work", assignee="anna")
    one.mark([item(tmp_path, "a")], status="done", reviewer="bob")
    other = Worklist.beside(tmp_path)
    assert other.of(item(tmp_path, "a")) == Standing("done", "anna", "bob")
    assert other.of(item(tmp_path, "b")) == Standing()
    assert other.people() == ("anna", "bob")


def test_fields_of_one_item_come_from_different_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = Worklist.beside(tmp_path), Worklist.beside(tmp_path)
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    one.mark([item(tmp_path, "a")], assignee="carol")
    monkeypatch.setattr("socket.gethostname", lambda: "there")
    other.mark([item(tmp_path, "a")], status="flagged")
    assert len(list((tmp_path / FOLDER).glob("*.jsonl"))) == 2
    assert one.refresh()
    assert not one.refresh()
    assert one.of(item(tmp_path, "a")) == Standing("flagged", "carol")


def test_a_mark_made_after_reading_another_wins_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = Worklist.beside(tmp_path)
    monkeypatch.setattr("time.time", lambda: 5e9)
    ahead.mark([item(tmp_path, "a")], status="done")
    monkeypatch.undo()
    behind = Worklist.beside(tmp_path)
    behind.mark([item(tmp_path, "a")], status="flagged")
    assert Worklist.beside(tmp_path).of(item(tmp_path, "a")).status == "flagged"


def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    def work(number: int) -> None:
        mine = Worklist.beside(tmp_path)
        for at in range(40):
            mine.mark([item(tmp_path, f"{number}-{at}")], status="done")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Worklist.beside(tmp_path)
    assert all(
        found.of(item(tmp_path, f"{n}-{at}")).status == "done" for n in range(4) for at in range(40)
    )


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    one = Worklist.beside(tmp_path)
    one.mark([item(tmp_path, "a")], status="done")
    path = next((tmp_path / FOLDER).glob("*.jsonl"))
    with path.open("ab") as file:
        file.write(b'{"item": "dead", "sta')
    for junk in (b"\n[1]\n", b'{"item": 3, "time": "x"}\n', b"\xff\xfe\n"):
        with path.open("ab") as file:
            file.write(junk)
    with path.open("ab") as file:
        file.write(b'{"torn')
    two = Worklist.beside(tmp_path)
    two.mark([item(tmp_path, "b")], status="flagged")
    found = Worklist.beside(tmp_path)
    assert found.of(item(tmp_path, "a")).status == "done"
    assert found.of(item(tmp_path, "b")).status == "flagged"


def test_no_name_of_an_image_is_written(tmp_path: Path) -> None:
    Worklist.beside(tmp_path).mark([item(tmp_path, "DOE_JOHN")], status="done")
    text = "".join(p.read_text() for p in (tmp_path / FOLDER).iterdir())
    assert "DOE" not in text
    assert set(json.loads(text.splitlines()[0])) == {"item", "time", "by", "status"}


def test_an_image_is_known_whatever_a_format_calls_it(tmp_path: Path) -> None:
    one = Worklist.beside(tmp_path)
    one.mark([Item("ct one", tmp_path / "p" / "ct.nii.gz")], status="done")
    assert one.of(Item("patient-001/ct", tmp_path / "p" / "ct.nii.gz")).status == "done"
    assert one.of(Item("ct one", tmp_path / "q" / "ct.nii.gz")).status == "unseen"


def test_the_dataset_says_how_far_an_item_is_until_the_list_does(tmp_path: Path) -> None:
    one = Worklist.beside(tmp_path)
    assert one.of(item(tmp_path, "a", status="done")).status == "done"
    one.mark([item(tmp_path, "a", status="done")], status="in work")
    assert one.of(item(tmp_path, "a", status="done")).status == "in work"


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written_sends_the_list_to_the_workspace(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir(mode=0o500)
    (tmp_path / "space").mkdir()
    assert Worklist.beside(tmp_path / "set").problem
    kept = Worklist.beside(tmp_path / "set", workspace=tmp_path / "space")
    kept.mark([item(tmp_path / "set", "a")], status="done")
    assert list((tmp_path / "space").iterdir())


def test_a_full_disk_leaves_the_list_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Worklist.beside(tmp_path)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        one.mark([item(tmp_path, "a")], status="done")
    assert one.of(item(tmp_path, "a")).status == "unseen"


def test_a_filter_asks_for_what_is_known(tmp_path: Path) -> None:
    items = [item(tmp_path, f"Slide {i}", count=i, classes=frozenset({"cell"})) for i in range(4)]
    items.append(item(tmp_path, "slide x"))
    kept = Worklist.beside(tmp_path)
    kept.mark(items[1:3], status="done", assignee="bob")
    facts = {"Slide 0": Facts(frozenset({"dirt"}), 9)}

    def names(**wanted: object) -> list[int]:
        return chosen(items, kept, facts, Filter(**wanted))

    assert names() == [0, 1, 2, 3, 4]
    assert names(text="SLIDE") == [0, 1, 2, 3, 4]
    assert names(status="done") == [1, 2]
    assert names(assignee="bob", least=2) == [2]
    assert names(label="cell") == [1, 2, 3]
    assert names(label="dirt") == [0]
    assert names(least=3) == [0, 3]
    assert names(most=2) == [1, 2]


def test_the_next_goes_round_and_passes_by_what_is_not_wanted() -> None:
    order = [4, 2, 7]
    assert next_of(order, None) == 4
    assert next_of(order, 4) == 2
    assert next_of(order, 7) == 4
    assert next_of(order, 4, -1) == 7
    assert next_of(order, None, -1) == 7
    assert next_of(order, 9) == 4, "what is not listed is left for the first"
    assert next_of(order, 4, among={7}) == 7
    assert next_of(order, 4, among=set()) is None
    assert next_of([4], 4) is None


def test_a_case_says_how_far_it_is(tmp_path: Path) -> None:
    assert standing_of(tmp_path) is None
    put_standing(tmp_path, Standing("done", "anna", "bob"))
    assert standing_of(tmp_path) == Standing("done", "anna", "bob")
    (tmp_path / "standing.json").write_text('{"status": "half", "assignee": 3, "reviewer": "x"}')
    assert standing_of(tmp_path) == Standing("unseen", "", "x")


def test_ten_thousand_marks_are_read_in_a_second(tmp_path: Path) -> None:
    import time

    one = Worklist.beside(tmp_path)
    items = [item(tmp_path, f"train/{i:05}") for i in range(10_000)]
    one.mark(items, status="done", assignee="anna")
    start = time.process_time()
    found = Worklist.beside(tmp_path)
    assert len(chosen(items, found, {}, Filter(status="done"))) == 10_000
    spent = time.process_time() - start
    assert spent < 2, f"{spent:.2f} s"


def test_an_images_folder_is_listed_without_its_masks(tmp_path: Path) -> None:
    from maskloop.desk.items import open_item, open_list

    for name in ("b.png", "a.png", "a_mask.png"):
        Picture.fromarray(np.full((5, 6), 9, np.uint8)).save(tmp_path / name)
    (tmp_path / "a.maskloop").mkdir()
    (tmp_path / "a_mask.png").rename(tmp_path / "z_mask.png")
    found = open_list(tmp_path)
    assert [one.name for one in found.items] == ["a", "b"]
    opened = open_item(found, found.items[1])
    assert opened.image is not None
    assert not opened.is_drawn
    assert opened.masks[0].data.shape == (5, 6)

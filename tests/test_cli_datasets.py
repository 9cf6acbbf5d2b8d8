"""`maskloop convert` over datasets, and the list of formats."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image as Picture

from maskloop.cli import run
from maskloop.core.labels import LabelTable
from maskloop.formats.base import table_bytes


@pytest.fixture
def cells(tmp_path):
    """A dataset of three pictures of one class."""
    root = tmp_path / "cells"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for number in range(3):
        ids = np.zeros((20, 24), np.uint8)
        ids[3:9, 4 : 12 + number] = 1
        Picture.fromarray(ids).save(root / "masks" / f"c{number}.png")
        Picture.fromarray(ids * 200).save(root / "images" / f"c{number}.png")
    (root / "classes.json").write_bytes(table_bytes(LabelTable.classes(["cell"])))
    return root


def told(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def test_a_dataset_is_written_read_back_and_told(cells, tmp_path, capsys):
    assert run(["convert", str(cells), str(tmp_path / "out"), "--to", "indexed", "--json"]) == 0
    receipt = told(capsys)
    assert (receipt["verdict"], receipt["items"], receipt["objects"]) == ("PASS", 3, 3)
    assert set(receipt["sha256"]) >= {"masks/c0.png", "images/c2.png", "classes.json"}
    kept = json.loads((tmp_path / "out" / "receipt.json").read_text())
    assert kept["sha256"] == receipt["sha256"]
    assert kept["path"] == "out"


def test_a_dry_run_writes_nothing(cells, tmp_path, capsys):
    assert run(["convert", str(cells), "--to", "indexed", "--dry-run", "--json"]) == 0
    assert told(capsys)["losses"] == []
    assert [p.name for p in tmp_path.iterdir()] == ["cells"]


def test_what_is_there_is_replaced_only_when_asked(cells, tmp_path, capsys):
    command = ["convert", str(cells), str(tmp_path / "out"), "--to", "indexed"]
    assert run(command) == 0
    assert run(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run([*command, "--overwrite"]) == 0


def test_an_option_that_the_format_does_not_heed_is_refused(cells, tmp_path, capsys):
    command = ["convert", str(cells), str(tmp_path / "out"), "--to", "indexed"]
    assert run([*command, "--outline", "polygon"]) == 2
    assert "--outline" in capsys.readouterr().err


def test_pictures_are_left_out_on_request(cells, tmp_path):
    command = ["convert", str(cells), str(tmp_path / "out"), "--to", "indexed"]
    assert run([*command, "--images", "none"]) == 0
    assert not (tmp_path / "out" / "images").exists()


def test_a_folder_that_nobody_knows_is_told_with_the_formats(tmp_path, capsys):
    (tmp_path / "odd").mkdir()
    (tmp_path / "none.json").touch()
    for empty, words in (("odd", "an empty folder"), ("none.json", "an empty file")):
        assert run(["convert", str(tmp_path / empty), str(tmp_path / "o"), "--to", "indexed"]) == 2
        assert words in capsys.readouterr().err
    (tmp_path / "odd" / "notes.txt").write_text("mine")
    assert run(["convert", str(tmp_path / "odd"), str(tmp_path / "o"), "--to", "indexed"]) == 2
    error = capsys.readouterr().err
    assert "--from" in error
    assert "indexed" in error


def test_status_without_cases_is_told(cells, tmp_path, capsys):
    command = ["convert", str(cells), str(tmp_path / "out"), "--to", "indexed", "--only", "done"]
    assert run(command) == 2
    assert "there is: unseen" in capsys.readouterr().err


def test_datasets_stand_in_the_list_of_formats(capsys):
    assert run(["formats", "--json"]) == 0
    found = told(capsys)
    row = next(row for row in found["datasets"] if row["name"] == "indexed")
    assert row["reads"]
    assert row["writes"]
    assert row["axes"] == "2D"


def test_an_old_set_can_be_read_again(cells, tmp_path, capsys):
    assert run(["convert", str(cells), str(tmp_path / "a"), "--to", "indexed", "--json"]) == 0
    first = told(capsys)
    assert (
        run(["convert", str(tmp_path / "a"), str(tmp_path / "b"), "--to", "indexed", "--json"]) == 0
    )
    assert told(capsys)["sha256"] == first["sha256"]


def test_what_was_corrected_in_cases_is_what_is_converted(cells, tmp_path, capsys):
    import maskloop
    from maskloop.desk.items import open_item

    dataset = maskloop.open_dataset(cells)
    start = open_item(dataset, dataset.items[1]).masks[0]
    with maskloop.open_case(dataset.items[1].image, mask=start, author="anna") as case:
        ids = case.mask.data.copy()
        ids[15:18, 2:6] = 1
        case.change(ids, kind="person", tool="brush")
    assert run(["convert", str(cells), str(tmp_path / "new"), "--to", "indexed"]) == 0
    assert "1 of 3 items have a case" in capsys.readouterr().err
    assert np.array(Picture.open(tmp_path / "new" / "masks" / "c1.png"))[16, 3] == 1
    command = ["convert", str(cells), str(tmp_path / "old"), "--to", "indexed", "--as-given"]
    assert run(command) == 0
    assert np.array(Picture.open(tmp_path / "old" / "masks" / "c1.png"))[16, 3] == 0

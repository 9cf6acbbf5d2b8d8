"""``maskloop models import``: published weights become a model of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maskloop.cli import run
from maskloop.core.labels import LabelTable
from maskloop.models.base import write_state
from maskloop.models.meshnet import FAMILY


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    card = FAMILY.card("width5", LabelTable.classes(["liver", "tumour"]))
    write_state(FAMILY.build(card), tmp_path / "w.safetensors")
    (tmp_path / "names.txt").write_text("liver\ntumour\n", encoding="utf-8")
    network = ["--family", "meshnet:width5", "--labels", str(tmp_path / "names.txt")]
    return ["models", "import", str(tmp_path / "w.safetensors"), *network, "--name", "mine"]


def test_the_model_is_listed_afterwards(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--licence", "MIT", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["labels"]) == ("mine", 2)
    assert Path(found["path"], "card.json").is_file()
    assert run(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["models"]}
    assert rows["mine"]["licence"] == "MIT"
    assert rows["mine"]["state"] != "to be fetched"


def test_what_does_not_fit_is_said_and_nothing_is_kept(
    arguments: list[str], capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    assert run([*arguments[:-2], "--name", "mine", "--family", "meshnet:width11"]) != 0
    told = capsys.readouterr()
    assert "they differ" in told.err
    assert "choose the variant" in told.err
    assert not (home / "models" / "mine").exists()
    assert run(arguments) == 0
    assert run(arguments) != 0
    assert run([*arguments, "--overwrite"]) == 0

from __future__ import annotations

import importlib.metadata
import json
import socket
from pathlib import Path

import pytest

from maskloop.desk import doctor as module
from maskloop.desk.doctor import doctor


def test_it_says_what_is_there_in_plain_json():
    found = doctor()
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["numpy"] == importlib.metadata.version("numpy")
    assert found["device"]["torch"]
    assert "cpu" in found["device"]["devices"]
    assert found["processors"] >= 1
    assert found["storage"]["temporary"]["free_bytes"] > 0


def test_it_touches_no_network(monkeypatch):
    def refused(*args: object, **options: object) -> None:
        pytest.fail("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    doctor()


def test_it_writes_nothing(home):
    doctor()
    assert list(home.rglob("*")) == []


def test_the_size_of_what_is_stored_is_counted(home):
    folder = Path(doctor()["storage"]["models"]["path"])
    assert folder.is_relative_to(home)
    (folder / "mine").mkdir(parents=True)
    (folder / "mine" / "weights.bin").write_bytes(bytes(1234))
    assert doctor()["storage"]["models"]["size_bytes"] == 1234


def test_a_card_that_torch_cannot_use_comes_with_its_cure(monkeypatch):
    described = {
        "torch": "2.15.0+cpu", "cuda_built": None, "devices": ["cpu"], "best": "cpu",
        "cards": ["NVIDIA RTX"], "driver": "570", "driver_cuda": "12.8",
        "problem": "NVIDIA RTX is present but torch was built for the processor only",
        "fix": "python -m pip install torch --index-url X",
    }  # fmt: skip
    monkeypatch.setattr("maskloop.ops.device.describe", lambda: described)
    assert doctor()["problems"][0] == {"problem": described["problem"], "fix": described["fix"]}


@pytest.mark.parametrize(
    ("napari", "qt", "words"),
    [
        (None, True, "the window needs napari"),
        ("0.9", False, "the window needs a Qt binding"),
        (None, False, "the window needs napari and a Qt binding"),
    ],
)
def test_a_missing_window_comes_with_its_cure(monkeypatch, napari, qt, words):
    version = module._version
    monkeypatch.setattr(module, "_version", lambda n: napari if n == "napari" else version(n))
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: object() if qt else None)
    (problem,) = doctor()["problems"]
    assert problem["problem"] == words
    assert problem["fix"].endswith("-m pip install 'napari-maskloop[all]'")


def test_a_folder_that_cannot_be_written_is_a_problem(monkeypatch, home):
    monkeypatch.setattr(module.os, "access", lambda path, mode: Path(path) != home)
    problems = [row["problem"] for row in doctor()["problems"]]
    assert f"{home} cannot be written" in problems


def test_a_full_disk_is_a_problem(monkeypatch):
    class Usage:
        free = 5_000_000

    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage)
    assert any("only 0.0 GB are free" in row["problem"] for row in doctor()["problems"])

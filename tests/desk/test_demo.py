from __future__ import annotations

import os
import socket
import stat

import pytest

from maskloop.core.errors import Cancelled, InputError
from maskloop.core.job import Job
from maskloop.desk.demo import demo


def test_a_folder_that_holds_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("words")
    with pytest.raises(InputError, match="expected an empty folder for the demo"):
        demo(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_stopped_demo_gives_the_users_home_back(tmp_path):
    before = os.environ["MASKLOOP_HOME"]
    job = Job()
    job.cancel()
    with pytest.raises(Cancelled):
        demo(tmp_path / "demo", job=job)
    assert os.environ["MASKLOOP_HOME"] == before


@pytest.mark.slow
def test_the_whole_loop_runs_offline_and_every_file_is_proved(tmp_path, monkeypatch, home):
    def refused(*args: object, **options: object) -> None:
        pytest.fail("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    report = demo(tmp_path / "demo")
    assert [step.verb for step in report.steps] == [
        "load", "predict", "correct", "export", "predict", "export", "train",
    ]  # fmt: skip
    assert {r.verdict for r in report.receipts} == {"PASS"}
    assert {r.format for r in report.receipts} == {"nifti", "coco"}
    assert (tmp_path / "demo" / "home" / "models" / "demo-liver" / "card.json").is_file()
    assert stat.S_IMODE((tmp_path / "demo" / "ct_1.maskloop").stat().st_mode) == 0o700
    assert not list(home.rglob("*"))
    assert "PASS" in report.to_text()

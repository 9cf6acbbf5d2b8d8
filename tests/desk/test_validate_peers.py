"""`validate --peers`: others are asked in processes of their own, which cannot stop ours."""

from __future__ import annotations

import copy
import sys

import pytest

from maskloop.core.errors import InputError
from maskloop.core.job import Job
from maskloop.datasets.proofs import Findings
from maskloop.desk import peer, validate_peers
from maskloop.desk.validate import validate
from tests.desk.coco_set import coco_content, write_set


def test_pycocotools_counts_and_sees_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(validate_peers, "NAMES", ("pycocotools",))
    found = validate(write_set(tmp_path), peers=True)
    assert found.problems == ()
    assert found.peers[0]["words"] == "3 images, 6 objects; 6 of 6 masks alike"
    assert "peer     pycocotools 2." in found.to_text()


def test_what_a_peer_reads_otherwise_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(validate_peers, "NAMES", ("pycocotools",))
    content = copy.deepcopy(coco_content())
    content["annotations"][1]["id"] = 1  # of two with one id, pycocotools keeps the later
    found = validate(write_set(tmp_path, content), peers=True)
    assert found.counts == {"S4": 1, "X2": 1}
    del content["images"]
    (tmp_path / "two").mkdir()
    assert validate(write_set(tmp_path / "two", content), peers=True).peers == ()


def test_a_peer_that_fails_is_an_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(validate_peers, "NAMES", ("pycocotools",))
    content = coco_content()
    content["annotations"][0]["segmentation"]["counts"] = "b'nothing'"
    found = validate(write_set(tmp_path, content), peers=True)
    assert {"G3", "X1"} <= set(found.counts)
    assert found.peers[0]["words"].startswith("fails: ")


def test_what_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(validate_peers, "NAMES", ("no-such-reader",))
    found = validate(write_set(tmp_path), peers=True)
    assert found.peers[0]["words"] == "not installed"
    assert found.verdict == "PASS"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import time; time.sleep(60)", "no answer within 1 s"),
        ("import os; os.abort()", "ended with code"),
        ("import sys; open(sys.argv[-1], 'w').write('{')", "no JSON"),
    ],
)
def test_a_peer_that_hangs_or_dies_stops_nothing(tmp_path, monkeypatch, code, words):
    program = tmp_path / "peer.py"
    program.write_text(code)
    monkeypatch.setattr(peer, "__file__", str(program))
    monkeypatch.setattr(validate_peers, "NAMES", ("pycocotools",))
    root = write_set(tmp_path / "set")
    findings = Findings()
    files = [root / "annotations" / "instances_train.json"]
    (found,) = validate_peers.ask(files, findings, job=Job(), timeout_s=1)
    assert words in found["words"]
    assert findings.total("error") == 1


@pytest.mark.parametrize(
    ("name", "severity"), [("pycocotools", "error"), ("supervision", "warning")]
)
def test_pixels_that_a_peer_sees_otherwise_are_told(tmp_path, monkeypatch, name, severity):
    program = tmp_path / "peer.py"
    masks = {"1": ["0" * 40, "1" * 40]}
    answer = {"version": "9", "images": 3, "annotations": 6, "masks": masks}
    program.write_text(f"import json, sys; json.dump({answer}, open(sys.argv[-1], 'w'))")
    monkeypatch.setattr(peer, "__file__", str(program))
    monkeypatch.setattr(validate_peers, "NAMES", (name,))
    (found,) = validate(write_set(tmp_path / "set"), peers=True).problems
    assert (found.code, found.severity) == ("X3", severity)
    assert found.words == "expected the same pixels, got 2 of 2 unlike"


def test_a_python_that_is_none_is_an_error_in_words(tmp_path):
    with pytest.raises(InputError, match="a Python to run"):
        validate(write_set(tmp_path), peers=True, python=tmp_path / "no-python")


def test_torchvision_gets_every_image(tmp_path, monkeypatch):
    monkeypatch.setattr(validate_peers, "NAMES", ("torchvision",))
    found = validate(write_set(tmp_path), peers=True, python=sys.executable)
    assert found.peers[0]["words"] == "3 images, 6 objects; no masks compared"

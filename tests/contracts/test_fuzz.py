"""No damaged file crashes, hangs, fills the memory, writes elsewhere or escapes in an odd error."""

from __future__ import annotations

import random
import sys

import pytest

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="memory is limited by Linux's RLIMIT_AS"
)


def fuzzer():
    """Import the script when a test runs: it needs fork and Linux."""
    from scripts import fuzz_readers

    return fuzz_readers


def test_damaged_files_are_refused_in_words_by_every_reader():
    found = fuzzer().fuzz(1000, start=1)
    assert found.hits == []
    assert found.inputs == found.refused + found.read == 1000
    assert found.refused > 300  # the changes do damage


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_thousand_damaged_files_are_refused_in_words():
    found = fuzzer().fuzz(20_000)
    assert found.hits == []
    assert found.inputs == 20_000


def planted(act):
    """Return what the fuzzer finds where every reader call does `act` first."""
    module = fuzzer()
    with pytest.MonkeyPatch.context() as patch:
        calls = {"seen": 0}
        honest = module.load

        def load(path):
            calls["seen"] += 1
            if calls["seen"] > 1:  # the first call reads the valid seed
                act(path)
            return honest(path)

        patch.setattr(module, "load", load)
        return module.fuzz(2, only="nifti2")


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda path: 1 / 0, "ZeroDivisionError"),
        (lambda path: bytearray(400 << 20), "wanted more than"),
        (lambda path: (path.parent.parent / "elsewhere").write_bytes(b""), "open .*elsewhere"),
        (lambda path: (path.parent.parent / "canary.raw").read_bytes(), "open .*canary"),
        (lambda path: __import__("os").abort(), r"ended the process \(6\)"),
    ],
    ids=["error", "memory", "write", "read outside", "crash"],
)
def test_the_fuzzer_sees_what_it_looks_for(act, words):
    import re

    found = planted(act)
    assert len(found.hits) == 2
    assert all(re.search(words, what) for _, _, what in found.hits)


def test_the_fuzzer_sees_a_hang(monkeypatch):
    import time

    monkeypatch.setattr(fuzzer(), "LIMIT_S", 0.05)
    found = planted(lambda path: time.sleep(1))
    assert [what for _, _, what in found.hits] == ["over 0.05 s"] * 2


def test_the_same_number_gives_the_same_input(tmp_path):
    module = fuzzer()
    seed = module.Seed("a", {"a.nii": bytes(range(200))}, "a.nii", ("a.nii",))
    assert module.damaged(seed, 7, 0) == module.damaged(seed, 7, 0)
    different = {module.damaged(seed, n, 0)["a.nii"] for n in range(50)}
    assert len(different) > 40
    assert module.mutated(random.Random(0), b"") == b""


@pytest.mark.parametrize(("name", "number"), [("dicom rle", 107), ("nifti2.nii", 281)])
def test_what_it_once_found_is_refused_now(name, number, tmp_path):
    module = fuzzer()
    seed = next(seed for seed in module.seeds() if seed.name == name)
    for file, content in module.damaged(seed, number, 0).items():
        (tmp_path / file).write_bytes(content)
    module.attempt(seed, tmp_path)  # nothing but deliberate errors inside

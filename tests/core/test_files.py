from __future__ import annotations

import hashlib
import os

import pytest

from maskloop.core import files


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_a_file_that_cannot_be_put_in_place_leaves_the_old_one_and_nothing_beside_it(
    step, tmp_path, monkeypatch
):
    path = tmp_path / "case.json"
    path.write_bytes(b"old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"{'pathlib.Path' if step != 'fsync' else 'os'}.{step}", refuse)
    with pytest.raises(OSError, match="No space"):
        files.put(path, b"new", mode=0o600)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["case.json"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_permissions_are_those_asked_for_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        files.put(tmp_path / "put", b"1", mode=0o640)
        files.write_new(tmp_path / "new", b"1", mode=0o640)
    finally:
        os.umask(before)
    assert [p.stat().st_mode & 0o777 for p in tmp_path.iterdir()] == [0o640, 0o640]


def test_a_new_file_never_replaces_one(tmp_path):
    files.write_new(tmp_path / "start", b"1", mode=0o600)
    with pytest.raises(FileExistsError):
        files.write_new(tmp_path / "start", b"2", mode=0o600)
    assert files.sha256_of(tmp_path / "start") == hashlib.sha256(b"1").hexdigest()

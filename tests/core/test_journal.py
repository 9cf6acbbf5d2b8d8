from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest

from maskloop.core.edits import Edit
from maskloop.core.errors import FormatError, StorageError
from maskloop.core.journal import BackgroundJournal, Journal


def edit(number: int) -> Edit:
    after = np.zeros((5, 6), np.uint8)
    after[number % 5, number % 6] = number + 1
    return Edit.between(np.zeros((5, 6), np.uint8), after, words=f"step {number}")


def written(path, count=4):
    journal = Journal(path)
    for number in range(count):
        journal.append(edit(number))
    journal.append("undo")
    journal.append("redo")
    journal.close()
    return [edit(number) for number in range(count)] + ["undo", "redo"]


def test_steps_read_back_as_they_were_written(tmp_path):
    expected = written(tmp_path / "journal")
    journal = Journal(tmp_path / "journal")
    assert journal.entries == expected
    assert journal.dropped == ""
    journal.append(edit(9))
    journal.close()
    again = Journal(tmp_path / "journal")
    assert again.entries == [*expected, edit(9)]
    again.close()


def test_only_the_owner_may_read_it(tmp_path):
    written(tmp_path / "journal")
    assert stat.S_IMODE((tmp_path / "journal").stat().st_mode) == 0o600


def test_a_torn_last_record_is_dropped_and_said_wherever_it_is_torn(tmp_path):
    path = tmp_path / "journal"
    expected = written(path, 2)[:2]
    whole = path.read_bytes()
    path.unlink()
    journal = Journal(path)
    journal.append(expected[0])
    one = path.stat().st_size
    journal.append(expected[1])
    two = path.stat().st_size
    journal.close()
    assert whole.startswith(path.read_bytes())
    for cut in range(one + 1, two):
        path.write_bytes(whole[:cut])
        journal = Journal(path)
        assert journal.entries == expected[:1]
        assert "not finished" in journal.dropped
        assert path.stat().st_size == one
        journal.append(expected[1])
        journal.close()
        assert path.read_bytes() == whole[:two]
    assert [p.name for p in tmp_path.iterdir()] == ["journal"]


def test_a_torn_first_line_is_an_empty_journal(tmp_path):
    (tmp_path / "journal").write_bytes(b"masklo")
    journal = Journal(tmp_path / "journal")
    assert journal.entries == []
    assert journal.dropped
    journal.append(edit(1))
    journal.close()
    again = Journal(tmp_path / "journal")
    assert again.entries == [edit(1)]
    again.close()


def test_damage_in_the_middle_keeps_the_rest_beside_the_journal(tmp_path):
    path = tmp_path / "journal"
    expected = written(path)
    content = bytearray(path.read_bytes())
    first = len(content) // 2
    content[first] ^= 0xFF
    path.write_bytes(content)
    journal = Journal(path)
    count = len(journal.entries)
    assert 0 < count < len(expected)
    assert journal.entries == expected[:count]
    journal.close()
    (kept,) = tmp_path.glob("journal.damaged-*")
    assert path.read_bytes() + kept.read_bytes() == bytes(content)
    assert kept.name in journal.dropped


def test_another_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "journal"
    path.write_bytes(b"dear diary, today")
    with pytest.raises(FormatError, match="expected a maskloop journal"):
        Journal(path)
    assert path.read_bytes() == b"dear diary, today"


def test_a_full_disk_leaves_whole_records(tmp_path, monkeypatch):
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.append(edit(1))
    size = path.stat().st_size

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("maskloop.core.journal.os.fsync", full)
    with pytest.raises(StorageError, match="No space left on device; free space"):
        journal.append(edit(2))
    monkeypatch.undo()
    assert path.stat().st_size == size
    assert journal.entries == [edit(1)]
    journal.append(edit(3))
    journal.close()
    again = Journal(path)
    assert again.entries == [edit(1), edit(3)]
    again.close()


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(StorageError, match="No such file"):
        Journal(tmp_path / "gone" / "journal")


def test_a_killed_process_loses_at_most_the_step_in_progress(tmp_path):
    script = f"""
import sys
import numpy as np
from pathlib import Path
from maskloop.core.edits import Edit
from maskloop.core.journal import BackgroundJournal, Journal
journal = Journal(Path({str(tmp_path / "journal")!r}))
for number in range(100000):
    after = np.zeros((50, 60), np.uint16)
    after[number % 50, number % 60] = number + 1
    journal.append(Edit.between(np.zeros_like(after), after, words=str(number)))
    print(number, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = -1
    for line in process.stdout:
        told = int(line)
        if told >= 30:
            break
    os.kill(process.pid, signal.SIGKILL)
    rest = process.stdout.read().split()
    process.stdout.close()
    process.wait()
    told = int(rest[-1]) if rest else told
    journal = Journal(tmp_path / "journal")
    assert [e.words for e in journal.entries][: told + 1] == [str(n) for n in range(told + 1)]
    assert len(journal.entries) <= told + 2
    journal.close()


def test_a_compacted_journal_reads_back_the_same_steps_and_goes_on(tmp_path):
    path = tmp_path / "journal"
    steps = [edit(number % 250) for number in range(600)]
    journal = Journal(path)
    journal.append(*steps)
    plain = path.stat().st_size
    journal.rewrite([*steps, "undo"])
    assert path.stat().st_size < plain / 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    journal.append(edit(61))
    journal.close()
    assert [p.name for p in tmp_path.iterdir()] == ["journal"]
    again = Journal(path, is_read_only=True)
    assert again.entries == [*steps, "undo", edit(61)]
    again.close()


def test_a_disk_that_refuses_compaction_keeps_the_old_journal(tmp_path, monkeypatch):
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.append(edit(1), edit(2))
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("maskloop.core.journal.os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        journal.rewrite([edit(1)])
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["journal"]
    journal.append(edit(3))
    journal.close()
    again = Journal(path)
    assert again.entries == [edit(1), edit(2), edit(3)]
    again.close()


def test_reading_only_changes_no_byte_of_a_torn_journal(tmp_path):
    path = tmp_path / "journal"
    expected = written(path)
    path.write_bytes(path.read_bytes() + b"\x07\x00\x00\x00torn")
    before = path.read_bytes()
    journal = Journal(path, is_read_only=True)
    assert journal.entries == expected
    assert "not finished" in journal.dropped
    journal.close()
    assert path.read_bytes() == before


def test_a_background_journal_says_what_the_disk_refused_to_the_end(tmp_path, monkeypatch):
    path = tmp_path / "journal"
    told = []
    journal = BackgroundJournal(Journal(path), told.append)
    journal.append(edit(1))
    assert journal.flush(5)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("maskloop.core.journal.os.fsync", full)
    journal.append(edit(2), edit(3))
    with pytest.raises(StorageError, match="the last 2 steps"):
        journal.close()
    assert len(told) == 1
    monkeypatch.undo()
    again = Journal(path)
    assert again.entries == [edit(1)]
    again.close()

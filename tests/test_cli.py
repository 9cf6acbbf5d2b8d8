"""The command line in process: answers, exit codes, and every kind of bad input."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as Picture

import maskloop
from maskloop import cli
from maskloop.cli import run
from maskloop.cli.running import Bar
from maskloop.core.errors import VerificationError
from maskloop.core.job import Job, Progress

COMMANDS = [
    ["info"], ["models"], ["formats"], ["tools"], ["weights", "fetch"], ["weights", "verify"],
    ["weights", "list"], ["predict"], ["correct"], ["export"], ["train"], ["score"], ["demo"],
    ["doctor"], ["gui"], ["replay"], ["draft"], ["compare"], ["stats"], ["split"], ["agree"],
]  # fmt: skip


def save(path: Path, data: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 3.0)) -> Path:
    """Write an array of axes (x, y, z) as NIfTI."""
    nibabel.save(nibabel.Nifti1Image(data, np.diag([*spacing, 1.0])), path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a CT, its two-label mask, a picture with its label image, and damaged ones."""
    rng = np.random.default_rng(0)
    ids = np.zeros((20, 18, 10), np.uint8)
    ids[3:15, 3:15, 2:8] = 1
    ids[5:9, 5:9, 3:6] = 2
    ids[17, 16, 8] = 2
    save(tmp_path / "ct.nii.gz", rng.integers(-100, 100, ids.shape).astype(np.int16))
    save(tmp_path / "mask.nii.gz", ids)
    save(tmp_path / "smaller.nii.gz", ids[:-1])
    save(tmp_path / "moved.nii.gz", ids, (1.0, 1.0, 2.5))
    save(tmp_path / "float.nii.gz", rng.random(ids.shape).astype(np.float32))
    save(tmp_path / "negative.nii.gz", ids.astype(np.int16) - 1)
    picture = np.zeros((30, 40), np.uint8)
    picture[3:9, 3:9] = 1
    picture[15:25, 15:30] = 2
    Picture.fromarray(picture * 90).save(tmp_path / "photo.png")
    Picture.fromarray(picture).save(tmp_path / "cells.png")
    whole = (tmp_path / "mask.nii.gz").read_bytes()
    (tmp_path / "truncated.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.nii.gz").write_text("this is not a volume\n" * 40)
    (tmp_path / "text.png").write_text("this is not a picture\n" * 40)
    (tmp_path / "text.json").write_text("{not json")
    raw = bytearray(gzip.decompress(whole))
    raw[280:284] = np.array([np.nan], "<f4").tobytes()  # srow_x[0]
    (tmp_path / "nan.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    (tmp_path / "empty").mkdir()
    (tmp_path / "old.nii.gz").write_bytes(b"an older result")
    (tmp_path / "old.json").write_bytes(b"an older result")
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# What every command does


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_an_example(command, capsys):
    assert run([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example:" in text
    assert f"maskloop {' '.join(command)}" in text


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_options_are_in_words(command):
    context = cli.commands.make_context("maskloop", [command[0], "--help"], resilient_parsing=True)
    found = cli.commands.get_command(context, command[0])
    for name in command[1:]:
        found = found.get_command(context, name)
    for option in found.params:
        if option.param_type_name == "option":
            assert option.name == "out" or option.help, option.name


def test_help_is_quick_and_imports_nothing_heavy():
    script = (
        "import sys, maskloop.cli as c; c.run(['--help']); "
        "heavy = {'torch', 'numpy', 'scipy', 'nibabel', 'napari', 'skimage'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    took = []
    for _ in range(3):
        start = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        text = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout
        took.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - start)
    assert text.endswith("[]\n")
    assert min(took) < 0.3  # processor seconds: a busy machine must not fail it


def test_python_m_maskloop_is_the_command():
    found = subprocess.run(
        [sys.executable, "-m", "maskloop", "--version"], capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith("maskloop, version ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["info", "ct.nii.gz"],
        ["info", "mask.nii.gz"],
        ["info", "photo.png"],
        ["models"],
        ["formats"],
        ["tools"],
        ["weights", "list", "phantom-liver"],
        ["weights", "verify", "phantom-liver"],
        ["correct", "mask.nii.gz", "--tool", "islands", "--label", "2", "-o", "new.nii.gz"],
        ["export", "mask.nii.gz", "-o", "new.nii.gz", "--image", "ct.nii.gz"],
        ["export", "cells.png", "-o", "new.json", "--image", "photo.png"],
        ["convert", "ct.nii.gz", "-o", "new.nrrd"],
        ["score", "mask.nii.gz", "mask.nii.gz"],
        ["doctor"],
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_json_is_one_object_and_nothing_else(files, monkeypatch, capsys, arguments):
    monkeypatch.chdir(files)
    assert run([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    assert isinstance(json.loads(captured.out), dict)
    told = {"correct": "1 voxels changed (0.003 mL)\n"}
    assert captured.err == told.get(arguments[0], "")


def test_text_is_for_people(files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    assert run(["info", "mask.nii.gz"]) == 0
    text = capsys.readouterr().out
    assert "10, 18, 20" in text
    assert run(["models"]) == 0
    assert "phantom-liver" in capsys.readouterr().out
    assert run(["tools"]) == 0
    assert "threshold" in capsys.readouterr().out
    assert run(["export", "mask.nii.gz", "-o", "new.nii.gz"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("PASS")
    assert captured.err == ""  # silence where there is no terminal


def test_what_other_packages_print_stays_off_stdout(files, monkeypatch, capsys):
    def noisy(path, *, job):
        print("Welcome to the chatty package!")
        return {"path": str(path)}

    monkeypatch.setattr("maskloop.desk.check.info", noisy)
    assert run(["info", "x", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"path": "x"}
    assert "chatty" in captured.err


# Tools on the command line


@pytest.mark.parametrize("name", ["islands", "holes", "smooth", "grow", "threshold"])
@pytest.mark.parametrize("form", [["--tool", "{}"], ["--tool={}"], ["-t", "{}"]])
def test_a_tool_shows_its_own_flags(name, form, capsys):
    from maskloop.desk.catalogue import tool_parameters

    assert run(["correct", *(word.format(name) for word in form), "--help"]) == 0
    text = capsys.readouterr().out
    for parameter in tool_parameters(name):
        assert f"--{parameter.name.replace('_', '-')}" in text


def test_flags_reach_the_tool(files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    base = ["correct", "mask.nii.gz", "--label", "2", "-o", "new.nii.gz", "--json"]
    assert run([*base, "--tool", "islands", "--keep", "all", "--smallest", "4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == {"keep": "all", "smallest": 4.0}
    assert found["voxels"] == 1  # the 3 mm3 island
    assert found["receipt"]["verdict"] == "PASS"
    ids = np.asarray(nibabel.load("new.nii.gz").dataobj)
    assert (ids == 2).sum() == 4 * 4 * 3
    assert (ids == 1).sum() == (np.asarray(nibabel.load("mask.nii.gz").dataobj) == 1).sum()
    assert run([*base, "--tool", "islands", "--keep", "all", "--no-split"]) == 0
    assert run([*base, "--tool", "threshold", "--lower", "-50", "--image", "ct.nii.gz"]) == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tool", "grow", "--margin", "wide"], "'wide' is not a valid float"),
        (["--tool", "grow", "--margin", "900"], "expected margin of at least -200 at most 200"),
        (["--tool", "grow", "--keep", "all"], "No such option '--keep'"),
        (["--tool", "islands", "--keep", "some"], "'some' is not one of"),
        (["--tool", "threshold", "--lower", "3"], "expected an image"),
        (["--tool", "threshold", "--image", "ct.nii.gz"], "expected lower or upper"),
        ([], "Missing option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_that_cannot_work_are_refused(files, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(files)
    before = contents(files)
    assert run(["correct", "mask.nii.gz", "--label", "2", "-o", "old.nii.gz", *flags]) == 2
    captured = capsys.readouterr()
    assert words in captured.err.replace("\n", " ")
    assert captured.out == ""
    assert contents(files) == before


def test_a_step_of_a_case_that_cannot_be_exported_is_taken_back(files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    maskloop.open_case("ct.nii.gz", mask=maskloop.load_mask("mask.nii.gz")).close()
    before = maskloop.replay("ct.maskloop").data
    given = ["correct", "ct.maskloop", "--tool", "grow", "--label", "2"]
    for out in ("new.xyz", "new.png", "gone/new.nii.gz"):
        assert run([*given, "-o", out]) == 2
        require_three_parts(capsys.readouterr().err)
        assert np.array_equal(maskloop.replay("ct.maskloop").data, before)
    assert run(given) == 0
    assert not np.array_equal(maskloop.replay("ct.maskloop").data, before)


# Bad input


BAD = {
    "missing file": [
        ["info", "gone.nii.gz"],
        ["predict", "gone.nii.gz", "-m", "phantom-liver", "-o", "old.nii.gz"],
        ["correct", "gone.nii.gz", "--tool", "islands", "-o", "old.nii.gz"],
        ["correct", "mask.nii.gz", "--image", "gone.nii.gz", "-t", "islands", "-o", "old.nii.gz"],
        ["export", "gone.nii.gz", "-o", "old.nii.gz"],
        ["convert", "gone.nii.gz", "-o", "old.nii.gz"],
        ["export", "mask.nii.gz", "--image", "gone.nii.gz", "-o", "old.nii.gz"],
        ["train", "gone.nii.gz=mask.nii.gz", "--base", "phantom-liver", "--name", "new"],
        ["train", "ct.nii.gz=gone.nii.gz", "--base", "phantom-liver", "--name", "new"],
        ["score", "gone.nii.gz", "mask.nii.gz"],
        ["score", "mask.nii.gz", "gone.nii.gz"],
        ["gui", "gone.nii.gz"],
        ["weights", "fetch", "phantom-liver", "--from", "gone"],
    ],
    "empty folder": [
        ["info", "empty"],
        ["convert", "empty", "-o", "old.nii.gz"],
        ["predict", "empty", "-m", "phantom-liver", "-o", "old.nii.gz"],
        ["train", "empty", "--base", "phantom-liver", "--name", "new"],
    ],
    "mask as a folder": [
        ["export", "empty", "-o", "old.nii.gz"],
        ["score", "empty", "mask.nii.gz"],
    ],
    "wrong dtype": [
        ["export", "float.nii.gz", "-o", "old.nii.gz"],
        ["export", "negative.nii.gz", "-o", "old.nii.gz"],
        ["correct", "float.nii.gz", "--tool", "islands", "-o", "old.nii.gz"],
        ["score", "float.nii.gz", "mask.nii.gz"],
    ],
    "another grid": [
        ["export", "smaller.nii.gz", "--image", "ct.nii.gz", "-o", "old.nii.gz"],
        ["export", "moved.nii.gz", "--image", "ct.nii.gz", "-o", "old.nii.gz"],
        ["correct", "moved.nii.gz", "--image", "ct.nii.gz", "-t", "islands", "-o", "old.nii.gz"],
        ["score", "moved.nii.gz", "mask.nii.gz"],
        ["train", "ct.nii.gz=moved.nii.gz", "--base", "phantom-liver", "--name", "new"],
    ],
    "unknown name": [
        ["predict", "ct.nii.gz", "-m", "liver-tumor", "-o", "old.nii.gz"],
        ["weights", "fetch", "liver-tumor"],
        ["weights", "list", "liver-tumor"],
        ["train", "ct.nii.gz=mask.nii.gz", "--base", "phantom", "--name", "new"],
        ["correct", "mask.nii.gz", "--tool", "island", "--label", "1", "-o", "old.nii.gz"],
        ["correct", "mask.nii.gz", "--tool", "islands", "--label", "spleen", "-o", "old.nii.gz"],
        ["correct", "mask.nii.gz", "--tool", "islands", "-o", "old.nii.gz"],
        ["export", "mask.nii.gz", "-o", "old.nii.gz", "--to", "svg"],
        ["export", "mask.nii.gz", "-o", "old.xyz"],
        ["predict", "ct.nii.gz", "-m", "phantom-liver", "-o", "old.nii.gz", "--device", "tpu"],
    ],
    "a place that cannot be written": [
        ["export", "mask.nii.gz", "-o", "/proc/maskloop.nii.gz"],
        ["export", "mask.nii.gz", "-o", "mask.nii.gz/new.nii.gz"],
        ["export", "mask.nii.gz", "-o", "no/such/folder/new.nii.gz"],
        ["export", "mask.nii.gz", "-o", "empty"],
        ["correct", "mask.nii.gz", "--tool", "grow", "--label", "2", "-o", "/proc/maskloop.nii.gz"],
        ["demo", "-o", "/proc/demo"],
        ["demo", "-o", "mask.nii.gz"],
        ["demo", "-o", "."],
    ],
    "what a case cannot take": [
        ["draft", "ct.nii.gz", "-m", "gone"],
        ["draft", "gone.nii.gz", "-m", "phantom-liver"],
        ["replay", "mask.nii.gz", "-o", "old.nii.gz"],
        ["replay", "empty", "-o", "old.nii.gz"],
        ["measure", "gone.nii.gz"],
        ["measure", "mask.nii.gz", "--image", "gone.nii.gz"],
        ["measure", "mask.nii.gz", "--image", "moved.nii.gz"],
    ],
    "a box or positions that are none": [
        ["correct", "mask.nii.gz", "-t", "grow", "--label", "2", "-o", "old.nii.gz", *flags]
        for flags in (["--box", ""], ["--box", "0:4:2,:,:"], ["--box", "1:2"], ["--box", "x"])
    ],
    "a format that cannot hold it": [
        ["export", "mask.nii.gz", "-o", "new.png"],
        ["info", "text.json"],
    ],
}  # fmt: skip
for damaged in ("truncated.nii.gz", "text.nii.gz", "nan.nii.gz", "text.png"):
    BAD[damaged] = [
        ["info", damaged],
        ["predict", damaged, "-m", "phantom-liver", "-o", "old.nii.gz"],
        ["correct", damaged, "--tool", "islands", "--label", "1", "-o", "old.nii.gz"],
        ["correct", "mask.nii.gz", "--image", damaged, "--tool", "islands", "-o", "old.nii.gz"],
        ["export", damaged, "-o", "old.nii.gz"],
        ["export", "mask.nii.gz", "--image", damaged, "-o", "old.nii.gz"],
        ["train", f"{damaged}=mask.nii.gz", "--base", "phantom-liver", "--name", "new"],
        ["train", f"ct.nii.gz={damaged}", "--base", "phantom-liver", "--name", "new"],
        ["score", damaged, "mask.nii.gz"],
        ["score", "mask.nii.gz", damaged],
    ]
CASES = [
    pytest.param(arguments, id=f"{kind}: {' '.join(arguments)}")
    for kind, rows in BAD.items()
    for arguments in rows
]


def require_three_parts(text: str) -> None:
    assert "Traceback" not in text
    assert "expected" in text, text
    assert any(word in text for word in ("got", "but", "answered")), text
    assert ";" in text, text


@pytest.mark.parametrize("arguments", CASES)
def test_bad_input_is_refused_in_three_parts_and_harms_nothing(
    files, monkeypatch, capsys, home, arguments
):
    monkeypatch.chdir(files)
    before = contents(files)
    assert run(arguments) == 2
    captured = capsys.readouterr()
    require_three_parts(captured.err)
    assert captured.out == ""
    assert contents(files) == before
    assert not list(home.rglob("card.json"))


WRITING = [
    ["export", "mask.nii.gz", "-o", "old.nii.gz"],
    ["export", "cells.png", "-o", "old.json", "--image", "photo.png"],
    ["correct", "mask.nii.gz", "--tool", "grow", "--label", "2", "-o", "old.nii.gz"],
]


@pytest.mark.parametrize("arguments", WRITING, ids=" ".join)
@pytest.mark.parametrize("name", ["fsync", "replace", "mkstemp"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS], ids=os.strerror)
def test_a_disk_that_refuses_is_said_and_the_old_file_stays(
    files, monkeypatch, capsys, arguments, name, number
):
    def refused(*args: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.chdir(files)
    before = contents(files)
    module = "tempfile" if name == "mkstemp" else "os"
    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.{name}", refused)
        code = run(arguments)
    assert code == 2
    captured = capsys.readouterr()
    require_three_parts(captured.err)
    assert os.strerror(number) in captured.err
    assert contents(files) == before


def test_a_file_size_limit_of_the_system_harms_nothing(files):
    rng = np.random.default_rng(1)
    save(files / "large.nii.gz", rng.integers(0, 200, (60, 60, 60)).astype(np.uint8))
    before = contents(files)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    found = subprocess.run(
        [sys.executable, "-m", "maskloop", "export", "large.nii.gz", "-o", "old.nii.gz"],
        cwd=files,
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
    )
    assert found.returncode == 2
    require_three_parts(found.stderr)
    assert contents(files) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may do anything")
def test_files_without_permission_are_said(files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    (files / "mask.nii.gz").chmod(0)
    assert run(["info", "mask.nii.gz"]) == 2
    require_three_parts(capsys.readouterr().err)
    (files / "mask.nii.gz").chmod(0o600)
    (files / "empty").chmod(0o500)
    assert run(["export", "mask.nii.gz", "-o", "empty/new.nii.gz"]) == 2
    require_three_parts(capsys.readouterr().err)


@pytest.mark.parametrize(
    "command", [["info", "mask.nii.gz"], ["export", "mask.nii.gz", "-o", "n.nii"]]
)
def test_a_file_that_may_not_be_read_is_said(files, monkeypatch, capsys, command):
    monkeypatch.chdir(files)
    real = Path.open

    def refused(self: Path, *args: object, **options: object) -> object:
        if self.name == "mask.nii.gz":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "open", refused)
    monkeypatch.setattr(Path, "read_bytes", refused)
    assert run(command) == 2
    captured = capsys.readouterr()
    require_three_parts(captured.err)
    assert os.strerror(errno.EACCES) in captured.err


# Exit codes, cancel, bugs


def raising(error: BaseException):
    def look(path, *, job):
        raise error

    return look


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 2),
        (MemoryError(), 2),
        (VerificationError("expected a, got b; do c"), 1),
        (ZeroDivisionError("division by zero"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes_say_what_happened(monkeypatch, capsys, error, code):
    monkeypatch.setattr("maskloop.desk.check.info", raising(error))
    assert run(["info", "x", "--json"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    if code != 130:
        require_three_parts(captured.err)


def test_a_bug_shows_its_traceback_when_asked(monkeypatch):
    monkeypatch.setenv("MASKLOOP_DEBUG", "1")
    monkeypatch.setattr("maskloop.desk.check.info", raising(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(["info", "x"])


def test_ctrl_c_cancels_the_job_and_leaves_tidily(monkeypatch, capsys):
    def slow(path, *, job):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in job.track(range(1000), "wait"):
            time.sleep(0.01)
        pytest.fail("the job went on")

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("maskloop.desk.check.info", slow)
    assert run(["info", "x"]) == 130
    assert "stopped as asked" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_twice_stops_work_that_does_not_listen(monkeypatch):
    def deaf(path, *, job):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
        pytest.fail("the work went on")

    monkeypatch.setattr("maskloop.desk.check.info", deaf)
    assert run(["info", "x"]) == 130


def test_ctrl_c_while_exporting_leaves_the_old_file(files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    before = contents(files)
    report = Job.report

    def interrupted(self, stage, done, total=0, *, note=""):
        if stage == "read back":
            os.kill(os.getpid(), signal.SIGINT)
        report(self, stage, done, total, note=note)

    monkeypatch.setattr(Job, "report", interrupted)
    assert run(["export", "mask.nii.gz", "-o", "old.nii.gz"]) == 130
    assert contents(files) == before


@pytest.mark.parametrize("arguments", [[], ["--nonsense"], ["paint"], ["info"], ["predict", "x"]])
def test_wrong_usage_is_exit_2(arguments, capsys):
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert "Usage:" in captured.err
    assert captured.out == ""


# Progress


def test_progress_is_drawn_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)

    def look(path, *, job):
        for _ in job.track(range(3), "reading"):
            pass
        job.say("used the processor")
        return {"a": 1}

    monkeypatch.setattr("maskloop.desk.check.info", look)
    assert run(["info", "x"]) == 0
    captured = capsys.readouterr()
    assert "reading" in captured.err
    assert "3/3" in captured.err
    assert "used the processor\n" in captured.err
    assert captured.err.endswith("\r\x1b[K") or captured.err.endswith("processor\n")
    assert captured.out.strip() == "a  1"


def test_a_bar_without_a_total_counts(capsys):
    bar = Bar()
    bar(Progress("waiting", 7, 0))
    assert "waiting" in capsys.readouterr().err


# Verbs that need a model


def test_predict_writes_skips_and_reports(files, monkeypatch, capsys):
    from maskloop.ops.phantom import phantom_ct

    image, _ = phantom_ct(1, shape=(16, 32, 32), spacing=(8.0, 8.0, 8.0))
    affine = image.geometry.affine[:, [2, 1, 0, 3]]
    nibabel.save(nibabel.Nifti1Image(image.data.T, affine), files / "body.nii.gz")
    monkeypatch.chdir(files)
    command = ["predict", "body.nii.gz", "-m", "phantom-liver", "-o", "found.nii.gz", "--json"]
    assert run(command) == 0
    (outcome,) = json.loads(capsys.readouterr().out)["outcomes"]
    assert outcome["state"] == "done"
    assert outcome["receipt"]["verdict"] == "PASS"
    written = (files / "found.nii.gz").read_bytes()
    assert run(command) == 0
    assert json.loads(capsys.readouterr().out)["outcomes"][0]["state"] == "skipped"
    assert (files / "found.nii.gz").read_bytes() == written
    # One of two fails: the other is done, and the exit code says so.
    assert run(["predict", "body.nii.gz", "text.nii.gz", "-m", "phantom-liver", "-o", "out"]) == 1
    captured = capsys.readouterr()
    require_three_parts(captured.err)
    assert "done" in captured.out
    assert [p.name for p in (files / "out").glob("*.nii.gz")] == ["body_phantom-liver.nii.gz"]


# The window


def test_gui_says_what_to_install(monkeypatch, capsys):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run(["gui"]) == 2
    text = capsys.readouterr().err
    require_three_parts(text)
    assert "-m pip install 'napari-maskloop[all]'" in text


@pytest.mark.parametrize("paths", [[], ["ct.nii.gz", "mask.nii.gz"]])
def test_gui_starts_napari_with_the_panel_and_the_files(files, monkeypatch, paths):
    started = []
    monkeypatch.chdir(files)
    monkeypatch.setattr(subprocess, "call", lambda command: started.append(command) or 0)
    assert run(["gui", *paths]) == 0
    (command,) = started
    assert command[1:3] == ["-m", "napari"]
    assert command[-3:] == ["--with", "napari-maskloop", "maskloop"]
    assert [w for w in command if w.endswith(".gz")] == [str(files / p) for p in paths]
    assert ("--plugin" in command) is bool(paths)


def test_train_replaces_a_model_of_its_name_only_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from maskloop.core.errors import InputError

    seen = []

    def teach(*_: object, overwrite: bool, **told: object) -> None:
        seen.append(overwrite)
        raise InputError("enough")

    monkeypatch.setattr("maskloop.loop.train.train", teach)
    words = ["train", "pairs", "--base", "unet:2015", "--name", "mine"]
    run(words)
    run([*words, "--overwrite"])
    assert seen == [False, True]

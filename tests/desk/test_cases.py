from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import maskloop
from maskloop.core import casefile
from maskloop.core.case import Case
from maskloop.core.edits import Edit
from maskloop.core.errors import InputError, MissingFileError, StorageError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.desk import cases
from maskloop.desk.cases import case_folder, case_state, replay


def test_a_case_lies_beside_its_image_or_in_a_workspace(tmp_path):
    assert case_folder(tmp_path / "ct.nii.gz") == tmp_path / "ct.maskloop"
    for folder, content in (("a", b"one"), ("b", b"two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ct.nii.gz").write_bytes(content)
    found = [case_folder(tmp_path / f / "ct.nii.gz", workspace="/w") for f in ("a", "b")]
    assert found[0] != found[1]
    assert all(re.fullmatch(r"/w/ct-[0-9a-f]{8}\.maskloop", f.as_posix()) for f in found)
    (tmp_path / "DOE^JANE").mkdir()
    assert "DOE" not in case_folder(tmp_path / "DOE^JANE", workspace="/w").name
    (tmp_path / "series.1").mkdir()
    assert case_folder(tmp_path / "series.1") == tmp_path / "series.1.maskloop"


def test_replay_gives_the_mask_without_changing_the_folder(tmp_path):
    mask = Mask(np.zeros((5, 6), np.uint8), Geometry.pixels((5, 6)), LabelTable.classes(["cell"]))
    with Case.create(tmp_path / "a.maskloop", mask) as case:
        case.apply(Edit.between(mask.data, np.eye(5, 6, dtype=np.uint8), words="brush"))
    before = {p.name: p.read_bytes() for p in (tmp_path / "a.maskloop").iterdir()}
    found = replay(tmp_path / "a.maskloop")
    assert np.array_equal(found.data, np.eye(5, 6))
    assert found.labels == mask.labels
    assert {p.name: p.read_bytes() for p in (tmp_path / "a.maskloop").iterdir()} == before


def test_replay_of_nothing_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match="expected a case folder"):
        replay(tmp_path / "gone.maskloop")


@pytest.fixture
def ct(tmp_path):
    pixels = np.random.default_rng(0).integers(-100, 200, (12, 20, 18)).astype(np.int16)
    image = Image(pixels, Geometry.regular((12, 20, 18), (3.0, 0.8, 0.8)))
    (tmp_path / "scans").mkdir()
    maskloop.convert(image, tmp_path / "scans" / "ct.nii.gz")
    return tmp_path / "scans" / "ct.nii.gz"


def test_a_case_of_a_path_is_painted_undone_closed_and_found_again(ct):
    with maskloop.open_case(ct, author="anna") as case:
        assert not case.mask.data.any()
        assert case.mask.data.shape == (12, 20, 18)
        case.paint((6, 10, 9), radius_mm=4.0, label="lesion")
        case.paint((3, 3, 3), radius_mm=0.0, label=7)
        case.undo()
        case.redo()
        expected = case.mask.data.copy()
    folder = ct.parent / "ct.maskloop"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(p.name for p in ct.parent.iterdir()) == [
        "ct.maskloop",
        "ct.nii.gz",
        *(["ct.nii.gz.receipt.json"] if (ct.parent / "ct.nii.gz.receipt.json").exists() else []),
    ]
    with maskloop.open_case(ct) as again:
        assert np.array_equal(again.mask.data, expected)
        assert again.mask.labels.names == {1: "lesion", 7: "label 7"}
        assert again.history.steps == ["brush: lesion", "brush: label 7"]
        assert again.notices == ()
    assert np.array_equal(maskloop.replay(folder).data, expected)


def test_a_killed_process_loses_no_finished_stroke_and_locks_nothing(ct):
    script = f"""
import os, signal, sys
import maskloop
case = maskloop.open_case({str(ct)!r})
for number in range(100):
    case.paint((number % 12, number % 20, number % 18), radius_mm=2.5, label=1 + number % 5)
    print(int(case.mask.data.astype(int).sum()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == -9
    totals = [int(line) for line in done.stdout.split()]
    with (ct.parent / "ct.maskloop" / "journal").open("ab") as file:
        file.write(b"\x40\x00\x00\x00torn")
    state = case_state(ct)
    assert state is not None
    assert not state["was_closed"]
    assert state["locked_by"] == ""
    with maskloop.open_case(ct) as case:
        assert not case.is_read_only
        assert int(case.mask.data.astype(int).sum()) == totals[-1]
        assert len(case.history) == 100
        assert "did not end properly; its 100 finished steps are here" in case.notices[0]
        assert "was not finished when the program stopped (8 bytes)" in case.notices[1]
        undone = 0
        while case.undo():
            undone += 1
        assert undone == 100
        assert not case.mask.data.any()
    state = case_state(ct)
    assert state is not None
    assert state["was_closed"]


def test_a_model_and_a_tool_leave_what_the_reader_painted(ct):
    with maskloop.open_case(ct) as case:
        case.paint((6, 10, 9), radius_mm=5.0, label="tumour")
        by_hand = case.hand()
        model = np.ones_like(case.mask.data)
        found = case.change(model, tool="net", kind="model", author="net")
        assert (case.mask.data[by_hand] == 1).all()  # the tumour is label 1 here
        assert found.refused is None
        case.paint((6, 10, 9), radius_mm=2.0, label="vessel")
        done = maskloop.correct(case, "smooth", label="tumour", parameters={"radius": 6.0})
        painted = case.mask.data == 2
        assert painted.sum() == (case.hand() & painted).sum() > 0
        assert done.edit.author == case.author
        case.paint((11, 2, 2), radius_mm=4.0, label="tumour")
        done = maskloop.correct(case, "islands", label="vessel", parameters={"smallest": 1e6})
        assert done.refused is not None
        assert done.refused.by_hand == painted.sum()
        assert (case.mask.data == 2).sum() == painted.sum()
        forced = maskloop.correct(
            case, "islands", label="vessel", parameters={"smallest": 1e6}, over_hand=True
        )
        assert forced.refused is None
        assert not (case.mask.data == 2).any()
        case.undo()
        assert (case.mask.data == 2).sum() == painted.sum()


def test_another_image_of_the_same_name_is_refused(ct):
    maskloop.open_case(ct).close()
    content = bytearray(ct.read_bytes())
    other = Image(np.zeros((12, 20, 18), np.int16), Geometry.regular((12, 20, 18), (3.0, 0.8, 0.8)))
    ct.unlink()
    maskloop.convert(other, ct)
    assert ct.read_bytes() != bytes(content)
    with pytest.raises(InputError, match=r"expected the image that ct\.maskloop was made for"):
        maskloop.open_case(ct)


def test_another_series_of_the_folder_is_refused(ct):
    first = maskloop.load(ct)
    with maskloop.open_case(first) as case:
        case.paint((1, 1, 1), radius_mm=1, label=1)
    grid = first.geometry
    other_phase = replace(first, data=first.data + 1)
    other_grid = replace(first, geometry=replace(grid, affine=grid.affine * [[2], [2], [2], [1]]))
    for other in (other_phase, other_grid):
        with pytest.raises(InputError, match=r"expected the series that ct\.maskloop was made for"):
            maskloop.open_case(other)
    for same in (ct, first, replace(first, data=first.data.astype(np.float32))):
        with maskloop.open_case(same) as case:
            assert len(case.history) == 1
            assert not case.is_read_only


def test_a_case_that_another_window_makes_meanwhile_is_opened(ct, monkeypatch):
    real = casefile.make

    def make_twice(folder, mask, provenance, *, mode):
        real(folder, mask, provenance, mode=mode)
        real(folder, mask, provenance, mode=mode)

    monkeypatch.setattr(casefile, "make", make_twice)
    with maskloop.open_case(ct) as case:
        assert not case.is_read_only
        case.paint((1, 1, 1), radius_mm=1, label=1)


def test_where_the_folder_cannot_be_written_a_workspace_is_used(ct, tmp_path, monkeypatch):
    real = cases.os.access
    monkeypatch.setattr(
        cases.os, "access", lambda p, mode: str(p) != str(ct.parent) and real(p, mode)
    )
    with pytest.raises(StorageError, match="choose a workspace"):
        maskloop.open_case(ct)
    team = tmp_path / "team"
    team.mkdir()
    team.chmod(0o770)
    monkeypatch.setenv("MASKLOOP_WORKSPACE", str(team))
    monkeypatch.setenv("MASKLOOP_AUTHOR", "Dr. Ada")
    with maskloop.open_case(ct) as case:
        case.paint((1, 1, 1), radius_mm=1, label=1)
    (folder,) = team.iterdir()
    assert [p.name for p in ct.parent.iterdir() if p.suffix == ".maskloop"] == []
    assert replay(folder).data[1, 1, 1] == 1
    with maskloop.open_case(ct) as case:
        assert case.authors[1].name == "Dr. Ada"


def test_a_shared_folder_keeps_the_groups_permissions(ct, monkeypatch):
    ct.parent.chmod(0o2770)
    monkeypatch.setattr(cases, "is_shared", lambda folder: True)
    with maskloop.open_case(ct) as case:
        case.paint((1, 1, 1), radius_mm=1, label=1)
    folder = ct.parent / "ct.maskloop"
    assert stat.S_IMODE(folder.stat().st_mode) & 0o777 == 0o770
    assert {stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == {0o660}


@pytest.mark.skipif(not hasattr(os, "chown") or os.geteuid() != 0, reason="needs to be root")
def test_a_teams_folder_gives_its_group_to_every_file(ct, tmp_path):
    team = tmp_path / "team"
    team.mkdir()
    os.chown(team, -1, 65534)
    for bits in (0o770, 0o2770):
        team.chmod(bits)
        with maskloop.open_case(ct, workspace=team) as case:
            case.paint((1, 1, 1), radius_mm=1, label=1)
            case.compact()
        made = [case.folder, *case.folder.iterdir()]
        assert {path.stat().st_gid for path in made} == {65534}
        shutil.rmtree(case.folder)


def test_a_workspace_that_its_own_group_may_write_is_the_groups(ct, tmp_path):
    team = tmp_path / "team"
    team.mkdir()
    for bits, expected in ((0o770, 0o770), (0o755, 0o700), (0o700, 0o700)):
        team.chmod(bits)
        with maskloop.open_case(ct, workspace=team) as case:
            assert stat.S_IMODE(case.folder.stat().st_mode) & 0o777 == expected
        shutil.rmtree(case.folder)


AS_NOBODY = """
import os, sys
import maskloop, maskloop.formats.nifti, maskloop.loop.load
from maskloop.desk.cases import case_state
maskloop.open_case(sys.argv[2]).close()  # imports what it needs while it may read it
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(case_state(sys.argv[1]))
try:
    print(maskloop.open_case(sys.argv[1]).is_read_only)
except maskloop.MaskloopError as error:
    print(type(error).__name__, error)
print(maskloop.open_case(sys.argv[1], workspace=sys.argv[3]).folder)
"""


@pytest.mark.skipif(not hasattr(os, "chown") or os.geteuid() != 0, reason="needs to be root")
@pytest.mark.parametrize("is_closed", [True, False])
def test_the_case_of_another_reader_is_read_or_passed_over(tmp_path, is_closed):
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "mine").mkdir()
        (root / "mine").chmod(0o777)
        pixels = Image(np.zeros((5, 6, 7), np.int16), Geometry.regular((5, 6, 7), (2, 1, 1)))
        for file in ("ct.nii.gz", "warm.nii.gz"):
            maskloop.convert(pixels, root / file)
        maskloop.open_case(root / "ct.nii.gz").close()
        folder = root / "ct.maskloop"
        if not is_closed:
            folder.chmod(0o755)
            for file in folder.iterdir():
                file.chmod(0o644)
        paths = [str(root / "ct.nii.gz"), str(root / "warm.nii.gz"), str(root / "mine")]
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, *paths], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        state, opened, place = done.stdout.splitlines()
        assert ("'problem': ''" in state) is not is_closed
        assert opened == "True" or "ask its owner for permission" in opened
        assert Path(place).parent == (root / "mine" if is_closed else root)


def test_a_series_in_time_has_its_case_too(tmp_path):
    pixels = np.zeros((3, 5, 6, 7), np.int16)
    image = Image(pixels, Geometry.regular((5, 6, 7), (2, 1, 1)), has_time=True)
    maskloop.convert(image, tmp_path / "cine.nii.gz")
    with maskloop.open_case(tmp_path / "cine.nii.gz") as case:
        case.paint((2, 1, 3, 3), radius_mm=1.0, label=1)
        expected = case.mask.data.copy()
    with maskloop.open_case(tmp_path / "cine.nii.gz") as case:
        assert np.array_equal(case.mask.data, expected)


def test_a_case_whose_image_is_gone_is_refused_in_words(ct):
    maskloop.open_case(ct).close()
    ct.unlink()
    with pytest.raises(MissingFileError, match="expected an image at"):
        maskloop.open_case(ct)

"""A target is replaced only once the new file is right; else nothing has happened."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from maskloop.core.errors import Cancelled, StorageError, VerificationError
from maskloop.core.geometry import Geometry
from maskloop.core.job import Job, Progress
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.formats import base, coco, nifti, picture
from maskloop.formats.swap import Swap
from maskloop.loop.export import export
from maskloop.loop.load import load_mask

VOLUME = Geometry.regular((4, 5, 6), (3, 0.7, 0.8), (1, 2, 3))
TABLE = LabelTable.classes({1: "liver", 2: "tumour"})


def mask_for(suffix: str, seed: int = 0) -> Mask:
    rng = np.random.default_rng(seed)
    if suffix in (".json", ".png"):
        return Mask(rng.integers(0, 3, (5, 6)).astype(np.uint8), Geometry.pixels((5, 6)), TABLE)
    return Mask(rng.integers(0, 3, (4, 5, 6)).astype(np.uint8), VOLUME, TABLE)


def state(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


MODULES = {".nii.gz": nifti, ".nii": nifti, ".json": coco, ".png": picture, ".tif": picture}
FLIPS = [
    pytest.param(suffix, axis, id=f"{suffix} axis {axis}")
    for suffix in MODULES
    for axis in range(2 if suffix in (".json", ".png") else 3)
]


@pytest.mark.parametrize(("suffix", "axis"), FLIPS)
def test_a_planted_axis_flip_fails_and_leaves_the_old_file(tmp_path, monkeypatch, suffix, axis):
    out = tmp_path / f"m{suffix}"
    export(mask_for(suffix, 1), out)
    before = state(tmp_path)
    chosen = MODULES[suffix].FORMAT
    honest = chosen.write_mask

    def flipped(mask, path, **more):
        turned = Mask(
            np.flip(mask.data, axis).copy(), mask.geometry, mask.labels, mask.source, mask.header
        )
        honest(turned, path, **more)

    object.__setattr__(chosen, "write_mask", flipped)
    try:
        with pytest.raises(VerificationError, match="the old file was kept"):
            export(mask_for(suffix), out)
    finally:
        object.__setattr__(chosen, "write_mask", honest)
    assert state(tmp_path) == before


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".tif"])
def test_a_planted_wrong_grid_fails(tmp_path, suffix):
    chosen = MODULES[suffix].FORMAT
    honest = chosen.write_mask
    wrong = Geometry.regular((4, 5, 6), (3, 0.8, 0.7), (1, 2, 3))

    def misplaced(mask, path, **more):
        honest(Mask(mask.data, wrong, mask.labels), path, **more)

    object.__setattr__(chosen, "write_mask", misplaced)
    try:
        with pytest.raises(VerificationError, match=r"corners .* mm"):
            export(mask_for(suffix), tmp_path / f"m{suffix}")
    finally:
        object.__setattr__(chosen, "write_mask", honest)
    assert state(tmp_path) == {}


@pytest.mark.parametrize("suffix", [".nii.gz", ".json"])
def test_planted_swapped_names_fail(tmp_path, suffix):
    chosen = MODULES[suffix].FORMAT
    honest = chosen.write_mask

    def renamed(mask, path, **more):
        honest(
            Mask(mask.data, mask.geometry, LabelTable.classes({1: "tumour", 2: "liver"})),
            path,
            **more,
        )

    object.__setattr__(chosen, "write_mask", renamed)
    try:
        with pytest.raises(VerificationError, match="label 1"):
            export(mask_for(suffix), tmp_path / f"m{suffix}")
    finally:
        object.__setattr__(chosen, "write_mask", honest)
    assert state(tmp_path) == {}


@pytest.mark.parametrize("suffix", list(MODULES))
def test_rubbish_that_no_reader_understands_fails(tmp_path, suffix):
    chosen = MODULES[suffix].FORMAT
    honest = chosen.write_mask
    object.__setattr__(chosen, "write_mask", lambda mask, to: to.path.write_bytes(b"rubbish"))
    try:
        with pytest.raises(VerificationError):
            export(mask_for(suffix), tmp_path / f"m{suffix}")
    finally:
        object.__setattr__(chosen, "write_mask", honest)
    assert state(tmp_path) == {}


@pytest.mark.parametrize("suffix", list(MODULES))
@pytest.mark.parametrize("step", ["fsync", "replace", "chmod", "mkstemp"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_refusing_disk_changes_nothing(tmp_path, monkeypatch, suffix, step, number):
    out = tmp_path / f"m{suffix}"
    export(mask_for(suffix, 1), out)
    before = state(tmp_path)

    def refuse(*args, **more):
        raise OSError(number, os.strerror(number))

    import tempfile

    monkeypatch.setattr(tempfile if step == "mkstemp" else os, step, refuse)
    with pytest.raises(StorageError, match=os.strerror(number)) as caught:
        export(mask_for(suffix), out)
    monkeypatch.undo()
    assert state(tmp_path) == before
    assert isinstance(caught.value, OSError)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_failure_halfway_through_the_replacing_is_undone(tmp_path, monkeypatch, after):
    out = tmp_path / "m.nii.gz"
    export(mask_for(".nii.gz", 1), out)
    (tmp_path / "m.nii.gz.receipt.json").unlink()
    before = state(tmp_path)
    honest, calls = os.replace, []

    def refuse_once(source, target):
        calls.append(target)
        if len(calls) == after + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(source, target)

    monkeypatch.setattr(os, "replace", refuse_once)
    with pytest.raises(StorageError, match="free some space"):
        export(mask_for(".nii.gz"), out)
    monkeypatch.undo()
    assert state(tmp_path) == before


@pytest.mark.skipif(os.name != "posix", reason="/dev/full is a Linux device")
def test_a_really_full_disk_is_told(tmp_path, monkeypatch):
    honest = Path.open

    def full(self, mode="r", *args, **more):
        is_temporary = self.name.startswith(".maskloop-") and "w" in mode
        return honest(Path("/dev/full") if is_temporary else self, mode, *args, **more)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StorageError, match="No space left"):
        export(mask_for(".nii"), tmp_path / "m.nii")
    monkeypatch.undo()
    assert state(tmp_path) == {}


def test_a_missing_folder_a_folder_as_target_and_a_device_are_refused(tmp_path):
    with pytest.raises(StorageError, match="create it first"):
        export(mask_for(".nii"), tmp_path / "nowhere" / "m.nii")
    (tmp_path / "m.nii").mkdir()
    with pytest.raises(StorageError, match="expected a file name"):
        export(mask_for(".nii"), tmp_path / "m.nii")
    (tmp_path / "n.nii.receipt.json").mkdir()
    with pytest.raises(StorageError, match="choose another name"):
        export(mask_for(".nii"), tmp_path / "n.nii")
    assert sorted(state_names(tmp_path)) == ["m.nii", "n.nii.receipt.json"]


def state_names(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir()]


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="needs a user without root's rights"
)
def test_a_folder_without_permission_is_told(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="you may write to"):
            export(mask_for(".nii"), tmp_path / "m.nii")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("stage", ["write", "read back", "replace"])
def test_cancelling_before_the_end_leaves_everything(tmp_path, stage):
    out = tmp_path / "m.nii.gz"
    export(mask_for(".nii.gz", 1), out)
    before = state(tmp_path)
    job = Job()

    def listen(progress: Progress) -> None:
        if progress.stage == stage:
            job.cancel()
            job.check()

    job._listener = listen
    with pytest.raises(Cancelled):
        export(mask_for(".nii.gz"), out, job=job)
    assert state(tmp_path) == before


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_are_kept_and_new_files_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        export(mask_for(".nii"), tmp_path / "m.nii")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "m.nii").stat().st_mode) == 0o640
    (tmp_path / "m.nii").chmod(0o604)
    export(mask_for(".nii"), tmp_path / "m.nii")
    assert stat.S_IMODE((tmp_path / "m.nii").stat().st_mode) == 0o604


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    export(mask_for(".nii", 1), tmp_path / "real" / "m.nii")
    (tmp_path / "m.nii").symlink_to(tmp_path / "real" / "m.nii")
    export(mask_for(".nii"), tmp_path / "m.nii")
    assert (tmp_path / "m.nii").is_symlink()
    np.testing.assert_array_equal(
        load_mask(tmp_path / "real" / "m.nii").data, mask_for(".nii").data
    )


def test_the_receipt_holds_what_was_proved(tmp_path):
    mask = mask_for(".nii.gz")
    receipt = export(mask, tmp_path / "m.nii.gz")
    saved = json.loads((tmp_path / "m.nii.gz.receipt.json").read_text())
    assert saved == {**receipt.to_json(), "path": "m.nii.gz"}
    assert saved["verdict"] == "PASS"
    for name, digest in saved["sha256"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    assert [(r.id, r.name, r.voxels) for r in receipt.labels] == [
        (i, n, int((mask.data == i).sum())) for i, n in TABLE.names.items()
    ]
    assert receipt.labels[0].volume_ml == pytest.approx(
        receipt.labels[0].voxels * 3 * 0.7 * 0.8 / 1000
    )
    assert receipt.worst_corner_mm is not None
    assert receipt.worst_corner_mm < 1e-3
    text = receipt.to_text()
    assert text.startswith("PASS")
    assert "2 tumour" in text
    assert next(iter(saved["sha256"].values())) in text


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_voxel_counts_equal_numpy(dtype):
    ids = np.random.default_rng(0).integers(0, 9, (6, 7, 8)).astype(dtype) * (
        20000 if dtype != np.uint8 else 1
    )
    values, counts = np.unique(ids[ids > 0], return_counts=True)
    assert base.voxel_counts(ids) == dict(zip(values.tolist(), counts.tolist(), strict=True))


def test_the_systems_words_are_told_not_those_of_a_library_between(tmp_path):
    def fill() -> None:
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError as error:  # as pydicom passes it on
            raise OSError("With tag ... Traceback ...") from error

    told = "answered 'full'; free some space"
    with pytest.raises(StorageError, match=told), Swap(tmp_path / "x.nii", ".nii"):
        fill()

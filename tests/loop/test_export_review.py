"""export tells and records what a review leaves open, and refuses nothing for it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner

from maskloop.cli import commands
from maskloop.core.errors import UnknownNameError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.core.review import Candidate, Review
from maskloop.desk.cases import open_case
from maskloop.formats.base import receipt_of
from maskloop.loop.export import export
from maskloop.loop.load import load_mask

GRID = Geometry.regular((8, 6, 5), (3.0, 0.7, 0.8), (1, 2, 3))


def mask() -> Mask:
    """Labels on slices 2 to 5."""
    ids = np.zeros(GRID.shape, np.uint8)
    ids[2:6, 1:3, 1:3] = 2
    return Mask(ids, GRID, LabelTable.classes({1: "liver", 2: "tumour"}))


def candidate() -> Candidate:
    region = np.ones((1, 2, 2), bool)
    return Candidate.of(
        region,
        number=1,
        label=2,
        name="tumour",
        start=(6, 3, 3),
        peak=0.35,
        mean=0.3,
        voxel_mm3=1.68,
    )


def half_read(folder: Path | None = None) -> Review:
    review = Review(folder, shape=GRID.shape)
    review.propose([candidate()])
    for index in (0, 1, 2, 4):
        review.see(0, index, 1.0, "liver")
    return review


def test_slices_not_seen_and_open_candidates_are_told_and_recorded(tmp_path: Path) -> None:
    job, out = Job(), tmp_path / "m.nii.gz"
    receipt = export(mask(), out, review=half_read(), job=job)
    assert receipt.verdict == "PASS"
    unseen, undecided = receipt.warnings
    assert unseen == "not looked at: slices 3, 5 of axis 0 (2 of slices 2 to 5)"
    assert "1 candidate below the model's threshold, not decided: tumour 0.35" in undecided
    assert [note for note in job.notes if note in receipt.warnings] == [unseen, undecided]
    assert f"  warning  {unseen}" in receipt.to_text().splitlines()
    kept = json.loads(receipt_of(out).read_text())
    assert kept["warnings"] == [unseen, undecided]
    assert kept["review"]["unseen"] == [[3, 3], [5, 5]]
    assert kept["review"]["candidates"] == {"open": 1, "accepted": 0, "dismissed": 0}
    assert kept["review"]["undecided"][0]["name"] == "tumour"
    np.testing.assert_array_equal(load_mask(out).data, mask().data)


def test_a_finished_review_is_recorded_without_a_warning(tmp_path: Path) -> None:
    review, job = half_read(), Job()
    review.dismiss(1, "Ada")
    for index in range(8):
        review.see(0, index, 1.0, "liver")
    receipt = export(mask(), tmp_path / "m.nrrd", review=review, job=job)
    assert receipt.warnings == ()
    assert job.notes == []
    assert "warning" not in receipt.to_text()
    kept = json.loads(receipt_of(tmp_path / "m.nrrd").read_text())
    assert kept["review"]["candidates"] == {"open": 0, "accepted": 0, "dismissed": 1}
    assert "Ada" not in receipt_of(tmp_path / "m.nrrd").read_text()


def test_without_a_review_nothing_is_claimed(tmp_path: Path) -> None:
    receipt = export(mask(), tmp_path / "m.nii.gz")
    assert (receipt.review, receipt.warnings) == (None, ())
    assert json.loads(receipt_of(tmp_path / "m.nii.gz").read_text())["review"] is None


def test_in_an_empty_mask_every_slice_counts(tmp_path: Path) -> None:
    empty = Mask(np.zeros(GRID.shape, np.uint8), GRID, mask().labels)
    receipt = export(empty, tmp_path / "m.nii.gz", review=half_read())
    assert receipt.warnings[0] == "not looked at: slices 3, 5 to 7 of axis 0 (4 of slices 0 to 7)"


def test_the_axis_that_was_read_is_the_one_that_counts(tmp_path: Path) -> None:
    review = half_read()
    review.see(2, 1, 100.0, "liver")
    receipt = export(mask(), tmp_path / "m.nii.gz", review=review)
    assert receipt.warnings[0] == "not looked at: slice 2 of axis 2 (1 of slices 1 to 2)"


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A case of ct.nii.gz with the mask's labels and a half-read review."""
    path = tmp_path / "ct.nii.gz"
    affine = GRID.affine[:, [2, 1, 0, 3]]
    data = np.zeros(GRID.shape, np.int16)
    nibabel.save(nibabel.Nifti1Image(data.transpose(), affine), path)
    with open_case(path, mask=Mask.like(Image(data, GRID), mask().data, mask().labels)) as opened:
        opened.review.propose([candidate()])
        for index in (0, 1, 2, 4):
            opened.review.see(0, index, 1.0, "liver")
        return opened.folder


def test_a_case_folder_is_exported_with_its_review(case: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.nii.gz"
    done = CliRunner().invoke(commands, ["export", str(case), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert "warning  not looked at: slices 3, 5 of axis 0" in done.output
    np.testing.assert_array_equal(load_mask(out).data, mask().data)
    kept = json.loads(receipt_of(out).read_text())
    assert len(kept["warnings"]) == 2
    image = tmp_path / "ct.nii.gz"
    receipt = export(case, tmp_path / "again.nrrd", image=image)
    assert len(receipt.warnings) == 2
    assert receipt.source == "ct.nii.gz"


def test_exporting_a_case_leaves_the_case_as_it_was(case: Path, tmp_path: Path) -> None:
    def content() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in case.iterdir() if p.name != "lock"}

    before = content()
    export(case, tmp_path / "out.nii.gz")
    assert content() == before
    with pytest.raises(UnknownNameError, match="expected the name of a mask of the case"):
        export(case, tmp_path / "out.nii.gz", entry="liver")


def test_a_damaged_review_is_told_and_counts_as_none(case: Path, tmp_path: Path) -> None:
    (case / "review.json").write_bytes(b"{")
    job = Job()
    receipt = export(case, tmp_path / "out.nii.gz", job=job)
    assert "damaged" in job.notes[0]
    assert receipt.warnings[0].startswith("not looked at: slices 2 to 5 of axis 0")
    assert (case / "review.json").read_bytes() == b"{"

"""Two models or two masks compared: true numbers, true places, matched by meaning."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import maskloop
from maskloop.core.errors import GeometryError, InputError, UnknownNameError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.desk import compare as desk
from maskloop.models import FAMILIES
from tests.gui.fake_family import save_fake

GRID = Geometry.regular((6, 20, 24), (3, 1, 1))
NAMES = {1: "liver", 2: "tumour"}


def two() -> tuple[Mask, Mask]:
    """Return a liver with a tumour, and the same shifted, its tumour called liver."""
    a, b = (np.zeros(GRID.shape, np.uint8) for _ in range(2))
    a[1:5, 4:14, 4:14] = 1
    a[2:4, 6:9, 6:9] = 2
    b[1:5, 4:14, 4:14] = 1
    b[1:5, 4:14, 14:16] = 1
    b[5, 0:2, 0:2] = 2
    return (
        Mask(a, GRID, LabelTable.classes(NAMES), title="ours"),
        Mask(b, GRID, LabelTable.classes(NAMES), title="theirs"),
    )


def test_the_numbers_are_those_counted_by_hand() -> None:
    found = desk.compare_masks(*two())
    assert found.counts == {"alike": 382, "only_a": 0, "only_b": 84, "other_class": 18}
    assert found.share == 382 / 484
    liver, tumour = found.labels
    assert liver.dice == pytest.approx(2 * 382 / (382 + 480))
    assert (tumour.dice, tumour.voxels_a, tumour.voxels_b) == (0.0, 18, 4)
    rows = found.rows()
    assert [(r["a"], r["b"], r["voxels"]) for r in rows] == [
        ("background", "liver", 80),
        ("tumour", "liver", 18),
        ("background", "tumour", 4),
    ]
    assert (rows[1]["size"], rows[1]["unit"]) == (54.0, "mm3")
    assert rows[1]["box"] == [[2, 4], [6, 9], [6, 9]]
    assert found.agreement.geometry.matches(GRID)
    assert found.agreement.labels.names[2] == "only ours"


def test_the_same_mask_twice_agrees_wholly() -> None:
    a, _ = two()
    found = desk.compare_masks(a, a)
    assert (found.share, found.differences) == (1.0, ())
    assert [row.dice for row in found.labels] == [1.0, 1.0]
    assert found.names == ("ours (A)", "ours (B)")


def test_nothing_drawn_has_no_share() -> None:
    empty = Mask(np.zeros(GRID.shape, np.uint8), GRID, LabelTable.classes(NAMES))
    found = desk.compare_masks(empty, empty)
    assert found.share is None
    assert json.loads(json.dumps(found.to_json()))["agreement"]["share"] is None


def test_what_is_not_listed_is_said() -> None:
    found = desk.compare_masks(*two(), most=1)
    assert len(found.differences) == 1
    assert "2 smaller regions not listed, 22 voxels in all" in found.notes


def test_foreign_grids_are_refused_in_mm() -> None:
    a, _ = two()
    other = Mask(a.data, Geometry.regular(GRID.shape, (3, 1, 2)), a.labels)
    with pytest.raises(GeometryError, match="mm"):
        desk.compare_masks(a, other)
    with pytest.raises(InputError, match="at least 1"):
        desk.compare_masks(a, a, smallest=0)


def test_files_are_compared_and_both_results_written(tmp_path: Path) -> None:
    paths = []
    for mask in two():
        maskloop.export(mask, tmp_path / f"{mask.title}.nii.gz")
        paths.append(tmp_path / f"{mask.title}.nii.gz")
    found = desk.compare_masks(*paths)
    assert found.share == 382 / 484
    desk.write_agreement(found, tmp_path / "map.nii.gz")
    read = maskloop.load_mask(tmp_path / "map.nii.gz")
    assert (read.data == found.agreement.data).all()
    assert read.labels.names == found.agreement.labels.names
    desk.write_differences(found, tmp_path / "list.csv")
    with (tmp_path / "list.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["b"] for row in rows] == ["liver", "liver", "tumour"]


def test_two_models_on_one_image(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES.entries, "fake", "tests.gui.fake_family:FAMILY")
    save_fake(tmp_path, "first", ndim=3)
    save_fake(tmp_path, "second", ndim=3, how="high")
    a, _ = two()
    image = Image(a.data.astype(np.int16) * 60, GRID)
    job = Job()
    found = desk.compare(image, ("first", "second"), device="cpu", job=job)
    assert found.names == ("first", "second")
    assert found.a.geometry is found.b.geometry
    # The second draws above 100 only: 120, where the first has its tumour, and calls it liver.
    assert found.counts == {"alike": 0, "only_a": 382, "only_b": 0, "other_class": 18}
    with pytest.raises(UnknownNameError):
        desk.compare(image, ("first", "thrid"))
    with pytest.raises(InputError, match="two different models"):
        desk.compare(image, ("first", "first"))

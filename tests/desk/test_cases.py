from __future__ import annotations

import numpy as np
import pytest

from maskloop.core.case import Case
from maskloop.core.edits import Edit
from maskloop.core.errors import MissingFileError
from maskloop.core.geometry import Geometry
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.desk.cases import case_folder, replay


def test_a_case_lies_beside_its_image_or_in_a_workspace(tmp_path):
    assert case_folder(tmp_path / "ct.nii.gz") == tmp_path / "ct.maskloop"
    assert case_folder(tmp_path / "ct.nii.gz", workspace="/w").as_posix() == "/w/ct.maskloop"
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

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from maskloop.core.errors import Cancelled, GeometryError, InputError, UnknownNameError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.loop.correct import correct
from maskloop.tools import TOOLS

GRID = Geometry.regular((6, 20, 20), (5.0, 1.0, 1.0))


def mask_of(*rows: Label) -> Mask:
    ids = np.zeros(GRID.shape, np.uint8)
    ids[1:5, 2:10, 2:10] = 1
    ids[2, 15, 15] = 1
    if len(rows) != 1:
        ids[1:5, 12:18, 2:8] = 2
        ids[4, 15, 15] = 2
    table = rows or (Label(1, "liver"), Label(2, "tumour"))
    return Mask.like(Image(np.zeros(GRID.shape, np.int16), GRID), ids, LabelTable(table))


def test_the_label_may_be_left_out_where_there_is_one():
    done = correct(mask_of(Label(1, "liver")), "islands")
    assert done.edit.voxels == 1
    assert done.edit.words == "islands: liver"
    assert done.notes == ("1 voxels changed (0.005 mL)",)


def test_the_label_must_be_given_where_there_are_more():
    with pytest.raises(InputError, match=r"got none; choose one of: 1 \(liver\), 2 \(tumour\)"):
        correct(mask_of(), "islands")


@pytest.mark.parametrize("label", ["tumour", 2, "2"])
def test_a_label_is_given_by_name_or_id(label):
    done = correct(mask_of(), "islands", label=label)
    assert done.mask.data[4, 15, 15] == 0
    assert done.mask.data[2, 15, 15] == 1


def test_all_labels_in_turn_are_one_step():
    mask = mask_of(Label(1, "liver"), Label(2, "tumour", locked=True))
    done = correct(mask, "islands", label="all")
    assert done.mask.data[2, 15, 15] == 0
    assert done.mask.data[4, 15, 15] == 2  # locked
    both = correct(mask_of(), "islands", label="all")
    assert both.edit.voxels == 2
    assert both.edit.words == "islands"


def test_unknown_names_list_the_known():
    with pytest.raises(
        UnknownNameError, match=r"name of a tool, got 'island'; choose one of: .*grow"
    ):
        correct(mask_of(), "island")
    with pytest.raises(UnknownNameError, match=r"name of a label, got 'spleen'; .*2 \(tumour\)"):
        correct(mask_of(), "islands", label="spleen")
    with pytest.raises(UnknownNameError, match="parameter of islands, got 'size'"):
        correct(mask_of(), "islands", label=1, parameters={"size": 3})


def test_a_value_that_cannot_be_used_is_refused():
    with pytest.raises(InputError, match="expected margin of at least -200 at most 200, got 900"):
        correct(mask_of(), "grow", label=1, parameters={"margin": 900})


def test_a_locked_or_empty_label_is_refused():
    with pytest.raises(InputError, match="'liver', which is locked; unlock"):
        correct(mask_of(Label(1, "liver", locked=True), Label(2, "tumour")), "islands", label=1)
    with pytest.raises(InputError, match="'cyst' to have voxels, got none"):
        correct(mask_of(Label(1, "a"), Label(2, "b"), Label(3, "cyst")), "islands", label="cyst")


def test_an_empty_mask_is_refused():
    empty = Mask(np.zeros(GRID.shape, np.uint8), GRID, LabelTable.classes(["liver"]))
    with pytest.raises(InputError, match="got an empty one; draw or predict first"):
        correct(empty, "islands")


def test_a_mask_on_another_grid_is_refused():
    image = Image(np.zeros((6, 20, 21), np.int16), Geometry.regular((6, 20, 21), (5.0, 1.0, 1.0)))
    with pytest.raises(GeometryError, match="choose its own image"):
        correct(mask_of(), "islands", label=1, image=image)


def test_a_split_gives_rows_and_objects():
    parameters = {"keep": "all", "split": True}
    done = correct(mask_of(), "islands", label="tumour", parameters=parameters, author="Ada")
    row = done.mask.labels[3]
    assert (row.name, row.category, row.is_thing, row.author) == ("tumour 3", "tumour", True, "Ada")
    assert done.mask.labels[2].category == "tumour"
    assert done.mask.labels[1] == Label(1, "liver")
    assert "1 new objects of tumour" in done.notes
    assert done.edit.table_before(done.mask.labels) == mask_of().labels


def test_a_split_of_a_film_gives_every_object_its_own_id():
    picture = Geometry.pixels((10, 10))
    ids = np.zeros((2, 10, 10), np.uint8)
    ids[:, 1:5, 1:5] = 1
    ids[:, 7:9, 7:9] = 1
    film = Mask(ids, picture, LabelTable.classes(["cell"]))
    done = correct(film, "islands", parameters={"keep": "all", "split": True})
    assert [sorted(np.unique(frame)) for frame in done.mask.data] == [[0, 1, 2], [0, 1, 3]]
    assert done.mask.ids() == [1, 2, 3]


def test_nothing_changed_is_said():
    done = correct(mask_of(), "holes", label=1)
    assert done.edit.is_empty
    assert done.notes == ("nothing changed",)


def test_a_label_that_is_gone_is_said():
    job = Job()
    done = correct(mask_of(), "grow", label=2, parameters={"margin": -50}, job=job)
    assert done.mask.ids() == [1]
    assert "no voxel of tumour is left" in done.notes
    assert job.notes == list(done.notes)


def test_a_stopped_job_changes_nothing():
    job = Job()
    job.cancel()
    with pytest.raises(Cancelled):
        correct(mask_of(), "islands", label=1, job=job)


@pytest.mark.parametrize("kind", ["foreign label", "locked label", "shape"])
def test_a_third_party_tool_is_held_to_its_label(monkeypatch, kind):
    def bad(mask, image=None, *, label: int):
        ids = mask.data.copy()
        if kind == "foreign label":
            ids[ids == 2] = 0
        elif kind == "locked label":
            ids[0, 0, 0] = 3
        else:
            ids = ids[:1]
        return ids

    monkeypatch.setattr("maskloop.tools.grow.grow", bad)
    assert TOOLS.get("grow") is bad
    mask = mask_of(Label(1, "a"), Label(2, "b"), Label(3, "c", locked=True))
    with pytest.raises(InputError, match="report it to the tool's author"):
        correct(mask, "grow", label=1)


def test_correcting_imports_no_torch():
    script = """
import sys
import numpy as np
from maskloop import Geometry, Image, Mask, correct
grid = Geometry.pixels((9, 9))
mask = Mask.like(Image(np.zeros((9, 9)), grid), np.eye(9, dtype=np.uint8), ["a"])
for tool in ("islands", "holes", "smooth", "grow"):
    correct(mask, tool)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)

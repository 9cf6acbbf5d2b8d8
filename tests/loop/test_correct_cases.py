"""Tools on cases: one step each, on the box they reach, leaving what may not change."""

from __future__ import annotations

import numpy as np
import pytest

from maskloop.core.case import Case
from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.loop.correct import correct, prepare

SHAPE = (20, 60, 60)
GRID = Geometry.regular(SHAPE, (3.0, 1.0, 1.0))


def scene() -> Mask:
    ids = np.zeros(SHAPE, np.uint8)
    ids[5:12, 10:25, 10:25] = 1
    ids[5:12, 35:50, 35:50] = 2
    return Mask(ids, GRID, LabelTable.classes(["liver", "spleen"]))


def test_a_case_and_a_mask_are_corrected_alike():
    case, mask = Case.in_memory(scene()), scene()
    of_mask = correct(mask, "grow", label="liver", parameters={"margin": 4.0})
    of_case = correct(case, "grow", label="liver", parameters={"margin": 4.0})
    assert np.array_equal(case.mask.data, of_mask.mask.data)
    assert of_case.notes == of_mask.notes
    assert case.history.steps == ["grow: liver"]
    assert of_case.edit.about == {"tool": "grow", "label": 1, "parameters": {"margin": 4.0}}
    case.undo()
    assert np.array_equal(case.mask.data, scene().data)


def test_a_tool_is_given_no_more_than_the_box_it_reaches():
    ready = prepare(Case.in_memory(scene()), "grow", label="spleen", parameters={"margin": 2.0})
    assert ready.work.mask.data.shape < (12, 24, 24)
    assert ready.work.box[1].start >= 30
    whole = np.zeros(SHAPE, bool)
    whole[ready.work.box] = True
    assert whole[scene().data == 2].all()


def test_nothing_outside_the_limit_changes():
    limit = (slice(0, 8), slice(None), slice(0, 20))
    done = correct(scene(), "grow", label=1, parameters={"margin": 5.0}, box=limit)
    free = correct(scene(), "grow", label=1, parameters={"margin": 5.0})
    changed = done.mask.data != scene().data
    inside = np.zeros(SHAPE, bool)
    inside[limit] = True
    assert changed.any()
    assert not changed[~inside].any()
    assert np.array_equal(done.mask.data[inside], free.mask.data[inside])
    for odd in ((slice(0, 0), slice(None), slice(None)), (slice(0, 5),)):
        with pytest.raises(InputError, match="expected a box that holds voxels"):
            correct(scene(), "grow", label=1, box=odd)
    far = (slice(18, 20), slice(50, 60), slice(0, 5))
    with pytest.raises(InputError, match="expected a limit that meets"):
        correct(scene(), "grow", label=1, box=far)


def test_hand_painted_voxels_of_a_mask_are_put_back_and_told():
    mask = scene()
    hand = np.zeros(SHAPE, bool)
    hand[5:7, 10:12, 10:12] = True
    done = correct(mask, "delete", label="liver", hand=hand)
    assert not (done.mask.data == 1).any()  # the person named the label
    done = correct(mask, "grow", label="liver", parameters={"margin": -50.0}, hand=hand)
    assert np.array_equal(done.mask.data == 1, hand)
    assert done.refused is not None
    assert done.refused.by_hand == 8
    assert "8 voxels painted by hand stayed as they were" in done.notes
    done = correct(
        mask, "grow", label="all", parameters={"margin": -50.0}, hand=hand, over_hand=True
    )
    assert not done.mask.data.any()
    assert done.refused is None


def test_all_labels_of_a_case_are_one_step():
    case = Case.in_memory(scene())
    case.paint((8, 40, 40), radius_mm=2.0, label="spleen")
    hand = case.hand()
    done = correct(case, "grow", label="all", parameters={"margin": -50.0})
    assert np.array_equal(case.mask.data > 0, hand)
    assert done.refused is not None
    assert len(case.history) == 2
    case.undo()
    assert np.array_equal(case.mask.data, scene().data)


def test_a_tool_that_begins_an_object_adds_its_label_only_if_it_draws():
    case = Case.in_memory(scene())
    image = Image(np.zeros(SHAPE, np.int16), GRID)
    points = [(8.0, 55.0, 5.0)] * 2
    stroke = {"path": points, "radius": 3.0}
    done = correct(case, "brush", image=image, label="lesion", parameters=stroke)
    assert case.mask.labels.names[3] == "lesion"
    assert case.mask.data[8, 55, 5] == 3
    assert done.edit.kind == "person"
    assert case.hand()[8, 55, 5]
    case.undo()
    assert 3 not in case.mask.labels
    with pytest.raises(InputError, match="expected positions within the shape"):
        correct(case, "brush", label="lesion", parameters={"path": [(90, 0, 0)] * 2, "radius": 3.0})
    with pytest.raises(InputError, match="expected positions of 3 numbers"):
        correct(case, "brush", label="lesion", parameters={"path": [(9, 0)] * 2, "radius": 3.0})
    assert case.history.position == 0


def test_locked_labels_stay_whoever_works():
    labels = LabelTable([Label(1, "liver"), Label(2, "spleen", locked=True)])
    case = Case.in_memory(Mask(scene().data, GRID, labels))
    done = correct(case, "grow", label="liver", parameters={"margin": 40.0})
    assert np.array_equal(case.mask.data == 2, scene().data == 2)
    assert (case.mask.data == 1).sum() > 20_000
    assert done.refused is None  # it grows over background only
    with pytest.raises(InputError, match="expected an unlocked label, got 'spleen'"):
        correct(case, "grow", label="spleen")


def test_strokes_made_while_a_tool_ran_stay():
    case = Case.in_memory(scene())
    ready = prepare(case, "grow", label="liver", parameters={"margin": -50.0})
    case.paint((8, 15, 15), radius_mm=3.0, label="spleen")
    result = ready.run()
    change = case.change(result.ids, box=result.box, since=result.since, tool="grow")
    assert (case.mask.data[case.hand()] == 2).all()
    assert not (case.mask.data == 1).any()
    assert change.refused is not None


def test_a_stroke_on_one_frame_leaves_the_others():
    film = Mask(np.zeros((3, *SHAPE), np.uint8), GRID, LabelTable.classes(["lesion"]))
    case = Case.in_memory(film)
    stroke = {"path": [(8, 30, 30)] * 2, "radius": 4.0}
    correct(case, "brush", label="lesion", parameters=stroke, frame=1)
    assert case.mask.data[1].any()
    assert not case.mask.data[[0, 2]].any()
    image = Image(np.zeros(SHAPE, np.int16), GRID)
    correct(case, "grow", image=image, label="lesion", parameters={"margin": 2.0})
    assert not case.mask.data[[0, 2]].any()
    for mask, frame in ((film, 3), (film, -1), (scene(), 0)):
        with pytest.raises(InputError, match="expected a frame of"):
            correct(mask, "brush", label=1, parameters=stroke, frame=frame)


def test_a_tool_may_tell_what_a_person_should_read():
    image = Image(np.zeros(SHAPE, np.int16), GRID)
    job = Job()
    line = {"line": [(8, 30, 20), (8, 30, 40)]}
    correct(Case.in_memory(scene()), "lesion", image=image, label=9, parameters=line, job=job)
    assert any("ellipsoid" in note for note in job.notes)

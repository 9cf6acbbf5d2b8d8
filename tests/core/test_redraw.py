from __future__ import annotations

import numpy as np

from maskloop.core.case import Case
from maskloop.core.geometry import Geometry
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.core.redraw import redrawn

GRID = Geometry.pixels((4, 6))


def mask(rows, labels) -> Mask:
    return Mask(np.array(rows, np.uint8), GRID, labels)


def test_classes_meet_by_name_and_unknown_labels_stay():
    held = mask(
        [[1, 1, 0, 0, 7, 7], [2, 2, 0, 0, 7, 7], [0] * 6, [9] * 6],
        LabelTable([Label(1, "tumour"), Label(2, "cyst"), Label(7, "liver")]),
    )
    found = mask(
        [[2, 2, 2, 1, 1, 1], [2] * 6, [3] * 6, [1] * 6],
        LabelTable.classes(["liver", "tumour", "vein"]),
    )
    ids, labels = redrawn(held, found)
    assert ids.tolist() == [[1, 1, 1, 7, 7, 7], [2, 2, 1, 1, 1, 1], [3] * 6, [9] * 6]
    assert labels.names == {1: "tumour", 2: "cyst", 3: "vein", 7: "liver"}


def test_a_new_class_whose_id_is_taken_gets_a_free_one():
    held = mask([[1] * 6] * 4, LabelTable.classes(["cyst"]))
    found = mask([[1, 2, 2, 2, 2, 2]] * 4, LabelTable.classes(["liver", "tumour"]))
    ids, labels = redrawn(held, found)
    assert (ids == 1).all()
    assert labels.names == {1: "cyst", 2: "liver", 3: "tumour"}


def test_parts_that_a_split_made_of_a_class_are_drawn_anew():
    parts = LabelTable([Label(1, "liver"), Label(5, "tumour 5", category="tumour")])
    held = mask([[1, 5, 5, 5, 5, 1]] * 4, parts)
    found = mask([[1, 1, 1, 2, 2, 2]] * 4, LabelTable.classes(["liver", "tumour"]))
    ids, _ = redrawn(held, found)
    assert ids.tolist() == [[1, 1, 1, 2, 2, 2]] * 4


def test_objects_a_person_painted_on_keep_their_ids():
    held = mask(
        [[1, 1, 0, 2, 2, 0], [1, 1, 0, 2, 2, 0], [0] * 6, [8] * 6],
        LabelTable.objects([1, 2], "cell").with_rows([Label(8, "edge 8", category="edge")]),
    )
    hand = np.zeros((4, 6), bool)
    hand[0, 3] = True
    found = mask(
        [[1, 1, 2, 2, 2, 2], [3] * 6, [3] * 6, [3] * 6], LabelTable.objects([1, 2, 3], "cell")
    )
    ids, labels = redrawn(held, found, hand=hand)
    assert ids.tolist() == [[1, 1, 3, 3, 3, 3], [4] * 6, [4] * 6, [8] * 6]
    assert labels.names == {1: "cell 1", 2: "cell 2", 3: "cell 3", 4: "cell 4", 8: "edge 8"}


def test_a_run_and_its_rerun_leave_the_readers_voxels():
    case = Case.in_memory(mask([[0] * 6] * 4, LabelTable()))
    model = mask([[0, 1, 1, 1, 1, 0]] * 4, LabelTable.classes(["liver", "tumour"]))
    for _ in range(2):
        ids, labels = redrawn(case.mask, model, hand=case.hand())
        case.change(ids, labels=labels, tool="net", kind="model", author="net")
        if case.history.position == 1:
            case.paint((1, 2), radius_mm=0, label="tumour")
            case.paint((2, 3), radius_mm=0, label=0)
    assert case.mask.data[1, 2] == 2
    assert case.mask.data[2, 3] == 0
    assert case.history.position == 3  # the second run had nothing to change

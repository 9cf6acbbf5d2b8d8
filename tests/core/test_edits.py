from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskloop.core.edits import Edit, History
from maskloop.core.errors import FormatError, InputError
from maskloop.core.labels import Label, LabelTable

SHAPES = hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=7)
PAIRS = SHAPES.flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.uint16, shape, elements=st.sampled_from([0, 0, 0, 1, 2, 700])),
        hnp.arrays(np.uint16, shape, elements=st.sampled_from([0, 0, 0, 1, 2, 700])),
    )
)


@given(PAIRS)
def test_apply_gives_the_new_ids_and_revert_the_old(pair):
    before, after = pair
    edit = Edit.between(before, after)
    ids = before.copy()
    assert edit.apply(ids) == edit.box
    assert np.array_equal(ids, after)
    assert edit.revert(ids) == edit.box
    assert np.array_equal(ids, before)
    assert edit.voxels == (before != after).sum()
    assert edit.is_empty == np.array_equal(before, after)


@given(PAIRS)
def test_a_record_gives_the_edit_back(pair):
    before, after = pair
    tables = (LabelTable.classes(["liver"]), LabelTable([Label(1, "Leber", locked=True)]))
    edit = Edit.between(
        before, after, labels=tables, tool="brush", author="Ada", words="Pinsel \u00e4"
    )
    assert Edit.from_bytes(edit.to_bytes()) == edit


def test_only_the_box_is_compared():
    before = np.zeros((4, 4), np.uint8)
    after = np.ones((4, 4), np.uint8)
    edit = Edit.between(before, after, box=(slice(1, 3), slice(0, 2)))
    assert edit.box == (slice(1, 3), slice(0, 2))
    assert edit.voxels == 4


def test_the_old_content_of_a_box_is_enough():
    ids = np.zeros((3, 8, 8), np.uint8)
    box = (slice(1, 2), slice(2, 6), slice(3, 7))
    old = ids[box].copy()
    ids[box][0, 1, 1] = 5
    edit = Edit.between(old, ids, box=box)
    edit.revert(ids)
    assert not ids.any()
    assert edit.box == (slice(1, 2), slice(3, 4), slice(4, 5))


def test_ids_beyond_the_array_type_are_refused_and_nothing_is_written():
    ids = np.zeros((2, 2), np.uint8)
    edit = Edit.between(ids, np.array([[0, 1], [300, 0]], np.uint16))
    with pytest.raises(InputError, match="hold id 300, got uint8"):
        edit.apply(ids)
    assert not ids.any()


def test_a_step_out_of_order_is_refused_and_nothing_is_written():
    ids = np.zeros((2, 2), np.uint8)
    edit = Edit.between(ids, np.eye(2, dtype=np.uint8))
    ids[0, 0] = 9
    with pytest.raises(InputError, match="in their order"):
        edit.apply(ids)
    assert ids.tolist() == [[9, 0], [0, 0]]


def test_a_mask_of_another_shape_is_refused():
    edit = Edit.between(np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8))
    with pytest.raises(InputError, match="holds the box"):
        edit.apply(np.zeros((3, 4), np.uint8))
    with pytest.raises(InputError, match="before and after"):
        Edit.between(np.zeros((3, 4), np.uint8), np.ones((4, 4), np.uint8))


def test_rows_go_with_the_step():
    old = LabelTable([Label(1, "liver"), Label(2, "cyst")])
    new = LabelTable([Label(1, "liver", colour="#112233"), Label(3, "tumour")])
    ids = np.zeros((2, 2), np.uint8)
    edit = Edit.between(ids, ids, labels=(old, new), words="rename")
    assert not edit.is_empty
    assert edit.voxels == 0
    assert dict(edit.table_after(old)) == dict(new)
    assert dict(edit.table_before(new)) == dict(old)
    edit.apply(ids)
    assert not ids.any()


@pytest.mark.parametrize("record", [b"", b"abc", b"\x05\x00\x00\x00{}", b"\x02\x00\x00\x00{}"])
def test_a_damaged_record_is_named_so(record):
    with pytest.raises(FormatError, match="journal is damaged"):
        Edit.from_bytes(record)


def random_step(rng: np.random.Generator, ids: np.ndarray) -> np.ndarray:
    """A stroke, a fill, a deletion or a relabelling, as a new array."""
    after = ids.copy()
    kind = rng.integers(4)
    if kind == 0:
        centre = [rng.integers(n) for n in ids.shape]
        grid = np.ogrid[tuple(slice(0, n) for n in ids.shape)]
        ball = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= rng.integers(1, 30)
        after[ball] = rng.integers(0, 400)
    elif kind == 1:
        corner = [rng.integers(n) for n in ids.shape]
        after[tuple(slice(c, c + rng.integers(1, 6)) for c in corner)] = rng.integers(0, 5)
    elif kind == 2:
        after[after == rng.choice(ids.ravel())] = 0
    else:
        after[after == rng.choice(ids.ravel())] = rng.integers(0, 70000)
    return after


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(12, 15, 9), (40, 30), (3, 6, 8, 7)]))
def test_300_random_steps_undo_to_the_first_bytes_and_redo_to_the_last(seed, shape):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 4, shape).astype(np.uint32)
    first = ids.tobytes()
    history = History()
    states = [first]
    for number in range(300):
        history.apply(Edit.between(ids, random_step(rng, ids), words=f"step {number}"), ids)
        states.append(ids.tobytes())
    last = ids.tobytes()
    while history.undo(ids):
        pass
    assert ids.tobytes() == first
    while history.redo(ids):
        pass
    assert ids.tobytes() == last
    for position in rng.integers(0, 301, 10):
        history.go_to(int(position), ids)
        assert ids.tobytes() == states[position]
        assert history.position == position


def test_a_new_step_forgets_the_undone_ones():
    ids = np.zeros((2, 2), np.uint8)
    history = History()
    history.apply(Edit.between(ids, np.full((2, 2), 1, np.uint8), words="one"), ids)
    history.apply(Edit.between(ids, np.full((2, 2), 2, np.uint8), words="two"), ids)
    history.undo(ids)
    assert history.can_redo
    history.apply(Edit.between(ids, np.full((2, 2), 3, np.uint8), words="three"), ids)
    assert history.steps == ["one", "three"]
    assert not history.can_redo
    assert history.redo(ids) is None
    assert len(history) == history.position == 2


def test_an_empty_history_undoes_nothing():
    history = History()
    ids = np.zeros((2, 2), np.uint8)
    assert history.undo(ids) is None
    assert not history.can_undo
    with pytest.raises(InputError, match="step from 0 to 0, got 3"):
        history.go_to(3, ids)


def test_a_dab_of_radius_40_takes_less_than_a_kilobyte():
    ids = np.zeros((20, 512, 512), np.int32)
    y, x = np.ogrid[-40:41, -40:41]
    box = (slice(7, 8), slice(100, 181), slice(50, 131))
    old = ids[box].copy()
    ids[box][0][y**2 + x**2 <= 1600] = 3
    edit = Edit.between(old, ids, box=box, tool="brush", words="brush: tumour")
    assert edit.voxels == 5025
    assert len(edit.to_bytes()) <= 1024


def test_a_model_mask_of_millions_of_voxels_takes_less_than_200_kilobytes():
    z, y, x = np.ogrid[:200, :300, :300]
    liver = ((z - 100) / 90) ** 2 + ((y - 150) / 90) ** 2 + ((x - 150) / 80) ** 2 <= 1
    tumour = ((z - 100) / 20) ** 2 + ((y - 150) / 20) ** 2 + ((x - 150) / 18) ** 2 <= 1
    ids = liver.astype(np.uint8) + tumour
    edit = Edit.between(np.zeros_like(ids), ids, tool="predict")
    assert edit.voxels > 2_600_000
    assert edit.nbytes <= 200_000

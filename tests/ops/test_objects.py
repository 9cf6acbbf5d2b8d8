"""The live table equals a fresh measurement after every change, and follows numbers and drafts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskloop.core.case import Case
from maskloop.core.errors import InputError, UnknownNameError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.ops import components
from maskloop.ops.measure import measure
from maskloop.ops.objects import ObjectIndex
from maskloop.ops.rejoin import connected_runs
from maskloop.ops.runs import Runs, sparse

SHAPES = ((5, 9, 11), (7, 6, 8), (1, 12, 10))
TURNED = np.array([[0.6, 0.1, -0.4], [0.2, 0.7, 0.5], [0.5, -0.3, 2.0]])


def world(ids: np.ndarray, seed: int = 0, *, names: tuple[str, ...] = ("a", "b", "c")):
    rng = np.random.default_rng(seed)
    if ids.ndim == 2:
        grid = Geometry.pixels(ids.shape)
    else:
        affine = np.eye(4)
        affine[:3, :3] = TURNED[:, rng.permutation(3)]
        grid = Geometry(ids.shape, affine)
    image = Image(rng.normal(50, 400, ids.shape).astype(np.float32), grid)
    return Mask(ids, grid, LabelTable.classes(list(names))), image


def same(index: ObjectIndex, mask: Mask, image: Image | None) -> None:
    """Assert that the table holds what a fresh measurement finds, to the bit."""

    def key(row):
        return row.label, str(row.box), row.voxels, row.place

    fresh = sorted((replace(r, id=0) for r in measure(mask, image, by=index.by)), key=key)
    kept = sorted((replace(r.measured, id=0) for r in index), key=key)
    assert kept == fresh
    assert len({row.measured.id for row in index}) == len(fresh)


def against_draft(index: ObjectIndex, mask: Mask, draft: np.ndarray) -> None:
    """Assert what was added and removed, found voxel by voxel."""
    size = mask.geometry.voxel_size
    pieces: dict[int, list[np.ndarray]] = {}
    for label in np.unique(draft[draft != 0]).tolist():
        if index.by == "labels":
            pieces[label] = [draft == label]
        else:
            ids, count = components.label(draft == label)
            pieces[label] = [ids == n for n in range(1, count + 1)]
    rows = list(index)
    regions = {}
    for row in rows:
        ids, _ = components.label(mask.data == row.measured.label)
        chosen = ids == ids[row.measured.place] if index.by == "pieces" else ids > 0
        regions[row.measured.id] = chosen
    removed = dict.fromkeys(regions, 0)
    lost = 0
    for label, found in pieces.items():
        for piece in found:
            held = {
                row.measured.id: int((regions[row.measured.id] & piece).sum())
                for row in rows
                if row.measured.label == label
            }
            best = max(held, key=lambda n: (held[n], -n), default=None)
            if best is None or not held[best]:
                lost += 1
            else:
                removed[best] += int((piece & (mask.data != label)).sum())
    for row in rows:
        own = regions[row.measured.id] & (draft != row.measured.label)
        assert row.added == pytest.approx(int(own.sum()) * size)
        assert row.removed == pytest.approx(removed[row.measured.id] * size)
    assert index.lost[0] == lost


@st.composite
def boxes(draw, shape):
    return tuple(
        slice(*sorted((draw(st.integers(0, n - 1)), draw(st.integers(1, n))))) for n in shape
    )


@settings(max_examples=25)
@given(st.data())
def test_any_row_of_changes_leaves_the_table_that_a_fresh_measurement_gives(data):
    shape = data.draw(st.sampled_from([*SHAPES, (12, 13)]))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    dense = data.draw(st.sampled_from([0.15, 0.3, 0.55, 0.8]))
    labels = data.draw(st.integers(1, 3))
    ids = (rng.integers(1, labels + 1, shape) * (rng.random(shape) < dense)).astype(np.uint8)
    mask, image = world(ids, int(rng.integers(99)))
    by = data.draw(st.sampled_from(["pieces", "labels"]))
    draft = ids.copy()
    index = ObjectIndex(mask, image, by=by)
    same(index, mask, image)
    for _ in range(data.draw(st.integers(1, 6))):
        box = data.draw(boxes(shape))
        kind = data.draw(st.sampled_from(["fill", "erase", "noise", "thin"]))
        if kind == "noise":
            ids[box] = rng.integers(0, labels + 1, ids[box].shape)
        elif kind == "thin":
            ids[box][rng.random(ids[box].shape) < 0.5] = 0
        else:
            ids[box] = 0 if kind == "erase" else rng.integers(1, labels + 1)
        index.update(box)
        same(index, mask, image)
        against_draft(index, mask, draft)


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_winding_objects_that_hang_together_far_away_are_parted_and_joined_rightly(seed):
    rng = np.random.default_rng(seed)
    ids = np.zeros((3, 26, 26), np.uint8)
    ids[1, ::2, 1:-1] = 1  # a line that runs to and fro
    ids[1, 1::4, -2] = 1
    ids[1, 3::4, 1] = 1
    mask, image = world(ids, 3)
    index = ObjectIndex(mask, image)
    assert len(index) == 1
    for _ in range(5):
        y, x = rng.integers(0, 26, 2)
        box = (slice(0, 3), slice(y, y + rng.integers(1, 4)), slice(x, x + rng.integers(1, 4)))
        ids[box] = rng.integers(0, 2)
        index.update(box)
        same(index, mask, image)


@settings(max_examples=12)
@given(st.integers(0, 10**6))
def test_undo_and_redo_through_a_case_keep_the_table_and_give_back_the_numbers(seed):
    rng = np.random.default_rng(seed)
    ids = (rng.random((4, 12, 14)) < 0.2).astype(np.uint8) * rng.integers(1, 3, (4, 12, 14))
    mask, image = world(ids.astype(np.uint8), 1)
    case = Case.in_memory(mask)
    index = ObjectIndex.of_case(case, image)
    case.subscribe(index.take)
    first = list(index)
    for _ in range(6):
        box = tuple(slice(a, a + rng.integers(1, 6)) for a in rng.integers(0, (4, 12, 14)))
        wanted = case.mask.data[box].copy()
        wanted[:] = rng.integers(0, 4)
        case.change(wanted, box=box, tool="t", kind="person" if rng.random() < 0.5 else "tool")
        same(index, case.mask, image)
    last = list(index)
    case.go_to(0)
    same(index, case.mask, image)
    assert [r.measured for r in index] == [r.measured for r in first]
    assert {r.status for r in index} == {"new"}
    case.go_to(len(case.history))
    assert [r.measured for r in index] == [r.measured for r in last]
    assert [(r.added, r.removed) for r in index] == [(r.added, r.removed) for r in last]


def bar() -> Mask:
    ids = np.zeros((3, 8, 12), np.uint8)
    ids[1, 1:3, 1:11] = 1
    ids[1, 5:7, 2:5] = 2
    return Mask(ids, Geometry.regular(ids.shape, (5, 1, 1)), LabelTable.classes(["liver", "cyst"]))


def following(mask: Mask) -> tuple[Case, ObjectIndex]:
    case = Case.in_memory(mask, author="anna")
    index = ObjectIndex.of_case(case)
    case.subscribe(index.take)
    return case, index


def put(case: Case, box, label: int, kind: str = "person"):
    wanted = np.full(case.mask.data[box].shape, label, np.uint8)
    case.change(wanted, box=box, tool="t", kind=kind)


CUT = (slice(1, 2), slice(0, 8), slice(5, 6))


def test_the_largest_part_keeps_the_number_and_undo_gives_numbers_back():
    case, index = following(bar())
    assert [(r.measured.id, r.measured.label, r.name) for r in index] == [
        (1, 1, "liver"),
        (2, 2, "cyst"),
    ]
    put(case, CUT, 0)
    assert {r.measured.id: r.measured.voxels for r in index} == {1: 10, 2: 6, 3: 8}
    case.undo()
    assert index.numbers == [1, 2]
    case.redo()
    assert {r.measured.id: r.measured.voxels for r in index} == {1: 10, 2: 6, 3: 8}
    put(case, (slice(1, 2), slice(1, 2), slice(5, 6)), 1)
    assert {r.measured.id: r.measured.voxels for r in index} == {1: 19, 2: 6}
    with pytest.raises(UnknownNameError, match="object"):
        index[3]


def test_a_change_is_told_against_what_the_model_left():
    case, index = following(bar())
    put(case, CUT, 0)
    put(case, (slice(1, 2), slice(3, 4), slice(7, 9)), 1)
    rows = {r.measured.id: (r.added, r.removed) for r in index}
    assert rows == {1: (10.0, 10.0), 2: (0.0, 0.0), 3: (0.0, 0.0)}
    put(case, (slice(1, 2), slice(5, 7), slice(2, 5)), 0)
    assert index.lost == (1, 30.0)
    put(case, (slice(0, 3), slice(0, 1), slice(0, 1)), 2, kind="model")
    assert all((r.added, r.removed) == (0, 0) for r in index)
    assert index.lost == (0, 0.0)
    case.undo()
    assert {r.measured.id: (r.added, r.removed) for r in index} == {1: (10.0, 10.0), 3: (0, 0)}
    assert index.lost == (1, 30.0)
    case.redo()
    put(case, (slice(0, 1), slice(0, 1), slice(0, 2)), 2)
    again = ObjectIndex.of_case(case)  # as after reopening: the same draft from the history
    told = [[(r.measured.voxels, r.added, r.removed) for r in i] for i in (index, again)]
    assert sorted(told[0]) == sorted(told[1])
    assert sum(r.added for r in again) == 5.0


def test_steps_of_people_and_tools_make_an_object_edited_and_undo_takes_that_back():
    case, index = following(bar())
    put(case, (slice(1, 2), slice(1, 2), slice(1, 2)), 0)
    put(case, (slice(1, 2), slice(1, 2), slice(2, 3)), 0, kind="tool")
    assert [r.status for r in index] == ["edited", "new"]
    case.undo()
    assert [r.status for r in index] == ["edited", "new"]
    case.undo()
    assert [r.status for r in index] == ["new", "new"]
    put(case, (slice(1, 2), slice(5, 6), slice(4, 5)), 0, kind="model")
    assert [r.status for r in index] == ["new", "new"]


def test_a_status_given_to_a_label_or_an_object_stands_until_the_next_change():
    case, index = following(bar())
    put(case, (slice(1, 2), slice(1, 2), slice(1, 2)), 0)
    table = case.mask.labels
    case.set_labels(table.with_rows([replace(table[1], status="accepted")]))
    assert [r.status for r in index] == ["accepted", "new"]
    put(case, (slice(1, 2), slice(1, 2), slice(2, 3)), 0)
    assert [r.status for r in index] == ["edited", "new"]
    index.mark(2, "rejected")
    put(case, (slice(1, 2), slice(5, 6), slice(4, 5)), 0)
    assert [r.status for r in index] == ["edited", "rejected"]
    index.mark(2, None)
    assert index.status(2) == "new"


def test_where_ids_are_objects_an_id_is_one_object_in_all_its_pieces():
    mask = replace(bar(), labels=LabelTable.objects([1, 2], "cell"))
    case, index = following(mask)
    put(case, CUT, 0)
    assert [(r.measured.id, r.measured.voxels, r.removed) for r in index] == [
        (1, 18, 10.0),
        (2, 6, 0.0),
    ]
    put(case, (slice(0, 1), slice(0, 2), slice(0, 2)), 7)  # widens no type, but is a new object
    assert index[3].measured.label == 7
    put(case, (slice(0, 1), slice(0, 2), slice(0, 2)), 0)
    assert index.numbers == [1, 2]


def test_a_place_tells_its_object():
    _, index = following(bar())
    assert index.at((1, 2, 3)) == 1
    assert index.at((1, 5.4, 2)) == 2
    assert index.at((0, 0, 0)) is None
    assert index.at((1, 2, 99)) is None
    assert [index.at(r.measured.place) for r in index] == [1, 2]


def test_a_wider_type_of_the_ids_is_followed():
    case, index = following(bar())
    wanted = np.full((1, 1, 3), 700, np.uint16)
    case.change(wanted, box=(slice(0, 1), slice(0, 1), slice(0, 3)), tool="t", kind="person")
    assert case.mask.data.dtype == np.uint16
    assert {r.measured.label: r.measured.voxels for r in index} == {1: 20, 2: 6, 700: 3}
    same(index, case.mask, None)


def test_a_change_too_large_to_follow_finds_all_anew_and_keeps_the_numbers(monkeypatch):
    case, index = following(bar())
    put(case, CUT, 0)
    monkeypatch.setattr("maskloop.ops.livebodies._MOST", 20)
    before = {r.measured.place: r.measured.id for r in index}
    wanted = case.mask.data.copy()
    wanted[2, :, 1:4] = 2
    case.change(wanted, tool="t", kind="person")
    found = {r.measured.place: r.measured.id for r in index}
    assert {before[p] for p in before} <= set(found.values())
    same(index, case.mask, None)
    assert index.status(2) == "edited"
    against_draft(index, case.mask, bar().data)


def test_masks_in_time_are_refused_in_words():
    mask = bar()
    film = replace(mask, data=np.stack([mask.data, mask.data]))
    with pytest.raises(InputError, match="one frame at a time"):
        ObjectIndex(film)
    image = Image(np.zeros((3, 8, 12, 3), np.uint8), mask.geometry, has_channels=True)
    with pytest.raises(InputError, match="one value a voxel"):
        ObjectIndex(mask, image)


def test_a_case_that_starts_empty_is_followed_from_its_first_stroke():
    empty = replace(bar(), data=np.zeros((3, 8, 12), np.uint8), labels=LabelTable())
    case, index = following(empty)
    assert list(index) == []
    case.paint((1, 3, 3), radius_mm=2, label="lesion")
    (row,) = index
    assert (row.name, row.status, row.added) == ("lesion", "new", row.measured.size)
    case.undo()
    assert list(index) == []
    assert index.lost == (0, 0.0)


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.uint16, np.uint32, np.uint64])
def test_runs_of_a_nearly_empty_stack_are_those_of_the_long_way(kind, monkeypatch):
    rng = np.random.default_rng(0)
    for shape in ((3, 5, 16), (1, 9, 8), (2, 4, 6), (7, 8, 1)):
        ids = (rng.integers(1, 4, shape) * (rng.random(shape) < 0.1)).astype(kind)
        found, expected = sparse(ids), Runs.of(ids, shape)
        if found is None:
            monkeypatch.setattr("maskloop.ops.runs._SPARSE", 1)
            found = sparse(ids)
        assert found is not None
        for one, other in (
            (found.starts, expected.starts),
            (found.stops, expected.stops),
            (found.owners, expected.owners),
        ):
            np.testing.assert_array_equal(one, other)


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_pieces_joined_from_runs_are_those_found_voxel_by_voxel(seed):
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 9, 3))
    region = (rng.random(shape) < rng.random()).astype(np.uint8)
    pieces = connected_runs(Runs.of(region, shape), shape)
    drawn = pieces.drawn(shape, tuple(slice(0, n) for n in shape))
    found, count = ndimage.label(region, np.ones((3, 3, 3)))
    pairs = set(zip(drawn.ravel().tolist(), found.ravel().tolist(), strict=True))
    assert len({a for a, _ in pairs if a}) == len({p for p in pairs if p[0]}) == count

"""The live table equals a fresh measurement after every change, and follows numbers and drafts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskloop.core.case import Case
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.ops import components
from maskloop.ops.measure import measure
from maskloop.ops.objects import ObjectIndex

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

"""Image, Mask and the label table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskloop.core.errors import GeometryError, InputError, UnknownNameError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image, stem_of
from maskloop.core.labels import Label, LabelTable, colour_of
from maskloop.core.mask import Mask, as_ids, present_ids

GRID = Geometry.regular((2, 3, 4), (1, 1, 1))
IMAGE = Image(np.zeros((2, 3, 4), np.int16), GRID)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([True, False]), np.uint8),
        (np.array([0, 1, 2, 255], np.int64), np.uint8),
        (np.array([0, 300], np.int32), np.uint16),
        (np.array([0, 70000], np.int64), np.uint32),
        (np.array([0.0, 2.0]), np.uint8),
    ],
)
def test_ids_get_the_narrowest_unsigned_type(values: np.ndarray, dtype: type) -> None:
    found = as_ids(values)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    "values", [np.array([-1, 0]), np.array([0.5]), np.array([np.nan]), np.array(["a"])]
)
def test_negative_broken_or_textual_ids_are_refused(values: np.ndarray) -> None:
    with pytest.raises(InputError, match="expected"):
        as_ids(values)


@given(st.lists(st.integers(0, 70000), max_size=30))
def test_present_ids_are_the_unique_values_without_background(values: list[int]) -> None:
    ids = as_ids(np.array(values, dtype=np.int64).reshape(1, -1))
    assert present_ids(ids) == sorted(set(values) - {0})


def test_like_refuses_a_foreign_grid() -> None:
    with pytest.raises(GeometryError, match="choose its own image"):
        Mask.like(IMAGE, np.zeros((2, 3, 5), np.uint8), {1: "liver"})


def test_require_on_says_how_far_and_where() -> None:
    moved = GRID.affine.copy()
    moved[2, 3] = 5
    mask = Mask(np.zeros(GRID.shape, np.uint8), Geometry(GRID.shape, moved), LabelTable())
    with pytest.raises(GeometryError, match=r"5 mm away.*resample"):
        mask.require_on(IMAGE)


def test_checked_adds_a_row_for_each_unnamed_id() -> None:
    ids = np.zeros(GRID.shape, np.uint8)
    ids[0, 0, :3] = [1, 2, 3]
    classes = Mask.like(IMAGE, ids, {1: "liver", 2: "tumour"}).checked()
    assert classes.labels.names == {1: "liver", 2: "tumour", 3: "label 3"}
    objects = Mask.like(IMAGE, ids, LabelTable()).checked()
    assert objects.labels[3].category == "object"
    assert objects.labels.kind == "objects"


def test_image_refuses_pixels_off_the_grid() -> None:
    with pytest.raises(InputError, match="choose a frame"):
        Image(np.zeros((5, 2, 3, 4), np.int16), GRID)
    assert Image(np.zeros((5, 2, 3, 4), np.int16), GRID, has_time=True).frames == 5
    assert Image(np.zeros((2, 3, 4, 3), np.uint8), GRID, has_channels=True).channels == 3


def test_frame_and_channel_out_of_range_are_refused() -> None:
    series = Image(np.zeros((5, 2, 3, 4), np.int16), GRID, has_time=True)
    assert series.frame(4).data.shape == GRID.shape
    with pytest.raises(InputError, match="from 0 to 4"):
        series.frame(5)


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.nii.gz", "a"), ("b.c.nii", "b.c"), ("d.SEG.nrrd", "d"), ("e.png", "e"), ("f", "f")],
)
def test_stem_knows_double_suffixes(name: str, stem: str) -> None:
    assert stem_of(Path(name)) == stem


def test_table_survives_json() -> None:
    table = LabelTable(
        [Label(1, "cell 1", category="cell", is_thing=True, score=0.5), Label(7, "x", "#123456")]
    )
    assert LabelTable.from_rows(table.to_rows()) == table


def test_an_unknown_label_lists_the_known_ones() -> None:
    table = LabelTable.classes({1: "liver", 2: "tumour"})
    assert table.id_of("tumour") == table.id_of(2) == table.id_of("2") == 2
    with pytest.raises(UnknownNameError, match="liver"):
        table.id_of("spleen")


def test_a_row_given_twice_or_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="more than once"):
        LabelTable([Label(1, "a"), Label(1, "b")])
    with pytest.raises(InputError, match="background"):
        Label(0, "background")
    with pytest.raises(InputError, match="#rrggbb"):
        Label(1, "a", "red")


def test_colours_are_stable_and_distinct_for_a_hundred_objects() -> None:
    colours = [colour_of(i) for i in range(1, 101)]
    assert len(set(colours)) == 100
    assert colours == [colour_of(i) for i in range(1, 101)]


@pytest.mark.parametrize("value", [np.int64(-1), np.float32(-1)])
def test_ids_below_zero_are_told_as_plain_numbers(value):
    with pytest.raises(InputError, match=r"at least 0, got -1(\.0)?; renumber"):
        as_ids(np.array([value, 3]))

"""Classes of two masks are matched by what they mean, never by their number alone."""

from __future__ import annotations

import numpy as np
import pytest

from maskloop.core.geometry import Geometry
from maskloop.core.labels import Kind, Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.ops.aligned import aligned

IDS = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)


def mask(labels: LabelTable, ids: np.ndarray = IDS, *, unit: str = "px") -> Mask:
    grid = Geometry.pixels(ids.shape)
    return Mask(ids, Geometry(grid.shape, grid.affine, unit), labels)  # type: ignore[arg-type]


def test_classes_are_matched_by_name_in_any_case() -> None:
    a = mask(LabelTable.classes({1: "Liver", 2: "tumour"}))
    b = mask(LabelTable.classes({1: "tumour", 2: "liver"}))
    one, other, classes, notes = aligned(a, b)
    assert classes.names == {1: "Liver", 2: "tumour"}
    assert (one.data == IDS).all()
    assert other.data.tolist() == [[0, 2, 1], [1, 2, 0]]
    assert one.labels == other.labels == classes
    assert notes == []


def test_a_class_of_one_mask_alone_gets_its_own_number() -> None:
    a = mask(LabelTable.classes({1: "liver", 2: "tumour"}))
    b = mask(LabelTable.classes({1: "liver", 2: "vessel"}))
    _, other, classes, _ = aligned(a, b)
    assert classes.names == {1: "liver", 2: "tumour", 3: "vessel"}
    assert other.data.max() == 3


def test_objects_are_their_category() -> None:
    a = mask(LabelTable.objects((1, 2), "nucleus"))
    b = mask(LabelTable.classes({1: "nucleus", 2: "debris"}))
    one, other, classes, _ = aligned(a, b)
    assert classes.names == {1: "nucleus", 2: "debris"}
    assert one.data.max() == 1
    assert (other.data == IDS).all()


def test_the_single_class_of_each_is_matched_and_said() -> None:
    a = mask(LabelTable.objects((1, 2), "nucleus"))
    b = mask(LabelTable.classes({1: "nuclei"}), np.minimum(IDS, 1))
    one, other, classes, notes = aligned(a, b)
    assert classes.names == {1: "nucleus"}
    assert one.data.max() == other.data.max() == 1
    assert notes == ["'nuclei' is taken for 'nucleus': each mask has one class only"]


@pytest.mark.parametrize(
    ("unit", "kind", "names"),
    [
        ("px", None, {1: "object"}),
        ("mm", None, {1: "label 1", 2: "label 2"}),
        ("px", "classes", {1: "label 1", 2: "label 2"}),
        ("mm", "objects", {1: "object"}),
    ],
)
def test_nameless_ids_are_what_their_grid_or_the_person_says(
    unit: str, kind: Kind | None, names: dict[int, str]
) -> None:
    a = mask(LabelTable.objects((1, 2)), unit=unit)
    assert aligned(a, a, kind)[2].names == names


def test_nameless_ids_take_the_names_of_the_other_mask() -> None:
    a = mask(LabelTable.objects((1, 2)))
    b = mask(LabelTable.classes({1: "liver", 2: "tumour"}))
    one, other, classes, _ = aligned(a, b)
    assert classes.names == {1: "liver", 2: "tumour"}
    assert (one.data == other.data).all()


def test_what_either_ignores_is_left_out_of_both() -> None:
    a = mask(LabelTable([Label(1, "liver"), Label(2, "unsure", ignore=True)]))
    b = mask(LabelTable.classes({1: "liver"}), np.ones_like(IDS))
    one, other, classes, _ = aligned(a, b)
    assert classes.names == {1: "liver"}
    assert not one.data[IDS == 2].any()
    assert not other.data[IDS == 2].any()
    assert other.data[IDS == 0].all()
    assert (b.data == 1).all()

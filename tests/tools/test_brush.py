from __future__ import annotations

import numpy as np
import pytest

from maskloop.core.case import Case
from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.core.parameters import Points
from maskloop.loop.correct import correct
from maskloop.tools.brush import brush
from maskloop.tools.paint_range import paint_range

SPACING = (5.0, 1.0, 0.7)


def mask_of(ids: np.ndarray, locked: bool = False) -> Mask:
    grid = Geometry.regular(ids.shape, SPACING) if ids.ndim == 3 else Geometry.pixels(ids.shape)
    labels = LabelTable([Label(1, "liver"), Label(2, "vessel", locked=locked)])
    return Mask.like(Image(np.zeros(ids.shape, np.int16), grid), ids, labels)


def distance_to(shape: tuple[int, ...], spacing: tuple[float, ...], a, b) -> np.ndarray:
    """Distances to a straight line, by the nearest of many points on it."""
    voxels = np.stack(np.indices(shape), axis=-1) * np.asarray(spacing)
    points = [np.asarray(a) + (np.asarray(b) - np.asarray(a)) * t for t in np.linspace(0, 1, 2001)]
    away = np.full(shape, np.inf)
    for point in points:
        away = np.minimum(away, np.linalg.norm(voxels - point * np.asarray(spacing), axis=-1))
    return away


def test_a_dab_is_the_ball_of_the_radius_on_unequal_spacing():
    found = brush(mask_of(np.zeros((9, 41, 41), np.uint8)), label=1, path=((4, 20, 20),), radius=10)
    z, y, x = np.indices(found.shape)
    away = ((z - 4) * 5.0) ** 2 + ((y - 20) * 1.0) ** 2 + ((x - 20) * 0.7) ** 2
    assert np.array_equal(found == 1, away <= 100)


@pytest.mark.parametrize(
    ("shape", "spacing", "a", "b"),
    [((7, 30, 40), SPACING, (2, 6, 5), (5, 22.5, 33)), ((40, 50), (1.0, 1.0), (8, 9), (33, 41.5))],
)
def test_a_stroke_is_all_that_lies_within_the_radius_of_its_line(shape, spacing, a, b):
    found = brush(mask_of(np.zeros(shape, np.uint8)), label=1, path=Points([a, b]), radius=4.0)
    away = distance_to(shape, spacing, a, b)
    sure = np.abs(away - 4.0) > 0.01  # the line above is a chain of points
    assert np.array_equal((found == 1)[sure], (away <= 4.0)[sure])


def test_a_disc_stays_on_its_slice_and_is_round_in_millimetres():
    mask = mask_of(np.zeros((9, 41, 41), np.uint8))
    path = Points([(4.2, 20, 15), (4.2, 20, 15)])
    found = brush(mask, label=1, path=path, radius=7.0, form="disc", axis="x")

    away = ((np.arange(9)[:, None] - 4.2) * 5.0) ** 2 + ((np.arange(41)[None] - 20) * 1.0) ** 2
    expected = away <= 49
    assert np.array_equal(found[:, :, 15] == 1, expected)
    assert (found.sum(axis=(0, 1)) > 0).sum() == 1


def test_the_voxel_under_the_brush_is_painted_however_small_the_radius():
    found = brush(
        mask_of(np.zeros((9, 9, 9), np.uint8)), label=1, path=((4.3, 4.4, 3.6),), radius=0
    )
    assert found[4, 4, 4] == 1
    assert found.sum() == 1


def test_it_is_the_dab_of_the_python_interface():
    mask = mask_of(np.zeros((9, 41, 41), np.uint8))
    case = Case.in_memory(mask)
    case.paint((4.3, 20.2, 17.9), radius_mm=6.5, label="liver")
    found = brush(mask, label=1, path=((4.3, 20.2, 17.9),), radius=6.5)
    assert np.array_equal(found, case.mask.data)


def test_it_paints_over_other_labels_but_never_over_locked_ones():
    ids = np.zeros((20, 20), np.uint8)
    ids[:, 10:] = 2
    path = ((10, 5), (10, 15))
    assert (brush(mask_of(ids), label=1, path=path, radius=1)[10, 10:15] == 1).all()
    assert (brush(mask_of(ids, locked=True), label=1, path=path, radius=1)[:, 10:] == 2).all()
    assert (brush(mask_of(ids), label=1, path=path, radius=1, over="background") == 2).sum() == 200


def test_erasing_takes_its_own_label_only():
    ids = np.zeros((20, 20), np.uint8)
    ids[5:15, :10], ids[5:15, 10:] = 1, 2
    found = brush(mask_of(ids), label=1, path=((10, 2), (10, 18)), radius=3, erase=True)
    assert (found == 2).sum() == (ids == 2).sum()
    assert (found[8:13, 2:10] == 0).all()
    assert (found[5] == ids[5]).all()


def test_a_stroke_is_one_step_of_the_person_that_can_be_undone():
    mask = mask_of(np.zeros((9, 30, 30), np.uint8))
    case = Case.in_memory(mask, author="Ada")
    done = correct(case, "brush", label=1, parameters={"path": "4,10,10 4,20,20", "radius": 5})
    assert done.edit.kind == "person"
    assert case.hand().sum() == done.edit.voxels == (case.mask.data == 1).sum() > 0
    case.undo()
    assert not case.mask.data.any()
    case.redo()
    assert np.array_equal(case.mask.data, done.mask.data)


def test_painting_in_a_range_is_the_stroke_where_the_intensity_lies_in_it():
    rng = np.random.default_rng(0)
    pixels = rng.integers(-100, 200, (9, 30, 30)).astype(np.int16)
    mask = mask_of(np.zeros(pixels.shape, np.uint8))
    image = Image(pixels, mask.geometry)
    path = Points([(4, 10, 10), (4, 20, 20)])
    stroke = brush(mask, label=1, path=path, radius=6) == 1
    found = paint_range(mask, image, label=1, path=path, radius=6, lower=-10, upper=90) == 1
    assert np.array_equal(found, stroke & (pixels >= -10) & (pixels <= 90))


@pytest.mark.parametrize("values", [{"path": None, "lower": 1.0}, {"lower": None}])
def test_what_is_missing_is_told(values):
    mask = mask_of(np.zeros((9, 30, 30), np.uint8))
    image = Image(np.zeros((9, 30, 30), np.int16), mask.geometry)
    with pytest.raises(InputError, match=r"expected .*, got .*; (draw|give)"):
        paint_range(mask, image, label=1, **{"path": ((4, 4, 4),), **values})


def test_a_disc_needs_one_slice():
    mask = mask_of(np.zeros((9, 30, 30), np.uint8))
    with pytest.raises(InputError, match="positions on one slice"):
        brush(mask, label=1, path=((1, 2, 3), (4, 5, 6)), form="disc")

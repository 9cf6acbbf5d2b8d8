"""The two tools that draw from scribbles and seeds: walker and seeds."""

from __future__ import annotations

import time

import numpy as np
import pytest

from maskloop.core.case import Case
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.loop.correct import correct
from maskloop.ops.scores import dice
from maskloop.tools.seeds import seeds
from maskloop.tools.walker import walker

SPACING = (2.5, 1.0, 1.0)
SHAPE = (32, 80, 80)


def ball(centre: tuple[float, ...], radius: float, shape=SHAPE, spacing=SPACING) -> np.ndarray:
    offset = np.indices(shape) - np.array(centre).reshape(-1, *[1] * len(shape))
    scaled = offset * np.array(spacing).reshape(-1, *[1] * len(shape))
    return np.linalg.norm(scaled, axis=0) <= radius


def scene(noise: float = 15.0) -> tuple[Image, Mask, np.ndarray]:
    """A ball of 60 in 110, with a scribble (1) in it and one (2) beside it."""
    true = ball((16, 40, 40), 20)
    rng = np.random.default_rng(0)
    pixels = np.where(true, 60, 110) + rng.normal(0, noise, SHAPE)
    image = Image(pixels.astype(np.int16), Geometry.regular(SHAPE, SPACING))
    ids = np.zeros(SHAPE, np.uint8)
    ids[16, 38:42, 27:53] = 1
    ids[16, 10:14, 20:60] = 2
    labels = LabelTable([Label(1, "lesion"), Label(2, "liver")])
    return image, Mask.like(image, ids, labels), true


@pytest.mark.parametrize("method", ["cut", "walker"])
def test_a_ball_is_found_from_a_scribble_in_it_and_one_beside_it(method):
    image, mask, true = scene(noise=15.0 if method == "cut" else 5.0)
    found = walker(mask, image, label=1, method=method, within=30.0)
    assert dice(found == 1, true) > 0.95
    assert np.array_equal(found == 2, mask.data == 2)


def test_it_works_in_a_picture():
    true = ball((40, 40), 20, (80, 80), (1.0, 1.0))
    pixels = np.where(true, 60, 110) + np.random.default_rng(0).normal(0, 10, true.shape)
    image = Image(pixels, Geometry.pixels(true.shape))
    ids = np.zeros(true.shape, np.uint8)
    ids[38:42, 27:53], ids[5:9, 20:60] = 1, 2
    mask = Mask.like(image, ids, LabelTable.classes(["cell", "rest"]))
    for tool in (walker, seeds):
        assert dice(tool(mask, image, label=1, within=25.0) == 1, true) > 0.97


def test_a_draft_is_drawn_anew_from_what_a_person_painted():
    image, mask, true = scene()
    case = Case.in_memory(mask, author="Ada")
    wrong = case.mask.data.copy()
    wrong[ball((10, 60, 60), 12)] = 1  # a model's mistake
    wrong[:2, :5, :5] = 1  # another lesion
    wrong[16, 38:42, 27:53] = 0
    case.change(wrong, tool="predict", kind="model", words="draft")
    painted = case.mask.data.copy()
    painted[16, 38:42, 27:53] = 1
    case.change(painted, tool="brush", kind="person", words="brush")
    done = correct(case, "walker", image=image, label=1, parameters={"within": 30})
    assert (case.mask.data[:2, :5, :5] == 1).all()
    assert dice(case.mask.data[4:] == 1, true[4:]) > 0.95
    assert (case.mask.data[16, 38:42, 27:53] == 1).all()
    case.undo()
    assert np.array_equal(case.mask.data, painted)
    assert done.edit.kind == "tool"


def test_points_outside_keep_a_like_neighbour_out():
    true, neighbour = ball((16, 40, 25), 12), ball((16, 40, 52), 12)
    pixels = np.where(true | neighbour, 60, 110)
    pixels[:, :, 37:40] = 60  # a bridge
    image = Image(pixels.astype(np.int16), Geometry.regular(SHAPE, SPACING))
    ids = np.zeros(SHAPE, np.uint8)
    ids[16, 38:42, 18:32] = 1
    mask = Mask.like(image, ids, ["lesion"])
    point = ((16, 40, 52), (16, 40, 46), (16, 40, 58))
    free = walker(mask, image, label=1, method="walker")
    held = walker(mask, image, label=1, method="walker", outside=point)
    assert dice(held == 1, true) > dice(free == 1, true)
    assert not (held == 1)[ball((16, 40, 52), 3)].any()


def test_seeds_meet_where_the_image_has_its_edge():
    image, mask, true = scene(noise=8.0)
    ids = mask.data.copy()
    ids[16, 66:70, 20:60] = 2
    found = seeds(Mask(ids, mask.geometry, mask.labels), image, label=1, within=60.0)
    assert dice(found == 1, true) > 0.95
    assert ((found == 2) == ~true).mean() > 0.98
    assert (found[ids == 2] == 2).all()


def test_only_this_label_grows_where_asked_for_and_a_rest_label_never_does():
    image, mask, true = scene(noise=8.0)
    alone = seeds(mask, image, label=1, within=30.0, which="this")
    assert np.array_equal(alone == 2, mask.data == 2)
    assert dice(alone == 1, true) > 0.93
    rest = seeds(mask, image, label=1, within=30.0, rest="liver")
    assert np.array_equal(rest == 2, mask.data == 2)
    assert dice(rest == 1, true) > 0.93


def test_locked_labels_compete_and_stay():
    image, mask, _ = scene()
    labels = LabelTable([Label(1, "lesion"), Label(2, "liver", locked=True)])
    found = seeds(Mask(mask.data, mask.geometry, labels), image, label=1, within=30.0)
    assert np.array_equal(found == 2, mask.data == 2)


def test_a_cube_of_128_is_answered_in_a_moment():
    shape = (128, 128, 128)
    true = ball((64, 64, 60), 35, shape, (1.0, 1.0, 1.0))
    pixels = np.where(true, 60, 110) + np.random.default_rng(0).normal(0, 15, shape)
    image = Image(pixels.astype(np.int16), Geometry.regular(shape, (1.0, 1.0, 1.0)))
    ids = np.zeros(shape, np.uint8)
    ids[64, 60:68, 40:80], ids[64, 20:24, 20:100] = 1, 2
    mask = Mask.like(image, ids, ["lesion", "liver"])
    for tool in (walker, seeds):
        tool(mask, image, label=1, within=60.0)
        begun = time.process_time()
        found = tool(mask, image, label=1, within=60.0)
        # Ten times what a quiet machine takes; the benchmark has the figures.
        assert time.process_time() - begun < 5
        assert dice(found == 1, true) > 0.95

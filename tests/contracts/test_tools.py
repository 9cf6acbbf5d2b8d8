"""What every tool on the shelf promises, ours and other packages'."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest

from maskloop.core.edits import Edit
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.core.parameters import checked_values, parameters_of
from maskloop.loop.correct import correct
from maskloop.tools import TOOLS

NAMES = list(TOOLS)
NEEDED = {"threshold": {"lower": 40.0, "where": "both"}}


def scene(ndim: int) -> tuple[Image, Mask]:
    """Three labels that touch: 1 ragged with a hole and an island, 2 beside it, 3 locked inside."""
    rng = np.random.default_rng(ndim)
    shape = (14, 32, 30)[-ndim:]
    grid = np.indices(shape)
    inner = np.zeros(shape, dtype=bool)
    inner[tuple(slice(4, n - 6) for n in shape)] = True
    ids = np.where(inner & (rng.random(shape) < 0.9), 1, 0).astype(np.uint8)
    ids[(grid[-1] > 18) & inner] = 2
    ids[(grid[-2] < 9) & inner] = 3
    ids[(0,) * ndim] = ids[(-1,) * ndim] = 1
    pixels = rng.integers(0, 100, shape).astype(np.int16)
    geometry = Geometry.regular(shape, (3.0, 1.0, 0.8)) if ndim == 3 else Geometry.pixels(shape)
    image = Image(pixels, geometry)
    labels = LabelTable([Label(1, "liver"), Label(2, "tumour"), Label(3, "vessel", locked=True)])
    return image, Mask.like(image, ids, labels)


def values_of(name: str, **changed: object) -> dict[str, object]:
    given = {**NEEDED.get(name, {}), **changed}
    return checked_values(parameters_of(TOOLS.get(name)), given, of=name)


def variants(name: str) -> list[dict[str, object]]:
    """The defaults, then each choice and each switch of the tool once."""
    found = [values_of(name)]
    for parameter in parameters_of(TOOLS.get(name)):
        others = parameter.choices or ((True, False) if parameter.type is bool else ())
        found += [values_of(name, **{parameter.name: other}) for other in others]
    return found


CASES = [
    pytest.param(name, ndim, values, id=f"{name}-{ndim}d-{number}")
    for name in NAMES
    for ndim in (2, 3)
    for number, values in enumerate(variants(name))
]


@pytest.mark.parametrize(("name", "ndim", "values"), CASES)
def test_only_its_own_label_and_background_change_and_the_input_never(name, ndim, values):
    image, mask = scene(ndim)
    before, pixels = mask.data.copy(), image.data.copy()
    ids = TOOLS.get(name)(mask, image, label=1, **values)
    assert np.array_equal(mask.data, before)
    assert np.array_equal(image.data, pixels)
    assert ids is not mask.data
    assert not np.shares_memory(ids, mask.data)
    assert ids.shape == before.shape
    assert ids.dtype.kind == "u"
    changed = ids != before
    assert set(np.unique(before[changed])) <= {0, 1}
    assert 3 not in ids[changed]


@pytest.mark.parametrize(("name", "ndim", "values"), CASES)
def test_the_step_can_be_undone_and_made_again(name, ndim, values):
    image, mask = scene(ndim)
    done = correct(mask, name, image=image, label="liver", parameters=values)
    ids = mask.data.astype(done.mask.data.dtype)
    done.edit.apply(ids)
    assert np.array_equal(ids, done.mask.data)
    done.edit.revert(ids)
    assert np.array_equal(ids, mask.data)
    assert dict(done.edit.table_before(done.mask.labels)) == dict(mask.labels)
    assert set(done.mask.ids()) <= set(done.mask.labels)
    assert done.edit.tool == name
    assert done.notes


@pytest.mark.parametrize(("name", "ndim", "values"), CASES)
def test_the_same_input_gives_the_same_mask(name, ndim, values):
    image, mask = scene(ndim)
    function = TOOLS.get(name)
    one = function(mask, image, label=1, **values)
    assert np.array_equal(one, function(mask, image, label=1, **values))


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_background_far_away_makes_no_difference(name, ndim):
    # Working in the label's box must not show: the same label in a larger field gives the same.
    image, mask = scene(ndim)
    ids = mask.data.copy()
    ids[(0,) * ndim] = ids[(-1,) * ndim] = 0
    function, values = TOOLS.get(name), values_of(name)

    def run(width: int) -> np.ndarray:
        pads = [(width, width)] * ndim
        wide = np.pad(ids, pads)
        grid = image.geometry.padded([width] * ndim, [width] * ndim)
        on = Image(np.pad(image.data, pads, mode="edge"), grid)
        return function(replace(mask, data=wide, geometry=grid), on, label=1, **values)

    inner = tuple(slice(10, -10) for _ in range(ndim))
    outer = tuple(slice(25, -25) for _ in range(ndim))
    assert np.array_equal(run(20)[inner], run(35)[outer])


@pytest.mark.parametrize("name", NAMES)
def test_a_label_without_voxels_changes_nothing(name):
    image, mask = scene(3)
    ids = TOOLS.get(name)(mask, image, label=9, **values_of(name))
    assert np.array_equal(ids, mask.data)


@pytest.mark.parametrize("name", NAMES)
def test_a_label_that_fills_the_field_is_no_surprise(name):
    image, mask = scene(3)
    full = replace(mask, data=np.ones_like(mask.data))
    ids = TOOLS.get(name)(full, image, label=1, **values_of(name))
    assert set(np.unique(ids)) <= {0, 1}


@pytest.mark.parametrize("name", NAMES)
def test_each_time_point_is_corrected_on_its_own(name):
    image, mask = scene(2)
    moving = np.stack([mask.data, mask.data[::-1, ::-1], np.zeros_like(mask.data)])
    film = Image(
        np.stack([image.data, image.data[::-1, ::-1], image.data]), image.geometry, has_time=True
    )
    done = correct(
        replace(mask, data=moving), name, image=film, label=1, parameters=NEEDED.get(name)
    )
    alone = correct(mask, name, image=image, label=1, parameters=NEEDED.get(name))
    assert np.array_equal(done.mask.data[0], alone.mask.data)
    assert not done.mask.data[2].any()


@pytest.mark.parametrize("name", NAMES)
def test_its_signature_makes_a_form_and_flags(name):
    function = TOOLS.get(name)
    assert function.__name__ == name
    signature = inspect.signature(function).parameters
    assert list(signature)[:3] == ["mask", "image", "label"]
    assert all(part.kind is part.KEYWORD_ONLY for part in list(signature.values())[2:])
    parameters = parameters_of(function)
    assert parameters
    for parameter in parameters:
        assert parameter.label, parameter.name
        assert len(parameter.help) > 10, parameter.name
        assert not parameter.is_required, parameter.name
        if parameter.type in (int, float) and not parameter.is_optional:
            assert parameter.minimum is not None, parameter.name
            assert parameter.maximum is not None, parameter.name
        if not parameter.is_optional:
            assert parameter.checked(parameter.default) == parameter.default


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_does(name):
    function = TOOLS.get(name)
    text = inspect.getdoc(function) or ""
    assert text.splitlines()[0].endswith(".")
    for parameter in parameters_of(function):
        assert parameter.name in text, parameter.name


def test_the_edit_of_a_tool_knows_who_and_what():
    image, mask = scene(3)
    edit = correct(mask, "grow", image=image, label=1, author="Ada").edit
    assert (edit.tool, edit.author, edit.words) == ("grow", "Ada", "grow: liver")
    assert isinstance(edit, Edit)

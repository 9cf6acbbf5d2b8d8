"""What every tool on the shelf promises, ours and other packages'."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest

from maskloop.cli import commands
from maskloop.core.edits import Edit
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.core.parameters import Points, checked_values, parameters_of
from maskloop.loop.correct import correct
from maskloop.tools import TOOLS
from maskloop.tools.base import Traits, traits_of
from maskloop.tools.work import work_on

NAMES = list(TOOLS)
# What a person must give; points are those of the volume, a picture's are without the first axis.
NEEDED: dict[str, dict[str, object]] = {
    "threshold": {"lower": 40.0, "where": "both"},
    "logic": {"other": "tumour", "margin": 2.0},
    "merge": {"other": "tumour", "gap": 2.0},
    "relabel": {"becomes": "tumour"},
    "copy_slice": {"at": ((6.0, 15.0, 14.0),), "slices": 2},
    "brush": {"path": ((6.0, 12.0, 10.0), (6.0, 18.5, 21.0)), "radius": 3.5},
    "paint_range": {"path": ((6.0, 12.0, 10.0), (6.0, 18.5, 21.0)), "lower": 30.0},
    "scissors": {"outline": ((6.0, 6.0, 8.0), (6.0, 20.0, 12.0), (6.0, 14.0, 26.0))},
    "livewire": {"anchors": ((6.0, 8.0, 9.0), (6.0, 20.0, 12.0), (6.0, 14.0, 22.0))},
    "region": {"points": ((6.0, 15.0, 14.0), (6.0, 12.0, 20.0)), "lower": 20.0, "within": 9.0},
    "walker": {"within": 8.0},  # less than the field is widened by
    "lesion": {"line": ((6.0, 13.0, 10.0), (6.0, 17.0, 20.0))},
}
# Options that no default and no choice reaches.
MORE: dict[str, tuple[dict[str, object], ...]] = {
    "grow": ({"margin": -1.5},),
    "holes": ({"largest": 40.0, "across": "slices", "axis": "x"},),
    "relabel": ({"becomes": None, "at": ((6.0, 15.0, 14.0),)},),
    "delete": ({"at": ((6.0, 15.0, 14.0),)},),
    "split": ({"parts": 3}, {"distance": 1.0, "neck": 1.0}, {"at": ((6.0, 15.0, 14.0),)}),
    "interpolate": ({"every": 3}, {"every": 2, "axis": "y", "longest": 30.0}),
    "smooth": tuple({"method": m, "radius": 1.2} for m in ("median", "gaussian", "joint")),
    "copy_slice": (
        {"slices": -2, "axis": "y", "adjust": True, "existing": "replace"},
        {"adjust": True, "share": 50.0, "what": "piece"},
    ),
    "logic": tuple({"operation": o, "margin": -1.0} for o in ("add", "intersect", "copy")),
    "merge": ({"touching": True, "gap": 0.0},),
    "brush": ({"erase": True, "form": "disc", "axis": "z"}, {"path": ((6.0, 9.0, 9.0),) * 2}),
    "paint_range": ({"upper": 50.0, "lower": None, "form": "disc", "over": "background"},),
    "scissors": tuple(
        {"what": w, "through": t}
        for w in ("erase outside", "fill inside")
        for t in ("depth", "all slices")
    ),
    "livewire": (
        {"mode": "level", "anchors": ((6.0, 8.4, 9.6),), "within": 6.0, "blur": 0.0},
        {"within": 4.0, "snap": 0.0},
    ),
    "region": (
        {"lower": None, "spread": 1.5, "blur": 1.0},
        {"seal": 1.0, "within": 6.0, "fill": False, "touching": "corners"},
    ),
    "seeds": ({"within": 4.0, "which": "this"}, {"rest": "tumour", "within": 6.0, "blur": 0.0}),
    "walker": (
        {"within": 6.0, "outside": ((6.0, 3.0, 3.0),)},
        {"within": 5.0, "method": "walker", "contrast": 30.0},
    ),
    "lesion": ({"line": ((6.0, 10.0, 14.0), (6.0, 12.0, 14.5))},),
}


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
    if ndim == 3:
        ids[5][ids[5] == 1] = 0  # a gap to fill
    ids[(0,) * ndim] = ids[(-1,) * ndim] = 1
    pixels = rng.integers(0, 100, shape).astype(np.int16)
    geometry = Geometry.regular(shape, (3.0, 1.0, 0.8)) if ndim == 3 else Geometry.pixels(shape)
    image = Image(pixels, geometry)
    labels = LabelTable([Label(1, "liver"), Label(2, "tumour"), Label(3, "vessel", locked=True)])
    return image, Mask.like(image, ids, labels)


def values_of(name: str, ndim: int = 3, **changed: object) -> dict[str, object]:
    given = {**NEEDED.get(name, {}), **changed}
    for parameter in parameters_of(TOOLS.get(name)):
        if parameter.type is Points and given.get(parameter.name) is not None:
            given[parameter.name] = [point[-ndim:] for point in given[parameter.name]]
    return checked_values(parameters_of(TOOLS.get(name)), given, of=name)


def variants(name: str, ndim: int) -> list[dict[str, object]]:
    """The defaults, each choice and each switch of the tool once, and what more there is."""
    found = [values_of(name, ndim)]
    for parameter in parameters_of(TOOLS.get(name)):
        others = parameter.choices or ((True, False) if parameter.type is bool else ())
        found += [values_of(name, ndim, **{parameter.name: other}) for other in others]
    return found + [values_of(name, ndim, **more) for more in MORE.get(name, ())]


def traits(name: str) -> Traits:
    return traits_of(TOOLS.get(name))


CASES = [
    pytest.param(name, ndim, values, id=f"{name}-{ndim}d-{number}")
    for name in NAMES
    for ndim in (2, 3)
    for number, values in enumerate(variants(name, ndim))
]


@pytest.mark.parametrize(("name", "ndim", "values"), CASES)
def test_it_changes_what_its_traits_allow_never_locked_labels_and_never_its_input(
    name, ndim, values
):
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
    assert set(np.unique(before[changed])) <= ({0, 1, 2} if traits(name).others else {0, 1})
    assert 3 not in ids[changed]


@pytest.mark.parametrize(("name", "ndim", "values"), CASES)
def test_cut_to_the_box_it_reaches_it_gives_the_answer_of_the_whole_mask(name, ndim, values):
    image, mask = scene(ndim)
    mask = widened(mask, ndim)
    image = Image(
        np.pad(image.data, [(WIDE, WIDE)] * ndim, mode="reflect", reflect_type="odd"), mask.geometry
    )
    values = moved(name, values, [WIDE] * ndim)
    function = TOOLS.get(name)
    options = parameters_of(function)
    work = work_on(name, function, mask, image=image, label=1, parameters=options, values=values)
    result = work.run()
    whole = function(mask, image, label=1, **values)
    assert np.array_equal(result.ids, whole[result.box])
    rest = whole.copy()
    rest[result.box] = mask.data[result.box]
    assert np.array_equal(rest, mask.data)


WIDE = 25


def widened(mask: Mask, ndim: int) -> Mask:
    """The mask in a larger field, with more of the other labels far away."""
    ids = mask.data.copy()
    ids[(0,) * ndim] = ids[(-1,) * ndim] = 0
    ids = np.pad(ids, [(WIDE, WIDE)] * ndim)
    ids[(slice(1, 3),) * ndim] = 2
    ids[(slice(-3, -1),) * ndim] = 3
    return replace(mask, data=ids, geometry=mask.geometry.padded([WIDE] * ndim, [WIDE] * ndim))


def moved(name: str, values: dict[str, object], by: list[int]) -> dict[str, object]:
    found = dict(values)
    for parameter in parameters_of(TOOLS.get(name)):
        value = values[parameter.name]
        if isinstance(value, Points):
            found[parameter.name] = value.moved(by)
    return found


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
    function, given = TOOLS.get(name), values_of(name, ndim)

    def run(width: int) -> np.ndarray:
        values = moved(name, given, [width] * ndim)
        pads = [(width, width)] * ndim
        wide = np.pad(ids, pads)
        grid = image.geometry.padded([width] * ndim, [width] * ndim)
        on = Image(np.pad(image.data, pads, mode="edge"), grid)
        return function(replace(mask, data=wide, geometry=grid), on, label=1, **values)

    inner = tuple(slice(10, -10) for _ in range(ndim))
    outer = tuple(slice(25, -25) for _ in range(ndim))
    assert np.array_equal(run(20)[inner], run(35)[outer])


@pytest.mark.parametrize("name", NAMES)
def test_a_label_without_voxels_changes_nothing_unless_the_tool_may_start_it(name):
    image, mask = scene(3)
    if traits(name).starts_empty:
        return
    ids = TOOLS.get(name)(mask, image, label=9, **values_of(name))
    assert np.array_equal(ids, mask.data)


@pytest.mark.parametrize("name", NAMES)
def test_a_label_that_fills_the_field_is_no_surprise(name):
    image, mask = scene(3)
    full = replace(mask, data=np.ones_like(mask.data))
    ids = TOOLS.get(name)(full, image, label=1, **values_of(name))
    assert ids.max() in (0, 1) or name == "relabel"


@pytest.mark.parametrize("name", NAMES)
def test_each_time_point_is_corrected_on_its_own(name):
    image, mask = scene(2)
    moving = np.stack([mask.data, mask.data[::-1, ::-1], np.zeros_like(mask.data)])
    film = Image(
        np.stack([image.data, image.data[::-1, ::-1], image.data]), image.geometry, has_time=True
    )
    values = values_of(name, 2)
    done = correct(replace(mask, data=moving), name, image=film, label=1, parameters=values)
    alone = correct(mask, name, image=image, label=1, parameters=values)
    assert np.array_equal(done.mask.data[0], alone.mask.data)
    assert traits(name).starts_empty or not done.mask.data[2].any()


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
def test_its_options_are_no_flags_of_the_command_itself(name):
    flags = {flag for option in commands.commands["correct"].params for flag in option.opts}
    for parameter in parameters_of(TOOLS.get(name)):
        assert f"--{parameter.name.replace('_', '-')}" not in flags, parameter.name


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_does(name):
    function = TOOLS.get(name)
    text = inspect.getdoc(function) or ""
    assert text.splitlines()[0].endswith(".")
    for parameter in parameters_of(function):
        assert parameter.name in text, parameter.name


@pytest.mark.parametrize("name", NAMES)
def test_its_traits_are_true_of_its_signature(name):
    found, parameters = traits(name), parameters_of(TOOLS.get(name))
    kinds = {parameter.type for parameter in parameters}
    assert ("points" not in {*found.needs, *found.around}) or Points in kinds
    assert "labels" not in found.around or any(p.is_label for p in parameters)
    if found.reach is not None:
        assert found.reach({**values_of(name), "spacing": (3.0, 1.0, 0.8)}) >= 0


def test_the_edit_of_a_tool_knows_who_and_what():
    image, mask = scene(3)
    edit = correct(mask, "grow", image=image, label=1, author="Ada").edit
    assert (edit.tool, edit.author, edit.words) == ("grow", "Ada", "grow: liver")
    assert isinstance(edit, Edit)

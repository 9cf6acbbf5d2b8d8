from __future__ import annotations

from typing import Annotated, Literal, Optional

import pytest

from maskloop.core.errors import InputError, UnknownNameError
from maskloop.core.parameters import Parameter, Points, checked_values, parameters_of


def tool(
    mask,
    image=None,
    *,
    label: int,
    size: Annotated[
        float, {"min": 0.5, "max": 20, "label": "size (mm)", "tooltip": "How big."}
    ] = 2.0,
    way: Annotated[Literal["up", "down"], {"label": "way"}] = "up",
    count: Annotated[int, {"min": 1}] = 1,
    keep_largest: bool = True,
    lower: float | None = None,
    upper: Optional[float] = None,  # noqa: UP045  (third parties write it so)
    name: str = "a",
    must: int,
) -> None: ...


def test_a_signature_gives_name_type_default_bounds_and_words_under_postponed_annotations():
    size = parameters_of(tool)[0]
    assert size == Parameter("size", float, 2.0, "size (mm)", 0.5, 20, (), "How big.")


def test_mask_image_and_label_are_no_options():
    names = [p.name for p in parameters_of(tool)]
    assert names == ["size", "way", "count", "keep_largest", "lower", "upper", "name", "must"]


def test_literals_optionals_and_required_ones_are_told_apart():
    by = {p.name: p for p in parameters_of(tool)}
    assert by["way"].choices == ("up", "down")
    assert by["way"].type is str
    assert by["keep_largest"].type is bool
    assert by["keep_largest"].label == "keep largest"
    assert by["lower"].is_optional
    assert by["upper"].is_optional
    assert by["upper"].type is float
    assert by["must"].is_required
    assert not by["name"].is_required


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("size", "3", 3.0),
        ("size", 4, 4.0),
        ("count", "3", 3),
        ("count", 2.0, 2),
        ("keep_largest", "no", False),
        ("lower", None, None),
        ("lower", "-100", -100.0),
        ("way", "down", "down"),
    ],
)
def test_values_come_in_their_type(name, given, expected):
    by = {p.name: p for p in parameters_of(tool)}
    found = by[name].checked(given)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("size", 0.1, "expected size of at least 0.5 at most 20, got 0.1; choose"),
        ("size", "wide", "expected size as float, got 'wide'"),
        ("size", float("nan"), "got nan"),
        ("size", True, "as float, got True"),
        ("size", None, "got None"),
        ("count", 1.5, "expected count as int, got 1.5"),
        ("count", 0, "at least 1, got 0"),
        ("count", float("inf"), "as int, got inf"),
        ("keep_largest", "maybe", "as bool, got 'maybe'"),
        ("way", "left", "one of up, down, got 'left'"),
        ("name", 3, "as str, got 3"),
    ],
)
def test_unusable_values_are_refused_in_three_parts(name, given, words):
    by = {p.name: p for p in parameters_of(tool)}
    with pytest.raises(InputError) as caught:
        by[name].checked(given)
    assert words in str(caught.value)
    assert ";" in str(caught.value)


def test_given_values_are_checked_and_the_rest_are_defaults():
    found = checked_values(parameters_of(tool), {"size": "5", "must": 1}, of="tool")
    assert found["size"] == 5.0
    assert found["way"] == "up"
    assert found["must"] == 1


def test_unknown_and_missing_values_are_named():
    with pytest.raises(
        UnknownNameError, match="parameter of tool, got 'sise'; choose one of: count"
    ):
        checked_values(parameters_of(tool), {"sise": 1}, of="tool")
    with pytest.raises(InputError, match="value for must of tool, got none"):
        checked_values(parameters_of(tool), {}, of="tool")


def test_a_tool_without_types_is_its_authors_mistake():
    def bare(mask, *, label: int, size=1): ...

    def odd(mask, *, label: int, size: list[int]): ...

    with pytest.raises(TypeError, match="expected a type for parameter 'size'"):
        parameters_of(bare)
    with pytest.raises(TypeError, match="expected bool, int, float"):
        parameters_of(odd)


def test_positions_that_are_no_numbers_are_told_as_they_came():
    with pytest.raises(InputError, match=r"expected positions of numbers, got \[\['a', 'b'\]\]"):
        Points.from_text("a,b")

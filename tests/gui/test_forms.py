"""A signature is a form."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest

from maskloop.core.parameters import checked_values, parameters_of
from maskloop.desk.catalogue import list_tools, tool_parameters
from maskloop.gui.forms import Form


def tool(
    mask: object,
    *,
    label: int,
    radius_mm: Annotated[
        float, {"min": 0.5, "max": 20, "label": "radius (mm)", "tooltip": "How far."}
    ] = 2.5,
    passes: Annotated[int, {"min": 1, "max": 4}] = 2,
    way: Literal["grow", "shrink"] = "grow",
    keep: bool = True,
    name: str | None = None,
) -> None: ...


def test_fields_show_defaults_bounds_words_and_tips(qtbot: Any) -> None:
    form = Form(parameters_of(tool))
    qtbot.addWidget(form)
    assert form.values() == {
        "radius_mm": 2.5,
        "passes": 2,
        "way": "grow",
        "keep": True,
        "name": None,
    }
    radius = form.fields["radius_mm"]
    assert (radius.minimum(), radius.maximum(), radius.toolTip()) == (0.5, 20, "How far.")
    radius.setValue(99)
    assert form.values()["radius_mm"] == 20
    form.fields["way"].setCurrentText("shrink")
    assert form.values()["way"] == "shrink"


@pytest.mark.parametrize("name", [row["name"] for row in list_tools()])
def test_every_tools_form_gives_values_that_the_tool_takes(qtbot: Any, name: str) -> None:
    parameters = tool_parameters(name)
    form = Form(parameters)
    qtbot.addWidget(form)
    values = checked_values(parameters, form.values(), of=name)
    for parameter in parameters:
        if not parameter.is_required:
            assert values[parameter.name] == parameter.default
        assert form.fields[parameter.name].toolTip()

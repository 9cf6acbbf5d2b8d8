"""The page of tools names every tool, every option, and whose voxels may change."""

from __future__ import annotations

import re

import pytest

from maskloop.core.parameters import parameters_of
from maskloop.tools import TOOLS
from maskloop.tools.base import traits_of
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "reference" / "tools.md").read_text(encoding="utf-8")
LINES = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| `")]
ROWS = {cells[0].strip(" `"): cells for cells in LINES}


@pytest.mark.parametrize("name", list(TOOLS))
def test_every_tool_is_on_the_page_with_its_options_and_what_it_changes(name):
    assert name in ROWS, f"write a row for {name} in docs/reference/tools.md"
    _, what, options, changes = ROWS[name]
    function = TOOLS.get(name)
    assert what.strip()
    assert re.findall(r"`(\w+)`", options) == [p.name for p in parameters_of(function)]
    found = traits_of(function)
    expected = "others" if found.others else "own"
    assert changes.strip() == (f"{expected}, hand" if found.by_hand else expected)
    paragraph = re.search(rf"^### {name}\n(.+?)(?=\n##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert paragraph is not None, f"write a paragraph on {name}"
    assert len(paragraph[1].split()) > 8


def test_the_page_names_no_tool_that_is_gone():
    assert set(ROWS) == set(TOOLS)
    assert set(re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)) == set(TOOLS)

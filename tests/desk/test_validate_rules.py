"""Every rule of `validate` has a test that breaks it, and stands on the page."""

from __future__ import annotations

from pathlib import Path

from maskloop.datasets.proofs import RULES
from tests.conftest import ROOT

HERE = Path(__file__).parent


def test_every_rule_is_broken_by_a_test():
    text = "".join(
        (HERE / f"test_validate{part}.py").read_text(encoding="utf-8")
        for part in ("", "_panoptic", "_items", "_peers")
    )
    assert [code for code in RULES if f'"{code}"' not in text] == []


def test_the_page_lists_every_rule_with_its_grade():
    page = (ROOT / "docs" / "how-to" / "validate.md").read_text(encoding="utf-8")
    rows = [f"| {r.code} | {r.title} | {r.severity} |" for r in RULES.values()]
    assert [row for row in rows if row not in page] == []
    assert sum(line.startswith("| ") for line in page.splitlines()) == len(rows) + 9


def test_codes_are_keys_and_every_rule_has_a_cure():
    assert all(code == rule.code and rule.title and rule.cure for code, rule in RULES.items())

"""What the pages tell people to type exists, and the generated tables are fresh."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [body for kind, body in FENCE.findall(text) if kind == language]


def commands(page: Path) -> list[list[str]]:
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines]
    found = [words[2:] if words[:2] == ["uv", "run"] else words for words in found]
    return [words[1:] for words in found if words[:1] == ["maskloop"]]


COMMANDS = [pytest.param(c, id=" ".join(c)[:60]) for page in PAGES for c in commands(page)]


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_on_a_page_is_understood(words: list[str]) -> None:
    from maskloop.cli import commands as group

    command: click.Command = group
    context = click.Context(group)
    while isinstance(command, click.Group):
        if command.invoke_without_command and (not words or words[0].startswith("-")):
            break
        name, *words = words
        found = command.get_command(context, name)
        assert found is not None, name
        command = found
    command.make_context(command.name, list(words), parent=context)


def links(page: Path) -> list[str]:
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    return [t for t in targets if "://" not in t]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_on_a_page_leads_somewhere(page: Path) -> None:
    missing = [t for t in links(page) if not (page.parent / t).exists()]
    assert missing == []


def test_the_tables_of_the_readme_are_fresh() -> None:
    outcome = subprocess.run([sys.executable, ROOT / "docs" / "tables.py", "--check"], check=False)
    assert outcome.returncode == 0, "run: make docs"


@pytest.mark.slow
def test_the_tutorial_runs_from_top_to_bottom(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "sample_data", tmp_path / "sample_data")
    for words in commands(ROOT / "docs" / "tutorials" / "first-case.md"):
        run = [sys.executable, "-m", "maskloop", *words]
        outcome = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert outcome.returncode == 0, (words, outcome.stderr)


@pytest.mark.slow
def test_the_first_mask_of_the_readme_runs(tmp_path: Path) -> None:
    readme = ROOT / "README.md"
    first = next(b for b in blocks(readme, "sh") if "maskloop demo" in b)
    lines = [shlex.split(line, comments=True) for line in first.splitlines()]
    environment = {**os.environ, "MASKLOOP_HOME": str(tmp_path / "home")}
    for words in lines:
        run = [sys.executable, "-m", "maskloop", *words[1:]]
        outcome = subprocess.run(
            run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert outcome.returncode == 0, (words, outcome.stderr)
    code = "\n".join(blocks(readme, "python"))
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)

"""Write the README's tables of models, formats, datasets and tools from what the package lists."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import maskloop

README = Path(__file__).parents[1] / "README.md"
BEGIN = "<!-- tables: begin (made by docs/tables.py) -->"
END = "<!-- tables: end -->"
PROOF = {
    "real data": "real",
    "synthetic data only": "synthetic",
    "experimental": "experimental",
}


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return a Markdown table as lines."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def render() -> str:
    """Return the four tables."""
    models = [
        [
            f"`{m['name']}`",
            m["title"],
            m["task"],
            f"{'/'.join(str(n) for n in m['ndim'])}D",
            m["licence"].partition(";")[0],
            PROOF[m["proof"]],
        ]
        for m in maskloop.list_models()
    ]
    formats = [
        [
            f["title"],
            ", ".join(f"`{s}`" for s in f["suffixes"]),
            f["reads"],
            f["writes"],
            PROOF[f["proof"]],
        ]
        for f in maskloop.list_formats()
    ]
    sets = [
        [
            f"`{d['name']}`",
            d["title"],
            d["axes"],
            "yes" if d["reads"] else "",
            "yes" if d["writes"] else "",
            PROOF[d["proof"]],
        ]
        for d in maskloop.list_datasets()
    ]
    tools = [[f"`{t['name']}`", t["summary"], PROOF[t["proof"]]] for t in maskloop.list_tools()]
    lines = table(["model", "what", "task", "", "weights' licence", "proved"], models)
    lines += table(["format", "suffixes", "reads", "writes", "proved"], formats)
    lines += table(["dataset", "what", "", "reads", "writes", "proved"], sets)
    lines += table(["tool", "what it does", "proved"], tools)
    return "\n".join(lines)


def main() -> int:
    """Rewrite the README; with --check, only say whether it is up to date."""
    text = README.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as home:
        os.environ["MASKLOOP_HOME"] = home  # the package's own models, not this user's
        tables = render()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    fresh = f"{head}{BEGIN}\n\n{tables}\n{END}{tail}"
    if "--check" in sys.argv:
        return int(fresh != text)
    README.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

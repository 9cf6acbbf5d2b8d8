"""Write the tables of ``docs/reference/profiles.md`` from the profiles that the package ships."""

from __future__ import annotations

import sys
from pathlib import Path

from maskloop import datasets
from maskloop.datasets import maskfolder_profile

PAGE = Path(__file__).parent / "reference" / "profiles.md"
BEGIN = "<!-- profiles: begin (made by docs/profiles.py) -->"
END = "<!-- profiles: end -->"


def render() -> str:
    """Return the table of profiles and where each is from."""
    lines = ["| `--from` | Dataset | Files | Classes | Found by itself |", "|---|---|---|---|---|"]
    sources = []
    for name in sorted(datasets.PROFILES):
        profile = maskfolder_profile.shipped(name)
        counts = [len([1 for _, row in v.classes if not row.ignore]) for v in profile.variants]
        many = "from its files" if not max(counts) else str(max(counts))
        known = "yes" if profile.sniff else "no: name it"
        layout = "<br>".join(part.strip() for part in profile.layout.split(";"))
        lines.append(f"| `{name}` | {profile.title} | {layout} | {many} | {known} |")
        sources.append(f"- `{name}`: {profile.source}.")
    return "\n".join([*lines, "", "## Where names, colours and codings are from", "", *sources])


def page(text: str) -> str:
    """Return the page with the tables of today."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{render()}\n\n{END}{rest.partition(END)[2]}"


def main() -> int:
    """Write the page; with ``--check``, only say whether it is up to date."""
    text = PAGE.read_text(encoding="utf-8")
    wanted = page(text)
    if "--check" in sys.argv:
        return int(text != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

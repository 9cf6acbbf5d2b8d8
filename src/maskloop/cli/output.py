"""What a command found, as JSON or as lines and tables for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def answer(value: Any, text: str, *, as_json: bool) -> None:  # Any: JSON-ready values
    """Print the one answer of a command: the value as JSON, or the text."""
    if as_json:
        import orjson

        options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
        text = orjson.dumps(value, default=str, option=options).decode()
    click.echo(text)


def as_lines(value: Mapping[str, Any], indent: int = 0) -> str:  # Any: JSON-ready values
    """Return a mapping as ``key  value`` lines; rows of mappings as tables below their key."""
    width = max((len(str(key)) for key in value), default=0)
    pad = " " * indent
    lines = []
    for key, entry in value.items():
        if isinstance(entry, dict) and entry:
            lines += [f"{pad}{key}", as_lines(entry, indent + 2)]
        elif isinstance(entry, list) and entry and all(isinstance(row, dict) for row in entry):
            table = as_table(entry).splitlines()
            lines += [f"{pad}{key}", *(f"{pad}  {line}" for line in table)]
        else:
            lines.append(f"{pad}{key!s:<{width}}  {_plain(entry)}")
    return "\n".join(lines)


def as_table(
    rows: Sequence[Mapping[str, Any]],  # Any: JSON-ready values
    columns: Sequence[str] = (),
) -> str:
    """Return rows in aligned columns; those named and present, else those of the first row."""
    if not rows:
        return "none"
    heads = [name for name in columns if name in rows[0]] or list(rows[0])
    cells = [heads, *([_plain(row.get(name)) for name in heads] for row in rows)]
    widths = [min(48, max(len(line[i]) for line in cells)) for i in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _plain(value: Any) -> str:  # Any: JSON-ready values
    if value is None or value == "" or value == [] or value == {}:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_plain(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        inner = [_plain(entry) for entry in value]
        is_nested = any(isinstance(entry, (list, tuple)) for entry in value)
        return ", ".join(f"[{text}]" for text in inner) if is_nested else ", ".join(inner)
    return str(value)

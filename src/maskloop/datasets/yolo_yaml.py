"""The little of YAML that a YOLO data.yaml is made of: one level of keys, lists and mappings.

References
----------
.. [1] YAML 1.2.2, 2021: sections 7.3 (quoted scalars), 7.4 (flow collections), 8.2 (block ones).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import orjson

from maskloop.core.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Value = str | list[str] | dict[str, str]
_KEY = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s'"#\[{-][^:#]*?)\s*:(?:\s+(.*))?$""")
_PART = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^,\[\]{}:]+|[,:])""")
_SPECIAL = re.compile(r"[\"'#]")
_QUOTED = {'"': re.compile(r'"(?:[^"\\]|\\.)*"'), "'": re.compile(r"'(?:[^']|'')*'")}


def parsed(text: str, name: str) -> dict[str, Value]:
    """Return the keys of the text with their values: texts, lists or mappings of texts.

    Raises
    ------
    FormatError
        If it is not of this kind; names the line of the file `name`.
    """
    found: dict[str, Value] = {}
    lines = iter(enumerate(text.splitlines(), start=1))
    key = ""
    for number, raw in lines:
        line = _without_comment(raw)
        if not line.strip() or line.startswith(("---", "...", "%")):
            continue
        is_within = line[0] in " \t" or line.startswith("- ")
        match = _KEY.match(line)
        if is_within and key:
            _add(found, key, line, match, f"line {number} of {name}")
        elif match and not is_within:
            key, value = _scalar(match[1]), (match[2] or "").strip()
            start = value[:1]
            while start in ("[", "{") and not _is_whole(value):
                more = next(lines, None)
                if more is None:
                    raise _odd(f"line {number} of {name}", value)
                value += " " + _without_comment(more[1]).strip()
            found[key] = _flow(value) if start in ("[", "{") and start else _scalar(value)
        else:
            raise _odd(f"line {number} of {name}", line)
    return found


def written(keys: Mapping[str, str | Sequence[str]]) -> str:
    """Return texts, and lists as mappings from their places, as the text of a file."""
    lines = []
    for key, value in keys.items():
        if isinstance(value, str):
            lines.append(f"{key}: {_quoted(value)}")
        else:
            lines += [f"{key}:", *(f"  {at}: {_quoted(one)}" for at, one in enumerate(value))]
    return "\n".join(lines) + "\n"


def _add(
    found: dict[str, Value], key: str, line: str, match: re.Match[str] | None, where: str
) -> None:
    """Put an indented line, a list's or a mapping's, to the key it belongs to."""
    text, known = line.strip(), found.get(key, "")
    if text.startswith("- ") or text == "-":
        listed = known if isinstance(known, list) else []
        found[key] = [*listed, _scalar(text[1:])]
    elif match and (known == "" or isinstance(known, dict)):
        mapped = known if isinstance(known, dict) else {}
        mapped[_scalar(match[1])] = _scalar(match[2] or "")
        found[key] = mapped
    elif isinstance(known, str) and known:
        found[key] = f"{known} {text}"
    else:
        raise _odd(where, line)


def _flow(text: str) -> list[str] | dict[str, str]:
    parts = _PART.findall(text.strip()[1:-1])
    is_mapping = text.strip().startswith("{")
    entries: list[list[str]] = [[]]
    for part in parts:
        if part == ",":
            entries.append([])
        elif part != ":" or not is_mapping:
            entries[-1].append(part)
    full = [entry for entry in entries if entry]
    if is_mapping:
        return {_scalar(entry[0]): _scalar(" ".join(entry[1:])) for entry in full}
    return [_scalar("".join(entry)) for entry in full]


def _is_whole(text: str) -> bool:
    """Whether a flow collection is closed, quotes aside."""
    bare = re.sub(r""""(?:[^"\\]|\\.)*"|'(?:[^']|'')*'""", "", text).rstrip()
    return bare.endswith("]" if text.startswith("[") else "}")


def _without_comment(line: str) -> str:
    at = 0
    open_ = set(_QUOTED)  # a quote that is not closed is a plain letter, and so are later ones
    while (found := _SPECIAL.search(line, at)) is not None:
        mark, start = found[0], found.start()
        closed = _QUOTED[mark].match(line, start) if mark in open_ else None
        if closed is not None:
            at = closed.end()
            continue
        open_.discard(mark)
        if mark == "#" and not line[max(start - 1, 0) : start].strip():
            return line[:start].rstrip()
        at = found.end()
    return line.rstrip()


def _scalar(text: str) -> str:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            return str(orjson.loads(text))
        except orjson.JSONDecodeError:
            return text[1:-1]
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    return text


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()


def _odd(where: str, text: str) -> FormatError:
    msg = f"expected 'key: value' in {where}, got {text.strip()[:40]!r}"
    return FormatError(f"{msg}; write names as a list or as 'number: name' lines")

"""Names and colours of classes from the files that datasets bring: lists, tables, MATLAB, JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from maskloop.core.errors import FormatError
from maskloop.core.labels import Label
from maskloop.datasets import bitcolours
from maskloop.formats.base import reading, table_from

if TYPE_CHECKING:
    from pathlib import Path

    from maskloop.datasets.maskfolder_profile import NamesFile, Variant

Named = tuple[int, Label]  # the value in masks, and the row
_MOST = 65_536
_RGB = r"(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})"
_VOID = ("void", "unlabeled", "unlabelled", "ignore", "unknown")


def named(root: Path, variant: Variant, first: Path | None) -> tuple[Named, ...]:
    """Return the classes of a dataset: from the first file there is, else the profile's own.

    Parameters
    ----------
    first : Path, optional
        A mask file, for names that lie in each of them.
    """
    for source in variant.names:
        path = root.joinpath(*source.file.split("/")) if source.file else first
        if path is not None and path.is_file():
            return _read(path, source, variant)
    return variant.classes


def _read(path: Path, source: NamesFile, variant: Variant) -> tuple[Named, ...]:
    form = FORMS.get(source.form)
    if form is None:
        msg = f"expected a form of names ({', '.join(FORMS)}), got {source.form!r}; correct it"
        raise FormatError(msg)
    with reading(path):
        try:
            found = form(path, source)
        except (UnicodeDecodeError, KeyError, TypeError, IndexError, OverflowError) as error:
            raise _odd(path, f"something else ({error})") from error
    if len(found) > _MOST:
        raise _odd(path, f"{len(found)} of them")
    return _rows(found, variant, path, is_whole=source.form == "table")


def _rows(found: _Found, variant: Variant, path: Path, *, is_whole: bool) -> tuple[Named, ...]:
    """Return rows for names; what the profile knows of a class of that name is kept."""
    own = {row.name: row for _, row in variant.classes}
    values = [value for value, *_ in found]
    if len(set(values)) < len(values):
        twice = next(v for v, count in Counter(values).items() if count > 1)
        raise _odd(path, f"the value {twice} twice")
    zero = next((row.name for value, row in variant.classes if value == 0), None)
    free = 1 + max((v + variant.shift for v in values), default=0)
    made: list[Named] = []
    for listed, name, colour, marks in found:
        number, value = listed + variant.shift, listed
        if is_whole and name == zero and marks["ignore"]:
            value = 0  # ids of a table of ours are values, but 0 is no id
        if value in variant.nothing:
            continue
        if number < 1:
            number, free = max(free, 1), max(free, 1) + 1
        known = own.get(name)
        row = Label(
            number,
            name,
            colour or (known.colour if known else ""),
            is_thing=marks.get("thing", known.is_thing if known else False),
            ignore=marks.get("ignore", known.ignore if known else name.lower() in _VOID),
        )
        made.append((value, row))
    if is_whole:
        return tuple(made)
    known_values = {value for value, _ in made}
    ids = {row.id for _, row in made}
    # Void is seldom listed, and always drawn.
    extra = [
        (value, row)
        for value, row in variant.classes
        if row.ignore and value not in known_values and row.id not in ids
    ]
    return tuple(made + extra)


_Found = list[tuple[int, str, str, Mapping[str, bool]]]


def _lines(path: Path, source: NamesFile) -> _Found:
    """Read one name a line; the first has the value `first`."""
    names = [line.strip() for line in _text(path).splitlines()]
    return [(source.first + n, name, "", {}) for n, name in enumerate(names) if name]


def _numbered(path: Path, source: NamesFile) -> _Found:
    """Read a value and a name a line: ``1: accessory`` or ``1 accessory``."""
    found: _Found = []
    for line in _text(path).splitlines():
        fits = re.match(r"\s*(\d{1,9})\s*[:,;\s]\s*(\S.*?)\s*$", line)
        if fits:
            found.append((int(fits[1]), fits[2], "", {}))
    if not found:
        raise _odd(path, "no line like '1: road'")
    return found


def _coloured(path: Path, source: NamesFile) -> _Found:
    """Read a colour and a name a line: ``64 128 64 Animal``, or ``Animal,64,128,64``."""
    found: _Found = []
    for line in _text(path).splitlines():
        ahead = re.match(rf"\s*{_RGB}[\s,;]+(\S.*?)\s*$", line)
        behind = re.match(rf"\s*([^,;:]*[^,;:\s])\s*[,;:]\s*{_RGB}\b", line)
        if ahead:
            rgb, name = ahead.group(1, 2, 3), ahead[4]
        elif behind:
            rgb, name = behind.group(2, 3, 4), behind[1]
        else:
            continue
        found.append((source.first + len(found), name, _hex(path, rgb), {}))
    if not found:
        raise _odd(path, "no line like '64 128 64 Animal'")
    return found


def _labelmap(path: Path, source: NamesFile) -> _Found:
    """Read the lines ``name:r,g,b:parts:actions`` of CVAT; their order is their value, from 0."""
    found: _Found = []
    for line in _text(path).splitlines():
        name, colon, rest = line.partition(":")
        if not colon or line.lstrip().startswith("#"):
            continue
        rgb = re.findall(r"\d{1,3}", rest.partition(":")[0])
        if len(rgb) != 3:  # left out: the colour map of VOC holds
            rgb = [str(n) for n in bitcolours.colours_of(len(found)).tolist()]
        found.append((len(found), name.strip(), _hex(path, rgb), {}))
    if not found:
        raise _odd(path, "no line like 'cat:128,0,0::'")
    return found


def _palette(path: Path, source: NamesFile) -> _Found:
    """Read an object number and its colour a line: ``7 [153, 108, 6]``."""
    found: _Found = []
    for line in _text(path).splitlines():
        fits = re.match(r"\s*(\d{1,9})\s+\[(\d{1,3}),\s*(\d{1,3}),\s*(\d{1,3})\]", line)
        if fits:
            number = int(fits[1])
            found.append((number, f"object {number}", _hex(path, fits.group(2, 3, 4)), {}))
    if not found:
        raise _odd(path, "no line like '7 [153, 108, 6]'")
    return found


def _mapillary(path: Path, source: NamesFile) -> _Found:
    """Read the labels of a Mapillary Vistas ``config.json``; their order is their value."""
    found: _Found = []
    for value, one in enumerate(json_of(path)["labels"]):
        name = str(one.get("readable") or one["name"])
        marks = {
            "thing": one.get("instances") is True,
            "ignore": one.get("evaluate") is False or name.lower() in _VOID,
        }
        found.append((value, name, _hex(path, [str(n) for n in one["color"]]), marks))
    return found


def _table(path: Path, source: NamesFile) -> _Found:
    """Read our own table of labels: ids are values."""
    with reading(path):
        table = table_from(path.read_bytes())
    if table is None:
        raise _odd(path, "something else")
    return [
        (row.id, row.name, row.colour, {"thing": row.is_thing, "ignore": row.ignore})
        for row in table.values()
    ]


def _matlab(path: Path, source: NamesFile) -> _Found:
    """Read names in a MATLAB file, under a key."""
    from maskloop.datasets.maskfolder_values import matlab

    names = strings(matlab(path, source.key))
    if not names:
        raise _odd(path, f"none under {source.key!r}")
    return [(source.first + n, name, "", {}) for n, name in enumerate(names) if name]


FORMS: dict[str, Callable[[Path, NamesFile], _Found]] = {
    "lines": _lines,
    "numbered": _numbered,
    "coloured": _coloured,
    "labelmap": _labelmap,
    "palette": _palette,
    "mapillary": _mapillary,
    "table": _table,
    "matlab": _matlab,
}


def strings(found: Any) -> list[str]:  # Any: what SciPy makes of a cell array
    """Return the texts of a MATLAB cell array, whatever its shape; not its other cells."""
    import numpy as np

    if isinstance(found, (str, np.str_)):
        return [str(found)]
    if not isinstance(found, np.ndarray):
        return []
    if found.dtype.kind == "U":
        return [str(one) for one in found.reshape(-1)]
    return [text for one in found.reshape(-1) for text in (strings(one) or [""])[:1]]


def objects_of(path: Path) -> list[tuple[int, str]]:
    """Return class value and name of each object in an ADE20K 2021 JSON file; parts left out."""
    found = json_of(path)
    try:
        return [
            (int(one["name_ndx"]), str(one["name"]))
            for one in found["annotation"]["object"]
            if not one.get("parts", {}).get("part_level")
        ]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _odd(path, f"something else ({error})") from error


def json_of(path: Path) -> Any:  # Any: plain JSON values
    """Return what a JSON file holds."""
    import orjson

    with reading(path):
        try:
            return orjson.loads(path.read_bytes())
        except orjson.JSONDecodeError as error:
            msg = f"expected JSON in {path.name}, got: {error}; copy the file again"
            raise FormatError(msg) from error


def merged(rows: tuple[Named, ...], more: Mapping[int, str]) -> tuple[Named, ...]:
    """Return the classes with a row for each further value; names of known values are kept."""
    known = dict(rows)
    taken = {row.id for row in known.values()}
    for value, name in sorted(more.items()):
        if value in known:
            continue
        number = value if value > 0 and value not in taken else max(taken, default=0) + 1
        taken.add(number)
        known[value] = replace(Label(number, name), ignore=name.lower() in _VOID)
    return tuple(sorted(known.items()))


def _text(path: Path) -> str:
    with reading(path):
        return path.read_bytes().decode("utf-8-sig")


def _hex(path: Path, rgb: Any) -> str:  # Any: three texts
    numbers = [int(one) for one in rgb]
    if len(numbers) < 3 or not all(0 <= n <= 255 for n in numbers):
        raise _odd(path, f"the colour {' '.join(rgb)}")
    return "#" + "".join(f"{n:02x}" for n in numbers[:3])


def _odd(path: Path, what: str) -> FormatError:
    return FormatError(
        f"expected names of classes in {path.name}, got {what}; correct the file, or name another "
        "in a profile of your own"
    )

"""What each id in a mask means: one table for classes and for objects."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from maskloop.core.errors import InputError, UnknownNameError

Status = Literal["new", "accepted", "edited", "rejected"]
Kind = Literal["classes", "objects"]

# Okabe & Ito, "Color Universal Design", 2008: told apart with every common colour blindness.
_PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#999999")
_MOST = 2**63 - 1  # the largest id


def colour_of(number: int) -> str:
    """Return a stable ``#rrggbb`` for an id; past eight safe colours, hues by the golden ratio."""
    if number < 1:
        return "#000000"
    if number <= len(_PALETTE):
        return _PALETTE[number - 1]
    import colorsys

    red, green, blue = colorsys.hsv_to_rgb(
        (number * 0.618033988749895) % 1, 0.55 + 0.4 * (number % 2), 0.95
    )
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


@dataclass(frozen=True, slots=True)
class Label:
    """The meaning of one id.

    Parameters
    ----------
    id : int
        Value in the mask, >= 1; 0 is background and has no row.
    name : str
        Shown to people.
    colour : str
        ``#rrggbb``; chosen from the id where empty.
    category : str, optional
        The class of an object; None where the row *is* a class.
    is_thing : bool
        Countable (a cell, a lesion), as against stuff (liver, sky).
    ignore : bool
        Voxels of this label are left out of training and scores.
    score : float, optional
        The model's confidence, 0 to 1.
    author : str
        Model name or person's name; empty where unknown.
    locked, visible : bool
        Whether edits are refused, whether the face shows it.
    status : str
        ``new``, ``accepted``, ``edited`` or ``rejected``.
    """

    id: int
    name: str
    colour: str = ""
    category: str | None = None
    is_thing: bool = False
    ignore: bool = False
    score: float | None = None
    author: str = ""
    locked: bool = False
    visible: bool = True
    status: Status = "new"

    def __post_init__(self) -> None:
        if self.id < 1:
            msg = (
                f"expected a label id of at least 1 (0 is background), got {self.id!r}; "
                f"renumber the label"
            )
            raise InputError(msg)
        colour = (self.colour or colour_of(self.id)).lower()
        if not re.fullmatch(r"#[0-9a-f]{6}", colour):
            msg = (
                f"expected a colour like '#e69f00' for label {self.name!r}, got {self.colour!r}; "
                f"write it as #rrggbb"
            )
            raise InputError(msg)
        object.__setattr__(self, "colour", colour)


class LabelTable(Mapping[int, Label]):
    """Immutable rows by id, in ascending order.

    Examples
    --------
    >>> table = LabelTable.classes({1: "liver", 2: "tumour"})
    >>> table[2].name, table.id_of("liver"), table.kind
    ('tumour', 1, 'classes')
    """

    __slots__ = ("_rows",)

    def __init__(self, rows: Iterable[Label] = ()) -> None:
        ordered = sorted(rows, key=lambda row: row.id)
        self._rows = {row.id: row for row in ordered}
        if len(self._rows) != len(ordered):
            counts = Counter(row.id for row in ordered)
            twice = [i for i, count in counts.items() if count > 1][:5]
            msg = f"expected each label id once, got {twice} more than once; renumber them"
            raise InputError(msg)

    @classmethod
    def classes(cls, names: Mapping[int, str] | Sequence[str], *, author: str = "") -> LabelTable:
        """Return one row a class, from ``{id: name}`` or from names that get ids from 1."""
        pairs = names.items() if isinstance(names, Mapping) else enumerate(names, start=1)
        return cls(Label(int(i), str(name), author=author) for i, name in pairs)

    @classmethod
    def objects(
        cls, ids: Iterable[int], category: str = "object", *, author: str = ""
    ) -> LabelTable:
        """Return one row an object, all of one category."""
        return cls(
            Label(int(i), f"{category} {int(i)}", category=category, is_thing=True, author=author)
            for i in ids
        )

    def __getitem__(self, key: int) -> Label:
        return self._rows[key]

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"LabelTable({', '.join(f'{row.id}: {row.name}' for row in self._rows.values())})"

    @property
    def kind(self) -> Kind:
        """``"objects"`` if any row carries a category, else ``"classes"``."""
        return (
            "objects" if any(row.category is not None for row in self._rows.values()) else "classes"
        )

    @property
    def is_mixed(self) -> bool:
        """Whether it holds objects and classes: things, and the stuff around them."""
        have = {row.category is not None for row in self._rows.values()}
        return len(have) == 2

    @property
    def names(self) -> dict[int, str]:
        """Return ``{id: name}``."""
        return {row.id: row.name for row in self._rows.values()}

    def id_of(self, label: str | int) -> int:
        """Return the id of a label given by name or by id.

        Raises
        ------
        UnknownNameError
            If there is no such row; the message lists those there are.
        """
        text = str(label)
        for row in self._rows.values():
            if row.name == text or str(row.id) == text:
                return row.id
        raise UnknownNameError.of("label", text, [f"{i} ({n})" for i, n in self.names.items()])

    def having(self, label: str | int) -> tuple[LabelTable, int]:
        """Return the table, with a new row if there is none for `label`, and its id.

        Parameters
        ----------
        label : str or int
            A name, or an id (also as text) of at least 0; 0, the background, has no row.

        Raises
        ------
        InputError
            If it is neither.
        """
        known = {row.name: row.id for row in self._rows.values()}
        if isinstance(label, str) and label in known:
            return self, known[label]
        if not (isinstance(label, str) and label.strip() and not label.isdecimal()):
            number = _id(label)
            return self.covering([number]), number
        number = max(self._rows, default=0) + 1
        like = next((row.category for row in self._rows.values() if row.category), None)
        return self.with_rows([Label(number, label, category=like, is_thing=bool(like))]), number

    def covering(self, ids: Iterable[int]) -> LabelTable:
        """Return the table with a row for each of these ids above 0 that has none.

        New rows are objects of the table's category where it holds objects, else plain labels.
        """
        missing = [int(i) for i in ids if int(i) and int(i) not in self._rows]
        if not missing:
            return self
        like = next((row.category for row in self._rows.values() if row.category), None)
        if like is not None:
            return self.with_rows(LabelTable.objects(missing, like).values())
        return self.with_rows(Label(i, f"label {i}") for i in missing)

    def with_rows(self, rows: Iterable[Label]) -> LabelTable:
        """Return the table with `rows` added, replacing rows of the same id."""
        return LabelTable({**self._rows, **{row.id: row for row in rows}}.values())

    def without(self, ids: Iterable[int]) -> LabelTable:
        """Return the table without the rows of these ids."""
        gone = set(ids)
        return LabelTable(row for row in self._rows.values() if row.id not in gone)

    def to_rows(self) -> list[dict[str, Any]]:  # Any: plain JSON values
        """Return JSON-ready rows; fields at their defaults are left out."""
        plain = {f.name: f.default for f in dataclasses.fields(Label)}
        return [
            {
                k: v
                for k, v in dataclasses.asdict(row).items()
                if k in ("id", "name", "colour") or v != plain[k]
            }
            for row in self._rows.values()
        ]

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> LabelTable:  # Any: plain JSON values
        """Rebuild a table from `to_rows`; unknown fields are ignored, so newer files still open.

        Raises
        ------
        InputError
            If a row lacks its id or name, or a field is of another type.
        """
        return cls(Label(**_fields(row)) for row in rows)


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:  # Any: plain JSON values
    known = {f.name: str(f.type).replace("Status", "str") for f in dataclasses.fields(Label)}
    kept = {k: v for k, v in row.items() if k in known} if isinstance(row, Mapping) else {}
    for key, value in {"id": None, "name": None, **kept}.items():
        kinds = known[key].replace("float", "float | int").replace("None", "NoneType").split(" | ")
        if type(value).__name__ not in kinds:
            msg = f"expected {known[key]} as {key} of a label, got {value!r}; repair the table"
            raise InputError(msg)
    return kept


def _id(label: str | int) -> int:
    try:
        number = int(label) if isinstance(label, str) else operator.index(label)
    except (TypeError, ValueError):
        number = -1
    if not 0 <= number <= _MOST:
        msg = f"expected a label's name or its id, 0 (background) or more, got {label!r}; give one"
        raise InputError(msg)
    return number

"""What a profile of a mask folder says: where files lie, how values code classes and objects."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from maskloop.core.dataset import Holding
from maskloop.core.errors import FormatError, InputError, UnknownNameError
from maskloop.core.labels import Label, LabelTable
from maskloop.datasets.maskfolder_formula import Formula

if TYPE_CHECKING:
    from collections.abc import Mapping

_LARGEST = 2**31
_VALUE = Formula("V")
FOLDER = Path(__file__).with_name("profiles")


@dataclass(frozen=True, slots=True)
class NamesFile:
    """A file of the dataset that names the classes.

    Parameters
    ----------
    file : str
        Relative to the dataset's root; empty where each mask file itself holds the names.
    form : str
        A key of `maskfolder_names.FORMS`.
    key : str
        For MATLAB files: where the names lie, such as ``"index.objectnames"``.
    first : int
        Value of the first name of a plain list.
    """

    file: str = ""
    form: str = "lines"
    key: str = ""
    first: int = 1


@dataclass(frozen=True, slots=True)
class Variant:
    """One way in which a dataset comes; where left out, the profile's own words hold.

    Parameters
    ----------
    masks : tuple of str
        Where masks lie: ``"gtFine/{split}/{path}_gtFine_instanceIds.png"``. ``{split}`` and
        ``{group}`` mean what they say, ``{path}`` may run over folders, ``{object}`` numbers the
        files of one picture, ``{class}`` names their class; other words only pair. All that match
        are read.
    images : tuple of str
        The same for pictures, with words of the masks; ``.*`` is any picture's suffix. The first
        that is there is taken.
    objects : str
        Where a second file with the numbers of objects lies.
    beside : str
        Where a file with the names of the objects of one picture lies.
    item : str
        How an item is named; its words without the split where left out.
    splits : str
        Lists of names: ``"ImageSets/Segmentation/{split}.txt"``.
    split_names : mapping of str to str
        A split's word in the dataset -> ours; empty text means that it is none.
    group : str
        Regular expression whose first bracket finds the group in an item's name.
    unlabelled : bool
        Whether pictures without a mask are listed too.
    kind : {"classes", "objects", "panoptic"}
    class_, object_, ignore : Formula, optional
        What codes the class, the number of the object (0: none), and whether to ignore it.
    colours : bool
        Whether classes are coded by the colours of the table instead.
    things_only : bool
        Whether numbers of objects count for things alone.
    nothing : tuple of int
        Values of the class that mean background.
    shift : int
        What is added to a value to make a label's id.
    names : tuple of NamesFile
        The first that is there is read.
    key, object_key : str
        What to take of a MATLAB file.
    classes : tuple of (int, Label)
        Value and row.
    """

    masks: tuple[str, ...]
    images: tuple[str, ...] = ()
    objects: str = ""
    beside: str = ""
    item: str = ""
    splits: str = ""
    split_names: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    unlabelled: bool = False
    kind: Holding = "classes"
    class_: Formula | None = _VALUE
    object_: Formula | None = None
    ignore: Formula | None = None
    colours: bool = False
    things_only: bool = False
    nothing: tuple[int, ...] = (0,)
    shift: int = 0
    names: tuple[NamesFile, ...] = ()
    key: str = ""
    object_key: str = ""
    classes: tuple[tuple[int, Label], ...] = ()

    @property
    def scheme(self) -> LabelTable:
        """The classes without their values."""
        return LabelTable(row for _, row in self.classes)


@dataclass(frozen=True, slots=True)
class Profile:
    """A dataset's folder layout and coding, from a TOML file.

    Parameters
    ----------
    name, title, layout, source : str
        Key, words for people, where files lie, and where names, colours and coding are from.
    proof : str
        As for `DatasetFormat`.
    dims : frozenset of int
        Spatial axes that it can hold.
    sniff : tuple of str
        Patterns of paths; a folder in which all are met is of this layout. None where empty.
    variants : tuple of Variant
        In the order in which they are tried.
    """

    name: str
    title: str
    layout: str
    source: str
    proof: str
    dims: frozenset[int]
    sniff: tuple[str, ...]
    variants: tuple[Variant, ...]


_OWN = ("title", "layout", "source", "proof", "dims", "sniff", "variant", "classes_of")
_RENAMED = {"class": "class_", "object": "object_"}


def load(path: Path) -> Profile:
    """Return the profile in a TOML file.

    Raises
    ------
    MissingFileError
        If there is none.
    FormatError
        If it is not TOML, or says something that profiles do not know; names the entry.
    """
    from maskloop.formats.base import reading

    with reading(path):
        text = path.read_bytes()
    try:
        found = tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        msg = f"expected TOML in the profile {path.name}, got: {error}; correct that line"
        raise FormatError(msg) from error
    return parsed(found, path.stem)


def shipped(name: str) -> Profile:
    """Return one of our own profiles."""
    return load(FOLDER / f"{name}.toml")


def parsed(found: Mapping[str, Any], name: str) -> Profile:  # Any: what TOML holds
    """Return the profile that a TOML table describes."""
    given = dict(found)
    own = {key: given.pop(key) for key in _OWN if key in given}
    like = own.get("classes_of", "")
    if like and "classes" not in given:
        known = sorted(path.stem for path in FOLDER.glob("*.toml"))
        if like not in known:
            raise UnknownNameError.of("profile", str(like), known)
        with (FOLDER / f"{like}.toml").open("rb") as stream:
            given["classes"] = tomllib.load(stream)["classes"]
    several = own.get("variant", [{}])
    if not isinstance(several, list) or not all(isinstance(v, dict) for v in several):
        raise _odd(name, "variant", several)
    return Profile(
        name=name,
        title=_text(name, "title", own.get("title", name)),
        layout=_text(name, "layout", own.get("layout", "")),
        source=_text(name, "source", own.get("source", "")),
        proof=_text(name, "proof", own.get("proof", "synthetic data only")),
        dims=frozenset(_numbers(name, "dims", own.get("dims", [2]))),
        sniff=_texts(name, "sniff", own.get("sniff", [])),
        variants=tuple(_variant(name, {**given, **one}) for one in several),
    )


def _variant(name: str, given: Mapping[str, Any]) -> Variant:  # Any: what TOML holds
    known = {f.name for f in fields(Variant)}
    made: dict[str, Any] = {}  # Any: as above
    for key, value in given.items():
        place = _RENAMED.get(key, key)
        if place not in known or key in _RENAMED.values():
            listed = ", ".join(sorted((known - set(_RENAMED.values())) | set(_RENAMED)))
            msg = f"expected a known entry in the profile {name}, got {key!r}; known are: {listed}"
            raise FormatError(msg)
        made[place] = _entry(name, place, value)
    if not made.get("masks"):
        raise _odd(name, "masks", made.get("masks"))
    shift = made.get("shift", 0)
    made["classes"] = rows(name, made.get("classes", ()), shift)
    if made.get("colours"):
        made.setdefault("nothing", ())
    return Variant(**made)


def _entry(name: str, key: str, value: Any) -> Any:  # Any: what TOML holds
    if key in ("masks", "images"):
        return _texts(name, key, [value] if isinstance(value, str) else value)
    if key in ("class_", "object_", "ignore"):
        return Formula(_text(name, key.rstrip("_"), value)) if value else None
    if key in ("unlabelled", "colours", "things_only"):
        if not isinstance(value, bool):
            raise _odd(name, key, value)
        return value
    if key == "nothing":
        return tuple(_numbers(name, key, value))
    if key == "shift":
        return _numbers(name, key, [value])[0]
    if key == "split_names":
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise _odd(name, key, value)
        return value
    if key == "names":
        several = value if isinstance(value, list) else [value]
        return tuple(_names_file(name, one) for one in several)
    if key == "kind":
        if value not in get_args(Holding):
            raise _odd(name, key, value)
        return value
    if key == "group":
        try:
            is_one = re.compile(_text(name, key, value)).groups == 1
        except re.error as error:
            raise _odd(name, key, value) from error
        if value and not is_one:
            raise _odd(name, key, value)
        return value
    return value if key == "classes" else _text(name, key, value)


def _names_file(name: str, value: Any) -> NamesFile:  # Any: what TOML holds
    known = {f.name for f in fields(NamesFile)}
    if not isinstance(value, dict) or not set(value) <= known:
        raise _odd(name, "names", value)
    first = _numbers(name, "names.first", [value.get("first", 1)])[0]
    words = {k: _text(name, f"names.{k}", v) for k, v in value.items() if k != "first"}
    return NamesFile(**words, first=first)


def rows(name: str, listed: object, shift: int) -> tuple[tuple[int, Label], ...]:
    """Return ``(value, row)`` of each listed class; what is coded as less than 1 gets a free id."""
    if not isinstance(listed, (list, tuple)):
        raise _odd(name, "classes", listed)
    given = [one if isinstance(one, dict) else {} for one in listed]
    try:
        wanted = [int(one.get("id", int(one["value"]) + shift)) for one in given]
        free = 1 + max((i for i in wanted if i not in (255, 65535)), default=0)
        made = []
        for one, number in zip(given, wanted, strict=True):
            if number < 1:
                number, free = max(free, 1), max(free, 1) + 1
            made.append((int(one["value"]), _label(one, number)))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        msg = (
            f"expected classes like {{value = 1, name = 'road', colour = '#804080'}} in the "
            f"profile {name}, got one without: {error}; complete it"
        )
        raise FormatError(msg) from error
    ids = [row.id for _, row in made]
    if any(not -_LARGEST <= n <= _LARGEST for value, row in made for n in (value, row.id)):
        msg = f"expected values and ids below {_LARGEST:,} in the profile {name}, got a larger one"
        raise FormatError(f"{msg}; renumber the classes")
    if len(set(ids)) < len(ids) or len({value for value, _ in made}) < len(made):
        msg = f"expected each value and id once in the profile {name}, got some twice; renumber"
        raise FormatError(msg)
    return tuple(made)


def _label(one: Mapping[str, Any], number: int) -> Label:  # Any: what TOML holds
    return Label(
        number,
        str(one["name"]),
        str(one.get("colour", "")),
        is_thing=one.get("thing", False) is True,
        ignore=one.get("ignore", False) is True,
    )


def _text(name: str, key: str, value: object) -> str:
    if not isinstance(value, str):
        raise _odd(name, key, value)
    return value


def _texts(name: str, key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise _odd(name, key, value)
    return tuple(value)


def _numbers(name: str, key: str, value: object) -> list[int]:
    if not isinstance(value, list) or not all(type(one) is int for one in value):
        raise _odd(name, key, value)
    return value


def _odd(name: str, key: str, value: object) -> FormatError:
    return FormatError(
        f"expected {key!r} of the profile {name} as docs/reference/profiles.md says, got "
        f"{str(value)[:80]!r}; correct it"
    )

"""A tool's options, read from its signature; the one source of its form and of its flags."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from maskloop.core.errors import InputError, UnknownNameError

_GIVEN = ("mask", "image", "label", "hand", "job")  # filled by `correct`, never asked of a person


class Points(tuple[tuple[float, ...], ...]):
    """Positions in array index order, ``(z, y, x)`` or ``(y, x)``; as text ``z,y,x z,y,x``.

    Examples
    --------
    >>> Points.from_text("4,10,12 4,30.5,12")
    ((4.0, 10.0, 12.0), (4.0, 30.5, 12.0))
    """

    __slots__ = ()

    @classmethod
    def of(cls, positions: Iterable[Iterable[float | str]]) -> Points:
        """Return positions, any iterables of finite numbers, as `Points`.

        Raises
        ------
        InputError
            If they have no two or three numbers each, as many in all, or one is not finite.
        """
        try:
            found = cls(tuple(float(v) for v in position) for position in positions)
        except (TypeError, ValueError) as error:
            msg = f"expected positions of numbers, got {positions!r}; write them as z,y,x z,y,x"
            raise InputError(msg) from error
        lengths = {len(position) for position in found}
        is_finite = all(math.isfinite(v) for position in found for v in position)
        if len(lengths) > 1 or not lengths <= {2, 3} or not is_finite:
            msg = (
                f"expected positions of two or three finite numbers, got {tuple(found)!r}; write "
                "them as z,y,x z,y,x"
            )
            raise InputError(msg)
        return found

    @classmethod
    def from_text(cls, text: str) -> Points:
        """Return the positions that a text such as ``"4,10,12 4,30,12"`` gives."""
        words = text.replace(";", " ").split()
        return cls.of([[part for part in word.split(",") if part] for word in words])

    def to_text(self) -> str:
        """Return the text that `from_text` reads."""
        return " ".join(",".join(f"{v:g}" for v in position) for position in self)

    def moved(self, by: Sequence[float]) -> Points:
        """Return the positions with `by` added, one number an axis."""
        return Points(tuple(v + b for v, b in zip(p, by, strict=True)) for p in self)


_SIMPLE = (bool, int, float, str, Points)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One option of a tool.

    Parameters
    ----------
    name : str
        As in the signature.
    type : type
        ``bool``, ``int``, ``float``, ``str`` or `Points`; that of the choices where there are any.
    default : object
        Value if left out; None also where `is_required`.
    label : str
        Words of the form, unit included.
    minimum, maximum : float, optional
        Bounds of a number, both allowed values themselves.
    choices : tuple
        The only values allowed; empty where any is.
    help : str
        One sentence for a tooltip and ``--help``.
    is_optional, is_required : bool
        Whether None is a value, and whether there is no default.
    shape : str
        For `Points`, what a person draws: ``points``, ``line``, ``path`` or ``polygon``.
    is_label : bool
        For a text, whether it is the name or id of a label of the mask.
    """

    name: str
    type: type
    default: object = None
    label: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[object, ...] = ()
    help: str = ""
    is_optional: bool = False
    is_required: bool = False
    shape: str = ""
    is_label: bool = False

    def checked(self, value: object) -> object:
        """Return `value` in the parameter's type.

        Numbers may come as text, as a command line gives them.

        Raises
        ------
        InputError
            If it cannot be converted, is out of bounds, or is not among the choices.
        """
        if value is None and self.is_optional:
            return None
        if self.choices:
            for choice in self.choices:
                if value == choice or str(value) == str(choice):
                    return choice
            known = ", ".join(map(str, self.choices))
            msg = f"expected {self.name} to be one of {known}, got {value!r}; choose one of them"
            raise InputError(msg)
        found = self._converted(value)
        if isinstance(found, int | float) and not self._is_within(found):
            bounds = " ".join(
                f"{word} {bound:g}"
                for word, bound in (("at least", self.minimum), ("at most", self.maximum))
                if bound is not None
            )
            msg = (
                f"expected {self.name} of {bounds or 'a number'}, got {value!r}; choose another "
                "value"
            )
            raise InputError(msg)
        return found

    def _points(self, value: object) -> Points:
        found = Points.from_text(value) if isinstance(value, str) else Points.of(_positions(value))
        wanted = {"line": 2, "path": 2, "polygon": 3}.get(self.shape, 1)
        if len(found) < wanted or (self.shape == "line" and len(found) > 2):
            exactly = "" if self.shape == "line" else "at least "
            msg = (
                f"expected {exactly}{wanted} positions for {self.name}, got {len(found)}; draw a "
                f"{self.shape or 'point'}, or write them as z,y,x z,y,x"
            )
            raise InputError(msg)
        return found

    def _is_within(self, number: float) -> bool:
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        return low <= number <= high  # false for not-a-number

    def _converted(self, value: object) -> object:
        msg = f"expected {self.name} as {self.type.__name__}, got {value!r}; choose another value"
        if self.type is Points:
            return self._points(value)
        if self.type is str and (isinstance(value, str) or self.is_label):
            return str(value)
        if self.type is bool:
            words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
            if isinstance(value, bool):
                return value
            if str(value).lower() in words:
                return words[str(value).lower()]
            raise InputError(msg)
        if isinstance(value, bool) or self.type is str:
            raise InputError(msg)
        try:
            number = float(str(value))
            whole = int(number) if self.type is int else 0
        except (ValueError, OverflowError) as error:
            raise InputError(msg) from error
        if self.type is int and whole != number:
            raise InputError(msg)
        return whole if self.type is int else number


def _positions(value: object) -> Iterable[Iterable[float]]:
    if isinstance(value, Iterable):
        return value
    msg = f"expected positions, got {value!r}; write them as z,y,x z,y,x"
    raise InputError(msg)


def parameters_of(function: Callable[..., object]) -> list[Parameter]:
    """Return the options of a tool in the order of its signature.

    Parameters
    ----------
    function : callable
        Its parameters other than ``mask``, ``image``, ``label``, ``hand`` and ``job`` are options,
        annotated with ``bool``, ``int``, ``float``, ``str``, `Points`, a ``Literal``, or one of
        them ``| None``; inside ``Annotated[type, {"min": .., "max": .., "label": .., "tooltip": ..,
        "shape": .., "is_label": ..}]`` for bounds, words and what a person draws or chooses.

    Raises
    ------
    TypeError
        If an annotation is missing or of another kind; a mistake of the tool's author.

    Examples
    --------
    >>> def tool(mask, *, label: int, size: Annotated[float, {"label": "size (mm)"}] = 2.0): ...
    >>> parameters_of(tool)[0].label
    'size (mm)'
    """
    # Postponed annotations are text until resolved, and lose their options without include_extras.
    hints = typing.get_type_hints(function, include_extras=True)
    found = []
    for name, part in inspect.signature(function).parameters.items():
        if name in _GIVEN:
            continue
        if name not in hints:
            msg = f"expected a type for parameter {name!r} of {function!r}, got none; annotate it"
            raise TypeError(msg)
        found.append(_parameter(name, hints[name], part.default))
    return found


def _parameter(name: str, hint: Any, default: object) -> Parameter:  # Any: a hint is any object
    options: Mapping[str, Any] = {}  # Any: values of a form's options
    if typing.get_origin(hint) is Annotated:
        hint, *extras = typing.get_args(hint)
        options = {k: v for extra in extras if isinstance(extra, Mapping) for k, v in extra.items()}
    is_optional = False
    if typing.get_origin(hint) in (Union, types.UnionType):
        rest = [h for h in typing.get_args(hint) if h is not type(None)]
        is_optional = len(rest) < len(typing.get_args(hint))
        hint = rest[0] if len(rest) == 1 else hint
    choices = tuple(options.get("choices", ()))
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        hint = type(choices[0])
    if hint not in _SIMPLE:
        msg = (
            f"expected bool, int, float, str, Points or a Literal for parameter {name!r}, got "
            f"{hint!r}; use one of them"
        )
        raise TypeError(msg)
    is_required = default is inspect.Parameter.empty
    return Parameter(
        name=name,
        type=hint,
        default=None if is_required else default,
        label=str(options.get("label", name.replace("_", " "))),
        minimum=options.get("min"),
        maximum=options.get("max"),
        choices=choices,
        help=str(options.get("tooltip", "")),
        is_optional=is_optional,
        is_required=is_required,
        shape=str(options.get("shape", "points" if hint is Points else "")),
        is_label=bool(options.get("is_label", False)),
    )


def checked_values(
    parameters: list[Parameter], values: Mapping[str, object], *, of: str
) -> dict[str, object]:
    """Return a value for every parameter: the one given, checked, or its default.

    Parameters
    ----------
    parameters : list of Parameter
        As from `parameters_of`.
    values : mapping of str to object
        What the person chose.
    of : str
        Name of the tool, for messages.

    Raises
    ------
    UnknownNameError
        If a value has no parameter.
    InputError
        If a value cannot be used, or a required one is missing.
    """
    names = [p.name for p in parameters]
    for name in values:
        if name not in names:
            raise UnknownNameError.of(f"parameter of {of}", name, names)
    result = {}
    for parameter in parameters:
        if parameter.name in values:
            result[parameter.name] = parameter.checked(values[parameter.name])
        elif parameter.is_required:
            msg = (
                f"expected a value for {parameter.name} of {of}, got none; give one "
                f"({parameter.label})"
            )
            raise InputError(msg)
        else:
            result[parameter.name] = parameter.default
    return result

"""Whole-number arithmetic over stored values: what codes a class or an object in a profile."""

from __future__ import annotations

import ast
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Values = npt.NDArray[np.int64]

_BINARY: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_LARGEST = 2**31
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Formula:
    """Whole-number arithmetic over the stored values of a pixel.

    Parameters
    ----------
    text : str
        Names ``V`` (the one value) or ``R G B A`` (channels), whole numbers, ``+ - *``, ``//`` and
        ``%`` by a number, comparisons (1 where true, 0 where not), brackets.

    Examples
    --------
    >>> import numpy as np
    >>> Formula("V//1000 + (V<1000)*V")({"V": np.array([7, 26001])})
    array([ 7, 26])
    """

    text: str

    def __post_init__(self) -> None:
        if not _is_arithmetic(self._tree()):
            raise _bad_formula(self.text)

    def _tree(self) -> ast.expr:
        try:
            if len(self.text) > _LONGEST:
                raise SyntaxError("too long")
            return ast.parse(self.text, mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise _bad_formula(self.text) from error

    @property
    def names(self) -> frozenset[str]:
        """The channels it asks for."""
        return frozenset(n.id for n in ast.walk(self._tree()) if isinstance(n, ast.Name))

    @property
    def is_threshold(self) -> bool:
        """Whether it only compares, so that blurred values do no harm."""
        tree = self._tree()
        inside = {
            name
            for node in ast.walk(tree)
            if isinstance(node, ast.Compare)
            for name in ast.walk(node)
            if isinstance(name, ast.Name)
        }
        return all(node in inside for node in ast.walk(tree) if isinstance(node, ast.Name))

    def __call__(self, channels: Mapping[str, Values]) -> Values:
        """Return one number for each entry of the channels."""
        size = next(iter(channels.values())).shape
        with np.errstate(over="ignore"):
            found = _evaluated(self._tree(), channels)
        return np.broadcast_to(np.asarray(found, np.int64), size)


def _is_arithmetic(node: ast.expr) -> bool:
    match node:
        case ast.Name(id=name):
            return name in ("V", "R", "G", "B", "A")
        case ast.Constant(value=int(number)):
            return not isinstance(number, bool) and number <= _LARGEST
        case ast.BinOp(left=left, op=ast.FloorDiv() | ast.Mod(), right=ast.Constant(value=int(n))):
            return 0 < n <= _LARGEST and _is_arithmetic(left)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult(), right=right):
            return _is_arithmetic(left) and _is_arithmetic(right)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant() as operand):
            return _is_arithmetic(operand)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARE:
            return _is_arithmetic(left) and _is_arithmetic(right)
    return False


def _bad_formula(text: str) -> FormatError:
    return FormatError(
        f"expected arithmetic like 'V//1000' or 'R//10*256+G', got {text[:80]!r}; use V or R, G, "
        "B, A, whole numbers, + - *, // and % by a number, and comparisons"
    )


def _evaluated(node: ast.expr, channels: Mapping[str, Values]) -> Any:  # Any: int or array
    match node:
        case ast.Name(id=name):
            return channels[name]
        case ast.Constant(value=number):
            return number
        case ast.UnaryOp(operand=ast.Constant(value=int(number))):
            return -number
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_evaluated(left, channels), _evaluated(right, channels))
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            found = _COMPARE[type(op)](_evaluated(left, channels), _evaluated(right, channels))
            return np.asarray(found, np.int64)
    raise TypeError(ast.dump(node))  # `_is_arithmetic` lets nothing else through

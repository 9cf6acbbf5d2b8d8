"""What `correct` must know of a tool beside its signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Around = Literal["label", "labels", "points"]
Need = Literal["image", "hu", "points"]
Reach = Callable[[Mapping[str, Any]], float]  # Any: values of a tool's options

F = TypeVar("F", bound=Callable[..., object])

_NAME = "__maskloop_traits__"


@dataclass(frozen=True, slots=True)
class Traits:
    """How far a tool reaches, what it may change, and whose work the result is.

    Parameters
    ----------
    reach : callable, optional
        From the values of the options, and the grid's ``"spacing"`` among them, to how far beyond
        the box of what it is `around` the tool looks or writes, in the unit of the grid; None for
        the whole mask. `correct` gives the tool no more than that box, so that its cost does not
        grow with the volume.
    around : tuple of {"label", "labels", "points"}
        What that box holds: the label, the labels that options name, the points of options.
    others : bool
        Whether labels other than its own may change.
    by_hand : bool
        Whether the result counts as painted by the person: then no model or tool changes it later.
    needs : tuple of {"image", "hu", "points"}
        Without which it cannot run.
    starts_empty : bool
        Whether it may run on a label without voxels.
    """

    reach: Reach | None = None
    around: tuple[Around, ...] = ("label",)
    others: bool = False
    by_hand: bool = False
    needs: tuple[Need, ...] = ()
    starts_empty: bool = False


def traits(
    *,
    reach: Reach | None = None,
    around: tuple[Around, ...] = ("label",),
    others: bool = False,
    by_hand: bool = False,
    needs: tuple[Need, ...] = (),
    starts_empty: bool = False,
) -> Callable[[F], F]:
    """Return a decorator that tells the traits of a tool; parameters as for `Traits`.

    Examples
    --------
    >>> @traits(reach=lambda values: values["margin"])
    ... def widen(mask, image=None, *, label: int, margin: float = 2.0): ...
    >>> traits_of(widen).reach({"margin": 3.0})
    3.0
    """
    found = Traits(reach, around, others, by_hand, needs, starts_empty)

    def tell(function: F) -> F:
        setattr(function, _NAME, found)
        return function

    return tell


def traits_of(function: Callable[..., object]) -> Traits:
    """Return the traits of a tool; of one that tells none, the most careful ones."""
    found = getattr(function, _NAME, None)
    return found if isinstance(found, Traits) else Traits()

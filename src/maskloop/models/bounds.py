"""Which numbers the card of a network of objects may tell, and what is said of others."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from maskloop.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from maskloop.models.cards import ModelCard

_LEAST = 1e-3  # of what must be over 0
_SHARES = (
    "first_score least_score most_covered most_iou most_shared nms overlap_of_proposals "
    "proposal things threshold"
)
_COUNTS = (
    "candidates cells detections features hardest longest points proposal_points proposals "
    "prototypes rounds samples"
)
_OTHERS: Mapping[str, tuple[type[int | float], float, float]] = {
    "convs": (int, 0, 64),
    "enlarge": (float, 0.01, 64),
    "fixed": (int, 0, 5),
    "head_window": (int, 0, math.inf),
    # Above 1 nothing is joined.
    "joining": (float, 0, math.inf),
    "least_area": (int, 0, math.inf),
    "least_pixels": (int, 0, math.inf),
    "least_stuff": (int, 0, math.inf),
    "overlap": (float, 0, 0.95),
    "reach": (float, _LEAST, math.inf),
    "semantic_weight": (float, 0, math.inf),
    "shortest": (int, 0, math.inf),
    "sigma": (float, _LEAST, math.inf),
    "width": (float, _LEAST, 4),
    "window": (int, 0, math.inf),
}
_NUMBERS: Mapping[str, tuple[type[int | float], float, float]] = {
    **dict.fromkeys(_SHARES.split(), (float, 0, 1)),
    **dict.fromkeys(_COUNTS.split(), (int, 1, math.inf)),
    **_OTHERS,
}
_SIZES = ("patch", "squashed")


def require_sound(card: ModelCard) -> None:
    """Raise `InputError` where a card tells what no network of objects can be built or run with.

    What it does not tell, or tells as nothing (None), is left to the family.
    """
    for key, value in card.parameters.items():
        if value is None or (key == "squashed" and not value):
            continue
        wanted = ""
        if key in _NUMBERS:
            kind, low, high = _NUMBERS[key]
            if not _is_number(value, kind) or not low <= value <= high:
                most = f"{low:g} or more" if high == math.inf else f"from {low:g} to {high:g}"
                wanted = f"a {'whole ' if kind is int else ''}number, {most},"
        elif key in _SIZES and not _is_size(value):
            wanted = "rows and columns, two whole numbers,"
        if wanted:
            msg = f"expected {wanted} under {key!r} of {card.name!r}, got {value!r}"
            raise InputError(f"{msg}; correct the card")


def _is_number(value: Any, kind: type[int | float]) -> bool:  # Any: JSON
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return kind is float or float(value).is_integer()


def _is_size(value: Any) -> bool:  # Any: JSON
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(_is_number(n, int) and n >= 1 for n in value)
    )

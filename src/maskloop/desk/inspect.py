"""What a network is, before it is trained: its size, its work, its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def inspect_family(
    family: str,
    *,
    variant: str = "",
    classes: int | None = None,
    channels: int | None = None,
    size: Sequence[int] = (),
) -> dict[str, Any]:  # Any: plain JSON values
    """Build a family's network with random weights and return what it is.

    Parameters
    ----------
    family : str
        Such as ``"unet"``; see `maskloop.desk.catalogue.list_families`.
    variant : str
        The first named where left out.
    classes : int, optional
        Outputs, the background included; the fewest that the family takes where left out.
    channels : int, optional
        Of the input; the family's own where left out.
    size : sequence of int
        ``(y, x)`` or ``(z, y, x)`` of the input; the family's window where left out.

    Returns
    -------
    dict
        ``parameters`` (weights and biases, frozen ones included, buffers not), ``gmac`` (10^9
        multiply-adds of one pass), ``output_shape``, ``memory_mb`` (most bytes of tensors alive at
        a time, in millions) and ``layers`` (class of torch -> count).

    Raises
    ------
    UnknownNameError
        If there is no such family or variant.
    InputError
        If the network takes no such classes, channels or size.
    """
    from maskloop.models.inspect import inspect

    found = inspect(family, variant=variant, classes=classes, channels=channels, size=size)
    return found.to_json()

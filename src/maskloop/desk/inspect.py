"""What a network is, before it is trained: its size, its work, its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.core.job import Job


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


def measure_memory(name: str, *, device: str = "auto", job: Job | None = None) -> dict[str, Any]:
    """Measure how much memory one pass of a model takes, and keep it on the user's own card.

    Nothing else may run in the process meanwhile: on the processor it is measured by its growth.

    Parameters
    ----------
    name : str
        Of a model whose weights are there or can be fetched.
    device : str
        As for `maskloop.predict`.
    job : Job, optional

    Returns
    -------
    dict
        ``memory`` (as a card holds it), ``window`` (what the network sees at a time), ``bytes``
        (of a pass over it), ``saved`` (whether the card has it now).

    Raises
    ------
    UnknownNameError, WeightsError, DeviceError
        As for `maskloop.predict`.
    InputError
        If memory cannot be measured on this system, or the network has no window.
    """
    import dataclasses

    from maskloop.models import FAMILIES, cards, weights
    from maskloop.models.memory import measure
    from maskloop.ops.device import choose

    card = cards.find_card(name)
    if not weights.present(card):
        weights.fetch(card, job)
    files = weights.paths(card)
    family = FAMILIES.get(card.family)
    used = measure(family, family.load(card, files), card, choose(device))
    window = card.window or tuple(family.patch(card))
    is_own = (cards.models_folder() / card.name / "card.json").is_file()
    if is_own:
        cards.save_card(dataclasses.replace(card, memory=used), files, overwrite=True)
    return {
        "memory": dataclasses.asdict(used),
        "window": list(window),
        "bytes": used.at(window),
        "saved": is_own,
    }

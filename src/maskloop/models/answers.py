"""Ask a family for all that is wanted of an image: labels, chances, probabilities, refinement."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from maskloop.core.errors import InputError
from maskloop.models import objects
from maskloop.models.base import (
    GivesChances,
    GivesProbabilities,
    Segmentation,
    Settles,
    things_of,
)
from maskloop.models.dense import label_ids, winners
from maskloop.ops import candidates, guided
from maskloop.ops.candidates import Chances
from maskloop.ops.guided import Refinement

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import numpy.typing as npt
    from torch import nn

    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.models.base import Family
    from maskloop.models.cards import ModelCard
    from maskloop.models.objects import Found
    from maskloop.ops.device import Device


def refined(
    card: ModelCard,
    asked: bool | int | Mapping[str, Any] | Refinement | None,  # Any: JSON
) -> ModelCard:
    """Return the card of a model whose answer is refined as asked; None leaves it to the card.

    Raises
    ------
    InputError
        If the model finds objects, or `asked` is no refinement.
    """
    if asked is None:
        return card
    wanted = Refinement.of(asked)
    told = {key: value for key, value in card.parameters.items() if key != "refine"}
    if wanted is not None:
        if card.task != "semantic":
            msg = (
                f"expected a model of classes to refine, got {card.name!r} which finds objects; "
                "leave the refinement out"
            )
            raise InputError(msg)
        told["refine"] = wanted.to_json()
    return replace(card, parameters=told)


def answer(
    family: Family,
    network: nn.Module,
    image: Image,
    *,
    card: ModelCard,
    device: Device,
    job: Job,
    wants_chances: bool = False,
    wants_probabilities: bool = False,
    wants_objects: bool = False,
) -> Segmentation:
    """Return what a network finds, refined where the card says so.

    A family that does not refine by itself has its probabilities refined on the image's grid, or,
    where it tells none, its labels. `Segmentation.objects` is there only where it is wanted, the
    best score first.

    Raises
    ------
    InputError
        If probabilities are wanted of a family that tells none, or objects of one that draws
        classes.
    """
    if wants_objects:
        require_objects(card)
    if wants_probabilities:
        return _with_probabilities(family, network, image, card, device, job)
    if wants_objects:
        found = family.segment(network, image, card=card, device=device, job=job)
        return replace(found, objects=_listed(found))
    segment = family.segment
    if wants_chances and isinstance(family, GivesChances):
        segment = family.segment_with_chances
    found = replace(segment(network, image, card=card, device=device, job=job), objects=None)
    asked = _left_to_refine(family, card)
    if asked is None:
        return found
    lookup = label_ids(found.labels)
    sure = np.stack([found.ids == i for i in lookup]).astype(np.float32)
    ids = lookup[winners(guided.refine(sure, _picture(image), asked))]
    return replace(found, ids=ids)


def _listed(found: Segmentation) -> tuple[Found, ...]:
    """Return the objects of an answer, the best score first; those of its ids where it has none."""
    told = objects.found_in(found.ids, found.labels)
    if found.objects is not None:
        told = [one for one in found.objects if one.region.any()]
    return tuple(sorted(told, key=lambda one: -one.score))


def require_objects(card: ModelCard) -> None:
    """Raise `InputError` where a model draws classes, of which there is no list."""
    if card.task == "semantic":
        msg = (
            f"expected a model that finds objects one by one, got {card.name!r} which draws "
            "classes; leave the overlaps out, or choose another model"
        )
        raise InputError(msg)


def _with_probabilities(
    family: Family, network: nn.Module, image: Image, card: ModelCard, device: Device, job: Job
) -> Segmentation:
    if not isinstance(family, GivesProbabilities):
        msg = (
            f"expected a model that tells probabilities, got {card.name!r} which tells none; "
            "leave them out, or choose another model"
        )
        raise InputError(msg)
    found = family.probabilities(network, image, card=card, device=device, job=job)
    asked = _left_to_refine(family, card)
    if asked is not None:
        found = guided.refine(found, _picture(image), asked)
    lookup, things = label_ids(card.labels), things_of(card)
    where = [int(np.flatnonzero(lookup == i)[0]) for i in things]
    chances = Chances(candidates.encode(found[where]), things) if things else None
    return Segmentation(lookup[winners(found)], card.labels, chances=chances, probabilities=found)


def _left_to_refine(family: Family, card: ModelCard) -> Refinement | None:
    if isinstance(family, Settles):
        return None
    return Refinement.of(card.parameters.get("refine"))


def _picture(image: Image) -> npt.NDArray[np.float32]:
    last = image.data if image.has_channels else image.data[..., None]
    return np.moveaxis(last, -1, 0).astype(np.float32)

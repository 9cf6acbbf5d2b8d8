"""What a card of objects may not tell, and that it is said in words."""

from __future__ import annotations

import dataclasses

import pytest

from maskloop.core.errors import InputError
from maskloop.core.labels import Label, LabelTable
from maskloop.models import FAMILIES
from maskloop.models.bounds import require_sound
from maskloop.models.cards import ModelCard, all_cards

_FAMILIES = ("maskrcnn", "panoptic", "instancefcn", "yolact", "solo", "polarmask", "adaptis")
_LABELS = LabelTable([Label(1, "nucleus", is_thing=True), Label(2, "matrix")])


def told(name: str, **parameters: object) -> ModelCard:
    card = FAMILIES.get(name).card("", _LABELS)
    return dataclasses.replace(card, parameters={**card.parameters, **parameters})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("width", "wide"),
        ("width", 0),
        ("features", -4),
        ("features", 1.5),
        ("enlarge", 0),
        ("enlarge", float("nan")),
        ("window", -5),
        ("overlap", 1.5),
        ("least_score", True),
        ("patch", [64]),
        ("patch", 0),
        ("squashed", 64),
    ],
)
@pytest.mark.parametrize("name", _FAMILIES)
def test_numbers_that_cannot_be_are_refused_before_anything_is_built(
    name: str, key: str, value: object
) -> None:
    with pytest.raises(InputError, match=rf"expected .* under '{key}' .*; correct the card"):
        FAMILIES.get(name).build(told(name, **{key: value}))


@pytest.mark.parametrize("name", ["maskrcnn", "panoptic", "instancefcn", "yolact"])
@pytest.mark.parametrize(
    "anchors", [[1, 2], [[[0, 8]]] * 5, [[[8, 8]]] * 7, [[[8, 8]], [[8, 8], [9, 9]]]]
)
def test_anchors_that_cannot_be_are_refused(name: str, anchors: object) -> None:
    narrow = {"backbone": "resnet18", "width": 0.25, "features": 16}
    with pytest.raises(InputError, match="expected anchors"):
        FAMILIES.get(name).build(told(name, anchors=anchors, **narrow))


@pytest.mark.parametrize("name", _FAMILIES)
def test_fresh_cards_and_their_recipes_are_sound(name: str) -> None:
    family = FAMILIES.get(name)
    for variant in family.variants:
        card = family.card(
            variant, LabelTable(list(_LABELS.values())[: 1 + (variant != "proposals")])
        )
        require_sound(card)
        for recipe in card.parameters.get("recipes", {}).values():
            require_sound(
                dataclasses.replace(
                    card, parameters={**card.parameters, **recipe.get("parameters", {})}
                )
            )


def test_shipped_cards_are_sound() -> None:
    shipped = [card for card in all_cards() if card.family in _FAMILIES]
    assert shipped
    for card in shipped:
        require_sound(card)

"""What a network may begin its training with: published backbones, a coarser model, a file."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from maskloop.core.errors import InputError, UnknownNameError
from maskloop.core.files import sha256_of
from maskloop.models import FAMILIES, weights
from maskloop.models.cards import ModelCard, all_cards, find_card

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from maskloop.core.job import Job


@dataclass(frozen=True, slots=True)
class Start:
    """Tensors to begin with.

    Parameters
    ----------
    name : str
        Of a model, of a backbone, or a file's path.
    files : mapping of str to Path
        Checked where there was something to check them against.
    model : ModelCard, optional
        The trained model they belong to; None for a backbone.
    """

    name: str
    files: Mapping[str, Path]
    model: ModelCard | None = None

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of all files."""
        from maskloop.models.base import read_state

        found: dict[str, Tensor] = {}
        for path in self.files.values():
            found.update(read_state(path))
        return found

    def prints(self) -> list[str]:
        """Return the name and the files' hashes: what makes two trainings the same."""
        return [self.name, *(sha256_of(path) for path in self.files.values())]


def backbones() -> list[ModelCard]:
    """Return published classifiers as cards; they segment nothing and stand in no menu."""
    path = Path(__file__).with_name("backbones.json")
    return [ModelCard.from_json(block) for block in json.loads(path.read_text(encoding="utf-8"))]


def find(name: str) -> ModelCard:
    """Return the model or the backbone called `name`: what can be fetched and verified.

    Raises
    ------
    UnknownNameError
        If there is none.
    """
    return next((card for card in backbones() if card.name == name), None) or find_card(name)


def backbone_of(card: ModelCard) -> ModelCard | None:
    """Return the published backbone that fits an untrained card, if there is one."""
    return next(iter(fitting(card)), None)


def fitting(card: ModelCard) -> list[ModelCard]:
    """Return the published backbones that an untrained network can begin with, its own first.

    A family that finds objects takes a residual network of any depth.
    """
    known = backbones()
    exact = [b for b in known if b.family == card.family and b.variant in ("", card.variant)]
    if not is_object_family(card):
        return exact
    residual = [b for b in known if b.name.startswith("resnet")]
    return sorted(residual, key=lambda b: _depth(b) != card.parameters.get("backbone"))


def is_object_family(card: ModelCard) -> bool:
    """Return whether a card's network finds objects with a residual network."""
    return hasattr(FAMILIES.get(card.family), "trunk")


def _names(card: ModelCard) -> set[str]:
    return {row.name for row in card.labels.values()}


def _for_labels(model: ModelCard, card: ModelCard) -> ModelCard:
    """Return the card of a model's network with the classes of another card."""
    return dataclasses.replace(
        card,
        variant=model.variant,
        base=model.name,
        channels=model.channels,
        title=f"{card.title.removesuffix(', untrained')} begun with {model.name}",
        sources=model.sources,
        licence=model.licence,
        licence_url=model.licence_url,
        parameters={k: v for k, v in model.parameters.items() if k != "outputs"},
    )


def _depth(backbone: ModelCard) -> str:
    return backbone.name.partition("-")[0]


def begin(card: ModelCard, told: str, job: Job) -> tuple[ModelCard, Start]:
    """Return the card to train, and the tensors its network begins with.

    From a trained model come its classes and what its card says of pixels and widths, so that both
    can be compared; from a backbone, how its pixels were normalised. A family that finds objects
    keeps the classes of the masks where they are others than the model's: its heads start anew.

    Parameters
    ----------
    card : ModelCard
        Of the untrained network.
    told : str
        A model of the same family, a backbone's name, or a file with a backbone's weights.
    job : Job
        Hears of a download.

    Raises
    ------
    InputError
        If the start is a model of another family.
    UnknownNameError
        If there is no such model, backbone or file.
    WeightsError
        If weights cannot be had, or are not what they should be.
    """
    fits = fitting(card)
    backbone = next((b for b in fits if b.name == told), None)
    if told in {known.name for known in all_cards()}:
        model = find_card(told)
        if model.family != card.family or not model.weights:
            msg = (
                f"expected a trained model of family {card.family!r} to start from, got {told!r} "
                f"of {model.family!r}; choose another"
            )
            raise InputError(msg)
        files = _files(model, job)
        if is_object_family(card) and _names(model) != _names(card):
            return _for_labels(model, card), Start(told, files)
        title = f"{card.title.removesuffix(', untrained')} begun with {model.name}"
        # How fast to train, and what a pass takes, are the finer network's own.
        own_recipes = {k: v for k, v in card.parameters.items() if k == "recipes"}
        begun = dataclasses.replace(
            model,
            variant=card.variant,
            title=title,
            memory=card.memory,
            parameters={**model.parameters, **own_recipes},
        )
        return begun, Start(told, files, model)
    if backbone is not None:
        return _on(backbone, card), Start(told, _files(backbone, job))
    path = Path(told)
    if fits and path.is_file():
        return _on(fits[0], card, path), Start(told, {path.name: path})
    own = [known.name for known in all_cards() if known.family == card.family and known.weights]
    known = [*(b.name for b in fits), *own]
    raise UnknownNameError.of(f"start (or file) for {card.name}", told, known)


def _files(card: ModelCard, job: Job) -> dict[str, Path]:
    return weights.paths(card) if weights.present(card) else weights.fetch(card, job)


def _on(backbone: ModelCard, card: ModelCard, file: Path | None = None) -> ModelCard:
    parameters = {**card.parameters, **backbone.parameters}
    sources = backbone.sources
    if is_object_family(card):
        # How deep the network is, a name tells; of a file, the card.
        if file is None:
            parameters["backbone"] = _depth(backbone)
        else:
            sources = (f"begun with {file.name}",)
    return dataclasses.replace(card, sources=(*card.sources, *sources), parameters=parameters)

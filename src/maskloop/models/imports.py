"""Weights that somebody published, from a local file to a model of the user's own."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from maskloop.core.errors import InputError, MissingFileError, WeightsError
from maskloop.core.files import sha256_of
from maskloop.core.labels import Label, LabelTable
from maskloop.models import FAMILIES, cards
from maskloop.models.base import Imports, key_difference, read_state, write_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.core.job import Job
    from maskloop.models.base import Family
    from maskloop.models.cards import ModelCard

_FILE = "weights.safetensors"


def import_weights(
    path: Path,
    network: str,
    name: str,
    *,
    labels: Sequence[str] = (),
    licence: str = "",
    overwrite: bool = False,
    job: Job | None = None,
) -> ModelCard:
    """Put weights from a file into a model of the user's own, and return its card as saved.

    Nothing in the file is run. Every tensor of the network must be in it, and nothing else.

    Parameters
    ----------
    path : Path
        Safetensors, or a PyTorch checkpoint of plain tensors.
    network : str
        ``FAMILY[:VARIANT]``, as in ``maskloop models inspect``.
    name : str
        Of the new model.
    labels : sequence of str
        Names of its classes, in order; COCO's 80 where left out.
    licence : str
        Of the weights, as their authors say.
    overwrite : bool
        Whether a model of that name in the user's folder may be replaced.
    job : Job, optional

    Raises
    ------
    UnknownNameError
        If there is no such family or variant.
    MissingFileError
        If there is no such file.
    WeightsError
        If the file is damaged, asks to run code, or holds other tensors than the network has.
    InputError
        If the name is taken, or a label named twice.
    """
    if not path.is_file():
        msg = f"expected a file with weights, got {path} which is none; give the path of one"
        raise MissingFileError(msg)
    family: Family = FAMILIES.get(network.partition(":")[0])
    card = _card(family, network.partition(":")[2], _table(labels))
    if job is not None:
        job.say(f"reading {path.name}")
    state = read_state(path)
    if isinstance(family, Imports):
        state = family.converted(card, state)
    with torch.device("meta"):
        built = family.build(card)
    words = key_difference(built.state_dict(), state)
    if words:
        msg = (
            f"expected the weights of {network} with {len(card.labels)} classes in {path}, but "
            f"they differ:\n{words}\nchoose the variant they are of, or give the names of their "
            "classes"
        )
        raise WeightsError(msg)
    if wrong := [key for key, value in state.items() if not torch.isfinite(value).all()]:
        msg = (
            f"expected finite numbers in {path}, got infinity or not-a-number in {wrong[0]}; "
            "fetch the file again"
        )
        raise WeightsError(msg)
    built.load_state_dict(state, strict=True, assign=True)
    imported = replace(
        card,
        name=name,
        title=f"{card.title.removesuffix(', untrained')}, imported from {path.name}",
        licence=licence or "not known: as its authors say",
        status="candidate",
        sources=(*card.sources, f"{path.name} (SHA-256 {sha256_of(path)})"),
        trained_on="not known: as its authors say",
    )
    with tempfile.TemporaryDirectory(prefix="maskloop-import-") as folder:
        written = Path(folder) / _FILE
        write_state(built, written)
        return cards.save_card(imported, {_FILE: written}, overwrite=overwrite)


def _card(family: Family, variant: str, labels: LabelTable) -> ModelCard:
    variant = variant or next(iter(family.variants), "")
    if isinstance(family, Imports):
        return family.published(variant, labels)
    return family.card(variant, labels)


def _table(names: Sequence[str]) -> LabelTable:
    if not names:
        coco = cards.find_card("maskrcnn-coco").labels
        names = [row.name for row in coco.values()]
    if len(set(names)) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        msg = f"expected the name of each class once, got {twice!r} twice; rename one"
        raise InputError(msg)
    return LabelTable(Label(i, name, is_thing=True) for i, name in enumerate(names, start=1))

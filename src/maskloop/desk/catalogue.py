"""What there is: models, formats, tools, weights. Listing imports no network."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskloop.core.errors import InputError, MaskloopError
from maskloop.core.parameters import Parameter, parameters_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maskloop.core.image import Image
    from maskloop.core.job import Job
    from maskloop.models import Listed
    from maskloop.models.cards import ModelCard
    from maskloop.models.weights import WeightState

Row = dict[str, Any]  # Any: plain JSON values


def list_models() -> list[Row]:
    """Return one row a model: shipped ones, those of other packages, then the user's own.

    Returns
    -------
    list of dict
        ``name title family variant task ndim labels things modality channels licence licence_url
        size status state reason proof limits trained_on metrics base recipes memory origin``.
        ``memory`` is what one pass takes (``bytes window device``), or None; ``labels`` is
        ``{id: name}`` with ids as text, ``things`` the names of those that can be counted;
        ``recipes`` are names besides ours; ``size`` is in bytes;
        ``state`` is ``"present"``, ``"to be fetched"``, ``"no weights"`` or ``"broken"`` (then
        ``reason`` says why and the rest is empty); ``folder`` is the name of a folder that the
        person has to point to where its weights cannot be downloaded, else empty; ``origin`` is
        ``"package"`` or ``"user"``.
    """
    from maskloop.models import cards

    folder = cards.models_folder()
    rows = [_model_row(card, folder) for card in cards.all_cards()]
    for broken in cards.broken_cards():
        is_user = Path(broken.path).is_relative_to(folder)
        rows.append(_broken_row(broken.name, broken.reason, "user" if is_user else "package"))
    return rows


def _model_row(card: ModelCard, folder: Path) -> Row:
    from maskloop.models import FAMILIES, weights

    is_user = (folder / card.name / "card.json").is_file()
    reason = ""
    try:
        if not card.weights:
            state = "no weights"
        else:
            state = "present" if weights.present(card) else "to be fetched"
            if state == "to be fetched" and all(
                w.kind in ("package", "file") for w in card.weights
            ):
                state, reason = "broken", "its weights are missing"
    except (MaskloopError, ImportError, OSError) as error:
        state, reason = "broken", str(error)
    if card.family not in FAMILIES:
        known = ", ".join(FAMILIES)
        state, reason = "broken", f"no family {card.family!r} (known: {known})"
    return {
        "name": card.name,
        "title": card.title,
        "family": card.family,
        "variant": card.variant,
        "task": card.task,
        "ndim": [2, 3] if card.ndim == 2 and card.parameters.get("slices", True) else [card.ndim],
        "labels": {str(i): name for i, name in card.labels.names.items()},
        "things": [row.name for row in card.labels.values() if row.is_thing],
        "modality": card.modality,
        "channels": card.channels,
        "licence": card.licence,
        "licence_url": card.licence_url,
        "size": card.size,
        "status": card.status,
        "state": state,
        "reason": reason,
        "folder": next(
            (w.source["folder"]["name"] for w in card.weights if "folder" in w.source), ""
        ),
        "proof": card.proof,
        "limits": list(card.limits),
        "trained_on": card.trained_on,
        "metrics": dict(card.metrics),
        "base": card.base,
        "recipes": list(card.parameters.get("recipes", ())),
        "memory": _memory_of(card),
        "origin": "user" if is_user else "package",
    }


def _memory_of(card: ModelCard) -> Row | None:
    if card.memory is None or not card.window:
        return None
    return {
        "bytes": card.memory.at(card.window),
        "window": list(card.window),
        "device": card.memory.device,
    }


def _broken_row(name: str, reason: str, origin: str) -> Row:
    empty: Row = dict.fromkeys(
        ("title", "family", "variant", "task", "modality", "licence", "licence_url"), ""
    )
    return {
        "name": name,
        **empty,
        "ndim": [],
        "labels": {},
        "things": [],
        "channels": 0,
        "size": 0,
        "status": "",
        "state": "broken",
        "reason": reason,
        "folder": "",
        "proof": "experimental",
        "limits": [],
        "trained_on": "",
        "metrics": {},
        "base": "",
        "recipes": [],
        "memory": None,
        "origin": origin,
    }


def why_not(model: str, image: Image) -> str:
    """Return in words why a model cannot be shown an image; empty if it can.

    Raises
    ------
    UnknownNameError
        If there is no such model.
    """
    from maskloop.models.cards import find_card

    return find_card(model).why_not(
        ndim=image.geometry.ndim,
        channels=image.channels,
        frames=image.frames if image.has_time else 0,
        name=image.name,
    )


def list_families() -> list[Row]:
    """Return one row a family of networks; imports no family, so that a menu is there at once.

    Returns
    -------
    list of dict
        ``name title tasks ndims variants recipes limits trainable state reason``. ``recipes`` is
        ``{variant: names}`` of those besides ours; ``limits`` are what no training can mend;
        ``state`` is ``"present"``, or ``"missing"``
        where a package that the family needs is not installed (then ``reason`` says how to). A
        family of another package is known by name only until it is used.
    """
    from maskloop.models import FAMILIES, LISTED, Listed

    return [_family_row(name, LISTED.get(name, Listed(name, (), ()))) for name in FAMILIES]


def _family_row(name: str, listed: Listed) -> Row:
    reason = ""
    if listed.needs:
        module, extra = listed.needs
        if importlib.util.find_spec(module) is None:
            reason = (
                f"expected {module} for the family {name!r}, got none installed; "
                f"run: {sys.executable} -m pip install 'napari-maskloop[{extra}]'"
            )
    return {
        "name": name,
        "title": listed.title,
        "tasks": list(listed.tasks),
        "ndims": list(listed.ndims),
        "variants": list(listed.variants),
        "recipes": {v: list(listed.recipes.get(v, ())) for v in listed.variants},
        "limits": list(listed.limits),
        "trainable": listed.is_trainable,
        "state": "missing" if reason else "present",
        "reason": reason,
    }


def list_formats() -> list[Row]:
    """Return one row a format.

    Returns
    -------
    list of dict
        ``name title suffixes reads writes proof state reason``; ``reads`` and ``writes`` are words
        such as ``"images, masks"``.
    """
    from maskloop import formats

    rows = []
    for name in formats.FORMATS:
        try:
            found = formats.get(name)
        except MaskloopError as error:
            rows.append(_broken_format(name, str(error)))
            continue
        reads = [("images", found.read_image), ("masks", found.read_mask)]
        writes = [("images", found.write_image), ("masks", found.write_mask)]
        rows.append(
            {
                "name": found.name,
                "title": found.title,
                "suffixes": list(found.suffixes),
                "reads": ", ".join(word for word, can in reads if can is not None),
                "writes": ", ".join(word for word, can in writes if can is not None),
                "proof": found.proof,
                "state": "present",
                "reason": "",
            }
        )
    return rows


def list_datasets() -> list[Row]:
    """Return one row a dataset format.

    Returns
    -------
    list of dict
        ``name title layout reads writes axes options proof``; ``axes`` is ``"2D"``, ``"3D"`` or
        ``"2D, 3D"``, ``options`` the names of the options it heeds.
    """
    from maskloop import datasets

    rows = []
    for name in datasets.DATASETS:
        found = datasets.get(name)
        rows.append(
            {
                "name": found.name,
                "title": found.title,
                "layout": found.layout,
                "reads": found.open is not None,
                "writes": found.write is not None,
                "axes": ", ".join(f"{n}D" for n in sorted(found.dims)),
                "options": sorted(found.options),
                "proof": found.proof,
            }
        )
    return rows


def _broken_format(name: str, reason: str) -> Row:
    return {
        "name": name,
        "title": name,
        "suffixes": [],
        "reads": "",
        "writes": "",
        "proof": "experimental",
        "state": "broken",
        "reason": reason,
    }


def list_tools() -> list[Row]:
    """Return one row a tool.

    Returns
    -------
    list of dict
        ``name summary parameters needs proof state reason``; ``parameters`` are JSON-ready.
    """
    from maskloop.tools import TOOLS
    from maskloop.tools.base import traits_of

    rows = []
    for name in TOOLS:
        try:
            tool = TOOLS.get(name)
            options = [_parameter_row(p) for p in parameters_of(tool)]
        except (MaskloopError, TypeError) as error:
            rows.append(_tool_row(name, "", [], (), "experimental", str(error)))
            continue
        summary = (tool.__doc__ or "").strip().split("\n")[0]
        # What a tool does is exact on any mask: it was shown so on made-up ones.
        needs = traits_of(tool).needs
        rows.append(_tool_row(name, summary, options, needs, "synthetic data only", ""))
    return rows


def _tool_row(
    name: str, summary: str, options: list[Row], needs: Sequence[str], proof: str, reason: str
) -> Row:
    return {
        "name": name,
        "summary": summary,
        "parameters": options,
        "needs": list(needs),
        "proof": proof,
        "state": "broken" if reason else "present",
        "reason": reason,
    }


def _parameter_row(option: Parameter) -> Row:
    return {
        "name": option.name,
        "type": option.type.__name__,
        "default": option.default,
        "label": option.label,
        "minimum": option.minimum,
        "maximum": option.maximum,
        "choices": list(option.choices),
        "help": option.help,
    }


def tool_parameters(name: str) -> list[Parameter]:
    """Return the options of a tool, in the order of its signature.

    Raises
    ------
    UnknownNameError
        If there is no such tool.
    """
    from maskloop.tools import TOOLS

    return parameters_of(TOOLS.get(name))


def weights_list(name: str) -> list[Row]:
    """Return where each file of a model's (or a backbone's) weights comes from and lies.

    Returns
    -------
    list of dict
        ``file path size sha256 source origin state``.
    """
    from maskloop.models import starts, weights

    card = starts.find(name)
    return [
        {
            "file": weight.file,
            "path": str(weights.location(card, weight)),
            "size": weight.size or int(weight.source.get("about", 0)),
            "sha256": weight.sha256,
            "source": weight.kind,
            "origin": weights.origin(weight),
            "state": "present" if weights.is_there(card, weight) else "absent",
        }
        for weight in card.weights
    ]


def weights_verify(name: str) -> list[Row]:
    """Return what is true of each file of a model's weights, hashed anew.

    Raises
    ------
    WeightsError
        If a file is there and is not what the card says; the message says which.
    """
    from maskloop.core.errors import WeightsError
    from maskloop.models import starts, weights

    card = starts.find(name)
    states = weights.verify(card)
    wrong = [s for s in states if s.state not in ("present", "absent")]
    if wrong:
        raise WeightsError(wrong[0].state)
    return [_state_row(state) for state in states]


def weights_fetch(
    name: str, *, source: Path | str | None = None, job: Job | None = None
) -> list[Row]:
    """Bring a model's weights into the store, or take them from a local file or folder.

    Raises
    ------
    UnknownNameError
        If there is no such model.
    WeightsError
        If they cannot be had, or are not what the card says.
    StorageError
        If the disk refuses.
    """
    from maskloop.models import starts, weights

    card = starts.find(name)
    if not card.weights:
        msg = f"expected a model with weights, got {name!r} which has none; train it first"
        raise InputError(msg)
    weights.fetch(card, job, source=None if source is None else Path(source))
    return [_state_row(state) for state in weights.verify(card)]


def _state_row(state: WeightState) -> Row:
    return {
        "file": state.file,
        "path": str(state.path),
        "size": state.path.stat().st_size if state.path.is_file() else state.size,
        "state": state.state,
    }

"""Let a model draw into the case of an image, leaving what people painted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maskloop.core.errors import InputError
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.redraw import redrawn

if TYPE_CHECKING:
    from pathlib import Path

    from maskloop.core.case import Case, Change
    from maskloop.loop.predict import Prediction, Predictor
    from maskloop.models.cards import ModelCard


def draft(
    case: Case,
    image: Image | Path | str,
    model: str | Predictor,
    *,
    device: str = "auto",
    candidates: bool = False,
    over_hand: bool = False,
    job: Job | None = None,
) -> Change:
    """Segment an image and make the result one step of its case's active mask.

    Parameters
    ----------
    case : Case
        Of the image, such as from `maskloop.open_case`.
    image : Image or path
    model, device
        As for `maskloop.predict`; or a `Predictor` that is loaded already.
    candidates : bool
        Whether the case's review gets a worklist of what the model nearly drew.
    over_hand : bool
        Whether voxels that a person painted may change; those of locked labels never do.
    job : Job, optional
        Progress and cancel.

    Returns
    -------
    Change
        The step, empty where the model drew what is there already, and what was refused.

    Raises
    ------
    InputError
        If the case has a time axis, or as for `maskloop.predict`.
    """
    from maskloop.loop.load import load
    from maskloop.loop.predict import Predictor

    job = job or Job()
    if case.mask.data.ndim != case.mask.geometry.ndim:
        msg = "expected a case of one time point, got a series; predict frame by frame"
        raise InputError(msg)
    pixels = image if isinstance(image, Image) else load(image, job=job)
    case.mask.require_on(pixels)
    predictor = model if isinstance(model, Predictor) else Predictor(model, device, job=job)
    found = predictor.predict(pixels, job, candidates=candidates)
    ids, labels = redrawn(case.mask, found.mask, hand=case.hand())
    change = case.change(
        ids,
        labels=labels,
        tool=found.model,
        words=f"{found.model}: {len(found.mask.labels)} labels",
        kind="model",
        author=found.model,
        about=facts(found, predictor.card),
        over_hand=over_hand,
    )
    if found.candidates:
        case.review.propose(found.candidates)
    if change.refused is not None:
        job.say(change.refused.words)
    return change


def facts(found: Prediction, card: ModelCard) -> dict[str, Any]:  # Any: plain JSON values
    """Return what a case keeps of a model run."""
    return {
        "model": found.model,
        "weights": {weight.file: weight.sha256 for weight in card.weights},
        "parameters": dict(card.parameters),
        "device": found.device,
        "seconds": round(found.seconds, 3),
    }

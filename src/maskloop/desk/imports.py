"""Take over weights that somebody published, from a file on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskloop.core.errors import InputError, MissingFileError

if TYPE_CHECKING:
    from maskloop.core.job import Job


def import_model(
    path: Path | str,
    network: str,
    name: str,
    *,
    labels: Path | str | None = None,
    licence: str = "",
    overwrite: bool = False,
    job: Job | None = None,
) -> dict[str, Any]:  # Any: plain JSON values
    """Put published weights from a local file into a model of your own.

    Nothing in the file is run, and nothing is downloaded. A file with other tensors than the
    network has is refused with the difference.

    Parameters
    ----------
    path : Path or str
        Safetensors, or a PyTorch checkpoint.
    network : str
        ``FAMILY[:VARIANT]``, such as ``"yolact:resnet101"``.
    name : str
        Of the new model.
    labels : Path or str, optional
        A text file with the name of a class on each line, in the order of the network's outputs;
        COCO's 80 where left out.
    licence : str
        Of the weights, as their authors say; it stays on the card.
    overwrite : bool
        Whether a model of that name in your folder may be replaced.
    job : Job, optional

    Returns
    -------
    dict
        ``model`` (name), ``path`` (its folder), ``labels`` (how many), ``card``.

    Raises
    ------
    UnknownNameError
        If there is no such family or variant.
    MissingFileError
        If a file is not there.
    WeightsError
        If the weights are damaged, ask to run code, or are another network's.
    InputError
        If the name is taken, or the names of the classes cannot be read.
    """
    from maskloop.models.cards import models_folder
    from maskloop.models.imports import import_weights

    card = import_weights(
        Path(path),
        network,
        name,
        labels=() if labels is None else _names(Path(labels)),
        licence=licence,
        overwrite=overwrite,
        job=job,
    )
    return {
        "model": card.name,
        "path": str(models_folder() / card.name),
        "labels": len(card.labels),
        "card": card.to_json(),
    }


def _names(path: Path) -> list[str]:
    if not path.is_file():
        msg = f"expected a file with a class on each line, got {path} which is none; write one"
        raise MissingFileError(msg)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        msg = f"expected names as UTF-8 text in {path}, got other bytes; save it as text"
        raise InputError(msg) from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        msg = f"expected the name of a class on each line of {path}, got none; write them"
        raise InputError(msg)
    return names

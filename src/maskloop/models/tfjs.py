"""Weights of TensorFlow.js layer models: a JSON description beside raw numbers. Runs nothing."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Array = npt.NDArray[np.float32]

_FORMAT = "layers-model"


def read(path: Path) -> tuple[list[dict[str, Any]], dict[str, Array]]:  # Any: JSON
    """Return the layers and the tensors of a model.

    Parameters
    ----------
    path : Path
        Its JSON file; the numbers lie beside it, under the plain names that it tells.

    Returns
    -------
    layers : list of dict
        ``{"class_name", "config"}`` of each layer, in order.
    tensors : dict of str to float32 array
        In the layout of Keras: kernels are ``(*kernel, in, out)``.

    Raises
    ------
    WeightsError
        If it is not such a model, or its files do not hold what it tells.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != _FORMAT:
            msg = f"its format is {found['format']!r}"
            raise ValueError(msg)
        layers = found["modelTopology"]["model_config"]["config"]["layers"]
        tensors: dict[str, Array] = {}
        for group in found["weightsManifest"]:
            tensors.update(_group(group, path.parent))
        told = [{"class_name": n["class_name"], "config": dict(n["config"])} for n in layers]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = (
            f"expected a TensorFlow.js model ({_FORMAT}) in {path}, got: {error}; take the folder "
            f"as it was published, the JSON file with its binary files"
        )
        raise WeightsError(msg) from error
    return told, tensors


def _group(group: Mapping[str, Any], folder: Path) -> dict[str, Array]:  # Any: JSON
    """Return the tensors of one group; they follow each other over its files."""
    parts = []
    for name in group["paths"]:
        if name != (folder / name).name:
            msg = f"weights at {name!r}, which is not a plain file name"
            raise ValueError(msg)
        parts.append((folder / name).read_bytes())
    raw, at = b"".join(parts), 0
    sizes = [4 * math.prod(told["shape"]) for told in group["weights"]]
    if sum(sizes) != len(raw):
        msg = f"{len(raw)} bytes of weights where {sum(sizes)} are told"
        raise ValueError(msg)
    found = {}
    for told, size in zip(group["weights"], sizes, strict=True):
        if told["dtype"] != "float32" or told.get("quantization"):
            msg = f"weights {told['name']!r} of {told['dtype']}, or quantised, not plain float32"
            raise ValueError(msg)
        values = np.frombuffer(raw[at : at + size], dtype="<f4").astype(np.float32)
        found[str(told["name"])] = values.reshape(told["shape"])
        at += size
    return found

"""How likely each class is, as layers over the image; no Qt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from maskloop.core.labels import Label
from maskloop.core.mask import Mask
from maskloop.gui import layers
from maskloop.gui.placement import GHOST, KEY

MOST = 8  # layers; more would bury the others in the list


def chance_layers(
    image: layers.Layer, mask: Mask, chances: npt.NDArray[np.float32], name: str
) -> list[layers.LayerData]:
    """Return a hidden layer for each class, dark where it is unlikely, in its colour elsewhere.

    Parameters
    ----------
    image : napari.layers.Image
        That was segmented, whole.
    mask : Mask
        What was drawn.
    chances : float32 array ``(1 + labels, *shape)``
        Of the background, then of the labels, on the mask's grid.
    name : str
        With which the layers' names begin.

    Returns
    -------
    list of layer data
        At most `MOST`: the classes that were drawn, then the likeliest of the others.
    """
    place = layers.placement_of(image)
    rows = list(zip(mask.labels.values(), chances[1:], strict=True))
    return [
        (
            place.shown(part, lead=0),
            {
                "name": f"{name}: {row.name}",
                "metadata": {KEY: place, GHOST: True},
                **layers.layout_of(image),
                "colormap": _colours(row),
                "contrast_limits": (0.0, 1.0),
                "blending": "additive",
                "visible": False,
            },
            "image",
        )
        for row, part in _shown_first(rows, mask)[:MOST]
    ]


def _shown_first(
    rows: Sequence[tuple[Label, Any]],  # Any: arrays
    mask: Mask,
) -> list[tuple[Label, Any]]:  # Any: arrays
    drawn = set(mask.ids())
    return sorted(rows, key=lambda pair: (pair[0].id not in drawn, -float(pair[1].max())))


def _colours(row: Label) -> Any:  # Any: a colormap of napari's
    from napari.utils.colormaps import Colormap

    return Colormap(["#000000", row.colour], name=row.colour)

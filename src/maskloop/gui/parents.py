"""Which image a Labels layer belongs to, and so where in the patient its labels lie; no Qt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from maskloop.core.errors import GeometryError
from maskloop.gui.layers import Layer, bare, placement_of, same_grid, table_of
from maskloop.gui.placement import GHOST, KEY


def image_behind(layer: Layer, layers: Sequence[Layer]) -> Layer | None:
    """Return the image layer that a Labels layer was made on; one that knows its grid first.

    None where images of several places fit: nothing tells which of them is meant.
    """
    fitting = _fitting(layer, layers)
    if _knows_its_grid(layer):
        own = placement_of(layer).geometry
        return next((o for o in fitting if own.matches(placement_of(o).geometry)), None)
    return None if _are_apart(fitting) else next(iter(fitting), None)


def parent_of(layer: Layer, layers: Sequence[Layer]) -> Layer | None:
    """Return the image layer whose grid a Labels layer is to be written on.

    None for a layer that knows its own grid and has no image here, and for pictures.

    Raises
    ------
    GeometryError
        If a volume's true place is unknown: no image fits, several at different places do, or
        the one that does was opened by another plugin, which keeps no patient grid.
    """
    place = placement_of(layer)
    found = image_behind(layer, layers)
    if not place.is_guessed or place.geometry.ndim != 3:
        return found
    fitting = _fitting(layer, layers)
    if found is not None and not placement_of(found).is_guessed:
        return found
    if found is not None and placement_of(found).geometry.ndim != 3:
        return found
    wanted = f"expected labels {layer.name!r} on an image whose place in the patient is known"
    if _are_apart(fitting):
        names = " and ".join(repr(other.name) for other in fitting if _knows_its_grid(other))
        msg = (
            f"{wanted}, got {names}, of one shape but at different places; remove all but the "
            f"labels' own image, or make the labels with New under Correct"
        )
    elif found is not None:
        msg = (
            f"{wanted}, got {found.name!r}, which another plugin opened and whose grid is lost; "
            f"open the image with maskloop and make the labels on it"
        )
    else:
        msg = (
            f"{wanted}, got no image of their shape and scale; open the image with maskloop and "
            f"make the labels on it"
        )
    raise GeometryError(msg)


def adopt(layer: Layer, layers: Sequence[Layer]) -> None:
    """Tell a volume of labels its true place, if it lies on the one image that knows it.

    Done as soon as it is seen: the image may be removed before the labels are saved.
    """
    place = placement_of(layer)
    if not place.is_guessed or place.geometry.ndim != 3:
        return
    found = image_behind(layer, layers)
    if found is not None and _knows_its_grid(found):
        layer.metadata[KEY] = replace(placement_of(found), labels=table_of(layer))


def _fitting(layer: Layer, layers: Sequence[Layer]) -> list[Layer]:
    images = [
        other
        for other in layers
        if type(bare(other)).__name__ == "Image" and GHOST not in other.metadata
    ]
    fitting = [other for other in images if same_grid(layer, other)]
    return sorted(fitting, key=lambda other: placement_of(other).is_guessed)


def _knows_its_grid(layer: Layer) -> bool:
    return not placement_of(layer).is_guessed


def _are_apart(layers: Sequence[Layer]) -> bool:
    known = [placement_of(layer).geometry for layer in layers if _knows_its_grid(layer)]
    return any(not known[0].matches(other) for other in known[1:])

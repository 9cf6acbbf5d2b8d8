"""The layers of one image of a dataset: taken away together, drafted on by a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maskloop.core.case import Change
from maskloop.gui import layers, model_step, parents
from maskloop.gui.dataset_ahead import Drafted
from maskloop.gui.host import Host
from maskloop.gui.layer_editor import LayerEditor
from maskloop.gui.placement import GHOST
from maskloop.gui.results import counted


def take_away(viewer: Any, ours: Sequence[Any]) -> None:  # Any: napari is untyped
    """Remove an image's layers, and what was made on it since: its labels, its probabilities."""
    image = next((x for x in ours if type(x).__name__ == "Image"), None)
    for layer in [layers.bare(x) for x in viewer.layers]:
        is_over = image is not None and _lies_on(viewer, layer, image)
        if is_over or any(layer is known for known in ours):
            viewer.layers.remove(layer)


def draw_draft(host: Host, editor: LayerEditor, drafted: Drafted) -> None:
    """Make what a model drew ahead a step of the image's case, and list what it nearly drew."""
    found = drafted.found
    words = counted(found.mask.labels)

    def done(change: Change) -> None:
        if found.candidates is not None:
            editor.case.review.propose(found.candidates)
            host.reviewed.emit()
        host.say(f"{found.model} drafted {drafted.item.name}: {words}.", "good")

    model_step.draw(
        editor,
        found.mask.checked(),
        (),
        done,
        tool=found.model,
        words=f"{found.model}: {words}",
        author=found.model,
        about=drafted.facts,
    )


def is_labels(layer: Any) -> bool:  # Any: a napari layer
    """Whether a layer holds labels."""
    return type(layer).__name__ == "Labels"


def _lies_on(viewer: Any, layer: Any, image: Any) -> bool:  # Any: napari layers
    if is_labels(layer):
        shown = [layers.bare(x) for x in viewer.layers]
        return parents.image_behind(layer, shown) is image
    is_chance = type(layer).__name__ == "Image" and GHOST in layer.metadata
    return is_chance and layers.same_grid(layer, image)

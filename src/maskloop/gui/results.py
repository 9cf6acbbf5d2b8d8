"""Where a model's result goes: its labels layer, and the layers of its probabilities; no Qt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.gui import layers
from maskloop.gui.chances import chance_layers


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What one press of Run asked for; layers are looked up again when the answer comes."""

    image: Any  # Any: a napari layer
    model: str
    frame: layers.Frame
    name: str


def result_layer(viewer: Any, wanted: Wanted, mask: Mask) -> Any:  # Any: napari is untyped
    """Return the layer that a model's result goes into; make an empty one if there is none."""
    from napari.layers import Layer

    base = wanted.image
    known = [layers.bare(x) for x in viewer.layers if x.name == wanted.name]
    fitting = [x for x in known if layers.same_grid(x, base) and x.editable]
    if fitting:
        target = fitting[0]
    else:
        data, options, kind = layers.blank_like(base, LabelTable(), wanted.name)
        room = layers.blank_like(base, mask.labels, wanted.name)[0].dtype
        target = layers.bare(viewer.add_layer(Layer.create(data.astype(room), options, kind)))
    viewer.layers.selection.active = target
    return target


def counted(table: LabelTable) -> str:
    """Return how many objects and how many classes a table holds, in words."""
    objects = sum(row.category is not None for row in table.values())
    classes = len(table) - objects
    told = [_many(objects, "object", "objects")] if objects else []
    told += [_many(classes, "class", "classes")] if classes or not objects else []
    return " and ".join(told)


def _many(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def add_chances(viewer: Any, wanted: Wanted, found: Any) -> None:  # Any: napari, a Prediction
    """Put the probabilities below the labels, in the place of those of an earlier run."""
    from napari.layers import Layer

    listed = viewer.layers
    active = listed.selection.active
    name = f"{wanted.name} probability"
    for old in [x for x in listed if x.name.startswith(f"{name}: ")]:
        listed.remove(old)
    for data in chance_layers(wanted.image, found.mask, found.probabilities, name):
        made = viewer.add_layer(Layer.create(*data))
        listed.move(listed.index(made), listed.index(active))
    listed.selection.active = active

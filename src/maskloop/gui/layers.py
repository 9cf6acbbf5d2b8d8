"""Image and Mask to napari layers and back, on the true grid; no Qt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from maskloop.core.errors import GeometryError, InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask, as_ids, present_ids
from maskloop.gui.placement import KEY, Placement
from maskloop.gui.windows import SOFT_TISSUE, looks_like_ct

OTHER_LABELS = "#b0b0b0"
PLACING = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")

Pixels = npt.NDArray[Any]  # Any: pixel types are chosen at run time
Layer = Any  # Any: napari layers are untyped
LayerData = tuple[Any, dict[str, Any], str]  # Any: napari's own definition
Frame = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Capture:
    """What a slow task needs of an image layer; taken in the GUI thread, read in any other."""

    array: Any  # Any: numpy, dask, zarr: whatever indexes like an array
    placement: Placement
    frame: Frame
    is_rgb: bool
    channel: int | None

    def image(self) -> Image:
        """Read the pixels and return them on the true grid.

        Raises
        ------
        InputError
            If axes are left over: more than one beside the spatial ones.
        """
        place = self.placement
        pixels = np.asarray(self.array[self.frame] if self.frame else self.array)
        if self.is_rgb and self.channel is not None:
            pixels = pixels[..., self.channel]
        has_channels = self.is_rgb and self.channel is None
        lead = place.lead - len(self.frame)
        if lead in (0, 1):
            data = place.restored(pixels, lead=lead)
            return Image(
                data,
                place.geometry,
                place.source,
                place.header,
                lead == 1,
                has_channels,
                place.title,
            )
        if lead < 0 and pixels.ndim - has_channels == 2:
            plane = Geometry.pixels(pixels.shape[:2])
            return Image(pixels, plane, place.source, None, False, has_channels)
        msg = (
            f"expected 2 or 3 spatial axes and at most one of time, got {pixels.ndim} axes; "
            f"choose a frame along the first axes"
        )
        raise InputError(msg)


def bare(layer: Layer) -> Layer:
    """Return the layer itself where napari hands a plugin a proxy of it."""
    return getattr(layer, "__wrapped__", layer)


def image_layers(image: Image, *, name: str | None = None) -> list[LayerData]:
    """Return layer data for an image: one layer, or one a channel where they are no colours."""
    name = name or image.name
    is_colour = image.channels in (3, 4) and image.data.dtype.kind in "uf"
    if image.has_channels and not is_colour:
        return [
            _image_layer(image.channel(c), f"{name} channel {c}") for c in range(image.channels)
        ]
    return [_image_layer(image, name)]


def _image_layer(image: Image, name: str) -> LayerData:
    place = Placement.of(image)
    shown = place.shown(image.data)
    options: dict[str, Any] = {"name": name, "metadata": {KEY: place}, **place.layout()}
    if image.has_channels:
        options["rgb"] = True
    else:
        options["contrast_limits"] = limits_of(image.data, place.geometry)
        options["colormap"] = "gray"
    return shown, options, "image"


def limits_of(data: Pixels, geometry: Geometry) -> tuple[float, float]:
    """Return contrast limits from a sample: the soft tissue window for CT, else 0.5 to 99.5 %."""
    sample = _sample(data)
    if geometry.unit == "mm" and looks_like_ct(sample):
        return SOFT_TISSUE.limits
    if not sample.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(sample, (0.5, 99.5)))
    if data.dtype == np.uint8 and geometry.unit == "px":
        low, high = 0.0, max(high, 1.0)
    return (low, high) if high > low else (low, low + 1)


def _sample(data: Pixels, wanted: int = 200_000) -> Pixels:
    step = max(1, round((data.size / wanted) ** (1 / max(data.ndim, 1))))
    values = np.asarray(data[(slice(None, None, step),) * data.ndim]).ravel()
    return values[np.isfinite(values)] if values.dtype.kind == "f" else values


def mask_layer(mask: Mask, *, name: str | None = None) -> LayerData:
    """Return layer data for a mask: a writable copy that napari can paint on, classes named."""
    mask = mask.checked()
    place = Placement.of(mask)
    ids = np.array(place.shown(mask.data), dtype=_paint_dtype(mask.labels), order="C")
    options = {"name": name or mask.name, "metadata": {KEY: place}, **place.layout()}
    return ids, {**options, **appearance(mask.labels)}, "labels"


def _paint_dtype(table: LabelTable) -> npt.DTypeLike:
    # Room for what a person adds: napari refuses to paint label 256 on uint8.
    highest = max(table, default=0)
    if table.kind == "classes" and highest < 255:
        return np.uint8
    return np.uint16 if highest < 65_000 else np.uint32


def appearance(table: LabelTable) -> dict[str, Any]:  # Any: keyword arguments of a Labels layer
    """Return colours and names of the ids for a Labels layer.

    Objects alone keep napari's cyclic colours: there, neighbours differ and new ids need no row.
    """
    from napari.utils.colormaps import DirectLabelColormap

    if not table:
        return {}
    rows = table.values()
    names = ["background", *(row.name for row in rows)]
    look: dict[str, Any] = {"features": {"index": [0, *table], "name": names}}
    if table.kind == "classes" or table.is_mixed:
        colours: dict[int | None, str] = {None: OTHER_LABELS, 0: "transparent"}
        colours |= {row.id: row.colour if row.visible else "transparent" for row in rows}
        look["colormap"] = DirectLabelColormap(color_dict=colours)
    return look


def blank_like(layer: Layer, table: LabelTable, name: str) -> LayerData:
    """Return an empty Labels layer over an image layer, its place and units copied."""
    place = replace(placement_of(layer), labels=table)
    options = {"name": name, "metadata": {KEY: place}, **layout_of(layer), **appearance(table)}
    return np.zeros(shape_of(layer), dtype=_paint_dtype(table)), options, "labels"


def layout_of(layer: Layer) -> dict[str, Any]:  # Any: keyword arguments of napari layers
    """Return everything that places a layer, for a new one beside it.

    All of it, always: layers in other units than their neighbours are drawn 1000 times too large.
    """
    return {name: getattr(layer, name) for name in PLACING}


def placement_of(layer: Layer) -> Placement:
    """Return where a layer's voxels truly lie; for a foreign layer, as its scale says."""
    own = layer.metadata.get(KEY)
    shape = shape_of(layer)
    if isinstance(own, Placement) and shape[own.lead :] == own.shape:
        return own
    names = [str(n).lower() for n in layer.axis_labels]
    lead = max(0, len(shape) - 3)
    if len(shape) == 3 and names[0] in ("t", "time", "frame", "c", "channel", "channels"):
        lead = 1
    grid = shape[lead:]
    if len(grid) == 2:
        geometry = Geometry.pixels(grid)
    else:
        geometry = Geometry.regular(grid, spacing_of(layer)[lead:])
    return Placement(geometry, tuple(range(len(grid))), (False,) * len(grid), lead, is_guessed=True)


def spacing_of(layer: Layer) -> tuple[float, ...]:
    """Return the step along each axis of a layer, in mm where its unit is a length."""
    origin = np.asarray(layer.data_to_world((0,) * layer.ndim))
    steps = []
    for axis, unit in enumerate(layer.units):
        one = [int(a == axis) for a in range(layer.ndim)]
        step = float(np.linalg.norm(np.asarray(layer.data_to_world(one)) - origin))
        steps.append(step * _in_mm(unit))
    return tuple(steps)


def _in_mm(unit: Any) -> float:  # Any: a pint unit, or its name
    import pint

    registry: Any = pint.application_registry  # Any: untyped in pint
    try:
        return float(registry.Quantity(1, str(unit)).to("mm").magnitude)
    except (pint.DimensionalityError, pint.UndefinedUnitError):
        return 1.0


def _array(layer: Layer) -> Any:  # Any: numpy, dask, zarr: whatever indexes like an array
    return layer.data[0] if layer.multiscale else layer.data


def shape_of(layer: Layer) -> tuple[int, ...]:
    """Return a layer's shape without colours, of its finest level."""
    return tuple(int(n) for n in _array(layer).shape[: layer.ndim])


def capture(layer: Layer, *, frame: Frame = (), channel: int | None = None) -> Capture:
    """Return what a worker needs to read an image layer; reads no pixels itself.

    Parameters
    ----------
    layer : napari.layers.Image
        Of any plugin.
    frame : tuple of int
        Index along each of the first axes that should not be part of the image.
    channel : int, optional
        The one wanted of a colour picture; all where None.
    """
    return Capture(_array(layer), placement_of(layer), tuple(frame), bool(layer.rgb), channel)


def image_of(layer: Layer, *, frame: Frame = (), channel: int | None = None) -> Image:
    """Return an image layer's pixels on the true grid; see `capture`."""
    return capture(layer, frame=frame, channel=channel).image()


def same_grid(layer: Layer, other: Layer) -> bool:
    """Whether two layers show arrays of one shape at one place."""
    shape = shape_of(layer)
    if shape != shape_of(other):
        return False
    ends = np.vstack([np.zeros(len(shape)), np.diag([max(n - 1, 1) for n in shape])])
    return all(
        np.allclose(layer.data_to_world(end), other.data_to_world(end), rtol=1e-4, atol=1e-3)
        for end in ends
    )


def frames_of(layer: Layer) -> tuple[str, ...]:
    """Return the names of the axes before the spatial ones: time, or another plugin's channels."""
    return tuple(str(name) for name in layer.axis_labels[: placement_of(layer).lead])


def is_ct(layer: Layer) -> bool:
    """Whether an image layer is a CT: as its file says, else by the values of one plane."""
    if layer.rgb:
        return False
    own = layer.metadata.get(KEY)
    if isinstance(own, Placement) and own.title:
        return own.title.startswith("CT")
    plane = _array(layer)[tuple(n // 2 for n in shape_of(layer)[:-2])]
    return looks_like_ct(np.asarray(plane[::4, ::4]))


def words_of(layer: Layer) -> str:
    """Return a layer's size in words, such as ``96 x 128 x 128 at 3 x 2.8 x 2.8 mm``."""
    place = placement_of(layer)
    size = " x ".join(map(str, shape_of(layer)))
    if place.geometry.unit == "px":
        return f"{size} pixels"
    steps = [place.geometry.spacing[axis] for axis in place.axes]
    known = ", size taken from the layer's scale" if place.is_guessed else ""
    return f"{size} at {' x '.join(f'{step:.3g}' for step in steps)} mm{known}"


def labels_placement(layer: Layer, image_layer: Layer | None = None) -> tuple[Placement, str]:
    """Return where a Labels layer lies and a notice, empty where that is certain.

    Raises
    ------
    GeometryError
        If the image has another shape than the labels.
    """
    place = placement_of(layer)
    if image_layer is None or not place.is_guessed:
        note = "its place is unknown: it is written with the scale of the layer"
        is_vague = place.is_guessed and place.geometry.ndim == 3
        return place, f"{layer.name!r} belongs to no image; {note}" if is_vague else ""
    if shape_of(layer) != shape_of(image_layer):
        msg = (
            f"expected labels {layer.name!r} of shape {shape_of(image_layer)}, as its image "
            f"{image_layer.name!r}, got {shape_of(layer)}; choose its own image"
        )
        raise GeometryError(msg)
    note = ""
    if not same_grid(layer, image_layer):
        note = f"{layer.name!r} has another scale than {image_layer.name!r}; it takes the image's"
    return replace(placement_of(image_layer), labels=place.labels), note


@dataclass(frozen=True, slots=True, eq=False)
class LabelsCapture:
    """A copy of a Labels layer's ids; taken in the GUI thread, made a mask in any other.

    Parameters
    ----------
    ids : array
        As the layer shows them.
    placement : Placement
    frame : tuple of int
        As for `capture`.
    note : str
        What is uncertain about the place; empty where nothing is.
    """

    ids: Pixels
    placement: Placement
    frame: Frame = ()
    note: str = ""

    def mask(self) -> Mask:
        """Return the mask on the true grid.

        Raises
        ------
        InputError
            If ids are negative.
        """
        place = self.placement
        ids = as_ids(self.ids, highest=max(place.labels, default=0))
        lead = place.lead - len(self.frame)
        if lead < 0:
            flat = Geometry.pixels(ids.shape)
            return Mask(ids, flat, place.labels, place.source, title=place.title)
        data = np.ascontiguousarray(place.restored(ids, lead=lead))
        return Mask(
            data, place.geometry, place.labels, place.source, place.header, title=place.title
        )


def capture_labels(
    layer: Layer, image_layer: Layer | None = None, *, frame: Frame = ()
) -> LabelsCapture:
    """Copy a Labels layer of any plugin for a worker.

    Parameters
    ----------
    layer : napari.layers.Labels
        Ids of any integer type.
    image_layer : napari.layers.Image, optional
        Gives the grid where the labels do not know theirs.
    frame : tuple of int
        Index along each of the first axes, as for `capture`.

    Raises
    ------
    GeometryError
        If the image has another shape than the labels.
    """
    place, note = labels_placement(layer, image_layer)
    ids = np.array(_array(layer)[tuple(frame)] if frame else _array(layer))
    return LabelsCapture(ids, replace(place, labels=table_of(layer)), tuple(frame), note)


def mask_of(
    layer: Layer, image_layer: Layer | None = None, *, frame: Frame = ()
) -> tuple[Mask, str]:
    """Return a copy of a Labels layer as a mask on the true grid, and a notice or ""."""
    seen = capture_labels(layer, image_layer, frame=frame)
    return seen.mask(), seen.note


def table_of(layer: Layer) -> LabelTable:
    """Return what a Labels layer's ids mean: ours, or its features' names; may be empty."""
    own = layer.metadata.get(KEY)
    if isinstance(own, Placement) and own.labels:
        return own.labels
    features = layer.features
    if not {"index", "name"} <= set(features.columns):
        return LabelTable()
    named = zip(features["index"], features["name"], strict=True)
    return LabelTable.classes({int(i): str(name) for i, name in named if int(i) > 0})


def set_table(layer: Layer, table: LabelTable) -> None:
    """Give a Labels layer's ids names and colours, keeping its place."""
    layer.metadata[KEY] = replace(placement_of(layer), labels=table)
    # A table that lost its last row must not leave that row's name behind.
    look = appearance(table) or {"features": {"index": [0], "name": ["background"]}}
    for name, value in look.items():
        setattr(layer, name, value)


def table_with_present(layer: Layer) -> LabelTable:
    """Return the table of a layer with a row for each id that occurs in it."""
    table = table_of(layer)
    missing = [i for i in present_ids(as_ids(np.asarray(_array(layer)))) if i not in table]
    if len(missing) > 20 or (table and table.kind == "objects"):
        return table.with_rows(LabelTable.objects(missing).values())
    return table.with_rows(Label(i, f"label {i}") for i in missing)


def apply_ids(layer: Layer, ids: Pixels, *, frame: Frame = (), since: Pixels | None = None) -> int:
    """Write ids, on the true grid, into a Labels layer as one undoable step.

    Parameters
    ----------
    layer : napari.layers.Labels
        With our placement or of the very shape of `ids`.
    ids : array
        On the true grid (of one frame, where `frame` is given).
    frame : tuple of int
        As for `capture`.
    since : array, optional
        Ids of that frame when the work began, as the layer shows them. Voxels that a person
        changed since then stay as they are.

    Returns
    -------
    int
        Number of voxels that changed.
    """
    place = placement_of(layer)
    lead = place.lead - len(frame)
    shown = ids if lead < 0 else place.shown(ids, lead=lead)
    now = layer.data[frame] if frame else layer.data
    changed = np.asarray(shown != now)
    if since is not None:
        changed &= now == since
    where = np.nonzero(changed)
    if not where[0].size:
        return 0
    values = np.asarray(shown)[where].astype(layer.data.dtype)
    fixed = tuple(np.full(where[0].shape, i) for i in frame)
    layer.data_setitem((*fixed, *where), values)
    return int(where[0].size)


def highest_id(layer: Layer) -> int:
    """Return the largest id that a Labels layer's integer type can hold."""
    return int(np.iinfo(layer.dtype).max) if np.dtype(layer.dtype).kind in "iu" else 1


def holds(layer: Layer, table: Mapping[int, Label]) -> bool:
    """Whether a Labels layer's integer type has room for all ids of a table."""
    return max(table, default=0) <= highest_id(layer)

"""Images and masks keep their place on the way to napari and back."""

from __future__ import annotations

import itertools
from pathlib import Path

import dask.array
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer

from maskloop.core.errors import GeometryError, InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.gui import layers, parents

SHAPE = (4, 5, 6)
ORIENTATIONS = [
    "".join(letters)
    for order in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*order)
]


def grid(orientation: str, *, tilt: float = 0.0) -> Geometry:
    """Return a grid of unequal steps whose array axes run as the letters say."""
    axes, flips = Geometry.regular(SHAPE, (1, 1, 1)).towards(orientation)
    shape = tuple(np.array(SHAPE)[np.argsort(axes)])
    regular = Geometry.regular(shape, (3.0, 2.0, 0.7), (11.0, -7.0, 5.0))
    turned = regular.transposed(axes, flips)
    cos, sin = np.cos(tilt), np.sin(tilt)
    rotation = np.eye(4)
    rotation[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, cos, -sin], [0, sin, cos]]
    )
    return Geometry(turned.shape, rotation @ turned.affine)


def volume(geometry: Geometry) -> Image:
    pixels = np.arange(np.prod(geometry.shape), dtype=np.int16).reshape(geometry.shape)
    return Image(pixels, geometry, Path("/cases/ct.nii.gz"), header="kept")


def layer_of(data: layers.LayerData) -> Layer:
    return Layer.create(*data)


@pytest.mark.parametrize("tilt", [0.0, 0.2])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_painted_voxel_keeps_its_world_position(orientation: str, tilt: float) -> None:
    image = volume(grid(orientation, tilt=tilt))
    shown = layer_of(layers.image_layers(image)[0])
    labels = layer_of(layers.mask_layer(Mask.like(image, np.zeros(SHAPE), {1: "liver"})))
    labels.data_setitem((np.array([1]), np.array([3]), np.array([2])), 1)

    mask, note = layers.mask_of(labels)

    assert note == ""
    (index,) = np.argwhere(mask.data == 1)
    assert image.data[tuple(index)] == shown.data[1, 3, 2]
    assert mask.geometry.matches(image.geometry)
    assert mask.header == "kept"


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_layer_shows_where_voxels_lie_in_the_patient(orientation: str) -> None:
    image = volume(grid(orientation))
    layer = layer_of(layers.image_layers(image)[0])
    for index in itertools.product(*[(0, n - 1) for n in image.geometry.shape]):
        x, y, z = image.geometry.to_world(index)
        position = layer.world_to_data((z, -y, -x))
        assert layer.data[tuple(np.rint(position).astype(int))] == image.data[index]
    assert np.allclose(layer.rotate, np.eye(3))
    assert np.allclose(layer.affine.affine_matrix, np.eye(4))
    assert tuple(layer.axis_labels) == ("S", "P", "L")
    assert {str(unit) for unit in layer.units} == {"millimeter"}


@settings(max_examples=25, deadline=None)
@given(orientation=st.sampled_from(ORIENTATIONS), seed=st.integers(0, 10_000))
def test_a_mask_comes_back_bit_for_bit(orientation: str, seed: int) -> None:
    image = volume(grid(orientation, tilt=0.1))
    ids = np.random.default_rng(seed).integers(0, 4, image.geometry.shape, dtype=np.uint8)
    mask = Mask.like(image, ids, {1: "liver", 2: "tumour", 3: "vessel"})
    layer = layer_of(layers.mask_layer(mask))
    back, _ = layers.mask_of(layer)
    assert np.array_equal(back.data, mask.data)
    assert back.data.flags.c_contiguous
    assert back.labels.names == mask.labels.names
    assert back.source == image.source


def test_an_image_comes_back_as_it_was_without_a_copy() -> None:
    image = volume(grid("RAI"))
    back = layers.image_of(layer_of(layers.image_layers(image)[0]))
    assert back.geometry is image.geometry
    assert np.shares_memory(back.data, image.data)
    assert np.array_equal(back.data, image.data)
    assert back.data.strides == image.data.strides


def test_ct_opens_in_the_soft_tissue_window() -> None:
    hounsfield = np.linspace(-1000, 1500, 120).reshape(SHAPE)
    ((_, options, _),) = layers.image_layers(Image(hounsfield, grid("SAR")))
    assert options["contrast_limits"] == (-160, 240)


def test_a_flat_image_still_gets_contrast_limits_that_napari_takes() -> None:
    layer = layer_of(layers.image_layers(Image(np.full(SHAPE, 7.0), grid("SAR")))[0])
    assert layer.contrast_limits == [7.0, 8.0]


def test_a_time_series_keeps_its_first_axis() -> None:
    geometry = grid("RAI")
    pixels = np.arange(3 * geometry.shape[0] * geometry.shape[1] * geometry.shape[2])
    series = Image(pixels.reshape(3, *geometry.shape), geometry, has_time=True)
    layer = layer_of(layers.image_layers(series)[0])
    assert np.array_equal(layers.image_of(layer).data, series.data)
    second = layers.image_of(layer, frame=(1,))
    assert np.array_equal(second.data, series.data[1])
    assert second.geometry.matches(geometry)


def test_colours_are_one_layer_and_other_channels_one_each() -> None:
    plane = Geometry.pixels((5, 6))
    colour = Image(np.zeros((5, 6, 3), np.uint8), plane, has_channels=True)
    five = Image(np.zeros((5, 6, 5), np.uint8), plane, has_channels=True)
    ((_, options, _),) = layers.image_layers(colour)
    assert options["rgb"]
    assert len(layers.image_layers(five)) == 5
    layer = layer_of(layers.image_layers(colour)[0])
    assert layers.image_of(layer).channels == 3
    assert layers.image_of(layer, channel=1).data.shape == (5, 6)


def test_foreign_images_of_every_kind_become_images() -> None:
    flat = ImageLayer(np.zeros((5, 6)))
    assert layers.image_of(flat).geometry.unit == "px"
    deep = ImageLayer(np.zeros((4, 5, 6)), scale=(3000, 700, 700), units=("um", "um", "um"))
    assert layers.image_of(deep).geometry.spacing == pytest.approx((3, 0.7, 0.7))
    lazy = ImageLayer(dask.array.ones((7, 4, 5, 6)))
    assert layers.image_of(lazy, frame=(2,)).data.shape == (4, 5, 6)
    assert layers.image_of(lazy, frame=(2, 1)).geometry.unit == "px"
    movie = ImageLayer(np.zeros((9, 5, 6)), axis_labels=("t", "y", "x"))
    assert layers.image_of(movie).has_time
    pyramid = ImageLayer([np.zeros((64, 64)), np.zeros((32, 32))], multiscale=True)
    assert layers.image_of(pyramid).data.shape == (64, 64)


def test_axes_left_over_are_refused_in_words() -> None:
    layer = ImageLayer(np.zeros((2, 3, 4, 5, 6)))
    with pytest.raises(InputError, match="choose a frame"):
        layers.image_of(layer)


@pytest.mark.parametrize("orientation", ["RAI", "SPL", "ALS"])
def test_labels_made_by_napari_on_our_ct_take_its_true_grid(orientation: str) -> None:
    image = volume(grid(orientation, tilt=0.3))
    viewer = ViewerModel()
    shown = viewer.add_layer(layer_of(layers.image_layers(image)[0]))
    viewer.layers.selection = {shown}
    viewer._new_labels()
    labels = viewer.layers[-1]
    labels.data_setitem((np.array([0]), np.array([3]), np.array([1])), 1)

    behind = parents.image_behind(labels, viewer.layers)
    mask, note = layers.mask_of(labels, behind)

    assert behind is shown
    assert note == ""
    assert mask.geometry.matches(image.geometry)
    (index,) = np.argwhere(mask.data)
    assert image.data[tuple(index)] == shown.data[0, 3, 1]


def test_labels_that_belong_to_no_image_say_so() -> None:
    mask, note = layers.mask_of(Labels(np.zeros(SHAPE, int), scale=(3, 2, 1)))
    assert mask.geometry.spacing == (3, 2, 1)
    assert "belongs to no image" in note


@pytest.mark.parametrize("tilt", [0.0, 0.2, 0.9])
def test_labels_to_be_written_find_the_one_image_they_were_made_on(tilt: float) -> None:
    viewer = ViewerModel()
    shown = viewer.add_layer(layer_of(layers.image_layers(volume(grid("LPI", tilt=tilt)))[0]))
    viewer.layers.selection = {shown}
    viewer._new_labels()
    labels = viewer.layers[-1]
    # What another plugin derives from our image has its place, but not its metadata.
    derived = viewer.add_image(shown.data * 2, **layers.layout_of(shown))
    assert parents.parent_of(labels, [derived, *viewer.layers]) is shown


def test_a_volume_of_labels_without_an_image_is_not_written() -> None:
    labels = Labels(np.zeros(SHAPE, int), scale=(3, 2, 1), name="theirs")
    other = layer_of(layers.image_layers(volume(grid("SAR")))[0])
    for around in ([], [other]):
        with pytest.raises(GeometryError, match=r"'theirs'.*no image of their shape and scale"):
            parents.parent_of(labels, around)


def test_labels_on_an_image_of_another_plugin_are_not_written() -> None:
    """Its scale may be right; where the patient's left is, nobody has kept."""
    viewer = ViewerModel()
    foreign = viewer.add_image(np.zeros(SHAPE), scale=(3, 1, 1), units=("mm",) * 3, name="mri")
    viewer.layers.selection = {foreign}
    viewer._new_labels()
    with pytest.raises(GeometryError, match=r"'mri', which another plugin opened.*open the image"):
        parents.parent_of(viewer.layers[-1], list(viewer.layers))
    made = layer_of(layers.blank_like(foreign, LabelTable(), "ours"))
    with pytest.raises(GeometryError, match="another plugin opened"):
        parents.parent_of(made, [foreign])


def test_labels_between_two_places_are_not_written() -> None:
    """Two scans of one shape and centre, turned differently: the layers look alike."""
    around = [
        layer_of(layers.image_layers(volume(turned), name=name)[0])
        for name, turned in (("first", centred(0.0)), ("second", centred(0.3)))
    ]
    assert layers.same_grid(*around)
    labels = Labels(np.zeros(SHAPE, int), **layers.layout_of(around[0]))
    with pytest.raises(GeometryError, match=r"'first' and 'second'.*different places"):
        parents.parent_of(labels, around)
    assert parents.image_behind(labels, around) is None
    known = layer_of(layers.blank_like(around[1], LabelTable(), "ours"))
    assert parents.parent_of(known, around) is around[1]


def centred(tilt: float) -> Geometry:
    """Return the same grid turned about its own centre."""
    found = grid("SAR", tilt=tilt)
    affine = found.affine.copy()
    affine[:3, 3] -= found.to_world([(n - 1) / 2 for n in SHAPE])
    return Geometry(found.shape, affine)


def test_pictures_and_films_need_no_place() -> None:
    viewer = ViewerModel()
    flat = viewer.add_image(np.zeros((5, 6)))
    assert parents.parent_of(Labels(np.zeros((5, 6), int)), []) is None
    assert parents.parent_of(Labels(np.zeros((5, 6), int)), [flat]) is flat
    film = viewer.add_image(np.zeros((3, 5, 6)), axis_labels=("t", "y", "x"))
    labels = Labels(np.zeros((3, 5, 6), int), axis_labels=("t", "y", "x"))
    assert parents.parent_of(labels, [film]) is film


def test_labels_turned_by_hand_are_not_those_of_the_image() -> None:
    shown = layer_of(layers.image_layers(volume(grid("SAR")))[0])
    labels = Labels(np.zeros(SHAPE, int), **layers.layout_of(shown))
    labels.rotate = 5.0
    assert not layers.same_grid(labels, shown)


def test_labels_of_another_shape_than_their_image_are_refused() -> None:
    image = ImageLayer(np.zeros((4, 5, 6)))
    with pytest.raises(GeometryError, match="choose its own image"):
        layers.mask_of(Labels(np.zeros((4, 5, 7), int)), image)


def test_negative_ids_are_refused() -> None:
    with pytest.raises(InputError, match="renumber"):
        layers.mask_of(Labels(np.array([[0, -1]])))


def test_a_result_is_one_step_that_undo_takes_back() -> None:
    image = volume(grid("RAI"))
    shown = layer_of(layers.image_layers(image)[0])
    table = LabelTable.classes({1: "liver", 2: "tumour"})
    labels = layer_of(layers.blank_like(shown, table, "ct_model"))
    ids = np.random.default_rng(0).integers(0, 3, image.geometry.shape, dtype=np.uint8)

    changed = layers.apply_ids(labels, ids)

    assert changed == np.count_nonzero(ids)
    assert np.array_equal(layers.mask_of(labels)[0].data, ids)
    labels.undo()
    assert not labels.data.any()
    labels.redo()
    assert np.array_equal(layers.mask_of(labels)[0].data, ids)


def test_voxels_painted_while_a_tool_ran_are_kept() -> None:
    labels = Labels(np.zeros((5, 6), np.uint8))
    before = labels.data.copy()
    labels.data_setitem((np.array([0]), np.array([0])), 2)
    layers.apply_ids(labels, np.ones((5, 6), np.uint8), since=before)
    assert labels.data[0, 0] == 2
    assert labels.data[1, 1] == 1


def test_a_frame_is_written_into_its_frame_only() -> None:
    movie = ImageLayer(np.zeros((3, 5, 6)), axis_labels=("t", "y", "x"))
    labels = layer_of(layers.blank_like(movie, LabelTable(), "cells"))
    layers.apply_ids(labels, np.ones((5, 6), np.uint8), frame=(1,))
    assert labels.data.sum() == 30
    assert labels.data[1].all()


def test_classes_are_named_coloured_and_can_be_hidden() -> None:
    table = LabelTable([Label(1, "liver", "#aa0000"), Label(2, "tumour", visible=False)])
    layer = Labels(np.zeros((5, 6), np.uint8))
    layers.set_table(layer, table)
    assert np.allclose(layer.get_color(1), (170 / 255, 0, 0, 1), atol=1e-3)
    assert layer.get_color(2)[3] == 0
    assert list(layer.features["name"]) == ["background", "liver", "tumour"]
    assert layers.table_of(layer).names == {1: "liver", 2: "tumour"}


def test_names_given_by_another_plugin_are_used() -> None:
    layer = Labels(np.zeros((5, 6), np.uint8), features={"index": [0, 4], "name": ["-", "cyst"]})
    assert layers.table_of(layer).names == {4: "cyst"}


def test_a_result_layer_copies_all_that_places_its_image() -> None:
    image = ImageLayer(np.zeros((4, 5, 6)), scale=(3, 2, 1), translate=(5, 6, 7), units=("um",) * 3)
    labels = layer_of(layers.blank_like(image, LabelTable(), "cells"))
    assert labels.units == image.units
    assert np.allclose(labels.extent.world, image.extent.world)

"""Sides, millimetres and voxels are told right, in all 48 orientations and oblique ones."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Layer

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.mask import Mask
from maskloop.gui import layers
from maskloop.gui.bearing import (
    CONVENTIONS,
    Facing,
    directions,
    edges,
    facing_of,
    guide_of,
    knows_patient,
    letters,
)
from maskloop.gui.readout import Readout, spot_at
from maskloop.gui.upright import Upright

SHAPE = (5, 6, 7)
ORIENTATIONS = [
    "".join(found)
    for order in itertools.permutations(("LR", "PA", "IS"))
    for found in itertools.product(*order)
]
PLANES = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1), "rolled": (0, 2, 1)}
TURNS = {"aligned": (0.0, 0.0), "12 degrees": (12.0, 0.0), "50 degrees": (50.0, 0.0)}
ENDS = (("L", "R"), ("P", "A"), ("I", "S"))
SHEAR = 0.25  # of a step, as a gantry tilted by 14 degrees leaves it


def grid(orientation: str, turn: str) -> Geometry:
    """Return a grid of unequal steps whose array axes run as the letters say, then turned."""
    axes, flips = Geometry.regular(SHAPE, (1, 1, 1)).towards(orientation)
    shape = tuple(np.array(SHAPE)[np.argsort(axes)])
    found = Geometry.regular(shape, (3.0, 2.0, 0.7), (11.0, -7.0, 5.0)).transposed(axes, flips)
    change = np.eye(4)
    if turn == "sheared":
        change[1, 2] = SHEAR
    else:
        angle = np.deg2rad(TURNS[turn][0])
        cos, sin = np.cos(angle), np.sin(angle)
        about_x = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
        small = np.deg2rad(7.0) if angle else 0.0
        cos, sin = np.cos(small), np.sin(small)
        change[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ about_x
    return Geometry(found.shape, change @ found.affine)


@cache
def scan(orientation: str, turn: str) -> tuple[Geometry, Layer]:
    """Return a grid and its layer; made once, not to be changed."""
    geometry = grid(orientation, turn)
    return geometry, shown(geometry)


def shown(geometry: Geometry, **options: Any) -> Layer:
    pixels = np.arange(np.prod(geometry.shape), dtype=np.int16).reshape(geometry.shape)
    return Layer.create(*layers.image_layers(Image(pixels, geometry, **options))[0])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_there_and_back_is_nothing_and_axes_are_named_right(orientation: str) -> None:
    for turn in (*TURNS, "sheared"):
        geometry, layer = scan(orientation, turn)
        found = layers.image_of(layer)
        assert found.geometry is geometry
        assert np.array_equal(found.data.ravel(), np.arange(found.data.size))

        assert np.all(layer.scale > 0)
        assert np.allclose(layer.rotate, np.eye(3))
        assert np.allclose(layer.affine.affine_matrix, np.eye(4))
        place = layers.placement_of(layer)
        assert layer.scale == pytest.approx([geometry.spacing[axis] for axis in place.axes])
        turned = geometry.transposed(place.axes, place.flips)
        assert turned.orientation == "".join(layer.axis_labels) == "SPL"

        if turn in ("aligned", "12 degrees"):
            continue  # the same for masks: in test_layers
        ids = np.random.default_rng(1).integers(0, 3, geometry.shape, dtype=np.uint8)
        mask = Mask.like(Image(found.data, geometry), ids, {1: "liver", 2: "tumour"})
        back, _ = layers.mask_of(Layer.create(*layers.mask_layer(mask)))
        assert np.array_equal(back.data, ids)
        assert back.geometry.matches(geometry)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_letters_stand_where_the_patient_goes_on(orientation: str) -> None:
    """Against the affine alone: step one voxel beyond an edge and see where it leads."""
    for turn in (*TURNS, "sheared"):
        _, layer = scan(orientation, turn)
        middle = spot_at(layer, layer.data_to_world((2, 2, 2)))
        ways = []
        for axis in np.eye(3):
            beyond = spot_at(layer, layer.data_to_world(np.array((2, 2, 2)) + axis))
            ways.append(beyond.point - middle.point)
        for order in PLANES.values():
            for convention in CONVENTIONS:
                facing = facing_of(layer, order, convention)
                found = edges(layer, order, facing)
                for edge, axis, sign in (
                    ("top", order[-2], -1 if facing.vertical == "down" else 1),
                    ("bottom", order[-2], 1 if facing.vertical == "down" else -1),
                    ("left", order[-1], -1 if facing.horizontal == "right" else 1),
                    ("right", order[-1], 1 if facing.horizontal == "right" else -1),
                ):
                    way = sign * ways[axis]
                    strongest = int(np.abs(way).argmax())
                    expected = ENDS[strongest][int(way[strongest] > 0)]
                    assert getattr(found, edge)[0] == expected
            if turn != "aligned":
                continue
            head_up = edges(layer, order, facing_of(layer, order))
            if order != PLANES["rolled"]:
                assert head_up.top in "SA"
                assert head_up.left in "RA"
                mirrored = edges(layer, order, facing_of(layer, order, "neurological"))
                assert mirrored.left == ("A" if order == PLANES["sagittal"] else "L")
                assert mirrored.top == head_up.top


def test_one_letter_near_an_axis_and_two_between_axes() -> None:
    assert letters((-1, 0.2, 0)) == "L"
    assert letters((-0.7, 0, 0.71)) == "SL"
    assert letters((0, 0, 0)) == ""


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_mouse_is_told_its_true_millimetres_and_voxel(orientation: str) -> None:
    for turn in (*TURNS, "sheared"):
        geometry, layer = scan(orientation, turn)
        place = layers.placement_of(layer)
        turned = geometry.transposed(place.axes, place.flips)
        stored = layers.image_of(layer).data
        for order in PLANES.values():
            for at in ((0, 0, 0), (0, 3, 1), (3, 0, 4), (1, 2, 3)):
                found = spot_at(layer, layer.data_to_world(at), order[-2:])
                assert found is not None
                assert layer.data[at] == stored[found.index]
                assert np.allclose(found.point, geometry.to_world(found.index), atol=1e-3)
            between = np.array([2.0, 3.0, 1.0])
            between[list(order[-2:])] += 0.25
            found = spot_at(layer, layer.data_to_world(between), order[-2:])
            assert found is not None
            assert np.allclose(found.point, turned.to_world(between), atol=1e-3)


def test_a_point_between_slices_is_told_on_the_slice_that_is_shown() -> None:
    layer = shown(grid("SAR", "12 degrees"))
    where = np.array(layer.data_to_world((2.4, 1, 1)))
    on_slice = spot_at(layer, where, (1, 2))
    exact = spot_at(layer, layer.data_to_world((2, 1, 1)))
    assert on_slice is not None
    assert exact is not None
    assert np.allclose(on_slice.point, exact.point)


def test_words_name_millimetres_hounsfield_units_and_the_label() -> None:
    geometry = Geometry.regular((4, 8, 8), (5.0, 2.0, 2.0), (-7.0, -7.0, -40.0))
    pixels = np.full(geometry.shape, -1000, np.int16)
    pixels[:, 4:] = 40
    pixels[1, 2, 3] = 57
    ids = np.zeros(geometry.shape, np.uint8)
    ids[1, 2, 3] = 1
    image = Image(pixels, geometry)
    viewer = ViewerModel()
    ct = viewer.add_layer(Layer.create(*layers.image_layers(image)[0]))
    mask = Mask.like(image, ids, {1: "liver"})
    liver = viewer.add_layer(Layer.create(*layers.mask_layer(mask)))
    # Index (1, 2, 3) of the file is (1, 8 - 1 - 2, 8 - 1 - 3) as shown: down is posterior.
    where = ct.data_to_world((1, 5, 4))
    readout = Readout(viewer)
    assert readout.text(where, ct, liver) == (
        "L 1.0  P 3.0  I 35.0 mm\n57 HU · liver (1) · [1, 2, 3]"
    )
    liver.visible = False
    assert "liver" not in readout.text(where, ct, liver)
    assert readout.text((0, 1e6, 0), ct, liver) == ""
    viewer.dims.ndisplay = 3
    assert readout.text(where, ct, liver) == ""


def test_only_ct_is_told_in_hounsfield_units() -> None:
    geometry = grid("SAR", "aligned")
    pixels = np.full(geometry.shape, -1000.0)
    pixels[..., 6] = 400
    viewer = ViewerModel()
    for title, is_ct in (("", True), ("CT series 4", True), ("MR series 2", False)):
        (data,) = layers.image_layers(Image(pixels, geometry, title=title))
        layer = viewer.add_layer(Layer.create(*data))
        text = Readout(viewer).text(layer.data_to_world((1, 1, 1)), layer, None)
        assert (" HU" in text) is is_ct
        assert layer.name == (title or "image")


def test_pictures_and_foreign_volumes_have_no_sides() -> None:
    viewer = ViewerModel()
    foreign = viewer.add_image(np.zeros((4, 5, 6)), scale=(3, 1, 1))
    assert not knows_patient(foreign)
    assert guide_of(viewer) is None
    assert Upright(viewer).letters == {}
    found = spot_at(foreign, (3, 1, 1))
    assert found is not None
    assert found.point is None
    assert Readout(viewer).text((3, 1, 1), foreign, None) == "0 · [1, 1, 1]"


def test_a_layer_mirrored_by_hand_changes_the_letters() -> None:
    layer = shown(grid("SAR", "aligned"))
    before = directions(layer, 3)[2]
    layer.scale = layer.scale * np.array([1, 1, -1])
    assert np.allclose(directions(layer, 3)[2], -before)
    assert facing_of(layer, (0, 1, 2)) == Facing("down", "left")


def test_letters_follow_axes_layers_time_and_the_switch() -> None:
    viewer = ViewerModel()
    upright = Upright(viewer)
    assert upright.letters == {}
    layer = viewer.add_layer(shown(grid("LPI", "aligned")))
    assert upright.letters == {"top": "A", "bottom": "P", "left": "R", "right": "L"}
    viewer.dims.order = (1, 0, 2)
    assert upright.letters == {"top": "S", "bottom": "I", "left": "R", "right": "L"}
    viewer.dims.transpose()
    assert set(upright.letters.values()) == set("SIRL")
    viewer.dims.transpose()
    upright.convention = "neurological"
    assert upright.letters["left"] == "L"
    assert np.all(layer.scale > 0)
    viewer.dims.order = (2, 0, 1)
    assert upright.letters == {"top": "S", "bottom": "I", "left": "A", "right": "P"}
    viewer.dims.ndisplay = 3
    assert upright.letters == {}
    assert str(viewer.scene.camera.handedness) == "right"
    viewer.dims.ndisplay = 2
    geometry = grid("RAS", "aligned")
    series = Image(np.zeros((3, *geometry.shape)), geometry, has_time=True)
    viewer.add_layer(Layer.create(*layers.image_layers(series)[0]))
    viewer.dims.order = (0, 1, 2, 3)
    upright.convention = "radiological"
    assert upright.letters == {"top": "A", "bottom": "P", "left": "R", "right": "L"}
    viewer.layers.clear()
    assert upright.letters == {}
    upright.release()
    assert not [name for name in viewer.canvas.overlays if "maskloop" in name]


def test_letters_of_a_panel_opened_again_stay_when_the_old_one_goes() -> None:
    viewer = ViewerModel()
    viewer.add_layer(shown(grid("LPI", "aligned")))
    old = Upright(viewer)
    new = Upright(viewer)
    old.release()
    assert len([name for name in viewer.canvas.overlays if "maskloop" in name]) == 4
    viewer.dims.order = (2, 0, 1)
    assert new.letters["left"] == "A"
    new.release()
    assert not [name for name in viewer.canvas.overlays if "maskloop" in name]


def test_a_stack_of_pictures_has_no_left_and_right() -> None:
    from pathlib import Path

    layer = shown(grid("SAR", "aligned"), source=Path("/data/stack.tif"))
    assert not knows_patient(layer)
    assert knows_patient(shown(grid("SAR", "aligned"), source=Path("/data/ct.nii.gz")))


def test_a_foreign_image_of_another_unit_is_no_guide() -> None:
    assert not knows_patient(ImageLayer(np.zeros((4, 5, 6)), units=("mm",) * 3, scale=(5, 1, 1)))

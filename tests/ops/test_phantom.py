"""Phantoms are pure functions of a seed, with the statistics of real scans."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from maskloop.core.errors import InputError
from maskloop.ops.phantom import nuclei_picture, phantom_ct

SMALL = {"shape": (64, 96, 96), "spacing": (3.0, 3.6, 3.6)}


@pytest.fixture(scope="module")
def scans():
    return [phantom_ct(seed, **SMALL) for seed in range(5)]


def test_a_seed_decides_every_voxel(scans):
    image, mask = phantom_ct(2, **SMALL)
    assert (image.data == scans[2][0].data).all()
    assert (mask.data == scans[2][1].data).all()
    assert (mask.data != scans[3][1].data).any()


def test_image_and_mask_share_a_grid_that_does_not_start_at_zero(scans):
    for image, mask in scans:
        mask.require_on(image)
        assert image.data.dtype == np.int16
        assert image.geometry.spacing == (3.0, 3.6, 3.6)
        assert (np.abs(image.geometry.affine[:3, 3]) > 1).all()
        assert mask.labels.names == {1: "liver", 2: "tumour"}


def test_the_liver_is_one_piece_on_the_right_of_a_livers_size(scans):
    for image, mask in scans:
        organ = mask.data > 0
        assert ndimage.label(organ, np.ones((3, 3, 3)))[1] == 1
        assert 500 < organ.sum() * image.geometry.voxel_size / 1000 < 3000
        centre = np.array(ndimage.center_of_mass(organ)) / organ.shape
        assert centre[2] > 0.55  # x runs to the right


def test_tumours_lie_inside_the_liver_and_are_darker(scans):
    for image, mask in scans:
        tumour = mask.data == 2
        if not tumour.any():
            continue
        liver = image.data[mask.data == 1]
        assert image.data[tumour].mean() < np.median(liver) - 8
        grown = ndimage.binary_dilation(tumour, np.ones((3, 3, 3)))
        assert (mask.data[grown] > 0).mean() > 0.6


def test_tissues_have_their_hounsfield_units():
    image, mask = phantom_ct(0, **SMALL, noise_hu=(12, 12), lesions=(0, 0))
    hu = image.data.astype(float)
    assert np.median(hu[:, :2, :2]) == pytest.approx(-1000, abs=10)
    core = ndimage.binary_erosion(mask.data == 1, iterations=3)
    assert 55 < np.median(hu[core]) < 145
    # What neighbours differ by is noise: the correlated noise of a soft kernel, not white.
    step = np.diff(hu, axis=1)[core[:, 1:] & core[:, :-1]]
    assert 5 < np.percentile(np.abs(step), 68.3) < 16
    assert (hu > 250).mean() > 0.002  # bone
    assert ((hu > -130) & (hu < -60)).mean() > 0.05  # fat
    assert (hu[-8:] < -700).mean() > (hu[:8] < -700).mean()  # lungs are above


@pytest.mark.parametrize(("few", "many"), [(0, 0), (3, 3), (8, 12)])
def test_as_many_lesions_as_asked_for_apart_from_each_other(few, many):
    for seed in range(3):
        _, mask = phantom_ct(seed, **SMALL, lesions=(few, many), diameters_mm=(4, 25))
        count = ndimage.label(mask.data == 2, np.ones((3, 3, 3)))[1]
        assert few <= count <= many


def test_diameters_are_those_asked_for():
    for diameter in (12.0, 30.0):
        volumes = []
        for seed in range(3):
            image, mask = phantom_ct(
                seed,
                shape=(72, 110, 110),
                spacing=(2.5, 3.0, 3.0),
                lesions=(2, 2),
                diameters_mm=(diameter, diameter),
            )
            pieces, count = ndimage.label(mask.data == 2, np.ones((3, 3, 3)))
            sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
            volumes += list(sizes * image.geometry.voxel_size)
        found = np.median((6 * np.array(volumes) / np.pi) ** (1 / 3))
        assert found == pytest.approx(diameter, rel=0.2)


def test_a_lesion_below_a_voxel_still_holds_one():
    _, mask = phantom_ct(1, **SMALL, lesions=(4, 4), diameters_mm=(1, 1))
    assert 1 <= (mask.data == 2).sum() <= 8


def test_noise_can_be_left_out():
    quiet, _ = phantom_ct(3, **SMALL, noise_hu=(0, 0))
    loud, _ = phantom_ct(3, **SMALL, noise_hu=(20, 20))
    body = quiet.data > -200  # air is cut off at -1024
    assert (loud.data.astype(int) - quiet.data)[body].std() == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize("shape", [(5, 96, 96), (40, 24, 24), (1, 8, 8)])
def test_any_field_of_view_gives_a_picture(shape):
    image, mask = phantom_ct(0, shape=shape, spacing=(5.0, 4.0, 4.0))
    assert image.data.shape == mask.data.shape == shape


@pytest.mark.parametrize(
    "options",
    [
        {"lesions": (3, 1)},
        {"diameters_mm": (0, 5)},
        {"noise_hu": (9, 2)},
        {"faint": 2.0},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InputError, match="expected"):
        phantom_ct(0, **options)


def test_nuclei_touch_and_are_objects():
    image, mask = nuclei_picture(1)
    assert image.data.dtype == np.uint8
    assert image.geometry.unit == "px"
    assert mask.labels.kind == "objects"
    assert len(mask.ids()) == len(mask.labels) >= 20
    pieces = ndimage.label(mask.data > 0)[1]
    assert pieces < 0.8 * len(mask.ids())
    for number in mask.ids():
        assert (mask.data == number).sum() >= 12
    assert image.data[mask.data > 0].mean() > image.data[mask.data == 0].mean() + 20


def test_nuclei_pictures_are_functions_of_their_seed():
    again = nuclei_picture(1)
    assert (again[0].data == nuclei_picture(1)[0].data).all()
    assert (again[1].data != nuclei_picture(2)[1].data).any()

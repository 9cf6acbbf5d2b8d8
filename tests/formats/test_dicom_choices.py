"""Gaps filled, uneven steps and tilt resampled: only as chosen, from true positions, and told."""

from __future__ import annotations

import numpy as np
import pytest

from maskloop.core.errors import GeometryError
from maskloop.core.job import Job
from maskloop.formats import dicom
from maskloop.formats.base import Choices
from tests.formats.dicom_slices import series, write

SIDE = 40
SLOPES = np.array((3.0, -2.0, 5.0))  # of a field that is linear in RAS+ mm


def read(path, job=None, **choices):
    return dicom.read_image(path, choices=Choices(**choices), job=job or Job())


def field(folder, places, *, right=(1.0, 0, 0), down=(0, 1.0, 0)):
    """Write slices at LPS places whose pixels are a linear field of the world."""
    right, down = np.array(right), np.array(down)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for number, place in enumerate(places):
        points = np.array(place) + rows[..., None] * 0.8 * down + columns[..., None] * 0.7 * right
        values = (points * (-1, -1, 1)) @ SLOPES * 10
        write(
            folder / f"s{number}",
            place,
            orientation=(*right, *down),
            pixels=np.rint(values).astype(np.int16),
            intercept=0,
            Rows=SIDE,
            Columns=SIDE,
        )
    return folder


def errors(image):
    """Return how far each voxel is from the linear field at its world position, in its units."""
    index = np.moveaxis(np.indices(image.data.shape), 0, -1)
    return np.abs(image.data - image.geometry.to_world(index) @ SLOPES * 10)


def test_a_gap_is_filled_only_when_chosen_and_told_with_its_place(tmp_path):
    series(tmp_path, [0, 3, 9, 12], intercept=0)
    with pytest.raises(GeometryError, match=r"1 missing.*--fill-gap"):
        read(tmp_path)
    with pytest.raises(GeometryError, match="1 missing"):
        read(tmp_path, resample=True)
    job = Job()
    image = read(tmp_path, job, fill_gap=True)
    assert image.data[:, 0, 0].tolist() == [0, 30, 60, 90, 120]
    assert image.data.dtype == np.int16
    np.testing.assert_allclose(image.geometry.spacing, (3, 0.8, 0.7))
    assert any("1 missing slices were computed" in n and "6.00" in n for n in job.notes)
    assert image.header.is_derived


def test_two_gaps_of_two_are_filled_in_place(tmp_path):
    image = read(series(tmp_path, [0, 1, 4, 5, 8], intercept=0), fill_gap=True)
    assert image.data[:, 0, 0].tolist() == [10 * n for n in range(9)]


def test_more_computed_slices_than_real_ones_are_refused(tmp_path):
    series(tmp_path, [0, 1, 60])
    with pytest.raises(GeometryError, match="58 missing"):
        read(tmp_path, fill_gap=True)


def test_filling_a_gap_keeps_the_tilt(tmp_path):
    field(tmp_path, [(0, 0.9 * z, 3.0 * z) for z in (0, 1, 3, 4)])
    image = read(tmp_path, fill_gap=True)
    assert errors(image).max() <= 1
    np.testing.assert_allclose(image.geometry.to_world((4, 0, 0)), (0, -3.6, 12), atol=1e-9)


def test_uneven_steps_are_resampled_from_true_positions(tmp_path):
    field(tmp_path, [(0, 0, z) for z in (0, 3, 6, 10, 13, 16.5)])
    with pytest.raises(GeometryError, match=r"equal steps.*--resample"):
        read(tmp_path)
    with pytest.raises(GeometryError, match="equal steps"):
        read(tmp_path, fill_gap=True)
    job = Job()
    image = read(tmp_path, job, resample=True)
    assert image.geometry.spacing[0] == pytest.approx(16.5 / 6)
    assert errors(image).max() <= 1
    ends = image.geometry.to_world([(0, 0, 0), (6, 0, 0)])
    np.testing.assert_allclose(ends, [(0, 0, 0), (0, 0, 16.5)], atol=1e-9)
    assert any("3.00 to 4.00 mm" in note for note in job.notes)
    assert image.header.is_derived


@pytest.mark.parametrize("lean", [(0.0, 0.9), (0.7, -0.4), (-1.3, 0.0)])
@pytest.mark.parametrize("heights", [(0, 1, 2, 3, 4), (0, 1, 2, 3.4, 4.4, 6)])
def test_a_tilt_is_made_upright_by_choice(tmp_path, lean, heights):
    field(tmp_path, [(lean[0] * z, lean[1] * z, 3.0 * z) for z in heights])
    image = read(tmp_path, resample=True)
    axes = image.geometry.affine[:3, :3]
    np.testing.assert_allclose(axes.T @ axes, np.diag(np.diag(axes.T @ axes)), atol=1e-9)
    # Outside the slanted stack lies the lowest value; a block in the middle is inside everywhere.
    inside = errors(image)[:, 12:-12, 12:-12]
    assert inside.size
    assert inside.max() <= 1
    first = image.geometry.to_index((0.0, 0.0, 0.0))
    assert first[0] == pytest.approx(0)


def test_an_oblique_tilt_is_made_upright_too(tmp_path):
    right, down = np.array((0.8, 0.6, 0)), np.array((0, 0, -1.0))
    normal = np.cross(right, down)
    places = [np.array((5.0, 6, 7)) + z * (3 * normal + 0.5 * right - 0.3 * down) for z in range(5)]
    image = read(field(tmp_path, places, right=right, down=down), resample=True)
    assert errors(image)[:, 8:-8, 8:-8].max() <= 1


def test_a_regular_upright_stack_is_left_as_it_is(tmp_path):
    series(tmp_path, [0, 3, 6, 9])
    plain, chosen = read(tmp_path), read(tmp_path, resample=True, fill_gap=True)
    np.testing.assert_array_equal(plain.data, chosen.data)
    np.testing.assert_array_equal(plain.geometry.affine, chosen.geometry.affine)
    assert not chosen.header.is_derived


def test_choices_that_had_nothing_to_do_say_so(tmp_path):
    job = Job()
    read(series(tmp_path, [0, 3, 6]), job, resample=True, fill_gap=True)
    assert any("no slice is missing" in note for note in job.notes)
    assert any("upright and evenly spaced" in note for note in job.notes)


def test_a_gap_in_a_resampled_stack_is_told_with_its_place(tmp_path):
    job = Job()
    places = [(-10.0, -20.0 + 0.5 * z, z) for z in (0.0, 3.0, 9.0, 12.0)]
    read(field(tmp_path, places), job, resample=True, fill_gap=True)
    assert any(
        "missing slices were computed" in note and "1 after 3.00 mm" in note for note in job.notes
    )


def test_a_stray_slice_far_away_is_not_resampled(tmp_path):
    field(tmp_path, [(0, 0, z) for z in (0, 1, 2, 3.5, 900)])
    with pytest.raises(GeometryError, match="take stray slices out"):
        read(tmp_path, resample=True)


def test_slices_beside_their_line_are_refused_and_resampled_by_choice(tmp_path):
    field(tmp_path, [(0, 0, 0), (0, 0, 3), (2.1, 0, 6), (0, 0, 9), (0, 0, 12)])
    with pytest.raises(GeometryError, match=r"2\.10 mm beside it.*--resample"):
        read(tmp_path)
    assert errors(read(tmp_path, resample=True))[:, 4:-4, 4:-4].max() <= 1


def test_small_jitter_of_positions_is_no_problem(tmp_path):
    field(tmp_path, [(0, 0.01 * (z % 2), 3 * z + 0.005 * (z % 3)) for z in range(9)])
    assert read(tmp_path).data.shape[0] == 9


def test_one_slice_without_depth_is_refused(tmp_path):
    write(tmp_path / "a", (0, 0, 0), SliceThickness=None)
    with pytest.raises(GeometryError, match="its depth is not known"):
        read(tmp_path)

"""Geometry: the one place that touches an affine."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.spatial.transform import Rotation

from maskloop.core.errors import GeometryError
from maskloop.core.geometry import Geometry

ORIENTATIONS = [
    "".join(pair[flip] for pair, flip in zip(order, flips, strict=True))
    for order in itertools.permutations(("LR", "PA", "IS"))
    for flips in itertools.product((0, 1), repeat=3)
]


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any rotation, shear up to 0.3, steps from 0.2 to 8 mm, axes in any order and direction."""
    angles = draw(npst.arrays(float, 3, elements=st.floats(-180, 180)))
    shear = np.eye(3)
    shear[0, 1], shear[0, 2], shear[1, 2] = draw(
        npst.arrays(float, 3, elements=st.floats(-0.3, 0.3))
    )
    steps = draw(npst.arrays(float, 3, elements=st.floats(0.2, 8)))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ shear * steps
    affine[:3, 3] = draw(npst.arrays(float, 3, elements=st.floats(-500, 500)))
    return Geometry(draw(st.tuples(*[st.integers(1, 40)] * 3)), affine)


@given(geometries(), npst.arrays(float, (5, 3), elements=st.floats(-50, 50)))
def test_to_index_undoes_to_world(grid: Geometry, index: np.ndarray) -> None:
    np.testing.assert_allclose(grid.to_index(grid.to_world(index)), index, atol=1e-6)


@given(
    geometries(),
    st.permutations(range(3)),
    st.tuples(*[st.booleans()] * 3),
    st.randoms(use_true_random=False),
)
def test_transposed_keeps_every_voxel_in_its_place(grid, axes, flips, random) -> None:
    turned = grid.transposed(axes, flips)
    index = np.array([random.randrange(n) for n in grid.shape])
    moved = index[list(axes)]
    moved = np.where(flips, np.array(turned.shape) - 1 - moved, moved)
    np.testing.assert_allclose(turned.to_world(moved), grid.to_world(index), atol=1e-6)


@given(geometries())
def test_cropped_keeps_every_voxel_in_its_place(grid: Geometry) -> None:
    box = tuple(slice(n // 2, n) for n in grid.shape)
    part = grid.cropped(box)
    np.testing.assert_allclose(
        part.to_world([0, 0, 0]), grid.to_world([n // 2 for n in grid.shape]), atol=1e-9
    )


@given(geometries())
def test_padding_then_cropping_is_nothing(grid: Geometry) -> None:
    wider = grid.padded((1, 2, 3), (4, 0, 1))
    back = wider.cropped(tuple(slice(b, b + n) for b, n in zip((1, 2, 3), grid.shape, strict=True)))
    assert back.matches(grid)


@given(geometries(), st.tuples(*[st.floats(0.3, 9)] * 3))
def test_resampled_keeps_the_outer_edges(grid: Geometry, spacing: tuple[float, ...]) -> None:
    other = grid.resampled(spacing)
    for corner in itertools.product((0, 1), repeat=3):
        edge = np.array(
            [-0.5 if c == 0 else n - 0.5 for c, n in zip(corner, grid.shape, strict=True)]
        )
        mine = np.array(
            [-0.5 if c == 0 else n - 0.5 for c, n in zip(corner, other.shape, strict=True)]
        )
        np.testing.assert_allclose(other.to_world(mine), grid.to_world(edge), atol=1e-6)


@pytest.mark.parametrize("wanted", ORIENTATIONS)
def test_towards_reaches_all_48_orientations(wanted: str) -> None:
    grid = Geometry.regular((4, 5, 6), (3, 1, 2), (10, 20, 30))
    assert grid.transposed(*grid.towards(wanted)).orientation == wanted


@given(geometries())
def test_orientation_agrees_with_nibabel_where_axes_are_near_the_world(grid: Geometry) -> None:
    cosines = np.abs(grid.affine[:3, :3] / np.array(grid.spacing))
    if cosines.max(axis=0).min() < 0.8:  # beyond about 37 degrees conventions may differ
        return
    assert grid.orientation == "".join(nib.aff2axcodes(grid.affine))


def test_orientation_uses_each_world_axis_once_at_50_degrees() -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("zyx", [50, 50, 50], degrees=True).as_matrix()
    letters = Geometry((5, 5, 5), affine).orientation
    assert sorted("LR".find(c) >= 0 for c in letters).count(True) == 1
    assert sorted("IS".find(c) >= 0 for c in letters).count(True) == 1


def test_matches_allows_a_hundredth_of_a_voxel_and_no_more() -> None:
    grid = Geometry.regular((10, 10, 10), (2, 1, 1))
    near, far = grid.affine.copy(), grid.affine.copy()
    near[0, 3] += 0.009
    far[0, 3] += 0.011
    assert grid.matches(Geometry(grid.shape, near))
    assert not grid.matches(Geometry(grid.shape, far))


def test_difference_names_millimetres_and_the_worst_corner() -> None:
    grid = Geometry.regular((10, 10, 10), (2, 1, 1))
    turned = grid.affine.copy()
    turned[0, 2] = 1.1  # the x axis steps 1.1 mm instead of 1
    words = grid.difference(Geometry(grid.shape, turned))
    assert "0.9 mm" in words
    assert "9)" in words


def test_voxel_size_is_the_determinant_for_sheared_grids() -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.5
    assert Geometry((2, 2, 2), affine).voxel_size == pytest.approx(1.0)


def test_a_photograph_has_pixels_and_no_patient_axes() -> None:
    grid = Geometry.pixels((3, 4))
    assert (grid.unit, grid.spacing, grid.orientation) == ("px", (1.0, 1.0), "")
    np.testing.assert_array_equal(grid.to_world([2, 3]), [3, 2])


@pytest.mark.parametrize(
    ("shape", "affine", "word"),
    [
        ((3, 3, 3), np.full((4, 4), np.nan), "finite"),
        ((3, 3, 3), np.zeros((4, 4)), "inverted"),
        ((3, 3, 3), np.eye(3), "shape"),
        ((3,), np.eye(2), "axes"),
        ((3, 0, 3), np.eye(4), "axes"),
    ],
)
def test_a_useless_grid_is_refused_in_words(shape, affine, word: str) -> None:
    with pytest.raises(GeometryError, match=word):
        Geometry(shape, affine)


def test_the_affine_cannot_be_changed_in_place() -> None:
    grid = Geometry.regular((2, 2, 2), (1, 1, 1))
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 7

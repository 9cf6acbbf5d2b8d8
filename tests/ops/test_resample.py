"""Grids against torch, SciPy, SimpleITK and ramps whose values are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maskloop.core.errors import GeometryError, InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.ops import resample

SIZES = [
    ((20, 30, 40), (37, 55, 61)),
    ((20, 30, 40), (20, 60, 80)),
    ((9, 30, 40), (27, 11, 13)),
    ((1, 8, 9), (3, 20, 11)),
    ((30, 40), (77, 31)),
    ((1, 1, 1), (2, 3, 4)),
    ((5, 6, 7), (5, 6, 7)),
]


def _blobs(shape, classes=4, seed=0):
    raw = np.random.default_rng(seed).normal(size=shape)
    raw = ndimage.gaussian_filter(raw, 1.0 if min(shape) > 1 else 0.0)
    return np.digitize(raw, np.quantile(raw, np.linspace(0.4, 0.9, classes - 1))).astype(np.uint8)


def _torch_linear(planes, size):
    mode = "trilinear" if planes.ndim == 4 else "bilinear"
    stack = torch.from_numpy(np.ascontiguousarray(planes)).double()[None]
    return torch.nn.functional.interpolate(stack, size=size, mode=mode)[0].numpy()


def _one_hot(ids, classes):
    return ids[None] == np.arange(classes).reshape(-1, *[1] * ids.ndim)


def _grid(shape, spacing=None):
    if len(shape) == 2:
        return Geometry.pixels(shape)
    return Geometry.regular(shape, spacing or (1.0,) * 3, (3.0, -70.0, 12.0))


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64, np.int32])
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_linear_pixels_equal_torchs(old, new, dtype):
    data = (np.random.default_rng(1).normal(size=old) * 40 + 100).clip(0, 250).astype(dtype)
    wanted = tuple(a / b for a, b in zip(old, new, strict=True))
    found = resample.image(Image(data, _grid(old)), wanted)
    assert found.data.dtype == dtype
    assert found.geometry.shape == new
    expected = _torch_linear(data[None].astype(np.float64), new)[0]
    slack = 0.5 + 1e-3 if np.dtype(dtype).kind in "iu" else 1e-3
    assert np.abs(found.data - expected).max() <= slack


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (5.0, 0.7, 0.9)])
def test_a_ramp_of_world_positions_stays_one(order, spacing):
    grid = _grid((24, 30, 33), (2.5, 1.1, 0.8))
    for world in range(3):
        points = grid.to_world(
            np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
        )
        found = resample.image(Image(points[..., world], grid), spacing, order=order)
        where = np.stack(np.meshgrid(*map(np.arange, found.geometry.shape), indexing="ij"), -1)
        expected = found.geometry.to_world(where)[..., world]
        inside = grid.to_index(found.geometry.to_world(where))
        # Beyond the outermost centres the last value holds; a spline feels that from afar.
        rim = 0 if order == 1 else 8
        is_in = ((inside >= rim) & (inside <= np.array(grid.shape) - 1 - rim)).all(-1)
        assert is_in.any()
        assert np.abs(found.data - expected)[is_in].max() < (1e-9 if order == 1 else 2e-3)


def test_the_box_keeps_its_outermost_edges():
    grid = _grid((24, 30, 33), (2.5, 1.1, 0.8))
    found = resample.image(Image(np.zeros(grid.shape, np.int16), grid), (1.5, 1.5, 1.5))
    for end in (-0.5, 0.5):
        ours = found.geometry.to_world([(n - 1) / 2 + end * n for n in found.geometry.shape])
        theirs = grid.to_world([(n - 1) / 2 + end * n for n in grid.shape])
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_cubic_pixels_equal_scipys_grid_mode():
    data = np.random.default_rng(2).normal(size=(12, 15, 18)).astype(np.float32)
    found = resample.image(Image(data, _grid(data.shape)), (0.5, 1.5, 0.75), order=3).data
    zoom = [m / n for n, m in zip(data.shape, found.shape, strict=True)]
    expected = ndimage.zoom(data, zoom, order=3, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_cubic_overshoot_stays_in_the_dtype():
    data = np.zeros((10, 10), np.uint8)
    data[4:6, 4:6] = 255
    found = resample.image(Image(data, _grid(data.shape)), (0.4, 0.4), order=3).data
    assert found.max() == 255
    assert found[0, 0] <= 1


def test_time_and_channels_are_carried_along():
    data = np.random.default_rng(3).normal(size=(2, 6, 7, 8, 3)).astype(np.float32)
    whole = Image(data, _grid((6, 7, 8)), has_time=True, has_channels=True)
    found = resample.image(whole, (0.5, 1.4, 1.0))
    part = resample.image(whole.frame(1).channel(2), (0.5, 1.4, 1.0))
    np.testing.assert_array_equal(found.data[1, ..., 2], part.data)


def test_pixels_equal_simpleitks_linear_resampling():
    sitk = pytest.importorskip("SimpleITK")
    data = np.random.default_rng(4).normal(size=(20, 24, 28)).astype(np.float32)
    grid = _grid(data.shape, (2.0, 1.0, 1.5))
    found = resample.image(Image(data, grid), (1.3, 1.3, 1.3))
    source = sitk.GetImageFromArray(data)
    source.SetSpacing(grid.spacing[::-1])
    filt = sitk.ResampleImageFilter()
    filt.SetInterpolator(sitk.sitkLinear)
    filt.SetSize(found.data.shape[::-1])
    filt.SetOutputSpacing(found.geometry.spacing[::-1])
    steps = zip(found.geometry.spacing[::-1], grid.spacing[::-1], strict=True)
    filt.SetOutputOrigin([(a - b) / 2 for a, b in steps])
    theirs = sitk.GetArrayFromImage(filt.Execute(source))
    inner = (slice(2, -2),) * 3  # SimpleITK gives 0 past the outermost centres
    np.testing.assert_allclose(found.data[inner], theirs[inner], atol=1e-4)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_labels_win_the_vote_of_one_hot_maps(old, new):
    ids = _blobs(old)
    votes = _torch_linear(_one_hot(ids, 4), new)
    found = resample.labels(ids, new)
    assert found.dtype == ids.dtype
    won = np.take_along_axis(votes, found[None].astype(np.int64), 0)[0]
    assert (won >= votes.max(0) - 1e-6).all()
    assert (found == votes.argmax(0)).mean() > 0.99  # the rest are exact ties


def test_ties_go_to_the_lowest_label():
    ids = np.array([[3, 1]], np.uint8)
    assert resample.labels(ids, (1, 3)).tolist() == [[3, 1, 1]]
    ids = np.array([[9, 4], [7, 4]], np.uint8)
    assert resample.labels(ids, (3, 3))[1, 1] == 4  # two votes of four


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_votes_hold_for_any_shape(data):
    old = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=3))
    new = [data.draw(st.integers(1, 17)) for _ in old]
    seed = data.draw(st.integers(0, 1000))
    ids = np.random.default_rng(seed).integers(0, 3, old).astype(np.uint16)
    votes = _torch_linear(_one_hot(ids, 3), new)
    found = resample.labels(ids, new)
    won = np.take_along_axis(votes, found[None].astype(np.int64), 0)[0]
    assert (won >= votes.max(0) - 1e-6).all()


def test_two_labels_need_no_further_look():
    ids = (_blobs((12, 13, 14)) > 1).astype(np.uint8)
    assert (resample.labels(ids, (20, 26, 9), n=2) == resample.labels(ids, (20, 26, 9))).all()


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_scores_become_the_labels_of_interpolated_scores(old, new):
    raw = np.random.default_rng(5).normal(size=(6, *old)).astype(np.float32)
    expected = _torch_linear(raw, new)
    found = resample.scores(raw, new)
    assert found.dtype == np.uint8
    won = np.take_along_axis(expected, found[None].astype(np.int64), 0)[0]
    assert (won >= expected.max(0) - 1e-5).all()


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_nearest_equals_torchs_nearest_exact(old, new):
    ids = _blobs(old)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(ids)[None, None].float(), size=new, mode="nearest-exact"
    )[0, 0].numpy()
    ours = resample.nearest(ids, new)
    at = [(np.arange(m) + 0.5) * n / m % 1 for n, m in zip(old, new, strict=True)]
    untied = np.ix_(*(np.minimum(a, 1 - a) > 1e-6 for a in at))
    assert (ours[untied] == theirs[untied]).all()


def test_results_are_new_arrays():
    ids = _blobs((5, 6, 7))
    for found in (
        resample.labels(ids, ids.shape),
        resample.nearest(ids, ids.shape),
        resample.to_grid(ids, _grid(ids.shape), _grid(ids.shape), order=1),
        resample.image(Image(ids, _grid(ids.shape)), (1, 1, 1)).data,
    ):
        assert not np.shares_memory(found, ids)
        assert (found == ids).all()


def test_bad_shapes_spacings_and_orders_are_refused():
    ids = _blobs((5, 6, 7))
    with pytest.raises(InputError, match="shape of 3 axes"):
        resample.labels(ids, (5, 6))
    with pytest.raises(GeometryError, match="above 0"):
        resample.image(Image(ids, _grid(ids.shape)), (1, 0, 1))
    with pytest.raises(InputError, match="order from 0"):
        resample.image(Image(ids, _grid(ids.shape)), (2, 1, 1), order=5)


ORIENTATIONS = [
    (axes, flips)
    for axes in [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)]
    for flips in [(False,) * 3, (True, False, True), (True, True, True)]
]


@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS)
def test_a_turned_grid_gives_the_turned_array(axes, flips):
    grid = _grid((9, 11, 13), (3.0, 1.0, 2.0))
    data = np.random.default_rng(6).integers(-900, 900, grid.shape).astype(np.int16)
    target = grid.transposed(axes, flips)
    steps = tuple(slice(None, None, -1 if f else 1) for f in flips)
    wanted = data.transpose(axes)[steps]
    for order in (0, 1, 3):
        slack = 1 if order == 3 else 0
        found = resample.to_grid(data, grid, target, order=order)
        assert np.abs(found.astype(int) - wanted).max() <= slack
    ids = _blobs(grid.shape)
    assert (resample.labels_to_grid(ids, grid, target) == ids.transpose(axes)[steps]).all()


def test_a_padded_grid_is_filled_beyond_the_edges_only():
    grid = _grid((6, 7, 8))
    data = np.full(grid.shape, 40, np.int16)
    found = resample.to_grid(data, grid, grid.padded((1, 2, 3), (3, 2, 1)), fill=-1000)
    assert (found[1:7, 2:9, 3:11] == 40).all()
    assert (found == -1000).sum() == found.size - data.size
    apart = Geometry.regular((3, 3, 3), (1, 1, 1), (500.0, 0, 0))
    assert (resample.to_grid(data, grid, apart, fill=7) == 7).all()


def _oblique(shape, degrees, spacing=(1.4, 1.0, 1.2)):
    turn = np.deg2rad(degrees)
    matrix = np.array(
        [[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]]
    )
    affine = np.eye(4)
    affine[:3, :3] = matrix @ np.eye(3)[:, ::-1] * spacing
    affine[:3, 3] = (5.0, -60.0, 12.0)
    return Geometry(shape, affine)


@pytest.mark.parametrize("degrees", [0, 12, 50, 200])
def test_world_positions_survive_any_two_grids(degrees):
    source, target = _grid((30, 32, 34)), _oblique((18, 20, 22), degrees)
    points = source.to_world(
        np.stack(np.meshgrid(*map(np.arange, source.shape), indexing="ij"), -1)
    )
    where = target.to_world(np.stack(np.meshgrid(*map(np.arange, target.shape), indexing="ij"), -1))
    index = source.to_index(where)
    is_in = ((index >= 0) & (index <= np.array(source.shape) - 1)).all(-1)
    is_out = ((index < -0.6) | (index > np.array(source.shape) - 0.4)).any(-1)
    assert is_in.any()
    for world in range(3):
        found = resample.to_grid(points[..., world], source, target, fill=-1e6)
        np.testing.assert_allclose(found[is_in], where[..., world][is_in], atol=1e-6)
        assert (found[is_out] == -1e6).all()


def test_labels_and_scores_reach_an_oblique_grid_and_back():
    source, target = _grid((30, 32, 34)), _oblique((60, 60, 60), 20, (0.7, 0.7, 0.7))
    z, y, x = np.mgrid[:30, :32, :34]
    ids = ((z - 12) ** 2 + (y - 12) ** 2 + (x - 14) ** 2 < 49).astype(np.uint8)
    turned = resample.labels_to_grid(ids, source, target)
    volume = ids.sum() * source.voxel_size
    assert turned.sum() * target.voxel_size == pytest.approx(volume, rel=0.03)
    voted = resample.scores_to_grid(_one_hot(ids, 2).astype(np.float32), source, target)
    assert (voted != turned).mean() < 0.02
    back = resample.labels_to_grid(turned, target, source)
    assert 2 * (back & ids).sum() / (back.sum() + ids.sum()) > 0.95


def test_scores_to_a_cropped_finer_grid_are_those_of_the_whole():
    source = _grid((10, 12, 14))
    raw = np.random.default_rng(7).normal(size=(3, *source.shape)).astype(np.float32)
    fine = source.resampled((0.5, 0.5, 0.5))
    whole = resample.scores(raw, fine.shape)
    box = (slice(2, 9), slice(0, 24), slice(5, 17))
    assert (resample.scores_to_grid(raw, source, fine.cropped(box)) == whole[box]).all()


def test_grids_of_other_units_or_data_off_its_grid_are_refused():
    grid = _grid((4, 5, 6))
    with pytest.raises(GeometryError, match="check which grid"):
        resample.to_grid(np.zeros((4, 5, 7)), grid, grid)
    with pytest.raises(GeometryError, match="px"):
        resample.to_grid(np.zeros((4, 5)), Geometry.pixels((4, 5)), grid)

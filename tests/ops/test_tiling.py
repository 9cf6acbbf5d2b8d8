"""Windows against the whole, against MONAI, and exact on nets whose answer is known."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskloop.core.errors import Cancelled, InputError
from maskloop.core.job import Job
from maskloop.ops import tiling
from maskloop.ops.tiling import Windows, predict_labels, predict_scores

SHAPES = [(1, 7, 9), (5, 64, 64), (40, 33, 70), (31, 1, 90), (7, 9), (130, 61)]


def _truth(shape, classes=4, seed=0):
    ids = np.random.default_rng(seed).integers(0, classes, shape)
    numbers = np.arange(classes).reshape(-1, *[1] * len(shape))
    return ids, (ids[None] == numbers).astype(np.float32)


def _cut(margin, ndim):
    inner = slice(margin, -margin or None)
    return lambda x: x[(slice(None), slice(None), *(inner,) * ndim)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch": 3, "overlap": 0.7},
        {"margin": 3, "batch": 2},
        {"margin": 5, "overlap": 0.4, "padding": "constant", "fill": 7.0},
        {"padding": "edge", "weights": "constant"},
    ],
    ids=str,
)
def test_an_identity_net_gives_its_input_back(shape, options):
    ids, one_hot = _truth(shape)
    net = _cut(options.get("margin", 0), len(shape))
    tile = (32,) * len(shape)
    assert (predict_labels(one_hot, net, tile=tile, classes=4, **options) == ids).all()
    scores = predict_scores(one_hot, net, tile=tile, classes=4, **options)
    np.testing.assert_allclose(scores, one_hot, atol=1e-6)


def test_an_identity_net_is_exact_on_a_large_odd_volume():
    ids, one_hot = _truth((200, 333, 77), classes=2)
    found = predict_labels(one_hot, lambda x: x, tile=(64, 64, 64), classes=2, batch=4)
    assert found.dtype == np.uint8
    assert (found == ids).all()


@pytest.mark.parametrize("shape", [(1, 7, 9), (200, 333, 77)])
def test_a_constant_net_gives_its_constant_everywhere(shape):
    constant = torch.tensor([0.1, 0.3, 0.2]).reshape(1, 3, 1, 1, 1)
    volume = np.zeros((1, *shape), np.int16)
    found = predict_labels(
        volume, lambda x: constant.expand(len(x), 3, *x.shape[2:]), tile=(80, 96, 64), classes=3
    )
    assert (found == 1).all()


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 90), inner=st.integers(8, 40), overlap=st.sampled_from([0, 0.3, 0.9]))
def test_windows_begin_at_the_grain_and_still_cover_all(length, inner, overlap):
    windows = Windows.over((length,), (inner,), overlap=overlap, margin=(0,), grain=8)
    starts = windows.starts[0]
    if length > inner:
        assert all(start % 8 == 0 for start in starts)
        assert starts[0] == 0
        assert starts[-1] < length <= starts[-1] + inner < length + 8
        assert all(b - a <= inner for a, b in itertools.pairwise(starts))
    else:
        assert len(starts) == 1


def test_a_tile_that_shows_less_than_the_grain_is_refused():
    with pytest.raises(InputError, match="at least 16 voxels"):
        Windows.over((50, 50), (188, 188), overlap=0, margin=(92, 92), grain=16)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_windows_cover_every_voxel_and_sweep_forwards(data):
    shape = data.draw(st.lists(st.integers(1, 60), min_size=2, max_size=3))
    margin = data.draw(st.integers(0, 3))
    tile = [data.draw(st.integers(2 * margin + 1, 30)) for _ in shape]
    overlap = data.draw(st.floats(0, 0.9))
    windows = Windows.over(shape, tile, overlap=overlap, margin=[margin] * len(shape))
    seen = np.zeros(shape, bool)
    starts = list(windows)
    for start in starts:
        box = [slice(max(s, 0), s + n) for s, n in zip(start, windows.inner, strict=True)]
        seen[tuple(box)] = True
    assert seen.all()
    assert len(starts) == len(windows) == len(set(starts))
    along = [s[windows.axis] for s in starts]
    assert along == sorted(along)


@pytest.mark.parametrize("tile", [(16, 16, 16), (24, 40, 17), (64, 64, 64)])
def test_a_pointwise_nets_labels_do_not_depend_on_the_tile(tile):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 2, 1, 1, 1, generator=generator)
    volume = torch.randn(2, 37, 45, 50, generator=generator)
    whole = torch.nn.functional.conv3d(volume[None], weight)[0].argmax(0).numpy()
    found = predict_labels(
        volume, lambda x: torch.nn.functional.conv3d(x, weight), tile=tile, classes=5, batch=2
    )
    assert (found == whole).all()


@pytest.mark.parametrize("tile", [(12, 14, 16), (30, 20, 40)])
@pytest.mark.parametrize("batch", [1, 4])
def test_valid_convolutions_give_the_whole_images_scores_to_its_edge(tile, batch):
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(6, 1, 3, 3, 3, generator=generator)
    second = torch.randn(3, 6, 3, 3, 3, generator=generator)

    def net(x):
        conv = torch.nn.functional.conv3d
        return conv(torch.relu(conv(x, first)), second)

    volume = torch.randn(1, 23, 29, 41, generator=generator)
    padded = torch.nn.functional.pad(volume[None], (2,) * 6)
    whole = net(padded)[0]
    options = {"tile": tile, "classes": 3, "margin": 2, "batch": batch, "padding": "constant"}
    scores = predict_scores(volume, net, **options)
    np.testing.assert_allclose(scores, whole.numpy(), atol=1e-4)
    assert (predict_labels(volume, net, **options) == whole.argmax(0).numpy()).mean() > 0.9999


def _unet_like(ndim, seed=0):
    torch.manual_seed(seed)
    conv = torch.nn.Conv3d if ndim == 3 else torch.nn.Conv2d
    norm = torch.nn.InstanceNorm3d if ndim == 3 else torch.nn.InstanceNorm2d
    return torch.nn.Sequential(
        conv(1, 8, 3, padding=1), norm(8), torch.nn.ReLU(), conv(8, 3, 3, padding=1)
    ).eval()


@pytest.mark.filterwarnings("ignore")  # MONAI warns of its own deprecations
@pytest.mark.parametrize(
    ("shape", "tile", "overlap"),
    [((50, 61, 73), 32, 0.5), ((20, 61, 40), 32, 0.25), ((90, 101), 48, 0.6)],
)
def test_labels_equal_monais_sliding_window(shape, tile, overlap):
    inferers = pytest.importorskip("monai.inferers")
    net = _unet_like(len(shape))
    volume = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    with torch.inference_mode():
        theirs = inferers.sliding_window_inference(
            torch.from_numpy(volume)[None], tile, 2, net, overlap=overlap, mode="gaussian"
        )
    ours = predict_labels(
        volume,
        net,
        tile=(tile,) * len(shape),
        classes=3,
        overlap=overlap,
        batch=4,
        padding="constant",
        weights="monai",
    )
    assert (ours == theirs[0].argmax(0).numpy()).mean() == 1.0


@pytest.mark.filterwarnings("ignore")
def test_window_weights_are_monais():
    utils = pytest.importorskip("monai.data.utils")
    for tile in [(32, 48, 20), (17, 64)]:
        theirs = utils.compute_importance_map(tile, mode="gaussian", sigma_scale=0.125)
        torch.testing.assert_close(tiling.gaussian_weights(tile, floor=1e-3), theirs)


def test_no_seam_shows_where_windows_meet():
    # What the net sees beyond a window's border is made up: that is what makes seams.
    kernel = torch.ones(1, 1, 5, 5) / 25
    y, x = np.mgrid[:120, :150]
    smooth = (np.sin(y / 25) + np.cos(x / 31)).astype(np.float32)[None]

    def blur(images):
        padded = torch.nn.functional.pad(images, (2,) * 4, mode="replicate")
        return torch.nn.functional.conv2d(padded, kernel)

    found = predict_scores(smooth, blur, tile=(40, 40), classes=1)[0]
    whole = blur(torch.from_numpy(smooth)[None])[0, 0].numpy()
    assert np.abs(np.diff(found - whole, axis=1)).max() <= 1e-4
    assert np.abs(np.diff(found - whole, axis=0)).max() <= 1e-4


def test_a_last_batch_that_is_not_full_is_run_once_with_what_is_left():
    sizes = []

    def net(x):
        sizes.append(len(x))
        return x

    _, one_hot = _truth((40, 40, 40))
    predict_labels(one_hot, net, tile=(20, 20, 20), classes=4, batch=4, overlap=0.5)
    assert sizes == [4, 4, 4, 4, 4, 4, 3]


def test_stop_comes_before_the_next_batch():
    job = Job()
    calls = []

    def net(x):
        calls.append(len(x))
        job.cancel()
        return x

    _, one_hot = _truth((40, 40, 40))
    with pytest.raises(Cancelled):
        predict_labels(one_hot, net, tile=(20, 20, 20), classes=4, job=job)
    assert calls == [1]


def test_progress_counts_batches_to_the_end():
    seen = []
    _, one_hot = _truth((30, 30))
    job = Job(seen.append)
    predict_labels(one_hot, lambda x: x, tile=(20, 20), classes=4, batch=3, job=job)
    assert [(p.done, p.total) for p in seen] == [(0, 2), (1, 2), (2, 2)]


def test_threshold_takes_the_highest_channel_above_zero():
    scores = np.array([[-1, 2, 1, -3], [-2, 1, 5, -1]], np.float32).reshape(2, 2, 2)
    found = predict_labels(scores, lambda x: x, tile=(2, 2), classes=2, activation="threshold")
    assert found.tolist() == [[0, 1], [2, 0]]


def test_more_than_256_classes_come_out_as_uint16():
    ids = np.random.default_rng(0).integers(0, 300, (9, 11))
    one_hot = (ids[None] == np.arange(300).reshape(-1, 1, 1)).astype(np.float32)
    found = predict_labels(one_hot, lambda x: x, tile=(8, 8), classes=300)
    assert found.dtype == np.uint16
    assert (found == ids).all()


def test_ties_go_to_the_lowest_class():
    flat = np.zeros((3, 5, 5), np.float32)
    assert not predict_labels(flat, lambda x: x, tile=(4, 4), classes=3).any()


def test_whole_numbers_read_only_and_reversed_volumes_are_taken_as_they_are():
    ids, one_hot = _truth((12, 13, 14))
    volume = (one_hot * 5).astype(np.int16)[:, ::-1]
    volume.setflags(write=False)
    found = predict_labels(volume, lambda x: x, tile=(8, 8, 8), classes=4)
    assert (found == ids[::-1]).all()


def test_scores_that_are_not_finite_are_refused():
    volume = np.ones((1, 10, 10), np.float32)
    with pytest.raises(InputError, match="finite scores"):
        predict_labels(volume, lambda x: x / 0, tile=(5, 5), classes=1)


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (8, 8), "classes": 2},
        {"tile": (8, 8, 8), "classes": 1},
        {"tile": (8, 8), "classes": 1, "margin": 4},
        {"tile": (8, 8), "classes": 1, "overlap": 1.0},
        {"tile": (8, 8), "classes": 1, "batch": 0},
    ],
    ids=str,
)
def test_what_cannot_fit_is_refused(options):
    with pytest.raises(InputError, match="expected"):
        predict_labels(np.ones((1, 10, 10), np.float32), lambda x: x, **options)


def test_reflection_reaches_any_distance():
    for length, start in itertools.product((1, 2, 5), (-13, 0, 3)):
        index = np.arange(start, start + 20)
        line = np.arange(length)
        wanted = np.pad(line, (20, 40), mode="reflect")[20 + index]
        assert (tiling._outside(index, length, "reflect") == wanted).all()


def test_the_sweep_follows_the_axis_of_the_smallest_slab():
    assert Windows.over((60, 90, 400), (30,) * 3, overlap=0.5, margin=(0,) * 3).axis == 2
    assert Windows.over((60, 90, 60), (30,) * 3, overlap=0.5, margin=(0,) * 3).axis == 1
    assert Windows.over((10, 10, 10), (30,) * 3, overlap=0.5, margin=(0,) * 3).axis == 2


def test_memory_holds_a_slab_and_not_the_volume(monkeypatch):
    made = []
    plain = torch.zeros

    def zeros(*args, **kwargs):
        found = plain(*args, **kwargs)
        made.append(found.numel())
        return found

    monkeypatch.setattr(torch, "zeros", zeros)
    volume = np.zeros((1, 20, 24, 600), np.float32)
    tracemalloc.start()
    predict_labels(volume, lambda x: x.expand(-1, 3, -1, -1, -1), tile=(20, 24, 30), classes=3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert max(made) == 3 * 20 * 24 * 30
    assert peak < 2 * volume[0].size  # the ids, one byte a voxel, and little else

"""Flows: targets and decoding undo each other; the shipped weights tell touching nuclei apart."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.models import fields, flows, weights
from maskloop.models.base import IGNORE, Batch
from maskloop.models.cards import ModelCard, find_card
from maskloop.ops.device import CPU
from maskloop.ops.phantom import nuclei_picture
from maskloop.ops.scores import average_precision


def discs(shape, spots):
    """Ids of discs ``(y, x, radius)``; an earlier one keeps its pixels."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    ids = np.zeros(shape, np.int64)
    for number, (cy, cx, radius) in enumerate(spots, start=1):
        ids[((y - cy) ** 2 + (x - cx) ** 2 <= radius**2) & (ids == 0)] = number
    return ids


def perfect(ids):
    """Scores of a network that makes no mistake."""
    wanted = fields.targets(torch.from_numpy(ids)[None])
    return np.concatenate([8 * wanted.foreground.numpy() - 4, wanted.flow[0].numpy()])


def hits(predicted, truth, threshold=0.5):
    """How many objects match above an IoU, how many are spare, how many are missed."""
    joint = np.zeros((int(predicted.max()) + 1, int(truth.max()) + 1))
    np.add.at(joint, (predicted.ravel().astype(int), truth.ravel().astype(int)), 1)
    union = joint.sum(1)[:, None] + joint.sum(0)[None] - joint
    matched = int(((joint / np.maximum(union, 1))[1:, 1:] > threshold).sum())
    found, wanted = len(np.unique(predicted[predicted > 0])), len(np.unique(truth[truth > 0]))
    return matched, found - matched, wanted - matched


def precision(predicted, truth, threshold=0.5):
    counts = hits(predicted, truth, threshold)
    return counts[0] / max(1, sum(counts))


def picture(pixels, **options):
    pixels = np.asarray(pixels)
    shape = pixels.shape[:2]
    return Image(pixels, Geometry.pixels(shape), has_channels=pixels.ndim == 3, **options)


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return find_card("nuclei")


@pytest.fixture(scope="module")
def network(card):
    return flows.FAMILY.load(card, weights.paths(card))


def segment(network, image, card, **parameters):
    card = dataclasses.replace(card, parameters={**card.parameters, **parameters})
    return flows.FAMILY.segment(network, image, card=card, device=CPU, job=Job())


def test_two_touching_discs_decode_to_two():
    ids = discs((40, 60), [(20, 20, 10), (20, 39, 10)])
    found, scores = fields.decode(perfect(ids))
    assert hits(found, ids, 0.99) == (2, 0, 0)
    assert all(score > 0.9 for score in scores.values())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_decoding_undoes_targets_for_random_discs(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(40, 120, 2))
    spots = []
    for _ in range(40):
        y, x, radius = *rng.uniform((0, 0), shape), rng.uniform(2.5, 18)
        if all(np.hypot(y - cy, x - cx) > radius + r - 1 for cy, cx, r in spots):
            spots.append((y, x, radius))
    ids = discs(shape, spots)
    # Slivers at the border that are too small to be reported are no objects.
    small = np.bincount(ids.ravel(), minlength=len(spots) + 1) < fields.Decoding().least_area
    ids[small[ids]] = 0
    found, _ = fields.decode(perfect(ids))
    assert precision(found, ids, 0.8) == 1 or not ids.any()


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_targets_turn_with_the_picture(turns, is_mirrored):
    ids = np.array(ndimage.label(np.random.default_rng(5).random((30, 30)) > 0.6)[0], np.int64)
    flow = fields.targets(torch.from_numpy(ids)[None]).flow[0].numpy()
    moved, expected = np.rot90(ids, turns), np.rot90(flow, turns, axes=(1, 2))
    for _ in range(turns):  # a quarter turn takes (y, x) to (-x, y)
        expected = np.stack([-expected[1], expected[0]])
    if is_mirrored:
        moved = moved[:, ::-1]
        expected = expected[:, :, ::-1] * np.array([1, -1])[:, None, None]
    again = fields.targets(torch.from_numpy(moved.copy())[None]).flow[0].numpy()
    # Objects whose mean lies outside them have two nearest pixels at times: leave those out.
    simple = np.isin(moved, [i for i in np.unique(ids) if i and _is_compact(ids == i)])
    assert simple.any()
    np.testing.assert_allclose(again[:, simple], expected[:, simple], atol=1e-5)


def _is_compact(region):
    points = np.argwhere(region)
    return np.square(points - points.mean(0)).sum(1).min() < 0.99


def test_a_crescents_centre_lies_inside_it():
    ids = discs((50, 50), [(25, 25, 20)])
    ids[discs((50, 50), [(25, 33, 17)]) > 0] = 0
    ends = fields.follow(
        fields.targets(torch.from_numpy(ids)[None]).flow[0], torch.from_numpy(np.argwhere(ids))
    )
    mean = np.argwhere(ids).mean(0).round().astype(int)
    assert ids[tuple(mean)] == 0
    assert (ends.std(dim=0) < 25).all()
    found, _ = fields.decode(perfect(ids), fields.Decoding(error=9))
    assert hits(found, ids, 0.5)[0] == 1


def test_unreviewed_pixels_give_no_gradient():
    torch.manual_seed(0)
    predicted = torch.randn(1, 3, 40, 40, requires_grad=True)
    ids = torch.from_numpy(discs((40, 40), [(12, 12, 7), (30, 20, 7)]))[None]
    ids[..., 20:] = IGNORE
    flows.loss(predicted, fields.targets(ids)).backward()
    assert predicted.grad[..., 20:].abs().max() == 0
    assert predicted.grad[..., :19].abs().max() > 0


def test_an_object_that_runs_into_the_unknown_teaches_no_flow():
    ids = torch.from_numpy(discs((40, 40), [(12, 10, 7), (30, 20, 7)]))[None]
    ids[..., 20:] = IGNORE
    wanted = fields.targets(ids)
    assert wanted.whole[ids == 1].all()
    assert not wanted.whole[ids == 2].any()


def test_the_loss_is_least_for_the_targets():
    ids = torch.from_numpy(discs((40, 40), [(12, 12, 7), (30, 20, 7)]))[None]
    wanted = fields.targets(ids)
    best = torch.cat([40 * wanted.foreground[:, None] - 20, wanted.flow], dim=1)
    assert flows.loss(best, wanted) < 1e-3
    assert flows.loss(best + 0.1, wanted) > flows.loss(best, wanted)


def test_the_network_takes_any_size_and_keeps_it():
    network = flows.FlowNet().eval()
    with torch.inference_mode():
        for size in ((1, 1), (20, 30), (33, 17), (64, 48)):
            assert network(torch.zeros(1, 1, *size)).shape == (1, 3, *size)


def test_shipped_weights_load_strictly_and_are_small(card, network):
    (path,) = weights.paths(card).values()
    assert path.stat().st_size <= 10_000_000
    assert sum(p.numel() for p in network.parameters()) > 100_000


def test_touching_nuclei_are_told_apart_better_than_by_threshold_and_components(card, network):
    from skimage.filters import threshold_otsu

    ours, plain = [], []
    for seed in range(4):
        image, truth = nuclei_picture(seed)
        found = segment(network, image, card)
        regions = ndimage.label(image.data > threshold_otsu(image.data))[0]
        ours.append(precision(found.ids, truth.data))
        plain.append(precision(regions, truth.data))
    assert np.mean(ours) > np.mean(plain) + 0.1
    assert np.mean(ours) > 0.75


def test_windows_do_not_change_the_objects(card, network):
    image, _ = nuclei_picture(3, (300, 300))
    whole = segment(network, image, card, tile=304).ids
    tiled = segment(network, image, card, tile=128, overlap=0.5).ids
    assert whole.max() > 10
    assert precision(tiled, whole, 0.75) > 0.95


def test_every_object_has_a_row_with_category_and_score(card, network):
    image, _ = nuclei_picture(0)
    found = segment(network, image, card)
    assert sorted(found.labels) == list(range(1, int(found.ids.max()) + 1))
    assert {row.category for row in found.labels.values()} == {"nucleus"}
    assert all(0 < row.score <= 1 for row in found.labels.values())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_blank_picture_has_no_objects(card, network, dtype):
    found = segment(network, picture(np.full((50, 60), 7, dtype)), card)
    assert found.ids.shape == (50, 60)
    assert not found.ids.any()
    assert len(found.labels) == 0


def test_a_tiny_picture_works(card, network):
    pixels = ndimage.gaussian_filter((discs((20, 30), [(10, 10, 5)]) > 0) * 200.0, 1)
    found = segment(network, picture(pixels.astype(np.uint8)), card)
    assert found.ids.shape == (20, 30)
    assert precision(found.ids, discs((20, 30), [(10, 10, 5)])) == 1


def test_colour_and_dark_nuclei_give_what_grey_and_bright_ones_give(card, network):
    image, _ = nuclei_picture(1)
    plain = segment(network, image, card).ids
    rgba = np.dstack([image.data] * 3 + [np.full_like(image.data, 255)])
    assert precision(segment(network, picture(rgba), card).ids, plain, 0.75) > 0.95
    assert precision(segment(network, picture(255 - image.data), card).ids, plain, 0.75) > 0.95


def test_a_volume_is_refused_and_one_slice_is_not(card, network):
    image, _ = nuclei_picture(1, (64, 64))
    volume = Image(np.stack([image.data] * 3), Geometry.regular((3, 64, 64), (1, 1, 1)))
    with pytest.raises(InputError, match="choose one slice"):
        segment(network, volume, card)
    single = Image(image.data[None], Geometry.regular((1, 64, 64), (1, 1, 1)))
    assert segment(network, single, card).ids.shape == (1, 64, 64)


def test_time_and_nan_are_refused(card, network):
    series = Image(np.zeros((2, 32, 32)), Geometry.pixels((32, 32)), has_time=True)
    with pytest.raises(InputError, match="choose one frame"):
        segment(network, series, card)
    with pytest.raises(InputError, match="finite"):
        segment(network, picture(np.full((32, 32), np.nan)), card)


def test_more_than_one_class_is_refused():
    with pytest.raises(InputError, match="one class"):
        flows.FAMILY.card("small", LabelTable.classes(["cell", "nucleus"]))


def test_prepare_leaves_ignored_objects_out(card):
    image, mask = nuclei_picture(2)
    first, second = mask.ids()[:2]
    rows = [
        Label(first, "clump", category="nucleus", ignore=True),
        *(row for i, row in mask.labels.items() if i != first),
    ]
    (volume,) = flows.FAMILY.prepare(
        image,
        dataclasses.replace(mask, labels=LabelTable(rows)),
        card=card,
        reviewed=None,
        job=Job(),
    )
    assert volume.data.shape == (1, *image.geometry.shape)
    assert not volume.reviewed[mask.data == first].any()
    assert volume.reviewed[mask.data == second].all()
    assert first not in volume.categories
    assert volume.categories[second] == 1


def test_prepare_splits_a_class_map_into_objects(card):
    image = picture(np.zeros((40, 60), np.uint8) + np.arange(60, dtype=np.uint8))
    ids = (discs((40, 60), [(20, 15, 8), (20, 45, 8)]) > 0).astype(np.uint8)
    (volume,) = flows.FAMILY.prepare(
        image, Mask.like(image, ids, ["nucleus"]), card=card, reviewed=None, job=Job()
    )
    assert volume.ids.max() == 2
    assert dict(volume.categories) == {1: 1, 2: 1}


def _batch(cases, size=96):
    volumes = [flows.FAMILY.prepare(i, m, card=c, reviewed=None, job=Job())[0] for i, m, c in cases]
    images = torch.stack([torch.from_numpy(v.data[:, :size, :size]) for v in volumes])
    ids = torch.stack([torch.from_numpy(v.ids[:size, :size].astype(np.int64)) for v in volumes])
    return Batch(images, ids, [v.categories for v in volumes])


def test_a_few_steps_on_three_pictures_lower_the_loss_and_do_no_harm(card):
    network = flows.FAMILY.load(card, weights.paths(card))
    before = {k: v.clone() for k, v in network.state_dict().items() if "running" in k}
    cases = [(*nuclei_picture(seed), card) for seed in (11, 12, 13)]
    image, truth = nuclei_picture(14)
    old = precision(segment(network, image, card).ids, truth.data)
    batch = _batch(cases)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-4)
    losses = []
    for _ in range(5):
        optimiser.zero_grad()
        loss = flows.FAMILY.train_step(network, batch, card=card)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert precision(segment(network, image, card).ids, truth.data) >= old - 0.05
    state = network.state_dict()
    assert all(torch.equal(state[k], v) for k, v in before.items())


def _dsb2018(shared_data: Path, folder: Path, names: list[str]):
    with zipfile.ZipFile(shared_data / "images2d/dsb2018_nuclei/shared.zip") as found:
        for name in names:
            found.extract(f"images/{name}.png", folder)
            found.extract(f"labels/{name}.png", folder)
    from PIL import Image as Pillow

    for name in names:
        pixels = np.asarray(Pillow.open(folder / f"images/{name}.png"))
        yield picture(pixels), np.asarray(Pillow.open(folder / f"labels/{name}.png"))


def test_held_out_precision_is_that_of_the_card(card, network, shared_data, tmp_path):
    told = card.metrics["held_out"]
    found = [
        average_precision(segment(network, image, card).ids, truth)[0]
        for image, truth in _dsb2018(shared_data, tmp_path, told["names"])
    ]
    assert len(found) == told["pictures"]
    assert np.mean(found) >= told["ap50"] - 0.01


@pytest.mark.slow
def test_fine_tuning_on_three_real_pictures_does_no_harm_on_others(card, shared_data, tmp_path):
    names = card.metrics["held_out"]["names"]
    cases = list(_dsb2018(shared_data, tmp_path, names))
    small = [case for case in cases if case[0].geometry.shape == (256, 256)]
    shown, others = small[:3], small[3:]
    network = flows.FAMILY.load(card, weights.paths(card))

    def score():
        return np.mean([average_precision(segment(network, i, card).ids, t)[0] for i, t in others])

    old = score()
    batch = _batch(
        [
            (image, Mask.like(image, ids, LabelTable.objects(np.unique(ids)[1:], "nucleus")), card)
            for image, ids in shown
        ],
        size=192,
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-4)
    for _ in range(20):
        optimiser.zero_grad()
        flows.FAMILY.train_step(network, batch, card=card).backward()
        optimiser.step()
    assert score() > old - 0.03

"""U-Net is the network of its paper, sees mirrored borders, and is trained by its weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.models import unet
from maskloop.models.base import IGNORE, Batch, Volume
from maskloop.models.cards import ModelCard
from maskloop.models.unet import FAMILY, MARGIN, UNet2015, target
from maskloop.ops.device import CPU
from tests.models.overfit import learn, picture, shuffled

CELLS = LabelTable([Label(1, "cell", is_thing=True)])
NARROW = 1 / 16


def card(labels: LabelTable = CELLS, **told: object) -> ModelCard:
    plain = FAMILY.card("2015", labels)
    return dataclasses.replace(plain, parameters={**plain.parameters, "width": NARROW, **told})


def narrow(channels: int = 1, classes: int = 2) -> UNet2015:
    torch.manual_seed(0)
    return UNet2015(channels, classes, width=NARROW).eval()


def is_unpadded_and_plain(network: nn.Module) -> bool:
    """Whether no convolution pads and nothing normalises."""
    parts = list(network.modules())
    convolutions = [p for p in parts if isinstance(p, nn.Conv2d | nn.ConvTranspose2d)]
    norms = [p for p in parts if "Norm" in type(p).__name__]
    return not norms and all(p.padding == (0, 0) for p in convolutions)


def test_the_papers_network_has_its_parameters_and_layers() -> None:
    network = UNet2015(1, 2)
    assert sum(p.numel() for p in network.parameters()) == 31_030_658
    plain = [p for p in network.modules() if type(p) is nn.Conv2d]
    up = [p for p in network.modules() if isinstance(p, nn.ConvTranspose2d)]
    assert len(plain) + len(up) == 23
    assert [p.kernel_size for p in plain].count((1, 1)) == 1
    assert [(p.kernel_size, p.stride, p.out_channels) for p in up] == [
        ((2, 2), (2, 2), n) for n in (512, 256, 128, 64)
    ]
    assert [block[0].out_channels for block in network.down] == [64, 128, 256, 512, 1024]


@pytest.mark.parametrize(("size", "left"), [(572, 388), (316, 132), (188, 4)])
def test_sizes_shrink_as_the_papers(size: int, left: int) -> None:
    with torch.inference_mode():
        found = narrow()(torch.zeros(1, 1, size, size))
    assert found.shape == (1, 2, left, left)
    assert size - left == 2 * MARGIN


@pytest.mark.parametrize("size", [570, 573, 187, 172, 60])
def test_a_size_that_a_pooling_would_cut_is_refused(size: int) -> None:
    with pytest.raises(InputError, match="16 n \\+ 60"):
        narrow()(torch.zeros(1, 1, size, size))


def test_nothing_pads_and_nothing_normalises() -> None:
    network = narrow()
    assert is_unpadded_and_plain(network)
    network.down[1][2].padding = (1, 1)
    assert not is_unpadded_and_plain(network)
    padded = narrow()
    padded.join[0].append(nn.BatchNorm2d(4))
    assert not is_unpadded_and_plain(padded)


def test_half_of_the_coarsest_features_drop_out_in_training_alone() -> None:
    """Section 3.1: "drop-out layers at the end of the contracting path"."""
    network, x = narrow(), torch.randn(1, 1, 188, 188)
    seen: list[tuple[Tensor, Tensor]] = []
    network.dropout.register_forward_hook(lambda part, given, got: seen.append((given[0], got)))
    with torch.no_grad():
        network.eval()(x)
        network.train()(x)
    (kept, same), (full, halved) = seen
    assert kept.shape[2:] == (4, 4)  # of 188 pixels, below the last convolution
    assert torch.equal(kept, same)
    is_alive = full > 0
    assert float((halved[is_alive] == 0).float().mean()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("level", range(4))
def test_each_skip_is_joined_and_not_dropped(level: int) -> None:
    network = narrow()
    x = torch.randn(1, 1, 188, 188, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        plain = network(x)
        first = network.join[level][0]
        first.weight[:, : first.in_channels // 2] = 0
        assert (network(x) - plain).abs().max() > 1e-3 * plain.abs().max()


def test_a_skip_lies_over_what_comes_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the finest skip alone, a pixel moves the score at its own place and round it."""

    def middle_of_change() -> list[float]:
        network = narrow()
        first = network.join[3][0]
        with torch.inference_mode():
            first.weight[:, first.in_channels // 2 :] = 0
            x = torch.randn(1, 1, 204, 204, generator=torch.Generator().manual_seed(1))
            moved = x.clone()
            moved[..., 92 + 11, 92 + 7] += 1
            change = (network(moved) - network(x)).abs().sum(1)[0]
        places = torch.nonzero(change > 0)
        return [float(p.min() + p.max()) / 2 for p in places.T] if len(places) else []

    assert middle_of_change() == [11.0, 7.0]
    cropped = unet.cropped
    monkeypatch.setattr(unet, "cropped", lambda x, size: cropped(x, size, offset=0))
    assert middle_of_change() != [11.0, 7.0]


def test_tiles_agree_with_the_whole_picture() -> None:
    """1000 x 1000 pixels by tiles of 572, mirrored at the borders, and in one piece."""
    network, plain = narrow(), card()
    data = np.random.default_rng(0).normal(size=(1, 1000, 1000)).astype(np.float32)
    found = FAMILY.scores(network, data, card=plain, device=CPU, job=Job())
    wide = np.pad(data, [(0, 0), (92, 104), (92, 104)], mode="reflect")  # 1196 = 16 * 71 + 60
    with torch.inference_mode():
        whole = network(torch.from_numpy(wide[None]))[0, :, :1000, :1000].numpy()
    assert np.abs(found - whole).max() <= 1e-4
    # Tiles that pool other pixels together do not, nor do borders of nothing.
    adrift = FAMILY.scores(network, data, card=card(grain=1), device=CPU, job=Job())
    assert np.abs(adrift - whole).max() > 1e-2
    with torch.inference_mode():
        dark = network(F.pad(torch.from_numpy(data[None]), (92, 104, 92, 104)))
    assert np.abs(dark[0, :, :1000, :1000].numpy() - whole).max() > 1e-2


@pytest.mark.parametrize("size", [(20, 30), (1, 300)])
def test_a_picture_smaller_than_the_margin_is_mirrored_again_and_again(
    size: tuple[int, int],
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)
    image = Image(pixels, Geometry.pixels(size))
    found = FAMILY.segment(narrow(), image, card=card(), device=CPU, job=Job())
    assert found.ids.shape == size


def two_cells() -> tuple[Image, Mask]:
    """Return two cells of one class that touch, and a third five pixels away."""
    ids = np.zeros((60, 80), np.uint8)
    ids[10:50, 10:30], ids[10:50, 30:40], ids[10:50, 45:70] = 7, 3, 9
    image = Image((ids > 0).astype(np.float32), Geometry.pixels(ids.shape))
    return image, Mask.like(image, ids, LabelTable.objects([3, 7, 9], "cell"))


def test_touching_objects_get_a_gap_and_near_ones_their_weight() -> None:
    image, mask = two_cells()
    (volume,) = FAMILY.prepare(image, mask, card=card(), reviewed=None, job=Job())
    assert volume.categories == {1: 1, 2: 1, 3: 1}
    middle = volume.ids[MARGIN:-MARGIN, MARGIN:-MARGIN]
    seen = volume.reviewed
    assert seen is not None
    assert not seen[:MARGIN].any()
    assert seen[MARGIN:-MARGIN, MARGIN:-MARGIN].all()
    classes, weights = target(middle, volume.categories, card(class_weights=[1.0, 2.0]))
    assert (classes[10:50, 29] == 0).all()  # of the larger cell
    assert (classes[10:50, [28, 30, 39]] == 1).all()
    # One step to either cell across the gap of one; six across that of five.
    assert weights[30, 29] == pytest.approx(1 + 10 * np.exp(-(2**2) / 50))
    assert weights[30, 40:45] == pytest.approx(1 + 4.8675226)
    assert weights[30, 20] == weights[30, 60] == 2
    # The same mask as classes knows of no border between the two.
    touching, plain = target((middle > 0).astype(np.int64), {}, card())
    assert (touching[10:50, 29] == 1).all()
    assert plain[30, 29] == 1
    assert plain[30, 42] == pytest.approx(5.8675226)


def test_walls_drawn_as_a_label_are_weighed_between_the_cells_they_part() -> None:
    ids = np.zeros((40, 40), np.int64)
    ids[:, 18:23] = 1
    told = {"border": {"w0": 10.0, "sigma": 5.0, "cells": "background"}}
    classes, weights = target(ids, {}, card(**told))
    assert (classes == ids).all()
    assert weights[:, 18:23] == pytest.approx(5.8675226)
    assert (weights[ids == 0] == 1).all()
    with pytest.raises(InputError, match="'labels' or 'background'"):
        target(ids, {}, card(border={"cells": "walls"}))


class _Given(nn.Module):
    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, images: Tensor) -> Tensor:
        return self.scores


def test_the_loss_is_the_weighted_entropy_of_what_the_network_saw() -> None:
    """Equal scores cost log 2 a pixel, times the mean weight of the pixels under them."""
    ids = torch.zeros(1, 188 + 32, 188 + 32, dtype=torch.long)
    ids[:, :, :105], ids[:, :, 110:] = 1, 2  # a gap of five, columns 105 to 109
    categories = [{1: 1, 2: 1}]
    network = _Given(torch.zeros(1, 2, 36, 36))  # columns 92 to 127
    batch = Batch(torch.zeros(1, 1, 220, 220), ids, categories)
    plain = card(class_weights=[0.5, 3.0])
    found = FAMILY.train_step(network, batch, card=plain)
    weight = (5 * (0.5 + 4.8675226) + 31 * 3) / 36
    assert float(found.detach()) == pytest.approx(np.log(2) * weight, rel=1e-5)
    flat = FAMILY.train_step(network, batch, card=card(class_weights=[0.5, 3.0], border={"w0": 0}))
    assert float(flat.detach()) == pytest.approx(np.log(2) * (5 * 0.5 + 31 * 3) / 36, rel=1e-5)


def test_unreviewed_pixels_have_no_gradient() -> None:
    ids = torch.ones(1, 220, 220, dtype=torch.long)
    ids[:, :, :110] = IGNORE
    network = _Given(torch.randn(1, 2, 36, 36, generator=torch.Generator().manual_seed(0)))
    FAMILY.train_step(network, Batch(torch.zeros(1, 1, 220, 220), ids), card=card()).backward()
    assert network.scores.grad is not None
    assert (network.scores.grad[..., :18] == 0).all()
    assert (network.scores.grad[..., 18:] != 0).any()
    ids[:] = IGNORE
    nothing = FAMILY.train_step(network, Batch(torch.zeros(1, 1, 220, 220), ids), card=card())
    assert float(nothing.detach()) == 0


def test_classes_are_balanced_over_all_cases_up_to_ten_times() -> None:
    ids = np.zeros((10, 10), np.uint8)
    ids[:2] = 1
    seen = np.ones((10, 10), bool)
    seen[:, 5:] = False
    data = np.zeros((1, 10, 10), np.float32)
    halved = FAMILY.survey(card(), [Volume(data, ids), Volume(data, ids, seen)])
    assert halved.parameters["class_weights"] == [0.625, 2.5]
    ids[:] = 0
    ids[0, 0] = 5
    rare = FAMILY.survey(card(), [Volume(data, ids, None, {5: 1})])
    assert rare.parameters["class_weights"] == [pytest.approx(0.5051, abs=1e-4), 10.0]
    cubes = FAMILY.card("residual3d", CELLS)
    assert FAMILY.survey(cubes, []) is cubes


def test_an_ignored_object_is_left_out_and_an_unknown_one_refused() -> None:
    image, mask = two_cells()
    rows = [dataclasses.replace(r, ignore=r.id == 9) for r in mask.labels.values()]
    ignoring = dataclasses.replace(mask, labels=LabelTable(rows))
    (volume,) = FAMILY.prepare(image, ignoring, card=card(), reviewed=None, job=Job())
    assert volume.reviewed is not None
    assert not volume.reviewed[MARGIN + 20, MARGIN + 45 : MARGIN + 70].any()
    others = dataclasses.replace(mask, labels=LabelTable.objects([3, 7, 9], "dust"))
    with pytest.raises(InputError, match="'dust'"):
        FAMILY.prepare(image, others, card=card(), reviewed=None, job=Job())


def test_the_papers_recipe_is_on_the_card() -> None:
    paper = FAMILY.card("", CELLS).parameters["recipes"]["paper"]
    assert (paper["optimiser"], paper["momentum"], paper["batch"]) == ("sgd", 0.99, 1)
    assert paper["parameters"]["patch"] == [572, 572]
    assert "elastic_grid" in FAMILY.augmentation(FAMILY.card("", CELLS))


def test_tiles_that_shrink_for_memory_stay_sizes_of_the_paper() -> None:
    tiles = [rung.tile for rung in FAMILY.rungs(card(), CPU, (572, 572))]
    assert tiles[0] == (572, 572)
    assert all(n >= 204 and (n - 60) % 16 == 0 for tile in tiles if tile for n in tile)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_pictures_are_learnt_by_heart_and_dealt_labels_are_not(tmp_path: Path) -> None:
    grey = [picture(n, 68, is_grey=True) for n in (1, 2)]  # 68 + 184 = 16 * 12 + 60
    small = card(LabelTable.classes({1: "disc", 2: "square"}), width=1 / 8, tile=[252, 252])
    score, _ = learn(FAMILY, small, grey, tmp_path / "true", steps=80)
    assert score >= 0.85
    # Borders between a thousand specks would take long and tell nothing.
    flat = dataclasses.replace(small, parameters={**small.parameters, "border": {"w0": 0}})
    control, _ = learn(FAMILY, flat, [shuffled(c) for c in grey], tmp_path / "noise", steps=80)
    assert control < 0.85
    curves = [learn(FAMILY, small, grey, tmp_path / str(n), steps=4)[1] for n in (1, 2)]
    assert curves[0] == curves[1]


def test_every_layer_starts_as_the_paper_says() -> None:
    torch.manual_seed(0)
    network = FAMILY.build(FAMILY.card("2015", LabelTable.classes(["cell"])))
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            taps = 1 if isinstance(part, torch.nn.ConvTranspose2d) else part.kernel_size[0] ** 2
            wanted = (2 / (part.in_channels * taps)) ** 0.5
            assert float(part.weight.detach().std()) == pytest.approx(wanted, rel=0.15)
            assert not part.bias.detach().any()


@pytest.mark.parametrize(
    ("shape", "tile"), [((64, 64), (252, 252)), ((388, 100), (572, 284)), ((900, 389), (572, 572))]
)
def test_a_small_picture_pays_for_no_large_window(
    shape: tuple[int, int], tile: tuple[int, int]
) -> None:
    assert FAMILY.tile(FAMILY.card("2015", LabelTable.classes(["cell"])), shape) == tile

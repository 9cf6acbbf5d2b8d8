"""Anchors: like the objects, on the level that looks for their size."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from maskloop.core.labels import LabelTable
from maskloop.models import anchors, rcnn
from maskloop.models.base import Volume
from maskloop.models.maskrcnn import FAMILY

CARD = FAMILY.card("", LabelTable.classes(["cell"]))


def volume(sizes: list[tuple[int, int]]) -> Volume:
    """Return a picture with boxes (width, height) in a row."""
    ids = np.zeros((80, 100 * len(sizes)), np.uint16)
    for i, (width, height) in enumerate(sizes):
        ids[:height, 100 * i : 100 * i + width] = i + 1
    data = np.zeros((3, *ids.shape), np.float32)
    return Volume(data, ids, None, dict.fromkeys(range(1, len(sizes) + 1), 1))


def test_usual_anchors_are_torchvisions() -> None:
    wanted = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    ours = anchors.ShapedAnchors(anchors.usual(rcnn.PYRAMID_STEPS))
    maps = [torch.zeros(1, 1, 256 // step, 256 // step) for step in rcnn.PYRAMID_STEPS]
    images = ImageList(torch.zeros(1, 3, 256, 256), [(256, 256)])
    (a,), (b,) = wanted(images, maps), ours(images, maps)
    # torchvision rounds each half to whole pixels, we each side.
    assert a.shape == b.shape
    assert (a - b).abs().max() <= 0.5


def test_clusters_are_found_where_they_are_planted() -> None:
    rng = np.random.default_rng(0)
    planted = np.array([(12.0, 12.0), (30.0, 14.0), (26.0, 40.0)])
    boxes = np.concatenate([shape * rng.normal(1, 0.03, (40, 2)) for shape in planted])
    found = anchors.clustered(rng.permutation(boxes), 3)
    np.testing.assert_allclose(found, planted, rtol=0.03)
    best = anchors.overlaps(boxes, found).max(axis=1)
    assert best.mean() > 0.93
    # What it guards against: one square anchor for all.
    assert anchors.overlaps(boxes, np.full((1, 2), 32.0)).max(axis=1).mean() < 0.6


def test_each_level_gets_the_boxes_of_its_size() -> None:
    boxes = np.array([(10.0, 12.0), (20.0, 16.0), (30.0, 30.0), (60.0, 50.0)])
    levels = anchors.fitted(boxes, rcnn.PYRAMID_STEPS)
    assert [len(level) for level in levels] == [3] * 5
    assert levels[0] == ((10.0, 12.0), (20.0, 16.0), (30.0, 30.0))
    # One box alone: its ratios about it, half and twice as high.
    assert levels[1][1] == (60.0, 50.0)
    assert levels[1][0] == (84.9, 35.4)
    assert levels[2][1] == (128.0, 128.0)  # none of that size: the paper's


def test_surveying_fits_anchors_and_norm_to_a_network_that_starts_from_nothing() -> None:
    sizes = [(10, 12), (20, 16), (30, 30), (60, 50)]
    card = FAMILY.survey(CARD, [volume(sizes)])
    assert card.parameters["norm"] == "group"
    assert card.parameters["anchors"][0] == [[10.0, 12.0], [20.0, 16.0], [30.0, 30.0]]
    small = {"backbone": "resnet18", "width": 0.25, "features": 16}
    card = dataclasses.replace(card, parameters={**card.parameters, **small})
    network = FAMILY.build(card)
    cells = network.rpn.anchor_generator.cell_anchors
    assert (cells[0][1] - torch.tensor([-10.0, -8, 10, 8])).abs().max() < 1e-6
    assert any(isinstance(part, torch.nn.GroupNorm) for part in network.modules())


@pytest.mark.parametrize("told", [{"anchors": [[[5, 5]]] * 5, "norm": "frozen"}, {}])
def test_surveying_leaves_what_is_told_or_trained_alone(told: dict[str, object]) -> None:
    card = dataclasses.replace(CARD, parameters={**CARD.parameters, **told})
    if not told:
        card = dataclasses.replace(card, base="maskrcnn-coco")
    assert FAMILY.survey(card, [volume([(10, 12)])]) == card


def test_pictures_without_objects_keep_the_papers_anchors() -> None:
    empty = Volume(np.zeros((3, 8, 8), np.float32), np.zeros((8, 8), np.uint8))
    assert "anchors" not in FAMILY.survey(CARD, [empty]).parameters


def test_c4_has_fifteen_anchors_at_a_place() -> None:
    card = FAMILY.card("c4", LabelTable.classes(["cell"]))
    rng = np.random.default_rng(1)
    sizes = [(int(a), int(b)) for a, b in rng.integers(8, 70, (40, 2))]
    fitted = FAMILY.survey(card, [volume(sizes)]).parameters["anchors"]
    assert [len(level) for level in fitted] == [15]
    assert len({tuple(shape) for shape in fitted[0]}) == 15

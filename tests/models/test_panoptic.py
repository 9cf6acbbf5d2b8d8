"""Panoptic FPN: the paper's head, its merging rule, and training from mixed tables."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from maskloop.core.errors import InputError
from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.models import panoptic
from maskloop.models.base import IGNORE, Batch, Segmentation, Volume
from maskloop.models.cards import ModelCard
from maskloop.models.inspect import inspect
from maskloop.models.instances import targets_of
from maskloop.models.objects import Found
from maskloop.models.panoptic import FAMILY, SemanticHead, merge
from maskloop.ops.device import CPU
from tests.models import overfit

LABELS = LabelTable([Label(3, "sky"), Label(5, "cow", is_thing=True), Label(9, "grass")])


def card(**told: object) -> ModelCard:
    few: dict[str, object] = {"backbone": "resnet18", "width": 0.25, "features": 16}
    few |= {"norm": "group", "patch": [64, 64], "least_stuff": 1, "proposals": 30}
    plain = FAMILY.card("", LABELS)
    return dataclasses.replace(plain, parameters={**plain.parameters, **few, **told})


def block(rows: tuple[int, int], columns: tuple[int, int], score: float, name: str) -> Found:
    box = (slice(*rows), slice(*columns))
    shape = (rows[1] - rows[0], columns[1] - columns[0])
    return Found(box, np.ones(shape, bool), score, name)


def test_the_semantic_head_has_the_papers_parameters() -> None:
    head = SemanticHead(256, 54)
    assert sum(p.numel() for p in head.parameters()) == 1_630_774
    ups = [sum(isinstance(p, nn.Upsample) for p in chain.modules()) for chain in head.levels]
    convolutions = [sum(isinstance(p, nn.Conv2d) for p in chain) for chain in head.levels]
    assert ups == [0, 1, 2, 3]
    assert convolutions == [1, 1, 2, 3]
    # What the number guards against: levels side by side instead of their sum.
    wide = nn.Conv2d(4 * 128, 54, 1)
    others = sum(p.numel() for p in head.levels.parameters())
    assert others + sum(p.numel() for p in wide.parameters()) != 1_630_774


def test_the_levels_are_added_at_a_quarter_of_the_picture() -> None:
    torch.manual_seed(0)
    head = SemanticHead(16, 3).eval()
    maps = [torch.rand(1, 16, 32 >> level, 32 >> level) for level in range(4)]
    with torch.no_grad():
        whole = head(maps)
        assert whole.shape == (1, 3, 32, 32)
        summed = sum(level(one) for level, one in zip(head.levels, maps, strict=True))
        torch.testing.assert_close(whole, head.score(summed))
        without = head([*maps[:3], torch.zeros_like(maps[3])])
    assert (without - whole).abs().max() > 1e-4


def test_inspection_counts_the_semantic_classes_beside_cocos_things() -> None:
    found = inspect("panoptic", classes=54, channels=3, size=(128, 128))
    assert found.output_shape == [1, 54, 128, 128]
    assert found.parameters == 45_978_347
    labels = FAMILY.labels_for(54)
    assert sum(row.is_thing for row in labels.values()) == 80
    assert len(labels) == 133


def merged(found: list[Found], **told: object) -> Segmentation:
    return merge(found, (100, 200), card(least_stuff=4096, **told))


def scene() -> list[Found]:
    """Return two cows that overlap, one mostly under another, one unsure, and stuff."""
    return [
        block((10, 30), (10, 30), 0.9, "cow"),
        block((10, 30), (24, 44), 0.8, "cow"),  # 6 of 20 columns under the first
        block((12, 32), (12, 32), 0.7, "cow"),  # nine tenths under better ones
        block((60, 70), (60, 70), 0.4, "cow"),  # unsure
        block((0, 50), (0, 200), 0.8, "sky"),
        block((50, 70), (0, 200), 0.9, "grass"),  # 4000 pixels
    ]


def expected() -> np.ndarray:
    ids = np.zeros((100, 200), int)
    ids[0:50] = 3
    ids[10:30, 24:44] = 2
    ids[10:30, 10:30] = 1
    return ids


def test_merging_gives_exactly_the_expected_map() -> None:
    found = merged(scene())
    np.testing.assert_array_equal(found.ids, expected())
    assert [row.category or row.name for row in found.labels.values()] == ["cow", "cow", "sky"]
    assert [row.is_thing for row in found.labels.values()] == [True, True, False]
    assert [row.score for row in found.labels.values()] == [0.9, 0.8, None]
    assert any("1 things lay mostly under better ones" in note for note in found.notes)
    assert any("grass" in note for note in found.notes)
    assert found.objects is not None
    assert len(found.objects) == 3


@pytest.mark.parametrize(
    "told", [{"most_covered": 1.0}, {"least_score": 0.0}, {"least_stuff": 1}], ids=str
)
def test_each_rule_of_merging_matters(told: dict[str, object]) -> None:
    one = card(**{"least_stuff": 4096, **told})
    assert not np.array_equal(merge(scene(), (100, 200), one).ids, expected())


def test_stuff_of_two_windows_is_one_segment_and_no_pixel_has_two_ids() -> None:
    found = merged(
        [
            block((0, 100), (0, 120), 0.8, "sky"),
            block((0, 100), (80, 200), 0.7, "sky"),
            block((40, 100), (100, 200), 0.75, "grass"),
        ]
    )
    assert [row.name for row in found.labels.values()] == ["sky", "grass"]
    assert (found.ids[:, :120] == 1).all()
    assert (found.ids[40:, 120:] == 2).all()
    assert (found.ids[:40, 120:] == 1).all()


def mixed() -> tuple[Image, Mask]:
    """Return a picture whose table mixes objects and classes."""
    ids = np.zeros((64, 64), np.uint8)
    ids[:32] = 1
    ids[40:, :40] = 2
    ids[10:22, 10:22], ids[44:60, 20:36], ids[50:60, 50:60] = 7, 8, 11
    rows = [Label(1, "sky"), Label(2, "grass"), Label(7, "a", category="cow", is_thing=True)]
    rows += [Label(8, "b", category="cow", is_thing=True), Label(11, "no idea", ignore=True)]
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    image = Image(pixels, Geometry.pixels((64, 64)), has_channels=True)
    return image, Mask.like(image, ids, LabelTable(rows))


def prepared() -> Volume:
    image, mask = mixed()
    (volume,) = FAMILY.prepare(image, mask, card=card(), reviewed=None, job=Job())
    return volume


def test_a_table_of_objects_and_classes_teaches_both() -> None:
    volume = prepared()
    # Class indices: sky 1, cow 2, grass 3.
    assert volume.categories == {1: 1, 2: 3, 7: 2, 8: 2}
    assert volume.reviewed is not None
    ids = np.where(volume.reviewed, volume.ids.astype(np.int64), IGNORE)
    targets = targets_of(torch.from_numpy(ids), volume.categories)
    things, stuff = panoptic._kinds(card())
    cows = panoptic._only(targets, things, 4)
    assert cows.labels.tolist() == [1, 1]
    assert cows.boxes.tolist() == [[10, 10, 22, 22], [20, 44, 36, 60]]
    wanted = panoptic._stuff_map(panoptic._only(targets, stuff, 4))
    assert wanted[0, 0] == 1
    assert wanted[62, 2] == 2
    assert wanted[15, 15] == 0  # a cow
    assert wanted[35, 35] == 0  # reviewed, and nothing there
    assert wanted[55, 55] == 255  # nobody knows


def test_training_steps_and_what_is_found_stand_in_one_table() -> None:
    volume = prepared()
    surveyed = FAMILY.survey(card(), [volume])
    assert surveyed.parameters["anchors"][0][1] == [14.0, 14.0]
    torch.manual_seed(0)
    network = FAMILY.build(surveyed).train()
    assert volume.reviewed is not None
    ids = np.where(volume.reviewed, volume.ids.astype(np.int64), IGNORE)
    batch = Batch(
        torch.from_numpy(volume.data)[None], torch.from_numpy(ids)[None], [dict(volume.categories)]
    )
    loss = FAMILY.train_step(network, batch, card=surveyed)
    loss.backward()
    for part in (network.semantic.score, network.roi_heads.mask_predictor.mask_fcn_logits):
        assert part.weight.grad.abs().sum() > 0
    image, _ = mixed()
    found = FAMILY.segment(network.eval(), image, card=surveyed, device=CPU, job=Job())
    mask = Mask.like(image, found.ids, found.labels)
    assert set(mask.ids()) == set(found.labels)
    assert {row.name for row in found.labels.values() if not row.is_thing} <= {"sky", "grass"}


def test_a_picture_of_nothing_but_stuff_still_trains() -> None:
    network = FAMILY.build(card()).train()
    ids = torch.ones(1, 64, 64, dtype=torch.int64)
    loss = FAMILY.train_step(network, Batch(torch.rand(1, 3, 64, 64), ids, [{1: 1}]), card=card())
    assert torch.isfinite(loss)
    loss.backward()
    assert network.semantic.score.weight.grad.abs().sum() > 0


def test_the_least_stuff_is_the_papers_share_of_the_picture() -> None:
    plain = FAMILY.card("", LABELS)
    data = np.zeros((3, 240, 320), np.float32)
    volume = Volume(data, np.zeros((240, 320), np.uint8))
    assert FAMILY.survey(plain, iter([volume])).parameters["least_stuff"] == 1024
    told = dataclasses.replace(plain, parameters={**plain.parameters, "least_stuff": 7})
    assert FAMILY.survey(told, iter([volume])).parameters["least_stuff"] == 7


@pytest.mark.parametrize("is_thing", [True, False])
def test_labels_of_one_kind_are_sent_to_another_family(is_thing: bool) -> None:
    with pytest.raises(InputError, match="things and of stuff"):
        FAMILY.card("", LabelTable([Label(1, "cell", is_thing=is_thing)]))


def overfit_card() -> ModelCard:
    rows = [Label(1, "disc", is_thing=True), Label(2, "square")]
    few: dict[str, object] = {"backbone": "resnet18", "width": 0.5, "features": 64}
    plain = FAMILY.card("", LabelTable(rows))
    return dataclasses.replace(plain, parameters={**plain.parameters, **few, "patch": [64, 64]})


@pytest.mark.slow
def test_two_pictures_are_learnt_by_heart(tmp_path: Path) -> None:
    cases = [overfit.picture(seed, 64) for seed in (0, 1)]
    score, _ = overfit.learn_objects(FAMILY, overfit_card(), cases, tmp_path, steps=50)
    assert score >= 0.80


@pytest.mark.slow
def test_shuffled_labels_are_not_learnt(tmp_path: Path) -> None:
    cases = [overfit.shuffled(overfit.picture(seed, 64)) for seed in (0, 1)]
    score, _ = overfit.learn_objects(FAMILY, overfit_card(), cases, tmp_path, steps=50)
    assert score < 0.40


def test_stuff_named_as_a_thing_is_numbered_stays_stuff() -> None:
    rows = [Label(1, "cell", is_thing=True), Label(2, "cell 1")]
    card = FAMILY.card("resnet50", LabelTable(rows))
    card = dataclasses.replace(card, parameters={**card.parameters, "least_stuff": 1})
    left, right = (np.arange(8)[None].repeat(4, 0) // 4 == k for k in (0, 1))
    whole = (slice(0, 4), slice(0, 8))
    found = [Found(whole, left, 0.9, "cell"), Found(whole, right, 0.8, "cell 1")]
    merged = merge(found, (4, 8), card)
    assert merged.ids[0, 0] != merged.ids[0, 7]
    assert [row.is_thing for row in merged.labels.values()] == [True, False]

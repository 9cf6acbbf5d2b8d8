"""PolarMask: the paper's sizes, points, losses and scores; each bar fails its simplification."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.models.base import IGNORE, Batch
from maskloop.models.cards import ModelCard
from maskloop.models.instances import Targets, targets_of
from maskloop.models.pasting import View
from maskloop.models.polarmask import FAMILY, candidates, in_one_piece, owned
from maskloop.models.polarnet import STRIDES, Answers, Polar, points_of
from maskloop.models.pyramid import Trunk
from maskloop.ops.device import CPU
from tests.models.overfit import LABELS, learn_objects, picture, shuffled

RANGES = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8))
COCO = LabelTable.classes([f"class {i}" for i in range(80)])


def small_card(**told: object) -> ModelCard:
    card = FAMILY.card("resnet50", LABELS)
    few: dict[str, object] = {"backbone": "resnet18", "width": 0.25, "features": 16, "convs": 2}
    return dataclasses.replace(
        card, parameters={**card.parameters, **few, "patch": [64, 64], **told}
    )


def small(**told: object) -> Polar:
    torch.manual_seed(0)
    network = FAMILY.build(small_card(**told))
    assert isinstance(network, Polar)
    return network


def disc(radius: float, cy: float, cx: float, size: int = 64) -> Tensor:
    y, x = np.mgrid[:size, :size] + 0.5
    return torch.from_numpy(np.hypot(y - cy, x - cx) < radius)


def targets(*regions: Tensor, unseen: Tensor | None = None) -> Targets:
    ids = torch.zeros(regions[0].shape, dtype=torch.int64)
    found = []
    for region in regions:
        ids = torch.zeros_like(ids)
        ids[region] = 1
        found.append(targets_of(ids, {1: 1}))
    return Targets(
        torch.cat([one.boxes for one in found]),
        torch.cat([one.labels for one in found]),
        torch.cat([one.masks for one in found]),
        torch.zeros_like(regions[0]) if unseen is None else unseen,
    )


def places(size: int = 64) -> tuple[Tensor, Tensor]:
    """Return the points of all levels and their levels' numbers."""
    found = [points_of(torch.zeros(1, 1, -(-size // s), -(-size // s)), s) for s in STRIDES]
    return torch.cat(found), torch.cat([torch.full((len(p),), n) for n, p in enumerate(found)])


def test_the_head_and_the_whole_have_the_published_parameter_counts() -> None:
    with torch.device("meta"):
        network = FAMILY.build(FAMILY.card("resnet50", COCO))
    assert sum(p.numel() for p in network.parameters()) == 34_739_651
    body = ("trunk.", "fpn.")
    head = [p.numel() for name, p in network.named_parameters() if not name.startswith(body)]
    assert sum(head) == 7_362_947


def test_the_box_tower_can_be_left_out_as_the_paper_shows() -> None:
    card = FAMILY.card("resnet50", COCO)
    with torch.device("meta"):
        bare = FAMILY.build(
            dataclasses.replace(card, parameters={**card.parameters, "boxes": False})
        )
    tower = 4 * (256 * 256 * 9 + 512) + 256 * 9 * 4 + 4 + 5
    assert sum(p.numel() for p in bare.parameters()) == 34_739_651 - tower
    network = small(boxes=False)
    ids = torch.zeros(1, 64, 64, dtype=torch.int64)
    ids[0, 16:40, 20:44] = 1
    loss = FAMILY.train_step(
        network.train(), Batch(torch.randn(1, 3, 64, 64), ids, [{1: 1}]), card=small_card()
    )
    assert torch.isfinite(loss)


def test_each_point_has_36_rays_over_nought_at_five_levels() -> None:
    network = small()
    with torch.no_grad():
        answers = network(torch.randn(2, 3, 128, 96))
    counts = [16 * 12, 8 * 6, 4 * 3, 2 * 2, 1]
    assert answers.rays.shape == (2, sum(counts), 36)
    assert (answers.rays > 0).all()
    assert torch.bincount(answers.levels).tolist() == counts
    assert answers.points[:2].tolist() == [[4, 4], [12, 4]]
    assert answers.points[-1].tolist() == [64, 64]
    # Without the exponential, half of them would be lengths under nought.
    with torch.no_grad():
        plain = network.rays(torch.randn(1, 16, 8, 8))
    assert (plain < 0).any()


def test_centerness_is_told_by_the_tower_of_classes() -> None:
    network = small()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = network(x)
        for tower, moves in ((network.raying, False), (network.boxing, False),
                             (network.classing, True)):  # fmt: skip
            kept = {k: v.clone() for k, v in tower.state_dict().items()}
            for value in tower.parameters():
                value.add_(torch.randn_like(value))
            after = network(x)
            assert torch.equal(before.centres, after.centres) != moves
            assert torch.equal(before.scores, after.scores) != moves
            tower.load_state_dict(kept)


def test_points_near_the_centre_of_mass_stand_for_an_object() -> None:
    points, levels = places()
    one = targets(disc(20, 32, 32))
    found = owned(one, points, levels, RANGES)
    mine = points[found.owners == 0]
    assert (levels[found.owners == 0] == 0).all()
    # Of the eight points along a side, 4 + 8 i, those within 12 pixels of 32.
    assert sorted(map(tuple, mine.tolist())) == [(x, y) for x in (28, 36) for y in (28, 36)]
    # Every point of the box would be far more.
    box = ((points - 32).abs().amax(1) < 20) & (levels == 0)
    assert int(box.sum()) == 16


def test_the_middle_is_that_of_mass_not_of_the_box() -> None:
    region = torch.zeros(128, 128, dtype=torch.bool)
    region[20:100, 20:36] = True
    region[84:100, 20:110] = True  # an L
    points, levels = places(128)
    finest = ((-1, 1e8), *[(1e8, 2e8)] * 4)
    mine = points[owned(targets(region), points, levels, finest).owners == 0].numpy()
    middle = np.argwhere(region.numpy()).mean(0)[::-1] + 0.5
    assert len(mine)
    assert abs(mine - middle).max() < 12
    assert abs(mine - np.array([65, 60])).max() > 12  # the middle of the box


def test_levels_take_points_by_the_longest_way_to_a_side() -> None:
    points, levels = places(512)
    region = torch.zeros(512, 512, dtype=torch.bool)
    region[100:300, 150:350] = True  # 100 to a side from the middle
    found = owned(targets(region), points, levels, RANGES)
    mine = found.owners == 0
    far = (points[mine] - torch.tensor([250.0, 200.0])).abs().amax(1) + 100
    assert (levels[mine] == 1).any()
    assert torch.equal(levels[mine], torch.where(far > 128, 2, 1))
    all_to_one = owned(targets(region), points, levels, ((-1, 1e8), *[(1e8, 2e8)] * 4))
    assert set(levels[all_to_one.owners == 0].tolist()) == {0}


def test_the_smallest_object_that_claims_a_point_gets_it() -> None:
    points, levels = places()
    for regions in ((disc(28, 32, 32), disc(9, 36, 36)), (disc(9, 36, 36), disc(28, 32, 32))):
        told = targets(*regions)
        found = owned(told, points, levels, RANGES)
        at = int(((points == 36).all(1) & (levels == 0)).nonzero())
        assert int(found.owners[at]) == int(told.masks.sum((1, 2)).argmin())


def test_points_where_nobody_looked_are_no_background() -> None:
    points, levels = places()
    unseen = torch.zeros(64, 64, dtype=torch.bool)
    unseen[:, 32:] = True
    for one in (
        targets(disc(8, 20, 14), unseen=unseen),
        targets_of(torch.where(unseen, -1, 0), {}),
    ):
        found = owned(one, points, levels, RANGES)
        is_right = points[:, 0].clamp(max=63) >= 32
        assert not found.keep[is_right].any()
        assert found.keep[~is_right].all()


def test_unreviewed_background_and_cut_rays_teach_nothing() -> None:
    network = small().train()
    kept: list[Answers] = []

    def keep(_: nn.Module, __: object, answers: Answers) -> None:
        for values in (answers.scores, answers.rays, answers.centres):
            values.retain_grad()
        kept.append(answers)

    network.register_forward_hook(keep)
    ids = torch.zeros(1, 64, 64, dtype=torch.int64)
    ids[0][disc(14, 32, 32)] = 3
    ids[0, :, 40:] = IGNORE
    batch = Batch(torch.randn(1, 3, 64, 64), ids, [{3: 1}])
    FAMILY.train_step(network, batch, card=small_card()).backward()
    (answers,) = kept
    assert answers.scores.grad is not None
    assert answers.rays.grad is not None
    by_point = answers.scores.grad[0].abs().sum(1)
    is_right = answers.points[:, 0].clamp(max=63) >= 40
    assert by_point[~is_right].min() > 0
    taught = answers.rays.grad[0].abs()
    mine = taught.sum(1) > 0
    assert mine.any()
    assert (by_point[is_right & ~mine] == 0).all()
    assert taught[mine][:, 9].max() == 0  # to the right, where it is not known
    assert taught[mine][:, 27].min() > 0
    assert answers.centres.grad is not None
    assert answers.centres.grad.abs().max() == 0


def test_an_object_in_pieces_is_learnt_by_its_largest() -> None:
    one = in_one_piece(targets(disc(10, 20, 20) | disc(3, 50, 50)))
    assert torch.equal(one.masks[0], disc(10, 20, 20))
    assert one.boxes.tolist() == [[10, 10, 53, 53]]


def test_pictures_without_objects_teach_that_nothing_is_there() -> None:
    network = small().train()
    batch = Batch(torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64).long(), [{}, {}])
    loss = FAMILY.train_step(network, batch, card=small_card())
    assert torch.isfinite(loss)
    loss.backward()
    assert network.scores.weight.grad is not None
    assert network.scores.weight.grad.abs().sum() > 0


class Told(Polar):
    """A network that answers what it was told."""

    told: Answers

    def forward(self, x: Tensor) -> Answers:
        return self.told


def told_answers(objects: list[tuple[float, float, float, int, float]], size: int = 64) -> Answers:
    """Return discs of (x, y, radius, label, logit), each told at the point nearest to it."""
    points, levels = places(size)
    scores = torch.full((1, len(points), 2), -9.0)
    centres, lengths = torch.full((1, len(points)), 9.0), torch.ones(1, len(points), 36)
    for x, y, radius, label, logit in objects:
        far = (points - torch.tensor([x, y])).abs().sum(1) + 1000.0 * (levels > 0)
        at = int(far.argmin())
        scores[0, at, label], lengths[0, at] = logit, radius
    return Answers(scores, centres, None, lengths, points, levels)


def find(answers: Answers, view: View, **told: object) -> list[tuple[str, float, np.ndarray]]:
    network = Told(Trunk("resnet18", width=0.25), 2, features=16, depth=1)
    network.told = answers
    found = FAMILY.find(network.eval(), view, card=small_card(**told), device=CPU)
    wholes = []
    for one in found:
        whole = np.zeros(view.size, bool)
        whole[one.box] = one.region
        wholes.append((one.category, one.score, whole))
    return wholes


def test_objects_come_out_where_their_rays_reach_with_score_and_class() -> None:
    view = View(torch.zeros(1, 3, 64, 64), (64, 60), (128, 120))
    ((category, score, whole),) = find(told_answers([(28, 36, 14, 1, 3.0)]), view)
    assert category == "square"
    truth = disc(28, 72, 56, 128)[:, :120].numpy()
    assert np.count_nonzero(whole & truth) / np.count_nonzero(whole | truth) > 0.98
    assert score == pytest.approx(float(torch.tensor(3.0).sigmoid()), abs=2e-3)


def test_a_score_is_the_classes_times_centerness_plus_a_half() -> None:
    answers = told_answers([(28, 36, 14, 1, 3.0), (52, 12, 6, 1, 3.0)])
    answers.centres[:, answers.points[:, 0] > 40] = 0.0
    scores, labels, at = candidates(answers, (64, 64), least=0.05)
    best = dict(zip(answers.points[at, 0].tolist(), scores.tolist(), strict=True))
    sure = float(torch.tensor(3.0).sigmoid())
    assert best[28] == pytest.approx(sure, abs=2e-3)
    assert best[52] == pytest.approx(sure * (0.5 + 0.5) / 1.5, abs=2e-3)
    assert labels.tolist() == [1, 1]
    # Times centerness alone, as the detector without rays has it, it would be less.
    assert abs(best[52] - sure * 0.5) > 0.1


def test_of_objects_of_one_class_in_one_place_the_better_one_stays() -> None:
    view = View(torch.zeros(1, 3, 64, 64), (64, 64), (64, 64))
    told = [(28, 36, 14, 0, 3.0), (36, 36, 14, 0, 1.0), (28, 28, 14, 1, 1.0)]
    assert [f[0] for f in find(told_answers(told), view)] == ["disc", "square"]
    assert len(find(told_answers(told), view, nms=0.9)) == 3


def test_points_beyond_the_picture_find_nothing() -> None:
    view = View(torch.zeros(1, 3, 64, 64), (40, 64), (40, 64))
    assert not find(told_answers([(28, 60, 8, 0, 3.0)]), view)


def crescents() -> tuple[Image, Mask]:
    image = Image(np.zeros((64, 64, 3), np.uint8), Geometry.pixels((64, 64)), has_channels=True)
    ids = np.zeros((64, 64), np.uint8)
    ids[(disc(24, 32, 30) & ~disc(20, 32, 40)).numpy()] = 1
    ids[disc(6, 32, 44).numpy()] = 2
    rows = [Label(i, f"disc {i}", category="disc") for i in (1, 2)]
    return image, dataclasses.replace(Mask.like(image, ids, LabelTable(rows)))


def test_the_card_says_that_shapes_must_be_star_convex() -> None:
    assert any("star-convex" in limit for limit in FAMILY.card("", LABELS).limits)


def test_training_objects_that_rays_cannot_hold_are_told_with_how_well() -> None:
    image, mask = crescents()
    job = Job()
    FAMILY.prepare(image, mask, card=small_card(), reviewed=None, job=job)
    (note,) = job.notes
    assert "1 of 2 objects are not star-convex" in note
    assert "%" in note
    round_ones = np.where(mask.data == 2, mask.data, 0)
    job = Job()
    FAMILY.prepare(image, Mask.like(image, round_ones, mask.labels), card=small_card(),
                   reviewed=None, job=job)  # fmt: skip
    assert job.notes == []


def test_a_result_that_looks_bent_or_hollow_is_told() -> None:
    image, _ = crescents()
    network = Told(Trunk("resnet18", width=0.25), 2, features=16, depth=1)
    for shortest, centre, is_told in ((14.0, 3.0, False), (0.5, 3.0, True), (14.0, -3.0, True)):
        network.told = told_answers([(28, 36, 14, 0, 3.0)])
        at = int(network.told.scores[0].amax(1).argmax())
        network.told.rays[0, at, :12] = shortest
        network.told.centres[0, at] = centre
        found = FAMILY.segment(network.eval(), image, card=small_card(), device=CPU, job=Job())
        assert len(found.labels) == 1
        assert any("bent or hollow" in note for note in found.notes) == is_told


@pytest.mark.slow
def test_two_pictures_are_learnt_by_heart(tmp_path: Path) -> None:
    cases = [picture(seed, 64) for seed in (1, 2)]
    card = small_card(width=1.0, features=64, convs=4)
    iou, spare = learn_objects(FAMILY, card, cases, tmp_path / "a", steps=50)
    assert iou >= 0.8
    assert spare <= 1
    dealt = [shuffled(case) for case in cases]
    assert learn_objects(FAMILY, card, dealt, tmp_path / "b", steps=50)[0] < 0.5

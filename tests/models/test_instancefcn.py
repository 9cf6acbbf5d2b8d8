"""FCIS and InstanceFCN: the bars that a simpler network fails, each shown to be failed by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align

from maskloop.core.errors import InputError
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask
from maskloop.models import anchors, base
from maskloop.models import instancefcnproposals as windows
from maskloop.models.base import IGNORE, Batch, Volume
from maskloop.models.cards import ModelCard
from maskloop.models.inspect import inspect
from maskloop.models.instancefcn import FAMILY, agnostic, read_in_rounds
from maskloop.models.instancefcnnet import BINS, FCIS, GROUPS, Read, position_sensitive
from maskloop.models.instancefcntargets import DEVIATIONS, as_rois, head_loss, moved, wanted_of
from maskloop.models.instancefcnvotes import averaged, voted
from maskloop.models.instances import Targets, targets_of
from maskloop.models.objects import Found
from maskloop.ops.device import CPU
from tests.models.overfit import LABELS, learn_objects, picture, shuffled

Pool = Callable[[Tensor, Tensor], Tensor]
STEP = 16.0
CELL = LabelTable.classes(["cell"])


def small_card(variant: str = "voc", labels: LabelTable = LABELS, **told: object) -> ModelCard:
    card = FAMILY.card(variant, labels)
    few = {"backbone": "resnet18", "width": 0.25, "features": 32, "proposals": 40}
    return dataclasses.replace(
        card, parameters={**card.parameters, **few, "patch": [64, 64], **told}
    )


@pytest.fixture(scope="module")
def network() -> FCIS:
    torch.manual_seed(1)
    found = FAMILY.build(small_card())
    assert isinstance(found, FCIS)
    return found


def two_squares(size: int = 64) -> Targets:
    ids = torch.zeros((size, size), dtype=torch.int64)
    ids[8:28, 10:26], ids[36:56, 34:60] = 3, 5
    return targets_of(ids, {3: 1, 5: 2})


# --- the network ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "classes", "parameters", "gmac"),
    [("coco", 81, 57_892_626, 67.6), ("voc", 21, 51_856_392, 61.4)],
)
def test_weights_and_work_are_those_of_the_authors_network(
    variant: str, classes: int, parameters: int, gmac: float
) -> None:
    found = inspect("instancefcn", variant=variant, classes=classes, channels=3, size=(512, 512))
    assert found.parameters == parameters
    assert found.gmac == pytest.approx(gmac, rel=0.002)
    assert found.output_shape == [1, 7 * 7 * 2 * classes, 32, 32]


def test_one_score_an_anchor_or_one_map_a_class_would_be_another_network() -> None:
    """What the count is there to catch: torchvision's proposals, and maps without an outside."""
    with torch.device("meta"):
        net = FAMILY.build(FAMILY.card("coco", LabelTable.classes([f"c{i}" for i in range(80)])))
    assert isinstance(net, FCIS)
    half = sum(p.numel() for p in net.cls_seg.parameters()) // 2
    spare = sum(p.numel() for p in net.rpn.head.cls.parameters()) // 2
    total = sum(p.numel() for p in net.parameters())
    assert total - spare != 57_892_626
    assert total - half == 57_892_626 - 7 * 7 * 81 * 1025


def test_proposals_are_vgg_at_a_step_of_eight() -> None:
    found = inspect("instancefcn", variant="proposals", channels=3, size=(256, 256))
    vgg = 14_714_688
    parts = 512 * 512 + 512 + 512 * 25 * 9 + 25
    objectness = 512 * 512 * 9 + 512 + 513
    assert found.parameters == vgg + parts + objectness
    assert found.output_shape == [1, 25, 32, 32]
    assert found.layers["Conv2d"] == 17


def test_the_fifth_stage_keeps_the_step_and_looks_twice_as_far() -> None:
    with torch.device("meta"):
        net = FAMILY.build(FAMILY.card("voc", LABELS))
        fourth, parts, _ = net(torch.rand(1, 3, 96, 128))
    assert fourth.shape[2:] == parts.shape[2:] == (6, 8)
    kernels = [m for m in net.trunk.layer4.modules() if getattr(m, "kernel_size", 0) == (3, 3)]
    assert {m.dilation for m in kernels} == {(2, 2)}
    assert {m.stride for m in kernels} == {(1, 1)}
    with torch.device("meta"):
        fine = FAMILY.build(small_card(step=8))
        assert fine(torch.rand(1, 3, 96, 128))[1].shape[2:] == (12, 16)
    with pytest.raises(InputError, match="step of 16 or 8"):
        FAMILY.build(small_card(step=4))


# --- pooling ----------------------------------------------------------------------------------


def tells_parts_apart(pool: Pool) -> bool:
    """Whether maps of constants 0 to 48 come back as seven by seven blocks of three by three."""
    maps = torch.arange(49.0)[None, :, None, None].expand(1, 49, 12, 12)
    rois = torch.tensor([[0.0, 16, 32, 160, 150], [0, 3, 5, 60, 20]])
    block = torch.arange(49.0).reshape(7, 7).repeat_interleave(3, 0).repeat_interleave(3, 1)
    found = pool(maps, rois)[..., 0]
    return found.shape == (2, 21, 21) and torch.allclose(found, block.expand(2, 21, 21))


def tells_cells_apart(pool: Pool) -> bool:
    """Whether bins of one block differ on a ramp: 21 bins, not 7 each drawn three times."""
    ramp = torch.arange(12.0).expand(1, 49, 12, 12).contiguous()
    found = pool(ramp, torch.tensor([[0.0, 16, 16, 160, 160]]))[0, ..., 0]
    wanted = 1 + 9 * (torch.arange(21) + 0.5) / 21 - 0.5
    return bool(torch.allclose(found, wanted.expand(21, 21), atol=1e-5))


def ours(maps: Tensor, rois: Tensor) -> Tensor:
    return position_sensitive(maps, rois, step=STEP)


def without_parts(maps: Tensor, rois: Tensor) -> Tensor:
    found = roi_align(maps, rois, BINS, 1 / STEP, aligned=True)
    return found.mean(1)[..., None]


def seven_bins(maps: Tensor, rois: Tensor) -> Tensor:
    found = position_sensitive(maps, rois, step=STEP, bins=GROUPS)
    return found.repeat_interleave(3, 1).repeat_interleave(3, 2)


def transposed(maps: Tensor, rois: Tensor) -> Tensor:
    return position_sensitive(maps, rois, step=STEP).transpose(1, 2)


def test_each_part_of_a_box_is_read_from_its_own_maps() -> None:
    assert tells_parts_apart(ours)
    assert tells_cells_apart(ours)


def test_pooling_without_parts_or_of_seven_bins_fails_the_bars() -> None:
    assert not tells_parts_apart(without_parts)
    assert not tells_parts_apart(transposed)
    assert tells_parts_apart(seven_bins)
    assert not tells_cells_apart(seven_bins)


def test_bins_average_as_torchvisions_roialign_of_the_parts_map() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 3 * 49, 40, 36)
    # The last spans two cells a bin down and one across: more samples along one axis.
    rois = torch.tensor(
        [[0.0, 20, 30, 200, 190], [1, 100, 12, 130, 480], [1, 5, 7, 90, 20], [0, 30, 20, 400, 620]]
    )
    found = position_sensitive(maps, rois, step=STEP)
    whole = roi_align(maps, rois, BINS, 1 / STEP, aligned=True).reshape(4, 3, 49, 21, 21)
    for row in range(21):
        for column in range(21):
            part = row // 3 * 7 + column // 3
            torch.testing.assert_close(
                found[:, row, column], whole[:, :, part, row, column], rtol=1e-4, atol=1e-4
            )


def test_pooling_passes_gradients_to_the_maps_as_torchvision_does() -> None:
    torch.manual_seed(0)
    rois = torch.tensor([[0.0, 20, 30, 120, 90], [0, 5, 12, 70, 77]])
    grads = []
    for pool in (ours, lambda m, r: roi_align(m, r, BINS, 1 / STEP, aligned=True)):
        maps = torch.randn(1, 49, 9, 8, generator=torch.Generator().manual_seed(1))
        maps.requires_grad_()
        found = pool(maps, rois)
        if pool is not ours:
            keep = torch.arange(21) // 3
            part = (keep[:, None] * 7 + keep)[None, None]
            found = found.gather(1, part.expand(2, 1, 21, 21))
        found.square().sum().backward()
        assert maps.grad is not None
        grads.append(maps.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-5)


def test_no_boxes_give_no_values() -> None:
    assert ours(torch.zeros(1, 98, 4, 4), torch.zeros(0, 5)).shape == (0, 21, 21, 2)


# --- inside and outside -----------------------------------------------------------------------


def swapped(parts: Tensor) -> Tensor:
    return parts.reshape(1, -1, 2, 49, 6, 6).flip(2).reshape(parts.shape)


def maps_of(network: FCIS) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    parts = torch.randn(1, 2 * 3 * 49, 6, 6, generator=generator)
    sides = torch.randn(1, 8 * 49, 6, 6, generator=generator)
    return parts, sides, torch.tensor([[0.0, 8, 10, 70, 60], [0, 30, 20, 90, 90]])


def test_swapping_inside_and_outside_flips_the_mask_and_keeps_the_class(network: FCIS) -> None:
    parts, sides, rois = maps_of(network)
    one, other = network.read(parts, sides, rois), network.read(swapped(parts), sides, rois)
    torch.testing.assert_close(one.classes, other.classes)
    torch.testing.assert_close(one.masks, -other.masks)
    torch.testing.assert_close(one.masks.sigmoid(), 1 - other.masks.sigmoid())
    assert one.masks.abs().mean() > 0.1


def test_scores_of_the_inside_alone_would_fail_that_bar(network: FCIS) -> None:
    parts, _, rois = maps_of(network)
    inside = [
        position_sensitive(p, rois, step=network.step)[..., ::2].mean((1, 2))
        for p in (parts, swapped(parts))
    ]
    assert (inside[0] - inside[1]).abs().max() > 0.1


def test_the_class_is_the_mean_of_the_larger_and_the_mask_the_softmax_of_the_pair(
    network: FCIS,
) -> None:
    parts, sides, rois = maps_of(network)
    read = network.read(parts, sides, rois)
    pooled = position_sensitive(parts, rois, step=network.step).reshape(2, 21, 21, 3, 2)
    torch.testing.assert_close(read.classes, pooled.max(4).values.mean((1, 2)))
    torch.testing.assert_close(read.masks.sigmoid(), pooled.softmax(4)[..., 0])
    # The box is read from the second four, whatever the class: the first are the background's.
    boxes = position_sensitive(sides, rois, step=network.step).mean((1, 2))
    torch.testing.assert_close(read.deltas, boxes[:, 4:])


def test_masks_of_the_classes_are_weighed_by_their_chances() -> None:
    masks = torch.tensor([4.0, -4.0]).expand(1, 2, 2, 2)
    found = agnostic(masks, torch.tensor([[0.6, 0.2]]))
    high = torch.sigmoid(torch.tensor(4.0))
    wanted = 0.75 * high + 0.25 * (1 - high)
    torch.testing.assert_close(found, wanted.expand(1, 2, 2))


# --- rounds and votes -------------------------------------------------------------------------


def test_a_second_round_doubles_the_boxes_with_those_that_the_first_moved(network: FCIS) -> None:
    parts, sides, rois = maps_of(network)
    boxes, read = read_in_rounds(network, parts, sides, rois[:, 1:], (96, 96))
    assert len(boxes) == len(read.classes) == len(read.masks) == 2 * len(rois)
    first = network.read(parts, sides, rois)
    torch.testing.assert_close(boxes[2:], moved(rois[:, 1:], first.deltas, (96, 96)))
    again = network.read(parts, sides, as_rois([boxes[2:]]))
    torch.testing.assert_close(read.classes[2:], again.classes)
    assert not torch.allclose(boxes[2:], boxes[:2])
    alone, _ = read_in_rounds(network, parts, sides, rois[:, 1:], (96, 96), rounds=1)
    assert len(alone) == len(rois)  # the simplification: fails the bar of twice as many


def test_the_family_reads_twice_unless_the_card_says_otherwise(
    network: FCIS, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    plain = FCIS.read

    def counted(self: FCIS, parts: Tensor, boxes: Tensor, rois: Tensor) -> object:
        counts.append(len(rois))
        return plain(self, parts, boxes, rois)

    monkeypatch.setattr(FCIS, "read", counted)
    image, _ = picture(0, 64)
    for told, rounds in (({}, 2), ({"rounds": 1}, 1)):
        counts.clear()
        FAMILY.objects(network, image, card=small_card(**told), device=CPU, job=Job())
        assert len(counts) == rounds
        assert len(set(counts)) == 1


def half_masks() -> tuple[Tensor, Tensor, Tensor]:
    """Return two boxes that agree on an object, of which one sees the left half, and a far one."""
    masks = torch.zeros(3, 21, 21)
    masks[0] = 1
    masks[1, :, :10] = 1
    masks[2] = 1
    boxes = torch.tensor([[10.0, 10, 52, 52], [10, 10, 52, 52], [70, 70, 90, 90]])
    return boxes, torch.tensor([0.6, 0.55, 0.9]), masks


def test_boxes_of_one_object_vote_on_its_mask_by_score() -> None:
    boxes, scores, masks = half_masks()
    far, near = voted(boxes, scores, masks, (100, 100))
    assert (far.voters, near.voters) == (1, 2)
    assert near.score == pytest.approx(0.6)
    told = averaged(boxes[:2], scores[:2], masks[:2], (100, 100))
    assert told is not None
    (rows, columns), mean = told
    assert (rows, columns) == (slice(10, 52), slice(10, 52))
    torch.testing.assert_close(mean[:, :19], torch.ones(42, 19))
    torch.testing.assert_close(mean[:, 21:], torch.full((42, 21), 0.6 / 1.15))
    # 0.52 is above the paper's threshold of 0.4; of a threshold over it the half is left.
    assert near.place is not None
    assert near.place[1].all()
    _, strict = voted(boxes, scores, masks, (100, 100), threshold=0.6)
    assert strict.place is not None
    assert 0.4 < strict.place[1].mean() <= 0.5


def test_the_best_mask_alone_would_fail_the_vote() -> None:
    boxes, scores, masks = half_masks()
    _, alone = voted(boxes, scores, masks, (100, 100), threshold=0.6, agreeing=1.1)
    assert alone.voters == 1
    assert alone.place is not None
    assert alone.place[1].all()


def test_the_vote_counts_a_mask_as_nothing_outside_its_box() -> None:
    boxes = torch.tensor([[0.0, 0, 20, 20], [0, 0, 30, 20]])
    told = averaged(boxes, torch.tensor([1.0, 1.0]), torch.ones(2, 21, 21), (50, 50))
    assert told is not None
    (_, columns), mean = told
    assert columns == slice(0, 30)
    torch.testing.assert_close(mean[:, :20], torch.ones(20, 20))
    torch.testing.assert_close(mean[:, 20:], torch.full((20, 10), 0.5))


def test_voting_is_the_sum_of_pasted_masks() -> None:
    """Against each mask interpolated by torch over its box of whole pixels."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(3, 21, 21, generator=generator)
    boxes = torch.tensor([[4.0, 6, 40, 50], [8, 2, 44, 47], [0, 0, 63, 21]])
    weights = torch.tensor([0.9, 0.5, 0.2])
    whole = torch.zeros(64, 64)
    for mask, (x0, y0, x1, y1), weight in zip(masks, boxes.int().tolist(), weights, strict=True):
        part = functional.interpolate(mask[None, None], size=(y1 - y0, x1 - x0), mode="bilinear")
        whole[y0:y1, x0:x1] += weight / weights.sum() * part[0, 0]
    told = averaged(boxes, weights, masks, (64, 64))
    assert told is not None
    torch.testing.assert_close(told[1], whole[told[0]], rtol=1e-4, atol=1e-5)


def test_boxes_that_overlap_a_better_one_name_no_object_of_their_own() -> None:
    boxes = torch.tensor([[0.0, 0, 20, 20], [8, 0, 28, 20], [0, 60, 20, 80], [2, 60, 22, 80]])
    found = voted(boxes, torch.tensor([0.9, 0.8, 0.7, 0.2]), torch.ones(4, 21, 21), (90, 90))
    assert [one.score for one in found] == pytest.approx([0.9, 0.7])  # the second: IoU 0.43
    assert [one.voters for one in found] == [1, 2]
    strict = voted(
        boxes, torch.tensor([0.9, 0.8, 0.7, 0.2]), torch.ones(4, 21, 21), (90, 90), least_score=0.8
    )
    assert len(strict) == 1


def test_a_box_outside_the_picture_has_no_pixels() -> None:
    found = voted(torch.tensor([[70.0, 5, 90, 20]]), torch.ones(1), torch.ones(1, 21, 21), (64, 64))
    assert [one.place for one in found] == [None]


def test_what_better_objects_cover_by_half_is_dropped(
    network: FCIS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A box inside a larger one overlaps it little, and both are kept: a sliver is no object."""
    whole = Found((slice(4, 24), slice(4, 24)), np.ones((20, 20), np.bool_), 0.9, "disc")
    inside = Found((slice(4, 26), slice(6, 12)), np.ones((22, 6), np.bool_), 0.8, "disc")
    apart = Found((slice(20, 40), slice(4, 24)), np.ones((20, 20), np.bool_), 0.7, "square")
    monkeypatch.setattr(type(FAMILY), "find", lambda *_, **__: [whole, inside, apart])
    image, _ = picture(0, 64)
    found = FAMILY.segment(network, image, card=small_card(), device=CPU, job=Job())
    assert [row.category for row in found.labels.values()] == ["disc", "square"]
    assert any("1 objects" in note for note in found.notes)
    alone = FAMILY.segment(network, image, card=small_card(most_covered=1.0), device=CPU, job=Job())
    assert len(alone.labels) == 3


# --- targets and losses -----------------------------------------------------------------------


def test_boxes_stand_for_objects_from_half_an_overlap_on() -> None:
    told = two_squares()
    boxes = torch.tensor(
        [[10.0, 8, 26, 28], [10, 8, 26, 18], [10, 8, 26, 17.9], [36, 38, 60, 56], [0, 30, 8, 60]]
    )
    wanted = wanted_of(boxes, told)
    assert wanted.labels.tolist() == [1, 1, 0, 2, 0]
    assert wanted.masks[0].all()
    assert not wanted.masks[2].any()
    torch.testing.assert_close(
        moved(boxes, wanted.deltas * (wanted.labels > 0)[:, None], (64, 64))[3],
        told.boxes[1],
    )
    shift = (boxes[3, 0] + boxes[3, 2] - told.boxes[1, 0] - told.boxes[1, 2]) / 2
    assert wanted.deltas[3, 0].item() == pytest.approx(-shift.item() / 24 / DEVIATIONS[0], rel=1e-4)


def test_masks_are_cut_to_the_box_in_21_cells() -> None:
    told = two_squares()
    wanted = wanted_of(torch.tensor([[10.0, 4, 26, 28]]), told)
    # 20 of the 24 rows are the object's: the upper 3.5 of 21 cells are not.
    assert wanted.masks[0, :3].sum() == 0
    assert wanted.masks[0, 4:].all()
    assert wanted.masks.shape == (1, 21, 21)


def test_unreviewed_places_prove_nothing() -> None:
    told = two_squares()
    unseen = told.unseen.clone()
    unseen[:, 32:] = True
    half = dataclasses.replace(told, unseen=unseen)
    boxes = torch.tensor([[40.0, 4, 60, 24], [2, 40, 20, 60], [34, 36, 60, 56], [28, 36, 60, 56]])
    assert wanted_of(boxes, told).labels.tolist() == [0, 0, 2, 2]
    found = wanted_of(boxes, half)
    assert found.labels.tolist() == [-1, 0, 2, 2]
    assert not found.seen[2].any()
    assert found.seen[3].float().mean().item() == pytest.approx(4 / 32, abs=0.03)


def read_of(count: int, seed: int = 0) -> Read:
    generator = torch.Generator().manual_seed(seed)
    parts = ((count, 3), (count, 21, 21, 3), (count, 4))
    return Read(*(torch.randn(n, generator=generator).requires_grad_() for n in parts))


def test_only_the_hardest_boxes_of_each_picture_teach() -> None:
    told = two_squares()
    generator = torch.Generator().manual_seed(3)
    corner = torch.rand(40, 2, generator=generator) * 40
    boxes = torch.cat([torch.cat([corner, corner + 20], 1), told.boxes])
    wanted = [wanted_of(boxes, told)] * 2
    read = read_of(84)
    head_loss(read, wanted, hardest=10).backward()
    assert read.classes.grad is not None
    taught = read.classes.grad.abs().sum(1) > 0
    assert taught[:42].sum() == taught[42:].sum() == 10
    labels = wanted[0].labels.repeat(2)
    cost = functional.cross_entropy(read.classes, labels, reduction="none").detach()
    background = labels[:42] == 0
    # Among boxes of background, whose only loss is that of the class, the dearest were taken.
    chosen, left = background & taught[:42], background & ~taught[:42]
    if chosen.any():
        assert cost[:42][chosen].min() >= cost[:42][left].max()
    head_loss(everything := read_of(84), wanted, hardest=1000).backward()
    assert everything.classes.grad is not None
    # The simplification: every box teaches, and the bar of ten a picture is failed.
    assert (everything.classes.grad.abs().sum(1) > 0).sum() == 84


def test_the_mask_is_learnt_from_the_right_class_of_positive_boxes_alone() -> None:
    told = two_squares()
    boxes = torch.cat([told.boxes, torch.tensor([[0.0, 30, 8, 60]])])
    read = read_of(3)
    head_loss(read, [wanted_of(boxes, told)], hardest=128).backward()
    assert read.masks.grad is not None
    taught = read.masks.grad.abs().sum((1, 2)) > 0
    assert taught.tolist() == [[False, True, False], [False, False, True], [False] * 3]
    assert read.deltas.grad is not None
    assert (read.deltas.grad.abs().sum(1) > 0).tolist() == [True, True, False]


def test_the_loss_is_class_plus_ten_times_mask_plus_box() -> None:
    told = two_squares()
    wanted = wanted_of(told.boxes, told)
    read = read_of(2)
    own = read.masks[torch.arange(2), :, :, wanted.labels]
    mask = functional.binary_cross_entropy_with_logits(own, wanted.masks)
    kind = functional.cross_entropy(read.classes, wanted.labels)
    box = functional.smooth_l1_loss(read.deltas, wanted.deltas, reduction="sum") / 2
    found = head_loss(read, [wanted], hardest=128)
    torch.testing.assert_close(found, kind + 10 * mask + box)


def batch_of(ids: Tensor) -> Batch:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return Batch(images, ids, [{3: 1, 5: 2}, {3: 1, 5: 2}])


def test_proposals_and_heads_are_trained_together(network: FCIS) -> None:
    ids = torch.zeros(2, 64, 64, dtype=torch.int64)
    ids[:, 8:28, 10:26], ids[:, 36:56, 34:60] = 3, 5
    network.train().zero_grad(set_to_none=True)
    FAMILY.train_step(network, batch_of(ids), card=small_card()).backward()
    for part in (network.rpn.head, network.cls_seg, network.bbox, network.trunk):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    network.zero_grad(set_to_none=True)


def test_pictures_without_objects_or_review_have_a_finite_loss() -> None:
    for variant, labels in (("coco", LABELS), ("proposals", LabelTable.classes(["cell"]))):
        card = small_card(variant, labels)
        net = FAMILY.build(card).train()
        mixed = torch.zeros(2, 64, 64, dtype=torch.int64)
        mixed[1, 32:] = IGNORE
        # A corner that is reviewed, all else not: no anchor lies in it by half.
        corner = torch.full_like(mixed, IGNORE)
        corner[:, :2, :2] = 0
        for ids in (torch.zeros_like(mixed), mixed, corner):
            loss = FAMILY.train_step(net, batch_of(ids), card=card)
            assert torch.isfinite(loss)
            assert loss.requires_grad


def test_the_papers_recipe_keeps_the_first_stages_as_they_are() -> None:
    card = small_card(fixed=2)
    net = FAMILY.build(card)
    assert isinstance(net, FCIS)
    still = {name for name, p in net.trunk.named_parameters() if not p.requires_grad}
    assert still == {
        name
        for name, _ in net.trunk.named_parameters()
        if name.startswith(("conv1", "bn1", "layer1"))
    }
    assert FAMILY.card("coco", LABELS).parameters["recipes"]["paper"]["parameters"]["fixed"] == 2


def test_anchors_are_fitted_to_the_objects_once() -> None:
    ids = np.zeros((128, 128), np.uint8)
    for i, (side, corner) in enumerate([(10, 0), (12, 20), (30, 40), (34, 80)], 1):
        ids[corner : corner + side, corner : corner + side] = i
    volume = Volume(np.zeros((3, 128, 128), np.float32), ids, None, dict.fromkeys(range(1, 5), 1))
    card = FAMILY.survey(small_card("voc"), [volume])
    (shapes,) = card.parameters["anchors"]
    assert len(shapes) == 9
    assert all(5 <= side <= 50 for shape in shapes for side in shape)
    assert FAMILY.survey(card, []) is card
    assert FAMILY.survey(small_card("voc"), []) == small_card("voc")
    trained = dataclasses.replace(small_card("voc"), base="other")
    assert FAMILY.survey(trained, [volume]) is trained
    net = FAMILY.build(card)
    assert net.rpn.head.cls.out_channels == 18
    assert len(anchors.usual([16], (4, 8, 16, 32))[0]) == 12


def test_maps_follow_their_class_to_another_set_of_classes(network: FCIS, tmp_path: Path) -> None:
    base.write_state(network, tmp_path / "w.safetensors")
    files = {"w.safetensors": tmp_path / "w.safetensors"}
    wanted = LabelTable.classes(["star", "square", "disc"])
    card, other = base.load_for_labels(FAMILY, small_card(), files, wanted)
    assert isinstance(other, FCIS)
    _, _, rois = maps_of(network)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    network.eval()
    with torch.no_grad():
        one, two = (net.read(*net(x)[1:], rois) for net in (network, other.eval()))
    torch.testing.assert_close(two.classes[:, [0, 3, 2]], one.classes)
    torch.testing.assert_close(two.masks[..., [0, 3, 2]], one.masks)
    assert not torch.allclose(two.classes[:, 1], one.classes[:, 1])
    assert len(card.labels) == 3
    one_class = small_card("proposals", CELL)
    torch.manual_seed(0)
    net = FAMILY.build(one_class)
    base.write_state(net, tmp_path / "w.safetensors")
    _, again = base.load_for_labels(FAMILY, one_class, files, LabelTable.classes(["star"]))
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in net.state_dict().items())


# --- proposals --------------------------------------------------------------------------------


def test_a_window_copies_each_cell_from_the_map_of_its_part() -> None:
    maps = torch.randn(2, 25, 30, 34, generator=torch.Generator().manual_seed(0))
    middles = torch.tensor([[0, 15, 16], [1, 12, 20], [1, 2, 33]])
    found = windows.assembled(maps, middles)
    for mask, (number, row, column) in zip(found, middles.tolist(), strict=True):
        for v in range(21):
            for u in range(21):
                y = min(max(row - 10 + v, 0), 29)
                x = min(max(column - 10 + u, 0), 33)
                assert mask[v, u] == maps[number, 5 * (v * 5 // 21) + u * 5 // 21, y, x]


def test_one_pixel_is_another_part_in_another_window() -> None:
    """What one map for all parts, the simplification, cannot tell: two objects side by side."""
    maps = torch.arange(25.0)[None, :, None, None].expand(1, 25, 40, 40)
    left, right = windows.assembled(maps, torch.tensor([[0, 20, 14], [0, 20, 24]]))
    # Column 20 of the map is column 16 of the left window and column 6 of the right one.
    assert left[10, 16] == 5 * 2 + 3
    assert right[10, 6] == 5 * 2 + 1
    single = torch.ones(1, 1, 40, 40)
    left, right = windows.assembled(single, torch.tensor([[0, 20, 14], [0, 20, 24]]))
    assert left[10, 16] == right[10, 6]


def test_windows_are_21_cells_of_8_pixels_about_their_middle() -> None:
    box = windows.boxes_of(torch.tensor([[0, 15, 16]]))
    assert box.tolist() == [[48, 40, 48 + 168, 40 + 168]]


def test_windows_stand_for_objects_that_fill_them() -> None:
    told = two_squares()
    boxes = torch.cat([told.boxes, told.boxes + 3, torch.tensor([[0.0, 40, 20, 60]])])
    labels, nearest = windows.labelled(boxes, told)
    assert labels.tolist() == [1, 1, -1, -1, 0]
    assert nearest.tolist()[:4] == [0, 1, 0, 1]
    # The best window of an object stands for it from 0.4 on; a bad one never does.
    assert windows.labelled(told.boxes[:1] + 5, told)[0].tolist() == [-1]
    assert windows.labelled(told.boxes[:1] + torch.tensor([4.0, 0, 4, 0]), told)[0].tolist() == [1]
    unseen = dataclasses.replace(told, unseen=torch.ones_like(told.unseen))
    assert windows.labelled(boxes, unseen)[0].tolist() == [1, 1, -1, -1, -1]


def test_enlarged_pictures_keep_their_size_and_hold_an_object() -> None:
    told = two_squares()
    truth = (told.masks.any(0)).float()
    images = truth.expand(1, 3, 64, 64)
    torch.manual_seed(0)
    for factor in (0.5, 1.0, 2.0, 3.0):
        (picture_,), (found,) = windows.rescaled(images, [told], factor)
        size = 32 if factor == 0.5 else 64
        assert picture_.shape[1:] == found.unseen.shape == (size, size)
        assert len(found)
        inside = found.masks.any(0)
        assert picture_[0][inside].mean() > 0.9
        assert picture_[0][~inside].mean() < 0.2
        for box, mask in zip(found.boxes.long().tolist(), found.masks, strict=True):
            x0, y0, x1, y1 = box
            assert mask[y0:y1, x0:x1].sum() == mask.sum() > 0


def test_windows_and_scales_are_fitted_to_the_objects() -> None:
    told = windows.windows_for(np.full(9, 168.0))
    assert told == {"cells": 21, "scales": [1.0]}
    small = windows.windows_for(np.array([12.0] * 5 + [40.0] * 5))
    assert small["cells"] == 7  # 12 pixels fourfold fill six cells of 8
    assert small["scales"][0] * 40 == pytest.approx(56, rel=0.01)
    assert small["scales"][-1] * 12 == pytest.approx(56, rel=0.01)
    assert all(b / a <= 1.7 for a, b in zip(small["scales"], small["scales"][1:], strict=False))
    assert windows.windows_for(np.array([12.0, 40.0]), 21)["cells"] == 21
    ids = np.zeros((64, 64), np.uint8)
    ids[4:28, 4:24] = 1
    volume = Volume(np.zeros((3, 64, 64), np.float32), ids, None, {1: 1})
    card = FAMILY.survey(FAMILY.card("proposals", CELL), [volume])
    assert card.parameters["cells"] == 13
    assert FAMILY.survey(card, []) is card


def test_a_picture_smaller_than_a_window_is_seen_at_its_largest() -> None:
    assert windows.usable([0.1, 0.5, 2.0], (32, 40)) == [0.5, 2.0]
    assert windows.usable([0.1, 0.2], (32, 40)) == [0.2]


def test_rival_proposals_are_told_apart_by_what_is_in_them() -> None:
    """Two windows a cell apart overlap by 0.9; their masks do not, and both stay."""

    class Drawn(torch.nn.Module):
        cells = 21

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            maps = torch.full((1, 25, 40, 40), -9.0)
            columns = torch.arange(40)
            # In the left column of parts the left thing, in the right one the right thing.
            maps[:, 0::5, 14:26, 6:9] = maps[:, 4::5, 14:26, 24:27] = 9
            scores = torch.full((1, 1, 40, 40), -9.0)
            scores[0, 0, 20, (columns == 15) | (columns == 16)] = 2.0
            return maps, scores

    net = Drawn()
    boxes, masks, scores = windows.proposed(net, torch.zeros(1, 3, 320, 320), [1.0])  # type: ignore[arg-type]  # drawn
    assert len(boxes) == len(scores) == len(masks) >= 1
    # Both see the same two things: the masks' boxes overlap by more than 0.8, one is dropped.
    assert len(boxes) == 1
    rivals, *_ = windows.proposed(net, torch.zeros(1, 3, 320, 320), [1.0], overlap=0.99)  # type: ignore[arg-type]  # drawn
    assert len(rivals) == 2


def test_proposals_take_one_label_and_any_residual_trunk() -> None:
    with pytest.raises(InputError, match=r"one label for instancefcn:proposals.*disc, square"):
        FAMILY.card("proposals", LABELS)
    with torch.device("meta"):
        net = FAMILY.build(small_card("proposals", CELL))
        assert net(torch.rand(1, 3, 64, 96))[0].shape == (1, 25, 8, 12)
    assert any("no classes" in one for one in FAMILY.card("proposals", CELL).limits)


def test_a_classifier_of_vgg_starts_the_proposals() -> None:
    from torchvision.models import vgg16

    with torch.device("meta"):
        state = vgg16(weights=None).state_dict()
        net = FAMILY.build(FAMILY.card("proposals", CELL))
    own = {k.removeprefix("trunk."): v for k, v in net.state_dict().items() if "trunk." in k}
    assert len(own) == 26
    assert all(state[key].shape == value.shape for key, value in own.items())


# --- learning ---------------------------------------------------------------------------------


def learner(variant: str) -> ModelCard:
    if variant == "proposals":
        told = {"backbone": "vgg16", "features": 128}
        return small_card("proposals", CELL, **told)
    return small_card(variant, width=1.0, features=128, proposals=100, hardest=64, step=8)


def cases_for(variant: str) -> list[tuple[Image, Mask]]:
    cases = [picture(seed, 64) for seed in (1, 2)]
    if variant != "proposals":
        return cases
    rows = LabelTable([Label(i, f"cell {i}", category="cell") for i in (1, 2)])
    return [(image, Mask.like(image, mask.data, rows)) for image, mask in cases]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("variant", "bar", "most"), [("voc", 0.7, 1), ("proposals", 0.6, 20)])
def test_two_pictures_are_learnt_by_heart(
    variant: str, bar: float, most: int, tmp_path: Path
) -> None:
    cases = cases_for(variant)
    score, spare = learn_objects(FAMILY, learner(variant), cases, tmp_path, steps=100)
    assert score >= bar
    assert spare <= most


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("variant", "bar"), [("voc", 0.7), ("proposals", 0.6)])
def test_shuffled_pictures_are_not_learnt_in_the_same_steps(
    variant: str, bar: float, tmp_path: Path
) -> None:
    dealt = [shuffled(case, i) for i, case in enumerate(cases_for(variant))]
    control, _ = learn_objects(FAMILY, learner(variant), dealt, tmp_path, steps=100)
    assert control < 0.5 * bar


@pytest.mark.slow
def test_the_same_seed_gives_the_same_losses() -> None:
    curves = []
    for _ in range(2):
        torch.manual_seed(7)
        card = small_card()
        net = FAMILY.build(card).train()
        ids = torch.zeros(2, 64, 64, dtype=torch.int64)
        ids[:, 8:28, 10:26], ids[:, 36:56, 34:60] = 3, 5
        optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3)
        losses = []
        for _ in range(4):
            loss = FAMILY.train_step(net, batch_of(ids), card=card)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0] == curves[1]

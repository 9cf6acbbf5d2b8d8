"""SOLO: the paper's sizes, cells, Matrix NMS and losses; each bar fails its simplification."""

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
from maskloop.core.labels import LabelTable
from maskloop.models import base, solonet
from maskloop.models.base import IGNORE, Batch, Imports, key_difference
from maskloop.models.cards import ModelCard
from maskloop.models.instances import Targets, targets_of
from maskloop.models.objects import Found
from maskloop.models.pasting import View
from maskloop.models.pyramid import Trunk
from maskloop.models.solo import FAMILY, candidates
from maskloop.models.solonet import GRIDS, Answers, Solo
from maskloop.models.solotargets import cells_of, dice_losses, is_open, matrix_nms
from maskloop.ops.device import CPU, Device
from tests.models.overfit import LABELS, learn_objects, picture, shuffled

SMALL = (8, 6, 4, 3, 2)
SCALES = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
COCO = LabelTable.classes([f"class {i}" for i in range(80)])


def small_card(variant: str = "resnet50", **told: object) -> ModelCard:
    card = FAMILY.card(variant, LABELS)
    few: dict[str, object] = {"backbone": "resnet18", "width": 0.25, "features": 16, "convs": 2}
    few |= {"grids": list(SMALL), "patch": [64, 64]}
    return dataclasses.replace(card, parameters={**card.parameters, **few, **told})


def small(variant: str = "resnet50") -> Solo:
    torch.manual_seed(0)
    network = FAMILY.build(small_card(variant))
    assert isinstance(network, Solo)
    return network


def objects(*boxes: tuple[int, int, int, int], size: int = 800) -> Targets:
    """Return boxes x0, y0, x1, y1 that are filled, as objects of the first class."""
    masks = torch.zeros(len(boxes), size, size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    labels = torch.ones(len(boxes), dtype=torch.int64)
    return Targets(
        torch.tensor(boxes).reshape(-1, 4).float(), labels, masks, torch.zeros(size, size).bool()
    )


@pytest.fixture(scope="module")
def papers() -> Solo:
    with torch.device("meta"):
        network = FAMILY.build(FAMILY.card("resnet50", COCO))
    assert isinstance(network, Solo)
    return network


def test_the_head_and_the_whole_have_the_published_parameter_counts(papers: Solo) -> None:
    assert sum(p.numel() for p in papers.parameters()) == 36_301_232
    body = ("trunk.", "fpn.")
    head = [p.numel() for name, p in papers.named_parameters() if not name.startswith(body)]
    assert sum(head) == 9_448_816


def test_every_level_answers_80_classes_a_cell_and_one_mask_a_cell(papers: Solo) -> None:
    with torch.device("meta"), torch.no_grad():
        answers = papers(torch.rand(1, 3, 512, 384))
        masks = papers.whole(answers)
    assert [tuple(s.shape) for s in answers.scores] == [(1, 80, s, s) for s in GRIDS]
    assert GRIDS == (40, 36, 24, 16, 12)
    assert [m.shape[1] for m in masks] == [s * s for s in GRIDS]
    assert [tuple(m.shape[2:]) for m in masks] == [
        (128, 96),
        (128, 96),
        (64, 48),
        (32, 24),
        (32, 24),
    ]


def test_decoupled_answers_a_column_and_a_row_instead_of_a_cell() -> None:
    with torch.device("meta"), torch.no_grad():
        network = FAMILY.build(FAMILY.card("decoupled", COCO))
        masks = network.whole(network(torch.rand(1, 3, 256, 256)))
    assert [m.shape[1] for m in masks] == [2 * s for s in GRIDS]


def twins(network: Solo) -> float:
    """Return how much the masks of two equal blobs, far apart, differ at corresponding pixels."""
    level = torch.zeros(1, 16, 32, 32)
    blob = torch.randn(16, 4, 4, generator=torch.Generator().manual_seed(1))
    level[0, :, 8:12, 8:12] = level[0, :, 18:22, 20:24] = blob
    with torch.no_grad():
        masks = network.cell_masks[0](network._maps(level, 0)[0])[0]
    first, second = masks[:, 14:26, 14:26], masks[:, 34:46, 38:50]
    return float((first - second).abs().max() / masks.std())


def test_equal_objects_at_two_places_have_different_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small()
    assert twins(network) > 0.05
    plain = solonet.with_places

    def without(x: Tensor, axes: str = "xy") -> Tensor:
        placed = plain(x, axes)
        placed[:, x.shape[1] :] = 0
        return placed

    monkeypatch.setattr(solonet, "with_places", without)
    assert twins(network) < 1e-3


def test_places_run_from_minus_one_to_one_x_before_y() -> None:
    placed = solonet.with_places(torch.zeros(2, 3, 4, 5))
    assert placed.shape == (2, 5, 4, 5)
    assert placed[1, 3, 2].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert placed[1, 4, :, 3].tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1])
    assert torch.equal(solonet.with_places(torch.zeros(2, 3, 4, 5), "y")[:, 3], placed[:, 4])


def test_a_cell_is_its_row_times_s_plus_its_column() -> None:
    # 20 pixels a cell: row 7, column 30.
    (level, *_) = cells_of(objects((600, 140, 620, 160)), SCALES, GRIDS)
    assert level.cells.tolist() == [7 * 40 + 30]
    (turned, *_) = cells_of(objects((140, 600, 160, 620)), SCALES, GRIDS)
    assert turned.cells.tolist() == [30 * 40 + 7]


def test_a_cells_mask_is_its_columns_times_its_rows() -> None:
    network = small("decoupled")
    grid, row, column = SMALL[0], 2, 5
    across, down = torch.full((1, grid, 16, 16), -9.0), torch.full((1, grid, 16, 16), -9.0)
    across[0, column, :, 8:] = down[0, row, 4:] = 9.0
    answers = Answers([], [(across, down)])
    mask = network.masks(answers, 0, 0, torch.tensor([row * grid + column]))[0]
    assert (mask > 0.5).nonzero().min(0).values.tolist() == [4, 8]
    other = network.masks(answers, 0, 0, torch.tensor([column * grid + row]))[0]
    assert not (other > 0.5).any()


def test_masks_of_some_cells_are_those_of_all() -> None:
    network = small()
    with torch.no_grad():
        answers = network(torch.randn(2, 3, 64, 64))
        whole = network.whole(answers)
        for number in range(5):
            cells = torch.tensor([3, 0, 1])
            some = network.masks(answers, number, 1, cells)
            torch.testing.assert_close(some, whole[number][1, cells].sigmoid())


def test_cells_lie_in_the_middle_fifth_of_the_box_and_at_most_one_off() -> None:
    # Cells of 20 pixels; a fifth of the box goes from 380 to 420 and from 399 to 401.
    (level, *_) = cells_of(objects((300, 395, 500, 405)), SCALES, GRIDS)
    assert sorted(level.cells.tolist()) == [r * 40 + c for r in (19, 20) for c in (19, 20, 21)]
    # The whole box would take every cell round the centre.
    tall = objects((380, 350, 420, 450))
    (fifth, *_) = cells_of(tall, SCALES, GRIDS)
    (whole, *_) = cells_of(tall, SCALES, GRIDS, centre=1.0)
    assert (len(fifth.cells), len(whole.cells)) == (4, 9)


def test_the_centre_is_that_of_mass_not_of_the_box() -> None:
    tailed = torch.zeros(1, 800, 800, dtype=torch.bool)
    tailed[0, 60:140, 70:90] = True
    tailed[0, 99:101, 0:90] = True  # a thin tail to the left
    plain = objects((0, 60, 90, 140))
    (level, *_) = cells_of(dataclasses.replace(plain, masks=tailed), SCALES, GRIDS)
    assert set((level.cells % 40).tolist()) == {3, 4}
    (boxed, *_) = cells_of(plain, SCALES, GRIDS)
    assert set((boxed.cells % 40).tolist()) == {1, 2}


def test_levels_take_objects_by_their_mean_side_and_share_those_between() -> None:
    told = cells_of(objects((100, 100, 160, 160), (200, 200, 600, 600)), SCALES, GRIDS)
    assert [set(level.owners.tolist()) for level in told] == [{0}, {0}, set(), {1}, {1}]


def test_a_cell_that_two_objects_claim_goes_to_the_smaller() -> None:
    large, small_one = (380, 380, 420, 420), (395, 395, 405, 405)
    for number, boxes in ((1, (large, small_one)), (0, (small_one, large))):
        (level, *_) = cells_of(objects(*boxes), SCALES, GRIDS)
        assert len(set(level.cells.tolist())) == len(level.cells) == 4
        assert set(level.owners.tolist()) == {number}


def test_a_picture_without_objects_has_no_cells() -> None:
    assert all(not len(level.cells) for level in cells_of(objects(), SCALES, GRIDS))


def disc(cx: float, size: int = 40, radius: float = 8.0) -> Tensor:
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (y - 20) ** 2 + (x - cx) ** 2 < radius**2


def test_matrix_nms_lowers_a_copy_by_exp_minus_two() -> None:
    masks = torch.stack([disc(12), disc(12), disc(30)])
    scores = torch.tensor([0.9, 0.8, 0.7])
    found = matrix_nms(masks, torch.zeros(3).long(), scores)
    assert found.tolist() == pytest.approx([0.9, 0.8 * np.exp(-2), 0.7])
    # Another class is no copy; a wider Gaussian is not the paper's.
    assert matrix_nms(masks, torch.tensor([0, 1, 0]), scores).tolist() == pytest.approx(
        scores.tolist()
    )
    assert float(matrix_nms(masks, torch.zeros(3).long(), scores, sigma=0.5)[1]) > 0.4


def by_loops(masks: Tensor, labels: Tensor, scores: Tensor, *, heeds_covering: bool) -> list[float]:
    """Return Matrix NMS as the paper writes it, pair by pair."""

    def iou(i: int, j: int) -> float:
        if labels[i] != labels[j]:
            return 0.0
        return float((masks[i] & masks[j]).sum() / (masks[i] | masks[j]).sum())

    found = []
    for j in range(len(masks)):
        decays = [1.0]
        for i in range(j):
            covered = max((iou(k, i) for k in range(i)), default=0.0) if heeds_covering else 0.0
            if labels[i] == labels[j]:
                decays.append(float(np.exp(-2 * iou(i, j) ** 2) / np.exp(-2 * covered**2)))
        found.append(float(scores[j]) * min(decays))
    return found


def test_matrix_nms_is_the_papers_pair_by_pair() -> None:
    rng = np.random.default_rng(0)
    masks = torch.stack([disc(float(cx), radius=float(rng.uniform(4, 9))) for cx in
                         rng.uniform(8, 32, 30)])  # fmt: skip
    labels = torch.from_numpy(rng.integers(0, 2, 30))
    scores = torch.from_numpy(np.sort(rng.uniform(0.1, 1, 30))[::-1].copy())
    found = matrix_nms(masks, labels, scores).tolist()
    assert found == pytest.approx(by_loops(masks, labels, scores, heeds_covering=True), rel=1e-5)
    plain = by_loops(masks, labels, scores, heeds_covering=False)
    assert np.abs(np.subtract(found, plain)).max() > 0.01


def test_nothing_goes_through_matrix_nms() -> None:
    none = torch.zeros(0, 4, 4, dtype=torch.bool)
    assert len(matrix_nms(none, torch.zeros(0).long(), torch.zeros(0))) == 0


def test_dice_is_nought_where_masks_agree_and_heeds_no_unseen_pixel() -> None:
    truth = torch.rand(3, 8, 8)
    seen = torch.ones(8, 8)
    assert dice_losses(truth, truth, seen).abs().max() < 1e-6
    half = torch.zeros(1, 8, 8)
    half[:, :4] = 1
    assert float(dice_losses(half, torch.ones(1, 8, 8), seen)) == pytest.approx(1 - 64 / 96)
    seen[4:] = 0
    assert float(dice_losses(half, torch.ones(1, 8, 8), seen)) == pytest.approx(0, abs=1e-6)


class Told(Solo):
    """A network that answers what it was told."""

    told: Answers

    def forward(self, x: Tensor) -> Answers:
        return self.told


def told_network(cells: dict[tuple[int, int, int], float], masks: Tensor) -> Told:
    """Return a decoupled network with scores at (label, row, column) of the first level."""
    network = Told(Trunk("resnet18", width=0.25), 2, grids=SMALL, features=16, depth=1,
                   decoupled=True)  # fmt: skip
    scores = [torch.full((1, 2, s, s), -9.0) for s in SMALL]
    for (label, row, column), score in cells.items():
        scores[0][0, label, row, column] = score
    n = masks.shape[-1]
    maps = [(torch.full((1, s, n, n), -9.0), torch.full((1, s, n, n), -9.0)) for s in SMALL]
    maps[0][0][0, :], maps[0][1][0, :] = masks, 9.0
    network.told = Answers(scores, maps)
    return network.eval()


def test_objects_come_out_where_their_masks_are_with_score_and_class() -> None:
    across = torch.full((SMALL[0], 16, 16), -9.0)
    across[6, 2:10, 4:9] = 9.0
    network = told_network({(1, 2, 6): 3.0}, across)
    view = View(torch.zeros(1, 3, 64, 64), (64, 64), (128, 64))
    (found,) = FAMILY.find(network, view, card=small_card(), device=CPU)
    assert found.category == "square"
    assert found.score == pytest.approx(float(torch.tensor(3.0).sigmoid()), abs=1e-3)
    rows, columns = found.box
    whole = np.zeros((128, 64), bool)
    whole[rows, columns] = found.region
    truth = np.zeros((128, 64), bool)
    truth[16:80, 16:36] = True
    assert np.count_nonzero(whole & truth) / np.count_nonzero(whole | truth) > 0.95


def test_scores_are_weighed_by_how_sure_the_mask_is_and_small_masks_dropped() -> None:
    masks = torch.full((SMALL[0], 16, 16), -9.0)
    masks[2, :8, :8] = 0.85  # a probability of 0.7
    masks[6, 0, :8] = 9.0  # no larger than the level's step
    network = told_network({(0, 1, 2): 9.0, (0, 5, 6): 9.0}, masks)
    scores, labels, found = candidates(network, network.told, least=0.1, most=500)
    assert scores.tolist() == pytest.approx([0.7], abs=0.01)
    assert labels.tolist() == [0]
    assert found.shape == (1, 16, 16)


def test_of_cells_side_by_side_the_better_one_counts() -> None:
    masks = torch.full((SMALL[0], 16, 16), -9.0)
    masks[:, :8, :8] = 9.0
    network = told_network({(0, 1, 2): 3.0, (0, 1, 3): 2.0, (0, 2, 2): 1.0, (0, 6, 6): 0.5}, masks)
    scores, _, _ = candidates(network, network.told, least=0.1, most=500)
    assert len(scores) == 2


def test_cells_somebody_did_not_look_at_wholly_prove_no_background() -> None:
    unseen = torch.zeros(64, 64, dtype=torch.bool)
    unseen[30:, :] = True
    assert is_open(unseen, 8).reshape(8, 8).any(1).tolist() == [True] * 3 + [False] * 5

    family, network = FAMILY, small().train()
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: object, answers: Answers) -> None:
        for scores in answers.scores:
            scores.retain_grad()
            kept.append(scores)

    network.register_forward_hook(keep)
    ids = torch.zeros(1, 64, 64, dtype=torch.int64)
    ids[0, 8:24, 8:24] = 5
    ids[0, 30:] = IGNORE
    batch = Batch(torch.randn(1, 3, 64, 64), ids, [{5: 1}])
    family.train_step(network, batch, card=small_card()).backward()
    finest = kept[0].grad
    assert finest is not None
    assert finest[0, :, :3].abs().min() > 0
    assert finest[0, :, 3:].abs().max() == 0


def test_masks_heed_no_pixel_that_nobody_looked_at() -> None:
    network = small().train()
    ids = torch.zeros(1, 64, 64, dtype=torch.int64)
    ids[0, 8:24, 8:40] = 5
    card, images = small_card(), torch.randn(1, 3, 64, 64)
    whole = float(FAMILY.train_step(network, Batch(images, ids, [{5: 1}]), card=card).detach())
    half = ids.clone()
    half[:, 32:] = IGNORE
    less = float(FAMILY.train_step(network, Batch(images, half, [{5: 1}]), card=card).detach())
    assert less != whole


@pytest.mark.parametrize("variant", ["resnet50", "decoupled"])
def test_pictures_without_objects_teach_that_nothing_is_there(variant: str) -> None:
    network = small(variant).train()
    batch = Batch(torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64).long(), [{}, {}])
    loss = FAMILY.train_step(network, batch, card=small_card(variant))
    assert torch.isfinite(loss)
    loss.backward()
    assert network.scores.weight.grad is not None
    assert network.scores.weight.grad.abs().sum() > 0


def test_a_large_picture_is_seen_through_windows_of_the_size_learnt_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def find(network: nn.Module, view: View, *, card: ModelCard, device: Device) -> list[Found]:
        seen.append((view.size, tuple(FAMILY._filled(view.picture, card).shape[2:])))
        return []

    monkeypatch.setattr(FAMILY, "find", find)
    for shape, told in (((100, 64), {}), ((40, 40), {}), ((40, 40), {"enlarge": 2.0})):
        image = Image(np.zeros((*shape, 3), np.uint8), Geometry.pixels(shape), has_channels=True)
        FAMILY.objects(small(), image, card=small_card(**told), device=CPU, job=Job())
    assert seen[:2] == [((64, 64), (64, 64))] * 2
    assert seen[2] == ((40, 40), (64, 64))
    assert all(part == ((32, 32), (64, 64)) for part in seen[3:])
    assert len(seen) == 7


def mmdet_name(name: str) -> str:
    """Return what mmdetection calls one of our tensors."""
    part, _, rest = name.partition(".")
    if part == "trunk":
        return f"backbone.{rest}"
    if part == "fpn":
        kind, number, _, leaf = rest.split(".")
        which = {"inner_blocks": "lateral_convs", "layer_blocks": "fpn_convs"}[kind]
        return f"neck.{which}.{number}.conv.{leaf}"
    towers = {"classing": "cls_convs", "masking": "mask_convs"}
    towers |= {"columns": "mask_convs_x", "rows": "mask_convs_y"}
    if part in towers:
        number, layer, leaf = rest.split(".")
        return f"mask_head.{towers[part]}.{number}.{('conv', 'gn')[int(layer)]}.{leaf}"
    lasts = {"scores": "conv_cls", "cell_masks": "conv_mask_list"}
    lasts |= {"column_masks": "conv_mask_list_x", "row_masks": "conv_mask_list_y"}
    return f"mask_head.{lasts[part]}.{rest}"


@pytest.mark.parametrize("variant", ["resnet50", "decoupled"])
def test_mmdetections_tensors_find_their_places(variant: str) -> None:
    assert isinstance(FAMILY, Imports)
    card = FAMILY.published(variant, COCO)
    with torch.device("meta"):
        own = FAMILY.build(card).state_dict()
    published = {mmdet_name(key): value for key, value in reversed(own.items())}
    assert "mask_head.cls_convs.6.gn.weight" in published
    assert "neck.lateral_convs.3.conv.bias" in published
    assert "backbone.layer4.2.bn3.running_var" in published
    found = FAMILY.converted(card, published)
    assert not key_difference(own, found)
    assert list(found) == list(own)
    assert all(found[key] is published[mmdet_name(key)] for key in own)
    strange = FAMILY.converted(card, {**published, "mask_head.kernel_convs.0": torch.zeros(1)})
    assert "unexpected  kernel_convs.0" in key_difference(own, strange)


def test_new_classes_keep_everything_but_the_rows_of_the_scores(tmp_path: Path) -> None:
    old = small_card()
    network = small()
    base.write_state(network, tmp_path / "w.safetensors")
    wanted = LabelTable.classes(["cell", "square", "ring"])
    card, fresh = base.load_for_labels(
        FAMILY, old, {"w.safetensors": tmp_path / "w.safetensors"}, wanted
    )
    before, after = network.state_dict(), fresh.state_dict()
    assert all(torch.equal(before[k], v) for k, v in after.items() if not k.startswith("scores."))
    rows, trained = after["scores.weight"], before["scores.weight"]
    assert len(rows) == len(card.labels) == 3
    assert torch.equal(rows[1], trained[1])
    assert not any(torch.equal(rows[0], row) for row in trained)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["resnet50", "decoupled"])
def test_two_pictures_are_learnt_by_heart(variant: str, tmp_path: Path) -> None:
    cases = [picture(seed, 64) for seed in (1, 2)]
    card = small_card(variant, width=1.0, features=64, convs=3, grids=[16, 12, 8, 6, 4])
    iou, spare = learn_objects(FAMILY, card, cases, tmp_path / "a", steps=150)
    assert iou >= 0.75
    assert spare <= 1
    dealt = [shuffled(case) for case in cases]
    assert learn_objects(FAMILY, card, dealt, tmp_path / "b", steps=150)[0] < 0.5


def test_targets_of_a_patch_reach_the_cells() -> None:
    ids = torch.zeros(64, 64, dtype=torch.int64)
    ids[16:24, 40:48] = 9
    (level, *_) = cells_of(targets_of(ids, {9: 2}), SCALES, SMALL)
    assert level.cells.tolist() == [2 * 8 + 5]

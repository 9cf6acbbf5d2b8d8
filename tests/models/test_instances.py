"""The body of object networks: windows, views, pasting, and what counts as background."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from maskloop.core.geometry import Geometry
from maskloop.core.image import Image
from maskloop.core.job import Job
from maskloop.core.labels import LabelTable
from maskloop.models import instances, pasting
from maskloop.models.base import IGNORE, Batch
from maskloop.models.cards import ModelCard
from maskloop.models.instances import InstanceFamily, Targets, targets_of, unseen_share, view_of
from maskloop.models.objects import Found
from maskloop.models.pasting import View
from maskloop.ops.device import CPU, Device


class Bright(InstanceFamily):
    """Finds bright pieces: a network for tests that needs no training."""

    name = "bright"
    variants = ("one",)

    def find(
        self, network: nn.Module, view: View, *, card: ModelCard, device: Device
    ) -> list[Found]:
        from skimage.measure import label

        ids = label((view.picture[0, 0, : view.seen[0], : view.seen[1]] > 0.5).numpy())
        maps = torch.from_numpy(np.stack([ids == i for i in range(1, ids.max() + 1)] or [ids * 0]))
        full = functional.pad(
            maps.float(),
            (0, view.picture.shape[3] - view.seen[1], 0, view.picture.shape[2] - view.seen[0]),
        )
        regions = pasting.from_maps(full, view)
        return instances.listed(regions, [1] * len(full), [0.9] * len(full), card)

    def losses(
        self, network: nn.Module, images: Tensor, targets: list[Targets], *, card: ModelCard
    ) -> Tensor:
        assert images.shape[-1] % self.multiple == 0
        self.seen = targets
        return next(network.parameters()).sum()


def card(**told: object) -> ModelCard:
    return ModelCard(
        name="bright",
        title="bright",
        family="bright",
        task="instance",
        ndim=2,
        labels=LabelTable.classes(["cell"]),
        channels=1,
        parameters={"normalise": "unit", **told},
    )


def squares() -> tuple[Image, np.ndarray]:
    truth = np.zeros((150, 170), np.uint8)
    truth[20:60, 30:70] = 255
    truth[50:110, 100:160] = 255  # larger than the overlap of windows
    truth[100:106, 60:66] = 255
    truth[0:8, 0:8] = 255
    return Image(truth, Geometry.pixels(truth.shape)), truth > 0


@pytest.mark.parametrize("told", [{"window": 0}, {"window": 64}, {"window": 80, "overlap": 0.5}])
def test_windows_change_nothing(told: dict[str, float]) -> None:
    image, truth = squares()
    found = Bright().segment(nn.Linear(1, 1), image, card=card(**told), device=CPU, job=Job())
    assert len(found.labels) == 4
    np.testing.assert_array_equal(found.ids > 0, truth)


@pytest.mark.parametrize("told", [{"enlarge": 2.0}, {"shortest": 300}, {"squashed": [320, 320]}])
def test_another_size_comes_back_to_the_images_grid(told: dict[str, object]) -> None:
    image, truth = squares()
    found = Bright().segment(nn.Linear(1, 1), image, card=card(**told), device=CPU, job=Job())
    assert found.ids.shape == truth.shape
    assert len(found.labels) == 4
    assert np.count_nonzero((found.ids > 0) != truth) <= 0.1 * truth.sum()
    for axis in (0, 1):  # nothing has moved
        assert np.nonzero(found.ids)[axis].mean() == pytest.approx(
            np.nonzero(truth)[axis].mean(), abs=0.3
        )


def test_small_objects_are_dropped_where_the_card_says_so() -> None:
    image, _ = squares()
    found = Bright().segment(
        nn.Linear(1, 1), image, card=card(least_area=40), device=CPU, job=Job()
    )
    assert len(found.labels) == 3


@pytest.mark.parametrize("seen", [(64, 64), (50, 61)])
@pytest.mark.parametrize("size", [(64, 64), (50, 61), (131, 97)])
def test_maps_are_pasted_as_whole_pictures_would_be(
    seen: tuple[int, int], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    maps = functional.interpolate(torch.rand(6, 1, 5, 5), (16, 16), mode="bicubic")[:, 0]
    view = View(torch.zeros(1, 1, 64, 64), seen, size)
    found = pasting.from_maps(maps, view)
    at = [
        ((torch.arange(n) + 0.5) * s / n) * 16 / 64 - 0.5 for n, s in zip(size, seen, strict=True)
    ]
    for one, part in zip(maps, found, strict=True):
        # The same by torch's own sampler, everywhere.
        grid = torch.stack(torch.meshgrid(*[(a + 0.5) / 8 - 1 for a in at], indexing="ij"), -1)
        whole = functional.grid_sample(
            one[None, None], grid.flip(-1)[None], padding_mode="border", align_corners=False
        )[0, 0]
        pasted = np.zeros(size, bool)
        if part is not None:
            pasted[part[0]] = part[1]
        unsure = (whole - 0.5).abs() < 1e-5
        assert not ((whole > 0.5).numpy() != pasted)[~unsure.numpy()].any()


def test_nothing_lies_outside_a_predicted_box() -> None:
    view = View(torch.zeros(1, 1, 32, 32), (32, 32), (64, 64))
    boxes = torch.tensor([[4.0, 8, 12, 20], [40.0, 40, 44, 44]])
    found = pasting.from_maps(torch.ones(2, 8, 8), view, boxes=boxes)
    assert found[0] is not None
    assert found[0][0] == (slice(16, 40), slice(8, 24))
    assert found[1] is None


def test_boxes_enclose_their_objects_exactly() -> None:
    ids = torch.zeros(10, 12, dtype=torch.int64)
    ids[2:5, 3:9] = 4
    ids[7, 7] = 9
    ids[9, 0] = 11  # of no known class
    ids[0] = IGNORE
    found = targets_of(ids, {4: 2, 9: 1})
    assert found.boxes.tolist() == [[3, 2, 9, 5], [7, 7, 8, 8]]
    assert found.labels.tolist() == [2, 1]
    assert found.masks.sum((1, 2)).tolist() == [18, 1]
    assert found.unseen.sum() == 12
    empty = targets_of(ids, {})
    assert empty.boxes.shape == (0, 4)
    assert empty.masks.shape == (0, 10, 12)


def test_unseen_share_is_the_mean_in_the_box() -> None:
    unseen = torch.zeros(10, 10, dtype=torch.bool)
    unseen[:, 5:] = True
    boxes = torch.tensor([[0.0, 0, 5, 5], [5, 0, 10, 10], [0, 0, 10, 10], [4, 4, 4, 4]])
    assert unseen_share(boxes, unseen).tolist() == [0, 1, 0.5, 0]


def test_pictures_nobody_looked_at_are_left_out_of_a_batch() -> None:
    family, network = Bright(), nn.Linear(1, 1)
    ids = torch.zeros(3, 40, 40, dtype=torch.int64)
    ids[1] = IGNORE
    ids[2, 4:8, 4:8] = 3
    batch = Batch(torch.zeros(3, 1, 40, 40), ids, [{}, {}, {3: 1}])
    family.train_step(network, batch, card=card())
    assert [len(one) for one in family.seen] == [0, 1]
    assert family.seen[0].unseen.shape == (64, 64)
    assert family.seen[0].unseen.sum() == 64 * 64 - 40 * 40
    loss = family.train_step(
        network, dataclasses.replace(batch, ids=torch.full_like(ids, IGNORE)), card=card()
    )
    assert loss.requires_grad
    assert float(loss.detach()) == 0


def test_a_view_is_padded_at_its_far_ends() -> None:
    data = np.ones((1, 50, 70), np.float32)
    view = view_of(data, card(enlarge=1.5), 32, CPU)
    assert view.seen == (75, 105)
    assert view.size == (50, 70)
    assert view.picture.shape == (1, 1, 96, 128)
    assert view.picture[0, 0, 74, 104] == 1
    assert view.picture[0, 0, 75:].sum() == 0
    torch.testing.assert_close(
        view.on_image(torch.tensor([[0.0, 0, 105, 75]])), torch.tensor([[0.0, 0, 70, 50]])
    )

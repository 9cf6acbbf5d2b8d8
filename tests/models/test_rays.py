"""Rays: what they keep of a shape, where they end, and that all at once is one by one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from skimage.draw import polygon2mask
from torch import Tensor

from maskloop.models import rays
from maskloop.models.onestage import middles

Region = npt.NDArray[np.bool_]


def grid(size: int = 64) -> tuple[Region, Region]:
    y, x = np.mgrid[:size, :size] + 0.5
    return y, x


def disc(radius: float = 20.0, cy: float = 32.0, cx: float = 32.0, size: int = 64) -> Region:
    y, x = grid(size)
    return np.hypot(y - cy, x - cx) < radius


def square(side: int = 32) -> Region:
    found = np.zeros((64, 64), bool)
    found[10 : 10 + side, 12 : 12 + side] = True
    return found


def crescent() -> Region:
    return disc(24) & ~disc(20, cx=40)


def cast(region: Region, point: tuple[float, float], **told: int) -> Tensor:
    """Return the rays of one object from x, y."""
    mask = torch.from_numpy(region)[None]
    unseen = torch.zeros_like(mask[0])
    lengths, _ = rays.cast(mask, torch.zeros(1).long(), torch.tensor([point]), unseen, **told)
    return lengths[0]


@pytest.mark.parametrize("region", [disc(12), disc(20), disc(25), square(20), square(32)])
def test_36_rays_keep_a_disc_and_a_square(region: Region) -> None:
    assert rays.held(region) >= 0.98


def test_36_rays_keep_little_of_a_crescent_or_a_ring() -> None:
    assert rays.held(crescent()) < 0.9
    assert rays.held(disc(24) & ~disc(12)) < 0.9


def test_fewer_rays_keep_less() -> None:
    assert rays.held(square(32)) >= 0.98
    assert rays.held(square(32), count=10) < 0.98


def test_rays_go_from_the_y_axis_towards_x_in_steps_of_ten_degrees() -> None:
    found = cast(disc(6, cy=50, cx=20) | square(4), (20.0, 30.0))
    assert int(found.argmax()) == 0  # down, towards larger y
    toward = rays.directions()
    assert toward.shape == (36, 2)
    assert toward[0].tolist() == [0, 1]
    assert toward[9].tolist() == pytest.approx([1, 0], abs=1e-6)
    assert float(toward[1, 0]) == pytest.approx(np.sin(np.pi / 18))


def one_by_one(
    region: Region, point: tuple[float, float], *, is_first: bool = False
) -> list[float]:
    """Return where each ray leaves the object, walking in steps of a 50th of a pixel."""
    found = []
    for k in range(36):
        dx, dy = np.sin(k * np.pi / 18), np.cos(k * np.pi / 18)
        last = 1e-6
        for d in np.arange(0.01, 95, 0.02):
            x, y = int(np.floor(point[0] + d * dx)), int(np.floor(point[1] + d * dy))
            is_in = 0 <= y < region.shape[0] and 0 <= x < region.shape[1] and region[y, x]
            if is_in:
                last = d
            elif is_first:
                break
        found.append(last)
    return found


@pytest.mark.parametrize("point", [(32.0, 32.0), (20.5, 40.25), (12.0, 32.0)])
def test_rays_cast_all_at_once_end_where_a_walker_leaves_the_object(
    point: tuple[float, float],
) -> None:
    for region in (disc(), crescent()):
        found, walked = cast(region, point).numpy(), np.array(one_by_one(region, point))
        # The walker goes to the corners of pixels; a ray along an edge may take either side.
        assert np.median(np.abs(found - walked)) < 0.3
        assert np.mean(np.abs(found - walked) > 0.8) <= 0.06


def test_a_ray_ends_at_the_last_way_out_not_the_first() -> None:
    region = disc(5, cy=10, cx=32) | disc(5, cy=50, cx=32)
    found = cast(region, (32.0, 10.0))
    assert float(found[0]) == pytest.approx(45, abs=0.7)
    assert one_by_one(region, (32.0, 10.0), is_first=True)[0] == pytest.approx(5, abs=0.7)


def test_rays_of_many_points_and_objects_are_those_of_each() -> None:
    masks = torch.from_numpy(np.stack([disc(8), square(20), crescent()]))
    which = torch.arange(300) % 3
    points = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) * 60 + 2
    unseen = torch.zeros_like(masks[0])
    found, known = rays.cast(masks, which, points, unseen)
    assert found.shape == (300, 36)
    assert known.all()
    assert (found > 0).all()
    for n in (0, 1, 2, 256, 299):
        x, y = points[n].tolist()
        alone = cast(masks[int(which[n])].numpy(), (x, y))
        assert (found[n] - alone).abs().median() < 0.5


def test_a_ray_that_ends_where_nobody_looked_is_not_known() -> None:
    mask = torch.from_numpy(disc(20))[None].clone()
    unseen = torch.zeros_like(mask[0])
    unseen[:, 40:] = True
    mask[0, :, 40:] = False
    _, known = rays.cast(mask, torch.zeros(1).long(), torch.tensor([[32.0, 32.0]]), unseen)
    assert not known[0, 9]  # to the right
    assert known[0, 27]
    assert known[0, 0]


def test_centerness_is_one_at_the_middle_of_a_disc_and_falls_off_it() -> None:
    middle, off = cast(disc(20), (32.0, 32.0)), cast(disc(20), (32.0, 42.0))
    found = rays.centerness(torch.stack([middle, off]))
    assert float(found[0]) == pytest.approx(1, abs=0.03)
    assert float(found[1]) == pytest.approx(np.sqrt(10 / 30), abs=0.03)
    # Of a square's middle, four sides alone say 1; the rays to its corners are longer.
    square_on = cast(square(32), (28.0, 26.0))
    expected = np.sqrt(np.cos(np.radians(40)))
    assert float(rays.centerness(square_on[None])) == pytest.approx(expected, abs=0.03)
    assert float(rays.centerness(square_on[None, ::9])) == pytest.approx(1, abs=0.03)


def test_polar_iou_is_nought_for_equal_rays_and_log_two_for_double() -> None:
    truth = torch.rand(5, 36) * 20 + 1
    known = torch.ones_like(truth, dtype=torch.bool)
    assert rays.polar_iou_losses(truth, truth, known).abs().max() < 1e-6
    for found in (truth * 2, truth / 2):
        losses = rays.polar_iou_losses(found, truth, known)
        assert losses.tolist() == pytest.approx([np.log(2)] * 5, rel=1e-5)
    # Taken ray by ray, smooth L1 grows with the object: it is no loss of this kind.
    plain = torch.nn.functional.smooth_l1_loss(truth * 2, truth, reduction="none").mean(1)
    assert (plain - np.log(2)).abs().min() > 1


def test_polar_iou_is_one_ratio_of_sums_and_heeds_known_rays_only() -> None:
    truth, found = torch.ones(1, 36), torch.ones(1, 36)
    found[0, 0] = 37.0
    known = torch.ones(1, 36, dtype=torch.bool)
    assert float(rays.polar_iou_losses(found, truth, known)) == pytest.approx(np.log(72 / 36))
    by_ray = (torch.maximum(found, truth) / torch.minimum(found, truth)).log().mean()
    assert float(by_ray) < 0.2
    known[0, 0] = False
    assert float(rays.polar_iou_losses(found, truth, known)) == pytest.approx(0, abs=1e-6)


def test_filling_is_what_a_rasteriser_of_polygons_does() -> None:
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.uniform(20, 44, (6, 2)))
    lengths = torch.from_numpy(rng.uniform(6, 18, (6, 36)))
    for ratio in ((1.0, 1.0), (2.0, 1.5)):
        size = (int(64 * ratio[0]), int(64 * ratio[1]))
        found = rays.filled(points, lengths, size, ratio=ratio)
        ends = points[:, None] + lengths[:, :, None] * rays.directions().double()
        for part, ring in zip(found, ends.numpy(), strict=True):
            assert part is not None
            whole = np.zeros(size, bool)
            whole[part[0]] = part[1]
            # Its points are the middles of pixels; ours are pixels' edges.
            truth = polygon2mask(size, ring[:, ::-1] * ratio - 0.5)
            assert np.count_nonzero(whole != truth) <= 0.01 * np.count_nonzero(truth)


def test_outlines_beyond_the_picture_are_cut_or_left_out() -> None:
    points = torch.tensor([[2.0, 2.0], [-40.0, 5.0]])
    cut, none = rays.filled(points, torch.full((2, 36), 10.0), (20, 30))
    assert none is None
    assert cut is not None
    assert cut[0] == (slice(0, 12), slice(0, 12))


def test_boxes_go_round_the_ends_of_rays() -> None:
    box = rays.boxes_round(torch.tensor([[30.0, 20.0]]), torch.full((1, 36), 8.0))
    assert box.tolist()[0] == pytest.approx([22, 12, 38, 28], abs=1e-4)


def test_the_largest_piece_stands_for_an_object_in_pieces() -> None:
    region = disc(10, cx=20, cy=20) | disc(3, cx=50, cy=50)
    np.testing.assert_array_equal(rays.largest(region), disc(10, cx=20, cy=20))
    (middle,) = middles(torch.from_numpy(rays.largest(region))[None])
    assert middle.tolist() == pytest.approx([20, 20], abs=0.1)

"""Augmentation moves image and labels together, and only in ways that were allowed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from maskloop.training.augment import KINDS, Augmentation
from maskloop.training.patches import IGNORE, Patches

# Ten pixels of the U-Net's elastic grid are more than the sides of these small crops allow.
NO_MIRROR = frozenset(KINDS - {"mirror_x", "mirror_y", "mirror_z", "elastic_grid"})


def _ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> Patches:
    axes = [torch.arange(n, dtype=torch.float32) - c for n, c in zip(shape, centre, strict=True)]
    gap = torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0)
    ids = (gap < radius).long()
    return Patches(ids[None, None].float(), ids[None], [{}])


@pytest.mark.parametrize("shape", [(20, 24, 28), (40, 44)])
@pytest.mark.parametrize("seed", range(4))
def test_labels_follow_their_image(shape: tuple[int, ...], seed: int) -> None:
    geometric = frozenset(KINDS - {"gamma", "noise", "blur"})
    augment = Augmentation(geometric)
    reach = augment.reach(shape)
    patches = _ball(reach, tuple(n * 0.45 for n in reach), 6)
    found = augment(patches, shape, np.random.default_rng(seed))
    inside = found.ids[0] != IGNORE
    ids, image = (found.ids[0] == 1) & inside, (found.images[0, 0] > 0.5) & inside
    dice = 2 * (ids & image).sum() / (ids.sum() + image.sum())
    assert found.ids[0].shape == shape
    assert dice > 0.93


def test_nothing_allowed_changes_nothing() -> None:
    patches = _ball((16, 16, 16), (5, 6, 7), 4)
    augment = Augmentation(frozenset())
    found = augment(patches, (16, 16, 16), np.random.default_rng(0))
    assert augment.reach((16, 16, 16)) == (16, 16, 16)
    assert torch.equal(found.images, patches.images)
    assert torch.equal(found.ids, patches.ids)


def test_a_liver_never_changes_side_unless_mirrors_are_allowed() -> None:
    augment = Augmentation(NO_MIRROR)
    shape = (16, 32, 32)
    reach = augment.reach(shape)
    right = _ball(reach, (reach[0] / 2, reach[1] / 2, reach[2] * 0.25), 4)
    both = Augmentation(frozenset(KINDS))
    sides, mirrored = set(), set()
    for seed in range(30):
        for maker, seen in ((augment, sides), (both, mirrored)):
            ids = maker(right, shape, np.random.default_rng(seed)).ids[0] == 1
            if ids.any():
                seen.add(bool(torch.nonzero(ids)[:, 2].float().mean() > 15.5))
    assert sides == {False}
    assert mirrored == {False, True}


def test_only_labels_that_were_there_come_out() -> None:
    augment = Augmentation(frozenset(KINDS))
    reach = augment.reach((20, 20, 20))
    ids = torch.zeros(reach, dtype=torch.long)
    ids[4:10], ids[10:] = 70_000, 3
    patches = Patches(torch.rand(1, 1, *reach), ids[None], [{}])
    for seed in range(10):
        found = augment(patches, (20, 20, 20), np.random.default_rng(seed))
        assert set(found.ids.unique().tolist()) <= {IGNORE, 0, 3, 70_000}


def test_the_same_state_gives_the_same_result() -> None:
    augment = Augmentation(frozenset(KINDS), (3.0, 1.0, 1.0))
    patches = _ball(augment.reach((8, 24, 24)), (4, 12, 12), 5)
    one, two = (augment(patches, (8, 24, 24), np.random.default_rng([5, 9])) for _ in range(2))
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.ids, two.ids)


def test_turning_is_done_in_millimetres() -> None:
    """A ball in mm, flat in voxels, stays that ball when turned."""
    augment = Augmentation(frozenset({"rotate"}), (3.0, 1.0, 1.0))
    shape = (16, 48, 48)
    reach = augment.reach(shape)
    axes = [
        (torch.arange(n, dtype=torch.float32) - (n - 1) / 2) * s
        for n, s in zip(reach, (3.0, 1.0, 1.0), strict=True)
    ]
    ids = (torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0) < 14).long()
    patches = Patches(ids[None, None].float(), ids[None], [{}])
    for seed in range(8):
        turned = augment(patches, shape, np.random.default_rng(seed)).ids[0]
        start = [(r - n) // 2 for r, n in zip(reach, shape, strict=True)]
        plain = ids[tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))]
        dice = 2 * ((turned == 1) & (plain == 1)).sum() / ((turned == 1).sum() + plain.sum())
        assert dice > 0.9


def _only_bent(shape: tuple[int, int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where each pixel of a crop came from, as row and column, and which are known."""
    augment = Augmentation(frozenset({"elastic_grid"}))
    reach = augment.reach(shape)
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in reach]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    patches = Patches(places[None], torch.ones(1, *reach, dtype=torch.long), [{}])
    found = augment(patches, shape, np.random.default_rng(seed))
    return found.images[0], found.ids[0] == 1


def test_the_elastic_grid_bends_by_the_ten_pixels_of_its_paper() -> None:
    """The shifts at the corners, edges and middle of the crop are normal, 10 pixels wide."""
    shape = (180, 196)
    middle = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in shape]
    plain = torch.stack(torch.meshgrid(*middle, indexing="ij"))
    shifts = []
    for seed in range(60):
        came, known = _only_bent(shape, seed)
        shift = came - plain
        for row in (0, 90, 179):
            for column in (0, 98, 195):
                if known[row, column]:
                    shifts.append(shift[:, row, column])
    found = torch.stack(shifts)
    assert len(found) > 450
    assert abs(float(found.mean())) < 1
    assert 9 < float(found.std()) < 11


def _kink(seed: int) -> float:
    """Return the turn of the shifts at the middle node over that elsewhere along a column."""
    came, _ = _only_bent((181, 181), seed)
    column = came[0, :, 90]
    turn = (column[2:] - 2 * column[1:-1] + column[:-2]).abs()
    return float(turn[89] / turn.mean())


def test_the_elastic_grid_is_bicubic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cubics meet smoothly at the middle node; straight lines would meet there in a kink."""
    assert _kink(3) < 5
    real = F.interpolate
    monkeypatch.setattr(F, "interpolate", lambda *a, **k: real(*a, **{**k, "mode": "bilinear"}))
    assert _kink(3) > 20


def test_a_volume_is_bent_on_a_grid_of_its_own_steps() -> None:
    """Twice the step along z: half as many voxels of shift."""
    augment = Augmentation(frozenset({"elastic_grid"}), (2.0, 1.0, 1.0))
    shape, spread = (30, 40, 40), []
    reach = augment.reach(shape)
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in reach]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    patches = Patches(places[None], torch.ones(1, *reach, dtype=torch.long), [{}])
    for seed in range(40):
        came = augment(patches, shape, np.random.default_rng(seed)).images[0]
        spread.append(came[:, 15, 20, 20])
    z, y, x = torch.stack(spread).std(dim=0).tolist()
    assert z == pytest.approx(5, rel=0.35)
    assert y == pytest.approx(10, rel=0.35)
    assert x == pytest.approx(10, rel=0.35)

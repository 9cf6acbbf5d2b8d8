"""Regions that two masks see differently, against SciPy's connected components."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from maskloop.core.errors import GeometryError, InputError
from maskloop.core.geometry import Geometry
from maskloop.core.labels import LabelTable
from maskloop.core.mask import Mask
from maskloop.ops.differences import AGREE, ONLY_A, ONLY_B, OTHER, agreement, differences

TABLE = LabelTable.classes(["liver", "tumour", "vessel"])


def masks(shape: tuple[int, ...], seed: int = 0) -> tuple[Mask, Mask]:
    """Return two blobby maps that mostly agree."""
    rng = np.random.default_rng(seed)
    grid = Geometry.pixels(shape) if len(shape) == 2 else Geometry.regular(shape, (3, 1, 2))
    field = ndimage.gaussian_filter(rng.normal(size=(4, *shape)), (0, *[2] * len(shape)))
    other = field + 0.3 * ndimage.gaussian_filter(rng.normal(size=field.shape), 1)
    return tuple(Mask(f.argmax(0).astype(np.uint8), grid, TABLE) for f in (field, other))  # type: ignore[return-value]


def oracle(a: np.ndarray, b: np.ndarray) -> list[tuple[int, int, int, tuple[slice, ...]]]:
    """Return class in A, class in B, voxels and box of each region."""
    found = []
    whole = np.ones((3,) * a.ndim)
    for x in range(4):
        for y in range(4):
            if x == y:
                continue
            pieces, _ = ndimage.label((a == x) & (b == y), whole)
            for number, box in enumerate(ndimage.find_objects(pieces), start=1):
                found.append((x, y, int((pieces == number).sum()), box))
    return found


@pytest.mark.parametrize("shape", [(60, 50), (12, 30, 26), (1, 20, 20)])
def test_regions_are_those_of_scipy(shape: tuple[int, ...]) -> None:
    a, b = masks(shape)
    found = differences(a, b, most=10**6)
    assert found.left_out_voxels == 0
    assert found.total == len(found.regions) > 10
    ours = [(one.a, one.b, one.voxels, one.box) for one in found.regions]
    assert sorted(ours, key=repr) == sorted(oracle(a.data, b.data), key=repr)
    for one in found.regions:
        assert (a.data[one.place], b.data[one.place]) == (one.a, one.b)
        assert all(p.start <= at < p.stop for p, at in zip(one.box, one.place, strict=True))
        assert one.size == one.voxels * a.geometry.voxel_size


def test_the_largest_come_first_and_the_rest_is_counted() -> None:
    a, b = masks((60, 50))
    whole = differences(a, b, most=10**6)
    sizes = [one.voxels for one in whole.regions]
    assert sizes == sorted(sizes, reverse=True)
    assert [one.number for one in whole.regions] == list(range(1, len(sizes) + 1))
    few = differences(a, b, smallest=5, most=3)
    assert few.regions == whole.regions[:3]
    assert few.total == whole.total
    assert few.left_out_voxels == sum(sizes[3:])
    large = differences(a, b, smallest=5)
    assert [one.voxels for one in large.regions] == [n for n in sizes if n >= 5]
    assert (a.data != b.data).sum() == sum(sizes)


def test_equal_masks_have_no_differences() -> None:
    a, _ = masks((20, 20))
    assert differences(a, a) == differences(a, a)
    assert differences(a, a).regions == ()
    assert set(np.unique(agreement(a, a))) <= {0, AGREE}


def test_every_voxel_is_alike_of_one_alone_or_of_another_class() -> None:
    a, b = masks((8, 20, 24), seed=1)
    x, y = a.data, b.data
    kinds = agreement(a, b)
    assert ((kinds == AGREE) == ((x == y) & (x > 0))).all()
    assert ((kinds == ONLY_A) == ((x > 0) & (y == 0))).all()
    assert ((kinds == ONLY_B) == ((x == 0) & (y > 0))).all()
    assert ((kinds == OTHER) == ((x > 0) & (y > 0) & (x != y))).all()
    assert set(np.unique(kinds)) == {0, AGREE, ONLY_A, ONLY_B, OTHER}


def test_other_grids_and_series_are_refused() -> None:
    a, _ = masks((20, 20))
    moved = Mask(a.data, Geometry((20, 20), np.diag([2.0, 2.0, 1.0]), "px"), TABLE)
    with pytest.raises(GeometryError, match="resample one of them"):
        differences(a, moved)
    film = Mask(np.stack([a.data, a.data]), a.geometry, TABLE)
    with pytest.raises(InputError, match="one frame at a time"):
        agreement(film, film)

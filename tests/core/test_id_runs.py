"""Counting ids eight bytes at a time counts what numpy counts."""

from __future__ import annotations

import numpy as np
import pytest

from maskloop.core import mask as masks
from maskloop.core.errors import InputError
from maskloop.formats.base import voxel_counts


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16, np.uint32, np.uint64])
@pytest.mark.parametrize("shape", [(1,), (5, 7), (1, 1, 1), (3, 5, 7), (2, 3, 8, 16), (4, 3, 3)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("part", [1 << 22, 64])
def test_ids_and_counts_equal_numpys(dtype, shape, order, part, monkeypatch):
    monkeypatch.setattr(masks, "_PART", part)
    random = np.random.default_rng(0)
    top = 2 if dtype is np.bool_ else 250
    ids = random.integers(0, top, shape) * (random.random(shape) < 0.3)
    ids = np.asarray(ids, dtype, order=order)
    values, counts = np.unique(ids, return_counts=True)
    expected = {int(i): int(n) for i, n in zip(values, counts, strict=True) if i}
    assert masks.present_ids(ids) == sorted(expected)
    assert voxel_counts(ids) == expected


def test_whole_numbers_that_no_integer_type_holds_are_refused():
    with pytest.raises(InputError, match=r"expected label ids below 2\*\*64, got 1e\+30"):
        masks.as_ids(np.full(3, 1e30))

"""Samples whose objects overlap, settled into one mask."""

from __future__ import annotations

import tracemalloc

import numpy as np

from maskloop.core.dataset import Item, Sample
from maskloop.core.geometry import Geometry
from maskloop.core.labels import Label, LabelTable
from maskloop.core.mask import Mask

HIGH = 2**31 - 1


def drawn(number: int, part: slice) -> Mask:
    ids = np.zeros((1, 8), np.uint32)
    ids[0, part] = number
    row = Label(number, f"cell {number}", category="cell", is_thing=True)
    return Mask(ids, Geometry.pixels(ids.shape), LabelTable([row]))


def test_the_smaller_object_lies_over_the_larger_one() -> None:
    sample = Sample(Item("a"), (drawn(1, slice(0, 5)), drawn(2, slice(4, 7))))
    mask, lost = sample.settled()
    assert mask.data.tolist() == [[1, 1, 1, 1, 2, 2, 2, 0]]
    assert lost == 1


def test_overlaps_of_high_ids_are_settled_in_little_memory() -> None:
    sample = Sample(Item("a"), (drawn(HIGH, slice(0, 5)), drawn(2, slice(4, 7))))
    tracemalloc.start()
    mask, lost = sample.settled()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert mask.data.tolist() == [[HIGH] * 4 + [2, 2, 2, 0]]
    assert lost == 1
    assert peak < 1 << 24

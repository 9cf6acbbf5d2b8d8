"""The decoder of `validate`, against pycocotools."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as api

from maskloop.datasets import proofs_runs


@given(
    st.lists(
        st.tuples(
            st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0, 1)
        ),
        min_size=1,
        max_size=12,
    )
)
def test_many_masks_decoded_together_are_those_of_pycocotools(sizes):
    masks = [
        np.random.default_rng(seed).random((height, width)) < share
        for height, width, seed, share in sizes
    ]
    packed = [api.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    lengths, damaged = proofs_runs.uncompressed([one["counts"] for one in packed])
    found = proofs_runs.measured(lengths, np.array([mask.shape[0] for mask in masks]))
    assert damaged == []
    assert not found.has_negative.any()
    for number, (mask, one) in enumerate(zip(masks, packed, strict=True)):
        assert found.areas[number] == api.area(one)
        assert found.totals[number] == mask.size
        drawn = proofs_runs.region(lengths.of(number), mask.shape[0])
        if not mask.any():
            assert drawn is None
            continue
        assert found.boxes[number].tolist() == api.toBbox(one).tolist()
        box, region = drawn
        assert region.shape == tuple(part.stop - part.start for part in box)
        whole = np.zeros(mask.shape, bool)
        whole[box] = region
        assert np.array_equal(whole, mask)


def test_damaged_counts_are_named_and_leave_the_others_whole():
    mask = np.zeros((50, 60), np.uint8, order="F")
    mask[3:40, 7:50] = 1
    good = api.encode(mask)["counts"]
    texts = [b"", good, b"b'x'", b"ooooooooo0", good, b"o", b"caf\xc3\xa9"]
    lengths, damaged = proofs_runs.uncompressed(texts)
    assert damaged == [0, 2, 3, 5, 6]
    found = proofs_runs.measured(lengths, np.full(len(texts), 50))
    assert found.areas.tolist() == [0, 37 * 43, 0, 0, 37 * 43, 0, 0]


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_no_bytes_break_the_decoder(texts):
    lengths, damaged = proofs_runs.uncompressed(texts)
    assert lengths.firsts.size == len(texts) + 1
    found = proofs_runs.measured(lengths, np.full(len(texts), 7))
    assert all(found.areas[number] == 0 for number in damaged)
